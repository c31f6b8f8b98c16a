"""Peak memory of a block of code: of a CUDA device, or of the process (Linux)."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

import torch

from deft.errors import InputError


class PeakMemory:
    """`with PeakMemory(device) as m: ...` then m.mib: how far memory rose above where it was, in MiB; None where it
    cannot be told.

    On Linux the kernel keeps a process's peak (VmHWM) and lets it be reset. What the C library had kept of memory that
    was freed before is given back first (malloc_trim), or it would hide what is used again.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.cuda = torch.device(device).type == "cuda"
        self.mib: float | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before: float | None = torch.cuda.memory_allocated() / 2**20
            return self
        try:
            with suppress(OSError, AttributeError):
                ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")
        except OSError:
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            self.mib = None
        elif self.cuda:
            self.mib = torch.cuda.max_memory_allocated() / 2**20 - self._before
        else:
            self.mib = max(0.0, _status("VmHWM") - self._before)


def total_memory() -> int | None:
    """Bytes of this machine's memory; None where it cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def check_memory(size: float, what: str, advice: str) -> None:
    """Refuse what needs more bytes than this machine has, before the system starts to swap. what: "a batch of 64";
    advice: what to do instead.

    Raises:
        InputError: it does not fit.
    """
    memory = total_memory()
    if memory is not None and size > memory:
        raise InputError(
            f"{what} does not fit in memory ({size / 2**30:,.0f} GiB at least, this machine has"
            f" {memory / 2**30:,.0f}): {advice}"
        )


def _status(key: str) -> float:
    """A line of /proc/self/status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return float(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {key}")
