"""Restored images side by side: truth, measurement, samples and their spread, in columns."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from deft.core.domain import View
from deft.core.likelihood import Observation
from deft.domains.image.metrics import spread
from deft.domains.image.writing import Column, heat, picture_grid, to_pixels, with_hole
from deft.train.levels import hidden_pixels


def picture_of(obs: Observation, shape: Sequence[int]) -> np.ndarray:
    """Measurements [N] as pictures uint8 [N, H, W, 3]: enlarged if they are small, with the hole painted over."""
    hidden = hidden_pixels(obs, (len(obs), *shape))
    pixels = to_pixels(obs.likelihood.picture(obs.y))
    return pixels if hidden is None else with_hole(pixels, hidden.expand(len(obs), *shape))


def spread_column(samples: Tensor, note: str) -> tuple[Column, str]:
    """The spread of [N, S, *E] as a column, and the line that says what its colours mean."""
    deviation = spread(samples).mean(1)
    top = max(float(deviation.max()), 1e-3)
    about = f"spread: standard deviation of each pixel over the samples; black 0, pale yellow {top:.2f} (the range of pixels is 2)"
    return Column("spread", heat(deviation, top), note), about


def wall(views: Sequence[View], *, title: str = "", rows: Sequence[str] = (), cell: int = 96) -> bytes:
    """A PNG of columns of images, with some space after the measurement and before the spread."""
    columns, gaps, footer = [], [], ""
    for i, v in enumerate(views):
        if v.kind == "spread":
            column, footer = spread_column(v.x, v.note)
        else:
            column = Column(v.title, v.x if v.kind == "picture" else to_pixels(v.x), v.note)
        columns.append(column)
        if v.kind == "picture" or (i + 1 < len(views) and views[i + 1].kind == "spread"):
            gaps.append(i)
    data = io.BytesIO()
    picture_grid(columns, title=title, footer=footer, rows=rows, cell=cell, gaps=gaps).save(data, format="PNG", optimize=True)
    return data.getvalue()
