"""Tasks and measurement files: every row of the table measures, is written and read back, and refuses what does not
fit."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from deft.core.denoiser import freeze
from deft.core.random import BatchNoise, Noise
from deft.domains.image.data import dataset
from deft.domains.image.prior import ImagePrior
from deft.domains.image.tasks import PAPER, TASKS, ImageTask, get_task, make_task
from deft.domains.image.writing import picture_of
from deft.errors import InputError
from deft.io.measurements import is_measurement, read_measurement, save_measurement
from deft.learned import DEFT
from deft.nn import UNet
from deft.operator import Mask
from deft.schedule import VPCosine
from deft.train.cache import PredictionCache
from deft.train.data import Clean
from toys import refused, result, toy_prior


def images(name: str, n: int = 3) -> torch.Tensor:
    x = dataset("fashion", "test").x[:n]
    return (
        x.expand(-1, 3, -1, -1).contiguous() * torch.tensor([1.0, 0.6, -0.3]).reshape(3, 1, 1)
        if name == "colourise"
        else x
    )


@pytest.mark.parametrize("name", TASKS)
def test_observation(name):
    """Shapes, finite values, the class's `feature_channels`, a picture; a settings dictionary makes the same task
    again."""
    task, x = get_task(name), images(name)
    obs = task.observe(x, Noise(0, len(x)))
    assert bool(torch.isfinite(obs.y).all()) and len(obs) == 3
    assert obs.features().shape == (3, task.feature_channels * x.shape[1], 32, 32)
    assert picture_of(obs, x.shape[1:]).shape == (3, 32, 32, 3)
    assert make_task(json.loads(json.dumps(task.config()))) == task
    assert task.title and task.about and task.name == name
    pulled = obs.likelihood.approx_mean_update(obs.y, torch.zeros_like(x), torch.full((3, 1, 1, 1), 0.3))
    assert bool(torch.isfinite(pulled).all())
    part = task.observe(x[1:2], Noise(0, [1]))
    torch.testing.assert_close(part.y, obs.y[1:2], rtol=1e-4, atol=1e-4)  # a measurement does not depend on its batch


@pytest.mark.parametrize("name", TASKS)
def test_an_h_can_be_fitted_to_it(name):
    """The untrained h runs on the task's observations, and its guide points to the data on average."""
    task, x = get_task(name), images(name)
    torch.manual_seed(0)
    prior = freeze(ImagePrior(UNet(x.shape[1], x.shape[1], (8, 8), patch=4), VPCosine(), tuple(x.shape[1:])))
    h = DEFT(prior.event_shape, task.feature_channels, 4)
    obs = task.observe(x, Noise(0, 3))
    assert h(prior(x, torch.tensor(0.5)), obs).shape == x.shape


@pytest.mark.parametrize("name", TASKS)
def test_fixed_tasks_are_measured_once(name):
    """Where nothing is random the same image gives the same y; elsewhere it does not."""
    task, x = get_task(name), images(name)
    a, b = task.observe(x, BatchNoise(3, 1)), task.observe(x, BatchNoise(3, 2))
    assert torch.equal(a.y, b.y) == task.fixed


def test_what_is_drawn_must_be_said():
    """A measurement file could not bring back a mask that the task does not name, and a noiseless task would count as
    fixed."""

    @dataclass(frozen=True)
    class Sly(ImageTask):
        name, title, sigma_y = "sly", "a mask nobody names", 0.0

        def operator(self, x, noise):
            return Mask((noise.uniform((1, 4, 4)) < 0.5).float())

    with pytest.raises(InputError, match="does not say what is drawn: make it a `Drawn`"):
        Sly().observe(torch.ones(2, 1, 4, 4), Noise(0, 2))


