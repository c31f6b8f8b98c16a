"""deft: conditional sampling from a frozen diffusion model by Doob's h-transform.

    prior (frozen) -> Prediction -> HTransform(y) -> corrected Prediction -> Sampler

`condition(prior, h, obs)` is a denoiser again; `sample` integrates any denoiser; `fit` trains any h that has
parameters. Start with `docs/start.md`.

Everything here is imported when it is first asked for: `import deft` itself takes no time, and `deft --help` needs no
PyTorch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from deft import _old_names
from deft.version import __version__

if TYPE_CHECKING:
    from deft import diagnose, methods, samplers, tasks, testing
    from deft.core.condition import condition
    from deft.core.denoiser import Denoiser, Prediction, fingerprint, freeze
    from deft.core.grid import times
    from deft.core.htransform import HTransform, Potential
    from deft.core.random import Noise
    from deft.core.sampler import Sampler
    from deft.core.schedule import Schedule
    from deft.denoiser import MeanDenoiser, NetworkDenoiser
    from deft.errors import DeftError
    from deft.guidance import DPS, MMPS, DiffPIR, PiGDM, ReconstructionGuidance
    from deft.guidance.combine import Clipped, Interval, Piecewise, Scaled, Sum
    from deft.io.h_files import load_covariance
    from deft.kinds.draws import Draws
    from deft.learned import DEFT
    from deft.likelihood import Gaussian, Likelihood, Observation, Poisson
    from deft.operator import BlockAverage, Identity, Linear, LinearOperator, Mask, Matrix, Operator
    from deft.prior import load_prior
    from deft.recipe import FittedH, Recipe, fit_h, load
    from deft.samplers import (
        DAPS,
        DDIM,
        Ancestral,
        DPMpp2M,
        Heun,
        Ito,
        SDEDPMpp2M,
        UniPC,
        sample,
        sample_posterior,
        sample_smc,
    )
    from deft.schedule import EDM, VE, RectifiedFlow, VPCosine, VPLinear, VPTable
    from deft.train.data import Clean, Pairs
    from deft.train.denoising import DenoisingObjective
    from deft.train.fit import FitConfig, FitResult, fit
    from deft.workflow.exporting import export

__all__ = [
    "DAPS",
    "DDIM",
    "DEFT",
    "DPS",
    "EDM",
    "MMPS",
    "VE",
    "Ancestral",
    "BlockAverage",
    "Clean",
    "Clipped",
    "DPMpp2M",
    "DeftError",
    "Denoiser",
    "DenoisingObjective",
    "DiffPIR",
    "Draws",
    "FitConfig",
    "FitResult",
    "FittedH",
    "Gaussian",
    "HTransform",
    "Heun",
    "Identity",
    "Interval",
    "Ito",
    "Likelihood",
    "Linear",
    "LinearOperator",
    "Mask",
    "Matrix",
    "MeanDenoiser",
    "NetworkDenoiser",
    "Noise",
    "Observation",
    "Operator",
    "Pairs",
    "PiGDM",
    "Piecewise",
    "Poisson",
    "Potential",
    "Prediction",
    "Recipe",
    "ReconstructionGuidance",
    "RectifiedFlow",
    "SDEDPMpp2M",
    "Sampler",
    "Scaled",
    "Schedule",
    "Sum",
    "UniPC",
    "VPCosine",
    "VPLinear",
    "VPTable",
    "__version__",
    "condition",
    "diagnose",
    "export",
    "fingerprint",
    "fit",
    "fit_h",
    "freeze",
    "load",
    "load_covariance",
    "load_prior",
    "methods",
    "sample",
    "sample_posterior",
    "sample_smc",
    "samplers",
    "tasks",
    "testing",
    "times",
]  # fmt: skip

_WHERE = {
    "core.condition": "condition",
    "core.denoiser": "Denoiser Prediction fingerprint freeze",
    "io.h_files": "load_covariance",
    "kinds.draws": "Draws",
    "core.grid": "times",
    "core.htransform": "HTransform Potential",
    "core.random": "Noise",
    "core.sampler": "Sampler",
    "core.schedule": "Schedule",
    "denoiser": "MeanDenoiser NetworkDenoiser",
    "errors": "DeftError",
    "guidance": "DPS MMPS DiffPIR PiGDM ReconstructionGuidance",
    "guidance.combine": "Clipped Interval Piecewise Scaled Sum",
    "learned": "DEFT",
    "likelihood": "Gaussian Likelihood Observation Poisson",
    "operator": "BlockAverage Identity Linear LinearOperator Mask Matrix Operator",
    "prior": "load_prior",
    "recipe": "FittedH Recipe fit_h load",
    "samplers": "DAPS DDIM Ancestral DPMpp2M Heun Ito SDEDPMpp2M UniPC sample sample_posterior sample_smc",
    "schedule": "EDM VE RectifiedFlow VPCosine VPLinear VPTable",
    "train.data": "Clean Pairs",
    "train.denoising": "DenoisingObjective",
    "train.fit": "FitConfig FitResult fit",
    "workflow.exporting": "export",
}
"""Module -> what of it is shown here. The imports above say the same to type checkers and editors; a test compares the
two."""

_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """What the table has, or a module of this package (`deft.testing`; an old one, too)."""
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(f"deft.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"deft.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"deft.{name}":
                raise
    raise AttributeError(f"module 'deft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Face(ModuleType):
    """This module, in which `from deft.sample import DDIM`, an old name, does not put a module in the place of the
    function `deft.sample`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE_OF and isinstance(value, _old_names.OldModule)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
_old_names.install()
