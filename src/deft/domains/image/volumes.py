"""Slices of DICOM and NIfTI files as pictures, with the values in their own units (Hounsfield units of a CT, say).

DICOM  modality LUT or rescale slope and intercept are applied; every frame of a file is a picture; MONOCHROME1 is
       inverted.
NIfTI  scl_slope and scl_inter are applied; axes are brought to the closest of left-right, back-front, foot-head;
       slices of one of them are pictures with the head (or the front of an axial slice) up and the patient's right on
       the right.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deft.domains.image.pictures import numbers
from deft.errors import InputError
from deft.io.text import count, one_line
from deft.runtime.untrusted import may_unpack_to

SCANS = (".dcm", ".dicom", ".ima")
VOLUMES = (".nii", ".nii.gz")
AXES = {"x": "sagittal", "y": "coronal", "z": "axial"}


@dataclass
class Slices:
    """Pictures of one file: [(name's ending, [C, H, W], window or None, inverted)]; kind as in `ranges.Raw`."""

    pictures: list[tuple[str, np.ndarray, tuple[float, float] | None, bool]] = field(default_factory=list)
    kind: str = "scan"
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def is_scan(path: Path) -> bool:
    return path.suffix.lower() in SCANS


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUMES)


def looks_like_scan(path: Path) -> bool:
    """Whether a file without a suffix, or with a number for one (1.2.840.113), is DICOM; an index of a medium is
    not."""
    if path.name.upper() == "DICOMDIR" or not (path.suffix == "" or path.suffix[1:].isdigit()):
        return False
    try:
        if not path.is_file():
            return False
        with path.open("rb") as f:
            return f.read(132)[128:] == b"DICM"
    except OSError:
        return False


# DICOM


def read_scan(path: Path) -> Slices:
    """The frames of a DICOM file; errors do not repeat the path."""
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise InputError("DICOM is read by pydicom: pip install 'deft-diffusion[dicom]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fields that are not needed
        try:
            _check_deflated(path)
            found = pydicom.dcmread(path)
        except InputError:
            raise
        except InvalidDicomError as error:
            raise InputError("not a DICOM file (no DICM mark after 128 bytes)") from error
        except Exception as error:
            raise InputError(f"damaged DICOM ({one_line(error)[:160]})") from error
        return _read_frames(found, path.stat().st_size)


DEFLATED = "1.2.840.10008.1.2.1.99"
"""The transfer syntax in which a whole DICOM file is packed."""


def _check_deflated(path: Path) -> None:
    """Refuse a packed DICOM file that unpacks to more than one of its size may."""
    from pydicom.filereader import read_file_meta_info

    with path.open("rb") as f:
        if f.read(132)[128:] != b"DICM":
            return
    if str(read_file_meta_info(path).get("TransferSyntaxUID", "")) != DEFLATED:
        return
    largest = may_unpack_to(path.stat().st_size)
    with path.open("rb") as f:
        f.seek(132)
        group = f.read(12)  # (0002,0000) UL 4: how long the part is that is not packed
        f.seek(144 + int.from_bytes(group[8:12], "little"))
        unpack, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while part := f.read(2**16):
            while part:
                size += len(unpack.decompress(part, 2**20))
                part = unpack.unconsumed_tail
                if size > largest:
                    raise InputError(f"DICOM that unpacks to more than {largest:,} bytes")


def _check_frames(found: Any, packed: int) -> None:
    """Refuse a picture of more bytes than a file of `packed` bytes may have."""
    counts = {k: int(found.get(k, 1) or 1) for k in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")}
    bits = int(found.get("BitsAllocated", 16) or 16)
    whole, largest = math.prod(counts.values()) * max(1, bits // 8), may_unpack_to(packed)
    if min(counts.values()) < 1 or not 1 <= bits <= 64:
        raise InputError(f"DICOM of {counts['Rows']} x {counts['Columns']} pixels of {bits} bits")
    if whole > largest:
        raise InputError(
            f"DICOM of {counts['NumberOfFrames']:,} frames of {counts['Rows']} x {counts['Columns']}: {whole:,} bytes"
            f" of pixels in a file of {packed:,}, at most {largest:,} are read"
        )


def _read_frames(found: Any, packed: int) -> Slices:
    if "PixelData" not in found and "FloatPixelData" not in found and "DoubleFloatPixelData" not in found:
        raise InputError(f"DICOM without a picture in it ({found.get('Modality', 'of no modality')})")
    try:
        _check_frames(found, packed)
        return _frames(found)
    except InputError:
        raise
    # pydicom's decoders: a compression that is not installed, too few bytes, fields that contradict each other
    except Exception as error:
        raise InputError(
            f"DICOM whose pixels cannot be read ({one_line(error)[:200]}): uncompress it first, or mend it"
        ) from error


def _frames(found: Any) -> Slices:
    colour = str(found.get("PhotometricInterpretation", ""))
    samples = int(found.get("SamplesPerPixel", 1))
    if (
        (samples == 1 and not colour.startswith("MONOCHROME"))
        or (samples == 3 and colour != "RGB")
        or samples not in (1, 3)
    ):
        raise InputError(
            f"DICOM in {colour or 'unknown'} colour, expected MONOCHROME1, MONOCHROME2 or RGB: convert it first"
        )
    stored = found.pixel_array
    frames = (
        stored[None]
        if int(found.get("NumberOfFrames", 1) or 1) == 1 and stored.ndim == (2 if samples == 1 else 3)
        else stored
    )
    out = Slices()
    for i, frame in enumerate(frames):
        values = frame[None] if samples == 1 else frame.transpose(2, 0, 1)
        values, changed = _in_units(values, found, i)
        window = _window(found, i)
        if values.dtype == np.uint8 and not changed and window is None:
            out.kind = "8-bit"
        out.pictures.append(("" if len(frames) == 1 else f"[{i}]", values, window, colour == "MONOCHROME1"))
    if len(frames) > 1:
        out.notes.append(f"all {len(frames)} frames of it are pictures")
    if colour == "MONOCHROME1":
        out.notes.append("inverted, because its low values are white (MONOCHROME1)")
    return out


def _groups(found: Any, i: int, name: str) -> Iterator[Any]:
    """Where a value may be kept: the file, what all frames share, the frame's own."""
    yield found
    for outer, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", i)):
        sequence = found.get(outer) or []
        if index < len(sequence):
            yield from sequence[index].get(name) or []


def _in_units(values: np.ndarray, found: Any, i: int) -> tuple[np.ndarray, bool]:
    if found.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        return np.asarray(apply_modality_lut(values, found), np.float32), True
    if "DoseGridScaling" in found:
        return (values * np.float64(found.DoseGridScaling)).astype(np.float32), True
    for group in reversed(list(_groups(found, i, "PixelValueTransformationSequence"))):
        if "RescaleSlope" in group or "RescaleIntercept" in group:
            slope, intercept = float(group.get("RescaleSlope", 1) or 1), float(group.get("RescaleIntercept", 0) or 0)
            if not (math.isfinite(slope) and math.isfinite(intercept)):
                raise InputError(f"DICOM with rescale slope {slope} and intercept {intercept}")
            if (slope, intercept) != (1, 0):
                return (values * np.float64(slope) + intercept).astype(np.float32), True
    return values, False


def _window(found: Any, i: int) -> tuple[float, float] | None:
    """The first window of a file, as the values that are black and white."""
    for group in reversed(list(_groups(found, i, "FrameVOILUTSequence"))):
        centre, width = _first(group.get("WindowCenter")), _first(group.get("WindowWidth"))
        if centre is None or width is None:
            continue
        kind = str(group.get("VOILUTFunction", "LINEAR") or "LINEAR")
        if kind == "LINEAR_EXACT" and width > 0:
            return centre - width / 2, centre + width / 2
        if kind == "LINEAR" and width > 1:  # DICOM PS3.3 C.11.2.1.2.1
            return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return None


def _first(value: Any) -> float | None:
    try:
        value = float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
    except (TypeError, ValueError, IndexError):
        return None
    return value if math.isfinite(value) else None


# NIfTI


def read_volume(path: Path, part: str | None) -> Slices:
    """Slices of a NIfTI file; part: AXIS, AXIS:NUMBER or AXIS:FIRST:LAST (z without: all axial ones); errors do not
    repeat the path."""
    try:
        import nibabel
    except ImportError as error:
        raise InputError("NIfTI is read by nibabel: pip install 'deft-diffusion[nifti]'") from error
    axis, _, chosen = (part or "z").partition(":")
    if axis not in AXES:
        raise InputError(
            f"{part!r} names no slices: give x (sagittal), y (coronal) or z (axial), with numbers as in z:40 or z:40:80"
        )
    try:
        image: Any = nibabel.load(path)
        kind = image.get_data_dtype().kind
        shape = tuple(int(n) for n in image.shape)
        whole, largest = math.prod(shape) * 4, may_unpack_to(path.stat().st_size)
        if min(shape, default=0) < 0 or whole > largest:
            raise InputError(
                f"NIfTI of shape {shape}: {whole:,} bytes of voxels in a file of {path.stat().st_size:,}, at most"
                f" {largest:,} are read"
            )
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"damaged NIfTI, or none ({one_line(error)[:160]})") from error
    if kind not in "fiu":
        raise InputError(f"NIfTI of {image.get_data_dtype()} values, expected real numbers")
    while len(shape) > 3 and shape[-1] == 1:
        image, shape = image.slicer[..., 0], shape[:-1]
    if len(shape) != 3 or 0 in shape:
        raise InputError(
            f"NIfTI of shape {tuple(shape)}, expected one volume of three axes: split it first (nibabel.four_to_three)"
        )
    try:
        canonical = nibabel.as_closest_canonical(image)
        volume = canonical.get_fdata(dtype=np.float32, caching="unchanged")
        steps = [abs(float(z)) for z in canonical.header.get_zooms()[:3]]
    except Exception as error:
        raise InputError(f"NIfTI whose voxels cannot be read ({one_line(error)[:160]})") from error
    return _cut(volume, steps, axis, chosen, _display(image))


def _display(image: Any) -> tuple[float, float] | None:
    try:
        low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    except (KeyError, ValueError, TypeError):
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


def _cut(volume: np.ndarray, steps: list[float], axis: str, chosen: str, window: tuple[float, float] | None) -> Slices:
    at = "xyz".index(axis)
    # rows from head (or front) down, columns from left to right (or back to front)
    planes = np.moveaxis(volume, at, 0).transpose(0, 2, 1)[:, ::-1]
    out = Slices()
    which = numbers(chosen or "all", len(planes), f"slice {axis}")
    for i in which:
        plane = planes[i]
        if not chosen and float(plane.min()) == float(plane.max()):
            out.left_out.append(f"[{axis}:{i}]")
        else:
            out.pictures.append((f"[{axis}:{i}]", np.ascontiguousarray(plane)[None], window, False))
    if not out.pictures:
        raise InputError("every slice is blank")
    blank = f", {len(out.left_out)} blank ones left out" if out.left_out else ""
    out.notes.append(f"{count(len(out.pictures), 'slice')} along {axis} ({AXES[axis]}) of {len(planes)}{blank}")
    across = [s for i, s in enumerate(steps) if i != at]
    if min(across) > 0 and max(across) / min(across) > 1.01:
        out.notes.append(f"its voxels of {across[0]:.3g} x {across[1]:.3g} mm are taken as square")
    return out
