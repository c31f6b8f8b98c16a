"""The file of a comparison, as dataclasses: what is compared, on what, and with how much work.

    images = 48                      # test samples
    seeds = [0, 1]                   # of masks, measurement noise, starting noise, and of fits

    [[on]]
    prior = "fashion"
    tasks = ["inpaint", "sr4"]
    entries = ["deft", "pigdm", "deft-long"]

    [entries.deft-long]              # an entry is a method, perhaps with other settings or another fit
    method = "deft"
    fit = { seconds = 1200 }

Every key is checked against the dataclass it is for; an unknown one is an error with the nearest offered.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from deft.bench.data import Places, check_places, paired
from deft.errors import DeftError, InputError, unknown
from deft.io.reading import read_text
from deft.io.text import one_line
from deft.kinds.domain import Domain, domains
from deft.likelihood.unknown import UnknownTask
from deft.methods import METHODS, Method, get_method, plan, takes_eta
from deft.prior.load import RESERVED, check_options
from deft.recipe import Recipe
from deft.recipe.fit import try_options
from deft.recipe.fitted import family_or_none
from deft.values import (
    Count,
    CountOrNone,
    FitSteps,
    Focus,
    Items,
    Part,
    Range,
    Rate,
    Rows,
    Samples,
    Seconds,
    Seed,
    Share,
    Size,
    Steps,
    check,
    check_fields,
    check_plain,
    quoted,
    read_table,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

Seeds = Annotated[tuple[Seed, ...], Items(1, 10_000, different=True)]
SeveralSamples = Annotated[int, Range(2, 1_000_000)]
"""A spread needs two."""
Points = Annotated[int, Range(1, 10_000)]
Names = Annotated[tuple[str, ...], Items(0, 1000, different=True)]


@dataclass(frozen=True)
class FitSettings:
    """How an h is fitted for the comparison: by `deft.fit_h`, as `deft fit` does it.

    seconds: for all of a fit, drawing included. steps: a number of steps in place of a time. images: how many of the
    fit split; 0 or "prior" for none (samples of the prior alone). size: most parameters, as a share of the prior's.
    start_from: another h to begin with, as in `deft fit --start-from` (its fit is not counted). fitted: no fit at all
    but this h, a file or run folder, or "bundled" for the library's own. seeds: fits of different seeds; a cell with a
    seed beyond them uses the first. options: of the h's class (`units`, `guide`, `gate`, `inputs`, ...). The rest is
    `Recipe`'s, None for its defaults: prior_samples and cache None choose by the time there is.
    """

    seconds: Seconds | None = 100.0
    steps: FitSteps | None = None
    images: CountOrNone | Literal["prior"] = 1000
    size: Size = 0.09
    prior_samples: CountOrNone | None = None
    cache: CountOrNone | None = None
    fresh: Part | None = None
    batch: Rows | None = None
    lr: Rate | None = None
    warmup: CountOrNone | None = None
    ema: Part | None = None
    patience: CountOrNone | None = None
    weights: Literal["best", "raw", "ema"] | None = None
    weighting: str | None = None
    focus: Focus | None = None
    even: Share | None = None
    calibrate: bool | None = None
    start_from: str = ""
    fitted: str = ""
    seeds: Seeds = (0,)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "fit.")
        if self.steps is None and self.seconds is None:
            raise InputError("fit: give seconds, or steps")
        self.recipe(0)

    @property
    def count(self) -> int:
        """Images of the fit split."""
        return 0 if self.images == "prior" else int(self.images)

    def recipe(self, seed: int, method: str = "deft") -> Recipe:
        """The recipe for a kind of h, with what the file changes of it."""
        kept = {f.name for f in fields(Recipe)} - {"method", "seconds", "steps", "seed"}
        changed = {k: v for k in kept if (v := getattr(self, k, None)) is not None}
        time = {"seconds": self.seconds} if self.steps is None else {"steps": self.steps}
        return Recipe(method=method, seed=seed, **time, **changed)


@dataclass(frozen=True)
class Tuning:
    """How every method's settings are found, on `images` validation samples with `samples` draws for each.

    budget: calls of the prior for each image and sample that an entry may spend in all. points: at most so many
        settings of an entry.
    steps: numbers of steps to choose from. calls: in their place, as many steps as cost at most so many calls of the
    prior a sample, so that all entries take the same number; 0 for none. metric: what is made best, a proper score of
    the kind of data ("": its first); see `tuned_by`.
    """

    images: Count = 24
    samples: SeveralSamples = 4
    budget: Count = 600
    points: Points = 9
    steps: Annotated[tuple[Steps, ...], Items(1, 1000, different=True)] = (20, 50, 100)
    calls: Annotated[int, Range(0, 100_000)] = 0
    metric: str = ""
    seed: Seed = 1000

    def __post_init__(self) -> None:
        check_fields(self, "tune.")


@dataclass(frozen=True)
class Curve:
    """Quality against calls of the prior: every method at each of `calls`, first tuned there with `points` settings."""

    calls: Annotated[tuple[Steps, ...], Items(0, 1000, different=True)] = ()
    images: Count = 24
    samples: SeveralSamples = 4
    points: Points = 3
    methods: Names = ()

    def __post_init__(self) -> None:
        check_fields(self, "curve.")


@dataclass(frozen=True)
class Entry:
    """A row of the tables: a method, by its name or with changes.

    settings, steps, eta, spacing, sampler (a key of `SAMPLERS`, for methods that leave it open): fixed, not tuned.
    tune: False takes the method's defaults (with those). fit: how it is fitted.
    tuned_as: use the settings found for this other entry, so that entries differ in one thing.
    retrains: changes the whole prior (an upper reference, not a competitor).
    """

    name: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    steps: Steps | None = None
    eta: Share | None = None
    spacing: str | None = None
    sampler: str | None = None
    tune: bool = True
    tuned_as: str | None = None
    title: str = ""
    fit: FitSettings = field(default_factory=FitSettings)

    def __post_init__(self) -> None:
        check_fields(self, f"entries.{self.name}.")

    @property
    def about(self) -> Method:
        return METHODS[self.method]

    @property
    def label(self) -> str:
        """For people: its title, else its method's, else its name."""
        return self.title or (METHODS[self.method].title if self.name == self.method else self.name)


