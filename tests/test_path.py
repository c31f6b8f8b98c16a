"""Objectives on paths: their gradients against brute force, their minima against exact h, and their memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deft import FitConfig, Gaussian, Matrix, Observation, VPCosine, fit
from deft.core.grid import times
from deft.core.htransform import HTransform
from deft.core.likelihood import Tempered
from deft.core.random import BatchNoise, RowNoise
from deft.core.transition import log_ratio
from deft.denoiser import MeanDenoiser
from deft.errors import ContractError, InputError
from deft.guidance import PiGDM
from deft.guidance.combine import Scaled
from deft.guidance.exact import Mixture
from deft.likelihood import Classifier, Poisson, Reward
from deft.operator import Operator
from deft.samplers import DDIM, Ito
from deft.testing import MixtureWorld, moments
from deft.train import path
from deft.train.measured import Measured, temper
from deft.train.path import (
    AdjointMatching,
    Control,
    LogVariance,
    RelativeEntropy,
    Replay,
    TrajectoryBalance,
    simulate,
    simulate_backward,
)
from deft.train.protocols import Batch
from deft.train.value import SubTrajectoryBalance, Value

F64 = torch.float64
STEPS = 8


def tensor(*rows):
    return torch.tensor(rows, dtype=F64)


MEAN, VARIANCE = tensor(0.3, -0.2), tensor(0.25, 0.16)
WORLD = MixtureWorld(Mixture(tensor(1.0), MEAN[None], torch.diag(VARIANCE)[None]))
# WORLD's, in fewer operations
PRIOR = MeanDenoiser(lambda x, a, s: MEAN + VARIANCE * a * (x - a * MEAN) / (VARIANCE * a**2 + s**2), VPCosine(), (2,))
DIRECTION = tensor(1.0, 0.5)
OBS = Observation(tensor([0.9]), Gaussian(Matrix(DIRECTION[None]), torch.tensor(0.3, dtype=F64)))


class Small(HTransform):
    """h = (a + b log(sigma/alpha)) pull alpha/sigma^2 + c: four numbers to differentiate by hand."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(tensor(0.5, 0.1, 0.2, -0.3))

    def forward(self, pred, obs):
        a, s = pred.alpha, pred.sigma
        pull = (obs.y - pred.mean @ DIRECTION[:, None]) * DIRECTION * a / (s**2 + 0.1)
        return (self.theta[0] + self.theta[1] * torch.log(s / a)) * pull + self.theta[2:]


def batch(n, obs=OBS):
    return Batch(torch.empty(n, 0), obs.repeat(n))


def gradients(objective, module, batches=50, rows=128, seed=0):
    """Gradient of each of many batches, [batches, 4]."""
    theta = module.h.theta if isinstance(module, Control) else module.theta
    out = []
    for i in range(batches):
        loss = objective(module, batch(rows), BatchNoise(rows, seed, i))
        out.append(torch.autograd.grad(loss.value, theta)[0])
    return torch.stack(out)


@pytest.fixture(scope="module")
def brute():
    """d E[-log w] / d theta by central differences over the same 30,000 paths: mean and standard error, [4]."""
    n, d = 20_000, 1e-4
    grid = times(PRIOR.schedule, STEPS, "log-snr")
    columns = []
    for k in range(4):
        values = []
        for sign in (1, -1):
            h = Small()
            with torch.no_grad():
                h.theta[k] += sign * d
            w = simulate(PRIOR, h, OBS.repeat(n), BatchNoise(n, 5), grid, Ito())
            log_p = OBS.repeat(n).log_prob(w.x)
            values.append(w.cost - log_p)
        columns.append((values[0] - values[1]) / (2 * d))
    each = torch.stack(columns, 1)
    return each.mean(0), each.std(0) / math.sqrt(n)


OBJECTIVES = {
    "log variance": lambda: (LogVariance(PRIOR, STEPS), Small()),
    "log variance, three steps": lambda: (LogVariance(PRIOR, STEPS, subset=3), Small()),
    "balance": lambda: (TrajectoryBalance(PRIOR, STEPS), started(Small(), -1.0)),
    "balance, three steps": lambda: (TrajectoryBalance(PRIOR, STEPS, subset=3), started(Small(), -1.0)),
    "relative entropy": lambda: (RelativeEntropy(PRIOR, STEPS), Small()),
}


