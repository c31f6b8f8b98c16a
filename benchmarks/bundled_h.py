"""Fit the h that come with the library: one for each task of `BUNDLED`, on the task's own bundled prior or the one
named, by the recipe.

    python benchmarks/bundled_h.py --out h --device cuda --seconds 140 --jobs 8       # a GPU: three minutes for all
    python benchmarks/bundled_h.py --out h --quick                                    # a CPU: does it run
    python benchmarks/bundled_h.py --out h --tasks sr4 --seconds 1200 --batch 64      # one of them on a CPU

Each is fitted to the 1,000 bundled images and `--samples` samples of the prior, and saved in half precision as
h-TASK.safetensors, with its errors by noise level in the card. Tasks that have a file already are left out: run the
same command again to go on.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from pathlib import Path

import torch

from deft.domains.image.data import dataset
from deft.domains.image.tasks import TASKS
from deft.io.h_files import save_h
from deft.prior import load_prior
from deft.recipe import Recipe, fit_h
from deft.runtime.messages import show
from deft.train.levels import level_table
from deft.train.prior_samples import draw_prior_samples

BUNDLED = (
    "ct",
    "ct-fashion",
    "inpaint",
    "inpaint-random",
    "sr4",
    "deblur-gaussian",
    "hdr",
    "phase",
    "deblur-nonlinear",
)
"""TASK, or TASK-PRIOR."""


def fit_one(name: str, args: argparse.Namespace) -> None:
    """One task; writes its file when all is done."""
    task_name, own = split(name)
    task, prior = TASKS[task_name](), load_prior(own, args.device)
    pixels = math.prod(prior.event_shape) // 1024
    quick = {"steps": 6, "cache": 64, "prior_samples": 128, "batch": 16, "evaluations": 2, "warmup": 2}
    recipe = (
        Recipe(**quick)
        if args.quick
        else Recipe(
            seconds=args.seconds,
            batch=args.batch,
            prior_samples=args.samples // pixels,
            cache=args.cache // pixels,
            evaluations=40,
            patience=12,
            ema=0.999,
            seed=args.seed,
        )
    )
    with show(lambda text: print(f"{name}: {text}", flush=True)):
        fitted = fit_h(
            prior,
            task,
            dataset(own, "fit").x,
            dataset(own, "validation").x,
            recipe,
            samples_folder=args.out / "samples",
            progress=False,
        )
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU"
    about = fitted.card_now() | {
        "prior": own,
        "data": "1,000 bundled images and samples of the prior",
        "device": device,
    }
    save_h(args.out / f"h-{name}.safetensors", fitted.h, prior, task, half=True, **about)
    r = fitted.result
    print(
        f"{name}: {r.steps} steps, best {r.best_step}, held out {r.held_out}, {fitted.seconds:.0f}"
        f" s\n{level_table(fitted.levels)}",
        flush=True,
    )


def split(name: str) -> tuple[str, str]:
    """(task, prior) of a name of `BUNDLED`."""
    if name in TASKS:
        return name, TASKS[name].prior
    task, _, prior = name.rpartition("-")
    return task, prior


def again(args: argparse.Namespace) -> list[str]:
    """The command line of this program with the same settings."""
    options = [
        str(a)
        for k in ("out", "device", "seconds", "samples", "cache", "batch", "seed")
        for a in (f"--{k}", getattr(args, k))
    ]
    return [sys.executable, __file__, *options, "--jobs", "2", *(["--quick"] if args.quick else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(BUNDLED), choices=BUNDLED)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=1200.0, help="of each fit")
    parser.add_argument("--samples", type=int, default=12_000, help="of the prior, for 32x32 pixels; fewer for more")
    parser.add_argument("--cache", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--draw", default="", help="only draw the samples of this prior")
    args = parser.parse_args()
    missing = [t for t in args.tasks if not (args.out / f"h-{t}.safetensors").exists()]
    if not args.draw and (args.jobs == 1 or len(missing) == 1):
        for name in missing:
            fit_one(name, args)
        return
    if args.draw:
        prior = load_prior(args.draw, args.device)
        draw_prior_samples(
            prior, args.samples * 1024 // math.prod(prior.event_shape), seed=args.seed, folder=args.out / "samples"
        )
        return
    if not args.quick:  # once, before all want them
        drawing = [subprocess.Popen([*again(args), "--draw", p]) for p in {split(t)[1] for t in missing}]
        for p in drawing:
            p.wait()
    waiting, running = list(missing), []
    while waiting or running:
        while waiting and len(running) < args.jobs:
            name = waiting.pop(0)
            running.append(subprocess.Popen([*again(args), "--jobs", "1", "--tasks", name]))
        running = [p for p in running if p.poll() is None]
        time.sleep(0.5)


if __name__ == "__main__":
    main()
