"""Pictures of a folder or an array that would not fit in memory: checked before, and each read when it is asked for.

What is known without decoding is checked of every picture before anything else is done: its size, its channels, that it
opens at all. Black and white are concluded from `LOOKED_AT` of them. Pictures of which more must be known (grey ones
that are stored as RGB, those with transparency, all of them where bad ones are to be left out) are decoded once.
"""

from __future__ import annotations

import hashlib
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deft.domains.image.files import check_file, exists, list_folder, looks_like_scan, relative, split_source
from deft.domains.image.pictures import Clipped, Raw, choose, decode, faint, in_range
from deft.domains.image.reading import (
    Gathered,
    ImageSet,
    ReadOptions,
    Shape,
    channels_first,
    check_values,
    chw,
    complain,
    kind_of_values,
    match_channels,
    one_size,
)
from deft.domains.image.volumes import is_scan, is_volume
from deft.errors import InputError
from deft.io.arrays import ARRAYS, lazy_images_array, native
from deft.io.picture_files import check_pixels, formats, reading_picture
from deft.io.settings import as_range
from deft.io.text import some
from deft.kinds.stored import Stored, from_bytes, mixed, spaced

STREAMED = 2**28
"""Bytes of float32 from which on pictures are read when they are asked for."""
LOOKED_AT = 64
"""Pictures of a source whose values tell what black and white are."""
THREADS = min(16, 2 * (os.cpu_count() or 1))
"""That decode: Pillow lets others run meanwhile."""
BYTES = {"8-bit": (0.0, 255.0)}

Limits = dict[str, tuple[float, float]]


def stream_images(source: str | Path, reading: ReadOptions) -> ImageSet | None:
    """Pictures [N, C, H, W] of a folder, or of an .npy or .npz, as a `Stored`; None for what is small, or is read in
    another way: `read_images` reads it, or says what is wrong with it.

    Raises:
        InputError: pictures that cannot be used, each named, or a question that only the user can answer.
    """
    path, part = split_source(source)
    part = reading.array if part is None else part
    if not exists(path) or (reading.resize and reading.event_shape is None):
        return None
    as_range(reading.range)
    if path.is_dir():
        return None if part is not None else _stream_folder(path, reading)
    if path.suffix.lower() in ARRAYS and not reading.recursive and (reading.array in (None, part)):
        return _stream_array(path, part, reading)
    return None


class Pictures(Stored):
    """Pictures of one source: how a picture as it is stored becomes one in model space.

    limits: black and white of each kind of value. shape: (N, C, H, W).
    """

    shape: tuple[int, ...]

    def __init__(self, reading: ReadOptions, limits: Limits, shape: Shape):
        self.reading, self.limits, self.shape = reading, limits, shape

    @abstractmethod
    def raw(self, row: int) -> Raw:
        """A picture with the prior's channels and size.

        Raises:
            InputError: it cannot be read; the message names it.
        """

    def picture(self, row: int) -> np.ndarray:
        """[C, H, W]: bytes, or in model space."""
        item = self.raw(row)
        try:
            if item.kind not in self.limits and item.window is None:
                raise InputError(
                    f"{item.kind} values, and what black and white are was concluded from {' and '.join(self.limits)}"
                    " values: give --range, or leave it out"
                )
            if tuple(item.values.shape) != self.shape[1:]:
                raise InputError(f"{'x'.join(map(str, item.values.shape))}, and the others {self.shape[1:]}")
            if item.values.dtype == np.uint8 and self.limits.get(item.kind) == BYTES["8-bit"] and not item.inverted:
                return item.values
            read = self.reading
            return check_values(
                in_range(item, self.limits, read.range, read.slack, Clipped()), replace(read, constant=True)
            ).numpy()
        except InputError as error:
            raise InputError(f"{self.where(item.name)}: {error}") from error

    def where(self, name: str) -> str:
        return name

    def stored(self, rows: Tensor) -> Tensor:
        return together(in_parallel(self.picture, rows.tolist()))

    def fingerprint(self) -> str:
        looked = self.stored(spaced(len(self), 16))
        values = hashlib.sha256(looked.numpy().tobytes()).hexdigest()
        return mixed(self.about(), str(self.shape), str(sorted(self.limits.items())), values)

    @abstractmethod
    def about(self) -> str:
        """What tells this source from others, but for its values."""


