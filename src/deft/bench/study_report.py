"""The report of a study: report.json (rows, see `deft.bench.result`, with prior, task and calls) and report.md, with
the pictures of `figures`."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deft.bench import figures
from deft.bench.report import Report, machine
from deft.bench.result import (
    Result,
    Row,
    break_even,
    compared,
    difference_rows,
    interval,
    leading,
    make_rows,
    metrics_of,
    pays_after,
    right_value,
    standing,
    total_seconds,
)
from deft.bench.run import Cell, Finished
from deft.bench.statistics import Interval, clustered
from deft.bench.store import Store
from deft.bench.studies import Study, tuned_by
from deft.bench.table import NONE, TIED, Table, capital, heading, listed, mark_of, number, times, with_interval
from deft.errors import InputError
from deft.kinds.domain import Metric
from deft.printing import singular
from deft.version import __version__

Metrics = Mapping[str, Metric]
Group = tuple[list[Cell], list[Result]]
"""The cells of a task of a setting, and what each came to."""

ALL = 1000
"""Samples for which total times are told."""


def result_of(study: Study, store: Store, cell: Cell) -> Result:
    """What a cell's jobs wrote."""
    drawn = [store.read(job, whole=True) for job in cell.draws.values()]
    fits = [store.read(job, whole=True) for job in cell.fits.values()]
    cost = store.read(cell.cost) if cell.cost and store.has(cell.cost) else {}
    failed = next((r["failed"] for r in drawn if "failed" in r), "")
    values = {} if failed else {k: np.array([r["per_image"][k] for r in drawn]) for k in drawn[0]["per_image"]}
    backward = float(np.mean([r.get("backward", math.nan) for r in drawn]))
    figures_: dict[str, float | None] = {
        "seconds": cost.get("seconds"),
        "once_seconds": cost.get("once"),
        "memory_mib": cost.get("memory_mib"),
        "backward": None if math.isnan(backward) else backward,
    }
    if fits:
        figures_ |= {
            "fit_seconds": float(np.mean([f["seconds"] for f in fits])),
            "parameters": fits[0]["parameters"],
            "share": fits[0]["share"],
        }
    return Result(
        cell.entry.name,
        cell.plan,
        values,
        cell.entry.label,
        failed=failed,
        figures={k: v for k, v in figures_.items() if v is not None},
        per_call=cost.get("seconds_per_call", math.nan),
        about={"calls": cell.plan.calls(study.samples)},
        fits=len(fits),
        seeds=tuple(cell.draws),
        devices=tuple(dict.fromkeys(str(r.get("device", "cpu")) for r in (*drawn, *([cost] if cost else [])))),
    )


def groups(study: Study, store: Store, done: Finished) -> dict[tuple[str, str], Group]:
    """(title of the setting, task) -> its cells and their results."""
    out: dict[tuple[str, str], Group] = {}
    for cell in done.cells:
        cells, results = out.setdefault((cell.on.title, cell.task.name), ([], []))
        cells.append(cell)
        results.append(result_of(study, store, cell))
    return out


def verdict(results: Sequence[Result], metrics: Metrics, versus: str = "") -> str:
    """One sentence on a task, from the numbers alone: who is best by the leading metric, who is level with it, by how
    much the next is behind."""
    metric = leading(results, metrics)
    best = compared(results, metric)
    if best is None:
        return ""
    by = {r.name: r for r in results if metric.key in r.values}
    first, d = by[best.best], metric.digits
    i = first.interval(metric.key)
    text = f"By {metric.title}, {first.title} is best ({number(i.value, d)} [{number(i.low, d)}, {number(i.high, d)}])"
    if len(by) > 1:
        level = [by[n].title for n in best.tied[1:]]
        text += f"; {listed(level)} cannot be distinguished from it" if level else "; no other entry is level with it"
    behind = sorted(
        (n for n in by if n not in best.tied),
        key=lambda n: abs(float((by[n].values[metric.key] - first.values[metric.key]).mean())),
    )
    for name in dict.fromkeys([*behind[:1], *(n for n in behind if n == versus)]):
        off = interval(by[name].values[metric.key] - first.values[metric.key], by[name].refitted or first.refitted)
        who = by[name].title
        text += (
            f"; {f'the next, {who},' if name == behind[0] else who} is behind it by {_distance(off, d)} (p"
            f" {best.p[name]:.2g})"
        )
    return text + "."


