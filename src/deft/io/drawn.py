"""Samples on the disk while they are drawn: chunk after chunk, so that a run that was killed goes on after the last
whole one.

`samples.drawn` holds the values one after the other, `drawn.jsonl` what they are of, in its first line, and then a line
for each chunk that is whole. A chunk counts from the moment its line is on the disk; whatever else is in the first
file, a process was writing when it died.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from deft.errors import CheckpointError
from deft.io.cards import is_count, is_number
from deft.io.claims import note_written
from deft.io.files import cannot_write, to_disk, write_text
from deft.io.identity import other_identity, plain

VALUES, CHUNKS = "samples.drawn", "drawn.jsonl"
FORMAT = 1
MAPPED = 2**28
"""Bytes of samples from which on they are not read into memory, but seen through the file."""
WAY_OUT = "give the command that began it, another --out, or --overwrite to draw anew"


class DrawnFile:
    """The samples [done, *shape] that a folder has so far, of a run that `identity` describes (plain values).

    `begin` starts with none, `resume` with those that are there. done: how many. seconds: what drawing them took.
    files: names of what else was written of them, as `append` was told.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.values, self.chunks, self.identity = folder / VALUES, folder / CHUNKS, plain(identity)
        self.done, self.seconds, self.files = 0, 0.0, cast("list[str]", [])
        self._shape: tuple[int, ...] = ()
        self._dtype = ""

    @classmethod
    def begin(cls, folder: Path, identity: Mapping[str, Any]) -> DrawnFile:
        """None so far; what an earlier run kept is lost."""
        new = cls(folder, identity)
        with _writing(new.chunks):
            new.chunks.unlink(missing_ok=True)
        with _writing(new.values):
            note_written(new.values)
            os.close(os.open(new.values, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))
        write_text(new.chunks, json.dumps({"format": FORMAT, "identity": new.identity}) + "\n")
        return new

    @classmethod
    def resume(cls, folder: Path, identity: Mapping[str, Any]) -> DrawnFile:
        """Those that a run that was stopped has left.

        Raises:
            CheckpointError: there are none, they are of another run, or damaged.
        """
        new = cls(folder, identity)
        about, lines = read_chunks(folder)
        if other := other_identity(about, new.identity):
            raise CheckpointError(f"{folder} holds samples of another run ({other}): {WAY_OUT}")
        kept = [lines[0]]
        with _writing(new.values):
            size = new.values.stat().st_size
            with open(new.values, "rb") as f:
                for line in lines[1:]:
                    if _bytes(line) > size or not new._take(line, f.read(_bytes(line))):
                        break  # and all that come after it
                    kept.append(line)
            os.truncate(new.values, new._row_bytes * new.done)
        if len(kept) < len(lines) or not new.chunks.read_bytes().endswith(b"\n"):
            write_text(new.chunks, "".join(json.dumps(line) + "\n" for line in kept))
        note_written(new.values)
        note_written(new.chunks)
        return new

    @property
    def _row_bytes(self) -> int:
        return math.prod(self._shape) * np.dtype(self._dtype).itemsize if self.done else 0

    def _take(self, line: Mapping[str, Any], data: bytes) -> bool:
        """Count a chunk in; False if its values are not those that were written, or of another form."""
        shape, dtype = tuple(line["shape"]), line["dtype"]
        if hashlib.sha256(data).hexdigest() != line["sha256"] or (self.done and (shape, dtype) != self._form):
            return False
        self._shape, self._dtype = shape, dtype
        self.done, self.seconds = self.done + line["rows"], self.seconds + line["seconds"]
        self.files += line["files"]
        return True

    @property
    def _form(self) -> tuple[tuple[int, ...], str]:
        return self._shape, self._dtype

    def append(self, x: Tensor, seconds: float = 0.0, files: Sequence[str] = ()) -> None:
        """The next samples [B, *shape], on the disk when this returns.

        files: names of what was written of them (pictures), which must be on the disk by now.
        """
        array = np.ascontiguousarray(x.detach().cpu().numpy())
        data = array.tobytes()
        line = {
            "rows": len(array),
            "shape": list(array.shape[1:]),
            "dtype": array.dtype.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "seconds": round(seconds, 3),
            "files": list(files),
        }
        _append(self.values, data)
        _append(self.chunks, (json.dumps(line) + "\n").encode())
        if not self._take(line, data):
            raise CheckpointError(
                f"samples of shape {tuple(line['shape'])}, {line['dtype']}, follow others of {self._shape},"
                f" {self._dtype}"
            )

    def read(self) -> Tensor:
        """All samples [done, *shape]: in memory, or seen through the file where they take more than `MAPPED` bytes.
        Changes of them do not reach the file."""
        dtype = torch.from_numpy(np.zeros(0, self._dtype)).dtype
        size = self.done * math.prod(self._shape)
        x = torch.from_file(str(self.values), shared=False, size=size, dtype=dtype).reshape(self.done, *self._shape)
        return x if x.numel() * x.element_size() > MAPPED else x.clone()

    def remove(self) -> None:
        """The chunks first: values without them say nothing."""
        with suppress(OSError):  # where a file that is seen cannot be removed
            self.chunks.unlink(missing_ok=True)
            self.values.unlink(missing_ok=True)


def drawn_so_far(folder: Path) -> int | None:
    """How many samples a run that was stopped has left in a folder, by what it says; None where there are none."""
    try:
        return sum(line["rows"] for line in read_chunks(folder)[1][1:])
    except CheckpointError:
        return None


def read_chunks(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(what the samples are of, all lines). A last line that is not whole is left out."""
    path = folder / CHUNKS
    try:
        if not (folder / VALUES).is_file() or not path.is_file():
            raise CheckpointError(f"nothing to resume: {folder} holds no samples of a run that was stopped")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path} ({error}): {WAY_OUT}") from error
    lines: list[dict[str, Any]] = []
    for one in text.splitlines():
        try:
            found = json.loads(one)
        except (ValueError, RecursionError):
            break
        if not isinstance(found, dict) or (lines and not _is_chunk(found)):
            break
        lines.append(found)
    if not lines or lines[0].get("format") != FORMAT or not isinstance(lines[0].get("identity"), dict):
        raise CheckpointError(f"{path} is damaged, or of another version of deft: {WAY_OUT}")
    return lines[0]["identity"], lines


def _is_chunk(line: Mapping[str, Any]) -> bool:
    shape, files = line.get("shape"), line.get("files")
    return (
        is_count(line.get("rows"))
        and line["rows"] > 0
        and isinstance(shape, list)
        and all(is_count(v) for v in shape)
        and line.get("dtype") in ("float16", "float32", "float64")
        and isinstance(line.get("sha256"), str)
        and is_number(line.get("seconds"))
        and isinstance(files, list)
        and all(isinstance(f, str) for f in files)
    )


def _bytes(line: Mapping[str, Any]) -> int:
    return int(line["rows"] * math.prod(line["shape"]) * np.dtype(line["dtype"]).itemsize)


def _append(path: Path, data: bytes) -> None:
    """More at the end of a file, on the disk when this returns."""
    with _writing(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
        finally:
            os.close(handle)
        to_disk(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
