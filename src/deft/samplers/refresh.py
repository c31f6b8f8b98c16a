"""DDIM with a fixed share of the noise redrawn at every step."""

from __future__ import annotations

import math

from deft.core.transition import Kernel, Level
from deft.errors import InputError
from deft.samplers.ode import KernelSampler


class Refresh(KernelSampler):
    """x_s = alpha_s x̂ + sigma_s (sqrt(1 - zeta) eps + sqrt(zeta) n) (Zhu et al. 2023, DiffPIR, algorithm 1).

    That is DDIM with a step's deviation sqrt(zeta) sigma_s, hence with eta = sqrt(zeta) sigma_t / sqrt(variance between
    s and t), which is another one at each step and passes 1 as steps get small: no eta of DDIM does it. As the share of
    new noise does
    not fall with the step, this is no discretisation of an SDE: with ever more steps the variance of Gaussian data
    drawn by it tends to (1 + sqrt(1 - zeta)) / 2 of what it should be (92 % for zeta = 0.3, half for zeta = 1). DDRM's
    steps for what is not measured are the same, with zeta = eta^2.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, deft.DiffPIR(), obs, 32, steps=20, sampler=deft.samplers.Refresh(0.3))
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    def __init__(self, zeta: float = 0.3):
        if not 0 <= zeta <= 1:
            raise InputError(f"zeta must be between 0 (no noise) and 1 (all of it new), got {zeta}")
        self.zeta, self.stochastic = zeta, zeta > 0

    def kernel(self, t: Level, s: Level) -> Kernel:
        direction = math.sqrt(1 - self.zeta) * s.sigma / t.sigma
        return Kernel(direction, s.alpha - direction * t.alpha, math.sqrt(self.zeta) * s.sigma)
