"""The methods, as one table: what each is called, what it needs, and how it is made.

A method is an h-transform and the settings it works best with. `METHODS` is read by the command line, by the
reports and by the conformance tests: a row added here is offered everywhere.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from deft._old_names import moved
from deft.core.condition import fitted_to
from deft.core.denoiser import Denoiser
from deft.core.grid import times
from deft.core.htransform import HTransform, Potential
from deft.core.sampler import Sampler
from deft.core.transition import Level
from deft.errors import InputError, unknown
from deft.guidance import (
    DPS,
    MCG,
    MMPS,
    TMPD,
    DiffPIR,
    GradientAtMean,
    PiGDM,
    Predictive,
    ReconstructionGuidance,
    Replacement,
    SeenNoisy,
)
from deft.guidance.combine import Scaled, Sum, Zero
from deft.learned.deft import Calibrated
from deft.likelihood import Likelihood, Observation
from deft.likelihood.gaussian import why_unsupported
from deft.samplers import (
    DAPS,
    DDIM,
    DDRM,
    SAMPLERS,
    Imputed,
    KernelSampler,
    Particles,
    REDDiff,
    Refresh,
    TimeTravel,
    adapted,
    sample_hmc,
    sample_posterior,
    sample_smc,
)

Told = dict[str, list[float]]
"""What a method has to tell of a draw; see `Plan.draw`."""


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
    the prior. settings: its own settings and their defaults. solver, eta, steps, spacing: the sampler's name in `SAMPLERS` and its settings, by default.
    needs: of the measurement, a key of `deft.likelihood.gaussian.REQUIREMENTS`. sampler: makes the method's own rule for a step, for the few that are
    no h-transform alone; the user's choice of sampler and eta then do not matter. draw: takes the place of
    `sample_posterior` (and is given `settings` and `told`, too), for methods whose samples of one y see each other (particles), or that go over a path many times.
    runs: of the prior's network at each step. passes: how often a sample's path is walked, from the settings. learned: which kind of h it must be given, a key of `LEARNED` ("" for none). retrains: whether that is a copy of the whole
    prior. grid: values worth trying of its settings, `eta`, `sampler` and `spacing`, for `deft compare`; see `choices`.
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
    solver: str = "ddim"
    sampler: Callable[[Mapping[str, float]], Sampler] | None = None
    draw: Callable[..., Tensor] | None = None
    runs: int = 1
    passes: Callable[[Mapping[str, float]], float] = lambda settings: 1
    learned: str = ""
    retrains: bool = False
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name, "title": self.title, "trained": self.trained, "backward": self.backward,
            "settings": dict(self.settings), "eta": self.eta, "steps": self.steps, "spacing": self.spacing, "about": self.about,
            "needs": self.needs, "own_sampler": self.sampler is not None,
        }  # fmt: skip

    def choices(self) -> dict[str, Sequence[Any]]:
        """What `deft compare` may try: `grid`, and the samplers and spacings that every method may choose from.

        A method with its own sampler has no choice of sampler or eta. One that weighs paths (`draw`) needs a sampler whose
        steps are Gaussian kernels with noise. A row's own `sampler` or `spacing` takes precedence.

        >>> METHODS["deft-smc"].choices()["sampler"]
        ('ddim', 'ito')
        """
        open_: dict[str, Sequence[Any]] = {"spacing": SPACES}
        if self.sampler is None:
            open_["sampler"] = SOLVERS if self.draw is None else WEIGHTED
        return {**open_, **self.grid}

    def misfit(self, likelihood: Likelihood) -> str | None:
        """Why this method cannot be used with the likelihood, or None."""
        return why_unsupported(likelihood, self.needs, self.title)


def _fitted(name: str) -> Callable[[Making], HTransform]:
    def make(m: Making) -> HTransform:
        if m.fitted is None:
            raise InputError(f"{name} needs a fitted h: give a run folder made by `deft fit`, or choose a training-free method")
        return m.fitted if m.settings["scale"] == 1 else Scaled(m.fitted, m.settings["scale"])

    return make


def _particles(twist: Callable[[HTransform, Mapping[str, float]], Potential]) -> Callable[..., Tensor]:
    """A `draw` by `sample_smc`: h proposes, the twist weighs."""

    def draw(prior: Denoiser, h: HTransform, obs: Observation, samples: int, *, settings: Mapping[str, float], told: Told | None = None, **options: Any) -> Tensor:
        k, threshold = int(settings["particles"]), settings["threshold"]
        return _told(sample_smc(prior, h, obs, samples, twist=twist(h, settings), particles=k, threshold=threshold, apart=bool(settings["apart"]), **options), told)

    return draw


def _told(found: Particles, told: Told | None) -> Tensor:
    """x, after telling how the particles fared."""
    if told is not None:
        told |= {"log_evidence": found.log_evidence.tolist(), "effective": found.effective[:, -1].tolist(), "resampled": found.resampled.double().tolist()}
    return found.x


def _by_deft(h: HTransform, settings: Mapping[str, float]) -> Potential:
    """p(y | x̂) with the spread that DEFT measured when it was calibrated."""
    return Predictive(rho2=next((part.rho2 for part in h.modules() if isinstance(part, Calibrated)), None))


def _mcgdiff(
    prior: Denoiser, h: HTransform, obs: Observation, samples: int, *, settings: Mapping[str, float], told: Told | None = None, **options: Any
) -> Tensor:
    if isinstance(h, Scaled):
        raise InputError("mcgdiff has no h to scale: its steps are those of the prior, given what is seen")
    k, threshold = int(settings["particles"]), settings["threshold"]
    return _told(sample_smc(prior, Zero(), obs, samples, twist=SeenNoisy(), move=adapted, particles=k, threshold=threshold, **options), told)


def _hmc(
    prior: Denoiser, h: HTransform, obs: Observation, samples: int, *, settings: Mapping[str, float], told: Told | None = None, **options: Any
) -> Tensor:
    iterations, leapfrogs = int(settings["iterations"]), int(settings["leapfrogs"])
    found = sample_hmc(prior, h, obs, samples, iterations=iterations, leapfrogs=leapfrogs, **options)
    if told is not None:
        told |= {"accepted": found.accepted.mean(1).tolist(), "step": found.step.tolist(), "rise": found.rise.mean(1).tolist()}
    stuck = int(found.stuck.sum())
    if stuck:  # where they started is no sample
        raise InputError(f"{stuck} of {found.stuck.numel()} chains did not move: give more iterations (--set iterations={2 * iterations}), or a better h")
    return found.x[:, :, -1]


def _hmc_passes(settings: Mapping[str, float]) -> float:
    return 2 * (1 + settings["iterations"] * settings["leapfrogs"])  # forward, and once more for the derivative


def _mixed(m: Making) -> HTransform:
    w, scale = m.settings["weight"], m.settings["scale"]
    if not 0 <= w <= 1:
        raise InputError(f"deft-pigdm: weight must be between 0 (ΠGDM alone) and 1 (DEFT alone), got {w:g}")
    if m.fitted is None:
        raise InputError("deft-pigdm needs a fitted h: give a run folder made by `deft fit`, or choose a training-free method")
    return Sum(Scaled(m.fitted, scale * w), Scaled(PiGDM(m.settings["data_std"]), scale * (1 - w)))


def _dps(m: Making) -> HTransform:
    if not isinstance(m.sampler, KernelSampler):
        return DPS(m.settings["zeta"])
    return DPS.published(m.settings["zeta"], m.sampler.kernel, m.grid)


def _pigdm(m: Making) -> HTransform:
    if not isinstance(m.sampler, KernelSampler):
        # every method runs with every sampler: where a step has no kernel to add to, the paper's estimate of the score does
        return Scaled(PiGDM(m.settings["data_std"]), m.settings["scale"])
    return PiGDM.published(m.sampler.kernel, m.grid, m.settings["data_std"], m.settings["scale"], alpha_s=bool(m.settings["alpha_s"]))


def _imputed(settings: Mapping[str, float]) -> Sampler:
    """The ancestral sampler, with y noised anew at each level (fresh, as published) or left to an h that replaces the measured part of x̂."""
    return Imputed(DDIM(1.0)) if settings["fresh"] else DDIM(1.0)


def _mcg(m: Making) -> HTransform:
    dps = DPS.published(m.settings["zeta"], DDIM(1.0).kernel, m.grid)
    return dps if m.settings["fresh"] else MCG(dps)


def _reconstruction(m: Making) -> HTransform:
    """Ho et al.'s gradient with w = scale s^2/(s^2 + rho^2), so that y has the variance s^2 + rho^2 given x_t.

    s: the measurement's sigma_y. rho^2: what is left of data of deviation d at this level, as in `PiGDM`. With `published`, their own
    w = scale s^2 alpha^2/sigma^2 (y has the variance sigma^2/alpha^2), whatever d.
    """
    scale, d, s2 = m.settings["scale"], m.settings["data_std"], m.settings["sigma_y"] ** 2

    def weight(alpha: Any, sigma: Any) -> Any:
        if m.settings["published"]:
            return scale * s2 * alpha**2 / sigma**2
        rho2 = d**2 * sigma**2 / (d**2 * alpha**2 + sigma**2)
        return scale * s2 / (s2 + rho2)

    return ReconstructionGuidance(weight)


SOLVERS = tuple(name for name in ("ddim", "dpmpp-2m", "sde-dpmpp-2m") if name in SAMPLERS)
"""Samplers that `deft compare` lets a method choose from, one call of the prior a step each."""

WEIGHTED = ("ddim", "ito")
"""The same for methods that weigh paths by their kernels (particles, chains), or whose weight is defined on a kernel's step (DPS)."""

