"""Tasks of images: clean x -> an observation of it, with a fresh operator and fresh noise each time.

A module of this folder names its tasks in a tuple `TASKS`; the table `TASKS` here has them all. `deft.io.tasks` asks
every kind of data for its own.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from deft.domains.image.tasks.base import ImageTask, Masked
from deft.domains.image.tasks.blur import CameraDeblur, GaussianDeblur, MotionDeblur
from deft.domains.image.tasks.chain import Chain, TaskTable, chain
from deft.domains.image.tasks.combined import DeblurInpaint, TwoViews
from deft.domains.image.tasks.fourier import MRI, CoilMRI, Phase
from deft.domains.image.tasks.holes import FreeForm, Inpaint, Outpaint, RandomPixels
from deft.domains.image.tasks.resolution import BicubicSuperResolution, SuperResolution
from deft.domains.image.tasks.tomography import CT, LimitedAngle, RayCT
from deft.domains.image.tasks.values import (
    Colourise,
    CompressedSensing,
    Decompress,
    Denoise,
    HighDynamicRange,
    LowLight,
)
from deft.kinds.records import task_from
from deft.likelihood.task import Drawn, Tilt

ORDER = ("holes", "resolution", "values", "fourier", "blur", "tomography", "combined")
"""Modules whose tasks are listed first; the very first task is the one that commands take where none is named."""


def _modules() -> list[str]:
    """The modules of this folder, those of `ORDER` first."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


TASKS = TaskTable(
    {
        task.name: task
        for module in _modules()
        for task in getattr(importlib.import_module(f"{__name__}.{module}"), "TASKS", ())
    }
)
"""Name -> class, of the rows `TASKS` of the modules in this folder: read by the command line, the comparison and the
conformance tests. A name "A+B" is A and then B."""

PAPER = ("inpaint-freeform", "sr4", "hdr", "phase", "deblur-nonlinear", "ct")
"""The paper's image tasks."""


def get_task(name: str, **options: Any) -> ImageTask:
    """A task of images by name, with some of its settings changed.

    >>> get_task("ct", angles=30).config()["angles"]
    30
    """
    task: ImageTask = task_from(TASKS, {"name": name, **options})
    return task


def make_task(config: Mapping[str, Any]) -> ImageTask:
    """A task of images, or a reward, from its `config()`."""
    task: ImageTask = task_from(Tilt if config.get("name") == Tilt.name else TASKS, config)
    return task


__all__ = [
    "CT",
    "MRI",
    "PAPER",
    "TASKS",
    "BicubicSuperResolution",
    "CameraDeblur",
    "Chain",
    "CoilMRI",
    "Colourise",
    "CompressedSensing",
    "DeblurInpaint",
    "Decompress",
    "Denoise",
    "Drawn",
    "FreeForm",
    "GaussianDeblur",
    "HighDynamicRange",
    "ImageTask",
    "Inpaint",
    "LimitedAngle",
    "LowLight",
    "Masked",
    "MotionDeblur",
    "Outpaint",
    "Phase",
    "RandomPixels",
    "RayCT",
    "SuperResolution",
    "TaskTable",
    "Tilt",
    "TwoViews",
    "chain",
    "get_task",
    "make_task",
]
