"""Every task's operator takes memory of the order of the image: four times as much for twice the side."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch
from benchmarks.memory import Alive

import deft
import deft.operator
from deft.domains.image.tasks import TASKS

SIDES = (32, 64)
GROWTH = 4.5
"""Of the most bytes that are alive, when the side doubles; a matrix of pixels by pixels would have 16. Detectors and
paddings are rounded up."""


def forget() -> None:
    """What operators keep between calls is made again, and counted."""
    for found in pkgutil.iter_modules(deft.operator.__path__):
        for value in vars(importlib.import_module(f"deft.operator.{found.name}")).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


def peak(name: str, side: int) -> int:
    """The most bytes alive while an image is measured, shown to a network, and guides a step; all that stays, too."""
    task, noise = TASKS[name](), deft.Noise(0, 1)
    channels = 1 if name.startswith(("ct", "two-views", "mri")) else 3
    x = torch.zeros(1, channels, side, side) + torch.linspace(-1, 1, side)
    forget()
    with Alive([x]) as alive, torch.no_grad():
        obs = task.observe(x, noise)
        obs.features()
        obs.likelihood.approx_mean_update(obs.y, torch.zeros_like(x), torch.full((1, 1, 1, 1), 0.1))
    return alive.peak


@pytest.mark.parametrize("name", list(TASKS))
def test_memory_grows_as_the_number_of_pixels(name):
    small, large = (peak(name, side) for side in SIDES)
    assert large <= GROWTH * small, f"{small} bytes at {SIDES[0]} pixels a side, {large} at {SIDES[1]}"


def test_memory_of_a_large_scan_grows_as_the_number_of_pixels(monkeypatch):
    """Weights that are computed anew (`deft.operator.folded`), in rooms of few entries."""
    from deft.operator import folded, radon

    monkeypatch.setattr(folded, "ROOM", 2**12)
    found = []
    for side in SIDES:
        op = radon.Radon(side, 200)
        rays = folded.Folded(op.geometry)
        x = torch.zeros(1, 1, side, side)
        with Alive([x]) as alive:
            rays.adjoint(rays.forward(x))
        found.append(alive.peak)
    assert found[1] <= GROWTH * found[0], found
