"""MedNIST's abdomen and head CT slices -> the files the ct prior was trained on, and ct-real.npz, on which its figures
were measured.

    python make_data.py --folder Medical-MNIST --out .
    deft compare benchmarks/ct.toml      # with data = { fit = "ct-real.npz:fit", validation = "ct-real.npz:validation", test = "ct-real.npz:test" }

The folder holds AbdomenCT/ and HeadCT/ of MedNIST (64x64 JPEGs; Dr. Bradley J. Erickson, Mayo Clinic, CC BY-SA 4.0), or
is an .npz with those JPEG files back to back (data, offset, label: 0 abdomen, 1 head). There are no patient numbers, so
whole ranges of files are held out, with a gap of 100 files between them, and near neighbours across the gap cannot be
ruled out. Slices of one grey value (83 of 17,000) are left out:

    files 0-8499       ct-train.npz        the prior; 500 of each class are `fit` of ct-real.npz
    files 8600-8999    ct-held-out.npz     the prior's held-out loss; 100 of each class are its `validation`
    files 9100-9999                        250 of each class are its `test`
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("AbdomenCT", "HeadCT")


def read(source: Path) -> Iterator[np.ndarray]:
    """The slices of each class, uint8 [10000, 64, 64], in the order of their file names."""
    if source.is_dir():
        for name in CLASSES:
            files = sorted((source / name).glob("*.jpeg"))
            yield np.stack([np.asarray(Image.open(f).convert("L")) for f in files])
        return
    with np.load(source) as z:
        data, offset, label = z["data"], z["offset"], z["label"]
    for k in range(len(CLASSES)):
        rows = np.flatnonzero(label == k)
        blobs = (data[offset[i] : offset[i + 1]].tobytes() for i in rows)
        yield np.stack([np.asarray(Image.open(io.BytesIO(b)).convert("L")) for b in blobs])


def part(x: np.ndarray, low: int, high: int, n: int | None = None) -> np.ndarray:
    """The slices low..high-1 that show something, or n of them, evenly spread."""
    x = x[low:high]
    x = x[np.ptp(x.reshape(len(x), -1), axis=1) > 0]
    return x if n is None else x[np.linspace(0, len(x) - 1, n).round().astype(int)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("."))
    o = parser.parse_args()
    parts: dict[str, list[np.ndarray]] = {}
    labels: dict[str, list[np.ndarray]] = {}

    def add(name: str, x: np.ndarray, k: int) -> None:
        parts.setdefault(name, []).append(x)
        labels.setdefault(name, []).append(np.full(len(x), k, np.uint8))

    for k, x in enumerate(read(o.folder)):
        add("ct-train", part(x, 0, 8500), k)
        add("ct-held-out", part(x, 8600, 9000), k)
        add("fit", part(x, 0, 8500, 500), k)
        add("validation", part(x, 8600, 9000, 100), k)
        add("test", part(x, 9100, 10000, 250), k)
    for name in ("ct-train", "ct-held-out"):
        np.savez_compressed(o.out / f"{name}.npz", x=np.concatenate(parts[name]), labels=np.concatenate(labels[name]))
    small = ("fit", "validation", "test")  # classes take turns here, so that the first n images are of both
    images = {n: np.stack(parts[n], 1).reshape(-1, 64, 64) for n in small}
    np.savez_compressed(
        o.out / "ct-real.npz", **images, **{f"{n}_labels": np.stack(labels[n], 1).reshape(-1) for n in small}
    )


if __name__ == "__main__":
    main()
