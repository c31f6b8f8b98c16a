"""Random numbers that belong to a sample, not to a batch.

`Noise(seed, indices)` has one stream per sample, whose key is (seed, index). Sample 7 gets the same numbers alone, with
63 others and on another device (`deft.philox`; one generator per sample is the idea of Karras et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from deft.errors import InputError
from deft.philox import Streams
from deft.printing import Printed
from deft.tensors import as_count
from deft.values import quoted


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of whole numbers; different tuples give unrelated streams."""
    # numpy reads (1, 0) as (1,) and 2**32 as (0, 1): the length, and two words for each number, tell them apart
    words = [len(key), *(w for k in key for w in (k % 2**32, k // 2**32 % 2**32))]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) % 2**63)


USES = ("measurements", "samples", "prior samples", "probing")
"""What streams of one seed are used for: measurement noise (and whatever the user draws), samples of a posterior,
samples of the prior, the noise that an error by noise level is measured with."""


def seed_for(use: str, seed: int) -> int:
    """The seed of the streams of one use: sample i of one use has nothing in common with sample i of another.

    One seed for all would make the noise of measurement i, the noise that its sample starts from, and the noise under
    which its error is measured the same numbers: a prior's error on its own samples came out a seventh of what it is.

    >>> seed_for("measurements", 3), seed_for("samples", 3) - 2**40
    (3, 3)
    """
    return seed + USES.index(use) * 2**40


class Noise(Printed):
    """Independent streams of standard normal and uniform numbers, one per sample.

    Args:
        seed: seed of the whole run.
        indices: a count B, or the global index of each of the B samples.

    >>> whole, part = Noise(0, 4), Noise(0, [2, 3])
    >>> torch.equal(whole.normal((5,))[2:], part.normal((5,)))
    True
    """

    def __init__(self, seed: int, indices: int | Iterable[int]):
        self.seed = int(seed)
        count = as_count(indices)
        self.indices: Sequence[int] = list(map(int, indices)) if count is None else range(count)  # type: ignore[arg-type]
        if (count is not None and count < 0) or any(i < 0 for i in self.indices):
            raise InputError(f"Noise: indices = {quoted(indices)}: expected a count, or the numbers of samples from 0")
        self._streams = Streams((self.seed, i) for i in self.indices)

    def __len__(self) -> int:
        return len(self._streams)

    @cached_property
    def for_measurements(self) -> RowNoise:
        """What tasks draw from: a CPU generator per sample, as in 0.1.0, so that the measurements of a seed stay what
        they were, and a comparison can be paired with an older one."""
        return RowNoise(len(self), self.seed, rows=self.indices)

    def normal(self, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers [B, *shape]."""
        return self._streams.normal(shape, device)

    def uniform(self, shape: Sequence[int] = (), *, device: torch.device | str = "cpu") -> Tensor:
        """Numbers uniform on [0, 1), [B, *shape], float32."""
        return self._streams.uniform(shape, device)


class BatchNoise(Printed):
    """The same interface from a single generator: cheaper, for training, where a sample is not kept.

    Args:
        n: rows of the whole batch. key: whole numbers that seed the generator.
        rows: keep these rows alone. All n are drawn, so a part has the numbers it has in the whole.

    `total` is n; the length is that of `rows`.

    >>> whole, part = BatchNoise(4, 0), BatchNoise(4, 0, rows=range(2, 4))
    >>> torch.equal(whole.normal((5,))[2:], part.normal((5,)))
    True
    """

    def __init__(self, n: int, *key: int, rows: range | None = None):
        self.total, self.rows, self.key = n, range(n) if rows is None else rows, key
        self._generator = generator(*key)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n(self) -> int:
        return self.total

    def spawn(self, i: int) -> BatchNoise:
        """Another source for the same rows, the i-th of this one's: always the same, whatever was drawn before."""
        return type(self)(self.total, *self.key, i, rows=self.rows)

    def shared(self, i: int) -> torch.Generator:
        """The i-th generator for what the whole batch has in common: the same for every part of it."""
        return generator(*self.key, i)

    def normal(self, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
        return self._part(torch.randn((self.total, *shape), generator=self._generator, dtype=torch.float32)).to(device)

    def uniform(self, shape: Sequence[int] = (), *, device: torch.device | str = "cpu") -> Tensor:
        return self._part(torch.rand((self.total, *shape), generator=self._generator, dtype=torch.float32)).to(device)

    def _part(self, whole: Tensor) -> Tensor:
        return whole[self.rows.start : self.rows.stop]


class RowNoise(BatchNoise):
    """A `BatchNoise` with one generator for each row: other numbers, and only those of `rows` are drawn.

    For many processes, where drawing the whole batch in each of them would take longer than the step
    (docs/distributed.md).
    """

    def __init__(self, n: int, *key: int, rows: Sequence[int] | None = None):
        self.total, self.rows, self.key = n, range(n) if rows is None else rows, key  # type: ignore[assignment]
        self._generators = [generator(*key, i) for i in self.rows]

    def normal(self, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
        return self._each(torch.randn, shape).to(device)

    def uniform(self, shape: Sequence[int] = (), *, device: torch.device | str = "cpu") -> Tensor:
        return self._each(torch.rand, shape).to(device)

    def _each(self, draw: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        return torch.stack([draw(tuple(shape), generator=g, dtype=torch.float32) for g in self._generators])
