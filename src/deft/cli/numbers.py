"""Types of options: numbers whose kind and range stand in `deft.values`, lists of such, and lines of text.

Every option that takes a number has one of these, so that a value out of range is refused before any work.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, get_args, get_origin

import click

from deft.errors import InputError
from deft.values import Range, check, quoted, words

LONGEST = 64
"""Letters of a number."""

Jobs = Annotated[int, Range(1, 1024)]
Real = Annotated[float, Range(-1e9, 1e9)]
Pixels = Annotated[int, Range(1, 1_000_000)]
Depth = Annotated[int, Range(1, 64)]
Angstrom = Annotated[float, Range(0, 1000)]
Temperature = Annotated[float, Range(above=0, max=1000)]
Port = Annotated[int, Range(0, 65535)]
Waiting = Annotated[int, Range(1, 99_999)]
Milliseconds = Annotated[float, Range(0, 60_000)]


def _option(param: click.Parameter | None) -> str:
    """The option as a user writes it: the longest of its names."""
    return max(param.opts, key=len) if param is not None and param.opts else "the number"


def _parsed(kind: Any, text: Any, name: str) -> Any:
    """A number of a kind from a text, or from a default as it is."""
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if isinstance(text, str):
        with suppress(ValueError):
            text = base(text) if len(text) <= LONGEST and text.isascii() else text
    return check(kind, text, name)


class Number(click.ParamType):
    """A number of a kind of `deft.values`: `Number(Steps)`."""

    def __init__(self, kind: Any):
        self.kind = kind
        self.base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        self.name = "integer" if self.base is int else "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _parsed(self.kind, value, _option(param))


class Numbers(click.ParamType):
    """Numbers with commas between them, 64,96,128, each of a kind. min, max: how many."""

    name = "numbers"

    def __init__(self, kind: Any = Real, min: int = 1, max: int = 64):
        self.kind, self.min, self.max = kind, min, max

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        name, parts = _option(param), str(value).split(",")
        if not self.min <= len(parts) <= self.max:
            many = f"{self.min}" if self.min == self.max else f"{self.min} to {self.max}"
            raise InputError(f"{name} = {quoted(value)}: expected {many} numbers with commas between them")
        try:
            return tuple(_parsed(self.kind, part.strip(), name) for part in parts)
        except InputError:
            raise InputError(
                f"{name} = {quoted(value)}: expected numbers with commas between them, each {words(self.kind)}"
            ) from None


class Line(click.ParamType):
    """A text of one line, without control characters: what is printed, and written into cards."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        found: str = check(str, value, _option(param))
        return found
