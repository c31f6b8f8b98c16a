"""Posterior samplers against gold samples: processes with independent steps, four measurements, every method of the
table that applies.

    python benchmarks/levy.py                                   # all, or what is left of it; hours of a core
    python benchmarks/levy.py --kinds laplace --measurements deconvolve
    python benchmarks/levy.py --report                          # benchmarks/results/levy.json and its table
    python benchmarks/levy.py --quick --folder try              # everything, tiny: does it run?

A piece is the prior of a kind, the h of a kind and a measurement, the gold samples of both, or the figures of a
method; each is a file in --folder, made once, so that the command goes on where it stopped.

The signals are x_k = u_1 + ... + u_k, L = 64 (`deft.testing.levy`). The prior is a Wiener filter with a small
convolutional correction, trained on signals drawn afresh at every step; h is DEFT with the same kind of network.

    gap       E |mean of the method's samples - gold mean|^2 / E |x - gold mean|^2, in percent, without the part that is
              due to the finite number of the method's samples (that of the gold samples is about 0.1 %); the MSE of the
              method's mean is (1 + gap) times the least there is. dB: 10 log10(1 + gap).
    coverage  how much of the gold posterior lies between the second lowest and the second highest of 39 samples, entry
              by entry: 90 % of independent samples of the posterior.

Settings of other methods are those of their grid (`Method.choices`, one setting at a time) with the best energy score
on signals of their own. Standard errors are over signals.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deft
from deft import DEFT, FitConfig, Gaussian, Matrix, Noise, Observation, Prediction, VPCosine
from deft.core.denoiser import Denoiser
from deft.core.random import generator
from deft.learned.factory import Factory
from deft.methods import METHODS, plan
from deft.nn.embed import Sinusoid, zero
from deft.testing.levy import LevyWorld, levy
from deft.train.data import Clean

LENGTH, SIGMA, WIDTH = 64, 0.05, 16
KINDS = ("laplace", "bernoulli-laplace", "student", "gauss")
RESULTS = Path(__file__).parent / "results" / "levy.json"
DRAWS = 39
SKIPPED = ("deft-smc", "deft-hmc", "deft-covariance", "tds", "hmc", "mcgdiff", "mgps", "repaint")
"""Methods of many times the calls (particles, chains, MGPS, RePaint), or for which nothing is fitted here."""
TRIED: dict[str, tuple[str, ...]] = {
    "dps": ("zeta",), "pigdm": ("data_std", "alpha_s"), "pigdm-score": ("data_std",),
    "reconstruction": ("scale", "sigma_y"), "gradient": ("scale", "data_std"), "diffpir": ("lambda", "zeta"),
    "ddrm": ("eta_a",), "ddnm": ("noise",), "daps": ("tau", "lr"), "reddiff": ("lr", "lambda"), "mcg": ("zeta",),
    "cpigdm": ("weight", "start"), "flower": ("gamma", "data_std"), "mmps": ("sampler", "spacing"),
    "tmpd": ("sampler", "spacing"),
}  # fmt: skip
"""The keys of a method's grid that are tried, in this order, each with the best of the others before."""


