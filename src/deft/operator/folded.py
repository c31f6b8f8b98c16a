"""Sums along rays for directions that see an image alike, once it is mirrored or transposed.

With Y' = -Y, which points down, each direction is one of

    X C + Y' S = s,    C >= S >= 0,    (C, S) = (|cos theta|, |sin theta|) in falling order,

on an image that is mirrored in X, in Y' or transposed: one of its eight views. Where directions are evenly spaced about
the image's middle, four of them have the same (C, S), and where the detectors lie evenly about the axis the ray at -s
is the one at s of the opposite view. One set of weights then serves eight views, and an entry of it is read once for
all of them. In row Y' a ray crosses at X = (s - Y' S) / C; a pixel lies at s = X C + Y' S. So the sum along rays and
its transpose are both gathered, and nothing is scattered.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deft.operator.rays import Geometry, Projector, Table, products

ROOM = 2**20
"""Entries of the weights that are computed at a time, 8 bytes each."""
COLUMNS = 2**24
"""Numbers of the views of images that are made at a time."""
DIRECTIONS, RAYS = 32, 32
"""Of a block of weights of pixels, and of one of rays: what a block reads stays in a processor's cache."""
PAD = 2
"""Columns of 0 at both sides of an image: what crosses outside is read there, without a mask."""
ALIKE = 1e-13
"""Directions whose (C, S) and offset differ by less are the same, but for rounding."""


class View(NamedTuple):
    """How an image is seen: mirrored in X, in Y', transposed. back: its rays are followed from -s."""

    mirrored: bool
    upside: bool
    turned: bool
    back: bool

    def of(self, x: Tensor) -> Tensor:
        """Of images [row, column, image]."""
        x = self._flip(x)
        return x.transpose(0, 1) if self.turned else x

    def undone(self, x: Tensor) -> Tensor:
        return self._flip(x.transpose(0, 1) if self.turned else x)

    def _flip(self, x: Tensor) -> Tensor:
        return x.flip((1,) * self.mirrored + (0,) * self.upside)

    def opposite(self) -> View:
        """The view that has the ray at s where this one has that at -s."""
        return View(not self.mirrored, not self.upside, self.turned, not self.back)


