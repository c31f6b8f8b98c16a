"""RED-diff: a point, found by gradient descent with the prior as its regulariser."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deft.core.condition import Conditioned
from deft.core.denoiser import Denoiser
from deft.core.sampler import Carry, Draw, ManyDraws, evaluate
from deft.core.transition import Level
from deft.errors import InputError
from deft.likelihood.gaussian import gaussian


class Descent(NamedTuple):
    """A point mu [B, *E] and Adam's memory of it."""

    mu: Tensor
    first: Tensor
    second: Tensor
    steps: int


class REDDiff(ManyDraws):
    """RED-diff (M. Mardani, J. Song, J. Kautz & A. Vahdat 2024, "A variational perspective on solving inverse problems
    with diffusion models", https://arxiv.org/abs/2305.04391, algorithm 1): minimise over mu, along the grid of falling
    levels t,

        |y - A(mu)|^2 / (2 M) + lambda (sigma_t / alpha_t) stop[eps(x_t) - n]^T mu / E,    x_t = alpha_t mu + sigma_t n,

    with fresh n at each step, by Adam (betas 0.9 and 0.99), starting from mu = A^+ y. M is the number of measurements,
    E that of the sample's entries: both terms are means, as in the authors' code, whose lambda = 0.25 and rate = 0.1
    these are (the printed algorithm has sums, and no 1/2). As eps - n = (alpha/sigma) (mu - x̂), the gradient times M
    is

        -A'(mu)^T (y - A(mu)) + lambda (M/E) (mu - x̂(x_t)),

    which is how it is computed: nothing grows where alpha is small, and the prior is called without a backward pass.
    lambda has 2 sigma_y^2 in it: it does not follow the noise.

    It seeks a mode of a q(x_0) that is a point, so it has no spread but that of Adam's last steps, about the step size;
    it is a restoration, not a sample of p(x_0 | y). In a Gaussian world at a fixed level the point is the solution of
    A^T (A mu - y) + lambda (M/E) sigma^2 (alpha^2 C + sigma^2 I)^{-1} (mu - m) = 0. x_t and h are not used.

    Args:
        rate: Adam's, 0.1 to 0.5 in the paper. strength: lambda, 0.25 there.

    >>> import deft
    >>> from deft.guidance.combine import Zero
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, Zero(), obs, 32, steps=100, sampler=deft.samplers.REDDiff())
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    needs_observation = True

    def __init__(self, rate: float = 0.1, strength: float = 0.25):
        if not (rate > 0 and strength >= 0):
            raise InputError(f"RED-diff needs rate > 0 and strength >= 0, got {rate} and {strength}")
        self.rate, self.strength = rate, strength

    def advance(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, draw: Draw, carry: Carry
    ) -> tuple[Tensor, Carry]:
        assert isinstance(denoiser, Conditioned)
        obs = denoiser.obs
        like = gaussian(obs, "RED-diff")
        if carry is None:
            start = like.operator.start(obs.y).to(x_t)
            carry = Descent(start, torch.zeros_like(start), torch.zeros_like(start), 0)
        mu, first, second, k = carry
        mean = evaluate(denoiser.prior, t.alpha * mu + t.sigma * draw(), t).mean
        share = like.operator.number_of_measurements(obs.y).to(mu).reshape((-1,) + (1,) * (mu.ndim - 1)) / mu[0].numel()
        gradient = self.strength * share * (mu - mean) - like.operator.vjp(mu, like.residual(obs.y.to(mu), mu))
        k += 1
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient.square()
        mu = mu - self.rate * (first / (1 - 0.9**k)) / ((second / (1 - 0.99**k)).sqrt() + 1e-8)
        return mu, Descent(mu, first, second, k)
