"""What an entry of a comparison did: its numbers, their intervals, how it stands to the others; and all of it as rows.

A row is one figure: task, method (the name of the entry), metric, value, low, high, n (cases), and seed (None: all
together). A row with `versus` is a paired difference over the same cases: method minus the one named there, with its
p-value and Holm's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deft.bench.statistics import Best, Interval, clustered, crossed, difference_p, holm, tied_for_best
from deft.errors import InputError
from deft.kinds.domain import Domain, Metric

Row = dict[str, Any]

LEVEL = 0.05
"""Of tests, after Holm's correction over the entries."""

COSTS: dict[str, Metric] = {
    m.key: m
    for m in (
        Metric("calls", "network calls", digits=0, about="of the prior, for one sample"),
        Metric("seconds", "seconds per sample", "low", 4, "wall clock of sampling, divided by the number of samples"),
        Metric("parameters", "parameters", digits=0, about="that were trained for the task"),
    )
}
"""What is measured of every kind of data."""


def metrics_of(domain: Domain) -> dict[str, Metric]:
    """The metrics of a kind of data, and `COSTS`, in the order of reports."""
    return {**domain.metrics(), **COSTS}


@dataclass
class Result:
    """What an entry did on a task.

    name: of the entry; title: for people. plan: with which it drew. values: metric -> [K, N], K seeds (or repeats) of N
    cases; none, if it `failed`, which says why. samples: of each case, where they are kept. figures: single numbers,
    such as costs.
    per_call: seconds of a call of the prior. about: goes into each of its rows. fits: how many fits of h there are, one
    of each seed or one in all. seeds: K numbers. devices: on which anything of it was computed.
    """

    name: str
    plan: Any = None
    values: dict[str, np.ndarray] = field(default_factory=dict)
    title: str = ""
    samples: Any = None
    failed: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    per_call: float = math.nan
    about: Row = field(default_factory=dict)
    fits: int = 0
    seeds: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.title = self.title or self.name

    @property
    def cases(self) -> int:
        return next((v.shape[1] for v in self.values.values()), 0)

    @property
    def seconds(self) -> float:
        return self.figures.get("seconds", math.nan)

    @property
    def before(self) -> float:
        """Seconds before the first sample: the fit, and what is done once for an operator."""
        return self.figures.get("fit_seconds", 0.0) + self.figures.get("once_seconds", 0.0)

    @property
    def refitted(self) -> bool:
        """Whether seeds are shared by all cases, because each has its own fit of h; else they are of one case's
        measurement and noise."""
        return self.fits > 1

    def interval(self, metric: str) -> Interval:
        return interval(self.values[metric], self.refitted)


def interval(values: np.ndarray, fits: bool) -> Interval:
    """Of the mean of values [seeds, cases]: by resampling cases, and each case's own seeds; fits are shared by all
    cases (`crossed`)."""
    return crossed(values) if fits and min(values.shape) > 1 else clustered(values)


def make_rows(
    results: Sequence[Result], metrics: Mapping[str, Metric], *, versus: str = "", **common: Any
) -> list[Row]:
    """All figures as rows: of each result, then the differences to `versus`. common: goes into each row.

    Raises:
        InputError: a value is not finite.
    """
    rows: list[Row] = []
    for r in results:
        base: Row = common | {"method": r.name} | r.about
        if r.failed:
            rows.append(
                base
                | {
                    "metric": "failed",
                    "value": None,
                    "low": None,
                    "high": None,
                    "n": 0,
                    "seed": None,
                    "why": r.failed,
                }
            )
            continue
        for metric, v in r.values.items():
            if not np.isfinite(v).all():
                raise InputError(
                    f"{metric} of {r.name} is not finite in {int((~np.isfinite(v)).sum())} of {v.size} cases: its"
                    " sampler diverged (smaller steps or a weaker guidance may help)"
                )
            over_seeds = {"seed_std": float(v.mean(1).std(ddof=1))} if len(v) > 1 else {}
            rows.append(base | {"metric": metric, "seed": None, **r.interval(metric)._asdict(), **over_seeds})
            if len(v) > 1:
                rows += [
                    base | {"metric": metric, "seed": s, **clustered(one[None])._asdict()}
                    for s, one in zip(r.seeds, v, strict=True)
                ]
        for metric, value in r.figures.items():
            rows.append(
                base | {"metric": metric, "value": value, "low": None, "high": None, "n": r.cases, "seed": None}
            )
    return rows + difference_rows(results, metrics, versus, **common)


