"""Pictures as they are stored, and what their values mean: decoding, and which values are black and white.

Pillow decodes with no change of the values. Its formats are given by name, so that a file called .png cannot start the
program that shows PostScript.

Black and white are `--range LOW,HIGH`, or what is concluded, or asked, without it. A wrong answer makes a
reconstruction that looks right and is not, so that what is not clear is asked. Without a range

- 8-bit pictures and arrays are 0 to 255, unless no value is above 15;
- 16-bit pictures are 0 to 65535, unless no value is above a quarter of it (10, 12 and 14 bits are often stored in 16);
- 1-bit pictures and arrays of bool are 0 and 1;
- floating-point values are -1 to 1 if at least one per cent of those that are not 0 lie below -0.5: noise and overshoot
  of values in [0, 1] do not reach so far;
- of all else (integer arrays, DICOM, NIfTI) the range must be given.

The rule is applied to all pictures of a source together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from deft.errors import InputError
from deft.io.picture_files import check_pixels, formats, reading_picture
from deft.io.settings import WINDOW, Range, as_range
from deft.io.text import count

SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif",
    ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc", ".avif",
)  # fmt: skip


class Decoded:
    """The frames that were asked for, as stored, and what was done to them.

    frames: [(number, [C, H, W], kind of `Raw`)]. total: how many the file has. turned: by its EXIF orientation.
    """

    def __init__(self, frames: list[tuple[int, np.ndarray, str]], total: int, turned: bool):
        self.frames, self.total, self.turned = frames, total, turned


def decode(path: Path, part: str | None, convert: bool) -> Decoded:
    """Read a picture; part: "all", a number or FIRST:LAST of a file of many frames (its first without); errors do not
    repeat the path."""
    with reading_picture(path), Image.open(path, formats=formats()) as opened:
        return _decode(opened, part, convert, path.stat().st_size)


def _decode(opened: Image.Image, part: str | None, convert: bool, packed: int) -> Decoded:
    frames, turned = [], False
    total = _length(opened) if part is not None else 0
    wanted = list(_wanted(part, total))
    check_pixels(opened.size, opened.mode, packed, len(wanted))
    for number in wanted:
        if number or part is not None:
            opened.seek(number)
            check_pixels(opened.size, opened.mode, packed)  # frames of a TIFF differ in size
        deep = opened.format in ("PNG", "TIFF") and ";16" in str([tile[3] for tile in getattr(opened, "tile", [])])
        turned = turned or _is_turned(opened)  # TIFFs are turned as they are loaded
        if getattr(opened, "tag_v2", {}).get(262) == 0 and opened.mode not in ("1", "L"):
            raise InputError("a TIFF in which 0 is white, which Pillow reads the wrong way round: invert it first")
        signed = opened.format == "TIFF"
        opened.load()
        turned = turned or _is_turned(opened)  # PNGs may say so at their end
        image = ImageOps.exif_transpose(opened)  # cameras store which way up they were held
        values, kind = _values(image, convert, signed)
        frames.append((number, values, "deep" if deep and kind == "8-bit" and image.mode != "L" else kind))
    return Decoded(frames, total or _length(opened), turned)


def _is_turned(opened: Image.Image) -> bool:
    return opened.getexif().get(0x0112, 1) in range(2, 9)


def _length(opened: Image.Image) -> int:
    try:
        return int(getattr(opened, "n_frames", 1))
    except Exception:  # later frames are damaged
        return 1


def _wanted(part: str | None, total: int) -> Iterator[int]:
    if part is None:
        yield 0
        return
    yield from numbers(part, total, "frame")


def numbers(part: str, total: int, what: str) -> range:
    """The numbers that "all", "3" or "2:10" name, of so many.

    >>> numbers("2:10", 6, "frame")
    range(2, 6)
    """
    first, colon, last = part.partition(":")
    try:
        if part == "all":
            return range(total)
        start = int(first or 0) if colon else int(first)
        stop = (int(last) if last else total) if colon else start + 1
    except ValueError:
        raise InputError(f"{part!r} names no {what}: give all, a number, or FIRST:LAST") from None
    if not 0 <= start < min(stop, total):
        raise InputError(f"{what} {part} of {total}: give 0 to {total - 1}")
    return range(start, min(stop, total))


def _values(image: Image.Image, convert: bool, signed: bool) -> tuple[np.ndarray, str]:
    """([C, H, W], kind) of an image of any mode."""
    image = _plain(image, convert)
    values = np.asarray(image)
    if image.mode == "1":
        return values.astype(bool)[None], "1-bit"
    if image.mode == "RGB":
        return np.ascontiguousarray(values.transpose(2, 0, 1)), "8-bit"
    if image.mode == "L":
        return values[None], "8-bit"
    if image.mode == "F":
        return values[None], "float"
    if image.mode == "I" and signed:  # 32 bits, or 16 with a sign
        return values[None], "integer"
    return values.astype(np.uint16)[None], "16-bit"


def _plain(image: Image.Image, convert: bool) -> Image.Image:
    """Without palette and alpha: 1, L, RGB, I, I;16 or F."""
    if image.mode in ("La", "RGBa", "RGBX"):
        image = image.convert({"La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}[image.mode])
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    elif "transparency" in image.info and image.mode in ("1", "L", "RGB"):  # one colour of a PNG stands for nothing
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    elif "transparency" in image.info and image.mode.startswith("I"):
        raise InputError("16 bits with a transparent grey: save it without transparency")
    if image.mode in ("LA", "RGBA"):
        low, _ = image.getchannel("A").getextrema()
        if low != 255:
            if not convert:
                raise InputError("partly transparent: flatten it, or give --convert to put it on black")
            ground = Image.new("RGBA", image.size, (0, 0, 0, 255))
            flat = Image.alpha_composite(ground, image.convert("RGBA"))
            return flat.convert("RGB").getchannel(0) if image.mode == "LA" else flat.convert("RGB")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode == "YCbCr":
        return image.convert("RGB")
    if image.mode == "CMYK":
        if not convert:
            raise InputError(
                "CMYK, expected grey or RGB: convert it, or give --convert (which knows of no colour profile)"
            )
        return image.convert("RGB")
    if image.mode not in ("1", "L", "RGB", "F", "I") and not image.mode.startswith("I;16"):
        raise InputError(
            f"colour mode {image.mode}, expected grey or RGB: convert it with a program that knows colour profiles"
        )
    return image


# black and white

RANGES: dict[str, tuple[float, float]] = {"-1,1": (-1.0, 1.0), "0,1": (0.0, 1.0), "0,255": (0.0, 255.0)}
"""The usual ones; `as_range` takes any two numbers."""

LIKELY = ((0, 1), (-0.5, 0.5), (-1, 1), (0, 15), (0, 255), (0, 1023), (0, 4095), (0, 16383), (0, 65535))
SLACK = 1e-3
"""How far images may lie outside [-1, 1]: rounding."""
MARGIN = 0.1
"""How far values may lie outside a range that was given, in parts of its span: they are clipped, and counted."""
FAINT = 0.03
"""Pictures that fill less than this part of their range are warned of."""
SIGNED = -0.5
"""Floating-point values are taken as [-1, 1] if one per cent of them lie below this."""


def range_text(value: Sequence[float]) -> str:
    """
    >>> range_text((0.0, 4095.0)), range_text((-0.5, 0.5))
    ('0,4095', '-0.5,0.5')
    """
    return ",".join(f"{v:.10g}" for v in value)


def option(value: Sequence[float]) -> str:
    """How it is written on a command line: with = where it begins with a minus."""
    return f"--range{'=' if value[0] < 0 else ' '}{range_text(value)}"


@dataclass(frozen=True)
class Raw:
    """A picture with the values that are stored, and what they were before any resizing.

    values: [C, H, W]. kind: "8-bit", "16-bit", "1-bit", "deep" (the high bytes of 16-bit colour), "float", "integer" or
        "scan".
    low, high: of what is finite; broken: how many are not. sample: some of the values. size: (H, W) as stored.
    window: that of the file itself; inverted: low is white.
    """

    name: str
    values: np.ndarray
    kind: str
    low: float
    high: float
    sample: np.ndarray
    broken: int
    size: tuple[int, int]
    window: tuple[float, float] | None = None
    inverted: bool = False


def raw(
    name: str,
    values: np.ndarray,
    kind: str,
    share: int,
    window: tuple[float, float] | None = None,
    inverted: bool = False,
) -> Raw:
    """A `Raw` of [C, H, W] with its statistics; share: about how many values to keep as a sample."""
    flat = values.reshape(-1)
    finite = flat
    if kind in ("float", "scan") and not bool(np.isfinite(flat).all()):
        finite = flat[np.isfinite(flat)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (math.nan, math.nan)
    step = max(1, finite.size // max(share, 1)) | 1  # odd, so that it does not fall on the same columns
    size = (int(values.shape[1]), int(values.shape[2]))
    return Raw(
        name,
        values,
        kind,
        low,
        high,
        finite[::step].astype(np.float64),
        flat.size - finite.size,
        size,
        window,
        inverted,
    )


def likely(low: float, high: float) -> tuple[float, float]:
    """The usual range that values from `low` to `high` come from, or these two."""
    for a, b in LIKELY:
        slack = MARGIN * (b - a)
        if a - slack <= low and high <= b + slack and (high > (a + b) / 2 or low < a):
            return float(a), float(b)
    return (low, high) if low < high else (min(low, 0.0), max(high, 1.0))


def choose(raws: Sequence[Raw], asked: Range, source: str) -> dict[str, tuple[float, float]]:
    """The range of every kind of value in a source; scans that go by their own window are not in it.

    Raises:
        InputError: a question that only the user can answer, with the likely answer.
    """
    kinds = sorted({r.kind for r in raws})
    if asked == WINDOW:
        without = next((r for r in raws if r.window is None), None)
        if without is not None:
            raise InputError(
                f"{source}: {without.name} gives no window of its own (as some DICOM and NIfTI files do): give --range"
                f" LOW,HIGH instead of {WINDOW}"
            )
        return {}
    if isinstance(asked, tuple):
        return dict.fromkeys(kinds, _given(raws, kinds, asked, source))
    return {kind: _usual(kind, [r for r in raws if r.kind == kind], source) for kind in kinds}


def _extent(raws: Sequence[Raw]) -> tuple[float, float, np.ndarray]:
    known = [r for r in raws if math.isfinite(r.low)]
    if not known:
        return math.nan, math.nan, np.zeros(0)
    return min(r.low for r in known), max(r.high for r in known), np.concatenate([r.sample for r in known])


def _given(raws: Sequence[Raw], kinds: list[str], asked: tuple[float, float], source: str) -> tuple[float, float]:
    text = option(asked)
    if len(kinds) > 1:
        raise InputError(
            f"{source} holds {' and '.join(kinds)} values: {text} cannot be right for both; read them apart"
        )
    low, high, sample = _extent(raws)
    if not sample.size or kinds == ["scan"]:
        return asked
    slack = MARGIN * (asked[1] - asked[0])
    outside = (sample < asked[0] - slack) | (sample > asked[1] + slack)
    if kinds == ["deep"]:
        if asked != (0.0, 65535.0):
            raise InputError(
                f"{source} holds 16-bit colour, of which Pillow reads the upper 8 bits: {text} cannot be carried out;"
                " convert it to 8 bits, or to an .npz with --range"
            )
        return 0.0, 255.0
    if kinds == ["1-bit"] and asked != (0.0, 1.0):
        raise InputError(f"{source} holds 0 and 1 (bool, or 1 bit), for which {text} is wrong: leave it out")
    if outside.mean() > 0.01:
        known = {"8-bit": "8-bit values, 0 to 255, need no --range", "1-bit": "0 and 1 need no --range"}.get(kinds[0])
        guess = likely(*np.quantile(sample, (0.001, 0.999)))
        raise InputError(
            f"{source} holds {kinds[0]} values from {low:.4g} to {high:.4g}, far outside {text}: "
            + (
                f"leave it out ({known}), or clip the values first"
                if known
                else f"give the range that they have ({option(guess)}?), or clip them first"
            )
        )
    return asked


def _usual(kind: str, raws: Sequence[Raw], source: str) -> tuple[float, float]:
    low, high, sample = _extent(raws)
    if not sample.size:
        return -1.0, 1.0
    extent = f"from {low:.6g} to {high:.6g}"
    if kind == "1-bit":
        return 0.0, 1.0
    if kind == "8-bit":
        if 0 < high <= 15:
            raise InputError(
                f"{source} holds 8-bit values {extent} of 255, which would all be black: give --range"
                f" 0,{next(t for t in (1, 3, 7, 15) if high <= t)} (or --range 0,255 if they are right as they are)"
            )
        return 0.0, 255.0
    if kind == "deep":
        if high < 64:
            raise InputError(
                f"{source} holds 16-bit colour below a quarter of 65535, of which Pillow reads the upper 8 bits:"
                " convert it to 8 bits, or to an .npz with --range"
            )
        return 0.0, 255.0
    if kind == "16-bit":
        if 0 < high < 65535 / 4:
            top = next(t for t in (1, 15, 255, 1023, 4095, 16383) if high <= t)
            bits = "" if top == 1 else f" for {top.bit_length()} bits"
            raise InputError(
                f"{source} holds 16-bit values {extent} of 65535, which would be nearly black: give --range"
                f" 0,{top}{bits} (or --range 0,65535 if they are right as they are)"
            )
        return 0.0, 65535.0
    core = likely(*(float(q) for q in np.quantile(sample, (0.001, 0.999))))
    if kind == "scan":
        own = {r.window for r in raws if r.window is not None}
        middle = np.quantile(sample, (0.005, 0.995))
        found = next(iter(own)) if own else (float(f"{middle[0]:.3g}"), float(f"{middle[1]:.3g}"))
        ways = (
            f", or --range {WINDOW} for the files' own"
            f" ({', '.join(range_text(w) for w in sorted(own)[:3])}{', ...' if len(own) > 3 else ''})"
            if own
            else ""
        )
        raise InputError(
            f"{source} holds measured values {extent}: say what black and white are with"
            f" {option(found) if not own else '--range LOW,HIGH'}{ways if own else ' or the like'}"
        )
    if kind == "integer":
        raise InputError(
            f"{source} holds integer values {extent}: say what black and white are: --range LOW,HIGH ({option(core)}?)"
        )
    filled = sample[sample != 0]
    if filled.size and np.quantile(filled, 0.01) < SIGNED:
        return -1.0, 1.0
    if low == high:  # said of each picture
        return -1.0, 1.0
    guess = core if core != (-1.0, 1.0) else (0.0, 1.0)
    raise InputError(
        f"{source} holds floating-point values {extent}, expected -1 to 1 with the black at -1: "
        f"give {option(guess)} (or --range=-1,1 if they are right as they are)"
    )


def faint(raws: Sequence[Raw], limits: dict[str, tuple[float, float]]) -> list[str]:
    """A warning of each kind of value that fills very little of its range."""
    lines = []
    for kind, (low, high) in limits.items():
        own = [r for r in raws if r.kind == kind]
        least, most, sample = _extent(own)
        if sample.size and least < most and float(np.ptp(np.quantile(sample, (0.001, 0.999)))) < FAINT * (high - low):
            lines.append(
                f"warning: {kind} values run from {least:.4g} to {most:.4g} and fill little of {option((low, high))}:"
                " all nearly one grey"
            )
    return lines


def scaled(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Values with `limits` at -1 and 1, in float32.

    >>> scaled(np.array([0, 255], np.uint8), (0, 255)).tolist()
    [-1.0, 1.0]
    """
    low, high = limits
    with np.errstate(over="ignore", invalid="ignore"):
        if (low, high) == (-1, 1):
            return values.astype(np.float32)
        if low == 0:
            return values.astype(np.float32) / np.float32(high / 2) - np.float32(1)
        return ((values.astype(np.float64) - low) * (2 / (high - low)) - 1).astype(np.float32)


