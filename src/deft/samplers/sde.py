"""Samplers that add noise at every step but the last: ancestral, Itô (Euler-Maruyama), and one of second order."""

from __future__ import annotations

import math

from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.sampler import Carry, Sampler, evaluate
from deft.core.transition import Kernel, Level, ancestral, ito
from deft.errors import InputError
from deft.samplers.ode import DDIM, KernelSampler, extrapolated, wide


class Ancestral(DDIM):
    """The ancestral sampler of DDPM (Ho, Jain & Abbeel 2020, algorithm 2, "fixed small" variance).

    >>> import deft
    >>> prior = deft.testing.gaussian_field(4, std=0.5).prior(deft.VPCosine())
    >>> x = deft.sample(prior, 500, sampler=deft.Ancestral(), steps=20)
    >>> 0.42 < x.std() < 0.5  # with few steps its samples vary too little
    tensor(True)
    """

    def __init__(self) -> None:
        super().__init__(eta=1.0)

    def kernel(self, t: Level, s: Level) -> Kernel:
        return ancestral(t, s)


class Ito(KernelSampler):
    """Euler-Maruyama on the reverse SDE (Anderson 1982; Song et al. 2021b), drift and diffusion exact over the step.

    DDPM's "fixed large" variance (Ho et al. 2020, section 3.2). The step onto the clean end is the denoised mean,
    without noise.

    On a wide step (sigma/alpha falls by more than `deft.samplers.ode.WIDE`) the SDE's noise exceeds what x_s holds,
    without bound where alpha_t -> 0 (zero terminal SNR): there it is at most that of p(x_s | x_t) for data of unit
    deviation.

    >>> import deft
    >>> prior = deft.testing.gaussian_field(4, std=0.5).prior(deft.VPCosine())
    >>> x = deft.sample(prior, 500, sampler=deft.Ito(), steps=20)
    >>> 0.5 < x.std() < 0.6  # and these too much
    tensor(True)
    """

    stochastic = True

    def kernel(self, t: Level, s: Level) -> Kernel:
        least = ancestral(t, s)
        if s.sigma == 0:
            return least
        kernel = ito(t, s)
        return kernel._replace(std=min(kernel.std, math.hypot(least.std, least.c_mean))) if wide(t, s) else kernel


class SDEDPMpp2M(Sampler):
    """SDE-DPM-Solver++(2M): a reverse SDE of second order in mean and covariance, at one call a step.

    For every eta the SDE with eta g^2 of diffusion and (1 + eta)/2 g^2 of score has the marginals of the forward
    process (g^2 is the forward diffusion). With lambda = log(alpha/sigma), w = lambda_s - lambda_t and D the denoised
    mean, one step solves it as

        x_s = (sigma_s/sigma_t) e^(-eta w) x_t + alpha_s (1 - e^(-(1 + eta) w)) D' + sigma_s sqrt(1 - e^(-2 eta w)) n,
        D' = D_t + (w / 2 w_before) (D_t - D_before),

    D extrapolated to the middle of the step. With D' = D_t and eta = 1 it is `Ancestral`, whose samples vary too
    little: the noise of a step moves D within that very step. D_t - D_before holds the noise of the step before, so
    that D' makes up one step late for what the step before left out, in each direction by as much as it needs.

    There is no one kernel from x_t to x_s (D' depends on the step before), so paths have no weights: particles, chains
    of Hamiltonian Monte Carlo and path objectives take `DDIM`, `Ancestral` or `Ito`. The first step, and that onto the
    clean end (without noise), are of first order. Where a step is more than `MAX_RATIO` times as wide as the one
    before, the noise in D_t - D_before is not blown up further.

    Lu, Zhou, Bao, Chen, Li & Zhu 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic
    Models", https://arxiv.org/abs/2211.01095, sections 5 and 6. Any rate of noise: Karras et al. 2022,
    "Elucidating the Design Space of Diffusion-Based Generative Models", https://arxiv.org/abs/2206.00364, eq. 6.

    Args:
        eta: rate of the noise: 0 is `DPMpp2M`, bit for bit; 1 is the reverse SDE. Another scale than `DDIM`'s between
            the two.

    Raises:
        InputError: eta outside [0, 1].

    >>> from deft.schedule import VPCosine
    >>> from deft.samplers import sample
    >>> from deft.testing import gaussian_field
    >>> sample(gaussian_field(2).prior(VPCosine()), 3, sampler=SDEDPMpp2M(), steps=20, spacing="log-snr").shape
    torch.Size([3, 4])
    """

    order = 2

    def __init__(self, eta: float = 1.0):
        if not 0 <= eta <= 1:
            raise InputError(f"eta must be between 0 (no noise) and 1 (the reverse SDE), got {eta}")
        self.eta = eta
        self.stochastic = eta > 0

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, noise: Tensor | None, carry: Carry
    ) -> tuple[Tensor, Carry]:
        mean = evaluate(denoiser, x_t, t).mean
        if s.sigma == 0:
            return s.alpha * mean, None
        now = math.log(t.alpha / t.sigma)
        width = math.log(s.alpha / s.sigma) - now
        ahead = extrapolated(mean, now, width, carry, MAX_RATIO if self.eta > 0 else math.inf)
        scale = s.sigma / t.sigma * math.exp(-self.eta * width)
        x_s = scale * x_t - s.alpha * math.expm1(-(1 + self.eta) * width) * ahead
        if noise is not None:
            x_s = x_s + s.sigma * math.sqrt(-math.expm1(-2 * self.eta * width)) * noise
        return x_s, (mean, now)


MAX_RATIO = 4.0
"""Widest step in lambda, in units of the step before, over which `SDEDPMpp2M` extrapolates in full. The named spacings
stay below 3 on the default schedules, but for `centre` with few steps."""
