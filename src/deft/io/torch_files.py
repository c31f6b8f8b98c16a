"""Files that torch.save wrote, read without running anything in them; files of other kinds, named; and one line for
whatever is wrong."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from deft.errors import CheckpointError
from deft.io.graph_files import ONNX, PROGRAM, SCRIPT, graph_kind
from deft.io.inert import INERT
from deft.runtime.untrusted import check_tensors, check_zip

BY_FUNCTION = (
    "give FILE.py:FUNCTION, a function of yours that loads it and returns deft.prior.wrap(net, shape, convention)"
)
"""The way in for whatever has no adapter."""

_WEIGHTS = BY_FUNCTION + "; or save its weights as a folder of diffusers or a state dict, with the library it is from"
_SUFFIXES = {
    ".gguf": ("a GGUF file of quantised weights", _WEIGHTS),
    ".h5": ("an HDF5 file (Keras)", _WEIGHTS),
    ".hdf5": ("an HDF5 file", _WEIGHTS),
    ".keras": ("a Keras model", _WEIGHTS),
    ".msgpack": (
        "a Flax file (msgpack)",
        BY_FUNCTION + "; diffusers converts its own with from_pretrained(..., from_flax=True)",
    ),
    ".tflite": ("a TensorFlow Lite graph", BY_FUNCTION),
    ".pb": ("a TensorFlow graph", BY_FUNCTION),
    ".engine": ("a TensorRT engine", BY_FUNCTION),
    ".trt": ("a TensorRT engine", BY_FUNCTION),
    ".mlmodel": ("a Core ML model", BY_FUNCTION),
    ".npz": ("a file of arrays", BY_FUNCTION),
}
_MAGIC = {b"GGUF": ".gguf", b"\x89HDF\r\n\x1a\n": ".h5"}
_GRAPHS = {
    ONNX: "an ONNX graph",
    SCRIPT: "a TorchScript graph",
    PROGRAM: "a graph of torch.export",
}
_GRAPH = "a graph is a prior as it is (--prior FILE, docs/prior-exported.md); for anything else "


def external_format(path: Path) -> str | None:
    """One line for a file that holds a network of a kind that is not read here: what it is, and what to do with it;
    None for other files."""
    if graph := graph_kind(path):
        return f"{path} is {_GRAPHS[graph]}: {_GRAPH}{BY_FUNCTION}"
    try:
        with path.open("rb") as f:
            head = f.read(8)
    except OSError:
        return None
    magic = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), None)
    if not magic and path.suffix.lower() not in _SUFFIXES:
        return None
    kind, way = _SUFFIXES[magic or path.suffix.lower()]
    return f"{path} is {kind}: {way}"


def read_torch_file(path: Path, otherwise: str, *, trust_pickle: bool = False, records: bool = False) -> Any:
    """What is in the file, on the CPU; tensors and plain values alone, unless trusted.

    otherwise: what to do about a file that holds more, for the message. records: let settings that are objects (a
        path, OmegaConf's, Lightning's) pass as inert records (`deft.io.inert`); names that are not known stay refused.

    Raises:
        CheckpointError: the file is cut off, no PyTorch file, or holds more.
    """
    cut = f"{path} is truncated or not a PyTorch file"
    named = external_format(path)
    if named is not None:
        raise CheckpointError(named)
    try:
        archive = zipfile.is_zipfile(path)
        with path.open("rb") as f:
            # neither a zip nor a pickle; a zip that was cut off starts with PK
            if not archive and f.read(1) != b"\x80":
                raise CheckpointError(f"{cut}; fetch it again")
        if archive:
            check_zip(path, stored=True)
        found = _load(path, archive, trust_pickle, records)
        if not trust_pickle:
            check_tensors(found)
        return found
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if trust_pickle or "truncated" in str(error) or "invalid load key" in str(error):
            raise CheckpointError(f"{cut}; fetch it again") from error
        name = re.search(r"it names '[^']*'", str(error))
        raise CheckpointError(
            f"{path} holds more than tensors{f' ({name[0]})' if name else ''}, and loading the rest would run code from"
            f" the file; {otherwise}"
        ) from error
    except Exception as error:  # what a broken pickle raises is anything
        raise CheckpointError(
            f"{cut} ({type(error).__name__}: {' '.join(str(error).split())[:200]}); fetch it again"
        ) from error


def _load(path: Path, archive: bool, trust_pickle: bool, records: bool) -> Any:
    try:
        return torch.load(str(path), map_location="cpu", weights_only=not trust_pickle, mmap=archive)
    except pickle.UnpicklingError:
        if trust_pickle or not records or not archive:
            raise
        if any(name.endswith("constants.pkl") for name in zipfile.ZipFile(path).namelist()):  # a graph, run by another
            raise
        return torch.load(str(path), map_location="cpu", mmap=True, weights_only=False, pickle_module=INERT)
