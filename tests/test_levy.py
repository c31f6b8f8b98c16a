"""Processes with independent steps: the Gibbs sampler against closed forms, numerical integration and ranks; and the
benchmark that uses it, in small."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

import deft
from deft.core.random import generator
from deft.errors import InputError
from deft.operator import Identity, Mask, Matrix
from deft.testing import levy
from deft.testing.levy import KINDS, _laplace_scales

F64 = torch.float64


def density(world, u):
    """Of the part of a step that is not 0."""
    if world.kind == "gauss":
        return torch.exp(-(u**2) / (2 * world.variance)) / math.sqrt(2 * math.pi * world.variance)
    if world.kind == "student":
        scale = math.sqrt(world.variance * (world.df - 2) / world.df)
        return torch.distributions.StudentT(torch.tensor(world.df, dtype=F64), 0.0, scale).log_prob(u).exp()
    return torch.exp(-u.abs() / world.scale) / (2 * world.scale)


def integrated(world, like, y, width=8.0, n=1201):
    """(E x, Var x, P(u_1 = 0)) of two steps given y, by sums over a grid; a step of 0 is a point of its own."""
    grid = torch.linspace(-width, width, n, dtype=F64)
    cell = float(grid[1] - grid[0])
    spike = 1 - world.jumps if world.kind == "bernoulli-laplace" else 0.0
    u = torch.cat([torch.zeros(1, dtype=F64), grid])
    p = torch.cat([torch.tensor([spike], dtype=F64), (1 - spike) * density(world, grid) * cell])
    pairs = torch.cartesian_prod(u, u)
    x = pairs.cumsum(1)
    log_l = like.log_prob(y.double().expand(len(x), -1), x)
    joint = torch.outer(p, p).flatten() * (log_l - log_l.max()).exp()
    joint = joint / joint.sum()
    mean = joint @ x
    return mean, joint @ (x - mean) ** 2, float(joint.reshape(n + 1, n + 1)[0].sum())


@pytest.mark.parametrize("kind", KINDS)
def test_against_integration(kind):
    """Two steps, one noisy combination of them: mean, variance and the probability of a step of 0 within 4 standard
    errors (by the scatter of 400 chains, whose samples depend on each other) of the sums over a fine grid."""
    world = levy(kind, 2, jumps=0.4, event_shape=(2,))
    like = deft.Gaussian(Matrix(torch.tensor([[1.0, 0.7]], dtype=F64)), torch.tensor(0.4, dtype=F64))
    y = torch.tensor([[0.9]], dtype=F64)
    mean, variance, spike = integrated(world, like, y)
    draws = world.gold(deft.Observation(y, like), 20_000, chains=400, burn=30)
    chains = draws.x[0].reshape(400, 50, 2)
    error = chains.mean(1).std(0) / 20
    assert bool(((chains.mean((0, 1)) - mean).abs() < 4 * error).all()), (chains.mean((0, 1)), mean, error)
    squares = (chains - mean).square().mean(1)
    assert bool(((squares.mean(0) - variance).abs() < 4 * squares.std(0) / 20).all()), (squares.mean(0), variance)
    zero = (chains[..., 0] == 0).double().mean(1)
    assert abs(float(zero.mean()) - spike) <= 4 * float(zero.std()) / 20, (float(zero.mean()), spike)


def test_gauss_is_the_closed_form():
    """Independent samples of the Gaussian posterior, of a mask: mean and covariance within 4.5 standard errors."""
    world = levy("gauss", 6)
    like = deft.Gaussian(Mask(torch.tensor([[[1.0, 0.0, 0.0, 1.0, 0.0, 1.0]]])), 0.2)
    obs = deft.Observation(like.sample(world.sample(1), deft.Noise(1, 1)), like)
    exact, n = world.gaussian.posterior(obs), 8000
    x = world.gold(obs, n, chains=n, burn=0).x[0].flatten(1)
    assert bool(((x.mean(0) - exact.mean).abs() < 4.5 * exact.std / math.sqrt(n)).all())
    products = (x - exact.mean)[:, :, None] * (x - exact.mean)[:, None]
    assert bool(((products.mean(0) - exact.covariance).abs() < 4.5 * products.std(0) / math.sqrt(n)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_ranks(kind):
    """Truth and measurement drawn together, the truth ranks uniformly among samples of the gold posterior
    (`deft.diagnose.sbc`): of a blurred process of 8 steps, 120 measurements. A wrong scale of the steps does not."""
    world = levy(kind, 8, event_shape=(8,))
    blur = torch.stack([torch.eye(8)[i : i + 3].mean(0) for i in range(6)])
    like = deft.Gaussian(Matrix(blur), 0.1)
    truth = world.sample(120, 3)
    obs = deft.Observation(like.sample(truth, deft.Noise(4, 120)), like)
    size = {
        "first": lambda x: x[:, 0],
        "last": lambda x: x[:, -1],
        "roughness": lambda x: x.double().diff(dim=1).abs().sum(1),
    }
    draws = deft.Draws(world.gold(obs, 19, chains=19, burn=25).x.float())
    assert deft.diagnose.sbc(draws, truth, size).passed
    if kind == "bernoulli-laplace":
        other = levy(kind, 8, event_shape=(8,), jumps=0.9)
        wrong = deft.Draws(other.gold(obs, 19, chains=19, burn=25).x.float())
        assert not deft.diagnose.sbc(wrong, truth, size).passed


@pytest.mark.parametrize("kind", KINDS)
def test_samples(kind):
    """Steps have the stated variance (Student's, of heavy tails, by its quartiles), the right share of zeros, and the
    running sum the covariance of `gaussian`: 5 standard errors of 20,000."""
    n, world = 20_000, levy(kind, 4, jumps=0.3)
    x = world.sample(n).double()[:, 0]
    u = x.diff(dim=1, prepend=torch.zeros(n, 1))
    if kind == "student":
        scale = math.sqrt(world.variance / 3)
        inside = float((u.abs() < 0.7649 * scale).double().mean())  # half of Student's t of 3 degrees of freedom
        assert abs(inside - 0.5) < 5 * 0.5 / math.sqrt(u.numel())
        return
    products = x[:, 1] * x[:, 3]
    expected = float(world.gaussian.mixture.covariances[0][1, 3])
    assert abs(float(products.mean()) - expected) < 5 * float(products.std()) / math.sqrt(n)
    zeros = float((u.abs() < 1e-7).double().mean())
    share = 0.7 if kind == "bernoulli-laplace" else 0.0
    assert abs(zeros - share) <= 5 * math.sqrt(share * 0.3 / u.numel())


@pytest.mark.parametrize("size", [0.0, 0.05, 2.0])
def test_scales_of_a_laplace_step(size):
    """w given u against the density w^(-1/2) exp(-u^2 / 2w - w / 2b^2) on a grid: mean of w and of exp(-w), within 4.5
    standard errors of 40,000, at u = 0 too."""
    b, n = 0.7, 40_000
    w = _laplace_scales(torch.full((n,), size, dtype=F64), b, generator(0, 1))
    s = torch.linspace(1e-4, 8, 400_000, dtype=F64)  # w = s^2: no pole at 0
    p = torch.exp(-(size**2) / (2 * s**2) - s**2 / (2 * b**2))
    for f in (lambda v: v, lambda v: torch.exp(-v)):
        expected, got = float((p * f(s**2)).sum() / p.sum()), f(w)
        assert abs(float(got.mean()) - expected) < 4.5 * float(got.std()) / math.sqrt(n)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: levy("cauchy"), "kind of step"),
        (lambda: levy("student", df=2.0), "finite variance"),
        (lambda: levy("laplace", 8, event_shape=(4,)), "8 steps"),
        (lambda: levy("laplace", 4).gold(_seen(), 10), "multiple of chains"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(InputError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def _seen():
    return deft.Observation(torch.zeros(1, 1, 4), deft.Gaussian(Identity(), 0.1))


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path, monkeypatch, capsys):
    """`benchmarks/levy.py --quick` for one kind and measurement: figures of gold and of methods, which a second run
    takes from its pieces."""
    from benchmarks import levy as benchmark

    command = ["levy.py", "--quick", "--folder", str(tmp_path), "--kinds", "laplace", "--measurements", "deconvolve"]
    monkeypatch.setattr(sys, "argv", [*command, "--methods", "deft", "diffpir", "ddrm", "prior"])
    benchmark.main()
    rows = json.loads((tmp_path / "levy-report.txt").read_text())
    assert {"gap", "gap_se", "coverage", "db"} <= set(rows["laplace-deconvolve-method-deft"])
    assert "DiffPIR" in capsys.readouterr().out
    benchmark.main()
    assert json.loads((tmp_path / "levy-report.txt").read_text()) == rows
