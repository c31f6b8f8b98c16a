"""Denoising objectives: regress E[x_0 | x_t] for a prior, E[x_0 | x_t, y] for an h-transform.

DEFT's objective (paper, Theorem 3.1 (2) and eq. 10) in the library's currency: with x_t = alpha x_0 + sigma n,

    loss = E w(alpha, sigma) || mean(x_t) + (sigma^2/alpha) h(x_t, y) - x_0 ||^2 / dim,

whose minimiser over h is grad log p_t(y | x_t) plus the prior's own error. The paper's uniform eps loss is
w = alpha^2/sigma^2. The frozen prior is only evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser, Prediction
from deft.core.random import BatchNoise
from deft.core.schedule import Schedule
from deft.denoiser import NetworkDenoiser
from deft.denoiser.parametrisation import to_output
from deft.errors import InputError, unknown
from deft.learned.deft import LOWEST
from deft.train.protocols import Batch, Loss

WEIGHTINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "eps": lambda a, s: a**2 / s**2,
    "v": lambda a, s: (a**2 + s**2) / s**2,
    "x0": lambda a, s: torch.ones_like(a),
    "between": lambda a, s: ((a**2 + s**2) / s**2).sqrt(),
}
"""name -> w(alpha, sigma) on the squared error of the denoised mean. eps is the paper's; v = eps / alpha^2 (VP);
between is the geometric mean of v and x0."""

EVEN = (LOWEST, 3.0)
"""log(sigma/alpha) between which data of order one takes shape."""


def draw_times(schedule: Schedule, noise: BatchNoise, focus: float = 1.0, even: float = 0.0) -> Tensor:
    """B times, one in each of B equal slices of the distribution: less variance than iid (after Kingma et al. 2021).

    focus: 1 is the schedule's training distribution; above 1 the density of its quantile u is focus u^(focus - 1):
        more high noise.
    even: this share of the draws is spread evenly over log(sigma/alpha) instead, in `EVEN` (as far as the schedule
        goes).
    """
    if not focus > 0 or not 0 <= even <= 1:
        raise InputError(f"focus must be above 0 and even between 0 and 1, got {focus} and {even}")
    n, rows = noise.total, noise.rows  # a part of a batch has the slices it has in the whole
    u = (torch.arange(rows.start, rows.stop) + noise.uniform()).double() / n
    if not even:
        return schedule.training_time(u ** (1 / focus))
    ends = -schedule.log_snr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)) / 2
    low, high = (min(max(e, float(ends.min())), float(ends.max())) for e in EVEN)
    level = low + (u / max(even, 1e-9)).clamp(max=1) * (high - low)
    rest = ((u - even) / max(1 - even, 1e-9)).clamp(0, 1)
    return torch.where(u < even, schedule.time_of(-2 * level), schedule.training_time(rest ** (1 / focus)))


def diffuse(
    schedule: Schedule,
    x: Tensor,
    noise: BatchNoise,
    focus: float = 1.0,
    even: float = 0.0,
    prior: Denoiser | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x_t, t [B], alpha, sigma) with x_t = alpha x + sigma n at times drawn by `draw_times`.

    prior: whose samples x are; n is then on the subspace they live in.
    """
    t = draw_times(schedule, noise, focus, even).to(x.device)
    shape = (-1,) + (1,) * (x.ndim - 1)
    alpha, sigma = (f(t).to(x.dtype).reshape(shape) for f in (schedule.alpha, schedule.sigma))
    n = noise.normal(x.shape[1:], device=x.device).to(x.dtype)
    return alpha * x + sigma * (n if prior is None else prior.project(n, x)), t, alpha, sigma


class PriorObjective:
    """Squared error of the network's own output (uniform over t), to train a prior from scratch (for eps: Ho et al.
    2020, eq. 14). Of a batch with entries that nobody measured (`Batch.seen`) it is the mean over those that are known,
    sample by sample."""

    def __call__(self, module: nn.Module, batch: Batch, noise: BatchNoise) -> Loss:
        assert isinstance(module, NetworkDenoiser)
        x_t, t, alpha, sigma = diffuse(module.schedule, batch.x, noise, prior=module)
        target = to_output(module.output, x_t, batch.x, alpha, sigma)
        out = module.raw(x_t, t.to(x_t.dtype), alpha, sigma)
        error = (out.float() - target).square()
        if batch.seen is None:
            return Loss(error.mean(), {"network output": out.detach().sum()})
        known = batch.seen.to(error).flatten(1)
        each = (known * error.flatten(1)).sum(1) / known.sum(1).clamp_min(1)
        return Loss(each.mean(), {"network output": out.detach().sum()})


class DenoisingObjective:
    """DEFT's objective for a frozen prior (Denker et al. 2024, eq. 10); see the module's formula.

    Args:
        prior: the frozen denoiser.
        weighting: a key of `WEIGHTINGS`.
        focus, even: see `draw_times`; what y says about x_0 is decided at high noise, what a sample keeps of the
            measurement's noise at low noise (docs/units.md).

    >>> import deft
    >>> from deft.core.random import BatchNoise
    >>> world, obs = deft.testing.half_seen(4)
    >>> prior, x = world.prior(deft.VPCosine()), world.sample(256).float()
    >>> pairs = deft.Pairs(x, deft.Observation(obs.likelihood.sample(x, deft.Noise(0, 256)), obs.likelihood))
    >>> objective, batch = deft.DenoisingObjective(prior), pairs.draw(256, 0, 0, torch.device("cpu"))
    >>> exact, none = (objective(h, batch, BatchNoise(256, 0)).value for h in (world.h, deft.Scaled(world.h, 0.0)))
    >>> exact < none
    tensor(True)
    """

    def __init__(self, prior: Denoiser, weighting: str = "between", focus: float = 3.0, even: float = 0.5):
        if weighting not in WEIGHTINGS:
            raise unknown("weighting", weighting, WEIGHTINGS)
        self.prior, self.weighting, self.focus, self.even = prior, weighting, focus, even
        self._weight = WEIGHTINGS[weighting]

    def identity(self) -> dict[str, Any]:
        return {
            "prior": self.prior.fingerprint()[:16],
            "weighting": self.weighting,
            "focus": self.focus,
            "even": self.even,
        }

    def doubt(self, held_out: float) -> str | None:
        """A warning, if the held-out loss alone says that the fit is of no use."""
        return None

    def predict(self, x: Tensor, noise: BatchNoise) -> Prediction:
        x_t, t, _, _ = diffuse(self.prior.schedule, x, noise, self.focus, self.even, self.prior)
        with torch.no_grad():
            return self.prior(x_t, t)

    def errors(self, h: nn.Module, batch: Batch, noise: BatchNoise) -> tuple[Prediction, Tensor, Tensor]:
        """(prior's prediction, h [B, *E], squared error of the corrected mean [B])."""
        prediction = batch.prediction if batch.prediction is not None else self.predict(batch.x, noise)
        value = h(prediction, batch.observation)
        error = (prediction.corrected(value).mean.float() - batch.x).square().flatten(1).mean(1)
        return prediction, value, error

    def __call__(self, module: nn.Module, batch: Batch, noise: BatchNoise) -> Loss:
        prediction, value, error = self.errors(module, batch, noise)
        weight = self._weight(prediction.alpha, prediction.sigma).reshape(-1)
        metrics = {"prior mean": prediction.mean.detach().sum(), "h": value.detach().sum()}
        return Loss((weight * error).mean(), metrics)
