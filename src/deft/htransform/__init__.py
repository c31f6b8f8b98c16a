"""h-transforms: everything that conditioning adds to a score."""

from deft.htransform.base import Clipped, HTransform, Interval, Potential, Scaled, Sum, Wrapped, Zero
from deft.htransform.exact import ExactInside, ExactMixture, Mixture
from deft.htransform.guidance import DPS, PiGDM, ReconstructionGuidance
from deft.htransform.learned import DEFT

__all__ = [
    "DEFT", "DPS", "Clipped", "ExactInside", "ExactMixture", "HTransform", "Interval", "Mixture", "PiGDM",
    "Potential", "ReconstructionGuidance", "Scaled", "Sum", "Wrapped", "Zero",
]
