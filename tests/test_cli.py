"""The command line: what each command writes and prints."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from deft.domains.image.tasks import TASKS
from deft.io.h_files import load_h
from deft.io.tasks import TASKS as EVERY_TASK
from deft.methods import METHODS, TUNED
from deft.prior import load_prior
from deft.samplers import SAMPLERS
from toys import pictures, refused, result, run, save_pictures, toy_prior


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    toy_prior(folder / "prior.safetensors")
    save_pictures(folder / "good", pictures(24))
    Image.fromarray(pictures(1)[0]).save(folder / "photo.png")
    Image.fromarray(pictures(1)[0]).resize((4, 4)).save(folder / "small.png")
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:10, 4:10] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(255 - mask).save(folder / "flipped.png")
    from deft.cli import main

    for task in ("inpaint", "sr4"):
        assert main([*map(str, fit_line(folder, folder / task, "--task", task))]) == 0
    return folder


def fit_line(shop, out, *more):
    return (
        "fit",
        "--prior",
        shop / "prior.safetensors",
        "--size",
        0.4,
        "--data",
        shop / "good",
        "--out",
        out,
        "--steps",
        4,
        "--batch",
        4,
        "--bank",
        0,
        *more,
    )


def sample_line(shop, out, *more):
    return (
        "sample",
        shop / "inpaint",
        "--measurement",
        shop / "photo.png",
        "--mask",
        shop / "mask.png",
        "-n",
        3,
        "--steps",
        3,
        "--out",
        out,
        *more,
    )


COMMANDS = ((), ("demo",), ("fit",), ("sample",), ("evaluate",), ("info",), ("list",), ("prior",), ("prior", "train"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help(capsys, command):
    code, out, err = run(capsys, *command, "--help")
    assert code == 0 and "Usage: deft" in out and not err
    if command and command != ("prior",):
        assert "--json" in out or ("--help-all" in out and "--json" in run(capsys, *command, "--help-all")[1])


def test_the_installed_command():
    done = subprocess.run([sys.executable, "-m", "deft.cli", "sampel"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "did you mean 'sample'" in done.stderr


def test_version(capsys):
    assert run(capsys, "--version")[1].startswith("deft, version ")


def test_list(capsys):
    found = result(capsys, "list")
    assert [t["name"] for t in found["tasks"]] == list(EVERY_TASK) and [m["name"] for m in found["methods"]] == list(
        METHODS
    )
    assert [s["name"] for s in found["samplers"]] == list(SAMPLERS) and found["priors"][0]["name"] == "fashion"
    code, out, _ = run(capsys, "list")
    assert code == 0 and all(name in out for name in [*EVERY_TASK, *METHODS, *SAMPLERS])


def test_fit_writes_a_run(shop):
    prior = load_prior(shop / "prior.safetensors")
    h, task, card = load_h(shop / "inpaint", prior)
    assert task == TASKS["inpaint"]() and not h.training
    assert card["steps"] == 4 and card["parameters"] <= 0.4 * sum(p.numel() for p in prior.parameters())
    log = json.loads((shop / "inpaint" / "log.json").read_text())
    assert len(log["levels"]) == 10 and {"prior", "h", "prior_hidden", "h_hidden"} <= set(log["levels"][0])
    assert "with h, hidden part" in (shop / "inpaint" / "card.md").read_text()


def test_fit_says_how_large_h_is(shop, tmp_path, capsys):
    code, out, _ = run(capsys, *fit_line(shop, tmp_path / "run"))
    assert code == 0 and "parameters" in out and "% of the prior's" in out
    found = result(capsys, *fit_line(shop, tmp_path / "run2"))
    assert found["card"]["share"] <= 0.4


def test_fit_takes_its_options(shop, tmp_path, capsys):
    more = (
        "--units",
        "eps",
        "--weighting",
        "eps",
        "--guide",
        "score",
        "--n2-start",
        0,
        "--sigma-y",
        0.2,
        "--hole",
        "0.3,0.6",
        "--bank",
        40,
    )
    card = result(capsys, *fit_line(shop, tmp_path / "run", *more))["card"]
    assert card["h"]["units"] == "eps" and card["h"]["guide"] == "score" and card["h"]["n2_start"] == 0
    assert card["task"] == {"name": "inpaint", "sigma_y": 0.2, "smallest": 0.3, "largest": 0.6}
    assert card["recipe"]["cache"] == 40 and card["recipe"]["weighting"] == "eps"


@pytest.mark.parametrize("task", ["inpaint", "sr4"])
def test_fit_and_evaluate_on_pairs(shop, tmp_path, capsys, task):
    x = pictures(12)
    arrays = {"x": x, "y": x[:, ::4, ::4].copy()}
    if task == "inpaint":
        mask = np.ones((12, 16, 16), np.float32)
        mask[:, 3:9, 3:9] = 0
        arrays = {"x": x, "y": (x * mask).astype(np.uint8), "mask": mask}
    np.savez(tmp_path / "pairs.npz", **arrays)
    line = (
        "fit",
        "--prior",
        shop / "prior.safetensors",
        "--size",
        0.4,
        "--task",
        task,
        "--pairs",
        tmp_path / "pairs.npz",
    )
    card = result(capsys, *line, "--steps", 2, "--batch", 4, "--out", tmp_path / "run")["card"]
    assert "11 images" in card["data"]
    report = result(
        capsys,
        "evaluate",
        tmp_path / "run",
        "--data",
        tmp_path / "pairs.npz",
        "--pairs",
        "--methods",
        "deft",
        "--steps",
        2,
        "--samples",
        1,
        "--out",
        tmp_path / "report",
    )
    assert all(r["n"] == 12 for r in report["rows"])


def test_sample_writes_what_it_says(shop, tmp_path, capsys):
    about = result(capsys, *sample_line(shop, tmp_path / "out"))
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [
        "mean.png",
        "sample-000.png",
        "sample-001.png",
        "sample-002.png",
        "sample.json",
        "samples.npz",
        "sheet.png",
        "spread.png",
    ]
    with np.load(tmp_path / "out" / "samples.npz") as data:
        assert data["samples"].shape == (3, 1, 16, 16) and data["mask"].sum() == 256 - 36
        assert np.allclose(data["mean"], data["samples"].mean(0), atol=1e-6)
        first = data["samples"][0]
    assert Image.open(tmp_path / "out" / "sample-000.png").size == (16, 16)
    assert about["calls"] == 3 and about["plan"]["method"] == "deft" and about["task"]["name"] == "inpaint"
    more = result(capsys, *sample_line(shop, tmp_path / "more", "--batch", 1, "-n", 5))
    with np.load(tmp_path / "more" / "samples.npz") as data:  # a sample depends on neither the batch nor the number
        assert np.allclose(data["samples"][0], first, atol=1e-5)
    assert more["samples"] == 5


def test_the_readmes_line(shop, tmp_path, capsys, monkeypatch):
    """deft sample RUN --measurement photo.png --mask mask.png -n 8, as it stands."""
    monkeypatch.chdir(tmp_path)
    line = ("sample", shop / "inpaint", "--measurement", shop / "photo.png", "--mask", shop / "mask.png", "-n", 8)
    assert run(capsys, *line)[0] == 0
    assert len(list((tmp_path / "samples").glob("sample-*.png"))) == 8
    code, _, err = run(capsys, *line)
    assert code == 2 and "--overwrite" in err


def test_white_hole(shop, tmp_path, capsys):
    result(capsys, *sample_line(shop, tmp_path / "a"))
    line = list(sample_line(shop, tmp_path / "b", "--mask-hole", "white"))
    line[line.index(shop / "mask.png")] = shop / "flipped.png"
    result(capsys, *line)
    with np.load(tmp_path / "a" / "samples.npz") as a, np.load(tmp_path / "b" / "samples.npz") as b:
        assert np.array_equal(a["samples"], b["samples"])


def test_sample_a_small_picture(shop, tmp_path, capsys):
    about = result(
        capsys,
        "sample",
        shop / "sr4",
        "--measurement",
        shop / "small.png",
        "-n",
        2,
        "--steps",
        2,
        "--out",
        tmp_path / "out",
    )
    assert about["task"]["name"] == "sr4"
    code, _, err = run(capsys, "sample", shop / "sr4", "--measurement", shop / "photo.png", "--out", tmp_path / "x")
    assert code == 2 and "expected 4x4 (the sr4 measurement's size)" in err


@pytest.mark.parametrize("method", [m for m in METHODS if not METHODS[m].trained])
def test_sample_without_a_run(shop, tmp_path, capsys, method):
    about = result(
        capsys,
        "sample",
        "--prior",
        shop / "prior.safetensors",
        "--method",
        method,
        "--measurement",
        shop / "photo.png",
        "--mask",
        shop / "mask.png",
        "-n",
        1,
        "--steps",
        2,
        "--out",
        tmp_path / "out",
        *(["--set", "iterations=8"] if method == "hmc" else []),
    )
    assert about["run"] is None and about["plan"]["method"] == method


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler(shop, tmp_path, capsys, sampler):
    about = result(capsys, *sample_line(shop, tmp_path / "out", "--sampler", sampler, "-n", 1))
    assert about["plan"]["sampler"] == sampler and about["calls"] == (5 if sampler == "heun" else 3)


def test_what_has_steps_of_its_own_takes_no_sampler(shop, tmp_path, capsys):
    ask = (
        "sample",
        "--prior",
        shop / "prior.safetensors",
        "--measurement",
        shop / "photo.png",
        "--mask",
        shop / "mask.png",
        "--method",
        "ddrm",
        "--out",
        tmp_path / "s",
    )
    assert "ddrm has steps of its own" in refused(capsys, *ask, "--sampler", "heun")
    assert "ddrm has steps of its own" in refused(capsys, *ask, "--eta", 0.5)


def test_particles_and_chains_refuse_a_sampler_without_weights(shop, tmp_path, capsys):
    ask = (
        "sample",
        "--prior",
        shop / "prior.safetensors",
        "--measurement",
        shop / "photo.png",
        "--mask",
        shop / "mask.png",
        "--out",
        tmp_path / "s",
    )
    for method in ("tds", "mcgdiff", "hmc"):
        message = refused(capsys, *ask, "--method", method, "--sampler", "sde-dpmpp-2m", "--steps", 2).strip()
        assert (
            "have weights only under a sampler with noise whose step is one Gaussian kernel" in message
            and "\n" not in message
        )


@pytest.mark.parametrize("command", [("prior", "train", "--data", "photos"), ("hub", "export", "run")])
def test_out_must_be_said(capsys, command):
    assert "--out" in refused(capsys, *command)


def test_every_fitted_h_keeps_to_its_own_settings_unless_told(shop, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(TUNED["sr4"], "lora", {"scale": 1.3})
    photos, y = shop / "good", tmp_path / "y.npz"
    made = ("--prior", shop / "prior.safetensors", "--task", "sr4", "--data", photos)
    assert run(capsys, "measure", *made[2:], "--images", 1, "--out", y)[0] == 0
    assert (
        run(
            capsys,
            "fit",
            *made,
            "--method",
            "lora",
            "--size",
            0.2,
            "--steps",
            2,
            "--batch",
            2,
            "--out",
            tmp_path / "lora",
        )[0]
        == 0
    )
    ask = ("sample", tmp_path / "lora", "--measurement", y, "-n", 1, "--steps", 2)
    for name, more, scale in (("plain", (), 1.0), ("tuned", ("--tuned",), 1.3)):
        assert result(capsys, *ask, *more, "--out", tmp_path / name)["plan"]["settings"]["scale"] == scale


def test_settings_and_scale(shop, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(TUNED["inpaint"], "deft", {"scale": 1.3})
    about = result(
        capsys,
        *sample_line(shop, tmp_path / "a", "--method", "dps", "--set", "zeta=0.7", "--eta", 0.5, "--spacing", "karras"),
    )
    assert about["plan"] | {"steps": 3} == {
        "method": "dps", "settings": {"zeta": 0.7}, "sampler": "ddim", "eta": 0.5, "steps": 3, "spacing": "karras",
    }  # fmt: skip
    for name, more, scale in (("plain", (), 1.0), ("tuned", ("--tuned",), 1.3)):
        assert result(capsys, *sample_line(shop, tmp_path / name, *more))["plan"]["settings"]["scale"] == scale
    result(capsys, *sample_line(shop, tmp_path / "b", "--scale", 0, "--sampler", "ddim", "--spacing", "angle"))
    result(capsys, *sample_line(shop, tmp_path / "c", "--method", "prior", "--spacing", "angle"))
    with np.load(tmp_path / "b" / "samples.npz") as b, np.load(tmp_path / "c" / "samples.npz") as c:
        assert np.allclose(b["samples"], c["samples"], atol=1e-6)


def test_evaluate(shop, tmp_path, capsys):
    report = result(
        capsys,
        "evaluate",
        shop / "inpaint",
        "--data",
        shop / "good",
        "--images",
        5,
        "--samples",
        2,
        "--steps",
        2,
        "--out",
        tmp_path / "out",
    )
    assert report == json.loads((tmp_path / "out" / "report.json").read_text()) | {"out": str(tmp_path / "out")}
    metrics = {r["metric"] for r in report["rows"]}
    assert {"psnr", "ssim", "residual", "psnr_hidden", "calls", "seconds"} <= metrics
    assert not {"feature_distance", "top1"} & metrics  # these are for clothes
    assert "# fill a hole" in (tmp_path / "out" / "report.md").read_text()
    assert Image.open(tmp_path / "out" / "samples.png").width > 500


def test_info(shop, capsys):
    found = result(capsys, "info", shop / "inpaint")
    assert found["card"]["kind"] == "h-transform" and found["parameters"] == found["card"]["parameters"]
    code, out, _ = run(capsys, "info", shop / "prior.safetensors")
    assert code == 0 and "prior" in out and "vp-cosine" in out
    assert run(capsys, "info", shop / "good")[0] == 2


def test_prior_train_then_use_it(shop, tmp_path, capsys):
    line = (
        "prior",
        "train",
        "--data",
        shop / "good",
        "--out",
        tmp_path / "mine",
        "--widths",
        "24,32",
        "--patch",
        4,
        "--steps",
        3,
        "--batch",
        4,
        "--lr",
        1.5e-3,
        "--warmup",
        1,
        "--ema",
        0.9,
        "--seconds",
        60,
        "--about-data",
        "checks",
        "--licence",
        "CC0",
    )
    card = result(capsys, *line)["card"]
    assert card["data"] == "checks" and card["licence"] == "CC0" and card["output"] == "v" and len(card["levels"]) == 10
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == [
        "card.md",
        "log.json",
        "prior.safetensors",
        "samples.png",
        "state.pt",
    ]
    prior = load_prior(tmp_path / "mine")
    assert prior.event_shape == (1, 16, 16) and not any(p.requires_grad for p in prior.parameters())
    fitted = result(
        capsys,
        "fit",
        "--prior",
        tmp_path / "mine",
        "--size",
        0.4,
        "--data",
        shop / "good",
        "--steps",
        2,
        "--batch",
        4,
        "--bank",
        0,
        "--out",
        tmp_path / "run",
    )
    assert fitted["card"]["prior"] == str((tmp_path / "mine").resolve())
    code, _, err = run(capsys, *line[:6], "--widths", "8,0", "--overwrite")
    assert code == 2 and "each a whole number from 2" in err


def test_a_run_finds_its_prior_or_says_that_it_is_gone(shop, tmp_path, capsys):
    prior = toy_prior(tmp_path / "p.safetensors")
    line = (
        "fit",
        "--prior",
        prior,
        "--size",
        0.4,
        "--data",
        shop / "good",
        "--steps",
        1,
        "--batch",
        2,
        "--bank",
        0,
        "--out",
        tmp_path / "run",
    )
    assert run(capsys, *line)[0] == 0
    prior.rename(tmp_path / "moved.safetensors")
    ask = (
        "sample",
        tmp_path / "run",
        "--measurement",
        shop / "photo.png",
        "--mask",
        shop / "mask.png",
        "-n",
        1,
        "--steps",
        1,
        "--out",
        tmp_path / "o",
    )
    code, _, err = run(capsys, *ask)
    assert code == 2 and "is not there any more" in err and "--prior" in err
    assert run(capsys, *ask, "--prior", tmp_path / "moved.safetensors")[0] == 0


def test_nothing_is_left_in_training_mode(shop):
    prior = load_prior(shop / "prior.safetensors")
    assert not prior.training and torch.is_grad_enabled()
