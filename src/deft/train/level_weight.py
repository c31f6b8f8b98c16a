"""How far a fitted h is to be trusted at each noise level, found on held-out data.

A fitted h has errors that it does not know of, and at low noise, where there is little left to correct, they can be
larger than what it corrects. With e = x_0 - x̂ what the prior's mean misses and m = (sigma^2/alpha) h the correction,
the weight

    c(level) = argmin_c E |e - c m|^2 = E<e, m> / E<m, m>,    between 0 and 1,

is the least-squares shrinkage of h. On the data it is found on, c h is at no level worse than the prior alone (c = 0)
nor than h as fitted (c = 1). c is linear between the knots of log(sigma/alpha) at which `DEFT` keeps it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deft.core.random import BatchNoise
from deft.learned.deft import DEFT, KNOTS
from deft.train.denoising import DenoisingObjective
from deft.train.protocols import Batches

RIDGE = 10.0
"""The pull of each knot towards 1: sum of <m, m>/rho^2 over its draws is the information on c (its inverse variance,
were entries independent), and 10 is that of a belief c = 1 with deviation .3. It decides where hardly any draw is
near."""


@torch.no_grad()
def fit_level_weight(
    h: DEFT, objective: DenoisingObjective, held_out: Batches, *, batch: int, batches: int, seed: int = 0
) -> Tensor:
    """Set h's `level_weight` by least squares on held-out draws, and return it, [knots].

    held_out: as `fit` sees them (steps below 0). Each draw counts by 1/rho^2 of its level, the inverse variance of an
        entry of e.
    """
    where = h.level_weight.device
    h.level_weight.fill_(1.0)
    was = h.training
    h.eval()
    n = len(KNOTS)
    normal, right = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for i in range(batches):
        drawn = held_out.draw(batch, seed, -1 - i, where)
        pred, value, _ = objective.errors(h, drawn, BatchNoise(batch, seed, -1 - i, 1))
        moved = ((pred.sigma**2 / pred.alpha) * value).double().flatten(1)
        missed = (drawn.x - pred.mean).double().flatten(1)
        level = torch.log(pred.sigma / pred.alpha).reshape(-1).expand(len(moved))
        scale = 1 / h.rho2(level.float()).double().clamp_min(1e-12)
        hats = _hats(level).cpu()
        mm, em = ((a * moved).sum(1) * scale for a in (moved, missed))
        normal += hats.T @ (mm.cpu()[:, None] * hats)
        right += hats.T @ em.cpu()
    found = torch.linalg.solve(normal + RIDGE * torch.eye(n, dtype=torch.float64), right + RIDGE).clamp(0, 1)
    h.level_weight.copy_(found.to(h.level_weight))
    h.train(was)
    return h.level_weight


def _hats(level: Tensor) -> Tensor:
    """Weights of the knots at each level, [B, knots]: the linear interpolation that `DEFT.weight_at` makes."""
    place = ((level.double() - KNOTS[0]) / (KNOTS[1] - KNOTS[0])).clamp(0, len(KNOTS) - 1)
    return (1 - (place[:, None] - torch.arange(len(KNOTS), device=level.device)).abs()).clamp_min(0)
