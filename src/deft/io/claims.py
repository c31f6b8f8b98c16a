"""Who is writing where: one process at a time in a folder, and whose an unfinished file is.

A process that writes into a folder holds a lock on `.deft-lock` in it. The lock is the kernel's (`flock`), so it ends
with the process, however that ends; where a file system has none, the file itself is the lock, and counts for as long
as the process that it names is alive. The file says who holds it, and which files were written under it: after a kill
they are known for what they are. It is removed at the end of the work.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from deft.errors import OutputError
from deft.io.text import one_line
from deft.runtime.distributed import get_world

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".deft-lock"
"""Name of the file in a folder that a process writes into."""
PART_LOCK = ".deft-part-"
"""How names of the locks begin that those have who share a folder."""
STALE = 3600.0
"""Seconds after which an unfinished file of another machine, which nobody writes to any more, is taken for dead."""
LARGEST = 2**20
"""Bytes of a lock file that are read."""
NO_LOCKS = frozenset(
    getattr(errno, name) for name in ("ENOTSUP", "EOPNOTSUPP", "ENOLCK", "ENOSYS", "EINVAL") if hasattr(errno, name)
)
"""What `flock` answers where there are no such locks."""


@cache
def _machine() -> str:
    """Eight letters for this machine since it was started; processes of one such machine see each other's numbers."""
    parts = [socket.gethostname()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        with contextlib.suppress(OSError):
            parts.append(read().strip())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _started(pid: int) -> str:
    """When a process started, in ticks; "" where nobody says. A number that is used again has another."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def mark() -> str:
    """This process in a file's name: machine, number, start."""
    pid = os.getpid()
    return f"{_machine()}.{pid}.{_started(pid) or 0}"


def is_alive(machine: str, pid: int, started: str) -> bool | None:
    """Whether the process of a mark still runs; None if nobody here can know: it is of another machine."""
    if machine != _machine() or sys.platform == "win32":
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # another user's
    now = _started(pid)
    return started in ("", "0", now) or not now


@dataclass
class Claim:
    """A lock that this process holds. path: of its file. listing: whether the file lists what is written under it,
    names: that list, with what a process that was killed left in it."""

    path: Path
    handle: int | None
    what: str
    listing: bool = False
    count: int = 1
    names: dict[str, None] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.path.parent

    def note(self, name: str) -> None:
        """Write down that a file is being written."""
        if self.listing and name not in self.names:
            self.names[name] = None
            self._put((json.dumps(name) + "\n").encode())

    def forget(self) -> None:
        """Begin the file anew: who holds it, and nothing written."""
        self.names.clear()
        if self.handle is not None:
            os.ftruncate(self.handle, 0)
            os.lseek(self.handle, 0, os.SEEK_SET)
        self._put((json.dumps(_myself() | {"what": self.what}) + "\n").encode())

    def _put(self, data: bytes) -> None:
        if self.handle is not None:
            os.write(self.handle, data)


_held: dict[tuple[int, str], Claim] = {}
"""(process, real path of the lock's file) -> the lock."""


def _myself() -> dict[str, Any]:
    """Who this is, for whoever comes second."""
    program, *rest = sys.argv or [""]
    name = "deft" if Path(program).name in ("deft", "__main__.py") else Path(program).name
    pid = os.getpid()
    return {
        "pid": pid,
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join([name, *rest])[:500],
        "machine": _machine(),
        "started": _started(pid),
    }


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """(who, names of what was written) of a lock's file; a damaged one says nothing."""
    try:
        with open(path, "rb") as f:
            lines = f.read(LARGEST).decode("utf-8", "replace").splitlines()
        first, *rest = (json.loads(line) for line in lines if line.strip())
    except (OSError, ValueError, RecursionError):
        return {}, []
    return (first if isinstance(first, dict) else {}), [n for n in rest if isinstance(n, str)]


def _short(value: Any, longest: int = 200) -> str:
    """A value of somebody's file on part of a line; control characters are the error's business."""
    text = " ".join(str(value).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def in_use(where: Path, who: dict[str, Any]) -> OutputError:
    """What the second process is told."""
    by = "another process"
    if "pid" in who:
        by = f"process {_short(who['pid'], 20)} on {_short(who.get('host', 'this machine'), 80)}"
        by += f" since {_short(who.get('since', '?'), 40)} ({_short(who.get('command', ''))})"
    return OutputError(f"{where} is in use by {by}: wait until it ends, or stop it")


def holder(lock: Path) -> dict[str, Any]:
    """Who has a lock: what its file says, or that of one of those who share it."""
    parts = [p for p in sorted(lock.parent.glob(f"{PART_LOCK}*")) if is_held(p)]
    return next((who for who in (_read(p)[0] for p in (*parts, lock)) if who), {})


def _take(path: Path, shared: bool, where: Path) -> int | None:
    """Open and lock the file; the handle. None where there are no locks, and the file is one by being there."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "no flock")
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            about, there = os.fstat(handle), os.stat(path)
            if (about.st_dev, about.st_ino) == (there.st_dev, there.st_ino):
                return handle
        except FileNotFoundError:
            pass  # whoever had it took it away just now
        except BlockingIOError:
            os.close(handle)
            raise in_use(where, holder(path)) from None
        except OSError as error:
            os.close(handle)
            if error.errno not in NO_LOCKS:
                raise
            return None if shared else _take_file(path, where)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _take_file(path: Path, where: Path) -> int:
    """The same without `flock`: whoever makes the file has it, and one whose process is dead counts as none."""
    for _ in range(3):
        who, _names = _read(path)
        old = time.time() - path.stat().st_mtime > STALE if path.exists() else True
        alive = is_alive(str(who.get("machine")), int(who["pid"]), str(who.get("started"))) if "pid" in who else False
        if alive or (alive is None and not old):
            raise in_use(where, who)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    raise in_use(where, _read(path)[0])


@contextmanager
def claimed(
    path: str | Path, *, what: str = "", listing: bool = False, name: str = LOCK, shared: bool = False,
    where: Path | None = None, every: bool = False,
) -> Iterator[Claim]:  # fmt: skip
    """Hold the lock of a folder, which must be there, for the time of a block; again within the block is once.

    Args:
        what: the command that writes. listing: list what is written, for a command whose files nobody can tell by
            their names; the list stays if the block is not ended well.
        name: of the lock's file. shared: others may hold it as well, if they share it, too.
        where: what the message names, by default the folder.
        every: of several processes of one run each takes a lock of its own, and not the main one alone for all.

    Raises:
        OutputError: another process holds it; the message says who. Or the folder cannot be written.
    """
    folder = Path(path)
    lock = folder / name
    if not (every or get_world().main):
        yield Claim(lock, None, what)
        return
    key = (os.getpid(), os.path.realpath(lock))
    if key in _held:
        _held[key].count += 1
        try:
            yield _held[key]
        finally:
            _held[key].count -= 1
        return
    try:
        handle = _take(lock, shared, where or folder)
        who, names = _read(lock) if not shared else ({}, [])
        claim = Claim(lock, handle, what, listing)
        if not shared:
            claim.forget()
            for one in names if who.get("what") == what else ():
                claim.note(one)
    except OSError as error:
        raise OutputError(
            f"cannot write to {where or folder}: {error.strerror or one_line(error)}; give a folder that can be written"
        ) from error
    _held[key] = claim
    try:
        yield claim
    except BaseException:
        del _held[key]
        _release(claim, keep=bool(claim.names))
        raise
    del _held[key]
    _release(claim)


def _release(claim: Claim, keep: bool = False) -> None:
    """Let go. keep: the file stays, for the names in it; it also does while others share it."""
    with contextlib.suppress(OSError):
        if fcntl is not None and claim.handle is not None:
            fcntl.flock(claim.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not keep:
            os.unlink(claim.path)
    if claim.handle is not None:
        os.close(claim.handle)


def note_written(path: Path) -> None:
    """Write down, in the lock of the nearest folder that this process holds, that a file is being written."""
    if not _held:
        return
    pid, real = os.getpid(), Path(os.path.realpath(path.parent)) / path.name
    claims = [c for (owner, _), c in _held.items() if owner == pid and c.path.name == LOCK]
    for claim in sorted(claims, key=lambda c: -len(c.folder.parts)):
        home = Path(os.path.realpath(claim.folder))
        if real.is_relative_to(home):
            claim.note(real.relative_to(home).as_posix())
            return


def names_in(folder: Path) -> list[str]:
    """What this process has written under its lock of a folder that lists it."""
    claim = _held.get((os.getpid(), os.path.realpath(folder / LOCK)))
    return [] if claim is None else list(claim.names)


def is_held(path: Path) -> bool:
    """Whether some process, of this machine or another, holds this lock just now."""
    if fcntl is None:
        return False
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
