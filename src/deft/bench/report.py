"""A comparison as rows, as text, and as a picture.

`report.json` holds `rows`, one object a figure: task, method, metric, value, low, high, n (images). A row with
`versus` is a paired difference over the same images: method minus the method named there.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.bench.measure import METRICS, Outcome
from deft.bench.statistics import bootstrap, paired
from deft.core.likelihood import Observation
from deft.domains.image.sheet import picture_of, spread_column
from deft.domains.image.writing import Column, picture_grid, save_arrays, save_image, to_pixels
from deft.io.files import write_json, write_text
from deft.methods import METHODS
from deft.train.levels import hidden_pixels

Row = dict[str, Any]


def make_rows(task: str, outcomes: Mapping[str, Outcome], *, versus: str = "deft", seed: int = 0) -> list[Row]:
    """One row a figure, 95 % bootstrap intervals over images; then the paired differences to `versus`."""
    rows: list[Row] = []
    for name, outcome in outcomes.items():
        for metric in METRICS:
            row: Row = {"task": task, "method": name, "metric": metric}
            if metric in outcome.per_image:
                rows.append(row | bootstrap(outcome.per_image[metric].numpy(), seed=seed)._asdict())
            elif metric in outcome.figures:
                n = len(outcome.samples)
                rows.append(row | {"value": outcome.figures[metric], "low": None, "high": None, "n": n})
    if versus in outcomes:
        base = outcomes[versus].per_image
        for name, outcome in outcomes.items():
            for metric in METRICS if name != versus else ():
                if metric in outcome.per_image and metric in base:
                    difference = paired(outcome.per_image[metric].numpy(), base[metric].numpy(), seed=seed)
                    rows.append({"task": task, "method": name, "metric": metric, "versus": versus, **difference._asdict()})
    return rows


def _number(value: float, digits: int) -> str:
    return f"{value:,.0f}" if digits == 0 else f"{value:.{digits}f}"


def _cell(row: Row | None, signed: bool = False) -> str:
    if row is None:
        return "–"
    metric = METRICS[row["metric"]]
    text = _number(row["value"], metric.digits)
    text = f"+{text}" if signed and row["value"] > 0 else text
    if row["low"] is None:
        return text
    return f"{text} [{_number(row['low'], metric.digits)}, {_number(row['high'], metric.digits)}]"


def _title(name: str) -> str:
    return METHODS[name].title if name in METHODS else name


def verdict(row: Row) -> str:
    """A paired difference in words, seen from the method it is compared with."""
    metric, versus = METRICS[row["metric"]], _title(row["versus"])
    if not metric.better:
        return ""
    if row["low"] <= 0 <= row["high"]:
        return "level"
    ahead = (row["value"] > 0) == (metric.better == "low")
    return f"{versus} ahead" if ahead else f"{versus} behind"


def markdown(title: str, rows: Sequence[Row], settings: Mapping[str, Any]) -> str:
    """The rows as tables a person reads."""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    found = {(r["method"], r["metric"]): r for r in rows if "versus" not in r}
    differences = [r for r in rows if "versus" in r]
    shown = [m for m in METRICS if any((name, m) in found for name in methods)]
    arrow = {"high": " ↑", "low": " ↓", "": ""}
    lines = [f"# {title}", ""]
    n = max((r["n"] for r in rows), default=0)
    lines += [f"{n} images; mean over images with its 95 % bootstrap interval. ↑ higher is better, ↓ lower is better.", ""]
    lines += ["| | " + " | ".join(_title(m) for m in methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for key in shown:
        metric = METRICS[key]
        cells = " | ".join(_cell(found.get((m, key))) for m in methods)
        lines.append(f"| {metric.title}{arrow[metric.better]} | {cells} |")
    if differences:
        versus = differences[0]["versus"]
        lines += ["", f"## Paired differences: the method minus {_title(versus)}, over the same images", ""]
        lines += ["| | method | difference | |", "|---|---|---|---|"]
        for key in shown:
            for row in differences:
                if row["metric"] == key and METRICS[key].better:
                    lines.append(f"| {METRICS[key].title} | {_title(row['method'])} | {_cell(row, True)} | {verdict(row)} |")
    lines += ["", "## What is measured", ""]
    lines += [f"- {METRICS[k].title}: {METRICS[k].about}" for k in shown]
    lines += ["", "## Settings", "", "```json", json.dumps(settings, indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


SHORT = ("energy_score", "energy_score_pixels", "feature_distance", "top1", "psnr_mean", "psnr_mean_hidden")
"""The paired differences a terminal shows."""


def terminal(title: str, rows: Sequence[Row]) -> str:
    """The rows as aligned columns for a terminal: all means with their intervals, and the main differences."""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    found = {(r["method"], r["metric"], r.get("versus")): r for r in rows}
    versus = next((r["versus"] for r in rows if "versus" in r), None)
    arrow = {"high": " ↑", "low": " ↓", "": ""}
    table = [["", *map(_title, methods)]]
    for key, metric in METRICS.items():
        if any((name, key, None) in found for name in methods):
            table.append([metric.title + arrow[metric.better], *(_cell(found.get((m, key, None))) for m in methods)])
    lines = [title, "", *_aligned(table)]
    if versus:
        lines += ["", f"the method minus {_title(versus)}, over the same images (95 % interval)", ""]
        others = [m for m in methods if m != versus]
        table = [["", *map(_title, others)]]
        for key in SHORT:
            row = [found.get((m, key, versus)) for m in others]
            if any(row):
                table.append([METRICS[key].title + arrow[METRICS[key].better], *(_cell(r, True) for r in row)])
        lines += _aligned(table)
    return "\n".join(lines)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]


def machine() -> dict[str, Any]:
    """What the seconds were measured on. device: the graphics card, if there is one that can be used."""
    out: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version()}
    out["cpu"] = platform.machine()
    out["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return out


def write_report(out: Path, title: str, rows: Sequence[Row], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write report.json and report.md; returns what report.json holds."""
    report = {"title": title, "rows": list(rows), "settings": dict(settings)}
    if not all(math.isfinite(r["value"]) for r in rows):
        bad = next(r for r in rows if not math.isfinite(r["value"]))
        raise FloatingPointError(f"{bad['metric']} of {bad['method']} is {bad['value']}")
    write_json(out / "report.json", report)
    write_text(out / "report.md", markdown(title, rows, settings))
    return report


