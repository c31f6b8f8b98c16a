"""Phase retrieval: an image from the magnitudes of its Fourier transform."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deft.core.operator import Operator
from deft.core.random import generator
from deft.errors import ContractError, InputError


class PhaseRetrieval(Operator):
    """y = |F P u|, u = (x + 1)/2: the orthonormal 2-d Fourier transform F of the image padded with black, P u.

    For images [B, C, H, W] in [-1, 1], each channel by itself; y is [B, C, oversample H, oversample W], zero frequency
    at (0, 0) (`deft.operator.recast` has other orders and norms). Where in the padded plane the image lies does not
    change the magnitudes. An image turned by 180 degrees has the same y, and so has one moved inside a black border:
    nothing measured tells them apart.

    Args:
        oversample: the padded side over the image's, a whole number from 2 on (2: half a side on each side).
        iterations: of the reconstruction that `features` and `pinv` make from y alone.
        padding: pixels of black on each side, in place of `oversample`: y is [B, C, H + 2 padding, W + 2 padding].
        signed: u = x, in [-1, 1], in place of (x + 1)/2: the padding is grey, and -x has the same y as x.
        intensity: y = |F P u|^2, what a detector counts. `features` and `approx_mean_update` work with its root.

    Raises (when called): ContractError for a y that is no multiple of `oversample`.
    """

    feature_channels = 2
    sample_axes = measured_axes = "B, C, H, W"

    def __init__(
        self,
        oversample: int = 2,
        iterations: int = 60,
        *,
        padding: int = 0,
        signed: bool = False,
        intensity: bool = False,
    ):
        if oversample < 2 or oversample != int(oversample):
            raise InputError(f"PhaseRetrieval needs a whole oversampling of at least 2, got {oversample}")
        if iterations < 1:
            raise InputError(f"PhaseRetrieval needs at least 1 iteration, got {iterations}")
        if padding < 0 or padding != int(padding):
            raise InputError(f"PhaseRetrieval needs a padding of whole pixels (0: oversample says it), got {padding}")
        self.oversample, self.iterations = int(oversample), iterations
        self.padding, self.signed, self.intensity = int(padding), bool(signed), bool(intensity)

    def _transform(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ContractError(f"PhaseRetrieval needs images [B, C, H, W], got {tuple(x.shape)}")
        height, width = self._plane(x.shape[-2:])
        return torch.fft.fft2(x if self.signed else (x + 1) / 2, s=(height, width), norm="ortho")

    def _plane(self, sides: Sequence[int]) -> tuple[int, int]:
        """Sides of y for an image's."""
        height, width = (n + 2 * self.padding if self.padding else self.oversample * n for n in sides)
        return height, width

    @property
    def _slope(self) -> float:
        """du/dx."""
        return 1.0 if self.signed else 0.5

    def __call__(self, x: Tensor) -> Tensor:
        f = self._transform(x)
        return f.real.square() + f.imag.square() if self.intensity else f.abs()

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """P^T Re F^H (r e^{i phase}) / 2; a magnitude of exactly 0 has no derivative, and counts as 0. (Of intensities:
        times 2 |F P u|.)"""
        f = self._transform(x)
        return self._carried(r * (2 * f if self.intensity else torch.sgn(f)), x.shape[-2:])

    def _carried(self, f: Tensor, sides: Sequence[int]) -> Tensor:
        """P^T Re F^H f times du/dx."""
        back = torch.fft.ifft2(f, norm="ortho").real[..., : sides[0], : sides[1]]
        return back if self.signed else back / 2

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """rho2 A'^T r / (noise + rho2/4): no eigenvalue of A' A'^T exceeds 1/4.

        Of intensities, m = |F P u| and m' the root of y: 2 m r / (noise + rho2 2 m (m + m') / 4) in place of r / (noise
        + rho2/4). For noise -> 0 that is Fienup's error reduction, a whole step to the image with magnitudes y and the
        phase of x, cropped. It never raises the misfit, but it stops at local minima: a guidance map that is only as
        good as x.
        """
        bound = self._slope**2
        if not self.intensity:
            return rho2 * self.vjp(x, r / (noise + rho2 * bound))
        f = self._transform(x)
        here, seen = f.abs(), (r + f.abs().square()).clamp_min(0).sqrt()
        gap = 2 * here * r / (noise + rho2 * bound * 2 * here * (seen + here))
        return rho2 * self._carried(gap * torch.sgn(f), x.shape[-2:])

    def pinv(self, y: Tensor) -> Tensor:
        """The first half of `features`."""
        return self.features(y).chunk(2, dim=1)[0]

    def features(self, y: Tensor) -> Tensor:
        """A rough image from y alone, and the same turned by 180 degrees, for y cannot tell which it is: [B, 2C, H, W].

        Hybrid input-output (Fienup 1982, eq. 44; beta = 0.9) on images in [0, 1], from one fixed random image for all
        y, and error reduction for the last ten iterations; in float32. An object inside a black border has its size
        read off its autocorrelation and is put in the middle. What remains: a fair share of images fails, the more the
        noise; a colour image's channels are turned to agree with the first one.
        """
        n, p = self.oversample, self.padding
        if p and min(y.shape[-2:]) <= 2 * p:
            raise ContractError(
                f"PhaseRetrieval with a padding of {p} needs y [B, C, H + {2 * p}, W + {2 * p}], got {tuple(y.shape)}"
            )
        if not p and (y.shape[-1] % n or y.shape[-2] % n):
            raise ContractError(
                f"PhaseRetrieval with oversampling {n} needs y [B, C, {n} H, {n} W], got {tuple(y.shape)}"
            )
        height, width = (size - 2 * p if p else size // n for size in y.shape[-2:])
        magnitudes = y.clamp_min(0).sqrt() if self.intensity else y
        low = -1.0 if self.signed else 0.0
        u = retrieve(magnitudes.flatten(0, 1).float(), height, width, self.iterations, low=low).unflatten(
            0, y.shape[:2]
        )
        u = u.to(y.dtype) / 2 if self.signed else u.to(y.dtype) - 0.5
        turned = u.flip((-2, -1))
        centred = u - u.mean((-2, -1), keepdim=True)
        agree = (centred * centred[:, :1]).sum((-2, -1)) >= (centred.flip((-2, -1)) * centred[:, :1]).sum((-2, -1))
        agree = agree.index_fill(1, torch.zeros(1, dtype=torch.long, device=y.device), True)[..., None, None]
        return 2 * torch.cat([torch.where(agree, u, turned), torch.where(agree, turned, u)], dim=1)


def retrieve(
    y: Tensor, height: int, width: int, iterations: int, beta: float = 0.9, polish: int = 10, low: float = 0.0
) -> Tensor:
    """Images [N, height, width] in [low, 1] whose padded transform has magnitudes near y [N, *M]
    (Fienup 1982)."""
    plane = y.shape[-2:]
    out = y.new_empty(len(y), height, width)
    begin = torch.rand((height, width), generator=generator(0), dtype=torch.float32).to(y)
    tiny = torch.finfo(y.dtype).tiny
    for i, one in enumerate(y):  # one at a time, in place: the planes of many take more than a processor's cache
        one = one[None]
        half = (one + one.flip((-2, -1)).roll((1, 1), (-2, -1)))[..., : plane[1] // 2 + 1]  # F u is Hermitian
        half = half.clamp_min(0) / 2
        inside = support(half, plane, height, width).to(y.dtype)
        u = torch.zeros_like(one)
        u[..., :height, :width] = begin
        u *= inside
        for step in range(iterations):
            f = torch.fft.rfft2(u, norm="ortho")
            f *= half / f.abs().clamp_min_(tiny)
            v = torch.fft.irfft2(f, s=plane, norm="ortho")
            kept = v.clamp(low, 1).mul_(inside)
            u = kept if step >= iterations - polish else torch.where(v == kept, kept, u.sub_(v.sub_(kept).mul_(beta)))
        out[i] = u[0, :height, :width]
    return out


def support(half: Tensor, plane: torch.Size, height: int, width: int) -> Tensor:
    """Where the object may be, [N, *plane]: a box of its size in the middle of the image.

    A box of h rows has an autocorrelation of lags below h. The lags of `height` rows and `width` columns are out of
    reach of any image: what is found there is noise, and measures what may be found at the others. In a plane of less
    than twice the image's sides the lags wrap around and say nothing: the object may be anywhere in the image.
    """
    if plane[0] < 2 * height or plane[1] < 2 * width:
        box = torch.zeros(plane, dtype=torch.bool, device=half.device)
        box[:height, :width] = True
        return box.expand(len(half), -1, -1)
    lags = torch.fft.irfft2(half.square(), s=plane).abs()
    floor = torch.maximum(lags[..., height, :].amax(-1), lags[..., :, width].amax(-1))
    floor = torch.maximum(1.5 * floor, 1e-3 * lags[..., 0, 0])[:, None]

    def span(most: Tensor, size: int) -> Tensor:
        i = torch.arange(size, device=half.device)
        extent = (i * (most[:, :size] > floor)).amax(-1) + 1
        start = (size - extent).div(2, rounding_mode="floor")
        rows = torch.arange(most.shape[-1], device=half.device)
        return (rows >= start[:, None]) & (rows < (start + extent)[:, None])

    return span(lags.amax(-1), height)[:, :, None] & span(lags.amax(-2), width)[:, None, :]
