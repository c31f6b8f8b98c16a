"""Worlds with a closed form: prior, exact h, posterior and evidence, for testing everything else.

world = gaussian_field(8)                      # or any mixture
prior = world.prior(VPCosine())                # exact denoiser
h = ExactMixture(world.mixture)                # exact h
world.posterior(obs)                           # exact posterior, a mixture again
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.core.random import Noise
from deft.core.schedule import Schedule
from deft.denoiser import MeanDenoiser
from deft.errors import InputError
from deft.guidance.exact import ExactInside, ExactMixture, Mixture, dense, log_normal
from deft.kinds.draws import Draws
from deft.likelihood.event import Inside
from deft.likelihood.gaussian import Gaussian, linear
from deft.operator.image import Mask


class Posterior(NamedTuple):
    """p(x_0 | y) of one measurement: a mixture again, with log p(y)."""

    mixture: Mixture
    log_evidence: float

    @property
    def mean(self) -> Tensor:
        return (self.mixture.weights[:, None] * self.mixture.means).sum(0)

    @property
    def covariance(self) -> Tensor:
        w, m, c = self.mixture
        d = m - self.mean
        return (w[:, None, None] * (c + d[:, :, None] * d[:, None, :])).sum(0)

    @property
    def std(self) -> Tensor:
        return self.covariance.diagonal().sqrt()

    def sample(self, n: int, seed: int = 0) -> Tensor:
        return sample_mixture(self.mixture, n, seed)


def sample_mixture(mixture: Mixture, n: int, seed: int = 0) -> Tensor:
    """n draws, [n, d]."""
    noise = Noise(seed, n)
    w, m, c = mixture
    k = torch.searchsorted(w.double().cumsum(0).contiguous(), noise.uniform().double()).clamp_max(len(w) - 1)
    z = noise.normal((m.shape[1],)).to(m.dtype)
    return m[k] + (torch.linalg.cholesky(c)[k] @ z[..., None])[..., 0]


class MixtureWorld:
    """A Gaussian mixture prior over samples of a given shape (its vectors are the flattened samples)."""

    def __init__(self, mixture: Mixture, event_shape: tuple[int, ...] | None = None):
        self.mixture = mixture
        self.event_shape = event_shape or (mixture.means.shape[1],)

    @property
    def h(self) -> ExactMixture:
        return ExactMixture(self.mixture)

    def prior(self, schedule: Schedule) -> Denoiser:
        """The exact E[x_0 | x_t]."""

        def mean(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            log_r, means, _ = self.mixture.given(x_t.flatten(1), alpha.flatten(1), sigma.flatten(1))
            return (log_r.exp()[..., None] * means).sum(1).reshape(x_t.shape)

        return MeanDenoiser(mean, schedule, self.event_shape)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        return sample_mixture(self.mixture, n, seed).reshape(n, *self.event_shape)

    def posterior(self, obs: Observation) -> Posterior:
        """Exact, for a single linear measurement with Gaussian noise; float64."""
        if len(obs) != 1:
            raise InputError(f"the posterior of one measurement at a time, got {len(obs)}: give obs[i]")
        like, operator = linear(obs, "the exact posterior")
        w, m, c = (v.double() for v in self.mixture)
        a = dense(operator, self.event_shape, torch.float64)[0]
        units = torch.eye(len(a), dtype=torch.float64).reshape(-1, *obs.y.shape[1:])
        values, axes = torch.linalg.eigh(operator.measured_part(units).flatten(1))
        axes = axes[:, values > 0.5]  # a mask's hole, and what a projection takes away, is no measurement
        a, y = axes.mT @ a, axes.mT @ obs.y.double().flatten()
        noise = float(like.deviation[0]) ** 2 * torch.eye(len(a), dtype=torch.float64)
        spread = a @ c @ a.mT + noise
        gain = torch.linalg.solve(spread, a @ c).mT
        r = y - (a @ m[..., None])[..., 0]
        log_w = w.log() + log_normal(r[None], spread[None])[0]
        mixture = Mixture(torch.softmax(log_w, 0), m + (gain @ r[..., None])[..., 0], c - gain @ a @ c)
        return Posterior(mixture, float(torch.logsumexp(log_w, 0)))


class InsideWorld:
    """Independent normal coordinates and the event low < x_0 < high: the posterior is a truncated normal."""

    def __init__(self, low: float, high: float, dim: int = 1):
        self.low, self.high, self.event_shape = low, high, (dim,)
        self.h = ExactInside()

    def prior(self, schedule: Schedule) -> Denoiser:
        return MeanDenoiser(lambda x, a, s: a * x / (a**2 + s**2), schedule, self.event_shape)

    def observation(self, n: int) -> Observation:
        return Observation(torch.ones(n, 1), Inside(self.low, self.high))

    def _phi(self, x: float) -> float:
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi) if math.isfinite(x) else 0.0

    @property
    def mass(self) -> float:
        """P(event) of one coordinate."""
        return 0.5 * (math.erf(self.high / math.sqrt(2)) - math.erf(self.low / math.sqrt(2)))

    @property
    def mean(self) -> float:
        return (self._phi(self.low) - self._phi(self.high)) / self.mass

    @property
    def variance(self) -> float:
        ends = [x * self._phi(x) if math.isfinite(x) else 0.0 for x in (self.low, self.high)]
        return 1 + (ends[0] - ends[1]) / self.mass - self.mean**2


def gaussian_field(side: int = 8, *, length: float = 2.0, std: float = 0.5, nugget: float = 1e-3) -> MixtureWorld:
    """A smooth Gaussian field on side x side pixels: covariance std^2 exp(-distance^2 / (2 length^2)) + nugget."""
    axis = torch.arange(side, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    c = std**2 * torch.exp(-(torch.cdist(points, points) ** 2) / (2 * length**2))
    c = c + nugget * torch.eye(side**2, dtype=torch.float64)
    return MixtureWorld(
        Mixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, side**2, dtype=torch.float64), c[None]),
        (side**2,),
    )


def half_seen(side: int = 8, sigma_y: float = 0.1, seed: int = 0) -> tuple[MixtureWorld, Observation]:
    """`gaussian_field(side)` and one measurement of it: a fixed random half of the pixels, with noise."""
    world = gaussian_field(side)
    mask = (torch.rand(1, side**2, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) < 0.5).float()
    like = Gaussian(Mask(mask), sigma_y)
    return world, Observation(like.sample(world.sample(1, seed + 1).float(), Noise(seed + 2, 1)), like)


def two_modes(dim: int = 2, distance: float = 4.0, std: float = 0.5, weight: float = 0.3) -> MixtureWorld:
    """Two round Gaussians, at -distance/2 (of this weight) and +distance/2 along every axis' diagonal."""
    m = torch.full((dim,), distance / 2 / math.sqrt(dim), dtype=torch.float64)
    eye = std**2 * torch.eye(dim, dtype=torch.float64)
    weights = torch.tensor([weight, 1 - weight], dtype=torch.float64)
    return MixtureWorld(Mixture(weights, torch.stack([-m, m]), torch.stack([eye, eye])))


