"""The learned covariance: its form, its step against closed forms, its objective; files and commands that use it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import deft
from deft.core.random import BatchNoise
from deft.domains.image.data import dataset
from deft.domains.image.tasks import get_task
from deft.errors import CheckpointError, InputError
from deft.io.h_files import bundled_of_prior, load_h, needed_h, save_h
from deft.learned import LearnedCovariance, WithCovariance
from deft.learned.covariance import posterior_step
from deft.methods import METHODS, plan
from deft.testing import gaussian_field, half_seen
from deft.train.denoising import DenoisingObjective
from deft.train.jacobian import JacobianObjective, directions
from toys import pictures, refused, run, save_pictures, toy_prior


def predict(prior, x, ratio, seed=0):
    t = prior.schedule.time_of(torch.tensor(-2 * math.log(ratio), dtype=torch.float64))
    _, a, s = prior.coefficients(t, x)
    return prior(a * x + s * deft.Noise(seed, len(x)).normal(x.shape[1:]).to(x), t)


def random_covariance(shape, seed=0):
    torch.manual_seed(seed)
    h = LearnedCovariance(shape, width=8, filters=3, kernel=3, scales=(1, 2), rank=2)
    for p in h.net.parameters():  # its outlet starts near 0
        torch.nn.init.normal_(p, std=0.3)
    return h.double()


class Fixed(LearnedCovariance):
    """A learned covariance whose C is a given matrix times (sigma^2/alpha)."""

    def __init__(self, shape, jacobian):
        super().__init__(shape, width=8, iterations=40)
        self.jacobian, self.tolerance = jacobian, 0.0

    def maps(self, pred):
        found = super().maps(pred)
        return found._replace(unit=pred.sigma**2 / pred.alpha)

    def product(self, maps, v):
        return maps.unit * (v.flatten(1) @ self.jacobian.to(v)).reshape(v.shape)


@pytest.mark.parametrize("shape", [(9,), (1, 16, 16), (3, 16, 24)])
def test_c_is_symmetric_and_positive(shape):
    h, n = random_covariance(shape), math.prod(shape)
    x = torch.randn(2, *shape, dtype=torch.float64)
    pred = deft.core.denoiser.Prediction(
        x, torch.full((2,), 0.5), *(torch.full((2, *[1] * len(shape)), v, dtype=torch.float64) for v in (0.8, 0.6)), x
    )
    with torch.no_grad():
        maps = h.maps(pred)
        u, v = torch.randn(2, *shape, dtype=torch.float64), torch.randn(2, *shape, dtype=torch.float64)
        one, other = (u * h.product(maps, v)).sum(), (h.product(maps, u) * v).sum()
        assert abs(one - other) < 1e-10 * abs(one)
        eye = torch.eye(n, dtype=torch.float64).reshape(n, 1, *shape)
        dense = torch.cat([h.product(maps, e.expand(2, *shape))[:1].reshape(1, n) for e in eye])
        least = torch.linalg.eigvalsh(dense).min()
        assert least > 0
        assert least >= float(maps.unit[0].min() * maps.diagonal[0].min()) * (1 - 1e-9)  # what the form promises


def test_scales_that_do_not_divide_the_sides_are_left_out():
    torch.manual_seed(0)
    h = LearnedCovariance((1, 24, 24), width=8, kernel=5, scales=(1, 2, 4, 8))
    assert h.used == (1, 2, 4) and len(h.bank) == 3
    assert LearnedCovariance((12,), width=8).used == ()


@pytest.mark.parametrize("ratio", [0.1, 1.0, 5.0])
def test_with_the_exact_jacobian_h_is_exact(ratio):
    """For Gaussian data J does not depend on x_t, and the step is the posterior mean."""
    world, obs = half_seen(4)
    prior, x = world.prior(deft.VPCosine()), world.sample(16)
    pred = predict(prior, x, ratio)
    x_t = torch.zeros(16, dtype=x.dtype, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda v: prior(v[None], pred.t.reshape(-1)[:1]).mean[0], x_t)
    many = obs.repeat(16)
    h = Fixed((16,), jacobian)(pred, many)
    exact = world.h(pred, many)
    assert (h - exact).norm() < 1e-4 * exact.norm()
    wrong = Fixed((16,), 1.3 * jacobian)(pred, many)
    assert (wrong - exact).norm() > 1e-2 * exact.norm()


def test_few_iterations_never_overshoot():
    """Of a badly conditioned A and noise that A^T does not see: the error falls with every iteration, and is never
    more than all of it. Conjugate gradients on r itself pass 1 here."""
    torch.manual_seed(0)
    n, m = 24, 60
    a = torch.linalg.qr(torch.randn(m, n, dtype=torch.float64))[0] * torch.logspace(0, -3, n, dtype=torch.float64)
    root = torch.randn(n, n, dtype=torch.float64)
    c, r, s2 = (
        root @ root.T / n + 0.01 * torch.eye(n, dtype=torch.float64),
        torch.randn(1, m, dtype=torch.float64),
        1e-4,
    )
    exact = (c @ a.T @ torch.linalg.solve(a @ c @ a.T + s2 * torch.eye(m, dtype=torch.float64), r[0]))[None]
    errors = [
        float((posterior_step(lambda v: v @ c, lambda v: v @ a.T @ a, torch.tensor([[s2]]), r @ a, k) - exact).norm())
        / float(exact.norm())
        for k in (1, 3, 6, 12, 40)
    ]
    assert all(late < early for early, late in pairwise(errors)) and errors[0] < 1, errors
    assert errors[-1] < 1e-6

    from deft.core.operator import conjugate_gradient

    plain = conjugate_gradient(lambda v: s2 * v + v @ a @ c @ a.T, r, max_iterations=3) @ a @ c
    assert float((plain - exact).norm() / exact.norm()) > errors[1]


def test_directions_have_mean_square_one():
    x, x_hat = torch.randn(9, 2, 4), torch.randn(9, 2, 4)
    v = directions(x, x_hat, BatchNoise(9, 0))
    torch.testing.assert_close(v.flatten(1).square().mean(1), torch.ones(9))
    error = x - x_hat
    assert torch.allclose(v[1] / v[1].norm(), error[1] / error[1].norm())
    assert torch.allclose(v[2] / v[2].norm(), error[1] / error[1].norm())


def test_the_objective_is_zero_at_the_exact_jacobian_alone():
    world = gaussian_field(4)
    prior = world.prior(deft.VPCosine())
    batch = deft.Clean(world.sample(64).float()).draw(32, 0, 0, torch.device("cpu"))
    known = predict(prior, batch.x, 1.0)
    x_t = torch.zeros(16, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda v: prior(v[None], known.t.reshape(-1)[:1]).mean[0], x_t)
    loss = [
        float(
            JacobianObjective(prior)(Fixed((16,), k * jacobian), batch._replace(prediction=known), BatchNoise(32, 0))[0]
        )
        for k in (1.0, 1.2)
    ]
    assert loss[0] < 1e-8 and abs(loss[1] - 0.04) < 1e-4


def test_a_fit_comes_near_the_exact_h_and_needs_no_measurement():
    world, obs = half_seen(4)
    prior = world.prior(deft.VPCosine())

    class Half:
        def observe(self, x, noise):
            return deft.Observation(obs.likelihood.sample(x, noise), obs.likelihood)

    torch.manual_seed(0)
    h = LearnedCovariance((16,), width=32, rank=8)
    pred = predict(prior, world.sample(64).float(), 1.0)
    exact = world.h(pred, obs.repeat(64))

    def error():
        with torch.no_grad():
            return float((h(pred, obs.repeat(64)) - exact).norm() / exact.norm())

    before = error()
    # the task measures half; a measurement of everything is served as well
    deft.fit_h(
        prior, Half(), world.sample(512).float(), h=h, steps=300, batch=64, prior_samples=0, lr=5e-3, progress=False
    )
    assert before > 0.3 and error() < 0.5 * before, (before, error())
    both = deft.Gaussian(deft.Identity(), 0.1)
    whole = deft.Observation(both.sample(world.sample(64).float(), deft.Noise(3, 64)), both)
    torch.testing.assert_close(h(pred, whole).isfinite().all(), torch.tensor(True))


def test_the_bundled_covariance_is_that_of_its_prior():
    """Products with C against the prior's own derivative, on images that it was not fitted to."""
    prior = deft.load_prior("fashion")
    h, x = bundled_of_prior("covariance", prior), dataset("fashion", "test").x[:32]
    for ratio, bound in ((0.2, 0.3), (0.5, 0.3), (1.0, 0.4)):
        known = predict(prior, x, ratio)
        x_t = known.x_t.requires_grad_(True)
        pred = prior(x_t, known.t)
        v = x - pred.mean.detach()
        (jv,) = torch.autograd.grad(pred.mean, x_t, v)
        target = (pred.sigma**2 / pred.alpha) * jv

        def wrong(c, target=target):
            return float(((c - target).square().flatten(1).sum(1) / target.square().flatten(1).sum(1)).mean())

        with torch.no_grad():
            maps = h.maps(pred)
            assert wrong(h.product(maps, v)) < bound
            other = maps._replace(filtered=[m.roll(1, 0) for m in maps.filtered], diagonal=maps.diagonal.roll(1, 0))
            assert wrong(h.product(other, v)) > 1.5 * wrong(h.product(maps, v))  # another image's C does not do


