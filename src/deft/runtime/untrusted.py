"""What a file from somebody else may ask for, checked before memory is taken: members of a zip file, tensors of a
pickle, the size of a network.

The limits are far above any file in use. Each stands in `docs/safety.md`; a caller in Python may raise one by setting
it here.
"""

from __future__ import annotations

import os
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

MAX_MEMBERS = 20_000
"""Members of a zip file (.npz, .pt)."""
MAX_LISTING = 8 * 2**20
"""Bytes of the list of members at its end."""
MIN_UNPACKED = 256 * 2**20
"""Bytes that a packed file may always have when it is unpacked."""
MAX_RATIO = 100
"""Above that, a packed file may become so many times its own size."""
MAX_NESTED = 64
"""Tables and lists of a pickle inside one another."""


def may_unpack_to(packed: int, floor: int = MIN_UNPACKED, ratio: int = MAX_RATIO) -> int:
    """Bytes that a file of `packed` bytes may have when it is unpacked.

    >>> may_unpack_to(800_000) == 256 * 2**20, may_unpack_to(10**9) == 10**11
    (True, True)
    """
    return max(floor, ratio * packed)


def check_zip(path: str | Path, *, stored: bool = False) -> list[zipfile.ZipInfo]:
    """The members of a zip file, once their number, names and unpacked sizes are known to be within the limits.

    stored: refuse members that are packed (PyTorch writes none).

    Raises `ValueError` with the reason, and what `zipfile` raises on a damaged one.
    """
    size = os.path.getsize(path)
    _check_listing(path, size)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"it has {len(members):,} members, at most {MAX_MEMBERS:,} are read")
    if len({m.filename for m in members}) != len(members):
        raise ValueError("two of its members have one name")
    if stored and any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise ValueError("its members are packed, and torch.save packs none")
    whole, largest = sum(m.file_size for m in members), size if stored else may_unpack_to(size)
    if whole > largest:
        raise ValueError(f"its members have {whole:,} bytes unpacked, a file of {size:,} bytes may have {largest:,}")
    return members


def _check_listing(path: str | Path, size: int) -> None:
    """Refuse a list of members that would take much memory to read. It stands at the end of the file, with its size
    behind it."""
    with open(path, "rb") as f:
        f.seek(max(0, size - 65_557))
        tail = f.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            return  # no zip: zipfile says so
        listing = struct.unpack_from("<I", tail, at + 12)[0]
        if tail[at - 20 : at - 16] == b"PK\x06\x07":  # the list of a large file
            f.seek(struct.unpack_from("<Q", tail, at - 12)[0])
            record = f.read(56)
            listing = struct.unpack_from("<Q", record, 40)[0] if len(record) == 56 else size
    if listing > MAX_LISTING:
        raise ValueError(f"its list of members has {listing:,} bytes, at most {MAX_LISTING:,} are read")


def check_crc(path: str | Path, members: list[zipfile.ZipInfo] | None = None) -> None:
    """Compare what each member holds with the checksum that stands beside it. Raises `ValueError`: one differs.

    members: those to look at, where not all.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist() if members is None else members:
            with archive.open(member) as f:
                while f.read(2**20):
                    pass


def check_tensors(value: Any) -> None:
    """Refuse tensors in what a pickle held that claim more numbers than are stored, or are no plain arrays.

    Raises `ValueError` with the reason.
    """
    level: list[Any] = [value]
    for _ in range(MAX_NESTED):
        inside: list[Any] = []
        for v in level:
            if isinstance(v, Tensor):
                _check_tensor(v)
            elif isinstance(v, Mapping):
                inside += v.values()
            elif isinstance(v, (list, tuple)):
                inside += v
        if not inside:
            return
        level = [v for v in inside if isinstance(v, (Tensor, Mapping, list, tuple))]
        if len(level) > 10**6:  # tables that hold one another
            break
    raise ValueError("its tables are nested too deep")


def _check_tensor(value: Tensor) -> None:
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        raise ValueError(f"it holds a tensor that is no plain array ({str(value.layout).removeprefix('torch.')})")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {tuple(value.shape)} has fewer numbers stored than it shows")


class TooLargeError(ValueError):
    """A network has more parts or parameters than the file that describes it could hold."""


@contextmanager
def building(tensors: int, numbers: int) -> Iterator[None]:
    """Inside, no network is built with (many) more than these: how many tensors a file has, and numbers in them.

    A network may be built larger than what is kept of it (parts that are dropped again), so four times as much is let
    pass. On the meta device, a description of any size is so refused at once; elsewhere, before its memory is touched.

    >>> with building(2, 10 * 11), torch.device("meta"):
    ...     net = nn.Linear(10, 10)
    >>> with building(2, 10 * 11), torch.device("meta"):
    ...     net = nn.Linear(10**5, 10**5)
    Traceback (most recent call last):
    deft.runtime.untrusted.TooLargeError: it describes a network of more than 65,976 numbers, the file holds 110
    """
    me, parts = threading.get_ident(), 4 * tensors + 256
    largest, most = 4 * numbers + 2**16, 16 * parts
    count = {"tensors": 0, "numbers": 0, "modules": 0}

    def tensor(module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is None or threading.get_ident() != me:
            return
        count["tensors"] += 1
        count["numbers"] += value.numel()
        if count["numbers"] > largest:
            raise TooLargeError(f"it describes a network of more than {largest:,} numbers, the file holds {numbers:,}")
        if count["tensors"] > parts:
            raise TooLargeError(f"it describes a network of more than {parts:,} tensors, the file holds {tensors:,}")

    def part(module: nn.Module, name: str, value: nn.Module | None) -> None:
        if threading.get_ident() != me:
            return
        count["modules"] += 1
        if count["modules"] > most:
            raise TooLargeError(f"it describes a network of more than {most:,} parts for {tensors:,} tensors")

    handles = [
        hooks.register_module_parameter_registration_hook(tensor),
        hooks.register_module_buffer_registration_hook(tensor),
        hooks.register_module_module_registration_hook(part),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def held(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many tensors a file has, and how many numbers in them, as `building` wants it."""
    return len(tensors), sum(t.numel() for t in tensors.values())


def describable(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """The same for a network on the meta device whose shapes are compared with the file's before it takes memory: its
    parts are bounded, and a difference in sizes is left to that comparison, which names it."""
    return 1000 + len(tensors), 2**40
