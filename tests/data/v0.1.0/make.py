"""Writes the files beside it: what version 0.1.0 (commit c408307) writes, as small as it can be.

    git worktree add --detach ../v010 c408307
    PYTHONPATH=../v010/src python tests/data/v0.1.0/make.py

Files are written by the library and its commands, in the folder of this script and by relative paths, so that no file
says where it was made. `expected.json` and `expected.npz` hold what 0.1.0 makes of its own files, and
`tests/test_old_files.py` compares later versions with them. Most weights are invented: an untrained h is 0, so they
are moved.
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
    VE,
    Ancestral,
    Denoiser,
    FitConfig,
    Gaussian,
    Likelihood,
    Mask,
    NetworkDenoiser,
    Noise,
    Observation,
    RectifiedFlow,
    VPCosine,
    VPLinear,
    VPTable,
    condition,
    fit,
    sample,
)
from deft.cli import common, main
from deft.distributed import World
from deft.evaluate.contrastive import Encoder, load_encoder, save_encoder
from deft.evaluate.features import load_features
from deft.htransform import DEFT, Amortised, ClassifierGuidance, FullTuning, LoRA, SideNetwork
from deft.htransform.classifier import build_classifier
from deft.measurement import fingerprint_of, read_measurement
from deft.nn import UNet
from deft.noise import Rescaled
from deft.prior import ImagePrior, load_prior
from deft.prior.latent import LatentPrior
from deft.protein.alternatives import ChainAmortised
from deft.protein.benchmark import read_problem
from deft.protein.contig import Contig
from deft.protein.htransform import ChainDEFT
from deft.protein.motif import MotifTask, given_motif
from deft.protein.network import ChainNet
from deft.protein.prior import BackbonePrior
from deft.protein.scaffold import load_scaffolder, save_scaffolder
from deft.protein.structure import write_pdb
from deft.tasks import TASKS, get_task
from deft.train.adapter import load_h, save_h
from deft.train.classifier import NoisyClassifierObjective
from deft.train.data import Pairs
from deft.train.importance import importance_fit
from deft.train.measured import Measured
from deft.train.path import Control, Replay, TrajectoryBalance
from deft.train.value import SubTrajectoryBalance, Value

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
    1,
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


# ------------------------------------------------------------------ priors of functions, as the test has them


class Mixer(torch.nn.Module):
    """A network of a few exact weights."""

    def __init__(self, size: int):
        super().__init__()
        numbers = (torch.arange(size * size) * 7) % 11 - 5
        self.weight = torch.nn.Parameter(numbers.reshape(size, size).float() / 16)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.weight) + time[:, None] / 8


class Flat(torch.nn.Module):
    """Images 1x8x8 as vectors of 64 numbers, half as large."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) / 2

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return 2 * z.reshape(-1, *SHAPE)


def vectors() -> NetworkDenoiser:
    return NetworkDenoiser(Mixer(6), VPCosine(), (6,), "v", time="log-sigma").eval().requires_grad_(False)


def latent() -> LatentPrior:
    inner = NetworkDenoiser(Mixer(64), VPCosine(), (64,), "v", time="log-sigma")
    return LatentPrior(inner, Flat(), SHAPE, "decoder", gain=2.0).eval().requires_grad_(False)


class Sides(Likelihood):
    """On which side of 0 the first number is, y [B]."""

    def sample(self, x, noise):
        return (x[:, 0] > 0).long()

    def log_prob(self, y, x):
        return -((x[:, 0] > 0).long() != y).float()

    def lift(self, y):
        return y[:, None].float().expand(-1, 6)


def half_seen() -> Observation:
    mask = torch.tensor([[1.0, 1, 0, 1, 0, 0]])
    return Observation(
        mask * torch.tensor([[0.5, -0.2, 0, 0.7, 0, 0], [-0.4, 0.1, 0, 0.9, 0, 0]]), Gaussian(Mask(mask), 0.1)
    )


# ------------------------------------------------------------------ what is written


def write_pictures() -> None:
    """Sixteen pictures of each kind: 8x8 grey, 8x8 in colours, 16x16; and a reward."""
    rng = np.random.default_rng(0)
    for name, scale, more in (("pictures", 2, ()), ("colours", 2, (3,)), ("large", 4, ())):
        coarse = rng.uniform(0, 255, (16, 4, 4, *more))
        x = np.kron(coarse, np.ones((1, scale, scale, *(1 for _ in more)))).astype(np.uint8)
        np.savez_compressed(HERE / f"{name}.npz", x=x)
    (HERE / "taste.py").write_text('"""A reward."""\n\n\ndef brightness(x):\n    return x.flatten(1).mean(1)\n')


