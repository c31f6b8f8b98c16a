"""Closed forms against brute force, and the flagship: with the exact h the variance of log w falls towards 0.

Nothing here trusts the formula it tests: h and evidence are integrated numerically, posteriors are checked by
the law of total expectation, and samples by moments with stated standard errors.
"""

from __future__ import annotations

import math

import pytest
import torch

from deft.core.condition import condition
from deft.core.grid import times
from deft.core.random import Noise
from deft.core.transition import Level
from deft.guidance import DPS, PiGDM, ReconstructionGuidance
from deft.guidance.combine import Clipped, Interval, Scaled, Sum, Zero
from deft.guidance.exact import Mixture
from deft.likelihood import Gaussian, Observation
from deft.operator import Mask, Matrix
from deft.samplers import DDIM, Ancestral, DPMpp2M, Draws, Heun, Ito, SDEDPMpp2M, sample, sample_paths, weighted_paths
from deft.samplers.diagnostics import log_mean
from deft.schedule import EDM, VE, RectifiedFlow, VPCosine, VPLinear
from deft.testing import InsideWorld, MixtureWorld, check_htransform, moments, two_modes

F64 = torch.float64


def tensor(*rows):
    return torch.tensor(rows, dtype=F64)


LINE = MixtureWorld(Mixture(tensor(0.3, 0.7), tensor([-1.2], [0.8]), tensor([[0.09]], [[0.25]])))
PLANE = MixtureWorld(
    Mixture(
        tensor(0.2, 0.5, 0.3),
        tensor([-1.0, 0.5], [1.0, 0.0], [0.0, -1.0]),
        tensor([[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.1], [-0.1, 0.3]], [[0.1, 0.0], [0.0, 0.4]]),
    )
)


def space() -> tuple[MixtureWorld, Observation]:
    """Three correlated dimensions, two measured combinations of them, sigma_y = 0.2; a Gaussian posterior."""
    covariance = 0.25 * tensor([1.0, 0.5, 0.2], [0.5, 0.8, 0.3], [0.2, 0.3, 0.6])
    world = MixtureWorld(Mixture(tensor(1.0), tensor([0.3, -0.2, 0.1]), covariance[None]))
    like = Gaussian(Matrix(tensor([1.0, 0.5, 0.0], [0.0, -0.5, 1.0])), torch.tensor(0.2, dtype=F64))
    return world, Observation(tensor([0.9, -0.6]), like)


def grid_of(dim, width=6.0, n=None):
    axis = torch.linspace(-width, width, n or (20_001 if dim == 1 else 801), dtype=F64)
    return torch.cartesian_prod(*[axis] * dim).reshape(-1, dim), (axis[1] - axis[0]) ** dim


def log_mixture(mixture, x):
    normal = torch.distributions.MultivariateNormal(mixture.means, mixture.covariances)
    return torch.logsumexp(normal.log_prob(x[:, None]) + mixture.weights.log(), 1)


def brute_log_h(log_density, log_likelihood, x0, x_t, alpha, sigma):
    """log p(y | x_t) = log of the integral of p(y | x_0) p(x_0) p(x_t | x_0), over that without p(y | x_0)."""
    log_noise = -((x_t - alpha * x0).square().sum(1)) / (2 * sigma**2)
    joint = log_density + log_noise
    return torch.logsumexp(joint + log_likelihood, 0) - torch.logsumexp(joint, 0)


