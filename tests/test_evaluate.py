"""Levels, comparisons, reports, the table of methods, the bundled data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from deft import VPCosine, condition, sample
from deft.bench.measure import METRICS, Outcome, compare
from deft.bench.report import make_rows, markdown, terminal, verdict, write_report
from deft.core.htransform import HTransform
from deft.core.random import Noise
from deft.denoiser import MeanDenoiser
from deft.domains.image.data import SPLITS, fashion
from deft.domains.image.prior_quality import feature_report
from deft.domains.image.tasks import TASKS, Inpaint, SuperResolution
from deft.errors import InputError
from deft.guidance import DPS
from deft.guidance.combine import Zero
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
        pull = obs.likelihood.pull(obs.y, pred.mean, rho2)
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
    h, s, grid = p.make(prior, Exact())
    out = sample(condition(prior, h, obs), Noise(0, 2), sampler=s, grid=grid)
    assert out.shape == x.shape and bool(torch.isfinite(out).all())
    chains = METHODS[name].passes(METHODS[name].settings) > 1  # they differentiate the prior themselves
    assert METHODS[name].backward == (h.needs_graph or chains)


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
            assert set(methods[name]) <= set(METHODS[name].settings) | {"eta", "steps", "spacing", "sampler"} and chosen.steps >= 1


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


@pytest.fixture(scope="module")
def outcomes():
    x = 0.5 * torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    obs = Inpaint().observe(x, Noise(0, 12))
    plans = [plan(name, steps=4) for name in ("deft", "pigdm", "prior")]
    return compare(plans, gaussian_prior(), x, obs, fitted=Exact(), samples=3, batch=10)


def test_compare_uses_the_same_seeds(outcomes):
    x = 0.5 * torch.randn(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    obs = Inpaint().observe(x, Noise(0, 12))
    again = compare([plan("prior", steps=4)], gaussian_prior(), x, obs, samples=3, batch=36)
    assert torch.allclose(outcomes["prior"].samples, again["prior"].samples, atol=1e-5)
    assert outcomes["deft"].figures["calls"] == 4 and outcomes["deft"].figures["seconds"] > 0


def test_exact_h_beats_the_prior(outcomes):
    rows = {(r["method"], r["metric"]): r for r in make_rows("inpaint", outcomes) if "versus" in r}
    assert rows["prior", "psnr"]["high"] < 0 and verdict(rows["prior", "psnr"]) == "DEFT ahead"


def test_rows_are_what_readers_expect(outcomes):
    rows = make_rows("inpaint", outcomes)
    for row in rows:
        assert {"task", "method", "metric", "value", "low", "high", "n"} <= set(row) and row["n"] == 12
        assert row["metric"] in METRICS and math.isfinite(row["value"])
        if row["low"] is not None:
            assert row["low"] <= row["value"] <= row["high"]
    assert {r["versus"] for r in rows if "versus" in r} == {"deft"}
    plain = {(r["method"], r["metric"]): r["value"] for r in rows if "versus" not in r}
    for r in rows:
        if "versus" in r:
            assert r["value"] == pytest.approx(plain[r["method"], r["metric"]] - plain["deft", r["metric"]])


def test_report_files(outcomes, tmp_path):
    rows = make_rows("inpaint", outcomes)
    report = write_report(tmp_path, "a title", rows, {"seed": 0})
    assert json.loads((tmp_path / "report.json").read_text()) == report
    text = (tmp_path / "report.md").read_text()
    assert text == markdown("a title", rows, {"seed": 0}) and "ΠGDM" in text and "## Paired differences" in text
    for line in text.splitlines():
        if line.startswith("| PSNR (dB)"):
            assert line.count("|") in (5, 6)
    assert "a title" in terminal("a title", rows) and max(map(len, terminal("", rows).splitlines())) < 140


def test_proper_scores_come_first(outcomes):
    """In the report and in the terminal: scores of the whole distribution, then coverage and spread, then what single samples are."""
    rows = make_rows("inpaint", outcomes)
    found = [m for m in dict.fromkeys(r["metric"] for r in rows) if m in METRICS]
    assert found[:4] == ["energy_score_pixels", "crps", "coverage", "spread_skill"] and found.index("psnr_mean") < found.index("psnr")
    order = list(METRICS)
    assert order[0] == "energy_score" and all(order.index(k) < order.index("feature_distance") for k in ("energy_score", "energy_score_pixels", "coverage", "spread_skill"))
    table = [line for line in markdown("", rows, {}).splitlines() if line.startswith("| ")]
    assert table[1].startswith("| energy score of pixels ↓ |")
    assert [line.split("  ")[0] for line in terminal("", rows).splitlines()[3:5]] == ["energy score of pixels ↓", "CRPS ↓"]
    differences = terminal("", rows).split("the method minus DEFT")[1].splitlines()
    assert differences[3].startswith("energy score of pixels ↓")


@pytest.mark.parametrize("samples", [1, 2])
def test_evaluate_of_ct_slices(tmp_path, capsys, samples):
    """The energy score in features of the network of CT slices; with one sample there is none, and that is said."""
    arguments = ("evaluate", "--prior", "ct", "--task", "sr4", "--data", "ct", "--images", 2, "--samples", samples, "--steps", 2, "--methods", "replacement")
    code, out, err = run(capsys, *arguments, "--out", tmp_path / "r")
    assert code == 0
    metrics = {r["metric"] for r in json.loads((tmp_path / "r" / "report.json").read_text())["rows"]}
    assert "feature_distance" in metrics and ({"energy_score", "energy_score_pixels", "coverage"} <= metrics) == (samples == 2)
    assert ("no energy score" in out + err) == (samples == 1)


def test_report_refuses_what_is_not_finite(tmp_path):
    values = {"psnr": torch.tensor([1.0, float("nan")])}
    bad = {"deft": Outcome(plan("deft"), torch.zeros(2, 1, 1, 2, 2), values)}
    with pytest.raises(InputError):
        make_rows("inpaint", bad)


def test_verdicts():
    row = {"metric": "feature_distance", "versus": "deft", "low": 0.1, "value": 0.2, "high": 0.3}
    assert verdict(row) == "DEFT ahead" and verdict(row | {"metric": "psnr"}) == "DEFT behind"
    assert verdict(row | {"low": -0.1}) == "level" and verdict(row | {"metric": "residual"}) == ""


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
