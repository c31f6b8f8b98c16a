"""Operators of other libraries: the real SciPy and ODL, and stand-ins with DeepInverse's protocol."""

from __future__ import annotations

import math
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deft import Gaussian, Mask
from deft.errors import ContractError, InputError
from deft.likelihood import observation_from_deepinv
from deft.operator import LinearOperator, from_deepinv, from_odl, from_scipy
from deft.testing import check_likelihood, check_operator

sparse = pytest.importorskip("scipy.sparse")
linalg = pytest.importorskip("scipy.sparse.linalg")
rng = np.random.default_rng(0)
DENSE = rng.normal(size=(4, 6))


# SciPy


class Products:
    """No SciPy object, but a shape and the two products."""

    shape = (4, 6)

    def matvec(self, x):
        return DENSE @ x

    def rmatvec(self, y):
        return DENSE.T @ y


MATRICES = {
    "dense": DENSE,
    "csr": sparse.csr_matrix(DENSE),
    "coo array": sparse.coo_array(DENSE),
    "LinearOperator": linalg.aslinearoperator(DENSE),
    "matvec alone": linalg.LinearOperator((4, 6), matvec=lambda x: DENSE @ x, rmatvec=lambda y: DENSE.T @ y),
    "by duck typing": Products(),
    "float32": DENSE.astype(np.float32),
    "badly scaled": 1e-4 * DENSE,
}


@pytest.mark.parametrize("name", MATRICES)
def test_scipy(name):
    op = from_scipy(MATRICES[name], (1, 2, 3), (2, 2))
    assert isinstance(op, LinearOperator)
    if name != "float32":
        check_operator(op, (1, 2, 3))
    check_operator(op, (1, 2, 3), dtype=torch.float32)
    x = torch.randn(3, 1, 2, 3, dtype=torch.float64)
    expected = x.flatten(1) @ torch.from_numpy(np.asarray(DENSE)).mT * (1e-4 if name == "badly scaled" else 1)
    torch.testing.assert_close(op(x).flatten(1), expected, rtol=1e-6, atol=1e-6)


