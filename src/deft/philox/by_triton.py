"""One kernel for all rows: each program makes the numbers of `SIZE` blocks of one row. Needs Triton."""

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
def _store_pair(out, w, other, at, half, n, inside):
    """z and z' of 32-bit words."""
    r = tl.sqrt_rn(-2.0 * tl.log(w.to(tl.float32) * RADIUS + RADIUS / 2))
    a = other.to(tl.int32, bitcast=True).to(tl.float32) * ANGLE
    tl.store(out + at, r * tl.cos(a), mask=inside & (at < n))
    tl.store(out + at + 8 * half, r * tl.sin(a), mask=inside & (at + 8 * half < n))


@triton.jit
def _store_pairs(out, w, other, at, half, n, inside):
    """The same of 64-bit words: of their low halves, and of their high ones."""
    _store_pair(out, w.to(tl.uint32), other.to(tl.uint32), at, half, n, inside)
    _store_pair(out, (w >> 32).to(tl.uint32), (other >> 32).to(tl.uint32), at + 1, half, n, inside)


@triton.jit(do_not_specialize=["block"])
def _normal(out, keys, block, n, half, programs, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) // programs
    i = (tl.program_id(0) % programs).to(tl.int64) * SIZE + tl.arange(0, SIZE)  # the block of w, and of w'
    piece = i // PIECE * PIECE
    at = block + i + piece
    inside = i < half
    a, b, c, d = _philox(at, keys, row)
    e, f, g, h = _philox(at + tl.minimum(PIECE, half - piece), keys, row)
    out += row * n
    _store_pairs(out, a, e, 8 * i, half, n, inside)
    _store_pairs(out, b, f, 8 * i + 2, half, n, inside)
    _store_pairs(out, c, g, 8 * i + 4, half, n, inside)
    _store_pairs(out, d, h, 8 * i + 6, half, n, inside)


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
    half = layout.half_blocks(n)
    return _launch(_normal, keys, block, n, half, half)


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
