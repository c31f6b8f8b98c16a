"""The h that come with the library, for commands that were given no run."""

from __future__ import annotations

from typing import Any

from deft.cli import common
from deft.cli.common import Output
from deft.core.denoiser import Denoiser
from deft.errors import CheckpointError, InputError
from deft.io.h_files import bundled_h
from deft.methods import METHODS
from deft.recipe.fitted import FittedH
from deft.recipe.fitted import load as load_fitted


def bundled_for(method: str, prior: Denoiser, name: str, task: Any, output: Output) -> FittedH | None:
    """The h of a bundled prior for a task, where the method needs one; None where it does not, or the prior is none of
    the bundled ones. name: of the prior.

    Raises:
        InputError: none comes with this prior for this task.
    """
    domain = common.domain_for(prior)
    if method not in METHODS or METHODS[method].learned != "deft" or name not in domain.bundled_priors():
        return None
    try:
        fitted = load_fitted(bundled_h(task.name, name), prior)
    except (InputError, CheckpointError):  # none for this task, or one of another prior
        there = [t for t in domain.bundled_h(name) if t in domain.tasks() and _fits(t, name, prior)]
        others = f", but for {', '.join(there)}" if there else ""
        raise InputError(
            f"{method} needs a fitted h, and none comes with the prior {name} for the task {task.name}{others}: make a"
            f" RUN with deft fit --prior {name} --task {task.name} --out RUN, or choose a training-free method"
        ) from None
    common.lowered(fitted.h)
    if task.config() != fitted.task.config():
        output.say(f"note: the bundled h was fitted to {fitted.task}, and this is {task}")
    return fitted


def _fits(task: str, name: str, prior: Denoiser) -> bool:
    try:
        load_fitted(bundled_h(task, name), prior)
    except (InputError, CheckpointError):
        return False
    return True


__all__ = ["bundled_for"]
