"""One measurement of a sound file: a recording with gaps, noise, clipping, or at a lower rate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deft.domains.sound.reading import Options, mono
from deft.domains.sound.recordings import window
from deft.domains.sound.wav import is_sound, read_wav
from deft.errors import InputError
from deft.io.measurements import observation
from deft.io.reading import read_text
from deft.io.text import count
from deft.kinds.records import Measured

SHORTEST_GAP = 0.005
"""Seconds of exact zeros, with sound on both sides, that are taken for a gap."""


class Part(NamedTuple):
    """A window of a recording. y: [M], the mask of what was heard, [M], and what was done, for people."""

    y: Tensor
    heard: Tensor
    notes: list[str]


def read_measured(
    rate: int,
    path: Path,
    task: Any,
    event_shape: tuple[int, ...],
    *,
    mask: Path | None = None,
    mask_hole: str = "black",
    resize: bool = False,
    convert: bool = False,
    array: str | None = None,
) -> tuple[Measured, float]:
    """(the measurement in a sound file, what 1 of model space is in it). rate: of the prior.

    mask: of a task with gaps, a text file with a line for each: its start and its end in seconds (a label track, as
    Audacity exports it). Without one, NaN in a float file are the gaps, or stretches of exact zeros.
    array: where the window starts in a longer recording: "1.5s" or a number of samples.
    """
    if path.is_dir() or not is_sound(path):
        what = "a folder" if path.is_dir() else "no sound file"
        raise InputError(
            f"{path} is {what}: a measurement of {task.name} is a WAV file, or an .npz with y (`deft measure`"
            " makes one)"
        )
    probe = task.check(event_shape)
    wanted = tuple(probe.y.shape[1:])
    if len(wanted) != 2 or wanted[0] != 1:
        raise InputError(f"a measurement of {task.name} is no sound but an array {wanted}: give an .npz with y")
    if mask is not None and task.drawn != "mask":
        raise InputError(f"a mask is for tasks with gaps, such as gap; this one is {task.name}: leave --mask out")
    own = rate * wanted[1] / event_shape[-1]
    if own != int(own):
        raise InputError(f"{task.name} of {rate} samples a second has {own:g}: give an .npz with y")
    try:
        whole, _ = mono(read_wav(path), Options(int(own), convert, resize))
    except InputError as error:
        reason = str(error).replace("(the prior's)", f"(of {task.name})" if wanted != event_shape else "(the prior's)")
        raise InputError(reason if str(path) in reason else f"{path}: {reason}") from error
    gaps = None if task.drawn != "mask" else _heard(whole, int(own), mask, path)
    part = _cut(whole, gaps, wanted[1], int(own), array, path)
    y, level = _scaled(part, task, path)
    arrays = {"y": y[None, None].numpy()}
    if gaps is not None:
        arrays["mask"] = part.heard[None, None].numpy()
    obs = observation(str(path), arrays, task, event_shape)
    kept = {} if gaps is None else {"mask": part.heard[None]}
    return Measured(obs, kept, (), part.notes), level


def _heard(x: Tensor, rate: int, mask: Path | None, path: Path) -> Tensor:
    """Which samples were heard, [n]."""
    if mask is not None:
        return _labels(mask, len(x), rate)
    gone = torch.isnan(x)
    if not bool(gone.any()):
        gone = _zeros(x, max(2, round(SHORTEST_GAP * rate)))
    if not bool(gone.any()):
        raise InputError(
            f"{path}: there is no gap in it, that is no NaN and no {1000 * SHORTEST_GAP:g} ms of exact zeros between"
            " sounds: name the gaps with --mask FILE, a line of start and end in seconds for each"
        )
    return ~gone


def _zeros(x: Tensor, least: int) -> Tensor:
    """Stretches of `least` exact zeros or more that neither begin nor end the recording."""
    out = torch.zeros(len(x), dtype=torch.bool)
    sound = (x != 0).nonzero()[:, 0]
    for a, b in zip(sound[:-1].tolist(), sound[1:].tolist(), strict=True):
        if b - a > least:
            out[a + 1 : b] = True
    return out


def _labels(mask: Path, n: int, rate: int) -> Tensor:
    """The gaps of a text file: start and end in seconds, a line each; what follows on a line is passed over."""
    if not mask.is_file():
        raise InputError(f"no such mask: {mask}")
    heard = torch.ones(n, dtype=torch.bool)
    lines = [line for line in read_text(mask, "a list of gaps", kind=InputError).splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        match = re.match(r"\s*([0-9.eE+-]+)[\s,;]+([0-9.eE+-]+)", line)
        try:
            start, end = (float(v) for v in match.groups()) if match else (1.0, 0.0)
        except ValueError:
            start, end = 1.0, 0.0
        if not 0 <= start < end:
            raise InputError(
                f"{mask}, line {number}: {line.strip()[:60]!r} is no gap: expected its start and its end in seconds, as"
                " in 0.210 0.262"
            )
        heard[round(start * rate) : round(end * rate)] = False
    if bool(heard.all()):
        raise InputError(
            f"{mask}: none of its {count(len(lines), 'gap')} lies in the {n / rate:.3g} s of the recording"
        )
    return heard


def _cut(x: Tensor, heard: Tensor | None, length: int, rate: int, array: str | None, path: Path) -> Part:
    """The window that is asked for, or the first."""
    known, notes = torch.ones(len(x), dtype=torch.bool) if heard is None else heard, []
    if len(x) <= length:
        if array is not None:
            raise InputError(
                f"--array {array}: {path} is {len(x) / rate:.3g} s long and fits into the prior's {length / rate:.3g}"
                " s: leave it out"
            )
        left = (length - len(x)) // 2
        y, known = window(x, length, -left), torch.cat([known.new_ones(left), known, known.new_ones(length)])[:length]
        if len(x) < length:
            notes.append(
                f"{path} is {len(x) / rate:.3g} s long, the prior's window {length / rate:.3g} s: silence was added"
            )
    else:
        start = _start(array, len(x), length, rate)
        y, known = x[start : start + length], known[start : start + length]
        notes.append(
            f"{path} is {len(x) / rate:.3g} s long: the window from {start / rate:.3g} to"
            f" {(start + length) / rate:.3g} s was taken{'' if array else '; --array 0.5s takes another'}"
        )
    if heard is not None:
        if bool(known.all()):
            raise InputError(f"{path}: there is no gap in the window that was taken: choose another with --array")
        notes.append(
            f"gaps: {', '.join(f'{a / rate:.3f} to {b / rate:.3f} s' for a, b in _runs(~known))} of the window"
        )
    return Part(torch.where(known, y, 0.0), known.float(), notes)


def _start(array: str | None, n: int, length: int, rate: int) -> int:
    if array is None:
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s?)", array.strip())
    start = -1 if match is None else round(float(match[1]) * rate) if match[2] else int(float(match[1]))
    if not 0 <= start <= n - length:
        raise InputError(
            f"--array {array}: expected where the window starts, as 0.5s or a number of samples, from 0 to"
            f" {(n - length) / rate:.3g}s ({n - length})"
        )
    return start


def _runs(flags: Tensor) -> list[tuple[int, int]]:
    """Where stretches of True begin and end.

    >>> _runs(torch.tensor([False, True, True, False, True]))
    [(1, 3), (4, 5)]
    """
    step = torch.cat([flags.new_zeros(1), flags, flags.new_zeros(1)]).int().diff()
    return list(zip((step == 1).nonzero()[:, 0].tolist(), (step == -1).nonzero()[:, 0].tolist(), strict=True))


def _scaled(part: Part, task: Any, path: Path) -> tuple[Tensor, float]:
    """(y as the task measures it, what 1 of model space is in the file)."""
    odd = int((~torch.isfinite(part.y)).sum())
    if odd:
        raise InputError(f"{path}: {odd:,} samples of the window are NaN or infinite")
    heard = part.y[(part.heard > 0) & (part.y != 0)]  # digital silence says nothing of how loud a recording is
    if not len(heard):
        raise InputError(f"{path}: the window is silent: there is nothing to restore")
    unit, level = task.units_of(heard)
    return part.y / unit, level


__all__ = ["Part", "read_measured"]
