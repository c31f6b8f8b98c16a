"""A kind of data: what images, proteins, series, ... each bring, in one record that everything else asks.

A domain is a folder in `deft.domains` whose package has a `DOMAIN`, or an object of another package that it registers under the entry
point `deft.domains`. Nothing outside its folder knows its name: `domain_of(prior)` finds it by the prior's card, or by the shape of a
sample. What a domain does not answer it leaves as it is here: the answer is then "nothing of that kind".
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise, Noise
from deft.errors import InputError, unknown

GROUP = "deft.domains"
"""The entry point under which other packages register a domain: `image = "package.module:DOMAIN"`."""


@runtime_checkable
class Task(Protocol):
    """Clean x -> an observation of it, with a fresh operator and fresh noise each time: what an amortised h is fitted to.

    name: in commands and cards. title: for people. lift_channels: views of y that a network of h is shown. config(): the settings as JSON,
    from which the domain's `make_task` makes the same task.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    lift_channels: ClassVar[int]

    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation: ...

    def config(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Metric:
    """key: in tables of numbers. title: for people. better: "high", "low" or "" (a description). digits: shown.

    target: the value that the true posterior has, where neither more nor less is better. proper: a score of the whole distribution that in
    expectation is least for the true posterior; settings are tuned by these alone.
    """

    key: str
    title: str
    better: str = ""
    digits: int = 3
    about: str = ""
    target: float | None = None
    proper: bool = False


@dataclass(frozen=True)
class Data:
    """Samples of a kind of data, as they were read: x [N, *E] in model space (or a list, where sizes differ), a name for each, whole-number labels
    [N] or None, and notes: what was left out, cropped or clipped."""

    x: Any
    names: list[str]
    labels: Tensor | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.x)


class Family(NamedTuple):
    """A family of priors' files.

    about: for people. recognise: whether this name is one. load: (name, device=, **options) -> a frozen denoiser.
    """

    about: str
    recognise: Callable[[str], bool]
    load: Callable[..., Denoiser]


class Domain(ABC):
    """A kind of data. Subclass it, override what there is, and import heavy modules inside the methods: a domain is looked up often."""

    name: ClassVar[str]
    """In cards and messages: "image"."""
    title: ClassVar[str]
    """Of several samples, for people: "images"."""

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        """Whether samples [*E] are of this kind, where a card does not say."""
        return False

    # what is measured

    def tasks(self) -> Mapping[str, type[Any]]:
        """Name -> class of a task."""
        return {}

    def make_task(self, config: Mapping[str, Any]) -> Task:
        """A task from its `config()`.

        Raises:
            InputError: no such task or setting.
        """
        options = dict(config)
        name, known = str(options.pop("name", "")), self.tasks()
        if name not in known:
            raise unknown("task", name, known)
        return known[name](**options)

    # networks and priors

    def network(self, event_shape: tuple[int, ...], inputs: int, outputs: int, width: int) -> nn.Module:
        """A network (features [B, inputs, ...], time [B]) -> [B, outputs, ...] for N1 of a DEFT.

        Raises:
            InputError: there is none for this shape.
        """
        raise InputError(f"no network for {self.title} of shape {event_shape}: give your own as net=")

    def own_priors(self) -> Mapping[str, Callable[[dict[str, Tensor], dict[str, Any]], Denoiser]]:
        """Class of a network, as the card of a prior names it -> (weights, card) -> the prior."""
        return {}

    def bundled_priors(self) -> Mapping[str, Path]:
        """Name -> file of the priors that come with the domain."""
        return {}

    def families(self) -> Mapping[str, Family]:
        """Families of checkpoints of this kind of data alone."""
        return {}

    # learned h-transforms

    def learned(self) -> Mapping[str, type[Any]]:
        """Name -> class of learned h, beside those for every kind of data (`deft.learned.LEARNED`)."""
        return {}

    def bundled_h(self, prior: str = "") -> Mapping[str, Path]:
        """Task -> file of the fitted h that come with the domain, for a bundled prior ("": each task's own)."""
        return {}

    # data in and out

    def datasets(self) -> Sequence[str]:
        """Names of bundled data sets; `read` takes them (NAME or NAME:SPLIT)."""
        return ()

    def read(self, source: str, event_shape: tuple[int, ...] | None = None, **options: Any) -> Data:
        """Samples from a file, a folder or a bundled set, in model space."""
        raise InputError(f"{self.title} cannot be read from files yet: give a tensor")

    def write(self, folder: Path, name: str, x: Tensor) -> list[Path]:
        """Write one sample [*E] in the formats that people of this field use; returns the files."""
        raise InputError(f"{self.title} cannot be written to files yet: take draws.save(FOLDER), or torch.save")

    def picture(self, x: Tensor, titles: Sequence[str] = ()) -> bytes | None:
        """A PNG of samples [n, *E] side by side; None if there is no picture."""
        return None

    # how good

    def metrics(self) -> Mapping[str, Metric]:
        """Key -> metric, in the order in which tables show them."""
        return {}

    def measure(self, samples: Tensor, truth: Tensor, obs: Observation, **options: Any) -> dict[str, Tensor]:
        """Metric -> [N]: each averaged over the S samples of a measurement. samples [N, S, *E], truth [N, *E]."""
        return {}


@cache
def domains() -> dict[str, Domain]:
    """Name -> domain: the folders of `deft.domains`, then what other packages registered.

    Raises:
        InputError: a registered domain cannot be imported, or two have the same name.
    """
    package = importlib.import_module(GROUP)
    found = [importlib.import_module(f"{GROUP}.{m.name}").DOMAIN for m in pkgutil.iter_modules(package.__path__) if m.ispkg]
    for point in entry_points(group=GROUP):
        try:
            found.append(point.load())
        except Exception as error:  # whatever somebody's module raises
            raise InputError(f"the kind of data {point.name!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}") from error
    out: dict[str, Domain] = {}
    for domain in found:
        if not isinstance(domain, Domain):
            raise InputError(f"{domain!r} is registered as a kind of data, and is no deft.core.domain.Domain")
        if domain.name in out and out[domain.name] is not domain:
            raise InputError(f"two kinds of data are named {domain.name!r}: {type(out[domain.name]).__module__} and {type(domain).__module__}")
        out[domain.name] = domain
    return out


def find_domain(name: str) -> Domain:
    """A domain by its name."""
    known = domains()
    if name not in known:
        raise unknown("kind of data", name, known)
    return known[name]


def domain_of(prior: Denoiser) -> Domain | None:
    """The kind of data that a prior makes: what its card names (`domain`), else the one that owns the shape of its samples; None if nobody does."""
    named = prior.card.get("domain")
    if isinstance(named, str):
        return find_domain(named)
    return domain_of_shape(prior.data_shape)


def domain_of_shape(event_shape: Sequence[int]) -> Domain | None:
    """The kind of data whose samples have this shape; None if nobody owns it."""
    shape = tuple(torch.Size(event_shape))
    return next((d for d in domains().values() if d.owns(shape)), None)
