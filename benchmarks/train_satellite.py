"""Train a colour prior on Sentinel-2 pictures (EuroSAT, 64x64) on one GPU in about five minutes, and compare its
samples with held-out pictures.

    python benchmarks/train_satellite.py --pack eurosat-part.npz --data eurosat.npz     # once: 13 MB of WebP from 45 MB of JPEG
    python benchmarks/train_satellite.py --data eurosat.npz --out satellite --seconds 290 --compile
    python benchmarks/train_satellite.py --quick --device cpu --out quick               # a minute without a GPU, on made-up pictures

--pack reads an npz with jpeg (uint8, all files one after another), offset, name and label. Within a class, in the order
of names as text, every tenth picture from the first on is for testing and left out, and every tenth from the second on
is for validation. Pictures of one class come from neighbouring places, so test pictures are not far from training ones.

What is left in --out: prior.safetensors (float16, with a card), card.md, samples.png, log.json. prior.safetensors is
also written at each look at the held-out loss, with the averaged weights of that moment, so that a training cut off is
of use.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

STARTED = time.monotonic()

import numpy as np  # noqa: E402 (the clock comes first)
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from deft import DPMpp2M, FitConfig, Noise, VPCosine, fit, sample  # noqa: E402
from deft.cli.prior import clean_batches, fast_kernels, finish_prior, start_weights  # noqa: E402
from deft.core.random import BatchNoise, generator  # noqa: E402
from deft.domains.image.prior import ImagePrior  # noqa: E402
from deft.nn import UNet  # noqa: E402
from deft.prior import load_prior  # noqa: E402
from deft.train.compiled import compiled  # noqa: E402
from deft.train.data import Clean  # noqa: E402
from deft.train.denoising import PriorObjective  # noqa: E402
from deft.train.fit import pick_device  # noqa: E402
from deft.train.levels import level_table  # noqa: E402
from deft.train.protocols import Batches, Loss  # noqa: E402

DATA = (
    "EuroSAT RGB (Helber, Bischke, Dengel & Borth 2019, EuroSAT, IEEE JSTARS, https://github.com/phelber/EuroSAT): 46 %"
    " of each of ten classes, 64x64; tenths by name within a class: first for test, second for validation, the rest for"
    " training"
)
LICENCE = "MIT (pictures: Patrick Helber 2023); contains modified Copernicus Sentinel data"
TRAIN, VALIDATION, TEST = 0, 1, 2
END = 30.0
"""Seconds kept for what follows the training."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def parts_of(names: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """TRAIN, VALIDATION or TEST for each picture: tenths of each class in the order of names."""
    out = np.full(len(names), TRAIN)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(names[rows])]
        out[rows[0::10]], out[rows[1::10]] = TEST, VALIDATION
    return out


def pack(source: Path, target: Path, quality: int) -> None:
    """Write the training and validation pictures of `source` as WebP, one after another, with offsets and parts."""
    found = np.load(source)
    jpeg, offset = found["jpeg"], found["offset"]
    parts = parts_of(found["name"], found["label"])
    kept = np.flatnonzero(parts != TEST)
    files, errors = [], []
    for i in kept:
        picture = Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes())).convert("RGB")
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=6)
        files.append(buffer.getvalue())
        errors.append(np.square(np.asarray(picture, float) - np.asarray(Image.open(buffer), float)).mean())
    ends = np.cumsum([0, *map(len, files)])
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        target,
        webp=np.frombuffer(b"".join(files), np.uint8),
        offset=ends,
        part=parts[kept].astype(np.uint8),
        error=np.mean(errors) / 127.5**2,
    )
    counts = np.bincount(parts[kept])
    say(
        f"{counts[TRAIN]} + {counts[VALIDATION]} pictures, {target.stat().st_size / 1e6:.2f} MB; mean squared error of"
        f" the encoding {np.mean(errors):.2f} of 255^2"
    )


def unpack(path: Path) -> tuple[Tensor, Tensor, float]:
    """Training and validation pictures [N, 3, H, W] in [-1, 1] of a file made by `pack`, and what its encoding changed
    (mean squared)."""
    found = np.load(path)
    blob, offset, part = found["webp"], found["offset"], found["part"]

    def one(i: int) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(blob[offset[i] : offset[i + 1]].tobytes())).convert("RGB"))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = np.stack(list(pool.map(one, range(len(part)))))
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    chosen = torch.from_numpy(part)
    return x[chosen == TRAIN].contiguous(), x[chosen == VALIDATION].contiguous(), float(found["error"])


def made_up(n: int, side: int = 16) -> Tensor:
    """Smooth random colours, for a trial run without data."""
    coarse = 2 * torch.rand(n, 3, 4, 4, generator=generator(0)) - 1
    return nn.functional.interpolate(coarse, size=side, mode="bilinear")


class DeviceNoise(BatchNoise):
    """A `BatchNoise` whose normal numbers are drawn where they are used, from the same key: other numbers, and no wait
    for the CPU."""

    def __init__(self, other: BatchNoise):
        super().__init__(other.total, *other.key, rows=other.rows)
        self._there: torch.Generator | None = None

    def normal(self, shape: Any, *, device: torch.device | str = "cpu") -> Tensor:
        if self._there is None:
            self._there = torch.Generator(device).manual_seed(generator(*self.key, 8).initial_seed())
        return self._part(torch.randn((self.total, *shape), generator=self._there, device=device))


class Watched(PriorObjective):
    """The prior's objective, with noise drawn on the device in training; it keeps hold of the averaged module that
    held-out evaluations show it."""

    def __init__(self) -> None:
        self.raw: nn.Module | None = None
        self.average: ImagePrior | None = None

    def __call__(self, module: nn.Module, batch: Any, noise: BatchNoise) -> Loss:
        if module.training:
            return super().__call__(module, batch, DeviceNoise(noise))
        if self.raw is not None and module is not self.raw and isinstance(module, ImagePrior):
            self.average = module
        return super().__call__(module, batch, noise)


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block once so many seconds are over."""

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)  # and again, should the first be swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def step_seconds(
    prior: ImagePrior, objective: Watched, batches: Batches, config: FitConfig, device: torch.device, steps: int
) -> float:
    """Seconds that a step takes, without the optimiser; the weights are left alone."""
    prior.to(device).train()
    started = 0.0
    for i in range(steps + 3):
        if i == 3:
            wait(device)
            started = time.monotonic()
        batch = batches.draw(config.batch, config.seed, i, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            value = objective(prior, batch, BatchNoise(config.batch, config.seed, i, 1)).value
        value.backward()
    prior.zero_grad(set_to_none=True)
    wait(device)
    return (time.monotonic() - started) / steps


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


LAGS = (1, 2, 4, 8, 16)
BINS = 64


def statistics(x: Tensor) -> dict[str, Any]:
    """What pictures x [N, 3, H, W] in [-1, 1] have in common.

    mean, std: of each channel. histogram: its share of pixels in 64 bins. step: mean squared difference of pixels so
    many rows or columns apart. spectrum: power by spatial frequency, in rings of the Fourier transform, of grey
    pictures.
    """
    x = x.double().clamp(-1, 1)
    side = min(x.shape[-2:])
    lags = [k for k in LAGS if k < side]
    step = [
        float(((x[..., k:, :] - x[..., :-k, :]).square().mean() + (x[..., k:] - x[..., :-k]).square().mean()) / 2)
        for k in lags
    ]
    grey = x.mean(1)
    power = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs().square().mean(0) / grey[0].numel()
    f = torch.fft.fftfreq(grey.shape[1])[:, None].square() + torch.fft.fftfreq(grey.shape[2])[None].square()
    ring = (f.sqrt() * side / 4).round().long().flatten()
    count = torch.bincount(ring)
    return {
        "n": len(x),
        "mean": x.mean((0, 2, 3)).tolist(),
        "std": x.std((0, 2, 3)).tolist(),
        "histogram": [(torch.histc(c, BINS, -1, 1) / c.numel()).tolist() for c in x.transpose(0, 1).flatten(1)],
        "lags": lags,
        "step": step,
        "spectrum": (torch.zeros(len(count), dtype=power.dtype).index_add_(0, ring, power.flatten()) / count).tolist(),
    }


def compare(of: dict[str, Any], to: dict[str, Any]) -> dict[str, Any]:
    """How far one `statistics` is from another.

    mean: largest difference of a channel's mean. std: largest relative one. histogram: half the sum of absolute
    differences of shares (0: equal, 1: disjoint), the worst channel's. step, spectrum: ratios.
    """
    pairs = lambda k: list(zip(of[k], to[k], strict=True))  # noqa: E731
    return {
        "mean": max(abs(a - b) for a, b in pairs("mean")),
        "std": max(abs(a / b - 1) for a, b in pairs("std")),
        "histogram": max(sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2 for p, q in pairs("histogram")),
        "step": [round(a / b, 3) for a, b in pairs("step")],
        "spectrum": [round(a / b, 3) for a, b in pairs("spectrum")],
    }


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, help="a file made with --pack")
    p.add_argument("--pack", type=Path, metavar="NPZ", help="make --data of this file, and stop")
    p.add_argument("--quality", type=int, default=92, help="of WebP, with --pack")
    p.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "satellite")))
    p.add_argument(
        "--quick", action="store_true", help="a small network for seconds, on made-up pictures without --data"
    )
    p.add_argument("--device")
    p.add_argument("--seconds", type=float, default=290, help="of training")
    p.add_argument(
        "--total",
        type=float,
        default=350,
        help="seconds for everything: training is cut so that the end is within them",
    )
    p.add_argument("--compile", action="store_true")
    p.add_argument("--compile-seconds", type=float, default=75, help="go on without it if compilation takes longer")
    p.add_argument("--start-from", help="a prior of the same shape to begin with")
    p.add_argument("--widths", type=int, nargs="+", default=[64, 128, 160])
    p.add_argument("--blocks", type=int, default=2)
    p.add_argument("--attention", type=int, nargs="+", default=[0, 1, 1], help="0 or 1 for each width")
    p.add_argument("--patch", type=int, default=2)
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--warmup", type=int, default=200)
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--samples", type=int, default=512)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    if args.pack and not args.data:
        p.error("--pack needs --data, where to write")
    if not args.data and not args.quick:
        p.error("give --data (made with --pack), or --quick")
    if args.quick:
        args.widths, args.blocks, args.attention, args.patch = [16, 32], 1, [0, 1], 4
        args.batch, args.seconds, args.warmup, args.samples = 8, min(args.seconds, 3.0), 2, 16
    return args


