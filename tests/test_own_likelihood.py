"""A likelihood of a user's own, of a few lines, works everywhere one of ours does: Laplace noise, whose posterior is
known by quadrature."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

import deft
from deft import (
    DEFT,
    DPS,
    DenoisingObjective,
    FitConfig,
    Gaussian,
    Likelihood,
    Mask,
    Noise,
    Observation,
    PiGDM,
    ReconstructionGuidance,
    VPCosine,
    fit,
    sample_posterior,
)
from deft.core.condition import condition
from deft.core.grid import times
from deft.core.likelihood import AfterDecoder, Tempered
from deft.core.random import BatchNoise
from deft.denoiser import MeanDenoiser
from deft.domains.image.measure import measure
from deft.domains.image.metrics import residual_rms
from deft.domains.image.prior import ImagePrior
from deft.domains.image.tasks import Inpaint
from deft.errors import InputError
from deft.guidance import Predictive, ScoreAtMean
from deft.guidance.combine import Zero
from deft.guidance.exact import Mixture
from deft.io.h_files import load_h, save_h
from deft.io.measurements import read_measurement, save_measurement
from deft.likelihood import Classifier, Poisson, Reward
from deft.likelihood.gaussian import REQUIREMENTS, requires, why_unsupported
from deft.methods import METHODS
from deft.nn import UNet
from deft.operator import BlockAverage
from deft.prior.latent import LatentPrior
from deft.prior.measurement_check import check_pairs, residual_ratio
from deft.samplers import Ancestral, Ito, sample_hmc
from deft.samplers.smc import sample_smc
from deft.testing import MixtureWorld, check_likelihood, moments
from deft.train.data import Clean
from deft.train.diagnosis import diagnose
from deft.train.levels import hidden_pixels
from deft.train.measured import Measured, temper
from deft.train.path import AdjointMatching, LogVariance, RelativeEntropy
from toys import F64


class Laplace(Likelihood):
    """y = A(x) + noise of density exp(-|n| / b) / 2b. What a user has to write."""

    per_sample = ("scale",)

    def __init__(self, operator, scale):
        self.operator, self.scale = operator, torch.as_tensor(scale).reshape(-1)

    def sample(self, x, noise):
        y = self.operator(x)
        u = (noise.uniform(y.shape[1:]).to(y) - 0.5).clamp_min(-0.4999999)
        return self.operator.measured_part(y - self.rows(y) * u.sign() * (1 - 2 * u.abs()).log())

    def log_prob(self, y, x):
        terms = -(y - self.operator(x)).abs() / self.rows(y) - (2 * self.rows(y)).log()
        return self.operator.measured_part(terms.expand_as(y)).flatten(1).sum(1)

    def rows(self, y):
        return self.scale.to(y).reshape(-1, *[1] * (y.ndim - 1))


class Residual(Laplace):
    """With the one line that DPS and reports ask for."""

    def residual(self, y, x):
        return self.operator.measured_part(y - self.operator(x))


B = 0.3
NORMAL = MeanDenoiser(lambda x, a, s: a / (a**2 + s**2) * x, VPCosine(), (1,))
ONE = Observation(torch.tensor([[0.8]], dtype=F64), Laplace(deft.Identity(), B))
GRID = times(VPCosine(), 12, "log-snr")


def quadrature(obs, mean, variance):
    """(log p(y), mean, variance) of the posterior of x ~ N(mean, variance)."""
    x = torch.linspace(-8, 8, 200001, dtype=F64)[:, None]
    log_p = (
        -0.5 * (x[:, 0] - mean) ** 2 / variance
        - 0.5 * math.log(2 * math.pi * variance)
        + obs.likelihood.log_prob(obs.y.expand(len(x), 1), x)
    )
    w = log_p.exp() * (x[1, 0] - x[0, 0])
    z = w.sum()
    m = (w * x[:, 0]).sum() / z
    return float(z.log()), float(m), float((w * (x[:, 0] - m) ** 2).sum() / z)


@pytest.fixture(scope="module")
def exact():
    """Of the prior as `Ancestral` draws it on this grid: nothing is left to allow for."""
    mean, covariance = moments(NORMAL, Ancestral(), GRID)
    return quadrature(ONE, float(mean[0]), float(covariance[0, 0]))


def test_it_is_a_likelihood():
    x_shape = (3,)
    for like in (
        Laplace(deft.Identity(), 0.3),
        Residual(Mask(torch.tensor([[1.0, 0.0, 1.0]])), torch.tensor([0.1, 0.5, 0.9])),
    ):
        check_likelihood(like, x_shape, statistics=False)


def test_hamiltonian_chains_end_in_the_posterior(exact):
    """Mean and variance of 1,500 independent chains, to 4 standard errors."""
    n = 1500
    x = sample_hmc(NORMAL, Zero(), ONE, n, iterations=30, leapfrogs=4, grid=GRID, batch=n).x.double().flatten()
    _, mean, variance = exact
    assert abs(float(x.mean()) - mean) < 4 * math.sqrt(variance / n)
    fourth = float(((x - mean) ** 4).mean())
    assert abs(float(x.var()) - variance) < 4 * math.sqrt((fourth - variance**2) / n)


def test_particles_end_in_the_posterior_and_know_the_evidence(exact):
    """2,000 measurements alike, 8 particles each: log of the mean of unbiased evidences, and the mean of the samples,
    to 4 standard errors."""
    n = 2000
    found = sample_smc(
        NORMAL,
        ScoreAtMean(lambda a, s: 0.1 * torch.ones_like(a)),
        ONE.repeat(n),
        twist=Predictive(1.0),
        particles=8,
        grid=GRID,
        batch=8 * n,
    )
    z = found.log_evidence.exp()
    log_z, mean, variance = exact
    assert abs(float(z.mean()) - math.exp(log_z)) < 4 * float(z.std()) / math.sqrt(n)
    means = found.x.double().flatten()
    # few particles: the mean of ratios is biased
    assert abs(float(means.mean()) - mean) < 4 * math.sqrt(variance / n) + 0.02


def test_guidance():
    """DPS takes what has a residual, reconstruction guidance everything; the samples come nearer to y than the
    prior's."""
    prior = MeanDenoiser(lambda x, a, s: a / (a**2 + s**2) * x, VPCosine(), (4,))
    y = torch.tensor([[0.9, -1.2, 0.4, 1.5]])
    plain, more = (Observation(y, kind(deft.Identity(), 0.2)) for kind in (Laplace, Residual))
    free = sample_posterior(prior, Zero(), plain, 64, steps=20).x[0]
    for h, obs in ((ReconstructionGuidance(), plain), (DPS(3.0), more)):
        x = sample_posterior(prior, h, obs, 64, steps=20).x[0]
        assert bool(torch.isfinite(x).all()) and (x - y).abs().mean() < 0.7 * (free - y).abs().mean()
    with pytest.raises(InputError, match="DPS needs a residual y - A\\(x\\), and Laplace of Identity has none"):
        condition(prior, DPS(0.5), plain)
    with pytest.raises(
        InputError, match=r"ΠGDM needs Gaussian noise, got Residual of Identity: its formula has the variance"
    ):
        condition(prior, PiGDM(1.0), more)


