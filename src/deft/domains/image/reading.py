"""Pictures of any source as one tensor in [-1, 1] (`read_images`), or one as a measurement (`read_measured`), and what
there is to say about them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.core.likelihood import Observation
from deft.domains.image.files import (
    Listing,
    check_file,
    exists,
    is_picture,
    list_folder,
    looks_like_scan,
    relative,
    split_source,
)
from deft.domains.image.masks import read_mask
from deft.domains.image.pictures import SLACK, Clipped, Raw, choose, decode, faint, in_range, raw
from deft.domains.image.resample import crop_box, cropped, resized
from deft.domains.image.tasks import ImageTask
from deft.domains.image.volumes import is_scan, is_volume, read_scan, read_volume
from deft.errors import InputError
from deft.io.arrays import ARRAYS, native, read_images_array
from deft.io.measurements import observation
from deft.io.picture_files import NAMES
from deft.io.settings import Range, as_range
from deft.io.tasks import UNLISTED
from deft.io.text import count, shape_text, some
from deft.kinds.records import Data, Measured

Shape = tuple[int, ...]
SAMPLE = 1_000_000
"""About how many values of a source are looked at to see what its range is. Its least and greatest are those of all."""


@dataclass(frozen=True)
class ImageSet(Data):
    """Pictures that were read.

    x: [N, C, H, W] in [-1, 1], a tensor or stored; names: one each; labels: [N] or None.
    notes: lines that say what was left out, cropped, clipped, turned or inverted.
    skipped: the names of what was left out: files that cannot be used (skip_bad), files of other kinds, pictures in
        subfolders, later frames.
    sizes: (height, width) of each as stored.
    """

    x: Any
    skipped: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class ReadOptions:
    """How strictly images are read.

    event_shape: (C, H, W) of the prior, or None if any common shape will do.
    skip_bad: leave out what cannot be used, instead of stopping.
    resize: bring pictures to the prior's size (the largest centred part that has its aspect). convert: bring them to
        its channels (grey or RGB).
    range: the two numbers that are black and white, (0, 1) or "0,1"; "window" for that of DICOM and NIfTI files; None:
        see `deft.domains.image.pictures`.
    slack: for measurements, how far values may lie outside the range, which carry noise and are not clipped. None for
        images: with a range that was given, values up to a tenth of its span outside are clipped and counted.
    constant: whether a picture of one single value is accepted. whose: the size that is expected, for messages.
    recursive: take pictures in subfolders too. array: which array of an .npz, slices of a volume or frames of a
        picture, as in "FILE:PART".
    """

    event_shape: tuple[int, int, int] | None = None
    skip_bad: bool = False
    resize: bool = False
    convert: bool = False
    range: Range = None
    slack: float | None = None
    constant: bool = False
    whose: str = "the prior's"
    recursive: bool = False
    array: str | None = None


def read_images(source: str | Path, reading: ReadOptions | None = None) -> ImageSet:
    """Read a folder, an .npz or .npy file, a picture, a DICOM or a NIfTI file, or a part of one: "FILE:PART".

    PART is the name of an array of an .npz, slices of a NIfTI file ("z:40:80") or frames of a picture file ("all", "3",
    "2:10").

    Raises:
        InputError: nothing there, images that cannot be used (each named, with the reason), or a question that only the
            user can answer.
    """
    reading = reading or ReadOptions()
    as_range(reading.range)
    path, part = split_source(source)
    if part is not None and reading.array is not None and part != reading.array:
        raise InputError(f"{source} names {part}, and --array {reading.array}: give one of them")
    part = reading.array if part is None else part
    if not exists(path):
        raise InputError(
            f"no such file or folder: {path}"
            + (" (a link to something that is not there)" if os.path.islink(path) else "")
        )
    if reading.resize and reading.event_shape is None:
        raise InputError(
            "--resize brings images to the size of a prior, and there is none here: bring them to one size first"
        )
    if path.is_dir():
        return _read_folder(path, part, reading)
    if reading.recursive:
        raise InputError(f"--recursive is for folders, {path} is a file: leave it out")
    if path.suffix.lower() in ARRAYS:
        name, array, labels, note = read_images_array(path, part)
        found = stack_images(array, f"{path}[{name}]", reading)
        kept = [int(n) for n in found.names]
        chosen = None if labels is None else torch.from_numpy(labels[kept])
        return replace(found, labels=chosen, notes=[*found.notes, *([note] if note else [])])
    if is_picture(path) or looks_like_scan(path):
        return _read_files([path], [path.name], path, part, reading, Listing())
    raise InputError(
        f"{path} is none of the files that are read: a picture ({NAMES}), DICOM, NIfTI, .npz or .npy, or a folder of"
        " pictures"
    )


def _read_folder(folder: Path, part: str | None, reading: ReadOptions) -> ImageSet:
    listing = list_folder(folder, reading.recursive)
    if not listing.files:
        arrays = [p for p in listing.left_out if p.suffix.lower() in ARRAYS]
        way = f"give one of its files, as in {arrays[0]}" if arrays else "give a folder of images, or an .npz file"
        what = "; ".join(listing.notes) or "it is empty"
        raise InputError(
            f"no pictures in {folder}: {what}; {way}"
            if "--recursive" not in what
            else f"no pictures in {folder} itself; {what}"
        )
    if part is not None and not all(is_volume(p) for p in listing.files):
        raise InputError(f"{folder} is a folder, of which {part!r} names no part: give a file, as in FILE.npz:NAME")
    return _read_files(listing.files, relative(listing.files, folder), folder, part, reading, listing)


class Gathered:
    """What becomes of the pictures of a source as they are read."""

    def __init__(self, reading: ReadOptions, total: int):
        self.reading, self.total = reading, total
        self.raws: list[Raw] = []
        self.bad: list[tuple[str, str]] = []
        self.skipped: list[str] = []
        self.notes: list[str] = []
        self.tally: Counter[str] = Counter()
        self.example: dict[str, str] = {}

    def note(self, what: str, example: str) -> None:
        self.tally[what] += 1
        self.example.setdefault(what, example)

    def add(
        self,
        name: str,
        values: np.ndarray,
        kind: str,
        window: tuple[float, float] | None = None,
        inverted: bool = False,
        *,
        them: str = "it",
    ) -> None:
        """Take a picture [C, H, W] as it is stored: to the prior's channels and size.

        Raises:
            InputError: it has others, or holds NaN; the name is not repeated.
        """
        share = SAMPLE // max(self.total, len(self.raws) + 1)  # of one file there may be many slices
        kept = raw(name, values, kind, max(16, share), window, inverted)
        if kept.broken:
            raise InputError(f"{kept.broken} values are NaN or infinite")
        values, wanted = match_channels(values, self.reading), self.reading.event_shape
        if self.check_size(kept.size, them) and wanted is not None:
            values = resized(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)), wanted[1:]).numpy()
        self.raws.append(replace(kept, values=values))

    def check_size(self, size: tuple[int, int], them: str = "it") -> bool:
        """Whether a picture of this size is to be resized.

        Raises:
            InputError: it is of another, and is not to be.
        """
        wanted = self.reading.event_shape
        if wanted is None or size == wanted[1:]:
            return False
        text = f"{size[0]}x{size[1]}"
        if not self.reading.resize:
            raise InputError(
                f"{text} pixels, expected {wanted[1]}x{wanted[2]} ({self.reading.whose} size): resize {them}, or"
                " give --resize"
            )
        if cropped(size, wanted[1:]):
            _, _, height, width = crop_box(size, wanted[1:])
            self.note("cropped", f"{text} to the {height:.4g}x{width:.4g} in its middle")
        return True

    def frames(self, path: Path, name: str, total: int) -> None:
        """Of a file of several frames the first is taken."""
        if total > 1:
            self.notes.append(
                f"left out: frames 1 to {total - 1} of {name}: its first, 0, was taken ({path}:all takes all)"
            )
            self.skipped += [f"{name}[{i}]" for i in range(1, total)]

    def all_notes(self, total: int) -> list[str]:
        """Of `total` pictures that are used."""
        more = [f"and {len(self.notes) - 10} more such lines"] if len(self.notes) > 10 else []
        return [*self.notes[:10], *more, *self.summary(total)]

    def summary(self, total: int) -> list[str]:
        lines = []
        if self.tally["turned"]:
            lines.append(f"{self.tally['turned']:,} of {count(total, 'picture')} turned, as EXIF orientation says")
        if self.tally["cropped"]:
            reading = self.reading
            lines.append(
                f"{self.tally['cropped']:,} of {count(total, 'picture')} cropped to {reading.whose} aspect before"
                f" resizing ({self.example['cropped']})"
            )
        return lines


def _read_files(
    files: Sequence[Path], names: Sequence[str], source: Path, part: str | None, reading: ReadOptions, listing: Listing
) -> ImageSet:
    got = Gathered(reading, len(files))
    for path, name in zip(files, names, strict=True):
        try:
            check_file(path)
            if is_volume(path) or is_scan(path) or looks_like_scan(path):
                _add_slices(got, path, name, part)
            else:
                _add_frames(got, path, name, part)
        except InputError as error:
            got.bad.append((name, str(error)))
    total = len(got.raws) + len(got.bad)
    if reading.event_shape is None and reading.convert:
        _to_one_colour(got)
    skipped = relative(listing.left_out, source) if listing.left_out else []
    return _finish(
        got,
        str(source),
        total,
        single=str(files[0]) if len(files) == 1 else None,
        before=listing.notes,
        skipped=skipped,
    )


def _add_frames(got: Gathered, path: Path, name: str, part: str | None) -> None:
    found = decode(path, part, got.reading.convert)
    for number, values, kind in found.frames:
        got.add(name if part is None else f"{name}[{number}]", values, kind)
    if found.turned:
        got.note("turned", name)
    if part is None:
        got.frames(path, name, found.total)


def _add_slices(got: Gathered, path: Path, name: str, part: str | None) -> None:
    if is_volume(path):
        found = read_volume(path, part)
    elif part is not None:
        raise InputError(f"a DICOM file, of which {part!r} names no part")
    else:
        found = read_scan(path)
    for ending, values, window, inverted in found.pictures:
        try:
            got.add(f"{name}{ending}", values, found.kind, window, inverted)
        except InputError as error:
            if len(found.pictures) == 1:
                raise
            got.bad.append((f"{name}{ending}", str(error)))
    got.notes += [f"{name}: {note}" for note in found.notes]
    got.skipped += [f"{name}{ending}" for ending in found.left_out]


def _to_one_colour(got: Gathered) -> None:
    """Without a prior, --convert makes a mixture of grey and RGB all RGB."""
    if len({r.values.shape[0] for r in got.raws}) > 1:
        got.raws = [replace(r, values=np.repeat(r.values, 3, 0)) if r.values.shape[0] == 1 else r for r in got.raws]


def match_channels(x: np.ndarray, reading: ReadOptions) -> np.ndarray:
    """[C, H, W] with the prior's channels; a grey picture stored as RGB counts as grey (WebP has no other, and
    rounds)."""
    expected = reading.event_shape
    if expected is None or x.shape[0] == expected[0]:
        return x
    if x.shape[0] == 3 and expected[0] == 1:
        apart = float((x.max(0).astype(np.float64) - x.min(0)).max())
        if apart == 0:
            return x[:1]
        if reading.convert or (x.dtype == np.uint8 and apart <= 2):
            return np.tensordot(np.array([0.299, 0.587, 0.114]), x.astype(np.float64), 1)[None].astype(np.float32)
        raise InputError("RGB, expected grey (the prior has 1 channel): convert it, or give --convert")
    if x.shape[0] == 1 and expected[0] == 3:
        if reading.convert:
            return np.repeat(x, 3, 0)
        raise InputError("grey, expected RGB (the prior has 3 channels): convert it, or give --convert")
    raise InputError(f"{x.shape[0]} channels, expected {expected[0]} (the prior's)")


def _finish(
    got: Gathered,
    source: str,
    total: int,
    *,
    single: str | None,
    before: Iterable[str] = (),
    skipped: Iterable[str] = (),
) -> ImageSet:
    """To [-1, 1], all by one rule, and one tensor."""
    reading = got.reading
    if got.bad and (not reading.skip_bad or not got.raws):
        complain(got.bad, total, source, single, reading)
    limits = choose(got.raws, as_range(reading.range), source)
    pictures, kept, clipped = [], [], Clipped()
    for item in got.raws:
        try:
            pictures.append(check_values(in_range(item, limits, reading.range, reading.slack, clipped), reading))
            kept.append(item)
        except InputError as error:
            got.bad.append((item.name, str(error)))
    if got.bad and (not reading.skip_bad or not kept):
        complain(got.bad, total, source, single, reading)
    one_size(source, [(r.name, tuple(x.shape)) for r, x in zip(kept, pictures, strict=True)], reading)
    bad = [name for name, _ in got.bad]
    notes = [f"left out {len(bad)} of {total}: {some(bad)} ({got.bad[0][0]}: {got.bad[0][1]})"] if bad else []
    windows = {r.window for r in kept if r.kind not in limits and r.window is not None}
    if windows:
        shown = some([f"{a:g} to {b:g}" for a, b in sorted(windows)], 3)
        notes.append(
            f"black and white by the files' own window: {shown}" + (" (they differ)" if len(windows) > 1 else "")
        )
    notes += [
        *before,
        *got.all_notes(len(kept)),
        *clipped.lines(limits),
        *faint(kept, limits),
    ]
    order = [r.name for r in kept]
    return ImageSet(torch.stack(pictures), order, None, notes, [*bad, *skipped, *got.skipped], [r.size for r in kept])


def one_size(source: str, shapes: Sequence[tuple[str, Shape]], reading: ReadOptions) -> None:
    """Refuse pictures (name, shape) of several shapes."""
    name, first = shapes[0]
    other = next((named for named in shapes if named[1] != first), None)
    if other is None:
        return
    way = " with --resize" if reading.event_shape else ""
    if {first[1:], other[1][1:]} == {first[1:]}:
        way = " with --convert"
    raise InputError(
        f"images of mixed sizes in {source}: {name} is {shape_text(first)}, {other[0]} is {shape_text(other[1])}; bring"
        f" them to one size{way}"
    )


def complain(bad: list[tuple[str, str]], total: int, source: str, single: str | None, reading: ReadOptions) -> None:
    if single and total == 1 and not reading.skip_bad:
        raise InputError(f"{single}: {bad[0][1]}")
    if reading.skip_bad:
        raise InputError(f"none of the {total} images in {source} can be used: {bad[0][0]}: {bad[0][1]}")
    shown = "; ".join(f"{name}: {reason}" for name, reason in bad[:3])
    more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
    raise InputError(
        f"{len(bad)} of {total} images in {source} cannot be used ({shown}{more}): mend them, or leave them out with"
        " --skip-bad"
    )


def check_values(x: Tensor, reading: ReadOptions) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise InputError("values too large for 32 bits")
    low, high = float(x.min()), float(x.max())
    if low == high and not reading.constant:
        raise InputError(f"constant: every pixel is {low:.4g}")
    return x


# one measurement


def chw(shape: Shape) -> tuple[int, int, int]:
    """The shape of an image."""
    c, h, w = shape
    return c, h, w


def read_measured(
    path: Path,
    task: ImageTask,
    event_shape: Shape,
    *,
    mask: Path | None = None,
    mask_hole: str = "black",
    resize: bool = False,
    convert: bool = False,
    value_range: Range = None,
    recursive: bool = False,
    array: str | None = None,
) -> Measured:
    """One measurement of a picture, with its mask as another."""
    shape = chw(event_shape)
    wanted = tuple(task.check(shape).y.shape[1:])
    if not task.pictures:
        raise InputError(
            f"a measurement of {task.name} is no picture but an array of shape {wanted}: give a measurement file (.npz"
            f" with y{'' if task.name in UNLISTED else '; `deft measure` makes one'})"
        )
    reading = ReadOptions(
        chw(wanted),
        False,
        resize,
        convert,
        value_range,
        slack=6 * task.sigma_y + 1e-3,
        recursive=recursive,
        array=array,
        whose="the prior's" if wanted == shape else f"the {task.name} measurement's",
    )
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected one picture or a measurement file: give a file")
    found = read_images(path, reading)
    if len(found) != 1:
        raise InputError(f"{path} holds {len(found)} pictures, expected one: give a single picture")
    seen = None if mask is None else read_mask(mask, shape, hole=mask_hole, resize=resize, picture=found.sizes[0])
    return Measured(
        _observed(task, found.x, seen, shape), {} if seen is None else {"mask": seen[0]}, found.skipped, found.notes
    )


def _observed(task: ImageTask, y: Tensor, mask: Tensor | None, shape: Shape) -> Observation:
    """y [N, *M] as the task's measurement; a mask [N or 1, 1, H, W] says where an image with a hole was seen."""
    arrays = {"y": y.numpy()}
    if task.drawn == "mask":
        if mask is None:
            raise InputError(f"{task.title} needs a mask: give --mask FILE (white is seen, black is the hole)")
        arrays["mask"] = mask.numpy()
    elif mask is not None:
        raise InputError(
            f"a mask is for tasks that see some of the pixels, such as inpaint; this one is {task.name}: leave"
            " --mask out"
        )
    elif task.drawn:
        raise InputError(
            f"the {task.drawn} of {task.name} differs from image to image and is needed with y: give a measurement file"
            " (`deft measure`, docs/tasks.md)"
        )
    return observation("the measurement", arrays, task, shape)


