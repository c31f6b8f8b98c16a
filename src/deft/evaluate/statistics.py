"""Intervals for means over images: the bootstrap, plain and paired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deft.errors import InputError

RESAMPLES = 10_000


class Interval(NamedTuple):
    """A mean over n images with the interval (low, high)."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(values: Sequence[float] | np.ndarray, *, resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile interval of the mean, by resampling images (Efron & Tibshirani 1993, chapter 13).

    >>> interval = bootstrap([0.0, 1.0] * 50)
    >>> interval.value, 0.39 < interval.low < 0.42, 0.58 < interval.high < 0.61
    (0.5, True, True)
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if not len(x) or not np.isfinite(x).all():
        raise InputError(f"an interval needs at least one finite number, got {len(x)} of which {int(np.isfinite(x).sum())} finite")
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
        raise InputError(f"a paired difference needs the same images on both sides, got {x.shape} and {y.shape} values")
    return bootstrap(x - y, **options)  # type: ignore[arg-type]
