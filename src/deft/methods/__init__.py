"""The methods: a table of what each is called, needs and is made of; and plans, a method with its settings.

`METHODS` (`table.py`) is read by the command line, by the reports and by the conformance tests: a row added there is
offered everywhere.
"""

from __future__ import annotations

import warnings
from typing import Any

from deft.methods.method import REQUIRES, SOLVERS, SPACES, WEIGHTED, Context, Draw, Method
from deft.methods.plan import TUNED, Plan, get_method, make_sampler, plan, sampler_options
from deft.methods.settings import NoSettings, Settings, setting
from deft.methods.table import BEST_SOLVER, METHODS, SCORE_FORM

__all__ = [
    "BEST_SOLVER",
    "METHODS",
    "REQUIRES",
    "SCORE_FORM",
    "SOLVERS",
    "SPACES",
    "TUNED",
    "WEIGHTED",
    "Context",
    "Draw",
    "Method",
    "NoSettings",
    "Plan",
    "Settings",
    "get_method",
    "make_sampler",
    "plan",
    "sampler_options",
    "setting",
]

RENAMED = {"Making": "Context", "NEEDS": "REQUIRES"}
"""Names of 0.1.0 -> of today."""


def __getattr__(name: str) -> Any:
    if name in RENAMED:
        warnings.warn(f"deft.methods.{name} is now deft.methods.{RENAMED[name]}", DeprecationWarning, stacklevel=2)
        return globals()[RENAMED[name]]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
