"""Noise schedules by name; what a schedule is stands in `deft.core.schedule`."""

from __future__ import annotations

from typing import Any

from deft.core.schedule import Rescaled, Schedule
from deft.errors import unknown
from deft.schedule.flow import RectifiedFlow
from deft.schedule.ve import EDM, VE
from deft.schedule.vp import VPCosine, VPLinear, VPTable

SCHEDULES: dict[str, type[Schedule]] = {c.name: c for c in (VPLinear, VPCosine, VPTable, VE, EDM, RectifiedFlow)}
"""Name -> class, read by the checkpoints and by the conformance tests."""


def make_schedule(config: dict[str, Any]) -> Schedule:
    """A schedule from {"name": ..., **config()}, as found in a card.

    >>> make_schedule({"name": "vp-linear", "beta_0": 0.1, "beta_1": 20.0})
    VPLinear(beta_0=0.1, beta_1=20.0)
    """
    options = dict(config)
    name = options.pop("name", "")
    if name == Rescaled.name:
        return Rescaled(make_schedule(options["inner"]), options["scale"])
    if name not in SCHEDULES:
        raise unknown("schedule", str(name), SCHEDULES)
    return SCHEDULES[name](**options)


__all__ = [
    "EDM",
    "SCHEDULES",
    "VE",
    "RectifiedFlow",
    "Rescaled",
    "Schedule",
    "VPCosine",
    "VPLinear",
    "VPTable",
    "make_schedule",
]
