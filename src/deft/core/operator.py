"""Operators: the noiseless part of a measurement, y = A(x).

An operator may carry one setting per sample (a mask each, say). Such tensors are named in `per_sample`, have
the batch as their first axis (or 1 to be shared), and follow the batch when an observation is indexed.

What an operator is given is checked before its own code sees it, here and for every subclass (`Operator._check_array`):
a real floating-point tensor, with as many axes as the operator says it takes (`sample_axes`, `measured_axes`), and rows
that go with its settings. PyTorch would broadcast or average where an axis is missing, and the result would look right.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from deft._renamed import Renamed, old_arguments
from deft.core.autodiff import pullback
from deft.errors import ContractError, InputError
from deft.printing import Printed

Self = TypeVar("Self", bound="Operator")


SAMPLES, MEASUREMENTS = "x", "y"
ARGUMENTS = {
    "__call__": (SAMPLES,),
    "adjoint": (MEASUREMENTS,),
    "features": (MEASUREMENTS,),
    "pinv": (MEASUREMENTS,),
    "start": (MEASUREMENTS,),
    "picture": (MEASUREMENTS,),
    "measured_part": (MEASUREMENTS,),
    "number_of_measurements": (MEASUREMENTS,),
    "solve": (MEASUREMENTS,),
    "vjp": (SAMPLES, MEASUREMENTS),
    "approx_mean_update": (SAMPLES, MEASUREMENTS),
    "mean_update": (SAMPLES, MEASUREMENTS),
}
"""Which of an operator's methods take samples or measurements first: these arguments are checked."""


def _checked(method: Callable[..., Any], kinds: tuple[str, ...]) -> Callable[..., Any]:
    """The method, which looks at its first arguments before it runs."""

    @functools.wraps(method)
    def run(self: Operator, *args: Any, **more: Any) -> Any:
        for kind, value in zip(kinds, args, strict=False):
            self._check_array(kind, value)
        return method(self, *args, **more)

    return run


