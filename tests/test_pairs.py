"""Pairs (x, y) of a degradation that nobody can write down: fits without an operator, from Python and at the command
line."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.golden import same_picture
from tests.toys import pictures, refused, result, run, save_pictures, toy_prior

import deft
from deft.core.condition import condition
from deft.core.likelihood import Observation
from deft.errors import InputError
from deft.guidance.exact import Mixture
from deft.io.h_files import load_h
from deft.likelihood import Unknown
from deft.likelihood.unknown import UnknownTask, cells_to_channels
from deft.methods import METHODS, plan
from deft.nn.encoder import CHANNELS, Encoder
from deft.testing import MixtureWorld, gaussian_field
from deft.train.augment import flipped_pairs

LEARNED = {"deft", "amortised", "lora", "controlnet", "finetuned"}


def degrade(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """uint8 [N, H, W] darkened, blurred along rows, and noised: what the tests know and `deft` is not told."""
    rng = np.random.default_rng(seed)
    x = images.astype(float)
    y = 0.5 * (0.7 * x + 0.3 * np.roll(x, 1, -1)) + rng.normal(0, 4, x.shape)
    return y.clip(0, 255).round().astype(np.uint8)


# a closed form


@pytest.fixture(scope="module")
def world():
    """A Gaussian field of 16 pixels seen as 6 random mixtures of them, with noise: pairs, and what the exact posterior
    of eight further measurements is."""
    field = gaussian_field(4)
    a = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)) / 2
    like = deft.Gaussian(deft.Matrix(a), 0.1)
    x = field.sample(2000, 1).float()
    y = like.sample(x, deft.Noise(3, len(x)))
    new = like.sample(field.sample(24, 9).float(), deft.Noise(8, 24))
    exact = [field.posterior(Observation(row[None], like)) for row in new]
    return {
        "prior": field.prior(deft.VPCosine()),
        "x": x,
        "y": y,
        "new": new,
        "mean": torch.stack([p.mean for p in exact]).float(),
        "std": torch.stack([p.std for p in exact]).float(),
    }


def error_of_mean(world, fitted, n=64):
    """How far the mean of n samples is from the exact posterior mean, in posterior deviations (rms), what n samples
    would miss it by taken off; and deviation of the samples over that of the posterior."""
    draws = fitted.sample(world["new"], n=n, progress=False)
    apart = ((draws.mean - world["mean"]) / world["std"]).square().mean() - 1 / n
    return float(apart.clamp_min(0).sqrt()), float((draws.std / world["std"]).mean())


SMALL = {"width": 64, "steps": 400, "batch": 128, "cache": 6000, "lr": 4e-3, "progress": False}


def test_h_fitted_to_pairs_has_the_exact_posterior_mean(world):
    """A and the noise are known to the test alone. With h of zero the error is that of the prior's mean: 3.4
    deviations."""
    fitted = deft.fit_h(world["prior"], data=(world["x"], world["y"]), **SMALL)
    error, spread = error_of_mean(world, fitted)
    assert error < 0.3 and 0.9 < spread < 1.12, (error, spread)
    assert fitted.task.config()["name"] == "unknown" and not fitted.warnings


def test_shuffled_pairs_teach_nothing_and_it_is_said(world):
    shuffled, few = (world["x"], world["y"].roll(1, 0)), {**SMALL, "steps": 60, "cache": 2000}
    fitted = deft.fit_h(world["prior"], data=shuffled, **few)
    assert error_of_mean(world, fitted, n=16)[0] > 2
    assert any("same order" in line for line in fitted.warnings)


def test_numbers_are_seen_through_an_encoder_where_samples_are_pictures():
    """y = A x of pictures 8 x 8: six numbers, which have no place among the pixels."""
    field = gaussian_field(8)
    pictured = MixtureWorld(Mixture(*field.mixture), (1, 8, 8))
    a = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)) / 4
    x = pictured.sample(1500, 1).float()
    noise = 0.05 * torch.randn(1512, 6, generator=torch.Generator().manual_seed(1))
    y = x.flatten(1) @ a.mT + noise[:1500]
    small = {**SMALL, "width": 16, "steps": 80, "batch": 32, "cache": 1000, "evaluations": 2}
    fitted = deft.fit_h(pictured.prior(deft.VPCosine()), data=(x, y), **small)
    assert fitted.task.encode == 6 and fitted.h.config()["encode"] == 6
    new = pictured.sample(12, 9).float()
    measured = new.flatten(1) @ a.mT + noise[1500:]
    like = deft.Gaussian(deft.Matrix(a), 0.05)
    exact = torch.stack([field.posterior(Observation(row[None], like)).mean for row in measured]).float()
    mean = fitted.sample(measured, n=16, steps=15, progress=False).mean.flatten(1)
    left = ((mean - exact).square().mean() / exact.square().mean()).sqrt()
    assert left < 0.5, left  # 1 where y is not looked at


def test_a_network_of_ones_own_kind_is_fitted_alike(world):
    """The amortised regression of h's size, which never looks at the prior."""
    fitted = deft.fit_h(
        world["prior"],
        data=(world["x"], world["y"]),
        h=deft.learned.Amortised((16,), 1, 16),
        **{k: v for k, v in SMALL.items() if k != "width"} | {"steps": 10},
    )
    assert fitted.sample(world["new"][0], n=2, progress=False).x.shape == (1, 2, 16)


