"""MGPS: guidance at a level between where a step begins and the data, by a small variational fit in each step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from deft.core.condition import Conditioned
from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.core.sampler import Carry, Draw, ManyDraws, evaluate
from deft.core.schedule import Schedule
from deft.core.transition import Level
from deft.errors import InputError
from deft.schedule import VPLinear

CLEAN = Level(0.0, 1.0, 0.0)
ALMOST_CLEAN = 0.015
"""sigma/alpha of index 1 of DDPM's table, where the warm steps' second fit is."""


class Guess(NamedTuple):
    """What the next step starts from: x_0 [B, *E], whether it came from a warm step, how many steps there were."""

    x: Tensor
    warm: bool
    steps: int


class MGPS(ManyDraws):
    """Midpoint guidance posterior sampling (B. Moufad, Y. Janati, L. Bedin, A. Durmus, R. Douc, E. Moulines & J. Olsson
    2025, "Variational diffusion posterior sampling with midpoint guidance", https://arxiv.org/abs/2410.09945).

    A step from t to s goes through the level l with `middle` times the time of s:

        1. N(mu, e^(2 rho)), independent entries, is fitted to p(x_l | x_t) p(y | x̂(x_l)) by `gradient_steps` steps of
        Adam (rate `rate`) on

            KL(N(mu, e^(2 rho)) | N(m, v)) - E log p(y | x̂(mu + e^rho n)),    one n a step,

        where N(m, v) is q(x_l | x_t, x_0 = x̂(x_t)), the prior's own step to l; 2. x_l is drawn from it; 3. x_s is drawn
        from q(x_s | x_l, x_t), the forward process between the two.

    mu and rho start from q(x_l | x_t, x_0) at the guess x̂(x_l) of the step before. The guidance is DPS's, p(y | x̂), but
    at x_l, where x̂ is sharper than at x_t; the gradient goes through the prior.

    The first `warm` steps end in another way: from x_l, a second Gaussian is fitted to p(x_1 | x_l) p(y | x_1), at the
    level 1 that is next to clean (if x_l is above it), by the same number of steps on

        -E [ log p(y | x_1) + log q(x_l | x_1) + log p(x_1) ] - sum rho,    log p with its score held,

    x_1 is drawn from it, x_s from q(x_s | x_1, x_t), and x_1 is the next guess. The last step is x̂(x_t), without y.

    In the first step and in every `every`-th there are `many` gradient steps, as in the authors' setting for faces (300
    steps; 2, and 20 in the first five and in every tenth; warm where DDPM's time is above 700 of 1000, 90 steps; rate
    .03). Time is that of DDPM's continuous schedule at the same sigma/alpha, whatever the prior's.

    Not exact: x_l has independent entries, N(m, v) is the prior's step for a point x_0, p(y | x̂) takes x_0 given x_l
    for a point, and few gradient steps do not end at the minimum. Where y is precise, gradients of Adam have the size
    `rate` whatever they are worth.

    Args:
        middle, gradient_steps, many, every, rate, warm: see above. warm: a number of steps.

    Raises:
        InputError: a number out of its range.

    >>> import deft
    >>> from deft.guidance.combine import Zero
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, Zero(), obs, 32, steps=20, sampler=deft.samplers.MGPS())
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.15
    tensor(True)
    """

    needs_observation = True

    def __init__(
        self,
        middle: float = 0.5,
        gradient_steps: int = 2,
        *,
        many: int = 20,
        every: int = 10,
        rate: float = 0.03,
        warm: int = 0,
    ):
        if not (0 < middle <= 1 and gradient_steps >= 1 and many >= 1 and every >= 1 and rate > 0 and warm >= 0):
            raise InputError(
                "MGPS needs middle above 0 and at most 1, gradient_steps, many and every of at least 1, rate above 0 "
                f"and warm of at least 0; got {middle}, {gradient_steps}, {many}, {every}, {rate} and {warm}"
            )
        self.middle, self.gradient_steps, self.many, self.every = middle, gradient_steps, many, every
        self.rate, self.warm = rate, warm

    def fits(self, step: int) -> int:
        """Gradient steps in a step, counted from 0."""
        return self.many if step % self.every == 0 else self.gradient_steps

    def calls(self, steps: int) -> int:
        """x̂ at x_t and at x_l once a step, and once a gradient step: twice that in warm steps; once in the last."""
        return 1 + sum(2 + self.fits(i) * (2 if i < self.warm else 1) for i in range(steps - 1))

    def advance(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, draw: Draw, carry: Carry
    ) -> tuple[Tensor, Carry]:
        assert isinstance(denoiser, Conditioned)
        prior, obs = denoiser.prior, denoiser.obs
        mean = evaluate(prior, x_t, t).mean
        if s.sigma == 0:
            return mean, None
        guess = Guess(mean, False, 0) if carry is None else carry
        middle, clean = middle_of(prior.schedule, s, self.middle), level_at(prior.schedule, ALMOST_CLEAN)
        m, v = bridge(CLEAN, middle, t, mean, x_t)
        start, _ = bridge(clean if guess.warm and clean.t < middle.t else CLEAN, middle, t, guess.x, x_t)

        def midpoint(mu: Tensor, rho: Tensor, n: Tensor) -> Tensor:
            divergence = ((mu - m).square() + (2 * rho).exp()) / (2 * v) - rho
            x = mu + rho.exp() * n
            return divergence.flatten(1).sum(1) - obs.log_prob(evaluate(prior, x, middle).mean)

        steps = self.fits(guess.steps)
        x_l = self._fitted(midpoint, start, math.log(v) / 2, steps, draw)
        after = evaluate(prior, x_l, middle).mean
        if guess.steps >= self.warm or clean.t >= middle.t:
            x_s = between_ends(middle, s, t, x_l, x_t, draw)
            return x_s, Guess(after, False, guess.steps + 1)
        first, spread = bridge(CLEAN, clean, middle, after, x_l)
        x_1 = self._fitted(_at_data(prior, obs, clean, middle, x_l), first, math.log(spread) / 2, steps, draw)
        return between_ends(clean, s, t, x_1, x_t, draw), Guess(x_1, True, guess.steps + 1)

    def _fitted(
        self, loss: Callable[[Tensor, Tensor, Tensor], Tensor], mean: Tensor, log_std: float, steps: int, draw: Draw
    ) -> Tensor:
        """A draw of the Gaussian after so many steps of Adam; loss(mu, rho, n) is [B]."""
        with torch.enable_grad():
            mu = mean.detach().clone().requires_grad_()
            rho = torch.full_like(mean, log_std).requires_grad_()
            adam = torch.optim.Adam([mu, rho], lr=self.rate)
            for _ in range(steps):
                mu.grad, rho.grad = torch.autograd.grad(loss(mu, rho, draw()).sum(), [mu, rho])
                adam.step()
        return mu.detach() + rho.detach().exp() * draw()


def _at_data(
    prior: Denoiser, obs: Observation, clean: Level, middle: Level, x_l: Tensor
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss of a warm step's second fit."""
    ratio = middle.alpha / clean.alpha
    variance = middle.sigma**2 - (ratio * clean.sigma) ** 2

    def loss(mu: Tensor, rho: Tensor, n: Tensor) -> Tensor:
        x = mu + rho.exp() * n
        with torch.no_grad():
            score = evaluate(prior, x, clean).score
        back = ((x_l - ratio * mu).square() + ratio**2 * (2 * rho).exp()) / (2 * variance)
        return (back - x * score - rho).flatten(1).sum(1) - obs.log_prob(x)

    return loss


