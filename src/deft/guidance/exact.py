"""The exact h, where it has a closed form.

Mixture prior sum_k w_k N(m_k, C_k) and y = A x_0 + sigma_y n: given x_t, component k has the weight
r_k ~ w_k N(x_t; alpha m_k, alpha^2 C_k + sigma^2 I) and x_0 the mean mu_k = m_k + G_k (x_t - alpha m_k),
G_k = alpha C_k (alpha^2 C_k + sigma^2 I)^{-1}, and the covariance S_k = C_k - alpha G_k C_k, so that

    p_t(y | x_t) = sum_k r_k N(y; A mu_k, A S_k A^T + sigma_y^2 I),

and h is its gradient (paper, Proposition 2.2). One component is the Gaussian case.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deft.core.denoiser import Prediction
from deft.core.htransform import Potential
from deft.core.likelihood import Observation
from deft.core.operator import LinearOperator
from deft.errors import InputError
from deft.likelihood.event import Inside
from deft.likelihood.gaussian import linear


class Mixture(NamedTuple):
    """weights [K], means [K, d], covariances [K, d, d]: the distribution of x_0, flattened."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def given(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """p(x_0 | x_t): log responsibilities [B, K], means [B, K, d], covariances [B or 1, K, d, d].

        x_t [B, d]; alpha, sigma [B or 1, 1].
        """
        w, m, c = (v.to(x_t.dtype) for v in self)
        a, s = alpha[:, :, None, None], sigma[:, :, None, None]
        eye = torch.eye(c.shape[-1], dtype=c.dtype)
        factor = torch.linalg.cholesky(a**2 * c + s**2 * eye)
        gain = torch.cholesky_solve(a * c, factor).mT
        r = x_t[:, None] - alpha[:, :, None] * m
        log_n = -0.5 * _whiten(factor, r).square().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.log_softmax(w.log() + log_n, dim=1), m + _apply(gain, r), c - a * gain @ c


def _apply(matrix: Tensor, v: Tensor) -> Tensor:
    """matrix @ v, [B or 1, K, m, d] and [B, K, d] -> [B, K, m]; a shared matrix is not copied B times."""
    if matrix.shape[0] == 1:
        return (v.transpose(0, 1) @ matrix[0].mT).transpose(0, 1)
    return (matrix @ v[..., None])[..., 0]


def _whiten(factor: Tensor, v: Tensor) -> Tensor:
    """factor^{-1} v for a lower triangular factor; shapes as in `_apply`."""
    if factor.shape[0] == 1:
        return torch.linalg.solve_triangular(factor[0], v.permute(1, 2, 0), upper=False).permute(2, 0, 1)
    return torch.linalg.solve_triangular(factor, v[..., None], upper=False)[..., 0]


def dense(operator: LinearOperator, event_shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The matrix of a linear operator on flattened samples, [B or 1, m, d]."""
    d = math.prod(event_shape)
    columns = []
    for unit in torch.eye(d, dtype=dtype):
        columns.append(operator(unit.reshape(1, *event_shape)).flatten(1))
    return torch.stack(columns, dim=-1)


def log_normal(r: Tensor, covariance: Tensor) -> Tensor:
    """log N(r; 0, covariance), [B, K], of r [B, K, m] and covariances [B or 1, K, m, m]."""
    factor = torch.linalg.cholesky(covariance)
    white = _whiten(factor, r)
    half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * white.square().sum(-1) - half_log_det - 0.5 * r.shape[-1] * math.log(2 * math.pi)


class _ClosedForm(Potential):
    """A log_h that is a function of x_t alone: it needs no graph through the prior, only its own. Where x_t has a
    graph, h is differentiable in it."""

    needs_graph = False

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        if torch.is_grad_enabled() and pred.x_t.requires_grad:
            return torch.autograd.grad(self.log_h(pred, obs).sum(), pred.x_t, create_graph=True)[0]
        with torch.enable_grad():
            own = Prediction(pred.x_t.detach().requires_grad_(), pred.t, pred.alpha, pred.sigma, pred.mean)
            return super().forward(own, obs).detach()


class ExactMixture(_ClosedForm):
    """h for a Gaussian mixture prior and a linear measurement with Gaussian noise.

    >>> import deft
    >>> from deft.guidance import ExactMixture
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior = world.prior(deft.VPCosine())
    >>> draws = deft.sample_posterior(prior, ExactMixture(world.mixture), obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.02
    tensor(True)
    """

    def __init__(self, mixture: Mixture):
        super().__init__()
        self.mixture = mixture

    def log_h(self, pred: Prediction, obs: Observation) -> Tensor:
        like, operator = linear(obs, "the exact h")
        x = pred.x_t
        matrix = dense(operator, tuple(x.shape[1:]), x.dtype)[:, None]
        log_r, mean, cov = self.mixture.given(x.flatten(1), pred.alpha.flatten(1), pred.sigma.flatten(1))
        noise = (like.deviation.to(x.dtype) ** 2)[:, None, None, None]
        spread = matrix @ cov @ matrix.mT + noise * torch.eye(matrix.shape[-2], dtype=x.dtype)
        r = obs.y.to(x.dtype).flatten(1)[:, None] - _apply(matrix.expand(-1, mean.shape[1], -1, -1), mean)
        return torch.logsumexp(log_r + log_normal(r, spread), dim=1)


class ExactInside(_ClosedForm):
    """h for independent Gaussian coordinates N(m, c) and the event low < x_0 < high (paper, appendix C.2).

    p(y | x_t) = prod_i [ Phi((high - mu_i)/s) - Phi((low - mu_i)/s) ], mu and s^2 those of x_0 given x_t.
    """

    def __init__(self, mean: float = 0.0, variance: float = 1.0):
        super().__init__()
        self.mean, self.variance = mean, variance

    def log_h(self, pred: Prediction, obs: Observation) -> Tensor:
        like = obs.likelihood
        if not isinstance(like, Inside):
            raise InputError("ExactInside needs the likelihood `Inside`")
        a, s = pred.alpha.double(), pred.sigma.double()
        total = a**2 * self.variance + s**2
        mu = self.mean + a * self.variance / total * (pred.x_t.double() - a * self.mean)
        std = (self.variance * s**2 / total).sqrt()
        low, high = (like.low - mu) / std, (like.high - mu) / std
        if math.inf in (like.high, -like.low):  # a half-line: one term, and no gradient through an infinity
            one = -low if like.high == math.inf else high
            return torch.special.log_ndtr(one).flatten(1).sum(1).to(pred.x_t.dtype)
        # in the tail nearer to 0, where the difference of two numbers close to 1 would lose its digits
        flip = low + high > 0
        near, far = torch.where(flip, -low, high), torch.where(flip, -high, low)
        log_near, log_far = torch.special.log_ndtr(near), torch.special.log_ndtr(far)
        return (log_near + torch.log1p(-torch.exp(log_far - log_near))).flatten(1).sum(1).to(pred.x_t.dtype)
