"""DDRM: diffusion in the basis of the measurement's singular vectors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deft.core.condition import Conditioned
from deft.core.denoiser import Denoiser
from deft.core.operator import Spectrum
from deft.core.sampler import Carry, Sampler, evaluate
from deft.core.transition import Level
from deft.errors import InputError
from deft.likelihood.gaussian import linear


class MeasuredDirections(NamedTuple):
    """What y says of each direction of A's singular vectors, shaped like `basis.values`.

    basis: A = U S V^T. seen: whether the direction counts as measured. y: S^+ U^T y, 0 where not seen. deviation: of
    its noise, sigma_y / s, inf where not seen.
    """

    basis: Spectrum
    seen: Tensor
    y: Tensor
    deviation: Tensor


def measured_directions(denoiser: Denoiser, x_t: Tensor, limit: float, who: str) -> MeasuredDirections:
    """The measurement of a conditioned denoiser in the basis of its operator. limit: sigma_y / s beyond which a
    direction counts as not measured. who: the method, for the line that refuses another measurement."""
    assert isinstance(denoiser, Conditioned)
    like, operator = linear(denoiser.obs, who)
    basis = operator.spectrum(denoiser.event_shape, x_t)
    sigma_y = like.sigma_y.to(x_t).reshape((-1,) + (1,) * (basis.values.ndim - 1))
    seen = (basis.values > 0) & (sigma_y <= limit * basis.values)
    y = torch.where(seen, basis.measured(denoiser.obs.y.to(x_t)), 0.0)
    return MeasuredDirections(
        basis, seen, y, torch.where(seen, sigma_y / torch.where(seen, basis.values, 1.0), torch.inf)
    )


class DDRM(Sampler):
    """Denoising diffusion restoration (Kawar et al. 2022, eq. 7 and 8), for linear A and Gaussian noise.

    With A = U S V^T, z = V^T x_t / alpha_t, c = V^T x̂ and ȳ = S^+ U^T y, whose noise has deviation sigma_y / s_i, and
    with levels u = sigma_t / alpha_t now and w = sigma_s / alpha_s next, each direction i on its own:

        not measured (s_i = 0):  z = c + sqrt(1 - eta^2) w (z - c) / u             + eta w n
        w < sigma_y / s_i:       z = c + sqrt(1 - eta^2) w (ȳ - c) / (sigma_y/s_i) + eta w n
        w >= sigma_y / s_i:      z = (1 - eta_b) c + eta_b ȳ + sqrt(w^2 - (eta_b sigma_y / s_i)^2) n,

    from z = ȳ + sqrt(u^2 - (sigma_y / s_i)^2) n where that is possible (eq. 7). It does not use h, only the prior and
    y: a rule for steps, since each depends on the level it goes to. sigma_y = 0 is taken for what it is (the last line,
    also onto the clean end). As in `Refresh`, the share of new noise does not depend on the step: with many steps, what
    is not measured keeps (1 + sqrt(1 - eta^2)) / 2 of its variance, 76 % for 0.85. The last level must lie below
    sigma_y / s_i: what it leaves of its noise stays in the sample.

    Directions of which y says less than the data do by themselves, sigma_y / s_i > limit, count as not measured. The
    paper has no such
    rule: there each of them follows the same few numbers of noise in y at every step, in place of x_t. Its code leaves
    out the singular values of a blur below .03 of the largest. Ours is for any operator and noise, and the same for
    that blur at sigma_y = .03.

    Levels: the code's are even steps of the DDPM's t (`spacing="uniform"`).

    Kawar, Elad, Ermon & Song 2022, "Denoising diffusion restoration models", https://arxiv.org/abs/2201.11793.

    Args:
        eta, eta_b: 0.85 and 1 in the paper. limit: in the units of x; the deviation of the data is a good one. inf for
            the paper's rule.

    >>> import deft
    >>> from deft.guidance.combine import Zero
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, Zero(), obs, 32, steps=20, sampler=deft.samplers.DDRM())
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    stochastic = True
    needs_observation = True

    def __init__(self, eta: float = 0.85, eta_b: float = 1.0, limit: float = 1.0):
        if not (0 <= eta <= 1 and 0 <= eta_b <= 1):
            raise InputError(f"DDRM needs eta and eta_b between 0 and 1, got {eta} and {eta_b}")
        if not limit > 0:
            raise InputError(
                f"DDRM needs limit above 0 (sigma_y / s beyond which a direction counts as not measured), got {limit}"
            )
        self.eta, self.eta_b, self.limit = eta, eta_b, limit

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, noise: Tensor | None, carry: Carry
    ) -> tuple[Tensor, Carry]:
        assert isinstance(denoiser, Conditioned)
        basis, seen, y, deviation = measured_directions(denoiser, x_t, self.limit, "DDRM")
        u, w = t.sigma / t.alpha, s.sigma / s.alpha
        z = basis.analyse(x_t / t.alpha)
        if carry is None:  # the start is noise of level u: eq. 7 has less of it, around what was measured
            fits = deviation <= u
            z = torch.where(fits, y + (1 - (torch.where(fits, deviation, 0.0) / u).square()).sqrt() * z, z)
        c = basis.analyse(evaluate(denoiser.prior, basis.synthesise(t.alpha * z) if carry is None else x_t, t).mean)
        n = torch.zeros_like(c) if noise is None else basis.analyse(noise)
        kept = math.sqrt(1 - self.eta**2) * w
        towards = torch.where(seen & (deviation > 0), (y - c) / torch.where(deviation > 0, deviation, 1.0), 0.0)
        above = deviation <= w
        inner = c + kept * torch.where(seen, towards, (z - c) / u) + self.eta * w * n
        spread = (w**2 - (self.eta_b * torch.where(above, deviation, 0.0)).square()).clamp_min(0).sqrt()
        outer = (1 - self.eta_b) * c + self.eta_b * y + spread * n
        return s.alpha * basis.synthesise(torch.where(above, outer, inner)), "started"
