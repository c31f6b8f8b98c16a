"""A measurement that has no place in the sample's grid, seen through a small learned encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 8
"""Sample-sized planes that the encoder makes of y."""
HIDDEN = 64
"""Numbers between y and the planes: what the encoder keeps of y at most."""
CELLS = 8
"""Cells of the planes along a side; they are enlarged to the sample's grid, and the network behind sharpens them."""
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""How planes over grids of so many axes are enlarged."""


class Encoder(nn.Module):
    """Numbers y [B, m] -> `CHANNELS` planes over the grid of a sample, [B, CHANNELS, *grid]: a linear map through
    `HIDDEN` numbers, and a correction of them by two layers, which starts at zero.

    Args:
        numbers: m. grid: sides of a sample, of one to three axes.
    """

    def __init__(self, numbers: int, grid: Sequence[int]):
        super().__init__()
        self.grid, self.coarse = tuple(grid), tuple(min(n, CELLS) for n in grid)
        self.inlet = nn.Linear(numbers, HIDDEN)
        self.first, self.second = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)
        self.outlet = nn.Linear(HIDDEN, CHANNELS * math.prod(self.coarse))

    def forward(self, y: Tensor) -> Tensor:
        z = self.inlet(y)
        z = z + self.second(F.silu(self.first(F.silu(z))))
        planes = self.outlet(z).unflatten(1, (CHANNELS, *self.coarse))
        if self.coarse == self.grid:
            return planes
        return F.interpolate(planes, size=self.grid, mode=MODES[len(self.grid)], align_corners=False)


class Encoded(nn.Module):
    """net(features, time) whose last channels are not planes but m numbers, laid out in them one after the other
    (`deft.likelihood.Unknown.features`): they go through an `Encoder` first.

    Args:
        net: takes the other channels, and `CHANNELS` more. numbers: m. views: channels that hold them. grid: sides of a
            sample.
    """

    def __init__(self, net: nn.Module, numbers: int, views: int, grid: Sequence[int]):
        super().__init__()
        self.net, self.numbers, self.views = net, numbers, views
        self.encoder = Encoder(numbers, grid)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        rest, laid = features[:, : -self.views], features[:, -self.views :]
        y = laid.flatten(1)[:, : self.numbers]
        return self.net(torch.cat([rest, self.encoder(y)], dim=1), time)
