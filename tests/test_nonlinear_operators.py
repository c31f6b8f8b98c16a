"""HDR, JPEG, phase retrieval and the camera: what they compute, and that their guidance maps move towards the data."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from deft.core.random import Noise, generator
from deft.domains.image.data import dataset
from deft.errors import ContractError, InputError
from deft.likelihood import Gaussian
from deft.operator import HDR, JPEG, Camera, PhaseRetrieval
from deft.operator.jpeg import table
from deft.testing import check_likelihood, check_operator


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed)).to(dtype)


def psnr(a, b):
    return 10 * torch.log10(4 / (a - b).square().flatten(1).mean(1))


def images(n, dtype=torch.float32):
    return dataset("fashion", "validation").x[:n].to(dtype)


OPERATORS = {
    "hdr": (lambda: HDR(2.0), (2, 4, 4)),
    "hdr, per sample": (lambda: HDR(torch.tensor([0.7, 2.0, 3.0])), (2, 4, 4)),
    "hdr, vector": (lambda: HDR(0.5), (6,)),
    "jpeg": (lambda: JPEG(10), (1, 8, 16)),
    "jpeg, per sample": (lambda: JPEG(torch.tensor([5, 50, 20])), (3, 16, 8)),
    "phase retrieval": (PhaseRetrieval, (1, 6, 6)),
    "phase retrieval, odd, x3, colour": (lambda: PhaseRetrieval(3), (3, 5, 4)),
    "camera": (lambda: Camera(5), (1, 8, 8)),
    "camera, colour": (lambda: Camera(3, kernels=2, exposure=1.2, seed=3), (3, 6, 5)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name, dtype):
    make, shape = OPERATORS[name]
    check_operator(make(), shape, dtype=dtype, surrogate="jpeg" in name)


@pytest.mark.parametrize("sigma", [0.2, 0.0])
@pytest.mark.parametrize("name", OPERATORS)
def test_gaussian(name, sigma):
    make, shape = OPERATORS[name]
    check_likelihood(
        Gaussian(make(), sigma),
        shape,
        statistics=sigma > 0 and "jpeg" not in name,
        draws=2000,
        surrogate="jpeg" in name,
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_pull_stays_bounded_as_the_noise_vanishes(name):
    """With rho = 1 and a deviation of 1e-6, no image in [-1, 1] is moved by more than 3 (root mean square)."""
    make, shape = OPERATORS[name]
    op = make()
    x, z = (random(3, *shape, seed=s).clamp(-1, 1) for s in (0, 1))
    for noise in (1e-12, 1e-2):
        move = op.approx_mean_update(
            x, op(z) - op(x), torch.tensor(noise, dtype=x.dtype), torch.ones(3, *[1] * len(shape), dtype=x.dtype)
        )
        assert float(move.flatten(1).square().mean(1).sqrt().max()) < 3


@pytest.mark.parametrize("name", OPERATORS)
def test_pulls_lower_the_misfit_of_images(name):
    """A whole pull never raises the misfit by more than rounding, from anywhere near an image, and ten halve it (phase
    retrieval, which gets stuck: lower it by a fifth)."""
    make, shape = OPERATORS[name]
    op = make()
    x, z = (random(3, *shape, seed=s).mul(0.6).clamp(-1, 1) for s in (0, 1))
    y, rho2 = op(z), torch.ones(3, *[1] * len(shape), dtype=x.dtype)
    misfits = []
    for _ in range(11):
        r = y - op(x)
        misfits.append(r.square().flatten(1).sum(1))
        x = x + op.approx_mean_update(x, r, torch.tensor(1e-4, dtype=x.dtype), rho2)
    for before, after in itertools.pairwise(misfits):
        assert bool((after <= before * (1 + 1e-3) + 1e-9).all())
    assert bool((misfits[-1] < (0.8 if "phase" in name else 0.5) * misfits[0]).all())


# HDR


def test_hdr_pull_is_the_most_probable_pixel():
    """Against a grid search of (y - clip(g u))^2 / noise + (u - x)^2 / rho2, to the grid's spacing."""
    u = torch.linspace(-4, 4, 16_001, dtype=torch.float64)
    for noise, rho2 in ((0.01, 0.5), (0.5, 0.05), (1e-6, 1.0)):
        x, y = random(1, 40).mul(1.2), random(1, 40, seed=1).mul(0.8)
        op = HDR(2.0)
        cost = (y[0, :, None] - (2 * u).clamp(-1, 1)).square() / noise + (u - x[0, :, None]).square() / rho2
        got = x + op.approx_mean_update(
            x, y - op(x), torch.tensor(noise, dtype=x.dtype), torch.tensor([[rho2]], dtype=x.dtype)
        )
        assert bool(((got[0] - u[cost.argmin(1)]).abs() <= 5e-4).all())


