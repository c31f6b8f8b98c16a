"""Settings of a task that are more than a number: a switch, a list of numbers, a file of angles, a kernel."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from deft.errors import InputError, unknown
from deft.io.arrays import read_arrays
from deft.io.picture_files import check_pixels, formats, reading_picture
from deft.io.reading import read_text

TRUE, FALSE = "true", "false"
WORDS = {TRUE: TRUE, "yes": TRUE, "1": TRUE, "on": TRUE, FALSE: FALSE, "no": FALSE, "0": FALSE, "off": FALSE}
ANGLE_UNITS = ("degrees", "radians")
MAX_TABLE = 2**20
"""Bytes of a text file of angles, or of a kernel."""


WINDOW = "window"
"""`--range window`: the window that a DICOM or NIfTI file itself gives."""
Range = tuple[float, float] | str | None


def as_range(value: object) -> Range:
    """What `--range` and a reader's range hold: two rising numbers, `WINDOW`, or None.

    >>> as_range("0,4095"), as_range((-1, 1)), as_range("window"), as_range(None)
    ((0.0, 4095.0), (-1.0, 1.0), 'window', None)
    """
    if value is None:
        return None
    if value == WINDOW:
        return WINDOW
    parts = value.split(",") if isinstance(value, str) else value
    try:
        low, high = (float(p) for p in parts)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"range {value!r}: expected LOW,HIGH, the two rising numbers that are black and white (0,1 or 0,255 or"
            f" 0,4095 or -1000,1000), or {WINDOW}"
        )
    return low, high


def switch(name: str, value: Any) -> str:
    """ "true" or "false": a switch as the command line, JSON and Python write it.

    >>> switch("centred", True), switch("centred", "no")
    ('true', 'false')
    """
    word = WORDS.get(str(value).lower())
    if word is None:
        raise InputError(f"{name} is true or false, got {value!r}")
    return word


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """One of some words."""
    if value not in known:
        raise unknown(name, str(value), known)
    return str(value)


def numbers(name: str, value: Any) -> list[float]:
    """Finite numbers, from a list of them or a text with commas (or the letters of such a text, which `list(text)`
    makes of it).

    >>> numbers("directions", "0,22.5,45")
    [0.0, 22.5, 45.0]
    """
    items = [value] if isinstance(value, str) else list(value)
    if items and all(isinstance(v, str) for v in items):
        items = [v for v in "".join(items).split(",") if v.strip()]
    try:
        out = [float(v) for v in items]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} takes numbers with commas between them, got {value!r:.80}") from error
    if not all(map(math.isfinite, out)):
        raise InputError(f"{name} holds a number that is not finite")
    return out


def read_numbers(path: str | Path, name: str, keys: tuple[str, ...]) -> np.ndarray:
    """Numbers of a text file (blanks, commas, lines), an .npy, or an .npz in which one array has one of the names,
    or is alone."""
    path = Path(path)
    if not os.path.isfile(path):  # False for a name that is too long, where Path raises
        raise InputError(f"no such file for {name}: {path}")
    if path.suffix in (".npy", ".npz"):
        arrays = read_arrays(path)
        found = [k for k in keys if k in arrays]
        if not found and len(arrays) == 1:
            found = list(arrays)
        if len(found) != 1:
            raise InputError(
                f"{path} holds the arrays {', '.join(sorted(arrays))}: name the one for {name} {keys[0]!r}"
            )
        array = arrays[found[0]]
        if array.dtype.kind not in "fiu":
            raise InputError(f"{path}[{found[0]}] holds {array.dtype}, expected numbers for {name}")
        return np.asarray(array, dtype=np.float64)
    text = read_text(path, f"a text file of numbers for {name}", MAX_TABLE, InputError)
    try:
        rows = [
            [float(v) for v in line.split("#")[0].replace(",", " ").replace(";", " ").split()]
            for line in text.splitlines()
        ]
    except ValueError as error:
        raise InputError(
            f"{path} is no text file of numbers for {name} ({' '.join(str(error).split())[:80]}): give .txt, "
            ".csv, .npy or .npz"
        ) from error
    rows = [r for r in rows if r]
    if not rows:
        raise InputError(f"{path} holds no number for {name}")
    if len({len(r) for r in rows}) != 1:
        raise InputError(f"{path}: its lines hold different amounts of numbers, {len(rows[0])} in the first")
    return np.asarray(rows)


def read_angles(path: str | Path, unit: str = "") -> list[float]:
    """Directions in degrees, from a file in degrees or radians; without a unit, numbers that may be either are
    refused."""
    values = read_numbers(path, "angle_file", ("angles", "theta", "directions")).squeeze()
    if values.ndim > 1:
        raise InputError(f"{path} holds angles of shape {values.shape}, expected one row or column")
    out = numbers("angle_file", values.reshape(-1))
    return in_degrees(out, unit, str(path))


def in_degrees(values: list[float], unit: str, where: str) -> list[float]:
    """Angles in degrees."""
    if unit:
        choice("angle_unit", unit, ANGLE_UNITS)
    elif len(values) > 3 and max(values) - min(values) <= 2 * math.pi + 0.01:
        raise InputError(
            f"{where} holds {len(values)} angles from {min(values):.4g} to {max(values):.4g}: radians, or a few "
            "degrees? say angle_unit=radians or angle_unit=degrees"
        )
    return [math.degrees(v) for v in values] if unit == "radians" else values


def read_kernel(path: str | Path) -> list[list[float]]:
    """A blur kernel [k, k'] as rows of numbers: a text file, .npy, .npz, or a grey picture (which is divided by its
    sum)."""
    path = Path(path)
    if not os.path.isfile(path):  # False for a name that is too long, where Path raises
        raise InputError(f"no such file for kernel: {path}")
    if path.suffix in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"):
        from PIL import Image

        try:
            with reading_picture(path), Image.open(path, formats=formats()) as picture:
                check_pixels(picture.size, picture.mode, path.stat().st_size)
                values = np.asarray(
                    picture.convert("L") if picture.mode not in ("I", "I;16", "F") else picture, dtype=np.float64
                )
        except InputError as error:
            raise InputError(f"cannot read {path} as a picture of a kernel: {error}") from error
        if not values.sum() > 0:
            raise InputError(f"the kernel in {path} is black")
        values = values / values.sum()
    else:
        values = read_numbers(path, "kernel", ("kernel", "k", "psf"))
    return kernel_rows(str(path), values)


def kernel_rows(where: str, values: Any) -> list[list[float]]:
    """A kernel as rows of numbers; refused where it is no finite matrix."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} is no matrix of numbers: a kernel is rows of equal length") from error
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or not array.size:
        raise InputError(f"{where} has shape {array.shape}, expected one kernel [k, k']")
    if not np.isfinite(array).all():
        raise InputError(f"{where} holds values that are not finite")
    return [[float(v) for v in row] for row in array]
