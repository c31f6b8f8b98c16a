"""deft.fit_h: an h-transform for a frozen prior and a task, by the recipe. `deft fit`, the demo and `deft compare` all
call it.

    prior's samples -> calibrate -> prediction cache -> fit, best held-out weights kept -> weight and errors by noise
    level

What an h should learn, E[x_0 | x_t, y], is a property of the prior and the measurement alone: samples of the prior are
data without end (docs/fit.md).
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.arguments import checks_arguments
from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.core.random import Noise
from deft.errors import DeftError, InputError, NonFiniteError, unknown
from deft.io.cards import is_count, is_number
from deft.io.files import write_json
from deft.io.folders import holds_folder
from deft.io.h_files import KINDS, start_from
from deft.io.identity import samples_digest
from deft.io.reading import json_table, read_json
from deft.kinds.domain import domain_of
from deft.kinds.stored import Samples, Stored, bounded, joined
from deft.learned import DEFT, Learned, kind_of
from deft.learned.base import count_parameters, report_size
from deft.learned.deft import STARTS
from deft.likelihood.gaussian import why_unsupported
from deft.likelihood.task import Task, Through
from deft.likelihood.unknown import UnknownTask
from deft.methods import plan
from deft.prior import load_prior
from deft.prior.check import warning as convention_warning
from deft.recipe.data import Source, TrainingData, title_of, training_data, unknown_pairs, unknown_task
from deft.recipe.fitted import FittedH
from deft.recipe.intervals import (
    MIN_IMAGES,
    PRIOR_SAMPLES,
    SAMPLES,
    TRIAL,
    check_intervals,
    has_coverage,
    has_plan,
    how_many,
    reserved,
)
from deft.recipe.settings import MAX_SAMPLES, MAX_STEPS, OBJECTIVES, Recipe, Sizes, sizes_for, time_parts
from deft.runtime.distributed import get_world
from deft.runtime.memory import check_memory
from deft.runtime.messages import Callback, log, shown
from deft.tensors import as_device, float32_default
from deft.train.augment import flipped_pairs
from deft.train.cache import PredictionCache
from deft.train.data import Clean, Pairs, Repeated
from deft.train.denoising import DenoisingObjective
from deft.train.fit import FitConfig, fit, launched_config, read_resumable, whole_identity
from deft.train.level_weight import fit_level_weight
from deft.train.levels import CURE, level_errors, level_warning
from deft.train.prior_samples import CHUNK, STEPS, draw_prior_samples, prior_gap
from deft.train.protocols import Batches, task_identity

LEVEL_IMAGES = 200
"""Held-out samples for the errors by noise level."""
MAX_HELD_OUT = 2**30
"""Bytes of predictions for held-out evaluations, of a fit to data that do not fit in memory."""
FEW_PAIRS = "fit with more pairs, or a smaller --size"
"""What to do about an h that is worse than the prior, where there can be no further pairs but the user's."""