def write_priors() -> None:
    made = {
        "vp-linear": (VPLinear(), "eps"),
        "vp-cosine": (VPCosine(), "v"),
        "vp-table": (VPTable(torch.linspace(1e-3, 0.2, 40)), "x0"),
        "ve": (VE(), "score"),
        "edm": (EDM(), "edm"),
        "flow": (RectifiedFlow(), "flow"),
        "rescaled": (Rescaled(VPCosine(), 2.0), "v"),
    }
    (HERE / "priors").mkdir()
    for i, (name, (schedule, output)) in enumerate(made.items()):
        torch.manual_seed(i)
        prior = ImagePrior(moved(UNet(1, 1, (4,), patch=2, time_dim=8), i), schedule, SHAPE, output)
        prior.save(HERE / "priors" / f"{name}.safetensors", name=name, licence="none")
    torch.manual_seed(9)
    colour = ImagePrior(moved(UNet(3, 3, (4,), attention=[True], patch=2, time_dim=8), 9), VPCosine(), (3, 8, 8))
    colour.save(HERE / "priors" / "colour.safetensors", torch.float16, name="colour")
    torch.manual_seed(10)
    large = ImagePrior(moved(UNet(1, 1, (4,), patch=2, time_dim=8), 10), VPCosine(), (1, 16, 16))
    large.save(HERE / "priors" / "large.safetensors", name="large")
    for path in sorted((HERE / "priors").glob("*.safetensors")):
        prior = load_prior(str(path))
        SAID[f"prior/{path.stem}"] = prior.fingerprint()
        EXPECTED[f"sample/{path.stem}"] = drawn(prior)
    for name in ("fashion", "ct", "backbone"):
        SAID[f"bundled/{name}"] = load_prior(name).fingerprint()


def train_priors() -> None:
    """`deft prior train`: finished, and stopped; with a small time embedding, which it has no option for."""
    usual = UNet.__init__.__defaults__
    UNet.__init__.__defaults__ = (*usual[:-1], 8)
    do(*TRAIN, "--out", "prior-train", "--name", "tiny", "--licence", "none", "--about-data", "invented pictures")
    kept = torch.load("prior-train/state.pt", weights_only=True)["raw"]
    EXPECTED["prior-train"] = weights(kept)
    EXPECTED["sample/prior-train"] = drawn(load_prior("prior-train"))
    SAID["prior/prior-train"] = load_prior("prior-train").fingerprint()
    Path("prior-train/state.pt").unlink()
    with Stopped(5):
        do(*TRAIN, "--out", "prior-train-stopped", code=130)
    UNet.__init__.__defaults__ = usual


def of_task(task: str) -> tuple[Denoiser, Observation]:
    prior = load_prior(f"priors/{ON.get(task, ('vp-cosine', ''))[0]}.safetensors")
    return prior, read_measurement(f"measured/{task}.npz", get_task(task, **OPTIONS.get(task, {})), prior.event_shape)


ON = {"colourise": ("colour", "colours.npz"), "deblur-nonlinear": ("large", "large.npz")}
"""Task -> prior and pictures, where they are not vp-cosine's of 8x8."""
OPTIONS: dict[str, dict[str, object]] = {
    "ct": {"angles": 6},
    "ct-limited": {"angles": 6},
    "deblur-motion": {"size": 3},
    "poisson": {"photons": 50.0},
}