def test_requirements_are_those_of_the_table_of_methods():
    like = Residual(Mask(torch.ones(1, 4)), 0.1)
    assert {m.requires for m in METHODS.values()} <= set(REQUIREMENTS)
    assert {n for n in REQUIREMENTS if why_unsupported(like, n, "it") is None} == {"measurement", "likelihood"}
    assert {n for n in REQUIREMENTS if why_unsupported(Gaussian(Mask(torch.ones(1, 4)), 0.1), n, "it") is None} == set(
        REQUIREMENTS
    )
    assert {n for n in REQUIREMENTS if why_unsupported(Gaussian(BlockAverage(2), 0.1), n, "it") is None} == {
        "measurement",
        "likelihood",
        "gaussian",
        "linear",
    }
    with pytest.raises(
        InputError, match="DDNM needs a linear measurement with Gaussian noise, got Poisson of Identity: "
    ):
        requires(Poisson(deft.Identity()), "linear", "DDNM")
    assert not any(
        reason.endswith((": ", ":")) for reason in (why_unsupported(like, n, "it") for n in REQUIREMENTS) if reason
    )


class Task:
    def __init__(self, like):
        self.like = like

    def observe(self, x, noise):
        return Observation(self.like.sample(x, noise), self.like)


def test_deft_is_fitted_to_it():
    """Two numbers, one seen: the held-out loss falls below the prior's own, and the fitted mean follows the
    posterior's."""
    mixing = torch.tensor([[1.0, 0.0], [0.9, 0.436]])
    world = MixtureWorld(Mixture(torch.ones(1), torch.zeros(1, 2), (mixing @ mixing.T)[None]))
    prior = world.prior(VPCosine())
    like = Laplace(Mask(torch.tensor([[1.0, 0.0]])), 0.2)
    torch.manual_seed(0)
    x = torch.randn(1500, 2) @ mixing.T
    h = DEFT((2,), 2, width=24)
    h.calibrate(prior, x)
    config = FitConfig(steps=250, batch=128, lr=3e-3, seed=0, evaluations=1, held_out_batches=4)
    task = Task(like)
    fit(
        h,
        DenoisingObjective(prior, "v"),
        Clean(x[:1200], task),
        Clean(x[1200:], task),
        config=config,
        device="cpu",
        progress=False,
    )
    obs = Observation(torch.tensor([[1.2, 0.0]]), like)
    drawn = sample_posterior(prior, h, obs, 1500, steps=40, batch=1500).x[0]
    _, mean, variance = quadrature(
        Observation(torch.tensor([[1.2]], dtype=F64), Laplace(deft.Identity(), 0.2)), 0.0, 1.0
    )
    assert abs(float(drawn[:, 0].mean()) - mean) < 0.12 and abs(float(drawn[:, 1].mean()) - 0.9 * mean) < 0.12
    assert 0.5 * math.sqrt(variance) < float(drawn[:, 0].std()) < 1.7 * math.sqrt(variance)


