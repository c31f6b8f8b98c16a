"""A row of the table of methods: what a method is called, what it requires, how it is made."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.core.likelihood import Likelihood, Observation
from deft.core.sampler import Sampler
from deft.core.transition import Level
from deft.kinds.draws import Draws
from deft.likelihood.gaussian import why_unsupported
from deft.methods.settings import NoSettings, Settings
from deft.runtime.distributed import World
from deft.samplers import SAMPLERS

S = TypeVar("S", bound=Settings)
S_contra = TypeVar("S_contra", bound=Settings, contravariant=True)


@dataclass(frozen=True)
class Context(Generic[S]):
    """What an h-transform may be made from: the prior, the grid and sampler it will run on, its method's settings, a
    fitted h."""

    prior: Denoiser
    grid: Sequence[Level]
    sampler: Sampler
    settings: S
    fitted: HTransform | None = None


class Draw(Protocol[S_contra]):
    """Takes the place of `sample_posterior`, for methods whose samples of one y see each other, or that go over a path
    many times."""

    def __call__(
        self,
        prior: Denoiser,
        h: HTransform,
        obs: Observation,
        n: int,
        *,
        settings: S_contra,
        sampler: Sampler,
        seed: int,
        batch: int,
        grid: Sequence[Level],
        first: int,
        progress: bool,
        world: World | None,
    ) -> Draws: ...


@dataclass(frozen=True)
class Method(Generic[S]):
    """A row of the table.

    title: for people. make: the h-transform, from a `Context`. trained: whether it needs `deft fit` first. backward:
    whether a step differentiates through the prior. settings: its own, at their defaults. solver, eta, steps, spacing:
    the sampler's name in `SAMPLERS` and its settings, by default.
    requires: of the measurement, a key of
    `deft.likelihood.gaussian.REQUIREMENTS`. sampler: makes the method's own rule for a step, for the few that
    are no h-transform alone; the user's choice of sampler and eta then do not matter. start: sigma/alpha at which its
    grid begins, from the settings; inf for all of the schedule. draw: see `Draw`.
    runs: of the prior's network at each step. passes: how often a sample's path is simulated, from the settings.
    learned: which kind of h it must be given, a key of `LEARNED` ("" for none). beside: a second one, of the prior
    alone. retrains: whether that is a copy of the
    whole prior. grid: values worth trying of its settings, `eta`, `sampler` and `spacing`, for `deft compare`; see
    `choices`.
    """

    name: str
    title: str
    make: Callable[[Context[S]], HTransform]
    trained: bool = False
    backward: bool = False
    settings: S = field(default_factory=NoSettings)  # type: ignore[assignment]
    eta: float = 1.0
    steps: int = 50
    spacing: str = "angle"
    about: str = ""
    requires: str = "gaussian"
    solver: str = "ddim"
    sampler: Callable[[S], Sampler] | None = None
    start: Callable[[S], float] = lambda settings: math.inf
    draw: Draw[S] | None = None
    runs: int = 1
    passes: Callable[[S], float] = lambda settings: 1
    learned: str = ""
    beside: str = ""
    retrains: bool = False
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "trained": self.trained,
            "backward": self.backward,
            "settings": dict(self.settings),
            "eta": self.eta,
            "steps": self.steps,
            "spacing": self.spacing,
            "about": self.about,
            "needs": self.requires,
            "own_sampler": self.sampler is not None,
        }

    def choices(self) -> dict[str, Sequence[Any]]:
        """What `deft compare` may try: `grid`, and the samplers and spacings that every method may choose from.

        A method with its own sampler has no choice of sampler or eta. One that weighs paths (`draw`) needs a sampler
        whose steps are Gaussian kernels with noise. A row's own `sampler` or `spacing` takes precedence.

        >>> from deft.methods import METHODS
        >>> METHODS["deft-smc"].choices()["sampler"]
        ('ddim', 'ito')
        """
        open_: dict[str, Sequence[Any]] = {"spacing": SPACES}
        if self.sampler is None:
            open_["sampler"] = SOLVERS if self.draw is None else WEIGHTED
        return {**open_, **self.grid}

    def why_unsupported(self, likelihood: Likelihood) -> str | None:
        """Why this method cannot be used with the likelihood, or None."""
        return why_unsupported(likelihood, self.requires, self.title)

    def misfit(self, likelihood: Likelihood) -> str | None:
        """`why_unsupported`, by its old name."""
        warnings.warn("Method.misfit is now Method.why_unsupported", DeprecationWarning, stacklevel=2)
        return self.why_unsupported(likelihood)

    @property
    def needs(self) -> str:
        """`requires`, by its old name."""
        warnings.warn("Method.needs is now Method.requires", DeprecationWarning, stacklevel=2)
        return self.requires


SOLVERS = tuple(name for name in ("ddim", "dpmpp-2m", "sde-dpmpp-2m") if name in SAMPLERS)
"""Samplers that `deft compare` lets a method choose from, one call of the prior a step each."""

WEIGHTED = ("ddim", "ito")
"""The same for methods that weigh paths by their kernels (particles, chains), or whose weight is defined on a kernel's
step (DPS)."""

SPACES = ("log-snr", "karras", "angle")
"""Spacings of the steps that `deft compare` lets a method choose from."""
