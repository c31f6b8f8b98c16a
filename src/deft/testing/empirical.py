"""A truth for every kind of data: the prior is N items, and the posterior of any measurement N weights.

    p(x_0) = sum_i w_i N(x_0; m_i, width^2 I),    p(i | y) ~ w_i p(y | m_i)   at width 0,

for samples of any shape and every likelihood with a density, non-linear ones too. With x_t = alpha x_0 + sigma n and
v_t = alpha^2 width^2 + sigma^2,

    E[x_0 | x_t] = sum_i r_i mu_i,   r_i ~ w_i exp(-|x_t - alpha m_i|^2 / (2 v_t)),
    mu_i = m_i + (alpha width^2 / v_t) (x_t - alpha m_i),

and E[x_0 | x_t, y] is the same with r_i p(y | m_i): prior, exact h and posterior are closed forms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, Prediction
from deft.core.htransform import Potential
from deft.core.likelihood import Observation
from deft.core.operator import LinearOperator
from deft.core.random import Noise, generator, seed_for
from deft.core.schedule import Schedule
from deft.denoiser import MeanDenoiser
from deft.errors import InputError
from deft.guidance.exact import dense
from deft.kinds.draws import Draws
from deft.likelihood.gaussian import Gaussian, noise_variance

F64 = torch.float64


class Empirical:
    """N items as a prior: see the module's formulas.

    What samplers do is then known exactly on real shapes and for non-linear operators: a sampler under the exact h
    (`world.h`) has to end at item i with probability p(i | y).

    Args:
        items: m [N, *E], in model space. weights: w [N], their probabilities; default 1 / N.
        width: standard deviation around each item; 0 for the items themselves. Above 0, `h` and the closed-form
            `posterior` are for linear measurements with Gaussian noise; those of others are drawn (`posterior`).

    Raises:
        InputError: no items, values that are not finite, weights of another number.

    >>> import deft
    >>> world = Empirical(torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.9, -0.5]]))
    >>> # y = clip(2 x, -1, 1) + noise
    >>> obs = deft.Observation(torch.tensor([[0.9, 0.9]]), deft.Gaussian(deft.operator.HDR(2.0), 0.3))
    >>> exact = world.posterior(obs)
    >>> exact.weights.round(decimals=3)
    tensor([[0., 1., 0.]], dtype=torch.float64)
    >>> x = deft.sample(deft.condition(world.prior(deft.VPCosine()), world.h, obs.repeat(50)), 50, steps=20)
    >>> world.frequencies(x)
    tensor([0., 1., 0.], dtype=torch.float64)
    """

    def __init__(self, items: Tensor, width: float = 0.0, weights: Tensor | None = None):
        if not isinstance(items, Tensor) or items.ndim < 2 or not len(items) or not items.is_floating_point():
            shape = tuple(items.shape) if isinstance(items, Tensor) else type(items).__name__
            raise InputError(f"items are a floating-point tensor [N, *E] of one item or more, got {shape}")
        if not bool(torch.isfinite(items).all()) or not 0 <= width < math.inf:
            raise InputError(f"items must be finite, and width a number from 0, got width = {width}")
        w = torch.ones(len(items)) if weights is None else torch.as_tensor(weights)
        if w.shape != (len(items),) or not bool((w >= 0).all()) or not float(w.sum()) > 0:
            raise InputError(f"weights are {len(items)} probabilities, one an item, got shape {tuple(w.shape)}")
        self.items, self.width = items.detach().double(), float(width)
        self.weights = w.double() / w.double().sum()
        self.event_shape = tuple(items.shape[1:])
        self._half = self.items.flatten(1).square().sum(1) / 2

    @property
    def h(self) -> ExactEmpirical:
        """The exact h."""
        return ExactEmpirical(self)

    def prior(self, schedule: Schedule) -> Denoiser:
        """The exact E[x_0 | x_t]."""

        def mean(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            log_r, gain = self.given(x_t, alpha, sigma)
            return self.mean_of(log_r.softmax(1), x_t, alpha, gain)

        return MeanDenoiser(mean, schedule, self.event_shape)

    def given(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(log of w_i N(x_t; alpha m_i, v_t I) up to a constant of each row, [B, N] float64; alpha width^2 / v_t)."""
        a, s = (v.double().flatten(1) for v in (alpha, sigma))
        total = a**2 * self.width**2 + s**2
        inner = x_t.double().flatten(1) @ self.items.flatten(1).mT
        log_r = self.weights.log() + (a * inner - a**2 * self._half) / total
        return log_r, a * self.width**2 / total

    def mean_of(self, r: Tensor, x_t: Tensor, alpha: Tensor, gain: Tensor) -> Tensor:
        """sum_i r_i mu_i, like x_t."""
        a = alpha.double().flatten(1)
        mean = (1 - gain * a) * (r @ self.items.flatten(1)) + gain * x_t.double().flatten(1)
        return mean.reshape(x_t.shape).to(x_t.dtype)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n draws of the prior, [n, *E], in float32."""
        noise = Noise(seed_for("prior samples", seed), n)  # not the one of measurements of the same seed
        x = self.items[_pick(self.weights.expand(n, -1), noise.uniform())]
        return (x + self.width * noise.normal(self.event_shape)).float()

    def log_likelihood(self, obs: Observation) -> Tensor:
        """log p(y | m_i) of each measurement and item, [B, N], float64; of the item itself, whatever the width.

        Raises:
            InputError: a likelihood without a density.
        """
        if not obs.likelihood.has_density:
            raise InputError(f"the posterior weighs items by p(y | x), and {obs.likelihood.kind} has no density")
        like = obs.y.dtype
        with torch.no_grad():
            columns = [obs.log_prob(item[None].to(like)).double().expand(len(obs)) for item in self.items]
        return torch.stack(columns, 1)

    def posterior(self, obs: Observation, *, draws: int = 256, seed: int = 0) -> EmpiricalPosterior:
        """p(x_0 | y) of each measurement: N weights, and what lies around each item.

        Exact at width 0 for every likelihood, and at any width for a linear one with Gaussian noise: then the mean of
        component i is m_i + width^2 A^T S^{-1} (y - A m_i), S = width^2 A A^T + sigma_y^2 I. For other likelihoods with
        a width it is a sum over `draws` points around each item, weighted by p(y | x): the weight of an item is known
        to its relative standard error, about sqrt(Var p / draws) / E p over the points around it.

        Raises:
            InputError: no item explains a measurement, or a likelihood without a density.

        >>> import deft
        >>> world = Empirical(torch.tensor([[0.0], [1.0]]), width=0.5)
        >>> obs = deft.Observation(torch.tensor([[1.0]]), deft.Gaussian(deft.Identity(), 0.5))
        >>> exact = world.posterior(obs)                       # means (m_i + y) / 2, weights of N(y; m_i, 1/2)
        >>> exact.weights.round(decimals=4), exact.mean
        (tensor([[0.2689, 0.7311]], dtype=torch.float64), tensor([[0.8655]]))
        """
        if self.width and _linear(obs):
            return _linear_posterior(self, obs)
        x, log_joint = self.items, self.weights.log() + self.log_likelihood(obs)
        if self.width:
            around = torch.randn(len(x), draws, *x.shape[1:], generator=generator(seed, 45), dtype=F64)
            x = x[:, None] + self.width * around
            log_w = self.weights.log()[:, None] - math.log(draws)
            log_joint = torch.stack([(log_w + _log_probs(one, x)).flatten() for one in obs])
            x = x.flatten(0, 1)  # item by item
        if bool((log_joint == -math.inf).all(1).any()):
            raise InputError("no item explains one of the measurements: p(y | x) is 0 for all of them")
        p = log_joint.softmax(1)
        items = p.reshape(len(obs), len(self.items), -1).sum(2)
        points = x.expand(len(obs), *x.shape)
        return EmpiricalPosterior(items, log_joint.logsumexp(1), p, points, obs.y.dtype)

    def nearest(self, x: Tensor) -> Tensor:
        """The number of the item next to each sample [B, *E], [B]."""
        inner = x.detach().double().flatten(1) @ self.items.flatten(1).mT
        return (inner - self._half).argmax(1)

    def frequencies(self, x: Tensor) -> Tensor:
        """How often each item is the next one of the samples [n, *E], [N]: compare with `posterior(obs).weights`."""
        return torch.bincount(self.nearest(x), minlength=len(self.items)).double() / len(x)

    def distance(self, x: Tensor, weights: Tensor) -> tuple[float, float, float]:
        """(total variation between the samples' frequencies and the weights [N], and its mean and standard deviation
        for as many exact samples).

        The last two are of 2,000 multinomial draws.
        """
        p = weights.double().flatten()
        counts = torch.distributions.Multinomial(len(x), p)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            chance = (counts.sample((2000,)) / len(x) - p).abs().sum(1) / 2
        return float((self.frequencies(x) - p).abs().sum() / 2), float(chance.mean()), float(chance.std())


@dataclass(frozen=True, eq=False)
class EmpiricalPosterior:
    """The posteriors of B measurements.

    weights: p(item i | y), [B, N]. log_evidence: log p(y), [B]. point_weights, points: all that x_0 may be, [B, M] and
    [B, M, *E], the items themselves at width 0. root: where a normal lies around each point, R [B or 1, d, d] with
    covariance R R^T. All float64; `mean`, `std` and samples are of `dtype`.
    """

    weights: Tensor
    log_evidence: Tensor
    point_weights: Tensor
    points: Tensor
    dtype: torch.dtype
    root: Tensor | None = None

    def _moment(self, values: Tensor) -> Tensor:
        return torch.einsum("bm,bm...->b...", self.point_weights, values)

    @cached_property
    def mean(self) -> Tensor:
        """E[x_0 | y], [B, *E]."""
        return self._moment(self.points).to(self.dtype)

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation of each entry, [B, *E]."""
        mean = self._moment(self.points)
        variance = self._moment((self.points - mean[:, None]).square())
        if self.root is not None:
            variance = variance + self.root.square().sum(2).reshape(-1, *mean.shape[1:])
        return variance.sqrt().to(self.dtype)

    def sample(self, n: int, seed: int = 0) -> Draws:
        """n independent samples of each, for `deft.diagnose` and for comparison."""
        g = generator(seed, 46)
        chance = torch.rand(len(self.points), n, generator=g, dtype=F64)
        x = torch.stack([p[k] for p, k in zip(self.points, _pick(self.point_weights, chance), strict=True)])
        if self.root is not None:
            normal = torch.randn(len(x), n, self.root.shape[1], generator=g, dtype=F64)
            x = x + (normal @ self.root.mT).reshape(x.shape)
        return Draws(x.to(self.dtype))


