"""Intervals for means over images, and tests of whether methods differ.

`bootstrap`, `paired`, `clustered` (several seeds) and `crossed` (several fits) give intervals; `sign_flip` and
`difference_p` (several fits) p-values, `holm` corrects many of them, and `tied_for_best` says which methods of a table
cannot be distinguished from the best.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deft.errors import InputError
from deft.kinds.student import student_p, student_quantile

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A mean over n images with the interval (low, high)."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(
    values: Sequence[float] | np.ndarray, *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile interval of the mean, by resampling images (Efron & Tibshirani 1993, chapter 13).

    >>> interval = bootstrap([0.0, 1.0] * 50)
    >>> interval.value, 0.39 < interval.low < 0.42, 0.58 < interval.high < 0.61
    (0.5, True, True)
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if not len(x) or not np.isfinite(x).all():
        raise InputError(
            f"an interval needs at least one finite number, got {len(x)} of which {int(np.isfinite(x).sum())} finite"
        )
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    chunk = max(1, 2_000_000 // len(x))
    for i in range(0, resamples, chunk):
        m = min(chunk, resamples - i)
        means[i : i + m] = x[rng.integers(0, len(x), (m, len(x)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high), len(x))


def paired(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, **options: float) -> Interval:
    """Interval of the mean of a - b over the same images. Off 0 means the two differ beyond chance."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape:
        raise InputError(f"a paired difference needs the same cases on both sides, got {x.shape} and {y.shape} values")
    return bootstrap(x - y, **options)  # type: ignore[arg-type]


def clustered(
    values: Sequence[Sequence[float]] | np.ndarray,
    *,
    crossed: bool = False,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of the mean of values [K, N], K seeds of each of N images; n is N.

    Images are resampled, and for each image drawn its own K seeds are (two stages: Davison & Hinkley 1997, section
    3.8): for seeds that are of one image alone, such as those of a sampler. crossed: one draw of seeds for all images
    (Owen 2007), for seeds that all images share, such as those of a fit. Both count the scatter between seeds, which is
    in the image means already, again, and so err on the wide side, unless images or seeds are few: percentiles of six
    seeds cover 81 % for 90 %. With one seed both are `bootstrap`.

    >>> clustered([[0.0, 1.0] * 50]) == bootstrap([0.0, 1.0] * 50)
    True
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise InputError(
            f"values [seeds, images], all finite, are needed, got shape {x.shape} with {int(np.isfinite(x).sum())}"
            " finite"
        )
    k, n = x.shape
    if k == 1:
        return bootstrap(x[0], resamples=resamples, level=level, seed=seed)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    chunk = max(1, 2_000_000 // x.size)
    for i in range(0, resamples, chunk):
        m = min(chunk, resamples - i)
        images = rng.integers(0, n, (m, 1, n))
        seeds = rng.integers(0, k, (m, k, 1 if crossed else n))
        means[i : i + m] = x[seeds, images].mean((1, 2))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high), n)


EXACT = 14
"""Up to so many images all 2^N sign patterns are tried."""


def _signs(n: int, resamples: int, seed: int) -> tuple[np.ndarray, int]:
    """Patterns of +-1, [R, n], and how many patterns that were seen, but are not among them, are to be counted in."""
    if n <= EXACT:
        return 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1), 0
    return 1.0 - 2.0 * np.random.default_rng(seed).integers(0, 2, (resamples, n), dtype=np.int8), 1


