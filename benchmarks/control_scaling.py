"""How the work of learning an h without data grows with dimension: Gaussian fields of 4 to 4,096 pixels, each objective
and a fit to pairs.

    python benchmarks/control_scaling.py run --sides 2 4 8 16 32 64 --out scaling.json      # the fits; --device cuda where there is one
    python benchmarks/control_scaling.py cost --out scaling-cost.json                       # seconds and peak memory of one batch, one thread
    python benchmarks/control_scaling.py report scaling.json --cost scaling-cost.json       # Markdown, and scaling.png

The world is a periodic, smooth Gaussian field x_0 = F^-1 sqrt(lambda) F n of deviation 1/2, of which half of the pixels
are seen with noise 0.1. Prior, exact h, posterior and log p(y) are closed form at every size. h is the library's DEFT,
told nothing of the world but y: an MLP for up to 16 pixels, else its UNet. A batch is `ROWS` paths of `CHAIN` steps,
`SUBSET` of them differentiated (all, for the relative entropy); a batch of the fit to pairs is `PAIRS` pairs (x_0, y of
its own), at one level each.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deft import DEFT, FitConfig, Gaussian, Mask, Observation, VPCosine, fit
from deft.core.denoiser import Denoiser, Prediction
from deft.core.grid import times
from deft.core.htransform import HTransform
from deft.core.random import BatchNoise, Noise, generator
from deft.denoiser import MeanDenoiser
from deft.io.files import write_json
from deft.learned.base import count_parameters
from deft.runtime.memory import PeakMemory
from deft.samplers import Ito
from deft.train.data import Clean
from deft.train.denoising import DenoisingObjective
from deft.train.measured import Measured
from deft.train.objectives import OBJECTIVES
from deft.train.path import Control, PathObjective, simulate
from deft.train.protocols import Batches

ROWS, CHAIN, SUBSET, PAIRS, SIGMA_Y, LENGTH, STD = 32, 50, 10, 320, 0.1, 2.0, 0.5
LOOK_PATHS = 128
KINDS = (*OBJECTIVES, "pairs")
RATES = {"pairs": 3e-3}
"""Learning rates other than 1e-2."""
WIDTHS = {2: 32, 4: 64, 8: 16, 16: 16, 32: 16, 64: 16}


class Field:
    """The world: covariance C = F^-1 diag(lambda) F on a torus of side x side pixels, seen through a fixed mask."""

    def __init__(self, side: int, device: torch.device):
        self.side, self.device = side, device
        axis = torch.arange(side, dtype=torch.float64, device=device)
        wrapped = torch.minimum(axis, side - axis)
        squared = wrapped[:, None] ** 2 + wrapped[None] ** 2
        self.spectrum = torch.fft.fft2(STD**2 * torch.exp(-squared / (2 * LENGTH**2))).real.clamp_min(0) + 1e-3
        self.event_shape = (side**2,) if side**2 <= 16 else (1, side, side)
        self.seen = torch.zeros(side**2, dtype=torch.bool, device=device)
        self.seen[torch.randperm(side**2, generator=generator(0, side)).to(device)[: side**2 // 2]] = True
        self.like = Gaussian(Mask(self.seen.float().reshape(1, *self.event_shape)), SIGMA_Y)

    def filtered(self, x: Tensor, weight: Tensor) -> Tensor:
        """F^-1 weight F x for x [B, *E]; weight [side, side] or [B, side, side]."""
        flat = x.double().reshape(-1, self.side, self.side)
        return torch.fft.ifft2(torch.fft.fft2(flat) * weight).real.reshape(x.shape)

    def prior(self) -> Denoiser:
        """E[x_0 | x_t] = F^-1 alpha lambda / (alpha^2 lambda + sigma^2) F x_t."""

        def mean(x: Tensor, a: Tensor, s: Tensor) -> Tensor:
            a, s = (v.reshape(-1, 1, 1).double() for v in (a, s))
            return self.filtered(x, a * self.spectrum / (a**2 * self.spectrum + s**2)).to(x.dtype)

        prior = MeanDenoiser(mean, VPCosine(), self.event_shape)
        prior.register_buffer("_where", torch.empty(0, device=self.device), persistent=False)
        return prior

    def sample(self, n: int, seed: int) -> Tensor:
        return self.filtered(Noise(seed, n).normal(self.event_shape).to(self.device), self.spectrum.sqrt()).float()

    def columns(self, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        """(C A^T [d, m], A C A^T [m, m]) for the seen pixels."""
        every = torch.eye(self.side**2, dtype=torch.float64, device=self.device)[self.seen].reshape(
            -1, *self.event_shape
        )
        c = self.filtered(every, spectrum).reshape(len(every), -1).T
        return c, c[self.seen]

    def gain(self, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        """(C A^T (A C A^T + sigma_y^2)^-1 [d, m], A C A^T + sigma_y^2)."""
        c, s = self.columns(spectrum)
        s = s + SIGMA_Y**2 * torch.eye(len(s), dtype=torch.float64, device=self.device)
        return torch.cholesky_solve(c.T, torch.linalg.cholesky(s)).T, s

    def exact(self, obs: Observation) -> tuple[Tensor, Tensor, float]:
        """(posterior mean [d], its deviation [d], log p(y))."""
        k, s = self.gain(self.spectrum)
        y = obs.y.reshape(-1)[self.seen].double()
        c, _ = self.columns(self.spectrum)
        variance = self.spectrum.mean() - (k * c).sum(1)
        return (
            k @ y,
            variance.clamp_min(0).sqrt(),
            float(torch.distributions.MultivariateNormal(torch.zeros_like(y), s).log_prob(y)),
        )


class ExactField(HTransform):
    """h of the world: x̂ moves by the gain of the prior's own covariance at the level, lambda sigma^2 / (alpha^2 lambda
    + sigma^2)."""

    def __init__(self, field: Field):
        super().__init__()
        self.field = field
        self.known: dict[float, Tensor] = {}

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        a, s = float(pred.alpha.reshape(-1)[0]), float(pred.sigma.reshape(-1)[0])
        f = self.field
        if a not in self.known:
            self.known[a] = f.gain(f.spectrum * s**2 / (a**2 * f.spectrum + s**2))[0]
        r = (obs.y - pred.mean).reshape(len(pred.mean), -1)[:, f.seen].double()
        return ((r @ self.known[a].T).reshape(pred.mean.shape) * (a / s**2)).to(pred.mean.dtype)


class Seen:
    """The task of the fit to pairs: the world's own mask."""

    def __init__(self, field: Field):
        self.field = field

    def observe(self, x: Tensor, noise: Any) -> Observation:
        like = self.field.like.repeat(len(x)).to(x.device)
        return Observation(like.sample(x, noise), like)


