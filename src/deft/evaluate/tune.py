"""Find each method's best settings on validation images: `python -m deft.evaluate.tune --task inpaint --out grid.json`.

Every baseline gets a grid of its own over its strength and the sampler's noise, on images that no report uses.
The best of each by paired feature distance goes into `deft.methods.TUNED`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deft.data import fashion
from deft.denoise import Denoiser
from deft.errors import DeftError
from deft.evaluate.classifier import fashion_classifier
from deft.evaluate.compare import measure, run_method
from deft.evaluate.statistics import bootstrap
from deft.htransform.base import HTransform
from deft.methods import Plan, plan
from deft.prior import load_prior
from deft.random import Noise
from deft.tasks import TASKS, ImageTask
from deft.train.adapter import load_h
from deft.train.checkpoint import write_text

GRIDS: dict[str, dict[str, Sequence[float]]] = {
    "dps": {"zeta": (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0), "eta": (0.0, 0.5, 1.0)},
    "pigdm": {"data_std": (0.3, 0.5, 0.7, 1.0), "eta": (0.0, 0.5, 1.0)},
    "reconstruction": {"scale": (0.3, 1.0, 3.0), "data_std": (0.5, 1.0), "eta": (0.0, 1.0)},
    "deft": {"scale": (1.0, 1.4, 1.8, 2.2), "eta": (0.0, 1.0), "steps": (12, 20, 30, 50)},
}
"""method -> setting -> values; `eta` and `steps` are the sampler's, the others the method's own. Each point is run
with each of `SPACED`."""

SPACED = ("angle", "log-snr", "karras", "centre")

SHOWN = ("feature_distance", "energy_score", "top1", "psnr", "psnr_mean", "psnr_hidden", "psnr_mean_hidden", "residual")


def plans_of(
    method: str, grid: Mapping[str, Sequence[float]], steps: int, spacings: Sequence[str] = SPACED
) -> list[Plan]:
    """A plan for each point of the grid."""
    out = []
    for values, spacing in itertools.product(itertools.product(*grid.values()), spacings):
        point = dict(zip(grid, values, strict=True))
        eta, n = point.pop("eta", 1.0), int(point.pop("steps", steps))
        out.append(plan(method, settings=point, eta=eta, steps=n, spacing=spacing))
    return out


def tune(
    task: ImageTask,
    prior: Denoiser,
    methods: Sequence[str],
    *,
    fitted: HTransform | None = None,
    images: int = 100,
    samples: int = 2,
    steps: int = 50,
    seed: int = 1,
    batch: int = 100,
    grids: Mapping[str, Mapping[str, Sequence[float]]] = GRIDS,
    spacings: Sequence[str] = SPACED,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """One row a grid point, best first within each method; the same images, measurements and seeds for all."""
    data, classifier = fashion("validation"), fashion_classifier()
    x, labels = data.x[:images], data.labels[:images]
    obs = task.observe(x, Noise(seed, len(x)))
    rows: list[dict[str, Any]] = []
    for method in methods:
        found = []
        for p in plans_of(method, grids.get(method, {"eta": (0.0, 1.0)}), steps, spacings):
            drawn, cost = run_method(p, prior, obs, samples, fitted=fitted, seed=seed, batch=batch)
            values = measure(drawn, x, obs, classifier=classifier, labels=labels)
            row: dict[str, Any] = {"task": task.name, "method": method, "eta": p.eta, "steps": p.steps, "spacing": p.spacing}
            row["settings"] = p.settings
            row |= {k: float(values[k].mean()) for k in SHOWN if k in values} | {"seconds": cost["seconds"]}
            row["interval"] = bootstrap(values["feature_distance"].numpy())[1:3]
            found.append(row)
            if progress:
                print(line(row), file=sys.stderr, flush=True)
        rows += sorted(found, key=lambda r: r["feature_distance"])
    return rows


def line(row: Mapping[str, Any]) -> str:
    own = " ".join(f"{k} {v:g}" for k, v in {**row["settings"], "eta": row["eta"], "steps": row["steps"]}.items()) + f" {row['spacing']}"
    figures = "  ".join(f"{k} {row[k]:.3f}" for k in SHOWN if k in row)
    return f"{row['method']:<15}{own:<44}{figures}"


def best(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """method -> its best settings, as they go into `deft.methods.TUNED`."""
    out: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["method"] not in out:
            out[row["method"]] = {**row["settings"], **{k: row[k] for k in ("eta", "steps", "spacing")}}
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="inpaint", choices=sorted(TASKS))
    parser.add_argument("--prior", default="fashion")
    parser.add_argument("--methods", default="dps,pigdm,reconstruction", help="deft needs --run")
    parser.add_argument("--run", type=Path, help="a run folder, for deft")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a corner of the grid on a few images")
    parser.add_argument("--out", type=Path, help="write the rows and the best settings as JSON")
    o = parser.parse_args(arguments)
    try:
        prior, task, fitted = load_prior(o.prior), TASKS[o.task](), None
        if o.run:
            fitted, task, _ = load_h(o.run, prior)
        names = [m.strip() for m in o.methods.split(",")] + (["deft"] if o.run and "deft" not in o.methods else [])
        grids = {m: {k: v[-1:] for k, v in g.items()} for m, g in GRIDS.items()} if o.quick else GRIDS
        images, spacings = (min(o.images, 8), SPACED[:1]) if o.quick else (o.images, SPACED)
        rows = tune(task, prior, names, fitted=fitted, images=images, samples=o.samples, steps=o.steps, seed=o.seed, grids=grids, spacings=spacings)
    except DeftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row in rows:
        print(line(row))
    print("\nbest by feature distance: " + json.dumps(best(rows)))
    if o.out:
        write_text(o.out, json.dumps({"rows": rows, "best": best(rows), "images": images, "samples": o.samples}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
