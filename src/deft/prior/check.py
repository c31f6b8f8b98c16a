"""The convention check: what a prior says it is, and whether it is that.

A network read by the wrong convention (v taken for eps, [0, 1] for [-1, 1], another table of betas) still returns
pictures of numbers. What gives it away is its denoising error: add noise of a known level to real images and compare
||E[x_0 | x_t] - x_0||^2 with what a Wiener filter reaches that knows nothing of the images but their mean and
power spectrum. A trained network read rightly does better; read wrongly it is far worse at some level.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.random import Noise, seed_for
from deft.core.schedule import Schedule
from deft.denoiser import NetworkDenoiser
from deft.denoiser.parametrisation import OUTPUTS
from deft.denoiser.tiled import Tiled
from deft.errors import InputError, NonFiniteError
from deft.methods import METHODS, forward_only
from deft.prior.conventions import CONVENTIONS
from deft.prior.latent import LatentPrior
from deft.samplers import Heun, sample

LEVELS = (0.15, 0.5, 1.5, 4.0)
"""sigma/alpha, on images in [-1, 1], at which a prior is tried."""

CLOSE = 0.05
"""Readings whose mean log error differs by less cannot be distinguished."""

WORSE = 1.6
"""An error this many times the Wiener filter's, at any level, is no trained network read rightly on its own kind of
images."""


def wiener_error(x: Tensor, ratio: float) -> float:
    """Mean squared error of the stationary Wiener filter for x [N, C, H, W] under noise of deviation `ratio`.

    sum_k S_k r^2 / (S_k + r^2) / dim, with S the power spectrum of x about its mean image, averaged over the images
    (Wiener 1949). For samples of other shapes: the same with the variance for a spectrum.
    """
    centred = (x - x.mean(0)).double() * math.sqrt(len(x) / max(1, len(x) - 1))
    if x.ndim == 4:
        power = torch.fft.fft2(centred, norm="ortho").abs().square().mean(0)
    else:
        power = centred.square().mean(0)
    return float((power * ratio**2 / (power + ratio**2)).mean())


@dataclass
class Candidate:
    """One way to read a network, tried on images.

    changes: what differs from the reading that was taken, as options for `load_prior` (empty: nothing).
    errors: mean squared error of E[x_0 | x_t] at each of `LEVELS` (nan where the schedule does not reach).
    ratios: the same, over the Wiener filter's.
    coupled: the network's ODE draws what it should, but what it returns is no conditional mean: see `coupled`.
    """

    changes: dict[str, str]
    errors: list[float]
    ratios: list[float]
    coupled: bool = False

    @property
    def score(self) -> float:
        """Mean log ratio over the levels: below 0 is better than the Wiener filter."""
        kept = [math.log(max(r, 1e-12)) for r in self.ratios if not math.isnan(r)]
        return sum(kept) / len(kept) if kept else math.inf

    @property
    def worst(self) -> float:
        return max((r for r in self.ratios if not math.isnan(r)), default=math.inf)

    def options(self) -> str:
        """How to ask for it at the command line."""
        return " ".join(f"--prior-option {k}={v}" for k, v in self.changes.items())


@dataclass
class ConventionCheck:
    """taken: the reading in use. best: the one with the least error. tried: all, best first. text: for people."""

    taken: Candidate
    best: Candidate
    confirmed: bool
    text: str
    tried: list[Candidate] = field(default_factory=list)


SHOWN = (
    "family", "name", "class", "config", "weights", "label", "prompt", "negative_prompt", "prompt_sha256",
    "guidance_scale", "guidance", "lora", "unsure", "scheduler", "data", "licence", "format", "providers", "batch",
)  # fmt: skip
"""Fields of a card that are shown of a prior."""


def describe(prior: Denoiser) -> dict[str, Any]:
    """What is said of a prior: family, parameters, shape, convention, and what nobody said (`unsure`)."""
    about: dict[str, Any] = {k: v for k, v in prior.card.items() if k in SHOWN and v is not None}
    if isinstance(prior, LatentPrior):
        return describe(prior.prior) | about | {"data_shape": list(prior.data_shape), "gradient": prior.gradient}
    if isinstance(prior, Tiled):
        shapes = {"event_shape": list(prior.event_shape), "tile": list(prior.prior.event_shape)}
        return describe(prior.prior) | about | shapes | {"rows_per_call": prior.rows_per_call}
    about |= {
        "parameters": prior.parameter_count(),
        "event_shape": list(prior.event_shape),
        "schedule": repr(prior.schedule),
    }
    if not prior.differentiable:
        free = [name for name in forward_only() if not METHODS[name].trained]
        fitted = [name for name in forward_only() if METHODS[name].trained]
        about |= {"derivative": "none", "methods": {"at once": ", ".join(free), "after a fit": ", ".join(fitted)}}
    if isinstance(prior, NetworkDenoiser):
        about |= {
            "output": prior.output, "schedule": repr(prior.inner_schedule), "range": list(prior.value_range),
            "time": prior.time if isinstance(prior.time, str) else "a function", "scale_input": prior.scale_input,
        }  # fmt: skip
        if prior.output == "edm":
            about["sigma_data"] = prior.sigma_data
        if prior.learned_variance:
            about["learned_variance"] = "dropped"
    about.setdefault("unsure", [])
    return about


def confirm(
    prior: Denoiser, x: Tensor, *, images: int = 16, levels: Sequence[float] = LEVELS, seed: int = 0
) -> Candidate:
    """Try a prior, as it is read, on x [N, *E]: four batches of forward passes."""
    x = _some(prior, x, images)
    errors = []
    for i, r in enumerate(levels):
        t = time_at(prior.schedule, r)
        errors.append(math.nan if t is None else mean_error(prior, x, t, seed + i))
    reading = _reading({}, errors, x, levels)
    return replace(reading, coupled=coupled(prior, x, seed=seed))


def try_conventions(
    prior: NetworkDenoiser, x: Tensor, *, images: int = 16, levels: Sequence[float] = LEVELS, seed: int = 0
) -> ConventionCheck:
    """Try a network under every combination of schedule, time, range and output that is in use anywhere.

    The network runs once for each schedule, time and range at each level; the outputs are arithmetic.
    """
    x = _some(prior, x, images)
    taken = confirm(prior, x, images=images, levels=levels, seed=seed)
    tried, velocities = [taken], list[tuple[Candidate, NetworkDenoiser]]()
    for (name, way), (low, high) in product(_ways(prior).items(), ((-1.0, 1.0), (0.0, 1.0))):
        reread = prior.reread(**way, value_range=(low, high))
        found: dict[str, list[float]] = {kind: [] for kind in OUTPUTS}
        for i, r in enumerate(levels):
            t = time_at(reread.schedule, r)
            if t is None:
                for kind in OUTPUTS:
                    found[kind].append(math.nan)
                continue
            x_t, at, alpha, sigma = _noisy(reread, x, t, seed + i)
            with torch.no_grad():
                out = reread.raw(x_t, at, alpha, sigma)
            for kind in OUTPUTS:
                mean = reread.reread(output=kind).mean_of(out, x_t, alpha, sigma)
                error = float((mean - x).square().mean())
                found[kind].append(error if math.isfinite(error) else math.inf)
        for kind, errors in found.items():
            tried.append(_reading(_changes(prior, name, (low, high), kind), errors, x, levels))
            if kind in VELOCITIES:
                velocities.append((tried[-1], reread.reread(output=kind)))
    tried = [r for r in tried if sum(map(math.isnan, r.ratios)) <= 1]
    tried.sort(key=lambda r: (r.score, len(r.changes)))
    best = tried[0]
    if taken.coupled or taken.score <= best.score + CLOSE:
        best = taken
    # of a network read wrongly: its right reading may be a velocity of a coupling, whose error is not the least there
    # is
    else:
        suspects = sorted(((r, p) for r, p in velocities if r.worst <= SUSPECT), key=lambda pair: pair[0].score)[
            :MAX_SUSPECTS
        ]
        best = next((replace(r, coupled=True) for r, p in suspects if coupled(p, x, seed=seed)), best)
    confirmed = best is taken and taken.worst <= WORSE and not taken.coupled
    return ConventionCheck(taken, best, confirmed, _text(taken, best, confirmed, len(tried)), tried)


SUSPECT = 2.6
"""Error over the Wiener filter's up to which a velocity may be that of a coupling (2 is the most for Gaussian data),
and how many such readings are tried."""
MAX_SUSPECTS = 6


def warning(prior: Denoiser, x: Tensor, *, images: int = 16) -> str | None:
    """One line if a prior does worse on images x than a filter that knows no more than a spectrum, else None; None for
    what is no image."""
    if x.ndim != 4:
        return None
    reading = confirm(prior, x, images=images)
    if reading.coupled:
        return f"warning: {COUPLED}"
    if reading.worst <= WORSE:
        return None
    return (
        f"warning: this prior denoises these images {reading.worst:.1f} times worse than a Wiener filter: it is read by"
        " the wrong convention, or was trained on other images; `deft prior inspect PRIOR --images DIR` tells which"
    )


COUPLED = (
    "the velocity was learned on a coupling of data and noise (OT-CFM, reflow): its ODE draws images like these, but"
    " x_t - t v is not the mean under independent noise, and every posterior drawn with it is too narrow. No convention"
    " mends that: take a model trained on independent pairs (docs/priors.md, couplings)"
)
"""What there is to say of a velocity that was learned on a coupling."""

AWAY = 20.0
"""sigma/alpha at which the mean under independent noise knows next to nothing of x_0, and one learned on a coupling
most of it."""

EXCESS = 0.15
"""Variance of x̂ there that is not explained by x_0, as a share of the data's: 0 for a conditional mean, 1 for the
velocity of a whole coupling."""

VELOCITIES = ("flow", "reverse-flow")


def coupled(prior: Denoiser, x: Tensor, *, seed: int = 0, steps: int = 12, draws: int = 16) -> bool:
    """Whether a network that returns a velocity learned it on a coupling of data and noise, x [N, *E] being of the kind
    it was trained on.

    Where x_0 and n are drawn in pairs (minibatch optimal transport: Tong et al. 2024, https://arxiv.org/abs/2302.00482;
    Pooladian et al. 2023, https://arxiv.org/abs/2304.14772; reflow: Liu et al. 2023, https://arxiv.org/abs/2209.03003),
    E[n - x_0 | x_t] still carries noise to data along its ODE, but x_t - t v is no E[x_0 | x_t] under independent
    noise. For data N(m, s^2) and the exact coupling x_0 = m + s n it is m + s x_t at t = 1, where the conditional mean
    is m. So both are asked:

        is (Var x̂ - Cov(x_0, x̂)) / Var x_0, which is 0 for every conditional mean, above `EXCESS` at sigma/alpha =
        `AWAY`? does the ODE of this very reading draw samples whose mean and power spectrum are those of x?

    Another convention fails the second, a network of independent pairs the first. Costs four passes, and where that is
    suspicious 2 `steps` more.
    """
    if not isinstance(prior, NetworkDenoiser) or prior.output not in VELOCITIES:
        return False
    t = time_at(prior.schedule, AWAY)
    if t is None:
        t = torch.tensor(prior.schedule.t_max, dtype=torch.float64)
    with torch.no_grad():
        mean = torch.stack([prior(_noisy(prior, x, t, seed + k)[0], t).mean for k in range(4)]).double()
    truth = (x - x.mean(0)).double()
    mean = mean - mean.mean((0, 1))
    excess = float((mean.square() - mean * truth).mean() / truth.square().mean().clamp_min(1e-12))
    if not excess > EXCESS or math.isinf(excess):
        return False
    try:
        drawn = sample(prior, Noise(seed_for("probing", seed + 4), draws), sampler=Heun(), steps=steps)
    except NonFiniteError:
        return False
    return _alike(drawn, x)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether samples a and b have one mean and one power spectrum: their mean images within half a deviation, the
    power in each of four octaves of frequency within a factor of 2."""
    spread = float(b.var(0).mean().sqrt())
    noise = spread * math.sqrt(1 / len(a) + 1 / len(b))
    if float((a.mean(0) - b.mean(0)).square().mean().sqrt()) > 0.5 * spread + 2 * noise:
        return False
    ours, theirs = _octaves(a), _octaves(b)
    kept = theirs > 1e-4 * theirs.sum()
    return (
        bool(((ours[kept] / theirs[kept]).log().abs() < math.log(2.0)).all()) and float(ours.sum() / theirs.sum()) < 2.0
    )


def _octaves(x: Tensor) -> Tensor:
    """Power about the mean: in all, for vectors; of images in each of four octaves of frequency."""
    centred = (x - x.mean(0)).double() * math.sqrt(len(x) / max(1, len(x) - 1))
    if x.ndim != 4:
        return centred.square().mean().reshape(1)
    power = torch.fft.fft2(centred, norm="ortho").abs().square().mean((0, 1))
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64, device=x.device) for n in power.shape)
    radius = (rows[:, None] ** 2 + columns[None, :] ** 2).sqrt()
    edges = [0.0, 0.0625, 0.125, 0.25, 1.0]
    return torch.stack([power[(radius >= low) & (radius < high)].sum() for low, high in itertools.pairwise(edges)])


