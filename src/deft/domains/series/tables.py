"""Tables of series as people have them: CSV with a header, a column of times and gaps, and .ts files of the UCR
archive."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deft.domains.series.clock import NAMES, ROWS, Clock, clock_of, moment, number
from deft.errors import InputError

MISSING = frozenset(("", "nan", "na", "n/a", "null", "none", "?", "-"))
"""What a cell without a value holds, in small letters."""
SEPARATORS = (",", ";", "\t")
LARGEST = 2**31
"""Bytes of a file that is read as text."""
MOST_ROWS = 50_000_000
"""Rows of the grid that a file's times may ask for."""


@dataclass(frozen=True)
class Table:
    """values [T, C], NaN where nobody measured, on the regular grid of `clock`. notes: what was assumed or filled with
    gaps."""

    columns: tuple[str, ...]
    values: np.ndarray
    clock: Clock = ROWS
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)


def read_csv(path: Path, columns: Sequence[str] = (), known: Sequence[str] = ()) -> Table:
    """A CSV file: one row for each time. columns: which ones to take; the others may hold text. known: those of the
    prior; where the file has them all, its others are passed over.

    The separator is a comma, a semicolon or a tab. The first row is a header if a cell of it is no number. A column of
    dates, or one that is called a time, is the time.

    Raises:
        InputError: in one line, what is wrong and where.
    """
    rows, separator = _rows(path)
    names = [c.strip() for c in rows[0]]
    header = any(number(c) is None and c.lower() not in MISSING for c in names) and moment(names[0]) is None
    if not header:
        names, first = [f"x{i + 1}" for i in range(len(rows[0]))], 1
    else:
        rows, first = rows[1:], 2
    if not rows:
        raise InputError(f"{path} has a header and no rows: give numbers below it")
    _check_rows(path, rows, names, separator, first)
    time = _time_column(names, rows, header)
    if not header and time is not None:  # variables count from 1
        names = ["time" if i == time else f"x{i + (i < time)}" for i in range(len(names))]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has two columns that are called {twice!r}: give each a name of its own")
    wanted, passed = [i for i in range(len(names)) if i != time], list[str]()
    if columns:
        lacking = [c for c in columns if c not in names]
        if lacking:
            raise InputError(f"{path} has no column {', '.join(lacking)}: it has {', '.join(names)}")
        wanted = [names.index(c) for c in columns]
    elif known and set(known) <= set(names):
        wanted, more = [names.index(c) for c in known], [names[i] for i in wanted if names[i] not in known]
        passed = [f"columns that the prior does not know are passed over: {', '.join(more)}"] if more else []
    if not wanted:
        raise InputError(f"{path} holds a column of times alone: give at least one of numbers beside it")
    comma = separator != "," and _decimal_comma(rows, wanted)
    values = np.stack([_column(path, rows, i, names[i], comma, first) for i in wanted], 1)
    if not np.isfinite(values).any():
        raise InputError(f"{path} holds no number: all {values.size} cells are empty or NaN")
    notes = [*passed, *(["its numbers have a decimal comma, which was read as a point"] if comma else [])]
    clock = Clock()
    if time is not None:
        clock, at = clock_of([r[time].strip() for r in rows], names[time] or "time", str(path))
        values, more = _on_grid(path, values, at)
        notes += more
    return Table(tuple(names[i] for i in wanted), values, clock, notes)


def _rows(path: Path) -> tuple[list[list[str]], str]:
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes, more than is read as text: write it as .npz")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8: save it as UTF-8, or give an .npz") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise InputError(f"{path} is empty: expected a header and rows of numbers")
    if "\0" in text:
        raise InputError(f"{path} is no text: write it as a CSV file, or give an .npz")
    separator = max(SEPARATORS, key=lambda s: (_even(lines[:20], s), lines[0].count(s)))
    try:
        return list(csv.reader(lines, delimiter=separator)), separator
    except csv.Error as error:
        raise InputError(f"{path} is no CSV file: {error}") from error


def _even(lines: Sequence[str], separator: str) -> bool:
    """Whether every line has as many of them, and some."""
    counts = {line.count(separator) for line in lines}
    return len(counts) == 1 and counts != {0}