def started(h, log_z):
    module = Control(h, rate=1e-12)
    module.log_z.fill_(log_z)
    module.started.fill_(True)
    return module


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_unbiased(name, brute):
    """Every objective has the gradient of the control objective, on its own paths (Richter et al. 2020, proposition 1):
    within 4 SE."""
    objective, module = OBJECTIVES[name]()
    found = gradients(objective, module)
    mean, se = found.mean(0), found.std(0) / math.sqrt(len(found))
    true, true_se = brute
    assert bool(((mean - true).abs() < 4 * (se**2 + true_se**2).sqrt()).all()), (mean, se, true, true_se)
    assert float((se / true.abs()).max()) < 0.5  # so that a wrong factor of two would show


def test_without_the_priors_derivative_the_gradient_is_another(brute):
    found = gradients(RelativeEntropy(PRIOR, STEPS, through_prior=False), Small())
    mean, se = found.mean(0), found.std(0) / math.sqrt(len(found))
    assert float(((mean - brute[0]).abs() / (se**2 + brute[1] ** 2).sqrt()).max()) > 10


def test_without_the_priors_derivative_the_likelihood_still_pulls():
    """The clean end is the prior's mean alone: cut off, log p(y | x_0) had no gradient at all."""
    sharper = Observation(OBS.y, Gaussian(OBS.likelihood.operator, torch.tensor(0.1, dtype=F64)))
    seen = []
    for obs in (OBS, sharper):
        h = Small()
        RelativeEntropy(PRIOR, STEPS, through_prior=False)(h, batch(64, obs), BatchNoise(64, 0)).value.backward()
        seen.append(torch.cat([p.grad.flatten() for p in h.parameters()]))
    assert float((seen[1] - seen[0]).norm()) > 1


def mutations():
    """Each is a mistake that has been published or is near at hand; the gradient check must see it."""

    def wrong_sign(monkeypatch):
        monkeypatch.setattr(Observation, "log_prob", lambda self, x: -self.likelihood.log_prob(self.y, x))

    def sigma_for_variance(monkeypatch):
        monkeypatch.setattr(
            Gaussian,
            "log_prob",
            lambda self, y, x: -self.residual(y, x).square().flatten(1).sum(1) / (2 * self.deviation.to(y)),
        )

    def drawn_again(monkeypatch):
        monkeypatch.setattr(
            path.Step,
            "ratio",
            lambda self, h: log_ratio(
                self.kernel, path.shift(self.kernel, self.t, h), torch.randn_like(self.n), self.taken
            ),
        )

    def no_square(monkeypatch):
        def ratio(self, h):
            moved = path.shift(self.kernel, self.t, h)
            return -(moved * (self.taken + self.kernel.std * self.n)).flatten(1).sum(1) / self.kernel.std**2

        monkeypatch.setattr(path.Step, "ratio", ratio)

    def broadcast(monkeypatch):
        """A path's number times everybody's ratio."""
        kept = path.OffPolicy.differentiated
        monkeypatch.setattr(
            path.OffPolicy, "differentiated", staticmethod(lambda m, h, o, w, by, v: kept(m, h, o, w, by[:, None], v))
        )

    return {f.__name__: f for f in (wrong_sign, sigma_for_variance, drawn_again, no_square, broadcast)}


@pytest.mark.parametrize("name", mutations())
def test_the_gradient_check_sees_mistakes(name, brute, monkeypatch):
    mutations()[name](monkeypatch)
    torch.manual_seed(0)
    found = gradients(LogVariance(PRIOR, STEPS), Small(), batches=30)
    mean, se = found.mean(0), found.std(0) / math.sqrt(len(found))
    assert float(((mean - brute[0]).abs() / (se**2 + brute[1] ** 2).sqrt()).max()) > 6


def test_off_policy_values_have_the_gradients_they_say():
    """With paths of another control the value is a plain function of theta: its central difference is its gradient."""
    for make in (
        lambda b: LogVariance(PRIOR, STEPS, behaviour=b),
        lambda b: TrajectoryBalance(PRIOR, STEPS, behaviour=b),
    ):
        objective = make(Scaled(PiGDM(0.5), 0.7))
        for k in range(4):

            def value(sign, k=k, objective=objective):
                h = Small()
                with torch.no_grad():
                    h.theta[k] += sign * 1e-5
                module = started(h, -1.0) if isinstance(objective, TrajectoryBalance) else h
                loss = objective(module, batch(8), BatchNoise(8, 3))
                return float(loss.value.detach()), torch.autograd.grad(loss.value, h.theta)[0]

            numeric = (value(1)[0] - value(-1)[0]) / 2e-5
            assert numeric == pytest.approx(float(value(0)[1][k]), rel=1e-5)


