"""The exact mean and covariance of a sampler's output, without drawing a sample.

If a denoiser is affine in x_t (a Gaussian world, conditioned or not) then every step of every sampler is affine
in x_t and in its noise, so that the law of the output is a Gaussian whose moments follow by linear algebra. The
error of a sampler then has no Monte-Carlo noise on it: this is what the tests of order use.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from deft.denoise import Denoiser
from deft.kernel import Level
from deft.sample.base import Carry, Sampler


@torch.no_grad()
def moments(
    denoiser: Denoiser,
    sampler: Sampler,
    grid: Sequence[Level],
    mean: Tensor | None = None,
    covariance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(mean [d], covariance [d, d]) of x at the last level of `grid`, float64.

    Args:
        denoiser: affine in x_t, on vectors of d entries; called on 2d + 1 rows, so condition it on
            `obs.repeat(2 * d + 1)` of a single measurement.
        sampler: a stochastic one must not carry anything from step to step.
        mean, covariance: of x at the first level; default those `sample` starts from, 0 and sigma^2 I.
    """
    (d,) = denoiser.event_shape
    eye, zero = torch.eye(d, dtype=torch.float64), torch.zeros(2 * d + 1, d, dtype=torch.float64)
    m = torch.zeros(d, dtype=torch.float64) if mean is None else mean.double()
    c = grid[0].sigma ** 2 * eye if covariance is None else covariance.double()
    # rows: 0, then the unit vectors in x, then the unit vectors in the noise
    x, n = zero.clone(), zero.clone()
    x[1 : d + 1], n[d + 1 :] = eye, eye
    carry: Carry = None
    for t, s in pairwise(grid):
        if sampler.stochastic:
            out, carry = sampler.step(denoiser, x, t, s, n if s.sigma > 0 else None, None)
            assert carry is None, "moments of a stochastic sampler with a memory are not implemented"
            f = (out[1 : d + 1] - out[0]).mT
            g = (out[d + 1 :] - out[0]).mT
            m, c = f @ m + out[0], f @ c @ f.mT + g @ g.mT
        else:  # the whole chain is one affine map: let its basis walk through
            x, carry = sampler.step(denoiser, x, t, s, None, carry)
    if sampler.stochastic:
        return m, c
    f = (x[1 : d + 1] - x[0]).mT
    return f @ m + x[0], f @ c @ f.mT


def flow(mixture_mean: Tensor, covariance: Tensor, x: Tensor, t: Level, s: Level) -> Tensor:
    """The probability-flow ODE's solution in a Gaussian world, from x at level t to level s, [B, d], float64.

    x_s = alpha_s m + (alpha_s^2 C + sigma_s^2 I)^{1/2} (alpha_t^2 C + sigma_t^2 I)^{-1/2} (x_t - alpha_t m): each
    eigen-direction keeps its number of standard deviations.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    ratio = ((s.alpha**2 * values + s.sigma**2) / (t.alpha**2 * values + t.sigma**2)).sqrt()
    m = mixture_mean.double()
    return s.alpha * m + ((x.double() - t.alpha * m) @ vectors * ratio) @ vectors.mT
