"""Reading back what commands write: pictures, labelled sheets of pictures, tables; and metrics by their definitions.

Nothing here asks `deft` for a number or a picture: the formulas are written out in NumPy, and a sheet is read from its
PNG alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pictures.


def pixels(x: np.ndarray) -> np.ndarray:
    """[..., C, H, W] in [-1, 1] -> uint8 [..., H, W, 3], to the nearest grey level."""
    levels = np.rint(127.5 * (np.clip(np.asarray(x, np.float32), -1, 1) + 1)).astype(np.uint8)
    levels = np.moveaxis(levels, -3, -1)
    return np.broadcast_to(levels, (*levels.shape[:-1], 3))


def png(path: Path) -> np.ndarray:
    """A PNG as uint8 [H, W, 3]."""
    return np.asarray(Image.open(path).convert("RGB"))


def same_picture(path: Path, x: np.ndarray, what: str) -> None:
    """The PNG is the array in [-1, 1], to one grey level."""
    found, expected = png(path).astype(int), pixels(x).astype(int)
    assert found.shape == expected.shape, f"{path.name} is {found.shape}, {what} is {expected.shape}"
    assert np.abs(found - expected).max() <= 1, (
        f"{path.name} is not {what}: off by up to {np.abs(found - expected).max()} grey levels"
    )


HEAT = np.array([(10, 8, 30), (66, 20, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 190)], float)
"""The colours of a spread: near black is 0, pale yellow the largest."""


def heat(values: np.ndarray, top: float) -> np.ndarray:
    """[..., H, W] as the colours of a spread, uint8 [..., H, W, 3]."""
    u = np.clip(np.asarray(values, float) / top, 0, 1) * (len(HEAT) - 1)
    return np.stack([np.rint(np.interp(u, np.arange(len(HEAT)), HEAT[:, c])) for c in range(3)], -1).astype(np.uint8)


def deviation(samples: np.ndarray) -> np.ndarray:
    """Standard deviation of each number over the samples [S, *E], which are clamped to [-1, 1]; 0 for one sample."""
    return np.clip(samples, -1, 1).std(0, ddof=1) if len(samples) > 1 else np.zeros(samples.shape[1:])


class Box(NamedTuple):
    x: int
    y: int
    width: int
    height: int


class Sheet:
    """A PNG with pictures in labelled columns."""

    def __init__(self, path: Path):
        rgb = png(path)
        self.name, self.rgb, self.dark, self.zoom = path.name, rgb.astype(np.int16), 1 - rgb.mean(-1) / 255, 1
        self.red = np.ascontiguousarray(self.rgb[..., 0])

    def find(self, picture: np.ndarray, near: int = 0) -> list[Box]:
        """Where a picture uint8 [H, W, 3] is, enlarged by a whole number; near: by how many levels a channel may
        differ."""
        for zoom in sorted(
            range(1, 17), key=lambda z: (z != self.zoom, -z)
        ):  # all pictures of a sheet are enlarged alike
            big = np.repeat(np.repeat(picture.astype(np.int16), zoom, 0), zoom, 1)
            height, width = big.shape[:2]
            rows, columns = self.rgb.shape[0] - height + 1, self.rgb.shape[1] - width + 1
            if min(rows, columns) < 1:
                continue
            y, x = np.nonzero(np.abs(self.red[:rows, :columns] - big[0, 0, 0]) <= near)
            for dy, dx in np.random.default_rng(0).integers(
                (height, width), size=(32, 2)
            ):  # a few pixels first, then all of them
                fits = (np.abs(self.rgb[y + dy, x + dx] - big[dy, dx]) <= near).all(-1)
                y, x = y[fits], x[fits]
            found = [
                Box(int(i), int(j), width, height)
                for j, i in zip(y, x, strict=True)
                if np.abs(self.rgb[j : j + height, i : i + width] - big).max() <= near
            ]
            if found:
                self.zoom = zoom
                return found
        return []

    def says(self, text: str, x: float, anchor: str, low: int, high: int) -> bool:
        """Whether a text stands at x (its middle for the anchor "m", its right end for "r", its left for "l")
        between two rows, and nothing beside it."""
        band = self.dark[max(low, 0) : high]
        for size in range(10, 24):
            canvas = Image.new("L", (self.dark.shape[1], 3 * size), 255)
            ImageDraw.Draw(canvas).text((x, size), text, fill=0, font=ImageFont.load_default(size), anchor=anchor + "a")
            ink = 1 - np.asarray(canvas) / 255
            if not ink.any():
                continue
            rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
            left, right = max(columns[0] - 2, 0), columns[-1] + 3
            word = ink[rows[0] : rows[-1] + 1, left:right] / ink.max()
            for y in range(len(band) - len(word) + 1):
                part = band[y : y + len(word), left:right]
                if part.max() > 0.1 and np.abs(part / part.max() - word).max() < 0.12:
                    return True
        return False


def check_sheet(
    path: Path,
    columns: Mapping[str, Sequence[np.ndarray]],
    *,
    notes: Mapping[str, str] | None = None,
    rows: Sequence[str] = (),
    title: str = "",
    near: int = 0,
) -> None:
    """A sheet has these columns, label -> pictures uint8 [H, W, 3] from top to bottom, each under its label.

    The columns are in this order from left to right.

    notes: a second line under a label. rows: captions on the left. near: see `Sheet.find`.
    """
    sheet = Sheet(path)
    places: dict[str, list[Box]] = {}
    for label, pictures in columns.items():
        found = [sheet.find(p, near) for p in pictures]
        for i, boxes in enumerate(found):
            assert boxes, f"{path.name}: picture {i} of {label!r} is nowhere on it"
        in_line = [x for x in sorted({b.x for b in found[0]}) if all(any(b.x == x for b in boxes) for boxes in found)]
        in_line = [x for x in in_line if x not in {p[0].x for p in places.values()}]
        assert in_line, f"{path.name}: the pictures of {label!r} are not below each other in a column of their own"
        places[label] = [next(b for b in boxes if b.x == in_line[0]) for boxes in found]
    across = [p[0].x for p in places.values()]
    assert across == sorted(across), (
        f"{path.name}: the columns {list(columns)} are at {across}, expected from left to right"
    )
    for label, boxes in places.items():
        heights = [b.y for b in boxes]
        assert heights == sorted(heights) and heights == [b.y for b in next(iter(places.values()))[: len(boxes)]], (
            f"{path.name}: the rows of {label!r} are not those of the others"
        )
        first = boxes[0]
        for text in (label, (notes or {}).get(label, "")):
            if text:
                shown = text.replace("Π", "Pi").replace("σ", "sigma").replace("η", "eta")
                assert sheet.says(shown, first.x + first.width / 2, "m", first.y - 50, first.y), (
                    f"{path.name}: {text!r} does not stand above its column"
                )
    column = next(iter(places.values()))
    for text, box in zip(rows, column, strict=True) if rows else ():
        edge = column[0].x - 1
        assert any(sheet.says(text, x, "r", box.y, box.y + box.height) for x in range(edge, edge - 120, -1)), (
            f"{path.name}: the caption {text!r} is not beside its row"
        )
    if title:
        assert any(sheet.says(title, x, "l", 0, 40) for x in range(0, column[0].x + 1)), (
            f"{path.name}: the title {title!r} is not on it"
        )


# Tables.


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text, as rows of cells; the line of dashes is left out."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not all(re.fullmatch(r":?-+:?", c) for c in cells):
                tables[-1].append(cells)
        elif tables[-1]:
            tables.append([])
    return [t for t in tables if t]


def terminal_tables(text: str) -> list[list[list[str]]]:
    """The aligned tables of a terminal, as rows of cells; cells are two spaces or more apart."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if re.search(r"\S  +\S", line) or (line.startswith("  ") and line.strip()):
            tables[-1].append(re.split(r"  +", line.rstrip()))
        elif tables[-1]:
            tables.append([])
    return [t for t in tables if t]


