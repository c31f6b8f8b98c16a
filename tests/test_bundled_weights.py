"""What the bundled weights weigh, weights stored in bytes, rounded priors, and the colour prior `satellite`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import deft
from deft.cli import main
from deft.cli.prior import named
from deft.denoiser.identity import is_prior
from deft.domains.image.tasks import get_task
from deft.domains.image.writing import picture_of
from deft.errors import CheckpointError, InputError
from deft.io.files import from_bytes, load_weights, save_weights
from deft.io.h_files import bundled_h, load_h, read_h
from deft.io.measurements import save_measurement
from deft.io.prior_files import BUNDLED
from deft.kinds.domain import domains, find_domain

STATISTICS = Path(__file__).parents[1] / "benchmarks" / "results" / "satellite" / "log.json"


@pytest.fixture(scope="module")
def satellite():
    return deft.load_prior("satellite")


def test_what_is_bundled_stays_below_40_megabytes():
    homes = [Path(find_domain(name).bundled_priors()[prior]).parent for name, prior in SOME_PRIOR.items()]
    files = [f for home in homes for part in (home, home.parent / "data") for f in part.glob("*") if f.is_file()]
    assert {"satellite.safetensors", "ct.npz", "backbone.safetensors", "chains.npz"} <= {f.name for f in files}
    assert sum(f.stat().st_size for f in files if f.suffix != ".pyc") < 40e6


SOME_PRIOR = {"image": "fashion", "protein": "backbone", "series": "air", "sound": "digits"}


def test_all_kinds_are_weighed():
    assert {d.name for d in domains().values() if d.bundled_priors()} == set(SOME_PRIOR)


@pytest.mark.parametrize("name", ["fashion", "ct", "satellite"])
def test_a_bundled_prior_is_what_its_card_says(name, tmp_path):
    """Loaded from another place it is compared with its card's fingerprint; beside it lies its card as a page."""
    shutil.copy(BUNDLED[name], tmp_path / "prior.safetensors")
    prior = deft.load_prior(str(tmp_path))
    page = BUNDLED[name].with_suffix(".md").read_text()
    assert prior.card["name"] == name and prior.card["licence"] in page and prior.fingerprint() in page
    assert (BUNDLED[name].with_name(f"{name}-samples.png")).is_file()


# Weights in bytes.


