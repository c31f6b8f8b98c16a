"""What networks in 16 bits change in the samples, and what they save: paired with float32, the same noise.

    python benchmarks/precision.py --json benchmarks/results/precision.json
    python benchmarks/precision.py --tasks sr4 --images 8 --device cuda

Rows: a task with its bundled h on validation images, four samples of each, the default sampler (50 calls). Columns:
the difference in PSNR of the mean to float32 (dB, mean over the images, with its standard error), the coverage of 90 %
intervals and the energy score in both, the root mean square of the difference of the samples, and the time over that
of float32, measured in turn. docs/cost.md quotes the table.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import torch

import deft
from deft.domains.image import data
from deft.domains.image.measure import measure
from deft.domains.image.networks import features_for, load_features
from deft.io.h_files import bundled_h
from deft.runtime.precision import at_precision

TASKS = ("inpaint", "inpaint-random", "sr4", "deblur-gaussian", "ct", "phase", "deblur-nonlinear")
LOW = ("bf16", "fp16")


def rows(task: str, images: int, samples: int, device: str, steps: int) -> list[dict[str, Any]]:
    fitted = deft.load(bundled_h(task), device=device)
    name = fitted.prior.loaded_as
    x = data.dataset(name, "validation").x[:images]
    network = load_features(features_for(name))
    obs = fitted.task.observe(x, deft.Noise(0, len(x)))
    draws, seconds = {}, {}
    for precision in ("fp32", *LOW):
        at_precision(fitted.prior, precision), at_precision(fitted.h, precision)
        fitted.sample(obs[:2], n=1, steps=2)
        started = time.process_time() if device == "cpu" else time.perf_counter()
        draws[precision] = fitted.sample(obs, n=samples, steps=steps).x.cpu()
        seconds[precision] = (time.process_time() if device == "cpu" else time.perf_counter()) - started
    values = {p: measure(d, x, obs, network=network) for p, d in draws.items()}
    out = []
    for p in LOW:
        gap = (values[p]["psnr_mean"] - values["fp32"]["psnr_mean"]).double()
        row = {"prior": name, "task": task, "precision": p, "images": len(x), "samples": samples}
        row |= {"psnr": float(gap.mean()), "psnr_error": float(gap.std() / math.sqrt(len(x)))}
        for key in ("coverage", "energy_score"):
            row |= {
                f"{key}_fp32": float(values["fp32"][key].double().mean()),
                key: float(values[p][key].double().mean()),
            }
        row["rms"] = float((draws[p] - draws["fp32"]).square().mean().sqrt())
        row["time"] = seconds[p] / seconds["fp32"]
        out.append(row)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json")
    args = parser.parse_args()
    found = []
    for task in args.tasks:
        for row in rows(task, args.images, args.samples, args.device, args.steps):
            found.append(row)
            print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
            if args.json:
                with open(args.json, "w") as file:
                    json.dump({"device": args.device, "torch": torch.__version__, "rows": found}, file, indent=1)


if __name__ == "__main__":
    main()
