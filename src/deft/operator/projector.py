"""Sums along rays and their adjoint, by Joseph's method, for the operators of computed tomography.

A ray at the angle theta and the distance s from the axis of rotation is the line X cos(theta) + Y sin(theta) = s, with
X to the right and Y upwards, in pixels from the axis, which is the image's middle (between pixels where the side is
even) unless told otherwise. Rows of a sinogram are angles, from 0 degrees on counter-clockwise; along a row s rises.
Joseph (1982): walk along the axis the ray is closest to, pixel by pixel, and interpolate linearly between the two
neighbours across it:

    y(theta, s) = 1/side * sum over steps of l * ((1 - w) x_i + w x_{i+1}),    l = 1 / max(|cos theta|, |sin theta|)

These weights are a sparse matrix. Where it is small it is kept, by rows and by columns (`Tables`): quickest for many
small images. Where it is not, no entry is kept: the weights are computed anew at every call, for some angles at a time
(`Interpolated`), in memory of the order of the image. Both are the same matrix and its transpose, to rounding.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SENSES = ("counterclockwise", "clockwise")

KEPT = 2**24
"""Most entries of the matrix that are kept as tables: 16 bytes each, and 40 while they are made."""
ROOM = 2**23
"""Bytes that a block of `Interpolated` may take."""


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


@functools.lru_cache(maxsize=64)
def projector(geometry: Geometry) -> Projector:
    """The way that is quick for this geometry."""
    return (Tables if geometry.entries <= KEPT else Interpolated)(geometry)


class Table(NamedTuple):
    """A sparse matrix by rows: entries `start[i]` to `start[i + 1]` of `place` and `weight` belong to row i."""

    place: Tensor
    weight: Tensor
    start: Tensor


class Tables(Projector):
    """By sparse matrices that are kept."""

    def forward(self, x: Tensor) -> Tensor:
        g = self.geometry
        return _apply(_table(_rays, g, x.dtype, str(x.device)), x, (g.angles, g.detectors))

    def adjoint(self, y: Tensor) -> Tensor:
        return _apply(_table(_pixels, self.geometry, y.dtype, str(y.device)), y, (self.geometry.side,) * 2)

    def smear(self, y: Tensor) -> Tensor:
        return _apply(_table(_smear, self.geometry, y.dtype, str(y.device)), y, (self.geometry.side,) * 2)


def _apply(table: Table, v: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix times each channel of v [B, C, *], flattened; a batch is one product with a matrix [*, B C]."""
    columns = v.flatten(2).flatten(0, 1).mT.contiguous()
    out = F.embedding_bag(table.place, columns, table.start, mode="sum", per_sample_weights=table.weight)
    return out.mT.reshape(*v.shape[:2], *shape)


@functools.lru_cache(maxsize=12)
def _table(make: Callable[[Geometry], Table], geometry: Geometry, dtype: torch.dtype, device: str) -> Table:
    place, weight, start = make(geometry)
    return Table(place.to(device), weight.to(device=device, dtype=dtype), start.to(device))


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


class Block(NamedTuple):
    """Some rays of one kind. angles: their numbers. turned: they run along X, and are followed on the turned image.

    grid: for `grid_sample`, where each ray crosses each row of the (turned) image: [angles, side, detectors, 2].
    weight: of each crossing, [angles].
    """

    angles: Tensor
    turned: bool
    grid: Tensor
    weight: Tensor


