"""Windows of series from files, arrays and data frames, in model space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deft.domains.series.clock import ROWS, Clock, clock_of, moment
from deft.domains.series.tables import Table, read_csv, read_ts
from deft.domains.series.units import Units
from deft.domains.series.windows import bridged, kept, split_windows
from deft.errors import InputError, unknown
from deft.io.arrays import array_headers, read_arrays
from deft.io.text import some
from deft.kinds.records import Data

SUFFIXES = (".csv", ".tsv", ".txt")
HELD_OUT = 0.1
"""Share of a long series, at its end, that is held out of a fit where nobody says what is."""
MOST_MISSING = 0.05
"""Share of a window's entries that may be missing, for a prior to be trained on it."""
OVERLAP = 4
"""Windows to fit to begin a quarter of a window apart."""


@dataclass(frozen=True)
class Reading:
    """How series are read.

    event_shape: (C, L) of the prior, or None. units: of the prior, or None: they are found. split: of these windows
        (fit, validation, test). length: L, where there is no prior. stride: rows from one window to the next; default:
        a quarter of a window to fit to, a window else. columns: which variables to take. max_missing: share of a
        window's entries that may be missing. transform: "none", "log1p", or "auto".
    """

    event_shape: tuple[int, ...] | None = None
    units: Units | None = None
    split: str = "fit"
    length: int | None = None
    stride: int | None = None
    columns: tuple[str, ...] = ()
    max_missing: float = MOST_MISSING
    transform: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("stride", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise InputError(f"{name} is a whole number from {least}, got {value!r}")
        if not 0 <= self.max_missing < 1:
            raise InputError(f"max_missing is a share from 0 to below 1, got {self.max_missing}")
        asked = self.event_shape
        if asked is not None and self.length is not None and asked[1] != self.length:
            raise InputError(f"the prior makes {asked[1]} times, and --length is {self.length}: leave it out")

    @property
    def wanted(self) -> int | None:
        """L, if it is known."""
        return self.length if self.event_shape is None else self.event_shape[1]

    @property
    def known(self) -> tuple[str, ...]:
        """The variables to take, by name; () for all."""
        return self.units.columns if self.units is not None else self.columns


def read(source: str, reading: Reading) -> Data:
    """Windows of a CSV file, a folder of them, an .npz or .npy, or a .ts file.

    source: FILE, FILE.csv:FROM..TO (dates or numbers, either may be left out; TO is not among them), FILE.npz:NAME.

    Raises:
        InputError: in one line, what is wrong and where.
    """
    path, part = _split(source)
    if not path.exists():
        raise InputError(f"no such file or folder: {path}")
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not files:
            raise InputError(f"{path} holds no .csv: give a folder of series, one a file, or an .npz")
        return from_tables([_between(_table(f, reading), part, str(f)) for f in files], str(path), reading)
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        return _arrays(path, part, reading)
    if suffix == ".ts":
        values, labels = read_ts(path)
        numbers = {name: i for i, name in enumerate(sorted(set(labels)))}
        found = from_windows(values, str(path), reading)
        kept_rows = [int(n) for n in found.names]
        known = torch.tensor([numbers[labels[i]] for i in kept_rows]) if len(numbers) > 1 else None
        return replace(found, labels=known)
    if suffix in SUFFIXES:
        return from_tables([_between(_table(path, reading), part, str(path))], str(path), reading)
    raise InputError(
        f"{path} is none of the files that are read: .csv, .tsv, .txt, .npz, .npy, .ts, or a folder of CSV"
    )


def read_named(
    source: str,
    event_shape: tuple[int, ...] | None,
    units: Units | None,
    *,
    split: str = "test",
    length: int | None = None,
    stride: int | None = None,
    columns: str = "",
    max_missing: float = MOST_MISSING,
    transform: str = "auto",
) -> Data:
    """`read` with options as commands give them: `Reading` says what they are; columns: names with commas between."""
    named = tuple(c.strip() for c in str(columns).split(",") if c.strip())
    if not isinstance(max_missing, (int, float)):
        raise InputError(f"max_missing is a share from 0 to below 1, got {max_missing!r}")
    return read(source, Reading(event_shape, units, split, length, stride, named, max_missing, str(transform)))


def _split(source: str) -> tuple[Path, str]:
    """(path, part) of FILE:PART; what follows the suffix is the part."""
    if Path(source).exists():
        return Path(source), ""
    for suffix in (*SUFFIXES, ".npz", ".npy"):
        at = source.lower().find(f"{suffix}:")
        if at >= 0:
            return Path(source[: at + len(suffix)]), source[at + len(suffix) + 1 :]
    return Path(source), ""


def _table(path: Path, reading: Reading) -> Table:
    """A CSV, its variables in the order of the prior's, if there is one."""
    if reading.units is None:
        return read_csv(path, reading.columns)
    table = read_csv(path, reading.columns, reading.units.columns)
    chosen = [i for i in reading.units.pick(table.columns, str(path), all_of=True) if i is not None]
    return replace(table, columns=reading.units.columns, values=table.values[:, chosen])


def _between(table: Table, part: str, where: str) -> Table:
    """The rows of FROM..TO."""
    if not part:
        return table
    first, dots, last = part.partition("..")
    if not dots:
        raise InputError(f"{where}:{part}: a part of a series is FROM..TO, such as ..2016-01-01 or 2016-01-01..")
    ends = [table.clock.row(text, where) if text else usual for text, usual in ((first, -np.inf), (last, np.inf))]
    at = np.arange(len(table))
    inside = np.nonzero((at > ends[0] - 1e-6) & (at < ends[1] - 1e-6))[0]
    if not len(inside):
        raise InputError(
            f"{where}:{part} holds no row: the series goes from {table.clock.text(0)} to"
            f" {table.clock.text(len(table) - 1)}"
        )
    rows = slice(int(inside[0]), int(inside[-1]) + 1)
    return replace(table, values=table.values[rows], clock=table.clock.moved(int(inside[0])))


def from_tables(tables: Sequence[Table], where: str, reading: Reading) -> Data:
    """Windows of long series, each on its own clock. To fit to: those of the first nine tenths of each, then those of
    its end, which are `last`."""
    length = _length(reading, min(len(t) for t in tables), where)
    notes: list[str] = []
    for t in tables:
        if t.columns != tables[0].columns:
            raise InputError(f"{where}: a file has the columns {some(t.columns)}, another {some(tables[0].columns)}")
        notes += [n for n in t.notes if n not in notes]
        _same_step(t.clock, reading, where)
    stride = reading.stride or (max(1, length // OVERLAP) if reading.split == "fit" else length)
    share = HELD_OUT if reading.split == "fit" else 0.0
    first, last, more = split_windows([t.values for t in tables], length, stride, share, reading.max_missing)
    return _windows(first, last, tables[0], where, reading, [*notes, *(f"{where}: {note}" for note in more)])


def from_windows(
    values: np.ndarray, where: str, reading: Reading, columns: Sequence[str] = (), clock: Clock = ROWS
) -> Data:
    """Windows [N, C, L] that are given as such."""
    if values.ndim != 3 or 0 in values.shape:
        raise InputError(f"{where} has shape {list(values.shape)}, expected windows [N, C, L] or one series [T, C]")
    names = tuple(columns) or tuple(f"x{i + 1}" for i in range(values.shape[1]))
    if len(names) != values.shape[1]:
        raise InputError(f"{where} has {values.shape[1]} variables and {len(names)} names of columns: one for each")
    chosen = list(range(len(names)))
    if reading.units is not None:
        chosen = [i for i in reading.units.pick(names, where, all_of=True) if i is not None]
    elif reading.columns:
        for c in reading.columns:
            if c not in names:
                raise unknown("column", c, names)
        chosen = [names.index(c) for c in reading.columns]
    length, columns = reading.wanted, tuple(names[i] for i in chosen)
    if length is not None and values.shape[2] > length:  # long series, such as one of each station
        return from_tables([Table(columns, v[chosen].T, clock) for v in values], where, reading)
    if length is not None and values.shape[2] < length:
        raise InputError(
            f"{where} has series of {values.shape[2]} times ({list(values.shape)} is read as [N, C, L]), too few for"
            f" one window of {length}"
        )
    _same_step(clock, reading, where)
    turned = [_TURNED.format(where, *values.shape[1:])] if values.shape[1] > values.shape[2] else []
    return _windows(values[:, chosen], None, Table(columns, np.empty((0, len(chosen))), clock), where, reading, turned)


_TURNED = "note: {} is read as {} variables at {} times, [N, C, L]: if it is [N, L, C], turn the axes"


def _arrays(path: Path, part: str, reading: Reading) -> Data:
    """An .npz or .npy: windows [N, C, L] or one series [T, C], under the name x, data, or `part`. Beside it `columns`,
    the names of the variables, and `step`, the seconds from one time to the next."""
    headers = array_headers(path)
    usual = [n for n, (shape, _) in headers.items() if len(shape) in (2, 3)]
    name = part or next((n for n in ("x", "data") if n in usual), usual[0] if len(usual) == 1 else "")
    if name not in headers:
        raise InputError(
            f"{path} holds the arrays {', '.join(headers)}: say which are the series, {path}:NAME"
            if not part
            else str(unknown(f"array of {path}", part, headers))
        )
    arrays = read_arrays(path, [name, "columns", "variables", "step"])
    values, where = arrays[name], f"{path}[{name}]"
    if values.dtype.kind not in "fiu":
        raise InputError(f"{where} holds {values.dtype}, expected real numbers")
    values = values.astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    if not np.isfinite(values).any():
        raise InputError(f"{where} holds no number: all {values.size} are NaN or infinite")
    named = next((arrays[k] for k in ("columns", "variables") if k in arrays), None)
    columns = () if named is None or named.dtype.kind != "U" else tuple(str(c) for c in named.ravel())
    clock = _stepped(arrays["step"], f"{path}[step]") if "step" in arrays else ROWS
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim == 2:
        return from_array(values, columns, where, reading, clock)
    return from_windows(values, where, reading, columns, clock)


def _stepped(step: np.ndarray, where: str) -> Clock:
    if step.size != 1 or step.dtype.kind not in "fiu" or not float(step.ravel()[0]) > 0:
        raise InputError(f"{where} is the number of seconds from one time to the next, above 0; got {step!r:.60}")
    return Clock("date", 0.0, float(step.ravel()[0]), long=True)


def from_array(values: np.ndarray, columns: Sequence[str], where: str, reading: Reading, clock: Clock = ROWS) -> Data:
    """One long series [T, C]."""
    names = tuple(columns) or tuple(f"x{i + 1}" for i in range(values.shape[1]))
    if len(names) != values.shape[1]:
        raise InputError(f"{where} has {values.shape[1]} columns and {len(names)} names of them: give one for each")
    chosen: list[int] = list(range(len(names)))
    if reading.units is not None:
        chosen = [i for i in reading.units.pick(names, where, all_of=True) if i is not None]
        names = reading.units.columns
    elif reading.columns:
        chosen = [names.index(c) if c in names else -1 for c in reading.columns]
        if -1 in chosen:
            raise unknown("column", reading.columns[chosen.index(-1)], names)
        names = reading.columns
    return from_tables([Table(tuple(names), values[:, chosen], clock)], where, reading)


def from_frame(frame: Any, length: int, **options: Any) -> Data:
    """Windows of a pandas data frame: one row for each time, one column for each variable. An index of dates is the
    time.

    options: as `Reading` has them.

    >>> class Frame:  # what is asked of a frame
    ...     columns, index = ["a"], range(8)
    ...     def to_numpy(self, dtype): return np.arange(8.0)[:, None] ** 2
    >>> from_frame(Frame(), 4, split="test").x.shape
    torch.Size([2, 1, 4])
    """
    try:
        values = np.asarray(frame.to_numpy(dtype=float), np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"the data frame holds a column that is no number ({error}): leave it out") from error
    cells = [str(t) for t in frame.index]
    clock, at = (
        clock_of(cells, str(getattr(frame.index, "name", None) or "time"), "the data frame")
        if cells and moment(cells[0]) is not None
        else (ROWS, np.arange(len(values)))
    )
    grid = np.full((int(at[-1]) + 1 if len(at) else 0, values.shape[1]), np.nan)
    grid[at] = values
    reading = Reading(length=length, **options)
    return from_tables([Table(tuple(str(c) for c in frame.columns), grid, clock)], "the data frame", reading)


def _length(reading: Reading, shortest: int, where: str) -> int:
    length = reading.wanted
    if length is None:
        raise InputError(
            f"{where} is one long series: say how long a window is, with --prior, or with"
            " --length for a new prior (96 hours, say)"
        )
    if shortest < length:
        raise InputError(f"{where} has {shortest} times, too few for one window of {length}: give a longer series")
    return length


def _same_step(clock: Clock, reading: Reading, where: str) -> None:
    units = reading.units
    if units is not None and clock.kind == units.time == "date" and abs(clock.step / units.step - 1) > 1e-6:
        theirs = Clock("date", 0.0, units.step).step_text()
        raise InputError(
            f"{where} has a step of {clock.step_text()}, and the prior was trained on steps of {theirs}: bring it to"
            " that step, with empty cells where nothing was measured"
        )


def _windows(
    first: np.ndarray, last: np.ndarray | None, table: Table, where: str, reading: Reading, notes: Iterable[str]
) -> Data:
    """Windows [N, C, L] in their own units, and held-out ones, as `Data`."""
    whole = first if last is None else np.concatenate([first, last])
    good = kept(whole, reading.max_missing)
    said, n = list(notes), len(whole)
    if not good.all():
        said.append(
            f"{n - int(good.sum())} of {n} windows lack more than {100 * reading.max_missing:g} % of their entries, or"
            " a whole variable, and are left out"
        )
    if not good.any():
        raise InputError(
            f"{where}: each of {n} windows of {whole.shape[2]} times lacks more than {100 * reading.max_missing:g} % of"
            " its entries: give data with fewer gaps, shorter windows, or --data-option max_missing=0.3"
        )
    fitted = int(good[: len(first)].sum())
    if not fitted:
        raise InputError(f"{where}: no window of its first nine tenths is left: give data with fewer gaps")
    values = whole[good]
    seen = np.isfinite(values)
    units = reading.units or Units.found(table.columns, values[:fitted], reading.transform, table.clock)
    if reading.units is None and any(units.transform):
        logs = some([c for c, t in zip(units.columns, units.transform, strict=True) if t])
        said.append(f"seen as log(1 + value), since they are skewed: {logs} (transform=none leaves them)")
    x = torch.from_numpy(bridged(units.to_model(values).numpy()))
    held = torch.arange(fitted, len(values))
    return Data(
        x, [str(i) for i in np.nonzero(good)[0]], None, said,
        seen=None if seen.all() else torch.from_numpy(seen), last=held if len(held) else None, card=units.card(),
    )  # fmt: skip
