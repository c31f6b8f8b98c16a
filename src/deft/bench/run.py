"""Do all of a comparison: fits, then tuning, then the tables' samples, then the curves', then costs; then the report.

Pieces that are in the folder already are not done again. With `jobs` they are done by so many processes of this machine; several
machines, or a launcher's processes, share them by `part` of `parts` through a folder they all see. A piece that fails leaves a note in the
folder and the others go on; the same command tries it again.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from deft.bench.images import describe, images_of
from deft.bench.jobs import cost_unit, do, draw_unit, fit_unit, the_prior
from deft.bench.measure import METRICS
from deft.bench.store import Store, Unit
from deft.bench.studies import Arm, Setting, Study, tuned_by
from deft.bench.tuning import arm_plan, further, points, steps_for
from deft.core.denoiser import Denoiser
from deft.core.random import BatchNoise
from deft.domains.image.tasks import ImageTask, get_task
from deft.errors import InputError, LostError
from deft.likelihood import Likelihood
from deft.methods import METHODS, Plan

Say = Callable[[str], None]


@dataclass
class Cell:
    """An arm on a task of a setting: what was chosen, and the pieces its rows are read from."""

    on: Setting
    task: ImageTask
    arm: Arm
    plan: Plan
    fits: dict[int, Unit] = field(default_factory=dict)
    tried: list[tuple[Plan, float]] = field(default_factory=list)
    draws: dict[int, Unit] = field(default_factory=dict)
    curve: dict[int, tuple[Plan, Unit]] = field(default_factory=dict)
    cost: Unit | None = None


@dataclass
class Plans:
    """What `run_study` did, for the report: all cells; which arms were left out of which tasks, and why; pieces that failed, and why."""

    cells: list[Cell]
    left_out: list[tuple[str, str, str, str]]
    failed: dict[str, str] = field(default_factory=dict)


class Crew:
    """Those who do the work: this process, `jobs` of its children, or one of `parts` that share a folder; or nobody (`only_read`)."""

    def __init__(
        self, folder: Path, jobs: int = 1, part: int = 0, parts: int = 1, progress: bool = True, only_read: bool = False, device: str = "cpu", say: Say = lambda text: None,
    ):  # fmt: skip
        self.store, self.folder, self.jobs, self.part, self.parts = Store(folder), folder, jobs, part, parts
        self.progress, self.only_read, self.device, self.say = progress, only_read, device, say
        self.failed: dict[str, str] = {}

    def has(self, units: Iterable[Unit]) -> bool:
        return all(self.store.has(u) for u in units)

    def tried(self, units: Iterable[Unit]) -> bool:
        """Whether all are done or have failed, and not all have failed."""
        units = list(units)
        return not units or (any(self.store.has(u) for u in units) and all(self.store.has(u) or u.key in self.failed for u in units))

    def __call__(self, stage: str, units: Sequence[Unit], *, by_one: bool = False) -> None:
        """Do those of the units that are missing; returns when all are there. by_one: one process does them while all others wait."""
        units = list(dict.fromkeys(units))
        missing = self.store.missing(units)
        if self.only_read:
            return
        parts, jobs = (1, 1) if by_one else (self.parts, self.jobs)
        left = set(missing)
        mine = [u for i, u in enumerate(units) if i % parts == self.part and u in left]
        for u in mine:
            self.store.forgive(u)
        with tqdm(total=len(units), initial=len(units) - len(missing), desc=stage, unit="piece", disable=not self.progress) as bar:
            if jobs == 1 or len(mine) < 2:
                for u in mine:
                    bar.set_postfix_str(u.name[-40:])
                    do(u, self.folder, self.device)
                    bar.update()
            else:
                self._spread(mine, bar)
            if self.parts > 1:
                self._wait(units, bar)
        for u in self.store.missing(units):
            self.failed[u.key] = self.store.failure(u) or "not done"
            self.say(f"failed: {u.name}: {self.failed[u.key]}")

    def _spread(self, units: Sequence[Unit], bar: Any) -> None:
        context = multiprocessing.get_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,))
        try:
            waiting = {pool.submit(do, u, self.folder, self.device) for u in units}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    bar.update()
        except BrokenProcessPool as error:
            raise LostError("one of the processes died (out of memory? give fewer --jobs or a smaller batch); run the same command to go on") from error
        finally:
            for process in (pool._processes or {}).values():  # an error or Ctrl-C does not wait for what is under way
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)

    def _wait(self, units: Sequence[Unit], bar: Any) -> None:
        """Until the others' pieces are there as well, or have failed."""
        while missing := [u for u in self.store.missing(units) if self.store.failure(u) is None]:
            bar.n = len(units) - len(missing)
            bar.refresh()
            time.sleep(1.0)


