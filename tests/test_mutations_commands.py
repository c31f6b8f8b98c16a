"""Mistakes in the code of commands, each of which must be caught by a check of the last metre.

`RUNS` are commands with their check, all of which pass as the code stands. `CODE` are mistakes, applied by
monkeypatching: the command is run with the mistake in it, and its check, not the command, must fail.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deft.bench.result import make_rows, standing
from deft.core.likelihood import Observation
from deft.core.random import Noise, generator
from deft.domains.image import tasks
from deft.domains.image.data import dataset
from deft.domains.image.metrics import coverage, energy_score_pixels
from deft.domains.image.writing import heat, picture_grid, picture_of, save_picture
from deft.io.measurements import save_measurement
from deft.kinds.draws import Draws
from deft.learned import DEFT
from deft.learned.deft import Calibrated
from deft.recipe.fit import fit_h, weigh_levels
from golden import arrays, read
from golden_checks import check_calibration, check_levels, check_measured, check_same_samples, check_samples
from golden_reports import check_evaluated
from test_last_metre_fit import KNOTS, LEVELS, errors, kinds, load_prior, tensors, unit
from toys import pictures, run, save_pictures, toy_prior

TITLES = {"pigdm": "ΠGDM", "deft": "DEFT", "prior": "prior alone"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    from deft.cli import main

    here = tmp_path_factory.mktemp("mutants")
    toy_prior(here / "prior.safetensors")
    toy_prior(here / "large.safetensors", side=32)
    save_pictures(here / "photos", pictures(6, seed=8))
    save_pictures(here / "tested", pictures(11, seed=8))
    save_pictures(here / "mixed", kinds(20))
    save_pictures(here / "other", pictures(8, seed=4))
    Image.fromarray(pictures(1, seed=5)[0]).save(here / "photo.png")
    mask = np.full((16, 16), 255, np.uint8)
    mask[4:10, 3:10] = 0
    Image.fromarray(mask).save(here / "mask.png")
    assert main([str(a) for a in (*fit_line(here), "--out", here / "run")]) == 0
    assert main(["measure", "--task", "sr4", "--data", str(here / "photos"), "--out", str(here / "y.npz")]) == 0
    return here


def fit_line(here):
    return (
        "fit", "--prior", here / "prior.safetensors", "--size", 0.4, "--data", here / "photos", "--held-out",
        here / "other", "--steps", 2, "--batch", 4, "--cache", 0, "--prior-samples", 0,
    )  # fmt: skip


def result(capsys, *arguments):
    """What a command prints with --json. A command that fails is another matter than a check that does."""
    code, out, err = run(capsys, *arguments, "--json")
    if code:
        raise RuntimeError(err)
    return json.loads(out)


# Commands, each with its check.


def sampled(here, out, capsys):
    mask = (np.asarray(Image.open(here / "mask.png")) > 127).astype(np.float32)[None]
    line = (
        "sample", here / "run", "--measurement", here / "photo.png", "--mask", here / "mask.png", "-n", 3, "--steps",
        3, "--seed", 4, "--out", out,
    )  # fmt: skip
    return (
        result(capsys, *line),
        (np.asarray(Image.open(here / "photo.png"), np.float32)[None] / 127.5 - 1) * mask,
        mask,
    )


def run_sample(here, out, capsys):
    about, y, mask = sampled(here, out, capsys)
    check_samples(out, about, n=3, steps=3, seed=4, y=y, mask=mask)


def run_row(here, out, capsys):
    line = (
        "sample", "--prior", here / "prior.safetensors", "--method", "replacement", "--measurement", here / "y.npz",
        "--row", 2, "-n", 2, "--steps", 2, "--out", out,
    )  # fmt: skip
    check_samples(out, result(capsys, *line), n=2, steps=2, y=arrays(here / "y.npz")["y"][2])


def run_batches(here, out, capsys):
    base = (
        "sample", here / "run", "--measurement", here / "photo.png", "--mask", here / "mask.png", "-n", 4, "--steps",
        3,
    )  # fmt: skip
    for batch in (1, 3):
        result(capsys, *base, "--batch", batch, "--out", out / str(batch))
    check_same_samples(out / "1", out / "3")


def run_pull(here, out, capsys):
    """An h that has hardly been trained brings samples nearer to the measurement than the prior alone is."""
    base = ("sample", "--measurement", here / "photo.png", "--mask", here / "mask.png", "-n", 8, "--steps", 4)
    result(capsys, *fit_line(here), "--lr", 1e-9, "--warmup", 1, "--out", out / "run")
    pulled = result(capsys, base[0], out / "run", *base[1:], "--out", out / "a")["residual"]
    free = result(capsys, *base, "--prior", here / "prior.safetensors", "--method", "prior", "--out", out / "b")[
        "residual"
    ]
    assert pulled < 0.7 * free, f"residual {pulled:.3f} with the untrained h, {free:.3f} without"


def run_measure(here, out, capsys):
    out.mkdir()
    about = result(
        capsys, "measure", "--task", "inpaint", "--data", here / "photos", "--sigma-y", 0.1, "--out", out / "y.npz"
    )
    check_measured(out / "y.npz", about, images=pictures(6, seed=8), task="inpaint", sigma_y=0.1)


def compare_methods(here, out, capsys):
    code, said, err = run(
        capsys, "evaluate", here / "run", "--data", here / "tested", "--images", 10, "--samples", 3, "--steps", 3,
        "--methods", "pigdm,deft,prior", "--out", out,
    )  # fmt: skip
    if code:
        raise RuntimeError(err)
    return said


def check_methods(out, said=""):
    truth = pictures(11, seed=8)[:10, None] / np.float32(127.5) - 1
    titles = {p["method"]: TITLES[p["method"]] for p in read(out / "report.json")["settings"]["plans"]}
    check_evaluated(out, images=truth, samples=3, calls=dict.fromkeys(titles, 3), titles=titles, seconds=60, said=said)


def run_evaluate(here, out, capsys):
    check_methods(out, compare_methods(here, out, capsys))


def run_bundled(here, out, capsys):
    result(
        capsys, "evaluate", "--prior", here / "large.safetensors", "--task", "sr4", "--data", "fashion", "--images",
        3, "--samples", 2, "--steps", 2, "--methods", "replacement", "--out", out,
    )  # fmt: skip
    with np.load(next(Path(tasks.__file__).parents[2].rglob("fashion.npz"))) as data:
        truth = data["test"][:3, None] / np.float32(127.5) - 1
    np.testing.assert_allclose(arrays(out / "samples.npz")["truth"], truth, atol=1e-6)


def run_calibration(here, out, capsys):
    """An h is calibrated on the images it is fitted to, and its errors are those on the images held out."""
    line = (
        "fit", "--prior", here / "prior.safetensors", "--task", "sr4", "--size", 0.4, "--steps", 1, "--batch", 4,
        "--cache", 0, "--prior-samples", 0, "--data", here / "mixed",
    )  # fmt: skip
    card = result(capsys, *line, "--held-out", here / "other", "--out", out)["card"]
    prior = load_prior(here / "prior.safetensors")
    check_calibration(
        np.exp(tensors(out / "h.safetensors")["log_rho2"]), errors(prior, unit(kinds(20)), KNOTS), "the images"
    )
    check_levels(card["levels"], {"prior": errors(prior, unit(pictures(8, seed=4)), LEVELS)}, 8)


RUNS: dict[str, Callable] = {k: v for k, v in list(globals().items()) if k.startswith("run_")}


@pytest.mark.parametrize("name", RUNS)
def test_it_passes_as_the_code_stands(shop, tmp_path, capsys, name):
    RUNS[name](shop, tmp_path / "out", capsys)


# Mistakes in the code.


def everywhere(patch, function, wrong):
    """Put `wrong` in the place of a function in every module that knows it, under whatever name."""
    found = [
        (m, k)
        for name, m in list(sys.modules.items())
        if name.startswith("deft")
        for k, v in list(vars(m).items())
        if v is function
    ]
    assert found, f"no module has {function}"
    for module, key in found:
        patch.setattr(module, key, wrong)


def mean_is_first_sample(patch):
    kept = []

    def wrong(path, x):
        kept.append(x)
        save_picture(path, kept[0] if Path(path).name == "mean.png" else x)

    everywhere(patch, save_picture, wrong)


def grid(change):
    """`picture_grid` with other columns. change: list of columns -> list of columns."""

    def patched(patch):
        everywhere(patch, picture_grid, lambda columns, **options: picture_grid(change(list(columns)), **options))

    return patched


def exchanged(i, j):
    """The pictures of two columns exchanged."""

    def change(columns):
        a, b = columns[i], columns[j]
        columns[i], columns[j] = replace(a, pictures=b.pictures), replace(b, pictures=a.pictures)
        return columns

    return change


def copied(i, j):
    """Column j drawn from what column i shows."""

    def change(columns):
        columns[j] = replace(columns[j], pictures=columns[i].pictures)
        return columns

    return change


def titles_rolled(columns):
    return [replace(c, title=columns[i - 1].title) for i, c in enumerate(columns)]


def rows_rolled(columns):
    return [*columns[:-1], replace(columns[-1], pictures=np.roll(columns[-1].pictures, 1, 0))]


def instead(function, wrong):
    return lambda patch: everywhere(patch, function, wrong)


def attribute(owner, name, wrong):
    return lambda patch: patch.setattr(owner, name, wrong)


def figures_exchanged(results, metrics, **options):
    for r in results:
        r.figures |= {"calls": r.figures["seconds"], "seconds": r.figures["calls"]}
    return make_rows(results, metrics, **options)


UNBIASED = torch.Tensor.std


def biased(self, *dims, **options):
    return UNBIASED(self, *dims, **{**options, "correction": 0})


def one_generator(self, shape, *, device="cpu"):
    return torch.randn(len(self), *shape, generator=generator(self.seed, len(self)))


def unpainted(obs, shape):
    """A measurement as a picture in which the hole looks like data."""
    return ((obs.y.clamp(-1, 1) + 1) * 127.5).byte().movedim(1, -1).expand(-1, -1, -1, 3).numpy()


def noisier(self, x, noise, kept=tasks.ImageTask.observe):
    options = {k: v for k, v in self.config().items() if k != "name"}
    return kept(type(self)(**{**options, "sigma_y": 2 * self.sigma_y}), x, noise)


def over_columns(draws):
    return draws.x.std(dim=-1).mean(1)[..., None].expand_as(draws.x[:, 0])


def distance_alone(samples, truth):
    return (samples.clamp(-1, 1) - truth[:, None]).square().flatten(2).mean(2).sqrt().mean(1)


def calibrated_on(part):
    return lambda self, prior, x, *args, **options: _calibrate(self, prior, x[part], *args, **options)


_calibrate, _forward = Calibrated.calibrate, DEFT.forward

CODE = {
    "mean.png is the first sample": (mean_is_first_sample, run_sample),
    "spread.png is the mean": (attribute(Draws, "std", property(lambda draws: draws.mean)), run_sample),
    "the deviation over the wrong axis": (attribute(Draws, "std", property(over_columns)), run_sample),
    "a deviation by S, not S - 1": (attribute(torch.Tensor, "std", biased), run_sample),
    "colours of another scale": (instead(heat, lambda values, top: heat(values, 2 * top)), run_sample),
    "a residual of the whole picture": (
        attribute(Observation, "residual_rms", lambda obs, x: (x - obs.y).square().flatten(1).mean(1).sqrt()),
        run_sample,
    ),
    "labels off by one": (grid(titles_rolled), run_sample),
    "the mean under a sample's label": (grid(exchanged(1, 4)), run_sample),
    "the hole is not painted": (instead(picture_of, unpainted), run_sample),
    "--batch changes samples": (attribute(Noise, "normal", one_generator), run_batches),
    "the untrained guide reversed": (
        attribute(DEFT, "forward", lambda self, pred, obs: -_forward(self, pred, obs)),
        run_pull,
    ),
    "the untrained guide forgotten": (
        attribute(DEFT, "forward", lambda self, pred, obs: 0 * _forward(self, pred, obs)),
        run_pull,
    ),
    "the last measurement dropped": (
        instead(save_measurement, lambda path, obs, task, **more: save_measurement(path, obs[:-1], task, **more)),
        run_measure,
    ),
    "measurements of other images": (
        instead(
            save_measurement, lambda path, obs, task, truth: save_measurement(path, obs, task, truth=truth.roll(1, 0))
        ),
        run_measure,
    ),
    "y drawn from x": (grid(copied(0, 1)), run_measure),
    "twice the noise": (attribute(tasks.ImageTask, "observe", noisier), run_measure),
    "truth and sample exchanged": (grid(exchanged(0, 2)), run_evaluate),
    "two methods exchanged in the picture": (grid(exchanged(2, 3)), run_evaluate),
    "rows of the spread off by one": (grid(rows_rolled), run_evaluate),
    "seconds and calls exchanged": (instead(make_rows, figures_exchanged), run_evaluate),
    "coverage of what is not covered": (
        instead(coverage, lambda *args, **options: 1 - coverage(*args, **options)),
        run_evaluate,
    ),
    "an energy score without its second term": (instead(energy_score_pixels, distance_alone), run_evaluate),
    "ahead for behind": (
        instead(standing, lambda row, metric, title: standing(row | {"value": -row["value"]}, metric, title)),
        run_evaluate,
    ),
    "validation for test": (
        instead(
            dataset,
            lambda name, split="fit": dataset(name, {"test": "validation", "validation": "test"}.get(split, split)),
        ),
        run_bundled,
    ),
    "calibration on one image": (attribute(Calibrated, "calibrate", calibrated_on(slice(1))), run_calibration),
    "calibration on the first half": (attribute(Calibrated, "calibrate", calibrated_on(slice(10))), run_calibration),
    "no calibration": (
        attribute(Calibrated, "calibrate", lambda self, prior, x, *args, **options: self),
        run_calibration,
    ),
    "held-out images for the fit's": (
        instead(
            fit_h, lambda h, prior, task, x, x_out, *args, **options: fit_h(h, prior, task, x_out, x, *args, **options)
        ),
        run_calibration,
    ),
    "levels of other images": (
        instead(
            weigh_levels,
            lambda h, objective, held_out, config, x, obs: weigh_levels(h, objective, held_out, config, 0 * x, obs),
        ),
        run_calibration,
    ),
}
SLOW = {
    "calibration on the first half",
    "no calibration",
    "held-out images for the fit's",
    "levels of other images",
    "the untrained guide forgotten",
}
"""Seconds each: like another that is always tried."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CODE]
)
def test_a_mistake_in_the_code_is_caught(shop, tmp_path, capsys, monkeypatch, name):
    mutate, command = CODE[name]
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        command(shop, tmp_path / "out", capsys)
