"""What protein backbones bring (see `deft.core.domain`)."""

from __future__ import annotations

from typing import ClassVar

from deft.core.domain import Domain


class ProteinDomain(Domain):
    """C-alpha traces [L, 3]; chains of several lengths share a batch."""

    name: ClassVar[str] = "protein"
    title: ClassVar[str] = "chains"

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        return len(event_shape) == 2 and event_shape[1] == 3
