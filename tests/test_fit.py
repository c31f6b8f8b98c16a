"""The training function: resume is bitwise, the last good state survives, the data come as promised."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import nn

from deft import (
    DEFT,
    DenoisingObjective,
    FitConfig,
    Gaussian,
    Mask,
    NetworkDenoiser,
    Noise,
    Observation,
    VPCosine,
    fit,
    freeze,
)
from deft.core.random import BatchNoise
from deft.errors import CheckpointError, InputError, NonFiniteError
from deft.nn import MLP
from deft.testing import half_seen
from deft.train.cache import PredictionCache
from deft.train.data import Clean, Pairs
from deft.train.denoising import WEIGHTINGS, PriorObjective, draw_times
from deft.train.fit import Interrupted, pick_device, place_of
from deft.train.protocols import Loss

D, CPU = 6, torch.device("cpu")
X = torch.randn(50, D, generator=torch.Generator().manual_seed(0))
LIKE = Gaussian(Mask(torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 1.0]])), 0.2)
CONFIG = FitConfig(steps=12, batch=8, warmup=2, evaluations=3, saves=6, held_out_batches=2, ema=0.9)


class Task:
    def observe(self, x, noise):
        return Observation(LIKE.sample(x, noise), LIKE)


class Breaks:
    """An objective that does something else at its call number `at` (training calls; held-out evaluations are not)."""

    def __init__(self, objective, at, do):
        self.objective, self.at, self.do, self.calls = objective, at, do, 0

    def __call__(self, module, batch, noise):
        self.calls += module.training
        loss = self.objective(module, batch, noise)
        return self.do(loss) if module.training and self.calls == self.at else loss


def interrupt(loss):
    raise KeyboardInterrupt


def parts():
    torch.manual_seed(3)
    prior = freeze(NetworkDenoiser(MLP(D, D, width=16), VPCosine(), (D,)))
    return DEFT((D,), 2, width=16), DenoisingObjective(prior)


def run(h, objective, config=CONFIG, data=None, **options):
    data = data or Clean(X, Task())
    return fit(h, objective, data, Clean(X[:20], Task()), config=config, device="cpu", progress=False, **options)


def same(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("at", [1, 6, 12])
def test_resume_is_bitwise(tmp_path, at):
    """Ctrl-C inside step `at`, then resume: the same weights, bit for bit, as a fit that was never stopped."""
    whole, objective = parts()
    expected = run(whole, objective)
    h, objective = parts()
    with pytest.raises(Interrupted, match=rf"stopped at step {at - 1} of 12"):
        run(h, Breaks(objective, at, interrupt), folder=tmp_path)
    again, objective = parts()
    result = run(again, objective, folder=tmp_path, resume=True)
    assert same(whole, again)
    assert result.held_out == expected.held_out and result.weights == expected.weights
    assert [row["step"] for row in result.history] == [4, 8, 12]


def test_resume_twice_and_after_the_end(tmp_path):
    whole, objective = parts()
    run(whole, objective)
    for at, resume in ((4, False), (3, True)):
        h, objective = parts()
        with pytest.raises(Interrupted):
            run(h, Breaks(objective, at, interrupt), folder=tmp_path, resume=resume)
    for _ in range(2):
        h, objective = parts()
        run(h, objective, folder=tmp_path, resume=True)
        assert same(whole, h)


def test_ctrl_c_without_a_folder_is_ctrl_c():
    h, objective = parts()
    with pytest.raises(KeyboardInterrupt) as caught:
        run(h, Breaks(objective, 3, interrupt))
    assert not isinstance(caught.value, Interrupted)


def test_other_settings_are_refused(tmp_path):
    h, objective = parts()
    run(h, objective, folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"other settings.*lr.*0.002"):
        run(h, objective, FitConfig(**{**CONFIG.__dict__, "lr": 1e-4}), folder=tmp_path, resume=True)


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_truncated_state_is_refused(tmp_path, keep):
    h, objective = parts()
    run(h, objective, folder=tmp_path)
    path = tmp_path / "state.pt"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(CheckpointError, match=r"truncated"):
        run(h, objective, folder=tmp_path, resume=True)


def test_nothing_to_resume(tmp_path):
    h, objective = parts()
    with pytest.raises(CheckpointError, match=r"nothing to resume"):
        run(h, objective, folder=tmp_path, resume=True)


def nan_loss(loss):
    return Loss(loss.value * math.nan, {**loss.metrics, "the culprit": torch.tensor(math.nan)})


class NaNGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * math.nan


def nan_gradient(loss):
    return Loss(NaNGradient.apply(loss.value), loss.metrics)


@pytest.mark.parametrize(
    ("do", "says"), [(nan_loss, "step 7; first non-finite term: the culprit"), (nan_gradient, "step 7")]
)
def test_last_good_state_survives(tmp_path, do, says):
    """A loss, or a gradient alone, that is not a number stops the fit by name; the saved state is finite."""
    h, objective = parts()
    with pytest.raises(NonFiniteError, match=says):
        run(h, Breaks(objective, 8, do), folder=tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 6
    assert all(bool(torch.isfinite(v).all()) for k in ("raw", "ema") for v in state[k].values())
    again, objective = parts()
    assert run(again, objective, folder=tmp_path, resume=True).steps == 12


def test_max_seconds():
    """Stops in time, with the learning rate brought down on the way; a held-out score all the same."""
    h, objective = parts()
    started = time.monotonic()
    result = run(h, objective, FitConfig(steps=10**6, batch=8, max_seconds=1.0, held_out_batches=1))
    assert 0.9 < time.monotonic() - started < 10
    assert 0 < result.steps < 10**6 and math.isfinite(result.held_out["ema"])
    assert CONFIG.rate(1.0, 100) == 0 and CONFIG.rate(0.0, 100) == CONFIG.lr
    assert CONFIG.rate(0.0, 0) == pytest.approx(CONFIG.lr / 2)


class Towards(nn.Module):
    """One number, which the objective asks to be 1 in training and `held_out` afterwards."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))


