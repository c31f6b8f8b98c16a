"""C-ΠGDM: ΠGDM's ODE in coordinates where its linear part is gone, for few steps."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from deft.core.condition import Conditioned
from deft.core.denoiser import Denoiser
from deft.core.sampler import Carry, Sampler, evaluate
from deft.core.transition import Level
from deft.errors import InputError
from deft.samplers.spectral import measured_directions

NODES = 48
"""Of the Gauss-Legendre rule for the one integral that has no closed form."""


class CPiGDM(Sampler):
    """Conjugate ΠGDM (K. Pandey, R. Yang & S. Mandt 2024, "Fast samplers for inverse problems in iterative refinement
    models", https://arxiv.org/abs/2405.17673): one call and one backward pass a step, meant for 5 to 20 steps.

    In z = x / alpha and u = sigma / alpha, with the numbers of a variance preserving process at the same u, ΠGDM with
    the paper's weight w_t = w r_t^2 mu_t^2 is the ODE

        dz/du = eps - sigma h,    h = w alpha^2 J^T A^+ F (y - A x̂),    F = r^2 / (r^2 + sigma_y^2 / s_i^2),

    with r^2 = sigma^2, A = U S V^T. Since x̂ = z - u eps, it has a part that is linear in z. The coordinates q z, with

        log q = -(w/2) [log(1 + u^2) - d^2/(1 + d^2) log(1 + (1 + d^2) u^2 / d^2)],    d = sigma_y / s_i,

    in each singular direction (q = (1 + u^2)^(-w/2) without noise, q = 1 in what is not measured) have none. There eps
    and G = (d eps / d x)^T A^+ F (y - A x̂) are held over a step from u to v, and all else is integrated:

        z = ȳ + rho (x̂ - ȳ) + v eps + G (1/q_v) int_u^v q w x^2 (1 + x^2)^(-3/2) dx,    rho = q_u / q_v,

    ȳ = A^+ y. So the measured part of x̂ moves towards y by 1 - rho, the rest of the step is DDIM's, and the last term
    is what the prior's Jacobian adds.

    The first state is alpha ȳ + sigma n, as in the paper, which begins at DDPM's time 0.4 (u = 2): the row `cpigdm` of
    `deft.methods` gives it a grid from there (`start`). Where ours differs: with noise the paper expands q to first
    order in sigma_y^2, which diverges as u -> 0; here it is exact. Directions with d > limit count as not measured, as
    in `DDRM` (the paper: none). Its lambda, a rate of the coordinates, is 0 as in its configuration files.

    Known bias: the weight w alpha^2 is nobody's posterior. For data N(0, I) without noise a measured entry ends with
    the deviation sigma_0 e^(-w (1 - alpha_0^4)/4) that is left of the start's, around y for large w.

    Args:
        weight: w; 15 in the authors' example of 4x super-resolution, 2 with noise. limit: in the units of x.

    Raises:
        InputError: a number out of its range, or a measurement that is not linear with Gaussian noise.

    >>> import deft
    >>> from deft.guidance.combine import Zero
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, Zero(), obs, 32, steps=10, sampler=deft.samplers.CPiGDM())
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    needs_observation = True

    def __init__(self, weight: float = 15.0, limit: float = 1.0):
        if not (weight >= 0 and limit > 0):
            raise InputError(f"C-ΠGDM needs weight of at least 0 and limit above 0, got {weight} and {limit}")
        self.weight, self.limit = weight, limit

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, noise: Tensor | None, carry: Carry
    ) -> tuple[Tensor, Carry]:
        assert isinstance(denoiser, Conditioned)
        basis, seen, y, deviation = measured_directions(denoiser, x_t, self.limit, "C-ΠGDM")
        d2 = torch.where(seen, deviation, 0.0).square()
        if carry is None:
            x_t = x_t + t.alpha * basis.synthesise(y)
        u, v = t.sigma / t.alpha, s.sigma / s.alpha
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            pred = evaluate(denoiser.prior, x, t)
            c = basis.analyse(pred.mean.detach())
            gap = torch.where(seen, u**2 / (u**2 + d2 * (1 + u**2)) * (y - c), 0.0)
            # of a variance preserving process at the same u, whose x is smaller by hypot(alpha, sigma)
            pulled = torch.autograd.grad(pred.eps, x, basis.synthesise(gap))[0] * math.hypot(t.alpha, t.sigma)
        log_now, log_then = self._log_q(u, d2, seen), self._log_q(v, d2, seen)
        z = c + torch.where(seen, -torch.expm1(log_now - log_then) * (y - c), 0.0)
        z = z + self._of_jacobian(u, v, d2, seen, log_then) * basis.analyse(pulled)
        return s.alpha * basis.synthesise(z) + s.sigma * pred.eps.detach(), "started"

    def _log_q(self, u: float, d2: Tensor, seen: Tensor) -> Tensor:
        """log q at u, less its value at u = 0; [B or 1, *K]."""
        noisy = d2 > 0
        safe = torch.where(noisy, d2, 1.0)
        noise = torch.where(noisy, d2 / (1 + d2) * torch.log1p((1 + safe) * u**2 / safe), 0.0)
        return torch.where(seen, -self.weight / 2 * (math.log1p(u**2) - noise), 0.0)

    def _of_jacobian(self, u: float, v: float, d2: Tensor, seen: Tensor, log_then: Tensor) -> Tensor:
        """The integral from u to v over q_v, in x = sinh(a), where the integrand is tanh(a)^2 q: [B or 1, *K]."""
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        low, high = math.asinh(v), math.asinh(u)
        total = torch.zeros_like(d2)
        for node, share in zip(nodes.tolist(), weights.tolist(), strict=True):
            a = (low + high) / 2 + (high - low) / 2 * node
            ratio = torch.exp(self._log_q(math.sinh(a), d2, seen) - log_then)
            total = total - share * (high - low) / 2 * self.weight * math.tanh(a) ** 2 * ratio
        return total
