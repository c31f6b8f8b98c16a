"""Conventions that published networks follow, by name: what they output, on which schedule, in which time and range."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deft.core.denoiser import freeze
from deft.denoiser import NetworkDenoiser
from deft.errors import InputError, unknown
from deft.schedule import EDM, VE, RectifiedFlow, VPCosine, VPLinear, VPTable


def _scaled_linear(n: int = 1000, first: float = 0.00085, last: float = 0.012) -> VPTable:
    return VPTable((torch.linspace(first**0.5, last**0.5, n, dtype=torch.float64) ** 2).tolist())


def _cosine(n: int = 1000) -> VPTable:
    u = torch.arange(n + 1, dtype=torch.float64) / n
    abar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return VPTable((1 - abar[1:] / abar[:-1]).clamp(max=0.999).tolist())


class Convention(NamedTuple):
    """about: whose it is. make: the keyword arguments of `NetworkDenoiser`."""

    about: str
    make: Callable[[], dict[str, Any]]


CONVENTIONS: dict[str, Convention] = {
    "ddpm": Convention(
        "eps, 1,000 linear betas, given the index; images in [-1, 1] (Ho et al. 2020; Dhariwal & Nichol 2021)",
        lambda: {"schedule": VPTable.linear(), "output": "eps", "time": "t"},
    ),
    "ddpm-scaled-linear": Convention(
        "the same with betas linear in their root, 0.00085 to 0.012 (Rombach et al. 2022)",
        lambda: {"schedule": _scaled_linear(), "output": "eps", "time": "t"},
    ),
    "ldm-scaled-linear": Convention(
        "the same from 0.0015 to 0.0195: latent diffusion's unconditional and class-conditional models (Rombach et al."
        " 2022, their code)",
        lambda: {"schedule": _scaled_linear(first=0.0015, last=0.0195), "output": "eps", "time": "t"},
    ),
    "ddpm-cosine": Convention(
        "the same with cosine betas (Nichol & Dhariwal 2021)",
        lambda: {"schedule": _cosine(), "output": "eps", "time": "t"},
    ),
    "vp": Convention(
        "eps, continuous VP, given t from 0 to 1; images in [-1, 1]",
        lambda: {"schedule": VPLinear(), "output": "eps", "time": "t"},
    ),
    "cosine": Convention(
        "v, alpha = cos, given t from 0 to 1; images in [-1, 1] (Salimans & Ho 2022)",
        lambda: {"schedule": VPCosine(), "output": "v", "time": "t"},
    ),
    "cosine-log-snr": Convention(
        "v, alpha = cos, given log(alpha^2/sigma^2); images in [-1, 1] (Kingma et al. 2021; Hoogeboom et al. 2023)",
        lambda: {"schedule": VPCosine(), "output": "v", "time": "log-snr"},
    ),
    "deft": Convention(
        "v, given log(sigma/alpha), input of unit variance; images in [-1, 1] (priors of `deft prior train`)",
        lambda: {"schedule": VPCosine(), "output": "v", "time": "log-sigma", "scale_input": True},
    ),
    "score-sde-vp": Convention(
        "eps, continuous VP, given 999 t; images in [-1, 1] (Song et al. 2021b, DDPM++)",
        lambda: {"schedule": VPLinear(), "output": "eps", "time": "999t"},
    ),
    "score-sde-ve": Convention(
        "score, VE with sigma from 0.01 to 50, given sigma; images in [0, 1] (Song et al. 2021b, NCSN++)",
        lambda: {"schedule": VE(0.01, 50.0), "output": "score", "time": "sigma", "value_range": (0.0, 1.0)},
    ),
    "edm": Convention(
        "the inner network F, given log(sigma)/4, preconditioned for sigma_data 0.5; images in [-1, 1] (Karras et al."
        " 2022)",
        lambda: {"schedule": EDM(), "output": "edm", "time": "log-sigma/4", "scale_input": True, "sigma_data": 0.5},
    ),
    "edm-denoiser": Convention(
        "D(x; sigma), the preconditioned network as a whole: returns x_0, given sigma; images in [-1, 1] (Karras et al."
        " 2022)",
        lambda: {"schedule": EDM(), "output": "x0", "time": "sigma"},
    ),
    "rectified-flow": Convention(
        "n - x_0, given t from data (0) to noise (1); images in [-1, 1] (Liu et al. 2023)",
        lambda: {"schedule": RectifiedFlow(), "output": "flow", "time": "t"},
    ),
    "flow-matching": Convention(
        "x_0 - n, given t from noise (0) to data (1); images in [-1, 1] (Lipman et al. 2023, optimal transport path)",
        lambda: {"schedule": RectifiedFlow(), "output": "reverse-flow", "time": "1-t"},
    ),
    "flow-1000": Convention(
        "n - x_0, told 1000 t from data (0) to noise (1000); images in [-1, 1] (diffusers' flow schedulers)",
        lambda: {"schedule": RectifiedFlow(), "output": "flow", "time": "1000t"},
    ),
}
"""Name -> convention; `wrap` takes any of them, and changes to it."""


def wrap(
    net: nn.Module | Callable[[Tensor, Tensor], Tensor],
    event_shape: tuple[int, ...],
    convention: str = "ddpm",
    *,
    label: int | None = None,
    **changes: Any,
) -> NetworkDenoiser:
    """A network or function `net(x_t, time)` of yours as a frozen prior.

    Args:
        net: returns [B, *E] for x_t [B, *E] and time [B]. A module may be a graph (`torch.jit`,
            `ExportedProgram.module()`), or one of EDM's networks, whose inner one is called as net(x, time,
            class_labels).
        event_shape: *E.
        convention: a key of `CONVENTIONS`.
        label: the class, for a network of EDM with classes (one-hot there); by default none, as EDM's own samplers do.
        changes: whatever differs from it, as keywords of `NetworkDenoiser`: output, schedule, time, value_range, ...

    Raises:
        InputError: EDM's preconditioned network (it has `round_sigma`) under a convention for another; a label for a
            network without classes.

    `deft.prior.check.confirm` tells from a few images whether the convention is the network's own.

    >>> import torch
    >>> prior = wrap(lambda x, t: torch.zeros_like(x), (3, 8, 8), "edm-denoiser", value_range=(0, 1))
    >>> prior(torch.zeros(2, 3, 8, 8), torch.tensor(1.0)).mean.unique()     # black, on [-1, 1]
    tensor([-1.])
    """
    if convention not in CONVENTIONS:
        raise unknown("convention", convention, CONVENTIONS)
    whole = callable(getattr(net, "round_sigma", None))
    if whole and convention != "edm-denoiser" and not {"output", "time"} <= changes.keys():
        inner = (
            "; its inner network, net.model, is read as 'edm'"
            if isinstance(getattr(net, "model", None), nn.Module)
            else ""
        )
        raise InputError(
            "this network is EDM's with its preconditioning (it has round_sigma), which returns x_0 and is given"
            f" sigma: give the convention 'edm-denoiser', not {convention!r}{inner}"
        )
    prior = NetworkDenoiser(
        _with_class(net, label), event_shape=event_shape, **(CONVENTIONS[convention].make() | changes)
    )
    freeze(prior)
    prior.card = {"family": "callable", "convention": convention} | ({} if label is None else {"label": label})
    return prior


class WithClass(nn.Module):
    """A network called as net(x, time, class_labels), with the class held fixed: one-hot [B, classes], zeros for none,
    or None without classes."""

    code: Tensor | None

    def __init__(self, net: nn.Module, classes: int, label: int | None):
        super().__init__()
        self.net = net
        code = torch.zeros(1, classes) if classes else None
        if code is not None and label is not None:
            code[0, label] = 1
        self.register_buffer("code", code)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        out: Tensor = self.net(x, time, None if self.code is None else self.code.expand(len(x), -1))
        return out


def _with_class(net: Any, label: int | None) -> Any:
    """The network itself; or, if its forward takes class_labels and wants them, that with the class held fixed."""
    classes = _classes_of(net)
    parameters = {}
    if isinstance(net, nn.Module):
        try:
            parameters = dict(inspect.signature(net.forward).parameters)
        except (TypeError, ValueError):  # a graph
            parameters = {}
    takes = parameters.get("class_labels")
    if label is not None and (takes is None or not classes):
        raise InputError(
            f"label={label} is for a network of EDM with classes (label_dim above 0), and {type(net).__name__} has"
            " none: leave it out, or fix the class in a function"
        )
    if label is not None and not (isinstance(label, int) and not isinstance(label, bool) and 0 <= label < classes):
        raise InputError(f"label is {label!r}: this network has {classes} classes, give 0 to {classes - 1}")
    third = list(parameters)[2] if len(parameters) > 2 else None
    if takes is None or third != "class_labels":
        return net
    return WithClass(net, classes, label) if takes.default is inspect.Parameter.empty or label is not None else net


def _classes_of(net: Any) -> int:
    """Classes of EDM's networks: label_dim of the whole, the width of the embedding of labels of the inner one."""
    found = getattr(net, "label_dim", None)
    if isinstance(found, int):
        return found
    inner = getattr(net, "map_label", None)
    width = getattr(inner, "in_features", None)
    return width if isinstance(width, int) else 0
