"""h-transforms with parameters."""

from deft.learned.base import Learned
from deft.learned.baselines import LEARNED, Amortised, FullTuning, LoRA, SideNetwork, kind_of
from deft.learned.classifier import ClassifierGuidance
from deft.learned.covariance import LearnedCovariance, WithCovariance
from deft.learned.deft import DEFT
from deft.learned.factory import Factory

__all__ = [
    "DEFT",
    "LEARNED",
    "Amortised",
    "ClassifierGuidance",
    "Factory",
    "FullTuning",
    "Learned",
    "LearnedCovariance",
    "LoRA",
    "SideNetwork",
    "WithCovariance",
    "kind_of",
]
