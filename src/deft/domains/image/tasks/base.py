"""What the tasks of images have in common, and those whose measurement is a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from deft.domains.image import units
from deft.io.settings import choice, switch
from deft.likelihood.task import Arrays, Change, Drawn, Limits, OperatorTask
from deft.operator import Mask, Operator


@dataclass(frozen=True)
class ImageTask(OperatorTask):
    """y = A(x) + sigma_y n for images [B, C, H, W] in [-1, 1]; A may be redrawn for each image.

    sigma_y: in the units of y; where y is an image in [-1, 1] too, 0.05 is 6.4 grey levels of 255. 0 is a noiseless
    measurement: methods that want a density are told `Gaussian.surrogate` (0.02).

    Class variables, beside those of every `OperatorTask`: pictures: y is a picture with values in [-1, 1], which may
    come as a PNG.
    """

    kind: ClassVar[str] = "images"
    prior: ClassVar[str] = "fashion"
    pictures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in self.switches:
            self._set(key, switch(f"{key} of the task {self.name}", getattr(self, key)))
        for key, known in self.choices.items():
            choice(f"{key} of the task {self.name}", getattr(self, key), known)

    def _set(self, key: str, value: object) -> None:
        object.__setattr__(self, key, value)

    def changes(self, arrays: Arrays) -> list[Change]:
        """Of images in another range, turned or swapped, with their mask the other way round; then what `readings`
        says."""
        found = self.ranges(arrays["y"])
        if self.pictures:
            found += units.turned(arrays["y"])
        if self.drawn == "mask" and "mask" in arrays:
            found.append(
                Change(
                    "with its mask the other way round",
                    "give 1 - mask: 1 is seen, 0 hidden",
                    lambda a: {**a, "mask": 1 - a["mask"] / max(a["mask"].max(), 1)},
                )
            )
        return [*found, *super().changes(arrays)]

    def ranges(self, y: np.ndarray) -> list[Change]:
        """Of images in a range in which y may be."""
        return units.other_ranges(y)

    def noise_text(self) -> str:
        """The noise with the range it is meant for.

        >>> from deft.domains.image.tasks import Inpaint
        >>> Inpaint().noise_text()
        'sigma_y 0.05 for images in [-1, 1], that is 6.4 grey levels of 255'
        """
        return f"sigma_y {self.sigma_y:g} for images in [-1, 1], that is {self.sigma_y * 127.5:.1f} grey levels of 255"

    def rescaled(self, y: Tensor, operator: Operator, event_shape: Sequence[int], value_range: Limits) -> Tensor:
        return units.in_our_units(y, self, operator, event_shape, value_range)

    def check_measured(self, where: str, y: Tensor, measured: Tensor, sure: bool) -> None:
        if self.drawn == "mask":
            units.check_mask_sense(where, y, measured, self.pictures)
        if not sure:
            units.question(where, y[measured], self)

    def range_hint(self, values: np.ndarray) -> str:
        return units.range_hint(float(values.max()))


@dataclass(frozen=True)
class Masked(Drawn, ImageTask):
    """Some of the image's own pixels are seen."""

    feature_channels = 2
    drawn = "mask"
    convention = "y = m x in [-1, 1], 0 where hidden; mask: 1 is seen, 0 hidden, [N, 1, H, W]"

    def build(self, drawn: Tensor) -> Operator:
        return Mask(drawn)
