"""The last metre: what `deft fit`, `deft fit --objective` and `deft prior train` leave behind is what they were
told, of the data they were given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open

from deft import Noise, condition, sample
from deft.core.random import seed_for
from deft.io.h_files import load_h
from deft.prior import load_prior
from deft.samplers import DDIM, DPMpp2M
from golden import Sheet, close, pixels, read, shown_and_reported
from golden_checks import KNOTS, LEVELS, check_calibration, check_card_text, check_levels
from toys import pictures, result, run, save_pictures, toy_prior


def kinds(n):
    """Images of which no few are like all: the first half nearly grey, the second black and white. uint8 [n, 16,
    16]."""
    rng = np.random.default_rng(3)
    grey = rng.integers(120, 136, (n - n // 2, 16, 16))
    return np.concatenate([grey, np.kron(rng.integers(0, 2, (n // 2, 4, 4)), np.full((4, 4), 255))]).astype(np.uint8)


def unit(images):
    return torch.from_numpy(images[:, None] / np.float32(127.5) - 1)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    here = tmp_path_factory.mktemp("fit")
    toy_prior(here / "prior.safetensors")
    save_pictures(here / "mixed", kinds(20))
    save_pictures(here / "other", pictures(8, seed=4))
    return here


def errors(prior, x, levels, h=None, obs=None, seed=11):
    """Mean squared error of the denoised mean at each log(sigma/alpha), with noise of the test's own."""
    schedule, out = prior.schedule, []
    low, high = sorted(
        float(-schedule.log_snr(torch.tensor(t, dtype=torch.float64)) / 2) for t in (schedule.t_min, schedule.t_max)
    )
    for level in np.clip(levels, low, high):
        t = schedule.time_of(torch.tensor(-2 * level, dtype=torch.float64))
        a, s = (float(v) for v in (schedule.log_alpha(t).exp(), schedule.log_sigma(t).exp()))
        draws = []
        for i in range(2):
            n = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + i))
            denoiser = prior if h is None else condition(prior, h, obs)
            with torch.no_grad():
                draws.append(float((denoiser(a * x + s * n, t).mean - x).square().mean()))
        out.append(np.mean(draws))
    return np.array(out)


def tensors(path):
    with safe_open(str(path), "np") as f:
        return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118


