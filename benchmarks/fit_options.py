"""What each choice in DEFT's fit is worth: units, weighting, guide, n2's start, the bank.

    python benchmarks/fit_options.py                      # every row below, about 25 minutes on 2 cores
    python benchmarks/fit_options.py --only "eps units" --steps 200
    python benchmarks/fit_options.py --seconds 60         # equal time instead of equal steps

Every row fits an h of the same size to the bundled prior on the same 1,000 images with the same seed, and
reports the mean squared error of E[x_0 | x_t, y] inside the hole, by noise level, on the bundled validation
images. docs/units.md and docs/cache.md quote it.
"""

from __future__ import annotations

import argparse
import json
import math
import time

import torch

from deft import DEFT, DenoisingObjective, FitConfig, Noise, fit
from deft.data import fashion
from deft.evaluate.levels import level_errors
from deft.prior import load_prior
from deft.tasks import TASKS
from deft.train.data import Bank, Clean

PAPER = {"units": "eps", "weighting": "eps", "focus": 1.0, "guide": "score", "n2_start": 0.01, "normalise": False}
LEVELS = [math.log(math.tan(math.pi / 2 * u)) for u in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.985)]
ROWS: dict[str, dict] = {
    "v units, x0 loss, focus 3": {},
    "the paper (eps units and loss, raw g and inputs)": PAPER,
    "eps units, eps loss": {"units": "eps", "weighting": "eps", "focus": 1.0},
    "eps units, x0 loss, focus 3": {"units": "eps"},
    "v units, eps loss": {"weighting": "eps", "focus": 1.0},
    "v units, v loss": {"weighting": "v", "focus": 1.0},
    "v units, x0 loss, focus 1": {"focus": 1.0},
    "n2 from 0": {"n2_start": 0.0},
    "n2 from 0.01": {"n2_start": 0.01},
    "raw g": {"guide": "score"},
    "bank of 2,000": {"bank": 2_000},
    "bank of 8,000": {"bank": 8_000},
    "bank of 16,000": {"bank": 16_000},
}


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
        weighting, focus = options.pop("weighting", "x0"), options.pop("focus", 3.0)
        bank = options.pop("bank", 0)
        torch.manual_seed(args.seed)
        h = DEFT.sized(prior, 0.09, task.lift_channels, **options)
        start = time.monotonic()
        batches = Bank.build(prior, x, task, bank, focus=focus) if bank else Clean(x, task)
        spent = time.monotonic() - start
        config = FitConfig(
            steps=args.steps if args.seconds is None else 100_000,
            lr=args.lr,
            seed=args.seed,
            max_seconds=None if args.seconds is None else args.seconds - spent,
            warmup=50,
            ema=0.998,
        )
        result = fit(h, DenoisingObjective(prior, weighting, focus), batches, config=config, progress=False)
        rows = level_errors(prior, h, held, obs, levels=LEVELS)
        which = "h_hidden" if "h_hidden" in rows[0] else "h"
        if args.json:
            print(json.dumps({"row": name, "steps": result.steps, "seconds": result.seconds + spent, "levels": rows}), flush=True)
            continue
        if name == names[0]:
            print("| | steps | s | " + " | ".join(f"{r['angle']:.2f}" for r in rows) + " |\n|" + "---|" * (len(rows) + 3))
            base = [r[which.replace("h", "prior", 1)] for r in rows]
            print("| prior alone | | | " + " | ".join(f"{v:.4f}" for v in base) + " |")
        print(
            f"| {name} | {result.steps} | {result.seconds + spent:.0f} | "
            + " | ".join(f"{r[which]:.4f}" for r in rows)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
