"""Priors of C-alpha traces: what they share, our own, and the file it is kept in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, freeze
from deft.core.schedule import Schedule
from deft.domains.protein.chains import BOUNDS, UNIT
from deft.domains.protein.geometry import centred, residues
from deft.domains.protein.network import ChainNet, chain_net
from deft.errors import CheckpointError
from deft.io.files import load_weights
from deft.io.prior_files import OwnPrior
from deft.schedule import EDM, make_schedule

if TYPE_CHECKING:
    from typing_extensions import Self


class ChainPrior(Denoiser):
    """A prior of traces [B, L, 3] of any length L up to that of the longest chain trained on, in units of 8 angstrom.

    Samples live in the subspace of centred traces whose rows behind the end are zero (`project`). `event_shape` says
    how long a sample is where nothing else does.
    """

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


def backbone_prior(size: str = "small") -> BackbonePrior:
    """An untrained prior of a named size (`deft.domains.protein.network.SIZES`).

    Noise from 0.003 units, half of what bonds vary by, to 20; trained mostly between 0.02 and 6, where folds and then bonds take
    shape.
    """
    return BackbonePrior(chain_net(size), EDM(0.003, 20.0, mean=-1.0, deviation=1.5))


def load_backbone(path: str | Path, device: torch.device | str = "cpu") -> BackbonePrior:
    """A prior written by `BackbonePrior.save`, frozen, in float32.

    Raises:
        CheckpointError: the file is truncated, of another library, or no backbone prior.
    """
    tensors, card = load_weights(path)
    network = dict(card.get("network", {}))
    if card.get("kind") != "prior" or network.pop("class", None) != "ChainNet":
        raise CheckpointError(f"{path} holds no backbone prior")
    prior = BackbonePrior(ChainNet(**network), make_schedule(card["schedule"]), int(card["event_shape"][0]))
    try:
        prior.net.load_state_dict({k: v.float() for k, v in tensors.items()})
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the network its card describes: {error}") from error
    prior.card = card
    freeze(prior)
    return prior.to(device)
