"""Non-linear deblurring as published: a network that blurs, from a file of its users'."""

from __future__ import annotations

import pickle
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from deft.core.operator import Operator
from deft.core.random import generator
from deft.errors import CheckpointError, ContractError
from deft.nn.blurspace import BlurSpaceNet
from deft.runtime.untrusted import MAX_NESTED, building, check_tensors, check_zip, held

WRAPPERS = ("params", "params_ema", "state_dict", "model")
"""Keys under which a state dict may lie in a file. RED-diff's copy is wrapped so and loaded without asking: none of its
weights arrive."""
STRENGTH = 1.2
"""Deviation of a random code (Chung et al. 2023, DPS)."""


class BlurSpace(Operator):
    """y = clip(2 G(u, k) - 1, -1, 1), u = (x + 1)/2: the blur of a network G with one frozen code k
    (`deft.nn.blurspace`; Tran et al. 2021).

    For RGB images [B, 3, H, W] in [-1, 1] whose sides are multiples of 128; y has the same shape. This is the
    "non-linear deblurring" of DPS and RED-diff (Chung et al. 2023, Mardani et al. 2024): k is drawn once, from N(0,
    1.2^2), and kept in the operator, so that the same seed is the same blur for every image and method.

    Args:
        net: the network, frozen here. `BlurSpace.load(path)` reads a published file.
        seed: of k. code: k itself, [1, 512, H/128, W/128], in place of the seed (that of a real blur, from
            `net.encode`).

    Raises (when called): ContractError for images of other channels or sizes.
    """

    feature_channels = 2
    sample_axes = measured_axes = "B, C, H, W"

    def __init__(self, net: BlurSpaceNet, seed: int = 42, code: Tensor | None = None):
        self.net, self.seed, self.code = net.eval().requires_grad_(False), seed, code

    @classmethod
    def load(cls, path: str | Path, seed: int = 42) -> BlurSpace:
        """From a published checkpoint, every weight of it: see `load_blurspace`."""
        return cls(load_blurspace(str(path)), seed)

    def code_for(self, x: Tensor) -> Tensor:
        """k for images like x, [B, 512, H/128, W/128]."""
        n = self.net.multiple_of
        if x.ndim != 4 or x.shape[1] != self.net.channels or x.shape[2] % n or x.shape[3] % n:
            raise ContractError(
                f"the blur network takes images [B, {self.net.channels}, H, W] with sides that are multiples of {n},"
                f" got {tuple(x.shape)}"
            )
        shape = (1, self.net.code_width, x.shape[2] // n, x.shape[3] // n)
        k = (
            self.code
            if self.code is not None
            else STRENGTH * torch.randn(shape, generator=generator(self.seed), dtype=torch.float32)
        )
        if tuple(k.shape) != shape:
            raise ContractError(f"the code is {tuple(k.shape)}, images {tuple(x.shape)} need {shape}")
        return k.to(x).expand(len(x), -1, -1, -1)

    def __call__(self, x: Tensor) -> Tensor:
        return (2 * self.net((x + 1) / 2, self.code_for(x)) - 1).clamp(-1, 1)

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """rho2 A'^T r / (noise + rho2), as if no gain of the network exceeded 1: a guidance map. Published codes take A
        r in place of A'^T r."""
        return rho2 * self.vjp(x, r / (noise + rho2))

    def pinv(self, y: Tensor) -> Tensor:
        """y itself: no inverse is known."""
        return y

    def features(self, y: Tensor) -> Tensor:
        """y, and a sharper picture after four such steps from there: [B, 2C, H, W]."""
        x, noise, rho2 = y, y.new_tensor(1e-2), y.new_tensor(1.0)
        for _ in range(4):
            x = x + self.approx_mean_update(x, y - self(x), noise, rho2)
        return torch.cat([y, x], dim=1)

    def _map(self, change: Any, names: tuple[str, ...]) -> BlurSpace:
        return self  # one network and one code for all rows

    def to(self, device: torch.device | str) -> BlurSpace:
        return BlurSpace(self.net.to(device), self.seed, self.code)


@cache
def load_blurspace(path: str) -> BlurSpaceNet:
    """The network in a file, with every one of its weights: read once a process.

    Raises:
        CheckpointError: no such file, not one of tensors alone, or weights that are missing, too many or of another
            shape (the first is named).
    """
    state = _state(Path(path))
    first = state.get("feature_extractor.0.weight")
    if first is None or first.ndim != 4:
        raise CheckpointError(
            f"{path} is no file of the blur-kernel-space network: feature_extractor.0.weight is missing"
        )
    front, back = (
        sum(k.startswith(part) and k.endswith(".conv1.weight") for k in state)
        for part in ("feature_extractor.", "recon_trunk.")
    )
    blocks = sum(k.startswith("kernel_extractor.") and k.endswith(".conv_block.1.weight") for k in state)
    try:
        with building(*held(state)):
            net = BlurSpaceNet(first.shape[1], first.shape[0], front, back, blocks)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no file of the blur-kernel-space network: {error}") from error
    own = net.state_dict()
    missing = [k for k in own if k not in state]
    extra = [k for k in state if k not in own]
    if missing or extra:
        which = f"{missing[0]} is missing" if missing else f"{extra[0]} is not one of its weights"
        raise CheckpointError(
            f"{path} is no file of the blur-kernel-space network: {which} ({len(own) - len(missing)} of {len(own)}"
            f" weights found, {len(extra)} others)"
        )
    wrong = next((k for k in own if state[k].shape != own[k].shape), None)
    if wrong is not None:
        raise CheckpointError(f"{path}: {wrong} is {tuple(state[wrong].shape)}, expected {tuple(own[wrong].shape)}")
    net.load_state_dict(state, strict=True)
    arrived = net.state_dict()
    assert all(torch.equal(arrived[k], state[k].to(arrived[k])) for k in own), "weights did not arrive"
    return net.eval().requires_grad_(False)


def _state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(
            f"no such file: {path}; the weights are linked from github.com/VinAIResearch/blur-kernel-space-exploring"
            " (GOPRO_wVAE.pth)"
        )
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            if zipfile.is_zipfile(path):
                check_zip(path, stored=True)
            found = torch.load(path, map_location="cpu", weights_only=True)
            check_tensors(found)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is truncated, or holds more than tensors (which would run code): save its state dict alone"
        ) from error
    except Exception as error:  # what a damaged file raises is anything
        raise CheckpointError(
            f"{path} cannot be read ({' '.join(str(error).split())[:120]}): fetch it again"
        ) from error
    for _ in range(MAX_NESTED):  # a pickle may hold itself
        if not isinstance(found, dict):
            break
        inner = next((found[k] for k in WRAPPERS if isinstance(found.get(k), dict)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise CheckpointError(f"{path} holds no state dict (a table from names to tensors)")
    return {str(k).removeprefix("module."): v for k, v in found.items()}
