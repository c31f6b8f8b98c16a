"""Every file and card that an earlier version wrote still loads, and says what it said.

`tests/data/v0.1.0` and `v0.1.1` hold what these versions wrote (`make.py` in each), with what they made of it in
`expected.json` and `expected.npz`. A file there is never rewritten: what cannot be read any more is a broken
promise. What is refused on purpose is refused in one line that says what to do (`test_what_is_refused`).

That the comparisons can fail is shown by `test_a_changed_weight_is_seen`. By hand: one tensor of a file 2 % larger
is seen by the h's test and by every test of hashes; an optimiser that is not loaded, by all that resume.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

# What the tests need of the library, by name and in one place.
from deft import (
    DDIM,
    Ancestral,
    Denoiser,
    FitConfig,
    Gaussian,
    Likelihood,
    Mask,
    NetworkDenoiser,
    Noise,
    Observation,
    VPCosine,
    condition,
    fit,
    sample,
    times,
)
from deft._renamed import new_settings
from deft.cli.common import make_tilt
from deft.denoiser.identity import is_prior
from deft.domains.image.contrastive import load_encoder
from deft.domains.image.networks import load_features
from deft.domains.image.reading import ReadOptions, read_images
from deft.domains.image.tasks import make_task
from deft.domains.protein.contig import Contig
from deft.domains.protein.motif import given_motif
from deft.domains.protein.problems import read_problem
from deft.domains.protein.scaffold import load_scaffolder
from deft.domains.protein.structure import read_structure
from deft.io.files import load_weights, save_weights
from deft.io.h_files import load_h
from deft.io.measurements import read_measurement, task_of
from deft.learned import DEFT, ClassifierGuidance
from deft.learned.classifier import build_classifier
from deft.nn import UNet
from deft.prior import load_prior
from deft.prior.latent import LatentPrior
from deft.train.classifier import NoisyClassifierObjective
from deft.train.data import Pairs
from deft.train.importance import importance_fit
from deft.train.measured import Measured
from deft.train.path import Control, LogVariance, Replay, TrajectoryBalance
from deft.train.value import SubTrajectoryBalance, Value
from deft.workflow.hub import from_pretrained
from toys import refused, run

DATA = Path(__file__).with_name("data")
SHAPE = (1, 8, 8)


class Old:
    """A folder of an earlier version, and what it said of it."""

    def __init__(self, version: str):
        self.folder = DATA / version
        said = json.loads((self.folder / "expected.json").read_text(encoding="utf-8"))
        self.values, self.files = said["values"], said["files"]
        with np.load(self.folder / "expected.npz") as z:
            self.arrays = {k: z[k] for k in z.files}

    def states(self, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(self.arrays["states/" + "x".join(map(str, shape))])

    def of_task(self, task: str) -> tuple[Denoiser, Observation]:
        """The prior and the measurement that belong to a task's files."""
        where = self.folder / "measured" / f"{task}.npz"
        prior = load_prior(str(self.folder / "priors" / f"{ON.get(task, USUAL[self.folder.name])}.safetensors"))
        return prior, read_measurement(where, task_of(where), prior.event_shape)

    def check(self, name: str, found: np.ndarray) -> None:
        """Of rows (h, samples, ...): each within 1e-4 of what is largest in it."""
        expected = self.arrays[name]
        assert found.shape == expected.shape and np.isfinite(found).all() and np.abs(expected).max() > 0, name
        size = np.maximum(1.0, np.abs(expected).max(-1, keepdims=True)) if expected.ndim > 1 else 1.0
        far = np.abs(found - expected) / (size + np.abs(expected))
        assert far.max() < 1e-4, (name, far.max(), found, expected)

    def check_weights(self, name: str, found: np.ndarray) -> None:
        """Of weights after some steps: another machine may turn a gradient that is 0 but for rounding the other way."""
        expected = self.arrays[name]
        assert found.shape == expected.shape and np.isfinite(found).all(), name
        far = np.abs(found - expected) / (1 + np.abs(expected))
        assert (far < 1e-4).mean() > 0.9 and far.max() < 0.1, (name, (far < 1e-4).mean(), far.max())

    def asked(self, h: torch.nn.Module, prior: Denoiser, obs: Observation, x: torch.Tensor | None = None) -> np.ndarray:
        """h at a low and at a high noise level."""
        x = self.states(prior.event_shape) if x is None else x
        s, out = prior.schedule, []
        for share in (0.3, 0.8):
            t = torch.tensor(s.t_min + share * (s.t_max - s.t_min), dtype=torch.float64)
            out.append(told(h(prior(x, t), prior.to_latent(obs)).detach().flatten(1)))
        return np.concatenate(out)


