"""What is measured of restored sounds. A metric is a row of `METRICS` and a line of `measure`: both are here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deft.core.likelihood import Observation
from deft.domains.sound.metrics import log_spectral_distance, si_sdr
from deft.kinds.records import Metric
from deft.kinds.scores import coverage, energy_score, mean_over

METRICS: dict[str, Metric] = {
    m.key: m
    for m in (
        Metric(
            "energy_score", "energy score", "low", 4,
            "root mean square difference to the truth less half of that between different samples of a sound (in the"
            " gaps, if there are any): least for the true posterior; a recording has power 1",
            proper=True, table="main", brief=True,
        ),
        Metric(
            "lsd", "LSD (dB)", "low", 2,
            "log-spectral distance of single samples to the truth (around the gaps, if there are any). Least for"
            " samples that vary too little", leads=True, table="main", brief=True,
        ),
        Metric(
            "si_sdr_mean", "SI-SDR of the mean (dB)", "high", 2,
            "scale-invariant signal-to-distortion ratio of the mean of the samples, of the whole window",
            leads=True, table="main", brief=True,
        ),
        Metric("si_sdr", "SI-SDR (dB)", "high", 2, "the same of single samples", table="main"),
        Metric(
            "digit", "digit", "high", 3, "share of samples in which a small classifier hears the digit that was said",
            table="main", brief=True,
        ),
        Metric(
            "coverage", "coverage at 90 %", "", 3,
            "share of values whose central 90 % interval of the samples holds the truth (in the gaps, if any)",
            target=0.9, table="main",
        ),
        Metric(
            "spread_skill", "spread over error", "", 3,
            "spread of the samples over the error of their mean, over all sounds: 1 is right, less is too sure",
            target=1.0, table="main",
        ),
        Metric(
            "residual", "residual", "", 4, "root mean square of y - A x over what was measured; sigma_y is right",
            target_of="sigma_y", table="main",
        ),
        Metric("spread", "spread", "", 3, "deviation of a value over the samples", table="further"),
        Metric(
            "stein", "kernel Stein discrepancy", "low", 4,
            "of the samples against the score of prior and likelihood, at noise 0.1 (`--stein`)", table="further",
        ),
    )
}  # fmt: skip
"""In the order in which reports show them."""


def measure(
    samples: Tensor, truth: Tensor, obs: Observation, *, network: Any = None, labels: Tensor | None = None
) -> dict[str, Tensor]:
    """Metric -> [N]: each averaged over a sound's samples. samples: [N, S, 1, L], truth: [N, 1, L]. network, labels:
    the classifier, and the digits that were said."""
    n, s = samples.shape[:2]
    flat, truths, mean = samples.flatten(0, 1), truth.repeat_interleave(s, 0), samples.mean(1)
    hidden = obs.hidden(truth.shape)
    hidden = None if hidden is None else hidden.to(truth).expand_as(truth)
    often = None if hidden is None else hidden.repeat_interleave(s, 0)

    def average(values: Tensor) -> Tensor:
        return values.reshape(n, s).mean(1)

    out = {
        "lsd": average(log_spectral_distance(flat, truths, often)),
        "si_sdr_mean": si_sdr(mean, truth),
        "si_sdr": average(si_sdr(flat, truths)),
    }
    if obs.likelihood.residual(obs.y, truth) is not None:
        left = obs.repeat(s).residual_rms(flat)
        if left is not None:
            out["residual"] = average(left)
    if network is not None and labels is not None:
        heard = torch.cat([network(part) for part in flat.split(256)]).argmax(1)
        out["digit"] = average((heard == labels.to(heard).repeat_interleave(s)).to(truth))
    if s > 1:
        where = torch.ones_like(truth) if hidden is None else hidden
        out["energy_score"] = energy_score(samples, truth, where)
        out["coverage"] = coverage(samples, truth, where)
        spread, error = (mean_over(v, where) for v in (samples.var(1), (mean - truth).square()))
        out["spread"] = spread.sqrt()
        out["spread_skill"] = ratio_shares((1 + 1 / s) * spread, error)
    return out


def ratio_shares(a: Tensor, b: Tensor) -> Tensor:
    """[N] numbers whose mean is R = sqrt(mean a / mean b), to first order the share of each in it: R (1 + (a / mean a -
    b / mean b) / 2). The mean of single ratios is not R.

    >>> round(float(ratio_shares(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 6.0])).mean()), 4)
    0.7071
    """
    a, b = a.double() + 1e-12, b.double() + 1e-12
    return (a.mean() / b.mean()).sqrt() * (1 + (a / a.mean() - b / b.mean()) / 2)
