"""Denoisers: a frozen model seen as E[x_0 | x_t], whatever its network was trained to output.

The denoised mean is the library's one currency. `OUTPUTS` is the one place where eps, v, x0, score, flow and
EDM outputs are told apart: mean = c_skip x_t + c_out output.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from deft.core.schedule import Rescaled, Schedule
from deft.errors import ContractError, InputError, unknown

Coefficient = Callable[[Tensor, Tensor], Tensor | float]
TimeMap = Callable[[Tensor, Tensor, Tensor], Tensor]


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

    def joined(self, other: Prediction) -> Prediction:
        """The rows of this, then those of another at the same level."""
        x, t, mean = (torch.cat([getattr(self, k), getattr(other, k)]) for k in ("x_t", "t", "mean"))
        shared = self.alpha.shape[0] == 1
        alpha, sigma = ((getattr(self, k) if shared else torch.cat([getattr(self, k), getattr(other, k)])) for k in ("alpha", "sigma"))
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


class Denoiser(nn.Module, ABC):
    """Anything that returns a `Prediction`: `denoiser(x_t, t)`, x_t [B, *E], t [B] or a scalar tensor."""

    schedule: Schedule
    event_shape: tuple[int, ...]

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
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def train(self: D, mode: bool = True) -> D:
        """As every module's, but for parts that have one mode alone (what torch.export makes): they stay as they are."""
        set_mode(self, mode)
        return self

    def parameter_count(self) -> int:
        """How many parameters the model has; an h is sized by it."""
        return sum(p.numel() for p in self.parameters())

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum as a user has it; `event_shape` unless the model lives in the latents of an autoencoder."""
        return self.event_shape

    def encode(self, x: Tensor) -> Tensor:
        """Data [B, *data_shape] as the model's samples [B, *E]."""
        return x

    def decode(self, z: Tensor) -> Tensor:
        """The model's samples [B, *E] as data [B, *data_shape]."""
        return z

    def inside(self, obs: Any) -> Any:
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
    "reverse-flow": (lambda a, s: 1 / (a + s), lambda a, s: s / (a + s)),
    "edm": (lambda a, s: a / (a**2 + s**2), lambda a, s: s * _edm_c_in(a, s)),
}
"""output kind -> (c_skip, c_out), functions of (alpha, sigma), with mean = c_skip x_t + c_out output.

eps = n; v = alpha n - sigma x_0 (Salimans & Ho 2022); flow = n - x_0 and reverse-flow = x_0 - n (Liu et al. 2023; Lipman
et al. 2023 let time run from noise to data); edm: the network F of Karras et al. 2022, eq. 7, for data of unit
standard deviation.
"""

TIMES: dict[str, TimeMap] = {
    "t": lambda t, a, s: t,
    "index": lambda t, a, s: t.round(),
    "999t": lambda t, a, s: 999 * t,
    "1000t": lambda t, a, s: 1000 * t,
    "1-t": lambda t, a, s: 1 - t,
    "sigma": lambda t, a, s: s / a,
    "log-sigma": lambda t, a, s: torch.log(s / a),
    "log-sigma/4": lambda t, a, s: torch.log(s / a) / 4,
    "log-snr": lambda t, a, s: 2 * torch.log(a / s),
}
"""name -> what a network is told about the noise, a function of (t, alpha, sigma), each [B].

t is the schedule's own time: an index (perhaps between two) for a table of betas, [0, 1] for the continuous ones, sigma for
EDM. alpha and sigma are the network's own, on the range it was trained on. index: for networks that look t up
in a table. 999t: VP networks of Song et al. 2021. log-sigma/4: c_noise of Karras et al. 2022, table 1.
"""


_MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)(t|\(1-t\))")


