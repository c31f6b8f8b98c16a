"""Maps of other libraries as operators: through NumPy on the CPU, or through a DeepInverse physics."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from deft.core.autodiff import pullback
from deft.core.operator import LinearOperator, Operator
from deft.errors import ContractError, InputError
from deft.printing import Printed

Map = Callable[[Tensor], Tensor]
OfPhysics = TypeVar("OfPhysics", bound="PhysicsOperator")


class _Linear(torch.autograd.Function):
    """A linear map whose derivative is its adjoint, and the other way round; any order, forward and reverse."""

    @staticmethod
    def forward(x: Tensor, there: Map, back: Map) -> Tensor:
        return there(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.there, ctx.back = inputs

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return _Linear.apply(g, ctx.back, ctx.there), None, None

    @staticmethod
    def jvp(ctx: Any, d: Tensor, *_: None) -> Tensor:
        return _Linear.apply(d, ctx.there, ctx.back)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None, None], x: Tensor, there: Map, back: Map) -> tuple[Tensor, int]:
        return torch.stack([_Linear.apply(one, there, back) for one in x.unbind(in_dims[0])]), 0


class _Smooth(torch.autograd.Function):
    """A map with a given A'(x)^T r, for code that torch cannot differentiate."""

    @staticmethod
    def forward(x: Tensor, there: Map, back: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return there(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.back = inputs
        ctx.save_for_backward(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(ctx.saved_tensors[0], g), None, None


class Wrapped(LinearOperator):
    """A linear map of another library: `_there` is A, `_back` its transpose, plain functions of batches.

    Automatic differentiation goes through the transpose, not through the foreign code.
    """

    norm2: float = 1.0
    """The largest eigenvalue of A^T A, estimated; sets the damping of `pinv`."""

    @abstractmethod
    def _there(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _back(self, y: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor) -> Tensor:
        return _Linear.apply(x, self._there, self._back)

    def adjoint(self, y: Tensor) -> Tensor:
        return _Linear.apply(y, self._back, self._there)

    def pinv(self, y: Tensor) -> Tensor:
        """A^T (A A^T)^+ y up to a damping of 1e-6 of the largest eigenvalue of A A^T."""
        return self.adjoint(self.solve(y, 1e-6 * self.norm2, 1.0))


class ArrayLinear(Wrapped):
    """A linear map given as two functions of NumPy batches, [B, *E] -> [B, *M] and back.

    Works on the CPU in the functions' own precision; dtype and device of what is given are those of what is returned.
    """

    def __init__(
        self,
        there: Callable[[np.ndarray], Any],
        back: Callable[[np.ndarray], Any],
        event_shape: Sequence[int],
        measurement_shape: Sequence[int],
    ):
        self.event_shape, self.measurement_shape = tuple(event_shape), tuple(measurement_shape)
        self.there, self.back = there, back

    def _there(self, x: Tensor) -> Tensor:
        return _through_numpy(self.there, x, self.event_shape, self.measurement_shape)

    def _back(self, y: Tensor) -> Tensor:
        return _through_numpy(self.back, y, self.measurement_shape, self.event_shape)


class ArrayMap(Operator):
    """A smooth map given as functions of NumPy batches: A(x) and A'(x)^T r."""

    kept_as: ClassVar = {"features": "_features"}

    def __init__(
        self,
        there: Callable[[np.ndarray], Any],
        pull_back: Callable[[np.ndarray, np.ndarray], Any],
        event_shape: Sequence[int],
        measurement_shape: Sequence[int],
        features: Map | None,
    ):
        self.event_shape, self.measurement_shape, self._features = (
            tuple(event_shape),
            tuple(measurement_shape),
            features,
        )
        self.there, self.pull_back = there, pull_back

    def __call__(self, x: Tensor) -> Tensor:
        return _Smooth.apply(x, self._there, self.vjp)

    def _there(self, x: Tensor) -> Tensor:
        return _through_numpy(self.there, x, self.event_shape, self.measurement_shape)

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        at = _to_numpy(x, self.event_shape)
        return _through_numpy(lambda a: self.pull_back(at, a), r, self.measurement_shape, self.event_shape)

    def features(self, y: Tensor) -> Tensor:
        return y if self._features is None else self._features(y)


class Physics(Printed):
    """A DeepInverse physics with the settings of each sample; calls without noise, in the physics' own precision."""

    def __init__(self, physics: Any, settings: Mapping[str, Tensor]):
        self.physics, self.settings = physics, dict(settings)

    @property
    def own(self) -> Tensor | None:
        """A tensor of the physics' device and precision, if it holds any beside its noise model's."""
        found = []
        for kind in ("named_parameters", "named_buffers"):
            found += [v for k, v in getattr(self.physics, kind, list)() if not k.startswith("noise_model.")]
        return next((v for v in found if v.is_floating_point()), None)

    def call(self, name: str, v: Tensor) -> Tensor:
        own = self.own
        out = getattr(self.physics, name)(v if own is None else v.to(own.dtype), **self.settings)
        if not isinstance(out, Tensor):
            raise ContractError(
                f"{name_of(self.physics)}.{name} returned a {type(out).__name__}, expected a tensor: wrap the parts of"
                " a stacked physics one by one"
            )
        if out.is_complex():
            raise ContractError(
                f"{name_of(self.physics)}.{name} returned complex numbers: measure their real and imaginary parts as"
                " two channels"
            )
        return out.to(v.dtype)

    def changed(self, change: Map) -> Physics:
        return Physics(self.physics, {k: v if v.shape[0] == 1 else change(v) for k, v in self.settings.items()})

    def to(self, device: torch.device | str) -> Physics:
        physics = self.physics
        own = self.own
        if own is not None and own.device != torch.device(device):
            # a copy: the caller's own object stays where it is. Its clone() also copies random generators
            physics = (physics.clone() if callable(getattr(physics, "clone", None)) else copy.deepcopy(physics)).to(
                device
            )
        return Physics(physics, {k: v.to(device) for k, v in self.settings.items()})


class PhysicsOperator(Operator):
    """What wrapped physics share: the settings of each sample follow the batch."""

    model: Physics

    def setting_rows(self) -> int:
        return max([len(v) for v in self.model.settings.values()], default=1)

    def _with(self: OfPhysics, model: Physics) -> OfPhysics:
        out = copy.copy(self)
        out.model = model
        return out

    def __getitem__(self: OfPhysics, index: Any) -> OfPhysics:
        return self._with(self.model.changed(lambda v: v[index]))

    def repeat(self: OfPhysics, n: int) -> OfPhysics:
        return self._with(self.model.changed(lambda v: v.repeat_interleave(n, 0)))

    def to(self: OfPhysics, device: torch.device | str) -> OfPhysics:
        return self._with(self.model.to(device))


class PhysicsLinear(PhysicsOperator, Wrapped):
    """A linear DeepInverse physics; see `from_deepinv`."""

    def __init__(self, model: Physics, event_shape: Sequence[int], has_adjoint: bool):
        self.model, self.event_shape, self.has_adjoint, self._has_pinv = model, tuple(event_shape), has_adjoint, False

    def _there(self, x: Tensor) -> Tensor:
        return self.model.call("A", x)

    def _back(self, y: Tensor) -> Tensor:
        if self.has_adjoint:
            return self.model.call("A_adjoint", y)
        zero = torch.zeros(y.shape[0], *self.event_shape, dtype=y.dtype, device=y.device)
        return pullback(self._there, zero, y)

    def pinv(self, y: Tensor) -> Tensor:
        """The physics' A_dagger if it was found to be the pseudo-inverse, else conjugate gradients."""
        return self.model.call("A_dagger", y) if self._has_pinv else super().pinv(y)


class PhysicsMap(PhysicsOperator):
    """A non-linear DeepInverse physics A(c x + b), c and b from its value range; see `from_deepinv`."""

    kept_as: ClassVar = {"features": "_features"}

    def __init__(
        self, model: Physics, event_shape: Sequence[int], value_range: tuple[float, float], features: Map | None
    ):
        self.model, self.event_shape, self._features = model, tuple(event_shape), features
        self.value_range = value_range
        self._c, self._b = scale_of(value_range)

    def __call__(self, x: Tensor) -> Tensor:
        return self.model.call("A", self._c * x + self._b)

    def features(self, y: Tensor) -> Tensor:
        return y if self._features is None else self._features(y)


def scale_of(value_range: tuple[float, float]) -> tuple[float, float]:
    """(c, b) with theirs = c x + b for x in [-1, 1]."""
    low, high = (float(v) for v in value_range)
    if not low < high:
        raise InputError(f"value_range must be two rising numbers, what stood for -1 and for 1; got {value_range}")
    return (high - low) / 2, (high + low) / 2


def _to_numpy(v: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    if v.shape[1:] != shape:
        raise ContractError(f"the operator was given {text_of(v.shape)}, expected a batch of {text_of(shape)}")
    kept = v.dtype if v.dtype in (torch.float32, torch.float64) else torch.float32  # NumPy knows no bfloat16
    return v.detach().to("cpu", kept).numpy()


def _through_numpy(
    function: Callable[[np.ndarray], Any], v: Tensor, shape: tuple[int, ...], out: tuple[int, ...]
) -> Tensor:
    result = np.ascontiguousarray(function(_to_numpy(v, shape)))
    return torch.from_numpy(result).reshape(v.shape[0], *out).to(v)


def name_of(thing: Any) -> str:
    return type(thing).__name__


def text_of(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a number"
