"""Every operator and likelihood of the library passes the checks that users run on theirs; and broken ones fail."""

from __future__ import annotations

import math

import pytest
import torch

from deft.core.random import Noise
from deft.errors import ContractError, InputError
from deft.likelihood import Gaussian, Inside, Observation
from deft.operator import BlockAverage, Identity, Linear, LinearOperator, Mask, Matrix, Operator
from deft.testing import check_likelihood, check_operator


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def holes(*shape, seed=0):
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5).float()
    mask.flatten(1)[:, 0] = 1  # something is seen
    return mask


class Saturating(Operator):
    """A non-linear operator, to try the base class's defaults: y = tanh(2x)."""

    def __call__(self, x):
        return torch.tanh(2 * x)

    def features(self, y):
        return y


KERNEL = random(2, 5, seed=3)
STENCIL = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)


def blur(x):
    return torch.nn.functional.conv1d(x[:, None], STENCIL.to(x.dtype)[None, None], padding=1)[:, 0]


OPERATORS = {
    "mask, shared": (lambda: Mask(holes(1, 2, 4, 4)), (2, 4, 4)),
    "mask, per sample": (lambda: Mask(holes(3, 2, 4, 4)), (2, 4, 4)),
    "mask, one for all channels": (lambda: Mask(holes(3, 1, 4, 4)), (2, 4, 4)),
    "mask, vector": (lambda: Mask(holes(1, 6)), (6,)),
    "block average 2": (lambda: BlockAverage(2), (2, 4, 8)),
    "block average 1": (lambda: BlockAverage(1), (1, 4, 4)),
    "identity": (Identity, (1, 3, 3)),
    "matrix, wide": (lambda: Matrix(KERNEL), (5,)),
    "matrix, tall": (lambda: Matrix(KERNEL.mT), (2,)),
    "matrix, per sample": (lambda: Matrix(random(3, 2, 5)), (5,)),
    "matrix, singular": (lambda: Matrix(torch.ones(2, 4, dtype=torch.float64)), (4,)),
    "linear, adjoint by autograd": (lambda: Linear(blur, (6,)), (6,)),
    "linear, adjoint given": (lambda: Linear(blur, (6,), adjoint=blur), (6,)),
    "linear, onto fewer": (lambda: Linear(lambda x: x[:, ::2] - x[:, 1::2], (6,)), (6,)),
    "non-linear": (Saturating, (6,)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name):
    make, shape = OPERATORS[name]
    check_operator(make(), shape)


@pytest.mark.parametrize("name", [k for k in OPERATORS if "matrix" not in k])
def test_operator_in_float32(name):
    make, shape = OPERATORS[name]
    check_operator(make(), shape, dtype=torch.float32)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sigma", ["scalar", "per sample"])
def test_gaussian(name, sigma):
    make, shape = OPERATORS[name]
    check_likelihood(Gaussian(make(), 0.2 if sigma == "scalar" else torch.tensor([0.05, 0.2, 1.0])), shape)


@pytest.mark.parametrize("name", OPERATORS)
def test_noiseless_measurement_has_a_surrogate(name):
    make, shape = OPERATORS[name]
    like = Gaussian(make(), 0.0, surrogate=0.05)
    check_likelihood(like, shape, statistics=False)
    x = random(3, *shape)
    torch.testing.assert_close(like.sample(x, Noise(0, 3)), make()(x))
    stated = Gaussian(make(), 0.05)
    torch.testing.assert_close(like.score(make()(x), x + 1), stated.score(make()(x), x + 1))


def test_some_noiseless_among_noisy():
    like = Gaussian(Identity(), torch.tensor([0.0, 0.5]), surrogate=0.1)
    x = random(2, 4)
    y = like.sample(x, Noise(0, 2))
    assert torch.equal(y[0], x[0]) and not torch.equal(y[1], x[1])
    torch.testing.assert_close(like.deviation, torch.tensor([0.1, 0.5]))


def test_gaussian_density():
    """log_prob is the normal density over seen entries, written out by torch.distributions."""
    mask = holes(3, 6)
    x, y = random(3, 6), mask * random(3, 6, seed=1)
    sigma = torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64)
    density = torch.distributions.Normal(x, sigma[:, None]).log_prob(y)
    torch.testing.assert_close(
        Gaussian(Mask(mask), sigma).log_prob(y, x), (mask * density).sum(1), rtol=1e-5, atol=1e-5
    )


def test_noise_is_added_to_seen_entries_alone():
    """Hidden entries stay 0; the noise's deviation is sigma_y within 4 standard errors."""
    mask, n = holes(1, 8), 4000
    like = Gaussian(Mask(mask), 0.3)
    y = like.sample(torch.zeros(n, 8), Noise(0, n))
    seen = mask[0] > 0
    assert float(y[:, ~seen].abs().max()) == 0
    assert abs(y[:, seen].std() / 0.3 - 1) < 4 / math.sqrt(2 * n * int(seen.sum()))


