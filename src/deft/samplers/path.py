"""Weights of sampled paths: how far the conditioned sampler is from the exact posterior, as one number.

A path x_T, ..., x_0 drawn with the correction h has the weight

    log w = log p(y | x_0) + sum over steps of log( prior's step / corrected step ),

so that E[w] = p(y) for every h, and w is the constant p(y) for the exact one, as the steps get small (paper,
Theorem 3.1 (1) and appendix G.1). Var(log w) therefore ranks h-transforms, and falls to 0 for the exact one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from tqdm import tqdm

from deft.core.condition import Conditioned, condition, fitted_to
from deft.core.denoiser import Denoiser
from deft.core.grid import times
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.core.random import Noise, seed_for
from deft.core.transition import Level, log_ratio, shift
from deft.errors import InputError
from deft.kinds.draws import Draws
from deft.runtime.compiled import compiled_calls
from deft.runtime.distributed import World, get_world
from deft.samplers.diagnostics import PathDiagnostics, ess_fraction, log_mean
from deft.samplers.draw import named_domain
from deft.samplers.ode import KernelSampler, with_weights
from deft.samplers.sde import Ito
from deft.values import Index, Rows, Samples, Seed, Steps


@torch.no_grad()
@compiled_calls()
def weighted_paths(
    conditioned: Conditioned, noise: Noise, sampler: KernelSampler, levels: Sequence[Level]
) -> tuple[Tensor, Tensor]:
    """One path for each stream of `noise`: its final sample [B, *E] and log w [B], in float64.

    The last step, onto the clean end, is the prior's own denoised mean: there h has nothing left to do.
    """
    with_weights(sampler)
    shape = conditioned.event_shape
    where = conditioned.state_like()

    def normal() -> Tensor:
        n = noise.normal(shape, device=where.device).to(where.dtype)
        return conditioned.project(n, torch.ones_like(n))

    x = normal() * levels[0].sigma
    log_w = torch.zeros(len(noise), dtype=torch.float64, device=where.device)
    for t, s in pairwise(levels):
        kernel = sampler.kernel(t, s)
        pred, h = conditioned.both(x, torch.tensor(t.t, dtype=torch.float64))
        if s.sigma == 0:
            x = kernel.step(x, pred.mean, None)
            break
        n = normal()
        moved = shift(kernel, t, h)
        x = kernel.step(x, pred.mean, n) + moved
        log_w += log_ratio(kernel, moved, n).double()
    return x, log_w + conditioned.obs.log_prob(x).double()


@torch.no_grad()
def sample_paths(
    prior: Denoiser,
    h: HTransform,
    obs: Observation,
    n: Samples = 1,
    *,
    sampler: KernelSampler | None = None,
    steps: Steps = 200,
    spacing: str = "log-snr",
    seed: Seed = 0,
    batch: Rows = 64,
    grid: Sequence[Level] | None = None,
    first: Index = 0,
    progress: bool = False,
    world: World | None = None,
) -> Draws:
    """n weighted paths for each of B measurements: their final samples x [B, n, *data_shape], `log_weight`,
    `log_evidence` and `PathDiagnostics`.

    Args:
        sampler: one with noise; default `Ito()`, whose weights stay finite as steps get small.
        steps, spacing: see `deft.times`; or give the `grid` itself, whose last level must be clean.
        seed, first: path j of measurement i uses stream (first + i) * n + j, whatever the batch.
        batch: paths made at once. world: the processes that share the batches, as in `sample_posterior`.

    Raises:
        InputError: a sampler without noise, or one that looks at more than the last step.

    >>> from deft import VPCosine
    >>> from deft.testing import half_seen
    >>> world, obs = half_seen(2)
    >>> draws = sample_paths(world.prior(VPCosine()), world.h, obs, 16, steps=50)
    >>> draws.log_weight.shape, draws.log_evidence.shape, draws.diagnostics.log_weight_variance.shape
    (torch.Size([1, 16]), torch.Size([1]), torch.Size([1]))
    """
    if isinstance(prior, Conditioned):
        raise InputError(
            "sample_paths takes (prior, h, obs, n), as every way of drawing does; weighted_paths takes a "
            "conditioned denoiser and its noise"
        )
    if n < 1 or batch < 1:
        raise InputError(f"n (paths) and batch must be at least 1, got {n} and {batch}")
    sampler = with_weights(sampler or Ito())
    levels = list(grid) if grid is not None else times(prior.schedule, steps, spacing)
    world, obs = world or get_world(), fitted_to(prior, obs)
    all_obs = prior.to_latent(obs).repeat(n)
    total = len(all_obs)
    chunks = [slice(low, min(low + batch, total)) for low in range(0, total, batch)]

    def draw(part: slice) -> tuple[Tensor, Tensor]:
        noise = Noise(seed_for("samples", seed), range(first * n + part.start, first * n + part.stop))
        try:
            x, log_w = weighted_paths(condition(prior, h, all_obs[part]), noise, sampler, levels)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise InputError(f"a batch of {batch} does not fit in memory: lower batch (--batch)") from error
        x = prior.decode(x)
        return (x, log_w) if world.size == 1 else (x.cpu(), log_w.cpu())

    out = []
    with tqdm(total=total, desc="paths", unit="path", disable=not (progress and world.main)) as bar:
        for x, log_w in world.share(chunks, draw):
            out.append((x, log_w))
            bar.update(len(x))
    where = prior.state_like(obs.y).device
    x, log_w = (torch.cat(column).to(where) for column in zip(*out, strict=True))
    log_w = log_w.reshape(len(obs), n)
    variance = log_w.var(1) if n > 1 else torch.zeros_like(log_w[:, 0])
    fared = PathDiagnostics(variance, ess_fraction(log_w))
    return Draws(x.reshape(len(obs), n, *prior.data_shape), log_w, log_mean(log_w), fared, named_domain(prior))
