"""The error of E[x_0 | x_t, y] by noise level: where an h-transform is good, and where it is not.

A sample's quality is made at high noise (what is in the hole) and at low noise (how sharp it is); one loss
averaged over all levels hides both. This looks at each level on its own, for the prior alone and with h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deft.condition import condition
from deft.denoise import Denoiser
from deft.htransform.base import HTransform
from deft.likelihood.base import Observation
from deft.likelihood.gaussian import Gaussian
from deft.random import Noise

LEVELS: tuple[float, ...] = tuple(math.log(math.tan(math.pi / 2 * u / 100)) for u in range(5, 100, 10))
"""log(sigma/alpha) at the angles 0.05, 0.15, ..., 0.95 of a quarter turn (the times t of `VPCosine`)."""


def hidden_pixels(obs: Observation, shape: Sequence[int]) -> Tensor | None:
    """1 where x_0 was not measured, 0 where it was, [B, *E]; None for operators that are no mask."""
    if not isinstance(obs.likelihood, Gaussian) or tuple(obs.y.shape) != tuple(shape):
        return None
    hidden = 1 - obs.likelihood.operator.restrict(torch.ones_like(obs.y))
    return hidden if bool((hidden > 0).any()) else None


def level_errors(
    prior: Denoiser,
    h: HTransform,
    x: Tensor,
    obs: Observation,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
    batch: int = 128,
) -> list[dict[str, float]]:
    """Mean squared error of the denoised mean at each noise level, without and with h.

    Args:
        x: clean samples [N, *E]; obs: a measurement of each.
        levels: log(sigma/alpha), each inside the schedule's range.
        seed: of the noise added to x, the same for every h.

    Returns:
        One row a level: `log_ratio` and `angle` (the level), `n` (samples), `prior` and `h` (errors over the whole
        sample) and, for masks, `prior_hidden` and `h_hidden` (over what was not measured), `prior_seen` and `h_seen`.
    """
    was = h.training
    h.eval()
    hidden = hidden_pixels(obs, x.shape)
    schedule = prior.schedule
    level = torch.as_tensor(levels, dtype=torch.float64)
    times = schedule.time_of(-2 * level)
    where = prior.state_like().device
    sums = torch.zeros(len(levels), 4, dtype=torch.float64)
    for low in range(0, len(x), batch):
        part = slice(low, min(low + batch, len(x)))
        clean = x[part].to(where)
        n = Noise(seed, range(part.start, part.stop)).normal(x.shape[1:], device=where).to(clean.dtype)
        n = prior.project(n, clean)
        conditioned = condition(prior, h, obs[part].to(where))
        for i, t in enumerate(times):
            _, alpha, sigma = prior.coefficients(t, clean)
            pred, value = conditioned.both(alpha * clean + sigma * n, t)
            squares = [(mean - clean).square().double() for mean in (pred.mean, pred.corrected(value).mean)]
            sums[i, :2] += torch.stack([s.sum() for s in squares]).cpu()
            if hidden is not None:
                sums[i, 2:] += torch.stack([(s * hidden[part].to(where)).sum() for s in squares]).cpu()
    h.train(was)
    rows = []
    for value, (a, b, c, d) in zip(level.tolist(), sums.tolist(), strict=True):
        row = {"log_ratio": value, "angle": math.atan(math.exp(value)) * 2 / math.pi, "n": float(len(x))}
        row |= {"prior": a / x.numel(), "h": b / x.numel()}
        if hidden is not None:
            count = float(hidden.expand_as(x).sum())
            seen = x.numel() - count
            row |= {"prior_hidden": c / count, "h_hidden": d / count}
            row |= {"prior_seen": (a - c) / seen, "h_seen": (b - d) / seen}
        rows.append(row)
    return rows


def level_table(rows: Sequence[dict[str, float]]) -> str:
    """The rows of `level_errors` as a Markdown table, one noise level a column."""
    names = {
        "prior": "prior alone",
        "eps": "prior alone, of the noise",
        "h": "with h",
        "prior_hidden": "prior alone, hidden pixels",
        "h_hidden": "with h, hidden pixels",
        "prior_seen": "prior alone, seen pixels",
        "h_seen": "with h, seen pixels",
    }
    head = "| noise level (angle) | " + " | ".join(f"{r['angle']:.2f}" for r in rows) + " |"
    lines = [head, "|---" * (len(rows) + 1) + "|"]
    for key, title in names.items():
        if rows and key in rows[0]:
            lines.append(f"| {title} | " + " | ".join(f"{r[key]:.4f}" for r in rows) + " |")
    return "\n".join(lines)
