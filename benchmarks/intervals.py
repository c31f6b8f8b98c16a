"""Coverage of the intervals of the bundled h, raw and calibrated, and what tells that one of them is out of its depth.

    python benchmarks/intervals.py --tasks inpaint,sr4,deblur-gaussian --out intervals.json

Factors are found on bundled validation images, coverage is measured on bundled test images (docs/trust.md). With --depth it measures
how often measurements of other kinds are noticed, and the coverage of the calibrated interval on them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from torch.nn import functional as F

import deft
from deft.core.likelihood import Observation
from deft.diagnose import depth_numbers, interval_coverage
from deft.io.files import write_json
from deft.io.h_files import bundled_h
from deft.recipe.data import held_out_samples


def coverage(h, images, n, checked_with):
    """Rows for one h: its factors, and coverage of test images for each number of samples in n."""
    x = held_out_samples(h.prior, "fashion")[:images]
    obs = h.task.observe(x, deft.Noise(5, len(x)))
    rows, every = [], h.sample(obs, max(n), seed=4, progress=False)
    for samples in n:
        draws = replace(every, x=every.x[:, :samples])
        hidden = obs.hidden(x.shape)
        for part, where in (("all", None), *([] if hidden is None else [("hole", hidden)])):
            raw, own = (
                interval_coverage(draws, x, [0.5, 0.8, 0.9, 0.95], where=where, calibrated=c) for c in (False, True)
            )
            rows.append({
                "task": h.task.name, "checked": checked_with, "n": samples, "pixels": part, "levels": own.levels.tolist(),
                "raw": raw.value.tolist(), "calibrated": own.value.tolist(), "error": own.error.tolist(),
            })  # fmt: skip
            at = f"at 0.9: raw {raw.value[2]:.3f}, calibrated {own.value[2]:.3f} ± {own.error[2]:.3f}"
            print(h.task.name, checked_with, f"n={samples}", part, at, flush=True)
    return rows


def situations(task, prior, count):
    """Name -> (truth, measurement as h is given it)."""
    x = held_out_samples(prior, "fashion")[100 : 100 + count]
    ct = F.avg_pool2d(held_out_samples(deft.load_prior("ct"), "ct")[:count], 2)
    noise = deft.Noise(77, count).normal((1, 32, 32)).clamp(-1, 1)

    def made_by(other, truth=x):
        """Measured by another task, and taken for this one."""
        own = task.observe(truth, deft.Noise(9, len(truth)))
        return truth, Observation(other.observe(truth, deft.Noise(9, len(truth))).y, own.likelihood)

    out = {"as fitted": made_by(task)}
    out |= {f"noise of {s}, taken for 0.05": made_by(replace(task, sigma_y=s)) for s in (0.01, 0.1, 0.2)}
    if task.name == "deblur-gaussian":
        out |= {f"a blur of {d} pixels, taken for 1.5": made_by(replace(task, deviation=d)) for d in (1.0, 2.0, 3.0)}
        out |= {
            f"a blur of {d} pixels, and h knows": (x, replace(task, deviation=d).observe(x, deft.Noise(9, count)))
            for d in (1.0, 2.0)
        }
    if task.name == "sr4":
        out["one pixel of each block, taken for its mean"] = made_by(replace(task, pixel="first"))
    if task.name == "inpaint":
        out["a hole of 0.8, and h knows"] = (
            x,
            replace(task, smallest=0.75, largest=0.85).observe(x, deft.Noise(9, count)),
        )
    for name, truth in (
        ("CT slices", ct),
        ("noise images", noise),
        ("clothes, black for white", -x),
        ("clothes upside down", x.flip(-2)),
    ):
        out[name] = (truth, task.observe(truth, deft.Noise(9, count)))
    return out


def depth(h, count):
    """Rows for one h: share of measurements that are noticed, and coverage on them."""
    rows, checked = [], h.checked_intervals
    for name, (truth, obs) in situations(h.task, h.prior, count).items():
        draws = h.sample(obs, 4, seed=6, progress=False)
        numbers = depth_numbers(h.prior, obs, draws)
        found = [checked.reference.judge({k: float(v[i]) for k, v in numbers.items()}) for i in range(count)]
        noticed = sum(not f.within for f in found) / count
        held = interval_coverage(draws, truth, [0.9])
        by = {k: float(torch.tensor([f.numbers[k].ratio for f in found]).median()) for k in numbers}
        rows.append(
            {"task": h.task.name, "case": name, "noticed": noticed, "coverage": float(held.value[0]), "ratio": by}
        )
        print(
            h.task.name,
            name,
            f"noticed {noticed:.2f}, coverage {held.value[0]:.3f}",
            {k: round(v, 2) for k, v in by.items()},
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="inpaint,sr4,deblur-gaussian")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--count", type=int, default=48, help="validation images that factors are found on")
    parser.add_argument("--samples", type=int, default=4, help="of each of them")
    parser.add_argument("--depth", type=int, default=0, help="measurements of each kind")
    parser.add_argument("--out", default="intervals.json")
    given = parser.parse_args()
    found = []
    for name in given.tasks.split(","):
        bare = deft.load(bundled_h(name))
        started = time.monotonic()
        h = bare.calibrate_intervals("fashion", count=given.count, n=given.samples)
        told = f"{given.count} images x {given.samples} samples"
        factors = {k: [round(v, 3) for v in row] for k, row in h.checked_intervals.factors.table.items()}
        print(name, told, f"{time.monotonic() - started:.0f} s", factors, flush=True)
        found += coverage(h, given.images, (4, 16), told)
        if given.depth:
            found += depth(h, given.depth)
    write_json(given.out, {"rows": found})


if __name__ == "__main__":
    main()
