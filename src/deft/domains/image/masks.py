"""Masks: which pixels were seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deft.domains.image.files import check_file, exists, split_source
from deft.domains.image.pictures import decode
from deft.domains.image.resample import cropped, resized_hidden
from deft.errors import InputError
from deft.io.arrays import ARRAYS, read_arrays

GREY = (0.25, 0.75)
"""Between these a pixel is neither; a JPEG's ringing stays outside, but for some pixels."""
MOST_GREY = 0.01


def read_mask(
    path: str | Path,
    size: Sequence[int],
    *,
    hole: str = "black",
    resize: bool = False,
    picture: Sequence[int] | None = None,
) -> Tensor:
    """A mask as [1, 1, H, W] of 1 (seen) and 0 (hidden).

    Values are 0 and 1, or 0 and the greatest of their type. Resized, a pixel is seen only if every pixel that it is
    made of is.

    Args:
        hole: the colour of what is hidden: "black" (the default: white is seen) or "white".
        picture: (height, width) of the picture that it belongs to, as stored; both are cropped alike or the mask is
            refused.

    Raises:
        InputError: wrong size, values in between, everything hidden or nothing hidden.
    """
    path, part = split_source(path)
    height, width = int(size[-2]), int(size[-1])
    if not exists(path):
        raise InputError(f"no such mask: {path}")
    values = _unit(_stored(path, part), path)
    own, expected = values.shape, (height, width)
    if own != expected and not resize:
        raise InputError(
            f"mask {path} is {own[0]}x{own[1]}, expected {height}x{width}: it must be as large as the picture (or give"
            " --resize)"
        )
    white = (values > 0.5) if own == expected else (values >= GREY[1] if hole == "black" else values > GREY[0])
    between = float(((values > GREY[0]) & (values < GREY[1])).mean())
    if between > MOST_GREY:
        raise InputError(
            f"mask {path}: {100 * between:.0f} % of its pixels are grey; it must be black and white (save it as PNG)"
        )
    hidden = ~white if hole == "black" else white
    other = "white" if hole == "black" else "black"
    if hidden.all():
        raise InputError(
            f"mask {path} hides everything ({other} is seen here): flip it with --mask-hole {other}, or mend it"
        )
    if not hidden.any():
        raise InputError(
            f"mask {path} hides nothing ({hole} is the hole here): flip it with --mask-hole {other}, or mend it"
        )
    if own != expected or (picture is not None and tuple(picture) != own and resize):
        _check_aspect(path, own, expected, picture)
        hidden = resized_hidden(torch.from_numpy(hidden), expected).numpy()
        if hidden.all():
            raise InputError(
                f"mask {path}: no pixel of {height}x{width} is made of seen ones alone: nothing is left to sample from"
            )
        if not hidden.any():
            raise InputError(
                f"mask {path}: the hole lies outside the part that is left at {height}x{width}: crop the picture first"
            )
    return torch.from_numpy((~hidden).astype(np.float32))[None, None]


def _check_aspect(path: Path, own: tuple[int, int], expected: tuple[int, int], picture: Sequence[int] | None) -> None:
    if picture is None or tuple(picture) == own:
        return
    alike = abs(own[0] * picture[1] - own[1] * picture[0]) <= max(own[0], own[1], *picture)  # to a pixel
    if not alike or (own == expected and cropped(picture, expected)):
        raise InputError(
            f"mask {path} is {own[0]}x{own[1]} and the picture {picture[0]}x{picture[1]}: give a mask as large as the"
            " picture"
        )


def _stored(path: Path, part: str | None) -> np.ndarray:
    if path.suffix.lower() in ARRAYS:
        arrays = read_arrays(path)
        name = part or ("mask" if "mask" in arrays else next(iter(arrays)))
        if name not in arrays or (part is None and name != "mask" and len(arrays) > 1):
            raise InputError(
                f"{path} holds the arrays {', '.join(arrays)}: say which is the mask with {path}:{next(iter(arrays))}"
            )
        array = arrays[name]
        if array.dtype.kind not in "fiub":
            raise InputError(f"mask {path} holds {array.dtype} values, expected bool or numbers")
        return array
    try:
        check_file(path)
        values = decode(path, part, convert=True).frames[0][1]
    except InputError as error:
        raise InputError(f"mask {path}: {error}") from error
    if values.shape[0] == 1:
        return values[0]
    return values.astype(np.float32).mean(0) if values.max() > 1 else values.max(0)


def _unit(stored: np.ndarray, path: Path) -> np.ndarray:
    """[H, W] from 0 (black) to 1 (white)."""
    integer = stored.dtype.kind in "iub"
    values = np.squeeze(stored).astype(np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise InputError(f"mask {path} has shape {stored.shape} or holds NaN, expected one finite picture [H, W]")
    low, high = float(values.min()), float(values.max())
    tops = (1, 255, 65535) if integer else (1.01, 256)
    top = next((t for t in tops if high <= t), None)
    if low < -0.01 or top is None or (high > 1 and high < 0.75 * top):
        raise InputError(f"mask {path} holds values from {low:.6g} to {high:.6g}, expected 0 and 1, or 0 and 255")
    return (values / {1.01: 1, 256: 255}.get(top, top)).clip(0, 1)


__all__ = ["read_mask"]