def test_weights_of_another_controls_paths():
    """E[w] = p(y) under any behaviour: the ratio counts the shift that was taken."""
    n = 8000
    grid = times(PRIOR.schedule, 20, "log-snr")
    w = simulate(PRIOR, Small(), OBS.repeat(n), BatchNoise(n, 1), grid, Ito(), behaviour=Scaled(PiGDM(0.5), 0.8))
    m, c = moments(PRIOR, Ito(), grid)
    exact = MixtureWorld(Mixture(tensor(1.0), m[None], c[None])).posterior(OBS).log_evidence
    own = simulate(PRIOR, Small(), OBS.repeat(n), BatchNoise(n, 2), grid, Ito())
    # the weight under h of a path of the other's is not a weight of its law: reweighed by their ratio it is
    same = simulate(PRIOR, Small(), OBS.repeat(n), BatchNoise(n, 2), grid, Ito(), behaviour=Small())
    assert torch.allclose(own.log_weight, same.log_weight) and torch.allclose(own.cost, same.cost)
    mean, se = own.log_weight.exp().mean(), own.log_weight.exp().std() / math.sqrt(n)
    assert abs(float(mean) - math.exp(exact)) < 4 * float(se)
    assert bool(torch.isfinite(w.log_weight).all())


def test_the_exact_h_is_where_they_are_least():
    """Log variance and balance are 0 there up to the steps' error; adjoint matching has no gradient there."""
    h = WORLD.h
    for steps, most in ((25, 0.8), (100, 0.1)):
        grid = times(PRIOR.schedule, steps, "log-snr")
        w = simulate(PRIOR, _Detached(h), OBS.repeat(500), BatchNoise(500, 0), grid, Ito())
        assert float(w.log_weight.var()) < most
        assert float(w.log_weight.mean()) == pytest.approx(
            WORLD.posterior(OBS).log_evidence, abs=0.4 if steps < 50 else 0.1
        )


class _Detached(HTransform):
    """The exact h of a Gaussian world as a function of the prediction alone, times (1 + theta): no graph through the
    prior."""

    def __init__(self, h):
        super().__init__()
        self.h_exact, self.theta = h, nn.Parameter(torch.zeros(4, dtype=F64))

    def forward(self, pred, obs):
        with torch.enable_grad():
            x = pred.x_t.detach().requires_grad_()
            again = PRIOR(x, _time(pred))
            value = self.h_exact(again, obs).detach()
        return value * (1 + self.theta[0]) + self.theta[1]


def _time(pred):
    ratio = torch.log(pred.sigma / pred.alpha).reshape(-1)[0].double()
    return PRIOR.schedule.time_of(-2 * ratio)


def test_adjoint_matching_has_no_gradient_at_the_exact_h():
    """But for the error of the steps, which is of first order: three times the steps, a third of the gradient."""

    def gradient(steps, theta):
        h = _Detached(WORLD.h)
        with torch.no_grad():
            h.theta[:2] = theta
        found = gradients(AdjointMatching(PRIOR, steps), h, batches=4, rows=128)[:, 1]
        return float(found.mean()), float(found.std()) / 2

    (few, se_few), (many, se_many), (elsewhere, _) = gradient(12, 0.0), gradient(36, 0.0), gradient(36, 0.3)
    assert abs(many - few / 3) < 4 * math.hypot(se_few / 3, se_many) + 0.15 * abs(few)
    assert elsewhere > 5 * abs(many)


def test_a_part_of_a_batch_has_the_paths_it_has_in_the_whole():
    grid = times(PRIOR.schedule, 6, "log-snr")
    for source in (BatchNoise, RowNoise):
        whole = simulate(PRIOR, Small(), OBS.repeat(6), source(6, 0, 1), grid, Ito())
        part = simulate(PRIOR, Small(), OBS.repeat(3), source(6, 0, 1, rows=range(2, 5)), grid, Ito())
        assert torch.equal(whole.log_weight[2:5], part.log_weight)
    kl = RelativeEntropy(PRIOR, 6)
    whole = kl(Small(), batch(6), BatchNoise(6, 0, 1)).value
    parts = [kl(Small(), batch(3), BatchNoise(6, 0, 1, rows=r)).value for r in (range(3), range(3, 6))]
    assert float(whole.detach()) == pytest.approx(float(sum(parts).detach()) / 2, rel=1e-12)


