"""Training-free methods against closed forms: each is exact where theory says so, and wrong by the amount theory says.

Most samplers here are affine in their noise in a Gaussian world, however many draws a step takes. `law` walks a basis
of all draws through the whole chain and so has the exact mean and covariance of the samples: those numbers have no
Monte-Carlo error.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from deft.core.condition import condition
from deft.core.grid import times
from deft.core.transition import Level
from deft.denoiser import MeanDenoiser
from deft.errors import ContractError, InputError
from deft.guidance import (
    DPS,
    MCG,
    MMPS,
    TMPD,
    DiffPIR,
    GradientAtMean,
    PiGDM,
    ReconstructionGuidance,
    Replacement,
    ScoreAtMean,
)
from deft.guidance.combine import Scaled, Sum, Zero
from deft.guidance.exact import Mixture
from deft.likelihood import Gaussian, Observation
from deft.methods import METHODS, plan
from deft.methods.plans import begun_at
from deft.operator import Mask, Matrix, Operator
from deft.samplers import (
    DAPS,
    DDIM,
    DDNM,
    DDRM,
    MGPS,
    Ancestral,
    CPiGDM,
    DPMpp2M,
    Flower,
    Heun,
    Imputed,
    Ito,
    REDDiff,
    Refresh,
    TimeTravel,
    sample,
    sample_paths,
    sample_posterior,
)
from deft.schedule import VPCosine, VPTable
from deft.testing import MixtureWorld, check_htransform, check_sampler, half_seen, moments
from toys import DoubleNoise

F64 = torch.float64
VP = VPCosine()


def tensor(*rows):
    return torch.tensor(rows, dtype=F64)


def gaussian_world(covariance, mean=None):
    d = len(covariance)
    return MixtureWorld(
        Mixture(tensor(1.0), torch.zeros(1, d, dtype=F64) if mean is None else tensor(mean), covariance[None])
    )


def measured(operator, y, sigma_y):
    return Observation(y[None], Gaussian(operator, torch.tensor(sigma_y, dtype=F64)))


def mask(*seen):
    return Mask(torch.tensor([seen], dtype=torch.float32))


CORRELATED = gaussian_world(tensor([1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 0.7]), [0.3, -0.2, 0.1])
COMBINATIONS = measured(Matrix(tensor([1.0, 0.5, 0.0], [0.0, -0.5, 1.0])), tensor(0.9, -0.6), 0.2)
FIRST_SEEN = measured(mask(1.0, 0.0, 0.0), tensor(1.3, 0.0, 0.0), 0.01)


class Basis:
    """A source of noise whose rows are 0, then the unit vectors of every draw: row 0 of what comes out is the mean."""

    def __init__(self, d, draws=0):
        self.d, self.rows, self.k = d, 1 + draws * d, 0

    def __len__(self):
        return self.rows

    def normal(self, shape, *, device="cpu"):
        out = torch.zeros(self.rows, self.d, dtype=F64)
        if self.rows > 1:
            out[1 + self.k * self.d : 1 + (self.k + 1) * self.d] = torch.eye(self.d, dtype=F64)
        self.k += 1
        return out


pytestmark = pytest.mark.usefixtures("double")


def law(world, h, obs, sampler, grid):
    """(mean, covariance) of what `sample` draws, exactly."""
    prior, (d,) = world.prior(VP), world.event_shape
    counting = Basis(d)
    sample(condition(prior, h, obs), counting, sampler=sampler, grid=grid)
    basis = Basis(d, counting.k)
    x = sample(condition(prior, h, obs.repeat(len(basis))), basis, sampler=sampler, grid=grid)
    f = x[1:] - x[:1]
    return x[0], f.mT @ f


def against(world, h, obs, sampler, grid):
    """(error of the mean in deviations of the posterior, deviation over the posterior's), entry by entry."""
    exact = world.posterior(obs)
    mean, covariance = law(world, h, obs, sampler, grid)
    return (mean - exact.mean) / exact.std, covariance.diagonal().clamp_min(0).sqrt() / exact.std


def test_law_is_that_of_moments():
    """Two ways to the same exact numbers, for a sampler with one draw a step."""
    grid = times(VP, 20)
    one = law(CORRELATED, CORRELATED.h, COMBINATIONS, DDIM(0.7), grid)
    two = moments(condition(CORRELATED.prior(VP), CORRELATED.h, COMBINATIONS.repeat(7)), DDIM(0.7), grid)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# Fields.

ROUND = gaussian_world(0.49 * torch.eye(3, dtype=F64))
DIAGONAL = gaussian_world(torch.diag(tensor(0.1, 0.5, 2.0)), [0.3, -0.2, 0.1])
TWO_SEEN = measured(mask(1.0, 1.0, 0.0), tensor(1.3, -0.7, 0.0), 0.25)


def round_weight(alpha, sigma):
    """(alpha / sigma^2) rho^2 sigma_y^2 / (sigma_y^2 + rho^2), what w must be for data of deviation 0.7 and sigma_y =
    0.25."""
    rho2 = 0.49 * sigma**2 / (0.49 * alpha**2 + sigma**2)
    return alpha / sigma**2 * rho2 * 0.0625 / (0.0625 + rho2)


def compare_h(h, world, obs):
    """The largest distance of h to the exact one, relative to its size, over four noise levels and 16 states."""
    worst = 0.0
    for t in (0.05, 0.3, 0.6, 0.95):
        x = 1.5 * DoubleNoise(0, 16).normal(world.event_shape)
        pred = world.prior(VP)(x.requires_grad_(), torch.tensor(t))
        exact = world.h(pred, obs.repeat(16)).detach()
        worst = max(worst, float((h(pred, obs.repeat(16)).detach() - exact).abs().max() / exact.abs().max()))
    return worst


@pytest.mark.parametrize(
    "h", [PiGDM(0.7), GradientAtMean(0.7), ScoreAtMean(round_weight), TMPD(), MMPS(1)], ids=lambda h: type(h).__name__
)
def test_exact_for_round_data(h):
    """Data N(0, d^2 I) and a mask: J and the covariance are multiples of I, and all of these are the exact h."""
    assert compare_h(h, ROUND, TWO_SEEN) < 1e-9


@pytest.mark.parametrize(
    ("h", "exact"), [(TMPD(), True), (MMPS(2), True), (PiGDM(0.7), False), (GradientAtMean(0.7), False)]
)
def test_exact_for_independent_data(h, exact):
    """A mask of independent entries of different variance: a diagonal covariance is enough, one number for all is
    not."""
    off = compare_h(h, DIAGONAL, TWO_SEEN)
    assert off < 1e-9 if exact else off > 0.1


def test_mmps_is_exact_for_gaussian_data():
    """Correlated data: exact to 1e-5 once the iterations reach the number of measured directions; fewer are worse, and
    a diagonal covariance is not enough."""
    assert compare_h(MMPS(2), CORRELATED, COMBINATIONS) < 1e-5
    assert compare_h(MMPS(1), CORRELATED, COMBINATIONS) > 0.02
    assert compare_h(TMPD(), CORRELATED, COMBINATIONS) > 0.1
    world, one = half_seen(4)
    obs = Observation(one.y.double(), one.likelihood)
    off = [compare_h(MMPS(k), world, obs) for k in (1, 3, 8, 40)]
    assert off[0] > off[1] > off[2] and off[3] < 1e-5, off


def test_weights_of_paths_rank_the_covariances():
    """Var(log w) over 128 Itô steps, known to 9 % from 256 paths: MMPS's is that of the exact h, 0.26; those of TMPD
    (0.59), of the gradient at the mean (0.58), of MMPS with too few iterations (0.74) and of ΠGDM (1.3) are above 1.8
    times it."""
    grid = times(VP, 128, "log-snr")

    def variance(h):
        return float(
            sample_paths(
                CORRELATED.prior(VP), h, COMBINATIONS, 256, sampler=Ito(), grid=grid, batch=256
            ).diagnostics.log_weight_variance
        )

    exact = variance(CORRELATED.h)
    assert variance(MMPS(2)) == pytest.approx(exact, rel=1e-3)
    assert min(variance(h) for h in (TMPD(), PiGDM(), GradientAtMean(), MMPS(1))) > 1.8 * exact


FIELDS = {
    "gradient": GradientAtMean(0.8),
    "score": ScoreAtMean(lambda a, s: 0.1 * a),
    "tmpd": TMPD(),
    "mmps": MMPS(2),
    "diffpir": DiffPIR(3.0),
    "replacement": Replacement(),
    "mcg": MCG(DPS(0.1)),
    "sum": Sum(Scaled(PiGDM(), 0.5), Scaled(TMPD(), 0.5), DPS(0.1), ReconstructionGuidance(lambda a, s: 0.1 * a)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_htransform(name):
    obs = Observation(
        COMBINATIONS.likelihood.sample(CORRELATED.sample(16, 1), DoubleNoise(2, 16)), COMBINATIONS.likelihood
    )
    check_htransform(FIELDS[name], CORRELATED.prior(VP), obs)


def test_methods_that_share_a_graph_add_up():
    """Under `condition`, the prior is called once and all parts differentiate through that call."""
    parts = [PiGDM(0.7), TMPD(), DPS(0.3), ReconstructionGuidance(lambda a, s: 0.1 * a)]
    x, t = DoubleNoise(0, 1).normal((3,)), torch.tensor(0.5)
    prior = CORRELATED.prior(VP)
    alone = [condition(prior, h, COMBINATIONS).both(x, t)[1] for h in parts]
    torch.testing.assert_close(condition(prior, Sum(*parts), COMBINATIONS).both(x, t)[1], sum(alone))


class Clip(Operator):
    """y = clip(2 x, -1, 1), with y / 2 for a pseudo-inverse."""

    def __call__(self, x):
        return (2 * x).clamp(-1, 1)

    def features(self, y):
        return y / 2

    def pinv(self, y):
        return y / 2


class Squares(Operator):
    def __call__(self, x):
        return x.square()

    def features(self, y):
        return y


def test_pigdm_beyond_linear():
    """J^T (A^+(y) - A^+(A(x̂))) / rho^2 by hand, with J = G of the Gaussian world; an entry of x̂ beyond the clip,
    whose derivative is 0, is brought back all the same; and an operator without a pseudo-inverse is refused."""
    obs = measured(Clip(), tensor(0.4, -1.0, 0.2), 0.05)
    x = tensor([2.5, -2.5, 0.1])
    pred = CORRELATED.prior(VP)(x.requires_grad_(), torch.tensor(0.4))
    a, s, c = float(pred.alpha), float(pred.sigma), CORRELATED.mixture.covariances[0]
    jacobian = a * c @ torch.linalg.inv(a * a * c + s * s * torch.eye(3))
    gap = (obs.y - (2 * pred.mean.detach()).clamp(-1, 1)) / 2
    assert float(pred.mean.detach()[0, 0]) > 0.5 and float(gap[0, 0]) < 0
    expected = gap @ jacobian / (s * s / (a * a + s * s))
    torch.testing.assert_close(PiGDM()(pred, obs).detach(), expected)
    with pytest.raises(InputError, match=r"ΠGDM needs a linear operator, got Squares"):
        condition(CORRELATED.prior(VP), PiGDM(), measured(Squares(), tensor(0.4, 1.0, 0.2), 0.05))
    assert (
        METHODS["pigdm"].why_unsupported(obs.likelihood) is None and METHODS["reconstruction"].requires == "likelihood"
    )


# Replacement, MCG, RePaint.


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_replaced_entries_have_the_law_of_a_noised_y(eta):
    """Started from it, the seen entry is N(alpha_s y, sigma_s^2) at every level, to rounding; with eta = 1 its
    covariance between neighbouring levels is that of the forward process, (alpha_t / alpha_s) sigma_s^2, too."""
    grid, y, sampler = times(VP, 8), 1.3, DDIM(eta)
    basis = Basis(3, 9)
    denoiser = condition(CORRELATED.prior(VP), Replacement(), FIRST_SEEN.repeat(len(basis)))
    x = grid[0].sigma * basis.normal((3,))
    x[:, 0] += grid[0].alpha * y
    for t, s in pairwise(grid):
        before = x
        x, _ = sampler.advance(denoiser, x, t, s, lambda: basis.normal((3,)), None)
        old, new = before[1:, 0] - before[0, 0], x[1:, 0] - x[0, 0]
        assert float(x[0, 0]) == pytest.approx(s.alpha * y, abs=1e-12)
        assert float(new.square().sum()) == pytest.approx(s.sigma**2, abs=1e-12)
        if eta == 1:
            assert float((old * new).sum()) == pytest.approx(t.alpha / s.alpha * s.sigma**2, abs=1e-12)


def test_replacement_is_biased_and_time_travel_mends_it():
    """Correlated data, the first of three entries seen, sigma_y = 0.01. The mean of the second is off by half of the
    posterior's deviation however many steps there are; repeats bring it below 0.1, and the exact h has no such error.

    Exact numbers, in deviations: -0.53 at 50 steps and -0.51 at 200; with 25 steps -0.55, -0.16, -0.09 for 1, 5 and 10
    repeats (and -0.035 for 40). Deviations: 0.86 of the posterior's for 10 repeats of 25 coarse steps, 1.0 for 5
    repeats of 4 parts each.
    """
    few, many = (against(CORRELATED, Replacement(), FIRST_SEEN, DDIM(1.0), times(VP, n)) for n in (50, 200))
    assert few[0][1] < -0.5 and many[0][1] < -0.5 and abs(float(many[0][0])) < 0.02
    assert abs(float(against(CORRELATED, CORRELATED.h, FIRST_SEEN, DDIM(1.0), times(VP, 50))[0][1])) < 0.001
    errors = [
        abs(float(against(CORRELATED, Replacement(), FIRST_SEEN, TimeTravel(DDIM(1.0), r), times(VP, 25))[0][1]))
        for r in (1, 5, 10)
    ]
    assert errors[0] > 0.5 and errors[1] < 0.2 and errors[2] < 0.1, errors
    mean, ratio = against(CORRELATED, Replacement(), FIRST_SEEN, TimeTravel(DDIM(1.0), 5, jump=4), times(VP, 25))
    assert mean[1:].abs().max() < 0.15 and (ratio[1:] - 1).abs().max() < 0.03
    # a noisy y counts as a clean one: at sigma_y = 1 the seen entry ends at y = 1.3, the posterior's mean is 0.8
    noisy = measured(FIRST_SEEN.likelihood.operator, tensor(1.3, 0.0, 0.0), 1.0)
    mean, covariance = law(CORRELATED, Replacement(), noisy, DDIM(1.0), times(VP, 50))
    assert float(mean[0]) == pytest.approx(1.3, abs=1e-9) and float(covariance[0, 0]) < 1e-12
    assert float(CORRELATED.posterior(noisy).mean[0]) == pytest.approx(0.8, abs=1e-9)


def test_the_bias_shows_in_samples():
    """The same in 2,000 samples of the rows of the table: more than 15 standard errors for replacement, fewer than 8
    for RePaint; replacement is within 4 of its exact law."""
    n, exact = 2000, CORRELATED.posterior(FIRST_SEEN)
    mean, covariance = law(CORRELATED, Replacement(), FIRST_SEEN, DDIM(1.0), times(VP, 50))
    for name, off in (("replacement", (15, 100)), ("repaint", (0, 8))):
        x = plan(name).draw(CORRELATED.prior(VP), FIRST_SEEN, n, batch=n).x[0]
        if name == "replacement":
            assert abs(float(x[:, 1].mean() - mean[1])) < 4 * math.sqrt(float(covariance[1, 1]) / n)
        assert off[0] < abs(float(x[:, 1].mean() - exact.mean[1])) / float(x[:, 1].std()) * math.sqrt(n) < off[1]


def test_mcg():
    """A step of MCG puts y into the seen entries of x̂ and moves the hidden ones of x_s by DPS's gradient, and its
    hidden mean is nearer than that of replacement alone."""
    grid, sampler, prior = times(VP, 50), DDIM(1.0), CORRELATED.prior(VP)
    dps = DPS.published(0.3, sampler.kernel, grid)
    x, n = DoubleNoise(0, 1).normal((3,)), DoubleNoise(1, 1).normal((3,))

    def step(h):
        return sampler.step(condition(prior, h, FIRST_SEEN), x, grid[20], grid[21], n, None)[0]

    moved = step(MCG(dps))
    torch.testing.assert_close(moved[:, :1], step(Replacement())[:, :1])
    torch.testing.assert_close(moved[:, 1:], step(dps)[:, 1:])


def test_time_travel():
    """The contract, with calls counted; repeats = jump = 1 is the sampler bit for bit; and the exact h stays right:
    with it no mean moves, and deviations tend to the posterior's as steps get small (25 steps taken 3 times: within 25
    %, 100 steps: 10 %)."""
    for sampler in (
        TimeTravel(DDIM(1.0), 3, 2),
        TimeTravel(DDIM(), 2),
        TimeTravel(Heun(), 2, 2),
        TimeTravel(DPMpp2M(), 1, 2),
    ):
        check_sampler(sampler, [VP, VPTable.linear(100)])
    assert TimeTravel(DDIM(1.0), 10).calls(25) == 241 and TimeTravel(Heun(), 2, 3).calls(4) == 45
    prior, inner = CORRELATED.prior(VP), Ancestral()
    assert torch.equal(
        sample(prior, 4, sampler=TimeTravel(inner, 1), steps=7), sample(prior, 4, sampler=inner, steps=7)
    )
    for steps, most in ((25, 0.25), (100, 0.1)):
        mean, ratio = against(CORRELATED, CORRELATED.h, COMBINATIONS, TimeTravel(DDIM(1.0), 3), times(VP, steps))
        assert float(mean.abs().max()) < 0.01 and float((ratio - 1).abs().max()) < most
    with pytest.raises(ContractError, match=r"TimeTravel does not take one draw"):
        TimeTravel(inner).step(prior, torch.zeros(1, 3), *times(VP, 2)[:2], None, None)


# DiffPIR and DDRM: the same rule for the noise.


def test_refresh_keeps_the_marginals():
    """If the mean is x_0, x_s is N(alpha_s x_0, sigma_s^2); and its noise is DDIM's of another eta at each step, above
    1 for short ones."""
    grid = times(VP, 40)
    etas = []
    for t, s in pairwise(grid[:-1]):
        k = Refresh(0.3).kernel(t, s)
        assert k.c_x * t.alpha + k.c_mean == pytest.approx(s.alpha) and (
            k.c_x * t.sigma
        ) ** 2 + k.std**2 == pytest.approx(s.sigma**2)
        etas.append(k.std / DDIM(1.0).kernel(t, s).std)
        expected = DDIM(min(etas[-1], 1.0)).kernel(t, s)
        assert etas[-1] > 1 or expected == pytest.approx(k)
    assert max(etas) > 1.4 and min(etas) < 0.6
    check_sampler(Refresh(0.3))
    check_sampler(Refresh(0.0))


@pytest.mark.parametrize("zeta", [0.3, 0.7225, 1.0])
def test_refresh_tends_to_too_little_variance(zeta):
    """The prior alone, 1,600 steps: (1 + sqrt(1 - zeta)) / 2 of the variance, to 1 %; 20 steps of DDIM are nearer the
    truth."""
    world = gaussian_world(tensor([0.8]))
    _, c = moments(world.prior(VP), Refresh(zeta), times(VP, 1600))
    assert float(c) / 0.8 == pytest.approx((1 + math.sqrt(1 - zeta)) / 2, rel=0.01)


@pytest.mark.parametrize(("strength", "zeta"), [(1.0, 0.3), (7.0, 0.3), (7.0, 1.0)])
def test_diffpir(strength, zeta):
    """Its mean is the proximal point, found here by a dense solve. Of nearly flat data, 1,600 steps draw around y with
    the variance lambda sigma_y^2 (1 + sqrt(1 - zeta)) / 2, to 3 %: lambda = 7 varies 2.5 times as much as the
    posterior, zeta = 1 with lambda = 1 0.7 times as much."""
    grid = times(VP, 9)
    t = grid[4]
    x = DoubleNoise(0, 1).normal((3,))
    pred = CORRELATED.prior(VP)(x, torch.tensor(t.t))
    a, v = COMBINATIONS.likelihood.operator.matrix[0], (t.sigma / t.alpha) ** 2 / strength
    left = a.mT @ a / 0.04 + torch.eye(3) / v
    proximal = torch.linalg.solve(left, (COMBINATIONS.y @ a / 0.04 + pred.mean / v)[0])
    torch.testing.assert_close(pred.corrected(DiffPIR(strength)(pred, COMBINATIONS)).mean[0], proximal)
    flat = gaussian_world(tensor([100.0]))
    obs = measured(mask(1.0), tensor(1.0), 0.1)
    mean, c = moments(
        condition(flat.prior(VP), DiffPIR(strength), obs.repeat(3)), Refresh(zeta), times(VP, 1600, "log-snr")
    )
    assert float(mean) == pytest.approx(1.0, abs=0.01)
    assert float(c) == pytest.approx(strength * 0.01 * (1 + math.sqrt(1 - zeta)) / 2, rel=0.03)


def ddrm_by_hand(c, s, y, sigma_y, grid, eta, eta_b):
    """Mean and variance of one direction of a Gaussian world of variance c, singular value s, level by level."""
    first = grid[0].sigma / grid[0].alpha
    deviation = sigma_y / s if s else math.inf
    mean, variance = (y / s, first**2 - deviation**2) if deviation <= first else (0.0, first**2)
    for t, n in pairwise(grid):
        u, w = t.sigma / t.alpha, n.sigma / n.alpha
        g, k = c / (c + u**2), math.sqrt(1 - eta**2)
        if s and w >= deviation:
            f, b, v = (1 - eta_b) * g, eta_b * y / s, w**2 - (eta_b * deviation) ** 2
        elif s:
            f, b, v = g * (1 - k * w / deviation), k * w / deviation * y / s, (eta * w) ** 2
        else:
            f, b, v = g + k * w / u * (1 - g), 0.0, (eta * w) ** 2
        mean, variance = f * mean + b, f**2 * variance + v
    return mean, variance


@pytest.mark.parametrize("sigma_y", [0.0, 0.05, 0.4])
@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.5, 0.6)])
def test_ddrm_by_hand(sigma_y, eta, eta_b):
    """Independent data, y = (2 x_1, 0.5 x_2), x_3 unseen: each direction's mean and variance, recomputed on its own."""
    world = gaussian_world(torch.diag(tensor(0.1, 0.5, 2.0)))
    obs = measured(Matrix(tensor([2.0, 0.0, 0.0], [0.0, 0.5, 0.0])), tensor(0.9, -0.6), sigma_y)
    for spacing in ("angle", "centre"):
        grid = times(VP, 20, spacing)
        mean, covariance = law(world, Zero(), obs, DDRM(eta, eta_b), grid)
        for i, (c, s, y) in enumerate(((0.1, 2.0, 0.9), (0.5, 0.5, -0.6), (2.0, 0.0, 0.0))):
            expected = ddrm_by_hand(c, s, y, sigma_y, grid, eta, eta_b)
            assert (float(mean[i]), float(covariance[i, i])) == pytest.approx(expected, abs=1e-7)
        if sigma_y == 0 and eta_b == 1:
            torch.testing.assert_close(mean[:2], tensor(0.45, -1.2))
            assert float(covariance[:2].abs().max()) < 1e-12