@dataclass(frozen=True)
class Setting:
    """A prior, its data, and what is done with them.

    prior: whatever `load_prior` takes, with prior_options. data: see `deft.bench.data` (default: the bundled set of the
        prior's name).
    features: a feature network of the kind of data ("NAME:PATH" for one that needs a file; default: the data's own, or
        none).
    curve: tasks with a curve.
    """

    prior: str
    tasks: Annotated[tuple[str, ...], Items(1, 1000, different=True)]
    entries: Annotated[tuple[str, ...], Items(1, 1000, different=True)]
    data: Places = ""
    features: str = ""
    curve: Names = ()
    prior_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "on.")

    @property
    def domain(self) -> Domain:
        """The kind of data that its tasks are for."""
        return domain_of_tasks(self.tasks)

    @property
    def unknown(self) -> bool:
        """Whether the data are pairs of an unknown degradation."""
        return UnknownTask.name in self.tasks

    @property
    def source(self) -> Places:
        return paired(self.data) if self.unknown else self.data or self.prior

    @property
    def title(self) -> str:
        """For people: the prior, and the data it is tested on where they are not its own."""
        places = self.data if self.unknown else self.source
        data = places if isinstance(places, str) else places.get("test", "")
        return short(self.prior) + ("" if data in ("", self.prior) else f" on {short(data)}")

    @property
    def network(self) -> str:
        """The feature network: what the file says, or that of the data which are tested on; "" if there is none."""
        test = self.source if isinstance(self.source, str) else self.source.get("test", "")
        return self.features or self.domain.feature_network_for([test.partition(":")[0]])


@dataclass(frozen=True)
class Study:
    """A whole comparison."""

    title: str
    on: tuple[Setting, ...]
    entries: dict[str, Entry]
    images: Count = 48
    samples: Samples = 4
    seeds: Seeds = (0,)
    batch: Rows = 64
    versus: str = "deft"
    tune: Tuning = field(default_factory=Tuning)
    curve: Curve = field(default_factory=Curve)
    task_options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