class Net(nn.Module):
    """(features [B, inputs L], time [B]) -> [B, outputs L]: residual convolutions along the series, each followed by one
    matrix over all of it."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int = 3):
        super().__init__()
        self.inputs, self.outputs = inputs // LENGTH, outputs // LENGTH
        self.embed = nn.Sequential(Sinusoid(32), nn.Linear(32, 64), nn.SiLU())
        self.inlet = nn.Conv2d(2 * self.inputs, width, (1, 5), padding=(0, 2))
        self.first = nn.ModuleList(nn.Conv2d(width, width, (1, 5), padding=(0, 2)) for _ in range(depth))
        self.film = nn.ModuleList(nn.Linear(64, 2 * width) for _ in range(depth))
        self.second = nn.ModuleList(zero(nn.Conv2d(width, width, (1, 5), padding=(0, 2))) for _ in range(depth))
        self.whole = nn.ModuleList(zero(nn.Linear(LENGTH, LENGTH)) for _ in range(depth))
        self.outlet = zero(nn.Conv2d(width, self.outputs, 1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = x.reshape(len(x), self.inputs, LENGTH)
        steps = F.pad(x.diff(dim=2), (1, 0)) * math.sqrt(LENGTH / 2)
        z = torch.cat([x, steps], 1)[:, :, None].contiguous(memory_format=torch.channels_last)
        z, e = self.inlet(z), self.embed(time)
        for first, film, second, whole in zip(self.first, self.film, self.second, self.whole, strict=True):
            scale, shift = film(e)[:, :, None, None].chunk(2, 1)
            z = z + second(F.silu(torch.addcmul(shift, first(F.silu(z)), 1 + scale))) + whole(z)
        return self.outlet(F.silu(z))[:, :, 0].flatten(1)


class Prior(Denoiser):
    """E[x_0 | x_t] = Wiener filter + sigma / sqrt(alpha^2 + sigma^2) net."""

    def __init__(self, world: LevyWorld, width: int = WIDTH):
        super().__init__()
        self.schedule, self.event_shape = VPCosine(), (LENGTH,)
        values, vectors = torch.linalg.eigh(world.gaussian.mixture.covariances[0])
        self.register_buffer("values", values.float())
        self.register_buffer("vectors", vectors.float())
        self.net = Net(2 * LENGTH, LENGTH, width)

    def mean(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        wiener = (x @ self.vectors * gain) @ self.vectors.mT
        size = (alpha**2 + sigma**2).sqrt()
        level = (sigma / alpha).log().flatten().expand(len(x)).clamp(-5, 5)
        return wiener + sigma / size * self.net(torch.cat([x / size, wiener], 1), level)

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        t, alpha, sigma = self.coefficients(t, x_t)
        return Prediction(x_t, t, alpha, sigma, self.mean(x_t, alpha, sigma))


class Smoothed(Matrix):
    """A matrix whose features are the posterior mean under white x: a pseudo-inverse would show a network noise."""

    def features(self, y: Tensor) -> Tensor:
        return self.adjoint(self.solve(y, SIGMA**2 * 4, 1.0))


def operators() -> dict[str, Matrix]:
    """Denoising, a Gaussian blur of 13 taps (sigma 2) without its ends, 26 of 64 entries, and 14 of 33 frequencies."""
    eye = torch.eye(LENGTH)
    taps = torch.exp(-((torch.arange(13) - 6.0) ** 2) / 8)
    blur = torch.stack([F.pad(taps / taps.sum(), (i, LENGTH - 13 - i)) for i in range(LENGTH - 12)])
    g = generator(0, 43)
    seen = torch.randperm(LENGTH, generator=g)[:26].sort().values
    high = 5 + torch.randperm(27, generator=g)[:9].sort().values  # without the last, which is real
    angle = 2 * math.pi / LENGTH * torch.outer(torch.cat([torch.arange(1, 5), high]), torch.arange(LENGTH)).float()
    waves = torch.cat(
        [torch.full((1, LENGTH), LENGTH**-0.5), (2 / LENGTH) ** 0.5 * torch.cat([angle.cos(), angle.sin()])]
    )
    found = {"denoise": eye, "deconvolve": blur, "impute": eye[seen], "fourier": waves}
    return {name: Smoothed(matrix) for name, matrix in found.items()}


class Task:
    def __init__(self, like: Gaussian):
        self.like = like

    def observe(self, x: Tensor, noise: Any) -> Observation:
        return Observation(self.like.sample(x, noise), self.like)


def averaged(mean: list[Tensor], parameters: list[Tensor], step: int) -> None:
    torch._foreach_lerp_(mean, [p.detach() for p in parameters], max(0.001, 1 / (step + 10)))


def train_prior(world: LevyWorld, steps: int, batch: int = 256) -> Prior:
    """Squared error of the network's own output, noise levels even in log(sigma/alpha) from e^-4.5 to e^3.5."""
    torch.manual_seed(0)
    prior = Prior(world)
    if world.kind == "gauss":  # the Wiener filter is exact, and the correction 0 from the start
        return deft.freeze(prior)
    parameters = list(prior.parameters())
    mean = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.Adam(parameters, lr=2e-3, betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1.0, (i + 1) / 100) * 0.5 * (1 + math.cos(math.pi * i / steps))
    )
    for i in range(steps):
        x, g = world.sample(batch, 1000 + i), generator(i, 44)
        level = -4.5 + 8 * (torch.arange(batch) + torch.rand(batch, generator=g)) / batch
        ratio = level.exp()[:, None]
        alpha = (1 + ratio**2).rsqrt()
        x_t = alpha * x + alpha * ratio * torch.randn(x.shape, generator=g)
        error = (prior.mean(x_t, alpha, alpha * ratio) - x) / (alpha * ratio)
        loss = error.square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        rate.step()
        averaged(mean, parameters, i)
    with torch.no_grad():
        for p, m in zip(parameters, mean, strict=True):
            p.copy_(m)
    return deft.freeze(prior)


