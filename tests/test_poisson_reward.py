"""Photon noise, classes and rewards as likelihoods."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deft.core.random import BatchNoise, Noise, RowNoise, generator
from deft.errors import ContractError, InputError
from deft.guidance import ReconstructionGuidance
from deft.guidance.combine import Zero
from deft.likelihood import Classifier, Observation, Poisson, Reward
from deft.operator import HDR, BlockAverage, Identity, Linear, Mask, Matrix, PhaseRetrieval
from deft.samplers import sample_posterior
from deft.schedule import VPCosine
from deft.testing import check_likelihood
from deft.testing.worlds import two_modes


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed)).to(dtype)


def mask():
    return Mask((random(1, 1, 4, 4, seed=5) > 0).float())


STENCIL = torch.tensor([[[0.25, 0.5, 0.25]]], dtype=torch.float64)


def blur(x):
    return torch.nn.functional.conv1d(x[:, None], STENCIL.to(x.dtype), padding=1)[:, 0]


LIGHT = {
    "identity": (Identity, (1, 3, 4)),
    "mask": (mask, (1, 4, 4)),
    "block average": (lambda: BlockAverage(2), (1, 4, 4)),
    "blur": (lambda: Linear(blur, (8,), adjoint=blur), (8,)),
    "matrix": (lambda: Matrix(random(3, 5).abs()), (5,)),
    "phase retrieval": (PhaseRetrieval, (1, 4, 4)),
}


@pytest.mark.parametrize("peak", [5.0, torch.tensor([2.0, 30.0, 1000.0])], ids=["shared", "per sample"])
@pytest.mark.parametrize("name", LIGHT)
def test_poisson(name, peak):
    """All checks, where x leaves [-1, 1] as well: there the sensor's own light is counted."""
    make, shape = LIGHT[name]
    check_likelihood(Poisson(make(), peak, dark=0.02), shape, draws=1000)


@pytest.mark.parametrize("peak", [3.0, 100.0])
def test_scores_of_positive_intensities(peak):
    """E[score] = 0 and E[score^2] is the Fisher information peak / I where every intensity is positive."""
    like = Poisson(Identity(), peak)
    x = (0.8 * torch.tanh(random(1, 6))).expand(4000, 6)
    obs = Observation(like.sample(x, Noise(3, 4000)), like.repeat(4000))
    d = random(1, 6, seed=1)
    slope = (obs.score(x) * d).sum(1)
    fisher = (d**2 * peak / 4 / ((x[:1] + 1) / 2)).sum()
    assert abs(slope.mean()) < 4 * slope.std() / math.sqrt(4000)
    squares = slope.square()
    assert abs(squares.mean() - fisher) < 4 * squares.std() / math.sqrt(4000)


def test_poisson_density():
    """log_prob is that of torch.distributions, over seen entries alone."""
    seen = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    like = Poisson(Mask(seen), torch.tensor([4.0, 50.0]))
    x = torch.tanh(random(2, 4))
    y = like.sample(x, Noise(0, 2))
    peak = torch.tensor([[4.0], [50.0]], dtype=torch.float64)
    density = torch.distributions.Poisson(peak * (x + 1) / 2).log_prob((peak * y).round())
    torch.testing.assert_close(like.log_prob(y, x), (seen * density).sum(1))
    assert bool((y[:, 1] == 0).all())


@pytest.mark.parametrize("peak", [0.5, 8.0, 400.0, 1e5])
def test_counts(peak):
    """Mean and variance of the counts are their rate, within 5 standard errors; and they are whole."""
    like, n = Poisson(Identity(), peak), 20_000
    u = torch.tensor([0.3, 1.0], dtype=torch.float64)
    counts = peak * like.sample((2 * u - 1).expand(n, 2), BatchNoise(n, 0))
    torch.testing.assert_close(counts, counts.round(), rtol=1e-9, atol=1e-9)
    rate = peak * u
    assert bool(((counts.mean(0) - rate).abs() < 5 * (rate / n).sqrt()).all())
    fourth = rate * (1 + 3 * rate)  # E[(k - rate)^4]
    assert bool(((counts.var(0) - rate).abs() < 5 * ((fourth - rate**2) / n).sqrt()).all())


