"""Published algorithms, line by line: each row's states against the algorithm as its paper prints it, on the same
noise.

Everything on the right-hand side is written here from the papers, in their index notation (beta_i, abar_i of a DDPM
table), dense, in float64, one sample at a time; the prior is a Gaussian world, whose E[x_0 | x_t] and its derivative
are known. States agree to 1e-6 at every level.

| row | algorithm | where it is pinned |
|---|---|---|
| dps | Chung et al. 2023, algorithm 1 | here |
| mcg | Chung, Sim, Ryu & Ye 2022, algorithm 1 | here |
| imputation | Song et al. 2021, appendix I.2 | here |
| replacement | DDNM: Wang et al. 2023, algorithm 1 | here |
| ddrm | also DDNM+: Wang et al. 2023, eq. 17, 18 and their appendix on general A | here |
| ddnm | Wang et al. 2023: their code's step (appendix on general A), and algorithm 2 as printed | here |
| repaint | Lugmayr et al. 2022, algorithm 1 with the jumps of its appendix B | here |
| reconstruction | Ho et al. 2022, eq. 7 and its form for super-resolution | here |
| tmpd | Boys et al. 2024, with the row sums | here |
| mmps | Rozet et al. 2024, algorithm of section 4.2 | here |
| daps | Zhang et al. 2025, algorithm 1 | here |
| mgps | Moufad et al. 2025: algorithm 1, warm steps as in their code | here |
| cpigdm | Pandey et al. 2024: their code's coefficients, without noise | here |
| flower | Pourya et al. 2025: its three steps, in a flow's time | here |
| reddiff | Mardani et al. 2024, algorithm 1 | `test_methods_exact.test_reddiff_is_adam` |
| tds | Wu et al. 2023, algorithm 1 | here |
| mcgdiff | Cardoso et al. 2024, algorithm 1 | here |
| classifier guidance | Dhariwal & Nichol 2021, algorithm 2 | here |
| lora, controlnet | Hu et al. 2022; Zhang, Rao & Agrawala 2023: what starts at zero, what is copied | `test_alternatives` |
| deft, deft-smc, deft-hmc, hmc, gradient, amortised, finetuned | trained, or this library's own | `test_learning_world`, `test_smc`, `test_hamiltonian` |
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from deft.core.condition import condition
from deft.core.grid import levels, times
from deft.core.random import seed_for
from deft.guidance import Predictive
from deft.guidance.combine import Zero
from deft.guidance.exact import Mixture
from deft.learned import ClassifierGuidance
from deft.likelihood import Classifier, Gaussian, Observation
from deft.methods import METHODS, Context
from deft.operator import Mask, Matrix
from deft.samplers import DDIM, DDRM, sample
from deft.samplers.smc import RESAMPLING
from deft.samplers.travel import between
from deft.schedule import RectifiedFlow, VPTable
from deft.testing import MixtureWorld
from toys import DoubleNoise

F64 = torch.float64
BETAS = torch.linspace(0.02, 0.5, 10, dtype=F64)
N = len(BETAS)
SCHEDULE = VPTable(BETAS.tolist())
GRID = levels(SCHEDULE, range(N - 1, -1, -1))
ALPHAS = 1 - BETAS
ABAR = torch.cat([torch.ones(1, dtype=F64), ALPHAS.cumprod(0)])
"""abar_0 = 1, then abar_1 .. abar_N: index i of the papers."""

M = torch.tensor([0.3, -0.2, 0.1], dtype=F64)
C = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 0.7]], dtype=F64)
WORLD = MixtureWorld(Mixture(torch.ones(1, dtype=F64), M[None], C[None]))
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]], dtype=F64)
Y = torch.tensor([0.9, -0.6], dtype=F64)
SEEN = torch.tensor([1.0, 0.0, 1.0], dtype=F64)
Y_SEEN = torch.tensor([1.3, 0.0, -0.4], dtype=F64)
SIGMA_Y = 0.2


pytestmark = pytest.mark.usefixtures("double")


def combinations(sigma_y=SIGMA_Y):
    return Observation(Y[None], Gaussian(Matrix(A), torch.tensor(sigma_y)))


def two_seen(sigma_y=SIGMA_Y):
    return Observation(Y_SEEN[None], Gaussian(Mask(SEEN[None]), torch.tensor(sigma_y)))


def denoise(x, i):
    """E[x_0 | x_i] and its derivative in x_i."""
    a = ABAR[i].sqrt()
    gain = a * C @ torch.linalg.inv(ABAR[i] * C + (1 - ABAR[i]) * torch.eye(3))
    return M + gain @ (x - a * M), gain


def epsilon(x, i):
    return (x - ABAR[i].sqrt() * denoise(x, i)[0]) / (1 - ABAR[i]).sqrt()


def ancestral_mean(x, x0, i):
    """DDPM's posterior mean of x_{i-1} (Ho et al. 2020, eq. 7)."""
    b, a = BETAS[i - 1], ALPHAS[i - 1]
    return (a.sqrt() * (1 - ABAR[i - 1]) * x + ABAR[i - 1].sqrt() * b * x0) / (1 - ABAR[i])


