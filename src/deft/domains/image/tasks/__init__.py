"""Tasks of images: clean x -> an observation of it, with a fresh operator and fresh noise each time.

`TASKS` is the table; `deft.io.tasks` asks every kind of data for its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deft.domains.image.tasks.base import ImageTask, Masked
from deft.domains.image.tasks.blur import CameraDeblur, GaussianDeblur, MotionDeblur
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

TASKS: dict[str, type[ImageTask]] = {
    t.name: t
    for t in (
        Inpaint,
        FreeForm,
        RandomPixels,
        Outpaint,
        SuperResolution,
        BicubicSuperResolution,
        HighDynamicRange,
        Phase,
        CameraDeblur,
        GaussianDeblur,
        MotionDeblur,
        Colourise,
        Denoise,
        Decompress,
        CompressedSensing,
        MRI,
        CoilMRI,
        CT,
        LimitedAngle,
        RayCT,
        LowLight,
    )
}
"""Name -> class: read by the command line, the comparison and the conformance tests."""

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
    task: ImageTask = task_from({**TASKS, Tilt.name: Tilt}, config)
    return task


__all__ = [
    "CT",
    "MRI",
    "PAPER",
    "TASKS",
    "BicubicSuperResolution",
    "CameraDeblur",
    "CoilMRI",
    "Colourise",
    "CompressedSensing",
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
    "Tilt",
    "get_task",
    "make_task",
]
