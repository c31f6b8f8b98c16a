"""Priors of C-alpha traces: what they share, our own, and the file it is kept in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.schedule import Schedule
from deft.domains.protein.chains import BOUNDS, UNIT
from deft.domains.protein.geometry import centred, residues
from deft.domains.protein.network import ChainNet, chain_net
from deft.errors import CheckpointError
from deft.io.prior_files import OwnPrior, load_own, network_of
from deft.schedule import EDM, make_schedule

if TYPE_CHECKING:
    from typing_extensions import Self


class ChainPrior(Denoiser):
    """A prior of traces [B, L, 3] of any length L up to that of the longest chain trained on, in units of 8 angstrom.

    Samples live in the subspace of centred traces whose rows behind the end are zero (`project`). `event_shape` says
    how long a sample is where nothing else does.
    """

    @property
    def length(self) -> int:
        """Residues of a sample."""
        return self.event_shape[0]

    def project(self, noise: Tensor, like: Tensor) -> Tensor:
        """noise with the rows that are zero in `like` set to zero, and centred over the others."""
        return centred(noise, residues(like))

    def of_length(self, length: int) -> Self:
        """The same prior (its network is shared) for samples of another length."""
        out = copy.copy(self)
        out.event_shape = (length, 3)
        return out


class BackbonePrior(ChainPrior, OwnPrior):
    """Our own (`ChainNet`)."""

    units: ClassVar[dict[str, Any]] = {"unit": f"{UNIT:g} angstrom"}

    def __init__(self, net: ChainNet, schedule: Schedule, length: int = max(BOUNDS)):
        super().__init__(net, schedule, (length, 3), "edm")

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> Self:
        net, shape = ChainNet(**network_of(card)), card["event_shape"]
        if len(shape) != 2 or shape[1] != 3 or card["output"] != "edm":
            raise CheckpointError(f"chains are samples [L, 3] of the output edm, got {shape} of {card['output']!r:.40}")
        return cls(net, make_schedule(card["schedule"]), shape[0])


def backbone_prior(size: str = "small") -> BackbonePrior:
    """An untrained prior of a named size (`deft.domains.protein.network.SIZES`).

    Noise from 0.003 units, half of what bonds vary by, to 20; trained mostly between 0.02 and 6, where folds and then
    bonds take shape.
    """
    return BackbonePrior(chain_net(size), EDM(0.003, 20.0, mean=-1.0, deviation=1.5))


def load_backbone(path: str | Path, device: torch.device | str = "cpu") -> BackbonePrior:
    """A prior written by `BackbonePrior.save`, frozen, in float32.

    Raises:
        CheckpointError: the file is truncated, of another library, or no backbone prior.
    """
    prior = load_own(path, device)
    if not isinstance(prior, BackbonePrior):
        raise CheckpointError(f"{path} holds no backbone prior")
    return prior
