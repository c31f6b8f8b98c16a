"""Every row of every table: a sampler or schedule added is a test suite added."""

from __future__ import annotations

import math

import pytest
import torch

from deft.core.condition import condition
from deft.core.grid import times
from deft.core.sampler import Sampler
from deft.denoiser import NetworkDenoiser
from deft.denoiser.parametrisation import OUTPUTS, to_output
from deft.guidance.exact import Mixture
from deft.likelihood import Gaussian, Observation
from deft.operator import Matrix
from deft.samplers import DDIM, SAMPLERS, Ancestral, sample, sample_posterior
from deft.schedule import SCHEDULES, VPCosine
from deft.testing import MixtureWorld, check_sampler, moments, schedules

F64 = torch.float64
ALL = schedules()
C = torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=F64)
WORLD = MixtureWorld(Mixture(torch.ones(1, dtype=F64), torch.tensor([[0.4, -0.3]], dtype=F64), C[None]))
OBS = Observation(torch.tensor([[0.6]], dtype=F64), Gaussian(Matrix(torch.tensor([[1.0, -0.5]], dtype=F64)), 0.3))


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler(name):
    check_sampler(SAMPLERS[name]())


@pytest.mark.parametrize("conditioned", [False, True], ids=["prior", "posterior"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_ends_in_the_right_law(name, schedule, conditioned):
    """The exact mean and covariance of what 100 steps draw are the prior's (the posterior's, with the exact h): to
    5 % of a deviation, and to 5 %; 2 % under a sampler of second order."""
    exact = WORLD.posterior(OBS).mixture if conditioned else WORLD.mixture
    prior = WORLD.prior(ALL[schedule])
    denoiser = condition(prior, WORLD.h, OBS.repeat(5)) if conditioned else prior
    sampler = SAMPLERS[name]()
    mean, covariance = moments(denoiser, sampler, times(ALL[schedule], 100))
    std = exact.covariances[0].diagonal().sqrt()
    most = 0.05 if sampler.order == 1 else 0.02
    assert float(((mean - exact.means[0]) / std).abs().max()) < most
    assert float((covariance.diagonal().sqrt() / std - 1).abs().max()) < most


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_moments(name):
    """`sample` draws from the law that `moments` computes: 4 standard errors of 2,000, with the exact h."""
    n, sampler = 2000, SAMPLERS[name]()
    prior, grid = WORLD.prior(VPCosine()), times(VPCosine(), 20)
    x = sample(condition(prior, WORLD.h, OBS.repeat(n)), n, sampler=sampler, grid=grid).double()
    mean, covariance = moments(condition(prior, WORLD.h, OBS.repeat(5)), sampler, grid)
    std = covariance.diagonal().sqrt()
    assert bool(((x.mean(0) - mean).abs() < 4 * std / math.sqrt(n)).all())
    assert bool(((x.std(0) / std - 1).abs() < 4 / math.sqrt(2 * n)).all())
    correlation = covariance[0, 1] / std.prod()
    assert abs(torch.corrcoef(x.mT)[0, 1] - correlation) < 4 * (1 - correlation**2) / math.sqrt(n)


@pytest.mark.parametrize("output", OUTPUTS)
def test_outputs_sample_alike(output):
    """The same prior behind every kind of network output draws the same samples."""
    prior, schedule = WORLD.prior(VPCosine()), VPCosine()

    def net(x, t):
        pred = prior(x, t)
        return to_output(output, x, pred.mean, pred.alpha, pred.sigma)

    x = sample(NetworkDenoiser(net, schedule, (2,), output), 8, steps=10)
    torch.testing.assert_close(x, sample(prior, 8, steps=10), rtol=1e-3, atol=1e-3)


def test_sample_posterior_does_not_mind_its_batch():
    obs = OBS.repeat(3)
    prior = WORLD.prior(VPCosine())
    whole = sample_posterior(prior, WORLD.h, obs, 4, steps=10, batch=64).x
    assert whole.shape == (3, 4, 2)
    torch.testing.assert_close(
        sample_posterior(prior, WORLD.h, obs, 4, steps=10, batch=5).x, whole, rtol=1e-5, atol=1e-5
    )
    second = sample_posterior(prior, WORLD.h, obs[1], 4, steps=10, first=1).x
    torch.testing.assert_close(second[0], whole[1], rtol=1e-5, atol=1e-5)


class StopsEarly(DDIM):
    def step(self, denoiser, x_t, t, s, noise, carry):
        return (x_t, None) if s.sigma == 0 else super().step(denoiser, x_t, t, s, noise, carry)


class CallsTwice(DDIM):
    def step(self, denoiser, x_t, t, s, noise, carry):
        super().step(denoiser, x_t, t, s, noise, carry)
        return super().step(denoiser, x_t, t, s, noise, carry)


class OwnNoise(Ancestral):
    def step(self, denoiser, x_t, t, s, noise, carry):
        return super().step(denoiser, x_t, t, s, None if noise is None else torch.randn_like(noise), carry)


class NormOfTheBatch(DDIM):
    def step(self, denoiser, x_t, t, s, noise, carry):
        x, carry = super().step(denoiser, x_t, t, s, noise, carry)
        return (x if s.sigma == 0 else x / x.std() * s.sigma), carry


@pytest.mark.parametrize(
    ("sampler", "finds"),
    [(StopsEarly(), "clean end"), (CallsTwice(), "calls"), (OwnNoise(), "deterministic"), (NormOfTheBatch(), "batch")],
    ids=lambda v: type(v).__name__ if isinstance(v, Sampler) else None,
)
def test_check_sampler_finds(sampler, finds):
    with pytest.raises(AssertionError, match=finds):
        check_sampler(sampler, [VPCosine()])