# what is seen of y


@pytest.mark.parametrize(
    ("y_shape", "event_shape", "views", "encode"),
    [
        ((1, 16, 16), (1, 16, 16), 1, 0),
        ((3, 16, 16), (1, 16, 16), 3, 0),  # colour for grey
        ((1, 16, 16), (3, 16, 16), 1, 0),  # grey for colour
        ((1, 4, 4), (1, 16, 16), 1, 0),
        ((1, 32, 20), (1, 16, 16), 4, 0),  # finer than the sample: cells become channels
        ((1, 200, 200), (1, 16, 16), 16, 0),  # no finer than four times
        ((5,), (1, 16, 16), 1, 5),
        ((300,), (1, 16, 16), 2, 300),
        ((2, 3, 4, 5), (1, 16, 16), 1, 120),
        ((5,), (16,), 1, 0),
        ((20,), (16,), 2, 0),
        ((2, 3), (16,), 1, 0),
        ((4, 30), (2, 10), 6, 0),  # series
    ],
)
def test_views_of_y_of_any_shape(y_shape, event_shape, views, encode):
    y = torch.randn(40, *y_shape, generator=torch.Generator().manual_seed(0)) * 7 + 3
    task = UnknownTask.from_pairs(event_shape, y)
    obs = task.observation(y)
    features = obs.features()
    assert task.feature_channels == obs.likelihood.feature_channels == views and task.encode == encode
    assert features.shape == (40, views * event_shape[0], *event_shape[1:])
    assert bool(torch.isfinite(features).all()) and float(features.abs().max()) < 8
    assert obs[:2].repeat(3).features().shape[0] == 6 and task.check(event_shape).y.shape == (1, *y_shape)
    again = UnknownTask(**{k: v for k, v in json.loads(json.dumps(task.config())).items() if k != "name"})
    assert again == task
    assert torch.isfinite(obs.likelihood.picture(y)).all()


def test_y_is_standardised_by_channel_or_by_number():
    y = torch.randn(500, 2, 8, 8) * torch.tensor([1.0, 20.0]).reshape(2, 1, 1) + torch.tensor([5.0, -3]).reshape(
        2, 1, 1
    )
    seen = UnknownTask.from_pairs((1, 8, 8), y).observation(y).features()
    assert seen.mean((0, 2, 3)).abs().max() < 1e-3 and (seen.std((0, 2, 3)) - 1).abs().max() < 1e-3
    y = torch.randn(500, 3) * torch.tensor([1.0, 20.0, 0.0]) + torch.tensor([5.0, -3.0, 2.0])
    seen = UnknownTask.from_pairs((1, 8, 8), y).observation(y).features().flatten(1)
    assert seen[:, :3].mean(0).abs().max() < 1e-3 and (seen[:, :2].std(0) - 1).abs().max() < 1e-2
    assert not seen[:, 2:].abs().max() > 1e-6  # a number that is always the same, and what is filled up


