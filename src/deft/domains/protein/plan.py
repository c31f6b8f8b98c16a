"""A method for motifs with everything that decides its chains: what `deft protein scaffold` draws with, and a benchmark
compares."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.core.sampler import Sampler
from deft.core.transition import Level
from deft.domains.protein.clearance import Clearance
from deft.errors import InputError, unknown
from deft.guidance.combine import Zero
from deft.learned.base import Learned
from deft.methods import SCORE_FORM, Method, Plan, plan
from deft.samplers import Cooled, KernelSampler

MOTIF_METHODS = ("deft", "pigdm", "dps", "replacement", "mcgdiff", "tds", "deft-smc", "prior")
"""Methods that take motifs. pigdm is its estimate of the score (`pigdm-score`), with which all results on chains were
found."""
SETTINGS: dict[str, dict[str, float | str]] = {"dps": {"zeta": 0.3}}
"""Settings of a method that are not its own defaults: coordinates are no images."""


@dataclass(frozen=True)
class ChainPlan:
    """A method with its settings, as `deft.methods.Plan`, and what is for chains alone.

    name: of the method, one of `MOTIF_METHODS`. h: a fitted one, for methods that need it; h_name: what to call it.
        temperature: times the sampler's noise.
    clearance: angstrom, 0 for none.

    >>> ChainPlan("pigdm", steps=20).calls(1)
    20.0
    """

    name: str = "deft"
    settings: Mapping[str, float | str] = field(default_factory=dict)
    h: Learned | None = None
    h_name: str | None = None
    steps: int = 100
    eta: float = 1.0
    spacing: str = "log-snr"
    temperature: float = 1.0
    clearance: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in MOTIF_METHODS:
            raise unknown("method", self.name, MOTIF_METHODS)
        if not 0 < self.temperature <= 1:
            raise InputError(f"a temperature is above 0 and at most 1, got {self.temperature:g}")
        if self.clearance:
            Clearance(Zero(), self.clearance)  # refuses what it cannot be
        if self.particles and (self.temperature < 1 or self.clearance):
            raise InputError(f"{self.name} weighs particles for the posterior: temperature 1 and no clearance")
        if self.temperature < 1 and not self.stochastic:
            raise InputError(
                f"a temperature of {self.temperature:g} is for samplers with noise: leave it out, or take an eta"
                " above 0"
            )

    def plan(self) -> Plan:
        name = SCORE_FORM.get(self.name, self.name)
        settings = {**SETTINGS.get(self.name, {}), **self.settings}
        return plan(name, settings=settings, sampler="ddim", steps=self.steps, eta=self.eta, spacing=self.spacing)

    @property
    def method(self) -> Method:
        return self.plan().method

    def calls(self, samples: int = 1) -> float:
        """Calls of the prior for each of `samples` chains of one placement."""
        return float(self.plan().calls(samples))

    @property
    def particles(self) -> bool:
        """Whether samples are drawn from weighted particles, and not one by one."""
        return self.method.draw is not None

    @property
    def stochastic(self) -> bool:
        """Whether the sampler's steps have noise."""
        sampler = self.plan().make_sampler()
        return isinstance(sampler, KernelSampler) and sampler.stochastic

    def make(self, prior: Denoiser) -> tuple[HTransform, Sampler, list[Level]]:
        """(h, sampler, grid), for chains drawn one by one."""
        h, sampler, grid = self.plan().make(prior, self.h)
        if self.clearance:
            h = Clearance(h, self.clearance)
        if self.temperature < 1:
            assert isinstance(sampler, KernelSampler)
            sampler = Cooled(sampler, self.temperature)
        return h, sampler, grid

    def config(self) -> dict[str, Any]:
        """All of it, h by a hash of its weights."""
        weights = hashlib.sha256()
        for name, value in [] if self.h is None else sorted(self.h.state_dict().items()):
            weights.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return {
            "plan": self.plan().config(),
            "h": self.h_name,
            "h_sha256": None if self.h is None else weights.hexdigest(),
            "temperature": self.temperature,
            "clearance": self.clearance,
        }
