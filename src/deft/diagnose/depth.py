"""Is an h out of its depth? Numbers of one measurement's samples, beside those that h has where it is known to work.

residual    root mean square of (y - A x) / sigma_y over samples. About 1 for exact ones; h's own is its own.
surprise    error of the prior's denoiser on the noised samples, over the error it expects (`deft.prior.
            measurement_check.surprise`): about 1 for samples of the prior's kind.
spread      root mean square of the samples' standard deviation.

None of them needs the truth. Each is compared, in logarithms, with its values on the measurements that the intervals
were checked on: far from all of those, nothing that was found there holds here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.errors import CheckpointError
from deft.kinds.draws import Draws
from deft.prior.measurement_check import residual_ratio, surprise

SEEN = 2
"""Samples of a measurement that the prior looks at, six calls each."""
PART = 256
"""Samples of a measurement whose residuals are worked out at once."""
MAX_OFF = 3.5
"""Deviations of the reference's logarithms beyond which a number is another one. In docs/trust.md: what that finds."""
LEAST_DEVIATION = 0.02
"""Of a logarithm: a number that never varies is not judged more finely."""
ACTION = "do not trust the intervals"


def depth_numbers(prior: Denoiser, obs: Observation, draws: Draws, seed: int = 0) -> dict[str, Tensor]:
    """residual, surprise and spread of each measurement's samples, [B]; without a residual where the likelihood has
    none, without a spread for one sample."""
    n, found, x = draws.n, {}, draws.x
    # thousands of samples of a measurement in parts
    parts = [residual_ratio(obs.repeat(p.shape[1]), p.to(obs.y.device).flatten(0, 1)) for p in x.split(PART, 1)]
    ratios = [p.reshape(len(x), -1) for p in parts if p is not None]
    if ratios:
        found["residual"] = torch.cat(ratios, 1).square().mean(1).sqrt()
    few = x[:, :SEEN].to(obs.y.device)
    found["surprise"] = surprise(prior, prior.encode(few.flatten(0, 1)), seed=seed).reshape(len(x), -1).mean(1).exp()
    if n > 1:
        found["spread"] = draws.std.flatten(1).square().mean(1).sqrt()
    return {k: v.detach().cpu().double() for k, v in found.items()}


def chi_square_p(obs: Observation, x: Tensor) -> Tensor | None:
    """P(chi^2 >= |(y - A x) / sigma_y|^2) with as many degrees of freedom as measurements, for samples x [B,
    *data_shape], [B]; None where the likelihood has no residual.

    Uniform on [0, 1] where x and y are drawn together, from the prior and the likelihood; for one y it may be anything.
    By the normal approximation of Wilson & Hilferty (1931), "The
    Distribution of Chi-Square", https://doi.org/10.1073/pnas.17.12.684.
    """
    ratio = residual_ratio(obs, x)
    if ratio is None:
        return None
    m = obs.likelihood.number_of_measurements(obs.y).clamp_min(1).double()
    z = (ratio.double() ** (2 / 3) - (1 - 2 / (9 * m))) / (2 / (9 * m)).sqrt()
    return 0.5 * torch.erfc(z / math.sqrt(2))


@dataclass(frozen=True)
class Compared:
    """One number beside its reference. ratio: to the reference's median. off: in deviations of its logarithm. p: share
    of the reference, this one counted in, that is at least as far off."""

    value: float
    ratio: float
    off: float
    p: float

    @property
    def far(self) -> bool:
        return not abs(self.off) <= MAX_OFF


@dataclass(frozen=True)
class Judgement:
    """What one measurement's samples come to. numbers: name -> `Compared`. count: in the reference."""

    numbers: Mapping[str, Compared]
    count: int

    @property
    def within(self) -> bool:
        """Whether all of them are as on the reference."""
        return not any(c.far for c in self.numbers.values())

    def summary(self) -> str:
        """One line: what is off most, or that nothing is."""
        if self.within:
            return f"{', '.join(self.numbers)} as where h was checked"
        name, worst = max(self.numbers.items(), key=lambda item: abs(item[1].off))
        return f"{name} {worst.ratio:.2g} x what h has on data like those it was fitted to: {ACTION}"


@dataclass(frozen=True)
class DepthReference:
    """Numbers of measurements that h is known to work on: name -> a value for each.

    >>> reference = DepthReference({"residual": [0.9, 1.0, 1.1, 1.0]})
    >>> reference.judge({"residual": 1.05}).within, reference.judge({"residual": 3.1}).summary()
    (True, 'residual 3.1 x what h has on data like those it was fitted to: do not trust the intervals')
    """

    values: Mapping[str, list[float]]

    def judge(self, found: Mapping[str, float]) -> Judgement:
        """Numbers of one measurement (`depth_numbers`), those that the reference has."""
        return Judgement(
            {k: _compared(v, found[k]) for k, v in self.values.items() if k in found},
            max(map(len, self.values.values()), default=0),
        )

    def config(self) -> dict[str, list[float]]:
        return {k: [float(f"{v:.4g}") for v in row] for k, row in self.values.items()}

    @staticmethod
    def from_config(config: Any) -> DepthReference:
        """What `config` wrote; raises `CheckpointError` if it is something else."""
        try:
            values = {str(k): [float(v) for v in row] for k, row in config.items()}
            if not all(len(row) > 1 for row in values.values()):
                raise ValueError("too few values")
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the reference numbers in this card cannot be read: {error}") from error
        return DepthReference(values)


def _compared(reference: list[float], value: float) -> Compared:
    logs = torch.tensor(reference, dtype=torch.float64).clamp_min(1e-12).log()
    middle, own = logs.median(), math.log(max(value, 1e-12)) if math.isfinite(value) else math.inf
    off = (own - float(middle)) / max(float(logs.std()), LEAST_DEVIATION)
    further = int(((logs - middle).abs() >= abs(own - float(middle))).sum())
    return Compared(value, value / math.exp(float(middle)), off, (1 + further) / (1 + len(logs)))
