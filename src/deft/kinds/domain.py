"""A kind of data: what images, proteins, series, ... each bring, in one record that everything else asks.

A domain is a folder in `deft.domains` whose package has a `DOMAIN`, or an object of another package that it registers
under the entry point `deft.domains`. Nothing outside its folder knows its name: `domain_of(prior)` finds it by the
prior's card, or by the shape of a sample, and binds it to that card (`Domain.with_card`). What a domain does not answer
it leaves as it is here: the answer is then "nothing of that kind".
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation, as_tensor
from deft.errors import InputError, unknown
from deft.kinds.cases import Cases, Column, View
from deft.kinds.records import Data, Family, Measured, Metric, Task, UnknownPairs, paired, task_from

T = TypeVar("T")
GROUP = "deft.domains"
"""The entry point under which other packages register a domain: `curve = "package.module:DOMAIN"`."""


class Domain(ABC):
    """A kind of data. Subclass it, override what there is, and import heavy modules inside the methods: a domain is
    looked up often."""

    name: ClassVar[str]
    """In cards and messages: "curve"."""
    title: ClassVar[str]
    """Of several samples, for people: "curves"."""
    bounds: ClassVar[tuple[float, float] | None] = None  # least and greatest value of a sample in model space
    unknown_degradations: ClassVar[bool] = True  # whether h can be fitted to pairs (x, y) without an operator
    own_units: ClassVar[bool] = False  # whether model space is another for each prior (of a mean and deviation, say)
    hub_tag: ClassVar[str] = ""  # what model hubs call drawing such samples from a measurement ("image-to-image")
    common: ClassVar[bool] = False  # owns shapes that more particular kinds own as well: is asked after these

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        """Whether samples [*E] are of this kind, where a card does not say."""
        return False

    def with_card(self, card: Mapping[str, Any]) -> Domain:
        """This kind of data with what a prior's card says of its samples: units, names of channels, a sample rate, a
        voxel's size. Readers, writers, pictures and metrics that are asked through a prior are those of what this
        returns. Itself where a card has nothing to say.

        What a card is to say is `Data.card` of the data that the prior is trained on. Raises `InputError` or
        `CheckpointError` for a card that cannot be right.
        """
        return self

    def card(self) -> Mapping[str, Any]:
        """What `with_card` read, and the name of this kind of data as `domain`, as a card has it: what a service tells
        of its prior's samples. Nothing where nothing was read."""
        return {}

    def tasks(self) -> Mapping[str, type[Any]]:
        """Name -> class of a task; commands take the first where none is named."""
        return {}

    def make_task(self, config: Mapping[str, Any]) -> Any:
        """A task of this kind of data from its `config()`."""
        return task_from(self.tasks(), config)

    # networks, priors and learned h-transforms

    def network(self, event_shape: tuple[int, ...], inputs: int, outputs: int, width: int) -> nn.Module:
        """A network (features [B, inputs, ...], time [B]) -> [B, outputs, ...] for N1 of a DEFT."""
        raise InputError(f"no network for {self.title} of shape {event_shape}: give your own as net=")

    def takes_size(self, fitted: tuple[int, ...], asked: tuple[int, ...]) -> bool:
        """Whether a network (`network`) that was fitted to samples of one shape works on those of another."""
        return False

    def new_prior(self, event_shape: tuple[int, ...], schedule: Any, output: str, **options: Any) -> Denoiser:
        """An untrained prior, for `deft prior train`."""
        raise InputError(f"there is no network to train a prior of {self.title} with: write one (docs/add-a-prior.md)")

    def own_priors(self) -> Mapping[str, type[Any]]:
        """Class of a network, as the card of a file names it -> class of prior (`deft.io.prior_files.OwnPrior`), whose
        `from_card` builds it."""
        return {}

    def bundled_priors(self) -> Mapping[str, Path]:
        """Name -> file of the priors that come with the domain."""
        return {}

    def families(self) -> Mapping[str, Family]:
        """Families of checkpoints of this kind of data alone."""
        return {}

    def learned(self) -> Mapping[str, type[Any]]:
        """Name -> class of learned h, beside those for every kind of data (`deft.learned.LEARNED`)."""
        return {}

    def bundled_h(self, prior: str = "") -> Mapping[str, Path]:
        """Task -> file of the fitted h that come with the domain, for a bundled prior ("": each task's own)."""
        return {}

    def rewards(self) -> Mapping[str, tuple[Callable[[], Callable[[Tensor], Tensor]], Sequence[str]]]:
        """Name -> (what makes a bundled classifier, x [B, *E] -> logits [B, classes], names of the classes), for
        `--reward NAME`."""
        return {}

    # data in and out

    streams: ClassVar[bool] = False
    """Whether `read` takes stream=True: x of much data is then a `deft.kinds.stored.Stored`, read row by row."""

    def datasets(self) -> Sequence[str]:
        """Names of bundled data sets; `read` takes them (NAME or NAME:SPLIT)."""
        return ()

    def read(self, source: str, event_shape: tuple[int, ...] | None = None, **options: Any) -> Data:
        """Samples from a file, a folder or a bundled set, in model space. Commands pass on those of their options that
        it names: split ("fit", "validation", "test"), skip_bad, resize, convert, range, recursive, array; strict=False:
        what does not apply to this source is passed over."""
        raise InputError(f"{self.title} cannot be read from files yet: give a tensor")

    def read_measured(self, path: Path, task: Any, event_shape: tuple[int, ...], **options: Any) -> Measured:
        """One measurement of a file that is no measurement file, such as a picture."""
        raise InputError(
            f"{path} is no measurement file: a measurement of {task.name} is an .npz with y (`deft measure` makes one)"
        )

    def pairs(
        self, arrays: dict[str, np.ndarray], where: str, task: Any, event_shape: tuple[int, ...]
    ) -> tuple[Tensor, dict[str, np.ndarray]]:
        """(x [N, *E] in model space, the arrays as `deft.io.measurements.observation` takes them) of a file of a user's
        own pairs x and y."""
        return paired(arrays, where, self.title, event_shape), arrays

    def unknown_pairs(self, arrays: dict[str, np.ndarray], where: str, event_shape: tuple[int, ...]) -> UnknownPairs:
        """x and y of a file of pairs of an unknown degradation. Commands pass on those of their options that it names:
        resize, convert, value_range."""
        y = as_tensor(arrays["y"], f"{where}[y]")
        return UnknownPairs(paired(arrays, where, self.title, event_shape), y if y.is_complex() else y.float())

    def paired_folders(self, clean: Path, degraded: Path, event_shape: tuple[int, ...]) -> UnknownPairs:
        """The same of two folders of files of the same names; also with recursive."""
        raise InputError(f"pairs of {self.title} are not read from folders: give an .npz of x and y")

    def converters(self) -> Mapping[str, Callable[..., Any]]:
        """Program -> (array, sigma_y=, **options) -> a `deft.io.measurements.Converted` of what it measured, for
        `deft measure convert`."""
        return {}

    def write(self, folder: Path, name: str, x: Tensor) -> list[Path]:
        """Write one sample [*E] in the formats that people of this field use; returns the files."""
        raise InputError(f"{self.title} cannot be written to files yet: take draws.save(FOLDER), or torch.save")

    def write_mean(self, folder: Path, draws: Any) -> list[Path]:
        """Write the mean of all samples of one measurement (a `deft.kinds.draws.Draws`), named `mean`: where files are
        in units that model space is no linear map of, the mean of what the files of the samples have."""
        return self.write(folder, "mean", draws.mean[0])

    def write_draws(self, folder: Path, draws: Any) -> list[Path]:
        """Write what there is of all samples of one measurement together (a `deft.kinds.draws.Draws`), named
        `quantiles` or `summary`: tables of quantiles, say; returns the files."""
        return []

    def picture(self, x: Tensor, titles: Sequence[str] = (), title: str = "") -> bytes | None:
        """A PNG of samples [n, *E] side by side; None if there is no picture."""
        return None

    def draw_pictures(self, x: Tensor, std: Tensor, obs: Observation | None, title: str) -> Mapping[str, bytes]:
        """File name -> PNG: what `deft sample` shows of samples [n, *E] of one measurement and of their standard
        deviation [*E]."""
        sheet = self.picture(
            torch.cat([x[:8], x.mean(0, keepdim=True)]),
            [*(f"sample {i + 1}" for i in range(len(x[:8]))), "mean"],
            title,
        )
        return {} if sheet is None else {"sheet.png": sheet}

    def measurement_picture(self, x: Tensor, obs: Observation, title: str) -> bytes | None:
        """A PNG of samples [n, *E] and what was measured of them."""
        return None

    def metrics(self) -> Mapping[str, Metric]:
        """Key -> metric, in the order in which tables show them."""
        return {}

    def set_distance(self, features: str, samples: Tensor, real: Tensor) -> dict[str, Any]:
        """How far two sets of samples are apart, in the features of a named network."""
        raise InputError(f"there are no features of {self.title} named {features!r} to compare sets of samples in")

    def measure(self, samples: Tensor, truth: Tensor, obs: Observation, **options: Any) -> dict[str, Tensor]:
        """Metric -> [N]: each averaged over the S samples of a measurement. samples [N, S, *E], truth [N, *E].

        options: `network`, what `feature_network` returns; `labels` [N] of the truth.
        """
        return {}

    # comparisons (deft.bench)

    note: ClassVar[str] = ""
    """Goes under every table of results."""
    success: ClassVar[str] = ""
    """The metric that says whether a sample is good, for kinds of data where it is or is not: true or false of each
    sample."""

    def studies(self) -> Mapping[str, Path]:
        """Name -> file of the bundled studies (`deft compare NAME`)."""
        return {}

    def feature_networks(self) -> Mapping[str, str]:
        """Name of a feature network -> in words what it is."""
        return {}

    def feature_network_for(
        self, names: Sequence[str], event_shape: tuple[int, ...] | None = None, labelled: bool = True
    ) -> str:
        """The feature network that belongs to one of these bundled data sets or priors; "" if there is none.

        event_shape: of the samples, if it is known. labelled: whether there are labels, for networks that tell classes
            apart.
        """
        return ""

    def feature_network(self, name: str, x: Tensor) -> Any:
        """A feature network by its name, or NAME:PATH. x: true samples, which set its unit if it does not bring one."""
        raise unknown("feature network", name, self.feature_networks())

    def classes(self, name: str) -> Sequence[str]:
        """What the labels of a bundled data set mean."""
        return ()

    def has_data(self, source: str) -> bool:
        """Whether there is such a file or folder of samples, or such a part of one (`FILE:PART`)."""
        return Path(source).exists() or Path(source.rpartition(":")[0] or source).is_file()

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
        """A PNG of these columns side by side; None if there is no picture. rows: a caption for each row. cell: pixels
        of one picture, about."""
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
        """Name -> metric -> [M] of samples that are no entry, `count` at most: natives, that say what the checks can
        reach."""
        return {}

    def variety(self, samples: Sequence[Any], known: bool = False) -> Mapping[str, float]:
        """Numbers of a set of good samples as a whole: how many kinds, say. known: also how near they are to those that
        were trained on."""
        return {}


