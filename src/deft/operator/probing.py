"""Trying an operator of another library out, once, when it is wrapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deft.errors import ContractError
from deft.operator.wrapped import ArrayLinear, ArrayMap, Map, Wrapped, text_of

TOLERANCE = 1e-4
"""Relative error allowed to linearity, adjoint and pseudo-inverse."""


def probes(batch: int, shape: tuple[int, ...], where: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn((batch, *shape), generator=generator, dtype=torch.float64) for _ in range(2))
    return x.to(**where), z.to(**where)


def examine(name: str, options: Sequence[ArrayLinear] | Sequence[ArrayMap], tolerance: float) -> ArrayLinear | ArrayMap:
    """The option whose adjoint is closest to the transpose, tried out; the options share their forward map."""
    x, z = probes(2, options[0].event_shape, {})
    y = try_batch(name, options[0], x)
    errors = [_derivative_error(o, x, z) if isinstance(o, ArrayMap) else _adjoint_error(name, o, x, y) for o in options]
    best = options[errors.index(min(errors))]
    if isinstance(best, ArrayMap):
        if min(errors) > max(tolerance, 1e-3):
            raise ContractError(
                f"the derivative's adjoint of {name} is not its transpose: off by {min(errors):.2g} against a finite"
                " difference"
            )
        return best
    if not is_linear(best._there, x, z, y, tolerance):
        raise ContractError(f"{name} is not linear: A(1.7 x + z) is not 1.7 A x + A z")
    check_adjoint(name, best, x, y, tolerance)
    return best


def _derivative_error(op: ArrayMap, x: Tensor, z: Tensor) -> float:
    step = 1e-3
    slope = (op._there(x + step * z) - op._there(x - step * z)) / (2 * step)
    r = slope + slope.abs().mean()
    return relative((slope * r).sum() - (z * op.vjp(x, r)).sum(), slope.norm() * r.norm())


def try_batch(name: str, op: Any, x: Tensor) -> Tensor:
    try:
        y = op._there(x)
    except RuntimeError as error:
        raise ContractError(
            f"{name} failed on a batch {text_of(x.shape)}: {str(error).splitlines()[0]}; check the event shape, and"
            " give what differs from sample to sample as settings={name: tensor}"
        ) from error
    if y.ndim < 2 or y.shape[0] != x.shape[0]:
        raise ContractError(
            f"{name} made {text_of(y.shape)} of a batch {text_of(x.shape)}: the batch axis must come first"
        )
    try:
        alone = op[1:]._there(x[1:])
        differs = alone.shape != y[1:].shape or relative((alone - y[1:]).norm(), y.norm()) > 1e-5
    except RuntimeError:
        differs = True
    if differs:
        raise ContractError(
            f"{name} treats a sample alone and in a batch differently: give what differs from sample to sample as"
            " settings={name: tensor}"
        )
    return y


def is_linear(there: Map, x: Tensor, z: Tensor, y: Tensor, tolerance: float) -> bool:
    expected = 1.7 * y + there(z)
    return relative((there(1.7 * x + z) - expected).norm(), expected.norm()) <= tolerance


def _adjoint_error(name: str, op: Wrapped, x: Tensor, y: Tensor) -> float:
    """|<A x, r> - <x, A^T r>| / (|A x| |r|) for an r that is half along A x, so that a wrong scale cannot hide."""
    other = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    r = y + other * (y.norm() / other.norm().clamp_min(1e-30))
    try:
        back = op._back(r)
    except (NotImplementedError, TypeError) as error:  # what SciPy raises differs with the way its operator was made
        raise ContractError(f"{name} has no adjoint ({error}): give rmatvec, the product with the transpose") from error
    if back.shape != x.shape:
        raise ContractError(
            f"the adjoint of {name} made {text_of(back.shape)} of {text_of(r.shape)}, expected {text_of(x.shape)}"
        )
    return relative((y * r).sum() - (x * back).sum(), y.norm() * r.norm())


def check_adjoint(name: str, op: Wrapped, x: Tensor, y: Tensor, tolerance: float) -> None:
    """<A x, y> = <x, A^T y>, else an error; and the norm of A, for its damping."""
    off = _adjoint_error(name, op, x, y)
    if off > tolerance:
        raise ContractError(
            f"the adjoint of {name} is not its transpose: <A x, y> and <x, A^T y> differ by {off:.2g} of |A x| |y|,"
            f" allowed {tolerance:.2g}; give a matched adjoint, or a larger tolerance="
        )
    v = x
    for _ in range(8):
        v = v / v.norm().clamp_min(1e-30)
        v = op._back(op._there(v))
    op.norm2 = float(v.norm()) or 1.0


def is_pinv(dagger: Map, there: Map, x: Tensor, z: Tensor, tolerance: float) -> bool:
    """Whether A A+ A = A, and A+ A is symmetric (the shortest solution), on random samples."""
    try:
        p_x, p_z = (dagger(there(v)) for v in (x, z))
        if p_x.shape != x.shape:
            return False
        again = relative((there(p_x) - there(x)).norm(), there(x).norm())
        skew = relative((p_x * z).sum() - (x * p_z).sum(), x.norm() * z.norm())
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return False
    return max(again, skew) <= tolerance


def mask_of(there: Map, x: Tensor, y: Tensor) -> Tensor | None:
    """m if A x = m x with m of 0 and 1, some of each; else None."""
    if y.shape != x.shape:
        return None
    m = there(torch.ones_like(x))
    binary = bool(((m == 0) | (m == 1)).all()) and bool((m == 0).any()) and bool((m == 1).any())
    return m if binary and torch.equal(m * x, y) else None


def relative(error: Tensor, size: Tensor) -> float:
    return abs(float(error)) / max(float(size), 1e-30)