def test_hdr_saturated_pixels():
    """Below the limit: up to it. Beyond it: stays for a saturated y, and comes back for a y inside. The gradient does
    not."""
    op = HDR(2.0)
    x = torch.tensor([[0.2, 0.9, 0.9, -0.8]], dtype=torch.float64)
    y = torch.tensor([[1.0, 1.0, 0.4, 0.4]], dtype=torch.float64)
    r = y - op(x)
    move = op.approx_mean_update(x, r, torch.tensor(1e-10, dtype=x.dtype), torch.ones(1, 1, dtype=x.dtype))
    torch.testing.assert_close(
        x + move, torch.tensor([[0.5, 0.9, 0.2, 0.2]], dtype=torch.float64), rtol=1e-6, atol=1e-6
    )
    assert op.vjp(x, r)[0, 1:].tolist() == [0, 0, 0]
    lifted = op.features(torch.tensor([[1.0, -1.2, 0.5]]))
    assert lifted.tolist() == [[0.5, pytest.approx(-0.6), 0.25, 1, -1, 0]]


# JPEG


@pytest.mark.parametrize("quality", [1, 5, 10, 30, 50, 75, 90, 100])
def test_jpeg_is_what_pillow_decodes(quality):
    """The table exactly; pixels within 2 grey levels, but for blocks where a coefficient is halfway between two (whole
    grey levels often make it so, and Pillow's transform is in whole numbers): less than a tenth of them."""
    x = F.interpolate(random(1, 1, 8, 8), size=(64, 64), mode="bicubic") / 2 + 0.1 * random(1, 1, 64, 64, seed=1)
    levels = ((x + 1) * 127.5).round().clamp(0, 255)
    file = io.BytesIO()
    Image.fromarray(levels[0, 0].numpy().astype(np.uint8)).save(file, "JPEG", quality=quality)
    picture = Image.open(file)
    assert torch.tensor(picture.quantization[0]).tolist() == table(torch.tensor([quality]))[0].flatten().tolist()
    decoded = torch.from_numpy(np.asarray(picture).astype(float))
    ours = ((JPEG(quality)(levels / 127.5 - 1) + 1) * 127.5).clamp(0, 255)[0, 0]
    off = (ours - decoded).abs()
    assert float((off > 2).double().mean()) < 0.1 and float(off.median()) < 0.5


def test_jpeg_is_a_projection():
    for quality in (3, 20, 90):
        op, x = JPEG(quality), random(2, 3, 16, 24).clamp(-1, 1)
        y = op(x)
        torch.testing.assert_close(op(y), y)
        assert float((y - x).abs().max()) > 1e-3
        torch.testing.assert_close(op.pinv(y), y)


def test_jpeg_pull_lands_on_an_image_that_is_rounded_to_y():
    op, x, z = JPEG(10), random(2, 1, 16, 16).clamp(-1, 1), random(2, 1, 16, 16, seed=1).clamp(-1, 1)
    y = op(z)
    rho2 = torch.ones(2, 1, 1, 1, dtype=x.dtype)
    found = x + op.approx_mean_update(x, y - op(x), torch.zeros((), dtype=x.dtype), rho2)
    torch.testing.assert_close(op(found), y)
    assert float((found - x).norm()) < float((y - x).norm())  # nearer than y itself


# phase retrieval