def test_bytes_become_numbers_again():
    """Each byte times the scale of its row and group: compared entry by entry."""
    q = torch.randint(-127, 128, (3, 4, 1, 2), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([[0.5, 2.0], [1.0, 0.25], [3.0, 1.0]]).half()
    found = from_bytes(Path("f"), {"w": q, "w.scale": scale, "alone.scale": torch.ones(2)})
    assert set(found) == {"w", "alone.scale"} and found["w"].dtype == torch.float32
    for row in range(3):
        for i, v in enumerate(q[row].flatten().tolist()):
            assert float(found["w"][row].flatten()[i]) == v * float(scale[row, i // 4])


def test_numbers_that_have_a_scale_of_their_own_are_left_alone():
    kept = {"norm": torch.ones(2), "norm.scale": torch.ones(2, 1)}
    assert set(from_bytes(Path("f"), kept)) == {"norm", "norm.scale"}


@pytest.mark.parametrize("scale", [torch.ones(2, 3), torch.ones(3, 2), torch.ones(2), torch.ones(2, 0)])
def test_scales_that_do_not_fit_are_refused(scale, tmp_path):
    save_weights(tmp_path / "w.safetensors", {"w": torch.ones(2, 4, dtype=torch.int8), "w.scale": scale}, {"kind": "x"})
    with pytest.raises(CheckpointError, match="its scales"):
        load_weights(tmp_path / "w.safetensors")


# Rounded priors.


def test_an_h_of_the_prior_before_it_was_rounded_belongs_to_it(tmp_path):
    prior = deft.load_prior("ct")
    _, card = read_h(bundled_h("ct"))
    assert card["prior_sha256"] != prior.fingerprint() and card["prior_sha256"] in prior.card["stands_for"]
    h, task, _ = load_h(bundled_h("ct"), prior)
    obs = task.observe(torch.zeros(1, 1, 64, 64), deft.Noise(0, 1))
    assert deft.sample_posterior(prior, h, obs, steps=2).x.isfinite().all()
    with pytest.raises(CheckpointError, match="fitted to the prior"):
        load_h(bundled_h("ct"), deft.load_prior("fashion"))


def test_a_card_speaks_for_the_weights_that_it_came_with_alone():
    prior = deft.load_prior("ct")
    (before,) = prior.card["stands_for"]
    assert is_prior(prior, before) and is_prior(prior, prior.fingerprint()) and not is_prior(prior, "0" * 64)
    with torch.no_grad():
        next(prior.parameters()).mul_(1.001)
    assert not is_prior(prior, before)


def test_it_is_known_behind_a_service_too():
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    from deft.remote.server import make_app

    prior = deft.load_prior("ct")
    with TestClient(make_app(prior), base_url="http://127.0.0.1") as client:
        card = client.get("/v1/card").json()
    assert card["stands_for"] == prior.card["stands_for"] and card["fingerprint"] == prior.fingerprint()


def test_a_method_without_a_run_takes_the_h_of_the_library(tmp_path, monkeypatch, capsys):
    """The samples are those of that h in Python; a task that has none is refused, and another noise is said."""
    monkeypatch.chdir(tmp_path)
    task = deft.tasks.SuperResolution()
    obs = task.observe(deft.sample(deft.load_prior("fashion"), 1, steps=4), deft.Noise(0, 1))
    save_measurement(tmp_path / "y.npz", obs, task)
    line = ["sample", "--method", "deft", "--measurement", "y.npz", "-n", "2", "--steps", "4"]
    assert main([*line, "--out", "a"]) == 0 and "note" not in capsys.readouterr().out
    drawn = deft.load(bundled_h("sr4")).sample(obs, n=2, steps=4)
    assert np.array_equal(np.load("a/samples.npz")["samples"], drawn.x[0].numpy())
    assert json.loads(Path("a/sample.json").read_text())["run"] == "bundled"
    assert main([*line, "--sigma-y", "0.1", "--out", "b"]) == 0
    assert "note: the bundled h was fitted to SuperResolution(sigma_y=0.05" in capsys.readouterr().out
    assert main([*line, "--task", "jpeg", "--out", "c"]) == 2
    assert (
        "needs a fitted h, and none comes with the prior fashion for the task jpeg, but for" in capsys.readouterr().err
    )
    few = ["--data", "fashion:test", "--images", "2", "--samples", "2", "--steps", "2", "--device", "cpu"]
    assert main(["evaluate", "--task", "sr4", "--methods", "deft,prior", *few, "--out", "report"]) == 0
    capsys.readouterr()
    report = json.loads(Path("report/report.json").read_text())
    assert report["settings"]["run"] == "bundled" and {r["method"] for r in report["rows"]} == {"deft", "prior"}


def test_a_bundled_prior_comes_before_a_folder_of_its_name(tmp_path, monkeypatch, caplog):
    """What is loaded is what is recorded, and a line says that there is a folder, too."""
    monkeypatch.chdir(tmp_path)
    bundled = deft.load_prior("digits")
    assert bundled.loaded_as == "digits" and not caplog.records
    own = find_domain("sound").new_prior((1, 64), deft.VPCosine(), "v", widths=(4, 4))
    Path("digits").mkdir()
    own.save(Path("digits/prior.safetensors"))
    with caplog.at_level("INFO", "deft"):
        again = deft.load_prior("digits")
    assert again.loaded_as == "digits" and again.fingerprint() == bundled.fingerprint()
    assert "digits is the bundled prior; the folder of that name is ./digits" in caplog.text
    mine = deft.load_prior("./digits")
    assert mine.event_shape == (1, 64) and mine.loaded_as == str(tmp_path / "digits")
    assert named(Path("digits")) == "./digits" and named(Path("mine")) == "mine"


# The colour prior.


def test_the_colour_prior_draws_what_it_was_trained_on(satellite):
    """Means of channels of few samples in few steps, within four standard errors of those of 512 samples in 50."""
    assert satellite.card["licence"].startswith("MIT") and "Copernicus Sentinel" in satellite.card["licence"]
    assert satellite.event_shape == (3, 64, 64) and satellite.card["parameters"] == satellite.parameter_count()
    x = deft.sample(satellite, 12, steps=10)
    assert x.shape == (12, 3, 64, 64) and bool(x.isfinite().all()) and float(x.abs().max()) < 1.5
    each = x.clamp(-1, 1).mean((2, 3))
    told = torch.tensor(json.loads(STATISTICS.read_text())["statistics"]["samples"]["mean"])
    z = (each.mean(0) - told) / (each.std(0) / len(x) ** 0.5)
    assert float(z.abs().max()) < 4
    apart = each[:, 2] - each[:, 0]  # more blue than red, surely: colours are in order
    assert float(apart.mean() / (apart.std() / len(x) ** 0.5)) > 2


def run(capsys, *words):
    code = main([str(w) for w in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("task", ["sr4", "colourise"])
def test_a_task_in_colour_from_picture_to_samples(task, satellite, tmp_path, capsys):
    x = deft.sample(satellite, deft.Noise(3, [3]), steps=10).clamp(-1, 1)
    np.savez(tmp_path / "x.npz", x=x.numpy())
    measured, out = tmp_path / "y.npz", tmp_path / "out"
    given = ("--data", tmp_path / "x.npz", "--range=-1,1")
    assert run(capsys, "measure", "--task", task, *given, "--out", measured)[0] == 0
    line = ("sample", "--prior", "satellite", "--method", "ddrm", "--measurement", measured, "-n", 2, "--steps", 8)
    code, _, err = run(capsys, *line, "--out", out)
    assert code == 0, err
    drawn = torch.from_numpy(np.load(out / "samples.npz")["samples"]).reshape(2, 3, 64, 64)
    seen = get_task(task).observe(x, deft.Noise(0, 1))
    near, far = (float(seen.residual_rms(v)[0]) for v in (drawn[:1], drawn[:1].flip(2)))
    assert near < 0.07 < 0.1 < far  # the noise is 0.05; upside down it does not fit


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "--prior", "satellite", "--task", "sr4", "--out", "o"),
        ("measure", "--task", "sr4", "--out", "o.npz"),
        ("evaluate", "--prior", "satellite", "--task", "sr4", "--methods", "pigdm", "--out", "o"),
        ("prior", "train", "--out", "o"),
    ],
)
@pytest.mark.parametrize("source", ["satellite", "satellite:test"])
def test_pictures_that_are_not_bundled(words, source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *words, "--data", source)
    assert code != 0 and err.count("\n") == 1 and "no pictures come with the prior satellite" in err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_that_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "satellite").mkdir()
    find_domain("image").write(tmp_path / "satellite", "one", torch.rand(3, 64, 64))
    assert find_domain("image").read("satellite", (3, 64, 64)).x.shape == (1, 3, 64, 64)


def test_a_comparison_says_it_too(tmp_path, monkeypatch):
    from deft.bench.studies import read_study

    monkeypatch.chdir(tmp_path)
    text = '[[on]]\nprior = "satellite"\ndata = "satellite"\ntasks = ["sr4"]\narms = ["prior"]\n'
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(InputError, match="no pictures come with the prior satellite"):
        read_study(tmp_path / "s.toml")


def test_lost_colour_is_shown_grey():
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    shown = picture_of(get_task("colourise").observe(x, deft.Noise(0, 1)), (3, 8, 8))
    assert shown.shape == (1, 8, 8, 3) and (shown == shown[..., :1]).all() and shown.std() > 10


EVERY_H = sorted(
    {path for kind in domains().values() for p in kind.bundled_priors() for path in kind.bundled_h(p).values()}
)


@pytest.mark.parametrize("path", EVERY_H, ids=[path.stem for path in EVERY_H])
def test_every_bundled_h_belongs_to_a_bundled_prior(path):
    """A prior that is trained on has other weights: then its h are to be fitted again, or its card names the weights
    before."""
    _, card = read_h(path)
    assert is_prior(deft.load_prior(card["prior"]), card["prior_sha256"])