class Operator(Renamed, Printed, ABC):
    """A map from samples [B, *E] to measurements [B, *M].

    >>> import deft
    >>> class Square(deft.Operator):
    ...     def __call__(self, x):
    ...         return x**2
    ...     def features(self, y):
    ...         return y.clamp_min(0).sqrt()
    >>> obs = deft.Observation(torch.full((1, 2), 4.0), deft.Gaussian(Square(), 0.5))
    >>> obs.score(torch.ones(1, 2))
    tensor([[24., 24.]])
    """

    per_sample: ClassVar[tuple[str, ...]] = ()
    sample_shaped: ClassVar[tuple[str, ...]] = ()
    """Those of `per_sample` that have the axes of a batch of samples: a mask over pixels."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Those of `per_sample` that are set, not drawn: no part of what tells one measurement from another."""
    sample_axes: ClassVar[str] = ""
    """The axes of a batch of samples, for an operator that takes no other number of them: "B, C, H, W". Checked at
    every call."""
    measured_axes: ClassVar[str] = ""
    """The same of a batch of measurements."""

    _compose: ClassVar[Callable[[Any, Any], Any]]  # `deft.operator.composed` sets it

    projection: ClassVar[bool] = False
    """Whether A is linear with A = A^T = A A: y has the shape of x. Where a prior's samples live in a subspace
    (`Denoiser.project`), A's range must lie in it. Tested too."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, kinds in ARGUMENTS.items():
            method = vars(cls).get(name)
            if callable(method) and not getattr(method, "__isabstractmethod__", False):
                setattr(cls, name, _checked(method, kinds))

    def _check_array(self, kind: str, value: Any) -> None:
        """Refuse what is no real floating-point tensor of this operator's axes, with rows for its settings (a
        `ContractError`)."""
        name, what = type(self).__name__, "samples x" if kind == SAMPLES else "measurements y"
        if not isinstance(value, Tensor):
            found = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
            raise ContractError(f"{name} takes {what} as a torch tensor, got a {found}: give torch.as_tensor(...)")
        shape = tuple(value.shape)
        if not value.is_floating_point():
            way = "convert them to the prior's range as floats"
            if value.is_complex():
                way = "give the real and the imaginary parts as channels, torch.cat([y.real, y.imag], 1)"
            dtype = str(value.dtype).removeprefix("torch.")
            raise ContractError(
                f"{name} takes {what} as real floating-point numbers, got {dtype} of shape {shape}: {way}"
            )
        axes = self.sample_axes if kind == SAMPLES else self.measured_axes
        count = axes.count(",") + 1
        if axes and value.ndim != count:
            way = "keep every axis, one of size 1 too" if value.ndim < count else "leave the extra axes out"
            raise ContractError(f"{name} takes {what} of {count} axes [{axes}], got shape {shape}: {way}")
        for setting in self.per_sample:
            rows = getattr(self, setting).shape[0]
            if rows != 1 and shape[0] not in (1, rows):  # one sample for all rows is a broadcast that is meant
                setting = setting.strip("_")
                raise ContractError(
                    f"{name} holds the {setting} of {rows} samples, got {shape[0]} {what}: index it, op[i]"
                )
        (self._check_sample if kind == SAMPLES else self._check_measurement)(value)

    def _check_sample(self, x: Tensor) -> None:
        """More than the number of axes, for an operator that knows more."""

    def _check_measurement(self, y: Tensor) -> None:
        """The same of measurements."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A(x), [B, *M]."""

    @abstractmethod
    def features(self, y: Tensor) -> Tensor:
        """What a network is shown of y: sample-shaped channels [B, feature_channels * E_0, ...]."""

    feature_channels: int = 1
    """How many times the sample's own channels `features` returns."""

    def pinv(self, y: Tensor) -> Tensor:
        """Some x with A(x) near y, [B, *E].

        For a linear A the pseudo-inverse; a non-linear one says in its docstring what it returns.
        """
        raise InputError(f"{type(self).__name__} has no (pseudo-)inverse: a method that needs one cannot use it")

    def start(self, y: Tensor) -> Tensor:
        """Where an optimiser starts, [B, *E]: `pinv`, unless that makes noise of the noise in y."""
        return self.pinv(y)

    def picture(self, y: Tensor) -> Tensor:
        """y for people to look at, shaped like a sample, [B, *E]: y itself if it is, else what `pinv` makes of it."""
        x = self.pinv(y)
        return y if y.shape == x.shape else x

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """A'(x)^T r, [B, *E]: by automatic differentiation unless a subclass knows better."""
        return pullback(self, x, r)

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """How far a belief N(x, rho2 I) moves when updated by the residual r = y - A(x) of noise variance `noise`.

        Here, for lack of better: one gradient step rho2 A'^T r / noise, no longer than 3 rho (root mean square).
        """
        move = rho2 * self.vjp(x, r / noise)
        rms = move.flatten(1).square().mean(1).sqrt().reshape((-1,) + (1,) * (x.ndim - 1))
        return move / (rms / (3 * rho2.sqrt())).clamp_min(1.0)

    def mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """The posterior mean of the belief N(x, rho2 I) given y with residual r = y - A(x), less x: what a method's
        definition asks for.

        Exact for every linear A (`LinearOperator.mean_update`). For others it is `approx_mean_update`, a bounded step
        downhill: what the minimum of a non-linear problem is, no closed form says. `approx_mean_update` may also be
        cheaper than exact where A is linear (`Radon`): it is what learned h are shown, and stays as it was when they
        were fitted.

        Args:
            x, r: [B, *E] and [B, *M]. noise, rho2: variances, [B, 1, ...] or of one row.
        """
        return self.approx_mean_update(x, r, noise, rho2)

    def measured_part(self, y: Tensor) -> Tensor:
        """y with the entries that are no measurement (a mask's hole) set to zero."""
        return y

    def number_of_measurements(self, y: Tensor) -> Tensor:
        """How many numbers were measured, [B]."""
        return torch.full((y.shape[0],), float(y[0].numel()), dtype=y.dtype, device=y.device)

    def drawn(self, settings: bool = True) -> list[tuple[str, Tensor]]:
        """(name, tensor) of what belongs to single measurements: `per_sample`, but for what is computed from it, and
        that of an operator inside.
        settings: `settings` too."""
        names = [k for k in self.per_sample if not k.startswith("_") and (settings or k not in self.settings)]
        found = [(k, v) for k in names if isinstance(v := getattr(self, k, None), Tensor)]
        return found + [pair for part in self.made_of() for pair in part.drawn(settings)]

    def made_of(self) -> tuple[Operator, ...]:
        """The operators that this one is made of, whose settings are its own."""
        inner = getattr(self, "operator", None)
        return (inner,) if isinstance(inner, Operator) else ()

    def setting_rows(self) -> int:
        """How many samples its settings are for; 1: they are shared, or there are none."""
        own = [getattr(self, k).shape[0] for k in self.per_sample]
        return max(own + [part.setting_rows() for part in self.made_of()], default=1)

    def __matmul__(self, inner: Operator) -> Operator:
        """`A @ B`: x -> A(B(x)), first B, then A (`deft.operator.composed`)."""
        composed: Operator = self._compose(inner)
        return composed

    def _map(self: Self, change: Callable[[Tensor], Tensor], names: tuple[str, ...]) -> Self:
        out = copy.copy(self)
        if names:
            out.__dict__.pop("_spectra", None)  # of other rows
        for name in names:
            setattr(out, name, change(getattr(self, name)))
        return out

    def __getitem__(self: Self, index: Any) -> Self:
        return self._map(lambda v: v if v.shape[0] == 1 else v[index], self.per_sample)

    def repeat(self: Self, n: int) -> Self:
        return self._map(lambda v: v if v.shape[0] == 1 else v.repeat_interleave(n, 0), self.per_sample)

    def to(self: Self, device: torch.device | str) -> Self:
        tensors = tuple(k for k, v in vars(self).items() if isinstance(v, Tensor))
        return self._map(lambda v: v.to(device), tensors)


