"""Analytic truth, and checks for your own parts: worlds whose posterior is known, exact moments, `check_*`."""

from deft.testing.checks import check_htransform, check_likelihood, check_operator, check_sampler, schedules
from deft.testing.empirical import Empirical, EmpiricalPosterior, ExactEmpirical
from deft.testing.levy import LevyWorld, levy
from deft.testing.moments import flow, moments
from deft.testing.processes import Kernel, gaussian_process, matern, periodic, rbf
from deft.testing.stein import KernelStein, kernel_stein, posterior_stein
from deft.testing.worlds import (
    InsideWorld,
    MixtureWorld,
    Posterior,
    gaussian_chain,
    gaussian_field,
    gaussian_pairs,
    half_seen,
    sample_mixture,
    two_modes,
)

__all__ = [
    "Empirical",
    "EmpiricalPosterior",
    "ExactEmpirical",
    "InsideWorld",
    "Kernel",
    "KernelStein",
    "LevyWorld",
    "MixtureWorld",
    "Posterior",
    "check_htransform",
    "check_likelihood",
    "check_operator",
    "check_sampler",
    "flow",
    "gaussian_chain",
    "gaussian_field",
    "gaussian_pairs",
    "gaussian_process",
    "half_seen",
    "kernel_stein",
    "levy",
    "matern",
    "moments",
    "periodic",
    "posterior_stein",
    "rbf",
    "sample_mixture",
    "schedules",
    "two_modes",
]
