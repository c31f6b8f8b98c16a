"""Magnetic resonance imaging with several coils, or with one image whose phase is known."""

from __future__ import annotations

import torch
from torch import Tensor

from deft.core.operator import LinearOperator, conjugate_gradient
from deft.core.random import BatchNoise, Noise
from deft.errors import ContractError, InputError
from deft.operator.wrapped import _Linear


class CoilFourier(LinearOperator):
    """y_c = M F (s_c x): frequencies of a real image x seen through known complex sensitivities s_c, one for each coil.

    The encoding of SENSE (Pruessmann et al. 1999).

    A real image has no phase; what it is multiplied with may have one. One coil with s = exp(i phase) is an image of
    known phase. y [B, 2 coils, H, W] holds the real parts of all coils, then the imaginary ones, of the orthonormal
    transform, zero frequency in the middle, 0 where not sampled. With one coil and s = 1 that is `MaskedFourier`'s y
    (which keeps the imaginary part of frequencies that are their own mirror images at zero; here it is measured).

        A^T y = sum over c of Re(conj(s_c) F^H M y_c)

    A network is shown A^T y / sum |s_c|^2, the zero-filled image.

    Args:
        coils: [B or 1, 1 + 2 coils, H, W]: the mask of 1 (sampled) and 0, the real parts of s, the imaginary ones.
    """

    per_sample = ("coils",)
    sample_axes = measured_axes = "B, C, H, W"

    def __init__(self, coils: Tensor):
        if coils.ndim != 4 or coils.shape[1] < 3 or coils.shape[1] % 2 == 0:
            raise ContractError(
                "CoilFourier needs [B or 1, 1 + 2 coils, H, W] (mask, real parts, imaginary parts of the "
                f"sensitivities), got shape {tuple(coils.shape)}"
            )
        mask = coils[:, :1]
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ContractError("the first channel of coils is the mask: 1 (sampled) and 0 alone")
        if not bool((coils[:, 1:].square().flatten(1).sum(1) > 0).all()):
            raise ContractError("the sensitivities of a sample are all 0: no coil sees anything")
        self.coils = coils.to(torch.get_default_dtype())

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mask [B, 1, H, W], real and imaginary parts of s [B, coils, H, W]."""
        n = self.coils.shape[1] // 2
        mask, real, imaginary = self.coils.split((1, n, n), 1)
        return mask, real, imaginary

    def _check_sample(self, x: Tensor) -> None:
        if x.shape[1] != 1 or x.shape[2:] != self.coils.shape[2:]:
            raise ContractError(
                f"CoilFourier takes grey images [B, 1, {self.coils.shape[2]}, {self.coils.shape[3]}], got shape "
                f"{tuple(x.shape)}"
            )

    def _check_measurement(self, y: Tensor) -> None:
        if y.shape[1] != self.coils.shape[1] - 1 or y.shape[2:] != self.coils.shape[2:]:
            wanted = ", ".join(map(str, (self.coils.shape[1] - 1, *self.coils.shape[2:])))
            raise ContractError(
                f"CoilFourier with {self.coils.shape[1] // 2} coils makes y [B, {wanted}], got shape {tuple(y.shape)}"
            )

    def __call__(self, x: Tensor) -> Tensor:
        mask, real, imaginary = (v.to(x.dtype) for v in self._parts)
        f = torch.fft.fftshift(torch.fft.fft2(torch.complex(real * x, imaginary * x), norm="ortho"), (2, 3))
        return mask * torch.cat([f.real, f.imag], 1)

    def adjoint(self, y: Tensor) -> Tensor:
        _, real, imaginary = (v.to(y.dtype) for v in self._parts)
        f = torch.complex(*self.measured_part(y).chunk(2, 1))
        u = torch.fft.ifft2(torch.fft.ifftshift(f, (2, 3)), norm="ortho")
        return (real * u.real + imaginary * u.imag).sum(1, keepdim=True)

    def measured_part(self, y: Tensor) -> Tensor:
        return self._parts[0].to(y.dtype) * y

    def number_of_measurements(self, y: Tensor) -> Tensor:
        return self._parts[0].to(y.dtype).expand(len(y), *y.shape[1:]).flatten(1).sum(1)

    def pinv(self, y: Tensor) -> Tensor:
        """argmin |A x - y|^2 + 1e-9 |x|^2, by conjugate gradients on images. Of a noisy y take `features`."""
        return conjugate_gradient(lambda v: 1e-9 * v + self.adjoint(self(v)), self.adjoint(y), tolerance=1e-9)

    def mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """rho2 (noise I + rho2 A^T A)^{-1} A^T r, by conjugate gradients on images: a third of the time of solving for
        the frequencies of all coils. Differentiable in r, by the same solve."""

        def inverse(v: Tensor) -> Tensor:
            return rho2 * conjugate_gradient(lambda u: noise * u + rho2 * self.adjoint(self(u)), v)

        return _Linear.apply(r, lambda v: inverse(self.adjoint(v)), lambda v: self(inverse(v)))

    def features(self, y: Tensor) -> Tensor:
        """The zero-filled image, A^T y / sum |s_c|^2."""
        total = self.coils[:, 1:].to(y.dtype).square().sum(1, keepdim=True)
        floor = 1e-3 * total.amax((2, 3), keepdim=True)
        return self.adjoint(y) / torch.maximum(total, floor)

    def start(self, y: Tensor) -> Tensor:
        return self.features(y)

    def picture(self, y: Tensor) -> Tensor:
        return self.features(y)


def smooth_coils(noise: Noise | BatchNoise, height: int, width: int, coils: int) -> Tensor:
    """Sensitivities drawn at random, [B, coils, H, W] complex with sum |s_c|^2 = 1: bumps with slow phases.

    For training where the scanner's own are not at hand. One coil: magnitude 1 everywhere, a slow phase.
    """
    if coils < 1:
        raise InputError(f"smooth_coils needs at least 1 coil, got {coils}")
    u = noise.uniform((coils, 6))
    rows, columns = (torch.linspace(-1, 1, n) for n in (height, width))
    turn = 2 * torch.pi * (torch.arange(coils)[:, None] + u[..., 0].mT) / coils  # [coils, B]
    far = (rows[:, None] - 1.1 * turn.sin()[..., None, None]) ** 2 + (columns - 1.1 * turn.cos()[..., None, None]) ** 2
    size = (-0.5 * far).exp().transpose(0, 1)  # [B, coils, H, W]
    a, b, c, d = (2 * u[..., 1 + i, None, None] - 1 for i in range(4))
    phase = torch.pi * (a + 0.5 * b * rows[:, None] + 0.5 * c * columns + 0.25 * d * rows[:, None] * columns)
    size = size / size.square().sum(1, keepdim=True).sqrt()
    return torch.polar(size, phase)
