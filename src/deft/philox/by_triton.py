"""One kernel for all rows: each program makes the numbers of `SIZE` units, or blocks, of one row. Needs Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deft.philox import layout

SIZE = 128
M_0, M_1 = (tl.constexpr(word) for word in layout.MULTIPLIERS)
B_0, B_1 = (tl.constexpr(word) for word in layout.BUMPS)
ROUNDS, PIECE = tl.constexpr(layout.ROUNDS), tl.constexpr(layout.PIECE)
RADIUS, ANGLE, UNIFORM = tl.constexpr(layout.RADIUS), tl.constexpr(layout.ANGLE), tl.constexpr(layout.UNIFORM)


@triton.jit
def _philox(block, keys, row):
    """The words of blocks [SIZE] of a row: four of uint64 [SIZE]."""
    a = block.to(tl.uint64) + 1
    b, c, d = a * 0, a * 0, a * 0
    first = tl.load(keys + 2 * row).to(tl.uint64, bitcast=True)
    second = tl.load(keys + 2 * row + 1).to(tl.uint64, bitcast=True)
    by, other_by = a * 0 + M_0, a * 0 + M_1
    for _ in tl.static_range(ROUNDS):
        high, other_high = tl.umulhi(a, by), tl.umulhi(c, other_by)
        low, other_low = a * by, c * other_by
        a, b, c, d = other_high ^ b ^ first, other_low, high ^ d ^ second, low
        first, second = first + B_0, second + B_1
    return a, b, c, d


@triton.jit
def _store_pair(out, w, v, at, pairs, n, inside):
    """z and z' of a 32-bit and a 16-bit word."""
    u = w.to(tl.uint32).to(tl.float32) * RADIUS + RADIUS / 2
    a = (v.to(tl.uint16).to(tl.int16, bitcast=True).to(tl.float32) + u) * ANGLE
    r = tl.sqrt_rn(-2.0 * tl.log(u))
    tl.store(out + at, r * tl.cos(a), mask=inside & (at < n))
    tl.store(out + at + pairs, r * tl.sin(a), mask=inside & (at + pairs < n))


@triton.jit
def _store_pairs(out, w, other_w, v, at, pairs, n, inside):
    """The same of 64-bit words: four pairs."""
    _store_pair(out, w, v, at, pairs, n, inside)
    _store_pair(out, w >> 32, v >> 16, at + 1, pairs, n, inside)
    _store_pair(out, other_w, v >> 32, at + 2, pairs, n, inside)
    _store_pair(out, other_w >> 32, v >> 48, at + 3, pairs, n, inside)


@triton.jit(do_not_specialize=["block"])
def _normal(out, keys, block, n, units, programs, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) // programs
    i = (tl.program_id(0) % programs).to(tl.int64) * SIZE + tl.arange(0, SIZE)  # two blocks of w, and one of v
    before = i // PIECE * PIECE  # those of earlier pieces
    start, length = block + 3 * before, tl.minimum(PIECE, units - before)
    at, pairs, inside = 16 * i, 16 * units, i < units
    w, x, y, z = _philox(start + 2 * (i - before), keys, row)
    c, d, e, f = _philox(start + 2 * length + i - before, keys, row)
    out += row * n
    _store_pairs(out, w, x, c, at, pairs, n, inside)
    _store_pairs(out, y, z, d, at + 4, pairs, n, inside)
    w, x, y, z = _philox(start + 2 * (i - before) + 1, keys, row)
    _store_pairs(out, w, x, e, at + 8, pairs, n, inside)
    _store_pairs(out, y, z, f, at + 12, pairs, n, inside)


@triton.jit
def _store_uniform(out, w, at, n):
    tl.store(out + at, (w.to(tl.uint32) >> 8).to(tl.float32) * UNIFORM, mask=at < n)
    tl.store(out + at + 1, ((w >> 32).to(tl.uint32) >> 8).to(tl.float32) * UNIFORM, mask=at + 1 < n)


@triton.jit(do_not_specialize=["block"])
def _uniform(out, keys, block, n, programs, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) // programs
    i = (tl.program_id(0) % programs).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    a, b, c, d = _philox(block + i, keys, row)
    out += row * n
    _store_uniform(out, a, 8 * i, n)
    _store_uniform(out, b, 8 * i + 2, n)
    _store_uniform(out, c, 8 * i + 4, n)
    _store_uniform(out, d, 8 * i + 6, n)


def normal(keys: Tensor, block: int, n: int) -> Tensor:
    """[B, n] of rows with the keys [B, 2] (int64)."""
    units = layout.units(n)
    return _launch(_normal, keys, block, n, units, units)


def uniform(keys: Tensor, block: int, n: int) -> Tensor:
    """[B, n] of rows with the keys [B, 2] (int64)."""
    return _launch(_uniform, keys, block, n, layout.uniform_blocks(n))


def _launch(kernel: Any, keys: Tensor, block: int, n: int, blocks: int, *more: int) -> Tensor:
    out = torch.empty((len(keys), n), dtype=torch.float32, device=keys.device)
    if out.numel():
        programs = -(-blocks // SIZE)
        with torch.cuda.device_of(keys):
            kernel[(len(keys) * programs,)](out, keys, block, n, *more, programs, SIZE=SIZE)
    return out
