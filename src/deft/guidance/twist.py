"""Potentials that weigh particles: any positive function of x_t will do, a good one looks like p_t(y | x_t).

`deft.samplers.smc` asks them for `log_h` alone, which takes nothing through the prior; their gradients are h-transforms
as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from deft.core.denoiser import Prediction
from deft.core.htransform import Potential
from deft.core.likelihood import Observation, per_row
from deft.core.operator import Operator
from deft.guidance.exact import _ClosedForm
from deft.likelihood.gaussian import requires

Spread = Callable[[Tensor], Tensor]


class Predictive(Potential):
    """log p(y | x_t) as if x_0 given x_t were N(x̂, rho^2 I).

    For a linear A with Gaussian noise that is log N(y; A x̂, sigma_y^2 I + rho^2 A A^T) up to a number that depends on
    the level alone (its gradient is ΠGDM, Song et al. 2023, eq. 7; the authors of TDS add x_0's variance to such y's,
    too). For other Gaussian noise log p(y | x̂) is divided by 1 + rho^2 / sigma_y^2, for other likelihoods multiplied
    by the share 1 - rho^2 / d^2 of the data's variance that is known; printed, TDS has p(y | x̂) as it is. A twist
    changes how many particles it takes, not the law.

    Args:
        data_std: d, the data's deviation: rho^2 = d^2 sigma^2 / (d^2 alpha^2 + sigma^2).
        rho2: what the prior leaves open at log(sigma/alpha), instead (a calibrated DEFT's `rho2`); for Gaussian noise.
    """

    def __init__(self, data_std: float = 1.0, rho2: Spread | None = None):
        super().__init__()
        self.data_std, self._rho2 = data_std, rho2

    def rho2(self, pred: Prediction) -> Tensor:
        """[B or 1, 1, ...]"""
        if self._rho2 is not None:
            return self._rho2(torch.log(pred.sigma / pred.alpha).float()).to(pred.mean)
        return self._assumed(pred)

    def _assumed(self, pred: Prediction) -> Tensor:
        return self.data_std**2 * pred.sigma**2 / (self.data_std**2 * pred.alpha**2 + pred.sigma**2)

    def log_h(self, pred: Prediction, obs: Observation) -> Tensor:
        closed = obs.likelihood.log_predictive(obs.y, pred.mean, self.rho2(pred))
        if closed is not None:
            return closed
        # a calibrated rho^2 goes to the data's own variance, of which data_std knows nothing: its share would be no
        # share
        known = (1 - self._assumed(pred) / self.data_std**2).clamp(1e-3, 1)
        log_p = obs.log_prob(pred.mean)
        return known.reshape(-1) * torch.where(log_p == -math.inf, HARDLY, log_p)


HARDLY = -4.0
"""Stands for the logarithm of 0: x_0 may yet be where x̂ is not, so a particle there must not be given up."""


class SeenNoisy(_ClosedForm):
    """log N(A x_t; alpha y, sigma^2 + alpha^2 sigma_y^2) for an A that is a projection (a mask, a motif): x_t next to a
    noised y.

    For a mask and sigma_y = 0 the potential of MCGDiff (Cardoso et al. 2024, algorithm 1; SMCDiff of Trippe et al. 2023
    draws one noised motif where this one integrates over them). With noise theirs stops at the level where sigma/alpha
    = sigma_y; this one goes on, and ends at the likelihood itself. It is no estimate of p_t(y | x_t), of which it knows
    no
    prior: as an h alone it pulls too hard at high noise. Its use is that the prior's step times it is normal again.
    """

    @staticmethod
    def law(
        alpha: Tensor | float, sigma: Tensor | float, obs: Observation, x: Tensor
    ) -> tuple[Tensor, Tensor, Operator]:
        """(mean, variance, A) of A x_t given y, to broadcast against samples x."""
        seen = requires(obs, "projection", "MCGDiff")
        s2 = per_row(seen.deviation, x) ** 2
        return alpha * seen.operator(obs.y.to(x)), sigma**2 + alpha**2 * s2, seen.operator

    def log_h(self, pred: Prediction, obs: Observation) -> Tensor:
        mean, variance, operator = self.law(pred.alpha, pred.sigma, obs, pred.x_t)
        square = ((operator(pred.x_t) - mean) ** 2 / variance).flatten(1).sum(1)
        return -0.5 * (square + operator.number_of_measurements(mean) * (2 * math.pi * variance).log().reshape(-1))
