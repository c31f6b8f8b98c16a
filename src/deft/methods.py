"""The methods, as one table: what each is called, what it needs, and how it is made.

A method is an h-transform and the settings it works best with. `METHODS` is read by the command line, by the
reports and by the conformance tests: a row added here is offered everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from deft.denoise import Denoiser
from deft.errors import InputError, unknown
from deft.htransform import DPS, HTransform, PiGDM, ReconstructionGuidance, Scaled, Zero
from deft.kernel import Level
from deft.likelihood import Gaussian, Likelihood, Observation
from deft.operator import LinearOperator, Mask
from deft.sample import SAMPLERS, KernelSampler, Sampler, sample_posterior, times


class Making(NamedTuple):
    """What an h-transform may be made from: the prior, the grid and sampler it will run on, settings, a fitted h."""

    prior: Denoiser
    grid: Sequence[Level]
    sampler: Sampler
    settings: Mapping[str, float]
    fitted: HTransform | None = None


@dataclass(frozen=True)
class Method:
    """A row of the table.

    title: for people. trained: whether it needs `deft fit` first. backward: whether a step differentiates through
    the prior. settings: its own settings and their defaults. eta, steps, spacing: of the sampler, by default.
    needs: of the measurement, a key of `NEEDS`. sampler: makes the method's own rule for a step, for the few that are
    no h-transform alone; the user's choice of sampler and eta then do not matter. draw: takes the place of
    `sample_posterior` (and is given `settings`, too), for methods whose samples of one y see each other (particles).
    """

    name: str
    title: str
    make: Callable[[Making], HTransform]
    trained: bool = False
    backward: bool = False
    settings: Mapping[str, float] = field(default_factory=dict)
    eta: float = 1.0
    steps: int = 50
    spacing: str = "angle"
    about: str = ""
    needs: str = "gaussian"
    sampler: Callable[[Mapping[str, float]], Sampler] | None = None
    draw: Callable[..., Tensor] | None = None

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name, "title": self.title, "trained": self.trained, "backward": self.backward,
            "settings": dict(self.settings), "eta": self.eta, "steps": self.steps, "spacing": self.spacing, "about": self.about,
            "needs": self.needs, "own_sampler": self.sampler is not None,
        }  # fmt: skip

    def misfit(self, likelihood: Likelihood) -> str | None:
        """Why this method cannot be used with the likelihood, or None."""
        words, has = NEEDS[self.needs]
        return None if has(likelihood) else f"{self.title} needs {words}, got {_describe(likelihood)}"


def _describe(likelihood: Likelihood) -> str:
    inner = f" of {type(likelihood.operator).__name__}" if isinstance(likelihood, Gaussian) else ""
    return type(likelihood).__name__ + inner


def _operator_is(kind: type) -> Callable[[Likelihood], bool]:
    return lambda like: isinstance(like, Gaussian) and isinstance(like.operator, kind)


NEEDS: dict[str, tuple[str, Callable[[Likelihood], bool]]] = {
    "likelihood": ("any likelihood", lambda like: True),
    "gaussian": ("Gaussian noise", lambda like: isinstance(like, Gaussian)),
    "linear": ("a linear measurement with Gaussian noise", _operator_is(LinearOperator)),
    "mask": ("a mask (some of the sample's own numbers, with Gaussian noise)", _operator_is(Mask)),
}
"""name -> (in words, whether a likelihood has it)."""


def _deft(m: Making) -> HTransform:
    if m.fitted is None:
        raise InputError("deft needs a fitted h: give a run folder made by `deft fit`, or choose a training-free method")
    return m.fitted if m.settings["scale"] == 1 else Scaled(m.fitted, m.settings["scale"])


def _dps(m: Making) -> HTransform:
    if not isinstance(m.sampler, KernelSampler):
        return DPS(m.settings["zeta"])
    return DPS.published(m.settings["zeta"], m.sampler.kernel, m.grid)


def _reconstruction(m: Making) -> HTransform:
    """Ho et al.'s gradient with w = scale s^2/(s^2 + rho^2), so that y has the variance s^2 + rho^2 given x_t.

    s: the measurement's sigma_y. rho^2: what is left of data of deviation d at this level, as in `PiGDM`.
    """
    scale, d, s2 = m.settings["scale"], m.settings["data_std"], m.settings["sigma_y"] ** 2

    def weight(alpha: Any, sigma: Any) -> Any:
        rho2 = d**2 * sigma**2 / (d**2 * alpha**2 + sigma**2)
        return scale * s2 / (s2 + rho2)

    return ReconstructionGuidance(weight)


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            "deft", "DEFT", _deft, trained=True, needs="likelihood", settings={"scale": 1.0}, spacing="log-snr",
            about="h learned by a small network next to the frozen prior (Denker et al. 2024)",
        ),
        Method(
            "dps", "DPS", _dps, backward=True, settings={"zeta": 0.5},
            about="a gradient step on the norm of the residual (Chung et al. 2023, as published)",
        ),
        Method(
            "pigdm", "ΠGDM", lambda m: PiGDM(m.settings["data_std"]), backward=True, needs="linear", settings={"data_std": 1.0},
            about="pseudoinverse guidance for linear measurements (Song et al. 2023)",
        ),
        Method(
            "reconstruction", "reconstruction", _reconstruction, backward=True,
            settings={"scale": 1.0, "data_std": 1.0, "sigma_y": 0.05},
            about="the likelihood's gradient through the denoised mean (Ho et al. 2022)",
        ),
        Method("prior", "prior alone", lambda m: Zero(), steps=20, needs="likelihood", about="the unconditional prior, which ignores the measurement"),
    )
}  # fmt: skip

TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "inpaint": {
        "deft": {"scale": 1.8, "steps": 16, "spacing": "karras"},
        "dps": {"zeta": 1.8, "steps": 50, "spacing": "angle"},
        "pigdm": {"data_std": 0.7, "steps": 50, "spacing": "log-snr"},
        "prior": {"steps": 30},
    },
    "sr4": {
        "deft": {"scale": 1.8, "steps": 20, "spacing": "log-snr"},
        "dps": {"zeta": 3.0, "steps": 50, "spacing": "angle"},
        "pigdm": {"data_std": 1.0, "steps": 50, "spacing": "log-snr"},
        "prior": {"steps": 30},
    },
}
"""task -> method -> settings (its own, `eta`, `steps`, `spacing`) found best on the bundled validation images on
grids smaller than those of `python -m deft.evaluate.tune`; what is not here has the method's defaults.

