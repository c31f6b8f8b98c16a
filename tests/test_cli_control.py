"""deft fit --objective, and deft sample --refine."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deft.cli import main
from deft.io.arrays import read_arrays
from deft.io.files import load_weights
from deft.io.h_files import load_h
from deft.likelihood import Gaussian
from deft.prior import load_prior
from deft.recipe import fitted
from deft.train import control
from deft.train.objectives import OBJECTIVES
from toys import pictures, refused, result, run, save_pictures, toy_prior


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny prior, two measurements of the task sr4, and a fast fit's arguments."""
    here = tmp_path_factory.mktemp("control")
    prior = toy_prior(here / "prior.safetensors")
    save_pictures(here / "photos", pictures(2))
    assert main(["measure", "--task", "sr4", "--data", str(here / "photos"), "--out", str(here / "y.npz")]) == 0
    few = [
        "--prior",
        prior,
        "--task",
        "sr4",
        "--measurement",
        here / "y.npz",
        "--steps",
        2,
        "--batch",
        4,
        "--chain",
        4,
        "--width",
        8,
        "--warmup",
        1,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "LOOK", 2)
        patch.setattr(fitted, "CHAIN", 4)
        yield here, prior, few


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_fits_and_samples(place, tmp_path, capsys, objective):
    here, _, few = place
    made = result(capsys, "fit", "--objective", objective, *few, "--out", tmp_path / "run", "--json")
    assert {"cost", "variance", "log_z", "log_z_low", "log_z_high", "effective", "residual"} <= set(made["diagnosis"])
    _, card = load_weights(tmp_path / "run" / "h.safetensors")
    assert card["recipe"]["objective"] == objective and card["measurement"]["file"].endswith("y.npz")
    assert f"objective: {objective}" in (tmp_path / "run" / "card.md").read_text()
    code, _, err = run(
        capsys,
        "sample",
        tmp_path / "run",
        "--measurement",
        here / "y.npz",
        "--prior",
        place[1],
        "-n",
        2,
        "--steps",
        3,
        "--out",
        tmp_path / "s",
    )
    assert code == 0 and "another" not in err
    code, out, _ = run(
        capsys,
        "sample",
        tmp_path / "run",
        "--measurement",
        here / "y.npz",
        "--row",
        1,
        "--prior",
        place[1],
        "-n",
        2,
        "--steps",
        3,
        "--out",
        tmp_path / "s",
        "--overwrite",
    )
    assert code == 0 and "was fitted to one measurement" in out


def test_importance_keeps_a_round_and_its_weighting(place, tmp_path, capsys, monkeypatch):
    _, _, few = place
    from deft.train import importance

    rounds = []
    real = importance.draw_round

    def stopped(*args, **options):
        rounds.append(1)
        if len(rounds) == 3:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(importance, "draw_round", stopped)
    code, _, _ = run(
        capsys,
        "fit",
        "--objective",
        "importance",
        *few,
        "--rounds",
        3,
        "--paths",
        3,
        "--weighting",
        "eps",
        "--focus",
        1,
        "--out",
        tmp_path / "run",
    )
    _, card = load_weights(tmp_path / "run" / "h.safetensors")
    assert (
        code != 0 and len(card["rounds"]) == 1 and card["recipe"]["weighting"] == "eps" and card["recipe"]["focus"] == 1
    )


def test_options_reach_the_fit(place, tmp_path, capsys):
    _, _, few = place
    made = result(
        capsys,
        "fit",
        "--objective",
        "vargrad",
        *few,
        "--subset",
        2,
        "--drawn-by",
        "pigdm",
        "--warm",
        2,
        "--out",
        tmp_path / "run",
        "--json",
    )
    recipe = made["card"]["recipe"]
    assert (recipe["subset"], recipe["drawn_by"], recipe["warm"], recipe["chain"]) == (2, "pigdm", 2, 4)


