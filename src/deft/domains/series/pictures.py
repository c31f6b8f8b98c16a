"""Fan charts and sheets of curves, drawn with Pillow."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, SOFT, GRID = (30, 30, 30), (110, 110, 110), (228, 228, 228)
BAND, INNER, LINE, DOT = (206, 224, 242), (150, 190, 226), (22, 84, 150), (190, 50, 30)
COLOURS = ((22, 84, 150), (190, 80, 30), (40, 130, 70), (130, 60, 140), (150, 120, 20), (80, 80, 80))
SPELT = str.maketrans({"Π": "Pi", "σ": "sigma", "η": "eta", "α": "alpha"})
"""Pillow's own font has no Greek."""
SHOWN = 6
"""Variables in a picture."""
SCALE = 2
"""Lines are drawn so many times larger, and averaged."""


@dataclass
class Panel:
    """One variable: bands [(low [L], high [L])], the widest first, lines [[L]], and points that were observed, NaN
    elsewhere."""

    title: str
    bands: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    lines: Sequence[np.ndarray] = ()
    dots: np.ndarray | None = None
    fill: Sequence[tuple[int, int, int]] = field(default=(BAND, INNER))
    colours: Sequence[tuple[int, int, int]] = COLOURS


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except (ImportError, OSError, TypeError):  # a Pillow without FreeType has one small bitmap font
        return ImageFont.load_default()


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round numbers between two.

    >>> ticks(0.0, 97.0)
    [0.0, 50.0]
    """
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    raw = span / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def chart(panels: Sequence[Panel], times: Sequence[str], title: str, footer: str = "", wide: int = 760) -> bytes:
    """A PNG of panels below one another, over one axis of time."""
    s = SCALE
    left, right, top, tall, gap, bottom = 64 * s, 14 * s, 34 * s, 104 * s, 26 * s, 46 * s
    width, height = wide * s, top + len(panels) * (tall + gap) + bottom
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((10 * s, 8 * s), title.translate(SPELT), fill=INK, font=font(15 * s))
    n = len(times)
    across = np.linspace(left, width - right, n) if n > 1 else np.array([(left + width - right) / 2])
    at = top
    for panel in panels:
        at += gap
        _panel(draw, panel, across, at, at + tall, left, width - right)
        at += tall
    small = font(11 * s)
    for i in sorted({round(k * (n - 1) / 4) for k in range(5)}):
        anchor = "la" if i == 0 else "ra" if i == n - 1 and n > 1 else "ma"
        draw.text((across[i], at + 5 * s), times[i], fill=SOFT, font=small, anchor=anchor)
    if footer:
        draw.text((left, at + 24 * s), footer.translate(SPELT), fill=SOFT, font=small)
    data = io.BytesIO()
    image.resize((width // s, height // s), Image.Resampling.LANCZOS).save(data, format="PNG", optimize=True)
    return data.getvalue()


def _panel(
    draw: ImageDraw.ImageDraw, panel: Panel, across: np.ndarray, top: float, bottom: float, left: float, right: float
) -> None:
    parts = [v for band in panel.bands for v in band] + list(panel.lines)
    parts += [] if panel.dots is None else [panel.dots]
    every = np.concatenate([np.asarray(p, float).ravel() for p in parts])
    every = every[np.isfinite(every)]
    low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.5 * max(abs(high), 1e-9)
    low, high = low - margin, high + margin

    def down(v: np.ndarray) -> np.ndarray:
        return bottom - (np.asarray(v, float) - low) / (high - low) * (bottom - top)

    s, small = SCALE, font(11 * SCALE)
    draw.text((left, top - 17 * s), panel.title, fill=INK, font=font(12 * s))
    for tick in ticks(low, high):
        y = float(down(np.array(tick)))
        draw.line([(left, y), (right, y)], fill=GRID, width=s)
        draw.text((left - 6 * s, y), f"{tick:.6g}", fill=SOFT, font=small, anchor="rm")
    for (a, b), colour in zip(panel.bands, panel.fill, strict=False):
        edge = [*zip(across, down(b), strict=True), *reversed([*zip(across, down(a), strict=True)])]
        if len(across) > 1:
            draw.polygon([(float(x), float(y)) for x, y in edge], fill=colour)
    for i, line in enumerate(panel.lines):
        points = [(float(x), float(y)) for x, y in zip(across, down(line), strict=True)]
        if len(points) > 1:
            draw.line(points, fill=panel.colours[i % len(panel.colours)], width=round(1.5 * s), joint="curve")
    if panel.dots is not None:
        r = 1.6 * s
        for x, y in zip(across, down(panel.dots), strict=True):
            if np.isfinite(y):
                draw.ellipse([x - r, y - r, x + r, y + r], fill=DOT)
    draw.rectangle([left, top, right, bottom], outline=SOFT, width=max(1, s // 2))


def fan(
    titles: Sequence[str],
    quantiles: np.ndarray,
    dots: np.ndarray | None,
    times: Sequence[str],
    title: str,
    n: int,
    across: str = "",
) -> bytes:
    """A fan chart of quantiles [5, C, L] (5, 25, 50, 75, 95 %) and observed points [C, L], NaN where nothing was
    seen."""
    gaps = np.zeros(len(titles)) if dots is None else np.isnan(dots).sum(-1)
    panels = [
        Panel(
            titles[i],
            [(quantiles[0, i], quantiles[4, i]), (quantiles[1, i], quantiles[3, i])],
            [quantiles[2, i]],
            None if dots is None else dots[i],
        )
        for i in sorted(np.argsort(-gaps, kind="stable")[:SHOWN])  # those with the most to fill
    ]
    more = f"; {len(titles) - SHOWN} more variables are in quantiles.csv" if len(titles) > SHOWN else ""
    seen = "" if dots is None else "; dots: measured"
    return chart(panels, times, title, f"bands: 50 % and 90 % of {n} samples; line: their median{seen}{more}{across}")


def curves(titles: Sequence[str], x: np.ndarray, times: Sequence[str], title: str, across: str = "") -> bytes:
    """Samples [n, C, L] as curves in one panel for each variable."""
    panels = [Panel(name, lines=list(x[:, i])) for i, name in enumerate(titles[:SHOWN])]
    more = f"; {len(titles) - SHOWN} more variables are not shown" if len(titles) > SHOWN else ""
    return chart(panels, times, title, f"{len(x)} samples{more}{across}")


NAMED = ("blue", "orange", "green", "purple", "ochre", "grey")
"""`COLOURS` in words."""


def wall(name: str, rows: Sequence[Row], times: Sequence[str], title: str, of: str, across: str) -> bytes:
    """One variable of each case in a panel of its own: curves of several methods, and the band of one. of: what the
    band is of. across: what the axis of time is."""
    panels = [
        Panel(f"{r.caption}: {name}", [] if r.band is None else [r.band], [line for _, line in r.lines])
        for r in rows[:SHOWN]
    ]
    drawn = [f"{said} {colour}" for (said, _), colour in zip(rows[0].lines, NAMED * 4, strict=False)]
    band = f"; band: 90 % of {of}" if rows[0].band is not None else ""
    return chart(panels, times, title, ", ".join(drawn) + band + across)


@dataclass
class Row:
    """A case of `wall`: lines [(what it is, [L])], and a band (low [L], high [L])."""

    caption: str
    lines: Sequence[tuple[str, np.ndarray]]
    band: tuple[np.ndarray, np.ndarray] | None = None


__all__ = ["SHOWN", "Panel", "Row", "chart", "curves", "fan", "ticks", "wall"]
