"""Samplers, time grids, and weights of paths."""

from deft.sample.base import ManyDraws, Sampler
from deft.sample.draw import sample, sample_posterior
from deft.sample.daps import DAPS
from deft.sample.hamiltonian import Chains, sample_hmc
from deft.sample.imputation import Imputed
from deft.sample.ode import DDIM, Cooled, DPMpp2M, Heun, KernelSampler
from deft.sample.path import Paths, sample_paths
from deft.sample.refresh import Refresh
from deft.sample.sde import Ancestral, Ito, SDEDPMpp2M
from deft.sample.smc import Particles, adapted, sample_smc
from deft.sample.spectral import DDRM
from deft.sample.times import SPACINGS, levels, times
from deft.sample.travel import TimeTravel
from deft.sample.variational import REDDiff

SAMPLERS: dict[str, type[Sampler]] = {
    "ddim": DDIM,
    "ancestral": Ancestral,
    "ito": Ito,
    "heun": Heun,
    "dpmpp-2m": DPMpp2M,
    "sde-dpmpp-2m": SDEDPMpp2M,
}
"""Name -> class, read by the command line and by the conformance tests."""

__all__ = [
    "DAPS", "DDIM", "DDRM", "SAMPLERS", "SPACINGS", "Ancestral", "Chains", "Cooled", "DPMpp2M", "Heun", "Imputed", "Ito", "KernelSampler", "ManyDraws",
    "Particles", "Paths", "REDDiff", "Refresh", "SDEDPMpp2M", "Sampler", "TimeTravel", "adapted", "levels", "sample", "sample_hmc", "sample_paths",
    "sample_posterior", "sample_smc", "times",
]
