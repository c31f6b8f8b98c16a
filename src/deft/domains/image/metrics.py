"""Metrics of restorations, one number an image. Images are [B, C, H, W] in [-1, 1]; pixels are clamped first.

PSNR and SSIM are of the clamped images brought to [0, 1], with a data range of 1 (the same as a range of 2 in
[-1, 1]). One posterior sample has twice the squared error of the posterior mean, so PSNR of single samples ranks
blur first: it is given for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deft.core.likelihood import Observation
from deft.errors import InputError

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


def spread(samples: Tensor) -> Tensor:
    """Standard deviation over the samples of each image: [B, S, *E] -> [B, *E]; zero for S = 1."""
    if samples.shape[1] < 2:
        return torch.zeros_like(samples[:, 0])
    return samples.clamp(-1, 1).std(dim=1)


def residual_rms(x: Tensor, obs: Observation) -> Tensor:
    """`Observation.residual_rms`, for measurements that have a residual."""
    found = obs.residual_rms(x)
    if found is None:
        raise InputError(
            f"{obs.likelihood.kind} has no residual y - A(x): nothing says how far a sample is from its measurement"
        )
    return found


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


# Scores of a whole distribution, from a few of its samples. Both are proper: in expectation least for the true
# posterior, for every number of samples of at least two, because the mean over pairs is over *different* samples (Ferro
# 2014, "fair" scores).


def energy_score(x: Tensor, truth: Tensor) -> Tensor:
    """The energy score of samples x [B, S, d] of a law, where truth [B, d] came out: [B].

        ES = 1/S sum_j |x_j - truth| - 1/2 . 1/(S (S - 1)) sum_{j != k} |x_j - x_k|,    |.| Euclidean

    Gneiting & Raftery (2007), "Strictly Proper Scoring Rules, Prediction, and Estimation", equation 22,
    https://doi.org/10.1198/016214506000001437. With S (S - 1), and not S^2, under the second sum its expectation is
    that of the law itself (Ferro 2014, "Fair scores for ensemble forecasts", https://doi.org/10.1002/qj.2270), and for
    S >= 2 least if the law is the truth's: samples that vary too little, or too much, score worse. A distance alone,
    without the second sum, is least for samples that vary too little.

    >>> energy_score(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0]]))
    tensor([0.])
    """
    if x.shape[1] < 2:
        raise InputError("an energy score needs at least two samples of each image, got 1")
    return (x - truth[:, None]).norm(dim=-1).mean(1) - pairwise_distance(x) / 2


def energy_score_pixels(samples: Tensor, truth: Tensor) -> Tensor:
    """`energy_score` of images [B, S, *E] by the root mean square difference of their pixels, clamped to [-1, 1]: [B].

    It needs no feature network. The root mean square is the Euclidean distance over the root of the number of pixels,
    so it is proper as well; it sees small structures less than features do.
    """
    x, y = samples.clamp(-1, 1).flatten(2), truth.clamp(-1, 1).flatten(1)
    return energy_score(x, y) / math.sqrt(y.shape[1])


def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score, the mean over pixels (clamped): [B, S, *E] and [B, *E] -> [B].

    The energy score of each pixel alone (Gneiting & Raftery 2007, equation 21), so it sees nothing of how pixels vary
    together. The sum over pairs is that of sorted samples, sum_{j != k} |x_j - x_k| = 2 sum_i (2 i - S - 1) x_(i).

    >>> crps(torch.tensor([[[0.0], [1.0]]]), torch.tensor([[0.5]]))
    tensor([0.])
    """
    x, y = samples.clamp(-1, 1).flatten(2), truth.clamp(-1, 1).flatten(1)
    s = x.shape[1]
    if s < 2:
        raise InputError("a CRPS needs at least two samples of each image, got 1")
    weight = 2 * torch.arange(1, s + 1, dtype=x.dtype, device=x.device) - s - 1
    pairs = (x.sort(1).values * weight[:, None]).sum(1) / (s * (s - 1))  # half of the mean over different pairs
    return ((x - y[:, None]).abs().mean(1) - pairs).mean(1)


