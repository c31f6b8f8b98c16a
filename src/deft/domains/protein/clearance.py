"""No two residues on top of each other: the h of that event, beside any other.

A prior that is not perfect lets residues far apart along the chain come too close, about one pair a chain for the
bundled one. "No pair |i - j| >= 3 is nearer than d" is one more thing that is known of the chain, and has an h like any
other. With the chain that is expected now, motif included,

    m = x̂ + (sigma^2 / alpha) h(x_t; y),

what is added moves each pair that is too near apart in m, by (gain 1/2) all that it lacks:

    m_i += gain sum_j max(d - |m_i - m_j|, 0) (m_i - m_j) / |m_i - m_j|        where sigma / alpha <= top.

That is the event's h to first order where m is nearly certain, which is why it begins only below `top`: earlier, m is a
blur in which everything is near. It asks nothing of the prior, and no backward pass. What is sampled is p(chain |
motif, no clash), approximately; not p(chain | motif).
"""

from __future__ import annotations

import torch
from torch import Tensor

from deft.core.denoiser import Prediction
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.domains.protein.chains import UNIT
from deft.domains.protein.geometry import centred, coordinates, residues
from deft.errors import InputError
from deft.guidance.combine import Wrapped

DISTANCE = 4.0
"""Angstrom."""
APART = 3
"""Residues nearer than this along the chain are neighbours, and no clash."""


class Clearance(Wrapped):
    """h, and that of "no two residues nearer than `distance`" (formula above).

    Args:
        h: of the motif; `Zero()` for none.
        distance: angstrom. 0.07 of 1,000 pairs of natives are nearer than 4.0, .003 nearer than the 3.6 at which
            `deft.domains.protein.metrics` counts a clash.
        gain: 1/2 moves a pair exactly apart. top: the highest sigma/alpha (units of 8 angstrom) at which it works.
    """

    def __init__(self, h: HTransform, distance: float = DISTANCE, gain: float = 0.5, top: float = 0.5):
        if not 0 < distance < 8 or not 0 < gain <= 1 or not top > 0:
            raise InputError(
                "a clearance needs a distance in angstrom between 0 and 8, a gain above 0 and at most 1, and a level"
                f" above 0, got {distance}, {gain} and {top}"
            )
        super().__init__(h)
        self.distance, self.gain, self.top = distance, gain, top

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        h = self.h(pred, obs)
        a, s = pred.alpha, pred.sigma
        with torch.no_grad():
            m, real = coordinates(pred.mean + h * s**2 / a), residues(pred.x_t)
            push = centred(self.gain * apart(m, real, self.distance / UNIT), real)
            return h + torch.where(s / a <= self.top, push * (a / s**2), 0.0).to(h)


def apart(x: Tensor, real: Tensor, distance: float) -> Tensor:
    """sum_j max(distance - |x_i - x_j|, 0) (x_i - x_j) / |x_i - x_j| over residues that are no neighbours, [B, L, 3].
    x: [B, L, 3], real: [B, L]."""
    at = torch.arange(x.shape[1], device=x.device)
    pair = ((at[:, None] - at).abs() >= APART) & real[:, :, None] & real[:, None]
    d = x[:, :, None] - x[:, None]
    r = d.norm(dim=-1).clamp_min(1e-6)
    return (((distance - r).clamp_min(0) * pair / r)[..., None] * d).sum(2)
