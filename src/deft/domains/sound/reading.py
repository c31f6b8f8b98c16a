"""Sounds for training and comparing: from folders, files and the bundled set; each at power 1, cut into windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deft.domains.sound.data import DATASETS, LENGTH, LOUD, RATE, dataset
from deft.domains.sound.recordings import KEYS, Recordings, loudness, unpack, windows
from deft.domains.sound.wav import ENDINGS, Sound, is_sound, mixed, read_wav, resampled
from deft.errors import InputError
from deft.io.arrays import ARRAYS, read_arrays
from deft.io.text import count, shape_text, some
from deft.kinds.records import Data

SILENT = 1e-5
"""Root mean square, of full scale 1, below which a recording is silence: 100 dB."""


@dataclass(frozen=True)
class Options:
    """rate: samples a second that are wanted; None: those of the files, which must agree. convert: mix several channels
    down to one. resize: bring other rates to this one. skip_bad: leave out what cannot be used."""

    rate: int | None
    convert: bool = False
    resize: bool = False
    skip_bad: bool = False


def mono(sound: Sound, options: Options) -> tuple[Tensor, int]:
    """One channel [n] of a sound at the rate that is wanted, and that rate.

    Raises:
        InputError: several channels, or another rate, and nobody said what to do about it.
    """
    x, rate = sound
    if len(x) > 1 and not options.convert:
        kind = "stereo" if len(x) == 2 else f"{len(x)} channels"
        raise InputError(f"{kind}, expected one channel: mix it down, or give --convert")
    one = mixed(x)
    if options.rate in (None, rate):
        return one, rate
    if not options.resize:
        raise InputError(
            f"{rate:,} samples a second, expected {options.rate:,} (the prior's): resample it, or give --resize"
        )
    return resampled(one, rate, options.rate or rate), options.rate or rate


def at_power_one(x: Tensor) -> Tensor:
    """A recording with root mean square 1.

    Raises:
        InputError: values that are not finite, or silence.
    """
    odd = int((~torch.isfinite(x)).sum())
    if odd:
        raise InputError(f"{odd:,} of {len(x):,} samples are NaN or infinite")
    power = loudness(x)
    if power < SILENT:
        raise InputError("silent: there is nothing in it louder than -100 dB of full scale")
    return x / power


@dataclass
class _Gathered:
    """Recordings as they are read, what is wrong with the others, and what there is to say."""

    options: Options
    sounds: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rate: int | None = None

    def add(self, name: str, get: Callable[[], Sound]) -> None:
        try:
            x, rate = mono(get(), self.options)
            if self.rate not in (None, rate):
                raise InputError(f"{rate:,} samples a second, and others before it have {self.rate:,}")
            self.sounds.append(at_power_one(x))
            self.names.append(name)
            self.rate = rate
        except InputError as error:
            self.bad.append((name, str(error)))

    def found(self, source: str) -> Recordings:
        """The recordings. One that is bad stops it, unless it is left out."""
        total = len(self.sounds) + len(self.bad)
        if self.bad and (not self.options.skip_bad or not self.sounds):
            if total == 1:
                name, reason = self.bad[0]
                raise InputError(reason if name in reason else f"{source}: {reason}")
            shown = "; ".join(f"{name}: {reason}" for name, reason in self.bad[:5])
            more = f"; and {len(self.bad) - 5} more" if len(self.bad) > 5 else ""
            way = "" if not self.sounds else "; mend them, or leave them out with --skip-bad"
            raise InputError(
                f"{source}: {len(self.bad)} of {count(total, 'recording')} cannot be used: {shown}{more}{way}"
            )
        if self.bad:
            self.notes.append(
                f"left out {len(self.bad)} of {total}: {some([n for n, _ in self.bad])} ({self.bad[0][1]})"
            )
        return Recordings(self.sounds, self.names, self.rate or RATE)


def read(
    rate: int | None,
    source: str,
    event_shape: tuple[int, ...] | None = None,
    *,
    split: str = "fit",
    skip_bad: bool = False,
    resize: bool = False,
    convert: bool = False,
    recursive: bool = False,
    length: int | None = None,
    strict: bool = True,
) -> Data:
    """Windows [N, 1, L] of a folder of sound files, one such file, an .npz of many recordings, or a split of bundled
    ones ("espeak", "espeak:test"). L is the prior's, or `length`, or 4,096.

    Each recording has root mean square 1. Of a shorter one than L the rest is silence, a longer one is cut into windows
    that overlap. Labels are the whole numbers that the names begin with, if all do.

    rate: of the prior; None: the files', which must agree. strict: False passes over --recursive where the
    source is no folder.
    """
    if length is not None and event_shape not in (None, (1, length)):
        raise InputError(
            f"--length {length}: the prior makes {event_shape[-1] if event_shape else 0} samples: leave it out"
        )
    name, _, part = source.partition(":")
    if name in DATASETS and not Path(source).exists():
        return _bundled(rate, name, part or split, event_shape or (length and (1, length)) or None)
    options = Options(rate, convert, resize, skip_bad)
    if resize and rate is None:
        raise InputError("--resize brings sounds to the rate of a prior, and there is none here: leave it out")
    path = Path(source)
    if recursive and path.is_file():
        if strict:
            raise InputError(f"--recursive is for folders, {path} is a file: leave it out")
        recursive = False
    got = _gather(path, options, recursive)
    recordings = got.found(source)
    length = event_shape[-1] if event_shape else length or LENGTH
    x, names, of = windows(recordings, length)
    labels, notes, last = recordings.labels, [*got.notes, *_about(recordings, length, len(x))], None
    if len(x) > len(recordings) and split == "fit":
        rows, last = _held_out(of)
        if last is None:
            notes.append("one recording, too short to hold a window out that does not overlap: give --held-out")
        x, names, of = x[rows], [names[i] for i in rows], [of[i] for i in rows]
    return Data(x, names, None if labels is None else labels[of], notes, last=last, card={"rate": recordings.rate})


def _bundled(rate: int | None, name: str, split: str, event_shape: tuple[int, ...] | None) -> Data:
    if event_shape not in (None, (1, LENGTH)) or rate not in (None, RATE):
        raise InputError(
            f"the bundled sounds {name} have {LENGTH} samples at {RATE} a second, the prior makes"
            f" {shape_text(event_shape or ())} at {rate or RATE}: give other --data"
        )
    found = dataset(name, split)
    names = [f"{int(k)}_{name}_{i}" for i, k in enumerate(found.labels)]
    return Data(found.x / LOUD, names, found.labels, card={"rate": RATE})


def _gather(path: Path, options: Options, recursive: bool) -> _Gathered:
    got = _Gathered(options)
    if path.is_dir():
        _folder(got, path, recursive)
    elif not path.is_file():
        raise InputError(f"no such file or folder: {path}")
    elif path.suffix.lower() in ARRAYS:
        _arrays(got, path)
    elif is_sound(path):
        got.add(path.name, lambda: read_wav(path))
    else:
        raise InputError(
            f"{path} is none of the files that are read: a sound ({', '.join(ENDINGS)}), .npz, .npy, or a folder"
        )
    return got


def _folder(got: _Gathered, folder: Path, recursive: bool) -> None:
    found = sorted(p for p in (folder.rglob("*") if recursive else folder.iterdir()) if not p.name.startswith("."))
    files = [p for p in found if is_sound(p) and not p.is_dir()]
    other = [p for p in found if not is_sound(p) and not p.is_dir()]
    if not files:
        below = "; --recursive looks into subfolders" if not recursive and any(p.is_dir() for p in found) else ""
        raise InputError(f"no sounds in {folder}: give a folder of {', '.join(ENDINGS)} files{below}")
    if other:
        got.notes.append(
            f"left out: {count(len(other), 'file')} that are no sounds ({some([p.name for p in other], 3)})"
        )
    for path in files:
        name = path.relative_to(folder).as_posix()
        got.add(name, lambda path=path, name=name: _named(path, name))  # type: ignore[misc]


def _named(path: Path, name: str) -> Sound:
    """What `read_wav` reads, in whose complaints the file is named as in its folder."""
    try:
        return read_wav(path)
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{path}: ")) from error


def _arrays(got: _Gathered, path: Path) -> None:
    """Recordings back to back, or an array x [N, n] or [N, 1, n] of recordings of one length, 1 is full scale (of
    whole numbers the largest of their type)."""
    arrays = read_arrays(path)
    if arrays.keys() >= set(KEYS):
        found = unpack(arrays, str(path))
        for name, x in zip(found.names, found.sounds, strict=True):
            got.add(name, lambda x=x: Sound(x[None], found.rate))  # type: ignore[misc]
        return
    array = arrays.get("x", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if array is None or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[1] != 1):
        shown = "; ".join(f"{k} {v.dtype} {list(v.shape)}" for k, v in arrays.items())
        raise InputError(
            f"{path} holds no sounds: expected an array x [N, n] or [N, 1, n] of recordings, or pcm, offset, name and"
            f" rate of recordings back to back; got {shown[:200]}"
        )
    scale = 1.0 if array.dtype.kind == "f" else -float(np.iinfo(str(array.dtype)).min)
    rows = torch.from_numpy(np.asarray(array.reshape(len(array), -1) / scale, np.float32))
    rate = int(arrays["rate"].item()) if "rate" in arrays and arrays["rate"].size == 1 else got.options.rate or RATE
    for i, row in enumerate(rows):
        got.add(f"{i:05d}", lambda row=row: Sound(row[None], rate))  # type: ignore[misc]


def _about(recordings: Recordings, length: int, n: int) -> list[str]:
    sizes = [len(x) for x in recordings.sounds]
    longer, shorter = sum(s > length for s in sizes), sum(s < length for s in sizes)
    lines = []
    if longer:
        lines.append(
            f"{longer:,} of {count(len(sizes), 'recording')} are longer than {length / recordings.rate:.3g} s and are"
            f" cut into windows: {n:,} in all"
        )
    if shorter:
        lines.append(f"{shorter:,} are shorter: silence is around them")
    return lines


def _held_out(of: Sequence[int]) -> tuple[list[int], Tensor | None]:
    """(windows that are kept, those of them that are held out where nobody says which), of windows that overlap: the
    windows of every tenth recording, or of the last of fewer, so that none is fitted to another part of it; of a single
    recording the last tenth of its windows, without the one before, which reaches into them; None: none would be left
    to fit."""
    rows, every = list(range(len(of))), sorted(set(of))
    if len(every) > 1:
        chosen = every[9::10] or every[-1:]
        return rows, torch.tensor([i for i in rows if of[i] in chosen])
    first = len(of) - max(1, len(of) // 10)
    if first < 2:
        return rows, None
    return [i for i in rows if i != first - 1], torch.arange(first - 1, len(of) - 1)


__all__ = ["Options", "at_power_one", "mono", "read"]
