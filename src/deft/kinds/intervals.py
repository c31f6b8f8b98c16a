"""Factors that widen or narrow intervals so that they hold the truth as often as they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from deft.errors import CheckpointError, InputError
from deft.kinds.student import student_quantile


@dataclass(frozen=True)
class IntervalFactors:
    """Half of an interval of n samples with standard deviation s is

        c t sqrt(s^2 + f^2) sqrt(1 + 1/n),

    t the quantile of Student's t with n - 1 degrees of freedom, c a factor, f a small floor: a few samples that agree
    by chance are no proof. With f = 0, c is 1 for n independent samples of a Gaussian posterior, whatever n and the
    level; `deft.diagnose.conformal_factors` finds it on data. Between levels and numbers of samples that were looked at
    it is interpolated, in the level and in 1/n; outside it is that of the nearest.

    levels: rising. table: number of samples -> factor at each level. floor: f.

    >>> factors = IntervalFactors((0.8, 0.9), {4: (1.0, 1.2), 8: (1.0, 1.0)})
    >>> [round(factors.at(level, n), 3) for level, n in ((0.9, 4), (0.85, 4), (0.9, 6), (0.9, 100))]
    [1.2, 1.1, 1.067, 1.0]
    """

    levels: tuple[float, ...]
    table: Mapping[int, tuple[float, ...]]
    floor: float = 0.0

    def at(self, level: float, n: int) -> float:
        """c."""
        known = sorted(self.table, reverse=True)
        by_level = [float(np.interp(level, self.levels, self.table[k])) for k in known]
        return float(np.interp(1 / n, [1 / k for k in known], by_level))

    def half_width(self, level: float, n: int, std: Tensor) -> Tensor:
        """For the standard deviations of n samples, entry by entry."""
        if n < 2:
            raise InputError("an interval that is calibrated needs at least two samples of each measurement, got 1")
        return self.at(level, n) * student_scale(level, n) * (std.square() + self.floor**2).sqrt()

    def config(self) -> dict[str, Any]:
        """As JSON, for cards."""
        return {
            "levels": list(self.levels),
            "floor": float(f"{self.floor:.6g}"),
            "samples": {str(n): [round(v, 4) for v in row] for n, row in self.table.items()},
        }

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> IntervalFactors:
        """What `config` wrote.

        Raises:
            CheckpointError: it is something else.
        """
        try:
            levels = tuple(float(v) for v in config["levels"])
            table = {int(n): tuple(float(v) for v in row) for n, row in config["samples"].items()}
            floor = float(config["floor"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the factors of intervals in this card cannot be read: {error}") from error
        numbers = [floor, *levels, *(v for row in table.values() for v in row)]
        if (
            not table
            or not levels
            or any(len(row) != len(levels) for row in table.values())
            or min(table) < 2
            or any(low >= high for low, high in pairwise((0.0, *levels, 1.0)))
            or not all(math.isfinite(v) and v >= 0 for v in numbers)
        ):
            raise CheckpointError("the factors of intervals in this card are not of the form that this version reads")
        return IntervalFactors(levels, table, floor)


def student_scale(level: float, n: int) -> float:
    """t sqrt(1 + 1/n): the half of an interval for the next draw of a Gaussian, in standard deviations of n draws.

    >>> [round(student_scale(0.9, n), 2) for n in (2, 4, 16, 1000)]
    [7.73, 2.63, 1.81, 1.65]
    """
    return student_quantile((1 + level) / 2, n - 1) * math.sqrt(1 + 1 / n)


def same_factors(parts: Sequence[IntervalFactors | None]) -> IntervalFactors | None:
    """The factors that all parts have; None if they differ."""
    return parts[0] if all(p == parts[0] for p in parts) else None
