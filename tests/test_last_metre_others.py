"""The last metre: what `deft measure`, `deft hub`, `deft info` and `deft list` write or say is what it must be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from golden import arrays, markdown_tables, png, read, shown, shown_and_reported
from golden_checks import check_measured, check_same_samples
from golden_reports import NAMES
from test_last_metre import shop
from toys import pictures, result, run

_ = shop  # the fixture


# deft measure


@pytest.mark.parametrize(("task", "sigma_y"), [("inpaint", 0.05), ("sr4", 0.2), ("denoise", 0.3)])
def test_measure(shop, tmp_path, capsys, task, sigma_y):
    about = result(
        capsys, "measure", "--task", task, "--data", shop / "photos", "--sigma-y", sigma_y, "--images", 11, "--seed",
        3, "--out", tmp_path / "y.npz",
    )  # fmt: skip
    check_measured(tmp_path / "y.npz", about, images=pictures(12)[:11], task=task, sigma_y=sigma_y)
    other = result(
        capsys, "measure", "--task", task, "--data", shop / "photos", "--sigma-y", sigma_y, "--images", 2, "--seed",
        4, "--out", tmp_path / "z.npz",
    )  # fmt: skip
    y, z = (arrays(tmp_path / f"{name}.npz")["y"] for name in "yz")
    assert other["n"] == 2 and np.abs(y[0] - z[0]).max() > 0.1 * sigma_y and np.abs(y[0] - y[1]).max() > 0.1


def test_measure_inspect_shows_what_it_reports(shop, tmp_path, capsys):
    result(capsys, "measure", "--task", "sr4", "--data", shop / "photos", "--images", 2, "--out", tmp_path / "y.npz")
    line = (
        "measure", "inspect", tmp_path / "y.npz", "--prior", shop / "prior.safetensors", "--rows", 2, "-n", 1,
        "--steps", 4,
    )  # fmt: skip
    found, said = shown_and_reported(capsys, *line)
    table = {r[:63].strip(): r[64:].split() for r in said.splitlines() if len(r) > 90}
    for one in found["tried"][:8]:
        if one["why"] is None or not one["why"]:
            cells = table[one["reading"][:63].strip()]
            assert all(
                shown(v, c) for v, c in zip([one["surprise"], one["residual"], *one["range"]], cells, strict=True)
            ), (one, cells)
    assert found["verdict"] in said and found["taken"] in found["tried"] and found["task"]["name"] == "sr4"


def test_converted_kspace_is_the_transform_of_the_image(tmp_path, capsys):
    """sigpy's k-space (centred, orthonormal, phase 0 in the middle) of u in [0, 1] is y of 2 u - 1, zero
    frequency in the middle and phase 0 in the corner."""
    u = np.random.default_rng(0).uniform(0, 1, (16, 16))
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(u), norm="ortho"))
    np.save(tmp_path / "k.npy", k.astype(np.complex64))
    about = result(
        capsys, "measure", "convert", "sigpy", tmp_path / "k.npy", "--scale", 1, "--sigma-y", 0.02, "--out",
        tmp_path / "y.npz",
    )  # fmt: skip
    data = arrays(tmp_path / "y.npz")
    expected = np.fft.fftshift(np.fft.fft2(2 * u - 1, norm="ortho"))
    np.testing.assert_allclose(data["y"][0], np.stack([expected.real, expected.imag]), atol=1e-4)
    assert json.loads(str(data["task"])) == about["task"] and (
        about["n"],
        about["shape"],
        about["scale"],
        about["task"]["sigma_y"],
    ) == (1, [2, 16, 16], 1, 0.02)
    assert (data["mask"].all() and [str(v) for v in data["notes"].ravel()] == about["notes"]) or "\n".join(
        about["notes"]
    ) in str(data["notes"])


# deft hub, deft info, deft list


def test_what_is_shared_shows_the_report(shop, tmp_path, capsys):
    result(
        capsys, "evaluate", shop / "sr4", "--data", shop / "photos", "--images", 4, "--samples", 2, "--steps", 2,
        "--methods", "deft,pigdm", "--out", tmp_path / "report",
    )  # fmt: skip
    report, picture = tmp_path / "report" / "report.json", tmp_path / "report" / "samples.png"
    made = result(
        capsys, "hub", "export", shop / "sr4", "--report", report, "--picture", picture, "--license", "mit",
        "--about-data", "checks", "--note", "a note", "--out", tmp_path / "shared",
    )  # fmt: skip
    card = read(tmp_path / "shared" / "card.json")
    assert card == made["card"] and sorted(p.name for p in (tmp_path / "shared").iterdir()) == sorted(made["files"])
    rows = [r for r in read(report)["rows"] if "versus" not in r]
    assert [{k: r[k] for k in m} for r, m in zip(rows, card["metrics"], strict=True)] == card["metrics"] and len(
        card["metrics"][0]
    ) >= 6
    assert np.array_equal(png(tmp_path / "shared" / "sample.png"), png(picture))
    original, copy = (result(capsys, "info", tmp_path / "shared" if i else shop / "sr4") for i in (0, 1))
    assert original["parameters"] == copy["parameters"] == card["parameters"] and (
        card["licence"],
        card["data"],
        card["note"],
    ) == ("mit", "checks", "a note")
    text = (tmp_path / "shared" / "README.md").read_text()
    tables = markdown_tables(text)
    figures = next(t for t in tables if t[0][1:] == ["DEFT", "ΠGDM"])
    by = {(r["method"], r["metric"]): r for r in rows}
    for name, *cells in figures[1:]:
        metric = next(k for k, v in NAMES.items() if v == name.rstrip(" ↑↓"))
        for method, cell in zip(("deft", "pigdm"), cells, strict=True):
            assert shown(by[method, metric]["value"], cell), (name, method, cell)
    facts = {r[0]: r[1] for t in tables for r in t if len(r) == 2}
    assert (
        f"{card['parameters']:,}" in facts["parameters"]
        and card["prior_sha256"] in facts["prior"]
        and facts["steps"] == str(card["steps"])
    )
    said = run(
        capsys, "sample", tmp_path / "shared", "--prior", shop / "prior.safetensors", "--measurement",
        shop / "small.png", "-n", 2, "--steps", 2, "--out", tmp_path / "a",
    )  # fmt: skip
    result(
        capsys, "sample", shop / "sr4", "--measurement", shop / "small.png", "-n", 2, "--steps", 2, "--out",
        tmp_path / "b",
    )  # fmt: skip
    assert said[0] == 0
    check_same_samples(tmp_path / "a", tmp_path / "b")


def test_info_counts_what_is_in_the_file(shop, capsys):
    from safetensors import safe_open

    found = result(capsys, "info", shop / "sr4")
    with safe_open(str(shop / "sr4" / "h.safetensors"), "np") as f:
        count = sum(f.get_tensor(k).size for k in f.keys() if k not in ("log_rho2", "level_weight"))  # noqa: SIM118
    assert found["parameters"] == count == found["card"]["parameters"]
    said = run(capsys, "info", shop / "sr4")[1]
    assert f"{count:,} parameters" in said and f"sigma_y: {found['card']['task']['sigma_y']}" in said


def test_list_shows_what_it_reports(capsys):
    found, said = shown_and_reported(capsys, "list")
    for kind in ("tasks", "methods", "samplers"):
        for one in found[kind]:
            assert any(line.split()[:1] == [one["name"]] and one["about"] in line for line in said.splitlines()), one[
                "name"
            ]
    for task in found["tasks"]:
        line = next(line for line in said.splitlines() if line.split()[:1] == [task["name"]])
        assert all(f"{k}={v}" in line for k, v in task["settings"].items())
