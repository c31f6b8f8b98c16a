"""Do all of a study: fits, then tuning, then the tables' samples, then the curves', then costs.

Jobs that are in the folder already are not done again. With `jobs` they are done by so many processes of this machine;
several machines, or a launcher's processes, share them by `part` of `parts` through a folder they all see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from deft.bench.data import describe, samples_of
from deft.bench.jobs import cost_job, draw_job, fit_job, the_prior
from deft.bench.runner import Runner
from deft.bench.store import Job, Store
from deft.bench.studies import Entry, Setting, Study, tuned_by
from deft.bench.tuning import entry_plan, further, points, steps_for
from deft.core.denoiser import Denoiser
from deft.core.random import BatchNoise
from deft.errors import ContractError, InputError
from deft.kinds.domain import Metric, Task, domain_of
from deft.kinds.records import PairedData
from deft.likelihood import Likelihood
from deft.likelihood.unknown import UnknownTask
from deft.methods import METHODS, Plan
from deft.recipe.data import unknown_task
from deft.runtime.messages import log, old_messages


@dataclass
class Cell:
    """An entry on a task of a setting: what was chosen, and the jobs its rows are read from."""

    on: Setting
    task: Task
    entry: Entry
    plan: Plan
    fits: dict[int, Job] = field(default_factory=dict)
    tried: list[tuple[Plan, float]] = field(default_factory=list)
    draws: dict[int, Job] = field(default_factory=dict)
    curve: dict[int, tuple[Plan, Job]] = field(default_factory=dict)
    cost: Job | None = None


@dataclass
class Finished:
    """What `run_study` did, for the report: all cells; which entries were left out of which tasks, and why; jobs that
    failed, and why."""

    cells: list[Cell]
    left_out: list[tuple[str, str, str, str]]
    failed: dict[str, str] = field(default_factory=dict)


def likelihood_of(task: Task, event_shape: Sequence[int], title: str) -> Likelihood:
    """The likelihood of a task, tried on one sample of zeros before anything is computed.

    Raises:
        InputError: samples of this shape cannot be measured so.
    """
    if isinstance(task, UnknownTask):
        return task.check(event_shape).likelihood
    try:
        return task.observe(torch.zeros(1, *event_shape), BatchNoise(1, 0)).likelihood
    except (ContractError, InputError, RuntimeError) as error:
        raise InputError(
            f"the task {task.name} does not fit {title} of {'x'.join(map(str, event_shape))}: {error}"
        ) from error


@old_messages("say")
def run_study(
    study: Study, out: str | Path, *, jobs: int = 1, part: int = 0, parts: int = 1, progress: bool = True,
    only_read: bool = False, device: str = "cpu", trust_code: bool = False,
) -> Finished:  # fmt: skip
    """Run what is missing of a study in the folder `out`; with `only_read` run nothing, and leave out what is not done
    yet.

    device: where priors and fitted h compute, "cpu" or "cuda". Data, masks and noise are made on the CPU in either
    case, so a job's numbers differ by rounding alone; the device is written into its result and is no part of its key.
    With `jobs`, all processes share the one device.
    trust_code: an h that the study names (`fit.fitted`, `fit.start_from`) may name code of its own, which then runs.
    """
    runner = Runner(Path(out), jobs, part, parts, progress, only_read, device, trust_code)
    cells, left_out = _cells(study)
    for line in left_out:
        log.info(f"left out: {line[2]} on {line[0]}, {line[1]}: {line[3]}")

    # 1. fits
    for c in cells:
        if c.entry.about.trained:
            wanted = [s for s in c.entry.fit.seeds if s in study.seeds] or c.entry.fit.seeds[:1]
            c.fits = {seed: fit_job(c.on, c.task.config(), c.entry, seed) for seed in wanted}
    runner("fits", [job for c in cells for job in c.fits.values()])
    cells = [c for c in cells if runner.has(c.fits.values())]

    # 2. settings: the same number of calls for each; first a method's own, then samplers and spacings with the best of
    # them
    cells = _tune(study, runner, cells, "tuning", lambda c: points(c.entry, study.tune, calls=study.tune.calls))
    cells = _tune(
        study, runner, cells, "tuning samplers", lambda c: further(c.entry, study.tune, c.plan, [p for p, _ in c.tried])
    )
    for c in cells:
        if c.entry.tuned_as:
            other = next(
                (o for o in cells if o.on is c.on and o.task.name == c.task.name and o.entry.name == c.entry.tuned_as),
                None,
            )
            if other is None and not only_read:
                raise InputError(
                    f"{c.entry.name} is tuned as {c.entry.tuned_as}, which is not among the entries of {c.on.prior},"
                    f" {c.task.name}"
                )
            if other is not None:
                c.plan = entry_plan(c.entry, _changes(other.plan, c.entry))

    # 3. the tables
    for c in cells:
        c.draws = {seed: _test(study, c, seed) for seed in study.seeds}
    runner("samples", [job for c in cells for job in c.draws.values()])
    # all seeds or none: another mean over seeds is no fair one
    cells = [c for c in cells if runner.has(c.draws.values())]

    # 4. quality against calls
    _curves(study, runner, cells)

    # 5. what it costs: one piece after the other, on the whole machine, so that ratios mean something
    for c in cells:
        c.cost = cost_job(c.on, c.task.config(), c.entry, c.plan, _first(c.fits), study.batch)
    runner("costs", [c.cost for c in cells if c.cost], by_one=True)
    return Finished(cells, left_out, runner.failed)


def _tune(
    study: Study, runner: Runner, cells: Sequence[Cell], stage: str, plans: Callable[[Cell], list[Plan]]
) -> list[Cell]:
    """Try the plans of every cell that is tuned, and choose the best of all that were tried; the cells that could be
    tuned."""
    tries = {id(c): [(p, _validation(study, c, p)) for p in plans(c)] for c in cells if _is_tuned(c)}
    runner(stage, [job for found in tries.values() for _, job in found])
    cells = [c for c in cells if c.tried or runner.tried(job for _, job in tries.get(id(c), ()))]
    for c in cells:
        metric, found = _tuning_metric(study, c), tries.get(id(c), [])
        c.tried += [
            (p, score(runner.store, job, metric.key))
            for p, job in found
            if runner.store.has(job) or not runner.only_read
        ]
        c.plan = best(c.tried, metric, c.plan)
    return cells


def _cells(study: Study) -> tuple[list[Cell], list[tuple[str, str, str, str]]]:
    cells: list[Cell] = []
    left_out = []
    for on in study.on:
        shape, kind = event_shape(the_prior(on), on), on.domain.with_card(the_prior(on).card)
        for split, wanted in {
            "test": max(study.images, study.curve.images if on.curve else 0),
            "validation": study.tune.images,
        }.items():
            have = len(samples_of(kind, describe(kind, on.source, (split,), shape), split, shape))
            if have < wanted:
                raise InputError(
                    f"{on.prior}: the file asks for {wanted} {split} {kind.title}, and there are {have}: give more, or"
                    " lower images in the file or its [tune] or [curve]"
                )
        for name in on.tasks:
            task = (
                _unknown(on, shape)
                if on.unknown
                else kind.make_task({"name": name, **study.task_options.get(name, {})})
            )
            likelihood = likelihood_of(task, shape, kind.title)
            for entry_name in on.entries:
                entry = study.entries[entry_name]
                reason = METHODS[entry.method].why_unsupported(likelihood)
                if reason:
                    left_out.append((on.prior, name, entry_name, reason))
                    continue
                cell = Cell(on, task, entry, entry_plan(entry))
                if study.tune.calls and _is_tuned(cell) and not points(entry, study.tune, calls=study.tune.calls):
                    left_out.append(
                        (
                            on.prior,
                            name,
                            entry_name,
                            f"{cell.entry.about.title} takes more than {study.tune.calls} calls of the prior a sample",
                        )
                    )
                    continue
                cells.append(cell)
    return cells, left_out


def _unknown(on: Setting, shape: tuple[int, ...]) -> UnknownTask:
    """The task of the pairs that are fitted to."""
    prior = the_prior(on)
    domain = on.domain.with_card(prior.card)
    found = samples_of(domain, describe(domain, on.source, ("fit",), shape), "fit", shape)
    assert isinstance(found, PairedData)
    return unknown_task(prior, (found.x, found.y), pictures=found.pictures)


def event_shape(prior: Denoiser, on: Setting) -> tuple[int, ...]:
    """The shape of the prior's samples, which must be of the kind of data that the tasks are for."""
    found = domain_of(prior)
    if found is None or found.name != on.domain.name:
        raise InputError(
            f"{', '.join(on.tasks)}: a comparison of {on.domain.title}, and {on.prior} makes samples of shape"
            f" {tuple(prior.data_shape)}"
        )
    return tuple(prior.data_shape)


