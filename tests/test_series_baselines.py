"""Plain baselines of series: rules by hand, Gaussians against the formula of the conditional and against what they were
drawn from."""

from __future__ import annotations

import math

import pytest
import torch

import deft
from deft.domains.series.baselines import (
    GaussianSeries,
    LastValue,
    LinearInterpolation,
    SeasonalNaive,
    carried,
    distance,
)
from deft.domains.series.metrics import coverage, crps
from deft.domains.series.tasks import TASKS
from deft.errors import InputError

NAN = math.nan


def of_gaps(rows):
    """(y, mask), [1, 1, L] each, of a list with None where nothing was seen."""
    mask = torch.tensor([[[0.0 if v is None else 1.0 for v in rows]]])
    return torch.tensor([[[0.0 if v is None else float(v) for v in rows]]]), mask


def test_rules_by_hand():
    y, mask = of_gaps([None, 1, None, None, 4, None])
    assert LastValue().guess(y, mask).flatten().tolist() == [1, 1, 1, 1, 4, 4]
    assert LinearInterpolation().guess(y, mask).flatten().tolist() == pytest.approx([1, 1, 2, 3, 4, 4])
    assert distance(mask).flatten().tolist() == [1, 0, 1, 1, 0, 1]
    y, mask = of_gaps([5, None, None, 2, None, 7, None, None])
    assert SeasonalNaive(3).guess(y, mask).flatten().tolist() == pytest.approx([5, 4, 7, 2, 4.5, 7, 2, 7])
    nothing = of_gaps([None] * 4)
    for rule in (LastValue(), LinearInterpolation(), SeasonalNaive(2)):
        assert rule.guess(*nothing).flatten().tolist() == [0] * 4  # the mean
    assert distance(nothing[1]).flatten().tolist() == [4] * 4
    assert carried(*nothing)[1].flatten().tolist() == [-1] * 4
    with pytest.raises(InputError, match="period must be a whole number above 0, got 0"):
        SeasonalNaive(0)


def walks(n, seed, c=2, length=24):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, c, length, generator=g) * torch.tensor([1.0, 0.3])[:, None]).cumsum(-1)


@pytest.mark.parametrize("rule", [LastValue, LinearInterpolation])
def test_errors_of_a_rule_are_as_wide_as_in_training(rule):
    """Intervals of 90 % hold 90 % of held-out truths, for each variable; and the last value of a random walk is off by
    the root of the distance."""
    task = TASKS["impute"](share=0.5, pattern="blocks")
    fitted = rule().fit(walks(600, 0), task.observe(walks(600, 0), deft.Noise(0, 600)))
    x = walks(300, 1)
    obs = task.observe(x, deft.Noise(1, 300))
    samples, hidden = fitted.sample(obs, 9), obs.hidden(x.shape).expand_as(x)
    for c in range(2):
        on = hidden[:, c].flatten(1).any(1)
        found = coverage(samples[on][:, :, [c]], x[on][:, [c]], hidden[on][:, [c]])
        assert abs(float(found.mean()) - 0.9) < 4 * float(found.std()) / math.sqrt(len(found)) + 0.01
    torch.testing.assert_close(samples * (1 - hidden[:, None]), (x * (1 - hidden))[:, None].expand_as(samples))
    assert torch.equal(fitted.sample(obs[5:6], 2, seed=3), fitted.sample(obs[5:6], 2, seed=3))


def test_what_is_missing_is_not_learned():
    """Training values that are NaN: the same errors whatever stands there."""
    x = walks(50, 0)
    obs = TASKS["impute"](share=0.5, pattern="random").observe(x, deft.Noise(0, 50))
    gaps = x.clone()
    gaps[:, 0, ::5] = NAN
    table = LinearInterpolation().fit(gaps, obs).deviation
    assert bool(torch.isfinite(table).all()) and not torch.equal(table, LinearInterpolation().fit(x, obs).deviation)


# Gaussians.