def test_segments_are_what_the_chain_is():
    """A checkpointed segment that drew other noise the second time would have another gradient than its value."""

    def value(moved=0.0):
        h = Small()
        with torch.no_grad():
            h.theta[0] += moved
        loss = RelativeEntropy(PRIOR, 9)(h, batch(4), BatchNoise(4, 0)).value
        return float(loss.detach()), torch.autograd.grad(loss, h.theta)[0]

    assert (value(1e-5)[0] - value(-1e-5)[0]) / 2e-5 == pytest.approx(float(value()[1][0]), rel=1e-6)


def test_steps_can_be_drawn_and_are_the_same_for_every_part():
    objective = LogVariance(PRIOR, (5, 9), subset=2)
    counts = {len(objective.grid(BatchNoise(4, 0, i))) - 1 for i in range(40)}
    assert counts == set(range(5, 10))
    a, b = (BatchNoise(4, 0, 7, rows=r) for r in (range(2), range(2, 4)))
    assert objective.grid(a) == objective.grid(b) and objective.chosen(a, objective.grid(a)) == objective.chosen(
        b, objective.grid(b)
    )
    hits = torch.zeros(8)
    for i in range(400):
        noise = BatchNoise(4, 1, i)
        chosen, weight = LogVariance(PRIOR, 9, subset=2).chosen(noise, times(PRIOR.schedule, 9, "log-snr"))
        hits[chosen] += weight
    # weight 4, chosen with probability 1/4: variance 3
    assert bool((hits / 400 - 1).abs().max() < 4 * math.sqrt(3 / 400))


# ---------------------------------------------------------------- tempering and batches


def test_measured_repeats_one_and_takes_turns():
    two = Observation(tensor([0.9], [-0.2]), OBS.likelihood)
    batches = Measured(two)
    for step, which in ((0, 0), (1, 1), (2, 0), (-1, 0), (-2, 1)):
        drawn = batches.draw(3, 0, step, torch.device("cpu"))
        assert drawn.observation is not None and torch.equal(drawn.observation.y, two.y[which].expand(3, 1))


def test_tempering():
    x = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    hot = temper(OBS.repeat(5), 0.25)
    assert isinstance(hot.likelihood, Gaussian) and torch.allclose(hot.score(x), 0.25 * OBS.repeat(5).score(x))
    wrapped = Observation(OBS.repeat(5).y, Tempered(OBS.likelihood, 0.25).repeat(5))
    assert torch.allclose(wrapped.score(x), hot.score(x)) and torch.allclose(
        wrapped.log_prob(x), 0.25 * OBS.repeat(5).log_prob(x)
    )
    batches = Measured(OBS, warm=10, cold=1e-2)
    assert (
        batches.beta(0) == pytest.approx(1e-2)
        and batches.beta(5) == pytest.approx(1e-1)
        and batches.beta(10) == 1
        and batches.beta(-1) == 1
    )


# ---------------------------------------------------------------- learning


class Tiny(HTransform):
    """A network from (x_t, log(sigma/alpha)) to h, in units in which h is of order one; 0 at first."""

    def __init__(self, dim=2, width=32):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, dim)
        ).double()
        nn.init.zeros_(self.net[-1].weight), nn.init.zeros_(self.net[-1].bias)

    def forward(self, pred, obs):
        a, s = pred.alpha, pred.sigma
        level = torch.log(s / a).expand(len(pred.x_t), 1)
        return self.net(torch.cat([pred.x_t, level], 1)) * a / (s**2 + 0.1 * a**2)


def learned(objective, world, prior, obs, *, steps, rows=64, chain=16, lr=1e-2, seed=0, dim=2, **options):
    torch.manual_seed(seed)
    h = Tiny(dim)
    module = Control(h) if objective is TrajectoryBalance else h
    config = FitConfig(
        steps=steps, batch=rows, lr=lr, warmup=20, ema=0.98, clip=1.0, seed=seed, evaluations=1, held_out_batches=1
    )
    fit(module, objective(prior, chain, **options), Measured(obs), Measured(obs), config=config, progress=False)
    return h, module


