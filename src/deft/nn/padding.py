"""Images of any size, for networks that halve them: padded to a multiple at the bottom and on the right, and the output
cropped.

What is added is the image mirrored at its last row and column (d c b | a b c d | c b a): of noisy images every added
pixel has the noise of one pixel, as its neighbours have, where zeros have none and a repeated edge makes stripes. The
edge itself is not doubled. Images smaller than what is added are mirrored again and again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PADDING = "mirror"
"""What a prior's card calls it."""


def rounded_up(sides: tuple[int, ...] | torch.Size, multiple: int) -> tuple[int, ...]:
    """The sides, each at the next multiple.

    >>> rounded_up((28, 33), 8)
    (32, 40)
    """
    return tuple(-(-n // multiple) * multiple for n in sides)


def mirrored(x: Tensor, multiple: int) -> Tensor:
    """Images [B, C, H, W], or series and volumes, with sides that are multiples: x itself, where they are.

    >>> mirrored(torch.arange(3.0).reshape(1, 1, 1, 3), 8)[0, 0, 0]
    tensor([0., 1., 2., 1., 0., 1., 2., 1.])
    """
    for dim, wanted in enumerate(rounded_up(x.shape[2:], multiple), start=2):
        n = x.shape[dim]
        if wanted != n:
            place = torch.arange(wanted, device=x.device) % max(1, 2 * (n - 1))
            x = x.index_select(dim, torch.minimum(place, 2 * (n - 1) - place) if n > 1 else place)
    return x


def cropped(out: Tensor, like: Tensor) -> Tensor:
    """The part of a padded image's output that belongs to `like`: out itself, where nothing was padded."""
    if out.shape[2:] == like.shape[2:]:
        return out
    for dim, n in enumerate(like.shape[2:], start=2):
        out = out.narrow(dim, 0, n)
    return out.contiguous()


class Padded(nn.Module):
    """net(x, time) for x [B, C, H, W] of any size, of a network that wants multiples.

    >>> halving = lambda x, time: nn.functional.interpolate(nn.functional.avg_pool2d(x, 4), scale_factor=4)
    >>> Padded(halving, 4)(torch.zeros(2, 3, 6, 9), torch.zeros(2)).shape
    torch.Size([2, 3, 6, 9])
    """

    def __init__(self, net: nn.Module, multiple: int):
        super().__init__()
        self.net, self.multiple = net, multiple

    @property
    def stated(self) -> dict[str, Any]:
        """What the network says of itself, for a prior's description."""
        return dict(getattr(self.net, "stated", {}))

    @property
    def rows_per_call(self) -> int:
        return int(getattr(self.net, "rows_per_call", 1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return cropped(self.net(mirrored(x, self.multiple), time), x)
