"""Intervals against theory, and tests against what they promise: level, familywise error, power."""

from __future__ import annotations

import numpy as np
import pytest

from deft.bench.statistics import (
    EXACT,
    bootstrap,
    clustered,
    crossed,
    crossed_mean,
    difference_p,
    holm,
    paired,
    sign_flip,
    student_p,
    tied_for_best,
)
from deft.errors import InputError

stats = pytest.importorskip("scipy.stats")

# intervals


def test_bootstrap_is_the_textbooks_for_normal_data():
    x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap(x)
    half = 1.96 * x.std() / 20
    assert interval.value == pytest.approx(x.mean()) and interval.n == 400
    assert interval.low == pytest.approx(x.mean() - half, abs=0.02) and interval.high == pytest.approx(
        x.mean() + half, abs=0.02
    )
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
    with pytest.raises(InputError, match="same cases"):
        paired([1.0], [1.0, 2.0])


# several seeds


def table(rng, k, n, of_images=1.0, of_seeds=0.0, of_both=1.0):
    """Values [k, n] with mean 0: a part of each image, of each seed, and of both."""
    return of_images * rng.normal(size=(1, n)) + of_seeds * rng.normal(size=(k, 1)) + of_both * rng.normal(size=(k, n))


def covers(crossed, runs=200, k=6, n=25, **parts):
    """Share of runs whose 90 % interval holds 0, and the intervals' mean width."""
    rng = np.random.default_rng(0)
    found = [
        clustered(table(rng, k, n, **parts), crossed=crossed, resamples=400, level=0.9, seed=i) for i in range(runs)
    ]
    return np.mean([i.low < 0 < i.high for i in found]), np.mean([i.high - i.low for i in found])


def test_seeds_of_images_are_no_further_images():
    """Six seeds of 25 images: the interval covers; taking all 150 numbers for images does not (of_images alone: by
    far)."""
    rate, width = covers(False, of_both=0.3)
    assert 0.85 - 3 * (0.85 * 0.15 / 200) ** 0.5 < rate < 0.97
    assert width == pytest.approx(2 * 1.645 * np.sqrt(1 / 25 + 0.3**2 / 150), rel=0.1)
    rng = np.random.default_rng(0)
    naive = [bootstrap(table(rng, 6, 25, of_both=0.3).ravel(), resamples=400, level=0.9, seed=i) for i in range(200)]
    assert np.mean([i.low < 0 < i.high for i in naive]) < 0.7


def test_seeds_that_all_images_share():
    """With a part of each seed that is the same for all images, only resampling seeds for all images together
    covers."""
    parts = {"of_images": 0.3, "of_seeds": 1.0, "of_both": 0.3}
    assert covers(True, **parts)[0] > 0.78  # six seeds are few: a percentile interval of six values is a little narrow
    assert covers(False, **parts)[0] < 0.4


def test_intervals_over_seeds_err_on_the_wide_side():
    """Where the scatter is all between seeds of one image, the two stages double the variance, as the docstring
    says."""
    rate, width = covers(False, of_images=0.0)
    exact = 2 * 1.645 / np.sqrt(150)
    assert rate > 0.9 and 1.2 * exact < width < 1.45 * exact  # sqrt(1 + 5/6) = 1.35


def test_one_seed_is_the_plain_bootstrap():
    x = np.random.default_rng(0).normal(size=50)
    assert clustered(x[None]) == bootstrap(x) and clustered(x[None]).n == 50
    assert clustered(np.stack([x, x])).value == pytest.approx(x.mean())


# several fits


def of_fits(crossed_interval, runs, k=3, n=40, **parts):
    """Share of runs whose 95 % interval holds 0."""
    rng = np.random.default_rng(1)
    found = [crossed_interval(table(rng, k, n, **parts), i) for i in range(runs)]
    return np.mean([i.low < 0 < i.high for i in found])


@pytest.mark.parametrize(
    "parts",
    [
        {"of_seeds": 0.0},
        {"of_seeds": 0.3},
        {"of_images": 0.3, "of_seeds": 1.0, "of_both": 0.3},
        {"of_images": 0.1, "of_seeds": 0.1},
    ],
)
def test_intervals_over_three_fits_cover(parts):
    """95 % within 4 standard errors of 800 runs (3 %), wherever the scatter comes from, and 1 % for Satterthwaite's
    approximation."""
    rate = of_fits(lambda x, i: crossed(x), 800, **parts)
    assert 0.95 - 0.03 - 0.01 < rate < 0.995, rate


def test_resampling_three_fits_is_not_enough():
    """Where fits differ more than images, percentiles of three fits cover 72 %, as the docstring warns; Student's t
    does."""
    parts = {"of_images": 0.3, "of_seeds": 1.0, "of_both": 0.3}
    assert of_fits(lambda x, i: clustered(x, crossed=True, resamples=300, seed=i), 200, **parts) < 0.85
    one = crossed_mean(table(np.random.default_rng(0), 3, 40, **parts))
    assert 1.9 < one.degrees < 3 and crossed_mean(table(np.random.default_rng(0), 3, 40, of_both=0.1)).degrees > 30


