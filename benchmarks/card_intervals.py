"""Whether the 90 % intervals that the cards of bundled h promise hold on bundled test images, which no card has seen.

python benchmarks/card_intervals.py sr4 deblur-gaussian inpaint-random ct phase deblur-nonlinear   # clothes; 6 minutes
"""

from __future__ import annotations

import sys

import deft
from deft.domains.image.data import dataset
from deft.io.h_files import bundled_h

x = dataset("fashion", "test").x[:64]
for name in sys.argv[1:] or ["sr4"]:
    h = deft.load(bundled_h(name, "fashion"))
    draws = h.sample(h.task.observe(x, deft.Noise(11, len(x))), n=4, seed=5)
    held = []
    for calibrated in (True, False):
        low, high = draws.interval(0.9, calibrated=calibrated)
        held.append(((x >= low) & (x <= high)).float().flatten(1).mean(1))
    error = held[0].std() / len(x) ** 0.5
    print(f"{name}: {held[0].mean():.1%} ± {error:.1%}, raw {held[1].mean():.1%}", flush=True)
