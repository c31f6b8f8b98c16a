"""Several measurements of one x: y = (w_1 A_1 x, w_2 A_2 x, ...), two sensors, three exposures.

    A^T y = sum w_i A_i^T y_i,    A^T A = sum w_i^2 A_i^T A_i

The weights are for noise that differs: with deviation s_i in sensor i and w_i = s_1 / s_i the noise of all of y is s_1
(whitening), which is what `Gaussian` takes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from deft.core.operator import LinearOperator, Operator, conjugate_gradient
from deft.errors import ContractError, InputError
from deft.operator.basic import Identity
from deft.operator.composed import CIRCULAR, Several, closed_solve, damped_pinv, normal_update, passed, words
from deft.operator.fourier import Convolution
from deft.operator.image import Mask
from deft.operator.radon import Radon

Self = TypeVar("Self", bound="Stacked")

DIAGONAL = ({Mask}, CIRCULAR)
"""Operators that are diagonal in one basis: of single entries, of waves."""


class Stacked(Several):
    """y = (w_1 A_1 x, w_2 A_2 x, ...) as one vector [B, m], each part flattened; made by `stack`, which has an example.

    `split` and `join` go from y to the sensors' own measurements and back. `features` are those of all parts, one after
    the other. Not linear: `approx_mean_update` is one bounded gradient step, `pinv` and `start` are the first part's.

    Args:
        operators: A_1, A_2, ...
        event_shape: *E of the samples.
        weights: w_1, w_2, ...
    """

    measured_axes = "B, m"

    def __init__(self, operators: Sequence[Operator], event_shape: Sequence[int], weights: Sequence[float]):
        self.operators, self.event_shape = tuple(operators), tuple(event_shape)
        self.weights = tuple(float(w) for w in weights)
        self._drawn_from = self.operators
        self.feature_channels = sum(op.feature_channels for op in self.operators)
        self._check_rows()
        self.shapes = tuple(self._shape_of(op) for op in self.operators)

    def _shape_of(self, op: Operator) -> tuple[int, ...]:
        zero = torch.zeros(op.setting_rows(), *self.event_shape, device=_device(op))
        failed = f"{self.text}: {words(op)} does not take samples of shape {self.event_shape}"
        with torch.no_grad():
            return tuple(passed(op, zero, failed).shape[1:])

    @property
    def text(self) -> str:
        return f"stack({', '.join(words(op) for op in self.operators)})"

    def made_of(self) -> tuple[Operator, ...]:
        return self.operators

    def _with_parts(self: Self, parts: Sequence[Operator]) -> Self:
        out = copy.copy(self)
        vars(out).pop("_spectra", None)  # of other rows
        vars(out).update(operators=tuple(parts), _drawn_from=tuple(parts))
        return out

    def _check_sample(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.event_shape:
            raise ContractError(f"{self.text} was made for samples {self.event_shape}, got {tuple(x.shape[1:])}")

    def _check_measurement(self, y: Tensor) -> None:
        m = sum(math.prod(s) for s in self.shapes)
        if y.shape[1] != m:
            shapes = ", ".join(str(s) for s in self.shapes)
            raise ContractError(
                f"{self.text} measures [B, {m}] ({shapes}, flattened), got shape {tuple(y.shape)}: `join` makes y of"
                " the sensors' own"
            )

    def _pieces(self, y: Tensor) -> list[Tensor]:
        """The parts of y in their shapes, as they are."""
        cut = y.split([math.prod(s) for s in self.shapes], dim=1)
        return [p.reshape(len(y), *s) for p, s in zip(cut, self.shapes, strict=True)]

    def split(self, y: Tensor) -> list[Tensor]:
        """What each sensor measured, [B, *M_i], in its own units."""
        return [p / w for p, w in zip(self._pieces(y), self.weights, strict=True)]

    def join(self, measurements: Sequence[Tensor]) -> Tensor:
        """y [B, m] of what each sensor measured, [B, *M_i].

        Raises:
            ContractError: another number of them, or another shape.
        """
        found = [tuple(v.shape[1:]) for v in measurements]
        if found != list(self.shapes):
            raise ContractError(f"{self.text} takes measurements of shapes {list(self.shapes)}, got {found}")
        return _flat([w * v for v, w in zip(measurements, self.weights, strict=True)])

    def __call__(self, x: Tensor) -> Tensor:
        return _flat([w * op(x) for op, w in zip(self.operators, self.weights, strict=True)])

    def features(self, y: Tensor) -> Tensor:
        shown = [op.features(p) for op, p in zip(self.operators, self.split(y), strict=True)]
        return torch.cat(_even(shown), dim=1)

    def pinv(self, y: Tensor) -> Tensor:
        return self.operators[0].pinv(self.split(y)[0])

    def start(self, y: Tensor) -> Tensor:
        return self.operators[0].start(self.split(y)[0])

    def picture(self, y: Tensor) -> Tensor:
        return self.start(y)

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        parts = zip(self.operators, self.weights, self._pieces(r), strict=True)
        return torch.stack(_even([w * op.vjp(x, p) for op, w, p in parts])).sum(0)

    def measured_part(self, y: Tensor) -> Tensor:
        parts = zip(self.operators, self._pieces(y), strict=True)
        return _flat([op.measured_part(p) for op, p in parts])

    def number_of_measurements(self, y: Tensor) -> Tensor:
        parts = zip(self.operators, self._pieces(y), strict=True)
        return torch.stack(_even([op.number_of_measurements(p) for op, p in parts])).sum(0)


class StackedLinear(Stacked, LinearOperator):
    """A stack of linear operators.

    With N = noise I + gram A^T A, (noise I + gram A A^T)^{-1} r = (r - gram A N^{-1} A^T r) / noise. N is diagonal,
    and everything a closed form, where all parts are masks (or the identity), or all are circular convolutions (or the
    identity). Else conjugate gradients, preconditioned part by part; `approx_mean_update`, which learned h are shown,
    is then cut off after 20 steps, and `start` is such a step.
    """

    operators: tuple[LinearOperator, ...]

    @property
    def closed(self) -> bool:
        """Whether `solve` is a closed form."""
        return any({type(op) for op in self.operators} <= {*kinds, Identity} for kinds in DIAGONAL)

    def adjoint(self, y: Tensor) -> Tensor:
        parts = zip(self.operators, self.weights, self._pieces(y), strict=True)
        return torch.stack(_even([w * op.adjoint(p) for op, w, p in parts])).sum(0)

    def _normal(self, v: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        """(noise I + gram A^T A)^{-1} v, of samples; for `closed`."""
        noise, gram = (torch.as_tensor(n).to(v).reshape((-1,) + (1,) * (v.ndim - 1)) for n in (noise, gram))
        square: Tensor = v.new_zeros((1,) * v.ndim)
        fourier = any(isinstance(op, Convolution) for op in self.operators)
        for op, w in zip(self.operators, self.weights, strict=True):
            if isinstance(op, Convolution):
                square = square + w**2 * op._transfer(v).abs().square()
            else:
                square = square + w**2 * (op.mask.to(v) if isinstance(op, Mask) else 1.0)
        factor = 1 / (noise + gram * square)
        return torch.fft.irfft2(torch.fft.rfft2(v) * factor, s=v.shape[2:]) if fourier else factor * v

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        if self.closed:
            wide = r.double()  # the difference of two numbers that are near each other
            noise, gram = (v.double() if isinstance(v, Tensor) else v for v in (noise, gram))
            scaled = _per_row(gram, wide) * self(self._normal(self.adjoint(wide), noise, gram))
            return ((wide - scaled) / _per_row(noise, wide)).to(r.dtype)
        return conjugate_gradient(
            lambda v: noise * v + gram * self(self.adjoint(v)), r, precondition=lambda v: self._apart(v, noise, gram)
        )

    def _apart(self, v: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        """The inverse of each part by itself, where it is a closed form."""
        out = []
        for op, w, p in zip(self.operators, self.weights, self._pieces(v), strict=True):
            n, g = _per_row(noise, p), w**2 * _per_row(gram, p)
            out.append(op.solve(p, n, g) if closed_solve(op) else p / n)
        return _flat(out)

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        return self.adjoint(r)

    def mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        if self.closed:
            return _per_row(rho2, x) * self._normal(self.adjoint(r), noise, rho2)
        return normal_update(self, r, noise, rho2, self._preconditioner())

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        if self.closed:
            return self.mean_update(x, r, noise, rho2)
        return normal_update(self, r, noise, rho2, self._preconditioner(), early=True)

    def _preconditioner(self) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        """That of the tomography among the parts, which has the widest range of singular values."""
        for op, w in zip(self.operators, self.weights, strict=True):
            if isinstance(op, Radon):
                return lambda v, noise, gram, op=op, w=w: op.precondition(v, noise, w**2 * gram)  # type: ignore[misc]
        return None

    def pinv(self, y: Tensor) -> Tensor:
        """The least-squares x, the shortest of them, up to a relative damping of 1e-8."""
        return damped_pinv(self, y)

    def start(self, y: Tensor) -> Tensor:
        """The least-squares x, cut off early, which keeps most of the noise out."""
        one = y.new_ones(1)
        return normal_update(self, y, 1e-3 * one, one, self._preconditioner(), early=True)


def _even(parts: list[Tensor]) -> list[Tensor]:
    """All with the batch of the largest: one sample goes through an operator with settings for many."""
    rows = max(len(p) for p in parts)
    return [p.expand(rows, *p.shape[1:]) for p in parts]


def _flat(parts: list[Tensor]) -> Tensor:
    """Side by side, [B, m]."""
    return torch.cat([p.flatten(1) for p in _even(parts)], dim=1)


def _per_row(value: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value).to(like).reshape((-1,) + (1,) * (like.ndim - 1))


def _device(op: Operator) -> torch.device:
    """Where an operator's tensors are."""
    tensors = [v for v in vars(op).values() if isinstance(v, Tensor)]
    return tensors[0].device if tensors else next((_device(p) for p in op.made_of()), torch.device("cpu"))


