"""Networks and functions as denoisers; what a denoiser is stands in `deft.core.denoiser`."""

from deft.core.denoiser import Denoiser
from deft.denoiser.network import MeanDenoiser, NetworkDenoiser
from deft.denoiser.tiled import Tiled

__all__ = ["Denoiser", "MeanDenoiser", "NetworkDenoiser", "Tiled"]
