"""Many recordings of unequal length, and the windows of one length that are cut from them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deft.errors import InputError

KEYS = ("pcm", "offset", "name", "rate")
"""Arrays of a file of many recordings: recording i is pcm[offset[i] : offset[i + 1]], int16."""


@dataclass(frozen=True)
class Recordings:
    """sounds: float32 in [-1, 1], full scale 1, each [n]; names; rate: samples a second."""

    sounds: list[Tensor]
    names: list[str]
    rate: int

    def __len__(self) -> int:
        return len(self.sounds)

    def some(self, rows: Sequence[int]) -> Recordings:
        return Recordings([self.sounds[i] for i in rows], [self.names[i] for i in rows], self.rate)

    @property
    def labels(self) -> Tensor | None:
        """The whole number that every name begins with, as in "7_jackson_3.wav"; None where one has none."""
        found = [re.match(r"(\d+)[_-]", Path(name).name) for name in self.names]
        return None if not found or not all(found) else torch.tensor([int(m[1]) for m in found if m])


def unpack(arrays: dict[str, np.ndarray], where: str) -> Recordings:
    """The recordings of a file with the arrays `KEYS`.

    Raises:
        InputError: arrays that do not belong together.
    """
    pcm, offset, names = (np.asarray(arrays[k]) for k in KEYS[:3])
    good = (
        pcm.ndim == 1 and pcm.dtype == np.int16 and offset.ndim == 1 and offset.dtype.kind in "iu"
        and len(offset) == len(names) + 1 > 1 and offset[0] == 0 and offset[-1] == len(pcm)
        and bool((np.diff(offset.astype(np.int64)) > 0).all()) and arrays["rate"].size == 1
    )  # fmt: skip
    if not good:
        raise InputError(
            f"{where} holds recordings back to back that do not fit together: expected pcm int16 [n], offset whole"
            f" numbers [N + 1] that rise from 0 to n, name [N] and one rate; got pcm {pcm.dtype} {list(pcm.shape)},"
            f" offset {offset.dtype} {list(offset.shape)} and {len(names)} names"
        )
    whole = torch.from_numpy(pcm).float() / 32768
    parts = [whole[int(a) : int(b)] for a, b in pairwise(offset)]
    return Recordings(parts, [str(n) for n in names], int(arrays["rate"].item()))


def loudness(x: Tensor) -> float:
    """Root mean square of a recording."""
    return float(x.double().square().mean().sqrt())


def windows(recordings: Recordings, length: int) -> tuple[Tensor, list[str], list[int]]:
    """Windows [N, 1, length], their names, and the recording that each is of.

    A recording that is shorter stands in the middle, with silence (0) around it. A longer one is cut into the fewest
    windows that cover it, equally far apart, which overlap.
    """
    rows, names, source = [], [], []
    for i, (x, name) in enumerate(zip(recordings.sounds, recordings.names, strict=True)):
        count = math.ceil(len(x) / length)
        for k in range(count):
            rows.append(window(x, length, round(k * (len(x) - length) / (count - 1)) if count > 1 else None))
            names.append(name if count == 1 else f"{name}[{k}]")
            source.append(i)
    return torch.stack(rows)[:, None], names, source


def window(x: Tensor, length: int, start: int | None = None) -> Tensor:
    """x[start : start + length], with silence where there is none of it; None: its middle."""
    start = (len(x) - length) // 2 if start is None else start
    out = x.new_zeros(length)
    part = x[max(0, start) : start + length]
    out[max(0, -start) : max(0, -start) + len(part)] = part
    return out
