"""The recipe: how an h is fitted to a frozen prior. `deft fit`, the demo and `deft compare` all call `fit_h`.

    prior's samples -> calibrate -> prediction cache -> fit, best held-out weights kept -> errors by noise level

An h of a tenth of the prior learns a thousand images by heart within minutes, and its conditioned mean is then worse than
the prior's own at low noise. So the recipe adds samples of the prior to the images (or goes without images), keeps the
best weights of all evaluations, ends when nothing gets better, and says at which noise levels h is worse than no h at all.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.random import BatchNoise, Noise
from deft.errors import InputError
from deft.io.files import write_json
from deft.io.identity import digest
from deft.learned import DEFT, Learned
from deft.likelihood import Observation
from deft.likelihood.task import Task, Through
from deft.runtime.distributed import get_world
from deft.train.cache import Bank
from deft.train.data import Clean
from deft.train.denoising import DenoisingObjective
from deft.train.fit import FitConfig, FitResult, fit, launched_config, read_resumable, whole_identity
from deft.train.level_weight import fit_level_weight
from deft.train.levels import level_errors, level_warning
from deft.train.prior_samples import CHUNK, STEPS, draw_prior_samples, prior_gap
from deft.train.protocols import Batches, task_identity

Say = Callable[[str], None]

VISITS = 32
"""How often one image may be seen in a fit: with a thousand images the held-out loss rises after some sixty times, and at low noise
before that (docs/fit.md)."""
TIMED_VISITS = 64
"""The same where the time is given: what drawing takes is then missing from the fit (docs/fit.md)."""
REUSE = 8
"""How often one cached prediction may be seen."""
FRESH = 1 / 8
"""Share of each batch that is drawn anew where memory keeps the cache smaller than that."""
MAX_SAMPLES = 20_000
MAX_BYTES = 2**31
"""Memory that samples of the prior may take, unless a number is asked for."""
MAX_CACHE = 100_000
HELD_OUT = 512
"""Draws of the held-out loss: enough that its own noise is below 2 % of it, the same at every evaluation."""
MAX_STEPS = 1_000_000
LEVEL_IMAGES = 200
"""Held-out images for the errors by noise level."""


@dataclass(frozen=True)
class Recipe:
    """How an h is fitted. The defaults are the best known ones, for every task.

    steps, batch: optimiser steps and rows of each. seconds: time for all of it (samples, cache and fit), in place of a number of
        steps.
    prior_samples: samples of the prior that are added to the images; None chooses: as many as keep every image from being
        seen more than `VISITS` times (`TIMED_VISITS` with `seconds`). 0 for none.
    cache: cached predictions; None chooses: each is used about `REUSE` times, in 4 GiB at most. 0 draws all anew.
    fresh: share of each batch that is drawn anew beside the cache; None takes 1/8 where memory keeps the cache smaller than wanted.
    patience, evaluations, weights: see `FitConfig`; the fit ends early when nothing gets better.
    weighting, focus, even: of the loss over noise levels, see `DenoisingObjective`.
    """

    steps: int = 2000
    seconds: float | None = None
    batch: int = 64
    lr: float = 2.5e-3
    warmup: int = 50
    ema: float = 0.998
    weight_decay: float = 0.0
    prior_samples: int | None = None
    cache: int | None = None
    fresh: float | None = None
    patience: int = 6
    evaluations: int = 20
    weights: str = "best"
    weighting: str = "between"
    focus: float = 3.0
    even: float = 0.5
    calibrate: bool = True
    seed: int = 0
    bf16: bool = False
    accumulate: int = 1
    streams: bool = False

    def __post_init__(self) -> None:
        self.fit_config(self.steps, None)
        for name in ("prior_samples", "cache"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{name} must be at least 0 (None chooses), got {value}")
        if self.fresh is not None and not 0 <= self.fresh < 1:
            raise InputError(f"fresh is a share of each batch, at least 0 and below 1, got {self.fresh}")
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"seconds must be above 0, got {self.seconds}")

    def fit_config(self, steps: int, seconds: float | None) -> FitConfig:
        """What `fit` is given: the recipe's settings for so many steps, or so much time."""
        return FitConfig(
            steps=steps, batch=self.batch, lr=self.lr, warmup=self.warmup, weight_decay=self.weight_decay, ema=self.ema, bf16=self.bf16,
            seed=self.seed, max_seconds=seconds, evaluations=self.evaluations, held_out_batches=max(1, min(HELD_OUT // self.batch, steps // 8)),
            patience=self.patience, accumulate=self.accumulate, streams=self.streams, weights=self.weights,
        )  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much is drawn: samples of the prior, cached predictions, and the share of each batch beside the cache."""

    prior_samples: int
    cache: int
    fresh: float = 0.0


@dataclass
class Fitted:
    """What a fit leaves.

    h: with the best weights. result: of `fit`. sizes: what was drawn. levels: errors on held-out images by noise level, see
    `level_errors`. warnings: what to know before using it. seconds: of all of it, drawing included, and `spent` of its parts.
    """

    h: Learned
    result: FitResult
    sizes: Sizes
    levels: list[dict[str, float]]
    warnings: list[str]
    seconds: float
    spent: dict[str, float] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        """What a card keeps of the fit."""
        r = self.result
        return {
            "steps": r.steps, "seconds": round(self.seconds, 1), "seconds_of": {k: round(v, 1) for k, v in self.spent.items()},
            "weights": r.weights, "best_step": r.best_step, "held_out_loss": r.held_out, "ended": r.ended,
            "prior_samples": self.sizes.prior_samples, "cache": self.sizes.cache, "fresh": self.sizes.fresh, "levels": self.levels, "warnings": self.warnings,
        }  # fmt: skip


def sizes_for(recipe: Recipe, prior: Denoiser, images: int, *, per_call: float = 0.0, per_step: float = 0.0, share: float = 0.27) -> Sizes:
    """How many samples of the prior and cached predictions a recipe asks for, beside so many images.

    With `recipe.seconds`, the time is split so that no image is seen more than `TIMED_VISITS` times and no cached prediction more
    than `REUSE` times: for k steps of B rows, k B / TIMED_VISITS images and k B / REUSE cached predictions. Otherwise the number of steps is
    known, and samples are drawn for at most one and a half times what the rest costs.

    Args:
        per_call, per_step: seconds of one call of the prior, and of one step of the fit from the cache.
        share: what a row of a step costs without the cache, in calls of the prior (three passes of h of 9 %).
    """
    b = recipe.batch
    calls_a_step = b / REUSE  # the cache's, or as many fresh draws
    visits = VISITS if recipe.seconds is None else TIMED_VISITS
    drawing = STEPS * b / visits  # the samples'
    if recipe.seconds is not None:
        k = recipe.seconds / (per_step + calls_a_step * per_call)
        if k * b / visits > images:
            k = (recipe.seconds + images * STEPS * per_call) / (per_step + (calls_a_step + drawing) * per_call)
            k = max(k, 0.0)
        samples = math.ceil(k * b / visits) - images
    else:
        k = float(recipe.steps)
        rest = k * (calls_a_step + share * b)
        samples = min(math.ceil(k * b / visits) - images, int(1.5 * rest / STEPS))
    if recipe.prior_samples is not None:
        samples = recipe.prior_samples
    elif images == 0:
        samples = max(samples, 4 * CHUNK)
    fitting = max(MAX_BYTES // (4 * math.prod(prior.event_shape)), CHUNK)
    samples = max(0, min(samples, min(MAX_SAMPLES, fitting) if recipe.prior_samples is None else samples))
    cache, fresh = recipe.cache, recipe.fresh
    wanted = min(max(math.ceil(k * b / REUSE), 1000), MAX_CACHE)
    if cache is None:
        cache = Bank.default_size(prior.event_shape, size=wanted)
    if fresh is None:
        fresh = FRESH if 0 < cache < wanted and recipe.cache is None else 0.0
    return Sizes(samples, cache, fresh)


def time_parts(h: Learned, prior: Denoiser, task: Any, x: Tensor, recipe: Recipe, device: torch.device) -> tuple[float, float]:
    """(seconds of one call of the prior, seconds of one step of h from cached predictions), measured on a batch; h is left as it was."""
    objective = DenoisingObjective(prior, recipe.weighting, recipe.focus, recipe.even)
    batch = Clean(x, task).draw(recipe.batch, recipe.seed, -1, device)
    noise = BatchNoise(recipe.batch, recipe.seed, 9)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def clock(run: Callable[[], object], times: int) -> float:
        run()
        wait()
        started = time.perf_counter()
        for _ in range(times):
            run()
        wait()
        return (time.perf_counter() - started) / times

    per_call = clock(lambda: objective.predict(batch.x, noise), 2) / recipe.batch
    known = batch._replace(prediction=objective.predict(batch.x, noise))
    h.to(device).train()
    per_step = clock(lambda: objective(h, known, noise).value.backward(), 3)
    h.zero_grad(set_to_none=True)
    return per_call, per_step * 1.15  # the optimiser, the average and the measuring of a batch are the rest


def fit_h(
    h: Learned, prior: Denoiser, task: Task, x: Tensor | None, x_out: Tensor | None, recipe: Recipe | None = None, *,
    folder: str | Path | None = None, samples_folder: str | Path | None = None, resume: bool = False, device: torch.device | str | None = None,
    progress: bool = True, say: Say = lambda text: None, on_evaluation: Callable[[dict[str, float]], None] | None = None,
) -> Fitted:  # fmt: skip
    """Fit h to a frozen prior and a task, on images, on samples of the prior, or on both.

    Args:
        h: as built (`DEFT.sized(prior, 0.09, task.lift_channels)`), or begun elsewhere.
        x: images to fit to, [N, *E] of the prior (`prior.encode` brings data there), or None for samples of the prior alone.
        x_out: held-out images, which decide what is kept; None for held-out samples of the prior.
        folder: where `state.pt` and the sizes are kept for `resume`. samples_folder: where samples of the prior are kept; fits of
            other tasks may share it (default: prior-samples in `folder`).
        say: told what is being done, and warnings.

    Raises: what `fit` raises; InputError if there is nothing to fit to.
    """
    recipe, world = recipe or Recipe(), get_world()
    fixed = bool(getattr(task, "fixed", False))
    measured, where = Through(task, prior), next((p.device for p in prior.parameters()), torch.device("cpu"))
    where = torch.device(device) if device is not None else where
    images = 0 if x is None else len(x)
    if images == 0 and recipe.prior_samples == 0:
        raise InputError("nothing to fit to: no images and no samples of the prior; give images, or leave prior_samples open")
    objective = DenoisingObjective(prior, recipe.weighting, recipe.focus, recipe.even)
    kept = samples_folder if samples_folder is not None else (Path(folder) / "prior-samples" if folder is not None else None)
    spent: dict[str, float] = {}
    identity, asked_to_resume = _identity(task, x, x_out), resume
    if resume:
        resume = _can_resume(folder, recipe, whole_identity(h, objective, identity))

    # 1. how much is drawn
    shown = x if x is not None and len(x) else draw_prior_samples(prior, CHUNK, seed=recipe.seed, folder=kept).x
    sizes = _kept_sizes(folder, recipe) if asked_to_resume else None
    if sizes is None:
        times = (0.0, 0.0)
        if recipe.seconds is not None:  # the slowest process's clock, so that all choose the same
            per_call, per_step = time_parts(h, prior, measured, shown, recipe, where)
            times = (world.pulse(False, per_call)[1], world.pulse(False, per_step)[1])
        sizes = sizes_for(recipe, prior, images, per_call=times[0], per_step=times[1])
        if folder is not None:
            write_json(Path(folder) / "sizes.json", asdict(sizes))

    # 2. samples of the prior
    warnings = []
    data = [] if x is None else [x.cpu()]
    if sizes.prior_samples:
        say(f"drawing {sizes.prior_samples:,} samples of the prior, {STEPS} calls each, as further images to fit to")
        drawn = draw_prior_samples(prior, sizes.prior_samples, seed=recipe.seed, folder=kept, progress=progress)
        spent["prior samples"] = drawn.seconds
        gap = prior_gap(drawn.x, x) if x is not None else None
        warnings += [gap] if gap else []
        data.append(drawn.x)
    everything = torch.cat(data)
    if x_out is None or len(x_out) == 0:
        x_out = draw_prior_samples(prior, 256, seed=recipe.seed, first=MAX_SAMPLES * 8, folder=kept).x

    # 3. calibrate, and the prediction cache
    begun = time.monotonic()
    if recipe.calibrate:
        h.calibrate(prior, shown, seed=recipe.seed)
    batches: Batches
    options: dict[str, Any] = {"focus": recipe.focus, "even": recipe.even, "seed": recipe.seed}
    if sizes.cache:
        batches = Bank.build(prior, everything, measured, sizes.cache, fixed=fixed, fresh=sizes.fresh, progress=progress, **options)
    else:
        batches = Clean(everything, measured, fixed=fixed)
    config = recipe.fit_config(recipe.steps if recipe.seconds is None else MAX_STEPS, None)
    held_out = Bank.build(prior, x_out.cpu(), measured, config.held_out_batches * recipe.batch, fixed=fixed, **{**options, "seed": recipe.seed + 1})
    spent["prediction cache"] = time.monotonic() - begun

    # 4. fit
    seconds = None
    if recipe.seconds is not None:
        seconds = max(recipe.seconds - spent["prediction cache"] - spent.get("prior samples", 0.0), 0.25 * recipe.seconds)
    config = replace(config, max_seconds=seconds)
    result = fit(h, objective, batches, held_out, config=config, folder=folder, resume=resume, device=where, progress=progress, on_evaluation=on_evaluation, identity=identity)
    spent["fit"] = result.seconds
    if result.ended:
        say(result.ended)

    # 5. how far h is to be trusted at each noise level, and what it is worth there
    few = x_out[: min(LEVEL_IMAGES, max(16, result.steps))]  # a fit of a few steps is a trial
    levels, worse = weigh_levels(h, objective, held_out, config, few, measured.observe(few, Noise(recipe.seed, len(few))))
    warnings += worse
    for line in warnings:
        say(line)
    return Fitted(h, result, sizes, levels, warnings, sum(spent.values()), spent)


def weigh_levels(
    h: Learned, objective: DenoisingObjective, held_out: Batches, config: FitConfig, x: Tensor, obs: Observation
) -> tuple[list[dict[str, float]], list[str]]:
    """What follows a fit: h's weight by noise level (for a `DEFT`), found on held-out batches, and its errors by level on images x with
    measurements obs. Returns the rows of `level_errors`, and warnings."""
    if isinstance(h, DEFT):
        fit_level_weight(h, objective, held_out, batch=config.batch, batches=config.held_out_batches, seed=config.seed)
    levels = level_errors(objective.prior, h, x, obs, seed=config.seed)
    worse = level_warning(levels)
    return levels, [worse] if worse else []


def _identity(task: Task, x: Tensor | None, x_out: Tensor | None) -> dict[str, Any]:
    """What a resumed fit must have in common with the one before. Samples of the prior follow from the prior and the seed."""
    data, held_out = ("samples of the prior" if v is None or len(v) == 0 else f"{len(v)}, {digest(v)}" for v in (x, x_out))
    return {"data": {"images": data}, "held-out data": {"images": held_out}, **task_identity(task)}


def _can_resume(folder: str | Path | None, recipe: Recipe, identity: dict[str, Any]) -> bool:
    """Whether there is a state to go on from; False if the fit before was stopped while samples were drawn.

    Raises `CheckpointError` if there is nothing at all, or the state of another fit: before anything is drawn.
    """
    path = Path(folder) / "state.pt" if folder is not None else None
    if path is not None and not path.exists() and (path.parent / "sizes.json").exists():
        return False
    world = get_world()
    world.from_main(lambda: read_resumable(path, launched_config(recipe.fit_config(recipe.steps, None)), identity) and None)
    return True


def _kept_sizes(folder: str | Path | None, recipe: Recipe) -> Sizes | None:
    """The sizes that an interrupted fit chose; None if it has not come so far. Other sizes that are asked for are refused."""
    path = Path(folder) / "sizes.json" if folder is not None else None
    if path is None or not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sizes = Sizes(int(found["prior_samples"]), int(found["cache"]), float(found["fresh"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {path}: {error}; start again without --resume") from error
    for name, value in asdict(sizes).items():
        asked = getattr(recipe, name)
        if asked is not None and asked != value:
            raise InputError(f"this fit began with {name} = {value}, and is to be resumed with {asked}: leave it out, or start again without --resume")
    return sizes

