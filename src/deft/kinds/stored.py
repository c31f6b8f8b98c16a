"""Samples that stay on the disk: read row by row when they are asked for, and bytes until they are on the device."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

BOUND = 2**28
"""Bytes of float32 that a part of stored samples may take where all of them would do (a calibration, held-out data)."""


def from_bytes(kept: Tensor) -> Tensor:
    """Bytes 0 to 255 as -1 to 1 in float32, where they are; other values stay what they are.

    >>> from_bytes(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    if kept.dtype != torch.uint8:
        return kept
    # by a tensor: a division by a number is a product with its inverse on some devices, and rounds otherwise
    half = torch.full((), 127.5, device=kept.device)
    return kept.float().div_(half).sub_(1)


class Stored(ABC):
    """Samples x [N, *E] in model space that are read when they are asked for.

    `x[i:j]`, `x[rows]` and `x.rows(rows, device)` are tensors of those rows; `x.subset(rows)` is stored as well.
    shape: (N, *E). plain: whether `model` is `from_bytes`.
    """

    shape: tuple[int, ...]
    plain: ClassVar[bool] = True

    @abstractmethod
    def stored(self, rows: Tensor) -> Tensor:
        """Rows [B, *E] as they are kept: bytes, or float32 in model space.

        Raises:
            InputError: one cannot be read; the message names it.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """16 digits that tell these data from others, without reading them all: names, sizes and some rows, say. Other
        values in a row that is not looked at are not seen."""

    def model(self, kept: Tensor) -> Tensor:
        """What `stored` returned, in model space, on the device where it is."""
        return from_bytes(kept)

    def rows(self, rows: Tensor | Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Rows [B, *E] in model space."""
        return self.model(self.stored(torch.as_tensor(rows, dtype=torch.long)).to(device))

    def subset(self, rows: Tensor) -> Stored:
        """Some rows, in this order."""
        return Subset(self, rows)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Tensor:
        return self.rows(torch.arange(len(self))[rows])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return math.prod(self.shape)

    def __repr__(self) -> str:
        size = 4 * self.numel() / 2**30
        return f"{type(self).__name__}({' x '.join(map(str, self.shape))}, {size:.1f} GiB if it were in memory)"


Samples = Tensor | Stored


class Subset(Stored):
    """Some rows of stored samples."""

    def __init__(self, whole: Stored, rows: Tensor):
        self.whole, self.chosen, self.shape = whole, rows, (len(rows), *whole.shape[1:])
        self.plain = whole.plain  # type: ignore[misc]

    def stored(self, rows: Tensor) -> Tensor:
        return self.whole.stored(self.chosen[rows])

    def model(self, kept: Tensor) -> Tensor:
        return self.whole.model(kept)

    def fingerprint(self) -> str:
        return mixed(self.whole.fingerprint(), hashlib.sha256(self.chosen.numpy().tobytes()).hexdigest())


class Mapped(Stored):
    """Stored samples in another space: `change` of them, [B, *E] -> [B, *shape], at every use."""

    plain: ClassVar[bool] = False

    def __init__(self, inner: Stored, change: Callable[[Tensor], Tensor], shape: Sequence[int]):
        self.inner, self.change, self.shape = inner, change, (len(inner), *shape)

    def stored(self, rows: Tensor) -> Tensor:
        return self.inner.stored(rows)

    def model(self, kept: Tensor) -> Tensor:
        with torch.no_grad():
            return self.change(self.inner.model(kept))

    def fingerprint(self) -> str:
        return mixed(self.inner.fingerprint(), str(self.shape))


class Joined(Stored):
    """The rows of several, one after the other."""

    def __init__(self, parts: Sequence[Samples]):
        self.parts = list(parts)
        self.starts = torch.tensor([0, *(len(p) for p in parts)]).cumsum(0)
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])

    def stored(self, rows: Tensor) -> Tensor:
        part = torch.searchsorted(self.starts, rows, right=True) - 1
        found: list[tuple[Tensor, Tensor]] = []
        for i in part.unique().tolist():
            here = (part == i).nonzero()[:, 0]
            own, of = rows[here] - self.starts[i], self.parts[i]
            if isinstance(of, Tensor):
                found.append((here, of[own].cpu()))
            else:
                found.append((here, of.stored(own) if of.plain else of.rows(own).cpu()))
        if len(found) == 1:
            return found[0][1]
        out = torch.empty((len(rows), *self.shape[1:]))
        for here, values in found:
            out[here] = from_bytes(values).float()
        return out

    def fingerprint(self) -> str:
        return mixed(*(_of_tensor(p) if isinstance(p, Tensor) else p.fingerprint() for p in self.parts))


def mixed(*texts: str) -> str:
    """One fingerprint of several."""
    return hashlib.sha256(" ".join(texts).encode()).hexdigest()[:16]


def _of_tensor(x: Tensor) -> str:
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def joined(parts: Sequence[Samples]) -> Samples:
    """The rows of several, in memory if all are."""
    tensors = [p for p in parts if isinstance(p, Tensor)]
    return torch.cat(tensors) if len(tensors) == len(parts) else Joined(parts)


def subset(x: Samples, rows: Tensor) -> Samples:
    """Some rows, stored where the whole is."""
    return x[rows] if isinstance(x, Tensor) else x.subset(rows)


def take(x: Samples, rows: Tensor, device: torch.device | str) -> Tensor:
    """Some rows, on a device."""
    return x[rows].to(device) if isinstance(x, Tensor) else x.rows(rows, device)


def few_rows(x: Stored, most: int) -> int:
    """How many rows, at most so many, take no more than `BOUND`."""
    return max(1, min(most, len(x), BOUND // max(4 * math.prod(x.shape[1:]), 1)))


def bounded(x: Samples, most: int = 256) -> Tensor:
    """A tensor as it is; of stored samples rows at even distances, at most so many and no more than `BOUND` bytes."""
    return x if isinstance(x, Tensor) else x.rows(spaced(len(x), few_rows(x, most)))


def spaced(n: int, most: int) -> Tensor:
    """At most so many of the numbers from 0 to n - 1, at even distances, the first and the last among them.

    >>> spaced(10, 4).tolist(), spaced(3, 4).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return torch.linspace(0, n - 1, min(n, most), dtype=torch.float64).round().long()
