"""Files from other people: sizes first, and whatever a parser can raise is one line.

Every reader of a file that a stranger may have made goes through these. The limits are far above any file in use; each
stands in `docs/safety.md`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deft.errors import CheckpointError, DeftError
from deft.io.text import one_line

MAX_TEXT = 16 * 2**20
"""Bytes of a text file: JSON, TOML, a table of numbers."""
MAX_HEADER = 4 * 2**20
"""Bytes of a header or of a card in one."""
MAX_DEPTH = 64
"""Lists and tables of JSON inside one another."""


def reason_of(error: BaseException) -> str:
    """What an error says, in one line of at most 200 characters, with its class where it says nothing else."""
    text = one_line(error)
    return (f"{type(error).__name__}: {text}" if isinstance(error, (KeyError, RecursionError)) else text)[:200]


@contextmanager
def parsing(path: str | Path, what: str, kind: type[DeftError] = CheckpointError, way_out: str = "") -> Iterator[None]:
    """Whatever is raised inside becomes one line that names the file. Errors of `deft` pass as they are.

    Args:
        what: what the file should be, "a safetensors file". kind: the class of error. way_out: what to do about it.

    >>> from deft.errors import InputError
    >>> with parsing("a.json", "a card", InputError):
    ...     {}["name"]
    Traceback (most recent call last):
    deft.errors.InputError: a.json is truncated or not a card (KeyError: 'name')
    """
    try:
        yield
    except DeftError:
        raise
    except OSError as error:
        raise kind(f"cannot read {path} as {what}: {error.strerror or one_line(error)}{way_out}") from error
    except Exception as error:  # a parser of another library: nobody knows all that a damaged file makes it raise
        raise kind(f"{path} is truncated or not {what} ({reason_of(error)}){way_out}") from error


def file_size(path: str | Path, what: str, largest: int | None = None, kind: type[DeftError] = CheckpointError) -> int:
    """Bytes of a file that is there, is an ordinary file, and is no larger than `largest`."""
    with parsing(path, what, kind):
        about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise kind(f"{path} is no ordinary file: give {what}")
    if largest is not None and about.st_size > largest:
        raise kind(f"{path} has {about.st_size:,} bytes, {what} has at most {largest:,}")
    return about.st_size


def read_bytes(path: str | Path, what: str, largest: int = MAX_TEXT, kind: type[DeftError] = CheckpointError) -> bytes:
    """The bytes of a file, of no more than `largest`."""
    file_size(path, what, largest, kind)
    with parsing(path, what, kind), open(path, "rb") as f:
        return f.read(largest + 1)[:largest]


def read_text(path: str | Path, what: str, largest: int = MAX_TEXT, kind: type[DeftError] = CheckpointError) -> str:
    """The text of a UTF-8 file."""
    data = read_bytes(path, what, largest, kind)
    with parsing(path, what, kind):
        return data.decode("utf-8-sig")


def parse_json(text: str | bytes, where: str | Path, what: str, kind: type[DeftError] = CheckpointError) -> Any:
    """A JSON text's value. One that is nested deeper than `MAX_DEPTH`, or larger than `MAX_TEXT`, is refused.

    >>> parse_json('{"a": [1]}', "a.json", "a card")
    {'a': [1]}
    """
    if len(text) > MAX_TEXT:
        raise kind(f"{where} has {len(text):,} bytes, {what} has at most {MAX_TEXT:,}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else one_line(error)[:160]
        raise kind(f"{where} is truncated or not {what} (no JSON: {reason})") from error
    if _deeper(value, MAX_DEPTH):
        raise kind(f"{where} is not {what}: lists and tables in it are nested deeper than {MAX_DEPTH}")
    return value


def read_json(path: str | Path, what: str, kind: type[DeftError] = CheckpointError) -> Any:
    """The value of a JSON file."""
    return parse_json(read_text(path, what, MAX_TEXT, kind), path, what, kind)


def json_table(value: Any, where: str | Path, what: str, kind: type[DeftError] = CheckpointError) -> dict[str, Any]:
    """`value` if it is a JSON table."""
    if not isinstance(value, dict):
        raise kind(f"{where} is not {what}: it holds {type(value).__name__}, expected a table of names and values")
    return value


def _deeper(value: Any, depth: int) -> bool:
    """Whether lists and tables are nested deeper than `depth`, without recursion of our own."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            inside
            for v in level
            if isinstance(v, (dict, list))
            for inside in (v.values() if isinstance(v, dict) else v)
        ]
        if not level:
            return False
    return True