@pytest.mark.parametrize("t", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("world", [LINE, PLANE], ids=["1-d", "2-d"])
def test_exact_h_by_integration(world, t):
    """h against a numerical derivative of a numerical integral, to 1e-5."""
    (d,) = world.event_shape
    like = Gaussian(Matrix(tensor([1.0, 0.6])[:, :d]), torch.tensor(0.3, dtype=F64))
    obs, schedule = Observation(tensor([0.4]), like), VPCosine()
    x0, _ = grid_of(d)
    log_p, log_l = log_mixture(world.mixture, x0), like.log_prob(obs.y, x0)
    alpha, sigma = float(schedule.alpha(torch.tensor(t, dtype=F64))), float(schedule.sigma(torch.tensor(t, dtype=F64)))
    for x_t in tensor([0.3, -0.4], [-1.0, 0.7])[:, :d]:
        pred = world.prior(schedule)(x_t[None], torch.tensor(t, dtype=F64))
        mean = torch.softmax(log_p - (x_t - alpha * x0).square().sum(1) / (2 * sigma**2), 0) @ x0
        torch.testing.assert_close(pred.mean[0], mean, rtol=1e-5, atol=1e-6)
        h, e = world.h(pred, obs)[0], 1e-4 * torch.eye(d, dtype=F64)
        ends = [[brute_log_h(log_p, log_l, x0, x_t + s * e[i], alpha, sigma) for s in (1, -1)] for i in range(d)]
        slope = torch.stack([(up - down) / 2e-4 for up, down in ends])
        torch.testing.assert_close(h, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("world", [LINE, PLANE], ids=["1-d", "2-d"])
def test_posterior_by_integration(world):
    (d,) = world.event_shape
    like = Gaussian(Matrix(tensor([1.0, 0.6])[:, :d]), torch.tensor(0.3, dtype=F64))
    obs = Observation(tensor([0.4]), like)
    x0, cell = grid_of(d)
    joint = log_mixture(world.mixture, x0) + like.log_prob(obs.y, x0)
    p = torch.softmax(joint, 0)
    mean = p @ x0
    covariance = (x0 - mean).mT @ ((x0 - mean) * p[:, None])
    exact = world.posterior(obs)
    assert exact.log_evidence == pytest.approx(float(torch.logsumexp(joint, 0) + cell.log()), abs=1e-6)
    torch.testing.assert_close(exact.mean, mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(exact.covariance, covariance, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("t", [0.1, 0.6])
def test_exact_event_by_integration(t):
    world, schedule = InsideWorld(-0.3, 1.1), VPLinear()
    x0, _ = grid_of(1)
    log_p = -x0.square().sum(1) / 2
    log_l = torch.where(((x0 > -0.3) & (x0 < 1.1)).all(1), 0.0, -math.inf)
    alpha, sigma = (float(f(torch.tensor(t, dtype=F64))) for f in (schedule.alpha, schedule.sigma))
    for x_t in tensor([0.2], [-0.9], [1.5]):
        pred = world.prior(schedule)(x_t[None], torch.tensor(t, dtype=F64))
        slope = [brute_log_h(log_p, log_l, x0, x_t + e, alpha, sigma) for e in (1e-4, -1e-4)]
        # the integral's own error: one cell at each end of the interval
        assert float(world.h(pred, world.observation(1))) == pytest.approx(float(slope[0] - slope[1]) / 2e-4, rel=5e-3)


def test_event_far_in_the_tail():
    """P(x > 6 | x_t) underflows as a difference of two numbers near 1; its gradient must not."""
    world = InsideWorld(6.0, math.inf)
    pred = world.prior(VPCosine())(tensor([-8.0], [0.0], [8.0]), torch.tensor(0.1, dtype=F64))
    h = world.h(pred, world.observation(3))
    assert bool(torch.isfinite(h).all()) and bool((h.diff(dim=0) < 0).all()) and bool((h > 0).all())


def test_total_expectation():
    """Averaged over y ~ p(y), posterior means have the prior's mean, and their spread plus the posterior's own
    covariance is the prior's covariance; within 4 standard errors of 400 measurements."""
    n = 400
    like = Gaussian(Matrix(tensor([1.0, 0.6])), torch.tensor(0.5, dtype=F64))
    y = like.sample(PLANE.sample(n, seed=1), Noise(2, n))
    posteriors = [PLANE.posterior(Observation(row[None], like)) for row in y]
    m = torch.stack([p.mean for p in posteriors])
    w, means, covariances = PLANE.mixture
    mean = w @ means
    second = (w[:, None, None] * (covariances + means[:, :, None] * means[:, None])).sum(0)
    error = m.std(0) / math.sqrt(n)
    assert bool(((m.mean(0) - mean).abs() < 4 * error).all())
    seconds = torch.stack([p.covariance + p.mean[:, None] * p.mean for p in posteriors])
    assert bool(((seconds.mean(0) - second).abs() < 4 * seconds.std(0) / math.sqrt(n)).all())


def test_mixture_samples():
    """`sample_mixture` has the weights, mean and covariance it says, within 4 standard errors."""
    n = 8000
    x = PLANE.sample(n, seed=3)
    w, means, covariances = PLANE.mixture
    mean = w @ means
    covariance = (w[:, None, None] * (covariances + means[:, :, None] * means[:, None])).sum(0) - mean[:, None] * mean
    assert bool(((x.mean(0) - mean).abs() < 4 * (covariance.diagonal() / n).sqrt()).all())
    products = (x - mean)[:, :, None] * (x - mean)[:, None]
    assert bool(((products.mean(0) - covariance).abs() < 4 * products.std(0) / math.sqrt(n)).all())


# Every h-transform keeps the contract.

H = {
    "exact": lambda w: w.h,
    "zero": lambda w: Zero(),
    "reconstruction": lambda w: ReconstructionGuidance(),
    "dps": lambda w: DPS(0.3),
    "pigdm": lambda w: PiGDM(0.8),
    "sum": lambda w: Sum(Scaled(w.h, 0.5), Scaled(PiGDM(), 0.5)),
    "clipped": lambda w: Clipped(w.h, 1.0),
    "interval": lambda w: Interval(w.h, 0.5, 5.0),
}


@pytest.mark.parametrize("name", H)
def test_htransform(name):
    world, one = space()
    obs = Observation(one.likelihood.sample(world.sample(16, 1), Noise(2, 16)), one.likelihood)
    check_htransform(H[name](world), world.prior(VPCosine()), obs)


def test_htransform_with_an_event():
    world = InsideWorld(-0.5, 2.0, dim=2)
    obs = Observation(torch.ones(8, 1, dtype=F64), world.observation(1).likelihood)
    check_htransform(world.h, world.prior(VPCosine()), obs)


class Flipped(Scaled):
    def __init__(self, h):
        super().__init__(h, -1.0)


class SaysNoGraph(ReconstructionGuidance):
    needs_graph = False


class MixesTheBatch(Zero):
    def forward(self, pred, obs):
        return obs.score(pred.mean) / pred.mean.norm()


@pytest.mark.parametrize(
    ("make", "finds"),
    [
        (lambda w: Flipped(w.h), "sign"),
        (lambda w: SaysNoGraph(), "graph|require"),
        (lambda w: MixesTheBatch(), "alone"),
    ],
)
def test_check_htransform_finds(make, finds):
    world, one = space()
    obs = Observation(one.likelihood.sample(world.sample(16, 1), Noise(2, 16)), one.likelihood)
    with pytest.raises((AssertionError, RuntimeError), match=finds):
        check_htransform(make(world), world.prior(VPCosine()), obs)


# Samples.


@pytest.mark.parametrize(
    "sampler", [DDIM(), DDIM(0.5), Ancestral(), Ito(), Heun(), DPMpp2M(), SDEDPMpp2M()], ids=lambda s: type(s).__name__
)
def test_both_modes_are_visited(sampler):
    """Exact h, two modes 4 apart, y drawn towards the lighter one: the share of samples nearer to each mode is the
    posterior's weight, and the mean and deviation inside a mode are right: 4 standard errors of 600, plus 1 % for
    the 100 steps."""
    n, world = 600, two_modes()
    like = Gaussian(Mask(torch.tensor([[1.0, 0.0]])), 2.0)
    obs = Observation(torch.tensor([[-1.5, 0.0]]), like)
    exact = world.posterior(obs)
    assert 0.2 < float(exact.mixture.weights[0]) < 0.8
    x = sample(condition(world.prior(VPCosine()), world.h, obs.repeat(n)), n, sampler=sampler, steps=100).double()
    first = x.sum(1) < 0
    p = float(exact.mixture.weights[0])
    assert abs(float(first.double().mean()) - p) < 4 * math.sqrt(p * (1 - p) / n) + 0.01
    for k, rows in enumerate((x[first], x[~first])):
        std = exact.mixture.covariances[k].diagonal().sqrt()
        assert bool(((rows.mean(0) - exact.mixture.means[k]).abs() < 4 * std / math.sqrt(len(rows)) + 0.01).all())
        assert bool(((rows.std(0) / std - 1).abs() < 4 / math.sqrt(2 * len(rows)) + 0.01).all())


@pytest.mark.parametrize("low, high", [(-0.5, 1.0), (1.0, math.inf)])
def test_event_samples(low, high):
    """Truncated normal: mean and variance within 4 standard errors of 2,000 plus 2 % for the 200 steps."""
    n, world = 2000, InsideWorld(low, high)
    x = sample(condition(world.prior(VPCosine()), world.h, world.observation(n)), n, sampler=DDIM(1.0), steps=200)[:, 0]
    x = x.double()
    std = math.sqrt(world.variance)
    assert float(((x > low - 0.02) & (x < high + 0.02)).double().mean()) == 1
    assert abs(float(x.mean()) - world.mean) < 4 * std / math.sqrt(n) + 0.02 * std
    fourth = float(((x - x.mean()) ** 4).mean())
    error = math.sqrt((fourth - world.variance**2) / n)
    assert abs(float(x.var()) - world.variance) < 4 * error + 0.02 * world.variance


# The flagship.


def log_weights(world, obs, sampler, grid, h=None, n=512):
    """Weights of n paths on a grid of levels of VPCosine, or of so many steps."""
    grid = times(VPCosine(), grid, "log-snr") if isinstance(grid, int) else grid
    x, log_w = weighted_paths(
        condition(world.prior(VPCosine()), h or world.h, obs.repeat(n)), Noise(0, n), sampler, grid
    )
    return Draws(x[None], log_w[None], log_mean(log_w[None]))


def variance(*args):
    return float(log_weights(*args).log_weight.var())


@pytest.mark.parametrize("sampler", [Ito(), Ancestral()], ids=["ito", "ancestral"])
def test_variance_of_log_weights_falls(sampler):
    """Var(log w) of the exact h falls like 1/N (a little faster while N is small): its slope in log N from 64 to
    256 steps is between -1.6 and -0.8; 512 paths know each variance to 6 %, and the slope to 0.06.

    The evidence is right: log of the mean weight is, within 4 standard errors, the exact log p(y) of the prior
    *as this sampler draws it in N steps* (its exact moments), which tends to the true one like 1/N. And as log w
    is nearly normal, the mean of log w is below that by half its variance.
    """
    world, obs = space()
    truth = world.posterior(obs).log_evidence
    variances, biases = [], []
    for steps in (64, 256):
        m, c = moments(world.prior(VPCosine()), sampler, times(VPCosine(), steps, "log-snr"))
        drawn = MixtureWorld(Mixture(tensor(1.0), m[None], c[None])).posterior(obs).log_evidence
        paths = log_weights(world, obs, sampler, steps)
        v, n = float(paths.log_weight.var()), paths.n
        error = float((paths.log_weight - drawn).exp().std()) / math.sqrt(n)
        assert abs(float(paths.log_evidence) - drawn) < 4 * error
        assert abs(float(paths.log_weight.mean()) + v / 2 - drawn) < 4 * math.sqrt(v / n) + 0.1 * v
        variances.append(v)
        biases.append(drawn - truth)
    slope = math.log(variances[1] / variances[0]) / math.log(4)
    assert -1.6 < slope < -0.8, variances
    assert variances[1] < 0.1
    assert 0.15 < biases[1] / biases[0] < 0.35


def test_variance_levels_off_for_every_other_h():
    """ΠGDM and no guidance improve little with more steps; the exact h is far below both."""
    world, obs = space()
    exact = variance(world, obs, Ito(), 256)
    for h, least in ((PiGDM(), 10), (Zero(), 1000)):
        fine = variance(world, obs, Ito(), 256, h)
        assert fine > 0.5 * variance(world, obs, Ito(), 64, h), "still falling"
        assert fine > least * exact


def test_variance_under_a_smaller_eta_levels_off():
    """The exact h is the Doob transform of the forward process' own reversal, DDIM's eta = 1, alone. With eta < 1
    the marginals p_t(x_t | y) are still right, but the path measure is another one: log w keeps its variance."""
    world, obs = space()
    fine = variance(world, obs, DDIM(0.5), 256)
    assert fine > 0.5 * variance(world, obs, DDIM(0.5), 64)
    assert fine > 20 * variance(world, obs, DDIM(1.0), 256)


def test_the_ito_kernel_does_not_mind_the_last_level():
    """The same 127 levels, then one at sigma = 1e-2 or 1e-4 before the clean end: Var(log w) stays within a factor
    of 1.3 under Itô, and grows more than 5 times under the ancestral kernel, whose noise vanishes faster than the
    correction does."""
    world, obs = space()
    schedule = VPCosine()
    first = [level for level in times(schedule, 128, "log-snr") if level.sigma > 0.02]

    def ending(sigma):
        return [*first, Level(0.0, math.sqrt(1 - sigma**2), sigma), Level(0.0, 1.0, 0.0)]

    ito, ancestral = ([variance(world, obs, s, ending(low)) for low in (1e-2, 1e-4)] for s in (Ito(), Ancestral()))
    assert ito[1] < 1.3 * ito[0], ito
    assert ancestral[1] > 5 * ancestral[0], ancestral


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [VPCosine(), VPLinear(), VE(), EDM(), RectifiedFlow()], ids=lambda s: s.name)
def test_flagship_table(schedule, capsys):
    """The figures in docs: 20,000 paths under Itô, 50 / 200 / 800 steps."""
    world, obs = space()
    truth, n = world.posterior(obs).log_evidence, 20_000
    for name, h in {"exact": world.h, "pigdm": PiGDM(), "zero": Zero()}.items():
        v = []
        for steps in (50, 200, 800):
            paths = sample_paths(world.prior(schedule), h, obs, n, sampler=Ito(), steps=steps, batch=n)
            v.append(float(paths.log_weight.var()))
            with capsys.disabled():
                print(
                    f"{schedule.name} {name} {steps}: Var {v[-1]:.4f} log Z {float(paths.log_evidence):.4f}"
                    f" ({truth:.4f})"
                )
        if name == "exact":
            assert v[0] / v[2] > 8 and v[2] < 0.05
            assert abs(float(paths.log_evidence) - truth) < 5 * math.sqrt(v[2] / n) + 0.03  # and the prior's own bias
