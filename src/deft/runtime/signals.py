"""Ctrl-C and SIGTERM, which come to the same: what is under way is saved, and how to go on is said. No PyTorch here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_received: list[int] = []


def note(number: int) -> None:
    """Remember which signal asked to stop."""
    _received.append(number)


def interrupt(number: int, frame: Any) -> None:
    """A handler that interrupts this process as Ctrl-C does."""
    note(number)
    raise KeyboardInterrupt


def asked_to_stop(error: BaseException | None) -> bool:
    """Whether an error is an interrupt at heart: Python makes a RuntimeError of one that comes as a class is made."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def exit_code() -> int:
    """128 and the number of the signal, as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_received[-1] if _received else signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """A block in which SIGTERM interrupts as Ctrl-C does, where there may be handlers (the main thread)."""
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
