"""Learning h for one image without data, and what it is worth beside everything else that could be done with the same
y.

    python benchmarks/control_images.py fit --task sr4 --objective vargrad --out DIR      # also tb, kl, adjoint: five to six minutes each, of a slow core
    python benchmarks/control_images.py amortised --task sr4 --out DIR                    # the library's fit to pairs, of the same size
    python benchmarks/control_images.py refine --task sr4 --out DIR                       # from there, for this y
    python benchmarks/control_images.py compare --task sr4 --out DIR                      # every method on the same y
    python benchmarks/control_images.py reference --task sr4 --out DIR                    # the posterior, by long chains (twenty minutes and more)
    python benchmarks/control_images.py coverage --task sr4 --out DIR                     # every method beside it

Each leaves its h and JSON in DIR/TASK-IMAGE; compare writes compare.json and pictures.pt there, reference and coverage
reference.pt and coverage.json. The image is one of `fashion`'s test images (32 x 32), the prior the bundled one, h 2 %
of it at most. Tasks: sr4 and inpaint-random as the library has them, and radon5, five directions with noise of 10 % of
the sinogram's mean absolute value.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft import DEFT, FitConfig, Observation, fit
from deft.core.denoiser import Denoiser
from deft.core.grid import times
from deft.core.random import Noise
from deft.domains.image.data import fashion
from deft.domains.image.tasks import ImageTask, get_task
from deft.io.files import write_json
from deft.io.h_files import load_h, save_h
from deft.learned.base import count_parameters
from deft.methods import plan
from deft.prior import load_prior
from deft.samplers import ChainDiagnostics, sample, sample_hmc
from deft.train.cache import PredictionCache
from deft.train.data import Clean
from deft.train.denoising import DenoisingObjective
from deft.train.diagnosis import diagnose, summary
from deft.train.measured import Measured
from deft.train.objectives import OBJECTIVES
from deft.train.path import Control

IMAGE, CHAIN, SUBSET, BATCH, LR, SIZE = 3, 50, 10, 16, 1e-2, 0.02
TASKS: dict[str, ImageTask] = {
    "sr4": get_task("sr4"),
    "inpaint-random": get_task("inpaint-random"),
    "radon5": dataclasses.replace(get_task("ct"), angles=5, sigma_y=0.04),  # type: ignore[call-arg]
}
STEPS = {"vargrad": 70, "tb": 70, "kl": 25, "adjoint": 25}
"""Batches of each: about five minutes of one slow core."""
SAMPLES = 64
REFERENCE: dict[str, Any] = {
    "chains": 6,
    "steps": 25,
    "iterations": 100,
    "burn_in": 40,
    "leapfrogs": 4,
    "keep": 20,
    "every": 3,
}


def setting(name: str, image: int = IMAGE) -> tuple[Denoiser, ImageTask, Tensor, Observation]:
    prior, task = load_prior("fashion"), TASKS[name]
    x = fashion("test").x[image : image + 1]
    return prior, task, x, task.observe(x, Noise(0, 1))


def begin(prior: Denoiser, task: ImageTask) -> DEFT:
    """h as `deft fit --objective` begins: the calibrated gradient, N1 at 0; calibrated on the prior's own samples."""
    torch.manual_seed(0)
    return DEFT.sized(prior, SIZE, task.feature_channels).calibrate(prior, sample(prior, Noise(0, 64), steps=20))