class Interpolated(Projector):
    """By linear interpolation in the image (forward), its transpose (adjoint), and in the rows of a sinogram (smear).

    The position at which a ray crosses a row of the image is a s + b row + c, so that the grid of a block of angles is
    two products. PyTorch's `grid_sample` interpolates, and its derivative by the image is the exact transpose.
    """

    def forward(self, x: Tensor) -> Tensor:
        g = self.geometry
        out = x.new_empty(*x.shape[:2], g.angles, g.detectors).flatten(0, 1)
        for some in self._parts(len(out)):
            part = x.flatten(0, 1)[some]
            both = (part, part.mT.contiguous())
            for block in self._blocks(part):
                image = both[block.turned].expand(len(block.angles), -1, -1, -1)
                crossed = F.grid_sample(image, block.grid, align_corners=True)  # [angles, images, side, detectors]
                sums = crossed.sum(2) * block.weight[:, None, None]
                out[some, block.angles] = sums.transpose(0, 1)
        return out.reshape(*x.shape[:2], g.angles, g.detectors)

    def adjoint(self, y: Tensor) -> Tensor:
        g = self.geometry
        out = y.new_empty(*y.shape[:2], g.side, g.side).flatten(0, 1)
        for some in self._parts(len(out)):
            part = y.flatten(0, 1)[some]
            sums = [part.new_zeros(len(part), g.side, g.side) for _ in range(2)]
            for block in self._blocks(part):
                rows = part[:, block.angles].transpose(0, 1) * block.weight[:, None, None]
                sums[block.turned] += _transposed(rows[:, :, None], block.grid).sum(0)
            out[some] = sums[0] + sums[1].mT
        return out.reshape(*y.shape[:2], g.side, g.side)

    def smear(self, y: Tensor) -> Tensor:
        g = self.geometry
        cos, sin, s = (v.to(y) for v in g.lines())
        axis = torch.arange(g.side, dtype=y.dtype, device=y.device) - (g.side - 1) / 2
        across, up = axis - g.axis[0], axis + g.axis[1]
        rows = F.pad(y.flatten(0, 1), (1, 1))  # beyond the last detector they fade to 0 over one detector
        scale = 2 / max(g.detectors + 1, 1)
        out = y.new_empty(len(rows), g.side, g.side)
        for some in self._parts(len(out)):
            part, total = rows[some], y.new_zeros(1)
            for few in torch.arange(g.angles).split(self._angles_at_once(len(part), y.element_size())):
                at = (across * cos[few, None])[:, None, :] - (up * sin[few, None])[:, :, None] - s[0]
                grid = torch.stack([(at / g.pitch + 1) * scale - 1, torch.zeros_like(at)], -1)
                total = total + F.grid_sample(part[:, few].transpose(0, 1)[:, :, None], grid, align_corners=True).sum(0)
            out[some] = total
        return out.reshape(*y.shape[:2], g.side, g.side)

    def _parts(self, images: int) -> Iterator[slice]:
        """The images some at a time, few enough for several angles of them to fit in a block."""
        size = max(1, ROOM // (8 * 4 * self.geometry.side * self.geometry.detectors))
        return (slice(i, i + size) for i in range(0, images, size))

    def _angles_at_once(self, images: int, bytes_each: int) -> int:
        return max(1, ROOM // (bytes_each * (2 + images) * self.geometry.side * self.geometry.detectors))

    def _blocks(self, like: Tensor) -> Iterator[Block]:
        """Every angle once, in blocks of one kind of ray, for images of the dtype and device of `like`."""
        g = self.geometry
        cos, sin, s = g.lines()
        middle = (g.side - 1) / 2
        along = torch.arange(g.side, dtype=torch.float64)
        steep = cos.abs() >= sin.abs()
        scale = 2 / (g.side - 1)  # of `grid_sample`: -1 and 1 are the middles of the outermost pixels
        rows = (along * scale - 1).to(like)[:, None]
        for turned in (False, True):
            if turned:  # along X: position = middle - (s - walk cos) / sin - axis
                slope, tilt, walk, offset = -1 / sin, cos / sin, along - middle - g.axis[0], middle - g.axis[1]
            else:  # along Y: position = (s - walk sin) / cos + middle + axis
                slope, tilt, walk, offset = 1 / cos, -sin / cos, middle - along - g.axis[1], middle + g.axis[0]
            weight = g.length / (torch.maximum(cos.abs(), sin.abs()) * g.side)
            which = (steep != turned).nonzero().flatten()
            for few in which.split(self._angles_at_once(len(like), like.element_size())):
                # the products in the dtype of the images, their offsets in float64
                lines = ((slope[few, None] * s * scale).to(like), (tilt[few, None] * walk + offset) * scale - 1)
                grid = like.new_empty(len(few), g.side, g.detectors, 2)
                torch.add(lines[0][:, None, :], lines[1].to(like)[:, :, None], out=grid[..., 0])
                grid[..., 1] = rows
                yield Block(few.to(like.device), turned, grid, weight[few].to(like))


def _transposed(rows: Tensor, grid: Tensor) -> Tensor:
    """The transpose of `grid_sample` by its image, at rows [angles, images, 1, detectors] that are alike for all
    crossings."""
    side = grid.shape[1]
    image = rows.new_zeros(1).expand(*rows.shape[:2], side, side)
    crossed = rows.expand(-1, -1, side, -1)
    found: Tensor = torch.ops.aten.grid_sampler_2d_backward(crossed, image, grid, 0, 0, True, [True, False])[0]
    return found
