"""What the library says while it works: one logger, one progress bar, one kind of callback.

Messages go to the logger `deft` (`logging.getLogger("deft")`): what is being done as INFO, what to know before a result is used as WARNING.
Python shows warnings and no more; `show()` shows all of it. The command line decides for itself.

>>> with show(print):
...     log.info("drawing 4 samples")
drawing 4 samples
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

log = logging.getLogger("deft")

Callback = Callable[[Mapping[str, Any]], None]
"""What long computations call as they go on, with a row of numbers: `step`, `seconds`, losses or diagnostics."""


class _To(logging.Handler):
    """Hands each message's text to a function."""

    def __init__(self, say: Callable[[str], object]):
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(self.format(record))


@contextmanager
def show(say: Callable[[str], object] | None = None) -> Iterator[None]:
    """Show all messages while this lasts, by a function of a text (default: on standard error)."""
    handler = _To(say or (lambda text: tqdm.write(text, file=sys.stderr)))
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # otherwise a logger that somebody set up says everything twice
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def bar(total: int, name: str, unit: str, progress: bool | None = None) -> Any:
    """A progress bar with the time that is left, as a context manager with `update(n)`; see `shown`."""
    return tqdm(total=total, desc=name, unit=unit, disable=not shown(progress))


def shown(progress: bool | None) -> bool:
    """Whether bars are drawn: as asked, or (None) where they make sense: at a terminal and in a notebook, not in a file of logs."""
    return progress if progress is not None else sys.stderr.isatty() or "ipykernel" in sys.modules