def test_ddrm_varies_too_little():
    """As published, on a grid that ends below sigma_y: between 0.69 and 0.9 of the posterior's deviations on correlated
    data, in 20 steps and in 100; in 400 what is not measured has 0.874 of the prior's, sqrt((1 + sqrt(1 - 0.85^2)) /
    2), to 2 %."""
    for n in (20, 100):
        _, ratio = against(CORRELATED, Zero(), COMBINATIONS, DDRM(), times(VP, n, "centre"))
        assert float(ratio.min()) > 0.69 and float(ratio.max()) < 0.9
    _, ratio = against(DIAGONAL, Zero(), FIRST_SEEN, DDRM(), times(VP, 400))
    assert float(ratio[2]) == pytest.approx(math.sqrt((1 + math.sqrt(1 - 0.85**2)) / 2), rel=0.02)


def ddnm_by_hand(c, s, y, sigma_y, grid, eta, printed):
    """Mean and variance of one direction of a Gaussian world of variance c, singular value s, level by level."""
    d, mean, variance = sigma_y / s if s else math.inf, 0.0, grid[0].sigma ** 2
    for t, n in pairwise(grid):
        gain = t.alpha * c / (t.alpha**2 * c + t.sigma**2)  # x̂ = gain x
        if printed:
            k = DDIM(eta).kernel(t, n)
            share = 0.0 if not s else 1.0 if k.c_mean * d <= k.std else k.std / (k.c_mean * d)
            f = k.c_x + k.c_mean * (1 - share) * gain
            b, v = (k.c_mean * share * y / s, k.std**2 - (k.c_mean * share * d) ** 2) if s else (0.0, k.std**2)
        else:
            old, eps = math.sqrt(1 - eta**2), (1 - t.alpha * gain) / t.sigma
            if not s or not sigma_y:
                f, b, v = (
                    n.sigma * old * eps + (0 if s else n.alpha * gain),
                    n.alpha * y / s if s else 0.0,
                    (n.sigma * eta) ** 2,
                )
            elif n.alpha * d <= n.sigma:
                f, b, v = 0.0, n.alpha * y / s, n.sigma**2 - (n.alpha * d) ** 2
            else:
                share = n.sigma * old / (n.alpha * d)
                f, b, v = n.alpha * (1 - share) * gain, n.alpha * share * y / s, (n.sigma * eta) ** 2
        mean, variance = f * mean + b, f**2 * variance + v
    return mean, variance


