"""A comparison as tables: report.json (rows) and report.md, with the pictures of `figures`.

A row is one figure, as in `deft demo`: task, method (here: the arm), metric, value, low, high, n, and further prior, calls, seed (null:
all seeds together). A row with `versus` is a paired difference, with its p-value and Holm's.
"""

from __future__ import annotations

import math
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deft.bench import figures
from deft.bench.measure import METRICS, PROPER
from deft.bench.report import machine
from deft.bench.run import Cell, Plans
from deft.bench.statistics import Best, Interval, clustered, crossed, difference_p, holm, tied_for_best
from deft.bench.store import Store
from deft.bench.studies import Study, title_of, tuned_by
from deft.errors import InputError
from deft.io.files import write_json, write_text
from deft.version import __version__

Row = dict[str, Any]
LEVEL = 0.05
"""Of tests, after Holm's correction over the arms of a task."""

SHOWN = ("energy_score", "energy_score_pixels", "coverage", "spread_skill", "feature_distance", "psnr_mean", "psnr", "residual")
"""Columns of a task's table, where they were measured."""

FURTHER = ("crps", "top1", "perceptual_distance", "ssim", "diversity", "spread")
"""Columns of its second table."""

LEADING = (*PROPER, "feature_distance", "psnr_mean")
"""What ranks arms is the first of these that was measured: with two samples or more of each image a proper score."""

TIED = "≈"
"""Beside a number that cannot be told from the best of its column."""


def interval(values: np.ndarray, fits: bool) -> Interval:
    """Of the mean of values [seeds, images]: by resampling images, and each image's own seeds; fits are shared by all images (`crossed`)."""
    return crossed(values) if fits and min(values.shape) > 1 else clustered(values)


@dataclass
class Outcome:
    """What an arm did on a task: metric -> values [seeds, images] (empty if it diverged), and what it costs."""

    cell: Cell
    values: dict[str, np.ndarray]
    failed: str
    cost: dict[str, Any]
    fits: list[dict[str, Any]]
    backward: float = math.nan
    devices: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        return self.cell.arm.name

    @property
    def fit_seconds(self) -> float:
        return float(np.mean([f["seconds"] for f in self.fits])) if self.fits else 0.0

    @property
    def before(self) -> float:
        """Seconds before the first sample: the fit, and what is done once for an operator."""
        return self.fit_seconds + float(self.cost.get("once", 0.0))

    @property
    def refitted(self) -> bool:
        """Whether seeds are shared by all images, because each has its own fit of h; else they are of one image's mask and noise."""
        return len(self.fits) > 1

    def interval(self, values: np.ndarray) -> Interval:
        """Of the mean of values [seeds, images]."""
        return interval(values, self.refitted)

    @property
    def seconds(self) -> float:
        return float(self.cost.get("seconds", math.nan))


def outcome(study: Study, store: Store, cell: Cell) -> Outcome:
    results = [store.read(u) for u in cell.draws.values()]
    failed = next((r["failed"] for r in results if "failed" in r), "")
    values: dict[str, np.ndarray] = {}
    if not failed:
        values = {k: np.array([r["per_image"][k] for r in results]) for k in results[0]["per_image"]}
    cost = store.read(cell.cost) if cell.cost and store.has(cell.cost) else {}
    backward = float(np.mean([r.get("backward", math.nan) for r in results]))
    devices = tuple(dict.fromkeys(str(r.get("device", "cpu")) for r in (*results, *([cost] if cost else []))))
    return Outcome(cell, values, failed, cost, [store.read(u) for u in cell.fits.values()], backward, devices)


def groups(study: Study, store: Store, plans: Plans) -> dict[tuple[str, str], list[Outcome]]:
    """(title of the setting, task) -> the outcomes of its arms."""
    out: dict[tuple[str, str], list[Outcome]] = {}
    for cell in plans.cells:
        out.setdefault((cell.on.title, cell.task.name), []).append(outcome(study, store, cell))
    return out