@cache
def domains() -> dict[str, Domain]:
    """Name -> domain: the folders of `deft.domains`, then what other packages registered.

    Raises:
        InputError: a registered domain cannot be imported, or two have the same name.
    """
    package = importlib.import_module(GROUP)
    found = [
        importlib.import_module(f"{GROUP}.{m.name}").DOMAIN for m in pkgutil.iter_modules(package.__path__) if m.ispkg
    ]
    for point in entry_points(group=GROUP):
        try:
            found.append(point.load())
        except Exception as error:  # whatever somebody's module raises
            raise InputError(
                f"the kind of data {point.name!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}"
            ) from error
    out: dict[str, Domain] = {}
    for domain in found:
        if not isinstance(domain, Domain):
            raise InputError(f"{domain!r} is registered as a kind of data, and is no deft.kinds.domain.Domain")
        if domain.name in out and out[domain.name] is not domain:
            raise InputError(
                f"two kinds of data are named {domain.name!r}: {type(out[domain.name]).__module__} and"
                f" {type(domain).__module__}"
            )
        out[domain.name] = domain
    return out


def find_domain(name: str) -> Domain:
    """A domain by its name."""
    known = domains()
    if name not in known:
        raise unknown("kind of data", name, known)
    return known[name]


def domain_of(prior: Denoiser) -> Domain | None:
    """The kind of data that a prior makes: what its card names (`domain`), else the one that owns the shape of its
    data; None if nobody does. It is bound to the card (`Domain.with_card`)."""
    named = prior.card.get("domain")
    found = find_domain(named) if isinstance(named, str) else domain_of_shape(prior.data_shape)
    return None if found is None else found.with_card(prior.card)


