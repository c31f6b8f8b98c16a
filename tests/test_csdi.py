"""CSDI's network: against torch's own layers, strict files, as a prior of every method, and with y as the amortised
sampler. The weights of these tests are random."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

import deft
from deft.core.denoiser import fingerprint
from deft.domains.series.csdi import CSDIImputer, CSDIPrior, load_csdi, noise_schedule
from deft.domains.series.csdi_net import CSDIConfig, CSDINet
from deft.domains.series.tasks import TASKS
from deft.errors import CheckpointError, InputError
from deft.methods import plan
from deft.prior.load import family_of, load_prior
from toys import refused, result

SMALL = CSDIConfig(variables=5, channels=16, layers=2, feature=4, time=8, step=8, widening=12, heads=8)
G = torch.Generator().manual_seed(0)
X, Y = torch.randn(3, 5, 12, generator=G), torch.randn(3, 5, 12, generator=G)
MASK = (torch.rand(3, 5, 12, generator=G) < 0.5).float()


def weights(config=SMALL, seed=1):
    g = torch.Generator().manual_seed(seed)
    return OrderedDict((k, torch.randn(v.shape, generator=g) / 3) for k, v in CSDINet(config).state_dict().items())


@pytest.fixture
def path(tmp_path):
    torch.save(weights(), tmp_path / "model.pth")
    return tmp_path / "model.pth"


def second_writing(state, x, step, y, mask, heads=8):
    """The same with torch's encoder layers and convolutions, on [B, C, K L], step by whole step."""
    pick = lambda prefix: {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}  # noqa: E731

    def conv(name, v):
        return nn.functional.conv1d(v, state[name + ".weight"], state[name + ".bias"])

    def lin(name, v):
        return nn.functional.linear(v, state[name + ".weight"], state[name + ".bias"])

    b, k, n = x.shape
    embedding, step_width = (
        state["embed_layer.weight"],
        state["diffmodel.diffusion_embedding.projection1.weight"].shape[1],
    )
    width = state["diffmodel.residual_layers.0.cond_projection.weight"].shape[1] - embedding.shape[1] - 1
    hours = torch.zeros(n, width)
    for i in range(0, width, 2):
        hours[:, i] = torch.sin(torch.arange(n) / 10000 ** (i / width))
        hours[:, i + 1] = torch.cos(torch.arange(n) / 10000 ** (i / width))
    side = torch.zeros(b, width + embedding.shape[1] + 1, k, n)
    side[:, :width] = hours.T[:, None]
    side[:, width:-1] = embedding.T[..., None]
    side[:, -1] = mask
    f = [10 ** (4 * j / (step_width // 2 - 1)) for j in range(step_width // 2)]
    code = torch.tensor([[math.sin(float(t) * v) for v in f] + [math.cos(float(t) * v) for v in f] for t in step])
    inner = "diffmodel.diffusion_embedding.projection"
    code = nn.functional.silu(lin(inner + "2", nn.functional.silu(lin(inner + "1", code))))
    z = conv("diffmodel.input_projection", torch.stack([mask * y, (1 - mask) * x], 1).flatten(2)).relu()
    skips, c = [], z.shape[1]
    layers = 1 + max(int(key.split(".")[2]) for key in state if "residual_layers" in key)
    for i in range(layers):
        at = f"diffmodel.residual_layers.{i}."
        v = (z + lin(at + "diffusion_projection", code)[..., None]).reshape(b, c, k, n)
        for name, axis in (("time_layer", 3), ("feature_layer", 2)):
            layer = nn.TransformerEncoderLayer(c, heads, state[at + name + ".layers.0.linear1.weight"].shape[0],
                                               activation="gelu", batch_first=True)  # fmt: skip
            layer.load_state_dict(pick(at + name + ".layers.0."))
            rows = v.movedim(1, -1).movedim(axis - 1, -2)  # [B, other, axis, C]
            out = layer.eval()(rows.flatten(0, 1)).reshape(rows.shape)
            v = out.movedim(-2, axis - 1).movedim(-1, 1)
        u = conv(at + "mid_projection", v.flatten(2)) + conv(at + "cond_projection", side.flatten(2))
        out = conv(at + "output_projection", torch.sigmoid(u[:, :c]) * torch.tanh(u[:, c:]))
        z = (z + out[:, :c]) / math.sqrt(2)
        skips.append(out[:, c:])
    out = conv("diffmodel.output_projection1", sum(skips) / math.sqrt(layers)).relu()
    return conv("diffmodel.output_projection2", out).reshape(b, k, n)


@pytest.mark.parametrize("config", [SMALL, CSDIConfig(variables=3, layers=1, channels=24, widening=8, heads=4)])
def test_the_network_is_that_of_its_names(config):
    state = weights(config)
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    assert CSDIConfig.from_shapes(shapes, config.heads) == config
    net = CSDINet(config)
    net.load_state_dict(state)
    k = config.variables
    step = torch.tensor([0.0, 7.0, 49.0])
    with torch.no_grad():
        want = second_writing(state, X[:, :k], step, Y[:, :k], MASK[:, :k], config.heads)
        found = net.eval()(X[:, :k], step, Y[:, :k], MASK[:, :k])
        torch.testing.assert_close(found, want, atol=2e-5, rtol=2e-4)
        empty = second_writing(state, X[:, :k], step, 0 * Y[:, :k], 0 * MASK[:, :k], config.heads)
        torch.testing.assert_close(net(X[:, :k], step), empty, atol=2e-5, rtol=2e-4)
        assert float((want - empty).abs().max()) > 0.01


def test_the_published_size():
    """35 variables, 414,065 numbers, as the file that its authors published has."""
    assert sum(p.numel() for p in CSDINet().parameters()) == 414_065


def test_the_published_table_of_noise():
    s = noise_schedule()
    ratio = torch.exp(s.log_sigma(torch.tensor([0.0, 49.0])) - s.log_alpha(torch.tensor([0.0, 49.0])))
    assert s.max_steps == 50 and float(ratio[0]) == pytest.approx(0.01, rel=1e-3)
    assert float(ratio[1]) == pytest.approx(172.67, rel=1e-3)


def test_between_two_steps_the_codes_are_interpolated():
    code = CSDINet(SMALL).eval().diffmodel.diffusion_embedding
    at = code.code(torch.tensor([7.0, 8.0]))
    with torch.no_grad():
        middle = code(torch.tensor([7.25]))
        inside = nn.functional.silu(code.projection1(0.75 * at[:1] + 0.25 * at[1:]))
        torch.testing.assert_close(middle, nn.functional.silu(code.projection2(inside)))


def test_a_file_is_a_prior(path, capsys):
    """Found by its names, at any depth and under usual prefixes; every command that takes a prior takes it."""
    assert family_of(path) == "csdi"
    prior = load_prior(path)
    assert isinstance(prior, CSDIPrior) and prior.event_shape == (5, 48) and prior.card["domain"] == "series"
    x, t = torch.randn(2, 5, 48, generator=G), torch.tensor(20.0)
    _, alpha, sigma = prior.coefficients(t, x)
    want = (x - sigma * second_writing(weights(), x, [20, 20], 0 * x, 0 * x)) / alpha
    torch.testing.assert_close(prior(x, t).mean, want, atol=1e-4, rtol=1e-3)
    assert {k.split(":")[0] for k in prior.card["unsure"]} == {"unit", "noise schedule"}
    torch.save({"state_dict": {"module." + k: v for k, v in weights().items()}, "epoch": 3}, path)
    torch.testing.assert_close(load_prior(path)(x, t).mean, want, atol=1e-4, rtol=1e-3)
    said = result(capsys, "prior", "inspect", path)
    assert "csdi" in str(said) and "48" in str(said)


def test_options(path):
    long = load_prior(path, event_shape=(5, 60))
    assert deft.sample(long, 1, steps=2).shape == (1, 5, 60) and "60 were asked for" in long.card["unsure"][-1]
    cut = load_prior(path, clamp=0.5)
    x = torch.randn(2, 5, 48, generator=G)
    free = load_prior(path)(x, torch.tensor(45.0)).mean
    assert float(free.abs().max()) > 1
    torch.testing.assert_close(cut(x, torch.tensor(45.0)).mean, free.clamp(-0.5, 0.5))
    again = cut.reread(output="x0")
    assert again.clamp == 0.5 and again.output == "x0"
    prints = {fingerprint(load_prior(path, **o)) for o in ({}, {"clamp": 0.5}, {"heads": 4})}
    assert len(prints) == 3
    for wrong, says in {
        "event_shape": ((7, 48), "is of 5 variables"), "clamp": (-1, "clamp takes a number above 0"),
        "heads": (3, "16 channels in 3 heads"), "prompt": ("x", "prompt"),
    }.items():  # fmt: skip
        with pytest.raises((InputError, CheckpointError), match=says[1]):
            load_prior(path, **{wrong: says[0]})


def test_files_that_do_not_fit(tmp_path, capsys):
    state = weights()
    first = "diffmodel.residual_layers.0.time_layer.layers.0.linear2.bias"
    cases = {
        "1 missing": {k: v for k, v in state.items() if k != first},
        "1 unexpected .first: diffmodel.more": state | {"diffmodel.more": torch.ones(2)},
        "1 of another shape": state | {first: torch.ones(7)},
        "cond_projection.weight is missing": {k: v for k, v in state.items() if "cond_projection" not in k},
        "shown 1 table of values": state | {"diffmodel.input_projection.weight": torch.ones(16, 1, 1)},
        "no tensor of floats": state | {first: torch.ones(16, dtype=torch.int64)},
    }
    for i, (says, wrong) in enumerate(cases.items()):
        torch.save(wrong, tmp_path / f"{i}.pth")
        with pytest.raises(CheckpointError, match=says):
            load_prior(tmp_path / f"{i}.pth")
    assert "1 missing" in refused(capsys, "prior", "inspect", tmp_path / "0.pth")
    raw = (tmp_path / "0.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(raw[: len(raw) // 2])
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pth")
    for name in ("cut.pth", "other.pth", "gone.pth"):
        with pytest.raises(CheckpointError):
            load_csdi(tmp_path / name)


# With y: the amortised sampler.


def measured(sigma=0.0):
    return deft.Observation(MASK * Y, deft.Gaussian(deft.Mask(MASK), sigma))


def test_with_a_mask_it_is_the_conditional_denoiser(path):
    """The network's answer to (y, mask) where y was not seen, y where it was; whatever x_t is where y was seen."""
    prior, t = load_prior(path, event_shape=(5, 12)), torch.tensor(30.0)
    _, alpha, sigma = prior.coefficients(t, X)
    found = prior.given(measured())(X, t).mean
    want = (X - sigma * second_writing(weights(), X, [30] * 3, Y, MASK)) / alpha
    torch.testing.assert_close(found, torch.where(MASK > 0, Y, want), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(prior.given(measured())(X + 5 * MASK, t).mean, found)
    as_h = deft.condition(prior, CSDIImputer(prior), measured())
    torch.testing.assert_close(as_h(X, t).mean, found, atol=1e-4, rtol=1e-3)
    assert not list(CSDIImputer(prior).parameters()), "the prior is borrowed"
    x = deft.sample(prior.given(measured()), 3, steps=3)
    torch.testing.assert_close(x * MASK, Y * MASK)


def test_it_fills_entries_and_nothing_else(path):
    prior = load_prior(path, event_shape=(5, 12))
    sums = TASKS["resolution"](factor=3).observe(X, deft.Noise(0, 3))
    for make in (prior.given, lambda obs: deft.condition(prior, CSDIImputer(prior), obs)):
        with pytest.raises(InputError, match="fills entries that were not observed"):
            make(sums)
    with pytest.raises(InputError, match=r"got a MeanDenoiser: load one with deft\.load_prior"):
        CSDIImputer(deft.MeanDenoiser(lambda x, a, s: x, deft.VPCosine(), (2,)))


@pytest.mark.parametrize("method", ["pigdm", "mmps", "dps", "ddrm"])
def test_methods_run_on_it(path, method):
    """Two passes through the graph or none: the samples obey y more than the prior's own do."""
    prior = load_prior(path, event_shape=(5, 12), clamp=3.0)
    draws = plan(method, steps=6).draw(prior, measured(0.1), 2)
    assert draws.x.shape == (3, 2, 5, 12) and bool(torch.isfinite(draws.x).all())
    own = deft.sample(prior, 3, steps=6)
    assert float(((draws.mean - Y) * MASK).square().sum()) < float(((own - Y) * MASK).square().sum())


def test_on_the_command_line(path, tmp_path, capsys):
    """A CSV with gaps, filled by a method without training."""
    import csv

    rows = [["time", *(f"v{i}" for i in range(5))]]  # it has no names: the order counts
    rows += [[h, *("" if (h + i) % 3 == 0 else f"{math.sin(h / 5 + i):.3f}" for i in range(5))] for h in range(48)]
    with (tmp_path / "gaps.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    out = tmp_path / "filled"
    result(capsys, "sample", "--prior", path, "--task", "impute", "--measurement", tmp_path / "gaps.csv", "--method",
           "ddrm", "-n", 2, "--steps", 3, "--out", out)  # fmt: skip
    with (out / "sample-000.csv").open() as file:
        drawn = list(csv.reader(file))
    assert len(drawn) == 49 and all(math.isfinite(float(v)) for row in drawn[1:] for v in row)
