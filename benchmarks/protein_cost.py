"""What a step costs beside the backbone prior's own: DEFT, ΠGDM, clearance. A ratio in one run: arms take turns, the
least of several counts.

    python benchmarks/protein_cost.py --lengths 64 128 --rows 8 --turns 7
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial

import torch

from deft.core.condition import condition
from deft.core.htransform import HTransform
from deft.core.random import Noise
from deft.domains.protein.chains import UNIT, chains, pad
from deft.domains.protein.clearance import Clearance
from deft.domains.protein.motif import SIGMA_Y, observe_motif
from deft.domains.protein.place import bundled_h
from deft.domains.protein.prior import BackbonePrior
from deft.domains.protein.scaffold import load_scaffolder
from deft.guidance import PiGDM
from deft.guidance.combine import Zero
from deft.prior import load_prior

LEVEL = 0.5
"""sigma / alpha of the step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole = load_prior("backbone")
    assert isinstance(whole, BackbonePrior)
    h9, h4 = (load_scaffolder(bundled_h(size), whole)[0].eval() for size in (9, 4))
    arms: dict[str, HTransform] = {
        "prior": Zero(),
        "DEFT 9 %": h9,
        "DEFT 4 %": h4,
        "DEFT 9 % + clearance": Clearance(h9),
        "ΠGDM": PiGDM(1.0),
    }
    print("| | " + " | ".join(f"L = {n}" for n in args.lengths) + " |\n|" + "---|" * (len(args.lengths) + 1))
    found: dict[str, list[str]] = {name: [] for name in arms}
    for length in args.lengths:
        x = pad([c.x[:length] for c in chains("validation") if len(c.x) >= length][:1] * args.rows, length).float()
        group = torch.zeros(args.rows, length, dtype=torch.long)
        group[:, 10:30] = 1
        obs = observe_motif(x, group, Noise(0, args.rows), SIGMA_Y)
        prior = whole.of_length(length)
        x_t = x + LEVEL * torch.randn_like(x)
        t = prior.schedule.time_of(torch.tensor(2 * math.log(1 / LEVEL), dtype=torch.float64))
        calls: dict[str, Callable[[], object]] = {
            name: partial(condition(prior, h, obs), x_t, t) for name, h in arms.items()
        }
        least = dict.fromkeys(arms, float("inf"))
        with torch.no_grad():
            for _ in range(args.turns):
                for name, call in calls.items():
                    begun = time.perf_counter()
                    call()
                    least[name] = min(least[name], time.perf_counter() - begun)
        for name, seconds in least.items():
            found[name].append(f"{seconds / least['prior']:.2f} ({1000 * seconds / args.rows:.0f} ms a chain)")
    for name, cells in found.items():
        print(f"| {name} | {' | '.join(cells)} |")
    print(
        f"\nTimes the prior's own call, {args.rows} chains at once, one thread, coordinates in units of {UNIT:g}"
        " angstrom"
    )


if __name__ == "__main__":
    main()
