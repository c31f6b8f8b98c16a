"""Blur by a kernel where the image ends somewhere: mirrored, black, or repeated outside."""

from __future__ import annotations

import torch
from torch import Tensor

from deft.core.operator import LinearOperator, Spectrum, conjugate_gradient
from deft.errors import unknown
from deft.operator.fourier import Convolution
from deft.operator.separable import BOUNDARIES, _outside


class EdgedConvolution(Convolution):
    """y = k * x with something else outside the image than the opposite edge: E, `Convolution`, then a crop.

    E puts the image into a larger one and fills what is around it: "reflect" (d c b a | a b c d | d c b a), "zero",
    or "repeat" (the edge's own pixel). The adjoint folds what fell outside back to where it came from. No closed-form
    solve: conjugate gradients.

    Args:
        kernel, correlate, early: as `Convolution`'s. boundary: one of `deft.operator.separable.BOUNDARIES`;
            "circular" is `Convolution` itself.
    """

    def __init__(self, kernel: Tensor, boundary: str = BOUNDARIES[0], *, correlate: bool = False, early: bool = False):
        super().__init__(kernel, correlate=correlate, early=early)
        if boundary not in BOUNDARIES:
            raise unknown("boundary", str(boundary), BOUNDARIES)
        self.boundary = boundary

    @property
    def _reach(self) -> tuple[int, int]:
        """How many pixels above and left of the image the kernel looks at."""
        down, across = self._middle()
        return self.kernel.shape[2] - 1 - down, self.kernel.shape[3] - 1 - across

    def _places(self, n: int, reach: int, size: int, device: torch.device) -> Tensor:
        return _outside(torch.arange(-reach, n + size - 1 - reach, device=device), n, self.boundary)

    def _widen(self, x: Tensor) -> Tensor:
        """E x."""
        for dim, reach, size in zip((2, 3), self._reach, self.kernel.shape[2:], strict=True):
            n = x.shape[dim]
            if self.boundary == "zero":
                pad = [0, 0, reach, size - 1 - reach] if dim == 2 else [reach, size - 1 - reach, 0, 0]
                x = torch.nn.functional.pad(x, pad)
            else:
                x = x.index_select(dim, self._places(n, reach, size, x.device))
        return x

    def _fold(self, v: Tensor) -> Tensor:
        """E^T v."""
        for dim, reach, size in zip((2, 3), self._reach, self.kernel.shape[2:], strict=True):
            n = v.shape[dim] - size + 1
            if self.boundary == "zero":
                v = v.narrow(dim, reach, n)
                continue
            shape = list(v.shape)
            shape[dim] = n
            v = v.new_zeros(shape).index_add(dim, self._places(n, reach, size, v.device), v)
        return v

    def __call__(self, x: Tensor) -> Tensor:
        self._transfer(x)  # the kernel fits the image
        wide = self._widen(x)
        y = self._times(wide, self._transfer(wide))
        return y.narrow(2, self._reach[0], x.shape[2]).narrow(3, self._reach[1], x.shape[3])

    def adjoint(self, y: Tensor) -> Tensor:
        (top, left), (k, l) = self._reach, self.kernel.shape[2:]
        wide = torch.nn.functional.pad(y, (left, l - 1 - left, top, k - 1 - top))
        return self._fold(self._times(wide, self._transfer(wide).conj()))

    def solve(self, r: Tensor, noise: Tensor | float, gram: Tensor | float) -> Tensor:
        return LinearOperator.solve(self, r, noise, gram)

    def pinv(self, y: Tensor) -> Tensor:
        """argmin |A x - y|^2 + 1e-10 |x|^2, by conjugate gradients: made for consistent y; noise comes back much
        enlarged."""
        return conjugate_gradient(
            lambda v: 1e-10 * v + self.adjoint(self(v)), self.adjoint(y), tolerance=1e-9, max_iterations=1000
        )

    def spectrum(self, event_shape: tuple[int, ...], like: Tensor) -> Spectrum:
        """From the dense matrix."""
        return LinearOperator.spectrum(self, event_shape, like)
