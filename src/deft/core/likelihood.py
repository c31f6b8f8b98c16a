"""Likelihoods p(y | x_0), and the observation that carries y together with everything known about it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from operator import index as operator_index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.core.autodiff import again, pullback
from deft.core.random import BatchNoise, Noise
from deft.errors import InputError


class Likelihood(ABC):
    """p(y | x_0) of measurements y [B, *M] given samples x_0 [B, *E]."""

    lift_channels: int = 1

    @abstractmethod
    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        """Draw y ~ p(y | x), [B, *M]."""

    @abstractmethod
    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y | x), [B], differentiable in x."""

    def score(self, y: Tensor, x: Tensor) -> Tensor:
        """grad_x log p(y | x), [B, *E]; by automatic differentiation unless a subclass knows better."""
        x = x if again(x) else x.detach()
        with torch.enable_grad():
            return pullback(lambda v: self.log_prob(y, v).sum().to(v.dtype), x, x.new_ones(()))

    def pull(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        """How far a belief N(x, rho2 I) moves when it is updated by y, [B, *E]: a bounded, preconditioned score.

        rho2: [B, 1, ...]. Here rho2 times the score; a subclass that knows its curvature does better.
        """
        return rho2 * self.score(y, x)

    def mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        """The mean of N(x, rho2 I) given y, less x, [B, *E]: exact where there is a closed form (Gaussian noise on a linear A), else `pull`.

        Methods whose definition has such a step take this; `pull` is what learned h are shown, and may be cheaper (CT).
        """
        return self.pull(y, x, rho2)

    @abstractmethod
    def lift(self, y: Tensor) -> Tensor:
        """What a network is shown of y, shaped like samples: [B, lift_channels * E_0, ...]."""

    def picture(self, y: Tensor) -> Tensor:
        """y for people to look at, shaped like a sample, [B, *E]."""
        raise InputError(f"a measurement of {type(self).__name__} is nothing to look at")

    def __getitem__(self, index: Any) -> Likelihood:
        return self

    def repeat(self, n: int) -> Likelihood:
        return self

    def to(self, device: torch.device | str) -> Likelihood:
        return self


class Observation:
    """A batch of measurements y [B, *M] with the likelihood they came from. Immutable.

    `obs[i]`, `obs[i:j]`, `for one in obs`, `obs.repeat(n)` (each row n times in turn) and `obs.to(device)` move y, operator,
    masks and noise level together; nothing is ever set on a likelihood. Copies and pickles like any value.

    y: a tensor, or a NumPy array, which becomes one. Whether it fits a prior is checked where the two meet (`fitted_to`).
    """

    __slots__ = ("_lifted", "likelihood", "y")
    y: Tensor
    likelihood: Likelihood
    _lifted: Tensor | None

    def __init__(self, y: Tensor, likelihood: Likelihood, lifted: Tensor | None = None):
        object.__setattr__(self, "y", as_tensor(y, "y"))
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "_lifted", lifted)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an Observation is immutable: make a new one")

    def __len__(self) -> int:
        return self.y.shape[0]

    def __iter__(self) -> Iterator[Observation]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Observation, (self.y, self.likelihood)

    def __repr__(self) -> str:
        operator = getattr(self.likelihood, "operator", None)
        what = type(self.likelihood).__name__ + ("" if operator is None else f" of {type(operator).__name__}")
        return f"Observation(y {tuple(self.y.shape)}, {what})"

    def __getitem__(self, index: Any) -> Observation:
        """Some rows, as a batch: by a number, a slice, a list, or a tensor of numbers or truth values."""
        if isinstance(index, tuple) or index is None or index is Ellipsis:
            raise InputError(f"an Observation is indexed by rows alone, got {index!r}: take obs.y for parts of a measurement")
        if not isinstance(index, (slice, list, Tensor)) and not (hasattr(index, "ndim") and index.ndim):
            i = operator_index(index)
            if not -len(self) <= i < len(self):
                raise IndexError(f"row {i} of {len(self)} measurements")
            index = slice(i, i + 1 or None)
        return Observation(self.y[index], self.likelihood[index], None if self._lifted is None else self._lifted[index])

    def fingerprint(self) -> str:
        """SHA-256 of y and of every tensor that was drawn for it (`Operator.drawn`, without `Operator.settings`), as float32.

        >>> import torch
        >>> from deft import Gaussian, Identity
        >>> obs = Observation(torch.zeros(1, 1, 2, 2), Gaussian(Identity(), 0.1))
        >>> obs.fingerprint() == obs.repeat(1).fingerprint()
        True
        """
        found = hashlib.sha256(_bytes(self.y))
        operator = getattr(self.likelihood, "operator", None)
        for _, value in [] if operator is None else operator.drawn(settings=False):
            found.update(_bytes(value))
        return found.hexdigest()

    def repeat(self, n: int) -> Observation:
        lifted = None if self._lifted is None else self._lifted.repeat_interleave(n, 0)
        return Observation(self.y.repeat_interleave(n, 0), self.likelihood.repeat(n), lifted)

    def to(self, device: torch.device | str) -> Observation:
        return Observation(self.y.to(device), self.likelihood.to(device), None if self._lifted is None else self._lifted.to(device))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(y | x), [B]."""
        return self.likelihood.log_prob(self.y, x)

    def score(self, x: Tensor) -> Tensor:
        """grad_x log p(y | x), [B, *E]."""
        return self.likelihood.score(self.y, x)

    def lift(self) -> Tensor:
        """The network's view of y, [B, lift_channels * E_0, ...]; computed once, and it follows the rows."""
        if self._lifted is None:
            object.__setattr__(self, "_lifted", self.likelihood.lift(self.y))
        assert self._lifted is not None
        return self._lifted


def as_tensor(value: Any, name: str) -> Tensor:
    """A tensor as it is, a NumPy array as one (of this machine's byte order)."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubc":
        kept = {"longdouble": np.float64, "clongdouble": np.complex128}.get(value.dtype.name, value.dtype.newbyteorder("="))
        kept = np.float64 if value.dtype.itemsize > 8 and value.dtype.kind == "f" else kept
        return torch.from_numpy(np.ascontiguousarray(value, dtype=kept))
    raise InputError(f"{name} is {type(value).__name__}, expected a tensor [B, ...] of measurements")


def _bytes(value: Tensor) -> bytes:
    value = value.detach().cpu()
    return (torch.view_as_real(value) if value.is_complex() else value).float().contiguous().numpy().tobytes()