@pytest.mark.parametrize("make", [lambda n: Noise(1, n), lambda n: RowNoise(n, 1)], ids=["Noise", "RowNoise"])
def test_counts_belong_to_a_row(make):
    """A row's counts do not depend on its batch, and rows differ."""
    like, x = Poisson(Identity(), 50.0), torch.zeros(1, 8)
    whole = like.sample(x.expand(5, 8), make(5))
    assert torch.equal(like.sample(x.expand(3, 8), make(3)), whole[:3])
    assert not torch.equal(whole[0], whole[1])


def test_pull_is_the_gaussian_update_with_photon_noise():
    """Against the dense solution, per-pixel variance I / peak; and tends to rho2 times the score as rho2 -> 0."""
    a, peak, rho2 = random(4, 5).abs(), 20.0, 0.3
    like, x = Poisson(Matrix(a), peak), torch.tanh(random(2, 5, seed=1))
    y = like.sample(x, Noise(0, 2))
    pulled = like.approx_mean_update(y, x, torch.full((2, 1), rho2, dtype=x.dtype))
    light = (x + 1) / 2 @ a.mT
    for i in range(2):
        spread = torch.diag(light[i] / peak) + rho2 / 4 * a @ a.mT
        exact = rho2 / 2 * a.mT @ torch.linalg.solve(spread, y[i] - light[i])
        assert float((pulled[i] - exact).norm() / exact.norm()) < 2e-2
        solved = like.mean_update(y, x, torch.full((2, 1), rho2, dtype=x.dtype))[i]
        assert float((solved - exact).norm() / exact.norm()) < 1e-5
    small = torch.full((2, 1), 1e-8, dtype=x.dtype)
    torch.testing.assert_close(like.approx_mean_update(y, x, small), small * like.score(y, x), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", LIGHT)
def test_pull_is_bounded_and_lowers_the_misfit(name):
    """From pitch black, where the score is 0, at an enormous peak: bounded, and towards the light."""
    make, shape = LIGHT[name]
    like = Poisson(make(), 1e6)
    x, z = torch.full((3, *shape), -1.5, dtype=torch.float64), 0.5 * random(3, *shape).clamp(-1, 1)
    x = -0.9 + 0.05 * random(3, *shape, seed=2).clamp(-1, 1) if name == "phase retrieval" else x
    y = like.sample(z, Noise(0, 3))
    move = like.approx_mean_update(y, x, torch.ones(3, *[1] * len(shape), dtype=x.dtype))
    assert float(move.flatten(1).square().mean(1).sqrt().max()) < 10

    def misfit(v):
        return (like.operator.measured_part(y - like.operator((v + 1) / 2))).square().flatten(1).sum(1)

    assert bool((misfit(x + move) < misfit(x)).all())


class Dimmed(HDR):
    def __call__(self, x):
        return super().__call__(x) - 0.9


def test_negative_light_is_refused():
    x = torch.tanh(random(2, 4))
    with pytest.raises(InputError, match=r"Dimmed makes an intensity of .*negative"):
        Poisson(Dimmed(), 10.0).sample(x, Noise(0, 2))
    with pytest.raises(InputError, match=r"Linear makes an intensity of"):
        Poisson(Linear(lambda u: u[:, ::2] - u[:, 1::2], (4,)), 10.0).sample(x, Noise(0, 2))
    Poisson(Identity(), 10.0).sample(3 * x, Noise(0, 2))  # x's own fault, and nothing to stop for
    for peak in (0.0, -1.0, math.inf, torch.tensor([1.0, math.nan])):
        with pytest.raises(InputError, match=r"peak above 0"):
            Poisson(Identity(), peak)
    with pytest.raises(InputError, match=r"dark"):
        Poisson(Identity(), 1.0, dark=0.0)


# classes and rewards


def linear_classifier(d, classes, seed=0):
    net = nn.Sequential(nn.Flatten(), nn.Linear(d, classes)).double()
    with torch.no_grad():
        net[1].weight.copy_(random(classes, d, seed=seed))
        net[1].bias.zero_()
    return net


@pytest.mark.parametrize(("shape", "classes"), [((1, 3, 3), 4), ((3, 2, 2), 10), ((5,), 3), ((3, 2, 2), 40)])
def test_classifier(shape, classes):
    check_likelihood(Classifier(linear_classifier(math.prod(shape), classes), classes, shape), shape, draws=2000)


def test_classifier_draws_its_own_probabilities():
    like = Classifier(linear_classifier(4, 5), 5, (4,))
    x, n = random(1, 4), 5000
    share = torch.bincount(like.sample(x.expand(n, 4), Noise(0, n))[:, 0], minlength=5) / n
    p = like.log_probs(x)[0].exp()
    assert bool(((share - p).abs() < 4 * (p * (1 - p) / n).sqrt()).all())


@pytest.mark.parametrize(("shape", "classes"), [((1, 3, 3), 10), ((3, 2, 2), 10), ((3, 2, 2), 1000), ((7,), 3)])
def test_lift_tells_classes_apart(shape, classes):
    """Constant over the picture, another code for each class, one per row."""
    like = Classifier(nn.Identity(), classes, shape)
    obs = like.observe(range(classes))
    lifted = obs.features()
    assert lifted.shape == (classes, like.feature_channels * shape[0], *shape[1:])
    codes = lifted.flatten(2)[:, :, 0] if len(shape) > 1 else lifted
    assert len({tuple(c.tolist()) for c in codes}) == classes
    if len(shape) > 1:
        assert torch.equal(lifted, codes[:, :, None, None].expand_as(lifted))
    assert torch.equal(obs[2].features(), lifted[2:3]) and lifted.shape[1] <= 33


def test_classifier_guides_to_its_class():
    """Two modes and a classifier between them: the samples of class c lie in mode c, but for one in twenty; the
    prior alone has them 30 : 70."""
    world = two_modes(2, distance=4.0, std=0.5)
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-4.0, -4.0], [4.0, 4.0]]))
        net.bias.zero_()
    obs = Classifier(net, 2, (2,)).observe([0, 1])
    prior = world.prior(VPCosine())
    right = [(s.sum(-1) > 0).float().mean(1) for s in (
        sample_posterior(prior, h, obs, 200, steps=30).x for h in (ReconstructionGuidance(), Zero())
    )]  # fmt: skip
    assert float(right[0][0]) < 0.05 and float(right[0][1]) > 0.95
    assert abs(float(right[1].mean()) - 0.7) < 0.1