@pytest.mark.parametrize(("held_out", "winner"), [(1.0, "raw"), (-1.0, "ema")])
def test_the_better_of_raw_and_averaged_weights(held_out, winner):
    """The average lags behind: it is the worse one if the held-out data agree with training, and else the better."""
    module = Towards()

    def objective(m, batch, noise):
        return Loss((m.value - (1.0 if m.training else held_out)).square(), {})

    config = FitConfig(steps=20, batch=2, lr=0.02, warmup=1, ema=0.99)
    result = fit(module, objective, Clean(X), Clean(X), config=config, device="cpu", progress=False)
    assert result.weights == winner and result.held_out[winner] == min(result.held_out.values())
    assert float((module.value.detach() - held_out).square()) == pytest.approx(result.held_out[winner])
    assert not module.training


def test_every_row_once_an_epoch():
    data = Clean(torch.arange(10.0)[:, None])
    seen = torch.cat([data.draw(4, 0, step, CPU).x[:, 0] for step in range(10)])
    for epoch in seen.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:20].tolist()
    assert torch.equal(Clean(torch.arange(10.0)[:, None]).draw(4, 0, 7, CPU).x[:, 0], seen[28:32])  # no memory
    assert data.draw(4, 0, -2, CPU).x[:, 0].tolist() == [4, 5, 6, 7]
    with pytest.raises(InputError, match=r"0 samples"):
        Clean(torch.zeros(0, 1))


def test_fresh_measurements_and_fixed_pairs():
    fresh = Clean(X, Task())
    first, second = fresh.draw(50, 0, 0, CPU), fresh.draw(50, 0, 1, CPU)
    assert not torch.equal(first.observation.y.sort(0).values, second.observation.y.sort(0).values)
    assert torch.equal(fresh.draw(50, 0, 0, CPU).observation.y, first.observation.y)

    sigma = torch.linspace(0.1, 0.6, 50)
    like = Gaussian(LIKE.operator, sigma)
    pairs = Pairs(X, Observation(LIKE.sample(X, Noise(1, 50)), like))
    batch = pairs.draw(8, 0, 3, CPU)
    for x, y, s in zip(batch.x, batch.observation.y, batch.observation.likelihood.sigma_y, strict=True):
        row = int((x == X).all(1).nonzero())
        assert torch.equal(y, pairs.observation.y[row]) and float(s) == float(sigma[row])
    with pytest.raises(InputError, match=r"50 samples but 3 observations"):
        Pairs(X, pairs.observation[:3])


