"""Tasks composed by their names, `A+B`, and the ready ones of several operators, through files and commands."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from deft.core.random import BatchNoise, Noise
from deft.domains.image.data import dataset
from deft.domains.image.tasks import TASKS, get_task, make_task
from deft.domains.image.writing import picture_of
from deft.errors import InputError
from deft.io.measurements import read_measurement, save_measurement
from deft.io.tasks import TASKS as ALL
from deft.recipe.fitted import load
from toys import refused, result, toy_prior

CHAINS = {
    "deblur-gaussian+inpaint": "ComposedLinear",
    "deblur-gaussian+sr4": "ComposedLinear",
    "deblur-gaussian+sr4-bicubic": "Separable",
    "sr4+inpaint-random": "ComposedLinear",
    "deblur-motion+sr4": "ComposedLinear",
    "deblur-gaussian+hdr": "Composed",
    "hdr+inpaint": "Composed",
    "deblur-gaussian+sr4+jpeg": "Composed",
    "inpaint+poisson": "Mask",
    "denoise+ct": "Radon",
}


@pytest.mark.parametrize("name", CHAINS)
def test_chain(name, tmp_path):
    """Measures as the two tasks do one after the other; a settings dictionary and a file make it again."""
    x = dataset("fashion", "test").x[:3]
    task = get_task(name)
    obs = task.observe(x, Noise(0, 3))
    assert type(obs.likelihood.operator).__name__ == CHAINS[name] and task.name == name and name not in list(TASKS)
    assert obs.features().shape == (3, task.feature_channels, 32, 32)
    assert picture_of(obs, x.shape[1:]).shape == (3, 32, 32, 3)
    assert make_task(json.loads(json.dumps(task.config()))) == task and type(task) is ALL[name]
    if not task.drawn:
        first, then = task.part(0), task.part(1)
        z = first.operator(x, Noise(0, 3))(x)
        torch.testing.assert_close(obs.likelihood.operator(x), then.operator(z, Noise(0, 3))(z))
    a, b = task.observe(x, BatchNoise(3, 1)), task.observe(x, BatchNoise(3, 2))
    assert torch.equal(a.y, b.y) == task.fixed
    path = tmp_path / "m.npz"
    save_measurement(path, obs, task, truth=x)
    again = read_measurement(path, task, x.shape[1:])
    torch.testing.assert_close(again.y, obs.y)
    torch.testing.assert_close(again.log_prob(x), obs.log_prob(x), rtol=1e-4, atol=1e-2)


def test_settings_of_both():
    """Fields of both, under their own names; of two with one name the second's has its task's before it. The noise is
    the last one's."""
    task = get_task("deblur-gaussian+inpaint", deviation=3.0, smallest=0.3, sigma_y=0.1)
    assert task.part(0).deviation == 3.0 and task.part(1).smallest == 0.3 and task.part(1).sigma_y == 0.1
    assert set(task.config()) == {"name", "sigma_y", "deviation", "smallest", "largest"}
    twice = get_task("sr4+sr4", factor=2, sr4_factor=4)
    assert twice.check((1, 32, 32)).y.shape == (1, 1, 4, 4)
    assert get_task("sr4+jpeg").sigma_y == 0.0 and get_task("jpeg+sr4").sigma_y == 0.05
    same = get_task("deblur-gaussian+inpaint", deviation=3.0, smallest=0.3, sigma_y=0.1)
    assert same == task and hash(same) == hash(task) and "deviation=3.0" in repr(task)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("deblur-gaussian+inpant", {}, "did you mean 'inpaint'"),
        ("blur+inpaint", {}, "unknown task 'blur'"),
        ("deblur-motion+inpaint", {}, "draws two things for each image, kernel and mask"),
        ("poisson+inpaint", {}, "name it last"),
        ("deblur-gaussian+inpaint", {"deviation": -1.0}, "deviation"),
        ("deblur-gaussian+inpaint", {"smallest": 2.0}, "smallest"),
        ("deblur-gaussian+inpaint", {"width": 2.0}, "unknown setting"),
        ("compressed+inpaint", {}, "does not fit"),
    ],
)
def test_refusals(name, options, says):
    with pytest.raises(InputError, match=says) as found:
        get_task(name, **options).check((1, 32, 32))
    assert "\n" not in str(found.value)


@pytest.fixture
def files(tmp_path):
    data = tmp_path / "x.npz"
    np.savez(data, x=np.random.default_rng(0).integers(0, 255, (12, 16, 16)).astype(np.uint8))
    return toy_prior(tmp_path / "p.safetensors", side=16), data


@pytest.mark.parametrize("task", ["deblur-gaussian+inpaint", "sr4+inpaint-random", "deblur-inpaint", "two-views"])
def test_measure_and_sample(task, files, tmp_path, capsys):
    prior, data = files
    made = result(capsys, "measure", "--task", task, "--data", data, "--images", 2, "--out", tmp_path / "m.npz")
    assert made["task"]["name"] == task and (tmp_path / "m.png").exists()
    line = ("sample", "--prior", prior, "--method", "pigdm", "--measurement", tmp_path / "m.npz")
    found = result(capsys, *line, "-n", 2, "--steps", 3, "--out", tmp_path / "out")
    assert found["samples"] == 2 and (tmp_path / "out" / "sheet.png").exists()


@pytest.mark.parametrize("task", ["deblur-gaussian+inpaint", "deblur-inpaint", "two-views"])
def test_fit_and_load(task, files, tmp_path, capsys):
    """A fit by the name; the run says what its task is, and is loaded, sampled and evaluated without saying it."""
    prior, data = files
    line = ("fit", "--prior", prior, "--task", task, "--data", data, "--steps", 4, "--batch", 4, "--size", 0.9)
    result(capsys, *line, "--prior-samples", 0, "--out", tmp_path / "run")
    fitted = load(tmp_path / "run")
    assert fitted.task == get_task(task) and fitted.task.name == task
    line = ("evaluate", tmp_path / "run", "--data", data, "--images", 4, "--samples", 2, "--steps", 3)
    assert result(capsys, *line, "--out", tmp_path / "report")
    assert get_task(task).title in (tmp_path / "report" / "report.md").read_text()


def test_refused_at_the_command_line(files, capsys, tmp_path):
    _, data = files
    line = ("measure", "--data", data, "--out", tmp_path / "m.npz", "--task")
    assert "did you mean 'inpaint'" in refused(capsys, *line, "deblur-gaussian+inpant")
    assert "kernel and mask" in refused(capsys, *line, "deblur-motion+inpaint")


def test_observations_of_chains_travel():
    """An observation is a value: it is pickled to other processes."""
    obs = get_task("deblur-gaussian+inpaint").observe(torch.zeros(2, 1, 16, 16), Noise(0, 2))
    again = pickle.loads(pickle.dumps(obs))
    assert again.fingerprint() == obs.fingerprint()