def likelihood_of(task: ImageTask, event_shape: Sequence[int]) -> Likelihood:
    return task.observe(torch.zeros(1, *event_shape), BatchNoise(1, 0)).likelihood


def run_study(
    study: Study, out: str | Path, *, jobs: int = 1, part: int = 0, parts: int = 1, progress: bool = True, say: Say = lambda text: None,
    only_read: bool = False, device: str = "cpu",
) -> Plans:  # fmt: skip
    """Run what is missing of a comparison in the folder `out`; with `only_read` run nothing, and leave out what is not done yet.

    device: where priors and fitted h compute, "cpu" or "cuda". Images, masks and noise are made on the CPU in either case, so a piece's numbers
    differ by rounding alone; the device is written into its result and is no part of its key. With `jobs`, all processes share the one device.
    """
    crew = Crew(Path(out), jobs, part, parts, progress, only_read, device, say)
    cells, left_out = _cells(study)
    for line in left_out:
        say(f"left out: {line[2]} on {line[0]}, {line[1]}: {line[3]}")

    # 1. fits
    for c in cells:
        if c.arm.about.trained:
            wanted = [s for s in c.arm.fit.seeds if s in study.seeds] or c.arm.fit.seeds[:1]
            c.fits = {seed: fit_unit(c.on, c.task.config(), c.arm, seed) for seed in wanted}
    crew("fits", [u for c in cells for u in c.fits.values()])
    cells = [c for c in cells if crew.has(c.fits.values())]

    # 2. settings: the same number of calls for each; first a method's own, then samplers and spacings with the best of them
    cells = _tune(study, crew, cells, "tuning", lambda c: points(c.arm, study.tune, calls=study.tune.calls))
    cells = _tune(study, crew, cells, "tuning samplers", lambda c: further(c.arm, study.tune, c.plan, [p for p, _ in c.tried]))
    for c in cells:
        if c.arm.tuned_as:
            other = next((o for o in cells if o.on is c.on and o.task.name == c.task.name and o.arm.name == c.arm.tuned_as), None)
            if other is None and not only_read:
                raise InputError(f"{c.arm.name} is tuned as {c.arm.tuned_as}, which is not among the arms of {c.on.prior}, {c.task.name}")
            if other is not None:
                c.plan = arm_plan(c.arm, _changes(other.plan, c.arm))

    # 3. the tables
    for c in cells:
        c.draws = {seed: _test(study, c, seed) for seed in study.seeds}
    crew("samples", [u for c in cells for u in c.draws.values()])
    cells = [c for c in cells if crew.has(c.draws.values())]  # all seeds or none: another mean over seeds is no fair one

    # 4. quality against calls
    _curves(study, crew, cells)

    # 5. what it costs: one piece after the other, on the whole machine, so that ratios mean something
    for c in cells:
        c.cost = cost_unit(c.on, c.task.config(), c.arm, c.plan, _first(c.fits), study.batch)
    crew("costs", [c.cost for c in cells if c.cost], by_one=True)
    return Plans(cells, left_out, crew.failed)


def _tune(study: Study, crew: Crew, cells: Sequence[Cell], stage: str, plans: Callable[[Cell], list[Plan]]) -> list[Cell]:
    """Try the plans of every cell that is tuned, and choose the best of all that were tried; the cells that could be tuned."""
    tries = {id(c): [(p, _validation(study, c, p)) for p in plans(c)] for c in cells if _is_tuned(c)}
    crew(stage, [u for found in tries.values() for _, u in found])
    cells = [c for c in cells if c.tried or crew.tried(u for _, u in tries.get(id(c), ()))]
    for c in cells:
        metric, found = tuned_by(study.tune.metric, c.on), tries.get(id(c), [])
        c.tried += [(p, score(crew.store, u, metric)) for p, u in found if crew.store.has(u) or not crew.only_read]
        c.plan = best(c.tried, metric, c.plan)
    return cells


def _cells(study: Study) -> tuple[list[Cell], list[tuple[str, str, str, str]]]:
    cells: list[Cell] = []
    left_out = []
    for on in study.on:
        shape = image_shape(the_prior(on), on.prior)
        for split, wanted in {"test": max(study.images, study.curve.images if on.curve else 0), "validation": study.tune.images}.items():
            have = len(images_of(describe(on.source, (split,), shape), split, shape).x)
            if have < wanted:
                raise InputError(f"{on.prior}: the file asks for {wanted} {split} images, and there are {have}: give more, or lower images in the file or its [tune] or [curve]")
        for name in on.tasks:
            task = get_task(name, **study.task_options.get(name, {}))
            task.check(shape)
            likelihood = likelihood_of(task, shape)
            for arm_name in on.arms:
                arm = study.arms[arm_name]
                reason = METHODS[arm.method].why_unsupported(likelihood)
                if reason:
                    left_out.append((on.prior, name, arm_name, reason))
                    continue
                cell = Cell(on, task, arm, arm_plan(arm))
                if study.tune.calls and _is_tuned(cell) and not points(arm, study.tune, calls=study.tune.calls):
                    left_out.append((on.prior, name, arm_name, f"{cell.arm.about.title} takes more than {study.tune.calls} calls of the prior a sample"))
                    continue
                cells.append(cell)
    return cells, left_out


