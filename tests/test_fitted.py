"""What deft.fit_h returns: it samples, refines, saves and loads; the command, the demo and a comparison make the same
weights."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import deft
from deft.errors import CheckpointError, InputError
from deft.io.files import load_weights
from deft.runtime.messages import log, show
from deft.workflow.demo import DemoConfig, demo
from toys import pictures, refused, result, run, save_pictures, toy_prior

FEW = {"steps": 6, "batch": 8, "warmup": 1, "prior_samples": 8, "cache": 32}
OPTIONS = [arg for name, value in FEW.items() for arg in (f"--{name.replace('_', '-')}", value)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny prior, a folder of pictures, a fit to it, and a measurement file of two."""
    here = tmp_path_factory.mktemp("fitted")
    path = toy_prior(here / "prior.safetensors")
    save_pictures(here / "photos", pictures(12))
    prior = deft.load_prior(path)
    fitted = deft.fit_h(prior, "sr4", here / "photos", width=8, **FEW, progress=False)
    obs = fitted.task.observe(torch.rand(2, *prior.event_shape) * 2 - 1, deft.Noise(0, 2))
    return here, path, fitted, obs


def weights(h):
    return {k: v.clone() for k, v in h.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_says_what_it_is(place):
    _, path, fitted, _ = place
    assert "task sr4" in repr(fitted) and "6 steps" in repr(fitted) and "held-out loss" in repr(fitted)
    assert fitted.sizes.prior_samples == 8 and fitted.sizes.cache == 32
    assert not fitted.h.training and not any(p.requires_grad for p in fitted.h.parameters())
    card = fitted.card_now()
    assert card["prior"] == str(path) and card["data"].endswith("photos (11 images)") and card["recipe"]["width"] == 8


def test_samples_are_those_of_the_command(place, tmp_path, capsys):
    """From the same folder and measurement, by deft.load(...).sample and by deft sample."""
    _, path, fitted, obs = place
    fitted.save(tmp_path / "run")
    np.savez(tmp_path / "y.npz", y=obs.y.numpy())
    again = deft.load(tmp_path / "run")
    assert (
        same(weights(again.h), weights(fitted.h))
        and again.task.config() == fitted.task.config()
        and again.levels == fitted.levels
    )
    draws = again.sample(obs.y[1:], 3, steps=4, seed=5)
    assert draws.x.shape == (1, 3, *fitted.prior.event_shape)
    out = tmp_path / "s"
    made = result(
        capsys,
        "sample",
        tmp_path / "run",
        "--measurement",
        tmp_path / "y.npz",
        "--row",
        1,
        "-n",
        3,
        "--steps",
        4,
        "--seed",
        5,
        "--range=-1,1",
        "--out",
        out,
        "--json",
    )
    with np.load(out / "samples.npz") as kept:
        np.testing.assert_allclose(kept["samples"], draws.x[0].numpy(), atol=1e-6)
    assert made["prior"] == str(path)


def test_a_sampler_is_a_name_or_an_object(place):
    """One of the user's own, too; steps, spacing and seed as for a name."""
    _, _, fitted, obs = place

    class Mine(deft.DDIM):
        """A sampler that the table does not know."""

    named, objects = fitted.sample(obs, 2, sampler="ddim", steps=4), [deft.DDIM(1.0), Mine(1.0)]
    for sampler in objects:
        assert torch.equal(fitted.sample(obs, 2, sampler=sampler, steps=4).x, named.x)
    assert not torch.equal(fitted.sample(obs, 2, sampler=deft.DDIM(0.0), steps=4).x, named.x)
    assert not torch.equal(fitted.sample(obs, 2, sampler=deft.DDIM(1.0), steps=4, spacing="karras").x, named.x)


def test_a_sample_does_not_depend_on_its_batch(place):
    _, _, fitted, obs = place
    whole = fitted.sample(obs, 3, steps=3, seed=1).x
    torch.testing.assert_close(fitted.sample(obs, 3, steps=3, seed=1, batch=2).x, whole, atol=1e-5, rtol=1e-4)
    assert not torch.equal(fitted.sample(obs, 3, steps=3, seed=2).x, whole)


def test_evaluation_measures_its_own_samples(place):
    """The first `count` images, measured by the task with the seed; PSNR of the mean and coverage are those of the
    samples it returns."""
    _, _, fitted, _ = place
    x = torch.rand(5, *fitted.prior.event_shape) * 2 - 1
    found = fitted.evaluate(x, 3, count=4, steps=3, seed=7, progress=False)
    assert len(found.x) == 4 and found.draws.x.shape[:2] == (4, 3)
    assert torch.equal(found.obs.y, fitted.task.observe(x[:4], deft.Noise(7, 4)).y)
    error = (found.draws.mean.clamp(-1, 1) - x[:4]).square().flatten(1).mean(1)
    again = fitted.sample(found.obs, 3, steps=3, seed=7, progress=False)
    torch.testing.assert_close(again.x, found.draws.x, atol=1e-5, rtol=1e-4)
    mean, standard_error = found["psnr_mean"]
    assert mean == pytest.approx(float((10 * torch.log10(4 / error)).mean()), abs=1e-3) and standard_error > 0
    assert (
        {"crps", "coverage", "energy_score_pixels"} <= set(found)
        and "PSNR of the mean" in repr(found)
        and "4 measurements" in repr(found)
    )
    with pytest.raises(InputError, match="nothing to evaluate on"):
        fitted.evaluate(None)


def test_refining_leaves_it_as_it_was(place, monkeypatch):
    from deft.recipe import fitted as module
    from deft.train import control

    monkeypatch.setattr(module, "CHAIN", 4)
    monkeypatch.setattr(control, "LOOK", 2)
    _, _, fitted, obs = place
    before = weights(fitted.h)
    refined = fitted.refine(obs[:1], 2, progress=False)
    assert same(weights(fitted.h), before) and not same(weights(refined.h), before)
    assert refined.card["refined"] == 2 and refined.card["measurement"]["sha256"] == obs[:1].fingerprint()
    assert refined.sample(obs[:1], 2, steps=2).x.shape[:2] == (1, 2)
    for bad, match in (((obs, 2), "one measurement"), ((obs[:1], 0), "at least one step")):
        with pytest.raises(InputError, match=match):
            fitted.refine(*bad)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"data": torch.zeros(4, 3, 8, 8)}, r"samples have shape \(4, 3, 8, 8\), expected \(N, 1"),
        ({"data": torch.zeros(1, 1, 16, 16)}, "too few to fit to and to hold one out"),
        ({"data": "nowhere"}, "nowhere"),
        ({"data": 7}, "data = 7: expected a tensor"),
        ({"task": "sr5"}, "did you mean 'sr4'"),
        ({"stepz": 7}, "did you mean 'steps'"),
        ({"method": "dfet"}, "did you mean 'deft'"),
        ({"options": {"unitz": "v"}}, "did you mean 'units'"),
        ({"method": "lora", "width": 8}, "width is for the method deft"),
        ({"start_from": "sr4", "width": 8}, "leave method, width and options out"),
        ({"size": 0.0}, "above 0"),
        ({"prior_samples": 0}, "nothing to fit to"),
    ],
)  # fmt: skip
def test_what_is_refused(place, arguments, match):
    _, _, fitted, _ = place
    given = {"task": "sr4", **FEW, **arguments}
    if isinstance(given.get("data"), torch.Tensor) and given["data"].shape[0] == 1:
        given["data"] = torch.zeros(1, *fitted.prior.event_shape)
    with pytest.raises(InputError, match=match):
        deft.fit_h(fitted.prior, progress=False, **given)


