"""Pictures that are drawn and written: PNGs, labelled grids, and restored images side by side: truth, measurement,
samples and their spread, in columns."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from deft.core.likelihood import Observation
from deft.io.files import write_atomic
from deft.kinds.domain import View
from deft.kinds.draws import Draws


def to_pixels(x: Tensor) -> np.ndarray:
    """[..., C, H, W] in [-1, 1] -> uint8 [..., H, W, 3] (grey is repeated)."""
    pixels = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = pixels.movedim(-3, -1)
    return (pixels.expand(*pixels.shape[:-1], 3) if pixels.shape[-1] == 1 else pixels).contiguous().numpy()


def save_picture(path: str | Path, x: Tensor) -> None:
    """Write [C, H, W] in [-1, 1] as a PNG."""
    pixels = to_pixels(x)
    save_image(path, Image.fromarray(pixels[..., 0] if x.shape[0] == 1 else pixels))


def save_image(path: str | Path, image: Image.Image) -> None:
    write_atomic(path, lambda p: image.save(p, format="PNG", optimize=True))


_HEAT = np.array(
    [(10, 8, 30), (66, 20, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 190)], np.float32
)
_HOLE = np.array((54, 110, 140), np.uint8)


def heat(values: Tensor, top: float) -> np.ndarray:
    """[..., H, W] -> uint8 [..., H, W, 3]: 0 is near black, `top` pale yellow."""
    u = (values.detach().float().cpu().numpy() / max(top, 1e-12)).clip(0, 1) * (len(_HEAT) - 1)
    low = np.minimum(u.astype(int), len(_HEAT) - 2)
    part = (u - low)[..., None]
    return (_HEAT[low] * (1 - part) + _HEAT[low + 1] * part).round().astype(np.uint8)


def with_hole(pixels: np.ndarray, hidden: Tensor) -> np.ndarray:
    """uint8 [..., H, W, 3] with the hidden pixels (1 in [..., 1, H, W]) painted blue, so that no one takes them for
    data."""
    hole = hidden.detach().cpu().numpy()[..., 0, :, :, None] > 0.5
    return np.where(hole, _HOLE, pixels)


_SPELT = str.maketrans({"Π": "Pi", "σ": "sigma", "η": "eta", "α": "alpha"})
"""Pillow's own font has no Greek."""


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except (ImportError, OSError, TypeError):  # a Pillow without FreeType has one small bitmap font
        return ImageFont.load_default()


@dataclass(frozen=True)
class Column:
    """A column of a picture grid: its title, a line below it, and uint8 pictures [N, H, W, 3]."""

    title: str
    pictures: np.ndarray
    note: str = ""


def picture_grid(
    columns: Sequence[Column],
    *,
    title: str = "",
    footer: str = "",
    rows: Sequence[str] = (),
    cell: int = 96,
    gaps: Sequence[int] = (),
) -> Image.Image:
    """Pictures in labelled columns: enlarged to about `cell` pixels without smoothing, on white.

    Args:
        title, footer: lines above and below. rows: a caption for each row, on the left.
        gaps: columns after which some space is left.
    """
    columns = [replace(c, title=c.title.translate(_SPELT), note=c.note.translate(_SPELT)) for c in columns]
    title, footer = title.translate(_SPELT), footer.translate(_SPELT)
    height, width = columns[0].pictures.shape[1:3]
    zoom = max(1, round(cell / max(height, width)))
    height, width = height * zoom, width * zoom
    pad, ink, soft = 8, (25, 25, 25), (120, 120, 120)
    big, normal, small = font(19), font(15), font(12)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = max([0, *(measure.textlength(r, font=normal) for r in rows)])
    left = int(left) + 2 * pad if rows else pad
    wide = max(
        width,
        *(int(max(measure.textlength(c.title, font=normal), measure.textlength(c.note, font=small))) for c in columns),
    )
    places, x = [], left
    for i in range(len(columns)):
        places.append(x + (wide - width) // 2)
        x += wide + pad + (2 * pad if i in gaps else 0)
    notes = any(c.note for c in columns)
    top = pad + (32 if title else 0)
    head = top + (22 if any(c.title for c in columns) else 0) + (18 if notes else 0)
    n = max(len(c.pictures) for c in columns)
    bottom = head + n * (height + pad)
    total = max(
        x,
        left + int(measure.textlength(title, font=big)) + pad,
        left + int(measure.textlength(footer, font=small)) + pad,
    )
    image = Image.new("RGB", (total, bottom + (26 if footer else 0)), "white")
    draw = ImageDraw.Draw(image)
    if title:
        draw.text((left, pad), title, fill=ink, font=big)
    for place, column in zip(places, columns, strict=True):
        middle = place + width / 2
        draw.text((middle, top), column.title, fill=ink, font=normal, anchor="ma")
        if column.note:
            draw.text((middle, top + 20), column.note, fill=soft, font=small, anchor="ma")
        for i, picture in enumerate(column.pictures):
            part = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
            image.paste(part, (place, head + i * (height + pad)))
    for i, caption in enumerate(rows):
        draw.text((left - pad, head + i * (height + pad) + height / 2), caption, fill=soft, font=normal, anchor="rm")
    if footer:
        draw.text((left, bottom + 2), footer, fill=soft, font=small)
    return image


# of samples and measurements

SHOWN = 8
"""Samples in the picture of a draw."""


def picture_of(obs: Observation, shape: Sequence[int]) -> np.ndarray:
    """Measurements [N] as pictures uint8 [N, H, W, 3]: enlarged if they are small, with the hole painted over."""
    hidden = obs.hidden((len(obs), *shape))
    pixels = to_pixels(obs.likelihood.picture(obs.y))
    return pixels if hidden is None else with_hole(pixels, hidden.expand(len(obs), *shape))


def spread_column(std: Tensor, note: str) -> tuple[Column, str]:
    """The standard deviation [N, C, H, W] of samples as a column, and the line that says what its colours mean."""
    deviation = std.mean(1)
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
        column, footer = spread_column(std[None], f"of {n}")
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
            column, footer = spread_column(Draws(v.x.clamp(-1, 1)).std, v.note)
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
