"""DEFT: h learned by a small network next to a frozen prior (Denker et al. 2024, section 3.3, eq. 12).

The paper: h = -N1(x_t, x̂, g, features(y), t)/sigma + n2(t) g, with g = grad log p(y | x̂) taken with respect to x̂, so
that nothing is ever differentiated through the prior. In the units of the denoised mean (h moves x̂ by
(sigma^2/alpha) h) the two forms offered here are

    units = "v":    x̂ += sigma N1 + n2(t) g̃        (default)
    units = "eps":  x̂ += -(sigma/alpha) N1 + (sigma^2/alpha) n2(t) g    (the paper's)

In eps units a full-size correction of x̂ at high noise asks for a tiny N1 that a uniform eps loss does not see:
docs/units.md has what that costs. By default N1 also returns a number for each pixel that is added to n2 (`gate`): how
far a pixel should follow the measurement differs between an edge and a flat background. g̃ = rho^2 A^T (sigma_y^2 I +
rho^2 A A^T)^{-1} (y - A x̂) is g preconditioned so that it stays bounded as sigma_y -> 0 and as alpha -> 0
(`Likelihood.approx_mean_update`). rho^2 is what the prior leaves open at a noise level: its own mean squared error
where `calibrate` measured it, sigma^2/(alpha^2 + sigma^2) before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from deft._renamed import VALUES
from deft.core.denoiser import Denoiser, Prediction
from deft.core.likelihood import Observation
from deft.core.random import Noise, seed_for
from deft.errors import InputError, unknown
from deft.kinds.domain import domain_of, domain_of_shape, domains, find_domain
from deft.learned.base import Learned, report_size, widest
from deft.learned.factory import Factory, is_named
from deft.nn import MLP, UNet
from deft.nn.embed import Sinusoid
from deft.nn.encoder import CHANNELS, Encoded
from deft.runtime.messages import old_messages
from deft.values import Index

C = TypeVar("C", bound="Calibrated")
UNITS = ("v", "eps")
KNOTS = torch.linspace(-5.0, 5.0, 21, dtype=torch.float32)
"""log(sigma/alpha) at which rho^2 is kept; linear in its logarithm between them, constant outside."""
LOWEST = -3.5
"""log(sigma/alpha) below which the networks are given this: fits hardly look there, and h fades with sigma anyway."""
GUIDES = ("preconditioned", "score")
OLD_GUIDES = {old: new for (setting, old), new in VALUES.items() if setting == "guide"}
"""What 0.1 called a guide."""
INPUTS = ("x_t", "x_hat", "g", "y")
"""What N1 may be shown: the noisy state, the prior's mean, the guide, the lifted measurement."""
STARTS = ("zeros", "random", "prior")


