"""A sampler: one step from one level to the next, of any denoiser, conditioned or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, Prediction
from deft.core.transition import Level
from deft.errors import ContractError
from deft.printing import Printed

Carry = Any
Draw = Callable[[], Tensor]
"""`draw()`: fresh standard normal numbers [B, *E], each sample's own."""


class Sampler(Printed, ABC):
    """One step from level t to level s.

    stochastic: whether its samples depend on noise beside that of the start.
    needs_observation: whether it uses the observation or the unconditioned prior, and so takes a `Conditioned` alone (a
        few methods are a rule for steps, not an h-transform).
    order: error of the final sample in the step size (weak order, for a stochastic sampler).
    calls(N): calls of the denoiser in N steps.

    >>> import deft
    >>> class Deterministic(deft.Sampler):
    ...     def step(self, denoiser, x_t, t, s, noise, carry):
    ...         pred = denoiser(x_t, torch.tensor(t.t, dtype=torch.float64))
    ...         return s.alpha * pred.mean + s.sigma * pred.eps, None
    >>> prior = deft.testing.gaussian_field(2).prior(deft.VPCosine())
    >>> mine, ours = (deft.sample(prior, 3, sampler=s) for s in (Deterministic(), deft.DDIM(0.0)))
    >>> torch.allclose(mine, ours, atol=1e-5)
    True
    """

    stochastic: bool = False
    needs_observation: bool = False
    order: int = 1

    @abstractmethod
    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, noise: Tensor | None, carry: Carry
    ) -> tuple[Tensor, Carry]:
        """x_s [B, *E], and whatever the next step wants to know (None at the first)."""

    def advance(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, draw: Draw, carry: Carry
    ) -> tuple[Tensor, Carry]:
        """`step` with the noise it wants: one draw if stochastic, none onto the clean end."""
        return self.step(denoiser, x_t, t, s, draw() if self.stochastic and s.sigma > 0 else None, carry)

    def calls(self, steps: int) -> int:
        return steps


class ManyDraws(Sampler):
    """A sampler that takes another number of draws in a step than one: it implements `advance`."""

    stochastic = True

    @abstractmethod
    def advance(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, draw: Draw, carry: Carry
    ) -> tuple[Tensor, Carry]:
        """x_s and what the next step wants to know, with as many `draw()` as it takes."""

    def step(
        self, denoiser: Denoiser, x_t: Tensor, t: Level, s: Level, noise: Tensor | None, carry: Carry
    ) -> tuple[Tensor, Carry]:
        raise ContractError(
            f"a step of {type(self).__name__} does not take one draw of noise: call `advance` with a source of them"
        )


def evaluate(denoiser: Denoiser, x_t: Tensor, t: Level) -> Prediction:
    """The denoiser at a level of the grid."""
    return denoiser(x_t, torch.tensor(t.t, dtype=torch.float64))