def make_rows(study: Study, found: Mapping[tuple[str, str], Sequence[Outcome]]) -> list[Row]:
    rows: list[Row] = []
    for (prior, task), outcomes in found.items():
        for o in outcomes:
            base: Row = {"prior": prior, "task": task, "method": o.name, "calls": o.cell.plan.calls(study.samples)}
            if o.failed:
                rows.append(base | {"metric": "failed", "value": None, "low": None, "high": None, "n": 0, "seed": None, "why": o.failed})
                continue
            for metric, v in o.values.items():
                over_seeds = {"seed_std": float(v.mean(1).std(ddof=1))} if len(v) > 1 else {}
                rows.append(base | {"metric": metric, "seed": None, **o.interval(v)._asdict(), **over_seeds})
                if len(v) > 1:
                    for seed, one in zip(o.cell.draws, v, strict=True):
                        rows.append(base | {"metric": metric, "seed": seed, **clustered(one[None])._asdict()})
            single = {"seconds": o.cost.get("seconds"), "once_seconds": o.cost.get("once"), "memory_mib": o.cost.get("memory_mib")}
            single["backward"] = None if math.isnan(o.backward) else o.backward
            if o.fits:
                single |= {"fit_seconds": o.fit_seconds, "parameters": o.fits[0]["parameters"], "share": o.fits[0]["share"]}
            for metric, value in single.items():
                if value is not None:
                    rows.append(base | {"metric": metric, "value": value, "low": None, "high": None, "n": study.images, "seed": None})
        rows += _differences(study, prior, task, outcomes)
    return rows


def _differences(study: Study, prior: str, task: str, outcomes: Sequence[Outcome]) -> list[Row]:
    """Every arm minus `versus`, over the same images and seeds; p-values by `difference_p`, Holm-corrected over the arms."""
    base = next((o for o in outcomes if o.name == study.versus and o.values), None)
    rows: list[Row] = []
    for metric in METRICS if base else ():
        assert base is not None
        others = [o for o in outcomes if o is not base and metric in o.values and metric in base.values]
        differences = [o.values[metric] - base.values[metric] for o in others]
        p = [difference_p(d, fits=o.refitted or base.refitted) for o, d in zip(others, differences, strict=True)]
        for o, d, one, corrected in zip(others, differences, p, holm(p), strict=True):
            rows.append({
                "prior": prior, "task": task, "method": o.name, "metric": metric, "versus": base.name, "seed": None,
                "calls": o.cell.plan.calls(study.samples), **interval(d, o.refitted or base.refitted)._asdict(), "p": one, "p_holm": corrected,
            })  # fmt: skip
    return rows


def leading(study: Study, outcomes: Sequence[Outcome]) -> str:
    """The metric that ranks arms: the first of `LEADING` that was measured, the energy score where there is a feature network."""
    return next((m for m in LEADING if any(m in o.values for o in outcomes)), study.tune.metric)


def compared(outcomes: Sequence[Outcome], metric: str) -> Best | None:
    """The arm with the best mean and those that cannot be told from it (`tied_for_best`); None for a metric that has no best.

    Where a value is right, and neither more nor less is better, the best mean is nearest to it: arms are compared by how far off they
    are, above or below. The residual is right at the task's sigma_y.
    """
    has = {o.name: o.values[metric] for o in outcomes if metric in o.values}
    target = _target(outcomes, metric)
    if not has or not (METRICS[metric].better or target is not None):
        return None
    if target is not None:
        has = {name: (v - target) * (1 if v.mean() >= target else -1) for name, v in has.items()}
    return tied_for_best(has, METRICS[metric].better or "low", fits={o.name for o in outcomes if o.refitted})


def _target(outcomes: Sequence[Outcome], metric: str) -> float | None:
    if metric == "residual":
        return next((float(o.cell.task.sigma_y) for o in outcomes if hasattr(o.cell.task, "sigma_y")), None)
    return METRICS[metric].target


def best_of(outcomes: Sequence[Outcome], metric: str) -> tuple[str, ...]:
    """The arm with the best mean, then those that cannot be told from it."""
    found = compared(outcomes, metric)
    return found.tied if found else ()