def _distance(i: Interval, digits: int) -> str:
    """A difference as a positive number with its interval."""
    return with_interval(i if i.value >= 0 else Interval(-i.value, -i.high, -i.low, i.n), digits)


# tables


def task_table(results: Sequence[Result], metrics: Metrics, task: Any = None, *, which: str = "main") -> Table | None:
    """A row an entry, best first. Bold: the best of a column; `TIED`: cannot be distinguished from it. which: of the
    metrics; the main ones come with costs."""
    shown = [m for m in metrics.values() if m.table == which and any(m.key in r.values for r in results)]
    if not shown:
        return None
    costs = which == "main"
    best = {m.key: compared(results, m, task) for m in shown}
    table = Table(
        "",
        *(heading(m, right_value(m, task)) for m in shown),
        *(("calls", "backward", "s a sample", "MiB", "fit (s)", "parameters") if costs else ()),
    )
    for r in in_order(results, metrics):
        cells = [
            with_interval(r.interval(m.key), m.digits, mark=mark_of(r.name, best[m.key])) if m.key in r.values else NONE
            for m in shown
        ]
        if r.failed:
            cells[0] = "diverged"
        table.add(r.title, *cells, *(_costs(r) if costs else ()))
    return table


def _costs(r: Result) -> list[str]:
    def cell(key: str, digits: int) -> str:
        return number(r.figures[key], digits) if key in r.figures else NONE

    seconds, share = (
        (NONE if math.isnan(r.seconds) else f"{r.seconds:.4f}"),
        (f"{100 * r.figures['share']:.1f} %" if "share" in r.figures else NONE),
    )
    return [
        number(r.about["calls"], 0),
        cell("backward", 0),
        seconds,
        cell("memory_mib", 0),
        cell("fit_seconds", 0),
        share,
    ]


def in_order(results: Sequence[Result], metrics: Metrics) -> list[Result]:
    """The best by the leading metric first; those that diverged last."""
    metric = leading(results, metrics)
    sign = -1 if metric.better == "high" else 1
    return sorted(results, key=lambda r: sign * r.values[metric.key].mean() if metric.key in r.values else math.inf)


def seeds_table(results: Sequence[Result], metrics: Metrics) -> tuple[str, Table | None]:
    """(a line, the leading metric seed by seed), where there is more than one."""
    metric = leading(results, metrics)
    has = [r for r in results if metric.key in r.values]
    if not has or len(has[0].seeds) < 2:
        return "", None
    table = Table("", "fits", *(f"seed {s}" for s in has[0].seeds), "standard deviation")
    for r in has:
        means = r.values[metric.key].mean(1)
        table.add(
            r.title,
            str(r.fits or ""),
            *(number(float(m), metric.digits) for m in means),
            number(float(means.std(ddof=1)), metric.digits + 1),
        )
    return (
        (
            f"{capital(metric.title)} by seed. A seed is one of masks, measurement noise and starting noise, and, where"
            " fits says so, of a fit of h; entries without a fit show what masks and noise alone do:"
        ),
        table,
    )


def pays_table(results: Sequence[Result], versus: str, things: str) -> tuple[str, Table | None]:
    """(a line, total seconds and break-even points of a learned h)."""
    learned = next((r for r in results if r.name == versus and r.fits), None)
    if learned is None or math.isnan(learned.seconds):
        return "", None
    table = Table("", f"{ALL:,} {things} (s)", "ratio", "break-even")
    mine = total_seconds(learned)
    for r in sorted((r for r in results if not math.isnan(r.seconds)), key=total_seconds):
        even = "" if r is learned else times(break_even(learned, r))
        table.add(r.title, f"{total_seconds(r):,.0f}", f"{total_seconds(r) / mine:.2f}", even)
    return (
        (
            f"Seconds for {ALL:,} {things}, one sample each, with the fit and what is done once for an operator, and"
            f" after how many samples {learned.title}'s fit has paid for itself:"
        ),
        table,
    )


