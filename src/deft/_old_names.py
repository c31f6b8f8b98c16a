"""Names of version 0.1 that have moved: each works for one more release, with a `DeprecationWarning` that says where it
is now.

Two tables, without the leading "deft.": `MODULES` for modules that are gone, `NAMES` for single names. Whoever moves or
renames something public adds a row here; docs/old-names.md is made from the tables (`python -m tests.old_names`), and a
test goes through both.

A module that is still there and lost a name ends with `__getattr__ = moved(__name__)`, not seen by type checkers.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

MODULES: dict[str, str] = {
    "comparison": "bench.studies bench.run",
    "comparison.config": "bench.studies",
    "comparison.figures": "bench.figures",
    "comparison.images": "bench.data",
    "comparison.memory": "runtime.memory",
    "comparison.report": "bench.study_report bench.result bench.table",
    "comparison.run": "bench.run bench.runner",
    "comparison.store": "bench.store",
    "comparison.tuning": "bench.tuning",
    "comparison.work": "bench.jobs",
    "condition": "core.condition",
    "convert": "domains.image.conventions",
    "data": "domains.image.data",
    "demo": "workflow.demo",
    "denoise": "core.denoiser denoiser denoiser.parametrisation denoiser.network",
    "distributed": "runtime.distributed",
    "evaluate": "bench",
    "evaluate.classifier": "domains.image.classifier",
    "evaluate.compare": "bench.compare bench.result domains.image.measure",
    "evaluate.contrastive": "domains.image.contrastive",
    "evaluate.features": "domains.image.features domains.image.networks",
    "evaluate.foreign": "domains.image.external errors",
    "evaluate.levels": "train.levels",
    "evaluate.metrics": "domains.image.metrics",
    "evaluate.priors": "domains.image.prior_quality train.prior_quality",
    "evaluate.report": "bench.methods_report bench.report bench.result domains.image.writing",
    "evaluate.statistics": "bench.statistics",
    "gradient": "core.autodiff",
    "htransform": "guidance guidance.combine learned learned.baselines core.htransform",
    "htransform.alternatives": "learned.baselines",
    "htransform.base": "core.htransform guidance.combine",
    "htransform.classifier": "learned.classifier",
    "htransform.covariance": "guidance.covariance",
    "htransform.exact": "guidance.exact",
    "htransform.field": "guidance.at_mean",
    "htransform.guidance": "guidance.through_prior",
    "htransform.learnable": "learned.base",
    "htransform.learned": "learned.deft",
    "htransform.twist": "guidance.twist",
    "hub": "workflow.hub",
    "images": (
        "io.arrays io.text domains.image.files domains.image.masks domains.image.pictures"
        " domains.image.reading domains.image.writing io.files"
    ),
    "images.arrays": "io.arrays",
    "images.files": "domains.image.files",
    "images.masks": "domains.image.masks",
    "images.pictures": "domains.image.pictures io.picture_files",
    "images.ranges": "domains.image.pictures io.settings",
    "images.reading": "domains.image.reading",
    "images.resample": "domains.image.resample",
    "images.text": "io.text",
    "images.volumes": "domains.image.volumes",
    "images.writing": "domains.image.writing io.arrays io.files",
    "kernel": "core.transition",
    "likelihood.base": "core.likelihood",
    "likelihood.foreign": "likelihood.external",
    "measurement": "io.measurements",
    "measurement_check": "prior.measurement_check",
    "modelcard": "workflow.model_card",
    "noise": "schedule core.schedule",
    "operator.base": "core.operator operator.basic",
    "operator.foreign": "operator.external",
    "operator.trial": "operator.probing",
    "prior.inspect": "prior.check",
    "prior.remote": "remote.client",
    "prior.store": "io.prior_files",
    "prior.torchfile": "io.torch_files",
    "prior.trial": "prior.probing",
    "protein": "domains.protein",
    "protein.alternatives": "domains.protein.baselines",
    "protein.arm": "domains.protein.plan",
    "protein.benchmark": "domains.protein.problems",
    "protein.chains": "domains.protein.chains",
    "protein.clearance": "domains.protein.clearance",
    "protein.contig": "domains.protein.contig",
    "protein.genie": "domains.protein.genie",
    "protein.geometry": "domains.protein.geometry",
    "protein.htransform": "domains.protein.htransform",
    "protein.metrics": "domains.protein.metrics",
    "protein.motif": "domains.protein.motif",
    "protein.mpnn": "domains.protein.mpnn",
    "protein.network": "domains.protein.network",
    "protein.outcome": "domains.protein.checks",
    "protein.place": "domains.protein.place",
    "protein.prior": "domains.protein.prior",
    "protein.report": "domains.protein.metrics domains.protein.measure",
    "protein.scaffold": "domains.protein.scaffold",
    "protein.similarity": "domains.protein.similarity",
    "protein.structure": "domains.protein.structure",
    "protein.table": "bench.success_report",
    "protein.trial": "domains.protein.measure bench.store",
    "protein.view": "domains.protein.view",
    "random": "core.random",
    "sample": "samplers",
    "sample.base": "core.sampler samplers.draw",
    "sample.daps": "samplers.daps",
    "sample.hamiltonian": "samplers.hamiltonian",
    "sample.imputation": "samplers.imputation",
    "sample.ode": "samplers.ode",
    "sample.path": "samplers.path",
    "sample.refresh": "samplers.refresh",
    "sample.sde": "samplers.sde",
    "sample.smc": "samplers.smc",
    "sample.spectral": "samplers.spectral",
    "sample.times": "core.grid",
    "sample.travel": "samplers.travel",
    "sample.variational": "samplers.variational",
    "serve": "remote.server",
    "settings": "io.settings",
    "shard": "runtime.shard",
    "train.adapter": "io.h_files",
    "train.checkpoint": "io.files",
    "train.identity": "io.identity",
}
"""Old module -> the modules in which its names are now, in the order in which they are looked through."""

_OF_TASKS = {
    "domains.image.tasks": ("ImageTask", "Masked", "TASKS", "PAPER", "get_task", "make_task"),
    "domains.image.tasks.blur": ("SUMS", "EVENS", "SUM_TOLERANCE"),
    "likelihood.task": ("Choices", "RefusingNoise", "Drawn", "LogProbability", "Tilt", "Through"),
    "io.measurements": ("other_settings",),
}
NAMES: dict[str, str] = {
    **{f"tasks.{name}": f"{module}.{name}" for module, names in _OF_TASKS.items() for name in names},
    "comparison.Arm": "bench.studies.Entry",
    "comparison.config.Arm": "bench.studies.Entry",
    "comparison.run.Crew": "bench.runner.Runner",
    "comparison.store.Unit": "bench.store.Job",
    "comparison.store.unit": "bench.store.make_job",
    "protein.arm.ARMS": "domains.protein.plan.MOTIF_METHODS",
    "protein.arm.Arm": "domains.protein.plan.ChainPlan",
    "convert.read_array": "io.arrays.read_array",
    "htransform.guidance.gaussian": "likelihood.gaussian.gaussian",
    "htransform.guidance.linear": "likelihood.gaussian.linear",
    "htransform.guidance.noise_variance": "likelihood.gaussian.noise_variance",
    "measurement.in_our_units": "domains.image.units.in_our_units",
    "methods.Making": "methods.method.Context",
    "methods.NEEDS": "likelihood.gaussian.REQUIREMENTS",
    "prior.adm.AVERAGES": "io.states.AVERAGES",
    "prior.adm.WRAPPERS": "io.states.WRAPPERS",
    "prior.ImagePrior": "domains.image.prior.ImagePrior",
    "prior.store.ImagePrior": "domains.image.prior.ImagePrior",
    "sample.hamiltonian.STUCK": "samplers.diagnostics.STUCK",
    "sample.smc.effective_share": "samplers.diagnostics.ess_fraction",
    "train.adapter.Described": "kinds.records.Task",
    "operator.radon.Table": "operator.rays.Table",
    "operator.radon.MOST": "operator.radon.MAX_ITERATIONS",
    "prior.inspect.Reading": "prior.check.Candidate",
    "prior.inspect.Verdict": "prior.check.ConventionCheck",
    "prior.inspect.ROUGH": "prior.measurement_check.ROUGH",
    "prior.inspect.warning_from": "prior.measurement_check.warning_from",
    "prior.inspect.try_readings": "prior.check.try_conventions",
    "images.reading.Reading": "domains.image.reading.ReadOptions",
    "images.Reading": "domains.image.reading.ReadOptions",
    "prior.remote.looks": "remote.client.described",
    "prior.torchfile.foreign": "io.torch_files.external_format",
    "protein.outcome.in_words": "domains.protein.checks.summary_lines",
    "train.data.Bank": "train.cache.PredictionCache",
    "train.diagnosis.in_words": "train.diagnosis.summary",
    "train.importance.in_words": "train.importance.summary",
    "train.path.OBJECTIVES": "train.objectives.OBJECTIVES",
    "train.path.Walk": "train.path.SimulatedPaths",
    "train.path.walk": "train.path.simulate",
    "train.path.walk_back": "train.path.simulate_backward",
    "train.measured.Tempered": "core.likelihood.Tempered",
}
"""Old name, with its module -> new name, with its module."""


def moved(module: str, within: int = 0) -> Callable[[str], Any]:
    """The `__getattr__` of a module: its old names, each with a warning. within: so many functions are between it and
    the caller."""
    own = module.removeprefix("deft.")

    def look_up(name: str) -> Any:
        if f"{own}.{name}" not in NAMES:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return _renamed(f"{own}.{name}", 4 + within)

    return look_up


def _renamed(old: str, level: int) -> Any:
    new = NAMES[old]
    _warn(f"deft.{old}", f"deft.{new}", level)
    target, _, attribute = new.rpartition(".")
    return getattr(importlib.import_module(f"deft.{target}"), attribute)


class OldModule(ModuleType):
    """A module of `MODULES`: it has the names of the modules that took its place."""

    def __getattr__(self, name: str) -> Any:
        own = self.__name__.removeprefix("deft.")
        if name == "__all__":
            return sorted({n for new in self._new() for n in _public(new)})
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if f"{own}.{name}" in NAMES:
            return _renamed(f"{own}.{name}", 4)
        for new in self._new():
            if hasattr(new, name):
                if len(MODULES[own].split()) > 1 or _is_package(own):
                    _warn(f"{self.__name__}.{name}", f"{new.__name__}.{name}", 3)
                vars(self)[name] = getattr(new, name)  # one warning a name
                return vars(self)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}; it is now {_names_of(own)}")

    def __dir__(self) -> list[str]:
        return list(self.__all__)

    def _new(self) -> list[ModuleType]:
        return [
            importlib.import_module(f"deft.{name}") for name in MODULES[self.__name__.removeprefix("deft.")].split()
        ]


class Finder:
    """Makes an `OldModule` for a row of `MODULES`; asked last of all, so only for modules that are not there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        own = fullname.removeprefix("deft.")
        if own == fullname or own not in MODULES:
            return None
        return ModuleSpec(
            fullname, cast(Any, self), origin=f"old name of {_names_of(own)}", is_package=_is_package(own)
        )

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return OldModule(spec.name, f"Old name of {_names_of(spec.name.removeprefix('deft.'))}.")

    def exec_module(self, module: ModuleType) -> None:
        own = module.__name__.removeprefix("deft.")
        # a package is imported for the modules in it, too, and warns when a name of its own is taken
        if not _is_package(own):
            _warn(module.__name__, _names_of(own), 3)


def _warn(old: str, new: str, level: int) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes with the next release", DeprecationWarning, stacklevel=level)


def _names_of(own: str) -> str:
    return ", ".join(f"deft.{name}" for name in MODULES[own].split())


def _is_package(own: str) -> bool:
    return any(name.startswith(f"{own}.") for name in MODULES)


def _public(module: ModuleType) -> list[str]:
    return list(getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]))


def install() -> None:
    """Let the import system know of the old names; once."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())
