"""Samplers of the ODE: DDIM (with eta, up to the ancestral sampler), Heun, DPM-Solver++(2M); and one cooled."""

from __future__ import annotations

import math

from torch import Tensor

from deft.core.denoiser import Denoiser, Prediction
from deft.core.sampler import Carry, Sampler, evaluate
from deft.core.transition import Kernel, Level, ddim
from deft.errors import InputError


class KernelSampler(Sampler):
    """A sampler whose step is a Gaussian kernel; such samplers have weights of paths (`deft.samplers.path`)."""

    def kernel(self, t: Level, s: Level) -> Kernel:
        raise NotImplementedError

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, noise: Tensor | None, carry: Carry
    ) -> tuple[Tensor, Carry]:
        return self.kernel(t, s).step(x_t, evaluate(denoiser, x_t, t).mean, noise), None


def with_weights(sampler: Sampler, what: str = "paths") -> KernelSampler:
    """The sampler, if what is drawn with it has weights: each step one Gaussian kernel, with noise.

    Raises:
        InputError: an ODE sampler, or one that looks at more than the last step; `what` names what needs the weights.
    """
    if isinstance(sampler, KernelSampler) and sampler.stochastic:
        return sampler
    raise InputError(
        f"{what} have weights only under a sampler with noise whose step is one Gaussian kernel (ddim with eta "
        f"above 0, ancestral, ito), not {sampler!r}"
    )


class DDIM(KernelSampler):
    """DDIM (Song, Meng & Ermon 2021a, eq. 12): eta = 0 solves the ODE, eta = 1 is the ancestral sampler.

    >>> import deft
    >>> prior = deft.testing.gaussian_field(4, std=0.5).prior(deft.VPCosine())
    >>> x = deft.sample(prior, 500, sampler=deft.DDIM(eta=0.5), steps=20)
    >>> 0.42 < x.std() < 0.5
    tensor(True)
    """

    def __init__(self, eta: float = 0.0):
        if not 0 <= eta <= 1:
            raise InputError(f"eta must be between 0 (no noise) and 1 (ancestral), got {eta}")
        self.eta = eta
        self.stochastic = eta > 0

    def kernel(self, t: Level, s: Level) -> Kernel:
        return ddim(t, s, self.eta)


class Cooled(KernelSampler):
    """Another kernel sampler with its noise times `temperature`: below 1, samples nearer to where the prior is sure.

    It is no sampler of the posterior any more: quality is bought with variety (Ingraham et al. 2023 and Lin &
    AlQuraishi 2023 draw proteins so).

    >>> import deft
    >>> prior = deft.testing.gaussian_field(4, std=0.5).prior(deft.VPCosine())
    >>> x = deft.sample(prior, 500, sampler=deft.samplers.Cooled(deft.Ancestral(), 0.5), steps=20)
    >>> x.std() < 0.3
    tensor(True)
    """

    def __init__(self, inner: KernelSampler, temperature: float):
        if not 0 < temperature <= 1 or not inner.stochastic:
            raise InputError(
                f"a temperature is above 0 and at most 1, for a sampler with noise (eta above 0), got {temperature}"
            )
        self.inner, self.temperature = inner, temperature
        self.stochastic = True

    def kernel(self, t: Level, s: Level) -> Kernel:
        kernel = self.inner.kernel(t, s)
        return kernel._replace(std=self.temperature * kernel.std)


WIDE = 2.0
"""A step down which sigma/alpha falls by more than this factor is too wide for a rule in sigma/alpha, whose error grows
with that factor without
bound: from the first level of zero terminal SNR it is 10^4. `Heun` and `Ito` take such steps in another way."""


def wide(t: Level, s: Level) -> bool:
    """Whether sigma/alpha falls by more than `WIDE` from t to s, a level with noise."""
    return s.sigma > 0 and t.sigma * s.alpha > WIDE * s.sigma * t.alpha


