"""Operators on images [B, C, H, W]: a mask, and block averaging."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from deft.errors import ContractError, InputError
from deft.operator.base import LinearOperator


class Mask(LinearOperator):
    """y = m * x with m = 1 where seen, 0 where hidden; any sample shape.

    y keeps the shape of x, with zeros in the hole; noise is added to seen entries alone. A is its own adjoint.

    Args:
        mask: [B, *E] or [1, *E], or with sizes 1 that broadcast (one channel for all, say).
    """

    per_sample = ("mask",)
    lift_channels = 2

    def __init__(self, mask: Tensor):
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ContractError("a mask holds 1 (seen) and 0 (hidden) alone")
        self.mask = mask.to(torch.get_default_dtype())

    def __call__(self, x: Tensor) -> Tensor:
        return self.mask.to(x.dtype) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def restrict(self, y: Tensor) -> Tensor:
        return self(y)

    def count(self, y: Tensor) -> Tensor:
        return self.mask.to(y.dtype).expand_as(y).flatten(1).sum(1)

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return r / (noise + gram * self.mask.to(r.dtype))

    def pinv(self, y: Tensor) -> Tensor:
        return self(y)

    def lift(self, y: Tensor) -> Tensor:
        """The seen values with zeros in the hole, then the mask itself."""
        return torch.cat([self(y), self.mask.to(y.dtype).expand_as(y)], dim=1)


class BlockAverage(LinearOperator):
    """Each factor x factor block of pixels replaced by its mean: super-resolution as the paper's code has it.

    A A^T = I / factor^2, so both solves are closed forms.
    """

    def __init__(self, factor: int = 4):
        if factor < 1:
            raise InputError(f"the down-sampling factor must be at least 1, got {factor}")
        self.factor = factor

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
