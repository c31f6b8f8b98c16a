"""Operators made of operators: `A @ B` and `stack(A, B)`. Every row passes `check_operator` (adjoint, solve and
pseudo-inverse against the dense matrix, rows, descent), in float64 and float32, and has its matrix compared."""

from __future__ import annotations

import math

import pytest
import torch

import deft
from deft.core.operator import LinearOperator, conjugate_gradient
from deft.core.random import Noise
from deft.errors import ContractError, InputError
from deft.guidance.exact import dense
from deft.likelihood import Gaussian, Observation
from deft.operator import (
    HDR,
    JPEG,
    BlockAverage,
    Camera,
    Composed,
    Compressed,
    Convolution,
    EdgedConvolution,
    Identity,
    Linear,
    Mask,
    MaskedFourier,
    Matrix,
    PhaseRetrieval,
    Radon,
    RayRadon,
    Separable,
    bicubic,
    every,
    from_scipy,
    gaussian_blur,
    grey,
    masks,
    motion_kernels,
    stack,
)
from deft.operator.composed import ComposedLinear, Convolutions
from deft.operator.stacked import StackedLinear
from deft.testing import check_likelihood, check_operator


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def holes(*shape, seed=0):
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6).float()
    mask.flatten(1)[:, 0] = 1  # something is seen
    return Mask(mask)


def scipy_matrix():
    sparse = pytest.importorskip("scipy.sparse")
    return sparse.diags([0.3, 0.5, 0.2], [-1, 0, 1], shape=(12, 12)).tocsr()[::2]


