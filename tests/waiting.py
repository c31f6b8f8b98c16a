"""What makes a host wait for its GPU, found without a GPU: the meta device, whose tensors have no contents, stands for
it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import deft
from deft.core.sampler import Sampler
from deft.samplers import draw

ASKS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim", "_unique2")
"""Operations whose result, or the shape of it, the host has to be told."""
COPIES = ("_to_copy", "lift_fresh")
AWAY = "meta"


class Waits(RuntimeError):
    """An operation that makes the host wait."""


class NoWaiting(TorchDispatchMode):
    """Inside, every operation that makes the host wait for the device raises `Waits`: a value that is asked for, and a
    copy between the two (one from memory that is not pinned waits for all work before it)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        given = places((args, kwargs))
        if name in ASKS and AWAY in given:
            raise Waits(f"{name} asks the device for a value")
        if name == "copy_" and len(places(args[:2])) > 1:
            raise Waits("a copy between host and device")
        out = func(*args, **(kwargs or {}))
        if name in COPIES and len(given | places(out)) > 1:
            raise Waits("a copy between host and device")
        return out


def places(values: Any) -> set[str]:
    return {v.device.type for v in tree_iter(values) if isinstance(v, torch.Tensor)}


class Refused:
    """The same of a GPU, as PyTorch notices it itself."""

    def __enter__(self) -> None:
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


class FirstFree(Sampler):
    """Another sampler; from the end of its first step on, in which tables and features are made, nothing may wait."""

    def __init__(self, sampler: Sampler, mode: Any):
        self.sampler, self.mode, self.steps = sampler, mode, 0
        self.needs_observation = sampler.needs_observation

    def step(self, *args: Any) -> Any:
        raise AssertionError("unused")

    def advance(self, *args: Any) -> Any:
        found = self.sampler.advance(*args)
        self.steps += 1
        if self.steps == 1:
            self.mode.__enter__()
        return found


class NoiseThere(deft.Noise):
    """Noise that is made where it is needed; its numbers are none."""

    def normal(self, shape: Any, *, device: Any = "cpu") -> torch.Tensor:
        return torch.empty((len(self), *shape), device=device)


def sample_without_waiting(
    denoiser: deft.Denoiser, noise: deft.Noise, sampler: Sampler, grid: list[Any], mode: Any, monkeypatch: Any
) -> torch.Tensor:
    """`deft.sample` to the end, the loop's own look at the last state left out, under `mode` from its second step on.

    Raises:
        Waits: an operation after the first step made the host wait; RuntimeError of PyTorch: an earlier one asked the
            meta device for a value, or a GPU was waited for.
    """
    watched, finished = FirstFree(sampler, mode), []

    def finite(x: torch.Tensor) -> bool:
        mode.__exit__(None, None, None)
        finished.append(watched.steps)
        return True

    monkeypatch.setattr(draw, "_finite", finite)
    try:
        x = deft.sample(denoiser, noise, sampler=watched, grid=grid)
    finally:
        if watched.steps and not finished:
            mode.__exit__(None, None, None)
    assert finished == [len(grid) - 1]
    return x


def sample_away(denoiser: deft.Denoiser, n: int, sampler: Sampler, grid: list[Any], monkeypatch: Any) -> int:
    """The same on the meta device; how many steps were made."""
    x = sample_without_waiting(denoiser, NoiseThere(0, n), sampler, grid, NoWaiting(), monkeypatch)
    assert x.device.type == AWAY and x.shape == (n, *denoiser.event_shape)
    return len(grid) - 1
