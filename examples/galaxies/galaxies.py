"""Galaxies: a prior that nobody here trained, from the package galaxygrad (Sampson et al. 2024, arXiv 2401.07313).

    pip install --no-deps galaxygrad==0.1.9          # the weights; JAX is not needed to read them
    deft prior inspect examples/galaxies/galaxies.py:hsc64

ScoreNet is an MLP-mixer (Tolstikhin et al. 2021) on patches of 4 x 4 pixels whose output is the score, trained on
galaxies of the Hyper Suprime-Cam survey under the VP process with beta = 1 on t in [0, 10]. Its data are log(flux +
1)/0.1. The package states no
licence: nothing of it is copied here, the weights are read where pip put them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import deft
from deft.errors import InputError
from deft.prior import wrap

T1 = 10.0
RANGE = (0.0, 10.0)
"""What -1 and 1 stand for, in units of log(flux + 1)/0.1: the sky and the bright middle of a galaxy."""


class MixerBlock(nn.Module):
    """Mixing along the patches, then along the channels, each with a norm over both and a skip (Tolstikhin et al.
    2021)."""

    def __init__(self, patches: int, channels: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm((channels, patches))
        self.along_patches = nn.Sequential(nn.Linear(patches, hidden), nn.ReLU(), nn.Linear(hidden, patches))
        self.norm2 = nn.LayerNorm((patches, channels))
        self.along_channels = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.along_patches(self.norm1(x))
        turned = x.mT
        return (turned + self.along_channels(self.norm2(turned))).mT


class ScoreNet(nn.Module):
    """grad log p_t(x), told t in [0, 10]: [B, 1, side, side] -> the same."""

    def __init__(self, side: int, patch: int = 4, channels: int = 64, hidden: int = 512, blocks: int = 4):
        super().__init__()
        self.inlet = nn.Conv2d(2, channels, patch, patch)
        self.blocks = nn.ModuleList(MixerBlock((side // patch) ** 2, channels, hidden) for _ in range(blocks))
        self.norm = nn.LayerNorm((channels, (side // patch) ** 2))
        self.outlet = nn.ConvTranspose2d(channels, 1, patch, patch)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        level = (t / T1).reshape(-1, 1, 1, 1).expand_as(x)
        hidden = self.inlet(torch.cat([x, level], 1))
        tokens = hidden.flatten(2)
        for block in self.blocks:
            tokens = block(tokens)
        return self.outlet(self.norm(tokens).unflatten(2, hidden.shape[2:]))


def read(path: Path, net: ScoreNet) -> ScoreNet:
    """Arrays stored one after another as numpy saves them, in the order of equinox's tree; shapes are checked."""
    inlet, outlet = [net.inlet.weight, net.inlet.bias], [net.outlet.weight, net.outlet.bias]
    order = inlet + outlet
    for block in net.blocks:
        for layers in (block.along_patches, block.along_channels):
            order += [layers[0].weight, layers[0].bias, layers[2].weight, layers[2].bias]
        order += [block.norm1.weight, block.norm1.bias, block.norm2.weight, block.norm2.bias]
    order += [net.norm.weight, net.norm.bias]
    with path.open("rb") as file, torch.no_grad():
        for i, parameter in enumerate(order):
            array = torch.from_numpy(np.load(file, allow_pickle=False).astype(np.float32))
            if parameter is net.outlet.weight:  # equinox: [out, in, h, w], and the kernel the other way round
                array = array.transpose(0, 1).flip(2, 3)
            array = array.reshape(parameter.shape) if array.numel() == parameter.numel() and array.ndim == 3 else array
            if array.shape != parameter.shape:
                raise InputError(
                    f"{path}: array {i} has shape {tuple(array.shape)}, expected {tuple(parameter.shape)}: another"
                    " version?"
                )
            parameter.copy_(array)
        t1 = float(np.load(file, allow_pickle=False))
        if t1 != T1 or file.read(1):
            raise InputError(f"{path} does not end where it should (t1 = {t1}): another version?")
    return net


def ten_t(t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return T1 * t


def _prior(name: str, side: int, **changes: object) -> deft.NetworkDenoiser:
    found = importlib.util.find_spec("galaxygrad")
    if found is None or found.origin is None:
        raise InputError("galaxygrad is not installed: pip install --no-deps galaxygrad==0.1.9")
    net = read(Path(found.origin).parent / name, ScoreNet(side))
    # beta = 1 on [0, 10] is beta = 10 on [0, 1]
    convention = {"schedule": deft.VPLinear(T1, T1), "output": "score", "time": ten_t, "value_range": RANGE} | changes
    return wrap(net, (1, side, side), **convention)


def hsc32(**changes: object) -> deft.NetworkDenoiser:
    """Galaxies of 32 x 32 pixels."""
    return _prior("eqx_hsc_ScoreNet32.eqx", 32, **changes)


def hsc64(**changes: object) -> deft.NetworkDenoiser:
    """Galaxies of 64 x 64 pixels."""
    return _prior("eqx_hsc_ScoreNet64.eqx", 64, **changes)
