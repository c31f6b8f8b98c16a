"""Images measured by one matrix along each axis: down-sampling, blur, loss of colour. Everything is a closed form."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from deft._renamed import old_arguments
from deft.core.operator import LinearOperator, Spectrum
from deft.errors import ContractError, InputError, unknown

SEEN = 1e-5
"""A singular value below this share of the largest is taken for 0 by `pinv` and `spectrum`: what it lets through is
lost in the rounding of a float32 measurement."""


class Separable(LinearOperator):
    """One matrix along each axis: y[c', h', w'] = sum K[c', c] R[h', h] W[w', w] x[c, h, w].

    With the singular value decompositions of the three (in float64), A = U S V^T is their Kronecker product and

        solve: (noise I + gram A A^T)^{-1} r = U diag(1 / (noise + gram s^2)) U^T r
        pinv:  V diag(1/s) U^T y over s > SEEN max(s)
        features: V diag(s / (s^2 + d^2)) U^T y with d = DAMPING max(s),

    so that the noise of no mode grows by more than 1 / (2 DAMPING) = 2.5 times that of an undamped best-seen one.

    Args:
        rows: R [h', h]. columns: W [w', w]. channels: K [c', c]. None: that axis is left as it is, of any size.
        features: what a network is shown of y instead, [B, c', h', w'] -> [B, c, h, w].
    """

    sample_axes = measured_axes = "B, C, H, W"
    kept_as: ClassVar = {"features": "_features"}

    @old_arguments(lift="features")
    def __init__(
        self,
        rows: Tensor | None = None,
        columns: Tensor | None = None,
        channels: Tensor | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
    ):
        self._features = features
        for axis, matrix in zip(AXES, (channels, rows, columns), strict=True):
            if matrix is not None and (matrix.ndim != 2 or 0 in matrix.shape):
                raise ContractError(
                    f"Separable needs matrices [out, in], got shape {tuple(matrix.shape)} for its {axis}"
                )
            u, s, vh = (None,) * 3 if matrix is None else torch.linalg.svd(matrix.double(), full_matrices=True)
            for letter, part in zip("muvs", (None if matrix is None else matrix.double(), u, vh, s), strict=True):
                setattr(self, _name(letter, axis), part)
        squares = [_row_square(getattr(self, axis), getattr(self, f"_s_{axis}")) for axis in AXES]
        self.orthogonal_rows = None if None in squares else math.prod(v for v in squares if v is not None)

    def _along(self, letter: str, v: Tensor, *, transpose: bool = False) -> Tensor:
        """v [B, c, h, w] with each axis multiplied by its matrix of that letter (or the transpose)."""
        for dim, axis in enumerate(AXES, start=1):
            matrix = getattr(self, _name(letter, axis))
            if matrix is None:
                continue
            matrix = (matrix.mT if transpose else matrix).to(v.dtype)
            if matrix.shape[1] != v.shape[dim]:
                raise ContractError(
                    f"{axis}: got {v.shape[dim]} in a tensor {tuple(v.shape)}, the matrix takes {matrix.shape[1]}"
                )
            v = along(matrix, v, dim)
        return v

    def _values(self, v: Tensor, out: bool) -> Tensor:
        """Singular values of all modes of measurements (out) or samples, [1, c, h, w] or with sizes 1 that
        broadcast."""
        values = v.new_ones(1, 1, 1, 1)
        for dim, axis in enumerate(AXES, start=1):
            s = getattr(self, f"_s_{axis}")
            if s is None:
                continue
            size = getattr(self, axis).shape[0 if out else 1]
            full = torch.cat([s, s.new_zeros(max(0, size - len(s)))])[:size].to(v.dtype)
            values = values * full.reshape([-1 if i == dim else 1 for i in range(4)])
        return values

    def __call__(self, x: Tensor) -> Tensor:
        return self._along("m", x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._along("m", y, transpose=True)

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        weight = 1 / (noise + gram * self._values(r, out=True).square())
        return self._along("u", weight * self._along("u", r, transpose=True))

    def _measured(self, y: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        """diag(gain(s)) U^T y, as coefficients of samples."""
        c = gain(self._values(y, out=True)) * self._along("u", y, transpose=True)
        for dim, axis in enumerate(AXES, start=1):
            matrix = getattr(self, axis)
            if matrix is not None:
                c = _resized(c, dim, matrix.shape[1])
        return c

    def pinv(self, y: Tensor) -> Tensor:
        return self._along("v", self._measured(y, inverted), transpose=True)

    def picture(self, y: Tensor) -> Tensor:
        """What a network is shown of it, if that was given: grey where colour was lost, which `pinv` would tint."""
        return super().picture(y) if self._features is None else self._features(y)

    def features(self, y: Tensor) -> Tensor:
        """The damped inverse of the class's docstring, or the `features` that was given."""
        if self._features is not None:
            return self._features(y)
        return self._along(
            "v",
            self._measured(y, lambda s: s / (s.square() + (DAMPING * s.flatten(1).amax(1)).square())),
            transpose=True,
        )

    def start(self, y: Tensor) -> Tensor:
        return self.features(y)

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """K = (c, h, w). Values below SEEN times the largest are 0."""
        values = seen(self._values(like, out=False)).expand(1, *event_shape)
        return Spectrum(
            values,
            lambda x: self._along("v", x),
            lambda c: self._along("v", c, transpose=True),
            lambda y: self._measured(y, inverted),
        )


AXES = ("channels", "rows", "columns")
DAMPING = 0.2


def _row_square(matrix: Tensor | None, values: Tensor | None) -> float | None:
    """c where M M^T = c I, else None; 1 for an axis that is left as it is."""
    if matrix is None or values is None:
        return 1.0
    even = len(values) == len(matrix) and bool(values[0] - values[-1] <= 1e-9 * values[0])
    return float(values[0].square()) if even and values[0] > 0 else None


def _name(letter: str, axis: str) -> str:
    """The attribute with the matrix of an axis ("m"), or with its u, v or s."""
    return axis if letter == "m" else f"_{letter}_{axis}"


def along(matrix: Tensor, v: Tensor, dim: int) -> Tensor:
    """v with axis `dim` multiplied by the matrix."""
    return (v.movedim(dim, -1) @ matrix.mT).movedim(-1, dim)


def seen(values: Tensor) -> Tensor:
    """Singular values with those below SEEN times their largest, per row, set to 0."""
    return torch.where(values > SEEN * values.flatten(1).amax(1).reshape((-1,) + (1,) * (values.ndim - 1)), values, 0.0)


def inverted(values: Tensor) -> Tensor:
    """1/s of those that `seen` keeps, else 0."""
    kept = seen(values)
    return torch.where(kept > 0, 1 / kept.clamp_min(torch.finfo(values.dtype).tiny), 0.0)


def _resized(c: Tensor, dim: int, size: int) -> Tensor:
    if size <= c.shape[dim]:
        return c.narrow(dim, 0, size)
    extra = list(c.shape)
    extra[dim] = size - c.shape[dim]
    return torch.cat([c, c.new_zeros(extra)], dim)


def cosines(n: int, like: Tensor) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II) as a matrix [n, n], in the dtype and on the device of
    `like`."""
    return _cosines(n, like.dtype, str(like.device))


@functools.lru_cache(maxsize=32)
def _cosines(n: int, dtype: torch.dtype, device: str) -> Tensor:
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    matrix = (math.pi / n * k * (i + 0.5)).cos() * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.to(device=device, dtype=dtype)


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise InputError(f"an image needs sides of at least 1, got {height}x{width}")
    return height, width


FILTERS = ("pillow", "matlab", "opencv")
"""Bicubic down-sampling as three programs do it; see `bicubic`."""


def bicubic(size: int | tuple[int, int], factor: int = 4, filter: str = FILTERS[0]) -> Separable:
    """Down-sampling by a whole factor with the antialiased bicubic filter, as Pillow and torch (antialias=True) do it.

    The kernel of Keys (1981, a = -1/2) stretched by the factor, cut off at the image's edge and normalised to sum 1.
    Sides that are no multiples of the factor are rounded up in y, as MATLAB does it: pixels stay a factor apart (Pillow
    and torch, asked for such a size, move them a little closer), and the last is at the edge.

    Args:
        size: of the image: a side, or (height, width).
        filter: "pillow", as above; "matlab" (imresize): the same kernel, the image mirrored at its edges (d c b a | a b
            c d); "opencv" (INTER_CUBIC, and torch without antialias): a = -3/4, not stretched (4 pixels each way are
            looked at), edges repeated outwards.
    """
    height, width = _sides(size)
    if filter not in FILTERS:
        raise unknown("filter", str(filter), FILTERS)
    _check_factor(factor)
    make = _bicubic if filter == "pillow" else functools.partial(_cubic, filter=filter)
    return Separable(make(height, factor), make(width, factor))


def _check_factor(factor: int) -> None:
    if factor < 1:
        raise InputError(f"the down-sampling factor must be at least 1, got {factor}")


def _bicubic(n: int, factor: int) -> Tensor:
    centre = (torch.arange(-(-n // factor), dtype=torch.float64)[:, None] + 0.5) * factor
    d = (torch.arange(n, dtype=torch.float64) + 0.5 - centre).abs() / factor
    weights = _keys(d, -0.5)
    return weights / weights.sum(1, keepdim=True)


def _keys(d: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel at distances d >= 0."""
    inner, outer = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return torch.where(d < 1, inner, torch.where(d < 2, outer, 0.0))


def _cubic(n: int, factor: int, filter: str) -> Tensor:
    """As MATLAB or OpenCV: the edge is met by going on outside the image, mirrored or repeated."""
    stretch = factor if filter == "matlab" else 1
    centre = (torch.arange(-(-n // factor), dtype=torch.float64)[:, None] + 0.5) * factor - 0.5
    offset = torch.arange(-2 * stretch, 2 * stretch + 1)
    place = centre.floor().long() + offset
    weights = _keys((place - centre).abs() / stretch, -0.5 if filter == "matlab" else -0.75)
    weights = weights / weights.sum(1, keepdim=True)
    place = _outside(place, n, "reflect" if filter == "matlab" else "repeat")
    return torch.zeros(len(centre), n, dtype=torch.float64).scatter_add_(1, place, weights)


PIXELS = ("first", "middle")


def every(size: int | tuple[int, int], factor: int = 4, pixel: str = PIXELS[0]) -> Separable:
    """One pixel of each factor x factor block: "first", x[::factor], as torch's "nearest" and slicing; "middle", factor
    // 2, as Pillow's NEAREST. Of a side that is no multiple of the factor, the last block is seen if it has that
    pixel."""
    height, width = _sides(size)
    if pixel not in PIXELS:
        raise unknown("pixel", str(pixel), PIXELS)
    _check_factor(factor)
    at = 0 if pixel == PIXELS[0] else factor // 2
    rows, columns = (torch.eye(n, dtype=torch.float64)[at::factor] for n in (height, width))
    whole = height % factor == 0 and width % factor == 0
    large = functools.partial(_enlarged, factor) if whole else functools.partial(_enlarged_to, factor, (height, width))
    return Separable(rows, columns, features=large)


BOUNDARIES = ("reflect", "circular", "zero", "repeat")
"""What lies outside an image: d c b a | a b c d | d c b a; the opposite edge; black of value 0, mid-grey in [-1, 1];
the edge's own pixel."""


def gaussian_blur(size: int | tuple[int, int], deviation: float, boundary: str = BOUNDARIES[0]) -> Separable:
    """Blur by a Gaussian of this deviation in pixels, cut off at 4 deviations; the image is mirrored at its edges.

    The mirror is between pixels (d c b a | a b c d | d c b a: SciPy's "reflect"), which makes A symmetric; `BOUNDARIES`
    has others. A network is shown y itself: a blurred image is a good picture, and any sharper one has more noise.
    """
    if not deviation > 0:
        raise InputError(f"gaussian_blur needs a deviation > 0 in pixels, got {deviation}")
    if boundary not in BOUNDARIES:
        raise unknown("boundary", str(boundary), BOUNDARIES)
    height, width = _sides(size)
    return Separable(_gaussian(height, deviation, boundary), _gaussian(width, deviation, boundary), features=_itself)


def _gaussian(n: int, deviation: float, boundary: str) -> Tensor:
    reach = int(4 * deviation + 0.5)
    offset = torch.arange(-reach, reach + 1)
    weights = (-0.5 * (offset.double() / deviation).square()).exp()
    weights = (weights / weights.sum()).expand(n, -1)
    place = torch.arange(n)[:, None] + offset
    if boundary == "zero":
        weights = torch.where((place >= 0) & (place < n), weights, 0.0)
    return torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, _outside(place, n, boundary), weights)


def _outside(place: Tensor, n: int, boundary: str) -> Tensor:
    """Which of n pixels stands at a place that may lie outside them ("zero": any)."""
    if boundary == "reflect":
        place = place % (2 * n)
        return torch.minimum(place, 2 * n - 1 - place)
    return place % n if boundary == "circular" else place.clamp(0, n - 1)


def grey(channels: int = 3, luma: str = "601") -> Separable:
    """Colour lost: y = 0.299 R + 0.587 G + 0.114 B (luma, ITU-R BT.601), one channel; the mean if there are not three.

    `pinv` is the shortest image with that luma, which is tinted; `features` is the grey image, y in each channel.

    Args:
        luma: "601" (Pillow, OpenCV, torchvision), "709" (scikit-image's rgb2gray: 0.2125 R + 0.7154 G + 0.0721 B), or
            "mean".
    """
    if channels < 1:
        raise InputError(f"grey needs at least one channel, got {channels}")
    if luma not in LUMAS:
        raise unknown("luma", str(luma), LUMAS)
    weights = LUMAS[luma] if channels == 3 else (1 / channels,) * channels
    return Separable(
        channels=torch.tensor([weights], dtype=torch.float64), features=functools.partial(_copied, channels)
    )


LUMA = (0.299, 0.587, 0.114)
LUMAS = {"601": LUMA, "709": (0.2125, 0.7154, 0.0721), "mean": (1 / 3, 1 / 3, 1 / 3)}


def _enlarged(factor: int, y: Tensor) -> Tensor:
    return y.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def _enlarged_to(factor: int, size: tuple[int, int], y: Tensor) -> Tensor:
    """`_enlarged` for an image of this size, whose last block may be smaller, or not seen."""
    for dim, n in zip((2, 3), size, strict=True):
        y = y.index_select(dim, (torch.arange(n, device=y.device) // factor).clamp_max(y.shape[dim] - 1))
    return y


def _itself(y: Tensor) -> Tensor:
    return y


def _copied(channels: int, y: Tensor) -> Tensor:
    return y.expand(-1, channels, -1, -1)
