"""A sound at a lower rate: its low frequencies alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deft.core.operator import LinearOperator, Spectrum
from deft.errors import ContractError, InputError


class Decimation(LinearOperator):
    """A sound of L samples as one of M = L / factor: the low frequencies of its discrete Fourier transform.

    With X = F x and Y = F y, the transforms of both lengths without a factor,

        Y(k) = X(k) / factor                            for |k| < M/2,
        Y(M/2) = sqrt(2) Re X(M/2) / factor,

    that is `scipy.signal.resample(x, M)`, but that its Nyquist frequency is divided by sqrt(2): all rows are then
    orthogonal and equally long, A A^T = I / factor, and every solve is a closed form. The window is taken for a circle,
    as a Fourier transform takes it: its ends should be silent, or alike.

    Args:
        factor: L / M.

    Raises (when called): ContractError for sounds that are no [B, C, L] with L a multiple of twice the factor.

    >>> x = torch.sin(2 * math.pi * torch.arange(16.0) / 16).reshape(1, 1, 16)
    >>> torch.allclose(Decimation(2)(x), x[..., ::2], atol=1e-6)
    True
    """

    sample_axes = measured_axes = "B, C, L"

    def __init__(self, factor: int = 4):
        if factor < 2:
            raise InputError(f"Decimation needs a factor of at least 2, got {factor}")
        self.factor = factor
        self.orthogonal_rows = 1 / factor

    def _check(self, length: int) -> None:
        if length % (2 * self.factor):
            raise ContractError(f"sounds of {length} samples are no multiple of twice the factor {self.factor}")

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x.shape[-1])
        m = x.shape[-1] // self.factor
        low = torch.fft.rfft(x)[..., : m // 2 + 1]
        return torch.fft.irfft(low * _nyquist(low, math.sqrt(2)), m) / self.factor

    def pinv(self, y: Tensor) -> Tensor:
        """The sound without what was lost: y between its samples, as its own frequencies go on."""
        self._check(self.factor * y.shape[-1])
        low = torch.fft.rfft(y)
        return torch.fft.irfft(low * _nyquist(low, math.sqrt(0.5)), self.factor * y.shape[-1]) * self.factor

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.factor

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return r / (noise + gram / self.factor)

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """K = E: the Hartley transform (Bracewell 1983), in which the pair of frequencies M/2 and -M/2 is turned by 45
        degrees, so that its cosine, which is seen, and its sine, which is not, are apart. Values 1/sqrt(factor), 0."""
        length = event_shape[-1]
        self._check(length)
        edge = length // self.factor // 2
        k = torch.arange(length, device=like.device)
        seen = (torch.minimum(k, length - k) < edge) | (k == edge)
        values = (seen.to(like) / math.sqrt(self.factor)).expand(1, *event_shape)

        def turned(c: Tensor) -> Tensor:
            a, b, c = c[..., edge], c[..., length - edge], c.clone()
            c[..., edge], c[..., length - edge] = (a + b) * math.sqrt(0.5), (a - b) * math.sqrt(0.5)
            return c

        def analyse(x: Tensor) -> Tensor:
            f = torch.fft.fft(x, norm="ortho")
            return turned(f.real - f.imag)

        def synthesise(c: Tensor) -> Tensor:
            f = torch.fft.fft(turned(c), norm="ortho")
            return f.real - f.imag

        return Spectrum(values, analyse, synthesise, lambda y: analyse(self.pinv(y)))


def _nyquist(low: Tensor, factor: float) -> Tensor:
    """1 for every frequency but the last, `factor` for that."""
    out = torch.ones(low.shape[-1], dtype=low.real.dtype, device=low.device)
    out[-1] = factor
    return out
