"""Reading Fashion-MNIST as Debian's package dataset-fashion-mnist installs it (or as its authors publish it)."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def read(split: str, folder: Path = DEBIAN) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, 32, 32], labels uint8 [N]) of the split "train" or "t10k", padded from 28 to 32 with zeros."""
    images = np.frombuffer(
        gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16
    )
    labels = np.frombuffer(gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return np.pad(images.reshape(-1, 28, 28), ((0, 0), (2, 2), (2, 2))), labels