@checks_arguments
@holds_folder
def fit_h(
    prior: Denoiser | str,
    task: Task | str | None = None,
    data: Source | TrainingData = None,
    held_out: Source = None,
    recipe: Recipe | None = None,
    *,
    h: Learned | None = None,
    folder: str | Path | None = None,
    samples_folder: str | Path | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    callback: Callback | None = None,
    trust_code: bool = False,
    **changes: Any,
) -> FittedH:
    """Fit an h-transform to a frozen prior and a task, on your data, on samples of the prior, or on both.

    Args:
        prior: a frozen denoiser, or whatever `load_prior` takes.
        task: what is measured, or its name. None for pairs (x, y) of which nobody knows how y was made: then h is shown
            y alone (docs/pairs.md).
        data: samples [N, *data_shape] in model space, a file, a folder, the name of a bundled set, or your own `Pairs`;
            None fits to samples of the prior alone. Without a task, a tuple (x, y): y [N, *M] of any shape.
        held_out: in the same form, decides which weights are kept. Default: a tenth of the data (of a bundled set its
            split `validation`); without data, further samples of the prior.
        recipe: how; further keywords change single settings of it (`seconds=90`).
        h: the h to fit, already built, in place of one that the recipe builds.
        folder: where `state.pt` and the sizes are kept, for `resume`. samples_folder: where samples of the prior are
            kept; fits of other tasks may share it (default: prior-samples in `folder`).
        progress: bars; None draws them at a terminal and in a notebook. What is done is logged
            (`deft.runtime.messages.show`).
        callback: called at each evaluation with its row of numbers.
        trust_code: an h that `start_from` names may have a network of its own, whose code then runs.

    Returns:
        h with the best weights, and what its fit has left to say; see `FittedH`.

    Raises:
        InputError: there is nothing to fit to, data of another shape, an unknown setting. NonFiniteError: the loss or a
            sample was not finite. CheckpointError: `resume` of another fit.

    >>> import deft
    >>> from deft.testing import half_seen
    >>> world, obs = half_seen(4)
    >>> class Half:
    ...     def observe(self, x, noise):
    ...         return deft.Observation(obs.likelihood.sample(x, noise), obs.likelihood)
    >>> h = deft.DEFT((16,), 2, width=8)
    >>> small = dict(steps=4, batch=8, prior_samples=16, cache=32)
    >>> fitted = fit_h(world.prior(deft.VPCosine()), Half(), h=h, progress=False, **small)
    >>> fitted.sizes
    Sizes(prior_samples=16, cache=32, fresh=0.0)
    """
    recipe = (recipe or Recipe()).changed(**changes)
    recipe = recipe.changed(bf16=launched_config(recipe.fit_config(recipe.steps, recipe.seconds)).bf16)
    prior = prior if isinstance(prior, Denoiser) else load_prior(prior)
    task, data, held_out = (
        _of_pairs(prior, data, held_out) if task is None else (find_task(prior, task), data, held_out)
    )
    place = next((p.device for p in prior.parameters()), torch.device("cpu")) if device is None else as_device(device)
    found = data if isinstance(data, TrainingData) else training_data(prior, data, held_out, recipe.seed)
    for note in found.notes:
        log.info(note)
    if found.n == 0 and recipe.prior_samples == 0:
        raise InputError(
            "nothing to fit to: no data and no samples of the prior; give data, or leave prior_samples open"
        )
    if isinstance(task, UnknownTask):
        _check_unknown(task, found, recipe)
    elif recipe.flips:
        raise InputError("flips (--flips) are for pairs of an unknown degradation, x and y alike: leave them out")
    doubts = _doubts(prior, found)
    h = build_h(prior, task, recipe, trust_code) if h is None else h
    _check_kind(h, prior, task, found)
    out_of = 0 if found.x_out is None else len(found.x_out)
    log.info(
        f"fitting to {found.n} {title_of(prior)}, {out_of} held out"
        if found.n
        else "no data: fitting to samples of the prior alone"
    )
    run = _Fit(
        h, prior, task, found, recipe, place, shown(progress), callback, folder=folder, samples_folder=samples_folder
    )
    try:
        if isinstance(task, UnknownTask):
            out = run.on_unknown(resume)
        else:
            out = run.on_pairs(resume) if found.obs is not None else run.on_samples(resume)
    except NonFiniteError as error:
        state = Path(folder or ".") / "state.pt"
        kept = f" (the last good state is kept: {state})" if folder is not None and state.exists() else ""
        raise NonFiniteError(f"{error}{kept}") from error
    return replace(out, warnings=doubts + out.warnings)


def _of_pairs(prior: Denoiser, data: Any, held_out: Any) -> tuple[Task, Source | TrainingData, Source]:
    """(task, data, held-out data) of pairs of an unknown degradation."""
    if not isinstance(data, tuple) or not (held_out is None or isinstance(held_out, tuple)):
        raise InputError(
            "fit_h needs a task, or pairs data=(x, y) of an unknown degradation (held_out in the same form), got"
            f" {type(data).__name__}"
        )
    task = unknown_task(prior, data)
    return task, unknown_pairs(prior, task, data), None if held_out is None else unknown_pairs(prior, task, held_out)


