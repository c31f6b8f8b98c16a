"""The times of a series: a start and a step, as dates, as numbers, or as numbers of rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np

from deft.errors import InputError

NAMES = ("time", "date", "datetime", "timestamp", "date_time", "index", "t", "hour", "step")
"""What a column of times is called (in any case), so that it may hold plain numbers. A column of dates is told by what
it holds."""
UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))

EXPECTED = "a date such as 2016-01-31 13:00 or 31.01.2016 13:00"


@dataclass(frozen=True)
class Clock:
    """Time i is start + i step. kind: "date" (seconds since 1970, UTC), "number", or "row" (nobody said). name: of the
    column. long: dates are written with the time of day."""

    kind: str = "row"
    start: float = 0.0
    step: float = 1.0
    name: str = "time"
    long: bool = False

    def text(self, i: int) -> str:
        """Time i as a table has it.

        >>> Clock("date", 0.0, 3600.0, long=True).text(26), Clock("number", 5.0, 0.5).text(1)
        ('1970-01-02 02:00:00', '5.5')
        """
        at = self.start + i * self.step
        if self.kind != "date":
            return f"{at:.10g}"
        moment = datetime.fromtimestamp(at, timezone.utc)
        return moment.strftime("%Y-%m-%d %H:%M:%S" if self.long else "%Y-%m-%d")

    def texts(self, count: int) -> list[str]:
        return [self.text(i) for i in range(count)]

    def moved(self, rows: int) -> Clock:
        return replace(self, start=self.start + rows * self.step)

    def row(self, text: str, where: str) -> float:
        """The row of the grid that a time is on, which may lie between two.

        Raises:
            InputError: it is no time of this kind.
        """
        at = (moment if self.kind == "date" else number)(text)
        if at is None:
            kind = "a date such as 2016-01-31" if self.kind == "date" else "a number"
            raise InputError(f"{where}: {text!r} is no time of this series, expected {kind}")
        return (at - self.start) / self.step

    def step_text(self) -> str:
        """The step in words.

        >>> Clock("date", 0.0, 7200.0).step_text(), Clock().step_text()
        ('2 hours', '1 row')
        """
        if self.kind == "date":
            for seconds, unit in UNITS:
                if self.step % seconds == 0 and self.step >= seconds:
                    n = int(self.step // seconds)
                    return f"{n} {unit}{'s' * (n != 1)}"
            return f"{self.step:g} seconds"
        return f"{self.step:g}" + (f" row{'s' * (self.step != 1)}" if self.kind == "row" else "")


ROWS = Clock()
"""Of a series of which nobody said the times."""


def moment(cell: str) -> float | None:
    """Seconds since 1970 of an ISO date, or of day.month.year; None for what is none. Without a zone it is taken as
    UTC.

    >>> moment("1970-01-02"), moment("1970-01-01 01:00"), moment("17.3"), moment("1970-01-01T00:00:00Z")
    (86400.0, 3600.0, None, 0.0)
    >>> moment("2.1.1970"), moment("01.01.1970 01:00")
    (86400.0, 3600.0)
    """
    dotted = re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(.*)", cell.strip())
    if dotted:
        cell = f"{dotted[3]}-{dotted[2]:0>2}-{dotted[1]:0>2}{dotted[4]}"
    if len(cell) < 8 or cell.count("-") < 2:
        return None
    try:
        found = datetime.fromisoformat(cell.strip().replace("Z", "+00:00"))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def clock_of(cells: Sequence[str], name: str, where: str) -> tuple[Clock, np.ndarray]:
    """(the clock of a column of times, the row of the regular grid [T] that each is on).

    The step is the least between neighbours; a gap of several steps is rows that nobody wrote.

    Raises:
        InputError: a time that cannot be read, one that is there twice, that goes back, or that is off the grid.
    """
    dates = moment(cells[0]) is not None
    read = [moment(c) if dates else number(c) for c in cells]
    for i, at in enumerate(read):
        if at is None:
            raise InputError(
                f"{where}: row {i + 1} has the time {cells[i]!r:.40}, expected "
                + (EXPECTED if dates else f"a number, or {EXPECTED}")
            )
    times = np.array(read, np.float64)
    long = dates and any(len(c.strip()) > 10 for c in cells)
    kind = "date" if dates else "number"
    if len(times) == 1:
        return Clock(kind, float(times[0]), 1.0, name, long), np.zeros(1, int)
    gaps = np.diff(times)
    if (gaps == 0).any():
        i = int(np.nonzero(gaps == 0)[0][0])
        raise InputError(
            f"{where}: rows {i + 1} and {i + 2} have the same time {cells[i]}: each time may be there once"
        )
    if (gaps < 0).any():
        i = int(np.nonzero(gaps < 0)[0][0])
        twice = times[i + 1] in times[: i + 1]
        raise InputError(
            f"{where}: row {i + 2} ({cells[i + 1]}) is "
            + ("a time that an earlier row has: each may be there once" if twice else f"before row {i + 1}: sort it")
        )
    step = float(gaps.min())
    at = (times - times[0]) / step
    off = np.abs(at - at.round()) > 1e-3 * np.maximum(1, np.arange(len(at)) * 1e-3)
    if off.any():
        i = int(np.nonzero(off)[0][0])
        told = Clock(kind, 0.0, step).step_text()
        raise InputError(
            f"{where}: the steps of time are irregular: row {i + 1} ({cells[i]}) is not a whole number of steps of"
            f" {told} after the first: bring it to a regular grid, with empty cells where nothing was measured"
        )
    return Clock(kind, float(times[0]), step, name, long), at.round().astype(int)
