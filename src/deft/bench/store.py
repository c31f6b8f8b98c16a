"""Where a comparison keeps its pieces: one JSON file each, named by what it is and by a hash of everything that decides it.

A piece that is there is never done again, so a killed comparison goes on where it was, and a changed file redoes what changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deft.errors import InputError
from deft.io.files import write_text

FORMAT = 1
"""Part of every hash; raised when what a piece holds changes."""


@dataclass(frozen=True)
class Unit:
    """One piece of work. kind: fit, draw or cost. name: for people. spec: everything that decides the result, as plain JSON.

    extra: what does not (which pictures to keep).
    """

    kind: str
    name: str
    spec: str
    pictures: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        return json.loads(self.spec)

    @property
    def key(self) -> str:
        digest = hashlib.sha256(f"{FORMAT} {self.kind} {self.spec}".encode()).hexdigest()[:12]
        return f"{self.name}-{digest}"


def unit(kind: str, name: str, spec: dict[str, Any], pictures: int = 0) -> Unit:
    return Unit(kind, name, json.dumps(spec, sort_keys=True), pictures)


class Store:
    """A folder of results: <kind>/<key>.json, and what belongs to them beside it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, u: Unit, suffix: str = ".json") -> Path:
        return self.folder / u.kind / f"{u.key}{suffix}"

    def has(self, u: Unit) -> bool:
        return self.path(u).exists()

    def read(self, u: Unit) -> dict[str, Any]:
        path = self.path(u)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path} ({error}): delete it, and it is done again") from error

    def write(self, u: Unit, result: dict[str, Any]) -> None:
        write_text(self.path(u), json.dumps({"kind": u.kind, "name": u.name, "spec": u.settings, **result}, indent=1, ensure_ascii=False) + "\n")

    def fail(self, u: Unit, why: str) -> None:
        """Note that a piece failed: it is not there, but nobody need wait for it."""
        write_text(self.path(u, ".error.txt"), why + "\n")

    def forgive(self, u: Unit) -> None:
        """Forget that a piece failed, before it is tried again."""
        self.path(u, ".error.txt").unlink(missing_ok=True)

    def failure(self, u: Unit) -> str | None:
        """Why a piece failed, in one line, if it did and has not been done since."""
        path = self.path(u, ".error.txt")
        return path.read_text(encoding="utf-8").strip().splitlines()[-1] if not self.has(u) and path.exists() else None

    def missing(self, units: Iterable[Unit]) -> list[Unit]:
        """Those not done yet, each once."""
        return [u for u in dict.fromkeys(units) if not self.has(u)]
