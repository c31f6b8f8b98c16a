"""Files that survive a power cut: everything is written beside its place and moved in when it is whole.

Weights are safetensors with a card (a JSON text) in their header; `state.pt` is the working state of a fit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from deft.errors import CheckpointError, InputError, OutputError
from deft.io.cards import check_card
from deft.io.claims import LOCK, STALE, is_alive, mark, note_written
from deft.io.reading import MAX_HEADER, file_size, json_table, parse_json, parsing
from deft.io.text import one_line
from deft.runtime.distributed import get_world
from deft.runtime.untrusted import check_crc, check_tensors, check_zip

NO_SPACE = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))
"""A full disk, a quota that is used up, a file that is larger than is allowed."""
TOLD_BY_OTHERS = ("inline_container", "PytorchStreamWriter", "file write failed", "os error")
"""In the messages of torch's and safetensors' writers, which keep the system's error to themselves."""
PART = ".part"
"""In the name of a file that is not whole yet: .NAME.MACHINE.PROCESS.START.RANDOM.part.SUFFIX"""
_UNFINISHED = re.compile(r"\.([0-9a-f]{8})\.(\d{1,10})\.(\d+)\.[0-9a-f]{8}\.part(?:\.[^.]{0,16})?$")
_later: ContextVar[dict[Path, None] | None] = ContextVar("later", default=None)
_swept: set[tuple[int, str]] = set()