class Spectrum(NamedTuple):
    """The singular value decomposition A = U S V^T, as functions; K indexes a whole orthonormal basis of sample space.

    values: singular values, [B or 1, *K], 0 where A sees nothing.
    analyse: V^T x, [B, *E] -> [B, *K]. synthesise: V c, the way back.
    measured: S^+ U^T y, [B, *M] -> [B, *K], 0 where `values` is: its noise has deviation sigma_y / values.
    """

    values: Tensor
    analyse: Callable[[Tensor], Tensor]
    synthesise: Callable[[Tensor], Tensor]
    measured: Callable[[Tensor], Tensor]


class LinearOperator(Operator):
    """A linear A, with its adjoint and the two solves that guidance needs.

    Every subclass is tested for <Ax, y> = <x, A^T y> (`deft.testing.check_operator`).

    >>> import deft
    >>> class Difference(deft.LinearOperator):
    ...     def __call__(self, x):
    ...         return x[:, 1:] - x[:, :-1]
    ...     def adjoint(self, y):
    ...         return torch.nn.functional.pad(y, (1, 0)) - torch.nn.functional.pad(y, (0, 1))
    >>> deft.testing.check_operator(Difference(), (5,))
    >>> Difference().pinv(torch.tensor([[1.0, 1.0]]))
    tensor([[-1.0000,  0.0000,  1.0000]])
    """

    orthogonal_rows: float | None = None
    """c where A A^T = c I over all of y, else None: `B @ A` then has closed forms where B does. Tested."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, [B, *E]."""

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        """(noise I + gram A A^T)^{-1} r, [B, *M]; noise, gram: numbers or [B, 1, ...]. Conjugate gradients."""
        return conjugate_gradient(lambda v: noise * v + gram * self(self.adjoint(v)), r)

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        return self.adjoint(r)

    def mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """rho2 A^T (noise I + rho2 A A^T)^{-1} r: exact for a Gaussian belief and Gaussian noise."""
        return rho2 * self.adjoint(self.solve(r, noise, rho2.reshape((-1,) + (1,) * (r.ndim - 1))))

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """`mean_update`, unless a subclass has a cheaper step for learned h."""
        return self.mean_update(x, r, noise, rho2)

    def pinv(self, y: Tensor) -> Tensor:
        """A^T (A A^T)^+ y, the shortest x with Ax = y (here up to a relative 1e-6 of damping)."""
        return self.adjoint(self.solve(y, 1e-6, 1.0))

    def features(self, y: Tensor) -> Tensor:
        return self.pinv(y)

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """The singular value decomposition on samples of this shape, in the dtype and on the device of `like`.

        Here from the dense matrix, for at most `DENSE` numbers a sample; subclasses with a closed form do better.
        """
        d = math.prod(event_shape)
        if d > DENSE:
            raise InputError(
                f"{type(self).__name__} has no closed-form singular values, and samples of {d} numbers are too many for"
                f" a dense matrix (at most {DENSE})"
            )
        key = (tuple(event_shape), like.dtype, like.device)
        known = self.__dict__.setdefault("_spectra", {})
        if key not in known:
            known[key] = dense_spectrum(self, tuple(event_shape), like)
        return known[key]


