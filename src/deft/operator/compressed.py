"""Compressed sensing: a random part of an orthonormal transform of the sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deft.core.operator import LinearOperator, Spectrum
from deft.core.random import BatchNoise
from deft.errors import ContractError, InputError
from deft.operator.separable import along, cosines


class Compressed(LinearOperator):
    """y = S D (e * x): random signs e, a cosine transform D along every axis, and a random part S of what comes out.

    The signs spread any sample evenly over all coefficients, so every one says as much as any other (a structurally
    random matrix, Do et al. 2012). A A^T = I: solve divides by noise + gram, and pinv = A^T. y is [B, m], m =
    round(ratio d).

    Args:
        event_shape: *E with d numbers: (C, H, W), say, or (C, length).
        ratio: m / d, in (0, 1].
        seed: of signs and choice, which are kept in the operator and the same for all samples.
    """

    measured_axes = "B, m"
    orthogonal_rows = 1.0

    def __init__(self, event_shape: Sequence[int], ratio: float = 0.25, seed: int = 0):
        self.event_shape, self.ratio, self.seed = tuple(event_shape), ratio, seed
        d = math.prod(self.event_shape)
        if not self.event_shape or d < 1 or not 0 < ratio <= 1:
            raise InputError(f"Compressed needs an event shape and 0 < ratio <= 1, got {self.event_shape} and {ratio}")
        u = BatchNoise(2, seed).uniform((d,))
        self.signs = torch.where(u[0] < 0.5, -1.0, 1.0).to(u).reshape(self.event_shape)
        self.kept = u[1].argsort()[: max(1, round(ratio * d))].sort().values

    def _transform(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.event_shape:
            raise ContractError(
                f"Compressed was made for samples {self.event_shape} and was given {tuple(x.shape[1:])}"
            )
        x = self.signs.to(x.dtype) * x
        for dim, n in enumerate(self.event_shape, start=1):
            x = along(cosines(n, x), x, dim)
        return x.flatten(1)

    def _back(self, c: Tensor) -> Tensor:
        x = c.unflatten(1, self.event_shape)
        for dim, n in enumerate(self.event_shape, start=1):
            x = along(cosines(n, x).mT, x, dim)
        return self.signs.to(x.dtype) * x

    def _all(self, y: Tensor) -> Tensor:
        """y among all coefficients, zero elsewhere, [B, d]."""
        if y.ndim != 2 or y.shape[1] != len(self.kept):
            raise ContractError(
                f"Compressed measures {len(self.kept)} numbers, [B, {len(self.kept)}], and was given shape"
                f" {tuple(y.shape)}"
            )
        return y.new_zeros(len(y), self.signs.numel()).index_copy(1, self.kept, y)

    def __call__(self, x: Tensor) -> Tensor:
        return self._transform(x)[:, self.kept]

    def adjoint(self, y: Tensor) -> Tensor:
        return self._back(self._all(y))

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return r / (noise + gram)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """K = (d,); values 1 and 0."""
        values = like.new_zeros(1, self.signs.numel())
        values[:, self.kept] = 1
        return Spectrum(values, self._transform, self._back, self._all)
