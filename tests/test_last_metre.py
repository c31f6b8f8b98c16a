"""The last metre: what `deft sample` writes is read back, and is what it must be."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from golden import arrays, close
from golden_checks import check_same_samples, check_samples
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
    fit = (
        "fit", "--prior", here / "prior.safetensors", "--size", 0.4, "--data", here / "photos", "--steps", 2,
        "--batch", 4, "--cache", 0, "--prior-samples", 0,
    )  # fmt: skip
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
    return (
        "sample", here / "inpaint", "--measurement", here / "photo.png", "--mask", here / "mask.png", "-n", n,
        "--steps", 3, "--out", out, *more,
    )  # fmt: skip


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
    about = result(
        capsys, "sample", shop / "sr4", "--measurement", shop / "small.png", "-n", 9, "--steps", 2, "--out",
        tmp_path / "a",
    )  # fmt: skip
    check_samples(tmp_path / "a", about, n=9, steps=2, y=photo(shop / "small.png"))


def test_sample_in_colour(shop, tmp_path, capsys):
    about = result(
        capsys, "sample", "--prior", shop / "rgb.safetensors", "--task", "denoise", "--method", "pigdm",
        "--measurement", shop / "rgb.png", "-n", 2, "--steps", 3, "--out", tmp_path / "a",
    )  # fmt: skip
    check_samples(tmp_path / "a", about, n=2, steps=3, y=photo(shop / "rgb.png"))
    assert about["prior"] == str(shop / "rgb.safetensors") and about["run"] is None


def test_calls_are_those_of_the_network(shop, tmp_path, capsys):
    """Of two draws that differ in the steps alone, the further calls times the samples are the further images
    through the network."""
    base = (
        "sample", "--prior", f"{shop}/counted.py:make", "--prior-option", f"path={shop}/prior.safetensors",
        "--measurement", shop / "photo.png", "--mask", shop / "mask.png", "-n", 3,
    )  # fmt: skip
    for method, more in (
        ("pigdm", ("--sampler", "ddim")),
        ("prior", ("--sampler", "heun")),
        ("diffpir", ()),
        ("deft", ()),
    ):
        counts, calls = [], []
        for steps in (3, 5):
            log, out = tmp_path / f"{method}-{steps}.txt", tmp_path / f"{method}-{steps}"
            line = base if method != "deft" else (base[0], shop / "inpaint", *base[1:])
            about = result(
                capsys, *line, "--prior-option", f"log={log}", "--method", method, *more, "--steps", steps, "--out", out
            )
            counts.append(sum(map(int, log.read_text().split())))
            calls.append(about["calls"])
            assert about["calls"] == (2 * steps - 1 if "heun" in more else steps) and about["plan"]["method"] == method
        assert counts[1] - counts[0] == 3 * (calls[1] - calls[0]), (method, counts, calls)


def test_a_reward_is_that_of_the_samples(shop, tmp_path, capsys):
    (tmp_path / "taste.py").write_text("def brightness(x):\n    return x.flatten(1).mean(1)\n")
    about = result(
        capsys, "sample", "--prior", shop / "prior.safetensors", "--reward", f"{tmp_path}/taste.py:brightness",
        "--beta", 0.25, "--method", "gradient", "-n", 3, "--steps", 3, "--out", tmp_path / "a",
    )  # fmt: skip
    check_samples(tmp_path / "a", about, n=3, steps=3)
    close(about["reward"], float(arrays(tmp_path / "a" / "samples.npz")["samples"].mean()), 1e-4, "mean reward", 1e-6)
    assert about["residual"] is None and about["task"]["beta"] == 0.25


def test_a_row_of_a_measurement_file(shop, tmp_path, capsys):
    result(capsys, "measure", "--task", "sr4", "--data", shop / "photos", "--images", 3, "--out", tmp_path / "y.npz")
    y = arrays(tmp_path / "y.npz")["y"]
    for row in (0, 2):
        about = result(
            capsys, "sample", shop / "sr4", "--measurement", tmp_path / "y.npz", "--row", row, "-n", 2, "--steps", 2,
            "--out", tmp_path / f"r{row}",
        )  # fmt: skip
        check_samples(tmp_path / f"r{row}", about, n=2, steps=2, y=y[row])


@pytest.mark.slow
def test_a_refined_h_is_kept_beside_its_samples(shop, tmp_path, capsys):
    about = result(
        capsys, "sample", shop / "sr4", "--measurement", shop / "small.png", "--refine", 1, "-n", 2, "--steps", 2,
        "--out", tmp_path / "a",
    )  # fmt: skip
    check_samples(tmp_path / "a", about, n=2, steps=2, y=photo(shop / "small.png"))
    card = result(capsys, "info", tmp_path / "a")["card"]
    assert (
        card["refined"] == 1
        and card["measurement"]["file"] == str(shop / "small.png")
        and card["task"] == about["task"]
    )
    plain = result(
        capsys, "sample", tmp_path / "a", "--measurement", shop / "small.png", "-n", 2, "--steps", 2, "--out",
        tmp_path / "b",
    )  # fmt: skip
    check_same_samples(tmp_path / "a", tmp_path / "b")  # it is the h that drew them
    assert plain["task"] == about["task"]
