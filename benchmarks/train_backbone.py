"""Train a backbone prior on the bundled protein chains, draw from it, and print its samples' geometry beside natives'.

    python benchmarks/train_backbone.py --size medium --seconds 420 --out backbone       # one GPU, 7 minutes
    python benchmarks/train_backbone.py --size small --longest 64 --seconds 480 --batch 16 --out cpu   # two cores
    python benchmarks/train_backbone.py --size medium --seconds 1200 --piece 500 --out backbone        # stops after 500 s
    python benchmarks/train_backbone.py --resume --piece 500 --out backbone                            # and goes on

What is left in --out: prior.safetensors (averaged weights in float16, with a card), samples.npz, log.txt, run.json, and
the state of the fit in pieces of less than 16 MiB (state.pt.0, ...), from which --resume goes on bit for bit on the
CPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from deft import FitConfig, Noise, fit
from deft.core.random import BatchNoise
from deft.domains.protein.chains import BOUNDS, UNIT, Bucketed, chains
from deft.domains.protein.geometry import dihedrals
from deft.domains.protein.network import SIZES, Stage
from deft.domains.protein.prior import BackbonePrior, backbone_prior, load_backbone
from deft.samplers.draw import sample
from deft.samplers.ode import DDIM
from deft.train.denoising import PriorObjective
from deft.train.fit import Interrupted, pick_device
from deft.train.protocols import Batch, Batches

PIECE = 15 * 2**20
"""Bytes in one piece of the state."""


class Log:
    """Lines on the screen and in a file."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", encoding="utf-8")

    def __call__(self, text: str) -> None:
        print(text, flush=True)
        print(text, file=self.file, flush=True)


class Watched(Batches):
    """Batches that tell how fast they go, and end the piece between two steps."""

    def __init__(self, inner: Batches, log: Log, objective: Running, until: float, every: float = 10.0):
        self.inner, self.log, self.objective, self.until, self.every = inner, log, objective, until, every
        self.last = time.monotonic()
        self.since = 0

    def draw(self, size: int, seed: int, step: int, device: torch.device, **options) -> Batch:
        now = time.monotonic()
        if now > self.until:
            raise KeyboardInterrupt
        if now - self.last > self.every:
            rate = self.since / (now - self.last)
            self.log(f"step {step}: loss {self.objective.take():.4f}, {rate:.0f} samples/s")
            self.last, self.since = now, 0
        self.since += size
        return self.inner.draw(size, seed, step, device, **options)


class Running(PriorObjective):
    """The prior's objective; `take()` is its mean since it was last asked."""

    def __init__(self) -> None:
        self.total: torch.Tensor | float = 0.0
        self.count = 0

    def __call__(self, module, batch, noise):
        loss = super().__call__(module, batch, noise)
        if not module.training:  # a held-out look
            return loss
        self.total, self.count = self.total + loss.value.detach(), self.count + 1
        return loss

    def take(self) -> float:
        mean = float(self.total) / max(1, self.count)
        self.total, self.count = 0.0, 0
        return mean


def step_seconds(
    prior: BackbonePrior, batches: Batches, config: FitConfig, device: torch.device, steps: int = 12
) -> float:
    """Seconds a step takes, about: of a copy, without the optimiser."""
    trial, objective = copy.deepcopy(prior).to(device).train(), PriorObjective()
    started = 0.0
    for i in range(steps):
        if i == 4:
            _wait(device)
            started = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss = objective(
                trial, batches.draw(config.batch, config.seed, i, device), BatchNoise(config.batch, config.seed, i)
            )
        loss.value.backward()
    _wait(device)
    return (time.monotonic() - started) / (steps - 4)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def gradient_error(batches: Batches, device: torch.device, bf16: bool) -> float:
    """How far the gradient on the device, as trained there, is from that of the CPU in float32: relative, of a tiny
    network."""
    torch.manual_seed(0)
    prior = backbone_prior("tiny")
    for stage in prior.net.stages:
        torch.nn.init.normal_(stage.outlet.weight, std=0.1)
    gradients = []
    for where, rough in ((torch.device("cpu"), False), (device, bf16)):
        module = copy.deepcopy(prior).to(where).train()
        with torch.autocast(where.type, torch.bfloat16, enabled=rough):
            loss = PriorObjective()(module, batches.draw(16, 0, 0, where), BatchNoise(16, 0)).value
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten().float().cpu() for p in module.parameters() if p.grad is not None]))
    return float((gradients[1] - gradients[0]).norm() / gradients[0].norm())