SPACES = ("log-snr", "karras", "angle")
"""Spacings of the steps that `deft compare` lets a method choose from."""

BEST_SOLVER = "sde-dpmpp-2m"
"""Of a learned h, with even steps of log-SNR: the best energy score at 50 calls over four tasks, with 88 to 90 % coverage (docs/samplers.md)."""

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            "deft", "DEFT", _fitted("deft"), trained=True, needs="likelihood", settings={"scale": 1.0}, spacing="log-snr", solver=BEST_SOLVER,
            learned="deft",
            about="h learned by a small network next to the frozen prior (Denker et al. 2024)",
        ),
        Method(
            "amortised", "amortised", _fitted("amortised"), trained=True, needs="likelihood", settings={"scale": 1.0}, spacing="log-snr", solver=BEST_SOLVER,
            learned="amortised", about="a conditional denoiser from scratch, which never looks at the prior",
        ),
        Method(
            "lora", "LoRA", _fitted("lora"), trained=True, needs="likelihood", settings={"scale": 1.0}, spacing="log-snr", solver=BEST_SOLVER, runs=2,
            learned="lora", about="low-rank changes of the prior's weights (Hu et al. 2021)",
        ),
        Method(
            "controlnet", "ControlNet", _fitted("controlnet"), trained=True, needs="likelihood", settings={"scale": 1.0}, spacing="log-snr", solver=BEST_SOLVER, runs=2,
            learned="controlnet", about="a trained encoder beside the frozen prior (Zhang, Rao & Agrawala 2023)",
        ),
        Method(
            "finetuned", "fine-tuned", _fitted("finetuned"), trained=True, needs="likelihood", settings={"scale": 1.0}, spacing="log-snr", solver=BEST_SOLVER, runs=2,
            learned="finetuned", retrains=True, about="a copy of the prior, all of it trained for the task",
        ),
        Method(
            "deft-smc", "DEFT + particles", _fitted("deft-smc"), trained=True, needs="likelihood", settings={"particles": 16, "threshold": 0.5, "apart": 0.0, "scale": 1.0},
            spacing="log-snr", learned="deft", draw=_particles(_by_deft), grid={"particles": (4, 8, 16)},
            about="DEFT as the proposal of weighted particles, without a backward pass",
        ),
        Method(
            "deft-hmc", "DEFT + HMC", _fitted("deft-hmc"), trained=True, backward=True, needs="likelihood", steps=25, spacing="log-snr",
            settings={"iterations": 40, "leapfrogs": 4, "scale": 1.0}, learned="deft", draw=_hmc, passes=_hmc_passes,
            about="DEFT's paths, made exact by Hamiltonian Monte Carlo on their noise: a reference, hundreds of times the work",
        ),
        Method(
            "deft-pigdm", "DEFT + ΠGDM", _mixed, trained=True, backward=True, settings={"weight": 0.5, "data_std": 0.7, "scale": 1.0},
            spacing="log-snr", learned="deft", grid={"weight": (0.3, 0.5, 0.8), "data_std": (0.5, 1.0)},
            about="a weighted mean of the two: scale (weight DEFT + (1 - weight) ΠGDM)",
        ),
        Method(
            "dps", "DPS", _dps, backward=True, settings={"zeta": 1.8},
            grid={"zeta": (0.3, 0.6, 1.0, 1.8, 3.0), "sampler": WEIGHTED, "spacing": ("angle", "uniform", "log-snr")},
            about="a gradient step on the norm of the residual (Chung et al. 2023, as published)",
        ),
        Method(
            "pigdm", "ΠGDM", _pigdm, backward=True, settings={"data_std": 1.0, "scale": 1.0, "alpha_s": 1.0},
            grid={"data_std": (0.5, 1.0), "alpha_s": (1.0, 0.0), "eta": (1.0, 0.5), "sampler": WEIGHTED},
            about="pseudoinverse guidance, for linear measurements and others with a pseudo-inverse (Song et al. 2023, algorithm 1)",
        ),
        Method(
            "pigdm-score", "ΠGDM (score)", lambda m: PiGDM(m.settings["data_std"]), backward=True, settings={"data_std": 1.0},
            grid={"data_std": (0.3, 0.5, 0.7, 1.0), "eta": (1.0, 0.5)},
            about="the same paper's estimate of the score (eq. 7) in the sampler's own steps: what deft-pigdm adds to DEFT",
        ),
        Method(
            "reconstruction", "reconstruction", _reconstruction, backward=True, needs="likelihood",
            settings={"scale": 3.0, "data_std": 1.0, "sigma_y": 0.05, "published": 0.0},
            grid={"scale": (0.3, 1.0, 3.0, 10.0), "data_std": (0.5, 1.0), "sigma_y": (0.02, 0.05, 0.2)},
            about="the likelihood's gradient through the denoised mean (Ho et al. 2022)",
        ),
        Method(
            "gradient", "gradient at mean", lambda m: GradientAtMean(m.settings["data_std"], m.settings["scale"]), needs="likelihood",
            settings={"scale": 1.0, "data_std": 1.0}, grid={"scale": (0.5, 1.0, 1.8), "data_std": (0.5, 1.0)},
            about="the preconditioned gradient of the likelihood at the denoised mean, without the prior's Jacobian",
        ),
        Method(
            "tmpd", "TMPD", lambda m: TMPD(), backward=True, needs="linear", grid={"eta": (1.0, 0.5)},
            about="ΠGDM with the diagonal of the prior's own covariance of x_0 given x_t (Boys et al. 2023)",
        ),
        Method(
            "mmps", "MMPS", lambda m: MMPS(int(m.settings["iterations"])), backward=True, needs="linear", settings={"iterations": 3},
            grid={"iterations": (1, 3)},
            about="ΠGDM with all of that covariance, by conjugate gradients; iterations + 1 backward passes (Rozet et al. 2024)",
        ),
        Method(
            "ddrm", "DDRM", lambda m: Zero(), needs="linear", settings={"eta_a": 0.85, "eta_b": 1.0, "limit": 1.0}, spacing="uniform",
            sampler=lambda s: DDRM(s["eta_a"], s["eta_b"], s["limit"]), grid={"eta_a": (0.5, 0.85, 1.0), "spacing": ("uniform", "log-snr")},
            about="diffusion in the basis of the measurement's singular vectors (Kawar et al. 2022)",
        ),
        Method(
            "diffpir", "DiffPIR", lambda m: DiffPIR(m.settings["lambda"]), settings={"lambda": 1.0, "zeta": 0.3},
            sampler=lambda s: Refresh(s["zeta"]), grid={"lambda": (1.0, 3.0, 7.0, 15.0), "zeta": (0.1, 0.3, 1.0)},
            about="a proximal step on the measurement at each level (Zhu et al. 2023)",
        ),
        Method(
            "mcg", "MCG", _mcg, backward=True, needs="linear", settings={"zeta": 1.8, "fresh": 1.0},
            sampler=_imputed, grid={"zeta": (0.3, 0.6, 1.0, 1.8, 3.0)},
            about="DPS's gradient, then the measured part overwritten by a noised y (Chung et al. 2022)",
        ),
        Method(
            "replacement", "replacement", lambda m: Replacement(), needs="linear", grid={"eta": (1.0, 0.5)},
            about="the measured part of the denoised mean replaced by y (DDNM, Wang et al. 2023; for noise it has ddrm's step)",
        ),
        Method(
            "imputation", "imputation", lambda m: Zero(), needs="linear", sampler=lambda s: Imputed(DDIM(1.0)),
            about="the measured part of each x_t overwritten by a noised y (Song et al. 2021)",
        ),
        Method(
            "repaint", "RePaint", lambda m: Zero() if m.settings["fresh"] else Replacement(), needs="mask",
            settings={"repeats": 10, "jump": 1, "fresh": 1.0}, steps=25, grid={"repeats": (5, 10, 20)},
            sampler=lambda s: TimeTravel(_imputed(s), int(s["repeats"]), int(s["jump"])),
            about="imputation, each step taken several times over (Lugmayr et al. 2022)",
        ),
        Method(
            "reddiff", "RED-diff", lambda m: Zero(), settings={"lr": 0.1, "lambda": 0.25}, steps=200, spacing="uniform",
            sampler=lambda s: REDDiff(s["lr"], s["lambda"]), grid={"lr": (0.02, 0.1, 0.5), "lambda": (0.1, 0.25, 1.0)},
            about="one point, found by gradient descent with the prior as regulariser (Mardani et al. 2023)",
        ),
        Method(
            "daps", "DAPS", lambda m: Zero(), settings={"ode_steps": 5, "langevin_steps": 100, "lr": 1.0, "tau": 0.2, "decay": 0.01, "data_std": 1.0},
            sampler=lambda s: DAPS(int(s["ode_steps"]), int(s["langevin_steps"]), s["lr"], s["data_std"], tau=s["tau"], decay=s["decay"]),
            grid={"lr": (0.5, 1.0), "tau": (0.2, 0.5, 1.0)},
            about="Langevin steps on a whole x_0 at each level (Zhang et al. 2025)",
        ),
        Method(
            "tds", "TDS", lambda m: Predictive(m.settings["data_std"]), backward=True, needs="likelihood",
            settings={"particles": 16, "threshold": 0.5, "apart": 0.0, "data_std": 1.0}, grid={"data_std": (0.5, 0.7, 1.0), "particles": (4, 8)},
            draw=_particles(lambda h, s: Predictive(s["data_std"])),
            about="weighted particles, moved and weighed by p(y | x̂) (Wu et al. 2023)",
        ),
        Method(
            "hmc", "HMC", lambda m: GradientAtMean(m.settings["data_std"]), backward=True, needs="likelihood", steps=25, spacing="log-snr",
            settings={"iterations": 100, "leapfrogs": 4, "data_std": 0.5}, draw=_hmc, passes=_hmc_passes,
            about="Hamiltonian Monte Carlo on the noise of paths, guided by the gradient at x̂: exact as iterations grow, hundreds of times the work",
        ),
        Method(
            "mcgdiff", "MCGDiff", lambda m: SeenNoisy(), needs="projection", settings={"particles": 16, "threshold": 0.5}, draw=_mcgdiff,
            grid={"particles": (8, 16, 32)},
            about="weighted particles whose seen part follows a noised y (after Cardoso et al. 2023; akin to SMCDiff, Trippe et al. 2023)",
        ),
        Method("prior", "prior alone", lambda m: Zero(), steps=20, needs="likelihood", about="the unconditional prior, which ignores the measurement"),
    )
}  # fmt: skip

