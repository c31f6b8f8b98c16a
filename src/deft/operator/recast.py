"""An operator whose measurements are written in another convention: other units, another order, another phase.

    y' = scale R y,    R orthonormal: a permutation of y's entries, changes of sign, a phase at each frequency

so that A' = scale R A, and everything else follows from A's own: A'^T = scale A^T R^T, A'^+ = A^+ R^T / scale. The
noise of y' is that of y times `scale`. A network is shown the same as for A.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deft.core.operator import LinearOperator, Operator, Spectrum
from deft.errors import InputError, unknown
from deft.operator.basic import Around

NORMS = ("ortho", "backward", "forward")
ORIGINS = ("corner", "middle")


class Convention(ABC):
    """R and its inverse, for measurements [B, *M]; and the scale."""

    @abstractmethod
    def scale(self, y: Tensor) -> float:
        """One number, from the shape of y alone."""

    @abstractmethod
    def there(self, y: Tensor) -> Tensor:
        """R y: from the operator's own convention."""

    @abstractmethod
    def back(self, y: Tensor) -> Tensor:
        """R^T y: to the operator's own convention."""


def _scale(norm: str, y: Tensor) -> float:
    """What a transform of this norm is, next to the orthonormal one, for y with H x W frequencies."""
    n = math.sqrt(y.shape[-2] * y.shape[-1])
    return {"ortho": 1.0, "backward": n, "forward": 1 / n}[norm]


