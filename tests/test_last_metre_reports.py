"""The last metre: reports of `deft evaluate`, `deft demo` and `deft compare` are those of their samples, and
their pictures show them."""

from __future__ import annotations

import io
import json
import shutil
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deft import __file__ as package
from golden import arrays, close, png, read
from golden_reports import check_compared, check_evaluated
from toys import pictures, result, run, save_pictures, toy_prior

CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


@pytest.fixture(scope="module")
def titles(tmp_path_factory):
    """Method -> what reports call it, as `deft list` has it."""
    from deft.cli import main

    said = io.StringIO()
    with redirect_stdout(said):
        assert main(["list", "--json"]) == 0
    return {m["name"]: m["title"] for m in json.loads(said.getvalue())["methods"]}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A tiny prior, an h for it, and three sets of images that differ."""
    from deft.cli import main

    here = tmp_path_factory.mktemp("reports")
    toy_prior(here / "toy.safetensors")
    toy_prior(here / "large.safetensors", side=32, seed=2)
    for i, name in enumerate(("fit", "validation", "test")):
        save_pictures(here / name, pictures(10, seed=10 + i))
    fit = (
        "fit", "--prior", here / "toy.safetensors", "--size", 0.4, "--data", here / "fit", "--steps", 2, "--batch", 4,
        "--cache", 0, "--prior-samples", 0,
    )  # fmt: skip
    assert main([str(a) for a in (*fit, "--out", here / "run")]) == 0
    return here


def unit(images):
    return images[:, None] / np.float32(127.5) - 1


# deft evaluate


def evaluated(capsys, shop, out, *more):
    """(seconds, what the terminal was told) of a comparison of three methods on six images, three samples of each."""
    started = time.perf_counter()
    code, said, err = run(
        capsys, "evaluate", shop / "run", "--data", shop / "test", "--images", 6, "--samples", 3, "--steps", 3,
        "--methods", "pigdm,deft,prior", "--seed", 2, "--out", out, *more,
    )  # fmt: skip
    assert code == 0, err
    return time.perf_counter() - started, said


def test_evaluate(shop, titles, tmp_path, capsys):
    seconds, said = evaluated(capsys, shop, tmp_path / "r")
    methods = {m: titles[m] for m in ("pigdm", "deft", "prior")}
    check_evaluated(
        tmp_path / "r", images=unit(pictures(10, seed=12)[:6]), samples=3, calls=dict.fromkeys(methods, 3),
        titles=methods, seconds=seconds, said=said,
    )  # fmt: skip
    settings = read(tmp_path / "r" / "report.json")["settings"]
    assert (settings["seed"], settings["run"], settings["data"]) == (2, str(shop / "run"), str(shop / "test")) and all(
        p["steps"] == 3 for p in settings["plans"]
    )


def test_evaluate_small_pictures(shop, titles, tmp_path, capsys):
    """A task without a mask, without a run, on all of the images."""
    started = time.perf_counter()
    code, said, err = run(
        capsys, "evaluate", "--prior", shop / "toy.safetensors", "--task", "sr4", "--data", shop / "validation",
        "--samples", 2, "--steps", 2, "--methods", "replacement,dps", "--out", tmp_path / "r",
    )  # fmt: skip
    assert code == 0, err
    methods = {m: titles[m] for m in ("replacement", "dps")}
    check_evaluated(
        tmp_path / "r", images=unit(pictures(10, seed=11)), samples=2, calls=dict.fromkeys(methods, 2),
        titles=methods, seconds=time.perf_counter() - started, said=said,
    )  # fmt: skip


def test_evaluate_pairs_takes_the_measurements_that_are_given(shop, titles, tmp_path, capsys):
    x = pictures(4, seed=12)
    mask = np.ones((4, 16, 16), np.float32)
    mask[:, 3:9, 2:9] = 0
    np.savez(tmp_path / "pairs.npz", x=x, y=np.where(mask > 0, x, 0).astype(np.uint8), mask=mask)
    started = time.perf_counter()
    result(
        capsys, "evaluate", shop / "run", "--data", tmp_path / "pairs.npz", "--pairs", "--methods", "deft", "--steps",
        2, "--samples", 2, "--out", tmp_path / "r",
    )  # fmt: skip
    check_evaluated(
        tmp_path / "r",
        images=unit(x),
        samples=2,
        calls={"deft": 2},
        titles={"deft": titles["deft"]},
        seconds=time.perf_counter() - started,
    )
    kept = arrays(tmp_path / "r" / "samples.npz")
    np.testing.assert_allclose(kept["y"], unit(x) * mask[:, None], atol=1e-6)
    np.testing.assert_array_equal(np.broadcast_to(kept["mask"], mask[:, None].shape), mask[:, None])


def test_the_batch_changes_no_report(shop, tmp_path, capsys):
    for name, batch in (("one", 1), ("many", 64)):
        evaluated(capsys, shop, tmp_path / name, "--batch", batch)
    one, two = (read(tmp_path / name / "report.json")["rows"] for name in ("one", "many"))
    for a, b in zip(one, two, strict=True):
        if a["metric"] != "seconds":
            close(a["value"], b["value"], 1e-3, f"{a['metric']} of {a['method']} with --batch 1", 1e-4)


# deft demo


def test_demo(shop, titles, tmp_path, capsys):
    """On the bundled test images, with their classes beside them; the feature network's figures are checked
    against each other."""
    started = time.perf_counter()
    code, said, err = run(
        capsys, "demo", "--quick", "--prior", shop / "large.safetensors", "--size", 0.4, "--seed", 1, "--out",
        tmp_path / "d",
    )  # fmt: skip
    assert code == 0, err
    with np.load(next(Path(package).parent.rglob("fashion.npz"))) as bundled:
        truth, labels = bundled["test"][:8], bundled["test_labels"][:8]
    methods = {m: titles[m] for m in ("deft", "dps", "pigdm", "prior")}
    check_evaluated(
        tmp_path / "d", images=unit(truth), samples=2, calls=dict.fromkeys(methods, 5), titles=methods,
        seconds=time.perf_counter() - started, said=said, captions=[CLOTHES[i] for i in labels],
    )  # fmt: skip
    report = read(tmp_path / "d" / "report.json")
    assert (
        report["settings"]["seed"] == 1
        and report["settings"]["h"]["steps"] == 8
        and report["settings"]["h"]["cache"] == 64
    )
    plain = {(r["method"], r["metric"]): r["value"] for r in report["rows"] if "versus" not in r}
    for m in methods:  # energy score = distance to the truth less half of that between samples
        close(
            plain[m, "energy_score"],
            plain[m, "feature_distance"] - plain[m, "diversity"] / 2,
            1e-3,
            f"energy score of {m}",
            1e-4,
        )
        assert 0 <= plain[m, "top1"] <= 1
    info = result(capsys, "info", tmp_path / "d" / "h.safetensors")
    assert (
        info["parameters"] == plain["deft", "parameters"] == report["settings"]["h"]["parameters"]
        and plain["pigdm", "parameters"] == 0
    )


# deft compare

STUDY = """
title = "A tiny comparison"
images = 3
samples = 2
seeds = [0, 1]
batch = 8