CLOSED = {
    "mask after blocks": (lambda: holes(3, 1, 2, 4) @ BlockAverage(2), (2, 4, 8)),
    "blur after blocks": (lambda: gaussian_blur((3, 4), 1.0) @ BlockAverage(2), (1, 6, 8)),
    "motion after blocks": (lambda: Convolution(motion_kernels(Noise(0, 3), 3)) @ BlockAverage(2), (2, 6, 8)),
    "blocks of blocks": (lambda: BlockAverage(2) @ BlockAverage(2), (1, 4, 8)),
    "mask after grey": (lambda: holes(1, 1, 4, 5) @ grey(), (3, 4, 5)),
    "mask after picked pixels": (lambda: holes(1, 1, 3, 3) @ every((6, 6), 2, "first"), (1, 6, 6)),
    "mask after an orthonormal transform": (lambda: holes(3, 10) @ Compressed((2, 4, 5), 0.25), (2, 4, 5)),
    "matrix after compressed": (lambda: Matrix(random(3, 6)) @ Compressed((12,), 0.5), (12,)),
    "bicubic after blur": (lambda: bicubic(8, 2) @ gaussian_blur(8, 1.0), (1, 8, 8)),
    "motion after motion": (
        lambda: Convolution(motion_kernels(Noise(0, 3), 3)) @ Convolution(motion_kernels(Noise(1, 3), 5)),
        (1, 6, 7),
    ),
    "mask after mask": (lambda: holes(1, 2, 3, 4) @ holes(3, 1, 3, 4, seed=1), (2, 3, 4)),
    "matrix after matrix": (lambda: Matrix(random(2, 4)) @ Matrix(random(3, 4, 5, seed=1)), (5,)),
    "stack of masks": (
        lambda: stack(holes(3, 1, 4, 4), holes(1, 2, 4, 4, seed=1), event_shape=(2, 4, 4), sigma_y=(0.1, 0.3)),
        (2, 4, 4),
    ),
    "stack of motions": (
        lambda: stack(
            Convolution(motion_kernels(Noise(0, 3), 3)),
            Identity(),
            Convolution(motion_kernels(Noise(1, 1), 5)),
            event_shape=(1, 6, 7),
            sigma_y=(0.1, 0.9, 0.2),
        ),
        (1, 6, 7),
    ),
}
ITERATED = {
    "mask after blur": (lambda: holes(3, 1, 6, 6) @ gaussian_blur(6, 1.0), (1, 6, 6)),
    "mask after motion": (lambda: holes(3, 1, 6, 7) @ Convolution(motion_kernels(Noise(0, 3), 3)), (2, 6, 7)),
    "blur after mask": (lambda: gaussian_blur(6, 0.7) @ holes(3, 1, 6, 6), (2, 6, 6)),
    "blocks after blur after mask": (
        lambda: BlockAverage(2) @ (gaussian_blur(6, 0.7) @ holes(3, 1, 6, 6)),
        (1, 6, 6),
    ),
    "mask after tomography": (lambda: holes(1, 1, 4, 9) @ Radon(6, 4, detectors=9), (1, 6, 6)),
    "tomography after blocks": (lambda: Radon(4, 5) @ BlockAverage(2), (1, 8, 8)),
    "Fourier after edged blur": (
        lambda: (
            MaskedFourier(masks.columns(Noise(0, 3), 6, 6, 2.0)) @ EdgedConvolution(torch.ones(1, 1, 3, 3) / 9, "zero")
        ),
        (1, 6, 6),
    ),
    "SciPy after blur": (lambda: from_scipy(scipy_matrix(), (1, 3, 4), (6,)) @ gaussian_blur((3, 4), 0.6), (1, 3, 4)),
    "mask after SciPy": (lambda: holes(3, 6) @ from_scipy(scipy_matrix(), (1, 3, 4), (6,)), (1, 3, 4)),
    "two views": (
        lambda: stack(Radon(6, 3), BlockAverage(2), event_shape=(1, 6, 6), sigma_y=(0.02, 0.05)),
        (1, 6, 6),
    ),
    "two views, rays missing": (
        lambda: stack(
            RayRadon(6, (torch.rand(3, 1, 3, 10, generator=torch.Generator().manual_seed(0)) < 0.7).float(), angles=3),
            holes(1, 1, 3, 3) @ BlockAverage(2),
            event_shape=(1, 6, 6),
        ),
        (1, 6, 6),
    ),
    "stack of a function and SciPy": (
        lambda: stack(Linear(lambda x: x[:, :, :, ::2], (1, 3, 4)), from_scipy(scipy_matrix(), (1, 3, 4), (6,))),
        (1, 3, 4),
    ),
}
NONLINEAR = {
    "HDR after blur": (lambda: HDR(2.0) @ gaussian_blur(6, 0.7), (1, 6, 6)),
    "HDR after blocks": (lambda: HDR(2.0) @ BlockAverage(2), (1, 6, 6)),
    "mask after HDR": (lambda: holes(3, 1, 6, 6) @ HDR(2.0), (2, 6, 6)),
    "blocks after HDR": (lambda: BlockAverage(2) @ HDR(1.2), (1, 6, 6)),
    "phase after blur": (lambda: PhaseRetrieval() @ gaussian_blur(6, 0.7), (1, 6, 6)),
    "camera, small": (lambda: Camera() @ BlockAverage(2), (1, 32, 32)),
    "stack of HDR and blocks": (lambda: stack(HDR(2.0), BlockAverage(2), event_shape=(1, 6, 6)), (1, 6, 6)),
}
LINEAR = CLOSED | ITERATED
ALL = LINEAR | NONLINEAR


@pytest.mark.parametrize("name", ALL)
def test_operator(name):
    make, shape = ALL[name]
    check_operator(make(), shape)


@pytest.mark.parametrize("name", LINEAR)
def test_operator_in_float32(name):
    make, shape = LINEAR[name]
    if "matrix" not in name:
        check_operator(make(), shape, dtype=torch.float32)


@pytest.mark.parametrize("name", ["mask after blur", "blocks after HDR", "two views", "motion after blocks"])
def test_gaussian(name):
    make, shape = ALL[name]
    check_likelihood(Gaussian(make(), torch.tensor([0.05, 0.2, 1.0])), shape, draws=1000)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms_take_no_iterations(name, monkeypatch):
    """`solve` and both updates of these rows are closed forms: conjugate gradients are not called."""
    make, shape = CLOSED[name]
    op, x = make(), random(3, *shape)

    def never(*args, **options):
        raise AssertionError("conjugate gradients")

    for module in ("core.operator", "operator.composed", "operator.stacked"):
        monkeypatch.setattr(f"deft.{module}.conjugate_gradient", never)
    r = op(random(3, *shape, seed=1))
    op.solve(r, 0.1, 1.0)
    rho2 = torch.full((3,) + (1,) * (x.ndim - 1), 0.3, dtype=torch.float64)
    noise = torch.full((3,) + (1,) * (r.ndim - 1), 0.1, dtype=torch.float64)
    step = rho2 * op.adjoint(op.solve(r, noise, rho2.reshape(noise.shape)))
    for update in (op.mean_update, op.approx_mean_update):
        torch.testing.assert_close(update(x, r, noise, rho2), step)


