"""The file of a comparison, as dataclasses: what is compared, on what, and with how much work.

    images = 48                      # test images
    seeds = [0, 1]                   # of masks, measurement noise, starting noise, and of fits

    [[on]]
    prior = "fashion"
    tasks = ["inpaint", "sr4"]
    arms = ["deft", "pigdm", "deft-long"]

    [arms.deft-long]                 # an arm is a method, perhaps with other settings or another fit
    method = "deft"
    fit = { seconds = 1200 }

Every key is checked against the dataclass it is for; an unknown one is an error with the nearest offered.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from deft.bench.images import Data, check_data
from deft.bench.measure import METRICS, PROPER
from deft.domains.image.data import DATASETS
from deft.domains.image.networks import FEATURES, features_for
from deft.domains.image.tasks import get_task
from deft.errors import InputError, unknown
from deft.methods import METHODS, Method, get_method, plan
from deft.workflow import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

@dataclass(frozen=True)
class FitSettings:
    """How an h is fitted for the comparison: by `deft.workflow.fit_h`, as `deft fit` does it.

    seconds: for all of a fit, drawing included. steps: a number of steps in place of a time. images: how many of the fit split;
    0 or "prior" for none (samples of the prior alone). size: most parameters, as a share of the prior's. start_from: another h to
    begin with, as in `deft fit --start-from` (its fit is not counted). fitted: no fit at all but this h, a file or run folder, or
    "bundled" for the library's own. seeds: fits of different seeds; a cell with a seed beyond
    them uses the first. options: of the h's class (`units`, `guide`, `gate`, `inputs`, ...). The rest is `Recipe`'s, None for
    its defaults: prior_samples and cache None choose by the time there is.
    """

    seconds: float | None = 100.0
    steps: int | None = None
    images: int | str = 1000
    size: float = 0.09
    prior_samples: int | None = None
    cache: int | None = None
    fresh: float | None = None
    batch: int | None = None
    lr: float | None = None
    warmup: int | None = None
    ema: float | None = None
    patience: int | None = None
    weights: str | None = None
    weighting: str | None = None
    focus: float | None = None
    even: float | None = None
    calibrate: bool | None = None
    start_from: str = ""
    fitted: str = ""
    seeds: tuple[int, ...] = (0,)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.images == "prior" or (isinstance(self.images, int) and not isinstance(self.images, bool) and self.images >= 0)):
            raise InputError(f'fit.images must be a number of images, or "prior" for samples of the prior, got {self.images!r}')
        if self.steps is None and self.seconds is None:
            raise InputError("fit: give seconds, or steps")
        self.recipe(0)

    @property
    def count(self) -> int:
        """Images of the fit split."""
        return 0 if self.images == "prior" else int(self.images)

    def recipe(self, seed: int) -> Recipe:
        """The recipe, with what the file changes of it."""
        kept = {f.name for f in fields(Recipe)} - {"seconds", "steps", "seed"}
        changed = {k: v for k in kept if (v := getattr(self, k, None)) is not None}
        if self.steps is not None:
            return Recipe(steps=self.steps, seed=seed, **changed)
        return Recipe(seconds=self.seconds, seed=seed, **changed)


@dataclass(frozen=True)
class Tuning:
    """How every method's settings are found, on `images` validation images with `samples` samples of each.

    budget: calls of the prior for each image and sample that an arm may spend in all. points: at most so many settings of an arm.
    steps: numbers of steps to choose from. calls: in their place, as many steps as cost at most so many calls of the prior a sample, so
    that all arms take the same number; 0 for none. metric: what is made best, one of `PROPER`; see `tuned_by`.
    """

    images: int = 24
    samples: int = 4
    budget: int = 600
    points: int = 9
    steps: tuple[int, ...] = (20, 50, 100)
    calls: int = 0
    metric: str = "energy_score"
    seed: int = 1000


@dataclass(frozen=True)
class Curve:
    """Quality against calls of the prior: every method at each of `calls`, first tuned there with `points` settings."""

    calls: tuple[int, ...] = ()
    images: int = 24
    samples: int = 4
    points: int = 3
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arm:
    """A row of the tables: a method, by its name or with changes.

    settings, steps, eta, spacing, sampler (a key of `SAMPLERS`, for methods that leave it open): fixed, not tuned. tune: False takes the method's defaults (with those). fit: how it is fitted.
    tuned_as: use the settings found for this other arm, so that arms differ in one thing.
    retrains: changes the whole prior (an upper reference, not a competitor).
    """

    name: str
    method: str
    settings: dict[str, float] = field(default_factory=dict)
    steps: int | None = None
    eta: float | None = None
    spacing: str | None = None
    sampler: str | None = None
    tune: bool = True
    tuned_as: str | None = None
    title: str = ""
    fit: FitSettings = field(default_factory=FitSettings)

    @property
    def about(self) -> Method:
        return METHODS[self.method]


@dataclass(frozen=True)
class Setting:
    """A prior, its data, and what is done with them.

    prior: whatever `load_prior` takes, with prior_options. data: see `deft.bench.images` (default: the bundled set of the prior's name).
    features: a network of `FEATURES` ("NAME:PATH" for one that needs a file; default: the data's own, or none). curve: tasks with a curve.
    """

    prior: str
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    data: Data = ""
    features: str = ""
    curve: tuple[str, ...] = ()
    prior_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> Data:
        return self.data or self.prior

    @property
    def title(self) -> str:
        """For people: the prior, and the images it is tested on where they are not its own."""
        data = self.source if isinstance(self.source, str) else self.source.get("test", "")
        return short(self.prior) + ("" if data in ("", self.prior) else f" on {short(data)}")

    @property
    def looked_at(self) -> str:
        """The feature network: what the file says, or that of the images which are tested on; "" if there is none."""
        test = self.source if isinstance(self.source, str) else self.source.get("test", "")
        return self.features or features_for(test.partition(":")[0])


@dataclass(frozen=True)
class Study:
    """A whole comparison."""

    title: str
    on: tuple[Setting, ...]
    arms: dict[str, Arm]
    images: int = 48
    samples: int = 4
    seeds: tuple[int, ...] = (0,)
    batch: int = 64
    versus: str = "deft"
    tune: Tuning = field(default_factory=Tuning)
    curve: Curve = field(default_factory=Curve)
    task_options: dict[str, dict[str, Any]] = field(default_factory=dict)


def tuned_by(metric: str, on: Setting) -> str:
    """The metric that settings are found by: `metric`, but pixels in place of features for images that no feature network belongs to."""
    return "energy_score_pixels" if metric == "energy_score" and on.looked_at in ("", "none") else metric


def short(name: str) -> str:
    """The name of a prior, a folder or a file, as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name if "/" in name else name)[-40:]


def _make(kind: type[T], values: Mapping[str, Any], where: str, **more: Any) -> T:
    """`kind` from a table of the file; lists become tuples."""
    known = {f.name for f in fields(kind)} - set(more)  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise unknown(f"key in {where}", key, known)
    read = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return kind(**read, **more)
    except TypeError as error:
        raise InputError(f"{where}: {str(error).rpartition('__init__() ')[2]}") from error


def _check_numbers(where: str, thing: Any, names: Sequence[str], least: int = 1) -> None:
    for name in names:
        value = getattr(thing, name)
        for v in value if isinstance(value, tuple) else (value,):
            if isinstance(v, bool) or not isinstance(v, int) or v < least:
                raise InputError(f"{where}.{name} must be a whole number of at least {least}, got {v!r}")


def read_study(path: str | Path) -> Study:
    """Read and check a comparison's file. Every name in it is looked up before any work begins."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}; give a TOML file (docs/compare.md)") from error
    try:
        return make_study(tomllib.loads(text), path.stem)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}") from error


def make_study(table: Mapping[str, Any], title: str = "comparison") -> Study:
    """A `Study` from the tables of its file."""
    top = dict(table)
    fits = _make(FitSettings, top.pop("fit", {}), "[fit]")
    tune, curve = _make(Tuning, top.pop("tune", {}), "[tune]"), _make(Curve, top.pop("curve", {}), "[curve]")
    _check_numbers("tune", tune, ("images", "budget", "steps", "points"))
    _check_numbers("tune", tune, ("calls",), least=0)
    _check_numbers("tune", tune, ("samples",), least=2)
    _check_numbers("curve", curve, ("images", "points", "calls"))
    _check_numbers("curve", curve, ("samples",), least=2)
    _check_metric(tune.metric)
    arms = {name: _arm(name, dict(values), fits) for name, values in top.pop("arms", {}).items()}
    settings = []
    for i, values in enumerate(top.pop("on", [])):
        one = _make(Setting, values, f"[[on]] number {i + 1}")
        for name in one.tasks:
            get_task(name)
        for name in one.curve:
            if name not in one.tasks:
                raise unknown(f"task (curve of [[on]] number {i + 1})", name, one.tasks)
        for name in one.arms:
            if name not in arms:
                if name not in METHODS:
                    raise unknown("arm or method", name, {*arms, *METHODS})
                arms[name] = _arm(name, {}, fits)
        _check_setting(one, i + 1)
        settings.append(one)
    if not settings:
        raise InputError("the file has no [[on]] table: say on which prior and tasks to compare, e.g. prior = \"fashion\", tasks = [\"inpaint\"], arms = [\"pigdm\"]")
    options = top.pop("tasks", {})
    for task, values in options.items():
        get_task(task, **values)
    for arm in arms.values():
        if arm.tuned_as and arm.tuned_as not in arms:
            raise unknown(f"arm (tuned_as of {arm.name})", arm.tuned_as, arms)
    study = _make(Study, {"title": title, **top}, "the file", on=tuple(settings), arms=arms, tune=tune, curve=curve, task_options=options)
    _check_numbers("the file", study, ("images", "samples", "batch"))
    _check_numbers("the file", study, ("seeds",), least=0)
    if len(set(study.seeds)) != len(study.seeds) or not study.seeds:
        raise InputError(f"seeds must be different whole numbers, got {list(study.seeds)}")
    for arm in arms.values():
        uncovered = sorted(set(study.seeds) - set(arm.fit.seeds))
        if arm.about.trained and len(arm.fit.seeds) > 1 and uncovered:
            raise InputError(
                f"fit.seeds of {arm.name} are {list(arm.fit.seeds)}, which leaves out {uncovered} of seeds = {list(study.seeds)}: give one fit, or one for each seed "
                "(intervals take seeds for independent fits)"
            )
    return study


def _check_metric(metric: str) -> None:
    """Only proper scores: a distance of single samples is least for samples that vary too little, and so would find such settings."""
    if metric in PROPER:
        return
    if metric not in METRICS:
        raise unknown("tune.metric", metric, PROPER)
    raise InputError(
        f"tune.metric = {metric!r}: nothing is tuned by a score that rewards too little spread or ignores it; give one that is least for the true "
        f"posterior ({', '.join(PROPER)}). {METRICS[metric].title} is in the report all the same"
    )


def _check_setting(one: Setting, number: int) -> None:
    where = f"[[on]] number {number}"
    if isinstance(one.source, str) and not one.data and one.prior not in DATASETS:
        raise InputError(f'{where}: the prior {one.prior} has no images of its own: add data = "FOLDER", or data = {{ fit = ..., validation = ..., test = ... }}')
    check_data(one.source, where)
    name = one.features.partition(":")[0]
    if name and name not in (*FEATURES, "none"):
        raise unknown(f"feature network in {where}", name, FEATURES)


def _arm(name: str, values: dict[str, Any], fits: FitSettings) -> Arm:
    method = values.pop("method", name)
    get_method(method)
    changes = values.pop("fit", {})
    read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in _known(changes, name).items()}
    changed = replace(fits, **read)
    arm = _make(Arm, values, f"[arms.{name}]", name=name, method=method, fit=changed)
    plan(method, settings=arm.settings, steps=arm.steps, eta=arm.eta, spacing=arm.spacing, sampler=arm.sampler)  # says what is wrong with them
    return arm


def _known(changes: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    known = {f.name for f in fields(FitSettings)}
    for key in changes:
        if key not in known:
            raise unknown(f"key in [arms.{name}] fit", key, known)
    return changes


def title_of(arm: Arm) -> str:
    return arm.title or (METHODS[arm.method].title if arm.name == arm.method else arm.name)


__all__ = ["Arm", "Curve", "FitSettings", "Setting", "Study", "Tuning", "make_study", "read_study", "title_of", "tuned_by"]