def gaussian_chain(
    length: int = 24, *, bond: float = 0.475, stiffness: float = 0.02, nugget: float = 1e-5
) -> MixtureWorld:
    """A chain of beads on springs, centred: samples [L, 3], each axis N(0, C).

    C = (bond^2/3) (Laplacian of the path + stiffness I)^-1 without its mean (Rouse 1953, with a weak spring to the
    middle, so that the chain is compact), and a nugget. bond: root mean square of neighbours' distance, nearly; 0.475
    is that of C-alphas in units of 8 angstrom.
    """
    eye = torch.eye(length, dtype=torch.float64)
    path = torch.diag(torch.ones(length - 1, dtype=torch.float64), 1)
    links = path + path.mT
    laplacian = torch.diag(links.sum(1)) - links
    centre = eye - 1 / length
    c = bond**2 / 3 * centre @ torch.linalg.inv(laplacian + stiffness * eye) @ centre + nugget * eye
    whole = torch.kron(c, torch.eye(3, dtype=torch.float64))
    return MixtureWorld(
        Mixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, 3 * length, dtype=torch.float64), whole[None]),
        (length, 3),
    )


def gaussian_pairs(
    count: int, n: int, *, scale: float = 1.0, shift: float = 0.0, sigma_y: float = 0.7, dim: int = 2, seed: int = 0
) -> tuple[Draws, Tensor]:
    """(draws, truth): `count` measurements y = x + sigma_y noise of x ~ N(0, I), and n samples of each one's posterior.

    The posterior is N(y / (1 + sigma_y^2), sigma_y^2 / (1 + sigma_y^2) I). scale multiplies its deviation, and shift
    moves its mean by so many deviations: 1 and 0 are exact, all else is wrong in a known way.
    """
    noise = Noise(seed, count)
    truth = noise.normal((dim,))
    y = truth + sigma_y * noise.normal((dim,))
    mean, std = y / (1 + sigma_y**2), sigma_y / math.sqrt(1 + sigma_y**2)
    return Draws(mean[:, None] + std * (shift + scale * noise.normal((n, dim)))), truth