def test_with_covariance_its_ends_are_its_parts():
    world, obs = half_seen(3)
    prior = world.prior(deft.VPCosine())
    torch.manual_seed(0)
    both = WithCovariance(world.h, LearnedCovariance((9,), width=8))

    def draw(name, fitted, **settings):
        made = plan(name, steps=6, sampler="ddim", spacing="log-snr", settings=settings)
        return made.draw(prior, obs, 3, fitted=fitted).x

    torch.testing.assert_close(draw("deft-covariance", both, at=1e-9), draw("deft", world.h))
    torch.testing.assert_close(draw("deft-covariance", both, at=1e9), draw("covariance", both.below))
    with pytest.raises(InputError, match="a learned covariance of the same prior"):
        draw("deft-covariance", world.h)
    assert not METHODS["deft-covariance"].backward and not METHODS["covariance"].backward


def test_one_file_serves_every_linear_task(tmp_path):
    prior = deft.load_prior(toy_prior(tmp_path / "prior.safetensors"))
    torch.manual_seed(0)
    h = LearnedCovariance((1, 16, 16), width=8)
    path = tmp_path / "h.safetensors"
    save_h(path, h, prior, get_task("inpaint"))
    x = torch.zeros(1, 1, 16, 16)
    for name in ("sr4", "deblur-gaussian", "compressed"):
        found, task, _ = load_h(path, prior, get_task(name))
        assert task.name == name
        obs = task.observe(x, deft.Noise(0, 1))
        assert found(predict(prior, x, 1.0), obs).shape == x.shape
    with pytest.raises(InputError, match="needs a linear measurement"):
        found(predict(prior, x, 1.0), get_task("phase").observe(x, deft.Noise(0, 1)))
    save_h(tmp_path / "deft.safetensors", deft.DEFT((1, 16, 16), 1, width=8), prior, get_task("sr4"))
    with pytest.raises(CheckpointError, match="another task"):
        load_h(tmp_path / "deft.safetensors", prior, get_task("compressed"))
    with pytest.raises(InputError, match="no learned covariance is bundled"):
        needed_h(METHODS["covariance"], prior, None)
    assert needed_h(METHODS["deft-covariance"], prior, h, beside=h).below is h