def verdict(study: Study, outcomes: Sequence[Outcome]) -> str:
    """One sentence on a task, from the numbers alone: who is best by the leading metric, who is level with it, by how much the next is behind."""
    metric = leading(study, outcomes)
    best = compared(outcomes, metric)
    if best is None:
        return ""
    by = {o.name: o for o in outcomes if metric in o.values}
    first, d = by[best.best], METRICS[metric].digits
    i = first.interval(first.values[metric])
    text = f"By {METRICS[metric].title}, {title_of(first.cell.arm)} is best ({_number(i.value, d)} [{_number(i.low, d)}, {_number(i.high, d)}])"
    if len(by) > 1:
        level = [title_of(by[n].cell.arm) for n in best.tied[1:]]
        text += f"; {listed(level)} cannot be told from it" if level else "; no other arm is level with it"
    behind = sorted((n for n in by if n not in best.tied), key=lambda n: abs(float((by[n].values[metric] - first.values[metric]).mean())))
    for name in dict.fromkeys([*behind[:1], *(n for n in behind if n == study.versus)]):
        off = interval(by[name].values[metric] - first.values[metric], by[name].refitted or first.refitted)
        who = title_of(by[name].cell.arm)
        text += f"; {f'the next, {who},' if name == behind[0] else who} is behind it by {_range(off, d)} (p {best.p[name]:.2g})"
    return text + "."


def _range(i: Interval, digits: int) -> str:
    """A difference as a positive number with its interval."""
    low, high = (i.low, i.high) if i.value >= 0 else (-i.high, -i.low)
    return f"{_number(abs(i.value), digits)} [{_number(low, digits)}, {_number(high, digits)}]"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def break_even(learned: Outcome, other: Outcome) -> float:
    """After how many samples a fit has paid for itself against another method; infinity if it never does."""
    return pays_after(learned.before - other.before, other.seconds - learned.seconds)


def pays_after(more: float, saved: float) -> float:
    """After how many samples, each of which saves `saved` seconds, `more` seconds of fitting are paid for."""
    return 0.0 if more <= 0 and saved >= 0 else math.inf if saved <= 0 else max(0.0, more / saved)


def total_seconds(o: Outcome, images: int = 1000) -> float:
    return o.before + images * o.seconds


# ---------------------------------------------------------------- text


def _number(value: float, digits: int) -> str:
    return f"{value:,.0f}" if digits == 0 else f"{value:.{digits}f}"


def _cell(metric: str, i: Interval, name: str = "", best: Best | None = None) -> str:
    d = METRICS[metric].digits
    value = _number(i.value, d)
    if best is not None:
        value = f"**{value}**" if name == best.best else f"{value} {TIED}" if name in best.tied else value
    return f"{value} [{_number(i.low, d)}, {_number(i.high, d)}]"


def _count(value: float) -> str:
    return "never" if math.isinf(value) else "at once" if value == 0 else f"{math.ceil(value):,}"


def task_table(study: Study, outcomes: Sequence[Outcome], metrics: Sequence[str] = SHOWN, *, costs: bool = True) -> list[str]:
    """A row an arm, best first. Bold: the best of a column; `TIED`: cannot be told from it."""
    shown = [m for m in metrics if any(m in o.values for o in outcomes)]
    if not shown:
        return []
    best = {m: compared(outcomes, m) for m in shown}
    lines = ["| | " + " | ".join(_heading(m, outcomes) for m in shown) + (" | calls | backward | s a sample | MiB | fit (s) | parameters |" if costs else " |")]
    lines += ["|---" * (len(shown) + (7 if costs else 1)) + "|"]
    lead = leading(study, outcomes)
    sign = -1 if METRICS[lead].better == "high" else 1
    order = sorted(outcomes, key=lambda o: sign * o.values[lead].mean() if lead in o.values else math.inf)
    for o in order:
        cells = [_cell(m, o.interval(o.values[m]), o.name, best[m]) if m in o.values else "–" for m in shown]
        if o.failed:
            cells[0] = "diverged"
        memory = o.cost.get("memory_mib")
        spent = [
            _number(o.cell.plan.calls(study.samples), 0), "–" if math.isnan(o.backward) else _number(o.backward, 0), f"{o.seconds:.4f}" if not math.isnan(o.seconds) else "–",
            _number(memory, 0) if memory is not None else "–", _number(o.fit_seconds, 0) if o.fits else "–",
            f"{100 * o.fits[0]['share']:.1f} %" if o.fits else "–",
        ]  # fmt: skip
        lines.append(f"| {title_of(o.cell.arm)} | " + " | ".join(cells + (spent if costs else [])) + " |")
    return lines


def _heading(metric: str, outcomes: Sequence[Outcome]) -> str:
    target = _target(outcomes, metric)
    arrow = {"high": " ↑", "low": " ↓", "": ""}[METRICS[metric].better]
    return METRICS[metric].title + arrow + ("" if target is None else f" ({target:g} is right)")


