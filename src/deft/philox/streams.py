"""Streams of normal and uniform numbers, all at the same block."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from deft.philox import by_torch
from deft.philox.by_numpy import Generators
from deft.philox.layout import uniform_blocks, units

WORD = 2**64


class Streams:
    """One stream for each key (two whole numbers, modulo 2^64).

    Numbers for a CUDA device are made there, and the host does not wait for it. For any other device they are made on
    the CPU. The block is a number of the host: a CUDA graph would repeat the same draw at each replay.

    >>> whole, part = Streams([(0, 0), (0, 1)]), Streams([(0, 1)])
    >>> torch.equal(whole.normal((3,), "cpu")[1:], part.normal((3,), "cpu"))
    True
    """

    def __init__(self, keys: Iterable[tuple[int, int]]):
        self.keys = np.array([(a % WORD, b % WORD) for a, b in keys], dtype=np.uint64).reshape(-1, 2)
        self.block = 0
        self._generators = Generators(self.keys)
        self._moved: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def normal(self, shape: Sequence[int], device: torch.device | str) -> Tensor:
        """Standard normal numbers [B, *shape], float32."""
        n, where = math.prod(shape), torch.device(device)
        block, self.block = self.block, self.block + 3 * units(n)
        if where.type == "cuda" and n * len(self):
            found = for_cuda(where).normal(self.keys_on(where), block, n)
        else:
            found = torch.from_numpy(self._generators.at(block).normal(n)).to(where)
        return found.view(len(self), *shape)

    def uniform(self, shape: Sequence[int], device: torch.device | str) -> Tensor:
        """Numbers uniform on [0, 1), [B, *shape], float32: multiples of 2^-24."""
        n, where = math.prod(shape), torch.device(device)
        block, self.block = self.block, self.block + uniform_blocks(n)
        if where.type == "cuda" and n * len(self):
            found = for_cuda(where).uniform(self.keys_on(where), block, n)
        else:
            found = torch.from_numpy(self._generators.at(block).uniform(n)).to(where)
        return found.view(len(self), *shape)

    def keys_on(self, device: torch.device) -> Tensor:
        """int64 [B, 2]; moved once, without waiting for the device."""
        if device not in self._moved:
            self._moved[device] = torch.from_numpy(self.keys.view(np.int64)).to(device, non_blocking=True)
        return self._moved[device]


@cache
def for_cuda(device: torch.device) -> ModuleType:
    """The way for a device: the kernel, where Triton can build it (it asks for a C compiler)."""
    try:
        from deft.philox import by_triton
    except ImportError:
        return by_torch
    try:
        by_triton.normal(torch.zeros((1, 2), dtype=torch.int64, device=device), 0, 1)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        warnings.warn(
            f"Triton cannot build the kernel for random numbers ({reason[0]}); the same numbers are made by about 500"
            " operations a draw instead of one",
            RuntimeWarning,
            stacklevel=2,
        )
        return by_torch
    return by_triton
