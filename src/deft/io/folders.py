"""The folder that a command writes into: one process at a time, and nothing of an earlier run among the new files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from deft.errors import CheckpointError, InputError
from deft.io.claims import LOCK, PART_LOCK, Claim, claimed, holder, in_use, is_held
from deft.io.files import cannot_write, is_of_deft, make_folder, open_folder, shortened, to_disk
from deft.io.reading import read_json
from deft.runtime.distributed import get_world

P = ParamSpec("P")
T = TypeVar("T")

STATE_FIRST = ("state.pt", "sizes.json", "round.pt")
"""Removed before the rest: no state of an earlier run may be taken for the new one's."""
WEIGHTS = ("h.safetensors", "prior.safetensors")
"""What is read of a folder that is given as an h or a prior."""


TENSORS = (".pt", ".safetensors")
"""Ends of names of files that are looked into before they are removed: other programs call theirs so, too."""


@dataclass(frozen=True)
class Outputs:
    """What a command writes, so that an earlier run's files are known: each command has one, where its code is.

    command: its name, for whoever else wants the folder. names: of its own files; a pattern where there is a backslash.
    For a command whose further files depend on how it was asked: list_file is the file that lists them, `listed` takes
    their names from its JSON, and `form` is the pattern of such a name. A name of another form in that file is not
    looked at: it may be a stranger's.
    """

    command: str
    names: tuple[str, ...] = ()
    list_file: str = ""
    listed: Callable[[dict[str, Any]], Iterable[Any]] = lambda about: ()
    form: str = ""


FIT_FILES = ("h.safetensors", "card.md", "log.json", *STATE_FIRST)
REPORT_FILES = ("report.md", "report.json", "samples.png", "samples.npz")


def files_of(folder: Path, outputs: Outputs, listed: Iterable[str] = ()) -> list[Path]:
    """Files in a folder that an earlier run of the same command wrote; those that tell how far it was come first.

    listed: further names, of a run that was killed. Names that lead out of the folder are left out.
    """
    if not folder.is_dir():
        return []
    names: dict[str, None] = {}
    for name in outputs.names:
        if "\\" not in name:
            names[name] = None
            continue
        part, _, last = name.rpartition("/")
        for inside in sorted(folder.iterdir()) if part else [folder]:
            if (not part or re.fullmatch(part, inside.name)) and inside.is_dir() and not inside.is_symlink():
                names |= dict.fromkeys(
                    f.relative_to(folder).as_posix() for f in sorted(inside.iterdir()) if re.fullmatch(last, f.name)
                )
    if outputs.list_file:
        with suppress(CheckpointError, AttributeError, TypeError):
            found = outputs.listed(read_json(folder / outputs.list_file, "a list of files"))
            names |= dict.fromkeys(n for n in found if isinstance(n, str) and re.fullmatch(outputs.form, n))
    names |= dict.fromkeys(n for n in listed if not n.startswith("/") and ".." not in n.split("/") and "\\" not in n)
    first = [n for n in names if n in STATE_FIRST]
    there = [folder / n for n in (*first, *(n for n in names if n not in first))]
    home = folder.resolve()
    return [p for p in there if (p.is_file() or p.is_symlink()) and p.parent.resolve().is_relative_to(home)]


@contextmanager
def own_folder(
    path: str | Path,
    outputs: Outputs,
    *,
    overwrite: bool = False,
    resume: bool = False,
    ours: Callable[[Path], bool] | None = None,
    inputs: Iterable[Path | str | None] = (),
) -> Iterator[Path]:
    """The output folder of a command, held by this process alone for the time of a block.

    With `overwrite`, or where `ours` knows it, files of an earlier run of the same command are removed first; others
    stay. `resume` removes nothing. Of several processes the main one alone does all this.

    Args:
        outputs: what the command writes.
        inputs: what the command reads; it must not be among what is removed.

    Raises:
        OutputError: another process writes there, or it cannot be written.
        InputError: there are files in it, and neither `overwrite` nor `resume` was given.
    """
    path = Path(path)
    if not get_world().main:
        yield path
        return
    open_folder(path, overwrite=True)
    with claimed(path, what=outputs.command, listing=bool(outputs.list_file)) as claim:
        if not resume:
            open_folder(path, overwrite=overwrite, ours=ours)
            _clear(path, outputs, claim, [Path(p) for p in inputs if p is not None])
        try:
            yield path
        except BaseException:
            if {p for p in (path / name for name in claim.names) if p.exists()} <= set(files_of(path, outputs)):
                claim.names.clear()  # all are known without the list
            raise


def _clear(folder: Path, outputs: Outputs, claim: Claim, inputs: list[Path]) -> None:
    """Remove what an earlier run of the command left."""
    old = files_of(folder, outputs, claim.names)
    used = {p.resolve() for p in inputs if _is_there(p)}
    for path in old:
        if path.resolve() in used or (path.name in WEIGHTS and path.parent.resolve() in used):
            raise InputError(
                f"{shortened(path)} is read by this command, and --overwrite would remove it: give another --out"
            )
        if path.suffix in TENSORS and not is_of_deft(path):
            raise InputError(
                f"{shortened(path)} is not known as a file of deft's, and --overwrite would remove it: give another"
                " --out, or move it away"
            )
    try:
        for path in old:
            path.unlink(missing_ok=True)
        for inside in {p.parent for p in old} - {folder}:
            with suppress(OSError):  # a user's files are in it
                inside.rmdir()
        if old:
            to_disk(folder)
        claim.forget()
    except OSError as error:
        raise cannot_write(error.filename or folder, error) from error


@contextmanager
def own_file(path: Path, what: str, *, overwrite: bool = False) -> Iterator[None]:
    """The one file that a command writes, held by this process alone for the time of a block.

    Raises:
        OutputError: another process writes it, or it cannot be written.
        InputError: it is there, and `overwrite` was not given.
    """
    if get_world().main:
        try:
            if path.is_dir():
                raise InputError(f"{path} is a folder: give a file")
            make_folder(path.parent)
        except OSError as error:
            raise cannot_write(path, error) from error
    name = f"{LOCK}-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}"
    with claimed(path.parent, what=what, name=name, where=path):
        if path.exists() and not overwrite:
            raise InputError(f"{path} is there already: give another --out, or --overwrite")
        yield


@contextmanager
def part_of_folder(path: Path, what: str, part: int = 0, parts: int = 1) -> Iterator[None]:
    """A folder that `parts` processes fill together: this one is part number `part`, from 0.

    Raises `OutputError` if another process is this part, all parts in one, or a part of another number of parts.
    """
    try:
        make_folder(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    if parts == 1:
        with claimed(path, what=what, every=True):
            yield
        return
    own = f"{PART_LOCK}{part + 1}-of-{parts}"
    with claimed(path, what=what, shared=True, every=True), claimed(path, what=what, name=own, every=True):
        for other in path.glob(f"{PART_LOCK}*"):
            if not other.name.endswith(f"-of-{parts}") and is_held(other):
                raise in_use(path, holder(other))
        yield


def holds_folder(function: Callable[P, T]) -> Callable[P, T]:
    """A function that keeps its state in `folder`, an argument by name: it is this process's alone meanwhile."""

    @wraps(function)
    def held(*args: P.args, **given: P.kwargs) -> T:
        folder = given.get("folder")
        if folder is None or (given.get("resume") and not Path(str(folder)).is_dir()):
            return function(*args, **given)
        path = Path(str(folder))
        try:
            if get_world().main:
                make_folder(path)
        except OSError as error:
            raise cannot_write(path, error) from error
        with claimed(path, what="fit"):
            return function(*args, **given)

    return held


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
