"""Where training batches come from: clean samples with fresh measurements, or fixed pairs. `cache` has the prediction
cache.

Every draw is a function of (seed, step) alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deft._old_names import moved
from deft.core.condition import fitted_to_samples
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise, generator
from deft.errors import InputError
from deft.io.identity import digest, samples_digest
from deft.kinds.stored import Samples
from deft.train.ahead import Ahead
from deft.train.protocols import Batch, Batches, Source, Task, task_identity


class Order:
    """Row numbers for a step: every row once an epoch, in an order that depends on (seed, epoch)."""

    def __init__(self, n: int):
        if n < 1:
            raise InputError("no data to train on: 0 samples")
        self.n = n
        self._key: tuple[int, int] | None = None
        self._order = torch.empty(0)

    def rows(self, size: int, seed: int, step: int, part: range | None = None) -> Tensor:
        """Row numbers of the whole batch, or of a part of it."""
        whole = self._whole(size, seed, step)
        return whole if part is None else whole[part.start : part.stop]

    def _whole(self, size: int, seed: int, step: int) -> Tensor:
        if step < 0:  # held-out evaluations walk through the data in its own order
            return (torch.arange(size) + size * (-1 - step)) % self.n
        position = torch.arange(size) + size * step
        epochs, offset = position // self.n, position % self.n
        out = torch.empty(size, dtype=torch.long)
        for epoch in epochs.unique().tolist():
            if (seed, epoch) != self._key:
                self._key = (seed, epoch)
                self._order = torch.randperm(self.n, generator=generator(seed, epoch, 2))
            here = epochs == epoch
            out[here] = self._order[offset[here]]
        return out


def observe_fixed(task: Task, x: Tensor, chunk: int = 128) -> Observation:
    """The observations of x under a task in which nothing is random, with their features, made once."""
    parts = [task.observe(part, BatchNoise(len(part), 0)) for part in x.split(chunk)]
    return Observation(torch.cat([p.y for p in parts]), parts[0].likelihood, torch.cat([p.features() for p in parts]))


class Clean(Batches):
    """Samples x [N, *E], in memory or stored (`deft.kinds.stored`); with a task, each draw is measured afresh, unless
    nothing in the task is random (`fixed`): then once.

    seen: truth values [N, *E], which entries of x are known; for a prior alone, since what is measured of x must be.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(2)
    >>> class Half:
    ...     def observe(self, x, noise):
    ...         return deft.Observation(obs.likelihood.sample(x, noise), obs.likelihood)
    >>> data = deft.Clean(world.sample(10).float(), Half())
    >>> first, second = (data.draw(10, 0, step, torch.device("cpu")) for step in (0, 1))
    >>> torch.equal(first.x.sort(0)[0], second.x.sort(0)[0]), torch.equal(first.observation.y, second.observation.y)
    (True, False)
    """

    def __init__(self, x: Samples, task: Task | None = None, *, fixed: bool = False, seen: Tensor | None = None):
        if seen is not None and (task is not None or seen.shape != x.shape):
            raise InputError(
                f"seen are truth values of the shape of x {tuple(x.shape)}, for data without a task; got"
                f" {tuple(seen.shape)}: measure samples of which every entry is known"
            )
        self.x, self.task, self.seen, self._order, self._ahead = x, task, seen, Order(len(x)), Ahead(x)
        # stored samples are too many to keep a measurement of each
        self._fixed = observe_fixed(task, x) if fixed and task is not None and isinstance(x, Tensor) else None

    def identity(self) -> dict[str, Any]:
        known = {} if self.seen is None else {"seen": digest(self.seen)}
        return {"samples": f"{len(self.x)}, {samples_digest(self.x)}", **known, **task_identity(self.task)}

    def draw(
        self,
        size: int,
        seed: int,
        step: int,
        device: torch.device,
        *,
        rows: range | None = None,
        source: Source = BatchNoise,
    ) -> Batch:
        chosen = self._order.rows(size, seed, step, rows)
        following = None if step < 0 else partial(self._order.rows, size, seed, step + 1, rows)
        x = self._ahead.rows(chosen, device, following)
        if self.task is None:
            return Batch(x, seen=None if self.seen is None else self.seen[chosen.to(self.seen.device)].to(device))
        if self._fixed is not None:
            return Batch(x, self._fixed[chosen].to(device))
        return Batch(x, self.task.observe(x, source(size, seed, step, 3, rows=rows)))


class Repeated:
    """A task that measures nothing: it hands out the rows of an observation in turn, whatever the samples are. For what
    needs measurements of the right kind alone, such as the time of a step."""

    def __init__(self, observation: Observation):
        self.observation = observation

    def observe(self, x: Tensor, noise: Any) -> Observation:
        return self.observation[torch.arange(len(x)) % len(self.observation)].to(x.device)


class Pairs(Batches):
    """The user's own pairs: x [N, *E] and an observation of N rows, used as they are.

    >>> import deft
    >>> x = torch.arange(4.0)[:, None]
    >>> data = deft.Pairs(x, deft.Observation(2 * x, deft.Gaussian(deft.Identity(), 0.1)))
    >>> batch = data.draw(3, 0, 0, torch.device("cpu"))
    >>> torch.equal(batch.observation.y, 2 * batch.x)
    True
    """

    def __init__(self, x: Tensor, observation: Observation):
        if len(observation) != len(x):
            raise InputError(f"{len(x)} samples but {len(observation)} observations: pairs must match one to one")
        observation = fitted_to_samples(observation, tuple(x.shape[1:]), x)
        self.x, self.observation, self._order = x, observation, Order(len(x))

    def identity(self) -> dict[str, Any]:
        return {"samples": f"{len(self.x)}, {digest(self.x)}", "measurements": self.observation.fingerprint()[:16]}

    def draw(
        self,
        size: int,
        seed: int,
        step: int,
        device: torch.device,
        *,
        rows: range | None = None,
        source: Source = BatchNoise,
    ) -> Batch:
        chosen = self._order.rows(size, seed, step, rows)
        return Batch(self.x[chosen].to(device), self.observation[chosen].to(device))


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)
