"""Sound files: WAV, and what else libsndfile reads (FLAC, AIFF, Ogg), through the package soundfile."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deft.errors import InputError
from deft.io.files import write_atomic
from deft.io.text import one_line
from deft.runtime.untrusted import may_unpack_to

ENDINGS = (".wav", ".flac", ".aif", ".aiff", ".ogg")
BITS = {"PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
SUBTYPES = (*BITS, "FLOAT", "DOUBLE")
"""How a WAV file may keep its samples; `BITS` of those that are whole numbers."""
MAX_RATE = 10_000_000


class Sound(NamedTuple):
    """x: float32 [channels, n], 1 is full scale; rate: samples a second."""

    x: Tensor
    rate: int


def soundfile() -> ModuleType:
    """The package.

    Raises:
        InputError: it is not installed.
    """
    try:
        import soundfile as package
    except (ImportError, OSError) as error:  # OSError: its library is not there
        raise InputError(
            "sound files are read and written by soundfile: pip install 'deft-diffusion[sound]'"
        ) from error
    return package


def is_sound(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


def read_wav(path: str | Path) -> Sound:
    """The whole of a sound file, of any number of channels, rate and depth (8, 16, 24, 32 bit, float).

    Whole numbers of b bits are divided by 2^(b - 1), 8 bits after 128 is taken off. A float file may hold NaN where
    nothing is known, and values beyond full scale.

    Raises:
        InputError: no such file, an empty one, one that is no sound file or is damaged, or infinite values; the path
            comes first.
    """
    path, package = Path(path), soundfile()
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    size = os.path.getsize(path)
    if not size:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    try:
        with package.SoundFile(str(path)) as f:
            if 4 * f.frames * f.channels > may_unpack_to(size):
                raise InputError(
                    f"{path}: its header tells of {f.frames:,} samples of {f.channels} channels, it has {size:,} bytes"
                )
            x, rate = f.read(dtype="float32", always_2d=True), f.samplerate
    except (package.LibsndfileError, RuntimeError, ValueError, TypeError) as error:
        reason = str(getattr(error, "error_string", "") or one_line(error))
        raise InputError(f"{path}: no sound file that can be read ({reason.rstrip('.')}): give a WAV file") from error
    if not len(x):
        raise InputError(f"{path}: the file has no samples: its sound is 0 s long")
    if not 0 < rate <= MAX_RATE:
        raise InputError(f"{path}: a rate of {rate:,} samples a second is no sound's")
    if np.isinf(x).any():
        raise InputError(f"{path}: {int(np.isinf(x).sum()):,} samples are infinite")
    return Sound(torch.from_numpy(np.ascontiguousarray(x.T)), int(rate))


def write_wav(path: str | Path, x: Tensor, rate: int, subtype: str = "FLOAT") -> None:
    """Write a sound [n] or [channels, n], 1 is full scale, as a WAV file, atomically. Of whole-number subtypes values
    beyond full scale are clipped.

    >>> import tempfile
    >>> where = Path(tempfile.mkdtemp(), "a.wav")
    >>> write_wav(where, torch.tensor([0.0, 0.5, -1.0]), 8000, "PCM_16")
    >>> read_wav(where)
    Sound(x=tensor([[ 0.0000,  0.5000, -1.0000]]), rate=8000)
    """
    package = soundfile()
    if subtype not in SUBTYPES:
        raise InputError(f"a WAV file keeps its samples as one of {', '.join(SUBTYPES)}, got {subtype!r}")
    data = (x if x.ndim == 2 else x[None]).detach().cpu().mT.contiguous().double().numpy()
    if subtype in BITS:  # rounded here: libsndfile has another full scale than it reads with
        top = 2 ** (BITS[subtype] - 1)
        data = np.left_shift(np.clip(np.rint(data * top), -top, top - 1).astype(np.int32), 32 - BITS[subtype])
    write_atomic(path, lambda p: package.write(str(p), data, rate, subtype=subtype, format="WAV"))


def mixed(x: Tensor) -> Tensor:
    """[channels, n] -> [n]: the mean of its channels."""
    return x.mean(0)


def resampled(x: Tensor, rate: int, new: int) -> Tensor:
    """A sound [n] at another rate, [round(n new / rate)]: frequencies beyond half of the lower rate are cut off by the
    discrete Fourier transform, which takes the sound for a circle. A tenth of a second of silence keeps its ends apart.

    >>> x = torch.sin(2 * torch.pi * 440 * torch.arange(8000.0) / 8000)
    >>> y = torch.sin(2 * torch.pi * 440 * torch.arange(16000.0) / 16000)
    >>> float((resampled(x, 8000, 16000) - y)[800:-800].abs().max()) < 0.01
    True
    """
    if rate == new:
        return x
    n = max(1, round(len(x) * new / rate))
    step = rate // math.gcd(rate, new)  # of so many samples the other length is whole
    whole = -(-(len(x) + rate // 10) // step) * step
    m = whole * new // rate
    spectrum = torch.fft.rfft(torch.nn.functional.pad(x.double(), (0, whole - len(x))))
    kept = torch.zeros(m // 2 + 1, dtype=spectrum.dtype)
    low = min(len(kept), len(spectrum))
    kept[:low] = spectrum[:low]
    return (torch.fft.irfft(kept, m) * (m / whole))[:n].to(x.dtype)
