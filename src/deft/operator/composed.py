"""One operator after another: `A @ B` is x -> A(B(x)), a blur and then a mask.

    (A B)^T = B^T A^T,    (noise I + gram A B B^T A^T)^{-1}

The inverse is a closed form where

- B B^T = c I (`LinearOperator.orthogonal_rows`: block averages, an orthonormal transform): it is A's own with c gram;
- both are matrices along axes (`Separable`), or both circular convolutions, masks, or matrices: so is their product.

Elsewhere it is found by conjugate gradients, preconditioned with B's own inverse where A is a mask.
"""

from __future__ import annotations

import copy
import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from deft.core.operator import (
    SAMPLES,
    LinearOperator,
    Operator,
    Spectrum,
    conjugate_gradient,
)
from deft.errors import ContractError, InputError
from deft.operator.basic import Identity, Matrix
from deft.operator.fourier import Convolution
from deft.operator.image import Mask
from deft.operator.separable import AXES, Separable

Self = TypeVar("Self", bound="Several")

EARLY_TOLERANCE, EARLY_ITERATIONS = 1e-3, 20
"""Where `approx_mean_update` stops: it is asked for at every call of a learned h."""
DAMPING = 1e-8
"""Of `pinv` by conjugate gradients, in units of the largest eigenvalue of A A^T."""


class Several(Operator):
    """An operator made of others, whose settings follow the batch."""

    @abstractmethod
    def made_of(self) -> tuple[Operator, ...]: ...

    @abstractmethod
    def _with_parts(self: Self, parts: Sequence[Operator]) -> Self:
        """The same of other parts."""

    def __getitem__(self: Self, index: Any) -> Self:
        return self._with_parts([p[index] for p in self.made_of()])

    def repeat(self: Self, n: int) -> Self:
        return self._with_parts([p.repeat(n) for p in self.made_of()])

    def to(self: Self, device: torch.device | str) -> Self:
        return self._with_parts([p.to(device) for p in self.made_of()])

    def __getattr__(self, name: str) -> Any:
        """What a part was drawn with (`mask`, `kernel`); of several parts that have it, the last one's to measure."""
        if not name.startswith("_"):
            for part in vars(self).get("_drawn_from", ()):
                if name in dict(part.drawn()):
                    return getattr(part, name)
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def _check_rows(self) -> None:
        rows = sorted({p.setting_rows() for p in self.made_of()} - {1})
        if len(rows) > 1:
            raise ContractError(
                f"{self.text} holds the settings of {rows[0]} samples in one part and of {rows[1]} in another: give as"
                " many, or one for all"
            )

    @property
    def text(self) -> str:
        """In a few words, for messages."""
        return type(self).__name__


def words(op: Operator) -> str:
    """`Mask @ Separable`."""
    return op.text if isinstance(op, Several) else type(op).__name__


def passed(call: Callable[[Tensor], Tensor], v: Tensor, failed: str) -> Tensor:
    """call(v); where it refuses v, or fails on its shape, an error that says what does not fit."""
    try:
        return call(v)
    except torch.OutOfMemoryError:
        raise
    except (ContractError, RuntimeError) as error:
        raise ContractError(f"{failed}: {' '.join(str(error).split())}") from error


def closed_solve(op: Operator) -> bool:
    """Whether `solve` takes no iterations."""
    if isinstance(op, (ComposedLinear, Several)):
        return bool(getattr(op, "closed", False))
    inner = getattr(op, "operator", None)
    if isinstance(inner, Operator):
        return closed_solve(inner)
    return isinstance(op, LinearOperator) and type(op).solve is not LinearOperator.solve


def normal_update(
    op: LinearOperator,
    r: Tensor,
    noise: Tensor,
    rho2: Tensor,
    precondition: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    early: bool = False,
) -> Tensor:
    """rho2 (noise I + rho2 A^T A)^{-1} A^T r, among samples, by conjugate gradients.

    However early they stop (`early`), the move is downhill: <v, A^T r> > 0 for every iterate v. precondition: (v,
    noise, rho2) -> about the inverse.
    """
    b = op.adjoint(r)
    n, g = (torch.as_tensor(v).to(b).reshape((-1,) + (1,) * (b.ndim - 1)) for v in (noise, rho2))
    return g * conjugate_gradient(
        lambda v: n * v + g * op.adjoint(op(v)),
        b,
        precondition=None if precondition is None else lambda v: precondition(v, n, g),
        tolerance=EARLY_TOLERANCE if early else 1e-6,
        max_iterations=EARLY_ITERATIONS if early else 500,
    )