def image_shape(prior: Denoiser, name: str) -> tuple[int, int, int]:
    if len(prior.data_shape) != 3:
        raise InputError(f"a comparison is of images, and {name} makes samples of shape {tuple(prior.data_shape)}")
    c, h, w = prior.data_shape
    return c, h, w


def _is_tuned(c: Cell) -> bool:
    return c.arm.tune and c.arm.tuned_as is None


def _first(fits: dict[int, Unit]) -> Unit | None:
    return next(iter(fits.values()), None)


def _validation(study: Study, c: Cell, p: Plan, images: int | None = None, samples: int | None = None) -> Unit:
    t = study.tune
    return draw_unit(
        c.on, c.task.config(), c.arm, p, _first(c.fits), split="validation", images=images or t.images, samples=samples or t.samples,
        seed=t.seed, batch=study.batch,
    )  # fmt: skip


def _test(study: Study, c: Cell, seed: int) -> Unit:
    fitted = c.fits.get(seed, _first(c.fits))
    pictures = min(6, study.images) if seed == study.seeds[0] else 0
    return draw_unit(
        c.on, c.task.config(), c.arm, c.plan, fitted, split="test", images=study.images, samples=study.samples, seed=seed, batch=study.batch,
        pictures=pictures,
    )  # fmt: skip


def _curves(study: Study, crew: Crew, cells: Sequence[Cell]) -> None:
    wanted = [c for c in cells if c.task.name in (c.on.curve or ()) and (not study.curve.methods or c.arm.name in study.curve.methods)]
    k = study.curve
    tries: dict[tuple[int, int], list[tuple[Plan, Unit]]] = {}
    for c in wanted:
        for n in k.calls:
            steps = steps_for(c.plan, n, k.samples)
            if steps is None:
                continue
            again = [_at(c, steps), *points(c.arm, study.tune, steps=(steps,), most=k.points - 1)] if _is_tuned(c) and k.points > 1 else [_at(c, steps)]
            tries[id(c), n] = [(p, _validation(study, c, p, k.images, k.samples)) for p in again]
    crew("curve: tuning", [u for found in tries.values() for _, u in found if len(found) > 1])
    tries = {k: found for k, found in tries.items() if len(found) == 1 or crew.tried(u for _, u in found)}
    for c in wanted:
        for n in k.calls:
            found = tries.get((id(c), n))
            if not found:
                continue
            chosen = found[0][0]
            if len(found) > 1:
                metric = tuned_by(study.tune.metric, c.on)
                chosen = best([(p, score(crew.store, u, metric)) for p, u in found], metric, chosen)
            u = draw_unit(
                c.on, c.task.config(), c.arm, chosen, _first(c.fits), split="test", images=k.images, samples=k.samples, seed=study.seeds[0],
                batch=study.batch,
            )  # fmt: skip
            c.curve[n] = (chosen, u)
    crew("curve", [u for c in wanted for _, u in c.curve.values()])
    for c in wanted:
        c.curve = {n: found for n, found in c.curve.items() if crew.store.has(found[1])}


def _changes(p: Plan, arm: Arm) -> dict[str, object]:
    own = {k: v for k, v in p.settings.items() if k in METHODS[arm.method].settings}
    return {**own, "sampler": p.sampler, "eta": p.eta, "steps": p.steps, "spacing": p.spacing}


def _at(c: Cell, steps: int) -> Plan:
    return arm_plan(c.arm, {**_changes(c.plan, c.arm), "steps": steps})


def score(store: Store, u: Unit, metric: str) -> float:
    """The mean of a metric on a piece; NaN if the method diverged there, or the piece failed."""
    if not store.has(u):
        return math.nan
    result = store.read(u)
    values = result.get("per_image", {}).get(metric)
    if "failed" in result:
        return math.nan
    if values is None:
        raise InputError(f"nothing to tune by: {u.name} has no {metric}; it has {', '.join(result['per_image'])}")
    return sum(values) / len(values)


def best(tried: Sequence[tuple[Plan, float]], metric: str, otherwise: Plan) -> Plan:
    """The plan with the best mean; those that diverged never win."""
    sign = 1 if METRICS[metric].better == "low" else -1
    usable = [(sign * value, i) for i, (_, value) in enumerate(tried) if not math.isnan(value)]
    return tried[min(usable)[1]][0] if usable else otherwise