def test_at_the_command_line(tmp_path, capsys):
    prior = toy_prior(tmp_path / "prior.safetensors")
    images = save_pictures(tmp_path / "images", pictures(24))
    fit = ("fit", "--prior", prior, "--data", images, "--steps", 3, "--prior-samples", 0)
    assert (
        run(capsys, *fit, "--task", "inpaint", "--method", "covariance", "--size", 0.9, "--out", tmp_path / "c")[0] == 0
    )
    assert run(capsys, *fit, "--task", "sr4", "--width", 4, "--out", tmp_path / "h")[0] == 0
    measured = tmp_path / "m.npz"
    assert run(capsys, "measure", "--task", "sr4", "--data", images, "--images", 1, "--out", measured)[0] == 0
    out = ("--out", tmp_path / "x")
    draw = ("--measurement", measured, "-n", 2, "--steps", 4)
    assert run(capsys, "sample", tmp_path / "c", *draw, "--out", tmp_path / "one")[0] == 0  # fitted with another task
    both = ("--method", "deft-covariance")
    code, _, err = run(
        capsys, "sample", tmp_path / "h", *draw, *both, "--covariance", tmp_path / "c", "--out", tmp_path / "two"
    )
    assert code == 0, err
    assert (tmp_path / "one" / "sheet.png").exists() and (tmp_path / "two" / "sheet.png").exists()
    line = refused(capsys, "sample", tmp_path / "h", *draw, *both, *out)
    assert "deft fit --method covariance" in line
    line = refused(
        capsys, "sample", tmp_path / "h", *draw, *both, "--covariance", tmp_path / "h", "--out", tmp_path / "x"
    )
    assert "no learned covariance" in line
    line = refused(capsys, "sample", tmp_path / "h", *draw, "--covariance", tmp_path / "c", *out)
    assert "is for the method deft-covariance" in line
    assert "serves many tasks" in refused(capsys, "calibrate", tmp_path / "c", "--data", images)
    picture = ("--measurement", images / "000.png")
    assert "name it with --task" in refused(capsys, "sample", tmp_path / "c", *picture, *out)


