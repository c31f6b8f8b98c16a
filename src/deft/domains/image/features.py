"""Networks whose features say how much two images look like the same thing: what they are, and what is measured in
them.

Pixel errors reward blur; a distance between features of a network that was trained to tell images apart does not
(Heusel et al. 2017; Zhang et al. 2018). Every number is that of the network named beside it: none of them is FID, KID
or LPIPS, which are numbers of one network each (`deft.domains.image.external` asks their own packages for those).
`deft.domains.image.networks` is the table of networks by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deft.core.random import generator
from deft.domains.image.metrics import energy_score, pairwise_distance, perceptual_distance
from deft.errors import InputError


class Activations(NamedTuple):
    """What a network made of images. features: [B, d]. layers: maps [B, C, h, w], first layer first. logits: [B,
    classes] or None."""

    features: Tensor
    layers: tuple[Tensor, ...]
    logits: Tensor | None


class FeatureNetwork(nn.Module, ABC):
    """Images [B, *event_shape] in [-1, 1] -> features, in units of the mean distance between two random images.

    A subclass writes `look` and gives `name`, `title` (what its distances are called) and `event_shape` (None: any
    height and width). `unit` is set by `calibrate`; until then it is 1.
    """

    name: str = ""
    title: str = ""
    event_shape: tuple[int, ...] | None = None
    unit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unit", torch.ones(()))
        self.card: dict[str, Any] = {}

    @abstractmethod
    def look(self, x: Tensor) -> Activations:
        """Everything from one pass; features as the layer gives them, before the unit."""

    def features(self, x: Tensor) -> Tensor:
        """[B, d], in units of the mean distance between two random test images."""
        return self.look(x).features / self.unit

    def layers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps for a perceptual distance, [B, C, h, w] each; () if the network has none."""
        return self.look(x).layers

    def logits(self, x: Tensor) -> Tensor:
        """[B, classes]; an error for a network without classes."""
        found = self.look(x).logits
        if found is None:
            raise InputError(f"{self.name} tells no classes apart, so it has no top-1: use a classifier")
        return found

    def accepts(self, event_shape: tuple[int, ...]) -> bool:
        return self.event_shape is None or tuple(event_shape) == self.event_shape


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], x: Tensor, batch: int = 500) -> Tensor:
    """function(x), computed a batch at a time."""
    return torch.cat([function(x[i : i + batch]) for i in range(0, len(x), batch)])


def calibrate(network: FeatureNetwork, x: Tensor, seed: int = 0) -> None:
    """Set the unit of its features: the mean distance between two random images of x."""
    if len(x) < 2:
        raise InputError(f"the unit of features is a distance between images: give at least two, got {len(x)}")
    network.unit.fill_(1.0)
    f = in_batches(network.features, x)
    order = torch.randperm(len(f), generator=generator(seed)).to(f.device)
    network.unit.fill_(float((f[order] - f[order.roll(1)]).norm(dim=1).mean()))  # a cycle: no image meets itself


@torch.no_grad()
def measure_features(
    network: FeatureNetwork, samples: Tensor, truth: Tensor, labels: Tensor | None = None, *, batch: int = 256
) -> dict[str, Tensor]:
    """What a network says of samples [N, S, *E] and the truth [N, *E]: metric -> [N], one pass of it for each image.

    feature_distance and perceptual_distance to the truth, averaged over an image's samples; with S > 1 diversity (mean
    feature distance between two of its samples) and energy_score; with labels [N], and a network that has classes,
    top1.
    """
    n, s = samples.shape[:2]
    found: dict[str, list[Tensor]] = {}
    each = max(1, batch // s)
    for low in range(0, n, each):
        part = slice(low, min(low + each, n))
        x, at = network.look(samples[part].flatten(0, 1).clamp(-1, 1)), network.look(truth[part])
        f = (x.features / network.unit).unflatten(0, (-1, s))
        out = {"feature_distance": (f - (at.features / network.unit)[:, None]).norm(dim=-1).mean(1)}
        if at.layers:
            apart = perceptual_distance(x.layers, [m.repeat_interleave(s, 0) for m in at.layers])
            out["perceptual_distance"] = apart.unflatten(0, (-1, s)).mean(1)
        if s > 1:
            out["diversity"] = pairwise_distance(f)
            out["energy_score"] = energy_score(f, at.features / network.unit)
        if labels is not None and x.logits is not None:
            out["top1"] = (x.logits.argmax(1).unflatten(0, (-1, s)) == labels[part, None]).float().mean(1)
        for key, value in out.items():
            found.setdefault(key, []).append(value)
    return {key: torch.cat(parts) for key, parts in found.items()}
