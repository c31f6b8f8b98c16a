"""Operations of torch, on whatever device the keys are: no number passes through the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deft.philox.layout import (
    ANGLE,
    BUMPS,
    LOW,
    MULTIPLIERS,
    PIECE,
    RADIUS,
    ROUNDS,
    UNIFORM,
    uniform_blocks,
    units,
)


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> Tensor:
    """Philox4x64-10: the four words [..., 4] of a counter (four words) under a key (two), int64 read as unsigned.

    >>> zero = torch.zeros((), dtype=torch.int64)  # the known answer of Random123
    >>> [hex(int(word) % 2**64) for word in philox([zero] * 4, [zero] * 2)][:2]
    ['0x16554d9eca36314c', '0xdb20fe9d672d0fdc']
    """
    (a, b, c, d), (first, second) = counter, key
    for i in range(ROUNDS):
        if i:
            first, second = first + _signed(BUMPS[0]), second + _signed(BUMPS[1])
        (high, low), (other_high, other_low) = _product(a, MULTIPLIERS[0]), _product(c, MULTIPLIERS[1])
        a, b, c, d = other_high ^ b ^ first, other_low, high ^ d ^ second, low
    return torch.stack((a, b, c, d), dim=-1)


def words(keys: Tensor, block: int, count: int) -> Tensor:
    """`count` blocks of each row from `block` on: [B, 8 count], int64 from 0 to 2^32 - 1."""
    counter = torch.arange(block + 1, block + 1 + count, device=keys.device)[None]
    none = torch.zeros_like(counter)
    found = philox((counter, none, none, none), (keys[:, :1], keys[:, 1:]))
    return torch.stack((found & LOW, (found >> 32) & LOW), dim=-1).flatten(1)


def normal(keys: Tensor, block: int, n: int) -> Tensor:
    """[B, n] of rows with the keys [B, 2]."""
    pieces = words(keys, block, 3 * units(n)).split(24 * PIECE, dim=1)
    w = torch.cat([piece[:, : piece.shape[1] // 3 * 2] for piece in pieces], dim=1)
    both = torch.cat([piece[:, piece.shape[1] // 3 * 2 :] for piece in pieces], dim=1)
    v = torch.stack((both & 0xFFFF, both >> 16), dim=-1).flatten(1)
    u = w.float().mul_(RADIUS).add_(RADIUS / 2)
    a = ((v ^ 2**15) - 2**15).float().add_(u).mul_(ANGLE)  # the upper bit of v is its sign
    r = u.log_().mul_(-2.0).sqrt_()
    return torch.cat((r * a.cos(), r * a.sin()), dim=1)[:, :n].contiguous()


def uniform(keys: Tensor, block: int, n: int) -> Tensor:
    """[B, n] of rows with the keys [B, 2]."""
    return (words(keys, block, uniform_blocks(n))[:, :n] >> 8).float().mul_(UNIFORM)


def _product(x: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """The high and the low 64 bits of a product of unsigned numbers: int64 wraps around, and shifts its sign in."""
    x_low, x_high = x & LOW, (x >> 32) & LOW
    by_low, by_high = by & LOW, by >> 32
    inner, outer = x_high * by_low, x_low * by_high
    middle = (((x_low * by_low) >> 32) & LOW) + (inner & LOW) + (outer & LOW)
    high = x_high * by_high + ((inner >> 32) & LOW) + ((outer >> 32) & LOW) + (middle >> 32)
    return high, x * _signed(by)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