# arrays


def read_stack(array: np.ndarray, name: str, reading: ReadOptions) -> tuple[Tensor, list[int], list[str]]:
    """Images from an array NHW, NHWC or NCHW: (x, the rows kept, the rows left out).

    Nothing is clipped: there is nobody here to say so to, and what belongs together (x and y of pairs) would come
    apart.
    """
    try:
        found = stack_images(array, name, replace(reading, slack=SLACK if reading.slack is None else reading.slack))
    except InputError as error:
        raise InputError(str(error).removesuffix(", or leave them out with --skip-bad")) from error
    return found.x, [int(n) for n in found.names], found.skipped


def stack_images(array: np.ndarray, name: str, reading: ReadOptions) -> ImageSet:
    """Images from an array NHW, NHWC or NCHW; names are the rows' numbers."""
    array = native(np.asarray(array))
    kind = kind_of_values(array, name)
    x = channels_first(array, name, reading)
    got = Gathered(reading, len(x))
    for i, picture in enumerate(x):
        try:
            got.add(f"number {i}", picture, kind, them="them")
        except InputError as error:
            got.bad.append((f"number {i}", str(error)))
    found = _finish(got, name, len(x), single=name if len(x) == 1 else None)
    return replace(found, names=[f"{int(n.removeprefix('number ')):05d}" for n in found.names])