def judge_prior(world: LevyWorld, prior: Prior, signals: int, n: int) -> dict[str, float]:
    """Gap of the prior's mean to the Gibbs sampler's, in percent of the least error, at four noise levels; and that of
    the Wiener filter."""
    out, x = {}, world.sample(signals, 7)
    for ratio in (0.05, 0.2, 1.0, 5.0):
        y = x + ratio * Noise(8, signals).normal((LENGTH,))
        gold = world.gold(Observation(y, Gaussian(deft.Identity(), ratio)), n)
        alpha = torch.tensor([[(1 + ratio**2) ** -0.5]])
        least = gold.std.square().sum(1).mean()
        with torch.no_grad():
            learned = prior.mean(alpha * y, alpha, alpha * ratio)
        gain = prior.values / (prior.values + ratio**2)
        wiener = (y @ prior.vectors * gain) @ prior.vectors.mT
        for name, mean in (("learned", learned), ("wiener", wiener)):
            out[f"{name} {ratio:g}"] = round(float(100 * (mean - gold.mean).square().sum(1).mean() / least), 2)
    return out


def fit(world: LevyWorld, prior: Prior, like: Gaussian, steps: int, width: int = WIDTH) -> DEFT:
    torch.manual_seed(0)
    h = DEFT((LENGTH,), 1, width, net=Factory(Net)).calibrate(prior, world.sample(2000, 3), max_samples=2000)
    data, held_out = (Clean(world.sample(n, seed), Task(like)) for n, seed in ((400_000, 4), (2048, 5)))
    config = FitConfig(steps=steps, batch=256, lr=2e-3, evaluations=5, held_out_batches=4)
    deft.fit(h, deft.DenoisingObjective(prior), data, held_out, config=config, device="cpu", progress=False)
    return h.eval().requires_grad_(False)


def energy(x: Tensor, truth: Tensor) -> float:
    """E |x - truth| - E |x - x'| / 2 of samples [B, n, L], least for the posterior."""
    n = x.shape[1]
    apart = torch.cdist(x, x).sum((1, 2)) / (n * (n - 1))
    return float(((x - truth[:, None]).norm(dim=2).mean(1) - apart / 2).mean())


def settings_of(method: str, prior: Prior, obs: Observation, truth: Tensor, fitted: nn.Module | None) -> dict[str, Any]:
    """What `TRIED` names, one after the other."""
    best: dict[str, Any] = {}
    row = METHODS[method]
    for key in TRIED.get(method, ()):
        scores = {}
        for value in row.choices()[key]:
            x = drawn(method, {**best, key: value}, prior, obs, 8, fitted, seed=11)
            scores[value] = energy(x, truth) if bool(x.isfinite().all()) else math.inf
        best[key] = min(scores, key=lambda v: scores[v])
    return best