class Multiplier(nn.Module):
    """n2(t): three layers from the noise level to one number, constant `start` at first."""

    def __init__(self, start: float, dim: int = 32):
        super().__init__()
        self.layers = nn.Sequential(Sinusoid(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.last = nn.Linear(dim, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, start)

    def forward(self, time: Tensor) -> Tensor:
        return self.last(self.layers(time))[:, 0]


class Calibrated(Learned):
    """A learned h that knows rho^2, what the prior leaves open at each noise level: sigma^2/(alpha^2 + sigma^2) until
    it is measured."""

    log_rho2: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_rho2", torch.nn.functional.logsigmoid(2 * KNOTS))

    @torch.no_grad()
    def calibrate(self: C, prior: Denoiser, x: Tensor, max_samples: int = 128, seed: int = 0) -> C:
        """Set rho^2 at each knot to the prior's mean squared error on (at most `max_samples` of) clean samples x.

        sigma^2/(alpha^2 + sigma^2), the error of a prior that knows nothing but a unit variance, is several times too
        much at low noise: g~ would copy the measurement's noise into the sample. Returns self.
        """
        where = prior.state_like().device
        x = x[:max_samples].to(where)
        n = prior.project(Noise(seed_for("probing", seed), len(x)).normal(x.shape[1:], device=where).to(x.dtype), x)
        entries = (n != 0).sum()  # rows behind the end of a chain are none
        ends = torch.tensor([prior.schedule.t_min, prior.schedule.t_max], dtype=torch.float64)
        low, high = sorted((-prior.schedule.log_snr(ends) / 2).tolist())
        for i, level in enumerate(KNOTS.clamp(low, high).double()):
            t = prior.schedule.time_of(-2 * level)
            _, alpha, sigma = prior.coefficients(t, x)
            self.log_rho2[i] = (
                (prior(alpha * x + sigma * n, t).mean - x).square().sum().div(entries).clamp_min(1e-8).log()
            )
        return self

    def rho2(self, level: Tensor) -> Tensor:
        """rho^2 at log(sigma/alpha), any shape."""
        return _between_knots(self.log_rho2, level).exp()


def _between_knots(values: Tensor, level: Tensor) -> Tensor:
    """What is kept at `KNOTS`, linear between them and constant outside, at log(sigma/alpha) of any shape."""
    place = ((level - KNOTS[0]) / (KNOTS[1] - KNOTS[0])).clamp(0.0, len(KNOTS) - 1.001)
    i = place.floor().long()
    return torch.lerp(values[i], values[i + 1], (place - i).to(values.dtype))


class DEFT(Calibrated):
    """The learned h-transform (Denker et al. 2024); see the module's formulas. Call `calibrate(prior, x)` before a fit.

    Args:
        event_shape: *E of the prior: (C, H, W) for images, (d,) for vectors.
        feature_channels: how many sample-sized views of y the likelihood's `features` returns (a mask's: 2).
        width: width of N1. `DEFT.sized(prior, 0.09, ...)` finds it from a share of the prior's parameters.
        units: "v" or "eps" (the paper's), see above.
        guide: "preconditioned" (g̃) or "score" (the paper's raw g) for both the input and the residual branch.
        n2_start: n2 at the start; 0 makes the untrained h exactly 0.
        gate: N1 returns twice the channels; the second half is added to n2, pixel by pixel. False is the paper's.
        normalise: bring every input to order one at every noise level; False feeds them raw, as the paper does.
        inputs: which of `INPUTS` N1 sees. residual: whether there is a branch n2 g at all. Both for ablations (paper,
            table 6).
        net: a network net(features, time) to use for N1 instead of the built-in ones; it returns C channels, or 2C with
            `gate`. Better the class or function that makes one, net(inputs, outputs, width), or a `Factory` of it with
            options: then the size can be chosen, and what is saved loads again.
        domain: name of the kind of data whose built-in network N1 is; "" for that which owns the shape.
        encode: of a y that has no place in the sample's grid (`deft.likelihood.Unknown`), how many numbers it is: N1
            then sees it through a small encoder of its own (`deft.nn.encoder`). 0: N1 sees the views as they are.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> h = deft.DEFT((16,), feature_channels=2, width=8).calibrate(prior, world.sample(64).float())
    >>> draws = deft.sample_posterior(prior, h, obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1  # untrained: the preconditioned gradient alone
    tensor(True)
    """

    title = "DEFT"
    about = "h learned by a small network next to the frozen prior (Denker et al. 2024)"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        feature_channels: Index,
        width: int = 32,
        *,
        units: str = "v",
        guide: str = "preconditioned",
        n2_start: float = 1.0,
        gate: bool = True,
        normalise: bool = True,
        inputs: Sequence[str] = INPUTS,
        residual: bool = True,
        net: nn.Module | Factory | Callable[[int, int, int], nn.Module] | None = None,
        domain: str = "",
        encode: int = 0,
    ):
        super().__init__()
        if units not in UNITS:
            raise unknown("units", units, UNITS)
        guide = OLD_GUIDES.get(guide, guide)
        if guide not in GUIDES:
            raise unknown("guide", guide, GUIDES)
        for name in inputs:
            if name not in INPUTS:
                raise unknown("input", name, INPUTS)
        self.inputs, self.residual, gate = tuple(i for i in INPUTS if i in inputs), residual, gate and residual
        self.event_shape, self.feature_channels, self.width = tuple(event_shape), feature_channels, width
        self.units, self.guide, self.n2_start, self.gate, self.normalise = units, guide, n2_start, gate, normalise
        views = sum(feature_channels if i == "y" else 1 for i in self.inputs)
        self.encode = encode
        if encode and (net is not None or "y" not in self.inputs):
            raise InputError(
                "encode is for the built-in network that is shown y: leave net out, or let your own net encode y"
            )
        self.factory = (
            None if net is None or isinstance(net, nn.Module) else net if isinstance(net, Factory) else Factory(net)
        )
        self.own_network, self.domain = isinstance(net, nn.Module), domain
        sees, says = self.event_shape[0] * views, self.event_shape[0] * (2 if gate else 1)
        built = self.factory(sees, says, width) if self.factory else None
        self.n1 = (
            net
            if isinstance(net, nn.Module)
            else built
            if built is not None
            else build_network(
                self.event_shape, sees, says, width, domain, encode=encode, views=self.event_shape[0] * feature_channels
            )
        )
        self.n2 = Multiplier(n2_start)
        self.register_buffer("level_weight", torch.ones(len(KNOTS)))

    level_weight: Tensor

    @property
    def net(self) -> nn.Module | Factory | None:
        """What N1 was given as, where it is the user's own."""
        return self.n1 if self.own_network else self.factory

    def weight_at(self, level: Tensor) -> Tensor:
        """c at log(sigma/alpha), any shape: how far h is trusted there (1 until `fit_level_weight` has looked)."""
        return _between_knots(self.level_weight, level)

    @classmethod
    def upgrade(cls, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"level_weight": torch.ones(len(KNOTS)), **tensors}

    @torch.no_grad()
    def initialise(self, start: str, prior: Denoiser) -> DEFT:
        """Start N1 elsewhere than at zero (the paper's second open question); returns self.

        zeros: as built, its last layer 0. random: that layer drawn as any other. prior: every weight that N1 shares by
        name with the prior's network copied from it, as far as both are wide, and the last layer 0.
        """
        if start not in STARTS:
            raise unknown("start", start, STARTS)
        if start == "zeros":
            return self
        if not isinstance(self.n1, UNet):
            raise InputError(f"start={start!r} is for N1 that is a UNet, got {type(self.n1).__name__}")
        if start == "random":
            self.n1.outlet.reset_parameters()
            return self
        source = dict(getattr(prior, "net", nn.Identity()).named_parameters())
        shared = 0
        for name, own in self.n1.named_parameters():
            theirs = source.get(name)
            if theirs is None or theirs.ndim != own.ndim or name.startswith(("inlet", "outlet")):
                continue
            part = tuple(slice(0, min(a, b)) for a, b in zip(own.shape, theirs.shape, strict=True))
            own[part] = theirs[part].to(own)
            shared += 1
        if not shared:
            raise InputError(
                "start='prior' copies weights by name, and this prior's network has none of N1's names (our own UNet"
                " has)"
            )
        return self

    @torch.no_grad()
    def initialise_from(self, other: DEFT) -> DEFT:
        """Start from what another h of the same form learned, of another task perhaps; returns self.

        Every weight is copied. In the first layer, which sees as many channels as there are views of y, those of the
        views that both have are; a further view's start at 0.

        Raises:
            InputError: an h of another form (its width, units, inputs, ...).
        """
        mine, theirs = (
            {k: v for k, v in h.config().items() if k not in ("feature_channels", "n2_start")} for h in (self, other)
        )
        odd = [f"{k} {theirs[k]} there, {mine[k]} here" for k in mine if mine[k] != theirs[k]]
        if odd:
            raise InputError(f"this h cannot start from one of another form: {'; '.join(odd)}")
        given = dict(other.named_parameters())
        for name, own in self.named_parameters():
            found = given[name]
            if own.shape == found.shape:
                own.copy_(found)
            else:
                n = min(own.shape[1], found.shape[1])
                own.zero_()
                own[:, :n] = found[:, :n]
        self.log_rho2.copy_(other.log_rho2)
        return self

    @classmethod
    def init_like(cls, other: DEFT, feature_channels: int) -> DEFT:
        """A DEFT of the same form for measurements of `feature_channels` views, which starts from it
        (`initialise_from`)."""
        options = (
            other.config()
            | {"feature_channels": feature_channels}
            | ({} if other.factory is None else {"net": other.factory})
        )
        return cls(tuple(options.pop("event_shape")), **options).initialise_from(other)

    @classmethod
    @old_messages("log")
    def sized(
        cls, prior: Denoiser, size: float, feature_channels: int, *, start: str = "zeros", **options: Any
    ) -> DEFT:
        """The widest DEFT with at most `size` times the prior's parameters. start: see `initialise`."""

        if "net" not in options:
            options["domain"] = domain_name(prior)

        def make(width: int) -> DEFT:
            return cls(prior.event_shape, feature_channels, width, **options)

        step = 4 if len(prior.event_shape) == 1 else 2
        return report_size(make(widest(prior, size, make, step)).initialise(start, prior), prior)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, for a checkpoint."""
        return {
            "event_shape": list(self.event_shape),
            "feature_channels": self.feature_channels,
            "width": self.width,
            "units": self.units,
            "guide": self.guide,
            "n2_start": self.n2_start,
            "gate": self.gate,
            "normalise": self.normalise,
            "inputs": list(self.inputs),
            "residual": self.residual,
            **({"domain": self.domain} if self.domain else {}),
            **({"encode": self.encode} if self.encode else {}),
            **({} if self.factory is None else {"net": self.factory.config()}),
        }

    @classmethod
    def from_config(cls, prior: Denoiser, config: dict[str, Any]) -> DEFT:
        options = dict(config)
        if is_named(options.get("net")):
            raise InputError(
                f"this config names the network {options['net']['factory']} and does not hold it: give net=Factory(...)"
            )
        return cls(tuple(int(n) for n in options.pop("event_shape")), **options)

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        a, s = pred.alpha, pred.sigma
        x_hat = pred.mean
        level = torch.log(s / a)
        if not self.residual and "g" not in self.inputs:
            g = torch.zeros_like(x_hat)  # nobody looks at it, and there may be no operator to make it of
        elif self.guide == "preconditioned":
            g = obs.likelihood.approx_mean_update(obs.y, x_hat, self.rho2(level.float()).to(x_hat))
        else:
            g = obs.score(x_hat)
        views = {"x_t": pred.x_t, "x_hat": x_hat, "g": g}
        if self.normalise:
            views = {"x_t": pred.x_t * (a**2 + s**2).rsqrt(), "x_hat": bounded(x_hat), "g": bounded(g)}
        features = [obs.features() if i == "y" else views[i] for i in self.inputs]
        time = level.reshape(-1).expand(x_hat.shape[0]).clamp_min(LOWEST)
        n1 = self.n1(torch.cat([f.to(x_hat.dtype) for f in features], dim=1), time)
        n2 = self.n2(time).reshape((-1,) + (1,) * (x_hat.ndim - 1)) if self.residual else torch.zeros_like(s)
        if self.gate:
            n1, gate = n1.chunk(2, dim=1)
            n2 = n2 + gate
        c = self.weight_at(level.float()).to(x_hat)
        if self.units == "eps":
            g = g * (a / s**2) if self.guide == "preconditioned" else g
            return c * (n2 * g - n1 / s)
        g = g if self.guide == "preconditioned" else g * s**2 / a
        return c * (s * n1 + n2 * g) * (a / s**2)


def bounded(f: Tensor) -> Tensor:
    """f, shrunk to a root mean square of 3 where a sample exceeds it."""
    rms = f.flatten(1).square().mean(1).sqrt().reshape((-1,) + (1,) * (f.ndim - 1))
    return f / (rms / 3).clamp_min(1.0)


def build_network(
    event_shape: tuple[int, ...],
    inputs: int,
    outputs: int,
    width: int,
    domain: str = "",
    *,
    encode: int = 0,
    views: int = 0,
) -> nn.Module:
    """A network (features [B, inputs, ...], time [B]) -> [B, outputs, ...] for samples of a shape: that of the kind of
    data `domain` or of the one that owns the shape, and an MLP for (d,).

    encode: the last `views` channels are so many numbers, which it sees through an encoder (`deft.nn.encoder`).
    """
    if encode:
        net = build_network(event_shape, inputs - views + CHANNELS, outputs, width, domain)
        return Encoded(net, encode, views, event_shape[1:])
    owner = find_domain(domain) if domain else domain_of_shape(event_shape)
    if owner is not None:
        return owner.network(event_shape, inputs, outputs, width)
    if len(event_shape) == 1:
        return MLP(inputs, outputs, width=width)
    known = ", ".join(d.title for d in domains().values())
    raise InputError(
        f"DEFT builds networks for {known} and (d,), and {event_shape} is none of them: give your own as net="
    )


def domain_name(prior: Denoiser) -> str:
    """The kind of data of a prior, where the shape of its samples alone would not tell; else ""."""
    domain, owner = domain_of(prior), domain_of_shape(prior.event_shape)
    return "" if domain is None or (owner is not None and domain.name == owner.name) else domain.name
