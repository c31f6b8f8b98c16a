"""How far a control is from the exact one for its measurement, in numbers that need no truth to compare with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from deft._old_names import moved
from deft.core.denoiser import Denoiser
from deft.core.grid import times
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise
from deft.samplers.ode import KernelSampler
from deft.samplers.sde import Ito
from deft.train.path import simulate

COLLAPSED = 0.05
"""Below this effective share of the paths their weights say little: log Z is one path's."""


def diagnose(
    prior: Denoiser,
    h: HTransform,
    obs: Observation,
    *,
    paths: int = 64,
    steps: int = 100,
    spacing: str = "log-snr",
    seed: int = 0,
    sampler: KernelSampler | None = None,
    batch: int = 64,
) -> dict[str, float]:
    """Paths of one measurement under h, and what their weights say.

    Returns:
        cost: control cost, the relative entropy of the paths to the prior's (nats). log_likelihood: mean of log p(y |
            x_0).
        bound: mean log w, at most log Z; exact for the exact h. variance: of log w, 0 for the exact h.
        log_z: log of the mean weight, an estimate of log p(y), with a 95 % interval log_z_low, log_z_high from the
            weights' own deviation; without meaning where `effective`, the effective number of paths as a share, is
            under `COLLAPSED`.
        residual: root mean square of y - A(x_0), of likelihoods that have one.
    """
    grid = times(prior.schedule, steps, spacing)
    done = []
    for low in range(0, paths, batch):
        rows = range(low, min(low + batch, paths))
        done.append(
            simulate(prior, h, obs[0].repeat(len(rows)), BatchNoise(paths, seed, 21, rows=rows), grid, sampler or Ito())
        )
    log_w, cost, x = (torch.cat([getattr(w, k) for w in done]) for k in ("log_weight", "cost", "x"))
    rows_of_y = obs[0].repeat(paths)
    top = log_w.max()
    w = (log_w - top).exp()
    mean, error = float(w.mean()), float(w.std() / math.sqrt(paths)) if paths > 1 else math.inf
    out = {
        "cost": float(cost.mean()),
        "log_likelihood": float(rows_of_y.log_prob(x).mean()),
        "bound": float(log_w.mean()),
        "variance": float(log_w.var()) if paths > 1 else math.nan,
        "log_z": float(top) + math.log(mean),
        "log_z_low": float(top) + math.log(max(mean - 1.96 * error, 1e-300)),
        "log_z_high": float(top) + math.log(mean + 1.96 * error),
        "effective": float(w.sum() ** 2 / w.square().sum()) / paths,
    }
    like = rows_of_y.likelihood
    r = like.residual(rows_of_y.y, x)
    if r is not None:
        out["residual"] = float((r.square().flatten(1).sum(1) / like.number_of_measurements(r)).mean().sqrt())
    return out


def summary(d: dict[str, float]) -> str:
    """One line for a person."""
    z = (
        f"{d['log_z']:.1f} [{d['log_z_low']:.1f}, {d['log_z_high']:.1f}]"
        if d["effective"] >= COLLAPSED
        else "unavailable (weights collapsed)"
    )
    residual = f", residual {d['residual']:.4f}" if "residual" in d else ""
    return (
        f"control cost {d['cost']:.1f}, Var(log w) {d['variance']:.3g}, effective {100 * d['effective']:.0f} % of the"
        f" paths, log p(y) {z}{residual}"
    )


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)
