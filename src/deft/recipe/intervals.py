"""Intervals that were checked: what a fit, or `deft calibrate`, finds on data that h was not fitted to, for its card.

Samples of measurements of that data are drawn as `FittedH.sample` draws them. Their distance to the truth gives the
factors of `Draws.interval` (`deft.diagnose.conformal_factors`), and their residual, surprise and spread the reference
that single measurements are judged by later (`deft.diagnose.DepthReference`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise
from deft.diagnose.conformal import MIN_MEASUREMENTS, conformal_factors
from deft.diagnose.coverage import interval_coverage
from deft.diagnose.depth import PART, DepthReference, Judgement, chi_square_p, depth_numbers
from deft.errors import CheckpointError, InputError
from deft.kinds.domain import domain_of
from deft.kinds.draws import Draws
from deft.kinds.intervals import IntervalFactors
from deft.learned import Learned, kind_of
from deft.methods import METHODS, Plan, plan
from deft.runtime.distributed import get_world

IMAGES = 48
"""Measurements that a whole fit checks intervals on."""
MIN_IMAGES = 12
"""Of a short fit. With fewer held-out samples than this, samples of the prior take their place."""
SAMPLES = 4
"""Of each, in a fit. Twice as many images tell more than twice as many samples (docs/trust.md)."""
SHARE = 0.05
"""Of a fit's time, if that is limited."""
WHOLE = 2000
"""Steps of a fit that checks on `IMAGES`; shorter ones check on as many fewer."""
TRIAL = 100
"""A fit of fewer steps is a trial: its intervals are not checked."""
PRIOR_SAMPLES = "samples of the prior"
LEVEL = 0.9
"""What cards and commands speak of."""


