"""A measurement of what an autoencoder decodes, as a measurement of its latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from deft.core.autodiff import pullback
from deft.core.operator import Operator
from deft.errors import unknown
from deft.operator.basic import Around

GRADIENTS = ("encoder", "decoder")
"""How a step on the decoded data becomes one on the latents; see `Decoded`."""
WAYS = (*GRADIENTS, "latents")
"""How a latent prior is guided: through the decoder, or by a surrogate of the measurement in the latents themselves."""


class Codec(Protocol):
    """encode: data [B, C, H, W] -> latents [B, c, h, w]; decode: back."""

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


class Decoded(Around):
    """A(D(z)): the operator A after the decoder D (Rout et al. 2023, PSLD, eq. 5).

    How far the belief N(z, rho^2 I) moves when the measurement says r = y - A(D(z)) (`approx_mean_update`) is told in
    one of two ways:

        encoder: E(D(z) + A.approx_mean_update(D(z), r)) - E(D(z)): A's own step on the data, carried back by the
            encoder E. Two passes of the encoder, no backward pass; belief about the data has the deviation gain * rho.
        decoder: s J^T r with J the Jacobian of A o D at z: a backward pass through the decoder (never through the
            prior). s = rho^2 / (noise + rho^2 q), q = |J^T r|^2 / |r|^2: exact if all singular values of J that r
            touches are alike (the Rayleigh quotient of J J^T at r stands in for J J^T).

    `vjp`, and with it `score` and what DPS differentiates, is always the true derivative, through the decoder.
    `features` shows a network each image-like part of A's own features, encoded.
    """

    def __init__(self, operator: Operator, autoencoder: Codec, gradient: str = "decoder", gain: float = 1.0):
        if gradient not in GRADIENTS:
            raise unknown("gradient", gradient, GRADIENTS)
        self.operator, self.autoencoder, self.gradient, self.gain = operator, autoencoder, gradient, gain
        self.feature_channels = operator.feature_channels

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator(self.autoencoder.decode(x))

    def features(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            parts = self.operator.features(y).chunk(self.feature_channels, dim=1)
            return torch.cat([self.autoencoder.encode(p) for p in parts], dim=1)

    def measured_part(self, y: Tensor) -> Tensor:
        return self.operator.measured_part(y)

    def number_of_measurements(self, y: Tensor) -> Tensor:
        return self.operator.number_of_measurements(y)

    def mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """As `approx_mean_update`, by A's own `mean_update`."""
        return (
            self._encoded(self.operator.mean_update, x, r, noise, rho2)
            if self.gradient == "encoder"
            else self.approx_mean_update(x, r, noise, rho2)
        )

    def _encoded(self, step: Callable[..., Tensor], x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        with torch.no_grad():
            data = self.autoencoder.decode(x)
            moved = data + step(data, r, noise, self.gain**2 * rho2)
            return self.autoencoder.encode(moved) - self.autoencoder.encode(data)

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        if self.gradient == "encoder":
            return self._encoded(self.operator.approx_mean_update, x, r, noise, rho2)
        back = self.vjp(x, r)

        def square(v: Tensor) -> Tensor:
            return v.flatten(1).square().sum(1).reshape((-1,) + (1,) * (x.ndim - 1))

        q = square(back) / square(r).clamp_min(1e-12)
        return rho2 * back / (noise.reshape((-1,) + (1,) * (x.ndim - 1)) + rho2 * q)

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        return pullback(self, x, r)
