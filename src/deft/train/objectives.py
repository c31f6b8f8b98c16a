"""The table of objectives on paths.

It is a module of its own, so that an objective may be in any module that imports `deft.train.path`.
"""

from __future__ import annotations

from deft.train.path import AdjointMatching, LogVariance, PathObjective, RelativeEntropy, TrajectoryBalance

OBJECTIVES: dict[str, type[PathObjective]] = {
    "vargrad": LogVariance,
    "tb": TrajectoryBalance,
    "kl": RelativeEntropy,
    "adjoint": AdjointMatching,
}
"""name -> objective, for `deft fit --objective`."""
