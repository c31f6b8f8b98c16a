"""A small classifier of clothes. Its features measure how much two pictures look like the same thing.

A `FeatureNetwork` for Fashion-MNIST at 32 x 32. It is trained on noisy, shifted and mirrored images, so that it looks
at shapes rather than at single pixels.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.core.random import generator
from deft.domains.image.features import Activations, FeatureNetwork, in_batches
from deft.errors import CheckpointError
from deft.io.files import load_weights, save_weights
from deft.io.reading import parsing
from deft.runtime.untrusted import building, held


class Classifier(FeatureNetwork):
    """Images [B, 1, 32, 32] in [-1, 1] -> 10 logits; three strided convolutions and two linear layers."""

    name = "fashion-classifier"
    title = "feature distance"
    event_shape = (1, 32, 32)

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 64), features: int = 128, classes: int = 10):
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "features": features, "classes": classes}
        layers: list[nn.Module] = []
        for before, after in zip((1, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.SiLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * 16, features), nn.SiLU())
        self.head = nn.Linear(features, classes)

    def look(self, x: Tensor) -> Activations:
        maps = []
        end = 3 * len(self.config["widths"])
        for i in range(0, end, 3):
            x = self.body[i : i + 3](x)
            maps.append(x)
        x = self.body[end:](x)
        return Activations(x, tuple(maps), self.head(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def augment(x: Tensor, g: torch.Generator, noise: float = 0.1, shift: int = 2) -> Tensor:
    """Mirrored half the time, shifted by up to `shift` pixels, with noise of a random deviation up to `noise`."""
    n, _, height, width = x.shape
    x = torch.where(torch.rand(n, 1, 1, 1, generator=g, dtype=torch.float32) < 0.5, x.flip(-1), x)
    padded = F.pad(x, (shift,) * 4, value=-1.0)
    dy, dx = torch.randint(0, 2 * shift + 1, (2, n), generator=g)
    rows = (dy[:, None] + torch.arange(height))[:, None, :, None]
    columns = (dx[:, None] + torch.arange(width))[:, None, None, :]
    x = padded[torch.arange(n)[:, None, None, None], torch.arange(x.shape[1])[None, :, None, None], rows, columns]
    return x + noise * torch.rand(n, 1, 1, 1, generator=g, dtype=torch.float32) * torch.randn(
        x.shape, generator=g, dtype=torch.float32
    )


def train_classifier(
    x: Tensor,
    labels: Tensor,
    *,
    epochs: float = 6,
    batch: int = 128,
    lr: float = 3e-3,
    seed: int = 0,
    progress: bool = True,
) -> Classifier:
    """Train on x uint8 [N, 32, 32]; AdamW, one cosine from `lr` to 0, label smoothing 0.05."""
    from tqdm import tqdm

    torch.manual_seed(seed)
    g, net = generator(seed), Classifier()
    steps = math.ceil(epochs * len(x) / batch)
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.02)
    order = torch.empty(0, dtype=torch.long)
    bar = tqdm(range(steps), desc="classifier", disable=not progress)
    for step in bar:
        if len(order) < batch:
            order = torch.randperm(len(x), generator=g)
        rows, order = order[:batch], order[batch:]
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = F.cross_entropy(net(augment(to_range(x[rows]), g)), labels[rows], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            bar.set_postfix_str(f"loss {float(loss.detach()):.3f}")
    return net.eval().requires_grad_(False)


def to_range(x: Tensor) -> Tensor:
    """uint8 [N, H, W] -> [N, 1, H, W] in [-1, 1]."""
    return x.float()[:, None] / 127.5 - 1


def accuracy(net: Classifier, x: Tensor, labels: Tensor) -> float:
    return float((in_batches(net, x).argmax(1) == labels).float().mean())


def save_classifier(path: str | Path, net: Classifier, **card: Any) -> None:
    save_weights(path, net.state_dict(), {"kind": "classifier", "format": 1, "network": net.config, **card})


def load_classifier(path: str | Path) -> Classifier:
    tensors, card = load_weights(path)
    if card.get("kind") != "classifier":
        raise CheckpointError(f"{path} holds {card.get('kind', 'something')!r}, not a classifier")
    with parsing(path, "a classifier that its card describes"), building(*held(tensors)):
        c = card["network"]
        net = Classifier(tuple(c["widths"]), c["features"], c["classes"])
        net.load_state_dict(tensors)
    net.card = card
    return net.eval().requires_grad_(False)


@cache
def fashion_classifier() -> Classifier:
    """The bundled classifier of Fashion-MNIST at 32 x 32."""
    return load_classifier(
        Path(str(resources.files("deft.domains.image") / "weights" / "fashion-classifier.safetensors"))
    )


def labels_from(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array)).long()