GAIN = 3.0


class Folded(torch.nn.Module):
    """z = unshuffle(x) / g: a linear autoencoder without loss, 1x8x8 <-> 4x4x4."""

    def encode(self, x):
        return pixel_unshuffle(x, 2) / GAIN

    def decode(self, z):
        return pixel_shuffle(z, 2) * GAIN


def latent_prior(gradient):
    return LatentPrior(
        MeanDenoiser(lambda x, a, s: a * x / (a**2 + 9 * s**2), VPCosine(), (4, 4, 4)),
        Folded(),
        (1, 8, 8),
        gradient,
        GAIN,
    )


@pytest.mark.parametrize("gradient", ["encoder", "decoder"])
@pytest.mark.parametrize("kind", ["laplace", "poisson", "gaussian"])
def test_latents(kind, gradient):
    """Under an autoencoder without loss a latent's density, score and `approx_mean_update` are those of the data,
    folded; and samples follow y."""
    prior = latent_prior(gradient)
    mask = torch.ones(1, 1, 8, 8)
    mask[..., 2:5, 3:7] = 0
    like = {
        "laplace": Residual(Mask(mask), 0.2),
        "poisson": Poisson(Mask(mask), 50.0),
        "gaussian": Gaussian(Mask(mask), 0.2),
    }[kind]
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    obs = Observation(like.sample(x, Noise(0, 3)), like)
    inside, z = (
        prior.to_latent(obs),
        Folded().encode(torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5),
    )
    data, rho2 = prior.decode(z), torch.tensor([0.1, 1.0, 0.01]).reshape(3, 1, 1, 1)
    torch.testing.assert_close(inside.log_prob(z), obs.log_prob(data))
    torch.testing.assert_close(inside.score(z), pixel_unshuffle(obs.score(data), 2) * GAIN, atol=1e-4, rtol=1e-4)
    for name in ("approx_mean_update", "mean_update"):
        move = getattr(inside.likelihood, name)(obs.y, z, rho2)
        torch.testing.assert_close(
            move, Folded().encode(getattr(like, name)(obs.y, data, GAIN**2 * rho2)), atol=1e-4, rtol=1e-3
        )
    assert inside.features().shape == (3, 8, 4, 4) and inside.likelihood.feature_channels == 2
    torch.testing.assert_close(inside.likelihood.residual(obs.y, z), like.residual(obs.y, data))
    assert inside.fingerprint() == obs.fingerprint() and torch.equal(inside[1].y, obs.y[1:2])
    assert isinstance(inside.likelihood, Gaussian if kind == "gaussian" else AfterDecoder)
    drawn = sample_posterior(prior, ReconstructionGuidance(lambda a, s: 0.02 * a), obs[0], 4, steps=10).x
    assert drawn.shape == (1, 4, 1, 8, 8) and bool(torch.isfinite(drawn).all())


