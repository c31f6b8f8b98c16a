"""Pictures of a comparison: walls of samples, quality against calls, and shares with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deft.bench.store import Store
from deft.diagnose.figures import as_written, pyplot
from deft.io.files import write_atomic
from deft.kinds.domain import Metric, View

if TYPE_CHECKING:
    from deft.bench.run import Cell
    from deft.bench.studies import Study


def wall(path: Path, store: Store, study: Study, title: str, cells: Sequence[Cell]) -> Path | None:
    """Truth, measurement, and the first sample of every entry, case by case; the same cases and noise for all. None if
    there is no picture."""
    kept = []
    for c in cells:
        job = c.draws[study.seeds[0]]
        arrays = store.arrays(job)
        if arrays is not None:
            kept.append((c, arrays))
    if not kept:
        return None
    first = kept[0][1]
    views = [View("truth", _tensor(first["truth"]))]
    if "seen" in first:
        views.append(View("measurement", first["seen"], kind="picture"))
    views += [
        View(c.entry.label, _tensor(arrays["samples"][:, 0]), f"{c.plan.calls(study.samples):.0f} calls")
        for c, arrays in kept
    ]
    png = kept[0][0].on.domain.wall(views, title=title, cell=72)
    if png is None:
        return None
    write_atomic(path, lambda p: p.write_bytes(png))
    return path


def _tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x, np.float32))


def curves(path: Path, title: str, rows: Sequence[Mapping[str, Any]], metric: Metric) -> Path | None:
    """The metric against calls of the prior, one line an entry, with its 95 % interval; None without matplotlib."""
    rows = [r for r in rows if r["metric"] == metric.key]
    plt = pyplot() if rows else None
    if plt is None:
        return None
    figure, axes = plt.subplots(figsize=(7.5, 4.6), dpi=120)
    names = list(dict.fromkeys(r["method"] for r in rows))
    for i, name in enumerate(names):
        mine = sorted((r for r in rows if r["method"] == name), key=lambda r: r["calls"])
        x, y = [r["calls"] for r in mine], [r["value"] for r in mine]
        colour, style = plt.get_cmap("tab10")(i % 10), ("-", "--", ":")[i // 10 % 3]
        strong = name.startswith("deft")
        axes.plot(
            x,
            y,
            style,
            color=colour,
            marker="o",
            markersize=4 if strong else 3,
            linewidth=2.4 if strong else 1.2,
            label=as_written(mine[0]["title"]),
        )
        axes.fill_between(
            x,
            [r["low"] for r in mine],
            [r["high"] for r in mine],
            color=colour,
            alpha=0.12 if strong else 0.05,
            linewidth=0,
        )
    axes.set(
        xscale="log",
        xlabel="calls of the prior for one sample",
        ylabel=f"{metric.title} ({metric.better}er is better)",
        title=as_written(title),
    )
    ticks = sorted({r["at_most"] for r in rows})
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    values = [r["value"] for r in rows]
    low, high = np.quantile(values, (0.0, 0.9) if metric.better == "low" else (0.1, 1.0))
    axes.set_ylim(max(0.0, low - 0.2 * (high - low)), high + 0.3 * (high - low))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    figure.tight_layout()
    write_atomic(path, lambda p: figure.savefig(p, format="png"))
    plt.close(figure)
    return path


def bars(
    path: Path,
    title: str,
    shares: Mapping[str, Sequence[float]],
    *,
    label: str,
    grey: Sequence[str] = (),
    footer: str = "",
) -> Path | None:
    """Shares (value, low, high) as bars with their intervals, in per cent; None without matplotlib. grey: those that
    are no entries."""
    plt = pyplot()
    if plt is None:
        return None
    figure, axis = plt.subplots(figsize=(7, 0.45 * len(shares) + 1.4), layout="constrained")
    names = list(shares)[::-1]
    values = np.array([shares[n] for n in names]) * 100
    off = np.maximum(0, [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]])
    axis.barh(
        [as_written(n) for n in names],
        values[:, 0],
        xerr=off,
        color=["0.7" if n in grey else "C0" for n in names],
        capsize=3,
    )
    axis.set(title=as_written(title), xlabel=f"{label} (95 % interval)", xlim=(0, None))
    figure.text(0.01, -0.02, as_written(footer), fontsize=7, va="top")
    write_atomic(path, lambda p: figure.savefig(p, format="png", dpi=130, bbox_inches="tight"))
    plt.close(figure)
    return path
