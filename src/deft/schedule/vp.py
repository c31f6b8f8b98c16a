"""Variance preserving schedules: alpha^2 + sigma^2 = 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deft.core.schedule import Schedule
from deft.errors import InputError


class VPLinear(Schedule):
    """Variance preserving, beta(t) = beta_0 + t (beta_1 - beta_0) on [0, 1] (Song et al. 2021b, eq. 32).

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

    >>> import deft
    >>> s = deft.VPCosine(bound=10.0)
    >>> s.log_snr(torch.tensor([0.0, 1.0])).round(decimals=3).tolist()
    [10.0, -10.0]
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

    >>> import deft
    >>> s = deft.VPTable.linear(1000)
    >>> s.alpha(torch.tensor([0.0, 500.0, 999.0])).round(decimals=3), s.max_steps
    (tensor([1.0000, 0.2790, 0.0060]), 1000)
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

    def __getstate__(self) -> dict[str, Any]:
        """Without the copies of the table on other devices."""
        return {k: v for k, v in vars(self).items() if k != "_tables"}

    def _at(self, t: Tensor) -> Tensor:
        low = t.floor().clamp(0, self.t_max - 1)
        i, tables = low.long(), vars(self).setdefault("_tables", {})
        if t.device not in tables:
            tables[t.device] = self._logit.to(t.device)
        table = tables[t.device]
        return table[i] + (t - low) * (table[i + 1] - table[i])

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(-self._at(t)) / 2

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(self._at(t)) / 2
