"""Methods whose samples are not drawn one by one: weighted particles, and chains over paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform, Potential
from deft.core.likelihood import Observation
from deft.core.sampler import Sampler
from deft.core.transition import Level
from deft.errors import InputError
from deft.guidance import Predictive, SeenNoisy
from deft.guidance.combine import Scaled, Zero
from deft.kinds.draws import Draws
from deft.learned.deft import Calibrated
from deft.methods.method import Draw
from deft.methods.settings import Settings, setting
from deft.runtime.distributed import World
from deft.samplers import adapted, sample_hmc, sample_smc
from deft.samplers.diagnostics import ChainDiagnostics
from deft.samplers.ode import with_weights
from deft.values import Range


@dataclass(frozen=True)
class ParticleSettings(Settings):
    """Of weighted particles."""

    particles: int = setting(16, "of each measurement", range=Range(1, 1_000_000))
    ess_threshold: float = setting(
        0.5, "resample where a smaller share of them is effective", key="threshold", range=Range(0, 1)
    )


@dataclass(frozen=True)
class PopulationSettings(ParticleSettings):
    """Of particles from which several samples are drawn."""

    independent: bool = setting(False, "every sample from particles of its own", key="apart")


@dataclass(frozen=True)
class ChainSettings(Settings):
    """Of Hamiltonian Monte Carlo."""

    iterations: int = setting(40, "of each chain, half of which tune its step", range=Range(1, 1_000_000))
    leapfrogs: int = setting(4, "gradients in an iteration", range=Range(1, 10_000))


Population = TypeVar("Population", bound=PopulationSettings)


def draw_particles(twist: Callable[[HTransform, Population], Potential]) -> Draw[Population]:
    """A `draw` by `sample_smc`: h proposes, the twist weighs."""

    def draw(
        prior: Denoiser,
        h: HTransform,
        obs: Observation,
        n: int,
        *,
        settings: Population,
        sampler: Sampler,
        seed: int,
        batch: int,
        grid: Sequence[Level],
        first: int,
        progress: bool,
        world: World | None,
    ) -> Draws:
        return sample_smc(
            prior,
            h,
            obs,
            n,
            sampler=with_weights(sampler, "particles"),
            seed=seed,
            batch=batch,
            grid=grid,
            first=first,
            progress=progress,
            world=world,
            twist=twist(h, settings),
            particles=settings.particles,
            ess_threshold=settings.ess_threshold,
            independent=settings.independent,
        )

    return draw


def measured_by_deft(h: HTransform, settings: PopulationSettings) -> Potential:
    """p(y | x̂) with the spread that DEFT measured when it was calibrated."""
    return Predictive(rho2=next((part.rho2 for part in h.modules() if isinstance(part, Calibrated)), None))


def draw_mcgdiff(
    prior: Denoiser,
    h: HTransform,
    obs: Observation,
    n: int,
    *,
    settings: ParticleSettings,
    sampler: Sampler,
    seed: int,
    batch: int,
    grid: Sequence[Level],
    first: int,
    progress: bool,
    world: World | None,
) -> Draws:
    """Particles that step with the prior, given what is seen; h is not used."""
    if isinstance(h, Scaled):
        raise InputError("mcgdiff has no h to scale: its steps are those of the prior, given what is seen")
    return sample_smc(
        prior,
        Zero(),
        obs,
        n,
        sampler=with_weights(sampler, "particles"),
        seed=seed,
        batch=batch,
        grid=grid,
        first=first,
        progress=progress,
        world=world,
        twist=SeenNoisy(),
        particles=settings.particles,
        ess_threshold=settings.ess_threshold,
        move=adapted,
    )


def draw_chains(
    prior: Denoiser,
    h: HTransform,
    obs: Observation,
    n: int,
    *,
    settings: ChainSettings,
    sampler: Sampler,
    seed: int,
    batch: int,
    grid: Sequence[Level],
    first: int,
    progress: bool,
    world: World | None,
) -> Draws:
    """The last states of chains, all of which must have moved: where they started is no sample."""
    found = sample_hmc(
        prior,
        h,
        obs,
        n,
        sampler=with_weights(sampler),
        seed=seed,
        batch=batch,
        grid=grid,
        first=first,
        progress=progress,
        world=world,
        iterations=settings.iterations,
        leapfrogs=settings.leapfrogs,
    )
    assert isinstance(found.diagnostics, ChainDiagnostics)
    stuck = found.diagnostics.stuck
    if bool(stuck.any()):
        raise InputError(
            f"{int(stuck.sum())} of {stuck.numel()} chains did not move: give more iterations (--set "
            f"iterations={2 * settings.iterations}), or a better h"
        )
    return found


def chain_passes(settings: ChainSettings) -> float:
    """How often a chain goes over its path: forward, and once more for the derivative."""
    return 2 * (1 + settings.iterations * settings.leapfrogs)
