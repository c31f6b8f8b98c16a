"""Objectives on paths: two far modes, where the answer is known, and memory. (Growing dimension: control_scaling.py.)

    python benchmarks/control_worlds.py modes        # share of samples in the left mode, Var(log w), log Z: about five minutes of one core
    python benchmarks/control_worlds.py rare         # the same where a mode is rare under the prior and likely under the posterior: twenty minutes
    python benchmarks/control_worlds.py rare-chains  # of that, guidance and Hamiltonian Monte Carlo alone: five minutes
    python benchmarks/control_worlds.py size         # Var(log w) against steps and against the width of h's network: ten minutes
    python benchmarks/control_worlds.py memory       # peak memory of a batch against the steps of its paths

Prints Markdown. h is a small network that starts at 0 and is shown x_t and the noise level alone, so that nothing is
known beforehand.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor, nn

from deft import DEFT, FitConfig, Gaussian, Mask, Observation, VPCosine, fit
from deft.core.denoiser import Denoiser, Prediction
from deft.core.grid import times
from deft.core.htransform import HTransform
from deft.core.random import BatchNoise, Noise
from deft.domains.image.tasks import get_task
from deft.guidance import DPS, GradientAtMean, PiGDM
from deft.guidance.combine import Zero
from deft.learned.base import count_parameters
from deft.prior import load_prior
from deft.runtime.memory import PeakMemory
from deft.samplers import Ancestral, Ito, sample_hmc, sample_posterior
from deft.testing import two_modes
from deft.train.measured import Measured
from deft.train.path import (
    AdjointMatching,
    Control,
    LogVariance,
    PathObjective,
    RelativeEntropy,
    TrajectoryBalance,
    simulate,
)
from deft.train.protocols import Batch

OBJECTIVES: dict[str, type[PathObjective]] = {
    "VarGrad": LogVariance,
    "trajectory balance": TrajectoryBalance,
    "relative entropy": RelativeEntropy,
    "adjoint matching": AdjointMatching,
}
CHAIN, ROWS = 16, 64


class Blank(HTransform):
    """A network from (x_t, log(sigma/alpha)) to h, in units in which h is of order one; 0 at first."""

    def __init__(self, dim: int, width: int = 32):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, dim)
        ).double()
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net[-1].bias)  # type: ignore[arg-type]

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        a, s = pred.alpha, pred.sigma
        level = torch.log(s / a).expand(len(pred.x_t), 1)
        return self.net(torch.cat([pred.x_t, level], 1)) * a / (s**2 + 0.1 * a**2)


def learned(
    kind: type[PathObjective],
    prior: Denoiser,
    obs: Observation,
    steps: int,
    *,
    chain: int = CHAIN,
    rows: int = ROWS,
    subset: int | None = None,
    rate: float = 0.05,
    width: int = 32,
) -> tuple[HTransform, float]:
    """(h after `steps` batches, seconds)."""
    torch.manual_seed(0)
    h = Blank(prior.event_shape[0], width)
    objective = kind(prior, chain) if kind is RelativeEntropy else kind(prior, chain, subset=subset)
    module = Control(h, rate=rate) if kind is TrajectoryBalance else h
    started = time.monotonic()
    config = FitConfig(steps=steps, batch=rows, lr=1e-2, warmup=20, ema=0.98, evaluations=1, held_out_batches=1)
    fit(module, objective, Measured(obs), Measured(obs), config=config, progress=False)
    h.eval()
    return h, time.monotonic() - started


def share(x: Tensor) -> float:
    """Of samples, in the left mode."""
    return float((x.sum(1) < 0).double().mean())


def modes() -> None:
    print("| distance | | share in the left mode | Var(log w) | log Z | s |\n|---|---|---|---|---|---|")
    n = 2000
    for distance, sigma in ((4.0, 0.7), (8.0, 2.0)):
        world = two_modes(distance=distance)
        prior = world.prior(VPCosine())
        obs = Observation(
            torch.tensor([[-0.25, 0.0]]).double(),
            Gaussian(Mask(torch.tensor([[1.0, 0.0]]).double()), torch.tensor(sigma).double()),
        )
        exact, grid = world.posterior(obs), times(VPCosine(), 60, "log-snr")

        print(f"| {distance:g} | exact | {float(exact.mixture.weights[0]):.3f} | 0 | {exact.log_evidence:.3f} | |")
        for name, h in (("ΠGDM, d = 0.5", PiGDM(0.5)), ("ΠGDM, d = 1", PiGDM(1.0)), ("DPS, ζ = 1", DPS(1.0))):
            x = sample_posterior(prior, h, obs, n, sampler=Ancestral(), grid=grid, batch=n).x[0]
            print(f"| | {name} | {share(x):.3f} | | | |")
        for name, kind in OBJECTIVES.items():
            h, seconds = learned(kind, prior, obs, 200)
            w = simulate(prior, h, obs.repeat(n), BatchNoise(n, 9), grid, Ito())
            z = float(torch.logsumexp(w.log_weight, 0)) - math.log(n)
            print(
                f"| | {name} | {share(w.x):.3f} | {float(w.log_weight.var()):.3f} | {z:.3f} | {seconds:.0f} |",
                flush=True,
            )


def rare(chains_only: bool = False) -> None:
    """A mode that 1 % of the prior's samples are in, and 40 % of the posterior's.

    A chain of finitely many steps has other weights than the prior: what an objective on it learns is the chain's own
    posterior, found here by weighing 200,000 of its paths without control.
    """
    world = two_modes(distance=8.0, weight=0.01)
    prior = world.prior(VPCosine())
    obs = Observation(
        torch.tensor([[-1.8531, 0.0]]).double(),
        Gaussian(Mask(torch.tensor([[1.0, 0.0]]).double()), torch.tensor(1.5).double()),
    )
    exact, n = world.posterior(obs), 4000
    grids = [times(VPCosine(), k, "log-snr") for k in (100, 200)]

    def cells(h: HTransform, n: int) -> str:
        out = []
        for grid in grids:
            w = simulate(prior, h, obs.repeat(n), BatchNoise(n, 9), grid, Ito())
            z = float(torch.logsumexp(w.log_weight, 0)) - math.log(n)
            by_weight = float(w.log_weight.softmax(0)[w.x.sum(1) < 0].sum())
            out.append(f"{share(w.x):.3f} | {by_weight:.3f} | {float(w.log_weight.var()):.3f} | {z:.3f}")
        return " | ".join(out)

    print(
        "| | left, 100 steps | by weight | Var(log w) | log Z | left, 200 steps | by weight | Var(log w) | log Z | s"
        " |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    print(f"| exact, of the prior itself | {float(exact.mixture.weights[0]):.3f} | | 0 | {exact.log_evidence:.3f} |")
    print(f"| no control, 200,000 paths | {cells(Zero(), 200_000)} |", flush=True)
    for name, h in (("ΠGDM, d = 0.5", PiGDM(0.5)), ("ΠGDM, d = 1", PiGDM(1.0)), ("DPS, ζ = 1", DPS(1.0))):
        shares = [
            share(sample_posterior(prior, h, obs, n, sampler=Ancestral(), grid=grid, batch=n).x[0]) for grid in grids
        ]
        print(f"| {name} | {shares[0]:.3f} | | | | {shares[1]:.3f} |", flush=True)
    begun = time.monotonic()
    ends = [
        sample_hmc(
            prior, GradientAtMean(0.5), obs, 500, iterations=120, burn_in=40, sampler=Ito(), grid=grid, batch=500
        ).x[0]
        for grid in grids
    ]
    print(
        f"| HMC, 500 chains of 120 iterations | {share(ends[0]):.3f} | | | | {share(ends[1]):.3f} | | | |"
        f" {time.monotonic() - begun:.0f} |",
        flush=True,
    )
    if chains_only:
        return
    for name, kind in OBJECTIVES.items():
        h, seconds = learned(kind, prior, obs, 400, chain=100, rows=256, subset=25, rate=0.3)
        print(f"| {name} | {cells(h, n)} | {seconds:.0f} |", flush=True)


def size() -> None:
    """Var(log w) on 4,000 paths of so many steps: of the exact h, and of networks of several widths that learned on
    paths of 30 steps."""
    lengths, n = (15, 30, 60, 120, 240, 480), 4000
    world = two_modes(distance=4.0)
    prior = world.prior(VPCosine())
    obs = Observation(
        torch.tensor([[-0.25, 0.0]]).double(),
        Gaussian(Mask(torch.tensor([[1.0, 0.0]]).double()), torch.tensor(0.7).double()),
    )
    print("| | parameters | " + " | ".join(f"{k} steps" for k in lengths) + " |\n|" + "---|" * (2 + len(lengths)))

    def line(name: str, count: str, h: HTransform) -> None:
        ws = [
            simulate(prior, h, obs.repeat(n), BatchNoise(n, 9), times(VPCosine(), k, "log-snr"), Ito()).log_weight.var()
            for k in lengths
        ]
        print(f"| {name} | {count} | " + " | ".join(f"{float(w):.3f}" for w in ws) + " |", flush=True)

    line("exact", "", world.h)
    for kind in ("relative entropy", "VarGrad"):
        for width in (4, 16, 64, 256):
            h, _ = learned(OBJECTIVES[kind], prior, obs, 300, chain=30, width=width)
            line(f"{kind}, width {width}", f"{count_parameters(h):,}", h)


def allocated(run: Callable[[], object]) -> float:
    """Most that tensors had at once while it ran, MiB. What the system shows as the process's memory is more: the C
    library keeps fragments of what was freed."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as p:
        run()
    events = [e for e in p.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))) / 2**20