@pytest.mark.parametrize("objective", [LogVariance, TrajectoryBalance, RelativeEntropy, AdjointMatching])
def test_each_objective_learns_the_posterior(objective):
    """Two dimensions, one seen at a slant: log Z, mean and covariance of the posterior from the learned h alone."""
    h, module = learned(objective, WORLD, PRIOR, OBS, steps=160)
    n = 4000
    grid = times(PRIOR.schedule, 60, "log-snr")
    exact = WORLD.posterior(OBS)
    w, before = (simulate(PRIOR, c, OBS.repeat(n), BatchNoise(n, 99), grid, Ito()) for c in (h, Tiny()))
    assert float(w.log_weight.var()) < 0.1 * float(before.log_weight.var())
    assert float((w.x.mean(0) - exact.mixture.means[0]).abs().max()) < 0.06
    true = exact.mixture.covariances[0]
    assert float((torch.cov(w.x.T) - true).abs().max()) < 0.2 * float(true.abs().max())
    z = w.log_weight.exp()
    assert float(z.mean().log()) == pytest.approx(exact.log_evidence, abs=0.06)
    if objective is TrajectoryBalance:
        chain = simulate(PRIOR, h, OBS.repeat(n), BatchNoise(n, 98), times(PRIOR.schedule, 16, "log-snr"), Ito())
        # of the chain it was learned on
        assert float(module.log_z) == pytest.approx(float(chain.log_weight.mean()), abs=0.1)


# ---------------------------------------------------------------- replay


def test_paths_back_from_an_end_are_the_posteriors():
    """Ends from the exact posterior, noised, are paths of its measure: under the exact h their weights are log p(y), as
    its own paths' are."""
    n = 800
    ends = WORLD.posterior(OBS).sample(n, 3)
    for steps, most in ((20, 1.0), (80, 0.15)):
        grid = times(PRIOR.schedule, steps, "log-snr")
        w = simulate_backward(PRIOR, _Detached(WORLD.h), OBS.repeat(n), BatchNoise(n, 0), grid, Ito(), ends)
        assert float(w.log_weight.var()) < most
    assert float(w.log_weight.mean()) == pytest.approx(WORLD.posterior(OBS).log_evidence, abs=0.1)
    assert torch.allclose(w.x.mean(0), ends.mean(0), atol=0.05)


def test_a_step_back_is_weighed_as_what_it_is():
    """log(prior's step / corrected step) of the states themselves, by the two normal laws."""
    n, grid = 5, times(PRIOR.schedule, 6, "log-snr")
    w = simulate_backward(
        PRIOR, Small(), OBS.repeat(n), BatchNoise(n, 0), grid, Ito(), torch.zeros(n, 2, dtype=F64), keep={2}
    )
    (step,) = w.steps
    h = Small()(step.pred, OBS.repeat(n)).detach()
    x_s = step.kernel.step(step.pred.x_t, step.pred.mean, step.n)
    centre = step.kernel.step(step.pred.x_t, step.pred.mean, None)
    moved = path.shift(step.kernel, step.t, h)
    laws = [torch.distributions.Normal(m, step.kernel.std).log_prob(x_s).sum(1) for m in (centre, centre + moved)]
    assert torch.allclose(step.ratio(h), laws[0] - laws[1])


def test_replay_keeps_the_best_and_draws_them_more_often():
    kept = Replay(4, (2,), dtype=F64)
    kept.add(torch.arange(12, dtype=F64).reshape(6, 2), tensor(0.0, 5.0, 1.0, 4.0, 3.0, -math.inf))
    assert (
        kept.filled == 4
        and torch.equal(kept.log_weight, tensor(5.0, 4.0, 3.0, 1.0))
        and torch.equal(kept.x[0], tensor(2.0, 3.0))
    )
    drawn = kept.draw(4000, BatchNoise(4000, 0))[:, 0]
    shares = torch.tensor([float((drawn == v).double().mean()) for v in kept.x[:, 0]])
    expected = torch.arange(1, 5) ** -0.7
    assert torch.allclose(shares, expected / expected.sum(), atol=4 * 0.5 / math.sqrt(4000))