TUNED: dict[str, dict[str, dict[str, Any]]] = json.loads(resources.files("deft.methods").joinpath("tuned.json").read_text(encoding="utf-8"))
"""task -> method -> settings (its own, `sampler`, `eta`, `steps`, `spacing`) found best on bundled validation images, mostly by `deft compare`
(benchmarks/tuned.py writes the file); what is not here has the method's defaults.

Learned h are not in it: they have scale 1 and their row's sampler. Entries of inpaint, inpaint-random, sr4 and deblur-gaussian for seven methods
were found by energy score; others are still from before, by the distance of single samples, and are to be found again."""


SCORE_FORM: dict[str, str] = {"pigdm": "pigdm-score"}
"""The row that estimates the score alone, for a method whose h is made for the steps of one grid: for paths on other grids, and for proteins."""


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
        self, prior: Denoiser, obs: Observation, samples: int, *, fitted: HTransform | None = None, scale: float = 1.0, told: Told | None = None, **options: Any
    ) -> Tensor:
        """`samples` draws for each of B measurements, [B, samples, *data_shape].

        fitted: a learned h, for methods that need one. scale: of h. options: of `sample_posterior` (seed, first, batch, progress).
        told: filled with how it went, a list of B numbers each, by methods that know: particles tell `log_evidence` (log p(y)), the `effective` share of them at the end and how
            often they `resampled`; chains the share `accepted`, the `step`, and how much log w rose in the last quarter (`rise`).
        """
        reason = self.method.misfit(obs.likelihood)
        if reason:
            raise InputError(reason)
        obs = fitted_to(prior, obs)
        h, sampler, grid = self.make(prior, fitted)
        if scale != 1 and self.method.sampler is not None and isinstance(h, Zero):
            raise InputError(f"{self.method.title} has no h to scale (its own settings: {', '.join(self.method.settings)})")
        h = h if scale == 1 else Scaled(h, scale)
        if self.method.draw is not None:
            return self.method.draw(prior, h, obs, samples, sampler=sampler, grid=grid, settings=self.settings, told=told, **options)
        return sample_posterior(prior, h, obs, samples, sampler=sampler, grid=grid, **options)

    def calls(self, samples: int = 1) -> float:
        """Calls of the prior for each of `samples` samples of one measurement."""
        per = self.make_sampler().calls(self.steps)
        shared = 1 if self.settings.get("apart") else samples
        return per * self.method.runs * self.method.passes(self.settings) * self.settings.get("particles", shared) / shared

    def config(self) -> dict[str, Any]:
        return {
            "method": self.method.name, "settings": dict(self.settings), "sampler": self.sampler, "eta": self.eta,
            "steps": self.steps, "spacing": self.spacing,
        }  # fmt: skip


def make_sampler(name: str, eta: float = 1.0) -> Sampler:
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    takes_eta = "eta" in inspect.signature(SAMPLERS[name]).parameters
    return SAMPLERS[name](eta) if takes_eta else SAMPLERS[name]()  # type: ignore[call-arg]


def plan(
    name: str,
    task: str | None = None,
    *,
    settings: Mapping[str, float] | None = None,
    sampler: str | None = None,
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
    tuned_spacing, tuned_sampler = tuned.pop("spacing", method.spacing), tuned.pop("sampler", method.solver)
    for key in settings or {}:
        if key not in method.settings:
            if not method.settings:
                raise InputError(f"{name} has no settings of its own, got {key!r}")
            raise unknown(f"setting of {name}", key, method.settings)
    own = {**method.settings, **tuned, **(settings or {})}
    chosen = Plan(
        method, own, sampler or tuned_sampler, tuned_eta if eta is None else eta, tuned_steps if steps is None else steps,
        spacing or tuned_spacing,
    )
    chosen.make_sampler()
    return chosen


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)
