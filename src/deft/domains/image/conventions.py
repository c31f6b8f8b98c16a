"""Measurements that other programs wrote, as measurement files of this library.

    k-space      fastMRI (HDF5), sigpy and others (complex arrays)     -> the tasks mri, mri-coils
    sinograms    scikit-image, ODL, LoDoPaB-CT (HDF5)                  -> the tasks ct, ct-rays

Their images lie in a range [low, high], [0, 1] as a rule, and the library's in [-1, 1]: x = s u + o with
s = 2 / (high - low) and o = -(high + low) / (high - low). So for a linear A

    y_x = s y_u + A(o)

(o: an image of that value everywhere). Everything that was assumed is in `Converted.notes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.domains.image.tasks import CT, MRI, CoilMRI, RayCT
from deft.errors import InputError, unknown
from deft.io.measurements import Converted
from deft.operator import CoilFourier, KSpace, MaskedFourier, Operator, Radon
from deft.operator.fourier import _mirrored

UNIT = (0.0, 1.0)
"""Where other programs' images lie, unless told otherwise."""
LODOPAB_SIDE, LODOPAB_EXTENT, LODOPAB_SHAPE, LODOPAB_MU = 362, 0.26, (1000, 513), 81.35858
"""LoDoPaB-CT (Leuschner et al. 2021): images of 362 x 362 pixels, .26 m wide; 1000 angles, 513 detectors; the
attenuation (1/m) its values are divided by."""
PERCENTILE = 99.9
PHASE_TOLERANCE = 0.02
"""How much of the energy of low frequencies, where noise is small, may contradict a real image before it is refused."""
EMPTY = 0.02
"""How much of a fully sampled k-space may be 0 all the same (a scanner that cuts corners)."""
ORIENTATIONS = ("flip-rows", "flip-columns", "transpose")
EXCESS = 1.5
"""How far above an image of the range's upper end all over a sinogram may lie: beyond, the units are others."""


def _range(value_range: tuple[float, float]) -> tuple[float, float]:
    """s and o of x = s u + o."""
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"the range of the images is two rising numbers, black and white, got {low}, {high}")
    return 2 / (high - low), -(high + low) / (high - low)


def to_model_range(
    y: Tensor, operator: Operator, event_shape: Sequence[int], value_range: tuple[float, float] = UNIT
) -> Tensor:
    """y of a linear operator on images in a range, as y on images in [-1, 1]: s y + A(o)."""
    s, o = _range(value_range)
    at = operator(torch.full((1, *event_shape), o, dtype=y.dtype))
    return operator.measured_part(s * y + at)


# k-space


def as_complex(array: np.ndarray, layout: str = "auto") -> np.ndarray:
    """Complex numbers [..., H, W] from complex ones, or from real ones with an axis of 2, last ("last") or before
    the last two ("channels").

    >>> as_complex(np.zeros((5, 4, 2))).shape
    (5, 4)
    """
    array = np.asarray(array)
    if array.dtype.fields and set(array.dtype.fields) in ({"r", "i"}, {"real", "imag"}):
        first, second = sorted(array.dtype.fields, key=lambda k: k in ("i", "imag"))
        array = array[first] + 1j * array[second]
    if layout not in ("auto", "complex", "last", "channels"):
        raise unknown("layout", layout, ("auto", "complex", "last", "channels"))
    if array.dtype.kind == "c" and layout in ("auto", "complex"):
        return np.ascontiguousarray(array.astype(np.complex128))
    if array.dtype.kind not in "fiu" or layout == "complex":
        raise InputError(f"k-space is complex, or real with an axis of 2, got {array.dtype} of shape {array.shape}")
    last, channels = array.ndim >= 3 and array.shape[-1] == 2, array.ndim >= 3 and array.shape[-3] == 2
    if layout == "auto" and last and channels:
        raise InputError(
            f"k-space of shape {array.shape} may hold real and imaginary parts first or last: say layout=last or "
            "layout=channels"
        )
    if (layout == "last" and not last) or (layout == "channels" and not channels) or not (last or channels):
        raise InputError(
            f"k-space of shape {array.shape} and {array.dtype} has no axis of 2 for real and imaginary parts: "
            "give complex numbers"
        )
    axis = -1 if layout == "last" or (layout == "auto" and last) else -3
    real, imaginary = np.moveaxis(np.asarray(array, dtype=np.float64), axis, 0)
    return real + 1j * imaginary