USUAL = {"v0.1.0": "vp-cosine", "v0.1.1": "half"}
"""Version -> its prior of 8x8. Names differ, for a comparison in one process keeps a prior by its name."""
ON = {"colourise": "colour", "deblur-nonlinear": "large"}
"""Task -> prior, where it is not that one."""


def told(x: torch.Tensor) -> np.ndarray:
    """Of each row: its sum, the sum of its sizes, and its first six numbers."""
    rows = np.asarray(x, np.float64)
    return np.concatenate([rows.sum(1)[:, None], np.abs(rows).sum(1)[:, None], rows[:, :6]], 1)


def weights(state: dict[str, torch.Tensor], like: dict[str, torch.Tensor] | None = None) -> np.ndarray:
    """The first three numbers of each tensor; of those alone that another state has, too."""
    kept = [v for k, v in state.items() if like is None or k in like]
    return np.concatenate([v.detach().numpy().ravel()[:3].astype(np.float64) for v in kept])


def drawn(prior: Denoiser, h: torch.nn.Module | None = None, obs: Observation | None = None) -> np.ndarray:
    """Two samples of seed 0 in 5 steps."""
    of = prior if h is None or obs is None else condition(prior, h, prior.to_latent(obs))
    grid = times(of.schedule, 5, "log-snr")
    start = Noise(0, 2).for_measurements.normal(of.event_shape)  # the generators of 0.1, which drew samples, too
    like = torch.ones(2, *of.event_shape)
    x = of.project(start, like) * grid[0].sigma
    return told(sample(of, Noise(0, 2), sampler=DDIM(0.0), grid=grid, x=x).flatten(1))


# ------------------------------------------------------------------ priors of functions, as make.py has them


class Mixer(torch.nn.Module):
    def __init__(self, size: int):
        super().__init__()
        numbers = (torch.arange(size * size) * 7) % 11 - 5
        self.weight = torch.nn.Parameter(numbers.reshape(size, size).float() / 16)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ self.weight) + time[:, None] / 8


class Flat(torch.nn.Module):
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

    def features(self, y):
        return y[:, None].float().expand(-1, 6)


def half_seen() -> Observation:
    mask = torch.tensor([[1.0, 1, 0, 1, 0, 0]])
    y = mask * torch.tensor([[0.5, -0.2, 0, 0.7, 0, 0], [-0.4, 0.1, 0, 0.9, 0, 0]])
    return Observation(y, Gaussian(Mask(mask), 0.1))


# ------------------------------------------------------------------ the tests


VERSIONS = ("v0.1.0", "v0.1.1")
FOUND = {v: Old(v) for v in VERSIONS}
V0, V1 = (FOUND[v] for v in VERSIONS)


