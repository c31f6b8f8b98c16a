"""Operators on images [B, C, H, W]: a mask, and block averaging."""

from __future__ import annotations

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
    """Each factor x factor block of pixels replaced by its mean: super-resolution as the paper's code has it.

    A A^T = I / factor^2, so both solves are closed forms.

    Args:
        factor: pixels on a block's side.
        size: (H, W) of the images, for sides that are no multiples of the factor: the last blocks are the n < factor^2
            pixels that are left of them, y has the sides rounded up, and A A^T = diag(1/n).

    Raises (when called): ContractError for images of sides that are no multiples, or other ones than `size`.

    >>> import deft
    >>> small = deft.BlockAverage(2)
    >>> y = small(torch.arange(16.0).reshape(1, 1, 4, 4))
    >>> y, small.pinv(y).shape
    (tensor([[[[ 2.5000,  4.5000],
              [10.5000, 12.5000]]]]), torch.Size([1, 1, 4, 4]))
    >>> deft.BlockAverage(2, (3, 3))(torch.arange(9.0).reshape(1, 1, 3, 3))
    tensor([[[[2.0000, 3.5000],
              [6.5000, 8.0000]]]])
    """

    sample_axes = measured_axes = "B, C, H, W"

    def __init__(self, factor: int = 4, size: tuple[int, int] | None = None):
        if factor < 1:
            raise InputError(f"the down-sampling factor must be at least 1, got {factor}")
        self.factor = factor
        self.size = size if size is not None and any(n % factor for n in size) else None
        self.orthogonal_rows = None if self.size else 1 / factor**2

    def _check(self, height: int, width: int) -> None:
        if self.size is None and (height % self.factor or width % self.factor):
            raise ContractError(
                f"image {height}x{width} is no multiple of the factor {self.factor}: make it"
                f" BlockAverage({self.factor}, ({height}, {width})), whose last blocks are smaller"
            )
        if self.size is not None and (height, width) != tuple(self.size):
            raise ContractError(f"image {height}x{width}: this BlockAverage was made for {self.size[0]}x{self.size[1]}")

    def _share(self, like: Tensor) -> Tensor | float:
        """The share that a pixel has of its block's mean, [h, w] or one number."""
        if self.size is None:
            return 1 / self.factor**2
        rows, columns = (1 / torch.tensor(_pieces(n, self.factor)).to(like) for n in self.size)
        return rows[:, None] * columns

    def _enlarged(self, y: Tensor) -> Tensor:
        """Each value on all pixels of its block."""
        if self.size is None:
            return F.interpolate(y, scale_factor=self.factor, mode="nearest")
        if tuple(y.shape[2:]) != tuple(-(-n // self.factor) for n in self.size):
            raise ContractError(
                f"y of {y.shape[2]}x{y.shape[3]}: this BlockAverage was made for images of"
                f" {self.size[0]}x{self.size[1]} and the factor {self.factor}"
            )
        whole = y.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)
        return whole[:, :, : self.size[0], : self.size[1]]

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x.shape[-2], x.shape[-1])
        # what a block lacks at the edge is not counted
        return F.avg_pool2d(x, self.factor, ceil_mode=self.size is not None)

    def adjoint(self, y: Tensor) -> Tensor:
        if self.size is None:
            return self._enlarged(y) / self.factor**2
        return self._enlarged(y) * self._enlarged(torch.as_tensor(self._share(y))[None, None])

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return r / (noise + gram * self._share(r)) if self.size else r / (noise + gram / self.factor**2)

    def pinv(self, y: Tensor) -> Tensor:
        return self._enlarged(y)

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """The basis is the cosine transform of each block, whose first vector is seen, with 1/factor (1/sqrt(n) where a
        block has n pixels): K = (C, H, W)."""
        self._check(event_shape[-2], event_shape[-1])
        step = self.factor
        values = like.new_zeros(1, *event_shape)
        if self.size is None:
            basis = cosines(step, like)
            values[..., ::step, ::step] = 1 / step
            forward, backward = (lambda x: _blockwise(basis, x)), (lambda c: _blockwise(basis.mT, c))
        else:
            down, across = (torch.block_diag(*(cosines(n, like) for n in _pieces(side, step))) for side in self.size)
            values[..., ::step, ::step] = torch.as_tensor(self._share(like)).sqrt()
            forward, backward = (
                (lambda x: along(down, along(across, x, -1), -2)),
                (lambda c: along(down.mT, along(across.mT, c, -1), -2)),
            )
        seen = values[:1, :1, ::step, ::step]

        def measured(y: Tensor) -> Tensor:
            c = y.new_zeros(len(y), *event_shape)
            c[..., ::step, ::step] = step * y if self.size is None else y / seen
            return c

        return Spectrum(values, forward, backward, measured)


def _pieces(side: int, factor: int) -> list[int]:
    """Pixels of each block along a side.

    >>> _pieces(7, 3)
    [3, 3, 1]
    """
    return [min(factor, side - at) for at in range(0, side, factor)]


def _blockwise(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrix applied along both axes of every block of its size."""
    n = len(matrix)
    blocks = x.unflatten(-1, (-1, n)).unflatten(-3, (-1, n))  # [..., H/n, n, W/n, n]
    return along(matrix, along(matrix, blocks, -1), -3).flatten(-2).flatten(-3, -2)