def bridge(a: Level, s: Level, t: Level, x_a: Tensor, x_t: Tensor) -> tuple[Tensor, float]:
    """Mean and variance of q(x_s | x_a, x_t), a the cleaner end and s between the two."""
    there, back = s.alpha / a.alpha, t.alpha / s.alpha
    first = max(s.sigma**2 - (there * a.sigma) ** 2, 0.0)
    second = max(t.sigma**2 - (back * s.sigma) ** 2, 0.0)
    whole = second + back**2 * first
    return (there * second * x_a + back * first * x_t) / whole, first * second / whole


def between_ends(a: Level, s: Level, t: Level, x_a: Tensor, x_t: Tensor, draw: Draw) -> Tensor:
    """A draw of it."""
    mean, variance = bridge(a, s, t, x_a, x_t)
    return mean + math.sqrt(variance) * draw()


CLOCK = VPLinear()
"""DDPM's time, in which the paper's midpoints and thresholds are given."""


def level_at(schedule: Schedule, ratio: float) -> Level:
    """The level of a schedule with sigma/alpha nearest to a ratio."""
    t = schedule.time_of(torch.tensor([-2 * math.log(ratio)], dtype=torch.float64))
    return Level(float(t), float(schedule.log_alpha(t).exp()), float(schedule.log_sigma(t).exp()))


def middle_of(schedule: Schedule, s: Level, share: float) -> Level:
    """The level with `share` of the time that s has on DDPM's clock; s itself for 1, or where the schedule ends."""
    if share == 1:
        return s
    now = CLOCK.time_of(torch.tensor([2 * math.log(s.alpha / s.sigma)], dtype=torch.float64))
    found = level_at(schedule, float((-CLOCK.log_snr(share * now) / 2).exp()))
    return found if found.sigma * s.alpha < s.sigma * found.alpha else s