@pytest.mark.parametrize("sigma_y", [0.0, 0.05, 0.4])
@pytest.mark.parametrize(("eta", "printed"), [(0.85, False), (1.0, True), (0.5, True)])
def test_ddnm_by_hand(sigma_y, eta, printed):
    """Independent data, y = (2 x_1, 0.5 x_2), x_3 unseen: each direction's mean and variance, recomputed on its own;
    without noise what is measured ends as y; and a direction that y hardly sees counts as unseen."""
    world = gaussian_world(torch.diag(tensor(0.1, 0.5, 2.0)))
    obs = measured(Matrix(tensor([2.0, 0.0, 0.0], [0.0, 0.5, 0.0])), tensor(0.9, -0.6), sigma_y)
    grid = times(VP, 20)
    for limit in (0.09, 1.0):
        mean, covariance = law(world, Zero(), obs, DDNM(eta, limit, printed=printed), grid)
        for i, (c, s, y) in enumerate(((0.1, 2.0, 0.9), (0.5, 0.5, -0.6), (2.0, 0.0, 0.0))):
            expected = ddnm_by_hand(c, s if sigma_y <= limit * s else 0.0, y, sigma_y, grid, eta, printed)
            assert (float(mean[i]), float(covariance[i, i])) == pytest.approx(expected, abs=1e-7)
    if sigma_y == 0:
        torch.testing.assert_close(mean[:2], tensor(0.45, -1.2))
        assert float(covariance[:2].abs().max()) < 1e-12