def _some(prior: Denoiser, x: Tensor, images: int) -> Tensor:
    if tuple(x.shape[1:]) != tuple(prior.event_shape):
        raise InputError(f"the images have shape {tuple(x.shape[1:])}, the prior makes {tuple(prior.event_shape)}")
    if len(x) < 2:
        raise InputError("one image has no spectrum to compare with: give at least 2 (16 are plenty)")
    step = max(1, len(x) // images)
    return x[::step][:images].to(prior.state_like())


def time_at(schedule: Schedule, ratio: float) -> Tensor | None:
    """The t at which sigma/alpha is `ratio`, or None if the schedule does not go there."""
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    low, high = (-schedule.log_snr(ends) / 2).exp().tolist()
    if not low * 0.999 <= ratio <= high * 1.001:
        return None
    return schedule.time_of(torch.tensor(-2 * math.log(ratio), dtype=torch.float64))


def _noisy(prior: Denoiser, x: Tensor, t: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    at, alpha, sigma = prior.coefficients(t, x)
    return (
        alpha * x + sigma * Noise(seed_for("probing", seed), len(x)).normal(x.shape[1:], device=x.device).to(x.dtype),
        at,
        alpha,
        sigma,
    )


def mean_error(prior: Denoiser, x: Tensor, t: Tensor, seed: int) -> float:
    """Mean squared error of E[x_0 | x_t] for x [N, *E] noised to t."""
    x_t = _noisy(prior, x, t, seed)[0]
    with torch.no_grad():
        error = float((prior(x_t, t).mean - x).square().mean())
    return error if math.isfinite(error) else math.inf


def _reading(changes: dict[str, str], errors: list[float], x: Tensor, levels: Sequence[float]) -> Candidate:
    ratios = [e / max(wiener_error(x, r), 1e-12) for e, r in zip(errors, levels, strict=True)]
    return Candidate(changes, errors, ratios)


def _ways(prior: NetworkDenoiser) -> dict[str, dict[str, Any]]:
    """name -> what the network is given, and about which process: the prior's own way and that of every convention."""
    of = ("schedule", "time", "scale_input", "sigma_data")
    usual = {"scale_input": False, "sigma_data": 1.0}
    ways = {name: usual | {k: v for k, v in c.make().items() if k in of} for name, c in CONVENTIONS.items()}
    return {"": {k: v for k, v in prior.convention().items() if k in of}} | ways


def _changes(prior: NetworkDenoiser, name: str, value_range: tuple[float, float], kind: str) -> dict[str, str]:
    """The options that ask for this reading: of a convention those that differ from it, else those that differ from the
    prior's."""
    changes = {"convention": name} if name else {}
    usual = CONVENTIONS[name].make() if name else prior.convention()
    if kind != usual["output"]:
        changes["output"] = kind
    if value_range != usual.get("value_range", (-1.0, 1.0)):
        changes["value_range"] = f"{value_range[0]:g},{value_range[1]:g}"
    return changes


def _text(taken: Candidate, best: Candidate, confirmed: bool, count: int) -> str:
    if taken.coupled:
        return f"not confirmed: {COUPLED}"
    if best.coupled:
        return (
            f"not confirmed: read as {', '.join(f'{k} {v}' for k, v in best.changes.items())} ({best.options()}),"
            f" {COUPLED}"
        )
    if confirmed:
        return (
            f"confirmed: the reading taken has the least error of the {count} tried, {math.exp(taken.score):.2f} of the"
            " Wiener filter's"
        )
    if best is not taken and best.worst <= WORSE:
        what = ", ".join(f"{k} {v}" for k, v in best.changes.items())
        return (
            f"not confirmed: read as {what}, its error is {math.exp(best.score):.2f} of the Wiener filter's; read as it"
            f" was, {math.exp(taken.score):.2f}. Use: {best.options()}"
        )
    return (
        f"not confirmed: under the best of {count} readings its error is {best.worst:.1f} times the Wiener filter's at"
        f" some level (as read: {taken.worst:.1f}). Are these images of the kind it was trained on?"
    )
