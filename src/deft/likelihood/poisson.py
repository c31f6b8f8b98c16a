"""Counted light: y is a number of photons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deft.core.likelihood import Likelihood, per_row
from deft.core.operator import LinearOperator, Operator, conjugate_gradient
from deft.core.random import BatchNoise, Noise, generator
from deft.errors import InputError
from deft.tensors import PerRow

NEGLIGIBLE = 1e-4
"""How far below 0, next to the largest, an operator may bring the intensity of an image in [-1, 1]: rounding, say."""

VISIBLE = 1e-2
"""Intensity below which the noise of a measurement counts as that of this one in `noise_sigma`: the square of a single
count says little."""


class Poisson(Likelihood):
    """peak y ~ Poisson(peak I), I = max(A(u), dark), u = (x + 1)/2: photon noise.

    u is light from 0 (black, x = -1) to 1 (white, x = 1), and A maps light to light, so A >= 0. y stays on that scale:
    a count divided by `peak`, of mean I and variance I / peak. With k = peak y and lambda = peak I

        log p(y | x) = k log lambda - lambda - log k!          (Gamma(k + 1) for a k that is not whole)

    over the entries that were measured.

    Args:
        operator: A.
        peak: the mean count of a white pixel; a number, or a tensor [B] or [1]. 10 is dim, 1000 is bright.
        dark: the least intensity, of the sensor itself. It keeps log lambda finite where x̂ leaves [-1, 1].

    Raises (when sampling): InputError if A makes an intensity below 0 of an image in [-1, 1].

    >>> import deft
    >>> like = deft.Poisson(deft.Identity(), peak=10.0)
    >>> y = like.sample(torch.zeros(1, 2000), deft.Noise(0, 1))
    >>> y.mean().round(decimals=1), y.var().round(decimals=2)
    (tensor(0.5000), tensor(0.0500))
    """

    operator: Operator
    per_sample = ("peak",)

    def __init__(self, operator: Operator, peak: PerRow = 100.0, *, dark: float = 1e-3):
        self.peak = torch.as_tensor(peak, dtype=torch.get_default_dtype()).reshape(-1)
        if not bool(((self.peak > 0) & self.peak.isfinite()).all()) or not 0 < dark < 1:
            raise InputError(f"Poisson needs a finite peak above 0 and 0 < dark < 1, got {peak} and {dark}")
        self.operator, self.dark = operator, dark

    def _light(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A(u), and I."""
        light = self.operator((x + 1) / 2)
        return light, light.clamp_min(self.dark)

    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        """Draws by `torch.poisson` (exact for every mean), with a generator for each row that is seeded from
        `noise`."""
        light, intensity = self._light(x)
        if bool((light < 0).any()):
            self._refuse_negative(x)
        peak = per_row(self.peak, light)
        rates = (peak * intensity).double().cpu()
        seeds = (noise.uniform((3,)).double() * 2**24).long().tolist()
        counts = torch.stack([torch.poisson(rate, generator(*seed)) for rate, seed in zip(rates, seeds, strict=True)])
        return self.operator.measured_part(counts.to(light) / peak)

    def _refuse_negative(self, x: Tensor) -> None:
        light = self.operator((x.clamp(-1, 1) + 1) / 2)
        lowest = float(light.min())
        if lowest < -NEGLIGIBLE * float(light.abs().max()):
            raise InputError(
                f"{type(self.operator).__name__} makes an intensity of {lowest:.3g} of an image in [-1, 1], and light"
                " cannot be negative: Poisson needs an operator with A(u) >= 0 for u >= 0"
            )

    def residual(self, y: Tensor, x: Tensor) -> Tensor:
        """y - I, zero where nothing was measured."""
        return self.operator.measured_part(y - self._light(x)[1])

    def noise_sigma(self, y: Tensor, x: Tensor) -> Tensor:
        """sqrt(I / peak), shaped like y; an I below `VISIBLE` counts as that."""
        intensity = self._light(x)[1].clamp_min(VISIBLE)
        return (intensity / per_row(self.peak, intensity)).sqrt()

    def check(self, y: Tensor) -> None:
        if bool((y < 0).any()):
            raise InputError(f"y has negative values (down to {float(y.min()):.3g}): photon counts are 0 or more")

    def rescaled(self, y: Tensor, scale: float, offset: float, event_shape: Sequence[int]) -> Tensor:
        """The share of white, whatever A: (scale y + offset + 1) / 2."""
        return (y + (offset + 1) / scale) / (2 / scale)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        _, intensity = self._light(x)
        peak = per_row(self.peak, intensity)
        rate, count = peak * intensity, peak * y
        terms = count * rate.log() - rate - torch.lgamma(count + 1)
        return self.operator.measured_part(terms).flatten(1).sum(1)

    def score(self, y: Tensor, x: Tensor) -> Tensor:
        """A'^T [peak (y - I) / I] / 2, without the entries that are darker than `dark`."""
        light, intensity = self._light(x)
        slope = per_row(self.peak, y) * (y - intensity) / intensity
        r = self.operator.measured_part(torch.where(light >= self.dark, slope, 0.0))
        return self.operator.vjp((x + 1) / 2, r) / 2

    def approx_mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        """The Gaussian update with the Fisher information at x: noise of variance I / peak in each pixel.

        For a linear A, rho2/2 A^T (I/peak + rho2/4 A A^T)^{-1} (y - I) by conjugate gradients, each row scaled by its
        share of A A^T 1 (one step for a mask or for block averages); for any other A, its own `approx_mean_update`.
        Entries darker than `dark` are moved like the rest. At most 20 steps, to 1e-3 of the right-hand side;
        `mean_update` goes on to 1e-6.
        """
        return self._update(y, x, rho2, 1e-3, 20)

    def mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        """As `approx_mean_update`, solved to 1e-6 of the right-hand side (at most 500 steps)."""
        return self._update(y, x, rho2, 1e-6, 500)

    def _update(self, y: Tensor, x: Tensor, rho2: Tensor, tolerance: float, max_iterations: int) -> Tensor:
        _, intensity = self._light(x)
        r = self.operator.measured_part(y - intensity)
        noise, gram = intensity / per_row(self.peak, y), rho2 / 4
        if not isinstance(self.operator, LinearOperator):
            return 2 * self.operator.approx_mean_update((x + 1) / 2, r, noise, gram)
        op, g = self.operator, gram.reshape((-1,) + (1,) * (r.ndim - 1))
        scale = (noise + g * op(op.adjoint(torch.ones_like(r))).abs()).rsqrt()
        z = conjugate_gradient(
            lambda v: scale * (noise * scale * v + g * op(op.adjoint(scale * v))),
            scale * r,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        return 2 * gram * op.adjoint(scale * z)

    def features(self, y: Tensor) -> Tensor:
        """The operator's view of y, which stays on the scale of light: 0 black, 1 white."""
        return self.operator.features(y)

    def picture(self, y: Tensor) -> Tensor:
        return 2 * self.operator.picture(y) - 1