def write_atomic(path: str | Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Call write(temporary path), then move the file to `path` in one step; of several processes the main one alone
    does.

    The file has the permissions that the umask leaves. What a process that was killed left unfinished in the folder is
    removed; what a living one is writing is not.

    Args:
        durable: the file is on the disk before it has its name, and its name before this returns, so that a power cut
            leaves the file as it was or as it is now. It costs two waits for the disk.

    Raises `OutputError` if the folder cannot be written or the disk is full; `path` is then as it was.
    """
    if not get_world().main:
        return
    path = Path(path)
    temporary = None
    try:
        make_folder(path.parent)
        _sweep(path.parent)
        note_written(path)
        temporary, mode = _new_part(path)
        write(temporary)
        os.chmod(temporary, mode)  # some writers make a file of their own
        later = _later.get()
        if durable and later is None:
            to_disk(temporary)
        os.replace(temporary, path)
        temporary = None
        if durable and later is None:
            to_disk(path.parent)
        elif durable and later is not None:
            later[path] = None
    except Exception as error:
        reason = _disk_error(error, temporary)
        if reason is None:
            raise
        raise cannot_write(path, reason) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def on_disk_together() -> Iterator[None]:
    """A block after which all files that were written in it are on the disk: one wait for many small files, which say
    nothing before the last of them is there."""
    files: dict[Path, None] = {}
    token = _later.set(files)
    try:
        yield
    finally:
        _later.reset(token)
    for path in (*files, *dict.fromkeys(p.parent for p in files)):
        try:
            to_disk(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise cannot_write(path, error) from error


def cannot_write(path: str | Path, reason: OSError) -> OutputError:
    """What is said of a file or folder that the system does not let us write."""
    advice = "free some space" if reason.errno in NO_SPACE else "give a place that can be written"
    if reason.errno == errno.ENAMETOOLONG:
        advice = "give a shorter name"
    return OutputError(f"cannot write {shortened(path)}: {reason.strerror or one_line(reason)}; {advice}")


def shortened(path: str | Path, longest: int = 160) -> str:
    """A path for a message: the middle of a very long one is left out."""
    text = str(path)
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 3 :]}"


def free_space(path: Path) -> int | None:
    """Bytes that are free where a file or folder is, or is to be; None where it cannot be told."""
    for place in (path, *path.absolute().parents):
        with suppress(OSError, ValueError):
            return shutil.disk_usage(place).free
    return None


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it; each survives a power cut."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        if one.exists() and not one.is_dir():  # another process may have made it just now
            raise NotADirectoryError(errno.ENOTDIR, "there is a file of that name", str(one))
        one.mkdir(exist_ok=True)
        to_disk(one.parent)


def _new_part(path: Path) -> tuple[Path, int]:
    """(an empty file beside `path`, to be written, and its permissions)."""
    suffix = path.suffix if len(path.suffix) <= 16 else ""
    while True:
        # what is longest in bytes still leaves room for the rest
        stem = path.name.encode("utf-8", "surrogateescape")[:120].decode("utf-8", "ignore")
        part = path.with_name(f".{stem}.{mark()}.{os.urandom(4).hex()}{PART}{suffix}")
        try:
            handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o666)
        except FileExistsError:
            continue
        try:
            return part, stat.S_IMODE(os.fstat(handle).st_mode)
        finally:
            os.close(handle)


def unfinished(folder: Path) -> list[Path]:
    """Files in a folder that a process was writing when it died."""
    found = []
    for entry in os.scandir(folder):
        match = _UNFINISHED.search(entry.name) if entry.name.startswith(".") else None
        if match is None or not entry.is_file(follow_symlinks=False):
            continue
        alive = is_alive(match[1], int(match[2]), match[3])
        if alive is None:
            alive = time.time() - entry.stat(follow_symlinks=False).st_mtime < STALE
        if not alive:
            found.append(Path(entry.path))
    return found


def _sweep(folder: Path) -> None:
    """Remove what was left unfinished in a folder; once for each folder and process."""
    key = (os.getpid(), str(folder))
    if key not in _swept:
        _swept.add(key)
        for path in unfinished(folder):
            with suppress(OSError):
                path.unlink()


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):  # a file system that knows no such thing
            raise
    finally:
        os.close(handle)


def _disk_error(error: BaseException, temporary: Path | None) -> OSError | None:
    """The system's error behind a writer's, if it is the disk that fails and not the writer."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen
        seen = seen.__cause__ or seen.__context__
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    if any(text in str(error) for text in TOLD_BY_OTHERS):
        return _refuses_more(temporary, 2**20) or OSError(None, one_line(error))
    if isinstance(error, (OSError, RuntimeError)):
        return _refuses_more(temporary, 2**12)
    return None


def _refuses_more(path: Path | None, size: int) -> OSError | None:
    """The system's error if a file cannot grow by so many bytes, else None."""
    if path is None:
        return None
    try:
        with open(path, "ab", buffering=0) as f:
            # a write may take a part of it, and say nothing
            left = size
            while left > 0:
                left -= f.write(bytes(left)) or left
            os.fsync(f.fileno())
    except OSError as error:
        return error
    return None


def write_text(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Write a text as UTF-8; of a name that is none, what cannot be written so is escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"), durable=durable)


def write_bytes(path: str | Path, data: bytes, *, durable: bool = True) -> None:
    write_atomic(path, lambda p: p.write_bytes(data), durable=durable)


def copy_file(source: Path, path: Path) -> None:
    """The bytes of a file under another name; folders on the way are made."""
    write_atomic(path, lambda part: shutil.copyfile(source, part))


def json_text(value: Any, **options: Any) -> str:
    """JSON as the standard has it: NaN and infinities, which it does not know, are null; arrays are lists, and what is
    no JSON otherwise is text.

    >>> json_text({"a": [1.5, float("nan")], "b": torch.tensor([2.0, 3.0])})
    '{"a": [1.5, null], "b": [2.0, 3.0]}'
    """

    def plain(v: Any) -> Any:
        if isinstance(v, dict):
            return {k: plain(x) for k, x in v.items()}
        if isinstance(v, list | tuple):
            return [plain(x) for x in v]
        return None if isinstance(v, float) and not math.isfinite(v) else v

    def other(v: Any) -> Any:
        return plain(v.tolist()) if hasattr(v, "tolist") else str(v)

    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, default=other, **options)
    if text.isprintable():
        return text
    # what a terminal would obey, or no encoding holds, is an escape of JSON; its own line breaks stay
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json_text(value, indent=1) + "\n")


def open_folder(path: str | Path, *, overwrite: bool = False, ours: Callable[[Path], bool] | None = None) -> Path:
    """The output folder, made if need be and known to be writable.

    Args:
        overwrite: accept one with files in it; those of the same name are replaced.
        ours: tells a folder that an earlier run of the same command left, which is accepted too.

    Raises:
        InputError: it exists, is a file, or cannot be written.
    """
    path = Path(path)
    if not get_world().main:  # which looks into the folder, and fills it
        return path
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"output folder {path} is a file: give another --out")
        if path.is_dir() and any(map(_counts, path.iterdir())) and not overwrite and not (ours and ours(path)):
            raise InputError(f"output folder {path} exists and is not empty: give another --out, or --overwrite")
        make_folder(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to output folder {shortened(path)}: {error.strerror or one_line(error)}; give another --out"
        ) from error
    return path


