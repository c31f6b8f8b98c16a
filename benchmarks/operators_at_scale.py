"""What every image task costs at real sizes: seconds and memory of its operator, each in a fresh process.

    python benchmarks/operators_at_scale.py                     all tasks at 512 x 512, a table
    python benchmarks/operators_at_scale.py --side 1024 --tasks phase mri
    python benchmarks/operators_at_scale.py --json results.json

Columns, for one image (the tasks of CT: one channel; others: three):

    observe   seconds to make the measurement
    features  what a network is shown of y, the first time
    guide     `approx_mean_update`, the first time and then: the guide of a learned h, once a step
    exact     `mean_update`, then: what PiGDM and MMPS ask for; at rho = .3
    memory    the most that the process held beyond what it held with `deft` imported, MB

Seconds are the process's own (of all its threads, `--threads`), which other programs on the machine hardly change.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

RHO = 0.3
EXTRA = {"ct-360": ("ct", {"angles": 360}), "ct-1000": ("ct", {"angles": 1000})}


def measure(name: str, side: int, threads: int) -> dict[str, Any]:
    import torch

    import deft
    from deft.kinds.domain import domains

    torch.set_num_threads(threads)
    tasks = domains()["image"].tasks()
    kind, options = EXTRA.get(name, (name, {}))
    task = tasks[kind](**options)
    grey = kind in ("ct", "ct-limited", "ct-rays", "two-views", "mri", "mri-coils")
    noise = deft.Noise(0, 1)
    x = torch.nn.functional.interpolate(
        noise.normal((1 if grey else 3, side // 8, side // 8)), (side, side), mode="bicubic"
    ).clamp(-1, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def timed(call: Any, repeats: int = 1) -> tuple[Any, float]:
        best = float("inf")
        for _ in range(repeats):
            start = time.process_time()
            out = call()
            best = min(best, time.process_time() - start)
        return out, round(best, 4)

    row: dict[str, Any] = {"task": name, "side": side}
    with torch.no_grad():
        obs, row["observe"] = timed(lambda: task.observe(x, noise))
        _, row["features"] = timed(lambda: obs.likelihood.features(obs.y))
        rho2 = torch.full((1, 1, 1, 1), RHO**2)
        _, row["guide first"] = timed(lambda: obs.likelihood.approx_mean_update(obs.y, torch.zeros_like(x), rho2))
        _, row["guide then"] = timed(lambda: obs.likelihood.approx_mean_update(obs.y, torch.zeros_like(x), rho2), 2)
        _, row["exact then"] = timed(lambda: obs.likelihood.mean_update(obs.y, torch.zeros_like(x), rho2), 2)
    row["memory"] = round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tasks", nargs="*")
    parser.add_argument("--json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.side, args.threads)))
        return
    from deft.kinds.domain import domains

    rows = []
    for name in args.tasks or [*domains()["image"].tasks(), *EXTRA]:
        command = [sys.executable, __file__, "--one", name, "--side", str(args.side), "--threads", str(args.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            row = {"task": name, "side": args.side, "error": (done.stderr.strip().splitlines() or ["killed"])[-1]}
        else:
            row = json.loads(done.stdout)
        rows.append(row)
        print("  ".join(f"{v!s:>14}" if i else f"{v!s:18}" for i, v in enumerate(row.values())), flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
