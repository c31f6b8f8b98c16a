"""A small classifier of spoken digits: which digit does a restored sound say?"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.core.random import generator
from deft.domains.sound.spectra import mel_bands, power
from deft.errors import CheckpointError, InputError
from deft.io.files import load_weights, save_weights
from deft.io.reading import parsing
from deft.runtime.untrusted import building, held

RATE, LENGTH = 8000, 4096
SIZE, HOP, BANDS = 256, 128, 40
FLOOR = 1e-3
"""Added to the power in a band, of a sound of power 1: 30 dB below it, silence is silence."""


class DigitClassifier(nn.Module):
    """Sounds [B, 1, 4096] at 8 kHz -> logits [B, 10].

    It sees log(P + FLOOR) in 40 mel bands and 33 frames of the sound at power 1 (`deft.domains.sound.spectra`): gain
    changes nothing. Three 3x3 convolutions, each halved after; a mean over time alone, so that it does not matter when
    the word begins.
    """

    def __init__(self, widths: tuple[int, int, int] = (16, 24, 40), classes: int = 10):
        super().__init__()
        self.config: dict[str, Any] = {"widths": list(widths), "classes": classes}
        self.card: dict[str, Any] = {}
        layers: list[nn.Module] = []
        for before, after in zip((1, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.SiLU()]
            layers += [nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1] * (BANDS // 8) * 2, classes)
        self.register_buffer("bands", mel_bands(BANDS, SIZE, RATE, torch.zeros(1)), persistent=False)

    def seen(self, x: Tensor) -> Tensor:
        """[B, 1, 40, 33]."""
        if x.ndim != 3 or x.shape[1] != 1:
            raise InputError(f"the classifier of digits takes sounds [B, 1, L], got shape {tuple(x.shape)}")
        x = x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)
        levels = self.bands @ power(x, SIZE, HOP)  # type: ignore[operator]  # a buffer
        return (0.5 * (levels + FLOOR).log() + 1.5)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(self.seen(x))
        return self.head(torch.cat([z.mean(-1), z.amax(-1)], 1).flatten(1))


def varied(sounds: list[Tensor], g: torch.Generator, length: int = LENGTH) -> Tensor:
    """A batch [B, 1, L] of recordings of any length, each faster or slower by up to a quarter (and its pitch),
    somewhere in the window, brighter or duller, with noise 5 to 45 dB below it."""
    u = torch.rand(len(sounds), 5, generator=g, dtype=torch.float32)
    out = torch.zeros(len(sounds), length)
    for row, x, (speed, at, tilt, noise, _) in zip(out, sounds, u.tolist(), strict=True):
        n = max(64, round(len(x) * 1.25 ** (2 * speed - 1)))
        x = F.interpolate(x[None, None], size=n, mode="linear", align_corners=True)[0, 0]
        x = x[1:] - (0.8 * tilt - 0.4) * x[:-1]
        x = x / x.square().mean().sqrt().clamp_min(1e-8)
        start = round(at * (length - len(x)))
        x = x[max(0, -start) :][: length - max(0, start)]
        row[max(0, start) : max(0, start) + len(x)] = x
        row += 10 ** (-(5 + 40 * noise) / 20) * torch.randn(length, generator=g, dtype=torch.float32)
    return out[:, None]


def train_classifier(
    sounds: list[Tensor],
    labels: Tensor,
    *,
    steps: int = 3000,
    batch: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    weight: Tensor | None = None,
    look: Callable[[int, float], None] = lambda step, loss: None,
) -> DigitClassifier:
    """Train on recordings of any length and the digits they say, seen as `varied` makes them; AdamW, one cosine from
    `lr` to 0, label smoothing 0.05. weight: how often each recording is drawn."""
    torch.manual_seed(seed)
    g, net = generator(seed), DigitClassifier()
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.05)
    chance = torch.ones(len(sounds)) if weight is None else weight
    for step in range(steps):
        rows = torch.multinomial(chance, batch, replacement=True, generator=g)
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = F.cross_entropy(net(varied([sounds[i] for i in rows], g)), labels[rows], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 0:
            look(step, float(loss.detach()))
    return net.eval().requires_grad_(False)


def accuracy(net: DigitClassifier, x: Tensor, labels: Tensor) -> float:
    """Share of sounds [N, 1, L] that are put into their class."""
    return float((torch.cat([net(part) for part in x.split(256)]).argmax(1) == labels).float().mean())


def save_classifier(path: str | Path, net: DigitClassifier, **card: Any) -> None:
    """Weights in half precision, with a card."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_weights(path, state, {"kind": "classifier", "format": 1, "network": net.config, **card})


def load_classifier(path: str | Path) -> DigitClassifier:
    """What `save_classifier` wrote, frozen, in float32."""
    tensors, card = load_weights(path)
    if card.get("kind") != "classifier":
        raise CheckpointError(f"{path} holds {card.get('kind', 'something')!r}, not a classifier")
    with parsing(path, "a classifier that its card describes"), building(*held(tensors)):
        net = DigitClassifier(tuple(card["network"]["widths"]), card["network"]["classes"])
        net.load_state_dict(tensors)
    net.card = card
    return net.eval().requires_grad_(False)


@cache
def digit_classifier() -> DigitClassifier:
    """The bundled classifier."""
    return load_classifier(Path(__file__).with_name("weights") / "digit-classifier.safetensors")