class Heun(Sampler):
    """Heun's second-order rule for d(x/alpha)/d(sigma/alpha) = eps (Karras et al. 2022, algorithm 1).

    A wide step (see `WIDE`) is Heun's rule for the same ODE in the angle phi = arctan(sigma/alpha), whose slope is
    bounded everywhere, alpha = 0 included: with r = sqrt(alpha^2 + sigma^2), d(x/r)/d(phi) = (alpha eps - sigma x̂)/r,
    the velocity of Salimans & Ho 2022.

    Two calls a step, one in the last.

    >>> import deft
    >>> prior = deft.testing.gaussian_field(4, std=0.5).prior(deft.VPCosine())
    >>> x = deft.sample(prior, 500, sampler=deft.Heun(), steps=10)
    >>> 0.47 < x.std() < 0.5, deft.Heun().calls(10)
    (tensor(True), 19)
    """

    order = 2

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, noise: Tensor | None, carry: Carry
    ) -> tuple[Tensor, Carry]:
        pred = evaluate(denoiser, x_t, t)
        if wide(t, s):
            return self._wide(denoiser, pred, t, s), None
        width = s.sigma / s.alpha - t.sigma / t.alpha
        z = x_t / t.alpha
        x_s = s.alpha * (z + width * pred.eps)
        if s.sigma == 0:
            return ddim(t, s).step(x_t, pred.mean, None), None
        corrected = evaluate(denoiser, x_s, s).eps
        return s.alpha * (z + width * (pred.eps + corrected) / 2), None

    @staticmethod
    def _wide(denoiser: Denoiser, pred: Prediction, t: Level, s: Level) -> Tensor:
        first = ddim(t, s).step(pred.x_t, pred.mean, None)
        after = evaluate(denoiser, first, s)
        slopes = [
            (at.alpha * p.eps - at.sigma * p.mean) / math.hypot(at.alpha, at.sigma) for at, p in ((t, pred), (s, after))
        ]
        turn = math.atan2(s.sigma, s.alpha) - math.atan2(t.sigma, t.alpha)
        return math.hypot(s.alpha, s.sigma) * (
            pred.x_t / math.hypot(t.alpha, t.sigma) + turn * (slopes[0] + slopes[1]) / 2
        )


class DPMpp2M(Sampler):
    """DPM-Solver++(2M), data prediction (Lu et al. 2022, algorithm 2); the last step is of first order.

    >>> import deft
    >>> prior = deft.testing.gaussian_field(4, std=0.5).prior(deft.VPCosine())
    >>> x = deft.sample(prior, 500, sampler=deft.DPMpp2M(), steps=10)
    >>> 0.45 < x.std() < 0.5
    tensor(True)
    """

    order = 2

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, noise: Tensor | None, carry: Carry
    ) -> tuple[Tensor, Carry]:
        pred: Prediction = evaluate(denoiser, x_t, t)
        now = math.log(t.alpha / t.sigma)
        if s.sigma == 0:
            return s.alpha * pred.mean, None
        width = math.log(s.alpha / s.sigma) - now
        x_s = (s.sigma / t.sigma) * x_t - s.alpha * math.expm1(-width) * extrapolated(pred.mean, now, width, carry)
        return x_s, (pred.mean, now)


def extrapolated(mean: Tensor, now: float, width: float, carry: Carry, max_ratio: float = math.inf) -> Tensor:
    """The denoised mean at the middle of a step, on the line through this one and the one before, [B, *E].

    now, width: lambda = log(alpha/sigma) where the step begins, and how much it grows. carry: None, or the mean and
    lambda of the step before.
    max_ratio: of this step's width to that of the one before. Without a step before, or after one of no width, it is
    the mean.
    """
    if carry is None or now <= carry[1]:
        return mean
    before, last = carry
    ratio = min(width / (now - last), max_ratio) / 2
    return (1 + ratio) * mean - ratio * before
