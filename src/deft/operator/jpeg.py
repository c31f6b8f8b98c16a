"""JPEG compression: rounding in the cosine transform of 8 x 8 blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from deft.core.operator import Operator
from deft.errors import ContractError, InputError, unknown
from deft.operator.separable import along
from deft.tensors import PerRow

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
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
) + ((99,) * 8,) * 4
"""The chrominance table, annex K.2."""
SUBSAMPLINGS = {"444": (1, 1), "422": (1, 2), "420": (2, 2)}
"""How many rows and columns of pixels share one chroma value."""
YCBCR = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
"""Full-range YCbCr of RGB, ITU-T T.871 (JFIF); chroma less its 128."""
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
"""The chrominance table, annex K.2."""
SUBSAMPLINGS = {"444": (1, 1), "422": (1, 2), "420": (2, 2)}
"""How many rows and columns of pixels share one chroma value."""
YCBCR = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
"""Full-range YCbCr of RGB (ITU-T T.871, JFIF), chroma less its 128."""
LEVELS = 127.5
"""Grey levels of 255 in one unit of an image in [-1, 1]."""
ORIGIN = 0.5 / LEVELS
"""Where an image in [-1, 1] has grey level 128, which the standard takes for 0."""


def table(quality: Tensor, of: tuple[tuple[int, ...], ...] = LUMINANCE) -> Tensor:
    """A table scaled to qualities 1 to 100 as the Independent JPEG Group's library does it, [B, 8, 8]."""
    q = quality.double()
    scale = torch.where(q < 50, (5000 / q).floor(), 200 - 2 * q).reshape(-1, 1, 1)
    base = torch.tensor(of, dtype=torch.float64, device=quality.device)
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
    no colour transform and no chroma subsampling (`ColourJPEG` has both). y is the decoded image, not rounded to whole
    grey levels and not clipped, so that A(A(x)) = A(x) and A is linear in no sense: its derivative is 0 wherever there
    is one.

    Automatic differentiation is told the identity instead (straight-through; Bengio et al. 2013). So `vjp` and whatever
    is differentiated through A, the score included, are *guidance maps* here, not gradients, and `approx_mean_update`
    is another.

    Images whose sides are no multiples of 8 are padded by their last row and column, as libjpeg does it, and cropped
    again. Of what was in the padding y says nothing: in the last blocks A(A(x)) = A(x) holds roughly.

    Args:
        quality: 1 (worst) to 100, a whole number, or a tensor [B] with one for each sample.
    """

    per_sample = settings = ("quality",)
    sample_axes = measured_axes = "B, C, H, W"

    def __init__(self, quality: PerRow = 10):
        self.quality = torch.as_tensor(quality, dtype=torch.get_default_dtype()).reshape(-1)
        if not bool(((self.quality >= 1) & (self.quality <= 100) & (self.quality == self.quality.round())).all()):
            raise InputError(f"JPEG needs a whole quality from 1 to 100, got {quality}")

    def _blocks(self, x: Tensor) -> Tensor:
        """D x of a padded image, [B, C, H/8, W/8, 8, 8], in grey levels."""
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
        c = self._blocks(_repeated(v, (8, 8)))
        q = self._table(c)
        return x + (_part(self._image(q * (c / q).round()), x) - v)

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """r itself: straight through the rounding, a guidance map."""
        return r

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """rho2 / (noise + rho2) of the way to the nearest image that is rounded to y: a guidance map.

        Such images have D x within q/2 of D y; the nearest one within 0.9 of that is taken, off the edges where
        rounding may go either way. (A y with noise of its own lies between the grid's points; the box is then about y.)
        """
        c, target = (self._blocks(_repeated(v, (8, 8))) for v in (x, r + self(x)))
        half = 0.45 * self._table(c)
        nearest = torch.minimum(torch.maximum(c, target - half), target + half)
        return rho2 / (noise + rho2) * _part(self._image(nearest - c), x)

    def pinv(self, y: Tensor) -> Tensor:
        """The decoded image: A(y) = y."""
        return y

    def features(self, y: Tensor) -> Tensor:
        return y


class ColourJPEG(JPEG):
    """JPEG of RGB images as Pillow and libjpeg write them: y = R U D^T (q round(D S T x / q)), each plane with its own
    q.

    T: RGB to full-range YCbCr. S: each chroma value is the mean of a block of pixels. U: decoders enlarge chroma
    linearly ("fancy upsampling"). R: back to RGB. Two tables, for luminance and chrominance. As `JPEG`: not rounded to
    whole levels, not clipped, and differentiated straight through.

    Args:
        quality: as `JPEG`. subsampling: "444" (none), "422" (pairs in a row) or "420" (2 x 2 blocks; Pillow's own
            choice). Where chroma is halved, images are padded to multiples of 16.

    Raises (when called): ContractError for other than 3 channels.
    """

    def __init__(self, quality: int | Tensor = 10, subsampling: str = "420"):
        super().__init__(quality)
        if subsampling not in SUBSAMPLINGS:
            raise unknown("subsampling", str(subsampling), SUBSAMPLINGS)
        self.subsampling = subsampling

    @property
    def _factors(self) -> tuple[int, int]:
        return SUBSAMPLINGS[self.subsampling]

    def _check_sample(self, x: Tensor) -> None:
        if x.shape[1] != 3:
            raise ContractError(f"JPEG with colour needs images [B, 3, H, W], got {tuple(x.shape)}")

    def _check_measurement(self, y: Tensor) -> None:
        self._check_sample(y)

    def _planes(self, x: Tensor) -> list[Tensor]:
        """Y, Cb, Cr of x, padded, in units of x, each [B, 1, h, w]: luminance less the level of 128, chroma averaged
        over its blocks."""
        down, across = self._factors
        x = _repeated(x, (8 * down, 8 * across))
        t = torch.tensor(YCBCR, dtype=torch.float64).to(x)
        luma, *chroma = torch.einsum("ij,bjhw->bihw", t, x).split(1, 1)
        return [luma - ORIGIN, *(F.avg_pool2d(c, self._factors) for c in chroma)]

    def _rgb(self, planes: list[Tensor]) -> Tensor:
        t = torch.tensor(YCBCR, dtype=torch.float64).inverse().to(planes[0])
        return torch.einsum("ij,bjhw->bihw", t, torch.cat(planes, 1))

    def _decoded(self, planes: list[Tensor], like: Tensor) -> Tensor:
        """The image, of the size of `like`. Chroma is enlarged without what is only padding, as decoders do it."""
        luma, *chroma = planes
        kept = [-(-n // f) for n, f in zip(like.shape[2:], self._factors, strict=True)]
        size = [n * f for n, f in zip(kept, self._factors, strict=True)]
        out = [_part(luma + ORIGIN, like)]
        for c in chroma:
            c = c[:, :, : kept[0], : kept[1]]
            out.append(_part(F.interpolate(c, size, mode="bilinear", align_corners=False), like))
        return self._rgb(out)

    def _encoded(self, y: Tensor) -> list[Tensor]:
        """The planes that decode to y: chroma not averaged only, but with the linear enlargement undone."""
        luma, *chroma = self._planes(y)
        out = [luma]
        for c in chroma:
            for dim, factor in zip((2, 3), self._factors, strict=True):
                c = along(_sharpened(c.shape[dim], c), c, dim) if factor > 1 else c
            out.append(c)
        return out

    def _steps(self, like: Tensor) -> list[Tensor]:
        luma, chroma = (table(self.quality, of).to(like)[:, None, None, None] for of in (LUMINANCE, CHROMINANCE))
        return [luma, chroma, chroma]

    def __call__(self, x: Tensor) -> Tensor:
        v = x.detach()
        rounded = []
        for plane, q in zip(self._planes(v), self._steps(v), strict=True):
            c = self._blocks(plane)
            rounded.append(self._image(q * (c / q).round()))
        return x + (self._decoded(rounded, v) - v)

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """As `JPEG.approx_mean_update`, plane by plane; a chroma value's move is spread evenly over its pixels."""
        moves = []
        for mine, theirs, q in zip(self._planes(x), self._encoded(r + self(x)), self._steps(x), strict=True):
            c, target = self._blocks(mine), self._blocks(theirs)
            nearest = torch.minimum(torch.maximum(c, target - 0.45 * q), target + 0.45 * q)
            moves.append(self._image(nearest - c))
        return rho2 / (noise + rho2) * _part(self._rgb([moves[0], *(self._spread(c) for c in moves[1:])]), x)

    def _spread(self, c: Tensor) -> Tensor:
        down, across = self._factors
        return c.repeat_interleave(down, 2).repeat_interleave(across, 3)

    def pinv(self, y: Tensor) -> Tensor:
        """An image with A(x) = y: the decoded one, its chroma in blocks."""
        luma, *chroma = self._encoded(y)
        return _part(self._rgb([luma + ORIGIN, *(self._spread(c) for c in chroma)]), y)

    def picture(self, y: Tensor) -> Tensor:
        return y


def _repeated(x: Tensor, multiples: tuple[int, int]) -> Tensor:
    """x with its last row and column repeated up to the next multiples: x itself, where there is nothing to add."""
    below, right = (-n % m for n, m in zip(x.shape[2:], multiples, strict=True))
    return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


def _part(x: Tensor, like: Tensor) -> Tensor:
    """What of a padded image belongs to `like`."""
    return x if x.shape[2:] == like.shape[2:] else x[:, :, : like.shape[2], : like.shape[3]]


def _sharpened(n: int, like: Tensor) -> Tensor:
    """The inverse of linear enlargement of n values to 2 n, followed by the mean of pairs: [n, n]."""
    wide = F.interpolate(torch.eye(n, dtype=torch.float64)[:, None], 2 * n, mode="linear", align_corners=False)
    return F.avg_pool1d(wide, 2)[:, 0].mT.inverse().to(like)