def test_crossed_mean_is_the_analysis_of_variance():
    """Against the sums of squares by hand: two seeds of three images."""
    x = np.array([[0.0, 2.0, 7.0], [2.0, 3.0, 4.0]])
    m = crossed_mean(x)
    # both seeds have the mean 3; images have the means 1, 2.5 and 5.5
    of_seeds, of_images = 0.0, 2 * (4 + 0.25 + 6.25) / 2
    rest = (((x - 3) ** 2).sum() - 2 * of_images) / 2
    v = max(of_seeds + of_images - rest, of_seeds, of_images)
    assert m.value == pytest.approx(3.0) and m.error == pytest.approx(np.sqrt(v / 6))
    # three fits alike: the error of a mean over five images, with four degrees of freedom
    same = crossed_mean(np.tile(np.arange(5.0), (3, 1)))
    assert same.error == pytest.approx(np.arange(5.0).std(ddof=1) / np.sqrt(5)) and same.degrees == pytest.approx(4.0)
    assert crossed_mean(np.ones((2, 4))) == (1.0, 0.0, 3.0)
    for bad in ([[1.0, 2.0]], [[1.0], [2.0]], [[1.0, float("nan")], [1.0, 2.0]]):
        with pytest.raises(InputError, match="seeds, images"):
            crossed_mean(bad)


@pytest.mark.parametrize("degrees", [1.0, 2.0, 3.7, 30.0, 63.0])
def test_student_is_scipys(degrees):
    for t in (0.0, 0.5, 2.0, -3.0, 8.0):
        assert student_p(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-6, abs=1e-15)
    assert student_p(np.inf, degrees) == 0.0


def test_p_values_of_fits_keep_their_level():
    """Three fits that differ, methods that do not in the mean: below 5 % in at most 5 % of 600 runs and 4 standard
    errors. Sign flips alone are far off."""
    rng, runs = np.random.default_rng(0), 600
    d = [table(rng, 3, 30, of_images=0.3, of_seeds=0.5, of_both=0.3) for _ in range(runs)]
    limit = 4 * np.sqrt(0.05 * 0.95 / runs)
    assert np.mean([difference_p(x, fits=True, resamples=500) < 0.05 for x in d]) < 0.05 + limit
    assert np.mean([difference_p(x, resamples=500) < 0.05 for x in d]) > 0.3
    assert difference_p(d[0][:1], fits=True) == sign_flip(d[0][:1])  # one fit says nothing of the next


