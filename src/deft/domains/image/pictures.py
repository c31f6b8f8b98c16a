"""One picture file: decoded by Pillow, with no change of its values.

Pillow's formats are given by name, so that a file called .png cannot start the program that shows PostScript.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deft.errors import InputError
from deft.io.text import one_line

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = (
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".webp",
    ".tif",
    ".tiff",
    ".bmp",
    ".dib",
    ".gif",
    ".pbm",
    ".pgm",
    ".ppm",
    ".pnm",
    ".pfm",
    ".jp2",
    ".j2k",
    ".jpx",
    ".jpf",
    ".j2c",
    ".jpc",
    ".avif",
)
NAMES = "PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000, AVIF"


class Decoded:
    """The frames that were asked for, as stored, and what was done to them.

    frames: [(number, [C, H, W], kind of `ranges.Raw`)]. total: how many the file has. turned: by its EXIF orientation.
    """

    def __init__(self, frames: list[tuple[int, np.ndarray, str]], total: int, turned: bool):
        self.frames, self.total, self.turned = frames, total, turned


def decode(path: Path, part: str | None, convert: bool) -> Decoded:
    """Read a picture; part: "all", a number or FIRST:LAST of a file of many frames (its first without); errors do not
    repeat the path."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=formats()) as opened:
                return _decode(opened, part, convert)
    except UnidentifiedImageError as error:
        raise InputError(f"not a picture of a format that is read here ({NAMES})") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"too many pixels to open safely ({one_line(error)}): make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"
            " in Python"
        ) from error
    except InputError:
        raise
    except MemoryError as error:
        raise InputError("does not fit in memory") from error
    except Exception as error:  # Pillow's readers raise a dozen types on damaged files
        raise InputError(f"truncated or damaged ({one_line(error)[:160]})") from error


def formats() -> list[str]:
    """Those of `FORMATS` that this Pillow has."""
    Image.init()
    return [f for f in FORMATS if f in Image.OPEN]


def _decode(opened: Image.Image, part: str | None, convert: bool) -> Decoded:
    frames, turned = [], False
    total = _length(opened) if part is not None else 0
    for number in _wanted(part, total):
        if number or part is not None:
            opened.seek(number)
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