def own_best_table(
    results: Sequence[Result], metrics: Metrics, curves: Sequence[Mapping[str, Any]], versus: str, things: str
) -> tuple[str, Table | None]:
    """Each entry at the number of calls that is best for it on its curve, however many, and what 1,000 cases cost it
    there."""
    metric = leading(results, metrics)
    sign = -1 if metric.better == "high" else 1
    found: dict[str, tuple[Mapping[str, Any], float]] = {}
    before = {r.name: r.before for r in results}
    for r in results:
        points = [row for row in curves if row["method"] == r.name and row["metric"] == metric.key]
        if points and not math.isnan(r.per_call):
            at = min(points, key=lambda row: sign * row["value"])
            found[r.name] = at, at["calls"] * r.per_call
    if versus not in found or len(found) < 2:
        return "", None
    _, mine = found[versus]
    mine_total = before[versus] + ALL * mine
    table = Table("", "calls", metric.title, f"{ALL:,} {things} (s)", "ratio", f"break-even of {versus}")
    for name, (at, seconds) in sorted(found.items(), key=lambda f: sign * f[1][0]["value"]):
        total = before[name] + ALL * seconds
        even = "" if name == versus else times(pays_after(before[versus] - before[name], seconds - mine))
        value = with_interval(Interval(at["value"], at["low"], at["high"], at["n"]), metric.digits)
        table.add(at["title"], f"{at['calls']:,.0f}", value, f"{total:,.0f}", f"{total / mine_total:.2f}", even)
    return "Each at the number of calls that is best for it on its curve, whatever it costs:", table


def differences_table(
    results: Sequence[Result], metrics: Metrics, versus: str, things: str
) -> tuple[str, Table | None]:
    """(a line, paired differences of the leading metric to `versus`)."""
    m = leading(results, metrics)
    rows = difference_rows(results, {m.key: m}, versus)
    if not rows:
        return "", None
    table = Table("", "difference", "p", "")
    for r in sorted(rows, key=lambda r: r["value"]):
        off = f"{r['value']:+.{m.digits}f} [{r['low']:+.{m.digits}f}, {r['high']:+.{m.digits}f}]"
        table.add(r["method"], off, f"{r['p_holm']:.3g}", standing(r, m, versus))
    return (
        f"{m.title}, each entry minus {versus} over the same {things} and seeds (95 % interval, p after Holm):",
        table,
    )


def summary_table(study: Study, found: Mapping[tuple[str, str], Group]) -> Table:
    """One line a task: who is best, and where `versus` stands, among the entries that do not retrain the prior."""
    things = study.on[0].domain.title
    table = Table(
        "prior",
        "task",
        "best or tied for best",
        study.versus,
        f"in total time for {ALL:,} {things}, the others over it",
    )
    for (prior, task), (cells, results) in found.items():
        metrics = metrics_of(cells[0].on.domain)
        free = [r for r in results if not r.plan.method.retrains]  # those that retrain the whole prior are a reference
        best = compared(free, leading(results, metrics), cells[0].task)
        names = best.tied if best else ()
        mine = next((r for r in results if r.name == study.versus), None)
        place = (
            NONE
            if mine is None
            else "best"
            if names[:1] == (mine.name,)
            else "tied for best"
            if mine.name in names
            else "behind"
        )
        ratio = ""
        if mine is not None and not math.isnan(mine.seconds):
            ratio = ", ".join(
                f"{r.name} {total_seconds(r) / total_seconds(mine):.1f}"
                for r in results
                if r is not mine and not math.isnan(r.seconds)
            )
        table.add(prior, task, ", ".join(names), place, ratio)
    return table


def tuning_table(cells: Sequence[Cell]) -> Table:
    """What each entry tried, what it found best, and its score there."""
    table = Table("", "tried", "found best", "on validation " + cells[0].on.domain.title)
    for c in cells:
        own = ", ".join(f"{k} {v:g}" for k, v in c.plan.settings.items())
        how = f"η {c.plan.eta:g}" if c.plan.sampler == "ddim" else c.plan.sampler
        words = f"{own + '; ' if own else ''}{c.plan.steps} steps, {how}, {c.plan.spacing}"
        if c.plan.method.sampler is not None:
            words = words.replace(f", η {c.plan.eta:g}", "")
        score = next((s for p, s in c.tried if p.config() == c.plan.config()), None)
        tried = str(len(c.tried)) if c.tried else f"as {c.entry.tuned_as}" if c.entry.tuned_as else "fixed"
        table.add(c.entry.label, tried, words, "" if score is None else f"{score:.4f}")
    return table