def ancestral_std(i):
    return (BETAS[i - 1] * (1 - ABAR[i - 1]) / (1 - ABAR[i])).sqrt()


class Stream:
    """The draws of one sample."""

    def __init__(self, seed):
        self.noise = DoubleNoise(seed, 1)

    def __call__(self):
        return self.noise.normal((3,))[0]


def ours(name, obs, x, seed=1, **settings):
    """The states of a row of the table, level by level."""
    method = METHODS[name]
    own = method.settings.read(settings, name)
    sampler = method.sampler(own) if method.sampler else DDIM(method.eta)
    h = method.make(Context(WORLD.prior(SCHEDULE), GRID, sampler, own))
    return states(h, obs, x, sampler, seed)


def states(h, obs, x, sampler, seed=1):
    out = []
    sample(
        condition(WORLD.prior(SCHEDULE), h, obs),
        DoubleNoise(seed, 1),
        sampler=sampler,
        grid=GRID,
        x=x[None],
        callback=lambda step: out.append(step.x[0]),
    )
    return out


def start(seed=0):
    return DoubleNoise(seed, 1).normal((3,))[0]


def same(found, expected):
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=lambda text, i=i: f"state {i + 1}: {text}")


def norm_gradient(x, i, a, y):
    """The gradient in x_i of |y - A x̂|."""
    x0, jacobian = denoise(x, i)
    r = y - a @ x0
    return -jacobian.mT @ a.mT @ r / r.norm()


def test_dps():
    """Algorithm 1 of Chung et al. 2023: zeta_i |r|^2 with zeta_i = zeta' / |r| is 2 zeta' |r|; the authors' code has
    zeta |r|, and so has the row."""
    x, noise, expected = start(), Stream(1), []
    for i in range(N, 0, -1):
        x0, _ = denoise(x, i)
        moved = ancestral_mean(x, x0, i) + (ancestral_std(i) * noise() if i > 1 else 0)
        x = moved - 0.4 * norm_gradient(x, i, A, Y)
        expected.append(x)
    same(ours("dps", combinations(), start(), zeta=0.4), expected)


def noised(y, i, noise):
    """q(y_i | y) in the seen entries of a mask."""
    return ABAR[i].sqrt() * y + (1 - ABAR[i]).sqrt() * noise() if i > 0 else y


def test_mcg():
    """Algorithm 1 of Chung, Sim, Ryu & Ye 2022: a step, the gradient, then x <- (I - P^T P) x + P^T y_i with y_i noised
    again."""
    x, noise, expected, p = start(), Stream(1), [], torch.diag(SEEN)
    for i in range(N, 0, -1):
        x0, _ = denoise(x, i)
        moved = ancestral_mean(x, x0, i) + (ancestral_std(i) * noise() if i > 1 else 0)
        moved = moved - 0.4 * norm_gradient(x, i, p, Y_SEEN)
        x = (1 - SEEN) * moved + SEEN * noised(Y_SEEN, i - 1, noise)
        expected.append(x)
    same(ours("mcg", two_seen(), start(), zeta=0.4), expected)


def test_imputation():
    """Song et al. 2021, appendix I.2: the seen entries of every x_i are drawn from q(y_i | y)."""
    x, noise, expected = start(), Stream(1), []
    for i in range(N, 0, -1):
        x0, _ = denoise(x, i)
        free = ancestral_mean(x, x0, i) + (ancestral_std(i) * noise() if i > 1 else 0)
        x = (1 - SEEN) * free + SEEN * noised(Y_SEEN, i - 1, noise)
        expected.append(x)
    same(ours("imputation", two_seen(), start()), expected)


def test_imputation_of_combinations():
    """Any linear A: the part of x in A's range is that of A^+ y under noise."""
    range_of = torch.linalg.pinv(A) @ A
    x, noise, expected = start(), Stream(1), []
    for i in range(N, 0, -1):
        x0, _ = denoise(x, i)
        free = ancestral_mean(x, x0, i) + (ancestral_std(i) * noise() if i > 1 else 0)
        x = free - range_of @ free + range_of @ noised(torch.linalg.pinv(A) @ Y, i - 1, noise)
        expected.append(x)
    same(ours("imputation", combinations(), start()), expected)


def test_replacement_is_ddnm():
    """Wang et al. 2023, algorithm 1: x̂ <- A^+ y + (I - A^+ A) x̂, then x_{i-1} from p(x_{i-1} | x_i, x̂)."""
    pinv = torch.linalg.pinv(A)
    x, noise, expected = start(), Stream(1), []
    for i in range(N, 0, -1):
        x0, _ = denoise(x, i)
        x0 = pinv @ Y + x0 - pinv @ A @ x0
        x = ancestral_mean(x, x0, i) + (ancestral_std(i) * noise() if i > 1 else 0)
        expected.append(x)
    same(ours("replacement", combinations(0.0), start()), expected)


