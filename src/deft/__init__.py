"""deft: conditional sampling from a frozen diffusion model by Doob's h-transform.

    prior (frozen) -> Prediction -> HTransform(y) -> corrected Prediction -> Sampler

`condition(prior, h, obs)` is a denoiser again; `sample` integrates any denoiser; `fit` trains any h that has
parameters. Start with `docs/start.md`.
"""

from __future__ import annotations

from deft.core.condition import condition
from deft.core.denoiser import Denoiser, Prediction, fingerprint, freeze
from deft.core.grid import times
from deft.core.htransform import HTransform, Potential
from deft.core.random import Noise
from deft.core.sampler import Sampler
from deft.core.schedule import Schedule
from deft.denoiser import NetworkDenoiser
from deft.errors import DeftError
from deft.guidance import DPS, PiGDM, ReconstructionGuidance
from deft.learned import DEFT
from deft.likelihood import Gaussian, Likelihood, Observation
from deft.operator import BlockAverage, Identity, Linear, LinearOperator, Mask, Matrix, Operator
from deft.samplers import DDIM, Ancestral, DPMpp2M, Heun, Ito, SDEDPMpp2M, sample, sample_posterior
from deft.schedule import EDM, VE, RectifiedFlow, VPCosine, VPLinear, VPTable
from deft.train.denoising import DenoisingObjective
from deft.train.fit import FitConfig, FitResult, fit
from deft.version import __version__

__all__ = [
    "DDIM",
    "DEFT",
    "DPS",
    "EDM",
    "VE",
    "Ancestral",
    "BlockAverage",
    "DPMpp2M",
    "DeftError",
    "Denoiser",
    "DenoisingObjective",
    "FitConfig",
    "FitResult",
    "Gaussian",
    "HTransform",
    "Heun",
    "Identity",
    "Ito",
    "Likelihood",
    "Linear",
    "LinearOperator",
    "Mask",
    "Matrix",
    "NetworkDenoiser",
    "Noise",
    "Observation",
    "Operator",
    "PiGDM",
    "Potential",
    "Prediction",
    "ReconstructionGuidance",
    "RectifiedFlow",
    "SDEDPMpp2M",
    "Sampler",
    "Schedule",
    "VPCosine",
    "VPLinear",
    "VPTable",
    "__version__",
    "condition",
    "fingerprint",
    "fit",
    "freeze",
    "sample",
    "sample_posterior",
    "times",
]