def test_ddnm_varies_too_little():
    """Deviations over the posterior's on correlated data, by steps: 0.69 to 0.92 as the authors' code has it, in 20 and
    in 100. What is not measured has 0.874 of the prior's in 400 steps, sqrt((1 + sqrt(1 - 0.85^2)) / 2), to 2 %, and
    all of it, to 2 %, as printed, whose measured directions have less than 0.3."""
    for n in (20, 100):
        _, ratio = against(CORRELATED, Zero(), COMBINATIONS, DDNM(), times(VP, n, "centre"))
        assert float(ratio.min()) > 0.68 and float(ratio.max()) < 0.92
    _, ratio = against(DIAGONAL, Zero(), FIRST_SEEN, DDNM(), times(VP, 400))
    assert float(ratio[2]) == pytest.approx(math.sqrt((1 + math.sqrt(1 - 0.85**2)) / 2), rel=0.02)
    _, ratio = against(DIAGONAL, Zero(), TWO_SEEN, DDNM(1.0, printed=True), times(VP, 400))
    assert float(ratio[2]) == pytest.approx(1, abs=0.02) and float(ratio[:2].max()) < 0.3, ratio


# RED-diff and DAPS.


def test_reddiff_is_adam():
    """Mu after 30 steps, against torch's own Adam on the loss of the authors' code (means over y and over mu), the
    prior's gradient stopped."""
    grid, prior = times(VP, 30, "uniform"), CORRELATED.prior(VP)
    x = sample(condition(prior, Zero(), COMBINATIONS), DoubleNoise(3, 1), sampler=REDDiff(0.1, 0.25), grid=grid)
    noise, like = DoubleNoise(3, 1), COMBINATIONS.likelihood
    noise.normal((3,))
    mu = like.operator.pinv(COMBINATIONS.y).requires_grad_()
    adam = torch.optim.Adam([mu], lr=0.1, betas=(0.9, 0.99))
    for t in grid[:-1]:
        n = noise.normal((3,))
        eps = prior((t.alpha * mu + t.sigma * n).detach(), torch.tensor(t.t)).eps
        loss = (
            like.residual(COMBINATIONS.y, mu).square().mean() / 2 + 0.25 * t.sigma / t.alpha * ((eps - n) * mu).mean()
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    torch.testing.assert_close(x, mu.detach(), rtol=1e-6, atol=1e-8)


def test_reddiff_ends_in_a_regularised_point():
    """A Gaussian world, one level all along (sigma = alpha), 2,000 steps of 0.003: the solution of
    A^T (A mu - y) + lambda (2/3) sigma^2 (alpha^2 C + sigma^2 I)^{-1} (mu - m) = 0 within 0.03, for 32 runs, whose
    spread is that of Adam's last steps, at most 0.15 of the posterior's least deviation: a point, not a posterior."""
    t = Level(0.5, math.sqrt(0.5), math.sqrt(0.5))
    grid = [t] * 2000 + [Level(0.0, 1.0, 0.0)]
    x = sample(
        condition(CORRELATED.prior(VP), Zero(), COMBINATIONS.repeat(32)), 32, sampler=REDDiff(0.003, 0.25), grid=grid
    )
    a, c, m = COMBINATIONS.likelihood.operator.matrix[0], CORRELATED.mixture.covariances[0], CORRELATED.mixture.means[0]
    prior = 0.25 * 2 / 3 * 0.5 * torch.linalg.inv(0.5 * c + 0.5 * torch.eye(3))
    expected = torch.linalg.solve(a.mT @ a + prior, a.mT @ COMBINATIONS.y[0] + prior @ m)
    assert float((x.mean(0) - expected).abs().max()) < 0.03
    assert float(x.std(0).max()) < 0.15 * float(CORRELATED.posterior(COMBINATIONS).std.min())


def test_reddiff_beyond_linear():
    """A clipped measurement of points inside the limits is followed by its derivative."""
    obs = measured(Clip(), tensor(0.4, -0.6, 0.2), 0.05)
    x = sample_posterior(CORRELATED.prior(VP), Zero(), obs, 8, sampler=REDDiff(0.02, 0.01), steps=100).x[0]
    assert float((x - obs.y / 2).abs().max()) < 0.1


def test_daps_is_exact_in_its_limit():
    """Round data, ode_steps = 1 (x̂_0 is the mean) and r^2 the variance that is left: p(x_0 | x_t) is right at every
    level, and 2 levels with 200 small Langevin steps draw the posterior: means to 0.01 deviations, deviations to 2 %
    (the steps themselves add rate / 4 = 1.3 %)."""
    mean, ratio = against(ROUND, Zero(), TWO_SEEN, DAPS(1, 200, 0.05, 0.7, tau=1, decay=1), times(VP, 2))
    assert float(mean.abs().max()) < 0.01 and float((ratio[:2] - 1).abs().max()) < 0.02
    assert float(ratio[2]) == pytest.approx(0.98, abs=0.04)  # unseen: mixes more slowly


def test_daps_beyond_its_limit():
    """Correlated data, 20 levels of 50 Langevin steps. With five ODE steps x̂_0 has a spread of its own under r^2, and
    deviations are 1.3 to 1.5 times the posterior's; with one step 1.1 to 1.2. Means are off by up to 0.2. As published
    (five ODE steps, 100 falling Langevin steps, tau = 0.2) deviations are 0.83 to 1.12 of the posterior's."""
    for ode, least, most in ((5, 1.25, 1.55), (1, 1.05, 1.2)):
        mean, ratio = against(CORRELATED, Zero(), COMBINATIONS, DAPS(ode, 50, 0.2, 1.0, tau=1, decay=1), times(VP, 20))
        assert least < float(ratio.min()) and float(ratio.max()) < most and float(mean.abs().max()) < 0.22, ratio
    mean, ratio = against(CORRELATED, Zero(), COMBINATIONS, DAPS(), times(VP, 20))
    assert float(ratio.min()) > 0.8 and float(ratio.max()) < 1.15 and float(mean.abs().max()) < 0.22, (mean, ratio)


# MGPS.


def half_time(u):
    """sigma/alpha at half of DDPM's time, B = .1 t + 9.95 t^2 = log(1 + u^2)."""
    t = (-0.1 + math.sqrt(0.01 + 39.8 * math.log1p(u**2))) / 19.9 / 2
    return math.sqrt(math.expm1(0.1 * t + 9.95 * t**2))


def mgps_by_hand(c, m0, y, sigma_y, grid, warm):
    """Mean and variance of one entry of independent Gaussian data, y its measurement or None, with the best Gaussians:
    all of them closed form, as everything is Gaussian."""
    mean, variance = 0.0, grid[0].sigma ** 2

    def gain(a, sigma):
        k = a * c / (a**2 * c + sigma**2)  # x̂ = m0 + k (x - a m0)
        return k, (1 - k * a) * m0

    def given_ends(a, s, t):
        """Factors of x_a and x_t, and variance, of q(x_s | x_a, x_t)."""
        first, second = s[1] ** 2 - (s[0] / a[0] * a[1]) ** 2, t[1] ** 2 - (t[0] / s[0] * s[1]) ** 2
        whole = t[1] ** 2 - (t[0] / a[0] * a[1]) ** 2
        return s[0] / a[0] * second / whole, t[0] / s[0] * first / whole, first * second / whole

    def weighed(factor, shift, v, k, q):
        """N(factor x + shift, v) times N(y; k x' + q, sigma_y^2) in x'."""
        if y is None:
            return factor, shift, v
        precision = 1 / v + k**2 / sigma_y**2
        return factor / v / precision, (shift / v + k * (y - q) / sigma_y**2) / precision, 1 / precision

    for step, (t, s) in enumerate(pairwise(grid)):
        now, k, q = (t.alpha, t.sigma), *gain(t.alpha, t.sigma)
        if s.sigma == 0:
            return k * mean + q, k**2 * variance
        u = half_time(s.sigma / s.alpha)
        middle, then = (1 / math.hypot(1, u), u / math.hypot(1, u)), (s.alpha, s.sigma)
        f0, ft, v = given_ends((1.0, 0.0), middle, now)
        f, b, v = weighed(f0 * k + ft, f0 * q, v, *gain(*middle))  # x_l = f x_t + b + sqrt(v) n
        end = middle
        if step < warm:  # p(x_1) q(x_l | x_1) p(y | x_1)
            end = (1 / math.hypot(1, 0.015), 0.015 / math.hypot(1, 0.015))
            ratio, own = middle[0] / end[0], end[0] ** 2 * c + end[1] ** 2
            left = middle[1] ** 2 - (ratio * end[1]) ** 2
            wide = 1 / (1 / own + ratio**2 / left)
            g, d, w = weighed(wide * ratio / left, wide * end[0] * m0 / own, wide, 1.0, 0.0)
            f, b, v = g * f, g * b + d, g**2 * v + w
        fa, ft, left = given_ends(end, then, now)
        mean, variance = (fa * f + ft) * mean + fa * b, (fa * f + ft) ** 2 * variance + fa**2 * v + left


@pytest.mark.parametrize("warm", [0, 2])
def test_mgps_with_many_gradient_steps(warm):
    """Independent data, where independent entries are enough, 4 steps with 150 gradient steps each: mean and deviation
    of 400 samples are those of the best Gaussians to 4 standard errors, with what Adam's last steps leave (.03 of a
    deviation)."""
    n, grid = 400, times(VP, 4)
    sampler = MGPS(0.5, 150, many=150, rate=0.02, warm=warm)
    x = sample(condition(DIAGONAL.prior(VP), Zero(), TWO_SEEN.repeat(n)), n, sampler=sampler, grid=grid)
    for i, (c, m0, y) in enumerate(((0.1, 0.3, 1.3), (0.5, -0.2, -0.7), (2.0, 0.1, None))):
        mean, variance = mgps_by_hand(c, m0, y, 0.25, grid, warm)
        std = math.sqrt(variance)
        assert abs(float(x[:, i].mean()) - mean) < (4 / math.sqrt(n) + 0.03) * std, i
        assert abs(float(x[:, i].std()) / std - 1) < 4 / math.sqrt(2 * n) + 0.03, i


def test_mgps_is_biased():
    """The law of these best Gaussians, without warm steps: in 300 steps the mean of the first entry, whose prior is
    narrow, is .8 deviations off (1.0 in 50), and what is seen varies 1.2 to 1.5 times as much as the posterior. What
    is not seen is the prior's."""
    exact = DIAGONAL.posterior(TWO_SEEN)
    for steps, off in ((50, -1.0), (300, -0.78)):
        found = [
            mgps_by_hand(c, m0, y, 0.25, times(VP, steps, "uniform"), 0)
            for c, m0, y in ((0.1, 0.3, 1.3), (0.5, -0.2, -0.7), (2.0, 0.1, None))
        ]
        mean = [(m - float(exact.mean[i])) / float(exact.std[i]) for i, (m, _) in enumerate(found)]
        ratio = [math.sqrt(v) / float(exact.std[i]) for i, (_, v) in enumerate(found)]
        assert mean == pytest.approx([off, 0.18, 0], abs=0.05)
        assert ratio == pytest.approx([1.22, 1.53, 0.98], abs=0.03)


# Flower.


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_flower_is_exact_for_round_data(steps):
    """Data N(0, d^2 I), gamma = 1: the posterior in any number of steps, to 1e-3 (the start has no trace of y). With
    gamma = 0 its mean, and less spread: in one step none."""
    grid = times(VP, steps)
    mean, ratio = against(ROUND, Zero(), TWO_SEEN, Flower(1.0, 0.7), grid)
    assert float(mean.abs().max()) < 1e-3 and float((ratio - 1).abs().max()) < 1e-3, (mean, ratio)
    mean, ratio = against(ROUND, Zero(), TWO_SEEN, Flower(0.0, 0.7), grid)
    assert float(mean.abs().max()) < 1e-3 and float(ratio.max()) < (0.02 if steps == 1 else 0.72)


@pytest.mark.parametrize(("gamma", "noise"), [(0.0, 0.3), (0.5, 0.3), (1.0, 0.3), (1.0, 0.0)])
def test_flower_by_hand(gamma, noise):
    """Independent data, y = (2 x_1, 0.5 x_2), x_3 unseen: each direction's mean and variance, recomputed on its own.
    Without noise its stand-in, .02."""
    world = gaussian_world(torch.diag(tensor(0.1, 0.5, 2.0)))
    obs = measured(Matrix(tensor([2.0, 0.0, 0.0], [0.0, 0.5, 0.0])), tensor(0.9, -0.6), noise)
    s2 = (noise or 0.02) ** 2
    for spacing in ("angle", "log-snr"):
        grid = times(VP, 20, spacing)
        mean, covariance = law(world, Zero(), obs, Flower(gamma), grid)
        for i, (c, s, y) in enumerate(((0.1, 2.0, 0.9), (0.5, 0.5, -0.6), (2.0, 0.0, 0.0))):
            m, v = 0.0, grid[0].sigma ** 2
            for t, n in pairwise(grid):
                gain = t.alpha * c / (t.alpha**2 * c + t.sigma**2)
                nu2 = t.sigma**2 / (t.alpha**2 + t.sigma**2)
                precision = 1 / nu2 + s**2 / s2
                m = n.alpha * (gain * m / nu2 + s * y / s2) / precision
                v = n.alpha**2 * ((gain / nu2 / precision) ** 2 * v + gamma**2 / precision) + n.sigma**2
            assert (float(mean[i]), float(covariance[i, i])) == pytest.approx((m, v), abs=1e-9)


def test_flower_varies_too_little_by_default():
    """Correlated data, 100 even steps: deviations of .68 to .71 of the posterior's for gamma = 0, of 1.03 to 1.05 for
    gamma = 1 with d = 1; means less than .1 off."""
    for gamma, least, most in ((0.0, 0.68, 0.72), (1.0, 1.02, 1.06)):
        mean, ratio = against(CORRELATED, Zero(), COMBINATIONS, Flower(gamma), times(VP, 100, "uniform"))
        assert least < float(ratio.min()) and float(ratio.max()) < most and float(mean.abs().max()) < 0.1


# C-ΠGDM.


@pytest.mark.parametrize("w", [3.0, 15.0])
def test_cpigdm_is_the_ode_it_says(w):
    """Noisy y: a step of width 1e-4 in u divided by it is eps - sigma h with h = w alpha^2 J^T A^+ F r, F = sigma^2 /
    (sigma^2 + sigma_y^2 / s_i^2), all dense, to 0.1 %; on another schedule of the same u it is the same z."""
    a, c, m = COMBINATIONS.likelihood.operator.matrix[0], CORRELATED.mixture.covariances[0], CORRELATED.mixture.means[0]
    left, values, right = torch.linalg.svd(a, full_matrices=False)
    for u in (0.1, 0.8, 3.0):
        alpha, sigma = 1 / math.hypot(1, u), u / math.hypot(1, u)
        x = DoubleNoise(0, 1).normal((3,))
        gain = alpha * c @ torch.linalg.inv(alpha**2 * c + sigma**2 * torch.eye(3))
        mean = m + (x[0] - alpha * m) @ gain
        share = sigma**2 / (sigma**2 + (0.2 / values) ** 2)
        r = right.mT @ (share / values * (left.mT @ (COMBINATIONS.y[0] - a @ mean)))
        h = w * alpha**2 * gain.mT @ r
        slope = (x[0] - alpha * mean) / sigma - sigma * h
        found = []
        for scale in (1.0, 2.5):  # the same u where alpha and sigma are 2.5 times as large
            t = Level(float(VP.time_of(torch.tensor(-2 * math.log(u)))), scale * alpha, scale * sigma)
            s = Level(0.0, scale / math.hypot(1, u - 1e-4), scale * (u - 1e-4) / math.hypot(1, u - 1e-4))
            prior = MeanDenoiser(
                lambda x, a, s: m + (x - a * m) @ (a * c @ torch.linalg.inv(a**2 * c + s**2 * torch.eye(3))),
                Grown(scale),
                (3,),
            )
            z = CPiGDM(w).step(condition(prior, Zero(), COMBINATIONS), scale * x, t, s, None, "started")[0] / s.alpha
            found.append(((z - x / alpha) / -1e-4)[0])
        torch.testing.assert_close(found[0], slope, rtol=1e-3, atol=1e-3 * float(slope.abs().max()))
        torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)


