""".npz and .npy files: which arrays they hold, and which of them are the images."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from deft.errors import InputError, unknown
from deft.io.files import write_atomic
from deft.io.reading import parsing
from deft.io.text import one_line
from deft.runtime.untrusted import check_zip, may_unpack_to

ARRAYS = (".npz", ".npy")
USUAL = ("x", "images")
"""Names that need no asking."""
LABELS = ("label", "labels", "y", "target", "targets", "classes")

Headers = dict[str, tuple[tuple[int, ...], "np.dtype[Any]"]]
"""Name of an array -> its shape and type."""

_WRITE = "write it with numpy.savez(path, x=images)"
_MAGIC = {
    b"\x80": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"MATLAB": "a MATLAB file",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
}


def read_arrays(path: Path, only: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Every array of an .npz (or the one of an .npy, as "x"); only: those of these names that are there.

    Raises `InputError`: no such file, no array, a damaged one, or one that unpacks to more than it may.
    """
    with _reading(path):
        headers = _headers(path)
        if only is not None:
            headers = {k: v for k, v in headers.items() if k in only}
        with path.open("rb") as f:
            loaded = np.load(f, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"x": native(loaded)}
            out = {name: native(loaded[name]) for name in headers}
    if not out and only is None:
        raise InputError(f"{path} holds no array: {_WRITE}")
    return out


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """One line for whatever a file does that is no array file."""
    if not os.path.isfile(path):  # False for a name that is too long, where Path raises
        raise InputError(f"no such file: {path}")
    try:
        yield
    except InputError as error:
        raise InputError(f"cannot read {path} as an array file: {error}; {_WRITE}") from error
    except Exception as error:  # NumPy passes on what zipfile, zlib, tokenize and others raise on a foreign file
        raise InputError(f"cannot read {path} as an array file: {_why(path, error)}; {_WRITE}") from error


def _headers(path: Path) -> Headers:
    """Name, shape and type of each array, known to be no more than the file may hold."""
    with path.open("rb") as f:
        if f.read(6) == b"\x93NUMPY":
            return {"x": _header(f, path.stat().st_size)}
    members = check_zip(path)
    _check_members([m.filename for m in members])
    with zipfile.ZipFile(path) as archive:
        out: Headers = {}
        for member in members:
            with archive.open(member) as f:
                f.read(6)
                out[member.filename.removesuffix(".npy")] = _header(f, member.file_size)
    return out


