"""Operators on samples of any number of sides: a mask, and block averaging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deft.core.operator import LinearOperator, Spectrum
from deft.errors import ContractError, InputError
from deft.operator.separable import along, cosines
from deft.tensors import of_numpy


class Mask(LinearOperator):
    """y = m * x with m = 1 where seen, 0 where hidden; any sample shape.

    y keeps the shape of x, with zeros in the hole; noise is added to seen entries alone. A is its own adjoint.

    Args:
        mask: [B, *E] or [1, *E], or with sizes 1 that broadcast (one channel for all, say).

    >>> import deft
    >>> mask = deft.Mask(torch.tensor([[1.0, 0.0, 1.0]]))
    >>> y = deft.Gaussian(mask, 0.1).sample(torch.ones(1, 3), deft.Noise(0, 1))
    >>> y[0, 1] == 0, mask.features(y).shape
    (tensor(True), torch.Size([1, 6]))
    """

    per_sample = ("mask",)
    sample_shaped = ("mask",)
    feature_channels = 2
    projection = True

    def __init__(self, mask: Tensor | np.ndarray):
        mask = of_numpy(mask) if isinstance(mask, np.ndarray) else mask
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ContractError("a mask holds 1 (seen) and 0 (hidden) alone")
        self.mask = mask.to(torch.get_default_dtype())

    def _check_sample(self, x: Tensor) -> None:
        fits = x.ndim == self.mask.ndim and all(
            m in (1, n) for m, n in zip(self.mask.shape[1:], x.shape[1:], strict=True)
        )
        if not fits:
            raise ContractError(
                f"a mask of shape {tuple(self.mask.shape)} does not go with samples of shape {tuple(x.shape)}: expected"
                " the same axes, [B or 1, 1 or C, H, W] for images"
            )

    def _check_measurement(self, y: Tensor) -> None:
        self._check_sample(y)

    def __call__(self, x: Tensor) -> Tensor:
        return self.mask.to(x.dtype) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def measured_part(self, y: Tensor) -> Tensor:
        return self(y)

    def number_of_measurements(self, y: Tensor) -> Tensor:
        return self.mask.to(y.dtype).expand_as(y).flatten(1).sum(1)

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return r / (noise + gram * self.mask.to(r.dtype))

    def pinv(self, y: Tensor) -> Tensor:
        return self(y)

    def features(self, y: Tensor) -> Tensor:
        """The seen values with zeros in the hole, then the mask itself."""
        return torch.cat([self(y), self.mask.to(y.dtype).expand_as(y)], dim=1)

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """The basis is that of single entries: K = E."""
        return Spectrum(self.mask.to(like).expand(-1, *event_shape), lambda x: x, lambda c: c, self)


class BlockAverage(LinearOperator):
    """Each factor x factor block of pixels replaced by its mean: super-resolution as the paper's code has it. Of series
    [B, C, L] blocks are stretches of `factor` times, of volumes [B, C, D, H, W] cubes: factor^n entries for n sides.

    A A^T = I / factor^n, so both solves are closed forms.

    Args:
        factor: pixels on a block's side.
        size: the sides of a sample, (H, W) of images, (L,) of series, for sides that are no multiples of the factor:
            the last blocks are the m < factor^n entries that are left of them, y has the sides rounded up, and A A^T =
            diag(1/m). Without it samples are images, whose sides are multiples.

    Raises (when called): ContractError for samples of sides that are no multiples, or other ones than `size`.

    >>> import deft
    >>> small = deft.BlockAverage(2)
    >>> y = small(torch.arange(16.0).reshape(1, 1, 4, 4))
    >>> y, small.pinv(y).shape
    (tensor([[[[ 2.5000,  4.5000],
              [10.5000, 12.5000]]]]), torch.Size([1, 1, 4, 4]))
    >>> deft.BlockAverage(2, (3, 3))(torch.arange(9.0).reshape(1, 1, 3, 3))
    tensor([[[[2.0000, 3.5000],
              [6.5000, 8.0000]]]])
    >>> deft.BlockAverage(2, (5,))(torch.arange(5.0).reshape(1, 1, 5))
    tensor([[[0.5000, 2.5000, 4.0000]]])
    """

    sample_axes = measured_axes = "B, C, H, W"

    def __init__(self, factor: int = 4, size: Sequence[int] | None = None):
        if factor < 1:
            raise InputError(f"the down-sampling factor must be at least 1, got {factor}")
        if size is not None and len(size) not in AXES:
            raise InputError(f"the size of a sample is its 1 to 3 sides, got {tuple(size)}")
        self.factor, self.dims = factor, 2 if size is None else len(size)
        if self.dims != 2:
            self.sample_axes = self.measured_axes = AXES[self.dims]  # type: ignore[misc]
        self._ragged = size is not None and any(n % factor for n in size)
        self.size = tuple(size) if size is not None and (self._ragged or self.dims != 2) else None
        self.orthogonal_rows = None if self._ragged else 1 / factor**self.dims

    def _check(self, sides: Sequence[int]) -> None:
        sides = tuple(sides)
        if self.size is None and any(n % self.factor for n in sides):
            raise ContractError(
                f"image {_by(sides)} is no multiple of the factor {self.factor}: make it"
                f" BlockAverage({self.factor}, {sides}), whose last blocks are smaller"
            )
        if self.size is not None and sides != self.size:
            raise ContractError(f"image {_by(sides)}: this BlockAverage was made for {_by(self.size)}")

    def _share(self, like: Tensor) -> Tensor | float:
        """The share that a pixel has of its block's mean, [*blocks] or one number."""
        if self.size is None or not self._ragged:
            return 1 / self.factor**self.dims
        out = like.new_ones(())
        for n in self.size:
            out = out[..., None] * (1 / torch.tensor(_pieces(n, self.factor)).to(like))
        return out

    def _enlarged(self, y: Tensor) -> Tensor:
        """Each value on all pixels of its block."""
        if self.size is None or not self._ragged:
            return F.interpolate(y, scale_factor=self.factor, mode="nearest")
        if tuple(y.shape[2:]) != tuple(-(-n // self.factor) for n in self.size):
            raise ContractError(
                f"y of {_by(y.shape[2:])}: this BlockAverage was made for images of {_by(self.size)} and the factor"
                f" {self.factor}"
            )
        for dim, n in enumerate(self.size, start=2):
            y = y.repeat_interleave(self.factor, dim).narrow(dim, 0, n)
        return y

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x.shape[2:])
        # what a block lacks at the edge is not counted
        return POOL[self.dims](x, self.factor, ceil_mode=self._ragged)

    def adjoint(self, y: Tensor) -> Tensor:
        if not self._ragged:
            return self._enlarged(y) / self.factor**self.dims
        return self._enlarged(y) * self._enlarged(torch.as_tensor(self._share(y))[None, None])

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return r / (noise + gram * self._share(r)) if self._ragged else r / (noise + gram / self.factor**self.dims)

    def pinv(self, y: Tensor) -> Tensor:
        return self._enlarged(y)

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """The basis is the cosine transform of each block, whose first vector is seen, with factor^(-n/2) (1/sqrt(m)
        where a block has m entries): K = E."""
        sides = event_shape[-self.dims :]
        self._check(sides)
        step, root = self.factor, self.factor ** (self.dims / 2)
        values = like.new_zeros(1, *event_shape)
        first: tuple[Any, ...] = (..., *[slice(None, None, step)] * self.dims)
        if self.size is None or not self._ragged:
            basis = cosines(step, like)
            values[first] = 1 / root
            forward, backward = (
                (lambda x: _blockwise(basis, x, self.dims)),
                (lambda c: _blockwise(basis.mT, c, self.dims)),
            )
        else:
            bases = [torch.block_diag(*(cosines(n, like) for n in _pieces(side, step))) for side in self.size]
            values[first] = torch.as_tensor(self._share(like)).sqrt()
            forward, backward = (
                (lambda x: _each(bases, x)),
                (lambda c: _each([b.mT for b in bases], c)),
            )
        seen = values[:1, :1][first]

        def measured(y: Tensor) -> Tensor:
            c = y.new_zeros(len(y), *event_shape)
            c[first] = y / seen if self._ragged else root * y
            return c

        return Spectrum(values, forward, backward, measured)


AXES = {1: "B, C, L", 2: "B, C, H, W", 3: "B, C, D, H, W"}
POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
"""Number of sides -> the axes of samples, and what averages blocks."""


def _by(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _pieces(side: int, factor: int) -> list[int]:
    """Pixels of each block along a side.

    >>> _pieces(7, 3)
    [3, 3, 1]
    """
    return [min(factor, side - at) for at in range(0, side, factor)]


def _blockwise(matrix: Tensor, x: Tensor, dims: int) -> Tensor:
    """The matrix applied along the last `dims` axes of every block of its size."""
    for dim in range(-1, -dims - 1, -1):
        blocks = x.movedim(dim, -1)
        x = (blocks.unflatten(-1, (-1, len(matrix))) @ matrix.mT).flatten(-2).movedim(-1, dim)
    return x


def _each(matrices: Sequence[Tensor], x: Tensor) -> Tensor:
    """Each of the last axes multiplied by its matrix."""
    for i, matrix in enumerate(reversed(matrices), start=1):
        x = along(matrix, x, -i)
    return x