def curve_rows(store: Store, done: Finished) -> list[Row]:
    rows = []
    for c in done.cells:
        for n, (p, job) in c.curve.items():
            result = store.read(job)
            for m in [
                m.key for m in c.on.domain.metrics().values() if m.table and m.key in result.get("per_image", {})
            ]:
                i = clustered(np.array(result["per_image"][m])[None])
                rows.append(
                    {
                        "prior": c.on.title,
                        "task": c.task.name,
                        "method": c.entry.name,
                        "title": c.entry.label,
                        "metric": m,
                        "calls": result["calls"],
                        "at_most": n,
                        **i._asdict(),
                        "plan": p.config(),
                    }
                )
    return rows


# the report


def commit() -> str:
    """The commit of the source tree this runs from, or the version."""
    try:
        here = Path(__file__).resolve().parent
        text = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        text = ""
    return text or f"version {__version__}"


def write_study(study: Study, done: Finished, out: str | Path, *, command: str = "") -> dict[str, Any]:
    """Write report.json, report.md and the pictures; returns what report.json holds."""
    out = Path(out)
    store = Store(out)
    found = groups(study, store, done)
    rows: list[Row] = []
    verdicts = {}
    for (prior, task), (cells, results) in found.items():
        metrics = metrics_of(cells[0].on.domain)
        rows += make_rows(results, metrics, versus=study.versus, prior=prior, task=task)
        verdicts[prior, task] = verdict(results, metrics, study.versus)
    if not any("versus" not in r and r["metric"] != "failed" for r in rows):
        if not rows:
            raise InputError(f"{out} holds no results of this comparison: run it first, without --report")
        raise InputError("nothing to report: every entry diverged on every task")
    curves = curve_rows(store, done)
    data = {
        "title": study.title,
        "command": command or " ".join(sys.argv),
        "commit": commit(),
        "version": __version__,
        "machine": machine() | {"system": platform.platform(terse=True)},
        "images": study.images,
        "samples": study.samples,
        "seeds": list(study.seeds),
        "tuning": asdict(study.tune),
        "devices": _devices(store, done, found),
        "rows": rows,
        "curves": curves,
        "tuned": [
            {
                "prior": c.on.title,
                "task": c.task.name,
                "method": c.entry.name,
                "chosen": c.plan.config(),
                "tried": [p.config() | {"score": None if math.isnan(s) else s} for p, s in c.tried],
            }
            for c in done.cells
        ],
        "left_out": [{"prior": a, "task": b, "method": c, "why": d} for a, b, c, d in done.left_out],
        "failed": done.failed,
        "verdicts": [{"prior": prior, "task": task, "verdict": text} for (prior, task), text in verdicts.items()],
    }
    report = Report(study.title)
    _opening(report, study, data)
    report.table(summary_table(study, found))
    for (prior, task), (cells, results) in found.items():
        here = [c for c in curves if (c["prior"], c["task"]) == (prior, task)]
        report.heading(f"{prior}: {cells[0].task.title} (`{task}`)")
        report.text(verdicts[prior, task])
        _task(report, study, store, out, cells, results, here)
    _closing(report, study, data)
    report.write(out, data)
    return data


