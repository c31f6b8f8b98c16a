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

from deft.core.denoiser import Denoiser
from deft.core.sampler import Carry, Sampler
from deft.core.transition import Level


@torch.no_grad()
def moments(
    denoiser: Denoiser,
    sampler: Sampler,
    grid: Sequence[Level],
    mean: Tensor | None = None,
    covariance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(mean [d], covariance [d, d]) of x at the last level of `grid`, float64.

    What a multistep sampler carries from step to step is part of the state: its tensors [B, d] are followed jointly
    with x.

    Args:
        denoiser: affine in x_t, on vectors of d entries; called on 2d + 1 rows, so condition it on
            `obs.repeat(2 * d + 1)` of a single measurement.
        sampler: each step affine in x, in the tensors of its carry (a tensor, or a tuple of tensors and numbers) and in
            one draw of noise.
        mean, covariance: of x at the first level; default those `sample` starts from, 0 and sigma^2 I.
    """
    (d,) = denoiser.event_shape
    eye, zero = torch.eye(d, dtype=torch.float64), torch.zeros(2 * d + 1, d, dtype=torch.float64)
    m = torch.zeros(d, dtype=torch.float64) if mean is None else mean.double()
    c = grid[0].sigma ** 2 * eye if covariance is None else covariance.double()
    # rows: 0, then the unit vectors of a part of the state, then those of the noise
    along, noise = zero.clone(), zero.clone()
    along[1 : d + 1], noise[d + 1 :] = eye, eye
    carry: Carry = None
    for t, s in pairwise(grid):
        columns, offset, shocks = [], zero[0], zero[:0].mT
        for part in range(len(m) // d):  # x, then each tensor of the carry
            parts = [along if i == part else zero for i in range(len(m) // d)]
            n = noise if sampler.stochastic and s.sigma > 0 else None
            x, after = sampler.step(denoiser, parts[0], t, s, n, _filled(carry, parts[1:]))
            out = torch.cat([x, *_tensors(after)], 1)
            offset = out[0]
            columns.append((out[1 : d + 1] - offset).mT)
            shocks = (out[d + 1 :] - offset).mT
        f = torch.cat(columns, 1)
        m, c, carry = f @ m + offset, f @ c @ f.mT + shocks @ shocks.mT, after
    return m[:d], c[:d, :d]


def _tensors(carry: Carry) -> list[Tensor]:
    items = carry if isinstance(carry, tuple) else (carry,)
    return [v for v in items if isinstance(v, Tensor)]


def _filled(carry: Carry, tensors: Sequence[Tensor]) -> Carry:
    """The carry with other tensors in the places of its own."""
    left = iter(tensors)
    if isinstance(carry, tuple):
        return tuple(next(left) if isinstance(v, Tensor) else v for v in carry)
    return next(left) if isinstance(carry, Tensor) else carry


def flow(mixture_mean: Tensor, covariance: Tensor, x: Tensor, t: Level, s: Level) -> Tensor:
    """The probability-flow ODE's solution in a Gaussian world, from x at level t to level s, [B, d], float64.

    x_s = alpha_s m + (alpha_s^2 C + sigma_s^2 I)^{1/2} (alpha_t^2 C + sigma_t^2 I)^{-1/2} (x_t - alpha_t m): each
    eigen-direction keeps its number of standard deviations.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    ratio = ((s.alpha**2 * values + s.sigma**2) / (t.alpha**2 * values + t.sigma**2)).sqrt()
    m = mixture_mean.double()
    return s.alpha * m + ((x.double() - t.alpha * m) @ vectors * ratio) @ vectors.mT
