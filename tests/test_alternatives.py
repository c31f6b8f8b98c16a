"""Other ways to learn h, on DEFT's terms: they start as the prior, leave it alone, travel like DEFT; and
classifiers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from deft import (
    DDIM,
    DEFT,
    DenoisingObjective,
    FitConfig,
    NetworkDenoiser,
    Noise,
    Observation,
    VPCosine,
    condition,
    fit,
    freeze,
    sample,
)
from deft.core.denoiser import fingerprint
from deft.core.grid import times
from deft.core.random import BatchNoise
from deft.domains.image.prior import ImagePrior
from deft.domains.image.tasks import TASKS
from deft.errors import CheckpointError, ContractError, InputError
from deft.guidance.combine import Zero
from deft.io.files import load_weights, save_weights
from deft.io.h_files import load_h, save_h
from deft.learned import LEARNED, Amortised, ClassifierGuidance, FullTuning, LoRA, SideNetwork, kind_of
from deft.learned.base import count_parameters
from deft.learned.classifier import build_classifier, shares
from deft.likelihood import Likelihood
from deft.methods import METHODS, plan
from deft.nn import MLP, HalfUNet, UNet
from deft.nn.lora import LowRank
from deft.runtime.messages import show
from deft.samplers import Ancestral
from deft.testing import check_htransform, half_seen, two_modes
from deft.train.cache import PredictionCache
from deft.train.classifier import NoisyClassifierObjective
from deft.train.data import Clean, Pairs

TASK = TASKS["inpaint"]()
INSIDE = {"lora": LoRA, "controlnet": SideNetwork, "finetuned": FullTuning}
CPU = torch.device("cpu")


@pytest.fixture
def prior():
    """0.15 M parameters, as they fall."""
    torch.manual_seed(0)
    net = UNet(1, 1, (24, 32), patch=4)
    nn.init.normal_(net.outlet.weight, std=0.05)
    return freeze(ImagePrior(net, VPCosine(), (1, 16, 16)))


def made(prior, name):
    torch.manual_seed(1)
    return LEARNED[name].sized(prior, 0.5, TASK.feature_channels)


def shaken(h, std=0.05):
    """With weights that are no longer where they started."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in h.parameters():
            p += std * torch.randn(p.shape, generator=generator)
    return h


def measured(n=4, side=16):
    x = Noise(5, n).uniform((1, side, side)) * 2 - 1
    return x, TASK.observe(x, Noise(6, n))


def small_fit(h, prior, steps=5, **options):
    x, _ = measured(64)
    config = FitConfig(steps=steps, batch=16, warmup=2, evaluations=1, held_out_batches=2, **options)
    return fit(
        h, DenoisingObjective(prior), Clean(x, TASK), Clean(x, TASK), config=config, device="cpu", progress=False
    )


# Structure.


@pytest.mark.parametrize(
    ("name", "width"), [("lora", None), ("controlnet", None), ("controlnet", 8), ("finetuned", None)]
)
def test_untrained_h_is_zero(prior, name, width):
    """Exactly: the adapted network says what the prior's says, bit for bit, and samples are the prior's."""
    _, obs = measured()
    h = SideNetwork(prior, 2, width) if name == "controlnet" else made(prior, name)
    pred = prior(Noise(7, 4).normal((1, 16, 16)), torch.tensor([0.1, 0.4, 0.7, 0.98]))
    assert torch.equal(h(pred, obs), torch.zeros_like(pred.mean))
    drawn = sample(condition(prior, h, obs), 4, sampler=DDIM(1.0), steps=4)
    assert torch.equal(drawn, sample(condition(prior, Zero(), obs), 4, sampler=DDIM(1.0), steps=4))


def test_untrained_amortised_is_a_standard_normal_prior(prior):
    """Its mean is alpha x_t / (alpha^2 + sigma^2), whatever the prior says."""
    _, obs = measured()
    x, t = Noise(7, 4).normal((1, 16, 16)), torch.tensor([0.1, 0.4, 0.7, 0.98])
    pred = condition(prior, made(prior, "amortised"), obs)(x, t)
    torch.testing.assert_close(pred.mean, pred.alpha * x / (pred.alpha**2 + pred.sigma**2), rtol=1e-5, atol=1e-5)
    h = shaken(made(prior, "amortised"))
    first = condition(prior, h, obs)(x, t).mean
    other = freeze(ImagePrior(copy.deepcopy(prior.net).requires_grad_(False), prior.schedule, prior.event_shape))
    nn.init.normal_(other.net.outlet.weight, std=0.1)
    torch.testing.assert_close(condition(other, h, obs)(x, t).mean, first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LEARNED)
