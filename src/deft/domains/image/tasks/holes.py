"""Tasks that show some of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from deft.core.random import BatchNoise, Noise
from deft.domains.image.tasks.base import Masked
from deft.errors import InputError
from deft.operator import masks
from deft.values import Share


@dataclass(frozen=True)
class Inpaint(Masked):
    """A rectangular hole, each side between `smallest` and `largest` of the image's side, anywhere inside.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.Inpaint(smallest=0.5, largest=0.5).observe(x, deft.Noise(0, 1))
    >>> int((obs.likelihood.operator.mask == 0).sum())  # 16 x 16 of 32 x 32
    256
    """

    name = "inpaint"
    title = "fill a hole"
    about = "a rectangular hole, anywhere"
    smallest: float = 0.25
    largest: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.smallest <= self.largest < 1:
            raise InputError(f"inpaint needs 0 < smallest <= largest < 1, got {self.smallest} and {self.largest}")

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return masks.boxes(noise, shape[1], shape[2], self.smallest, self.largest)


@dataclass(frozen=True)
class FreeForm(Masked):
    """Brush strokes over `low` to `high` of the image; noiseless, as in the paper (section 4.1).

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.FreeForm().observe(x, deft.Noise(0, 1))
    >>> 0.2 <= (obs.likelihood.operator.mask == 0).float().mean() <= 0.3
    tensor(True)
    """

    name = "inpaint-freeform"
    title = "fill brush strokes"
    about = "brush strokes over 20 to 30 % of the image (the paper's inpainting)"
    sigma_y: float = 0.0
    low: float = 0.2
    high: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.low <= self.high < 1:
            raise InputError(
                f"{self.name} needs 0 < low <= high < 1 (shares of the image), got {self.low} and {self.high}"
            )

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return masks.free_form(noise, shape[1], shape[2], self.low, self.high)


@dataclass(frozen=True)
class RandomPixels(Masked):
    """A share `seen` of the pixels, at random places.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.RandomPixels(seen=0.25).observe(x, deft.Noise(0, 1))
    >>> int(obs.likelihood.operator.mask.sum())  # of 1024
    256
    """

    name = "inpaint-random"
    title = "fill random pixels"
    about = "one pixel in five is seen, at random places"
    seen: Share = 0.2

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return masks.random_pixels(noise, shape[1], shape[2], self.seen)


@dataclass(frozen=True)
class Outpaint(Masked):
    """A window of `keep` of each side is seen, all around it is not.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.Outpaint(keep=0.5).observe(x, deft.Noise(0, 1))
    >>> int(obs.likelihood.operator.mask.sum())  # of 1024
    256
    """

    name = "outpaint"
    title = "continue beyond a window"
    about = "a window of half of each side is seen, what surrounds it is not"
    keep: Share = 0.5

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return masks.outside(noise, shape[1], shape[2], self.keep)


TASKS = (Inpaint, FreeForm, RandomPixels, Outpaint)
