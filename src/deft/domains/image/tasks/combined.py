"""Tasks of several operators: one after another, or two sensors of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from deft.core.random import BatchNoise, Noise
from deft.domains.image.tasks.base import ImageTask, Masked
from deft.errors import ContractError, InputError
from deft.operator import BlockAverage, Mask, Operator, Radon, gaussian_blur, masks, stack
from deft.operator.separable import BOUNDARIES
from deft.values import Range


@dataclass(frozen=True)
class DeblurInpaint(Masked):
    """A Gaussian blur of `deviation` pixels, of which a share `seen` of the pixels is seen, at random places.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.DeblurInpaint(seen=0.25).observe(x, deft.Noise(0, 1))
    >>> obs.likelihood.operator.text, int(obs.likelihood.operator.mask.sum())  # of 1024
    ('Mask @ Separable', 256)
    """

    name = "deblur-inpaint"
    title = "deblur and fill"
    about = "a Gaussian blur, 1.5 pixels wide, of which one pixel in two is seen"
    convention = "y = m (blurred x) in [-1, 1], 0 where hidden; mask: 1 is seen, 0 hidden, [N, 1, H, W]"
    conventions = ("boundary",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"boundary": BOUNDARIES}
    deviation: Annotated[float, Range(above=0, max=1000)] = 1.5
    seen: float = 0.5
    boundary: str = BOUNDARIES[0]

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return masks.random_pixels(noise, shape[1], shape[2], self.seen)

    def build(self, drawn: Tensor) -> Operator:
        blur = gaussian_blur((drawn.shape[2], drawn.shape[3]), self.deviation, self.boundary)
        return Mask(drawn) @ blur.to(drawn.device)


@dataclass(frozen=True)
class TwoViews(ImageTask):
    """Two sensors of one image: parallel-beam CT from few angles, and a small picture of block averages.

    image_noise: the standard deviation of the picture's noise, over sigma_y, which is that of the CT. y holds the
    picture divided by it, so that all of y has the noise sigma_y (`deft.operator.stack`).

    >>> import deft, torch
    >>> x = torch.ones(1, 1, 32, 32)
    >>> obs = deft.tasks.TwoViews(angles=10, factor=8).observe(x, deft.Noise(0, 1))
    >>> scan, picture = obs.likelihood.operator.split(obs.y)
    >>> scan.shape, picture.shape
    (torch.Size([1, 1, 10, 46]), torch.Size([1, 1, 4, 4]))
    """

    name = "two-views"
    title = "CT from few angles and a small picture"
    about = "parallel-beam CT from 16 angles, with 4x4 block averages of the same image"
    prior = "ct"
    pictures = False
    feature_channels = 2
    convention = "the sinogram (as ct), then the block averages over image_noise; each row by row, in one vector"
    sigma_y: float = 0.02
    angles: Annotated[int, Range(1, 100_000)] = 16
    factor: Annotated[int, Range(1, 1024)] = 4
    image_noise: Annotated[float, Range(above=0, max=1e6)] = 2.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.image_noise > 0:
            raise InputError(f"image_noise of the task {self.name} is a number above 0, got {self.image_noise}")

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        if x.shape[2] != x.shape[3]:
            raise ContractError(f"{self.name} needs square images, as every CT here, got {x.shape[2]}x{x.shape[3]}")
        ct = Radon(x.shape[2], self.angles).to(x.device)
        small = BlockAverage(self.factor, (x.shape[2], x.shape[3]))
        return stack(ct, small, event_shape=tuple(x.shape[1:]), sigma_y=(1.0, self.image_noise))


TASKS = (DeblurInpaint, TwoViews)
