"""Straight lines from data to noise: rectified flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deft.core.schedule import Schedule
from deft.errors import InputError


class RectifiedFlow(Schedule):
    """alpha = 1 - t, sigma = t (Liu et al. 2023; Lipman et al. 2023).

    At t = 1 the state holds no trace of x_0 and the score of p(y | x_1) vanishes while its weight diverges,
    so the range stops at `1 - margin`: there the signal is 60 dB below the noise.

    >>> import deft
    >>> s, t = deft.RectifiedFlow(), torch.tensor([0.25, 0.5])
    >>> s.alpha(t), s.sigma(t)
    (tensor([0.7500, 0.5000]), tensor([0.2500, 0.5000]))
    """

    name = "flow"

    def __init__(self, margin: float = 1e-3):
        if not 0 < margin < 1:
            raise InputError(f"RectifiedFlow needs 0 < margin < 1, got {margin}")
        self.margin = margin
        self.t_max = 1.0 - margin

    def config(self) -> dict[str, Any]:
        return {"margin": self.margin}

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log1p(-t)

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(t)