def test_fit_leaves_the_prior_alone(prior, name):
    """Bitwise, without a gradient; h holds no prior, and copies of h share the one it borrows. h itself does change."""
    h, before = (
        made(prior, name).calibrate(prior, measured(16)[0]),
        {k: v.clone() for k, v in prior.state_dict().items()},
    )
    started = {k: v.clone() for k, v in h.state_dict().items()}
    assert not {v.data_ptr() for v in h.state_dict().values()} & {v.data_ptr() for v in prior.state_dict().values()}
    assert not any(isinstance(m, NetworkDenoiser) for m in h.modules())
    if name in INSIDE:
        assert copy.deepcopy(h)._from.prior is prior and h.to("cpu")._from.prior is prior
    mark = fingerprint(prior)
    small_fit(h, prior)
    assert all(torch.equal(v, before[k]) for k, v in prior.state_dict().items()) and fingerprint(prior) == mark
    assert all(p.grad is None and not p.requires_grad for p in prior.parameters())
    assert any(not torch.equal(v, started[k]) for k, v in h.state_dict().items())


@pytest.mark.parametrize("name", LEARNED)
def test_h_learns_everywhere(prior, name):
    """Every parameter has a gradient once those that start at zero have moved."""
    h = shaken(made(prior, name))
    batch = Clean(measured(16)[0], TASK).draw(16, 0, 0, CPU)
    DenoisingObjective(prior)(h, batch, BatchNoise(16, 0)).value.backward()
    assert [k for k, p in h.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0] == []


@pytest.mark.parametrize("name", LEARNED)
def test_a_short_fit_lowers_the_loss(prior, name):
    """An untrained network as the prior: 40 steps take something off the held-out loss, of h = 0 and of h untrained: at
    least 3 % (a DEFT starts as guidance and has little to gain here)."""
    h, objective = made(prior, name).calibrate(prior, measured(16)[0]), DenoisingObjective(prior)
    x, _ = measured(64)

    @torch.no_grad()
    def loss(module):
        return float(objective(module, Clean(x, TASK).draw(64, 0, -1, CPU), BatchNoise(64, 9)).value)

    before = min(loss(Zero()), loss(h))
    small_fit(h, prior, 40, lr=3e-3, ema=0.9)
    assert loss(h) < 0.97 * before, (loss(h), before)


@pytest.mark.parametrize("name", LEARNED)
def test_samples_do_not_see_each_other(prior, name):
    x, obs = measured()
    h = shaken(made(prior, name))
    with torch.no_grad():
        pred = prior(x, torch.tensor([0.2, 0.4, 0.6, 0.8]))
        whole = h(pred, obs)
        for i in range(4):
            torch.testing.assert_close(h(pred[i : i + 1], obs[i]), whole[i : i + 1], rtol=1e-3, atol=1e-4)


def test_a_bank_is_as_good(prior):
    """Predictions made once serve the adapted networks as well: they ask the prior again themselves."""
    x, _ = measured(32)
    bank = PredictionCache.build(prior, x, TASK, 32)
    batch = bank.draw(16, 0, 0, CPU)
    for name in INSIDE:
        value = made(prior, name)(batch.prediction, batch.observation).detach()
        assert float((value * batch.prediction.sigma**2).abs().max()) < 1e-3


# Sizes and costs.


@pytest.mark.parametrize("name", ["amortised", "lora", "controlnet"])
def test_sized(prior, name):
    """At most the share that was asked for, and the next one up is more; a line says how large it is."""
    said: list[str] = []
    for share in (0.25, 0.4):
        with show(said.append):
            h = LEARNED[name].sized(prior, share, 2)
        budget = share * prior.parameter_count()
        assert count_parameters(h) <= budget and f"{count_parameters(h):,} parameters" in said[-1]
        step = {"amortised": {"width": 2}, "lora": {"rank": 1}, "controlnet": {"width": 2}}[name]
        ((key, n),) = step.items()
        larger = LEARNED[name].from_config(prior, h.config() | {key: h.config()[key] + n})
        assert count_parameters(larger) > budget
    with pytest.raises(InputError, match="the smallest h"):
        LEARNED[name].sized(prior, 1e-4, 2)


def test_whole_sizes(prior):
    """A ControlNet that fits is a copy of the prior's encoder and middle; a fine-tuned copy is the prior and its
    inlet."""
    side = SideNetwork.sized(prior, 1.0, 2)
    kept = {f"side.{k}": v for k, v in prior.net.state_dict().items() if not k.startswith(("up", "norm", "outlet"))}
    state = side.state_dict()
    assert side.width is None and all(torch.equal(state[k], v) for k, v in kept.items())
    assert not any(k.startswith(("side.up", "side.outlet")) for k in state)
    tuned = FullTuning.sized(prior, 0.1, 2)
    assert count_parameters(tuned) == prior.parameter_count() + count_parameters(tuned.inlet)
    assert count_parameters(side) < count_parameters(tuned)