def test_nothing_of_a_finer_y_is_lost():
    y = torch.randn(2, 1, 8, 12)
    assert torch.equal(cells_to_channels(y, 2), torch.nn.functional.pixel_unshuffle(y, 2))


def test_the_encoder_is_linear_at_first_and_small():
    encoder = Encoder(40, (32, 32))
    a, b = torch.randn(2, 3, 40)
    zero = encoder(torch.zeros(3, 40))
    assert torch.allclose(encoder(a + b) - zero, encoder(a) + encoder(b) - 2 * zero, atol=1e-5)
    assert encoder(a).shape == (3, CHANNELS, 32, 32) and sum(p.numel() for p in encoder.parameters()) < 50_000


def test_latents_see_y_on_their_own_grid():
    """A latent prior: x are pictures, h lives among latents, and y is brought to their size without being encoded."""
    from deft.denoiser import MeanDenoiser
    from deft.prior.latent import LatentPrior

    class Folded(torch.nn.Module):
        def encode(self, x):
            return torch.nn.functional.pixel_unshuffle(x, 2)

        def decode(self, z):
            return torch.nn.functional.pixel_shuffle(z, 2)

    inner = MeanDenoiser(lambda x, a, s: a / (a**2 + s**2) * x, deft.VPCosine(), (4, 8, 8))
    prior = LatentPrior(inner, Folded(), (1, 16, 16))
    x = torch.randn(24, 1, 16, 16).clamp(-1, 1)
    fitted = deft.fit_h(prior, data=(x, 0.5 * x), width=8, steps=2, cache=16, batch=4, progress=False)
    assert fitted.task.feature_channels == 1 and fitted.task.event_shape == (4, 8, 8)
    assert fitted.sample(0.5 * x[:2], n=2, steps=2, progress=False).x.shape == (2, 2, 1, 16, 16)
    with pytest.raises(InputError, match="same height and width"):
        deft.fit_h(prior, data=(x, x), width=8, steps=2, flips="mirror")


# what cannot be done without an operator


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_that_need_the_operator_say_so(name, world):
    like = UnknownTask.from_pairs((16,), world["y"]).observation(world["y"]).likelihood
    reason = METHODS[name].why_unsupported(like)
    if name in LEARNED | {"prior"}:
        assert reason is None
    else:
        assert reason is not None and "known from pairs alone" in reason and "\n" not in reason


@pytest.mark.parametrize(
    "name", ["pigdm", "dps", "mmps", "gradient", "reconstruction", "ddrm", "diffpir", "tds", "daps"]
)
def test_and_so_do_those_that_are_used_by_hand(name, world):
    obs = UnknownTask.from_pairs((16,), world["y"]).observation(world["y"][:1])
    with pytest.raises(InputError, match="known from pairs alone") as found:
        plan(name, steps=2).draw(world["prior"], obs, 1)
    assert "\n" not in str(found.value)


def test_the_likelihood_refuses_what_nobody_knows():
    like, y, x = Unknown((2,), (4,), [0.0, 0.0], [1.0, 1.0]), torch.zeros(1, 2), torch.zeros(1, 4)
    for call in (
        lambda: like.sample(x, deft.Noise(0, 1)),
        lambda: like.log_prob(y, x),
        lambda: like.score(y, x),
        lambda: like.mean_update(y, x, torch.ones(1, 1)),
        lambda: like.approx_mean_update(y, x, torch.ones(1, 1)),
        lambda: like.tempered(0.5),
    ):
        with pytest.raises(InputError, match="known from pairs alone"):
            call()
    assert like.residual(y, x) is None and like.noise_sigma(y, x) is None


def test_an_h_that_looks_at_the_operator_is_refused(world):
    obs = UnknownTask.from_pairs((16,), world["y"]).observation(world["y"][:1])
    with pytest.raises(InputError, match="known from pairs alone"):
        condition(world["prior"], deft.DEFT((16,), 1, 8), obs)


