"""What a step costs, as ratios measured in one run.

    python benchmarks/step_cost.py            a table
    python benchmarks/step_cost.py --json     one JSON object

| key                            | measured                                   | over                                        | bar  |
|--------------------------------|--------------------------------------------|---------------------------------------------|------|
| deft_over_forward              | a sampling step with a 9 % DEFT            | bare forward of the bundled-size network    | 1.25 |
| deft_over_forward_large        | the same, 50 M parameters, 3 x 64 x 64     | bare forward of that network                | 1.12 |
| dps_over_forward_backward      | a sampling step with DPS                   | bare forward and backward to the input      | 1.10 |
| pigdm_over_forward_backward    | a sampling step with PiGDM                 | bare forward and backward to the input      | 1.10 |
| loop_over_handwritten          | `deft.sample` of the prior alone           | a DDIM loop written by hand, the same noise | 1.03 |
| deft_peak_memory_over_prior    | memory of sampling with DEFT               | memory of sampling the prior alone          | 1.20 |

A "sampling step" is all that `deft.sample` does between two states: prior, h, kernel, noise, the check for
non-finite values. "Bare" is the network called on tensors that lie ready. Both sides of a ratio run in turn,
`--repeats` times, each side going first in every other turn; the figure is the median of the ratios and the
quartiles are printed beside it, so a machine that is slow for a while is slow for both.

The large prior and both h have random weights, which change no cost; every parameter is drawn afresh, because
the last layers of these networks start at zero.

Memory is the high-water mark of a fresh process that samples, less what the process held once `torch` and
`deft` were imported: weights, activations and the allocator's slack, without the interpreter.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import deft
from deft.core.transition import Level, ddim
from deft.nn import UNet
from deft.prior import load_prior

BARS = {
    "deft_over_forward": 1.25,
    "deft_over_forward_large": 1.12,
    "dps_over_forward_backward": 1.10,
    "pigdm_over_forward_backward": 1.10,
    "loop_over_handwritten": 1.03,
    "deft_peak_memory_over_prior": 1.20,
}


# ---------------------------------------------------------------- what is measured


def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.data.copy_(noise * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.1))


def as_prior(net: nn.Module, shape: tuple[int, ...]) -> deft.NetworkDenoiser:
    randomise(net)
    prior = deft.NetworkDenoiser(net, deft.VPCosine(), shape, "v", time="log-sigma")
    deft.freeze(prior)
    return prior


def small_prior() -> deft.NetworkDenoiser:
    """The bundled prior; where its weights are not installed, a network of its size."""
    try:
        prior = load_prior("fashion")
    except deft.DeftError:
        return as_prior(UNet(1, 1, (64, 96, 128), blocks=1, patch=2), (1, 32, 32))
    if prior.output != "v":
        raise SystemExit(f"the loop written by hand is for a v-network, the bundled prior's output is {prior.output}")
    return prior


def large_prior() -> deft.NetworkDenoiser:
    """48.6 M parameters at 3 x 64 x 64, laid out as image models of that size are: attention at 16 and 8."""
    net = UNet(3, 3, (128, 256, 384, 512), blocks=2, attention=(False, False, True, True), patch=1)
    return as_prior(net, (3, 64, 64))


def observation(prior: deft.Denoiser, batch: int) -> deft.Observation:
    """Inpainting: a centred hole, noise of 0.05."""
    shape = prior.event_shape
    side = shape[-1]
    mask = torch.ones(batch, *shape)
    mask[..., side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 0
    likelihood = deft.Gaussian(deft.Mask(mask), 0.05)
    noise = deft.Noise(1, batch)
    return deft.Observation(likelihood.sample(noise.normal(shape).clamp(-1, 1), noise), likelihood)


def deft_of(prior: deft.Denoiser, size: float = 0.09) -> deft.DEFT:
    h = deft.DEFT.sized(prior, size, feature_channels=2)
    randomise(h)
    h.eval().requires_grad_(False)
    return h


def handwritten(net: nn.Module, grid: list[Level], generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Ancestral DDIM for a v-network, as one would write it without a library."""
    with torch.no_grad():
        x = torch.randn(shape, generator=generator)
        for t, s in itertools.pairwise(grid):
            time_in = torch.full((shape[0],), math.log(t.sigma / t.alpha))
            mean = t.alpha * x - t.sigma * net(x, time_in)
            std = s.sigma / t.sigma * math.sqrt(max(0.0, t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2))
            eps = (x - t.alpha * mean) / t.sigma
            x = s.alpha * mean + math.sqrt(max(0.0, s.sigma**2 - std**2)) * eps
            if std > 0:
                x = x + std * torch.randn(shape, generator=generator)
        return x


# ---------------------------------------------------------------- how it is measured


