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

    >>> import deft
    >>> small = deft.BlockAverage(2)
    >>> y = small(torch.arange(16.0).reshape(1, 1, 4, 4))
    >>> y, small.pinv(y).shape
    (tensor([[[[ 2.5000,  4.5000],
              [10.5000, 12.5000]]]]), torch.Size([1, 1, 4, 4]))
    """

    sample_axes = measured_axes = "B, C, H, W"

    def __init__(self, factor: int = 4):
        if factor < 1:
            raise InputError(f"the down-sampling factor must be at least 1, got {factor}")
        self.factor = factor
        self.orthogonal_rows = 1 / factor**2

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ContractError(f"image {x.shape[-2]}x{x.shape[-1]} is no multiple of the factor {self.factor}")
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return F.interpolate(y, scale_factor=self.factor, mode="nearest") / self.factor**2

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return r / (noise + gram / self.factor**2)

    def pinv(self, y: Tensor) -> Tensor:
        return F.interpolate(y, scale_factor=self.factor, mode="nearest")

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """The basis is the cosine transform of each block, whose first vector is seen, with 1/factor: K = (C, H, W)."""
        if event_shape[-1] % self.factor or event_shape[-2] % self.factor:
            raise ContractError(f"image {event_shape[-2]}x{event_shape[-1]} is no multiple of the factor {self.factor}")
        basis = cosines(self.factor, like)
        values = like.new_zeros(1, *event_shape)
        values[..., :: self.factor, :: self.factor] = 1 / self.factor

        def measured(y: Tensor) -> Tensor:
            c = y.new_zeros(len(y), *event_shape)
            c[..., :: self.factor, :: self.factor] = self.factor * y
            return c

        return Spectrum(values, lambda x: _blockwise(basis, x), lambda c: _blockwise(basis.mT, c), measured)


def _blockwise(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrix applied along both axes of every block of its size."""
    n = len(matrix)
    blocks = x.unflatten(-1, (-1, n)).unflatten(-3, (-1, n))  # [..., H/n, n, W/n, n]
    return along(matrix, along(matrix, blocks, -1), -3).flatten(-2).flatten(-3, -2)
