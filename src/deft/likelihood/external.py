"""Measurements that another library made, as observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deft._renamed import old_arguments
from deft.core.likelihood import Observation
from deft.core.operator import LinearOperator
from deft.errors import ContractError, InputError
from deft.likelihood.gaussian import Gaussian
from deft.operator.external import from_deepinv
from deft.operator.probing import TOLERANCE
from deft.operator.wrapped import scale_of


@old_arguments(lift="features")
def observation_from_deepinv(
    physics: Any,
    y: Tensor,
    event_shape: Sequence[int] | None = None,
    *,
    settings: Mapping[str, Tensor] | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    features: Callable[[Tensor], Tensor] | None = None,
    surrogate: float = 0.02,
    tolerance: float = TOLERANCE,
) -> Observation:
    """y = `physics(x')` of DeepInverse as an observation of x in [-1, 1], x' = c x + b.

    With c and b from `value_range` ((0, 1): c = b = 1/2) a linear A and noise of deviation sigma give

        (y - A b) / c = A x + (sigma / c) n,

    so y and sigma are converted; a non-linear A is called on c x + b, and y and sigma stay as they are.

    Args:
        physics: with `A(x)` and `noise_model`, Gaussian (its `sigma` a number, or [B] or [B, 1, ...]) or none.
        y: [B, *M].
        event_shape: *E; if not given, the physics' `img_size`, or the shape that `A_adjoint(y)` has.
        settings, value_range, features, tolerance: as for `from_deepinv`.
        surrogate: the deviation that stands in for 0, as for `Gaussian`; in units of the converted y.

    Raises:
        InputError: another noise model, a sensor that quantises or clips, or no event shape to be found.
        ContractError: y is not shaped like A(x).
    """
    shape = _event_shape(physics, y) if event_shape is None else tuple(event_shape)
    op = from_deepinv(
        physics, shape, settings=settings, value_range=value_range, features=features, tolerance=tolerance
    )
    x = torch.zeros(len(y), *shape, dtype=y.dtype, device=y.device)
    clean = op(x)
    if clean.shape != y.shape:
        raise ContractError(
            f"y has shape {tuple(y.shape)}, but A(x) has {tuple(clean.shape)}: is this y of that physics?"
        )
    sensor = getattr(physics, "sensor_model", None)
    if callable(sensor) and not torch.equal(sensor(y * 1.37 + 0.123), y * 1.37 + 0.123):
        raise InputError(
            "the physics has a sensor model (it clips or quantises), which no Gaussian describes: leave it out, or"
            " write a Likelihood"
        )
    sigma = _sigma(getattr(physics, "noise_model", None), len(y))
    if isinstance(op, LinearOperator):
        c, b = scale_of(value_range)
        y, sigma = op.measured_part((y - op(x + b)) / c), sigma / c
    return Observation(y, Gaussian(op, sigma, surrogate=surrogate))


def _event_shape(physics: Any, y: Tensor) -> tuple[int, ...]:
    size = getattr(physics, "img_size", None)
    if size is not None:
        return tuple(int(n) for n in size)
    if callable(getattr(physics, "A_adjoint", None)):
        return tuple(physics.A_adjoint(y[:1]).shape[1:])
    raise InputError(f"{type(physics).__name__} does not say how large its images are: give event_shape=(C, H, W)")


def _sigma(noise: Any, batch: int) -> Tensor:
    """[B] or [1]: the deviation of a Gaussian noise model, by the name of its class: others have a sigma, too."""
    names = {c.__name__ for c in type(noise).__mro__}
    if noise is None or "ZeroNoise" in names:
        return torch.zeros(1)
    if "GaussianNoise" not in names:
        raise InputError(
            f"the physics' noise model is {type(noise).__name__}: only GaussianNoise has a likelihood here; write one"
            " (docs/add-an-operator.md)"
        )
    sigma = torch.as_tensor(noise.sigma, dtype=torch.get_default_dtype()).detach().cpu().reshape(-1)
    if len(sigma) not in (1, batch):
        raise ContractError(f"the noise model has {len(sigma)} deviations for {batch} measurements: give 1 or {batch}")
    return sigma
