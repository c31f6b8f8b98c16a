"""ΠGDM, DDRM, DiffPIR and the gradient at x̂, line by line: each row's states against its algorithm, on the same noise.

Everything on the right-hand side is written here, from the papers and their authors' code, in their index notation
(abar_i of a DDPM table): dense matrices, float64, one sample at a time. The prior is a mixture of two Gaussians, so
that E[x_0 | x_t] is no linear function. States agree to 1e-6 at every level.

| row | algorithm |
|---|---|
| pigdm | Song, Vahdat, Mardani & Kautz 2023, algorithm 1, as in the authors' code (RED-diff, `pgdm`) |
| pigdm-score | the same paper, eq. 7, in DDIM's steps |
| ddrm | Kawar, Elad, Ermon & Song 2022, eq. 7 and 8, and which directions count as measured |
| diffpir | Zhu et al. 2023, algorithm 1 |
| gradient | this library's own: ΠGDM's belief without the prior's derivative |

The other rows are in `test_published_more.py`.
"""

from __future__ import annotations

import math

import pytest
import torch

from deft.core.condition import condition
from deft.core.denoiser import Prediction
from deft.core.grid import levels
from deft.guidance import DiffPIR, GradientAtMean, PiGDM
from deft.guidance.exact import Mixture
from deft.likelihood import Gaussian, Observation
from deft.methods import METHODS, Context, plan
from deft.operator import HDR, Matrix, Radon
from deft.samplers import DDIM, DDRM, DPMpp2M, sample
from deft.schedule import VPTable
from deft.testing import MixtureWorld
from toys import DoubleNoise

F64 = torch.float64
BETAS = torch.linspace(0.02, 0.5, 10, dtype=F64)
N = len(BETAS)
SCHEDULE = VPTable(BETAS.tolist())
GRID = levels(SCHEDULE, range(N - 1, -1, -1))
ABAR = torch.cat([torch.ones(1, dtype=F64), (1 - BETAS).cumprod(0)])
"""abar_0 = 1, then abar_1 .. abar_N: index i of the papers."""

WEIGHTS = torch.tensor([0.4, 0.6], dtype=F64)
MEANS = torch.tensor([[0.8, -0.5, 0.3], [-0.6, 0.4, -0.2]], dtype=F64)
COVARIANCES = torch.stack([
    torch.tensor([[0.5, 0.2, 0.1], [0.2, 0.4, 0.1], [0.1, 0.1, 0.3]], dtype=F64),
    torch.tensor([[0.3, -0.1, 0.0], [-0.1, 0.5, 0.2], [0.0, 0.2, 0.6]], dtype=F64),
])  # fmt: skip
PRIOR = MixtureWorld(Mixture(WEIGHTS, MEANS, COVARIANCES)).prior(SCHEDULE)
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 0.4]], dtype=F64)
Y = torch.tensor([0.9, -0.6], dtype=F64)
EYE = torch.eye(3, dtype=F64)


pytestmark = pytest.mark.usefixtures("double")


def measured(sigma_y, operator=None, y=Y):
    return Observation(y[None], Gaussian(Matrix(A) if operator is None else operator, torch.tensor(sigma_y)))


def mean_of(x, i):
    """E[x_0 | x_i] of the mixture: the components' means, weighted by what x_i says of the component."""
    a, v = ABAR[i].sqrt(), 1 - ABAR[i]
    logs, means = [], []
    for w, m, c in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        spread = ABAR[i] * c + v * EYE
        gap = torch.linalg.solve(spread, x - a * m)
        logs.append(w.log() - 0.5 * (x - a * m) @ gap - 0.5 * torch.linalg.slogdet(spread).logabsdet)
        means.append(m + a * c @ gap)
    return torch.softmax(torch.stack(logs), 0) @ torch.stack(means)


def denoise(x, i):
    """E[x_0 | x_i] and its derivative in x_i."""
    return mean_of(x, i), torch.autograd.functional.jacobian(lambda v: mean_of(v, i), x)


class Stream:
    """The draws of one sample."""

    def __init__(self, seed=1):
        self.noise = DoubleNoise(seed, 1)

    def __call__(self):
        return self.noise.normal((3,))[0]


def states(h, obs, sampler):
    out = []
    sample(
        condition(PRIOR, h, obs),
        DoubleNoise(1, 1),
        sampler=sampler,
        grid=GRID,
        x=start()[None],
        callback=lambda step: out.append(step.x[0]),
    )
    return out


