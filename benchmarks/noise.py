"""What a draw of noise costs on the CPU, beside a PyTorch generator for each sample, as `Noise` had it before Philox:
python benchmarks/noise.py [--repeats N]

One thread, process time, the two in turn within one run; the fastest and the middle one of the repeats are shown. Bound:
for 8 x 3 x 256 x 256 normal numbers a draw takes no longer than before.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deft.core.random import Noise, generator

SHAPES = ((8, 3, 256, 256), (64, 1, 28, 28), (1, 3, 64, 64), (64, 128, 3), (64, 4), (1000, 2))


def before(kind: str, shape: Sequence[int]) -> Callable[[], Tensor]:
    """A generator a sample, one call each."""
    generators = [generator(0, i) for i in range(shape[0])]

    def normal() -> Tensor:
        out = torch.empty(tuple(shape))
        for row, source in zip(out, generators, strict=True):
            row.normal_(generator=source)
        return out

    def uniform() -> Tensor:
        out = torch.empty(tuple(shape))
        for i, source in enumerate(generators):
            out[i] = torch.rand(tuple(shape[1:]), generator=source)
        return out

    return normal if kind == "normal" else uniform


def now(kind: str, shape: Sequence[int]) -> Callable[[], Tensor]:
    draw = getattr(Noise(0, shape[0]), kind)
    return lambda: draw(shape[1:])


def times(draws: Sequence[Callable[[], Tensor]], repeats: int) -> list[list[float]]:
    """Seconds of process time of each, in turn."""
    found: list[list[float]] = [[] for _ in draws]
    for i in range(repeats + 1):
        for draw, into in zip(draws, found, strict=True):
            start = time.process_time()
            draw()
            if i:  # the first one makes the generators
                into.append(time.process_time() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| numbers | shape | before (ms) | now (ms) | ratio of the fastest | of the medians |\n|---|---|---|---|---|---|"
    )
    for kind in ("normal", "uniform"):
        for shape in SHAPES:
            old, new = times([before(kind, shape), now(kind, shape)], args.repeats)
            fastest, median = min(new) / min(old), statistics.median(new) / statistics.median(old)
            size = " × ".join(map(str, shape))
            print(
                f"| {kind} | {size} | {1e3 * min(old):.3f} | {1e3 * min(new):.3f} | {fastest:.2f} | {median:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