def interleaved(
    one: Callable[[], Any], other: Callable[[], Any], repeats: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Median and quartiles of time(one) / time(other), and the medians of both times in seconds."""

    def timed(call: Callable[[], Any]) -> float:
        start = clock()
        call()
        return clock() - start

    timed(other), timed(one)
    rows = []
    for i in range(repeats):
        if i % 2:
            b, a = timed(other), timed(one)
        else:
            a, b = timed(one), timed(other)
        rows.append((a / b, a, b))
    ratios = [r[0] for r in rows]
    low, _, high = statistics.quantiles(ratios, n=4) if repeats > 1 else (ratios[0],) * 3
    return {
        "ratio": statistics.median(ratios),
        "low": low,
        "high": high,
        "seconds": statistics.median(r[1] for r in rows),
        "over": statistics.median(r[2] for r in rows),
    }


def step_over_bare(
    prior: deft.NetworkDenoiser, h: deft.HTransform, batch: int, steps: int, repeats: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """`steps` sampling steps over as many bare calls: with a backward pass to the input if h has one."""
    conditioned = deft.condition(prior, h, observation(prior, batch))
    grid = middle(prior, steps)
    noise = deft.Noise(0, batch)
    x, level = noise.normal(prior.event_shape), torch.zeros(batch)

    def bare() -> None:
        for _ in range(steps):
            if not h.needs_graph:
                with torch.no_grad():
                    prior.net(x, level)
                continue
            x_in = x.detach().requires_grad_()
            out = prior.net(x_in, level)
            torch.autograd.grad(out, x_in, x)

    return interleaved(lambda: deft.sample(conditioned, noise, grid=grid, x=x), bare, repeats, clock)


def middle(prior: deft.Denoiser, steps: int) -> list[Level]:
    """`steps` steps of the middle of a 50-step grid, all of them with noise: the cost of a step in a long run."""
    return deft.times(prior.schedule, 50)[10 : 11 + steps]


def loop(
    prior: deft.NetworkDenoiser, batch: int, steps: int, repeats: int, clock: Callable[[], float]
) -> dict[str, Any]:
    grid = deft.times(prior.schedule, steps)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, *prior.event_shape)
    return interleaved(
        lambda: deft.sample(prior, deft.Noise(0, batch), steps=steps),
        lambda: handwritten(prior.net, grid, generator, shape),
        repeats,
        clock,
    )


# ---------------------------------------------------------------- memory


def resident(peak: bool) -> int:
    """Bytes this process holds now, or the most it ever held. The mark of Linux is the process' own; `ru_maxrss`
    elsewhere may have been inherited, and is an upper bound."""
    try:
        with open("/proc/self/status", encoding="ascii") as f:
            row = next(line for line in f if line.startswith("VmHWM" if peak else "VmRSS"))
        return int(row.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def memory_child(which: str, batch: int, steps: int) -> None:
    before = resident(peak=False)
    prior = small_prior()
    noise = deft.Noise(0, batch)
    denoiser: deft.Denoiser = prior
    if which == "deft":
        denoiser = deft.condition(prior, deft_of(prior), observation(prior, batch))
    deft.sample(denoiser, noise, steps=steps)
    print(resident(peak=True) - before)


def memory(batch: int, steps: int, repeats: int) -> dict[str, Any]:
    def child(which: str) -> int:
        command = [sys.executable, os.path.abspath(__file__), "--memory-child", which, "--batch", str(batch)]
        command += ["--steps", str(steps), "--threads", str(torch.get_num_threads())]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    rows = [(child("deft"), child("prior")) for _ in range(repeats)]
    ratios = [a / b for a, b in rows]
    return {
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "bytes": statistics.median(a for a, _ in rows),
        "over": statistics.median(b for _, b in rows),
    }


# ---------------------------------------------------------------- all of it


def measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    clock = time.process_time if args.cpu_time else time.perf_counter
    steps, repeats, batch = args.steps, args.repeats, args.batch
    out = {"deft_peak_memory_over_prior": memory(batch, 4, 1 if args.quick else 3)}
    prior = small_prior()
    grid = middle(prior, steps)
    methods: dict[str, deft.HTransform] = {
        "deft_over_forward": deft_of(prior),
        "dps_over_forward_backward": deft.DPS.published(1.0, lambda t, s: ddim(t, s, 1.0), grid),
        "pigdm_over_forward_backward": deft.PiGDM(),
    }
    for key, h in methods.items():
        out[key] = step_over_bare(prior, h, batch, steps, repeats, clock)
    out["loop_over_handwritten"] = loop(prior, batch, 3 * steps, repeats, clock)
    if not args.skip_large:
        large = large_prior()
        out["deft_over_forward_large"] = step_over_bare(large, deft_of(large), args.large_batch, 1, repeats, clock)
    return {key: out[key] for key in BARS if key in out}


def table(result: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'':32}{'ratio':>7}{'quartiles':>16}{'bar':>7}   measured / over"]
    for key, r in result.items():
        unit = (
            f"{r['bytes'] / 2**20:.0f} / {r['over'] / 2**20:.0f} MiB"
            if "bytes" in r
            else f"{1e3 * r['seconds']:.0f} / {1e3 * r['over']:.0f} ms"
        )
        verdict = "" if r["ratio"] <= BARS[key] else "   over the bar"
        quartiles = f"{r['low']:.3f}-{r['high']:.3f}"
        lines.append(f"{key:32}{r['ratio']:7.3f}{quartiles:>16}{BARS[key]:7.2f}   {unit}{verdict}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a step costs, as ratios measured in one run.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: a check that it runs")
    parser.add_argument("--repeats", type=int, default=0, help="repeats of each pair (default 15; 3 with --quick)")
    parser.add_argument("--steps", type=int, default=4, help="steps timed at a time")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--large-batch", type=int, default=4)
    parser.add_argument("--skip-large", action="store_true", help="leave the 50 M-parameter prior out")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (default: its own choice)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time, not wall time: for a busy machine, with --threads 1"
    )
    parser.add_argument("--memory-child", choices=["prior", "deft"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_child:
        memory_child(args.memory_child, args.batch, args.steps)
        return
    args.repeats = args.repeats or (3 if args.quick else 15)
    result = measure(args)
    if args.json:
        about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "repeats": args.repeats}
        flat = {key: round(r["ratio"], 4) for key, r in result.items()}
        print(json.dumps({**flat, "bars": BARS, "detail": result, "about": about}, indent=2))
    else:
        print(table(result))


if __name__ == "__main__":
    main()
