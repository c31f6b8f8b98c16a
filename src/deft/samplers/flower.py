"""Flower: where the flow is bound for, refined by y, and the way there begun anew."""

from __future__ import annotations

import torch
from torch import Tensor

from deft.core.condition import Conditioned
from deft.core.denoiser import Denoiser
from deft.core.sampler import Carry, Draw, ManyDraws, evaluate
from deft.core.transition import Level
from deft.errors import InputError
from deft.guidance.through_prior import remaining
from deft.likelihood.gaussian import linear


class Flower(ManyDraws):
    """Flower (M. Pourya et al. 2025, "Flower: a flow-matching solver for inverse problems",
    https://arxiv.org/abs/2509.26287). One step from t to s:

        1. destination: x̂ = E[x_0 | x_t], for a flow x_t + t v(x_t, t) with our t = 1 at the noise;
        2. refinement: x = x̂ + nu^2 A^T (sigma_y^2 I + nu^2 A A^T)^{-1} (y - A x̂) + gamma k,
           k ~ N(0, (I / nu^2 + A^T A / sigma_y^2)^{-1}); 3. progression: x_s = alpha_s x + sigma_s n.

    nu^2 = d^2 sigma^2 / (d^2 alpha^2 + sigma^2) is the variance left in data of deviation d. The paper's is that for d
    = 1 and a flow, (1 - t)^2 / (t^2 + (1 - t)^2) in its time. Nothing else of it is a flow's: any schedule will do, and
    on `RectifiedFlow` with `spacing="uniform"` its levels are the paper's.

    gamma = 1 draws x from the posterior of the belief x_0 ~ N(x̂, nu^2 I), and the sampler is exact, in any number of
    steps, where that belief is right: data N(0, d^2 I). gamma = 0, the authors' default, takes its mean. Then x_s is
    spread by its new noise alone, all of it: what y leaves open collapses, as in `Refresh(1)`. Their tables average
    several such runs. The last step returns x.

    sigma_y = 0 has the stand-in `Gaussian.surrogate`. gamma above 0 needs the singular values of A
    (`LinearOperator.spectrum`).

    Args:
        gamma: 0 or 1 in the paper. data_std: d.

    Raises:
        InputError: a number out of its range, or a measurement that is not linear with Gaussian noise.

    >>> import deft
    >>> from deft.guidance.combine import Zero
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.RectifiedFlow())
    >>> draws = deft.sample_posterior(prior, Zero(), obs, 32, steps=20, sampler=deft.samplers.Flower())
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    needs_observation = True

    def __init__(self, gamma: float = 0.0, data_std: float = 1.0):
        if not (gamma >= 0 and data_std > 0):
            raise InputError(f"Flower needs gamma of at least 0 and data_std above 0, got {gamma} and {data_std}")
        self.gamma, self.data_std = gamma, data_std

    def advance(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, draw: Draw, carry: Carry
    ) -> tuple[Tensor, Carry]:
        assert isinstance(denoiser, Conditioned)
        like, operator = linear(denoiser.obs, "Flower")
        pred = evaluate(denoiser.prior, x_t, t)
        nu2 = remaining(pred.alpha, pred.sigma, self.data_std)
        x = pred.mean + like.mean_update(denoiser.obs.y.to(x_t), pred.mean, nu2)
        if self.gamma > 0:
            basis = operator.spectrum(denoiser.event_shape, x_t)
            variance = like.deviation.to(x_t).reshape((-1,) + (1,) * (basis.values.ndim - 1)) ** 2
            spread = torch.rsqrt(1 / nu2.flatten()[0] + basis.values**2 / variance)
            x = x + self.gamma * basis.synthesise(spread * basis.analyse(draw()))
        return (s.alpha * x + s.sigma * draw() if s.sigma > 0 else x), None