def on_paths(
    h: DEFT, prior: Denoiser, obs: Observation, name: str, steps: int, lr: float, chain: int
) -> dict[str, Any]:
    """Fit, with a look at the start, on the way and at the end."""
    options: dict[str, Any] = {} if name == "kl" else {"subset": SUBSET}
    objective = OBJECTIVES[name](prior, chain, **options)
    module = Control(h, rate=0.3) if name == "tb" else h
    rows = [{"step": 0, "seconds": 0.0, **diagnose(prior, h, obs, paths=32)}]
    print(name, "start:", summary(rows[0]), flush=True)
    looked = 0.0

    def look(row: dict[str, float]) -> None:
        nonlocal looked
        begun = time.monotonic()
        rows.append({"step": row["step"], "seconds": row["seconds"] - looked, **diagnose(prior, h, obs, paths=32)})
        looked += time.monotonic() - begun
        print(f"{name} {int(row['step'])}: {rows[-1]['seconds']:.0f} s, {summary(rows[-1])}", flush=True)

    config = FitConfig(
        steps=steps, batch=BATCH, lr=lr, warmup=min(20, steps // 4), ema=0.9, evaluations=3, held_out_batches=1
    )
    result = fit(module, objective, Measured(obs), Measured(obs), config=config, progress=False, callback=look)
    h.eval()
    return {
        "rows": rows,
        "end": diagnose(prior, h, obs, paths=128),
        "steps": result.steps,
        "seconds": result.seconds - looked,
        "weights": result.weights,
    }


def keep(folder: Path, name: str, h: Any, prior: Denoiser, task: ImageTask, about: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_h(folder / f"{name}.safetensors", h, prior, task, parameters=count_parameters(h))
    write_json(folder / f"{name}.json", {"parameters": count_parameters(h), "torch": torch.__version__, **about})


def do_fit(args: argparse.Namespace) -> None:
    prior, task, _, obs = setting(args.task, args.image)
    h = begin(prior, task)
    about = on_paths(h, prior, obs, args.objective, args.steps or STEPS[args.objective], args.lr, args.chain)
    keep(
        args.out / f"{args.task}-{args.image}",
        args.objective,
        h,
        prior,
        task,
        {"lr": args.lr, "chain": args.chain, **about},
    )


def do_amortised(args: argparse.Namespace) -> None:
    prior, task, _, obs = setting(args.task, args.image)
    x, held = fashion("fit").x, Clean(fashion("validation").x[:64], task)
    torch.manual_seed(0)
    h = DEFT.sized(prior, SIZE, task.feature_channels).calibrate(prior, x)
    begun = time.monotonic()
    bank = PredictionCache.build(prior, x, task, 2000)
    config = FitConfig(steps=args.steps or 500, batch=32, max_seconds=args.seconds, evaluations=2)
    result = fit(h, DenoisingObjective(prior), bank, held, config=config, progress=False)
    seconds = time.monotonic() - begun
    h.eval()
    end = diagnose(prior, h, obs, paths=64)
    print("amortised", f"{result.steps} steps, {seconds:.0f} s,", summary(end), flush=True)
    keep(
        args.out / f"{args.task}-{args.image}",
        "amortised",
        h,
        prior,
        task,
        {"steps": result.steps, "seconds": seconds, "end": end, "images": len(x)},
    )


def do_refine(args: argparse.Namespace) -> None:
    prior, task, _, obs = setting(args.task, args.image)
    h = load_h(args.out / f"{args.task}-{args.image}" / "amortised.safetensors", prior)[0]
    assert isinstance(h, DEFT)
    about = on_paths(
        h.train().requires_grad_(True),
        prior,
        obs,
        args.objective,
        args.steps or STEPS[args.objective] // 2,
        args.lr,
        args.chain,
    )
    keep(
        args.out / f"{args.task}-{args.image}", "refined", h, prior, task, {"lr": args.lr, "chain": args.chain, **about}
    )


def scores(x: Tensor, truth: Tensor, obs: Observation) -> dict[str, float]:
    """x [n, *E]: PSNR of samples and of their mean, the residual over sigma_y, mean deviation over pixels, and the
    share of the truth's pixels that vary which lie within the samples' central 90 %."""

    def psnr(a: Tensor) -> float:
        return float((10 * torch.log10(4 / (a.clamp(-1, 1) - truth).square().flatten(1).mean(1))).mean())

    like: Any = obs.likelihood
    r = like.residual(obs.y.expand(len(x), *obs.y.shape[1:]), x)
    low, high = x.quantile(0.05, 0), x.quantile(0.95, 0)
    on = x.std(0) > 0.02
    return {
        "psnr": psnr(x),
        "psnr_mean": psnr(x.mean(0, keepdim=True)),
        "spread": float(x.std(0).mean()),
        "residual": float(
            (r.square().flatten(1).sum(1) / like.operator.repeat(len(x)).count(r)).mean().sqrt()
            / like.deviation.reshape(-1)[0]
        ),
        "inside": float(((truth[0] >= low) & (truth[0] <= high))[on].float().mean()),
    }


def do_compare(args: argparse.Namespace) -> None:
    prior, _, truth, obs = setting(args.task, args.image)
    folder = args.out / f"{args.task}-{args.image}"
    fitted = {p.stem: load_h(p, prior)[0].eval() for p in sorted(folder.glob("*.safetensors"))}
    rows: list[dict[str, Any]] = []
    pictures = {"truth": truth[0], "y": obs.likelihood.picture(obs.y)[0]}
    like_task = {"radon5": "ct"}.get(args.task, args.task)

    def add(name: str, method: str, h: Any = None, **options: Any) -> None:
        made = plan(method, like_task if h is None else None, **options)
        begun = time.monotonic()
        x = made.draw(prior, obs, SAMPLES, fitted=h, seed=5).x[0]
        row = {
            "name": name,
            **scores(x, truth, obs),
            "calls": made.calls(SAMPLES),
            "seconds": (time.monotonic() - begun) / SAMPLES,
            "plan": made.config(),
        }
        if method in ("deft", "dps", "pigdm-score"):  # any h weighs paths
            row["diagnosis"] = diagnose(prior, made.make(prior, h)[0] if h is None else h, obs, paths=64)
        rows.append(row)
        pictures[name] = x[0]
        pictures[f"{name}, mean"] = x.mean(0)
        print({k: v for k, v in row.items() if k not in ("plan", "diagnosis")}, flush=True)
        write_json(folder / "compare.json", rows)
        torch.save(pictures, folder / "pictures.pt")

    for arm, method, h, options in arms(fitted):
        add(arm, method, h, **options)


def arms(fitted: dict[str, Any]) -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """(name, method, h, options of its plan)."""
    for name, h in fitted.items():
        yield name, "deft", h, {"sampler": "ancestral", "steps": 100, "spacing": "log-snr"}
    for name in ("dps", "pigdm-score", "mmps", "tds"):
        yield name, name, None, {}
    yield (
        "amortised + particles",
        "deft-smc",
        fitted["amortised"],
        {"settings": {"particles": 16, "apart": False}, "steps": 100},
    )


def do_reference(args: argparse.Namespace) -> None:
    """Long chains of Hamiltonian Monte Carlo, through the refined h: the posterior of the prior as 25 ancestral steps
    draw it."""
    prior, _, _, obs = setting(args.task, args.image)
    folder = args.out / f"{args.task}-{args.image}"
    h = load_h(folder / "refined.safetensors", prior)[0].eval().requires_grad_(False)
    begun = time.monotonic()
    grid = times(prior.schedule, REFERENCE["steps"], "log-snr")
    chains = {k: v for k, v in REFERENCE.items() if k not in ("chains", "steps")}
    found = sample_hmc(
        prior, h, obs, REFERENCE["chains"], grid=grid, batch=REFERENCE["chains"], progress=True, **chains
    )
    how = found.diagnostics
    assert isinstance(how, ChainDiagnostics)
    about = {
        **REFERENCE,
        "seconds": time.monotonic() - begun,
        "accepted": how.accepted[0].tolist(),
        "step": how.step_size[0].tolist(),
        "log_weight": how.log_weight[0].tolist(),
    }
    torch.save({"x": found.x[0].unflatten(0, (REFERENCE["chains"], -1)), "about": about}, folder / "reference.pt")
    print({k: v for k, v in about.items() if k != "log_weight"}, flush=True)


def pairs(v: Tensor, group: Tensor) -> float:
    """Mean distance of two of v [n, d] that are of different groups."""
    apart = group[:, None] != group
    return float(torch.cdist(v, v)[apart].mean())


def against(x: Tensor, chains: Tensor) -> dict[str, float]:
    """Samples x [n, *E] beside chains [K, kept, *E] of the posterior, over pixels whose posterior deviation is above
    .02 (of a range of 2).

    off: root mean square of the difference of means, in posterior deviations; floor: what it would be for exact
        samples, from the scatter of the chains' means and n.
    spread: mean deviation over the posterior's. inside: share of posterior draws within the samples' central 90 %,
    which are .87 for 64 exact samples (quantiles of few draw together). energy: the energy distance of whole images, as
    a share of the mean distance of two posterior draws (of different chains), about 0 for exact samples.
    """
    reference, (k, kept) = chains.flatten(0, 1), chains.shape[:2]
    on = reference.std(0) > 0.02
    a, b = x[:, on].double(), reference[:, on].double()
    low, high = a.quantile(0.05, 0), a.quantile(0.95, 0)
    within = pairs(b, torch.arange(k).repeat_interleave(kept))
    scatter = chains[:, :, on].double().mean(1).var(0) / k / b.var(0)
    return {
        "off": float(((a.mean(0) - b.mean(0)) / b.std(0)).square().mean().sqrt()),
        "floor": float((scatter + 1 / len(a)).mean().sqrt()),
        "spread": float(a.std(0).mean() / b.std(0).mean()),
        "inside": float(((b >= low) & (b <= high)).double().mean()),
        "energy": (2 * float(torch.cdist(a, b).mean()) - pairs(a, torch.arange(len(a))) - within) / within,
    }


def do_coverage(args: argparse.Namespace) -> None:
    prior, _, truth, obs = setting(args.task, args.image)
    folder = args.out / f"{args.task}-{args.image}"
    saved = torch.load(folder / "reference.pt", weights_only=True)
    chains = saved["x"]  # [chains, kept, *E]
    whole, kept = chains.flatten(0, 1), chains.shape[1]
    between, within = chains.mean(1).var(0), chains.var(1).mean(0)
    r_hat = ((kept - 1) / kept + between / within.clamp_min(1e-12)).sqrt()[whole.std(0) > 0.02]  # Gelman & Rubin 1992
    rows: list[dict[str, Any]] = [{"name": "reference", **scores(whole, truth, obs)}]
    fitted = {p.stem: load_h(p, prior)[0].eval() for p in sorted(folder.glob("*.safetensors"))}
    # the chain whose posterior the reference is
    same = {"sampler": "ancestral", "steps": REFERENCE["steps"], "spacing": "log-snr"}
    on_it = [(f"{name}, on the reference's grid", "deft", h, same) for name, h in fitted.items()]
    for name, method, h, options in (*arms(fitted), *on_it):
        made = plan(method, {"radon5": "ct"}.get(args.task, args.task) if h is None else None, **options)
        x = made.draw(prior, obs, SAMPLES, fitted=h, seed=5).x[0]
        rows.append(
            {"name": name, **against(x, chains), "truth inside": scores(x, truth, obs)["inside"], "plan": made.config()}
        )
        print({k: v for k, v in rows[-1].items() if k != "plan"}, flush=True)
    about = saved["about"] | {"r_hat": [float(v) for v in r_hat.quantile(torch.tensor([0.5, 0.9, 1.0]))]}
    write_json(folder / "coverage.json", {"reference": about, "rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, do in (
        ("fit", do_fit),
        ("amortised", do_amortised),
        ("refine", do_refine),
        ("compare", do_compare),
        ("reference", do_reference),
        ("coverage", do_coverage),
    ):
        p = commands.add_parser(name)
        p.add_argument("--task", choices=TASKS, required=True)
        p.add_argument("--out", type=Path, required=True)
        p.add_argument("--image", type=int, default=IMAGE)
        p.add_argument("--steps", type=int)
        p.add_argument("--lr", type=float, default=LR)
        p.add_argument("--chain", type=int, default=CHAIN)
        p.add_argument("--seconds", type=float)
        p.add_argument("--objective", choices=OBJECTIVES, default="vargrad")
        p.set_defaults(do=do)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
