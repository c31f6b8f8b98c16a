"""What is measured of samples of series, over the entries that were not seen (all of them, where all were)."""

from __future__ import annotations

import torch
from torch import Tensor

from deft.core.likelihood import Observation
from deft.kinds.records import Metric

METRICS: dict[str, Metric] = {
    m.key: m
    for m in (
        Metric(
            "crps", "CRPS", "low", 4,
            "continuous ranked probability score of each entry, in deviations of its variable; least for the true"
            " posterior",
            proper=True, table="main", brief=True,
        ),
        Metric(
            "mae", "MAE of the median", "low", 4, "in deviations of a variable", leads=True, table="main", brief=True,
        ),
        Metric("rmse", "RMSE of the mean", "low", 4, "in deviations of a variable", table="main", brief=True),
        Metric(
            "coverage", "coverage at 90 %", "", 3,
            "share of entries whose central 90 % interval of the samples holds the truth", target=0.9, table="main",
        ),
        Metric(
            "coverage50", "coverage at 50 %", "", 3,
            "the same of the central 50 % interval", target=0.5, table="further",
        ),
        Metric("spread", "spread", "", 3, "deviation of an entry over the samples", table="further"),
        Metric(
            "residual", "residual", "", 4, "root mean square of y - A x over what was measured; sigma_y is right",
            target_of="sigma_y", table="main",
        ),
        Metric(
            "stein", "kernel Stein discrepancy", "low", 4,
            "of the samples against the score of prior and likelihood, at noise 0.1 (`--stein`)", table="further",
        ),
    )
}  # fmt: skip
"""In the order in which reports show them."""


def measure(samples: Tensor, truth: Tensor, obs: Observation) -> dict[str, Tensor]:
    """Metric -> [N]. samples: [N, S, C, L], truth: [N, C, L], in model space."""
    n, s = samples.shape[:2]
    hidden = obs.hidden(truth.shape)
    where = torch.ones_like(truth) if hidden is None else hidden.to(truth).expand_as(truth)
    count = where.flatten(1).sum(1).clamp_min(1)

    def over(values: Tensor) -> Tensor:
        return (values * where).flatten(1).sum(1) / count

    ordered = samples.sort(1).values
    median = (ordered[:, (s - 1) // 2] + ordered[:, s // 2]) / 2
    out = {"mae": over((median - truth).abs()), "rmse": over((samples.mean(1) - truth).square()).sqrt()}
    if obs.likelihood.residual(obs.y, truth) is not None:
        left = obs.repeat(s).residual_rms(samples.flatten(0, 1))
        if left is not None:
            out["residual"] = left.reshape(n, s).mean(1)
    if s > 1:
        rank = torch.arange(1, s + 1, dtype=samples.dtype, device=samples.device).reshape(1, s, 1, 1)
        between = (ordered * (2 * rank - s - 1)).sum(1) / (s * (s - 1))  # half the mean difference of two samples
        out["crps"] = over((samples - truth[:, None]).abs().mean(1) - between)
        for key, level in (("coverage", 0.9), ("coverage50", 0.5)):
            low, high = (torch.quantile(samples, q, dim=1) for q in ((1 - level) / 2, (1 + level) / 2))
            out[key] = over(((truth >= low) & (truth <= high)).to(truth))
        out["spread"] = over(samples.var(1)).sqrt()
    return out
