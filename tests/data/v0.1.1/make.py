"""Writes the files beside it: what the version after 0.1.0 wrote otherwise, before its modules moved.

    git worktree add --detach ../v011 TREE
    PYTHONPATH=../v011/src python tests/data/v0.1.1/make.py

TREE is the commit that added this script. Beside what `tests/data/v0.1.0/make.py` covers: weights in half precision
and by noise level, states that say what was trained on what and keep the best weights, samples of the prior,
measurements of further tasks and in other conventions, pieces of comparisons that know the prior by its content.
Written as the files of 0.1.0 are; see there.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from deft import (
    DDIM,
    EDM,
    Ancestral,
    Denoiser,
    FitConfig,
    Gaussian,
    Mask,
    NetworkDenoiser,
    Noise,
    Observation,
    VPCosine,
    condition,
    fit,
    sample,
)
from deft.cli import common, main
from deft.distributed import World
from deft.htransform import DEFT, LoRA
from deft.measurement import read_measurement, task_of
from deft.nn import UNet
from deft.prior import ImagePrior, load_prior
from deft.protein.network import ChainNet
from deft.protein.prior import BackbonePrior
from deft.tasks import get_task
from deft.train.adapter import load_h, save_h
from deft.train.importance import importance_fit
from deft.train.measured import Measured
from deft.train.path import LogVariance

HERE = Path(__file__).resolve().parent
SHAPE = (1, 8, 8)
FIT = ["--batch", 4, "--lr", 0.01, "--warmup", 1, "--ema", 0.9, "--device", "cpu"]
TRAIN = [
    "prior",
    "train",
    "--data",
    "pictures.npz",
    "--widths",
    "4",
    "--batch",
    4,
    "--steps",
    10,
    "--lr",
    0.01,
    "--warmup",
    1,
    "--evaluations",
    5,
    "--flip",
    "--half",
]
PRIOR = ["--prior", "priors/half.safetensors"]
LORA = [
    "fit",
    *PRIOR,
    "--task",
    "sr4",
    "--data",
    "pictures.npz",
    "--method",
    "lora",
    "--size",
    0.8,
    "--steps",
    10,
    "--prior-samples",
    20,
    "--cache",
    32,
    *FIT,
]
EXPECTED: dict[str, np.ndarray] = {}
SAID: dict[str, object] = {}


def do(*arguments: object, code: int = 0) -> None:
    """A command line."""
    sys.argv = ["deft", *map(str, arguments)]
    found = main(sys.argv[1:])
    assert found == code, (found, arguments)


class Stopped:
    """Stops a fit before its step of this number (counted from where it begins), as Ctrl-C does."""

    def __init__(self, step: int):
        self.left = step

    def __enter__(self) -> None:
        self.kept = pulse = World.pulse

        def stops(world: World, stop: bool, value: float) -> tuple[bool, float]:
            self.left -= 1
            return pulse(world, stop or self.left < 0, value)

        World.pulse = stops

    def __exit__(self, *_: object) -> None:
        World.pulse = self.kept


def moved(module: torch.nn.Module, seed: int = 0, size: float = 0.2) -> torch.nn.Module:
    """With every parameter moved, so that nothing of it is 0."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn(p.shape, generator=g))
    return module


