"""Pictures of a comparison: walls of samples, and quality against calls."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from deft.bench.measure import METRICS
from deft.bench.store import Store
from deft.bench.studies import title_of
from deft.domains.image.writing import Column, picture_grid, save_image, to_pixels

if TYPE_CHECKING:
    from deft.bench.run import Cell
    from deft.bench.studies import Study


def wall(path: Path, store: Store, study: Study, title: str, cells: Sequence[Cell]) -> Path | None:
    """Truth, measurement, and the first sample of every arm, image by image; the same images and noise for all."""
    kept = []
    for c in cells:
        u = c.draws[study.seeds[0]]
        if store.path(u, ".npz").exists():
            with np.load(store.path(u, ".npz")) as z:
                kept.append((c, {k: z[k] for k in z.files}))
    if not kept:
        return None
    first = kept[0][1]
    columns = [Column("truth", _pixels(first["truth"])), Column("measurement", first["seen"])]
    columns += [Column(title_of(c.arm), _pixels(arrays["samples"][:, 0]), f"{c.plan.calls(study.samples):.0f} calls") for c, arrays in kept]
    save_image(path, picture_grid(columns, title=title, cell=72, gaps=(1,)))
    return path


def _pixels(x: np.ndarray) -> np.ndarray:
    return to_pixels(torch.from_numpy(np.asarray(x, np.float32)))


def curves(path: Path, title: str, rows: Sequence[Mapping[str, Any]], metric: str) -> Path | None:
    """The metric against calls of the prior, one line an arm, with its 95 % interval. Needs matplotlib (an extra)."""
    rows = [r for r in rows if r["metric"] == metric]
    if not rows:
        return None
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.6), dpi=120)
    names = list(dict.fromkeys(r["method"] for r in rows))
    for i, name in enumerate(names):
        mine = sorted((r for r in rows if r["method"] == name), key=lambda r: r["calls"])
        x, y = [r["calls"] for r in mine], [r["value"] for r in mine]
        colour, style = plt.get_cmap("tab10")(i % 10), ("-", "--", ":")[i // 10 % 3]
        strong = name.startswith("deft")
        axes.plot(x, y, style, color=colour, marker="o", markersize=4 if strong else 3, linewidth=2.4 if strong else 1.2, label=mine[0]["title"])
        axes.fill_between(x, [r["low"] for r in mine], [r["high"] for r in mine], color=colour, alpha=0.12 if strong else 0.05, linewidth=0)
    axes.set(xscale="log", xlabel="calls of the prior for one sample", ylabel=f"{METRICS[metric].title} ({METRICS[metric].better}er is better)", title=title)
    ticks = sorted({r["at_most"] for r in rows})
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    values = [r["value"] for r in rows]
    low, high = np.quantile(values, (0.0, 0.9) if METRICS[metric].better == "low" else (0.1, 1.0))
    axes.set_ylim(max(0.0, low - 0.2 * (high - low)), high + 0.3 * (high - low))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    figure.tight_layout()
    data = io.BytesIO()
    figure.savefig(data, format="png")
    plt.close(figure)
    save_image(path, Image.open(data).convert("RGB"))
    return path