def write_measurements() -> None:
    """Of every task, and an h for every task."""
    for name in TASKS:
        options = [v for k, value in OPTIONS.get(name, {}).items() for v in ("--task-option", f"{k}={value}")]
        data = ON.get(name, ("", "pictures.npz"))[1]
        do(
            "measure",
            "--task",
            name,
            *options,
            "--data",
            data,
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
        SAID[f"measured/{name}"] = fingerprint_of(obs)
        h = moved(LoRA(prior, obs.likelihood.lift_channels, 1), 5)
        save_h(
            f"tasks/{name}.safetensors",
            h,
            prior,
            get_task(name, **OPTIONS.get(name, {})),
            prior="vp-cosine",
            seconds=1.0,
        )
        EXPECTED[f"task/{name}"] = asked(load_h(f"tasks/{name}.safetensors", prior)[0], prior, obs)


def write_h() -> None:
    """Every class of h that a file may hold, and the forms of DEFT."""
    prior, obs = of_task("inpaint")
    x = torch.from_numpy(np.load("pictures.npz")["x"]).float()[:, None] / 127.5 - 1
    images = {
        "deft-v": ("deblur-motion", DEFT(SHAPE, 1, 1)),
        "lora": ("inpaint", LoRA(prior, 2, 2)),
        "controlnet": ("inpaint", SideNetwork(prior, 2)),
        "controlnet-narrow": ("inpaint", SideNetwork(prior, 2, 2)),
        "finetuned": ("denoise", FullTuning(prior, 1)),
    }
    for i, (name, (task, h)) in enumerate(images.items()):
        moved(h, i).calibrate(prior, x)
        save_h(
            f"h/{name}.safetensors",
            h,
            prior,
            get_task(task, **OPTIONS.get(task, {})),
            prior="vp-cosine",
            data="pictures (16 images)",
            recipe={"steps": 1},
        )
        _, obs = of_task(task)
        found = load_h(f"h/{name}.safetensors", prior)[0]
        EXPECTED[f"h/{name}"] = asked(found, prior, obs)
        EXPECTED[f"sample/h/{name}"] = drawn(prior, found, obs)
    few, seen = vectors(), half_seen()
    numbers = {
        "vector-v": DEFT((6,), 2, 4),
        "vector-eps": DEFT((6,), 2, 4, units="eps", gate=False, guide="score", normalise=False),
        "vector-raw": DEFT((6,), 2, 4, normalise=False, n2_start=0.5),
        "vector-inputs": DEFT((6,), 2, 4, inputs=("x_t", "y"), residual=False),
        "vector-amortised": Amortised((6,), 2, 4),
    }
    for i, (name, h) in enumerate(numbers.items()):
        moved(h, i).calibrate(few, torch.randn(16, 6, generator=torch.Generator().manual_seed(1)))
        save_h(f"h/{name}.safetensors", h, few, get_task("inpaint"), prior="vectors")
        found = load_h(f"h/{name}.safetensors", few)[0]
        EXPECTED[f"h/{name}"] = asked(found, few, seen)
        EXPECTED[f"sample/h/{name}"] = drawn(few, found, seen)
    inner, (_, obs) = latent(), of_task("sr4")
    h = moved(DEFT((64,), 1, 4), 3).calibrate(inner, inner.encode(x))
    save_h("h/latent.safetensors", h, inner, get_task("sr4"), prior="latent")
    found = load_h("h/latent.safetensors", inner)[0]
    EXPECTED["h/latent"], EXPECTED["sample/h/latent"] = asked(found, inner, obs), drawn(inner, found, obs)


PRIOR = ["--prior", "priors/vp-cosine.safetensors"]
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
    "--bank",
    0,
    "--steps",
    10,
    *FIT,
]
DEFT_FIT = [
    "fit",
    *PRIOR,
    "--task",
    "inpaint",
    "--data",
    "pictures.npz",
    "--start-from",
    "h/deft-v.safetensors",
    "--bank",
    0,
    "--steps",
    10,
    *FIT,
]


def fit_all() -> None:
    """`deft fit`: finished, and stopped."""
    for name, line in (("lora", LORA), ("inpaint", DEFT_FIT)):
        do(*line, "--out", f"runs/{name}")
        kept = torch.load(f"runs/{name}/state.pt", weights_only=True)["raw"]
        EXPECTED[f"resumed/{name}"] = weights(kept)
        if name == "lora":
            Path("runs/lora/state.pt").unlink()
        else:  # large, and the others are enough
            shutil.rmtree(f"runs/{name}")
        with Stopped(5):
            do(*line, "--out", f"stopped/{name}", code=130)
    paths = [
        "fit",
        *PRIOR,
        "--chain",
        4,
        "--steps",
        4,
        "--batch",
        4,
        "--warmup",
        1,
        "--lr",
        0.01,
        "--start-from",
        "h/deft-v.safetensors",
        "--device",
        "cpu",
    ]
    do(
        *paths,
        "--objective",
        "vargrad",
        "--task",
        "inpaint",
        "--measurement",
        "measured/inpaint.npz",
        "--row",
        1,
        "--out",
        "runs/vargrad",
    )
    do(*paths, "--objective", "kl", "--reward", "taste.py:brightness", "--beta", 0.1, "--out", "runs/reward")
    for name in ("vargrad", "reward"):
        Path(f"runs/{name}/state.pt").unlink()
    prior, obs = of_task("inpaint")
    lora_prior, lora_obs = of_task("sr4")
    for name, (p, o) in {"lora": (lora_prior, lora_obs), "vargrad": (prior, obs)}.items():
        EXPECTED[f"run/{name}"] = asked(load_h(f"runs/{name}", p)[0], p, o)
    h, task, _ = load_h("runs/reward", prior)
    seen = common.make_tilt("taste.py:brightness", task.beta, None).check(SHAPE).repeat(2)
    EXPECTED["run/reward"] = asked(h, prior, seen)