@pytest.mark.parametrize(
    ("data", "changes", "said"),
    [
        (lambda x, y: (x[:9], y), {}, "9 samples x but 2000"),
        (lambda x, y: (x[:, :5], y), {}, "what this prior makes"),
        (lambda x, y: (x, y * float("nan")), {}, "not finite"),
        (lambda x, y: (x, torch.ones_like(y)), {}, "says nothing of x"),
        (lambda x, y: (x, torch.complex(y, y)), {}, "real and imaginary part"),
        (lambda x, y: (x, y), {"prior_samples": 5}, "cannot be further pairs"),
        (lambda x, y: (x, y), {"flips": "mirror"}, "flips are for pictures"),
        (lambda x, y: (x, y), {"flips": "left"}, "unknown flips"),
        (lambda x, y: (x, y), {"held_out": torch.zeros(2, 16)}, "held_out in the same form"),
        (lambda x, y: x, {}, "needs a task"),
    ],
)
def test_what_cannot_be_fitted_is_said(world, data, changes, said):
    x, y = world["x"], world["y"]
    with pytest.raises(InputError, match=said):
        deft.fit_h(world["prior"], data=data(x, y), width=8, steps=1, **changes)


def test_a_task_and_a_tuple_do_not_go_together(tmp_path):
    prior = deft.load_prior(toy_prior(tmp_path / "prior.safetensors"))
    with pytest.raises(InputError, match="without a task"):
        deft.fit_h(prior, "sr4", (torch.zeros(4, 1, 16, 16), torch.zeros(4, 1, 4, 4)), steps=1)


def test_a_measurement_of_another_shape_is_refused(world):
    fitted = deft.fit_h(
        world["prior"], data=(world["x"][:64], world["y"][:64]), width=8, steps=2, cache=64, progress=False
    )
    with pytest.raises(InputError, match="fitted to y of this shape"):
        fitted.sample(torch.zeros(1, 7))
    with pytest.raises(InputError, match="refine follows"):
        fitted.refine(world["new"][0])
    with pytest.raises(InputError, match="cannot be applied to other samples"):
        fitted.task.observe(world["x"], deft.Noise(0, 1))


# flips


def test_flips_move_x_and_y_alike():
    x = torch.randn(3, 1, 4, 4)
    obs = UnknownTask.from_pairs((1, 4, 4), 2 * x).observation(2 * x)
    for flips, n in (("mirror", 6), ("all", 24)):
        both, seen = flipped_pairs(x, obs, flips)
        assert len(both) == len(seen) == n and torch.equal(seen.y, 2 * both)
        assert len({tuple(v.flatten().tolist()) for v in both}) == n
    with pytest.raises(InputError, match="same height and width"):
        flipped_pairs(x, UnknownTask.from_pairs((1, 4, 4), x[..., :2]).observation(x[..., :2]), "mirror")
    with pytest.raises(InputError, match="an operator would not follow"):
        flipped_pairs(x, Observation(x, deft.Gaussian(deft.Identity(), 0.1)), "mirror")


