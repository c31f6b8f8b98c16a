"""Train the encoder whose features the reports on CT slices use (nine minutes on one core), and say what it is worth.

    python examples/ct/make_data.py --folder Medical-MNIST --out ct
    python examples/ct/train_features.py ct/ct-train.npz src/deft/evaluate/weights/ct-contrastive.safetensors

No label is shown to it. Afterwards, on the bundled test slices: how often the nearest neighbour of a changed slice is
the slice itself, how well a linear map of the features tells abdomen from head, and how far blur and noise move a
slice.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deft.core.random import generator
from deft.domains.image.contrastive import load_encoder, save_encoder, train_encoder
from deft.domains.image.data import dataset
from deft.domains.image.features import FeatureNetwork, calibrate, in_batches
from deft.domains.image.metrics import feature_distance

BLURS = (0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
NOISES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `sigma` pixels, the border repeated."""
    r = math.ceil(4 * sigma)
    k = torch.exp(-0.5 * (torch.arange(-r, r + 1) / sigma) ** 2)
    k = k / k.sum()
    x = F.conv2d(F.pad(x, (r, r, r, r), mode="replicate"), k.reshape(1, 1, 1, -1))
    return F.conv2d(x, k.reshape(1, 1, -1, 1))


def noisy(x: Tensor, sigma: float) -> Tensor:
    return x + sigma * torch.randn(x.shape, generator=generator(0))


def shifted(x: Tensor, pixels: int) -> Tensor:
    return F.pad(x, (pixels, 0, pixels, 0), mode="replicate")[..., : x.shape[-2], : x.shape[-1]]


def assess(net: FeatureNetwork) -> dict[str, Any]:
    """The figures of the module, on the 500 test slices."""
    x, labels = dataset("ct", "test")
    fit, fit_labels = dataset("ct", "fit")
    f = in_batches(net.features, x)

    def distance(changed: Tensor) -> Tensor:
        return feature_distance(in_batches(net.features, changed), f)

    def found(changed: Tensor) -> float:
        nearest = torch.cdist(in_batches(net.features, changed), f).argmin(1)
        return round(float((nearest == torch.arange(len(x))).float().mean()), 4)

    def with_one(v: Tensor) -> Tensor:
        return torch.cat([v, torch.ones(len(v), 1)], 1).double()

    a = with_one(in_batches(net.features, fit))
    w = torch.linalg.solve(a.mT @ a + 1e-3 * len(a) * torch.eye(a.shape[1]), a.mT @ (2.0 * fit_labels.double() - 1))
    right = ((with_one(f) @ w > 0) == (labels == 1)).float()
    return {
        "nearest_is_itself": {
            "noise 0.1": found(noisy(x, 0.1)),
            "shift 2": found(shifted(x, 2)),
            "both": found(noisy(shifted(x, 2), 0.1)),
        },
        "abdomen_or_head": round(float(right.mean()), 4),
        "blur": {str(s): round(float(distance(blur(x, s)).mean()), 4) for s in BLURS},
        "noise": {str(s): round(float(distance(noisy(x, s)).mean()), 4) for s in NOISES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="ct-train.npz")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=128)
    o = parser.parse_args()

    with np.load(o.data) as z:
        slices = torch.from_numpy(z["x"])
    started = time.monotonic()
    net = train_encoder(slices, steps=o.steps, batch=o.batch, name="ct-contrastive")
    seconds = time.monotonic() - started
    calibrate(net, dataset("ct", "test").x)
    card = {
        "about": "SimCLR without labels (Chen et al. 2020); features of its penultimate layer",
        "data": (
            f"{len(slices):,} slices of MedNIST's AbdomenCT and HeadCT, files 0-8499 of each (Dr. Bradley J. Erickson,"
            " Mayo Clinic)"
        ),
        "licence": "CC BY-SA 4.0 (data and weights)",
        "recipe": (
            f"{o.steps} steps of {o.batch} pairs, AdamW, lr 2e-3, cosine, temperature 0.2; shift 4, size 12 %, mirror, "
            "brightness 0.1, contrast 0.8-1.25, blur, noise <= 0.1"
        ),
        "command": (
            f"python examples/ct/train_features.py {o.data.name} {o.out.name} --steps {o.steps} --batch {o.batch}"
        ),
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in net.parameters()),
        "unit": "mean distance between two random test slices",
    }
    save_encoder(o.out, net, **card)
    figures = assess(load_encoder(o.out))
    save_encoder(o.out, net, **card, **figures)
    print(f"{figures}; unit {float(net.unit):.3f}; {seconds:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
