"""TMPD and MMPS: ΠGDM with the covariance of x_0 given x_t taken from the prior itself.

The derivative of the denoised mean is a covariance (the second-order form of Tweedie's formula):

    Cov[x_0 | x_t] = (sigma^2 / alpha) J,    J = d x̂ / d x_t,

so that products with it cost one backward pass each. With C for it, and r = y - A x̂,

    h = J^T A^T (sigma_y^2 I + A C A^T)^{-1} r,

which is exact if x_0 given x_t is Gaussian with a covariance that does not depend on x_t: for Gaussian data.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from deft.core.denoiser import Prediction
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.core.operator import conjugate_gradient
from deft.errors import InputError
from deft.likelihood.gaussian import linear, noise_variance


def _back(pred: Prediction, v: Tensor) -> Tensor:
    """J^T v, [B, *E]; J is symmetric for a true E[x_0 | x_t]."""
    return torch.autograd.grad(pred.mean, pred.x_t, v, retain_graph=True)[0]


class TMPD(HTransform):
    """Tweedie moment projected diffusion (B. Boys et al. 2024, "Tweedie moment projected diffusions for inverse
    problems", https://arxiv.org/abs/2310.06721), with the diagonal of A C A^T for all of it:

        h = J^T A^T [ r / (sigma_y^2 + (sigma^2/alpha) A J^T A^T 1) ].

    The diagonal is estimated by its row sums, as in the paper's practical version: exact for a mask if the prior's
    covariance is diagonal. Row sums below `SMALLEST` of the measurement's mean row sum count as that (not in the
    paper): no covariance's diagonal is negative, and one near 0 beside a small sigma_y would send the sample out of
    range. Two backward passes a step.

    >>> import deft
    >>> from deft.guidance import TMPD
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, TMPD(), obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    SMALLEST: ClassVar[float] = 0.01

    needs_graph = True

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        like, operator = linear(obs, "TMPD")
        r = like.residual(obs.y, pred.mean).detach()
        ones = operator.adjoint(operator.measured_part(torch.ones_like(r)))
        rows = operator((pred.sigma**2 / pred.alpha) * _back(pred, ones)).clamp_min(0)
        mean = rows.flatten(1).sum(1) / operator.number_of_measurements(rows).clamp_min(1)
        rows = torch.maximum(rows, self.SMALLEST * mean.reshape((-1,) + (1,) * (rows.ndim - 1)))
        return _back(pred, operator.adjoint(r / (noise_variance(like, r) + rows)))


class MMPS(HTransform):
    """Moment matching posterior sampling (F. Rozet, G. Andry, F. Lanusse & G. Louppe 2024, "Learning diffusion priors
    from observations by expectation maximization", https://arxiv.org/abs/2405.13712, section 4.2): the whole of C, by
    conjugate gradients.

    Exact for Gaussian data once `iterations` reaches the number of measured directions (or fewer, if many singular
    values are alike). A network's J is only nearly symmetric; few iterations forgive that. iterations + 1 backward
    passes a step.

    Args:
        iterations: of conjugate gradients (1 to 3 in the paper).

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, deft.MMPS(iterations=8), obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.02
    tensor(True)
    """

    needs_graph = True

    def __init__(self, iterations: int = 3):
        super().__init__()
        if iterations < 1:
            raise InputError(f"MMPS needs at least 1 iteration, got {iterations}")
        self.iterations = iterations

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        like, operator = linear(obs, "MMPS")
        r = like.residual(obs.y, pred.mean).detach()
        noise, unit = noise_variance(like, r), pred.sigma**2 / pred.alpha

        def spread(v: Tensor) -> Tensor:
            return noise * v + operator.measured_part(operator(unit * _back(pred, operator.adjoint(v))))

        return _back(pred, operator.adjoint(conjugate_gradient(spread, r, max_iterations=self.iterations)))
