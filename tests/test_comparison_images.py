"""deft compare on images of one's own: where they come from, how they are shared out, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deft.bench.data import SHARES, describe, samples_of
from deft.bench.jobs import fit_job
from deft.bench.run import run_study
from deft.bench.studies import read_study, tuned_by
from deft.bench.study_report import write_study
from deft.domains.image.data import dataset
from deft.domains.image.tasks import get_task
from deft.errors import InputError
from deft.kinds.domain import find_domain

SHAPE, IMAGES = (1, 32, 32), find_domain("image")

HEAD = """
images = 2
samples = 2
batch = 8
[fit]
steps = 3
cache = 0
prior_samples = 0
batch = 4
images = 8
calibrate = false
[tune]
images = 2
samples = 2
budget = 8
steps = [2, 3]
metric = "{metric}"
[[on]]
prior = "fashion"
tasks = ["sr4"]
entries = ["deft", "pigdm"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten pictures of clothes as PNG files."""
    out = tmp_path_factory.mktemp("photos")
    for i, x in enumerate(dataset("fashion", "test").x[:10]):
        Image.fromarray(((x[0] + 1) * 127.5).round().byte().numpy()).save(out / f"{i:02d}.png")
    return out


def study_of(tmp_path, text, metric="energy_score"):
    (tmp_path / "s.toml").write_text(HEAD.format(metric=metric) + text)
    return read_study(tmp_path / "s.toml")


def test_one_folder_is_shared_out(folder):
    spec = describe(IMAGES, str(folder), ("fit", "validation", "test"), SHAPE)
    parts = {split: samples_of(IMAGES, spec, split, SHAPE).x for split in SHARES}
    assert {k: len(v) for k, v in parts.items()} == {"test": 2, "validation": 2, "fit": 6}
    everything = torch.cat(list(parts.values())).flatten(1)
    assert len({tuple(row.tolist()) for row in everything}) == 10  # no image is in two splits
    again = describe(IMAGES, str(folder), ("test",), SHAPE)["test"]
    assert again == spec["test"]


def test_bundled_images_are_named_by_name_alone():
    """So that pieces of a comparison of bundled images are kept when its tested images change."""
    assert describe(IMAGES, "fashion", ("fit", "validation"), SHAPE) == "fashion"
    mixed = {"fit": "fashion", "validation": "fashion", "test": "fashion:validation"}
    assert describe(IMAGES, mixed, ("fit", "validation"), SHAPE) == "fashion"
    other = describe(IMAGES, mixed, ("test",), SHAPE)
    torch.testing.assert_close(samples_of(IMAGES, other, "test", SHAPE).x, dataset("fashion", "validation").x)


def test_changed_pixels_are_another_piece(folder, tmp_path):
    stack = dataset("fashion", "test").x[:6].numpy()
    before, after = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(before, x=stack)
    stack[0, 0, 5, 5] += 0.5 if stack[0, 0, 5, 5] < 0 else -0.5
    np.savez(after, x=stack)
    one, two = (
        describe(IMAGES, {"fit": str(p), "validation": "fashion", "test": "fashion"}, ("fit",), SHAPE)["fit"]["digest"]
        for p in (before, after)
    )
    assert one != two


def test_out_of_distribution_shares_fits_and_settings(folder, tmp_path):
    """Only the tested images differ, so the fit is the same piece of work."""
    plain, other = (
        study_of(tmp_path, ""),
        study_of(
            tmp_path,
            f'data = {{ fit = "fashion", validation = "fashion", test = "{folder}" }}\n'
            'features = "fashion-classifier"\n',
        ),
    )
    task = get_task("sr4").config()
    assert (
        fit_job(plain.on[0], task, plain.entries["deft"], 0).key
        == fit_job(other.on[0], task, other.entries["deft"], 0).key
    )
    assert other.on[0].title == f"fashion on {folder.name}" and plain.on[0].title == "fashion"


def test_a_folder_without_a_feature_network(folder, tmp_path):
    """Settings are found by the energy score of pixels, and entries are ranked by it."""
    study = study_of(tmp_path, f'data = "{folder}"\n')
    assert [
        tuned_by(study.tune.metric, on) for on in (study.on[0], replace(study.on[0], features="fashion-classifier"))
    ] == ["energy_score_pixels", "energy_score"]
    assert tuned_by("crps", study.on[0]) == "crps"
    report = write_study(study, run_study(study, tmp_path / "out", progress=False), tmp_path / "out")
    metrics = {r["metric"] for r in report["rows"]}
    assert "energy_score_pixels" in metrics and not metrics & {"feature_distance", "energy_score", "top1"}
    tried = [t for t in report["tuned"][0]["tried"] if t["score"] is not None]
    scores = {
        tuple(json.loads(p.read_text())["per_image"]["energy_score_pixels"])
        for p in (tmp_path / "out" / "draw").glob("*-vali-*.json")
    }
    assert tried and {round(t["score"], 6) for t in tried} <= {round(sum(v) / 2, 6) for v in scores}
    assert {r["prior"] for r in report["rows"]} == {f"fashion on {folder.name}"}
    text = (tmp_path / "out" / "report.md").read_text()
    assert (
        "energy score of pixels, each entry minus deft" in text
        and "by energy score of pixels: at most" in text
        and "By energy score of pixels, " in text
    )
    spec = json.loads(next((tmp_path / "out" / "fit").glob("*.json")).read_text())["spec"]
    assert spec["data"]["fit"]["source"] == str(folder) and len(spec["data"]["fit"]["digest"]) == 12


def test_the_whole_prior_can_be_a_function(folder, tmp_path):
    """A prior of one's own with options, as `load_prior` takes it."""
    (tmp_path / "mine.py").write_text(
        "from deft.prior import load_prior\n\ndef make(which):\n    return load_prior(which)\n"
    )
    text = HEAD.format(metric="crps").replace(
        'prior = "fashion"',
        f'prior = "{tmp_path}/mine.py:make"\nprior_options = {{ which = "fashion" }}\ndata = "{folder}"',
    )
    (tmp_path / "s.toml").write_text(text.replace('entries = ["deft", "pigdm"]', 'entries = ["pigdm", "prior"]'))
    study = read_study(tmp_path / "s.toml", trust_code=True)
    plans = run_study(study, tmp_path / "out", progress=False)
    assert len(plans.cells) == 2 and all(
        (tmp_path / "out" / "draw" / f"{u.key}.json").exists() for c in plans.cells for u in c.draws.values()
    )


REFUSED = {
    'data = "nowhere"\n': "neither bundled",
    'data = { fit = "fashion", validation = "fashion" }\n': "but not test",
    'data = { fit = "fashion", validation = "fashion", tset = "fashion" }\n': "did you mean 'test'",
    'data = { fit = "fashion", validation = "fashion", test = "fashion:tets" }\n': "did you mean 'test'",
    'features = "fashion-clasifier"\n': "did you mean 'fashion-classifier'",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_before_any_work(text, tmp_path):
    with pytest.raises(InputError, match=REFUSED[text]) as error:
        study_of(tmp_path, text)
    assert "\n" not in str(error.value)


def test_too_few_images(folder, tmp_path):
    study = study_of(
        tmp_path,
        f'data = {{ fit = "fashion", validation = "fashion", test = "{folder}" }}\nfeatures = "fashion-classifier"\n',
    )
    with pytest.raises(InputError, match="asks for 11 test images, and there are 10"):
        run_study(type(study)(**{**study.__dict__, "images": 11}), tmp_path / "o", progress=False)


def test_an_unknown_metric_is_named(tmp_path):
    with pytest.raises(InputError, match="did you mean 'energy_score_pixels'"):
        study_of(tmp_path, "", metric="energy_score_pixel")
    with pytest.raises(InputError, match="residual"):  # a description, no score
        study_of(tmp_path, "", metric="residual")