class Grown(VPCosine):
    """VPCosine with alpha and sigma times a number."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def log_alpha(self, t):
        return super().log_alpha(t) + math.log(self.scale)

    def log_sigma(self, t):
        return super().log_sigma(t) + math.log(self.scale)


@pytest.mark.parametrize("d", [0.0, 0.05, 2.0])
def test_cpigdm_coefficients_of_wide_steps(d):
    """Rho and the integral of the Jacobian's term by 200,000 midpoints, from the first level of the schedule too."""
    w, sampler, seen = 15.0, CPiGDM(15.0), torch.ones(1, dtype=torch.bool)
    d2 = tensor(d**2)
    for u, v in ((148.0, 5.0), (2.0, 0.5), (0.5, 0.0)):
        edges = torch.linspace(math.asinh(v), math.asinh(u), 200001, dtype=F64)
        x, width = torch.sinh((edges[1:] + edges[:-1]) / 2), edges.diff()
        slope = w * x**2 / (x**2 + d**2 * (1 + x**2)) * x / (1 + x**2).sqrt()  # of -log q, in asinh x
        q = (-((slope * width).cumsum(0) - slope * width / 2)).exp()  # over q_v
        then = sampler._log_q(v, d2, seen)
        rho = (sampler._log_q(u, d2, seen) - then).exp()
        assert float(rho) == pytest.approx(math.exp(-float((slope * width).sum())), rel=1e-4, abs=1e-9)
        found = sampler._of_jacobian(u, v, d2, seen, then)
        assert float(found) == pytest.approx(-float((w * torch.tanh(torch.asinh(x)) ** 2 * q * width).sum()), rel=2e-3)


