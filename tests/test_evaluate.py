"""Levels, comparisons, reports, the table of methods, the bundled data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from deft import VPCosine, condition, sample
from deft.bench.compare import TensorCases, compare
from deft.bench.methods_report import report, terminal, write_methods
from deft.bench.result import Result, make_rows, metrics_of, standing
from deft.bench.store import Store
from deft.core.htransform import HTransform
from deft.core.random import Noise
from deft.denoiser import MeanDenoiser
from deft.domains.image.data import SPLITS, fashion
from deft.domains.image.prior_quality import feature_report
from deft.domains.image.tasks import TASKS, Inpaint, SuperResolution
from deft.errors import InputError
from deft.guidance import DPS
from deft.guidance.combine import Zero
from deft.kinds.domain import find_domain
from deft.learned import LearnedCovariance, WithCovariance
from deft.methods import METHODS, TUNED, Context, make_sampler, plan
from deft.prior import load_prior
from deft.samplers import SAMPLERS
from deft.train.levels import LEVELS, hidden_pixels, level_errors, level_table
from deft.train.prior_quality import denoising_errors, draw
from toys import run, toy_prior


def gaussian_prior(shape=(1, 16, 16), d=0.5):
    """Independent normal pixels of deviation d: E[x_0 | x_t] = d^2 alpha x_t / (d^2 alpha^2 + sigma^2)."""
    return MeanDenoiser(lambda x, a, s: d**2 * a * x / (d**2 * a**2 + s**2), VPCosine(), shape)


class Exact(HTransform):
    """The exact h of `gaussian_prior` and a mask."""

    def __init__(self, d=0.5):
        super().__init__()
        self.d2 = d**2

    def forward(self, pred, obs):
        a, s = pred.alpha, pred.sigma
        rho2 = self.d2 * s**2 / (self.d2 * a**2 + s**2)
        pull = obs.likelihood.approx_mean_update(obs.y, pred.mean, rho2)
        return pull * a / s**2


# levels


def test_level_errors_are_the_closed_form():
    d = 0.5
    x = d * torch.randn(400, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    task = Inpaint(sigma_y=0.1)
    obs = task.observe(x, Noise(0, 400))
    rows = level_errors(gaussian_prior(), Exact(), x, obs, batch=150)
    assert [r["log_ratio"] for r in rows] == pytest.approx(list(LEVELS))
    assert [r["angle"] for r in rows] == pytest.approx([0.05 + 0.1 * i for i in range(10)], abs=1e-6)
    share = float(hidden_pixels(obs, x.shape).expand_as(x).mean())
    n = x.numel()
    for row in rows:
        ratio2 = math.exp(2 * row["log_ratio"])
        rho2 = d**2 * ratio2 / (d**2 + ratio2)
        both = 1 / (1 / rho2 + 1 / 0.1**2)
        tolerance = 5 * (2 / n) ** 0.5  # five standard errors of a mean square
        assert row["prior"] == pytest.approx(rho2, rel=tolerance)
        assert row["prior_hidden"] == pytest.approx(rho2, rel=tolerance / share**0.5)
        assert row["h_hidden"] == pytest.approx(row["prior_hidden"], rel=1e-4)
        assert row["h_seen"] == pytest.approx(both, rel=2 * tolerance / (1 - share) ** 0.5)
        assert row["h"] == pytest.approx(share * rho2 + (1 - share) * both, rel=2 * tolerance)
    assert "0.05" in level_table(rows) and len(level_table(rows).splitlines()) == 8


def test_levels_without_a_mask_and_with_no_h():
    x = torch.randn(6, 1, 16, 16)
    obs = SuperResolution().observe(x, Noise(0, 6))
    rows = level_errors(gaussian_prior(), Zero(), x, obs, levels=[-1.0, 1.0])
    assert len(rows) == 2 and "h_hidden" not in rows[0] and rows[0]["h"] == rows[0]["prior"]


def test_levels_do_not_depend_on_the_batch():
    x = torch.randn(5, 1, 16, 16)
    obs = Inpaint().observe(x, Noise(0, 5))
    one, two = (level_errors(gaussian_prior(), Exact(), x, obs, batch=b) for b in (5, 2))
    assert [r["h"] for r in one] == pytest.approx([r["h"] for r in two], rel=1e-6)


def test_denoising_errors_of_a_prior():
    x = 0.5 * torch.randn(200, 1, 16, 16)
    rows = denoising_errors(gaussian_prior(), x)
    obs = Inpaint().observe(x, Noise(0, 200))
    other = level_errors(gaussian_prior(), Zero(), x, obs)
    assert [r["prior"] for r in rows] == pytest.approx([r["prior"] for r in other], rel=1e-6)
    assert rows[0]["eps"] == pytest.approx(rows[0]["prior"] * math.exp(-2 * rows[0]["log_ratio"]))


# data


def test_bundled_images():
    sizes = {"fit": 1000, "validation": 200, "test": 500}
    assert list(sizes) == list(SPLITS)
    rows = []
    for split, n in sizes.items():
        data = fashion(split)
        assert data.x.shape == (n, 1, 32, 32) and data.labels.bincount().tolist() == [n // 10] * 10
        assert float(data.x.min()) == -1 and float(data.x.max()) == 1
        rows += [image.numpy().tobytes() for image in data.x]
    assert len(set(rows)) == len(rows)  # the splits share no image


def test_splits_come_from_where_they_should():
    from importlib import resources

    with np.load(str(resources.files("deft.domains.image.data") / "fashion.npz")) as data:
        assert data["test_index"].min() >= 2000 and data["validation_index"].min() >= 2000
        assert not set(data["test_index"]) & set(data["validation_index"])


# methods


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_method_runs_with_every_sampler(tmp_path, name, sampler):
    prior = load_prior(toy_prior(tmp_path / "p.safetensors"))
    x = torch.rand(2, 1, 16, 16) * 2 - 1
    obs = Inpaint().observe(x, Noise(0, 2))
    p = plan(name, "inpaint", steps=3, sampler=sampler, settings={"zeta": 0.01} if name == "dps" else None)
    fitted = WithCovariance(Exact(), LearnedCovariance((1, 16, 16), width=8)) if METHODS[name].beside else Exact()
    h, s, grid = p.make(prior, fitted)
    out = sample(condition(prior, h, obs), Noise(0, 2), sampler=s, grid=grid)
    assert out.shape == x.shape and bool(torch.isfinite(out).all())
    # chains, and methods whose step is all of them, differentiate the prior themselves
    themselves = METHODS[name].passes(METHODS[name].settings) > 1 or name in ("mgps", "cpigdm")
    assert METHODS[name].backward == (h.needs_graph or themselves)


def test_dps_of_the_table_is_the_published_one():
    """One step of it moves x_s by -zeta grad |r| from where the prior alone would have gone."""
    prior = gaussian_prior()
    x = 0.5 * torch.randn(3, 1, 16, 16)
    obs = Inpaint().observe(x, Noise(0, 3))
    p = plan("dps", steps=5, eta=0.0, settings={"zeta": 0.3})
    h, s, grid = p.make(prior)
    assert isinstance(h, DPS)
    x_t, t = torch.randn(3, 1, 16, 16).requires_grad_(), torch.tensor(grid[2].t, dtype=torch.float64)
    r = obs.likelihood.residual(obs.y, prior(x_t, t).mean)
    gradient = torch.autograd.grad(r.flatten(1).norm(dim=1).sum(), x_t)[0]
    free = s.step(condition(prior, Zero(), obs), x_t.detach(), grid[2], grid[3], None, None)[0]
    guided = s.step(condition(prior, h, obs), x_t.detach(), grid[2], grid[3], None, None)[0]
    assert torch.allclose(guided - free, -0.3 * gradient, atol=1e-5)


def test_tuned_settings_are_settings():
    for task, methods in TUNED.items():
        assert task in TASKS
        for name in methods:
            chosen = plan(name, task)
            assert (
                set(methods[name]) <= set(METHODS[name].settings) | {"eta", "steps", "spacing", "sampler"}
                and chosen.steps >= 1
            )


def test_plan_prefers_what_is_given(monkeypatch):
    monkeypatch.setitem(TUNED, "inpaint", {"dps": {"zeta": 0.9, "eta": 0.5, "steps": 30}})
    tuned = plan("dps", "inpaint")
    assert (dict(tuned.settings), tuned.eta, tuned.steps) == ({"zeta": 0.9}, 0.5, 30)
    given = plan("dps", "inpaint", settings={"zeta": 0.1}, eta=1.0, steps=7)
    assert (dict(given.settings), given.eta, given.steps) == ({"zeta": 0.1}, 1.0, 7)
    assert plan("dps", "denoise").settings == METHODS["dps"].settings


def test_unknown_names_of_methods():
    with pytest.raises(InputError, match="did you mean 'pigdm'"):
        plan("pigdn")
    with pytest.raises(InputError, match="did you mean 'ddim'"):
        make_sampler("dim")
    with pytest.raises(InputError, match="no settings of its own"):
        plan("prior", settings={"zeta": 1.0})
    with pytest.raises(InputError, match="needs a fitted h"):
        METHODS["deft"].make(Context(gaussian_prior(), [], make_sampler("ddim"), METHODS["deft"].settings))


# comparisons and reports


IMAGES = find_domain("image")
METRICS = metrics_of(IMAGES)


def twelve():
    x = 0.5 * torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return TensorCases(IMAGES, x, Inpaint().observe(x, Noise(0, 12)))


@pytest.fixture(scope="module")
def results():
    plans = {name: plan(name, steps=4) for name in ("deft", "pigdm", "prior")}
    return compare(plans, gaussian_prior(), twelve(), 3, fitted=Exact(), batch=10)


def rows_of(results):
    return make_rows(list(results.values()), METRICS, versus="deft", task="inpaint")


def test_compare_uses_the_same_seeds(results):
    again = compare({"prior": plan("prior", steps=4)}, gaussian_prior(), twelve(), 3, batch=36)
    assert np.allclose(results["prior"].samples, again["prior"].samples, atol=1e-5)
    assert results["deft"].figures["calls"] == 4 and results["deft"].figures["seconds"] > 0


@pytest.mark.parametrize("batch", [2, 5])
def test_what_is_kept_is_what_is_drawn(results, tmp_path, batch):
    """Batch by batch in a store, from there on the second time, and the same numbers as without one."""
    drawn = []

    class Counted(TensorCases):
        def draw(self, plan, prior, rows, *args, **options):
            drawn.append(rows)
            return super().draw(plan, prior, rows, *args, **options)

    cases = twelve()
    cases.__class__ = Counted
    p, store = {"pigdm": plan("pigdm", steps=4)}, Store(tmp_path)
    one, two = (compare(p, gaussian_prior(), cases, 3, batch=batch, store=store)["pigdm"] for _ in range(2))
    assert [r.start for r in drawn] == list(range(0, 12, batch))
    for found in (one, two):
        assert np.allclose(found.samples, results["pigdm"].samples, atol=1e-5)
        assert np.allclose(found.values["psnr"], results["pigdm"].values["psnr"], atol=1e-4)
    compare(p, gaussian_prior(), cases, 2, batch=12, store=store)  # other samples are another file
    assert len(drawn) == -(-12 // batch) + 1 and len(list((tmp_path / "samples").iterdir())) == 2


def test_exact_h_beats_the_prior(results):
    rows = {(r["method"], r["metric"]): r for r in rows_of(results) if "versus" in r}
    assert (
        rows["prior", "psnr"]["high"] < 0 and standing(rows["prior", "psnr"], METRICS["psnr"], "DEFT") == "DEFT ahead"
    )


def test_rows_are_what_readers_expect(results):
    rows = rows_of(results)
    for row in rows:
        assert {"task", "method", "metric", "value", "low", "high", "n"} <= set(row) and row["n"] == 12
        assert row["metric"] in METRICS and math.isfinite(row["value"])
        if row["low"] is not None:
            assert row["low"] <= row["value"] <= row["high"]
    assert {r["versus"] for r in rows if "versus" in r} == {"deft"}
    plain = {(r["method"], r["metric"]): r["value"] for r in rows if "versus" not in r}
    for r in rows:
        if "versus" in r:
            assert (
                r["value"] == pytest.approx(plain[r["method"], r["metric"]] - plain["deft", r["metric"]])
                and 0 < r["p"] <= r["p_holm"] <= 1
            )


def test_report_files(results, tmp_path):
    """The numbers of the tables and of the arrays are those of the samples."""
    cases = twelve()
    data = write_methods(tmp_path, "a title", results, cases, {"seed": 0}, task="inpaint", caption="fill")
    assert json.loads((tmp_path / "report.json").read_text()) == data and {p.name for p in tmp_path.iterdir()} == {
        "report.md",
        "report.json",
        "samples.png",
        "samples.npz",
    }
    text = (tmp_path / "report.md").read_text()
    assert (
        text == report(IMAGES, "a title", data["rows"], {"seed": 0}).markdown()
        and "ΠGDM" in text
        and "## Paired differences" in text
    )
    lines = text.splitlines()
    for line in lines:
        if line.startswith("| PSNR (dB)"):
            assert line.count("|") in (5, 6)
    with np.load(tmp_path / "samples.npz") as z:
        assert set(z.files) == {
            "truth",
            "y",
            "mask",
            "samples_deft",
            "samples_pigdm",
            "samples_prior",
        } and np.array_equal(z["truth"], cases.x)
        x, truth = torch.from_numpy(z["samples_prior"]).float(), torch.from_numpy(z["truth"])
    errors = ((x.clamp(-1, 1) - truth.clamp(-1, 1)[:, None]) / 2).square().flatten(2).mean(2)
    shown = next(line for line in lines if line.startswith("| PSNR (dB) ↑")).split("|")[4]
    assert float(shown.split("[")[0]) == pytest.approx(float((-10 * errors.log10()).mean()), abs=0.02)
    assert (
        "a title" in terminal(IMAGES, "a title", data["rows"])
        and max(map(len, terminal(IMAGES, "", data["rows"]).splitlines())) < 140
    )


def test_proper_scores_come_first(results):
    """In the report and in the terminal: scores of the whole distribution, then coverage and spread, then what single
    samples are."""
    rows = rows_of(results)
    found = [m for m in dict.fromkeys(r["metric"] for r in rows) if m in METRICS]
    assert found[:4] == ["energy_score_pixels", "crps", "coverage", "spread_skill"] and found.index(
        "psnr_mean"
    ) < found.index("psnr")
    order = list(METRICS)
    assert order[0] == "energy_score" and all(
        order.index(k) < order.index("feature_distance")
        for k in ("energy_score", "energy_score_pixels", "coverage", "spread_skill")
    )
    table = [line for line in report(IMAGES, "", rows, {}).markdown().splitlines() if line.startswith("| ")]
    assert table[1].startswith("| energy score of pixels ↓ |")
    assert [line.split("  ")[0] for line in terminal(IMAGES, "", rows).splitlines()[3:5]] == [
        "energy score of pixels ↓",
        "CRPS ↓",
    ]
    differences = terminal(IMAGES, "", rows).split("the method minus DEFT")[1].splitlines()
    assert differences[3].startswith("energy score of pixels ↓")


@pytest.mark.parametrize("samples", [1, 2])
def test_evaluate_of_ct_slices(tmp_path, capsys, samples):
    """The energy score in features of the network of CT slices; with one sample there is none, and that is said."""
    arguments = (
        "evaluate",
        "--prior",
        "ct",
        "--task",
        "sr4",
        "--data",
        "ct",
        "--images",
        2,
        "--samples",
        samples,
        "--steps",
        2,
        "--methods",
        "replacement",
    )
    code, out, err = run(capsys, *arguments, "--out", tmp_path / "r")
    assert code == 0
    metrics = {r["metric"] for r in json.loads((tmp_path / "r" / "report.json").read_text())["rows"]}
    assert "feature_distance" in metrics and ({"energy_score", "energy_score_pixels", "coverage"} <= metrics) == (
        samples == 2
    )
    assert ("no energy score" in out + err) == (samples == 1)


def test_rows_refuse_what_is_not_finite():
    bad = Result("deft", plan("deft"), {"psnr": np.array([[1.0, float("nan")]])})
    with pytest.raises(InputError, match="psnr of deft is not finite in 1 of 2"):
        make_rows([bad], METRICS)


def test_standings():
    row = {"value": 0.2, "p_holm": 0.01}
    assert (
        standing(row, METRICS["feature_distance"], "DEFT") == "DEFT ahead"
        and standing(row, METRICS["psnr"], "DEFT") == "DEFT behind"
    )
    assert (
        standing(row | {"p_holm": 0.05}, METRICS["psnr"], "DEFT") == "level"
        and standing(row, METRICS["residual"], "DEFT") == ""
    )


# priors and tuning


def test_samples_of_a_prior_do_not_depend_on_the_batch():
    one, two = (draw(gaussian_prior(), 6, steps=5, batch=b) for b in (6, 4))
    assert torch.allclose(one, two, atol=1e-5)


def test_feature_report_of_real_images():
    from deft.domains.image.classifier import fashion_classifier

    data = fashion("test").x
    found = feature_report(fashion_classifier(), data[:100], data[100:300])
    assert found["images"] == 100 and found["samples_to_real"] < 3 * found["real_to_real"]
    noise = feature_report(fashion_classifier(), torch.randn(100, 1, 32, 32), data[100:300])
    assert noise["samples_to_real"] > 5 * found["samples_to_real"]
