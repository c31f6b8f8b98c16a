"""Sinusoidal features of a scalar (Vaswani et al. 2017), for noise levels of a few units either side of 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sinusoid(nn.Module):
    """[B] -> [B, dim]: sin and cos at dim/2 geometric frequencies from `low` to `high` radians per unit (after
    Vaswani et al. 2017)."""

    frequency: Tensor

    def __init__(self, dim: int, low: float = 0.1, high: float = 8.0):
        super().__init__()
        n = dim // 2
        f = [low * (high / low) ** (i / max(1, n - 1)) for i in range(n)]  # by hand: cheap on the meta device too
        self.register_buffer("frequency", torch.tensor(f), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angle = t[:, None].to(self.frequency.dtype) * self.frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)


def zero(module: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Set weight and bias to zero, so that the branch it ends starts as a no-op."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module
