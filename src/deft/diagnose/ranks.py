"""Is a posterior calibrated? The rank of the truth among samples, over many measurements.

If truth and measurement are drawn together, x ~ p(x) and y ~ p(y | x), then for samples of the exact posterior p(x | y)
the truth is one more draw of the same law. Any number f(x) of it therefore has a rank among those of the n samples that
is uniform on 0, ..., n:

    rank_i = #{ j : f(x_ij) < f(truth_i) },    u_i = (rank_i + 1/2) / (n + 1).

`sbc` takes numbers of your own, or plain ones; `tarp` the distance to a random point; `expected_coverage` the density.
All three are one test, `RankTest`: the share of ranks below each value, with a band that holds for all values at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from deft.core.random import generator
from deft.diagnose.figures import curves_in_band
from deft.errors import InputError
from deft.kinds.draws import Draws

Statistic = Callable[[Tensor], Tensor]
"""Samples [M, *data] -> a number of each, [M]."""
SIMULATIONS = 4000
"""Sets of uniform ranks that a band and a p-value are found from."""
FEW = 8
"""Up to so many entries of a sample each of them is a statistic of its own."""


@dataclass(frozen=True, eq=False)
class RankTest:
    """Ranks of the truth among n samples, [N, K], for N measurements and K numbers of a sample.

    names: of the K numbers. of: what small ranks mean, "low" (the truth is below the samples) or "sure" (it is nearer
    to the middle than the samples are). level: of the band, which holds for all ranks and all K numbers at once
    (Bonferroni over K).

    >>> import torch
    >>> from deft import Draws
    >>> truth, x = torch.randn(100, 1), torch.randn(100, 20, 1)
    >>> test = sbc(Draws(x), truth)
    >>> test.p_value.shape, sbc(Draws(0.5 * x), truth).passed
    ((1,), False)
    """

    ranks: np.ndarray
    n: int
    names: tuple[str, ...]
    of: str = "low"
    level: float = 0.95
    _p: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        simulated, cdf = simulated_minima(len(self.ranks), self.n), _binomial(len(self.ranks), self.n)
        seen = np.array([_two_sided(_below(self.ranks[:, k], self.n), cdf).min() for k in range(len(self.names))])
        count = (simulated[None] <= seen[:, None] * (1 + 1e-12)).sum(1)
        p = np.minimum(1.0, len(self.names) * (1 + count) / (1 + len(simulated)))
        object.__setattr__(self, "_p", p)

    @property
    def p_value(self) -> np.ndarray:
        """For each number: how often exact samples are as far off as these, times K. At least K / 4,001."""
        return self._p

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the samples at this level. It is wrong about exact ones with probability 1 -
        level at most."""
        return bool((self._p > 1 - self.level).all())

    @property
    def share(self) -> np.ndarray:
        """Share of the measurements with a rank below 1, ..., n, [n, K]; exact samples have 1/(n + 1), ..., n/(n + 1)
        in expectation."""
        return np.stack([_below(self.ranks[:, k], self.n) for k in range(len(self.names))], 1) / len(self.ranks)

    @property
    def expected(self) -> np.ndarray:
        return np.arange(1, self.n + 1) / (self.n + 1)

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high), each [n]: the shares of exact samples stay within for all ranks at once."""
        return rank_band(len(self.ranks), self.n, 1 - (1 - self.level) / len(self.names))

    def verdicts(self) -> dict[str, str]:
        """For each number: "as it should be", or how the samples are wrong."""
        return {name: self._verdict(k) for k, name in enumerate(self.names)}

    def _verdict(self, k: int) -> str:
        if self._p[k] > 1 - self.level:
            return "as it should be"
        u = (self.ranks[:, k] + 0.5) / (self.n + 1)
        off = (u.mean() - 0.5) * math.sqrt(12 * len(u))
        # the variance of (u - 1/2)^2 is 1/180
        spread = (np.square(u - 0.5).mean() - 1 / 12) * math.sqrt(180 * len(u))
        if self.of == "sure":  # narrow and shifted samples alike leave the truth outside
            return "too sure" if off + spread > 0 else "too wide"
        if abs(spread) > abs(off):
            return "too narrow" if spread > 0 else "too wide"
        return "too low" if off > 0 else "too high"

    def __repr__(self) -> str:
        lines = [f"RankTest of {len(self.ranks)} measurements, {self.n} samples each, level {self.level:g}"]
        width = max(map(len, self.names))
        lines += [
            f"  {k:<{width}}  p = {p:.4f}  {v}" for (k, v), p in zip(self.verdicts().items(), self._p, strict=True)
        ]
        return "\n".join(lines)

    def picture(self) -> bytes | None:
        """A PNG: share of ranks less what is expected, with the band; None without matplotlib."""
        low, high = self.band
        return curves_in_band(
            self.expected,
            self.share - self.expected[:, None],
            low - self.expected,
            high - self.expected,
            names=self.names,
            labels=("expected share", "share less expected"),
            title=f"{len(self.ranks)} measurements, {self.n} samples each; band at {self.level:g}",
        )

    _repr_png_ = picture


def sbc(
    draws: Draws,
    truth: Tensor,
    statistic: Mapping[str, Statistic] | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> RankTest:
    """Simulation-based calibration: ranks of numbers of the truth [N, *data] among those of its samples.

    After Talts et al. (2018), "Validating Bayesian Inference Algorithms with Simulation-Based Calibration",
    https://arxiv.org/abs/1804.06788; the band is that of Säilynoja et al. (2022), "Graphical Test for Discrete
    Uniformity and its Applications in Goodness-of-Fit Evaluation and Multiple Sample Comparison",
    https://arxiv.org/abs/2103.10522.

    Args:
        truth: x of each measurement, drawn together with it: images that y was made of.
        statistic: name -> function, samples [M, *data] -> [M]. Default: every entry where there are up to eight; else
            the mean, the root mean square, and three random directions.
        seed: of the random directions, and of ties.

    Raises:
        InputError: samples with weights, truth of another shape.

    >>> from deft.testing import gaussian_pairs
    >>> draws, truth = gaussian_pairs(200, 31)
    >>> sbc(draws, truth).passed, sbc(gaussian_pairs(200, 31, scale=0.7)[0], truth).verdicts()["x[0]"]
    (True, 'too narrow')
    """
    _check(draws, truth)
    chosen = _plain(tuple(truth.shape[1:]), seed) if statistic is None else dict(statistic)
    if not chosen:
        raise InputError("no statistic is given: give name -> function, or None for plain ones")
    ranks = []
    for k, f in enumerate(chosen.values()):
        of_truth, of_draws = f(truth), f(draws.x.flatten(0, 1))
        if of_truth.shape != (len(truth),) or of_draws.shape != (len(truth) * draws.n,):
            raise InputError(
                f"a statistic takes samples [M, *data] and returns [M], got {tuple(of_truth.shape)} for"
                f" {tuple(truth.shape)}"
            )
        ranks.append(_ranks(of_truth, of_draws.reshape(len(truth), draws.n), seed + k))
    return RankTest(np.stack(ranks, 1), draws.n, tuple(chosen), "low", level)


def tarp(
    draws: Draws, truth: Tensor, references: Tensor | None = None, *, level: float = 0.95, seed: int = 0
) -> RankTest:
    """Coverage with random points: how many samples are nearer to a random point than the truth is.

    The ball around the point, up to the truth, is a credible region of the posterior; the share of samples in it is
    its credibility, and `share` says how often the truth lies in regions of each credibility. Lemos et al. (2023),
    "Sampling-Based Accuracy Testing of Posterior Estimators for General Inference", https://arxiv.org/abs/2302.03026.
    It needs no density, and sees a wrong position where the points depend on it.

    Args:
        references: points [N, *data], independent of truth and samples given y. Default: the truth of another
            measurement each, at random.
    """
    _check(draws, truth)
    if references is None and len(truth) < 2:
        raise InputError("the reference of a measurement is the truth of another: give two measurements, or references")
    if references is None:
        order = torch.randperm(len(truth), generator=generator(seed, 31))
        references = truth[torch.empty_like(order).index_copy_(0, order, order.roll(1))]
    if references.shape != truth.shape:
        raise InputError(f"references have shape {tuple(references.shape)}, expected {tuple(truth.shape)}")
    own = (truth - references).flatten(1).norm(dim=1)
    others = (draws.x - references[:, None]).flatten(2).norm(dim=2)
    return RankTest(_ranks(own, others, seed)[:, None], draws.n, ("distance to a random point",), "sure", level)


def expected_coverage(
    draws: Draws, truth: Tensor, log_density: Callable[[Tensor], Tensor], *, level: float = 0.95, seed: int = 0
) -> RankTest:
    """Coverage of regions of highest density: how many samples are more probable than the truth.

    `share` says how often the truth lies in the region of highest density that holds each share of the samples. Hermans
    et al. (2022), "A Trust Crisis In Simulation-Based Inference? Your Posterior Approximations Can Be Unfaithful",
    https://arxiv.org/abs/2110.06581.

    Args:
        log_density: x [N, m, *data] -> log q(x | y_i) [N, m], up to a constant for each measurement: m values for each
            of the N measurements.
    """
    _check(draws, truth)
    own, others = log_density(truth[:, None])[:, 0], log_density(draws.x)
    if others.shape != draws.x.shape[:2]:
        raise InputError(f"log_density returned {tuple(others.shape)}, expected {tuple(draws.x.shape[:2])}")
    return RankTest(_ranks(-own, -others, seed)[:, None], draws.n, ("density",), "sure", level)


def _check(draws: Draws, truth: Tensor) -> None:
    if draws.log_weight is not None:
        raise InputError("ranks need samples that weigh the same: draw from the weighted ones by their weight first")
    if truth.shape != (len(draws), *draws.x.shape[2:]):
        raise InputError(
            f"truth has shape {tuple(truth.shape)}, expected {(len(draws), *draws.x.shape[2:])}: one for each"
            " measurement"
        )


def _plain(shape: tuple[int, ...], seed: int) -> dict[str, Statistic]:
    size = math.prod(shape)
    if size <= FEW:
        return {f"x[{i}]": lambda x, i=i: x.flatten(1)[:, i] for i in range(size)}  # type: ignore[misc]
    ways = torch.randn(3, size, generator=generator(seed, 32), dtype=torch.float32) / math.sqrt(size)
    return {
        "mean": lambda x: x.flatten(1).mean(1),
        "root mean square": lambda x: x.flatten(1).square().mean(1).sqrt(),
        **{f"direction {i + 1}": lambda x, w=w: x.flatten(1) @ w.to(x) for i, w in enumerate(ways)},  # type: ignore[misc]
    }


def _ranks(own: Tensor, others: Tensor, seed: int) -> np.ndarray:
    """Ranks [N] of own [N] among others [N, n]; ties are broken at random."""
    below, equal = (f(others, own[:, None]).sum(1).cpu().numpy() for f in (torch.lt, torch.eq))
    return below + np.random.default_rng([seed, 33]).integers(0, equal + 1)


# bands: the counts of ranks below 1, ..., n are binomial, each by itself; together, they are simulated


def _below(ranks: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(ranks, minlength=n + 1).cumsum()[:n]


@lru_cache(maxsize=8)
def _binomial(count: int, n: int) -> np.ndarray:
    """P(R <= r), [n, count + 2], of R ~ Bin(count, j / (n + 1)) for j = 1, ..., n, at r = -1, ..., count."""
    r = np.arange(count + 1)
    p = np.arange(1, n + 1)[:, None] / (n + 1)
    factorial = np.concatenate([[0.0], np.log(np.arange(1, count + 1)).cumsum()])
    log_pmf = factorial[count] - factorial[r] - factorial[count - r] + r * np.log(p) + (count - r) * np.log1p(-p)
    return np.concatenate([np.zeros((n, 1)), np.exp(log_pmf).cumsum(1).clip(max=1.0)], 1)


def _two_sided(counts: np.ndarray, cdf: np.ndarray) -> np.ndarray:
    """2 min(P(R <= r), P(R >= r)) at counts [..., n]."""
    rows = np.arange(cdf.shape[0])
    return 2 * np.minimum(cdf[rows, counts + 1], 1 - cdf[rows, counts])


@lru_cache(maxsize=8)
def simulated_minima(count: int, n: int) -> np.ndarray:
    """The least two-sided probability over all ranks, of `SIMULATIONS` sets of uniform ranks, sorted."""
    rng = np.random.default_rng(34)
    counts = rng.multinomial(count, np.full(n + 1, 1 / (n + 1)), SIMULATIONS).cumsum(1)[:, :n]
    return np.sort(_two_sided(counts, _binomial(count, n)).min(1))


def rank_band(count: int, n: int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), each [n]: the share of `count` uniform ranks below 1, ..., n lies within for all of them at once,
    with this probability at least.

    Säilynoja et al. (2022), section 2.2: pointwise binomial intervals, whose level is found by simulation.

    >>> low, high = rank_band(100, 3)
    >>> low.round(2).tolist(), high.round(2).tolist()
    ([0.15, 0.39, 0.65], [0.35, 0.61, 0.85])
    """
    minima = simulated_minima(count, n)
    gamma = minima[int((1 - level) * len(minima))]
    cdf = _binomial(count, n)
    inside = np.stack([_two_sided(np.full(n, r), cdf) for r in range(count + 1)], 1) >= gamma * (1 - 1e-12)
    return inside.argmax(1) / count, (count - inside[:, ::-1].argmax(1)) / count