def test_phase_retrieval_is_the_transform_of_the_padded_picture():
    """Padded on all sides as in the paper, by numpy's transform; and turned pictures are alike."""
    x = random(2, 1, 6, 8)
    padded = F.pad((x + 1) / 2, (4, 4, 3, 3))
    torch.testing.assert_close(PhaseRetrieval()(x), torch.from_numpy(np.abs(np.fft.fft2(padded.numpy(), norm="ortho"))))
    torch.testing.assert_close(PhaseRetrieval()(x.flip((-2, -1))), PhaseRetrieval()(x))


def test_phase_retrieval_pull_is_error_reduction():
    op, x, z = PhaseRetrieval(), random(2, 1, 6, 6), random(2, 1, 6, 6, seed=1)
    y = op(z)
    phase = torch.fft.fft2((x + 1) / 2, s=(12, 12), norm="ortho").angle()
    projected = 2 * torch.fft.ifft2(torch.polar(y, phase), norm="ortho").real[..., :6, :6] - 1
    move = op.approx_mean_update(
        x, y - op(x), torch.zeros((), dtype=x.dtype), torch.full((2, 1, 1, 1), 0.3, dtype=x.dtype)
    )
    torch.testing.assert_close(x + move, projected)


def test_phase_retrieval_lift_is_a_picture():
    """Clothes without noise: the better of the two orientations is at 18 dB or more on average (the mean picture: 12),
    the second is the first turned, and a row does not depend on its batch."""
    x, op = images(24), PhaseRetrieval()
    y = op(x)
    one, turned = op.features(y).chunk(2, 1)
    assert torch.equal(turned, one.flip((-2, -1))) and torch.equal(op.pinv(y), one)
    best = torch.maximum(psnr(one, x), psnr(turned, x))
    assert float(best.mean()) > 18 and float((best > 25).float().mean()) > 0.2
    assert float(psnr(x.mean(0, keepdim=True).expand_as(x), x).mean()) < 13
    torch.testing.assert_close(op.features(y[3:5]), op.features(y)[3:5], rtol=1e-3, atol=1e-3)
    assert torch.equal(op.features(y), op.features(y))


def test_phase_retrieval_features_are_the_same_alone_and_in_a_batch():
    """Bit for bit: the iteration enlarges any difference in rounding to one that can be seen."""
    op = PhaseRetrieval()
    y = op(images(3))
    assert torch.equal(op.features(y), torch.cat([op.features(one[None]) for one in y]))


def test_phase_retrieval_channels_agree():
    """A colour picture made of a grey one: no channel is left upside down."""
    x = images(6)
    colour = torch.cat([x, (x + 1) * 0.7 - 1, (x + 1) * 0.4 - 1], 1)
    lifted = PhaseRetrieval().pinv(PhaseRetrieval()(colour))
    a = lifted - lifted.mean((-2, -1), keepdim=True)
    right, wrong = ((a[:, :1] * b[:, 1:]).sum((-2, -1)) for b in (a, a.flip((-2, -1))))
    assert bool((right >= wrong).all())


# camera


@pytest.mark.parametrize("shape", [(2, 1, 9, 9), (1, 3, 12, 16)])
def test_camera_blur_adjoint(shape):
    """<B u, v> = <u, B^T v>, and white stays white."""
    op, u, v = Camera(9), random(*shape), random(*shape, seed=1)
    torch.testing.assert_close((op.blur(u) * v).sum(), (u * op.blur_adjoint(v)).sum())
    torch.testing.assert_close(op.blur(torch.ones_like(u)), torch.ones_like(u), rtol=1e-6, atol=1e-6)


def test_camera_bound_holds():
    """No eigenvalue of B C^-1 B^T exceeds 1: `approx_mean_update` relies on it."""
    op = Camera(5)
    basis = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    b, c = op.blur(basis).flatten(1).mT, op._weights(basis)[1].flatten()
    assert float(torch.linalg.eigvalsh(b / c @ b.mT).max()) < 1 + 1e-6


