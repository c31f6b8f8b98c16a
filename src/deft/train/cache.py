"""The prediction cache: what the frozen prior says of many (x_0, t, noise), worked out once."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from deft.core.denoiser import Denoiser, Prediction
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise, generator
from deft.io.identity import samples_digest
from deft.kinds.stored import Samples, take
from deft.runtime.distributed import World, get_world
from deft.train.ahead import Ahead
from deft.train.data import Order, observe_fixed
from deft.train.denoising import DenoisingObjective, draw_times
from deft.train.protocols import Batch, Batches, Source, Task, task_identity


class PredictionCache(Batches):
    """The prediction cache: draws (x_0, t, n) made once, with the frozen prior's prediction of each, measured afresh at
    every use.

    The prior's forward pass is then paid `size` times in all, not once a step; the price is a finite set of noise
    draws. `docs/results/cache-and-units.md` has what both are worth. With `fresh`, that share of each batch is redrawn
    instead, and costs its calls.

    Args:
        x: images (or other samples) [N, *E], in memory or stored. rows: which of them each cached draw is of, [size].
        prediction: of all `size` draws. fixed: the observation of each image, where nothing in the task is random.
        fresh: (objective's draw of predictions: `predict(x, noise) -> Prediction`, share of a batch).
    """

    def __init__(
        self, x: Samples, task: Task, rows: Tensor, prediction: Prediction, fixed: Observation | None = None,
        fresh: tuple[Callable[[Tensor, BatchNoise], Prediction], float] | None = None,
    ):  # fmt: skip
        self.x, self.task, self.rows, self.prediction, self._fixed = x, task, rows, prediction, fixed
        self._order, self._images, self._fresh = Order(len(rows)), Order(len(x)), fresh
        self._ahead = Ahead(x)

    def identity(self) -> dict[str, Any]:
        """Of what is cached, not of the predictions: they differ by rounding from machine to machine."""
        fresh = 0.0 if self._fresh is None else self._fresh[1]
        return {
            "samples": f"{len(self.x)}, {samples_digest(self.x)}",
            "cache": len(self.rows),
            "fresh": fresh,
            **task_identity(self.task),
        }

    @staticmethod
    def default_size(event_shape: tuple[int, ...], max_bytes: int = 2**32, size: int = 4_000) -> int:
        """`size` draws, fewer where they would take more than 4 GiB; 0 (no cache) if fewer than 4,000 fit."""
        fitting = max_bytes // (2 * 4 * math.prod(event_shape))
        return size if size <= fitting else (fitting if fitting >= 4_000 else 0)

    @classmethod
    def build(
        cls, prior: Denoiser, x: Samples, task: Task, size: int, *, focus: float = 3.0, even: float = 0.5,
        seed: int = 0, chunk: int = 128, progress: bool = False, world: World | None = None,
        fixed: bool | Observation = False, fresh: float = 0.0,
    ) -> PredictionCache:  # fmt: skip
        """Run the prior on `size` draws, x's rows in turn, t as the objective draws it; chunks are shared by the
        processes.

        fixed: nothing in the task is random, so that images are measured once; or the observation of each, of own
            pairs. fresh: share of each batch redrawn.
        """
        device = next((p.device for p in prior.parameters()), getattr(x, "device", torch.device("cpu")))
        rows = torch.arange(size) % len(x)
        noise = BatchNoise(size, seed, 4)
        t = draw_times(prior.schedule, noise, focus, even)
        t = t[torch.randperm(size, generator=generator(seed, 5))]

        def predict(i: int) -> Prediction:
            part = slice(i, min(i + chunk, size))
            x_0, n = take(x, rows[part], device), BatchNoise(part.stop - part.start, seed, 6, i).normal(x.shape[1:])
            _, alpha, sigma = prior.coefficients(t[part], x_0)
            with torch.no_grad():
                p = prior(alpha * x_0 + sigma * prior.project(n.to(device), x_0), t[part].to(device))
            return Prediction(*(getattr(p, k).cpu() for k in Prediction.__annotations__))

        world, starts = world or get_world(), range(0, size, chunk)
        done = world.share(starts, predict)
        parts = list(
            tqdm(done, desc="prediction cache", unit="chunk", total=len(starts), disable=not (progress and world.main))
        )
        joined = Prediction(*(torch.cat([getattr(p, k) for p in parts]) for k in Prediction.__annotations__))
        anew = (DenoisingObjective(prior, focus=focus, even=even).predict, fresh) if fresh else None
        known = fixed if isinstance(fixed, Observation) else None
        if fixed is True and isinstance(x, Tensor):  # stored samples are too many to keep a measurement of each
            known = observe_fixed(task, x)
        return cls(x, task, rows, joined, known, anew)

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
        rows = range(size) if rows is None else rows
        chosen, new = self._chosen(size, seed, step, rows)
        image = torch.cat([self.rows[chosen], new])
        x = self._ahead.rows(image, device, None if step < 0 else partial(self._images_of, size, seed, step + 1, rows))
        parts = []
        if len(chosen):
            p = self.prediction[chosen]
            parts.append(Prediction(*(getattr(p, k).to(device) for k in Prediction.__annotations__)))
        if len(new):
            assert self._fresh is not None
            cached = self._cached(size, step)
            own = range(max(rows.start, cached) - cached, max(rows.stop, cached) - cached)
            parts.append(self._fresh[0](x[len(chosen) :], source(size - cached, seed, step, 8, rows=own)))
        prediction = Prediction(*(torch.cat([getattr(p, k) for p in parts]) for k in Prediction.__annotations__))
        if self._fixed is not None:
            return Batch(x, self._fixed[image].to(device), prediction)
        return Batch(x, self.task.observe(x, source(size, seed, step, 3, rows=rows)), prediction)

    def _cached(self, size: int, step: int) -> int:
        """How many rows of a batch are cached draws; the others are new ones."""
        return size - (round(self._fresh[1] * size) if self._fresh is not None and step >= 0 else 0)

    def _chosen(self, size: int, seed: int, step: int, rows: range) -> tuple[Tensor, Tensor]:
        """(cached draws, images of new draws) of some rows of a batch."""
        cached = self._cached(size, step)
        old = range(min(rows.start, cached), min(rows.stop, cached))
        new = range(max(rows.start, cached) - cached, max(rows.stop, cached) - cached)
        none = torch.empty(0, dtype=torch.long)
        return (
            self._order.rows(cached, seed, step, old) if len(old) else none,
            self._images.rows(size - cached, seed, step, new) if len(new) else none,
        )

    def _images_of(self, size: int, seed: int, step: int, rows: range) -> Tensor:
        chosen, new = self._chosen(size, seed, step, rows)
        return torch.cat([self.rows[chosen], new])
