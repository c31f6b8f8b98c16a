"""Metrics of series against closed forms and brute force, over the entries that count."""

from __future__ import annotations

import math

import pytest
import torch

import deft
from deft.domains.series.metrics import (
    LEVELS,
    METRICS,
    coverage,
    crps,
    crps_quantiles,
    energy_score,
    evaluated,
    mae,
    measure,
    quantile_loss,
    rmse,
    width,
)
from deft.errors import InputError

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(3, 5, 2, 6, generator=G).double(), torch.randn(3, 2, 6, generator=G).double()
W = (torch.rand(3, 2, 6, generator=G) < 0.6).double()


def normal_crps(mean, deviation, y):
    """CRPS of N(mean, deviation^2) at y (Gneiting & Raftery 2007, the formula below equation 21)."""
    z = (y - mean) / deviation
    density, below = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), (1 + math.erf(z / math.sqrt(2))) / 2
    return deviation * (z * (2 * below - 1) + 2 * density - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize("samples", [2, 7])
def test_the_crps_of_a_normal_law(samples):
    """Its expectation is that of the law, for two samples as for seven; the fair divisor makes it so."""
    n = 200_000
    x = 0.5 + 2 * torch.randn(n, samples, 1, generator=torch.Generator().manual_seed(1)).double()
    one = torch.ones(n, 1).double()
    for y in (0.5, 3.0):
        found = crps(x, y * one, one)
        error = float(found.std()) / math.sqrt(n)
        assert abs(float(found.mean()) - normal_crps(0.5, 2, y)) < 4 * error
        unfair = float(found.mean()) + float((x[:, 0] - x[:, 1]).abs().mean()) / 2 / samples
        assert abs(unfair - normal_crps(0.5, 2, y)) > 20 * error


def test_the_quantile_form_of_the_crps():
    """Of many samples of N(0, 1): the mean of 19 quantile losses of the exact quantiles, over |y|; near the CRPS."""
    x = torch.randn(1, 400_000, 1, generator=torch.Generator().manual_seed(2)).double()
    y, one = torch.tensor([[0.8]]).double(), torch.ones(1, 1).double()
    exact = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(LEVELS))
    want = sum(2 * (q - (v > 0.8)) * (0.8 - v) for q, v in zip(LEVELS, exact.tolist(), strict=True)) / 19
    assert len(LEVELS) == 19 and LEVELS[0] == 0.05 and LEVELS[-1] == 0.95
    # 400,000 samples: quantiles to 0.002 at the ends, and losses hang on them with a slope of at most 2
    assert float(crps_quantiles(x, y, one)) == pytest.approx(want / 0.8, abs=4e-3)
    assert want * 19 / 20 == pytest.approx(normal_crps(0, 1, 0.8), abs=3e-3)  # a sum of 19 steps of 1/20


def test_the_normalised_crps_is_one_ratio():
    """The mean over measurements is the ratio of the sums over all, by brute force, and not the mean of ratios."""
    loss = norm = 0.0
    ratios = []
    for i in range(3):
        a = b = 0.0
        for j in W[i].nonzero().tolist():
            y, own = float(Y[i][tuple(j)]), X[i][(slice(None), *j)]
            for q in LEVELS:
                v = float(torch.quantile(own, q))
                a += 2 * (q - (y < v)) * (y - v) / 19
            b += abs(y)
        loss, norm = loss + a, norm + b
        ratios.append(a / b)
    found = crps_quantiles(X, Y, W)
    assert float(found.mean()) == pytest.approx(loss / norm, rel=1e-9)
    assert abs(sum(ratios) / 3 - loss / norm) > 1e-3
    assert float(quantile_loss(X, Y, W)[0].sum()) == pytest.approx(loss, rel=1e-9)


