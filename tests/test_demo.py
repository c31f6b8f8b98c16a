"""The demo, in its short form, on a prior with random weights."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from deft.bench.result import metrics_of
from deft.errors import InputError
from deft.io.h_files import load_h, save_h
from deft.kinds.domain import find_domain
from deft.prior import load_prior
from deft.workflow.demo import DemoConfig, demo
from toys import refused, result, run, toy_prior


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return toy_prior(tmp_path_factory.mktemp("prior") / "toy.safetensors", side=32)


@pytest.mark.parametrize("task", ["inpaint", "sr4"])
def test_quick_demo(prior, tmp_path, capsys, task):
    line = ("demo", "--quick", "--task", task, "--prior", prior, "--size", 0.4, "--out", tmp_path / "demo")
    report = result(capsys, *line)
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert names == {"samples.png", "samples.npz", "report.json", "report.md", "h.safetensors", "card.md", "log.json"}
    stored = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert stored["rows"] == report["rows"]
    found = {(r["method"], r["metric"]) for r in report["rows"] if "versus" not in r}
    others = {"lpips", "stein"}  # of colour images, and of `deft evaluate --stein`
    expected = [
        m for m in metrics_of(find_domain("image")) if task == "inpaint" or "hidden" not in m if m not in others
    ]
    assert found == {(name, metric) for name in ("deft", "dps", "pigdm", "prior") for metric in expected}
    for row in report["rows"]:
        assert row["task"] == task and row["n"] == 8
        assert (row["low"] is None) == (row["metric"] in ("calls", "seconds", "parameters"))
    trained = {r["method"]: r["value"] for r in report["rows"] if r["metric"] == "parameters"}
    assert trained["deft"] > 0 and trained["pigdm"] == 0
    assert report["settings"]["quick"] and report["settings"]["h"]["parameters"] == trained["deft"]
    picture = Image.open(tmp_path / "demo" / "samples.png")
    assert picture.width > 600 and picture.height > 8 * 64


def test_a_demo_may_replace_a_demo_and_nothing_else(prior, tmp_path, capsys):
    line = ("demo", "--quick", "--prior", prior, "--size", 0.4, "--out", tmp_path / "demo")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.txt").write_text("")
    assert "--overwrite" in refused(capsys, *line)
    (tmp_path / "demo" / "report.json").write_text('{"title": "of my own"}')
    assert "--overwrite" in refused(capsys, *line)
    (tmp_path / "demo" / "report.json").write_text('{"title": "deft demo, an earlier one"}')
    code, out, _ = run(capsys, *line)
    assert code == 0 and "feature distance" in out and "the method minus DEFT" in out
    assert (tmp_path / "demo" / "thesis.txt").exists()


def test_the_same_seed_gives_the_same_figures(prior, tmp_path):
    config = DemoConfig(quick=True, prior=str(prior), size=0.4)
    one, two = (demo(tmp_path / name, config, progress=False) for name in "ab")

    def figures(report):
        return [(r["method"], r["metric"], r["value"]) for r in report["rows"] if r["metric"] != "seconds"]

    assert figures(one) == figures(two)


def test_pretrained(prior, tmp_path, monkeypatch):
    """--pretrained takes the bundled h, and checks that it belongs to the prior."""
    import deft.workflow.demo as library

    first = demo(tmp_path / "fit", DemoConfig(quick=True, prior=str(prior), size=0.4), progress=False)
    monkeypatch.setattr(library, "bundled_h", lambda task: tmp_path / "fit" / "h.safetensors")
    second = demo(tmp_path / "again", DemoConfig(quick=True, pretrained=True, prior=str(prior)), progress=False)
    assert not (tmp_path / "again" / "h.safetensors").exists() and second["settings"]["h"]["pretrained"]
    values = [{(r["method"], r["metric"]): r["value"] for r in x["rows"] if "versus" not in r} for x in (first, second)]
    assert values[0]["deft", "psnr"] == pytest.approx(values[1]["deft", "psnr"], abs=1e-4)
    loaded = load_prior(prior)
    h, task, _ = load_h(tmp_path / "fit", loaded)
    torch.nn.init.zeros_(loaded.net.outlet.weight)
    save_h(tmp_path / "fit" / "h.safetensors", h, loaded, task)
    with pytest.raises(ValueError, match="was fitted to the prior"):
        demo(tmp_path / "third", DemoConfig(quick=True, pretrained=True, prior=str(prior)), progress=False)


def test_no_bundled_h(capsys, tmp_path):
    assert "fit one" in refused(capsys, "demo", "--task", "mri", "--pretrained", "--out", tmp_path / "demo")


def test_bad_settings():
    with pytest.raises(InputError, match="did you mean 'inpaint'"):
        DemoConfig(task="inpaintt")
    with pytest.raises(InputError, match="500 bundled test images"):
        DemoConfig(images=501)


def test_prior_of_another_shape(tmp_path, capsys):
    small = toy_prior(tmp_path / "small.safetensors", side=16)
    assert "bundled images of 32x32 grey or 64x64 grey" in refused(
        capsys, "demo", "--quick", "--prior", small, "--out", tmp_path / "demo"
    )
