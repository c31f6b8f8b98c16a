"""h-transforms without parameters: guidance by a measurement, and exact ones."""

from deft.guidance.at_mean import MCG, DiffPIR, GradientAtMean, Pulled, Replacement, ScoreAtMean
from deft.guidance.covariance import MMPS, TMPD
from deft.guidance.exact import ExactInside, ExactMixture, Mixture
from deft.guidance.through_prior import DPS, PiGDM, ReconstructionGuidance
from deft.guidance.twist import Predictive, SeenNoisy

__all__ = [
    "DPS",
    "MCG",
    "MMPS",
    "TMPD",
    "DiffPIR",
    "ExactInside",
    "ExactMixture",
    "GradientAtMean",
    "Mixture",
    "PiGDM",
    "Predictive",
    "Pulled",
    "ReconstructionGuidance",
    "Replacement",
    "ScoreAtMean",
    "SeenNoisy",
]
