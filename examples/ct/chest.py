"""Chest CT in Hounsfield units -> chest.npz: 64x64 slices the ct prior has never seen the like of, to test out of
distribution.

    python chest.py --file lung_ct_hu.npz --out chest.npz

The file holds stacks of axial slices (arrays hu_*, int16 [slices, 512, 512], in Hounsfield units; here 94 slices of two
patients, a sample of TCIA's Lung-PET-CT-Dx: Li et al. 2020, doi 10.7937/TCIA.2020.NNC2-0461). Each 8x8 block of pixels
becomes its mean; the window from -1000 (air) to 400 (bone) becomes the grey values 0 to 255. Every second slice is
kept, for neighbours are nearly alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

WINDOW = (-1000.0, 400.0)


def small(hu: np.ndarray, side: int = 64) -> np.ndarray:
    """uint8 [n, side, side] of slices [n, k side, k side] in Hounsfield units."""
    n, k = len(hu), hu.shape[1] // side
    means = hu.astype(np.float32).reshape(n, side, k, side, k).mean((2, 4))
    low, high = WINDOW
    return (255 * np.clip((means - low) / (high - low), 0, 1)).round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("chest.npz"))
    args = parser.parse_args()
    with np.load(args.file) as z:
        stacks = [small(z[k][::2]) for k in sorted(z.files) if k.startswith("hu_")]
    x = np.concatenate(stacks)
    np.savez_compressed(args.out, x=x)
    print(f"{args.out}: {len(x)} slices of {len(stacks)} scans")


if __name__ == "__main__":
    main()
