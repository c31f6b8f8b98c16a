"""A long series cut into windows, and what stands where nobody measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from deft.errors import InputError


def cut(values: np.ndarray, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """(windows [N, C, L], the row each begins at [N]) of a series [T, C].

    >>> cut(np.arange(10.0)[:, None], 4, 3)[0][:, 0].tolist()
    [[0.0, 1.0, 2.0, 3.0], [3.0, 4.0, 5.0, 6.0], [6.0, 7.0, 8.0, 9.0]]
    """
    starts = np.arange(0, len(values) - length + 1, stride)
    if not len(starts):
        return np.empty((0, values.shape[1], length)), starts
    every = np.lib.stride_tricks.sliding_window_view(values, length, axis=0)  # [T - L + 1, C, L]
    return every[starts], starts


def kept(windows: np.ndarray, most: float) -> np.ndarray:
    """Which windows [N, C, L] lack at most this share of their entries, and no variable as a whole: [N]."""
    gone = ~np.isfinite(windows)
    return (gone.mean((1, 2)) <= most) & ~gone.all(2).any(1)


def bridged(windows: np.ndarray) -> np.ndarray:
    """Windows [N, C, L] with a straight line over each gap, and the nearest value at the ends.

    What stands there is a stand-in that a network sees among what is known; it is never asked to reproduce it.

    >>> bridged(np.array([[[np.nan, 1.0, np.nan, 3.0]]]))
    array([[[1., 1., 2., 3.]]])
    """
    out = windows.copy()
    at = np.arange(windows.shape[2])
    gone = ~np.isfinite(windows)
    for i, c in zip(*np.nonzero(gone.any(2)), strict=True):
        known = ~gone[i, c]
        if not known.any():
            raise InputError("a variable without a value in a window cannot be bridged")
        out[i, c] = np.interp(at, at[known], windows[i, c, known])
    return out


def split_windows(
    series: Sequence[np.ndarray], length: int, stride: int, share: float, most: float
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """(windows [N, C, L], held-out ones or None, what there is to say) of series [T, C].

    share: of the end of each series, at least a window, that is held out of those that are two windows long; 0: none
    is. No window reaches from one part into the other. Where no held-out window would be left (short series, or gaps:
    see `kept`), `apart` chooses them.
    """
    parts, places = [], []
    for number, values in enumerate(series):
        end = len(values) - max(length, round(share * len(values)))
        ends = [0, end, len(values)] if share and end >= length else [0, len(values)]
        for late, (a, b) in enumerate(pairwise(ends)):
            windows, starts = cut(values[a:b], length, stride)
            parts.append(windows)
            places += [(late, number, a + int(start)) for start in starts]
    whole, place = np.concatenate(parts), np.array(places)
    held, good = place[:, 0] > 0, kept(whole, most)
    if not share or (good & held).any() or not good.any():
        return whole[~held], whole[held] if held.any() else None, []
    rows = np.nonzero(good)[0]
    rows = rows[np.lexsort((place[rows, 2], place[rows, 1]))]
    found = apart(place[rows, 1], place[rows, 2], length)
    if found is None:
        said = "too short to hold windows out that share no time with the others: the held-out loss says little"
        return whole, None, [f"{said}, give --held-out"] if stride < length else []
    fitted = np.concatenate([rows[found[0]], np.nonzero(~good)[0]])
    return whole[fitted], whole[rows[found[1]]], []


def apart(series: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(windows to fit, windows held out) that share no time, of windows of `length` that begin at `starts`, in rising
    order, of the series with these numbers: those of the last tenth of the series, or of a single one its last tenth
    of windows, without those that reach into it. None if nothing would be left to fit.

    >>> apart(np.array([0, 0, 0, 0]), np.array([0, 2, 4, 6]), 4)
    (array([0, 1]), array([3]))
    >>> apart(np.array([0, 0, 1]), np.array([0, 2, 0]), 4)
    (array([0, 1]), array([2]))
    """
    every = np.unique(series)
    if len(every) > 1:
        out = np.isin(series, every[-max(1, len(every) // 10) :])
        return np.nonzero(~out)[0], np.nonzero(out)[0]
    held = np.arange(len(starts))[-max(1, len(starts) // 10) :]
    fitted = np.nonzero(starts + length <= starts[held[0]])[0]
    return (fitted, held) if len(fitted) else None