def numbers(cell: str) -> list[float]:
    """The numbers of a cell: "0.12 [0.10, 0.15]" -> [0.12, 0.10, 0.15]."""
    return [float(v.replace(",", "")) for v in re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?", cell)]


def shown(value: float, cell: str) -> bool:
    """Whether the first number of a cell is a value, rounded to as many digits as it shows."""
    text = re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?", cell)[0].replace(",", "")
    digits = len(text.partition(".")[2])
    return abs(float(text) - value) <= 0.5 * 10**-digits * (1 + 1e-6) + 1e-12


def shown_and_reported(capsys: Any, *arguments: object) -> tuple[dict[str, Any], str]:
    """(what a command reports with --json, what it says to people meanwhile)."""
    from toys import run

    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out), err


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as data:
        return {k: data[k] for k in data.files}


def close(found: float, expected: float, rel: float, what: str, least: float = 0.0) -> None:
    assert math.isfinite(found) and abs(found - expected) <= max(rel * abs(expected), least), (
        f"{what} is {found:.6g}, expected {expected:.6g}"
    )


# Metrics of samples [S, C, H, W] and the truth [C, H, W], in [-1, 1]. where: 1 at the pixels that count.


def unit(x: np.ndarray) -> np.ndarray:
    return (np.clip(np.asarray(x, float), -1, 1) + 1) / 2