@dataclass(frozen=True)
class CheckedIntervals:
    """factors: of `Draws.interval`. reference: of `depth_numbers`. plan: `Plan.config` of the samples. images, samples:
    how many of each. source: of the images, for people. raw: share of entries (of those that were not measured, where
    some were) whose raw interval held the truth at `LEVEL`. error: standard error over the images of that share with
    the factors."""

    factors: IntervalFactors
    reference: DepthReference
    plan: Mapping[str, Any]
    images: int
    samples: int
    source: str
    raw: float
    error: float

    def applies(self, plan: Plan) -> bool:
        """Whether samples of this plan are drawn like those that were checked: fewer steps leave another spread."""
        return dict(self.plan) == plan.config()

    def judge(self, prior: Denoiser, obs: Observation, draws: Draws, seed: int = 0) -> Judgement:
        """Samples of one measurement beside the reference."""
        found = depth_numbers(prior, obs, draws, seed)
        return self.reference.judge({k: float(v[0]) for k, v in found.items()})

    def config(self) -> dict[str, Any]:
        """As JSON, for cards."""
        return {
            "images": self.images,
            "samples": self.samples,
            "source": self.source,
            "raw_coverage": round(self.raw, 4),
            "standard_error": round(self.error, 4),
            "factors": self.factors.config(),
            "reference": self.reference.config(),
            "plan": dict(self.plan),
        }

    @staticmethod
    def from_config(config: Any) -> CheckedIntervals:
        """What `config` wrote; raises `CheckpointError` if it is something else."""
        try:
            return CheckedIntervals(
                IntervalFactors.from_config(config["factors"]),
                DepthReference.from_config(config["reference"]),
                dict(config["plan"]),
                int(config["images"]),
                int(config["samples"]),
                str(config["source"]),
                float(config["raw_coverage"]),
                float(config["standard_error"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"what this card says of intervals cannot be read: {error!r}") from error


def check_intervals(
    h: Learned, prior: Denoiser, x: Tensor, obs: Observation, plan: Plan, *, n: int, source: str, seed: int = 0
) -> CheckedIntervals:
    """Draw n samples of each of the measurements obs of x [N, *data_shape], and find what cards keep of them. Of a
    measurement of some entries, the others are what intervals are checked on."""
    draws = plan.draw(prior, obs, n, fitted=h, seed=seed + 1_000_003)
    numbers = depth_numbers(prior, obs, draws, seed)
    draws, x, where = draws.cpu(), x.cpu(), obs.hidden(tuple(x.shape))
    if where is not None:  # own pairs may have measurements that hide nothing
        where = where.cpu()
        where = where if int((where > 0).flatten(1).any(1).sum()) >= MIN_MEASUREMENTS else None
    return CheckedIntervals(
        conformal_factors(draws, x, where=where),
        DepthReference({k: [float(v) for v in row] for k, row in numbers.items()}),
        plan.config(),
        len(x),
        n,
        source,
        float(interval_coverage(draws, x, [LEVEL], where=where).value[0]),
        _error(draws, x, where),
    )


def _error(draws: Draws, x: Tensor, where: Tensor | None) -> float:
    """Standard error of the coverage of calibrated intervals that these measurements leave."""
    own = replace(draws, factors=conformal_factors(draws, x, where=where))
    return float(interval_coverage(own, x, [LEVEL], where=where).error[0])


def judged(checked: CheckedIntervals, prior: Denoiser, obs: Observation, draws: Draws, seed: int = 0) -> dict[str, Any]:
    """What sample.json has of one measurement: each number beside its reference, and whether intervals hold.

    chi_square_p: of the residual of each sample, under noise of sigma_y (`deft.diagnose.chi_square_p`).
    """
    found = checked.judge(prior, obs, draws, seed)
    parts = [chi_square_p(obs.repeat(len(x)), x.to(obs.y.device)) for x in draws.x[0].split(PART)]
    p = None if any(v is None for v in parts) else [float(v) for part in parts if part is not None for v in part]
    return {
        "within": found.within,
        "line": found.summary() + (f": {promise(checked, draws.n)}" if found.within and draws.n > 1 else ""),
        "numbers": {k: {"value": c.value, "ratio": c.ratio, "off": c.off, "p": c.p} for k, c in found.numbers.items()},
        "chi_square_p": p,
        "checked_on": checked.source,
    }


def promise(checked: CheckedIntervals, n: int) -> str:
    """What holds for n samples on data like those that were checked."""
    sure = f"to ± {200 * checked.error:.0f} %" if n <= checked.samples else f"with {checked.samples} samples, not {n}"
    return (
        f"on data like them the {100 * LEVEL:.0f} % interval holds, on average over entries and measurements"
        f" (checked on {checked.source}, {sure})"
    )


def has_coverage(prior: Denoiser) -> bool:
    """Whether intervals of single entries make sense for this kind of data: where coverage is one of its metrics."""
    domain = domain_of(prior)
    return domain is None or "coverage" in domain.metrics()


def has_plan(h: Learned) -> bool:
    """Whether it is known how samples are drawn with this kind of h: not with a class that is in no table, nor with
    what belongs to a prior and to no task."""
    try:
        return not h.of_prior and kind_of(h) in METHODS
    except InputError:
        return False


def how_many(images: int, steps: int, seconds: float | None, prior: Denoiser, drawn: Plan) -> int:
    """Measurements to check on after a fit of so many steps, or within `SHARE` of so many seconds."""
    if seconds is None:
        found = math.ceil(images * steps / WHOLE)
    else:
        found = int(SHARE * seconds / seconds_each(prior, drawn))
    return max(MIN_IMAGES, min(images, found))


def reserved(seconds: float, prior: Denoiser, h: Learned) -> float:
    """Of so many seconds for a whole fit, those that the check of intervals takes."""
    if not (has_coverage(prior) and has_plan(h)):
        return 0.0
    return max(SHARE * seconds, MIN_IMAGES * seconds_each(prior, plan(kind_of(h))))


def seconds_each(prior: Denoiser, drawn: Plan, rows: int = 64) -> float:
    """What a measurement takes to be checked on, by two calls of the prior (of the slowest process)."""
    x = BatchNoise(rows, 0, 41).normal(prior.event_shape).to(prior.state_like())
    t = prior.schedule.time_of(torch.tensor(0.0, dtype=torch.float64))
    spent = 0.0
    for _ in range(2):
        started = time.perf_counter()
        with torch.no_grad():
            float(prior(x, t).mean.sum())
        spent = time.perf_counter() - started
    call = get_world().pulse(False, spent)[1] / rows
    return call * 1.2 * drawn.calls() * SAMPLES  # h adds a tenth to a call, and looking at the samples another
