"""Measurements in other units or another convention: told by the prior (surprise), by the operator (residual), and
never passed in silence."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from deft import Gaussian, Identity, Mask, Observation, VPCosine, sample
from deft.core.random import Noise
from deft.domains.image.data import fashion
from deft.domains.image.tasks import TASKS, get_task
from deft.domains.image.units import in_our_units
from deft.errors import InputError
from deft.io.measurements import observation
from deft.prior import load_prior
from deft.prior.measurement_check import check_pairs, inspect_measurement, residual_ratio, sample_warnings, surprise
from deft.testing import half_seen
from toys import refused, run

WORLD, OBS = half_seen(4)
WORLD_PRIOR = WORLD.prior(VPCosine())
SHAPE = (1, 32, 32)


@pytest.fixture(scope="module")
def prior():
    return load_prior("fashion")


def measured(name, n=4, **options):
    """(task, arrays of a measurement file without units, clean images) as another program may have written them."""
    task, x = get_task(name, **options), fashion("test").x[:n]
    obs = task.observe(x, Noise(3, n))
    arrays = {"y": obs.y.numpy()}
    if task.drawn:
        arrays[task.drawn] = getattr(obs.likelihood.operator, task.drawn).numpy()
    return task, arrays, x, obs


# the prior's surprise


def test_surprise_of_a_prior_s_own_samples_is_none():
    """Closed form: under the exact denoiser the ratio of expectations is 1; the mean log of 400 samples is within four
    standard errors and a bias of 0.1."""
    x = sample(WORLD_PRIOR, 400, steps=60)
    found = surprise(WORLD_PRIOR, x)
    assert abs(float(found.mean())) < 0.1 + 4 * float(found.std()) / 20
    for other in (2 * x, x + 1.5, x.flip(0)[:, torch.randperm(16, generator=torch.Generator().manual_seed(1))] * 1.5):
        assert float(surprise(WORLD_PRIOR, other).mean()) > float(found.mean()) + 0.2


def test_surprise_of_images(prior):
    """The bundled prior on its own kind, and on the same images read otherwise."""
    x = fashion("test").x[:24]
    right = float(surprise(prior, x).mean())
    assert abs(right) < 0.15
    for other in (
        (x + 1) / 2,
        -x,
        2 * x - 1,
        x.roll(16, -1),
        x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
    ):
        assert float(surprise(prior, other).mean()) > 0.3


# units


@pytest.mark.parametrize(
    "name", [t for t in TASKS if t not in ("colourise", "phase", "poisson", "hdr", "deblur-nonlinear")]
)
@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.0, 255.0), (-1000.0, 1000.0), (5.0, 6.0)])
def test_range_of_a_measurement_is_carried_out(name, limits):
    """y of images u = (x - o)/s becomes y of x: exactly, for every linear operator, and for pictures of any."""
    low, high = limits
    task, _arrays, x, obs = measured(name, 2, **({"sigma_y": 0.0} if name not in ("jpeg",) else {}))
    operator = obs.likelihood.operator
    u = (x + 1) / 2 * (high - low) + low
    theirs = (
        operator.measured_part(operator(u.double())) if name != "jpeg" else (obs.y + 1) / 2 * (high - low) + low
    ).float()
    again = in_our_units(theirs, task, operator, SHAPE, limits)
    scale = max(abs(low), abs(high)) / (high - low)
    assert torch.allclose(again, obs.y, atol=2e-5 * (1 + scale) * max(1.0, float(obs.y.abs().max())))


@pytest.mark.parametrize(
    ("name", "limits", "says"),
    [
        ("phase", (0.0, 1.0), "neither a picture nor linear"),
        ("sr4", (1.0, 0.0), "lower first"),
        ("sr4", (0.0, math.inf), "lower first"),
    ],
)
def test_ranges_that_cannot_be(name, limits, says):
    task, _arrays, _, obs = measured(name, 2)
    with pytest.raises(InputError, match=says):
        in_our_units(obs.y, task, obs.likelihood.operator, SHAPE, limits)


def test_photon_counts_by_their_range():
    task, arrays, _, obs = measured("poisson")
    counts = (20 * arrays["y"]).round()
    with pytest.raises(InputError, match="--range 0,20"):
        observation("f", {"y": counts}, task, SHAPE, sure=False)
    assert torch.allclose(observation("f", {"y": counts}, task, SHAPE, (0.0, 20.0), sure=False).y, obs.y, atol=1e-6)


WRONG_UNITS = {
    "in [0, 1]": lambda y: (y + 1) / 2,
    "bytes as floats": lambda y: (y + 1) * 127.5,
    "12 bits": lambda y: (y + 1) * 2047,
    "standardised": lambda y: 3 * y,
    "in [0, 1], a value below": lambda y: np.where(np.arange(y.size).reshape(y.shape) == 5, -0.3, (y + 1) / 2),
    "bytes": lambda y: ((y.clip(-1, 1) + 1) * 127.5).astype(np.uint8),
    "16 bits": lambda y: ((y.clip(-1, 1) + 1) * 32767).astype(np.uint16),
    "truth values": lambda y: y > 0,
}


@pytest.mark.parametrize("units", WRONG_UNITS)
@pytest.mark.parametrize(
    "name",
    [
        "inpaint",
        "inpaint-random",
        "outpaint",
        "sr4",
        "sr4-bicubic",
        "deblur-gaussian",
        "deblur-motion",
        "jpeg",
        "denoise",
    ],
)
def test_pictures_in_other_units_are_a_question(name, units):
    """Files that do not say their units; the right ones are taken without one."""
    task, arrays, _, _ = measured(name)
    assert len(observation("f", arrays, task, SHAPE, sure=False)) == 4
    with pytest.raises(InputError, match="--range"):
        observation("f", {**arrays, "y": WRONG_UNITS[units](arrays["y"])}, task, SHAPE, sure=False)


@pytest.mark.parametrize("name", ["inpaint", "inpaint-random", "mri"])
def test_masks_that_cannot_be(name):
    task, arrays, _, _ = measured(name)
    for mask, says in (
        (0 * arrays["mask"], "hides everything"),
        (np.concatenate([arrays["mask"][:3], 0 * arrays["mask"][:1]]), "number 3"),
        (arrays["mask"][..., :5], "shape"),
        (arrays["mask"][:2], "shape"),
    ):
        with pytest.raises(InputError, match=says):
            observation("f", {**arrays, "mask": mask}, task, SHAPE)
    if name != "mri":
        with pytest.raises(InputError, match="the other way round"):
            observation("f", {**arrays, "mask": 1 - arrays["mask"]}, task, SHAPE)
        with pytest.raises(InputError, match="shape"):
            observation("f", {**arrays, "mask": np.repeat(arrays["mask"], 3, 1)}, task, SHAPE)
        # bytes, no channel axis
        assert len(observation("f", {**arrays, "mask": 255 * arrays["mask"][:, 0]}, task, SHAPE)) == 4


# pairs


@pytest.mark.parametrize("name", ["sr4", "inpaint", "mri", "denoise", "compressed", "poisson"])
def test_pairs(name):
    """Right ones pass; in another order they are refused, with other noise or one that does not belong they are warned
    of."""
    _task, _arrays, x, obs = measured(name, 16)
    assert check_pairs(obs, x, "pairs.npz") is None
    if name == "poisson":
        with pytest.raises(InputError, match="another order"):
            check_pairs(obs, x.roll(1, 0), "pairs.npz")
        return
    if name == "denoise":
        assert "warning" in str(check_pairs(obs, -x, "pairs.npz"))  # much noise hides much
        return
    shuffled = x.roll(1, 0)
    with (
        pytest.raises(InputError, match="another order")
        if float(residual_ratio(obs, shuffled).median()) > 5
        else pytest.raises(AssertionError)
    ):
        said = check_pairs(obs, shuffled, "pairs.npz")
        assert said is None, said
    noisy = Observation(
        obs.likelihood.operator.measured_part(
            obs.y + 0.2 * torch.randn(obs.y.shape, generator=torch.Generator().manual_seed(0))
        ),
        obs.likelihood,
    )
    assert "--sigma-y 0.2" in str(check_pairs(noisy, x, "pairs.npz"))
    one = x.clone()
    one[5] = x[6]
    assert "number 5" in str(check_pairs(obs, one, "pairs.npz"))


# samples


def test_warnings_of_samples(prior):
    x = fashion("test").x[:4]
    obs = Observation(x[:1], Gaussian(Identity(), 0.05))
    assert sample_warnings(prior, obs, x[:1] + 0.03) == []
    assert (
        "diverged" in sample_warnings(prior, obs, 100 * x)[0]
        and "diverged" in sample_warnings(prior, None, x * torch.nan)[0]
    )
    assert "do not explain" in sample_warnings(prior, obs, x[1:2])[0]
    half = Observation((x[:1] + 1) / 2, Gaussian(Identity(), 0.05))
    assert "unlike the prior's images" in sample_warnings(prior, half, (x[:1] + 1) / 2)[0]
    assert sample_warnings(prior, None, x) == []


def test_residual_ratio_is_one_for_the_truth():
    x = torch.zeros(2000, 1, 4, 4)
    mask = torch.ones(1, 1, 4, 4)
    mask[..., :2] = 0
    like = Gaussian(Mask(mask), 0.3)
    obs = Observation(like.sample(x, Noise(0, 2000)), like)
    assert abs(float(residual_ratio(obs, x).square().mean()) - 1) < 4 * math.sqrt(2 / (2000 * 8))


# readings


CENTRED = lambda a: {k: np.fft.ifftshift(v, [i - 2 for i in range(2) if v.shape[i - 2] > 1]) for k, v in a.items()}  # noqa: E731
CASES = [
    ("inpaint", lambda a: a, ""),
    ("inpaint", lambda a: {**a, "y": (a["y"] + a["mask"]) / 2}, "--range 0,1"),
    ("mri", lambda a: CENTRED({**a, "y": 32 * a["y"]}), "norm=backward"),
    ("mri", CENTRED, "centred=false"),
    ("sr4", lambda a: {**a, "y": 127.5 * (a["y"] + 1)}, "--range 0,255"),
]


@pytest.mark.parametrize(("name", "change", "fix"), CASES)
def test_the_right_reading_is_found(prior, name, change, fix):
    task, arrays, _, _ = measured(name, 3)
    found = inspect_measurement(prior, task, change(arrays), rows=2, steps=10)
    assert found.confirmed == (not fix)
    assert fix in found.text and ("confirmed" in found.text)
    assert len(found.best.changes) == (0 if not fix else 2 if "norm" in fix else 1)


@pytest.mark.parametrize("name", list(TASKS))
def test_readings_of_every_task_are_settings_of_it(name):
    """Each is another task than the usual one, or refused by it in words."""
    if name == "colourise":
        return
    shape = (3, 16, 16) if name == "deblur-nonlinear" else (1, 16, 16)
    task = get_task(name)
    found = list(task.readings(task.check(shape).y.shape))
    for _, options in found:
        assert all(getattr(task, k) != v for k, v in options.items())
        try:
            assert get_task(name, **options).config() != task.config()
        except InputError:
            assert name == "mri-coils"
    assert found or name not in ("mri", "ct", "ct-rays", "phase", "sr4")


@pytest.mark.parametrize("name", ["mri-coils", "ct-rays", "deblur-motion"])
def test_whatever_a_task_draws_is_inspected(prior, name, monkeypatch):
    """The drawn tensor goes along under any name, for all rows and for one measurement without its batch axis."""
    task, arrays, _, _ = measured(name, 2)
    monkeypatch.setattr("deft.prior.measurement_check.changes_of", lambda task, arrays: [])
    for given in (arrays, {k: v[0] for k, v in arrays.items()}):
        assert inspect_measurement(prior, task, given, rows=1, samples=1, steps=4).taken.why == ""


def test_readings_that_make_every_image_flat_are_not_right(prior):
    """Counts as they were counted are divided by photons, not taken for almost black images; what no reading can be is
    said once."""
    task, arrays, _, _ = measured("poisson", 2)
    found = inspect_measurement(prior, task, {"y": (20 * arrays["y"]).round()}, rows=2, steps=10)
    assert "--range 0,20" in found.text
    task, arrays, _, _ = measured("mri", 2)
    for bad in ({**arrays, "mask": 1 - arrays["mask"]}, {**arrays, "y": np.fft.ifftshift(arrays["y"], (-1,))}):
        with pytest.raises(InputError, match="other way round"):
            observation("f", bad, task, SHAPE)
    for y in (arrays["y"][:0], arrays["y"][..., :5], arrays["y"] * np.nan):
        with pytest.raises(InputError):
            inspect_measurement(prior, task, {**arrays, "y": y}, rows=2, steps=4)


def test_the_command_line_says_it(prior, tmp_path, capsys):
    """deft sample carries out --range, refuses what it would not use, and warns of what it sees; deft fit --pairs
    refuses pairs in another order."""
    _, arrays, x, _ = measured("sr4", 12)
    base = ("sample", "--task", "sr4", "--steps", 12, "-n", 2, "--method", "pigdm", "--out")
    np.savez(tmp_path / "half.npz", y=(arrays["y"] + 1) / 2)
    assert "--range 0,1" in refused(capsys, *base, tmp_path / "a", "--measurement", tmp_path / "half.npz")
    assert run(capsys, *base, tmp_path / "b", "--measurement", tmp_path / "half.npz", "--range", "0,1")[0] == 0
    assert json.loads((tmp_path / "b" / "sample.json").read_text())["warnings"] == []
    code, out, _ = run(capsys, *base, tmp_path / "c", "--measurement", tmp_path / "half.npz", "--range=-1,1")
    assert code == 0 and "warning: the samples are unlike" in out and "half.npz" in out
    for option in ("--resize", "--convert"):
        assert option in refused(
            capsys, *base, tmp_path / "d", "--measurement", tmp_path / "half.npz", "--range", "0,1", option
        )
    np.savez(tmp_path / "pairs.npz", x=x.numpy(), y=arrays["y"][::-1].copy())
    fit = (
        "fit",
        "--task",
        "sr4",
        "--pairs",
        tmp_path / "pairs.npz",
        "--size",
        0.02,
        "--steps",
        1,
        "--out",
        tmp_path / "run",
    )
    assert "another order" in refused(capsys, *fit)
    assert not (tmp_path / "run").exists()