DENSE = 4096
"""Most numbers a sample may have for its operator to be written out as a matrix."""


def dense_spectrum(op: LinearOperator, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
    """`Spectrum` by writing A out as a matrix, [B or 1, m, d]."""
    d = math.prod(event_shape)
    units = torch.eye(d, dtype=torch.float64, device=like.device).reshape(d, *event_shape)
    rows = op.setting_rows()
    one = [op if rows == 1 else op[i : i + 1] for i in range(rows)]
    matrix = torch.stack([torch.cat([o(u) for u in units.split(256)]).flatten(1).mT for o in one])
    u, s, vh = torch.linalg.svd(matrix, full_matrices=True)
    s = torch.where(s > 1e-9 * s.amax(-1, keepdim=True), s, 0.0)
    values = torch.cat([s, s.new_zeros(rows, d - s.shape[1])], 1) if s.shape[1] < d else s
    inverse = torch.where(s > 0, 1 / s.clamp_min(1e-300), 0.0)
    values, vh, back = (
        values.to(like.dtype),
        vh.to(like.dtype),
        (inverse[..., None] * u[..., : s.shape[1]].mT).to(like.dtype),
    )

    def measured(y: Tensor) -> Tensor:
        c = (back @ y.flatten(1)[..., None])[..., 0]
        return torch.nn.functional.pad(c, (0, d - c.shape[1]))

    return Spectrum(
        values,
        lambda x: (vh @ x.flatten(1)[..., None])[..., 0],
        lambda c: (vh.mT @ c[..., None])[..., 0].reshape(-1, *event_shape),
        measured,
    )


@old_arguments(most="max_iterations")
def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tolerance: float = 1e-6,
    max_iterations: int = 500,
    precondition: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Solve apply(x) = b for a symmetric positive definite map, each sample on its own (Hestenes & Stiefel 1952).

    tolerance: of the residual, relative to b, at which a sample is left alone. max_iterations: steps. precondition:
    about the inverse of `apply`, symmetric positive definite as well.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1).reshape(-1, *[1] * (b.ndim - 1))

    tiny = torch.finfo(b.dtype).tiny
    x, r = torch.zeros_like(b), b
    z = r if precondition is None else precondition(r)
    p, rr, rz = z, dot(r, r), dot(r, z)
    stop = tolerance**2 * rr
    for i in range(max_iterations):
        active = rr > stop
        if (b.device.type == "cpu" or i % 8 == 7) and not bool(active.any()):  # a GPU has to finish before it says
            break
        q = apply(p)
        curvature = dot(p, q)
        step = torch.where(active & (curvature > 0), rz / curvature.clamp_min(tiny), 0.0)
        x, r = x + step * p, r - step * q
        z = r if precondition is None else precondition(r)
        new = dot(r, z)
        p = z + torch.where(active, new / rz.clamp_min(tiny), 0.0) * p
        rr, rz = torch.where(active, dot(r, r), rr), torch.where(active, new, rz)
    return x
