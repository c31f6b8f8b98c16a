"""Low-rank changes of a frozen network's weights (Hu et al. 2022, "LoRA", section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


class LowRank(nn.Module):
    """W + B A for every linear and convolutional layer of a network, which is not held here (Hu et al. 2022).

    A weight [d, ...] is read as a matrix [d, m]: A is [r, m], B [d, r] and zero at first, r at most d and m.

    Args:
        net: the network; only the names and shapes of its weights are kept.
        rank: r.
    """

    def __init__(self, net: nn.Module, rank: int):
        super().__init__()
        self.layers = [name for name, layer in net.named_modules() if isinstance(layer, LAYERS)]
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for name in self.layers:
            d, m = net.get_parameter(f"{name}.weight").flatten(1).shape
            r = min(rank, d, m)
            self.down.append(nn.Parameter(torch.randn(r, m) / math.sqrt(m)))
            self.up.append(nn.Parameter(torch.zeros(d, r)))

    def weights(self, net: nn.Module) -> dict[str, Tensor]:
        """The changed weights by name, for `torch.func.functional_call`."""
        out = {}
        for name, down, up in zip(self.layers, self.down, self.up, strict=True):
            w = net.get_parameter(f"{name}.weight")
            change = (up @ down).reshape(w.shape)
            if w.ndim == 4:  # laid out as the network's own, so that the sum is
                change = change.to(memory_format=torch.channels_last)
            out[f"{name}.weight"] = w + change.to(w.dtype)
        return out

    def call(self, net: Callable[..., Any], *inputs: Any) -> Tensor:
        """net(*inputs) with the changed weights; the network itself stays as it is."""
        assert isinstance(net, nn.Module)
        return torch.func.functional_call(net, self.weights(net), inputs)