def _check_unknown(task: UnknownTask, data: TrainingData, recipe: Recipe) -> None:
    """What a fit to pairs of an unknown degradation cannot have."""
    if data.obs is None:
        raise InputError(
            "an unknown degradation cannot be applied to new data: give pairs (x, y) of it, and no other data"
        )
    if recipe.prior_samples:
        raise InputError(
            "samples of the prior cannot be further pairs: nobody knows how to make a y of them. Leave prior_samples"
            " (--prior-samples) out"
        )
    if task.encode and recipe.method not in ("deft", "amortised"):
        raise InputError(
            f"{recipe.method} sees y as pictures, and this y is {task.encode} numbers: take deft or amortised, which"
            " have an encoder"
        )


def find_task(prior: Denoiser, task: Task | str) -> Task:
    """A task, or the one of that name among those of the prior's kind of data."""
    if not isinstance(task, str):
        if isinstance(task, type) or not hasattr(task, "observe"):
            name = getattr(task, "__name__", type(task).__name__)
            raise InputError(f"task is {name}: expected a task, an object with observe(x, noise), or the name of one")
        return task
    domain = domain_of(prior)
    if domain is None:
        raise InputError(
            f"no kind of data is known whose samples have the shape {tuple(prior.data_shape)}: give the task itself,"
            " not its name"
        )
    return domain.make_task({"name": task})


def build_h(prior: Denoiser, task: Task, recipe: Recipe, trust_code: bool = False) -> Learned:
    """The h that a recipe asks for, untrained, in the precision of the prior's samples; its weights are a function of
    the recipe's seed alone."""
    with float32_default():
        return _build_h(prior, task, recipe, trust_code).to(prior.state_like().dtype)


def _views(prior: Denoiser, task: Task) -> int:
    """Sample-sized views of y that an h is shown; a task that does not say is asked for a measurement."""
    known = getattr(task, "feature_channels", None)
    if known is not None:
        return int(known)
    return task.observe(torch.zeros(1, *prior.data_shape), Noise(0, 1)).likelihood.feature_channels


def _build_h(prior: Denoiser, task: Task, recipe: Recipe, trust_code: bool) -> Learned:
    views = _views(prior, task)
    if recipe.start_from:
        h: Learned = start_from(recipe.start_from, prior, views, trust_code=trust_code)
        if isinstance(task, UnknownTask):
            _check_start(h, task, recipe.start_from)
        log.info(f"starting from {recipe.start_from}")
        return report_size(h, prior)
    if recipe.width is not None and "net" not in recipe.options:
        with torch.device("meta"):
            n = count_parameters(DEFT(prior.event_shape, views, recipe.width))
        # weights, gradients, two moments of the optimiser and the average
        check_memory(20 * n, f"an h of width {recipe.width} ({n:,} parameters)", "give a smaller --width")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        form = task.form if isinstance(task, UnknownTask) else {}
        if recipe.width is not None:
            options = {**form, **recipe.options}
            return report_size(DEFT(prior.event_shape, views, recipe.width, **options), prior)
        kind, takes = KINDS[recipe.method], check_options(recipe.method, recipe.options)
        form = form if recipe.method == "deft" else {k: v for k, v in form.items() if k in takes}
        return kind.sized(prior, recipe.size, views, **{**form, **recipe.options})


def check_options(method: str, options: Mapping[str, Any]) -> Mapping[str, inspect.Parameter]:
    """What a kind of h is made with by its size; the names of options are among it.

    Raises:
        InputError: an option that this kind does not have, or one of a `DEFT` with a value that is none.
    """
    kind = KINDS[method]
    takes = inspect.signature(kind.sized).parameters
    known = (
        [*inspect.signature(kind).parameters, *takes]
        if any(p.kind is p.VAR_KEYWORD for p in takes.values())
        else [*takes]
    )
    hidden = ("prior", "size", "feature_channels", "log", "options", "event_shape")
    for name in options:
        if name not in known:
            raise unknown(f"option of {method}", name, [k for k in known if k not in hidden])
    return takes


def try_options(method: str, options: Mapping[str, Any]) -> None:
    """`check_options`, and the values of a DEFT's options on a small one that takes no memory: for options from a
    file."""
    check_options(method, options)
    if method != "deft":
        return
    rest = {k: v for k, v in options.items() if k not in ("start", "domain")}
    if "start" in options and options["start"] not in STARTS:
        raise unknown("start", str(options["start"]), STARTS)
    for key in ("net", "event_shape", "feature_channels", "width"):
        if key in rest:
            raise InputError(f"{key} is no option that a file can give")
    with torch.device("meta"):
        DEFT((1, 8, 8), 1, 4, **rest)