# the command line


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A prior, 24 pairs in two folders and in a file, and 6 held out."""
    here = tmp_path_factory.mktemp("pairs")
    toy_prior(here / "prior.safetensors")
    x, new = pictures(24, seed=1), pictures(6, seed=2)
    save_pictures(here / "clean", x)
    save_pictures(here / "damaged", degrade(x))
    save_pictures(here / "new" / "x", new)
    save_pictures(here / "new" / "y", degrade(new, 1))
    np.savez(here / "pairs.npz", x=x, y=degrade(x))
    np.savez(here / "new.npz", x=new, y=degrade(new, 1))
    return here


def fit_line(shop, out, *more):
    return (
        "fit", "--prior", shop / "prior.safetensors", "--size", 0.4, "--steps", 3, "--batch", 4, "--cache", 32,
        "--out", out, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(shop):
    from deft.cli import main

    line = fit_line(shop, shop / "run", "--pairs", shop / "clean", "--degraded", shop / "damaged")
    assert main([str(a) for a in line]) == 0
    return shop / "run"


def test_a_fit_to_two_folders_says_what_it_was_fitted_to(shop, fitted):
    prior = deft.load_prior(shop / "prior.safetensors")
    h, task, card = load_h(fitted, prior)
    y = degrade(pictures(24, seed=1)) / 127.5 - 1
    assert task.name == "unknown" and task.pictures and task.y_shape == (1, 16, 16)
    assert np.allclose([task.mean[0], task.std[0]], [y.mean(), y.std()], atol=1e-5)
    assert h.inputs == ("x_t", "x_hat", "y") and not h.residual and not h.gate
    assert card["data"] == f"{shop}/clean (22 images)" and "guide" not in card["levels"][0]
    assert card["prior_samples"] == 0 and card["cache"] == 32


def test_folders_and_a_file_are_the_same_pairs(shop, fitted, tmp_path, capsys):
    """The names' order decides, whatever the endings are."""
    mixed = tmp_path / "mixed"
    (mixed / "y").mkdir(parents=True)
    (mixed / "x").symlink_to(shop / "clean", target_is_directory=True)
    for i, one in enumerate(degrade(pictures(24, seed=1))):
        Image.fromarray(one).save(mixed / "y" / f"{i:03d}.{'bmp' if i % 2 else 'tiff'}")
    first = json.loads((fitted / "log.json").read_text())["held_out"]
    for i, source in enumerate((shop / "pairs.npz", mixed)):
        result(capsys, *fit_line(shop, tmp_path / f"run{i}", "--pairs", source))
        assert json.loads((tmp_path / f"run{i}" / "log.json").read_text())["held_out"] == first
    shuffled = tmp_path / "shuffled.npz"
    np.savez(shuffled, x=pictures(24, seed=1), y=np.roll(degrade(pictures(24, seed=1)), 1, 0))
    result(capsys, *fit_line(shop, tmp_path / "run2", "--pairs", shuffled))
    assert json.loads((tmp_path / "run2" / "log.json").read_text())["held_out"] != first


def test_sampling_from_a_picture_and_from_a_file(shop, fitted, tmp_path, capsys):
    line = ("sample", fitted, "-n", 3, "--steps", 2)
    about = result(capsys, *line, "--measurement", shop / "new" / "y" / "002.png", "--out", tmp_path / "one")
    found = np.load(tmp_path / "one" / "samples.npz")
    y = degrade(pictures(6, seed=2), 1)[2] / 127.5 - 1
    assert np.allclose(found["y"], y, atol=1e-6) and found["samples"].shape == (3, 1, 16, 16)
    same_picture(tmp_path / "one" / "mean.png", found["samples"].mean(0), "the mean of the samples")
    assert about["residual"] is None and about["task"]["name"] == "unknown"
    result(capsys, *line, "--measurement", shop / "new.npz", "--row", 2, "--out", tmp_path / "two")
    assert np.array_equal(np.load(tmp_path / "two" / "samples.npz")["samples"], found["samples"])
    other = deft.load(fitted).sample(y[None, None].astype(np.float32), n=3, steps=2, progress=False)
    assert np.allclose(other.x[0].numpy(), found["samples"], atol=1e-5)


