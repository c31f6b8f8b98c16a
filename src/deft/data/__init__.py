"""Bundled images: a subset of Fashion-MNIST (Zalando SE, MIT licence), so that the demo needs no network."""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deft.errors import unknown

SPLITS: dict[str, str] = {
    "fit": "1,000 images of the data set's train split: what an h is fitted to",
    "validation": "200 images of its test split: for settings and early stopping",
    "test": "500 others of its test split: for reported figures alone",
}

FASHION_LABELS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


class Labelled(NamedTuple):
    """x: images [N, 1, 32, 32] in [-1, 1]; labels: [N], indices into `FASHION_LABELS`."""

    x: Tensor
    labels: Tensor


def fashion(split: str) -> Labelled:
    """A split of the bundled Fashion-MNIST images: fit (1,000), validation (200) or test (500).

    >>> fashion("test").x.shape
    torch.Size([500, 1, 32, 32])
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    with (resources.files("deft.data") / "fashion.npz").open("rb") as f, np.load(f) as data:
        x, labels = data[split], data[f"{split}_labels"]
    return Labelled(torch.from_numpy(x).float()[:, None] / 127.5 - 1, torch.from_numpy(labels).long())
