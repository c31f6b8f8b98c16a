"""The prior as N items: prior, exact h and posterior against brute force, and every sampler and method on real shapes
with operators that are not linear."""

from __future__ import annotations

import math

import pytest
import torch

import deft
from deft.core.condition import condition
from deft.domains.image.data import fashion
from deft.errors import InputError
from deft.guidance.exact import Mixture
from deft.likelihood import Unknown
from deft.methods import METHODS, plan
from deft.operator import HDR, JPEG, Identity, Linear, Mask, Operator, PhaseRetrieval
from deft.samplers import SAMPLERS, Ito, sample, sample_paths, sample_smc
from deft.schedule import EDM, VPCosine
from deft.testing import Empirical, MixtureWorld, check_htransform, gaussian_chain

F64, VP, N = torch.float64, VPCosine(), 12


class Shown(Operator):
    """A map of samples that no other method is tested with: features are its value, spread over the sample."""

    def features(self, y):
        raise NotImplementedError


class Brightest(Shown):
    """The maximum along the last axis: a maximum-intensity projection of a volume, the peaks of a series."""

    def __call__(self, x):
        return x.amax(-1)


class Distances(Shown):
    """Between all beads of a chain [B, L, 3]."""

    def __call__(self, x):
        return (x[:, :, None] - x[:, None]).square().sum(-1).add(1e-6).sqrt()


def pictures():
    return torch.nn.functional.avg_pool2d(fashion("validation").x[:N], 2)


