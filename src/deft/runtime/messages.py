"""What the library says while it works: one logger, one progress bar, one kind of callback.

Messages go to the logger `deft` (`logging.getLogger("deft")`): what is being done as INFO, what to know before a result
is used as WARNING. Python shows warnings and no more; `show()` shows all of it. The command line decides for itself.

>>> with show(print):
...     log.info("drawing 4 samples")
drawing 4 samples
"""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from deft.errors import visible

log = logging.getLogger("deft")

Callback = Callable[[Mapping[str, Any]], None]
"""What long computations call as they go on, with a row of numbers: `step`, `seconds`, losses or diagnostics."""


class _To(logging.Handler):
    """Hands each message's text to a function."""

    def __init__(self, say: Callable[[str], object]):
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(visible(self.format(record)))


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


def old_messages(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function that had an argument for its messages (`say`, `log`): it is still taken, with a warning, and
    shown the log meanwhile."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            if name not in options:
                return function(*args, **options)
            say = options.pop(name)
            warnings.warn(
                f"the argument {name} of {function.__qualname__} goes with the next release: messages go to"
                ' logging.getLogger("deft"), and deft.runtime.messages.show(...) shows them',
                DeprecationWarning,
                stacklevel=2,
            )
            if say is None:
                return function(*args, **options)
            with show(say):
                return function(*args, **options)

        return run

    return decorate


def bar(total: int, name: str, unit: str, progress: bool | None = None) -> Any:
    """A progress bar with the time that is left, as a context manager with `update(n)`; see `shown`."""
    return tqdm(total=total, desc=name, unit=unit, disable=not shown(progress))


def shown(progress: bool | None) -> bool:
    """Whether bars are drawn: as asked, or (None) where they make sense: at a terminal and in a notebook, not in a file
    of logs."""
    return progress if progress is not None else sys.stderr.isatty() or "ipykernel" in sys.modules
