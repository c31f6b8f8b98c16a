"""How long `import deft`, all of its face and `deft --help` take, beside `import torch`: python
benchmarks/import_time.py [--repeats N]

Each in a process of its own, in turn, so that a busy machine is as unfair to one as to the others; the fastest and the
middle one are shown. Bounds: `import deft` 1.3 times `import torch`, `deft --help` half a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

CASES = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import deft": ["-c", "import deft"],
    "import deft, and all it shows": ["-c", "import deft\nfor name in deft.__all__: getattr(deft, name)"],
    "deft --help": ["-m", "deft", "--help"],
    "deft fit --help": ["-m", "deft", "fit", "--help"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="the numbers as one JSON object")
    args = parser.parse_args()
    for arguments in CASES.values():
        seconds(arguments)  # files into the system's cache
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(args.repeats):
        for name, arguments in CASES.items():
            found[name].append(seconds(arguments))
    if args.json:
        print(json.dumps({name: {"fastest": min(v), "median": statistics.median(v)} for name, v in found.items()}))
        return
    torch = min(found["import torch"])
    print(f"| {args.repeats} starts of each | fastest (s) | median (s) | of `import torch` |\n|---|---|---|---|")
    for name, values in found.items():
        print(f"| `{name}` | {min(values):.2f} | {statistics.median(values):.2f} | {min(values) / torch:.2f} |")


if __name__ == "__main__":
    main()
