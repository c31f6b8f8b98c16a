"""What each choice in DEFT's fit is worth: units, weighting, guide, n2's start, the bank.

    python benchmarks/fit_options.py                      # every row below, about 25 minutes on 2 cores
    python benchmarks/fit_options.py --only "eps units" --steps 200
    python benchmarks/fit_options.py --seconds 60         # equal time instead of equal steps

Every row fits an h of the same size to the bundled prior on the same 1,000 images with the same seed, and
reports the mean squared error of E[x_0 | x_t, y] inside the hole and outside it, by noise level, on the bundled
validation images. docs/results/cache-and-units.md quotes it.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import torch

from deft import DEFT, DenoisingObjective, FitConfig, Noise, fit
from deft.domains.image.data import fashion
from deft.domains.image.tasks import TASKS
from deft.prior import load_prior
from deft.train.cache import PredictionCache
from deft.train.data import Clean
from deft.train.levels import level_errors

PAPER = {
    "units": "eps",
    "weighting": "eps",
    "focus": 1.0,
    "even": 0.0,
    "guide": "score",
    "n2_start": 0.01,
    "normalise": False,
    "gate": False,
}
LEVELS = [math.log(math.tan(math.pi / 2 * u)) for u in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.985)]
ROWS: dict[str, dict] = {
    "default": {},
    "the paper (eps units and loss, raw g and inputs, no gate)": PAPER,
    "no gate": {"gate": False},
    "no calibrate": {"calibrate": False},
    "x0 loss, even 0": {"weighting": "x0", "even": 0.0},
    "x0 loss": {"weighting": "x0"},
    "v loss": {"weighting": "v"},
    "even 0": {"even": 0.0},
    "even 1": {"even": 1.0},
    "v loss, focus 1, even 0": {"weighting": "v", "focus": 1.0, "even": 0.0},
    "eps units, eps loss, focus 1, even 0": {"units": "eps", "weighting": "eps", "focus": 1.0, "even": 0.0},
    "eps units": {"units": "eps"},
    "n2 from 0": {"n2_start": 0.0},
    "n2 from 0.01": {"n2_start": 0.01},
    "raw g": {"guide": "score"},
    "no bank": {"bank": 0},
    "bank of 1,000": {"bank": 1_000},
    "bank of 2,000": {"bank": 2_000},
    "bank of 8,000": {"bank": 8_000},
    "bank of 16,000": {"bank": 16_000},
}
"""Each row: what differs from the defaults (v units, pull, gate, n2 from 1, between loss, focus 3, even 0.5,
calibrated, a bank of 4,000)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="inpaint", choices=TASKS)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seconds", type=float, help="stop each fit here, the bank's time included")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--only", help="rows whose name contains this")
    parser.add_argument("--part", default="0/1", help="i/n: every n-th row from the i-th (to use several processes)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    prior, task = load_prior("fashion"), TASKS[args.task]()
    x, held = fashion("fit").x, fashion("validation").x
    obs = task.observe(held, Noise(7, len(held)))
    part, parts = map(int, args.part.split("/"))
    names = [n for n in ROWS if not args.only or args.only in n][part::parts]
    for name in names:
        options = dict(ROWS[name])
        weighting, focus, even = (
            options.pop("weighting", "between"),
            options.pop("focus", 3.0),
            options.pop("even", 0.5),
        )
        bank, calibrate = options.pop("bank", 4_000), options.pop("calibrate", True)
        torch.manual_seed(args.seed)
        h = DEFT.sized(prior, 0.09, task.feature_channels, **options)
        start = time.monotonic()
        if calibrate:
            h.calibrate(prior, x)
        batches = PredictionCache.build(prior, x, task, bank, focus=focus, even=even) if bank else Clean(x, task)
        spent = time.monotonic() - start
        config = FitConfig(
            steps=args.steps if args.seconds is None else 100_000,
            lr=args.lr,
            seed=args.seed,
            max_seconds=None if args.seconds is None else args.seconds - spent,
            warmup=50,
            ema=0.998,
        )
        result = fit(h, DenoisingObjective(prior, weighting, focus, even), batches, config=config, progress=False)
        rows = level_errors(prior, h, held, obs, levels=LEVELS)
        parts_of = ["hidden", "seen"] if "h_hidden" in rows[0] else [""]
        if args.json:
            print(
                json.dumps({"row": name, "steps": result.steps, "seconds": result.seconds + spent, "levels": rows}),
                flush=True,
            )
            continue
        for part_of in parts_of:
            end = f"_{part_of}" if part_of else ""
            if name == names[0]:
                print(f"{part_of or 'all'} pixels | steps | s | " + " | ".join(f"{r['angle']:.2f}" for r in rows))
                print("prior alone | | | " + " | ".join(f"{r['prior' + end]:.5f}" for r in rows))
            print(
                f"{name} | {result.steps} | {result.seconds + spent:.0f} | "
                + " | ".join(f"{r['h' + end]:.5f}" for r in rows),
                flush=True,
            )


if __name__ == "__main__":
    main()