def _log_probs(obs: Observation, x: Tensor) -> Tensor:
    """log p(y | x) of one measurement for the points around each item, [N, M, *E] -> [N, M], float64."""
    many = obs.repeat(x.shape[1])
    with torch.no_grad():
        return torch.stack([many.log_prob(part.to(obs.y.dtype)).double() for part in x])


def _pick(weights: Tensor, chance: Tensor) -> Tensor:
    """Numbers drawn by their weights [B, M], for each of the uniform numbers [B, ...]."""
    rows = chance.double().reshape(len(weights), -1).contiguous()
    found = torch.searchsorted(weights.cumsum(1).contiguous(), rows * weights.sum(1, keepdim=True), right=True)
    return found.clamp_max(weights.shape[1] - 1).reshape(chance.shape)


def _linear(obs: Observation) -> bool:
    return isinstance(obs.likelihood, Gaussian) and isinstance(obs.likelihood.operator, LinearOperator)


def _linear_posterior(world: Empirical, obs: Observation) -> EmpiricalPosterior:
    """The mixture of normals, by dense linear algebra, a measurement at a time."""
    found = []
    for one in obs:
        like = one.likelihood
        assert isinstance(like, Gaussian) and isinstance(like.operator, LinearOperator)
        keep = like.operator.measured_part(torch.ones_like(one.y)).flatten() != 0
        a = dense(like.operator, world.event_shape, F64)[0][keep]
        s2 = float(like.deviation[0]) ** 2
        eye = torch.eye(len(a), dtype=F64)
        spread = world.width**2 * a @ a.mT + s2 * eye
        r = one.y.double().flatten()[keep] - world.items.flatten(1) @ a.mT
        gain = world.width**2 * torch.linalg.solve(spread, a).mT
        log_n = -0.5 * (r * torch.linalg.solve(spread, r.mT).mT).sum(1)
        log_n = log_n - 0.5 * float(torch.logdet(2 * math.pi * spread))
        log_joint = world.weights.log() + log_n
        means = world.items + (r @ gain.mT).reshape(world.items.shape)
        left = torch.eye(a.shape[1], dtype=F64) - gain @ a
        root = torch.linalg.cholesky(world.width**2 * (left @ left.mT) + s2 * gain @ gain.mT)
        found.append((log_joint, means, root))
    log_joint, means, root = (torch.stack(parts) for parts in zip(*found, strict=True))
    p = log_joint.softmax(1)
    return EmpiricalPosterior(p, log_joint.logsumexp(1), p, means, obs.y.dtype, root)