def time_map(name: str | TimeMap) -> TimeMap:
    """A row of `TIMES`, or N t or N (1 - t) for any number N ("500t", "1000(1-t)"), or the function itself.

    >>> float(time_map("500t")(torch.tensor(0.5), torch.tensor(1.0), torch.tensor(1.0)))
    250.0
    """
    if not isinstance(name, str):
        if not callable(name):
            raise InputError(f"time is a name ({', '.join(TIMES)}) or a function of (t, alpha, sigma), got {name!r}")
        return name
    if name in TIMES:
        return TIMES[name]
    found = _MULTIPLE.fullmatch(name)
    if found is None:
        raise unknown("time", name, [*TIMES, "1000(1-t)"])
    factor, falling = float(found[1]), found[2] != "t"
    return lambda t, a, s: factor * (1 - t) if falling else factor * t


def to_output(kind: str, x_t: Tensor, mean: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The network output of the given kind that stands for `mean`: the table read backwards."""
    c_skip, c_out = parametrisation(kind)
    return (mean - c_skip(alpha, sigma) * x_t) / c_out(alpha, sigma)


def parametrisation(kind: str) -> tuple[Coefficient, Coefficient]:
    if kind not in OUTPUTS:
        raise unknown("output kind", str(kind), OUTPUTS)
    return OUTPUTS[kind]


class NetworkDenoiser(Denoiser):
    """A network `net(x_in, time)` with a stated convention, as a denoiser of data in [-1, 1].

    Args:
        net: called as net(c_in x_t, time), returns [B, *E] (or [B, 2 C, ...] with `learned_variance`). A module, or any
            function of two tensors: then nothing is frozen or hashed, and the function must be one itself.
        schedule: alpha(t), sigma(t) the network was trained with, on data in `value_range`.
        event_shape: *E.
        output: a key of `OUTPUTS`.
        time: what the network is told about the noise: a name (see `time_map`), or a function of (t, alpha, sigma), each [B].
        scale_input: multiply x_t by c_in = 1/sqrt(d^2 alpha^2 + sigma^2) first (VE and EDM networks; 1 for VP and d = 1).
        value_range: the two numbers that stood for -1 and 1 in training; (0, 1) for images between 0 and 1.
        sigma_data: d, the deviation of the data for which an "edm" network is preconditioned; 0.5 in Karras et al.
        learned_variance: the network returns twice the channels; the second half is dropped.

    With c = (high - low)/2 and b = (high + low)/2 the network's data are x_0' = c x_0 + b. It sees x_t' = c x_t + alpha b, whose
    noise has deviation c sigma: for the outside world the schedule's sigma is divided by c (`Rescaled`).
    """

    def __init__(
        self,
        net: nn.Module | Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        event_shape: tuple[int, ...],
        output: str = "eps",
        *,
        time: str | TimeMap = "t",
        scale_input: bool = False,
        value_range: tuple[float, float] = (-1.0, 1.0),
        sigma_data: float = 1.0,
        learned_variance: bool = False,
    ):
        super().__init__()
        try:
            low, high = (float(v) for v in value_range)
        except (TypeError, ValueError):
            low = high = math.nan
        if not low < high or math.isinf(high - low):
            raise InputError(f"value_range must be two rising numbers, what stood for -1 and for 1; got {value_range}")
        if not isinstance(schedule, Schedule):
            raise InputError(f"schedule must be a deft.Schedule (VPTable(betas), VPCosine(), ...), got {schedule!r}")
        if not (isinstance(sigma_data, (int, float)) and 0 < sigma_data < math.inf):
            raise InputError(f"sigma_data must be a number above 0, got {sigma_data!r}")
        self._time: TimeMap = time_map(time)
        self.net = net if isinstance(net, nn.Module) else Function(net)
        self.inner_schedule, self.event_shape = schedule, tuple(event_shape)
        self.output, self.time, self.scale_input = output, time, scale_input
        self.value_range, self.sigma_data, self.learned_variance = (low, high), float(sigma_data), learned_variance
        self._coefficients = parametrisation(output)
        self._c, self._b = (high - low) / 2, (high + low) / 2
        self.schedule = schedule if self._c == 1 else Rescaled(schedule, 1 / self._c)
        self.register_buffer("_where", torch.empty(0), persistent=False)  # so that a bare function has a device, too

    def convention(self) -> dict[str, Any]:
        """The keyword arguments that say how the network is read; see `reread`."""
        return {
            "schedule": self.inner_schedule, "output": self.output, "time": self.time, "scale_input": self.scale_input,
            "value_range": self.value_range, "sigma_data": self.sigma_data, "learned_variance": self.learned_variance,
        }  # fmt: skip

    def reread(self, **changes: Any) -> NetworkDenoiser:
        """The same network under another convention."""
        out = NetworkDenoiser(self.net, event_shape=self.event_shape, **(self.convention() | changes))
        out.card = dict(self.card)
        return out.train(self.training)

    def describe(self) -> dict[str, Any]:
        about = {"schedule": self.inner_schedule.name, "settings": self.inner_schedule.config(), "output": self.output}
        usual = {"time": "t", "scale_input": False, "value_range": (-1.0, 1.0), "sigma_data": 1.0}
        now = {k: getattr(self, k) for k in usual}
        now["time"] = self.time if isinstance(self.time, str) else getattr(self.time, "__name__", "a function")
        return about | {k: v for k, v in now.items() if v != usual[k]}

    def raw(
        self, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, net: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> Tensor:
        """The network's own output, [B, *E], for x_t and sigma as the outside world sees them; t [B].

        net: asked in the network's place, in the same convention (an adapted copy of it).
        """
        x, s = self._inside(x_t, alpha, sigma)
        x_in = x * (self.sigma_data**2 * alpha**2 + s**2).rsqrt() if self.scale_input else x
        time = self._time(t, alpha.reshape(-1).expand(t.shape), s.reshape(-1).expand(t.shape))
        own = next(self.net.parameters(), x).dtype
        out = (net or self.net)(x_in.to(own), time.to(own) if own == torch.float64 else time).to(x.dtype)
        out = out[:, : x.shape[1]] if self.learned_variance else out
        if out.shape != x.shape:
            raise ContractError(f"the network returns {tuple(out.shape)} for x_t of shape {tuple(x.shape)}: what it returns must have that shape (with learned_variance twice the channels)")
        return out

    def _inside(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and sigma on the network's own range."""
        if self._c == 1 and self._b == 0:
            return x_t, sigma
        return self._c * x_t + alpha * self._b, self._c * sigma

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        t, alpha, sigma = self.coefficients(t, x_t)
        out = self.raw(x_t, t, alpha, sigma)
        # a network that lets no gradient through has half a derivative, by c_skip: none at all is what the others can tell
        like = x_t.detach() if x_t.requires_grad and not out.requires_grad else x_t
        return Prediction(x_t, t, alpha, sigma, self.mean_of(out, like, alpha, sigma))

    def mean_of(self, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x_t] that the network's output stands for."""
        c_skip, c_out = self._coefficients
        x, s = self._inside(x_t, alpha, sigma)
        if self.output == "edm" and self.sigma_data != 1:  # x_0' = d u with u of unit deviation: x_t' = (d alpha) u + s n
            d, a = self.sigma_data, self.sigma_data * alpha
            mean = d * (c_skip(a, s) * x + c_out(a, s) * out)
        else:
            mean = c_skip(alpha, s) * x + c_out(alpha, s) * out
        return mean if x is x_t else (mean - self._b) / self._c


class Function(nn.Module):
    """A function of (x, time) as a module without weights."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.function(x, time)


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


def set_mode(module: nn.Module, mode: bool) -> None:
    """Training or evaluation mode of a module and its parts. A part whose `train` says it is not implemented (the graph of
    an ExportedProgram, which was traced in one mode) is left in its own."""
    module.training = mode
    for child in module.children():
        try:
            child.train(mode)
        except NotImplementedError:
            set_mode(child, mode)


def freeze(denoiser: Denoiser) -> Denoiser:
    """Evaluation mode, no gradients, never in an optimiser; returned for chaining."""
    return denoiser.eval().requires_grad_(False)


def fingerprint(denoiser: Denoiser) -> str:
    """Which prior this is: see `Denoiser.fingerprint`."""
    return denoiser.fingerprint()