def psnr(x: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    squares = np.square(unit(x) - unit(truth))
    return float(
        -10
        * np.log10(
            max(np.average(squares, weights=None if where is None else np.broadcast_to(where, squares.shape)), 1e-10)
        )
    )


def ssim(x: np.ndarray, truth: np.ndarray) -> float:
    from skimage.metrics import structural_similarity

    return float(structural_similarity(unit(x), unit(truth), data_range=1.0, channel_axis=0))


def energy(samples: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance to the truth less half of that between different samples; a distance is the root mean square
    over pixels."""
    x, y, s = np.clip(samples.astype(float), -1, 1), np.clip(truth.astype(float), -1, 1), len(samples)
    rms = lambda d: float(np.sqrt(np.square(d).mean()))  # noqa: E731
    pairs = [rms(x[i] - x[j]) for i in range(s) for j in range(i)]
    return float(np.mean([rms(one - y) for one in x]) - np.mean(pairs) / 2)


def crps(samples: np.ndarray, truth: np.ndarray) -> float:
    x, y, s = np.clip(samples.astype(float), -1, 1), np.clip(truth.astype(float), -1, 1), len(samples)
    pairs = np.mean([np.abs(x[i] - x[j]) for i in range(s) for j in range(i)], 0)
    return float((np.abs(x - y).mean(0) - pairs / 2).mean())


def coverage(samples: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None, level: float = 0.9) -> float:
    """Share of pixels whose central interval holds the truth: its rank among the samples, at random among
    equals, spread over its cell of 1/(S + 1)."""
    s = len(samples)
    x, y = (np.rint((np.clip(np.asarray(v, np.float32), -1, 1) + 1) * 127.5) for v in (samples, truth))
    whole = np.concatenate([x, y[None]])
    counts = (whole.max(0) - whole.min(0) > 1) & (np.broadcast_to(1 if where is None else where, y.shape) > 0)
    if not counts.any():
        return level
    inside = []
    for below, equal in zip((x < y).sum(0)[counts], (x == y).sum(0)[counts], strict=True):
        edges = np.arange(below, below + equal + 2) / (s + 1)
        covered = np.clip(edges, (1 - level) / 2, (1 + level) / 2)
        inside.append(float((covered[-1] - covered[0]) / (edges[-1] - edges[0])))
    return float(np.mean(inside))


def spread_over_error(
    samples: Sequence[np.ndarray], truth: Sequence[np.ndarray], where: Sequence[np.ndarray | None]
) -> float:
    """Root of (1 + 1/S) times the mean variance of the samples over the mean squared error of their mean, over
    all images."""
    a, b = [], []
    for x, y, w in zip(samples, truth, where, strict=True):
        x, y = np.clip(x.astype(float), -1, 1), np.clip(y.astype(float), -1, 1)
        weight = np.broadcast_to(1.0 if w is None else w, y.shape)
        a.append((1 + 1 / len(x)) * np.average(x.var(0, ddof=1), weights=weight))
        b.append(np.average(np.square(x.mean(0) - y), weights=weight))
    return float(np.sqrt((np.mean(a) + 1e-10) / (np.mean(b) + 1e-10)))


def residual(task: str, x: np.ndarray, y: np.ndarray, mask: np.ndarray | None) -> float:
    """Root mean square of y - A x over what was measured, of one sample [C, H, W]."""
    if task == "inpaint":
        assert mask is not None
        seen = np.broadcast_to(mask, y.shape).astype(float)
        return float(np.sqrt((np.square(y - seen * x) * seen).sum() / seen.sum()))
    if task == "sr4":
        c, h, w = x.shape
        return float(np.sqrt(np.square(y - x.astype(float).reshape(c, h // 4, 4, w // 4, 4).mean((2, 4))).mean()))
    assert task == "denoise", task
    return float(np.sqrt(np.square(y - x.astype(float)).mean()))


def bracketed(row: Mapping[str, Any], values: Sequence[float], what: str) -> None:
    """The interval of a row is the bootstrap's of these values, one an image: to a tenth of its width, and
    around its value."""
    assert row["low"] <= row["value"] <= row["high"], f"{what}: {row['value']} is outside [{row['low']}, {row['high']}]"
    v = np.asarray(values, float)
    means = v[np.random.default_rng(7).integers(0, len(v), (8000, len(v)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    slack = 0.12 * (high - low) + 2e-3 * abs(v.mean()) + 1e-4
    assert abs(row["low"] - low) <= slack and abs(row["high"] - high) <= slack, (
        f"{what}: the interval is [{row['low']:.5g}, {row['high']:.5g}], expected [{low:.5g}, {high:.5g}]"
    )
