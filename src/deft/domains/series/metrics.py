"""Metrics of samples of series, one number a measurement, in model space (deviations of each variable).

Only entries that were not measured, and whose truth is known, are looked at (`evaluated`): all of those that are known
where everything was measured, or what was measured is no entry (sums, say). Samples are [N, S, *E], truths [N, *E],
and `where` is 1 at the entries that count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deft.core.likelihood import Observation
from deft.errors import InputError
from deft.kinds.records import Metric
from deft.kinds.scores import coverage, energy_score, mean_over, several

LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Of the quantiles of `crps_quantiles`: 0.05, 0.10, ..., 0.95."""


def evaluated(truth: Tensor, obs: Observation) -> Tensor:
    """1 at the entries that count, [N, *E]: those that y does not hold and whose truth is known (no NaN).

    Raises:
        InputError: a row has no such entry.
    """
    known = torch.isfinite(truth)
    hidden = obs.hidden(truth.shape)
    where = known if hidden is None else known & (hidden.expand(truth.shape) > 0)
    empty = ~where.flatten(1).any(1)
    if bool(empty.any()):
        raise InputError(
            f"nothing to compare in series number {int(empty.nonzero()[0])}: every entry was measured, or its truth is"
            " missing"
        )
    return where.to(truth.dtype)


