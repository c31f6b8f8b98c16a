"""Files that survive a power cut: everything is written beside its place and moved in when it is whole.

Weights are safetensors with a card (a JSON text) in their header; `state.pt` is the working state of a fit.
"""

from __future__ import annotations

import glob
import json
import math
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deft.errors import CheckpointError, InputError
from deft.io.text import one_line
from deft.runtime.distributed import get_world


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path), then move the file to `path` in one step; of several processes the main one alone
    does.

    Raises `InputError` if the folder cannot be written or the disk is full; `path` is then as it was.
    """
    if not get_world().main:
        return
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
        # of a process that was killed here
        for left in path.parent.glob(f".{glob.escape(path.name)}.*{glob.escape(path.suffix)}"):
            left.unlink(missing_ok=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "write" not in str(error).lower():
            raise
        raise InputError(f"cannot write {path}: {error}; free some space or give another --out") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    write_atomic(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    write_atomic(path, lambda p: p.write_bytes(data))


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

    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, default=other, **options)


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
    if path.exists() and not path.is_dir():
        raise InputError(f"output folder {path} is a file: give another --out")
    try:
        if path.is_dir() and any(path.iterdir()) and not overwrite and not (ours and ours(path)):
            raise InputError(f"output folder {path} exists and is not empty: give another --out, or --overwrite")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write to output folder {path}: {one_line(error)}; give another --out") from error
    return path


def save_state(path: Path, state: dict[str, Any]) -> None:
    write_atomic(path, lambda p: torch.save(state, p))


STATE = frozenset({"config", "step", "raw", "ema", "optimiser"})
"""What `state.pt` holds."""


def load_state(path: Path, device: torch.device, needs: frozenset[str] = STATE) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if not needs <= set(state):
            raise KeyError("not the state of a fit")
        return state
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is truncated or not the state of a fit; start again without --resume") from error


def save_weights(path: str | Path, tensors: dict[str, Tensor], card: dict[str, Any]) -> None:
    """Write tensors and their card as one safetensors file."""
    flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_atomic(path, lambda p: save_file(flat, p, metadata={"deft": json.dumps(card)}))


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the card of a file written by `save_weights`.

    Raises `CheckpointError` if the file is missing, truncated or another library's.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    try:
        with safe_open(path, framework="pt") as f:
            card = (f.metadata() or {}).get("deft")
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file ({error})") from error
    if card is None:
        raise CheckpointError(f"{path} is a safetensors file of another library: it has no deft card")
    try:
        found = json.loads(card)
    except ValueError as error:
        raise CheckpointError(f"{path} has a damaged card ({error})") from error
    return tensors, found
