"""Kernel Stein discrepancy: its kernel against automatic differentiation, its p-value under the null, what it grows
with, and the figure of `deft evaluate --stein`."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import deft
from deft.bench.stein import add_stein
from deft.errors import InputError
from deft.testing import kernel_stein, posterior_stein
from deft.testing.stein import posterior_scores, stein_kernel
from toys import F64, THREE, THREE_PRIOR, THREE_SEEN, refused, result, toy_prior

EXACT = THREE.posterior(THREE_SEEN)
N = 300


def test_kernel_is_its_definition():
    """k_p against automatic differentiation of (c^2 + |x - x'|^2)^b, for another c and b than usual."""
    g = torch.Generator().manual_seed(0)
    x, s = (torch.randn(4, 3, generator=g, dtype=F64) for _ in range(2))
    c, b = 0.7, -0.3

    def k(u, v):
        return (c**2 + (u - v).square().sum()) ** b

    mine = stein_kernel(x, s, c, b)
    for i in range(4):
        for j in range(4):
            at_i, at_j = torch.func.grad(k, 0)(x[i], x[j]), torch.func.grad(k, 1)(x[i], x[j])
            trace = torch.func.jacrev(torch.func.grad(k, 0), 1)(x[i], x[j]).trace()
            expected = s[i] @ s[j] * k(x[i], x[j]) + s[i] @ at_j + s[j] @ at_i + trace
            assert float(mine[i, j]) == pytest.approx(float(expected), abs=1e-10)


def of(factor=1.0, shift=0.0, seed=0, n=N, **options):
    """The discrepancy of exact samples with another spread, or moved by so many deviations."""
    x = EXACT.sample(n, seed=seed)
    x = EXACT.mean + factor * (x - EXACT.mean) + shift * EXACT.std
    return posterior_stein(THREE_PRIOR, THREE_SEEN, x, level=0.02, seed=seed, **options)


def test_exact_samples_pass():
    """Under the null p-values are uniform: their mean over 40 runs within 4 standard errors of 1/2, and 0.05 is not
    undercut more often than 4 standard errors allow; the estimate itself is 0 within 4 standard errors."""
    runs = [of(seed=seed, n=100) for seed in range(40)]
    p = np.array([r.p_value for r in runs])
    assert abs(p.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 40)
    assert (p <= 0.05).mean() < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 40)
    squared = np.array([r.squared for r in runs])
    assert abs(squared.mean()) < 4 * squared.std() / math.sqrt(40)


def test_its_error_and_its_critical_value():
    """200 sets of N(0, I): 5 % of them above the critical value, to 3.5 s.e. Of samples too narrow the estimate
    scatters by the error it states, to a quarter."""
    g = torch.Generator().manual_seed(1)
    sets = [torch.randn(100, 2, generator=g, dtype=F64) for _ in range(200)]
    null = [kernel_stein(x, -x, bootstrap=400) for x in sets]
    above = np.mean([r.squared > r.critical for r in null])
    assert abs(above - 0.05) < 3.5 * math.sqrt(0.05 * 0.95 / 200)
    wrong = [kernel_stein(0.7 * x, -0.7 * x, bootstrap=400) for x in sets]
    assert np.std([r.squared for r in wrong]) == pytest.approx(np.mean([r.error for r in wrong]), rel=0.25)


def test_each_case_is_scored_with_its_own_measurement():
    """Two cases of three samples: the figure of each is that of its samples alone."""
    x = THREE.sample(2, 3).float()
    obs = deft.Observation(THREE_SEEN.likelihood.sample(x, deft.Noise(2, 2)), THREE_SEEN.likelihood)
    drawn = torch.stack([THREE.posterior(one).sample(3).float() for one in obs])
    cases = SimpleNamespace(obs=obs, repeats=1)
    results = {"a": SimpleNamespace(samples=list(drawn), title="a", values={})}
    add_stein(results, THREE_PRIOR, cases)
    x_t, scores = posterior_scores(THREE_PRIOR, obs.repeat(3), drawn.flatten(0, 1))
    alone = [kernel_stein(x_t[i : i + 3], scores[i : i + 3]).relative for i in (0, 3)]
    assert results["a"].values["stein"].ravel() == pytest.approx(alone)


def test_it_grows_with_the_error():
    """Too little or too much spread, and a shift, are found, and more of them is more."""
    narrow = [of(f).relative for f in (1.0, 0.7, 0.5, 0.3)]
    wide = [of(f).relative for f in (1.0, 1.5, 2.0, 3.0)]
    moved = [of(shift=d).relative for d in (0.0, 0.3, 0.6, 1.2)]
    for values in (narrow, wide, moved):
        assert values == sorted(values) and values[-1] > 10 * abs(values[0]), values
    assert of(0.6).p_value < 0.01 and of(1.6).p_value < 0.01 and of(shift=0.3).p_value < 0.01