def test_low_rank():
    """Every linear and convolutional weight changes by a matrix of the rank, or as many as it has; the network stays as
    it is."""
    net = UNet(2, 1, (8, 16), patch=2)
    torch.nn.init.normal_(net.outlet.weight)
    change, before = shaken(LowRank(net, 3), 0.3), {k: v.clone() for k, v in net.state_dict().items()}
    weights = change.weights(net)
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))]
    assert len(weights) == len(layers) > 10
    for name, w in weights.items():
        difference = (w - before[name]).detach().double().flatten(1)
        values = torch.linalg.svdvals(difference)
        r = min(3, *difference.shape)
        assert float(values[r - 1]) > 1e-3 and (len(values) == r or float(values[r]) < 1e-5)
    x, t = torch.randn(2, 2, 8, 8), torch.zeros(2)
    changed = change.call(net, x, t)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    twin = UNet(2, 1, (8, 16), patch=2)
    twin.load_state_dict(before | {k: v.detach() for k, v in weights.items()})
    torch.testing.assert_close(changed, twin(x, t))
    assert not torch.allclose(changed, net(x, t))


@pytest.mark.parametrize(
    ("name", "runs"), [("deft", 1), ("amortised", 1), ("lora", 2), ("controlnet", 2), ("finetuned", 2)]
)
def test_runs_of_the_priors_network(prior, name, runs):
    """5 steps of it: so often a network of the prior's kind is run, never with gradients, and the table counts as
    many."""
    _, obs = measured()
    h, calls = made(prior, name).eval().requires_grad_(False), []
    for net in [prior.net] + ([h.net] if name == "finetuned" else []):
        net.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    denoiser = condition(prior, h, obs)
    calls.clear()
    chosen = plan(name, steps=5)
    sample(denoiser, 4, grid=chosen.grid(prior))
    assert calls == [False] * 5 * runs and chosen.calls() == 5 * runs
    assert METHODS[name].learned == name and METHODS[name].trained
    assert chosen.draw(prior, obs[:1], 2, fitted=h).x.shape == (1, 2, 1, 16, 16)
    with pytest.raises(InputError, match=f"{name} needs a fitted h"):
        chosen.make(prior)


def test_priors_that_cannot_be_looked_into():
    mlp = freeze(NetworkDenoiser(MLP(6, 6, width=16), VPCosine(), (6,)))
    for name in INSIDE:
        with pytest.raises(
            InputError, match=r"knows that of deft.nn.UNet alone; this prior is a NetworkDenoiser of MLP.*amortised"
        ):
            LEARNED[name].sized(mlp, 0.5, 2)
    assert Amortised.sized(mlp, 5.0, 2).event_shape == (6,)


def test_the_unet_shows_its_features():
    """`encode` and the hooks are the forward pass: adding zeros changes no bit, adding something does."""
    net = UNet(1, 1, (8, 16), patch=2)
    torch.nn.init.normal_(net.outlet.weight)
    x, t = torch.randn(2, 1, 8, 8), torch.randn(2)
    features = net.encode(x, net.embed(t))
    assert [tuple(f.shape) for f in features] == [(2, 8, 4, 4), (2, 16, 2, 2), (2, 16, 2, 2)]
    zeros = [torch.zeros_like(f) for f in features]
    assert torch.equal(net(x, t, torch.zeros_like(features[0]), zeros), net(x, t))
    for i in range(3):
        assert not torch.allclose(
            net(x, t, None, [torch.randn_like(z) if i == j else z for j, z in enumerate(zeros)]), net(x, t), atol=1e-4
        )


# Files.


@pytest.mark.parametrize("name", LEARNED)
def test_a_file_brings_it_back(prior, tmp_path, name):
    """The same h, of the same class; the file holds h's own numbers alone."""
    h, (x, obs) = shaken(made(prior, name)), measured()
    card = save_h(tmp_path / "h.safetensors", h, prior, TASK, note="kept", **{"class": "another"})
    assert card["class"] == name == kind_of(h) and card["note"] == "kept"
    again, task, _ = load_h(tmp_path, prior)
    assert type(again) is type(h) and again.config() == h.config() and task == TASK
    pred = prior(x, torch.tensor(0.4))
    torch.testing.assert_close(again(pred, obs), h(pred, obs).detach(), rtol=1e-4, atol=1e-4)
    assert sum(v.numel() for v in load_weights(tmp_path / "h.safetensors")[0].values()) == sum(
        v.numel() for v in h.state_dict().values()
    )
    assert not any(p.requires_grad for p in again.parameters())


