"""Pictures as files: PNGs, and labelled grids of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from deft.io.arrays import save_arrays
from deft.io.files import open_folder, write_atomic


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
        x, left + int(measure.textlength(title, font=big)) + pad, int(measure.textlength(footer, font=small)) + 2 * pad
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


__all__ = [
    "Column",
    "font",
    "heat",
    "open_folder",
    "picture_grid",
    "save_arrays",
    "save_image",
    "save_picture",
    "to_pixels",
    "with_hole",
]