def comparison_picture(
    path: Path,
    truth: Tensor,
    obs: Observation,
    outcomes: Mapping[str, Outcome],
    *,
    rows: int = 10,
    captions: Sequence[str] = (),
    title: str = "",
    spread_of: str = "deft",
) -> None:
    """samples.png: truth, measurement, a sample of each method, and the spread of one method's samples."""
    n = min(rows, len(truth))
    columns = [Column("truth", to_pixels(truth[:n])), Column("measurement", picture_of(obs[:n].to("cpu"), truth.shape[1:]))]
    for name, outcome in outcomes.items():
        columns.append(Column(_title(name), to_pixels(outcome.samples[:n, 0]), f"{outcome.figures['calls']:.0f} calls"))
    footer = ""
    chosen = spread_of if spread_of in outcomes else next(iter(outcomes), "")
    if chosen and outcomes[chosen].samples.shape[1] > 1:
        column, footer = spread_column(outcomes[chosen].samples[:n], f"{_title(chosen)}, {outcomes[chosen].samples.shape[1]} samples")
        columns.append(column)
    save_image(
        path, picture_grid(columns, title=title, footer=footer, rows=list(captions[:n]), gaps=(1, len(outcomes) + 1))
    )


def write_samples(path: Path, truth: Tensor, obs: Observation, outcomes: Mapping[str, Outcome]) -> None:
    """Everything that was drawn, as one npz: truth, y, mask (if any) and samples_<method>."""
    arrays: dict[str, Any] = {"truth": truth, "y": obs.y}
    hidden = hidden_pixels(obs, truth.shape)
    if hidden is not None:
        arrays["mask"] = (1 - hidden).to(torch.uint8)
    save_arrays(path, **arrays, **{f"samples_{k}": v.samples.half() for k, v in outcomes.items()})