@dataclass(frozen=True)
class KSpace(Convention):
    """Real and imaginary parts [B, 2C, H, W] of a Fourier transform, next to those of `MaskedFourier`.

    centred: zero frequency at (H // 2, W // 2); False: at (0, 0), as `fft2` leaves it.
    norm: as NumPy and PyTorch name it: "ortho", "backward" (plain sums), "forward" (sums divided by H W).
    origin: the image's pixel that has phase 0, "corner" (0, 0), as `fft2` takes it, or "middle" (H // 2, W // 2):
        fastMRI's fft2c, sigpy.
    sign: of the exponent, -1 as `fft2`, or 1.
    """

    centred: bool = True
    norm: str = "ortho"
    origin: str = "corner"
    sign: int = -1

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", str(self.norm), NORMS)
        if self.origin not in ORIGINS:
            raise unknown("origin", str(self.origin), ORIGINS)
        if self.sign not in (-1, 1):
            raise InputError(f"the sign of the exponent is -1 or 1, got {self.sign}")

    def scale(self, y: Tensor) -> float:
        return _scale(self.norm, y)

    def _turn(self, y: Tensor) -> Tensor:
        """exp(2 pi i (k_1 (H // 2) / H + k_2 (W // 2) / W)), zero frequency in the middle, [H, W]: what moves the
        origin."""
        along = []
        for n in y.shape[-2:]:
            k = torch.arange(n, dtype=torch.float64, device=y.device) - n // 2
            along.append(2 * math.pi * ((k * (n // 2)) % n) / n)
        angle = along[0][:, None] + along[1]
        return torch.polar(torch.ones_like(angle), angle).to(torch.complex(y.new_zeros(()), y.new_zeros(())).dtype)

    def _turned(self, y: Tensor, inverse: bool) -> Tensor:
        if self.origin == "corner":
            return y
        turn = self._turn(y)
        f = torch.complex(*y.chunk(2, 1)) * (turn.conj() if inverse else turn)
        return torch.cat([f.real, f.imag], 1)

    def _conjugate(self, y: Tensor) -> Tensor:
        """For a real image the transform of the other sign is the complex conjugate."""
        if self.sign == -1:
            return y
        real, imaginary = y.chunk(2, 1)
        return torch.cat([real, -imaginary], 1)

    def there(self, y: Tensor) -> Tensor:
        y = self._conjugate(self._turned(y, False))
        return y if self.centred else torch.fft.ifftshift(y, (-2, -1))

    def back(self, y: Tensor) -> Tensor:
        y = y if self.centred else torch.fft.fftshift(y, (-2, -1))
        return self._turned(self._conjugate(y), True)


@dataclass(frozen=True)
class Magnitudes(Convention):
    """Magnitudes of a Fourier transform, next to those of `PhaseRetrieval`.

    shifted: zero frequency in the middle, not at (0, 0). norm: as in `KSpace`. intensity: squares of magnitudes.
    """

    shifted: bool = False
    norm: str = "ortho"
    intensity: bool = False

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise unknown("norm", str(self.norm), NORMS)

    def scale(self, y: Tensor) -> float:
        return _scale(self.norm, y) ** (2 if self.intensity else 1)

    def there(self, y: Tensor) -> Tensor:
        return torch.fft.fftshift(y, (-2, -1)) if self.shifted else y

    def back(self, y: Tensor) -> Tensor:
        return torch.fft.ifftshift(y, (-2, -1)) if self.shifted else y


class Recast(Around):
    """An operator in another convention; see the module."""

    def __init__(self, operator: Operator, convention: Convention):
        self.operator, self.convention, self.feature_channels = operator, convention, operator.feature_channels

    def __getattr__(self, name: str) -> Any:
        """What the operator was drawn with (`mask`, `coils`), frequencies in the order of this convention."""
        if name in ("mask", "coils") and "operator" in vars(self):
            held = getattr(self.operator, name)
            return torch.cat([self._reorder(held[:, :1]), held[:, 1:]], 1)
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def _check_array(self, kind: str, value: Any) -> None:
        self.operator._check_array(kind, value)

    def _reorder(self, mask: Tensor) -> Tensor:
        centred = getattr(self.convention, "centred", True)
        return mask if centred else torch.fft.ifftshift(mask, (-2, -1))

    def _own(self, y: Tensor) -> Tensor:
        """The measurement in the operator's own convention."""
        return self.convention.back(y) / self.convention.scale(y)

    def __call__(self, x: Tensor) -> Tensor:
        y = self.operator(x)
        return self.convention.scale(y) * self.convention.there(y)

    def features(self, y: Tensor) -> Tensor:
        return self.operator.features(self._own(y))

    def pinv(self, y: Tensor) -> Tensor:
        return self.operator.pinv(self._own(y))

    def start(self, y: Tensor) -> Tensor:
        return self.operator.start(self._own(y))

    def picture(self, y: Tensor) -> Tensor:
        return self.operator.picture(self._own(y))

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        return self.convention.scale(r) * self.operator.vjp(x, self.convention.back(r))

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        return self.operator.approx_mean_update(x, self._own(r), noise / self.convention.scale(r) ** 2, rho2)

    def mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        return self.operator.mean_update(x, self._own(r), noise / self.convention.scale(r) ** 2, rho2)

    def measured_part(self, y: Tensor) -> Tensor:
        return self.convention.there(self.operator.measured_part(self.convention.back(y)))

    def number_of_measurements(self, y: Tensor) -> Tensor:
        return self.operator.number_of_measurements(self.convention.back(y))


class RecastLinear(Recast, LinearOperator):
    """A linear one."""

    operator: LinearOperator

    def adjoint(self, y: Tensor) -> Tensor:
        return self.convention.scale(y) * self.operator.adjoint(self.convention.back(y))

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        scale = self.convention.scale(r)
        return self.convention.there(self.operator.solve(self.convention.back(r), noise, scale**2 * gram))

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        own = self.operator.spectrum(event_shape, like)
        y = self.operator(like.new_zeros(1, *event_shape))
        return own._replace(values=self.convention.scale(y) * own.values, measured=lambda y: own.measured(self._own(y)))


def recast(operator: Operator, convention: Convention) -> Operator:
    """The operator in a convention; the operator itself where that is its own."""
    if convention == type(convention)() or convention == Magnitudes(intensity=True):
        return operator
    return RecastLinear(operator, convention) if isinstance(operator, LinearOperator) else Recast(operator, convention)
