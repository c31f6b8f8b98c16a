"""The table of methods: for each its settings, how its h is made, and its row.

A method is an h-transform and the settings it works best with. A row added here is offered everywhere; a class in
`deft.learned.LEARNED` has a row without being named here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from deft.core.htransform import HTransform
from deft.core.sampler import Sampler
from deft.errors import InputError
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
from deft.guidance.combine import Piecewise, Scaled, Sum, Zero
from deft.learned import LEARNED, Learned, WithCovariance, kind_of
from deft.methods.drawing import (
    ChainSettings,
    ParticleSettings,
    PopulationSettings,
    chain_passes,
    draw_chains,
    draw_mcgdiff,
    draw_particles,
    measured_by_deft,
)
from deft.methods.method import WEIGHTED, Context, Method
from deft.methods.settings import Settings, setting
from deft.samplers import (
    DAPS,
    DDIM,
    DDNM,
    DDRM,
    MGPS,
    CPiGDM,
    Flower,
    Imputed,
    KernelSampler,
    REDDiff,
    Refresh,
    TimeTravel,
)
from deft.values import Range

# ranges that settings share: far above any use, so that a slip is noticed and a search is not

FINITE = Range(-1e6, 1e6)
POSITIVE, NOT_NEGATIVE, UNIT = Range(above=0, max=1e6), Range(0, 1e6), Range(0, 1)
ABOVE = Range(above=0, infinite=True)
COUNT, FEW = Range(1, 100_000), Range(0, 100_000)

# settings


@dataclass(frozen=True)
class LearnedSettings(Settings):
    scale: float = setting(1.0, "times h", range=FINITE)


@dataclass(frozen=True)
class LearnedParticles(PopulationSettings):
    scale: float = setting(1.0, "times h", range=FINITE)


@dataclass(frozen=True)
class LearnedChains(ChainSettings):
    scale: float = setting(1.0, "times h", range=FINITE)


@dataclass(frozen=True)
class MixedSettings(Settings):
    weight: float = setting(0.5, "of DEFT, between 0 (ΠGDM alone) and 1 (DEFT alone)", range=UNIT)
    data_std: float = setting(0.7, "assumed standard deviation of the data", range=POSITIVE)
    scale: float = setting(1.0, "times h", range=FINITE)


@dataclass(frozen=True)
class PiecewiseSettings(Settings):
    at: float = setting(1.0, "sigma/alpha above which h is DEFT's", range=ABOVE)
    iterations: int = setting(3, "of MMPS's conjugate gradients below it", range=COUNT)
    scale: float = setting(1.0, "times DEFT's h", range=FINITE)


@dataclass(frozen=True)
class AboveSettings(Settings):
    at: float = setting(1.0, "sigma/alpha above which h is DEFT's", range=ABOVE)
    scale: float = setting(1.0, "times DEFT's h", range=FINITE)


@dataclass(frozen=True)
class DPSSettings(Settings):
    zeta: float = setting(1.8, "step size", range=NOT_NEGATIVE)


@dataclass(frozen=True)
class MCGSettings(DPSSettings):
    fresh: bool = setting(
        True, "y noised again at each level, as published; without it the measured part of x̂ is replaced"
    )


@dataclass(frozen=True)
class PiGDMSettings(Settings):
    data_std: float = setting(1.0, "assumed standard deviation of the data", range=POSITIVE)
    scale: float = setting(1.0, "times h", range=FINITE)
    alpha_s: bool = setting(True, "the factor of the step is alpha_s, as in the authors' code; without it alpha_t")


@dataclass(frozen=True)
class ScoreSettings(Settings):
    data_std: float = setting(1.0, "assumed standard deviation of the data", range=POSITIVE)


@dataclass(frozen=True)
class ReconstructionSettings(Settings):
    scale: float = setting(3.0, "times h", range=FINITE)
    data_std: float = setting(1.0, "assumed standard deviation of the data", range=POSITIVE)
    sigma_y: float = setting(0.05, "assumed noise of y", range=POSITIVE)
    published: bool = setting(False, "the weight of the paper, whatever data_std")


@dataclass(frozen=True)
class GradientSettings(Settings):
    scale: float = setting(1.0, "times h", range=FINITE)
    data_std: float = setting(1.0, "assumed standard deviation of the data", range=POSITIVE)


@dataclass(frozen=True)
class MMPSSettings(Settings):
    iterations: int = setting(3, "of conjugate gradients", range=COUNT)


@dataclass(frozen=True)
class DDRMSettings(Settings):
    eta_a: float = setting(0.85, "share of new noise in what is not measured", range=UNIT)
    eta_b: float = setting(1.0, "weight of y in what is measured", range=UNIT)
    limit: float = setting(1.0, "sigma_y / s beyond which a direction counts as not measured", range=ABOVE)


@dataclass(frozen=True)
class DiffPIRSettings(Settings):
    strength: float = setting(1.0, "of the prior in the proximal step", key="lambda", range=NOT_NEGATIVE)
    zeta: float = setting(0.3, "share of new noise in a step", range=NOT_NEGATIVE)


@dataclass(frozen=True)
class RePaintSettings(Settings):
    repeats: int = setting(10, "how often a step is taken", range=COUNT)
    jump: int = setting(1, "parts of a step", range=COUNT)
    fresh: bool = setting(
        True, "y noised again at each level, as published; without it the measured part of x̂ is replaced"
    )


@dataclass(frozen=True)
class REDDiffSettings(Settings):
    lr: float = setting(0.1, "step size of Adam", range=POSITIVE)
    strength: float = setting(0.25, "of the prior", key="lambda", range=NOT_NEGATIVE)


@dataclass(frozen=True)
class DAPSSettings(Settings):
    ode_steps: int = setting(5, "calls of the prior in a step", range=COUNT)
    langevin_steps: int = setting(100, "in a step", range=FEW)
    lr: float = setting(1.0, "size of a Langevin step, below 2", range=POSITIVE)
    tau: float = setting(0.2, "times sigma_y", range=POSITIVE)
    decay: float = setting(0.01, "of the Langevin steps along the levels", range=Range(above=0, max=1))
    data_std: float = setting(1.0, "assumed standard deviation of the data", range=ABOVE)


@dataclass(frozen=True)
class DDNMSettings(Settings):
    noise: float = setting(0.85, "share of new noise in a step", range=UNIT)
    repeats: int = setting(1, "how often a step is taken (time travel)", range=COUNT)
    jump: int = setting(1, "parts of a step", range=COUNT)
    limit: float = setting(1.0, "sigma_y / s beyond which a direction counts as not measured", range=ABOVE)
    printed: bool = setting(
        False, "the paper's printed step, with DDIM's eta for noise; without it its authors' code's"
    )


@dataclass(frozen=True)
class MGPSSettings(Settings):
    middle: float = setting(0.5, "time of the midpoint over that of the step's end", range=UNIT)
    gradient_steps: int = setting(2, "of Adam in a step", range=FEW)
    many: int = setting(20, "of them in the first step and in every tenth", range=FEW)
    every: int = setting(10, "how often that is", range=COUNT)
    lr: float = setting(0.03, "step size of Adam", range=POSITIVE)
    warm: int = setting(15, "first steps that end in a second fit, next to the data", range=FEW)


@dataclass(frozen=True)
class CPiGDMSettings(Settings):
    weight: float = setting(15.0, "of the guidance", range=NOT_NEGATIVE)
    start: float = setting(2.0, "sigma/alpha at which it begins, from y; inf for pure noise", range=ABOVE)
    limit: float = setting(1.0, "sigma_y / s beyond which a direction counts as not measured", range=ABOVE)


@dataclass(frozen=True)
class FlowerSettings(Settings):
    gamma: float = setting(0.0, "of the refinement's own spread; 1 draws from its posterior", range=NOT_NEGATIVE)
    data_std: float = setting(1.0, "assumed standard deviation of the data", range=POSITIVE)


@dataclass(frozen=True)
class TDSSettings(PopulationSettings):
    data_std: float = setting(1.0, "assumed standard deviation of the data", range=POSITIVE)


@dataclass(frozen=True)
class HMCSettings(ChainSettings):
    iterations: int = setting(100, "of each chain, half of which tune its step", range=COUNT)
    data_std: float = setting(0.5, "assumed standard deviation of the data", range=POSITIVE)


# how h is made

L = TypeVar("L", LearnedSettings, LearnedParticles, LearnedChains)
F = TypeVar("F", MCGSettings, RePaintSettings)


def _needs_fitted(m: Context[Any], name: str) -> HTransform:
    if m.fitted is None:
        raise InputError(
            f"{name} needs a fitted h: give a run folder made by `deft fit`, or choose a training-free method"
        )
    return m.fitted


def _fitted(name: str, settings: type[L]) -> Callable[[Context[L]], HTransform]:
    def make(m: Context[L]) -> HTransform:
        h = _needs_fitted(m, name)
        kinds = tuple(LEARNED.values())
        if name in LEARNED and isinstance(h, kinds) and not isinstance(h, LEARNED[name]):
            raise InputError(f"this h is of the kind {kind_of(h)}, not {name}: take the method {kind_of(h)}")
        return h if m.settings.scale == 1 else Scaled(h, m.settings.scale)

    return make


def _mixed(m: Context[MixedSettings]) -> HTransform:
    w, scale = m.settings.weight, m.settings.scale
    if not 0 <= w <= 1:
        raise InputError(f"deft-pigdm: weight must be between 0 (ΠGDM alone) and 1 (DEFT alone), got {w:g}")
    return Sum(Scaled(_needs_fitted(m, "deft-pigdm"), scale * w), Scaled(PiGDM(m.settings.data_std), scale * (1 - w)))


def _piecewise(m: Context[PiecewiseSettings]) -> HTransform:
    return Piecewise(
        Scaled(_needs_fitted(m, "deft-mmps"), m.settings.scale), MMPS(m.settings.iterations), m.settings.at
    )


def _above(m: Context[AboveSettings]) -> HTransform:
    if not isinstance(m.fitted, WithCovariance):
        raise InputError(
            "deft-covariance needs a fitted h and a learned covariance of the same prior:"
            " deft.learned.WithCovariance(h, covariance); `deft sample RUN` takes the one that is bundled for the"
            " prior, or that of --covariance"
        )
    return Piecewise(Scaled(m.fitted.above, m.settings.scale), m.fitted.below, m.settings.at)


def _dps(m: Context[DPSSettings]) -> HTransform:
    if not isinstance(m.sampler, KernelSampler):
        return DPS(m.settings.zeta)
    return DPS.published(m.settings.zeta, m.sampler.kernel, m.grid)


def _pigdm(m: Context[PiGDMSettings]) -> HTransform:
    if not isinstance(m.sampler, KernelSampler):
        # every method runs with every sampler: where a step has no kernel to add to, the paper's estimate of the score
        # does
        return Scaled(PiGDM(m.settings.data_std), m.settings.scale)
    return PiGDM.published(m.sampler.kernel, m.grid, m.settings.data_std, m.settings.scale, alpha_s=m.settings.alpha_s)


def _imputed(settings: F) -> Sampler:
    """The ancestral sampler, with y noised again at each level (fresh, as published) or left to an h that replaces the
    measured part of x̂."""
    return Imputed(DDIM(1.0)) if settings.fresh else DDIM(1.0)


def _travelling(sampler: Sampler, repeats: int, jump: int) -> Sampler:
    """The sampler itself, where a step is taken once and whole."""
    return TimeTravel(sampler, repeats, jump) if (repeats, jump) != (1, 1) else sampler


def _mcg(m: Context[MCGSettings]) -> HTransform:
    dps = DPS.published(m.settings.zeta, DDIM(1.0).kernel, m.grid)
    return dps if m.settings.fresh else MCG(dps)


def _reconstruction(m: Context[ReconstructionSettings]) -> HTransform:
    """Ho et al.'s gradient with w = scale s^2/(s^2 + rho^2), so that y has the variance s^2 + rho^2 given x_t.

    s: the measurement's sigma_y. rho^2: what is left of data of deviation d at this level, as in `PiGDM`. With
    `published`, their own w = scale s^2 alpha^2/sigma^2 (y has the variance sigma^2/alpha^2), whatever d.
    """
    scale, d, s2 = m.settings.scale, m.settings.data_std, m.settings.sigma_y**2

    def weight(alpha: Any, sigma: Any) -> Any:
        if m.settings.published:
            return scale * s2 * alpha**2 / sigma**2
        rho2 = d**2 * sigma**2 / (d**2 * alpha**2 + sigma**2)
        return scale * s2 / (s2 + rho2)

    return ReconstructionGuidance(weight)


# the rows

BEST_SOLVER = "sde-dpmpp-2m"
"""Of a learned h, with even steps of log-SNR: the best energy score at 50 calls over four tasks, with 88 to 90 %
coverage (docs/samplers.md)."""


def _learned(name: str, kind: type[Learned]) -> Method[Any]:
    """The row of a class of learned h: its samples follow h as it was fitted."""
    return Method(
        name,
        kind.title or name,
        _fitted(name, LearnedSettings),
        trained=True,
        requires=kind.requires,
        settings=LearnedSettings(),
        spacing=kind.spacing,
        solver=BEST_SOLVER,
        runs=kind.runs,
        learned=name,
        retrains=kind.retrains,
        about=kind.about or "a learned h",
    )


METHODS: dict[str, Method[Any]] = {
    m.name: m
    for m in (
        *(_learned(name, kind) for name, kind in LEARNED.items()),
        Method(
            "deft-smc",
            "DEFT + particles",
            _fitted("deft-smc", LearnedParticles),
            trained=True,
            requires="likelihood",
            settings=LearnedParticles(),
            spacing="log-snr",
            learned="deft",
            draw=draw_particles(measured_by_deft),
            grid={"particles": (4, 8, 16)},
            about="DEFT as the proposal of weighted particles, without a backward pass",
        ),
        Method(
            "deft-hmc",
            "DEFT + HMC",
            _fitted("deft-hmc", LearnedChains),
            trained=True,
            backward=True,
            requires="likelihood",
            steps=25,
            spacing="log-snr",
            settings=LearnedChains(),
            learned="deft",
            draw=draw_chains,
            passes=chain_passes,
            about=(
                "DEFT's paths, made exact by Hamiltonian Monte Carlo on their noise: a reference, hundreds of "
                "times the work"
            ),
        ),
        Method(
            "deft-pigdm",
            "DEFT + ΠGDM",
            _mixed,
            trained=True,
            backward=True,
            settings=MixedSettings(),
            spacing="log-snr",
            learned="deft",
            grid={"weight": (0.3, 0.5, 0.8), "data_std": (0.5, 1.0)},
            about="a weighted mean of the two: scale (weight DEFT + (1 - weight) ΠGDM)",
        ),
        Method(
            "deft-mmps",
            "DEFT, then MMPS",
            _piecewise,
            trained=True,
            backward=True,
            requires="linear",
            settings=PiecewiseSettings(),
            spacing="log-snr",
            learned="deft",
            grid={"at": (0.3, 1.0, 3.0)},
            about="DEFT at high noise, where the prior sees little, and MMPS below sigma/alpha = at",
        ),
        Method(
            "deft-covariance",
            "DEFT, then learned covariance",
            _above,
            trained=True,
            requires="linear",
            settings=AboveSettings(),
            spacing="karras",
            solver=BEST_SOLVER,
            learned="deft",
            beside="covariance",
            grid={"at": (0.3, 1.0, 3.0)},
            about="DEFT at high noise, a learned covariance of the prior below sigma/alpha = at: no backward pass",
        ),
        Method(
            "dps",
            "DPS",
            _dps,
            backward=True,
            settings=DPSSettings(),
            grid={"zeta": (0.3, 0.6, 1.0, 1.8, 3.0), "sampler": WEIGHTED, "spacing": ("angle", "uniform", "log-snr")},
            about="a gradient step on the norm of the residual (Chung et al. 2023, as published)",
        ),
        Method(
            "pigdm",
            "ΠGDM",
            _pigdm,
            backward=True,
            settings=PiGDMSettings(),
            grid={"data_std": (0.5, 1.0), "alpha_s": (1.0, 0.0), "eta": (1.0, 0.5), "sampler": WEIGHTED},
            about=(
                "pseudoinverse guidance, for linear measurements and others with a pseudo-inverse (Song et al. "
                "2023, algorithm 1)"
            ),
        ),
        Method(
            "pigdm-score",
            "ΠGDM (score)",
            lambda m: PiGDM(m.settings.data_std),
            backward=True,
            settings=ScoreSettings(),
            grid={"data_std": (0.3, 0.5, 0.7, 1.0), "eta": (1.0, 0.5)},
            about=(
                "the same paper's estimate of the score (eq. 7) in the sampler's own steps: what deft-pigdm adds "
                "to DEFT"
            ),
        ),
        Method(
            "reconstruction",
            "reconstruction",
            _reconstruction,
            backward=True,
            requires="likelihood",
            settings=ReconstructionSettings(),
            grid={"scale": (0.3, 1.0, 3.0, 10.0), "data_std": (0.5, 1.0), "sigma_y": (0.02, 0.05, 0.2)},
            about="the likelihood's gradient through the denoised mean (Ho et al. 2022)",
        ),
        Method(
            "gradient",
            "gradient at mean",
            lambda m: GradientAtMean(m.settings.data_std, m.settings.scale),
            requires="likelihood",
            settings=GradientSettings(),
            grid={"scale": (0.5, 1.0, 1.8), "data_std": (0.5, 1.0)},
            about="the preconditioned gradient of the likelihood at the denoised mean, without the prior's Jacobian",
        ),
        Method(
            "tmpd",
            "TMPD",
            lambda m: TMPD(),
            backward=True,
            requires="linear",
            grid={"eta": (1.0, 0.5)},
            about="ΠGDM with the diagonal of the prior's own covariance of x_0 given x_t (Boys et al. 2024)",
        ),
        Method(
            "mmps",
            "MMPS",
            lambda m: MMPS(m.settings.iterations),
            backward=True,
            requires="linear",
            settings=MMPSSettings(),
            grid={"iterations": (1, 3)},
            about=(
                "ΠGDM with all of that covariance, by conjugate gradients; iterations + 1 backward passes (Rozet "
                "et al. 2024)"
            ),
        ),
        Method(
            "ddrm",
            "DDRM",
            lambda m: Zero(),
            requires="linear",
            settings=DDRMSettings(),
            spacing="uniform",
            sampler=lambda s: DDRM(s.eta_a, s.eta_b, s.limit),
            grid={"eta_a": (0.5, 0.85, 1.0), "spacing": ("uniform", "log-snr")},
            about="diffusion in the basis of the measurement's singular vectors (Kawar et al. 2022)",
        ),
        Method(
            "diffpir",
            "DiffPIR",
            lambda m: DiffPIR(m.settings.strength),
            settings=DiffPIRSettings(),
            sampler=lambda s: Refresh(s.zeta),
            grid={"lambda": (1.0, 3.0, 7.0, 15.0), "zeta": (0.1, 0.3, 1.0)},
            about="a proximal step on the measurement at each level (Zhu et al. 2023)",
        ),
        Method(
            "mcg",
            "MCG",
            _mcg,
            backward=True,
            requires="linear",
            settings=MCGSettings(),
            sampler=_imputed,
            grid={"zeta": (0.3, 0.6, 1.0, 1.8, 3.0)},
            about="DPS's gradient, then the measured part overwritten by a noised y (Chung et al. 2022)",
        ),
        Method(
            "replacement",
            "replacement",
            lambda m: Replacement(),
            requires="linear",
            grid={"eta": (1.0, 0.5)},
            about=(
                "the measured part of the denoised mean replaced by y (DDNM without noise, Wang et al. 2023; with it: "
                "ddnm)"
            ),
        ),
        Method(
            "imputation",
            "imputation",
            lambda m: Zero(),
            requires="linear",
            sampler=lambda s: Imputed(DDIM(1.0)),
            about="the measured part of each x_t overwritten by a noised y (Song et al. 2021b)",
        ),
        Method(
            "repaint",
            "RePaint",
            lambda m: Zero() if m.settings.fresh else Replacement(),
            requires="mask",
            settings=RePaintSettings(),
            steps=25,
            grid={"repeats": (5, 10, 20)},
            sampler=lambda s: TimeTravel(_imputed(s), s.repeats, s.jump),
            about="imputation, each step taken several times over (Lugmayr et al. 2022)",
        ),
        Method(
            "reddiff",
            "RED-diff",
            lambda m: Zero(),
            settings=REDDiffSettings(),
            steps=200,
            spacing="uniform",
            sampler=lambda s: REDDiff(s.lr, s.strength),
            grid={"lr": (0.02, 0.1, 0.5), "lambda": (0.1, 0.25, 1.0)},
            about="one point, found by gradient descent with the prior as regulariser (Mardani et al. 2024)",
        ),
        Method(
            "daps",
            "DAPS",
            lambda m: Zero(),
            settings=DAPSSettings(),
            sampler=lambda s: DAPS(s.ode_steps, s.langevin_steps, s.lr, s.data_std, tau=s.tau, decay=s.decay),
            grid={"lr": (0.5, 1.0), "tau": (0.2, 0.5, 1.0)},
            about="Langevin steps on a whole x_0 at each level (Zhang et al. 2025)",
        ),
        Method(
            "ddnm",
            "DDNM",
            lambda m: Zero(),
            requires="linear",
            settings=DDNMSettings(),
            spacing="uniform",
            sampler=lambda s: _travelling(DDNM(s.noise, s.limit, printed=s.printed), s.repeats, s.jump),
            grid={"noise": (0.5, 0.85, 1.0), "repeats": (1, 3), "printed": (False, True)},
            about="y in place of the measured part of x̂, as far as its noise allows (DDNM+, Wang et al. 2023)",
        ),
        Method(
            "mgps",
            "MGPS",
            lambda m: Zero(),
            backward=True,
            requires="likelihood",
            settings=MGPSSettings(),
            spacing="uniform",
            sampler=lambda s: MGPS(s.middle, s.gradient_steps, many=s.many, every=s.every, rate=s.lr, warm=s.warm),
            grid={"gradient_steps": (2, 5), "many": (2, 20), "lr": (0.03, 0.1, 0.3), "warm": (0, 4)},
            about="guidance at a level between, by a variational fit in each step (Moufad et al. 2025)",
        ),
        Method(
            "cpigdm",
            "C-ΠGDM",
            lambda m: Zero(),
            backward=True,
            requires="linear",
            settings=CPiGDMSettings(),
            steps=20,
            spacing="uniform",
            sampler=lambda s: CPiGDM(s.weight, s.limit),
            start=lambda s: s.start,
            grid={"weight": (6.0, 15.0, 30.0), "start": (2.0, 10.0, math.inf)},
            about="ΠGDM's ODE with its linear part solved exactly, for few steps (Pandey et al. 2024)",
        ),
        Method(
            "flower",
            "Flower",
            lambda m: Zero(),
            requires="linear",
            settings=FlowerSettings(),
            steps=100,
            spacing="uniform",
            sampler=lambda s: Flower(s.gamma, s.data_std),
            grid={"gamma": (0.0, 0.5, 1.0), "data_std": (0.3, 0.5, 1.0)},
            about="the flow's destination refined by y, then noised again (Pourya et al. 2025)",
        ),
        Method(
            "tds",
            "TDS",
            lambda m: Predictive(m.settings.data_std),
            backward=True,
            requires="likelihood",
            settings=TDSSettings(),
            grid={"data_std": (0.5, 0.7, 1.0), "particles": (4, 8)},
            draw=draw_particles(lambda h, s: Predictive(s.data_std)),
            about="weighted particles, moved and weighed by p(y | x̂) (Wu et al. 2023)",
        ),
        Method(
            "hmc",
            "HMC",
            lambda m: GradientAtMean(m.settings.data_std),
            backward=True,
            requires="likelihood",
            steps=25,
            spacing="log-snr",
            settings=HMCSettings(),
            draw=draw_chains,
            passes=chain_passes,
            about=(
                "Hamiltonian Monte Carlo on the noise of paths, guided by the gradient at x̂: exact as iterations "
                "grow, hundreds of times the work"
            ),
        ),
        Method(
            "mcgdiff",
            "MCGDiff",
            lambda m: SeenNoisy(),
            requires="projection",
            settings=ParticleSettings(),
            draw=draw_mcgdiff,
            grid={"particles": (8, 16, 32)},
            about=(
                "weighted particles whose seen part follows a noised y (after Cardoso et al. 2024; akin to "
                "SMCDiff, Trippe et al. 2023)"
            ),
        ),
        Method(
            "prior",
            "prior alone",
            lambda m: Zero(),
            steps=20,
            requires="measurement",
            about="the unconditional prior, which ignores the measurement",
        ),
    )
}

SCORE_FORM: dict[str, str] = {"pigdm": "pigdm-score"}
"""The row that estimates the score alone, for a method whose h is made for the steps of one grid: for paths on other
grids, and for proteins."""
