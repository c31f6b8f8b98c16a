"""The recipe of a fit: one dataclass with the best known settings, and how much is drawn for it.

An h of a tenth of the prior learns a thousand images by heart within minutes, and its conditioned mean is then worse
than the prior's own at low noise. So the recipe adds samples of the prior to the images (or goes without images), keeps
the best weights of all evaluations and ends when nothing gets better. `deft.fit_h` follows it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch

from deft.core.denoiser import Denoiser
from deft.core.random import BatchNoise
from deft.errors import InputError, unknown
from deft.io.h_files import KINDS
from deft.kinds.stored import Samples
from deft.learned import Learned
from deft.recipe.intervals import IMAGES
from deft.runtime.memory import check_memory
from deft.train.augment import FLIPS
from deft.train.cache import PredictionCache
from deft.train.data import Clean
from deft.train.denoising import WEIGHTINGS, DenoisingObjective
from deft.train.fit import FitConfig
from deft.train.jacobian import JacobianObjective
from deft.train.prior_samples import CHUNK, STEPS
from deft.values import (
    Count,
    CountOrNone,
    FitSteps,
    Focus,
    NotNegative,
    Part,
    Rate,
    Rows,
    Seconds,
    Seed,
    Share,
    Size,
    Width,
    check_fields,
)

VISITS = 32
"""How often one image may be seen in a fit: with a thousand images the held-out loss rises after some sixty times, and
at low noise before that (docs/fit.md)."""
TIMED_VISITS = 64
"""The same where the time is given: what drawing takes is then missing from the fit (docs/fit.md)."""
REUSE = 8
"""How often one cached prediction may be seen."""
FRESH = 1 / 8
"""Share of each batch that is redrawn where memory keeps the cache smaller than that."""
MAX_SAMPLES = 20_000
MAX_BYTES = 2**31
"""Memory that samples of the prior may take, unless a number is asked for."""
MAX_CACHE = 100_000
HELD_OUT = 512
"""Draws of the held-out loss: enough that its own noise is below 2 % of it, the same at every evaluation."""
MAX_STEPS = 1_000_000
OBJECTIVES: Mapping[str, type[DenoisingObjective]] = {"denoising": DenoisingObjective, "jacobian": JacobianObjective}
"""What a fit of the recipe minimises, by the name that a class of h gives (`Learned.objective`)."""


@dataclass(frozen=True)
class Recipe:
    """How an h is fitted. The defaults are the best known ones, for every task.

    method: kind of h, a key of `deft.io.h_files.KINDS`. size: most parameters, as a share of the prior's; width:
        channels instead of a size, for a prior that does not say how large it is. options: of the class of h (`units`,
        `guide`, `gate`, `n2_start`, ...).
    start_from: weights of another h of this prior to begin with: a run folder, a file, or a task whose h is bundled.
        Its size and form are kept.
    steps, batch: optimiser steps and rows of each. seconds: time for all of it (samples, cache and fit), in place of a
        number of steps.
    prior_samples: samples of the prior that are added to the images; None chooses: as many as keep every image from
        being seen more than `VISITS` times (`TIMED_VISITS` with `seconds`). 0 for none.
    cache: cached predictions; None chooses: each is used about `REUSE` times, in 4 GiB at most. 0 redraws all.
    fresh: share of each batch that is redrawn beside the cache; None takes 1/8 where memory keeps the cache smaller
        than wanted.
    patience, evaluations, weights: see `FitConfig`; the fit ends early when nothing gets better.
    flips: of pairs of an unknown degradation, whose y is a picture on x's grid: "mirror" adds each with left and right
        swapped, x and y alike, "all" in all flips and quarter turns. Only where flipped pairs are pairs too.
    weighting, focus, even: of the loss over noise levels, see `DenoisingObjective`.
    interval_images: held-out images that intervals are checked on after the fit (docs/trust.md), fewer where it is
        short; 0 leaves them unchecked.

    >>> import deft
    >>> from deft.recipe.settings import sizes_for
    >>> prior = deft.testing.gaussian_field(4).prior(deft.VPCosine())
    >>> sizes_for(deft.Recipe(steps=100), prior, images=200)
    Sizes(prior_samples=0, cache=1000, fresh=0.0)
    >>> sizes_for(deft.Recipe(steps=2000), prior, images=200)
    Sizes(prior_samples=3033, cache=16000, fresh=0.0)
    """

    method: str = "deft"
    size: Size = 0.09
    width: Width | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    start_from: str = ""
    steps: FitSteps = 2000
    seconds: Seconds | None = None
    batch: Rows = 64
    lr: Rate = 2.5e-3
    warmup: CountOrNone = 50
    ema: Part = 0.998
    weight_decay: NotNegative = 0.0
    prior_samples: CountOrNone | None = None
    cache: CountOrNone | None = None
    fresh: Part | None = None
    patience: CountOrNone = 6
    evaluations: Count = 20
    weights: Literal["best", "raw", "ema"] = "best"
    weighting: str = "between"
    focus: Focus = 3.0
    even: Share = 0.5
    calibrate: bool = True
    flips: str = ""
    interval_images: CountOrNone = IMAGES
    seed: Seed = 0
    bf16: bool = False
    accumulate: Count = 1
    streams: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.method not in KINDS:
            raise unknown("method", self.method, KINDS)
        if self.weighting not in WEIGHTINGS:
            raise unknown("weighting", self.weighting, WEIGHTINGS)
        if self.flips and self.flips not in FLIPS:
            raise unknown("flips", self.flips, FLIPS)
        if self.start_from and (self.method != "deft" or self.width is not None or self.options):
            raise InputError(
                f"start_from takes the form of the h it begins with ({self.start_from}), a deft: leave method, width"
                " and options out"
            )
        if self.width is not None and self.method != "deft":
            raise InputError(f"width is for the method deft, got {self.width} for {self.method}")

    def changed(self, **changes: Any) -> Recipe:
        """Another recipe, with some settings changed.

        >>> Recipe().changed(seconds=90).seconds
        90
        """
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                raise unknown("setting of a fit", name, known)
        return replace(self, **changes)

    def fit_config(self, steps: int, seconds: float | None) -> FitConfig:
        """What `fit` is given: the recipe's settings for so many steps, or so much time."""
        return FitConfig(
            steps=steps,
            batch=self.batch,
            lr=self.lr,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            ema=self.ema,
            bf16=self.bf16,
            seed=self.seed,
            max_seconds=seconds,
            evaluations=self.evaluations,
            held_out_batches=max(1, min(HELD_OUT // self.batch, steps // 8)),
            patience=self.patience,
            accumulate=self.accumulate,
            streams=self.streams,
            weights=self.weights,
        )


@dataclass(frozen=True)
class Sizes:
    """How much is drawn: samples of the prior, cached predictions, and the share of each batch beside the cache."""

    prior_samples: int
    cache: int
    fresh: float = 0.0


def sizes_for(
    recipe: Recipe, prior: Denoiser, images: int, *, per_call: float = 0.0, per_step: float = 0.0, share: float = 0.27
) -> Sizes:
    """How many samples of the prior and cached predictions a recipe asks for, beside so many images.

    With `recipe.seconds`, the time is split so that no image is seen more than `TIMED_VISITS` times and no cached
    prediction more than `REUSE` times: for k steps of B rows, k B / TIMED_VISITS images and k B / REUSE cached
    predictions. Otherwise the number of steps is known, and samples are drawn for at most one and a half times what the
    rest costs.

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
        cache = PredictionCache.default_size(prior.event_shape, size=wanted)
    if fresh is None:
        fresh = FRESH if 0 < cache < wanted and recipe.cache is None else 0.0
    numbers = 4 * math.prod(prior.event_shape)  # of a sample, in bytes
    check_memory(samples * numbers, f"prior_samples = {samples:,}", "give fewer (--prior-samples)")
    check_memory(2 * cache * numbers, f"a cache of {cache:,} predictions", "give a smaller one (--cache)")
    return Sizes(samples, cache, fresh)


def time_parts(
    h: Learned, prior: Denoiser, task: Any, x: Samples, recipe: Recipe, device: torch.device
) -> tuple[float, float]:
    """(seconds of one call of the prior, seconds of one step of h from cached predictions), measured on a batch; h is
    left as it was."""
    objective = OBJECTIVES[h.objective](prior, recipe.weighting, recipe.focus, recipe.even)
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
