"""Pickles of other programs, read as data: tensors, plain values, and records of whatever objects they were.

A pickle is a program that calls functions by name. Here a name stands for nothing of this process: those that tensors
and arrays are made of are acted out by functions of this module, those that only hold data become `Record`s (the name
of a class, what it was made from, its state), and any other name is refused. Nothing is imported and nothing of the
file runs.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from deft.errors import CheckpointError

MAX_STEPS = 20_000_000
"""Operations of a pickle; the largest published ones have some hundred thousand."""

_DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip
_NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
PERSISTENT = ("torch_utils.persistence", "_reconstruct_persistent_obj")
"""How EDM's code keeps a module: one dictionary with class_name, module_src (code, which stays a text) and state."""

_HOLDERS = (
    "torch.nn.modules.", "torch_utils.", "dnnlib.", "training.", "omegaconf.", "argparse.Namespace", "pathlib.",
    "lightning_fabric.", "pytorch_lightning.", "lightning.", "ml_collections.", "easydict.", "typing.Any",
    "collections.defaultdict", "collections.Counter", "torch.optim.", "torch.device", "torch.Size",
    "numpy.random.", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.ndarray",
    "builtins.slice", "builtins.complex", "builtins.range", "builtins.object",
    "builtins.list", "builtins.tuple", "builtins.dict", "builtins.int", "builtins.float", "builtins.str",
    "__builtin__.object", "__builtin__.list", "__builtin__.dict",
    "__builtin__.long", "__builtin__.int",
)  # fmt: skip
"""Names, or beginnings of names, that become records: they hold settings, or layers."""


class Record(dict[Any, Any]):
    """An object of a pickle as data: `what` it was, the `args` of the call that makes it, its `state`; as a dictionary
    the items that it had."""

    def __init__(self, what: str, args: tuple[Any, ...] = (), state: Any = None):
        super().__init__()
        self.what, self.args, self.state = what, args, state

    def append(self, value: Any) -> None:
        """Items of what was a list."""
        self[len(self)] = value

    def extend(self, values: Any) -> None:
        for value in values:
            self.append(value)

    def add(self, value: Any) -> None:
        """Items of what was a set."""
        self.append(value)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def attributes(self) -> Mapping[str, Any]:
        """The state, where it is one dictionary."""
        return self.state if isinstance(self.state, Mapping) else {}

    def __repr__(self) -> str:
        return f"Record({self.what})"


class _Name:
    """A name of the pickle, of a class or a function: called, it does what `act` says, and no more. It takes no
    state."""

    __slots__ = ("act", "name")

    def __init__(self, name: str, act: Callable[..., Any]):
        self.name, self.act = name, act

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.act(*args, **options)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"{self.name} is given a state")


def _reconstruct(kind: Any, *_: Any) -> Record:
    return Record(_name_of(kind))


def _name_of(kind: Any) -> str:
    return kind.name if isinstance(kind, _Name) else type(kind).__name__


