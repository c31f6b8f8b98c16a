"""How good the samples of a fitted h are on held-out data: `FittedH.evaluate`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from deft.core.likelihood import Observation
from deft.kinds.domain import Metric
from deft.kinds.draws import Draws


@dataclass(frozen=True)
class Evaluation:
    """Metrics of samples of held-out data.

    values: metric -> its value for each measurement, [N]. metrics: what they are. draws: the samples, of the
    observation `obs` of the truth `x` [N, *E]. As a mapping it gives (mean, standard error over the measurements):
    evaluation["psnr_mean"].
    """

    values: Mapping[str, Tensor]
    metrics: Mapping[str, Metric]
    draws: Draws
    x: Tensor
    obs: Observation

    def __getitem__(self, key: str) -> tuple[float, float]:
        v = self.values[key].double()
        return float(v.mean()), float(v.std() / math.sqrt(len(v))) if len(v) > 1 else math.nan

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        """A line for each metric, in the order in which reports show them."""
        order = [k for k in self.metrics if k in self.values] + [k for k in self.values if k not in self.metrics]
        titles = {k: self.metrics[k].title if k in self.metrics else k for k in order}
        width = max(map(len, titles.values()), default=0)
        lines = [f"Evaluation of {len(self.x)} measurements, {self.draws.n} samples each (mean, standard error)"]
        for key in order:
            mean, error = self[key]
            digits = self.metrics[key].digits if key in self.metrics else 4
            lines.append(f"  {titles[key]:<{width}}  {mean:.{digits}f}  ({error:.{digits}f})")
        return "\n".join(lines)
