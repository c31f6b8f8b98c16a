"""A^T A of a scan, taken for a convolution: a fast stand-in for it, to precondition solves with.

A^T A (`deft.operator.rays`) depends on where between detectors and pixels the rays fall. Averaged over shifts of the
image by parts of a pixel it does not: direction by direction, with a the distance of neighbouring rays along a row of
the image, it is

    K(row, column) = (l / side)^2 / a * b(column + row tan),    b the cubic B-spline,

b being the correlation of two linear interpolations. On an image that is a matrix of Toeplitz blocks, which Fourier
transforms of twice the side multiply with exactly, and which is positive semi-definite, as a mean of such.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from deft.core.operator import conjugate_gradient
from deft.operator.rays import Geometry

TOLERANCE, MAX_ITERATIONS = 0.1, 10
"""Of the solve with the stand-in."""


def precondition(g: Geometry, v: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
    """About (noise I + gram A^T A)^{-1} v for images v: solved for the average in place of A^T A, to `TOLERANCE`, by
    conjugate gradients whose own preconditioner is diagonal in Fourier space."""
    averaged, diagonal = spectra(g, v.dtype, str(v.device))
    return conjugate_gradient(
        lambda u: noise * u + gram * filtered(u, averaged),
        v,
        tolerance=TOLERANCE,
        max_iterations=MAX_ITERATIONS,
        precondition=lambda u: filtered(u, 1 / (noise + gram * diagonal)),
    )


def filtered(v: Tensor, factor: Tensor) -> Tensor:
    """C F^{-1} factor F v: images filtered in Fourier space with the room that `factor` has, C the crop."""
    side, n = v.shape[-1], factor.shape[-2]
    return torch.fft.irfft2(torch.fft.rfft2(v, s=(n, n)) * factor, s=(n, n))[..., :side, :side]


@functools.lru_cache(maxsize=8)
def spectra(g: Geometry, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """The transforms of K with twice the image's side, and of K times the share of pixel pairs that are so far apart
    (the best circulant, T. Chan 1988) with 1.5 times the side."""
    n = g.side
    far = torch.arange(-(n - 1), n)
    k = kernel(g)
    near = 1 - far.abs() / n
    out = []
    for size, part in ((2 * n, k), (n + (n + 1) // 2, k * near[:, None] * near)):
        at = far % size
        folded = torch.zeros(size, size, dtype=torch.float64).index_put_((at[:, None], at), part, accumulate=True)
        out.append(torch.fft.rfft2(folded).real.to(device=device, dtype=dtype))
    return out[0], out[1].clamp_min(0)


def kernel(g: Geometry) -> Tensor:
    """K at all distances of two pixels, [2 side - 1, 2 side - 1], float64."""
    n = g.side
    cos, sin, _ = g.lines()
    steep = cos.abs() >= sin.abs()
    large = torch.maximum(cos.abs(), sin.abs())
    weight = (g.length / (large * n)).square() * large / g.pitch
    tilt = torch.where(steep, sin / cos, cos / sin)
    walked = torch.arange(-(n - 1), n)
    out = torch.zeros(2, 2 * n - 1, 2 * n - 1, dtype=torch.float64)
    for turned, which in enumerate((steep, ~steep)):
        across = tilt[which, None] * walked
        low = across.floor()
        for step in (-1, 0, 1, 2):
            at, far = (low + step).long(), (low + step - across).abs()
            spline = torch.where(far < 1, 2 / 3 - far.square() + far**3 / 2, (2 - far).clamp_min(0) ** 3 / 6)
            inside = at.abs() < n
            rows = (walked + n - 1).expand_as(at)
            out[turned].index_put_(
                (rows[inside], at[inside] + n - 1), (weight[which, None] * spline)[inside], accumulate=True
            )
    return out[0] + out[1].mT
