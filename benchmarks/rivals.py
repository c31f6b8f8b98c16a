"""ΠGDM, DDRM, DiffPIR and the gradient at x̂ in the forms that their rows of the table have, against other forms of
them.

    python benchmarks/rivals.py --tasks inpaint sr4 --methods pigdm pigdm-score --out rivals.json

The prior and images are `fashion`'s, 50 calls of the prior a sample. Each form's settings are those of its small grid
with the best energy score on 6 validation images; what is reported is found on others. One thread takes 10 to 40 s for
a form of 24 images, and as much for each point of its grid.

| form | what it is |
|---|---|
| pigdm; pigdm, no alpha_s | Song et al. 2023, algorithm 1, as the authors' code has it; and without the factor alpha_s |
| pigdm, y noiseless | the same, with A^+ in place of the solve |
| pigdm-score | eq. 7 in DDIM's steps |
| ddrm | Kawar et al. 2022 without directions of which y says less than the data |
| ddrm, all directions; ddrm, centre | every non-zero singular value counts; and on even steps of log(sigma/alpha) from 20 to .02 |
| diffpir, gradient | their posterior-mean step solved |
| diffpir, preconditioned; gradient, preconditioned | one preconditioned step in its place (of CT; elsewhere the same) |
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, Prediction
from deft.core.grid import times
from deft.core.htransform import HTransform
from deft.core.random import BatchNoise
from deft.domains.image.data import dataset
from deft.domains.image.measure import measure
from deft.domains.image.networks import load_features
from deft.domains.image.tasks import TASKS
from deft.guidance import GradientAtMean
from deft.guidance.at_mean import DiffPIR, Pulled
from deft.likelihood import Gaussian, Observation
from deft.methods import plan
from deft.prior import load_prior
from deft.samplers import DDIM, Refresh, sample_posterior

STEPS, TUNING = 50, 6
Settings = Mapping[str, Any]
Draw = Callable[[Denoiser, Observation, int, Settings], Tensor]


class Preconditioned(HTransform):
    """A method's h with `approx_mean_update` in place of the exact step."""

    def __init__(self, exact: Pulled):
        super().__init__()
        self.exact = exact

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        rho2 = self.exact.variance(pred.alpha, pred.sigma)
        return (
            self.exact.scale * (pred.alpha / pred.sigma**2) * obs.likelihood.approx_mean_update(obs.y, pred.mean, rho2)
        )


@dataclass(frozen=True)
class Form:
    draw: Draw
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def row(name: str) -> Draw:
    """A row of the table of methods."""

    def draw(prior: Denoiser, obs: Observation, samples: int, settings: Settings) -> Tensor:
        own = {k: v for k, v in settings.items() if k not in ("eta", "spacing")}
        made = plan(name, settings=own, steps=STEPS, eta=settings.get("eta"), spacing=settings.get("spacing"))
        return made.draw(prior, obs, samples, seed=0).x

    return draw


def noiseless(prior: Denoiser, obs: Observation, samples: int, settings: Settings) -> Tensor:
    assert isinstance(obs.likelihood, Gaussian)
    return row("pigdm")(prior, Observation(obs.y, Gaussian(obs.likelihood.operator, 0.0)), samples, settings)


def preconditioned(name: str) -> Draw:
    def draw(prior: Denoiser, obs: Observation, samples: int, settings: Settings) -> Tensor:
        exact = (
            DiffPIR(settings["lambda"])
            if name == "diffpir"
            else GradientAtMean(settings["data_std"], settings["scale"])
        )
        sampler = Refresh(settings["zeta"]) if name == "diffpir" else DDIM(1.0)
        return sample_posterior(
            prior, Preconditioned(exact), obs, samples, sampler=sampler, grid=times(prior.schedule, STEPS)
        ).x

    return draw


PIGDM: dict[str, Sequence[Any]] = {"data_std": (1.0,), "eta": (0.5, 1.0)}
DIFFPIR: dict[str, Sequence[Any]] = {"lambda": (1.0, 4.0), "zeta": (0.3, 1.0)}
GRADIENT: dict[str, Sequence[Any]] = {"scale": (1.0, 1.8), "data_std": (0.5,)}
FORMS: dict[str, Form] = {
    "pigdm": Form(row("pigdm"), PIGDM),
    "pigdm, no alpha_s": Form(row("pigdm"), PIGDM | {"alpha_s": (0.0,)}),
    "pigdm, y noiseless": Form(noiseless, PIGDM),
    "pigdm-score": Form(row("pigdm-score"), {"data_std": (0.5, 1.0), "spacing": ("log-snr",)}),
    "ddrm": Form(row("ddrm"), {"eta_a": (0.5, 0.85)}),
    "ddrm, all directions": Form(row("ddrm"), {"eta_a": (0.5, 0.85), "limit": (math.inf,)}),
    "ddrm, centre": Form(row("ddrm"), {"eta_a": (0.5, 0.85), "limit": (math.inf,), "spacing": ("centre",)}),
    "diffpir": Form(row("diffpir"), DIFFPIR),
    "diffpir, preconditioned": Form(preconditioned("diffpir"), DIFFPIR),
    "gradient": Form(row("gradient"), GRADIENT),
    "gradient, preconditioned": Form(preconditioned("gradient"), GRADIENT),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tasks", nargs="+", default=["inpaint", "sr4", "deblur-gaussian", "ct"], choices=sorted(TASKS)
    )
    parser.add_argument("--methods", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--out", type=Path, help="a JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    prior, network, x = load_prior("fashion"), load_features("fashion-classifier"), dataset("fashion", "validation").x
    rows: list[dict[str, Any]] = []
    for task in args.tasks:
        sets = {"tuning": x[100 : 100 + TUNING], "report": x[: args.images]}
        observed = {k: TASKS[task]().observe(v, BatchNoise(len(v), 5)) for k, v in sets.items()}

        def score(
            form: Form,
            settings: Settings,
            which: str,
            sets: dict[str, Tensor] = sets,
            observed: dict[str, Observation] = observed,
        ) -> dict[str, float]:
            begun = time.monotonic()
            found = measure(
                form.draw(prior, observed[which], args.samples, settings), sets[which], observed[which], network=network
            )
            kept = {
                k: float(found[k].double().mean()) for k in ("psnr_mean", "energy_score", "residual", "spread_skill")
            }
            return kept | {
                "error": float(found["psnr_mean"].double().std()) / len(sets[which]) ** 0.5,
                "seconds": time.monotonic() - begun,
            }

        for name in args.methods:
            form = FORMS[name]
            tried = [dict(zip(form.grid, values, strict=True)) for values in itertools.product(*form.grid.values())]
            best = min(tried, key=lambda s: score(form, s, "tuning")["energy_score"])
            rows.append({"task": task, "form": name, "settings": best, **score(form, best, "report")})
            print(json.dumps(rows[-1]), flush=True)
            if args.out:
                args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