def ours(name, obs, eta=None, **settings):
    """The states of a row of the table, level by level."""
    method = METHODS[name]
    own = method.settings.read(settings, name)
    sampler = method.sampler(own) if method.sampler else DDIM(method.eta if eta is None else eta)
    return states(method.make(Context(PRIOR, GRID, sampler, own)), obs, sampler)


def start():
    return DoubleNoise(0, 1).normal((3,))[0]


def same(found, expected):
    assert len(found) == len(expected) == N
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=lambda m, i=i: f"step {i}: {m}")


# ΠGDM


def pigdm_steps(g_of, eta, factor):
    """Algorithm 1: c_1, c_2 and eps_t as there; `factor(i)` times g is what it adds."""
    x, noise, out = start(), Stream(), []
    for i in range(N, 0, -1):
        t, s = ABAR[i], ABAR[i - 1]
        x0, jacobian = denoise(x, i)
        c1 = eta * ((1 - t / s) * (1 - s) / (1 - t)).sqrt()
        c2 = (1 - s - c1**2).sqrt()
        eps = (x - t.sqrt() * x0) / (1 - t).sqrt()
        x = s.sqrt() * x0 + c2 * eps + factor(i) * jacobian.mT @ g_of(x0, i) + (c1 * noise() if eta and i > 1 else 0)
        out.append(x)
    return out


def by_code(i):
    return (ABAR[i] * ABAR[i - 1]).sqrt()


def noisy(sigma_y, d=1.0):
    def g_of(x0, i):
        r2 = d**2 * (1 - ABAR[i]) / (d**2 * ABAR[i] + 1 - ABAR[i])
        return r2 * A.mT @ torch.linalg.solve(sigma_y**2 * torch.eye(2) + r2 * A @ A.mT, Y - A @ x0)

    return g_of


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("d", [1.0, 0.6])
def test_pigdm(eta, d):
    """With noise: r_t^2 H^T (r_t^2 H H^T + sigma_y^2 I)^{-1} (y - H x̂), r_t^2 = 1 - abar_t for d = 1."""
    same(ours("pigdm", measured(0.3), eta, data_std=d), pigdm_steps(noisy(0.3, d), eta, by_code))


def test_pigdm_without_noise():
    """H^+ (y - H x̂), whatever the stand-in for sigma_y = 0 is; a batch may hold both kinds."""
    pinv = torch.linalg.pinv(A)
    expected = pigdm_steps(lambda x0, i: pinv @ (Y - A @ x0), 1.0, by_code)
    same(ours("pigdm", measured(0.0)), expected)
    both = Observation(Y.expand(2, -1), Gaussian(Matrix(A), torch.tensor([0.0, 0.3])))
    h = PiGDM.published(DDIM(1.0).kernel, GRID)
    x = sample(condition(PRIOR, h, both), DoubleNoise(1, 2), grid=GRID, x=start().expand(2, -1).clone())
    torch.testing.assert_close(x[0], expected[-1], rtol=0, atol=1e-6)
    alone = sample(condition(PRIOR, h, both[1:]), DoubleNoise(1, [1]), grid=GRID, x=start()[None])
    torch.testing.assert_close(x[1], alone[0])


def test_pigdm_without_alpha_s():
    """The form that adds sqrt(abar_t) g, without sqrt(abar_s); the scale is a factor on what is added."""
    same(ours("pigdm", measured(0.3), alpha_s=0.0), pigdm_steps(noisy(0.3), 1.0, lambda i: ABAR[i].sqrt()))
    same(ours("pigdm", measured(0.3), scale=0.4), pigdm_steps(noisy(0.3), 1.0, lambda i: 0.4 * by_code(i)))


def test_pigdm_of_a_clip():
    """Section 3.3: h^+(y) - h^+(h(x̂)) of a clip, whose derivative is never asked for."""
    y = torch.tensor([1.0, -0.4, 0.2])

    def g_of(x0, i):
        return y / 2 - (2 * x0).clamp(-1, 1) / 2

    same(ours("pigdm", measured(0.0, HDR(2.0), y)), pigdm_steps(g_of, 1.0, by_code))