[fit]
steps = 2
cache = 0
prior_samples = 0
images = 6
size = 0.4
batch = 4
calibrate = false

[tune]
images = 2
samples = 2
budget = 12
points = 3
calls = 4
metric = "energy_score_pixels"

[curve]
calls = [2, 4]
images = 2
samples = 2
points = 1

[[on]]
prior = "{here}/toy.safetensors"
data = {{ fit = "{here}/fit", validation = "{here}/validation", test = "{here}/test" }}
tasks = ["sr4"]
arms = ["deft", "pigdm", "replacement"]
curve = ["sr4"]
"""


@pytest.fixture(scope="module")
def compared(shop, titles, tmp_path_factory):
    """A tiny comparison: (its folder, what was printed, what matplotlib was told to plot, what its check takes)."""
    from matplotlib.axes import Axes

    from deft.cli import main

    here, lines, plot, said = tmp_path_factory.mktemp("compared"), [], Axes.plot, io.StringIO()
    (here / "tiny.toml").write_text(STUDY.format(here=shop))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(
            Axes,
            "plot",
            lambda self, x, y, *more, **options: (
                lines.append((options.get("label"), list(x), list(y))) or plot(self, x, y, *more, **options)
            ),
        )
        assert main(["compare", str(here / "tiny.toml"), "--out", str(here / "c"), "--json"]) == 0
    (prior,) = {r["prior"] for r in read(here / "c" / "report.json")["rows"]}
    arms = {m: titles[m] for m in ("deft", "pigdm", "replacement")}
    return (
        here / "c",
        json.loads(said.getvalue()),
        lines,
        {
            "truth": unit(pictures(10, seed=12)[:3]),
            "seeds": (0, 1),
            "samples": 2,
            "titles": arms,
            "prior": prior,
            "task": "sr4",
        },
    )


def test_compare(compared):
    out, told, lines, given = compared
    report = read(out / "report.json")
    assert told["rows"] == len(report["rows"]) and told["verdicts"] == report["verdicts"] and not told["failed"]
    assert all(len(t["tried"]) == 3 for t in report["tuned"] if t["method"] == "pigdm")
    check_compared(out, **given)
    assert (report["images"], report["samples"], report["seeds"]) == (3, 2, [0, 1])
    for title, x, y in lines:  # the picture of quality against calls
        mine = sorted(
            (c["calls"], c["value"])
            for c in report["curves"]
            if c["title"] == title and c["metric"] == "energy_score_pixels"
        )
        assert list(zip(x, y, strict=True)) == mine
    assert {title for title, *_ in lines} == set(given["titles"].values()) and png(
        next(out.glob("curve-*.png"))
    ).std() > 5


def _arms_exchanged(report):
    rows = {(r["method"], r["metric"], r["seed"]): r for r in report["rows"] if "versus" not in r}
    for (method, metric, seed), row in list(rows.items()):
        if method == "deft" and (other := rows.get(("pigdm", metric, seed))):
            row["value"], other["value"] = other["value"], row["value"]


def _worst_chosen(report):
    tuned = next(t for t in report["tuned"] if len(t["tried"]) > 1)
    worst = max(tuned["tried"], key=lambda t: t["score"])
    tuned["chosen"] = {k: v for k, v in worst.items() if k != "score"}


def _curve_moved(report):
    report["curves"][0]["value"] += 0.01


@pytest.mark.parametrize("change", [_arms_exchanged, _worst_chosen, _curve_moved])
def test_a_wrong_report_of_a_comparison_is_caught(compared, tmp_path, change):
    out, _, _, given = compared
    shutil.copytree(out, tmp_path / "c")
    report = read(tmp_path / "c" / "report.json")
    change(report)
    (tmp_path / "c" / "report.json").write_text(json.dumps(report))
    with pytest.raises(AssertionError):
        check_compared(tmp_path / "c", **given)


def test_other_samples_than_were_measured_are_caught(compared, tmp_path):
    """Truth and samples exchanged in a piece; a wall of other samples than are kept; a column of report.md in
    another's place."""
    out, _, _, given = compared
    for i, spoil in enumerate(("samples", "wall", "table")):
        shutil.copytree(out, tmp_path / str(i))
        here = tmp_path / str(i)
        if spoil == "samples":
            path = next(here.glob("draw/*pigdm-test*.npz"))
            kept = arrays(path)
            np.savez(path, **{**kept, "samples": kept["samples"][::-1]})
        elif spoil == "wall":
            path = next(here.glob("wall-*.png"))
            Image.fromarray(png(path)[:, ::-1]).save(path)
        else:
            text = (here / "report.md").read_text()
            rows = [line for line in text.splitlines() if line.startswith("| DEFT |") and "%" in line]
            cells = rows[0].split("|")
            cells[2], cells[3] = cells[3], cells[2]
            (here / "report.md").write_text(text.replace(rows[0], "|".join(cells)))
        with pytest.raises(AssertionError):
            check_compared(here, **given)