def test_a_card_runs_no_code_and_calls_nobody(place, tmp_path):
    """Its prior is loaded on its word alone only if that is a file of weights or a bundled one."""
    _, _, fitted, _ = place
    fitted.save(tmp_path / "run")
    tensors, card = load_weights(tmp_path / "run" / "h.safetensors")
    from deft.io.files import save_weights

    for name in ("mine.py:make", "https://example.org/prior", "/no/such/file.safetensors"):
        save_weights(tmp_path / "run" / "h.safetensors", tensors, card | {"prior": name})
        with pytest.raises(CheckpointError, match="give it with --prior"):
            deft.load(tmp_path / "run")
        assert same(weights(deft.load(tmp_path / "run", fitted.prior).h), weights(fitted.h))


def test_messages_are_logged(place, caplog):
    """Through the logger "deft": what is done as INFO; with nobody listening nothing is printed; `show` shows it
    once."""
    _, _, fitted, _ = place
    with caplog.at_level(logging.INFO, logger="deft"):
        deft.fit_h(fitted.prior, "sr4", width=8, **FEW, progress=False)
    assert any("drawing 8 samples of the prior" in m for m in caplog.messages) and any(
        "parameters" in m for m in caplog.messages
    )
    seen = []
    with show(seen.append):
        log.info("one")
    log.info("two")
    assert seen == ["one"]


