"""The images of a comparison: a bundled data set, or your own in a folder or file.

    data = "ct"                                                       # bundled: its own three splits
    data = "photos/"                                                  # yours: shared out, three fifths to fit, a fifth each to validate and test
    data = "scans.npz:slices"                                         # yours: one array of a file
    data = { fit = "train/", validation = "held-out/", test = "scans.npz" }   # from three places; "ct:test" is a split of a bundled one

A piece of work names its images by plain JSON: the name of a bundled set, or for each split where it comes from and a hash of its pixels.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from deft.core.random import generator
from deft.domains.image.data import DATASETS, SPLITS, Labelled, dataset
from deft.domains.image.files import source_exists
from deft.domains.image.reading import ImageSet, Reading, read_images
from deft.errors import InputError, unknown
from deft.io.text import shape_text

SHARES = {"test": 0.2, "validation": 0.2, "fit": 0.6}
"""Of images that come from one place; at least one image each."""

Data = str | Mapping[str, str]


def is_bundled(source: str) -> bool:
    return source.partition(":")[0] in DATASETS and not Path(source).exists()


def check_data(data: Data, where: str) -> None:
    """Complain of a `data` that says nothing usable, before any work."""
    if isinstance(data, str):
        if data and not is_bundled(data) and not source_exists(data):
            raise InputError(f"{where}: data = {data!r} is neither bundled ({', '.join(DATASETS)}) nor a folder or file that exists")
        return
    for split in data:
        if split not in SPLITS:
            raise unknown(f"split in data of {where}", split, SPLITS)
    for split in SPLITS:
        if split not in data:
            raise InputError(f"{where}: data says where {', '.join(data)} come from, but not {split}: give {', '.join(SPLITS)}")
        source = data[split]
        if is_bundled(source):
            part = source.partition(":")[2]
            if part and part not in SPLITS:
                raise unknown(f"split of {source.partition(':')[0]}", part, SPLITS)
        elif not source_exists(source):
            raise InputError(f"{where}: data.{split} = {source!r} is neither bundled ({', '.join(DATASETS)}) nor a folder or file that exists")


def describe(data: Data, splits: Sequence[str], event_shape: Sequence[int]) -> Any:
    """What a piece that uses these splits writes into its `spec`: a bundled set's name (and version), or split -> {source, part, digest}."""
    found = {split: _place(data, split) for split in splits}
    names = {source for source, part in found.values() if is_bundled(source) and part == ""}
    if len(names) == 1 and len({source for source, _ in found.values()}) == 1:
        return _versioned(names.pop())
    shape = tuple(event_shape)
    for source, _ in found.values():
        if not is_bundled(source):
            _say(source, shape)
    return {s: {"source": source, "part": part, "digest": _digest(source, part or s, shape)} for s, (source, part) in found.items()}


def images_of(spec: Any, split: str, event_shape: Sequence[int]) -> Labelled:
    """The images that `describe` described."""
    if isinstance(spec, str):
        return _read(spec.partition("@")[0], split, tuple(event_shape))
    at = spec[split]
    return _read(at["source"], at["part"] or split, tuple(event_shape))


def _versioned(name: str) -> str:
    """A bundled set's name, with its version from the second on."""
    version = DATASETS[name].version
    return name if version == 1 else f"{name}@{version}"


def _place(data: Data, split: str) -> tuple[str, str]:
    """(source, part): a bundled name and its split ("" for the same), or a path and the share of it ("all", or a split's)."""
    source = data if isinstance(data, str) else data[split]
    if is_bundled(source):
        name, _, part = source.partition(":")
        return name, "" if part == split else part
    return source, split if isinstance(data, str) else "all"


@cache
def _read(source: str, part: str, event_shape: tuple[int, ...]) -> Labelled:
    if is_bundled(source):
        if DATASETS[source].event_shape != event_shape:
            raise InputError(f"the prior makes {shape_text(event_shape)}, the images of {source} are {shape_text(DATASETS[source].event_shape)}")
        return dataset(source, part)
    found = _found(source, event_shape)
    rows = torch.arange(len(found)) if part == "all" else _share(len(found), part, source)
    labels = torch.full((len(found),), -1) if found.labels is None else found.labels
    return Labelled(found.x[rows], labels[rows])


@cache
def _found(source: str, event_shape: tuple[int, ...]) -> ImageSet:
    """Images as they are: a comparison has no options that change them."""
    c, h, w = event_shape
    try:
        return read_images(source, Reading((c, h, w)))
    except InputError as error:
        raise InputError(f"{error} (a comparison takes images as they are, without options: write them to an .npz in the form that is wanted)") from error


@cache
def _say(source: str, event_shape: tuple[int, ...]) -> None:
    """Once, on standard error, what was left out or changed."""
    for note in _found(source, event_shape).notes:
        print(f"{source}: {note}", file=sys.stderr)


def _share(n: int, part: str, source: str) -> torch.Tensor:
    """Row numbers of a split of n images, drawn once and for all."""
    if n < len(SHARES):
        raise InputError(f"{source} has {n} images: a comparison needs at least {len(SHARES)}, to fit, to validate and to test")
    order, start = torch.randperm(n, generator=generator(0, n)), 0
    for name, share in SHARES.items():
        count = n - start if name == "fit" else max(1, int(share * n))
        if name == part:
            return order[start : start + count]
        start += count
    raise unknown("split", part, SPLITS)


@cache
def _digest(source: str, part: str, event_shape: tuple[int, ...]) -> str:
    return hashlib.sha256(_read(source, part, event_shape).x.numpy().tobytes()).hexdigest()[:12]


__all__ = ["Data", "check_data", "describe", "images_of", "is_bundled"]
