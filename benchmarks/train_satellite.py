"""Train a colour prior on Sentinel-2 pictures (EuroSAT, 64x64) on one GPU in about five minutes, and compare its
samples with held-out pictures.

    python benchmarks/train_satellite.py --pack eurosat-part.npz --data eurosat.npz     # once: 13 MB of WebP from 45 MB of JPEG
    python benchmarks/train_satellite.py --split eurosat-part.npz --out pictures                       # for deft fit and compare
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
import copy
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
from pathlib import Path
from typing import Any

STARTED = time.monotonic()

import numpy as np  # noqa: E402 (the clock comes first)
import torch  # noqa: E402
from graphs import descend  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from deft import DPMpp2M, Noise, VPCosine, sample  # noqa: E402
from deft.cli.prior import fast_kernels, finish_prior, start_weights  # noqa: E402
from deft.core.random import generator  # noqa: E402
from deft.domains.image.prior import ImagePrior  # noqa: E402
from deft.kinds.domain import domain_of  # noqa: E402
from deft.nn import UNet  # noqa: E402
from deft.nn.unet import Block  # noqa: E402
from deft.prior import load_prior  # noqa: E402
from deft.train.fit import pick_device  # noqa: E402
from deft.train.levels import level_table  # noqa: E402

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
        buffer = io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes())
        if quality < 100:
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", quality=quality, method=6)
        files.append(buffer.getvalue())
        errors.append(np.square(np.asarray(picture, float) - np.asarray(Image.open(buffer), float)).mean())
    ends = np.cumsum([0, *map(len, files)])
    target.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        target,
        pictures=np.frombuffer(b"".join(files), np.uint8),
        offset=ends,
        part=parts[kept].astype(np.uint8),
        error=np.mean(errors) / 127.5**2,
    )
    counts = np.bincount(parts[kept])
    say(
        f"{counts[TRAIN]} + {counts[VALIDATION]} pictures, {target.stat().st_size / 1e6:.2f} MB; mean squared error of"
        f" the encoding {np.mean(errors):.2f} of 255^2"
    )


def split(source: Path, folder: Path) -> None:
    """Write the pictures of each part of `source` as they are: satellite-train.npz, -validation.npz and -test.npz."""
    found = np.load(source)
    jpeg, offset = found["jpeg"], found["offset"]
    parts = parts_of(found["name"], found["label"])
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        files = (io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes()) for i in np.flatnonzero(parts == part))
        x = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])
        np.random.default_rng(0).shuffle(x)  # a study takes the first so many: of all classes
        np.savez(folder / f"satellite-{name}.npz", x=x)
        say(f"{len(x)} pictures in satellite-{name}.npz")


def unpack(path: Path) -> tuple[Tensor, Tensor, float]:
    """Training and validation pictures [N, 3, H, W] in [-1, 1] of a file made by `pack`, and what its encoding changed
    (mean squared)."""
    found = np.load(path)
    blob, offset, part = found["pictures"], found["offset"], found["part"]

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


def symmetric(x: Tensor) -> Tensor:
    """Each of x [B, C, N, N] in one of the eight ways to lay a square: pictures from above have no upright."""
    pick = lambda: torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5  # noqa: E731
    x = torch.where(pick(), x.flip(-1), x)
    x = torch.where(pick(), x.flip(-2), x)
    return torch.where(pick(), x.transpose(-1, -2), x)


class Training:
    """The loss of a prior with output v at uniform times, all of it drawn where the pictures are."""

    def __init__(self, prior: ImagePrior, x: Tensor, x_out: Tensor, batch: int, bf16: bool):
        self.prior, self.x, self.batch, self.bf16 = prior, x, batch, bf16
        self.t = torch.linspace(prior.schedule.t_min, prior.schedule.t_max, 100_001, dtype=torch.float64)
        self.alpha, self.sigma = (f(self.t).float().to(x.device) for f in (prior.schedule.alpha, prior.schedule.sigma))
        self.time = prior._time(self.t.float().to(x.device), self.alpha, self.sigma)
        noise = torch.Generator().manual_seed(5)
        even = (torch.arange(len(x_out)) + torch.rand(len(x_out), generator=noise)) / len(x_out) * 100_000
        self.held_out = (x_out, torch.randn(x_out.shape, generator=noise).to(x.device), even.long().to(x.device))

    def error(self, prior: ImagePrior, x: Tensor, n: Tensor, at: Tensor) -> Tensor:
        a, s = (c[at].reshape(-1, 1, 1, 1) for c in (self.alpha, self.sigma))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            out = prior.net(a * x + s * n, self.time[at])
        return (out.float() - (a * n - s * x)).square().mean()

    def __call__(self) -> Tensor:
        device = self.x.device
        x = symmetric(self.x[torch.randint(len(self.x), (self.batch,), device=device)])
        even = (torch.arange(self.batch, device=device) + torch.rand(self.batch, device=device)) / self.batch
        return self.error(self.prior, x, torch.randn_like(x), (even * 100_000).long())

    @torch.no_grad()
    def measure(self, prior: ImagePrior) -> float:
        parts = zip(*(v.split(self.batch) for v in self.held_out), strict=True)
        found = [float(self.error(prior, *part)) * len(part[0]) for part in parts]
        return sum(found) / len(self.held_out[0])


def compile_blocks(prior: ImagePrior, training: Training, seconds: float) -> bool:
    """Compile the residual blocks; without it, and said, if it fails or takes longer than `seconds`."""
    started = time.monotonic()
    blocks = [m for m in prior.modules() if isinstance(m, Block)]
    torch._dynamo.config.cache_size_limit = max(32, torch._dynamo.config.cache_size_limit)
    try:
        with limit(seconds):
            for block in blocks:
                block.compile(dynamic=False)
            training().backward()
            wait(training.x.device)
    except Exception as error:  # a compiler fails in many ways, and training is possible without it
        say(f"not compiled: {type(error).__name__}: {str(error)[:300]}")
        for block in blocks:
            block._compiled_call_impl = None
        return False
    prior.zero_grad(set_to_none=True)
    say(f"compiled in {time.monotonic() - started:.0f} s")
    return True


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
    p.add_argument("--split", type=Path, metavar="NPZ", help="write its pictures part by part into --out, and stop")
    p.add_argument("--quality", type=int, default=92, help="of WebP, with --pack; 100: the files as they are")
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
    p.add_argument("--average", type=float, default=0.0005, help="share of the newest weights in the average")
    p.add_argument("--samples", type=int, default=512)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    if args.pack and not args.data:
        p.error("--pack needs --data, where to write")
    if not args.data and not args.quick and not args.split:
        p.error("give --data (made with --pack), --split or --quick")
    if args.quick:
        args.widths, args.blocks, args.attention, args.patch = [16, 32], 1, [0, 1], 4
        args.batch, args.seconds, args.warmup, args.samples = 8, min(args.seconds, 3.0), 2, 16
    return args


def main() -> int:
    args = arguments()
    if args.pack:
        pack(args.pack, args.data, args.quality)
        return 0
    if args.split:
        split(args.split, args.out)
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
    x, x_out = x.to(device), x_out.to(device)
    made.to(device).train()
    averaged = copy.deepcopy(made).eval()
    training = Training(made, x, x_out, args.batch, bf16=device.type == "cuda")
    fast = args.compile and compile_blocks(made, training, args.compile_seconds)
    seconds = min(args.seconds, args.total - (time.monotonic() - STARTED) - END)
    if seconds <= 0:
        say(f"no time is left to train in: {args.total:.0f} s in all are too few")
        return 1
    recipe = {
        "batch": args.batch, "lr": args.lr, "warmup": args.warmup, "ema": 1 - args.average, "bf16": training.bf16,
        "flip": True, "start_from": Path(args.start_from).name if args.start_from else None, "compiled": fast,
        "seed": args.seed,
    }  # fmt: skip
    data = DATA if error == 0 else f"{DATA}; re-encoded, which changes values on [-1, 1] by {error:.1e} (mean squared)"
    about: dict[str, Any] = {
        "name": "satellite", "data": data if args.data else "made-up pictures", "licence": LICENCE, "recipe": recipe,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
    }  # fmt: skip
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"held_out": math.inf}
    kept = copy.deepcopy(averaged)

    def looked(step: int, spent: float, loss: float, mean: list[Tensor]) -> None:
        with torch.no_grad():
            for own, value in zip(averaged.parameters(), mean, strict=True):
                own.copy_(value)
        row = {"step": step, "seconds": round(spent, 1), "loss": loss, "held_out": training.measure(averaged)}
        say(f"step {step}, {step / spent:.1f} a second: loss {loss:.5f}, held out {row['held_out']:.5f} averaged")
        history.append(row)
        if row["held_out"] < best["held_out"]:
            best.update(row)
            kept.load_state_dict(averaged.state_dict())
        note = "cut off: the learning rate had not come down"
        averaged.save(args.out / "prior.safetensors", torch.float16, **about | row, note=note)

    say(f"training for {seconds:.0f} s; held out {training.measure(averaged):.5f} at the start")
    steps = descend(
        made, training, seconds, lr=args.lr, warmup=args.warmup, average=args.average, look=looked, looks=12
    )
    say(f"{steps} steps; the averaged weights of step {best['step']} are kept: held out {best['held_out']:.5f}")
    about |= {"steps": steps, "seconds": round(seconds), "weights": "average", "best_step": best["step"],
              "held_out_loss": best["held_out"]}  # fmt: skip
    domain = domain_of(made)
    assert domain is not None
    card = finish_prior(kept, domain, x_out, args.out, about, seed=args.seed, half=True)
    log: dict[str, Any] = {"history": history, "card": card, "steps_per_second": steps / seconds}
    (args.out / "log.json").write_text(json.dumps(log))  # before what may fail
    say(f"rounding to float16 changed the held-out error by at most {100 * card['rounding']:.4f} %")
    print(level_table(card["levels"]), flush=True)

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
    pick = torch.randperm(len(x), generator=generator(args.seed, 9))[:count].to(x.device)
    tables = {
        "samples": statistics(torch.cat(drawn)),
        "held_out": statistics(x_out.cpu()),
        "training": statistics(x[pick].cpu()),
    }
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