def damped_pinv(op: LinearOperator, y: Tensor) -> Tensor:
    """A^T (A A^T + d I)^{-1} y in float64, d = DAMPING times about the largest eigenvalue of A A^T."""
    wide = y.double()
    v = op.adjoint(wide)
    shape = (-1,) + (1,) * (v.ndim - 1)
    for _ in range(8):
        v = v / v.flatten(1).norm(dim=1).clamp_min(1e-300).reshape(shape)
        v = op.adjoint(op(v))
    damping = DAMPING * v.flatten(1).norm(dim=1).clamp_min(1e-300)
    return op.adjoint(op.solve(wide, damping.reshape((-1,) + (1,) * (y.ndim - 1)), 1.0)).to(y.dtype)


class Composed(Several):
    """x -> outer(inner(x)); `outer @ inner` makes it. Not linear; `ComposedLinear` is where both are.

    `features` are inner's, of each of outer's features of y. `pinv` is inner's of outer's. `vjp` is that of one after
    the other. `approx_mean_update` is inner's own where outer is a mask, and outer's own carried through B where
    B B^T = c I; else one bounded gradient step.

    >>> import deft, torch
    >>> seen = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    >>> small = deft.Mask(seen) @ deft.BlockAverage(2)
    >>> small(torch.arange(16.0).reshape(1, 1, 4, 4))
    tensor([[[[ 2.5000,  0.0000],
              [10.5000, 12.5000]]]])
    """

    def __init__(self, outer: Operator, inner: Operator):
        self.outer, self.inner = outer, inner
        self._drawn_from = (outer, inner)
        self.feature_channels = outer.feature_channels * inner.feature_channels
        made, taken = inner.measured_axes, outer.sample_axes
        if made and taken and made.count(",") != taken.count(","):
            raise ContractError(
                f"{self.text} does not fit: {words(inner)} makes [{made}], {words(outer)} takes [{taken}]"
            )
        given, wanted = getattr(inner, "measurement_shape", None), getattr(outer, "event_shape", None)
        if given is not None and wanted is not None and tuple(given) != tuple(wanted):
            raise ContractError(
                f"{self.text} does not fit: {words(inner)} makes [B, {', '.join(map(str, given))}],"
                f" {words(outer)} takes [B, {', '.join(map(str, wanted))}]"
            )
        self._check_rows()

    @property
    def text(self) -> str:
        return f"{words(self.outer)} @ {words(self.inner)}"

    def made_of(self) -> tuple[Operator, ...]:
        return self.outer, self.inner

    def _with_parts(self: Self, parts: Sequence[Operator]) -> Self:
        out = copy.copy(self)
        vars(out).pop("_spectra", None)  # of other rows
        outer, inner = parts
        vars(out).update(outer=outer, inner=inner, _drawn_from=(outer, inner))
        return out

    def _check_array(self, kind: str, value: Any) -> None:
        (self.inner if kind == SAMPLES else self.outer)._check_array(kind, value)

    def __call__(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return passed(
            self.outer,
            z,
            f"{self.text} does not fit: {words(self.inner)} makes {tuple(z.shape)} of samples {tuple(x.shape)}",
        )

    def features(self, y: Tensor) -> Tensor:
        seen = self.outer.features(y).chunk(self.outer.feature_channels, dim=1)
        return torch.cat([self.inner.features(part) for part in seen], dim=1)

    def pinv(self, y: Tensor) -> Tensor:
        return self.inner.pinv(self.outer.pinv(y))

    def start(self, y: Tensor) -> Tensor:
        return self.inner.start(self.outer.start(y))

    def picture(self, y: Tensor) -> Tensor:
        return self.inner.picture(self.outer.picture(y))

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        return self.inner.vjp(x, self.outer.vjp(self.inner(x), r))

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        if isinstance(self.outer, Mask):  # r is zero where nothing was seen
            return self.inner.approx_mean_update(x, r, noise, rho2)
        if self._carries:
            return self._carried(self.outer.approx_mean_update, x, r, noise, rho2)
        return super().approx_mean_update(x, r, noise, rho2)

    @property
    def _carries(self) -> bool:
        """Whether B B^T = c I, so that a belief N(x, rho2 I) is one N(B x, c rho2 I) of what A sees."""
        return getattr(self.inner, "orthogonal_rows", None) is not None

    def _carried(self, step: Callable[..., Tensor], x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """B^T m / c for the step m that A makes of that belief: exact where the step is."""
        assert isinstance(self.inner, LinearOperator) and self.inner.orthogonal_rows is not None
        z, c = self.inner(x), self.inner.orthogonal_rows
        return self.inner.adjoint(step(z, r, noise, (c * rho2).reshape((-1,) + (1,) * (z.ndim - 1)))) / c

    def measured_part(self, y: Tensor) -> Tensor:
        return self.outer.measured_part(y)

    def number_of_measurements(self, y: Tensor) -> Tensor:
        return self.outer.number_of_measurements(y)


class ComposedLinear(Composed, LinearOperator):
    """outer @ inner of two linear operators; see the module for `solve`.

    `pinv` has a relative damping of 1e-8 where it is no closed form. `approx_mean_update`, which learned h are shown,
    is then cut off after 20 steps of conjugate gradients; `mean_update` is not.

    >>> import deft, torch
    >>> blur = deft.operator.gaussian_blur(8, 1.0)
    >>> seen = deft.Mask((torch.arange(64).reshape(1, 1, 8, 8) % 3 > 0).float())
    >>> op = seen @ blur
    >>> deft.testing.check_operator(op, (1, 8, 8))
    >>> op.closed, (deft.operator.bicubic(8, 2) @ blur).spectrum((1, 8, 8), torch.zeros(())).values.shape
    (False, torch.Size([1, 1, 8, 8]))
    """

    outer: LinearOperator
    inner: LinearOperator

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        super().__init__(outer, inner)
        if outer.orthogonal_rows is not None and inner.orthogonal_rows is not None:
            self.orthogonal_rows = outer.orthogonal_rows * inner.orthogonal_rows

    @property
    def closed(self) -> bool:
        """Whether `solve` is a closed form."""
        return self.inner.orthogonal_rows is not None and closed_solve(self.outer)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        c = self.inner.orthogonal_rows
        if c is not None:
            return self.outer.solve(r, noise, c * gram)
        return conjugate_gradient(
            lambda v: noise * v + gram * self(self.adjoint(v)), r, precondition=self._preconditioner(noise, gram)
        )

    def _preconditioner(self, noise: Tensor | float, gram: Tensor | float) -> Callable[[Tensor], Tensor] | None:
        """Of masks: M (noise I + gram B B^T)^{-1} M, and 1 / noise in the hole; and A's own inverse where B is one."""
        mask = self.outer
        if isinstance(mask, Mask) and closed_solve(self.inner):
            return lambda v: mask(self.inner.solve(mask(v), noise, gram)) + (v - mask(v)) / noise
        if isinstance(self.inner, Mask) and closed_solve(self.outer):
            return lambda v: self.outer.solve(v, noise, gram)
        return None

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        return self.adjoint(r)

    def mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        if self._carries:
            return self._carried(self.outer.mean_update, x, r, noise, rho2)
        return LinearOperator.mean_update(self, x, r, noise, rho2)

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        if self._carries:
            return self._carried(self.outer.approx_mean_update, x, r, noise, rho2)
        return normal_update(self, r, noise, rho2, early=True)

    def pinv(self, y: Tensor) -> Tensor:
        """The shortest x with A B x = y (up to the damping)."""
        c = self.inner.orthogonal_rows
        return damped_pinv(self, y) if c is None else self.inner.adjoint(self.outer.pinv(y)) / c

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """Where B B^T = c I, A's singular values times the root of c, in B's basis; else from the dense matrix."""
        c = self.inner.orthogonal_rows
        if c is None:
            return LinearOperator.spectrum(self, event_shape, like)
        inner = self.inner.spectrum(event_shape, like)
        between = tuple(self.inner(like.new_zeros(1, *event_shape)).shape[1:])
        outer, root = self.outer.spectrum(between, like), c**0.5
        seen = inner.values[0].flatten() > 0
        shape = inner.values.shape[1:]

        def placed(seen_ones: Tensor, all_of_them: Tensor) -> Tensor:
            out = all_of_them.flatten(1).clone()
            out[:, seen] = seen_ones.flatten(1)
            return out.unflatten(1, shape)

        def zeros(n: int) -> Tensor:
            return like.new_zeros(n, *shape)

        def analyse(x: Tensor) -> Tensor:
            return placed(outer.analyse(self.inner(x)) / root, inner.analyse(x))

        def synthesise(c_: Tensor) -> Tensor:
            z = outer.synthesise(c_.flatten(1)[:, seen].unflatten(1, outer.values.shape[1:]))
            return self.inner.adjoint(z) / root + inner.synthesise(torch.where(seen.reshape(shape), 0.0, c_))

        def measured(y: Tensor) -> Tensor:
            return placed(outer.measured(y) / root, zeros(len(y)))

        return Spectrum(placed(root * outer.values, zeros(len(outer.values))), analyse, synthesise, measured)


class Convolutions(Convolution):
    """outer @ inner of two circular convolutions: one again, with the product of their transfer functions."""

    per_sample = ()

    def __init__(self, outer: Convolution, inner: Convolution):
        self.outer, self.inner = outer, inner

    def made_of(self) -> tuple[Operator, ...]:
        return self.outer, self.inner

    def _transfer(self, v: Tensor) -> Tensor:
        return self.outer._transfer(v) * self.inner._transfer(v)

    def _centred(self, height: int, width: int, like: Tensor) -> Tensor:
        return torch.fft.irfft2(self._transfer(like.new_zeros(1, 1, height, width)), s=(height, width))

    def __getitem__(self, index: Any) -> Convolutions:
        return Convolutions(self.outer[index], self.inner[index])

    def repeat(self, n: int) -> Convolutions:
        return Convolutions(self.outer.repeat(n), self.inner.repeat(n))

    def to(self, device: torch.device | str) -> Convolutions:
        return Convolutions(self.outer.to(device), self.inner.to(device))


CIRCULAR = {Convolution, Convolutions}


def _separable(outer: Separable, inner: Separable) -> Separable:
    matrices = {}
    for axis in AXES:
        left, right = getattr(outer, axis), getattr(inner, axis)
        if left is not None and right is not None and left.shape[1] != right.shape[0]:
            raise ContractError(
                f"Separable @ Separable does not fit: the inner one makes {right.shape[0]} {axis}, the outer one takes"
                f" {left.shape[1]}"
            )
        matrices[axis] = right if left is None else left if right is None else left @ right
    own = outer._features is not None and inner._features is not None
    return Separable(**matrices, features=functools.partial(_in_turn, outer, inner) if own else None)


def _in_turn(outer: Separable, inner: Separable, y: Tensor) -> Tensor:
    return inner.features(outer.features(y))


def compose(outer: Operator, inner: Any) -> Operator:
    """x -> outer(inner(x)), in its simplest form: what `outer @ inner` returns.

    Raises:
        InputError: `inner` is no operator. ContractError: the two do not fit.

    >>> import deft, torch
    >>> compose(deft.Identity(), deft.BlockAverage(2))
    BlockAverage(factor=2, size=None)
    >>> deft.Matrix(torch.ones(1, 2)) @ deft.Matrix(torch.eye(2))
    Matrix(matrix=[[[1.0, 1.0]]])
    """
    if not isinstance(inner, Operator):
        kind = f"{type(inner).__module__.partition('.')[0]} {type(inner).__name__}"
        way = (
            "call it, A(x)"
            if isinstance(inner, Tensor)
            else "wrap it first (deft.operator.from_scipy, from_deepinv, from_odl, deft.Linear)"
        )
        raise InputError(f"A @ B takes two operators, got {type(outer).__name__} @ a {kind}: {way}")
    if isinstance(outer, Identity):
        return inner
    if isinstance(inner, Identity):
        return outer
    if isinstance(outer, Separable) and isinstance(inner, Separable):
        return _separable(outer, inner)
    if isinstance(outer, Convolution) and isinstance(inner, Convolution) and {type(outer), type(inner)} <= CIRCULAR:
        return Convolutions(outer, inner)
    if isinstance(outer, LinearOperator) and isinstance(inner, LinearOperator):
        both = ComposedLinear(outer, inner)
        if type(outer) is Mask and type(inner) is Mask:
            return Mask(passed(lambda m: outer.mask * m, inner.mask, f"{both.text} does not fit"))
        if type(outer) is Matrix and type(inner) is Matrix:
            if outer.matrix.shape[2] != inner.matrix.shape[1]:
                raise ContractError(
                    f"Matrix @ Matrix does not fit: the inner one makes [B, {inner.matrix.shape[1]}], the outer one"
                    f" takes [B, {outer.matrix.shape[2]}]"
                )
            return Matrix(outer.matrix @ inner.matrix.to(outer.matrix.dtype))
        return both
    return Composed(outer, inner)


Operator._compose = compose

__all__ = ["Composed", "ComposedLinear", "Convolutions", "Several", "compose"]
