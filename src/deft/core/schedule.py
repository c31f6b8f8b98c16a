"""Noise schedules: x_t = alpha_t x_0 + sigma_t n, with n standard normal.

A schedule is nothing but the two functions alpha(t) and sigma(t); everything else in the library (kernels,
guidance, objectives) is written in terms of them. Times run from `t_max` (noise) down to `t_min` (data), on
the schedule's own scale: [0, 1] for the continuous ones, 0..N-1 for a table, sigma itself for EDM.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deft.errors import InputError, unknown


class Schedule(ABC):
    """alpha(t) >= 0 and sigma(t) >= 0, computed in float64 and cast back to the dtype of t.

    `config()` returns the constructor's arguments, so that a checkpoint can name its schedule.
    """

    name: str
    t_min: float = 0.0
    t_max: float = 1.0
    max_steps: int | None = None

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha_t of a float64 t."""

    @abstractmethod
    def log_sigma(self, t: Tensor) -> Tensor:
        """log sigma_t of a float64 t."""

    def config(self) -> dict[str, Any]:
        return {}

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_alpha(t.double())).to(_float(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.exp(self.log_sigma(t.double())).to(_float(t))

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_t^2 / sigma_t^2), falling in t."""
        t = t.double()
        return 2 * (self.log_alpha(t) - self.log_sigma(t))

    def training_time(self, u: Tensor) -> Tensor:
        """The training distribution of t, as a function of u uniform on [0, 1]: uniform over the range."""
        return self.t_min + u * (self.t_max - self.t_min)

    def time_of(self, log_snr: Tensor) -> Tensor:
        """The t with the given log(alpha^2/sigma^2), by bisection (float64; clipped to the range)."""
        target = log_snr.double()
        low = torch.full_like(target, self.t_min)
        high = torch.full_like(target, self.t_max)
        for _ in range(64):
            middle = (low + high) / 2
            too_clean = self.log_snr(middle) > target
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return (low + high) / 2

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={v!r}" for k, v in self.config().items() if not isinstance(v, (list, tuple)))
        return f"{type(self).__name__}({inside})"


def _float(t: Tensor) -> torch.dtype:
    return t.dtype if t.is_floating_point() else torch.float32


class VPLinear(Schedule):
    """Variance preserving, beta(t) = beta_0 + t (beta_1 - beta_0) on [0, 1] (Song et al. 2021, eq. 32).

    alpha_t = exp(-B/2), sigma_t^2 = 1 - exp(-B), B = beta_0 t + (beta_1 - beta_0) t^2 / 2: the convention
    dx = -(beta/2) x dt + sqrt(beta) dW of the DEFT paper's appendix A.

    >>> s = VPLinear()
    >>> t = torch.tensor([0.3, 1.0])
    >>> torch.allclose(s.alpha(t) ** 2 + s.sigma(t) ** 2, torch.ones(2))
    True
    """

    name = "vp-linear"

    def __init__(self, beta_0: float = 0.1, beta_1: float = 20.0):
        if not 0 < beta_0 <= beta_1:
            raise InputError(f"VPLinear needs 0 < beta_0 <= beta_1, got {beta_0} and {beta_1}")
        self.beta_0, self.beta_1 = beta_0, beta_1

    def config(self) -> dict[str, Any]:
        return {"beta_0": self.beta_0, "beta_1": self.beta_1}

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_0 * t + (self.beta_1 - self.beta_0) * t**2 / 2

    def log_alpha(self, t: Tensor) -> Tensor:
        return -self._integral(t) / 2

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(-torch.expm1(-self._integral(t))) / 2


class VPCosine(Schedule):
    """Variance preserving, alpha = cos(pi u/2), sigma = sin(pi u/2) (Nichol & Dhariwal 2021; Salimans & Ho 2022).

    u is t mapped to the range in which |log SNR| <= `bound`, so that both ends are finite.
    """

    name = "vp-cosine"

    def __init__(self, bound: float = 10.0):
        if not bound > 0:
            raise InputError(f"VPCosine needs bound > 0 (the largest |log SNR|), got {bound}")
        self.bound = bound
        self._low = math.atan(math.exp(-bound / 2))
        self._high = math.atan(math.exp(bound / 2))

    def config(self) -> dict[str, Any]:
        return {"bound": self.bound}

    def _angle(self, t: Tensor) -> Tensor:
        return self._low + t * (self._high - self._low)

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log(torch.cos(self._angle(t)))

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(torch.sin(self._angle(t)))


class VPTable(Schedule):
    """Variance preserving from a table of N betas, as DDPM checkpoints come (Ho, Jain & Abbeel 2020).

    t is the table's index, 0..N-1; between indices log(1 - abar) - log abar is interpolated linearly.
    """

    name = "vp-table"

    def __init__(self, betas: Sequence[float]):
        b = torch.as_tensor(betas, dtype=torch.float64)
        if b.ndim != 1 or len(b) < 2 or not bool(((b > 0) & (b < 1)).all()):
            raise InputError(f"VPTable needs a list of at least 2 betas in (0, 1), got shape {tuple(b.shape)}")
        self.betas = b
        log_abar = torch.log1p(-b).cumsum(0)
        self._logit = torch.log(-torch.expm1(log_abar)) - log_abar  # -log SNR at each index
        self.t_max = float(len(b) - 1)
        self.max_steps = len(b)

    @classmethod
    def linear(cls, n: int = 1000, first: float = 1e-4, last: float = 2e-2) -> VPTable:
        """The table of DDPM and ADM: n betas from 1e-4 to 2e-2."""
        return cls(torch.linspace(first, last, n, dtype=torch.float64).tolist())

    def config(self) -> dict[str, Any]:
        return {"betas": self.betas.tolist()}

    def _at(self, t: Tensor) -> Tensor:
        low = t.floor().clamp(0, self.t_max - 1)
        i = low.long().cpu()
        table = self._logit
        return table[i].to(t.device) + (t - low) * (table[i + 1] - table[i]).to(t.device)

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(-self._at(t)) / 2

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(self._at(t)) / 2


class VE(Schedule):
    """Variance exploding: alpha = 1, sigma geometric from sigma_min to sigma_max on [0, 1] (Song et al. 2021)."""

    name = "ve"

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        if not 0 < sigma_min < sigma_max:
            raise InputError(f"VE needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def config(self) -> dict[str, Any]:
        return {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max}

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        return math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min)


class EDM(Schedule):
    """alpha = 1 and t = sigma itself, from sigma_min to sigma_max (Karras et al. 2022, table 1).

    mean, deviation: of log sigma in training.
    """

    name = "edm"

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, mean: float = -1.2, deviation: float = 1.2):
        if not 0 < sigma_min < sigma_max:
            raise InputError(f"EDM needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        if not deviation > 0:
            raise InputError(f"EDM needs deviation > 0, got {deviation}")
        self.t_min, self.t_max, self.mean, self.deviation = sigma_min, sigma_max, mean, deviation

    def config(self) -> dict[str, Any]:
        """mean and deviation are named only if they are not the paper's: a prior's fingerprint has what is here."""
        usual = self.mean == -1.2 and self.deviation == 1.2
        about = {"sigma_min": self.t_min, "sigma_max": self.t_max}
        return about if usual else about | {"mean": self.mean, "deviation": self.deviation}

    def training_time(self, u: Tensor) -> Tensor:
        """log sigma normal, with mean -1.2 and deviation 1.2 in Karras et al. 2022 (table 1), cut to the range."""
        normal = math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-9, 1 - 1e-9))
        return torch.exp(self.mean + self.deviation * normal).clamp(self.t_min, self.t_max)

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(t)


class RectifiedFlow(Schedule):
    """alpha = 1 - t, sigma = t (Liu et al. 2023; Lipman et al. 2023).

    At t = 1 the state holds no trace of x_0 and the score of p(y | x_1) vanishes while its weight diverges,
    so the range stops at `1 - margin`: there the signal is 60 dB below the noise.
    """

    name = "flow"

    def __init__(self, margin: float = 1e-3):
        if not 0 < margin < 1:
            raise InputError(f"RectifiedFlow needs 0 < margin < 1, got {margin}")
        self.margin = margin
        self.t_max = 1.0 - margin

    def config(self) -> dict[str, Any]:
        return {"margin": self.margin}

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log1p(-t)

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(t)


class Rescaled(Schedule):
    """Another schedule with its sigma multiplied by `scale`: the same process, seen on data divided by 1/scale.

    A network trained on images in [0, 1] sees half the contrast: on [-1, 1] its noise is twice as large.
    """

    name = "rescaled"

    def __init__(self, inner: Schedule, scale: float):
        if not scale > 0:
            raise InputError(f"Rescaled needs a scale above 0, got {scale}")
        self.inner, self.scale = inner, scale
        self.t_min, self.t_max, self.max_steps = inner.t_min, inner.t_max, inner.max_steps

    def config(self) -> dict[str, Any]:
        return {"inner": {"name": self.inner.name, **self.inner.config()}, "scale": self.scale}

    def training_time(self, u: Tensor) -> Tensor:
        return self.inner.training_time(u)

    def log_alpha(self, t: Tensor) -> Tensor:
        return self.inner.log_alpha(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        return self.inner.log_sigma(t) + math.log(self.scale)


SCHEDULES: dict[str, type[Schedule]] = {
    c.name: c for c in (VPLinear, VPCosine, VPTable, VE, EDM, RectifiedFlow)
}
"""Name -> class, read by the checkpoints and by the conformance tests."""


def make_schedule(config: dict[str, Any]) -> Schedule:
    """A schedule from {"name": ..., **config()}, as found in a card.

    >>> make_schedule({"name": "vp-linear", "beta_0": 0.1, "beta_1": 20.0})
    VPLinear(beta_0=0.1, beta_1=20.0)
    """
    options = dict(config)
    name = options.pop("name", "")
    if name == Rescaled.name:
        return Rescaled(make_schedule(options["inner"]), options["scale"])
    if name not in SCHEDULES:
        raise unknown("schedule", str(name), SCHEDULES)
    return SCHEDULES[name](**options)