def domain_of_shape(event_shape: Sequence[int]) -> Domain | None:
    """The kind of data whose samples have this shape; None if nobody owns it. Of several the first, those last that are
    `common`."""
    shape = tuple(event_shape)
    return next((d for d in sorted(domains().values(), key=lambda d: d.common) if d.owns(shape)), None)


def domain_for(prior: Denoiser) -> Domain:
    """The kind of data that a prior makes.

    Raises:
        InputError: none that is known.
    """
    domain = domain_of(prior)
    if domain is None:
        known = "; ".join(f"{d.title} ({name})" for name, d in domains().items())
        raise InputError(
            f"the prior makes samples of shape {tuple(prior.data_shape)}, which no kind of data here owns ({known}):"
            " use it in Python, or name its kind in its card"
        )
    return domain


SPELT = {"value_range": "--range"}
"""Options of a domain's methods that commands call otherwise."""
OPTIONS = (
    "array", "blocks", "convert", "length", "mask", "mask_hole", "patch", "recursive", "resize", "skip_bad", "widths"
)  # fmt: skip
"""Those that commands call so; all others are given as --data-option KEY=VALUE."""


@contextmanager
def known_options(domain: Domain, given: Mapping[str, Any]) -> Iterator[None]:
    """Around a call of a domain's method with those options that were given: one that it does not know is refused by
    its name on the command line."""
    try:
        yield
    except TypeError as error:
        odd = next((k for k in given if f"unexpected keyword argument '{k}'" in str(error)), None)
        if odd is None:
            raise
        usual = f"--{odd.replace('_', '-')}" if odd in OPTIONS else f"--data-option {odd}"
        raise InputError(f"{SPELT.get(odd, usual)} is not for {domain.title}: leave it out") from error