def fit_line(here, out, *more):
    return (
        "fit", "--prior", here / "prior.safetensors", "--task", "sr4", "--size", 0.4, "--steps", 3, "--batch", 4,
        "--cache", 0, "--prior-samples", 0, "--out", out, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(shop):
    """An h fitted to the mixed images, held out on the others."""
    from deft.cli import main

    line = fit_line(
        shop, shop / "run", "--data", shop / "mixed", "--held-out", shop / "other", "--seed", 5, "--lr", 1e-3,
        "--sigma-y", 0.1,
    )  # fmt: skip
    assert main([str(a) for a in line]) == 0
    return shop / "run"


def test_it_is_calibrated_on_all_images(shop, fitted):
    """Not on one, on the first few, or on those held out."""
    prior, x = load_prior(shop / "prior.safetensors"), unit(kinds(20))
    check_calibration(np.exp(tensors(fitted / "h.safetensors")["log_rho2"]), errors(prior, x, KNOTS), "the images")
    for some in (x[:1], x[-1:], x[:10], unit(pictures(8, seed=4))):  # these are other numbers
        with pytest.raises(AssertionError):
            check_calibration(np.exp(tensors(fitted / "h.safetensors")["log_rho2"]), errors(prior, some, KNOTS), "some")


def test_pairs_are_calibrated_on_all_of_them(shop, tmp_path, capsys):
    x = kinds(20)
    np.savez(tmp_path / "pairs.npz", x=x, y=x.reshape(20, 4, 4, 4, 4).mean((2, 4)).round().astype(np.uint8))
    few = pictures(4, seed=4)
    np.savez(tmp_path / "held.npz", x=few, y=few.reshape(4, 4, 4, 4, 4).mean((2, 4)).round().astype(np.uint8))
    line = (
        "fit", "--prior", shop / "prior.safetensors", "--task", "sr4", "--size", 0.4, "--steps", 2, "--batch", 4,
        "--pairs", tmp_path / "pairs.npz", "--held-out", tmp_path / "held.npz",
    )  # fmt: skip
    card = result(capsys, *line, "--out", tmp_path / "run")["card"]
    prior = load_prior(shop / "prior.safetensors")
    check_calibration(
        np.exp(tensors(tmp_path / "run" / "h.safetensors")["log_rho2"]), errors(prior, unit(x), KNOTS), "the pairs"
    )
    check_levels(card["levels"], {"prior": errors(prior, unit(few), LEVELS)}, 4)
    assert card["data"] == f"{tmp_path}/pairs.npz (20 images)"


def test_without_data_it_is_calibrated_on_samples_of_the_prior(shop, tmp_path, capsys):
    result(capsys, "measure", "--task", "sr4", "--data", shop / "other", "--images", 1, "--out", tmp_path / "y.npz")
    line = (
        "fit", "--objective", "kl", "--measurement", tmp_path / "y.npz", "--prior", shop / "prior.safetensors",
        "--steps", 1, "--batch", 2, "--chain", 3, "--width", 8, "--seed", 2,
    )  # fmt: skip
    card = result(capsys, *line, "--out", tmp_path / "run")["card"]
    prior = load_prior(shop / "prior.safetensors")
    drawn = sample(prior, Noise(3, 64), steps=25, sampler=DPMpp2M(), spacing="log-snr").clamp(-1, 1)
    check_calibration(
        np.exp(tensors(tmp_path / "run" / "h.safetensors")["log_rho2"]),
        errors(prior, drawn, KNOTS),
        "samples of the prior",
    )
    assert (
        card["recipe"]["objective"],
        card["recipe"]["chain"],
        card["recipe"]["steps"],
        card["recipe"]["seed"],
        card["steps"],
    ) == ("kl", 3, 1, 2, 1)
    log = read(tmp_path / "run" / "log.json")
    assert (
        log["card"] == card
        and log["end"] == card["diagnosis"]
        and [r["step"] for r in log["diagnoses"]] == [r["step"] for r in log["history"]]
    )
    text = (tmp_path / "run" / "card.md").read_text()
    assert f"log_z: {card['diagnosis']['log_z']}" in text and f"file: {tmp_path}/y.npz" in text


def test_the_table_of_levels_is_of_the_held_out_images(shop, fitted):
    prior, x = load_prior(shop / "prior.safetensors"), unit(pictures(8, seed=4))
    h, task, card = load_h(fitted, prior)
    obs = task.observe(x, Noise(99, len(x)))
    check_levels(card["levels"], {"prior": errors(prior, x, LEVELS), "h": errors(prior, x, LEVELS, h, obs)}, 8)


def test_the_card_is_what_was_asked_for_and_found(shop, fitted, capsys):
    weights, log = tensors(fitted / "h.safetensors"), read(fitted / "log.json")
    card = result(capsys, "info", fitted)["card"]
    assert log["card"] == card and log["levels"] == card["levels"] and log["held_out"] == card["held_out_loss"]
    count = sum(v.size for k, v in weights.items() if k not in ("log_rho2", "level_weight"))
    whole = sum(v.size for v in tensors(shop / "prior.safetensors").values())
    assert (
        card["parameters"] == count and card["share"] == pytest.approx(count / whole, abs=1e-5) and card["share"] <= 0.4
    )
    assert card["data"] == f"{shop}/mixed (20 images)" and card["prior"] == str(shop / "prior.safetensors")
    asked = {
        "steps": 3,
        "batch": 4,
        "lr": 1e-3,
        "seed": 5,
        "cache": 0,
        "prior_samples": 0,
        "weighting": "between",
        "focus": 3.0,
        "even": 0.5,
    }
    assert {k: card["recipe"][k] for k in asked} == asked and (card["task"]["name"], card["task"]["sigma_y"]) == (
        "sr4",
        0.1,
    )
    assert (card["steps"], card["prior_samples"], card["cache"], card["fresh"]) == (3, 0, 0, 0)
    history = log["history"]
    assert [r["step"] for r in history] == sorted(r["step"] for r in history) and history[-1]["step"] == 3
    best = min((r[k], r["step"], k) for r in history for k in ("raw", "ema"))
    close(card["held_out_loss"][card["weights"]], best[0], 1e-6, "held-out loss of the weights that were kept")
    assert card["best_step"] == best[1] and card["weights"] == best[2]
    check_card_text((fitted / "card.md").read_text(), card)


def test_a_fit_says_what_its_card_says(shop, tmp_path, capsys):
    code, said, _ = run(capsys, *fit_line(shop, tmp_path / "run", "--data", shop / "mixed", "--seed", 1))
    assert code == 0
    card = read(tmp_path / "run" / "log.json")["card"]
    assert "fitting to 18 images, 2 held out" in said and card["data"].endswith("(18 images)")
    assert (
        f"held-out loss {card['held_out_loss'][card['weights']]:.4f} at step {card['best_step']} "
        f"({card['weights']} weights" in said
    )
    check_card_text(
        "\n".join([*(tmp_path / "run" / "card.md").read_text().splitlines()[:-14], *said.splitlines()]),
        {"levels": card["levels"]},
    )


def test_samples_of_the_prior_and_cached_predictions_are_as_many_as_are_asked_for(shop, tmp_path, capsys):
    line = list(fit_line(shop, tmp_path / "run", "--data", shop / "mixed"))
    line[line.index("--cache") + 1], line[line.index("--prior-samples") + 1] = 24, 6
    card = result(capsys, *line)["card"]
    assert (card["prior_samples"], card["cache"]) == (6, 24) and (
        card["recipe"]["prior_samples"],
        card["recipe"]["cache"],
    ) == (6, 24)
    assert read(tmp_path / "run" / "sizes.json") == {"prior_samples": 6, "cache": 24, "fresh": card["fresh"]}


# deft prior train


def test_a_trained_prior_its_card_and_its_samples(shop, tmp_path, capsys):
    line = (
        "prior", "train", "--data", shop / "mixed", "--held-out", shop / "other", "--widths", "8,8", "--patch", 4,
        "--steps", 2, "--batch", 4, "--warmup", 1, "--seed", 3, "--name", "checks", "--about-data", "checks and grey",
        "--licence", "CC0", "--out", tmp_path / "mine",
    )  # fmt: skip
    made = result(capsys, *line)
    card = made["card"]
    prior, x = load_prior(tmp_path / "mine"), unit(pictures(8, seed=4))
    weights = tensors(tmp_path / "mine" / "prior.safetensors")
    assert (
        card["parameters"]
        == sum(v.size for v in weights.values())
        == result(capsys, "info", tmp_path / "mine")["parameters"]
    )
    assert card["sha256"] == prior.fingerprint() and (card["name"], card["data"], card["licence"]) == (
        "checks",
        "checks and grey",
        "CC0",
    )
    assert (card["steps"], card["recipe"]["seed"], card["recipe"]["batch"], card["recipe"]["warmup"]) == (2, 3, 4, 1)
    expected = errors(prior, x, LEVELS)
    check_levels(card["levels"], {"prior": expected, "eps": expected * np.exp(-2 * np.array(LEVELS))}, 8)
    log = read(tmp_path / "mine" / "log.json")
    assert (
        log["card"] == card
        and log["history"] == made["history"]
        and card["held_out_loss"][card["weights"]] == min(card["held_out_loss"].values())
    )
    check_card_text((tmp_path / "mine" / "card.md").read_text(), card)
    # samples.png: 80 samples of the prior as it was written, none left out, row by row
    drawn = sample(prior, Noise(seed_for("prior samples", 3), 80), sampler=DDIM(1.0), steps=100)
    sheet = Sheet(tmp_path / "mine" / "samples.png")
    boxes = []
    for one in pixels(drawn.numpy()):
        found = sheet.find(one, near=2)
        assert len(found) == 1, f"a sample of the prior is {len(found)} times on samples.png"
        boxes += found
    assert (
        len({b.y for b in boxes}) == 8
        and len({b.x for b in boxes}) == 10
        and [(b.y, b.x) for b in boxes] == sorted((b.y, b.x) for b in boxes)
    )
    assert any(sheet.says("samples of checks, 100 steps, none left out", x, "l", 0, 40) for x in range(20))


def test_prior_inspect_shows_what_it_reports(shop, capsys):
    line = ("prior", "inspect", shop / "prior.safetensors", "--images", shop / "other", "-n", 8)
    found, said = shown_and_reported(capsys, *line)
    assert found["prior"] == str(shop / "prior.safetensors") and found["verdict"] in said
    cells = next(line for line in said.splitlines() if line.strip().startswith("as read")).split()[2:]
    assert [f"{r:.2f}" for r in found["taken"]["ratios"]] == cells
    prior = load_prior(shop / "prior.safetensors")
    expected = errors(prior, unit(pictures(8, seed=4)), np.log(found["taken"]["levels"]))
    np.testing.assert_allclose(found["taken"]["errors"], expected, rtol=0.1)