def test_network_is_frozen():
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    like = Classifier(net, 3, (4,))
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    moved = like.to("cpu")
    assert moved.net is not net
    torch.testing.assert_close(moved.log_probs(torch.ones(2, 4)), like.log_probs(torch.ones(2, 4)))


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_reward(beta):
    like = Reward(lambda x: -(x - 1).square().flatten(1).sum(1), beta, (1, 2, 3))
    check_likelihood(like, (1, 2, 3), y=torch.zeros(3, 1))
    obs = like.observe(4)
    x = random(4, 1, 2, 3)
    torch.testing.assert_close(obs.score(x), -2 * (x - 1) / beta)
    assert (
        len(obs) == 4 and obs.features().shape == (4, 0, 2, 3) and obs[1:3].repeat(2).features().shape == (4, 0, 2, 3)
    )
    with pytest.raises(InputError, match=r"no y can be drawn.*observe"):
        like.sample(x, Noise(0, 4))


def test_refusals():
    with pytest.raises(InputError, match=r"2 classes"):
        Classifier(nn.Identity(), 1, (3,))
    with pytest.raises(InputError, match=r"from 0 to 2"):
        Classifier(nn.Identity(), 3, (3,)).observe([0, 3])
    with pytest.raises(InputError, match=r"from 0 to 2"):
        Classifier(nn.Identity(), 3, (3,)).observe(torch.tensor([0.5]))
    with pytest.raises(ContractError, match=r"returned shape \(2, 4\), expected \(2, 3\)"):
        Classifier(nn.Identity(), 3, (4,)).observe([0, 1]).log_prob(torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"beta"):
        Reward(lambda x: x[:, 0], 0.0, (3,))
    with pytest.raises(ContractError, match=r"one number for each sample"):
        Reward(lambda x: x, 1.0, (3,)).observe(2).log_prob(torch.zeros(2, 3))
