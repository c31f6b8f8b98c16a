"""`deft demo`: fit h on 1,000 bundled images before your eyes, restore held-out ones, compare with what you know."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from deft.data import DATASETS, dataset
from deft.denoise import Denoiser
from deft.errors import InputError, unknown
from deft.evaluate.compare import compare
from deft.evaluate.features import features_for, load_features
from deft.evaluate.report import comparison_picture, machine, make_rows, write_report, write_samples
from deft.htransform.learned import DEFT, count_parameters
from deft.images import open_folder, shape_text
from deft.likelihood import Likelihood
from deft.methods import METHODS, Plan, plan
from deft.prior import load_prior
from deft.random import Noise
from deft.tasks import TASKS, ImageTask
from deft.train.adapter import bundled_h, load_h, save_h
from deft.train.data import Bank, Clean
from deft.train.denoising import DenoisingObjective
from deft.train.fit import FitConfig, FitResult, fit

METHOD_NAMES = ("deft", "dps", "pigdm", "reconstruction", "prior")
"""Those that the measurement does not allow are left out; reconstruction guidance stands in where DPS cannot be used."""
FIT_SECONDS = 95.0
BANK = 6_000


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
        if not 1 <= self.images <= 500:
            raise InputError(f"images is {self.images}: there are 500 bundled test images, give 1 to 500")

    def fit_config(self, seconds: float) -> FitConfig:
        if self.quick:
            return FitConfig(steps=8, batch=16, warmup=2, evaluations=2, held_out_batches=1, seed=self.seed)
        return FitConfig(steps=100_000, batch=64, lr=5e-3, warmup=50, ema=0.998, max_seconds=seconds, evaluations=1, seed=self.seed)

    def plans(self, likelihood: Likelihood) -> list[Plan]:
        names = [n for n in METHOD_NAMES if METHODS[n].misfit(likelihood) is None]
        if "dps" in names:
            names.remove("reconstruction")
        return [plan(name, self.task, steps=5 if self.quick else None) for name in names]

    @property
    def prior_name(self) -> str:
        return self.prior or TASKS[self.task].prior


def is_demo(folder: Path) -> bool:
    """Whether an earlier demo left this folder."""
    return (folder / "report.json").exists()


def fit_h(
    prior: Denoiser, task: ImageTask, data: str, config: DemoConfig, say: Callable[[str], None], progress: bool
) -> tuple[DEFT, FitResult]:
    """Stage 1: an h of at most `size` of the prior's parameters, on the 1,000 images of a bundled data set."""
    x, x_out = dataset(data, "fit").x, dataset(data, "validation").x
    torch.manual_seed(config.seed)
    objective, started = DenoisingObjective(prior), time.monotonic()
    h = DEFT.sized(prior, config.size, task.lift_channels, log=say).calibrate(prior, x)
    bank = Bank.build(
        prior, x, task, 64 if config.quick else BANK, focus=objective.focus, even=objective.even,
        seed=config.seed, progress=progress, fixed=task.fixed,
    )  # fmt: skip
    spent = time.monotonic() - started
    settings = config.fit_config(max(config.seconds - spent, config.seconds / 4))
    result = fit(h, objective, bank, Clean(x_out, task, fixed=task.fixed), config=settings, progress=progress)
    return h, replace(result, seconds=result.seconds + spent)


def demo(
    out: str | Path = "demo",
    config: DemoConfig | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run the demo into a folder: samples.png, samples.npz, report.json, report.md, h.safetensors.

    Returns what report.json holds, with `out` and `seconds`.
    """
    config = config or DemoConfig()
    out = open_folder(out, overwrite=overwrite, ours=is_demo)
    started = time.monotonic()
    name = config.prior_name
    prior, task = load_prior(name), TASKS[config.task]()
    data = name if name in DATASETS else next((k for k, d in DATASETS.items() if d.event_shape == tuple(prior.data_shape)), "")
    if not data:
        shapes = " or ".join(shape_text(d.event_shape) for d in DATASETS.values())
        raise InputError(f"the demo restores bundled images of {shapes}, the prior {name} makes {shape_text(prior.data_shape)}")
    likelihood = task.check(DATASETS[data].event_shape).likelihood

    # 1. an h, fitted here or bundled
    if config.pretrained:
        h, task, card = load_h(bundled_h(config.task), prior)
        say(f"h: bundled, {count_parameters(h):,} parameters")
        about = {"pretrained": True, "seconds": card.get("seconds"), "steps": card.get("steps")}
    else:
        say(f"fitting h for {task.name} on 1,000 images (the prior stays frozen)")
        h, result = fit_h(prior, task, data, config, say, progress)
        about = {"pretrained": False, "seconds": round(result.seconds, 1), "steps": result.steps, "held_out": result.held_out}
        save_h(out / "h.safetensors", h, prior, task, prior=name, data=f"{data} (bundled)", **about)
        say(f"fitted in {result.seconds:.0f} s, {result.steps} steps")

    # 2. the same measurements, noise and seeds for every method
    images = 8 if config.quick else config.images
    samples = 2 if config.quick else config.samples
    test, network = dataset(data, "test"), load_features(features_for(data))
    x, labels = test.x[:images], test.labels[:images]
    obs = task.observe(x, Noise(config.seed, images))
    plans = config.plans(likelihood)
    outcomes = compare(
        plans, prior, x, obs, fitted=h, samples=samples, seed=config.seed, classifier=network, labels=labels,
        progress=progress, say=say,
    )  # fmt: skip

    # 3. figures and pictures
    rows = make_rows(config.task, outcomes)
    title = f"{task.title}: {images} held-out images, {samples} samples each"
    h_settings = {"size": config.size, "parameters": count_parameters(h), "prior_parameters": prior.parameter_count(), **about}
    settings = {
        "task": task.config(), "prior": name, "seed": config.seed, "images": images, "samples": samples,
        "quick": config.quick, "h": h_settings, "plans": [p.config() for p in plans], "machine": machine(),
    }  # fmt: skip
    settings["features"] = {"name": network.name} | {k: network.card[k] for k in ("test_accuracy", "unit") if k in network.card}
    report = write_report(out, f"deft demo, {title}", rows, settings)
    captions = [DATASETS[data].labels[i] for i in labels.tolist()]
    comparison_picture(out / "samples.png", x, obs, outcomes, captions=captions, title=f"{task.title}, held-out images")
    write_samples(out / "samples.npz", x, obs, outcomes)
    return report | {"out": str(out), "seconds": round(time.monotonic() - started, 1)}