def states(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(EXPECTED["states/" + "x".join(map(str, shape))])


def told(x: np.ndarray | torch.Tensor) -> np.ndarray:
    """Of each row: its sum, the sum of its sizes, and its first six numbers."""
    rows = np.asarray(x, np.float64)
    return np.concatenate([rows.sum(1)[:, None], np.abs(rows).sum(1)[:, None], rows[:, :6]], 1)


def weights(state: dict[str, torch.Tensor]) -> np.ndarray:
    """The first three numbers of each tensor."""
    return np.concatenate([v.detach().numpy().ravel()[:3].astype(np.float64) for v in state.values()])


def asked(h: torch.nn.Module, prior: Denoiser, obs: Observation, x: torch.Tensor | None = None) -> np.ndarray:
    """h at a low and at a high noise level."""
    x = states(prior.event_shape) if x is None else x
    s, out = prior.schedule, []
    for share in (0.3, 0.8):
        t = torch.tensor(s.t_min + share * (s.t_max - s.t_min), dtype=torch.float64)
        out.append(told(h(prior(x, t), prior.inside(obs)).detach().flatten(1)))
    return np.concatenate(out)


def drawn(prior: Denoiser, h: torch.nn.Module | None = None, obs: Observation | None = None) -> np.ndarray:
    """Two samples of seed 0 in 5 steps."""
    of = prior if h is None or obs is None else condition(prior, h, prior.inside(obs))
    return told(sample(of, Noise(0, 2), sampler=DDIM(0.0), steps=5, spacing="log-snr").flatten(1))


# ------------------------------------------------------------------ a prior of a function, as the test has it


class Mixer(torch.nn.Module):
    """A network of a few exact weights."""

    def __init__(self, size: int):
        super().__init__()
        numbers = (torch.arange(size * size) * 7) % 11 - 5
        self.weight = torch.nn.Parameter(numbers.reshape(size, size).float() / 16)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.weight) + time[:, None] / 8


def vectors() -> NetworkDenoiser:
    return NetworkDenoiser(Mixer(6), VPCosine(), (6,), "v", time="log-sigma").eval().requires_grad_(False)


def half_seen() -> Observation:
    mask = torch.tensor([[1.0, 1, 0, 1, 0, 0]])
    return Observation(
        mask * torch.tensor([[0.5, -0.2, 0, 0.7, 0, 0], [-0.4, 0.1, 0, 0.9, 0, 0]]), Gaussian(Mask(mask), 0.1)
    )


# ------------------------------------------------------------------ what is written


def write_priors() -> None:
    """Sixteen pictures, and two priors of half precision, one of them trained."""
    rng = np.random.default_rng(0)
    x = np.kron(rng.uniform(0, 255, (16, 4, 4)), np.ones((1, 2, 2))).astype(np.uint8)
    np.savez_compressed(HERE / "pictures.npz", x=x)
    (HERE / "priors").mkdir()
    torch.manual_seed(0)
    prior = ImagePrior(moved(UNet(1, 1, (4,), patch=2, time_dim=8)), VPCosine(), SHAPE)
    prior.save(HERE / "priors" / "half.safetensors", torch.float16, name="half", precision="float16")
    usual = UNet.__init__.__defaults__
    UNet.__init__.__defaults__ = (
        *usual[:-1],
        8,
    )  # a smaller time embedding than there is an option for, for the files' size
    do(*TRAIN, "--out", "prior-train", "--licence", "none")
    Path("prior-train/state.pt").unlink()
    UNet.__init__.__defaults__ = usual
    for name, path in (("half", "priors/half.safetensors"), ("prior-train", "prior-train")):
        SAID[f"prior/{name}"], EXPECTED[f"sample/{name}"] = load_prior(path).fingerprint(), drawn(load_prior(path))
    for name in ("fashion", "ct", "backbone"):
        SAID[f"bundled/{name}"] = load_prior(name).fingerprint()


MEASURED: dict[str, tuple[str, dict[str, object]]] = {
    "inpaint": ("inpaint", {}),
    "sr4": ("sr4", {}),
    "mri-coils": ("mri-coils", {"coils": 2}),
    "ct-rays": ("ct-rays", {"angles": 6}),
    "ct.turned": ("ct", {"directions": "0,30,75,100", "rotation": "clockwise", "centre": 0.5}),
    "sr4.pixel": ("sr4", {"pixel": "first"}),
    "mri.corner": ("mri", {"centred": "false", "norm": "backward", "origin": "middle"}),
    "phase.counts": ("phase", {"intensity": "true", "shifted": "true"}),
    "deblur-motion.correlate": ("deblur-motion", {"size": 3, "correlate": "true", "boundary": "reflect"}),
    "sr4-bicubic.filter": ("sr4-bicubic", {"filter": "matlab"}),
}
"""Name of the file -> task and settings."""


def of_task(name: str) -> tuple[Denoiser, Observation]:
    prior, where = load_prior(PRIOR[1]), f"measured/{name}.npz"
    return prior, read_measurement(where, task_of(where), prior.event_shape)