def test_pigdm_elsewhere():
    """A sampler without kernels takes the estimate of the score, as do deft-pigdm and the proteins."""
    method = METHODS["pigdm"]
    h = method.make(Context(PRIOR, GRID, DPMpp2M(), method.settings.read({"data_std": 0.6, "scale": 2.0}, "pigdm")))
    pred = PRIOR(start()[None].requires_grad_(), torch.tensor(4.0))
    torch.testing.assert_close(h(pred, measured(0.3)), 2 * PiGDM(0.6)(pred, measured(0.3)))


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_pigdm_score(eta):
    """Eq. 7 for the score of y, in DDIM's steps: eps <- eps - sqrt(1 - abar) h, x̂ <- x̂ + (1 - abar) / sqrt(abar)
    h."""
    x, noise, expected = start(), Stream(), []
    for i in range(N, 0, -1):
        t, s = ABAR[i], ABAR[i - 1]
        x0, jacobian = denoise(x, i)
        r2 = 0.49 * (1 - t) / (0.49 * t + 1 - t)
        h = jacobian.mT @ A.mT @ torch.linalg.solve(0.09 * torch.eye(2) + r2 * A @ A.mT, Y - A @ x0)
        eps = (x - t.sqrt() * x0) / (1 - t).sqrt() - (1 - t).sqrt() * h
        x0 = x0 + (1 - t) / t.sqrt() * h
        c1 = eta * ((1 - t / s) * (1 - s) / (1 - t)).sqrt()
        x = s.sqrt() * x0 + (1 - s - c1**2).sqrt() * eps + (c1 * noise() if i > 1 else 0)
        expected.append(x)
    same(ours("pigdm-score", measured(0.3), eta, data_std=0.7), expected)


# DDRM


def ddrm_steps(sigma_y, eta, eta_b, counted):
    """Eq. 7 and 8 as the authors' code has them, one direction at a time; `counted`: which singular values are
    measurements."""
    u, values, vt = torch.linalg.svd(A)
    values = torch.cat([values, torch.zeros(1)])
    uty = torch.cat([u.mT @ Y, torch.zeros(1)])
    top = ((1 - ABAR[N]) / ABAR[N]).sqrt()
    z, noise, out = vt @ start() / ABAR[N].sqrt(), Stream(), []
    for j in range(3):
        if counted(values[j]) and values[j] * top > sigma_y:
            z[j] = uty[j] / values[j] + (top**2 - (sigma_y / values[j]) ** 2).sqrt() * z[j] / top
    x = ABAR[N].sqrt() * vt.mT @ z
    for i in range(N, 0, -1):
        x0, _ = denoise(x, i)
        now, then = (((1 - ABAR[k]) / ABAR[k]).sqrt() for k in (i, i - 1))
        n = vt @ noise() if i > 1 else torch.zeros(3)
        z, c = vt @ x / ABAR[i].sqrt(), vt @ x0
        eps = (z - c) / now
        new = torch.zeros(3)
        for j in range(3):
            if not counted(values[j]):
                new[j] = c[j] + math.sqrt(1 - eta**2) * then * eps[j] + eta * then * n[j]
            elif values[j] * then < sigma_y:
                new[j] = c[j] + math.sqrt(1 - eta**2) * then * (uty[j] - values[j] * c[j]) / sigma_y + eta * then * n[j]
            else:
                new[j] = (
                    eta_b * uty[j] / values[j]
                    + (1 - eta_b) * c[j]
                    + (then**2 - (eta_b * sigma_y / values[j]) ** 2).clamp_min(0).sqrt() * n[j]
                )
        x = ABAR[i - 1].sqrt() * vt.mT @ new
        out.append(x)
    return out


@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.5, 0.7), (1.0, 1.0)])
@pytest.mark.parametrize("sigma_y", [0.3, 0.02])
def test_ddrm(sigma_y, eta, eta_b):
    same(ours("ddrm", measured(sigma_y), eta_a=eta, eta_b=eta_b), ddrm_steps(sigma_y, eta, eta_b, lambda s: s > 0))


def test_ddrm_leaves_out_what_is_hardly_measured():
    """The smaller singular value is .58: with sigma_y = .6 its noise, 1.03, exceeds the data's deviation. The paper
    counts it."""
    assert float(torch.linalg.svdvals(A)[1]) == pytest.approx(0.584, abs=0.001)
    without, paper = ddrm_steps(0.6, 0.85, 1.0, lambda s: s > 0.6), ddrm_steps(0.6, 0.85, 1.0, lambda s: s > 0)
    same(ours("ddrm", measured(0.6)), without)
    same(ours("ddrm", measured(0.6), limit=math.inf), paper)
    same(
        states(METHODS["ddrm"].make(Context(PRIOR, GRID, DDRM(), METHODS["ddrm"].settings)), measured(0.6), DDRM()),
        without,
    )
    assert float((without[-1] - paper[-1]).norm()) > 0.1


