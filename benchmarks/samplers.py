"""Which sampler keeps the posterior's spread, and which draws the closest single samples, at a given number of calls.

    python benchmarks/samplers.py                       # a Gaussian world, in closed form: half a minute on one core
    python benchmarks/samplers.py --images --run RUN    # a fitted h on validation images; RUN as `deft fit` writes it
    python benchmarks/samplers.py --images 200 --run RUN --steps 20 50 200 --device cuda
    python benchmarks/samplers.py --json                # one JSON object a row

In closed form: a smooth Gaussian field of 8 x 8 pixels, half of them measured (`deft.testing.half_seen`), under its
exact h. Mean and covariance of what a sampler draws are propagated exactly (`deft.testing.moments`), so nothing is
random. A cell holds the samples' deviation over the posterior's, mean over the pixels, and how often the central 90 %
interval of the samples holds the truth. Rows named "trace" are Analytic-DPM's step (Bao et al. 2022, "Analytic-DPM",
https://arxiv.org/abs/2201.06503): the ancestral mean, and the variance s^2 + c^2 v with v = tr Cov[x_0 | x_t] / d, here
known exactly.

On images: energy score, coverage at 90 %, spread over error, feature distance and PSNR of the mean (`deft.evaluate`),
with the same measurements, starting noise and seeds for every row; the energy score's paired difference to the first
row of the same number of calls, with its standard error over the images. docs/results/samplers.md quotes both tables.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import torch

from deft import Noise, sample_posterior, times
from deft.core.denoiser import Denoiser
from deft.core.grid import SPACINGS
from deft.core.sampler import Sampler
from deft.core.schedule import Schedule
from deft.core.transition import Kernel, Level, ancestral
from deft.domains.image.data import fashion
from deft.domains.image.measure import measure
from deft.domains.image.networks import features_for, load_features
from deft.guidance.exact import Mixture
from deft.io.h_files import load_h
from deft.methods import make_sampler
from deft.prior import load_prior
from deft.samplers import KernelSampler
from deft.schedule import SCHEDULES
from deft.testing import MixtureWorld, half_seen, moments, schedules
from deft.testing.worlds import Posterior

EXACT_STEPS, IMAGE_STEPS = (5, 10, 20, 50, 100, 200), (20, 50)
EXACT_SPACINGS, IMAGE_SPACINGS = ("angle", "log-snr", "karras"), ("angle", "log-snr")
Rows = tuple[tuple[str, float], ...]
ROWS: Rows = (
    ("ddim", 1.0),
    ("ito", 1.0),
    ("trace", 1.0),
    ("dpmpp-2m", 0.0),
    ("unipc", 0.0),
    ("sde-dpmpp-2m", 0.5),
    ("sde-dpmpp-2m", 1.0),
)
IMAGE_ROWS: Rows = (("ddim", 1.0), ("dpmpp-2m", 0.0), ("unipc", 0.0), ("sde-dpmpp-2m", 0.5), ("sde-dpmpp-2m", 1.0))
METRICS = {"energy_score": 4, "coverage": 3, "spread_skill": 2, "feature_distance": 3, "psnr_mean": 2}


class Trace(KernelSampler):
    """Analytic-DPM's step, with the exact trace of what is left of data N(m, C) at each level."""

    stochastic = True

    def __init__(self, covariance: torch.Tensor):
        self.values = torch.linalg.eigvalsh(covariance)

    def kernel(self, t: Level, s: Level) -> Kernel:
        kernel = ancestral(t, s)
        if s.sigma == 0:
            return kernel
        left = float((self.values * t.sigma**2 / (self.values * t.alpha**2 + t.sigma**2)).mean())
        return kernel._replace(std=math.sqrt(kernel.std**2 + kernel.c_mean**2 * left))


def title(name: str, eta: float) -> str:
    return f"{name} (eta {eta:g})" if name in ("ddim", "sde-dpmpp-2m") else name


