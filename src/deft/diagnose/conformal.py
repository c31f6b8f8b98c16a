"""Intervals that hold the truth as often as they say, by a factor found on data that nothing was fitted to.

For an entry with truth x, mean m and standard deviation s of its n samples, the score is

    r = |x - m| / (t sqrt(s^2 + f^2) sqrt(1 + 1/n)),

f a small share of the typical s, and the factor for a level is the quantile of r at that level over all entries of all
measurements (split conformal prediction: Vovk et al. 2005; scores relative to a predicted spread: Lei et al. 2018).
Entries of one measurement hang together, so what is exchangeable is the measurement, and the guarantee is that of
conformal risk control (Angelopoulos et al. 2024) for the share of entries that are missed: see `conformal_factors`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deft.errors import InputError
from deft.kinds.draws import Draws
from deft.kinds.intervals import IntervalFactors, student_scale

LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95)
FLOOR = 0.03
"""f, as a share of the root mean square of s. Without it a few samples that agree by chance decide the factor. More of
it narrows intervals further, and takes from where samples vary what it gives to where they do not (docs/trust.md)."""
MIN_MEASUREMENTS = 8
"""Fewer say too little."""


def conformal_factors(
    draws: Draws, truth: Tensor, levels: Sequence[float] = LEVELS, *, where: Tensor | None = None
) -> IntervalFactors:
    """The factors for `Draws.interval` under which intervals hold the truth [N, *data] as often as they say.

    The factor is found for 2, 4, 8, ... samples, up to as many as there are.

    where: 1 at the entries that count, [N or 1, *data] or broadcast, such as those that were not measured: of an entry
    that is known every interval holds the truth, and would hide how often the others do. Measurements count alike, and
    those without any such entry do not; what follows is then said of these entries.

    Guaranteed, whatever the samples are worth: over new measurements that are exchangeable with these N, an interval
    misses in expectation at most (1 - level) N / (N + 1) + 1 / (N + 1) of all entries, for the numbers of samples and
    the levels that were looked at, with f taken as given (it is a share of these measurements' spread). This is an
    average over measurements and entries. Not guaranteed: any single
    measurement, any single entry, measurements of another kind, of another noise or operator.

    Vovk et al. (2005), "Algorithmic Learning in a Random World", https://doi.org/10.1007/b106715; Lei et al. (2018),
    "Distribution-Free Predictive Inference for Regression", https://arxiv.org/abs/1604.04173; Angelopoulos et al.
    (2024), "Conformal Risk Control", https://arxiv.org/abs/2208.02814.

    Raises:
        InputError: weighted samples, truth of another shape, fewer than eight measurements or two samples.

    >>> from deft.testing import gaussian_pairs
    >>> draws, truth = gaussian_pairs(2000, 8, scale=0.5)  # half as wide as they should be
    >>> factors = conformal_factors(draws, truth)
    >>> 1.9 < factors.at(0.9, 8) < 2.1
    True
    """
    if draws.log_weight is not None or draws.n < 2:
        raise InputError("factors for intervals are found from two samples or more of each measurement, unweighted")
    if truth.shape != (len(draws), *draws.x.shape[2:]):
        raise InputError(
            f"truth has shape {tuple(truth.shape)}, expected {(len(draws), *draws.x.shape[2:])}: one for each"
            " measurement"
        )
    counts = None if where is None else where.to(truth).expand_as(truth).flatten(1)
    known = len(draws) if counts is None else int(counts.any(1).sum())
    if known < MIN_MEASUREMENTS:
        raise InputError(f"intervals need at least {MIN_MEASUREMENTS} measurements, got {known}")
    if not levels or not all(0 < v < 1 for v in levels):
        raise InputError(f"levels must lie between 0 and 1, at least one, got {list(levels)}")
    levels = tuple(sorted(levels))
    variance = draws.std.square().flatten(1)
    share = None if counts is None else counts.double() / counts.double().sum(1, keepdim=True).clamp_min(1) / known
    typical = variance.mean() if share is None else (share * variance).sum()
    floor = max(FLOOR * float(typical.sqrt()), 1e-12)
    table = {}
    for n in [*(k for k in (2, 4, 8, 16, 32) if k < draws.n), draws.n]:
        # all sets of n samples that share none: what one set of four comes to varies by a tenth
        sets = [draws.x[:, i : i + n] for i in range(0, draws.n - n + 1, n)]
        scores = torch.cat([((truth - x.mean(1)).abs() / (x.var(1) + floor**2).sqrt()).flatten() for x in sets])
        ordered, order = scores.double().sort()
        if share is None:
            at = [min(int(level * len(ordered)), len(ordered) - 1) for level in levels]
        else:
            reached = share.flatten().repeat(len(sets))[order].cumsum(0) / len(sets)
            last = int((reached < 1 - 1e-9).sum())  # beyond it are entries that do not count
            at = [min(int((reached <= level + 1e-12).sum()), last) for level in levels]
        table[n] = tuple(float(ordered[i]) / student_scale(level, n) for i, level in zip(at, levels, strict=True))
    return IntervalFactors(levels, table, floor)
