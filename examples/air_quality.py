"""Hourly air quality of twelve stations in Beijing as a training file for `deft prior train --kind series`.

The data are "Beijing Multi-Site Air Quality" (Song Chen, UCI Machine Learning Repository, set 501, DOI 10.24432/C5RK5G,
CC BY 4.0): twelve files PRSA_Data_<station>_20130301-20170228.csv of https://archive.ics.uci.edu/dataset/501. Unpack
them into a folder, and

    python examples/air_quality.py PRSA_Data/ air.npz
    deft prior train --kind series --data air.npz:fit --held-out air.npz:validation --out air

writes windows of 96 hours of eleven variables: `fit` before 2016, `validation` of the first half of 2016, `test` after
it. Missing values stay NaN. No window crosses from one part to the next.

What is checked: that there are twelve stations, that each file has 35,064 rows numbered without a gap, and its columns.
The SHA-256 of the values as float32 (hours, stations, variables) is compared with that of the array which the bundled
prior `air` was trained on, and another one is said: the array came from a public copy of the same files, whose own
checksums the repository does not publish.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

VARIABLES = ("PM2.5", "PM10", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "WSPM")
START, HOURS, STATIONS = datetime(2013, 3, 1), 35_064, 12
PARTS = {"fit": (START, datetime(2016, 1, 1), 24), "validation": (datetime(2016, 1, 1), datetime(2016, 7, 1), 48)}
PARTS["test"] = (datetime(2016, 7, 1), START + timedelta(hours=HOURS), 96)
"""Part -> from, to, hours from one window to the next."""
LENGTH = 96
SHA256 = "b7a8da012e85a292872de17bfe858c5fda5a9eec003583e3e955c5779713d11d"
"""Of the values that the bundled prior was trained on, NaN where nothing was measured."""


def read_station(path: Path) -> np.ndarray:
    """[hours, variables] of one file."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lacking = [v for v in (*VARIABLES, "No") if not rows or v not in rows[0]]
    if lacking:
        sys.exit(f"{path} lacks the columns {', '.join(lacking)}: expected a file of UCI's data set 501")
    if [int(r["No"]) for r in rows] != list(range(1, HOURS + 1)):
        sys.exit(f"{path} has {len(rows)} rows, expected {HOURS}, numbered without a gap")
    return np.array([[np.nan if r[v] in ("NA", "") else float(r[v]) for v in VARIABLES] for r in rows], np.float32)


def read(source: Path) -> np.ndarray:
    """[hours, stations, variables] of a folder of the twelve files, or of an .npz that holds them as x."""
    if source.is_file():
        return np.load(source)["x"]
    files = sorted(source.glob("PRSA_Data_*_20130301-20170228.csv"))
    if len(files) != STATIONS:
        sys.exit(f"{source} holds {len(files)} files PRSA_Data_<station>_20130301-20170228.csv, expected {STATIONS}")
    return np.stack([read_station(f) for f in files], 1)


def checksum(x: np.ndarray) -> str:
    """SHA-256 of the values, with one kind of NaN."""
    plain = np.where(np.isnan(x), np.float32(-1e30), x.astype(np.float32))
    return hashlib.sha256(np.ascontiguousarray(plain, "<f4").tobytes()).hexdigest()


def windows(x: np.ndarray, part: str) -> np.ndarray:
    """[N, variables, LENGTH] of all stations."""
    first, end, stride = PARTS[part]
    low, high = (int((t - START).total_seconds()) // 3600 for t in (first, end))
    starts = range(low, high - LENGTH + 1, stride)
    return np.stack([x[s : s + LENGTH, i].T for i in range(x.shape[1]) for s in starts]).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="the folder of the twelve CSV files")
    parser.add_argument("out", type=Path, help="the .npz to write")
    asked = parser.parse_args()
    x = read(asked.source)
    if x.shape != (HOURS, STATIONS, len(VARIABLES)):
        sys.exit(f"{asked.source} holds {list(x.shape)}, expected {[HOURS, STATIONS, len(VARIABLES)]}")
    if checksum(x) != SHA256:
        print(f"note: other values than the bundled prior was trained on (SHA-256 {checksum(x)})", file=sys.stderr)
    parts = {name: windows(x, name) for name in PARTS}
    # the first so many are of all stations and times; nobody holds them out by their place in the file
    for name in ("validation", "test"):
        parts[name] = np.random.default_rng(0).permutation(parts[name])
    np.savez_compressed(asked.out, **parts, columns=np.array(VARIABLES), step=np.array(3600.0))
    print(f"wrote {asked.out}: " + ", ".join(f"{name} {len(v)}" for name, v in parts.items()) + " windows")


if __name__ == "__main__":
    main()
