"""Noise schedules: x_t = alpha_t x_0 + sigma_t n, with n standard normal.

A schedule is nothing but the two functions alpha(t) and sigma(t); everything else in the library (kernels,
guidance, objectives) is written in terms of them. Times run from `t_max` (noise) down to `t_min` (data), on
the schedule's own scale: [0, 1] for the continuous ones, 0..N-1 for a table, sigma itself for EDM.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from deft.errors import InputError
from deft.printing import Printed


class Schedule(Printed, ABC):
    """alpha(t) >= 0 and sigma(t) >= 0, computed in float64 and cast back to the dtype of t.

    `config()` returns the constructor's arguments, so that a checkpoint can name its schedule.

    >>> import deft
    >>> class Sine(deft.Schedule):
    ...     name = "sine"
    ...     t_min, t_max = 0.01, 1.5
    ...     def log_alpha(self, t):
    ...         return t.cos().log()
    ...     def log_sigma(self, t):
    ...         return t.sin().log()
    >>> [round(level.sigma, 2) for level in deft.times(Sine(), 3)]
    [1.0, 0.84, 0.49, 0.0]
    """

    name: str
    t_min: float = 0.0
    t_max: float = 1.0
    max_steps: int | None = None

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha_t of a float64 t."""

    @abstractmethod
    def log_sigma(self, t: Tensor) -> Tensor:
        """log sigma_t of a float64 t."""

    def config(self) -> dict[str, Any]:
        return {}

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_alpha(t.double())).to(_float(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_sigma(t.double())).to(_float(t))

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_t^2 / sigma_t^2), falling in t."""
        t = t.double()
        return 2 * (self.log_alpha(t) - self.log_sigma(t))

    def training_time(self, u: Tensor) -> Tensor:
        """The training distribution of t, as a function of u uniform on [0, 1]: uniform over the range."""
        return self.t_min + u * (self.t_max - self.t_min)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """The t with the given log(alpha^2/sigma^2), by bisection (float64; clipped to the range)."""
        target = log_snr.double()
        low = torch.full_like(target, self.t_min)
        high = torch.full_like(target, self.t_max)
        for _ in range(64):
            middle = (low + high) / 2
            too_clean = self.log_snr(middle) > target
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return (low + high) / 2


def _float(t: Tensor) -> torch.dtype:
    return t.dtype if t.is_floating_point() else torch.float32


class Rescaled(Schedule):
    """Another schedule with its sigma multiplied by `scale`: the same process, seen on data divided by 1/scale.

    A network trained on images in [0, 1] sees half the contrast: on [-1, 1] its noise is twice as large.
    """

    name = "rescaled"

    def __init__(self, inner: Schedule, scale: float):
        if not scale > 0:
            raise InputError(f"Rescaled needs a scale above 0, got {scale}")
        self.inner, self.scale = inner, scale
        self.t_min, self.t_max, self.max_steps = inner.t_min, inner.t_max, inner.max_steps

    def config(self) -> dict[str, Any]:
        return {"inner": {"name": self.inner.name, **self.inner.config()}, "scale": self.scale}

    def training_time(self, u: Tensor) -> Tensor:
        return self.inner.training_time(u)

    def log_alpha(self, t: Tensor) -> Tensor:
        return self.inner.log_alpha(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        return self.inner.log_sigma(t) + math.log(self.scale)
