"""Our UNet as a prior of images, and the file it is kept in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deft.core.schedule import Schedule
from deft.errors import InputError
from deft.io.prior_files import OwnPrior, network_of
from deft.nn import UNet
from deft.schedule import make_schedule

if TYPE_CHECKING:
    from typing_extensions import Self


class ImagePrior(OwnPrior):
    """Our UNet as a prior for images in [-1, 1].

    Args:
        net: the network. schedule: it is trained with. event_shape: (C, H, W). output: a key of
            `deft.core.denoiser.OUTPUTS`.
    """

    units: ClassVar[dict[str, Any]] = {"range": [-1, 1]}

    def __init__(self, net: UNet, schedule: Schedule, event_shape: tuple[int, ...], output: str = "v"):
        super().__init__(net, schedule, event_shape, output)

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> Self:
        net, shape = UNet(**network_of(card)), tuple(card["event_shape"])
        if len(shape) != 3 or shape[0] != net.config["inputs"] or any(side % net.multiple_of for side in shape[1:]):
            raise InputError(
                f"a UNet of {net.config['inputs']} channels and sides that are multiples of {net.multiple_of} makes no"
                f" images of shape {shape}"
            )
        return cls(net, make_schedule(card["schedule"]), shape, card["output"])


def new_prior(
    event_shape: tuple[int, ...],
    schedule: Schedule,
    output: str = "v",
    *,
    widths: Sequence[int] = (64, 96, 128),
    blocks: int = 1,
    patch: int = 2,
) -> ImagePrior:
    """An untrained prior of images (C, H, W).

    Raises:
        InputError: the images' sides are no multiple of what the network folds and halves.
    """
    if min(widths) < 1 or blocks < 1 or patch < 1:
        raise InputError(f"widths, blocks and patch must be at least 1, got {tuple(widths)}, {blocks}, {patch}")
    channels, *sides = event_shape
    net = UNet(channels, channels, tuple(widths), blocks=blocks, patch=patch)
    if any(side % net.multiple_of for side in sides):
        raise InputError(
            f"images of {sides[0]}x{sides[1]} do not fit this UNet: both sides must be multiples of {net.multiple_of} "
            "(patch x 2 for each further width); pad the images, or give fewer --widths"
        )
    return ImagePrior(net, schedule, event_shape, output)


__all__ = ["ImagePrior", "new_prior"]
