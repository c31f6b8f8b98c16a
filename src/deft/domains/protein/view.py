"""Pictures of C-alpha traces: a sheet (matplotlib), and a page that needs nothing but itself, to turn them with the
mouse."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from deft.diagnose.figures import as_written
from deft.domains.protein.geometry import superposed
from deft.domains.protein.metrics import Goal
from deft.errors import visible
from deft.io.files import write_atomic, write_text

SCAFFOLD, MOTIF, GIVEN = "#7d8a97", "#d1495b", "#1d5fa8"
"""Colours: of new residues, of the motif as it was drawn, of the motif as it was given."""

ROW = 4
"""Panels of a row."""

BEHIND = 2.0
"""How far behind a piece its white rim is drawn, angstrom."""


class Panel(NamedTuple):
    """x: a trace [L, 3], angstrom. goal: its motif. title: a short line. good: whether it passed."""

    x: np.ndarray
    goal: Goal
    title: str
    good: bool


class Drawing(NamedTuple):
    """A panel in the pose in which it is shown: trace [L, 3], the motif given laid on it [m, 3], the runs of residues
    to join, of both."""

    x: np.ndarray
    given: np.ndarray
    motif_runs: list[np.ndarray]
    given_runs: list[np.ndarray]


def arrange(panel: Panel) -> Drawing:
    """Centre the trace, lay each group of the given motif on its residues (no reflection), and turn the trace's longest
    axes into the page."""
    x, goal = np.asarray(panel.x, np.float64), panel.goal
    groups = np.zeros(len(goal.positions), int) if goal.groups is None else np.asarray(goal.groups)
    given = np.zeros((len(goal.positions), 3))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        onto = torch.from_numpy(x[goal.positions[rows]])
        given[rows] = superposed(torch.from_numpy(np.asarray(goal.x, np.float64)[rows]), onto).numpy()
    middle = x.mean(0)
    axes = np.linalg.svd(x - middle)[2]
    axes[2] *= np.sign(np.linalg.det(axes))  # a proper rotation: a fold must not be shown as its mirror image
    # residues are joined where they are neighbours in the chain and of one group
    order = np.argsort(goal.positions)
    cuts = np.flatnonzero((np.diff(goal.positions[order]) != 1) | (np.diff(groups[order]) != 0)) + 1
    runs = [part for part in np.split(order, cuts) if len(part)]
    return Drawing((x - middle) @ axes.T, (given - middle) @ axes.T, [goal.positions[r] for r in runs], runs)


def in_the_middle(drawing: Drawing) -> Drawing:
    """Moved so that as much of the trace is to the left as to the right, and above as below."""
    middle = (drawing.x.min(0) + drawing.x.max(0)) / 2
    return drawing._replace(x=drawing.x - middle, given=drawing.given - middle)


def sheet(path: str | Path, panels: Sequence[Panel], *, title: str, footer: str = "") -> bool:
    """A panel for each trace, all on one scale, the motif in colour and the given one on it. False, and no file,
    without matplotlib (the extra `compare`)."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    columns = min(ROW, len(panels))
    rows = -(-len(panels) // columns)
    drawings = [in_the_middle(arrange(panel)) for panel in panels]
    wide, high = (1.06 * max(float(np.abs(d.x[:, k]).max()) for d in drawings) for k in (0, 1))
    high = max(high, 0.5 * wide)
    side = 3.1
    figure = plt.figure(figsize=(side * max(columns, 2), (side * high / wide + 0.35) * rows + 1.0), dpi=110)
    height = figure.get_figheight()
    for i, (panel, drawing) in enumerate(zip(panels, drawings, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw(axes, drawing)
        axes.set(xlim=(-wide, wide), ylim=(-high, high), aspect="equal")
        axes.set_axis_off()
        axes.set_title(
            as_written(panel.title),
            fontsize=8.5,
            pad=3,
            color="#1a7f37" if panel.good else "#57606a",
            fontweight="bold" if panel.good else "normal",
        )
    figure.suptitle(as_written(title), fontsize=11, y=1 - 0.10 / height, va="top")
    marks = [
        Line2D([], [], color=c, linewidth=w, label=t)
        for c, w, t in ((SCAFFOLD, 2.4, "new residues"), (MOTIF, 4.5, "motif as drawn"), (GIVEN, 1.4, "motif as given"))
    ]
    figure.legend(
        handles=marks, loc="lower center", ncols=3, fontsize=8, frameon=False, bbox_to_anchor=(0.5, 0.20 / height)
    )
    if footer:
        figure.text(0.5, 0.08 / height, as_written(footer), ha="center", va="bottom", fontsize=7.5, color="#57606a")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.5 / height, top=1 - 0.62 / height, wspace=0.03, hspace=0.14)
    write_atomic(path, lambda p: figure.savefig(p, format="png"))
    plt.close(figure)
    return True


def _draw(axes: Any, drawing: Drawing) -> None:
    """Short pieces from back to front, each with a white rim, so that one sees which strand passes over which; the far
    ones paler."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    motif = np.zeros(len(drawing.x), bool)
    for run in drawing.motif_runs:
        motif[run] = True
    x = smooth(drawing.x)
    low, high = float(x[:, 2].min()), float(x[:, 2].max())
    lines, colours, widths, depths = [], [], [], []

    def add(
        points: np.ndarray, colour: np.ndarray, width: np.ndarray, pale: np.ndarray | float, rim: float, lift: float
    ) -> None:
        pieces = np.stack([points[:-1], points[1:]], 1)
        near = ((pieces[:, :, 2].mean(1) - low) / max(high - low, 1e-9)).clip(0, 1)
        fade = (pale * (1 - near))[:, None]
        size = width * (0.75 + 0.5 * near)
        # a rim lies behind its own piece and the neighbours of that, and before strands that pass farther back
        layers = [(colour * (1 - fade) + fade, size, lift)] + (
            [(np.ones_like(colour), size + rim, lift - BEHIND)] if rim else []
        )
        for shade, thick, above in layers:
            lines.append(pieces[:, :, :2])
            colours.append(shade)
            widths.append(thick)
            depths.append(pieces[:, :, 2].mean(1) + above)

    inside = _pieces(motif)
    add(
        x,
        np.where(inside[:, None], to_rgb(MOTIF), to_rgb(SCAFFOLD)),
        np.where(inside, 4.6, 2.6),
        np.where(inside, 0.25, 0.55),
        1.8,
        0.0,
    )
    for run in drawing.given_runs:
        line = smooth(drawing.given[run])
        add(line, np.tile(to_rgb(GIVEN), (len(line) - 1, 1)), np.full(len(line) - 1, 1.4), 0.2, 0.0, 1.0)
    order = np.argsort(np.concatenate(depths), kind="stable")
    collection = LineCollection(
        np.concatenate(lines)[order],  # type: ignore[arg-type]
        colors=np.concatenate(colours)[order],
        linewidths=np.concatenate(widths)[order],
        capstyle="round",
    )
    axes.add_collection(collection)


def _pieces(motif: np.ndarray) -> np.ndarray:
    """Which pieces of the smoothed trace lie between two motif residues."""
    return np.repeat(motif[:-1] & motif[1:], FINE)


FINE = 5
"""Pieces between two residues."""


def smooth(x: np.ndarray) -> np.ndarray:
    """A curve through the residues (Catmull-Rom), [(L - 1) FINE + 1, 3]."""
    if len(x) < 3:
        return np.asarray(x, np.float64) if len(x) < 2 else x[0] + np.linspace(0, 1, FINE + 1)[:, None] * (x[1] - x[0])
    p = np.concatenate([2 * x[:1] - x[1:2], x, 2 * x[-1:] - x[-2:-1]])
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    u = (np.arange(FINE) / FINE)[None, :, None]
    curve = 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - a - 3 * c + d) * u**3)
    return np.concatenate([curve.reshape(-1, 3), x[-1:]])


def page(path: str | Path, panels: Sequence[Panel], *, title: str, notes: Sequence[str] = ()) -> None:
    """An HTML file with every trace, to be turned with the mouse. It loads nothing and calls nobody."""
    data = []
    for panel in panels:
        drawing = arrange(panel)
        data.append(
            {
                "title": panel.title,
                "good": bool(panel.good),
                "x": drawing.x.round(2).tolist(),
                "motif": [r.tolist() for r in drawing.motif_runs],
                "given": [drawing.given[r].round(2).tolist() for r in drawing.given_runs],
            }
        )
    values = {
        "TITLE": html.escape(visible(title)),
        "NOTES": "".join(f"<p>{html.escape(visible(n))}</p>" for n in notes),
        "SCAFFOLD": SCAFFOLD,
        "MOTIF": MOTIF,
        "GIVEN": GIVEN,
        "DATA": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),  # a title ends no script
    }
    # in one go: a title that names one of the places is a title
    write_text(path, re.sub(f"@({'|'.join(values)})@", lambda found: values[found[1]], TEMPLATE))


TEMPLATE = Path(__file__).with_name("data").joinpath("view.html").read_text(encoding="utf-8")