def _p_values(differences: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Two-sided p-values of rows [P, N], the same sign patterns for all."""
    signs, unseen = _signs(differences.shape[1], resamples, seed)
    least = np.abs(differences.sum(1)) * (1 - 1e-12) - 1e-300
    more = (np.abs(signs @ differences.T) >= least).sum(0)
    return (more + unseen) / (len(signs) + unseen)


def sign_flip(differences: Sequence[float] | np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """p-value, two-sided, of paired differences [N] or [K, N] (K seeds of N images) having the mean 0.

    If two methods are alike, each image's difference is as likely with the other sign. p is the share of sign patterns
    whose mean is at least as far off 0 as the one seen: of all 2^N of them for N <= 14, else of `resamples` random ones
    and the one seen, (1 + count) / (1 + resamples), so that it is never 0 (Phipson & Smyth 2010). The seeds of an image
    keep one sign.

    >>> sign_flip([1.0, 2.0, 3.0, 4.0])
    0.125
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim not in (1, 2) or not d.size or not np.isfinite(d).all():
        raise InputError(
            f"differences [images] or [seeds, images], all finite, are needed, got shape {d.shape} with"
            f" {int(np.isfinite(d).sum())} finite"
        )
    return float(_p_values(d.reshape(-1, d.shape[-1]).mean(0)[None], resamples, seed)[0])


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """p-values corrected for their number, [m] (Holm 1979): those below a level are wrong about any with at most that
    probability.

    The i-th smallest of m is multiplied by m - i + 1; none is below a smaller one's, or above 1.

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"a list of p-values between 0 and 1 is needed, got {p_values}")
    order = np.argsort(p, kind="stable")
    out = np.empty_like(p)
    out[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return out


class Mean(NamedTuple):
    """A mean, its standard error, and how many degrees of freedom the error has."""

    value: float
    error: float
    degrees: float


def crossed_mean(values: Sequence[Sequence[float]] | np.ndarray) -> Mean:
    """The mean of values [K, N] whose K seeds are shared by all N images, as those of fits are; both are drawn at
    random.

    From the mean squares of the two-way analysis of variance, seeds S = N var(seed means), images I = K var(image
    means), and the rest R:

        error^2 = V / (K N),    V = max(S + I - R, S, I),
        degrees = V^2 / [ S^2/(K-1) + I^2/(N-1) + R^2/((K-1)(N-1)) ],

    the degrees of freedom of Satterthwaite (1946), "An Approximate Distribution of Estimates of Variance Components",
    https://doi.org/10.2307/3002019. Where fits differ much there are about K - 1 of them, and three fits say little;
    where they do not, about N - 1. Resampling three seeds gives errors that are too small by a third (`clustered`).

    >>> crossed_mean([[0.0, 2.0, 4.0, 6.0], [1.0, 3.0, 5.0, 7.0]]).value
    3.5
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or min(x.shape) < 2 or not np.isfinite(x).all():
        raise InputError(
            f"values [seeds, images], two of each at least and all finite, are needed, got shape {x.shape} with"
            f" {int(np.isfinite(x).sum())} finite"
        )
    k, n = x.shape
    of_seeds, of_images = n * x.mean(1).var(ddof=1), k * x.mean(0).var(ddof=1)
    rest = ((x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()) ** 2).sum() / ((k - 1) * (n - 1))
    total = max(of_seeds + of_images - rest, of_seeds, of_images)
    if total == 0:
        return Mean(float(x.mean()), 0.0, float(n - 1))
    degrees = total**2 / (of_seeds**2 / (k - 1) + of_images**2 / (n - 1) + rest**2 / ((k - 1) * (n - 1)))
    return Mean(float(x.mean()), float(np.sqrt(total / (k * n))), float(min(max(degrees, 1.0), n - 1)))


def crossed(values: Sequence[Sequence[float]] | np.ndarray, *, level: float = 0.95) -> Interval:
    """Interval of the mean of values [K, N], K fits of N images: value -+ t error, Student's t of `crossed_mean`'s
    degrees; n is N."""
    m = crossed_mean(values)
    half = student_quantile((1 + level) / 2, m.degrees) * m.error
    return Interval(m.value, m.value - half, m.value + half, np.shape(values)[1])


def difference_p(
    differences: Sequence[float] | np.ndarray, *, fits: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """p-value, two-sided, of paired differences [K, N] having the mean 0.

    `sign_flip` of the images' means. fits: the seeds are shared by all images (fits of an h), and another fit might
    have come out
    otherwise: then the larger of that and of the t-test of `crossed_mean`.

    >>> three = np.array([[1.0], [-0.5], [0.1]]) + np.zeros((3, 40))  # sure about these three fits, not about the next
    >>> difference_p(three) < 0.001, difference_p(three, fits=True) > 0.5
    (True, True)
    """
    p = sign_flip(differences, resamples=resamples, seed=seed)
    d = np.asarray(differences, dtype=np.float64)
    return max(p, _fits_p(d)) if fits and d.ndim == 2 else p


def _fits_p(differences: np.ndarray) -> float:
    """Two-sided p-value of the mean of differences [K, N]; 0 for one seed or image, which say nothing of the next."""
    if min(differences.shape) < 2:
        return 0.0
    m = crossed_mean(differences)
    return student_p(m.value / m.error if m.error else math.inf if m.value else 0.0, m.degrees)


class Best(NamedTuple):
    """best: the method with the best mean. tied: it, and those not significantly worse, best first. p: corrected,
    against the best."""

    best: str
    tied: tuple[str, ...]
    p: dict[str, float]


def tied_for_best(
    values: Mapping[str, Sequence[float] | np.ndarray],
    better: str = "low",
    *,
    fits: Collection[str] = (),
    level: float = 0.05,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Best:
    """Which methods cannot be distinguished from the best one, by sign flips over the same images.

    Which method is best is itself found in the data, and the luckiest of M equal methods is ahead of the unluckiest
    more often than a test of two allows. Holm's correction is therefore over all M (M - 1) / 2 pairs, not over the M -
    1 with the best: then the probability that any of a set of equally good methods is called worse than another is at
    most `level`.

    Args:
        values: method -> [N] or [K, N] (K seeds), the same images for all.
        better: "low" or "high".
        fits: methods whose seeds are shared by all images, since each is a fit of an h; see `difference_p`.
    """
    if better not in ("low", "high"):
        raise InputError(f"better is 'low' or 'high', got {better!r}")
    names = list(values)
    rows = [np.asarray(v, dtype=np.float64) for v in values.values()]
    if (
        not rows
        or len({r.shape for r in rows}) > 1
        or rows[0].ndim not in (1, 2)
        or not all(np.isfinite(r).all() and r.size for r in rows)
    ):
        raise InputError(
            f"finite values of the same images are needed for each method, got shapes {[r.shape for r in rows]}"
        )
    x = np.stack([r.reshape(-1, r.shape[-1]).mean(0) for r in rows])
    means = x.mean(1) * (1 if better == "low" else -1)
    order = np.argsort(means, kind="stable")
    one, two = np.triu_indices(len(names), 1)
    p = np.ones((len(names), len(names)))
    raw = _p_values(x[one] - x[two], resamples, seed) if len(names) > 1 else np.empty(0)
    for at, (i, j) in enumerate(zip(one, two, strict=True)):
        if rows[i].ndim == 2 and not {names[i], names[j]}.isdisjoint(fits):
            raw[at] = max(raw[at], _fits_p(rows[i] - rows[j]))
    p[one, two] = p[two, one] = holm(raw)
    top = p[order[0]]
    return Best(
        names[order[0]], tuple(names[i] for i in order if top[i] >= level), {names[i]: float(top[i]) for i in order}
    )
