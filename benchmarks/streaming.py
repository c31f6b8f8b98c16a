"""Memory and speed of data that are read row by row, beside the same data in memory: python benchmarks/streaming.py
[--images N] [--side S] [--batch B] [--batches K]

For a folder of PNGs, one of JPEGs, and an .npy of bytes, made for it: what a process takes at its peak, over what it
has before it reads; the time until the first batch is there; and pictures a second of random batches after it, both by
the clock and by the processors' time. Each way in a process of its own, in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("in memory", "row by row")


def make(folder: Path, images: int, side: int) -> dict[str, Path]:
    """The same pictures (smooth, with some noise, as photographs have) in three forms."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    png, jpg, npy = folder / "png", folder / "jpg", folder / "x.npy"
    png.mkdir(), jpg.mkdir()
    stack = np.lib.format.open_memmap(npy, "w+", np.uint8, (images, 3, side, side))
    for i in range(images):
        coarse = rng.integers(0, 256, (side // 32, side // 32, 3)).astype("uint8")
        smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.int16)
        pixels = (smooth + rng.integers(-4, 5, smooth.shape)).clip(0, 255).astype("uint8")
        Image.fromarray(pixels).save(png / f"{i:06d}.png", compress_level=1)
        Image.fromarray(pixels).save(jpg / f"{i:06d}.jpg", quality=90)
        stack[i] = pixels.transpose(2, 0, 1)
    return {"PNG": png, "JPEG": jpg, ".npy of bytes": npy}


def measure(source: Path, side: int, way: str, batch: int, batches: int) -> dict[str, float]:
    """In this process: read, then draw batches."""
    import torch

    from deft.domains.image import streaming
    from deft.domains.image.loading import read
    from deft.runtime.memory import PeakMemory
    from deft.train.data import Clean

    streaming.STREAMED = 0
    with PeakMemory() as memory:
        started = time.perf_counter()
        x = read(str(source), (3, side, side), stream=way == WAYS[1]).x
        data = Clean(x)
        data.draw(batch, 0, 0, torch.device("cpu"))
        first, begun = time.perf_counter() - started, (time.perf_counter(), time.process_time())
        for step in range(1, batches + 1):
            data.draw(batch, 0, step, torch.device("cpu"))
        clock, own = time.perf_counter() - begun[0], time.process_time() - begun[1]
    n = batch * batches
    return {"mib": memory.mib or 0.0, "first": first, "rate": n / clock, "own": n / max(own, 1e-9)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--child", nargs=2, metavar=("SOURCE", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(measure(Path(args.child[0]), args.side, args.child[1], args.batch, args.batches)))
        return
    print(f"{args.images:,} pictures of {args.side} x {args.side} x 3, batches of {args.batch}:\n")
    print("| | way | peak memory (MiB) | first batch (s) | pictures/s | pictures per second of processor |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, source in make(Path(folder), args.images, args.side).items():
            for way in WAYS:
                line = [sys.executable, __file__, "--side", str(args.side), "--batch", str(args.batch)]
                line += ["--batches", str(args.batches), "--child", str(source), way]
                r = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
                print(f"| {name} | {way} | {r['mib']:,.0f} | {r['first']:.1f} | {r['rate']:,.0f} | {r['own']:,.0f} |")


if __name__ == "__main__":
    main()