def test_a_replay_is_used_and_resumes(tmp_path):
    """Half of the rows come from it, and a fit that was broken off goes on bit for bit."""

    def make():
        torch.manual_seed(0)
        return Control(Tiny(width=8), replay=Replay(32, (2,), dtype=F64))

    def go(steps, folder=None, resume=False, module=None):
        config = FitConfig(steps=12, batch=8, lr=1e-2, warmup=1, evaluations=1, held_out_batches=1, saves=12)
        module = module or make()
        if steps < 12:
            with pytest.raises(_Stop):
                fit(
                    module,
                    _Stopping(LogVariance(PRIOR, 6), steps),
                    Measured(OBS),
                    config=config,
                    folder=folder,
                    progress=False,
                )
            return module
        fit(module, LogVariance(PRIOR, 6), Measured(OBS), config=config, folder=folder, resume=resume, progress=False)
        return module

    whole = go(12)
    assert whole.replay.filled == 32
    go(7, tmp_path)
    again = go(12, tmp_path, resume=True)
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


class _Stop(Exception):
    pass


class _Stopping:
    def __init__(self, objective, after):
        self.objective, self.left = objective, after

    def __call__(self, module, drawn, noise):
        if self.left == 0:
            raise _Stop
        self.left -= 1
        return self.objective(module, drawn, noise)


# ---------------------------------------------------------------- parts of paths


def part_control():
    return Control(Tiny(), replay=Replay(256, (2,), dtype=F64), value=Value((2,), data_std=0.5).double())