def test_by_brute_force():
    """Scores, errors and widths, entry by entry in Python."""
    for i in range(3):
        at = [tuple(j) for j in W[i].nonzero().tolist()]
        own = torch.stack([X[i][(slice(None), *j)] for j in at])  # [entries, S]
        true = torch.tensor([float(Y[i][j]) for j in at]).double()
        s = own.shape[1]
        pairs = [(j, k) for j in range(s) for k in range(s) if j != k]
        each = (own - true[:, None]).abs().mean(1) - sum((own[:, j] - own[:, k]).abs() for j, k in pairs) / 40
        assert float(crps(X, Y, W)[i]) == pytest.approx(float(each.mean()))
        root = lambda v: float(v.square().mean().sqrt())  # noqa: E731
        energy = sum(root(own[:, j] - true) for j in range(s)) / s
        energy -= sum(root(own[:, j] - own[:, k]) for j, k in pairs) / 40
        assert float(energy_score(X, Y, W)[i]) == pytest.approx(energy)
        assert float(mae(X, Y, W)[i]) == pytest.approx(float((own.median(1).values - true).abs().mean()))
        assert float(rmse(X, Y, W)[i]) == pytest.approx(root(own.mean(1) - true))
        low, high = torch.quantile(own, 0.25, dim=1), torch.quantile(own, 0.75, dim=1)
        assert float(width(X, W, 0.5)[i]) == pytest.approx(float((high - low).mean()))


@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize("samples", [2, 9])
def test_coverage_of_the_right_law(samples, level):
    """Truth and samples of one law: the level itself, however few samples; of samples half as wide: less."""
    n = 50_000
    g = torch.Generator().manual_seed(3)
    y, x = torch.randn(n, 1, generator=g), torch.randn(n, samples, 1, generator=g)
    one = torch.ones(n, 1)
    found = coverage(x, y, one, level)
    assert abs(float(found.mean()) - level) < 4 * float(found.std()) / math.sqrt(n)
    assert float(coverage(x / 2, y, one, level).mean()) < level - 0.005
    tied = torch.zeros(1, samples, 1)
    assert float(coverage(tied, torch.zeros(1, 1), torch.ones(1, 1), level)) == pytest.approx(level)


def test_only_hidden_entries_whose_truth_is_known_count():
    """A change of what was seen, or of samples where the truth is missing, changes nothing."""
    truth = Y.float().clone()
    truth[0, 0, 0] = math.nan
    mask = torch.ones(3, 2, 6)
    mask[:, :, :3] = 0
    obs = deft.Observation(mask * truth.nan_to_num(), deft.Gaussian(deft.Mask(mask), 0.1))
    where = evaluated(truth, obs)
    assert where.flatten(1).sum(1).tolist() == [5, 6, 6] and float(where[:, :, 3:].sum()) == 0
    x = X.float()
    first = measure(x, truth, obs)
    assert set(first) == set(METRICS) - {"stein"}
    other = x.clone()
    other[0, :, 0, 0] = 99.0
    other[:, :, :, 3:] += 1
    second = measure(other, truth, obs)
    for key in set(first) - {"residual"}:
        assert torch.isfinite(first[key]).all()
        torch.testing.assert_close(first[key], second[key], msg=key)
    assert (first["residual"] != second["residual"]).all()
    sums = deft.Observation(truth[:, :, 3:].mean(-1), deft.Gaussian(deft.Identity(), 0.1))
    assert evaluated(truth, sums).sum() == 35  # what was measured is no entry: all that are known
    with pytest.raises(InputError, match="nothing to compare in series number 1"):
        evaluated(torch.stack([Y[0], Y[1] * math.nan]).float(), obs[:2])


def test_one_sample_has_errors_and_no_scores():
    obs = deft.Observation(torch.zeros(3, 2, 6), deft.Gaussian(deft.Mask(1 - W.float()), 0.1))
    assert set(measure(X[:, :1].float(), Y.float(), obs)) == {"mae", "rmse", "residual"}
    with pytest.raises(InputError, match="a CRPS needs at least two samples"):
        crps(X[:, :1], Y, W)
