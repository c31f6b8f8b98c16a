"""Drawing samples: there is one loop over the levels of a grid, and it is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from deft.core.condition import Conditioned, condition, fitted_to
from deft.core.denoiser import Denoiser
from deft.core.grid import times
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.core.random import Noise, seed_for
from deft.core.sampler import Carry, Sampler
from deft.core.transition import Level
from deft.errors import ContractError, InputError, NonFiniteError
from deft.runtime.distributed import World, get_world
from deft.samplers.ode import DDIM


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noise: Noise | int,
    *,
    sampler: Sampler | None = None,
    steps: int = 50,
    spacing: str = "angle",
    grid: Sequence[Level] | None = None,
    x: Tensor | None = None,
    like: Tensor | None = None,
    progress: bool = False,
    callback: Callable[[int, Level, Tensor], None] | None = None,
) -> Tensor:
    """Draw one sample per stream of `noise` (an int n means `Noise(0, n)`): [B, *E], in model space.

    Args:
        sampler: default `DDIM(eta=1)`.
        steps, spacing: see `times`; or give the `grid` itself (its last level must be clean).
        x: the state to start from, instead of noise of the first level's deviation.
        like: [B, *E], a template of the samples, for a prior whose samples have entries that are zero on purpose (see
            `Denoiser.project`): chains of several lengths, say. Its shape may be another than `event_shape`, its other
            entries do not matter. By default x, or else samples without such entries.
        callback: called with (step, level reached, x) after each step.

    Raises:
        NonFiniteError: a NaN or infinity, with the step and the term it came from.
    """
    sampler = sampler or DDIM(eta=1.0)
    noise = Noise(0, noise) if isinstance(noise, int) else noise
    grid = list(grid) if grid is not None else times(denoiser.schedule, steps, spacing)
    if isinstance(denoiser, Conditioned) and len(denoiser.obs) != len(noise):
        raise InputError(
            f"{len(noise)} samples asked for, but the denoiser is conditioned on {len(denoiser.obs)} measurements; "
            "use obs.repeat(n) for n samples of each"
        )
    if sampler.needs_observation and not isinstance(denoiser, Conditioned):
        raise InputError(f"{type(sampler).__name__} uses the measurement itself: give it condition(prior, h, obs), not a bare prior")
    where = denoiser.state_like()
    shape = denoiser.event_shape if like is None else tuple(like.shape[1:])
    for name, given in (("x", x), ("like", like)):
        if given is not None and given.shape != (len(noise), *shape):
            raise ContractError(f"{name} has shape {tuple(given.shape)}, expected {(len(noise), *shape)}")
    given = x if x is not None else where
    device, dtype = given.device, given.dtype
    like = x if like is None else like.to(device, dtype)
    like = torch.ones((1, *shape), device=device, dtype=dtype).expand(len(noise), *shape) if like is None else like

    def draw() -> Tensor:
        return denoiser.project(noise.normal(shape, device=device).to(dtype), like)

    x = draw() * grid[0].sigma if x is None else x
    carry: Carry = None
    pairs = list(pairwise(grid))
    for i, (t, s) in enumerate(tqdm(pairs, desc="sample", unit="step", disable=not progress)):
        before = x
        x, carry = sampler.advance(denoiser, x, t, s, draw, carry)
        if (x.device.type == "cpu" or i + 1 == len(pairs)) and not bool(torch.isfinite(x).all()):
            raise NonFiniteError(_blame(denoiser, before, t, i + 1, len(pairs)))
        if callback:
            callback(i + 1, s, x)
    return x


def _blame(denoiser: Denoiser, x: Tensor, t: Level, step: int, of: int) -> str:
    """Which term of the step was not finite."""
    where = f"at step {step} of {of} (t = {t.t:.4g}, alpha = {t.alpha:.3g}, sigma = {t.sigma:.3g})"
    if not bool(torch.isfinite(x).all()):
        return f"the state x_t was not finite {where}"
    if isinstance(denoiser, Conditioned):
        pred, h = denoiser.both(x, torch.tensor(t.t, dtype=torch.float64))
        if not bool(torch.isfinite(pred.mean).all()):
            return f"the prior's mean was not finite {where}"
        if not bool(torch.isfinite(h).all()):
            return f"h of {type(denoiser.h).__name__} was not finite {where}: lower its weight or add steps"
    return f"the sample left the range of numbers {where}: lower the guidance or add steps"


def sample_posterior(
    prior: Denoiser,
    h: HTransform,
    obs: Observation,
    samples: int = 1,
    *,
    seed: int = 0,
    first: int = 0,
    batch: int = 64,
    progress: bool = False,
    world: World | None = None,
    **options: Any,
) -> Tensor:
    """`samples` draws from p(x_0 | y) for each of B measurements: [B, samples, *data_shape] (*E, but for latent priors).

    Args:
        seed, first: draw j of measurement i uses stream (first + i) * samples + j, whatever the batch.
        batch: draws made at once; lower it if memory runs out.
        world: the processes that share the batches between them (default: all that were launched, and all must call
            this); every one returns all samples, and they are the same bit for bit however many there are.
        options: of `sample` (sampler, steps, spacing).
    """
    if samples < 1 or batch < 1:
        raise InputError(f"samples and batch must be at least 1, got {samples} and {batch}")
    world, obs = world or get_world(), fitted_to(prior, obs)
    all_obs = prior.inside(obs).repeat(samples)
    total = len(all_obs)
    chunks = [slice(low, min(low + batch, total)) for low in range(0, total, batch)]

    def draw(part: slice) -> Tensor:
        noise = Noise(seed_for("samples", seed), range(first * samples + part.start, first * samples + part.stop))
        try:
            x = sample(condition(prior, h, all_obs[part]), noise, **options)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise InputError(f"a batch of {batch} does not fit in memory: lower batch (--batch)") from error
        x = prior.decode(x)
        return x if world.size == 1 else x.cpu()

    out = []
    with tqdm(total=total, desc="sample", unit="image", disable=not (progress and world.main)) as bar:
        for x in world.share(chunks, draw):
            out.append(x)
            bar.update(len(x))
    return torch.cat(out).to(prior.state_like(obs.y).device).reshape(len(obs), samples, *prior.data_shape)