def test_ties_with_fits():
    """b is worse on every image, but by how much depends on the fit: not to be told from a. Without fits, or with fits
    alike, it is."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 40))
    b = a + np.array([[0.05], [0.6], [0.1]]) + 0.01 * rng.normal(size=(3, 40))
    assert tied_for_best({"a": a, "b": b}).tied == ("a",) and tied_for_best({"a": a, "b": b}, fits={"b"}).tied == (
        "a",
        "b",
    )
    assert tied_for_best({"a": a, "b": a + 0.3 + 0.01 * rng.normal(size=(3, 40))}, fits={"b"}).tied == ("a",)
    c = a + 0.5 + 0.01 * rng.normal(size=(3, 40))
    # c has no fits: pairs without them are judged as before
    assert tied_for_best({"a": a, "b": b, "c": c}, fits={"b"}).tied == ("a", "b")


# p-values


@pytest.mark.parametrize("n", [4, 9, 12])
def test_sign_flips_are_scipys_exactly(n):
    d = np.random.default_rng(n).normal(0.5, 1.0, n)
    expected = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip(d) == pytest.approx(expected, rel=1e-12)


def test_sign_flips_are_scipys_at_random():
    """Two estimates from 10,000 patterns each agree within 4 standard errors; and with the t-test, at 80 normal
    numbers."""
    d = np.random.default_rng(0).normal(0.2, 1.0, 80)
    p = sign_flip(d)
    expected = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(1)
    ).pvalue
    assert p == pytest.approx(expected, abs=4 * np.sqrt(2 * p * (1 - p) / 10_000))
    assert p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.015)


@pytest.mark.parametrize(
    "make", [lambda r, n: r.normal(size=n), lambda r, n: r.standard_t(2, size=n), lambda r, n: r.integers(-3, 4, n)]
)
@pytest.mark.parametrize("n", [12, 25])
def test_p_values_are_uniform_when_nothing_differs(make, n):
    """Never more than alpha of them below alpha, within 4 standard errors; and uniform (Kolmogorov, Smirnov) if there
    are no ties."""
    rng, runs = np.random.default_rng(0), 600
    values = [make(rng, n) for _ in range(runs)]
    p = np.array([sign_flip(v, resamples=500, seed=i) for i, v in enumerate(values)])
    for alpha in (0.01, 0.05, 0.2, 0.5):
        assert (p <= alpha).mean() < alpha + 4 * np.sqrt(alpha * (1 - alpha) / runs)
    if values[0].dtype == float:
        assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_power_of_sign_flips():
    """Against the t-test's: a difference of 0.5 deviations over 40 images is found as often, within 4 standard
    errors."""
    rng, runs = np.random.default_rng(0), 400
    values = rng.normal(0.5, 1.0, (runs, 40))
    found = np.mean([sign_flip(v, resamples=999, seed=i) < 0.05 for i, v in enumerate(values)])
    assert found == pytest.approx((stats.ttest_1samp(values, 0, axis=1).pvalue < 0.05).mean(), abs=0.03) and found > 0.8


def test_sign_flips_of_seeds_keep_an_image_together():
    d = np.random.default_rng(0).normal(size=(3, 10))
    assert sign_flip(d) == sign_flip(d.mean(0))
    assert sign_flip(np.zeros(5)) == 1.0 and sign_flip(np.zeros(EXACT + 1)) == 1.0
    assert sign_flip(np.ones(40)) == pytest.approx(1 / 10_001)  # never 0


def test_holm():
    assert holm([]).tolist() == [] and holm([0.02]).tolist() == [0.02]
    assert holm([0.01, 0.02, 0.03, 0.5]).tolist() == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert holm([0.5, 0.03, 0.01, 0.02]).tolist() == pytest.approx([0.5, 0.06, 0.04, 0.06])
    assert holm([0.4, 0.6, 0.9]).tolist() == [1.0, 1.0, 1.0]
    for bad in ([1.5], [float("nan")], [[0.1]]):
        with pytest.raises(InputError, match="p-values"):
            holm(bad)


def test_familywise_error_of_holm():
    """Ten tests of which four are of a real difference: any of the other six is called one in at most 5 % of 2,000
    runs."""
    rng, runs = np.random.default_rng(0), 2000
    p = 2 * stats.norm.sf(np.abs(rng.normal(size=(runs, 10)) + np.array([5.0] * 4 + [0.0] * 6)))
    wrong = np.mean([(holm(row)[4:] < 0.05).any() for row in p])
    assert wrong < 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)
    assert wrong > 0.035  # 1 - 0.95^(6/6): it is not needlessly careful
    assert np.mean([(row[4:] < 0.05).any() for row in p]) > 0.2


# tables


def methods(rng, shifts, n=30):
    """Images of unequal difficulty; each method adds its shift and its own scatter."""
    hard = rng.normal(0, 3, n)
    return {f"m{i}": hard + shift + rng.normal(0, 1, n) for i, shift in enumerate(shifts)}


def test_ten_equal_methods_are_tied():
    """Any of them is left out in at most 5 % of 500 runs. Holm over the nine comparisons with the observed best is not
    enough."""
    rng, runs = np.random.default_rng(0), 500
    wrong = naive = 0
    for i in range(runs):
        values = methods(rng, [0.0] * 10)
        found = tied_for_best(values, resamples=2000, seed=i)
        wrong += len(found.tied) < 10
        others = np.stack([v - values[found.best] for k, v in values.items() if k != found.best])
        naive += bool((holm(stats.ttest_1samp(others, 0, axis=1).pvalue) < 0.05).any())
    limit = 3 * np.sqrt(0.05 * 0.95 / runs)
    assert wrong / runs < 0.05 + limit
    assert naive / runs > 0.05 + 2 * limit, naive


def test_the_best_and_its_equals_are_found():
    """Three equally good, seven worse by 1.3 deviations of a paired difference: all seven out, none of the three,
    nearly always."""
    rng, out, lost = np.random.default_rng(1), [], 0
    for i in range(60):
        found = tied_for_best(methods(rng, [0.0] * 3 + [1.8] * 7), resamples=5000, seed=i)
        assert found.best in ("m0", "m1", "m2") and found.tied[0] == found.best and found.p[found.best] == 1.0
        out.append(sum(k not in found.tied for k in ("m3", "m4", "m5", "m6", "m7", "m8", "m9")))
        lost += any(k not in found.tied for k in ("m0", "m1", "m2"))
    assert np.mean(out) > 6.8 and lost <= 4


def test_tied_for_best_looks_the_right_way():
    values = methods(np.random.default_rng(0), [0.0, 3.0, -3.0])
    assert tied_for_best(values).tied == ("m2",) and tied_for_best(values, "high").tied == ("m1",)
    seeds = {k: np.stack([v, v + 0.1]) for k, v in values.items()}
    assert tied_for_best(seeds, "high").p == tied_for_best(values, "high").p
    assert tied_for_best({"one": [1.0, 2.0]}).tied == ("one",)
    with pytest.raises(InputError, match="same images"):
        tied_for_best({"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(InputError, match="low' or 'high"):
        tied_for_best(values, "up")


def test_bad_tables():
    with pytest.raises(InputError, match="seeds, images"):
        clustered([1.0, 2.0])
    with pytest.raises(InputError, match="finite"):
        sign_flip([1.0, float("nan")])
