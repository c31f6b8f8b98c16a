"""Our UNet of one side as a prior of sounds, the file it is kept in, and the windows that it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from deft.core.random import BatchNoise
from deft.core.schedule import Schedule
from deft.errors import InputError
from deft.io.prior_files import OwnPrior, network_of
from deft.nn import UNet
from deft.schedule import make_schedule
from deft.train.data import Order
from deft.train.protocols import Batch, Batches, Source

if TYPE_CHECKING:
    from typing_extensions import Self


class SoundPrior(OwnPrior):
    """Our UNet as a prior of sounds [1, L] of power 1. Its card says how many samples a second are (`rate`)."""

    units: ClassVar[dict[str, Any]] = {"domain": "sound"}

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
            raise InputError(f"a UNet of {net.config['inputs']} channels makes no sounds of shape {shape}")
        return cls(net, make_schedule(card["schedule"]), shape, card["output"])


def usual_patch(length: int) -> int:
    """Samples that are folded into one place of the network: 2 ms at 8 kHz, fewer of short windows.

    >>> usual_patch(4096), usual_patch(128), usual_patch(8)
    (16, 8, 1)
    """
    return max(1, min(16, length // 16))


def new_prior(
    event_shape: tuple[int, ...],
    schedule: Schedule,
    output: str = "v",
    *,
    widths: Sequence[int] = (40, 56, 80),
    blocks: int = 1,
    patch: int | None = None,
) -> SoundPrior:
    """An untrained prior of sounds (1, L). patch: see `usual_patch`.

    Raises:
        InputError: widths, blocks or patch below 1, or a shape of no sounds.
    """
    if len(event_shape) != 2 or event_shape[0] != 1:
        raise InputError(f"sounds have the shape (1, L), got {event_shape}")
    patch = usual_patch(event_shape[1]) if patch is None else patch
    if min(widths) < 1 or blocks < 1 or patch < 1:
        raise InputError(f"widths, blocks and patch must be at least 1, got {tuple(widths)}, {blocks}, {patch}")
    net = UNet(1, 1, tuple(widths), blocks=blocks, patch=patch, time_dim=64, dims=1)
    return SoundPrior(net, schedule, event_shape, output)


def network(event_shape: tuple[int, ...], inputs: int, outputs: int, width: int) -> UNet:
    """N1 of an h."""
    patch = usual_patch(event_shape[1])
    return UNet(inputs, outputs, (width, 3 * width // 2, 2 * width), patch=patch, time_dim=64, dims=1)


class Placed(Batches):
    """Windows [B, 1, L] of recordings of any length: each somewhere in the window (of a longer one a part), up to 6 dB
    louder or softer, and upside down half the time. Held-out evaluations (step < 0) see the middle, as it is.

    Args:
        sounds: recordings [n] of power 1. length: L. share: how often each is drawn; None: all alike.

    >>> batch = Placed([torch.ones(10), torch.ones(70)], 64).draw(2, 0, 0, torch.device("cpu"))
    >>> batch.x.shape
    torch.Size([2, 1, 64])
    """

    def __init__(self, sounds: Sequence[Tensor], length: int, share: Tensor | None = None):
        self.sounds, self.length, self.share, self._order = list(sounds), length, share, Order(len(sounds))

    def identity(self) -> dict[str, Any]:
        return {"samples": f"{len(self.sounds)} recordings of {sum(map(len, self.sounds))}, placed at random"}

    def draw(
        self,
        size: int,
        seed: int,
        step: int,
        device: torch.device,
        *,
        rows: range | None = None,
        source: Source = BatchNoise,
    ) -> Batch:
        u = source(size, seed, step, 7, rows=rows).uniform((4,))
        chosen = self._order.rows(size, seed, step, rows)
        if self.share is not None and step >= 0:
            chosen = torch.searchsorted(self.share.cumsum(0) / self.share.sum(), u[:, 3].contiguous())
            chosen = chosen.clamp_max(len(self.sounds) - 1)
        out = torch.zeros(len(chosen), 1, self.length)
        for row, i, (at, loud, sign, _) in zip(out[:, 0], chosen.tolist(), u.tolist(), strict=True):
            x = self.sounds[i]
            start = (self.length - len(x)) // 2 if step < 0 else round(at * (self.length - len(x)))
            part = x[max(0, -start) :][: self.length - max(0, start)]
            gain = 1.0 if step < 0 else 10 ** (0.6 * loud - 0.3) * (1 if sign < 0.5 else -1)
            row[max(0, start) :][: len(part)] = gain * part
        return Batch(out.to(device))
