"""What data, objectives and `fit` agree on: a task, a batch, who hands batches out, an objective and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from deft.core.denoiser import Prediction
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise


class Task(Protocol):
    """Clean x [B, *E] -> an observation of it, with fresh operator and measurement noise."""

    def observe(self, x: Tensor, noise: Any) -> Observation: ...


Source = type[BatchNoise]
"""`BatchNoise`, or `RowNoise` for many processes."""


class Batch(NamedTuple):
    """x: clean samples [B, *E]; observation: of them, or None; prediction: the prior's, if already known; seen: truth
    values [B, *E], which entries of x are known, or None where all are."""

    x: Tensor
    observation: Observation | None = None
    prediction: Prediction | None = None
    seen: Tensor | None = None


class Batches(ABC):
    """draw(size, seed, step, device) -> Batch. Steps below 0 are for held-out evaluations.

    rows: return these rows of the batch of `size` alone, the same as they are in the whole.
    source: makes the random numbers, as source(size, *key, rows=rows).
    """

    @abstractmethod
    def draw(
        self,
        size: int,
        seed: int,
        step: int,
        device: torch.device,
        *,
        rows: range | None = None,
        source: Source = BatchNoise,
    ) -> Batch: ...

    def identity(self) -> dict[str, Any]:
        """What the batches are made of, as plain values: a fit on other data is not resumed (`deft.io.identity`)."""
        return {}


class Loss(NamedTuple):
    """A scalar to minimise, and named scalars worth watching (detached)."""

    value: Tensor
    metrics: dict[str, Tensor]


class Objective(Protocol):
    """objective(module, batch, noise) -> Loss; the frozen prior, if one is needed, lives in the objective.

    The value must be a mean over the batch's rows: a batch may be seen in parts, whose means are put together again.
    """

    def __call__(self, module: nn.Module, batch: Batch, noise: BatchNoise) -> Loss: ...


def task_identity(task: object) -> dict[str, Any]:
    """The settings of a task that has any."""
    config = getattr(task, "config", None) or getattr(getattr(task, "task", None), "config", None)
    return {"task": config()} if callable(config) else {}
