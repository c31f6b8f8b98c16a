"""The methods: a table of what each is called, needs and is made of; and plans, a method with its settings.

`METHODS` (`table.py`) is read by the command line, by the reports and by the conformance tests: a row added there is
offered everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deft._old_names import moved
from deft.methods.method import SOLVERS, SPACES, WEIGHTED, Context, Draw, Method
from deft.methods.plans import (
    TUNED,
    Plan,
    forward_only,
    get_method,
    make_sampler,
    no_gradient,
    plan,
    sampler_options,
    takes_eta,
)
from deft.methods.settings import NoSettings, Settings, setting
from deft.methods.table import BEST_SOLVER, METHODS, SCORE_FORM

__all__ = [
    "BEST_SOLVER",
    "METHODS",
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
    "forward_only",
    "get_method",
    "make_sampler",
    "no_gradient",
    "plan",
    "sampler_options",
    "setting",
    "takes_eta",
]

if not TYPE_CHECKING:
    __getattr__ = moved(__name__)
