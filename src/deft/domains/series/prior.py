"""Our UNet of one side as a prior of series, and the file it is kept in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from deft.core.schedule import Schedule
from deft.domains.series.units import Units
from deft.errors import InputError
from deft.io.prior_files import OwnPrior, network_of
from deft.nn import UNet
from deft.schedule import make_schedule

if TYPE_CHECKING:
    from typing_extensions import Self

PLACES = 128
"""Times that a network looks at one by one, about: longer series are folded by `patch` first."""


class SeriesPrior(OwnPrior):
    """Our UNet as a prior of series [C, L]. Its card has the units (`deft.domains.series.units`)."""

    units: ClassVar[dict[str, Any]] = {"domain": "series"}

    def __init__(self, net: UNet, schedule: Schedule, event_shape: tuple[int, ...], output: str = "v"):
        super().__init__(net, schedule, event_shape, output)

    def at_size(self, event_shape: tuple[int, ...]) -> Self:
        if len(event_shape) != 2 or event_shape[0] != self.event_shape[0]:
            return super().at_size(event_shape)
        self.event_shape = event_shape
        return self

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> Self:
        net, shape = UNet(**network_of(card)), tuple(card["event_shape"])
        if net.dims != 1 or len(shape) != 2 or shape[0] != net.config["inputs"] or min(shape) < 1:
            raise InputError(f"a UNet of {net.config['inputs']} channels makes no series of shape {shape}")
        units = Units.of_card(card)
        if units is not None and len(units) != shape[0]:
            raise InputError(f"its card names {len(units)} variables, and its samples have {shape[0]}")
        return cls(net, make_schedule(card["schedule"]), shape, card["output"])


def usual_patch(length: int) -> int:
    """Entries that are folded into one, so that about `PLACES` are left.

    >>> usual_patch(24), usual_patch(96), usual_patch(4096)
    (1, 1, 32)
    """
    return 2 ** max(0, math.floor(math.log2(max(1, length / PLACES))))


def new_prior(
    event_shape: tuple[int, ...],
    schedule: Schedule,
    output: str = "v",
    *,
    widths: Sequence[int] = (48, 64, 96),
    blocks: int = 1,
    patch: int | None = None,
) -> SeriesPrior:
    """An untrained prior of series (C, L), of half a million parameters. patch: see `usual_patch`.

    Raises:
        InputError: widths, blocks or patch below 1, or a shape of no series.
    """
    if len(event_shape) != 2:
        raise InputError(f"series have the shape (C, L), got {event_shape}")
    patch = usual_patch(event_shape[1]) if patch is None else patch
    if min(widths) < 1 or blocks < 1 or patch < 1:
        raise InputError(f"widths, blocks and patch must be at least 1, got {tuple(widths)}, {blocks}, {patch}")
    net = UNet(event_shape[0], event_shape[0], tuple(widths), blocks=blocks, patch=patch, dims=1)
    return SeriesPrior(net, schedule, event_shape, output)


def network(event_shape: tuple[int, ...], inputs: int, outputs: int, width: int) -> UNet:
    """N1 of an h."""
    patch = usual_patch(event_shape[1])
    return UNet(inputs, outputs, (width, 3 * width // 2, 2 * width), patch=patch, time_dim=64, dims=1)


__all__ = ["SeriesPrior", "network", "new_prior", "usual_patch"]