def _is_tuned(c: Cell) -> bool:
    return c.entry.tune and c.entry.tuned_as is None


def _first(fits: dict[int, Job]) -> Job | None:
    return next(iter(fits.values()), None)


def _validation(study: Study, c: Cell, p: Plan, images: int | None = None, samples: int | None = None) -> Job:
    t = study.tune
    return draw_job(
        c.on,
        c.task.config(),
        c.entry,
        p,
        _first(c.fits),
        split="validation",
        images=images or t.images,
        samples=samples or t.samples,
        seed=t.seed,
        batch=study.batch,
    )


def _test(study: Study, c: Cell, seed: int) -> Job:
    fitted = c.fits.get(seed, _first(c.fits))
    pictures = min(6, study.images) if seed == study.seeds[0] else 0
    return draw_job(
        c.on,
        c.task.config(),
        c.entry,
        c.plan,
        fitted,
        split="test",
        images=study.images,
        samples=study.samples,
        seed=seed,
        batch=study.batch,
        pictures=pictures,
    )


def _curves(study: Study, runner: Runner, cells: Sequence[Cell]) -> None:
    wanted = [
        c
        for c in cells
        if c.task.name in (c.on.curve or ()) and (not study.curve.methods or c.entry.name in study.curve.methods)
    ]
    k = study.curve
    tries: dict[tuple[int, int], list[tuple[Plan, Job]]] = {}
    for c in wanted:
        for n in k.calls:
            steps = steps_for(c.plan, n, k.samples)
            if steps is None:
                continue
            again = (
                [_at(c, steps), *points(c.entry, study.tune, steps=(steps,), max_points=k.points - 1)]
                if _is_tuned(c) and k.points > 1
                else [_at(c, steps)]
            )
            tries[id(c), n] = [(p, _validation(study, c, p, k.images, k.samples)) for p in again]
    runner("curve: tuning", [job for found in tries.values() for _, job in found if len(found) > 1])
    tries = {k: found for k, found in tries.items() if len(found) == 1 or runner.tried(job for _, job in found)}
    for c in wanted:
        for n in k.calls:
            found = tries.get((id(c), n))
            if not found:
                continue
            chosen = found[0][0]
            if len(found) > 1:
                metric = _tuning_metric(study, c)
                chosen = best([(p, score(runner.store, job, metric.key)) for p, job in found], metric, chosen)
            job = draw_job(
                c.on,
                c.task.config(),
                c.entry,
                chosen,
                _first(c.fits),
                split="test",
                images=k.images,
                samples=k.samples,
                seed=study.seeds[0],
                batch=study.batch,
            )
            c.curve[n] = (chosen, job)
    runner("curve", [job for c in wanted for _, job in c.curve.values()])
    for c in wanted:
        c.curve = {n: found for n, found in c.curve.items() if runner.store.has(found[1])}


