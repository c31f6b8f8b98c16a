"""Tasks by name, of every kind of data: what cards, measurement files and the command line call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deft.kinds.domain import Domain, Table
from deft.kinds.records import task_from
from deft.likelihood.task import Tilt

TASKS: Table[type[Any]] = Table(lambda domain: domain.tasks())
"""Name -> class, of every kind of data."""


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
    """A task from its `config()`, as found in a card; a reward, too.

    Raises:
        InputError: no such task or setting.
    """
    return (
        Tilt(**{k: v for k, v in config.items() if k != "name"})
        if config.get("name") == Tilt.name
        else task_from(TASKS.of(domain), config)
    )
