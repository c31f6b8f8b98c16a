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

    def at_size(self, event_shape: tuple[int, ...]) -> Self:
        if len(event_shape) != 3 or event_shape[0] != self.event_shape[0]:
            return super().at_size(event_shape)
        self.event_shape = event_shape
        return self

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> Self:
        net, shape = UNet(**network_of(card)), tuple(card["event_shape"])
        if len(shape) != 3 or shape[0] != net.config["inputs"] or min(shape) < 1:
            raise InputError(f"a UNet of {net.config['inputs']} channels makes no images of shape {shape}")
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
        InputError: widths, blocks or patch below 1.
    """
    if min(widths) < 1 or blocks < 1 or patch < 1:
        raise InputError(f"widths, blocks and patch must be at least 1, got {tuple(widths)}, {blocks}, {patch}")
    net = UNet(event_shape[0], event_shape[0], tuple(widths), blocks=blocks, patch=patch)
    return ImagePrior(net, schedule, event_shape, output)


__all__ = ["ImagePrior", "new_prior"]