def test_a_reward_and_a_class_of_latents():
    """Nothing is shown of a reward, also not of a latent's; a class keeps its code."""
    prior = latent_prior("decoder")
    reward = Reward(lambda x: -x.square().flatten(1).sum(1), 0.5, (1, 8, 8)).observe(2)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    label = Classifier(net, 3, (1, 8, 8)).observe([0, 2])
    z = torch.zeros(2, 4, 4, 4)
    assert prior.to_latent(reward).features().shape == (2, 0, 4, 4) and prior.to_latent(label).features().shape == (
        2,
        12,
        4,
        4,
    )
    for obs in (reward, label):
        assert (
            prior.to_latent(obs).score(z).shape == z.shape
            and prior.to_latent(obs).likelihood.residual(obs.y, z) is None
        )
        assert condition(prior, ReconstructionGuidance(), prior.to_latent(obs)).event_shape == (4, 4, 4)


def test_reports_and_checks():
    """The noise that is found by drawing, residuals in tables, and pairs in another order."""
    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1
    mask = torch.ones(1, 1, 8, 8)
    mask[..., :4] = 0
    plain, like = Laplace(Mask(mask), 0.1), Residual(Mask(mask), 0.1)
    y = like.sample(x, Noise(0, 60))
    sigma = like.noise_sigma(y, x)
    assert sigma.shape == (60, 1, 1, 1) and torch.equal(sigma, like.noise_sigma(y, x))
    assert float(sigma.mean()) == pytest.approx(0.1 * math.sqrt(2), rel=0.03)  # over the seen half: 60 x 8 x 32 numbers
    assert plain.noise_sigma(y, x) is None and plain.residual(y, x) is None
    obs = Observation(y, like)
    assert float(residual_rms(x, obs).mean()) == pytest.approx(0.1 * math.sqrt(2), rel=0.1)
    assert float(residual_ratio(obs, x).mean()) == pytest.approx(1, abs=0.1)
    assert residual_ratio(Observation(y, plain), x) is None and check_pairs(Observation(y, plain), x, "pairs") is None
    assert check_pairs(obs, x, "pairs") is None
    with pytest.raises(InputError, match="in another order"):
        check_pairs(obs, x.flip(0) * 3, "pairs")
    assert float(hidden_pixels(obs, x.shape).mean()) == 0.5
    assert "residual" in measure(x[:, None], x, obs) and "residual" not in measure(x[:, None], x, Observation(y, plain))
    with pytest.raises(InputError, match="Laplace of Mask has no residual"):
        residual_rms(x, Observation(y, plain))


def test_photons_know_their_noise():
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    like = Poisson(deft.Identity(), 30.0)
    obs = Observation(like.sample(x, Noise(0, 40)), like)
    assert float(residual_ratio(obs, x).square().mean()) == pytest.approx(1, abs=0.1)
    assert float(like.noise_sigma(obs.y, x).square().mean()) == pytest.approx(
        float(Likelihood.noise_sigma(like, obs.y, x).square().mean()), rel=0.05
    )
    with pytest.raises(InputError, match="photon counts are 0 or more"):
        like.check(-obs.y)


