"""One measurement from a table: its gaps are what is not seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deft.domains.series.clock import Clock
from deft.domains.series.reading import SUFFIXES
from deft.domains.series.tables import Table, read_csv
from deft.domains.series.tasks import DenoiseSeries, Forecast, Gapped, Resolution
from deft.domains.series.units import Units
from deft.errors import InputError
from deft.io.measurements import observation
from deft.kinds.records import Measured


def read_measured(
    path: Path,
    task: Any,
    event_shape: tuple[int, ...],
    units: Units,
    *,
    start: object = None,
    columns: object = "",
) -> tuple[Measured, Clock]:
    """(the measurement, the times of its samples) of a CSV of one series in its own units.

    start: the first time of the window, where the file has more times than the prior makes: a date, a number, or the
        number of a row from 0, as the file's times are. Of a longer file `forecast` takes the last times by itself.
    columns: names of columns to take, with commas between.

    For the tasks of gaps (impute, forecast, cross-channel) its empty cells, the columns that it lacks and the times
    after its end are not seen; for `denoise-series` it has no gap; for `resolution` a row is the mean over `factor`
    times.

    Raises:
        InputError: in one line, what is wrong and where.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is no table: a measurement of series is a CSV file, or an .npz with y (deft measure)")
    table = read_csv(path, tuple(c.strip() for c in str(columns).split(",") if c.strip()), units.columns)
    if len(table) == 1 and table.clock.kind == "date":  # one time says no step
        coarsened = units.step * (task.factor if isinstance(task, Resolution) else 1)
        table = replace(table, clock=replace(table.clock, step=coarsened, long=True))
    coarse = task.factor if isinstance(task, Resolution) else 1
    times = -(-event_shape[1] // coarse)
    _check_step(table, units, path, coarse)
    table, which = _cut(table, times, task, path, start)
    values = np.full((event_shape[0], times), np.nan)
    for i, column in enumerate(units.pick(table.columns, str(path), all_of=False)):
        if column is not None:
            values[i, : len(table)] = table.values[:, column]
    seen = np.isfinite(values)
    notes = [*table.notes, *which, *_said(table, units, seen, times, task)]
    arrays: dict[str, Any] = {"y": np.nan_to_num(_model(units, values, task, path))[None]}
    if isinstance(task, Gapped):
        arrays["mask"] = seen[None].astype(np.float32)
    elif not seen.all():
        raise InputError(
            f"{path} lacks {int((~seen).sum())} of {seen.size} values, and the task {task.name} sees all of them: take"
            " --task impute" + (" --sigma-y 0.3" if isinstance(task, DenoiseSeries) else "") + ", which leaves gaps out"
        )
    if not arrays["y"].any():
        arrays["y"] += 1e-12  # the mean of every variable is a measurement as any other
    obs = observation(str(path), arrays, task, event_shape)
    more = {"mask": torch.from_numpy(seen).float()} if isinstance(task, Gapped) else {}
    clock = table.clock if coarse == 1 else replace(table.clock, step=table.clock.step / coarse)
    return Measured(obs, more, (), notes), clock


def _model(units: Units, values: np.ndarray, task: Any, path: Path) -> np.ndarray:
    if isinstance(task, Resolution) and any(units.transform):
        logs = ", ".join(c for c, t in zip(units.columns, units.transform, strict=True) if t)
        raise InputError(
            f"{path}: the prior sees the logarithm of {logs}, of which a mean of values says nothing exact: train one"
            " with --data-option transform=none, or give an .npz with y in model space"
        )
    if any(units.transform):
        low = np.array([[-1.0 if t else -np.inf] for t in units.transform])
        bad = values <= low
        if bad.any():
            i = int(np.nonzero(bad)[0][0])
            raise InputError(
                f"{path}: {units.columns[i]} has the value {values[i][bad[i]][0]:g}, and the prior sees its logarithm,"
                " log(1 + value): leave the cell empty if it is no measurement"
            )
    return units.to_model(values).double().numpy()


def _check_step(table: Table, units: Units, path: Path, coarse: int) -> None:
    clock = table.clock
    if len(table) < 2 or not clock.kind == units.time == "date":
        return
    if abs(clock.step / (units.step * coarse) - 1) > 1e-6:
        theirs = replace(clock, step=units.step * coarse).step_text()
        raise InputError(
            f"{path} has a step of {clock.step_text()}, and the prior was trained on steps of {theirs}: bring it to"
            " that step, with empty cells where nothing was measured"
        )


def _cut(table: Table, times: int, task: Any, path: Path, start: object) -> tuple[Table, list[str]]:
    """(the window that is asked for, which one it is, for people)."""
    past = times - task.hidden(times) if isinstance(task, Forecast) else times
    known = len(table) if start is not None else int(np.isfinite(table.values).any(1).nonzero()[0][-1]) + 1
    if isinstance(task, Forecast) and known >= times:  # nothing would be left to forecast
        first = known - past
    else:
        first, known = 0, len(table)
    if start is not None:
        at = table.clock.row(str(start), f"--data-option start of {path}")
        first = round(at)
        if abs(at - first) > 1e-3 or not 0 <= first < len(table):
            raise InputError(
                f"--data-option start={start}: {path} has no such time, it goes from {table.clock.text(0)} to"
                f" {table.clock.text(len(table) - 1)} in steps of {table.clock.step_text()}"
            )
        known = min(len(table), first + past)
    elif len(table) > times and first == 0:
        raise InputError(
            f"{path} has {len(table)} times, and the prior makes {times}"
            + (f" means for {task.name}" if isinstance(task, Resolution) else "")
            + f": give {times} of them at the most, or say where they begin, --data-option"
            f" start='{table.clock.text(len(table) - times)}'"
        )
    if (first, known) == (0, len(table)):
        return table, []
    window = replace(table, values=table.values[first:known], clock=table.clock.moved(first))
    if not np.isfinite(window.values).any():
        raise InputError(f"{path} holds no value from {table.clock.text(first)} to {table.clock.text(known - 1)}")
    other = "" if start is not None else "; --data-option start=TIME takes others"
    return window, [f"taken are the times {table.clock.text(first)} to {table.clock.text(known - 1)}{other}"]


def _said(table: Table, units: Units, seen: np.ndarray, times: int, task: Any) -> list[str]:
    """What of the file is not seen."""
    lacking = [c for c in units.columns if c not in table.columns] if set(units.columns) & set(table.columns) else []
    out = [f"{', '.join(lacking)}: not in the file, never seen"] if lacking else []
    if len(table) < times:
        out.append(f"{len(table)} of {times} times are in the file, the last {times - len(table)} are not seen")
    nothing = ": nothing is left to fill" if seen.all() and isinstance(task, Gapped) else ""
    return [*out, f"{int(seen.sum())} of {seen.size} values are seen{nothing}"]