def write_measurements() -> None:
    for name, (task, settings) in MEASURED.items():
        options = [v for k, value in settings.items() for v in ("--task-option", f"{k}={value}")]
        do(
            "measure",
            "--task",
            task,
            *options,
            "--data",
            "pictures.npz",
            "--images",
            2,
            "--seed",
            3,
            "--out",
            f"measured/{name}.npz",
        )
        prior, obs = of_task(name)
        truth = torch.from_numpy(np.load(f"measured/{name}.npz")["truth"])
        EXPECTED[f"measured/{name}/log_prob"] = obs.log_prob(truth + 0.01).numpy()
        EXPECTED[f"measured/{name}/lift"] = told(obs.lift().flatten(1))
        SAID[f"measured/{name}"] = obs.fingerprint()
        h = moved(LoRA(prior, obs.likelihood.lift_channels, 1), 5)
        save_h(f"tasks/{name}.safetensors", h, prior, task_of(f"measured/{name}.npz"), prior="half", seconds=1.0)
        EXPECTED[f"task/{name}"] = asked(load_h(f"tasks/{name}.safetensors", prior)[0], prior, obs)


def write_h() -> None:
    """In half precision, and with weights by noise level."""
    few, seen = vectors(), half_seen()
    h = moved(DEFT((6,), 2, 4), 0).calibrate(few, torch.randn(16, 6, generator=torch.Generator().manual_seed(1)))
    h.level_weight.copy_(torch.linspace(0.2, 1.0, len(h.level_weight)))
    for name, half in (("vector-weighted", False), ("vector-half", True)):
        save_h(f"h/{name}.safetensors", h, few, get_task("inpaint"), half=half, prior="vectors")
        found = load_h(f"h/{name}.safetensors", few)[0]
        EXPECTED[f"h/{name}"], EXPECTED[f"sample/h/{name}"] = asked(found, few, seen), drawn(few, found, seen)
    prior, _ = of_task("inpaint")
    save_h("start.safetensors", moved(DEFT(SHAPE, 2, 1), 1), prior, get_task("inpaint"), half=True, prior="half")


def fit_all() -> None:
    do(*LORA, "--out", "runs/lora")
    kept = torch.load("runs/lora/state.pt", weights_only=True)["raw"]
    EXPECTED["resumed/lora"] = weights(kept)
    Path("runs/lora/state.pt").unlink()
    with Stopped(5):
        do(*LORA, "--out", "stopped/lora", "--samples-folder", "runs/lora/prior-samples", code=130)
    paths = [
        "fit",
        *PRIOR,
        "--chain",
        8,
        "--steps",
        4,
        "--batch",
        4,
        "--warmup",
        1,
        "--lr",
        0.01,
        "--start-from",
        "start.safetensors",
        "--device",
        "cpu",
    ]
    do(*paths, "--objective", "vargrad", "--measurement", "measured/mri-coils.npz", "--row", 1, "--out", "runs/vargrad")
    Path("runs/vargrad/state.pt").unlink()
    for name, task in (("lora", "sr4"), ("vargrad", "mri-coils")):
        prior, obs = of_task(task)
        EXPECTED[f"run/{name}"] = asked(load_h(f"runs/{name}", prior)[0], prior, obs)


def fit_states() -> None:
    few, seen = vectors(), half_seen()
    config = FitConfig(steps=8, batch=4, lr=0.01, warmup=1, ema=0.9, evaluations=4, held_out_batches=1)

    def new(seed: int) -> DEFT:
        torch.manual_seed(seed)
        return DEFT((6,), 2, 4)

    def paths(folder: str) -> None:
        one = Measured(seen[:1])
        fit(
            new(2),
            LogVariance(few, 8, subset=2, sampler=Ancestral()),
            one,
            one,
            config=config,
            folder=folder,
            device="cpu",
            progress=False,
        )

    paths("whole")
    EXPECTED["state/paths"] = weights(torch.load("whole/state.pt", weights_only=True)["raw"])
    shutil.rmtree("whole")
    options = {"rounds": 2, "paths": 2, "steps": 4, "config": config, "device": torch.device("cpu")}
    SAID["importance"] = importance_fit(whole := new(5), few, seen, **options)
    EXPECTED["state/importance"] = weights(whole.state_dict())
    for work, steps in (
        (lambda: paths("states/paths"), 4),
        (lambda: importance_fit(new(5), few, seen, folder=Path("states/importance"), **options), 9),
    ):
        try:
            with Stopped(steps):
                work()
        except KeyboardInterrupt:
            pass
    shutil.rmtree("states/importance/round-2")


