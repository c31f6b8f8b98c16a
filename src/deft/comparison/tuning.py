"""Settings to try: every method gets the same number of calls of the prior to find its own best, on validation images."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence

import torch

from deft.comparison.config import Arm, Tuning
from deft.methods import METHODS, Plan, plan
from deft.random import generator

SAMPLER_KEYS = ("eta", "steps", "spacing")


def arm_plan(arm: Arm, changes: Mapping[str, object] | None = None, steps: int | None = None) -> Plan:
    """The arm's plan, with `changes` (its method's settings, eta, steps, spacing) where the arm does not fix them."""
    c = dict(changes or {})
    own = {k: v for k, v in c.items() if k not in SAMPLER_KEYS} | arm.settings
    chosen = {k: getattr(arm, k) if getattr(arm, k) is not None else c.get(k) for k in SAMPLER_KEYS}
    if steps is not None and arm.steps is None:
        chosen["steps"] = steps
    return plan(arm.method, settings=own, sampler=arm.sampler, **chosen)  # type: ignore[arg-type]


def points(arm: Arm, tuning: Tuning, *, steps: Sequence[int] | None = None, most: int | None = None) -> list[Plan]:
    """The plans an arm may try for its budget: its defaults first, then others in an order that depends on the seed alone.

    The grid is the method's own (`Method.grid`) times numbers of steps. A plan that costs more calls than are left is passed over,
    so that a method with long runs tries fewer settings, not more calls. `most`: no more plans than this.
    """
    method = METHODS[arm.method]
    grid: dict[str, Sequence[object]] = {k: v for k, v in method.grid.items() if k not in arm.settings}
    grid = {k: v for k, v in grid.items() if k not in SAMPLER_KEYS or getattr(arm, k) is None}
    if arm.steps is None:
        grid["steps"] = tuple(steps or tuning.steps)
    everything = [arm_plan(arm)] if steps is None else []
    everything += [arm_plan(arm, {**dict(zip(grid, values, strict=True))}) for values in itertools.product(*grid.values())]
    first, rest = everything[:1], everything[1:]
    order = torch.randperm(len(rest), generator=generator(tuning.seed, len(rest))).tolist()
    out: list[Plan] = []
    seen, left = set(), float(tuning.budget)
    for p in first + [rest[i] for i in order]:
        key, cost = json.dumps(p.config(), sort_keys=True), p.calls(tuning.samples) * tuning.samples
        if key in seen or (most is not None and len(out) >= most):
            continue
        if cost > left and out and most is None:
            continue
        seen.add(key)
        out.append(p)
        left -= cost
    return out
