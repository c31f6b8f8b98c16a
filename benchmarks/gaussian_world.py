"""How near a fitted h and few calls come to a posterior that is known in closed form: the smooth 8x8 field, half of it
measured.

python benchmarks/gaussian_world.py          # four minutes of a core for each weighting, and two for the samples
python benchmarks/gaussian_world.py --quick

One row for each h, sampler, grid and number of calls: relative error of the mean (8,192 samples know it to about .002),
and the samples' deviation over the posterior's on hidden and on measured pixels. Then Var(log w) of the SDE's paths.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor

import deft
from deft import DEFT, DPMpp2M, Observation, SDEDPMpp2M, VPCosine
from deft.core.random import BatchNoise, Noise
from deft.testing import half_seen
from deft.train.data import Clean
from deft.train.denoising import DenoisingObjective
from deft.train.diagnosis import diagnose

SCHEDULE = VPCosine()
SAMPLERS = {
    "dpmpp-2m": (DPMpp2M(), "log-snr"),
    "sde-dpmpp-2m": (SDEDPMpp2M(), "log-snr"),
    "sde-dpmpp-2m, karras": (SDEDPMpp2M(), "karras"),
}


class Task:
    """Fresh noise, and so a fresh y, at every draw; one mask."""

    def __init__(self, like: Any):
        self.like = like

    def observe(self, x: Tensor, noise: Any) -> Observation:
        return Observation(self.like.sample(x, noise), self.like)


def fitted(world: Any, obs: Observation, weighting: str, width: int, steps: int, batch: int) -> DEFT:
    torch.manual_seed(0)
    h, prior, task = DEFT((64,), 2, width=width), world.prior(SCHEDULE), Task(obs.likelihood)
    h.calibrate(prior, world.sample(2000, 3).float(), max_samples=2000)
    objective = DenoisingObjective(prior, weighting)
    data = Clean(world.sample(100_000, 3).float(), task)
    optimiser = torch.optim.Adam(h.parameters(), lr=2e-3, betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, 1e-5)
    mean = [p.detach().clone() for p in h.parameters()]
    for i in range(steps):
        drawn = data.draw(batch, 0, i, torch.device("cpu"))
        loss = objective(h, drawn, BatchNoise(batch, 0, i, 1)).value
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(h.parameters(), 1.0)
        optimiser.step()
        rate.step()
        torch._foreach_lerp_(mean, [p.detach() for p in h.parameters()], max(0.001, 1 / (i + 10)))
    with torch.no_grad():
        for p, m in zip(h.parameters(), mean, strict=True):
            p.copy_(m)
    return h.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--samples", type=int, default=8192)
    parser.add_argument("--weightings", nargs="+", default=["v", "eps"])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.width, args.samples = 30, 16, 64
    world, obs = half_seen()
    prior, exact = world.prior(SCHEDULE), world.posterior(obs)
    seen = obs.likelihood.operator.mask[0] > 0
    hs: dict[str, Any] = {"exact": world.h}
    for weighting in args.weightings:
        started = time.monotonic()
        hs[weighting] = fitted(world, obs, weighting, args.width, args.steps, args.batch)
        print(f"{weighting}: {args.steps} steps in {time.monotonic() - started:.0f} s", flush=True)
    for name, h in hs.items():
        for title, (sampler, spacing) in SAMPLERS.items():
            for calls in (10, 15, 20, 50):
                x = deft.sample(
                    deft.condition(prior, h, obs.repeat(args.samples)), Noise(3, args.samples), sampler=sampler,
                    steps=calls, spacing=spacing, progress=False,
                ).double()  # fmt: skip
                ratio, error = x.std(0) / exact.std, (x.mean(0) - exact.mean).norm() / exact.mean.norm()
                print(
                    f"{name:6} {title:22} {calls:3} calls: mean off by {error:.4f}, spread over exact"
                    f" {ratio[~seen].mean():.3f} hidden, {ratio[seen].mean():.3f} measured, {ratio.mean():.3f} all",
                    flush=True,
                )
        for steps in (100,) if not args.quick else (10,):
            found = diagnose(prior, h, obs, paths=min(4096, args.samples), steps=steps, batch=1024)
            print(f"{name:6} Var(log w) at {steps} steps {found['variance']:.4f}, effective {found['effective']:.3f}")


if __name__ == "__main__":
    main()
