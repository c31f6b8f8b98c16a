"""DDNM: y replaces the measured part of the denoised mean, as far as its noise allows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deft.core.condition import Conditioned
from deft.core.denoiser import Denoiser
from deft.core.sampler import Carry, Sampler, evaluate
from deft.core.transition import Level, ddim
from deft.errors import InputError
from deft.samplers.spectral import measured_directions


class Directions(NamedTuple):
    """A step in each singular direction: x_s = alpha_s c + pull (ȳ - c) + keep e + std n, tensors [B or 1, *K]."""

    pull: Tensor
    keep: Tensor
    std: Tensor


class DDNM(Sampler):
    """DDNM, and DDNM+ for a noisy y (Y. Wang, J. Yu & J. Zhang 2023, "Zero-shot image restoration using denoising
    diffusion null-space model", https://arxiv.org/abs/2212.00490): a step of the prior in which

        x̂ <- x̂ + Lambda A^+ (y - A x̂),

    with less new noise, as much as the noise of y brings along. With A = U S V^T, c = V^T x̂, e = V^T eps, ȳ = S^+ U^T
    y, whose noise has the deviation d = sigma_y / s_i, each singular direction has

        not measured (s_i = 0):  alpha_s c + sigma_s (sqrt(1 - eta^2) e + eta n)
        sigma_y = 0:             alpha_s ȳ + sigma_s (sqrt(1 - eta^2) e + eta n)
        alpha_s d <= sigma_s:    alpha_s ȳ + sqrt(sigma_s^2 - (alpha_s d)^2) n
        alpha_s d > sigma_s:     alpha_s (c + lambda (ȳ - c)) + sigma_s eta n,
        lambda = sigma_s sqrt(1 - eta^2) / (alpha_s d).

    That is what the authors' tables are made with (their code and their appendix on general A; eta = 0.85). For a noisy
    y it is the step of `DDRM(eta, eta_b=1)`, from another start: here pure noise.

    `printed=True` is their algorithm 2 with eq. 17 to 19, in the prior's own step x_s = c_x x_t + c_mean x̂ + std n (for
    eta = 1 DDPM's):

        lambda = min(1, std / (c_mean d)),    new noise of variance std^2 - (c_mean lambda d)^2.

    It follows y closely in every direction with lambda = 1, however noisy: good where A A^T is near I, useless for
    blurs.

    Directions with d > limit count as not measured, as in `DDRM`, and for the same reason; the authors' code leaves out
    the singular values of a blur below .03 of the largest, the paper none (inf). Time travel (algorithm 2 too) is
    `TimeTravel(DDNM(), repeats, jump)`. The noise of y is the same in all steps, while the rule takes it for new in
    each: samples vary too little. As in `Refresh`, what is not measured keeps (1 + sqrt(1 - eta^2)) / 2 of its variance
    with many steps (`printed`: all of it).

    Args:
        eta: share of new noise, above 0. limit: in the units of x. printed: see above.

    Raises:
        InputError: a number out of its range, or a measurement that is not linear with Gaussian noise.

    >>> import deft
    >>> from deft.guidance.combine import Zero
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, Zero(), obs, 32, steps=20, sampler=deft.samplers.DDNM())
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    stochastic = True
    needs_observation = True

    def __init__(self, eta: float = 0.85, limit: float = 1.0, *, printed: bool = False):
        if not (0 < eta <= 1 and limit > 0):
            raise InputError(f"DDNM needs eta above 0 and at most 1, and limit above 0, got {eta} and {limit}")
        self.eta, self.limit, self.printed = eta, limit, printed

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, noise: Tensor | None, carry: Carry
    ) -> tuple[Tensor, Carry]:
        assert isinstance(denoiser, Conditioned)
        basis, seen, y, d = measured_directions(denoiser, x_t, self.limit, "DDNM")
        pull, keep, std = (self._printed if self.printed else self._evaluated)(d, t, s)
        pred = evaluate(denoiser.prior, x_t, t)
        c = basis.analyse(pred.mean)
        y = torch.where(seen, y, c)
        z = s.alpha * c + pull * (y - c) + keep * basis.analyse(pred.eps)
        return basis.synthesise(z if noise is None else z + std * basis.analyse(noise)), None

    def _evaluated(self, d: Tensor, t: Level, s: Level) -> Directions:
        old, own = math.sqrt(1 - self.eta**2), s.alpha * d  # own: of y's noise in x_s
        above, plain = own <= s.sigma, (d == 0) | d.isinf()
        share = torch.where(above, 1.0, s.sigma * old / torch.where(above, 1.0, own))
        left = (s.sigma**2 - torch.where(above, own, 0.0).square()).clamp_min(0).sqrt()
        return Directions(
            s.alpha * share,
            torch.where(plain, s.sigma * old, 0.0).to(d),  # of two numbers it would have the default dtype
            torch.where(above & ~plain, left, s.sigma * self.eta),
        )

    def _printed(self, d: Tensor, t: Level, s: Level) -> Directions:
        k = ddim(t, s, self.eta)
        own = k.c_mean * d
        within = own <= k.std
        share = torch.where(within, 1.0, k.std / torch.where(within, 1.0, own))
        brought = torch.where(d.isinf(), 0.0, torch.where(within, own, k.std))
        return Directions(
            k.c_mean * share,
            torch.full_like(d, k.c_x * t.sigma),
            (k.std**2 - brought.square()).clamp_min(0).sqrt(),
        )
