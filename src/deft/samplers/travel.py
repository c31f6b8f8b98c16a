"""Time travel: each step taken several times over, with the noise put back in between (RePaint)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.sampler import Carry, Draw, ManyDraws, Sampler
from deft.core.schedule import Schedule
from deft.core.transition import Level
from deft.errors import InputError


class TimeTravel(ManyDraws):
    """RePaint's resampling (Lugmayr et al. 2022, algorithm 1 and appendix B) around any sampler and any h.

    A step from t to s is taken in `jump` parts, then undone by the forward process and taken again, `repeats` times in
    all:

        x_t = (alpha_t / alpha_s) x_s + sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2) n.

    Each round brings what h left alone closer to agreement with what it fixed, at the noise level of the step. The
    paper's jump length j is `jump`, counted in parts of our steps, its number of resamplings r is `repeats`: its 250
    steps with j = r = 10 are 25 steps with jump = repeats = 10. Of the step onto the clean end all parts but the last
    are repeated, as there; the last is taken once. Where ours differs: the first step is repeated too. repeats = jump =
    1 is the sampler itself.

    Args:
        sampler: what takes the parts, for example `DDIM(1.0)` as in the paper.

    >>> import deft
    >>> from deft.guidance import Replacement
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> sampler = deft.samplers.TimeTravel(deft.DDIM(1.0), repeats=5)
    >>> draws = deft.sample_posterior(prior, Replacement(), obs, 32, sampler=sampler, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1, sampler.calls(20)
    (tensor(True), 96)
    """

    def __init__(self, sampler: Sampler, repeats: int = 10, jump: int = 1):
        if repeats < 1 or jump < 1:
            raise InputError(f"TimeTravel needs repeats and jump of at least 1, got {repeats} and {jump}")
        self.sampler, self.repeats, self.jump = sampler, repeats, jump
        self.needs_observation = sampler.needs_observation
        self.stochastic = sampler.stochastic or repeats > 1

    def calls(self, steps: int) -> int:
        return self.sampler.calls((steps * self.jump - 1) * self.repeats + 1)

    def advance(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, draw: Draw, carry: Carry
    ) -> tuple[Tensor, Carry]:
        parts = list(pairwise(between(denoiser.schedule, t, s, self.jump)))
        again, once = (parts, []) if s.sigma > 0 else (parts[:-1], parts[-1:])
        for i in range(self.repeats if again else 0):
            if i:
                x_t, carry = renoise(x_t, again[-1][1], t, draw), None
            for a, b in again:
                x_t, carry = self.sampler.advance(denoiser, x_t, a, b, draw, carry)
        for a, b in once:
            x_t, carry = self.sampler.advance(denoiser, x_t, a, b, draw, carry)
        return x_t, carry


def renoise(x_s: Tensor, s: Level, t: Level, draw: Draw) -> Tensor:
    """The forward process from level s to the noisier level t, [B, *E]."""
    ratio = t.alpha / s.alpha
    return ratio * x_s + math.sqrt(max(t.sigma**2 - (ratio * s.sigma) ** 2, 0.0)) * draw()


def between(schedule: Schedule, t: Level, s: Level, parts: int) -> list[Level]:
    """parts + 1 levels from t to s, even in arctan(sigma/alpha); below the schedule's lowest level they coincide."""
    if parts == 1:
        return [t, s]
    angles = torch.linspace(math.atan2(t.sigma, t.alpha), math.atan2(s.sigma, s.alpha), parts + 1, dtype=torch.float64)[
        1:-1
    ]
    at = schedule.time_of(-2 * torch.tan(angles).log()).clamp(min(s.t, t.t), t.t)
    rows = torch.stack([at, schedule.log_alpha(at).exp(), schedule.log_sigma(at).exp()], 1).tolist()
    return [t, *(Level(*row) for row in rows), s]
