"""Time grids: N levels at which the denoiser is called, then the clean end (alpha = 1, sigma = 0)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deft.arguments import checks_arguments
from deft.core.schedule import Schedule
from deft.core.transition import Level
from deft.errors import InputError, unknown


def _uniform(schedule: Schedule, n: int) -> Tensor:
    return torch.linspace(schedule.t_max, schedule.t_min, n + 1, dtype=torch.float64)[:-1]


def _quadratic(schedule: Schedule, n: int) -> Tensor:
    u = torch.linspace(1, 0, n + 1, dtype=torch.float64)[:-1]
    return schedule.t_min + u**2 * (schedule.t_max - schedule.t_min)


def _ratios(schedule: Schedule) -> tuple[float, float]:
    """sigma/alpha at t_max and at t_min (at least 1e-4 there, for schedules that reach 0)."""
    ends = torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)
    high, low = (-schedule.log_snr(ends) / 2).exp().tolist()
    return high, max(low, 1e-4)


def _by_ratio(schedule: Schedule, ratio: Tensor) -> Tensor:
    return schedule.time_of(-2 * ratio.log())


def _angle(schedule: Schedule, n: int) -> Tensor:
    high, low = _ratios(schedule)
    angle = torch.linspace(math.atan(high), math.atan(low), n + 1, dtype=torch.float64)[:-1]
    return _by_ratio(schedule, torch.tan(angle))


def _log_snr(schedule: Schedule, n: int) -> Tensor:
    return _from_far(
        schedule, n, lambda high, low, k: torch.linspace(math.log(high), math.log(low), k, dtype=torch.float64).exp()
    )


def _karras(schedule: Schedule, n: int) -> Tensor:
    rho = 7.0
    return _from_far(
        schedule,
        n,
        lambda high, low, k: torch.linspace(high ** (1 / rho), low ** (1 / rho), k, dtype=torch.float64) ** rho,
    )


FAR = 5000.0
"""sigma/alpha beyond which a state holds no trace of x_0 that a picture shows: from there to here is one step."""


def _from_far(schedule: Schedule, n: int, ratios: Callable[[float, float, int], Tensor]) -> Tensor:
    """The first level is t_max; where that is beyond `FAR` (zero terminal SNR), the rest begins at `FAR`."""
    high, low = _ratios(schedule)
    if high <= FAR or n < 3:
        return _by_ratio(schedule, ratios(high, low, n))
    return _by_ratio(schedule, torch.cat([torch.tensor([high], dtype=torch.float64), ratios(FAR, low, n - 1)]))


def _centre(schedule: Schedule, n: int) -> Tensor:
    top, bottom = _ratios(schedule)
    high, low = min(20.0, top), max(0.02, bottom)
    inner = torch.linspace(math.log(high), math.log(low), n - (top > high), dtype=torch.float64).exp()
    return _by_ratio(schedule, torch.cat([torch.tensor([top], dtype=torch.float64), inner]) if top > high else inner)


SPACINGS: dict[str, Callable[[Schedule, int], Tensor]] = {
    "angle": _angle,
    "uniform": _uniform,
    "quadratic": _quadratic,
    "log-snr": _log_snr,
    "karras": _karras,
    "centre": _centre,
}
"""name -> N falling times.

angle: even steps of arctan(sigma/alpha), whatever the schedule's own time (for `VPCosine`, even steps of t); uniform
and quadratic: in t; log-snr; karras: rho = 7 in sigma/alpha (Karras et al. 2022, eq. 5); centre: even steps of
log(sigma/alpha) from 20 to 0.02, the levels between which data of order one takes shape, after one step down from
t_max. The first three stop one step short of t_min; log-snr and karras end on it (never below sigma/alpha = 1e-4), and
go from a t_max beyond `FAR` to `FAR` in one step.
"""


FEW = 4
"""With fewer steps than this every grid jumps to the clean end from where the noise is as large as the data."""


@checks_arguments
def times(schedule: Schedule, steps: int, spacing: str = "angle") -> list[Level]:
    """`steps` levels from t_max down, then the clean end: steps + 1 in all.

    >>> from deft.schedule import VPCosine
    >>> grid = times(VPCosine(), 4)
    >>> [round(level.sigma, 2) for level in grid]
    [1.0, 0.92, 0.71, 0.39, 0.0]
    """
    if spacing not in SPACINGS:
        raise unknown("spacing", spacing, SPACINGS)
    most = schedule.max_steps
    if steps < 1 or (most is not None and steps > most):
        wanted = f"from 1 to {most} (the length of the prior's table of betas)" if most else "at least 1"
        raise InputError(f"steps is {steps}: give a whole number, {wanted}")
    t = SPACINGS[spacing](schedule, steps)
    if steps > 1 and not bool((t.diff() < 0).all()):
        raise InputError(f"the {spacing} grid of {steps} steps has equal times; give fewer steps")
    grid = levels(schedule, t.tolist())
    last = grid[-2]
    if steps >= FEW and spacing in ("uniform", "quadratic") and last.sigma > last.alpha:
        raise InputError(
            f"the {spacing} grid of {steps} steps jumps from sigma/alpha = {last.sigma / last.alpha:.2g} to the clean"
            " end, and every sample would be a blurred mean: even steps of t are none of the noise's where t is sigma;"
            " give another spacing (log-snr, karras, angle, centre), or many more steps"
        )
    return grid


@checks_arguments
def levels(schedule: Schedule, t: Sequence[float]) -> list[Level]:
    """The levels at falling times t of your own choice, then the clean end: a grid for `sample(..., grid=)`.

    For example `levels(prior.schedule, scheduler.timesteps.tolist())`, the steps of a scheduler of diffusers.
    """
    at = torch.as_tensor(list(t), dtype=torch.float64)
    if len(at) == 0 or bool((at.diff() >= 0).any()) or float(at[0]) > schedule.t_max or float(at[-1]) < schedule.t_min:
        raise InputError(
            f"a grid needs falling times between {schedule.t_max:g} and {schedule.t_min:g}, got"
            f" {[round(v, 4) for v in at.tolist()[:6]]}"
        )
    rows = torch.stack([at, schedule.log_alpha(at).exp(), schedule.log_sigma(at).exp()], 1).tolist()
    return [*(Level(*row) for row in rows), Level(schedule.t_min, 1.0, 0.0)]
