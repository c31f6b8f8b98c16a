"""`deft demo`: fit h on 1,000 bundled images before your eyes, restore held-out ones, compare with what you know."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deft.bench.compare import TensorCases, compare
from deft.bench.methods_report import captions, write_methods
from deft.bench.report import machine
from deft.bench.studies import domain_of_tasks
from deft.core.denoiser import Denoiser
from deft.core.random import Noise
from deft.errors import CheckpointError, InputError, unknown
from deft.io.folders import FIT_FILES, REPORT_FILES, Outputs, own_folder
from deft.io.h_files import bundled_h, load_h
from deft.io.reading import read_json
from deft.io.tasks import TASKS
from deft.io.text import shape_text
from deft.kinds.domain import Data, Domain
from deft.learned.base import count_parameters
from deft.likelihood import Likelihood
from deft.methods import METHODS, Plan, plan
from deft.prior import load_prior
from deft.recipe.fit import fit_h
from deft.recipe.settings import Recipe
from deft.runtime.messages import log

METHOD_NAMES = ("deft", "dps", "pigdm", "reconstruction", "prior")
"""Those that the measurement does not allow are left out; reconstruction guidance stands in where DPS cannot be
used."""
FIT_SECONDS = 95.0


@dataclass(frozen=True)
class DemoConfig:
    """Settings of a demo; `quick` is a run of seconds that shows that everything works, and nothing about quality."""

    task: str = "inpaint"
    seed: int = 0
    images: int = 64
    samples: int = 2
    quick: bool = False
    pretrained: bool = False
    prior: str = ""
    size: float = 0.09
    seconds: float = FIT_SECONDS

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise unknown("task", self.task, TASKS)
        if not (domain := domain_of_tasks([self.task])).feature_networks():
            raise InputError(f"there is no demo of {domain.title}: give a task of images, such as inpaint")
        if not 1 <= self.images <= 500:
            raise InputError(f"images is {self.images}: there are 500 bundled test images, give 1 to 500")

    def recipe(self) -> Recipe:
        if self.quick:
            return Recipe(
                steps=8, batch=16, warmup=2, patience=0, prior_samples=0, cache=64, seed=self.seed, size=self.size
            )
        return Recipe(seconds=self.seconds, seed=self.seed, size=self.size)

    def plans(self, likelihood: Likelihood) -> list[Plan]:
        names = [n for n in METHOD_NAMES if METHODS[n].why_unsupported(likelihood) is None]
        if "dps" in names:
            names.remove("reconstruction")
        return [plan(name, self.task, steps=5 if self.quick else None) for name in names]

    @property
    def prior_name(self) -> str:
        return self.prior or TASKS[self.task].prior


TITLE = "deft demo"
"""How the titles of its reports begin."""
OUTPUTS = Outputs(
    "demo", REPORT_FILES, "report.json",
    lambda about: FIT_FILES if str(about.get("title")).startswith(TITLE) else (), r"[a-z]+\.[a-z]+",
)  # fmt: skip


def is_demo(folder: Path) -> bool:
    """Whether an earlier demo left this folder: its report says so, for others write a report.json as well."""
    with suppress(CheckpointError):
        about = read_json(folder / "report.json", "a report")
        return isinstance(about, dict) and str(about.get("title")).startswith(TITLE)
    return False


def bundled_data(domain: Domain, name: str, prior: Denoiser) -> tuple[str, Data]:
    """(name, test split) of the bundled data set that goes with a prior: that of its name, or one of its shape."""
    found = {k: domain.read(k, split="test") for k in domain.datasets()}
    fitting = [k for k, data in found.items() if tuple(data.x.shape[1:]) == tuple(prior.data_shape)]
    if not fitting:
        shapes = " or ".join(shape_text(data.x.shape[1:]) for data in found.values())
        raise InputError(
            f"the demo restores bundled {domain.title} of {shapes}, the prior {name} makes"
            f" {shape_text(prior.data_shape)}"
        )
    chosen = name if name in fitting else fitting[0]
    return chosen, found[chosen]


def demo(
    out: str | Path = "demo",
    config: DemoConfig | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Run the demo into a folder: samples.png, samples.npz, report.json, report.md, h.safetensors.

    Returns what report.json holds, with `out` and `seconds`.
    """
    config = config or DemoConfig()
    with own_folder(out, OUTPUTS, overwrite=overwrite, ours=is_demo, inputs=(config.prior or None,)) as folder:
        return _demo(folder, config, progress)


def _demo(out: Path, config: DemoConfig, progress: bool) -> dict[str, Any]:
    """The demo, in a folder that is its own."""
    started = time.monotonic()
    name = config.prior_name
    prior, task = load_prior(name), TASKS[config.task]()
    domain = domain_of_tasks([config.task])
    data, test = bundled_data(domain, name, prior)
    likelihood = task.check(prior.data_shape).likelihood

    # 1. an h, fitted here or bundled
    if config.pretrained:
        h, task, card = load_h(bundled_h(config.task), prior)
        log.info(f"h: bundled, {count_parameters(h):,} parameters")
        about: dict[str, Any] = {"pretrained": True, "seconds": card.get("seconds"), "steps": card.get("steps")}
    else:
        log.info(f"fitting h for {task.name} on 1,000 images (the prior stays frozen)")
        fitted = fit_h(prior, task, data, recipe=config.recipe(), progress=progress)
        fitted.save(out)
        h, about = fitted.h, {"pretrained": False, **fitted.summary()}
        log.info(
            f"fitted in {fitted.seconds:.0f} s, {about['steps']} steps, {about['prior_samples']} samples of the prior"
            " among the images"
        )

    # 2. the same measurements, noise and seeds for every method
    images = 8 if config.quick else config.images
    samples = 2 if config.quick else config.samples
    x, labels = test.x[:images], None if test.labels is None else test.labels[:images]
    network = domain.feature_network(domain.feature_network_for([data]), x)
    cases = TensorCases(
        domain,
        x,
        task.observe(x, Noise(config.seed, images)),
        labels=labels,
        network=network,
        names=captions(domain, labels, [data]),
    )
    plans = config.plans(likelihood)
    results = compare(
        {p.method.name: p for p in plans}, prior, cases, samples, fitted=h, seed=config.seed, progress=progress,
    )  # fmt: skip

    # 3. figures and pictures
    title = f"{task.title}: {images} held-out images, {samples} samples each"
    h_settings = {
        "size": config.size,
        "parameters": count_parameters(h),
        "prior_parameters": prior.parameter_count(),
        **about,
    }
    settings = {
        "task": task.config(), "prior": name, "seed": config.seed, "images": images, "samples": samples,
        "quick": config.quick, "h": h_settings, "plans": [p.config() for p in plans], "machine": machine(),
    }  # fmt: skip
    if network is not None:
        settings["features"] = {"name": network.name} | {
            k: network.card[k] for k in ("test_accuracy", "unit") if k in network.card
        }
    report = write_methods(
        out, f"{TITLE}, {title}", results, cases, settings, task=config.task, caption=f"{task.title}, held-out images"
    )  # fmt: skip
    return report | {"out": str(out), "seconds": round(time.monotonic() - started, 1)}
