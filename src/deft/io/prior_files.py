"""Priors as files: one safetensors file with weights and card, loaded as a frozen denoiser."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from deft.core.denoiser import freeze
from deft.core.schedule import Schedule
from deft.denoiser import NetworkDenoiser
from deft.errors import CheckpointError, unknown
from deft.io.files import load_weights, save_weights
from deft.io.torch_files import BY_FUNCTION
from deft.nn import UNet
from deft.schedule import make_schedule

if TYPE_CHECKING:
    from deft.domains.protein.network import ChainNet

BUNDLED: dict[str, str] = {"fashion": "domains/image/weights/fashion.safetensors", "ct": "domains/image/weights/ct.safetensors", "backbone": "domains/protein/weights/backbone.safetensors"}
"""Name -> file in the package."""


class OwnPrior(NetworkDenoiser):
    """One of our own networks as a prior, and the file it is kept in: its weights, and a card that says how to build it and what it was trained on.

    units: what a card says of a sample's numbers.
    """

    units: ClassVar[dict[str, Any]] = {}

    def __init__(self, net: UNet | ChainNet, schedule: Schedule, event_shape: tuple[int, ...], output: str):
        super().__init__(net, schedule, event_shape, output, time="log-sigma", scale_input=True)

    def describe(self) -> dict[str, Any]:
        """Time and scaling are the same for every file of this format, and no part of the fingerprint."""
        return {"schedule": self.schedule.name, "settings": self.schedule.config(), "output": self.output}

    def save(self, path: str | Path, dtype: torch.dtype | None = None, **card: Any) -> None:
        """Write weights (rounded to `dtype`, if given) and card; keywords are added to the card (name, data, licence, recipe, ...)."""
        config: Any = self.net.config
        about = {
            "kind": "prior",
            "format": 1,
            "network": {"class": type(self.net).__name__, **config},
            "schedule": {"name": self.schedule.name, **self.schedule.config()},
            "output": self.output,
            "event_shape": list(self.event_shape),
            **self.units,
        }
        self.card = about | card
        save_weights(path, {k: v if dtype is None else v.to(dtype) for k, v in self.net.state_dict().items()}, self.card)


class ImagePrior(OwnPrior):
    """Our UNet as a prior for images in [-1, 1]."""

    units: ClassVar[dict[str, Any]] = {"range": [-1, 1]}

    def __init__(self, net: UNet, schedule: Schedule, event_shape: tuple[int, ...], output: str = "v"):
        super().__init__(net, schedule, event_shape, output)


def load_own(name: str | Path, device: torch.device | str = "cpu") -> NetworkDenoiser:
    """A bundled prior by name (a key of `BUNDLED`) or one written by `deft prior train`, frozen.

    Raises:
        CheckpointError: the file is truncated, of another library, or no prior.
        InputError: no such name.
    """
    path = Path(name)
    if str(name) in BUNDLED:
        path = Path(str(resources.files("deft"))) / BUNDLED[str(name)]
    elif path.is_dir():
        path = path / "prior.safetensors"
    elif not path.exists() and path.suffix == "":
        raise unknown("prior", str(name), BUNDLED)
    try:
        tensors, card = load_weights(path)
    except CheckpointError as error:
        if "of another library" not in str(error):
            raise
        raise CheckpointError(f"{error}, and it is no guided-diffusion UNet: of a model of diffusers give the folder, with its config.json; else {BY_FUNCTION}") from error
    if card.get("kind") != "prior":
        raise CheckpointError(f"{path} holds {card.get('kind', 'something')!r}, not a prior")
    network = {k: v for k, v in card["network"].items() if k != "class"}
    if card["network"].get("class") == "ChainNet":
        from deft.domains.protein.prior import load_backbone

        return load_backbone(path, device)
    prior = ImagePrior(UNet(**network), make_schedule(card["schedule"]), tuple(card["event_shape"]), card["output"])
    try:
        prior.net.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the network its card describes: {error}") from error
    prior.card = card
    freeze(prior)
    return prior.to(device)
