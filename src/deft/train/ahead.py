"""Rows of stored samples for training batches, read one step ahead while the device computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from deft.kinds.stored import Samples, take

WAITING = 8
"""Batches that are read ahead at most: the pieces of one step."""


class Ahead:
    """Rows of x on a device, [B, *E] in model space. Of stored samples, the rows of the step that follows are read on a
    thread meanwhile; for CUDA in pinned memory, whose way to the device nobody waits for.

    Which rows a batch has is not decided here: what was read ahead and is not asked for is passed over.
    """

    def __init__(self, x: Samples):
        self.x = x
        self._waiting: dict[bytes, Future[Tensor]] = {}
        self._thread: ThreadPoolExecutor | None = None

    def rows(self, rows: Tensor, device: torch.device, following: Callable[[], Tensor] | None = None) -> Tensor:
        """Rows that are asked for now. following: those of the next step."""
        if isinstance(self.x, Tensor):
            return take(self.x, rows, device)
        pinned = device.type == "cuda"
        waiting = self._waiting.pop(rows.numpy().tobytes(), None)
        kept = self._read(rows, pinned) if waiting is None else waiting.result()
        if following is not None:
            self._begin(following(), pinned)
        return self.x.model(kept.to(device, non_blocking=pinned))

    def _read(self, rows: Tensor, pinned: bool) -> Tensor:
        assert not isinstance(self.x, Tensor)
        kept = self.x.stored(rows)
        return kept.pin_memory() if pinned else kept

    def _begin(self, rows: Tensor, pinned: bool) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "deft-ahead")
        while len(self._waiting) >= WAITING:
            self._waiting.pop(next(iter(self._waiting))).cancel()
        key = rows.numpy().tobytes()
        if key not in self._waiting:
            self._waiting[key] = self._thread.submit(self._read, rows, pinned)

    def __getstate__(self) -> dict[str, object]:
        """For copies: without threads."""
        return {"x": self.x, "_waiting": {}, "_thread": None}