def stack(
    *operators: Operator, event_shape: Sequence[int] | None = None, sigma_y: Sequence[float] | None = None
) -> Stacked:
    """Several measurements of one sample as one operator: y = (A_1 x, A_2 x, ...), flattened to [B, m].

    Args:
        operators: of samples of the same shape.
        event_shape: *E of the samples; may be left out where one of the operators has it (`Linear`, `from_scipy`).
        sigma_y: standard deviation of the noise of each, in its own units, all above 0: parts are then multiplied with
            w_i = sigma_1 / sigma_i, so that the noise of all of y is sigma_1. Take `Gaussian(op, sigma_1)`, and
            `op.join([y_1, y_2, ...])` for measurements that you have. Not given: every w_i is 1.

    Raises:
        InputError: no operators, no event shape, or deviations that are not positive, one each. ContractError: an
            operator does not take such samples.

    >>> import deft, torch
    >>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> op = stack(deft.BlockAverage(2), deft.Identity(), event_shape=(1, 4, 4), sigma_y=(0.1, 0.5))
    >>> y = op(x)
    >>> y.shape, op.weights, op.split(y)[0]
    (torch.Size([1, 20]), (1.0, 0.2), tensor([[[[ 2.5000,  4.5000],
              [10.5000, 12.5000]]]]))
    >>> torch.equal(op.join([deft.BlockAverage(2)(x), x]), y)
    True
    """
    if not operators:
        raise InputError("stack needs at least one operator")
    for op in operators:
        if not isinstance(op, Operator):
            raise InputError(
                f"stack takes operators, got a {type(op).__module__.partition('.')[0]} {type(op).__name__}: wrap it"
                " first (deft.operator.from_scipy, from_deepinv, from_odl, deft.Linear)"
            )
    shape = event_shape or next((s for op in operators if (s := getattr(op, "event_shape", None)) is not None), None)
    if shape is None:
        raise InputError("stack needs the shape of one sample: event_shape=(1, 32, 32)")
    weights = [1.0] * len(operators)
    if sigma_y is not None:
        if len(sigma_y) != len(operators) or not all(0 < s < math.inf for s in sigma_y):
            raise InputError(
                f"sigma_y of a stack is one deviation above 0 for each of its {len(operators)} operators, got {sigma_y}"
            )
        weights = [sigma_y[0] / s for s in sigma_y]
    linear = all(isinstance(op, LinearOperator) for op in operators)
    return (StackedLinear if linear else Stacked)(operators, shape, weights)


__all__ = ["Stacked", "StackedLinear", "stack"]
