"""Training-free guidance: reconstruction guidance, DPS, ΠGDM. All differentiate through the prior.

Notation: x̂ = E[x_0 | x_t], r = y - A(x̂), J = d x̂ / d x_t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from deft.core.denoiser import Prediction
from deft.core.htransform import HTransform, Potential
from deft.core.likelihood import Observation
from deft.core.operator import LinearOperator, Operator
from deft.core.transition import Kernel, Level
from deft.errors import InputError
from deft.likelihood.gaussian import gaussian, noise_variance

Weight = Callable[[Tensor, Tensor], Tensor]


def _one(alpha: Tensor, sigma: Tensor) -> Tensor:
    return torch.ones_like(alpha)


def remaining(alpha: Tensor, sigma: Tensor, data_std: float) -> Tensor:
    """rho^2 = d^2 sigma^2 / (d^2 alpha^2 + sigma^2), the variance of x_0 given x_t in data of deviation d."""
    return data_std**2 * sigma**2 / (data_std**2 * alpha**2 + sigma**2)


def by_level(grid: Sequence[Level], values: Sequence[float]) -> Weight:
    """w(alpha, sigma): the value that belongs to the nearest level of a grid, in log(sigma / alpha).

    Args:
        values: one for each level but the last.
    """
    ratio = torch.tensor([level.sigma / level.alpha for level in grid[: len(values)]], dtype=torch.float64).log()
    both = torch.stack([ratio, torch.tensor(values, dtype=torch.float64)])
    there: dict[torch.device, Tensor] = {}  # where it was asked for: a copy at each step would wait for the device

    def weight(alpha: Tensor, sigma: Tensor) -> Tensor:
        if alpha.device not in there:
            there[alpha.device] = both.to(alpha.device)
        ratio, table = there[alpha.device]
        near = ((sigma / alpha).double().log()[..., None] - ratio).abs().argmin(-1)
        return table[near].to(alpha.dtype)

    return weight


class ReconstructionGuidance(HTransform):
    """h = w(alpha, sigma) J^T grad log p(y | x̂) (J. Ho et al. 2022, "Video diffusion models",
    https://arxiv.org/abs/2204.03458, eq. 7).

    Their x̂ - (w_r alpha / 2) grad |y - A x̂|^2 is w = w_r sigma_y^2 alpha^2 / sigma^2: y as if it had the variance
    sigma^2 / alpha^2.

    Args:
        weight: w(alpha, sigma); default 1, which takes x_0 given x_t for a point.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> h = deft.ReconstructionGuidance(lambda alpha, sigma: 0.01 * alpha**2 / sigma**2)  # w_r = 1, sigma_y = 0.1
    >>> draws = deft.sample_posterior(prior, h, obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    needs_graph = True

    def __init__(self, weight: Weight = _one):
        super().__init__()
        self.weight = weight

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        return (
            self.weight(pred.alpha, pred.sigma)
            * torch.autograd.grad(obs.log_prob(pred.mean).sum(), pred.x_t, retain_graph=True)[0]
        )


class DPS(HTransform):
    """Diffusion posterior sampling (Chung et al. 2023, algorithm 1): h = -zeta w grad_{x_t} ||y - A(x̂)||.

    As published, DPS moves x_s by -zeta grad ||r|| after each step, so its strength depends on the step: use
    `DPS.published(zeta, sampler, grid)` for exactly that. The norm is one sample's own, never a batch's. (H. Chung, J.
    Kim, M. T. Mccann, M. L. Klasky & J. C. Ye 2023, "Diffusion posterior sampling for general noisy inverse problems",
    https://arxiv.org/abs/2209.14687.)

    Args:
        zeta: the step size, as in the authors' code (0.3 to 1 there, for 1,000 steps): twice the printed zeta', which
            multiplies grad ||r||^2 / ||r||. Fewer steps want a larger one.
        weight: w(alpha, sigma); default 1.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior, sampler = world.prior(deft.VPCosine()), deft.DDIM(1.0)
    >>> grid = deft.times(prior.schedule, 20)
    >>> h = deft.DPS.published(0.3, sampler.kernel, grid)
    >>> draws = deft.sample_posterior(prior, h, obs, 32, sampler=sampler, grid=grid)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    needs_graph = True

    def __init__(self, zeta: float = 1.0, weight: Weight = _one):
        super().__init__()
        self.zeta, self.weight = zeta, weight

    @classmethod
    def published(cls, zeta: float, kernel: Callable[[Level, Level], Kernel], grid: Sequence[Level]) -> DPS:
        """The weight with which the step of `kernel` along `grid` moves x_s by exactly -zeta grad ||r||.

        A correction h moves x_s by c_mean (sigma^2/alpha) h, so w = alpha / (sigma^2 c_mean) at each level.
        """
        weight = by_level(grid, [t.alpha / (t.sigma**2 * kernel(t, s).c_mean) for t, s in pairwise(grid)])
        return cls(zeta, weight)

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        r = obs.likelihood.residual(obs.y, pred.mean)
        if r is None:
            raise InputError(
                f"DPS needs a residual y - A(x), and {obs.likelihood.kind} has none: use ReconstructionGuidance, which"
                " takes any likelihood"
            )
        norm = (r.square().flatten(1).sum(1) + 1e-12).sqrt()
        return (
            -self.zeta
            * self.weight(pred.alpha, pred.sigma)
            * torch.autograd.grad(norm.sum(), pred.x_t, retain_graph=True)[0]
        )


class PiGDM(Potential):
    """ΠGDM (Song, Vahdat, Mardani & Kautz 2023, "Pseudoinverse-guided diffusion models for inverse problems",
    https://openreview.net/forum?id=9_gsMA8MRKQ), in two forms.

    **The estimate of the score**, `PiGDM(data_std)`. For a linear A, eq. 7:

        h = J^T A^T (sigma_y^2 I + rho^2 A A^T)^{-1} r.

    It takes p(x_0 | x_t) for N(x̂, rho^2 I), with rho^2 = d^2 sigma^2 / (d^2 alpha^2 + sigma^2), the variance
    left in data of deviation d; for d = 1 and VP that is the paper's r_t^2 = 1 - abar_t. This is what is summed with
    other h, weighs particles and is differentiated. For any other A with a pseudo-inverse A^+ (`Operator.pinv`),
    section 3.3, which takes y for noiseless and asks no derivative of A:

        h = J^T (A^+(y) - A^+(A(x̂))) / rho^2.

    **The algorithm**, `PiGDM.published(kernel, grid)`: the weight with which a step from t to s moves x_s by

        alpha_s alpha_t g,    g = J^T rho^2 A^T (sigma_y^2 I + rho^2 A A^T)^{-1} r,
                              or J^T (A^+ y - A^+ A(x̂)) without noise,

    however long the step is. That is algorithm 1 with its adaptive weight r_t^2, as the authors' code has it (RED-diff,
    `pgdm`), azula and InverseBench too. `alpha_s=False` adds alpha_t g alone, which is larger at the first steps. The
    noise is that of `DDIM(eta)`. It holds y tighter and varies less than the posterior, and its mean is nearer to the
    truth than that of the estimate of the score.

    `log_h` is what h is the gradient of; without noise and for other A, as far as A^+A is an orthogonal projection.

    Args:
        data_std: d. weight: a factor w(alpha, sigma) on h. noiseless: whether the pseudo-inverse takes the place of the
            solve where sigma_y = 0, whose stand-in is `Gaussian.surrogate` otherwise.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, deft.PiGDM(data_std=0.5), obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    def __init__(self, data_std: float = 1.0, weight: Weight = _one, *, noiseless: bool = False):
        super().__init__()
        self.data_std, self.weight, self.noiseless = data_std, weight, noiseless

    @classmethod
    def published(
        cls,
        kernel: Callable[[Level, Level], Kernel],
        grid: Sequence[Level],
        data_std: float = 1.0,
        scale: float = 1.0,
        *,
        alpha_s: bool = True,
    ) -> PiGDM:
        """The h with which the step of `kernel` along `grid` moves x_s by exactly scale alpha_s alpha_t g.

        A correction h moves x_s by c_mean (sigma^2/alpha) h, so the weight is scale alpha_s alpha_t rho^2 alpha_t /
        (sigma^2 c_mean) at each level.

        Args:
            kernel: of the sampler, as `DDIM(eta).kernel`. grid: its levels. scale: a factor on the move (the code's
                `grad_term_weight`).
            alpha_s: whether that factor is there.
        """
        pairs = list(pairwise(grid))
        own = by_level(
            grid,
            [scale * (s.alpha if alpha_s else 1.0) * t.alpha**2 / (t.sigma**2 * kernel(t, s).c_mean) for t, s in pairs],
        )
        return cls(data_std, lambda alpha, sigma: own(alpha, sigma) * remaining(alpha, sigma, data_std), noiseless=True)

    def log_h(self, pred: Prediction, obs: Observation) -> Tensor:
        like = gaussian(obs, "ΠGDM")
        rho2 = remaining(pred.alpha, pred.sigma, self.data_std)
        weight = self.weight(pred.alpha, pred.sigma)
        if not isinstance(like.operator, LinearOperator):
            return _towards(pred, weight / rho2, _pseudo_residual(like.operator, obs.y, pred.mean.detach()))
        r = like.residual(obs.y, pred.mean)
        some, all_ = like.rows_without_noise() if self.noiseless else (False, False)
        without = _towards(pred, weight / rho2, like.operator.pinv(r.detach())) if some else None
        if without is not None and all_:
            return without
        u = weight.reshape((-1,) + (1,) * (r.ndim - 1)) * like.operator.solve(
            r.detach(), noise_variance(like, r), rho2.reshape((-1,) + (1,) * (r.ndim - 1))
        )
        # the value is -r.u/2, the gradient -J_r^T u: nothing is differentiated through the solve
        noisy = (-r * u + 0.5 * r.detach() * u).flatten(1).sum(1)
        return noisy if without is None else torch.where((like.sigma_y == 0).to(r.device), without, noisy)


def _towards(pred: Prediction, factor: Tensor, gap: Tensor) -> Tensor:
    """-factor |gap|^2 / 2, with the gradient factor J^T gap."""
    return (factor * (gap * (pred.mean - pred.mean.detach()) - 0.5 * gap.square())).flatten(1).sum(1)


def _pseudo_residual(operator: Operator, y: Tensor, x: Tensor) -> Tensor:
    """A^+(y) - A^+(A(x)), [B, *E]."""
    try:
        return operator.pinv(y) - operator.pinv(operator(x))
    except InputError as error:
        raise InputError(
            f"ΠGDM needs a linear operator, got {type(operator).__name__}, which has no pseudo-inverse either:"
            " take dps or reconstruction (and on latents --prior-option gradient=latents serves as well)"
        ) from error