def test_bank_holds_the_priors_predictions():
    _, objective = parts()
    bank = PredictionCache.build(objective.prior, X, Task(), 120, chunk=32)
    batch = bank.draw(16, 0, 5, CPU)
    p = batch.prediction
    again = objective.prior(p.x_t, p.t)
    torch.testing.assert_close(p.mean, again.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(p.alpha, again.alpha)
    noise = (p.x_t - p.alpha * batch.x) / p.sigma  # x_t belongs to this x, and its noise is standard normal
    assert abs(float(noise.mean())) < 4 / math.sqrt(noise.numel())
    assert abs(float(noise.square().mean()) - 1) < 4 * math.sqrt(2 / noise.numel())
    assert sorted(set(bank.rows.bincount(minlength=len(X)).tolist())) == [2, 3]


@pytest.mark.parametrize(("focus", "even"), [(1.0, 0.0), (3.0, 0.0), (3.0, 0.5), (1.0, 1.0)])
def test_bank_gives_the_same_loss(focus, even):
    """Over a whole bank the loss of a fixed h agrees with fresh draws, within 4 standard errors of both."""
    world, obs = half_seen(4)
    prior, like = world.prior(VPCosine()), obs.likelihood

    class Field:
        def observe(self, x, noise):
            return Observation(like.sample(x, noise), like)

    x, objective = world.sample(2000).float(), DenoisingObjective(prior, focus=focus, even=even)
    bank, fresh = PredictionCache.build(prior, x, Field(), 2000, focus=focus, even=even), Clean(x, Field())
    losses = []
    for data in (bank, fresh):
        prediction, _, error = objective.errors(world.h, data.draw(2000, 0, 0, CPU), BatchNoise(2000, 0, 0, 1))
        losses.append(WEIGHTINGS["v"](prediction.alpha, prediction.sigma).flatten() * error)
    difference = float(losses[0].mean() - losses[1].mean())
    assert abs(difference) < 4 * math.sqrt(sum(float(v.var()) / 2000 for v in losses))


def test_times_are_stratified():
    t = draw_times(VPCosine(), BatchNoise(100, 0)).sort().values
    slices = torch.arange(100) / 100
    assert bool(((t >= slices) & (t < slices + 0.0101)).all())


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0.0}, {"batch": 0}, {"saves": 0}])
def test_bad_settings(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        FitConfig(**bad)


def test_even_draws_are_even_in_the_logarithm_of_the_noise():
    """even = 1: log(sigma/alpha) is uniform on (-3.5, 3), one draw a slice; even = 0.5: half of them, the rest as
    before."""
    schedule, n = VPCosine(), 1000
    every = -schedule.log_snr(draw_times(schedule, BatchNoise(n, 0), 3.0, 1.0)) / 2
    slices = torch.linspace(-3.5, 3.0, n + 1, dtype=torch.float64)
    assert bool(((every >= slices[:-1] - 1e-6) & (every <= slices[1:] + 1e-6)).all())
    half = draw_times(schedule, BatchNoise(n, 0), 3.0, 0.5)
    level = -schedule.log_snr(half[:500]) / 2
    assert float(level.mean()) == pytest.approx(-0.25, abs=0.01)
    assert float(half[500:].mean()) == pytest.approx(
        float(draw_times(schedule, BatchNoise(n, 0), 3.0).mean()), abs=0.002
    )


def test_a_fit_goes_where_the_prior_is():
    """On a machine with a GPU a prior on the CPU must not meet an h on the GPU."""

    class With:
        prior = torch.nn.Linear(1, 1, device="meta")

    assert place_of(With()).type == "meta"
    assert place_of(PriorObjective()) == pick_device()
