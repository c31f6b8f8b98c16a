"""What holds the house together: one prior call a step, no hidden gradients, layers, small checkpoints."""

from __future__ import annotations

import ast

import pytest
import torch
from torch import nn

import structure
import walk
from deft import (
    DDIM,
    DEFT,
    DPS,
    Ancestral,
    DenoisingObjective,
    DPMpp2M,
    FitConfig,
    Gaussian,
    Heun,
    Ito,
    Mask,
    NetworkDenoiser,
    Noise,
    Observation,
    PiGDM,
    SDEDPMpp2M,
    UniPC,
    VPCosine,
    condition,
    fit,
    freeze,
    sample,
    sample_posterior,
)
from deft.core.htransform import HTransform
from deft.core.random import BatchNoise
from deft.denoiser import MeanDenoiser
from deft.errors import ContractError, InputError, NonFiniteError
from deft.guidance.combine import Zero
from deft.nn import MLP
from deft.testing import half_seen
from deft.train.data import Clean

D = 6


class Guarded(nn.Module):
    """A network with weights that counts its calls, and refuses to be called with gradients on."""

    def __init__(self, allow_grad=False):
        super().__init__()
        torch.manual_seed(1)
        self.net, self.calls, self.allow_grad = nn.Linear(D + 1, D), 0, allow_grad

    def forward(self, x, t):
        assert self.allow_grad or not torch.is_grad_enabled(), "the prior was called with gradients enabled"
        self.calls += 1
        return torch.tanh(self.net(torch.cat([x, t.to(x.dtype)[:, None]], 1)))


def small_prior(**options):
    return freeze(NetworkDenoiser(Guarded(**options), VPCosine(), (D,), "x0"))


def small_obs(n):
    mask = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 1.0]])
    like = Gaussian(Mask(mask), 0.2)
    return Observation(like.sample(Noise(3, n).normal((D,)), Noise(4, n)), like)


class Task:
    def observe(self, x, noise):
        like = small_obs(1).likelihood
        return Observation(like.sample(x, noise), like)


@pytest.mark.parametrize(
    "sampler",
    [DDIM(), DDIM(1.0), Ancestral(), Ito(), DPMpp2M(), SDEDPMpp2M(), UniPC(), Heun()],
    ids=lambda s: type(s).__name__,
)
def test_one_prior_call_a_step_and_no_backward(sampler):
    """N steps of DEFT call the prior N times (Heun: 2N - 1), never with gradients enabled."""
    prior, h = small_prior(), DEFT((D,), 2, width=16)
    denoiser = condition(prior, h, small_obs(4))
    prior.net.calls = 0
    sample(denoiser, 4, sampler=sampler, steps=7)
    assert prior.net.calls == sampler.calls(7) == (13 if isinstance(sampler, Heun) else 7)


@pytest.mark.parametrize("h", [DPS(0.1), PiGDM()], ids=["dps", "pigdm"])
def test_guidance_calls_the_prior_once_a_step(h):
    prior = small_prior(allow_grad=True)
    denoiser = condition(prior, h, small_obs(4))
    prior.net.calls = 0
    sample(denoiser, 4, steps=7)
    assert prior.net.calls == 7
    with pytest.raises(AssertionError, match=r"gradients enabled"):
        condition(small_prior(), h, small_obs(4))


def test_exact_h_needs_no_graph_through_the_prior():
    world, obs = half_seen(4)
    prior = world.prior(VPCosine())
    modes = []
    prior.register_forward_pre_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    denoiser = condition(prior, world.h, obs.repeat(3))
    modes.clear()
    sample(denoiser, 3, steps=5)
    assert modes == [False] * 5


def test_fit_leaves_the_prior_alone():
    prior, h = small_prior(), DEFT((D,), 2, width=16)
    before = {k: v.clone() for k, v in prior.state_dict().items()}
    x = torch.randn(64, D)
    result = fit(
        h, DenoisingObjective(prior), Clean(x, Task()), config=FitConfig(steps=5, batch=8), device="cpu", progress=False
    )
    assert all(p.grad is None and not p.requires_grad for p in prior.parameters())
    assert all(torch.equal(v, before[k]) for k, v in prior.state_dict().items())
    assert result.module is h


