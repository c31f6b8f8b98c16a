"""y = A(x) + sigma_y n."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from deft.core.likelihood import Likelihood
from deft.core.operator import Operator
from deft.core.random import BatchNoise, Noise
from deft.errors import InputError


def _per_sample(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like).reshape((-1,) + (1,) * (like.ndim - 1))


class Gaussian(Likelihood):
    """p(y | x) = N(y; A(x), sigma_y^2 I) over the entries that were measured.

    Args:
        operator: A.
        sigma_y: standard deviation of the noise, in the units of y (for images in [-1, 1], so 0.1 is 12.8 grey
            levels of 255): a number, or a tensor [B] or [1].
        surrogate: the deviation that stands in for sigma_y = 0 in `log_prob`, `score` and `pull`; a noiseless
            measurement has no density, so a method that wants one is told this one, and says so.
    """

    def __init__(self, operator: Operator, sigma_y: float | Tensor = 0.0, *, surrogate: float = 0.02):
        sigma = torch.as_tensor(sigma_y, dtype=torch.get_default_dtype()).reshape(-1)
        if not bool((sigma >= 0).all()) or not surrogate > 0:
            raise InputError(f"sigma_y must be >= 0 and surrogate > 0, got {sigma_y} and {surrogate}")
        self.operator, self.sigma_y, self.surrogate = operator, sigma, surrogate
        self.lift_channels = operator.lift_channels

    @property
    def deviation(self) -> Tensor:
        """sigma_y, or the surrogate where it is 0: [B] or [1]."""
        return torch.where(self.sigma_y > 0, self.sigma_y, self.surrogate)

    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        y = self.operator(x)
        n = noise.normal(y.shape[1:], device=y.device).to(y.dtype)
        return self.operator.restrict(y + _per_sample(self.sigma_y, y) * n)

    def residual(self, y: Tensor, x: Tensor) -> Tensor:
        """y - A(x), zero where nothing was measured."""
        return self.operator.restrict(y - self.operator(x))

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        sigma = self.deviation.to(y)
        squares = self.residual(y, x).square().flatten(1).sum(1)
        return -squares / (2 * sigma**2) - self.operator.count(y) * (sigma.log() + 0.5 * math.log(2 * math.pi))

    def score(self, y: Tensor, x: Tensor) -> Tensor:
        r = self.residual(y, x)
        return self.operator.vjp(x, r / _per_sample(self.deviation, r) ** 2)

    def pull(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        r = self.residual(y, x)
        return self.operator.pull(x, r, _per_sample(self.deviation, r) ** 2, rho2)

    def mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        r = self.residual(y, x)
        return self.operator.mean_update(x, r, _per_sample(self.deviation, r) ** 2, rho2)

    def lift(self, y: Tensor) -> Tensor:
        return self.operator.lift(y)

    def picture(self, y: Tensor) -> Tensor:
        return self.operator.picture(y)

    def _with(self, operator: Operator, sigma_y: Tensor) -> Gaussian:
        out = copy.copy(self)  # a subclass stays what it is
        out.operator, out.sigma_y = operator, sigma_y
        return out

    def __getitem__(self, index: Any) -> Gaussian:
        return self._with(self.operator[index], self.sigma_y if len(self.sigma_y) == 1 else self.sigma_y[index])

    def repeat(self, n: int) -> Gaussian:
        sigma = self.sigma_y if len(self.sigma_y) == 1 else self.sigma_y.repeat_interleave(n)
        return self._with(self.operator.repeat(n), sigma)

    def to(self, device: torch.device | str) -> Gaussian:
        return self._with(self.operator.to(device), self.sigma_y.to(device))
