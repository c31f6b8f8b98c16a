"""The bundled pictures of CT: drawn from the `ct` prior, so that no patient's slice is in the library.

    python draw_data.py --out ../../src/deft/data/ct.npz              # a quarter of an hour of one core
    python draw_data.py --real ct-real.npz --out ...                  # with labels, by the real slices of make_data.py

Samples of a prior are a well-specified truth: the posterior that a method is asked for is exactly that of the prior and
the measurement. They are no substitute for real slices where the question is how a prior fares on patients.

Their numbers (`draw_prior_samples(first=...)`) are none that a fit ever draws. Labels (abdomen 0, head 1) are those of
the nearest class mean of real slices in the features of the `ct` network; without --real they are -1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from deft.domains.image.contrastive import ct_encoder
from deft.prior import load_prior
from deft.train.prior_samples import draw_prior_samples

FIRST = 1_000_000
SIZES = {"fit": 600, "validation": 200, "test": 500}


def labels_of(x: torch.Tensor, real: Path | None) -> np.ndarray:
    """0 or 1, by the nearest class mean of the real slices; -1 without them."""
    if real is None:
        return np.full(len(x), -1, np.int8)
    net = ct_encoder()
    with np.load(real) as z:
        known, of = torch.from_numpy(z["fit"]).float()[:, None] / 127.5 - 1, torch.from_numpy(z["fit_labels"]).long()
    with torch.no_grad():
        f, g = (torch.cat([net.features(part) for part in v.split(100)]) for v in (known, x))
    means = torch.stack([f[of == k].mean(0) for k in range(2)])
    return torch.cdist(g, means).argmin(1).numpy().astype(np.int8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    o = parser.parse_args()
    prior, first, arrays = load_prior("ct"), FIRST, {}
    for split, n in SIZES.items():
        x = draw_prior_samples(prior, n, first=first, progress=True).x
        first += n
        pixels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        arrays[split] = pixels[:, 0].numpy()
        arrays[f"{split}_labels"] = labels_of(pixels.float() / 127.5 - 1, o.real)
    np.savez_compressed(o.out, **arrays)


if __name__ == "__main__":
    main()