def test_evaluation_on_held_out_pairs(shop, fitted, tmp_path, capsys):
    line = ("evaluate", fitted, "--samples", 2, "--steps", 2)
    reports = [
        result(capsys, *line, *source, "--out", tmp_path / f"report{i}")
        for i, source in enumerate(
            (
                ("--data", shop / "new" / "x", "--degraded", shop / "new" / "y"),
                ("--data", shop / "new", "--pairs"),
                ("--data", shop / "new.npz", "--pairs"),
            )
        )
    ]
    rows = {(r["method"], r["metric"]): r for r in reports[0]["rows"] if "versus" not in r}
    assert {m for m, _ in rows} == {"deft", "prior"} and all(r["n"] == 6 for r in rows.values())
    found = np.load(tmp_path / "report0" / "samples.npz")
    truth = pictures(6, seed=2)[:, None] / 127.5 - 1
    samples = next(found[k] for k in found.files if "deft" in k)
    mse = ((np.clip(samples.mean(1), -1, 1) - truth) ** 2).mean((1, 2, 3))
    assert np.isclose(rows["deft", "psnr_mean"]["value"], (10 * np.log10(4 / mse)).mean(), atol=1e-3)
    assert all(r["rows"] == reports[0]["rows"] or _close(r["rows"], reports[0]["rows"]) for r in reports)
    again = deft.load(fitted).evaluate(
        (torch.tensor(truth).float(), torch.tensor(degrade(pictures(6, seed=2), 1)[:, None] / 127.5 - 1).float()),
        n=2,
        steps=2,
        progress=False,
    )
    assert np.isclose(again["psnr_mean"][0], rows["deft", "psnr_mean"]["value"], atol=1e-2)


def _close(rows, others):
    keys = ("method", "metric", "value")
    kept = ([tuple(r[k] for k in keys) for r in part if r["metric"] != "seconds"] for part in (rows, others))
    return all(a[:2] == b[:2] and np.isclose(a[2], b[2], atol=1e-4) for a, b in zip(*kept, strict=True))


@pytest.mark.parametrize(
    ("make", "shape", "pictured"),
    [
        (lambda x: np.random.default_rng(0).normal(5, 3, (len(x), 12)), (12,), False),
        (lambda x: np.repeat(degrade(x)[..., None], 3, -1), (3, 16, 16), True),
        (lambda x: degrade(x)[:, ::2, ::2], (1, 8, 8), True),
        (lambda x: np.kron(degrade(x), np.ones((2, 2))).astype(np.uint8), (1, 32, 32), True),
        (lambda x: degrade(x) / 255.0, (1, 16, 16), False),
        (lambda x: np.random.default_rng(0).normal(size=(len(x), 5, 6, 6)), (5, 6, 6), False),
        (lambda x: x.mean((1, 2)), (1,), False),
    ],
)
def test_y_of_any_shape(shop, tmp_path, capsys, make, shape, pictured):
    x = pictures(24, seed=1)
    np.savez(tmp_path / "pairs.npz", x=x, y=make(x))
    card = result(capsys, *fit_line(shop, tmp_path / "run", "--pairs", tmp_path / "pairs.npz"))["card"]
    assert tuple(card["task"]["y_shape"]) == shape and card["task"]["pictures"] is pictured
    line = ("sample", tmp_path / "run", "-n", 2, "--steps", 2, "--measurement")
    result(capsys, *line, tmp_path / "pairs.npz", "--row", 3, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "sheet.png").exists()
    result(
        capsys, "evaluate", tmp_path / "run", "--data", tmp_path / "pairs.npz", "--pairs", "--images", 3, "--samples",
        2, "--steps", 2, "--out", tmp_path / "report",
    )  # fmt: skip
    if not pictured:
        assert "is no picture" in refused(capsys, *line, shop / "damaged" / "000.png", "--out", tmp_path / "no") or (
            len(shape) == 3
        )


def test_what_a_fit_to_pairs_is_called(shop, fitted, tmp_path, capsys):
    _, shown, _ = run(capsys, "info", fitted)
    assert "name: unknown" in shown and "y_shape: [1, 16, 16]" in shown
    _, listed, _ = run(capsys, "list")
    assert "an unknown degradation: pairs (x, y) alone" in listed
    export = ("hub", "export", fitted, "--out", tmp_path / "hub", "--licence", "mit")
    assert run(capsys, *export)[0] == 0
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "unknown: known from pairs alone (y_shape [1, 16, 16]" in text and "task.observation(y)" in text
    assert "task.observe(" not in text and "measured.png" in text


