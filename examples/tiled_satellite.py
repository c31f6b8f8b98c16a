"""Larger pictures than a prior was trained on: 4x super-resolution to 256x256 with the 64x64 prior `satellite`.

    python examples/tiled_satellite.py --out tiled.png

The truth is drawn from the tiled prior too, and named so: no picture of the data comes with deft. A few minutes of two
cores. The picture is in docs/priors.md.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from PIL import Image

import deft


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="tiled.png")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    prior = deft.load_prior("satellite", tiled=(3, args.side, args.side))
    truth = deft.sample(prior, deft.Noise(5, [0]), steps=args.steps).clamp(-1, 1)
    task = deft.tasks.SuperResolution(factor=4)
    y = task.observe(truth, deft.Noise(0, 1))
    draws = deft.sample_posterior(prior, deft.PiGDM(), y, 1, steps=args.steps)
    small = torch.nn.functional.interpolate(y.y, scale_factor=4, mode="nearest")
    row = torch.cat([truth[0], small[0], draws.x[0, 0]], 2).clamp(-1, 1)
    pixels = ((row + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(args.out)
    error = (draws.x[0, 0] - truth[0]).square().mean()
    enlarged = (small - truth).square().mean()
    print(f"root mean square error {float(error.sqrt()):.3f}, of the enlarged measurement {float(enlarged.sqrt()):.3f}")


if __name__ == "__main__":
    main()
