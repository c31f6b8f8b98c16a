"""A long series cut into windows, and what stands where nobody measured."""

from __future__ import annotations

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