@pytest.mark.parametrize("name", LINEAR)
def test_the_matrix_is_the_product(name):
    """A @ B is A's dense matrix times B's; a stack's is the weighted matrices, one below the other."""
    make, shape = LINEAR[name]
    op = make()[:1]
    if isinstance(op, StackedLinear):
        expected = torch.cat(
            [w * dense(p, shape, torch.float64) for p, w in zip(op.operators, op.weights, strict=True)], dim=1
        )
    elif isinstance(op, (ComposedLinear, Convolutions)):
        between = tuple(op.inner(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
        expected = dense(op.outer, between, torch.float64) @ dense(op.inner, shape, torch.float64)
    else:
        return  # simplified to one operator: the next test
    torch.testing.assert_close(dense(op, shape, torch.float64), expected)


@pytest.mark.parametrize(
    ("outer", "inner", "shape", "kind"),
    [
        (holes(1, 2, 3, 4), holes(3, 1, 3, 4, seed=1), (2, 3, 4), Mask),
        (bicubic(8, 2), gaussian_blur(8, 1.0), (1, 8, 8), Separable),
        (Matrix(random(2, 4)), Matrix(random(3, 4, 5, seed=1)), (5,), Matrix),
        (Identity(), BlockAverage(2), (1, 4, 4), BlockAverage),
        (BlockAverage(2), Identity(), (1, 4, 4), BlockAverage),
    ],
)
def test_simplified(outer, inner, shape, kind):
    x = random(3, *shape)
    op = outer @ inner
    assert type(op) is kind
    torch.testing.assert_close(op(x), outer(inner(x)))


@pytest.mark.parametrize("name", LINEAR)
def test_spectrum(name):
    """V orthonormal, A^T = V S U^T, and the singular values are those of the dense matrix."""
    make, shape = LINEAR[name]
    op, x = make(), random(3, *shape)
    values, analyse, synthesise, measured = op.spectrum(shape, x)
    c, y = analyse(x), op(x)
    torch.testing.assert_close(synthesise(c), x)
    torch.testing.assert_close(c.square().sum(), x.square().sum())
    torch.testing.assert_close(measured(y), torch.where(values > 0, c, 0.0), rtol=1e-6, atol=1e-6)
    r = op.measured_part(random(*y.shape, seed=2))
    torch.testing.assert_close(analyse(op.adjoint(r)), values.square() * measured(r), rtol=1e-5, atol=5e-5)
    for i in range(3):
        s = torch.linalg.svdvals(dense(op[i : i + 1], shape, torch.float64)[0])
        mine = values[min(i, len(values) - 1)].flatten().sort(descending=True).values
        n = min(len(s), len(mine))
        torch.testing.assert_close(mine[:n], s[:n], rtol=1e-6, atol=2e-5)
        assert float(mine[n:].abs().sum()) < 1e-6


@pytest.mark.parametrize("name", [k for k in ITERATED if k != "tomography after blocks"])  # `Radon` has its own
def test_cheap_update_is_near_the_exact_one(name):
    """What learned h are shown is within a tenth of the exact update, at a belief of the data's own deviation."""
    make, shape = ITERATED[name]
    op, x = make(), random(3, *shape)
    r = op(random(3, *shape, seed=1))
    rho2 = torch.full((3,) + (1,) * (x.ndim - 1), 0.25, dtype=torch.float64)
    noise = torch.full((3,) + (1,) * (r.ndim - 1), 0.05**2, dtype=torch.float64)
    exact, cheap = op.mean_update(x, r, noise, rho2), op.approx_mean_update(x, r, noise, rho2)
    assert float((cheap - exact).norm() / exact.norm()) < 0.1


def test_preconditioner_saves_steps():
    """A mask after a blur: the same answer in fewer steps."""
    op = Mask(masks.random_pixels(Noise(0, 1), 32, 32, 0.5)) @ gaussian_blur(32, 1.5)
    r = op(random(1, 1, 32, 32))
    steps = []
    for precondition in (None, op._preconditioner(0.05**2, 1.0)):
        calls = [0]

        def apply(v, calls=calls):
            calls[0] += 1
            return 0.05**2 * v + op(op.adjoint(v))

        found = conjugate_gradient(apply, r, precondition=precondition)
        torch.testing.assert_close(apply(found), r, rtol=1e-4, atol=1e-4)
        steps.append(calls[0])
    assert steps[1] < 0.8 * steps[0], steps


def test_features():
    """Inner's features of each of outer's: the seen part and the mask, both brought back to the sample's size; a stack
    shows those of all its parts, in their own units."""
    mask = holes(2, 1, 3, 3)
    op = mask @ BlockAverage(2)
    x = random(2, 1, 6, 6)
    y = op(x)
    seen, where = op.features(y).chunk(2, dim=1)
    assert op.feature_channels == 2
    torch.testing.assert_close(seen, BlockAverage(2).pinv(y))
    torch.testing.assert_close(where, BlockAverage(2).pinv(mask.mask.double()))
    both = stack(BlockAverage(2), Mask(torch.ones(1, 1, 6, 6)), event_shape=(1, 6, 6), sigma_y=(0.1, 0.5))
    assert both.feature_channels == 3 and both.weights == (1.0, 0.2)
    torch.testing.assert_close(both.features(both(x))[:, 1:2], x)


def test_rows_follow():
    """Masks and kernels that differ from image to image, in both parts; what was drawn is found by its name."""
    op = holes(3, 1, 6, 6) @ Convolution(motion_kernels(Noise(0, 3), 3))
    assert op.setting_rows() == 3 and [name for name, _ in op.drawn()] == ["mask", "kernel"]
    assert torch.equal(op.mask, op.outer.mask) and torch.equal(op[1:2].kernel, op.inner.kernel[1:2])
    with pytest.raises(ContractError, match=r"of 2 samples in one part and of 3 in another"):
        holes(3, 1, 6, 6) @ Convolution(motion_kernels(Noise(0, 2), 3))
    obs = Observation(op(random(3, 1, 6, 6).float()), Gaussian(op, 0.1))
    assert obs[0].fingerprint() != obs[1].fingerprint()
    with pytest.raises(AttributeError, match="has no coils"):
        op.coils  # noqa: B018


def test_stack_whitens():
    """Each sensor has its own noise: parts weighted by sigma_1 / sigma_i make the density that of independent sensors
    (up to the units' constant), and `join` takes measurements in the sensors' own units."""
    ops, sigmas, x = (BlockAverage(2), Identity()), (0.1, 0.4), random(2, 1, 4, 4)
    op = stack(*ops, event_shape=(1, 4, 4), sigma_y=sigmas)
    own = [Gaussian(a, s).sample(x, Noise(i, 2)) for i, (a, s) in enumerate(zip(ops, sigmas, strict=True))]
    other = random(2, 1, 4, 4, seed=3)
    joint = Gaussian(op, sigmas[0])

    def apart(v):
        return sum(Gaussian(a, s).log_prob(y, v) for a, s, y in zip(ops, sigmas, own, strict=True))

    gained = joint.log_prob(op.join(own), x) - joint.log_prob(op.join(own), other)
    torch.testing.assert_close(gained, apart(x) - apart(other), rtol=1e-5, atol=1e-5)
    n = 4000
    y = op.split(joint.sample(torch.zeros(n, 1, 4, 4), Noise(0, n)))
    for part, sigma in zip(y, sigmas, strict=True):
        assert abs(float(part.std()) / sigma - 1) < 4 / math.sqrt(2 * part.numel())


def test_repr_and_devices():
    op = holes(1, 1, 3, 3) @ BlockAverage(2)
    assert repr(op).startswith("ComposedLinear(outer=Mask(") and "inner=BlockAverage(factor=2, size=None)" in repr(op)
    assert op.text == "Mask @ BlockAverage"
    both = stack(op, BlockAverage(3), event_shape=(1, 6, 6))
    assert repr(both).startswith("StackedLinear(operators=(ComposedLinear(") and "event_shape=(1, 6, 6)" in repr(both)
    assert both.to("meta").operators[0].mask.device.type == "meta" and both.operators[0].mask.device.type == "cpu"


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: (Mask(torch.ones(1, 1, 5, 5)) @ BlockAverage(2))(torch.zeros(1, 1, 6, 6)), ContractError,
         r"Mask @ BlockAverage does not fit: BlockAverage makes \(1, 1, 3, 3\) of samples"),
        (lambda: (Matrix(torch.ones(2, 3)) @ Compressed((8,), 0.5))(torch.zeros(1, 8)), ContractError, "does not fit"),
        (lambda: BlockAverage(2) @ Compressed((1, 4, 4)), ContractError, r"makes \[B, m\], BlockAverage takes \[B, C"),
        (lambda: Matrix(torch.ones(2, 3)) @ Matrix(torch.ones(2, 3)), ContractError, r"makes \[B, 2\].*takes \[B, 3\]"),
        (lambda: gaussian_blur(8, 1.0) @ bicubic(8, 2), ContractError, "inner one makes 4 rows, the outer one takes 8"),
        (lambda: Identity() @ torch.ones(2, 2), InputError, r"call it, A\(x\)"),
        (lambda: BlockAverage(2) @ scipy_matrix(), InputError, "from_scipy"),
        (lambda: stack(), InputError, "at least one"),
        (lambda: stack(Identity(), BlockAverage(2)), InputError, "event_shape="),
        (lambda: stack(Identity(), scipy_matrix(), event_shape=(3,)), InputError, "from_scipy"),
        (lambda: stack(BlockAverage(4), event_shape=(1, 6, 6)), ContractError, r"does not take samples of shape"),
        (lambda: stack(Identity(), Identity(), event_shape=(3,), sigma_y=(0.1, 0.0)), InputError, "above 0"),
        (lambda: stack(Identity(), event_shape=(3,)).adjoint(torch.zeros(1, 4)), ContractError, r"\[B, 3\]"),
        (lambda: stack(Identity(), event_shape=(3,)).join([torch.zeros(1, 4)]), ContractError, "takes measurements"),
        (lambda: stack(Identity(), event_shape=(3,))(torch.zeros(1, 4)), ContractError, "made for samples"),
    ],
)  # fmt: skip
def test_refusals(make, error, says):
    with pytest.raises(error, match=says) as found:
        make()
    assert "\n" not in str(found.value)


