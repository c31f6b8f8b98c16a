"""Latent priors: a diffusion model of the latents of an autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deft.core.denoiser import Denoiser, Prediction
from deft.core.likelihood import Decoder, Observation
from deft.core.random import Noise
from deft.core.schedule import Schedule
from deft.errors import CheckpointError, InputError, unknown
from deft.likelihood.gaussian import Gaussian
from deft.likelihood.paste import hidden_as_zero
from deft.operator import Mask
from deft.operator.latent import WAYS
from deft.prior import latent_surrogate as surrogate
from deft.prior.latent_surrogate import Surrogate
from deft.samplers import sample


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
    """rms(D(z + size n) - D(z)) / (size rms(n)) for z, n standard normal: what the decoder makes of a small
    deviation."""
    noise = Noise(seed, 8)
    z, n = (noise.normal(prior.event_shape).to(prior.state_like()) for _ in range(2))
    change = autoencoder.decode(z + size * n) - autoencoder.decode(z)
    return max(float((change.square().mean() / n.square().mean()).sqrt()) / size, 1e-6)


HEAVY = 2.0
"""A decoder with more than so many times the multiplications of the denoiser is left out of the steps by default: a
step through it then costs more than seven calls of the denoiser (docs/cost.md#a-step-on-latents)."""
STEPS = 20
"""Steps of the samples of the prior that surrogates are measured with."""


@torch.no_grad()
def relative_cost(autoencoder: Any, prior: Denoiser) -> float:
    """Multiplications of a pass of the decoder over those of a call of the denoiser (of its matrix products and
    convolutions; 0 where the denoiser has none). The same number on every machine.

    >>> import deft
    >>> from types import SimpleNamespace
    >>> net = nn.Conv2d(4, 4, 3, padding=1)
    >>> prior = deft.NetworkDenoiser(lambda x, time: net(x), deft.VPCosine(), (4, 8, 8), "v")
    >>> relative_cost(SimpleNamespace(decode=nn.ConvTranspose2d(4, 1, 8, stride=8)), prior)
    1.78
    """
    z = torch.zeros(1, *prior.event_shape).to(prior.state_like())
    with FlopCounterMode(display=False) as own:
        prior(z, torch.tensor((prior.schedule.t_min + prior.schedule.t_max) / 2, dtype=torch.float64))
    if not own.get_total_flops():
        return 0.0
    with FlopCounterMode(display=False) as decoder:
        autoencoder.decode(z)
    return round(decoder.get_total_flops() / own.get_total_flops(), 2)


def default_gradient(autoencoder: Any, prior: Denoiser) -> str:
    """How the loaders guide a latent prior where nobody says: "latents" if a decoder pass costs more than `HEAVY` calls
    of the denoiser (docs/cost.md), else "decoder"."""
    return "latents" if relative_cost(autoencoder, prior) > HEAVY else "decoder"


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
        gradient: "encoder" or "decoder", see `Decoded`: both run the decoder at every step. "latents": the measurement
            is encoded once, and a linear Gaussian surrogate of it guides (`deft.prior.latent_surrogate`); neither
            decoder nor encoder runs in a step. docs/results/priors.md has all three measured. None: by the size of the
            decoder (`default_gradient`), and "decoder" for what has no surrogate.
        gain: how many times larger a small deviation is in the data than in the latents; measured if not given.
    """

    def __init__(
        self,
        prior: Denoiser,
        autoencoder: Any,
        data_shape: tuple[int, ...],
        gradient: str | None = "decoder",
        gain: float | None = None,
    ):
        super().__init__()
        if gradient is not None and gradient not in WAYS:
            raise unknown("gradient", gradient, WAYS)
        self.prior, self.autoencoder, self.chosen = prior, autoencoder, gradient is None
        self.gradient = default_gradient(autoencoder, prior) if gradient is None else gradient
        self.schedule: Schedule = prior.schedule
        self.event_shape, self._data_shape = prior.event_shape, tuple(data_shape)
        self.card, self.differentiable = dict(prior.card), prior.differentiable
        self._gain = measure_gain(autoencoder, prior) if gain is None and self.gradient != "latents" else gain
        self._surrogates: dict[str, Surrogate] = {}
        self._samples: tuple[Tensor, Tensor] | None = None

    @property
    def gain(self) -> float:
        if self._gain is None:
            self._gain = measure_gain(self.autoencoder, self.prior)
        return self._gain

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
        """The observation as one of the latents.

        Raises:
            InputError: gradient="latents", and the measurement has no surrogate in the latents; which ways have one.
        """
        if self.gradient == "latents" and obs.likelihood.has_density:
            try:
                return self._surrogate_observation(obs)
            except InputError:
                if not self.chosen:
                    raise
        gradient = "decoder" if self.gradient == "latents" else self.gradient
        return Observation(obs.y, obs.likelihood.after(self._decoder(gradient)))

    def _decoder(self, gradient: str) -> Decoder:
        return Decoder(self.autoencoder, self.event_shape, gradient, self.gain)

    # guidance in the latents

    @torch.no_grad()
    def _surrogate_observation(self, obs: Observation) -> Observation:
        if reason := surrogate.why_none(obs, self.event_shape, self.data_shape):
            raise InputError(reason)
        obs = hidden_as_zero(obs)
        like, place = obs.likelihood, self.state_like()
        assert isinstance(like, Gaussian)
        operator = like.operator
        levels = [f"{sigma:.2g}" for sigma in like.deviation.tolist()]
        known = {level: self.surrogate_of(operator, float(level)) for level in set(levels)}
        found = [known[level] for level in (levels if len(known) > 1 else levels[:1])]
        image = surrogate.image_of(obs, self.data_shape).to(place)
        grid = (self.event_shape[-2], self.event_shape[-1])
        masked = isinstance(operator, Mask)
        kinds = torch.ones(1, *grid, dtype=torch.long, device=place.device)
        if isinstance(operator, Mask):
            kinds = surrogate.kinds_of(operator.mask.to(place).expand(-1, *self.data_shape), grid)
        views = operator.features(obs.y).to(place).chunk(operator.feature_channels, dim=1)
        encoded = [self.encode(part) for part in views]
        same = not masked and operator.feature_channels == 1  # the image is what N1 is shown
        s = encoded[0] if same else self.encode(image)
        return surrogate.observation_of(s, kinds, found, torch.cat(encoded, 1), operator)

    def surrogate_of(self, operator: Any, sigma: float) -> Surrogate:
        """What a measurement by an operator with noise sigma says of single latents; measured when it is first asked
        for, on samples of the prior, and kept."""
        key = surrogate.key_of(operator, sigma)
        if key not in self._surrogates:
            if self._samples is None:
                places = self.event_shape[-1] * self.event_shape[-2]
                n = min(max(surrogate.PLACES // places, surrogate.MIN_SAMPLES), surrogate.MAX_SAMPLES)
                x = self.decode(sample(self.prior, Noise(23, n), steps=STEPS), 8)
                self._samples = self.encode(x, 8), x
            z, x = self._samples
            found = surrogate.measure(operator, sigma, z, x, self.autoencoder.encode)
            if not isinstance(operator, Mask):  # of a mask the autoencoder alone decides
                surrogate.check_share(found, operator)
            self._surrogates[key] = found
        return self._surrogates[key]

    def surrogates(self) -> dict[str, Any]:
        """Those that were measured, for the card of an h, as `restore` takes them."""
        return {key: found.config() for key, found in self._surrogates.items()}

    def restore(self, config: Mapping[str, Any]) -> None:
        """Take surrogates as known, so that they are not measured again.

        Raises:
            CheckpointError: they are none, or of latents of another number of channels.
        """
        for key, one in config.items():
            found = Surrogate.from_config(one)
            if found.offset.shape[1] != self.event_shape[0]:
                raise CheckpointError(
                    f"the card's surrogate {key!r} is of {found.offset.shape[1]} channels, the latents have"
                    f" {self.event_shape[0]}"
                )
            places = surrogate.KINDS if key.startswith("Mask ") else 2
            if len(found.offset) != places:
                raise CheckpointError(
                    f"the card's surrogate {key!r} is of {len(found.offset)} kinds of places, expected {places}"
                )
            self._surrogates.setdefault(key, found)

    def guided_as(self, gradient: Any) -> None:
        """Guide as an h was fitted, "decoder" or "latents", where nobody stated another way."""
        if self.chosen and gradient in ("decoder", "latents"):
            self.gradient = gradient
