"""The call itself: `deft.sample` with streams of the caller's generators, and with diffusers' callback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from deft.core.condition import condition
from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.core.random import Noise, seed_for
from deft.core.sampler import Sampler
from deft.core.transition import Level
from deft.errors import InputError
from deft.philox import Streams
from deft.samplers import sample
from deft.samplers.draw import StepInfo
from deft.values import LARGEST, Seed, check, quoted

TENSOR_INPUTS = ("latents", "mean")
"""What a callback may ask for: the state after the step, and E[x_0 | x_t, y] that the step was made from."""
Seeds = int | list[int]


class OwnStreams(Noise):
    """Streams of several seeds: each is stream 0 of its own, and so a picture is the same alone and in a list."""

    def __init__(self, seeds: Sequence[int]):
        super().__init__(0, 0)
        self.indices = range(len(seeds))
        self._streams = Streams((seed_for("samples", seed), 0) for seed in seeds)


def seeds_of(given: Any, total: int) -> Seeds:
    """The seed of a call, or one for each of `total` pictures of a list.

    None: from PyTorch's global generator. A `torch.Generator` that nothing was drawn from stands for its own seed;
    another one is asked for a number. Either way it goes on by one number, so that the next call makes other pictures.
    """
    if isinstance(given, (list, tuple)):
        if len(given) != total:
            raise InputError(f"generator is a list of {len(given)}, and {total} pictures are drawn: give one for each")
        return [_seed(one) for one in given]
    return _seed(given)


def _seed(given: Any) -> int:
    if given is None:
        return _number(None)
    if isinstance(given, torch.Generator):
        own = given.initial_seed()
        unused = torch.equal(given.get_state(), torch.Generator(given.device).manual_seed(own).get_state())
        drawn = _number(given)
        return own % LARGEST if unused else drawn
    if isinstance(given, int):
        return int(check(Seed, given, "generator"))
    raise InputError(f"generator is {quoted(given)}: expected a torch.Generator, a list of them, or a whole number")


def _number(source: torch.Generator | None) -> int:
    device = "cpu" if source is None else source.device
    return int(torch.randint(2**62, (1,), generator=source, device=device))


class Stop(Exception):
    """A callback has set `pipe._interrupt`."""

    def __init__(self, x: Tensor):
        super().__init__("interrupted")
        self.x = x


def watcher(
    pipe: Any, call: Callable[..., Any] | None, names: Sequence[str], advance: Callable[[], Any]
) -> Callable[[StepInfo], None]:
    """diffusers' `callback_on_step_end(pipe, step, t, callback_kwargs)` as a callback of `deft.sample`.

    What it returns under "latents" is the state that the next step begins with.
    """

    def after(info: StepInfo) -> None:
        advance()
        if call is not None:
            tensors = {"latents": info.x, "mean": info.prediction.mean}
            found = call(pipe, info.step - 1, info.t.t, {name: tensors[name] for name in names})
            latents = found.get("latents", info.x) if isinstance(found, dict) else info.x
            if latents is not info.x:
                if not isinstance(latents, Tensor) or latents.shape != info.x.shape:
                    shape = tuple(getattr(latents, "shape", ()))
                    raise InputError(f"callback_on_step_end returns latents {shape}, expected {tuple(info.x.shape)}")
                info.x.copy_(latents)  # the loop goes on with this very tensor
        if pipe.interrupt:
            raise Stop(info.x)

    return after


def draw_latents(
    prior: Denoiser,
    h: HTransform,
    obs: Observation,
    n: int,
    seeds: Seeds,
    *,
    sampler: Sampler,
    grid: Sequence[Level],
    batch: int,
    callback: Callable[[StepInfo], None] | None,
) -> Tensor:
    """n samples of each of B measurements, [B n, *E], not decoded: those of `sample_posterior` for one seed."""
    every = prior.to_latent(obs).repeat(n)
    out = []
    for low in range(0, len(every), batch):
        part = slice(low, min(low + batch, len(every)))
        if isinstance(seeds, int):
            noise = Noise(seed_for("samples", seeds), range(part.start, part.stop))
        else:
            noise = OwnStreams(seeds[part])
        try:
            out.append(sample(condition(prior, h, every[part]), noise, sampler=sampler, grid=grid, callback=callback))
        except Stop as stop:
            out.append(stop.x)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise InputError(f"{batch} pictures at once do not fit in memory: give a smaller batch=") from error
    return torch.cat(out)