def _persistent(meta: Any) -> Record:
    if not isinstance(meta, Mapping):
        raise pickle.UnpicklingError("a persistent object is made of no dictionary")
    return Record(str(meta.get("class_name")), state=meta.get("state"))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding not in ("latin1", "ascii"):
        raise pickle.UnpicklingError(f"the encoding {encoding!r:.40}")
    return str(text).encode("latin1")


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """A number that NumPy kept: its kind and its bytes."""
    kind = dtype.args[0] if isinstance(dtype, Record) and dtype.args else None
    if not isinstance(kind, str) or kind.lstrip("<>=|") not in _NUMBERS or not isinstance(raw, (bytes, bytearray)):
        return Record("numpy.scalar", (dtype,))
    import numpy as np

    big = isinstance(dtype.state, tuple) and dtype.state[1:2] == (">",)
    value = np.frombuffer(bytes(raw), np.dtype(kind.lstrip("<>=|")).newbyteorder(">" if big else "<"))
    return value[0].item() if len(value) == 1 else Record("numpy.scalar", (dtype,))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage, no larger than it."""
    if isinstance(storage, torch.storage.TypedStorage):  # torch.load's own
        bytes_, dtype = storage._untyped_storage, storage.dtype
        storage = torch.empty(0, dtype=dtype).set_(bytes_, 0, (bytes_.nbytes() // dtype.itemsize,), (1,))
    size, stride = tuple(size), tuple(stride)
    whole = (offset, *size, *stride)
    if not isinstance(storage, Tensor) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor without a storage")
    if any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in whole):
        raise pickle.UnpicklingError("a tensor of no shape")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and (last >= len(storage) or math.prod(size) > len(storage)):
        raise pickle.UnpicklingError(f"a tensor of shape {size} has fewer numbers stored than it shows")
    return torch.as_strided(storage, size, stride, offset) if math.prod(size) else storage.new_empty(size)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _ordered(*items: Any) -> dict[Any, Any]:
    return dict(*items)


def _listed(items: Any = ()) -> list[Any]:
    return list(items) if isinstance(items, (list, tuple)) else []


def _call(function: Callable[..., Any]) -> Callable[[str], _Name]:
    return lambda name: _Name(name, function)


_ACTED: dict[str, Callable[[str], _Name]] = {
    ".".join(PERSISTENT): _call(_persistent),
    "collections.OrderedDict": _call(_ordered),
    "copyreg._reconstructor": _call(_reconstruct),
    "copy_reg._reconstructor": _call(_reconstruct),
    "_codecs.encode": _call(_encode),
    **dict.fromkeys(("builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset"), _call(_listed)),
    "torch._utils._rebuild_tensor_v2": _call(_tensor),
    "torch._utils._rebuild_parameter": _call(_parameter),
    "torch._utils._rebuild_parameter_with_state": _call(_parameter),
}


class Unpickler(pickle._Unpickler):  # the one in Python: places of its memory are no sizes of arrays
    """Reads one pickle of a stream as data. torch.load takes it as the Unpickler of its `pickle_module`, and then fills
    the storages itself; a pickle that holds them by value needs nothing else.

    Raises `pickle.UnpicklingError`: a name that is not known here, or what is damaged.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(self, file: Any, *, encoding: str = "latin1", **_: Any):
        super().__init__(_Counted(file), encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _ACTED:
            return _ACTED[full](full)
        if full == "torch.storage._load_from_bytes":
            return _Name(full, read_storage)
        if full.endswith("multiarray.scalar") and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _Name(full, _scalar)
        if full == "numpy.dtype" or full.startswith("numpy.dtypes."):
            return _Name(full, lambda *args, **_: Record("numpy.dtype", args))
        if module == "torch" and (isinstance(getattr(torch, name, None), torch.dtype) or name.endswith("Storage")):
            return _Name(full, lambda *args: Record(full, args))
        if full.startswith(_HOLDERS):
            return _Name(full, lambda *args, **_: Record(full, args))
        raise pickle.UnpicklingError(f"it names {full!r:.120}")

    def load_newobj(self) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        self.append(_made(kind, args, {}))

    def load_newobj_ex(self) -> None:
        options, args, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(_made(kind, args, options))

    def load_reduce(self) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        self.append(_made(kind, args, {}))

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, (Record, _Name)):
            made.__setstate__(state)
        elif not isinstance(made, dict):  # an ordered dictionary may have attributes, which are left out
            raise pickle.UnpicklingError(f"a {type(made).__name__} is given a state")

    def refused(self) -> None:
        raise pickle.UnpicklingError("it uses an operation that no torch.save writes")

    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build
    for _code in (pickle.OBJ, pickle.INST, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.BYTEARRAY8):
        dispatch[_code[0]] = refused
    for _code in (pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        dispatch[_code[0]] = refused


def _made(kind: Any, args: Any, options: Any) -> Any:
    if not isinstance(kind, _Name) or not isinstance(args, tuple):
        raise pickle.UnpicklingError("it calls what is no name")
    if options:
        return Record(kind.name, args)
    return kind(*args)


class _Counted:
    """A stream no read of which asks for more than there is, and none of which is endless."""

    def __init__(self, file: Any):
        self.file, self.steps = file, 0
        here = file.tell()
        self.size = file.seek(0, os.SEEK_END)
        file.seek(here)

    def read(self, n: int = -1) -> bytes:
        self.steps += 1
        if self.steps > MAX_STEPS or n > self.size:
            raise EOFError
        found: bytes = self.file.read(n)
        return found

    def readline(self) -> bytes:
        found: bytes = self.file.readline()
        return found

    def readinto(self, buffer: Any) -> int:
        found: int = self.file.readinto(buffer)
        return found


INERT = SimpleNamespace(
    Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load(), __name__="deft.io.inert"
)
"""As the `pickle_module` of torch.load."""


def read_storage(raw: Any) -> Tensor:
    """The numbers of a storage that torch.save wrote into a pickle by value (the format before zip files)."""
    if not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError("a storage of no bytes")
    file = io.BytesIO(raw)
    found: dict[str, torch.dtype] = {}

    class Inner(Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            if not (isinstance(pid, tuple) and len(pid) > 4 and pid[0] == "storage" and isinstance(pid[1], _Name)):
                raise pickle.UnpicklingError("a storage of no kind")
            kind = pid[1].name.rpartition(".")[2].removesuffix("Storage")
            if kind not in _DTYPES:
                raise pickle.UnpicklingError(f"a storage of the kind {kind!r:.40}")
            found[str(pid[2])] = _DTYPES[kind]
            return Record("storage", pid[2:3])

    magic, protocol, system, _, keys = (Inner(file).load() for _ in range(5))
    if magic != 0x1950A86A20F9469CFC6C or protocol != 1001 or not isinstance(system, Mapping):
        raise pickle.UnpicklingError("a storage of another format")
    if not system.get("little_endian", True) or len(found) != 1 or keys != list(found):
        raise pickle.UnpicklingError("a storage of another format")
    dtype = next(iter(found.values()))
    start = file.tell() + 8
    count = int.from_bytes(raw[start - 8 : start], "little")
    if len(raw) - start != count * dtype.itemsize:
        raise pickle.UnpicklingError(f"a storage of {count:,} numbers in {len(raw) - start:,} bytes")
    if count == 0:
        return torch.empty(0, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is never written to
        return torch.frombuffer(raw, dtype=dtype, offset=start)


def read_pickle(path: Path) -> Any:
    """What a pickle of another program holds, as data.

    Raises:
        CheckpointError: the file is cut off or no pickle, or names what is not known here.
    """
    try:
        with path.open("rb") as f:
            return Unpickler(f).load()
    except pickle.UnpicklingError as error:
        if str(error).startswith("it names"):
            raise CheckpointError(
                f"{path} is a pickle that holds code: {error}, which is neither tensors nor settings. Nothing of it was"
                " run; if you trust it, give FILE.py:FUNCTION, a function of yours that loads it"
            ) from error
        raise CheckpointError(f"{path} is truncated or no pickle of a network ({error}); fetch it again") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: its tables are nested too deep") from error
    except Exception as error:  # what a broken pickle raises is anything
        # the name of an exception says nothing to people, and of a KeyError the text does not either
        reason = "" if isinstance(error, LookupError) else " ".join(str(error).split())[:160]
        why = f" ({reason})" if reason else ""
        raise CheckpointError(f"{path} is truncated or no pickle{why}; fetch it again") from error


MAX_PARTS = 200_000
"""Parts of a network that a pickle may describe."""


def state_of(module: Record) -> dict[str, Tensor]:
    """The tensors of a recorded torch module, by the names that its state dict would have.

    Raises `ValueError`: it has more parts than a network has, or they hold one another.
    """
    out: dict[str, Tensor] = {}
    level: list[tuple[str, Record]] = [("", module)]
    parts = 0
    while level:
        inside: list[tuple[str, Record]] = []
        for prefix, part in level:
            parts += 1
            if parts > MAX_PARTS or prefix.count(".") > 64:
                raise ValueError("the parts of its network hold one another")
            state = part.attributes()
            left_out = state.get("_non_persistent_buffers_set") or ()
            for table in ("_parameters", "_buffers"):
                for name, value in _items(state.get(table)):
                    if isinstance(value, Tensor) and name not in left_out:
                        out[prefix + name] = value
            for name, value in _items(state.get("_modules")):
                if isinstance(value, Record):
                    inside.append((f"{prefix}{name}.", value))
        level = inside
    return out


def _items(table: Any) -> list[tuple[str, Any]]:
    return [(str(k), v) for k, v in table.items()] if isinstance(table, Mapping) else []
