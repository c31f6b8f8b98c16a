"""An encoder of images without labels: two changed copies of an image are to lie near each other, all others apart.

SimCLR (Chen et al. 2020): with unit vectors z_1 .. z_2N of N images changed twice, and j(i) the other copy of i,

    loss = -mean_i log[ exp(z_i . z_j(i) / T) / sum_{k != i} exp(z_i . z_k / T) ]        (NT-Xent, their eq. 1).

z comes from a small head that is thrown away; what is kept is the layer below it. The changes are those that leave the
anatomy in place: up to 4 pixels of shift, up to 12 % of size, mirroring, brightness, contrast, a little blur and noise.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.core.random import generator
from deft.domains.image.features import Activations, FeatureNetwork
from deft.errors import CheckpointError
from deft.io.files import load_weights, save_weights
from deft.io.reading import parsing
from deft.runtime.untrusted import building, held


class Encoder(FeatureNetwork):
    """Images [B, 1, S, S] in [-1, 1] -> features [B, d]; four strided convolutions and a linear layer."""

    def __init__(
        self, side: int = 64, widths: tuple[int, ...] = (24, 48, 80, 96), features: int = 128, name: str = "encoder"
    ):
        super().__init__()
        self.config: dict[str, Any] = {"side": side, "widths": list(widths), "features": features}
        self.name = self.title = name
        self.event_shape = (1, side, side)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.SiLU()
            )
            for before, after in zip((1, *widths), widths, strict=False)
        )
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * (side >> len(widths)) ** 2, features), nn.SiLU())

    def look(self, x: Tensor) -> Activations:
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return Activations(self.last(x), tuple(maps), None)


def change(x: Tensor, g: torch.Generator, *, shift: float = 4.0, size: float = 0.12, noise: float = 0.1) -> Tensor:
    """A changed copy of each image [B, C, H, W] in [-1, 1]; see the module."""
    n, _, height, width = x.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=g, dtype=torch.float32)

    scale = uniform(1 - size, 1 + size)
    mirror = torch.where(torch.rand(n, generator=g, dtype=torch.float32) < 0.5, -1.0, 1.0).float()
    zero = torch.zeros(n)
    right = torch.stack([scale * mirror, zero, uniform(-2 * shift / width, 2 * shift / width)], 1)
    down = torch.stack([zero, scale, uniform(-2 * shift / height, 2 * shift / height)], 1)
    grid = F.affine_grid(torch.stack([right, down], 1), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, soft, uniform(-0.5, 0.5).clamp_min(0)[:, None, None, None])
    x = (x + 1) * uniform(0.8, 1.25)[:, None, None, None] - 1 + uniform(-0.1, 0.1)[:, None, None, None]
    return x + noise * uniform(0, 1)[:, None, None, None] * torch.randn(x.shape, generator=g, dtype=torch.float32)


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """The loss of the module (Chen et al. 2020) for z [2N, d], the two copies of image i in rows i and N + i."""
    z = F.normalize(z, dim=1)
    n = len(z) // 2
    similar = z @ z.mT / temperature
    similar = similar.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -math.inf)
    return F.cross_entropy(similar, torch.arange(2 * n, device=z.device).roll(n))


def train_encoder(
    x: Tensor,
    *,
    steps: int,
    batch: int = 128,
    lr: float = 2e-3,
    temperature: float = 0.2,
    seed: int = 0,
    name: str = "encoder",
    progress: bool = True,
) -> Encoder:
    """Train on x uint8 [N, S, S]; AdamW, 50 steps of warm-up and one cosine from `lr` to 0."""
    from tqdm import tqdm

    torch.manual_seed(seed)
    g, net = generator(seed), Encoder(x.shape[-1], name=name)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a quarter faster
    d = net.config["features"]
    head = nn.Sequential(nn.Linear(d, d), nn.BatchNorm1d(d), nn.SiLU(), nn.Linear(d, 64))
    optimiser = torch.optim.AdamW([*net.parameters(), *head.parameters()], lr=lr, weight_decay=0.02)
    order = torch.empty(0, dtype=torch.long)
    bar = tqdm(range(steps), desc=name, disable=not progress, mininterval=10)
    for step in bar:
        if len(order) < batch:
            order = torch.randperm(len(x), generator=g)
        rows, order = order[:batch], order[batch:]
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        clean = x[rows].float()[:, None] / 127.5 - 1
        copies = change(clean.repeat(2, 1, 1, 1), g).contiguous(memory_format=torch.channels_last)
        loss = nt_xent(head(net.look(copies).features), temperature)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            bar.set_postfix_str(f"loss {float(loss.detach()):.3f}")
    return net.eval().requires_grad_(False)


def save_encoder(path: str | Path, net: Encoder, **card: Any) -> None:
    save_weights(
        path, net.state_dict(), {"kind": "encoder", "format": 1, "name": net.name, "network": net.config, **card}
    )


def load_encoder(path: str | Path) -> Encoder:
    tensors, card = load_weights(path)
    if card.get("kind") != "encoder":
        raise CheckpointError(f"{path} holds {card.get('kind', 'something')!r}, not an encoder")
    with parsing(path, "an encoder that its card describes"), building(*held(tensors)):
        c = card["network"]
        net = Encoder(c["side"], tuple(c["widths"]), c["features"], str(card["name"]))
        net.load_state_dict(tensors)
    net.card = card
    return net.eval().requires_grad_(False)


@cache
def ct_encoder() -> Encoder:
    """The bundled encoder of CT slices at 64 x 64."""
    return load_encoder(Path(str(resources.files("deft.domains.image") / "weights" / "ct-contrastive.safetensors")))
