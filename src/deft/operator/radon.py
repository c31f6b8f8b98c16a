"""Computed tomography with parallel rays: the sinogram of an image, by Joseph's method, with its true adjoint.

Where the rays are, and how they are summed, is `deft.operator.projector`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from deft._old_names import moved
from deft.core.operator import DENSE, LinearOperator, Spectrum, conjugate_gradient
from deft.core.random import BatchNoise
from deft.errors import ContractError, InputError, unknown
from deft.operator import averaged
from deft.operator.averaged import filtered
from deft.operator.projector import SENSES, Geometry, Projector, matrix, projector
from deft.operator.separable import inverted, seen
from deft.operator.wrapped import Wrapped, _Linear

TOLERANCE, LARGE_TOLERANCE, MAX_ITERATIONS = 1e-6, 1e-4, 500
"""Of `Radon.mean_update`: the residual at which conjugate gradients stop, relative to the right-hand side, of a small
scan and of a large one; and the most steps they take."""
KEPT = 2**24
"""Most entries of the matrix (`Geometry.entries`) of a small scan."""
MANY = 150
"""Directions of a large scan from which on A and A^T take longer than a solve with what stands in for them
(`deft.operator.averaged`)."""


class Radon(Wrapped):
    """The sinogram y [B, C, angles, detectors] of square images, each channel by itself (projector: Joseph 1982).

    Lengths are in units of the image's side, so y is the mean of x along the ray times its length through the image (1
    across, up to 1.41 along a diagonal): of order 1 for x in [-1, 1], whatever the resolution, and ||A||^2 is about
    angles / side. sigma_y is in the same units. Noise of deviation sigma on plain sums over pixels in [0, 1] is 2 sigma
    / side here: the paper's sigma = 1 at 256 pixels, 3.5 % of its sinograms, is 0.0078.

    `solve` is the base class's conjugate gradients: preconditioning it in Fourier space saves steps and no time, since
    what spreads the singular values is the gaps between directions. `mean_update` is the exact posterior-mean step, by
    conjugate gradients on images preconditioned so; `approx_mean_update` is that preconditioner alone, and what learned
    h are shown. `fbp` is filtered back-projection, a preconditioner too and not the adjoint; a network is shown
    `fbp(y, "hann")`.

    Args:
        side: of the image, in pixels. angles: number of directions. arc: degrees they cover, less than 180 for a
            limited angle.
        detectors: how many; if not given, enough for the image's corners.
        start: theta of the first direction, in degrees. rotation: "counterclockwise" or "clockwise", how theta goes on
            from there.
        centre: where the axis of rotation falls on the row of detectors, in detectors right of its middle; fractions
            are usual.
        pitch: from one detector to the next, in pixels of the image.
        length: of the image's side in the units of y. 1 is described above; `side` makes y plain sums over pixels.
        axis: where the axis of rotation meets the image, in pixels (right of, above) its middle.
        directions: every theta in degrees, for directions that are not evenly spaced: angles, arc, start and rotation
        do not count. (docs/conventions.md has what other programs need.)
    """

    sample_axes = measured_axes = "B, C, H, W"
    kept_as: ClassVar = {"start": "geometry.start"}

    def __init__(
        self,
        side: int,
        angles: int = 60,
        detectors: int | None = None,
        arc: float = 180.0,
        *,
        start: float = 0.0,
        rotation: str = SENSES[0],
        centre: float = 0.0,
        pitch: float = 1.0,
        length: float = 1.0,
        axis: tuple[float, float] = (0.0, 0.0),
        directions: Sequence[float] = (),
    ):
        if side < 2 or angles < 1 or not 0 < arc <= 360 or (detectors is not None and detectors < 1):
            raise InputError(
                f"Radon needs side >= 2, angles >= 1, detectors >= 1 and 0 < arc <= 360 degrees, got {side}, {angles},"
                f" {detectors} and {arc}"
            )
        if not (0 < pitch < math.inf and 0 < length < math.inf):
            raise InputError(
                "Radon needs a pitch (pixels from detector to detector) and a length (of the image's side) above 0,"
                f" got {pitch} and {length}"
            )
        offsets = {"start": start, "centre": centre, "axis x": axis[0], "axis y": axis[1]} | {
            f"directions[{i}]": v for i, v in enumerate(directions)
        }
        for name, value in offsets.items():
            if not math.isfinite(value):
                raise InputError(f"Radon needs a finite {name}, got {value}")
        if rotation not in SENSES:
            raise unknown("rotation", str(rotation), SENSES)
        if detectors is None:
            detectors = math.ceil(side * math.sqrt(2) / pitch)
            detectors += (detectors - side) % 2
        directions = tuple(float(v) for v in directions)
        self.geometry = Geometry(
            side,
            len(directions) or angles,
            detectors,
            float(arc),
            float(start),
            rotation,
            float(centre),
            float(pitch),
            float(length),
            (float(axis[0]), float(axis[1])),
            directions,
        )

    def __getattr__(self, name: str) -> Any:
        """The constructor's arguments, as the geometry has them: `angles`, `detectors`, ..."""
        if name in Geometry._fields and "geometry" in vars(self):
            return getattr(self.geometry, name)
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def _there(self, x: Tensor) -> Tensor:
        g = self.geometry
        if x.ndim != 4 or x.shape[2:] != (g.side, g.side):
            raise ContractError(
                f"this Radon transform takes images [B, C, {g.side}, {g.side}], got shape {tuple(x.shape)}"
            )
        return projector(g).forward(x)

    def _back(self, y: Tensor) -> Tensor:
        return projector(self.geometry).adjoint(self._sinogram(y))

    def _sinogram(self, y: Tensor) -> Tensor:
        g = self.geometry
        if y.ndim != 4 or y.shape[2:] != (g.angles, g.detectors):
            raise ContractError(
                f"this Radon transform makes sinograms [B, C, {g.angles}, {g.detectors}], got shape {tuple(y.shape)}"
            )
        return y

    def start(self, y: Tensor) -> Tensor:
        return self.fbp(y, "hann")

    def picture(self, y: Tensor) -> Tensor:
        return self.fbp(y, "hann")

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        """Filtered back-projection, [B, C, side, side]: each row of y times |frequency|, smeared back along its rays.

            x(X, Y) = integral over theta in [0, pi) of (y_theta * ramp)(X cos theta + Y sin theta) dtheta

        The inverse of A for many angles and no noise; a preconditioner of it otherwise, and not the adjoint. With less
        than 180 degrees the rest counts as zero. Ramp filter sampled in space (Ramachandran & Lakshminarayanan 1971).

        Args:
            window: "ramp" for the filter as it is, "hann" to let the highest frequencies fade: less sharp, less noise.
        """
        if window not in ("ramp", "hann"):
            raise InputError(f"the window of fbp is 'ramp' or 'hann', got {window!r}")
        g = self.geometry
        n = 2 * g.detectors
        response = _ramp(n, window, y.dtype, str(y.device))
        filtered = torch.fft.irfft(torch.fft.rfft(self._sinogram(y), n) * response, n)[..., : g.detectors]
        share = g.share()
        if share is not None:
            filtered = filtered * share.to(filtered)[:, None]
        smeared = projector(g).smear(filtered)
        return smeared * (g.side * g.arc_radians / g.angles) / (g.pitch * g.length)

    def features(self, y: Tensor) -> Tensor:
        """`fbp` with the Hann window."""
        return self.fbp(y, "hann")

    def response(self, like: Tensor) -> Tensor:
        """lambda(k): what A^T A, taken for a convolution, multiplies a wave of k cycles per pixel with.

            lambda(k) = c / side * (1 + angles / sqrt(1 + (arc side |k|)^2)),    arc in radians, at most pi,

        the 1/|k| of back-projected lines averaged over directions, limited by the image's width at k = 0 and by a
        single angle's share at large |k|. The number c (2 to 3), found once by Lanczos iteration, makes A^T A <= lambda
        as quadratic forms. At the frequencies of `torch.fft.rfft2` on an image with half as much room again, so that
        little wraps around.
        """
        return _response(self.geometry, like.dtype, str(like.device))

    def precondition(self, v: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        """About (noise I + gram A^T A)^{-1} v on images: C F^{-1} [ F v / (noise + gram lambda) ], C the crop. Positive
        definite."""
        return filtered(v, 1 / (noise + gram * self.response(v)))

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """rho2 C F^{-1} [ F A^T r / (noise + rho2 lambda) ]: A^T r preconditioned, not the exact Gaussian update.

        The exact one is `mean_update`, which takes A and A^T 5 to 100 times; this takes one A^T, and is off by up to .8
        of the exact one's length. It is what learned h are shown. Symmetric and positive definite in A^T r, so it
        points downhill; since A^T A <= lambda it is no larger than the exact one (as quadratic forms), and |r| never
        grows.
        """
        return rho2 * self.precondition(self._back(r), noise, rho2)

    def mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """rho2 (noise I + rho2 A^T A)^{-1} A^T r, the exact Gaussian update, by conjugate gradients preconditioned as
        `approx_mean_update`, or for a large scan of `MANY` directions by a solve with the average of A^T A.

        Until the residual is `TOLERANCE` (of a large scan `LARGE_TOLERANCE`) of the right-hand side, for at most
        `MAX_ITERATIONS` steps. They grow with rho sqrt(lambda) / sigma_y: with 60 angles, sigma_y = .02 and images of
        32 x 32, 7 at rho = .05, 33 at .3, 97 at 1; with images of 512 x 512, 4, 6 and 15, and with 1,000 angles 4 at
        rho = .3. Differentiable in r, by the same solve.
        """
        large = self.geometry.entries > KEPT

        def precondition(u: Tensor) -> Tensor:
            if large and self.geometry.angles >= MANY:
                return averaged.precondition(self.geometry, u, noise, rho2)
            return self.precondition(u, noise, rho2)

        def inverse(v: Tensor) -> Tensor:
            return rho2 * conjugate_gradient(
                lambda u: noise * u + rho2 * self._back(self._there(u)),
                v,
                tolerance=LARGE_TOLERANCE if large else TOLERANCE,
                max_iterations=MAX_ITERATIONS,
                precondition=precondition,
            )

        return _Linear.apply(r, lambda v: inverse(self._back(v)), lambda v: self._there(inverse(v)))

    def pinv(self, y: Tensor) -> Tensor:
        """argmin |A x - y|^2 + d |x|^2 with d = 1e-9 lambda(0), by at most 100 conjugate-gradient steps preconditioned
        as `approx_mean_update`.

        Made for consistent y. Noise comes back much enlarged: to look at a noisy sinogram, or to start from it, take
        `features`.
        """
        damping = 1e-9 * self.response(y)[0, 0]
        return conjugate_gradient(
            lambda v: damping * v + self._back(self._there(v)),
            self._back(y),
            tolerance=1e-9,
            max_iterations=100,
            precondition=lambda v: self.precondition(v, damping, 1.0),
        )

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """K = (C, side^2): from the eigenvectors of A^T A in float64, for at most `DENSE` pixels (64 x 64: about a
        minute, once)."""
        channels, *sides = event_shape
        if math.prod(sides) > DENSE:
            raise InputError(
                f"the singular values of a Radon transform of {math.prod(sides)} pixels are too much work (at most"
                f" {DENSE})"
            )
        if tuple(sides) != (self.geometry.side,) * 2:
            raise ContractError(
                f"this Radon transform takes images of side {self.geometry.side}, got {tuple(event_shape)}"
            )
        vectors, values = _eigen_at(self.geometry, like.dtype, like.device)
        values = seen(values[None])
        back = inverted(values).square()
        return Spectrum(
            values[:, None].expand(1, channels, -1),
            lambda x: x.flatten(2) @ vectors,
            lambda c: (c @ vectors.mT).unflatten(2, sides),
            lambda y: back[:, None] * (self.adjoint(y).flatten(2) @ vectors),
        )


class RayRadon(Radon):
    """`Radon` where some rays are no measurement: a dead detector, a direction that was lost, metal that nothing came
    through.

    y has the shape of a whole sinogram, 0 where nothing was measured; A = M R with M of 1 and 0. A network and `fbp`
    are shown the sinogram with each missing ray filled in from the nearest measured ones of its row, linearly (a row
    that is missing as a whole stays 0).

    Args:
        rays: 1 where a ray was measured, 0 where not, [B or 1, 1, angles, detectors]. The rest is `Radon`'s.
    """

    per_sample = ("rays",)

    def __init__(self, side: int, rays: Tensor, **geometry: Any):
        super().__init__(side, **geometry)
        g = self.geometry
        if (
            rays.ndim != 4
            or tuple(rays.shape[1:]) != (1, g.angles, g.detectors)
            or not bool(((rays == 0) | (rays == 1)).all())
        ):
            raise ContractError(
                f"the mask of rays is [B or 1, 1, {g.angles}, {g.detectors}] of 1 (measured) and 0, got shape"
                f" {tuple(rays.shape)}"
            )
        empty = (rays.flatten(1).sum(1) == 0).nonzero().flatten().tolist()
        if empty:
            raise ContractError(f"the mask of rays number {empty[0]} hides every ray: 1 is measured, 0 is not")
        self.rays = rays.to(torch.get_default_dtype())

    def __call__(self, x: Tensor) -> Tensor:
        return self.measured_part(super().__call__(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return super().adjoint(self.measured_part(y))

    def _back(self, y: Tensor) -> Tensor:
        return super()._back(self.measured_part(y))

    def _there(self, x: Tensor) -> Tensor:
        return self.measured_part(super()._there(x))

    def measured_part(self, y: Tensor) -> Tensor:
        return self.rays.to(y.dtype) * self._sinogram(y)

    def number_of_measurements(self, y: Tensor) -> Tensor:
        return self.rays.to(y.dtype).expand(len(y), *y.shape[1:]).flatten(1).sum(1)

    def fbp(self, y: Tensor, window: str = "ramp") -> Tensor:
        return super().fbp(self.filled(y), window)

    def filled(self, y: Tensor) -> Tensor:
        """y with what is missing between measured rays of a row interpolated linearly; at a row's ends the nearest goes
        on."""
        measured = self.rays.to(y.dtype).expand(len(y), *y.shape[1:]) > 0
        n = y.shape[-1]
        at = torch.arange(n, device=y.device).expand(y.shape)
        left = torch.where(measured, at, -1).cummax(-1).values
        right = torch.where(measured, at, n).flip(-1).cummin(-1).values.flip(-1)
        some = (left >= 0) | (right < n)
        left, right = (
            torch.where(left < 0, right, left).clamp(0, n - 1),
            torch.where(right >= n, left, right).clamp(0, n - 1),
        )
        weight = ((at - left) / (right - left).clamp_min(1)).to(y.dtype)
        inside = (1 - weight) * y.gather(-1, left) + weight * y.gather(-1, right)
        return torch.where(measured, y, torch.where(some, inside, torch.zeros_like(y)))

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """From the dense matrix (`LinearOperator.spectrum`): the rays differ from row to row."""
        return LinearOperator.spectrum(self, event_shape, like)


@functools.lru_cache(maxsize=32)
def _ramp(n: int, window: str, dtype: torch.dtype, device: str) -> Tensor:
    """|frequency| for rows of n numbers with unit spacing, from its samples in space: 1/4 at 0, -1/(pi i)^2 at odd i, 0
    at even."""
    i = torch.arange(n, dtype=torch.float64)
    i = torch.minimum(i, n - i)
    taps = torch.where(i % 2 == 1, -1 / (math.pi * i.clamp_min(1)).square(), 0.0)
    taps[0] = 0.25
    response = torch.fft.rfft(taps).real
    if window == "hann":
        response = response * (
            0.5 + 0.5 * (math.pi * torch.arange(len(response), dtype=torch.float64) / (n // 2)).cos()
        )
    return response.to(device=device, dtype=dtype)


def _roomy(side: int) -> int:
    return side + (side + 1) // 2


@functools.lru_cache(maxsize=32)
def _response(g: Geometry, dtype: torch.dtype, device: str) -> Tensor:
    return (_largest(g) * _shape(g)).to(device=device, dtype=dtype)


def _shape(g: Geometry) -> Tensor:
    """`Radon.response` with c = 1, float64."""
    n = _roomy(g.side)
    down, across = (f(n, dtype=torch.float64) for f in (torch.fft.fftfreq, torch.fft.rfftfreq))
    width = g.arc_radians * g.side
    return (1 + g.angles / (1 + width**2 * (down[:, None].square() + across.square())).sqrt()) / g.side


LANCZOS, POWER = 30, 10
"""Steps in which c is found."""
SMALL, GROWTH = 64, 1.05
"""The side at which c is found for a large scan, and what c grows with each doubling of the side at most
(measured, at the same angles: 1.5 to 4.8 % from 32 to 256 pixels). Detectors further apart than a pixel see a small
image with few rays, and c is found at as many pixels as give them as many as `SMALL` has."""


def _largest(g: Geometry) -> float:
    """c of `Radon.response`."""
    doublings, small = 0.0, math.ceil(SMALL * max(1.0, g.pitch))
    if g.entries > KEPT and g.side > small:
        doublings, scale = math.log2(g.side / small), small / g.side
        detectors = math.ceil(g.detectors * scale)
        # by whole pixels: where a ray runs through the middles of pixels, c is larger than where it runs between them
        g = g._replace(
            side=small,
            detectors=detectors + (detectors - small - g.detectors + g.side) % 2,
            centre=_like(g.centre, scale),
            axis=(_like(g.axis[0], scale), _like(g.axis[1], scale)),
        )
    found = _top(projector(g), 1 / _shape(g).float(), BatchNoise(1, 0).normal((1, g.side, g.side)).float())
    return 1.05 * found * GROWTH**doublings  # some more for what the iteration has not found


def _top(rays: Projector, inverse: Tensor, v: Tensor) -> float:
    """The largest eigenvalue of P A^T A, P the filter `inverse`: `LANCZOS` steps from v in the inner product of A^T A,
    in which it is symmetric, then the power method from the vector that they find. (The power method alone needs
    hundreds of steps where the two largest are close, as with 8 angles.)"""
    basis: list[tuple[Tensor, Tensor]] = []  # v and A^T A v
    for _ in range(LANCZOS):
        w = rays.adjoint(rays.forward(v))
        before = (v * w).sum()
        for one, its in basis:
            along = (one * w).sum()
            v, w = v - along * one, w - along * its
        size = (v * w).sum()
        if not float(size) > 1e-6 * float(before):  # no more that A sees, but rounding
            break
        basis.append((v / size.sqrt(), w / size.sqrt()))
        v = filtered(w / size.sqrt(), inverse)
    if not basis:  # no ray meets the image
        return 0.0
    seen = torch.stack([w.flatten() for _, w in basis])
    moved = torch.stack([filtered(w, inverse).flatten() for _, w in basis])
    best = torch.linalg.eigh((seen @ moved.mT).double()).eigenvectors[:, -1]
    v = torch.stack([one for one, _ in basis], -1) @ best.to(v)
    for _ in range(POWER):
        v = filtered(rays.adjoint(rays.forward(v / v.norm())), inverse)
    return float(v.norm())


def _like(offset: float, scale: float) -> float:
    """An offset scaled, with the same part behind the point."""
    return round(math.floor(offset) * scale) + offset - math.floor(offset)


@functools.lru_cache(maxsize=2)
def _eigen(g: Geometry) -> tuple[Tensor, Tensor]:
    """Right singular vectors [d, d] and singular values [d], falling."""
    rays = matrix(g)
    values, vectors = torch.linalg.eigh(rays.mT @ rays)
    return vectors.flip(1), values.flip(0).clamp_min(0).sqrt()


@functools.lru_cache(maxsize=2)
def _eigen_at(g: Geometry, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same where it is needed at each step: a copy from the host would wait for the device."""
    vectors, values = _eigen(g)
    return vectors.to(device, dtype), values.to(device, dtype)


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)