def test_its_defaults_are_its_own(place, tmp_path, capsys):
    here, prior, _ = place
    made = result(
        capsys,
        "fit",
        "--objective",
        "vargrad",
        "--prior",
        prior,
        "--task",
        "sr4",
        "--measurement",
        here / "y.npz",
        "--chain",
        3,
        "--width",
        8,
        "--seconds",
        1e-9,
        "--out",
        tmp_path / "run",
        "--json",
    )
    assert {k: made["card"]["recipe"][k] for k in ("steps", "batch", "warmup", "ema")} == {
        "steps": 300,
        "batch": 16,
        "warmup": 20,
        "ema": 0.98,
    }
    assert "with --objective 16 paths" in run(capsys, "fit", "--help-all")[1]


def test_it_resumes_bit_for_bit(place, tmp_path, capsys):
    _, prior, few = place
    result(capsys, "fit", "--objective", "tb", *few, "--out", tmp_path / "whole", "--json")
    # stops before the first step
    result(capsys, "fit", "--objective", "tb", *few, "--seconds", 1e-9, "--out", tmp_path / "parts", "--json")
    result(capsys, "fit", "--objective", "tb", *few, "--resume", "--out", tmp_path / "parts", "--json")
    one, two = (load_h(tmp_path / name, load_prior(str(prior)))[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_importance(place, tmp_path, capsys):
    here, prior, few = place
    made = result(
        capsys,
        "fit",
        "--objective",
        "importance",
        *few,
        "--rounds",
        2,
        "--paths",
        3,
        "--out",
        tmp_path / "run",
        "--json",
    )
    assert len(made["rounds"]) == 2 and made["card"]["measurement"]["count"] == 2
    code, out, _ = run(
        capsys,
        "sample",
        tmp_path / "run",
        "--measurement",
        here / "y.npz",
        "--row",
        1,
        "--prior",
        prior,
        "-n",
        2,
        "--steps",
        3,
        "--out",
        tmp_path / "s",
    )
    assert code == 0 and "was fitted to one measurement" not in out  # it is for measurements like these, not for one
    assert "no file of many" in refused(
        capsys,
        "fit",
        "--objective",
        "importance",
        "--prior",
        prior,
        "--task",
        "sr4",
        "--measurement",
        here / "photos" / "000.png",
        "--out",
        tmp_path / "r",
    )


def test_refine(place, tmp_path, capsys):
    here, prior, _ = place
    run(
        capsys,
        "fit",
        "--prior",
        prior,
        "--task",
        "sr4",
        "--data",
        here / "photos",
        "--steps",
        2,
        "--batch",
        2,
        "--width",
        8,
        "--bank",
        0,
        "--out",
        tmp_path / "run",
    )
    before = load_weights(tmp_path / "run" / "h.safetensors")[0]
    made = result(
        capsys,
        "sample",
        tmp_path / "run",
        "--prior",
        prior,
        "--measurement",
        here / "y.npz",
        "--refine",
        2,
        "-n",
        2,
        "--steps",
        3,
        "--out",
        tmp_path / "s",
        "--json",
    )
    after, card = load_weights(tmp_path / "s" / "h.safetensors")
    assert any(not torch.equal(before[k], after[k]) for k in before) and card["refined"] == 2 and made["samples"] == 2
    assert made["plan"]["method"] == "deft"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitted, "has_derivative", lambda prior: False)
        assert (
            "cannot be differentiated"
            in run(
                capsys,
                "sample",
                tmp_path / "run",
                "--prior",
                prior,
                "--measurement",
                here / "y.npz",
                "--refine",
                1,
                "-n",
                1,
                "--steps",
                2,
                "--out",
                tmp_path / "v",
            )[1]
        )
    plain = result(
        capsys,
        "sample",
        tmp_path / "run",
        "--prior",
        prior,
        "--measurement",
        here / "y.npz",
        "-n",
        2,
        "--steps",
        3,
        "--out",
        tmp_path / "p",
        "--json",
    )
    assert plain["calls"] == made["calls"]
    a, b = (read_arrays(tmp_path / f / "samples.npz")["samples"] for f in ("s", "p"))
    assert not np.array_equal(a, b)


def test_refusals(place, tmp_path, capsys):
    here, prior, few = place
    fit = ("fit", "--prior", prior, "--task", "sr4", "--out", tmp_path / "run")
    assert "goes together" in refused(capsys, *fit, "--objective", "kl")
    assert "goes together" in refused(capsys, *fit, "--measurement", here / "y.npz")
    assert "leave --data" in refused(
        capsys, *fit, "--objective", "kl", "--measurement", here / "y.npz", "--data", here / "photos"
    )
    assert "did you mean 'vargrad'" in refused(capsys, *fit, "--objective", "vargard", "--measurement", here / "y.npz")
    assert "draws its own" in refused(
        capsys, "fit", "--objective", "kl", *few, "--drawn-by", "pigdm", "--out", tmp_path / "run"
    )
    assert "training-free" in refused(
        capsys, "fit", "--objective", "tb", *few, "--drawn-by", "tds", "--out", tmp_path / "run"
    )
    assert "every step" in refused(capsys, "fit", "--objective", "kl", *few, "--subset", 2, "--out", tmp_path / "run")
    assert "at least 2 paths" in refused(
        capsys, "fit", "--objective", "vargrad", *few, "--batch", 1, "--out", tmp_path / "run"
    )
    assert "steps must be at least 2" in refused(
        capsys, "fit", "--objective", "vargrad", *few, "--chain", 1, "--out", tmp_path / "run"
    )
    assert "--row 7" in refused(capsys, "fit", "--objective", "vargrad", *few, "--row", 7, "--out", tmp_path / "run")
    assert "leave --subset" in refused(
        capsys, "fit", "--objective", "importance", *few, "--subset", 2, "--out", tmp_path / "run"
    )
    assert "nothing to resume" in refused(
        capsys, "fit", "--objective", "importance", *few, "--resume", "--out", tmp_path / "run"
    )
    assert "are for a fit to one" in refused(capsys, *fit, "--data", here / "photos", "--warm", 3)
    assert not (tmp_path / "run" / "h.safetensors").exists()
    assert "--refine takes" in refused(
        capsys,
        "sample",
        "--prior",
        prior,
        "--task",
        "sr4",
        "--measurement",
        here / "y.npz",
        "--refine",
        2,
        "--out",
        tmp_path / "s",
    )


def test_an_exploding_fit_says_what_to_do(place, tmp_path, capsys, monkeypatch):
    _, _, few = place
    kept = Gaussian.log_prob
    calls = {"n": 0}

    def broken(self, y, x):
        calls["n"] += 1
        return kept(self, y, x) * (float("nan") if calls["n"] > 3 else 1.0)

    monkeypatch.setattr(Gaussian, "log_prob", broken)
    line = refused(capsys, "fit", "--objective", "vargrad", *few, "--out", tmp_path / "run")
    assert "--warm" in line and json.dumps(line)


@pytest.fixture
def liked(tmp_path):
    """A file with rewards: brightness, one that fails, and logits of three classes."""
    path = tmp_path / "taste.py"
    path.write_text(
        "def brightness(x):\n    return x.mean((1, 2, 3))\n\n\ndef broken(x):\n    return x.nothing\n\n\n"
        "def logits(x):\n    return x.flatten(1)[:, :3]\n\n\ndef dark(x):\n    return -x.mean((1, 2, 3))\n"
    )
    return path


def test_a_reward_fits_and_samples(place, liked, tmp_path, capsys):
    _, prior, _ = place
    short = ["--prior", prior, "--steps", 2, "--batch", 4, "--chain", 4, "--width", 8, "--warmup", 1]
    made = result(
        capsys,
        "fit",
        "--objective",
        "vargrad",
        "--reward",
        f"{liked}:brightness",
        "--beta",
        0.1,
        *short,
        "--out",
        tmp_path / "run",
        "--json",
    )
    assert (
        made["card"]["task"] == {"name": "reward", "source": f"{liked}:brightness", "beta": 0.1, "label": -1}
        and "measurement" not in made["card"]
    )
    again = (
        "sample",
        tmp_path / "run",
        "--prior",
        prior,
        "-n",
        3,
        "--steps",
        3,
        "--overwrite",
        "--out",
        tmp_path / "s",
    )
    drawn = result(capsys, *again, "--reward", f"{liked}:brightness", "--json")
    x = read_arrays(tmp_path / "s" / "samples.npz")["samples"]
    assert drawn["reward"] == pytest.approx(x.mean(), abs=1e-5) and drawn["residual"] is None
    assert "another reward" in run(capsys, *again, "--reward", f"{liked}:dark")[1]
    assert "give --reward" in refused(capsys, *again, "--measurement", place[0] / "y.npz")
    assert "give it with --reward" in refused(
        capsys,
        "evaluate",
        tmp_path / "run",
        "--prior",
        prior,
        "--data",
        place[0] / "photos",
        "--images",
        2,
        "--out",
        tmp_path / "e",
    )


def test_a_reward_pulls_samples_its_way(place, liked, tmp_path, capsys):
    """Without any fit: h starts as the reward's own gradient, and the particles of tds follow it."""
    means = {}
    for name in ("brightness", "dark"):
        drawn = result(
            capsys,
            "sample",
            "--prior",
            place[1],
            "--reward",
            f"{liked}:{name}",
            "--beta",
            0.002,
            "-n",
            4,
            "--steps",
            10,
            "--out",
            tmp_path / name,
            "--json",
        )
        means[name] = drawn["reward"]
    assert means["brightness"] + means["dark"] > 0.02  # brightness is minus dark: both above the prior's own


def test_rewards_that_are_refused(place, liked, tmp_path, capsys):
    _, prior, _ = place
    fit = ("fit", "--prior", prior, "--out", tmp_path / "r")
    kl = (*fit, "--objective", "kl")
    assert "AttributeError" in refused(capsys, *kl, "--reward", f"{liked}:broken")
    assert "one number for each sample" in refused(capsys, *kl, "--reward", f"{liked}:logits")
    assert "for the class 5" in refused(capsys, *kl, "--reward", f"{liked}:logits", "--label", 5)
    assert "no function 'nope'" in refused(capsys, *kl, "--reward", f"{liked}:nope")
    assert "no such file" in refused(capsys, *kl, "--reward", f"{tmp_path}/gone.py:f")
    assert "say which class with --label" in refused(capsys, *kl, "--reward", "fashion-classifier")
    assert "FILE.py:FUNCTION" in refused(capsys, *kl, "--reward", "beauty")
    assert "--beta = -1.0: expected a number above 0" in refused(capsys, *kl, "--reward", f"{liked}:dark", "--beta", -1)
    assert "goes together" in refused(capsys, *fit, "--reward", f"{liked}:dark")
    assert "are for --reward" in refused(capsys, *fit, "--data", place[0] / "photos", "--beta", 1)
    assert "one of the two" in refused(capsys, *kl, "--reward", f"{liked}:dark", "--measurement", place[0] / "y.npz")
    assert "a --reward is no task" in refused(capsys, *kl, "--reward", f"{liked}:dark", "--task", "sr4")
    assert "a --reward is no task" in refused(capsys, *fit, "--objective", "importance", "--reward", f"{liked}:dark")
    assert "one of the two" in refused(capsys, "sample", "--prior", prior, "--out", tmp_path / "s")
    assert "no measurement" in refused(
        capsys, "sample", "--prior", prior, "--reward", f"{liked}:dark", "--refine", 2, "--out", tmp_path / "s"
    )


def test_a_measurement_file_says_of_what_task_it_is(place, tmp_path, capsys):
    here, prior, few = place
    ours = [a for a in few if a not in ("--task", "sr4")]
    made = result(
        capsys, "measure", "--task", "sr4", "--sigma-y", 0.2, "--data", here / "photos", "--out", tmp_path / "y.npz"
    )
    assert made["task"]["sigma_y"] == 0.2
    ours[ours.index(here / "y.npz")] = tmp_path / "y.npz"
    result(capsys, "fit", "--objective", "vargrad", *ours, "--out", tmp_path / "run")
    about = result(
        capsys,
        "sample",
        "--prior",
        prior,
        "--method",
        "pigdm",
        "--measurement",
        tmp_path / "y.npz",
        "-n",
        1,
        "--steps",
        2,
        "--out",
        tmp_path / "s",
    )
    assert load_weights(tmp_path / "run" / "h.safetensors")[1]["task"]["name"] == about["task"]["name"] == "sr4"
    assert about["task"]["sigma_y"] == 0.2  # its noise, too
    about = result(
        capsys,
        "sample",
        "--prior",
        prior,
        "--method",
        "pigdm",
        "--measurement",
        tmp_path / "y.npz",
        "--sigma-y",
        0.1,
        "-n",
        1,
        "--steps",
        2,
        "--out",
        tmp_path / "s2",
    )
    assert about["task"]["sigma_y"] == 0.1
    assert "not of hdr" in refused(
        capsys,
        "sample",
        "--prior",
        prior,
        "--task",
        "hdr",
        "--method",
        "pigdm",
        "--measurement",
        tmp_path / "y.npz",
        "--out",
        tmp_path / "s3",
    )
    whole = dict(read_arrays(tmp_path / "y.npz"))
    for text, says in (
        ('{"name": "weather"}', "name one with --task"),
        ('{"name": "sr4", "lens": 3}', "name one with --task"),
        ("[1]", "no JSON object"),
        ("{}", "name one with --task"),
        ('{"name": "sr4", "factor": "4"}', "factor is '4'"),
        ('{"name": "sr4", "factor": null}', "factor is None"),
        ('{"name": "ct", "angles": 3.5}', "angles is 3.5"),
        ('{"name": "reward"}', "name one with --task"),
        ('{"name": "deblur-nonlinear", "weights": "/etc/passwd"}', "names a file"),
    ):
        np.savez(tmp_path / "odd.npz", **{**whole, "task": np.array(text)})
        assert says in refused(
            capsys,
            "sample",
            "--prior",
            prior,
            "--method",
            "pigdm",
            "--measurement",
            tmp_path / "odd.npz",
            "--out",
            tmp_path / "s3",
        )
    # a whole number is a number
    np.savez(tmp_path / "whole.npz", **{**whole, "task": np.array('{"name": "sr4", "sigma_y": 1}')})
    about = result(
        capsys,
        "sample",
        "--prior",
        prior,
        "--method",
        "pigdm",
        "--measurement",
        tmp_path / "whole.npz",
        "--sigma-y",
        0.3,
        "-n",
        1,
        "--steps",
        2,
        "--out",
        tmp_path / "s4",
    )
    assert about["task"]["sigma_y"] == 0.3
    _, out, _ = run(
        capsys,
        "sample",
        tmp_path / "run",
        "--prior",
        prior,
        "--measurement",
        here / "y.npz",
        "-n",
        1,
        "--steps",
        2,
        "--out",
        tmp_path / "s5",
    )
    assert "measured with sigma_y 0.05, and h is told the 0.2" in out


def test_particles_and_chains_tell_how_they_fared(place, tmp_path, capsys):
    here, prior, _ = place
    ask = ("sample", "--prior", prior, "--measurement", here / "y.npz", "-n", 2, "--steps", 3)
    particles = result(capsys, *ask, "--method", "tds", "--set", "particles=4", "--out", tmp_path / "tds")["diagnosis"]
    assert set(particles) == {"log_evidence", "effective", "resampled"} and 0.25 <= particles["effective"] <= 1
    code, out, _ = run(
        capsys,
        *ask,
        "--method",
        "hmc",
        "--sigma-y",
        2,
        "--set",
        "iterations=12",
        "--set",
        "leapfrogs=2",
        "--out",
        tmp_path / "hmc",
    )
    chains = json.loads((tmp_path / "hmc" / "sample.json").read_text())["diagnosis"]
    assert (
        code == 0
        and f"{100 * chains['accepted']:.0f} % of their moves accepted" in out
        and set(chains) == {"accepted", "step", "rise"}
    )
    assert result(capsys, *ask, "--method", "pigdm", "--out", tmp_path / "pigdm")["diagnosis"] == {}


def test_a_likelihood_without_a_second_derivative_is_refused_in_one_line(place, tmp_path, capsys):
    (tmp_path / "far.py").write_text(
        "import torch\n\n\ndef far(x):\n    return torch.cdist(x.flatten(2), x.flatten(2) ** 2).sum((1, 2))\n"
    )
    _, prior, few = place
    rest = few[few.index("--steps") :]
    line = refused(
        capsys,
        "fit",
        "--objective",
        "kl",
        "--prior",
        prior,
        "--reward",
        f"{tmp_path / 'far.py'}:far",
        *rest,
        "--out",
        tmp_path / "run",
    )
    assert "no second derivative" in line and "vargrad" in line
