from __future__ import annotations

from dataclasses import dataclass

import torch

from deft import Mask
from deft.likelihood.task import Drawn


@dataclass(frozen=True)
class Gaps(Drawn):
    """A stretch of `share` of the curve is not seen."""

    name = "gaps"
    title = "fill a gap"
    about = "a stretch of each curve is not seen"
    kind = "curves"
    feature_channels = 2
    drawn = "mask"
    share: float = 0.25

    def draw(self, shape, noise):
        length = shape[-1]
        size = max(1, round(self.share * length))
        start = (noise.uniform(()) * (length - size)).long()
        at = torch.arange(length)
        return 1 - ((at >= start[:, None]) & (at < start[:, None] + size)).float()[:, None]

    def build(self, drawn):
        return Mask(drawn)
