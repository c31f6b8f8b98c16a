"""A user's own pairs of pictures, of which nobody can say how one was made of the other: from arrays, or from two
folders of files of the same names."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.domains.image.files import list_folder, relative
from deft.domains.image.reading import ImageSet, ReadOptions, Shape, chw, read_images, read_stack
from deft.errors import InputError
from deft.io.text import shape_text, some
from deft.kinds.records import UnknownPairs

CHANNELS = (1, 3)


def from_arrays(
    arrays: dict[str, np.ndarray],
    where: str,
    event_shape: Shape,
    *,
    resize: bool = False,
    convert: bool = False,
    value_range: Any = None,
) -> UnknownPairs:
    """x are images, as `read_stack` takes them. y [N, h, w], [N, h, w, C] or [N, C, h, w] of 1 or 3 channels is read
    alike where it is in bytes or a range is given; any other y is numbers in units of its own, channels first."""
    reading = ReadOptions(chw(event_shape), False, resize, convert, value_range)
    x, _, _ = read_stack(arrays["x"], f"{where}[x]", reading)
    y, name = arrays["y"], f"{where}[y]"
    last = y.ndim == 4 and y.shape[3] in CHANNELS and y.shape[1] not in CHANNELS
    channels = 1 if y.ndim == 3 else y.shape[3] if last else y.shape[1] if y.ndim == 4 else 0
    pictures = channels in CHANNELS and (y.dtype == np.uint8 or value_range is not None)
    if pictures:
        shape = (channels, *event_shape[1:]) if resize else (channels, *(y.shape[1:3] if last else y.shape[-2:]))
        about_y = ReadOptions(chw(shape), False, resize, False, value_range, constant=True, whose="the pairs'")
        value, _, _ = read_stack(y, name, about_y)
    elif y.dtype.kind not in "fiub":
        raise InputError(f"{name} holds {y.dtype} values, expected real ones (of complex ones two channels)")
    else:
        value = torch.from_numpy(np.ascontiguousarray(y, dtype=np.float32))
        value = value[:, None] if value.ndim == 3 else value.movedim(-1, 1) if last else value
    return UnknownPairs(*_as_many(x, value, where), pictures or None)


def _as_many(x: Tensor, y: Tensor, where: str) -> tuple[Tensor, Tensor]:
    if len(x) != len(y):
        raise InputError(f"{where} holds {len(x)} images x but {len(y)} measurements y: pairs must match one to one")
    return x, y


def from_folders(
    clean: Path,
    degraded: Path,
    event_shape: Shape,
    *,
    resize: bool = False,
    convert: bool = False,
    value_range: Any = None,
    recursive: bool = False,
) -> UnknownPairs:
    """Two folders of pictures of the same names; their endings may differ (photo.png and photo.jpg).

    The degraded ones keep their own size and colour, all the same; with `resize` both are brought to the prior's size.

    Raises:
        InputError: a name that is in one of them alone, or twice; pictures of several sizes.
    """
    for folder in (clean, degraded):
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder: give two folders of pictures of the same names")
    names = [_file_names(folder, recursive) for folder in (clean, degraded)]
    _same_names(clean, degraded, *names)
    shape = chw(event_shape)
    x = read_images(clean, ReadOptions(shape, False, resize, convert, value_range, recursive=recursive))
    about_y = ReadOptions(None, False, False, convert, value_range, constant=True, recursive=recursive)
    if resize:
        first = read_images(list_folder(degraded, recursive).files[0], about_y).x
        about_y = ReadOptions(
            (first.shape[1], *shape[1:]), False, True, convert, value_range, constant=True, recursive=recursive
        )
    y = read_images(degraded, about_y)
    place = {key: i for i, key in enumerate(map(_key, y.names))}
    missing = [name for name in x.names if _key(name) not in place]
    if missing or len(x) != len(y):
        raise InputError(
            f"{clean} gives {len(x)} pictures and {degraded} {len(y)}"
            + (f", and none for {some(missing)}" if missing else "")
            + ": pairs must match one to one (of scans slice by slice)"
        )
    order = torch.tensor([place[_key(name)] for name in x.names])
    return UnknownPairs(x.x, y.x[order], True, [*_notes(x, clean), *_notes(y, degraded), _sizes(x, y)])


def _sizes(x: ImageSet, y: ImageSet) -> str:
    return f"{len(x)} pairs: x {shape_text(x.x.shape[1:])}, y {shape_text(y.x.shape[1:])}"


def _notes(found: ImageSet, folder: Path) -> list[str]:
    return [f"{folder}: {note}" for note in found.notes]


def _key(name: str) -> str:
    """A file's name without its ending; what tells a slice apart is kept."""
    return re.sub(r"(\.nii)?\.[0-9]*[A-Za-z][A-Za-z0-9]*(?=\[|$)", "", name)


def _file_names(folder: Path, recursive: bool) -> list[str]:
    files = list_folder(folder, recursive).files
    if not files:
        raise InputError(f"no pictures in {folder}: give a folder of pictures")
    keys = [_key(name) for name in relative(files, folder)]
    twice = [key for key, n in Counter(keys).items() if n > 1]
    if twice:
        raise InputError(f"{folder} holds several pictures named {some(twice)} with other endings: keep one of each")
    return keys


def _same_names(clean: Path, degraded: Path, xs: list[str], ys: list[str]) -> None:
    for here, own, there, other in ((clean, xs, degraded, ys), (degraded, ys, clean, xs)):
        alone = sorted(set(own) - set(other))
        if alone:
            raise InputError(
                f"{here} holds {len(own)} pictures, and {there} has none named {some(alone)}: the two folders must hold"
                " pictures of the same names (the endings may differ)"
            )
