"""Batches of one measurement, for objectives that need no data, and likelihoods that are annealed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from deft._old_names import moved
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise
from deft.errors import InputError
from deft.train.protocols import Batch, Batches, Source


def temper(obs: Observation, beta: float) -> Observation:
    """The observation with p(y | x)^beta for its likelihood (`Likelihood.tempered`), 0 < beta <= 1."""
    if not 0 < beta <= 1:
        raise InputError(f"beta must be above 0 and at most 1, got {beta}")
    return obs if beta == 1 else Observation(obs.y, obs.likelihood.tempered(beta), obs.features())


class Measured(Batches):
    """Batches in which every row is the same measurement: paths of one y, which `deft.train.path` compares with each
    other.

    Args:
        obs: one measurement, or several that take turns, a batch each.
        warm: the likelihood is tempered, log p(y | x) times beta, for this many steps: beta rises from `cold` to 1 in
            equal ratios. A sharp likelihood (sigma_y small for what the prior leaves open) gives the first paths
            weights that differ by thousands, and the batch's variance is one path's.
    """

    def __init__(self, obs: Observation, *, warm: int = 0, cold: float = 1e-3):
        if len(obs) < 1:
            raise InputError("no measurement to learn from: 0 rows")
        if warm < 0 or not 0 < cold <= 1:
            raise InputError(f"warm is a number of steps and cold a share above 0, got {warm} and {cold}")
        self.obs, self.warm, self.cold = obs, warm, cold

    def identity(self) -> dict[str, Any]:
        return {"measurements": self.obs.fingerprint()[:16], "warm": self.warm, "cold": self.cold}

    def beta(self, step: int) -> float:
        """The likelihood's power at a step; 1 for held-out evaluations."""
        return 1.0 if step < 0 or step >= self.warm else self.cold ** (1 - step / self.warm)

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
        n = size if rows is None else len(rows)
        which = (-1 - step if step < 0 else step) % len(self.obs)
        one = temper(self.obs[which].to(device), self.beta(step))
        one.features()  # once for all rows
        return Batch(one.y.new_empty(n, 0), one.repeat(n))


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)