def domain_of_tasks(names: Sequence[str]) -> Domain:
    """The kind of data that has all of these tasks.

    Raises:
        InputError: no kind of data has one of them, or they are of several kinds.
    """
    kinds = domains().values()
    if list(names) == [UnknownTask.name]:
        return next(kind for kind in kinds if kind.unknown_degradations)
    for name in names:
        if not any(name in kind.tasks() for kind in kinds):
            raise unknown("task", name, {name for kind in kinds for name in kind.tasks()})
    found = next((kind for kind in kinds if all(name in kind.tasks() for name in names)), None)
    if found is None:
        raise InputError(f"the tasks {', '.join(names)} are of several kinds of data: give each its own [[on]]")
    return found


def proper(domain: Domain) -> list[str]:
    """The metrics that settings may be tuned by: nothing is tuned by a score that rewards too little spread."""
    return [key for key, m in domain.metrics().items() if m.proper]


def tuned_by(metric: str, on: Setting) -> str:
    """The metric that settings are found by: `metric`, or the one in its place for data that no feature network belongs
    to."""
    metric = metric or proper(on.domain)[0]
    instead = on.domain.metrics()[metric].instead
    return instead if instead and on.network in ("", "none") else metric


def short(name: str) -> str:
    """The name of a prior, a folder or a file, as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name if "/" in name else name)[-40:]


def _make(kind: type[T], values: Any, where: str, prefix: str = "", **more: Any) -> T:
    """`kind` from a table of the file. prefix: what stands before its keys in messages."""
    return kind(**read_table(kind, values, where, prefix, **more))


def find_study(name: str | Path) -> Path:
    """The file of a study: a path, or the name of one that comes with a kind of data."""
    if Path(name).exists():
        return Path(name)
    bundled = {k: path for kind in domains().values() for k, path in kind.studies().items()}
    if (found := bundled.get(str(name).removesuffix(".toml"))) is not None:
        return found
    if Path(name).suffix or Path(name).name != str(name):
        return Path(name)
    raise unknown("file or bundled comparison", str(name), bundled)


def read_study(path: str | Path, *, trust_code: bool = False) -> Study:
    """Read and check a comparison's file. Every name in it is looked up before any work begins.

    Args:
        trust_code: the file may name code (`prior = "MODULE:FUNCTION"`, a pickle) that runs when its prior is loaded.

    Raises:
        InputError: it cannot be read, a value is of another kind or out of range, a name is unknown, or it names code
            and is not trusted.
    """
    path = Path(path)
    text = read_text(path, "a TOML file of a comparison (docs/compare.md)", kind=InputError)
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # what a date in it raises is a ValueError, too
        reason = "nested too deep" if isinstance(error, RecursionError) else one_line(error)[:160]
        raise InputError(f"{path} is no TOML: {reason}") from error
    try:
        return make_study(table, path.stem, trust_code=trust_code)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def make_study(table: Mapping[str, Any], title: str = "comparison", *, trust_code: bool = False) -> Study:
    """A `Study` from the tables of its file. `arms` is the earlier word for `entries`. trust_code: see `read_study`."""
    check_plain(table, "")
    top = dict(table)
    fits = _make(FitSettings, top.pop("fit", {}), "[fit]", "fit.")
    tune = _make(Tuning, top.pop("tune", {}), "[tune]", "tune.")
    curve = _make(Curve, top.pop("curve", {}), "[curve]", "curve.")
    own = {**_tables(top, "arms"), **_tables(top, "entries")}
    entries = {name: _entry(name, values, fits) for name, values in own.items()}
    tables = top.pop("on", [])
    if not isinstance(tables, (list, tuple)):
        raise InputError(f"on = {quoted(tables)}: expected tables, each under [[on]]")
    settings = [_setting(values, i + 1, entries, fits, tune.metric) for i, values in enumerate(tables)]
    if not settings:
        raise InputError(
            'the file has no [[on]] table: say on which prior and tasks to compare, e.g. prior = "fashion", tasks ='
            ' ["inpaint"], entries = ["pigdm"]'
        )
    for i, on in enumerate(settings):
        where = f"[[on]] number {i + 1}"
        for key in on.prior_options.keys() & RESERVED.keys():
            raise InputError(f"{where}: prior_options.{key}: {RESERVED[key]}")
        check_trusted(on, where, trust_code)
        read_as = f", prior_options = {quoted(on.prior_options)}" if on.prior_options else ""
        with naming(f"{where}: prior = {quoted(on.prior)}{read_as}"):
            check_options(on.prior, on.prior_options)
    tune = replace(tune, metric=tune.metric or proper(settings[0].domain)[0])
    options = _tables(top, "tasks")
    for task, values in options.items():
        _check_task(task, values)
    study = _make(
        Study,
        {"title": title, **top},
        "the file",
        on=tuple(settings),
        entries=entries,
        tune=tune,
        curve=curve,
        task_options=options,
    )
    _check_names(study, "versus" in top)
    return study


def _tables(top: dict[str, Any], key: str) -> dict[str, Any]:
    """The tables [key.NAME] of the file, taken out of it."""
    found = top.pop(key, {})
    if not isinstance(found, Mapping):
        raise InputError(f"{key} = {quoted(found)}: expected tables, each under [{key}.NAME]")
    for name, values in found.items():
        if not isinstance(values, Mapping):
            raise InputError(f"{key}.{name} = {quoted(values)}: expected a table, under [{key}.{name}]")
    return dict(found)


def _check_task(task: str, values: Mapping[str, Any]) -> None:
    """The settings of a task that the file changes."""
    if "name" in values:
        raise InputError(
            f"tasks.{task}.name = {quoted(values['name'])}: expected settings of the task, which has its name"
        )
    domain = domain_of_tasks([task])
    with naming(f"[tasks.{task}]"):
        domain.make_task({"name": task, **values})


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Whatever a table's values make a constructor raise is one line that names the table."""
    try:
        yield
    except DeftError as error:
        raise InputError(f"{where}: {error}") from error
    except (TypeError, ValueError, OverflowError, ArithmeticError, RuntimeError, LookupError, AttributeError) as error:
        raise InputError(f"{where}: a value of another kind than expected ({one_line(error)[:160]})") from error


