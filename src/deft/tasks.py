"""The tasks of every kind of data, by the names of their classes: `deft.tasks.Inpaint(sigma_y=0.1)`.

A task turns clean data into observations; `dir(deft.tasks)` lists them, the domains (`deft.kinds.domain`) own them.

>>> import deft
>>> deft.tasks.SuperResolution(factor=2).factor
2
"""

from __future__ import annotations

from typing import Any

from deft._old_names import moved
from deft.kinds.domain import domains

_moved = moved(__name__, within=1)


def _tasks() -> dict[str, Any]:
    """Name of a class -> the class; where two kinds of data have one of the same name, the first one's."""
    found: dict[str, Any] = {}
    for domain in domains().values():
        for task in domain.tasks().values():
            found.setdefault(task.__name__, task)
    return found


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = _tasks()
    return found[name] if name in found else _moved(name)


def __dir__() -> list[str]:
    return sorted(_tasks())