def test_a_comparison_holds_pairs_out(shop, tmp_path, capsys):
    """Of 24 pairs 16 are fitted to, 4 are validated on, and 4 are tested on; who needs the operator is left out."""
    (tmp_path / "study.toml").write_text(
        f"""
images = 4
samples = 2
batch = 4
[fit]
steps = 2
cache = 16
batch = 4
size = 0.4
[tune]
images = 2
points = 1
steps = [2]
[[on]]
prior = "{shop}/prior.safetensors"
tasks = ["unknown"]
data = "{shop}/pairs.npz"
entries = ["deft", "pigdm", "prior"]
"""
    )
    code, said, err = run(capsys, "compare", tmp_path / "study.toml", "--out", tmp_path / "out")
    assert code == 0, err
    assert "left out: pigdm" in said and "fitting to 16 images, 4 held out" in said
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["rows"]
    found = {r["entry"] if "entry" in r else r["method"] for r in rows}
    assert {"deft", "prior"} <= found and "pigdm" not in found
    fit = json.loads(next((tmp_path / "out" / "fit").glob("*.json")).read_text())
    assert "unknown" in json.dumps(fit)
    (tmp_path / "no.toml").write_text('[[on]]\nprior = "fashion"\ntasks = ["unknown"]\nentries = ["prior"]\n')
    assert "data of its own" in refused(capsys, "compare", tmp_path / "no.toml", "--out", tmp_path / "no")


def test_a_fit_to_pairs_is_resumed(shop, tmp_path, capsys):
    source = ("--pairs", shop / "pairs.npz")
    whole = result(capsys, *fit_line(shop, tmp_path / "whole", *source))["card"]
    again = result(capsys, *fit_line(shop, tmp_path / "whole", *source, "--resume"))["card"]
    assert whole["held_out_loss"] == again["held_out_loss"]
    said = refused(capsys, *fit_line(shop, tmp_path / "whole", "--pairs", shop / "new.npz", "--resume"))
    assert "data" in said


def test_flips_at_the_command_line(shop, tmp_path, capsys):
    card = result(capsys, *fit_line(shop, tmp_path / "run", "--pairs", shop / "pairs.npz", "--flips", "mirror"))["card"]
    assert card["recipe"]["flips"] == "mirror"


def test_a_longer_fit_may_start_from_one_to_other_pairs(shop, fitted, tmp_path, capsys):
    more = ("--pairs", shop / "new.npz", "--start-from", fitted)
    line = [a for a in fit_line(shop, tmp_path / "run", *more) if a not in ("--size", 0.4)]
    assert result(capsys, *line)["card"]["started_from"] == str(fitted)


