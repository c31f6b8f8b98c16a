"""Mutations that must turn the tests red.

`truth_*` are fast checks against something known in closed form; each mutation is a mistake that somebody has
made, or nearly, applied by monkeypatching, with the truth that must catch it. All truths pass unmutated.
"""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch

from deft.core import transition as kernel
from deft.core.condition import condition
from deft.core.denoiser import Prediction
from deft.core.grid import times
from deft.core.random import BatchNoise, Noise, generator
from deft.core.transition import Level, ddim, ito, log_ratio, shift
from deft.denoiser.parametrisation import OUTPUTS, parametrisation
from deft.guidance import DPS, ExactInside, ExactMixture, PiGDM, ReconstructionGuidance
from deft.guidance.combine import Clipped, Scaled
from deft.guidance.exact import Mixture
from deft.learned import DEFT
from deft.learned.deft import Multiplier
from deft.likelihood import Gaussian, Observation
from deft.operator import BlockAverage, Mask, Matrix
from deft.samplers import DDIM, Ancestral, DPMpp2M, Heun, Ito, ode, path, sample, sde, weighted_paths
from deft.schedule import SCHEDULES, VE, VPCosine, VPLinear, VPTable
from deft.testing import (
    InsideWorld,
    MixtureWorld,
    check_htransform,
    check_likelihood,
    check_operator,
    flow,
    moments,
    schedules,
)
from deft.train import denoising
from deft.train.protocols import Batch

F64 = torch.float64


def tensor(*rows):
    return torch.tensor(rows, dtype=F64)


WORLD = MixtureWorld(Mixture(tensor(1.0), tensor([0.4, -0.3]), tensor([[0.5, 0.2], [0.2, 0.4]])))


def observation(n=1):
    like = Gaussian(Matrix(tensor([1.0, -0.5])), torch.tensor(0.3, dtype=F64))
    return Observation(tensor([0.6]).repeat(n, 1), like)


def close(got, expected, most):
    got, expected = torch.as_tensor(got, dtype=F64), torch.as_tensor(expected, dtype=F64)
    assert float((got - expected).abs().max()) <= most, f"got {got.tolist()}, expected {expected.tolist()}"


# The truths.


def truth_posterior(sampler, schedule=None):
    """Exact mean and deviation of 160 conditioned steps: the posterior's, to 3 % of a deviation."""
    schedule = schedule or VPCosine()
    exact = WORLD.posterior(observation())
    denoiser = condition(WORLD.prior(schedule), ExactMixture(WORLD.mixture), observation(5))
    mean, covariance = moments(denoiser, sampler, times(schedule, 160))
    close((mean - exact.mean) / exact.std, tensor(0.0, 0.0), 0.03)
    close(covariance.diagonal().sqrt() / exact.std, tensor(1.0, 1.0), 0.03)


def truth_posterior_ancestral():
    truth_posterior(Ancestral())


def truth_posterior_ddim():
    truth_posterior(DDIM(0.7))


def truth_posterior_ito():
    truth_posterior(Ito())


def truth_posterior_ve():
    truth_posterior(Heun(), VE())


def truth_order(sampler=None):
    """Halving the steps of a second-order sampler costs a factor of 4 (within 25 %) against the exact flow."""
    prior, schedule, x = WORLD.prior(VPCosine()), VPCosine(), torch.randn(4, 2, dtype=F64)
    m, c = WORLD.mixture.means[0], WORLD.mixture.covariances[0]
    errors = []
    for n in (40, 80):
        t = schedule.time_of(-2 * torch.linspace(math.log(8.0), math.log(0.05), n + 1, dtype=F64))
        a, s = schedule.log_alpha(t).exp(), schedule.log_sigma(t).exp()
        grid = [Level(*row) for row in torch.stack([t, a, s], 1).tolist()]
        errors.append(
            float((sample(prior, 4, sampler=sampler, grid=grid, x=x) - flow(m, c, x, grid[0], grid[-1])).norm())
        )
    close(errors[0] / errors[1], 4.0, 1.0)