class Files(Pictures):
    """Picture files, decoded by threads."""

    def __init__(self, paths: Sequence[Path], names: Sequence[str], reading: ReadOptions, limits: Limits, shape: Shape):
        super().__init__(reading, limits, shape)
        self.paths, self.names = list(paths), list(names)

    def decoded(self, row: int) -> tuple[np.ndarray, str]:
        """(values [C, H, W], kind) as they are stored."""
        path = self.paths[row]
        try:
            check_file(path)
            ((_, values, kind),) = decode(path, None, self.reading.convert).frames
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return values, kind

    def raw(self, row: int) -> Raw:
        got = Gathered(self.reading, len(self.paths))
        values, kind = self.decoded(row)
        try:
            got.add(self.names[row], values, kind)
        except InputError as error:
            raise InputError(f"{self.paths[row]}: {error}") from error
        return got.raws[0]

    def picture(self, row: int) -> np.ndarray:
        values, kind = self.decoded(row)
        # most pictures: nothing of them need be known
        if values.dtype == np.uint8 and values.shape == self.shape[1:] and self.limits.get(kind) == BYTES["8-bit"]:
            return values
        return super().picture(row)

    def where(self, name: str) -> str:
        return str(self.paths[self.names.index(name)])

    def about(self) -> str:
        return " ".join(f"{n} {p.stat().st_size}" for n, p in zip(self.names, self.paths, strict=True))


class Rows(Pictures):
    """Rows of an array that lies in a file. kept: their numbers in it."""

    def __init__(
        self,
        opened: Callable[[], np.ndarray],
        name: str,
        kept: Tensor,
        reading: ReadOptions,
        limits: Limits,
        shape: Shape,
    ):
        super().__init__(reading, limits, shape)
        self.opened, self.name, self.kept = opened, name, kept

    def array(self) -> np.ndarray:
        return channels_first(self.opened(), self.name, self.reading)

    def raw(self, row: int) -> Raw:
        number, got = int(self.kept[row]), Gathered(self.reading, len(self))
        try:
            values = native(np.ascontiguousarray(self.array()[number]))
            got.add(f"number {number}", values, kind_of_values(values, self.name), them="them")
        except InputError as error:
            raise InputError(f"{self.name}: number {number}: {error}") from error
        return got.raws[0]

    def where(self, name: str) -> str:
        return f"{self.name}: {name}"

    def stored(self, rows: Tensor) -> Tensor:
        array = self.array()
        if array.dtype == np.uint8 and self.limits == BYTES and tuple(array.shape[1:]) == self.shape[1:]:
            return torch.from_numpy(np.ascontiguousarray(array[self.kept[rows].numpy()]))
        del array
        return together([self.picture(row) for row in rows.tolist()])

    def about(self) -> str:
        array = self.array()
        return f"{array.shape} {array.dtype} {len(self.kept)}"


def together(pictures: Sequence[np.ndarray]) -> Tensor:
    """[B, C, H, W]: bytes if all are."""
    if all(p.dtype == np.uint8 for p in pictures):
        return torch.from_numpy(np.stack(pictures))
    return torch.stack([from_bytes(torch.from_numpy(np.array(p))) for p in pictures])


_pool: dict[int, ThreadPoolExecutor] = {}


