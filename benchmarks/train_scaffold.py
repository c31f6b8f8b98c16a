"""Fit an h for motif scaffolding to a backbone prior, and say what it is worth by noise level.

    python benchmarks/train_scaffold.py --prior backbone/prior.safetensors --share 0.09 --seconds 90 --out run     # one GPU

Leaves h.safetensors (float32 weights and a card) and levels.json in --out: mean squared error of E[x_0 | x_t, y] on
held-out chains, in square angstrom, of the prior and with h, on motif and scaffold residues.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from deft import FitConfig, fit
from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.core.random import BatchNoise
from deft.domains.protein.baselines import ChainAmortised
from deft.domains.protein.chains import UNIT, Bucketed, chains, pad
from deft.domains.protein.geometry import residues
from deft.domains.protein.htransform import ChainDEFT
from deft.domains.protein.motif import MotifTask
from deft.domains.protein.network import Stage
from deft.domains.protein.prior import load_backbone
from deft.io.files import write_json
from deft.io.h_files import save_h
from deft.learned.base import count_parameters
from deft.train.denoising import DenoisingObjective
from deft.train.fit import pick_device

KINDS = {
    "deft": lambda prior, args: ChainDEFT.sized(prior, args.share),
    "amortised": lambda prior, args: ChainAmortised.sized(prior, args.share),
    "finetuned": lambda prior, args: ChainAmortised.sized(prior, 1.0, tuned=True).initialise(prior),
}
LEVELS = (0.03, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)


@torch.no_grad()
def levels(
    prior: Denoiser,
    h: HTransform,
    task: MotifTask,
    split: str,
    device: torch.device,
    *,
    most: int = 1000,
    seed: int = 0,
) -> list[dict[str, float]]:
    """Errors on chains of a split, in square angstrom a coordinate."""
    rows: dict[float, dict[str, float]] = {s: {} for s in LEVELS}
    every = [c.x for c in chains(split)][:most]
    for low in range(0, len(every), 64):
        x = pad(every[low : low + 64], 128).to(device)
        obs = task.observe(x, BatchNoise(len(x), seed, low))
        n = prior.project(BatchNoise(len(x), seed, low, 1).normal(x.shape[1:], device=device), x)
        seen = obs.likelihood.operator.seen(x)  # type: ignore[attr-defined]
        for s in LEVELS:
            pred = prior(x + s * n, torch.tensor(s, dtype=torch.float64))
            moved = pred.corrected(h(pred, obs))
            for name, p in (("prior", pred), ("h", moved)):
                error = (UNIT * (p.mean - x)).square().mean(-1)
                for part, where in (("motif", seen), ("scaffold", residues(x) * (1 - seen))):
                    rows[s][f"{name}, {part}"] = rows[s].get(f"{name}, {part}", 0.0) + float((error * where).sum())
                    rows[s][f"count, {part}"] = rows[s].get(f"count, {part}", 0.0) + float(where.sum()) / 2
    return [
        {"sigma": s} | {k: v / r[f"count, {k.split(', ')[1]}"] for k, v in r.items() if not k.startswith("count")}
        for s, r in rows.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", type=Path, required=True)
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="deft",
        help="amortised: a network from scratch; finetuned: from the prior's weights, and of its size",
    )
    parser.add_argument(
        "--share",
        type=float,
        default=0.09,
        help="of the prior's parameters (deft, amortised); 1 is the prior's own network",
    )
    parser.add_argument(
        "--sigma-y",
        type=float,
        nargs=2,
        default=(0.1, 0.4),
        metavar=("LOW", "HIGH"),
        help="angstrom: motifs' deviations in training",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile, of the stages (minutes of compiling on a CPU; on an H200 not done after a minute)",
    )
    parser.add_argument("--seconds", type=float, help="stop after so long, with the learning rate brought down in time")
    parser.add_argument("--steps", type=int, default=1900)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--few", type=int, help="fit to so many chains alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = pick_device()
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    if args.compile:
        Stage.forward = torch.compile(Stage.forward, dynamic=True)  # type: ignore[method-assign]
    low, high = (v / UNIT for v in args.sigma_y)
    prior, task = load_backbone(args.prior, device), MotifTask(low, loosest=high)
    train = [c.x for c in chains("train", longest=args.longest)][: args.few]
    held = [c.x for c in chains("validation", longest=args.longest)]
    torch.manual_seed(args.seed)
    calibration = pad(train[: args.few or 128], 128)
    h = KINDS[args.kind](prior, args).to(device).calibrate(prior, calibration, max_samples=len(calibration))
    batches, objective = Bucketed(train, task), DenoisingObjective(prior, focus=1.0, even=0.5)
    shared: dict[str, Any] = {
        "batch": args.batch,
        "lr": args.lr,
        "ema": 0.999,
        "seed": args.seed,
        "bf16": device.type == "cuda",
    }
    begun = time.monotonic()
    config = FitConfig(
        **shared, steps=args.steps, warmup=100, max_seconds=args.seconds, evaluations=8, held_out_batches=4
    )
    result = fit(
        h,
        objective,
        batches,
        Bucketed(held, task),
        config=config,
        progress=False,
        device=device,
        callback=lambda row: print({k: round(v, 4) for k, v in row.items()}, flush=True),
    )
    h.eval()
    table = levels(prior, h, task, "validation", device, most=args.few or 1000)
    for row in table:
        print("  ".join(f"{k} {v:.4f}" for k, v in row.items()), flush=True)
    about = {
        "steps": result.steps,
        "samples": result.steps * args.batch,
        "seconds": round(result.seconds, 1),
        "weights": result.weights,
        "held_out": result.held_out,
        "parameters": count_parameters(h),
        "share": count_parameters(h) / prior.parameter_count(),
        "chains": len(train),
        "recipe": shared,
        "torch": torch.__version__,
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(),
        "prior": prior.card.get("name", ""),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    save_h(args.out / "h.safetensors", h.cpu(), prior.cpu(), task, **about)
    write_json(args.out / "levels.json", {**about, "levels": table})
    print(
        f"{result.steps} steps, {result.steps * args.batch:,} samples in {time.monotonic() - begun:.0f} s; wrote"
        f" {args.out}"
    )


if __name__ == "__main__":
    main()
