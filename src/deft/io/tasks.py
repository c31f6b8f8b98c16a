"""Tasks by name, of every kind of data: what cards, measurement files and the command line call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deft.kinds.domain import Domain, Table
from deft.kinds.records import task_from
from deft.likelihood.task import Tilt
from deft.likelihood.unknown import UnknownTask

TASKS: Table[type[Any]] = Table(lambda domain: domain.tasks())
"""Name -> class, of every kind of data."""

UNLISTED: dict[str, type[Any]] = {Tilt.name: Tilt, UnknownTask.name: UnknownTask}
"""Those that a name alone does not make: a reward needs a function, an unknown degradation pairs. Cards name them."""


def get_task(name: str, domain: Domain | None = None, /, **options: Any) -> Any:
    """A task by name, with some of its settings changed. domain: whose it is, where several kinds of data have one of
    that name.

    Raises:
        InputError: no such task or setting.

    >>> get_task("ct", angles=30).config()["angles"]
    30
    """
    return task_from(TASKS.of(domain), {"name": name, **options})


def make_task(config: Mapping[str, Any], domain: Domain | None = None) -> Any:
    """A task from its `config()`, as found in a card; those of `UNLISTED`, too.

    Raises:
        InputError: no such task or setting.
    """
    own = UNLISTED.get(str(config.get("name")))
    return task_from(TASKS.of(domain) if own is None else own, config)