def test_tempering():
    like, x = Residual(deft.Identity(), 0.3), torch.linspace(-1, 1, 6).reshape(2, 3)
    obs = Observation(x.flip(0), like)
    hot = temper(obs, 0.25)
    assert isinstance(hot.likelihood, Tempered) and hot.likelihood.kind == "Tempered Residual of Identity"
    for name in ("log_prob", "score"):
        torch.testing.assert_close(getattr(hot, name)(x), 0.25 * getattr(obs, name)(x))
    rho2 = torch.full((2, 1), 0.5)
    for name in ("approx_mean_update", "mean_update"):
        torch.testing.assert_close(
            getattr(hot.likelihood, name)(obs.y, x, rho2), getattr(like, name)(obs.y, x, 0.25 * rho2)
        )
    assert torch.equal(hot.likelihood.residual(obs.y, x), like.residual(obs.y, x))
    twice = hot.likelihood.tempered(0.5)
    assert (
        isinstance(twice, Tempered)
        and twice.beta == 0.125
        and twice.likelihood is like
        and hot.likelihood.tempered(4.0) is like
    )
    assert like.tempered(1) is like and isinstance(Gaussian(deft.Identity(), 0.1).tempered(0.5), Gaussian)
    for bad in (0, -1, math.nan):
        for one in (like, Gaussian(deft.Identity(), 0.1)):
            with pytest.raises(InputError, match="power above 0"):
                one.tempered(bad)
    with pytest.raises(InputError, match="sample from the likelihood itself"):
        hot.likelihood.sample(x, Noise(0, 2))


class Line(deft.core.htransform.HTransform):
    """h = u (a + b x_t + c log(sigma/alpha)), three numbers to learn."""

    def __init__(self):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.zeros(3, dtype=F64))

    def forward(self, pred, obs):
        level = torch.log(pred.sigma / pred.alpha)
        a, b, c = self.theta
        return (a + b * pred.x_t + c * level) / (pred.sigma**2 + pred.alpha**2)


@pytest.mark.parametrize("objective", [LogVariance, RelativeEntropy, AdjointMatching])
def test_objectives_on_paths(objective):
    """A few numbers learned on tempered, then plain, paths of one measurement: the variance of log w falls, and log Z
    is the quadrature's."""
    h = Line()
    torch.manual_seed(0)
    before = diagnose(NORMAL, h, ONE, paths=400, steps=16, batch=400)
    assert "residual" not in before
    config = FitConfig(
        steps=120, batch=64, lr=3e-2, warmup=10, ema=0.95, clip=1.0, seed=0, evaluations=1, held_out_batches=1
    )
    fit(h, objective(NORMAL, 16), Measured(ONE, warm=40, cold=0.1), Measured(ONE), config=config, progress=False)
    after = diagnose(NORMAL, h, Observation(ONE.y, Residual(deft.Identity(), B)), paths=1000, steps=16, batch=1000)
    mean, covariance = moments(NORMAL, Ito(), times(NORMAL.schedule, 16, "log-snr"))
    log_z, _, _ = quadrature(ONE, float(mean[0]), float(covariance[0, 0]))
    assert after["variance"] < 0.5 * before["variance"] and after["residual"] > 0
    spread = (after["log_z_high"] - after["log_z"]) / 1.96
    assert abs(after["log_z"] - log_z) < 4 * spread + 0.02


