"""Standard output and standard error: what may not be printable, full, or gone. Needs no PyTorch."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import click

from deft.errors import visible


def lenient() -> None:
    """Print what the terminal's encoding lacks as an escape, instead of failing at it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def complain(text: str) -> None:
    """A line on standard error, if anybody can be told at all."""
    with suppress(OSError, ValueError):
        click.echo(visible(text), err=True)


def flush() -> None:
    """Write what is still kept back; raises `OSError` where that is impossible."""
    if sys.stdout is not None:
        sys.stdout.flush()


def give_up() -> None:
    """Let the interpreter end in peace: what cannot be written goes nowhere."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.flush()
            continue
        _nowhere(stream)


def _nowhere(stream: Any) -> None:
    with suppress(AttributeError, ValueError, OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
