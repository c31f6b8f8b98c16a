"""Long fits of bundled h on one GPU: the h of the recipe, on states drawn beforehand, each step one CUDA graph.

python benchmarks/long_fits.py clean --prior fashion --folder pool --device cuda        # once for a prior
python benchmarks/long_fits.py fit --task sr4 --prior fashion --folder pool --out h --device cuda --seconds 260
python benchmarks/long_fits.py fit --task sr4 ... --teach 120                           # and then by MMPS
python benchmarks/long_fits.py clean --quick --folder quick; python benchmarks/long_fits.py fit --quick --teach 3 ...

All that N1 is shown follows from x_t, the prior's mean and y: it is made once for each state, so that a step is the small
network alone. The weight of the loss is that of the paper, (alpha/sigma)^2, at most 400.

--teach: a second stage on h's own paths. States at sigma/alpha <= 1.2 are drawn from paths of h (half of them with MMPS
below 1), and there h learns the mean that MMPS's solve with the prior's derivative gives, which is a function of the
state; the states of the first stage, with their truth, are half of every batch.

Writes h-TASK-PRIOR-1.pt after the first stage and -2.pt after the second: `state`, a dictionary of tensors. `finish`
gives the file that the library reads, with weight and errors by noise level and the check of intervals in its card:

python benchmarks/long_fits.py finish --task sr4 --prior fashion --state h/h-sr4-fashion-1.pt --out weights
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from covariance_gpu import coefficients, levels
from graphs import descend
from torch import Tensor

import deft
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.domains.image.data import dataset
from deft.domains.image.tasks import TASKS
from deft.io.h_files import bundled_h, load_h, save_h
from deft.learned.deft import LOWEST, bounded
from deft.methods import plan
from deft.recipe.fit import weigh_levels
from deft.recipe.intervals import check_intervals
from deft.samplers import DPMpp2M, SDEDPMpp2M, sample
from deft.train.data import Clean
from deft.train.fit import FitConfig
from deft.train.levels import level_table

CHUNK = 1024
LOW = 1.2
"""sigma/alpha from which on down MMPS teaches."""
STARTED = time.monotonic()
INPUTS = ("x_t", "x_hat", "g", "views", "level")


def say(*what: Any) -> None:
    print(f"[{time.monotonic() - STARTED:6.1f} s]", *what, flush=True)


def draw_clean(prior_name: str, samples: int, steps: int, device: str) -> Tensor:
    prior = deft.load_prior(prior_name).to(device)
    images = dataset(prior_name, "fit").x
    parts = [
        sample(
            prior, deft.Noise(77, range(i, min(i + 2048, samples))), sampler=DPMpp2M(), steps=steps, spacing="log-snr",
            progress=False,
        ).clamp(-1, 1).float().cpu()
        for i in range(0, samples, 2048)
    ]  # fmt: skip
    return torch.cat([*parts, images.repeat(max(1, samples // 10_000), 1, 1, 1)])


def new_h(task: Any, prior: Any, start: str) -> deft.DEFT:
    """An h of the recipe's form, or the bundled one to start from."""
    if start:
        h = load_h(bundled_h(task.name, start), prior, task)[0]
        assert isinstance(h, deft.DEFT)
        h.level_weight.fill_(1.0)  # found anew after the fit
        return h
    like = task.observe(torch.zeros(1, *prior.data_shape), deft.Noise(0, 1)).likelihood
    torch.manual_seed(0)
    return deft.DEFT.sized(prior, 0.09, like.feature_channels)


@torch.no_grad()
def shown(
    h: deft.DEFT, x_t: Tensor, x_hat: Tensor, level: Tensor, views: Tensor, obs: Observation
) -> dict[str, Tensor]:
    """What N1 sees of some states, and the guide."""
    g = obs.likelihood.approx_mean_update(obs.y, x_hat, h.rho2(level).to(x_hat).reshape(-1, 1, 1, 1))
    return {"x_t": x_t, "x_hat": x_hat, "g": g, "views": views, "level": level}


def corrected(h: deft.DEFT, one: dict[str, Tensor]) -> Tensor:
    """The mean that `DEFT.forward` moves to, in units v, from what it is shown."""
    a, s = coefficients(one["level"])
    time_ = one["level"].clamp_min(LOWEST)
    seen = [one["x_t"] * (a**2 + s**2).rsqrt(), bounded(one["x_hat"]), bounded(one["g"]), one["views"]]
    n1, gate = h.n1(torch.cat(seen, dim=1), time_).chunk(2, dim=1)
    return one["x_hat"] + s * n1 + (h.n2(time_).reshape(-1, 1, 1, 1) + gate) * one["g"]


def check(h: deft.DEFT, prior: Any, one: dict[str, Tensor], obs: Observation) -> float:
    """Largest difference between `corrected` and what the library's h does."""
    t = prior.schedule.time_of(-2 * one["level"].double()).to(one["x_t"])
    pred = prior(one["x_t"], t)
    return float((pred.corrected(h(pred, obs)).mean - corrected(h, one)).detach().abs().max())


