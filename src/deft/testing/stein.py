"""Are these samples of the posterior? Asked without a truth: the kernel Stein discrepancy of samples against a score.

    KSD^2 = E k_p(x, x'),    k_p(x, x') = s(x).s(x') k + s(x).grad_x' k + s(x').grad_x k + tr grad_x grad_x' k

with s = grad log p and x, x' independent draws from what made the samples. It is 0 where that is p, and above 0
elsewhere, for k(x, x') = (c^2 + |x - x'|^2)^b with -1 < b < 0 (J. Gorham & L. Mackey 2017, "Measuring sample quality
with kernels", https://arxiv.org/abs/1703.01717).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deft.core.condition import condition
from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.core.likelihood import Likelihood, Observation
from deft.core.random import Noise, seed_for
from deft.errors import InputError
from deft.guidance.covariance import MMPS
from deft.guidance.through_prior import ReconstructionGuidance
from deft.likelihood.gaussian import why_unsupported

LEVEL = 0.1
"""sigma/alpha at which posterior scores are taken."""


class KernelStein(NamedTuple):
    """squared: the unbiased estimate of KSD^2, which may be below 0. error: its standard error. p_value: how often
    samples of p have so large a one, by the bootstrap. critical: what 5 % of them exceed.

    relative: `squared` over the mean of k_p(x, x), which makes it a number without units: 0 is right, and 1 is samples
    that are all the same, away from where the score is 0.
    """

    squared: float
    relative: float
    error: float
    p_value: float
    critical: float


def stein_kernel(x: Tensor, score: Tensor, scale: float | None = None, power: float = -0.5) -> Tensor:
    """k_p(x_i, x_j), [n, n] float64, of samples and scores [n, *E]; scale: c, default the median distance."""
    if x.shape != score.shape or len(x) < 2:
        raise InputError(
            f"a Stein discrepancy needs at least 2 samples and a score of each, got shapes {tuple(x.shape)} and"
            f" {tuple(score.shape)}"
        )
    if not -1 < power < 0:
        raise InputError(f"the power of the inverse multiquadric is between -1 and 0, got {power}")
    v, s = x.detach().double().flatten(1), score.detach().double().flatten(1)
    if not bool(torch.isfinite(s).all()) or not bool(torch.isfinite(v).all()):
        raise InputError("samples or their scores are not finite")
    square = torch.cdist(v, v).square()
    if scale is None:
        apart = square[~torch.eye(len(v), dtype=torch.bool, device=v.device)]
        scale = float(apart.median().sqrt()) or 1.0
    u = scale**2 + square
    cross = s @ v.mT  # s_i . x_j
    own = cross.diagonal()
    pulls = cross + cross.mT - own[:, None] - own[None, :]  # (s_j - s_i).(x_i - x_j)
    slope = 2 * power * u ** (power - 1)
    trace = -slope * v.shape[1] - 4 * power * (power - 1) * square * u ** (power - 2)
    return s @ s.mT * u**power + slope * pulls + trace


def discrepancy(kernel: Tensor) -> tuple[float, float]:
    """(KSD^2, its ratio to the mean of k_p(x, x)) from k_p of all pairs [n, n]: the mean over different samples."""
    n, own = len(kernel), float(kernel.diagonal().sum())
    squared = (float(kernel.sum()) - own) / (n * (n - 1))
    return squared, squared / (own / n)


def kernel_stein(
    x: Tensor,
    score: Tensor,
    *,
    scale: float | None = None,
    power: float = -0.5,
    bootstrap: int = 1000,
    seed: int = 0,
) -> KernelStein:
    """The kernel Stein discrepancy of samples x [n, *E] against the density whose score at them is `score` [n, *E].

    The U-statistic of Liu et al. (Q. Liu, J. Lee & M. Jordan 2016, "A kernelized Stein discrepancy for goodness-of-fit
    tests", https://arxiv.org/abs/1602.03253), the mean of k_p over pairs of different samples, and their bootstrap with
    multinomial weights, which gives its law if x are of that density. Needs neither the density's constant nor samples
    of it; n^2 numbers of memory.

    In many dimensions it sees little: all distances are nearly the same there, k hardly varies, and what is left is
    the mean of the score (a shift) and of s(x).x (too much or too little spread in all). Modes that are missing leave
    both alone, at any dimension, as they do every score-based test. Samples must be independent of one another.

    Args:
        scale: c of the kernel; default the median distance of two samples. power: b. bootstrap: its repeats.

    Raises:
        InputError: fewer than two samples, or numbers that are not finite.

    >>> import torch
    >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))  # of N(0, I), whose score is -x
    >>> kernel_stein(x, -x).p_value > 0.05, kernel_stein(0.7 * x, -0.7 * x).p_value < 0.01
    (True, True)
    """
    kernel = stein_kernel(x, score, scale, power)
    n = len(kernel)
    squared, relative = discrepancy(kernel)
    kernel.diagonal().zero_()
    g = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(torch.ones(bootstrap, n), n, replacement=True, generator=g)
    weights = torch.zeros(bootstrap, n, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(bootstrap, n, dtype=torch.float64)
    )
    w = (weights / n - 1 / n).to(kernel.device)
    null = ((w @ kernel) * w).sum(1) * (n / (n - 1))
    first = float((kernel.sum(1) / (n - 1)).var()) if n > 2 else 0.0
    return KernelStein(
        squared,
        relative,
        math.sqrt(4 * first / n + float(null.var())),
        float(1 + (null >= squared).sum()) / (bootstrap + 1),
        float(null.quantile(0.95)),
    )


def posterior_scores(
    prior: Denoiser,
    obs: Observation,
    x: Tensor,
    *,
    level: float = LEVEL,
    h: HTransform | None = None,
    seed: int = 0,
    batch: int = 64,
) -> tuple[Tensor, Tensor]:
    """(x_t, grad log p_t(x_t | y)) at sigma/alpha = level for samples x [B, *E] of the B measurements of `obs`.

    x_t = alpha x + sigma n with fresh noise; the score is the prior's and h's. h: default `MMPS(10)` where the
    likelihood is Gaussian and linear, exact for Gaussian data; elsewhere `ReconstructionGuidance`, which takes x_0 for
    known given x_t: good where `level` is small against what the measurement leaves open.
    """
    if not level > 0:
        raise InputError(f"a noise level is above 0, got {level}: the score at 0 is not known")
    h = h or score_guidance(obs.likelihood)
    t = prior.schedule.time_of(torch.tensor(-2 * math.log(level), dtype=torch.float64))
    x_t, scores = [], []
    for low in range(0, len(x), batch):
        rows = slice(low, low + batch)
        some = x[rows].to(prior.state_like(x))
        _, alpha, sigma = prior.coefficients(t, some)
        n = Noise(seed_for("probing", seed), range(low, low + len(some))).normal(some.shape[1:]).to(some)
        x_t.append(alpha * some + sigma * n)
        scores.append(condition(prior, h, obs[rows].to(some.device))(x_t[-1], t).score.detach())
    return torch.cat(x_t), torch.cat(scores)


def score_guidance(likelihood: Likelihood) -> HTransform:
    """The h whose score is that of p_t(y | x_t) at little noise."""
    return MMPS(10) if why_unsupported(likelihood, "linear", "MMPS") is None else ReconstructionGuidance()


def posterior_stein(
    prior: Denoiser,
    obs: Observation,
    x: Tensor,
    *,
    level: float = LEVEL,
    h: HTransform | None = None,
    seed: int = 0,
    batch: int = 64,
) -> KernelStein:
    """`kernel_stein` of samples x [n, *E] of one measurement's posterior, against prior and likelihood.

    It is asked at a small noise level: of alpha x + sigma n, against the score of p_t(x_t | y), because the prior's
    score at no noise is not known. What it tests is the posterior *at that level*: errors finer than `level` (in the
    units of x) do not show. The prior's own errors do not show either, as its score is taken for the truth. For the
    weakness in many dimensions see `kernel_stein`; for the score `posterior_scores`, which calls the prior with up to
    11 backward passes for each sample.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> x = world.posterior(obs).sample(200).float()
    >>> prior = world.prior(deft.VPCosine())
    >>> posterior_stein(prior, obs, x).p_value > 0.05, posterior_stein(prior, obs, x + 0.1).p_value < 0.01
    (True, True)
    """
    if len(obs) != 1:
        raise InputError(f"the Stein discrepancy is of one measurement at a time, got {len(obs)}: give obs[i]")
    x_t, scores = posterior_scores(prior, obs.repeat(len(x)), x, level=level, h=h, seed=seed, batch=batch)
    return kernel_stein(x_t, scores, seed=seed)
