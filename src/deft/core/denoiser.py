"""Denoisers: a frozen model seen as E[x_0 | x_t], whatever its network was trained to output.

The denoised mean is the library's one currency. `deft.denoiser` makes one of a network.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from deft._renamed import Renamed
from deft.arguments import checks_arguments
from deft.core.schedule import Schedule
from deft.errors import InputError
from deft.printing import PrintedModule, short
from deft.tensors import placed


@dataclass(frozen=True)
class Prediction:
    """One call of the prior, in every view of it.

    x_t, mean: [B, *E]; t: [B]; alpha, sigma: [B, 1, ...] or [1, 1, ...]. mean = E[x_0 | x_t].

    >>> import deft
    >>> prior = deft.MeanDenoiser(lambda x, alpha, sigma: alpha * x, deft.VPCosine(), (2,))  # data N(0, I)
    >>> pred = prior(torch.ones(1, 2), torch.tensor(0.5))
    >>> pred.mean, pred.score
    (tensor([[0.7071, 0.7071]]), tensor([[-1., -1.]]))
    >>> pred.corrected(torch.tensor([[0.0, 1.0]])).mean  # moved by (sigma^2 / alpha) h
    tensor([[0.7071, 1.4142]])
    """

    x_t: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor
    mean: Tensor

    @property
    def eps(self) -> Tensor:
        """E[n | x_t] = (x_t - alpha mean) / sigma."""
        return (self.x_t - self.alpha * self.mean) / self.sigma

    @property
    def score(self) -> Tensor:
        """grad log p_t(x_t) = (alpha mean - x_t) / sigma^2 (Tweedie; Efron 2011)."""
        return -self.eps / self.sigma

    def corrected(self, h: Tensor) -> Prediction:
        """Add h (score units) to the score: mean += (sigma^2 / alpha) h. The only unit conversion there is."""
        return replace(self, mean=self.mean + (self.sigma**2 / self.alpha) * h)

    def joined(self, other: Prediction) -> Prediction:
        """The rows of this, then those of another at the same level."""
        x, t, mean = (torch.cat([getattr(self, k), getattr(other, k)]) for k in ("x_t", "t", "mean"))
        shared = self.alpha.shape[0] == 1
        alpha, sigma = (
            (getattr(self, k) if shared else torch.cat([getattr(self, k), getattr(other, k)]))
            for k in ("alpha", "sigma")
        )
        return Prediction(x, t, alpha, sigma, mean)

    def detach(self) -> Prediction:
        return replace(self, x_t=self.x_t.detach(), mean=self.mean.detach())

    def __getitem__(self, index: Any) -> Prediction:
        one = self.alpha.shape[0] == 1
        return Prediction(
            self.x_t[index],
            self.t[index],
            self.alpha if one else self.alpha[index],
            self.sigma if one else self.sigma[index],
            self.mean[index],
        )


D = TypeVar("D", bound="Denoiser")


class Denoiser(PrintedModule, Renamed, ABC):
    """Anything that returns a `Prediction`: `denoiser(x_t, t)`, x_t [B, *E], t [B] or a scalar tensor.

    >>> import deft
    >>> class StandardNormal(deft.Denoiser):
    ...     def __init__(self, schedule, event_shape):
    ...         super().__init__()
    ...         self.schedule, self.event_shape = schedule, event_shape
    ...     def forward(self, x_t, t):
    ...         t, alpha, sigma = self.coefficients(t, x_t)
    ...         return deft.Prediction(x_t, t, alpha, sigma, alpha * x_t / (alpha**2 + sigma**2))
    >>> deft.sample(StandardNormal(deft.VPCosine(), (2,)), 1000).std().round(decimals=1)
    tensor(1.)
    """

    schedule: Schedule
    event_shape: tuple[int, ...]
    loaded_as: str = ""
    """What `load_prior` was given, files by their absolute paths; what is fitted to a prior names it so."""
    loaded_with: tuple[str, ...] = ()
    """The options that it was given, as KEY=VALUE."""
    differentiable: bool = True  # in x_t, as far as is known: the mean of a service is not, nor that of an ONNX graph

    def __init__(self) -> None:
        super().__init__()
        self.card: dict[str, Any] = {}
        """What is known about the model: family, name, data, what its adapter was unsure of."""

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor) -> Prediction: ...

    def describe(self) -> dict[str, Any]:
        """What beside its weights makes this prior the one it is; part of the fingerprint."""
        return {"schedule": self.schedule.name, "settings": self.schedule.config()}

    def fingerprint(self) -> str:
        """SHA-256 of `describe()` and the weights: which prior an h-transform belongs to."""
        digest = hashlib.sha256()
        digest.update(json.dumps(self.describe(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def train(self: D, mode: bool = True) -> D:
        """As every module's, but for parts that have one mode alone (what torch.export makes): they stay as they
        are."""
        set_mode(self, mode)
        return self

    def parameter_count(self) -> int:
        """How many parameters the model has; an h is sized by it."""
        return sum(p.numel() for p in self.parameters())

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum as a user has it; `event_shape` unless the model lives in the latents of an
        autoencoder."""
        return self.event_shape

    def encode(self, x: Tensor) -> Tensor:
        """Data [B, *data_shape] as the model's samples [B, *E]."""
        return x

    def decode(self, z: Tensor) -> Tensor:
        """The model's samples [B, *E] as data [B, *data_shape]."""
        return z

    def to_latent(self, obs: Any) -> Any:
        """An `Observation` of data, as one of the model's samples."""
        return obs

    def state_like(self, otherwise: Tensor | None = None) -> Tensor:
        """An empty tensor of the device and dtype in which samples of this prior are kept.

        The device is the model's; the dtype is float32, or float64 for a float64 model: half precision is a model's
        own business, not its samples'. A model without tensors leaves both to `otherwise`.
        """
        like = next(self.parameters(), next(self.buffers(), torch.empty(()) if otherwise is None else otherwise))
        return torch.empty(0, device=like.device, dtype=like.dtype if like.dtype == torch.float64 else torch.float32)

    def project(self, noise: Tensor, like: Tensor) -> Tensor:
        """Standard normal `noise` on the subspace that samples live in: the noise itself, where that is all of space.

        like: a tensor of the same shape, [B, *E], that shows which entries a sample has (those that are zero on purpose
        are not noise's either).
        """
        return noise

    def coefficients(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(t [B], alpha [B, 1, ...], sigma [B, 1, ...]) in the dtype and on the device of x."""
        if not (isinstance(x, Tensor) and x.is_floating_point()) or not isinstance(t, Tensor):
            raise InputError(
                "a denoiser takes x_t [B, *E] of floating-point numbers and t [B] or a scalar tensor, got"
                f" {short(x)} and {short(t)}"
            )
        if tuple(x.shape[1:]) != tuple(self.event_shape) and x.ndim != len(self.event_shape) + 1:
            raise InputError(f"x_t has shape {tuple(x.shape)}, expected [B, {', '.join(map(str, self.event_shape))}]")
        same = t.ndim == 0
        if not same and tuple(t.shape) not in ((1,), (len(x),)):
            raise InputError(
                f"t has shape {tuple(t.shape)}, expected one number or [{len(x)}], one for each row of x_t"
            )
        first, last = self.schedule.t_min, self.schedule.t_max
        if t.device.type == "cpu" and not bool(((t >= first - 1e-6) & (t <= last + 1e-6 * max(1.0, last))).all()):
            raise InputError(f"t = {short(t)} is outside of the schedule's times, {first:g} to {last:g}")
        level = t.reshape(-1).double()  # where t is: a sampler's t is on the CPU, and a GPU need not wait for it
        logs = self.schedule.log_alpha(level), self.schedule.log_sigma(level)
        alpha, sigma = (placed(log.exp(), x).reshape((-1,) + (1,) * (x.ndim - 1)) for log in logs)
        t = placed(t, x)
        return (t.expand(x.shape[0]) if same else t), alpha, sigma


def set_mode(module: nn.Module, mode: bool) -> None:
    """Training or evaluation mode of a module and its parts. A part whose `train` says it is not implemented (the graph
    of an ExportedProgram, which was traced in one mode) is left in its own."""
    module.training = mode
    for child in module.children():
        try:
            child.train(mode)
        except NotImplementedError:
            set_mode(child, mode)


@checks_arguments
def freeze(denoiser: Denoiser) -> Denoiser:
    """Evaluation mode, no gradients, never in an optimiser; returned for chaining."""
    return denoiser.eval().requires_grad_(False)


@checks_arguments
def fingerprint(denoiser: Denoiser) -> str:
    """Which prior this is: see `Denoiser.fingerprint`."""
    return denoiser.fingerprint()
