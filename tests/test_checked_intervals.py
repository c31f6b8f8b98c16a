"""Intervals of a fitted h: what a fit and `deft calibrate` keep of them, and what `deft sample` then says."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import deft
from deft.diagnose import interval_coverage
from deft.errors import CheckpointError, InputError
from deft.guidance.exact import Mixture
from deft.io.files import load_weights
from deft.recipe.intervals import MIN_IMAGES, CheckedIntervals, check_intervals, how_many, reserved
from deft.testing import MixtureWorld, half_seen
from toys import pictures, refused, result, run, save_pictures, toy_prior

FEW = {"batch": 16, "warmup": 5, "prior_samples": 64, "cache": 512, "evaluations": 2, "width": 8}
WORLD, SEEN = half_seen(4)
PRIOR = WORLD.prior(deft.VPCosine())


class Half:
    """A Gaussian field of which half is seen."""

    def __init__(self, sigma_y=0.1):
        self.like = deft.Gaussian(SEEN.likelihood.operator, sigma_y)

    def observe(self, x, noise):
        return deft.Observation(self.like.sample(x, noise), self.like)


@pytest.fixture(scope="module")
def fitted():
    h = deft.DEFT((16,), 2, width=16)
    settings = {k: v for k, v in FEW.items() if k != "width"}
    return deft.fit_h(PRIOR, Half(), WORLD.sample(400).float(), h=h, steps=100, **settings, progress=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prior, a run of a fit that was too short to be checked, and measurements: one as it should be, one of noise."""
    here = tmp_path_factory.mktemp("checked")
    path = toy_prior(here / "prior.safetensors")
    save_pictures(here / "photos", pictures(30))
    prior = deft.load_prior(path)
    short = deft.fit_h(prior, "sr4", here / "photos", steps=6, **FEW, progress=False)
    short.save(here / "run")
    x = torch.stack([torch.from_numpy(p).float()[None] / 127.5 - 1 for p in pictures(2, seed=9)])
    np.savez(here / "y.npz", y=short.task.observe(x, deft.Noise(0, 2)).y.numpy())
    np.savez(here / "noise.npz", y=np.sign(np.random.default_rng(0).normal(size=(1, 1, 4, 4))).astype("f4"))
    return here, short


def test_a_fit_checks_its_intervals(fitted):
    checked = fitted.checked_intervals
    assert checked.images == MIN_IMAGES and checked.samples == 4 and checked.source == "12 held-out samples"
    assert fitted.spent["intervals"] > 0 and set(checked.reference.values) == {"residual", "surprise", "spread"}
    assert CheckedIntervals.from_config(json.loads(json.dumps(checked.config()))).config() == checked.config()


def test_intervals_hold_on_new_measurements(fitted):
    """90 +- 3 % of 4 and of 16 samples; raw ones of four hold 67 % at most. Checked on many, so that little is left to
    chance."""
    own = fitted.calibrate_intervals(WORLD.sample(250, 5).float(), count=250, steps=10)
    x = WORLD.sample(200, 6).float()
    every = own.sample(Half().observe(x, deft.Noise(7, 200)), 16, steps=10, progress=False)
    four = replace(every, x=every.x[:, :4])
    for draws in (four, every):
        assert draws.calibrated and interval_coverage(draws, x, [0.9]).value[0] == pytest.approx(0.9, abs=0.03)
    assert interval_coverage(four, x, [0.9], calibrated=False).value[0] < 0.67


def test_what_was_measured_is_not_counted():
    """Four fifths of the entries are known, and samples of the others are half as wide as they should be: the factor
    is 2, and not what the known ones make of it."""
    x, one = torch.randn(60, 2, 8, generator=torch.Generator().manual_seed(0)), torch.ones(1, dtype=torch.float64)
    obs = deft.tasks.Impute(share=0.2, pattern="random").observe(x, deft.Noise(1, 60))
    prior = MixtureWorld(Mixture(one, torch.zeros(1, 16), torch.eye(16)[None]), (2, 8)).prior(deft.VPCosine())

    class Narrow:
        def draw(self, prior, obs, n, **how):
            noise = 0.5 * torch.randn(60, n, 2, 8, generator=torch.Generator().manual_seed(1))
            return deft.Draws(torch.where(obs.hidden(x.shape)[:, None] > 0, noise, x[:, None]))

        def config(self):
            return {}

    checked = check_intervals(None, prior, x, obs, Narrow(), n=8, source="them")
    assert checked.raw < 0.6 and checked.factors.at(0.9, 8) == pytest.approx(2, rel=0.15)


def test_without_data_samples_of_the_prior_are_taken(fitted):
    settings = {k: v for k, v in FEW.items() if k != "width"}
    alone = deft.fit_h(
        PRIOR, Half(), h=deft.DEFT((16,), 2, width=8), steps=100, **settings, progress=False, interval_images=20
    )
    assert alone.checked_intervals.source == "12 samples of the prior"
    few = deft.fit_h(
        PRIOR, Half(), WORLD.sample(40).float(), h=deft.DEFT((16,), 2, width=8), steps=100, **settings, progress=False
    )
    assert few.checked_intervals.source == "12 samples of the prior"
    again = fitted.calibrate_intervals(count=10, n=2, steps=5)
    assert again.checked_intervals.source == "10 samples of the prior"


