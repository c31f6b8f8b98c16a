"""What images bring (see `deft.core.domain`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from deft.core.domain import Domain


class ImageDomain(Domain):
    """Images [C, H, W] in [-1, 1]."""

    name: ClassVar[str] = "image"
    title: ClassVar[str] = "images"

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        return len(event_shape) == 3

    def tasks(self) -> Mapping[str, type[Any]]:
        from deft.domains.image.tasks import TASKS

        return TASKS