def _opening(report: Report, study: Study, data: Mapping[str, Any]) -> None:
    """How the study was made, and how its tables are read."""
    metrics = listed(list(dict.fromkeys(on.domain.metrics()[tuned_by(study.tune.metric, on)].title for on in study.on)))
    things = study.on[0].domain.title
    thing, at_most = (
        singular(things),
        (f", with at most {study.tune.calls} calls a sample" if study.tune.calls else ""),
    )
    report.text(f"`{data['command']}`, commit {data['commit']}, {_machine_text(data['machine'], data['devices'])}.")
    tuned = any(study.entries[name].tune for on in study.on for name in on.entries)
    settings = (
        f"Every entry found its settings on {study.tune.images} validation {things}, {study.tune.samples} samples of"
        f" each, by {metrics}: at most {study.tune.points} settings and {study.tune.budget} calls of the prior for each"
        f" {thing} and sample{at_most}."
    )
    report.text(
        f"{study.images} test {things}, {study.samples} samples of each, seeds {', '.join(map(str, study.seeds))}: the"
        f" same {things}, masks, measurement noise and starting noise for every entry."
        f" {settings if tuned else 'No entry was tuned: each has its own settings.'} Learned h have scale 1."
    )
    report.text(
        f"Intervals: 95 %, by resampling {things} and the seeds of each; where h was fitted with several seeds, from"
        f" the variance over {things} and over fits (Student's t). **Bold**: the best of its column. {TIED}: cannot be"
        f" distinguished from the best, by sign flips of paired differences over {things} and, where h was fitted with"
        " several seeds, also by that t-test (the larger p; Holm's correction over all pairs of entries, 5 %). Where a"
        " value is right, the best is nearest to it. Calls and backward: of the prior for one sample. Costs bear no"
        " such marks."
    )


def _task(
    report: Report,
    study: Study,
    store: Store,
    out: Path,
    cells: Sequence[Cell],
    results: Sequence[Result],
    curves: Sequence[Row],
) -> None:
    """The tables and pictures of a task."""
    domain, task, prior = cells[0].on.domain, cells[0].task, cells[0].on.title
    metrics, name = metrics_of(domain), f"{prior.replace(' ', '-')}-{cells[0].task.name}"
    report.table(task_table(results, metrics, task))
    report.table(task_table(results, metrics, task, which="further"), "Further metrics:")
    for line, table in (
        seeds_table(results, metrics),
        differences_table(results, metrics, study.versus, domain.title),
        pays_table(results, study.versus, domain.title),
        own_best_table(results, metrics, curves, study.versus, domain.title),
    ):
        report.table(table, line)
    survived = [c for c, r in zip(cells, results, strict=True) if not r.failed]
    report.picture(
        figures.wall(out / f"wall-{name}.png", store, study, task.title, survived),
        "truth, measurement, and a sample of each entry",
    )
    report.picture(
        figures.curves(out / f"curve-{name}.png", f"{prior}: {task.title}", curves, leading(results, metrics)),
        "quality against calls of the prior",
    )
    report.table(tuning_table(cells), "Settings:")


def _closing(report: Report, study: Study, data: Mapping[str, Any]) -> None:
    if data["left_out"]:
        report.heading("Left out")
        report.items([f"{r['method']} on {r['prior']}, {r['task']}: {r['why']}" for r in data["left_out"]])
    if data["failed"]:
        report.heading("Failed")
        report.text("These jobs are missing; the same command tries them again.")
        report.items([f"`{key}`: {why}" for key, why in data["failed"].items()])
    everything = {k: m for on in study.on for k, m in on.domain.metrics().items()}
    shown = {r["metric"] for r in data["rows"]}
    order = [m for which in ("main", "further") for m in everything.values() if m.table == which]
    report.measured([m for m in order if m.key in shown])


def _devices(store: Store, done: Finished, found: Mapping[tuple[str, str], Group]) -> dict[str, list[str]]:
    """What samples were drawn, and what costs were measured on."""
    costs = [str(store.read(c.cost).get("device", "cpu")) for c in done.cells if c.cost and store.has(c.cost)]
    drawn = [d for _, results in found.values() for r in results for d in r.devices]
    return {"samples": list(dict.fromkeys(drawn)), "costs": list(dict.fromkeys(costs))}


def _machine_text(m: Mapping[str, Any], devices: Mapping[str, Sequence[str]]) -> str:
    drawn, costs = (", ".join(devices[k]) or "nothing yet" for k in ("samples", "costs"))
    return (
        f"torch {m['torch']}, {m['cpu']}, {m['threads']} threads; samples drawn on {drawn}, seconds and memory measured"
        f" on {costs}"
    )


__all__ = ["groups", "result_of", "seeds_table", "task_table", "verdict", "write_study"]
