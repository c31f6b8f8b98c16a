"""Settings to try: every method may try as many settings, with as many calls of the prior, on validation images.

In two rounds, as one would by hand: first its own settings at its default sampler and spacing, then samplers and
spacings at the best of these. Nothing in the order of what is tried depends on results of other methods.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch

from deft.bench.studies import Entry, Tuning
from deft.core.random import generator
from deft.methods import METHODS, Plan, plan

SAMPLER_KEYS = ("sampler", "eta", "steps", "spacing")
MIN_STEPS = 4
"""Fewer steps are no run worth trying."""


def entry_plan(entry: Entry, changes: Mapping[str, object] | None = None, steps: int | None = None) -> Plan:
    """The entry's plan, with `changes` (its method's settings, sampler, eta, steps, spacing) where the entry does not
    fix them."""
    c = dict(changes or {})
    own = {k: v for k, v in c.items() if k not in SAMPLER_KEYS} | entry.settings
    chosen = {k: getattr(entry, k) if getattr(entry, k) is not None else c.get(k) for k in SAMPLER_KEYS}
    if chosen["sampler"] not in (None, "ddim"):
        chosen["eta"] = entry.eta  # no other sampler knows it
    if steps is not None and entry.steps is None:
        chosen["steps"] = steps
    return plan(entry.method, settings=own, **chosen)  # type: ignore[arg-type]


def steps_for(p: Plan, calls: int, samples: int = 1) -> int | None:
    """The most steps for which each of `samples` samples costs at most `calls` calls; None if that leaves fewer than
    four."""
    per = p.calls(samples) / p.make_sampler().calls(p.steps)  # particles, passes and runs multiply the sampler's calls
    steps = next((n for n in range(calls, 0, -1) if p.make_sampler().calls(n) * per <= calls * (1 + 1e-9)), None)
    return steps if steps is not None and steps >= MIN_STEPS else None


def points(
    entry: Entry, tuning: Tuning, *, steps: Sequence[int] | None = None, calls: int = 0, max_points: int | None = None
) -> list[Plan]:
    """The plans of the first round: the entry's defaults, then others of its method's own settings.

    With no settings of its own to try, samplers and spacings at once; else a third of `tuning.points` is kept for these
    (`further`). A plan that costs more calls than are left is passed over, so that a method with long runs tries fewer
    settings, not more calls.

    Args:
        steps: numbers of steps, in place of the tuning's.
        calls: as many steps as cost at most so many calls, as `Tuning.calls`.
        max_points: no more plans than this, and no account of calls.
    """
    own, solver = _grids(entry, tuning, steps, calls)
    first, size = [entry_plan(entry)] if steps is None else [], max_points or tuning.points
    if own and _size(solver) > 1 and max_points is None:
        size -= min(_size(solver) - 1, tuning.points // 3)
    grid = own or solver
    if own and steps is not None:
        grid = {**own, "steps": tuple(steps)}
    return _take(
        entry, first + list(_spread(entry, grid, tuning.seed, {})), tuning, calls, size, count=max_points is None
    )


def further(entry: Entry, tuning: Tuning, best: Plan, tried: Sequence[Plan]) -> list[Plan]:
    """The plans of the second round: samplers, spacings and steps, with the settings of the best plan of the first."""
    own, solver = _grids(entry, tuning, None, tuning.calls)
    if not own:
        return []
    spent = sum(p.calls(tuning.samples) for p in tried)
    found = _spread(entry, solver, tuning.seed, {k: v for k, v in best.settings.items() if k in own})
    return _take(entry, found, tuning, tuning.calls, tuning.points - len(tried), tried=tried, spent=spent)


def _grids(
    entry: Entry, tuning: Tuning, steps: Sequence[int] | None, calls: int
) -> tuple[dict[str, Sequence[object]], dict[str, Sequence[object]]]:
    """What the entry leaves open: its method's own settings, and those of the sampler."""
    open_ = METHODS[entry.method].choices()
    own = {k: v for k, v in open_.items() if k not in SAMPLER_KEYS and k not in entry.settings}
    solver = {k: v for k, v in open_.items() if k in SAMPLER_KEYS and getattr(entry, k) is None}
    if entry.steps is None and not calls:
        solver["steps"] = tuple(steps or tuning.steps)
    return own, solver


def _size(grid: Mapping[str, Sequence[object]]) -> int:
    size = 1
    for values in grid.values():
        size *= len(values)
    return size


def _spread(
    entry: Entry, grid: Mapping[str, Sequence[object]], seed: int, fixed: Mapping[str, object]
) -> Iterator[Plan]:
    """All plans of a grid, in such an order that the values of every key have been tried about equally often at any
    time.

    Next is always the plan whose values were tried least so far, over all keys; ties in an order that the seed alone
    decides.
    """
    plans = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    left = [plans[i] for i in torch.randperm(len(plans), generator=generator(seed, len(plans))).tolist()]
    used: Counter[tuple[str, str]] = Counter()
    while left:
        values = min(left, key=lambda v: sum(used[k, str(x)] for k, x in v.items()))
        left.remove(values)
        used.update((k, str(x)) for k, x in values.items())
        yield entry_plan(entry, {**fixed, **values})


def _take(
    entry: Entry,
    plans: Sequence[Plan] | Iterator[Plan],
    tuning: Tuning,
    calls: int,
    max_points: int,
    *,
    tried: Sequence[Plan] = (),
    spent: float = 0.0,
    count: bool = True,
) -> list[Plan]:
    """The first `max_points` different plans that the budget allows, at their number of calls; the very first whatever
    it costs."""
    out: list[Plan] = []
    seen = {_key(p) for p in tried}
    for candidate in plans:
        p: Plan | None = candidate
        if calls and entry.steps is None:
            p = _at_calls(candidate, calls, tuning.samples)
        if p is None or _key(p) in seen or len(out) >= max_points:
            continue
        cost = p.calls(tuning.samples)
        if count and spent + cost > tuning.budget and (out or tried):
            continue
        seen.add(_key(p))
        out.append(p)
        spent += cost
    return out


def _at_calls(p: Plan, calls: int, samples: int) -> Plan | None:
    steps = steps_for(p, calls, samples)
    if steps is None:
        return None
    c = p.config() | {"steps": steps}
    return plan(c.pop("method"), **c)


def _key(p: Plan) -> str:
    return json.dumps(p.config(), sort_keys=True)