def test_older_cards_hold_a_deft(prior, tmp_path):
    h = made(prior, "deft")
    save_h(tmp_path / "h.safetensors", h, prior, TASK)
    tensors, card = load_weights(tmp_path / "h.safetensors")
    save_weights(tmp_path / "h.safetensors", tensors, {k: v for k, v in card.items() if k != "class"})
    assert type(load_h(tmp_path, prior)[0]) is DEFT
    for odd in ("hypernetwork", ["deft"]):
        save_weights(tmp_path / "h.safetensors", tensors, card | {"class": odd})
        with pytest.raises(
            CheckpointError, match=r"none of those known here: deft, amortised, lora|class is .* expected a text"
        ):
            load_h(tmp_path, prior)


@pytest.mark.parametrize(
    "change", [{"rank": 2}, {"rank": 0}, {"rank": "many"}, {"width": 3}, {"event_shape": [2, 16, 16]}]
)
def test_cards_that_lie(prior, tmp_path, change):
    h = made(prior, "lora")
    save_h(tmp_path / "h.safetensors", h, prior, TASK)
    tensors, card = load_weights(tmp_path / "h.safetensors")
    card["h"] |= change
    save_weights(tmp_path / "h.safetensors", tensors, card)
    with pytest.raises(CheckpointError, match="does not fit the h-transform its card describes"):
        load_h(tmp_path, prior)


def test_only_learned_kinds_are_kept(prior, tmp_path):
    with pytest.raises(InputError, match="Zero is none of the kinds of learned h"):
        save_h(tmp_path / "h.safetensors", Zero(), prior, TASK)


# Learning, where the answer is known.


def test_amortised_approaches_the_exact_mean():
    """4 x 4 field, 200 steps: its mean is at least 3 times nearer to E[x_0 | x_t, y] than the prior's, at every noise
    level."""
    world, obs = half_seen(4)
    prior, like, schedule = world.prior(VPCosine()), obs.likelihood, VPCosine()

    class Task:
        def observe(self, x, noise):
            return Observation(like.sample(x, noise), like)

    h = Amortised((16,), 2, width=64)
    config = FitConfig(steps=200, batch=128, lr=5e-3, warmup=20, ema=0.98, evaluations=1)
    fit(
        h,
        DenoisingObjective(prior, "v", 1.0, 0.0),
        Clean(world.sample(20_000, 3).float(), Task()),
        config=config,
        device="cpu",
        progress=False,
    )
    x = world.sample(512, 5).float()
    seen = Task().observe(x, Noise(6, 512))
    for t in (0.4, 0.6, 0.8):
        a, s = schedule.alpha(torch.tensor(t)), schedule.sigma(torch.tensor(t))
        pred = prior(a * x + s * Noise(7, 512).normal((16,)), torch.tensor(t))
        exact = pred.corrected(world.h(pred, seen)).mean
        with torch.no_grad():
            mine = pred.corrected(h(pred, seen)).mean
        assert float((mine - exact).norm()) < 0.33 * float((pred.mean - exact).norm()), t


# Classifiers.


class Which(Likelihood):
    """p(c | x_0) of a mixture's component c, exactly; y is the label [B]."""

    def __init__(self, world):
        self.world = world

    def log_probs(self, x, alpha=1.0, sigma=1e-6):
        one = torch.ones(1, 1, dtype=x.dtype)
        return self.world.mixture.given(x, alpha * one, sigma * one)[0]

    def sample(self, x, noise):
        u = noise.uniform().to(x.dtype)
        return (u[:, None] > self.log_probs(x).exp().cumsum(1)).sum(1)

    def log_prob(self, y, x):
        return self.log_probs(x).gather(1, y[:, None])[:, 0]

    def features(self, y):
        return y[:, None].float().expand(-1, *self.world.event_shape)


def exact_net(world):
    """log p(c | x_t) as a classifier's logits, for a schedule with alpha^2 + sigma^2 = 1."""

    def net(x, time):
        ratio = time.exp()[:, None]
        alpha = (1 + ratio**2).rsqrt()
        return world.mixture.given(x, alpha, ratio * alpha)[0]

    return net


