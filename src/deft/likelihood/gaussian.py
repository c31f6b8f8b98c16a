"""y = A(x) + sigma_y n, and what methods require whose formulas are made for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deft.core.likelihood import Decoder, Likelihood, Observation, per_row
from deft.core.operator import LinearOperator, Operator
from deft.core.random import BatchNoise, Noise
from deft.errors import InputError
from deft.operator.image import Mask
from deft.operator.latent import Decoded
from deft.tensors import PerRow


class Gaussian(Likelihood):
    """p(y | x) = N(y; A(x), sigma_y^2 I) over the entries that were measured.

    Args:
        operator: A.
        sigma_y: standard deviation of the noise, in the units of y (for images in [-1, 1], so 0.1 is 12.8 grey
            levels of 255): a number, or a tensor [B] or [1].
        surrogate: the deviation that stands in for sigma_y = 0 in `log_prob`, `score` and `approx_mean_update`; a
            noiseless measurement has no density, so a method that wants one is told this one, and says so.

    >>> import deft
    >>> like = deft.Gaussian(deft.Mask(torch.tensor([[1.0, 0.0]])), sigma_y=0.5)
    >>> y, x = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    >>> like.score(y, x), like.log_prob(y, x)
    (tensor([[4., 0.]]), tensor([-2.2258]))
    """

    operator: Operator
    per_sample = ("sigma_y",)

    def __init__(self, operator: Operator, sigma_y: PerRow = 0.0, *, surrogate: float = 0.02):
        sigma = torch.as_tensor(sigma_y, dtype=torch.get_default_dtype()).reshape(-1)
        if not bool(((sigma >= 0) & sigma.isfinite()).all()) or not 0 < surrogate < math.inf:
            raise InputError(f"sigma_y must be finite and >= 0, and surrogate > 0, got {sigma_y} and {surrogate}")
        self.operator, self.sigma_y, self.surrogate = operator, sigma, surrogate

    @property
    def deviation(self) -> Tensor:
        """sigma_y, or the surrogate where it is 0: [B] or [1]."""
        return torch.where(self.sigma_y > 0, self.sigma_y, self.surrogate)

    def rows_without_noise(self) -> tuple[bool, bool]:
        """Whether sigma_y is 0 in some row, and in all. A GPU is asked once: its answer takes all that it still has to
        do."""
        known = vars(self).get("_without_noise")
        if known is None or known[0] is not self.sigma_y:  # other rows have another tensor
            zero = self.sigma_y == 0
            known = vars(self)["_without_noise"] = (self.sigma_y, bool(zero.any()), bool(zero.all()))
        return known[1], known[2]

    def _follow(
        self, part: Callable[[Any], Any], tensor: Callable[[Tensor], Tensor], names: tuple[str, ...]
    ) -> Gaussian:
        out = super()._follow(part, tensor, names)
        if self.sigma_y.device.type == "cpu" or "_without_noise" in vars(self):
            some, every = self.rows_without_noise()
            if some == every:  # of some of the rows, too, and wherever they go
                vars(out)["_without_noise"] = (out.sigma_y, some, every)
        return out

    def noise_sigma(self, y: Tensor, x: Tensor) -> Tensor:
        """sigma_y, or its surrogate."""
        return per_row(self.deviation, y)

    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        y = self.operator(x)
        n = noise.normal(y.shape[1:], device=y.device).to(y.dtype)
        return self.operator.measured_part(y + per_row(self.sigma_y, y) * n)

    def residual(self, y: Tensor, x: Tensor) -> Tensor:
        """y - A(x), zero where nothing was measured."""
        return self.operator.measured_part(y - self.operator(x))

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        sigma = self.deviation.to(y)
        squares = self.residual(y, x).square().flatten(1).sum(1)
        return -squares / (2 * sigma**2) - self.operator.number_of_measurements(y) * (
            sigma.log() + 0.5 * math.log(2 * math.pi)
        )

    def score(self, y: Tensor, x: Tensor) -> Tensor:
        r = self.residual(y, x)
        return self.operator.vjp(x, r / per_row(self.deviation, r) ** 2)

    def approx_mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        r = self.residual(y, x)
        return self.operator.approx_mean_update(x, r, per_row(self.deviation, r) ** 2, rho2)

    def mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        r = self.residual(y, x)
        return self.operator.mean_update(x, r, per_row(self.deviation, r) ** 2, rho2)

    def log_predictive(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        """For a linear A log N(y; A x, sigma_y^2 I + rho2 A A^T); for others log p(y | x) divided by 1 + rho2 /
        sigma_y^2."""
        s2 = self.deviation.to(x) ** 2
        if not isinstance(self.operator, LinearOperator):
            return s2 / (s2 + rho2.reshape(-1)) * self.log_prob(y, x)
        r = self.residual(y, x)
        u = self.operator.solve(r.detach(), per_row(s2, r), per_row(rho2.reshape(-1), r))
        # the value is -r.u/2, the gradient -J_r^T u: nothing is differentiated through the solve
        return (-r * u + 0.5 * r.detach() * u).flatten(1).sum(1)

    def rescaled(self, y: Tensor, scale: float, offset: float, event_shape: Sequence[int]) -> Tensor | None:
        """scale y + A(offset) for a linear A: its noise is `scale` times as large, too."""
        if not isinstance(self.operator, LinearOperator):
            return None
        return self.operator.measured_part(
            scale * y + self.operator(torch.full((len(y), *event_shape), offset, dtype=y.dtype))
        )

    def tempered(self, beta: float) -> Gaussian:
        """Gaussian again, of deviation sigma_y / sqrt(beta)."""
        if not beta > 0:
            raise InputError(f"beta is a power above 0, got {beta}")
        return self if beta == 1 else self._with(self.operator, self.deviation / beta**0.5)

    def after(self, decoder: Decoder) -> Gaussian:
        """Gaussian again, of the operator `Decoded`."""
        return self._with(Decoded(self.operator, decoder.autoencoder, decoder.gradient, decoder.gain), self.sigma_y)

    def _with(self, operator: Operator, sigma_y: Tensor) -> Gaussian:
        out = copy.copy(self)  # a subclass stays what it is
        out.operator, out.sigma_y = operator, sigma_y
        return out


class Requirement(NamedTuple):
    """words: what a method needs of a likelihood. why: the formula that asks for it. met: whether a likelihood has
    it."""

    words: str
    why: str
    met: Callable[[Likelihood], bool]


def _operator_is(kind: type, likelihood: Likelihood) -> bool:
    return isinstance(likelihood, Gaussian) and isinstance(likelihood.operator, kind)


REQUIREMENTS = {
    "measurement": Requirement("any measurement", "", lambda like: True),
    "likelihood": Requirement(
        "a likelihood p(y | x)",
        "it follows its value or its gradient",
        lambda like: like.has_density,
    ),
    "gaussian": Requirement(
        "Gaussian noise", "its formula has the variance sigma_y^2 in it", lambda like: isinstance(like, Gaussian)
    ),
    "linear": Requirement(
        "a linear measurement with Gaussian noise",
        "its step is the mean of a Gaussian posterior, or a pseudo-inverse",
        lambda like: _operator_is(LinearOperator, like),
    ),
    "projection": Requirement(
        "a mask, or another orthogonal projection, with Gaussian noise",
        "it compares x_t with a noised y, which must live where samples do",
        lambda like: isinstance(like, Gaussian) and like.operator.projection,
    ),
    "mask": Requirement(
        "a mask (some of the sample's own numbers, with Gaussian noise)",
        "it writes y into the sample",
        lambda like: _operator_is(Mask, like),
    ),
}
"""What methods ask of a likelihood by what it is, because their mathematics is that of Gaussian noise; all others ask
by what it can do."""


def why_unsupported(likelihood: Likelihood, needs: str, who: str) -> str | None:
    """One line why `who` cannot be used with a likelihood, or None. needs: a name of `REQUIREMENTS`."""
    words, why, met = REQUIREMENTS[needs]
    if met(likelihood):
        return None
    if not likelihood.has_density:
        return (
            f"{who} needs to know how y was made (the operator and its noise), and this degradation is known from pairs"
            " alone: take the fitted h, or the prior alone"
        )
    return f"{who} needs {words}, got {likelihood.kind}: {why}"


def requires(obs: Observation | Likelihood, needs: str, who: str) -> Gaussian:
    """The likelihood, if it is of the kind that a method's formula is made for.

    Raises:
        InputError: it is not; the line names the method, and says why it asks.
    """
    likelihood = obs.likelihood if isinstance(obs, Observation) else obs
    if reason := why_unsupported(likelihood, needs, who):
        raise InputError(reason)
    assert isinstance(likelihood, Gaussian)
    return likelihood


def gaussian(obs: Observation | Likelihood, who: str) -> Gaussian:
    """`requires(obs, "gaussian", who)`."""
    return requires(obs, "gaussian", who)


def linear(obs: Observation | Likelihood, who: str) -> tuple[Gaussian, LinearOperator]:
    """`requires(obs, "linear", who)` with its operator."""
    likelihood = requires(obs, "linear", who)
    assert isinstance(likelihood.operator, LinearOperator)
    return likelihood, likelihood.operator


def noise_variance(likelihood: Gaussian, r: Tensor) -> Tensor:
    """sigma_y^2 (or its surrogate) of each sample, to broadcast against r [B, *M]."""
    return per_row(likelihood.deviation, r) ** 2