def seeds_table(study: Study, outcomes: Sequence[Outcome]) -> list[str]:
    """The leading metric seed by seed, where there is more than one."""
    metric = leading(study, outcomes)
    has = [o for o in outcomes if metric in o.values]
    if not has or len(study.seeds) < 2:
        return []
    d = METRICS[metric].digits
    lines = [
        "", f"{METRICS[metric].title[0].upper()}{METRICS[metric].title[1:]} by seed. A seed is one of masks, measurement noise and starting noise, and, where fits says so, of a fit of h; arms without a fit show what masks and noise alone do:", "",
        "| | fits | " + " | ".join(f"seed {s}" for s in study.seeds) + " | standard deviation |", "|---" * (len(study.seeds) + 3) + "|",
    ]  # fmt: skip
    for o in has:
        means = o.values[metric].mean(1)
        lines.append(f"| {title_of(o.cell.arm)} | {len(o.fits) or ''} | " + " | ".join(_number(float(m), d) for m in means) + f" | {_number(float(means.std(ddof=1)), d + 1)} |")
    return lines


def pays_table(study: Study, outcomes: Sequence[Outcome]) -> list[str]:
    learned = next((o for o in outcomes if o.name == study.versus and o.fits), None)
    if learned is None or math.isnan(learned.seconds):
        return []
    lines = [
        "", f"Seconds for 1,000 images, one sample each, with the fit and what is done once for an operator, and after how many samples {title_of(learned.cell.arm)}'s fit has paid for itself:", "",
        "| | 1,000 images (s) | ratio | break-even |", "|---|---|---|---|",
    ]  # fmt: skip
    mine = total_seconds(learned)
    for o in sorted((o for o in outcomes if not math.isnan(o.seconds)), key=total_seconds):
        even = "" if o is learned else _count(break_even(learned, o))
        lines.append(f"| {title_of(o.cell.arm)} | {total_seconds(o):,.0f} | {total_seconds(o) / mine:.2f} | {even} |")
    return lines