def test_what_it_does_not_suit_is_refused_before_it_is_fitted():
    world, _ = half_seen(3)
    prior = world.prior(deft.VPCosine())

    class Counts:
        def observe(self, x, noise):
            return deft.Observation(x.exp(), deft.Poisson(deft.Identity()))

    small = {"steps": 2, "batch": 4, "prior_samples": 0, "progress": False}
    for wrong in ({"task": Counts(), "data": world.sample(32).float()}, {"data": (world.sample(32), world.sample(32))}):
        with pytest.raises(InputError, match="learned covariance needs"):
            deft.fit_h(prior, h=LearnedCovariance((9,), width=8), **{"task": None, **wrong}, **small)
    assert "more steps" in JacobianObjective(prior).doubt(0.9) and JacobianObjective(prior).doubt(0.2) is None
    assert DenoisingObjective(prior).doubt(9.0) is None


def test_its_model_card_names_no_task(tmp_path):
    from deft.workflow.model_card import readme

    prior = deft.load_prior(toy_prior(tmp_path / "prior.safetensors"))
    card = save_h(tmp_path / "h.safetensors", LearnedCovariance((1, 16, 16), width=8), prior, get_task("inpaint"))
    text = readme({**card, "prior": "toy"})
    assert "Every linear measurement" in text and "hole:" not in text and "- inpaint" not in text
    assert "--task inpaint" in text  # the example needs one
    other = save_h(tmp_path / "h.safetensors", deft.DEFT((1, 16, 16), 2, width=4), prior, get_task("inpaint"))
    assert "- inpaint" in readme({**other, "prior": "toy"})


def test_the_recipe_minimises_what_the_class_says():
    from deft.recipe.settings import OBJECTIVES

    assert OBJECTIVES[LearnedCovariance.objective] is JacobianObjective
    assert OBJECTIVES[deft.DEFT.objective] is DenoisingObjective