def test_bad_pairs(shop, fitted, tmp_path, capsys):
    """One line each, before anything is fitted."""
    x, y = pictures(24, seed=1), degrade(pictures(24, seed=1))
    files = {
        "few.npz": {"x": x, "y": y[:20]},
        "alone.npz": {"x": x},
        "mask.npz": {"x": x, "y": y, "mask": np.ones_like(x)},
        "task.npz": {"x": x, "y": y, "task": np.array('{"name": "sr4"}')},
        "nan.npz": {"x": x, "y": np.full(y.shape, np.nan)},
        "same.npz": {"x": x, "y": np.full(y.shape, 3, np.uint8)},
        "complex.npz": {"x": x, "y": y * 1j},
        "shape.npz": {"x": x[:, :8], "y": y},
    }
    for name, arrays in files.items():
        np.savez(tmp_path / name, **arrays)
    save_pictures(tmp_path / "fewer", y[:20])
    save_pictures(tmp_path / "sizes", y)
    Image.fromarray(y[0][:8]).save(tmp_path / "sizes" / "003.png")
    save_pictures(tmp_path / "twice", y)
    Image.fromarray(y[0]).save(tmp_path / "twice" / "003.bmp")
    (tmp_path / "empty").mkdir()
    clean, damaged = ("--pairs", shop / "clean"), ("--degraded", shop / "damaged")
    for more, said in (
        ((*clean, "--degraded", tmp_path / "fewer"), "none named 020, 021"),
        ((*clean, "--degraded", tmp_path / "sizes"), "mixed sizes"),
        ((*clean, "--degraded", tmp_path / "twice"), "several pictures named 003"),
        ((*clean, "--degraded", tmp_path / "empty"), "no pictures"),
        ((*clean, "--degraded", tmp_path / "none"), "no such folder"),
        ((*clean, "--degraded", shop / "pairs.npz"), "is no folder"),
        (clean, "two folders of it"),
        ((*clean, *damaged, "--task", "sr4"), "without --task"),
        ((*clean, *damaged, "--sigma-y", 0.1), "settings of a task"),
        ((*clean, *damaged, "--prior-samples", 10), "cannot be further pairs"),
        ((*clean, *damaged, "--skip-bad"), "one to one"),
        ((*clean, *damaged, "--method", "lora", "--objective", "kl"), "--objective"),
        ((*clean, *damaged, "--start-from", "inpaint"), "error"),
        (damaged, "--degraded"),
        (("--pairs", tmp_path / "few.npz"), "24 images x but 20"),
        (("--pairs", tmp_path / "alone.npz"), "lacks y"),
        (("--pairs", tmp_path / "mask.npz"), "--pairs with a --task"),  # it is of inpaint, the usual task
        (("--pairs", tmp_path / "task.npz"), "Name its task"),
        (("--pairs", tmp_path / "nan.npz"), "not finite"),
        (("--pairs", tmp_path / "same.npz"), "would all be black"),
        (("--pairs", tmp_path / "complex.npz"), "two channels"),
        (("--pairs", tmp_path / "shape.npz"), "16"),
        (("--pairs", shop / "pairs.npz", "--recursive"), "for folders"),
    ):
        assert said in refused(capsys, *fit_line(shop, tmp_path / "run", *more)), more
        assert not (tmp_path / "run" / "h.safetensors").exists()
    out = ("--out", tmp_path / "out")
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    measured = ("--measurement", shop / "new" / "y" / "000.png")
    for line, said in (
        (("sample", fitted, *measured, "--method", "pigdm"), "known from pairs alone"),
        (("sample", fitted, *measured, "--method", "deft-smc"), "known from pairs alone"),
        (("sample", fitted, *measured, "--refine", 2), "--refine"),
        (("sample", fitted, *measured, "--sigma-y", 0.1), "no noise"),
        (("sample", fitted, *measured, "--mask", tmp_path / "mask.png"), "--mask"),
        (("sample", fitted, "--measurement", tmp_path / "alone.npz"), "alone.npz"),
        (("evaluate", fitted, "--data", shop / "new" / "x"), "held out"),
        (("evaluate", fitted, "--data", shop / "new", "--pairs", "--methods", "deft,pigdm"), "pigdm"),
        (("evaluate", "--prior", shop / "prior.safetensors", "--task", "sr4", "--data", shop / "new" / "x",
          "--degraded", shop / "new" / "y"), "without a task"),
    ):  # fmt: skip
        assert said in refused(capsys, *line, *out), line


# the page


def test_the_commands_of_the_page_run(shop, tmp_path, capsys, monkeypatch):
    """Line by line, on small pictures of the names that the page uses."""
    monkeypatch.chdir(tmp_path)
    for name, source in (("clean", "clean"), ("damaged", "damaged"), ("pairs/x", "clean"), ("pairs/y", "damaged")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(shop / source, target_is_directory=True)
    for name in ("pairs.npz", "held-out"):
        (tmp_path / name).symlink_to(shop / name.replace("held-out", "new"))
    (tmp_path / "damaged.png").symlink_to(shop / "damaged" / "000.png")
    small = {
        "fit": f"--steps 2 --batch 2 --cache 8 --size 0.4 --overwrite --prior {shop}/prior.safetensors",
        "sample": "-n 2 --steps 2",
        "evaluate": "--images 2 --samples 2 --steps 2",
    }
    text = (Path(__file__).parents[1] / "docs/pairs.md").read_text(encoding="utf-8")
    first = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    lines = [line.split("  #")[0] for line in first.splitlines() if line.startswith("deft ")]
    assert len(lines) == 7
    for line in lines:
        words = shlex.split(line)[1:]
        code, _, err = run(capsys, *words, *small[words[0]].split())
        assert code == 0, (line, err)
