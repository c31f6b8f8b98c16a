"""Spoken digits made by a program: espeak-ng says "zero" to "nine" in many voices -> int16 at 8 kHz.

    apt-get install espeak-ng
    python make_digits.py --out digits.npz --bundle espeak.npz

espeak-ng (https://github.com/espeak-ng/espeak-ng) is under the GPL, version 3 or later. What it says is not: the sound
that a program makes is no copy of it, so the files are free to use.

`--out`: the voices of `VARIANTS`, in several pitches and speeds, as recordings back to back (pcm,
offset, name, rate: how `deft` reads many recordings of unequal length). A name is {digit}_{voice}_{number}.wav.
`--bundle`: the voices of `BUNDLED`, as `deft` ships them: for each split windows [N, 4096]
of 8-bit samples (mu-law of ITU-T G.711 without its rounding to segments) and the digits that they say.
`pack` of `benchmarks/half_weights.py` then packs the file closer.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import wave
from pathlib import Path

import numpy as np

RATE, WINDOW = 8000, 4096
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029")
VARIANTS = (
    "m1", "m2", "m3", "m4", "m5", "m7", "m8", "f1", "f2", "f3", "f5", "adam", "Alex", "Andy", "Annie", "benjamin",
    "david", "edward", "Gene", "grandpa", "Henrique", "Jacky", "Lee", "Linda", "marco", "Mike", "pablo", "paul",
    "quincy", "rob", "steph", "victor",
)  # fmt: skip
BUNDLED = {"fit": ("m6", "f4", "Michael", "anika"), "validation": ("norbert",), "test": ("sandro", "belinda")}
"""Split -> voices, which no other file has."""


def speak(word: str, voice: str, pitch: int = 50, speed: int = 160) -> np.ndarray:
    """One word, float64 in [-1, 1] at 8 kHz, silence at both ends cut off."""
    said = subprocess.run(
        ["espeak-ng", "-v", voice, "-p", str(pitch), "-s", str(speed), "--stdout", word],
        capture_output=True,
        check=True,
    ).stdout
    with wave.open(io.BytesIO(said)) as f:  # its header may tell of more than there is
        rate, x = f.getframerate(), np.frombuffer(f.readframes(f.getnframes()), np.int16) / 32768
    x = resample(x, rate)
    loud = np.flatnonzero(np.abs(x) > 0.01 * np.abs(x).max())
    return x[max(0, loud[0] - 80) : loud[-1] + 160]


def resample(x: np.ndarray, rate: int) -> np.ndarray:
    """To 8 kHz: frequencies above half of it are cut off by the discrete Fourier transform."""
    n = round(len(x) * RATE / rate)
    return np.fft.irfft(np.fft.rfft(x)[: n // 2 + 1], n) * n / len(x)


def loud(x: np.ndarray, rms: float = 0.1) -> np.ndarray:
    """At one loudness: root mean square 0.1 (-20 dB of full scale)."""
    return x * rms / np.sqrt(np.mean(x**2))


def window(x: np.ndarray) -> np.ndarray:
    """The word in the middle of 4,096 samples, zeros around it; of a longer one the middle."""
    if len(x) >= WINDOW:
        return x[(len(x) - WINDOW) // 2 :][:WINDOW]
    left = (WINDOW - len(x)) // 2
    return np.pad(x, (left, WINDOW - len(x) - left))


def mu_law(x: np.ndarray) -> np.ndarray:
    """[-1, 1] -> uint8: sign(x) log(1 + 255 |x|) / log 256 in 255 steps, 128 is 0."""
    return (np.round(127 * np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256)) + 128).astype(np.uint8)


def bundle(path: Path) -> None:
    parts: dict[str, np.ndarray] = {}
    for split, voices in BUNDLED.items():
        rows = [window(loud(speak(w, f"{ACCENTS[i % 2]}+{v}"))) for i, v in enumerate(voices) for w in WORDS]
        parts[split] = mu_law(np.clip(np.stack(rows), -1, 1))
        parts[f"{split}_labels"] = np.tile(np.arange(10, dtype=np.uint8), len(voices))
    np.savez_compressed(path, **parts)
    print(path, path.stat().st_size, {k: v.shape for k, v in parts.items()})


def recordings(path: Path, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    pcm, names = [], []
    for number, variant in enumerate(VARIANTS):
        for take, accent in enumerate(rng.choice(ACCENTS, 3, replace=False)):
            pitch, speed = int(rng.integers(20, 80)), int(rng.integers(130, 220))
            for digit, word in enumerate(WORDS):
                x = loud(speak(word, f"{accent}+{variant}", pitch, speed))
                pcm.append(np.round(np.clip(x, -1, 1) * 32767).astype(np.int16))
                names.append(f"{digit}_{variant}_{take}.wav")
        print(f"{number + 1} of {len(VARIANTS)} voices", end="\r")
    offset = np.concatenate([[0], np.cumsum([len(x) for x in pcm])])
    np.savez_compressed(path, pcm=np.concatenate(pcm), offset=offset, name=np.array(names), rate=np.array(RATE))
    print(path, len(names), "recordings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--bundle", type=Path)
    o = parser.parse_args()
    if o.bundle:
        bundle(o.bundle)
    if o.out:
        recordings(o.out)


if __name__ == "__main__":
    main()