class Fold(NamedTuple):
    """Directions that are seen in the same views: (C, S) and the distance of the axis, float64 [n]. angles: which
    direction of the geometry it is in each view, [views, n]; -1: none."""

    c: Tensor
    s: Tensor
    shift: Tensor
    views: tuple[View, ...]
    angles: Tensor

    @property
    def halved(self) -> bool:
        """Whether rays at -s are followed from there, in the opposite view: half of the rays, and half of the image, is
        then all."""
        return any(view.back for view in self.views)

    def rows(self, g: Geometry) -> int:
        """Of the image, from the top, that are looked at."""
        return (g.side + 1) // 2 if self.halved else g.side

    def lines(self, g: Geometry) -> Tensor:
        """s of the rays that are looked at, float64."""
        s = g.lines()[2]
        return s[g.detectors // 2 :] if self.halved else s


@functools.lru_cache(maxsize=64)
def folds(g: Geometry) -> tuple[Fold, ...]:
    """Every direction once, or where its rays at s and -s are views of one another, each half of it once."""
    cos, sin, s = g.lines()
    shift = g.axis[0] * cos + g.axis[1] * sin
    even = float((s + s.flip(0)).abs().max()) < ALIKE
    small = torch.minimum(cos.abs(), sin.abs())
    members: dict[tuple[int, int], dict[View, list[int]]] = {}
    keys = zip(_numbered(small), _numbered(shift), strict=True)
    for angle, (key, a, b, offset) in enumerate(zip(keys, cos.tolist(), (-sin).tolist(), shift.tolist(), strict=True)):
        view = View(a < 0, b <= 0, abs(b) > abs(a), False)
        for seen in (view, view.opposite()) if even and abs(offset) < ALIKE else (view,):
            members.setdefault(key, {}).setdefault(seen, []).append(angle)
    kinds: dict[tuple[View, ...], list[dict[View, int]]] = {}
    for seen_by in members.values():
        for turn in range(max(map(len, seen_by.values()))):  # more than 1: a direction that is given twice
            one = {view: angles[turn] for view, angles in seen_by.items() if len(angles) > turn}
            kinds.setdefault(tuple(sorted(one)), []).append(one)
    # directions with a part of the views of others are counted among these: each fold makes all its views anew
    for few in sorted(kinds, key=len):
        host = next((k for k in kinds if set(few) < set(k) and len(kinds[few]) <= len(kinds[k])), None)
        if host is not None:
            kinds[host] += kinds.pop(few)
    out = []
    for views, ones in kinds.items():
        any_of = torch.tensor([next(iter(one.values())) for one in ones])
        angles = torch.tensor([[one.get(view, -1) for one in ones] for view in views])
        sine = small[any_of]
        out.append(Fold((1 - sine.square()).sqrt(), sine, shift[any_of], views, angles))
    return tuple(out)


def _numbered(values: Tensor) -> list[int]:
    """The same number for values that are alike."""
    order = values.argsort()
    number = torch.zeros(len(values), dtype=torch.long)
    number[order[1:]] = (values[order].diff() > ALIKE).long().cumsum(0)
    return number.tolist()


def split(u: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Positions in float64 as whole numbers, int32, and what is left of them in the dtype of `like`."""
    low = u.floor()
    return low.int().to(like.device), (u - low).to(like)


class Room:
    """Memory for the weights of a block, used again for each: a system takes longer to hand out fresh pages than the
    weights take to compute."""

    def __init__(self, like: Tensor, entries: int = 0):
        self.like = like
        self.held = self._new(entries)

    def _new(self, entries: int) -> tuple[Tensor, Tensor]:
        return self.like.new_empty(entries, dtype=torch.int32), self.like.new_empty(entries)

    def take(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Places and weights."""
        entries = math.prod(shape)
        if entries > len(self.held[0]):
            self.held = self._new(entries)
        place, weight = (v[:entries].view(shape) for v in self.held)
        return place, weight


def outer(low: Tensor, part: Tensor, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    """The sums of two sets of positions, written split into `low` and `part`."""
    torch.add(one[0], other[0], out=low)
    torch.add(one[1], other[1], out=part)
    low.add_(part.int())  # 2 where both were rounded up to 1
    part.frac_()


def of_rays(g: Geometry, fold: Fold, few: slice, rays: slice, rows: slice, room: Room) -> Table:
    """The weights of some of the fold's rays: rows [directions, rays], entries [2 neighbours, image row]; without the
    factor that belongs to the direction. Places are in an image with `PAD` more columns at each end."""
    like = room.like
    c, sine, shift = (v[few, None] for v in (fold.c, fold.s, fold.shift))
    middle, width = (g.side - 1) / 2, g.side + 2 * PAD
    lines = torch.arange(g.side)[rows]
    start = split((fold.lines(g)[rays] + shift) / c + middle + PAD, like)
    slope = split((middle - lines.double()) * sine / c, like)
    place, weight = room.take((len(c), start[0].shape[1], 2, len(lines)))
    low, part = place[:, :, 0], weight[:, :, 1]
    outer(low, part, (start[0][..., None], start[1][..., None]), (slope[0][:, None], slope[1][:, None]))
    low.clamp_(0, g.side + PAD).add_((width * lines).int().to(like.device))
    torch.add(low, 1, out=place[:, :, 1])
    torch.sub(1, part, out=weight[:, :, 0])
    return Table(place.flatten(), weight.flatten(), _starts(place, 2))


def of_pixels(g: Geometry, fold: Fold, few: slice, rows: slice, room: Room, taps: int, smear: bool) -> Table:
    """The same of some image rows: rows [image row, column], entries [2 taps, directions]: the detectors that see a
    pixel, or that `Projector.smear` interpolates between. Places are in rows of detectors with 2 taps more at each
    end."""
    like = room.like
    c, sine, shift = (v[few] for v in (fold.c, fold.s, fold.shift))
    axis = torch.arange(g.side, dtype=torch.float64) - (g.side - 1) / 2
    right = split((axis[:, None] * c - shift - g.lines()[2][0]) / g.pitch + 2 * taps, like)
    down = split(axis[rows, None] * sine / g.pitch, like)
    place, weight = room.take((len(down[0]), g.side, 2 * taps, len(c)))
    low, part = place[:, :, taps - 1], weight[:, :, -1]
    outer(low, part, right, (down[0][:, None], down[1][:, None]))
    row = (g.detectors + 4 * taps) * torch.arange(len(c), dtype=torch.int32, device=like.device)
    low.clamp_(taps - 1, g.detectors + 3 * taps - 1).add_(row)
    slope = like.new_ones(()) if smear else (g.pitch / c).to(like)
    for i in range(2 * taps):
        step = i - taps + 1  # detectors from the one at or before the pixel; `part` itself is the last that is written
        if step:
            torch.add(low, step, out=place[:, :, i])
        fall = slope if step > 0 else -slope
        torch.mul(part, fall, out=weight[:, :, i]).add_(1 - step * fall).clamp_min_(0)
    return Table(place.flatten(), weight.flatten(), _starts(place, 2))


def _starts(place: Tensor, rows: int) -> Tensor:
    n, entries = math.prod(place.shape[:rows]), math.prod(place.shape[rows:])
    return torch.arange(n, dtype=torch.int32, device=place.device) * entries


class Folded(Projector):
    """By one set of weights for all views of an image, computed at every call, `ROOM` at a time."""

    def __init__(self, geometry: Geometry):
        super().__init__(geometry)
        self.folds = folds(geometry)

    @staticmethod
    def taps(g: Geometry) -> int:
        """Half of the most detectors that see a pixel in one direction."""
        return max(1, math.ceil(1 / g.pitch))

    def forward(self, x: Tensor) -> Tensor:
        g = self.geometry
        images = x.flatten(0, 1)
        out = x.new_empty(len(images), g.angles, g.detectors)
        for some in self._parts(len(images)):
            part = images[some].permute(1, 2, 0).contiguous()
            for number, fold in enumerate(self.folds):
                columns = F.pad(torch.stack([v.of(part) for v in fold.views], 2), (0, 0, 0, 0, PAD, PAD))
                columns = columns.flatten(2).flatten(0, 1)  # [pixels, views * images]
                rows = self._sums(number, columns) * self._factor(fold, x)[:, None]
                self._place(out[some], rows.unflatten(2, (len(fold.views), -1)), fold)
        return out.reshape(*x.shape[:2], g.angles, g.detectors)

    def _place(self, out: Tensor, rows: Tensor, fold: Fold) -> None:
        """Rows [directions, rays, views, images] into sinograms out [images, angles, detectors]."""
        d, rays = self.geometry.detectors, rows.shape[1]
        for i, view in enumerate(fold.views):
            at = (fold.angles[i] >= 0).nonzero().flatten()
            found, angles = rows[at.to(rows.device), :, i].permute(2, 0, 1), fold.angles[i][at].to(rows.device)
            if view.back:
                out[:, angles, : d // 2] = found.flip(-1)[..., : d // 2]
            else:
                out[:, angles, d - rays :] = found

    def adjoint(self, y: Tensor) -> Tensor:
        return self._gathered(y, self.taps(self.geometry), False)

    def smear(self, y: Tensor) -> Tensor:
        return self._gathered(y, 1, True)

    def _gathered(self, y: Tensor, taps: int, smear: bool) -> Tensor:
        g = self.geometry
        sinograms = y.flatten(0, 1)
        out = y.new_empty(len(sinograms), g.side, g.side)
        for some in self._parts(len(sinograms)):
            # [direction, detector, image]; the last direction is that of number -1
            part = F.pad(sinograms[some].permute(1, 2, 0), (0, 0, 2 * taps, 2 * taps, 0, 1)).contiguous()
            total = y.new_zeros(g.side, g.side, part.shape[-1])
            for number, fold in enumerate(self.folds):
                seen = [part[angles.to(y.device)] for angles in fold.angles]
                seen = [rows.flip(1) if v.back else rows for rows, v in zip(seen, fold.views, strict=True)]
                columns = torch.stack(seen, 2).flatten(2)
                if not smear:
                    columns *= self._factor(fold, y)[:, None]
                found = y.new_zeros(fold.rows(g), g.side, columns.shape[2])
                for few, rows, table in self._pixel_tables(number, y, taps, smear):
                    found[rows] += products(table, columns[few].flatten(0, 1)).unflatten(0, (-1, g.side))
                for view, image in zip(fold.views, found.unflatten(2, (len(fold.views), -1)).unbind(2), strict=True):
                    # the middle row of an odd side belongs to the half that is not followed backwards
                    image = image[: g.side // 2] if view.back else image
                    total += view.undone(F.pad(image, (0, 0, 0, 0, 0, g.side - len(image))))
            out[some] = total.permute(2, 0, 1)
        return out.reshape(*y.shape[:2], g.side, g.side)

    def _factor(self, fold: Fold, like: Tensor) -> Tensor:
        """l / side of each direction, [n, 1]."""
        return (self.geometry.length / (fold.c * self.geometry.side)).to(like)[:, None]

    def _sums(self, number: int, columns: Tensor) -> Tensor:
        """Along the fold's rays, [directions, rays, columns]."""
        g, fold = self.geometry, self.folds[number]
        n, s = len(fold.c), fold.lines(g)
        out, room = columns.new_zeros(n, len(s), columns.shape[1]), Room(columns)
        step = max(1, ROOM // (2 * g.side * RAYS))
        for i in range(0, n, step):
            for k in range(0, len(s), RAYS):
                few, rays = slice(i, i + step), slice(k, k + RAYS)
                rows = self._crossed(fold, few, s[rays])
                if rows.start < rows.stop:
                    table = of_rays(g, fold, few, rays, rows, room)
                    out[few, rays] = products(table, columns).unflatten(0, (-1, len(s[rays])))
        return out

    def _crossed(self, fold: Fold, few: slice, s: Tensor) -> slice:
        """The image rows in which one of these rays may meet the image."""
        side, c, sine = self.geometry.side, fold.c[few, None], fold.s[few, None].clamp_min(1e-9)
        ends = torch.stack([s[0], s[-1]]) + fold.shift[few, None]
        low, high = ((ends + sign * (side / 2 + 1) * c) / sine + (side - 1) / 2 for sign in (-1, 1))
        return slice(int(low.min().clamp(0, side)), int(high.max().clamp(-1, side - 1)) + 1)

    def _pixel_tables(self, number: int, like: Tensor, taps: int, smear: bool) -> Iterator[tuple[slice, slice, Table]]:
        """The weights of the fold's pixels, some directions and rows of the image at a time."""
        g, fold = self.geometry, self.folds[number]
        height, room = max(1, ROOM // (2 * taps * g.side * DIRECTIONS)), Room(like)
        for i in range(0, len(fold.c), DIRECTIONS):
            for row in range(0, fold.rows(g), height):
                few, rows = slice(i, i + DIRECTIONS), slice(row, min(row + height, fold.rows(g)))
                yield few, rows, of_pixels(g, fold, few, rows, room, taps, smear)

    def _parts(self, images: int) -> Iterator[slice]:
        """The images some at a time."""
        size = max(1, COLUMNS // (8 * self.geometry.side**2))
        return (slice(i, i + size) for i in range(0, images, size))
