"""Samplers that add noise at every step but the last: ancestral, and Itô (Euler-Maruyama)."""

from __future__ import annotations

from deft.kernel import Kernel, Level, ancestral, ito
from deft.sample.ode import DDIM, KernelSampler


class Ancestral(DDIM):
    """The ancestral sampler of DDPM (Ho, Jain & Abbeel 2020, algorithm 2, "fixed small" variance)."""

    def __init__(self) -> None:
        super().__init__(eta=1.0)

    def kernel(self, t: Level, s: Level) -> Kernel:
        return ancestral(t, s)


class Ito(KernelSampler):
    """Euler-Maruyama on the reverse SDE, with drift and diffusion integrated exactly over the step.

    DDPM's "fixed large" variance. The step onto the clean end is the denoised mean, without noise.
    """

    stochastic = True

    def kernel(self, t: Level, s: Level) -> Kernel:
        return ito(t, s) if s.sigma > 0 else ancestral(t, s)