def _changes(p: Plan, entry: Entry) -> dict[str, object]:
    own = {k: v for k, v in p.settings.items() if k in METHODS[entry.method].settings}
    return {**own, "sampler": p.sampler, "eta": p.eta, "steps": p.steps, "spacing": p.spacing}


def _at(c: Cell, steps: int) -> Plan:
    return entry_plan(c.entry, {**_changes(c.plan, c.entry), "steps": steps})


def _tuning_metric(study: Study, c: Cell) -> Metric:
    return c.on.domain.metrics()[tuned_by(study.tune.metric, c.on)]


def score(store: Store, job: Job, metric: str) -> float:
    """The mean of a metric on a piece; NaN if the method diverged there, or the piece failed."""
    if not store.has(job):
        return math.nan
    result = store.read(job)
    values = result.get("per_image", {}).get(metric)
    if "failed" in result:
        return math.nan
    if values is None:
        raise InputError(f"nothing to tune by: {job.name} has no {metric}; it has {', '.join(result['per_image'])}")
    return sum(values) / len(values)


def best(tried: Sequence[tuple[Plan, float]], metric: Metric, otherwise: Plan) -> Plan:
    """The plan with the best mean; those that diverged never win."""
    sign = 1 if metric.better == "low" else -1
    usable = [(sign * value, i) for i, (_, value) in enumerate(tried) if not math.isnan(value)]
    return tried[min(usable)[1]][0] if usable else otherwise
