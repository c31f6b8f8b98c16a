"""Forms of h fitted long on a GPU, each by itself: guides, the weight of the loss, one h for many operators.

docs/results/covariance.md has what came out. First the pool of states, then each arm as a process of its own:

python benchmarks/h_arms.py pool --device cuda
python benchmarks/h_arms.py deblur-two-guides-eps --device cuda --seconds 155
python benchmarks/h_arms.py bundled --device cuda

Guides are preconditioned steps towards y with a stated rho^2: "calibrated" is the prior's mean squared error at a level,
"signal" d^2 sigma^2/(d^2 alpha^2 + sigma^2) with d = .5. Every arm is shown A^+y with damping, the diagonal of A^+A and
sigma_y, whatever the operator. The weight of the loss is sqrt(1 + (alpha/sigma)^2) ("between") or (alpha/sigma)^2 ("eps").
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from covariance_gpu import coefficients, draw_clean, draw_noised
from graphs import descend, said
from torch import Tensor, nn
from torch.nn import functional as F

import deft
from deft.bench.compare import TensorCases
from deft.core.htransform import HTransform
from deft.domains.image.data import dataset
from deft.domains.image.tasks import get_task
from deft.io.h_files import bundled_h, load_h
from deft.kinds.domain import domain_of
from deft.learned.base import towards
from deft.learned.deft import Multiplier, _between_knots, bounded
from deft.nn import UNet
from deft.samplers import SDEDPMpp2M

ONE = {"tasks": ["inpaint-random"], "guides": ["calibrated"]}
TWO = {"tasks": ["deblur-gaussian"], "guides": ["signal", "calibrated"]}
FIVE = ["deblur-gaussian", "sr4", "inpaint-random", "inpaint", "ct"]
ARMS: dict[str, dict[str, Any]] = {
    "random-one-guide": ONE,
    "random-one-guide-eps": {**ONE, "weight": "eps"},
    "deblur-two-guides": TWO,
    "deblur-two-guides-eps": {**TWO, "weight": "eps"},
    "sr4-two-guides": {**TWO, "tasks": ["sr4"]},
    "universal": {**TWO, "tasks": ["many"], "measured": [*FIVE, "compressed"]},
}
N = 1024
"""Pixels."""


class Dense(NamedTuple):
    """A = U S V^T, [M, N] by its singular values; a mask has V = I. sigma: of the noise."""

    u: Tensor | None
    s: Tensor
    v: Tensor


def dense(task: Any, device: str) -> Dense:
    """The operator of a task in which nothing is drawn."""
    operator = task.observe(torch.zeros(1, 1, 32, 32), deft.Noise(0, 1)).likelihood.operator
    eye = torch.eye(N).reshape(N, 1, 32, 32)
    a = torch.cat([operator(e).flatten(1) for e in eye.split(256)]).T.double().to(device)
    values, v = torch.linalg.eigh(a.T @ a)
    s = values.clamp_min(0).sqrt()
    s = s * (s > 1e-6 * s.max())
    u = torch.where(s > 0, a @ v / s.clamp_min(1e-12), 0.0)
    return Dense(u.float(), s.float(), v.float())


def holes(n: int, device: str) -> Tensor:
    """Masks [n, N] with a rectangle of 8 to 16 pixels hidden."""
    side = (8 + torch.rand(n, 2, device=device) * 8).round()
    corner = (torch.rand(n, 2, device=device) * (33 - side)).floor()
    at = torch.arange(32, device=device)
    rows, columns = ((at >= corner[:, k : k + 1]) & (at < (corner + side)[:, k : k + 1]) for k in (0, 1))
    return 1 - (rows[:, :, None] & columns[:, None, :]).float().reshape(n, N)


def many_masks(n: int, device: str) -> Tensor:
    kind = int(torch.randint(5, ()))
    if kind < 2:
        return (torch.rand(n, N, device=device) < 0.05 + 0.6 * torch.rand(n, 1, device=device) ** 2).float()
    if kind == 2:
        return holes(n, device)
    if kind == 3:  # blots
        field = F.interpolate(torch.randn(n, 1, 6, 6, device=device), 32, mode="bicubic").flatten(1)
        limit = torch.quantile(field, 0.5, dim=1, keepdim=True) + 0.8 * (torch.rand(n, 1, device=device) - 0.5)
        return (field > limit).float()
    lines = (torch.rand(n, 32, device=device) < 0.4).float()
    return (lines[:, :, None] if torch.rand(()) < 0.5 else lines[:, None, :]).expand(n, 32, 32).reshape(n, N)


def many_operators(device: str) -> list[tuple[Dense, bool]]:
    """(operator, whether it is a projection) of the universal h: blurs, block means, CT, masks of a cosine basis."""
    tasks = deft.tasks
    made = [tasks.GaussianDeblur(deviation=d) for d in (0.6, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)]
    made += [tasks.SuperResolution(factor=f) for f in (2, 4, 4, 8)]
    scans = [tasks.CT(angles=n) for n in (8, 15, 30, 60, 60, 90)] + [tasks.LimitedAngle(angles=n) for n in (30, 60)]
    i = torch.arange(32, dtype=torch.float64)
    cosine = torch.cos(math.pi * (i[None] + 0.5) * i[:, None] / 32) * (2 / 32) ** 0.5
    cosine[0] /= 2**0.5
    basis = Dense(None, torch.zeros(N, device=device), torch.kron(cosine, cosine).T.float().to(device))
    return [*((dense(t, device), False) for t in made), *((dense(t, device), True) for t in scans), (basis, False)]


class Measured:
    """z = S V^T x + noise. z, s: [B, N]; v: [N, N]; sigma: [B, 1]."""

    def __init__(self, z: Tensor, s: Tensor, v: Tensor, sigma: Tensor):
        self.z, self.s, self.v, self.sigma = z, s, v, sigma

    def step(self, x: Tensor, rho2: Tensor) -> Tensor:
        rho2 = rho2.reshape(-1, 1)
        r = (self.z - self.s * (x.flatten(1) @ self.v)) * (self.s > 0)
        return ((rho2 * self.s / (self.sigma**2 + rho2 * self.s**2) * r) @ self.v.T).reshape(x.shape)

    def features(self, shape: torch.Size) -> Tensor:
        weight = self.s / (self.s**2 + self.sigma**2 / 0.25)
        plus, diagonal = (weight * self.z) @ self.v.T, (weight * self.s) @ (self.v**2).T
        level = (self.sigma.log() / 3 + 1).reshape(-1, 1, 1, 1).expand(shape)
        return torch.cat([plus.reshape(shape), diagonal.reshape(shape), level], dim=1)


class Net(nn.Module):
    """The corrected mean: x̂ + sigma N1 + sum_i (n2_i + gate_i) g_i."""

    def __init__(self, log_rho2: Tensor, guides: list[str], width: int = 16):
        super().__init__()
        self.guides = guides
        self.register_buffer("log_rho2", log_rho2)
        n = len(guides)
        self.n1 = UNet(5 + n, 1 + n, (width, 3 * width // 2, 9 * width // 4), patch=2, time_dim=64)
        self.n2 = nn.ModuleList(Multiplier(float(i == n - 1)) for i in range(n))

    def forward(self, x_t: Tensor, x_hat: Tensor, a: Tensor, s: Tensor, y: Measured) -> Tensor:
        rho2 = {
            "calibrated": _between_knots(self.log_rho2, torch.log(s / a)).exp(),
            "signal": 0.25 * s**2 / (0.25 * a**2 + s**2),
        }
        steps = [y.step(x_hat, rho2[name]) for name in self.guides]
        time_ = torch.log(s / a).reshape(-1).clamp_min(-3.5)
        views = [x_t * (a**2 + s**2).rsqrt(), bounded(x_hat), *map(bounded, steps), y.features(x_hat.shape)]
        out = self.n1(torch.cat(views, dim=1), time_)
        mean = x_hat + s * out[:, :1]
        for i, g in enumerate(steps):
            mean = mean + (self.n2[i](time_).reshape(-1, 1, 1, 1) + out[:, 1 + i : 2 + i]) * g
        return mean


class NetH(HTransform):
    """A `Net` as the h of one task."""

    def __init__(self, net: Net, name: str, device: str):
        super().__init__()
        self.net, self.sigma = net, get_task(name).sigma_y
        self.operator = None if name.startswith("inpaint") else dense(get_task(name), device)

    @torch.no_grad()
    def forward(self, pred: deft.Prediction, obs: deft.Observation) -> Tensor:
        y, n = obs.y.flatten(1), len(obs.y)
        sigma = torch.full((n, 1), self.sigma, device=y.device)
        if self.operator is None:
            mask = obs.likelihood.measured_part(torch.ones_like(obs.y)).flatten(1)
            seen = Measured(y * mask, mask, torch.eye(N, device=y.device), sigma)
        else:
            assert self.operator.u is not None
            seen = Measured(y @ self.operator.u, self.operator.s.expand(n, N), self.operator.v, sigma)
        a, s = (c.reshape(-1, 1, 1, 1).expand(n, 1, 1, 1).to(y) for c in (pred.alpha, pred.sigma))
        return towards(pred, self.net(pred.x_t, pred.mean, a, s, seen))


@torch.no_grad()
def make_pool(path: Path, device: str, samples: int, states: int) -> None:
    """States of samples of the prior and of images, with the prior's mean: what a fit draws its batches from."""
    prior = deft.load_prior("fashion").to(device)
    x, x_t, level = draw_noised(draw_clean(prior, samples, device), states, device)
    t = prior.schedule.time_of(-2 * level.double().cpu()).to(x_t)
    x_hat = torch.cat([prior(*both).mean for both in zip(x_t.split(2048), t.split(2048), strict=True)])
    torch.save({"x": x, "x_t": x_t, "x_hat": x_hat, "level": level}, path)


