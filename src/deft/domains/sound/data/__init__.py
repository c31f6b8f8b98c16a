"""Bundled sounds, so that tests and examples need no network: digits that espeak-ng speaks.

`examples/sound/make_digits.py` makes the file. No recording of a person comes with the library.
"""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deft.errors import InputError, unknown

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE, LENGTH = 8000, 4096
LOUD = 0.1
"""Root mean square of each word, full scale 1, without the silence around it."""
DATASETS = ("espeak",)
SPLITS = {"fit": "40 digits of four voices", "validation": "10 of another", "test": "20 of two others"}


class Spoken(NamedTuple):
    """x: windows [N, 1, 4096] at 8 kHz, the word in the middle, full scale 1; labels: the digits, [N]."""

    x: Tensor
    labels: Tensor


def dataset(name: str, split: str) -> Spoken:
    """A split of a bundled data set: fit (40 sounds), validation (10) or test (20), of different voices.

    >>> dataset("espeak", "test").x.shape
    torch.Size([20, 1, 4096])
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    with (resources.files("deft.domains.sound.data") / f"{name}.npz").open("rb") as f, np.load(f) as data:
        codes, labels = data[split], data[f"{split}_labels"]
    if codes.shape[1:] != (LENGTH,):
        raise InputError(f"the bundled sounds of {name} are damaged: install the package again")
    return Spoken(from_mu_law(torch.from_numpy(codes))[:, None], torch.from_numpy(labels).long())


def from_mu_law(codes: Tensor) -> Tensor:
    """uint8 -> [-1, 1]: the inverse of sign(x) log(1 + 255 |x|) / log 256 in 255 steps, 128 is 0.

    >>> from_mu_law(torch.tensor([1, 128, 255], dtype=torch.uint8))
    tensor([-1.,  0.,  1.])
    """
    u = (codes.float() - 128) / 127
    return u.sign() * (256 ** u.abs() - 1) / 255
