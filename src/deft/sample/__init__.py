"""Samplers, time grids, and weights of paths."""

from deft.sample.base import Sampler, sample, sample_posterior
from deft.sample.ode import DDIM, DPMpp2M, Heun, KernelSampler
from deft.sample.path import Paths, sample_paths
from deft.sample.sde import Ancestral, Ito
from deft.sample.times import SPACINGS, levels, times

SAMPLERS: dict[str, type[Sampler]] = {
    "ddim": DDIM,
    "ancestral": Ancestral,
    "ito": Ito,
    "heun": Heun,
    "dpmpp-2m": DPMpp2M,
}
"""Name -> class, read by the command line and by the conformance tests."""

__all__ = [
    "DDIM", "SAMPLERS", "SPACINGS", "Ancestral", "DPMpp2M", "Heun", "Ito", "KernelSampler", "Paths", "Sampler",
    "levels", "sample", "sample_paths", "sample_posterior", "times",
]
