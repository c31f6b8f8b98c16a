"""The published CSDI network on samples of itself: as a prior of methods without training, and as the amortised sampler.

    python benchmarks/csdi.py model.pth --work work                 resumes; one JSON in --out
    python benchmarks/csdi.py model.pth --work work --quick         two cases, a minute

The truth is drawn from the prior (nothing observed), with the same solver and steps as the methods use: no record of
its training data is here. Of each case a share of the entries is seen, without noise. Columns are those of
`deft.domains.series.metrics`, over the entries that were not seen, with intervals over cases and the paired difference
in CRPS to the network's own conditional mode ("csdi").

`levels`: the root mean square error of E[x_0 | x_t] at entries that were not given, on series made by a formula (a mean,
a slow part and white noise, a quarter of the entries, the rest zero as the network was trained), beside x_t shrunk as
for data of unit deviation. `readings`: the same at the highest level for other readings of the weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import deft
from deft.bench.statistics import bootstrap, paired
from deft.core.likelihood import Observation
from deft.domains.series import csdi_net
from deft.domains.series.baselines import GaussianSeries, LastValue, LinearInterpolation, Rule
from deft.domains.series.csdi import CSDIPrior, load_csdi
from deft.domains.series.metrics import measure
from deft.methods import plan
from deft.runtime.precision import at_precision

BLOCK = 16
SEEN = {"10 % missing": 0.9, "50 % missing": 0.5, "90 % missing": 0.1}
PASSES = (
    (("50 % missing", "csdi"), ("50 % missing", "ddrm"), ("50 % missing", "pigdm"), ("90 % missing", "csdi"),
     ("90 % missing", "ddrm"), ("10 % missing", "csdi"), ("10 % missing", "ddrm")),
    (("50 % missing", "dps"), ("90 % missing", "pigdm"), ("10 % missing", "pigdm"), ("50 % missing", "mmps")),
)  # fmt: skip
"""What is drawn for all cases, then what is drawn after that."""


# ---------------------------------------------------------------- what is drawn


def truths(prior: CSDIPrior, count: int, steps: int, seed: int) -> Tensor:
    parts = [
        deft.sample(prior, deft.Noise(seed, range(i, min(i + BLOCK, count))), steps=steps)
        for i in range(0, count, BLOCK)
    ]
    return torch.cat(parts)


def observe(x: Tensor, seen: float, first: int) -> Observation:
    share = deft.Noise(77, range(first, first + len(x))).uniform(x.shape[1:])
    mask = (share < seen).to(x.dtype)
    return Observation(mask * x, deft.Gaussian(deft.Mask(mask), 0.0))


def draw(name: str, prior: CSDIPrior, obs: Observation, args: argparse.Namespace, first: int) -> Tensor:
    if name == "csdi":
        rows = deft.Noise(5, range(first * args.samples, (first + len(obs)) * args.samples))
        x = deft.sample(prior.given(obs.repeat(args.samples)), rows, steps=args.steps)
        return x.reshape(len(obs), args.samples, *x.shape[1:])
    return plan(name, steps=args.steps).draw(prior, obs, args.samples, seed=5, first=first).x


def fitted_baselines(x: Tensor, seen: float) -> dict[str, Rule | GaussianSeries]:
    """The plain rows, fitted to further samples of the prior."""
    obs = observe(x, seen, 1000)
    rules: list[Rule] = [LastValue(), LinearInterpolation()]
    found: dict[str, Rule | GaussianSeries] = {r.title: r.fit(x, obs) for r in rules}
    return found | {g.title: g for g in (GaussianSeries.matern(x), GaussianSeries.joint(x))}


def run(prior: CSDIPrior, args: argparse.Namespace) -> None:
    """Blocks of cases, each kept in a file of its own when it is drawn."""
    args.work.mkdir(parents=True, exist_ok=True)
    at_precision(prior, args.precision)
    kept = args.work / f"truth-{args.cases}-{args.steps}.pt"
    if not kept.exists():
        torch.save(truths(prior, args.cases + args.fit, args.steps, 1), kept)
    x = torch.load(kept, weights_only=True)
    for jobs, first in itertools.product(PASSES, range(0, args.cases, BLOCK)):
        for label, name in jobs:
            path = place(args, label, name, first)
            if path.exists() or args.only_report:
                continue
            rows = x[first : min(first + BLOCK, args.cases)]
            # 16 bits are slower where there is a backward pass
            at_precision(prior, args.precision if name in ("csdi", "ddrm") else "fp32")
            start = time.process_time()
            drawn = draw(name, prior, observe(rows, SEEN[label], first), args, first)
            torch.save({"x": drawn, "seconds": time.process_time() - start}, path)
            print(f"{label}, cases from {first}: {name} {time.process_time() - start:.0f} s", flush=True)
            write(args.out, report(x, args, plain=False))
    write(args.out, report(x, args))


def place(args: argparse.Namespace, label: str, name: str, first: int) -> Path:
    work: Path = args.work
    return work / f"{name}-{label.split()[0]}-{first}-{args.steps}-{args.samples}.pt"


def write(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, ensure_ascii=False).replace('": {', '": {\n') + "\n")


# ---------------------------------------------------------------- what is measured


def report(x: Tensor, args: argparse.Namespace, plain: bool = True) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for label, seen in SEEN.items():
        drawn: dict[str, tuple[list[int], Tensor, float]] = {}
        for name in dict.fromkeys(n for at, n in itertools.chain(*PASSES) if at == label):
            parts, cases, seconds = [], [], 0.0
            for first in range(0, args.cases, BLOCK):
                path = place(args, label, name, first)
                if path.exists():
                    found = torch.load(path, weights_only=True)
                    parts.append(found["x"])
                    cases += range(first, first + len(found["x"]))
                    seconds += found["seconds"]
            if parts:
                drawn[name] = cases, torch.cat(parts), seconds
        if "csdi" not in drawn:
            continue
        own = drawn["csdi"][0]
        for name, baseline in (fitted_baselines(x[args.cases :], seen) if plain else {}).items():
            drawn[name] = own, baseline.sample(observe(x[own], seen, own[0]), args.samples, 6), 0.0
        tables[label] = rows(drawn, x, seen)
    return {
        "about": "imputation of samples of the prior itself, drawn by the same solver; intervals over cases",
        "steps": args.steps, "samples": args.samples, "precision": args.precision, "solver": "ddim, eta 1",
        "tables": tables,
    }  # fmt: skip


def rows(drawn: dict[str, tuple[list[int], Tensor, float]], x: Tensor, seen: float) -> dict[str, Any]:
    out: dict[str, Any] = {}
    scores: dict[str, dict[int, float]] = {}
    for name, (cases, samples, seconds) in drawn.items():
        found = measure(samples, x[cases], observe(x[cases], seen, cases[0]))
        scores[name] = dict(zip(cases, found["crps"].tolist(), strict=True))
        row: dict[str, Any] = {"cases": len(cases)}
        for key in ("crps", "energy_score", "mae", "rmse", "coverage", "coverage50", "width"):
            if key in found:
                value = bootstrap(found[key].double().numpy())
                row[key] = [round(v, 4) for v in value[:3]]
        both = sorted(scores[name].keys() & scores["csdi"].keys())
        if name != "csdi":
            off = paired([scores[name][i] for i in both], [scores["csdi"][i] for i in both])
            row["crps less csdi's"] = [round(v, 4) for v in off[:3]]
        if seconds:
            row["seconds a sample"] = round(seconds / (len(cases) * samples.shape[1]), 2)
        out[name] = row
    return out


# ---------------------------------------------------------------- the reading of the weights


def formula_series(cases: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """x [B, K, L] of unit variance (0.4 a mean, 0.5 an exponential kernel of 20 h, 0.1 white), and which are known."""
    g = torch.Generator().manual_seed(0)
    t = torch.arange(n).float()
    cov = 0.5 * torch.exp(-(t[:, None] - t).abs() / 20) + 0.4 + 0.1 * torch.eye(n)
    x = torch.randn(cases, k, n, generator=g) @ torch.linalg.cholesky(cov).T
    rate = torch.rand(1, k, 1, generator=g) ** 3 * 0.9 + 0.03
    return x, (torch.rand(cases, k, n, generator=g) < rate).float()


def error_at(prior: CSDIPrior, step: int, given: float, x: Tensor, known: Tensor, shift: float = 0.0) -> float:
    g = torch.Generator().manual_seed(step)
    t = torch.full((len(x),), float(step))
    _, alpha, sigma = prior.coefficients(t, x)
    x_t = alpha * x * known + sigma * torch.randn(x.shape, generator=g)
    mask = known * (torch.rand(x.shape, generator=g) < given).float()
    with torch.no_grad():
        mean = (x_t - sigma * prior.net(x_t, t + shift, mask * x, mask)) / alpha
    left = known * (1 - mask)
    return math.sqrt(float(((mean - x).square() * left).sum() / left.sum()))


@contextmanager
def reading(name: str, prior: CSDIPrior) -> Iterator[float]:
    """The network read otherwise; the shift of its step."""
    layers = [m for m in prior.modules() if isinstance(m, csdi_net.Attention)]
    split = torch.Tensor.chunk
    patch: Any = mock.patch.object(csdi_net.F, "gelu", csdi_net.F.gelu)
    if name == "ReLU in the attention layers":
        patch = mock.patch.object(csdi_net.F, "gelu", torch.relu)
    if name == "halves of the gate and of the outputs exchanged":
        patch = mock.patch.object(torch.Tensor, "chunk", lambda self, n, dim: split(self, n, dim)[::-1])
    heads = {"one head": 1, "4 heads": 4, "16 heads": 16}.get(name, 8)
    for layer in layers:
        layer.heads = heads
    with patch:
        yield {"step counted from -1": -1.0, "step counted from 1": 1.0}.get(name, 0.0)
    for layer in layers:
        layer.heads = 8


READINGS = (
    "as it is", "ReLU in the attention layers", "halves of the gate and of the outputs exchanged", "one head",
    "4 heads", "16 heads", "step counted from -1", "step counted from 1",
)  # fmt: skip


def levels(prior: CSDIPrior, cases: int) -> dict[str, Any]:
    x, known = formula_series(cases, *prior.event_shape)
    out: dict[str, Any] = {"levels": {}, "readings": {}}
    for step in (5, 12, 20, 30, 40, 49):
        _, alpha, sigma = prior.coefficients(torch.tensor([float(step)]), x[:1])
        ratio = float(sigma / alpha)
        row = [round(error_at(prior, step, given, x, known), 3) for given in (0.0, 0.5, 0.9)]
        out["levels"][f"{ratio:.3g}"] = {
            "nothing, 50 %, 90 % given": row, "shrunk x_t": round(ratio / math.hypot(1, ratio), 3)
        }  # fmt: skip
    for name in READINGS:
        with reading(name, prior) as shift:
            out["readings"][name] = [round(error_at(prior, s, 0.0, x, known, shift), 3) for s in (20, 40, 49)]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--work", type=Path, default=Path("csdi-work"))
    parser.add_argument("--out", type=Path, default=Path("csdi.json"))
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--fit", type=int, default=32, help="further samples, for the baselines to be fitted to")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--levels", action="store_true", help="only the errors at noise levels and of other readings")
    parser.add_argument("--only-report", action="store_true", help="of what was drawn so far")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.cases, args.fit, args.samples, args.steps = 2, 4, 2, 4
    prior = load_csdi(args.weights)
    if args.levels:
        write(args.out, levels(prior, 2 if args.quick else 16))
        return
    run(prior, args)


if __name__ == "__main__":
    main()