def test_scipy_is_differentiable_to_any_order():
    op = from_scipy(sparse.csr_matrix(DENSE), (6,))
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    r = torch.randn(2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(op, x) and torch.autograd.gradgradcheck(lambda v: op(v) ** 2, x)
    x = x.detach()
    torch.testing.assert_close(torch.func.vjp(op, x)[1](r)[0], op.adjoint(r))
    torch.testing.assert_close(torch.func.jvp(op, (x,), (2 * x,))[1], 2 * op(x))
    torch.testing.assert_close(torch.func.jacrev(op)(x[:1]).reshape(4, 6), torch.from_numpy(DENSE))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scipy_keeps_the_dtype(dtype):
    op = from_scipy(DENSE, (6,))
    assert op(torch.ones(1, 6, dtype=dtype)).dtype == dtype and op.adjoint(torch.ones(1, 4, dtype=dtype)).dtype == dtype


def test_scipy_likelihood():
    check_likelihood(Gaussian(from_scipy(DENSE, (6,)), 0.2), (6,), draws=1000)


def test_scipy_refusals():
    with pytest.raises(InputError, match=r"6 columns \(event_shape\), but the shape 5 has 5"):
        from_scipy(DENSE, (5,))
    with pytest.raises(InputError, match=r"4 rows \(measurement_shape\), but the shape 2x3 has 6"):
        from_scipy(DENSE, (6,), (2, 3))
    with pytest.raises(ContractError, match="complex"):
        from_scipy(DENSE + 1j, (6,))
    with pytest.raises(ContractError, match=r"has no adjoint .*give rmatvec"):
        from_scipy(linalg.LinearOperator((4, 6), matvec=lambda x: DENSE @ x), (6,))
    wrong = linalg.LinearOperator((4, 6), matvec=lambda x: DENSE @ x, rmatvec=lambda y: 1.02 * DENSE.T @ y)
    with pytest.raises(ContractError, match=r"is not its transpose: .* differ by 0\.0"):
        from_scipy(wrong, (6,))
    assert from_scipy(wrong, (6,), tolerance=0.05)
    affine = linalg.LinearOperator((4, 6), matvec=lambda x: DENSE @ x + 1, rmatvec=lambda y: DENSE.T @ y)
    with pytest.raises(ContractError, match="not linear"):
        from_scipy(affine, (6,))
    with pytest.raises(InputError, match=r"needs a matrix or a LinearOperator.*got a str"):
        from_scipy("matrix", (6,))
    with pytest.raises(ContractError, match=r"was given 2x5, expected a batch of 6"):
        from_scipy(DENSE, (6,))(torch.zeros(2, 5))


# DeepInverse: the same protocol (physics(x) = sensor(noise(A(x))), A_adjoint, A_dagger, noise_model.sigma), rewritten.


class ZeroNoise(nn.Module):
    def forward(self, x):
        return x


class GaussianNoise(nn.Module):
    def __init__(self, sigma):
        super().__init__()
        self.register_buffer("sigma", torch.as_tensor(sigma))

    def forward(self, x):
        return x + self.sigma.to(x) * torch.randn_like(x)


class PoissonGaussianNoise(nn.Module):
    """It has a sigma as well, and is not Gaussian."""

    sigma, gain = 0.1, 0.2


class Physics(nn.Module):
    def __init__(self, noise_model=None):
        super().__init__()
        self.noise_model, self.sensor_model = noise_model or ZeroNoise(), lambda y: y

    def forward(self, x, **settings):
        return self.sensor_model(self.noise_model(self.A(x, **settings)))


class Blur(Physics):
    """A circular blur, with a filter in float32 and an iterative, inexact A_dagger."""

    def __init__(self, noise_model=None, dtype=torch.float32):
        super().__init__(noise_model)
        self.register_buffer("filter", torch.tensor([0.2, 0.5, 0.3], dtype=dtype))

    def A(self, x, filter=None):
        f = self.filter if filter is None else filter
        f = f.reshape(-1, *(1,) * (x.ndim - 1), 3)
        return sum(f[..., k] * x.roll(k - 1, -1) for k in range(3))

    def A_adjoint(self, y, filter=None):
        f = self.filter if filter is None else filter
        f = f.reshape(-1, *(1,) * (y.ndim - 1), 3)
        return sum(f[..., k] * y.roll(1 - k, -1) for k in range(3))

    def A_dagger(self, y, filter=None):
        return self.A_adjoint(y, filter)


class Halve(Physics):
    """Pairs averaged: no adjoint of its own; an exact A_dagger."""

    def A(self, x):
        return (x[..., ::2] + x[..., 1::2]) / 2

    def A_dagger(self, y):
        return y.repeat_interleave(2, -1)


class Inpainting(Physics):
    def __init__(self, mask=None, noise_model=None):
        super().__init__(noise_model)
        self.register_buffer("mask", mask)

    def A(self, x, mask=None):
        return (self.mask if mask is None else mask) * x

    A_adjoint = A_dagger = A


class Haze(Physics):
    """Not linear, and y is shaped like x. Its A_adjoint is no adjoint, as with phase retrieval."""

    def A(self, x):
        return torch.tanh(2 * x)

    def A_adjoint(self, y):
        return y


class Intensity(Physics):
    def A(self, x):
        return (x**2).sum(-1)


def test_deepinv_linear():
    op = from_deepinv(Blur(dtype=torch.float64), (1, 2, 4))
    assert isinstance(op, LinearOperator)
    check_operator(op, (1, 2, 4))
    check_operator(from_deepinv(Blur(), (1, 2, 4)), (1, 2, 4), dtype=torch.float32)


def test_deepinv_never_adds_its_noise():
    physics = Blur(GaussianNoise(5.0))
    op, x = from_deepinv(physics, (4,)), torch.randn(2, 4)
    torch.testing.assert_close(op(x), physics.A(x))


def test_deepinv_a_dagger_is_used_if_it_is_the_pseudo_inverse():
    exact = from_deepinv(Halve(), (1, 4))
    y = torch.randn(3, 1, 2, dtype=torch.float64)
    torch.testing.assert_close(exact.pinv(y), y.repeat_interleave(2, -1), rtol=0, atol=0)
    check_operator(exact, (1, 4))  # its adjoint is taken by automatic differentiation
    blur = from_deepinv(Blur(dtype=torch.float64), (4,))  # this one's A_dagger is only an approximation
    x = torch.randn(2, 4, dtype=torch.float64)
    assert float((blur(blur.pinv(blur(x))) - blur(x)).abs().max()) < 1e-4


def test_deepinv_mask():
    mask = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    op = from_deepinv(Inpainting(mask), (4,))
    assert isinstance(op, Mask) and torch.equal(op.mask, mask)
    masks = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]])
    op = from_deepinv(Inpainting(), (4,), settings={"mask": masks})
    assert isinstance(op, Mask) and torch.equal(op.mask, masks)
    check_operator(op, (4,))