def test_ddrm_walks_the_schedule_in_even_steps_of_its_time():
    """The code's levels: even steps of the DDPM's own t, from the top."""
    t = torch.tensor([level.t for level in plan("ddrm", steps=3).grid(PRIOR)[:-1]])
    torch.testing.assert_close(t.diff(), torch.full((2,), -3.0), rtol=0, atol=1e-9)
    assert float(t[0]) == N - 1


# DiffPIR and the gradient at x̂


@pytest.mark.parametrize(("strength", "zeta"), [(1.0, 0.3), (7.0, 1.0), (3.0, 0.0)])
def test_diffpir(strength, zeta):
    """Algorithm 1: rho_t = lambda sigma_n^2 / sigma_t^2 with sigma_t^2 = (1 - abar) / abar, the minimum of |y - H x|^2
    + rho_t |x - x̂|^2, then sqrt(1 - zeta) of the effective noise and sqrt(zeta) of new noise."""
    x, noise, expected = start(), Stream(), []
    for i in range(N, 0, -1):
        t, s = ABAR[i], ABAR[i - 1]
        rho = strength * 0.3**2 / ((1 - t) / t)
        x0 = torch.linalg.solve(A.mT @ A + rho * EYE, A.mT @ Y + rho * denoise(x, i)[0])
        eps = (x - t.sqrt() * x0) / (1 - t).sqrt()
        n = noise() if zeta and i > 1 else torch.zeros(3)
        x = s.sqrt() * x0 + (1 - s).sqrt() * (math.sqrt(1 - zeta) * eps + math.sqrt(zeta) * n)
        expected.append(x)
    same(ours("diffpir", measured(0.3), **{"lambda": strength, "zeta": zeta}), expected)


@pytest.mark.parametrize(("scale", "d"), [(1.0, 1.0), (1.8, 0.5)])
def test_gradient(scale, d):
    """x̂ <- x̂ + scale times the exact move of the belief N(x̂, rho^2 I) to its mean given y, then an ancestral
    step."""
    x, noise, expected = start(), Stream(), []
    for i in range(N, 0, -1):
        t, s = ABAR[i], ABAR[i - 1]
        x0, _ = denoise(x, i)
        rho2 = d**2 * (1 - t) / (d**2 * t + 1 - t)
        posterior = torch.linalg.solve(A.mT @ A / 0.09 + EYE / rho2, A.mT @ Y / 0.09 + x0 / rho2)
        x0 = x0 + scale * (posterior - x0)
        b = 1 - t / s
        x = (
            ((t / s).sqrt() * (1 - s) * x + s.sqrt() * b * x0) / (1 - t) + (b * (1 - s) / (1 - t)).sqrt() * noise()
            if i > 1
            else x0
        )
        expected.append(x)
    same(ours("gradient", measured(0.3), scale=scale, data_std=d), expected)


@pytest.mark.parametrize(
    ("h", "rho2_of"),
    [
        (GradientAtMean(0.5), lambda a, s: 0.25 * s**2 / (0.25 * a**2 + s**2)),
        (DiffPIR(2.0), lambda a, s: s**2 / (2 * a**2)),
    ],
)
def test_proximal_steps_are_exact_on_tomography(h, rho2_of):
    """The minimum of |y - A x|^2 / (2 sigma_y^2) + |x - x̂|^2 / (2 rho^2) by a dense solve, where what learned h are
    shown (`approx_mean_update`) is off by more than a tenth of the step."""
    op, sigma_y, shape = Radon(6, 5), 0.05, (1, 6, 6)
    mean, y = DoubleNoise(0, 2).normal(shape), op(DoubleNoise(1, 2).normal(shape))
    pred = Prediction(mean, torch.zeros(2), torch.full((1, 1, 1, 1), 0.8), torch.full((1, 1, 1, 1), 0.6), mean)
    obs = Observation(y, Gaussian(op, torch.tensor(sigma_y)))
    matrix, rho2 = op(torch.eye(36).reshape(36, *shape)).flatten(1).mT, rho2_of(0.8, 0.6)
    right = (y.flatten(1) @ matrix / sigma_y**2 + mean.flatten(1) / rho2).mT
    minimum = torch.linalg.solve(matrix.mT @ matrix / sigma_y**2 + torch.eye(36) / rho2, right).mT.reshape(mean.shape)
    step = minimum - mean
    assert float((pred.corrected(h(pred, obs)).mean - minimum).norm() / step.norm()) < 1e-4
    assert (
        float((obs.likelihood.approx_mean_update(y, mean, torch.full((1, 1, 1, 1), rho2)) - step).norm() / step.norm())
        > 0.1
    )
