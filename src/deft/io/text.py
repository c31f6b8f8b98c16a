"""Words for messages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from deft.errors import visible


def shape_text(shape: Sequence[int]) -> str:
    """(1, 32, 32) -> "32x32 grey"; of other numbers of axes "2x64"."""
    if len(shape) != 3:
        return "x".join(map(str, shape))
    channels = {1: "grey", 3: "RGB"}.get(shape[0], f"with {shape[0]} channels")
    return f"{shape[-2]}x{shape[-1]} {channels}"


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def count(n: int, noun: str) -> str:
    """
    >>> count(1, "picture"), count(3, "picture")
    ('1 picture', '3 pictures')
    """
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def some(names: Sequence[str], n: int = 10) -> str:
    """The first so many names, and how many more there are."""
    return ", ".join(names[:n]) + (f", and {len(names) - n} more" if len(names) > n else "")


def by_suffix(suffixes: Iterable[str]) -> str:
    """
    >>> by_suffix([".txt", "", ".txt"])
    '2 .txt, 1 without a suffix'
    """
    return ", ".join(f"{n:,} {suffix or 'without a suffix'}" for suffix, n in Counter(suffixes).most_common(8))


def markdown(text: str) -> str:
    r"""A text of somebody's file in a page of Markdown: no tag, no link and no control character of it counts.

    >>> markdown("<script>[a](b) p < 1")
    '&lt;script>[a]\\(b) p < 1'
    """
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", visible(text)).replace("](", "]\\(")


def markdown_cell(text: str) -> str:
    """The same as a cell of a table: on one line, which its bars do not end."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(markdown(text).split()))