def _check_names(study: Study, versus_given: bool) -> None:
    """Names that stand for entries of the file, and seeds that fits must have."""
    entries, listed = study.entries, {name for on in study.on for name in on.entries}
    for entry in entries.values():
        if entry.tuned_as and entry.tuned_as not in entries:
            raise unknown(f"entry (tuned_as of {entry.name})", entry.tuned_as, entries)
    if versus_given and study.versus not in listed:
        raise unknown("entry (versus)", study.versus, listed)
    for name in study.curve.methods:
        if name not in listed:
            raise unknown("entry (curve.methods)", name, listed)
    for entry in entries.values():
        uncovered = sorted(set(study.seeds) - set(entry.fit.seeds))
        if entry.about.trained and len(entry.fit.seeds) > 1 and uncovered:
            raise InputError(
                f"fit.seeds of {entry.name} are {list(entry.fit.seeds)}, which leaves out {uncovered} of seeds ="
                f" {list(study.seeds)}: give one fit, or one for each seed (intervals take seeds for independent fits)"
            )


def check_trusted(on: Setting, where: str, trust_code: bool) -> None:
    """Refuse a prior that a file of somebody else names and that runs code when it is loaded.

    Raises:
        InputError: what would be run, and how to allow it.
    """
    if trust_code:
        return
    family, does = family_or_none(on.prior), ""
    if family == "python":
        given = ", ".join(f"{k}={v}" for k, v in on.prior_options.items())
        does = f"calls the function {on.prior[:400]!r}" + (f" with {quoted(given)}" if given else "")
    elif family == "remote":
        does = f"asks the server {quoted(on.prior)}, and sends it DEFT_TOKEN if there is one"
    elif on.prior_options.get("trust_pickle") not in (None, False, "false"):
        does = f"runs what code is in the pickle {quoted(on.prior)} (prior_options.trust_pickle)"
    if does:
        raise InputError(
            f"{where}: loading its prior {does}: if you trust this file, say so with --trust-code (read_study(...,"
            " trust_code=True))"
        )