def drawn(
    method: str, chosen: dict[str, Any], prior: Prior, obs: Observation, n: int, fitted: nn.Module | None, seed: int
) -> Tensor:
    """[B, n, L], with settings of the method and of its sampler."""
    outer = {k: v for k, v in chosen.items() if k in ("eta", "sampler", "spacing")}
    own = {k: v for k, v in chosen.items() if k not in outer}
    p = plan(method, settings=own, **outer)
    draws = p.draw(prior, obs, n, fitted=fitted, seed=seed, batch=512)
    return draws.x.detach()


def figures(x: Tensor, gold: Tensor, truth: Tensor) -> dict[str, float]:
    """The columns of the table, of samples [B, n, L] and gold samples [B, m, L] whose mean is taken as known."""
    n = x.shape[1]
    x, gold, truth = x.double(), gold.double(), truth.double()
    excess = (x.mean(1) - gold.mean(1)).square().sum(1) - x.var(1).sum(1) / n
    least = gold.var(1).sum(1)
    gap = float(excess.mean() / least.mean())
    error = float((excess - gap * least).std() / least.mean() / math.sqrt(len(x)))
    ordered = x.sort(1).values
    k = max(1, round(0.05 * (n + 1)))
    low, high = ordered[:, k - 1], ordered[:, n - k]
    inside = ((gold > low[:, None]) & (gold < high[:, None])).double().mean((1, 2))
    hit = ((truth > low) & (truth < high)).double().mean(1)
    return {
        "gap": round(100 * gap, 2), "gap_se": round(100 * error, 2),
        "db": round(10 * math.log10(max(1 + gap, 1e-9)), 3),
        "coverage": round(float(inside.mean()), 4), "coverage_se": round(float(inside.std()) / math.sqrt(len(x)), 4),
        "truth": round(float(hit.mean()), 4), "truth_se": round(float(hit.std()) / math.sqrt(len(x)), 4),
        "spread": round(float((x.var(1).sum(1).mean() / least.mean()).sqrt()), 4),
    }  # fmt: skip