def test_deepinv_settings_follow_the_batch():
    filters = torch.randn(3, 3, dtype=torch.float64)
    op = from_deepinv(Blur(dtype=torch.float64), (4,), settings={"filter": filters})
    check_operator(op, (4,))
    check_operator(from_deepinv(Blur(dtype=torch.float64), (4,), settings={"filter": filters[:1]}), (4,))
    physics = Blur()
    physics.filter = filters.float()  # one for each sample, kept inside
    with pytest.raises(ContractError, match=r"Blur failed on a batch 2x4: .*settings="):
        from_deepinv(physics, (4,))
    physics.filter = filters[:2].float()
    with pytest.raises(ContractError, match=r"alone and in a batch differently.*settings="):
        from_deepinv(physics, (4,))


def test_deepinv_precision_and_device():
    op = from_deepinv(Blur(), (4,))
    assert op(torch.zeros(1, 4, dtype=torch.float64)).dtype == torch.float64
    physics = Blur()
    moved = from_deepinv(physics, (4,)).to("meta")
    assert moved.model.own.device.type == "meta" and physics.filter.device.type == "cpu"


def test_deepinv_non_linear():
    op = from_deepinv(Haze(), (2, 3))
    assert not isinstance(op, LinearOperator)
    check_operator(op, (2, 3))
    unit = from_deepinv(Haze(), (2, 3), value_range=(0, 1))
    x = torch.randn(2, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(unit(x), torch.tanh(x + 1))
    lifted = from_deepinv(Intensity(), (2, 3), features=lambda y: y[..., None].expand(*y.shape, 3).sqrt())
    assert lifted.features(lifted(x)).shape == x.shape
    with pytest.raises(InputError, match=r"Intensity is not linear and measures 2, not 2x3: give features="):
        from_deepinv(Intensity(), (2, 3))


def test_deepinv_refusals():
    with pytest.raises(InputError, match=r"an object with A\(x\), got a int"):
        from_deepinv(3, (4,))

    class Stacked(Physics):
        def A(self, x):
            return [x, x]

    class Fourier(Physics):
        def A(self, x):
            return torch.fft.fft(x)

    class Unmatched(Halve):
        def A_adjoint(self, y):
            return self.A_dagger(y)

    class Flat(Physics):
        def A(self, x):
            return x.sum()

    for physics, text in (
        (Stacked(), r"returned a list, expected a tensor"),
        (Fourier(), r"complex"),
        (Unmatched(), r"not its transpose"),
        (Flat(), r"batch axis must come first"),
    ):
        with pytest.raises(ContractError, match=text):
            from_deepinv(physics, (4,))


@pytest.mark.parametrize("sigma", [0.3, [0.1, 0.2, 0.4]])
def test_deepinv_observation(sigma):
    """Of images in [0, 1]: the density over x in [-1, 1] is theirs, up to the constant of the change of units."""
    noise = GaussianNoise(torch.tensor(sigma).reshape(-1, 1) if isinstance(sigma, list) else sigma)
    physics = Blur(noise, torch.float64)
    theirs = torch.rand(3, 4, dtype=torch.float64)
    y = physics(theirs)
    obs = observation_from_deepinv(physics, y, value_range=(0, 1))
    x = 2 * torch.rand(3, 4, dtype=torch.float64) - 1
    scale = noise.sigma.reshape(-1, 1).double()
    density = torch.distributions.Normal(physics.A((x + 1) / 2), scale).log_prob(y).sum(1)
    torch.testing.assert_close(obs.log_prob(x), density - 4 * math.log(2), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(obs[1:].log_prob(x[1:]), obs.log_prob(x)[1:])
    same = observation_from_deepinv(physics, y, (4,))  # of data that need no change of units
    torch.testing.assert_close(
        same.log_prob(theirs),
        torch.distributions.Normal(physics.A(theirs), scale).log_prob(y).sum(1),
        rtol=1e-5,
        atol=1e-5,
    )


def test_deepinv_observation_of_a_mask_and_of_a_map():
    mask = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    theirs = torch.rand(2, 4)
    obs = observation_from_deepinv(Inpainting(mask, GaussianNoise(0.1)), mask * theirs, value_range=(0, 1))
    torch.testing.assert_close(obs.y, mask * (2 * theirs - 1))
    assert float(obs.likelihood.sigma_y) == pytest.approx(0.2) and obs.features().shape == (2, 8)
    haze = observation_from_deepinv(Haze(GaussianNoise(0.1)), Haze().A(theirs), (4,), value_range=(0, 1))
    torch.testing.assert_close(haze.likelihood.residual(haze.y, 2 * theirs - 1), torch.zeros(2, 4), atol=1e-6, rtol=0)
    assert float(haze.likelihood.sigma_y) == pytest.approx(0.1)
    exact = observation_from_deepinv(Blur(), theirs, (4,))
    assert float(exact.likelihood.sigma_y) == 0


def test_deepinv_observation_refusals():
    y = torch.rand(2, 4)
    with pytest.raises(InputError, match=r"noise model is PoissonGaussianNoise"):
        observation_from_deepinv(Blur(PoissonGaussianNoise()), y, (4,))
    with pytest.raises(ContractError, match=r"y has shape \(2, 4\), but A\(x\) has \(2, 5\)"):
        observation_from_deepinv(Blur(), y, (5,))
    with pytest.raises(ContractError, match=r"3 deviations for 2"):
        observation_from_deepinv(Blur(GaussianNoise(torch.ones(3))), y, (4,))
    with pytest.raises(InputError, match=r"Intensity does not say how large"):
        observation_from_deepinv(Intensity(), y)
    clipped = Blur()
    clipped.sensor_model = lambda v: v.round()
    with pytest.raises(InputError, match=r"sensor model"):
        observation_from_deepinv(clipped, y, (4,))
    with pytest.raises(InputError, match=r"two rising numbers"):
        observation_from_deepinv(Blur(), y, (4,), value_range=(1, 0))


# ODL


@pytest.fixture(scope="module")
def odl():
    return pytest.importorskip("odl")


def odl_cases(odl):
    cell = odl.uniform_discr([0, 0], [1, 2], [4, 6])  # weighted by its cell volume, 1/12
    weighted = odl.rn(5, weighting=[1.0, 2.0, 3.0, 4.0, 5.0])
    matrix = DENSE[:3, :5]
    return {
        "matrix": (odl.MatrixOperator(matrix), (5,)),
        "matrix between constants": (
            odl.MatrixOperator(matrix, domain=odl.rn(5, weighting=3.0), range=odl.rn(3, weighting=2.0)),
            (5,),
        ),
        "array weighting": (odl.MatrixOperator(matrix, domain=weighted, range=odl.rn(3, weighting=2.0)), (5,)),
        "multiply between arrays": (odl.MultiplyOperator(weighted.element(np.arange(1.0, 6))), (5,)),
        "laplacian": (odl.Laplacian(cell, pad_mode="constant"), (1, 4, 6)),
        "gradient to a product": (odl.Gradient(cell, pad_mode="constant"), (1, 4, 6)),
        "resizing to other cells": (odl.ResizingOperator(cell, ran_shp=(2, 6)), (4, 6)),
        "samples of a function": (odl.SamplingOperator(cell, [[0, 1, 3], [1, 2, 5]]), (4, 6)),
        "inner product with one": (odl.InnerProductOperator(cell.one()), (4, 6)),
        "composition": (3 * odl.Laplacian(cell, pad_mode="constant") + odl.IdentityOperator(cell), (4, 6)),
    }


ODL = (
    "matrix",
    "matrix between constants",
    "array weighting",
    "multiply between arrays",
    "laplacian",
    "gradient to a product",
    "resizing to other cells",
    "samples of a function",
    "inner product with one",
    "composition",
)


@pytest.mark.parametrize("name", ODL)
def test_odl(odl, name):
    op, shape = odl_cases(odl)[name]
    wrapped = from_odl(op, shape, (1,) if op.range == odl.RealNumbers() else None)
    assert isinstance(wrapped, LinearOperator)
    check_operator(wrapped, shape)


class ConstWeighting:
    exponent = 2.0

    def __init__(self, const):
        self.const = const


class ArrayWeighting:
    exponent = 2.0

    def __init__(self, array):
        self.array = array


class Space:
    """The protocol of an ODL space."""

    is_real, dtype = True, np.dtype(float)

    def __init__(self, n, weighting):
        self.shape, self.weighting = (n,), weighting

    def element(self, v):
        return np.asarray(v)


class TrueAdjoint:
    """A matrix whose adjoint is the one that ODL's definition asks for: A* = W_X^-1 A^T W_Y."""

    is_linear = True

    def __init__(self, w_x, w_y):
        kinds = [ConstWeighting(w) if np.ndim(w) == 0 else ArrayWeighting(np.asarray(w)) for w in (w_x, w_y)]
        self.domain, self.range = Space(6, kinds[0]), Space(4, kinds[1])
        self.w_x, self.w_y = w_x, w_y

    def __call__(self, x):
        return DENSE @ x

    @property
    def adjoint(self):
        return lambda y: DENSE.T @ (self.w_y * y) / self.w_x


@pytest.mark.parametrize("w_x", [1.0, 0.25, np.linspace(0.5, 2, 6)], ids=["1", "constant", "array"])
@pytest.mark.parametrize("w_y", [1.0, 3.0, np.linspace(1, 4, 4)], ids=["1", "constant", "array"])
def test_odl_weights_are_taken_out(w_x, w_y):
    """Whatever the inner products, the transpose is the Euclidean one: exact, for constants and for arrays."""
    op = from_odl(TrueAdjoint(w_x, w_y), (6,))
    y = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(op.adjoint(y), y @ torch.from_numpy(DENSE))
    check_operator(op, (6,))


def test_odl_non_linear(odl):
    cell = odl.uniform_discr([0, 0], [1, 2], [2, 3])
    op = from_odl(odl.PowerOperator(cell, 3) + odl.IdentityOperator(cell), (2, 3))
    assert not isinstance(op, LinearOperator)
    check_operator(op, (2, 3))
    with pytest.raises(InputError, match=r"DistOperator is not linear and measures 1, not 2x3: give features="):
        from_odl(odl.DistOperator(cell.one()), (2, 3), (1,))


def test_odl_refusals(odl):
    cell = odl.uniform_discr([0, 0], [1, 2], [4, 6])
    with pytest.raises(InputError, match=r"domain has the shape 4x6, which does not hold 5x5"):
        from_odl(odl.IdentityOperator(cell), (5, 5))
    with pytest.raises(InputError, match=r"range has the shape 4x6"):
        from_odl(odl.IdentityOperator(cell), (4, 6), (23,))
    with pytest.raises(InputError, match="complex"):
        from_odl(odl.IdentityOperator(odl.cn(4)), (4,))
    with pytest.raises(InputError, match="exponent 1"):
        from_odl(odl.IdentityOperator(odl.uniform_discr(0, 1, 4, exponent=1)), (4,))
    with pytest.raises(InputError, match="product of different spaces"):
        from_odl(odl.BroadcastOperator(odl.IdentityOperator(cell), odl.SamplingOperator(cell, [[0], [1]])), (4, 6))


def test_odl_of_an_unmatched_adjoint():
    class Wrong(TrueAdjoint):
        @property
        def adjoint(self):
            return lambda y: 1.1 * (DENSE.T @ y)

    with pytest.raises(ContractError, match=r"the adjoint of Wrong is not its transpose"):
        from_odl(Wrong(1.0, 1.0), (6,))
    y = torch.randn(2, 4, dtype=torch.float64)
    kept = from_odl(Wrong(1.0, 3.0), (6,), tolerance=0.9)  # of the two readings, the closer one
    torch.testing.assert_close(kept.adjoint(y), 1.1 * y @ torch.from_numpy(DENSE))


def test_odl_tomography(odl):
    """Its back-projection is the transpose to 2 % on this grid, if the cells' volumes are taken out; 140 % off if
    not."""
    cells = odl.uniform_discr([-1, -1], [1, 1], [16, 16])
    geometry = odl.applications.tomo.parallel_beam_geometry(cells, num_angles=8)
    try:
        ray = odl.applications.tomo.RayTransform(cells, geometry, impl="skimage")
    except (ValueError, RuntimeError, ImportError) as error:
        pytest.skip(str(error))
    with pytest.raises(ContractError, match=r"RayTransform is not its transpose.*differ by 0\.02"):
        from_odl(ray, (1, 16, 16))
    op = from_odl(ray, (1, 16, 16), tolerance=0.05)
    assert op(torch.ones(1, 1, 16, 16)).shape == (1, *ray.range.shape)


# The page: the blocks that need a library which is not always there


def page_blocks(library):
    text = (Path(__file__).parents[1] / "docs" / "foreign-operators.md").read_text(encoding="utf-8")
    found = [b for b in re.findall(r"```python notest\n(.*?)```", text, re.S) if f"import {library}\n" in b]
    assert found
    return "\n".join(found)


def test_the_pages_odl_runs(odl):
    pytest.importorskip("skimage")
    space = {}
    exec(page_blocks("odl"), space)
    assert space["T"](torch.ones(1, 1, 16, 16)).shape[1] == 8


class Blur2d(Physics):
    """deepinv.physics.Blur(filter [1, 1, h, w], padding="circular"), by the Fourier transform."""

    def __init__(self, filter, padding):
        super().__init__()
        self.register_buffer("filter", filter)

    def _times(self, x, conjugate):
        f = torch.fft.fft2(self.filter.to(x), s=x.shape[-2:])
        return torch.fft.ifft2(torch.fft.fft2(x) * (f.conj() if conjugate else f)).real

    def A(self, x):
        return self._times(x, False)

    def A_adjoint(self, y):
        return self._times(y, True)


def test_the_pages_deepinv_runs(monkeypatch):
    physics = types.SimpleNamespace(Blur=Blur2d, GaussianNoise=GaussianNoise)
    monkeypatch.setitem(sys.modules, "deepinv", types.SimpleNamespace(physics=physics))
    space = {}
    exec(page_blocks("deepinv"), space)
    check_operator(space["A"], (1, 8, 8), dtype=torch.float32)