def _check_start(h: Learned, task: UnknownTask, source: str) -> None:
    """Refuse to start a fit to pairs alone from an h that needs an operator, or sees another y."""
    form = h.config()
    if form.get("residual", True) or "g" in form.get("inputs", ()):
        raise InputError(
            f"{source} looks at the operator (its guide g), of which pairs alone say nothing: start from an h that was"
            " fitted to pairs, or from none"
        )
    if form.get("encode", 0) != task.encode:
        raise InputError(
            f"{source} sees a y of {form.get('encode', 0) or 'sample-sized'} numbers, this one has"
            f" {task.encode or 'sample-sized'}: start from an h for such y, or from none"
        )


def _check_kind(h: Learned, prior: Denoiser, task: Task, data: TrainingData) -> None:
    """Refuse a measurement that this kind of h is not made for, before anything is drawn or fitted."""
    if h.requires == Learned.requires:
        return
    obs = data.obs if data.obs is not None else task.observe(torch.zeros(1, *prior.data_shape), Noise(0, 1))
    reason = why_unsupported(obs.likelihood, h.requires, h.title)
    if reason:
        raise InputError(f"{reason}. It serves all that it can be used with: fit it with one of these")


def _doubts(prior: Denoiser, data: TrainingData) -> list[str]:
    """Warnings that come before anything is fitted: a prior read by the wrong convention, pairs that do not match."""
    doubt = convention_warning(prior, bounded(data.x)) if data.x is not None and len(data.x) > 1 else None
    found = [*data.warnings, *([doubt] if doubt else [])]
    for line in found:
        log.warning(line)
    return found