class Pieces:
    """What is made, each in a file of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def module(self, name: str, module: nn.Module, make: Any) -> nn.Module:
        path = self.folder / f"{name}.pt"
        if path.exists():
            module.load_state_dict(torch.load(path, weights_only=True))
        else:
            module = make()
            self._save(path, module.state_dict())
        return module.eval().requires_grad_(False)

    def tensor(self, name: str, make: Any) -> Tensor:
        path = self.folder / f"{name}.pt"
        if not path.exists():
            self._save(path, make())
        found: Tensor = torch.load(path, weights_only=True)
        return found

    def row(self, name: str, make: Any) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        if not path.exists():
            started = time.process_time()
            row = make()
            row["cpu_seconds"] = round(time.process_time() - started, 1)
            path.with_suffix(".tmp").write_text(json.dumps(row), encoding="utf-8")
            path.with_suffix(".tmp").replace(path)
            print(name, row, flush=True)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _save(self, path: Path, value: Any) -> None:
        torch.save(value, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)


def measure(args: argparse.Namespace, pieces: Pieces, kind: str, name: str) -> None:
    """All pieces of a kind and a measurement."""
    world, label = levy(kind, LENGTH, event_shape=(LENGTH,)), f"{kind}-{name}"
    prior = pieces.module(f"{kind}-prior", Prior(world), lambda: train_prior(world, args.prior_steps))
    pieces.row(f"{kind}-prior", lambda: judge_prior(world, prior, args.signals, args.gold))
    truth, valid = world.sample(args.signals, 1), world.sample(args.valid, 2)
    like = Gaussian(operators()[name], SIGMA)
    obs, tuning = (Observation(like.sample(x, Noise(seed, len(x))), like) for x, seed in ((truth, 21), (valid, 22)))
    gold = pieces.tensor(f"{label}-gold", lambda: world.gold(obs, args.gold, burn=args.burn, thin=args.thin).x.float())
    pieces.row(f"{label}-gold", lambda: of_gold(gold, truth))

    @cache
    def fitted() -> nn.Module:
        empty = DEFT((LENGTH,), 1, WIDTH, net=Factory(Net))
        return pieces.module(f"{label}-h", empty, lambda: fit(world, prior, like, args.fit_steps))

    def one(method: str) -> dict[str, Any]:
        h = fitted() if METHODS[method].trained else None
        chosen = settings_of(method, prior, tuning, valid, h)
        x = drawn(method, chosen, prior, obs, DRAWS, h, seed=12)
        return figures(x, gold, truth) | {"settings": chosen}

    for method in args.methods or METHODS:
        row = METHODS[method]
        if method not in SKIPPED and not row.why_unsupported(like) and row.learned in ("", "deft"):
            pieces.row(f"{label}-method-{method}", lambda method=method: one(method))


def of_gold(gold: Tensor, truth: Tensor) -> dict[str, float]:
    """Figures of some of the gold samples, as if a method had drawn them; halves: the squared distance of the means of
    two halves, the earlier chains and the later ones, in percent of the least error."""
    some = gold[:, :: gold.shape[1] // DRAWS][:, :DRAWS]
    early, late = (part.mean(1) for part in gold.chunk(2, 1))
    apart = (early - late).square().sum(1).mean() / gold.var(1).sum(1).mean()
    return figures(some, gold, truth) | {"halves": round(float(100 * apart), 3)}


def report(pieces: Pieces, out: Path) -> None:
    """All rows in one file, and the table on standard output."""
    found: dict[str, Any] = {}
    for path in sorted(pieces.folder.glob("*.json")):
        found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    out.write_text(
        "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()) + "\n}\n", encoding="utf-8"
    )
    for kind in KINDS:
        names = [n for n in operators() if any(k.startswith(f"{kind}-{n}-method") for k in found)]
        if not names:
            continue
        print(
            f"\n{kind}: {found.get(f'{kind}-prior')}\n\n| method | "
            + " | ".join(names)
            + " |\n|---" * 1
            + "|---" * len(names)
            + "|"
        )
        methods = [m for m in METHODS if any(f"{kind}-{n}-method-{m}" in found for n in names)]
        for m in ["gold", *methods]:
            cells = []
            for n in names:
                r = found.get(f"{kind}-{n}-gold" if m == "gold" else f"{kind}-{n}-method-{m}")
                cells.append("" if r is None else f"{r['gap']:.1f} ± {r['gap_se']:.1f} %, {100 * r['coverage']:.0f} %")
            print(f"| {'gold' if m == 'gold' else METHODS[m].title} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("levy-pieces"))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--measurements", nargs="+", default=list(operators()), choices=list(operators()))
    parser.add_argument("--methods", nargs="+", default=None, choices=list(METHODS))
    parser.add_argument("--signals", type=int, default=32)
    parser.add_argument("--valid", type=int, default=16)
    parser.add_argument("--gold", type=int, default=2000)
    parser.add_argument("--burn", type=int, default=300)
    parser.add_argument("--thin", type=int, default=2)
    parser.add_argument("--prior-steps", type=int, default=1500)
    parser.add_argument("--fit-steps", type=int, default=1200)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.prior_steps = args.fit_steps = 20
        args.signals, args.valid, args.gold, args.burn = 3, 2, 80, 5
    pieces = Pieces(args.folder)
    if not args.report:
        for kind, name in itertools.product(args.kinds, args.measurements):
            measure(args, pieces, kind, name)
    report(pieces, args.out if not args.quick else args.folder / "levy-report.txt")


if __name__ == "__main__":
    main()
