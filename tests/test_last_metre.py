"""The last metre: what `deft sample`, `deft measure`, `deft hub` and `deft info` write is read back, and is what it must be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from golden import arrays, close, markdown_tables, png, read, shown
from golden_checks import NAMES, check_measured, check_same_samples, check_samples
from toys import pictures, result, run, save_pictures, toy_prior

COUNTED = """
from deft.prior import load_prior

def make(path, log):
    prior = load_prior(path)

    def note(net, given, out):
        with open(log, "a") as f:
            f.write(f"{len(out)}\\n")

    prior.net.register_forward_hook(note)
    return prior
"""
"""A prior that writes down how many images each call of its network is given."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Tiny priors, a photo with a hole, a small picture, and an h for each."""
    from deft.cli import main

    here = tmp_path_factory.mktemp("shop")
    toy_prior(here / "prior.safetensors")
    toy_prior(here / "rgb.safetensors", channels=3, seed=1)
    (here / "counted.py").write_text(COUNTED)
    save_pictures(here / "photos", pictures(12))
    Image.fromarray(pictures(1, seed=5)[0]).save(here / "photo.png")
    Image.fromarray(pictures(1, seed=5)[0][::4, ::4].copy()).save(here / "small.png")
    Image.fromarray(np.stack([pictures(1, seed=s)[0] for s in (5, 6, 7)], -1)).save(here / "rgb.png")
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:10, 3:10] = 0
    Image.fromarray(mask).save(here / "mask.png")
    fit = ("fit", "--prior", here / "prior.safetensors", "--size", 0.4, "--data", here / "photos", "--steps", 2, "--batch", 4, "--cache", 0, "--prior-samples", 0)
    for task in ("inpaint", "sr4"):
        assert main([str(a) for a in (*fit, "--task", task, "--out", here / task)]) == 0
    return here


def photo(path, mask=None):
    """What a picture file means as a measurement, [C, H, W]."""
    x = np.asarray(Image.open(path), np.float32)
    x = (x[None] if x.ndim == 2 else x.transpose(2, 0, 1)) / 127.5 - 1
    return x if mask is None else x * mask


def hole(here):
    return (np.asarray(Image.open(here / "mask.png")) > 127).astype(np.float32)[None]


def filled(here, out, *more, n=3):
    return ("sample", here / "inpaint", "--measurement", here / "photo.png", "--mask", here / "mask.png", "-n", n, "--steps", 3, "--out", out, *more)


# deft sample


def test_sample_a_photo_with_a_hole(shop, tmp_path, capsys):
    mask = hole(shop)
    about = result(capsys, *filled(shop, tmp_path / "a", "--seed", 4))
    check_samples(tmp_path / "a", about, n=3, steps=3, seed=4, y=photo(shop / "photo.png", mask), mask=mask)
    assert about["calls"] == 3 and about["run"] == str(shop / "inpaint") and about["scale"] == 1
    said = run(capsys, *filled(shop, tmp_path / "a", "--seed", 4, "--overwrite"))[1]
    close(float(said.split("residual ")[1].split()[0]), about["residual"], 0, "the residual that is said", 6e-5)


def test_the_batch_and_the_number_change_no_sample(shop, tmp_path, capsys):
    for name, more, n in (("one", ("--batch", 1), 5), ("all", (), 5), ("few", ("--batch", 2), 3)):
        result(capsys, *filled(shop, tmp_path / name, *more, n=n))
    check_same_samples(tmp_path / "one", tmp_path / "all")
    check_same_samples(tmp_path / "one", tmp_path / "few")
    result(capsys, *filled(shop, tmp_path / "other", "--seed", 1, n=5))
    with pytest.raises(AssertionError):
        check_same_samples(tmp_path / "one", tmp_path / "other")


def test_sample_one_sample_has_no_spread(shop, tmp_path, capsys):
    mask = hole(shop)
    about = result(capsys, *filled(shop, tmp_path / "a", n=1))
    check_samples(tmp_path / "a", about, n=1, steps=3, y=photo(shop / "photo.png", mask), mask=mask)
    assert about["spread"] == 0


def test_sample_more_than_a_sheet_holds(shop, tmp_path, capsys):
    """Nine samples: the first eight are on the sheet, the mean is of all nine."""
    about = result(capsys, "sample", shop / "sr4", "--measurement", shop / "small.png", "-n", 9, "--steps", 2, "--out", tmp_path / "a")
    check_samples(tmp_path / "a", about, n=9, steps=2, y=photo(shop / "small.png"))


def test_sample_in_colour(shop, tmp_path, capsys):
    about = result(
        capsys, "sample", "--prior", shop / "rgb.safetensors", "--task", "denoise", "--method", "pigdm", "--measurement", shop / "rgb.png", "-n", 2, "--steps", 3, "--out", tmp_path / "a",
    )  # fmt: skip
    check_samples(tmp_path / "a", about, n=2, steps=3, y=photo(shop / "rgb.png"))
    assert about["prior"] == str(shop / "rgb.safetensors") and about["run"] is None


