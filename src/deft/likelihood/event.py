"""A hard event: y = "x lies in a box"."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deft.core.likelihood import Likelihood
from deft.core.random import BatchNoise, Noise
from deft.errors import InputError


class Inside(Likelihood):
    """p(y = 1 | x) = 1 if low < x < high in every coordinate, else 0. y is [B, 1], all ones."""

    def __init__(self, low: float = -math.inf, high: float = math.inf):
        if not low < high:
            raise InputError(f"Inside needs low < high, got {low} and {high}")
        self.low, self.high = low, high

    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        return ((x > self.low) & (x < self.high)).flatten(1).all(1, keepdim=True).to(x.dtype)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        inside = ((x > self.low) & (x < self.high)).flatten(1).all(1)
        return torch.where(inside == (y[:, 0] > 0.5), 0.0, -math.inf) + 0 * x.flatten(1).sum(1)

    def features(self, y: Tensor) -> Tensor:
        return y