@pytest.mark.parametrize("w", [1.0, 4.0])
def test_cpigdm_is_biased(w):
    """Data N(0, I) without noise in y, 200 steps from u = 2: a seen entry keeps sigma_0 e^(-w (1 - alpha_0^4)/4) of the
    start's spread and ends at y times the closed form of the same linear ODE, x' = w alpha^2 y - w alpha^3 x in alpha;
    the hidden one has deviation sigma_0. To 1 %."""
    world, obs = gaussian_world(torch.eye(3, dtype=F64)), measured(mask(1.0, 1.0, 0.0), tensor(1.3, -0.7, 0.0), 0.0)
    grid = begun_at(VP, times(VP, 200, "uniform"), 2.0)
    mean, covariance = law(world, Zero(), obs, CPiGDM(w), grid)
    first, sigma = grid[0].alpha, grid[0].sigma
    a = torch.linspace(first, 1, 100001, dtype=F64)
    a, width = (a[1:] + a[:-1]) / 2, a.diff()
    kept = math.exp(-w / 4 * (1 - first**4))
    ends = first * kept + float((w * a**2 * (-w / 4 * (1 - a**4)).exp() * width).sum())
    torch.testing.assert_close(mean, ends * obs.y[0], rtol=0.01, atol=1e-6)
    expected = sigma * tensor(kept, kept, 1.0)
    torch.testing.assert_close(covariance.diagonal().sqrt(), expected, rtol=0.01, atol=1e-6)


