"""The plain baselines of series on air quality: the windows, masks and metrics of benchmarks/air.toml.

    python benchmarks/air_baselines.py air.npz --out benchmarks/results/air/baselines.json

air.npz is what examples/air_quality.py makes. Each baseline is fitted to the training windows without a gap. Intervals
are 95 %, by resampling the test windows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

import deft
from deft.bench.result import interval
from deft.domains.series.baselines import GaussianSeries, LastValue, LinearInterpolation, SeasonalNaive
from deft.domains.series.metrics import measure
from deft.io.files import write_json
from deft.kinds.domain import domain_for
from deft.recipe.data import complete


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="air.npz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64, help="test windows")
    parser.add_argument("--samples", type=int, default=8)
    o = parser.parse_args()
    prior = deft.load_prior("air")
    kind, shape = domain_for(prior), tuple(prior.event_shape)
    fitted, x = (complete(kind.read(f"{o.data}:{part}", shape), part).x for part in ("fit", "test"))
    x = x[: o.images]
    task = deft.tasks.Impute()
    obs, obs_fit = task.observe(x, deft.Noise(0, len(x))), task.observe(fitted, deft.Noise(1, len(fitted)))
    makers: dict[str, Callable[[], Any]] = {
        "last value": lambda: LastValue().fit(fitted, obs_fit),
        "linear interpolation": lambda: LinearInterpolation().fit(fitted, obs_fit),
        "the day before": lambda: SeasonalNaive(24).fit(fitted, obs_fit),
        "Gaussian process of each variable": lambda: GaussianSeries.matern(fitted[:: max(1, len(fitted) // 500)]),
        "joint Gaussian": lambda: GaussianSeries.joint(fitted),
    }
    rows: dict[str, Any] = {}
    for name, make in makers.items():
        started = time.process_time()
        samples: Tensor = make().sample(obs, o.samples)
        found = measure(samples, x, obs)
        numbers = {k: [float(n) for n in interval(v.double().numpy()[None], False)] for k, v in found.items()}
        rows[name] = {"seconds": round(time.process_time() - started, 2), **numbers}
        print(name, {k: [round(float(n), 4) for n in numbers[k]] for k in ("crps", "energy_score") if k in numbers})
        write_json(o.out, {"images": len(x), "samples": o.samples, "rows": rows})


if __name__ == "__main__":
    main()
