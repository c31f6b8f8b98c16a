"""Records that a kind of data fills in (`deft.kinds.domain`): a task, a metric, samples that were read, a family of
priors' files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation, as_tensor
from deft.core.random import BatchNoise, Noise
from deft.errors import InputError, unknown


@runtime_checkable
class Task(Protocol):
    """Clean x -> an observation of it, with a fresh operator and fresh noise each time: what an amortised h is fitted
    to.

    name: in commands and cards. title: for people. feature_channels: views of y that a network of h is shown. config():
    the settings as JSON, with the name; `deft.io.tasks.make_task` makes the same task of them.
    `deft.likelihood.task.OperatorTask` has the rest.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    feature_channels: ClassVar[int]

    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation: ...

    def config(self) -> dict[str, Any]: ...


def task_from(table: Mapping[str, type[Any]] | type[Any], config: Mapping[str, Any]) -> Any:
    """The task that a `config()` describes: of a table name -> class, or of a class. A class with a `from_config` makes
    it itself.

    Raises:
        InputError: no such task or setting.
    """
    kind, name = table, str(config.get("name", ""))
    if isinstance(kind, Mapping):
        if name not in kind:
            raise unknown("task", name, kind)
        kind = kind[name]
    if hasattr(kind, "from_config"):
        return kind.from_config(dict(config))
    options = {k: v for k, v in config.items() if k != "name"}
    if is_dataclass(kind):
        known = {f.name for f in fields(kind)}
        for key in options:
            if key not in known:
                raise unknown(f"setting of the task {name}", key, known)
    return kind(**options)


@dataclass(frozen=True)
class Metric:
    """key: in tables of numbers. title: for people. better: "high", "low" or "" (a description). digits: shown.

    target: the value that the true posterior has, where neither more nor less is better; target_of: the attribute of
    the task that has it, where tasks differ. proper: a score of the whole distribution that in expectation is least for
    the true posterior; settings are tuned by these alone, and entries are ranked by the first that was measured. leads:
    entries are ranked by it where no proper score was measured.

    table: of a study's report, "main" or "further". brief: also where there is little room (a terminal). instead: the
    key of the metric that takes its place where no feature network belongs to the data. form: how the values of many
    samples become one number, "mean", "median", or "share" (the mean, shown in per cent).
    """

    key: str
    title: str
    better: str = ""
    digits: int = 3
    about: str = ""
    target: float | None = None
    proper: bool = False
    target_of: str = ""
    leads: bool = False
    table: str = ""
    brief: bool = False
    instead: str = ""
    form: str = "mean"


@dataclass(frozen=True)
class Data:
    """Samples of a kind of data, as they were read: x [N, *E] in model space (or a list, where sizes differ), a name
    for each, whole-number labels [N] or None, and notes: what was left out, cropped or clipped.

    seen: truth values [N, *E], or None where all is known: which entries of x somebody measured. What x has elsewhere
        is a stand-in, which a prior is never trained to reproduce. last: rows that are held out where nobody says
        which, such as the end of a series, of which no other row is a part; None: a tenth at random. card: what the
        card of a prior that is trained on these samples has to say of them (`Domain.with_card`).
    """

    x: Any
    names: list[str]
    labels: Tensor | None = None
    notes: list[str] = field(default_factory=list)
    seen: Tensor | None = field(default=None, kw_only=True)
    last: Tensor | None = field(default=None, kw_only=True)
    card: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        return len(self.x)

    @property
    def complete(self) -> Tensor:
        """Rows of which every entry was measured, [M]."""
        every = torch.arange(len(self))
        return every if self.seen is None else every[self.seen.flatten(1).all(1)]


def paired(arrays: Mapping[str, np.ndarray], where: str, title: str, event_shape: Sequence[int]) -> Tensor:
    """x [N, *E] of a file of pairs x and y, as it is.

    Raises:
        InputError: another shape, values that are not finite, or another number of y.
    """
    x = as_tensor(arrays["x"], f"{where}[x]").float()
    if tuple(x.shape[1:]) != tuple(event_shape) or not bool(torch.isfinite(x).all()):
        raise InputError(
            f"{where}[x] has shape {tuple(x.shape)}, expected finite {title} (N, {', '.join(map(str, event_shape))})"
        )
    if len(x) != len(arrays["y"]):
        raise InputError(
            f"{where} holds {len(x)} {title} x but {len(arrays['y'])} measurements y: pairs must match one to one"
        )
    return x


@dataclass(frozen=True)
class PairedData(Data):
    """Samples with a measurement y [N, *M] of each, of which nobody knows how it was made; see `UnknownPairs`."""

    y: Any = None
    pictures: bool | None = None


class UnknownPairs(NamedTuple):
    """Pairs of which nobody knows how y was made: x [N, *E] in model space, y [N, *M]. pictures: y is a picture in
    [-1, 1], so that a file of one can be a measurement; None where its values tell. notes: as in `Data`."""

    x: Tensor
    y: Tensor
    pictures: bool | None = None
    notes: Sequence[str] = ()


class Measured(NamedTuple):
    """One measurement that was read: arrays that belong to its samples (a mask), names of what was skipped, and notes
    as in `Data`. domain: what writes and draws its samples, where that takes what the file says (times of its rows, a
    sample rate); None: the prior's kind of data."""

    obs: Observation
    arrays: Mapping[str, Any] = {}
    skipped: Sequence[str] = ()
    notes: Sequence[str] = ()
    domain: Any = None


class Family(NamedTuple):
    """A family of priors' files.

    about: for people. recognise: whether this name is one. load: (name, device=, **options) -> a frozen denoiser.
        options: name of an option ->
    (name, value or text) -> its value, or an `InputError` that says what it takes.
    """

    about: str
    recognise: Callable[[str], bool]
    load: Callable[..., Denoiser]
    options: Mapping[str, Callable[[str, Any], Any]] = {}
