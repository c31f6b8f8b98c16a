"""Priors as files: one safetensors file with weights and card, loaded as a frozen denoiser."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from deft.core.denoiser import freeze
from deft.core.schedule import Schedule
from deft.denoiser import NetworkDenoiser
from deft.errors import CheckpointError, InputError, unknown
from deft.io.cards import check_card, is_number
from deft.io.files import NEEDS, load_weights, save_weights
from deft.io.reading import reason_of
from deft.io.sizes import say_size
from deft.io.states import choose, find_states
from deft.io.text import shape_text
from deft.io.torch_files import BY_FUNCTION
from deft.kinds.domain import Table, domain_of_shape, find_domain
from deft.runtime.untrusted import building, held
from deft.tensors import float32_default

if TYPE_CHECKING:
    from typing_extensions import Self

BUNDLED: Mapping[str, Path] = Table(lambda domain: domain.bundled_priors())
"""Name -> file of the priors that come with the kinds of data."""

KINDS: Table[type[OwnPrior]] = Table(lambda domain: domain.own_priors())
"""Class of a network, as cards name it -> class of prior."""


class OwnPrior(NetworkDenoiser):
    """A network of a kind of data as a prior, and the file it is kept in: its weights, and a card that says how to
    build it and what it was trained on.

    The network has a `config`, the arguments that make it. Register a subclass by the name of its network's class in
    `Domain.own_priors`: then `load_prior(FILE)` loads what `save` wrote.

    units: what a card says of a sample's numbers.
    """

    units: ClassVar[dict[str, Any]] = {}

    def __init__(self, net: nn.Module, schedule: Schedule, event_shape: tuple[int, ...], output: str):
        super().__init__(net, schedule, event_shape, output, time="log-sigma", scale_input=True)

    @classmethod
    @abstractmethod
    def from_card(cls, card: dict[str, Any]) -> Self:
        """The prior that a card describes, its weights still to be loaded."""

    def at_size(self, event_shape: tuple[int, ...]) -> Self:
        """The same network for samples of another size, where it takes any.

        Raises:
            InputError: it does not.
        """
        raise InputError(
            f"this prior makes samples of {shape_text(self.event_shape)} alone, got event_shape ="
            f" {','.join(map(str, event_shape))}: leave it out"
        )

    def describe(self) -> dict[str, Any]:
        """Time and scaling are the same for every file of this format, and no part of the fingerprint."""
        return {"schedule": self.schedule.name, "settings": self.schedule.config(), "output": self.output}

    def save(self, path: str | Path, dtype: torch.dtype | None = None, **card: Any) -> None:
        """Write weights (rounded to `dtype`, if given) and card; keywords are added to the card (name, data, licence,
        recipe, ...)."""
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
        save_weights(
            path, {k: v if dtype is None else v.to(dtype) for k, v in self.net.state_dict().items()}, self.card
        )


def network_of(card: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the network that a card describes."""
    return {k: v for k, v in card["network"].items() if k != "class"}


@float32_default()
def load_own(
    name: str | Path, device: torch.device | str = "cpu", event_shape: tuple[int, ...] | None = None
) -> OwnPrior:
    """A bundled prior by name (a key of `BUNDLED`) or one written by `deft prior train` (`OwnPrior.save`), frozen, in
    float32.

    event_shape: of samples of another size than it was trained on (`OwnPrior.at_size`); a line warns of that.

    Raises:
        CheckpointError: the file is truncated, of another library, or no prior.
        InputError: no such name; an event_shape that its network does not make.
    """
    path = Path(name)
    if str(name) in BUNDLED:
        path = BUNDLED[str(name)]
    elif path.is_dir():
        path = path / "prior.safetensors"
    elif not path.exists() and path.suffix == "":
        raise unknown("prior", str(name), BUNDLED)
    try:
        tensors, card = load_weights(path)
    except CheckpointError as error:
        if "of another library" not in str(error):
            raise
        raise CheckpointError(
            f"{error}, and it is no guided-diffusion UNet: of a model of diffusers give the folder, with its"
            f" config.json; else {BY_FUNCTION}"
        ) from error
    if card.get("kind") != "prior":
        raise CheckpointError(f"{path} holds {card.get('kind', 'something')!r}, not a prior")
    prior = _build(path, card, tensors)
    prior.card = card
    freeze(prior)
    # what comes with the library was compared when it was made, and may be loaded often
    if path != BUNDLED.get(str(name)) and "sha256" in card and card["sha256"] != prior.fingerprint():
        raise CheckpointError(
            f"{path} is damaged: its card gives another SHA-256 than its weights and their convention have; take it"
            " from its source again"
        )
    if event_shape is not None and tuple(event_shape) != prior.event_shape:
        trained, prior = prior.event_shape, prior.at_size(tuple(event_shape))
        say_size(f"the prior {name}", trained, prior.event_shape)
    return prior if torch.device(device).type == "cpu" else prior.to(device)


