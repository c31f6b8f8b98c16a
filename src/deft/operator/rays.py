"""Where the rays of computed tomography are, and the matrix of their sums.

A ray at the angle theta and the distance s from the axis of rotation is the line X cos(theta) + Y sin(theta) = s, with
X to the right and Y upwards, in pixels from the axis, which is the image's middle (between pixels where the side is
even) unless told otherwise. Rows of a sinogram are angles, from 0 degrees on counter-clockwise; along a row s rises.
Joseph (1982): walk along the axis the ray is closest to, pixel by pixel, and interpolate linearly between the two
neighbours across it:

    y(theta, s) = 1/side * sum over steps of l * ((1 - w) x_i + w x_{i+1}),    l = 1 / max(|cos theta|, |sin theta|)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SENSES = ("counterclockwise", "clockwise")


class Geometry(NamedTuple):
    """Where the rays are; see `Radon` for each. directions: theta in degrees, in place of angles, arc, start and
    rotation."""

    side: int
    angles: int
    detectors: int
    arc: float
    start: float = 0.0
    rotation: str = SENSES[0]
    centre: float = 0.0
    pitch: float = 1.0
    length: float = 1.0
    axis: tuple[float, float] = (0.0, 0.0)
    directions: tuple[float, ...] = ()

    def theta(self) -> Tensor:
        """Angles in radians, counter-clockwise from the X axis, [angles], float64."""
        if self.directions:
            return torch.tensor(self.directions, dtype=torch.float64).deg2rad()
        steps = torch.arange(self.angles, dtype=torch.float64) * math.radians(self.arc) / self.angles
        return (
            steps
            if self.default_angles
            else math.radians(self.start) + (1 if self.rotation == SENSES[0] else -1) * steps
        )

    @property
    def default_angles(self) -> bool:
        return self.start == 0 and self.rotation == SENSES[0] and not self.directions

    @property
    def arc_radians(self) -> float:
        """The part of half a turn that the directions look from."""
        if not self.directions:
            return min(math.radians(self.arc), math.pi)
        turn = sorted(v % 180 for v in self.directions)
        gaps = [b - a for a, b in zip(turn, [*turn[1:], turn[0] + 180], strict=True)]
        step = sorted(gaps)[len(gaps) // 2]
        wedge = max(gaps) - step if len(gaps) > 2 and max(gaps) > 4 * step else 0.0
        return math.radians(180 - wedge)

    def lines(self) -> tuple[Tensor, Tensor, Tensor]:
        """cos theta, sin theta [angles], s [detectors] in pixels, float64."""
        theta = self.theta()
        s = torch.arange(self.detectors, dtype=torch.float64) - (self.detectors - 1) / 2
        return theta.cos(), theta.sin(), (s - self.centre) * self.pitch

    def share(self) -> Tensor | None:
        """How much of half a turn each direction stands for, next to an even share: [angles] of mean 1; None if all are
        alike."""
        if not self.directions:
            return None
        turn = torch.tensor(self.directions, dtype=torch.float64) % 180
        order = turn.argsort()
        gap = (turn[order].roll(-1) - turn[order]) % 180
        gap[-1] = 180 - (turn[order][-1] - turn[order][0])
        # a wedge that nobody looked at belongs to no direction
        if self.angles > 2 and float(gap.max()) > 4 * float(gap.median()):
            gap[gap.argmax()] = gap.median()
        each = torch.zeros_like(gap).index_put_((order,), (gap + gap.roll(1)) / 2)
        return each / each.mean()

    @property
    def entries(self) -> int:
        """Most entries of the matrix that are not 0."""
        return 2 * self.angles * self.side * self.detectors


class Projector(ABC):
    """The three sums over rays of one geometry, for images [B, C, side, side] and sinograms [B, C, angles,
    detectors]."""

    def __init__(self, geometry: Geometry):
        self.geometry = geometry

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x: the sinogram."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, an image."""

    @abstractmethod
    def smear(self, y: Tensor) -> Tensor:
        """Sum over angles of the sinogram, interpolated linearly at X cos theta + Y sin theta, for each pixel."""


class Table(NamedTuple):
    """A sparse matrix by rows: entries `start[i]` to `start[i + 1]` of `place` and `weight` belong to row i."""

    place: Tensor
    weight: Tensor
    start: Tensor


def products(table: Table, columns: Tensor) -> Tensor:
    """The matrix times each column of [*, columns]."""
    columns = columns.reshape(-1).view(columns.shape)  # a single column may have a stride that PyTorch is slow with
    found: Tensor = F.embedding_bag(table.place, columns, table.start, mode="sum", per_sample_weights=table.weight)
    return found


def crossings(g: Geometry, angle: int) -> tuple[Tensor, Tensor]:
    """The rays of one angle: pixel [detectors, side, 2] and weight, float64. Beyond the image the weight is 0."""
    cos, sin, s = g.lines()
    c, q = float(cos[angle]), float(sin[angle])
    middle = (g.side - 1) / 2
    along = torch.arange(g.side)
    steep = abs(c) >= abs(q)  # the ray runs along Y: one step for each image row
    walk = middle - along.double() if steep else along.double() - middle
    if g.axis != (0.0, 0.0):
        walk = walk - g.axis[1 if steep else 0]
    across = (s[:, None] - walk * q) / c + middle if steep else middle - (s[:, None] - walk * c) / q
    if g.axis != (0.0, 0.0):
        across = across + (g.axis[0] if steep else -g.axis[1])
    low = across.floor()
    i = torch.stack([low, low + 1], -1)
    inside = (i >= 0) & (i < g.side)
    weight = torch.where(inside, 1 - (across[..., None] - i).abs(), 0.0)
    i = i.clamp(0, g.side - 1).long()
    pixel = along[:, None] * g.side + i if steep else i * g.side + along[:, None]
    return pixel, weight / (max(abs(c), abs(q)) * g.side) * g.length


def matrix(g: Geometry) -> Tensor:
    """A written out, [angles * detectors, side^2], float64."""
    rows = torch.arange(g.detectors)[:, None, None]
    parts = [crossings(g, angle) for angle in range(g.angles)]
    empty = torch.zeros(g.detectors, g.side**2, dtype=torch.float64)
    return torch.cat([empty.index_put((rows, pixel), weight, accumulate=True) for pixel, weight in parts])
