"""Networks in fewer bits while samples are drawn: the networks alone, and only while they run."""

from __future__ import annotations

from threading import get_ident
from typing import Any, TypeVar

import torch
from torch import nn

from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.errors import InputError, unknown

M = TypeVar("M", bound=nn.Module)

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
KEY = "_deft_precision"
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


def at_precision(module: M, precision: str) -> M:
    """The prior or h whose networks run in fewer bits from now on; the module itself, its weights as they were.

    Each network runs under `torch.autocast`: matrix products and convolutions in 16 bits, sums and norms in float32.
    What is around it stays as it was, in float32: x_t, the schedule, the step, the likelihood and its operator. The
    fingerprint is that of the weights, so an h belongs to the prior in any precision.

    Args:
        module: a `Denoiser` or an `HTransform`, of whatever parts. An autoencoder of latents is left as it is.
        precision: "fp32" as stored; "bf16" or "fp16"; "tf32": float32 with 19 bits in the matrix products of a GPU, for
            the whole process (no effect on a CPU).

    Raises:
        InputError: another name, or a prior or an h in float64.

    >>> import deft
    >>> prior = at_precision(deft.load_prior("fashion"), "bf16")
    >>> x = deft.sample(prior, 1, steps=2)
    >>> x.dtype, next(prior.parameters()).dtype
    (torch.float32, torch.float32)
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    for net in networks(module):
        before = net.__dict__.pop(KEY, None)
        if before is not None:
            before.remove()
        if precision in LOW:
            net.__dict__[KEY] = _Autocast(net, precision)
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    return module


def networks(module: nn.Module) -> list[nn.Module]:
    """The outermost networks of a prior or an h: its parts with parameters that are no prior, no h and no list."""
    found: list[nn.Module] = []
    for part in module.children():
        if isinstance(part, (Denoiser, HTransform, nn.ModuleList, nn.ModuleDict)):
            found += networks(part)
        elif any(p.is_floating_point() for p in part.parameters()):
            found.append(part)
    return found


def precision_of(module: nn.Module) -> str:
    """The name of what `at_precision` set, "fp32" if nothing."""
    return next((net.__dict__[KEY].name for net in networks(module) if KEY in net.__dict__), "fp32")


class _Autocast:
    """Hooks of a network, not a wrapper around it: names of weights, and what an h says of its parts, stay as they
    were."""

    def __init__(self, net: nn.Module, name: str):
        if any(p.dtype == torch.float64 for p in net.parameters()):
            raise InputError(f"a network in float64 is not taken to {name}: convert it to float32 first")
        self.name = name
        self.entered: dict[int, list[torch.autocast]] = {}  # by thread: what is inside is a thread's own
        self.handles = (
            net.register_forward_pre_hook(self.enter),
            net.register_forward_hook(self.leave, always_call=True),
        )

    def enter(self, net: nn.Module, args: Any) -> None:
        context = torch.autocast(next(net.parameters()).device.type, LOW[self.name])
        context.__enter__()
        self.entered.setdefault(get_ident(), []).append(context)

    def leave(self, net: nn.Module, args: Any, out: Any) -> Any:
        mine = self.entered[get_ident()]
        mine.pop().__exit__(None, None, None)
        if not mine:
            del self.entered[get_ident()]
        return out.float() if isinstance(out, torch.Tensor) and out.dtype == LOW[self.name] else out

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
