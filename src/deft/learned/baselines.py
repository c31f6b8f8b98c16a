"""Other ways to learn p(x_0 | y), on DEFT's terms: the same objective, data and views of y.

Each estimates mean_y = E[x_0 | x_t, y] with a network and is the h that moves the prior's mean there,

    h = (alpha / sigma^2) (mean_y - x̂),

so that `DenoisingObjective` and every sampler treat it as they treat DEFT.

    Amortised     a network of its own, which never looks at the prior
    LoRA          the prior's network with low-rank changes of its weights (Hu et al. 2022)
    SideNetwork   the prior's network and a trainable copy of its encoder beside it (ControlNet; Zhang, Rao & Agrawala
                  2023)
    FullTuning    a copy of the prior's network, all of it trained: what the others save

The last three show y to the network by a convolution behind its inlet that starts at zero, as do LoRA's changes and the
side network's outlets: untrained, h is exactly 0. They hold no prior (it is borrowed, and is neither in their
parameters nor in their state), but they run its network, so a step costs two runs of it, one for x̂ and one for mean_y
(and the side network's encoder); DEFT and a small `Amortised` cost one and their own small network. In training, LoRA
and SideNetwork differentiate through the prior's network with respect to what they add, never with respect to x_t;
their backward pass is the network's own.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser, Prediction
from deft.core.likelihood import Observation
from deft.denoiser import NetworkDenoiser
from deft.denoiser.parametrisation import parametrisation
from deft.errors import InputError
from deft.learned.base import H, Learned, report_size, towards, widest
from deft.learned.covariance import LearnedCovariance
from deft.learned.deft import DEFT, LOWEST, build_network, domain_name
from deft.nn import UNet
from deft.nn.embed import zero
from deft.nn.lora import LowRank
from deft.nn.unet import WayDown
from deft.runtime.messages import old_messages


class Amortised(Learned):
    """A conditional denoiser from scratch: mean_y = c_skip x_t + c_out F(c_in x_t, features(y), log(sigma/alpha)).

    The coefficients are those of Karras et al. 2022 (eq. 7) for data of unit deviation, and F starts at 0: untrained,
    mean_y is the mean under a standard normal prior.

    Args:
        event_shape: *E of the prior. feature_channels: of the likelihood. width: of the network.
        domain: name of the kind of data whose network it is; "" for that which owns the shape.
        encode: as in `DEFT`: so many numbers of y are seen through an encoder.
    """

    title = "amortised"
    about = "a conditional denoiser from scratch, which never looks at the prior"

    def __init__(
        self, event_shape: tuple[int, ...], feature_channels: int, width: int = 32, domain: str = "", encode: int = 0
    ):
        super().__init__()
        self.event_shape, self.feature_channels, self.width, self.domain = (
            tuple(event_shape),
            feature_channels,
            width,
            domain,
        )
        self.encode, channels = encode, self.event_shape[0]
        views = channels * feature_channels
        self.net = build_network(
            self.event_shape, channels + views, channels, width, domain, encode=encode, views=views
        )

    @classmethod
    @old_messages("log")
    def sized(cls, prior: Denoiser, size: float, feature_channels: int, *, encode: int = 0) -> Amortised:
        def make(width: int) -> Amortised:
            return cls(prior.event_shape, feature_channels, width, domain_name(prior), encode)

        step = 4 if len(prior.event_shape) == 1 else 2
        return report_size(make(widest(prior, size, make, step)), prior)

    def config(self) -> dict[str, Any]:
        about = {"event_shape": list(self.event_shape), "feature_channels": self.feature_channels, "width": self.width}
        about |= {"domain": self.domain} if self.domain else {}
        return about | ({"encode": self.encode} if self.encode else {})

    @classmethod
    def from_config(cls, prior: Denoiser, config: dict[str, Any]) -> Amortised:
        return cls(**{**config, "event_shape": tuple(int(n) for n in config["event_shape"])})

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        a, s = pred.alpha, pred.sigma
        c_skip, c_out = parametrisation("edm")
        x_in = pred.x_t * (a**2 + s**2).rsqrt()
        time = torch.log(s / a).reshape(-1).expand(len(x_in)).clamp_min(LOWEST)
        out = self.net(torch.cat([x_in, obs.features().to(x_in.dtype)], dim=1), time)
        return towards(pred, c_skip(a, s) * pred.x_t + c_out(a, s) * out)


class Borrowed:
    """A prior that belongs to somebody else: not a part of the module that holds this, and not copied with it."""

    def __init__(self, prior: NetworkDenoiser, net: UNet):
        self.prior, self.net = prior, net

    def __deepcopy__(self, memo: dict[int, Any]) -> Borrowed:
        return self


def borrow(prior: Denoiser, what: str) -> Borrowed:
    if not isinstance(prior, NetworkDenoiser) or not isinstance(prior.net, UNet):
        inner = f" of {type(prior.net).__name__}" if isinstance(prior, NetworkDenoiser) else ""
        raise InputError(
            f"{what} changes the inside of the prior's network, and knows that of deft.nn.UNet alone; this prior is a "
            f"{type(prior).__name__}{inner}: use deft or amortised, which do not look inside"
        )
    return Borrowed(prior, prior.net)


class Adapted(Learned):
    """mean_y from a run of the prior's own network, changed somehow, that is shown the lifted y behind its inlet.

    width: channels there (default: the prior's own).
    """

    runs = 2

    def __init__(self, prior: Denoiser, feature_channels: int, width: int | None = None):
        super().__init__()
        self._from = borrow(prior, type(self).__name__)
        self.event_shape, self.feature_channels = tuple(prior.event_shape), feature_channels
        self.patch = self._from.net.patch
        views = self.event_shape[0] * feature_channels * self.patch**2
        self.inlet = zero(nn.Conv2d(views, width or self._from.net.config["widths"][0], 3, padding=1))

    @property
    def prior(self) -> NetworkDenoiser:
        """Borrowed: no part of this module, and not saved with it."""
        return self._from.prior

    @abstractmethod
    def run(self, net: UNet, x: Tensor, time: Tensor, lifted: Tensor) -> Tensor:
        """The changed network's output. net: the prior's; lifted: y as `inlet` takes it."""

    def config(self) -> dict[str, Any]:
        return {"event_shape": list(self.event_shape), "feature_channels": self.feature_channels}

    @classmethod
    def from_config(cls: type[H], prior: Denoiser, config: dict[str, Any]) -> H:
        options = dict(config)
        shape = tuple(int(n) for n in options.pop("event_shape"))
        if shape != tuple(prior.event_shape):
            raise InputError(f"made for samples {shape}, this prior's are {tuple(prior.event_shape)}")
        return cls(prior, **options)

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        prior, net = self._from.prior, self._from.net
        lifted = net.folded(obs.features().to(pred.x_t.dtype))

        def run(x: Tensor, time: Tensor) -> Tensor:
            return self.run(net, x, time, lifted)

        out = prior.raw(pred.x_t, pred.t, pred.alpha, pred.sigma, net=run)
        return towards(pred, prior.mean_of(out, pred.x_t, pred.alpha, pred.sigma))


class LoRA(Adapted):
    """Low-rank changes of all the prior's linear and convolutional weights (LoRA; Hu et al. 2022).

    Args:
        prior: a `NetworkDenoiser` of our UNet. feature_channels: of the likelihood. rank: of each change.
    """

    title = "LoRA"
    about = "low-rank changes of the prior's weights (Hu et al. 2022)"

    def __init__(self, prior: Denoiser, feature_channels: int, rank: int = 4):
        super().__init__(prior, feature_channels)
        if rank < 1:
            raise InputError(f"rank must be at least 1, got {rank}")
        self.rank, self.change = rank, LowRank(self._from.net, rank)

    @classmethod
    @old_messages("log")
    def sized(cls, prior: Denoiser, size: float, feature_channels: int) -> LoRA:
        def make(rank: int) -> LoRA:
            return cls(prior, feature_channels, rank)

        return report_size(make(widest(prior, min(size, 1.0), make)), prior)

    def config(self) -> dict[str, Any]:
        return super().config() | {"rank": self.rank}

    def run(self, net: UNet, x: Tensor, time: Tensor, lifted: Tensor) -> Tensor:
        return self.change.call(net, x, time, self.inlet(lifted))


class SideNetwork(Adapted):
    """A ControlNet (Zhang, Rao & Agrawala 2023): a trainable encoder beside the frozen network, whose features are
    added to its own.

    It starts as a copy of the prior's encoder and middle; with `width` it is a narrower one from scratch, whose first
    level has so many channels and the others as many in proportion.

    Args:
        prior: a `NetworkDenoiser` of our UNet. feature_channels: of the likelihood. width: None for the copy.
    """

    title = "ControlNet"
    about = "a trained encoder beside the frozen prior (Zhang, Rao & Agrawala 2023)"

    def __init__(self, prior: Denoiser, feature_channels: int, width: int | None = None):
        own = borrow(prior, "SideNetwork").net
        theirs: list[int] = own.config["widths"]
        mine = theirs if width is None else [max(1, round(width * w / theirs[0])) for w in theirs]
        super().__init__(prior, feature_channels, mine[0])
        self.width = width
        self.side = WayDown.copied(own) if width is None else WayDown(**{**own.config, "widths": mine})
        pairs = [*zip(mine, theirs, strict=True), (mine[-1], theirs[-1])]
        self.outlets = nn.ModuleList(zero(nn.Conv2d(a, b, 1)) for a, b in pairs)

    @classmethod
    @old_messages("log")
    def sized(cls, prior: Denoiser, size: float, feature_channels: int) -> SideNetwork:
        whole = cls(prior, feature_channels)
        if sum(p.numel() for p in whole.parameters()) <= size * prior.parameter_count():
            return report_size(whole, prior)

        def make(width: int) -> SideNetwork:
            return cls(prior, feature_channels, width)

        return report_size(make(widest(prior, size, make, 2)), prior)

    def config(self) -> dict[str, Any]:
        return super().config() | {"width": self.width}

    def run(self, net: UNet, x: Tensor, time: Tensor, lifted: Tensor) -> Tensor:
        features = self.side(x, time, self.inlet(lifted))
        return net(x, time, None, [out(f) for out, f in zip(self.outlets, features, strict=True)])


class FullTuning(Adapted):
    """A copy of the prior's network, all of whose weights are trained.

    Args:
        prior: a `NetworkDenoiser` of our UNet. feature_channels: of the likelihood.
    """

    title = "fine-tuned"
    about = "a copy of the prior, all of it trained for the task"
    retrains = True

    def __init__(self, prior: Denoiser, feature_channels: int):
        super().__init__(prior, feature_channels)
        self.net = copy.deepcopy(self._from.net).requires_grad_(True)

    @classmethod
    @old_messages("log")
    def sized(cls, prior: Denoiser, size: float, feature_channels: int) -> FullTuning:
        """There is but one size, a little more than the prior's."""
        return report_size(cls(prior, feature_channels), prior)

    def run(self, net: UNet, x: Tensor, time: Tensor, lifted: Tensor) -> Tensor:
        return self.net(x, time, self.inlet(lifted))


LEARNED: dict[str, type[Learned]] = {
    "deft": DEFT,
    "amortised": Amortised,
    "lora": LoRA,
    "controlnet": SideNetwork,
    "finetuned": FullTuning,
    "covariance": LearnedCovariance,
}
"""Name -> class, read by files of fitted h, by `deft fit --method`, and by the table of methods, which has a row for
each."""


def kind_of(h: Learned) -> str:
    """The name of h's class in `LEARNED`."""
    for name, kind in LEARNED.items():
        if isinstance(h, kind):
            return name
    raise InputError(f"{type(h).__name__} is none of the kinds of learned h that a file can hold: {', '.join(LEARNED)}")
