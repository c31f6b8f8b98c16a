"""Pictures of other people, opened: formats by name, and no more pixels or text than a file of that size may have.

Pillow opens what it finds in a file, whatever the file is called: an EPS would start Ghostscript. Here it is told which
formats to try.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deft.errors import InputError
from deft.io.text import one_line
from deft.runtime.untrusted import may_unpack_to

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF")
NAMES = "PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000, AVIF"
MIN_PICTURE = 40 * 2**20
"""Values (pixels times channels, of all frames that are read) that any picture file may have; a larger file may have
`deft.runtime.untrusted.MAX_RATIO` for each of its bytes. Pillow's own limit of pixels holds as well."""
MAX_TEXT = 16 * 2**20
"""Bytes of text in a PNG, unpacked."""


def formats(names: tuple[str, ...] = FORMATS) -> list[str]:
    """Those of these formats that this Pillow has."""
    from PIL import Image

    Image.init()
    return [f for f in names if f in Image.OPEN]


@contextmanager
def reading_picture(path: str | Path) -> Iterator[None]:
    """Inside, a picture is opened (with `formats()`, then `check_pixels`) and decoded.

    Raises `InputError` for whatever Pillow raises inside; the message does not repeat the path.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        _check_texts(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
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


PACKED = (b"zTXt", b"iTXt", b"iCCP")


def _check_texts(path: str | Path) -> None:
    """Refuse a PNG whose texts and profiles may unpack to more than `MAX_TEXT`: a packed one may become what Pillow
    lets one be (1 MiB), or a thousand times its size."""
    with open(path, "rb") as f:
        if f.read(8) != b"\x89PNG\r\n\x1a\n":
            return
        total = 0
        while len(head := f.read(8)) == 8:
            length, name = int.from_bytes(head[:4], "big"), head[4:]
            if name in PACKED:
                total += min(2**20, 1032 * length)
            elif name not in (b"IDAT", b"fdAT"):
                total += length
            if total > MAX_TEXT:
                raise InputError(f"its texts may have more than {MAX_TEXT:,} bytes: save the picture without them")
            f.seek(length + 4, os.SEEK_CUR)


def check_pixels(size: tuple[int, int], mode: str, packed: int, frames: int = 1) -> None:
    """Refuse a picture of more values than a file of `packed` bytes may have."""
    width, height = size
    channels = 1 if mode in ("1", "L", "LA", "I", "F") or mode.startswith("I;") else 3
    values, largest = width * height * channels * frames, may_unpack_to(packed, MIN_PICTURE)
    if values > largest:
        many = "" if frames == 1 else f"{frames:,} frames of "
        raise InputError(
            f"too many pixels to open safely ({many}{width} x {height}, {values:,} values in {packed:,} bytes; at most"
            f" {largest:,} are decoded): make it smaller, or raise deft.io.picture_files.MIN_PICTURE in Python"
        )
