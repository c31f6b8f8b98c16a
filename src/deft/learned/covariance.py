"""A learned covariance of x_0 given x_t: posterior sampling for any linear measurement, without a backward pass.

With C = Cov[x_0 | x_t] and r = y - A x̂ the mean of x_0 given x_t and y is, as far as x_0 given x_t is Gaussian,

    x̂ + C A^T (A C A^T + sigma_y^2 I)^{-1} r.

By Tweedie's formula C = (sigma^2/alpha) J, J = d x̂ / d x_t, which MMPS (Rozet et al. 2024) multiplies with by going
backwards through the prior, several times a step. Here a small network that has learned J gives C: positive definite by
its form, so that conjugate gradients converge, and cheap to multiply with. It knows nothing of y or A: it is a property
of the prior, fitted once, and serves every linear measurement with Gaussian noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deft.core.denoiser import Denoiser, Prediction
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.errors import InputError
from deft.guidance.combine import Piecewise
from deft.learned.base import Learned, report_size, towards, widest
from deft.learned.deft import LOWEST, bounded, build_network, domain_name
from deft.likelihood.gaussian import linear, noise_variance

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
RANK_GAIN = 8.0
"""A factor on U U^T, which lets a network start with small numbers."""


class Maps(NamedTuple):
    """What C is made of at one x_t: variance of single entries [B, *E], of the filters' answers at each scale
    [B, F, ...], factors [B, R, *E], and the unit of all of them [B, 1, ...]."""

    diagonal: Tensor
    filtered: list[Tensor]
    factors: Tensor
    unit: Tensor


class LearnedCovariance(Learned):
    """h = (alpha/sigma^2) C A^T (A C A^T + sigma_y^2 I)^{-1} (y - A x̂), with C a learned Cov[x_0 | x_t].

        C = v (diag(d) + sum_s P_s^T F_s^T diag(e_s) F_s P_s + U U^T),    d, e_s > 0,

    where P_s averages blocks of s pixels, F_s are learned filters (the same at every x_t), and d, e_s and the few
    columns of U come from a small network that sees x_t and x̂. v = d_0^2 sigma^2/(d_0^2 alpha^2 + sigma^2) is the
    variance left in data of deviation d_0. It is fitted to the derivative of the prior's mean
    (`deft.train.jacobian.JacobianObjective`), not to a task: `deft fit --method covariance` needs one task to look at,
    and what it leaves serves all that are linear with Gaussian noise.

    Source: the step is that of MMPS (F. Rozet, G. Andry, F. Lanusse & G. Louppe 2024, "Learning diffusion priors from
    observations by expectation maximization", https://arxiv.org/abs/2405.13712); the learned C is this library's.

    Args:
        event_shape: *E of the prior: (C, H, W), (C, L), (C, D, H, W), or (d,), which has no filters.
        width: of the network. filters: number of F_s at each scale. kernel: pixels on their side (odd). scales: s.
        rank: columns of U.
        iterations: of conjugate gradients, at most; fewer where the residual is below `tolerance` of the first.
        data_std: d_0.
        domain: name of the kind of data whose network it is; "" for that which owns the shape.

    Raises:
        InputError: a measurement that is not linear with Gaussian noise.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> h = deft.learned.LearnedCovariance((16,), width=16)
    >>> draws = deft.sample_posterior(world.prior(deft.VPCosine()), h, obs, 8, steps=10)
    >>> draws.x.shape
    torch.Size([1, 8, 16])
    """

    title = "learned covariance"
    about = "MMPS with a learned covariance: any linear measurement, fitted once a prior, no backward pass"
    spacing = "karras"
    requires = "linear"
    objective = "jacobian"
    of_prior = True
    feature_channels = 0

    def __init__(
        self,
        event_shape: tuple[int, ...],
        width: int = 14,
        *,
        filters: int = 12,
        kernel: int = 5,
        scales: tuple[int, ...] = (1, 2, 4),
        rank: int = 6,
        iterations: int = 10,
        tolerance: float = 0.02,
        data_std: float = 0.5,
        domain: str = "",
    ):
        super().__init__()
        if kernel % 2 != 1 or kernel < 1 or filters < 1 or rank < 1 or iterations < 1 or not data_std > 0:
            raise InputError(
                "a learned covariance takes an odd kernel, at least 1 filter, factor and iteration, and data_std > 0;"
                f" got kernel={kernel}, filters={filters}, rank={rank}, iterations={iterations}, data_std={data_std}"
            )
        self.event_shape, self.width, self.rank = tuple(event_shape), width, rank
        self.filters, self.kernel, self.iterations, self.data_std = filters, kernel, iterations, data_std
        self.tolerance = tolerance
        self.scales, self.domain = tuple(scales), domain
        channels, *sides = self.event_shape
        self.axes = len(sides)
        if self.axes > 3:
            raise InputError(f"a learned covariance is for samples of up to three axes and channels, got {event_shape}")
        own = [s for s in self.scales if self.axes and all(n % s == 0 and n >= kernel * s for n in sides)]
        self.used = tuple(own)
        """Scales that divide the sides of a sample."""
        self.parts = (channels, *[filters] * len(own), rank * channels)
        self.net = build_network(self.event_shape, 2 * channels, sum(self.parts), width, domain)
        shape = (filters, channels, *[kernel] * self.axes)
        self.bank = nn.ParameterList(nn.Parameter(torch.randn(shape) / kernel) for _ in own)
        bias = torch.full((sum(self.parts),), -3.0)
        bias[-rank * channels :] = 0.1 * torch.randn(rank * channels)
        self.bias = nn.Parameter(bias)
        last = getattr(self.net, "outlet", None)
        if isinstance(last, (nn.Conv2d, nn.Linear)):  # at 0 the factors would all be alike
            nn.init.normal_(last.weight, std=0.02)

    @classmethod
    def sized(cls, prior: Denoiser, size: float, feature_channels: int = 0, **options: Any) -> LearnedCovariance:
        """The widest one with at most `size` times the prior's parameters; it is not shown y."""
        options.setdefault("domain", domain_name(prior))

        def make(width: int) -> LearnedCovariance:
            return cls(prior.event_shape, width, **options)

        return report_size(make(widest(prior, size, make, 4 if len(prior.event_shape) == 1 else 2)), prior)

    def config(self) -> dict[str, Any]:
        names = ("width", "filters", "kernel", "rank", "iterations", "tolerance", "data_std")
        return {
            "event_shape": list(self.event_shape),
            **{name: getattr(self, name) for name in names},
            "scales": list(self.scales),
            **({"domain": self.domain} if self.domain else {}),
        }

    @classmethod
    def from_config(cls, prior: Denoiser, config: dict[str, Any]) -> LearnedCovariance:
        options = dict(config)
        return cls(
            tuple(int(n) for n in options.pop("event_shape")),
            scales=tuple(int(s) for s in options.pop("scales")),
            **options,
        )

    def maps(self, pred: Prediction) -> Maps:
        """What C is made of at pred's x_t."""
        a, s, x_hat = pred.alpha, pred.sigma, pred.mean.detach()
        rows = x_hat.shape[0]
        if any(n % scale for n in x_hat.shape[2:] for scale in self.used):
            raise InputError(
                f"this covariance averages blocks of {', '.join(map(str, self.used))} pixels, which do not divide the"
                f" sides of samples of shape {tuple(x_hat.shape[1:])}: fit one to samples of that size"
            )
        seen = torch.cat([pred.x_t.detach() * (a**2 + s**2).rsqrt(), bounded(x_hat)], dim=1)
        time = torch.log(s / a).reshape(-1).expand(rows).clamp_min(LOWEST)
        out = self.net(seen.to(self.bias), time.to(self.bias)) + self.bias.reshape(1, -1, *[1] * self.axes)
        diagonal, *filtered, factors = out.to(x_hat).split(self.parts, dim=1)
        # a coarse scale's variance is the mean over its block
        filtered = [
            F.softplus(POOLS[self.axes](e, s) if s > 1 else e) for s, e in zip(self.used, filtered, strict=True)
        ]
        unit = self.data_std**2 * s**2 / (self.data_std**2 * a**2 + s**2)
        return Maps(F.softplus(diagonal), filtered, factors.reshape(rows, self.rank, *x_hat.shape[1:]), unit)

    def product(self, maps: Maps, v: Tensor) -> Tensor:
        """C v, [B, *E]."""
        out = maps.diagonal * v
        for scale, variance, bank in zip(self.used, maps.filtered, self.bank, strict=True):
            convolve = CONVOLUTIONS[self.axes]
            norm = scale ** (self.axes / 2)  # makes block means orthonormal
            z = POOLS[self.axes](v, scale) * norm if scale > 1 else v
            weight, margin = bank.to(v), self.kernel // 2
            back = weight.flip(*range(2, weight.ndim)).transpose(0, 1)  # the transposed convolution, at half its time
            z = convolve(variance * convolve(z, weight, padding=margin), back, padding=margin)
            out = out + (F.interpolate(z, scale_factor=float(scale)) / norm if scale > 1 else z)
        flat = maps.factors.flatten(2)
        weights = torch.einsum("brk,bk->br", flat, v.flatten(1)) * (RANK_GAIN / flat.shape[2])
        return maps.unit * (out + torch.einsum("brk,br->bk", flat, weights).reshape(v.shape))

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        like, operator = linear(obs, self.title)
        r = like.residual(obs.y, pred.mean)
        maps, noise = self.maps(pred), noise_variance(like, r).reshape(-1, *[1] * (pred.mean.ndim - 1))
        move = posterior_step(
            lambda v: self.product(maps, v),
            lambda v: operator.adjoint(operator.measured_part(operator(v))),
            noise,
            operator.adjoint(r),
            self.iterations,
            self.tolerance,
        )
        return towards(pred, pred.mean + move)


def posterior_step(
    covariance: Callable[[Tensor], Tensor],
    gram: Callable[[Tensor], Tensor],
    noise: Tensor,
    b: Tensor,
    iterations: int,
    tolerance: float = 0.0,
) -> Tensor:
    """C (A^T A C + s^2 I)^{-1} b with b = A^T r, [B, *E]: the same as C A^T (A C A^T + s^2 I)^{-1} r, by conjugate
    gradients in the inner product (u, C v), in which A^T A C + s^2 I is symmetric.

    Iterating on r instead is led astray by the part of r that A^T does not see, and by small singular values: with few
    iterations its step can be longer than the answer (docs/results/covariance.md). One product with C and one with
    A^T A an iteration.

    Args:
        covariance: v -> C v, symmetric positive definite. gram: v -> A^T A v. noise: s^2, [B or 1, 1, ...].
        iterations: at most; fewer once every row's residual, in the norm of C, is below `tolerance` of the first.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1).reshape(-1, *[1] * (b.ndim - 1))

    tiny = torch.finfo(b.dtype).tiny
    r = p = b
    cr = cp = covariance(b)
    rr, out = dot(r, cr), torch.zeros_like(b)
    enough = tolerance**2 * rr
    for _ in range(iterations):
        if bool((rr <= enough).all()):
            break
        q = gram(cp) + noise * p
        curvature = dot(q, cp)
        step = torch.where(curvature > 0, rr / curvature.clamp_min(tiny), 0.0)
        out, r = out + step * cp, r - step * q
        cr = covariance(r)
        new = dot(r, cr)
        ratio = torch.where(rr > 0, new / rr.clamp_min(tiny), 0.0)
        p, cp, rr = r + ratio * p, cr + ratio * cp, new
    return out


class WithCovariance(Piecewise):
    """A learned h where sigma/alpha > at, a learned covariance below: no backward pass at any step.

    At high noise, where the prior sees nothing in x_t, h has learned what y says; at low noise the covariance pulls
    back to y what h's own errors on the way have added (docs/results/covariance.md).

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> h, low = deft.DEFT((16,), 2, width=8), deft.learned.LearnedCovariance((16,), width=16)
    >>> deft.sample_posterior(prior, deft.learned.WithCovariance(h, low), obs, 4, steps=10).x.shape
    torch.Size([1, 4, 16])
    """

    def __init__(self, h: HTransform, covariance: LearnedCovariance, at: float = 1.0):
        super().__init__(h, covariance, at)
