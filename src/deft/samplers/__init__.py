"""Samplers, time grids, and weights of paths."""

from deft.core.grid import SPACINGS, levels, times
from deft.core.sampler import ManyDraws, Sampler
from deft.kinds.draws import Diagnostics, Draws
from deft.samplers.conjugate import CPiGDM
from deft.samplers.daps import DAPS
from deft.samplers.diagnostics import ChainDiagnostics, ParticleDiagnostics, PathDiagnostics
from deft.samplers.draw import StepInfo, sample, sample_posterior
from deft.samplers.flower import Flower
from deft.samplers.hamiltonian import sample_hmc
from deft.samplers.imputation import Imputed
from deft.samplers.midpoint import MGPS
from deft.samplers.nullspace import DDNM
from deft.samplers.ode import DDIM, Cooled, DPMpp2M, Heun, KernelSampler
from deft.samplers.path import sample_paths, weighted_paths
from deft.samplers.refresh import Refresh
from deft.samplers.sde import Ancestral, Ito, SDEDPMpp2M
from deft.samplers.smc import adapted, sample_smc
from deft.samplers.spectral import DDRM
from deft.samplers.travel import TimeTravel
from deft.samplers.unipc import UniPC
from deft.samplers.variational import REDDiff

SAMPLERS: dict[str, type[Sampler]] = {
    "ddim": DDIM,
    "ancestral": Ancestral,
    "ito": Ito,
    "heun": Heun,
    "dpmpp-2m": DPMpp2M,
    "sde-dpmpp-2m": SDEDPMpp2M,
    "unipc": UniPC,
}
"""Name -> class, read by the command line and by the conformance tests."""

__all__ = [
    "DAPS",
    "DDIM",
    "DDNM",
    "DDRM",
    "MGPS",
    "SAMPLERS",
    "SPACINGS",
    "Ancestral",
    "CPiGDM",
    "ChainDiagnostics",
    "Cooled",
    "DPMpp2M",
    "Diagnostics",
    "Draws",
    "Flower",
    "Heun",
    "Imputed",
    "Ito",
    "KernelSampler",
    "ManyDraws",
    "ParticleDiagnostics",
    "PathDiagnostics",
    "REDDiff",
    "Refresh",
    "SDEDPMpp2M",
    "Sampler",
    "StepInfo",
    "TimeTravel",
    "UniPC",
    "adapted",
    "levels",
    "sample",
    "sample_hmc",
    "sample_paths",
    "sample_posterior",
    "sample_smc",
    "times",
    "weighted_paths",
]
