"""What only a GPU can show, `pytest -m gpu`; what a CPU can show of the same, without it."""

from __future__ import annotations

import sys

import pytest
import torch

import deft
from deft.core.random import BatchNoise
from deft.guidance.combine import Zero
from deft.learned import DEFT
from deft.nn import UNet
from deft.runtime.compiled import compile_networks, is_compiled
from deft.runtime.precision import at_precision
from deft.samplers import SAMPLERS
from deft.train.protocols import Batch
from waiting import Refused, sample_without_waiting

SHAPE = (1, 16, 16)
CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")],
)
on_gpu = pytest.mark.parametrize("device", [CUDA])
on_both = pytest.mark.parametrize("device", ["cpu", CUDA])


@pytest.fixture(autouse=True)
def whole_float32():
    """Convolutions in float32, where a GPU would take 19 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def prior_on(device, schedule=None):
    torch.manual_seed(0)
    net = UNet(1, 1, (16, 24), patch=2)
    torch.nn.init.normal_(net.outlet.weight, std=0.05)
    return deft.freeze(deft.NetworkDenoiser(net, schedule or deft.VPCosine(), SHAPE, "v", time="log-sigma")).to(device)


def h_on(device):
    torch.manual_seed(1)
    h = DEFT(SHAPE, 2, 8).eval().requires_grad_(False)
    torch.nn.init.normal_(h.n1.outlet.weight, std=0.05)
    return h.to(device)


def seen(n, device):
    mask = torch.ones(n, *SHAPE)
    mask[..., 4:9, 3:8] = 0
    like = deft.Gaussian(deft.Mask(mask), 0.05)
    x = deft.Noise(1, n).normal(SHAPE).clamp(-1, 1)
    return deft.Observation(like.sample(x, deft.Noise(2, n)), like).to(device)


def method(name, device, grid):
    """h and sampler."""
    made = {
        "prior": (Zero(), None),
        "deft": (h_on(device), None),
        "pigdm": (deft.PiGDM.published(deft.DDIM(1.0).kernel, grid), None),
        "dps": (deft.DPS.published(0.5, deft.DDIM(1.0).kernel, grid), None),
        "ddrm": (Zero(), deft.samplers.DDRM()),
        "mmps": (deft.MMPS(3), None),
    }
    return made[name]


# the host does not wait (without a GPU: test_waiting.py)


@on_gpu
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m"])
@pytest.mark.parametrize("name", ["prior", "deft", "pigdm", "dps", "ddrm", "mmps"])
@pytest.mark.parametrize("schedule", ["cosine", "table"])
def test_the_loop_does_not_wait(name, sampler, schedule, device, monkeypatch):
    prior = prior_on(device, deft.VPTable.linear(1000) if schedule == "table" else None)
    grid = deft.times(prior.schedule, 5, "log-snr")
    h, own = method(name, device, grid)
    solver = own or (deft.DDIM(1.0) if sampler == "ddim" else SAMPLERS[sampler]())
    denoiser = prior if name == "prior" else deft.condition(prior, h, seen(3, device))
    x = sample_without_waiting(denoiser, deft.Noise(0, 3), solver, grid, Refused(), monkeypatch)
    assert x.device.type == "cuda" and bool(torch.isfinite(x).all())


@on_gpu
def test_what_waits_is_noticed(device, monkeypatch):
    class Asks(deft.DDIM):
        def step(self, denoiser, x_t, *rest):
            bool((x_t > 0).any())
            return super().step(denoiser, x_t, *rest)

    prior = prior_on(device)
    with pytest.raises(RuntimeError, match="synchroniz"):
        sample_without_waiting(prior, deft.Noise(0, 2), Asks(), deft.times(prior.schedule, 3), Refused(), monkeypatch)


# the same samples as on a CPU, compiled or not, and near them in 16 bits


def samples(name, device, *, compiled=None, precision="fp32"):
    prior = prior_on(device)
    grid = deft.times(prior.schedule, 6)
    h, sampler = method(name, device, grid)
    for part in (prior, h):
        at_precision(part, precision)
        if compiled is not None:
            compile_networks(part, **compiled)
    x = deft.sample_posterior(prior, h, seen(3, device), 1, sampler=sampler, grid=grid).x
    if compiled is not None:
        assert is_compiled(prior)
    return x.cpu()


@on_gpu
@pytest.mark.parametrize("name", ["deft", "pigdm", "ddrm"])
def test_samples_are_those_of_a_cpu(name, device):
    assert torch.allclose(samples(name, device), samples(name, "cpu"), atol=2e-3)


@on_gpu
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
@pytest.mark.parametrize("name", ["deft", "pigdm"])
def test_compiled_samples_are_those_of_the_networks(name, mode, device):
    """Without a GPU: test_compiled.py."""
    assert torch.allclose(samples(name, device, compiled={"mode": mode}), samples(name, device), atol=2e-3)


@on_gpu
def test_a_compiled_loop_does_not_wait(device, monkeypatch):
    prior, h = compile_networks(prior_on(device)), compile_networks(h_on(device))
    grid = deft.times(prior.schedule, 5)
    denoiser = deft.condition(prior, h, seen(3, device))
    sample_without_waiting(denoiser, deft.Noise(0, 3), deft.DDIM(1.0), grid, Refused(), monkeypatch)
    assert is_compiled(prior) and is_compiled(h)


@on_both
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_16_bits_are_near(precision, device):
    exact = samples("deft", device)
    try:
        low = samples("deft", device, precision=precision)
    finally:
        torch.set_float32_matmul_precision("highest")
    error = float((low - exact).square().mean().sqrt())
    assert low.dtype == torch.float32 and error < 0.02
    assert error > 0 or precision == "tf32"


@on_gpu
def test_compiled_in_16_bits(device):
    exact, low = samples("deft", device), samples("deft", device, compiled={}, precision="bf16")
    assert 0 < float((low - exact).square().mean().sqrt()) < 0.02


# a fit


@on_both
def test_a_step_of_a_fit_is_that_of_float64(device):
    """Loss and gradient of one batch, in float32 there, against float64 on the CPU; the same noise."""

    def step(where, dtype):
        prior, h = prior_on("cpu").to(dtype).to(where), h_on("cpu").to(dtype).to(where).train().requires_grad_(True)
        x = deft.Noise(3, 8).normal(SHAPE).clamp(-1, 1).to(where, dtype)
        obs = seen(8, "cpu")
        obs = deft.Observation(obs.y.to(dtype), obs.likelihood).to(where)
        loss = deft.DenoisingObjective(prior)(h, Batch(x, obs, None), BatchNoise(8, 0)).value
        loss.backward()
        slopes = torch.cat([p.grad.flatten() for p in h.parameters() if p.grad is not None])
        return float(loss), slopes.cpu().double()

    (loss, slopes), (exact, exact_slopes) = step(device, torch.float32), step("cpu", torch.float64)
    assert abs(loss - exact) < 1e-4 * abs(exact)
    assert float((slopes - exact_slopes).norm() / exact_slopes.norm()) < 1e-3
