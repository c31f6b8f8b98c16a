"""Where training batches come from: clean samples with fresh measurements, fixed pairs, or a prediction cache.

A `Batches` object hands out a `Batch`. Every draw is a function of (seed, step) alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from deft.core.condition import fitted_to_samples
from deft.core.denoiser import Denoiser, Prediction
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise, generator
from deft.errors import InputError
from deft.io.identity import digest
from deft.runtime.distributed import World, get_world


class Task(Protocol):
    """Clean x [B, *E] -> an observation of it, with fresh operator and measurement noise."""

    def observe(self, x: Tensor, noise: Any) -> Observation: ...


Source = type[BatchNoise]
"""`BatchNoise`, or `RowNoise` for many processes."""


class Batch(NamedTuple):
    """x: clean samples [B, *E]; observation: of them, or None; prediction: the prior's, if already known."""

    x: Tensor
    observation: Observation | None = None
    prediction: Prediction | None = None


class Batches(ABC):
    """draw(size, seed, step, device) -> Batch. Steps below 0 are for held-out looks.

    rows: return these rows of the batch of `size` alone, the same as they are in the whole.
    source: makes the random numbers, as source(size, *key, rows=rows).
    """

    @abstractmethod
    def draw(
        self, size: int, seed: int, step: int, device: torch.device, *, rows: range | None = None, source: Source = BatchNoise
    ) -> Batch: ...

    def identity(self) -> dict[str, Any]:
        """What the batches are made of, as plain values: a fit on other data is not resumed (`deft.io.identity`)."""
        return {}


def task_identity(task: object) -> dict[str, Any]:
    """The settings of a task that has any."""
    config = getattr(task, "config", None) or getattr(getattr(task, "task", None), "config", None)
    return {"task": config()} if callable(config) else {}


class _Order:
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
        if step < 0:  # held-out looks walk through the data in its own order
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
    """The observations of x under a task in which nothing is random, with their lifts, made once."""
    parts = [task.observe(part, BatchNoise(len(part), 0)) for part in x.split(chunk)]
    return Observation(torch.cat([p.y for p in parts]), parts[0].likelihood, torch.cat([p.lift() for p in parts]))


class Clean(Batches):
    """Samples x [N, *E]; with a task, each draw is measured afresh, unless nothing in the task is random (`fixed`): then once."""

    def __init__(self, x: Tensor, task: Task | None = None, *, fixed: bool = False):
        self.x, self.task, self._order = x, task, _Order(len(x))
        self._fixed = observe_fixed(task, x) if fixed and task is not None else None

    def identity(self) -> dict[str, Any]:
        return {"samples": f"{len(self.x)}, {digest(self.x)}", **task_identity(self.task)}

    def draw(
        self, size: int, seed: int, step: int, device: torch.device, *, rows: range | None = None, source: Source = BatchNoise
    ) -> Batch:
        chosen = self._order.rows(size, seed, step, rows)
        x = self.x[chosen].to(device)
        if self.task is None:
            return Batch(x)
        if self._fixed is not None:
            return Batch(x, self._fixed[chosen].to(device))
        return Batch(x, self.task.observe(x, source(size, seed, step, 3, rows=rows)))


class Pairs(Batches):
    """The user's own pairs: x [N, *E] and an observation of N rows, used as they are."""

    def __init__(self, x: Tensor, observation: Observation):
        if len(observation) != len(x):
            raise InputError(f"{len(x)} samples but {len(observation)} observations: pairs must match one to one")
        observation = fitted_to_samples(observation, tuple(x.shape[1:]), x)
        self.x, self.observation, self._order = x, observation, _Order(len(x))

    def identity(self) -> dict[str, Any]:
        return {"samples": f"{len(self.x)}, {digest(self.x)}", "measurements": self.observation.fingerprint()[:16]}

    def draw(
        self, size: int, seed: int, step: int, device: torch.device, *, rows: range | None = None, source: Source = BatchNoise
    ) -> Batch:
        chosen = self._order.rows(size, seed, step, rows)
        return Batch(self.x[chosen].to(device), self.observation[chosen].to(device))


