"""How often intervals hold the truth, over measurements and entries, with a band for all levels at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deft.diagnose.figures import curves_in_band
from deft.errors import InputError
from deft.kinds.draws import Draws

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Coverage:
    """Share of entries whose interval holds the truth.

    levels: asked for, [L]. each: of each measurement, [N, L]. confidence: of the band, which holds for all levels at
    once.
    """

    levels: np.ndarray
    each: np.ndarray
    confidence: float = 0.95

    @property
    def value(self) -> np.ndarray:
        """Mean over measurements, [L]."""
        return self.each.mean(0)

    @property
    def error(self) -> np.ndarray:
        """Standard error of `value`: entries of one measurement hang together, measurements do not."""
        return self.each.std(0, ddof=1) / np.sqrt(len(self.each))

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each [L]: value -+ t e, so that all levels are inside at once. e^2 = (N v + l (1 - l)) / N^2 is
        the squared error with one measurement more of what is expected, v the variance over measurements: N that
        happen to agree are no proof. t is found by resampling measurements, each resample with its own e. With fewer
        than some fifty measurements of a single entry it is left more often than `confidence` says."""
        rng = np.random.default_rng(35)
        again = self.each[rng.integers(0, len(self.each), (RESAMPLES, len(self.each)))]
        off = np.abs(again.mean(1) - self.value) / self._error(again.var(1))
        half = np.quantile(off.max(1), self.confidence) * self._error(self.each.var(0))
        return self.value - half, self.value + half

    def _error(self, variance: np.ndarray) -> np.ndarray:
        n = len(self.each)
        return np.maximum(np.sqrt(n * variance + self.levels * (1 - self.levels)) / n, 1e-12)

    @property
    def passed(self) -> bool:
        """Whether every level is inside the band."""
        low, high = self.band
        return bool(((low <= self.levels) & (self.levels <= high)).all())

    def __repr__(self) -> str:
        lines = [f"Coverage of {len(self.each)} measurements (level: share that holds the truth, band)"]
        for level, value, low, high in zip(self.levels, self.value, *self.band, strict=True):
            lines.append(f"  {level:.2f}: {value:.3f} [{low:.3f}, {high:.3f}]")
        return "\n".join(lines)

    def picture(self) -> bytes | None:
        """A PNG: share against level, with the band and the diagonal; None without matplotlib."""
        return curves_in_band(
            self.levels,
            np.stack([self.levels, self.value], 1),
            *self.band,
            names=("as it should be", "measured"),
            labels=("level of the interval", "share that holds the truth"),
            title=f"{len(self.each)} measurements; band at {self.confidence:g}",
            marks="o-",
        )

    _repr_png_ = picture


def interval_coverage(
    draws: Draws,
    truth: Tensor,
    levels: Sequence[float] = LEVELS,
    *,
    where: Tensor | None = None,
    calibrated: bool = True,
    confidence: float = 0.95,
) -> Coverage:
    """How often `draws.interval(level)` holds the truth [N, *data], entry by entry.

    Args:
        where: 1 at the entries that count, [N or 1, *data] or broadcast; a measurement without any is left out.
        calibrated: as in `Draws.interval`. Raw intervals of n samples hold less than their level even of the exact
            posterior: at most (n - 1) / (n + 1).
        confidence: of the band.

    Raises:
        InputError: truth of another shape, or fewer than two measurements.

    >>> from deft.testing import gaussian_pairs
    >>> found = interval_coverage(*gaussian_pairs(400, 4), [0.9])
    >>> bool(0.5 < found.value[0] < 0.62), found.passed  # of four samples: 3 / 5, less what 0.9 leaves out
    (True, False)
    """
    if truth.shape != (len(draws), *draws.x.shape[2:]):
        raise InputError(
            f"truth has shape {tuple(truth.shape)}, expected {(len(draws), *draws.x.shape[2:])}: one for each"
            " measurement"
        )
    counts = torch.ones_like(truth) if where is None else where.to(truth).expand_as(truth)
    total = counts.flatten(1).sum(1)
    if int((total > 0).sum()) < 2:
        raise InputError("coverage is a share of measurements: give two at least")
    rows = []
    for level in levels:
        low, high = draws.interval(level, calibrated=calibrated)
        inside = ((low <= truth) & (truth <= high)).to(truth) * counts
        rows.append((inside.flatten(1).sum(1) / total)[total > 0])
    return Coverage(np.asarray(levels, dtype=float), torch.stack(rows, 1).double().cpu().numpy(), confidence)