def _complex_y(f: Tensor) -> Tensor:
    """[N, C, H, W] complex -> real parts, then imaginary ones."""
    return torch.cat([f.real, f.imag], 1)


def _reorient(f: Tensor, orientation: Sequence[str]) -> Tensor:
    """k-space, zero frequency in the middle and pixel [0, 0] of phase 0, of the image flipped or transposed."""
    for name in orientation:
        if name not in ORIENTATIONS:
            raise unknown("orientation", name, ORIENTATIONS)
        if name == "transpose":
            f = f.transpose(-2, -1)
            continue
        dim = -2 if name == "flip-rows" else -1
        n = f.shape[dim]
        k = torch.arange(n, dtype=torch.float64) - n // 2
        turn = torch.polar(torch.ones_like(k), -2 * math.pi * (k * (n - 1) % n) / n)
        f = f.flip(dim).roll(1 - n % 2, dim) * (turn[:, None] if dim == -2 else turn)
    return f


def _mirror_mask(mask: Tensor, orientation: Sequence[str]) -> Tensor:
    for name in orientation:
        if name == "transpose":
            mask = mask.transpose(-2, -1)
        else:
            dim = -2 if name == "flip-rows" else -1
            mask = mask.flip(dim).roll(1 - mask.shape[dim] % 2, dim)
    return mask.contiguous()


def _lines(mask: Any, k: np.ndarray, centred: bool, notes: list[str]) -> np.ndarray:
    """The mask [N or 1, H, W] in the order of k [N, coils, H, W]: given (lines [W], or [H, W], or [N, H, W]), or
    where k is not 0."""
    height, width = k.shape[-2:]
    if mask is None:
        found = np.abs(k).sum(1) > 0
        share = found.mean()
        notes.append(
            "every frequency was sampled"
            if share == 1
            else f"sampled: {100 * share:.1f} % of the frequencies, those that are not 0 in the file"
        )
        return found.astype(np.float64)
    m = np.asarray(mask)
    if m.dtype.kind not in "fiub" or not np.isin(m, (0, 1)).all():
        raise InputError(
            f"the mask of k-space holds 1 (sampled) and 0 alone, got {m.dtype} from {m.min() if m.size else 0} to "
            f"{m.max() if m.size else 0}"
        )
    if m.ndim == 1 and m.shape[0] == width:
        m = np.broadcast_to(m, (1, height, width))
    elif m.shape[-2:] == (height, width) and m.size in (height * width, len(k) * height * width):
        m = m.reshape(-1, height, width)
    else:
        raise InputError(
            f"the mask of k-space has shape {m.shape}, expected ({width},) for columns, ({height}, {width}) or "
            f"({len(k)}, {height}, {width})"
        )
    return np.array(m, dtype=np.float64)