def _check_rows(path: Path, rows: list[list[str]], names: Sequence[str], separator: str, first: int) -> None:
    """As many cells in each row as there are names."""
    for i, row in enumerate(rows):
        if len(row) == len(names):
            continue
        comma = separator == "," and len(row) in (2 * len(names), 2 * len(names) - 1)
        raise InputError(
            f"{path}: line {i + first} has {len(row)} cells, the first {len(names)}"
            + (
                ": a decimal comma in a file that is separated by commas? Write a decimal point, or separate by ;"
                if comma
                else ""
            )
        )


def _time_column(names: Sequence[str], rows: list[list[str]], header: bool) -> int | None:
    """Which column is the time: the first that begins with a date, or that is called so and holds numbers."""
    for i in range(len(names)):
        if moment(rows[0][i]) is not None:
            return i
    if header:
        for i, name in enumerate(names):
            if name.lower() in NAMES or (i == 0 and name == ""):
                return i
    return None


def _decimal_comma(rows: list[list[str]], wanted: Sequence[int]) -> bool:
    """Whether numbers have a decimal comma: some have one, and none has a point."""
    cells = [row[i] for row in rows[:1000] for i in wanted]
    return any(re.fullmatch(r"\s*[+-]?\d+,\d+\s*", c) for c in cells) and not any("." in c for c in cells)


def _column(path: Path, rows: list[list[str]], i: int, name: str, comma: bool, first: int) -> np.ndarray:
    """A column of numbers, NaN where a cell is empty."""
    out = np.full(len(rows), np.nan)
    for at, row in enumerate(rows):
        cell = row[i].strip()
        if cell.lower() in MISSING:
            continue
        try:
            out[at] = float(cell.replace(",", ".") if comma else cell)
        except ValueError:
            pointed = re.fullmatch(r"[+-]?\d+,\d+", cell)
            raise InputError(
                f"{path}: line {at + first}, column {name}, holds {cell!r:.40}, expected a number or an empty cell"
                + (": write decimal points, or commas alone, separated by ;" if pointed else "")
                + ("" if pointed else "; choose the columns of numbers with --data-option columns=A,B")
            ) from None
    out[~np.isfinite(out)] = np.nan
    return out


def _on_grid(path: Path, values: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Values on the regular grid, with gaps where nobody wrote a row."""
    length = int(at[-1]) + 1
    if length == len(values):
        return values, []
    if length > min(MOST_ROWS, 1000 * len(values)):
        raise InputError(
            f"{path}: {len(values)} rows are spread over {length:,} steps of time: the steps are irregular, bring them"
            " to a regular grid"
        )
    out = np.full((length, values.shape[1]), np.nan)
    out[at] = values
    return out, [f"{length - len(values)} times have no row, and are taken as gaps"]


def read_ts(path: Path) -> tuple[np.ndarray, list[str]]:
    """A .ts file of the UCR archive: (values [N, C, L], the label of each).

    Lines of header (`@...`) and comments (`#...`), then one series a line: channels separated by `:`, numbers by `,`,
    the label last, if `@classLabel true`.

    Raises:
        InputError: it has time stamps, or series of different length.
    """
    labelled, found, labels, data = False, [], [], False
    for n, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(("#", "%")):
            continue
        if not data:
            key, _, rest = line.partition(" ")
            labelled = rest.split()[:1] == ["true"] if key.lower() == "@classlabel" else labelled
            if key.lower() == "@timestamps" and rest.strip().lower() == "true":
                raise InputError(f"{path} has time stamps, which are not read: write it as a CSV file for each series")
            data = key.lower() == "@data"
            continue
        parts = line.split(":")
        labels.append(parts.pop().strip() if labelled and len(parts) > 1 else "")
        try:
            found.append([[np.nan if c.strip().lower() in MISSING else float(c) for c in p.split(",")] for p in parts])
        except ValueError:
            raise InputError(f"{path}: line {n} holds a cell that is no number") from None
    if not found:
        raise InputError(f"{path} holds no series: a .ts file has them below the line @data")
    shapes = {tuple(map(len, s)) for s in found}
    if len(shapes) > 1 or len(set(next(iter(shapes)))) > 1:
        raise InputError(f"{path} holds series of different lengths: cut them to one, and write them as .npz")
    return np.array(found, np.float64), labels
