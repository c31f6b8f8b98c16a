"""A plan: a method with everything that decides its samples but the seed."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, get_origin, get_type_hints

import torch

from deft.core.condition import fitted_to
from deft.core.denoiser import Denoiser
from deft.core.grid import SPACINGS, levels, times
from deft.core.htransform import HTransform
from deft.core.likelihood import Likelihood, Observation
from deft.core.sampler import Sampler
from deft.core.schedule import Schedule
from deft.core.transition import Level
from deft.errors import InputError, unknown
from deft.guidance.combine import Scaled, Zero
from deft.kinds.draws import Draws
from deft.methods.drawing import ParticleSettings, PopulationSettings
from deft.methods.method import Context, Method
from deft.methods.settings import Settings, read_value
from deft.methods.table import METHODS
from deft.runtime.distributed import World
from deft.samplers import SAMPLERS, sample_posterior
from deft.values import Share, Steps, check

TUNED: dict[str, dict[str, dict[str, Any]]] = json.loads(
    resources.files("deft.methods").joinpath("tuned.json").read_text(encoding="utf-8")
)
"""task -> method -> settings (its own, `sampler`, `eta`, `steps`, `spacing`) found best on bundled validation images,
mostly by `deft compare` (benchmarks/tuned.py writes the file); what is not here has the method's defaults.

Learned h are not in it: they have scale 1 and their row's sampler. Entries of inpaint, inpaint-random, sr4 and
deblur-gaussian for seven methods were found by energy score; others are still from before, by the distance of single
samples, and are to be found again."""


def get_method(name: str) -> Method[Any]:
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


@dataclass(frozen=True, repr=False)
class Plan:
    """A method with everything that decides its samples but the seed. `plan` makes one.

    settings: the method's own. sampler, eta, sampler_settings: a name in `SAMPLERS`, and what its class is given.
    """

    method: Method[Any]
    settings: Settings
    sampler: str = "ddim"
    eta: float = 1.0
    steps: int = 50
    spacing: str = "angle"
    sampler_settings: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        c = self.config()
        return f"plan({c.pop('method')!r}, {', '.join(f'{k}={v!r}' for k, v in c.items())})"

    def make_sampler(self) -> Sampler:
        own = self.method.sampler
        return own(self.settings) if own is not None else make_sampler(self.sampler, self.eta, self.sampler_settings)

    def grid(self, prior: Denoiser) -> list[Level]:
        grid = times(prior.schedule, self.steps, self.spacing)
        start = self.method.start(self.settings)
        return grid if start >= grid[0].sigma / grid[0].alpha else begun_at(prior.schedule, grid, start)

    def make(self, prior: Denoiser, fitted: HTransform | None = None) -> tuple[HTransform, Sampler, list[Level]]:
        """The h-transform, the sampler and the grid."""
        sampler, grid = self.make_sampler(), self.grid(prior)
        return self.method.make(Context(prior, grid, sampler, self.settings, fitted)), sampler, grid

    def draw(
        self,
        prior: Denoiser,
        obs: Observation,
        n: int = 1,
        *,
        fitted: HTransform | None = None,
        scale: float = 1.0,
        seed: int = 0,
        batch: int = 64,
        first: int = 0,
        rows: range | None = None,
        progress: bool = False,
        world: World | None = None,
    ) -> Draws:
        """n samples for each of B measurements; particles and chains come with diagnostics, particles with
        `log_evidence`.

        Args:
            fitted: a learned h, for methods that need one. scale: of h.
            seed, first, rows, batch, progress, world: as in `sample_posterior`.

        Raises:
            InputError: the method cannot be used with this measurement, has no h to scale, or draws all n together
                (`joint`) and is asked for some rows.
        """
        reason = self.method.why_unsupported(obs.likelihood) or no_gradient(self.method, prior, obs.likelihood)
        if reason:
            raise InputError(reason)
        obs = fitted_to(prior, obs)
        h, sampler, grid = self.make(prior, fitted)
        if scale != 1 and self.method.sampler is not None and isinstance(h, Zero):
            raise InputError(f"{self.method.title} has no h to scale (its own settings: {', '.join(self.settings)})")
        h = h if scale == 1 else Scaled(h, scale)
        if self.method.draw is not None:
            if rows is not None and rows != range(n):
                raise InputError(f"{self.method.title} draws all samples of a measurement together: leave rows out")
            return self.method.draw(
                prior,
                h,
                obs,
                n,
                settings=self.settings,
                sampler=sampler,
                seed=seed,
                batch=batch,
                grid=grid,
                first=first,
                progress=progress,
                world=world,
            )
        return sample_posterior(
            prior,
            h,
            obs,
            n,
            sampler=sampler,
            seed=seed,
            batch=batch,
            grid=grid,
            first=first,
            rows=rows,
            progress=progress,
            world=world,
        )

    @property
    def joint(self) -> bool:
        """Whether all samples of a measurement are drawn together (particles, chains): none is there before all
        are."""
        return self.method.draw is not None

    def calls(self, n: int = 1) -> float:
        """Calls of the prior for each of n samples of one measurement."""
        per = self.make_sampler().calls(self.steps) * self.method.runs * self.method.passes(self.settings)
        if not isinstance(self.settings, ParticleSettings):
            return float(per)
        shared = 1 if isinstance(self.settings, PopulationSettings) and self.settings.independent else n
        return per * self.settings.particles / shared

    def config(self) -> dict[str, Any]:
        """As JSON; `plan(**config)`, with `method` as the name, is the same plan again."""
        return {
            "method": self.method.name,
            "settings": {**self.settings, **self.sampler_settings},
            "sampler": self.sampler,
            "eta": self.eta,
            "steps": self.steps,
            "spacing": self.spacing,
        }


def forward_only(likelihood: Likelihood | None = None) -> list[str]:
    """Names of the methods that ask the prior for its mean alone: not for a derivative of it, nor for its network,
    which they would change. Those that can be used with a likelihood, where one is given.

    >>> "dps" in forward_only(), "deft" in forward_only()
    (False, True)
    """
    rows = [m for m in METHODS.values() if not m.backward and m.runs == 1]
    return [m.name for m in rows if likelihood is None or m.why_unsupported(likelihood) is None]


def no_gradient(method: Method[Any], prior: Denoiser, likelihood: Likelihood | None = None) -> str | None:
    """One line why a method cannot be used with a prior that has no derivative, or None."""
    if not method.backward or prior.differentiable:
        return None
    what = prior.card.get("format", "a service")
    return (
        f"{method.title} differentiates through the prior, and this one ({what}) has no derivative: take a method that"
        f" needs none: {', '.join(forward_only(likelihood))}"
    )


def begun_at(schedule: Schedule, grid: Sequence[Level], ratio: float) -> list[Level]:
    """The grid with its times drawn together, so that it begins at sigma/alpha = ratio; even steps stay even.

    >>> from deft.schedule import RectifiedFlow
    >>> flow = RectifiedFlow()
    >>> [round(level.t, 2) for level in begun_at(flow, times(flow, 4, "uniform"), 1.0)]
    [0.5, 0.38, 0.25, 0.12, 0.0]
    """
    top = float(schedule.time_of(torch.tensor(-2 * math.log(ratio), dtype=torch.float64)))
    share = (top - schedule.t_min) / (grid[0].t - schedule.t_min)
    return levels(schedule, [schedule.t_min + share * (level.t - schedule.t_min) for level in grid[:-1]])


@cache
def sampler_options(name: str) -> dict[str, Any]:
    """Setting -> type of a sampler: the arguments of its class with a default, of a type that a command line can give.
    eta is not among them: it has a place of its own.

    Raises:
        InputError: no such sampler.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    kind = SAMPLERS[name]
    hints = get_type_hints(kind.__init__)
    known = {
        k: hints.get(k)
        for k, p in inspect.signature(kind).parameters.items()
        if k != "eta" and p.default is not p.empty
    }
    return {k: v for k, v in known.items() if v in (bool, int, float, str) or get_origin(v) is Literal}


