"""Weights of sampled paths: how far the conditioned sampler is from the exact posterior, as one number.

A path x_T, ..., x_0 drawn with the correction h has the weight

    log w = log p(y | x_0) + sum over steps of log( prior's step / corrected step ),

so that E[w] = p(y) for every h, and w is the constant p(y) for the exact one, as the steps get small (paper,
Theorem 3.1 (1) and appendix G.1). Var(log w) therefore ranks h-transforms, and falls to 0 for the exact one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from deft.core.condition import Conditioned
from deft.core.grid import times
from deft.core.random import Noise
from deft.core.transition import Level, log_ratio, shift
from deft.samplers.ode import KernelSampler, with_weights


class Paths(NamedTuple):
    """x: final samples [B, *E]; log_weight: [B]."""

    x: Tensor
    log_weight: Tensor

    @property
    def log_evidence(self) -> float:
        """log of the mean weight, an estimate of log p(y)."""
        w = self.log_weight.double()
        return float(torch.logsumexp(w, 0) - torch.log(torch.tensor(float(len(w)))))

    @property
    def effective_samples(self) -> float:
        """(sum w)^2 / sum w^2 (Kong 1992)."""
        w = self.log_weight.double()
        return float(torch.exp(2 * torch.logsumexp(w, 0) - torch.logsumexp(2 * w, 0)))


@torch.no_grad()
def sample_paths(
    conditioned: Conditioned,
    noise: Noise,
    sampler: KernelSampler,
    *,
    steps: int = 200,
    spacing: str = "log-snr",
    grid: Sequence[Level] | None = None,
) -> Paths:
    """Draw paths with weights. All rows of `conditioned.obs` should be the same measurement.

    The last step, onto the clean end, is the prior's own denoised mean: there h has nothing left to do.
    """
    with_weights(sampler)
    levels = list(grid) if grid is not None else times(conditioned.schedule, steps, spacing)
    shape = conditioned.event_shape
    where = conditioned.state_like()

    def normal() -> Tensor:
        n = noise.normal(shape, device=where.device).to(where.dtype)
        return conditioned.project(n, torch.ones_like(n))

    x = normal() * levels[0].sigma
    log_w = torch.zeros(len(noise), dtype=torch.float64, device=where.device)
    for t, s in pairwise(levels):
        kernel = sampler.kernel(t, s)
        pred, h = conditioned.both(x, torch.tensor(t.t, dtype=torch.float64))
        if s.sigma == 0:
            x = kernel.step(x, pred.mean, None)
            break
        n = normal()
        moved = shift(kernel, t, h)
        x = kernel.step(x, pred.mean, n) + moved
        log_w += log_ratio(kernel, moved, n).double()
    return Paths(x, log_w + conditioned.obs.log_prob(x).double())
