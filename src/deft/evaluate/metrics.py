"""Metrics of restorations, one number an image. Images are [B, C, H, W] in [-1, 1]; pixels are clamped first.

PSNR and SSIM are of the clamped images brought to [0, 1], with a data range of 1 (the same as a range of 2 in
[-1, 1]). One posterior sample has twice the squared error of the posterior mean, so PSNR of single samples ranks
blur first: it is given for both.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from deft.errors import InputError
from deft.likelihood.base import Observation
from deft.likelihood.gaussian import Gaussian

LEAST_ERROR = 1e-10
"""Mean squared errors are not taken below this (100 dB), so that a perfect image has a finite PSNR."""


def unit_range(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return (x.clamp(-1, 1) + 1) / 2


def psnr(x: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, [B]; `where` (1 or 0, [B, *E] or broadcast) limits it to some pixels."""
    squares = (unit_range(x) - unit_range(truth)).square()
    if where is None:
        error = squares.flatten(1).mean(1)
    else:
        weight = where.to(squares.dtype).expand_as(squares)
        error = (squares * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
    return -10 * torch.log10(error.clamp_min(LEAST_ERROR))


def ssim(x: Tensor, truth: Tensor, *, window: int = 7, data_range: float = 1.0) -> Tensor:
    """Structural similarity, [B] (Wang et al. 2004): uniform window, sample covariances, as scikit-image's default.

    x and truth are clamped and brought to [0, 1]; the mean over channels and over windows wholly inside.
    """
    if min(x.shape[-2:]) < window:
        raise InputError(f"SSIM needs images of at least {window}x{window}, got {x.shape[-2]}x{x.shape[-1]}")
    a, b = unit_range(x).double(), unit_range(truth).double()

    def mean(v: Tensor) -> Tensor:
        return F.avg_pool2d(v, window, stride=1)

    count = window**2
    unbiased = count / (count - 1)
    ma, mb = mean(a), mean(b)
    va, vb = unbiased * (mean(a * a) - ma * ma), unbiased * (mean(b * b) - mb * mb)
    cov = unbiased * (mean(a * b) - ma * mb)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    value = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return value.flatten(1).mean(1).float()


def residual_rms(x: Tensor, obs: Observation) -> Tensor:
    """Root mean square of y - A(x) over what was measured, [B], in the units of y.

    A sample of the posterior has about sigma_y here; much more means the measurement was not obeyed.
    """
    if not isinstance(obs.likelihood, Gaussian):
        raise InputError(f"a residual needs a Gaussian likelihood, got {type(obs.likelihood).__name__}")
    squares = obs.likelihood.residual(obs.y, x).square().flatten(1).sum(1)
    return (squares / obs.likelihood.operator.count(obs.y)).sqrt()


def spread(samples: Tensor) -> Tensor:
    """Standard deviation over the samples of each image: [B, S, *E] -> [B, *E]; zero for S = 1."""
    if samples.shape[1] < 2:
        return torch.zeros_like(samples[:, 0])
    return samples.clamp(-1, 1).std(dim=1)


def root_mean_square(x: Tensor, where: Tensor | None = None) -> Tensor:
    """[B, *E] -> [B], over all entries or over those with where = 1."""
    if where is None:
        return x.square().flatten(1).mean(1).sqrt()
    weight = where.to(x.dtype).expand_as(x)
    return ((x.square() * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)).sqrt()


def pairwise_distance(x: Tensor) -> Tensor:
    """Mean Euclidean distance between two different samples: [B, S, d] -> [B].

    Half of it, taken from the mean distance to the truth, gives the energy score (Gneiting & Raftery 2007, eq. 22).
    """
    s = x.shape[1]
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2)) / (s * (s - 1))