def memory() -> None:
    """The first number is of tensors, the second of the process."""
    lengths = (50, 200, 800)
    print("| | " + " | ".join(f"{n} steps" for n in lengths) + " |\n|---|---|---|---|")
    prior, task = load_prior("fashion"), get_task("sr4")
    from deft.domains.image.data import fashion

    obs = task.observe(fashion("test").x[:1], Noise(0, 1))
    torch.manual_seed(0)
    rows = {
        "VarGrad, 10 steps differentiated": lambda n: LogVariance(prior, n, subset=10),
        "VarGrad, all": lambda n: LogVariance(prior, n),
        "relative entropy": lambda n: RelativeEntropy(prior, n),
        "adjoint matching, 10 steps": lambda n: AdjointMatching(prior, n, subset=10),
    }
    for name, make in rows.items():
        cells = []
        for n in lengths:
            h = DEFT.sized(prior, 0.02, task.feature_channels)

            def run(n: int = n, make: Callable[[int], PathObjective] = make, h: DEFT = h) -> None:
                make(n)(h, Batch(torch.empty(4, 0), obs.repeat(4)), BatchNoise(4, 0)).value.backward()

            peak = PeakMemory()
            with peak:
                run()
            tensors = f"{allocated(run):.0f}" if n < 800 else "–"  # the profile itself would not fit
            cells.append(f"{tensors}, {peak.mib:.0f} MiB")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("modes", "rare", "rare-chains", "size", "memory"))
    {"modes": modes, "rare": rare, "rare-chains": lambda: rare(chains_only=True), "size": size, "memory": memory}[
        parser.parse_args().what
    ]()


if __name__ == "__main__":
    main()