def every(start: str) -> list[tuple[str, str]]:
    """(version, rest of the name) of all expected arrays whose name begins so."""
    return [(v, k.removeprefix(start)) for v in VERSIONS for k in FOUND[v].arrays if k.startswith(start)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """place(version): a copy of its folder, where commands then run."""

    def copy(version: str) -> Path:
        shutil.copytree(FOUND[version].folder, tmp_path / version)
        monkeypatch.chdir(tmp_path / version)
        return tmp_path / version

    return copy


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_before(version: str, here: Path, *but: str) -> None:
    """No old file was changed or taken away."""
    for name, value in FOUND[version].files.items():
        assert name.startswith(but) or sha(here / name) == value, name


def state_of(folder: Path) -> dict:
    return torch.load(folder / "state.pt", weights_only=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_files_are_those_that_were_written(version):
    old = FOUND[version]
    there = {p.relative_to(old.folder).as_posix() for p in old.folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert there == {*old.files, "make.py", "expected.json"}
    as_before(version, old.folder)


# ------------------------------------------------------------------ priors, measurements, every kind of h


@pytest.mark.parametrize("version", VERSIONS)
def test_priors(version):
    """By fingerprint, which is what an h is tied to, and by samples; the bundled ones, too."""
    old = FOUND[version]
    places = {"prior-train": "prior-train", "protein": "protein/prior.safetensors"}
    for kind, _, name in (k.partition("/") for k in old.values):
        if kind == "bundled":
            assert is_prior(load_prior(name), old.values[f"bundled/{name}"]), name
        elif kind == "prior":
            prior = load_prior(str(old.folder / places.get(name, f"priors/{name}.safetensors")))
            assert prior.fingerprint() == old.values[f"prior/{name}"], name
            if name != "protein":
                old.check(f"sample/{name}", drawn(prior))


@pytest.mark.parametrize(("version", "name"), every("task/"))
def test_measurements_and_an_h_of_every_task(version, name):
    old = FOUND[version]
    where = old.folder / "measured" / f"{name}.npz"
    found = task_of(where)
    assert found is not None and found.name == name.partition(".")[0]
    prior, obs = old.of_task(name)
    truth = torch.from_numpy(np.load(where)["truth"])
    old.check(f"measured/{name}/log_prob", obs.log_prob(truth + 0.01).numpy())
    old.check(f"measured/{name}/lift", told(obs.features().flatten(1)))
    assert obs.fingerprint() == old.values[f"measured/{name}"]
    h, of, card = load_h(old.folder / "tasks" / f"{name}.safetensors", prior, found)
    assert of == found and make_task(card["task"]) == found
    old.check(f"task/{name}", old.asked(h, prior, obs))


@pytest.mark.parametrize(("version", "name"), every("h/"))
def test_every_kind_of_h(version, name):
    old = FOUND[version]
    path = old.folder / "h" / f"{name}.safetensors"
    _, card = load_weights(path)
    if name.startswith("vector"):
        prior, obs = vectors(), half_seen()
    else:
        prior, obs = old.of_task(card["task"]["name"])
        prior = latent() if name == "latent" else prior
    h, _, _ = load_h(path, prior)
    old.check(f"h/{name}", old.asked(h, prior, obs))
    old.check(f"sample/h/{name}", drawn(prior, h, obs))
    kept = new_settings(card["h"])
    assert {k: v for k, v in h.config().items() if k in kept} == kept


def test_a_changed_weight_is_seen(tmp_path):
    """Numbers would tell: of a weight that is a hundredth larger, of a flag of the card, and of a prior's card."""
    tensors, card = load_weights(V0.folder / "h" / "vector-v.safetensors")
    name = next(k for k in tensors if "outlet.weight" in k)
    save_weights(tmp_path / "weight.safetensors", tensors | {name: 1.01 * tensors[name]}, card)
    save_weights(tmp_path / "flag.safetensors", tensors, card | {"h": card["h"] | {"guide": "score"}})
    for path in tmp_path.glob("*.safetensors"):
        h, _, _ = load_h(path, vectors())
        with pytest.raises(AssertionError):
            V0.check("h/vector-v", V0.asked(h, vectors(), half_seen()))
    tensors, card = load_weights(V0.folder / "priors" / "flow.safetensors")
    save_weights(tmp_path / "prior.safetensors", tensors, card | {"output": "v"})
    assert load_prior(str(tmp_path / "prior.safetensors")).fingerprint() != V0.values["prior/flow"]


# ------------------------------------------------------------------ what commands left

PRIORS = {version: ("--prior", f"priors/{name}.safetensors") for version, name in USUAL.items()}
PRIOR = PRIORS["v0.1.0"]
DEVICE = ("--device", "cpu")
RUNS = {("v0.1.0", "lora"): "sr4", ("v0.1.0", "vargrad"): "inpaint"}
RUNS |= {("v0.1.1", "lora"): "sr4", ("v0.1.1", "vargrad"): "mri-coils"}


def ran(capsys, *arguments: object) -> str:
    """What a command says that must go well."""
    code, said, err = run(capsys, *arguments)
    assert code == 0, err
    return said


@pytest.mark.parametrize(("version", "name"), RUNS)
def test_run_folders(place, capsys, version, name):
    """A run is loaded, shown and drawn from; and a fit to one measurement knows it again."""
    here, old, task = place(version), FOUND[version], RUNS[version, name]
    prior, obs = old.of_task(task)
    old.check(f"run/{name}", old.asked(load_h(here / "runs" / name, prior)[0], prior, obs))
    assert task in ran(capsys, "info", f"runs/{name}")
    seen = ("--measurement", f"measured/{task}.npz", "--row", 1)
    said = ran(
        capsys, "sample", f"runs/{name}", *PRIORS[version], *seen, "-n", 2, "--steps", 3, "--out", "new", *DEVICE
    )
    assert "this is another" not in said and (here / "new" / "samples.npz").exists()
    as_before(version, here)


def test_a_reward_run(place, capsys):
    place("v0.1.0")
    prior = load_prior(PRIOR[1])
    h, task, _ = load_h("runs/reward", prior)
    tilt = make_tilt("taste.py:brightness", task.beta, None)
    V0.check("run/reward", V0.asked(h, prior, tilt.check(SHAPE).repeat(2)))
    line = ("sample", "runs/reward", *PRIOR, "-n", 2, "--steps", 3, "--out", "new", *DEVICE)
    ran(capsys, *line, "--reward", "taste.py:brightness")
    assert "--reward" in refused(capsys, *line, "--measurement", "measured/inpaint.npz", "--overwrite")


@pytest.mark.parametrize("version", VERSIONS)
def test_hub(place, capsys, version):
    here, old = place(version), FOUND[version]
    prior, obs = old.of_task("sr4")
    h, task, card = from_pretrained(here / "hub", prior)
    old.check("hub", old.asked(h, prior, obs))
    assert task.name == "sr4" and card["licence"] == "mit" and card["metrics"]
    report = ("--report", "evaluated/report.json", "--license", "mit")
    ran(capsys, "hub", "export", "runs/lora", *PRIORS[version], "--out", "new", *report)
    assert json.loads((here / "new" / "card.json").read_text())["metrics"] == card["metrics"]
    as_before(version, here)


@pytest.mark.parametrize("version", VERSIONS)
def test_samples_are_data(place, capsys, version):
    """What `deft sample` drew can be measured again."""
    place(version)
    drawn = np.load("sampled/samples.npz")["samples"]
    x = read_images("sampled/samples.npz:samples", ReadOptions(SHAPE, range=(-4.0, 4.0))).x
    np.testing.assert_allclose(4 * x.numpy(), drawn, atol=1e-5)
    line = ("measure", "--task", "sr4", "--data", "sampled/samples.npz:samples", "--range=-4,4", "--out", "new.npz")
    ran(capsys, *line)
    assert json.loads(Path("sampled/sample.json").read_text())["samples"] == len(drawn)


def check_fits(old: Old, here: Path) -> None:
    prior, obs = old.of_task("sr4")
    for name in (k.removeprefix("compare/") for k in old.arrays if k.startswith("compare/")):
        h, _, _ = load_h(here / "compare" / "fit" / f"{name}.safetensors", prior)
        old.check(f"compare/{name}", old.asked(h, prior, obs))


CHANGES = (
    ("'bank'.* cache", "bank = 32", "cache = 32\nprior_samples = 0"),
    ("psnr_mean.* energy_score_pixels", "psnr_mean", "energy_score_pixels"),
    ("tune.samples .* at least 2", "samples = 1", "samples = 2"),
)
"""What is said of the TOML of 0.1.0, what it is said of, and what to write instead."""


def test_a_comparison_of_0_1_0(place, capsys):
    """Its fits load; its file is told what to change, and then goes on in the same folder: what is there stays."""
    here = place("v0.1.0")
    check_fits(V0, here)
    text = (here / "study.toml").read_text().replace("[tune]\n", "[tune]\nsamples = 1\n")
    for words, was, now in CHANGES:
        (here / "study.toml").write_text(text)
        said = refused(capsys, "compare", "study.toml", "--out", "compare")
        if not re.search(words, said):  # in which order they are said is no promise
            assert any(re.search(w, said) for w, _, _ in CHANGES), said
        text = text.replace(was, now)
    (here / "study.toml").write_text(text)
    ran(capsys, "compare", "study.toml", "--out", "compare")
    as_before("v0.1.0", here, "study.toml", "compare/report")


def test_a_comparison_is_not_done_again(place, capsys):
    """The pieces of v0.1.1 are those of today: nothing is fitted or drawn, and the report says the same."""
    here = place("v0.1.1")
    check_fits(V1, here)
    was = json.loads((here / "compare" / "report.json").read_text())
    ran(capsys, "compare", "study.toml", "--out", "compare")
    pieces = {
        p.relative_to(here).as_posix() for p in (here / "compare").rglob("*") if p.is_file() and p.suffix != ".png"
    }
    assert pieces == {k for k in V1.files if k.startswith("compare/")}
    now = json.loads((here / "compare" / "report.json").read_text())
    assert (now["rows"], now["tuned"]) == (was["rows"], was["tuned"]) and not now["failed"]
    as_before("v0.1.1", here, "compare/report")


# ------------------------------------------------------------------ what goes on from a state

LASTING = ("--batch", 4, "--lr", 0.01, "--warmup", 1, "--ema", 0.9, *DEVICE)
FIT = ("fit", "--data", "pictures.npz", *LASTING)
OLD_WAY = ("--prior-samples", 0, "--cache", 0, "--patience", 0)
"""What 0.1.0 did by default."""
LORA = (*FIT, "--task", "sr4", "--method", "lora", "--size", 0.8)
STOPPED = {
    ("v0.1.0", "inpaint"): (*FIT, *PRIOR, *OLD_WAY, "--task", "inpaint", "--start-from", "h/deft-v.safetensors"),
    ("v0.1.0", "lora"): (*LORA, *PRIOR, *OLD_WAY),
    ("v0.1.1", "lora"): (
        *LORA,
        *PRIORS["v0.1.1"],
        "--prior-samples",
        20,
        "--cache",
        32,
        "--samples-folder",
        "runs/lora/prior-samples",
    ),
}


@pytest.mark.parametrize(("version", "name"), STOPPED)
def test_a_stopped_fit_goes_on(place, capsys, version, name):
    """To the weights that a fit which was not stopped came to."""
    here, old = place(version), FOUND[version]
    was = state_of(here / "stopped" / name)
    said = ran(capsys, *STOPPED[version, name], "--steps", 10, "--resume", "--out", f"stopped/{name}")
    state = state_of(here / "stopped" / name)
    assert (was["step"], state["step"]) == (5, 10) and "wrote" in said
    old.check_weights(f"resumed/{name}", weights(state["raw"], was["raw"]))
    as_before(version, here, "stopped")


TRAIN = ("prior", "train", "--data", "pictures.npz", "--widths", "4", "--evaluations", 1, *LASTING[:6], *DEVICE)


def test_a_stopped_training_goes_on(place, capsys, monkeypatch):
    here = place("v0.1.0")
    monkeypatch.setattr(UNet.__init__, "__defaults__", (*UNet.__init__.__defaults__[:-2], 8, 2))  # time_dim of make.py
    ran(capsys, *TRAIN, "--steps", 10, "--resume", "--out", "prior-train-stopped")
    state = state_of(here / "prior-train-stopped")
    assert state["step"] == 10
    V0.check_weights("prior-train", weights(state["raw"]))
    V0.check("sample/prior-train", drawn(load_prior("prior-train-stopped")))


def test_what_is_refused(place, capsys):
    """An old state under the defaults of today, and with other settings than it was made with: each is named."""
    here = place("v0.1.0")
    said = refused(capsys, *LORA, *PRIOR, "--steps", 10, "--resume", "--out", "stopped/lora")
    assert "{'patience': 0}" in said and "give what it was made with" in said
    said = refused(capsys, *LORA, *PRIOR, *OLD_WAY, "--steps", 10, "--resume", "--seed", 1, "--out", "stopped/lora")
    assert "{'seed': 0}" in said and "another --out" in said
    said = refused(capsys, *LORA, *PRIOR, "--size", 1.5, *OLD_WAY, "--steps", 10, "--resume", "--out", "stopped/lora")
    assert "another network" in said and "another --out" in said
    said = refused(
        capsys, "sample", "runs/lora", "--measurement", "measured/sr4.npz", "--prior", "prior-train", "--out", "new"
    )
    assert "--prior" in said and "vp-cosine" in said
    as_before("v0.1.0", here)


def new(seed: int) -> DEFT:
    torch.manual_seed(seed)
    return DEFT((6,), 2, 4)


def balance():
    return Control(new(0)), TrajectoryBalance(vectors(), 4, sampler=Ancestral()), Measured(half_seen()[:1])


def parts():
    control = Control(new(1), replay=Replay(8, (6,)), value=Value((6,), width=4))
    return control, SubTrajectoryBalance(vectors(), 4, length=2, sampler=Ancestral()), Measured(half_seen()[:1])


def paths():
    return new(2), LogVariance(vectors(), 8, subset=2, sampler=Ancestral()), Measured(half_seen()[:1])


def classifier():
    torch.manual_seed(3)
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
    module = ClassifierGuidance(build_classifier((6,), 2, 4))
    return module, NoisyClassifierObjective(vectors().schedule), Pairs(x, Observation((x[:, 0] > 0).long(), Sides()))


CONFIG = FitConfig(steps=8, batch=4, lr=0.01, warmup=1, ema=0.9, evaluations=1, held_out_batches=1)
MADE = [("v0.1.0", balance), ("v0.1.0", parts), ("v0.1.0", classifier), ("v0.1.1", paths)]


@pytest.mark.parametrize(("version", "make"), MADE)
def test_states_of_further_fits_go_on(place, version, make):
    """Of log Z, of a replay and a value, of a classifier of noisy samples; of one that keeps its best weights."""
    folder = place(version) / "states" / make.__name__
    module, objective, batches = make()
    was = state_of(folder)
    held_out, config = (batches, replace(CONFIG, evaluations=4)) if make is paths else (None, CONFIG)
    found = fit(
        module, objective, batches, held_out, config=config, folder=folder, resume=True, device="cpu", progress=False
    )
    assert (was["step"], found.steps) == (4, 8)
    FOUND[version].check_weights(f"state/{make.__name__}", weights(state_of(folder)["raw"], was["raw"]))


@pytest.mark.parametrize("version", VERSIONS)
def test_importance(place, version):
    folder = place(version) / "states" / "importance"
    was = torch.load(folder / "round.pt", weights_only=True)
    h, config = new(5), replace(CONFIG, evaluations=1 if version == "v0.1.0" else 4)
    options = {"rounds": 2, "paths": 2, "steps": 4, "config": config, "device": torch.device("cpu")}
    rows = importance_fit(h, vectors(), half_seen(), folder=folder, resume=True, **options)
    assert rows == was["rows"] == FOUND[version].values["importance"]
    FOUND[version].check_weights("state/importance", weights(h.state_dict(), was["h"]))


# ------------------------------------------------------------------ proteins, and feature networks


def test_proteins(place):
    place("v0.1.0")
    prior = load_prior("protein/prior.safetensors")
    chain = read_structure("protein/native.pdb").x
    motifs = [torch.from_numpy(chain[a:b]) for a, b in ((9, 21), (30, 36))]
    obs = given_motif(motifs, [range(5, 17), range(24, 30)], 40)
    for name in ("chain-deft", "chain-amortised"):
        h, _, _ = load_scaffolder(f"protein/{name}.safetensors", prior)
        V0.check(f"protein/{name}", V0.asked(h, prior.of_length(40), obs, V0.states((40, 3))))
    found = read_problem("protein/problem.pdb")
    assert [found.name, str(found.contig), list(found.contig.lengths), len(found.motif)] == V0.values["problem"]
    for text, said in V0.values["contigs"].items():
        c = Contig.parse(text)
        p = c.draw(0, max_length=128)
        read = [str(c), [str(r) for r in c.residues], c.groups.tolist(), list(c.reach), p.length, p.positions.tolist()]
        assert read == said


def test_scaffolds(place, capsys):
    here = place("v0.1.0")
    for row in json.loads((here / "protein" / "scaffolds" / "scaffold.json").read_text())["scaffolds"]:
        assert len(read_structure(f"protein/scaffolds/{row['file']}").x) == row["length"]
    own = ("--prior", "protein/prior.safetensors", "--steps", 4, "--run", "protein/chain-deft.safetensors", *DEVICE)
    motif = ("--motif", "protein/native.pdb", "--contig", "5-9/A3-12/5-9")
    ran(capsys, "protein", "scaffold", *own, *motif, "-n", 1, "--out", "new")


ARMS = {
    "v0.1.0": ("--arm", "prior", "--arm", "replacement", "--run", "protein/chain-deft.safetensors"),
    "v0.1.1": ("--arm", "prior", "--arm", "pigdm"),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_benchmark_draws_nothing_again(place, capsys, version):
    here = place(version)
    own = ("--prior", "protein/prior.safetensors", "--steps", 4, "--set", "validation", "--count", 2, "-n", 1)
    ran(capsys, "protein", "benchmark", *own, "--natives", 2, *ARMS[version], *DEVICE, "--out", "protein/bench")
    chains = sorted(p.relative_to(here).as_posix() for p in (here / "protein" / "bench" / "chains").iterdir())
    assert chains == sorted(k for k in FOUND[version].files if k.startswith("protein/bench/chains"))
    as_before(version, here, "protein/bench/report")


def test_feature_networks():
    x = torch.from_numpy(V0.arrays["features/states"])
    encoder = load_encoder(V0.folder / "encoder.safetensors").eval()
    V0.check("features/encoder", encoder.features(x).detach().numpy())
    for name, scale in (("fashion-classifier", 4), ("ct-contrastive", 8)):
        large = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        V0.check(f"features/{name}", load_features(name).features(large).detach().numpy())
