"""Sums along rays and their adjoint, by Joseph's method, for the operators of computed tomography.

The weights (`deft.operator.rays`) are a sparse matrix. Where it is small it is kept, by rows and by columns (`Tables`):
quickest for many small images. Where it is not, one set of weights serves all directions that see an image alike, and
is computed anew at every call, for some directions at a time, in memory of the order of the image
(`deft.operator.folded`). Both are the same matrix and its transpose, to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from deft.operator.folded import Folded
from deft.operator.rays import SENSES, Geometry, Projector, Table, crossings, matrix, products

TABLES = 2**22
"""Most entries of `Tables`: 16 bytes each, and 40 while they are made."""


@functools.lru_cache(maxsize=64)
def projector(geometry: Geometry) -> Projector:
    """The way that is quick for this geometry."""
    return (Tables if geometry.entries <= TABLES else Folded)(geometry)


class Tables(Projector):
    """By sparse matrices that are kept."""

    def forward(self, x: Tensor) -> Tensor:
        g = self.geometry
        return _times(_table(_rays, g, x.dtype, str(x.device)), x, (g.angles, g.detectors))

    def adjoint(self, y: Tensor) -> Tensor:
        return _times(_table(_pixels, self.geometry, y.dtype, str(y.device)), y, (self.geometry.side,) * 2)

    def smear(self, y: Tensor) -> Tensor:
        return _times(_table(_smear, self.geometry, y.dtype, str(y.device)), y, (self.geometry.side,) * 2)


def _times(table: Table, v: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix times each channel of v [B, C, *], flattened; a batch is one product with a matrix [*, B C]."""
    columns = v.flatten(2).flatten(0, 1).mT.contiguous()
    return products(table, columns).mT.reshape(*v.shape[:2], *shape)


@functools.lru_cache(maxsize=12)
def _table(make: Callable[[Geometry], Table], geometry: Geometry, dtype: torch.dtype, device: str) -> Table:
    place, weight, start = make(geometry)
    return Table(place.to(device), weight.to(device=device, dtype=dtype), start.to(device))


@functools.lru_cache(maxsize=2)
def _rays(g: Geometry) -> Table:
    """A."""
    places, weights, counts = [], [], []
    for angle in range(g.angles):
        pixel, weight = crossings(g, angle)
        some = weight > 0
        places.append(pixel[some].int())
        weights.append(weight[some])
        counts.append(some.flatten(1).sum(1))
    count = torch.cat(counts)
    return Table(torch.cat(places), torch.cat(weights), (count.cumsum(0) - count).int())


def _pixels(g: Geometry) -> Table:
    """A^T."""
    place, weight, start = _rays(g)
    count = torch.diff(start, append=start.new_tensor([len(place)]))
    ray = torch.arange(len(start), dtype=torch.int32).repeat_interleave(count)
    order = place.argsort(stable=True)
    count = torch.bincount(place, minlength=g.side**2)
    return Table(ray[order], weight[order], (count.cumsum(0) - count).int())


def _smear(g: Geometry) -> Table:
    cos, sin, s = g.lines()
    axis = torch.arange(g.side, dtype=torch.float64) - (g.side - 1) / 2
    across, up = axis - g.axis[0], axis + g.axis[1]
    place = torch.empty(g.side, g.side, g.angles, 2, dtype=torch.int32)
    weight = torch.empty(g.side, g.side, g.angles, 2, dtype=torch.float64)
    for angle in range(g.angles):
        at = ((across * cos[angle])[None, :] - (up * sin[angle])[:, None] - s[0]) / g.pitch
        i = torch.stack([at.floor(), at.floor() + 1], -1)
        inside = (i >= 0) & (i < g.detectors)
        weight[:, :, angle] = torch.where(inside, 1 - (at[..., None] - i).abs(), 0.0)
        place[:, :, angle] = i.clamp(0, g.detectors - 1).int() + angle * g.detectors
    start = torch.arange(g.side**2, dtype=torch.int32) * (2 * g.angles)
    return Table(place.flatten(), weight.flatten(), start)


__all__ = ["SENSES", "TABLES", "Folded", "Geometry", "Projector", "Tables", "matrix", "projector"]
