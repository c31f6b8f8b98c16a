"""DEFT, MMPS, and DEFT above MMPS below a noise level, on validation images of clothes with the bundled h.

python benchmarks/piecewise.py deblur-gaussian inpaint-random sr4 --images 32
"""

from __future__ import annotations

import argparse
import time

import deft
from deft.bench.compare import TensorCases
from deft.core.random import Noise
from deft.domains.image.data import dataset
from deft.domains.image.tasks import get_task
from deft.io.h_files import bundled_h, load_h
from deft.kinds.domain import domain_of
from deft.methods import plan

METRICS = ("energy_score", "coverage", "spread_skill", "psnr_mean", "feature_distance")
SEED = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--at", type=float, nargs="+", default=[0.3, 1.0, 3.0])
    args = parser.parse_args()
    prior = deft.load_prior("fashion")
    domain, x = domain_of(prior), dataset("fashion", "validation").x[: args.images]
    assert domain is not None
    for name in args.tasks:
        task = get_task(name)
        h, _, _ = load_h(bundled_h(name, "fashion"), prior, task)
        obs = task.observe(x, Noise(SEED, len(x)))
        cases = TensorCases(domain, x, obs, network=domain.feature_network("fashion-classifier", x))
        for method, settings in [("deft", {}), ("mmps", {}), *(("deft-mmps", {"at": at}) for at in args.at)]:
            made = plan(method, settings=settings, sampler="sde-dpmpp-2m", steps=50, spacing="karras")
            started = time.perf_counter()
            drawn = cases.draw(made, prior, range(len(x)), args.samples, fitted=h, seed=SEED, batch=128)
            seconds = (time.perf_counter() - started) / drawn[:, :, 0].shape[:2].numel()
            found = cases.measure([one.numpy() for one in drawn])
            figures = "  ".join(f"{k} {float(found[k].mean()):.4f}" for k in METRICS if k in found)
            print(f"{name:16} {method:10} {settings}  {figures}  {seconds:.3f} s", flush=True)


if __name__ == "__main__":
    main()