def _build(path: Path, card: dict[str, Any], tensors: dict[str, Tensor]) -> OwnPrior:
    """The prior that a card describes, with its weights. What the card asks for is compared with what the file holds
    before memory is taken."""
    check_card(path, card, NEEDS["prior"])
    kind = _kind_of(path, card)
    other = [k for k, v in kind.units.items() if card.get(k, v) != v]
    if other:
        raise CheckpointError(
            f"{path} has samples of another unit: {other[0]} is {card[other[0]]!r:.60}, expected"
            f" {kind.units[other[0]]!r}"
        )
    _check_values(path, card["schedule"], "schedule")
    _check_values(path, card["network"], "network")
    try:
        with building(*held(tensors)):
            prior = kind.from_card(card)
        check_schedule(prior.schedule)
        prior.net.load_state_dict(_by_own_names(path, prior.net, tensors))
    except Exception as error:  # a network's own code, given whatever a card says
        raise CheckpointError(f"{path} does not fit the network its card describes: {reason_of(error)}") from error
    odd = [k for k, v in tensors.items() if not bool(torch.isfinite(v.sum(dtype=torch.float64)))]
    if odd:
        raise CheckpointError(
            f"{path} holds NaN or infinite weights, first in {odd[0]}: take the file from its source again"
        )
    return prior


def _by_own_names(path: Path, net: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the network's names, where they were saved from inside of DataParallel or torch.compile."""
    own = list(net.state_dict())
    if set(own) <= tensors.keys():
        return tensors
    found = find_states(tensors, own)
    return choose(path, found)[0].state if found else tensors


def _check_values(path: Path, value: Any, where: str) -> None:
    """Settings are texts, finite numbers, switches, and lists and tables of these; of a schedule no switches."""
    if isinstance(value, dict):
        for k, v in value.items():
            _check_values(path, v, f"{where}.{k}")
    elif isinstance(value, list):
        for v in value:
            _check_values(path, v, where)
    elif not (
        isinstance(value, str) or is_number(value) or (not where.startswith("schedule") and isinstance(value, bool))
    ):
        raise CheckpointError(f"the card in {path} is damaged: {where} is {value!r:.60}")


def check_schedule(schedule: Schedule) -> None:
    """Refuse a schedule whose ends are no numbers, or which does not lead from data to noise."""
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    low, high = (float(v) for v in schedule.log_snr(ends).flip(0))
    if not (math.isfinite(low) and low < high):  # without noise at its end, the ratio is infinite
        raise ValueError(f"its schedule runs from log SNR {high:.3g} to {low:.3g}")


def _kind_of(path: Path, card: dict[str, Any]) -> type[OwnPrior]:
    """The class of prior that a card names, of the kind of data that it names or whose samples have its shape."""
    domain = find_domain(card["domain"]) if card.get("domain") else domain_of_shape(card["event_shape"])
    known = KINDS.of(domain)
    name = card["network"].get("class") or next(iter(known))  # the first files did not say
    if not isinstance(name, str) or name not in known:
        raise CheckpointError(
            f"{path} is a prior with a network of the class {name!r}, and those known here are {', '.join(known)}:"
            " install the package that brings its kind of data, or use the version that wrote it"
        )
    return known[name]