def times_of(prior: Any, level: Tensor) -> Tensor:
    return prior.schedule.time_of(-2 * level.double()).to(torch.float32)


@torch.no_grad()
def first_pool(
    h: deft.DEFT, prior: Any, task: Any, clean: Tensor, states: int, repeats: int, device: str
) -> dict[str, Tensor]:
    """States at all levels with their truth: `repeats` for each measurement."""
    rows = torch.randint(len(clean), (states // repeats,))
    x = clean[rows]
    mirrored = torch.rand(len(x)) < 0.5
    x[mirrored] = x[mirrored].flip(-1)
    obs = task.observe(x, deft.Noise(5, len(x)))
    say(f"{len(x)} measurements")
    parts: list[dict[str, Tensor]] = []
    for i in range(0, len(x), CHUNK):
        own = obs[i : i + CHUNK].to(device)
        here, views = x[i : i + CHUNK].to(device), own.features()
        for _ in range(repeats):
            level = levels(len(here), device)
            a, s = coefficients(level)
            x_t = a * here + s * torch.randn_like(here)
            made = shown(h, x_t, prior(x_t, times_of(prior, level)).mean, level, views, own)
            parts.append({**made, "target": here})
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


class Watch(HTransform):
    """h as it is, or with MMPS below sigma/alpha = 1; keeps the states at low noise and the mean that MMPS gives there."""

    needs_graph = True

    def __init__(self, h: deft.DEFT, own: bool):
        super().__init__()
        self.h, self.own, self.teacher = h, own, deft.MMPS(3)
        self.graph_below = LOW
        self.parts: list[dict[str, Tensor]] = []

    def forward(self, pred: Any, obs: Observation) -> Tensor:
        if float((pred.sigma / pred.alpha).max()) > LOW:
            return self.h(pred.detach(), obs)
        taught = self.teacher(pred, obs).detach()
        plain = pred.detach()
        level = torch.log(plain.sigma / plain.alpha).reshape(-1).expand(len(plain.mean)).contiguous().float()
        made = shown(self.h, plain.x_t.detach(), plain.mean, level, obs.features(), obs)
        self.parts.append({**made, "target": plain.corrected(taught).mean.detach()})
        return self.h(plain, obs) if self.own or float(level[0]) > 0 else taught


def second_pool(h: deft.DEFT, prior: Any, task: Any, clean: Tensor, paths: int, device: str) -> dict[str, Tensor]:
    x = clean[torch.randint(len(clean), (paths,))]
    parts: list[dict[str, Tensor]] = []
    for i in range(0, paths, CHUNK):
        obs = task.observe(x[i : i + CHUNK], deft.Noise(6 + i, len(x[i : i + CHUNK]))).to(device)
        watch = Watch(h, own=(i // CHUNK) % 2 == 0)
        deft.sample_posterior(
            prior, watch, obs, 1, sampler=SDEDPMpp2M(), steps=50, spacing="log-snr", seed=i, batch=CHUNK, progress=False
        )
        parts += watch.parts
    return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


def loss_of(h: deft.DEFT, pools: list[dict[str, Tensor]], batch: int) -> Any:
    """The mean over as many states of each pool."""

    def loss() -> Tensor:
        device = pools[0]["x_t"].device
        ones = [
            {k: v[rows] for k, v in pool.items()}
            for pool in pools
            for rows in [torch.randint(len(pool["x_t"]), (batch // len(pools),), device=device)]
        ]
        one = {k: torch.cat([o[k] for o in ones]) for k in ones[0]}
        ratio = (-one["level"]).exp().clamp_max(20).reshape(-1, 1, 1, 1)
        return (ratio**2 * (corrected(h, one) - one["target"]) ** 2).mean()

    return loss


def fit(args: argparse.Namespace) -> None:
    device = args.device
    prior = deft.load_prior(args.prior).to(device)
    task = TASKS[args.task]()
    path = args.folder / f"clean-{args.prior}.pt"
    while not path.exists():  # another process is drawing them
        if time.monotonic() - STARTED > 120:
            raise SystemExit(f"{path} is not there")
        time.sleep(0.5)
    clean = torch.load(path)
    h = new_h(task, prior, args.prior if args.start else "").to(device).requires_grad_(True)
    h.calibrate(prior, clean[:512], max_samples=512)
    pool = first_pool(h, prior, task, clean, args.states, args.repeats, device)
    say(f"{len(pool['x_t'])} states; {sum(v.numel() * v.element_size() for v in pool.values()) / 1e9:.1f} GB")
    rows = torch.randperm(len(pool["x_t"]), device=device)  # so that a part is a fair part
    pool = {k: v[rows] for k, v in pool.items()}
    first = {k: v[:64] for k, v in pool.items()}
    # the pool is what the library's h is shown
    x = first["target"]
    obs = task.observe(x.cpu(), deft.Noise(9, len(x))).to(device)
    again = shown(
        h,
        first["x_t"],
        prior(first["x_t"], times_of(prior, first["level"])).mean.detach(),
        first["level"],
        obs.features(),
        obs,
    )
    say(f"as the library's h: {check(h, prior, again, obs):.1e}")

    def look(step: int, seconds: float, mean: float, _: Any) -> None:
        say(f"step {step}, {step / seconds:.1f} a second, loss {mean:.5f}")

    def keep(stage: int, steps: int) -> None:
        args.out.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu() for k, v in h.state_dict().items()}
        spent = round(time.monotonic() - STARTED)
        about = {
            "steps": steps,
            "seconds": spent,
            "batch": args.batch,
            "states": args.states,
            "device": device_name(device),
        }
        torch.save(
            {"state": state, "config": h.config(), "about": about}, args.out / f"h-{args.task}-{args.prior}-{stage}.pt"
        )

    h.train()
    lr = args.lr
    steps = descend(h, loss_of(h, [pool], args.batch), args.seconds, lr=lr, look=look)
    keep(1, steps)
    say(f"first stage: {steps} steps")
    if not args.teach:
        return
    for k in range(args.rounds):
        h.eval()
        taught = second_pool(h, prior, task, clean, args.paths, device)
        say(f"{len(taught['x_t'])} states of paths")
        h.train()
        steps += descend(h, loss_of(h, [pool, taught], args.batch), args.teach / args.rounds, lr=lr / 2, look=look)
        keep(2 + k, steps)
    say(f"second stage: {steps} steps in all")


def finish(args: argparse.Namespace) -> None:
    """The file that the library reads, of a state: weight and errors by noise level, intervals checked on images that
    were not fitted to."""
    prior, task = deft.load_prior(args.prior), TASKS[args.task]()
    found = torch.load(args.state)
    h = deft.DEFT.from_config(prior, found["config"])
    h.load_state_dict(found["state"])
    h.half().float().eval().requires_grad_(False)  # what is measured is what is written
    held_out = dataset(args.prior, "validation").x
    few = held_out[:16] if args.quick else held_out
    obs = task.observe(few[:200], deft.Noise(0, len(few[:200])))
    config = FitConfig(batch=min(128, len(few)), held_out_batches=2 if args.quick else 24)
    levels_, worse = weigh_levels(h, deft.DenoisingObjective(prior, "eps"), Clean(few, task), config, few[:200], obs)
    say(level_table(levels_), *worse)
    count, samples = (12, 2) if args.quick else (128, 8)
    seen = task.observe(few[:count], deft.Noise(78, len(few[:count])))
    checked = check_intervals(h, prior, few[:count], seen, plan("deft"), n=samples, source=f"{count} held-out samples")
    say(f"raw 90 % intervals hold {100 * checked.raw:.1f} %, calibrated to +- {200 * checked.error:.1f} %")
    about = found["about"] | {
        "prior": args.prior,
        "data": "samples of the prior, and 1,000 bundled images as a tenth of them",
        "weighting": "eps",
        "taught": args.state.stem[-1] != "1",
        "levels": levels_,
        "warnings": worse,
        "intervals": checked.config(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    name = task.name if args.prior == task.prior else f"{task.name}-{args.prior}"
    save_h(args.out / f"h-{name}.safetensors", h, prior, task, half=True, **about)
    say(f"wrote h-{name}.safetensors")


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("clean", "fit", "finish"))
    parser.add_argument("--prior", default="fashion")
    parser.add_argument("--task", default="sr4")
    parser.add_argument("--folder", type=Path, default=Path("pool"))
    parser.add_argument("--out", type=Path, default=Path("h"))
    parser.add_argument("--state", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--samples", type=int, default=30_000)
    parser.add_argument("--states", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=260)
    parser.add_argument("--teach", type=float, default=0, help="seconds of the second stage")
    parser.add_argument("--rounds", type=int, default=2, help="of drawing paths and fitting, in the second stage")
    parser.add_argument("--paths", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--start", action="store_true", help="from the bundled h")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.samples, args.states, args.repeats, args.seconds, args.paths, args.batch = 64, 256, 2, 3.0, 8, 16
        args.teach, args.rounds = min(args.teach, 3.0), 1
    torch.manual_seed(1)
    if args.device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
    if args.what == "clean":
        args.folder.mkdir(parents=True, exist_ok=True)
        clean = draw_clean(args.prior, args.samples, 5 if args.quick else 25, args.device)
        part = args.folder / f"clean-{args.prior}.part"
        torch.save(clean, part)
        part.rename(args.folder / f"clean-{args.prior}.pt")
        say(f"{len(clean)} clean images")
    elif args.what == "fit":
        fit(args)
    else:
        finish(args)


if __name__ == "__main__":
    main()
