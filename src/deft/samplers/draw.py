"""Drawing samples: there is one loop over the levels of a grid, and it is here."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from tqdm import tqdm

from deft.arguments import checks_arguments
from deft.core.condition import Conditioned, condition, fitted_to
from deft.core.denoiser import Denoiser, Prediction
from deft.core.grid import times
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.core.random import Noise, seed_for
from deft.core.sampler import Carry, Sampler
from deft.core.transition import Level
from deft.errors import ContractError, InputError, NonFiniteError
from deft.kinds.draws import Draws
from deft.printing import short
from deft.runtime.compiled import compiled_calls
from deft.runtime.distributed import World, get_world
from deft.runtime.messages import log
from deft.samplers.ode import DDIM
from deft.tensors import as_count, check_eval
from deft.values import Index, Rows, Samples, Seed, Steps, quoted


@dataclass(frozen=True)
class StepInfo:
    """What the callback of `deft.sample` is given after each step, from level t to level s.

    step: how many are done, from 1. steps: of how many. x: the state at s, [B, *E].
    prediction: of the denoiser that is sampled (with h, where it is conditioned), at the state at t; its `mean` is
        E[x_0 | x_t, y]. Of samplers that use the prior alone it is the prior's. Where a step has several calls, it is
        the first.
    """

    step: int
    steps: int
    t: Level
    s: Level
    x: Tensor
    prediction: Prediction


Callback = Callable[[StepInfo], object]
P = ParamSpec("P")
R = TypeVar("R")


def takes_old_names(**old: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Arguments by the names that they had in 0.1.0 (`old="new"`) still work for one release, with a
    `DeprecationWarning`."""

    def around(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*given: P.args, **named: P.kwargs) -> R:
            for name in old.keys() & named.keys():
                warnings.warn(
                    f"{function.__name__}({name}=) is now {function.__name__}({old[name]}=)",
                    DeprecationWarning,
                    stacklevel=2,
                )
                named[old[name]] = named.pop(name)
            return function(*given, **named)

        return call

    return around