def fit_states() -> None:
    """Stopped fits that no command makes: balance on paths and on their parts, importance, and a noisy classifier."""
    few, seen = vectors(), half_seen()
    config = FitConfig(steps=8, batch=4, lr=0.01, warmup=1, ema=0.9, evaluations=1, held_out_batches=1)
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
    labels = Observation((x[:, 0] > 0).long(), Sides())

    def new(seed: int) -> DEFT:
        torch.manual_seed(seed)
        return DEFT((6,), 2, 4)

    def balance() -> tuple:
        return Control(new(0)), TrajectoryBalance(few, 4, sampler=Ancestral()), Measured(seen[:1])

    def parts() -> tuple:
        h = new(1)
        return (
            Control(h, replay=Replay(8, (6,)), value=Value((6,), width=4)),
            SubTrajectoryBalance(few, 4, length=2, sampler=Ancestral()),
            Measured(seen[:1]),
        )

    def classifier() -> tuple:
        torch.manual_seed(3)
        return (
            ClassifierGuidance(build_classifier((6,), 2, 4)),
            NoisyClassifierObjective(few.schedule),
            Pairs(x, labels),
        )

    for make in (balance, parts, classifier):
        name, (module, objective, batches) = make.__name__, make()
        fit(module, objective, batches, config=config, folder="whole", device="cpu", progress=False)
        kept = torch.load("whole/state.pt", weights_only=True)["raw"]
        EXPECTED[f"state/{name}"] = weights(kept)
        shutil.rmtree("whole")
        module, objective, batches = make()
        try:
            with Stopped(4):
                fit(module, objective, batches, config=config, folder=f"states/{name}", device="cpu", progress=False)
        except KeyboardInterrupt:
            pass

    options = {"rounds": 2, "paths": 2, "steps": 4, "config": config, "device": torch.device("cpu")}
    rows = importance_fit(whole := new(5), few, seen, **options)
    EXPECTED["state/importance"] = weights(whole.state_dict())
    SAID["importance"] = rows
    try:
        with Stopped(12):
            importance_fit(new(5), few, seen, folder=Path("states/importance"), **options)
    except KeyboardInterrupt:
        pass


def use() -> None:
    """`deft sample`, `evaluate`, `hub export` and `compare`."""
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
        "--sampler",
        "ddim",
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
    do(
        "hub",
        "export",
        "runs/lora",
        "--out",
        "hub",
        "--report",
        "evaluated/report.json",
        "--picture",
        "sampled/sample-000.png",
        "--license",
        "mit",
        *PRIOR,
    )
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
bank = 32
images = 4
batch = 4
size = 0.8

[tune]
images = 2
budget = 12
steps = [3, 4]
metric = "psnr_mean"

[[on]]
prior = "priors/vp-cosine.safetensors"
data = "pictures.npz"
tasks = ["sr4"]
arms = ["lora", "pigdm"]
"""


def write_features() -> None:
    """An encoder's file, and what the bundled feature networks say."""
    torch.manual_seed(0)
    save_encoder("encoder.safetensors", Encoder(8, (4, 8), 6, "tiny").eval(), data="invented pictures")
    g = torch.Generator().manual_seed(0)
    EXPECTED["features/states"] = torch.rand(2, 1, 8, 8, generator=g).numpy() * 2 - 1
    EXPECTED["features/encoder"] = (
        load_encoder("encoder.safetensors")
        .eval()
        .features(torch.from_numpy(EXPECTED["features/states"]))
        .detach()
        .numpy()
    )
    for name, scale in (("fashion-classifier", 4), ("ct-contrastive", 8)):
        x = torch.from_numpy(EXPECTED["features/states"]).repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        EXPECTED[f"features/{name}"] = load_features(name).features(x).detach().numpy()


