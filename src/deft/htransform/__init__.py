"""h-transforms: everything that conditioning adds to a score."""

from deft.htransform.alternatives import LEARNED, Amortised, FullTuning, LoRA, SideNetwork, kind_of
from deft.htransform.base import Clipped, HTransform, Interval, Potential, Scaled, Sum, Wrapped, Zero
from deft.htransform.classifier import ClassifierGuidance
from deft.htransform.covariance import MMPS, TMPD
from deft.htransform.exact import ExactInside, ExactMixture, Mixture
from deft.htransform.field import MCG, DiffPIR, GradientAtMean, Pulled, Replacement, ScoreAtMean
from deft.htransform.guidance import DPS, PiGDM, ReconstructionGuidance
from deft.htransform.learnable import Learned
from deft.htransform.learned import DEFT
from deft.htransform.twist import Predictive, SeenNoisy

__all__ = [
    "DEFT", "DPS", "LEARNED", "MCG", "MMPS", "TMPD", "Amortised", "ClassifierGuidance", "Clipped", "DiffPIR",
    "ExactInside", "ExactMixture", "FullTuning", "GradientAtMean", "HTransform", "Interval", "Learned", "LoRA",
    "Mixture", "PiGDM", "Potential", "Predictive", "Pulled", "ReconstructionGuidance", "Replacement", "Scaled",
    "ScoreAtMean", "SeenNoisy", "SideNetwork", "Sum", "Wrapped", "Zero", "kind_of",
]
