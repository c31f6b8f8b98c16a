"""Particles: evidence, moments and mode weights are right whatever proposes, and the weights say how far off it was.

Targets are exact: in the Gaussian world that of the prior as the sampler draws it (`moments`), so that no error of the
steps has to be allowed for.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deft import DEFT, Gaussian, Mask, NetworkDenoiser, Noise, Observation, VPCosine, condition, freeze
from deft.core.denoiser import Prediction
from deft.core.grid import times
from deft.core.operator import LinearOperator
from deft.core.random import seed_for
from deft.core.transition import Kernel, Level
from deft.errors import InputError
from deft.guidance import DPS, PiGDM, Predictive, ReconstructionGuidance, SeenNoisy
from deft.guidance.combine import Interval, Scaled, Zero
from deft.guidance.exact import Mixture, dense
from deft.methods import plan
from deft.samplers import DDIM, Ancestral, Heun, Ito, adapted, sample, sample_paths, sample_posterior, sample_smc
from deft.samplers.diagnostics import ess_fraction
from deft.samplers.smc import systematic
from deft.testing import InsideWorld, MixtureWorld, check_htransform, check_operator, moments, two_modes
from toys import F64, tensor
from toys import THREE as WORLD
from toys import THREE_PRIOR as PRIOR
from toys import THREE_SEEN as OBS

GRID = times(VPCosine(), 40, "log-snr")


MASKED = Observation(tensor([0.6, 0.0, -0.3]), Gaussian(Mask(tensor([1.0, 0.0, 1.0])), torch.tensor(0.3, dtype=F64)))


class Apart(LinearOperator):
    """The first two numbers up to their mean: a projection of rank 1 that is no mask."""

    projection = True

    def __call__(self, x):
        return 0.5 * x @ torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=x.dtype)

    def adjoint(self, y):
        return self(y)

    def measured_part(self, y):
        return self(y)

    def number_of_measurements(self, y):
        return y.new_ones(len(y))


APART = Observation(tensor([0.5, -0.5, 0.0]), Gaussian(Apart(), torch.tensor(0.3, dtype=F64)))


def drawn(obs, sampler, grid=GRID):
    """The exact posterior of the prior as `sampler` draws it on `grid`."""
    m, c = moments(PRIOR, sampler, grid)
    return MixtureWorld(Mixture(tensor(1.0), m[None], c[None])).posterior(obs)


def run(h, twist, n, particles, obs=OBS, world=WORLD, grid=GRID, **options):
    """One sample of each of n repetitions of a measurement, every repetition with streams of its own."""
    return sample_smc(
        world.prior(VPCosine()), h, obs.repeat(n), twist=twist, particles=particles, grid=grid, batch=10**5, **options
    )


def right(x, exact, most=4.0):
    """Mean and variance of x [n, d] are those of a Gaussian, within `most` standard errors."""
    x, n = x.double(), len(x)
    z = (x.mean(0) - exact.mean) / (exact.std / math.sqrt(n))
    v = (x.var(0) / exact.std**2 - 1) / math.sqrt(2 / n)
    return bool((z.abs() < most).all() and (v.abs() < most).all()), (z, v)


PROPOSALS = {
    "prior": (Zero(), Predictive(0.5), OBS, {}),
    "pigdm": (PiGDM(1.0), Predictive(0.5), OBS, {}),
    "pigdm under another twist": (PiGDM(1.0), Predictive(1.5), OBS, {"sampler": Ito()}),
    "tds": (Predictive(0.5), Predictive(0.5), OBS, {"sampler": DDIM(0.7)}),
    "dps": (DPS(0.5), Predictive(0.5), OBS, {}),
    "exact": (WORLD.h, WORLD.h, OBS, {"sampler": Ito()}),
    "mcgdiff": (Zero(), SeenNoisy(), MASKED, {"move": adapted}),
    "mcgdiff, a projection": (Zero(), SeenNoisy(), APART, {"move": adapted}),
}


@pytest.mark.parametrize("name", PROPOSALS)
def test_evidence_and_moments(name):
    """Of 300 repetitions of 20 particles: the mean estimate of p(y) is right within 4 standard errors (it is unbiased),
    and so are mean and variance of one sample from each."""
    h, twist, obs, options = PROPOSALS[name]
    exact = drawn(obs, options.get("sampler", Ancestral()))
    out = run(h, twist, 300, 20, obs, **options)
    z = (out.log_evidence - exact.log_evidence).exp()
    assert abs(float(z.mean()) - 1) < 4 * float(z.std()) / math.sqrt(len(z)), (float(z.mean()), float(z.std()))
    good, off = right(out.x[:, 0], exact)
    assert good, off
    assert out.diagnostics.ess_fraction.shape == (300, len(GRID)) and bool(
        (out.diagnostics.ess_fraction <= 1 + 1e-9).all()
    )


@pytest.mark.parametrize("h", [PiGDM(1.0), ReconstructionGuidance(), DPS(1.0)], ids=lambda h: type(h).__name__)
def test_plain_guidance_is_wrong(h):
    """What particles repair (`test_evidence_and_moments`): the same proposals without weights are off by 8 and more
    standard errors of 2,000 samples."""
    x = sample_posterior(PRIOR, h, OBS, 2000, sampler=Ancestral(), grid=GRID, batch=2000).x[0]
    good, (z, v) = right(x, drawn(OBS, Ancestral()), 8.0)
    assert not good, (z, v)


def test_mode_weights():
    """Two modes 4 apart: with 20 particles the share of samples in one of them is right within 4 standard errors of 600
    and 1 % for the steps; plain ΠGDM with the deviation of a mode, which proposes here, is off by more than 6."""
    n, world, grid = 600, two_modes(), times(VPCosine(), 50, "log-snr")
    obs = Observation(torch.tensor([[-0.25, 0.0]]), Gaussian(Mask(torch.tensor([[1.0, 0.0]])), 0.7))
    exact, h = world.posterior(obs), PiGDM(0.5)
    p = float(exact.mixture.weights[0])
    error = math.sqrt(p * (1 - p) / n)
    assert 0.3 < p < 0.7

    def share(x):
        return float((x.sum(1) < 0).double().mean())

    plain = sample_posterior(world.prior(VPCosine()), h, obs, n, sampler=Ancestral(), grid=grid, batch=n).x[0]
    out = run(h, Predictive(1.0), n, 20, obs, world, grid)
    assert abs(share(plain) - p) > 6 * error
    assert abs(share(out.x[:, 0]) - p) < 4 * error + 0.01, (share(out.x[:, 0]), p)
    z = (out.log_evidence - exact.log_evidence).exp()
    assert abs(float(z.mean()) - 1) < 4 * float(z.std()) / math.sqrt(n) + 0.03  # 50 steps


def test_a_truncated_normal():
    """An event has no useful gradient; where x̂ is outside the twist says "hardly". P(event), mean and variance within
    4 standard errors, of the normal law that 40 steps draw from."""
    n, grid, world = 300, times(VPCosine(), 40), InsideWorld(0.5, math.inf)
    d = float(moments(world.prior(VPCosine()), Ancestral(), grid)[1]) ** 0.5
    exact = InsideWorld(0.5 / d, math.inf)
    out = run(Zero(), Predictive(1.0), n, 32, world.observation(1), world, grid)
    z = out.log_evidence.exp()
    assert abs(float(z.mean()) - exact.mass) < 4 * float(z.std()) / math.sqrt(n)
    x = out.x[:, 0, 0].double() / d
    assert bool((x > 0.5 / d - 1e-6).all())
    assert abs(float(x.mean()) - exact.mean) < 4 * math.sqrt(exact.variance / n)
    fourth = float(((x - x.mean()) ** 4).mean())
    assert abs(float(x.var()) - exact.variance) < 4 * math.sqrt((fourth - float(x.var()) ** 2) / n)


def test_how_far_it_moves():
    """Weights of whole paths (never resampled), 48 particles: with the exact h they are nearly equal and move the
    estimate little; with ΠGDM more, with the prior alone most. More steps help the exact h alone."""
    figures = {}
    for name, h in {"exact": WORLD.h, "pigdm": PiGDM(1.0), "prior": Zero()}.items():
        for steps in (40, 160):
            out = run(
                h, Predictive(0.5), 20, 48, sampler=Ito(), grid=times(VPCosine(), steps, "log-snr"), ess_threshold=0.0
            )
            figures[name, steps] = (
                float(out.diagnostics.ess_fraction[:, -1].mean()),
                float(out.diagnostics.moved.mean()),
            )
            assert float(out.diagnostics.resampled.sum()) == 0
    assert figures["exact", 160][0] > 0.9 and figures["exact", 160][1] < 0.06, figures
    assert figures["exact", 160][0] > figures["exact", 40][0] + 0.1
    for name in ("pigdm", "prior"):
        assert figures[name, 160][0] < 0.75 and figures[name, 160][1] > 2 * figures["exact", 160][1], figures
    assert figures["prior", 160][0] < 0.1


@pytest.mark.parametrize("sampler", [Ancestral(), Ito(), DDIM(0.5)], ids=lambda s: type(s).__name__)
def test_one_particle_is_plain_sampling(sampler):
    """Bit for bit the paths of `sample_paths`, and their weights; and `sample` with h left out of the last step."""
    obs, h = OBS.repeat(5), PiGDM(1.0)
    out = sample_smc(PRIOR, h, obs, twist=Predictive(0.5), particles=1, sampler=sampler, grid=GRID, seed=3, first=7)
    paths = sample_paths(PRIOR, h, obs, 1, sampler=sampler, grid=GRID, seed=3, first=7)
    assert torch.equal(out.x, paths.x)
    torch.testing.assert_close(out.log_evidence, paths.log_weight[:, 0], rtol=0, atol=2e-4)
    last = GRID[-2].sigma / GRID[-2].alpha
    plain = sample(
        condition(PRIOR, Interval(h, 1.01 * last, math.inf), obs),
        Noise(seed_for("samples", 3), range(7, 12)),
        sampler=sampler,
        grid=GRID,
    )
    torch.testing.assert_close(out.x[:, 0], plain, rtol=1e-4, atol=1e-5)


def test_measurements_do_not_see_each_other():
    """Whatever the batch, and whichever the first: the same particles, resampling included."""
    y = OBS.likelihood.sample(WORLD.sample(5, 3), Noise(4, 5))
    obs = Observation(y, OBS.likelihood)
    options = {"twist": Predictive(0.5), "particles": 8, "grid": GRID}
    whole = sample_smc(PRIOR, Zero(), obs, 3, batch=64, **options)
    assert whole.x.shape == (5, 3, 3) and float(whole.diagnostics.resampled.min()) > 0
    for part in (
        sample_smc(PRIOR, Zero(), obs, 3, batch=1, **options),
        sample_smc(PRIOR, Zero(), obs, 3, batch=16, **options),
    ):
        torch.testing.assert_close(part.x, whole.x, rtol=1e-4, atol=1e-5)
        assert torch.equal(part.diagnostics.resampled, whole.diagnostics.resampled)
    last = sample_smc(PRIOR, Zero(), obs[3:], 3, first=3, **options)
    torch.testing.assert_close(last.x, whole.x[3:], rtol=1e-4, atol=1e-5)
    other = sample_smc(PRIOR, Zero(), obs, 3, seed=1, **options)
    assert not torch.allclose(other.x, whole.x, atol=1e-2)


def test_independent_populations_are_populations():
    """Sample j of measurement i is what its own particles give, whatever the others; the evidence is the mean of
    theirs."""
    two = OBS.repeat(2)
    options = {"twist": Predictive(0.5), "particles": 4, "grid": GRID, "batch": 10**5}
    both = sample_smc(PRIOR, PiGDM(0.5), two, 3, independent=True, first=5, **options)
    assert (
        both.x.shape == (2, 3, 3)
        and both.diagnostics.ess_fraction.shape == (2, len(GRID))
        and both.log_evidence.shape == (2,)
    )
    for i in range(2):
        for j in range(3):
            alone = sample_smc(PRIOR, PiGDM(0.5), OBS, 1, first=(5 + i) * 3 + j, **options)
            assert torch.equal(both.x[i, j], alone.x[0, 0])
    each = sample_smc(PRIOR, PiGDM(0.5), OBS.repeat(3), 1, first=15, **options)
    assert torch.allclose(both.log_evidence[0].exp(), each.log_evidence.exp().mean())


def test_samples_of_one_population_are_alike_and_independent_ones_are_not():
    """Two samples of a measurement, over 2,000 repetitions: their correlation is 0 (SE .022) only from particles of
    their own."""
    n = 2000

    def correlation(independent):
        x = sample_smc(
            PRIOR,
            Zero(),
            OBS.repeat(n),
            2,
            twist=Predictive(0.5),
            particles=2,
            ess_threshold=1.0,
            independent=independent,
            grid=GRID,
            batch=10**5,
        ).x[..., 0]
        return float(torch.corrcoef(x.T)[0, 1])

    assert correlation(False) > 0.3
    assert abs(correlation(True)) < 4 / math.sqrt(n)


def test_systematic_resampling():
    """Particle k is taken floor or ceil of n w_k times, and n w_k times on average: 4 standard errors of at most 1/2 a
    draw."""
    log_w = torch.randn(1, 7, generator=torch.Generator().manual_seed(0), dtype=F64).expand(4000, 7)
    w = torch.softmax(log_w[0], 0)
    for n in (1, 7, 20):
        picked = torch.nn.functional.one_hot(systematic(log_w, Noise(0, 4000).uniform(), n), 7).sum(1).double()
        assert bool(((picked >= (n * w).floor()) & (picked <= (n * w).ceil())).all())
        assert bool(((picked.mean(0) - n * w).abs() < 4 * 0.5 / math.sqrt(4000)).all())
    assert torch.equal(systematic(torch.zeros(1, 5), torch.tensor([0.3]), 5), torch.arange(5)[None])
    assert float(ess_fraction(torch.zeros(1, 5))) == pytest.approx(1)
    assert float(ess_fraction(tensor([0.0, -1e9, -1e9, -1e9]))) == pytest.approx(1 / 4)


def test_a_projection_is_one():
    check_operator(Apart(), (3,))
    with pytest.raises(AssertionError, match="A A x is not A x"):
        check_operator(Doubled(), (3,))
    with pytest.raises(AssertionError, match="A\\^T is not A"):
        check_operator(Slanted(), (3,))
    with pytest.raises(AssertionError, match="must be A y"):
        check_operator(Unrestricted(), (3,))
    with pytest.raises(AssertionError, match="number_of_measurements is not the rank"):
        check_operator(Miscounted(), (3,))
    with pytest.raises(
        InputError, match="mask, or another orthogonal projection, with Gaussian noise, got Gaussian of Matrix"
    ):
        SeenNoisy.law(1.0, 0.1, OBS, torch.zeros(1, 3))


class Slanted(Apart):
    """Idempotent, and not symmetric."""

    def __call__(self, x):
        return x @ torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=x.dtype)

    def adjoint(self, y):
        return y @ torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=y.dtype)


class Unrestricted(Apart):
    def measured_part(self, y):
        return y


class Miscounted(Apart):
    def number_of_measurements(self, y):
        return y.new_full((len(y),), 3.0)


class Doubled(Apart):
    def __call__(self, x):
        return 2 * super().__call__(x)

    def measured_part(self, y):
        return Apart.__call__(self, y)


@pytest.mark.parametrize("seen", [MASKED, APART], ids=["mask", "projection"])
def test_the_adapted_step_has_the_predictive_weight(seen):
    """log(prior's step / step) + twist at s = log of the integral of prior's step times twist, whatever the noise;
    nothing changes outside A's range."""
    s, kernel, n = Level(0.2, 0.9, 0.4), Kernel(0.5, 0.4, 0.3), Noise(1, 4).normal((3,)).double()
    x_t, mean = Noise(2, 4).normal((3,)).double(), Noise(3, 4).normal((3,)).double()
    obs, zero, a = seen.repeat(4), torch.zeros_like(n), seen.likelihood.operator
    x_s, ratio = adapted(kernel, s, x_t, mean, zero, n, obs)
    one = torch.ones(1, 1, dtype=F64)
    log_psi = SeenNoisy().log_h(Prediction(x_s, torch.zeros(4), s.alpha * one, s.sigma * one, x_s), obs)
    centre, variance = 0.5 * x_t + 0.4 * mean, 0.3**2 + 0.4**2 + (0.9 * 0.3) ** 2
    values, axes = torch.linalg.eigh(dense(a, (3,), F64)[0])
    axes = axes[:, values > 0.5]  # of A's range
    expected = torch.distributions.Normal(a(centre) @ axes, math.sqrt(variance)).log_prob(0.9 * obs.y @ axes).sum(1)
    torch.testing.assert_close(ratio + log_psi, expected, rtol=1e-6, atol=1e-6)
    free = centre + 0.3 * n
    torch.testing.assert_close(x_s - a(x_s), free - a(free))


def test_a_calibrated_variance_is_for_gaussian_noise():
    """rho^2 as DEFT measures it ends at the data's own variance: as a share of data_std^2 it would call much known
    where nothing is."""
    event = InsideWorld(0.6, 2.0, dim=3).observation(16)  # where no mean lies
    pred = PRIOR(torch.randn(16, 3, dtype=F64), torch.tensor(0.9, dtype=F64))
    assumed = Predictive(1.0).log_h(pred, event)
    torch.testing.assert_close(
        Predictive(1.0, rho2=lambda level: torch.full_like(level, 0.01)).log_h(pred, event), assumed
    )
    assert bool((assumed < 0).all()) and bool((assumed > -1).all())


def test_twists_are_potentials():
    """`Predictive` is ΠGDM's potential for a linear measurement, and every twist is finite and its own gradient."""
    obs = Observation(OBS.likelihood.sample(WORLD.sample(16, 1), Noise(2, 16)), OBS.likelihood)
    check_htransform(Predictive(0.5), PRIOR, obs)
    x = torch.randn(16, 3, dtype=F64).requires_grad_()
    pred = PRIOR(x, torch.tensor(0.4, dtype=F64))
    torch.testing.assert_close(Predictive(0.7).log_h(pred, obs), PiGDM(0.7).log_h(pred, obs))
    log_h, h = SeenNoisy().log_h(pred, MASKED.repeat(16)), SeenNoisy()(pred, MASKED.repeat(16))
    torch.testing.assert_close(h, torch.autograd.grad(log_h.sum(), x, retain_graph=True)[0])
    event = InsideWorld(-0.5, 2.0, dim=3)
    value = Predictive(1.0).log_h(pred.detach(), event.observation(16))
    assert bool(torch.isfinite(value).all())


class Counted(nn.Module):
    """Counts its calls and rows, and refuses gradients."""

    def __init__(self):
        super().__init__()
        self.net, self.calls, self.rows = nn.Linear(4, 3), 0, 0

    def forward(self, x, t):
        assert not torch.is_grad_enabled()
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        return torch.tanh(self.net(torch.cat([x, t.to(x.dtype)[:, None]], 1)))


def test_particles_of_deft_never_differentiate():
    """deft-smc: no gradient anywhere, K calls a step, and the table says so."""
    prior, h = freeze(NetworkDenoiser(Counted(), VPCosine(), (3,), "x0")), DEFT((3,), 2, width=8)
    obs = Observation(MASKED.y.float(), Gaussian(Mask(torch.tensor([[1.0, 0.0, 1.0]])), 0.3))
    chosen = plan("deft-smc", steps=7, settings={"particles": 5})
    out = chosen.draw(prior, obs.repeat(2), 3, fitted=h, scale=1.1)
    assert out.x.shape == (2, 3, 3) and out.log_evidence.shape == (2,) and chosen.calls(3) == 7 * 5 / 3
    assert prior.net.calls - 2 == 7 and prior.net.rows - 2 == 7 * 5 * 2  # two at the door
    x = plan("mcgdiff", steps=7, settings={"particles": 5}).draw(prior, obs, 2).x
    assert x.shape == (1, 2, 3)
    with pytest.raises(InputError, match="no h to scale"):
        plan("mcgdiff", steps=3).draw(prior, obs, 2, scale=1.5)
    with pytest.raises(InputError, match="needs a mask"):
        plan("mcgdiff", steps=3).draw(PRIOR, OBS, 2)


def test_refusals():
    obs = OBS.repeat(2)
    for sampler in (DDIM(0.0), Heun()):
        with pytest.raises(InputError, match="sampler with noise"):
            sample_smc(PRIOR, Zero(), obs, twist=Predictive(), sampler=sampler)
    with pytest.raises(InputError, match="at least 1"):
        sample_smc(PRIOR, Zero(), obs, twist=Predictive(), particles=0)
    with pytest.raises(InputError, match="share of the particles"):
        sample_smc(PRIOR, Zero(), obs, twist=Predictive(), ess_threshold=2.0)
    world = InsideWorld(9.0, math.inf)
    with pytest.raises(InputError, match="no particle agrees with measurement 4"):
        sample_smc(
            world.prior(VPCosine()), Scaled(Zero(), 1.0), world.observation(1), twist=Predictive(), grid=GRID, first=4
        )


def test_what_particles_cost():
    shared, alone = (plan("deft-smc", settings={"particles": 8, "apart": v}) for v in (0.0, 1))
    assert shared.calls(2) == shared.steps * 4 and alone.calls(2) == alone.steps * 8


def test_the_mean_of_deft_and_pigdm():
    """deft-pigdm: its ends are the two methods themselves, and its middle is their mean."""
    prior, h = freeze(NetworkDenoiser(Counted(), VPCosine(), (3,), "x0")), DEFT((3,), 2, width=8)
    # uncounted, with a gradient
    prior.net.forward = lambda x, t: torch.tanh(prior.net.net(torch.cat([x, t.to(x.dtype)[:, None]], 1)))
    obs = Observation(MASKED.y.float(), Gaussian(Mask(torch.tensor([[1.0, 0.0, 1.0]])), 0.3))

    def draw(name, fitted=h, **settings):
        return (
            plan(name, steps=6, sampler="ddim", spacing="log-snr", settings=settings)
            .draw(prior, obs, 2, fitted=fitted)
            .x
        )

    torch.testing.assert_close(draw("deft-pigdm", weight=1.0), draw("deft"))
    torch.testing.assert_close(
        draw("deft-pigdm", weight=0.0, data_std=0.4), draw("pigdm-score", fitted=None, data_std=0.4)
    )
    assert not torch.allclose(draw("deft-pigdm"), draw("deft"), atol=1e-3)
    for words, changes in {"from 0 to 1": {"weight": 1.5}, "needs a fitted": {"fitted": None}}.items():
        with pytest.raises(InputError, match=words):
            draw("deft-pigdm", **changes)
