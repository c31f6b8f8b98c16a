"""Where a comparison keeps its pieces: named by what they are and by a hash of everything that decides them.

A result is one JSON file (`<kind>/<key>.json`), with what belongs to it beside it. Samples are one .npz file, which
grows as they are drawn. What is there is never done again, so a comparison that was stopped resumes where it stopped,
and a changed one redoes what changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deft.errors import InputError
from deft.io.arrays import save_arrays
from deft.io.files import write_text

FORMAT = 1
"""Part of every hash; raised when what a piece holds changes."""


@dataclass(frozen=True)
class Job:
    """One piece of work. kind: fit, draw or cost. name: for people. spec: everything that decides the result, as plain
    JSON.

    pictures: of so many cases arrays are kept, too; no part of the hash.
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
        return f"{self.name}-{_digest(f'{FORMAT} {self.kind} {self.spec}')}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_job(kind: str, name: str, spec: Mapping[str, Any], pictures: int = 0) -> Job:
    return Job(kind, name, json.dumps(spec, sort_keys=True), pictures)


@dataclass
class Drawn:
    """Samples [*] in the order of their cases; seconds and peak memory (MiB, above what was there; None on a GPU) of
    drawing them."""

    x: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0
    mib: float | None = None

    def first(self, n: int) -> Drawn:
        """The first n, with their share of the seconds."""
        return Drawn(self.x[:n], self.seconds * n / len(self.x), self.mib)


class Store:
    """A folder of results: <kind>/<key>.json, and what belongs to them beside it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, job: Job, suffix: str = ".json") -> Path:
        return self.folder / job.kind / f"{job.key}{suffix}"

    def has(self, job: Job) -> bool:
        return self.path(job).exists()

    def read(self, job: Job) -> dict[str, Any]:
        path = self.path(job)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path} ({error}): delete it, and it is done again") from error

    def write(self, job: Job, result: Mapping[str, Any]) -> None:
        write_text(
            self.path(job),
            json.dumps(
                {"kind": job.kind, "name": job.name, "spec": job.settings, **result}, indent=1, ensure_ascii=False
            )
            + "\n",
        )

    def fail(self, job: Job, why: str) -> None:
        """Note that a piece failed: it is not there, but nobody need wait for it."""
        write_text(self.path(job, ".error.txt"), why + "\n")

    def forgive(self, job: Job) -> None:
        """Forget that a piece failed, before it is tried again."""
        self.path(job, ".error.txt").unlink(missing_ok=True)

    def failure(self, job: Job) -> str | None:
        """Why a piece failed, in one line, if it did and has not been done since."""
        path = self.path(job, ".error.txt")
        return (
            path.read_text(encoding="utf-8").strip().splitlines()[-1] if not self.has(job) and path.exists() else None
        )

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """Those not done yet, each once."""
        return [j for j in dict.fromkeys(jobs) if not self.has(j)]

    # samples

    def samples_path(self, job: Job) -> Path:
        """The file holds its whole spec, and is known by that: its name needs a hash of nothing else."""
        return self.folder / job.kind / f"{job.name}-{_digest(job.spec)}.npz"

    def write_samples(self, job: Job, drawn: Drawn) -> None:
        """All samples that were drawn so far; they may differ in the length of their first axis."""
        save_arrays(
            self.samples_path(job),
            x=np.concatenate(drawn.x) if drawn.x else np.zeros(0, np.float32),
            length=np.array([len(x) for x in drawn.x], np.int64),
            seconds=drawn.seconds,
            mib=math.nan if drawn.mib is None else drawn.mib,
            key=np.array(job.spec),
        )

    def read_samples(self, job: Job) -> Drawn:
        """What is there of the samples of this spec; none, if the file is missing, damaged, or another's."""
        try:
            with np.load(self.samples_path(job), allow_pickle=False) as d:
                if str(d["key"]) != job.spec or not len(d["length"]):
                    return Drawn()
                x = np.split(d["x"], np.cumsum(d["length"])[:-1])
                return Drawn(list(x), float(d["seconds"]), None if np.isnan(d["mib"]) else float(d["mib"]))
        # no such file, a part of one, no such field: drawn again
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return Drawn()