@pytest.mark.parametrize("label", [0, 1])
def test_an_exact_classifier_draws_its_component(label):
    """The law of component c, N(m_c, C_c): mean and deviation within 4 standard errors of 1,000, and 2 % of it for 80
    steps."""
    n, world = 1000, two_modes(distance=1.5)
    obs = Observation(torch.full((n,), label), Which(world))
    h = ClassifierGuidance(exact_net(world))
    x = sample(
        condition(world.prior(VPCosine()), h, obs), n, sampler=Ancestral(), grid=times(VPCosine(), 80, "log-snr")
    ).double()
    mean, std = world.mixture.means[label], world.mixture.covariances[label].diagonal().sqrt()
    assert bool(((x.mean(0) - mean).abs() < 4 * std / math.sqrt(n) + 0.02 * std).all())
    assert bool(((x.std(0) / std - 1).abs() < 4 / math.sqrt(2 * n) + 0.02).all())


def test_classifier_guidance_is_a_potential():
    world = two_modes(distance=1.5)
    y = torch.arange(8) % 2
    check_htransform(ClassifierGuidance(exact_net(world)), world.prior(VPCosine()), Observation(y, DoubleWhich(world)))
    x = torch.randn(8, 2, dtype=torch.float64)
    pred = world.prior(VPCosine())(x, torch.tensor(0.5, dtype=torch.float64))
    once, twice = (
        ClassifierGuidance(exact_net(world), scale)(pred, Observation(y, Which(world))) for scale in (1.0, 2.0)
    )
    torch.testing.assert_close(twice, 2 * once)
    one_hot = Observation(torch.nn.functional.one_hot(y, 2).double(), Which(world))
    torch.testing.assert_close(ClassifierGuidance(exact_net(world))(pred, one_hot), once)


class DoubleWhich(Which):
    """At a little noise, so that its logarithm is smooth."""

    def log_probs(self, x, alpha=0.9, sigma=0.4):
        return super().log_probs(x, alpha, sigma)


def test_a_trained_classifier_approaches_the_exact_one():
    """250 steps of cross-entropy: |p(c | x_t) - exact| is below 0.03 on average at every noise level, where a guess of
    the classes' shares is 0.4 off at low noise; drawn with it, the samples' mean is the component's within 0.1."""
    world, schedule = two_modes(distance=1.5), VPCosine()
    x = world.sample(20_000, 1).float()
    like = Which(world)
    h = ClassifierGuidance(build_classifier((2,), 2, width=32))
    assert float(h.log_probs(x[:4], torch.ones(1, 1), torch.ones(1, 1)).detach().exp().std()) == 0
    data = Pairs(x, Observation(like.sample(x.double(), Noise(2, len(x))), like))
    config = FitConfig(steps=250, batch=128, lr=5e-3, warmup=20, ema=0.98, evaluations=1)
    fit(h, NoisyClassifierObjective(schedule), data, config=config, device="cpu", progress=False)
    for t in (0.05, 0.3, 0.6, 0.9):
        a, s = (f(torch.tensor(t)).reshape(1, 1).float() for f in (schedule.alpha, schedule.sigma))
        x_t = a * world.sample(2000, 3).float() + s * Noise(4, 2000).normal((2,))
        exact = world.mixture.given(x_t, a, s)[0].exp()
        with torch.no_grad():
            p = h.log_probs(x_t, a, s).exp()
        assert float((p - exact).abs().mean()) < 0.04, t
        if t < 0.1:
            assert float((exact - world.mixture.weights.float()).abs().mean()) > 0.35
    drawn = sample(
        condition(world.prior(schedule), h, Observation(torch.zeros(500, dtype=torch.long), like)), 500, steps=30
    )
    assert float((drawn.double().mean(0) - world.mixture.means[0]).abs().max()) < 0.1


def test_labels_and_shapes():
    assert shares(torch.tensor([[1], [0]]), 2).tolist() == shares(torch.tensor([1, 0]), 2).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(InputError, match="whole numbers"):
        shares(torch.tensor([0.5, 1.0]), 3)
    net = build_classifier((3, 16, 16), 5, width=8)
    assert isinstance(net, HalfUNet)
    assert torch.equal(net(torch.randn(2, 3, 16, 16), torch.zeros(2)), torch.zeros(2, 5))
    with pytest.raises(InputError, match="give your own network"):
        build_classifier((3, 4), 2)
    with pytest.raises(ContractError, match=r"returned shape \(2,\), expected \(2, classes\)"):
        ClassifierGuidance(lambda x, t: x[:, 0]).log_probs(torch.zeros(2, 2), torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(InputError, match="trains a ClassifierGuidance"):
        NoisyClassifierObjective(VPCosine())(
            Zero(),
            Pairs(torch.zeros(2, 2), Observation(torch.zeros(2), Which(two_modes()))).draw(2, 0, 0, CPU),
            BatchNoise(2, 0),
        )
