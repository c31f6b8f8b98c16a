"""Latent priors: a diffusion model of the latents of an autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser, Prediction
from deft.core.likelihood import Decoder, Observation
from deft.core.random import Noise
from deft.core.schedule import Schedule
from deft.errors import unknown
from deft.operator.latent import GRADIENTS


class Autoencoder(nn.Module):
    """An autoencoder of diffusers (AutoencoderKL, VQModel) as encode and decode, with what scales its latents.

    z = scale (E(x) - shift), E the mean of the code; x = D(z / scale + shift). scale and shift are numbers, or tensors
    that broadcast with z (a number for each channel).

    stated: what of scale and shift is not the files' own, and so part of a prior's fingerprint.
    """

    scale: Tensor | float
    shift: Tensor | float

    def __init__(
        self,
        model: nn.Module,
        scale: Tensor | float = 1.0,
        shift: Tensor | float = 0.0,
        stated: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.model, self.stated = model, dict(stated or {})
        for name, value in (("scale", scale), ("shift", shift)):
            if isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def _own(self, x: Tensor) -> Tensor:
        like = next(self.model.parameters(), x)
        return x.to(like.dtype)

    def encode(self, x: Tensor) -> Tensor:
        code = self.model.encode(self._own(x), return_dict=False)[0]  # type: ignore[operator]
        z: Tensor = code if isinstance(code, Tensor) else code.mode()
        return self.scale * (z.to(x.dtype) - self.shift)

    def decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.model.decode(self._own(z / self.scale + self.shift), return_dict=False)[0]  # type: ignore[operator]
        return x.to(z.dtype)


@torch.no_grad()
def measure_gain(autoencoder: Any, prior: Denoiser, size: float = 0.1, seed: int = 0) -> float:
    """rms(D(z + size n) - D(z)) / size for z, n standard normal: what the decoder makes of a small deviation."""
    noise = Noise(seed, 8)
    z, n = (noise.normal(prior.event_shape).to(prior.state_like()) for _ in range(2))
    change = autoencoder.decode(z + size * n) - autoencoder.decode(z)
    return max(float(change.square().mean().sqrt()) / size, 1e-6)


class LatentPrior(Denoiser):
    """A denoiser of latents with the autoencoder they belong to.

    Samples, h-transforms and samplers live in the latents (`event_shape`); data are encoded on the way in (`encode`),
    samples decoded on the way out (`decode`), and `to_latent` makes a measurement y = A(x) + noise one of the latents,
    y = A(D(z)) + noise. What the autoencoder cannot express, no sample will show: give the likelihood a sigma_y that
    allows for it.

    Args:
        prior: the denoiser of the latents.
        autoencoder: encode and decode, a module.
        data_shape: (C, H, W) of the data.
        gradient: "encoder" or "decoder", see `Decoded`; docs/results/priors.md has both measured.
        gain: how many times larger a small deviation is in the data than in the latents; measured if not given.
    """

    def __init__(
        self,
        prior: Denoiser,
        autoencoder: Any,
        data_shape: tuple[int, ...],
        gradient: str = "decoder",
        gain: float | None = None,
    ):
        super().__init__()
        if gradient not in GRADIENTS:
            raise unknown("gradient", gradient, GRADIENTS)
        self.prior, self.autoencoder, self.gradient = prior, autoencoder, gradient
        self.schedule: Schedule = prior.schedule
        self.event_shape, self._data_shape = prior.event_shape, tuple(data_shape)
        self.card, self.differentiable = dict(prior.card), prior.differentiable
        self.gain = measure_gain(autoencoder, prior) if gain is None else gain

    @property
    def data_shape(self) -> tuple[int, ...]:
        return self._data_shape

    @property
    def rows_per_call(self) -> int:
        """Rows of the network for each row of z: two under classifier-free guidance."""
        return int(getattr(self.prior, "rows_per_call", 1))

    def describe(self) -> dict[str, Any]:
        return (
            self.prior.describe()
            | {"latent": list(self.data_shape), "gradient": self.gradient}
            | getattr(self.autoencoder, "stated", {})
        )

    def parameter_count(self) -> int:
        """Those of the denoiser; the autoencoder is no part of what an h is sized by."""
        return self.prior.parameter_count()

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        return self.prior(x_t, t)

    @torch.no_grad()
    def encode(self, x: Tensor, chunk: int = 64) -> Tensor:
        return torch.cat([self.autoencoder.encode(part) for part in x.to(self.state_like()).split(chunk)])

    @torch.no_grad()
    def decode(self, z: Tensor, chunk: int = 64) -> Tensor:
        return torch.cat([self.autoencoder.decode(part) for part in z.to(self.state_like()).split(chunk)])

    def to_latent(self, obs: Observation) -> Observation:
        return Observation(
            obs.y, obs.likelihood.after(Decoder(self.autoencoder, self.event_shape, self.gradient, self.gain))
        )