def crps(samples: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Continuous ranked probability score, the mean over entries: [N].

        CRPS = E|X - y| - 1/2 E|X - X'|  ~  1/S sum_j |x_j - y| - 1/2 . 1/(S (S - 1)) sum_{j != k} |x_j - x_k|

    Gneiting & Raftery (2007), "Strictly Proper Scoring Rules, Prediction, and Estimation", equation 21,
    https://doi.org/10.1198/016214506000001437. With S (S - 1) its expectation is that of the law itself, for every S
    (Ferro 2014, "Fair scores for ensemble forecasts", https://doi.org/10.1002/qj.2270). In the unit of x.

    >>> one = torch.ones(1, 1)
    >>> crps(torch.tensor([[[0.0], [1.0]]]), torch.tensor([[0.5]]), one)
    tensor([0.])
    """
    s = several(samples, "a CRPS")
    rank = 2 * torch.arange(1, s + 1, dtype=samples.dtype, device=samples.device) - s - 1
    pairs = torch.einsum("s,ns...->n...", rank, samples.sort(1).values) / (s * (s - 1))
    return mean_over((samples - truth[:, None]).abs().mean(1) - pairs, where)


def quantile_loss(samples: Tensor, truth: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over entries of 2/19 sum_q (q - [y < x_q]) (y - x_q), sum over entries of |y|), both [N].

    x_q: the quantiles of the samples at `LEVELS`, interpolated linearly between them.
    """
    at = torch.tensor(LEVELS, dtype=samples.dtype, device=samples.device)
    total = torch.zeros_like(truth)
    for q, x in zip(at, torch.quantile(samples, at, dim=1), strict=True):
        total = total + 2 * (q - (truth < x).to(truth.dtype)) * (truth - x)
    count = where.flatten(1).sum(1)
    return mean_over(total / len(LEVELS), where) * count, mean_over(truth.abs(), where) * count


def crps_quantiles(samples: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """The normalised CRPS that papers on imputation report, [N]; its *mean over the measurements* is the ratio of all:

        R = sum_i a_i / sum_i b_i,    a_i = sum over entries of 2/19 sum_q (q - [y < x_q]) (y - x_q),    b_i = sum |y|

    with the quantiles x_q of the samples at q = 0.05, ..., 0.95, and all sums over entries that were not measured
    (Tashiro et al. 2021, "CSDI", appendix, https://arxiv.org/abs/2107.03502). Without a unit. It depends on where zero
    is (here at the mean of each variable). The mean over 19 levels is 20/19 of the CRPS, and few samples add to it.

    The mean of single ratios is not R. Measurement i is given its share in R to first order, R (1 + a_i / mean a - b_i
    / mean b): these have mean R, and their scatter gives R's interval. Unlike other metrics, the value of one depends
    on the others of the call.
    """
    a, b = quantile_loss(samples, truth, where)
    a, b = a.double(), b.double().clamp_min(1e-12)
    ratio = a.mean() / b.mean()
    return ratio + (a - ratio * b) / b.mean()


def mae(samples: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Mean absolute error of the median of the samples, [N], in the unit of x; the median minimises its expectation."""
    return mean_over((samples.quantile(0.5, dim=1) - truth).abs(), where)


def rmse(samples: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Root mean square error of the mean of the samples over the entries of a measurement, [N], in the unit of x."""
    return mean_over((samples.mean(1) - truth).square(), where).sqrt()


def width(samples: Tensor, where: Tensor, level: float = 0.9) -> Tensor:
    """Mean width of the central interval of this level, [N], in the unit of x: between quantiles of the samples,
    interpolated linearly. With few samples narrower than that of the law: by (S - 1) / (S + 1) for a uniform one."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=samples.dtype, device=samples.device)
    low, high = torch.quantile(samples, ends, dim=1)
    return mean_over(high - low, where)


METRICS: dict[str, Metric] = {
    m.key: m
    for m in (
        Metric(
            "crps",
            "CRPS",
            "low",
            4,
            "continuous ranked probability score of the entries that were not measured, in deviations of a variable;"
            " least for the true posterior of each entry",
            proper=True,
            table="main",
            brief=True,
        ),
        Metric(
            "energy_score",
            "energy score",
            "low",
            4,
            "the same of all these entries together, by their root mean square: sees how they vary together",
            proper=True,
            table="main",
        ),
        Metric(
            "crps_quantiles",
            "normalised CRPS",
            "low",
            4,
            "of 19 quantiles, over the sum of absolute truths, as papers on imputation report it (Tashiro et al. 2021);"
            " too large with few samples",
            table="further",
        ),
        Metric(
            "mae", "MAE of the median", "low", 4, "in deviations of a variable", leads=True, table="main", brief=True
        ),
        Metric("rmse", "RMSE of the mean", "low", 4, "in deviations of a variable", table="main", brief=True),
        Metric(
            "coverage",
            "coverage at 90 %",
            "",
            3,
            "share of entries whose central 90 % interval of the samples holds the truth: 0.9 is right, and 1 - 0.05 (S"
            " + 1) the least that S samples can show",
            target=0.9,
            table="main",
        ),
        Metric("coverage50", "coverage at 50 %", "", 3, "the same at 50 %", target=0.5, table="further"),
        Metric("width", "width at 90 %", "", 3, "of the central 90 % interval, in deviations", table="further"),
        Metric("width50", "width at 50 %", "", 3, "of the central 50 % interval, in deviations", table="further"),
        Metric("spread", "spread", "", 3, "root mean square deviation of an entry over the samples", table="further"),
        Metric(
            "residual",
            "residual",
            "",
            4,
            "root mean square of y - A x over what was measured; sigma_y is right",
            target_of="sigma_y",
            table="main",
        ),
        Metric(
            "stein",
            "kernel Stein discrepancy",
            "low",
            4,
            "of the samples against the score of prior and likelihood, at noise 0.1 (`--stein`): 0 is the posterior at"
            " that level",
            table="further",
        ),
    )
}
"""In the order in which reports show them."""


def measure(samples: Tensor, truth: Tensor, obs: Observation) -> dict[str, Tensor]:
    """Metric -> [N]. samples: [N, S, *E], truth: [N, *E], NaN where it is not known."""
    n, s = samples.shape[:2]
    where = evaluated(truth, obs)
    truth = torch.where(torch.isfinite(truth), truth, torch.zeros_like(truth))
    out = {"mae": mae(samples, truth, where), "rmse": rmse(samples, truth, where)}
    left = obs.repeat(s).residual_rms(samples.flatten(0, 1))
    if left is not None:
        out["residual"] = left.reshape(n, s).mean(1)
    if s > 1:
        out["crps"] = crps(samples, truth, where)
        out["energy_score"] = energy_score(samples, truth, where)
        out["crps_quantiles"] = crps_quantiles(samples, truth, where)
        for key, level in (("", 0.9), ("50", 0.5)):
            out[f"coverage{key}"] = coverage(samples, truth, where, level)
            out[f"width{key}"] = width(samples, where, level)
        out["spread"] = mean_over(samples.var(1), where).sqrt()
    return out
