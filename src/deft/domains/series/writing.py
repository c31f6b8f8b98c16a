"""Samples as CSV files, in the units and at the times of what was measured."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from deft.domains.series.clock import Clock
from deft.domains.series.units import Units
from deft.io.files import write_text
from deft.kinds.draws import Draws

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def _write(path: Path, header: list[str], times: list[str], columns: list[list[float]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for i, time in enumerate(times):
        writer.writerow([time, *(f"{c[i]:.6g}" for c in columns)])
    write_text(path, text.getvalue())


def write(units: Units, clock: Clock, folder: Path, name: str, x: Tensor) -> list[Path]:
    """One sample [C, L] as NAME.csv: a column of times, and one for each variable."""
    path, values = folder / f"{name}.csv", units.to_units(x).tolist()
    _write(path, [clock.name, *units.columns], clock.texts(x.shape[-1]), values)
    return [path]


def write_mean(units: Units, clock: Clock, folder: Path, draws: Draws) -> list[Path]:
    """mean.csv: the mean of the samples of the first measurement in their own units, with their weights.

    Of a variable that is seen as log1p(v) it is no image of the mean in model space, which would be too small: the mean
    of exp(z) is above exp of the mean of z.
    """
    total = torch.zeros(draws.x.shape[2:], dtype=torch.float64)
    for x, w in zip(draws.x[0], draws.weights[0].tolist(), strict=True):  # one by one: a copy of x is large
        total += w * units.to_units(x)
    path = folder / "mean.csv"
    _write(path, [clock.name, *units.columns], clock.texts(total.shape[-1]), total.tolist())
    return [path]


def quantiles_of(draws: Draws) -> Tensor:
    """The `QUANTILES` of the samples of the first measurement, [5, C, L], with their weights."""
    found = []
    for i in range(draws.x.shape[2]):  # a variable at a time: sorting takes three times the memory of what is sorted
        one = replace(draws[0], x=draws.x[:1, :, i])
        low, first, middle = (one.interval(level, calibrated=False) for level in (0.9, 0.5, 1e-9))
        found.append(torch.stack([low[0], first[0], (middle[0] + middle[1]) / 2, first[1], low[1]])[:, 0])
    return torch.stack(found, 1)


def write_draws(units: Units, clock: Clock, folder: Path, draws: Draws) -> list[Path]:
    """quantiles.csv: of each variable its 5, 25, 50, 75 and 95 %, as columns NAME 5 %, ..."""
    found = quantiles_of(draws)
    values = units.to_units(found)  # a rising map of each entry: quantiles stay what they are
    header = [f"{c} {100 * q:.0f} %" for c in units.columns for q in QUANTILES]
    columns = [values[j, i].tolist() for i in range(len(units)) for j in range(len(QUANTILES))]
    path = folder / "quantiles.csv"
    _write(path, [clock.name, *header], clock.texts(found.shape[-1]), columns)
    return [path]
