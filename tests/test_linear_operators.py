"""Image measurements: masks, matrices along axes, Fourier space, tomography, compressed sensing.

Each passes `check_operator`, has its singular values compared with the dense ones, and is compared with an independent
implementation or a closed form.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deft.core.random import BatchNoise, Noise
from deft.errors import ContractError, InputError
from deft.guidance.exact import dense
from deft.likelihood import Gaussian
from deft.operator import (
    BlockAverage,
    Compressed,
    Convolution,
    Identity,
    Linear,
    Mask,
    MaskedFourier,
    Matrix,
    Radon,
    Separable,
    bicubic,
    gaussian_blur,
    grey,
    masks,
    motion_kernels,
)
from deft.operator.fourier import hartley
from deft.operator.wrapped import ArrayLinear
from deft.testing import check_likelihood, check_operator


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def lines(batch, height, width):
    """Sampled frequencies, some in pairs and some alone."""
    return masks.random_pixels(Noise(3, batch), height, width, 0.5)


OPERATORS = {
    "identity": (Identity, (2, 3, 4)),
    "free form": (lambda: Mask(masks.free_form(Noise(0, 3), 6, 6)), (2, 6, 6)),
    "block average": (lambda: BlockAverage(2), (2, 4, 6)),
    "block average 3": (lambda: BlockAverage(3), (1, 6, 3)),
    "separable": (lambda: Separable(random(3, 5) / 3, random(6, 4, seed=1) / 3, random(2, 3, seed=2)), (3, 5, 4)),
    "separable, rows only": (lambda: Separable(rows=random(3, 5)), (2, 5, 4)),
    "separable, singular": (lambda: Separable(torch.ones(3, 4) / 4, random(4, 4) / 3), (1, 4, 4)),
    "bicubic": (lambda: bicubic((8, 12)), (1, 8, 12)),
    "bicubic 2": (lambda: bicubic(6, 2), (2, 6, 6)),
    "blur": (lambda: gaussian_blur((6, 5), 1.5), (1, 6, 5)),
    "narrow blur": (lambda: gaussian_blur(6, 0.4), (2, 6, 6)),
    "grey": (grey, (3, 4, 5)),
    "grey of two": (lambda: grey(2), (2, 4, 5)),
    "convolution": (lambda: Convolution(random(1, 1, 3, 2)), (2, 5, 6)),
    "motion blur": (lambda: Convolution(motion_kernels(Noise(0, 3), 5)), (2, 6, 7)),
    "Fourier": (lambda: MaskedFourier(lines(1, 6, 6)), (2, 6, 6)),
    "Fourier, per sample": (lambda: MaskedFourier(lines(3, 6, 5)), (1, 6, 5)),
    "Fourier, odd": (lambda: MaskedFourier(lines(3, 5, 7)), (1, 5, 7)),
    "Fourier, all": (lambda: MaskedFourier(torch.ones(1, 1, 4, 6)), (1, 4, 6)),
    "Fourier, columns": (lambda: MaskedFourier(masks.columns(Noise(0, 3), 6, 8, 2.0)), (1, 6, 8)),
    "tomography": (lambda: Radon(6, 5), (2, 6, 6)),
    "tomography, limited": (lambda: Radon(7, 4, arc=70.0), (1, 7, 7)),
    "tomography, many angles": (lambda: Radon(5, 20, detectors=5, arc=360.0), (1, 5, 5)),
    "compressed": (lambda: Compressed((2, 4, 5), 0.3), (2, 4, 5)),
    "compressed vector": (lambda: Compressed((12,), 0.5, seed=1), (12,)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name, dtype):
    make, shape = OPERATORS[name]
    check_operator(make(), shape, dtype=dtype)


@pytest.mark.parametrize("name", ["bicubic", "motion blur", "Fourier, per sample", "tomography", "compressed"])
def test_gaussian(name):
    make, shape = OPERATORS[name]
    check_likelihood(Gaussian(make(), torch.tensor([0.05, 0.2, 1.0])), shape, draws=1000)


@pytest.mark.parametrize("name", OPERATORS)
def test_spectrum(name):
    """A = U S V^T: V orthonormal, |A x|^2 = sum s^2 c^2, A^T = V S U^T, and the singular values are the dense ones."""
    make, shape = OPERATORS[name]
    op, x = make(), random(3, *shape)
    values, analyse, synthesise, measured = op.spectrum(shape, x)
    c, y = analyse(x), op(x)
    assert c.shape[1:] == values.shape[1:] and c[0].numel() == x[0].numel() and values.dtype == x.dtype
    torch.testing.assert_close(synthesise(c), x)
    other = random(*c.shape, seed=1)
    torch.testing.assert_close(analyse(synthesise(other)), other)
    torch.testing.assert_close(c.square().sum(), x.square().sum())
    torch.testing.assert_close(measured(y), torch.where(values > 0, c, 0.0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close((values * c).square().sum(), y.square().sum(), rtol=1e-8, atol=1e-10)
    r = op.measured_part(random(*y.shape, seed=2))
    torch.testing.assert_close(analyse(op.adjoint(r)), values.square() * measured(r), rtol=1e-5, atol=5e-5)
    for i in range(3):
        s = torch.linalg.svdvals(dense(op[i : i + 1], shape, torch.float64)[0])
        mine = values[min(i, len(values) - 1)].flatten().sort(descending=True).values
        d = x[0].numel()
        torch.testing.assert_close(mine, F.pad(s, (0, max(0, d - len(s))))[:d], rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_spectrum_in_float32(name):
    make, shape = OPERATORS[name]
    op, x = make(), random(3, *shape).float()
    values, analyse, synthesise, measured = op.spectrum(shape, x)
    torch.testing.assert_close(synthesise(analyse(x)), x, rtol=1e-4, atol=1e-5)
    sure = values > 1e-2 * values.max()
    torch.testing.assert_close(
        torch.where(sure, measured(op(x)), 0), torch.where(sure, analyse(x), 0), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", [k for k in OPERATORS if not k.startswith(("separable", "convolution"))])
def test_lift_does_not_amplify_noise(name):
    """White noise in y comes out of `features` with at most 2.5 times the root mean square of what unit noise in x
    would."""
    make, shape = OPERATORS[name]
    op = make()
    size = op.spectrum(shape, random(1)).values.max()
    y = op(random(3, *shape))
    n = op.measured_part(random(*y.shape, seed=1).expand(y.shape))
    lifted = op.features(n)[:, : shape[0]]
    assert lifted.square().mean().sqrt() < 2.5 / size


# Separable


@pytest.mark.parametrize(("size", "factor"), [((32, 32), 4), ((16, 24), 2), ((9, 12), 3), ((4, 8), 4), ((5, 5), 1)])
def test_bicubic_is_that_of_torch(size, factor):
    x = random(2, 3, *size)
    theirs = F.interpolate(
        x, scale_factor=1 / factor, mode="bicubic", antialias=True, align_corners=False, recompute_scale_factor=True
    )
    torch.testing.assert_close(bicubic(size, factor)(x), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("deviation", [0.5, 1.3, 4.0])
def test_blur_is_that_of_scipy(deviation):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = random(9, 14)
    theirs = ndimage.gaussian_filter(x.numpy(), deviation, mode="reflect", truncate=4.0)
    mine = gaussian_blur((9, 14), deviation)(x[None, None])[0, 0]
    np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-12)


def test_blurred_noise_is_not_blown_up():
    """The pseudo-inverse of a wide blur leaves out what float32 has lost: at most 1/SEEN of the noise comes back."""
    op = gaussian_blur(32, 3.0)
    noise = random(2, 1, 32, 32)
    assert float(op.pinv(noise).norm() / noise.norm()) < 1e5
    assert torch.equal(op.features(noise), noise)
    x = torch.sin(torch.arange(32) / 5.0).expand(1, 1, 32, 32)
    torch.testing.assert_close(op(op.pinv(op(x))), op(x), rtol=1e-4, atol=1e-4)


def test_grey():
    x = random(2, 3, 4, 4).clamp(-1, 1)
    op = grey()
    y = op(x)
    torch.testing.assert_close(y[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])
    assert op.features(y).shape == x.shape and op.pinv(y).shape == x.shape
    torch.testing.assert_close(op(op.features(y)), y)  # the grey image has the luma it was made of
    assert op.pinv(y).norm() < op.features(y).norm()  # the shortest does, too
    torch.testing.assert_close(grey(4)(torch.ones(1, 4, 2, 2)), torch.ones(1, 1, 2, 2))


# Fourier


def test_hartley_is_orthonormal():
    basis = hartley(torch.eye(30, dtype=torch.float64).reshape(30, 5, 6)).flatten(1)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(30, dtype=torch.float64), rtol=0, atol=1e-12)


def test_convolution_by_hand():
    """y[i, j] = sum over a, b of k[a, b] x[i + 1 - a, j + 1 - b], circular."""
    k, x = random(2, 1, 3, 3), random(2, 1, 4, 5, seed=1)
    expected = sum(k[:, :, a, b, None, None] * x.roll((a - 1, b - 1), (2, 3)) for a in range(3) for b in range(3))
    torch.testing.assert_close(Convolution(k)(x), expected)


def test_motion_kernels():
    kernels = motion_kernels(Noise(0, 6), 11)
    assert kernels.shape == (6, 1, 11, 11) and bool((kernels >= 0).all())
    torch.testing.assert_close(kernels.sum((1, 2, 3)), torch.ones(6))
    assert torch.equal(motion_kernels(Noise(0, [4]), 11)[0], kernels[4])
    grid = torch.arange(11.0) - 5
    for axis in (2, 3):  # centred
        mean = (kernels.sum(axis) * grid).sum(2)
        assert float(mean.abs().max()) < 0.2
    assert float((kernels[0] - kernels[1]).abs().max()) > 0.01
    straight = motion_kernels(Noise(0, 4), 15, 0.8, 0.8, 0.0)[:, 0]
    moments = torch.einsum("bij,i,i->b", straight, *[torch.arange(15.0) - 7] * 2) + torch.einsum(
        "bij,j,j->b", straight, *[torch.arange(15.0) - 7] * 2
    )
    # of a line 12 long, and the brush
    torch.testing.assert_close(moments, torch.full((4,), 12.0**2 / 12 + 2 * 0.25), rtol=0.03, atol=0)


def test_masked_fourier_is_the_fourier_transform():
    x, mask = random(2, 2, 6, 5), lines(2, 6, 5)
    full = np.fft.fftshift(np.fft.fft2(x.numpy(), norm="ortho"), axes=(2, 3)) * mask.numpy()
    y = MaskedFourier(mask)(x)
    np.testing.assert_allclose(y[:, :2].numpy(), full.real, atol=1e-12)
    np.testing.assert_allclose(y[:, 2:].numpy(), full.imag, atol=1e-12)


def test_masked_fourier_counts_what_can_be_measured():
    """Even sides: 4 frequencies are their own mirror images, each with one number. Full sampling gives x back."""
    op = MaskedFourier(torch.ones(1, 1, 4, 6))
    x = random(2, 3, 4, 6)
    assert op.number_of_measurements(op(x)).tolist() == [3 * (2 * 24 - 4)] * 2
    torch.testing.assert_close(op.pinv(op(x)), x)
    torch.testing.assert_close(op.adjoint(op(x)), x)
    middle = torch.zeros(1, 1, 4, 6)
    middle[..., 2, 3] = 1
    mean = MaskedFourier(middle)
    assert mean.number_of_measurements(mean(x)).tolist() == [3, 3]
    torch.testing.assert_close(mean.pinv(mean(x)), x.mean((2, 3), keepdim=True).expand_as(x))


def test_half_of_k_space_is_enough_for_a_real_image():
    seen = torch.zeros(1, 1, 7, 7)
    seen[..., :4] = 1  # all of k_x <= 0
    x = random(1, 1, 7, 7)
    op = MaskedFourier(seen)
    torch.testing.assert_close(op.pinv(op(x)), x)


# Tomography


def ellipse(side, centre, radius, soft=1.0):
    """A disc with a linear edge `soft` pixels wide, [1, 1, side, side]."""
    axis = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    distance = ((axis - centre[0]).square() + (-axis[:, None] - centre[1]).square()).sqrt()
    return ((radius - distance) / soft + 0.5).clamp(0, 1)[None, None]


def test_sinogram_is_that_of_scikit_image():
    """Two implementations of interpolation agree within 2 % of the largest value on a soft-edged disc."""
    transform = pytest.importorskip("skimage.transform")
    side = 41
    x = ellipse(side, (5.0, -3.0), 10.0, soft=4.0)
    op = Radon(side, 12, detectors=side)
    theirs = transform.radon(x[0, 0].numpy(), theta=np.arange(12) * 15.0, circle=True).T / side
    mine = op(x)[0, 0].numpy()
    assert np.abs(mine - theirs).max() < 0.02 * theirs.max()


def test_sinogram_of_a_blob_at_every_angle():
    """exp(-|p - m|^2 / (2 w^2)) has the line integrals w sqrt(2 pi) exp(-(s - m.n)^2 / (2 w^2)): within 1e-3 of the
    largest at w = 4 (a linear interpolation of it is off by up to 1 / (8 w^2) = 0.8 %, and by a third of that on
    average)."""
    side, w, m = 48, 4.0, (6.0, -9.0)
    axis = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    x = (-((axis - m[0]).square() + (-axis[:, None] - m[1]).square()) / (2 * w**2)).exp()[None, None]
    op = Radon(side, 36)
    cos, sin, s = op.geometry.lines()
    exact = w * math.sqrt(2 * math.pi) / side * (-(s - (m[0] * cos + m[1] * sin)[:, None]).square() / (2 * w**2)).exp()
    off = (op(x)[0, 0] - exact).abs() / exact.max()
    assert float(off.max()) < 0.012 and float(off.mean()) < 2e-3


@pytest.mark.parametrize("detectors", [None, 33])
def test_sinogram_of_ones_is_the_length_of_the_rays(detectors):
    """Along the axes every ray through the image has length 1; mass is kept at every angle: sum over s = pixels / side,
    within 2 %."""
    op = Radon(33, 8, detectors=detectors)
    y = op(torch.ones(1, 1, 33, 33, dtype=torch.float64))[0, 0]
    inside = op.geometry.lines()[2].abs() <= 16
    torch.testing.assert_close(y[0, inside], torch.ones(33, dtype=torch.float64))
    torch.testing.assert_close(y[4, inside], torch.ones(33, dtype=torch.float64))
    if detectors is None:
        torch.testing.assert_close(y.sum(1), torch.full((8,), 33.0, dtype=torch.float64), rtol=0.02, atol=0)
        assert float(y.max()) < math.sqrt(2) * 1.02


def test_filtered_back_projection():
    """A soft disc comes back within 1 % of its height, of many angles; with the Hann window a little softer; limited
    angles do not."""
    x = ellipse(48, (4.0, 6.0), 12.0, soft=5.0)
    op = Radon(48, 90)
    y = op(x)
    inner = ellipse(48, (0.0, 0.0), 22.0) > 0
    assert float((op.fbp(y) - x)[inner].square().mean().sqrt()) < 0.01
    assert float((op.fbp(y, "hann") - x)[inner].square().mean().sqrt()) < 0.02
    around = Radon(48, 180, arc=360.0)
    assert float((around.fbp(around(x)) - x)[inner].square().mean().sqrt()) < 0.01
    limited = Radon(48, 90, arc=90.0)
    assert float((limited.fbp(limited(x)) - x)[inner].square().mean().sqrt()) > 0.05
    torch.testing.assert_close(op.features(y), op.fbp(y, "hann"))


def test_pinv_of_many_angles_beats_filtered_back_projection():
    x = ellipse(24, (2.0, 3.0), 6.0)
    op = Radon(24, 40)
    y = op(x)
    errors = [float((v - x).square().mean().sqrt()) for v in (op.pinv(y), op.fbp(y))]
    assert errors[0] < 0.5 * errors[1] and errors[0] < 0.02


@pytest.mark.parametrize(
    "settings", [(16, 24, None, 180.0), (16, 6, None, 180.0), (15, 20, 15, 80.0), (16, 24, None, 360.0)]
)
def test_pull_of_tomography_is_a_safe_preconditioner(settings):
    """Symmetric positive definite, no larger than the exact update as a quadratic form, and |r| never grows."""
    op = Radon(*settings)
    side = settings[0]
    d = side**2
    matrix = dense(op, (1, side, side), torch.float64)[0]
    for noise in (1e-1, 1e-4):
        images = torch.eye(d, dtype=torch.float64).reshape(d, 1, side, side)
        p = op.precondition(images, noise, 0.7).flatten(1)
        torch.testing.assert_close(p, p.mT)
        exact = torch.linalg.inv(noise * torch.eye(d, dtype=torch.float64) + 0.7 * matrix.mT @ matrix)
        assert float(torch.linalg.eigvalsh(p)[0]) > 0
        shrink = torch.linalg.eigvalsh(0.7 * matrix @ p @ matrix.mT)
        assert float(shrink[0]) > -1e-9 and float(shrink[-1]) < 1.0
        assert float(torch.linalg.eigvalsh(exact - p)[0]) > -1e-6 * float(exact.abs().max())
    r, x = random(3, *op(torch.zeros(1, 1, side, side)).shape[1:]), random(3, 1, side, side)
    noise, rho2 = (
        torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64).reshape(-1, 1, 1, 1),
        torch.full((3, 1, 1, 1), 0.7, dtype=torch.float64),
    )
    after = r - op(op.approx_mean_update(x, r, noise, rho2))
    assert bool((after.flatten(1).norm(dim=1) < r.flatten(1).norm(dim=1)).all())


FOREIGN = {
    "matrix": (lambda: Matrix(random(4, 6)), (6,)),
    "a matrix each": (lambda: Matrix(random(3, 4, 6)), (6,)),
    "linear": (lambda: Linear(lambda x: x.flatten(1) @ random(6, 4).to(x.dtype), (1, 2, 3)), (1, 2, 3)),
    "through numpy": (
        lambda: ArrayLinear(lambda x: x @ random(6, 4).numpy(), lambda y: y @ random(6, 4).numpy().T, (6,), (4,)),
        (6,),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", [*OPERATORS, *FOREIGN])
def test_mean_update_is_the_posterior_mean(name, dtype):
    """Against the dense solve, from a belief tighter than the noise to one 200 times as wide, with a noise level of its
    own for each row. `approx_mean_update`, which learned h are shown, is the same but for tomography."""
    make, shape = (OPERATORS | FOREIGN)[name]
    op, x = make(), random(3, *shape, dtype=dtype)
    y = op(random(3, *shape, seed=1, dtype=dtype))
    r = op.measured_part(y + 0.1 * random(*y.shape, seed=2, dtype=dtype))
    a = dense(op, shape, torch.float64)
    for rho, sigma_y in ((0.05, 0.1), (0.3, 0.02), (1.0, 0.1), (1.0, 0.005), (3.0, 0.05)):
        sigma = sigma_y * torch.tensor([1.0, 2.0, 0.5], dtype=dtype).reshape(-1, *[1] * len(shape))
        noise, rho2 = sigma.reshape(-1, *[1] * (r.ndim - 1)) ** 2, torch.full_like(sigma, rho**2)
        left = rho**2 * a.mT @ a + sigma.double().reshape(-1, 1, 1) ** 2 * torch.eye(a.shape[2], dtype=torch.float64)
        exact = rho**2 * torch.linalg.solve(left, a.mT @ r.double().flatten(1)[..., None])[..., 0].reshape(x.shape)

        def off(move, exact=exact):
            return float(((move.double() - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).max())

        assert off(op.mean_update(x, r, noise, rho2)) < 5e-3, (rho, sigma_y)
        if not name.startswith("tomography"):
            torch.testing.assert_close(op.approx_mean_update(x, r, noise, rho2), op.mean_update(x, r, noise, rho2))
        elif rho > 10 * sigma_y:
            assert off(op.approx_mean_update(x, r, noise, rho2)) > 0.3


def test_mean_update_of_tomography_has_a_derivative_and_an_end():
    """Its derivative in r is the same solve, by hand the transpose; a number of steps that does not grow with the
    batch."""
    op, shape = Radon(6, 5), (2, 6, 6)
    r = random(2, 2, 5, 10).requires_grad_()
    noise, rho2 = torch.tensor(0.01, dtype=torch.float64), torch.full((2, 1, 1, 1), 0.5, dtype=torch.float64)
    w = random(2, *shape, seed=3)
    (back,) = torch.autograd.grad((w * op.mean_update(w, r, noise, rho2)).sum(), r)
    a = dense(op, shape, torch.float64)[0]
    exact = 0.5 * torch.linalg.solve(0.01 * torch.eye(len(a.mT), dtype=torch.float64) + 0.5 * a.mT @ a, w.flatten(1).mT)
    torch.testing.assert_close(back.flatten(1), (a @ exact).mT, rtol=1e-4, atol=1e-4)
    assert float(op.mean_update(w, torch.zeros_like(r), noise, rho2).abs().max()) == 0.0


def test_radon_tables_are_built_once():
    from deft.operator import projector

    Radon(10, 7)(random(1, 1, 10, 10))
    before = projector._table.cache_info().misses
    Radon(10, 7)(random(2, 3, 10, 10))
    assert projector._table.cache_info().misses == before


# Compressed sensing


def test_compressed_is_orthonormal_and_fixed_by_its_seed():
    op = Compressed((1, 6, 6), 0.4, seed=2)
    a = dense(op, (1, 6, 6), torch.float64)[0]
    assert a.shape == (14, 36)
    torch.testing.assert_close(a @ a.mT, torch.eye(14, dtype=torch.float64), rtol=0, atol=1e-12)
    x = random(2, 1, 6, 6)
    assert torch.equal(op(x), Compressed((1, 6, 6), 0.4, seed=2)(x)) and not torch.allclose(
        op(x), Compressed((1, 6, 6), 0.4, seed=3)(x)
    )


def test_compressed_spreads_a_smooth_image_evenly():
    """A constant image, one coefficient of the plain transform, has about as much energy in y as the share of numbers
    kept: within 4 standard errors, sqrt(2 / m), of m normal coefficients."""
    op = Compressed((1, 32, 32), 0.25)
    y = op(torch.ones(1, 1, 32, 32))
    m = y.shape[1]
    assert abs(float(y.square().mean()) - 1) < 4 * math.sqrt(2 / m)
    assert float(y.abs().max()) < 6


# Masks


@pytest.mark.parametrize("noise", [lambda: Noise(5, 8), lambda: BatchNoise(8, 5)])
def test_boxes_one_by_one(noise):
    """Four numbers a sample: size and place along the height, then along the width."""
    drawn = masks.boxes(noise(), 20, 28, 0.2, 0.6)
    for mask, numbers in zip(drawn, noise().uniform((4,)).tolist(), strict=True):
        expected = torch.ones(20, 28)
        place = []
        for extent, (size, at) in ((20, numbers[:2]), (28, numbers[2:])):
            low, high = round(0.2 * extent), round(0.6 * extent)
            length = low + int(size * (high - low + 1))
            place.append(slice(int(at * (extent - length + 1)), int(at * (extent - length + 1)) + length))
        expected[place[0], place[1]] = 0
        assert torch.equal(mask[0], expected)


DRAWS = {
    "boxes": lambda n: masks.boxes(n, 24, 32),
    "free_form": lambda n: masks.free_form(n, 24, 32),
    "random_pixels": lambda n: masks.random_pixels(n, 24, 32, 0.2),
    "outside": lambda n: masks.outside(n, 24, 32, 0.5),
    "columns": lambda n: masks.columns(n, 24, 32, 4.0),
}


@pytest.mark.parametrize("name", DRAWS)
def test_masks_belong_to_samples(name):
    whole = DRAWS[name](Noise(1, 6))
    assert whole.shape == (6, 1, 24, 32) and whole.dtype == torch.float32
    assert bool(((whole == 0) | (whole == 1)).all())
    assert torch.equal(DRAWS[name](Noise(1, [4, 5])), whole[4:])
    assert any(not torch.equal(whole[0], w) for w in whole[1:])
    assert DRAWS[name](BatchNoise(3, 0)).shape == (3, 1, 24, 32)


@pytest.mark.parametrize("share", [(0.2, 0.3), (0.05, 0.06), (0.6, 0.9), (0.25, 0.25)])
def test_free_form_covers_what_it_is_told(share):
    count = 320 - masks.free_form(Noise(0, 200), 16, 20, *share).sum((1, 2, 3))
    least, most = round(share[0] * 320), math.floor(share[1] * 320 + 1e-9)
    drawn = Noise(0, 200).uniform((21,))[:, 0]  # a sample's first number decides, whatever its strokes
    assert count.tolist() == [least + int(u * (most - least + 1)) for u in drawn.tolist()]
    hidden = count / 320
    if share == (0.2, 0.3):  # and all of the range: the mean is that of a uniform number, within 4 standard errors
        assert abs(float(hidden.mean()) - 0.25) < 4 * 0.1 / math.sqrt(12 * 200) + 1 / 320


def test_free_form_is_strokes_not_specks():
    """Most neighbours of a hidden pixel are hidden, too: specks at this coverage would have a quarter."""
    hidden = 1 - masks.free_form(Noise(0, 20), 64, 64)
    both = (hidden[..., 1:] * hidden[..., :-1]).sum() / hidden[..., :-1].sum()
    assert float(both) > 0.85


def test_random_pixels_and_outside_and_columns_count():
    assert set(masks.random_pixels(Noise(0, 5), 10, 10, 0.13).sum((1, 2, 3)).tolist()) == {13.0}
    assert set(masks.outside(Noise(0, 5), 10, 20, 0.5).sum((1, 2, 3)).tolist()) == {50.0}
    centred = masks.outside(Noise(0, 2), 8, 8, 0.5, centred=True)
    assert bool((centred[:, :, 2:6, 2:6] == 1).all()) and float(centred.sum()) == 32
    drawn = masks.columns(Noise(0, 40), 6, 32, 4.0, 0.1)[:, 0, 0]
    assert set(drawn.sum(1).tolist()) == {8.0}
    assert bool((drawn[:, 15:18] == 1).all())  # zero frequency is at 16
    often = drawn.mean(0)
    assert float(often[torch.arange(32) < 14].mean()) == pytest.approx(5 / 29, abs=4 * math.sqrt(5 / 29 / 560))


def test_refusals():
    for make in (
        lambda: masks.boxes(Noise(0, 1), 8, 8, 0.5, 0.4),
        lambda: masks.free_form(Noise(0, 1), 8, 8, 0.5, 0.4),
        lambda: masks.random_pixels(Noise(0, 1), 8, 8, 1.0),
        lambda: masks.outside(Noise(0, 1), 8, 8, 0.0),
        lambda: masks.columns(Noise(0, 1), 8, 8, 4.0, 0.5),
        lambda: gaussian_blur(8, 0.0),
        lambda: bicubic(8, 0),
        lambda: grey(0),
        lambda: motion_kernels(Noise(0, 1), 4),
        lambda: Radon(8, 0),
        lambda: Radon(8, arc=400.0),
        lambda: Radon(8).fbp(torch.zeros(1, 1, 60, 12), "cosine"),
        lambda: Compressed((1, 4, 4), 0.0),
    ):
        with pytest.raises(InputError, match=r"got"):
            make()
    x = torch.zeros(1, 3, 6, 8)
    for use in (
        lambda: bicubic(8, 4)(x),
        lambda: grey(2)(x),
        lambda: Separable(torch.zeros(3)),
        lambda: Convolution(torch.zeros(3, 3)),
        lambda: Convolution(torch.ones(1, 1, 7, 7))(x),
        lambda: MaskedFourier(torch.full((1, 1, 6, 8), 0.5)),
        lambda: MaskedFourier(torch.ones(1, 1, 8, 8))(x),
        lambda: MaskedFourier(torch.ones(1, 1, 6, 8)).adjoint(x),
        lambda: Radon(8)(x),
        lambda: Radon(8).adjoint(x),
        lambda: Compressed((3, 8, 8))(x),
        lambda: Compressed((3, 6, 8)).adjoint(torch.zeros(1, 5)),
        lambda: BlockAverage(4).spectrum((3, 6, 8), x),
    ):
        with pytest.raises(ContractError):
            use()
    with pytest.raises(InputError, match=r"4900 pixels"):
        Radon(70).spectrum((1, 70, 70), x)
