"""Pictures of sounds: the waveform, and below it the spectrogram."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from deft.core.likelihood import Observation
from deft.domains.sound.spectra import power
from deft.kinds.cases import View

WIDTH, WAVE, SPECTRUM, PAD = 260, 56, 128, 8
"""Pixels of a panel: across, of the waveform, of the spectrogram, and between panels."""
LOUDEST, QUIETEST = 20.0, -40.0
"""dB of a spectrogram's colours, of a frame of a sound of power 1."""
SHOWN = 8
MOST = 20
"""Samples of a prior in its picture."""
"""Samples in the picture of a draw."""
COLOURS = np.array(
    [(10, 8, 30), (60, 24, 98), (131, 38, 106), (203, 65, 73), (244, 129, 32), (248, 205, 80), (252, 255, 220)],
    np.float32,
)
INK, SOFT, GAP = (25, 25, 25), (130, 130, 130), (205, 224, 232)
GREEK = str.maketrans({"Π": "Pi", "σ": "sigma", "η": "eta", "α": "alpha"})  # Pillow's own font has none


def sheet(x: Tensor, rate: int, titles: Sequence[str] = (), title: str = "", hidden: Tensor | None = None) -> bytes:
    """A PNG of sounds [n, 1, L], five in a row. hidden: 1 where the first was not heard, [1, L]."""
    x = x.detach().float().cpu()
    gaps = [hidden, *[None] * (len(x) - 1)]
    panels = [panel(one[0], None if gap is None else gap[0]) for one, gap in zip(x, gaps, strict=True)]
    return _laid_out(panels, titles, title, axes(x.shape[-1], rate))


