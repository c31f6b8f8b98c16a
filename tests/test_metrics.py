"""Metrics against scikit-image, against their definitions, and against what they promise for an exact posterior."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deft import Gaussian, Mask, Noise, Observation
from deft.bench.studies import proper
from deft.domains.image.classifier import fashion_classifier
from deft.domains.image.measure import METRICS, measure
from deft.domains.image.metrics import (
    calibration_error,
    coverage,
    crps,
    energy_score,
    energy_score_pixels,
    frechet_distance,
    kernel_distance,
    pairwise_distance,
    perceptual_distance,
    psnr,
    rank_histogram,
    residual_rms,
    root_mean_square,
    spread,
    spread_skill,
    ssim,
)
from deft.errors import InputError
from deft.kinds.domain import find_domain

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
    values = measure(
        truth[:, None].repeat(1, 2, 1, 1, 1), truth, obs, network=fashion_classifier(), labels=torch.zeros(3).long()
    )
    assert all(v.shape == (3,) for v in values.values())
    assert values["feature_distance"].max() < 1e-5 and values["ssim"].min() > 1 - 1e-6 and values["spread"].max() == 0
    assert {"psnr", "psnr_mean", "psnr_hidden", "psnr_mean_hidden", "top1", "residual", "energy_score"} <= set(values)
    assert all(values[k].abs().max() < 1e-5 for k in proper(find_domain("image")))
    assert values["perceptual_distance"].max() < 1e-9 and values["diversity"].max() < 1e-5
    assert values["coverage"].tolist() == pytest.approx([0.9] * 3) and values["spread_skill"].tolist() == pytest.approx(
        [1.0] * 3
    )
    assert set(values) <= set(METRICS)


def test_psnr_of_the_mean_is_higher_than_of_samples():
    g = torch.Generator().manual_seed(0)
    truth = torch.rand(4, 1, 16, 16, generator=g) - 0.5
    samples = truth[:, None] + 0.2 * torch.randn(4, 8, 1, 16, 16, generator=g)
    likelihood = Gaussian(Mask(torch.ones(1, 1, 16, 16)), 0.05)
    values = measure(samples, truth, Observation(truth, likelihood))
    gain = values["psnr_mean"] - values["psnr"]
    assert gain.min() > 6 and gain.max() < 12  # 10 log10(8) = 9 dB
    assert "psnr_hidden" not in values


# posteriors: S + 1 draws of one distribution, the truth among them


def draws(n, s, pixels, seed=0, scale=1.0, spread=1.0):
    """Truth [n, pixels] and samples [n, s, pixels], each pixel of its own mean and deviation `scale`; the samples' is
    `spread` times it."""
    g = torch.Generator().manual_seed(seed)
    mean, deviation = torch.randn(n, 1, pixels, generator=g), scale * (0.2 + torch.rand(n, 1, pixels, generator=g))
    x = mean + deviation * torch.randn(n, s + 1, pixels, generator=g) * torch.tensor([1.0] + s * [spread])[:, None]
    return x[:, 1:], x[:, 0]


@pytest.mark.parametrize("s", [1, 2, 5, 10, 20])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_of_an_ideal_posterior_is_the_level(s, level):
    """Within 4 standard errors of 160,000 pixels (0.3 % at most), for every S, also where no sample could hold 90 %."""
    samples, truth = draws(400, s, 400)
    value = coverage(samples, truth, level, step=0)
    assert float(value.mean()) == pytest.approx(level, abs=4 * float(value.std()) / 20 + 1e-12)
    assert 4 * float(value.std()) / 20 < 0.006


@pytest.mark.parametrize("s", [2, 4, 10])
def test_coverage_of_8_bit_images_is_the_level(s):
    """As images are: truth whole grey levels, most pixels background that varies by nothing, by a hair, or clamped at
    the end."""
    samples, truth = draws(600, s, 300, scale=0.2)
    background = torch.zeros(300).index_fill(0, torch.arange(200), 1.0)
    shift = torch.where(torch.arange(300) < 100, -3.0, 0.0)  # the first third is clamped to -1
    hair = 1 - 0.99 * background
    samples, truth = ((v * hair + shift) for v in (samples, truth))
    truth = ((truth.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    value = coverage(samples, truth)
    assert float(value.mean()) == pytest.approx(0.9, abs=4 * float(value.std()) / 600**0.5)
    histogram = rank_histogram(samples, truth)
    error = histogram.std(0) / 600**0.5
    assert bool(((histogram.mean(0) - 1 / (s + 1)).abs() < 4 * error).all()), histogram.mean(0)


def test_background_says_nothing():
    """The same coverage with and without 90 % of background added, off by less than a grey level; and nothing but
    background is the level itself."""
    samples, truth = draws(50, 4, 100, spread=0.4, scale=0.3)
    samples, truth = samples * 0.3, truth * 0.3
    flat = torch.full((50, 900), -1.0)
    with_flat = coverage(
        torch.cat([samples, (flat + 0.005)[:, None].expand(-1, 4, -1)], 2), torch.cat([truth, flat], 1)
    )
    assert torch.equal(with_flat, coverage(samples, truth)) and float(with_flat.mean()) < 0.87
    assert torch.allclose(coverage(flat[:, None].repeat(1, 4, 1), flat), torch.full((50,), 0.9, dtype=torch.float64))


def test_coverage_is_the_mean_of_breaking_ties_and_ranks_at_random():
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 4, (1, 7, 2000), generator=g).float()  # many ties
    samples, truth = x[:, 1:], x[:, 0] * 0.5 + 1  # not of one distribution
    truth = truth.round()
    found = []
    for _ in range(200):
        order = torch.rand(x.shape, generator=g)
        rank = ((samples < truth[:, None]) | ((samples == truth[:, None]) & (order[:, 1:] < order[:, :1]))).sum(1)
        u = (rank + torch.rand(rank.shape, generator=g)) / 7
        found.append(float(((u - 0.5).abs() <= 0.4).double().mean()))
    mean, error = np.mean(found), np.std(found) / len(found) ** 0.5
    assert float(coverage(samples, truth, 0.8, step=0)) == pytest.approx(mean, abs=4 * error)


def test_coverage_sees_what_is_wrong():
    for spread_, low, high in ((0.5, 0.0, 0.75), (2.0, 0.95, 1.0)):
        value = float(coverage(*draws(100, 20, 100, spread=spread_), step=0).mean())
        assert low < value < high, value
    outside = coverage(torch.zeros(3, 4, 10) + torch.rand(3, 4, 10), torch.full((3, 10), 5.0), step=0)
    assert outside.tolist() == pytest.approx([0.75] * 3)  # the least that four samples can show
    with pytest.raises(InputError, match="between 0 and 1"):
        coverage(*draws(2, 3, 4), level=1.0)


def test_coverage_where():
    samples, truth = draws(5, 6, 50)
    where = (torch.arange(50) < 20).float()[None]
    assert torch.allclose(
        coverage(samples, truth, where=where, step=0), coverage(samples[..., :20], truth[..., :20], step=0)
    )


def test_rank_histogram_by_hand():
    samples = torch.tensor([[[0.0, 2.0, 1.0], [1.0, 2.0, 1.0]]])
    truth = torch.tensor([[0.5, 2.0, 1.0]])  # rank 1; level with both, but the three are equal: left out twice
    assert rank_histogram(samples, truth, step=0).tolist() == [[0.0, 1.0, 0.0]]
    truth = torch.tensor([[1.0, 5.0, 1.0]])  # level with the higher of two; above both; left out
    assert rank_histogram(samples, truth, step=0)[0].tolist() == pytest.approx([0.0, 0.25, 0.75])
    assert calibration_error(torch.tensor([[0.0, 0.25, 0.75]])) == pytest.approx(5 / 12)
    assert calibration_error(torch.full((4, 3), 1 / 3)) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("s", [2, 5, 20])
def test_spread_over_error_of_an_ideal_posterior_is_one(s):
    """In the mean over images, within 4 of the standard errors their scatter gives, though each image has only ten
    pixels."""
    samples, truth = draws(4000, s, 10, scale=0.05)
    samples, truth = samples * 0.2, truth * 0.2
    value = spread_skill(samples, truth)
    error = float(value.std()) / len(value) ** 0.5
    assert float(value.mean()) == pytest.approx(1.0, abs=4 * error) and error < 0.01
    single = torch.cat([spread_skill(samples[i : i + 1], truth[i : i + 1]) for i in range(500)])
    assert float(single.mean()) > 1.02  # what the mean of the images' own ratios would say


def test_spread_over_error_is_a_ratio():
    samples, truth = draws(2000, 5, 20, scale=0.05, spread=0.5)
    samples, truth = samples * 0.2, truth * 0.2
    expected = 0.5 * math.sqrt((1 + 1 / 5) / (1 + 0.25 / 5))  # the mean of narrower samples is also nearer
    value = spread_skill(samples, truth)
    assert float(value.mean()) == pytest.approx(expected, abs=4 * float(value.std()) / 2000**0.5)
    assert float(spread_skill(truth[:, None].repeat(1, 3, 1), truth).mean()) == pytest.approx(1.0)  # sure, and right
    assert float(spread_skill(truth[:, None].repeat(1, 3, 1), -truth).mean()) < 1e-3  # sure, and wrong
    with pytest.raises(InputError, match="at least two"):
        spread_skill(samples[:, :1], truth)


# sets of images


def test_frechet_distance_of_gaussians():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 3, generator=g, dtype=torch.float64)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    # N(0, I) and N(m, 4 I): |m|^2 + 3 (2 - 1)^2
    b = 2 * torch.randn(4000, 3, generator=g, dtype=torch.float64) + torch.tensor([1.0, 0.0, 0.0])
    assert frechet_distance(a, b) == pytest.approx(4.0, abs=0.3)


def test_kernel_distance_by_hand():
    """Against the sums of Bińkowski et al. written out, image by image."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 2, generator=g), torch.randn(8, 2, generator=g) + 1

    def k(u, v):
        return (0.5 * float(u @ v) + 1) ** 3

    values = []
    for block in range(2):
        x, y = a[3 * block : 3 * block + 3], b[4 * block : 4 * block + 4]
        xx = sum(k(x[i], x[j]) for i in range(3) for j in range(3) if i != j) / 6
        yy = sum(k(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / 12
        values.append(xx + yy - 2 * sum(k(u, v) for u in x for v in y) / 12)
    found = kernel_distance(a, b, blocks=2, gamma=0.5)
    assert found.value == pytest.approx(np.mean(values), rel=1e-5)
    assert found.error == pytest.approx(np.std(values, ddof=1) / 2**0.5, rel=1e-5)


def test_kernel_distance_is_unbiased_and_knows_its_error():
    """In one dimension with gamma = 1 it is 3 (m1 - m1')^2 + 3 (m2 - m2')^2 + (m3 - m3')^2 of the raw moments."""
    g = torch.Generator().manual_seed(0)
    for shift, scale in ((0.0, 1.0), (0.3, 1.2)):
        a, b = torch.randn(100, 200, 1, generator=g), scale * torch.randn(100, 200, 1, generator=g) + shift
        found = [kernel_distance(u, v) for u, v in zip(a, b, strict=True)]
        m1, m2, m3 = shift, scale**2 + shift**2, 3 * shift * scale**2 + shift**3
        truth = 3 * m1**2 + 3 * (m2 - 1) ** 2 + m3**2
        values = np.array([f.value for f in found])
        assert values.mean() == pytest.approx(truth, abs=4 * values.std() / 10)
        stated = np.sqrt(np.mean([f.error**2 for f in found]))
        # 100 values know their deviation to 7 %, heavy tails aside
        assert stated == pytest.approx(values.std(), rel=0.35)
    with pytest.raises(InputError, match="two images"):
        kernel_distance(a[0, :15], b[0])


def test_perceptual_distance_by_hand():
    a = [torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1), torch.ones(1, 1, 2, 2)]
    b = [torch.tensor([8.0, 6.0]).reshape(1, 2, 1, 1), torch.tensor([[1.0, -1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)]
    # (0.6, 0.8) and (0.8, 0.6): 0.08; four positions of which one is opposite: 4/4
    assert float(perceptual_distance(a, b)) == pytest.approx((0.08 + 1.0) / 2)
    assert float(perceptual_distance(a, a)) == 0.0


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
    # the distance prefers it
    assert float(((0.5 * draws - truth).norm(dim=-1) - (draws - truth).norm(dim=-1)).mean()) < 0


def worlds(n, s, factor, d=8, seed=0):
    """Truth [n, d] and samples [n, s, d] of one law N(m, 0.2^2 I), m random; the samples' deviation is `factor` times
    that."""
    g = torch.Generator().manual_seed(seed)
    mean = 0.3 * torch.randn(n, d, generator=g)
    return mean[:, None] + factor * 0.2 * torch.randn(n, s, d, generator=g), mean + 0.2 * torch.randn(n, d, generator=g)


SCORES = {"energy": energy_score, "pixels": energy_score_pixels, "crps": crps}


@pytest.mark.parametrize("s", [2, 4])
@pytest.mark.parametrize("name", SCORES)
def test_proper_scores_are_least_under_the_true_posterior(name, s):
    """For two and four samples alike: half, 0.8, 1.25 and twice the spread score worse in the mean, by 4 standard
    errors or more."""
    n = 60_000
    right = SCORES[name](*worlds(n, s, 1.0))
    for factor in (0.5, 0.8, 1.25, 2.0):
        worse = SCORES[name](*worlds(n, s, factor)) - right
        assert float(worse.mean()) > 4 * float(worse.std()) / math.sqrt(n), (factor, float(worse.mean()))


@pytest.mark.parametrize("name", SCORES)
def test_proper_scores_are_fair(name):
    """The expectation does not depend on the number of samples: two and sixteen agree within 4 standard errors;
    dividing by S^2 would not."""
    n, found = 20_000, {}
    for s in (2, 16):
        value = SCORES[name](*worlds(n, s, 1.0, seed=s))
        found[s] = float(value.mean()), float(value.std()) / math.sqrt(n)
    error = math.hypot(found[2][1], found[16][1])
    assert found[2][0] == pytest.approx(found[16][0], abs=4 * error)
    assert error < 0.02 * found[2][0]  # pairs over S^2 would shift S = 2 by a half of the score


def test_too_little_spread_wins_by_distance_and_psnr_alone():
    """Why settings are not tuned by single samples: half of the spread is nearer to the truth, and worse by every
    proper score."""
    right, sharp = worlds(4000, 4, 1.0), worlds(4000, 4, 0.3)
    assert float((sharp[0] - sharp[1][:, None]).norm(dim=-1).mean()) < float(
        (right[0] - right[1][:, None]).norm(dim=-1).mean()
    )
    assert all(float(f(*sharp).mean()) > float(f(*right).mean()) for f in SCORES.values())
    assert proper(find_domain("image")) == ["energy_score", "energy_score_pixels", "crps"]


def test_scores_by_hand():
    x, y = torch.tensor([[[0.0, 0.0], [0.6, 0.8]]]), torch.tensor([[0.3, 0.4]])
    assert float(energy_score(x, y)) == pytest.approx(0.5 - 1.0 / 2)
    assert float(energy_score_pixels(x.reshape(1, 2, 1, 1, 2), y.reshape(1, 1, 1, 2))) == pytest.approx(0.0, abs=1e-7)
    y = torch.tensor([[0.0, 0.0]])
    assert float(energy_score(x, y)) == pytest.approx(0.5 - 0.5) and float(
        energy_score_pixels(x, y + 2)
    ) == pytest.approx((math.sqrt(2) + math.sqrt(0.4**2 + 0.2**2) - 1) / 2 / math.sqrt(2))  # the truth is clamped to 1
    assert float(crps(torch.tensor([[[0.9], [0.1], [0.4]]]), torch.tensor([[0.5]]))) == pytest.approx(
        (0.4 + 0.4 + 0.1) / 3 - (0.8 + 0.5 + 0.3) / 3 / 2
    )
    for score in SCORES.values():
        with pytest.raises(InputError, match="at least two samples"):
            score(x[:, :1], y)


def test_pairwise_distance_by_hand():
    x = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]])
    assert float(pairwise_distance(x)) == pytest.approx((5 + 0 + 5) / 3)
