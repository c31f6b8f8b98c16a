"""Variance exploding schedules: alpha = 1, noise is added to data that keep their size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from deft.core.schedule import Schedule
from deft.errors import InputError


class VE(Schedule):
    """Variance exploding: alpha = 1, sigma geometric from sigma_min to sigma_max on [0, 1] (Song et al. 2021b).

    >>> import deft
    >>> deft.VE(0.01, 100.0).sigma(torch.tensor([0.0, 0.5, 1.0]))
    tensor([1.0000e-02, 1.0000e+00, 1.0000e+02])
    """

    name = "ve"

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        if not 0 < sigma_min < sigma_max:
            raise InputError(f"VE needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def config(self) -> dict[str, Any]:
        return {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        return math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min)


class EDM(Schedule):
    """alpha = 1 and t = sigma itself, from sigma_min to sigma_max (Karras et al. 2022, table 1).

    mean, deviation: of log sigma in training.

    >>> import deft
    >>> s = deft.EDM()
    >>> s.sigma(torch.tensor([0.5, 20.0]))
    tensor([ 0.5000, 20.0000])
    >>> s.training_time(torch.tensor(0.5)).log()
    tensor(-1.2000)
    """

    name = "edm"

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, mean: float = -1.2, deviation: float = 1.2):
        if not 0 < sigma_min < sigma_max:
            raise InputError(f"EDM needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        if not deviation > 0:
            raise InputError(f"EDM needs deviation > 0, got {deviation}")
        self.sigma_min, self.sigma_max, self.mean, self.deviation = sigma_min, sigma_max, mean, deviation
        self.t_min, self.t_max = sigma_min, sigma_max

    def config(self) -> dict[str, Any]:
        """mean and deviation are named only if they are not the paper's: a prior's fingerprint has what is here."""
        usual = self.mean == -1.2 and self.deviation == 1.2
        about = {"sigma_min": self.t_min, "sigma_max": self.t_max}
        return about if usual else about | {"mean": self.mean, "deviation": self.deviation}

    def training_time(self, u: Tensor) -> Tensor:
        """log sigma normal, with mean -1.2 and deviation 1.2 in Karras et al. 2022 (table 1), cut to the range."""
        normal = math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-9, 1 - 1e-9))
        return torch.exp(self.mean + self.deviation * normal).clamp(self.t_min, self.t_max)

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(t)