class _Fit:
    """One run of `fit_h`: what its parts share."""

    def __init__(
        self,
        h: Learned,
        prior: Denoiser,
        task: Task,
        data: TrainingData,
        recipe: Recipe,
        place: torch.device,
        progress: bool,
        callback: Callback | None,
        *,
        folder: str | Path | None,
        samples_folder: str | Path | None,
    ):
        self.h, self.prior, self.task, self.data, self.recipe, self.place = h, prior, task, data, recipe, place
        self.progress, self.callback, self.folder = progress, callback, None if folder is None else Path(folder)
        self.samples_folder = (
            samples_folder
            if samples_folder is not None
            else (None if folder is None else Path(folder) / "prior-samples")
        )
        self.measured = Through(task, prior)
        self.known = Repeated(data.obs) if data.obs is not None else self.measured
        self.objective = OBJECTIVES[h.objective](prior, recipe.weighting, recipe.focus, recipe.even)
        self.spent: dict[str, float] = {}
        self.warnings: list[str] = []

    def on_samples(self, resume: bool) -> FittedH:
        """On data and samples of the prior, measured afresh at every step, by the prediction cache."""
        recipe, prior, x, x_out = self.recipe, self.prior, self.data.x, self.data.x_out
        fixed = bool(getattr(self.task, "fixed", False))
        identity = self._identity()
        resuming = resume and self._can_resume(identity)
        shown_to = x if x is not None else self._prior_samples(CHUNK)
        sizes = self._sizes(shown_to, kept=resume)

        everything: list[Samples] = [] if x is None else [x.cpu() if isinstance(x, Tensor) else x]
        if sizes.prior_samples:
            log.info(
                f"drawing {sizes.prior_samples:,} samples of the prior, {STEPS} calls each, as further data to fit to"
            )
            begun = draw_prior_samples(
                prior, sizes.prior_samples, seed=recipe.seed, folder=self.samples_folder, progress=self.progress
            )
            self.spent["prior samples"] = begun.seconds
            self._warn(prior_gap(begun.x, bounded(x), title_of(prior)) if x is not None else None)
            everything.append(begun.x)
        if x_out is None:
            x_out = self._prior_samples(256, first=MAX_SAMPLES * 8)

        started = time.monotonic()
        if recipe.calibrate:
            self.h.calibrate(prior, shown_to if isinstance(shown_to, Tensor) else shown_to[:128], seed=recipe.seed)
        batches: Batches
        drawn: dict[str, Any] = {"focus": recipe.focus, "even": recipe.even, "fixed": fixed}
        whole = joined(everything)
        if sizes.cache:
            batches = PredictionCache.build(
                prior,
                whole,
                self.measured,
                sizes.cache,
                fresh=sizes.fresh,
                progress=self.progress,
                seed=recipe.seed,
                **drawn,
            )
        else:
            batches = Clean(whole, self.measured, fixed=fixed)
        config = recipe.fit_config(recipe.steps if recipe.seconds is None else MAX_STEPS, None)
        if isinstance(x, Stored):
            config = replace(config, held_out_batches=few_batches(config, x))
        held_out = PredictionCache.build(
            prior, x_out.cpu(), self.measured, config.held_out_batches * recipe.batch, seed=recipe.seed + 1, **drawn
        )
        self.spent["prediction cache"] = time.monotonic() - started

        if recipe.seconds is not None:
            config = replace(config, max_seconds=self._left(recipe.seconds))
        return self._train(batches, held_out, config, resuming, identity, sizes, x_out, None)

    def on_pairs(self, resume: bool) -> FittedH:
        """On pairs of samples and their measurements, as they are: no samples of the prior, no cache."""
        data, recipe = self.data, self.recipe
        assert isinstance(data.x, Tensor) and data.obs is not None
        assert data.x_out is not None and data.obs_out is not None
        if recipe.calibrate:
            self.h.calibrate(self.prior, data.x, seed=recipe.seed)
        config = launched_config(recipe.fit_config(recipe.steps, recipe.seconds))
        return self._train(
            Pairs(data.x, data.obs),
            Pairs(data.x_out, data.obs_out),
            config,
            resume,
            None,
            Sizes(0, 0),
            data.x_out,
            data.obs_out,
        )

    def on_unknown(self, resume: bool) -> FittedH:
        """On pairs of an unknown degradation, as they are, by the prediction cache; there are no samples of the prior,
        for nobody could measure them."""
        recipe, prior, data = self.recipe, self.prior, self.data
        assert isinstance(data.x, Tensor) and data.obs is not None
        assert data.x_out is not None and data.obs_out is not None
        x, obs = (data.x, data.obs) if not recipe.flips else flipped_pairs(data.x, data.obs, recipe.flips)
        identity = self._identity() | {
            "measurements": obs.fingerprint()[:16],
            "held-out measurements": data.obs_out.fingerprint()[:16],
        }
        resuming = resume and self._can_resume(identity)
        sizes = replace(self._sizes(x, kept=resume), prior_samples=0)
        started = time.monotonic()
        if recipe.calibrate:
            self.h.calibrate(prior, x, seed=recipe.seed)
        drawn: dict[str, Any] = {"focus": recipe.focus, "even": recipe.even}
        known = Repeated(obs)
        batches: Batches = Pairs(x, obs)
        if sizes.cache:
            batches = PredictionCache.build(
                prior, x.cpu(), known, sizes.cache, fresh=sizes.fresh, fixed=obs.to("cpu"), progress=self.progress,
                seed=recipe.seed, **drawn,
            )  # fmt: skip
        config = recipe.fit_config(recipe.steps if recipe.seconds is None else MAX_STEPS, None)
        held_out = PredictionCache.build(
            prior, data.x_out.cpu(), known, config.held_out_batches * recipe.batch, fixed=data.obs_out.to("cpu"),
            seed=recipe.seed + 1, **drawn,
        )  # fmt: skip
        self.spent["prediction cache"] = time.monotonic() - started
        if recipe.seconds is not None:
            config = replace(config, max_seconds=self._left(recipe.seconds))
        return self._train(batches, held_out, config, resuming, identity, sizes, data.x_out, data.obs_out)

    def _train(
        self,
        batches: Batches,
        held_out: Batches,
        config: FitConfig,
        resume: bool,
        identity: dict[str, Any] | None,
        sizes: Sizes,
        x_out: Tensor,
        obs_out: Observation | None,
    ) -> FittedH:
        """Fit, then find h's weight and its errors by noise level on held-out samples."""
        result = fit(
            self.h,
            self.objective,
            batches,
            held_out,
            config=config,
            folder=self.folder,
            resume=resume,
            device=self.place,
            progress=self.progress,
            callback=self.callback,
            identity=identity,
        )
        self.spent["fit"] = result.seconds
        if result.ended:
            log.info(result.ended)
        self._warn(self.objective.doubt(min(result.held_out.values(), default=math.nan)))
        few = x_out[: min(LEVEL_IMAGES, max(16, result.steps))]  # a fit of a few steps is a trial
        obs = self.measured.observe(few, Noise(self.recipe.seed, len(few))) if obs_out is None else obs_out[: len(few)]
        unknown = isinstance(self.task, UnknownTask)
        cure = FEW_PAIRS if unknown else CURE
        levels, worse = weigh_levels(self.h, self.objective, held_out, config, few, obs, cure)
        worse += _nothing_learned(levels) if unknown else []
        for line in worse:
            self._warn(line)
        self.h.eval().requires_grad_(False)
        kept = self._intervals(x_out, obs_out, result.steps)
        return FittedH(
            self.h,
            self.prior,
            self.task,
            recipe=self.recipe,
            sizes=sizes,
            result=result,
            levels=levels,
            warnings=self.warnings,
            source=self.data.source,
            seconds=sum(self.spent.values()),
            spent=self.spent,
            card=kept,
        )

    def _left(self, seconds: float) -> float:
        """Of so much time for everything, what is left for the steps: intervals are checked after them."""
        kept = reserved(seconds, self.prior, self.h) if self.recipe.interval_images else 0.0
        return max(seconds - kept - sum(self.spent.values()), 0.25 * seconds, 1e-9)

    def _intervals(self, x_out: Tensor, obs_out: Observation | None, steps: int) -> dict[str, Any]:
        """For the card: how often intervals hold the truth on held-out samples, and what makes them hold it."""
        recipe, prior = self.recipe, self.prior
        if not recipe.interval_images or steps < TRIAL or not has_coverage(prior) or not has_plan(self.h):
            return {}
        if obs_out is not None and tuple(prior.data_shape) != tuple(prior.event_shape):
            return {}  # pairs of a latent prior are measurements of latents by now
        started = time.monotonic()
        drawn = plan(kind_of(self.h))
        count = how_many(recipe.interval_images, steps, recipe.seconds, prior, drawn)
        source = "held-out samples" if self.data.x_out is not None else PRIOR_SAMPLES
        if len(x_out) < MIN_IMAGES:
            if isinstance(self.task, UnknownTask):
                return {}  # nobody can measure a sample of the prior
            log.info(f"{len(x_out)} held-out samples are too few to check intervals on: samples of the prior are taken")
            x_out, obs_out, source = self._prior_samples(count, first=MAX_SAMPLES * 8), None, PRIOR_SAMPLES
        x = prior.decode(x_out[:count].to(prior.state_like()))
        obs = self.task.observe(x, Noise(recipe.seed + 78, len(x))) if obs_out is None else obs_out[: len(x)]
        where = prior.state_like().device
        try:
            found = check_intervals(
                self.h, prior, x, obs.to(where), drawn, n=SAMPLES, source=f"{len(x)} {source}", seed=recipe.seed
            )
        except DeftError as error:  # h is there, whatever its samples are
            self._warn(f"warning: the intervals of this h could not be checked: {error}")
            return {}
        self.spent["intervals"] = time.monotonic() - started
        log.info(f"intervals: checked on {found.source}")
        return {"intervals": found.config()}

    def _warn(self, line: str | None) -> None:
        if line:
            log.warning(line)
            self.warnings.append(line)

    def _prior_samples(self, n: int, first: int = 0) -> Tensor:
        return draw_prior_samples(self.prior, n, seed=self.recipe.seed, first=first, folder=self.samples_folder).x

    def _sizes(self, shown_to: Samples, kept: bool) -> Sizes:
        """How much is drawn: what an interrupted fit chose, or what follows from steps or time."""
        sizes = _kept_sizes(self.folder, self.recipe) if kept else None
        if sizes is not None:
            return sizes
        clock = (0.0, 0.0)
        if self.recipe.seconds is not None:  # the slowest process's clock, so that all choose the same
            world, own = get_world(), time_parts(self.h, self.prior, self.known, shown_to, self.recipe, self.place)
            clock = (world.pulse(False, own[0])[1], world.pulse(False, own[1])[1])
        recipe = self.recipe if self.data.obs is None else self.recipe.changed(prior_samples=0)
        sizes = sizes_for(recipe, self.prior, self.data.n, per_call=clock[0], per_step=clock[1])
        if self.folder is not None:
            write_json(self.folder / "sizes.json", asdict(sizes))
        return sizes

    def _identity(self) -> dict[str, Any]:
        """What a resumed fit must have in common with the one before. Samples of the prior follow from the prior and
        the seed."""
        data, held_out = (
            "samples of the prior" if v is None else f"{len(v)}, {samples_digest(v)}"
            for v in (self.data.x, self.data.x_out)
        )
        return {"data": {"images": data}, "held-out data": {"images": held_out}, **task_identity(self.task)}

    def _can_resume(self, identity: dict[str, Any]) -> bool:
        """Whether there is a state to go on from; False if the fit before was stopped while samples were drawn.

        Raises `CheckpointError` if there is nothing at all, or the state of another fit: before anything is drawn.
        """
        path = self.folder / "state.pt" if self.folder is not None else None
        if path is not None and not path.exists() and (path.parent / "sizes.json").exists():
            return False
        whole = whole_identity(self.h, self.objective, identity)
        config = launched_config(self.recipe.fit_config(self.recipe.steps, None))
        get_world().from_main(lambda: read_resumable(path, config, whole) and None)
        return True


