"""A few methods on the same cases (`deft evaluate`, `deft demo`): report.md, report.json, samples.png and samples.npz;
and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.bench.compare import TensorCases, stacked
from deft.bench.report import Report
from deft.bench.result import Result, Row, make_rows, metrics_of, standing
from deft.bench.statistics import Interval
from deft.bench.table import NONE, Table, heading, number, with_interval
from deft.io.arrays import save_arrays
from deft.io.files import write_atomic
from deft.kinds.domain import Domain, Metric, View
from deft.methods import METHODS
from deft.train.levels import hidden_pixels

VERSUS = "deft"
"""The method that others are compared with, where it is among them."""
PICTURED = 10
"""Cases in samples.png."""


def write_methods(
    out: Path,
    title: str,
    results: Mapping[str, Result],
    cases: TensorCases,
    settings: Mapping[str, Any],
    *,
    task: str,
    caption: str = "",
    versus: str = VERSUS,
) -> dict[str, Any]:
    """Write all of it; returns what report.json holds. caption: the title of samples.png."""
    rows = make_rows(list(results.values()), metrics_of(cases.domain), versus=versus, task=task)
    data = {"title": title, "rows": rows, "settings": dict(settings)}
    report(cases.domain, title, rows, settings).write(out, data)
    write_picture(out / "samples.png", results, cases, title=caption, spread_of=versus)
    write_samples(out / "samples.npz", results, cases)
    return data


def captions(domain: Domain, labels: Tensor | None, names: Sequence[str]) -> list[str]:
    """The classes of the first cases, in words, if one of these names is of a bundled data set that has them."""
    found = next((n for n in names if n in domain.datasets()), "")
    classes = domain.classes(found) if found else ()
    if labels is None or not classes or not bool(((labels >= 0) & (labels < len(classes))).all()):
        return []
    return [classes[i] for i in labels[:PICTURED].tolist()]


def _title(name: str) -> str:
    return METHODS[name].title if name in METHODS else name


def _cell(row: Row | None, metric: Metric, signed: bool = False) -> str:
    if row is None:
        return NONE
    if row["low"] is None:
        return number(row["value"], metric.digits, signed)
    low_high = Interval(row["value"], row["low"], row["high"], row["n"])
    return with_interval(low_high, metric.digits, signed=signed)


def means_table(rows: Sequence[Row], metrics: Mapping[str, Metric]) -> Table:
    """A row a metric, a column a method."""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    found = {(r["method"], r["metric"]): r for r in rows if "versus" not in r and r.get("seed") is None}
    table = Table("", *map(_title, methods))
    for key, metric in metrics.items():
        if any((name, key) in found for name in methods):
            table.add(heading(metric), *(_cell(found.get((m, key)), metric) for m in methods))
    return table


def report(domain: Domain, title: str, rows: Sequence[Row], settings: Mapping[str, Any]) -> Report:
    """The rows as tables a person reads."""
    metrics = metrics_of(domain)
    out = Report(title)
    n = max((r["n"] for r in rows), default=0)
    out.text(
        f"{n} {domain.title}; mean over {domain.title} with its 95 % bootstrap interval. ↑ higher is better, ↓ lower is"
        " better."
    )
    out.table(means_table(rows, metrics))
    differences = [r for r in rows if "versus" in r]
    if differences:
        versus = _title(differences[0]["versus"])
        out.heading(f"Paired differences: the method minus {versus}, over the same {domain.title}")
        table = Table("", "method", "difference", "p", "")
        for r in differences:
            if (m := metrics[r["metric"]]).better:
                table.add(m.title, _title(r["method"]), _cell(r, m, True), f"{r['p_holm']:.3g}", standing(r, m, versus))
        out.table(
            table,
            "p: of sign flips of the differences, corrected for the number of methods (Holm); level where it is 0.05 or"
            " more.",
        )
    shown = {r["metric"] for r in rows}
    out.measured([m for k, m in metrics.items() if k in shown])
    out.settings(settings)
    return out


def terminal(domain: Domain, title: str, rows: Sequence[Row]) -> str:
    """The rows as aligned columns for a terminal: all means with their intervals, and the main differences."""
    metrics = metrics_of(domain)
    lines = [title, "", *means_table(rows, metrics).terminal()]
    found = {(r["method"], r["metric"]): r for r in rows if "versus" in r}
    if found:
        versus = next(iter(found.values()))["versus"]
        others = list(dict.fromkeys(name for name, _ in found))
        table = Table("", *map(_title, others))
        for key, m in metrics.items():
            if m.brief and any((name, key) in found for name in others):
                table.add(heading(m), *(_cell(found.get((name, key)), m, True) for name in others))
        lines += [
            "",
            f"the method minus {_title(versus)}, over the same {domain.title} (95 % interval)",
            "",
            *table.terminal(),
        ]
    return "\n".join(lines)


def write_picture(
    path: Path, results: Mapping[str, Result], cases: TensorCases, *, title: str = "", spread_of: str = VERSUS
) -> None:
    """samples.png: truth, measurement, a sample of each method, and the spread of one method's samples; nothing for
    data without pictures."""
    n, shape = min(PICTURED, len(cases)), tuple(cases.x.shape[1:])
    views = [View("truth", cases.x[:n])]
    seen = cases.domain.measured_picture(cases.obs[:n], shape)
    if seen is not None:
        views.append(View("measurement", seen, kind="picture"))
    views += [
        View(_title(name), stacked(r.samples[:n])[:, 0], f"{r.figures['calls']:.0f} calls")
        for name, r in results.items()
    ]
    chosen = spread_of if spread_of in results else next(iter(results))
    drawn = stacked(results[chosen].samples[:n])
    if drawn.shape[1] > 1:
        views.append(View("spread", drawn, f"{_title(chosen)}, {drawn.shape[1]} samples", "spread"))
    png = cases.domain.wall(views, title=title, rows=cases.names[:n])
    if png is not None:
        write_atomic(path, lambda p: p.write_bytes(png))


def write_samples(path: Path, results: Mapping[str, Result], cases: TensorCases) -> None:
    """Everything that was drawn, as one npz: truth, y, mask (if any) and samples_<method>."""
    arrays: dict[str, Any] = {"truth": cases.x, "y": cases.obs.y}
    hidden = hidden_pixels(cases.obs, cases.x.shape)
    if hidden is not None:
        arrays["mask"] = (1 - hidden).to(torch.uint8)
    save_arrays(path, **arrays, **{f"samples_{k}": stacked(r.samples).half() for k, r in results.items()})


__all__ = ["means_table", "report", "terminal", "write_methods", "write_picture", "write_samples"]