def test_the_conditional_of_a_gaussian():
    """Means and covariances of 20,000 samples are those of the formula, for a mask and for means of stretches."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(8, 8, generator=g).double()
    law = GaussianSeries(torch.randn(2, 4, generator=g), a @ a.T / 8 + 0.1 * torch.eye(8))
    x = torch.randn(1, 2, 4, generator=g)
    mask = torch.tensor([[[1.0, 0, 0, 1], [0, 1, 0, 0]]])
    sums = TASKS["resolution"](factor=2, sigma_y=0.3).observe(x, deft.Noise(0, 1))
    rows = mask.flatten().bool()
    pairs = torch.kron(torch.eye(4), torch.tensor([[0.5, 0.5]]))
    for obs, matrix, sigma in (
        (deft.Observation(mask * x, deft.Gaussian(deft.Mask(mask), 0.2)), torch.eye(8)[rows], 0.2),
        (sums, pairs, 0.3),
    ):
        matrix = matrix.double()
        y = obs.y.flatten()[rows].double() if len(matrix) == 3 else obs.y.flatten().double()
        gain = (
            law.covariance
            @ matrix.T
            @ torch.linalg.inv(matrix @ law.covariance @ matrix.T + sigma**2 * torch.eye(len(matrix)))
        )
        mean = law.mean.flatten() + gain @ (y - matrix @ law.mean.flatten())
        covariance = law.covariance - gain @ matrix @ law.covariance
        n = 20_000
        drawn = law.sample(obs, n)[0].flatten(1).double()
        error = (covariance.diagonal() / n).sqrt()
        assert bool(((drawn.mean(0) - mean).abs() < 5 * error + 1e-4).all())
        spread = (covariance.diagonal()[:, None] * covariance.diagonal()).sqrt()
        assert bool(((torch.cov(drawn.T) - covariance).abs() < 6 * spread / math.sqrt(n) + 1e-4).all())


def test_the_shrunk_covariance():
    """Ledoit and Wolf's weight by brute force; few series are shrunk more, and gaps leave a covariance."""
    x = walks(30, 0, length=6)
    flat = x.double().flatten(1) - x.double().flatten(1).mean(0)
    s = flat.T @ flat / 30
    m = s.trace() / 12
    scatter = sum(float((torch.outer(r, r) - s).square().sum()) for r in flat) / 30**2
    r = scatter / float((s - m * torch.eye(12)).square().sum())
    found = GaussianSeries.joint(x)
    torch.testing.assert_close(found.covariance, (1 - r) * s + r * m * torch.eye(12).double(), atol=1e-8, rtol=1e-6)
    assert 0 < r < 1
    x[::3, 0, 2] = NAN
    gaps = GaussianSeries.joint(x)
    assert float(torch.linalg.eigvalsh(gaps.covariance).min()) > 0 and bool(torch.isfinite(gaps.mean).all())
    with pytest.raises(InputError, match="a covariance needs at least two series, got 1"):
        GaussianSeries.joint(x[:1])


def test_processes_are_fitted():
    """Series of known kernels: a likelihood within a hundredth of that of the truth for each entry; a variable with
    gaps in some series is fitted to the others, and one with gaps in all of them is refused."""
    t = torch.arange(24.0)
    r = math.sqrt(3) * (t[:, None] - t).abs() / torch.tensor([2.0, 8.0])[:, None, None]
    true = 0.3 + torch.tensor([1.0, 0.5])[:, None, None] * (1 + r) * torch.exp(-r) + 0.1 * torch.eye(24)
    noise = torch.randn(400, 2, 24, generator=torch.Generator().manual_seed(0))
    x = torch.einsum("cij,ncj->nci", torch.linalg.cholesky(true), noise)
    x[:100, 0, 3] = NAN
    found = GaussianSeries.matern(x)
    for c in range(2):
        own, block = found.covariance[24 * c : 24 * (c + 1), 24 * c : 24 * (c + 1)], true[c].double()
        divergence = 0.5 * (torch.linalg.solve(own, block).trace() - 24 + own.logdet() - block.logdet())
        assert 0 <= float(divergence) / 24 < 0.01
    assert float(found.covariance[:24, 24:].abs().max()) == 0
    x[:, 1, 5] = NAN
    with pytest.raises(InputError, match="no training series has all values of variable 1"):
        GaussianSeries.matern(x)


def test_a_gaussian_beats_a_line_at_its_own():
    """Two variables that go together: the joint Gaussian is ahead of a line and of each variable alone, by CRPS."""
    x = walks(500, 4)
    x[:, 1] = 0.8 * x[:, 0] + 0.2 * x[:, 1]
    task = TASKS["impute"](share=0.5, pattern="random")
    train, test = x[:400], x[400:]
    obs = task.observe(test, deft.Noise(1, 100))
    hidden = obs.hidden(test.shape).expand_as(test)
    line = LinearInterpolation().fit(train, task.observe(train, deft.Noise(0, 400)))
    score = {
        name: float(crps(b.sample(obs, 8), test, hidden).mean())
        for name, b in {
            "line": line,
            "alone": GaussianSeries.matern(train),
            "joint": GaussianSeries.joint(train),
        }.items()
    }
    assert score["joint"] < 0.9 * score["alone"] and score["joint"] < 0.9 * score["line"]


def test_a_gaussian_takes_linear_measurements_alone():
    law = GaussianSeries(torch.zeros(2, 4), torch.eye(8))
    bent = deft.Observation(torch.zeros(1, 2, 4), deft.Poisson(deft.Identity(), 10.0))
    with pytest.raises(InputError, match=r"conditioned on A x \+ noise alone"):
        law.sample(bent)