def test_rows_follow_the_batch():
    """Operator and `per_sample` alike, without a line of the user's; a subclass stays what it is, and nothing is
    changed in place."""
    masks = (torch.arange(12).reshape(3, 1, 2, 2) % 3 > 0).float()
    like = Residual(Mask(masks), torch.tensor([0.1, 0.2, 0.4]))
    x = torch.linspace(-1, 1, 12).reshape(3, 1, 2, 2)
    obs = Observation(like.sample(x, Noise(0, 3)), like)
    whole = obs.log_prob(x)
    for i, one in enumerate(obs):
        assert type(one.likelihood) is Residual and torch.equal(one.log_prob(x[i : i + 1]), whole[i : i + 1])
        assert one.likelihood.noise_sigma(one.y, x[i : i + 1]) is not None
    torch.testing.assert_close(obs.repeat(2).log_prob(x.repeat_interleave(2, 0)), whole.repeat_interleave(2))
    torch.testing.assert_close(obs[torch.tensor([2, 0])].log_prob(x[[2, 0]]), whole[[2, 0]])
    assert obs.to("meta").likelihood.scale.device.type == "meta" and like.scale.device.type == "cpu"
    assert [k for k, _ in like.drawn()] == ["mask"] and obs.fingerprint() != Observation(
        obs.y, Residual(Mask(1 - masks), 0.1)
    ).fingerprint()
    with pytest.raises(InputError, match="scale has 2 rows and y 3"):
        deft.core.condition.fitted_to_samples(
            Observation(obs.y, Residual(Mask(masks), torch.tensor([0.1, 0.2]))), (1, 2, 2), x
        )
    assert torch.equal(copy.deepcopy(obs).log_prob(x), whole)


def test_what_it_shows_is_its_operators():
    like = Laplace(Mask(torch.ones(1, 1, 2, 2)), 0.1)
    y = torch.rand(2, 1, 2, 2)
    assert (
        like.feature_channels == 2
        and torch.equal(like.features(y), like.operator.features(y))
        and torch.equal(like.picture(y), like.operator.picture(y))
    )
    assert like.kind == "Laplace of Mask" and like.number_of_measurements(y).tolist() == [4, 4]

    class Bare(Likelihood):
        def sample(self, x, noise):
            return x

        def log_prob(self, y, x):
            return -(y - x).abs().flatten(1).sum(1)

    bare = Bare()
    assert (
        bare.feature_channels == 1
        and bare.features(y) is y
        and bare.operator is None
        and bare[0] is bare
        and bare.to("cpu") is bare
        and bare.drawn() == []
    )
    assert bare.number_of_measurements(y).tolist() == [4, 4] and bare.measured_part(y) is y
    with pytest.raises(InputError, match="nothing to look at"):
        bare.picture(y)


@dataclass(frozen=True)
class LaplaceHole(Inpaint):
    """A task of a user's own: a hole, and Laplace noise."""

    name = "laplace-hole"

    def likelihood(self, operator):
        return Residual(operator, self.sigma_y)


def test_files_of_h(tmp_path):
    """An h that was fitted to the user's task comes back with it, for those who trust the code."""
    torch.manual_seed(0)
    prior, task = deft.freeze(ImagePrior(UNet(1, 1, (8,), patch=2), VPCosine(), (1, 16, 16))), LaplaceHole(sigma_y=0.1)
    h = DEFT((1, 16, 16), task.feature_channels, width=4)
    x = torch.rand(16, 1, 16, 16) * 2 - 1
    config = FitConfig(steps=2, batch=4, evaluations=1, held_out_batches=1)
    fit(h, DenoisingObjective(prior, "v"), Clean(x, task), config=config, device="cpu", progress=False)
    card = save_h(tmp_path / "h.safetensors", h, prior, task)
    assert card["task"]["name"] == "laplace-hole"
    again, back, _ = load_h(tmp_path / "h.safetensors", prior, trust_code=True)
    assert back == task and type(back.observe(x, BatchNoise(16, 0)).likelihood) is Residual
    obs = task.observe(x[:1], BatchNoise(1, 0))
    assert torch.equal(
        sample_posterior(prior, again, obs, 2, steps=3).x, sample_posterior(prior, h.eval(), obs, 2, steps=3).x
    )


def test_measurement_files(tmp_path):
    task = LaplaceHole(sigma_y=0.1)
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1
    obs = task.observe(x, BatchNoise(3, 0))
    save_measurement(tmp_path / "y.npz", obs, task)
    again = read_measurement(tmp_path / "y.npz", task, (1, 16, 16))
    assert type(again.likelihood) is Residual and again.fingerprint() == obs.fingerprint()
    torch.testing.assert_close(again.log_prob(x), obs.log_prob(x))
