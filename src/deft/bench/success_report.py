"""A comparison of entries whose samples are good or not (`Domain.success`): shares with intervals, references first,
and which problems were solved.

report.json holds `rows`, an object for each reference and entry: how many samples, the numbers of `Domain.columns`, the
share of successes [value, low, high], how many problems have one, `Domain.variety` of the successes, and what a sample
costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deft.bench.figures import bars
from deft.bench.report import Report
from deft.bench.result import Result
from deft.bench.statistics import clustered
from deft.bench.table import NONE, Table, capital, side_by_side
from deft.kinds.domain import Cases, Domain
from deft.printing import singular

BY_NAME = 30
"""A report says how many samples pass of each problem, if there are no more than so many."""

Numbers = dict[str, Any]


class SuccessReport:
    """The report of a comparison while it is under way: `add` what is there, and it is rewritten.

    title: of the report. settings: a line. about: goes into report.json. batch: samples that were drawn at once. known:
    whether successes are compared with what was trained on, too.
    """

    def __init__(
        self,
        domain: Domain,
        cases: Cases,
        out: Path,
        *,
        title: str,
        settings: str,
        about: Mapping[str, Any],
        references: int,
        batch: int,
        known: bool = False,
    ):
        self.domain, self.cases, self.out, self.title, self.settings, self.about, self.batch, self.known = (
            domain,
            cases,
            out,
            title,
            settings,
            dict(about),
            batch,
            known,
        )
        self.references = {
            name: self.numbers(Result(name, values={k: v[None] for k, v in columns.items()}))
            for name, columns in domain.references(references).items()
        }
        self.rows: dict[str, Numbers] = dict(self.references)
        self.line = ""
        self.gaps: dict[str, list[float]] = {}

    @property
    def metric(self) -> str:
        return self.domain.success

    def numbers(self, result: Result) -> Numbers:
        """The row of a result."""
        values = {k: np.asarray(v, float) for k, v in result.values.items()}
        good = values[self.metric]
        out: Numbers = {self.domain.title: good.size}
        metrics = self.domain.metrics()
        for key in dict.fromkeys(k for column in self.domain.columns() for k in column.metrics):
            if key == self.metric:
                out[key] = list(clustered(good)[:3])
            elif key in values:
                out[key] = float(np.median(values[key]) if metrics[key].form == "median" else values[key].mean())
        if result.plan is None:  # a reference has no problems
            return out | {"cost": None}
        out["solved"], out["problems"] = int((good.sum(0) > 0).sum()), good.shape[1]
        out |= self.domain.variety([result.samples[i] for i in np.flatnonzero(good.ravel())], self.known)
        cost = {
            "calls": result.figures["calls"],
            "seconds": result.figures["seconds"],
            "mib": result.figures.get("memory_mib"),
        }
        return out | {"cost": cost}

    def add(self, results: Mapping[str, Result]) -> None:
        """Write the report of all results; the last of them is new."""
        name = list(results)[-1]
        self.rows[name] = self.numbers(results[name])
        self.line, self.gaps = differences(self.domain, results)
        report = Report(self.title)
        report.text(f"{self.settings}. {capital(self.domain.note)}.")
        report.table(self.table())
        report.text(
            f"Intervals: 95 %, bootstrap over problems, then {self.domain.title}. Seconds and MiB: of this machine, in"
            f" batches of {self.batch}."
        )
        report.text(self.line)
        if len(self.cases.problems) <= BY_NAME:
            report.table(
                by_problem(self.domain, self.cases, results), f"{capital(self.domain.title)} that pass, by problem:"
            )
        report.write(
            self.out,
            {
                **self.about,
                "settings": self.settings,
                "batch": self.batch,
                "rows": self.rows,
                "first_less_others": self.gaps,
                "note": self.domain.note,
            },
        )

    def table(self) -> Table:
        """A row for each reference and entry."""
        metrics, one = self.domain.metrics(), singular(self.domain.title)
        table = Table("", self.domain.title, *(c.title for c in self.domain.columns()), f"calls, s a {one}, MiB")
        for name, numbers in self.rows.items():
            cells = []
            for c in self.domain.columns():
                if c.of:
                    cells.append(f"{numbers[c.metrics[0]]} of {numbers[c.of]}" if c.of in numbers else "")
                else:
                    cells.append(side_by_side(numbers, [metrics[k] for k in c.metrics]))
            table.add(name, str(numbers[self.domain.title]), *cells, _cost(numbers["cost"]))
        return table

    def say(self, name: str) -> str:
        """A row in one line."""
        numbers, metrics = self.rows[name], self.domain.metrics()
        value, low, high = (100 * v for v in numbers[self.metric])
        solved = f", {numbers['solved']} of {numbers['problems']} problems" if "solved" in numbers else ""
        brief = ", ".join(f"{m.title} {side_by_side(numbers, [m])}" for m in metrics.values() if m.brief)
        return f"{name:<18} {metrics[self.metric].title} {value:5.1f} % [{low:.1f}, {high:.1f}]{solved}; {brief}"

    def picture(self) -> Path | None:
        """success.png: the shares of successes as bars; None without matplotlib."""
        label = f"{self.domain.metrics()[self.metric].title}, % of {self.domain.title}"
        shares = {name: numbers[self.metric] for name, numbers in self.rows.items()}
        return bars(
            self.out / "success.png",
            self.title,
            shares,
            label=label,
            grey=list(self.references),
            footer=self.domain.note,
        )


def _cost(cost: Mapping[str, Any] | None) -> str:
    if cost is None:
        return ""
    return f"{cost['calls']:.0f}, {cost['seconds']:.1f}, " + (NONE if cost["mib"] is None else f"{cost['mib']:.0f}")


def differences(domain: Domain, results: Mapping[str, Result]) -> tuple[str, dict[str, list[float]]]:
    """(a line, {entry: [difference, low, high]}): the first entry's share of successes less each other's, over the same
    cases."""
    first, *others = results
    good = {name: np.asarray(r.values[domain.success], float) for name, r in results.items()}
    found = {name: list(clustered(good[first] - good[name])[:3]) for name in others}
    words = ", ".join(
        f"{name} {100 * d:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" for name, (d, low, high) in found.items()
    )
    title = capital(domain.metrics()[domain.success].title)
    return (f"{title} of {first} less that of the others, in points, paired: {words}." if found else ""), found


def by_problem(domain: Domain, cases: Cases, results: Mapping[str, Result]) -> Table:
    """Of each problem, how many samples of each entry are good."""
    titles, cells = cases.about()
    table = Table("", *titles, *results)
    for i, name in enumerate(cases.problems):
        good = [np.asarray(r.values[domain.success])[:, i] for r in results.values()]
        table.add(name, *cells[i], *(f"{int(g.sum())} of {len(g)}" for g in good))
    return table


__all__ = ["SuccessReport", "by_problem", "differences"]