A distance of single samples to the truth is least for samples that vary less than the posterior: DEFT's settings here
buy it with about half of the spread (docs/design-notes.md). `deft sample` keeps to scale 1 unless told `--tuned`."""


def get_method(name: str) -> Method:
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


@dataclass(frozen=True)
class Plan:
    """A method with everything that decides its samples but the seed."""

    method: Method
    settings: dict[str, float]
    sampler: str = "ddim"
    eta: float = 1.0
    steps: int = 50
    spacing: str = "angle"

    def make_sampler(self) -> Sampler:
        own = self.method.sampler
        return own(self.settings) if own is not None else make_sampler(self.sampler, self.eta)

    def grid(self, prior: Denoiser) -> list[Level]:
        return times(prior.schedule, self.steps, self.spacing)

    def make(self, prior: Denoiser, fitted: HTransform | None = None) -> tuple[HTransform, Sampler, list[Level]]:
        """The h-transform, the sampler and the grid."""
        sampler, grid = self.make_sampler(), self.grid(prior)
        return self.method.make(Making(prior, grid, sampler, self.settings, fitted)), sampler, grid

    def draw(
        self, prior: Denoiser, obs: Observation, samples: int, *, fitted: HTransform | None = None, scale: float = 1.0, **options: Any
    ) -> Tensor:
        """`samples` draws for each of B measurements, [B, samples, *data_shape].

        fitted: a learned h, for methods that need one. scale: of h. options: of `sample_posterior` (seed, first, batch, progress).
        """
        reason = self.method.misfit(obs.likelihood)
        if reason:
            raise InputError(reason)
        h, sampler, grid = self.make(prior, fitted)
        h = h if scale == 1 else Scaled(h, scale)
        if self.method.draw is not None:
            return self.method.draw(prior, h, obs, samples, sampler=sampler, grid=grid, settings=self.settings, **options)
        return sample_posterior(prior, h, obs, samples, sampler=sampler, grid=grid, **options)

    def calls(self, samples: int = 1) -> float:
        """Calls of the prior for each of `samples` samples of one measurement."""
        per = self.make_sampler().calls(self.steps)
        return per * self.settings.get("particles", samples) / samples

    def config(self) -> dict[str, Any]:
        return {
            "method": self.method.name, "settings": dict(self.settings), "sampler": self.sampler, "eta": self.eta,
            "steps": self.steps, "spacing": self.spacing,
        }  # fmt: skip


def make_sampler(name: str, eta: float = 1.0) -> Sampler:
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    return SAMPLERS[name](eta) if name == "ddim" else SAMPLERS[name]()  # type: ignore[call-arg]


def plan(
    name: str,
    task: str | None = None,
    *,
    settings: Mapping[str, float] | None = None,
    sampler: str = "ddim",
    eta: float | None = None,
    steps: int | None = None,
    spacing: str | None = None,
) -> Plan:
    """The plan for a method: what is given here, then what was tuned for the task, then its defaults.

    >>> plan("pigdm", steps=20).config()["steps"]
    20
    """
    method = get_method(name)
    tuned = dict(TUNED.get(task or "", {}).get(name, {}))
    tuned_eta, tuned_steps = tuned.pop("eta", method.eta), int(tuned.pop("steps", method.steps))
    tuned_spacing = tuned.pop("spacing", method.spacing)
    for key in settings or {}:
        if key not in method.settings:
            if not method.settings:
                raise InputError(f"{name} has no settings of its own, got {key!r}")
            raise unknown(f"setting of {name}", key, method.settings)
    own = {**method.settings, **tuned, **(settings or {})}
    chosen = Plan(
        method, own, sampler, tuned_eta if eta is None else eta, tuned_steps if steps is None else steps,
        spacing or tuned_spacing,
    )
    chosen.make_sampler()
    return chosen
