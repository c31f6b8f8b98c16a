"""JPEG compression: rounding in the cosine transform of 8 x 8 blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deft.errors import ContractError, InputError
from deft.operator.base import Operator

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""The luminance table of ITU-T T.81 (1992), annex K.1, in grey levels; row: vertical frequency."""
LEVELS = 127.5
"""Grey levels of 255 in one unit of an image in [-1, 1]."""
ORIGIN = 0.5 / LEVELS
"""Where an image in [-1, 1] has grey level 128, which the standard takes for 0."""


def table(quality: Tensor) -> Tensor:
    """The table scaled to qualities 1 to 100 as the Independent JPEG Group's library does it, [B, 8, 8]."""
    q = quality.double()
    scale = torch.where(q < 50, (5000 / q).floor(), 200 - 2 * q).reshape(-1, 1, 1)
    base = torch.tensor(LUMINANCE, dtype=torch.float64, device=quality.device)
    return ((base * scale + 50) / 100).floor().clamp(1, 255)


def cosines(like: Tensor) -> Tensor:
    """The orthonormal cosine transform of 8 numbers, [8, 8]: row = frequency."""
    i = torch.arange(8, dtype=torch.float64, device=like.device)
    d = torch.cos(math.pi / 8 * (i + 0.5) * i[:, None]) / 2
    d[0] /= math.sqrt(2)
    return d.to(like.dtype)


class JPEG(Operator):
    """y = D^T (q round(D x / q)): each 8 x 8 block's cosine transform D rounded to multiples of a table q.

    The rest of JPEG (Huffman coding) loses nothing. Every channel is treated as a grey image with the luminance table:
    no colour transform and no chroma subsampling. y is the decoded image, not rounded to whole grey levels and not
    clipped, so that A(A(x)) = A(x) and A is linear in no sense: its derivative is 0 wherever there is one.

    Automatic differentiation is told the identity instead (straight-through; Bengio et al. 2013). So `vjp` and whatever
    is differentiated through A, the score included, are *guidance maps* here, not gradients, and `pull` is another.

    Args:
        quality: 1 (worst) to 100, a whole number, or a tensor [B] with one for each sample.

    Raises (when called): ContractError for images whose sides are no multiples of 8.
    """

    per_sample = ("quality",)
    sample_axes = measured_axes = "B, C, H, W"

    def __init__(self, quality: int | Tensor = 10):
        self.quality = torch.as_tensor(quality, dtype=torch.get_default_dtype()).reshape(-1)
        if not bool(((self.quality >= 1) & (self.quality <= 100) & (self.quality == self.quality.round())).all()):
            raise InputError(f"JPEG needs a whole quality from 1 to 100, got {quality}")

    def _blocks(self, x: Tensor) -> Tensor:
        """D x, [B, C, H/8, W/8, 8, 8], in grey levels."""
        if x.ndim != 4 or x.shape[-1] % 8 or x.shape[-2] % 8:
            raise ContractError(f"JPEG needs images [B, C, H, W] with sides that are multiples of 8, got {tuple(x.shape)}: pad or crop them")
        d = cosines(x)
        blocks = x.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-2, -3)
        return d @ (blocks * LEVELS) @ d.mT

    def _image(self, blocks: Tensor) -> Tensor:
        d = cosines(blocks)
        return (d.mT @ blocks @ d / LEVELS).transpose(-2, -3).flatten(-2).flatten(2, 3)

    def _table(self, like: Tensor) -> Tensor:
        return table(self.quality).to(like)[:, None, None, None]

    def __call__(self, x: Tensor) -> Tensor:
        v = x.detach() - ORIGIN
        c = self._blocks(v)
        q = self._table(c)
        return x + (self._image(q * (c / q).round()) - v)

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """r itself: straight through the rounding, a guidance map."""
        return r

    def pull(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """rho2 / (noise + rho2) of the way to the nearest image that is rounded to y: a guidance map.

        Such images have D x within q/2 of D y; the nearest one within 0.9 of that is taken, off the edges where rounding
        may go either way. (A y with noise of its own lies between the grid's points; the box is then about y.)
        """
        c, target = self._blocks(x), self._blocks(r + self(x))
        half = 0.45 * self._table(c)
        nearest = torch.minimum(torch.maximum(c, target - half), target + half)
        return rho2 / (noise + rho2) * self._image(nearest - c)

    def pinv(self, y: Tensor) -> Tensor:
        """The decoded image: A(y) = y."""
        return y

    def lift(self, y: Tensor) -> Tensor:
        return y
