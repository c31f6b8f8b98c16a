"""The Free Spoken Digit Dataset -> fsdd.npz, what the prior `digits` and the classifier of digits were fitted to.

    git clone https://github.com/Jakobovski/free-spoken-digit-dataset   # CC BY-SA 4.0; 26eb9aaf (2024-05-02)
    python make_data.py --folder free-spoken-digit-dataset/recordings --out fsdd.npz

The folder holds 3,000 files {digit}_{speaker}_{index}.wav, 8 kHz, one channel, 16 bit. Those of index 0 to 31 are
taken: 1,920 recordings of six speakers, 6,751,273 samples. The script prints the SHA-256 of all samples; the prior that
comes with the library was fitted to

    e9aefeff054a5593159a896f07576b972dcc1e4a74d6c1922ab3b6e091f8f28d
"""

from __future__ import annotations

import argparse
import hashlib
import wave
from pathlib import Path

import numpy as np

RATE, TAKEN = 8000, 32


def read(path: Path) -> np.ndarray:
    """The samples of a file, int16."""
    with wave.open(str(path)) as f:
        shape = (f.getnchannels(), f.getsampwidth(), f.getframerate())
        assert shape == (1, 2, RATE), f"{path}: {shape}, expected one channel of 16 bit at {RATE} a second"
        return np.frombuffer(f.readframes(f.getnframes()), "<i2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("fsdd.npz"))
    o = parser.parse_args()
    files = sorted(p for p in o.folder.glob("*.wav") if int(p.stem.split("_")[2]) < TAKEN)
    assert files, f"no recordings in {o.folder}"
    sounds = [read(p) for p in files]
    pcm, offset = np.concatenate(sounds), np.concatenate([[0], np.cumsum([len(x) for x in sounds])])
    np.savez_compressed(o.out, pcm=pcm, offset=offset, name=np.array([p.name for p in files]), rate=np.array(RATE))
    print(f"{o.out}: {len(files)} recordings, {len(pcm):,} samples, sha256 {hashlib.sha256(pcm.tobytes()).hexdigest()}")


if __name__ == "__main__":
    main()