class Bank(Batches):
    """The prediction cache: draws (x_0, t, n) made once, with the frozen prior's prediction of each, measured afresh at every use.

    The prior's forward pass is then paid `size` times in all, not once a step; the price is a finite set of noise draws.
    `docs/cache.md` has what both are worth. With `fresh`, that share of each batch is drawn anew instead, and costs its calls.

    Args:
        x: images (or other samples) [N, *E]. rows: which of them each cached draw is of, [size].
        prediction: of all `size` draws. fixed: the observation of each image, where nothing in the task is random.
        fresh: (objective's draw of predictions: `predict(x, noise) -> Prediction`, share of a batch).
    """

    def __init__(
        self, x: Tensor, task: Task, rows: Tensor, prediction: Prediction, fixed: Observation | None = None,
        fresh: tuple[Callable[[Tensor, BatchNoise], Prediction], float] | None = None,
    ):  # fmt: skip
        self.x, self.task, self.rows, self.prediction, self._fixed = x, task, rows, prediction, fixed
        self._order, self._images, self._fresh = _Order(len(rows)), _Order(len(x)), fresh

    def identity(self) -> dict[str, Any]:
        """Of what is cached, not of the predictions: they differ by rounding from machine to machine."""
        fresh = 0.0 if self._fresh is None else self._fresh[1]
        return {"samples": f"{len(self.x)}, {digest(self.x)}", "cache": len(self.rows), "fresh": fresh, **task_identity(self.task)}

    @staticmethod
    def default_size(event_shape: tuple[int, ...], max_bytes: int = 2**32, size: int = 4_000) -> int:
        """`size` draws, fewer where they would take more than 4 GiB; 0 (no cache) if fewer than 4,000 fit."""
        fitting = max_bytes // (2 * 4 * math.prod(event_shape))
        return size if size <= fitting else (fitting if fitting >= 4_000 else 0)

    @classmethod
    def build(
        cls, prior: Denoiser, x: Tensor, task: Task, size: int, *, focus: float = 3.0, even: float = 0.5, seed: int = 0,
        chunk: int = 128, progress: bool = False, world: World | None = None, fixed: bool = False, fresh: float = 0.0,
    ) -> Bank:  # fmt: skip
        """Run the prior on `size` draws, x's rows in turn, t as the objective draws it; chunks are shared by the processes.

        fixed: nothing in the task is random, so that images are measured once. fresh: share of each batch drawn anew.
        """
        from tqdm import tqdm

        from deft.train.denoising import DenoisingObjective, draw_times

        device = next((p.device for p in prior.parameters()), x.device)
        rows = torch.arange(size) % len(x)
        noise = BatchNoise(size, seed, 4)
        t = draw_times(prior.schedule, noise, focus, even)
        t = t[torch.randperm(size, generator=generator(seed, 5))]

        def predict(i: int) -> Prediction:
            part = slice(i, min(i + chunk, size))
            x_0, n = x[rows[part]].to(device), BatchNoise(part.stop - part.start, seed, 6, i).normal(x.shape[1:])
            _, alpha, sigma = prior.coefficients(t[part], x_0)
            with torch.no_grad():
                p = prior(alpha * x_0 + sigma * prior.project(n.to(device), x_0), t[part].to(device))
            return Prediction(*(getattr(p, k).cpu() for k in Prediction.__annotations__))

        world, starts = world or get_world(), range(0, size, chunk)
        done = world.share(starts, predict)
        parts = list(tqdm(done, desc="prediction cache", unit="chunk", total=len(starts), disable=not (progress and world.main)))
        joined = Prediction(*(torch.cat([getattr(p, k) for p in parts]) for k in Prediction.__annotations__))
        anew = (DenoisingObjective(prior, focus=focus, even=even).predict, fresh) if fresh else None
        return cls(x, task, rows, joined, observe_fixed(task, x) if fixed else None, anew)

    def draw(
        self, size: int, seed: int, step: int, device: torch.device, *, rows: range | None = None, source: Source = BatchNoise
    ) -> Batch:
        rows = range(size) if rows is None else rows
        cached = size - (round(self._fresh[1] * size) if self._fresh is not None and step >= 0 else 0)
        old = range(min(rows.start, cached), min(rows.stop, cached))
        new = range(max(rows.start, cached) - cached, max(rows.stop, cached) - cached)
        images, parts = [], []
        if len(old):
            chosen = self._order.rows(cached, seed, step, old)
            p = self.prediction[chosen]
            images.append(self.rows[chosen])
            parts.append(Prediction(*(getattr(p, k).to(device) for k in Prediction.__annotations__)))
        if len(new):
            assert self._fresh is not None
            images.append(self._images.rows(size - cached, seed, step, new))
            parts.append(self._fresh[0](self.x[images[-1]].to(device), source(size - cached, seed, step, 8, rows=new)))
        image = torch.cat(images)
        prediction = Prediction(*(torch.cat([getattr(p, k) for p in parts]) for k in Prediction.__annotations__))
        x = self.x[image].to(device)
        if self._fixed is not None:
            return Batch(x, self._fixed[image].to(device), prediction)
        return Batch(x, self.task.observe(x, source(size, seed, step, 3, rows=rows)), prediction)
