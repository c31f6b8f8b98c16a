"""Tasks that change the values of pixels: noise, colour, compression, saturation, photon counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from torch import Tensor

from deft.core.random import BatchNoise, Noise
from deft.domains.image.tasks.base import ImageTask
from deft.errors import ContractError, InputError
from deft.likelihood import Likelihood, Poisson
from deft.likelihood.task import Change
from deft.operator import HDR, JPEG, ColourJPEG, Compressed, Identity, Operator, grey
from deft.operator.jpeg import SUBSAMPLINGS
from deft.operator.separable import LUMAS
from deft.values import Range, Seed


@dataclass(frozen=True)
class HighDynamicRange(ImageTask):
    """y = clip(gain x, -1, 1), noiseless: dark and bright parts are lost (paper, section 4.1).

    >>> import deft, torch
    >>> x = torch.linspace(-1, 1, 1024).reshape(1, 1, 32, 32)
    >>> obs = deft.tasks.HighDynamicRange(gain=2.0).observe(x, deft.Noise(0, 1))
    >>> obs.y[0, 0, 0, 0], (obs.y.abs() == 1).float().mean()
    (tensor(-1.), tensor(0.5000))
    """

    name = "hdr"
    title = "high dynamic range"
    about = "over- and underexposed: y = clip(2 x, -1, 1)"
    convention = "x and y in [-1, 1]: mid-grey 0 stays, both ends are cut off"
    feature_channels = 2
    sigma_y: float = 0.0
    gain: Annotated[float, Range(above=0, max=1e6)] = 2.0

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return HDR(self.gain)


@dataclass(frozen=True)
class Colourise(ImageTask):
    """The brightness of each pixel alone.

    >>> import deft, torch
    >>> x = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    >>> obs = deft.tasks.Colourise(sigma_y=0.0).observe(x, deft.Noise(0, 1))
    >>> obs.y.shape, obs.y.mean()
    (torch.Size([1, 1, 8, 8]), tensor(0.2990))
    """

    name = "colourise"
    title = "colourisation"
    about = "a grey version of a colour image"
    convention = "y = .299 R + .587 G + .114 B (BT.601) of values in [-1, 1]"
    conventions = ("luma",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"luma": tuple(LUMAS)}
    luma: str = "601"

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        if x.shape[1] < 2:
            raise ContractError(f"colourisation needs images of several channels, got {x.shape[1]}")
        return grey(x.shape[1], self.luma)


@dataclass(frozen=True)
class Denoise(ImageTask):
    """The image itself, under noise of deviation 0.5.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.Denoise(sigma_y=0.5).observe(x, deft.Noise(0, 1))
    >>> obs.y.std().round(decimals=1)
    tensor(0.5000)
    """

    name = "denoise"
    title = "remove noise"
    about = "the image under noise of deviation 0.5"
    convention = "y = x + noise in [-1, 1], not clipped; .5 is 64 grey levels of 255"
    sigma_y: float = 0.5

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Identity()


@dataclass(frozen=True)
class Decompress(ImageTask):
    """A JPEG of low quality.

    >>> import deft, torch
    >>> x = torch.linspace(-1, 1, 1024).reshape(1, 1, 32, 32)
    >>> obs = deft.tasks.Decompress().observe(x, deft.Noise(0, 1))
    >>> 0.002 < (obs.y - x).abs().mean() < 0.1
    tensor(True)
    """

    name = "jpeg"
    title = "JPEG restoration"
    about = "a JPEG of quality 5"
    convention = "libjpeg's quality and its luminance table for each channel by itself: a grey file"
    conventions = ("colour",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"colour": ("each", *SUBSAMPLINGS)}
    sigma_y: float = 0.0
    quality: Annotated[int, Range(1, 100)] = 5
    colour: str = "each"

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return JPEG(self.quality) if self.colour == "each" else ColourJPEG(self.quality, self.colour)


@dataclass(frozen=True)
class CompressedSensing(ImageTask):
    """A share `ratio` of random mixtures of all pixels.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.CompressedSensing(ratio=0.25).observe(x, deft.Noise(0, 1))
    >>> obs.y.shape
    torch.Size([1, 256])
    """

    name = "compressed"
    pictures = False
    title = "compressed sensing"
    about = "random mixtures of all pixels, one for every four"
    convention = (
        "y [N, m] = signs, cosine transform and choice drawn from `seed`: this library's own, no other program's"
    )
    ratio: Annotated[float, Range(above=0, max=1)] = 0.25
    seed: Seed = 0

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Compressed(tuple(x.shape[1:]), self.ratio, seed=self.seed).to(x.device)


@dataclass(frozen=True)
class LowLight(ImageTask):
    """Photon counts: y ~ Poisson(photons (x + 1)/2) / photons, on the scale of intensities.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.LowLight(photons=10.0).observe(x, deft.Noise(0, 1))
    >>> obs.y.mean().round(decimals=1), (10 * obs.y - (10 * obs.y).round()).abs().max() < 1e-5
    (tensor(0.5000), tensor(True))
    """

    name = "poisson"
    pictures = False
    title = "low light"
    about = "photon counts, 20 where the image is white"
    convention = "y = counts / photons: 0 is black, about 1 white"
    photons: Annotated[float, Range(above=0, max=1e9)] = 20.0

    @property
    def fixed(self) -> bool:
        return False

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Identity()

    def likelihood(self, operator: Operator) -> Likelihood:
        return Poisson(operator, self.photons)

    def check_measured(self, where: str, y: Tensor, measured: Tensor, sure: bool) -> None:
        seen = y[measured].double()
        if not sure and float(seen.max()) > 2 and bool((seen == seen.round()).all()):
            raise InputError(
                f"{where}[y] holds whole numbers up to {float(seen.max()):g}, expected counts as a share of white"
                f" (counts / {self.photons:g}): give --range 0,{self.photons:g} (or --range 0,1 if they are right as"
                " they are)"
            )

    def ranges(self, y: np.ndarray) -> list[Change]:
        return [Change("counts as they were counted", f"--range 0,{self.photons:g}", value_range=(0.0, self.photons))]

    def range_hint(self, values: np.ndarray) -> str:
        return f" 0,{self.photons:g}" if values.max() > 2 else " 0,1"


TASKS = (HighDynamicRange, Colourise, Denoise, Decompress, CompressedSensing, LowLight)
