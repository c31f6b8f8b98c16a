"""How good an unconditional prior is: held-out error by noise level, and its samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.random import Noise, seed_for
from deft.samplers import DDIM, sample
from deft.train.levels import LEVELS


@torch.no_grad()
def denoising_errors(
    prior: Denoiser,
    x: Tensor,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
    batch: int = 128,
    seen: Tensor | None = None,
) -> list[dict[str, float]]:
    """Held-out error of the prior at each log(sigma/alpha), a row each. seen: which entries of x are known, [N, *E].

    `prior`: mean squared error of E[x_0 | x_t] a pixel; `eps`: the same of the noise, alpha^2/sigma^2 times as much.
    """
    level = torch.as_tensor(levels, dtype=torch.float64)
    times = prior.schedule.time_of(-2 * level)
    where = prior.state_like().device
    totals = torch.zeros(len(level), dtype=torch.float64)
    for low in range(0, len(x), batch):
        clean = x[low : low + batch].to(where)
        n = Noise(seed_for("probing", seed), range(low, low + len(clean))).normal(x.shape[1:], device=where)
        for i, t in enumerate(times):
            _, alpha, sigma = prior.coefficients(t, clean)
            error = (prior(alpha * clean + sigma * n, t).mean - clean).square()
            if seen is not None:
                error = error * seen[low : low + batch].to(error)
            totals[i] += float(error.double().sum())
    errors = totals / (x.numel() if seen is None else max(1, int(seen.sum())))
    angles = torch.atan(level.exp()) * 2 / torch.pi
    rows = zip(level.tolist(), angles.tolist(), errors.tolist(), (errors * (-2 * level).exp()).tolist(), strict=True)
    return [{"log_ratio": a, "angle": b, "n": float(len(x)), "prior": c, "eps": d} for a, b, c, d in rows]


def draw(
    prior: Denoiser, n: int, *, steps: int = 100, seed: int = 0, batch: int = 64, progress: bool = False
) -> Tensor:
    """n samples of the prior: ancestral, `steps` steps."""
    parts = []
    for low in range(0, n, batch):
        noise = Noise(seed_for("prior samples", seed), range(low, min(low + batch, n)))
        parts.append(sample(prior, noise, sampler=DDIM(1.0), steps=steps, progress=progress).cpu())
    return torch.cat(parts)
