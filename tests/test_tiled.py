"""A prior of larger samples from overlapping tiles, against the field that it stands for."""

from __future__ import annotations

import pytest
import torch

import deft
from deft.denoiser import Denoiser, Tiled
from deft.denoiser.identity import is_prior
from deft.errors import InputError
from deft.io.h_files import bundled_h
from deft.prior.check import describe
from deft.testing import gaussian_field

SCHEDULE = deft.VPCosine()


class Pictures(Denoiser):
    """The exact denoiser of a square Gaussian field, as images [1, side, side]."""

    def __init__(self, side, length=1.0):
        super().__init__()
        self.values, self.vectors = torch.linalg.eigh(
            gaussian_field(side, length=length).mixture.covariances[0].float()
        )
        self.schedule, self.event_shape, self.calls = SCHEDULE, (1, side, side), 0

    def forward(self, x_t, t):
        self.calls += 1
        t, alpha, sigma = self.coefficients(t, x_t)
        a, s = alpha.flatten(1), sigma.flatten(1)
        gain = a * self.values / (a**2 * self.values + s**2)
        mean = ((gain * (x_t.flatten(1) @ self.vectors)) @ self.vectors.mT).reshape(x_t.shape)
        return deft.Prediction(x_t, t, alpha, sigma, mean)


def noised(side, rows=4, time=0.5):
    x = gaussian_field(side, length=1.0).sample(rows, 0).reshape(rows, 1, side, side).float()
    t = torch.tensor(time)
    return torch.cos(t * torch.pi / 2) * x + torch.sin(t * torch.pi / 2) * torch.randn(
        x.shape, generator=torch.Generator().manual_seed(1)
    ), t


def test_one_tile_is_the_prior_itself():
    prior = Pictures(8)
    x, t = noised(8)
    torch.testing.assert_close(Tiled(prior, (1, 8, 8))(x, t).mean, prior(x, t).mean)


@pytest.mark.parametrize("time", [0.2, 0.5, 0.8])
def test_the_mean_of_tiles_is_that_of_the_whole_field(time):
    """A field whose correlation ends within a tile: within 5 % of the exact mean, and further off without overlap."""
    x, t = noised(24, time=time)
    exact = Pictures(24)(x, t).mean

    def off(overlap):
        return float((Tiled(Pictures(12), (1, 24, 24), overlap)(x, t).mean - exact).norm() / exact.norm())

    assert off(0.5) < 0.05 and off(0.5) < 0.5 * off(0.0)


def test_samples_of_tiles_vary_and_correlate_as_the_field():
    """Across the seam of tiles side by side, too: the correlation of neighbours there is exp(-1/2) as everywhere."""
    large = Tiled(Pictures(12), (1, 12, 20))
    x = deft.sample(large, 2000, sampler=deft.DPMpp2M(), steps=20, spacing="log-snr", progress=False)[:, 0]
    std = x.std(0)
    assert float(std.min()) > 0.45 and float(std.max()) < 0.55
    for column in (2, 9, 11, 16):
        a, b = x[:, 6, column], x[:, 6, column + 1]
        assert float((a * b).mean() / (a.std() * b.std())) == pytest.approx(0.604, abs=0.07)


def test_a_measurement_of_the_whole_reaches_the_posterior_of_the_whole():
    """PiGDM through the tiles, from 2x2 averages of a field: as near the exact mean as through the whole."""
    side = 16
    world = gaussian_field(side, length=1.0)
    task = deft.tasks.SuperResolution(factor=2, sigma_y=0.05)
    x = world.sample(1, 3).reshape(1, 1, side, side).float()
    obs = task.observe(x, deft.Noise(0, 1))
    op = obs.likelihood.operator
    basis = torch.eye(side**2).reshape(-1, 1, side, side)
    a = op(basis).flatten(1).mT.double()
    c = world.mixture.covariances[0]
    gain = c @ a.mT @ torch.linalg.inv(a @ c @ a.mT + 0.05**2 * torch.eye(len(a), dtype=torch.float64))
    exact = (gain @ obs.y.flatten().double()).reshape(side, side)

    def off(prior):
        draws = deft.sample_posterior(prior, deft.PiGDM(), obs, 40, steps=15, progress=False)
        return float((draws.x[0, :, 0].mean(0) - exact).norm() / exact.norm())

    whole, tiled = off(Pictures(side)), off(Tiled(Pictures(8), (1, side, side)))
    assert tiled < whole + 0.05, (whole, tiled)


def test_tiles_are_called_in_parts_and_cover_every_axis():
    prior = Pictures(8)
    large = Tiled(prior, (1, 20, 9), overlap=0.25, rows=3)
    x = torch.randn(2, 1, 20, 9)
    large(x, torch.tensor(0.3))
    assert large.tiles == 3 * 2 and prior.calls == 4  # 12 tiles, 3 a call
    assert large.fingerprint() != prior.fingerprint() != Tiled(prior, (1, 20, 9)).fingerprint()


def test_a_time_for_each_row_or_one_for_all():
    large = Tiled(Pictures(8), (1, 20, 9), rows=5)
    x, times = torch.randn(2, 1, 20, 9), torch.tensor([0.2, 0.7])
    alone = [large(x[i : i + 1], times[i]).mean for i in range(2)]
    torch.testing.assert_close(large(x, times).mean, torch.cat(alone))
    torch.testing.assert_close(large(x, times[:1]).mean, large(x, times[0]).mean)


def test_tiles_of_a_prior_without_a_derivative_have_none():
    prior = Pictures(8)
    prior.differentiable = False
    assert not Tiled(prior, (1, 16, 16)).differentiable and Tiled(Pictures(8), (1, 16, 16)).differentiable


@pytest.mark.parametrize("shape", [(1, 30, 9), (1, 8, 8)])
def test_samples_of_another_size_than_the_tiles_make(shape):
    with pytest.raises(InputError, match=r"expected \[B, 1, 20, 9\]"):
        Tiled(Pictures(8), (1, 20, 9))(torch.randn(1, *shape), torch.tensor(0.3))


@pytest.mark.parametrize(
    ("shape", "options"),
    [((2, 16, 16), {}), ((1, 16), {}), ((1, 16, 7), {}), ((1, 16, 16), {"overlap": 0.95}), ((1, 16, 16), {"rows": 0})],
)
def test_what_cannot_be_tiled(shape, options):
    with pytest.raises(InputError, match=r"tiles of|Tiled takes"):
        Tiled(Pictures(8), shape, **options)


def test_tiles_are_an_option_of_a_prior_and_serve_an_h():
    small = deft.load_prior("fashion")
    large = deft.load_prior("fashion", tiled=(1, 32, 48), overlap=0.25)
    assert isinstance(large, Tiled) and large.overlap == 0.25
    assert is_prior(large, small.fingerprint()) and not is_prior(small, large.fingerprint())
    h = deft.load(bundled_h("sr4"), prior_options=["tiled=1,32,48"])
    y = h.task.observe(torch.zeros(1, 1, 32, 48), deft.Noise(0, 1))
    assert h.sample(y, n=1, steps=2).x.shape == (1, 1, 1, 32, 48)
    about = describe(large)
    assert (about["output"], about["tile"], about["rows_per_call"]) == ("v", [1, 32, 32], large.tiles)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"overlap": 0.3}, "give tiled="),
        ({"tiled": (1, 20, 20)}, "no side below"),
        ({"tiled": "wide"}, "whole numbers"),
    ],
)
def test_options_that_make_no_tiles(options, says):
    with pytest.raises(InputError, match=says):
        deft.load_prior("fashion", **options)