class Clipped:
    """How many values were beyond black and white."""

    def __init__(self) -> None:
        self.values = self.of = self.pictures = 0
        self.low, self.high = float("inf"), float("-inf")

    def add(self, n: int, item: Raw) -> None:
        self.values, self.of, self.pictures = self.values + n, self.of + item.values.size, self.pictures + 1
        self.low, self.high = min(self.low, item.low), max(self.high, item.high)

    def lines(self, limits: dict[str, tuple[float, float]]) -> list[str]:
        if not self.values:
            return []
        what = (
            f"the range {'/'.join(option(v).removeprefix('--range').strip(' =') for v in set(limits.values()))}"
            if limits
            else "the window"
        )
        part = 100 * self.values / self.of
        return [
            f"clipped {self.values:,} values of {count(self.pictures, 'picture')} ({part:.2g} % of theirs) to {what}:"
            f" they run from {self.low:.6g} to {self.high:.6g}"
        ]


def in_range(
    item: Raw, limits: dict[str, tuple[float, float]], asked: Range, slack: float | None, clipped: Clipped
) -> Tensor:
    """[C, H, W] with black at -1 and white at 1; clipped, or an error, where it lies outside. asked, slack: as in
    `deft.domains.image.reading.ReadOptions`."""
    own = limits.get(item.kind, item.window)
    assert own is not None
    x = torch.from_numpy(np.ascontiguousarray(scaled(item.values, own)))
    stored = scaled(np.array([item.low, item.high]), own)
    if stored[0] >= -1 - 1e-6 and stored[1] <= 1 + 1e-6:
        x = x.clamp(-1, 1)  # the overshoot of enlarging, and rounding
    over = max(-1 - float(x.min()), float(x.max()) - 1)
    window = item.kind == "scan"
    given = as_range(asked) is not None and slack is None
    if over > 1e-6 and (window or (given and over <= 2 * MARGIN)):
        clipped.add(int(((x < -1 - 1e-6) | (x > 1 + 1e-6)).sum()), item)
        x = x.clamp(-1, 1)
    elif over > (SLACK if slack is None else slack):
        if as_range(asked) is None:
            raise InputError(
                f"values from {item.low:.4g} to {item.high:.4g}, expected -1 to 1: say what black and white are with"
                " --range (--range=-1,1 clips what is a little outside)"
            )
        beyond = "further outside than noise of the measurement's sigma_y" if slack is not None else "far outside"
        raise InputError(
            f"values from {item.low:.4g} to {item.high:.4g}, {beyond} {option(own)}: give the range that they have, or"
            " clip them first"
        )
    return -x if item.inverted else x
