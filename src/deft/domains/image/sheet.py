"""Restored images side by side: truth, measurement, samples and their spread, in columns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from deft.core.likelihood import Observation
from deft.domains.image.metrics import spread
from deft.domains.image.writing import Column, heat, picture_grid, to_pixels, with_hole
from deft.kinds.domain import View
from deft.train.levels import hidden_pixels

SHOWN = 8
"""Samples in the picture of a draw."""


def picture_of(obs: Observation, shape: Sequence[int]) -> np.ndarray:
    """Measurements [N] as pictures uint8 [N, H, W, 3]: enlarged if they are small, with the hole painted over."""
    hidden = hidden_pixels(obs, (len(obs), *shape))
    pixels = to_pixels(obs.likelihood.picture(obs.y))
    return pixels if hidden is None else with_hole(pixels, hidden.expand(len(obs), *shape))


def spread_column(samples: Tensor, note: str) -> tuple[Column, str]:
    """The spread of [N, S, *E] as a column, and the line that says what its colours mean."""
    deviation = spread(samples).mean(1)
    top = max(float(deviation.max()), 1e-3)
    about = (
        f"spread: standard deviation of each pixel over the samples; black 0, pale yellow {top:.2f} (the range of"
        " pixels is 2)"
    )
    return Column("spread", heat(deviation, top), note), about


def grid(x: Tensor, titles: Sequence[str] = (), title: str = "") -> bytes:
    """A PNG of images [n, C, H, W]: up to ten in one row, more in ten columns."""
    wide = min(len(x), 10)
    columns = [
        Column(titles[i] if i < len(titles) else "", to_pixels(x[i::wide] if len(x) > 10 else x[i : i + 1]))
        for i in range(wide)
    ]
    return png(picture_grid(columns, title=title, cell=64 if len(x) > 10 else _cell(x.shape[1:])))


def of_draws(x: Tensor, std: Tensor, obs: Observation | None, title: str) -> Mapping[str, bytes]:
    """spread.png: the standard deviation [C, H, W] as colours. sheet.png: the measurement, samples [n, C, H, W], their
    mean and their spread."""
    deviation, shape, n = std.mean(0), tuple(x.shape[1:]), len(x)
    shown = min(n, SHOWN)
    columns = [] if obs is None else [Column("measurement", picture_of(obs, shape))]
    columns += [Column(f"sample {i + 1}", to_pixels(one[None])) for i, one in enumerate(x[:SHOWN])]
    columns.append(Column("mean", to_pixels(x.mean(0, keepdim=True)), f"of {n}"))
    footer = ""
    if n > 1:
        column, footer = spread_column(x[None], f"of {n}")
        columns.append(column)
    sheet = picture_grid(
        columns, title=title, footer=footer, cell=_cell(shape), gaps=(shown - 1,) if obs is None else (0, shown)
    )
    return {
        "spread.png": png(Image.fromarray(heat(deviation, max(float(deviation.max()), 1e-3)))),
        "sheet.png": png(sheet),
    }


def of_measurement(x: Tensor, obs: Observation, title: str) -> bytes:
    """Images [n, C, H, W] and what was measured of them, the first ten."""
    columns = [
        Column("image", to_pixels(x[:10])),
        Column("measured", picture_of(obs[:10], x.shape[1:]), "as a picture"),
    ]
    return png(picture_grid(columns, title=title))


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
    return png(picture_grid(columns, title=title, footer=footer, rows=rows, cell=cell, gaps=gaps))


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    return data.getvalue()


def _cell(shape: Sequence[int]) -> int:
    """Pixels of one picture of a sheet: small images are enlarged."""
    return 128 if max(shape[1:]) <= 64 else max(shape[1:])