def kind_of_values(array: np.ndarray, name: str) -> str:
    letter = array.dtype.kind
    if letter == "c":
        raise InputError(f"{name} holds complex values, expected real ones: take the magnitude first (numpy.abs)")
    if letter not in "fiub":
        raise InputError(
            f"{name} holds {array.dtype} values, expected uint8 (0 to 255), floating point, or integers with --range"
        )
    return "1-bit" if letter == "b" else "8-bit" if array.dtype == np.uint8 else "float" if letter == "f" else "integer"


def channels_first(array: np.ndarray, name: str, reading: ReadOptions) -> np.ndarray:
    expected = reading.event_shape
    if array.size == 0:
        raise InputError(f"{name} has shape {array.shape}: it holds 0 images")
    if array.ndim == 2 and expected is not None and array.shape == expected[1:]:
        array = array[None, None]  # one grey picture
    elif array.ndim == 3:
        array = _three_axes(array, name, reading)
    if array.ndim != 4:
        flat = expected is not None and array.ndim == 2 and array.shape[1] == np.prod(expected)
        hint = f"; flat rows first need reshape(-1, {', '.join(map(str, expected or ()))})" if flat else ""
        raise InputError(f"{name} has shape {array.shape}, expected [N, H, W], [N, H, W, C] or [N, C, H, W]{hint}")
    channels = (expected[0],) if expected else (1, 3)
    first, last = array.shape[1] in {1, 3, *channels}, array.shape[3] in {1, 3, *channels}
    if last and (not first or (array.shape[1] not in channels and array.shape[3] in channels)):
        return array.transpose(0, 3, 1, 2)
    if not first:
        raise InputError(f"{name} has shape {array.shape}: no axis of 1 or 3 channels, in place 1 or last")
    return array


def _three_axes(array: np.ndarray, name: str, reading: ReadOptions) -> np.ndarray:
    """[N, H, W], unless it is one picture of three channels."""
    a, b, c = array.shape
    if c == 3 and min(a, b) > 3:
        return array[None]  # [H, W, 3]
    if a == 3 and reading.event_shape is not None and reading.event_shape[0] == 3:
        if reading.convert:
            raise InputError(
                f"{name} has shape {array.shape}: one RGB picture, or three grey ones? reshape it to [1, 3, {b}, {c}]"
                f" or [3, 1, {b}, {c}]"
            )
        return array[None]
    return array[:, None]


__all__ = ["ImageSet", "ReadOptions", "read_images", "read_stack", "stack_images"]
