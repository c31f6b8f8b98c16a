"""Measurements in the conventions of other programs: each setting, against the other convention written out here; and
arrays that do not fit an operator, which are refused and not broadcast.

The proof for a setting has two halves. The operator with the setting makes the y of the other convention; and what it
makes of such a y (`pinv`, `features`) is what the usual operator makes of its own.
"""

from __future__ import annotations

import io
import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from deft.core.random import BatchNoise, Noise
from deft.domains.image import conventions as convert
from deft.domains.image.tasks import TASKS, get_task, make_task
from deft.errors import ContractError, InputError
from deft.io.arrays import read_array
from deft.io.measurements import other_settings, read_measurement, save_measurement, task_of
from deft.io.settings import read_angles, read_kernel, switch
from deft.operator import (
    HDR,
    JPEG,
    BlockAverage,
    Camera,
    CoilFourier,
    ColourJPEG,
    Compressed,
    Convolution,
    EdgedConvolution,
    Identity,
    KSpace,
    Linear,
    Magnitudes,
    Mask,
    MaskedFourier,
    Matrix,
    PhaseRetrieval,
    Radon,
    RayRadon,
    bicubic,
    every,
    gaussian_blur,
    grey,
    masks,
    recast,
    smooth_coils,
)
from deft.operator.recast import NORMS, ORIGINS
from deft.operator.separable import BOUNDARIES, FILTERS, LUMAS
from deft.testing import check_operator
from toys import refused, result

close = torch.testing.assert_close


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def lines(batch, height, width):
    return masks.columns(Noise(3, batch), height, width, 2.0)


# Arrays that do not fit


IMAGES = {
    "block average": lambda: BlockAverage(2),
    "bicubic": lambda: bicubic(8, 2),
    "one pixel": lambda: every(8, 2),
    "blur": lambda: gaussian_blur(8, 1.0),
    "grey": grey,
    "convolution": lambda: Convolution(random(1, 1, 3, 3)),
    "edged": lambda: EdgedConvolution(random(1, 1, 3, 3)),
    "mask": lambda: Mask((random(1, 1, 8, 8) > 0).float()),
    "mask, per sample": lambda: Mask((random(3, 1, 8, 8) > 0).float()),
    "k-space": lambda: MaskedFourier(lines(1, 8, 8)),
    "k-space, corner": lambda: recast(MaskedFourier(lines(1, 8, 8)), KSpace(centred=False)),
    "sinogram": lambda: Radon(8, 5),
    "magnitudes": PhaseRetrieval,
    "jpeg": JPEG,
    "camera": lambda: Camera(3),
}


def wrong(y):
    """The array with an axis too few or too many, and in types that are no real floating-point tensor."""
    return {
        "without the channel axis": y[:, 0],
        "without the batch axis": y[0],
        "one axis too many": y[:, None],
        "NumPy": y.numpy(),
        "complex": torch.complex(y, y),
        "bytes": y.to(torch.uint8),
        "whole numbers": y.long(),
        "a list": y.tolist(),
    }


@pytest.mark.parametrize("name", IMAGES)
def test_arrays_that_do_not_fit_are_refused(name):
    """By every way in: the call, and what takes y."""
    op, x = IMAGES[name](), random(3, 3, 8, 8)
    y = op(x)
    for method in ("__call__", "adjoint", "features", "pinv", "start", "picture"):
        if not hasattr(op, method):
            continue
        for kind, array in wrong(x if method == "__call__" else y).items():
            with pytest.raises(ContractError) as error:
                getattr(op, method)(array)
            assert "\n" not in str(error.value), kind
            if "axis" in kind and "mask" not in name:
                assert "4 axes [B, C, H, W]" in str(error.value) and str(tuple(array.shape)) in str(error.value)


@pytest.mark.parametrize("kind", ["NumPy", "complex", "bytes", "whole numbers", "a list"])
@pytest.mark.parametrize(
    "make", [Identity, lambda: HDR(2.0), lambda: Linear(lambda x: 2 * x, (1, 4, 4)), lambda: Compressed((1, 4, 4), 0.5)]
)
def test_types_are_refused_by_operators_of_any_shape(make, kind):
    with pytest.raises(ContractError, match=r"torch tensor|floating-point"):
        make()(wrong(random(2, 1, 4, 4))[kind])


