"""Training-free h-transforms without a backward pass: gradients at x̂, DiffPIR's proximal point, replacement; and MCG.

Notation as in `guidance`: x̂ = E[x_0 | x_t], r = y - A(x̂), J = d x̂ / d x_t, A^+ the pseudo-inverse. A correction h
moves the denoised mean by (sigma^2 / alpha) h, so a method that moves the mean by a step of its own has h = (alpha /
sigma^2) step.
"""

from __future__ import annotations

from torch import Tensor

from deft.core.denoiser import Prediction
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.guidance.combine import Wrapped
from deft.guidance.through_prior import Weight, remaining
from deft.likelihood.gaussian import linear


class Pulled(HTransform):
    """h = c (alpha / sigma^2) move: how far the mean of the belief x_0 ~ N(x̂, rho^2 I) moves when it is updated by y.

    For a linear A and Gaussian noise the move is rho^2 A^T (sigma_y^2 I + rho^2 A A^T)^{-1} r, solved exactly
    (`Likelihood.mean_update`); for others a step towards it.

    Args:
        variance: rho^2 as a function of (alpha, sigma). scale: c.
    """

    def __init__(self, variance: Weight, scale: float = 1.0):
        super().__init__()
        self.variance, self.scale = variance, scale

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        rho2 = self.variance(pred.alpha, pred.sigma)
        return self.scale * (pred.alpha / pred.sigma**2) * obs.likelihood.mean_update(obs.y, pred.mean, rho2)


class GradientAtMean(Pulled):
    """ΠGDM (Song et al. 2023) without the prior's Jacobian: `Pulled` with rho^2 = d^2 sigma^2 / (d^2 alpha^2 +
    sigma^2).

    J is replaced by (alpha / sigma^2) rho^2 I, its value for data N(0, d^2 I): for such data this is the exact h.

    Args:
        data_std: d. scale: a factor on h.

    >>> import deft
    >>> from deft.guidance import GradientAtMean
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, GradientAtMean(0.5), obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    def __init__(self, data_std: float = 1.0, scale: float = 1.0):
        super().__init__(lambda alpha, sigma: remaining(alpha, sigma, data_std), scale)
        self.data_std = data_std


class ScoreAtMean(HTransform):
    """h = w(alpha, sigma) grad log p(y | x̂), the gradient in x̂: `ReconstructionGuidance` without the prior's
    Jacobian.

    The raw score grows as 1/alpha towards pure noise, and as 1/sigma_y^2: the weight has to answer for both.
    """

    def __init__(self, weight: Weight):
        super().__init__()
        self.weight = weight

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        return self.weight(pred.alpha, pred.sigma) * obs.score(pred.mean)


class DiffPIR(Pulled):
    """DiffPIR's data step (Zhu et al. 2023, algorithm 1): x̂ is replaced by the proximal point

        argmin_x |y - A(x)|^2 / (2 sigma_y^2) + lambda |x - x̂|^2 / (2 (sigma/alpha)^2),

    which for a linear A is the `mean_update` of a belief of variance rho^2 = (sigma/alpha)^2 / lambda. Its own rule for
    the noise is `deft.samplers.Refresh(zeta)`. A non-linear A has one preconditioned gradient step in place of the
    minimum.

    Where the prior says little the samples end with the spread of a measurement of variance lambda sigma_y^2 times
    (1 + sqrt(1 - zeta)) / 2 (see `Refresh`): lambda = 1 is the honest one, and any zeta > 0 varies too little.

    Args:
        strength: lambda; larger trusts the prior more.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior, sampler = world.prior(deft.VPCosine()), deft.samplers.Refresh(zeta=0.3)
    >>> draws = deft.sample_posterior(prior, deft.DiffPIR(), obs, 32, sampler=sampler, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    def __init__(self, strength: float = 1.0):
        super().__init__(lambda alpha, sigma: sigma**2 / (strength * alpha**2))
        self.strength = strength


class Replacement(HTransform):
    """h = (alpha / sigma^2) A^+ (y - A x̂): the denoised mean with its measured part replaced by y's.

    Under the ancestral sampler that is DDNM (Y. Wang, J. Yu & J. Zhang 2023, "Zero-shot image restoration using
    denoising diffusion null-space model", https://arxiv.org/abs/2212.00490, algorithm 1); for a mask it overwrites the
    seen entries (the DEFT paper's algorithm 8). Their DDNM+, which allows for the noise of y, is
    `deft.samplers.DDNM`.

    Under DDIM with any eta the seen entries keep exactly the law N(alpha_s y, sigma_s^2) of a forward-noised y, and
    with eta = 1 they walk along one path of the forward process; the start lacks alpha_T y, which the first steps
    forget. (Song et al. 2021b overwrite x_t itself, by a y noised afresh at each level: `deft.samplers.Imputed`, with
    the same law of the seen entries at each level.) Known biases: y counts as noiseless, and the hidden entries see y
    only through the prior's x̂, one level at a time, so that where they are correlated with what is seen their law is
    not p(x_0 | y); `deft.samplers.TimeTravel` (RePaint) makes up for most of that.

    >>> import deft
    >>> from deft.guidance import Replacement
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, Replacement(), obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        like, operator = linear(obs, "replacement")
        return (pred.alpha / pred.sigma**2) * operator.pinv(like.residual(obs.y, pred.mean))


class MCG(Wrapped):
    """Manifold constrained gradients (Chung, Sim, Ryu & Ye 2022, algorithm 1): a gradient, then the measured part
    replaced,

        h = (I - A^+ A) h_gradient + h_replacement.

    The paper's gradient step -c grad |r|^2 with c proportional to 1/|r| is that of DPS: ours is
    `MCG(DPS.published(zeta, ...))`. Here the measured part of x̂ is replaced, and its noise is as in `Replacement`. The
    paper overwrites that of x_s by a y noised
    afresh: that is `deft.samplers.Imputed(sampler)` with the gradient alone for h, and the row "mcg" of `deft.methods`.

    Args:
        h: the gradient, any h-transform.

    >>> import deft
    >>> from deft.guidance import MCG
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, MCG(deft.PiGDM(0.5)), obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    def __init__(self, h: HTransform):
        super().__init__(h)
        self.replacement = Replacement()

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        _, operator = linear(obs, "MCG")
        h = self.h(pred, obs)
        return h - operator.pinv(operator(h)) + self.replacement(pred, obs).detach()
