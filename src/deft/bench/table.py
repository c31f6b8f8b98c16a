"""The one writer of tables: as Markdown, as aligned columns for a terminal, as CSV; and how numbers stand in them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from deft.bench.statistics import Best, Interval
from deft.io.text import markdown_cell
from deft.kinds.domain import Metric

TIED = "≈"
"""Beside a number that cannot be distinguished from the best of its column."""
NONE = "–"
"""Where nothing was measured."""
ARROWS = {"high": " ↑", "low": " ↓", "": ""}
"""Behind the title of a metric: what is better."""


class Table:
    """Titles of columns, and rows of as many cells.

    >>> table = Table("", "PSNR")
    >>> table.add("DEFT", "21.3")
    >>> table.markdown()
    ['| | PSNR |', '|---|---|', '| DEFT | 21.3 |']
    >>> table.terminal()
    ['      PSNR', 'DEFT  21.3']
    """

    def __init__(self, *titles: str):
        self.titles = titles
        self.rows: list[tuple[str, ...]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, *cells: str) -> None:
        if len(cells) != len(self.titles):
            raise ValueError(f"{len(cells)} cells for {len(self.titles)} columns")
        self.rows.append(cells)

    def markdown(self) -> list[str]:
        """Lines. The title of a column may be empty, its cells too."""
        head = "|" + "".join(f" {markdown_cell(t)} |" if t else " |" for t in self.titles)
        rows = (" | ".join(map(markdown_cell, cells)) for cells in self.rows)
        return [head, "|---" * len(self.titles) + "|", *(f"| {row} |" for row in rows)]

    def terminal(self) -> list[str]:
        """Lines, every column as wide as its widest cell."""
        everything = [self.titles, *self.rows]
        widths = [max(len(row[i]) for row in everything) for i in range(len(self.titles))]
        return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in everything]


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a column for each key of the first row; truths are 1 and 0, numbers have four digits behind the point.

    >>> csv_text([{"file": "a", "length": 60, "good": True, "rmsd": 0.25}])
    'file,length,good,rmsd\\na,60,1,0.2500\\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(
            [int(v) if isinstance(v, bool) else f"{v:.4f}" if isinstance(v, float) else v for v in row.values()]
        )
    return text.getvalue()


# numbers


def number(value: float, digits: int, signed: bool = False) -> str:
    """With so many digits behind the point; without any, thousands are set apart.

    >>> number(1234.4, 0), number(0.25, 2, signed=True)
    ('1,234', '+0.25')
    """
    text = f"{value:,.0f}" if digits == 0 else f"{value:.{digits}f}"
    return f"+{text}" if signed and value > 0 else text


def with_interval(i: Interval, digits: int, *, signed: bool = False, mark: str = "") -> str:
    """value [low, high]. mark: "best" for bold, `TIED` for what cannot be distinguished from the best.

    >>> with_interval(Interval(0.5, 0.25, 0.75, 40), 2, mark="best")
    '**0.50** [0.25, 0.75]'
    """
    value = number(i.value, digits, signed)
    value = f"**{value}**" if mark == "best" else f"{value} {mark}" if mark else value
    return f"{value} [{number(i.low, digits)}, {number(i.high, digits)}]"


def mark_of(name: str, best: Best | None) -> str:
    """ "best", `TIED`, or nothing."""
    if best is None:
        return ""
    return "best" if name == best.best else TIED if name in best.tied else ""


def times(value: float) -> str:
    """A number of samples after which something has paid for itself."""
    return "never" if math.isinf(value) else "at once" if value == 0 else f"{math.ceil(value):,}"


def heading(metric: Metric, target: float | None = None) -> str:
    """The title of a metric's column, with what is better or right."""
    return metric.title + ARROWS[metric.better] + ("" if target is None else f" ({target:g} is right)")


def listed(names: Sequence[str]) -> str:
    """In words: "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def capital(text: str) -> str:
    """With a capital first letter; the others stay as they are."""
    return text[:1].upper() + text[1:]


def side_by_side(numbers: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    """Several metrics in one cell: shares in per cent, with one sign behind a run of them; nothing for what is missing
    or NaN.

    >>> shares = [Metric(name, "", form="share", digits=0) for name in "ab"]
    >>> side_by_side({"a": 0.97, "b": 0.5, "c": 1.25}, [Metric("c", "", digits=2), *shares])
    '1.25, 97, 50 %'
    """
    parts: list[str] = []
    for at, m in enumerate(metrics):
        value = numbers.get(m.key)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if isinstance(value, list | tuple):
            parts.append(per_cent(value, m.digits))
        elif m.form == "share":
            last = at + 1 == len(metrics) or metrics[at + 1].form != "share"
            parts.append(f"{100 * value:.{m.digits}f}" + (" %" if last else ""))
        else:
            parts.append(number(value, m.digits))
    return ", ".join(parts)


def per_cent(values: Sequence[float], digits: int = 1) -> str:
    """(value, low, high) of a share.

    >>> per_cent((0.25, 0.125, 0.5))
    '25.0 % [12.5, 50.0]'
    """
    value, low, high = (100 * v for v in values)
    return f"{value:.{digits}f} % [{low:.{digits}f}, {high:.{digits}f}]"