SHAPES = {
    "mask without channels, images with": (lambda: Mask(torch.ones(3, 8, 8)), (3, 1, 8, 8), "same axes"),
    "mask with channels, images without": (lambda: Mask(torch.ones(3, 1, 8, 8)), (3, 8, 8), "same axes"),
    "mask of another size": (lambda: Mask(torch.ones(1, 1, 8, 8)), (3, 1, 8, 1), "same axes"),
    "mask of three channels, grey images": (lambda: Mask(torch.ones(1, 3, 8, 8)), (3, 1, 8, 8), "same axes"),
    "masks of other rows": (lambda: Mask(torch.ones(3, 1, 8, 8)), (2, 1, 8, 8), "mask of 3 samples, got 2"),
    "gains of other rows": (lambda: HDR(torch.ones(3)), (2, 1, 8, 8), "gain of 3 samples"),
    "qualities of other rows": (lambda: JPEG(torch.tensor([5, 6, 7])), (4, 1, 8, 8), "quality of 3 samples"),
    "kernels of other rows": (lambda: Convolution(random(3, 1, 3, 3)), (2, 1, 8, 8), "kernel of 3 samples"),
    "matrix and an image": (lambda: Matrix(random(2, 5)), (3, 1, 5), "2 axes"),
    "matrices of other rows": (lambda: Matrix(random(3, 2, 5)), (2, 5), "matrix of 3 samples"),
    "linear map of another shape": (lambda: Linear(lambda x: x, (6,)), (2, 5), r"\[B, 6\]"),
    "coils and colour": (lambda: CoilFourier(torch.ones(1, 3, 8, 8)), (2, 3, 8, 8), "grey"),
    "colour JPEG and grey": (lambda: ColourJPEG(5), (2, 1, 16, 16), "B, 3, H, W"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_would_be_broadcast(name):
    make, shape, says = SHAPES[name]
    with pytest.raises(ContractError, match=says):
        make()(random(*shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize(
    "name",
    [
        k
        for k in IMAGES
        if k not in ("k-space", "k-space, corner", "magnitudes", "sinogram", "camera", "jpeg", "convolution", "edged")
    ],
)
def test_the_dtype_of_x_is_that_of_y(name, dtype):
    op, x = IMAGES[name](), random(3, 3, 8, 8).to(dtype)
    assert op(x).dtype == dtype and op.adjoint(op(x)).dtype == dtype


@pytest.mark.parametrize(
    "name",
    ["block average", "mask", "blur", "sinogram", "k-space", "k-space, corner", "convolution", "edged", "magnitudes"],
)
def test_the_checks_work_under_vmap(name):
    op, x = IMAGES[name](), random(4, 1, 1, 8, 8)
    close(torch.func.vmap(op)(x), torch.stack([op(v) for v in x]))
    with pytest.raises(ContractError):
        torch.func.vmap(op)(x[:, 0])


# Tomography: y of the other convention is a reordering of ours


SIDE, ANGLES = 11, 12


def usual():
    return Radon(SIDE, ANGLES)


def picture(side=SIDE):
    """Nothing at the edges, so that one pixel to any side is still inside."""
    x = random(2, 1, side, side)
    x[..., :2, :] = x[..., -2:, :] = 0
    x[..., :2] = x[..., -2:] = 0
    return x


def rolled(y, by):
    """Detectors moved, 0 where none was."""
    return F.pad(y, (by, -by))


def turned(y):
    """Rows of the angles -i: theta and theta - 180 are the same lines, s with its sign changed."""
    return torch.cat([y[:, :, :1], y[:, :, 1:].flip((2, 3))], 2)


REORDERED = {
    "clockwise": ({"rotation": "clockwise"}, turned),
    "start at 90 degrees": ({"start": 90.0}, lambda y: torch.cat([y[:, :, 6:], y[:, :, :6].flip(3)], 2)),
    "start at -90 degrees": ({"start": -90.0}, lambda y: torch.cat([y[:, :, 6:].flip(3), y[:, :, :6]], 2)),
    "start at 180 degrees": ({"start": 180.0}, lambda y: y.flip(3)),
    "start and sense": ({"start": 165.0, "rotation": "clockwise"}, lambda y: y.flip(2)),
    "centre one detector to the right": ({"centre": 1.0, "detectors": 23}, lambda y: rolled(F.pad(y, (3, 3)), 1)),
    "centre two detectors to the left": ({"centre": -2.0, "detectors": 23}, lambda y: rolled(F.pad(y, (3, 3)), -2)),
    "fewer detectors": ({"detectors": 13}, lambda y: y[..., 2:-2]),
    "more detectors": ({"detectors": 21}, lambda y: F.pad(y, (2, 2))),
    "detectors cut on one side": ({"detectors": 15, "centre": -1.0}, lambda y: y[..., 2:]),
    "every other detector": ({"detectors": 9, "pitch": 2.0}, lambda y: y[..., ::2]),
    "plain sums over pixels": ({"length": float(SIDE)}, lambda y: SIDE * y),
    "metres": ({"length": 0.26}, lambda y: 0.26 * y),
    "directions written out": ({"directions": [15.0 * i for i in range(12)]}, lambda y: y),
    "some of the directions": ({"directions": [15.0, 60.0, 165.0]}, lambda y: y[:, :, [1, 4, 11]]),
    "directions in another order": ({"directions": [60.0, 15.0]}, lambda y: y[:, :, [4, 1]]),
}


@pytest.mark.parametrize("name", REORDERED)
def test_sinograms_of_other_scanners(name):
    options, reorder = REORDERED[name]
    there, x = Radon(SIDE, ANGLES, **options), picture()
    own = usual()(x)
    assert own.shape == (2, 1, 12, 17)
    theirs = reorder(own)
    close(there(x), theirs, rtol=1e-9, atol=1e-12)
    check_operator(Radon(6, 5, **{**options, "detectors": options.get("detectors") and 7}), (1, 6, 6))
    if theirs.shape == own.shape:  # the same numbers: the same image
        close(there.pinv(theirs), usual().pinv(own), rtol=0, atol=5e-3)  # a hundred steps of conjugate gradients
        close(there.fbp(theirs), usual().fbp(own), rtol=1e-6, atol=1e-6)
        close(there.features(theirs), usual().features(own), rtol=1e-6, atol=1e-6)
    noise, rho2 = torch.tensor(1e-4), torch.full((2, 1, 1, 1), 1.0)
    zero = torch.zeros_like(x)
    if name not in (
        "fewer detectors",
        "every other detector",
        "some of the directions",
        "directions in another order",
        "detectors cut on one side",
    ):
        scaled = noise.double() * options.get("length", 1.0) ** 2
        close(
            there.mean_update(zero, theirs, scaled, rho2),
            usual().mean_update(zero, own, noise, rho2),
            rtol=1e-3,
            atol=1e-3,
        )


@pytest.mark.parametrize(("right", "up"), [(1, 0), (0, 1), (-2, 1)])
def test_an_axis_off_the_middle(right, up):
    """About a pixel `right` and `up`, what an image looks like when it is moved so that this pixel is in the middle."""
    x = picture()
    moved = x.roll((up, -right), (2, 3))
    close(
        Radon(SIDE, ANGLES, axis=(float(right), float(up)), detectors=25)(x),
        Radon(SIDE, ANGLES, detectors=25)(moved),
        rtol=1e-9,
        atol=1e-12,
    )
    check_operator(Radon(6, 5, axis=(right / 2, up / 2)), (2, 6, 6))


def test_the_usual_geometry_is_what_it_was():
    a, b = (
        Radon(9, 7, 13, 100.0),
        Radon(9, 7, 13, 100.0, start=0.0, rotation="counterclockwise", centre=0.0, pitch=1.0, length=1.0),
    )
    x = random(1, 1, 9, 9)
    assert a.geometry == b.geometry and torch.equal(a(x), b(x)) and torch.equal(a.fbp(a(x)), b.fbp(b(x)))


def blob(side, m, w, middle):
    """exp(-|p - m|^2 / (2 w^2)) with m in pixels right of and above a middle (row, column), [side, side]."""
    right = np.arange(side) - middle[1] - m[0]
    up = -(np.arange(side)[:, None] - middle[0]) - m[1]
    return np.exp(-(right**2 + up**2) / (2 * w**2))


def blob_integral(theta, s, m, w):
    """Its line integrals in pixels, [angles, detectors]."""
    theta = np.asarray(theta)[:, None]
    return w * math.sqrt(2 * math.pi) * np.exp(-((s - m[0] * np.cos(theta) - m[1] * np.sin(theta)) ** 2) / (2 * w**2))


def near(made, u, width=0.03):
    """A converted file's y is that of the image 2 u - 1, by the operator the file names, within the interpolation of a
    blob."""
    task, side = made.task, u.shape[-1]
    x = torch.from_numpy(2 * u - 1)[None, None]
    operator = task.build(made.drawn) if made.drawn is not None else task.operator(x, None)
    expected = operator(x)
    assert made.y.shape == expected.shape and side == x.shape[-1]
    assert float((made.y - expected).abs().max()) < width * float(expected.abs().max())


@pytest.mark.parametrize("circle", [True, False])
@pytest.mark.parametrize("side", [48, 49])
@pytest.mark.parametrize(
    "theta",
    [[3.0 * i for i in range(60)], [0.0, 10.0, 45.0, 100.0, 170.0], [90.0, 60.0, 30.0, 0.0]],
    ids=["even", "uneven", "falling"],
)
def test_scikit_image(side, circle, theta):
    """[detectors, angles], plain sums, about pixel [side // 2, side // 2], detector j at s = j - n // 2."""
    n = side if circle else math.ceil(math.sqrt(2) * side)
    m, w, middle = (5.0, -7.0), 3.5, (side // 2, side // 2)
    sinogram = blob_integral(np.deg2rad(theta), np.arange(n) - n // 2, m, w).T
    made = convert.from_skimage(sinogram, theta, circle=circle)
    near(made, blob(side, m, w, middle), width=0.012)


@pytest.mark.parametrize("circle", [True, False])
@pytest.mark.parametrize("side", [40, 41])
def test_scikit_image_itself(side, circle):
    transform = pytest.importorskip("skimage.transform")
    u, theta = blob(side, (4.0, 6.0), 4.0, (side // 2, side // 2)), np.arange(0.0, 180.0, 9.0)
    near(convert.from_skimage(transform.radon(u, theta=theta, circle=circle), theta, circle=circle), u, width=0.02)


def test_scikit_image_at_another_size():
    """A sinogram of 48 pixels makes an image of 24: the same field of view, half the numbers."""
    theta, m, w = [3.0 * i for i in range(60)], (6.0, -8.0), 6.0
    sinogram = blob_integral(np.deg2rad(theta), np.arange(48) - 24, m, w).T
    made = convert.from_skimage(sinogram, theta, side=24)
    u = blob(48, m, w, (24, 24)).reshape(24, 2, 24, 2).mean((1, 3))
    near(made, u, width=0.02)


def odl_sinogram(side, extent, count, detectors, m, w):
    """x is the first axis (rows, downwards), y the second; angles in the middles of their parts, detectors across the
    diagonal."""
    theta = (np.arange(count) + 0.5) * math.pi / count
    pixel, width = extent / side, extent * math.sqrt(2)
    s = ((np.arange(detectors) + 0.5) / detectors - 0.5) * width / pixel
    return pixel * blob_integral(theta, s, (-m[1], m[0]), w)  # in ODL's own axes the blob is at (down, right)


@pytest.mark.parametrize(("extent", "detectors"), [(128.0, 69), (0.26, 67), (2.0, 40)])
def test_odl(extent, detectors):
    made = convert.from_odl(odl_sinogram(48, extent, 36, detectors, (5.0, -7.0), 4.0), extent=extent, own_side=48)
    near(made, blob(48, (5.0, -7.0), 4.0, (23.5, 23.5)), width=0.015)


@pytest.mark.parametrize("every_", [2, 3])
def test_odl_with_some_of_the_angles(every_):
    made = convert.from_odl(odl_sinogram(48, 1.0, 36, 69, (5.0, -7.0), 4.0), extent=1.0, own_side=48, every=every_)
    assert made.y.shape[2] == 36 // every_
    near(made, blob(48, (5.0, -7.0), 4.0, (23.5, 23.5)), width=0.015)


def test_odl_itself():
    odl = pytest.importorskip("odl")
    tomo = odl.applications.tomo if hasattr(odl, "applications") else odl.tomo
    u = blob(41, (5.0, -3.0), 4.0, (20, 20))
    space = odl.uniform_discr([-0.13, -0.13], [0.13, 0.13], (41, 41), dtype="float64")
    geometry = tomo.parallel_beam_geometry(space, num_angles=12, det_shape=(59,))
    y = tomo.RayTransform(space, geometry, impl="skimage")(space.element(u))
    near(
        convert.from_odl(np.asarray(y.asarray() if hasattr(y, "asarray") else y.data), extent=0.26, own_side=41),
        u,
        width=0.1,
    )


def test_lodopab():
    """1000 angles, 513 detectors, line integrals in metres of an image in [0, 1] over .26 m: here of a blob, made into
    36 pixels."""
    observation = odl_sinogram(362, 0.26, 1000, 513, (40.0, -60.0), 40.0)
    made = convert.from_lodopab(observation[None], side=36, every=50)
    assert made.y.shape == (1, 1, 20, 513)
    scale = 36 / 362
    near(made, blob(36, (40 * scale, -60 * scale), 40 * scale, (17.5, 17.5)), width=0.02)


def test_rays_that_were_not_measured():
    """NaN becomes a mask; the mask's operator is the usual one on what is left, and the network is shown the rest
    interpolated."""
    x, op = picture().float(), usual()
    y = op(x)
    holed = torch.where(torch.arange(17) == 6, torch.nan, y)
    holed[1, :, 3] = torch.nan
    made = convert.from_nan(holed.numpy(), get_task("ct", angles=ANGLES))
    assert made.task.name == "ct-rays" and float((1 - made.drawn).sum()) == 2 * 12 + 16
    rays = made.task.build(made.drawn)
    close(rays(x), y * made.drawn)
    close(made.y.float(), y * made.drawn)
    assert rays.number_of_measurements(y).tolist() == [12 * 16, 11 * 16]
    one = rays[:1].filled(made.y[:1].float())
    close(one[..., 6], (y[:1, ..., 5] + y[:1, ..., 7]) / 2)
    close(one[..., :6], y[:1, ..., :6])
    n = made.drawn.shape[-1]
    holes = torch.ones(3, 1, 5, n)
    holes[0, ..., 2] = holes[1, ..., 0] = holes[1, ..., n - 1] = holes[2, :, 1] = 0
    for options in (
        {},
        {"rotation": "clockwise", "pitch": 0.8, "length": 6.0},
        {"directions": [0.0, 20.0, 90.0, 91.0, 130.0]},
    ):
        check_operator(RayRadon(6, holes, angles=5, detectors=n, **options), (1, 6, 6))


def test_a_sinogram_without_dead_detectors_is_the_usual_one():
    x, op = picture(), usual()
    rays = RayRadon(SIDE, torch.ones(1, 1, ANGLES, 17), angles=ANGLES)
    assert torch.equal(rays(x), op(x)) and torch.equal(rays.features(op(x)), op.features(op(x)))


# k-space


K_SPACE = [*itertools.product((True, False), NORMS, ORIGINS, (-1, 1))]


def fourier(x, centred, norm, origin, sign):
    """The other convention, by NumPy."""
    z = np.fft.ifftshift(x, (-2, -1)) if origin == "middle" else x
    k = (
        np.fft.fft2(z, norm=norm)
        if sign == -1
        else np.fft.ifft2(z, norm={"ortho": "ortho", "backward": "forward", "forward": "backward"}[norm])
    )
    return np.fft.fftshift(k, (-2, -1)) if centred else k


@pytest.mark.parametrize("sides", [(6, 8), (5, 7), (6, 5)])
@pytest.mark.parametrize("convention", K_SPACE, ids=str)
def test_k_space_in_other_conventions(convention, sides):
    x, mask = random(3, 1, *sides), lines(3, *sides)
    own = MaskedFourier(mask)
    there = recast(own, KSpace(*convention))
    k = fourier(x.numpy(), *convention)
    m = mask.numpy() if convention[0] else np.fft.ifftshift(mask.numpy(), (-2, -1))
    theirs = there.measured_part(torch.from_numpy(np.concatenate([k.real, k.imag], 1)))
    close(there(x), theirs)
    assert np.array_equal(there.mask.numpy(), m)
    close(there.pinv(theirs), own.pinv(own(x)))
    close(there.features(theirs), own.features(own(x)))
    if sides == (6, 5):
        check_operator(there, (1, *sides))


@pytest.mark.parametrize("layout", ["complex", "last", "channels"])
@pytest.mark.parametrize("convention", K_SPACE, ids=str)
def test_complex_k_space_is_converted(convention, layout):
    """Whatever convention it came in, y is that of the image 2 scale u - 1 in ours."""
    u, mask = random(2, 6, 8).abs().numpy(), lines(1, 6, 8)[0, 0].numpy()
    m = mask if convention[0] else np.fft.ifftshift(mask)
    k = fourier(u, *convention) * m
    k = {"complex": k, "last": np.stack([k.real, k.imag], -1), "channels": np.stack([k.real, k.imag], -3)}[layout]
    centred, norm, origin, sign = convention
    made = convert.from_kspace(
        k,
        mask=m,
        centred=centred,
        norm=norm,
        origin=origin,
        sign=sign,
        scale=0.25,
        layout="channels" if layout == "channels" else "auto",
    )
    x = torch.from_numpy(2 * 0.25 * u - 1)[:, None]
    close(made.y, made.task.build(made.drawn)(x))
    # where the image lies under the other sign, and what is sampled, is not mirrored by mistake
    expected = torch.from_numpy(mask) if sign == -1 else torch.from_numpy(mask).flip((0, 1)).roll((1, 1), (0, 1))
    close(made.drawn[0, 0], expected.double())


@pytest.mark.parametrize(
    "orientation",
    [("flip-rows",), ("flip-columns",), ("transpose",), ("flip-rows", "transpose"), ("flip-rows", "flip-columns")],
)
@pytest.mark.parametrize("sides", [(6, 8), (5, 7), (6, 6)])
def test_images_that_lie_otherwise(orientation, sides):
    u = random(1, *sides).abs().numpy()
    turn = {
        "flip-rows": lambda v: v[:, ::-1],
        "flip-columns": lambda v: v[:, :, ::-1],
        "transpose": lambda v: v.swapaxes(1, 2),
    }
    right = u
    for name in orientation:
        right = turn[name](right)
    mask = lines(1, *sides)[0, 0].numpy()
    made = convert.from_kspace(
        fourier(u, True, "ortho", "middle", -1) * mask, mask=mask, orientation=orientation, scale=1.0
    )
    close(made.y, made.task.build(made.drawn)(torch.from_numpy(2 * right - 1)[:, None]))


def slow_phase(height, width):
    return np.exp(1j * (np.linspace(0, 2, height)[:, None] + np.linspace(-1, 1, width)))


def test_an_image_with_a_phase():
    """Refused without its phase; with it, or with all of k-space, the image is the magnitude's."""
    u = (0.2 + blob(16, (1.0, 2.0), 4.0, (8, 8)))[None] / 1.2
    k = fourier(u * slow_phase(16, 16), True, "ortho", "middle", -1)
    mask = lines(1, 16, 16)[0, 0].numpy()
    with pytest.raises(InputError, match=r"the image has a phase.*maps.*magnitude"):
        convert.from_kspace(k * mask)
    x = torch.from_numpy(2 * u - 1)[:, None]
    known = convert.from_kspace(k * mask, maps=slow_phase(16, 16), mask=mask, scale=1.0)
    close(known.y, known.task.build(known.drawn)(x), rtol=1e-5, atol=1e-6)
    anew = convert.from_kspace(k, magnitude=True, mask=mask, scale=1.0)
    close(anew.y, anew.task.build(anew.drawn)(x))
    cut = convert.from_kspace(k, magnitude=True, crop=8, scale=1.0)
    close(cut.y, cut.task.build(cut.drawn)(x[..., 4:12, 4:12]))
    for given in (None, mask):
        with pytest.raises(InputError, match="takes all of its k-space, and 50 %"):
            convert.from_kspace(k * mask, magnitude=True, mask=given)


@pytest.mark.parametrize("phase", [0.0, 0.7, 2.0, 3.0, -1.5])
def test_a_constant_phase_is_taken_out(phase):
    u = (0.2 + blob(16, (1.0, 2.0), 4.0, (8, 8)))[None] / 1.2
    made = convert.from_kspace(fourier(u, True, "ortho", "middle", -1) * np.exp(1j * phase), scale=1.0)
    close(made.y, made.task.build(made.drawn)(torch.from_numpy(2 * u - 1)[:, None]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("coils", [1, 3])
def test_coils(coils):
    s, mask, x = smooth_coils(Noise(0, 3), 5, 6, coils), lines(3, 5, 6), random(3, 1, 5, 6)
    op = CoilFourier(torch.cat([mask, s.real, s.imag], 1))
    check_operator(op, (1, 5, 6))
    k = np.fft.fftshift(np.fft.fft2(s.numpy().astype("c8") * x.numpy(), norm="ortho"), (-2, -1)) * mask.numpy()
    close(op(x), torch.from_numpy(np.concatenate([k.real, k.imag], 1)).double(), rtol=1e-5, atol=1e-5)
    full = CoilFourier(torch.cat([torch.ones_like(mask), s.real, s.imag], 1))
    close(full.features(full(x)), x, rtol=1e-5, atol=1e-5)  # sum |s|^2 = 1
    for convention in (KSpace(False), KSpace(True, "backward", "middle")):
        there = recast(op, convention)
        check_operator(there, (1, 5, 6))
        close(there.features(there(x)), op.features(op(x)), rtol=1e-5, atol=1e-5)


def test_one_coil_that_sees_everything_is_the_usual_k_space():
    mask, x = lines(1, 5, 6), random(2, 1, 5, 6)
    op = CoilFourier(torch.cat([mask, torch.ones_like(mask), torch.zeros_like(mask)], 1))
    close(op(x), MaskedFourier(mask)(x))


@pytest.mark.parametrize("norm", ["ortho", "backward"])
def test_sigpy_itself(norm):
    sigpy = pytest.importorskip("sigpy")
    u = random(1, 12, 10).abs().numpy()
    k = sigpy.fft(u.astype(complex), axes=(-2, -1), center=True, norm="ortho" if norm == "ortho" else None)
    made = convert.from_kspace(k, norm=norm, scale=0.5)
    close(made.y, made.task.build(made.drawn)(torch.from_numpy(u - 1)[:, None]))


def test_a_fastmri_file(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    u = random(2, 12, 10).abs().numpy()
    with h5py.File(tmp_path / "f.h5", "w") as f:
        f["kspace"], f["mask"], f["ismrmrd_header"] = (
            fourier(u, True, "ortho", "middle", -1).astype("c8"),
            np.ones(10, bool),
            "<xml/>",
        )
    made = result(
        capsys, "measure", "convert", "fastmri", tmp_path / "f.h5", "--scale", 0.5, "--out", tmp_path / "y.npz"
    )
    assert made["task"]["name"] == "mri" and made["n"] == 2
    obs = read_measurement(tmp_path / "y.npz", get_task("mri"), (1, 12, 10))
    close(obs.y, obs.likelihood.operator(torch.from_numpy(u - 1).float()[:, None]), rtol=1e-4, atol=1e-4)


def test_hdf5_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "f.h5").write_bytes(b"")
    with pytest.raises(InputError, match=r"pip install 'deft-diffusion\[hdf5\]'"):
        read_array(tmp_path / "f.h5", ("kspace",))


# Magnitudes


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"intensity": True},
        {"shifted": True},
        {"norm": "backward"},
        {"norm": "forward", "intensity": True},
        {"padding": 2},
        {"signed": True},
        {"padding": 5, "signed": True, "intensity": True, "shifted": True, "norm": "backward"},
        {"padding": 1, "shifted": True},
    ],
    ids=str,
)
def test_magnitudes_in_other_conventions(options):
    task = get_task("phase", **options)
    x = random(2, 1, 6, 6).clamp(-1, 1)
    op = task.operator(x, None)
    p = options.get("padding", 3)
    u = x.numpy() if options.get("signed") else (x.numpy() + 1) / 2
    f = np.abs(np.fft.fft2(np.pad(u, ((0, 0), (0, 0), (p, p), (p, p))), norm=options.get("norm", "ortho")))
    f = f**2 if options.get("intensity") else f
    theirs = torch.from_numpy(np.fft.fftshift(f, (-2, -1)) if options.get("shifted") else f)
    close(op(x), theirs)
    if not {"padding", "signed"} & set(options):  # the same image
        close(op.features(theirs), PhaseRetrieval().features(PhaseRetrieval()(x)), rtol=1e-3, atol=1e-3)
    check_operator(op, (1, 6, 6))


def test_the_usual_magnitudes_are_not_wrapped():
    assert (
        type(recast(PhaseRetrieval(), Magnitudes())) is PhaseRetrieval
        and type(get_task("mri").build(lines(1, 4, 4))) is MaskedFourier
    )


# Blur


@pytest.mark.parametrize("boundary", ["circular", *BOUNDARIES[::2]])
@pytest.mark.parametrize("correlate", [False, True])
@pytest.mark.parametrize(
    ("sides", "even"), [((3, 5), "refuse"), ((4, 3), "after"), ((4, 4), "before"), ((2, 5), "before")]
)
def test_kernels_of_other_programs(boundary, correlate, sides, even):
    """Against the sum written out: y[i] = sum over a of k[a] x[i - a + middle], or x[i + a - middle]."""
    k, x = random(*sides).abs(), random(1, 1, 6, 7)
    k = k / k.sum()
    task = get_task("deblur-motion", correlate=correlate, boundary=boundary, even=even)
    op = task.build(k[None, None])
    mode = {"circular": "wrap", "reflect": "symmetric", "zero": "constant", "repeat": "edge"}[boundary]
    wide = np.pad(x[0, 0].numpy(), 5, mode=mode)
    middle = [n // 2 if even == "after" or n % 2 else n // 2 - 1 for n in sides]
    expected = np.zeros((6, 7))
    for a, b in itertools.product(range(sides[0]), range(sides[1])):
        down, across = a - middle[0], b - middle[1]
        i, j = (5 + down, 5 + across) if correlate else (5 - down, 5 - across)
        expected += float(k[a, b]) * wide[i : i + 6, j : j + 7]
    np.testing.assert_allclose(op(x)[0, 0].numpy(), expected, atol=1e-12)
    left, right = (op(x) * random(1, 1, 6, 7, seed=5)).sum(), (x * op.adjoint(random(1, 1, 6, 7, seed=5))).sum()
    close(left, right)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("sides", [(3, 3), (4, 3), (1, 2)])
def test_edges_pass_the_check(boundary, sides):
    k = 0.1 * random(1, 1, *sides)
    k[..., sides[0] // 2, sides[1] // 2] += 1
    check_operator(EdgedConvolution(k, boundary), (2, 5, 6))
    check_operator(EdgedConvolution(k, boundary, correlate=True, early=True), (1, 5, 6))


@pytest.mark.parametrize(
    ("kernel", "options", "says"),
    [
        (torch.ones(3, 3), {}, "sum 9.*sum=divide.*sum=any"),
        (torch.full((3, 3), 0.1), {}, "sum 0.9"),
        (torch.full((4, 4), 1 / 16), {}, "even side.*even=before.*even=after"),
        (torch.full((3, 2), 1 / 6), {}, "3x2 has an even side"),
        (torch.zeros(3, 3), {"sum": "divide"}, "cannot be divided"),
        (torch.tensor([[1.0, -1.0, 0.0]]), {"sum": "divide"}, "cannot be divided"),
    ],
)
def test_kernels_that_change_the_brightness_or_have_no_middle(kernel, options, says):
    with pytest.raises(InputError, match=says):
        get_task("deblur-motion", **options).build(kernel[None, None])


def test_kernels_that_are_taken():
    assert float(get_task("deblur-motion", sum="divide").build(torch.ones(2, 1, 3, 3)).kernel.sum()) == pytest.approx(
        2.0
    )
    assert float(get_task("deblur-motion", sum="any").build(torch.ones(1, 1, 3, 3)).kernel.sum()) == 9.0
    with pytest.raises(InputError, match="does not fit images"):
        get_task("deblur-motion", taps=np.full((9, 9), 1 / 81).tolist()).check((1, 8, 8))


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_gaussian_blur_at_the_edges(boundary):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = random(9, 14)
    mode = {"reflect": "reflect", "circular": "wrap", "zero": "constant", "repeat": "nearest"}[boundary]
    task = get_task("deblur-gaussian", deviation=1.3, boundary=boundary)
    np.testing.assert_allclose(
        task.operator(x[None, None], None)(x[None, None])[0, 0],
        ndimage.gaussian_filter(x.numpy(), 1.3, mode=mode, truncate=4.0),
        atol=1e-12,
    )
    check_operator(gaussian_blur((6, 5), 1.3, boundary), (1, 6, 5))


# Down-sampling and colour


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_one_pixel_of_a_block(factor):
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (24, 36)).astype("u1"))
    first, middle = (every((24, 36), factor, p)(x[None, None].double())[0, 0].numpy() for p in ("first", "middle"))
    assert np.array_equal(first, x[::factor, ::factor].numpy())
    assert np.array_equal(
        first, F.interpolate(x[None, None].double(), scale_factor=1 / factor, mode="nearest")[0, 0].numpy()
    )
    assert np.array_equal(
        middle, np.asarray(Image.fromarray(x.numpy()).resize((36 // factor, 24 // factor), Image.Resampling.NEAREST))
    )
    for pixel in ("first", "middle"):
        check_operator(every((6, 12), factor if factor < 4 else 2, pixel), (2, 6, 12))
        task = get_task("sr4", factor=factor, pixel=pixel)
        close(
            task.operator(x[None, None].double(), None)(x[None, None].double())[0, 0],
            torch.from_numpy(first if pixel == "first" else middle),
        )


def keys(d, a):
    d = abs(d)
    return (
        (a + 2) * d**3 - (a + 3) * d**2 + 1 if d < 1 else a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0
    )


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_of_three_programs(factor):
    """MATLAB: the stretched kernel over a mirrored row, written out; OpenCV: what torch does without antialias; Pillow:
    itself."""
    x = random(1, 1, 24, 24)
    row = x[0, 0, 3].numpy()
    wide = np.pad(row, 24, mode="symmetric")
    matlab = []
    for i in range(24 // factor):
        at = (i + 0.5) * factor - 0.5
        weights = np.array([keys((j - at) / factor, -0.5) for j in range(-24, 48)])
        matlab.append(weights @ wide / weights.sum())
    only_rows = bicubic((24, 24), factor, "matlab")
    np.testing.assert_allclose((only_rows.columns.numpy() @ row), matlab, atol=1e-12)
    theirs = F.interpolate(x, scale_factor=1 / factor, mode="bicubic", recompute_scale_factor=True)
    close(bicubic((24, 24), factor, "opencv")(x), theirs)
    pillow = np.asarray(Image.fromarray(x[0, 0].float().numpy()).resize((24 // factor,) * 2, Image.Resampling.BICUBIC))
    np.testing.assert_allclose(bicubic((24, 24), factor)(x)[0, 0].numpy(), pillow, atol=2e-5)
    for name in FILTERS:
        check_operator(bicubic((6 * factor, 4 * factor), factor, name), (1, 6 * factor, 4 * factor))


@pytest.mark.parametrize("luma", LUMAS)
def test_grey_of_other_programs(luma):
    x = np.random.default_rng(0).random((4, 5, 3))
    y = (
        get_task("colourise", luma=luma)
        .operator(torch.zeros(1, 3, 4, 5), None)(torch.from_numpy(x).permute(2, 0, 1)[None])[0, 0]
        .numpy()
    )
    if luma == "709":
        np.testing.assert_allclose(y, pytest.importorskip("skimage.color").rgb2gray(x), atol=1e-12)
    elif luma == "mean":
        np.testing.assert_allclose(y, x.mean(-1), atol=1e-12)
    else:
        theirs = np.asarray(Image.fromarray((255 * x).round().astype("u1")).convert("L")) / 255
        np.testing.assert_allclose(y, theirs, atol=1.1 / 255)
    check_operator(grey(3, luma), (3, 4, 4))


def photo(side=48):
    """A smooth colour picture of bytes, nothing near black or white."""
    u = (
        F.interpolate(torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)), side, mode="bicubic").clamp(
            0, 1
        )
        * 0.6
        + 0.2
    )
    return (u[0].permute(1, 2, 0) * 255).round().byte().numpy()


def levels(op, image):
    x = torch.from_numpy(np.atleast_3d(image)).permute(2, 0, 1)[None].double() / 127.5 - 1
    return ((op(x)[0].permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255)


def pillow_jpeg(image, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return np.atleast_3d(np.asarray(Image.open(io.BytesIO(file.getvalue())))).astype(float)


@pytest.mark.parametrize("quality", [5, 20, 50, 75, 95])
@pytest.mark.parametrize("colour", ["444", "422", "420"])
def test_colour_jpeg_is_that_of_pillow(colour, quality):
    """Two grey levels on average (libjpeg rounds at every stage), where each channel by itself is off by more."""
    theirs = pillow_jpeg(photo(), quality=quality, subsampling={"444": 0, "422": 1, "420": 2}[colour])
    task = get_task("jpeg", quality=quality, colour=colour)
    off = np.abs(levels(task.operator(torch.zeros(1, 3, 48, 48), None), photo()) - theirs).mean()
    assert off < 2.0 and off < 0.8 * np.abs(levels(JPEG(quality), photo()) - theirs).mean()


@pytest.mark.parametrize("quality", [1, 5, 20, 50, 75, 95])
def test_grey_jpeg_is_that_of_pillow(quality):
    image = photo()[..., 0]
    off = np.abs(levels(JPEG(quality), image) - pillow_jpeg(image, quality=quality))
    assert off.mean() < 0.6


def test_pillows_own_choice_is_420():
    assert np.array_equal(pillow_jpeg(photo(), quality=30), pillow_jpeg(photo(), quality=30, subsampling=2))


@pytest.mark.parametrize("colour", ["444", "422", "420"])
def test_colour_jpeg_passes_the_check(colour):
    check_operator(ColourJPEG(20, colour), (3, 16, 32), surrogate=True)
    op, x = ColourJPEG(30, colour), random(2, 3, 32, 32).clamp(-1, 1)
    close(op(op.pinv(op(x))), op(x), rtol=1e-5, atol=1e-5)


# Tasks, cards and files


USUAL = {
    "sr4": {"sigma_y": 0.05, "factor": 4},
    "sr4-bicubic": {"sigma_y": 0.0, "factor": 4},
    "phase": {"sigma_y": 0.0, "oversample": 2},
    "deblur-gaussian": {"sigma_y": 0.05, "deviation": 1.5},
    "deblur-motion": {"sigma_y": 0.05, "size": 9},
    "colourise": {"sigma_y": 0.05},
    "jpeg": {"sigma_y": 0.0, "quality": 5},
    "mri": {"sigma_y": 0.05, "acceleration": 4.0, "centre": 0.08},
    "ct": {"sigma_y": 0.02, "angles": 60, "arc": 180.0},
    "ct-limited": {"sigma_y": 0.02, "angles": 60, "arc": 90.0},
}


@pytest.mark.parametrize("name", USUAL)
def test_cards_of_the_usual_settings_are_what_they_were(name):
    assert get_task(name).config() == {"name": name, **USUAL[name]}
    assert make_task({"name": name, **USUAL[name]}) == get_task(name)


SETTINGS = [
    ("sr4", {"pixel": "first"}),
    ("sr4-bicubic", {"filter": "matlab"}),
    ("phase", {"intensity": "true"}),
    ("phase", {"shifted": "yes", "norm": "backward"}),
    ("phase", {"padding": 8, "signed": True}),
    ("deblur-gaussian", {"boundary": "zero"}),
    ("deblur-motion", {"boundary": "reflect", "correlate": True}),
    ("deblur-motion", {"taps": [[0.0, 0.5, 0.0], [0.0, 0.25, 0.25], [0.0, 0.0, 0.0]]}),
    ("jpeg", {"quality": 30, "colour": "444"}),
    ("colourise", {"luma": "709"}),
    ("mri", {"centred": "false"}),
    ("mri", {"norm": "backward", "origin": "middle"}),
    ("mri", {"sign": 1}),
    ("mri-coils", {"coils": 2, "centred": False}),
    ("ct", {"rotation": "clockwise"}),
    ("ct", {"start": 90.0, "centre": 0.5}),
    ("ct", {"detectors": 32, "pitch": 1.5, "length": 32.0}),
    ("ct", {"directions": [0.0, 10.0, 50.0, 120.0]}),
    ("ct", {"directions": "0,10,50,120", "rotation": "clockwise"}),
    ("ct", {"axis_x": 0.5, "axis_y": -0.5}),
    ("ct-limited", {"start": -45.0}),
    ("ct-rays", {"missing": 0.2, "detectors": 40, "side": 32}),
]


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=lambda v: str(v))
def test_settings_survive_a_card_and_a_file(name, options, tmp_path):
    """A card makes the same task again, and an observation that was written comes back with the same operator."""
    task = get_task(name, **options)
    assert make_task(json.loads(json.dumps(task.config()))) == task
    assert set(task.config()) > set(get_task(name).config()) or task.config() != get_task(name).config()
    channels = 3 if name in ("colourise", "jpeg") else 1
    x = random(2, channels, 32, 32).float().clamp(-1, 1)
    obs = task.observe(x, BatchNoise(2, 0))
    save_measurement(tmp_path / "y.npz", obs, task)
    again = read_measurement(tmp_path / "y.npz", task, (channels, 32, 32))
    close(again.y, obs.y)
    close(again.likelihood.operator(x), obs.likelihood.operator(x))
    assert obs.features().shape == (2, task.feature_channels * channels, 32, 32) and bool(
        obs.features().isfinite().all()
    )
    assert (
        float(
            (again.likelihood.operator(x) - get_task(name).observe(x, BatchNoise(2, 0)).y).abs().max()
            if again.y.shape == get_task(name).observe(x, BatchNoise(2, 0)).y.shape
            else 1
        )
        > 1e-3
    )


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("ct", {"rotation": "left"}, "unknown rotation"),
        ("ct", {"pitch": 0.0}, "pitch"),
        ("ct", {"length": -1.0}, "length"),
        ("ct", {"detectors": -3}, "detectors"),
        ("ct", {"centre": math.inf}, "centre = inf"),
        ("ct", {"directions": "0,a"}, "numbers with commas"),
        ("ct", {"directions": "0,nan"}, "not finite"),
        ("ct", {"directions": "0,10", "angles": 3}, "2 directions"),
        ("ct", {"angle_unit": "degrees"}, "give one of them"),
        ("ct", {"angle_unit": "gon"}, "unknown angle_unit"),
        ("ct", {"angle_file": "nowhere.txt"}, "no such file"),
        ("ct-rays", {"missing": 1.0}, "missing"),
        ("ct-rays", {"detectors": 40}, "side"),
        ("mri", {"centred": "perhaps"}, "true or false"),
        ("mri", {"norm": "unitary"}, "unknown norm"),
        ("mri", {"origin": "centre"}, "unknown origin"),
        ("mri", {"sign": 2}, "sign = 2"),
        ("mri-coils", {"sign": 1}, "sign=-1"),
        ("mri-coils", {"coils": 0}, "coils = 0"),
        ("phase", {"intensity": "maybe"}, "true or false"),
        ("phase", {"norm": "no"}, "unknown norm"),
        ("phase", {"padding": -1}, "padding"),
        ("deblur-motion", {"boundary": "wrap"}, "unknown boundary"),
        ("deblur-motion", {"sum": "two"}, "unknown sum"),
        ("deblur-motion", {"even": "yes"}, "unknown even"),
        ("deblur-motion", {"kernel": "nowhere.npy"}, "no such file"),
        ("deblur-motion", {"taps": [[1.0], [1.0, 2.0]]}, "rows of equal length"),
        ("deblur-motion", {"taps": [[2.0]]}, "sum 2"),
        ("deblur-gaussian", {"boundary": "wrap"}, "unknown boundary"),
        ("sr4", {"pixel": "last"}, "unknown pixel"),
        ("sr4-bicubic", {"filter": "lanczos"}, "unknown filter"),
        ("jpeg", {"colour": "411"}, "unknown colour"),
        ("colourise", {"luma": "2020"}, "unknown luma"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_settings_that_are_refused(name, options, says):
    with pytest.raises(InputError, match=says) as error:
        get_task(name, **options).check((3 if name == "colourise" else 1, 32, 32))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=lambda v: str(v))
def test_a_file_of_another_convention_is_told_from_this_one(name, options):
    """Both ways round: the setting that only one of them names is compared with its usual value."""
    there, usual_task = get_task(name, **options), get_task(name)
    assert other_settings(json.loads(json.dumps(there.config())), usual_task) and other_settings(
        usual_task.config(), there
    )
    assert not other_settings(json.loads(json.dumps(there.config())), there) and not other_settings(
        usual_task.config(), usual_task
    )


@pytest.mark.parametrize(("name", "options"), SETTINGS, ids=lambda v: str(v))
def test_a_file_brings_its_convention_or_is_refused(name, options, tmp_path):
    """Without a task the file's own is taken; with a task of another convention it is refused, either way round."""
    there, usual_task = get_task(name, **options), get_task(name)
    channels = 3 if name in ("colourise", "jpeg") else 1
    x = random(2, channels, 32, 32).float().clamp(-1, 1)
    for task, other in ((there, usual_task), (usual_task, there)):
        save_measurement(tmp_path / "y.npz", task.observe(x, BatchNoise(2, 0)), task)
        assert task_of(tmp_path / "y.npz") == task
        with pytest.raises(InputError, match="by another operator"):
            read_measurement(tmp_path / "y.npz", other, (channels, 32, 32))


@pytest.mark.parametrize(
    "change",
    [lambda y: np.where(np.arange(y.shape[-1]) == 3, np.nan, y), lambda y: y.astype(complex), lambda y: y[..., 2:-2]],
    ids=["NaN", "complex", "size"],
)
@pytest.mark.parametrize("name", ["ct", "mri", "phase"])
def test_a_y_that_does_not_fit_names_the_settings(name, change, tmp_path):
    task, x = get_task(name), random(2, 1, 32, 32).float().clamp(-1, 1)
    obs = task.observe(x, BatchNoise(2, 0))
    arrays = {"y": change(obs.y.numpy())} | ({task.drawn: obs.likelihood.operator.mask.numpy()} if task.drawn else {})
    np.savez(tmp_path / "y.npz", **arrays)
    with pytest.raises(InputError, match=r"deft measure convert.*docs/conventions.md") as error:
        read_measurement(tmp_path / "y.npz", task, (1, 32, 32))
    assert all(f"{k}=" in str(error.value) for k in task.conventions)


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "1", 1, True])
def test_switches(word):
    assert switch("s", word) == "true"


ANGLE_FILES = {
    "lines.txt": ("0\n10\n20\n30\n", ""),
    "row.csv": ("0,10,20,30\n", ""),
    "comments.txt": ("# degrees\n0\n10 # the second\n\n20\n30\n", ""),
    "radians.txt": ("0 0.17453292519943295 0.3490658503988659 0.5235987755982988", "radians"),
}


@pytest.mark.parametrize("name", ANGLE_FILES)
def test_angle_files(name, tmp_path):
    text, unit = ANGLE_FILES[name]
    (tmp_path / name).write_text(text)
    task = get_task("ct", angle_file=str(tmp_path / name), angle_unit=unit)
    assert task.directions == pytest.approx([0, 10, 20, 30]) and task.angles == 4
    assert task.config()["directions"] == task.directions and "angle_file" not in task.config()


def test_angle_files_as_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4) * 10.0)
    np.savez(tmp_path / "a.npz", theta=np.arange(4) * 10, other=np.zeros(3))
    for name in ("a.npy", "a.npz"):
        assert read_angles(tmp_path / name) == [0, 10, 20, 30]
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    for name, content, says in (
        ("two.npz", None, "name the one"),
        ("words.txt", "zero ten", "no text file of numbers"),
        ("empty.txt", "\n", "no number"),
        ("ragged.txt", "1 2\n3\n", "different amounts"),
        ("radians.txt", "0 0.5 1 1.5 2 2.5 3", "radians, or a few degrees"),
        ("square.txt", "1 2\n3 4\n", "one row or column"),
    ):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=says):
            read_angles(tmp_path / name)


def test_kernel_files(tmp_path):
    k = np.array([[0, 1, 0], [1, 4, 1], [0, 2, 1]]) / 10
    np.save(tmp_path / "k.npy", k)
    np.savez(tmp_path / "k.npz", kernel=k[None, None])
    np.savetxt(tmp_path / "k.txt", k)
    Image.fromarray((k * 600).round().astype("u1")).save(tmp_path / "k.png")
    for name in ("k.npy", "k.npz", "k.txt", "k.png"):
        np.testing.assert_allclose(read_kernel(tmp_path / name), k, atol=2e-3)
        task = get_task("deblur-motion", kernel=str(tmp_path / name))
        assert (
            task.draw((1, 8, 8), Noise(0, 2)).shape == (2, 1, 3, 3)
            and task.config()["taps"] == task.taps
            and "kernel" not in task.config()
        )
    for array, says in (
        (np.ones((2, 3, 3)), "one kernel"),
        (np.full((3, 3), np.nan), "not finite"),
        (np.ones(0), "one kernel"),
    ):
        np.save(tmp_path / "bad.npy", array)
        with pytest.raises(InputError, match=says):
            read_kernel(tmp_path / "bad.npy")


# Converters: what they refuse


SINOGRAM = np.full((60, 36), 0.5)
CONVERTERS = [
    (lambda: convert.from_skimage(SINOGRAM[None, None, None]), "expected \\[detectors, angles\\]"),
    (lambda: convert.from_skimage(SINOGRAM), "36 angles.*180"),
    (lambda: convert.from_skimage(SINOGRAM, range(35)), "theta has 35"),
    (lambda: convert.from_skimage(SINOGRAM.astype(complex), range(36)), "complex"),
    (lambda: convert.from_skimage(SINOGRAM * 1000, range(36)), "other units"),
    (lambda: convert.from_skimage(SINOGRAM, range(36), value_range=(1, 0)), "rising"),
    (lambda: convert.from_skimage(np.full((60, 36), np.inf), range(36)), "infinite"),
    (lambda: convert.from_skimage(SINOGRAM, range(36), side=1), "side"),
    (lambda: convert.from_skimage(np.full((60, 36), np.nan), range(36)), "no number at all"),
    (lambda: convert.from_skimage(np.ones((4, 3)), range(3), circle=False), "no image padded"),
    (lambda: convert.from_odl(SINOGRAM, extent=0, own_side=40), "extent"),
    (lambda: convert.from_odl(SINOGRAM, extent=1, own_side=40, every=7), "divides"),
    (lambda: convert.from_lodopab(SINOGRAM), "1000, 513"),
    (lambda: convert.from_nan(SINOGRAM, get_task("ct"), 40), "no NaN"),
    (lambda: convert.from_nan(np.full((60, 50), np.nan), get_task("ct"), 64), "makes"),
    (lambda: convert.from_kspace(np.zeros((4, 4))), "no axis of 2"),
    (lambda: convert.from_kspace(np.zeros((2, 4, 2))), "layout"),
    (lambda: convert.from_kspace(np.zeros((4, 4), complex)), "hides all"),
    (lambda: convert.from_kspace(np.ones((1, 3, 4, 4), complex)), "3 coils.*maps"),
    (lambda: convert.from_kspace(np.full((4, 4), np.nan + 0j)), "not finite"),
    (lambda: convert.from_kspace(np.ones((4, 4), complex), mask=np.full(4, 0.5)), "1 .sampled. and 0"),
    (lambda: convert.from_kspace(np.ones((4, 4), complex), mask=np.ones(5)), "shape"),
    (lambda: convert.from_kspace(np.ones((4, 4), complex), crop=2), "magnitude"),
    (lambda: convert.from_kspace(np.ones((4, 4), complex), orientation=["upside"]), "unknown orientation"),
    (lambda: convert.from_kspace(np.ones((4, 4), complex), norm="x"), "unknown norm"),
    (lambda: convert.from_kspace(np.ones((4, 4), complex), sign=0), "-1 or 1"),
    (lambda: convert.from_kspace(np.ones((4, 4), complex), maps=np.ones((5, 4), complex)), "maps of shape"),
    (lambda: convert.from_kspace(np.ones((4, 4), complex), scale=-1), "scale"),
    (lambda: convert.from_kspace(np.array(["a"])), "complex"),
]


@pytest.mark.parametrize(("call", "says"), CONVERTERS, ids=[says[:30] for _, says in CONVERTERS])
def test_what_converters_refuse(call, says):
    with pytest.raises(InputError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_other_ranges_of_the_images():
    """Of images in [low, high]: y of x = 2 (u - low) / (high - low) - 1."""
    x, op = picture(), usual()
    for low, high in ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (-1024.0, 3071.0)):
        u = (x + 1) / 2 * (high - low) + low
        close(convert.to_model_range(op(u), op, (1, SIDE, SIDE), (low, high)), op(x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("program", ["skimage", "rays", "sigpy"])
def test_convert_and_sample_at_the_command_line(program, tmp_path, capsys):
    from toys import toy_prior

    prior = toy_prior(tmp_path / "p.safetensors", side=16)
    theta, u = [3.0 * i for i in range(20)], blob(16, (2.0, 1.0), 3.0, (8, 8))
    sinogram = blob_integral(np.deg2rad(theta), np.arange(16) - 8, (2.0, 1.0), 3.0).T
    y = Radon(16, 20)(torch.from_numpy(2 * u - 1)[None, None]).numpy()
    y[..., 4] = np.nan
    array, more, task = {
        "skimage": (sinogram, ("--theta", ",".join(map(str, theta)), "--sigma-y", 0.1), "ct"),
        "rays": (y, ("--task-option", "angles=20"), "ct-rays"),
        "sigpy": (fourier(u, True, "ortho", "middle", -1), (), "mri"),
    }[program]
    np.save(tmp_path / "theirs.npy", array)
    made = result(capsys, "measure", "convert", program, tmp_path / "theirs.npy", *more, "--out", tmp_path / "y.npz")
    assert made["task"]["name"] == task and made["notes"]
    found = result(
        capsys,
        "sample",
        "--prior",
        prior,
        "--method",
        "diffpir",
        "--measurement",
        tmp_path / "y.npz",
        "-n",
        1,
        "--steps",
        2,
        "--out",
        tmp_path / "out",
    )
    assert found["task"] == made["task"]
    assert "is there already" in refused(
        capsys, "measure", "convert", program, tmp_path / "theirs.npy", *more, "--out", tmp_path / "y.npz"
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("skimag", "x.npy"), "did you mean 'skimage'"),
        (("skimage", "none.npy"), "no such file"),
        (("skimage", "x.npy", "--extent", "2"), "--extent does nothing for skimage"),
        (("odl", "x.npy"), "odl needs --extent"),
        (("odl", "x.npy", "--extent", "2"), "needs --own-side"),
        (("skimage", "x.npy", "--theta", "zero"), "neither"),
        (("skimage", "x.npy", "--theta", "0,1", "--rows", "0:1"), "leave --rows out"),
        (("sigpy", "x.npy", "--centred", "perhaps"), "true or false"),
        (("skimage", "x.npy", "--out", "y.npy"), "must end in .npz"),
        (("skimage", "x.txt"), "read as .npy"),
        (("skimage", "x.npy", "--range", "0,1,2"), "2 numbers"),
        (("sigpy", "two.npz"), "expected one of kspace"),
        (("rays", "x.npy", "--task-option", "angle=3"), "did you mean 'angles'"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_command_lines_that_convert_refuses(line, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", SINOGRAM)
    (tmp_path / "x.txt").write_text("1")
    np.savez("two.npz", a=SINOGRAM, b=SINOGRAM)
    assert says in refused(capsys, "measure", "convert", *line)


def test_options_before_the_subcommand_are_not_lost(capsys):
    assert "--task before `convert` would do nothing" in refused(
        capsys, "measure", "--task", "ct", "convert", "skimage", "x.npy"
    )
    assert "missing option --task and --data" in refused(capsys, "measure")


# What is said


@pytest.mark.parametrize("name", TASKS)
def test_each_task_states_its_convention(name, capsys):
    task = TASKS[name]
    assert task.convention and "\n" not in task.convention
    assert set(task.conventions) == set(task.usual_conventions())
    listed = next(t for t in result(capsys, "list")["tasks"] if t["name"] == name)
    assert listed["convention"] == task.convention and listed["conventions"] == task.usual_conventions()


def test_the_page_has_every_task_and_setting():
    from pathlib import Path

    text = (Path(__file__).parents[1] / "docs/conventions.md").read_text(encoding="utf-8")
    for name, task in TASKS.items():
        assert f"`{name}`" in text, name
        for setting in task.conventions:
            assert f"`{setting}" in text, (name, setting)
