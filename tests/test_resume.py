"""--resume goes on with the same fit alone: whatever says what is trained on what is compared, and a difference is one
line that names it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import deft.cli.fit
from deft.bench import jobs as work
from deft.bench.jobs import draw_job, fit_job
from deft.bench.studies import make_study
from deft.cli import main
from deft.io.files import load_weights
from deft.io.identity import other_identity
from deft.methods import plan
from deft.train.prior_samples import draw_prior_samples
from toys import pictures, refused, run, save_pictures, toy_prior


@pytest.fixture(scope="module", autouse=True)
def rough_calibration():
    """Fits to paths are calibrated on 8 prior samples of 2 steps, not 128 of 25: how well is not what is asked here,
    and every refusal would wait for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            deft.cli.fit, "draw_prior_samples", lambda prior, n, **rest: draw_prior_samples(prior, 8, steps=2, **rest)
        )
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Two priors, two sets of pictures, pairs and measurements, and one finished run of every kind of fit."""
    here = tmp_path_factory.mktemp("resume")
    toy_prior(here / "prior.safetensors")
    toy_prior(here / "other.safetensors", seed=1)
    x = pictures(24)
    save_pictures(here / "photos", x)
    save_pictures(here / "fewer", x[:20])
    save_pictures(here / "others", x[::-1])
    for name, task in (("sr", "sr4"), ("denoise", "denoise")):
        assert (
            main(["measure", "--task", task, "--data", str(here / "photos"), "--out", str(here / f"{name}.npz")]) == 0
        )
    z = np.load(here / "sr.npz")
    np.savez(here / "other-sr.npz", y=z["y"][::-1])
    np.savez(here / "pairs.npz", x=z["truth"], y=z["y"])
    np.savez(here / "other-pairs.npz", x=z["truth"][::-1].copy(), y=z["y"][::-1].copy())
    for kind, line in lines(here).items():
        assert main([*map(str, line), "--out", str(here / kind)]) == 0, kind
    return here


def lines(here):
    fit = [
        "fit",
        "--prior",
        here / "prior.safetensors",
        "--width",
        8,
        "--batch",
        4,
        "--warmup",
        1,
        "--device",
        "cpu",
        "--steps",
        4,
    ]
    drawn = ["--prior-samples", 0, "--cache", 0]
    return {
        "images": [*fit, "--task", "inpaint", "--data", here / "photos", *drawn],
        "no-images": [*fit, "--task", "inpaint", "--prior-samples", 130, "--cache", 8],
        "pairs": [*fit, "--task", "sr4", "--pairs", here / "pairs.npz"],
        "paths": [*fit, "--task", "sr4", "--objective", "vargrad", "--chain", 4, "--measurement", here / "sr.npz"],
        "importance": [
            *fit,
            "--task",
            "sr4",
            "--objective",
            "importance",
            "--chain",
            4,
            "--paths",
            2,
            "--rounds",
            1,
            "--measurement",
            here / "sr.npz",
        ],
        "prior": [
            "prior",
            "train",
            "--data",
            here / "photos",
            "--widths",
            "8,8",
            "--batch",
            4,
            "--steps",
            4,
            "--warmup",
            1,
            "--evaluations",
            1,
            "--device",
            "cpu",
        ],
    }


OF_H = [
    (["--prior", "other.safetensors"], "prior"),
    (["--sigma-y", 0.3], "sigma_y"),
    (["--units", "eps"], "units"),
    (["--no-gate"], "gate"),
    (["--guide", "score"], "guide"),
    (["--width", 12], "width"),
    (["--lr", 0.1], "lr"),
    (["--batch", 8], "batch"),
    (["--seed", 1], "seed|images|samples"),
]
CHANGES = {
    "images": [
        *OF_H,
        (["--task", "inpaint-random"], "inpaint"),
        (["--task", "sr4"], "sr4"),
        (["--task-option", "largest=0.4"], "largest"),
        (["--task", "ct", "--task-option", "rotation=clockwise"], "ct"),
        (["--data", "fewer"], "images"),
        (["--data", "others"], "images"),
        (["--held-out", "others"], "held-out"),
        (["--focus", 1], "focus"),
        (["--weighting", "eps"], "weighting"),
        (["--cache", 8], "cache"),
        (["--prior-samples", 9], "prior_samples"),
    ],
    "no-images": [
        *OF_H,
        (["--task", "sr4"], "sr4"),
        (["--cache", 16], "cache"),
        (["--prior-samples", 9], "prior_samples"),
        (["--data", "photos"], "images"),
    ],
    "pairs": [*OF_H[:1], *OF_H[2:], (["--pairs", "other-pairs.npz"], "samples")],
    "paths": [
        *OF_H[:1],
        *OF_H[2:],
        (["--objective", "kl"], "RelativeEntropy"),
        (["--chain", 5], "steps"),
        (["--measurement", "other-sr.npz"], "measurements"),
        (["--row", 1], "measurements"),
        (["--subset", 2], "subset"),
        (["--warm", 2], "warm"),
        (["--drawn-by", "pigdm"], "drawn by"),
        (["--task", "denoise", "--measurement", "denoise.npz"], "measurements"),
    ],
    "importance": [
        *OF_H[:1],
        *OF_H[2:],
        (["--paths", 3], "paths"),
        (["--measurement", "other-sr.npz"], "measurements"),
        (["--chain", 5], "steps"),
        (["--focus", 1], "focus"),
    ],
    "prior": [
        (["--output", "eps"], "output"),
        (["--schedule", "flow"], "schedule"),
        (["--widths", "8,12"], "widths|shape|parameters"),
        (["--data", "others"], "samples"),
        (["--data", "fewer"], "samples"),
        (["--held-out", "others"], "held-out"),
        (["--flip"], "flips"),
        (["--blocks", 2], "parameters"),
        (["--lr", 0.1], "lr"),
        (["--seed", 3], "seed|samples"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [(k, c, s) for k, found in CHANGES.items() for c, s in found],
    ids=lambda v: v if isinstance(v, str) else " ".join(map(str, v)),
)
def test_another_fit_is_not_resumed(shop, capsys, kind, change, says):
    """The refusal names what differs, and every file is as it was."""
    before = {p.name: p.read_bytes() for p in (shop / kind).iterdir() if p.is_file()}
    change = [
        shop / v if isinstance(v, str) and (shop / v).exists() and v not in ("prior", "pairs") else v for v in change
    ]
    line = refused(capsys, *lines(shop)[kind], "--out", shop / kind, "--resume", *change)
    assert any(word in line for word in says.split("|")), line
    assert "resume" in line
    assert {p.name: p.read_bytes() for p in (shop / kind).iterdir() if p.is_file()} == before


def copied(shop, kind, to):
    """A finished run of its own, for a test that changes it."""
    return shutil.copytree(shop / kind, to)


@pytest.mark.parametrize("kind", [k for k in CHANGES if k != "importance"])
def test_a_finished_fit_goes_on_for_longer(shop, tmp_path, capsys, kind):
    """--resume with more steps takes them, and evaluates them; with the same settings it changes nothing."""
    line = [*lines(shop)[kind], "--out", copied(shop, kind, tmp_path / kind)]
    name = "prior.safetensors" if kind == "prior" else "h.safetensors"
    first, card = load_weights(tmp_path / kind / name)
    assert run(capsys, *line, "--resume")[0] == 0
    again, _ = load_weights(tmp_path / kind / name)
    assert card["steps"] == 4 and all(torch.equal(v, again[k]) for k, v in first.items())
    assert run(capsys, *line, "--resume", "--steps", 12)[0] == 0
    state = torch.load(tmp_path / kind / "state.pt", weights_only=True)
    assert 4 < state["step"] <= 12 and state["history"][-1]["step"] == state["step"]  # patience may end it before
    assert load_weights(tmp_path / kind / name)[1]["steps"] == state["step"]


def test_a_state_of_an_earlier_version_is_resumed(shop, tmp_path, capsys):
    """It says nothing of what was trained; another network is one line all the same."""
    line = [*lines(shop)["images"], "--out", copied(shop, "images", tmp_path / "run")]
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    state.pop("identity")
    torch.save(state, tmp_path / "run" / "state.pt")
    assert "another network" in refused(capsys, *line, "--resume", "--width", 12)
    assert run(capsys, *line, "--resume", "--steps", 6)[0] == 0


def test_a_fit_stopped_while_samples_are_drawn_is_resumed(shop, tmp_path, capsys):
    """There is no state yet, but the sizes and some samples: they are kept."""
    line = [*lines(shop)["no-images"], "--out", copied(shop, "no-images", tmp_path / "run")]
    (tmp_path / "run" / "state.pt").unlink()
    assert run(capsys, *line, "--resume")[0] == 0
    assert (tmp_path / "run" / "state.pt").exists()


def test_a_setting_that_is_usually_left_out_is_compared(shop, tmp_path, capsys):
    """Tasks leave settings at their usual value out of their config: absent on one side is a difference."""
    line = [*lines(shop)["images"], "--out", tmp_path / "run", "--task", "sr4"]
    assert run(capsys, *line)[0] == 0
    assert "task.pixel" in refused(capsys, *line, "--resume", "--steps", 6, "--task-option", "pixel=first")
    line = [*lines(shop)["images"], "--out", tmp_path / "ct", "--task", "ct", "--task-option", "rotation=clockwise"]
    assert run(capsys, *line)[0] == 0
    assert "task.rotation" in refused(
        capsys, *lines(shop)["images"], "--out", tmp_path / "ct", "--task", "ct", "--resume"
    )


def test_identities_compare_what_both_know():
    a = {"module": {"class": "DEFT", "width": 8, "parameters": {"w": "8x8"}}, "data": {"images": "3, ab"}}
    assert not other_identity(a, a) and not other_identity({}, a) and not other_identity(a, {"module": a["module"]})
    wider = {**a, "module": {"class": "DEFT", "width": 9, "parameters": {"w": "9x9"}}}
    assert other_identity(a, wider) == "module.width: was 8, now 9"
    assert "w: was '8x8', now '9x9'" in other_identity(a, {"module": {**a["module"], "parameters": {"w": "9x9"}}})
    assert other_identity(a, {**a, "module": {"class": "Other", "parameters": {}}}) == "module: was 'DEFT', now 'Other'"


def test_pieces_of_a_comparison_know_their_priors_and_files(shop, tmp_path):
    """A prior's file, an h to start from: another of the same name gives another piece."""
    prior, start = tmp_path / "prior.safetensors", tmp_path / "h.safetensors"
    toy_prior(prior)
    start.write_bytes((shop / "images" / "h.safetensors").read_bytes())

    def keys():
        study = make_study(
            {
                "on": [
                    {"prior": str(prior), "data": str(shop / "photos"), "tasks": ["inpaint"], "arms": ["deft", "pigdm"]}
                ],
                "arms": {"deft": {"fit": {"start_from": str(start)}}},
                "images": 2,
            }
        )
        on, task = study.on[0], {"name": "inpaint"}
        drawn = draw_job(
            on, task, study.entries["pigdm"], plan("pigdm"), None, split="test", images=2, samples=2, seed=0, batch=4
        )
        return drawn.key, fit_job(on, task, study.entries["deft"], 0).key

    first = keys()
    assert keys() == first
    start.write_bytes((shop / "no-images" / "h.safetensors").read_bytes())
    assert [a == b for a, b in zip(keys(), first, strict=True)] == [True, False]
    toy_prior(prior, seed=1)
    work._prior_on.cache_clear()  # as in another process
    assert [a == b for a, b in zip(keys(), first, strict=True)] == [False, False]
