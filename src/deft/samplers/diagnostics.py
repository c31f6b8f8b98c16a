"""How drawing went: what each way of drawing has to say of itself, in tensors over the measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deft.kinds.draws import Diagnostics

STUCK = 0.01
"""A chain of lower mean acceptance has not moved."""


def ess_fraction(log_w: Tensor) -> Tensor:
    """(sum w)^2 / (K sum w^2) of log-weights [B, K], [B] (Kong 1992): 1 for equal weights, 1/K if one sample has them
    all."""
    share = torch.exp(2 * torch.logsumexp(log_w, 1) - torch.logsumexp(2 * log_w, 1)) / log_w.shape[1]
    return share.clamp(max=1)  # rounding of equal weights


def log_mean(log_w: Tensor) -> Tensor:
    """log of the mean weight of each row, [B, K] -> [B]."""
    return torch.logsumexp(log_w, 1) - math.log(log_w.shape[1])


@dataclass(frozen=True, eq=False, repr=False)
class ParticleDiagnostics(Diagnostics):
    """Of weighted particles (`sample_smc`).

    ess_fraction: (sum w)^2 / (K sum w^2) at each level and at the end, before it resamples, [B, N + 1] (Kong 1992); 1
    for equal weights.
    resampled: how often, [B].
    moved: distance of the weighted from the plain mean of the final particles, in their own standard deviations (root
        mean squares over the sample's entries), [B]: 0 if the weights change nothing since the last resampling.
    """

    ess_fraction: Tensor
    resampled: Tensor
    moved: Tensor

    def summary(self) -> str:
        return (
            f"{100 * float(self.ess_fraction[:, -1].mean()):.0f} % of the particles effective, resampled "
            f"{float(self.resampled.double().mean()):.1f} times"
        )


@dataclass(frozen=True, eq=False, repr=False)
class ChainDiagnostics(Diagnostics):
    """Of Markov chains (`sample_hmc`).

    accepted: mean probability of acceptance after burn-in, of each chain, [B, chains]; one with hardly any is stuck,
    and its x no sample.
    step_size: angle of a leapfrog, [B].
    log_weight: log w after each iteration, burn-in included, [B, chains, iterations]; it rises while a chain finds the
        posterior, and must have stopped, for all chains alike (which does not tell that all modes were found).
    """

    accepted: Tensor
    step_size: Tensor
    log_weight: Tensor

    @property
    def rise(self) -> Tensor:
        """Mean log w of the last quarter of the iterations less that of the quarter before, [B, chains]: above what it
        wanders by, a chain has not arrived."""
        n = max(1, self.log_weight.shape[-1] // 4)
        return self.log_weight[..., -n:].mean(-1) - self.log_weight[..., -2 * n : -n].mean(-1)

    @property
    def stuck(self) -> Tensor:
        """Which chains have hardly moved, [B, chains]."""
        return self.accepted < STUCK

    def summary(self) -> str:
        return f"{100 * float(self.accepted.mean()):.0f} % of the moves accepted, {int(self.stuck.sum())} chains stuck"


@dataclass(frozen=True, eq=False, repr=False)
class PathDiagnostics(Diagnostics):
    """Of weighted paths (`sample_paths`).

    log_weight_variance: Var(log w) over the paths of each measurement, [B]: 0 for the exact h in small steps.
    ess_fraction: (sum w)^2 / (n sum w^2), [B].
    """

    log_weight_variance: Tensor
    ess_fraction: Tensor

    def summary(self) -> str:
        return (
            f"Var(log w) {float(self.log_weight_variance.mean()):.3g}, {100 * float(self.ess_fraction.mean()):.0f} "
            "% of the paths effective"
        )
