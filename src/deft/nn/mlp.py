"""A residual perceptron for vectors, conditioned on a noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.nn.embed import Sinusoid, zero


class MLP(nn.Module):
    """net(x [B, inputs], time [B]) -> [B, outputs]; `depth` residual blocks of the given width."""

    def __init__(self, inputs: int, outputs: int, width: int = 256, depth: int = 3, time_dim: int = 64):
        super().__init__()
        self.embed = nn.Sequential(Sinusoid(time_dim), nn.Linear(time_dim, width), nn.SiLU())
        self.inlet = nn.Linear(inputs, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.film = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.second = nn.ModuleList(zero(nn.Linear(width, width)) for _ in range(depth))
        self.outlet = zero(nn.Linear(width, outputs))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        e = self.embed(time)
        z = self.inlet(x)
        for norm, first, film, second in zip(self.norms, self.first, self.film, self.second, strict=True):
            scale, shift = film(e).chunk(2, dim=1)
            z = z + second(F.silu(torch.addcmul(shift, first(norm(z)), 1 + scale)))
        return self.outlet(F.silu(z))
