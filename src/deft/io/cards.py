"""What the fields of a card may hold: one table of types, looked at when a file is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deft.errors import CheckpointError

TYPES = {
    "text": "a text",
    "number": "a finite number",
    "count": "a whole number from 0",
    "table": "a table",
    "texts": "a list of texts",
    "sizes": "a list of 1 to 8 whole numbers above 0",
    "rows": "a list of tables of numbers, each with an angle",
}
FIELDS = {
    "kind": "text", "class": "text", "domain": "text", "prior": "text", "sha256": "text", "prior_sha256": "text",
    "task_code": "text", "weights_stored": "text", "seconds": "number", "parameters": "count", "share": "number",
    "h": "table", "task": "table", "network": "table", "schedule": "table", "prior_convention": "table",
    "intervals": "table", "measurement": "table", "interval_factors": "table", "diagnostics": "text", "output": "text",
    "event_shape": "sizes", "levels": "rows", "warnings": "texts", "prior_options": "texts",
    "stands_for": "texts", "surrogates": "table",
}  # fmt: skip
"""Field -> type. Null stands for a field that is not there; other fields are for people, and hold what they hold."""
MAX_NUMBERS = 2**28
"""Numbers in one sample that a card may ask for: 1 GiB of them in float32."""


def is_number(value: object) -> bool:
    """
    >>> is_number(1), is_number(0.5), is_number(True), is_number(math.inf), is_number("1"), is_number(10**400)
    (True, True, False, False, False, False)
    """
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_count(value: object, least: int = 0) -> bool:
    """Whether it is a whole number, no bool, from `least` to 2^53.

    >>> is_count(3), is_count(-1), is_count(3.0), is_count(True)
    (True, False, False, False)
    """
    return type(value) is int and least <= value <= 2**53


def fits(value: Any, kind: str) -> bool:
    """Whether a value is of a type of `TYPES`."""
    if kind == "text":
        return isinstance(value, str)
    if kind == "number":
        return is_number(value)
    if kind == "count":
        return is_count(value)
    if kind == "table":
        return isinstance(value, dict)
    if not isinstance(value, (list, tuple)):
        return False
    if kind == "texts":
        return all(isinstance(v, str) for v in value)
    if kind == "sizes":
        return 1 <= len(value) <= 8 and all(is_count(v, 1) for v in value) and math.prod(value) <= MAX_NUMBERS
    rows = all(isinstance(r, dict) and "angle" in r and all(map(_is_real, r.values())) for r in value)
    return rows and all(value[0].keys() <= r.keys() for r in value)


def _is_real(value: object) -> bool:
    """A number, NaN with it: what was not measured."""
    return isinstance(value, float) or is_number(value)


def check_card(
    where: str | Path,
    card: Mapping[str, Any],
    needs: Sequence[str] = (),
    types: Mapping[str, str] = FIELDS,
) -> None:
    """Refuse a card with a field of another type than its own, or without one of `needs`."""
    for name in needs:
        if card.get(name) is None or (name in types and not fits(card[name], types[name])):
            raise CheckpointError(
                f"the card in {where} lacks {name!r}, {TYPES[types[name]]}: take the file from its source again"
            )
    for name, wanted in types.items():
        value = card.get(name)
        if value is not None and not fits(value, wanted):
            raise CheckpointError(f"the card in {where} is damaged: {name} is {value!r:.60}, expected {TYPES[wanted]}")