def truth_order_heun():
    truth_order(Heun())


def truth_order_dpmpp():
    truth_order(DPMpp2M())


def truth_weights():
    """log w of the exact h over 100 Itô steps: its variance is small, and its mean weight the evidence of the
    prior as drawn, within 5 standard errors of 256 paths."""
    n, grid = 256, times(VPCosine(), 100, "log-snr")
    prior = WORLD.prior(VPCosine())
    m, c = moments(prior, Ito(), grid)
    drawn = MixtureWorld(Mixture(tensor(1.0), m[None], c[None])).posterior(observation()).log_evidence
    w = weighted_paths(condition(prior, ExactMixture(WORLD.mixture), observation(n)), Noise(0, n), Ito(), grid)[1]
    assert float(w.var()) < 0.072  # 0.057 here; known to 9 %
    close(torch.logsumexp(w - drawn, 0) - math.log(n), 0.0, 5 * float((w - drawn).exp().std()) / math.sqrt(n))


def truth_marginals():
    """If the mean is x_0, every kernel keeps the forward process' marginals, and Itô's noise is the forward one."""
    grid = times(VPCosine(), 6)
    for t, s in pairwise(grid[:-1]):
        for k in (ode.ddim(t, s, 0.5), sde.ancestral(t, s)):
            close([k.c_x * t.alpha + k.c_mean, (k.c_x * t.sigma) ** 2 + k.std**2], [s.alpha, s.sigma**2], 1e-9)
        r = t.alpha / s.alpha
        close((r * sde.ito(t, s).std) ** 2 + (r * s.sigma) ** 2, t.sigma**2, 1e-9)


def truth_schedules():
    """alpha^2 + sigma^2 = 1 for VP; VPTable is DDPM's table; VPLinear's beta integral by hand."""
    for name, schedule in schedules().items():
        t = torch.linspace(schedule.t_min, schedule.t_max, 9, dtype=F64)[1:]
        assert bool((schedule.log_snr(t).diff() < 0).all())
        if name.startswith("vp"):
            close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones(8), 1e-9)
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=F64)
    close(VPTable.linear().alpha(tensor(0.0, 500.0)) ** 2, torch.cumprod(1 - betas, 0)[[0, 500]], 1e-9)
    close(VPLinear().alpha(tensor(0.5)), [math.exp(-(0.1 * 0.5 + 19.9 * 0.125) / 2)], 1e-9)


def truth_prediction():
    """Tweedie in a Gaussian world: the score is that of N(alpha m, alpha^2 C + sigma^2 I)."""
    m, c = WORLD.mixture.means[0], WORLD.mixture.covariances[0]
    x = tensor([0.5, 1.0], [-1.0, 0.2])
    pred = WORLD.prior(VPCosine())(x, tensor(0.6)[0])
    a, s = float(pred.alpha), float(pred.sigma)
    exact = torch.linalg.solve(a * a * c + s * s * torch.eye(2, dtype=F64), (a * m - x).mT).mT
    close(pred.score, exact, 1e-6)
    h = torch.ones_like(x)
    close(pred.corrected(h).score, exact + h, 1e-6)


def truth_outputs():
    """mean = c_skip x_t + c_out output is x_0 for outputs made from x_0 and n by their definitions."""
    a, s, x0, n = 0.6, 0.8, 1.3, -0.4
    made = {"x0": x0, "eps": n, "v": a * n - s * x0, "score": -n / s, "flow": n - x0}
    for kind, out in made.items():
        skip, scale = parametrisation(kind)
        close(float(skip(a, s)) * (a * x0 + s * n) + float(scale(a, s)) * out, x0, 1e-9)


def truth_operators():
    check_operator(Mask(torch.tensor([[1.0, 0.0, 1.0, 0.0]])), (4,))
    check_operator(BlockAverage(2), (1, 4, 4))
    check_operator(Matrix(tensor([1.0, 2.0], [0.0, -1.0])), (2,))