def test_camera_is_its_arguments():
    """The same seed is the same camera; others differ; kernels are sums of 1 with a spread of more than a pixel."""
    x = images(2)
    assert torch.equal(Camera(seed=1)(x), Camera(seed=1)(x)) and not torch.equal(Camera(seed=1)(x), Camera(seed=2)(x))
    k = Camera(9).kernels
    i = torch.arange(-4, 5.0)
    torch.testing.assert_close(k.sum((1, 2)), torch.ones(4))
    spread = (k * (i[:, None] ** 2 + i**2)).sum((1, 2)).sqrt()
    assert bool((spread > 1).all()) and float((k - k.flip((-2, -1))).abs().max()) > 0.01


def test_camera_is_hard_and_its_views_help():
    """Clothes: blurred and saturated; the picture is better than y, and the sharpened one better still, with noise
    too."""
    x, op = images(32), Camera()
    y = op(x)
    bright = x > 0
    assert 0.2 < float((y >= 1 - 1e-6)[bright].float().mean()) < 0.6
    assert float(psnr(op.pinv(y), x).mean()) < 20
    for sigma in (0.0, 0.05):
        noisy = Gaussian(op, sigma).sample(x, Noise(0, 32))
        picture, sharp = op.features(noisy).chunk(2, 1)
        assert torch.equal(picture, op.pinv(noisy))
        assert psnr(noisy, x).mean() + 3 < psnr(picture, x).mean() < psnr(sharp, x).mean() - 1


def test_camera_pull_handles_saturation():
    """A constant picture that is saturated where y is not comes down, though its gradient is 0; one that should be
    saturated rises to the limit and not beyond."""
    op = Camera(5, exposure=2.0)
    white = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    grey = -0.6 * white
    noise, rho2 = torch.tensor(1e-8, dtype=white.dtype), torch.ones(1, 1, 1, 1, dtype=white.dtype)
    r = op(grey) - op(white)
    assert float(op.vjp(white, r).abs().max()) == 0
    down = op.approx_mean_update(white, r, noise, rho2)
    # from the limit, x = 0, to -0.6
    torch.testing.assert_close(down, torch.full_like(down, -0.6), rtol=1e-3, atol=1e-3)
    up = grey + op.approx_mean_update(grey, op(white) - op(grey), noise, rho2)
    torch.testing.assert_close(up, 0 * white, rtol=0, atol=1e-3)


def test_camera_inverts_its_curve():
    op = Camera(3, exposure=0.9)
    e = torch.linspace(-0.5, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(op._untone(op._tone(e)), e)
    assert math.isclose(float(op._tone(e)[-1]), 1.0)


# refusals


@pytest.mark.parametrize(
    ("make", "finds"),
    [
        (lambda: HDR(0.0), "gain above 0"),
        (lambda: HDR(torch.tensor([1.0, math.inf])), "gain above 0"),
        (lambda: JPEG(0), "quality from 1 to 100"),
        (lambda: JPEG(torch.tensor([10.5])), "whole quality"),
        (lambda: PhaseRetrieval(1), "oversampl"),
        (lambda: PhaseRetrieval(2.5), "oversampl"),
        (lambda: PhaseRetrieval(iterations=0), "iteration"),
        (lambda: Camera(4), "odd side"),
        (lambda: Camera(9, kernels=0), "1 kernel"),
        (lambda: Camera(exposure=-1.0), "exposure"),
        (lambda: Camera(curve=math.nan), "curve"),
    ],
)
def test_settings_out_of_range(make, finds):
    with pytest.raises(InputError, match=finds):
        make()


@pytest.mark.parametrize(
    ("call", "finds"),
    [
        (lambda: JPEG(10)(torch.zeros(1, 8)), "4 axes"),
        (lambda: PhaseRetrieval()(torch.zeros(1, 8)), r"\[B, C, H, W\]"),
        (lambda: PhaseRetrieval().features(torch.zeros(1, 1, 7, 8)), "2 H"),
        (lambda: Camera(9)(torch.zeros(1, 1, 8, 8)), "at least that size"),
    ],
)
def test_shapes_that_do_not_fit(call, finds):
    with pytest.raises(ContractError, match=finds):
        call()
