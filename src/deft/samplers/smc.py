"""Sequential Monte Carlo along a sampler's steps: samples of p(x_0 | y) whatever h, given enough particles.

K particles of one measurement take the steps of the sampler under a correction h (the proposal) and carry weights for
the targets prior(x_t, ..., x_T) psi_t(x_t), psi_t = exp(log_h) of any `Potential` (the twist). A step from t to s
multiplies a weight by

    ( prior's step / corrected step ) * psi_s(x_s) / psi_t(x_t),

the first factor from `deft.core.transition.log_ratio`; the last step, onto the clean end, is the prior's own mean, and
there the likelihood takes psi's place. So the weights end at the posterior of the prior as this sampler draws it, for
every h and every twist (Wu et al. 2023, "Practical and asymptotically exact conditional sampling", algorithm 1); both
only decide how many particles that takes. A twist is never differentiated here: p(y | x̂) with some variance costs no
backward pass.

Where the effective number of particles falls below a share of K they are resampled (systematic; Kitagawa 1996), and
the mean weight since the last time enters the estimate of log p(y), whose exponential is unbiased (Del Moral 2004).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from tqdm import tqdm

from deft.arguments import checks_arguments
from deft.core.condition import condition, fitted_to
from deft.core.denoiser import Denoiser
from deft.core.grid import times
from deft.core.htransform import HTransform, Potential
from deft.core.likelihood import Observation
from deft.core.random import Noise, seed_for
from deft.core.transition import Kernel, Level, log_ratio
from deft.core.transition import shift as shift_of
from deft.errors import InputError, NonFiniteError
from deft.guidance.twist import SeenNoisy
from deft.kinds.draws import Draws
from deft.runtime.compiled import compiled_calls
from deft.runtime.distributed import World, get_world
from deft.samplers.diagnostics import ParticleDiagnostics, ess_fraction, log_mean
from deft.samplers.draw import named_domain, takes_old_names
from deft.samplers.ode import KernelSampler, with_weights
from deft.samplers.sde import Ancestral
from deft.values import Index, Rows, Samples, Seed, Steps

Move = Callable[[Kernel, Level, Tensor, Tensor, Tensor, Tensor, Observation], tuple[Tensor, Tensor]]
"""move(kernel, s, x_t, mean, shift, n, obs) -> (x_s, log(prior's step / this step) [B], float64)."""

RESAMPLING = 2**48
"""Added to a measurement's number: the streams of its resampling, which no particle uses."""


def shifted(
    kernel: Kernel, s: Level, x_t: Tensor, mean: Tensor, shift: Tensor, n: Tensor, obs: Observation
) -> tuple[Tensor, Tensor]:
    """The step under h: the prior's, its mean shifted."""
    return kernel.step(x_t, mean, n) + shift, log_ratio(kernel, shift.double(), n.double())


def adapted(
    kernel: Kernel, s: Level, x_t: Tensor, mean: Tensor, shift: Tensor, n: Tensor, obs: Observation
) -> tuple[Tensor, Tensor]:
    """The prior's step times the twist `SeenNoisy` at s, which is a normal law again: what A sees moves towards alpha
    y.

    With v the twist's variance and gain = std^2 / (std^2 + v), in A's range: mean + gain (alpha_s y - A mean), std
    sqrt(1 - gain). The weight is then the predictive N(alpha_s y; A mean, std^2 + v) over the twist at t (Cardoso et
    al. 2024, algorithm 1).
    """
    centre = kernel.c_x * x_t + kernel.c_mean * mean
    target, variance, operator = SeenNoisy.law(s.alpha, s.sigma, obs, x_t)
    gain = kernel.std**2 / (kernel.std**2 + variance)
    x_s = centre + gain * (target - operator(centre)) + kernel.std * (n + ((1 - gain).sqrt() - 1) * operator(n))
    z, n64 = ((x_s - centre) / kernel.std).double(), n.double()
    volume = operator.number_of_measurements(n64) * torch.log1p(-gain.double()).reshape(-1)
    return x_s, 0.5 * ((n64.square() - z.square()).flatten(1).sum(1) + volume)


@takes_old_names(samples="n", threshold="ess_threshold", apart="independent")
@torch.no_grad()
@checks_arguments
def sample_smc(
    prior: Denoiser,
    h: HTransform,
    obs: Observation,
    n: Samples = 1,
    *,
    sampler: KernelSampler | None = None,
    steps: Steps = 50,
    spacing: str = "angle",
    seed: Seed = 0,
    batch: Rows = 64,
    grid: Sequence[Level] | None = None,
    first: Index = 0,
    progress: bool = False,
    world: World | None = None,
    twist: Potential,
    particles: Samples = 16,
    ess_threshold: float = 0.5,
    independent: bool = False,
    move: Move = shifted,
) -> Draws:
    """n samples from the weighted particles of each of B measurements (after Wu et al. 2023, algorithm 1).

    x is [B, n, *data_shape]; its samples weigh the same, for they are drawn by weight. `log_evidence` estimates log
    p(y), and `diagnostics` are `ParticleDiagnostics`. With one particle this is plain sampling, but for h in the last
    step.

    Args:
        h: any h-transform; `Zero()` proposes with the prior.
        sampler: one with noise; default `Ancestral()`.
        steps, spacing: see `deft.times`; or give the `grid` itself, whose last level must be clean.
        seed, first: particle k of measurement i uses stream (first + i) * particles + k, whatever the batch.
        batch: particles moved at once: so many measurements as fit, at least one.
        world: the processes that share the measurements, as in `sample_posterior`.
        twist: the potential whose `log_h` weighs particles on the way; asked for its value, never for a gradient.
        particles: K of each measurement; they share a batch.
        ess_threshold: resample below this effective share; 0 never does (importance sampling of whole paths).
        independent: every sample from K particles of its own, so that samples are independent, for n times the work.
            Samples of one population come from the few particles that were left after resampling, and are alike where K
            is small for the dimension.
        move: how a particle steps: `shifted` by h, or `adapted` to a projection (with twist `SeenNoisy`; h is not
            used).

    Raises:
        InputError: a sampler without noise; no particle agrees with y.
        NonFiniteError: a state or a weight that is not a number.

    >>> import deft
    >>> from deft.guidance import Predictive
    >>> from deft.guidance.combine import Zero
    >>> world, obs = deft.testing.half_seen(2)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_smc(prior, Zero(), obs, twist=Predictive(0.5), particles=64, steps=20)
    >>> (draws.log_evidence - world.posterior(obs).log_evidence).abs() < 0.5
    tensor([True])
    """
    if n < 1 or particles < 1 or batch < 1:
        raise InputError(f"n (samples), particles and batch must be at least 1, got {n}, {particles} and {batch}")
    if not 0 <= ess_threshold <= 1:
        raise InputError(
            f"ess_threshold is a share of the particles, between 0 (never resample) and 1, got {ess_threshold}"
        )
    if independent:
        each = sample_smc(
            prior,
            h,
            obs.repeat(n),
            sampler=sampler,
            steps=steps,
            spacing=spacing,
            seed=seed,
            batch=batch,
            grid=grid,
            first=first * n,
            progress=progress,
            world=world,
            twist=twist,
            particles=particles,
            ess_threshold=ess_threshold,
            move=move,
        )
        return _together(each, n)
    sampler = with_weights(sampler or Ancestral(), "particles")
    levels = list(grid) if grid is not None else times(prior.schedule, steps, spacing)
    world = world or get_world()
    obs = fitted_to(prior, obs)
    inside = prior.to_latent(obs)
    at_once = max(1, batch // particles)
    chunks = [slice(low, min(low + at_once, len(obs))) for low in range(0, len(obs), at_once)]

    def draw(part: slice) -> Draws:
        numbers = range(first + part.start, first + part.stop)
        try:
            out = _run(prior, h, inside[part], n, twist, particles, ess_threshold, sampler, levels, move, seed, numbers)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise InputError(
                f"{particles} particles in batches of {batch} do not fit in memory: lower batch (--batch) or particles"
            ) from error
        return out if world.size == 1 else out.cpu()

    parts = []
    with tqdm(total=len(obs), desc="particles", unit="measurement", disable=not (progress and world.main)) as bar:
        for out in world.share(chunks, draw):
            parts.append(out)
            bar.update(len(out))
    return Draws.cat(parts).to(prior.state_like(obs.y).device)


def _together(each: Draws, n: int) -> Draws:
    """One of B measurements from the populations of its samples, n samples of them; the mean of evidences is unbiased
    as each is."""
    fared, evidence = each.diagnostics, each.log_evidence
    assert isinstance(fared, ParticleDiagnostics) and evidence is not None
    ess, resampled, moved = (
        v.reshape(-1, n, *v.shape[1:]).mean(1) for v in (fared.ess_fraction, fared.resampled, fared.moved)
    )
    x = each.x.reshape(-1, n, *each.x.shape[2:])
    return Draws(x, None, log_mean(evidence.reshape(-1, n)), ParticleDiagnostics(ess, resampled, moved), each.domain)


def _run(
    prior: Denoiser,
    h: HTransform,
    obs: Observation,
    samples: int,
    twist: Potential,
    k: int,
    threshold: float,
    sampler: KernelSampler,
    levels: list[Level],
    move: Move,
    seed: int,
    numbers: range,
) -> Draws:
    """All particles of a few measurements in one batch, a measurement's rows next to each other."""
    b, rows = len(obs), obs.repeat(k)
    conditioned = condition(prior, h, rows)
    noise = Noise(seed_for("samples", seed), range(numbers.start * k, numbers.stop * k))
    uniforms = Noise(seed_for("samples", seed), [RESAMPLING + i for i in numbers])
    like, shape = conditioned.state_like(), prior.event_shape
    first_of = k * torch.arange(b, device=like.device)[:, None]

    def normal() -> Tensor:
        n = noise.normal(shape, device=like.device).to(like.dtype)
        return prior.project(n, torch.ones_like(n))

    n = normal()
    zero = torch.zeros_like(n)
    x, ratio = move(Kernel(0.0, 0.0, levels[0].sigma), levels[0], zero, zero, zero, n, rows)
    log_psi = torch.zeros_like(ratio)
    log_w = ratio.reshape(b, k)
    log_z, resampled = log_w.new_zeros(b), log_w.new_zeros(b)
    fractions = []
    with compiled_calls():
        for t, s in pairwise(levels):
            pred, value = conditioned.both(x, torch.tensor(t.t, dtype=torch.float64))
            now = twist.log_h(pred, rows).double()
            log_w = log_w + (now - log_psi).reshape(b, k)

            share = ess_fraction(log_w)
            fractions.append(share)
            low = (share < threshold)[:, None]
            pick = torch.where(
                low, systematic(log_w, uniforms.uniform(device=like.device), k), torch.arange(k, device=like.device)
            )
            pick = (first_of + pick).flatten()
            log_z = log_z + torch.where(low[:, 0], log_mean(log_w), 0.0)
            log_w = torch.where(low, 0.0, log_w)
            resampled = resampled + low[:, 0]
            x, mean, value, log_psi = pred.x_t[pick], pred.mean[pick], value[pick], now[pick]

            kernel = sampler.kernel(t, s)
            if s.sigma == 0:
                x = kernel.step(x, mean, None)
                break
            x, ratio = move(kernel, s, x, mean, shift_of(kernel, t, value), normal(), rows)
            log_w = log_w + ratio.reshape(b, k)

    log_w = log_w + (rows.log_prob(x).double() - log_psi).reshape(b, k)
    fractions.append(ess_fraction(log_w))
    log_z = log_z + log_mean(log_w)
    _check(x, log_z, numbers)
    each = x.reshape(b, k, *shape)
    chosen = systematic(log_w, uniforms.uniform(device=like.device), samples)
    drawn = prior.decode(x[(first_of + chosen).flatten()])
    fared = ParticleDiagnostics(torch.stack(fractions, 1), resampled, _moved(each, log_w))
    return Draws(drawn.reshape(b, samples, *drawn.shape[1:]), None, log_z, fared, named_domain(prior))


def systematic(log_w: Tensor, u: Tensor, count: int) -> Tensor:
    """`count` particles for each row of log-weights [B, K], from one uniform number [B] a row: [B, count].

    Systematic resampling (Kitagawa 1996): particle k is taken floor or ceil of count times its weight times.
    """
    edges = torch.softmax(log_w, 1).cumsum(1)
    points = (u.to(edges)[:, None] + torch.arange(count, device=edges.device)) / count
    return torch.searchsorted(edges, points).clamp_max(log_w.shape[1] - 1)


def _moved(x: Tensor, log_w: Tensor) -> Tensor:
    flat = x.flatten(2).double()
    plain, weighted = flat.mean(1), (torch.softmax(log_w, 1)[..., None] * flat).sum(1)
    deviation = (flat - plain[:, None]).square().mean((1, 2)).sqrt()
    return (weighted - plain).square().mean(1).sqrt() / deviation.clamp_min(1e-30)


def _check(x: Tensor, log_z: Tensor, numbers: range) -> None:
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError("a particle left the range of numbers: lower the guidance or add steps")
    bad = (~torch.isfinite(log_z)).nonzero()[:, 0].tolist()
    if bad and bool(torch.isnan(log_z).any()):
        raise NonFiniteError(
            f"the weights of measurement {numbers[bad[0]]} are not numbers: the twist, or the likelihood at the "
            "final samples"
        )
    if bad:
        raise InputError(
            f"no particle agrees with measurement {numbers[bad[0]]} (its likelihood is 0 at all of them): give "
            "more particles, or a better h"
        )