# Samplers with a rule of their own keep the contract, and so does every row of the table.

OWN = {
    "ddrm": DDRM(),
    "ddnm": DDNM(),
    "ddnm, printed": DDNM(1.0, printed=True),
    "reddiff": REDDiff(),
    "daps": DAPS(3, 4),
    "mgps": MGPS(many=3, every=3, warm=2),
    "cpigdm": CPiGDM(),
    "flower": Flower(),
    "flower, spread": Flower(1.0, 0.7),
    "imputed": Imputed(DDIM(1.0)),
    "travelling": TimeTravel(DDRM(), 2),
    "repaint": TimeTravel(Imputed(DDIM(1.0)), 2, 3),
}


THROUGH_THE_PRIOR = ("mgps", "cpigdm")


@pytest.mark.parametrize("schedule", [VP, VPTable.linear(100)], ids=lambda s: s.name)
@pytest.mark.parametrize("name", OWN)
def test_own_samplers(name, schedule):
    """calls(N) calls of the prior, without gradients but for `THROUGH_THE_PRIOR`; the same noise gives the same
    samples; a sample has its own mask, noise level and stream, and does not depend on its batch;
    and a bare prior is refused."""
    sampler, prior = OWN[name], CORRELATED.prior(schedule)
    masks = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    like = Gaussian(Mask(masks), torch.tensor([0.1, 0.3, 0.2, 0.1]))
    obs = Observation(like.sample(CORRELATED.sample(4, 1), DoubleNoise(2, 4)), like)
    denoiser = condition(prior, Zero(), obs)
    modes = []
    prior.register_forward_pre_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    whole = sample(denoiser, DoubleNoise(5, 4), sampler=sampler, steps=6)
    assert len(modes) == sampler.calls(6) and any(modes) == (name in THROUGH_THE_PRIOR)
    assert torch.equal(whole, sample(denoiser, DoubleNoise(5, 4), sampler=sampler, steps=6))
    assert not torch.equal(whole, sample(denoiser, DoubleNoise(6, 4), sampler=sampler, steps=6))
    for i in range(4):
        alone = sample(condition(prior, Zero(), obs[i]), DoubleNoise(5, [i]), sampler=sampler, steps=6)
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-9, atol=1e-9)
    with pytest.raises(InputError, match="uses the measurement itself"):
        sample(prior, 4, sampler=sampler, steps=6)