def test_calls_are_those_of_the_network(shop, tmp_path, capsys):
    """Of two draws that differ in the steps alone, the further calls times the samples are the further images through the network."""
    base = ("sample", "--prior", f"{shop}/counted.py:make", "--prior-option", f"path={shop}/prior.safetensors", "--measurement", shop / "photo.png", "--mask", shop / "mask.png", "-n", 3)
    for method, more in (("pigdm", ("--sampler", "ddim")), ("prior", ("--sampler", "heun")), ("diffpir", ()), ("deft", ())):
        counts, calls = [], []
        for steps in (3, 5):
            log, out = tmp_path / f"{method}-{steps}.txt", tmp_path / f"{method}-{steps}"
            line = base if method != "deft" else (base[0], shop / "inpaint", *base[1:])
            about = result(capsys, *line, "--prior-option", f"log={log}", "--method", method, *more, "--steps", steps, "--out", out)
            counts.append(sum(map(int, log.read_text().split())))
            calls.append(about["calls"])
            assert about["calls"] == (2 * steps - 1 if "heun" in more else steps) and about["plan"]["method"] == method
        assert counts[1] - counts[0] == 3 * (calls[1] - calls[0]), (method, counts, calls)


def test_a_reward_is_that_of_the_samples(shop, tmp_path, capsys):
    (tmp_path / "taste.py").write_text("def brightness(x):\n    return x.flatten(1).mean(1)\n")
    about = result(
        capsys, "sample", "--prior", shop / "prior.safetensors", "--reward", f"{tmp_path}/taste.py:brightness", "--beta", 0.25, "--method", "gradient", "-n", 3, "--steps", 3, "--out", tmp_path / "a",
    )  # fmt: skip
    check_samples(tmp_path / "a", about, n=3, steps=3)
    close(about["reward"], float(arrays(tmp_path / "a" / "samples.npz")["samples"].mean()), 1e-4, "mean reward", 1e-6)
    assert about["residual"] is None and about["task"]["beta"] == 0.25


def test_a_row_of_a_measurement_file(shop, tmp_path, capsys):
    result(capsys, "measure", "--task", "sr4", "--data", shop / "photos", "--images", 3, "--out", tmp_path / "y.npz")
    y = arrays(tmp_path / "y.npz")["y"]
    for row in (0, 2):
        about = result(capsys, "sample", shop / "sr4", "--measurement", tmp_path / "y.npz", "--row", row, "-n", 2, "--steps", 2, "--out", tmp_path / f"r{row}")
        check_samples(tmp_path / f"r{row}", about, n=2, steps=2, y=y[row])


@pytest.mark.slow
def test_a_refined_h_is_kept_beside_its_samples(shop, tmp_path, capsys):
    about = result(capsys, "sample", shop / "sr4", "--measurement", shop / "small.png", "--refine", 1, "-n", 2, "--steps", 2, "--out", tmp_path / "a")
    check_samples(tmp_path / "a", about, n=2, steps=2, y=photo(shop / "small.png"))
    card = result(capsys, "info", tmp_path / "a")["card"]
    assert card["refined"] == 1 and card["measurement"]["file"] == str(shop / "small.png") and card["task"] == about["task"]
    plain = result(capsys, "sample", tmp_path / "a", "--measurement", shop / "small.png", "-n", 2, "--steps", 2, "--out", tmp_path / "b")
    check_same_samples(tmp_path / "a", tmp_path / "b")  # it is the h that drew them
    assert plain["task"] == about["task"]


# deft measure


@pytest.mark.parametrize(("task", "sigma_y"), [("inpaint", 0.05), ("sr4", 0.2), ("denoise", 0.3)])
def test_measure(shop, tmp_path, capsys, task, sigma_y):
    about = result(capsys, "measure", "--task", task, "--data", shop / "photos", "--sigma-y", sigma_y, "--images", 11, "--seed", 3, "--out", tmp_path / "y.npz")
    check_measured(tmp_path / "y.npz", about, images=pictures(12)[:11], task=task, sigma_y=sigma_y)
    other = result(capsys, "measure", "--task", task, "--data", shop / "photos", "--sigma-y", sigma_y, "--images", 2, "--seed", 4, "--out", tmp_path / "z.npz")
    y, z = (arrays(tmp_path / f"{name}.npz")["y"] for name in "yz")
    assert other["n"] == 2 and np.abs(y[0] - z[0]).max() > 0.1 * sigma_y and np.abs(y[0] - y[1]).max() > 0.1


def test_measure_inspect_shows_what_it_reports(shop, tmp_path, capsys):
    result(capsys, "measure", "--task", "sr4", "--data", shop / "photos", "--images", 2, "--out", tmp_path / "y.npz")
    line = ("measure", "inspect", tmp_path / "y.npz", "--prior", shop / "prior.safetensors", "--rows", 2, "-n", 1, "--steps", 4)
    found, said = result(capsys, *line), run(capsys, *line)[1]
    table = {r[:63].strip(): r[64:].split() for r in said.splitlines() if len(r) > 90}
    for one in found["tried"][:8]:
        if one["why"] is None or not one["why"]:
            cells = table[one["reading"][:63].strip()]
            assert all(shown(v, c) for v, c in zip([one["surprise"], one["residual"], *one["range"]], cells, strict=True)), (one, cells)
    assert found["verdict"] in said and found["taken"] in found["tried"] and found["task"]["name"] == "sr4"


