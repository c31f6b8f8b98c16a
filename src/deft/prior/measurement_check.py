"""Is a measurement read as it was made? The twin of the convention check for priors (`deft.prior.check`).

A measurement in other units, turned, shifted or with its mask the other way round has the right shape, and samples
explain it with a healthy residual: it is the image that is wrong. What tells is the prior. Of a sample x of its own
kind, noised to x_t = alpha x + sigma n, a denoiser knows how far it will be from x: by Tweedie's second-order formula

    E |x - E[x_0 | x_t]|^2 = (sigma^2 / alpha) tr d E[x_0 | x_t] / d x_t,

and the trace is one further call (Hutchinson's estimate by a difference). The ratio of what the error is to what it
should be, the *surprise*, is about 1 for images of the prior's kind and 1.5 to 20 for others; it needs no other images
to compare with.

`inspect_measurement` tries every usual reading of a measurement (`readings`), draws a few cheap samples of each, and
says which one the operator (residual) and the prior (surprise) confirm. Efron 2011 (Tweedie's formula and selection
bias, JASA 106) has the first-order formula; the second follows by another derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.random import BatchNoise, Noise, seed_for
from deft.errors import DeftError, InputError
from deft.io.measurements import observation, operator_of
from deft.kinds.domain import domain_of
from deft.kinds.records import task_from
from deft.likelihood import Observation
from deft.likelihood.task import Arrays, Change, Limits, OperatorTask
from deft.methods import plan
from deft.prior.check import LEVELS as NOISE
from deft.prior.check import mean_error, time_at
from deft.prior.latent import LatentPrior

LEVELS = (0.3, 1.0, 3.0)
"""sigma/alpha at which surprise is looked at: below, a method's own leftover noise counts; above, a prior knows its
mean image alone."""


def surprise(prior: Denoiser, x: Tensor, levels: Sequence[float] = LEVELS, seed: int = 0) -> Tensor:
    """log(error of the denoised mean / the error it expects itself) of samples x [B, *E], mean over levels, [B]. Two
    calls a level.

    About 0 for samples of the prior's own kind; see the module for the formula.

    >>> from deft.schedule import VPCosine
    >>> from deft.testing import half_seen
    >>> world, _ = half_seen(4)
    >>> prior = world.prior(VPCosine())
    >>> from deft import sample
    >>> own = sample(prior, 256, steps=30)
    >>> abs(float(surprise(prior, own).mean())) < 0.3, float(surprise(prior, 3 * own).mean()) > 0.5
    (True, True)
    """
    x = x.to(prior.state_like())
    found = []
    for i, level in enumerate(levels):
        t = prior.schedule.time_of(torch.tensor(-2 * math.log(level), dtype=torch.float64))
        _, alpha, sigma = prior.coefficients(t, x)
        noise = Noise(seed_for("probing", seed + 1000 * i), len(x))
        n, z = (prior.project(noise.normal(x.shape[1:]).to(x), x) for _ in range(2))
        z = z.sign()
        step = 0.02 * sigma
        with torch.no_grad():
            x_t = alpha * x + sigma * n
            mean = prior(x_t, t).mean
            further = prior(x_t + step * z, t).mean
        trace = (z * (further - mean) / step).flatten(1).sum(1)
        expected = (sigma**2 / alpha).reshape(-1) * trace
        error = (mean - x).square().flatten(1).sum(1)
        found.append((error / expected.clamp_min(1e-3 * error)).clamp(1e-3, 1e3).log())
    return torch.stack(found).mean(0)


def residual_ratio(obs: Observation, x: Tensor) -> Tensor | None:
    """rms of (y - A(x)) / noise over what was measured, one number for each row; None where the likelihood has no such
    thing.

    x: data [B, *data_shape]. About 1 for images that explain the measurement.
    """
    like, y = obs.likelihood, obs.y
    with torch.no_grad():
        r, sigma = like.residual(y, x), like.noise_sigma(y, x)
        if r is None or sigma is None:
            return None
        return ((r / sigma).square().flatten(1).sum(1) / like.number_of_measurements(y).clamp_min(1)).sqrt()


def typical_noise(obs: Observation, x: Tensor) -> float:
    """The measurements' noise in units of y, averaged over entries; 1 where the likelihood has no such thing."""
    with torch.no_grad():
        sigma = obs.likelihood.noise_sigma(obs.y, x)
    return 1.0 if sigma is None else float(sigma.mean())