@pytest.mark.parametrize("sigma_y", [0.0, 0.05, 0.4])
def test_ddrm_is_ddnm_plus(sigma_y):
    """DDNM+ (Wang et al. 2023, eq. 17 and 18, general A in their appendix), from a state on the way: with a_i =
    sqrt(abar_{i-1}), s_i = sqrt(1 - abar_{i-1}), Lambda shrinks A^+ r where a sigma_y / singular value passes s_i, and
    noise is what is left of s_i^2. Each step is DDRM's with eta_b = 1; DDRM alone starts from y."""
    u, values, vt = torch.linalg.svd(A)
    values = torch.cat([values, torch.zeros(1)])
    y_bar = torch.cat([u.mT @ Y, torch.zeros(1)]) / values.clamp_min(1e-30)
    x, noise, eta, denoiser = start(), Stream(1), 0.85, condition(WORLD.prior(SCHEDULE), Zero(), combinations(sigma_y))
    for i in range(N, 0, -1):
        x0, _ = denoise(x, i)
        a, s, n = ABAR[i - 1].sqrt(), (1 - ABAR[i - 1]).sqrt(), noise()
        after, _ = DDRM(eta, 1.0).step(denoiser, x[None], GRID[N - i], GRID[N - i + 1], n[None], "started")
        z0, e, vn = vt @ x0, vt @ epsilon(x, i), vt @ n
        z = torch.zeros(3)
        for j in range(3):
            if values[j] == 0:
                z[j] = a * z0[j] + s * (math.sqrt(1 - eta**2) * e[j] + eta * vn[j])
            elif s >= a * sigma_y / values[j]:
                z[j] = a * y_bar[j] + (s**2 - (a * sigma_y / values[j]) ** 2).sqrt() * vn[j]
            else:
                shrink = values[j] * s * math.sqrt(1 - eta**2) / (a * sigma_y)
                z[j] = a * (z0[j] + shrink * (y_bar[j] - z0[j])) + s * eta * vn[j]
        x = vt.mT @ z
        torch.testing.assert_close(after[0], x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma_y", [0.0, 0.05, 0.4])
def test_ddnm(sigma_y):
    """The authors' code (svd_ddnm), with eta = 0.85: without noise x̂ <- x̂ - A^+ (A x̂ - y) and a step of DDIM's form with
    the prior's own eps; with noise eq. 17 and 51, where lambda = s_j sigma sqrt(1 - eta^2) / (a sigma_y) below and the
    noise is what is left of sigma^2 above."""
    _, values, vt = torch.linalg.svd(A)
    values, eta = torch.cat([values, torch.zeros(1)]), 0.85
    x, noise, expected = start(), Stream(1), []
    for i in range(N, 0, -1):
        x0, e = denoise(x, i)[0], epsilon(x, i)
        a, s, n = ABAR[i - 1].sqrt(), (1 - ABAR[i - 1]).sqrt(), noise() if i > 1 else torch.zeros(3)
        shrink, new, old = torch.ones(3), torch.full((3,), float(s) * eta), torch.full((3,), float(s)) * 0.0
        for j in range(3):
            if values[j] == 0 or sigma_y == 0:
                old[j] = s * math.sqrt(1 - eta**2)
            elif s < a * sigma_y / values[j]:
                shrink[j] = values[j] * s * math.sqrt(1 - eta**2) / (a * sigma_y)
            else:
                new[j] = (s**2 - (a * sigma_y / values[j]) ** 2).sqrt()
        corrected = x0 - vt.mT @ (shrink * (vt @ torch.linalg.pinv(A) @ (A @ x0 - Y)))
        x = a * corrected + vt.mT @ (new * (vt @ n) + old * (vt @ e))
        expected.append(x)
    same(ours("ddnm", combinations(sigma_y), start()), expected)


@pytest.mark.parametrize("sigma_y", [0.0, 0.05, 0.4])
def test_ddnm_printed(sigma_y):
    """Algorithm 2 with eq. 17 to 19: x̂ <- x̂ - lambda A^+ (A x̂ - y) in DDPM's step, a_i its factor of x̂, lambda = 1 and
    gamma = sigma_i^2 - (a_i sigma_y)^2 where that is positive, else lambda = sigma_i / (a_i sigma_y) and no noise; for
    each singular value, with sigma_y / s_j for sigma_y."""
    _, values, vt = torch.linalg.svd(A)
    values = torch.cat([values, torch.zeros(1)])
    x, noise, expected = start(), Stream(1), []
    for i in range(N, 0, -1):
        x0, _ = denoise(x, i)
        n, std = (noise(), ancestral_std(i)) if i > 1 else (torch.zeros(3), torch.zeros(()))
        a = ABAR[i - 1].sqrt() * BETAS[i - 1] / (1 - ABAR[i])
        shrink, new = torch.ones(3), torch.ones(3) * std
        for j in range(2):
            brought = a * sigma_y / values[j]
            if brought <= std:
                new[j] = (std**2 - brought**2).sqrt()
            else:
                shrink[j], new[j] = std / brought, 0.0
        corrected = x0 - vt.mT @ (shrink * (vt @ torch.linalg.pinv(A) @ (A @ x0 - Y)))
        x = ancestral_mean(x, corrected, i) + vt.mT @ (new * (vt @ n))
        expected.append(x)
    same(ours("ddnm", combinations(sigma_y), start(), printed=1, noise=1.0), expected)


@pytest.mark.parametrize("jump", [1, 3])
def test_repaint(jump):
    """Lugmayr et al. 2022, algorithm 1 with the jumps of appendix B: seen entries from q(y_i | y), the others from the
    prior's step, then noise is put back, here in one draw, whose law is that of its single steps. As in their schedule
    the lowest noisy level is jumped from, and the step onto the clean end is taken once; their blocks are counted from
    below, ours from the top."""
    coarse = GRID[-4:]  # three steps
    fine = [level for t, s in pairwise(coarse) for level in between(SCHEDULE, t, s, jump)[:-1]] + coarse[-1:]
    x, noise, states_of, top = start(), Stream(1), {}, len(fine) - 1

    def down(x, k):
        (_, a, sd), (_, b, se) = fine[k], fine[k + 1]
        beta = 1 - (a / b) ** 2
        x0 = M + a * C @ torch.linalg.solve(a**2 * C + sd**2 * torch.eye(3), x - a * M)
        free = (a / b * se**2 * x + b * beta * x0) / sd**2 + (math.sqrt(beta) * se / sd * noise() if se > 0 else 0)
        return (1 - SEEN) * free + SEEN * (b * Y_SEEN + se * noise() if se > 0 else Y_SEEN)

    for block in range(3):
        low = min((block + 1) * jump, top - 1)
        for again in range(3 if low > block * jump else 1):
            if again:
                ratio = fine[block * jump].alpha / fine[low].alpha
                x = ratio * x + math.sqrt(1 - ratio**2) * noise()
            for k in range(block * jump, low):
                x = down(x, k)
        states_of[block] = x
    states_of[2] = down(x, top - 1)
    sampler = METHODS["repaint"].sampler(METHODS["repaint"].settings.read({"repeats": 3, "jump": jump}, "repaint"))
    found = []
    sample(
        condition(WORLD.prior(SCHEDULE), Zero(), two_seen()),
        DoubleNoise(1, 1),
        sampler=sampler,
        grid=coarse,
        x=start()[None],
        callback=lambda step: found.append(step.x[0]),
    )
    same(found, [states_of[b] for b in range(3)])


def test_reconstruction():
    """Ho et al. 2022, eq. 7 and its form for super-resolution: x̂ <- x̂ - (w alpha_i / 2) grad |y - A x̂|^2, the
    gradient in x_i."""
    x, noise, expected = start(), Stream(1), []
    for i in range(N, 0, -1):
        x0, jacobian = denoise(x, i)
        gradient = -2 * jacobian.mT @ A.mT @ (Y - A @ x0)
        x0 = x0 - 1.5 * ABAR[i].sqrt() / 2 * gradient
        x = ancestral_mean(x, x0, i) + (ancestral_std(i) * noise() if i > 1 else 0)
        expected.append(x)
    same(ours("reconstruction", combinations(), start(), scale=1.5, sigma_y=SIGMA_Y, published=1), expected)


def test_tmpd():
    """Boys et al. 2024: x̂ <- x̂ + C A^T (r / (sigma_y^2 + A C A^T 1)) with C = (1 - abar)/sqrt(abar) J, the row sums
    for the diagonal, in the prior's step."""
    x, noise, expected = start(), Stream(1), []
    for i in range(N, 0, -1):
        x0, jacobian = denoise(x, i)
        cov = (1 - ABAR[i]) / ABAR[i].sqrt() * jacobian
        rows = A @ cov @ A.mT @ torch.ones(2)
        assert bool((rows > 0).all())
        x0 = x0 + cov.mT @ A.mT @ ((Y - A @ x0) / (SIGMA_Y**2 + rows))
        x = ancestral_mean(x, x0, i) + (ancestral_std(i) * noise() if i > 1 else 0)
        expected.append(x)
    same(ours("tmpd", combinations(), start()), expected)


@pytest.mark.parametrize("iterations", [1, 2])
def test_mmps(iterations):
    """Rozet et al. 2024, section 4.2: x̂ <- x̂ + C A^T v, (sigma_y^2 I + A C A^T) v = r by so many steps of conjugate
    gradients from 0."""
    x, noise, expected = start(), Stream(1), []
    for i in range(N, 0, -1):
        x0, jacobian = denoise(x, i)
        cov = (1 - ABAR[i]) / ABAR[i].sqrt() * jacobian
        system = SIGMA_Y**2 * torch.eye(2) + A @ cov @ A.mT
        v, r = torch.zeros(2), Y - A @ x0
        p = r
        for _ in range(iterations):
            step = (r @ r) / (p @ system @ p)
            v, new = v + step * p, r - step * system @ p
            p, r = new + (new @ new) / (r @ r) * p, new
        x0 = x0 + cov @ A.mT @ v
        x = ancestral_mean(x, x0, i) + (ancestral_std(i) * noise() if i > 1 else 0)
        expected.append(x)
    same(ours("mmps", combinations(), start(), iterations=iterations), expected)


@pytest.mark.parametrize("data_std", [math.inf, 1.5])
def test_daps(data_std):
    """Zhang et al. 2025, algorithm 1, in its coordinates z = x_i / sqrt(abar_i), u = sigma/alpha: Euler steps of dz/du
    = eps to u = 0, Langevin steps from there with r = u (or what data of deviation d leaves), z + u n. Step sizes as in
    the docstring of `DAPS`."""
    u = ((1 - ABAR) / ABAR).sqrt()
    z, noise, expected, beta = start() / ABAR[N].sqrt(), Stream(1), [], 0.4 * SIGMA_Y
    for i in range(N, 0, -1):
        middle = torch.maximum(torch.tan(torch.atan(u[i]) / 2), u[1])  # the prior is not asked below its table
        x0, now = z, u[i]
        for to in (middle, torch.zeros(())):
            denoised = M + C @ torch.linalg.solve(C + now**2 * torch.eye(3), x0 - M)
            x0 = x0 + (to - now) * (x0 - denoised) / now
            now = to
        r2 = 1 / (1 / u[i] ** 2 + 1 / data_std**2)
        share = (100 ** (1 / 7) - float(u[i]) ** (1 / 7)) / (100 ** (1 / 7) - 0.1 ** (1 / 7))
        eta = 0.8 * (share * 0.05 + (1 - share)) / (1 / r2 + 1 / beta**2)
        x = x0
        for _ in range(7):
            x = x - eta * (x - x0) / r2 - eta * A.mT @ (A @ x - Y) / beta**2 + (2 * eta).sqrt() * noise()
        z = x + u[i - 1] * noise() if i > 1 else x
        expected.append(ABAR[i - 1].sqrt() * z)
    settings = {"ode_steps": 2, "langevin_steps": 7, "lr": 0.8, "tau": 0.4, "decay": 0.05, "data_std": data_std}
    same(ours("daps", combinations(), start(), **settings), expected)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_flower(gamma):
    """Pourya et al. 2025 in the time of a flow x_tau = (1 - tau) noise + tau x_1 from tau = 0 (here .001): destination
    x + (1 - tau) v, refinement by a dense solve with nu = (1 - tau) / sqrt(tau^2 + (1 - tau)^2), progression with new
    noise."""
    steps, x, noise, expected, found = 8, start(), Stream(1), [], []
    schedule = RectifiedFlow()
    for k in range(steps):
        tau, then = (1 - 0.999 * (1 - j / steps) for j in (k, k + 1))
        gain = tau * C @ torch.linalg.inv(tau**2 * C + (1 - tau) ** 2 * torch.eye(3))
        velocity = (M + gain @ (x - tau * M) - x) / (1 - tau)  # E[x_1 - noise | x]
        destination = x + (1 - tau) * velocity
        nu2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        precision = A.mT @ A / SIGMA_Y**2 + torch.eye(3) / nu2
        refined = torch.linalg.solve(precision, A.mT @ Y / SIGMA_Y**2 + destination / nu2)
        if gamma:
            values, vectors = torch.linalg.eigh(precision)
            refined = refined + gamma * vectors @ torch.diag(values.rsqrt()) @ vectors.mT @ noise()
        x = then * refined + (1 - then) * noise() if k < steps - 1 else refined
        expected.append(x)
    sampler = METHODS["flower"].sampler(METHODS["flower"].settings.read({"gamma": gamma}, "flower"))
    sample(
        condition(WORLD.prior(schedule), Zero(), combinations()),
        DoubleNoise(1, 1),
        sampler=sampler,
        grid=times(schedule, steps, "uniform"),
        x=start()[None],
        callback=lambda step: found.append(step.x[0]),
    )
    same(found, expected)


def coefficients(low, high, w):
    """Increments of Phi_y, Phi_s (2) and Phi_j (2) of the authors' code from B = int beta to another: integrals, by the
    midpoint rule in sqrt(B), where they are smooth."""
    edges = torch.linspace(math.sqrt(low), math.sqrt(high), 20001, dtype=F64)
    b = ((edges[1:] + edges[:-1]) / 2) ** 2
    mu, std, width = (-b / 2).exp(), (-torch.expm1(-b)).sqrt(), edges.diff() * 2 * b.sqrt()
    one, both = (b / 2).exp(), (b / 2 - w * b / 2).exp()  # e^c1, e^(c1 + c2)
    parts = (
        -w / 2 * both * mu,
        one / std / 2,
        (both - one) / std / 2 - w / 2 * std * both,
        w / 2 * one * std * mu,
        w / 2 * std * (both - one) * mu,
    )
    return torch.stack([(p * width).sum() for p in parts])


@pytest.mark.parametrize("w", [2.0, 15.0])
def test_cpigdm(w):
    """Pandey et al. 2024, their code's sampler without noise (lambda = 0): Euler's steps in the coordinates A_t x, A_t =
    e^c1 (I + (e^c2 - 1) P), c1 = B/2, c2 = -w B/2, with increments of the coefficients Phi."""
    pinv = torch.linalg.pinv(A)
    p, y = pinv @ A, pinv @ Y
    big = -ABAR.log()
    x, expected = start() + ABAR[N].sqrt() * y, []

    def change(x, b):
        return math.exp(b / 2) * (x + (math.exp(-w * b / 2) - 1) * p @ x)

    def back(x, b):
        return math.exp(-b / 2) * (x + (math.exp(w * b / 2) - 1) * p @ x)

    for i in range(N, 0, -1):
        x0, jacobian = denoise(x, i)
        e, a, s = epsilon(x, i), ABAR[i].sqrt(), (1 - ABAR[i]).sqrt()
        g = (torch.eye(3) - a * jacobian).mT @ (y - p @ x0) / s
        d = -coefficients(float(big[i - 1]), float(big[i]), w)
        x_bar = change(x, float(big[i])) + d[0] * y + d[1] * e + d[2] * p @ e + d[3] * g + d[4] * p @ g
        x = back(x_bar, float(big[i - 1]))
        expected.append(x)
    same(ours("cpigdm", combinations(0.0), start(), weight=w), expected)


def bridged(u_a, u_s, u_t, x_a, x_t):
    """q(x_s | x_a, x_t) of a variance preserving process, by precisions: x_s given x_a, times x_t given x_s."""
    a_a, a_s, a_t = ((1 + u**2) ** -0.5 for u in (u_a, u_s, u_t))
    forward, back = 1 - (a_s / a_a) ** 2, 1 - (a_t / a_s) ** 2
    precision = 1 / forward + (a_t / a_s) ** 2 / back
    return (a_s / a_a * x_a / forward + a_t / a_s * x_t / back) / precision, 1 / precision


def adam_by_hand(gradients, mu, rho, rate, steps):
    """Kingma & Ba's algorithm with their defaults; gradients(mu, rho) -> those of mu and rho."""
    first, second = [torch.zeros(3)] * 2, [torch.zeros(3)] * 2
    for k in range(1, steps + 1):
        for j, g in enumerate(gradients(mu, rho)):
            first[j], second[j] = 0.9 * first[j] + 0.1 * g, 0.999 * second[j] + 0.001 * g**2
        moves = [
            rate * a / (1 - 0.9**k) / ((b / (1 - 0.999**k)).sqrt() + 1e-8) for a, b in zip(first, second, strict=True)
        ]
        mu, rho = mu - moves[0], rho - moves[1]
    return mu, rho


@pytest.mark.parametrize(("warm", "middle"), [(0, 0.5), (3, 0.5), (0, 0.2)])
def test_mgps(warm, middle):
    """Moufad et al. 2025, algorithm 1, all gradients by hand. Time is DDPM's, beta from .1 to 20: B = .1 t + 9.95 t^2,
    u^2 = e^B - 1. Of the warm steps, the second fit is next to clean, here at the table's first entry."""
    u = ((1 - ABAR) / ABAR).sqrt()
    x, noise, expected, guess, told = start(), Stream(1), [], None, False

    def at(x, v):
        """x̂ and its derivative at sigma/alpha = v."""
        a = (1 + v**2) ** -0.5
        gain = a * C @ torch.linalg.inv(a**2 * C + (1 - a**2) * torch.eye(3))
        return M + gain @ (x - a * M), gain

    for i in range(N, 0, -1):
        x0, _ = at(x, u[i])
        if i == 1:
            expected.append(x0)
            break
        now = (-0.1 + (0.01 + 4 * 9.95 * torch.log1p(u[i - 1] ** 2)).sqrt()) / (2 * 9.95)
        v = torch.maximum(torch.expm1(0.1 * middle * now + 9.95 * (middle * now) ** 2).sqrt(), u[1])
        m, var = bridged(torch.zeros(()), v, u[i], x0, x)
        mu, _ = bridged(u[1] if told else torch.zeros(()), v, u[i], x0 if guess is None else guess, x)
        steps = 3 if (N - i) % 4 == 0 else 2

        def fitted(mu, rho, v=v, m=m, var=var):
            n = noise()
            x_l = mu + rho.exp() * n
            x0, jacobian = at(x_l, v)
            g = -jacobian.mT @ A.mT @ (Y - A @ x0) / SIGMA_Y**2
            return (mu - m) / var + g, (2 * rho).exp() / var - 1 + g * rho.exp() * n

        mu, rho = adam_by_hand(fitted, mu, (var.log() / 2).expand(3), 0.05, steps)
        x_l = mu + rho.exp() * noise()
        guess, _ = at(x_l, v)
        told = N - i < warm and bool(v > u[1])
        if not told:
            at_s = bool(v == u[i - 1])  # where the schedule ends, the midpoint is the end of the step
            mean, left = (x_l, torch.zeros(())) if at_s else bridged(v, u[i - 1], u[i], x_l, x)
        else:
            a, b = (1 + v**2) ** -0.5, (1 + u[1] ** 2) ** -0.5
            ratio, back = a / b, 1 - (a / b) ** 2
            mu, var = bridged(torch.zeros(()), u[1], v, guess, x_l)

            def second(mu, rho, b=b, ratio=ratio, back=back, x_l=x_l):
                n = noise()
                x_1 = mu + rho.exp() * n
                g = -A.mT @ (Y - A @ x_1) / SIGMA_Y**2 - (b * at(x_1, u[1])[0] - x_1) / (1 - b**2)
                wide = ratio**2 * (2 * rho).exp() / back - 1
                return ratio * (ratio * mu - x_l) / back + g, wide + g * rho.exp() * n

            mu, rho = adam_by_hand(second, mu, (var.log() / 2).expand(3), 0.05, steps)
            guess = mu + rho.exp() * noise()
            mean, left = bridged(u[1], u[i - 1], u[i], guess, x)
        x = mean + left.clamp_min(0).sqrt() * noise()
        expected.append(x)
    settings = {"middle": middle, "many": 3, "every": 4, "lr": 0.05, "warm": warm}
    same(ours("mgps", combinations(), start(), **settings), expected)


def log_normal(x, mean, variance):
    """log N(x; mean, variance) entry by entry, summed."""
    return -0.5 * ((x - mean) ** 2 / variance + torch.log(2 * math.pi * torch.as_tensor(variance))).sum(-1)


def systematic(w, u, count):
    """Kitagawa 1996: the particles whose interval of cumulated weights holds (u + k) / count."""
    edges, out, j = (w / w.sum()).cumsum(0), [], 0
    for k in range(count):
        while j < len(w) - 1 and edges[j] < (u + k) / count:
            j += 1
        out.append(j)
    return out


def particles(obs, k, seed=5):
    """The draws of each particle, and of resampling, in the order in which `sample_smc` takes them."""
    noise, uniform = (
        DoubleNoise(seed_for("samples", seed), range(k)),
        DoubleNoise(seed_for("samples", seed), [RESAMPLING]),
    )
    return (lambda: noise.normal((3,))), (lambda: float(uniform.uniform()[0]))


def twist(x, i, d):
    """p̃(y | x_i) = N(y; A x̂, sigma_y^2 I + rho^2 A A^T) without its constant, and its gradient in x_i, for each
    particle."""
    rho2 = d**2 * (1 - ABAR[i]) / (d**2 * ABAR[i] + 1 - ABAR[i])
    inverse = torch.linalg.inv(SIGMA_Y**2 * torch.eye(2) + rho2 * A @ A.mT)
    value, gradient = [], []
    for one in x:
        x0, jacobian = denoise(one, i)
        r = Y - A @ x0
        value.append(-0.5 * r @ inverse @ r)
        gradient.append(jacobian.mT @ A.mT @ inverse @ r)
    return torch.stack(value), torch.stack(gradient)


ON = {"sampler": DDIM(1.0), "grid": GRID, "seed": 5, "batch": 64, "first": 0, "progress": False, "world": None}
"""How the two below are drawn."""


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_tds(threshold):
    """Wu et al. 2023, algorithm 1: w = p(x_{i-1} | x_i) p̃(y | x_{i-1}) / (p̃(y | x_i) p̃(x_{i-1} | x_i, y)), resampled
    (threshold 1: at every step, as printed); the last weight has p(y | x_0) for p̃. Proposals move the mean by b_i h,
    b_i what multiplies a score in DDPM's mean, beta_i / sqrt(alpha_i)."""
    k, d = 6, 0.8
    normal, uniform = particles(combinations(), k)
    x = (1 - ABAR[N]).sqrt() * normal()
    log_w, log_z = twist(x, N, d)[0], 0.0
    for i in range(N, 0, -1):
        w = (log_w - log_w.max()).exp()
        u = uniform()
        if float(w.sum() ** 2 / (k * (w**2).sum())) < threshold:
            log_z += float(torch.logsumexp(log_w, 0)) - math.log(k)
            x, log_w = x[systematic(w, u, k)], torch.zeros(k)
        value, gradient = twist(x, i, d)
        plain = torch.stack([ancestral_mean(one, denoise(one, i)[0], i) for one in x])
        if i == 1:
            x = plain
            break
        moved = plain + BETAS[i - 1] / ALPHAS[i - 1].sqrt() * gradient
        x = moved + ancestral_std(i) * normal()
        log_w = (
            log_w
            + log_normal(x, plain, ancestral_std(i) ** 2)
            - log_normal(x, moved, ancestral_std(i) ** 2)
            + twist(x, i - 1, d)[0]
            - value
        )
    log_w = log_w + log_normal(Y, x @ A.mT, SIGMA_Y**2) - value
    expected = x[systematic((log_w - log_w.max()).exp(), uniform(), 3)]
    log_z += float(torch.logsumexp(log_w, 0)) - math.log(k)
    settings = METHODS["tds"].settings.read({"particles": k, "threshold": threshold, "data_std": d}, "tds")
    out = METHODS["tds"].draw(WORLD.prior(SCHEDULE), Predictive(d), combinations(), 3, settings=settings, **ON)
    torch.testing.assert_close(out.x[0], expected, rtol=0, atol=1e-6)
    assert float(out.log_evidence[0]) == pytest.approx(log_z, abs=1e-6)


def test_mcgdiff():
    """Cardoso et al. 2024, algorithm 1, with every level's variance of a noised y for a noisy one: each particle has
    the weight N(a_{i-1} y; m_i(x_i), std_i^2 + v_{i-1}) / N(a_i y; x_i, v_i) in seen entries, v_i = 1 - abar_i + abar_i
    sigma_y^2; resampled particles move by the normal law that is the prior's step times N(x_{i-1}; a_{i-1} y,
    v_{i-1})."""
    k, seen = 6, SEEN > 0
    normal, uniform = particles(two_seen(), k)

    def v(i):
        return 1 - ABAR[i] + ABAR[i] * SIGMA_Y**2

    def move(mean, std, i):
        gain = std**2 / (std**2 + v(i))
        n = normal()
        x = mean + std * n
        x[:, seen] = (mean + gain * (ABAR[i].sqrt() * Y_SEEN - mean) + (std**2 * v(i) / (std**2 + v(i))).sqrt() * n)[
            :, seen
        ]
        return x

    top = (1 - ABAR[N]).sqrt()
    x = move(torch.zeros(k, 3), top, N)
    log_w = torch.zeros(k) + log_normal(ABAR[N].sqrt() * Y_SEEN[seen], torch.zeros(k, 2), top**2 + v(N))
    log_z = 0.0
    for i in range(N, 1, -1):
        w, u = (log_w - log_w.max()).exp(), uniform()
        if float(w.sum() ** 2 / (k * (w**2).sum())) < 1:
            log_z += float(torch.logsumexp(log_w, 0)) - math.log(k)
            x, log_w = x[systematic(w, u, k)], torch.zeros(k)
        mean = torch.stack([ancestral_mean(one, denoise(one, i)[0], i) for one in x])
        log_w = log_w + log_normal(ABAR[i - 1].sqrt() * Y_SEEN[seen], mean[:, seen], ancestral_std(i) ** 2 + v(i - 1))
        log_w = log_w - log_normal(ABAR[i].sqrt() * Y_SEEN[seen], x[:, seen], v(i))
        x = move(mean, ancestral_std(i), i - 1)
    w, u = (log_w - log_w.max()).exp(), uniform()
    if float(w.sum() ** 2 / (k * (w**2).sum())) < 1:
        log_z += float(torch.logsumexp(log_w, 0)) - math.log(k)
        x, log_w = x[systematic(w, u, k)], torch.zeros(k)
    clean = torch.stack([denoise(one, 1)[0] for one in x])
    log_w = (
        log_w
        + log_normal(Y_SEEN[seen], clean[:, seen], SIGMA_Y**2)
        - log_normal(ABAR[1].sqrt() * Y_SEEN[seen], x[:, seen], v(1))
    )
    expected = clean[systematic((log_w - log_w.max()).exp(), uniform(), 3)]
    log_z += float(torch.logsumexp(log_w, 0)) - math.log(k)
    settings = METHODS["mcgdiff"].settings.read({"particles": k, "threshold": 1.0}, "mcgdiff")
    out = METHODS["mcgdiff"].draw(WORLD.prior(SCHEDULE), Zero(), two_seen(), 3, settings=settings, **ON)
    torch.testing.assert_close(out.x[0], expected, rtol=0, atol=1e-6)
    assert float(out.log_evidence[0]) == pytest.approx(log_z, abs=1e-6)


def test_classifier_guidance():
    """Dhariwal & Nichol 2021, algorithm 2: eps <- eps - sqrt(1 - abar_i) grad log p(c | x_i), then a step of DDIM; a
    logistic p(c | x_i) by hand."""
    weight = torch.tensor([0.7, -1.1, 0.4])
    h = ClassifierGuidance(lambda x, time: torch.stack([torch.zeros(len(x)), x @ weight.to(x)], 1), scale=2.0)
    obs = Classifier(lambda x: x @ torch.stack([torch.zeros(3), weight], 1).to(x), 2, (3,)).observe([1])
    x, expected = start(), []
    for i in range(N, 0, -1):
        gradient = 2.0 * torch.sigmoid(-x @ weight) * weight
        e = epsilon(x, i) - (1 - ABAR[i]).sqrt() * gradient
        x = ABAR[i - 1].sqrt() * (x - (1 - ABAR[i]).sqrt() * e) / ABAR[i].sqrt() + (1 - ABAR[i - 1]).sqrt() * e
        expected.append(x)
    same(states(h, obs, start(), DDIM(0.0)), expected)
