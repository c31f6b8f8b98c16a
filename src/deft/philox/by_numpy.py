"""NumPy's own generators, one a row, and their words in float32: for the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deft.philox.layout import ANGLE, PIECE, RADIUS, UNIFORM, half_blocks, uniform_blocks


class Generators:
    """One generator for each of the keys [B, 2] (uint64). All are at the same block."""

    def __init__(self, keys: np.ndarray):
        self.keys, self.block = keys, -1
        self._rows: list[np.random.Philox] = []

    def at(self, block: int) -> Generators:
        """These generators; the next draw begins with a block."""
        if block != self.block:
            self._rows = [np.random.Philox(counter=block, key=key) for key in self.keys]
            self.block = block
        return self

    def normal(self, n: int) -> np.ndarray:
        """[B, n]"""
        half = half_blocks(n)
        out = np.empty((len(self.keys), n), dtype=np.float32)
        cosines, sines = out[:, : 8 * half], out[:, 8 * half :]
        r = a = np.empty((0, 0), dtype=np.float32)
        for rows, low, count in _pieces(len(self.keys), half):
            w = self._words(rows, 2 * count)
            if r.shape != (len(w), 8 * count):
                r, a = np.empty((2, len(w), 8 * count), dtype=np.float32)
            r[...], a[...] = w[:, : 8 * count], w[:, 8 * count :].view(np.int32)
            r *= np.float32(RADIUS)
            r += np.float32(RADIUS / 2)
            np.log(r, out=r)
            r *= np.float32(-2)
            np.sqrt(r, out=r)
            a *= np.float32(ANGLE)
            for part, function in ((cosines, np.cos), (sines, np.sin)):
                into = part[rows, 8 * low : 8 * (low + count)]
                function(a[:, : into.shape[1]], out=into)
                into *= r[:, : into.shape[1]]
        self.block += 2 * half
        return out

    def uniform(self, n: int) -> np.ndarray:
        """[B, n]"""
        blocks = uniform_blocks(n)
        out = np.empty((len(self.keys), n), dtype=np.float32)
        for rows, low, count in _pieces(len(self.keys), blocks):
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
        out = np.empty((len(some), 4 * count), dtype=np.uint64)
        for i, row in enumerate(some):
            out[i] = row.random_raw(4 * count)
        return out.view(np.uint32)


def _pieces(rows: int, blocks: int) -> Iterator[tuple[slice, int, int]]:
    """(rows, first block, number of blocks): many short rows at once, or one row in pieces of `PIECE` blocks."""
    many = max(1, PIECE // max(blocks, 1))
    for row in range(0, rows, many):
        for low in range(0, blocks, PIECE):
            yield slice(row, row + many), low, min(PIECE, blocks - low)