def fit(arm: dict[str, Any], pool: dict[str, Tensor], device: str, seconds: float, batch: int) -> Net:
    torch.manual_seed(1)
    prior = deft.load_prior("fashion")
    net = Net(load_h(bundled_h("sr4", "fashion"), prior, get_task("sr4"))[0].log_rho2, arm["guides"]).to(device)
    eye = torch.eye(N, device=device)
    bank = many_operators(device) if arm["tasks"] == ["many"] else []
    fixed = {n: dense(get_task(n), device) for n in arm["tasks"] if n in ("deblur-gaussian", "sr4", "ct")}

    def operator(step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(V, S, sigma) of a batch."""
        name = arm["tasks"][step % len(arm["tasks"])]
        if name != "many":
            sigma = torch.full((batch, 1), get_task(name).sigma_y, device=device)
            if name in fixed:
                return fixed[name].v, fixed[name].s.expand(batch, N), sigma
            seen = (torch.rand(batch, N, device=device) < 0.2).float()
            return eye, seen if name == "inpaint-random" else holes(batch, device), sigma
        sigma = torch.empty(batch, 1, device=device).uniform_(math.log(0.015), math.log(0.2)).exp()
        sigma[torch.rand(batch, 1, device=device) < 0.5] = 0.05
        if step % 5 < 2:
            return eye, many_masks(batch, device), sigma
        one, scan = bank[int(torch.randint(len(bank), ()))]
        if one.u is None:
            kept = torch.rand(batch, N, device=device) < torch.rand(batch, 1, device=device)
            return one.v, torch.rand(batch, N, device=device) * kept, sigma
        return one.v, one.s.expand(batch, N), 0.4 * sigma if scan else sigma

    steps = itertools.count()

    def loss() -> Tensor:
        step = next(steps)
        rows = torch.randint(len(pool["x"]), (batch,), device=device)
        x, x_t, x_hat, level = (pool[k][rows] for k in ("x", "x_t", "x_hat", "level"))
        (a, s), (v, singular, sigma) = coefficients(level), operator(step)
        noise = sigma * torch.randn(batch, N, device=device) * (singular > 0)
        mean = net(x_t, x_hat, a, s, Measured(singular * (x.flatten(1) @ v) + noise, singular, v, sigma))
        ratio = a / s
        weight = ratio.clamp_max(20) ** 2 if arm.get("weight") == "eps" else (1 + ratio**2).sqrt()
        return (weight * (mean - x) ** 2).mean()

    print(f"{descend(net, loss, seconds, look=said, capture=False)} steps", flush=True)
    return net.eval()


def evaluate(label: str, name: str, h: HTransform, device: str, images: int) -> None:
    """Four samples of validation images, one seed, 50 calls."""
    prior = deft.load_prior("fashion").to(device)
    domain, x = domain_of(prior), dataset("fashion", "validation").x[:images]
    assert domain is not None
    obs = get_task(name).observe(x, deft.Noise(1000, len(x)))
    cases = TensorCases(domain, x, obs, network=domain.feature_network("fashion-classifier", x))
    options: dict[str, Any] = {"sampler": SDEDPMpp2M(), "steps": 50, "spacing": "karras", "seed": 1000, "batch": 256}
    drawn = deft.sample_posterior(prior, h.to(device), obs.to(device), 4, **options)
    found = cases.measure([one.cpu().numpy() for one in drawn.x])
    keys = ("energy_score", "coverage", "spread_skill", "psnr_mean", "feature_distance")
    print(f"{name:16} {label:28}", "  ".join(f"{k} {float(found[k].mean()):.4f}" for k in keys), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pool", "bundled", *ARMS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pool", type=Path, default=Path("pool.pt"))
    parser.add_argument("--samples", type=int, default=30_000)
    parser.add_argument("--states", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=155)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--images", type=int, default=64)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.what == "pool":
        return make_pool(args.pool, args.device, args.samples, args.states)
    prior = deft.load_prior("fashion").to(args.device)
    low = {"MMPS": deft.MMPS(3), "covariance": deft.load_covariance(prior)}
    if args.what == "bundled":
        for name in FIVE:
            h = load_h(bundled_h(name, "fashion"), prior, get_task(name))[0]
            hs = {"bundled": h, **low, **{f"bundled, then {k}": deft.Piecewise(h, g, 1.0) for k, g in low.items()}}
            for label, one in hs.items():
                evaluate(label, name, one, args.device, args.images)
        return None
    arm = ARMS[args.what]
    net = fit(arm, torch.load(args.pool, map_location=args.device), args.device, args.seconds, args.batch)
    for name in arm.get("measured", arm["tasks"]):
        h = NetH(net, name, args.device)
        evaluate(args.what, name, h, args.device, args.images)
        for label, g in low.items():
            evaluate(f"{args.what}, then {label}", name, deft.Piecewise(h, g, 1.0), args.device, args.images)
    return None


if __name__ == "__main__":
    main()
