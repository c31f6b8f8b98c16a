"""Operators of other libraries, by what they can do: DeepInverse, SciPy and ODL, none of which is imported here.

An operator is tried out once, on two random samples, when it is wrapped: does it keep the batch axis, is it linear, is
its adjoint the transpose? What the library needs is the Euclidean A^T with <A x, y> = <x, A^T y>, and packages differ
in what they call an adjoint: ODL's is with respect to weighted inner products, a filtered back-projection is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft._renamed import old_arguments
from deft.core.operator import LinearOperator, Operator
from deft.errors import ContractError, InputError
from deft.operator.image import Mask
from deft.operator.probing import TOLERANCE, check_adjoint, examine, is_linear, is_pinv, mask_of, probes, try_batch
from deft.operator.wrapped import ArrayLinear, ArrayMap, Map, Physics, PhysicsLinear, PhysicsMap, name_of, text_of


@old_arguments(lift="features")
def from_deepinv(
    physics: Any,
    event_shape: Sequence[int],
    *,
    settings: Mapping[str, Tensor] | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    features: Map | None = None,
    tolerance: float = TOLERANCE,
) -> Operator:
    """The noiseless part y = A(x) of a DeepInverse physics as an operator.

    `physics(x)` adds noise; this calls `physics.A`, `physics.A_adjoint` (the transpose by automatic differentiation if
    there is none) and, if A A_dagger A = A and A_dagger A is symmetric on random samples, `physics.A_dagger` as `pinv`.
    An inpainting physics, y = m x with m of 0 and 1, comes back as `Mask`: a learned h must be shown m.

    Args:
        physics: anything with `A(x)`, x [B, *E] -> [B, *M]. Linear or not is found out, not taken from its class.
        event_shape: *E, without the batch.
        settings: what differs from sample to sample, by the keyword that `A` takes, each [B, ...] or [1, ...]:
            {"mask": masks}. They follow the batch when an observation is indexed; those the physics keeps do not.
        value_range: what the physics expects where the library has -1 and 1; (0, 1) for images between 0 and 1. A
            linear A is the same on any range (`observation_from_deepinv` converts y), a non-linear one is called on c x
            + b.
        features: y [B, *M] -> [B, *E], what a learned h is shown of y; needed for a non-linear physics whose y is not
            shaped like x.
        tolerance: relative error allowed in the trial.

    A physics that holds floating-point tensors computes in their precision: call `physics.double()` for float64.

    Raises:
        ContractError: no batch axis, complex or stacked measurements, or an adjoint that is none.
        InputError: no `A`, or a non-linear physics without `features`.
    """
    if not callable(getattr(physics, "A", None)):
        raise InputError(f"from_deepinv needs an object with A(x), got a {name_of(physics)}")
    shape, model = tuple(event_shape), Physics(physics, settings or {})
    batch = max((len(v) for v in model.settings.values()), default=1)
    own = model.own
    where = {"dtype": torch.float64 if own is None else own.dtype, "device": "cpu" if own is None else own.device}
    where["device"] = next((v.device for v in model.settings.values()), where["device"])
    x, z = probes(max(2, batch), shape, where)
    plain = PhysicsLinear(model, shape, callable(getattr(physics, "A_adjoint", None)))
    y = try_batch(name_of(physics), plain, x)
    if not is_linear(plain._there, x, z, y, tolerance):
        if features is None and y.shape[1:] != shape:
            raise InputError(
                f"{name_of(physics)} is not linear and measures {text_of(y.shape[1:])}, not {text_of(shape)}: give"
                f" features=, a function of y that returns {text_of(shape)} for the network to look at"
            )
        return PhysicsMap(model, shape, value_range, features)
    mask = mask_of(plain._there, x, y)
    if mask is not None:
        return Mask(mask if batch > 1 else mask[:1])
    check_adjoint(name_of(physics), plain, x, y, tolerance)
    if callable(getattr(physics, "A_dagger", None)):
        plain._has_pinv = is_pinv(lambda v: model.call("A_dagger", v), plain._there, x, z, tolerance)
    return plain


def from_scipy(
    matrix: Any,
    event_shape: Sequence[int],
    measurement_shape: Sequence[int] | None = None,
    *,
    tolerance: float = TOLERANCE,
) -> LinearOperator:
    """y = A vec(x) for a SciPy matrix or LinearOperator (PyLops' are such), on the CPU.

    vec runs through x in C order (the last axis fastest), y is shaped likewise.

    Args:
        matrix: [m, d], with `matmat` and `rmatmat`, or `matvec` and `rmatvec`, or a dense or sparse array.
        event_shape: *E, d entries.
        measurement_shape: *M, m entries; (m,) if not given.
        tolerance: relative error allowed in the trial.

    Raises:
        InputError: shapes do not fit. ContractError: complex, no adjoint, or an adjoint that is none.
    """
    there, back = _products(matrix)
    m, d = (int(n) for n in matrix.shape)
    shape = tuple(event_shape)
    out = (m,) if measurement_shape is None else tuple(measurement_shape)
    for given, size, what in ((shape, d, "columns (event_shape)"), (out, m, "rows (measurement_shape)")):
        if int(np.prod(given)) != size:
            raise InputError(
                f"the matrix has {size} {what}, but the shape {text_of(given)} has {int(np.prod(given))} entries"
            )
    if np.dtype(getattr(matrix, "dtype", None) or float).kind == "c":
        raise ContractError("the matrix is complex: stack its real and its imaginary part")
    op = ArrayLinear(lambda x: there(x.reshape(len(x), d).T).T, lambda y: back(y.reshape(len(y), m).T).T, shape, out)
    examine(name_of(matrix), [op], tolerance)
    return op


def _products(matrix: Any) -> tuple[Callable[[np.ndarray], Any], Callable[[np.ndarray], Any]]:
    """(X [d, B] -> A X, Y [m, B] -> A^T Y)."""

    def each(function: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
        return lambda v: np.stack([np.asarray(function(c)).reshape(-1) for c in v.T], axis=1)

    if not (hasattr(matrix, "shape") and len(matrix.shape) == 2):
        raise InputError(f"from_scipy needs a matrix or a LinearOperator with a shape (m, d), got a {name_of(matrix)}")
    for there, back in (("matmat", "rmatmat"), ("matvec", "rmatvec")):
        if hasattr(matrix, there) and hasattr(matrix, back):
            pair = getattr(matrix, there), getattr(matrix, back)
            return pair if there == "matmat" else (each(pair[0]), each(pair[1]))
    if hasattr(matrix, "matvec") or not (hasattr(matrix, "__matmul__") and hasattr(matrix, "T")):
        raise InputError(f"a {name_of(matrix)} has no rmatvec: give one (the product with the transpose), or a matrix")
    transposed = matrix.T
    return lambda v: matrix @ v, lambda v: transposed @ v


@old_arguments(lift="features")
def from_odl(
    op: Any,
    event_shape: Sequence[int],
    measurement_shape: Sequence[int] | None = None,
    *,
    features: Map | None = None,
    tolerance: float = TOLERANCE,
) -> Operator:
    """An ODL operator between real spaces, on the CPU; linear, or with a `derivative`.

    ODL's adjoint A* is with respect to the inner products of its spaces, <u, v>_W = sum W u v (a `uniform_discr` has
    W = cell volume): the Euclidean transpose is A^T y = W_X A*(y / W_Y). Some operators of ODL return the plain
    transpose in spite of the weights of their spaces, so both are tried, and the one that is (closer to) the transpose
    is taken.

    Args:
        op: `op(x)`, `op.domain`, `op.range`, `op.is_linear`, `op.adjoint` (linear) or `op.derivative(x).adjoint`.
            Weights may be constants or arrays; products of equal spaces are stacked along a first axis.
        event_shape: *E, with as many entries as the domain: (1, 64, 64) for a domain of 64 x 64.
        measurement_shape: *M; the range's own shape if not given.
        features: as for `from_deepinv`.
        tolerance: relative error allowed in the trial. The back-projections of some tomography backends are the
            transpose to 1e-2 only; a larger tolerance accepts them.

    Raises:
        InputError: shapes do not fit, complex numbers, an exponent other than 2, or weights that are a matrix or a
            function.
        ContractError: an adjoint that is none.
    """
    shape, domain = tuple(event_shape), _space_shape(op.domain)
    out = _space_shape(op.range) if measurement_shape is None else tuple(measurement_shape)
    for given, space, what in ((shape, op.domain, "domain"), (out, op.range, "range")):
        if int(np.prod(given)) != int(np.prod(_space_shape(space))):
            raise InputError(
                f"the operator's {what} has the shape {text_of(_space_shape(space))}, which does not hold"
                f" {text_of(given)}"
            )
    w_x, w_y = _weights(op.domain), _weights(op.range)

    def there(x: np.ndarray) -> np.ndarray:
        return np.stack([_array(op(op.domain.element(v.reshape(domain)))) for v in x])

    def apply_adjoint(adjoint: Any, y: np.ndarray, weighted: bool) -> np.ndarray:
        v = y.reshape(_space_shape(op.range))
        element = op.range.element(v / w_y if weighted else v) if v.shape else float(v / w_y if weighted else v)
        return _array(adjoint(element)) * (w_x if weighted else 1.0)

    def linear(weighted: bool) -> ArrayLinear:
        adjoint = op.adjoint
        return ArrayLinear(there, lambda y: np.stack([apply_adjoint(adjoint, v, weighted) for v in y]), shape, out)

    def smooth(weighted: bool) -> ArrayMap:
        def pull_back(x: np.ndarray, r: np.ndarray) -> np.ndarray:
            at = [op.derivative(op.domain.element(v.reshape(domain))).adjoint for v in x]
            return np.stack([apply_adjoint(a, v, weighted) for a, v in zip(at, r, strict=True)])

        return ArrayMap(there, pull_back, shape, out, features)

    if not op.is_linear and features is None and out != shape:
        raise InputError(
            f"{name_of(op)} is not linear and measures {text_of(out)}, not {text_of(shape)}: give features=, a function"
            f" of y that returns {text_of(shape)}"
        )
    return examine(
        name_of(op), [linear(True), linear(False)] if op.is_linear else [smooth(True), smooth(False)], tolerance
    )


def _space_shape(space: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in getattr(space, "shape", ()))


def _weights(space: Any) -> np.ndarray | float:
    """W of <u, v> = sum W u v, a number or an array that broadcasts to the space's shape."""
    name = f"the space {type(space).__name__}"
    if not getattr(space, "is_real", True) or np.dtype(getattr(space, "dtype", None) or float).kind == "c":
        raise InputError(f"{name} is complex: measure real and imaginary parts as a product of two real spaces")
    weighting: Any = getattr(space, "weighting", None)
    if getattr(weighting, "exponent", 2.0) != 2.0:
        raise InputError(
            f"{name} has the exponent {weighting.exponent}, which has no inner product: give a space of exponent 2"
        )
    if weighting is None:
        own: Any = 1.0
    elif isinstance(getattr(weighting, "const", None), (int, float)):
        own = float(weighting.const)
    elif getattr(weighting, "array", None) is not None:
        own = np.asarray(weighting.array, dtype=float)
    else:
        raise InputError(
            f"{name} is weighted by a {type(weighting).__name__}: only constants and arrays are understood"
        )
    if getattr(space, "is_power_space", False) and hasattr(space, "__len__"):
        rest = (1,) * (len(_space_shape(space)) - 1)
        outer = own if np.ndim(own) == 0 else np.asarray(own).reshape(-1, *rest)
        return outer * np.broadcast_to(_weights(space[0]), _space_shape(space))
    if hasattr(space, "is_power_space") and not space.is_power_space:
        raise InputError(f"{name} is a product of different spaces: wrap the parts one by one")
    return own


def _array(v: Any) -> np.ndarray:
    """An ODL element (or a number) as an array."""
    return np.asarray(v.asarray() if hasattr(v, "asarray") else v, dtype=float)
