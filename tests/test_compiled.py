"""Networks compiled while samples are drawn: the same samples, or the network as it was and a line that says why. With
a compiler that runs what it was given (`aot_eager`); Inductor itself is in one slow test."""

from __future__ import annotations

import copy
import functools
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import deft
from deft.cli import common
from deft.guidance.combine import Sum
from deft.learned import DEFT
from deft.runtime import compiled
from deft.runtime.compiled import compile_networks, is_compiled
from deft.runtime.precision import at_precision, networks, precision_of
from toys import run

SHAPE = (2, 8, 8)


class Small(torch.nn.Module):
    """A network of a few operations."""

    def __init__(self, inputs=2, outputs=2):
        super().__init__()
        self.layer, self.last = torch.nn.Conv2d(inputs, 8, 3, padding=1), torch.nn.Conv2d(8, outputs, 1)

    def forward(self, x, time):
        return self.last(torch.tanh(self.layer(x) + time[:, None, None, None]))


def prior_of(net=None):
    return deft.freeze(deft.NetworkDenoiser(net or Small(), deft.VPCosine(), SHAPE, "v", time="log-sigma"))


def seen(n=2):
    mask = torch.ones(n, *SHAPE)
    mask[..., 2:5] = 0
    return deft.Observation(torch.zeros(n, *SHAPE), deft.Gaussian(deft.Mask(mask), 0.05))


def learned():
    return DEFT(SHAPE, 2, 8, net=lambda inputs, outputs, width: Small(inputs, outputs)).eval().requires_grad_(False)


def draw(prior, h, sampler=None, n=2, steps=4):
    return deft.sample_posterior(prior, h, seen(n), 1, sampler=sampler, steps=steps, spacing="log-snr").x


METHODS = {
    "deft": (learned, deft.DDIM(1.0)),
    "deft-2m": (learned, deft.DPMpp2M()),
    "pigdm": (deft.PiGDM, deft.DDIM(1.0)),
    "both": (lambda: Sum(learned(), deft.PiGDM()), deft.Heun()),
    "ddrm": (deft.guidance.combine.Zero, deft.samplers.DDRM()),
    "mmps": (lambda: deft.MMPS(2), deft.DDIM(1.0)),
}


@pytest.fixture(autouse=True)
def forgotten():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("method", METHODS)
def test_samples_are_those_of_the_networks(method):
    make, sampler = METHODS[method]
    torch.manual_seed(1)
    prior, h = prior_of(), make()
    exact = draw(prior, h, sampler)
    compile_networks(prior, backend="aot_eager"), compile_networks(h, backend="aot_eager")
    assert torch.allclose(draw(prior, h, sampler), exact, atol=1e-5)
    assert is_compiled(prior) and all(net.forward._known for net in [*networks(prior), *networks(h)])
    compile_networks(prior, False), compile_networks(h, False)
    assert not is_compiled(prior) and torch.equal(draw(prior, h, sampler), exact)


def counting(graphs):
    def backend(graph, inputs):
        graphs.append(tuple(inputs[-1].shape))
        return graph.forward

    return backend


def test_it_compiles_in_the_loop_alone_and_once():
    graphs = []
    prior = compile_networks(prior_of(), backend=counting(graphs))
    x = torch.zeros(3, *SHAPE)
    for _ in range(3):
        prior(x, torch.tensor(0.5))
    posterior = deft.condition(prior, deft.DiffPIR(), seen(3))
    assert graphs == []
    deft.sample(posterior, 3, steps=3)
    deft.sample(posterior, 3, steps=3)
    assert len(graphs) == 1


def test_a_service_compiles():
    pytest.importorskip("starlette")
    from deft.remote.server import Runner

    graphs = []
    prior = compile_networks(prior_of(), backend=counting(graphs))
    x, t = torch.randn(2, *SHAPE), torch.tensor([0.3, 0.6])
    runner = Runner(prior, 8)
    assert torch.allclose(runner.mean(x, t), prior(x, t).mean, atol=1e-6) and len(graphs) == 1


def test_another_shape_waits(monkeypatch):
    """A last batch that is smaller is not worth a compiler's time; one that comes again and again is."""
    monkeypatch.setattr(compiled, "PATIENCE", 3)
    graphs = []
    prior = compile_networks(prior_of(), backend=counting(graphs))
    deft.sample(prior, 3, steps=2)
    assert len(graphs) == 1
    deft.sample(prior, 2, steps=3)
    assert len(graphs) == 1
    deft.sample(prior, 2, steps=3)
    assert len(graphs) == 2