def _header(f: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array in a file of `size` bytes, which is read from its seventh byte on."""
    version = tuple(f.read(2))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"it has a version that is not read here: {version}")
    # a header of more than 10,000 characters is refused by NumPy
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(f)
    if any(n < 0 for n in shape) or (not dtype.hasobject and math.prod(shape) * dtype.itemsize > size):
        raise ValueError(f"its header tells of an array {dtype} {list(shape)[:8]}, it has {size:,} bytes")
    return shape, dtype


def native_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that `native` gives an array of this one."""
    return native(np.zeros(0, dtype)).dtype if dtype.kind in "fciu" else dtype


def native(array: np.ndarray) -> np.ndarray:
    """In the machine's byte order, and at most doubles: PyTorch takes no other."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind in "fc" and size > (8 if kind == "f" else 16):
        return array.astype(np.float64 if kind == "f" else np.complex128)
    return array if kind not in "fciu" or array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check_members(members: list[str]) -> None:
    """A zip of other things is opened by NumPy all the same, and its members come as bytes."""
    other = [m for m in members if not m.endswith(".npy")]
    if any(m.endswith("/data.pkl") or m == "data.pkl" for m in members):
        raise InputError("it was written by torch.save")
    if other:
        raise InputError(
            f"it is a zip file with members that are no arrays ({''.join(filter(str.isprintable, other[0]))[:60]})"
        )


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"it does not fit in memory, or its header is wrong ({one_line(error)})"
    if isinstance(error, OSError) and not isinstance(error, EOFError) and error.strerror:
        return error.strerror
    with path.open("rb") as f:
        head = f.read(16)
    if not head:
        return "it is empty"
    if "Object arrays" in str(error):
        return "it holds Python objects, which are not loaded"
    known = next((what for magic, what in _MAGIC.items() if head.startswith(magic)), None)
    if known is not None:
        return f"it is {known}"
    if not head.startswith((b"PK", b"\x93NUMPY")):
        return "it is no NumPy file"
    return f"it is truncated or damaged ({one_line(error)[:160]})"


def array_headers(path: Path) -> Headers:
    """Shape and type of every array, without reading them."""
    with _reading(path):
        return {k: (shape, native_type(dtype)) for k, (shape, dtype) in _headers(path).items()}


def read_images_array(path: Path, wanted: str | None) -> tuple[str, np.ndarray, np.ndarray | None, str | None]:
    """(name, images, labels or None, what there is to say) of an array file; wanted: the name of the array.

    Raises:
        InputError: several arrays could be the images, or none is called `wanted`.
    """
    headers = array_headers(path)
    if not headers:
        raise InputError(f"{path} holds no array: {_WRITE}")
    name = _choose(path, headers, wanted)
    label = next((n for n in (name.replace("images", "labels"), "labels") if n in headers and n != name), None)
    if label == "labels" and wanted is not None and name not in USUAL and headers[label][0][:1] != headers[name][0][:1]:
        label = None  # of other images in the file
    arrays = read_arrays(path, [name] if label is None else [name, label])
    images = arrays[name]
    if label is None:
        return name, images, None, None
    labels, note = _whole_numbers(arrays[label], f"{path}[{label}]", len(images) if images.ndim else 0)
    return name, images, labels, note


def lazy_images_array(
    path: Path, wanted: str | None, least: int
) -> tuple[str, Callable[[], np.ndarray], np.ndarray | None, str | None] | None:
    """As `read_images_array`, with a function in place of the images that returns them as they lie in the file, not
    read yet. None for an array of fewer than `least` values.

    Each call maps the file anew, so that what was read of it is not kept. A packed array is read once, and stays in
    memory as it is stored.
    """
    headers = array_headers(path)
    name = _choose(path, headers, wanted) if headers else ""
    if not name or math.prod(headers[name][0]) < least:
        return None
    label = next((n for n in (name.replace("images", "labels"), "labels") if n in headers and n != name), None)
    labels, note = None, None
    if label is not None and headers[label][0][:1] == headers[name][0][:1]:
        labels, note = _whole_numbers(read_arrays(path, [label])[label], f"{path}[{label}]", headers[name][0][0])
    with _reading(path):
        opened = _mapped(path, name)
    if opened is None:
        whole = read_arrays(path, [name])[name]
        return name, lambda: whole, labels, note
    return name, opened, labels, note


def _mapped(path: Path, name: str) -> Callable[[], np.ndarray] | None:
    """What maps an array of an .npy, or one of an .npz that is not packed; None for one that is."""
    start = 0
    with path.open("rb") as f:
        if f.read(6) != b"\x93NUMPY":
            with zipfile.ZipFile(path) as archive:
                member = archive.getinfo(f"{name}.npy")
            if member.compress_type != zipfile.ZIP_STORED:
                return None
            f.seek(member.header_offset)
            local = f.read(30)
            start = (
                member.header_offset
                + 30
                + int.from_bytes(local[26:28], "little")
                + int.from_bytes(local[28:], "little")
            )
        f.seek(start + 6)
        version = tuple(f.read(2))
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(f)
        offset = f.tell()
    if dtype.hasobject:
        return None
    order: Any = "F" if fortran else "C"
    return lambda: np.memmap(path, dtype, "r", offset, shape, order)


def _choose(path: Path, headers: Headers, wanted: str | None) -> str:
    def described(names: Sequence[str]) -> str:
        return ", ".join(f"{n} {headers[n][1]} {list(headers[n][0])}" for n in names[:8])

    if wanted is not None:
        if wanted not in headers:
            raise unknown(f"array in {path}", wanted, headers)
        return wanted
    usual = [n for n in USUAL if n in headers]
    if len(usual) == 1:
        return usual[0]
    could_be = usual or [
        n for n, (shape, dtype) in headers.items() if n not in LABELS and len(shape) >= 2 and dtype.kind in "fiubc"
    ]
    if len(could_be) > 1:
        raise InputError(
            f"{path} holds several arrays that could be the images ({described(could_be)}): say which with"
            f" {path}:{could_be[0]} or --array {could_be[0]}"
        )
    if could_be:
        return could_be[0]
    if len(headers) == 1:
        return next(iter(headers))
    raise InputError(f"{path} holds no array of images ({described(list(headers))}): {_WRITE}")


def _whole_numbers(labels: np.ndarray, name: str, n: int) -> tuple[np.ndarray | None, str | None]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (n,):
        raise InputError(
            f"{name} has shape {labels.shape}, expected ({n},): one whole number for each image, or leave it out"
        )
    if labels.dtype.kind in "US":
        return None, f"{name} are words: not used (labels are whole numbers, one for each class)"
    if labels.dtype.kind not in "iubf" or (labels.dtype.kind == "f" and not bool((labels == np.round(labels)).all())):
        raise InputError(
            f"{name} holds {labels.dtype} values that are not whole numbers: give one whole number for each image, or"
            " leave it out"
        )
    return labels.astype(np.int64), None


def read_array(path: str | Path, keys: Sequence[str]) -> np.ndarray:
    """An array of an .npy, of an .npz, or of an HDF5 file (with h5py): the one of these names, or the only one."""
    path = Path(path)
    if not os.path.isfile(path):  # False for a name that is too long, where Path raises
        raise InputError(f"no such file: {path}")
    arrays: Mapping[str, np.ndarray] = _hdf5(path, keys) if path.suffix in (".h5", ".hdf5", ".hdf") else _numpy(path)
    found = next((k for k in keys if k in arrays), None)
    if found is None:
        if len(arrays) != 1:
            raise InputError(
                f"{path} holds {', '.join(sorted(arrays)) or 'no array'}: expected one of {', '.join(keys)}"
            )
        found = next(iter(arrays))
    return arrays[found]


def _numpy(path: Path) -> dict[str, np.ndarray]:
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"{path} is read as .npy, .npz or HDF5 (.h5, .hdf5) alone: save the array with numpy.save")
    return read_arrays(path)


def _hdf5(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The first of the datasets of these names, or all; of the file itself alone, for links lead to other files."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"{path} is an HDF5 file: install h5py (pip install 'deft-diffusion[hdf5]') to read it"
        ) from error
    with parsing(path, "an HDF5 file", InputError), h5py.File(path, "r") as f:
        own = [k for k in f if isinstance(f.get(k, getlink=True), h5py.HardLink)]
        sets = {k: f[k] for k in own if isinstance(f[k], h5py.Dataset) and f[k].dtype.kind in "fiucbV"}
        wanted = next(([k] for k in keys if k in sets), list(sets))
        for k in wanted:
            if sets[k].external or sets[k].is_virtual:
                raise InputError(f"{path}: {k} lies in another file: copy it into this one")
        whole, largest = sum(int(sets[k].nbytes) for k in wanted), may_unpack_to(path.stat().st_size)
        if whole > largest:
            raise InputError(f"{path} unpacks to {whole:,} bytes, a file of its size may have {largest:,}")
        return {k: np.asarray(sets[k]) for k in wanted}


def save_arrays(path: str | Path, **arrays: Any) -> None:
    """Write an .npz with these arrays (tensors are converted)."""
    plain = {k: v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v) for k, v in arrays.items()}

    def write(p: Path) -> None:
        with p.open("wb") as f:
            np.savez_compressed(f, **plain)  # type: ignore[arg-type]

    write_atomic(path, write)
