"""The bundled learned covariance of clothes (`h-covariance-fashion`): a fit to products with the prior's derivative.

One H200 that five other fits shared: 9 s for 30,000 samples of the prior and 200,000 states, 13 s for 119,808 products,
155 s for 6,300 steps of 192. `deft fit --method covariance` is the same on any machine, with fresh directions at each
step; this one draws all of them beforehand, which a GPU likes better. Without --out it writes nothing.

python benchmarks/covariance_gpu.py --device cuda --seconds 155 --out h-covariance-fashion.safetensors
python benchmarks/covariance_gpu.py --quick
"""

from __future__ import annotations

import argparse
import math

import torch
from graphs import descend, said
from torch import Tensor
from torch.nn import functional as F

import deft
from deft.core.denoiser import Prediction
from deft.domains.image.data import dataset
from deft.domains.image.tasks import get_task
from deft.io.h_files import save_h
from deft.learned import LearnedCovariance
from deft.samplers import DPMpp2M, sample
from deft.train.jacobian import relative_error

CHUNK = 1024


def levels(n: int, device: str) -> Tensor:
    """log(sigma/alpha): half of them even between -3.5 and 3, half from the cube root of a uniform time."""
    even = torch.rand(n, device=device) * 6.5 - 3.5
    high = torch.tan(math.pi / 2 * torch.rand(n, device=device) ** (1 / 3)).clamp(1e-2, 140).log()
    return torch.where(torch.rand(n, device=device) < 0.5, even, high)


def coefficients(level: Tensor) -> tuple[Tensor, Tensor]:
    angle = torch.atan(level.exp()).reshape(-1, 1, 1, 1)
    return torch.cos(angle), torch.sin(angle)


def draw_clean(prior: deft.Denoiser, samples: int, device: str) -> Tensor:
    """Samples of the prior, and the thousand bundled images once for each ten thousand."""
    images = dataset("fashion", "fit").x.to(device)
    parts = [
        sample(prior, deft.Noise(77, range(i, min(i + 4096, samples))), sampler=DPMpp2M(), steps=25, spacing="log-snr")
        for i in range(0, samples, 4096)
    ]
    return torch.cat([*(p.clamp(-1, 1).float() for p in parts), images.repeat(max(1, samples // 10_000), 1, 1, 1)])


def draw_noised(clean: Tensor, states: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """(x, half of them mirrored, x_t, log(sigma/alpha)) of so many states."""
    x = clean[torch.randint(len(clean), (states,), device=device)]
    mirrored = torch.rand(states, device=device) < 0.5
    x[mirrored] = x[mirrored].flip(-1)
    level = levels(states, device)
    alpha, sigma = coefficients(level)
    return x, alpha * x + sigma * torch.randn_like(x), level


def draw_products(prior: deft.Denoiser, samples: int, states: int, device: str) -> dict[str, Tensor]:
    """States x_t of samples and images, the prior's mean, directions v and products J v."""
    x, x_t, level = draw_noised(draw_clean(prior, samples, device), states, device)
    # a third each: white noise, the prior's own error, smooth noise
    kind = torch.arange(states, device=device) % 3
    v = torch.randn_like(x)
    v[kind == 2] = 2 * F.interpolate(F.avg_pool2d(torch.randn_like(v[kind == 2]), 2), scale_factor=2)
    x_hat, jv = torch.empty_like(x), torch.empty_like(x)
    for i in range(0, states, CHUNK):
        rows = slice(i, min(i + CHUNK, states))
        t = prior.schedule.time_of(-2 * level[rows].double()).to(x_t.dtype)
        own = x_t[rows].requires_grad_(True)
        mean = prior(own, t).mean
        x_hat[rows] = mean.detach()
        error = x[rows] - x_hat[rows]
        unit = error / error.flatten(1).square().mean(1).sqrt().clamp_min(1e-6).reshape(-1, 1, 1, 1)
        v[rows] = torch.where((kind[rows] == 1).reshape(-1, 1, 1, 1), unit, v[rows])
        jv[rows] = torch.autograd.grad(mean, own, v[rows])[0]
    return {"x_t": x_t.detach(), "x_hat": x_hat, "level": level, "v": v, "jv": jv}


def fit(h: LearnedCovariance, pool: dict[str, Tensor], seconds: float, batch: int) -> int:
    """The relative squared error of products; returns the steps."""

    def loss() -> Tensor:
        rows = torch.randint(len(pool["x_t"]), (batch,), device=pool["x_t"].device)
        one = {k: w[rows] for k, w in pool.items()}
        alpha, sigma = coefficients(one["level"])
        maps = h.maps(Prediction(one["x_t"], one["level"], alpha, sigma, one["x_hat"]))
        target = (sigma**2 / alpha / maps.unit) * one["jv"]
        return relative_error(h.product(maps, one["v"]) / maps.unit, target).mean()

    return descend(h, loss, seconds, look=said, capture=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=155)
    parser.add_argument("--samples", type=int, default=30_000)
    parser.add_argument("--states", type=int, default=119_808)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--out", default="")
    parser.add_argument("--quick", action="store_true", help="a trial of some seconds")
    args = parser.parse_args()
    if args.quick:
        args.samples, args.states, args.batch, args.seconds = 0, 512, 16, 5.0
    torch.manual_seed(1)
    prior = deft.load_prior("fashion").to(args.device)
    pool = draw_products(prior, args.samples, args.states, args.device)
    h = LearnedCovariance(prior.event_shape, width=14).to(args.device)
    steps = fit(h, pool, args.seconds, args.batch)
    print(f"{steps} steps")
    if args.out:
        card = {"steps": steps, "batch": args.batch, "seconds": args.seconds, "made_by": "benchmarks/covariance_gpu.py"}
        save_h(args.out, h.cpu().eval(), prior.cpu(), get_task("deblur-gaussian"), half=True, prior="fashion", **card)


if __name__ == "__main__":
    main()
