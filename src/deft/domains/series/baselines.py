"""Plain baselines of imputation and forecasting: rules that carry values on, Gaussians that are conditioned exactly.

Each is fitted to training series x [N, C, L], which may have NaN where a value is missing, and draws samples [B, n, C,
L] for an observation, as an h-transform does, so that every metric applies. In model space, each variable with mean 0
and deviation 1.

    LastValue, LinearInterpolation, SeasonalNaive      a rule, and a normal error whose size was seen in training
    GaussianSeries.joint                               one Gaussian over all C L entries, shrunk covariance
    GaussianSeries.matern                              a Gaussian process for each variable alone
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TypeVar

import torch
from torch import Tensor

from deft.core.likelihood import Observation
from deft.core.operator import LinearOperator
from deft.core.random import Noise, seed_for
from deft.domains.series.csdi import observed
from deft.errors import InputError
from deft.likelihood import Gaussian

R = TypeVar("R", bound="Rule")
JITTER = 1e-6
"""Variance that is added to that of y, so that a measurement without noise has a factor."""


def distance(mask: Tensor) -> Tensor:
    """How many steps the nearest seen entry of the same variable is away, [B, C, L]; L where there is none."""
    length = mask.shape[-1]
    at = torch.arange(length, device=mask.device)
    before = torch.where(mask > 0, at, -length).cummax(-1).values
    after = torch.where(mask > 0, at, 2 * length).flip(-1).cummin(-1).values.flip(-1)
    return torch.minimum(at - before, after - at).clamp_max(length)


def carried(y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(value and place of the last seen entry before each, value and place of the next one after), each [B, C, L]; the
    places are -1 and L where there is none, and the values 0, the mean."""
    length = mask.shape[-1]
    at = torch.arange(length, device=mask.device)
    before = torch.where(mask > 0, at, -1).cummax(-1).values
    after = torch.where(mask > 0, at, length).flip(-1).cummin(-1).values.flip(-1)
    left = torch.where(before >= 0, y.gather(-1, before.clamp_min(0)), torch.zeros_like(y))
    right = torch.where(after < length, y.gather(-1, after.clamp_max(length - 1)), torch.zeros_like(y))
    return left, before, right, after


class Rule(ABC):
    """A guess from the seen entries, and the standard deviation of its error by variable and distance, [C, L + 1]."""

    title: str
    deviation: Tensor | None = None

    @abstractmethod
    def guess(self, y: Tensor, mask: Tensor) -> Tensor:
        """[B, C, L], from y [B, C, L] where mask is 1."""

    def fit(self: R, x: Tensor, obs: Observation) -> R:
        """See how far the rule is off, on training series x and measurements of them of the kind to come."""
        known = torch.isfinite(x)
        y, mask = observed(obs, x.nan_to_num())
        mask = mask * known
        wrong, far = (self.guess(y, mask) - x.nan_to_num()).square(), distance(mask)
        counts = known & (mask == 0)
        c, length = x.shape[1:]
        cell = far + (length + 1) * torch.arange(c)[:, None]
        total, number = (torch.zeros(c * (length + 1), dtype=x.dtype) for _ in range(2))
        total.index_add_(0, cell[counts], wrong[counts])
        number.index_add_(0, cell[counts], torch.ones_like(wrong[counts]))
        total, number = total.reshape(c, -1), number.reshape(c, -1)
        every = total.sum(1, keepdim=True) / number.sum(1, keepdim=True).clamp_min(1)
        every = torch.where(number.sum(1, keepdim=True) > 0, every, torch.ones_like(every))
        # a cell that was seen seldom is drawn to the mean of its variable, as by eight more of it
        self.deviation = ((total + 8 * every) / (number + 8)).sqrt()
        return self

    def sample(self, obs: Observation, n: int = 1, seed: int = 0) -> Tensor:
        """Samples [B, n, C, L]: the guess, with independent normal errors where y does not hold the entry."""
        y, mask = observed(obs, obs.y)
        centre = self.guess(y, mask)
        deviation = torch.zeros_like(centre)
        if self.deviation is not None:
            far = distance(mask)
            table = self.deviation.to(centre).expand(len(centre), -1, -1)
            deviation = torch.where(mask > 0, 0.0, table.gather(-1, far))
        b, c, length = centre.shape
        noise = Noise(seed_for("samples", seed), b * n).normal((c, length)).to(centre).reshape(b, n, c, length)
        return centre[:, None] + deviation[:, None] * noise