def test_pull_is_the_gaussian_update():
    """pull = E[x | y] - mean for the belief N(mean, rho^2 I), solved densely."""
    a, y, mean = random(2, 4), random(1, 2, seed=1), random(1, 4, seed=2)
    rho2, sigma = 0.7, 0.2
    precision = a.mT @ a / sigma**2 + torch.eye(4, dtype=torch.float64) / rho2
    right = a.mT @ y[0] / sigma**2 + mean[0] / rho2
    update = torch.linalg.solve(precision, right) - mean[0]
    pulled = Gaussian(Matrix(a), torch.tensor(sigma, dtype=torch.float64)).approx_mean_update(
        y, mean, torch.full((1, 1), rho2)
    )
    torch.testing.assert_close(pulled[0], update, rtol=1e-6, atol=1e-6)


def test_event():
    like = Inside(-1.0, 2.0)
    inside = torch.full((3, 2), 0.5, dtype=torch.float64)
    outside = torch.tensor([[0.0, 3.0]], dtype=torch.float64)
    assert like.sample(torch.cat([inside, outside]), Noise(0, 4)).flatten().tolist() == [1, 1, 1, 0]
    assert like.log_prob(torch.ones(1, 1), outside).item() == -math.inf
    assert like.log_prob(torch.ones(3, 1), inside).tolist() == [0, 0, 0]
    assert like.log_prob(torch.zeros(1, 1), outside).item() == 0
    with pytest.raises(InputError, match=r"low < high"):
        Inside(1.0, 1.0)


def test_observation_is_one_immutable_thing():
    like = Gaussian(Mask(holes(3, 6)), torch.tensor([0.1, 0.2, 0.3]))
    obs = Observation(like.sample(random(3, 6), Noise(0, 3)), like)
    with pytest.raises(AttributeError, match=r"immutable"):
        obs.y = obs.y
    x = random(3, 6, seed=4)
    whole = obs.log_prob(x)
    for i in (0, 2, -1):
        torch.testing.assert_close(obs[i].log_prob(x[i][None])[0], whole[i])
    torch.testing.assert_close(obs[1:].log_prob(x[1:]), whole[1:])
    torch.testing.assert_close(obs[torch.tensor([2, 0])].log_prob(x[[2, 0]]), whole[[2, 0]])
    torch.testing.assert_close(obs.repeat(2).log_prob(x.repeat_interleave(2, 0)), whole.repeat_interleave(2))
    assert len(obs[1:].repeat(4)) == 8


def test_refusals():
    with pytest.raises(ContractError, match=r"1 .seen. and 0"):
        Mask(torch.full((1, 4), 0.5))
    with pytest.raises(ContractError, match=r"6x4.*factor 4"):
        BlockAverage(4)(torch.zeros(1, 1, 6, 4))
    with pytest.raises(ContractError, match=r"\[m, d\]"):
        Matrix(torch.zeros(3))
    with pytest.raises(InputError, match=r"sigma_y"):
        Gaussian(Identity(), -0.1)


# The checks themselves must be able to fail: one broken operator for each thing they promise to find.


class Broken(LinearOperator):
    """y = 2x, unless told otherwise."""

    def __call__(self, x):
        return 2 * x

    def adjoint(self, y):
        return 2 * y


class WrongAdjoint(Broken):
    def adjoint(self, y):
        return y


class Affine(Broken):
    def __call__(self, x):
        return 2 * x + 1


class SeesTheBatch(Broken):
    def __call__(self, x):
        return x - x.mean(0) + x


class WrongSolve(Broken):
    def solve(self, r, noise, gram):
        return r / (noise + gram)


class WrongPinv(Broken):
    def pinv(self, y):
        return y


class ForgetsItsMask(Mask):
    per_sample = ()


class PullsAway(Broken):
    def approx_mean_update(self, x, r, noise, rho2):
        return -super().approx_mean_update(x, r, noise, rho2)


class LeaksIntoTheHole(Mask):
    def measured_part(self, y):
        return 1 - y


@pytest.mark.parametrize(
    ("op", "finds"),
    [
        (WrongAdjoint(), "adjoint|gradient"),
        (Affine(), "not linear"),
        (SeesTheBatch(), "differs from A of the batch"),
        (WrongSolve(), "solve|pinv"),
        (WrongPinv(), "pinv"),
        (ForgetsItsMask(holes(3, 4)), "alone|match|per_sample"),
        (PullsAway(), "approx_mean_update"),
        (LeaksIntoTheHole(holes(1, 4)), "projection"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, Operator) else None,
)
def test_check_operator_finds(op, finds):
    with pytest.raises((AssertionError, RuntimeError), match=finds):
        check_operator(op, (4,))


class WrongNoise(Gaussian):
    def sample(self, x, noise):
        y = self.operator(x)
        return y + 1.15 * self.sigma_y.to(y.dtype) * noise.normal(y.shape[1:]).to(y.dtype)


class Biased(Gaussian):
    def sample(self, x, noise):
        return super().sample(x, noise) + 0.1


class NoVariance(Gaussian):
    def score(self, y, x):
        return self.operator.vjp(x, self.residual(y, x))


@pytest.mark.parametrize(("kind", "finds"), [(WrongNoise, "noise"), (Biased, "means"), (NoVariance, "gradient")])
def test_check_likelihood_finds(kind, finds):
    with pytest.raises(AssertionError, match=finds):
        check_likelihood(kind(Identity(), 0.2), (4,))