@torch.no_grad()
@checks_arguments
def sample(
    denoiser: Denoiser,
    noise: Noise | Samples,
    *,
    sampler: Sampler | None = None,
    steps: Steps = 50,
    spacing: str = "angle",
    grid: Sequence[Level] | None = None,
    x: Tensor | None = None,
    like: Tensor | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Draw one sample per stream of `noise` (an int n means `Noise(0, n)`): [B, *E], in model space.

    Args:
        sampler: default `DDIM(eta=1)`.
        steps, spacing: see `times`; or give the `grid` itself (its last level must be clean).
        x: the state to start from, instead of noise of the first level's deviation.
        like: [B, *E], a template of the samples, for a prior whose samples have entries that are zero on purpose (see
            `Denoiser.project`): chains of several lengths, say. Its shape may be another than `event_shape`, its other
            entries do not matter. By default x, or else samples without such entries.
        callback: called with a `StepInfo` (step, levels, x, prediction) after each step.

    Raises:
        NonFiniteError: a NaN or infinity, with the step and the term it came from.

    >>> import deft
    >>> world = deft.testing.two_modes(distance=4.0, std=0.5, weight=0.3)
    >>> x = deft.sample(world.prior(deft.VPCosine()), 1000, steps=20)
    >>> 0.25 < (x.sum(1) < 0).float().mean() < 0.35
    tensor(True)
    """
    sampler = sampler or DDIM(eta=1.0)
    count = as_count(noise)
    noise = cast("Noise", noise) if count is None else Noise(0, count)
    check_eval(denoiser)
    grid = check_grid(grid) if grid is not None else times(denoiser.schedule, steps, spacing)
    if grid[-1].sigma > 0:
        log.warning(
            f"the grid ends at sigma = {grid[-1].sigma:.3g}: samples keep that much noise. The last of a whole"
            " one is clean, Level(t, 1.0, 0.0)"
        )
    if isinstance(denoiser, Conditioned) and len(denoiser.obs) != len(noise):
        raise InputError(
            f"{len(noise)} samples asked for, but the denoiser is conditioned on {len(denoiser.obs)} measurements; "
            "use obs.repeat(n) for n samples of each"
        )
    if sampler.needs_observation and not isinstance(denoiser, Conditioned):
        raise InputError(
            f"{type(sampler).__name__} uses the measurement itself: give it condition(prior, h, obs), not a bare prior"
        )
    where = denoiser.state_like()
    shape = denoiser.event_shape if like is None else tuple(like.shape[1:])
    for name, given in (("x", x), ("like", like)):
        if given is not None and given.shape != (len(noise), *shape):
            raise ContractError(f"{name} has shape {tuple(given.shape)}, expected {(len(noise), *shape)}")
        if given is not None and not (given.is_floating_point() and bool(torch.isfinite(given).all())):
            raise ContractError(f"{name} holds {short(given)}, expected finite floating-point numbers")
    given = x if x is not None else where
    device, dtype = given.device, given.dtype
    like = x if like is None else like.to(device, dtype)
    like = torch.ones((1, *shape), device=device, dtype=dtype).expand(len(noise), *shape) if like is None else like

    def draw() -> Tensor:
        return denoiser.project(noise.normal(shape, device=device).to(dtype), like)

    x = draw() * grid[0].sigma if x is None else x
    carry: Carry = None
    pairs = list(pairwise(grid))
    with _watched(denoiser, callback) as seen, compiled_calls():
        for i, (t, s) in enumerate(tqdm(pairs, desc="sample", unit="step", disable=not progress)):
            before = x
            x, carry = sampler.advance(denoiser, x, t, s, draw, carry)
            if (x.device.type == "cpu" or i + 1 == len(pairs)) and not _finite(x):
                raise NonFiniteError(_blame(denoiser, before, t, i + 1, len(pairs)))
            if seen is not None:
                seen(i + 1, len(pairs), t, s, x)
    return x


def _finite(x: Tensor) -> bool:
    """Where x is on a GPU, this waits for all that was asked of it."""
    return bool(torch.isfinite(x).all())


def check_grid(grid: Sequence[Level]) -> list[Level]:
    """A grid of your own, once it is known to be one: levels of falling sigma/alpha.

    Raises:
        InputError: fewer than two levels, something else than levels, noise that rises.
    """
    found = list(grid)
    if len(found) < 2 or not all(isinstance(level, Level) for level in found):
        raise InputError(
            f"a grid is a list of at least two levels (deft.times, deft.core.grid.levels), got {quoted(found)}"
        )
    ratios = [level.sigma / level.alpha if level.alpha else math.inf for level in found]
    if not all(a >= b for a, b in pairwise(ratios)):  # NaN is none either
        raise InputError("a grid goes from noise down: sigma/alpha of its levels may not rise, nor be NaN")
    return found


@contextmanager
def _watched(
    denoiser: Denoiser, callback: Callback | None
) -> Iterator[Callable[[int, int, Level, Level, Tensor], None] | None]:
    """What the loop calls after each step: the callback, with the prediction that the step was made from. None without
    a callback.

    The loop itself never sees a prediction (a step may take several calls, or none of h), so the denoiser is watched.
    """
    if callback is None:
        yield None
        return
    own: list[Prediction] = []
    priors: list[Prediction] = []

    def keep(into: list[Prediction]) -> Callable[..., None]:
        return lambda module, given, pred: None if into else into.append(pred)

    tell = _takes_a_step(callback)

    def after(step: int, steps: int, t: Level, s: Level, x: Tensor) -> None:
        found = own or priors
        if not found:
            raise ContractError(
                f"step {step} was made without a call of the denoiser: there is no prediction to show to a callback"
            )
        info = StepInfo(step, steps, t, s, x, found[0])
        own.clear()
        priors.clear()
        tell(info)

    hooks = [denoiser.register_forward_hook(keep(own))]
    if isinstance(denoiser, Conditioned):  # a few samplers use the prior alone
        hooks.append(denoiser.prior.register_forward_hook(keep(priors)))
    try:
        yield after
    finally:
        for hook in hooks:
            hook.remove()


def _takes_a_step(callback: Callable[..., object]) -> Callback:
    """The callback; one of 0.1.0, which took (step, level reached, x), is brought to the form of today."""
    try:
        inspect.signature(callback).bind(None, None, None)
    except (TypeError, ValueError):  # takes one argument, or does not say
        return callback
    warnings.warn(
        "a callback takes one StepInfo (step, steps, t, s, x, prediction) instead of (step, level, x)",
        DeprecationWarning,
        stacklevel=6,
    )
    return lambda info: callback(info.step, info.s, info.x)


def _blame(denoiser: Denoiser, x: Tensor, t: Level, step: int, of: int) -> str:
    """Which term of the step was not finite."""
    where = f"at step {step} of {of} (t = {t.t:.4g}, alpha = {t.alpha:.3g}, sigma = {t.sigma:.3g})"
    if not _finite(x):
        return f"the state x_t was not finite {where}"
    if isinstance(denoiser, Conditioned):
        pred, h = denoiser.both(x, torch.tensor(t.t, dtype=torch.float64))
        if not _finite(pred.mean):
            return f"the prior's mean was not finite {where}"
        if not _finite(h):
            return f"h of {type(denoiser.h).__name__} was not finite {where}: lower its weight or add steps"
    return f"the sample left the range of numbers {where}: lower the guidance or add steps"


@takes_old_names(samples="n")
@checks_arguments
def sample_posterior(
    prior: Denoiser,
    h: HTransform,
    obs: Observation,
    n: Samples = 1,
    *,
    sampler: Sampler | None = None,
    steps: Steps = 50,
    spacing: str = "angle",
    seed: Seed = 0,
    batch: Rows = 64,
    grid: Sequence[Level] | None = None,
    first: Index = 0,
    rows: range | None = None,
    progress: bool = False,
    world: World | None = None,
    callback: Callback | None = None,
) -> Draws:
    """n samples of p(x_0 | y) for each of B measurements: x is [B, n, *data_shape] (*E, but for latent priors).

    Args:
        sampler: default `DDIM(eta=1)`.
        steps, spacing: see `deft.times`; or give the `grid` itself (its last level must be clean).
        seed, first: sample j of measurement i uses stream (first + i) * n + j, whatever the batch.
        rows: draw these of the n samples of each measurement alone, as they are among all n: x is [B, len(rows),
            *data_shape].
        batch: samples made at once; lower it if memory runs out.
        world: the processes that share the batches between them (default: all that were launched, and all must call
            this); every one returns all samples, and they are the same bit for bit however many there are.
        callback: of `deft.sample`, for each batch.

    >>> from deft import VPCosine
    >>> from deft.testing import half_seen
    >>> world, obs = half_seen(2)
    >>> draws = sample_posterior(world.prior(VPCosine()), world.h, obs, 8, steps=10)
    >>> draws.x.shape, draws.mean.shape, draws.std.shape
    (torch.Size([1, 8, 4]), torch.Size([1, 4]), torch.Size([1, 4]))
    """
    world, obs = world or get_world(), fitted_to(prior, obs)
    own = range(n) if rows is None else rows
    if not len(own) or own.step != 1 or own.start < 0 or own.stop > n:
        raise InputError(f"rows are some of the {n} samples of a measurement, a range from 0 to {n}, got {rows}")
    all_obs = prior.to_latent(obs).repeat(len(own))
    streams = [(first + i) * n + j for i in range(len(obs)) for j in own]
    total = len(all_obs)
    chunks = [slice(low, min(low + batch, total)) for low in range(0, total, batch)]

    def draw(part: slice) -> Tensor:
        noise = Noise(seed_for("samples", seed), streams[part])
        try:
            x = sample(
                condition(prior, h, all_obs[part]),
                noise,
                sampler=sampler,
                steps=steps,
                spacing=spacing,
                grid=grid,
                callback=callback,
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise InputError(f"a batch of {batch} does not fit in memory: lower batch (--batch)") from error
        x = prior.decode(x)
        return x if world.size == 1 else x.cpu()

    out = []
    with tqdm(total=total, desc="sample", unit="sample", disable=not (progress and world.main)) as bar:
        for x in world.share(chunks, draw):
            out.append(x)
            bar.update(len(x))
    x = torch.cat(out).to(prior.state_like(obs.y).device)
    return Draws(x.reshape(len(obs), len(own), *prior.data_shape), domain=named_domain(prior))


def named_domain(prior: Denoiser) -> str:
    """The kind of data that a prior's card names; "" where it names none, and the shape of the samples tells."""
    name = prior.card.get("domain")
    return name if isinstance(name, str) else ""