def test_a_wrong_part_is_found():
    """The checks see through a composition: a part whose adjoint is wrong makes a wrong whole; a part that claims
    orthogonal rows, too."""

    class Wrong(LinearOperator):
        def __call__(self, x):
            return 2 * x

        def adjoint(self, y):
            return 1.9 * y

    class Claims(BlockAverage):
        def __init__(self):
            super().__init__(2)
            self.orthogonal_rows = 0.5

    with pytest.raises(AssertionError, match=r"gradient|adjoint"):
        check_operator(holes(1, 1, 4, 4) @ Wrong(), (1, 4, 4))
    with pytest.raises(AssertionError, match="orthogonal_rows"):
        check_operator(Claims(), (1, 4, 4))
    with pytest.raises(AssertionError, match=r"solve|pinv"):
        check_operator(holes(1, 1, 2, 2) @ Claims(), (1, 4, 4))


def test_posterior_of_a_composition_and_of_a_stack():
    """In the Gaussian world the exact posterior of y = A B x is that of the product's matrix; a stack of two sensors
    knows more than each of them."""
    world = deft.testing.gaussian_field(4)
    blur = Matrix(torch.eye(16, dtype=torch.float64) * 0.6 + 0.4 / 16)
    whole = world.sample(1, seed=1)
    op = holes(1, 16) @ blur
    obs = Observation(op(whole), Gaussian(op, 0.1))
    as_matrix = Matrix(op.mask[0].double()[:, None] * blur.matrix[0])
    seen = op.mask[0] > 0
    reduced = Matrix(as_matrix.matrix[0][seen])
    plain = world.posterior(Observation(reduced(whole), Gaussian(reduced, 0.1)))
    torch.testing.assert_close(world.posterior(obs).mean, plain.mean, rtol=1e-6, atol=1e-8)
    both = stack(op, reduced, event_shape=(16,), sigma_y=(0.1, 0.2))
    more = world.posterior(Observation(both(whole), Gaussian(both, 0.1)))
    assert bool((more.std < plain.std + 1e-9).all())
    assert isinstance(HDR() @ Identity(), HDR) and isinstance(JPEG() @ gaussian_blur(8, 1.0), Composed)