def test_a_compiler_that_fails_is_done_without(caplog):
    def broken(graph, inputs):
        raise OSError("no compiler here")

    torch.manual_seed(1)
    prior, h = prior_of(), deft.PiGDM()
    exact = draw(prior, h)
    compile_networks(prior, backend=broken)
    with caplog.at_level(logging.WARNING, "deft"):
        assert torch.equal(draw(prior, h), exact)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1 and "torch.compile failed" in said[0] and "no compiler here" in said[0]
    assert "goes on without it" in said[0] and not is_compiled(prior)
    with caplog.at_level(logging.WARNING, "deft"):
        draw(prior, h)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_a_compiler_that_is_wrong_is_noticed(factor, caplog):
    def wrong(graph, inputs):
        return lambda *given: [factor * v for v in graph.forward(*given)]

    torch.manual_seed(1)
    prior = prior_of()
    exact = deft.sample(prior, 2, steps=3)
    compile_networks(prior, backend=wrong)
    with caplog.at_level(logging.WARNING, "deft"):
        assert torch.equal(deft.sample(prior, 2, steps=3), exact)
    assert "the result of the compiled Small is another one" in caplog.text and not is_compiled(prior)


def test_a_derivative_that_is_wrong_is_noticed(caplog):
    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            return v.clone()

        @staticmethod
        def backward(ctx, slope):
            return 2 * slope

    def wrong(graph, inputs):
        return lambda *given: [Cut.apply(v) for v in graph.forward(*given)]

    torch.manual_seed(1)
    prior, h = prior_of(), deft.DPS(0.1)
    exact = draw(prior, h)
    compile_networks(prior, backend=wrong)
    with caplog.at_level(logging.WARNING, "deft"):
        assert torch.equal(draw(prior, h), exact)
    assert "the derivative of the compiled Small" in caplog.text


def test_an_error_of_the_network_is_its_own():
    class Odd(Small):
        def forward(self, x, time):
            if x.shape[0] == 3:
                raise ValueError("three rows are refused")
            return super().forward(x, time)

    prior = compile_networks(prior_of(Odd()), backend="aot_eager")
    with pytest.raises(ValueError, match="three rows"):
        deft.sample(prior, 3, steps=2)


def test_it_is_the_same_prior_and_copies_have_weights_of_their_own():
    prior = prior_of()
    names, before = list(prior.state_dict()), prior.fingerprint()
    compile_networks(prior, backend="aot_eager")
    x = deft.sample(prior, 2, steps=3)
    assert list(prior.state_dict()) == names and prior.fingerprint() == before
    for other in (copy.deepcopy(prior), pickle.loads(pickle.dumps(prior))):
        assert is_compiled(other) and torch.allclose(deft.sample(other, 2, steps=3), x, atol=1e-6)
        with torch.no_grad():
            for p in other.parameters():
                p.zero_()
        assert not torch.allclose(deft.sample(other, 2, steps=3), x, atol=1e-3)
    assert torch.allclose(deft.sample(prior, 2, steps=3), x, atol=1e-6)


def test_with_networks_in_16_bits():
    """The hooks of the precision run around what is compiled, and the two may be set in any order."""
    torch.manual_seed(1)
    prior = at_precision(prior_of(), "bf16")
    exact = deft.sample(prior, 2, steps=3)
    compile_networks(prior, backend="aot_eager")
    low = deft.sample(prior, 2, steps=3)
    assert low.dtype == torch.float32 and precision_of(prior) == "bf16" and is_compiled(prior)
    assert torch.allclose(low, exact, atol=2e-2) and not torch.is_autocast_enabled("cpu")
    at_precision(prior, "fp32")
    full = deft.sample(prior, 2, steps=3)
    assert is_compiled(prior) and torch.allclose(full, deft.sample(compile_networks(prior, False), 2, steps=3))
    assert not torch.equal(full, low)


def test_what_looks_at_each_operation_gets_the_network_itself():
    graphs = []
    prior = compile_networks(prior_of(), backend=counting(graphs))
    x, time = torch.randn(2, *SHAPE), torch.zeros(2)
    with compiled.compiled_calls():
        value, back = torch.func.vjp(lambda v: prior.net(v, time), x)
        torch.func.jvp(lambda v: prior.net(v, time), (x,), (x,))
    assert back(value)[0].shape == x.shape and graphs == []


def test_at_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "compile_networks", functools.partial(compile_networks, backend="eager"))
    obs = deft.tasks.SuperResolution().observe(torch.zeros(1, 1, 32, 32), deft.Noise(0, 1))
    np.savez("y.npz", y=obs.y.numpy())
    asked = ("--task", "sr4", "--method", "ddrm", "-n", "1", "--steps", "2", "--measurement", "y.npz", "--range=-1,1")
    code, out, err = run(capsys, "sample", *asked, "--compile", "--out", "compiled")
    assert code == 0 and "compiled UNet in" in out + err, err
    assert json.loads(Path("compiled", "sample.json").read_text())["compiled"] is True
    for command in ("sample", "evaluate", "calibrate", "serve"):
        assert "--compile" in run(capsys, command, "--help")[1]


def test_a_second_derivative_is_refused_in_words():
    said = "torch.compile with aot_autograd does not currently support double backward"
    assert "leave --compile out" in common.known_failure(RuntimeError(said))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["deft", "pigdm"])
def test_with_inductor(method):
    make, sampler = METHODS[method]
    torch.manual_seed(1)
    prior, h = prior_of(), make()
    exact = draw(prior, h, sampler)
    compile_networks(prior), compile_networks(h)
    assert torch.allclose(draw(prior, h, sampler), exact, atol=1e-4)
    assert is_compiled(prior)