def test_parts_are_balanced_at_the_exact_h_and_value():
    """log F - log F - ratios is 0 for every part, up to the steps: with the closed-form p(y | x_t) for F."""

    class Exact(nn.Module):
        def forward(self, pred, obs):
            a, s = pred.alpha.reshape(-1)[0], pred.sigma.reshape(-1)[0]
            left = VARIANCE * s**2 / (VARIANCE * a**2 + s**2)  # variance of x_0 given x_t
            spread = DIRECTION.square() @ left + 0.3**2
            r = obs.y - pred.mean @ DIRECTION[:, None]
            return -0.5 * (r.square()[:, 0] / spread + torch.log(2 * math.pi * spread))

    values = []
    for steps in (20, 80):
        module = Control(_Detached(WORLD.h), replay=Replay(64, (2,), dtype=F64), value=Exact()).eval()
        objective = SubTrajectoryBalance(PRIOR, steps, length=steps // 4)
        with torch.no_grad():
            values.append(sum(float(objective(module, batch(64), BatchNoise(64, 1, i)).value) for i in range(12)) / 12)
    assert values[0] < 0.2 and values[1] < 0.5 * values[0]


def test_the_gradient_of_a_part_is_that_of_its_value():
    """A central difference of the value in F's own parameters, with the part's paths held fixed by a control that has
    none of them."""
    module = part_control()
    module.eval()
    module.replay.add(
        torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(0)), torch.zeros(64, dtype=F64)
    )
    objective = SubTrajectoryBalance(PRIOR, 12, length=3)
    bias = module.value.extra.bias
    for i in range(4):
        loss = objective(module, batch(8), BatchNoise(8, 0, i)).value
        slope = float(torch.autograd.grad(loss, bias)[0][0])
        ends = []
        for d in (1e-5, -1e-5):
            with torch.no_grad():
                bias += d
            ends.append(float(objective(module, batch(8), BatchNoise(8, 0, i)).value.detach()))
            with torch.no_grad():
                bias -= d
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_parts_teach_the_whole():
    """250 batches of 4 steps each: h samples the posterior, and F at the noisy end is log p(y)."""
    torch.manual_seed(0)
    module = part_control()
    config = FitConfig(steps=250, batch=64, lr=1e-2, warmup=20, ema=0.98, clip=100.0, evaluations=1, held_out_batches=1)
    fit(module, SubTrajectoryBalance(PRIOR, 16, length=4), Measured(OBS), config=config, progress=False)
    exact, n = WORLD.posterior(OBS), 4000
    w = simulate(PRIOR, module.h, OBS.repeat(n), BatchNoise(n, 99), times(PRIOR.schedule, 60, "log-snr"), Ito())
    assert float(w.log_weight.var()) < 1.0  # 29 at the start
    assert float((w.x.mean(0) - exact.mixture.means[0]).abs().max()) < 0.1
    top = times(PRIOR.schedule, 16, "log-snr")[0]
    x = top.sigma * torch.randn(64, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    at_top = module.value(PRIOR(x, torch.tensor(top.t, dtype=F64)), OBS.repeat(64))
    assert float(at_top.mean().detach()) == pytest.approx(exact.log_evidence, abs=0.4)


def test_refusals():
    with pytest.raises(InputError, match="at least 2 paths"):
        LogVariance(PRIOR, 5)(Small(), batch(1), BatchNoise(1, 0))
    with pytest.raises(InputError, match="steps must be at least 2"):
        LogVariance(PRIOR, 1)
    with pytest.raises(InputError, match="only under a sampler with noise"):
        LogVariance(PRIOR, 5, sampler=DDIM(eta=0.0))
    with pytest.raises(InputError, match="subset is for the other objectives"):
        RelativeEntropy(PRIOR, 5, subset=2)
    with pytest.raises(ContractError, match=r"Control\(h\)"):
        TrajectoryBalance(PRIOR, 5)(Small(), batch(2), BatchNoise(2, 0))
    with pytest.raises(ContractError, match="cannot be learned on paths"):
        LogVariance(PRIOR, 5)(PiGDM(), batch(2), BatchNoise(2, 0))
    with pytest.raises(ContractError, match="a batch of `Measured`"):
        LogVariance(PRIOR, 5)(Small(), Batch(torch.zeros(2, 2)), BatchNoise(2, 0))
    with pytest.raises(ContractError, match="ends to start from and a value"):
        SubTrajectoryBalance(PRIOR, 5)(Control(Small()), batch(2), BatchNoise(2, 0))
    with pytest.raises(InputError, match="beta must be above 0"):
        temper(OBS, 0.0)


def test_a_prior_that_is_cut_off_is_refused_where_its_derivative_is_wanted():
    cut = MeanDenoiser(lambda x, a, s: PRIOR.mean(x, a, s).detach(), VPCosine(), PRIOR.event_shape)
    assert path.has_derivative(PRIOR) and not path.has_derivative(cut)
    for objective in (RelativeEntropy, AdjointMatching):
        with pytest.raises(ContractError, match="cut off"):
            objective(cut, 4)(Small(), batch(4), BatchNoise(4, 0))
    RelativeEntropy(cut, 4, through_prior=False)(Small(), batch(4), BatchNoise(4, 0))


class Bent(Operator):
    """A(x) of one number, not linear; the derivative is the operator's own, by automatic differentiation."""

    def __call__(self, x):
        return (x @ DIRECTION[:, None]).tanh() + 0.2 * x[:, :1] ** 2

    def features(self, y):
        return y.expand(-1, 2)


class Pulled(Small):
    """What every learned h has: the likelihood's own pull, times something learned."""

    def forward(self, pred, obs):
        a, s = pred.alpha, pred.sigma
        rho2 = s**2 / (a**2 + s**2)
        pull = obs.likelihood.approx_mean_update(obs.y, pred.mean, rho2)
        return (self.theta[0] + self.theta[1] * torch.log(s / a)) * pull * a / (s**2 + 0.1) + self.theta[2:]


def scored():
    """Observations whose pull is of every kind there is: by matrices, through an operator's derivative, through log p
    itself."""
    classes = Classifier(lambda x: torch.stack([x.sin().sum(1), (x**2).sum(1)], 1), 2, (2,))
    return {
        "linear": OBS,
        "not linear": Observation(tensor([0.7]), Gaussian(Bent(), torch.tensor(0.3, dtype=F64))),
        "photons": Observation(tensor([0.4]), Poisson(Bent(), torch.tensor(20.0, dtype=F64))),
        "class": Observation(torch.zeros(1, 1, dtype=torch.long), classes),
        "reward": Observation(
            torch.zeros(1, 1, dtype=F64), Reward(lambda x: (2 * x).cos().sum(1) + x.sin().prod(1), 0.5, (2,))
        ),
    }


@pytest.mark.parametrize("kind", ["linear", "not linear", "photons", "class", "reward"])
def test_relative_entropy_is_differentiated_whole_whatever_the_likelihood(kind):
    """The loss of given noise is a function of h's numbers: its gradient is that of differences, also where h is made
    of the likelihood's score."""
    objective, h, given = RelativeEntropy(PRIOR, STEPS), Pulled(), batch(16, scored()[kind])

    def loss():
        return objective(h, given, BatchNoise(16, 0)).value

    found = torch.autograd.grad(loss(), h.theta)[0]
    for k in range(4):
        step = torch.zeros(4, dtype=F64)
        step[k] = 1e-4  # a classifier's log p is rounded in float32
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                h.theta += sign * step
                ends.append(float(loss()))
                h.theta -= sign * step
        assert float(found[k]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5, abs=1e-6)
