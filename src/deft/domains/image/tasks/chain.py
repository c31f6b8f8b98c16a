"""Tasks one after another, by their names: `deblur-gaussian+inpaint` blurs, and then hides a rectangle.

A task of that name is made when it is asked for: its operator is `then @ first` (`deft.operator.compose`), its settings
are those of both, and its noise, which comes last, is the last one's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from deft.core.likelihood import Likelihood
from deft.core.random import BatchNoise, Noise
from deft.domains.image.tasks.base import ImageTask
from deft.errors import ContractError, InputError, unknown
from deft.likelihood.task import Drawn, OperatorTask, RefusingNoise
from deft.operator import Operator
from deft.values import quoted

SIGN = "+"


@dataclass(frozen=True)
class Chain(ImageTask):
    """y = A(B(x)) + sigma_y n, B of the task `kinds[0]` and A of `kinds[1]`.

    settings_of: for each of the two, (setting of the chain, the same by its own name).
    """

    kinds: ClassVar[tuple[type[ImageTask], type[ImageTask]]]
    settings_of: ClassVar[tuple[Mapping[str, str], Mapping[str, str]]]

    def __post_init__(self) -> None:
        OperatorTask.__post_init__(self)
        for i, names in enumerate(self.settings_of):
            part = self.part(i)
            for mine, own in names.items():  # a file that was read into numbers, say
                self._set(mine, getattr(part, own))

    def part(self, i: int) -> ImageTask:
        """The first task, or the second, with its settings."""
        options = {own: getattr(self, mine) for mine, own in self.settings_of[i].items()}
        return self.kinds[i](**options, **({"sigma_y": self.sigma_y} if i else {}))

    def likelihood(self, operator: Operator) -> Likelihood:
        return self.part(1).likelihood(operator)

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        mine = {own: name for name, own in self.settings_of[1].items()}
        return [(words, {mine[k]: v for k, v in options.items()}) for words, options in self.part(1).readings(y_shape)]

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        first = self.part(0).operator(x, noise)
        return self.part(1).operator(_measured(first, x), noise) @ first


@dataclass(frozen=True)
class DrawnChain(Drawn, Chain):
    """A chain of which one task draws something for each image."""

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return self.build_for(self.draw(x.shape[1:], noise).to(x.device), x.shape[1:])

    def _parts(self) -> tuple[ImageTask, ImageTask]:
        return self.part(0), self.part(1)

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        first, then = self._parts()
        if isinstance(first, Drawn):
            return first.draw(shape, noise)
        x = torch.zeros(1, *shape)
        return cast(Drawn, then).draw(_measured(first.operator(x, _refusing(first)), x).shape[1:], noise)

    def build(self, drawn: Tensor) -> Operator:
        raise InputError(f"{self.name} needs the shape of an image too: call build_for(drawn, event_shape)")

    def build_for(self, drawn: Tensor, event_shape: Sequence[int]) -> Operator:
        first, then = self._parts()
        x = torch.zeros(1, *event_shape, device=drawn.device)
        if isinstance(first, Drawn):
            inner = first.build_for(drawn, event_shape)
            return then.operator(_measured(inner[:1], x), _refusing(then)) @ inner
        inner = first.operator(x, _refusing(first)).to(x.device)
        return cast(Drawn, then).build_for(drawn, _measured(inner, x).shape[1:]) @ inner


def _refusing(task: ImageTask) -> BatchNoise:
    return cast(BatchNoise, RefusingNoise(task.name))


def _measured(operator: Operator, x: Tensor) -> Tensor:
    """Zeros of the shape that it measures, for the next task."""
    with torch.no_grad():
        z = torch.zeros_like(operator.to(x.device)(torch.zeros_like(x)))
    if z.ndim != x.ndim:
        raise ContractError(
            f"the first one does not fit: it makes {tuple(z.shape)}, no image [B, C, H, W]: name it last"
        )
    return z


@functools.cache
def chain(first: type[ImageTask], then: type[ImageTask]) -> type[ImageTask]:
    """The task of `first` and then `then`.

    Raises:
        InputError: both draw something for each image; the first has a likelihood of its own (photon counts).

    >>> import deft, torch
    >>> task = chain(deft.tasks.SuperResolution, deft.tasks.RandomPixels)(factor=2, seen=0.5)
    >>> task.name, task.observe(torch.zeros(1, 1, 32, 32), deft.Noise(0, 1)).y.shape
    ('sr4+inpaint-random', torch.Size([1, 1, 16, 16]))
    """
    name = f"{first.name}{SIGN}{then.name}"
    if first.drawn and then.drawn:
        raise InputError(
            f"the task {name} draws two things for each image, {first.drawn} and {then.drawn}, and a measurement file"
            " holds one: compose the operators in Python (A @ B), or fix one of them"
        )
    own = next(c for c in first.__mro__ if "likelihood" in vars(c))
    if own not in (OperatorTask, Chain):
        raise InputError(f"the task {first.name} has noise of its own, which comes last: name it last, not in {name}")
    made: list[tuple[str, Any, Any]] = []
    names: list[dict[str, str]] = []
    for kind in (first, then):
        taken = {n for n, _, _ in made}
        prefix = kind.name.replace("-", "_").replace(SIGN, "_")
        renamed = {f"{prefix}_{f.name}" if f.name in taken else f.name: f for f in fields(kind) if f.name != "sigma_y"}
        made += [(mine, Any, _copied(f)) for mine, f in renamed.items()]
        names.append({mine: f.name for mine, f in renamed.items()})
    mine = [{own: name for name, own in n.items()} for n in names]
    default = next(f.default for f in fields(then) if f.name == "sigma_y")
    both = tuple(zip((first, then), mine, strict=True))
    space: dict[str, Any] = {
        "__doc__": f"`{first.name}`, and then `{then.name}`.",
        "kinds": (first, then),
        "settings_of": tuple(names),
        "name": name,
        "title": f"{first.title}, then {then.title}",
        "about": f"{first.about}; then {then.about}",
        "feature_channels": first.feature_channels * then.feature_channels,
        "drawn": first.drawn or then.drawn,
        "prior": first.prior,
        "pictures": first.pictures and then.pictures,
        "convention": "; then ".join(c for c in (first.convention, then.convention) if c),
        "conventions": tuple(n[k] for kind, n in both for k in kind.conventions),
        "switches": tuple(n[k] for kind, n in both for k in kind.switches),
        "choices": {n[k]: v for kind, n in both for k, v in kind.choices.items()},
    }
    base = DrawnChain if space["drawn"] else Chain
    noise = [("sigma_y", float, field(default=default))]
    space["__module__"] = __name__
    title = f"{first.__name__}Then{then.__name__}"
    return make_dataclass(title, [*noise, *made], bases=(base,), namespace=space, frozen=True)


def _copied(f: Field[Any]) -> Any:
    if f.default_factory is not MISSING:
        return field(default_factory=f.default_factory, hash=f.hash)
    return field(default=f.default, hash=f.hash)


class TaskTable(dict[str, type[ImageTask]]):
    """Name -> class of a task; a name A+B is one that is made of two, and not among those that are listed.

    >>> from deft.domains.image.tasks import TASKS
    >>> TASKS["deblur-gaussian+inpaint"].title, "deblur-gaussian+inpaint" in TASKS, "blur" in TASKS
    ('Gaussian deblurring, then fill a hole', True, False)
    """

    def __missing__(self, name: str) -> type[ImageTask]:
        if not isinstance(name, str) or SIGN not in name:
            raise KeyError(name)
        first, _, then = (part.strip() for part in name.rpartition(SIGN))
        if not first or not then:
            raise InputError(f"the task {quoted(name)} lacks one of its two parts: expected A+B, first A and then B")
        for part in (first, then):
            if SIGN not in part and not dict.__contains__(self, part):
                raise unknown("task", part, self)
        return chain(self[first], self[then])

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or (isinstance(name, str) and SIGN in name and bool(self[name]))

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            return default
        return self[name]