def _counts(path: Path) -> bool:
    """Whether a file makes a folder one that is in use: our lock does not, nor does an unfinished file."""
    return path.name != LOCK and not _UNFINISHED.search(path.name)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the working state of a fit, with a hash of the file's bytes as the comment at its end."""

    def write(p: Path) -> None:
        torch.save(state, p)
        with p.open("r+b") as f:
            f.seek(-2, os.SEEK_END)  # the length of the comment, 0
            end = f.tell()
            comment = STATE_SEAL + _digest(f, end).encode()
            f.seek(end)
            f.write(len(comment).to_bytes(2, "little") + comment)

    write_atomic(path, write)


STATE_SEAL = b"deft sha256 "


def _digest(f: BinaryIO, end: int) -> str:
    """SHA-256 of the first bytes of a file."""
    found = hashlib.sha256()
    f.seek(0)
    while end > 0 and (part := f.read(min(end, 2**20))):
        found.update(part)
        end -= len(part)
    return found.hexdigest()


def _check_state(path: Path) -> None:
    """Compare a state's bytes with the hash at its end; of version 0.1, which wrote none, the checksums of its
    members. Raises `ValueError`: they differ."""
    members = check_zip(path, stored=True)
    size = len(STATE_SEAL) + 64
    with path.open("rb") as f:
        f.seek(-(size + 2), os.SEEK_END)
        end, last = f.tell(), f.read()
        if last[:2] == size.to_bytes(2, "little") and last[2:-64] == STATE_SEAL:
            if last[-64:] != _digest(f, end).encode():
                raise ValueError("it has another SHA-256 than when it was written")
            return
    if last[-2:] != b"\0\0":
        raise ValueError("it does not end as torch.save ends a file")
    check_crc(path, members)


def is_of_deft(path: Path) -> bool:
    """Whether a file of tensors was written by this library, as far as its beginning and its end tell: a card, the
    hash of a state, or, of version 0.1, which wrote none, the names of what a state holds."""
    with suppress(OSError, ValueError, CheckpointError, zipfile.BadZipFile), path.open("rb") as f:
        if path.suffix == ".safetensors":
            header = json.loads(f.read(min(int.from_bytes(f.read(8), "little"), MAX_HEADER)))
            return "deft" in header.get("__metadata__", {})
        f.seek(-min(100, path.stat().st_size), os.SEEK_END)
        if STATE_SEAL in f.read():
            return True
        check_zip(path, stored=True)
        with zipfile.ZipFile(f) as members:
            inside = next(n for n in members.namelist() if n.endswith("/data.pkl"))
            names = members.read(inside)
        return any(all(k.encode() in names for k in keys) for keys in (STATE, ("own", "rows", "h")))
    return False


STATE = frozenset({"config", "step", "elapsed", "history", "raw", "ema", "optimiser"})
"""What `state.pt` holds."""


def load_state(path: Path, device: torch.device, needs: frozenset[str] = STATE) -> dict[str, Any]:
    """What `save_state` wrote. The checksum of every member of the zip file is compared, and nothing in it is run.

    Raises `CheckpointError`: it is damaged, or not the state of a fit.
    """
    what, way = "the state of a fit", "; start again without --resume"
    file_size(path, what)
    with parsing(path, what, way_out=way):
        _check_state(path)  # torch.load looks at no checksum
        state = torch.load(path, map_location=device, weights_only=True)
        check_tensors(state)
    if not isinstance(state, dict) or not needs <= set(state):
        raise CheckpointError(f"{path} is truncated or not {what}{way}")
    return state


NEEDS = {"h-transform": ("h", "task", "prior_sha256"), "prior": ("network", "schedule", "output", "event_shape")}
"""Kind of a card -> fields that must be there."""
FORMAT = 1
"""Of the cards that this version reads and writes."""
SEAL = "deft_sha256"
"""Beside the card in a file's header: `seal` of both card and tensors. Files of 0.1 have none."""


