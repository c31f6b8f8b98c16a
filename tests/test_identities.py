"""Identities that hold to rounding: parametrisations, schedules, grids, kernels, random streams."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from deft.core.denoiser import Prediction
from deft.core.grid import SPACINGS, times
from deft.core.random import BatchNoise, Noise, generator
from deft.core.transition import Level, ancestral, ddim, ito
from deft.denoiser import NetworkDenoiser
from deft.denoiser.parametrisation import OUTPUTS, to_output
from deft.errors import InputError
from deft.schedule import EDM, SCHEDULES, VE, VPCosine, VPLinear, VPTable
from deft.testing import schedules

ALL = schedules()
VP = [ALL[k] for k in ("vp-linear", "vp-cosine", "vp-table")]


def inner_times(schedule, n=7):
    u = torch.linspace(0.05, 0.95, n, dtype=torch.float64)
    return schedule.t_min + u * (schedule.t_max - schedule.t_min)


def test_every_schedule_row_is_covered():
    assert set(ALL) == set(SCHEDULES)


# What each output stands for, written from its definition and not from the library's table.
MEANING = {
    "x0": lambda x0, n, a, s: x0,
    "eps": lambda x0, n, a, s: n,
    "v": lambda x0, n, a, s: a * n - s * x0,
    "score": lambda x0, n, a, s: -n / s,
    "flow": lambda x0, n, a, s: n - x0,
    "reverse-flow": lambda x0, n, a, s: x0 - n,
    # Karras et al. 2022, eq. 7 and table 1 with sigma_data = 1, for z = x_t/alpha at noise r = sigma/alpha
    "edm": lambda x0, n, a, s: (x0 - (x0 + s / a * n) / (1 + (s / a) ** 2)) * (1 + (s / a) ** 2).sqrt() / (s / a),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_outputs(output, name):
    """c_skip x_t + c_out output is x_0 if the output is what its name says; and back."""
    t = inner_times(ALL[name])
    a, s = ALL[name].alpha(t)[:, None], ALL[name].sigma(t)[:, None]
    x0, n = torch.randn(2, len(t), 5, dtype=torch.float64)
    x_t, out = a * x0 + s * n, MEANING[output](x0, n, a, s)
    denoiser = NetworkDenoiser(lambda x, t: out, ALL[name], (5,), output)
    pred = denoiser(x_t, t)
    # the table's coefficients and their inverse lose digits in proportion to sigma/alpha, alpha/sigma
    slack = 1e-12 * float(torch.maximum(s / a, a / s).max()) * 10
    torch.testing.assert_close(pred.mean, x0, atol=slack, rtol=slack)
    torch.testing.assert_close(to_output(output, x_t, pred.mean, a, s), out, atol=slack, rtol=slack)
    torch.testing.assert_close(pred.eps, n, atol=slack, rtol=slack)


@pytest.mark.parametrize("name", SCHEDULES)
def test_prediction(name):
    """score = -eps/sigma, Tweedie, and corrected(h) adds h to the score."""
    t = inner_times(ALL[name])
    a, s = ALL[name].alpha(t)[:, None], ALL[name].sigma(t)[:, None]
    x_t, mean, h = torch.randn(3, len(t), 5, dtype=torch.float64)
    pred = Prediction(x_t, t, a, s, mean)
    torch.testing.assert_close(a * pred.mean + s * pred.eps, x_t)
    torch.testing.assert_close(pred.score, (a * mean - x_t) / s**2)
    torch.testing.assert_close((pred.corrected(h).score - pred.score) * s**2, h * s**2, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pred.corrected(h).eps, pred.eps - s * h, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(pred[2:4].score, pred.score[2:4])


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name):
    schedule = ALL[name]
    t = torch.linspace(schedule.t_min, schedule.t_max, 101, dtype=torch.float64)
    t = t if name != "flow" else t[1:]  # sigma(0) = 0 there
    snr = schedule.log_snr(t)
    assert bool(torch.isfinite(snr).all() or name == "vp-linear"), "only VPLinear has sigma = 0 at its clean end"
    assert bool((snr.diff() < 0).all())
    torch.testing.assert_close(schedule.time_of(snr[1:-1]), t[1:-1], rtol=1e-8, atol=1e-10)
    assert schedule.time_of(torch.tensor(1e9)) == pytest.approx(schedule.t_min, abs=1e-9)
    single = t[1:].float()
    for f in (schedule.alpha, schedule.sigma):
        assert f(single).dtype == torch.float32 and f(t).dtype == torch.float64
        torch.testing.assert_close(f(single).double(), f(single.double()), rtol=1e-6, atol=1e-9)
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    drawn = schedule.training_time(u)
    assert drawn.min() >= schedule.t_min and drawn.max() <= schedule.t_max
    again = type(schedule)(**schedule.config())
    torch.testing.assert_close(again.log_snr(t), snr)


@pytest.mark.parametrize("schedule", VP, ids=lambda s: s.name)
def test_variance_preserving(schedule):
    t = torch.linspace(schedule.t_min, schedule.t_max, 50, dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones(50, dtype=torch.float64))


def test_vp_linear_solves_its_sde():
    """d log alpha / dt = -beta/2 and d sigma^2/dt = beta (1 - sigma^2), by differences."""
    s, t, e = VPLinear(), torch.linspace(0.1, 0.9, 5, dtype=torch.float64), 1e-6
    beta = 0.1 + t * 19.9
    torch.testing.assert_close((s.log_alpha(t + e) - s.log_alpha(t - e)) / (2 * e), -beta / 2, rtol=1e-6, atol=0)
    slope = (s.sigma(t + e) ** 2 - s.sigma(t - e) ** 2) / (2 * e)
    torch.testing.assert_close(slope, beta * (1 - s.sigma(t) ** 2), rtol=1e-5, atol=1e-8)


def test_vp_table_is_ddpm():
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    abar = torch.cumprod(1 - betas, 0)
    i = torch.tensor([0, 1, 10, 500, 998, 999])
    table = VPTable.linear()
    torch.testing.assert_close(table.alpha(i.double()) ** 2, abar[i], rtol=1e-10, atol=0)
    torch.testing.assert_close(table.sigma(i.double()) ** 2, 1 - abar[i], rtol=1e-10, atol=0)
    assert table.alpha(i).dtype == torch.float32  # whole numbers as times


def test_ends():
    for bound in (6.0, 14.0):
        ends = VPCosine(bound).log_snr(torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(ends, torch.tensor([bound, -bound], dtype=torch.float64), rtol=1e-8, atol=0)
    torch.testing.assert_close(VE(0.01, 50.0).sigma(torch.tensor([0.0, 1.0])), torch.tensor([0.01, 50.0]))
    assert float(EDM().sigma(torch.tensor(3.0))) == pytest.approx(3.0)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_grid(name, spacing):
    schedule = ALL[name]
    for n in (1, 2, 20):
        if name == "edm" and spacing == "uniform" and n == 20:  # even steps of sigma, from 80 to 4 and then to 0
            with pytest.raises(InputError, match="every sample would be a blurred mean"):
                times(schedule, n, spacing)
            continue
        grid = times(schedule, n, spacing)
        assert len(grid) == n + 1
        assert grid[0].t == pytest.approx(schedule.t_max, rel=1e-5)
        assert grid[-1] == Level(schedule.t_min, 1.0, 0.0)
        ratios = [level.sigma / level.alpha for level in grid]
        assert all(a > b for a, b in pairwise(ratios))
        for level in grid[:-1]:
            t = torch.tensor(level.t, dtype=torch.float64)
            assert (level.alpha, level.sigma) == pytest.approx((float(schedule.alpha(t)), float(schedule.sigma(t))))


@pytest.mark.parametrize("name", SCHEDULES)
def test_angle_grid(name):
    """Equal steps of arctan(sigma/alpha) between the schedule's own ends (1e-4 if it ends at 0), one step short."""
    schedule = ALL[name]
    low = math.exp(-float(schedule.log_snr(torch.tensor(schedule.t_min))) / 2)
    angles = [math.atan2(level.sigma, level.alpha) for level in times(schedule, 10, "angle")]
    step = (angles[0] - math.atan(max(low, 1e-4))) / 10
    assert [angles[0] - i * step for i in range(10)] == pytest.approx(angles[:-1], abs=1e-6)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_grid_refuses(steps):
    with pytest.raises(InputError, match=rf"steps is {steps}.*1000"):
        times(VPTable.linear(), steps)
    with pytest.raises(InputError, match=r"spacing 'angel'.*'angle'"):
        times(VPCosine(), 5, "angel")