def statistics(x: torch.Tensor) -> dict[str, float]:
    """Geometry of traces [B, L, 3] in angstrom, all L rows residues.

    bonds: share of neighbours 3.6 to 4.0 angstrom apart. close: pairs |i - j| >= 3 under 3.6 angstrom, of 1000. size:
    radius of gyration over 2.2 L^0.38. helix, strand, left: shares of residues whose angle and dihedral are a
    right-handed helix's, a strand's, a left-handed helix's.
    """
    x = x.double()
    b, n, _ = x.shape
    bond = x.diff(dim=1).norm(dim=-1)
    far = torch.ones(n, n, dtype=torch.bool).triu(3)
    close = ((torch.cdist(x, x) < 3.6) & far).sum() / (b * far.sum())
    size = (x - x.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt() / (2.2 * n**0.38)
    u = torch.nn.functional.normalize(x.diff(dim=1), dim=-1)
    angle = torch.rad2deg(torch.acos((-u[:, :-1] * u[:, 1:]).sum(-1).clamp(-1, 1)))[:, :-1]
    turn = torch.rad2deg(dihedrals(x))
    tight = (angle > 75) & (angle < 105)
    return {
        "bonds": float(((bond > 3.6) & (bond < 4.0)).double().mean()),
        "bond": float(bond.mean()),
        "deviation": float(bond.std()),
        "close": 1000 * float(close),
        "size": float(size.mean()),
        "helix": float((tight & (turn > 30) & (turn < 75)).double().mean()),
        "strand": float(((angle > 105) & (turn.abs() > 140)).double().mean()),
        "left": float((tight & (turn < -30) & (turn > -75)).double().mean()),
    }


def natives(length: int) -> dict[str, float]:
    """`statistics` of the training chains of about this length, averaged over chains."""
    near = [c.x for c in chains("train") if abs(len(c.x) - length) <= 4]
    each = [statistics(UNIT * x[None]) for x in near]
    return {k: sum(e[k] for e in each) / len(each) for k in each[0]}


def draw(prior: BackbonePrior, args: argparse.Namespace, log: Log, out: Path) -> None:
    """Samples of two lengths by two samplers, and the table."""
    keep = {}
    log("samples | bonds 3.6-4.0 | bond mean | deviation | close pairs/1000 | Rg/(2.2 L^0.38) | helix | strand | left")
    for length in [n for n in (64, 100) if n <= args.longest]:
        rows = {f"natives L={length}": natives(length)}
        for name, eta in (("deterministic", 0.0), ("eta 1", 1.0)):
            started = time.monotonic()
            noise = Noise(args.seed, args.samples)
            x = sample(prior.of_length(length), noise, sampler=DDIM(eta), steps=args.sample_steps, spacing="log-snr")
            x = UNIT * x.cpu()
            rows[f"{name} L={length} ({time.monotonic() - started:.0f} s)"] = statistics(x)
            keep[f"{name.replace(' ', '_')}_{length}"] = (100 * x).round().to(torch.int16).numpy()
        for name, row in rows.items():
            log(f"{name} | " + " | ".join(f"{v:.3f}" for v in row.values()))
    np.savez_compressed(out / "samples.npz", **keep)


def split(path: Path, out: Path) -> None:
    """A file as pieces beside the other results."""
    for old in out.glob("state.pt.*"):
        old.unlink()
    data = path.read_bytes()
    for i in range(0, math.ceil(len(data) / PIECE)):
        (out / f"state.pt.{i}").write_bytes(data[i * PIECE : (i + 1) * PIECE])


def join(out: Path, path: Path) -> None:
    parts = sorted(out.glob("state.pt.*"), key=lambda p: int(p.suffix[1:]))
    path.write_bytes(b"".join(p.read_bytes() for p in parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument(
        "--seconds", type=float, default=420, help="of training in all; the learning rate falls to 0 over them"
    )
    parser.add_argument(
        "--piece",
        type=float,
        default=math.inf,
        help="stop this call's training after so many seconds; go on with --resume",
    )
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--sample-steps", type=int, default=150)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start", type=Path, help="a prior.safetensors of the same size, whose weights to start from")
    parser.add_argument(
        "--keep", choices=("state", "none"), default="state", help="none: leave no state to --resume from"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    out, work = args.out, Path(tempfile.mkdtemp())
    log = Log(out / "log.txt")
    if args.resume:
        before = json.loads((out / "run.json").read_text())
        settings = before["settings"]
        for key in ("size", "seconds", "longest", "batch", "lr", "weight_decay", "ema", "seed"):
            setattr(args, key, before[key])
        join(out, work / "state.pt")

    device = pick_device()
    if device.type == "cuda":
        # the memory-efficient attention is the one known to have a gradient of the bias
        torch.backends.cuda.enable_cudnn_sdp(False)
        log(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    bounds = [b for b in BOUNDS if b < args.longest] + [args.longest]
    train, held_out = (
        Bucketed([c.x for c in chains(s, longest=args.longest)], bounds=bounds) for s in ("train", "validation")
    )
    torch.manual_seed(args.seed)
    prior = backbone_prior(args.size)
    if args.start:
        prior.net.load_state_dict(load_backbone(args.start).net.state_dict())
    log(
        f"{args.size}, {prior.parameter_count()} parameters; {sum(map(len, train.buckets))} chains in buckets of"
        f" {[len(b) for b in train.buckets]}"
    )
    off = gradient_error(train, device, device.type == "cuda")
    log(f"gradient off by {off:.1%} of the CPU's")
    if not off < 0.2:
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        log(f"without memory-efficient attention: {gradient_error(train, device, device.type == 'cuda'):.1%}")
    if args.compile:
        Stage.forward = torch.compile(Stage.forward, dynamic=True)  # type: ignore[method-assign]
    shared = {
        "batch": args.batch,
        "lr": args.lr,
        "weight_decay": args.weight_decay,
        "ema": args.ema,
        "seed": args.seed,
        "bf16": device.type == "cuda",
    }
    if not args.resume:
        one = step_seconds(prior, train, FitConfig(**shared), device)
        settings = {
            **shared,
            "steps": max(10, round(1.05 * args.seconds / one)),
            "warmup": 300,
            "evaluations": 12,
            "held_out_batches": 10,
            "saves": 1,
        }
        log(f"about {one:.3f} s a step, {args.batch / one:.0f} samples/s: {settings['steps']} steps at most")
        about = {k: v for k, v in vars(args).items() if k not in ("out", "resume", "piece", "start")}
        (out / "run.json").write_text(json.dumps(about | {"settings": settings}, indent=1))
    config = FitConfig(**settings, max_seconds=args.seconds)
    objective = Running()
    watched = Watched(train, log, objective, time.monotonic() + args.piece)
    try:
        result = fit(
            prior,
            objective,
            watched,
            held_out,
            config=config,
            folder=work,
            resume=args.resume,
            device=device,
            progress=False,
            callback=lambda row: log("  ".join(f"{k} {v:.4f}" for k, v in row.items())),
        )
    except Interrupted as stopped:
        log(f"stopped at {str(stopped).split('stopped at ')[1].split(';')[0]}")
        split(work / "state.pt", out)
        return
    if args.keep == "state":
        split(work / "state.pt", out)
    log(
        f"{result.steps} steps, {result.steps * args.batch / 1e6:.2f} M samples in {result.seconds:.0f} s; held out"
        f" {result.held_out}, kept {result.weights}"
    )
    prior.save(
        out / "prior.safetensors",
        torch.float16,
        name=f"backbone-{args.size}",
        data="bundled protein chains, train split",
        recipe={**settings, "steps_taken": result.steps},
        held_out=result.held_out,
        weights=result.weights,
    )
    draw(load_backbone(out / "prior.safetensors", device), args, log, out)
    for path in sorted(out.iterdir()):
        log(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
