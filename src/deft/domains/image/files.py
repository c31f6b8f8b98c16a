"""What a source names: a file, a folder, or a part of one (`FILE:PART`); and what lies in a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from deft.domains.image.pictures import SUFFIXES
from deft.domains.image.volumes import is_scan, is_volume, looks_like_scan
from deft.errors import InputError
from deft.io.text import by_suffix, count, one_line


def exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, a folder that may not be entered, a null byte
        return False


def split_source(source: str | Path) -> tuple[Path, str | None]:
    """(path, part) of FILE or FILE:PART: a file that is there as it is written has no part."""
    text = str(source)
    if exists(Path(text)):
        return Path(text), None
    for i, letter in enumerate(text):
        if letter == ":" and 0 < i < len(text) - 1 and exists(Path(text[:i])):
            return Path(text[:i]), text[i + 1 :]
    return Path(text), None


def source_exists(source: str | Path) -> bool:
    """Whether there is such a file or folder, or one of which it names a part."""
    return exists(split_source(source)[0])


@dataclass
class Listing:
    """The pictures in a folder, in order of their names; what else there is; and what that is to be called."""

    files: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or is_scan(path) or is_volume(path)


def list_folder(folder: Path, recursive: bool) -> Listing:
    """Pictures of a folder, and of its subfolders if `recursive`. Hidden files are passed over.

    Raises:
        InputError: it cannot be read.
    """
    found, seen = Listing(), {os.path.realpath(folder)}
    folders = _scan(folder, found)
    while folders and recursive:
        inner = folders.pop(0)
        if (real := os.path.realpath(inner)) not in seen:  # links may lead round in a circle
            seen.add(real)
            folders += _scan(inner, found)
    found.files.sort()
    found.left_out.sort()
    if found.left_out:
        found.notes.append(
            f"left out: {by_suffix(p.suffix.lower() for p in found.left_out)} (not a kind of file that is read)"
        )
    below = _pictures_below(folders, seen)
    if below:
        found.notes.append(
            f"left out: {count(len(below), 'picture')} in {count(len({p.parent for p in below}), 'subfolder')}:"
            " --recursive takes them"
        )
    found.left_out += below
    return found


def _pictures_below(folders: list[Path], seen: set[str]) -> list[Path]:
    """What --recursive would find; folders that cannot be read are not asked for."""
    inner, todo = Listing(), list(folders)
    while todo:
        at = todo.pop(0)
        if (real := os.path.realpath(at)) not in seen:
            seen.add(real)
            with contextlib.suppress(InputError):
                todo += _scan(at, inner)
    return sorted(inner.files)


def _scan(folder: Path, found: Listing) -> list[Path]:
    """Sort what lies in one folder into `found`; returns its subfolders."""
    try:
        entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror or one_line(error)}") from error
    inner = []
    for entry in entries:
        path = Path(folder, entry.name)
        if os.path.isdir(path):  # which bears a link to itself
            inner.append(path)
        elif is_picture(path) or looks_like_scan(path):
            found.files.append(path)
        else:
            found.left_out.append(path)
    return inner


def relative(paths: Iterable[Path], folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in paths]


def check_file(path: Path) -> None:
    """Complain of what is no file with something in it, before anything opens it; errors do not repeat the path.

    A pipe would be waited for, and a link into a store of large files that is not there is how git-annex leaves them.
    """
    try:
        if not path.is_file():
            if path.is_symlink() and not path.exists():
                raise InputError(f"a link to {os.readlink(path)}, which is not there")
            raise InputError("not a regular file" if path.exists() else "not there")
        if path.stat().st_size == 0:
            raise InputError("the file is empty (0 bytes)")
        with path.open("rb") as f:
            head = f.read(64)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or one_line(error)}") from error
    if head.startswith(b"version https://git-lfs"):
        raise InputError("a pointer of Git LFS, not the picture: fetch it with git lfs pull")
