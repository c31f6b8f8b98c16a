"""A frozen prior that does not fit on one device, spread over all of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from deft.core.denoiser import Denoiser, Prediction
from deft.errors import InputError
from deft.runtime.distributed import World, get_world


class Sharded(Denoiser):
    """A frozen prior of which every process holds a part; made by `shard`.

    It must be called by all processes, equally often. Its fingerprint and size are those of the whole prior.
    """

    def __init__(self, prior: Denoiser):
        super().__init__()
        self.schedule, self.event_shape, self.card = prior.schedule, prior.event_shape, prior.card
        self.loaded_as, self.loaded_with = prior.loaded_as, prior.loaded_with
        self._fingerprint, self._about, self._size = prior.fingerprint(), prior.describe(), prior.parameter_count()
        self.prior = prior

    def describe(self) -> dict[str, Any]:
        return self._about

    def fingerprint(self) -> str:
        return self._fingerprint

    def parameter_count(self) -> int:
        return self._size

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        return self.prior(x_t, t)


def shard(prior: Denoiser, world: World | None = None, pieces: int = 16) -> Sharded:
    """Spread a frozen prior's weights over the W processes (fully sharded data parallelism, torch's `fully_shard`).

    Each process keeps 1/W of every weight, and fetches one unit of layers after the other from the rest for the time of
    its forward pass: about P/W + 2 P/pieces bytes of memory instead of P, against P bytes received at each call. Worth
    it where P does not fit; docs/distributed.md has the arithmetic. Load the prior on the CPU: this moves it unit by
    unit.

    Args:
        prior: frozen (`freeze`); changed in place, use what is returned.
        world: default `get_world()`. pieces: at least so many units, if the layers allow it.

    Raises:
        InputError: one process, or a prior with parameters that still learn.
    """
    world = world or get_world()
    if world.size == 1:
        raise InputError(
            "a prior is sharded over several processes, this is one: launch more, or leave --shard-prior out"
        )
    if prior.data_shape != prior.event_shape:
        raise InputError(
            "latent priors are not sharded: their autoencoder is called outside the forward pass; leave"
            " --shard-prior out"
        )
    if any(p.requires_grad for p in prior.parameters()):
        raise InputError("only a frozen prior can be sharded: call freeze(prior) first")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    out = Sharded(prior)
    mesh = init_device_mesh("cpu" if world.device is None else world.device.type, (world.size,))
    for p in prior.parameters():
        p.data = p.data.contiguous()  # channels_last weights cannot be sharded
    for unit in dict.fromkeys(_units(prior, max(1, prior.parameter_count() // pieces))):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    return out


def _units(module: nn.Module, most: int) -> list[nn.Module]:
    """Modules to fetch as one, inner ones first: the largest with at most `most` parameters, then what is around
    them."""
    out: list[nn.Module] = []
    for child in module.children():
        whole = sum(p.numel() for p in child.parameters()) <= most or next(child.children(), None) is None
        if not whole or not _called(child):
            out += _units(child, most)
        elif next(child.parameters(), None) is not None:
            out.append(child)
    return [*out, module] if _called(module) and next(module.parameters(), None) is not None else out


def _called(module: nn.Module) -> bool:
    """Whether it has a forward pass, around which weights can be fetched: a list of layers has none."""
    return type(module).forward is not nn.Module.forward