def test_what_is_not_checked(fitted, place):
    """A trial, a fit that is told so, samples in other steps, a sampler of one's own, a refined h: raw intervals."""
    _, short = place
    assert short.checked_intervals is None and not short.sample(torch.ones(1, 1, 4, 4), 2, steps=2).calibrated
    y = SEEN.y[:1]
    obs = deft.Observation(y, Half().like)
    assert fitted.sample(obs, 2, progress=False).calibrated
    assert not fitted.sample(obs, 2, steps=7, progress=False).calibrated
    assert not fitted.sample(obs, 2, sampler=deft.DDIM(), progress=False).calibrated
    refined = fitted.refine(obs, 1, progress=False)
    assert refined.checked_intervals is None
    with pytest.raises(InputError, match=r"one measurement"):
        refined.calibrate_intervals()
    with pytest.raises(InputError, match=r"at least 0"):
        deft.Recipe(interval_images=-1)
    assert deft.fit_h(
        PRIOR, Half(), WORLD.sample(40).float(), h=deft.DEFT((16,), 2, width=8), steps=100, batch=8, prior_samples=0,
        cache=64, evaluations=1, warmup=2, progress=False, interval_images=0,
    ).checked_intervals is None  # fmt: skip


def test_how_many_images(fitted):
    """As many as the steps ask for, or as fit into a twentieth of the time, which is kept free; 12 at least."""
    plan = fitted.plan()
    assert [how_many(48, steps, None, PRIOR, plan) for steps in (100, 1000, 2000, 9000)] == [12, 24, 48, 48]
    assert how_many(48, 100, 0.01, PRIOR, plan) == 12 and how_many(48, 100, 1e6, PRIOR, plan) == 48
    assert reserved(1e4, PRIOR, fitted.h) == 500 and reserved(0.01, PRIOR, fitted.h) > 0.0005


def test_calibrate_and_sample_commands(place, tmp_path, capsys):
    here, _ = place
    run_folder, y = here / "run", here / "y.npz"
    sample = ("sample", run_folder, "--measurement", y, "-n", 3, "--steps", 3, "--range=-1,1", "--overwrite")
    _, said, _ = run(capsys, *sample, "--out", tmp_path / "before")
    assert "never checked: deft calibrate" in said
    before = load_weights(run_folder / "h.safetensors")
    options = ("--data", here / "photos", "--images", 20, "--samples", 4, "--steps", 3)
    _, said, _ = run(capsys, "calibrate", run_folder, *options)
    assert "checked on 20 held-out images" in said and "the raw 90 % interval" in said
    tensors, card = load_weights(run_folder / "h.safetensors")
    assert all(torch.equal(v, before[0][k]) for k, v in tensors.items())
    assert {k: v for k, v in card.items() if k != "intervals"} == before[1]

    about = result(capsys, *sample, "--out", tmp_path / "in", "--json")
    assert about["trust"]["within"] and "90 % interval holds" in about["trust"]["line"]
    assert len(about["trust"]["chi_square_p"]) == 3 and set(about["trust"]["numbers"]) == {
        "residual", "surprise", "spread",
    }  # fmt: skip
    with np.load(tmp_path / "in" / "samples.npz") as z:
        factors = CheckedIntervals.from_config(card["intervals"]).factors
        half = factors.half_width(0.9, 3, torch.from_numpy(z["samples"]).std(0))
        np.testing.assert_allclose(z["high"] - z["mean"], half, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(z["low"], z["mean"] - half.numpy(), rtol=1e-3, atol=1e-5)

    odd = ("sample", run_folder, "--measurement", here / "noise.npz", "-n", 3, "--steps", 3, "--range=-1,1")
    _, said, _ = run(capsys, *odd, "--out", tmp_path / "odd")
    assert "do not trust the intervals" in said and "interval holds" not in said
    assert json.loads((tmp_path / "odd" / "sample.json").read_text())["trust"]["within"] is False

    _, said, _ = run(capsys, *sample, "--sigma-y", 0.3, "--out", tmp_path / "other")
    assert "another task or noise: nothing is known of these" in said
    with np.load(tmp_path / "other" / "samples.npz") as z:
        assert "low" not in z


def test_calibrate_command_refusals(place, capsys):
    here, _ = place
    assert "--samples" in refused(capsys, "calibrate", here / "run", "--samples", 1)
    assert "at least 8 measurements" in refused(
        capsys, "calibrate", here / "run", "--images", 3, "--samples", 2, "--steps", 2
    )
    assert "no such run" in refused(capsys, "calibrate", here / "nothing")


def test_a_damaged_card_is_refused(fitted):
    with pytest.raises(CheckpointError, match=r"intervals"):
        CheckedIntervals.from_config({"factors": 3})
