"""No h, and what h-transforms are combined by: sums, scales, ranges of noise levels, limits."""

from __future__ import annotations

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
    """h_1 + h_2 + ..."""

    def __init__(self, *parts: HTransform):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.needs_graph = any(p.needs_graph for p in parts)

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
        self.needs_graph = h.needs_graph


class Scaled(Wrapped):
    """c h: a guidance scale (Dhariwal & Nichol 2021, section 4.3, for classifiers).

    c = 1 is Bayes' rule; more pulls harder than the likelihood asks.
    """

    def __init__(self, h: HTransform, scale: float):
        super().__init__(h)
        self.scale = scale

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        return self.scale * self.h(pred, obs)


class Interval(Wrapped):
    """h where low <= sigma/alpha <= high, 0 elsewhere (after Kynkäänniemi et al. 2024)."""

    def __init__(self, h: HTransform, low: float, high: float):
        if not low < high:
            raise InputError(f"Interval needs low < high (both sigma/alpha), got {low} and {high}")
        super().__init__(h)
        self.low, self.high = low, high

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        ratio = pred.sigma / pred.alpha
        inside = (ratio >= self.low) & (ratio <= self.high)
        return torch.where(inside, self.h(pred, obs), 0.0)


class Clipped(Renamed, Wrapped):
    """h, shortened where sigma |h| (its size in eps units) exceeds `limit` times |eps|."""

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