def _contradiction(f: Tensor, mask: Tensor) -> tuple[float, float]:
    """(share of the energy of low-frequency pairs k, -k that no real image has, the constant phase that was taken
    out first)."""
    low = torch.ones_like(mask)
    for dim in (-2, -1):
        n = f.shape[dim]
        near = (torch.arange(n) - n // 2).abs() <= max(2, n // 8)
        low = low * (near[:, None] if dim == -2 else near)
    mirror, both = _mirrored(f), low * mask * _mirrored(mask)
    energy = float((both * f.abs().square()).sum())
    if energy == 0:
        return math.nan, 0.0
    phase = 0.5 * float(torch.angle((both * f * mirror).sum()))
    turned = f * np.exp(-1j * phase)
    gap = turned - _mirrored(turned).conj()
    return float((both * gap.abs().square()).sum()) / (4 * energy), phase


def from_kspace(
    k: np.ndarray,
    *,
    mask: Any = None,
    maps: np.ndarray | None = None,
    centred: bool = True,
    norm: str = "ortho",
    origin: str = "middle",
    sign: int = -1,
    layout: str = "auto",
    orientation: Sequence[str] = (),
    magnitude: bool = False,
    crop: int | None = None,
    scale: float | None = None,
    sigma_y: float | None = None,
) -> Converted:
    """K-space as a measurement of the task mri, or with `maps` of mri-coils. The usual settings are those of fastMRI
    and sigpy.

    Args:
        k: complex, or real with an axis of 2: [H, W], [N, H, W]; with maps [coils, H, W] or [N, coils, H, W]; not
            sampled: 0.
        mask: [W] columns, [H, W] or [N, H, W] of 1 and 0, in the order of k; None: where k is not 0.
        maps: complex sensitivities [coils, H, W] or [N, coils, H, W] at the image's pixels; they carry its phase.
            For one coil: exp(i phase).
        centred, norm, origin, sign: as `KSpace`.
        orientation: what to do to the image, in turn: "flip-rows", "flip-columns", "transpose".
        magnitude: take the magnitude of the image, which takes all of k-space, and measure that again with the lines
            of `mask`: a simulation.
        crop: of the magnitude image, around its middle.
        scale: what the image is multiplied with to lie in [0, 1]; None: 1 over the 99.9th percentile of the
            zero-filled magnitude.

    Raises:
        InputError: shapes, or an image with a phase where none can be (the priors make real images): what to give is
            said.
    """
    notes: list[str] = []
    f = as_complex(k, layout)
    coils = maps is not None
    if f.ndim == 2:
        f = f[None, None]
    elif f.ndim == 3:
        f = f[None] if coils else f[:, None]
    if f.ndim != 4:
        raise InputError(f"k-space is [H, W], [N, H, W] or [N, coils, H, W], got complex numbers of shape {f.shape}")
    bad = int((~np.isfinite(f)).sum())
    if bad:
        raise InputError(f"k-space has {bad} values that are not finite: set those that were not sampled to 0")
    if f.shape[1] > 1 and not coils:
        raise InputError(
            f"k-space of {f.shape[1]} coils needs their sensitivities: give maps ({f.shape[1]}, {f.shape[2]}, "
            f"{f.shape[3]}), complex"
        )
    m = torch.from_numpy(_lines(mask, f, centred, notes))[:, None]
    seen = m.expand(len(f), -1, -1, -1)
    if bool((seen.flatten(1).sum(1) == 0).any()):
        raise InputError("the mask hides all of k-space: 1 is sampled, 0 is not")
    if sign not in (-1, 1):
        raise InputError(f"the sign of the exponent is -1 or 1, got {sign}")
    empty = float((np.abs(f).sum(1) == 0).mean())
    if magnitude and empty > EMPTY:
        raise InputError(
            f"the magnitude of an image takes all of its k-space, and {100 * empty:.0f} % of this one is 0: give maps "
            "(exp(i phase) for one coil) in place of magnitude"
        )
    z = torch.from_numpy(f) * (1 if magnitude else m)
    if not centred:
        z, m = (torch.fft.fftshift(v, (-2, -1)) for v in (z, m))
    if sign == 1:  # the same frequencies, mirrored
        z, m = _mirrored(z), _mirrored(m)
    convention, y = KSpace(True, norm, origin), _complex_y(z)
    z = _reorient(torch.complex(*(convention.back(y) / convention.scale(y)).chunk(2, 1)), orientation)
    m = _mirror_mask(m, orientation)
    if orientation:
        notes.append(f"image turned: {', '.join(orientation)}")
    if magnitude:
        z, m = _magnitude_only(z, torch.ones_like(m) if mask is None else m, mask, maps, crop, notes)
    elif crop is not None:
        raise InputError(
            "crop takes all of k-space and the magnitude of the image: say magnitude as well, or crop nothing"
        )
    if coils:
        assert maps is not None
        return _with_maps(z, m, maps, orientation, scale, sigma_y, notes)
    return _real_image(z, m, scale, sigma_y, notes)


def _magnitude_only(
    z: Tensor, m: Tensor, mask: Any, maps: Any, crop: int | None, notes: list[str]
) -> tuple[Tensor, Tensor]:
    """K-space of the magnitude image, and the mask to measure it with."""
    if maps is not None:
        raise InputError("magnitude is for one coil: with maps the phase is known")
    u = torch.fft.ifft2(torch.fft.ifftshift(z, (-2, -1)), norm="ortho").abs()
    if crop is not None:
        if not 0 < crop <= min(u.shape[-2:]):
            raise InputError(f"crop is a side of at most {min(u.shape[-2:])} pixels, got {crop}")
        top, left = ((n - crop) // 2 for n in u.shape[-2:])
        u = u[..., top : top + crop, left : left + crop]
        if mask is not None:
            raise InputError(
                "a mask of the uncropped k-space does not go with crop: draw one for the cropped image, or leave "
                "crop out"
            )
        m = m[..., :crop, :crop]
    notes.append(
        "magnitude of the fully sampled image, measured again: a simulation, without the scanner's own noise and phase"
    )
    return torch.fft.fftshift(torch.fft.fft2(u.to(z), norm="ortho"), (-2, -1)), m


def _unit_scale(u: Tensor, scale: float | None, notes: list[str]) -> float:
    if scale is not None:
        if not 0 < scale < math.inf:
            raise InputError(f"scale is a number above 0, got {scale}")
        notes.append(f"scale {scale:.6g}, as given: image times scale in [0, 1]")
        return scale
    top = float(np.percentile(u.abs().numpy(), PERCENTILE))
    if not top > 0:
        raise InputError("the zero-filled image is 0 everywhere")
    notes.append(f"scale {1 / top:.6g}: the {PERCENTILE}th percentile of the zero-filled magnitude becomes 1 (white)")
    return 1 / top


def _options(sigma_y: float | None) -> dict[str, Any]:
    return {} if sigma_y is None else {"sigma_y": float(sigma_y)}


def _real_image(z: Tensor, m: Tensor, scale: float | None, sigma_y: float | None, notes: list[str]) -> Converted:
    z = z * m
    share, phase = _contradiction(z, m)
    if math.isnan(share):
        notes.append(
            "no frequency was sampled together with its mirror image: whether the image has a phase cannot be told"
        )
    elif share > PHASE_TOLERANCE:
        raise InputError(
            f"{100 * share:.0f} % of the energy of this k-space's low frequencies contradicts a real image: the "
            "image has a phase, and what the priors make has none. "
            "Give maps (exp(i phase) for one coil), or magnitude where all of k-space was sampled"
        )
    else:
        turned = z * np.exp(-1j * phase)
        middle = turned[..., z.shape[-2] // 2, z.shape[-1] // 2]
        if float(middle.real.sum()) < 0:
            phase += math.pi
        z = z * np.exp(-1j * phase)
        if abs(math.remainder(phase, 2 * math.pi)) > 1e-3:
            notes.append(f"a constant phase of {math.remainder(phase, 2 * math.pi):.3f} was taken out")
        notes.append(f"{100 * share:.2g} % of the energy of low frequencies contradicts a real image")
    operator = MaskedFourier(m)
    y = operator.measured_part(_complex_y(z))
    s = _unit_scale(operator.pinv(y), scale, notes)
    y = to_model_range(s * y, operator, (1, *z.shape[-2:]))
    notes.append("image in [0, 1] after scaling: y = 2 scale y - A(1)")
    return Converted(y, MRI(**_options(sigma_y)), m, s, notes)


def _with_maps(
    z: Tensor,
    m: Tensor,
    maps: np.ndarray,
    orientation: Sequence[str],
    scale: float | None,
    sigma_y: float | None,
    notes: list[str],
) -> Converted:
    s = torch.from_numpy(as_complex(maps))
    s = s[None, None] if s.ndim == 2 else s[None] if s.ndim == 3 else s
    for name in orientation:
        s = s.transpose(-2, -1) if name == "transpose" else s.flip(-2 if name == "flip-rows" else -1)
    if s.ndim != 4 or s.shape[1:] != z.shape[1:] or len(s) not in (1, len(z)):
        raise InputError(
            f"maps of shape {tuple(s.shape)} do not go with k-space of {tuple(z.shape)}: give [coils, H, W] or "
            "[N, coils, H, W]"
        )
    rows = max(len(s), len(m))
    coils = torch.cat([m.expand(rows, -1, -1, -1), s.real.expand(rows, -1, -1, -1), s.imag.expand(rows, -1, -1, -1)], 1)
    operator = CoilFourier(coils)
    y = operator.measured_part(_complex_y(z))
    factor = _unit_scale(operator.features(y), scale, notes)
    y = to_model_range(factor * y, operator, (1, *z.shape[-2:]))
    notes.append("image in [0, 1] after scaling, sensitivities as given: y = 2 scale y - A(1)")
    return Converted(y, CoilMRI(coils=s.shape[1], **_options(sigma_y)), coils, factor, notes)


# Sinograms


def _sinograms(array: np.ndarray, name: str, angles_last: bool = False) -> np.ndarray:
    """[N, angles, detectors]."""
    a = np.asarray(array)
    if a.dtype.kind not in "fiu":
        raise InputError(f"{name} holds {a.dtype}, expected real numbers")
    a = a.astype(np.float64)
    if a.ndim == 4 and a.shape[1] == 1:
        a = a[:, 0]
    a = a[None] if a.ndim == 2 else a
    if a.ndim != 3 or not a.size:
        order = "detectors, angles" if angles_last else "angles, detectors"
        raise InputError(f"{name} has shape {np.asarray(array).shape}, expected [{order}] or [N, {order}]")
    return a.swapaxes(1, 2) if angles_last else a


def _ct(
    y: np.ndarray,
    side: int,
    settings: dict[str, Any],
    value_range: tuple[float, float],
    sigma_y: float | None,
    notes: list[str],
    scale: float,
) -> Converted:
    """Line integrals y [N, angles, detectors] in units of the image's side, NaN where not measured, as a measurement
    file."""
    values = torch.from_numpy(y)[:, None]
    rays = torch.isfinite(values)
    if bool(torch.isinf(values).any()):
        raise InputError("the sinogram holds infinite values: mark rays that were not measured as NaN")
    options = settings | _options(sigma_y)
    radon = Radon(side, **CT(**settings).geometry())
    ones = radon(torch.ones(1, 1, side, side, dtype=torch.float64))
    low, high = value_range
    measured = torch.where(rays, values, 0.0)
    top = float((measured / high if high > 0 else measured).amax() / ones.amax())
    if top > EXCESS:
        raise InputError(
            f"the sinogram's largest value is {top:.3g} times that of an image of {high:g} all over: other units? "
            "give scale (what to multiply it with), "
            "or the range of the images"
        )
    if float(ones[0, 0].sum()) == 0:
        raise InputError("no ray meets the image: check side, pitch and centre")
    out = to_model_range(measured, radon, (1, side, side), value_range)
    notes.append(
        f"images in [{low:g}, {high:g}] became [-1, 1]: y = {_range(value_range)[0]:g} y + "
        f"A({_range(value_range)[1]:g})"
    )
    if bool(rays.all()):
        return Converted(out, CT(**options), None, scale, notes)
    missing = 1 - float(rays.double().mean())
    if not bool(rays.flatten(1).any(1).all()):
        raise InputError("a sinogram holds no number at all")
    notes.append(f"{100 * missing:.1f} % of the rays are NaN: a mask of rays, task ct-rays")
    mask = rays.to(torch.float32)
    return Converted(torch.where(rays, out, 0.0), RayCT(side=side, **options), mask, scale, notes)


def _side_of(side: int | None, own: int, notes: list[str]) -> int:
    if side is None or side == own:
        return own
    if side < 2:
        raise InputError(f"side is of the images to be made, in pixels, got {side}")
    notes.append(f"images of {side}x{side} in place of the program's {own}x{own}, of the same field of view")
    return int(side)


def from_skimage(
    sinogram: np.ndarray,
    theta: Sequence[float] | None = None,
    *,
    circle: bool = True,
    own_side: int | None = None,
    side: int | None = None,
    scale: float = 1.0,
    value_range: tuple[float, float] = UNIT,
    sigma_y: float | None = None,
) -> Converted:
    """What `skimage.transform.radon(image, theta, circle)` returned, [detectors, angles], as a measurement of the
    task ct.

    Its values are plain sums over pixels; it turns about pixel [side // 2, side // 2], half a pixel from the middle
    of an even side.

    Args:
        theta: degrees, as it was given to `radon`; None: 0 to 179, its default. circle: as given to `radon` (its
            default is True).
        own_side: of the image it was made of, where circle=False leaves it open. side: of the images to be made now.
        scale: what to multiply the values with first, where they are no plain sums over pixels.
    """
    notes: list[str] = []
    y = _sinograms(sinogram, "the sinogram of scikit-image", angles_last=True)
    count, detectors = y.shape[1:]
    degrees = list(range(180)) if theta is None else [float(v) for v in theta]
    if len(degrees) != count:
        given = "radon's default theta has 180" if theta is None else f"theta has {len(degrees)}"
        raise InputError(
            f"the sinogram has {count} angles (its last axis) and {given}: give the theta it was made with, in degrees"
        )
    if circle:
        own = detectors
    else:
        fits = [n for n in range(2, detectors + 1) if math.ceil(math.sqrt(2) * n) == detectors]
        own = own_side or (fits[0] if fits else 0)
        if not own:
            raise InputError(
                f"no image padded by radon(circle=False) has {detectors} detectors: circle=True, or own_side?"
            )
    new = _side_of(side, own, notes)
    ratio = new / own
    off = 0.5 * ratio if own % 2 == 0 else 0.0
    settings: dict[str, Any] = {
        "detectors": detectors, "centre": detectors // 2 - (detectors - 1) / 2, "pitch": ratio, "axis_x": off,
        "axis_y": -off,
    }  # fmt: skip
    settings |= _spaced(degrees)
    notes.append(
        f"plain sums over {own} pixels, divided by {own}; theta in degrees; axis of rotation at pixel "
        f"[{own // 2}, {own // 2}]"
    )
    return _ct(y * (scale / own), new, settings, value_range, sigma_y, notes, scale / own)


def _spaced(degrees: Sequence[float]) -> dict[str, Any]:
    """angles, start and arc if these are evenly spaced and rise, else the directions themselves."""
    n = len(degrees)
    step = (degrees[-1] - degrees[0]) / (n - 1) if n > 1 else 180.0
    if (
        step > 0
        and n * step <= 360
        and all(abs(d - degrees[0] - i * step) < 1e-9 * max(1.0, n * step) for i, d in enumerate(degrees))
    ):
        return {"angles": n, "start": float(degrees[0]), "arc": float(n * step)}
    return {"angles": n, "directions": [float(d) for d in degrees]}


def from_odl(
    sinogram: np.ndarray,
    *,
    extent: float,
    own_side: int,
    side: int | None = None,
    detector_extent: float | None = None,
    every: int = 1,
    scale: float = 1.0,
    value_range: tuple[float, float] = UNIT,
    sigma_y: float | None = None,
    name: str = "ODL",
) -> Converted:
    """What ODL's `RayTransform` of a `parallel_beam_geometry` returned, [angles, detectors], as a measurement of the
    task ct.

    Its angles lie in the middles of n equal parts of half a turn, from 90 / n degrees on. Its first axis is x, that is
    the rows of an array, downwards, so that its 0 degrees are -90 here. Values are line integrals in the space's units.

    Args:
        extent: of the square domain, in its units: 128 for uniform_discr([-64, -64], [64, 64], ...). own_side: its
            pixels.
        detector_extent: of the row of detectors; None: the domain's diagonal, as `parallel_beam_geometry` takes it.
        every: keep one angle of so many.
    """
    notes: list[str] = []
    y = _sinograms(sinogram, f"the sinogram of {name}")
    count, detectors = y.shape[1:]
    if not 0 < extent < math.inf:
        raise InputError(f"extent is the side of ODL's domain, in its units, above 0, got {extent}")
    if every < 1 or count % every:
        raise InputError(f"every is a whole number that divides the {count} angles, got {every}")
    if every > 1:
        y = y[:, ::every]
        notes.append(f"one angle of {every}: {y.shape[1]} of {count}")
    new = _side_of(side, own_side, notes)
    width = extent * math.sqrt(2) if detector_extent is None else detector_extent
    settings = {
        "angles": y.shape[1], "start": -90.0 + 90.0 / count, "arc": 180.0, "detectors": detectors,
        "pitch": width / detectors / (extent / new),
    }  # fmt: skip
    notes.append(
        f"line integrals over a field {extent:g} wide, divided by it; first axis x: angles start at -90 degrees, "
        "half a step in"
    )
    return _ct(y * (scale / extent), new, settings, value_range, sigma_y, notes, scale / extent)


def from_lodopab(
    observation: np.ndarray,
    *,
    side: int | None = None,
    every: int = 1,
    scale: float = 1.0,
    sigma_y: float | None = None,
) -> Converted:
    """Observations of LoDoPaB-CT [N, 1000, 513], as in its files: after the logarithm, divided by 81.35858, the
    attenuation of 3071 HU in 1/m.

    So they are line integrals in metres of ground truths in [0, 1] over .26 m. Noise: 4096 photons a detector before
    attenuation, which makes
    the deviation of y (here) 2 / (.26 * 81.35858 * sqrt(counts)): .0015 outside the body, tens of times that behind it.
    """
    y = _sinograms(observation, "the observation of LoDoPaB-CT")
    if y.shape[1:] != LODOPAB_SHAPE:
        raise InputError(
            f"observations of LoDoPaB-CT are [N, {LODOPAB_SHAPE[0]}, {LODOPAB_SHAPE[1]}], got shape "
            f"{np.asarray(observation).shape}"
        )
    out = from_odl(
        y,
        extent=LODOPAB_EXTENT,
        own_side=LODOPAB_SIDE,
        side=side,
        every=every,
        scale=scale,
        sigma_y=sigma_y,
        name="LoDoPaB-CT",
    )
    out.notes.append(
        f"values as in the dataset's files: attenuation over {LODOPAB_MU}/m; give scale 1/{LODOPAB_MU} for "
        "attenuation itself"
    )
    return out


def from_nan(y: np.ndarray, task: CT, side: int | None = None, sigma_y: float | None = None) -> Converted:
    """A sinogram of the task ct in which NaN marks rays that were not measured, as one of ct-rays, with their mask."""
    a = _sinograms(y, "y")
    options = {k: v for k, v in task.config().items() if k != "name"} | _options(sigma_y)
    plain = {k: v for k, v in options.items() if k not in ("missing", "side")}
    rays = torch.isfinite(torch.from_numpy(a))[:, None]
    if bool(rays.all()):
        raise InputError("this sinogram has no NaN: it is a measurement of the task ct as it is")
    if side is None:
        side = RayCT(**plain)._image_side(a.shape[2])
    g = Radon(side, **task.geometry()).geometry
    if a.shape[1:] != (g.angles, g.detectors):
        raise InputError(
            f"y has shape {np.asarray(y).shape}; this task makes (N, 1, {g.angles}, {g.detectors}) of images of "
            f"{side}x{side}"
        )
    values = torch.where(rays, torch.from_numpy(a)[:, None], 0.0)
    notes = [f"{100 * (1 - float(rays.double().mean())):.1f} % of the rays are NaN: a mask of rays, task ct-rays"]
    return Converted(values, RayCT(side=side, **plain), rays.float(), 1.0, notes)