def test_h_learns_everywhere():
    """Every parameter of h gets a gradient once the zero-initialised last layers have moved."""
    prior, h = small_prior(), DEFT((D,), 2, width=16)
    for p in h.parameters():
        nn.init.normal_(p, std=0.1)
    x = torch.randn(32, D)
    batch = Clean(x, Task()).draw(32, 0, 0, torch.device("cpu"))
    DenoisingObjective(prior)(h, batch, BatchNoise(32, 0)).value.backward()
    silent = [name for name, p in h.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    assert not silent


def test_state_of_h_holds_no_prior():
    prior, h = small_prior(), DEFT((D,), 2, width=16)
    owned = {v.data_ptr() for v in h.state_dict().values()}
    condition(prior, h, small_obs(2))
    assert {v.data_ptr() for v in h.state_dict().values()} == owned
    assert not owned & {v.data_ptr() for v in prior.state_dict().values()}
    assert not any(isinstance(m, NetworkDenoiser) for m in h.modules())


@pytest.mark.parametrize("units", ["v", "eps"])
@pytest.mark.parametrize(
    "sampler", [DDIM(), Ancestral(), Ito(), DPMpp2M(), SDEDPMpp2M(), UniPC(), Heun()], ids=lambda s: type(s).__name__
)
def test_untrained_h_is_the_prior_bit_for_bit(sampler, units):
    prior, h = small_prior(), DEFT((D,), 2, width=16, n2_start=0.0, units=units)
    conditioned = sample(condition(prior, h, small_obs(4)), 4, sampler=sampler, steps=9)
    assert torch.equal(conditioned, sample(prior, 4, sampler=sampler, steps=9))


@pytest.mark.parametrize("sampler", [Ancestral(), DPMpp2M(), UniPC()], ids=lambda s: type(s).__name__)
def test_a_sample_does_not_depend_on_its_batch(sampler):
    """In float64, with a trained-like h; relative 1e-10, for a matrix product's own order of summation."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        prior, h = small_prior(), DEFT((D,), 2, width=16)
        for p in h.parameters():
            nn.init.normal_(p, std=0.2)
        obs = small_obs(5)
        whole = sample(condition(prior, h, obs), Noise(7, 5), sampler=sampler, steps=9)
        assert whole.dtype == torch.float64
        for i in range(5):
            alone = sample(condition(prior, h, obs[i]), Noise(7, [i]), sampler=sampler, steps=9)
            torch.testing.assert_close(alone[0], whole[i], rtol=1e-10, atol=1e-10)
    finally:
        torch.set_default_dtype(default)


# Rooms: what may import what (tests/structure.py has the order).

CODE = structure.read()

MENDING = {
    ("cli", "domains.protein"),
}
"""Pairs of rooms whose imports are still to be taken out; this only ever gets shorter, and a pair that no longer occurs
is an error."""

MENDING_CIRCLES: set[str] = set()
"""A module of each circle that is still to be broken."""


def against_the_order(code):
    return [
        f"{a.module} imports {a.other}"
        for a in structure.upwards(code)
        if (structure.room(a.module), structure.room(a.other)) not in MENDING
    ]


def test_every_room_has_a_place():
    """A new folder or module beside the others is given a place in the order before anything imports it."""
    assert not structure.unranked(CODE)


def test_import_direction():
    """A module imports from its own room or those before it, never from those after; lazily neither."""
    assert not against_the_order(CODE)


def test_no_circles():
    found = structure.circles(CODE.arrows)
    assert not [group for group in found if not MENDING_CIRCLES & set(group)]
    assert {name for group in found for name in group} >= MENDING_CIRCLES, (
        "a circle is broken: take it off MENDING_CIRCLES"
    )


def test_kinds_of_data_are_asked_for_by_the_registry():
    """No module outside the folder of a kind of data imports it; its own commands are the exception."""
    wrong = [
        f"{a.module} imports {a.other}"
        for a in structure.strangers(CODE)
        if (structure.room(a.module), structure.room(a.other)) not in MENDING
    ]
    assert not wrong


def test_what_is_mended_is_off_the_list():
    wrong = {
        (structure.room(a.module), structure.room(a.other))
        for a in (*structure.upwards(CODE), *structure.strangers(CODE))
    }
    assert wrong >= MENDING


def test_core_is_read_in_an_hour():
    assert structure.rooms(CODE)["core"][1] < 2000


def test_the_order_test_can_fail(tmp_path):
    """Late imports, those for type checkers and relative ones count; a room without a place is named."""
    for name, text in {
        "__init__": "",
        "errors": "",
        "core/__init__": "",
        "core/a": "def f():\n    from deft.cli import main\n",
        "core/b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from deft.core.c import C\n",
        "core/c": "from . import b\n",
        "attic/__init__": "from deft import errors\n",
        "cli/__init__": "import deft.core.a\n",
    }.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    code = structure.read(tmp_path)
    assert against_the_order(code) == ["core.a imports cli"]
    assert structure.circles(code.arrows) == [["cli", "core.a"], ["core.b", "core.c"]]
    assert structure.unranked(code) == ["attic"]
    assert ("attic", "errors") in code.arrows


STATIONS = 8
"""Modules, beside the nouns, that handle the measurement in `deft sample` (tests/walk.py); docs/design-notes.md names
them. It was 12 before images became one kind of data of several, and 16 after."""
FOLLOWED = 11
"""The same where views of arrays are followed, too."""


def test_a_measurement_meets_few_modules(tmp_path):
    found = walk.trace(*walk.example(tmp_path))
    assert found["code"] == 0 and (tmp_path / "filled" / "mean.png").exists()
    assert {m.rpartition(".")[2] for m in found["stations"]} >= {
        "pictures",
        "plans",
        "writing",
    }, "the tracer lost the data"
    for key, most in (("stations", STATIONS), ("followed", FOLLOWED)):
        rooms = [
            m for m in found[key] if m not in ("arguments", "values")
        ]  # every checked call goes through it, and it hands all on
        assert len(rooms) <= most, rooms


LONGEST = 60
"""Lines of a function's body in `deft.cli`, its docstring among them: a command says what it takes, checks it, and
calls what anybody could call."""


def too_long(folder):
    """[(file, function, lines)] of functions with more lines than `LONGEST`, decorators and arguments not counted."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.body[0].lineno + 1
                if lines > LONGEST:
                    found.append((path.name, node.name, lines))
    return found


def test_commands_are_thin():
    assert too_long(structure.SRC / "cli") == []


def test_the_length_test_can_fail(tmp_path):
    """Nested functions and methods count, each with its own lines; decorators and arguments do not."""
    for name, lines in (("short", LONGEST), ("long", LONGEST + 1)):
        body = "\n".join(f"            x = {i}" for i in range(lines))
        text = (
            f"class A:\n    def f(self):\n        @property\n        def {name}(\n            a,\n        ):\n{body}\n"
        )
        (tmp_path / f"{name}.py").write_text(text)
    # f, which holds the other one with its decorator and arguments, is found in both
    found = {(file, name): lines for file, name, lines in too_long(tmp_path)}
    assert found["long.py", "long"] == LONGEST + 1 and ("short.py", "short") not in found


def test_schedule_and_random_stand_alone():
    needs = {name: {structure.room(a.other) for a in CODE.arrows if a.module == name} for name in CODE.lines}
    for name in ("core.schedule", "core.random", "core.autodiff"):
        assert needs[name] <= {"errors", "values", "arguments", "tensors", "philox", "printing"}
    assert not needs["errors"] and needs["values"] <= {"errors"}
    assert all(needs[name] <= {"nn"} for name in CODE.lines if structure.room(name) == "nn")


# The contract is checked at the door, in one line that names who broke it.


class WrongShape(HTransform):
    def forward(self, pred, obs):
        return pred.mean[:, :2]


class Explodes(HTransform):
    def forward(self, pred, obs):
        return torch.where(pred.sigma < 0.5, torch.inf, 0.0) * torch.ones_like(pred.mean)


def test_contract():
    prior, obs = small_prior(), small_obs(3)
    with pytest.raises(ContractError, match=r"WrongShape returned shape \(1, 2\), expected \(1, 6\)"):
        condition(prior, WrongShape(), obs)
    with pytest.raises(InputError, match=r"y of shape \(3, 6\).*event|y of shape \(3, 6\).*does not fit"):
        condition(freeze(NetworkDenoiser(MLP(5, 5), VPCosine(), (5,))), Zero(), obs)
    with pytest.raises(InputError, match=r"5 samples asked for.*3 measurements.*repeat"):
        sample(condition(prior, Zero(), obs), 5, steps=2)
    with pytest.raises(NonFiniteError, match=r"h of Explodes was not finite at step"):
        sample(condition(prior, Explodes(), obs), 3, steps=20)
    with pytest.raises(InputError, match=r"at least 1"):
        sample_posterior(prior, Zero(), obs, 0)


def test_a_cut_off_prior_is_named():
    prior = MeanDenoiser(lambda x, a, s: x.detach(), VPCosine(), (D,))
    with pytest.raises(ContractError, match=r"PiGDM differentiates through the prior"):
        condition(prior, PiGDM(), small_obs(2))


@pytest.mark.parametrize("gate", [True, False])
def test_the_gate_is_a_choice_of_the_card(gate):
    """The card remembers it; with the gate off the network has the paper's outputs."""
    h = DEFT((D,), 2, width=16, gate=gate)
    assert h.n1.outlet.out_features == D * (2 if gate else 1)
    options = h.config()
    again = DEFT(tuple(options.pop("event_shape")), **options)
    again.load_state_dict(h.state_dict())


def test_below_the_lowest_level_the_networks_hear_the_lowest():
    """Fits hardly look there, and sinusoids of a level never seen would say anything."""
    prior, h, heard = small_prior(), DEFT((D,), 2, width=16), []
    h.n2.register_forward_hook(lambda module, inputs, out: heard.append(float(inputs[0])))
    for log_ratio in (-7.0, 0.0):
        condition(prior, h, small_obs(1))(
            torch.zeros(1, D), prior.schedule.time_of(torch.tensor(-2 * log_ratio, dtype=torch.float64))
        )
    assert -3.5 in heard and min(heard) == -3.5 and heard[-1] == pytest.approx(0, abs=1e-5)


def test_the_gate_adds_to_n2():
    """A network that says 0 and c moves x̂ as n2 + c does."""

    class Says(nn.Module):
        def forward(self, features, time):
            return torch.cat([torch.zeros(len(features), D), torch.full((len(features), D), 0.7)], 1)

    prior, obs, x, t = small_prior(), small_obs(3), torch.randn(3, D), torch.tensor(0.5)
    gated, plain = DEFT((D,), 2, n2_start=0.5, net=Says()), DEFT((D,), 2, width=16, n2_start=1.2, gate=False)
    moved = [condition(prior, h, obs)(x, t).mean for h in (gated, plain)]
    assert torch.allclose(*moved, atol=1e-6) and not torch.allclose(moved[0], condition(prior, Zero(), obs)(x, t).mean)