def test_the_sign_of_the_score():
    """A score of the wrong sign is no score of these samples; nor is the prior's."""
    x_t, scores = posterior_scores(THREE_PRIOR, THREE_SEEN.repeat(N), EXACT.sample(N), level=0.02)
    assert kernel_stein(x_t, scores).p_value > 0.05
    assert kernel_stein(x_t, -scores).p_value < 0.002
    assert kernel_stein(-x_t, scores).p_value < 0.002
    t = THREE_PRIOR.schedule.time_of(torch.tensor(-2 * math.log(0.02), dtype=F64))
    assert kernel_stein(x_t, THREE_PRIOR(x_t, t).score).p_value < 0.002


def test_scores_are_the_exact_ones():
    """MMPS, which it asks where the likelihood is Gaussian and linear, has the exact score in the Gaussian world."""
    x = EXACT.sample(20)
    mine = posterior_scores(THREE_PRIOR, THREE_SEEN.repeat(20), x, batch=7)
    exact = posterior_scores(THREE_PRIOR, THREE_SEEN.repeat(20), x, h=THREE.h)
    torch.testing.assert_close(mine, exact, rtol=1e-6, atol=1e-6)


def test_units_and_many_dimensions():
    """`relative` has no units; in 200 dimensions a shift in all is found, and half of the spread in one is not (the
    docstring's weakness)."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, 2, generator=g, dtype=F64)
    assert kernel_stein(10 * x, -x / 10).relative == pytest.approx(kernel_stein(x, -x).relative, rel=1e-6)
    assert kernel_stein(10 * x, -x / 10).p_value == kernel_stein(x, -x).p_value
    many = torch.randn(N, 200, generator=g, dtype=F64)
    assert kernel_stein(many, -many).p_value > 0.05 and kernel_stein(many + 0.3, -many - 0.3).p_value < 0.01
    one = torch.cat([0.5 * many[:, :1], many[:, 1:]], 1)
    assert kernel_stein(one, -one).p_value > 0.05


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: kernel_stein(torch.zeros(1, 2), torch.zeros(1, 2)), "at least 2 samples"),
        (lambda: kernel_stein(torch.zeros(3, 2), torch.zeros(3, 1)), "a score of each"),
        (lambda: kernel_stein(torch.randn(3, 2), torch.full((3, 2), math.nan)), "not finite"),
        (lambda: kernel_stein(torch.randn(3, 2), torch.randn(3, 2), power=0.5), "between -1 and 0"),
        (lambda: posterior_stein(THREE_PRIOR, THREE_SEEN, EXACT.sample(3), level=0.0), "above 0"),
        (lambda: posterior_stein(THREE_PRIOR, THREE_SEEN.repeat(2), EXACT.sample(3)), "one measurement at a time"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_evaluate(tmp_path, capsys):
    """`--stein` adds a row, the mean over images of the unbiased estimate: a method that obeys the measurement is lower
    than the prior alone, which knows nothing of it."""
    data = tmp_path / "x.npz"
    np.savez(data, x=np.random.default_rng(0).integers(0, 255, (6, 16, 16)).astype(np.uint8))
    prior = toy_prior(tmp_path / "p.safetensors", side=16)
    line = ("evaluate", "--prior", prior, "--task", "inpaint-random", "--data", data, "--methods", "pigdm,prior")
    found = result(capsys, *line, "--samples", 3, "--steps", 5, "--stein", "--out", tmp_path / "report")
    rows = {r["method"]: r["value"] for r in found["rows"] if r["metric"] == "stein" and r.get("versus") is None}
    assert rows["pigdm"] < rows["prior"] <= 1
    assert "kernel Stein discrepancy" in (tmp_path / "report" / "report.md").read_text()
    assert json.loads((tmp_path / "report" / "report.json").read_text())["settings"]["stein"] is True
    assert "needs --samples 2" in refused(capsys, *line, "--samples", 1, "--stein", "--out", tmp_path / "r2")
    plain = result(capsys, *line, "--samples", 2, "--steps", 3, "--out", tmp_path / "r3")
    assert not [r for r in plain["rows"] if r["metric"] == "stein"]


def test_posterior_samples_of_a_sampler_pass():
    """What DPM-Solver++ draws with the exact h is of the posterior; DPS's samples are not."""
    prior = THREE_PRIOR
    draws = deft.sample_posterior(prior, THREE.h, THREE_SEEN, N, sampler=deft.DPMpp2M(), steps=50)
    good = posterior_stein(prior, THREE_SEEN, draws.x[0].to(F64), level=0.05)
    dps = deft.sample_posterior(prior, deft.DPS(0.3), THREE_SEEN, N, steps=50)
    bad = posterior_stein(prior, THREE_SEEN, dps.x[0].to(F64), level=0.05)
    assert good.p_value > 0.01 and bad.p_value < 0.01 and bad.squared > good.squared