@pytest.mark.parametrize("name", SCHEDULES)
def test_kernels_keep_the_marginals(name):
    """If mean = x_0, a DDIM step takes N(alpha_t x_0, sigma_t^2) to N(alpha_s x_0, sigma_s^2) for every eta; the
    ancestral one is Bayes' rule for the forward process; Itô has the same mean, and its noise carries s to t."""
    grid = times(ALL[name], 7, "karras")
    for t, s in pairwise(grid[:-1]):
        for eta in (0.0, 0.3, 1.0):
            k = ddim(t, s, eta)
            assert k.c_x * t.alpha + k.c_mean == pytest.approx(s.alpha, rel=1e-9)
            assert (k.c_x * t.sigma) ** 2 + k.std**2 == pytest.approx(s.sigma**2, rel=1e-9)
        r = t.alpha / s.alpha
        between = t.sigma**2 - (r * s.sigma) ** 2
        variance = 1 / (1 / s.sigma**2 + r**2 / between)  # precision of x_s: from x_0, and from x_t = r x_s + noise
        assert ancestral(t, s).std ** 2 == pytest.approx(variance, rel=1e-6)
        assert ancestral(t, s).c_x == pytest.approx(variance * r / between, rel=1e-6)
        assert ito(t, s)[:2] == pytest.approx(ancestral(t, s)[:2])
        assert (r * ito(t, s).std) ** 2 == pytest.approx(between, rel=1e-9)


def test_streams_belong_to_samples():
    whole = Noise(5, 6)
    first = whole.normal((3, 4))
    second = whole.uniform((2,))
    for index in (0, 3, 5):
        alone = Noise(5, [index])
        assert torch.equal(alone.normal((3, 4)), first[index : index + 1])
        assert torch.equal(alone.uniform((2,)), second[index : index + 1])
    assert not torch.equal(Noise(6, 1).normal((3,)), Noise(5, 1).normal((3,)))
    assert not torch.equal(first[0], first[1])


def test_streams_are_normal():
    """Mean, variance and the correlation of neighbours, within 4 standard errors; keys do not collide."""
    n = 5000
    z = Noise(0, n).normal((2,)).double()
    assert abs(z.mean()) < 4 / math.sqrt(2 * n)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / (2 * n))
    assert abs((z[1:, 0] * z[:-1, 0]).mean()) < 4 / math.sqrt(n)
    u = BatchNoise(n, 0, 1).uniform()
    assert abs(u.mean() - 0.5) < 4 * math.sqrt(1 / 12 / n)
    firsts = {
        float(torch.rand((), generator=generator(*key))) for key in [(0,), (1,), (0, 1), (1, 0), (0, 0, 1), (-1, 0)]
    }
    assert len(firsts) == 6