def use() -> None:
    do(
        "sample",
        "runs/lora",
        *PRIOR,
        "--measurement",
        "measured/sr4.npz",
        "-n",
        2,
        "--steps",
        5,
        "--out",
        "sampled",
        "--device",
        "cpu",
    )
    do(
        "evaluate",
        "runs/lora",
        *PRIOR,
        "--data",
        "pictures.npz",
        "--images",
        2,
        "--samples",
        2,
        "--steps",
        4,
        "--methods",
        "lora,pigdm",
        "--out",
        "evaluated",
        "--device",
        "cpu",
    )
    do("hub", "export", "runs/lora", "--out", "hub", "--report", "evaluated/report.json", "--license", "mit", *PRIOR)
    prior, obs = of_task("sr4")
    EXPECTED["hub"] = asked(load_h("hub", prior)[0], prior, obs)
    (HERE / "study.toml").write_text(STUDY)
    do("compare", "study.toml", "--out", "compare")
    for path in sorted(Path("compare/fit").glob("*.safetensors")):
        EXPECTED[f"compare/{path.stem}"] = asked(load_h(path, prior)[0], prior, obs)


STUDY = """# A study of two methods that takes a second.
title = "Two methods"
images = 2
samples = 2
seeds = [0]
batch = 8

[fit]
steps = 4
cache = 32
prior_samples = 0
images = 4
batch = 4
size = 0.8

[tune]
images = 2
samples = 2
budget = 12
points = 2
steps = [3, 4]

[[on]]
prior = "priors/half.safetensors"
data = "pictures.npz"
tasks = ["sr4"]
arms = ["lora", "pigdm"]
"""


def write_proteins() -> None:
    Path("protein").mkdir()
    torch.manual_seed(0)
    prior = BackbonePrior(moved(ChainNet(8, 1, 1, 2, 4), 0), EDM(0.003, 20.0, mean=-1.0, deviation=1.5), 128)
    prior.save("protein/prior.safetensors", name="tiny")
    SAID["prior/protein"] = load_prior("protein/prior.safetensors").fingerprint()
    own = ["--prior", "protein/prior.safetensors", "--steps", 4, "--device", "cpu"]
    do(
        "protein",
        "benchmark",
        *own,
        "--set",
        "validation",
        "--count",
        2,
        "-n",
        1,
        "--arm",
        "prior",
        "--arm",
        "pigdm",
        "--natives",
        2,
        "--out",
        "protein/bench",
    )


def finish() -> None:
    """Pictures are left out, and every file's hash is written down."""
    for path in [*HERE.rglob("*.png"), *HERE.rglob("view.html"), *HERE.rglob("__pycache__")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    np.savez_compressed(HERE / "expected.npz", **EXPECTED)
    files = {
        str(p.relative_to(HERE)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(HERE.rglob("*"))
        if p.is_file()
    }
    files = {k: v for k, v in files.items() if k not in ("make.py", "expected.json")}
    (HERE / "expected.json").write_text(json.dumps({"values": SAID, "files": files}, indent=1) + "\n")
    print(f"{len(files)} files, {sum((HERE / k).stat().st_size for k in files) / 2**20:.2f} MiB")


if __name__ == "__main__":
    import os

    os.chdir(HERE)
    torch.set_num_threads(1)
    for old in HERE.iterdir():
        if old.name != "make.py":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    platform.platform = lambda **_: "Linux"
    common.prior_name = lambda name: (
        name
    )  # a file by its absolute path, otherwise: of the machine that this was made on
    numbers = torch.Generator().manual_seed(0)
    for shape in (SHAPE, (6,)):
        EXPECTED["states/" + "x".join(map(str, shape))] = torch.randn(2, *shape, generator=numbers).numpy()
    for stage in (write_priors, write_measurements, write_h, fit_all, fit_states, use, write_proteins, finish):
        print("-----", stage.__name__)
        stage()