def in_closed_form(
    schedule: Schedule, table: Rows, steps: tuple[int, ...], spacings: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Rows of the table: a sampler, a spacing, and by number of steps (spread over the posterior's, coverage)."""
    world, obs = half_seen(8)
    exact = world.posterior(obs)
    denoiser = MixtureWorld(
        Mixture(torch.ones(1, dtype=torch.float64), exact.mixture.means, exact.mixture.covariances)
    ).prior(schedule)
    for name, eta in table:
        sampler: Sampler = Trace(exact.covariance) if name == "trace" else make_sampler(name, eta)
        for spacing in spacings:
            cells = {n: figures(exact, *moments(denoiser, sampler, times(schedule, n, spacing))) for n in steps}
            yield {"sampler": title(name, eta), "spacing": spacing, "cells": cells}


def figures(exact: Posterior, mean: torch.Tensor, covariance: torch.Tensor) -> tuple[float, float]:
    """(deviation over the posterior's, coverage of the central 90 % interval), means over the pixels."""
    ratio, off = covariance.diagonal().sqrt() / exact.std, (mean - exact.mean) / exact.std
    normal, reach = torch.distributions.Normal(0.0, 1.0), 1.6448536
    inside = normal.cdf(off + reach * ratio) - normal.cdf(off - reach * ratio)
    return float(ratio.mean()), float(inside.mean())


def on_images(
    prior: Denoiser,
    run: str,
    table: Rows,
    steps: tuple[int, ...],
    spacings: tuple[str, ...],
    images: int,
    samples: int,
    seed: int,
    batch: int,
    device: str,
) -> Iterator[dict[str, Any]]:
    """Rows of the table: a sampler, a spacing, a number of calls, and the metrics' means over the images."""
    h, task, _ = load_h(run, prior)
    h = h.to(device).eval()
    x = fashion("validation").x[:images]
    obs = task.observe(x, Noise(seed, len(x)))
    network = load_features(features_for("fashion"))
    for n in steps:
        first = None
        for spacing in spacings:
            for name, eta in table:
                started = time.perf_counter()
                drawn = sample_posterior(
                    prior,
                    h,
                    obs.to(device),
                    samples,
                    seed=seed,
                    batch=batch,
                    sampler=make_sampler(name, eta),
                    steps=n,
                    spacing=spacing,
                ).x.cpu()
                seconds = (time.perf_counter() - started) / (len(x) * samples)
                values = measure(drawn, x, obs, network=network)
                energy = values["energy_score"].double()
                first = energy if first is None else first
                gap = energy - first
                yield {
                    "sampler": title(name, eta), "spacing": spacing, "calls": n, "images": len(x), "seconds": seconds,
                    **{k: float(values[k].double().mean()) for k in METRICS},
                    "difference": float(gap.mean()), "error": float(gap.std() / math.sqrt(len(x))),
                }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=int,
        nargs="?",
        const=48,
        help="on so many validation images of `fashion` (48 if no number is given), instead of in closed form",
    )
    parser.add_argument("--run", help="with --images: a folder that `deft fit --data fashion` wrote")
    parser.add_argument("--steps", type=int, nargs="+", help=f"default: {EXACT_STEPS}, with --images {IMAGE_STEPS}")
    parser.add_argument(
        "--spacings", nargs="+", choices=SPACINGS, help=f"default: {EXACT_SPACINGS}, with --images {IMAGE_SPACINGS}"
    )
    parser.add_argument("--samplers", nargs="+", choices=sorted({name for name, _ in ROWS}), help="these rows alone")
    parser.add_argument("--schedule", choices=SCHEDULES, default="vp-cosine", help="of the Gaussian world")
    parser.add_argument("--samples", type=int, default=4, help="of each image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    args = parser.parse_args()
    if (args.images is None) != (args.run is None):
        parser.error("--images and --run go together")

    def show(row: dict[str, Any], line: str) -> None:
        print(json.dumps(row) if args.json else line, flush=True)

    table = tuple(
        row for row in (ROWS if args.images is None else IMAGE_ROWS) if not args.samplers or row[0] in args.samplers
    )
    head: list[str]
    if args.images is None:
        steps, spacings = tuple(args.steps or EXACT_STEPS), tuple(args.spacings or EXACT_SPACINGS)
        head = ["sampler", "spacing", *(f"{n} steps" for n in steps)]
        rows = in_closed_form(schedules()[args.schedule], table, steps, spacings)
    else:
        steps, spacings = tuple(args.steps or IMAGE_STEPS), tuple(args.spacings or IMAGE_SPACINGS)
        head = [
            "calls",
            "sampler",
            "spacing",
            *(k.replace("_", " ") for k in METRICS),
            "energy score less the first row's",
            "s a sample",
        ]
        rows = on_images(
            load_prior("fashion", args.device),
            args.run,
            table,
            steps,
            spacings,
            args.images,
            args.samples,
            args.seed,
            args.batch,
            args.device,
        )
    if not args.json:
        print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", flush=True)
    for row in rows:
        if args.images is None:
            cells = [
                row["sampler"],
                row["spacing"],
                *(f"{ratio:.2f}, {100 * inside:.0f} %" for ratio, inside in row["cells"].values()),
            ]
        else:
            cells = [
                str(row["calls"]),
                row["sampler"],
                row["spacing"],
                *(f"{row[k]:.{digits}f}" for k, digits in METRICS.items()),
            ]
            cells += [f"{row['difference']:+.4f} ± {row['error']:.4f}", f"{row['seconds']:.3f}"]
        show(row, "| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