def _setting(values: Any, number: int, entries: dict[str, Entry], fits: FitSettings, metric: str) -> Setting:
    """One [[on]] table, every name in it looked up; its entries that are methods as they are join the others."""
    where = f"[[on]] number {number}"
    if isinstance(values, Mapping) and "arms" in values:
        values = {"entries" if k == "arms" else k: v for k, v in values.items()}
    one = _make(Setting, values, where, f"{where}: ")
    if one.unknown and (len(one.tasks) > 1 or not one.data):
        raise InputError(
            f'{where}: the task "unknown" stands alone and has data of its own, pairs (x, y): data = "pairs.npz"'
        )
    if not one.data and not isinstance(one.data, str):
        raise InputError(f"{where}: data = {quoted(one.data)}: expected a place, or one for each split")
    domain = one.domain
    for name in () if one.unknown else one.tasks:
        domain.make_task({"name": name})
    for name in one.curve:
        if name not in one.tasks:
            raise unknown(f"task (curve of {where})", name, one.tasks)
    for name in one.entries:
        if name not in entries:
            if name not in METHODS:
                raise unknown("entry or method", name, {*entries, *METHODS})
            entries[name] = _entry(name, {}, fits)
    if isinstance(one.source, str) and not one.data and one.prior not in domain.datasets():
        raise InputError(
            f'{where}: the prior {one.prior} has no {domain.title} of its own: add data = "FOLDER", or data = {{ fit ='
            " ..., validation = ..., test = ... }"
        )
    check_places(domain, one.data if one.unknown else one.source, where)
    name = one.features.partition(":")[0]
    if name and name not in (*domain.feature_networks(), "none"):
        raise unknown(f"feature network in {where}", name, domain.feature_networks())
    _check_metric(metric, domain)
    return one


def _check_metric(metric: str, domain: Domain) -> None:
    """Only proper scores: a distance of single samples is least for samples that vary too little, and so would find
    such settings."""
    usable, known = proper(domain), domain.metrics()
    if not usable:
        raise InputError(f"no score of {domain.title} is proper, so that nothing can be tuned by it")
    if metric in ("", *usable):
        return
    if metric not in known:
        raise unknown("tune.metric", metric, usable)
    raise InputError(
        f"tune.metric = {metric!r}: nothing is tuned by a score that rewards too little spread or ignores it; give one"
        f" that is least for the true posterior ({', '.join(usable)}). {known[metric].title} is in the report all the"
        " same"
    )


def _check_fit(where: str, entry: Entry) -> None:
    """What the fit of an entry names: another h, and options of its class."""
    fit = entry.fit
    if fit.fitted and fit.fitted != "bundled" and not os.path.exists(fit.fitted):
        raise InputError(
            f'{where}.fitted = {quoted(fit.fitted)}: expected a run folder or file that exists, or "bundled"'
        )
    if (
        fit.start_from
        and not os.path.exists(fit.start_from)
        and not any(fit.start_from in kind.tasks() for kind in domains().values())
    ):
        raise InputError(f"{where}.start_from = {quoted(fit.start_from)}: expected a run folder that exists, or a task")
    if not fit.fitted:
        with naming(f"{where}.options = {quoted(fit.options)}"):
            try_options(entry.about.learned or entry.method, fit.options)


def _entry(name: str, table: Mapping[str, Any], fits: FitSettings) -> Entry:
    where, values = f"[entries.{name}]", dict(table)
    method = check(str, values.pop("method", name), f"entries.{name}.method")
    get_method(method)
    changes = read_table(FitSettings, values.pop("fit", {}), f"{where} fit", f"entries.{name}.fit.")
    with naming(where):
        changed = replace(fits, **changes)
    entry = _make(Entry, values, where, f"entries.{name}.", name=name, method=method, fit=changed)
    with naming(where):  # says what is wrong with them
        plan(
            method,
            settings=entry.settings,
            steps=entry.steps,
            eta=entry.eta,
            spacing=entry.spacing,
            sampler=entry.sampler,
        )
    if entry.about.trained:
        _check_fit(f"entries.{name}.fit", entry)
    if entry.eta is not None and entry.sampler is not None and not takes_eta(entry.sampler):
        raise InputError(f"entries.{name}.eta = {entry.eta:g}: the sampler {entry.sampler} has no noise to choose")
    return entry


__all__ = [
    "Curve",
    "Entry",
    "FitSettings",
    "Setting",
    "Study",
    "Tuning",
    "find_study",
    "make_study",
    "read_study",
    "tuned_by",
]
