"""Where a comparison keeps its pieces: named by what they are and by a hash of everything that decides them.

A result is one JSON file (`<kind>/<key>.json`), with what belongs to it beside it. Samples are one .npz file, which
grows as they are drawn. What is there is never done again, so a comparison that was stopped resumes where it stopped,
and a changed one redoes what changed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deft.errors import InputError
from deft.io.arrays import read_arrays, save_arrays
from deft.io.files import write_text
from deft.io.reading import json_table, parsing, read_json, read_text

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

    def read(self, job: Job, whole: bool = False) -> dict[str, Any]:
        """What a piece holds, known to be what was written for this job. whole: nothing that a report needs may lack.

        Raises `InputError`, naming the piece: it is damaged, was changed, or is another's.
        """
        path = self.path(job)
        try:
            result = json_table(read_json(path, "a piece of a comparison", InputError), path, "a piece", InputError)
            _check_piece(job, result, whole)
        except ValueError as error:  # InputError is one
            text = str(error) if str(path) in str(error) else f"cannot read {path}: {error}"
            raise InputError(f"{text}; delete it, and it is done again") from error
        return result

    def write(self, job: Job, result: Mapping[str, Any]) -> None:
        """Write a piece, with a hash of what it holds. An array file beside it, which is written first, has its own
        there, too."""
        whole = {"kind": job.kind, "name": job.name, "spec": job.settings, **result}
        arrays = self.path(job, ".npz")
        if arrays.exists():
            whole["npz_sha256"] = hashlib.sha256(arrays.read_bytes()).hexdigest()
        whole["sha256"] = _piece_digest(whole)
        write_text(self.path(job), json.dumps(whole, indent=1, ensure_ascii=False) + "\n")

    def arrays(self, job: Job) -> dict[str, np.ndarray] | None:
        """The arrays beside a piece, None if there are none.

        Raises `InputError`, naming the file, if they are not those that were written with it.
        """
        path = self.path(job, ".npz")
        if not path.exists():
            return None
        kept = self.read(job).get("npz_sha256")
        if kept is not None:
            with parsing(path, "a file of arrays", InputError):
                found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != kept:
                raise InputError(
                    f"{path} is damaged: it has another SHA-256 than when it was written; delete it and"
                    f" {self.path(job).name}, and both are done again"
                )
        return read_arrays(path)

    def fail(self, job: Job, why: str) -> None:
        """Note that a piece failed: it is not there, but nobody need wait for it."""
        write_text(self.path(job, ".error.txt"), why + "\n")

    def forgive(self, job: Job) -> None:
        """Forget that a piece failed, before it is tried again."""
        self.path(job, ".error.txt").unlink(missing_ok=True)

    def failure(self, job: Job) -> str | None:
        """Why a piece failed, in one line, if it did and has not been done since."""
        path = self.path(job, ".error.txt")
        if self.has(job) or not path.exists():
            return None
        lines = read_text(path, "a note of a failure", kind=InputError).strip().splitlines()
        return lines[-1] if lines else "failed, and nobody wrote down why"

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """Those not done yet, each once."""
        return [j for j in dict.fromkeys(jobs) if not self.has(j)]

    # samples

    def samples_path(self, job: Job) -> Path:
        """The file holds its whole spec, and is known by that: its name needs a hash of nothing else."""
        return self.folder / job.kind / f"{job.name}-{_digest(job.spec)}.npz"

    def write_samples(self, job: Job, drawn: Drawn) -> None:
        """All samples that were drawn so far; they may differ in the length of their first axis."""
        kept = {
            "x": np.concatenate(drawn.x) if drawn.x else np.zeros(0, np.float32),
            "length": np.array([len(x) for x in drawn.x], np.int64),
            "seconds": np.array(drawn.seconds, np.float64),
            "mib": np.array(math.nan if drawn.mib is None else drawn.mib, np.float64),
            "key": np.array(job.spec),
        }
        save_arrays(self.samples_path(job), **kept, sha256=np.array(_arrays_digest(kept)))

    def read_samples(self, job: Job) -> Drawn:
        """What is there of the samples of this spec; none, if the file is missing, damaged, or another's."""
        path = self.samples_path(job)
        if not path.exists():
            return Drawn()
        try:
            d = read_arrays(path)
            if str(d["key"]) != job.spec or not len(d["length"]):
                return Drawn()
            if "sha256" in d and str(d.pop("sha256")) != _arrays_digest(d):
                return Drawn()
            lengths, seconds, mib = d["length"], float(d["seconds"]), float(d["mib"])
            if lengths.dtype.kind != "i" or lengths.min() < 0 or lengths.sum() != len(d["x"]) or not seconds >= 0:
                return Drawn()
            return Drawn(list(np.split(d["x"], np.cumsum(lengths)[:-1])), seconds, None if np.isnan(mib) else mib)
        except (InputError, KeyError, TypeError, ValueError):  # a part of a file, no such field: drawn again
            return Drawn()


def _piece_digest(piece: Mapping[str, Any]) -> str:
    """SHA-256 of what a piece holds, but for the hash itself; as it is read again, for JSON knows no tuples."""
    plain = json.loads(json.dumps({k: v for k, v in piece.items() if k != "sha256"}))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {a.dtype.str} {list(a.shape)}\n".encode())
        found.update(a.tobytes())
    return found.hexdigest()


NUMBERS = ("seconds", "once", "seconds_per_call", "backward", "calls", "parameters", "share", "took", "threads")
"""Fields of a piece that are numbers, where they are there."""
NEEDS = {"fit": ("seconds", "parameters", "share"), "draw": ("per_image", "calls"), "cost": ("seconds", "calls")}


def _check_piece(job: Job, piece: dict[str, Any], whole: bool = False) -> None:
    """Raises `ValueError`: another's, changed since it was written, or of fields that a report cannot use."""
    if "sha256" in piece and piece["sha256"] != _piece_digest(piece):  # of version 0.1 there is none
        raise ValueError("it was changed since it was written, or is damaged: what it holds has another SHA-256")
    # what was written by hand, or elsewhere, may leave out what it is
    for field_, own in (("kind", job.kind), ("spec", json.loads(json.dumps(job.settings)))):
        if field_ in piece and piece[field_] != own:
            raise ValueError(f"it is a piece of something else: its {field_} is not the one that was asked for")
    if "failed" in piece:
        if not isinstance(piece["failed"], str):
            raise ValueError("failed is no text")
        return
    missing = [k for k in NEEDS.get(job.kind, ()) if k not in piece]
    if missing and whole:
        raise ValueError(f"it lacks {missing[0]}")
    for name in NUMBERS:
        if name in piece and not _is_real(piece[name]):
            raise ValueError(f"{name} is no number")
    if piece.get("memory_mib") is not None and not _is_real(piece["memory_mib"]):
        raise ValueError("memory_mib is no number")
    values = piece.get("per_image", {})
    if not isinstance(values, dict) or not all(isinstance(v, list) and all(map(_is_real, v)) for v in values.values()):
        raise ValueError("per_image is no table of lists of numbers")
    if len({len(v) for v in values.values()}) > 1 or any(not v for v in values.values()):
        raise ValueError("its metrics are not of as many cases each")


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