def few_batches(config: FitConfig, x: Stored) -> int:
    """Batches of a held-out evaluation whose predictions take no more than `MAX_HELD_OUT` bytes; one at least."""
    each = 8 * math.prod(x.shape[1:]) * config.batch
    return max(1, min(int(config.held_out_batches), MAX_HELD_OUT // each))


def weigh_levels(
    h: Learned,
    objective: DenoisingObjective,
    held_out: Batches,
    config: FitConfig,
    x: Tensor,
    obs: Observation,
    cure: str = CURE,
) -> tuple[list[dict[str, float]], list[str]]:
    """What follows a fit: h's weight by noise level (for a `DEFT`), found on held-out batches, and its errors by level
    on images x with measurements obs. Returns the rows of `level_errors`, and warnings."""
    if isinstance(h, DEFT):
        fit_level_weight(h, objective, held_out, batch=config.batch, batches=config.held_out_batches, seed=config.seed)
    levels = level_errors(objective.prior, h, x, obs, seed=config.seed)
    worse = level_warning(levels, cure)
    return levels, [worse] if worse else []


def _nothing_learned(levels: list[dict[str, float]]) -> list[str]:
    """A warning if, at the noise levels where y alone can help, h is no better than the prior by 3 standard errors."""
    high = [r for r in levels if r["angle"] > 0.5]
    if any(r["prior"] - r["h"] > 3 * r.get("gain_se", math.inf) for r in high):
        return []
    return [
        "warning: h learned nothing from y that helps on held-out pairs: are x and y in the same order, and enough? (or"
        " give more --steps)"
    ]


def _kept_sizes(folder: Path | None, recipe: Recipe) -> Sizes | None:
    """The sizes that an interrupted fit chose; None if it has not come so far. Other sizes that are asked for are
    refused."""
    path = folder / "sizes.json" if folder is not None else None
    if path is None or not path.exists():
        return None
    what = "what an interrupted fit chose"
    found = json_table(read_json(path, what, InputError), path, what, InputError)
    right = {"prior_samples": is_count(found.get("prior_samples")), "cache": is_count(found.get("cache"))}
    right["fresh"] = is_number(found.get("fresh")) and 0 <= found["fresh"] <= 1
    for name, fine in right.items():
        if not fine:
            raise InputError(f"cannot read {path}: {name} is {found.get(name)!r:.40}; start again without --resume")
    sizes = Sizes(found["prior_samples"], found["cache"], float(found["fresh"]))
    for name, value in asdict(sizes).items():
        asked = getattr(recipe, name)
        if asked is not None and asked != value:
            raise InputError(
                f"this fit began with {name} = {value}, and is to be resumed with {asked}: leave it out, or start again"
                " without --resume"
            )
    return sizes