def in_parallel(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """function of each, in order, by threads of this process."""
    if len(items) < 2 or THREADS < 2:
        return [function(item) for item in items]
    pool = _pool.setdefault(os.getpid(), ThreadPoolExecutor(THREADS, "deft-decode"))
    return list(pool.map(function, items))


# a folder


@dataclass(frozen=True)
class Head:
    """What a picture file says of itself before it is decoded. channels: as decoded. sure: whether that is all that
    must be known. form: pictures of the same have values of the same kind."""

    size: tuple[int, int]
    channels: int
    form: str
    frames: int
    turned: bool
    sure: bool


ONE, THREE = ("1", "L", "I", "F", "LA", "La"), ("RGB", "P", "PA", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK")
OPAQUE = ("1", "L", "I", "F", "RGB", "P", "YCbCr", "RGBX")


def head_of(path: Path, convert: bool) -> Head:
    """Raises `InputError`: no picture; the message does not name it."""
    check_file(path)
    with reading_picture(path), Image.open(path, formats=formats()) as opened:
        check_pixels(opened.size, opened.mode, path.stat().st_size)
        mode, (width, height) = opened.mode, opened.size
        # a PNG without one would be decoded to look for it at its end
        angle = opened.getexif().get(0x0112, 1) if opened.format != "PNG" or "exif" in opened.info else 1
        deep = mode.startswith("I;16")
        known, plain = deep or mode in ONE or mode in THREE, deep or mode in OPAQUE
        sure = known and (convert or (plain and "transparency" not in opened.info))
        return Head(
            (width, height) if angle in range(5, 9) else (height, width),
            3 if mode in THREE else 1,
            f"{opened.format} {mode} {str([t[3] for t in getattr(opened, 'tile', [])])[:40]}",
            int(getattr(opened, "n_frames", 1)),
            angle in range(2, 9),
            sure and opened.format != "TIFF",  # of which some have values that are not read
        )


def _stream_folder(folder: Path, reading: ReadOptions) -> ImageSet | None:
    listing = list_folder(folder, reading.recursive)
    files, names = listing.files, relative(listing.files, folder)
    if not files or any(is_volume(p) or is_scan(p) or looks_like_scan(p) for p in files):
        return None
    shape = reading.event_shape or _first_shape(files)
    if shape is None or 4 * len(files) * math.prod(shape) < STREAMED:
        return None
    return _stream_files(folder, files, names, listing.notes, listing.left_out, reading)


def _first_shape(files: Sequence[Path]) -> Shape | None:
    """Of the first picture that opens."""
    for path in files:
        head = _tried(head_of, path, True)
        if isinstance(head, Head):
            return (head.channels, *head.size)
    return None


def _stream_files(
    folder: Path, files: Sequence[Path], names: Sequence[str], before: Sequence[str], left_out: Sequence[Path],
    reading: ReadOptions,
) -> ImageSet:  # fmt: skip
    got = Gathered(reading, len(files))
    heads = in_parallel(lambda path: _tried(head_of, path, reading.convert), files)
    kept, shapes = [], []
    for i, head in enumerate(heads):
        try:
            if isinstance(head, InputError):
                raise head
            got.check_size(head.size)
            match_channels(np.zeros((head.channels, 1, 1), np.uint8), reading)
        except InputError as error:
            got.bad.append((names[i], str(error)))
            continue
        kept.append(i)
        if head.turned:
            got.note("turned", names[i])
        got.frames(files[i], names[i], head.frames)
        shapes.append((names[i], (head.channels, *head.size)))
    if kept and reading.event_shape is None:
        if reading.convert and len({s[0] for _, s in shapes}) > 1:
            shapes = [(name, (3, *s[1:])) for name, s in shapes]
        one_size(str(folder), shapes, reading)
        reading = replace(reading, event_shape=chw(shapes[0][1]))
        got.reading = reading
    kept = _decoded_once(got, files, names, heads, kept)
    if got.bad and (not reading.skip_bad or not kept):
        complain(got.bad, len(files), str(folder), str(files[0]) if len(files) == 1 else None, reading)
    assert reading.event_shape is not None
    x = Files([files[i] for i in kept], [names[i] for i in kept], reading, {}, (len(kept), *reading.event_shape))
    forms = {heads[i].form: place for place, i in reversed(list(enumerate(kept)))}
    looked = sorted({*spaced(len(kept), LOOKED_AT).tolist(), *list(forms.values())[:LOOKED_AT]})
    raws = in_parallel(partial(_numbers, x), looked)
    x.limits = choose(raws, as_range(reading.range), str(folder))
    in_parallel(x.picture, looked)
    notes = [*before, *got.all_notes(len(kept)), *faint(raws, x.limits), streamed_note(x, len(looked))]
    if got.bad:
        notes.insert(0, _left_out(got.bad, len(files)))
    skipped = [*(name for name, _ in got.bad), *relative(left_out, folder), *got.skipped]
    return ImageSet(x, x.names, None, notes, skipped, [heads[i].size for i in kept])


def _left_out(bad: Sequence[tuple[str, str]], total: int) -> str:
    return f"left out {len(bad)} of {total}: {some([name for name, _ in bad])} ({bad[0][0]}: {bad[0][1]})"


def streamed_note(x: Pictures, looked: int) -> str:
    return (
        f"{len(x):,} images would take {4 * x.numel() / 2**30:.1f} GiB of memory: each is read when it is needed; what"
        f" black and white are was concluded from {looked} of them"
    )


def _numbers(x: Pictures, row: int) -> Raw:
    """What is known of a picture, without its values."""
    item = x.raw(row)
    return replace(item, values=item.values[:, :0])


def _tried(function: Callable[..., Any], *given: Any) -> Any:
    """What it returns, or the error that it raises."""
    try:
        return function(*given)
    except InputError as error:
        return error


def _decoded_once(
    got: Gathered, files: Sequence[Path], names: Sequence[str], heads: Sequence[Any], kept: list[int]
) -> list[int]:
    """Those of `kept` that can be used, after decoding the ones whose heads do not say so."""
    wanted, convert = got.reading.event_shape, got.reading.convert
    to_grey = wanted is not None and wanted[0] == 1 and not convert  # which only a grey picture stored as RGB can be
    doubtful = [i for i in kept if got.reading.skip_bad or not heads[i].sure or (to_grey and heads[i].channels == 3)]
    probe = Files(files, names, got.reading, {}, (len(files), *(got.reading.event_shape or (1, 1, 1))))
    bad = {}
    for at in range(0, len(doubtful), 256):
        part = doubtful[at : at + 256]
        for i, found in zip(part, in_parallel(lambda i: _tried(_usable, probe, i), part), strict=True):
            if found is not None:
                bad[i] = str(found).removeprefix(f"{files[i]}: ")
    got.bad += [(names[i], why) for i, why in bad.items()]
    order = {name: i for i, name in enumerate(names)}
    got.bad.sort(key=lambda named: order[named[0]])
    return [i for i in kept if i not in bad]


def _usable(x: Pictures, row: int) -> None:
    """Decode a picture, and refuse one of a single value."""
    item = x.raw(row)
    if item.low == item.high:
        raise InputError(f"constant: every pixel is {item.low:.4g}, as it is stored")


# an array


def _stream_array(path: Path, part: str | None, reading: ReadOptions) -> ImageSet | None:
    found = lazy_images_array(path, part, STREAMED // 4)
    if found is None:
        return None
    key, opened, labels, note = found
    name = f"{path}[{key}]"
    array = channels_first(opened(), name, reading)
    kind_of_values(array, name)
    total = len(array)
    shape = chw(reading.event_shape or array.shape[1:])
    del array
    x = Rows(opened, name, torch.arange(total), replace(reading, event_shape=shape), {}, (total, *shape))
    bad: list[tuple[str, str]] = []
    if reading.skip_bad:
        for row in range(total):
            error = _tried(_usable, x, row)
            if error is not None:
                bad.append((f"number {row}", str(error).removeprefix(f"{name}: number {row}: ")))
        lost = {int(number.removeprefix("number ")) for number, _ in bad}
        x.kept = torch.tensor([row for row in range(total) if row not in lost], dtype=torch.long)
        x.shape = (len(x.kept), *shape)
        if not len(x.kept):
            complain(bad, total, name, None, reading)
    looked = spaced(len(x), LOOKED_AT).tolist()
    raws = [_numbers(x, row) for row in looked]
    x.limits = choose(raws, as_range(reading.range), name)
    for row in looked:
        x.picture(row)
    notes = [*([_left_out(bad, total)] if bad else []), *faint(raws, x.limits), streamed_note(x, len(looked))]
    chosen = None if labels is None else torch.from_numpy(labels)[x.kept]
    size = (shape[1], shape[2])
    return ImageSet(
        x,
        [f"{i:05d}" for i in x.kept.tolist()],
        chosen,
        [*notes, *([note] if note else [])],
        [number for number, _ in bad],
        [size] * len(x),
    )