def test_a_bank_of_fixed_measurements(tmp_path):
    task, x = get_task("phase"), images("phase", 6)
    prior = freeze(ImagePrior(UNet(1, 1, (8, 8), patch=4), VPCosine(), (1, 32, 32)))
    for batches in (PredictionCache.build(prior, x, task, 10, fixed=True), Clean(x, task, fixed=True)):
        batch = batches.draw(4, 0, 3, torch.device("cpu"))
        torch.testing.assert_close(batch.observation.y, task.observe(batch.x, BatchNoise(4, 0)).y)
        torch.testing.assert_close(
            batch.observation.features(), task.observe(batch.x, BatchNoise(4, 0)).features(), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("name", TASKS)
def test_file_and_back(name, tmp_path):
    task, x = get_task(name), images(name)
    obs = task.observe(x, Noise(0, 3))
    path = tmp_path / "m.npz"
    save_measurement(path, obs, task, truth=x)
    assert is_measurement(path)
    again = read_measurement(path, task, x.shape[1:])
    torch.testing.assert_close(again.y, obs.y)
    torch.testing.assert_close(again.log_prob(x), obs.log_prob(x), rtol=1e-4, atol=1e-2)


def written(path, chosen, **changes):
    x = images(chosen.name)
    save_measurement(path, chosen.observe(x, Noise(0, 3)), chosen)
    with np.load(path) as z:
        arrays = {k: z[k] for k in z.files}
    for key, value in changes.items():
        arrays.pop(key) if value is None else arrays.update({key: value(arrays[key])})
    np.savez(path, **arrays)
    return path


BAD = [
    ("ct", {"y": lambda y: y[:, :, :30]}, "has shape"),
    ("ct", {"y": lambda y: y * 0}, "all zeros"),
    ("ct", {"y": lambda y: np.where(y > 0, np.nan, y)}, "not finite"),
    ("ct", {"y": None}, "no array y"),
    ("inpaint", {"mask": None}, "lacks the array 'mask'"),
    ("inpaint", {"mask": lambda m: m[:, :, :8]}, "has shape"),
    ("deblur-motion", {"kernel": None}, "lacks the array 'kernel'"),
    ("poisson", {"y": lambda y: y - 1}, "negative values"),
    ("sr4", {"task": lambda t: np.array("{")}, "no JSON"),
]


@pytest.mark.parametrize(("name", "changes", "says"), BAD)
def test_bad_files(name, changes, says, tmp_path):
    task = get_task(name)
    with pytest.raises(InputError, match=says) as error:
        read_measurement(written(tmp_path / "m.npz", task, **changes), task, (1, 32, 32))
    assert "\n" not in str(error.value)


def test_files_of_other_operators(tmp_path):
    path = written(tmp_path / "m.npz", get_task("ct"))
    with pytest.raises(InputError, match="angles: measured with 60, expected 30"):
        read_measurement(path, get_task("ct", angles=30), (1, 32, 32))
    with pytest.raises(InputError, match="of the task ct, not of mri"):
        read_measurement(path, get_task("mri"), (1, 32, 32))
    louder = read_measurement(path, get_task("ct", sigma_y=0.1), (1, 32, 32))  # the noise is the user's to say
    assert float(louder.likelihood.sigma_y) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("ct", {"angles": 0}, "angles"),
        ("ct", {"arc": 400.0}, "arc"),
        ("sr4", {"factor": 0}, "factor"),
        ("inpaint", {"sigma_y": -1.0}, "sigma_y"),
        ("jpeg", {"quality": 0}, "quality"),
        ("jpeg", {"quality": 101}, "quality"),
        ("inpaint-random", {"seen": 1.5}, "seen|share"),
        ("mri", {"acceleration": 0.5}, "acceleration"),
        ("compressed", {"ratio": 2.0}, "ratio"),
        ("hdr", {"gain": -1.0}, "gain"),
        ("poisson", {"photons": -3.0}, "photons"),
        ("deblur-gaussian", {"deviation": -1.0}, "deviation"),
        ("inpaint-freeform", {"low": 0.5, "high": 0.2}, "low"),
        ("outpaint", {"keep": 0.0}, "keep"),
        ("deblur-motion", {"size": 2}, "size"),
    ],
)
def test_settings_out_of_range(name, options, says):
    with pytest.raises(InputError, match=says) as error:
        get_task(name, **options).check((1, 32, 32))
    assert "\n" not in str(error.value)


def test_shapes_that_do_not_fit_are_said_before_training(tmp_path, capsys):
    prior = toy_prior(tmp_path / "p.safetensors", side=16)
    data = tmp_path / "x.npz"
    np.savez(data, x=np.random.default_rng(0).integers(0, 255, (8, 16, 16)).astype(np.uint8))
    line = ("fit", "--prior", prior, "--data", data, "--size", 0.9, "--out", tmp_path / "run")
    assert "colourisation needs images of several channels" in refused(capsys, *line, "--task", "colourise")
    assert "unknown setting 'angle' of the task ct: did you mean 'angles'" in refused(
        capsys, *line, "--task", "ct", "--task-option", "angle=3"
    )
    assert "a whole number" in refused(capsys, *line, "--task", "ct", "--task-option", "angles=many")
    assert not (tmp_path / "run").exists()


def test_measure_and_sample(tmp_path, capsys):
    prior = toy_prior(tmp_path / "p.safetensors", side=16)
    data = tmp_path / "x.npz"
    np.savez(data, x=np.random.default_rng(0).integers(0, 255, (4, 16, 16)).astype(np.uint8))
    for task, method in (
        ("ct", "diffpir"),
        ("deblur-motion", "pigdm"),
        ("poisson", "reconstruction"),
        ("phase", "reddiff"),
    ):
        out = tmp_path / f"{task}.npz"
        made = result(capsys, "measure", "--task", task, "--data", data, "--images", 3, "--out", out)
        assert made["n"] == 3 and (tmp_path / f"{task}.png").exists()
        found = result(
            capsys,
            "sample",
            "--prior",
            prior,
            "--task",
            task,
            "--method",
            method,
            "--measurement",
            out,
            "--row",
            1,
            "-n",
            2,
            "--steps",
            3,
            "--out",
            tmp_path / f"out-{task}",
        )
        assert found["samples"] == 2 and (tmp_path / f"out-{task}" / "sheet.png").exists()
    assert "give another --out" in refused(
        capsys, "measure", "--task", "ct", "--data", data, "--out", tmp_path / "ct.npz"
    )
    line = ("sample", "--prior", prior, "--task", "ct", "--out", tmp_path / "o", "--measurement")
    assert "--row 9" in refused(capsys, *line, tmp_path / "ct.npz", "--row", 9)
    assert "of the task phase, not of ct" in refused(capsys, *line, tmp_path / "phase.npz")


def test_the_paper():
    assert set(PAPER) <= set(TASKS) and len(PAPER) == 6


@pytest.mark.parametrize("name", TASKS)
def test_a_task_measures_where_the_images_are(name):
    """An operator whose matrices stay on the CPU fails on a GPU. PyTorch's fake tensors say so without one; what they
    cannot follow (a number read on the host, a CUDA generator) is left to the tests that have one."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            x = torch.empty(2, 3 if name == "colourise" else 1, 32, 32, device="cuda")
            obs = TASKS[name]().observe(x, BatchNoise(2, 0))
            obs.likelihood.approx_mean_update(obs.y, x, torch.full((2, 1, 1, 1), 0.1, device="cuda"))
    except Exception as error:
        assert "same device" not in str(error), error
        pytest.skip(f"not to be followed without a GPU: {type(error).__name__}")
