"""A kind of data: what images, proteins, series, ... each bring, in one record that everything else asks.

A domain is a folder in `deft.domains` whose package has a `DOMAIN`, or an object of another package that it registers under the entry
point `deft.domains`. Nothing outside its folder knows its name: `domain_of(prior)` finds it by the prior's card, or by the shape of a
sample. What a domain does not answer it leaves as it is here: the answer is then "nothing of that kind".
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
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

    target: the value that the true posterior has, where neither more nor less is better; target_of: the attribute of the task that
    has it, where tasks differ. proper: a score of the whole distribution that in expectation is least for the true posterior;
    settings are tuned by these alone, and entries are ranked by the first that was measured. leads: entries are ranked by it where
    no proper score was measured.

    table: of a study's report, "main" or "further". brief: also where there is little room (a terminal). instead: the key of the
    metric that takes its place where no feature network belongs to the data. form: how the values of many samples become one number,
    "mean", "median", or "share" (the mean, shown in per cent).
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


# What a comparison (`deft.bench`) asks a kind of data beside its metrics.


class Column(NamedTuple):
    """A column of a table with a row for each entry: title, and the metrics whose numbers stand in it side by side.

    of: the number that the first one is out of ("3 of 10").
    """

    title: str
    metrics: tuple[str, ...]
    of: str = ""


class View(NamedTuple):
    """A column of a picture, a row for each case. kind: "samples" (x [N, *E]), "spread" (x [N, S, *E]) or "picture" (x uint8 [N, H, W, 3])."""

    title: str
    x: Any
    note: str = ""
    kind: str = "samples"


class Cases(ABC):
    """What the entries of a comparison are drawn for and measured on: N cases, each a measurement and what is known of its truth.

    problems: the name of each problem; the cases are all problems once, then all again, `repeats` times, and those of one problem
    are not independent. title: of several of them, for people.
    """

    problems: Sequence[str]
    repeats: int = 1
    title: str = "cases"

    def __len__(self) -> int:
        return len(self.problems) * self.repeats

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Everything that decides what is drawn for a case, as JSON, whatever the number of repeats."""

    def about(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """(titles of columns, the cells of each problem): what a table says of a problem beside its name."""
        return (), [()] * len(self.problems)

    def name_of(self, plan: Any) -> str:
        """The name of a plan's method, in names of files."""
        return plan.method.name

    def at_once(self, plan: Any, batch: int) -> int:
        """How many cases are drawn, and then kept, at once."""
        return batch

    @abstractmethod
    def draw(
        self, plan: Any, prior: Denoiser, rows: range, samples: int, *, fitted: HTransform | None = None, seed: int = 0, batch: int = 64, device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> Sequence[Any] | Tensor:  # fmt: skip
        """The samples of these cases, on the CPU: those of case i depend on the seed and i alone, whatever else is drawn."""

    @abstractmethod
    def measure(self, samples: Sequence[Any]) -> dict[str, np.ndarray]:
        """Metric -> [N], from the samples of all cases."""


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
        """Metric -> [N]: each averaged over the S samples of a measurement. samples [N, S, *E], truth [N, *E].

        options: `network`, what `feature_network` returns; `labels` [N] of the truth.
        """
        return {}

    # comparisons (deft.bench)

    note: ClassVar[str] = ""
    """Goes under every table of results."""
    success: ClassVar[str] = ""
    """The metric that says whether a sample is good, for kinds of data where it is or is not: true or false of each sample."""

    def studies(self) -> Mapping[str, Path]:
        """Name -> file of the bundled studies (`deft compare NAME`)."""
        return {}

    def feature_networks(self) -> Mapping[str, str]:
        """Name of a feature network -> in words what it is."""
        return {}

    def feature_network_for(self, names: Sequence[str], event_shape: tuple[int, ...] | None = None, labelled: bool = True) -> str:
        """The feature network that belongs to one of these bundled data sets or priors; "" if there is none.

        event_shape: of the samples, if it is known. labelled: whether there are labels, for networks that tell classes apart.
        """
        return ""

    def feature_network(self, name: str, x: Tensor) -> Any:
        """A feature network by its name, or NAME:PATH. x: true samples, which set its unit if it does not bring one."""
        raise unknown("feature network", name, self.feature_networks())

    def classes(self, name: str) -> Sequence[str]:
        """What the labels of a bundled data set mean."""
        return ()

    def has_data(self, source: str) -> bool:
        """Whether there is such a file or folder of samples, or such a part of one."""
        return Path(source).exists()

    def data_version(self, name: str) -> int:
        """Of a bundled data set. What was drawn for another version is not used again."""
        return 1

    def split(self, source: str, split: str, event_shape: tuple[int, ...]) -> Data:
        """The samples of a bundled set's split (fit, validation or test), or all of a file or folder, as they are."""
        return self.read(f"{source}:{split}" if source in self.datasets() else source, event_shape)

    def measured_picture(self, obs: Observation, event_shape: tuple[int, ...]) -> np.ndarray | None:
        """Measurements [N] as pictures uint8 [N, H, W, 3]; None if there is no picture of them."""
        return None

    def wall(self, views: Sequence[View], *, title: str = "", rows: Sequence[str] = (), cell: int = 96) -> bytes | None:
        """A PNG of these columns side by side; None if there is no picture. rows: a caption for each row. cell: pixels of one picture, about."""
        return None

    def problem_sets(self) -> Mapping[str, str]:
        """Name -> in words: the sets of problems that `cases` makes."""
        return {}

    def cases(self, name: str, **options: Any) -> Cases:
        """The cases of a set of problems."""
        raise unknown(f"set of problems of {self.title}", name, self.problem_sets())

    def columns(self) -> Sequence[Column]:
        """The columns of a table of entries whose samples are good or not (`success`)."""
        return ()

    def references(self, count: int) -> Mapping[str, dict[str, np.ndarray]]:
        """Name -> metric -> [M] of samples that are no entry, `count` at most: natives, that say what the checks can reach."""
        return {}

    def variety(self, samples: Sequence[Any], known: bool = False) -> Mapping[str, float]:
        """Numbers of a set of good samples as a whole: how many kinds, say. known: also how near they are to those that were trained on."""
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