def make_sampler(name: str, eta: float = 1.0, settings: Mapping[str, Any] | None = None) -> Sampler:
    """A sampler by its name in `SAMPLERS`; eta and settings are given to its class, eta if it takes it.

    >>> make_sampler("ddim", 0.5)
    DDIM(eta=0.5)
    """
    options = sampler_options(name)
    given = {}
    for key, value in (settings or {}).items():
        if key not in options:
            raise unknown(f"setting of {name}", key, options)
        given[key] = read_value(value, options[key], f"setting {key} of {name}")
    kind: Any = SAMPLERS[name]
    if takes_eta(name):
        given["eta"] = eta
    return kind(**given)


def takes_eta(sampler: str) -> bool:
    """Whether a sampler of `SAMPLERS` has a noise to choose.

    >>> takes_eta("ddim"), takes_eta("heun")
    (True, False)
    """
    return "eta" in inspect.signature(SAMPLERS[sampler]).parameters


def plan(
    name: str,
    task: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    steps: int | None = None,
    spacing: str | None = None,
) -> Plan:
    """The plan for a method: what is given here, then what was tuned for the task, then its defaults.

    Args:
        settings: of the method, and of the sampler where the method leaves it open: numbers, truth values, or texts as
            on a command line.

    Raises:
        InputError: no such method, sampler or setting, or a value of another kind.

    >>> plan("dps", steps=20)
    plan('dps', settings={'zeta': 1.8}, sampler='ddim', eta=1.0, steps=20, spacing='angle')
    """
    method = get_method(name)
    check(Steps | None, steps, "steps")
    check(Share | None, eta, "eta")
    check(str | None, spacing, "spacing")
    if spacing is not None and spacing not in SPACINGS:
        raise unknown("spacing", spacing, SPACINGS)
    if sampler is not None and not isinstance(sampler, str):
        raise InputError(
            f"sampler is a name here ({', '.join(SAMPLERS)}), got {sampler!r}: give one of your own to"
            " deft.sample_posterior(prior, h, obs, n, sampler=...)"
        )
    tuned = dict(TUNED.get(task or "", {}).get(name, {}))
    tuned_eta, tuned_steps = tuned.pop("eta", method.eta), int(tuned.pop("steps", method.steps))
    tuned_spacing, tuned_sampler = tuned.pop("spacing", method.spacing), tuned.pop("sampler", method.solver)
    chosen = sampler or tuned_sampler
    names = {**method.settings.names(), **{v: v for v in method.settings.names().values()}}
    options = {} if method.sampler is not None else {k: v for k, v in sampler_options(chosen).items() if k not in names}
    own, others = dict(tuned), {}
    for key, value in (settings or {}).items():
        if key in options:
            others[key] = read_value(value, options[key], f"setting {key} of {chosen}")
        elif key in names or not options:
            own[key] = value
        else:
            raise unknown(f"setting of {name} with {chosen}", key, [*method.settings, *options])
    default = {k: v for k, v in method.settings.items() if k not in own and names[k] not in own}
    made = Plan(
        method,
        type(method.settings).read({**default, **own}, name),
        chosen,
        tuned_eta if eta is None else eta,
        tuned_steps if steps is None else steps,
        spacing or tuned_spacing,
        others,
    )
    made.make_sampler()
    return made
