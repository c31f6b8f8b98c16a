"""No h, and what h-transforms are combined by: sums, scales, ranges of noise levels, limits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from deft._renamed import Renamed
from deft.core.denoiser import Prediction
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.errors import InputError


class Zero(HTransform):
    """h = 0: the prior alone."""

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        return torch.zeros_like(pred.mean)


class Sum(HTransform):
    """h_1 + h_2 + ...

    >>> import deft
    >>> world, obs = deft.testing.half_seen(2)
    >>> pred = world.prior(deft.VPCosine())(torch.ones(1, 4), torch.tensor(0.5))
    >>> h = deft.DiffPIR()
    >>> both = deft.Sum(h, deft.Scaled(h, 2.0))
    >>> torch.allclose(both(pred, obs), 3 * h(pred, obs))
    True
    """

    def __init__(self, *parts: HTransform):
        super().__init__()
        if not parts:
            raise InputError("Sum needs at least one h-transform, got none; `Zero()` is the prior alone")
        self.parts = nn.ModuleList(parts)
        self.needs_graph = any(p.needs_graph for p in parts)
        self.graph_below = max((p.graph_below for p in parts if p.needs_graph), default=math.inf)

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        first, *rest = [part(pred, obs) for part in self.parts]
        for value in rest:
            first = first + value
        return first


class Wrapped(HTransform):
    """An h that changes another one."""

    def __init__(self, h: HTransform):
        super().__init__()
        self.h = h
        self.needs_graph, self.graph_below = h.needs_graph, h.graph_below


class Scaled(Wrapped):
    """c h: a guidance scale (Dhariwal & Nichol 2021, section 4.3, for classifiers).

    c = 1 is Bayes' rule; more pulls harder than the likelihood asks.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> def residual(scale):
    ...     draws = deft.sample_posterior(prior, deft.Scaled(deft.PiGDM(0.5), scale), obs, 16, steps=20)
    ...     return obs.likelihood.residual(obs.y, draws.x[0]).norm()
    >>> residual(4.0) < residual(1.0) < residual(0.25)
    tensor(True)
    """

    def __init__(self, h: HTransform, scale: float):
        super().__init__(h)
        self.scale = scale

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        return self.scale * self.h(pred, obs)


class Interval(Wrapped):
    """h where low <= sigma/alpha <= high, 0 elsewhere (after Kynkäänniemi et al. 2024).

    >>> import deft
    >>> world, obs = deft.testing.half_seen(2)
    >>> prior, h = world.prior(deft.VPCosine()), deft.Interval(deft.DiffPIR(), low=0.5, high=2.0)
    >>> [bool(h(prior(torch.ones(1, 4), torch.tensor(t)), obs).any()) for t in (0.1, 0.5, 0.9)]
    [False, True, False]
    """

    def __init__(self, h: HTransform, low: float, high: float):
        if not low < high:
            raise InputError(f"Interval needs low < high (both sigma/alpha), got {low} and {high}")
        super().__init__(h)
        self.low, self.high = low, high

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        ratio = pred.sigma / pred.alpha
        inside = (ratio >= self.low) & (ratio <= self.high)
        return torch.where(inside, self.h(pred, obs), 0.0)


class Piecewise(HTransform):
    """One h where sigma/alpha > at, another one below: a learned h where the prior sees little, say, and one that
    differentiates through the prior where it sees much. Backward passes are paid for where the part that needs them is
    used.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(2)
    >>> prior, h = world.prior(deft.VPCosine()), deft.Piecewise(Zero(), deft.DiffPIR(), at=1.0)
    >>> [bool(h(prior(torch.ones(1, 4), torch.tensor(t)), obs).any()) for t in (0.2, 0.8)]
    [True, False]
    """

    def __init__(self, above: HTransform, below: HTransform, at: float):
        if not at > 0:
            raise InputError(f"Piecewise needs at > 0 (a sigma/alpha), got {at}")
        super().__init__()
        self.above, self.below, self.at = above, below, at
        self.needs_graph = above.needs_graph or below.needs_graph
        self.graph_below = above.graph_below if above.needs_graph else min(at, below.graph_below)

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        high = pred.sigma / pred.alpha > self.at
        if bool(high.all()):
            return self.above(pred, obs)
        if not bool(high.any()):
            return self.below(pred, obs)
        return torch.where(high, self.above(pred, obs), self.below(pred, obs))


class Clipped(Wrapped, Renamed):
    """h, shortened where sigma |h| (its size in eps units) exceeds `limit` times |eps|.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(2)
    >>> pred = world.prior(deft.VPCosine())(torch.ones(1, 4), torch.tensor(0.5))
    >>> h = deft.Clipped(deft.Scaled(deft.DiffPIR(), 100.0), limit=1.0)
    >>> round(float((pred.sigma * h(pred, obs)).norm() / pred.eps.norm()), 3)
    1.0
    """

    def __init__(self, h: HTransform, limit: float):
        if not limit > 0:
            raise InputError(f"Clipped needs limit > 0, got {limit}")
        super().__init__(h)
        self.limit = limit

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        h = self.h(pred, obs)

        def size(v: Tensor) -> Tensor:
            return v.flatten(1).norm(dim=1).reshape((-1,) + (1,) * (v.ndim - 1))

        scale = self.limit * size(pred.eps) / size(pred.sigma * h).clamp_min(1e-30)
        return h * scale.clamp_max(1.0)
