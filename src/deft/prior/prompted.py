"""A conditional network as net(x, t): what it is conditioned on held fixed, with guidance if asked to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deft.prior.families import Call


class Prompted(nn.Module):
    """A network with a text (or class) held fixed, as net(x, time).

    With classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598) its output is

        f(x, t, against) + scale (f(x, t, given) - f(x, t, against)),

    two rows of the network for each row of x. At scale 1 it is f(x, t, given), by one.

    Args:
        model: the network. call: how it is called, see `TextFamily`.
        given: what it is conditioned on, each [1, ...]. No part of the weights: what of it makes this prior another one
            is in `stated`.
        against: the same for the side that guidance leads away from; None: there is no such side.
        stated: part of the prior's fingerprint, and of its description.
    """

    def __init__(
        self,
        model: nn.Module,
        call: Call,
        given: Mapping[str, Tensor],
        against: Mapping[str, Tensor] | None = None,
        scale: float = 1.0,
        stated: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.model, self.call, self.scale, self.stated = model, call, scale, dict(stated or {})
        self.names, self.guided = tuple(given), against is not None
        like = next(model.parameters())
        for name in self.names:
            value = given[name] if against is None else torch.cat([against[name], given[name]])
            kept = value.to(like.dtype) if value.is_floating_point() else value
            self.register_buffer(f"given_{name}", kept, persistent=False)

    @property
    def rows_per_call(self) -> int:
        """Rows of the network for each row of x."""
        return 2 if self.guided else 1

    def rows(self, count: int) -> dict[str, Tensor]:
        """What is given, for a number of rows of x."""
        return {k: getattr(self, f"given_{k}").repeat_interleave(count, 0) for k in self.names}

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        if not self.guided:
            return self.call(self.model, x, time, self.rows(len(x)))
        both = self.call(self.model, torch.cat([x, x]), torch.cat([time, time]), self.rows(len(x)))
        low, high = both.chunk(2)
        return low + self.scale * (high - low)
