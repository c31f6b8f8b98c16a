"""Likelihoods p(y | x_0) and observations."""

from deft.likelihood.base import Likelihood, Observation
from deft.likelihood.event import Inside
from deft.likelihood.foreign import observation_from_deepinv
from deft.likelihood.gaussian import Gaussian

__all__ = ["Gaussian", "Inside", "Likelihood", "Observation", "observation_from_deepinv"]