# before drawing


ROUGH = 8.0
"""An error this many times that of a filter which knows the variance alone, on what a measurement shows of an image:
over the bundled prior and all tasks a right reading gave at most 4.8, eps read for v at least 21."""


def warning_from(prior: Denoiser, obs: Observation, seed: int = 0) -> str | None:
    """One line if a prior denoises what the first measurement shows of an image (`features`) far worse than a filter
    that knows no more than its variance, else None. No judgement where most of the image is hidden, and where y is
    known from pairs alone: what it shows need not look like an image."""
    if not obs.likelihood.has_density:
        return None
    if isinstance(prior, LatentPrior):
        return warning_from(prior.prior, prior.to_latent(obs[0]), seed)
    c = prior.event_shape[0]
    x = obs[0].features()[:, :c].to(prior.state_like())
    if tuple(x.shape[1:]) != tuple(prior.event_shape):
        return None
    y = obs[0].y
    if y.shape == x.shape and float(obs[0].likelihood.measured_part(torch.ones_like(y)).mean()) < 0.5:
        return None
    variance, worst = float(x.var()), 0.0
    for i, r in enumerate(NOISE[1:]):
        t = time_at(prior.schedule, r)
        if t is not None:
            worst = max(worst, mean_error(prior, x, t, seed + i) / max(variance * r**2 / (variance + r**2), 1e-12))
    if worst <= ROUGH:
        return None
    return (
        f"warning: this prior denoises the measured image {worst:.1f} times worse than a filter that knows its variance"
        " alone: it may be read by the wrong convention; `deft prior inspect PRIOR --images DIR` tells"
    )


# pairs


def check_pairs(obs: Observation, x: Tensor, where: str) -> str | None:
    """One line if the measurements differ from A(x) by more than their noise allows, else None.

    Raises `InputError` where they differ five times as much: the pairs are in another order, or y in other units.
    """
    ratio = residual_ratio(obs, x)
    if ratio is None:
        return None
    sigma = typical_noise(obs, x)
    typical = float(ratio.median())
    said = (
        f"{where}: y differs from A(x) by {typical * sigma:.3g} (root mean square, median over pairs), and the noise"
        f" sigma_y is {sigma:.3g}"
    )
    if typical > 5:
        raise InputError(
            f"{said}: x and y are in another order, y is in other units (--range) or made by another operator"
            f" (--task-option); if it is noise, say so with --sigma-y {typical * sigma:.2g}"
        )
    odd = int((ratio > max(5.0, 3 * typical)).sum())
    if typical > 2:
        return (
            f"warning: {said}: another sigma_y (--sigma-y {typical * sigma:.2g}), other units of y, or another"
            " operator?"
        )
    if odd:
        return (
            f"warning: {where}: {odd} of {len(x)} pairs have y far from A(x) (number {int(ratio.argmax())} by"
            f" {float(ratio.max()) * sigma:.3g}, the median is {typical * sigma:.3g})"
        )
    return None


# samples


MAX_SURPRISE = 0.55
"""Mean surprise (natural logarithm) of samples above which they are no images of the prior's kind; see
docs/wrong-result.md."""
MAX_RESIDUAL, MIN_RESIDUAL = 4.0, 0.1
"""y - A(x), in units of the noise and as it is, above which samples do not explain a measurement (a noiseless one is
never met exactly)."""
FAR = 1.5
"""Values this far from the middle of their range, in halves of its width, are none (of images in [-1, 1]: beyond
1.5)."""


