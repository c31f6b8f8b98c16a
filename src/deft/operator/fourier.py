"""Operators that are diagonal in Fourier space: circular blur, and magnetic resonance imaging of a real image.

Both have A^T A = H diag(lambda) H with H the Hartley transform, (H x)(k) = Re (F x)(k) - Im (F x)(k) with F the
orthonormal Fourier transform: real, orthonormal and its own inverse. lambda(k) = lambda(-k), so that F^{-1} lambda F
does the same.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from deft.core.operator import LinearOperator, Spectrum
from deft.core.random import BatchNoise, Noise
from deft.errors import ContractError, InputError
from deft.operator.separable import inverted, seen
from deft.tensors import of_numpy


def hartley(x: Tensor) -> Tensor:
    """The orthonormal Hartley transform of the last two axes, its own inverse (Bracewell 1983)."""
    f = torch.fft.fft2(x, norm="ortho")
    return f.real - f.imag


class Convolution(LinearOperator):
    """y = k * x, the circular convolution of every channel: an image that goes on at the opposite edge.

    With T the Fourier transform of k:

        solve: F^{-1} [ F r / (noise + gram |T|^2) ]        pinv: F^{-1} [ conj(T) F y / |T|^2 ] over |T| > SEEN max |T|

    `features` is y itself: a blurred image is a good picture, and the inverse of a blur is mostly noise.

    Args:
        kernel: [B, 1, k, k'] or [1, 1, k, k'], centred at (k // 2, k' // 2); any sizes up to the image's.
        correlate: y[i] = sum over a of k[a] x[i + a - middle], the kernel not turned round, as
            `torch.nn.functional.conv2d` does it.
        early: the middle of an even side is k // 2 - 1, the pixel before the one that is taken otherwise (MATLAB).
    """

    per_sample: ClassVar[tuple[str, ...]] = ("kernel",)
    sample_axes = measured_axes = "B, C, H, W"

    def __init__(self, kernel: Tensor, *, correlate: bool = False, early: bool = False):
        if kernel.ndim != 4 or kernel.shape[1] != 1 or not kernel.is_floating_point():
            raise ContractError(
                f"Convolution needs a real kernel [B or 1, 1, k, k], got {kernel.dtype} of shape {tuple(kernel.shape)}"
            )
        self.kernel, self.correlate, self.early = kernel, correlate, early

    def _middle(self) -> tuple[int, int]:
        """Where the kernel that is convolved with (turned round for `correlate`) has its middle."""
        k, l = ((n - 1) // 2 if self.early else n // 2 for n in self.kernel.shape[2:])
        return (self.kernel.shape[2] - 1 - k, self.kernel.shape[3] - 1 - l) if self.correlate else (k, l)

    def _centred(self, height: int, width: int, like: Tensor) -> Tensor:
        """The kernel on the whole image with its middle at (0, 0), [B or 1, 1, H, W]."""
        k, l = self.kernel.shape[2:]
        if k > height or l > width:
            raise ContractError(
                f"a kernel of {k}x{l} does not fit an image of {height}x{width}: cut it, or fold it at the edges"
            )
        kernel = self.kernel.to(like)
        padded = torch.nn.functional.pad(
            kernel.flip((2, 3)) if self.correlate else kernel, (0, width - l, 0, height - k)
        )
        down, across = self._middle()
        return padded.roll((-down, -across), (2, 3))

    def _times(self, v: Tensor, factor: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(v) * factor, s=v.shape[2:])

    def _transfer(self, v: Tensor) -> Tensor:
        if v.ndim != 4:
            raise ContractError(f"Convolution needs images [B, C, H, W], got shape {tuple(v.shape)}")
        return torch.fft.rfft2(self._centred(v.shape[2], v.shape[3], v))

    def __call__(self, x: Tensor) -> Tensor:
        return self._times(x, self._transfer(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._times(y, self._transfer(y).conj())

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return self._times(r, 1 / (noise + gram * self._transfer(r).abs().square()))

    def pinv(self, y: Tensor) -> Tensor:
        t = self._transfer(y)
        return self._times(y, t.conj() * inverted(t.abs()).square())

    def features(self, y: Tensor) -> Tensor:
        return y

    def start(self, y: Tensor) -> Tensor:
        return y

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """K = (C, H, W) in the order of `torch.fft.fft2`. Values below SEEN times the largest are 0."""
        channels, height, width = event_shape
        values = seen(torch.fft.fft2(self._centred(height, width, like)).abs()).expand(-1, channels, -1, -1)
        back = inverted(values).square()
        return Spectrum(values, hartley, hartley, lambda y: back * hartley(self.adjoint(y)))


def motion_kernels(
    noise: Noise | BatchNoise,
    size: int,
    shortest: float = 0.3,
    longest: float = 0.8,
    bend: float = 0.6,
    *,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The blur of a camera that moves while it looks, one for each sample: [B, 1, size, size], >= 0, sum 1.

    A smooth path whose heading turns by a random walk, `shortest` to `longest` times `size` long, centred, drawn with a
    brush of half a pixel's deviation. (In the spirit of Levin et al. 2009; the paths are our own.)

    Args:
        size: of the kernel in pixels, odd so that it has a middle.
        bend: deviation of the heading's turn over the whole path, in half turns.
    """
    if size < 3 or size % 2 == 0 or not 0 < shortest <= longest <= 1 or bend < 0:
        raise InputError(
            f"motion_kernels needs an odd size >= 3, 0 < shortest <= longest <= 1 and bend >= 0, got {size},"
            f" {shortest}, {longest} and {bend}"
        )
    points = 4 * size
    u = noise.uniform((2,), device=device)
    turns = noise.normal((points,), device=device) * (bend * math.pi / math.sqrt(points))
    heading = 2 * math.pi * u[:, :1] + turns.cumsum(1)
    step = (shortest + (longest - shortest) * u[:, 1:]) * size / points
    path = (step * torch.stack([heading.sin(), heading.cos()])).cumsum(2)
    path = path - path.mean(2, keepdim=True)
    grid = torch.arange(size, device=device) - size // 2
    down, across = (-2 * (grid - path[..., None]).square()).exp()
    kernel = down.mT @ across
    return (kernel / kernel.sum((1, 2), keepdim=True))[:, None]


class MaskedFourier(LinearOperator):
    """Accelerated magnetic resonance imaging with one coil, of a real image: y = M F x, a few frequencies of it.

    y [B, 2C, H, W] holds the real parts, then the imaginary ones, of the orthonormal Fourier transform, zero frequency
    in the middle (H // 2, W // 2) as `masks.columns` draws it; zero where not sampled. With P v(k) = v(-k),

        A^T y = Re F^H M y,        A A^T v = M (v + P v*) / 2,

    so a frequency sampled without its mirror image has s^2 = 1/2, and of a pair sampled together the symmetric part
    (v + P v*)/2 has s = 1, the antisymmetric part is noise. `pinv` is the shortest image with these frequencies:
    zero-filled, after the mirror images that were not sampled have been filled in.

    A frequency that is its own mirror image (the mean, say) is real whatever x: its imaginary entry is not counted as
    measured, and kept at zero. Both members of a sampled pair are counted: they were measured twice, with independent
    noise.

    Args:
        mask: 1 where sampled, [B or 1, 1, H, W].
    """

    per_sample = ("mask", "_parts", "_twice")
    sample_shaped = ("mask",)
    sample_axes = measured_axes = "B, C, H, W"

    def __init__(self, mask: Tensor | np.ndarray):
        mask = of_numpy(mask) if isinstance(mask, np.ndarray) else mask
        if mask.ndim != 4 or mask.shape[1] != 1 or not bool(((mask == 0) | (mask == 1)).all()):
            raise ContractError(
                f"MaskedFourier needs a mask [B or 1, 1, H, W] of 1 (sampled) and 0, got shape {tuple(mask.shape)}"
            )
        self.mask = mask.to(torch.get_default_dtype())
        height, width = mask.shape[2:]
        own = torch.ones(height, width, dtype=torch.bool, device=mask.device)
        for axis, n in enumerate((height, width)):
            i = torch.arange(n, device=mask.device) - n // 2
            own &= ((2 * i) % n == 0).reshape((-1, 1) if axis == 0 else (1, -1))
        self._parts = torch.cat([self.mask, self.mask * ~own], 1)
        self._twice = self.mask * _mirrored(self.mask)

    def _seen(self, y: Tensor) -> Tensor:
        """What was measured, [B or 1, 2, 1, H, W], next to y as [B, 2, C, H, W]."""
        return self._parts[:, :, None].to(y.dtype)

    def _check(self, v: Tensor) -> Tensor:
        if v.ndim != 4 or v.shape[2:] != self.mask.shape[2:]:
            raise ContractError(
                f"MaskedFourier has a mask of {tuple(self.mask.shape[2:])} and was given shape {tuple(v.shape)}:"
                " expected [B, C, H, W]"
            )
        return v

    def __call__(self, x: Tensor) -> Tensor:
        f = torch.fft.fftshift(torch.fft.fft2(self._check(x), norm="ortho"), (2, 3))
        return (self._seen(x) * torch.stack([f.real, f.imag], 1)).flatten(1, 2)

    def adjoint(self, y: Tensor) -> Tensor:
        f = torch.complex(*self.measured_part(y).chunk(2, 1))
        return torch.fft.ifft2(torch.fft.ifftshift(f, (2, 3)), norm="ortho").real

    def measured_part(self, y: Tensor) -> Tensor:
        if self._check(y).shape[1] % 2:
            raise ContractError(
                f"y holds real and imaginary parts, an even number of channels, got shape {tuple(y.shape)}"
            )
        return (self._seen(y) * y.unflatten(1, (2, -1))).flatten(1, 2)

    def number_of_measurements(self, y: Tensor) -> Tensor:
        return self._seen(y).expand(y.shape[0], 2, y.shape[1] // 2, -1, -1).flatten(1).sum(1)

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        real, imaginary = r.chunk(2, 1)
        even = torch.cat([real + _mirrored(real), imaginary - _mirrored(imaginary)], 1) * (
            0.5 * self._twice.to(r.dtype)
        )
        odd = self._twice.to(r.dtype) * r - even
        return (r - even - odd) / (noise + 0.5 * gram) + even / (noise + gram) + odd / noise

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y * (2 - self._twice.to(y.dtype)))

    def features(self, y: Tensor) -> Tensor:
        """The zero-filled image, `pinv`."""
        return self.pinv(y)

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """K = (C, H, W) in the order of `torch.fft.fft2`; values 1, sqrt(1/2) and 0."""
        gram = 0.5 * (self.mask + _mirrored(self.mask)).to(like)
        values = torch.fft.ifftshift(gram, (2, 3)).sqrt().expand(-1, *event_shape)
        return Spectrum(values, hartley, hartley, lambda y: (values > 0) * hartley(self.pinv(y)))


def _mirrored(v: Tensor) -> Tensor:
    """v(-k) of v(k), zero frequency in the middle of the last two axes."""
    height, width = v.shape[-2:]
    return v.flip((-2, -1)).roll((1 - height % 2, 1 - width % 2), (-2, -1))
