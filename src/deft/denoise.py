"""Denoisers: a frozen model seen as E[x_0 | x_t], whatever its network was trained to output.

The denoised mean is the library's one currency. `OUTPUTS` is the one place where eps, v, x0, score, flow and
EDM outputs are told apart: mean = c_skip x_t + c_out output.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from deft.errors import unknown
from deft.noise import Schedule

Coefficient = Callable[[Tensor, Tensor], Tensor | float]


@dataclass(frozen=True)
class Prediction:
    """One call of the prior, in every view of it.

    x_t, mean: [B, *E]; t: [B]; alpha, sigma: [B, 1, ...] or [1, 1, ...]. mean = E[x_0 | x_t].
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


class Denoiser(nn.Module, ABC):
    """Anything that returns a `Prediction`: `denoiser(x_t, t)`, x_t [B, *E], t [B] or a scalar tensor."""

    schedule: Schedule
    event_shape: tuple[int, ...]

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor) -> Prediction: ...

    def describe(self) -> dict[str, Any]:
        """What beside its weights makes this prior the one it is; part of the fingerprint."""
        return {"schedule": self.schedule.name, "settings": self.schedule.config()}

    def coefficients(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(t [B], alpha [B, 1, ...], sigma [B, 1, ...]) in the dtype and on the device of x."""
        same = t.ndim == 0
        level = t.reshape(-1).double()  # where t is: a sampler's t is on the CPU, and a GPU need not wait for it
        shape = (-1,) + (1,) * (x.ndim - 1)
        alpha = torch.exp(self.schedule.log_alpha(level)).to(x).reshape(shape)
        sigma = torch.exp(self.schedule.log_sigma(level)).to(x).reshape(shape)
        t = t.to(x)
        return (t.expand(x.shape[0]) if same else t), alpha, sigma


def _edm_c_in(a: Tensor, s: Tensor) -> Tensor:
    return (a**2 + s**2).rsqrt()


OUTPUTS: dict[str, tuple[Coefficient, Coefficient]] = {
    "x0": (lambda a, s: 0.0, lambda a, s: 1.0),
    "eps": (lambda a, s: 1 / a, lambda a, s: -s / a),
    "v": (lambda a, s: a / (a**2 + s**2), lambda a, s: -s / (a**2 + s**2)),
    "score": (lambda a, s: 1 / a, lambda a, s: s**2 / a),
    "flow": (lambda a, s: 1 / (a + s), lambda a, s: -s / (a + s)),
    "edm": (lambda a, s: a / (a**2 + s**2), lambda a, s: s * _edm_c_in(a, s)),
}
"""output kind -> (c_skip, c_out), functions of (alpha, sigma), with mean = c_skip x_t + c_out output.

eps = n; v = alpha n - sigma x_0 (Salimans & Ho 2022); flow = n - x_0 (Liu et al. 2023); edm: the network F of
Karras et al. 2022, eq. 7, for data of unit standard deviation.
"""


def to_output(kind: str, x_t: Tensor, mean: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The network output of the given kind that stands for `mean`: the table read backwards."""
    c_skip, c_out = parametrisation(kind)
    return (mean - c_skip(alpha, sigma) * x_t) / c_out(alpha, sigma)


def parametrisation(kind: str) -> tuple[Coefficient, Coefficient]:
    if kind not in OUTPUTS:
        raise unknown("output kind", kind, OUTPUTS)
    return OUTPUTS[kind]


class NetworkDenoiser(Denoiser):
    """A network `net(x_in, time)` with a stated output kind, as a denoiser.

    Args:
        net: called as net(c_in x_t, time_map(t)), returns [B, *E].
        schedule: alpha(t), sigma(t) the network was trained with.
        event_shape: *E.
        output: a key of `OUTPUTS`.
        time_map: what the network wants as its time, a function of (t, alpha, sigma), each [B]; default t.
        scale_input: multiply x_t by 1/sqrt(alpha^2 + sigma^2) first (VE and EDM networks; 1 for VP).
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        event_shape: tuple[int, ...],
        output: str = "eps",
        *,
        time_map: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        scale_input: bool = False,
    ):
        super().__init__()
        self.net, self.schedule, self.event_shape = net, schedule, tuple(event_shape)
        self.output, self.time_map, self.scale_input = output, time_map, scale_input
        self._coefficients = parametrisation(output)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"output": self.output}

    def raw(self, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The network's own output, [B, *E]; t [B]."""
        x_in = x_t * (alpha**2 + sigma**2).rsqrt() if self.scale_input else x_t
        flat = alpha.reshape(-1).expand(t.shape), sigma.reshape(-1).expand(t.shape)
        return self.net(x_in, t if self.time_map is None else self.time_map(t, *flat))

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        t, alpha, sigma = self.coefficients(t, x_t)
        c_skip, c_out = self._coefficients
        out = self.raw(x_t, t, alpha, sigma)
        return Prediction(x_t, t, alpha, sigma, c_skip(alpha, sigma) * x_t + c_out(alpha, sigma) * out)


class MeanDenoiser(Denoiser):
    """A denoiser from a function mean(x_t, alpha, sigma): closed-form priors, tests, other libraries."""

    def __init__(
        self,
        mean: Callable[[Tensor, Tensor, Tensor], Tensor],
        schedule: Schedule,
        event_shape: tuple[int, ...],
    ):
        super().__init__()
        self.mean, self.schedule, self.event_shape = mean, schedule, tuple(event_shape)

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        t, alpha, sigma = self.coefficients(t, x_t)
        return Prediction(x_t, t, alpha, sigma, self.mean(x_t, alpha, sigma))


def freeze(denoiser: Denoiser) -> Denoiser:
    """Evaluation mode, no gradients, never in an optimiser; returned for chaining."""
    return denoiser.eval().requires_grad_(False)


def fingerprint(denoiser: Denoiser) -> str:
    """SHA-256 of the weights, the schedule and the output kind: which prior an h-transform belongs to."""
    digest = hashlib.sha256()
    digest.update(json.dumps(denoiser.describe(), sort_keys=True).encode())
    for name, tensor in sorted(denoiser.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
