"""Crop to an aspect and resize, of pictures and of masks alike.

A pixel of a smaller picture is the mean over the area that it covers, parts of pixels included: so does a coarser
detector. A pixel of a larger picture comes from cubic interpolation over 4 x 4 pixels. Because both are the same two
matrices for a picture and for its mask, a pixel is called seen only if every pixel that it was made of was seen, and no
hidden value comes in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Box = tuple[float, float, float, float]


def crop_box(size: Sequence[int], wanted: Sequence[int]) -> Box:
    """(top, left, height, width) of the largest centred part of `size` that has the aspect of `wanted`.

    >>> crop_box((64, 128), (32, 32))
    (0, 32, 64, 64)
    """
    scale = min(size[0] / wanted[0], size[1] / wanted[1])
    sides = [float(n) if n - m * scale < 0.5 else m * scale for n, m in zip(size, wanted, strict=True)]
    starts = [int((n - side) / 2) for n, side in zip(size, sides, strict=True)]
    height, width = (int(s) if s == int(s) else s for s in sides)
    return starts[0], starts[1], height, width


def cropped(size: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether something is cut off."""
    _, _, height, width = crop_box(size, wanted)
    return (height, width) != tuple(size)


def weights(n: int, start: float, length: float, wanted: int) -> Tensor:
    """[wanted, n]: how the pixels of a line make those of another, from the part of it that begins at `start`.

    >>> weights(4, 0, 4, 2).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    step, i = length / wanted, np.arange(wanted)[:, None]
    if step >= 1:
        edge, j = start + i * step, np.arange(n)[None]
        w = np.clip(np.minimum(edge + step, j + 1) - np.maximum(edge, j), 0, None)
        w[w < 1e-6] = 0
    else:
        centre = start + (i[:, 0] + 0.5) * step - 0.5
        w = np.zeros((wanted, n))
        for tap in range(-1, 3):
            at = np.floor(centre) + tap
            d = np.abs(centre - at)
            cubic = np.where(
                d <= 1, 1.5 * d**3 - 2.5 * d**2 + 1, np.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0)
            )
            np.add.at(w, (i[:, 0], at.clip(start, start + int(length) - 1).astype(int)), cubic)
        w[np.abs(w) < 1e-9] = 0
    return torch.from_numpy((w / w.sum(1, keepdims=True)).astype(np.float32))


def _both(size: Sequence[int], wanted: Sequence[int]) -> tuple[Tensor, Tensor]:
    top, left, height, width = crop_box(size, wanted)
    return weights(size[0], top, height, wanted[0]), weights(size[1], left, width, wanted[1])


def resized(x: Tensor, wanted: Sequence[int]) -> Tensor:
    """[C, H, W] cropped and resized. Cubic interpolation overshoots; to clip it by the greatest value would let in a
    hidden one."""
    rows, columns = _both(x.shape[-2:], wanted)
    return (rows @ x.float()) @ columns.T


def resized_hidden(hidden: Tensor, wanted: Sequence[int]) -> Tensor:
    """[H, W] of bool likewise: hidden is what was made of any hidden pixel."""
    rows, columns = ((w != 0).float() for w in _both(hidden.shape, wanted))
    return (rows @ hidden.float()) @ columns.T > 0.5