class LastValue(Rule):
    """The last seen value of the variable; before the first, the first one; its mean where it was never seen."""

    title = "last value"

    def guess(self, y: Tensor, mask: Tensor) -> Tensor:
        left, before, right, _ = carried(y, mask)
        return torch.where(before >= 0, left, right)


class LinearInterpolation(Rule):
    """The straight line between the seen values before and after; beyond them the nearest one.

    >>> y = torch.tensor([[[1.0, 0.0, 0.0, 4.0, 0.0]]])
    >>> LinearInterpolation().guess(y, (y != 0).float())
    tensor([[[1., 2., 3., 4., 4.]]])
    """

    title = "linear interpolation"

    def guess(self, y: Tensor, mask: Tensor) -> Tensor:
        left, before, right, after = carried(y, mask)
        length = y.shape[-1]
        at = torch.arange(length, device=y.device)
        share = (at - before) / (after - before).clamp_min(1)
        inner = left + share.to(y) * (right - left)
        one = torch.where(before >= 0, left, right)
        return torch.where((before >= 0) & (after < length), inner, one)


class SeasonalNaive(Rule):
    """The nearest seen value a whole number of periods away; a straight line where there is none."""

    title = "seasonal naive"

    def __init__(self, period: int = 24):
        if period < 1:
            raise InputError(f"period must be a whole number above 0, got {period}")
        self.period = period

    def guess(self, y: Tensor, mask: Tensor) -> Tensor:
        out, found = LinearInterpolation().guess(y, mask), mask > 0
        length = y.shape[-1]
        for k in range(1, (length - 1) // self.period + 1):
            for shift in (k * self.period, -k * self.period):  # what was before, first
                value, seen = (torch.roll(v, shift, -1) for v in (y, mask))
                at = torch.arange(length, device=y.device) - shift
                usable = (seen > 0) & (at >= 0) & (at < length) & ~found
                out, found = torch.where(usable, value, out), found | usable
        return out


class GaussianSeries:
    """x ~ N(mean, covariance) over all D = C L entries, conditioned exactly on y = A x + sigma_y n for any linear A.

        x | y = x' + S A^T (A S A^T + sigma_y^2 I)^-1 (y - A x' - sigma_y n'),    x' ~ N(mean, S)

    (Matheron's rule; Wilson et al. 2021, https://arxiv.org/abs/2011.04026). In double precision.

    mean: [C, L]. covariance: [D, D]. title: for tables.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, title: str = "Gaussian"):
        self.mean, self.covariance, self.title = mean.double(), covariance.double(), title
        eye = torch.eye(len(covariance), dtype=torch.float64)
        self.factor = torch.linalg.cholesky(self.covariance + JITTER * eye)

    @classmethod
    def joint(cls, x: Tensor) -> GaussianSeries:
        """The mean and the shrunk covariance of training series x [N, C, L].

            S* = (1 - r) S + r m I,    m = tr S / D,    r = min(1, sum_k |x_k x_k^T - S|^2 / N^2 / |S - m I|^2)

        Ledoit & Wolf (2004), "A well-conditioned estimator for large-dimensional covariance matrices",
        https://doi.org/10.1016/S0047-259X(03)00096-4. Missing values are at the mean, and their products not counted.
        """
        if len(x) < 2:
            raise InputError(f"a covariance needs at least two series, got {len(x)}")
        flat = x.double().flatten(1)
        known = torch.isfinite(flat).double()
        mean = flat.nan_to_num().sum(0) / known.sum(0).clamp_min(1)
        rows = (flat - mean).nan_to_num()
        counts = (known.T @ known).clamp_min(1)
        s = rows.T @ rows / counts
        d, n = len(s), len(rows)
        m = s.trace() / d
        eye = torch.eye(d, dtype=torch.float64)
        gap = (s - m * eye).square().sum()
        scatter = (rows.square().sum(1).square().sum() / n - s.square().sum()) / n
        r = float((scatter / gap.clamp_min(1e-300)).clamp(0, 1))
        shrunk = (1 - r) * s + r * m * eye
        values, vectors = torch.linalg.eigh((shrunk + shrunk.T) / 2)  # products that were not counted: not quite >= 0
        fixed = (vectors * values.clamp_min(1e-6)) @ vectors.T
        return cls(mean.reshape(x.shape[1:]), fixed, "joint Gaussian")

    @classmethod
    def matern(cls, x: Tensor, steps: int = 200) -> GaussianSeries:
        """A Gaussian process for each variable, fitted by maximum likelihood to the series that have no gap in it.

            k(t, t') = a^2 + s^2 (1 + r) exp(-r) + w^2 [t = t'],    r = sqrt(3) |t - t'| / l

        a level of each series, Matérn's kernel of smoothness 3/2 (Rasmussen & Williams 2006, equation 4.17), and white
        noise; one (a, s, w, l) for each variable. steps: of Adam.
        """
        c, length = x.shape[1:]
        x = x.double()
        mean = x.nanmean(dim=(0, 2))
        moments = torch.zeros(c, length, length, dtype=torch.float64)
        for i in range(c):
            rows = x[:, i][torch.isfinite(x[:, i]).all(1)] - mean[i]
            if len(rows) < 1:
                raise InputError(f"no training series has all values of variable {i}: nothing to fit its process to")
            moments[i] = rows.T @ rows / len(rows)
        t = torch.arange(length, dtype=torch.float64)
        far = (t[:, None] - t).abs()
        eye = torch.eye(length, dtype=torch.float64)

        def kernel(p: Tensor) -> Tensor:
            a2, s2, w2, scale = (v[:, None, None] for v in p.exp().unbind(1))
            r = math.sqrt(3) * far / scale
            return a2 + s2 * (1 + r) * (-r).exp() + (w2 + JITTER) * eye

        start = moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-4).log()
        p = torch.stack([start - 1.5, start - 0.7, start - 1.5, torch.full_like(start, math.log(4))], 1)
        p.requires_grad_()
        with torch.enable_grad():
            adam = torch.optim.Adam([p], lr=0.1)
            for _ in range(steps):
                factor = torch.linalg.cholesky(kernel(p))
                log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
                loss = (torch.cholesky_solve(moments, factor).diagonal(dim1=1, dim2=2).sum(1) + log_det).sum()
                adam.zero_grad()
                loss.backward()
                adam.step()
        covariance = torch.block_diag(*kernel(p.detach()))
        return cls(mean[:, None].expand(c, length), covariance, "Matérn process")

    def sample(self, obs: Observation, n: int = 1, seed: int = 0) -> Tensor:
        """Samples [B, n, C, L] of p(x | y).

        Raises:
            InputError: y is not linear in x with normal noise.
        """
        like = obs.likelihood
        if not isinstance(like, Gaussian) or not isinstance(like.operator, LinearOperator):
            raise InputError(f"a Gaussian is conditioned on A x + noise alone, with a linear A; got {like!r}")
        d, shape = len(self.covariance), self.mean.shape
        noise = Noise(seed_for("samples", seed), len(obs) * n).normal((2 * d,)).double().reshape(len(obs), n, 2 * d)
        x = self.mean.flatten() + noise[..., :d] @ self.factor.T
        out = [self._moved(x[i], noise[i, :, d:], obs[i : i + 1]) for i in range(len(obs))]
        return torch.stack(out).reshape(len(obs), n, *shape).to(obs.y.dtype)

    def _moved(self, x: Tensor, noise: Tensor, obs: Observation) -> Tensor:
        """x' [n, D] moved to samples of p(x | y) of one measurement."""
        like = obs.likelihood
        assert isinstance(like, Gaussian)
        eye = torch.eye(len(self.covariance), dtype=torch.float64).reshape(-1, *self.mean.shape)
        seen = like.measured_part(torch.ones_like(obs.y)).flatten() != 0
        a = like.operator(eye).flatten(1).T[seen]  # [M, D]
        sigma = float(like.sigma_y)
        y = obs.y.double().flatten()[seen]
        cross = self.covariance @ a.T
        inner = a @ cross + (sigma**2 + JITTER) * torch.eye(len(a), dtype=torch.float64)
        gap = y - x @ a.T - sigma * noise[:, : len(a)]
        moved: Tensor = x + torch.cholesky_solve(gap.T, torch.linalg.cholesky(inner)).T @ cross.T
        return moved