class ExactEmpirical(Potential):
    """The exact h of an `Empirical` prior, in closed form: h = (alpha / sigma^2) (E[x_0 | x_t, y] - E[x_0 | x_t]).

    At width 0 for every likelihood with a density:

        E[x_0 | x_t, y] = sum_i r_i p(y | m_i) m_i / sum_i r_i p(y | m_i).

    With a width, for a linear one with Gaussian noise: with s^2 = width^2 sigma^2 / v_t what x_t leaves open around an
    item and S = s^2 A A^T + sigma_y^2 I, item i has r_i N(y; A mu_i, S) for a weight and mu_i + s^2 A^T S^{-1} (y - A
    mu_i) for a mean.

    Raises (when called):
        InputError: a width, and another likelihood.
    """

    needs_graph = False

    def __init__(self, world: Empirical):
        super().__init__()
        self.world = world
        self._known: tuple[Observation, Tensor] | None = None

    def _weights(self, pred: Prediction, obs: Observation) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """(log r_i, log r_i p(y | x_t, i) up to a constant of the row, gain, moves [B, N, *E] of the linear case)."""
        world = self.world
        log_r, gain = world.given(pred.x_t, pred.alpha, pred.sigma)
        if not world.width:
            if self._known is None or self._known[0] is not obs:  # the same at every step
                self._known = (obs, world.log_likelihood(obs))
            return log_r, log_r + self._known[1], gain, None
        if not _linear(obs):
            raise InputError(
                f"the exact h of items with a width is for linear measurements with Gaussian noise, got"
                f" {obs.likelihood.kind}: take width = 0"
            )
        b, n, shape = len(pred.x_t), len(world.items), world.event_shape
        g = gain.reshape(-1, 1, *[1] * len(shape))
        a = pred.alpha.double().reshape(g.shape)
        mu = (1 - g * a) * world.items + g * pred.x_t.double()[:, None]
        rows = obs.repeat(n) if len(obs) == b else obs.repeat(b * n)
        like = rows.likelihood
        assert isinstance(like, Gaussian) and isinstance(like.operator, LinearOperator)
        operator = like.operator
        r = operator.measured_part(rows.y.double() - operator(mu.flatten(0, 1)))
        left = (world.width**2 - g * a * world.width**2).expand(b, n, *[1] * len(shape)).flatten(0, 1)
        noise = noise_variance(like, r)
        solved = operator.solve(r, noise, left.reshape(-1, *[1] * (r.ndim - 1)))
        log_n = -0.5 * (r * solved).flatten(1).sum(1).reshape(b, n)
        move = (left * operator.adjoint(solved)).reshape(b, n, *shape)
        return log_r, log_r + log_n, gain, move

    def log_h(self, pred: Prediction, obs: Observation) -> Tensor:
        """log p(y | x_t), [B]."""
        log_r, log_joint, _, move = self._weights(pred, obs)
        value = log_joint.logsumexp(1) - log_r.logsumexp(1)
        if move is not None:
            value = value - self._half_log_det(pred, obs)
        return value.to(pred.x_t.dtype)

    def _half_log_det(self, pred: Prediction, obs: Observation) -> Tensor:
        """log det(2 pi S) / 2 over what was measured, [B or 1], from the singular values of A."""
        like = obs.likelihood
        assert isinstance(like, Gaussian) and isinstance(like.operator, LinearOperator)
        a, s = (v.double().flatten(1) for v in (pred.alpha, pred.sigma))
        left = (self.world.width * s) ** 2 / (a**2 * self.world.width**2 + s**2)
        noise = like.deviation.double()[:, None] ** 2
        squares = like.operator.spectrum(self.world.event_shape, pred.x_t).values.double().flatten(1) ** 2
        count = like.operator.number_of_measurements(obs.y).double()
        return 0.5 * (torch.log1p(left / noise * squares).sum(1) + count * (2 * math.pi * noise[:, 0]).log())

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        log_r, log_joint, gain, move = self._weights(pred, obs)
        p = log_joint.softmax(1)
        a, s = (v.double().flatten(1) for v in (pred.alpha, pred.sigma))
        change = (1 - gain * a) * ((p - log_r.softmax(1)) @ self.world.items.flatten(1))
        if move is not None:
            change = change + torch.einsum("bn,bnd->bd", p, move.flatten(2))
        return (a / s**2 * change).reshape(pred.x_t.shape).to(pred.x_t.dtype)
