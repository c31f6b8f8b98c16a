"""What protein backbones bring (see `deft.core.domain`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from deft.core.domain import Cases, Column, Domain, Metric


class ProteinDomain(Domain):
    """C-alpha traces [L, 3]; chains of several lengths share a batch."""

    name: ClassVar[str] = "protein"
    title: ClassVar[str] = "chains"

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        return len(event_shape) == 2 and event_shape[1] == 3

    # how good

    note: ClassVar[str] = "proxy success is a check of C-alpha geometry and CA-MPNN likelihood; no folding network was run"
    success: ClassVar[str] = "proxy_success"

    def metrics(self) -> Mapping[str, Metric]:
        from deft.domains.protein.metrics import METRICS

        return METRICS

    # comparisons

    def problem_sets(self) -> Mapping[str, str]:
        from deft.domains.protein.measure import SETS

        return SETS

    def cases(self, name: str, **options: Any) -> Cases:
        """options: `count`, `placement` and `pdb` of `named_set`; `each`, `seed`, `max_length` and `sigma_y` of `MotifCases`."""
        from deft.domains.protein.measure import MotifCases, named_set

        chosen = {k: options.pop(k) for k in ("count", "placement", "pdb") if k in options}
        return MotifCases(named_set(name, **chosen), **options)

    def columns(self) -> Sequence[Column]:
        from deft.domains.protein.measure import COLUMNS

        return COLUMNS

    def references(self, count: int) -> Mapping[str, dict[str, np.ndarray]]:
        from deft.domains.protein.measure import natives

        return {"natives": natives(count)}

    def variety(self, samples: Sequence[Any], known: bool = False) -> Mapping[str, float]:
        from deft.domains.protein.measure import variety

        return variety(samples, known)