def main() -> int:
    args = arguments()
    if args.pack:
        pack(args.pack, args.data, args.quality)
        return 0
    device = pick_device(args.device)
    say(f"torch {torch.__version__} on {torch.cuda.get_device_name() if device.type == 'cuda' else device}")
    x, x_out, error = unpack(args.data) if args.data else (made_up(64), made_up(32), 0.0)
    if args.quick:
        x, x_out = x[:64], x_out[:32]
    say(f"{len(x)} training and {len(x_out)} validation pictures of {'x'.join(map(str, x.shape[1:]))}")
    args.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(args.seed)
    shape = (x.shape[1], x.shape[2], x.shape[3])
    net = UNet(3, 3, args.widths, args.blocks, [bool(a) for a in args.attention], args.patch)
    made = ImagePrior(net, VPCosine(), shape, "v")
    if args.start_from:
        start_weights(made, args.start_from)
    say(f"{sum(p.numel() for p in made.parameters()):,} parameters")

    fast_kernels(device)
    common: dict[str, Any] = {
        "batch": args.batch,
        "lr": args.lr,
        "warmup": args.warmup,
        "ema": args.ema,
        "bf16": True,
        "seed": args.seed,
    }
    config = FitConfig(**common)
    objective, batches = Watched(), clean_batches(x, device, flip=True)
    plain = made
    if args.compile:
        with limit(args.compile_seconds):
            made = compiled(made, objective, batches, config=config, device=device)
    each = step_seconds(made, objective, batches, config, device, 3 if args.quick else 30)
    seconds = min(args.seconds, args.total - (time.monotonic() - STARTED) - END)
    if seconds <= 0:
        say(f"no time is left to train in: {args.total:.0f} s in all are too few")
        return 1
    steps = max(2, math.ceil(1.3 * seconds / each))  # more than there is time for: time decides
    config = FitConfig(
        **common,
        steps=steps,
        max_seconds=seconds,
        evaluations=min(steps, 13),
        held_out_batches=max(1, round(len(x_out) / args.batch)),
    )
    say(f"a step takes {1000 * each:.1f} ms without the optimiser; training for {seconds:.0f} s")
    recipe = {k: v for k, v in asdict(config).items() if k != "saves"} | {
        "flip": True, "start_from": args.start_from, "noise": "drawn on the device", "compiled": made is not plain,
    }  # fmt: skip
    data = (
        f"{DATA}; re-encoded as WebP, which changes values on [-1, 1] by {error:.1e} (mean squared)"
        if args.data
        else "made-up pictures"
    )
    about: dict[str, Any] = {"name": "satellite", "data": data, "licence": LICENCE, "recipe": recipe}
    objective.raw, objective.average = made, None

    def looked(row: dict[str, float]) -> None:
        say(
            f"step {row['step']:6.0f}, {row['step'] / row['seconds']:5.1f} steps/s: loss {row['loss']:.5f}, "
            f"held out {row['raw']:.5f} raw, {row['ema']:.5f} averaged"
        )
        if objective.average is not None:
            now = {
                "steps": row["step"],
                "seconds": round(row["seconds"]),
                "weights": "ema",
                "held_out_loss": {k: row[k] for k in ("raw", "ema")},
            }
            objective.average.save(
                args.out / "prior.safetensors",
                torch.float16,
                **about | now,
                note="cut off: the learning rate had not come down",
            )

    result = fit(
        made, objective, batches, Clean(x_out.to(device)), config=config, device=device, progress=False, callback=looked
    )
    say(
        f"{result.steps} steps in {result.seconds:.0f} s ({result.steps / result.seconds:.1f} steps/s); held out"
        f" {result.held_out}, kept {result.weights}"
    )
    about |= {
        "steps": result.steps,
        "seconds": round(result.seconds),
        "weights": result.weights,
        "held_out_loss": result.held_out,
    }
    card = finish_prior(made, x_out, args.out, about, seed=args.seed, half=True)
    log: dict[str, Any] = {"history": result.history, "card": card, "steps_per_second": result.steps / result.seconds}
    (args.out / "log.json").write_text(json.dumps(log))  # before what may fail
    say(
        f"rounding to float16 changed the held-out error by at most {100 * card['rounding']:.4f}"
        f" %\n{level_table(card['levels'])}"
    )

    loaded = load_prior(args.out / "prior.safetensors", device)  # as a user would
    count = args.samples
    drawn = [
        sample(
            loaded,
            Noise(args.seed + 1, range(low, min(low + 256, count))),
            sampler=DPMpp2M(),
            steps=5 if args.quick else 50,
            progress=False,
        ).cpu()
        for low in range(0, count, 256)
    ]
    pick = torch.randperm(len(x), generator=generator(args.seed, 9))[:count]
    tables = {"samples": statistics(torch.cat(drawn)), "held_out": statistics(x_out), "training": statistics(x[pick])}
    log["compared"] = {k: compare(tables[k], tables["held_out"]) for k in ("samples", "training")}
    log["statistics"] = tables
    for name, table in tables.items():
        numbers = {k: [round(v, 4) for v in table[k]] for k in ("mean", "std", "step")}
        say(f"{name} ({table['n']}): {numbers}")
    for name, row in log["compared"].items():
        say(f"{name} to held out: {row}")
    (args.out / "log.json").write_text(json.dumps(log))
    say("done: " + ", ".join(f"{p.name} {p.stat().st_size / 1e6:.2f} MB" for p in sorted(args.out.iterdir())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
