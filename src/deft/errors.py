"""Errors whose message is one line a person can act on: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
import importlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any


def visible(text: str) -> str:
    r"""A text with its control characters written out, so that a terminal, a table or a page shows it and obeys none
    of it: escape sequences, marks that turn the direction of writing, lone surrogates. Line breaks and tabs stay.

    >>> visible("a\x1b[2Jb"), visible("\u202eabc"), visible("ä\n1\u202f000")
    ('a\\x1b[2Jb', '\\u202eabc', 'ä\n1\u202f000')
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" or unicodedata.category(c) == "Zs" else _code(c) for c in text)


def _code(c: str) -> str:
    n = ord(c)
    return f"\\x{n:02x}" if n < 256 else f"\\u{n:04x}" if n < 65536 else f"\\U{n:08x}"


class DeftError(Exception):
    """Base class of the errors that the command line prints as one line (exit code 2).

    What a message quotes of somebody's file has no control characters (`visible`); what it quotes of the system's
    errors has no numbers ("[Errno 2] ").

    >>> import deft
    >>> try:
    ...     deft.DDIM(eta=2.0)
    ... except deft.DeftError as error:
    ...     print(error)
    eta must be between 0 (no noise) and 1 (ancestral), got 2.0
    """

    def __init__(self, *args: object):
        super().__init__(*(re.sub(r"\[Errno -?\d+\] ", "", visible(a)) if isinstance(a, str) else a for a in args))


class InputError(DeftError, ValueError):
    """Something the caller gave is not usable."""


class OutputError(InputError):
    """A file or a folder cannot be written: no space, no permission, or another process writes there.

    The command line adds that another --out will do, where there is such an option.
    """


class ContractError(DeftError, TypeError):
    """A part of the chain (prior, likelihood, h-transform) broke its promise about shapes or values."""


class NonFiniteError(DeftError, FloatingPointError):
    """A NaN or an infinity appeared; the message names the step and the term."""


class CheckpointError(DeftError, ValueError):
    """A file is truncated, of another library, or made for another prior."""


class LostError(DeftError, RuntimeError):
    """Another process of the run died, or did not answer in time. saved: whether the run can be resumed."""

    def __init__(self, message: str, saved: bool = False):
        super().__init__(message)
        self.saved = saved


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not in a table, with the nearest name offered.

    >>> str(unknown("task", "inpant", ["inpaint", "sr4"]))
    "unknown task 'inpant': did you mean 'inpaint'? Known: inpaint, sr4"
    >>> str(unknown("setting of pigdm", "x", ["scale"])), str(unknown("task", "", ["sr4"]))
    ("unknown setting 'x' of pigdm: give one of scale", 'the name of a task is empty: give one of sr4')
    """
    names = sorted(known)
    lower = {n.lower(): n for n in reversed(names)}
    near = difflib.get_close_matches(name.strip().lower(), lower, n=1, cutoff=0.5)
    listed = ", ".join(names)
    hint = f"did you mean {lower[near[0]]!r}? Known: {listed}" if near else f"give one of {listed}"
    if not names:
        hint = "there is none"
    if not name.strip():
        return InputError(f"the name of {'an' if kind[0] in 'aeiou' else 'a'} {kind} is empty: {hint}")
    what, word, whose = (
        kind.partition(" of ") if re.match("(setting|option|split) of ", kind) else kind.partition(" in ")
    )
    return InputError(f"unknown {what} {name!r}{word}{whose}: {hint}")


def required(module: str, install: str, what: str) -> Any:
    """The module of an optional package, or an `InputError` that says what to install.

    >>> required("math", "python", "a square root").sqrt(4.0)
    2.0
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{what} needs {error.name or module}, which is not installed: pip install {install}"
        ) from error
