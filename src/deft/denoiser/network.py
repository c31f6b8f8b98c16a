"""Denoisers made of a network with a stated convention, or of a function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser, Prediction
from deft.core.schedule import Rescaled, Schedule
from deft.denoiser.parametrisation import TimeMap, parametrisation, time_map
from deft.errors import ContractError, InputError
from deft.nn.padding import PADDING, Padded
from deft.tensors import as_shape


class NetworkDenoiser(Denoiser):
    """A network `net(x_in, time)` with a stated convention, as a denoiser of data in [-1, 1].

    Args:
        net: called as net(c_in x_t, time), returns [B, *E] (or [B, 2 C, ...] with `learned_variance`). A module, or any
            function of two tensors: then nothing is frozen or hashed, and the function must be one itself.
        schedule: alpha(t), sigma(t) the network was trained with, on data in `value_range`.
        event_shape: *E.
        output: a key of `OUTPUTS`.
        time: what the network is given about the noise: a name (see `time_map`), or a function of (t, alpha, sigma),
            each [B].
        scale_input: multiply x_t by c_in = 1/sqrt(d^2 alpha^2 + sigma^2) first (VE and EDM networks; 1 for VP and d =
            1).
        value_range: the two numbers that stood for -1 and 1 in training; (0, 1) for images between 0 and 1.
        sigma_data: d, the deviation of the data for which an "edm" network is preconditioned; 0.5 in Karras et
            al. 2022.
        learned_variance: the network returns twice the channels; the second half is dropped.

    With c = (high - low)/2 and b = (high + low)/2 the network's data are x_0' = c x_0 + b. It sees x_t' = c x_t + alpha
    b, whose noise has deviation c sigma: for the outside world the schedule's sigma is divided by c (`Rescaled`).

    >>> import deft
    >>> net = lambda x, time: torch.zeros_like(x)  # E[v | x_t] of data N(0, I)
    >>> prior = deft.NetworkDenoiser(net, deft.VPCosine(), (2,), output="v")
    >>> prior(torch.ones(1, 2), torch.tensor(0.5)).mean
    tensor([[0.7071, 0.7071]])
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
        self.inner_schedule, self.event_shape = schedule, as_shape(event_shape)
        self.output, self.time, self.scale_input = output, time, scale_input
        self.value_range, self.sigma_data, self.learned_variance = (low, high), float(sigma_data), learned_variance
        self._coefficients = parametrisation(output)
        self._c, self._b = (high - low) / 2, (high + low) / 2
        self.schedule = schedule if self._c == 1 else Rescaled(schedule, 1 / self._c)
        self.register_buffer("_where", torch.empty(0), persistent=False)  # so that a bare function has a device, too

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: the names of time and output, not the functions they stand for."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_time", "_coefficients")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._time, self._coefficients = time_map(self.time), parametrisation(self.output)

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

    @property
    def rows_per_call(self) -> int:
        """Rows of the network for each row of x_t: two under classifier-free guidance."""
        return int(getattr(self.net, "rows_per_call", 1))

    def describe(self) -> dict[str, Any]:
        about = {"schedule": self.inner_schedule.name, "settings": self.inner_schedule.config(), "output": self.output}
        usual = {"time": "t", "scale_input": False, "value_range": (-1.0, 1.0), "sigma_data": 1.0}
        now = {k: getattr(self, k) for k in usual}
        now["time"] = self.time if isinstance(self.time, str) else getattr(self.time, "__name__", "a function")
        about |= {"padding": PADDING} if isinstance(self.net, Padded) else {}
        return about | {k: v for k, v in now.items() if v != usual[k]} | getattr(self.net, "stated", {})

    def raw(
        self,
        x_t: Tensor,
        t: Tensor,
        alpha: Tensor,
        sigma: Tensor,
        net: Callable[[Tensor, Tensor], Tensor] | None = None,
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
            raise ContractError(
                f"the network returns {tuple(out.shape)} for x_t of shape {tuple(x.shape)}: what it returns must have"
                " that shape (with learned_variance twice the channels)"
            )
        return out

    def _inside(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and sigma on the network's own range."""
        if self._c == 1 and self._b == 0:
            return x_t, sigma
        return self._c * x_t + alpha * self._b, self._c * sigma

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        t, alpha, sigma = self.coefficients(t, x_t)
        out = self.raw(x_t, t, alpha, sigma)
        # a network that lets no gradient through has half a derivative, by c_skip: none at all is what the others can
        # tell
        like = x_t.detach() if x_t.requires_grad and not out.requires_grad else x_t
        return Prediction(x_t, t, alpha, sigma, self.mean_of(out, like, alpha, sigma))

    def mean_of(self, out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x_t] that the network's output stands for."""
        c_skip, c_out = self._coefficients
        x, s = self._inside(x_t, alpha, sigma)
        # x_0' = d u with u of unit deviation: x_t' = (d alpha) u + s n
        if self.output == "edm" and self.sigma_data != 1:
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
    """A denoiser from a function mean(x_t, alpha, sigma): closed-form priors, tests, other libraries.

    >>> import deft
    >>> prior = deft.MeanDenoiser(lambda x, alpha, sigma: alpha * x, deft.VPCosine(), (2,))  # data N(0, I)
    >>> x = deft.sample(prior, 1000)
    >>> x.mean().abs() < 0.1, (x.std() - 1).abs() < 0.1
    (tensor(True), tensor(True))
    """

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
