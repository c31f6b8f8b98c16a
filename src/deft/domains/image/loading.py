"""Images for the commands: from folders, files and bundled sets; a user's own pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deft.domains.image.data import DATASETS, check_bundled, dataset
from deft.domains.image.files import split_source
from deft.domains.image.reading import ImageSet, ReadOptions, Shape, chw, read_images, read_stack
from deft.domains.image.streaming import stream_images
from deft.domains.image.tasks import ImageTask, Masked
from deft.errors import InputError
from deft.io.settings import Range
from deft.io.text import shape_text


def read(
    source: str,
    event_shape: Shape | None = None,
    *,
    split: str = "fit",
    skip_bad: bool = False,
    resize: bool = False,
    convert: bool = False,
    value_range: Range = None,
    recursive: bool = False,
    array: str | None = None,
    strict: bool = True,
    stream: bool = False,
) -> ImageSet:
    """Images from a folder, an npz or a file, or a split of bundled ones ("fashion", "fashion:test"); see
    `ReadOptions`.

    stream: x of a large source is read row by row (`deft.kinds.stored`).
    strict: False passes over a range, an array and subfolders where this source has no such thing.
    """
    check_bundled(source)
    shape = None if event_shape is None else chw(event_shape)
    name, _, part = source.partition(":")
    if name in DATASETS and not Path(source).exists():
        data = dataset(name, part or split)
        found = ImageSet(data.x, [f"{i:05d}" for i in range(len(data.x))], data.labels)
        if shape not in (None, tuple(data.x.shape[1:])):
            raise InputError(
                f"the bundled {name} images are {shape_text(data.x.shape[1:])}, the prior makes"
                f" {shape_text(shape or ())}: give other --data"
            )
        if strict and (value_range is not None or recursive or array is not None):
            raise InputError(f"the bundled {name} images need no --range, --array or --recursive: leave them out")
        return found
    if not strict:
        path, named = split_source(source)
        recursive, array = recursive and path.is_dir(), array if path.is_file() and named is None else None
    reading = ReadOptions(shape, skip_bad, resize, convert, value_range, recursive=recursive, array=array)
    streamed = stream_images(source, reading) if stream else None
    return read_images(source, reading) if streamed is None else streamed


def pairs(
    arrays: dict[str, np.ndarray],
    where: str,
    task: ImageTask,
    event_shape: Shape,
    *,
    resize: bool = False,
    convert: bool = False,
    value_range: Range = None,
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """(images [N, C, H, W], the arrays as `observation` takes them): y of tasks whose measurement is a picture may be
    in bytes, as x may."""
    reading = ReadOptions(chw(event_shape), False, resize, convert, value_range)
    x, _, _ = read_stack(arrays["x"], f"{where}[x]", reading)
    if task.pictures:
        shape = chw(task.check(event_shape).y.shape[1:])
        about_y = replace(
            reading, event_shape=shape, constant=True, slack=6 * task.sigma_y + 1e-3, whose="the measurement's"
        )
        y, _, _ = read_stack(arrays["y"], f"{where}[y]", about_y)
        arrays = arrays | {"y": y.numpy()}
    if len(x) != len(arrays["y"]):
        raise InputError(
            f"{where} holds {len(x)} images x but {len(arrays['y'])} measurements y: pairs must match one to one"
        )
    if isinstance(task, Masked):
        mask = check_masks(torch.from_numpy(arrays["mask"].astype("float32")), f"{where}[mask]", len(x), event_shape)
        arrays = arrays | {"mask": mask.numpy()}
    return x, arrays


def check_masks(mask: Tensor, name: str, n: int, event_shape: Shape) -> Tensor:
    """Masks [N, H, W] or [N, 1, H, W] (N may be 1) of 1 and 0."""
    mask = mask[None] if mask.ndim == 2 else mask
    mask = mask[:, None] if mask.ndim == 3 else mask
    if (
        mask.ndim != 4
        or mask.shape[0] not in (1, n)
        or mask.shape[2:] != event_shape[1:]
        or mask.shape[1] not in (1, event_shape[0])
    ):
        raise InputError(
            f"{name} has shape {tuple(mask.shape)}, expected ({n} or 1, 1, {event_shape[1]}, {event_shape[2]})"
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(
            f"{name} holds values other than 1 (seen) and 0 (hidden), from {float(mask.min()):.4g} to"
            f" {float(mask.max()):.4g}: write it as bool"
        )
    seen = mask.flatten(1).mean(1)
    for value, what in ((0.0, "hides everything"), (1.0, "hides nothing")):
        if bool((seen == value).any()):
            row = int((seen == value).nonzero()[0])
            raise InputError(f"{name}: mask number {row} {what}: 1 is seen and 0 hidden, each mask needs both")
    return mask
