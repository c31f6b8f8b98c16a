"""`deft.workflow.sampling`: what `deft sample` does, from Python."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

import deft
from deft.core.random import Noise
from deft.errors import InputError
from deft.io.measurements import save_measurement
from deft.io.tasks import get_task
from deft.kinds.domain import domain_for
from deft.methods import plan
from deft.workflow.sampling import Sampling, read_measured
from toys import pictures, toy_prior


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    here = tmp_path_factory.mktemp("sampling")
    toy_prior(here / "prior.safetensors")
    task = get_task("sr4")
    x = (torch.from_numpy(pictures(2)).float() / 127.5 - 1).reshape(2, 1, 16, 16)
    save_measurement(here / "two.npz", task.observe(x, Noise(0, 2)), task)
    Image.fromarray(np.arange(16, dtype="uint8").reshape(4, 4) * 16).save(here / "small.png")
    return here, deft.load_prior(str(here / "prior.safetensors")), task


def test_samples_of_a_picture_are_those_of_the_plan(place, tmp_path):
    here, prior, task = place
    made = plan("pigdm", steps=3)
    done = Sampling(prior, task, made, samples=3, seed=5).run(tmp_path / "out", here / "small.png")
    obs = read_measured(here / "small.png", task, domain_for(prior), prior.data_shape).obs
    draws = made.draw(prior, obs, 3, seed=5)
    with np.load(tmp_path / "out" / "samples.npz") as z:
        assert np.array_equal(z["samples"], draws.x[0]) and np.array_equal(z["mean"], draws.mean[0])
        assert np.array_equal(z["spread"], draws.x[0].clamp(-1, 1).std(0)) and np.array_equal(z["y"], obs.y[0])
    about = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert about == json.loads(json.dumps(done.about)) and about["prior"] == str(here / "prior.safetensors")
    assert about["residual"] == pytest.approx(float(obs.repeat(3).residual_rms(draws.x[0]).mean()), rel=1e-6)
    wanted = {"mean.png", "sample-000.png ...", "samples.npz", "sheet.png", "spread.png"}
    assert set(done.written) == wanted and done.noise == pytest.approx(task.sigma_y)


def test_rows_of_a_measurement_file(place):
    here, prior, task = place
    domain, shape = domain_for(prior), prior.data_shape
    both, second = (read_measured(here / "two.npz", task, domain, shape, row=row).obs for row in (None, 1))
    assert len(both) == 2 and torch.equal(second.y, both.y[1:])
    for options, why in (
        ({"row": 2}, "--row 2"),
        ({"resize": True}, "not resized"),
        ({"mask": here / "small.png"}, "its own mask"),
        ({"array": "y"}, "leave --array"),
    ):
        with pytest.raises(InputError, match=why):
            read_measured(here / "two.npz", task, domain, shape, **options)
    with pytest.raises(InputError, match=r"--data-option width is not for images: leave it out"):
        read_measured(here / "small.png", task, domain, shape, width=3)
    with pytest.raises(InputError, match=r"no file of many measurements"):
        read_measured(here / "small.png", task, domain, shape, row=None)


def test_what_is_doubtful_is_logged(place, tmp_path, caplog):
    """Under a prior that is read wrongly, before anything is drawn; nothing under the right one."""
    here, prior, task = place
    with caplog.at_level(logging.INFO, "deft"):
        Sampling(prior, task, plan("prior", steps=2), samples=1).run(tmp_path / "right", here / "small.png")
        assert not [r for r in caplog.records if "wrong convention" in r.message]
        wrong = prior.reread(output="eps")
        Sampling(wrong, task, plan("prior", steps=2), samples=1).run(tmp_path / "wrong", here / "small.png")
    assert [r.levelname for r in caplog.records if "wrong convention" in r.message] == ["WARNING"]


def test_numbers_out_of_range(place):
    _, prior, task = place
    for options in ({"samples": 0}, {"scale": -1.0}):
        with pytest.raises(InputError, match=r"at least 1|0 or more"):
            Sampling(prior, task, plan("pigdm"), **options)
