"""Likelihoods p(y | x_0) and observations."""

from deft.core.likelihood import Likelihood, Observation
from deft.likelihood.event import Inside
from deft.likelihood.external import observation_from_deepinv
from deft.likelihood.gaussian import Gaussian
from deft.likelihood.poisson import Poisson
from deft.likelihood.reward import Classifier, Reward
from deft.likelihood.unknown import Unknown

__all__ = [
    "Classifier",
    "Gaussian",
    "Inside",
    "Likelihood",
    "Observation",
    "Poisson",
    "Reward",
    "Unknown",
    "observation_from_deepinv",
]
