"""Make src/deft/data/fashion.npz: 1,000 images to fit, 200 to validate, 500 to test, balanced over the classes.

    apt-get install dataset-fashion-mnist
    python examples/fashion/make_data.py src/deft/data/fashion.npz

The fit images are from the train split. Validation and test are disjoint parts of the test split, at indices from
2,000 up: the first 2,000 are what the bundled prior's own held-out loss is measured on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from fashion_mnist import DEBIAN, read


def balanced(rng: np.random.Generator, labels: np.ndarray, candidates: np.ndarray, each: int) -> np.ndarray:
    """`each` indices of every class, in random order."""
    chosen = [rng.choice(candidates[labels[candidates] == c], each, replace=False) for c in range(10)]
    return rng.permutation(np.concatenate(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--all", type=Path, help="also write the whole splits into this folder: train.npz, test.npz, held-out.npz"
    )
    parser.add_argument("--source", type=Path, default=DEBIAN, help="folder of the four .gz files")
    options = parser.parse_args()

    rng = np.random.default_rng(2017)
    train, train_labels = read("train", options.source)
    test, test_labels = read("t10k", options.source)
    late = np.arange(2000, len(test))
    rows = {"fit": balanced(rng, train_labels, np.arange(len(train)), 100)}
    rows["test"] = balanced(rng, test_labels, late, 50)
    rows["validation"] = balanced(rng, test_labels, np.setdiff1d(late, rows["test"]), 20)

    arrays = {}
    for name, index in rows.items():
        images, labels = (train, train_labels) if name == "fit" else (test, test_labels)
        arrays |= {name: images[index], f"{name}_labels": labels[index], f"{name}_index": index.astype(np.int32)}
    np.savez_compressed(options.out, **arrays)
    if options.all:
        options.all.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(options.all / "train.npz", x=train, labels=train_labels)
        np.savez_compressed(options.all / "test.npz", x=test, labels=test_labels)
        np.savez_compressed(options.all / "held-out.npz", x=test[:2000], labels=test_labels[:2000])
    print({k: v.shape for k, v in arrays.items()}, f"{options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