# Distances between images, and between sets of images, in the features of a network (`deft.domains.image.features`).


def feature_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance between two sets of features, pair by pair: [B]. 1 is two random images, 0 the same."""
    return (a - b).norm(dim=1)


def perceptual_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Distance between two images by their feature maps, pair by pair, [B]: 0 the same, 2 at right angles everywhere, 4
    at most.

    With u, v the maps [B, C, h, w] of one layer, each position scaled to length 1 over the channels,

        mean over layers of [ mean over positions of |u - v|^2 ].

    It is the formula of Zhang et al. (2018, eq. 1) without the channel weights they learned, and in another network:
    name that network beside it and do not call it LPIPS. Where an image is flat its maps are short, and noise turns
    them: two abdomens are 0.5 apart in the bundled encoder of CT slices, and so are a slice and itself with noise of
    0.3.
    """
    layers = [
        (F.normalize(u, dim=1) - F.normalize(v, dim=1)).square().sum(1).flatten(1).mean(1)
        for u, v in zip(a, b, strict=True)
    ]
    return torch.stack(layers).mean(0)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, eq. 6).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)). It falls with the number of images; compare equal numbers.
    """
    x, y = a.double(), b.double()
    c, d = torch.cov(x.T), torch.cov(y.T)
    values, vectors = torch.linalg.eigh(c)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ d @ root).clamp_min(0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + c.trace() + d.trace() - 2 * cross)


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float


def kernel_distance(a: Tensor, b: Tensor, *, blocks: int = 10, gamma: float = 1.0) -> Estimate:
    """Squared maximum mean discrepancy of two sets of features [N, d], under the kernel k(x, y) = (gamma x.y + 1)^3.

    The statistic of KID (Bińkowski et al. 2018, section 3.1; there gamma = 1/d on Inception's raw features, whose
    entries are of order 1; here features are in units of a mean distance, so x.y is). Unbiased, thus sometimes
    negative, and its expectation, unlike the Fréchet distance's, does not depend on the number of images:

        mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j),

    averaged over `blocks` disjoint blocks of images; the standard error is that of this average.
    """
    n, m = len(a) // blocks, len(b) // blocks
    if blocks < 2 or min(n, m) < 2:
        raise InputError(f"{blocks} blocks of at least two images are needed, got {len(a)} and {len(b)} images")
    x, y = a[: n * blocks].double().reshape(blocks, n, -1), b[: m * blocks].double().reshape(blocks, m, -1)

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return (gamma * u @ v.mT + 1) ** 3

    def within(u: Tensor) -> Tensor:
        k, count = kernel(u, u), u.shape[1]
        return (k.sum((1, 2)) - k.diagonal(dim1=1, dim2=2).sum(1)) / (count * (count - 1))

    values = within(x) + within(y) - 2 * kernel(x, y).mean((1, 2))
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(blocks)))


# Is the spread of the samples right? For samples [N, S, *E] of the posterior of each of N images, and the truth [N,
# *E].


GREY_LEVEL = 2 / 255
"""The step of 8-bit pixels in [-1, 1]."""


def rank_histogram(samples: Tensor, truth: Tensor, where: Tensor | None = None, *, step: float = GREY_LEVEL) -> Tensor:
    """How often the truth has rank 0, 1, ..., S among the S samples of a pixel: shares [N, S + 1].

    The truth and the samples of the exact posterior are S + 1 draws of one distribution, so each rank has the expected
    share 1/(S + 1) (Hamill 2001): a U is too little spread, a hill too much, a slope is bias. To keep this exact for
    pixels:

    - values are clamped and rounded to grey levels, as the truth was; a truth level with m samples has each of the m +
      1 ranks that leaves open with the same weight, the mean of breaking ties at random;
    - pixels whose S + 1 values lie within one grey level (background) tell nothing and are left out. The rule treats
      truth and samples alike, so that no rank is favoured by it. An image without other pixels has equal shares.

    step: of the rounding; 0 for numbers that are no pixels: no clamping, no rounding, only exact ties are left out.
    where: 1 at the pixels that count, [N or 1, *E] or broadcast.
    """
    s = samples.shape[1]
    if step:
        samples, truth = (((v.clamp(-1, 1) + 1) / step).round() for v in (samples, truth))
    spread_out = torch.maximum(samples.amax(1), truth) - torch.minimum(samples.amin(1), truth) > (1 if step else 0)
    counts = spread_out if where is None else spread_out & (where > 0)
    below, level = ((f(samples, truth[:, None])).sum(1).flatten(1) for f in (torch.lt, torch.eq))
    weight = counts.flatten(1).double() / (level + 1)
    steps = weight.new_zeros(len(truth), s + 2)  # each pixel adds weight to the ranks below ... below + level
    steps.scatter_add_(1, below, weight).scatter_add_(1, below + level + 1, -weight)
    shares = steps.cumsum(1)[:, : s + 1]
    total = counts.flatten(1).sum(1, keepdim=True)
    return torch.where(total > 0, shares / total.clamp_min(1), 1 / (s + 1))


def coverage_of(histogram: Tensor, level: float = 0.9) -> Tensor:
    """How often the central interval of this level holds the truth, [N], from the shares [N, S + 1] of its ranks.

    u = (rank + v) / (S + 1) with v uniform on [0, 1] is uniform for the exact posterior, whatever S; the truth is in if
    |u - 1/2| <= level / 2. This is the mean over v, so its expectation is exactly `level`. A truth beyond all samples
    counts as in with probability max(0, 1 - (S + 1)(1 - level) / 2), the least that can come out: 0.75 for S = 4 and a
    level of 0.9. With few samples a lower level, (S - 1) / (S + 1) say, sees more.
    """
    if not 0 < level < 1:
        raise InputError(f"a level between 0 and 1 is needed, got {level:g}")
    cells = histogram.shape[1]
    edges = torch.arange(cells + 1, dtype=histogram.dtype, device=histogram.device) / cells
    inside = edges.clamp((1 - level) / 2, (1 + level) / 2).diff() * cells
    return histogram @ inside


def coverage(
    samples: Tensor, truth: Tensor, level: float = 0.9, where: Tensor | None = None, *, step: float = GREY_LEVEL
) -> Tensor:
    """Share of pixels whose central credible interval of this level, from S samples, holds the truth: [N].

    `level` in expectation for samples of the exact posterior, for every S; see `rank_histogram` for ties and for the
    pixels left out, and `coverage_of` for the least value that S samples can give.
    """
    return coverage_of(rank_histogram(samples, truth, where, step=step), level)


def calibration_error(histogram: Tensor) -> float:
    """Share of the truths that have the wrong rank: half of sum |share - 1/(S + 1)|, of the mean histogram of all
    images."""
    shares = histogram.mean(0)
    return float((shares - 1 / len(shares)).abs().sum() / 2)


def spread_skill(samples: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Spread of the samples over the error of their mean, [N]: its *mean over the images* is the ratio of all of them.

    With s^2 the variance over an image's S samples and e the error of their mean (pixels clamped), E e^2 = (1 + 1/S) E
    s^2 for the exact posterior (Fortin et al. 2014), so with a = (1 + 1/S) mean s^2 and b = mean e^2 over an image's
    pixels,

        R = sqrt(mean a / mean b)        is 1; below it samples vary too little, above too much.

    The mean of single images' ratios is not (1/b is skewed). Image i is therefore given its share in R to first order,
    R (1 + (a_i / mean a - b_i / mean b) / 2): these have mean R, and their scatter gives R's interval. Unlike other
    metrics, an image's value depends on the others of the call.
    """
    x, truth = samples.clamp(-1, 1), truth.clamp(-1, 1)
    s = x.shape[1]
    if s < 2:
        raise InputError("the spread of samples needs at least two of each image, got 1")
    a = (1 + 1 / s) * root_mean_square(x.std(1), where).double().square() + LEAST_ERROR
    b = root_mean_square(x.mean(1) - truth, where).double().square() + LEAST_ERROR
    return (a.mean() / b.mean()).sqrt() * (1 + (a / a.mean() - b / b.mean()) / 2)