def test_converted_kspace_is_the_transform_of_the_image(tmp_path, capsys):
    """sigpy's k-space (centred, orthonormal, phase 0 in the middle) of u in [0, 1] is y of 2 u - 1, zero frequency in the middle and phase 0 in the corner."""
    u = np.random.default_rng(0).uniform(0, 1, (16, 16))
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(u), norm="ortho"))
    np.save(tmp_path / "k.npy", k.astype(np.complex64))
    about = result(capsys, "measure", "convert", "sigpy", tmp_path / "k.npy", "--scale", 1, "--sigma-y", 0.02, "--out", tmp_path / "y.npz")
    data = arrays(tmp_path / "y.npz")
    expected = np.fft.fftshift(np.fft.fft2(2 * u - 1, norm="ortho"))
    np.testing.assert_allclose(data["y"][0], np.stack([expected.real, expected.imag]), atol=1e-4)
    assert json.loads(str(data["task"])) == about["task"] and (about["n"], about["shape"], about["scale"], about["task"]["sigma_y"]) == (1, [2, 16, 16], 1, 0.02)
    assert data["mask"].all() and [str(v) for v in data["notes"].ravel()] == about["notes"] or "\n".join(about["notes"]) in str(data["notes"])


# deft hub, deft info, deft list


def test_what_is_shared_shows_the_report(shop, tmp_path, capsys):
    result(capsys, "evaluate", shop / "sr4", "--data", shop / "photos", "--images", 4, "--samples", 2, "--steps", 2, "--methods", "deft,pigdm", "--out", tmp_path / "report")
    report, picture = tmp_path / "report" / "report.json", tmp_path / "report" / "samples.png"
    made = result(capsys, "hub", "export", shop / "sr4", "--report", report, "--picture", picture, "--license", "mit", "--about-data", "checks", "--note", "a note", "--out", tmp_path / "shared")
    card = read(tmp_path / "shared" / "card.json")
    assert card == made["card"] and sorted(p.name for p in (tmp_path / "shared").iterdir()) == sorted(made["files"])
    rows = [r for r in read(report)["rows"] if "versus" not in r]
    assert [{k: r[k] for k in m} for r, m in zip(rows, card["metrics"], strict=True)] == card["metrics"] and len(card["metrics"][0]) >= 6
    assert np.array_equal(png(tmp_path / "shared" / "sample.png"), png(picture))
    original, copy = (result(capsys, "info", tmp_path / "shared" if i else shop / "sr4") for i in (0, 1))
    assert original["parameters"] == copy["parameters"] == card["parameters"] and (card["licence"], card["data"], card["note"]) == ("mit", "checks", "a note")
    text = (tmp_path / "shared" / "README.md").read_text()
    tables = markdown_tables(text)
    figures = next(t for t in tables if t[0][1:] == ["DEFT", "ΠGDM"])
    by = {(r["method"], r["metric"]): r for r in rows}
    for name, *cells in figures[1:]:
        metric = next(k for k, v in NAMES.items() if v == name.rstrip(" ↑↓"))
        for method, cell in zip(("deft", "pigdm"), cells, strict=True):
            assert shown(by[method, metric]["value"], cell), (name, method, cell)
    facts = {r[0]: r[1] for t in tables for r in t if len(r) == 2}
    assert f"{card['parameters']:,}" in facts["parameters"] and card["prior_sha256"] in facts["prior"] and facts["steps"] == str(card["steps"])
    said = run(capsys, "sample", tmp_path / "shared", "--prior", shop / "prior.safetensors", "--measurement", shop / "small.png", "-n", 2, "--steps", 2, "--out", tmp_path / "a")
    result(capsys, "sample", shop / "sr4", "--measurement", shop / "small.png", "-n", 2, "--steps", 2, "--out", tmp_path / "b")
    assert said[0] == 0
    check_same_samples(tmp_path / "a", tmp_path / "b")


def test_info_counts_what_is_in_the_file(shop, capsys):
    from safetensors import safe_open

    found = result(capsys, "info", shop / "sr4")
    with safe_open(str(shop / "sr4" / "h.safetensors"), "np") as f:
        count = sum(f.get_tensor(k).size for k in f.keys() if k not in ("log_rho2", "level_weight"))
    assert found["parameters"] == count == found["card"]["parameters"]
    said = run(capsys, "info", shop / "sr4")[1]
    assert f"{count:,} parameters" in said and f"sigma_y: {found['card']['task']['sigma_y']}" in said


def test_list_shows_what_it_reports(capsys):
    found, said = result(capsys, "list"), run(capsys, "list")[1]
    for kind in ("tasks", "methods", "samplers"):
        for one in found[kind]:
            assert any(line.split()[:1] == [one["name"]] and one["about"] in line for line in said.splitlines()), one["name"]
    for task in found["tasks"]:
        line = next(line for line in said.splitlines() if line.split()[:1] == [task["name"]])
        assert all(f"{k} {v}" in line for k, v in task["settings"].items())