def sample_warnings(
    prior: Denoiser,
    obs: Observation | None,
    drawn: Tensor,
    seed: int = 0,
    subset: int = 4,
    what: str = "the measurement",
) -> list[str]:
    """What is wrong with samples [n, *data_shape] of one measurement, a line each: they left the range, do not explain
    y, or are no images of the prior's kind.

    obs: None for samples of a reward, of which the range alone is looked at. subset: samples that the prior sees (two
        calls at each of three levels)."""
    said = []
    domain = domain_of(prior)
    title, bounds = ("samples", None) if domain is None else (domain.title, domain.bounds)
    low, high = float(drawn.min()), float(drawn.max())
    middle, half = (0.0, math.inf) if bounds is None else ((bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 2)
    # block by block: there may be more samples than fit in memory several times
    far = sum(int(((part.float() - middle).abs() > FAR * half).sum()) for part in drawn.split(256))
    beyond = far / max(drawn.numel(), 1)
    reach = max(middle - low, high - middle) / half
    if not math.isfinite(low + high) or reach > 3 or beyond > 0.001:
        where = (
            ""
            if bounds is None
            else (
                f", and {title} are in [{bounds[0]:g}, {bounds[1]:g}] ({100 * beyond:.1f} % of the values are beyond"
                f" {middle + FAR * half:g})"
            )
        )
        said.append(
            f"warning: samples reach from {low:.3g} to {high:.3g}{where}: they have diverged. Give more --steps, a"
            " larger --sigma-y, or another method; if y is in other units (`deft measure inspect` tells), --range"
        )
        if not reach <= 3:
            return said  # nothing else can be said of such samples
    if obs is None:
        return said
    few = drawn[:subset].to(obs.y.device).float()
    ratio = residual_ratio(obs.repeat(len(few)), few)
    sigma = typical_noise(obs.repeat(len(few)), few)
    if ratio is not None and float(ratio.median()) > MAX_RESIDUAL and float(ratio.median()) * sigma > MIN_RESIDUAL:
        said.append(
            f"warning: the samples do not explain {what}: y - A(x) is {float(ratio.median()) * sigma:.3g} where the"
            f" noise sigma_y is {sigma:.3g}. Other units, another convention or more noise? `deft measure inspect`"
            " tells"
        )
    found = float(surprise(prior, prior.encode(few), seed=seed).mean())
    if found > MAX_SURPRISE:
        said.append(
            f"warning: the samples are unlike the prior's {title} (surprise {math.exp(found):.1f}, about 1 is right):"
            f" {what} may be read in other units or another convention, or be of another kind of"
            f" {title.removesuffix('s')} (`deft measure inspect` tells), or the method is not there yet (more"
            " --steps, another --method)"
        )
    return said


# readings


@dataclass(frozen=True)
class Tried:
    """A reading and what it came to. changes: none for the file as it is. residual: y - A(x) over the noise. surprise:
    see `surprise`, as a factor.

    score: the less the better, inf for a reading that cannot be (`why` is then the reason). fit: the score but for the
    scale of y: above `GOOD` the samples are no images of the prior's kind, or do not explain y. sigma_y: in the units
    that y has under this reading.
    """

    changes: tuple[Change, ...]
    score: float
    fit: float = math.inf
    residual: float = math.nan
    surprise: float = math.nan
    low: float = math.nan
    high: float = math.nan
    why: str = ""
    sigma_y: float = math.nan

    @property
    def name(self) -> str:
        return " and ".join(c.name for c in self.changes) or "as it is"


@dataclass(frozen=True)
class Inspected:
    """What `inspect_measurement` found. taken: the file as it is. best: of all that were `tried` (best first).
    confirmed: `taken` is right."""

    taken: Tried
    best: Tried
    confirmed: bool
    text: str
    tried: list[Tried]


def changes_of(task: OperatorTask, arrays: Arrays) -> list[Change]:
    """The single changes that are usual for a task; `inspect_measurement` also tries them together."""
    return task.changes(arrays)


def inspect_measurement(
    prior: Denoiser,
    task: OperatorTask,
    arrays: Arrays,
    *,
    rows: int = 4,
    samples: int = 2,
    steps: int = 20,
    seed: int = 0,
    value_range: Limits | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Inspected:
    """Try the usual readings of a measurement file's arrays, and say which the operator and the prior confirm.

    Each reading is sampled (`samples` of each of `rows` measurements, `steps` calls of the prior). Its score is a sum
    of natural logarithms: the surprise of the samples, what the residual exceeds the noise by or stays far below it,
    and what y is scaled down by (a reading that makes y small explains everything by noise). The best single changes
    are taken, and further changes are tried on top of them, as long as that helps by `MARGIN`.

    Args:
        arrays: y [N, *M] or of one measurement, and what the task draws for each (mask, kernel, rays, coils).
        value_range: black and white of the images, if that is known; then no other is tried.

    Raises:
        InputError: no y.
    """
    if "y" not in arrays:
        raise InputError("a measurement file holds y")
    if not arrays["y"].size:
        raise InputError("y holds 0 measurements: nothing to inspect")
    shape = tuple(prior.data_shape)
    y = arrays["y"]
    y = y[None] if y.ndim == task.check(shape).y.ndim - 1 else y
    drawn = {k: v[:rows] if v.ndim and len(v) == len(y) else v for k, v in arrays.items() if k == task.drawn}
    arrays = {"y": y[:rows], **drawn}
    singles = [c for c in changes_of(task, arrays) if value_range is None or c.value_range is None]
    known = {}

    def look(changes: tuple[Change, ...]) -> Tried:
        key = frozenset(c.name for c in changes)
        if key not in known:
            progress(" and ".join(c.name for c in changes) or "as it is")
            known[key] = _try(prior, task, arrays, shape, changes, value_range, samples, steps, seed)
        return known[key]

    taken = best = look(())
    front = [taken]
    if taken.why and all(look((c,)).why for c in singles):
        raise InputError(taken.why)
    for _ in range(3):
        further = [
            look((*t.changes, c)) for t in front for c in singles if not any(_same_thing(c, b) for b in t.changes)
        ]
        front = sorted(further, key=lambda t: t.score)[:FRONT]
        if not front or not front[0].score < best.score - MARGIN:
            break
        best = front[0]
    tried = sorted(known.values(), key=lambda t: t.score)
    confirmed = best is taken and taken.fit < GOOD and taken.score - tried[0].score < UNSURE
    return Inspected(taken, best, confirmed, _verdict(taken, best, confirmed, tried), tried)


def _same_thing(a: Change, b: Change) -> bool:
    """Two changes of which one alone makes sense."""
    return a is b or bool(a.value_range and b.value_range) or bool(a.options.keys() & b.options.keys())


FRONT = 3
"""Readings that further changes are tried on top of: the best one alone may be right for a wrong reason."""
FLAT = 0.15
"""Samples with less contrast (standard deviation over entries, of a range from -1 to 1) are flat, and a flat image
surprises no prior."""
MARGIN = 0.15
"""By which another reading must be better."""
UNSURE = 0.07
"""By which another reading may be better, without that the one in use is in doubt: the noise of a few samples."""
GOOD = 0.7
"""See `Tried.fit`."""


def _try(
    prior: Denoiser,
    task: OperatorTask,
    arrays: Arrays,
    shape: tuple[int, ...],
    changes: tuple[Change, ...],
    value_range: Limits | None,
    samples: int,
    steps: int,
    seed: int,
) -> Tried:
    limits = next((c.value_range for c in changes if c.value_range), value_range)
    try:
        changed = dict(arrays)
        for c in changes:
            changed = c.apply(changed) if c.apply is not None else changed
        of, larger = _changed(task, changes, shape)
        obs = observation("the measurement", changed, of, shape, limits).to(prior.state_like().device)
        drawn = plan("gradient", steps=steps).draw(prior, obs, samples, seed=seed).x
    except (DeftError, ValueError, IndexError) as error:
        return Tried(changes, math.inf, why=" ".join(str(error).split()))
    x = drawn.flatten(0, 1)
    ratio = residual_ratio(obs.repeat(samples), x)
    residual = math.nan if ratio is None else float(ratio.median())
    strange = float(surprise(prior, prior.encode(x), seed=seed).mean())
    domain = domain_of(prior)
    fit = max(strange, -strange - 0.3)
    if domain is not None and domain.bounds is not None:
        low, high = domain.bounds
        u = (2 * x - low - high) / (high - low)
        fit += math.log1p(20 * float((u.abs() > 1.3).float().mean())) + max(
            0.0, math.log(FLAT / max(float(u.flatten(1).std(1).mean()), 1e-6))
        )
    if not math.isnan(residual):
        fit += max(0.0, math.log(max(residual, 1e-9) / 1.5))
        if task.sigma_y > 0:  # noise that is far less than sigma_y says is a scale that is too small
            fit += min(2.0, max(0.0, 0.5 * math.log(0.3 / max(residual, 1e-9))))
    scaled = math.log(larger * _size(arrays["y"]) / max(_size(obs.y.numpy(force=True)), 1e-12))
    return Tried(
        changes, fit + scaled, fit, residual, math.exp(strange), float(x.min()), float(x.max()), sigma_y=of.sigma_y
    )


def _changed(task: OperatorTask, changes: Sequence[Change], shape: tuple[int, ...]) -> tuple[OperatorTask, float]:
    """(the task with other settings, how many times larger its y is). The noise grows with y: sigma_y is in the units
    of y."""
    options = {k: v for c in changes for k, v in c.options.items()}
    if not options:
        return task, 1.0
    settings = task.config() | options
    of: OperatorTask = task_from(type(task), settings)
    x = BatchNoise(1, 5).normal(shape).clamp(-1, 1)
    sizes = [
        float(operator_of(t.observe(x, BatchNoise(1, 0)).likelihood)(x).square().mean().sqrt()) for t in (task, of)
    ]
    larger = max(sizes[1], 1e-12) / max(sizes[0], 1e-12)
    if abs(math.log(larger)) < 0.1:
        return of, 1.0
    return task_from(type(task), settings | {"sigma_y": task.sigma_y * larger}), larger


def _size(y: np.ndarray) -> float:
    """How much y varies."""
    return max(float(np.asarray(y, np.float64).std()), 1e-12)


def _verdict(taken: Tried, best: Tried, confirmed: bool, tried: list[Tried]) -> str:
    if confirmed:
        others = [t.name for t in tried if t is not taken and abs(t.score - taken.score) < MARGIN]
        same = f"; about as well fits: {'; '.join(others)}" if others else ""
        return (
            f"confirmed: of {len(tried)} readings the file as it is fits the operator and the prior (surprise"
            f" {taken.surprise:.2f}, about 1 is right){same}"
        )
    if best is not taken:
        fixes = "; ".join(c.fix for c in best.changes)
        if best.sigma_y != taken.sigma_y and not math.isnan(best.sigma_y + taken.sigma_y):
            fixes += f"; --sigma-y {best.sigma_y:.3g}, which is in the units of y"
        how = "is right" if best.fit < GOOD else "is nearer, though not right either"
        return (
            f"not confirmed: read as {best.name} it {how} (surprise {best.surprise:.2f} for {taken.surprise:.2f} as it"
            f" is). Use: {fixes}"
        )
    if taken.fit < GOOD:
        fixes = "; ".join(c.fix for c in tried[0].changes)
        return (
            f"not sure: the file as it is fits (surprise {taken.surprise:.2f}), and read as {tried[0].name} it fits a"
            f" little better ({tried[0].surprise:.2f}; {fixes}). Give more --rows, or look at samples of both"
        )
    return (
        f"not confirmed: none of {len(tried)} readings fits (surprise {best.surprise:.2f}, about 1 is right; residual"
        f" {best.residual:.2f} times the noise): another operator, more noise than sigma_y, or images of another kind"
        " than the prior's"
    )


__all__: Sequence[str] = [
    "Change",
    "Inspected",
    "Tried",
    "changes_of",
    "check_pairs",
    "inspect_measurement",
    "residual_ratio",
    "sample_warnings",
    "surprise",
    "warning_from",
]
