"""Scores of samples [N, S, *E] against the truth [N, *E] that kinds of data share, over the entries where `where`
[N, *E] is 1."""

from __future__ import annotations

import torch
from torch import Tensor

from deft.errors import InputError


def mean_over(values: Tensor, where: Tensor) -> Tensor:
    """Mean over the entries that count, [N]. What stands elsewhere may be NaN."""
    kept = torch.where(where > 0, values, torch.zeros_like(values))
    return kept.flatten(1).sum(1) / where.flatten(1).sum(1).clamp_min(1)


def several(samples: Tensor, what: str) -> int:
    """How many samples there are of each measurement: two at least."""
    if samples.shape[1] < 2:
        raise InputError(f"{what} needs at least two samples of each measurement, got {samples.shape[1]}")
    return samples.shape[1]


def energy_score(samples: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Energy score of all entries together, [N]: the CRPS with the root mean square over entries in place of |.|.

        ES = 1/S sum_j d(x_j, y) - 1/2 . 1/(S (S - 1)) sum_{j != k} d(x_j, x_k),    d(u, v)^2 = mean over entries of
        (u - v)^2

    Gneiting & Raftery (2007), equation 22. Unlike the CRPS it sees how entries vary together. In the unit of x.
    """
    s = several(samples, "an energy score")
    weight = (where / where.flatten(1).sum(1).clamp_min(1).reshape(-1, *(1,) * (where.ndim - 1))).sqrt()
    x, y = ((torch.where(w > 0, v, torch.zeros_like(v)) * w) for v, w in ((samples, weight[:, None]), (truth, weight)))
    x, y = x.flatten(2), y.flatten(1)
    pairs = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2)) / (s * (s - 1))
    return (x - y[:, None]).norm(dim=-1).mean(1) - pairs / 2


def coverage(samples: Tensor, truth: Tensor, where: Tensor, level: float = 0.9) -> Tensor:
    """Share of entries whose central interval of this level holds the truth: [N].

    u = (rank + v) / (S + 1), with rank of the truth among the samples and v uniform on [0, 1], is uniform on [0, 1] for
    the exact posterior, whatever S (Hamill 2001, https://doi.org/10.1175/1520-0493(2001)129%3C0550:IORHFV%3E2.0.CO;2).
    The truth is in if |u - 1/2| <= level / 2; this is the mean over v, so its expectation is exactly `level`. With S
    samples at least 1 - (1 - level) (S + 1) / 2 comes out, so a few samples cannot show how bad it is.

    >>> x = torch.tensor([[[0.0], [1.0], [2.0]]])
    >>> [float(coverage(x, torch.tensor([[y]]), torch.ones(1, 1), 0.5)) for y in (1.5, 9.0)]
    [1.0, 0.0]
    """
    cells = samples.shape[1] + 1
    below = (samples < truth[:, None]).sum(1)
    above = cells - (samples > truth[:, None]).sum(1)  # the truth has one of the ranks below, ..., above - 1
    low, high = (1 - level) / 2, (1 + level) / 2
    inside = (above / cells).clamp(low, high) - (below / cells).clamp(low, high)
    return mean_over(inside * cells / (above - below).clamp_min(1), where)
