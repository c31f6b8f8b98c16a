"""Start-up and loading of two checkouts, in turns in one run: the least of several, and their ratio.

python benchmarks/loading.py BEFORE/src src
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

REPEATS = 20
"""Loads within a process, whose mean is taken."""
MANY = "import time\nt = time.perf_counter()\nfor _ in range({n}): {call}\nprint('T', (time.perf_counter() - t) / {n})"
CASES = {
    "deft --help": "from deft.cli import main\nmain(['--help'])",
    "import deft": "import deft",
    'load_prior("fashion")': "import deft\ndeft.load_prior('fashion')\n"
    + MANY.format(n=REPEATS, call="deft.load_prior('fashion')"),
    "deft.load of a bundled h": "import deft\nfrom deft.io.h_files import bundled_h\nfile, prior = bundled_h('inpaint'), deft.load_prior('fashion')\n"
    + "deft.load(file, prior)\n"
    + MANY.format(n=REPEATS, call="deft.load(file, prior)"),
}


def seconds(code: str, source: str) -> float:
    """Of a process, or what it measured itself."""
    begun = time.perf_counter()
    env = {**os.environ, "PYTHONPATH": os.path.abspath(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    whole = time.perf_counter() - begun
    return next((float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("T ")), whole)


def main(before: str, now: str, turns: int = 8) -> None:
    for name, code in CASES.items():
        pairs = [(seconds(code, before), seconds(code, now)) for _ in range(turns)]
        a, b = (1e3 * min(column) for column in zip(*pairs, strict=True))
        print(f"{name}: {a:.1f} ms, {b:.1f} ms, ratio {b / a:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
