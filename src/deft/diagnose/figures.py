"""Pictures of what is diagnosed: PNG by matplotlib (the extra `compare`), None without it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from deft.errors import visible


def pyplot() -> Any:
    """Matplotlib, drawing into files; None without it."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def as_written(text: str) -> str:
    r"""A text for a figure, in which a `$` of somebody's name begins no formula.

    >>> as_written("5 $ or 6 $")
    '5 \\$ or 6 \\$'
    """
    return visible(text).replace("$", r"\$")


def curves_in_band(
    x: np.ndarray,
    curves: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    names: Sequence[str] = (),
    labels: tuple[str, str] = ("", ""),
    title: str = "",
    marks: str = "",
) -> bytes | None:
    """Curves [L, K] over x [L], and the band low to high [L] that they should stay in, or that holds them."""
    plt = pyplot()
    if plt is None:
        return None
    figure, axes = plt.subplots(figsize=(5.5, 4.0), dpi=120, layout="constrained")
    axes.fill_between(x, low, high, color="0.85", linewidth=0)
    for k in range(curves.shape[1]):
        axes.plot(x, curves[:, k], marks or "-", color=f"C{k % 10}", label=as_written(names[k]) if names else None)
    axes.set(xlabel=labels[0], ylabel=labels[1], title=as_written(title))
    axes.grid(alpha=0.3)
    if names:
        axes.legend(fontsize=7)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    plt.close(figure)
    return out.getvalue()
