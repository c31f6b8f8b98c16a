"""NumPy's own generators, one a row, and their words in float32: for the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deft.philox.layout import ANGLE, PIECE, RADIUS, UNIFORM, uniform_blocks, units


class Generators:
    """One generator for each of the keys [B, 2] (uint64). All are at the same block."""

    def __init__(self, keys: np.ndarray):
        self.keys, self.block = keys, -1
        self._rows: list[np.random.Philox] = []

    def at(self, block: int) -> Generators:
        """These generators; the next draw begins with a block."""
        if block != self.block:
            self._rows = [np.random.Philox(counter=block, key=key) for key in self.keys]
            self._work = np.empty((2, 16 * PIECE), dtype=np.float32)  # each draw fills it anew
            self.block = block
        return self

    def normal(self, n: int) -> np.ndarray:
        """[B, n]"""
        pairs = 16 * units(n)
        out = np.empty((len(self.keys), n), dtype=np.float32)
        halves = ((np.cos, out[:, :pairs]), (np.sin, out[:, pairs:]))
        for rows, low, count in _pieces(len(self.keys), units(n), PIECE):
            words = self._words(rows, 3 * count)
            u, a = self._work[:, : len(words) * 16 * count].reshape(2, len(words), 16 * count)
            u[...], a[...] = words[:, : 16 * count], words[:, 16 * count :].view(np.int16)
            u *= np.float32(RADIUS)
            u += np.float32(RADIUS / 2)
            a += u
            a *= np.float32(ANGLE)
            r = np.log(u, out=u)
            r *= np.float32(-2)
            np.sqrt(r, out=r)
            for function, part in halves:
                into = part[rows, 16 * low : 16 * (low + count)]
                function(a[:, : into.shape[1]], out=into)
                into *= r[:, : into.shape[1]]
        self.block += 3 * units(n)
        return out

    def uniform(self, n: int) -> np.ndarray:
        """[B, n]"""
        blocks = uniform_blocks(n)
        out = np.empty((len(self.keys), n), dtype=np.float32)
        for rows, low, count in _pieces(len(self.keys), blocks, 3 * PIECE):
            into = out[rows, 8 * low : 8 * (low + count)]
            into[...] = self._words(rows, count)[:, : into.shape[1]] >> np.uint32(8)
            into *= np.float32(UNIFORM)
        self.block += blocks
        return out

    def _words(self, rows: slice, count: int) -> np.ndarray:
        """The next blocks of some rows: uint32 [rows, 8 count]."""
        some = self._rows[rows]
        if len(some) == 1:
            return some[0].random_raw(4 * count).view(np.uint32)[None]
        return np.concatenate([row.random_raw(4 * count) for row in some]).view(np.uint32).reshape(len(some), -1)


def _pieces(rows: int, length: int, most: int) -> Iterator[tuple[slice, int, int]]:
    """(rows, where it begins, how long it is): many short rows at once, or one row in pieces."""
    many = max(1, most // max(length, 1))
    for row in range(0, rows, many):
        for low in range(0, length, most):
            yield slice(row, row + many), low, min(most, length - low)