CONTIGS = ("10-40/A163-181/10-40", "5/A10-15@a/5-9/A30-34@b/4", "A1-9/20", "3-3,B7-12,0-8")


def write_proteins() -> None:
    """An invented helix and strand as the motif's chain, a tiny prior, both kinds of h, and what commands leave."""
    Path("protein").mkdir()
    i = np.arange(48)
    turn = np.deg2rad(100.0) * i
    chain = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * i], 1)
    chain[24:, 2] = chain[24, 2] + 3.3 * (i[24:] - 24)
    write_pdb("protein/native.pdb", chain, sequence="ACDEFGHIKLMNPQRSTVWYACDEFGHIKLMNPQRSTVWYACDEFGHI")
    torch.manual_seed(0)
    prior = BackbonePrior(moved(ChainNet(8, 1, 1, 2, 4), 0), EDM(0.003, 20.0, mean=-1.0, deviation=1.5), 128)
    prior.save("protein/prior.safetensors", name="tiny")
    prior.eval().requires_grad_(False)
    SAID["prior/protein"] = load_prior("protein/prior.safetensors").fingerprint()
    x = torch.from_numpy(chain - chain.mean(0)).float()[None].repeat(4, 1, 1) / 8
    obs = given_motif(
        [torch.from_numpy(chain[9:21]), torch.from_numpy(chain[30:36])], [range(5, 17), range(24, 30)], 40
    )
    EXPECTED["states/40x3"] = torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0)).numpy()
    kinds = {
        "chain-deft": ChainDEFT(8, length=128),
        "chain-amortised": ChainAmortised(dict(prior.net.config), length=128, tuned=True).begin(prior),
    }
    for k, (name, h) in enumerate(kinds.items()):
        moved(h, k, 0.05).calibrate(prior, x)
        save_scaffolder(
            f"protein/{name}.safetensors", h, prior, MotifTask(loosest=0.05 if k else 0.0), data="invented", seconds=1.0
        )
        EXPECTED[f"protein/{name}"] = asked(
            load_scaffolder(f"protein/{name}.safetensors", prior)[0], prior.of_length(40), obs
        )
    own = ["--prior", "protein/prior.safetensors", "--steps", 4, "--device", "cpu"]
    do(
        "protein",
        "scaffold",
        *own,
        "--run",
        "protein/chain-deft.safetensors",
        "--motif",
        "protein/native.pdb",
        "--contig",
        "6-9/A10-21/5-9/A31-36/8",
        "-n",
        2,
        "--out",
        "protein/scaffolds",
    )
    bench = [
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
        "replacement",
        "--natives",
        2,
    ]
    do(*bench, "--run", "protein/chain-deft.safetensors", "--out", "protein/bench")
    Path("protein/problem.pdb").write_text(
        PROBLEM
        + "".join(
            x
            for x in Path("protein/native.pdb").read_text().splitlines(True)
            if x[:4] == "ATOM" and 10 <= int(x[22:26]) <= 21
        )
    )
    found = read_problem("protein/problem.pdb")
    SAID["problem"] = [found.name, str(found.contig), list(found.contig.lengths), len(found.motif)]
    SAID["contigs"] = {}
    for text in CONTIGS:
        c = Contig.parse(text)
        p = c.draw(0, max_length=128)
        SAID["contigs"][text] = [
            str(c),
            [str(r) for r in c.residues],
            c.groups.tolist(),
            list(c.reach),
            p.length,
            p.positions.tolist(),
        ]


PROBLEM = """REMARK 999 NAME   TINY
REMARK 999 PDB    TINY
REMARK 999 INPUT      5  20
REMARK 999 INPUT  A  10  21
REMARK 999 INPUT      5  20
REMARK 999 MINIMUM TOTAL LENGTH      30
REMARK 999 MAXIMUM TOTAL LENGTH      40
"""


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
    for shape in (SHAPE, (3, 8, 8), (1, 16, 16), (6,), (64,)):
        EXPECTED["states/" + "x".join(map(str, shape))] = torch.randn(2, *shape, generator=numbers).numpy()
    for stage in (
        write_pictures,
        write_priors,
        train_priors,
        write_measurements,
        write_h,
        fit_all,
        fit_states,
        use,
        write_features,
        write_proteins,
        finish,
    ):
        print("-----", stage.__name__)
        stage()
