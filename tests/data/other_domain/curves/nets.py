from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from deft.io.prior_files import OwnPrior, network_of
from deft.schedule import make_schedule


class CurveNet(nn.Module):
    """net(x [B, inputs, L], time [B]) -> [B, outputs, L]."""

    def __init__(self, inputs, outputs, width):
        super().__init__()
        self.config = {"inputs": inputs, "outputs": outputs, "width": width}
        self.inlet, self.outlet = nn.Conv1d(inputs + 1, width, 3, padding=1), nn.Conv1d(width, outputs, 3, padding=1)

    def forward(self, x, time):
        level = time.to(x.dtype)[:, None, None].expand(-1, 1, x.shape[-1])
        return self.outlet(torch.tanh(self.inlet(torch.cat([x, level], 1))))


class CurvePrior(OwnPrior):
    """Curves of unit variance."""

    units: ClassVar[dict[str, Any]] = {"domain": "curve"}

    @classmethod
    def from_card(cls, card):
        return cls(
            CurveNet(**network_of(card)), make_schedule(card["schedule"]), tuple(card["event_shape"]), card["output"]
        )
