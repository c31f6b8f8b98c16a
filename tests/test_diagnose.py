"""Calibration in closed form: exact samples pass as often as is said, wrong ones fail, factors make intervals hold."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import deft
from deft.diagnose import (
    DepthReference,
    chi_square_p,
    conformal_factors,
    depth_numbers,
    expected_coverage,
    interval_coverage,
    rank_band,
    sbc,
    tarp,
)
from deft.errors import CheckpointError, InputError
from deft.kinds.intervals import IntervalFactors
from deft.testing import gaussian_pairs

WRONG = {
    "too narrow": {"scale": 0.7},
    "too wide": {"scale": 1.4},
    "too low": {"shift": -0.6},
    "too high": {"shift": 0.6},
}
SIGMA = 0.7
DEVIATION = SIGMA / math.sqrt(1 + SIGMA**2)


# ranks


@pytest.mark.parametrize(("test", "dim"), [(sbc, 2), (sbc, 8), (tarp, 2)])
def test_exact_samples_pass_as_often_as_is_said(test, dim):
    """300 sets of exact samples: the share that fails is at most 5 % (Bonferroni, discrete ranks), to 3.5 s.e., and not
    0. Without Bonferroni some 25 % of those of 8 numbers would."""
    failed = sum(not test(*gaussian_pairs(60, 9, seed=s, dim=dim)).passed for s in range(300)) / 300
    assert 0 < failed < 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize("how", WRONG)
def test_wrong_samples_fail_and_are_told_how(how):
    test = sbc(*gaussian_pairs(300, 19, **WRONG[how]))
    assert not test.passed and set(test.verdicts().values()) == {how}
    assert how in repr(test)


@pytest.mark.parametrize(("how", "scale"), [("too sure", 0.6), ("too wide", 1.6)])
def test_coverage_with_random_points_and_of_density(how, scale):
    draws, truth = gaussian_pairs(300, 19, scale=scale)

    def log_density(x, seed=0):
        middle = gaussian_pairs(300, 4000, seed=seed)[0].mean
        return -(x - middle[:, None]).square().sum(-1) / (2 * DEVIATION**2)

    for test in (tarp(draws, truth), expected_coverage(draws, truth, log_density)):
        assert not test.passed and list(test.verdicts().values()) == [how]
    passed = [
        expected_coverage(*gaussian_pairs(300, 19, seed=s), partial(log_density, seed=s)).passed for s in range(3)
    ]
    assert sum(passed) >= 2, "of exact samples one in twenty fails"
    assert tarp(*gaussian_pairs(300, 19, shift=1.0)).verdicts() == {"distance to a random point": "too sure"}


def test_the_band_holds_all_ranks_at_once():
    """Simulated with other numbers: inside at all of 20 ranks in 95 % of the sets; a band for each rank alone is left
    far more often."""
    low, high = rank_band(80, 20)
    rng = np.random.default_rng(1)
    share = rng.multinomial(80, np.full(21, 1 / 21), 4000).cumsum(1)[:, :20] / 80
    inside = ((low - 1e-9 <= share) & (share <= high + 1e-9)).all(1).mean()
    assert abs(inside - 0.95) < 0.02
    expected = np.arange(1, 21) / 21
    alone = np.abs(share - expected) <= 1.96 * np.sqrt(expected * (1 - expected) / 80)
    assert alone.all(1).mean() < 0.85


def test_ties_are_broken_at_random():
    """A truth that equals all samples has each rank as often."""
    x = torch.zeros(400, 7, 1)
    test = sbc(deft.Draws(x), x[:, 0])
    assert test.passed and set(test.ranks[:, 0]) == set(range(8))


def test_what_is_no_test():
    draws, truth = gaussian_pairs(20, 4)
    weighted = replace(draws, log_weight=torch.zeros(20, 4))
    for call, why in (
        (lambda: sbc(weighted, truth), "weigh the same"),
        (lambda: sbc(draws, truth[:, :1]), "expected \\(20, 2\\)"),
        (lambda: sbc(draws, truth, {"all": lambda x: x}), "returns \\[M\\]"),
        (lambda: sbc(draws, truth, {}), "no statistic"),
        (lambda: tarp(draws, truth, truth[:3]), "references"),
        (lambda: tarp(draws[:1], truth[:1]), "two measurements"),
        (lambda: interval_coverage(draws, truth[:3]), "one for each"),
        (lambda: conformal_factors(weighted, truth), "unweighted"),
        (lambda: conformal_factors(draws[:4], truth[:4]), "at least 8"),
    ):
        with pytest.raises(InputError, match=why):
            call()


def test_pictures():
    pytest.importorskip("matplotlib")
    draws, truth = gaussian_pairs(30, 4)
    for made in (sbc(draws, truth), interval_coverage(draws, truth)):
        assert made.picture()[:8] == b"\x89PNG\r\n\x1a\n"


# intervals


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_factor_is_what_the_samples_lack(scale):
    """Samples of a Gaussian, `scale` times as wide as they should be. The score is Student's t times a number, whatever
    the level: the truth is off the mean of n samples by 1 + scale^2 / n, their variance is scale^2."""
    factors = conformal_factors(*gaussian_pairs(4000, 16, scale=scale))
    for n in (4, 8, 16):
        exact = math.sqrt((1 + scale**2 / n) / (scale**2 * (1 + 1 / n)))
        for level in (0.5, 0.8, 0.9, 0.95):
            # 8,000 scores: their quantiles are known to about 2 %. The floor takes a few per cent off small spreads
            assert factors.at(level, n) == pytest.approx(exact, rel=0.08 if n == 4 else 0.06)


@pytest.mark.parametrize("options", [{"scale": 0.5}, {"scale": 2.0}, {"shift": 0.8}, {}])
@pytest.mark.parametrize("n", [2, 4, 16])
def test_calibrated_intervals_hold(n, options):
    """On other measurements, for 4 and 16 samples, though the samples are too narrow, too wide or shifted."""
    factors = conformal_factors(*gaussian_pairs(2000, 16, **options))
    draws, truth = gaussian_pairs(2000, n, seed=1, **options)
    found = interval_coverage(replace(draws, factors=factors), truth, [0.5, 0.9])
    assert np.abs(found.value - found.levels).max() < 0.03
    raw = interval_coverage(replace(draws, factors=factors), truth, [0.9], calibrated=False)
    assert raw.value[0] < 0.87 or options == {"scale": 2.0}
    assert not raw.passed


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.3)])
def test_entries_that_were_measured_do_not_count(shares):
    """Samples of half the right spread at hidden entries, the truth itself at the others: the factor is that of the
    hidden ones, 2, whatever the share of them, and intervals hold nine tenths of them."""
    draws, truth = gaussian_pairs(1500, 16, scale=0.5, dim=20)
    g = torch.Generator().manual_seed(0)
    share = torch.tensor(shares).repeat(750)[:, None]
    hidden = (torch.rand(truth.shape, generator=g) < share).double()
    x = torch.where(hidden[:, None] > 0, draws.x, truth[:, None])
    found = conformal_factors(deft.Draws(x), truth, where=hidden)
    alone = conformal_factors(draws, truth)
    assert found.at(0.9, 16) == pytest.approx(alone.at(0.9, 16), rel=0.03)
    assert conformal_factors(deft.Draws(x), truth).at(0.9, 16) < 0.95 * alone.at(0.9, 16)
    own = interval_coverage(deft.Draws(x, factors=found), truth, [0.9], where=hidden)
    assert abs(own.value[0] - 0.9) < 4 * own.error[0] + 1e-3
    with pytest.raises(InputError, match="got 7"):
        conformal_factors(deft.Draws(x), truth, where=hidden * (torch.arange(1500) < 7)[:, None])


def test_the_band_of_coverage_is_left_as_rarely_as_it_says():
    """Exact factors, 100 sets of 50 measurements of 8 entries: 5 % outside, to 3.5 s.e.; intervals a fifth too narrow
    are seen in most of the sets."""
    exact = IntervalFactors((0.5, 0.95), {4: (1.0, 1.0)})
    narrow = IntervalFactors((0.5, 0.95), {4: (0.8, 0.8)})

    def failed(factors):
        found = 0
        for s in range(100):
            draws, truth = gaussian_pairs(50, 4, seed=s, dim=8)
            found += not interval_coverage(replace(draws, factors=factors), truth).passed
        return found / 100

    assert 0 < failed(exact) < 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / 100)
    assert failed(narrow) > 0.7


def test_half_an_interval_is_its_formula():
    factors = IntervalFactors((0.5, 0.9), {4: (1.0, 1.2)}, floor=0.3)
    t = 2.3534  # Student's, 3 degrees of freedom, 95 %
    for std in (0.0, 0.4):
        half = float(factors.half_width(0.9, 4, torch.tensor(std)))
        assert half == pytest.approx(1.2 * t * math.sqrt(std**2 + 0.09) * math.sqrt(1.25), rel=1e-4)


def test_what_is_guaranteed():
    """Over 400 sets of 15 measurements whose entries hang together: the mean coverage of a new one is within the bounds
    of conformal risk control."""
    held = []
    for s in range(400):
        draws, truth = gaussian_pairs(16, 4, seed=s, scale=0.5, dim=3)
        x, t = draws.x.repeat(1, 1, 4), truth.repeat(1, 4)  # four copies of each entry
        own = deft.Draws(x[15:], factors=conformal_factors(deft.Draws(x[:15]), t[:15], [0.8]))
        low, high = own.interval(0.8)
        held.append(float(((low <= t[15:]) & (t[15:] <= high)).float().mean()))
    error = float(np.std(held)) / 20
    assert 0.8 * 15 / 16 - 3 * error < np.mean(held) < 0.8 + 2 / 16 + 3 * error


def test_draws_keep_their_factors(tmp_path):
    draws, truth = gaussian_pairs(50, 4)
    own = replace(draws, factors=conformal_factors(draws, truth))
    low, high = own.interval(0.9)
    assert own.calibrated and bool((high - low > draws.interval(0.9)[1] - draws.interval(0.9)[0]).all())
    assert all(torch.equal(a, b) for a, b in zip(own.interval(0.9, calibrated=False), draws.interval(0.9), strict=True))
    again = deft.Draws.load(own.save(tmp_path))
    torch.testing.assert_close(again.interval(0.9)[0], low, rtol=1e-3, atol=1e-3)
    assert deft.Draws.load(draws.save(tmp_path / "raw")).factors is None
    assert torch.equal(deft.Draws.cat([own[:20], own[20:]]).interval(0.9)[0], low)
    assert deft.Draws.cat([own[:20], draws[20:]]).factors is None
    for other in (replace(own, log_weight=torch.zeros(50, 4)), replace(own, x=own.x[:, :1])):
        assert not other.calibrated
        other.interval(0.9)


def test_damaged_factors_are_refused():
    good = IntervalFactors((0.5, 0.9), {4: (1.0, 1.1)}).config()
    assert IntervalFactors.from_config(good) == IntervalFactors((0.5, 0.9), {4: (1.0, 1.1)})
    for bad in (None, {}, good | {"samples": {}}, good | {"samples": {"4": [1.0]}}, good | {"floor": math.nan},
        good | {"levels": [0.9, 0.5]}, good | {"levels": [0.5, 1.0]}):  # fmt: skip
        with pytest.raises(CheckpointError, match=r"factors of intervals"):
            IntervalFactors.from_config(bad)
    with pytest.raises(CheckpointError, match=r"reference numbers"):
        DepthReference.from_config({"residual": "many"})


# out of its depth


def test_chi_square_of_exact_samples_is_uniform():
    """x and y drawn together: (y - A x) / sigma is standard normal noise, and its p-value uniform. Twice the noise is
    seen."""
    obs = deft.Observation(torch.zeros(2000, 30), deft.Gaussian(deft.Identity(), 0.3))
    x = 0.3 * deft.Noise(0, 2000).normal((30,))
    p = chi_square_p(obs, x)
    shares = np.histogram(p.numpy(), 10, (0, 1))[0] / 2000
    assert np.abs(shares - 0.1).max() < 0.03
    assert float((chi_square_p(obs, 2 * x) < 0.01).double().mean()) > 0.99


def test_numbers_are_compared_with_the_reference():
    rng = np.random.default_rng(0)
    reference = DepthReference({"residual": np.exp(0.1 * rng.normal(size=48)).tolist()})
    within = reference.judge({"residual": 1.05, "other": 9.0})
    assert within.within and set(within.numbers) == {"residual"} and within.numbers["residual"].p > 0.2
    for value, ratio in ((3.0, 3.0), (0.3, 0.3), (math.nan, math.nan)):
        far = reference.judge({"residual": value})
        assert not far.within and far.numbers["residual"].p == pytest.approx(1 / 49)
        assert "do not trust the intervals" in far.summary()
        assert math.isnan(ratio) or far.numbers["residual"].ratio == pytest.approx(ratio, rel=0.1)
    assert DepthReference.from_config(reference.config()).judge({"residual": 1.05}).within


def test_samples_of_another_measurement_are_far():
    """The exact h of a Gaussian world: its own measurements are within, a measurement of noise is not."""
    world, obs = deft.testing.half_seen(6)
    prior = world.prior(deft.VPCosine())
    like = obs.likelihood
    x = world.sample(25, 3).float()
    many = deft.Observation(like.sample(x, deft.Noise(4, 25)), like)
    draws = deft.sample_posterior(prior, world.h, many, 4, steps=30)
    numbers = depth_numbers(prior, many, draws)
    assert numbers.keys() == {"residual", "surprise", "spread"} and all(v.shape == (25,) for v in numbers.values())
    assert float(numbers["residual"].median()) == pytest.approx(1, abs=0.2)
    std = world.posterior(obs).std.square().mean().sqrt()  # does not depend on y; 30 steps of DDIM lose a quarter
    assert float(numbers["spread"].square().mean().sqrt()) == pytest.approx(float(std), rel=0.35)
    assert float(numbers["surprise"].median()) == pytest.approx(1, abs=0.2)
    loud = depth_numbers(prior, many, replace(draws, x=3 * draws.x))
    assert bool((loud["surprise"] > numbers["surprise"]).all())
    reference = DepthReference({k: v[:24].tolist() for k, v in numbers.items()})
    assert reference.judge({k: float(v[24]) for k, v in numbers.items()}).within
    odd = deft.Observation(2 * like.measured_part(deft.Noise(5, 1).normal((36,))), like)
    far = depth_numbers(prior, odd, deft.sample_posterior(prior, world.h, odd, 4, steps=30))
    assert not reference.judge({k: float(v[0]) for k, v in far.items()}).within