def difference_rows(results: Sequence[Result], metrics: Mapping[str, Metric], versus: str, **common: Any) -> list[Row]:
    """Every entry minus `versus`, over the same cases and seeds; p-values by `difference_p`, Holm-corrected over the
    entries."""
    base = next((r for r in results if r.name == versus and r.values), None)
    rows: list[Row] = []
    for metric in metrics if base else ():
        assert base is not None
        others = [r for r in results if r is not base and metric in r.values and metric in base.values]
        differences = [r.values[metric] - base.values[metric] for r in others]
        p = [difference_p(d, fits=r.refitted or base.refitted) for r, d in zip(others, differences, strict=True)]
        for r, d, one, corrected in zip(others, differences, p, holm(p), strict=True):
            numbers = interval(d, r.refitted or base.refitted)._asdict()
            rows.append(
                common
                | {"method": r.name}
                | r.about
                | {"metric": metric, "versus": versus, "seed": None, **numbers, "p": one, "p_holm": float(corrected)}
            )
    return rows


def standing(row: Row, metric: Metric, title: str) -> str:
    """A paired difference in words, seen from the entry it is compared with, whose title this is; "" for a metric that
    has no better."""
    if not metric.better:
        return ""
    if row["p_holm"] >= LEVEL:
        return "level"
    return f"{title} ahead" if (row["value"] > 0) == (metric.better == "low") else f"{title} behind"


# who is best


def leading(results: Sequence[Result], metrics: Mapping[str, Metric]) -> Metric:
    """The metric that ranks entries: the first proper score that was measured, else the first that `leads`."""
    order = [m for m in metrics.values() if m.proper] + [m for m in metrics.values() if m.leads and not m.proper]
    return next((m for m in order if any(m.key in r.values for r in results)), order[0])


def right_value(metric: Metric, task: Any) -> float | None:
    """The value that is right, where neither more nor less is better."""
    if metric.target_of:
        found = getattr(task, metric.target_of, None)
        return None if found is None else float(found)
    return metric.target


def compared(results: Sequence[Result], metric: Metric, task: Any = None) -> Best | None:
    """The entry with the best mean and those that cannot be distinguished from it (`tied_for_best`); None for a metric
    that has no best.

    Where a value is right, and neither more nor less is better, the best mean is nearest to it: entries are compared by
    how far off they are, above or below.
    """
    has = {r.name: r.values[metric.key] for r in results if metric.key in r.values}
    target = right_value(metric, task)
    if not has or not (metric.better or target is not None):
        return None
    if target is not None:
        has = {name: (v - target) * (1 if v.mean() >= target else -1) for name, v in has.items()}
    return tied_for_best(has, metric.better or "low", fits={r.name for r in results if r.refitted})


# what it costs


def pays_after(more: float, saved: float) -> float:
    """After how many samples, each of which saves `saved` seconds, `more` seconds of fitting are paid for."""
    return 0.0 if more <= 0 and saved >= 0 else math.inf if saved <= 0 else max(0.0, more / saved)


def break_even(learned: Result, other: Result) -> float:
    """After how many samples a fit has paid for itself against another method; infinity if it never does."""
    return pays_after(learned.before - other.before, other.seconds - learned.seconds)


def total_seconds(r: Result, cases: int = 1000) -> float:
    return r.before + cases * r.seconds