@pytest.mark.parametrize("name", [m for m in METHODS if not METHODS[m].trained])
def test_every_row_draws(name):
    """8 samples of half-seen fields on 3 x 3 pixels, each row with its own defaults (hmc with fewer iterations, DPS
    with a step for nine numbers); all but the prior bring the residual of seen entries below half of the prior's."""
    torch.set_default_dtype(torch.float32)
    world, obs = half_seen(3)
    p = plan(name, settings={"hmc": {"iterations": 8}, "dps": {"zeta": 0.5}}.get(name))
    x = p.draw(world.prior(VP), obs, 8).x[0]
    assert x.shape == (8, 9) and bool(torch.isfinite(x).all()) and x.dtype == torch.float32
    if name != "prior":
        free = plan("prior").draw(world.prior(VP), obs, 8).x[0]
        rms = [float(obs.repeat(8).likelihood.residual(obs.repeat(8).y, v).square().mean().sqrt()) for v in (x, free)]
        assert rms[0] < 0.6 * rms[1], rms
    if name in ("ddrm", "ddnm", "reddiff", "daps", "mgps", "cpigdm", "flower"):
        with pytest.raises(InputError, match="has no h to scale"):
            p.draw(world.prior(VP), obs, 2, scale=2.0)


@pytest.mark.parametrize(
    "name", ["tmpd", "mmps", "ddrm", "ddnm", "cpigdm", "flower", "mcg", "replacement", "imputation", "repaint"]
)
def test_what_a_row_needs_is_said(name):
    with pytest.raises(InputError, match=r"needs a .*, got Gaussian of Clip"):
        plan(name).draw(CORRELATED.prior(VP), measured(Clip(), tensor(0.4, -0.6, 0.2), 0.05), 1)