def panel(x: Tensor, hidden: Tensor | None = None) -> Image.Image:
    """The waveform of a sound [L] between -4 and 4, and its spectrogram; what was not heard is shaded."""
    image = Image.new("RGB", (WIDTH, WAVE + SPECTRUM), "white")
    draw = ImageDraw.Draw(image)
    often = -(-WIDTH // len(x))  # each of few samples is several pixels wide
    values = x.numpy().clip(-4, 4).repeat(often)
    gone = None if hidden is None else (hidden.cpu().numpy() > 0.5).repeat(often)
    edges = np.linspace(0, len(values), WIDTH + 1).round().astype(int)
    for i, (a, b) in enumerate(pairwise(edges)):
        if gone is not None and gone[a:b].any():
            draw.line([(i, 0), (i, WAVE - 1)], fill=GAP)
            continue
        part = values[a : b + 1]
        low, high = (round((WAVE - 1) * (0.5 - v / 8)) for v in (part.max(), part.min()))
        draw.line([(i, low), (i, high)], fill=(40, 70, 120))
    image.paste(spectrogram(x, gone), (0, WAVE))
    return image


def spectrogram(x: Tensor, gone: np.ndarray | None = None) -> Image.Image:
    """The power of each frame and frequency in dB as colours, low frequencies below."""
    size = 2 ** max(3, min(8, int(np.log2(max(8, len(x) // 8)))))
    levels = 10 * (power(x[None, None], size, max(1, len(x) // WIDTH))[0] + 1e-12).log10().numpy()
    u = ((levels - QUIETEST) / (LOUDEST - QUIETEST)).clip(0, 1) * (len(COLOURS) - 1)
    low = np.minimum(u.astype(int), len(COLOURS) - 2)
    part = (u - low)[..., None]
    pixels = (COLOURS[low] * (1 - part) + COLOURS[low + 1] * part).round().astype(np.uint8)
    image = Image.fromarray(pixels[::-1].copy()).resize((WIDTH, SPECTRUM), Image.Resampling.BILINEAR)
    if gone is None:
        return image
    shown = np.asarray(image).copy()
    columns = np.add.reduceat(gone, np.linspace(0, len(gone), WIDTH + 1).astype(int)[:-1]) > 0
    shown[:, columns] = GAP
    return Image.fromarray(shown)


def axes(length: int, rate: int) -> str:
    """What the sides of a panel are, for people."""
    return f"{length / rate:.3g} s across; 0 to {rate / 2000:g} kHz up"


def of_draws(x: Tensor, obs: Observation | None, rate: int, title: str) -> Mapping[str, bytes]:
    """sheet.png: the measurement, samples [n, 1, L] and their mean."""
    n = len(x)
    rows, titles = [*x[:SHOWN], x.mean(0)], [*(f"sample {i + 1}" for i in range(min(n, SHOWN))), f"mean of {n}"]
    hidden = None
    if obs is not None:
        y, hidden = _seen(obs, tuple(x.shape[1:]))
        rows, titles = [y[0], *rows], ["measurement", *titles]
        hidden = None if hidden is None else hidden[0]
    return {"sheet.png": sheet(torch.stack([r.cpu() for r in rows]), rate, titles, title, hidden)}


def of_measurement(x: Tensor, obs: Observation, rate: int, title: str) -> bytes:
    """Sounds [n, 1, L], and below each what was measured of it; the first five."""
    y, hidden = _seen(obs[:5], tuple(x.shape[1:]))
    panels = [panel(one[0]) for one in x[:5].float().cpu()]
    panels += [panel(v[0], None if hidden is None else hidden[i, 0]) for i, v in enumerate(y.float().cpu())]
    titles = [*(f"sound {i + 1}" for i in range(len(y))), *(f"measured {i + 1}" for i in range(len(y)))]
    return _laid_out(panels, titles, title, axes(x.shape[-1], rate), across=len(y))


def measured_pictures(obs: Observation, shape: tuple[int, ...]) -> np.ndarray:
    """Measurements [N] as panels, uint8 [N, H, W, 3]."""
    y, hidden = _seen(obs, shape)
    gaps = [None] * len(y) if hidden is None else [h[0] for h in hidden]
    return np.stack([np.asarray(panel(v[0], g)) for v, g in zip(y.detach().float().cpu(), gaps, strict=True)])


def wall(views: Sequence[View], rate: int, title: str = "", rows: Sequence[str] = ()) -> bytes | None:
    """A PNG of columns of sounds, a row for each case; columns of spread are left out."""
    views = [v for v in views if v.kind != "spread"]
    if not views:
        return None
    panels, titles = [], []
    for i in range(len(views[0].x)):
        for v in views:
            panels.append(Image.fromarray(v.x[i]) if v.kind == "picture" else panel(v.x[i, 0].detach().float().cpu()))
            case = rows[i] if v is views[0] and i < len(rows) else ""
            titles.append(": ".join(t for t in (v.title if i == 0 else "", case) if t))
    return _laid_out(panels, titles, title, axes(views[0].x.shape[-1], rate), across=len(views))


def _seen(obs: Observation, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """(measurements as sounds [N, 1, L], what was not heard of them)."""
    hidden = obs.hidden((len(obs), *shape))
    return obs.likelihood.picture(obs.y), None if hidden is None else hidden.expand(len(obs), *shape)


def _laid_out(panels: Sequence[Image.Image], titles: Sequence[str], title: str, footer: str, across: int = 5) -> bytes:
    across, pad = min(across, len(panels)), PAD
    head = 30 if title else pad
    tall = WAVE + SPECTRUM + 22
    rows = -(-len(panels) // across)
    image = Image.new("RGB", (pad + across * (WIDTH + pad), head + rows * (tall + pad) + 20), "white")
    draw = ImageDraw.Draw(image)
    draw.text((pad, 6), title.translate(GREEK), fill=INK, font=_font(17))
    for i, one in enumerate(panels):
        left, top = pad + (i % across) * (WIDTH + pad), head + (i // across) * (tall + pad)
        draw.text((left, top), (titles[i] if i < len(titles) else "").translate(GREEK), fill=INK, font=_font(13))
        image.paste(one, (left, top + 20))
    footer = f"{footer}{'; ' if footer else ''}colours {QUIETEST:g} to {LOUDEST:g} dB"
    draw.text((pad, image.height - 20), footer, fill=SOFT, font=_font(12))
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    return data.getvalue()


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        return ImageFont.load_default(size)
    except (ImportError, OSError, TypeError):  # a Pillow without FreeType has one small bitmap font
        return ImageFont.load_default()
