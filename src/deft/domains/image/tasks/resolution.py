"""Tasks that show a smaller picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor

from deft.core.random import BatchNoise, Noise
from deft.domains.image.tasks.base import ImageTask
from deft.operator import BlockAverage, Operator, bicubic, every
from deft.operator.separable import FILTERS, PIXELS
from deft.values import Range


@dataclass(frozen=True)
class SuperResolution(ImageTask):
    """Each factor x factor block of pixels seen as its mean: what the paper's code does. Of sides that are no multiples
    of the factor, the last blocks are smaller, and y has the sides rounded up.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.SuperResolution(factor=4).observe(x, deft.Noise(0, 1))
    >>> obs.y.shape, obs.y.std().round(decimals=2)
    (torch.Size([1, 1, 8, 8]), tensor(0.0500))
    """

    name = "sr4"
    title = "4x super-resolution"
    about = "4x super-resolution of block averages (the paper's code)"
    convention = "y is the mean of each block, in [-1, 1]"
    conventions = ("pixel",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"pixel": ("mean", *PIXELS)}
    factor: Annotated[int, Range(1, 1024)] = 4
    pixel: str = "mean"

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        return [
            ("one pixel of each block, the first", {"pixel": "first"}),
            ("one pixel of each block, the middle one", {"pixel": "middle"}),
        ]

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return (
            BlockAverage(self.factor, (x.shape[2], x.shape[3]))
            if self.pixel == "mean"
            else every((x.shape[2], x.shape[3]), self.factor, self.pixel)
        )


@dataclass(frozen=True)
class BicubicSuperResolution(ImageTask):
    """Antialiased bicubic down-sampling, noiseless: what the paper's text says. Sides that are no multiples of the
    factor are rounded up in y.

    >>> import deft, torch
    >>> x = torch.full((1, 1, 32, 32), 0.5)
    >>> obs = deft.tasks.BicubicSuperResolution(factor=2).observe(x, deft.Noise(0, 1))
    >>> obs.y.shape, obs.y.min().round(decimals=4)
    (torch.Size([1, 1, 16, 16]), tensor(0.5000))
    """

    name = "sr4-bicubic"
    title = "4x super-resolution (bicubic)"
    about = "4x super-resolution of antialiased bicubic down-sampling, noiseless (the paper's text)"
    convention = "antialiased, a = -1/2, as Pillow and torch (antialias=True)"
    conventions = ("filter",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"filter": FILTERS}
    sigma_y: float = 0.0
    factor: Annotated[int, Range(1, 1024)] = 4
    filter: str = FILTERS[0]

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return bicubic((x.shape[2], x.shape[3]), self.factor, self.filter)


TASKS = (SuperResolution, BicubicSuperResolution)