def seal(card: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a card's text and of the names, types, shapes and bytes of tensors.

    It tells a file that was damaged from one that was not; whoever changes a file on purpose can change this, too.
    """
    found = hashlib.sha256(card.encode())
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        found.update(f"\n{name} {t.dtype} {list(t.shape)}\n".encode())
        found.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def save_weights(path: str | Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write tensors and their card as one safetensors file, and a hash of both (`seal`).

    Raises `InputError`: the file cannot be written.
    """
    flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    text = json.dumps(card)
    about = {"deft": text, SEAL: seal(text, flat)}
    write_atomic(path, lambda p: save_file(flat, p, metadata=about))


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the card of a file written by `save_weights`; its hash is compared, if it has one.

    Raises `CheckpointError` if the file is missing, truncated, damaged, another library's, or of a later version.
    """
    what = "a safetensors file"
    if not os.path.isfile(path):  # False for a name that is too long, where Path raises
        raise CheckpointError(f"no such checkpoint: {path}")
    path = Path(path)
    check_header(path)
    with parsing(path, what), safe_open(path, framework="pt") as f:
        about = f.metadata() or {}
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    if about.get("deft") is None:
        raise CheckpointError(f"{path} is a safetensors file of another library: it has no deft card")
    try:
        card = json_table(parse_json(about["deft"], path, "a card"), path, "a card")
    except CheckpointError as error:
        raise CheckpointError(f"{path} has a damaged card ({error}): take the file from its source again") from error
    check_format(path, card)
    if SEAL in about and about[SEAL] != seal(about["deft"], tensors):
        raise CheckpointError(
            f"{path} is damaged: what it holds has another SHA-256 than when it was written; take it from its source"
            " again"
        )
    # whether a field that must be there is missing, only those know who want this kind
    check_card(path, card, [k for k in NEEDS.get(str(card.get("kind")), ()) if k in card])
    return from_bytes(path, tensors), card


SCALE = ".scale"
"""After the name of a tensor of bytes: the name of its scales."""


def from_bytes(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of bytes (int8) that come with scales [rows, groups], as numbers in float32: each byte times the scale of
    its row (the first axis) and of its group of neighbours in the row. The others are as they are."""
    stored = {k for k, v in tensors.items() if v.dtype == torch.int8 and v.ndim and k + SCALE in tensors}
    found = {k: v for k, v in tensors.items() if k.removesuffix(SCALE) not in stored or k in stored}
    for name in stored:
        value, scale = tensors[name], tensors[name + SCALE]
        rows, groups = scale.shape if scale.ndim == 2 else (0, 0)
        if rows == 0 or rows != value.shape[0] or groups == 0 or (value.numel() // rows) % groups:
            raise CheckpointError(
                f"{path} is damaged: {name} is {list(value.shape)}, its scales {list(scale.shape)}: take it from its"
                " source again"
            )
        found[name] = (value.reshape(rows, groups, -1).float() * scale.float()[..., None]).reshape(value.shape)
    return found


def check_header(path: Path) -> None:
    """Refuse a safetensors file that cannot be one, by its size and the length of its header alone."""
    what = "a safetensors file"
    size = file_size(path, what)
    with parsing(path, what), path.open("rb") as f:
        header = int.from_bytes(f.read(8), "little")
    if size < 8 or header > size - 8:
        raise CheckpointError(f"{path} is truncated or not {what} (its header does not fit into {size:,} bytes)")
    if header > MAX_HEADER:
        raise CheckpointError(f"{path} has a header of {header:,} bytes, at most {MAX_HEADER:,} are read")


def check_format(path: str | Path, card: Mapping[str, Any], known: int = FORMAT) -> None:
    """Refuse a card of a format that a later version writes, or that is no number. Without one it is the first."""
    found = card.get("format", 1)
    if type(found) is not int or found < 1:
        raise CheckpointError(f"{path} has a card of the format {found!r:.40}, expected a number from 1 to {known}")
    if found > known:
        raise CheckpointError(
            f"{path} was written by a newer version of deft (format {found} is of a later version than this one, which"
            f" reads {known}): update deft"
        )
