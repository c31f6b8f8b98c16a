"""Hamiltonian Monte Carlo on the noise of paths: samples of p(x_0 | y) of the prior's chain itself, from any h that
comes near.

A path under a correction h is a function of the normal numbers z = (n_T, ..., n_1) that made it, and has the weight w
(`deft.samplers.path`), so that the posterior's paths are those whose noise has the density

    pi(z) ~ N(z; 0, I) w(z),        constant w for the exact h.

So h is a map under which the posterior is nearly normal, and Hamiltonian Monte Carlo on z takes long steps where
importance weights have long collapsed. (Maps under which
a chain mixes better: Parno & Marzouk 2018; learned: Hoffman et al. 2019.) The law that is reached is that of the prior
as this sampler draws it on this grid, given y.

The Gaussian part is rotated exactly and log w kicks (Beskos et al. 2011), so that the numbers h leaves alone cost
nothing however many they are; the step shrinks with what h leaves to be mended, slowly, about as the fourth root of how
many directions that is in:

    p += e/2 grad log w(z);   (z, p) <- (z cos e + p sin e, p cos e - z sin e);   p += e/2 grad log w(z)

and the end of a few of these is accepted by Metropolis' rule.

The gradient goes back along the path a step at a time: two calls and one backward pass of the prior a step, and memory
for one of them, for the states of `batch` chains, and for a handful of paths' noise [N, samples, *E] of all chains of a
measurement. Where h's own derivative is cut off (an operator in NumPy, a guidance that detaches its residual), the
force is not quite the gradient; Metropolis' rule makes the result right for any force that depends on z alone, with
shorter steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from deft.arguments import checks_arguments
from deft.core.condition import condition, fitted_to
from deft.core.denoiser import Denoiser
from deft.core.grid import times
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.core.random import Noise, seed_for
from deft.core.transition import Level, log_ratio, shift
from deft.errors import ContractError, InputError, NonFiniteError
from deft.kinds.draws import Draws
from deft.runtime.compiled import compiled_calls
from deft.runtime.distributed import World, get_world
from deft.samplers.diagnostics import ChainDiagnostics
from deft.samplers.draw import named_domain, takes_old_names
from deft.samplers.ode import KernelSampler, with_weights
from deft.samplers.sde import Ancestral
from deft.values import Index, Rows, Samples, Seed, Steps

TARGET = 0.8
"""Acceptance that steps are tuned for. .65 is best for very many independent directions (Beskos et al. 2013), more is
safer for few."""


@takes_old_names(samples="n")
@torch.no_grad()
@checks_arguments
def sample_hmc(
    prior: Denoiser,
    h: HTransform,
    obs: Observation,
    n: Samples = 1,
    *,
    sampler: KernelSampler | None = None,
    steps: Steps = 50,
    spacing: str = "log-snr",
    seed: Seed = 0,
    batch: Rows = 64,
    grid: Sequence[Level] | None = None,
    first: Index = 0,
    progress: bool = False,
    world: World | None = None,
    iterations: int = 60,
    burn_in: int | None = None,
    leapfrogs: int = 4,
    keep: int = 1,
    every: int = 1,
) -> Draws:
    """n samples for each of B measurements, each by a Markov chain of its own that starts at a path of h.

    Hamiltonian Monte Carlo on the noise of a path, in the form of Beskos et al. 2011; see the module.

    x is [B, n * keep, *data_shape], chain by chain: `x.unflatten(1, (n, keep))` has the states of one chain on an axis
    of their own, and they resemble each other. `diagnostics` are `ChainDiagnostics`.

    Args:
        h: any h-transform that does not itself differentiate through the prior; the nearer to exact, the fewer
            iterations.
        sampler: one with noise; default `Ancestral()`, whose few steps draw better samples than those of `Ito`. The
            result is the posterior of the prior as this sampler draws it.
        steps, spacing: see `deft.times`; or give the `grid` itself, whose last level must be clean.
        seed, first: chain j of measurement i uses stream (first + i) * n + j, whatever the batch.
        batch: chains moved at once.
        world: the processes that share the measurements, as in `sample_smc`.
        iterations: of each chain; costs `leapfrogs` gradients each, a gradient 2 calls and one backward pass of the
            prior for each step of the grid.
        burn_in: iterations that tune the step and are not kept (default: half). In their first half log w anneals from
            a hundredth.
        keep, every: the states of the last `keep` of every `every` iterations are returned.

    The chains of one measurement share the length of their steps, and nothing else. Were it tuned for each chain by
    itself, those in a narrow mode would learn short steps and leave it more slowly than others come in.

    Raises:
        InputError: a sampler without noise, an h that differentiates through the prior, a grid without a clean end, or
            a measurement none of whose chains moves.
        ContractError: a prior whose mean is cut off from x_t.
        NonFiniteError: a path of h whose weight is not a number.
    """
    burn_in = iterations // 2 if burn_in is None else burn_in
    if n < 1 or batch < 1 or leapfrogs < 1 or keep < 1 or every < 1:
        raise InputError(
            f"n (samples), batch, leapfrogs, keep and every must be at least 1, got {n}, {batch}, {leapfrogs}, "
            f"{keep} and {every}"
        )
    if not 0 <= burn_in <= iterations - (keep - 1) * every - 1:
        raise InputError(
            f"{iterations} iterations with {burn_in} of burn-in do not leave {keep} states, {every} apart: give "
            "more iterations"
        )
    sampler = with_weights(sampler or Ancestral())
    if h.needs_graph:
        raise InputError(
            f"{type(h).__name__} differentiates through the prior, and cannot be differentiated once more: use a "
            "learned h, or one without (gradient, 0)"
        )
    levels = list(grid) if grid is not None else times(prior.schedule, steps, spacing)
    if levels[-1].sigma != 0:
        raise InputError(
            "the likelihood is of clean samples: the grid's last level must have sigma 0, got "
            f"{levels[-1].sigma:g} (see deft.core.grid)"
        )
    world = world or get_world()
    obs = fitted_to(prior, obs)
    rows = prior.to_latent(obs)
    at_once = max(1, batch // n)
    chunks = [slice(low, min(low + at_once, len(rows))) for low in range(0, len(rows), at_once)]

    mine = min(-(-len(chunks) // world.size) * at_once, len(rows))  # measurements of this process
    with tqdm(
        total=mine * n * iterations * leapfrogs, desc="chains", unit="leapfrog", disable=not (progress and world.main)
    ) as bar:

        def draw(part: slice) -> Draws:
            noise = Noise(seed_for("samples", seed), range((first + part.start) * n, (first + part.stop) * n))
            target = _Paths(prior, h, rows[part].repeat(n), sampler, levels, batch)
            try:
                states, log_w, accepted, step = _run(target, noise, n, iterations, burn_in, leapfrogs, keep, every, bar)
                decoded = [torch.cat([prior.decode(few) for few in x.split(batch)]) for x in states]
            except (torch.OutOfMemoryError, MemoryError) as error:
                what = "samples (-n) or batch (--batch)" if n > batch else "batch (--batch)"
                raise InputError(
                    f"{n} chains of {len(levels) - 1} steps in batches of {batch} do not fit in memory: lower {what}"
                ) from error
            x, log_w, accepted = (v.unflatten(0, (-1, n)) for v in (torch.stack(decoded, 1), log_w, accepted))
            out = Draws(
                x.flatten(1, 2), diagnostics=ChainDiagnostics(accepted, step, log_w), domain=named_domain(prior)
            )
            return out if world.size == 1 else out.cpu()

        parts = list(world.share(chunks, draw))  # now, while the bar is there
    found = Draws.cat(parts).to(prior.state_like(obs.y).device)
    assert isinstance(found.diagnostics, ChainDiagnostics)
    still = found.diagnostics.stuck.all(1).nonzero()[:, 0].tolist()
    if still:
        raise InputError(
            f"no chain of measurement {first + still[0]} moved: the paths of h are too far from it. Give more "
            "iterations (half of them tune), or a better h"
        )
    return found


class _Paths:
    """Paths from their noise z [N, B, *E]: clean ends, log w, and its gradient in z."""

    def __init__(
        self,
        prior: Denoiser,
        h: HTransform,
        obs: Observation,
        sampler: KernelSampler,
        levels: list[Level],
        batch: int = 64,
    ):
        condition(prior, h, obs[:1])  # refuses what does not fit
        self.batch = batch
        self.prior, self.h, self.obs = prior, h, obs
        self.start = levels[0].sigma
        self.steps = [(t, s, sampler.kernel(t, s)) for t, s in pairwise(levels)]
        self.like = prior.state_like(obs.y)

    def normal(self, noise: Noise) -> Tensor:
        """Standard normal z, where the prior's samples live."""
        n = (
            noise.normal((len(self.steps), *self.prior.event_shape), device=self.like.device)
            .to(self.like.dtype)
            .transpose(0, 1)
        )
        return torch.stack([self.prior.project(v, torch.ones_like(v)) for v in n])

    def step(self, i: int, x: Tensor, n: Tensor, obs: Observation) -> tuple[Tensor, Tensor]:
        """(x_s, log of prior's step over this one [B])."""
        t, s, kernel = self.steps[i]
        pred = self.prior(x, torch.tensor(t.t, dtype=torch.float64))
        if x.requires_grad and not pred.mean.requires_grad:
            raise ContractError(
                f"the chains differentiate the prior, but {type(self.prior).__name__} returns a mean that is cut "
                "off from x_t: use particles (deft-smc, tds)"
            )
        if s.sigma == 0:
            return kernel.step(x, pred.mean, None), x.new_zeros(len(x))
        moved = shift(kernel, t, self.h(pred, obs))
        return kernel.step(x, pred.mean, n) + moved, log_ratio(kernel, moved.double(), n.double())

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x_0 [B, *E], log w [B], its gradient [N, B, *E])."""
        parts = [slice(low, low + self.batch) for low in range(0, z.shape[1], self.batch)]
        x, log_w, gradient = zip(*(self._part(z[:, part], self.obs[part]) for part in parts), strict=True)
        return torch.cat(x), torch.cat(log_w), torch.cat(gradient, 1)

    @compiled_calls()
    def _part(self, z: Tensor, obs: Observation) -> tuple[Tensor, Tensor, Tensor]:
        x, states, log_w = self.start * z[0], [], torch.zeros(z.shape[1], dtype=torch.float64, device=z.device)
        noise = [*z[1:], torch.zeros_like(z[0])]  # step i is made by z[i + 1]; the last, onto the clean end, by none
        for i, n in enumerate(noise):
            states.append(x)
            x, ratio = self.step(i, x, n, obs)
            log_w = log_w + ratio
        log_w = log_w + obs.log_prob(x).double()

        adjoint, grads = obs.score(x).detach(), []
        for i in reversed(range(len(noise))):
            with torch.enable_grad():
                before, n = states[i].detach().requires_grad_(), noise[i].detach().requires_grad_()
                after, ratio = self.step(i, before, n, obs)
                adjoint, by_noise = torch.autograd.grad(
                    (adjoint * after).sum() + ratio.sum(), [before, n], allow_unused=True
                )
            grads.append(by_noise)
        gradient = [self.start * adjoint, *reversed(grads[1:])]
        return (
            x,
            log_w,
            torch.stack([self.prior.project(g, torch.ones_like(g)) for g in gradient]),
        )  # z has no other part


def _run(
    target: _Paths,
    noise: Noise,
    samples: int,
    iterations: int,
    burn_in: int,
    leapfrogs: int,
    keep: int,
    every: int,
    bar: Any,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """(states that are kept, log w [n, iterations], acceptance [n], step of each measurement) of n chains, `samples`
    for each measurement."""
    z = target.normal(noise)
    x, log_w, gradient = target(z)
    if not bool(torch.isfinite(log_w).all() and torch.isfinite(gradient).all()):
        raise NonFiniteError(
            "the weight of a path under h, or its derivative, is not a number: the prior, h or the likelihood is "
            "not finite on it"
        )
    most = math.pi / (2 * leapfrogs)
    step = StepSize(len(log_w) // samples, most, z.device)
    anneal = burn_in // 2
    kept, trace, accepted = [], [], torch.zeros_like(log_w)
    for k in range(iterations):
        tempered = 0.01 ** (1 - k / anneal) if k < anneal else 1.0
        if k == anneal:
            step.restart()
        angle = step.size(tuning=k < burn_in).repeat_interleave(samples) * (
            0.6 + 0.4 * noise.uniform(device=z.device).double()
        )
        p = target.normal(noise)
        new = (z, x, log_w, gradient)
        start = tempered * log_w - _half_square(z) - _half_square(p)
        cos, sin, half = (
            f.to(z.dtype).reshape(1, -1, *[1] * (z.ndim - 2)) for f in (angle.cos(), angle.sin(), tempered * angle / 2)
        )
        for _ in range(leapfrogs):
            p = p + half * new[3]
            turned = cos * new[0] + sin * p
            p = cos * p - sin * new[0]
            new = (turned, *target(turned))
            p = p + half * new[3]
            bar.update(len(log_w))
        chance = (tempered * new[2] - _half_square(new[0]) - _half_square(p) - start).clamp_max(0).exp().nan_to_num(0.0)
        take = noise.uniform(device=z.device).double() < chance
        z, gradient = (
            torch.where(take.reshape(1, -1, *[1] * (z.ndim - 2)), a, b) for a, b in ((new[0], z), (new[3], gradient))
        )
        x = torch.where(take.reshape(-1, *[1] * (x.ndim - 1)), new[1], x)
        log_w = torch.where(take, new[2], log_w)
        trace.append(log_w)
        if k < burn_in:
            step.learn(chance.unflatten(0, (-1, samples)).mean(1))
        else:
            accepted = accepted + chance / (iterations - burn_in)
        left = iterations - 1 - k
        if left % every == 0 and left // every < keep:
            kept.append(x)
    return kept, torch.stack(trace, 1), accepted, step.size(tuning=False)


def _half_square(v: Tensor) -> Tensor:
    """|v|^2 / 2 of each chain, v [N, B, *E]."""
    return 0.5 * v.double().square().transpose(0, 1).flatten(1).sum(1)


class StepSize:
    """Dual averaging of log step, for each measurement (Hoffman & Gelman 2014, algorithm 5), at most `most`: further is
    round again."""

    def __init__(self, n: int, most: float, device: torch.device):
        self.most, self.least = math.log(most), math.log(most / 1000)
        self.now = torch.full((n,), self.most - math.log(4), dtype=torch.float64, device=device)
        self.restart()

    def restart(self) -> None:
        self.count, self.error, self.mean, self.centre = (
            0,
            torch.zeros_like(self.now),
            self.now.clone(),
            self.now + math.log(2),
        )

    def learn(self, chance: Tensor) -> None:
        self.count += 1
        k = self.count
        self.error = self.error + (TARGET - chance - self.error) / (k + 10)
        self.now = (self.centre - math.sqrt(k) / 0.05 * self.error).clamp(self.least, self.most)
        self.mean = self.mean + k**-0.75 * (self.now - self.mean)

    def size(self, *, tuning: bool) -> Tensor:
        return (self.now if tuning else self.mean).exp()
