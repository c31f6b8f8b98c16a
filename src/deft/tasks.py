"""Tasks: clean x -> an observation of it, with a fresh operator and fresh noise each time.

A task is what an amortised h is fitted to. `TASKS` is the table that the command line reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from deft.denoise import Denoiser
from deft.errors import InputError, unknown
from deft.likelihood.base import Observation
from deft.likelihood.gaussian import Gaussian
from deft.operator.base import Identity, Operator
from deft.operator.image import BlockAverage, Mask
from deft.random import BatchNoise, Noise


@dataclass(frozen=True)
class ImageTask(ABC):
    """y = A(x) + sigma_y n for images [B, C, H, W] in [-1, 1]; A may be drawn anew for each image.

    sigma_y: in the same units, so 0.05 is 6.4 grey levels of 255.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    lift_channels: ClassVar[int] = 1
    sigma_y: float = 0.05

    @abstractmethod
    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        """The operator of each image in x."""

    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation:
        likelihood = Gaussian(self.operator(x, noise), self.sigma_y)
        return Observation(likelihood.sample(x, noise), likelihood)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Inpaint(ImageTask):
    """A rectangular hole, each side between `smallest` and `largest` of the image's side, anywhere inside."""

    name = "inpaint"
    title = "fill a hole"
    lift_channels = 2
    smallest: float = 0.25
    largest: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest < 1:
            raise InputError(f"inpaint needs 0 < smallest <= largest < 1, got {self.smallest} and {self.largest}")

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        height, width = x.shape[2:]
        u = noise.uniform((4,)).to(x.device)

        def inside(extent: int, size: Tensor, place: Tensor) -> Tensor:
            low, high = round(self.smallest * extent), round(self.largest * extent)
            length = low + (size * (high - low + 1)).floor()
            start = (place * (extent - length + 1)).floor()
            i = torch.arange(extent, device=x.device)
            return (i >= start[:, None]) & (i < (start + length)[:, None])

        rows, columns = inside(height, u[:, 0], u[:, 1]), inside(width, u[:, 2], u[:, 3])
        return Mask(~(rows[:, None, :, None] & columns[:, None, None, :]))


@dataclass(frozen=True)
class SuperResolution(ImageTask):
    """4x: each 4 x 4 block of pixels seen as its mean."""

    name = "sr4"
    title = "4x super-resolution"
    factor: int = 4

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return BlockAverage(self.factor)


@dataclass(frozen=True)
class Denoise(ImageTask):
    """The image itself, under noise of deviation 0.5."""

    name = "denoise"
    title = "remove noise"
    sigma_y: float = 0.5

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Identity()


class Through:
    """A task as the prior sees it: its own, or, for a latent prior, that of measuring what latents decode to."""

    def __init__(self, task: ImageTask, prior: Denoiser):
        self.task, self.prior = task, prior

    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation:
        return self.prior.inside(self.task.observe(self.prior.decode(x), noise))


TASKS: dict[str, type[ImageTask]] = {t.name: t for t in (Inpaint, SuperResolution, Denoise)}


def make_task(config: dict[str, Any]) -> ImageTask:
    """A task from its `config()`, as found in a card."""
    options = dict(config)
    name = options.pop("name")
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name](**options)
