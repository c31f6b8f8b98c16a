"""Transition kernels: one step from level t to a cleaner level s,

    x_s = c_x x_t + c_mean E[x_0 | x_t] + std n,   n standard normal.

Every stochastic sampler is a rule for these three numbers. A correction h of the score shifts only the mean,
by c_mean (sigma_t^2 / alpha_t) h, which gives the log-ratio of uncorrected to corrected step in closed form:
the one number behind importance weights, evidence estimates, control cost and path objectives.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor


class Level(NamedTuple):
    """A point of a time grid, as Python numbers: time t on the schedule's scale, alpha, sigma."""

    t: float
    alpha: float
    sigma: float


class Kernel(NamedTuple):
    """x_s = c_x x_t + c_mean mean + std n."""

    c_x: float
    c_mean: float
    std: float

    def step(self, x_t: Tensor, mean: Tensor, n: Tensor | None) -> Tensor:
        x_s = self.c_x * x_t + self.c_mean * mean
        return x_s if n is None or self.std == 0 else x_s + self.std * n


def ddim(t: Level, s: Level, eta: float = 0.0) -> Kernel:
    """DDIM (Song, Meng & Ermon 2021a, eq. 12 and 16): x_s = alpha_s mean + sqrt(sigma_s^2 - std^2) eps + std n.

    std = eta times the deviation of q(x_s | x_t, x_0); eta = 1 is the ancestral step, eta = 0 has no noise.
    """
    std = eta * posterior_std(t, s)
    direction = math.sqrt(max(s.sigma**2 - std**2, 0.0)) / t.sigma
    return Kernel(direction, s.alpha - direction * t.alpha, std)


def ancestral(t: Level, s: Level) -> Kernel:
    """q(x_s | x_t, x_0 = mean) (Ho, Jain & Abbeel 2020, eq. 6-7)."""
    return ddim(t, s, eta=1.0)


def ito(t: Level, s: Level) -> Kernel:
    """The same mean as `ancestral`, with the noise of the reverse SDE over the step (Euler-Maruyama).

    mean = (x_t + v score) / r and std = sqrt(v) / r, with r = alpha_t / alpha_s and v = sigma_t^2 - r^2 sigma_s^2
    the exact integrals of drift and squared diffusion over [s, t] (Anderson 1982; Song et al. 2021b, eq. 6). Its
    noise does not vanish as sigma_s -> 0, so weights of paths stay finite; its samples need a last step without
    noise, which `deft.sample` takes.
    """
    kernel = ancestral(t, s)
    return kernel._replace(std=math.sqrt(_variance_between(t, s)) * s.alpha / t.alpha)


def _variance_between(t: Level, s: Level) -> float:
    """sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2, the variance that the forward process adds from s to t."""
    return max(t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2, 0.0)


def posterior_std(t: Level, s: Level) -> float:
    """Deviation of q(x_s | x_t, x_0): (sigma_s / sigma_t) sqrt(variance between)."""
    return s.sigma / t.sigma * math.sqrt(_variance_between(t, s))


def shift(kernel: Kernel, t: Level, h: Tensor) -> Tensor:
    """How far the correction h (score units, at level t) moves the mean of the step, [B, *E]."""
    return kernel.c_mean * (t.sigma**2 / t.alpha) * h


def log_ratio(kernel: Kernel, moved: Tensor, n: Tensor, taken: Tensor | None = None) -> Tensor:
    """log N(x_s; uncorrected mean, std^2) - log N(x_s; corrected mean, std^2), [B].

    moved: the shift of the mean; n: the very noise that made x_s from the corrected mean. With both,
    -(moved . n) / std - |moved|^2 / (2 std^2), summed over everything but the batch.
    taken: the shift with which x_s was made, if another's: then -moved . (taken + std n) / std^2 + |moved|^2 / (2
        std^2).
    """
    if taken is None:
        cross = (moved * n).flatten(1).sum(1)
        return -cross / kernel.std - moved.square().flatten(1).sum(1) / (2 * kernel.std**2)
    cross = (moved * (taken + kernel.std * n)).flatten(1).sum(1)
    return (-cross + moved.square().flatten(1).sum(1) / 2) / kernel.std**2