class Table(Mapping[str, T]):
    """One table of all kinds of data: name -> entry, looked up when it is read. Of two entries of a name the first is
    found.

    >>> "fashion" in Table(lambda domain: domain.bundled_priors())
    True
    """

    def __init__(self, part: Callable[[Domain], Mapping[str, T]], first: Domain | None = None):
        self._part, self._first = part, first

    def of(self, domain: Domain | None) -> Table[T]:
        """The same table with the entries of one kind of data first."""
        return Table(self._part, domain)

    def _entries(self) -> dict[str, T]:
        out: dict[str, T] = {}
        for domain in [*([] if self._first is None else [self._first]), *domains().values()]:
            for key, entry in self._part(domain).items():
                out.setdefault(key, entry)
        return out

    def __getitem__(self, key: str) -> T:
        """The entry of a name; a domain's own table may have more than it lists."""
        for domain in [*([] if self._first is None else [self._first]), *domains().values()]:
            if key in (part := self._part(domain)):
                return part[key]
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries())

    def __len__(self) -> int:
        return len(self._entries())


__all__ = [
    "GROUP",
    "Cases",
    "Column",
    "Data",
    "Domain",
    "Family",
    "Measured",
    "Metric",
    "Table",
    "Task",
    "View",
    "domain_for",
    "domain_of",
    "domain_of_shape",
    "domains",
    "find_domain",
    "known_options",
]