def test_help_shows_what_people_need(capsys):
    few, every = (run(capsys, "fit", flag)[1] for flag in ("--help", "--help-all"))
    names = {
        line.split()[0] for line in few.splitlines() if line.startswith("  --") and not line.startswith("  --out.")
    }
    assert names <= {
        "--prior",
        "--task",
        "--data",
        "--pairs",
        "--held-out",
        "--out",
        "--size",
        "--steps",
        "--seconds",
        "--seed",
        "--resume",
        "--help",
        "--help-all",
    }
    assert "--log-z-rate" not in few and "--log-z-rate" in every and "How it is fitted:" in every


@pytest.mark.slow
def test_four_ways_make_the_same_weights_slow(tmp_path, capsys):
    """More steps and samples of the prior, on the bundled images."""
    four_ways(
        tmp_path,
        capsys,
        {"steps": 40, "batch": 32, "warmup": 5, "prior_samples": 128, "cache": 256, "patience": 0},
        quick=False,
    )


def test_four_ways_make_the_same_weights(tmp_path, capsys):
    """deft.fit_h, deft fit, deft demo and deft compare, from the same settings: bit for bit."""
    four_ways(
        tmp_path,
        capsys,
        {"steps": 8, "batch": 16, "warmup": 2, "prior_samples": 0, "cache": 64, "patience": 0},
        quick=True,
    )


def four_ways(here, capsys, settings, quick):
    # the quick one on a tiny prior of the same images: calibrating by the bundled one takes most of the time
    name = str(toy_prior(here / "toy.safetensors", side=32)) if quick else "fashion"
    settings = {**settings, "size": 0.9} if quick else settings
    prior = deft.load_prior(name)
    by_hand = weights(deft.fit_h(prior, "sr4", "fashion", **settings, progress=False).h)
    options = [arg for name, value in settings.items() for arg in (f"--{name.replace('_', '-')}", value)]
    result(
        capsys,
        "fit",
        "--prior",
        name,
        "--task",
        "sr4",
        "--data",
        "fashion",
        *options,
        "--out",
        here / "run",
        "--json",
    )
    found = {"deft fit": load_weights(here / "run" / "h.safetensors")[0]}
    if quick:
        demo(here / "demo", DemoConfig(task="sr4", quick=True, prior=name, size=0.9), progress=False)
        found["deft demo"] = load_weights(here / "demo" / "h.safetensors")[0]
    lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
    (here / "study.toml").write_text(
        f"images = 2\nsamples = 2\n[fit]\nimages = 1000\n{lines}\n[tune]\nimages = 2\nsamples = 2\npoints ="
        ' 1\n[arms.deft]\nmethod = "deft"\n[arms.deft.settings]\n[[on]]\n'
        f'prior = "{name}"\ndata = "fashion"\ntasks = ["sr4"]\narms ='
        ' ["deft"]\n'
    )
    result(capsys, "compare", here / "study.toml", "--out", here / "compare", "--json")
    (file,) = (here / "compare" / "fit").glob("*.safetensors")
    found["deft compare"] = load_weights(file)[0]
    for name, other in found.items():
        assert same(other, by_hand), f"{name} made other weights than deft.fit_h"
    other = weights(deft.fit_h(prior, "sr4", "fashion", **settings, seed=1, progress=False).h)
    assert not same(other, by_hand), "another seed makes other weights, or the test cannot fail"


def test_command_line_refusals(place, tmp_path, capsys):
    here, path, _, _ = place
    fit = ("fit", "--prior", path, "--task", "sr4", "--data", here / "photos", *OPTIONS, "--out", tmp_path / "run")
    assert "leave them out" in refused(capsys, *fit, "--method", "lora", "--units", "eps")
    assert "--width is for deft" in refused(capsys, *fit, "--method", "lora", "--width", 8)
    assert not (tmp_path / "run").exists()