class Fresh(Batches):
    """New samples of the world for each batch, measured: no data set to run out of."""

    def __init__(self, field: Field):
        self.field = field

    def draw(
        self,
        size: int,
        seed: int,
        step: int,
        device: torch.device,
        *,
        rows: range | None = None,
        source: Any = BatchNoise,
    ) -> Any:
        x = self.field.filtered(
            source(size, seed, step % 2**31, 31, rows=rows).normal(self.field.event_shape).to(device),
            self.field.spectrum.sqrt(),
        ).float()
        return Clean(x, Seen(self.field)).draw(len(x), seed, -1, device)


def look(field: Field, prior: Denoiser, h: HTransform, obs: Observation, mean: Tensor, std: Tensor) -> dict[str, float]:
    """Var(log w), log Z, and the error of the samples' mean and spread, in deviations of the posterior."""
    grid = times(prior.schedule, CHAIN, "log-snr")
    parts = [simulate(prior, h, obs.repeat(32), BatchNoise(32, 5, i), grid, Ito()) for i in range(LOOK_PATHS // 32)]
    log_w, x = torch.cat([p.log_weight for p in parts]), torch.cat([p.x for p in parts]).flatten(1).double()
    z = float(torch.logsumexp(log_w, 0)) - math.log(len(log_w))
    off = float((((x.mean(0) - mean) / std).square().mean() - 1 / LOOK_PATHS).clamp_min(0).sqrt())
    return {
        "variance": float(log_w.var()),
        "bound": float(log_w.mean()),
        "log_z": z,
        "mean_off": off,
        "spread": float((x.std(0) / std).mean()),
    }


def begin(field: Field, prior: Denoiser, width: int | None = None) -> DEFT:
    torch.manual_seed(0)
    h = DEFT(field.event_shape, 2, width or WIDTHS[field.side], n2_start=1.0).to(field.device)
    return h.calibrate(prior, field.sample(64, 3))


def made(kind: str, prior: Denoiser) -> PathObjective:
    options: dict[str, Any] = {} if kind == "kl" else {"subset": SUBSET}
    return OBJECTIVES[kind](prior, CHAIN, **options)


CALLS = {"vargrad": 1, "tb": 1, "kl": 4, "adjoint": 4}
"""Calls of the prior for each step of a path; a backward pass counts as two. kl: forward twice (checkpoints) and back;
adjoint: along the path, then forward and back again."""


def calls_of(kind: str) -> int:
    """Of the prior, for a batch."""
    return PAIRS if kind == "pairs" else ROWS * CHAIN * CALLS[kind]


def one_fit(
    side: int, kind: str, steps: int, lr: float, device: torch.device, seconds: float | None, width: int | None = None
) -> dict[str, Any]:
    field = Field(side, device)
    prior = field.prior()
    x = field.sample(1, 1)
    obs = Observation(field.like.to(device).sample(x, Noise(2, 1)), field.like.to(device))
    mean, std, log_z = field.exact(obs)
    floor = look(field, prior, ExactField(field), obs, mean, std)
    h = begin(field, prior, width)
    rows: list[dict[str, float]] = [{"step": 0, "seconds": 0.0, **look(field, prior, h, obs, mean, std)}]
    config = FitConfig(
        steps=steps,
        batch=PAIRS if kind == "pairs" else ROWS,
        lr=lr,
        warmup=20,
        ema=0.98,
        evaluations=8,
        held_out_batches=1,
        max_seconds=seconds,
    )
    if kind == "pairs":
        objective: Any = DenoisingObjective(prior, even=1.0)
        batches: Batches = Fresh(field)
        held: Batches = Clean(field.sample(64, 4), Seen(field))
    else:
        objective, batches, held = made(kind, prior), Measured(obs), Measured(obs)
    module = Control(h) if kind == "tb" else h
    spent = 0.0

    def on(row: dict[str, float]) -> None:
        nonlocal spent
        begun = time.monotonic()
        rows.append({"step": row["step"], "seconds": row["seconds"] - spent, **look(field, prior, h, obs, mean, std)})
        spent += time.monotonic() - begun
        print(
            f"side {side:>3} {kind:>8} lr {lr:g}: step {int(row['step']):>5}, {rows[-1]['seconds']:6.0f} s, Var(log w)"
            f" {rows[-1]['variance']:.4g} (exact {floor['variance']:.3g}), mean off {rows[-1]['mean_off']:.3f}, spread"
            f" {rows[-1]['spread']:.3f}",
            flush=True,
        )

    fit(module, objective, batches, held, config=config, progress=False, callback=on, device=device)
    return {
        "side": side,
        "objective": kind,
        "lr": lr,
        "parameters": count_parameters(h),
        "exact": {**floor, "log_p": log_z},
        "rows": rows,
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
    }


def run(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    done = json.loads(args.out.read_text()) if args.out.exists() else []
    for side in args.sides:
        for kind in args.objectives:
            for lr in args.lr or [RATES.get(kind, 1e-2)]:
                done.append(one_fit(side, kind, args.steps, lr, device, args.seconds))
                write_json(args.out, done)


def cost(args: argparse.Namespace) -> None:
    """Seconds (the least of three) and peak memory of one batch and its gradient, and of the prior's calls alone."""
    torch.set_num_threads(1)
    device, done = torch.device(args.device), []
    for side in args.sides:
        field = Field(side, device)
        prior = field.prior()
        like = field.like.to(device)
        obs = Observation(like.sample(field.sample(1, 1), Noise(2, 1)), like)
        for kind in KINDS:
            h = begin(field, prior)
            if kind == "pairs":
                objective: Any = DenoisingObjective(prior, even=1.0)
                batch = Fresh(field).draw(PAIRS, 0, 0, device)
            else:
                objective, batch = made(kind, prior), Measured(obs).draw(ROWS, 0, 0, device)
            module = Control(h) if kind == "tb" else h
            times_, mib = [], []
            for i in range(3):
                peak, begun = PeakMemory(), time.monotonic()
                with peak:
                    objective(module, batch, BatchNoise(len(batch.observation), i)).value.backward()
                times_.append(time.monotonic() - begun)
                mib.append(peak.mib)
            done.append({"side": side, "objective": kind, "seconds": min(times_), "mib": mib[0]})
            print(done[-1], flush=True)
    write_json(args.out, done)


def report(args: argparse.Namespace) -> None:
    """A row for each fit: Var(log w) on the way, and batches, calls of the prior and seconds until it is at most twice
    the exact h's, and 1 more."""
    fits = [f for path in args.files for f in json.loads(path.read_text())]
    costs = {(c["side"], c["objective"]): c for c in json.loads(args.cost.read_text())} if args.cost else {}
    print(
        "| pixels | | Var(log w): start, end (exact h) | mean off | batches, seconds in all | batches to 2 x exact + 1"
        " | calls of the prior | seconds | MiB a batch |\n|---|---|---|---|---|---|---|---|---|"
    )
    for f in sorted(fits, key=lambda f: (f["side"], KINDS.index(f["objective"]))):
        goal, rows = 2 * f["exact"]["variance"] + 1, f["rows"]
        found = next((r for r in rows if r["variance"] <= goal), None)
        c = costs.get((f["side"], f["objective"]))
        cells = (
            ["-"] * 3
            if found is None
            else [
                str(int(found["step"])),
                f"{found['step'] * calls_of(f['objective']):,.0f}",
                f"{found['seconds']:.0f}",
            ]
        )
        print(
            f"| {f['side'] ** 2:,} | {TITLES[f['objective']]} | {rows[0]['variance']:.3g}, {rows[-1]['variance']:.3g}"
            f" ({f['exact']['variance']:.3g}) | {rows[-1]['mean_off']:.2f} | {int(rows[-1]['step'])},"
            f" {rows[-1]['seconds']:.0f} | {' | '.join(cells)} |"
            f" {'' if c is None or c['mib'] is None else round(c['mib'])} |"
        )
    picture(fits, args.picture)


TITLES = {
    "vargrad": "VarGrad",
    "tb": "trajectory balance",
    "kl": "relative entropy",
    "adjoint": "adjoint matching",
    "pairs": "pairs (supervised)",
}


def picture(fits: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    sides = sorted({f["side"] for f in fits})
    figure, axes = plt.subplots(1, len(sides), figsize=(3.1 * len(sides), 3.2), layout="constrained")
    for axis, side in zip(axes if len(sides) > 1 else [axes], sides, strict=True):
        for f in (f for f in fits if f["side"] == side):
            axis.plot(
                [r["step"] for r in f["rows"]],
                [r["variance"] for r in f["rows"]],
                label=TITLES[f["objective"]],
                color=f"C{KINDS.index(f['objective'])}",
                marker=".",
            )
        axis.axhline(
            next(f["exact"]["variance"] for f in fits if f["side"] == side), color="k", ls=":", label="exact h"
        )
        axis.set(title=f"{side**2:,} pixels", yscale="log", xlabel="batches")
    (axes if len(sides) > 1 else [axes])[0].set_ylabel("Var(log w)")
    (axes if len(sides) > 1 else [axes])[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("run")
    p.add_argument("--sides", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    p.add_argument("--objectives", nargs="+", default=list(KINDS), choices=KINDS)
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--lr", type=float, nargs="+")
    p.add_argument("--seconds", type=float, help="of each fit, at most")
    p.add_argument("--device", default="cpu")
    p.add_argument("--out", type=Path, required=True)
    p.set_defaults(do=run)
    p = commands.add_parser("cost")
    p.add_argument("--sides", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    p.add_argument("--device", default="cpu")
    p.add_argument("--out", type=Path, required=True)
    p.set_defaults(do=cost)
    p = commands.add_parser("report")
    p.add_argument("files", type=Path, nargs="+")
    p.add_argument("--cost", type=Path)
    p.add_argument("--picture", type=Path, default=Path("scaling.png"))
    p.set_defaults(do=report)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