def waves(channels, length, seed):
    """Sums of a few sines with random phases and amplitudes, in [-1, 1]."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(length) / length
    x = sum(
        torch.randn(N, channels, 1, generator=g)
        * torch.sin(2 * math.pi * (k * t + torch.rand(N, channels, 1, generator=g)))
        for k in range(1, 6)
    )
    return x / x.abs().amax((1, 2), keepdim=True)


def blobs():
    g = torch.Generator().manual_seed(3)
    axis = torch.arange(8.0)
    centre = 1 + 6 * torch.rand(N, 3, 1, generator=g)
    x, y, z = (torch.exp(-((axis - centre[:, i]) ** 2) / 4) for i in range(3))
    return 2 * (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :])[:, None] - 1


CASES = {
    "pictures, phase retrieval": (pictures, PhaseRetrieval()),
    "pictures, clipped": (pictures, HDR(2.0)),
    "pictures, JPEG": (pictures, JPEG(10)),
    "series, peaks": (lambda: waves(3, 48, 1), Brightest()),
    "sound, clipped": (lambda: waves(1, 512, 2), HDR(3.0)),
    "volume, projection": (blobs, Brightest()),
    "chain, distances": (lambda: gaussian_chain(24).sample(N).float(), Distances()),
}


def case(name):
    """(world, one measurement of its first item) with noise so strong that several items explain it."""
    make, operator = CASES[name]
    items = make()
    seen = operator(items).flatten(1)
    sigma = float((seen - seen[0]).norm(dim=1)[1:].median()) / 2
    like = deft.Gaussian(operator, sigma)
    return Empirical(items), deft.Observation(like.sample(items[:1], deft.Noise(5, 1)), like)


@pytest.mark.parametrize("name", CASES)
def test_every_sampler_ends_at_an_item_with_its_probability(name):
    """Under the exact h, 150 samples in 25 steps (Euler-Maruyama: 100): the total variation of their frequencies to the
    N weights is that of 150 exact ones within 4 standard deviations (and .02 for the steps); each sample is an item,
    to 2 % of their size. The posterior leaves several items open, so that one answer for all would fail."""
    world, obs = case(name)
    exact, n = world.posterior(obs), 150
    assert 0.1 < float(exact.weights.max()) < 0.9
    assert world.distance(world.items[:1].expand(n, *world.event_shape), exact.weights)[0] > 0.2
    for kind, make in SAMPLERS.items():
        denoiser = condition(world.prior(VP), world.h, obs.repeat(n))
        x = sample(denoiser, n, sampler=make(), steps=100 if kind == "ito" else 25, spacing="log-snr")
        off, expected, std = world.distance(x, exact.weights)
        assert off < expected + 4 * std + 0.02, (kind, off, expected, std)
        left = (x - world.items[world.nearest(x)]).flatten(1).norm(dim=1) / world.items.flatten(1).norm(dim=1).mean()
        assert float(left.max()) < 0.02, kind


@pytest.mark.parametrize("width", [0.0, 0.3])
def test_it_is_the_mixture_of_dense_algebra(width):
    """Prior, h, log_h (up to a constant, where a mask has a hole), weights, mean, deviation and evidence of a linear
    measurement are those of `MixtureWorld`, whose formulas are others, to the tolerance of conjugate
    gradients; at width 0 those of a width of 1e-4, to 1e-3."""
    torch.manual_seed(0)
    items = torch.randn(5, 3, 4, dtype=F64)
    world = Empirical(items, width, torch.tensor([0.1, 0.3, 0.2, 0.2, 0.2]))
    w = width or 1e-4
    eye = w**2 * torch.eye(12, dtype=F64)
    mixture = MixtureWorld(Mixture(world.weights, items.flatten(1), eye.expand(5, 12, 12)), (3, 4))
    masked = Mask((torch.arange(12).reshape(1, 3, 4) % 3 > 0).double())
    running = Linear(lambda x: x.flatten(1)[:, ::2].cumsum(1), (3, 4))
    for operator in (masked, running):
        like = deft.Gaussian(operator, torch.tensor(0.5, dtype=F64))
        obs = deft.Observation(like.sample(world.sample(8).double(), deft.Noise(1, 8)), like)
        if width:
            check_htransform(world.h, world.prior(VP), obs)
        t, x = torch.tensor(0.4, dtype=F64), torch.randn(8, 3, 4, dtype=F64)
        pred = world.prior(VP)(x, t)
        close = {"rtol": 1e-5, "atol": 1e-6} if width else {"rtol": 1e-3, "atol": 1e-3}
        torch.testing.assert_close(pred.mean, mixture.prior(VP)(x, t).mean, **close)
        torch.testing.assert_close(world.h(pred, obs), mixture.h(pred, obs), **close)
        log_h = world.h.log_h(pred, obs) - mixture.h.log_h(pred, obs)
        hole = int((operator.measured_part(torch.ones_like(obs.y))[0] == 0).sum())
        constant = torch.full((8,), hole * 0.5 * math.log(2 * math.pi * 0.5**2), dtype=F64)
        torch.testing.assert_close(log_h, constant, **close)
        exact = world.posterior(obs)
        for i, one in enumerate(obs):
            dense = mixture.posterior(one)
            torch.testing.assert_close(exact.weights[i], dense.mixture.weights, **close)
            torch.testing.assert_close(exact.mean[i].flatten(), dense.mean, **close)
            torch.testing.assert_close(exact.std[i].flatten(), dense.std, **close)
            assert float(exact.log_evidence[i]) == pytest.approx(dense.log_evidence, **{"abs": 1e-6 if width else 1e-3})


@pytest.mark.parametrize("name", ["pictures, clipped", "chain, distances"])
def test_h_is_the_gradient_of_log_h(name):
    """Of a non-linear measurement, by a numerical derivative, at three levels."""
    world, one = case(name)
    obs = deft.Observation(one.y.double(), one.likelihood).repeat(4)
    for t in (0.3, 0.6, 0.9):
        x = torch.randn(4, *world.event_shape, dtype=F64)
        along = torch.randn_like(x)
        ends = [world.h.log_h(world.prior(VP)(x + s * 1e-5 * along, torch.tensor(t)), obs) for s in (1, -1)]
        h = world.h(world.prior(VP)(x, torch.tensor(t)), obs)
        torch.testing.assert_close((h * along).flatten(1).sum(1), (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pictures, clipped", "volume, projection"])
def test_evidence_of_particles_and_paths(name):
    """Particles under the exact h: their log p(y) is the exact one, to .5 for 40 steps of first order (of -800). That
    of 200 weighted paths is, within 4 standard errors."""
    world, obs = case(name)
    exact = float(world.posterior(obs).log_evidence)
    grid = deft.times(VP, 40, "log-snr")
    draws = sample_smc(
        world.prior(VP), world.h, obs, 64, sampler=deft.Ancestral(), grid=grid, twist=world.h, particles=64
    )
    assert float(draws.log_evidence[0]) == pytest.approx(exact, abs=0.5)
    paths = sample_paths(
        world.prior(VP), world.h, obs, 200, sampler=Ito(), grid=deft.times(VP, 100, "log-snr"), batch=200
    )
    error = float((paths.log_weight - exact).exp().std()) / math.sqrt(200)
    assert abs(float((paths.log_evidence - exact).exp()) - 1) < 4 * error + 0.02


BARE = [m for m, row in METHODS.items() if not row.trained and row.requires in ("likelihood", "gaussian")]
NEARER = {"dps", "pigdm"}
"""Nearer to the weights than the prior alone with their defaults; DAPS hardly is, and TDS is not. Others are made for
one sample that explains y, and put all on a few items, or stay where the prior is."""


def test_methods_against_the_weights():
    """Every method for measurements that are not linear, samples of clipped pictures in 12 steps: finite, and 160 of
    those of `NEARER` come nearer to the N weights than the prior alone (its total variation is .46)."""
    world, obs = case("pictures, clipped")
    exact = world.posterior(obs).weights
    far = world.distance(world.sample(2000, 9), exact)[0]
    for method in BARE:
        if method == "hmc" or METHODS[method].why_unsupported(obs.likelihood) is not None:
            continue
        n = 160 if method in NEARER else 20
        x = plan(method, steps=12).draw(world.prior(VP), obs, n, batch=n).x[0]
        assert bool(x.isfinite().all()), method
        assert method not in NEARER or world.distance(x, exact)[0] < far - 0.05, method


def test_posteriors_are_calibrated():
    """Truth and samples of `posterior` rank uniformly (`deft.diagnose.sbc`), for counts of photons; samples of twice
    the noise do not."""
    items = blobs()
    world, like = Empirical(items, weights=torch.arange(1.0, N + 1)), deft.Poisson(Identity(), 0.05)
    truth = world.sample(300, 1)
    obs = deft.Observation(like.sample(truth, deft.Noise(2, 300)), like)
    draws = world.posterior(obs).sample(19)
    number = {"item": lambda x: world.nearest(x).double()}
    assert deft.diagnose.sbc(draws, truth, number).passed
    other = world.posterior(deft.Observation(obs.y, deft.Poisson(Identity(), 1.0))).sample(19)
    assert not deft.diagnose.sbc(other, truth, number).passed


def test_a_width_beyond_linear_is_drawn():
    """Items with a width and a clipped measurement of one number: weights, mean and deviation are those of numerical
    integration, within 4 standard errors of 4,000 points around each; h says that it has no closed form."""
    world = Empirical(torch.tensor([[-0.3], [0.2], [0.7]], dtype=F64), 0.2)
    like = deft.Gaussian(HDR(2.0), torch.tensor(0.2, dtype=F64))
    obs = deft.Observation(torch.tensor([[0.8], [0.1]], dtype=F64), like)
    x = torch.linspace(-3, 3, 20_001, dtype=F64)[:, None]
    normal = torch.exp(-((x - world.items[:, 0]) ** 2) / (2 * 0.2**2))
    exact = world.posterior(obs, draws=4000)
    for i, y in enumerate(obs.y):
        joint = normal * torch.exp(-((y - (2 * x).clamp(-1, 1)) ** 2) / (2 * 0.2**2))
        weights = joint.sum(0) / joint.sum()
        mean = (joint.sum(1) @ x[:, 0]) / joint.sum()
        std = ((joint.sum(1) @ (x[:, 0] - mean) ** 2) / joint.sum()).sqrt()
        # the squares of p(y | x) around an item over the square of their mean, at most 15 here
        assert bool(((exact.weights[i] - weights).abs() < 4 * math.sqrt(15 / 4000) * weights + 1e-4).all())
        assert abs(float(exact.mean[i] - mean)) < 0.01 and abs(float(exact.std[i] - std)) < 0.01
    with pytest.raises(InputError, match="take width = 0"):
        condition(world.prior(VP), world.h, obs)


def test_samples_of_a_seed_share_nothing_with_its_noise():
    """Measured under `Noise` of the same seed: radii of the same words would show in the squares (0.5)."""
    x, n = Empirical(torch.zeros(1, 64), width=1.0).sample(2000, 5), deft.Noise(5, 2000).normal((64,))
    together = torch.corrcoef(torch.cat([x.T**2, n.T**2]))[:64, 64:]
    assert float(together.abs().max()) < 6 / 2000**0.5


def test_samples_of_the_prior():
    """`sample` draws item i with w_i and the width around it, and so does a sampler of the prior: 4 standard
    deviations."""
    world = Empirical(torch.tensor([[-1.0, 0.0], [1.0, 1.0], [3.0, -2.0]]), 0.1, torch.tensor([1.0, 2.0, 5.0]))
    assert world.weights.tolist() == [0.125, 0.25, 0.625]
    drawn = sample(world.prior(EDM()), 2000, sampler=deft.Heun(), steps=80)  # 40 leave it 6 % too narrow
    for x in (world.sample(2000), drawn):
        off, expected, std = world.distance(x, world.weights)
        assert off < expected + 4 * std + 0.02
        around = x - world.items[world.nearest(x)]
        assert float(around.std()) == pytest.approx(0.1, rel=4 / math.sqrt(2 * 4000) + 0.02)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Empirical(torch.zeros(0, 2)), "one item or more"),
        (lambda: Empirical(torch.tensor([[math.nan]])), "finite"),
        (lambda: Empirical(torch.zeros(2, 2), -1.0), "width"),
        (lambda: Empirical(torch.zeros(2, 2), weights=torch.ones(3)), "2 probabilities"),
        (lambda: Empirical(torch.zeros(1, 2)).posterior(_inside()), "no item explains"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(InputError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def _inside():
    from deft.likelihood import Inside

    return deft.Observation(torch.ones(1, 1), Inside(1.0, 2.0))


def test_no_density_is_refused():
    world = Empirical(torch.zeros(2, 1, 4, 4))
    with pytest.raises(InputError, match="no density"):
        world.posterior(deft.Observation(torch.zeros(1, 1, 4, 4), Unknown((1, 4, 4), (1, 4, 4), [0.0], [1.0])))
