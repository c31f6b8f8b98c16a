"""Networks in fewer bits while samples are drawn."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from pathlib import Path

import pytest
import torch

import deft
from deft.errors import InputError
from deft.io.h_files import bundled_h
from deft.learned import LEARNED
from deft.runtime.precision import at_precision, networks, precision_of
from toys import refused, run


def sr4(precision=None):
    fitted = deft.load(bundled_h("sr4"))
    if precision:
        at_precision(fitted.prior, precision), at_precision(fitted.h, precision)
    return fitted


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_samples_are_near_those_of_float32_and_come_back_in_float32(precision):
    x = torch.zeros(2, 1, 32, 32)
    y = sr4().task.observe(x, deft.Noise(0, 2))
    fitted = sr4()
    exact = fitted.sample(y, n=2, steps=8).x
    at_precision(fitted.prior, precision), at_precision(fitted.h, precision)
    low = fitted.sample(y, n=2, steps=8).x
    assert low.dtype == torch.float32
    assert 0 < float((low - exact).square().mean().sqrt()) < 0.01
    at_precision(fitted.prior, "fp32"), at_precision(fitted.h, "fp32")
    assert torch.equal(fitted.sample(y, n=2, steps=8).x, exact)


def test_the_networks_alone_are_lowered():
    """The matrix products of every network in bfloat16; the likelihood, the state and the weights in float32."""
    fitted = sr4("bf16")
    inside, outside = [], []
    for net in [*networks(fitted.prior), *networks(fitted.h)]:
        next(m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))).register_forward_hook(
            lambda m, a, out: inside.append(out.dtype)
        )
    obs = fitted.task.observe(torch.zeros(1, 1, 32, 32), deft.Noise(0, 1))
    adjoint = type(obs.likelihood.operator).adjoint

    def spy(self, y):
        outside.append((y.dtype, torch.is_autocast_enabled("cpu")))
        return adjoint(self, y)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(obs.likelihood.operator), "adjoint", spy)
        fitted.sample(obs, n=1, steps=2)
    assert set(inside) == {torch.bfloat16} and len(networks(fitted.h)) == 2
    assert outside and set(outside) == {(torch.float32, False)}
    assert {p.dtype for p in fitted.prior.parameters()} == {torch.float32}


def test_it_is_the_same_prior_and_copies_stay_lowered():
    prior = deft.load_prior("fashion")
    before = prior.fingerprint()
    at_precision(prior, "bf16")
    assert prior.fingerprint() == before and precision_of(prior) == "bf16"
    x, t = torch.ones(1, 1, 32, 32), torch.tensor(0.5)
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        assert precision_of(other) == "bf16" and torch.equal(other(x, t).mean, prior(x, t).mean)
    at_precision(prior, "fp32")
    assert precision_of(prior) == "fp32" and torch.equal(prior(x, t).mean, deft.load_prior("fashion")(x, t).mean)


def test_a_network_that_fails_leaves_no_autocast_behind():
    prior = at_precision(deft.load_prior("fashion"), "bf16")
    with pytest.raises(RuntimeError):
        networks(prior)[0](torch.zeros(1, 7, 32, 32), torch.zeros(1))
    assert not torch.is_autocast_enabled("cpu")
    assert torch.zeros(2, 2).mm(torch.zeros(2, 2)).dtype == torch.float32


class Waiting(torch.nn.Module):
    """A network in which the first thread waits for the second, and leaves it first."""

    def __init__(self):
        super().__init__()
        self.layer, self.second_in, self.first_out = torch.nn.Linear(2, 2), threading.Event(), threading.Event()

    def forward(self, x, time):
        if threading.current_thread().name == "first":
            assert self.second_in.wait(20)
        else:
            self.second_in.set()
            assert self.first_out.wait(20)
        return self.layer(x)


def test_threads_leave_each_other_alone():
    """As a service runs them; the second is under autocast of its own."""
    net, found = Waiting(), {}
    prior = at_precision(deft.NetworkDenoiser(net, deft.VPCosine(), (2,), "v"), "bf16")
    waits = threading.Event()

    def first():
        net.register_forward_pre_hook(lambda *_: waits.set())
        prior(torch.zeros(1, 2), torch.tensor(0.5))
        found["first"] = torch.is_autocast_enabled("cpu")
        net.first_out.set()

    def second():
        assert waits.wait(20)
        with torch.autocast("cpu", torch.bfloat16):
            prior(torch.zeros(1, 2), torch.tensor(0.5))
            found["second"] = torch.is_autocast_enabled("cpu")

    threads = [threading.Thread(target=f, name=f.__name__) for f in (first, second)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert found == {"first": False, "second": True}


@pytest.mark.parametrize("name", ["deft", "amortised", "controlnet", "finetuned"])
def test_every_network_of_a_learned_h_is_lowered(name):
    prior = deft.load_prior("fashion")
    obs = deft.tasks.SuperResolution().observe(torch.zeros(1, 1, 32, 32), deft.Noise(0, 1))
    h = LEARNED[name].sized(prior, 0.1, obs.likelihood.feature_channels)
    at_precision(prior, "bf16"), at_precision(h, "bf16")
    seen = []
    for module in h.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and module not in networks(h):
            module.register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    h(prior(torch.randn(1, 1, 32, 32), torch.tensor(0.5)), obs)
    assert seen and set(seen) == {torch.bfloat16}


def test_what_is_refused():
    with pytest.raises(InputError, match=r"no such precision: 'int8'|precision"):
        at_precision(deft.load_prior("fashion"), "int8")
    with pytest.raises(InputError, match="float64"):
        at_precision(deft.load_prior("fashion").double(), "bf16")


def test_at_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ("--task", "sr4", "--method", "ddrm", "-n", "1", "--steps", "2", "--measurement", "y.npz", "--range=-1,1")
    obs = deft.tasks.SuperResolution().observe(torch.zeros(1, 1, 32, 32), deft.Noise(0, 1))
    import numpy as np

    np.savez("y.npz", y=obs.y.numpy())
    code, _, err = run(capsys, "sample", *common, "--precision", "bf16", "--out", "low")
    assert code == 0, err
    assert run(capsys, "sample", *common, "--out", "full")[0] == 0
    low, full = (json.loads(Path(folder, "sample.json").read_text()) for folder in ("low", "full"))
    assert low["precision"] == "bf16" and "precision" not in full
    error = refused(capsys, "sample", *common, "--precision", "int8", "--out", "bad")
    assert "bf16" in error
