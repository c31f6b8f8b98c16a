"""The simplest linear operators, and an operator around another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from deft.core.autodiff import pullback
from deft.core.operator import LinearOperator, Operator, Spectrum, conjugate_gradient
from deft.errors import ContractError
from deft.printing import short
from deft.tensors import of_numpy

Self = TypeVar("Self", bound="Around")


class Around(Operator):
    """An operator around another, `operator`, whose settings follow the batch."""

    operator: Operator

    def _with(self: Self, operator: Operator) -> Self:
        out = copy.copy(self)
        vars(out)["operator"] = operator
        return out

    def __getitem__(self: Self, index: Any) -> Self:
        return self._with(self.operator[index])

    def repeat(self: Self, n: int) -> Self:
        return self._with(self.operator.repeat(n))

    def to(self: Self, device: torch.device | str) -> Self:
        return self._with(self.operator.to(device))


class Identity(LinearOperator):
    """y = x: denoising.

    >>> import deft
    >>> obs = deft.Observation(torch.ones(1, 2), deft.Gaussian(deft.Identity(), 0.5))
    >>> obs.score(torch.zeros(1, 2))
    tensor([[4., 4.]])
    """

    orthogonal_rows = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return r / (noise + gram)

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        return Spectrum(like.new_ones(1, *event_shape), lambda x: x, lambda c: c, lambda y: y)


class Matrix(LinearOperator):
    """y = A x for vectors: A [m, d] shared by all samples, or [B, m, d].

    >>> import deft
    >>> mean = deft.Matrix(torch.full((1, 4), 0.25))
    >>> mean(torch.tensor([[1.0, 2.0, 3.0, 4.0]])), mean.pinv(torch.tensor([[2.5]]))
    (tensor([[2.5000]]), tensor([[2.5000, 2.5000, 2.5000, 2.5000]]))
    """

    per_sample = ("matrix", "_values", "_vectors")
    sample_axes, measured_axes = "B, d", "B, m"

    def __init__(self, matrix: Tensor | np.ndarray):
        matrix = of_numpy(matrix) if isinstance(matrix, np.ndarray) else matrix
        if matrix.ndim not in (2, 3):
            raise ContractError(f"Matrix needs a tensor [m, d] or [B, m, d], got shape {tuple(matrix.shape)}")
        if not (matrix.is_floating_point() and bool(torch.isfinite(matrix).all())):
            raise ContractError(f"Matrix needs finite floating-point numbers, got {short(matrix)}")
        self.matrix = matrix if matrix.ndim == 3 else matrix[None]
        gram = self.matrix.double() @ self.matrix.double().mT
        values, vectors = torch.linalg.eigh(gram)
        self._values, self._vectors = values.clamp_min(0).to(matrix.dtype), vectors.to(matrix.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return (self.matrix.to(x.dtype) @ x[..., None])[..., 0]

    def adjoint(self, y: Tensor) -> Tensor:
        return (self.matrix.mT.to(y.dtype) @ y[..., None])[..., 0]

    def _spectral(self, y: Tensor, weight: Tensor) -> Tensor:
        v, weight = self._vectors.to(y.dtype), weight.to(y.dtype)
        return (v @ (weight * (v.mT @ y[..., None])[..., 0])[..., None])[..., 0]

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return self._spectral(r, 1 / (noise + gram * self._values))

    def pinv(self, y: Tensor) -> Tensor:
        keep = self._values > 1e-10 * self._values.amax(-1, keepdim=True)
        return self.adjoint(self._spectral(y, torch.where(keep, 1 / self._values.clamp_min(1e-30), 0.0)))


class Linear(LinearOperator):
    """Any linear map, given as a function and, if you have it, its adjoint.

    Args:
        forward: x [B, *E] -> [B, *M].
        event_shape: *E.
        adjoint: y [B, *M] -> [B, *E]; taken by automatic differentiation if not given.

    >>> import deft
    >>> cumulative = deft.Linear(lambda x: x.cumsum(1), (3,))
    >>> cumulative(torch.ones(1, 3)), cumulative.adjoint(torch.ones(1, 3))
    (tensor([[1., 2., 3.]]), tensor([[3., 2., 1.]]))
    """

    kept_as: ClassVar = {"adjoint": "_adjoint"}

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        event_shape: tuple[int, ...],
        adjoint: Callable[[Tensor], Tensor] | None = None,
    ):
        self.forward, self.event_shape, self._adjoint = forward, tuple(event_shape), adjoint

    def _check_sample(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.event_shape:
            raise ContractError(
                f"this Linear takes samples [B, {', '.join(map(str, self.event_shape))}], got shape {tuple(x.shape)}"
            )

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        if self._adjoint is not None:
            return self._adjoint(y)
        zero = torch.zeros(y.shape[0], *self.event_shape, dtype=y.dtype, device=y.device)
        return pullback(self.forward, zero, y)

    def features(self, y: Tensor) -> Tensor:
        """A^T times a few conjugate-gradient steps towards (A A^T)^+ y: a picture of y, not yet of its noise.

        The pseudo-inverse of an ill-conditioned A (a blur) is mostly noise, and takes hundreds of steps at each call of
        a network.
        """
        return self.adjoint(conjugate_gradient(lambda v: self(self.adjoint(v)), y, tolerance=1e-2, max_iterations=20))