def own_best_table(study: Study, outcomes: Sequence[Outcome], curves: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each arm at the number of calls that is best for it on its curve, however many, and what 1,000 images cost it there."""
    metric = leading(study, outcomes)
    sign = -1 if METRICS[metric].better == "high" else 1
    found: dict[str, tuple[Mapping[str, Any], float]] = {}
    before = {o.name: o.before for o in outcomes}
    for o in outcomes:
        points = [r for r in curves if r["method"] == o.name and r["metric"] == metric]
        if points and "seconds_per_call" in o.cost:
            at = min(points, key=lambda r: sign * r["value"])
            found[o.name] = at, at["calls"] * o.cost["seconds_per_call"]
    if study.versus not in found or len(found) < 2:
        return []
    _, mine = found[study.versus]
    mine_total = before[study.versus] + 1000 * mine
    lines = [
        "", "Each at the number of calls that is best for it on its curve, whatever it costs:", "",
        f"| | calls | {METRICS[metric].title} | 1,000 images (s) | ratio | break-even of {study.versus} |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, (at, seconds) in sorted(found.items(), key=lambda f: sign * f[1][0]["value"]):
        total = before[name] + 1000 * seconds
        even = "" if name == study.versus else _count(pays_after(before[study.versus] - before[name], seconds - mine))
        value = _cell(metric, Interval(at["value"], at["low"], at["high"], at["n"]))
        lines.append(f"| {at['title']} | {at['calls']:,.0f} | {value} | {total:,.0f} | {total / mine_total:.2f} | {even} |")
    return lines


def verdicts(study: Study, outcomes: Sequence[Outcome]) -> list[str]:
    """Paired differences to `versus` in words."""
    metric = leading(study, outcomes)
    rows = [r for r in _differences(study, "", "", outcomes) if r["metric"] == metric]
    if not rows:
        return []
    m = METRICS[metric]
    lines = ["", f"{m.title}, each arm minus {study.versus} over the same images and seeds (95 % interval, p after Holm):", "", "| | difference | p | |", "|---|---|---|---|"]
    for r in sorted(rows, key=lambda r: r["value"]):
        ahead = (r["value"] > 0) == (m.better == "low")
        word = "level" if r["p_holm"] >= LEVEL else f"{study.versus} ahead" if ahead else f"{study.versus} behind"
        lines.append(f"| {r['method']} | {r['value']:+.{m.digits}f} [{r['low']:+.{m.digits}f}, {r['high']:+.{m.digits}f}] | {r['p_holm']:.3g} | {word} |")
    return lines


def summary(study: Study, found: Mapping[tuple[str, str], Sequence[Outcome]]) -> list[str]:
    """One line a task: who is best, and where `versus` stands, among the arms that do not retrain the prior."""
    lines = ["| prior | task | best or tied for best | " + study.versus + " | in total time for 1,000 images, the others over it |", "|---|---|---|---|---|"]
    for (prior, task), outcomes in found.items():
        free = [o for o in outcomes if not o.cell.arm.about.retrains]  # those that retrain the whole prior are a reference
        names = best_of(free, leading(study, outcomes))
        mine = next((o for o in outcomes if o.name == study.versus), None)
        place = "–" if mine is None else "best" if names[:1] == [mine.name] else "tied for best" if mine.name in names else "behind"
        ratio = ""
        if mine is not None and not math.isnan(mine.seconds):
            ratio = ", ".join(f"{o.name} {total_seconds(o) / total_seconds(mine):.1f}" for o in outcomes if o is not mine and not math.isnan(o.seconds))
        lines.append(f"| {prior} | {task} | {', '.join(names)} | {place} | {ratio} |")
    return lines


def tuning_table(study: Study, outcomes: Sequence[Outcome]) -> list[str]:
    lines = ["", "| | tried | found best | on validation images |", "|---|---|---|---|"]
    for o in outcomes:
        c = o.cell
        own = ", ".join(f"{k} {v:g}" for k, v in c.plan.settings.items())
        how = f"η {c.plan.eta:g}" if c.plan.sampler == "ddim" else c.plan.sampler
        words = f"{own + '; ' if own else ''}{c.plan.steps} steps, {how}, {c.plan.spacing}"
        if c.plan.method.sampler is not None:
            words = words.replace(f", η {c.plan.eta:g}", "")
        score = next((s for p, s in c.tried if p.config() == c.plan.config()), None)
        tried = str(len(c.tried)) if c.tried else f"as {c.arm.tuned_as}" if c.arm.tuned_as else "fixed"
        lines.append(f"| {title_of(c.arm)} | {tried} | {words} | {'' if score is None else f'{score:.4f}'} |")
    return lines


def commit() -> str:
    """The commit of the source tree this runs from, or the version."""
    try:
        here = Path(__file__).resolve().parent
        text = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        text = ""
    return text or f"version {__version__}"


def write_report(study: Study, plans: Plans, out: str | Path, *, command: str = "") -> dict[str, Any]:
    """Write report.json, report.md and the pictures; returns what report.json holds."""
    out = Path(out)
    store = Store(out)
    found = groups(study, store, plans)
    rows = make_rows(study, found)
    if not any("versus" not in r and r["metric"] != "failed" for r in rows):
        raise InputError("nothing to report: every arm diverged on every task")
    about: dict[str, Any] = {
        "title": study.title, "command": command or " ".join(sys.argv), "commit": commit(), "version": __version__, "machine": machine() | {"system": platform.platform(terse=True)},
        "images": study.images, "samples": study.samples, "seeds": list(study.seeds), "tuning": asdict(study.tune), "devices": _devices(found),
    }  # fmt: skip
    grids = [
        {"prior": c.on.title, "task": c.task.name, "method": c.arm.name, "chosen": c.plan.config(), "tried": [p.config() | {"score": None if math.isnan(s) else s} for p, s in c.tried]}
        for c in plans.cells
    ]
    left_out = [{"prior": a, "task": b, "method": c, "why": d} for a, b, c, d in plans.left_out]
    curves = curve_rows(store, plans)
    report = {**about, "rows": rows, "curves": curves, "tuned": grids, "left_out": left_out, "failed": plans.failed, "verdicts": [
        {"prior": prior, "task": task, "verdict": verdict(study, outcomes)} for (prior, task), outcomes in found.items()
    ]}  # fmt: skip
    write_json(out / "report.json", report)

    metrics = listed(list(dict.fromkeys(METRICS[tuned_by(study.tune.metric, on)].title for on in study.on)))
    lines = [f"# {study.title}", "", f"`{about['command']}`, commit {about['commit']}, {_machine_text(about['machine'], about['devices'])}.", ""]
    lines += [
        f"{study.images} test images, {study.samples} samples of each, seeds {', '.join(map(str, study.seeds))}: the same images, masks, measurement noise and starting noise for every arm. "
        f"Every arm found its settings on {study.tune.images} validation images, {study.tune.samples} samples of each, by {metrics}: at most {study.tune.points} settings and "
        f"{study.tune.budget} calls of the prior for each image and sample{f', with at most {study.tune.calls} calls a sample' if study.tune.calls else ''}. "
        "Learned h have scale 1.", "",
        "Intervals: 95 %, by resampling images and each image's seeds; where h was fitted with several seeds, from the variance over images and over fits (Student's t). "
        f"**Bold**: the best of its column. {TIED}: cannot be told from the best, by sign flips of paired differences over images and, where h was fitted with several seeds, also by "
        "that t-test (the larger p; Holm's correction over all pairs of arms, 5 %). Where a value is right, the best is nearest to it. "
        "Calls and backward: of the prior for one sample. Costs bear no such marks.", "",
    ]  # fmt: skip
    lines += summary(study, found)
    for (prior, task), outcomes in found.items():
        lines += ["", f"## {prior}: {outcomes[0].cell.task.title} (`{task}`)", ""]
        name = f"{prior.replace(' ', '-')}-{task}"
        here = [c for c in curves if (c["prior"], c["task"]) == (prior, task)]
        lines += [verdict(study, outcomes), "", *task_table(study, outcomes)]
        more = task_table(study, outcomes, FURTHER, costs=False)
        lines += ["", "Further metrics:", "", *more] if more else []
        lines += seeds_table(study, outcomes) + verdicts(study, outcomes) + pays_table(study, outcomes) + own_best_table(study, outcomes, here)
        wall = figures.wall(out / f"wall-{name}.png", store, study, outcomes[0].cell.task.title, [o.cell for o in outcomes if not o.failed])
        if wall:
            lines += ["", f"![truth, measurement, and a sample of each arm]({wall.name})"]
        picture = figures.curves(out / f"curve-{name}.png", f"{prior}: {outcomes[0].cell.task.title}", here, leading(study, outcomes))
        if picture:
            lines += ["", f"![quality against calls of the prior]({picture.name})"]
        lines += ["", "Settings:", *tuning_table(study, outcomes)]
    if left_out:
        lines += ["", "## Left out", "", *(f"- {r['method']} on {r['prior']}, {r['task']}: {r['why']}" for r in left_out)]
    if plans.failed:
        lines += ["", "## Failed", "", "These pieces are missing; the same command tries them again.", "", *(f"- `{key}`: {why}" for key, why in plans.failed.items())]
    lines += ["", "## What is measured", "", *(f"- {METRICS[m].title}: {METRICS[m].about}" for m in (*SHOWN, *FURTHER) if any(r["metric"] == m for r in rows)), ""]
    write_text(out / "report.md", "\n".join(lines))
    return report


def curve_rows(store: Store, plans: Plans) -> list[Row]:
    rows = []
    for c in plans.cells:
        for n, (p, u) in c.curve.items():
            result = store.read(u)
            for m in (*SHOWN, *FURTHER):
                if m in result.get("per_image", {}):
                    i = clustered(np.array(result["per_image"][m])[None])
                    rows.append({"prior": c.on.title, "task": c.task.name, "method": c.arm.name, "title": title_of(c.arm), "metric": m, "calls": result["calls"], "at_most": n, **i._asdict(), "plan": p.config()})
    return rows


def _devices(found: Mapping[tuple[str, str], Sequence[Outcome]]) -> dict[str, list[str]]:
    """What samples were drawn, and what costs were measured on."""
    everything = [o for outcomes in found.values() for o in outcomes]
    costs = dict.fromkeys(str(o.cost.get("device", "cpu")) for o in everything if o.cost)
    return {"samples": list(dict.fromkeys(d for o in everything for d in o.devices)), "costs": list(costs)}


def _machine_text(m: Mapping[str, Any], devices: Mapping[str, Sequence[str]]) -> str:
    drawn, costs = (", ".join(devices[k]) or "nothing yet" for k in ("samples", "costs"))
    return f"torch {m['torch']}, {m['cpu']}, {m['threads']} threads; samples drawn on {drawn}, seconds and memory measured on {costs}"


__all__ = ["best_of", "break_even", "compared", "groups", "make_rows", "verdict", "write_report"]
