"""What the three ways have in common: constants, and how many blocks a draw takes."""

from __future__ import annotations

import math

ROUNDS = 10
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
BUMPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
"""What the two words of a key grow by in each round."""
LOW = 0xFFFFFFFF
UNIFORM = 2.0**-24
RADIUS = 2.0**-32
ANGLE = math.pi * 2.0**-15
PIECE = 2048
"""Blocks of v, behind twice as many of w: what the CPU makes of them stays in its cache."""


def uniform_blocks(n: int) -> int:
    """How many blocks n uniform numbers take."""
    return -(-n // 8)


def units(n: int) -> int:
    """How many times two blocks of w and one of v n normal numbers take: 16 pairs each."""
    return -(-n // 32)
