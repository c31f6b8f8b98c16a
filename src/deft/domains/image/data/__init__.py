"""Bundled images, so that the demo and the comparisons need no network: clothes (MIT), and pictures of CT drawn from
the `ct` prior.

Of the pictures of CT the truth is known: they are samples of the prior itself, not slices of patients. The real slices
are made by `examples/ct/make_data.py` from the public originals; `--data ct-real.npz:test` then takes their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deft.errors import InputError, unknown

SPLITS: dict[str, str] = {
    "fit": "1,000 images (ct: 600): what an h is fitted to",
    "validation": "200 others: for settings and early stopping",
    "test": "500 others: for reported figures alone",
}

FASHION_LABELS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CT_LABELS = ("abdomen", "head")


@dataclass(frozen=True)
class DataSet:
    """A bundled data set. labels: the names of its classes. event_shape: of one image. version: of the images; pieces
    of a comparison that were made with another are not used again."""

    file: str
    labels: tuple[str, ...]
    event_shape: tuple[int, ...]
    about: str
    licence: str
    version: int = 1


DATASETS: dict[str, DataSet] = {
    "fashion": DataSet(
        "fashion.npz", FASHION_LABELS, (1, 32, 32), "clothes of Fashion-MNIST (Zalando SE), padded to 32 x 32", "MIT"
    ),
    "ct": DataSet(
        "ct.npz",
        CT_LABELS,
        (1, 64, 64),
        "pictures of CT slices, drawn from the ct prior (no patient's)",
        "CC BY-SA 4.0",
        2,
    ),
}
"""Their licences in full, and what was changed, are in LICENCE.txt beside the files."""

NOT_BUNDLED = ("satellite",)
"""Priors that come without pictures of what they were trained on."""


def check_bundled(source: str) -> None:
    """Say what to do where `source` names a prior's pictures that are not here."""
    name = source.partition(":")[0]
    if name in NOT_BUNDLED and not Path(name).exists() and not Path(source).exists():
        raise InputError(
            f"no pictures come with the prior {name}: give a folder or file of your own, fit without --data (to samples"
            f" of the prior), or draw some in Python: deft.sample(deft.load_prior({name!r}), 64)"
        )


class Labelled(NamedTuple):
    """x: images [N, *event_shape] in [-1, 1]; labels: [N], indices into the data set's `labels`."""

    x: Tensor
    labels: Tensor


def dataset(name: str, split: str) -> Labelled:
    """A split of a bundled data set of `DATASETS`: fit (1,000 images; ct 600), validation (200) or test (500).

    >>> dataset("ct", "test").x.shape
    torch.Size([500, 1, 64, 64])
    """
    check_bundled(name)
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    with (resources.files("deft.domains.image.data") / DATASETS[name].file).open("rb") as f, np.load(f) as data:
        x, labels = data[split], data[f"{split}_labels"]
    return Labelled(torch.from_numpy(x).float()[:, None] / 127.5 - 1, torch.from_numpy(labels).long())


def fashion(split: str) -> Labelled:
    """`dataset("fashion", split)`."""
    return dataset("fashion", split)
