"""Metrics against scikit-image and against their definitions; the bootstrap against what it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deft import Gaussian, Mask, Noise, Observation
from deft.errors import InputError
from deft.evaluate.classifier import accuracy, fashion_classifier, feature_distance, frechet_distance, in_batches
from deft.evaluate.compare import measure
from deft.evaluate.metrics import pairwise_distance, psnr, residual_rms, root_mean_square, spread, ssim
from deft.evaluate.statistics import bootstrap, paired

skimage = pytest.importorskip("skimage.metrics")


@pytest.fixture
def pair():
    g = torch.Generator().manual_seed(1)
    truth = torch.rand(5, 1, 32, 32, generator=g) * 2 - 1
    return truth, truth + 0.4 * torch.randn(truth.shape, generator=g)  # leaves [-1, 1], so that clamping matters


def both(a, b):
    return ((v.clamp(-1, 1)[0].double().numpy() + 1) / 2 for v in (a, b))


def test_psnr_is_scikit_images(pair):
    truth, x = pair
    for value, a, b in zip(psnr(x, truth), truth, x, strict=True):
        one, two = both(a, b)
        assert float(value) == pytest.approx(skimage.peak_signal_noise_ratio(one, two, data_range=1.0), abs=1e-3)


def test_psnr_of_a_perfect_image_is_finite(pair):
    assert psnr(pair[0], pair[0]).tolist() == [pytest.approx(100.0, abs=1e-3)] * 5


def test_psnr_in_the_hole(pair):
    truth, x = pair
    where = torch.zeros(5, 1, 32, 32)
    where[..., :8, :8] = 1
    assert torch.allclose(psnr(x, truth, where), psnr(x[..., :8, :8], truth[..., :8, :8]), atol=1e-4)


def test_ssim_is_scikit_images(pair):
    truth, x = pair
    for value, a, b in zip(ssim(x, truth), truth, x, strict=True):
        one, two = both(a, b)
        # scikit-image averages over windows inside the image: crop its map by (7 - 1)/2
        expected = skimage.structural_similarity(one, two, data_range=1.0, win_size=7)
        assert float(value) == pytest.approx(expected, abs=1e-5)


def test_ssim_of_colours(pair):
    truth, x = (v[:3, 0][None] for v in pair)
    one, two = (((v.clamp(-1, 1)[0].double().numpy() + 1) / 2) for v in (truth, x))
    expected = skimage.structural_similarity(one, two, data_range=1.0, win_size=7, channel_axis=0)
    assert float(ssim(x, truth)[0]) == pytest.approx(expected, abs=1e-5)


def test_ssim_needs_room():
    with pytest.raises(InputError, match="7x7"):
        ssim(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))


def test_residual_is_sigma_y_for_the_truth():
    x = torch.rand(64, 1, 16, 16) * 2 - 1
    mask = (torch.rand(64, 1, 16, 16) > 0.5).float()
    likelihood = Gaussian(Mask(mask), 0.1)
    obs = Observation(likelihood.sample(x, Noise(0, 64)), likelihood)
    n = float(mask.sum())
    assert float(residual_rms(x, obs).square().mean().sqrt()) == pytest.approx(0.1, abs=5 * 0.1 / (2 * n) ** 0.5)
    hidden_only = x + (1 - mask)  # what was not measured does not count
    assert torch.allclose(residual_rms(hidden_only, obs), residual_rms(x, obs), atol=1e-6)


def test_spread():
    samples = torch.tensor([[-0.5, 0.5, 0.0]]).reshape(1, 3, 1, 1, 1)
    assert float(spread(samples)) == pytest.approx(0.5)
    assert float(spread(samples[:, :1])) == 0.0
    where = torch.zeros(1, 1, 2, 2)
    where[..., 0, 0] = 1
    assert float(root_mean_square(torch.arange(3.0, 7.0).reshape(1, 1, 2, 2), where)) == 3.0


def test_measure_of_the_truth_itself():
    truth = torch.rand(3, 1, 32, 32) * 2 - 1
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 4:12, 4:12] = 0
    likelihood = Gaussian(Mask(mask), 0.05)
    obs = Observation(likelihood.sample(truth, Noise(0, 3)), likelihood)
    values = measure(truth[:, None].repeat(1, 2, 1, 1, 1), truth, obs, classifier=fashion_classifier(), labels=torch.zeros(3).long())
    assert all(v.shape == (3,) for v in values.values())
    assert values["feature_distance"].max() < 1e-5 and values["ssim"].min() > 1 - 1e-6 and values["spread"].max() == 0
    assert {"psnr", "psnr_mean", "psnr_hidden", "psnr_mean_hidden", "top1", "residual"} <= set(values)


def test_psnr_of_the_mean_is_higher_than_of_samples():
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(4, 1, 16, 16, generator=g) - 0.5
    samples = truth[:, None] + 0.2 * torch.randn(4, 8, 1, 16, 16, generator=g)
    likelihood = Gaussian(Mask(torch.ones(1, 1, 16, 16)), 0.05)
    values = measure(samples, truth, Observation(truth, likelihood))
    gain = values["psnr_mean"] - values["psnr"]
    assert gain.min() > 6 and gain.max() < 12  # 10 log10(8) = 9 dB
    assert "psnr_hidden" not in values


# features


def test_classifier_is_as_good_as_its_card_says():
    from deft.data import fashion

    net, data = fashion_classifier(), fashion("test")
    stated = net.card["test_accuracy"]
    assert stated > 0.9
    error = (stated * (1 - stated) / len(data.x)) ** 0.5
    assert abs(accuracy(net, data.x, data.labels) - stated) < 4 * error
    assert sum(p.numel() for p in net.parameters()) <= 200_000


def test_unit_of_the_feature_distance():
    from deft.data import fashion

    f = in_batches(fashion_classifier().features, fashion("test").x)
    assert float(feature_distance(f, f.roll(1, 0)).mean()) == pytest.approx(1.0, abs=0.06)
    assert float(feature_distance(f, f).max()) == 0.0


def test_frechet_distance_of_gaussians():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, generator=g, dtype=torch.float64)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    # N(0, I) and N(m, 4 I): |m|^2 + 3 (2 - 1)^2
    b = 2 * torch.randn(4000, 3, generator=g, dtype=torch.float64) + torch.tensor([1.0, 0.0, 0.0])
    assert frechet_distance(a, b) == pytest.approx(4.0, abs=0.3)


# intervals


def test_bootstrap_is_the_textbooks_for_normal_data():
    x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap(x)
    half = 1.96 * x.std() / 20
    assert interval.value == pytest.approx(x.mean()) and interval.n == 400
    assert interval.low == pytest.approx(x.mean() - half, abs=0.02) and interval.high == pytest.approx(x.mean() + half, abs=0.02)
    assert bootstrap(x) == interval and bootstrap(x, seed=1) != interval


def test_bootstrap_covers():
    rng = np.random.default_rng(1)
    inside = [i.low < 0 < i.high for i in (bootstrap(rng.normal(size=60), resamples=1000, seed=k) for k in range(300))]
    assert 0.95 - 4 * (0.95 * 0.05 / 300) ** 0.5 - 0.02 < np.mean(inside) < 0.99


def test_paired_difference_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 5, 100)
    a, b = hard + 0.3 + rng.normal(0, 0.2, 100), hard + rng.normal(0, 0.2, 100)
    assert bootstrap(a).low < bootstrap(b).high  # they overlap
    difference = paired(a, b)
    assert 0 < difference.low < 0.3 < difference.high < 0.5


def test_bad_statistics():
    with pytest.raises(InputError):
        bootstrap([])
    with pytest.raises(InputError):
        bootstrap([1.0, float("nan")])
    with pytest.raises(InputError, match="same images"):
        paired([1.0], [1.0, 2.0])


def test_the_energy_score_is_least_for_the_right_spread():
    """Truth and samples from N(0, I): samples of half or twice the spread score worse, by many standard errors."""
    n, s, d = 4000, 4, 8
    g = torch.Generator().manual_seed(0)
    truth, draws = torch.randn(n, 1, d, generator=g), torch.randn(n, s, d, generator=g)

    def score(factor):
        x = factor * draws
        return (x - truth).norm(dim=-1).mean(1) - pairwise_distance(x) / 2

    right = score(1.0)
    for factor in (0.5, 2.0):
        worse = score(factor) - right
        assert float(worse.mean()) > 5 * float(worse.std()) / math.sqrt(n)
    assert float(((0.5 * draws - truth).norm(dim=-1) - (draws - truth).norm(dim=-1)).mean()) < 0  # the distance prefers it


def test_pairwise_distance_by_hand():
    x = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]])
    assert float(pairwise_distance(x)) == pytest.approx((5 + 0 + 5) / 3)
