"""The host does not wait for a GPU between the steps of a sample: here with the meta device in its place. What a GPU
itself says of it is in test_gpu.py."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import deft
from deft.core.condition import Conditioned
from deft.core.operator import conjugate_gradient
from deft.learned import DEFT
from deft.methods import plan
from deft.nn import UNet
from deft.samplers import SAMPLERS
from deft.tensors import placed
from waiting import NoiseThere, NoWaiting, Waits, sample_away

SHAPE = (1, 8, 8)


def prior_of(schedule=None, time="log-sigma", output="v"):
    net = UNet(1, 1, (8, 8), patch=2)
    return deft.freeze(deft.NetworkDenoiser(net, schedule or deft.VPCosine(), SHAPE, output, time=time))


def seen(n=2, sigma_y=0.05):
    mask = torch.ones(n, *SHAPE)
    mask[..., 2:5] = 0
    return deft.Observation(torch.zeros(n, *SHAPE), deft.Gaussian(deft.Mask(mask), sigma_y))


def away(prior, made, obs):
    h, sampler, grid = made
    obs.features()
    return Conditioned(copy.deepcopy(prior).to("meta"), copy.deepcopy(h).to("meta"), obs.to("meta")), sampler, grid


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m"])
@pytest.mark.parametrize("method", ["deft", "pigdm", "dps"])
def test_methods(method, sampler, monkeypatch):
    prior, obs = prior_of(), seen()
    h = DEFT(SHAPE, 2, 8).eval()
    chosen = plan(method, sampler=sampler if method == "deft" else None, steps=3)
    denoiser, solver, grid = away(prior, chosen.make(prior, h), obs)
    solver = SAMPLERS[sampler]() if method != "deft" else solver
    assert sample_away(denoiser, 2, solver, grid, monkeypatch) == 3


@pytest.mark.parametrize("method", ["ddrm", "reddiff", "mmps", "diffpir", "deft-pigdm"])
def test_other_methods(method, monkeypatch):
    prior, obs = prior_of(), seen()
    denoiser, solver, grid = away(prior, plan(method, steps=3).make(prior, DEFT(SHAPE, 2, 8).eval()), obs)
    assert sample_away(denoiser, 2, solver, grid, monkeypatch) == 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_prior_with_every_sampler(sampler, monkeypatch):
    """With a table of betas, whose levels are looked up."""
    prior = prior_of(deft.VPTable.linear(1000), "t", "eps").to("meta")
    grid = deft.times(prior.schedule, 3, "log-snr")
    solver = SAMPLERS[sampler]()
    if solver.needs_observation:
        pytest.skip("takes a measurement")
    assert sample_away(prior, 2, solver, grid, monkeypatch) == 3


def test_what_waits_is_noticed(monkeypatch):
    """The twin itself: a copy from the host, a value that is asked for, and noise of the CPU."""
    prior = prior_of().to("meta")
    grid = deft.times(prior.schedule, 3)

    class Copies(deft.DDIM):
        def kernel(self, t, s):
            torch.tensor([t.sigma]).to("meta")
            return super().kernel(t, s)

    class Asks(deft.DDIM):
        def step(self, denoiser, x_t, *rest):
            bool((x_t > 0).any())
            return super().step(denoiser, x_t, *rest)

    with pytest.raises(Waits, match="copy"):
        sample_away(prior, 2, Copies(), grid, monkeypatch)
    with pytest.raises((Waits, RuntimeError, NotImplementedError)):
        sample_away(prior, 2, Asks(), grid, monkeypatch)
    with pytest.raises(Waits), NoWaiting():
        torch.zeros(2).to("meta")
    with NoWaiting():
        assert NoiseThere(0, 2).normal((3,), device="meta").shape == (2, 3)


def test_a_number_of_the_host_is_placed():
    like = torch.zeros(2, device="meta")
    with NoWaiting():
        assert placed(torch.tensor([[0.25]], dtype=torch.float64), like).shape == (1, 1)
    same = placed(torch.tensor(0.1, dtype=torch.float64), torch.zeros(2))
    assert same.dtype == torch.float32 and same == torch.tensor(0.1, dtype=torch.float64).float()
    many = placed(torch.arange(3), like)
    assert many.device.type == "meta" and many.dtype == torch.float32
    kept = torch.tensor(0.5, requires_grad=True)
    assert placed(kept, torch.zeros(1, dtype=torch.float64)).requires_grad


def test_rows_without_noise_follow_the_rows():
    like = deft.Gaussian(deft.Identity(), torch.tensor([0.0, 0.1, 0.0]))
    assert like.rows_without_noise() == (True, False)
    assert like[1:2].rows_without_noise() == (False, False) and like[::2].rows_without_noise() == (True, True)
    assert like.repeat(2).rows_without_noise() == (True, False)
    none = deft.Gaussian(deft.Identity(), 0.0)
    assert none.to("meta").rows_without_noise() == (True, True)  # was asked on the host
    assert none.tempered(0.5).rows_without_noise() == (False, False)  # the surrogate stands in
    assert deft.Gaussian(deft.Identity(), 0.1).to("meta")[:1].rows_without_noise() == (False, False)


def test_a_table_of_betas_where_its_times_are():
    schedule = deft.VPTable.linear(50)
    assert schedule.log_alpha(torch.empty(3, dtype=torch.float64, device="meta")).shape == (3,)
    with NoWaiting():
        schedule.log_alpha(torch.empty(3, dtype=torch.float64, device="meta"))
    again = pickle.loads(pickle.dumps(schedule))
    assert again.config() == schedule.config() and "_tables" not in vars(again)
    t = torch.linspace(0, 49, 7, dtype=torch.float64)
    assert torch.equal(again.log_alpha(t), schedule.log_alpha(t))


def test_few_steps_of_conjugate_gradients_ask_nothing():
    """Steps beyond the solution change nothing, so that a device need not be asked after each."""
    b = torch.randn(2, 5)
    exact = conjugate_gradient(lambda v: 2 * v, b, max_iterations=1)
    assert torch.equal(conjugate_gradient(lambda v: 2 * v, b, max_iterations=6), exact)
    there = torch.empty_like(b, device="meta")
    with NoWaiting():
        assert conjugate_gradient(lambda v: 2 * v, there, max_iterations=6).shape == b.shape
    with pytest.raises((Waits, RuntimeError)), NoWaiting():
        conjugate_gradient(lambda v: 2 * v, there, max_iterations=9)