def truth_mask():
    """1 is seen, 0 is hidden."""
    close(Mask(torch.tensor([[1.0, 0.0]]))(tensor([3.0, 5.0])), tensor([3.0, 0.0]), 0)


def truth_likelihood():
    check_likelihood(Gaussian(Mask(torch.tensor([[1.0, 0.0, 1.0]])), 0.3), (3,))
    x = torch.zeros(1, 3, dtype=F64)
    y = Gaussian(Mask(torch.tensor([[1.0, 0.0, 1.0]])), 0.3).sample(x, Noise(0, 1))
    assert float(y[0, 1]) == 0, "noise in the hole"


def many(n=16):
    like = observation().likelihood
    return Observation(like.sample(WORLD.sample(n, 1), Noise(2, n)), like)


def truth_guidance():
    """ΠGDM in its own world, N(0, I): exactly h. DPS and reconstruction guidance against formulas by hand, J =
    alpha."""
    obs, a = many(), tensor([1.0, -0.5])
    unit = MixtureWorld(Mixture(tensor(1.0), torch.zeros(1, 2, dtype=F64), torch.eye(2, dtype=F64)[None]))
    x = torch.randn(16, 2, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pred = unit.prior(VPCosine())(x, tensor(0.5)[0])
    r, alpha = obs.y - pred.mean @ a.mT, float(pred.alpha)
    close(PiGDM()(pred, obs).detach(), unit.h(pred, obs), 1e-6)
    pred = unit.prior(VPCosine())(x, tensor(0.5)[0])
    close(DPS(0.7)(pred, obs).detach(), (0.7 * alpha * r.sign() * a).detach(), 1e-5)
    pred = unit.prior(VPCosine())(x, tensor(0.5)[0])
    close(ReconstructionGuidance()(pred, obs).detach(), (alpha * r * a / 0.3**2).detach(), 1e-5)
    check_htransform(PiGDM(), WORLD.prior(VPCosine()), obs)


def truth_event():
    """h of the event x_0 > 0.5 pulls upwards, by the inverse Mills ratio."""
    world = InsideWorld(0.5, math.inf)
    pred = world.prior(VPCosine())(tensor([0.0]), tensor(0.5)[0])
    a, s = float(pred.alpha), float(pred.sigma)
    std = s / math.sqrt(a * a + s * s)
    z = 0.5 / std
    mills = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / (0.5 * math.erfc(z / math.sqrt(2)))
    close(ExactInside()(pred, world.observation(1)), a / (a * a + s * s) / std * mills, 1e-5)


def truth_streams():
    whole = Noise(0, 3).normal((4,))
    assert torch.equal(Noise(0, [2]).normal((4,)), whole[2:]), "a sample's numbers depend on its batch"
    close(Noise(0, 4000).normal((2,)).std(), 1.0, 0.04)
    assert len({float(torch.rand((), generator=generator(*k))) for k in [(1,), (1, 0), (0, 1)]}) == 3


def truth_start():
    """The untrained DEFT (n2 = 1) points to the data."""
    for units in ("v", "eps"):
        check_htransform(DEFT((2,), 1, width=8, units=units).double(), WORLD.prior(VPCosine()), many_lifted())


def many_lifted(n=16):
    like = Gaussian(Mask(torch.tensor([[1.0, 0.0]])), 0.3)
    like.feature_channels, like.operator.features = 1, like.operator.pinv  # one channel is enough here
    return Observation(like.sample(WORLD.sample(n, 1), Noise(2, n)), like)


def truth_guide():
    """The first step along an untrained DEFT, of every form, lowers |A x̂ - y|^2: for each measurement that the prior's
    mean misses."""
    obs, prior = many_lifted(), WORLD.prior(VPCosine())
    x = torch.randn(16, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    for units, guide, gate in product(("v", "eps"), ("preconditioned", "score"), (True, False)):
        h = DEFT((2,), 1, width=8, units=units, guide=guide, gate=gate).double().eval()
        for t in (0.1, 0.5, 0.9):
            pred = prior(x, tensor(t)[0])
            with torch.no_grad():
                value = h(pred, obs)
            step = 1e-3 * value * pred.mean.norm() / value.norm()
            before, after = (
                obs.likelihood.residual(obs.y, v).square().flatten(1).sum(1) for v in (pred.mean, pred.mean + step)
            )
            assert bool((after < before).all()), (
                f"{units}, {guide}, t = {t}: the untrained h leads away from the measurement"
            )


def truth_clipped():
    """`Clipped`: |sigma h| is at most `most` times |eps|, sample by sample; an h below that is left as it is, and a
    longer one keeps its direction."""
    obs, prior = many(), WORLD.prior(VPCosine())
    x = 1.5 * torch.randn(16, 2, dtype=F64, generator=torch.Generator().manual_seed(2))
    seen = set()
    for t in (0.02, 0.1, 0.5, 0.9):
        for most in (0.05, 0.3, 1.0):
            pred = prior(x.clone().requires_grad_(), tensor(t)[0])
            plain = ExactMixture(WORLD.mixture)(pred, obs).detach()
            pred = prior(x.clone().requires_grad_(), tensor(t)[0])
            got = Clipped(ExactMixture(WORLD.mixture), most)(pred, obs).detach()
            size, limit = (pred.sigma * plain).norm(dim=1), most * pred.eps.detach().norm(dim=1)
            close((pred.sigma * got).norm(dim=1), torch.minimum(size, limit), 1e-9)
            close(got, plain * (limit / size).clamp_max(1.0)[:, None], 1e-7)
            seen |= set((size > limit).tolist())
    assert seen == {True, False}


def truth_objective():
    """The exact h has a lower loss than itself scaled by 0.9 or 1.1 (the same draws: differences are significant)."""
    n, prior = 4000, WORLD.prior(VPCosine())
    x = WORLD.sample(n, 3)
    like = observation().likelihood
    batch = Batch(x, Observation(like.sample(x, Noise(4, n)), like))
    objective = denoising.DenoisingObjective(prior)
    losses = [float(objective(_scaled(c), batch, BatchNoise(n, 5)).value) for c in (0.9, 1.0, 1.1)]
    assert losses[1] < min(losses[0], losses[2]), losses


def _scaled(c):
    return Scaled(ExactMixture(WORLD.mixture), c)


TRUTHS = [
    v for k, v in list(globals().items()) if k.startswith("truth_") and k not in ("truth_posterior", "truth_order")
]


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda f: f.__name__)
def test_truth(truth):
    truth()


# The mutations: (what is wrong, where, what instead, the truth that must fail).


def scaled_kernel(rule, **factors):
    def wrong(*args, **kwargs):
        k = rule(*args, **kwargs)
        return k._replace(**{name: factor * getattr(k, name) for name, factor in factors.items()})

    return wrong


def corrected(change):
    """`Prediction.corrected` with another conversion of h."""
    return lambda p, h: Prediction(p.x_t, p.t, p.alpha, p.sigma, p.mean + change(p, h))


def sde_score(p):
    return p.eps / p.sigma


def wrong_ratio(cross, square):
    def ratio(k, moved, n):
        inner = (moved * n).flatten(1).sum(1)
        return cross * inner / k.std + square * moved.square().flatten(1).sum(1) / k.std**2

    return ratio


def one_generator(self, shape, *, device="cpu"):
    return torch.randn(len(self), *shape, generator=generator(self.seed, len(self)))


def heun_without_average(self, denoiser, x_t, t, s, noise, carry):
    return DDIM().step(denoiser, x_t, t, s, noise, None)


def dpmpp_without_history(self, denoiser, x_t, t, s, noise, carry):
    return DDIM().step(denoiser, x_t, t, s, noise, None)


def noise_everywhere(self, x, noise):
    y = self.operator(x)
    return y + self.sigma_y.to(y.dtype) * noise.normal(y.shape[1:]).to(y.dtype)


def swapped(schedule, x, noise, focus=1.0, even=0.0, prior=None):
    t = denoising.draw_times(schedule, noise)
    a, s = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    return s * x + a * noise.normal(x.shape[1:]).to(x.dtype), t, a, s


def clipped_by_h(self, pred, obs):
    """|h| in the place of sigma |h|."""
    h = self.h(pred, obs)
    limit = self.limit * pred.eps.flatten(1).norm(dim=1) / h.flatten(1).norm(dim=1).clamp_min(1e-30)
    return h * limit.clamp_max(1.0).reshape((-1,) + (1,) * (h.ndim - 1))


_deft = DEFT.forward
_log_h, _event, _pi = ExactMixture.log_h, ExactInside.log_h, PiGDM.log_h
_residual, _dps = Gaussian.residual, DPS.forward

MUTATIONS = {
    "sign of h": (
        Prediction,
        "corrected",
        corrected(lambda p, h: -(p.sigma**2 / p.alpha) * h),
        truth_posterior_ancestral,
    ),
    "h taken for eps": (Prediction, "corrected", corrected(lambda p, h: -p.sigma * h), truth_posterior_ancestral),
    "h without alpha": (Prediction, "corrected", corrected(lambda p, h: p.sigma**2 * h), truth_posterior_ito),
    "h without sigma^2": (Prediction, "corrected", corrected(lambda p, h: h / p.alpha), truth_posterior_ve),
    "h 10 % too strong": (
        Prediction,
        "corrected",
        corrected(lambda p, h: 1.1 * p.sigma**2 / p.alpha * h),
        truth_posterior_ddim,
    ),
    "correction in the score": (Prediction, "corrected", corrected(lambda p, h: p.sigma * h), truth_prediction),
    "sign of the score": (Prediction, "score", property(sde_score), truth_prediction),
    "DDIM std x 1.1": (ode, "ddim", scaled_kernel(ddim, std=1.1), truth_posterior_ddim),
    "DDIM std x 0.9": (ode, "ddim", scaled_kernel(ddim, std=0.9), truth_posterior_ddim),
    "ancestral std x 1.1": (sde, "ancestral", scaled_kernel(kernel.ancestral, std=1.1), truth_posterior_ancestral),
    "ancestral std x 0.9": (sde, "ancestral", scaled_kernel(kernel.ancestral, std=0.9), truth_posterior_ancestral),
    "Itô std x 1.1": (sde, "ito", scaled_kernel(ito, std=1.1), truth_posterior_ito),
    "Itô std x 0.9": (sde, "ito", scaled_kernel(ito, std=0.9), truth_posterior_ito),
    "Itô std x 1.1, weights": (sde, "ito", scaled_kernel(ito, std=1.1), truth_marginals),
    "c_mean x 1.02": (ode, "ddim", scaled_kernel(ddim, c_mean=1.02), truth_marginals),
    "c_mean x 1.02, Itô": (sde, "ito", scaled_kernel(ito, c_mean=1.02), truth_posterior_ito),
    "c_x x 0.99": (sde, "ancestral", scaled_kernel(kernel.ancestral, c_x=0.99), truth_posterior_ancestral),
    "sign of the cross term": (path, "log_ratio", wrong_ratio(1.0, -0.5), truth_weights),
    "square term forgotten": (path, "log_ratio", wrong_ratio(-1.0, 0.0), truth_weights),
    "square term doubled": (path, "log_ratio", wrong_ratio(-1.0, -1.0), truth_weights),
    "shift without alpha": (path, "shift", lambda k, t, h: k.c_mean * t.sigma**2 * h, truth_weights),
    "shift with the wrong sign": (path, "shift", lambda k, t, h: -shift(k, t, h), truth_weights),
    "alpha for its root": (VPLinear, "log_alpha", lambda self, t: -self._integral(t), truth_schedules),
    "beta's integral without 1/2": (
        VPLinear,
        "_integral",
        lambda self, t: self.beta_0 * t + 19.9 * t**2,
        truth_schedules,
    ),
    "table one index off": (
        VPTable,
        "_at",
        lambda self, t: self._logit[(t.long() + 1).clamp_max(999)],
        truth_schedules,
    ),
    "sigma of v with a plus": (OUTPUTS, "v", (lambda a, s: a, lambda a, s: s), truth_outputs),
    "flow backwards": (OUTPUTS, "flow", (lambda a, s: 1 / (a + s), lambda a, s: s / (a + s)), truth_outputs),
    "score without sigma": (OUTPUTS, "score", (lambda a, s: 1 / a, lambda a, s: s / a), truth_outputs),
    "mask upside down": (Mask, "__call__", lambda self, x: (1 - self.mask.to(x.dtype)) * x, truth_mask),
    "adjoint of the average without 1/f^2": (BlockAverage, "adjoint", BlockAverage.pinv, truth_operators),
    "matrix for its transpose": (Matrix, "adjoint", Matrix.__call__, truth_operators),
    "solve without the noise": (Mask, "solve", lambda self, r, noise, gram: r / gram, truth_operators),
    "likelihood's score without 1/sigma^2": (
        Gaussian,
        "score",
        lambda self, y, x: self.operator.vjp(x, self.residual(y, x)),
        truth_likelihood,
    ),
    "sign of the residual": (Gaussian, "residual", lambda self, y, x: -_residual(self, y, x), truth_likelihood),
    "pull the wrong way": (
        Gaussian,
        "approx_mean_update",
        lambda self, y, x, rho2: -rho2 * self.score(y, x),
        truth_start,
    ),
    "the untrained guide reversed": (DEFT, "forward", lambda self, p, o: -_deft(self, p, o), truth_guide),
    "n2 starts at -1": (Multiplier, "forward", lambda self, time: -torch.ones_like(time), truth_guide),
    "Clipped measures |h|": (Clipped, "forward", clipped_by_h, truth_clipped),
    "noise in the hole": (Gaussian, "sample", noise_everywhere, truth_likelihood),
    "sign of ΠGDM": (PiGDM, "log_h", lambda self, p, o: -_pi(self, p, o), truth_guidance),
    "ΠGDM of another data scale": (PiGDM, "log_h", lambda self, p, o: _pi(PiGDM(0.7), p, o), truth_guidance),
    "sign of DPS": (DPS, "forward", lambda self, p, o: -_dps(self, p, o), truth_guidance),
    "exact h of twice the noise": (
        ExactMixture,
        "log_h",
        lambda self, p, o: 0.5 * _log_h(self, p, o),
        truth_posterior_ancestral,
    ),
    "sign of the event": (ExactInside, "log_h", lambda self, p, o: -_event(self, p, o), truth_event),
    "one generator for the batch": (Noise, "normal", one_generator, truth_streams),
    "Heun without its second slope": (Heun, "step", heun_without_average, truth_order_heun),
    "multistep without its history": (DPMpp2M, "step", dpmpp_without_history, truth_order_dpmpp),
    "x_t with alpha and sigma swapped": (denoising, "diffuse", swapped, truth_objective),
    "objective pushes h the other way": (
        Prediction,
        "corrected",
        corrected(lambda p, h: -(p.sigma**2 / p.alpha) * h),
        truth_objective,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(name, monkeypatch):
    owner, attribute, instead, truth = MUTATIONS[name]
    if isinstance(owner, dict):
        monkeypatch.setitem(owner, attribute, instead)
    else:
        monkeypatch.setattr(owner, attribute, instead)
    with pytest.raises((AssertionError, RuntimeError, FloatingPointError)):
        truth()


def test_every_truth_catches_something():
    assert {truth for *_, truth in MUTATIONS.values()} | {truth_operators} == set(TRUTHS)
    assert len(SCHEDULES) == len(schedules())
    assert log_ratio is kernel.log_ratio
