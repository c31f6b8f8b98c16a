"""Which numbers are seen: random masks of 1 (seen) and 0 (hidden), one per sample.

`boxes`, `free_form`, `random_pixels` and `outside` draw masks [B, 1, H, W] for `Mask`; `columns` draws the lines of an
accelerated MRI scan for `MaskedFourier`. Sizes are shares of the image's sides, so the same call serves any image.
Each sample's mask comes from its own row of `noise`. All return floating-point tensors on `device`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deft.core.random import BatchNoise, Noise
from deft.errors import InputError

Source = Noise | BatchNoise


def _window(extent: int, length: Tensor, place: Tensor) -> Tensor:
    """Which of `extent` places lie in an interval of `length` [B], somewhere inside by `place` in [0, 1): [B,
    extent]."""
    start = (place * (extent - length + 1)).floor()
    i = torch.arange(extent, device=length.device)
    return (i >= start[:, None]) & (i < (start + length)[:, None])


def _cross(rows: Tensor, columns: Tensor) -> Tensor:
    return rows[:, None, :, None] & columns[:, None, None, :]


def boxes(
    noise: Source,
    height: int,
    width: int,
    smallest: float = 0.25,
    largest: float = 0.5,
    *,
    device: torch.device | str = "cpu",
) -> Tensor:
    """A rectangular hole, each side between `smallest` and `largest` of the image's side, anywhere inside.

    >>> from deft.core.random import Noise
    >>> float(boxes(Noise(0, 1), 8, 8, 0.5, 0.5).mean())
    0.75
    """
    if not 0 < smallest <= largest < 1:
        raise InputError(f"boxes needs 0 < smallest <= largest < 1, got {smallest} and {largest}")
    u = noise.uniform((4,), device=device)

    def inside(extent: int, size: Tensor, place: Tensor) -> Tensor:
        low, high = round(smallest * extent), round(largest * extent)
        return _window(extent, low + (size * (high - low + 1)).floor(), place)

    hole = _cross(inside(height, u[:, 0], u[:, 1]), inside(width, u[:, 2], u[:, 3]))
    return (~hole).to(torch.get_default_dtype())


def outside(
    noise: Source,
    height: int,
    width: int,
    keep: float = 0.5,
    *,
    centred: bool = False,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Outpainting: a window of `keep` times each side is seen, all around it is hidden. Anywhere, or in the centre."""
    if not 0 < keep < 1:
        raise InputError(f"outside needs 0 < keep < 1, the share of each side that is seen, got {keep}")
    place = noise.uniform((2,), device=device)
    if centred:
        place = torch.full_like(place, 0.5)
    sides = [torch.full_like(place[:, 0], max(1, round(keep * extent))) for extent in (height, width)]
    seen = _cross(_window(height, sides[0], place[:, 0]), _window(width, sides[1], place[:, 1]))
    return seen.to(torch.get_default_dtype())


def random_pixels(
    noise: Source, height: int, width: int, seen: float = 0.1, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Pixels seen here and there: `seen` of them exactly (to the nearest pixel), the same for all channels."""
    if not 0 < seen < 1:
        raise InputError(f"random_pixels needs 0 < seen < 1, a share of the pixels, got {seen}")
    count = max(1, round(seen * height * width))
    u = noise.uniform((height * width,), device=device)
    return _top(u, torch.full((len(u),), count, device=u.device)).reshape(-1, 1, height, width)


def free_form(
    noise: Source, height: int, width: int, low: float = 0.2, high: float = 0.3, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Brush strokes, which hide between `low` and `high` of the image (as the free-form masks of Saharia et al. 2022,
    "Palette").

    `STROKES` strokes wander about; each leaves a trail of round dabs of its own width. The sum of the dabs is a smooth
    field, and the share of pixels drawn for this sample, those where the field is largest, is hidden: the coverage is
    exact whatever the strokes do.
    """
    pixels = height * width
    least, most = math.ceil(low * pixels), math.floor(high * pixels)
    if not 0 < low <= high < 1 or least > most:
        raise InputError(
            f"free_form needs 0 < low <= high < 1 with a whole number of pixels between, got {low} and {high} of"
            f" {pixels}"
        )
    u = noise.uniform((1 + 5 * STROKES,), device=device)
    bends = noise.normal((STROKES, DABS), device=device)
    share, (x, y, heading, width_, length) = u[:, 0], u[:, 1:].reshape(-1, 5, STROKES, 1).unbind(1)
    angle = 2 * math.pi * heading + BEND * bends.cumsum(2)
    step = (0.3 + 0.5 * length) / DABS
    path = torch.stack([y + (step * angle.sin()).cumsum(2), x + (step * angle.cos()).cumsum(2)])
    path = 1 - (path % 2 - 1).abs()  # turned back at the image's edges
    precision = (0.5 / (0.03 + 0.04 * width_).square())[..., None]

    def dabs(along: Tensor, extent: int) -> Tensor:
        grid = (torch.arange(extent, device=u.device) + 0.5) / extent
        return (-precision * (grid - along[..., None]).square()).exp().flatten(1, 2)

    field = dabs(path[0], height).mT @ dabs(path[1], width)
    count = (least + (share * (most - least + 1)).floor()).clamp_max(most).long()
    return 1 - _top(field.flatten(1), count).reshape(-1, 1, height, width)


STROKES, DABS, BEND = 4, 16, 0.35
"""Strokes of a free-form mask, dabs along each, and how much a stroke turns from dab to dab (radians)."""


def columns(
    noise: Source,
    height: int,
    width: int,
    acceleration: float = 4.0,
    centre: float = 0.08,
    *,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Lines of k-space for `MaskedFourier`, zero frequency in the middle: round(width / acceleration) columns in all.

    The round(centre * width) columns of lowest frequency (at least one) are always seen, the rest are drawn from all
    others alike (the random masks of the fastMRI challenge, Zbontar et al. 2018). k and -k of a real image hold the
    same numbers, so some lines bring no new ones.
    """
    if not 1 <= acceleration <= width or not 0 <= centre <= 1 / acceleration:
        raise InputError(
            f"columns needs 1 <= acceleration <= {width} (the width) and 0 <= centre <= 1/acceleration, got"
            f" {acceleration} and {centre}"
        )
    total = round(width / acceleration)
    middle = min(total, max(1, round(centre * width)))
    distance = (torch.arange(width, device=device) - width // 2).abs()
    rank = distance.argsort(stable=True)
    u = noise.uniform((width,), device=device)
    u[:, rank[:middle]] = 2.0
    lines = _top(u, torch.full((len(u),), total, device=u.device))
    return lines[:, None, None, :].expand(-1, 1, height, width).contiguous()


def _top(values: Tensor, count: Tensor) -> Tensor:
    """1 at the count [B] largest of each row's values [B, n], else 0."""
    most = int(count.max())
    places = values.topk(most, dim=1).indices
    first = torch.arange(most, device=values.device) < count[:, None]
    return torch.zeros_like(values, dtype=torch.get_default_dtype()).scatter_(
        1, places, first.to(torch.get_default_dtype())
    )
