"""deft compare: the file, the pieces, resuming, and the report."""

from __future__ import annotations

import ast
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import deft.bench
from deft.bench import jobs as work
from deft.bench import runner as running
from deft.bench import studies as config
from deft.bench.jobs import draw_job
from deft.bench.result import Result, break_even, compared, make_rows, metrics_of, total_seconds
from deft.bench.run import best, run_study, score
from deft.bench.runner import Runner
from deft.bench.store import Store, make_job
from deft.bench.studies import proper, read_study
from deft.bench.study_report import seeds_table, task_table, verdict, write_study
from deft.bench.table import TIED
from deft.bench.tuning import entry_plan, further, points, steps_for
from deft.domains.image.features import Activations, FeatureNetwork
from deft.domains.image.measure import measure
from deft.domains.image.tasks import get_task
from deft.errors import InputError
from deft.kinds.domain import Metric, find_domain
from deft.likelihood import Gaussian, Observation
from deft.methods import METHODS, SOLVERS, WEIGHTED, plan
from deft.operator import Mask
from deft.runtime.messages import show
from deft.samplers import SAMPLERS, KernelSampler
from toys import refused, result, run

SMALL = """
title = "A tiny comparison"
images = 3
samples = 2
seeds = [0, 1]
batch = 4

[fit]
steps = 4
cache = 32
prior_samples = 0
images = 8
batch = 8
calibrate = false

[tune]
images = 2
samples = 2
budget = 12
steps = [3, 4]

[curve]
calls = [4, 6]
images = 2
samples = 2
points = 2

[[on]]
prior = "fashion"
tasks = ["inpaint", "hdr"]
entries = ["deft", "pigdm", "gradient", "deft-raw"]
curve = ["inpaint"]

[entries.deft-raw]
method = "deft"
tuned_as = "deft"
fit = { weights = "raw", options = { units = "eps" } }
"""


@pytest.fixture(scope="module", autouse=True)
def short_runs():
    """Four steps by default, where the table of methods has 50: what is tried, kept and reported does not depend on
    it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("prior", "deft", "pigdm", "gradient"):
            patch.setitem(METHODS, name, replace(METHODS[name], steps=4))
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A tiny comparison, run and reported: (study, folder, plans, report)."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(SMALL)
    study = read_study(folder / "tiny.toml")
    plans = run_study(study, folder / "out", progress=False)
    return study, folder / "out", plans, write_study(study, plans, folder / "out", command="deft compare tiny.toml")


def test_rows(done):
    study, _, _, report = done
    rows = report["rows"]
    for row in rows:
        assert {"prior", "task", "method", "metric", "value", "low", "high", "n", "seed", "calls"} <= set(row)
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]
    pooled = {(r["task"], r["method"], r["metric"]): r for r in rows if r["seed"] is None and "versus" not in r}
    for task, entries in {"inpaint": study.entries, "hdr": list(study.entries)}.items():
        for entry in entries:
            if (task, entry) == ("hdr", "pigdm") and (task, entry, "psnr") not in pooled:
                continue  # left out, if ΠGDM is for linear measurements alone
            assert (
                (task, entry, "feature_distance") in pooled
                and (task, entry, "energy_score") in pooled
                and (task, entry, "seconds") in pooled
            )
            each = [
                r["value"]
                for r in rows
                if (r["task"], r["method"], r["metric"]) == (task, entry, "psnr") and r["seed"] is not None
            ]
            assert pooled[task, entry, "psnr"]["seed_std"] == pytest.approx(np.std(each, ddof=1))
            assert len(each) == 2 and math.isclose(sum(each) / 2, pooled[task, entry, "psnr"]["value"], rel_tol=1e-6)
    assert any("versus" in r and 0 < r["p"] <= r["p_holm"] <= 1 for r in rows)


def test_the_report_can_be_read(done):
    _study, out, _, report = done
    text = (out / "report.md").read_text()
    for piece in (
        "ΠGDM",
        "inpaint",
        "Settings",
        "break-even",
        "by energy score",
        "Further metrics",
        "Energy score by seed",
        "seconds and memory measured on cpu",
        "wall-fashion-inpaint.png",
        "curve-fashion-inpaint.png",
        "deft compare tiny.toml",
    ):
        assert piece in text, piece
    assert json.loads((out / "report.json").read_text())["rows"] == report["rows"]
    heads = [line for line in text.splitlines() if "| calls | backward | s a sample |" in line]
    titles = (
        "energy score ↓",
        "energy score of pixels ↓",
        "coverage at 90 % (0.9 is right)",
        "spread over error (1 is right)",
        "feature distance ↓",
        "PSNR of the mean (dB) ↑",
        "PSNR (dB) ↑",
    )
    assert len(heads) == 2 and all(head.split(" | ")[1:8] == list(titles) for head in heads)
    assert [v["task"] for v in report["verdicts"]] == ["inpaint", "hdr"] and all(
        v["verdict"] in text and v["verdict"].startswith("By energy score, ") for v in report["verdicts"]
    )
    assert (out / "wall-fashion-inpaint.png").stat().st_size > 2000 and (
        out / "curve-fashion-inpaint.png"
    ).stat().st_size > 5000


def test_tuning_spends_what_it_may(done):
    study, _, plans, report = done
    for cell in plans.cells:
        spent = sum(p.calls(study.tune.samples) for p, _ in cell.tried)
        assert (spent <= study.tune.budget or len(cell.tried) == 1) and len(cell.tried) <= study.tune.points
        if cell.tried:
            values = [s for _, s in cell.tried]
            assert min(values) == next(s for p, s in cell.tried if p.config() == cell.plan.config())
    assert all(t["tried"] for t in report["tuned"] if t["method"] == "pigdm" and t["task"] == "inpaint")


def test_tuned_as_differs_in_the_fit_alone(done):
    _, _, plans, _ = done
    by = {(c.task.name, c.entry.name): c for c in plans.cells}
    assert by["inpaint", "deft-raw"].plan.config() == by["inpaint", "deft"].plan.config()
    assert by["inpaint", "deft-raw"].fits[0].key != by["inpaint", "deft"].fits[0].key


def test_nothing_is_done_twice(done, monkeypatch):
    study, out, _, _ = done
    monkeypatch.setattr(work, "WORK", {})  # any piece of work would fail
    plans = run_study(study, out, progress=False)
    assert len(plans.cells) >= 7 and not plans.failed
    changed = run_study(replace(study, images=1), out, progress=False)
    assert not changed.cells and len(changed.failed) >= 14 and set(changed.failed.values()) == {"KeyError: 'draw'"}
    for path in (out / "draw").glob("*.error.txt"):
        path.unlink()


def test_the_same_piece_gives_the_same_numbers(done, tmp_path):
    """A piece is a function of its spec: done again in another folder, the metrics are the same."""
    _, out, plans, _ = done
    cell = next(c for c in plans.cells if c.entry.name == "pigdm")
    u = cell.draws[1]
    work.do(u, tmp_path)
    again, before = Store(tmp_path).read(u), Store(out).read(u)
    assert set(again["per_image"]) == set(before["per_image"])
    for metric, values in before["per_image"].items():  # threads may add in another order
        np.testing.assert_allclose(again["per_image"][metric], values, rtol=1e-4, atol=1e-4)


def test_the_same_measurements_for_every_entry(done):
    _, out, plans, _ = done
    seen = {}
    for cell in plans.cells:
        path = Store(out).path(cell.draws[0], ".npz")
        with np.load(path) as z:
            seen.setdefault(cell.task.name, []).append((z["truth"], z["y"]))
    for found in seen.values():
        assert len(found) >= 3
        assert all(np.array_equal(x, found[0][0]) and np.array_equal(y, found[0][1]) for x, y in found)


def test_jobs_do_the_same(done, tmp_path):
    """Two processes, each a part of the work, leave what one leaves."""
    study, out, plans, _ = done
    found = {c.entry.name: c.plan for c in plans.cells if c.task.name == "inpaint"}
    chosen = {  # as they were tuned, so that the one stage is that of the samples
        k: replace(study.entries[k], tune=False, settings=dict(p.settings.items()), sampler=p.sampler, steps=p.steps,
                   spacing=p.spacing)
        for k, p in found.items() if k in ("pigdm", "gradient")
    }  # fmt: skip
    on = replace(study.on[0], tasks=("inpaint",), entries=tuple(chosen), curve=())
    few = replace(study, on=(on,), seeds=(0,), entries=chosen)
    plans = run_study(few, tmp_path / "two", jobs=2, progress=False)
    store = Store(tmp_path / "two")
    assert len(plans.cells) == 2
    for cell in plans.cells:
        there = Store(out).read(cell.draws[0])["per_image"]["psnr"]
        np.testing.assert_allclose(store.read(cell.draws[0])["per_image"]["psnr"], there, atol=1e-3)


def test_parts_wait_for_each_other(done, tmp_path, monkeypatch):
    """Part 1 of 2 does half, and goes on once the other half is there."""
    from threading import Thread

    study, pause = done[0], running.time.sleep
    monkeypatch.setattr(running.time, "sleep", lambda seconds: pause(seconds / 20))
    few = replace(
        study, on=(replace(study.on[0], tasks=("inpaint",), entries=("pigdm", "gradient"), curve=()),), seeds=(0,)
    )
    parts: list = []
    threads = [
        Thread(target=lambda i=i: parts.append(run_study(few, tmp_path, part=i, parts=2, progress=False)))
        for i in (0, 1)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout=120)
    assert len(parts) == 2 and all(len(p.cells) == 2 for p in parts)


def test_costs_are_measured_by_one_process(tmp_path, monkeypatch):
    """Parts share draws; what a sample costs is measured by the first alone, or they would slow each other down."""
    units, did = [make_job("cost", f"c{i}", {"i": i}) for i in range(4)], []
    monkeypatch.setattr(
        running, "do", lambda u, folder, device, trust_code: (did.append(u), Store(folder).write(u, {}))
    )
    Runner(tmp_path, part=0, parts=2, progress=False)("costs", units, by_one=True)
    assert did == units
    Runner(tmp_path, part=1, parts=2, progress=False)("costs", units, by_one=True)  # all there: nothing to wait for
    assert did == units


def test_diverging_is_a_result(tmp_path):
    """A method that diverges is written down, never wins, and the comparison goes on."""
    store = Store(tmp_path)
    good, bad = (make_job("draw", name, {"name": name}) for name in ("good", "bad"))
    store.write(good, {"per_image": {"feature_distance": [1.0, 3.0]}})
    store.write(bad, {"failed": "h was not finite"})
    assert score(store, good, "feature_distance") == 2.0 and math.isnan(score(store, bad, "feature_distance"))
    a, b = plan("dps", settings={"zeta": 1.0}), plan("dps", settings={"zeta": 9.0})
    assert best([(b, math.nan), (a, 2.0)], METRICS["feature_distance"], b) is a
    assert best([(b, math.nan)], METRICS["feature_distance"], b) is b
    with pytest.raises(InputError, match="has no lpips"):
        score(store, good, "lpips")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_tuned(name):
    """Every row of the table has a grid whose points are plans, its defaults first, within the budget."""
    entry = config.Entry(name, name)
    tuning = config.Tuning(budget=300, steps=(10, 20))
    found = points(entry, tuning)
    assert found[0].config() == plan(name).config() and len(found) >= 1
    assert [p.config() for p in found] == [p.config() for p in points(entry, tuning)]
    chosen = found[-1]
    found += further(entry, tuning, chosen, found)
    assert len(found) == 1 or sum(p.calls(4) for p in found) <= 300
    assert len(found) <= tuning.points
    own = {k for k in METHODS[name].grid if k in METHODS[name].settings}
    assert all(
        p.settings == chosen.settings
        for p in found
        if own and (p.sampler, p.spacing) != (found[0].sampler, found[0].spacing)
    )
    keys = [json.dumps(p.config(), sort_keys=True) for p in found]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", METHODS)
def test_all_methods_choose_samplers_and_spacings(name):
    """Every method may choose its spacing, and its sampler where it leaves it open; nobody chooses the scale of a
    learned h."""
    method, open_ = METHODS[name], METHODS[name].choices()
    assert len(open_["spacing"]) >= 2
    samplers = open_.get("sampler", ())
    if method.sampler is not None:
        assert not samplers
    else:
        assert (
            samplers == method.grid.get("sampler", WEIGHTED if method.draw is not None else SOLVERS)
            and len(samplers) >= 2
        )
    if method.draw is not None or name in ("dps", "mcg"):
        assert all(
            issubclass(SAMPLERS[s], KernelSampler) and plan(name, sampler=s).make_sampler().stochastic for s in samplers
        )
    if method.learned and method.draw is None:
        assert samplers == ("ddim", "dpmpp-2m", "sde-dpmpp-2m")
    if method.trained:
        assert "scale" not in open_ and method.settings["scale"] == 1.0
    for p in points(config.Entry(name, name), config.Tuning()):
        assert p.sampler in (samplers or ("ddim",)) and (not method.trained or p.settings["scale"] == 1.0)


def test_the_grid_is_tried_evenly(monkeypatch):
    """DEFT's nine settings are all pairs of three samplers and three spacings; where a method has settings of its own
    they come first, samplers at the best of them."""
    t = config.Tuning(calls=50)
    found = points(config.Entry("deft", "deft"), t, calls=50)
    assert len({(p.sampler, p.spacing) for p in found}) == len(found) == 9 and {p.steps for p in found} == {50}
    monkeypatch.setitem(
        METHODS, "gradient", replace(METHODS["gradient"], grid={"scale": (0.5, 1.0, 1.8), "data_std": (0.5, 1.0)})
    )
    entry = config.Entry("gradient", "gradient")
    first = points(entry, t, calls=50)
    assert len({(p.settings["scale"], p.settings["data_std"]) for p in first}) == len(first) == 6 and {
        (p.sampler, p.spacing) for p in first
    } == {("ddim", "angle")}
    second = further(entry, t, first[2], first)
    assert (
        all(p.settings == first[2].settings for p in second)
        and {p.sampler for p in second} >= {"dpmpp-2m", "sde-dpmpp-2m"}
        and len(first + second) == 9
    )
    fixed = config.Entry("gradient", "gradient", sampler="dpmpp-2m", spacing="karras")
    assert {(p.sampler, p.spacing) for p in points(fixed, t) + further(fixed, t, first[2], first)} == {
        ("dpmpp-2m", "karras")
    }


@pytest.mark.parametrize("name", METHODS)
def test_tuned_at_a_number_of_calls(name):
    """With `calls`, every plan takes as many steps as 50 calls allow, inner repeats and particles counted; longer ones
    are left out."""
    entry, t = config.Entry(name, name), config.Tuning(calls=50)
    found = points(entry, t, calls=50)
    if name in ("hmc", "deft-hmc"):
        assert not found
        return
    found += further(entry, t, found[0], found)
    for p in found:
        more = plan(name, **{k: v for k, v in (p.config() | {"steps": p.steps + 1}).items() if k != "method"})
        assert p.calls(4) <= 50 < more.calls(4)
    if METHODS[name].sampler is None and METHODS[name].draw is None and METHODS[name].runs == 1:
        assert {p.calls(4) for p in found} == {50}


class Pixels(FeatureNetwork):
    """Features are the pixels."""

    name, title = "pixels", "pixels"

    def look(self, x):
        return Activations(x.flatten(1), (), None)


def test_too_little_spread_loses_when_settings_are_tuned(tmp_path):
    """Two settings of a method, one with the posterior's spread and one with 0.4 of it: distances and PSNR would choose
    the second, no score for tuning does."""
    g, n = torch.Generator().manual_seed(0), 200
    mean = 0.3 * torch.randn(n, 1, 1, 8, 8, generator=g)
    truth = (mean + 0.2 * torch.randn(mean.shape, generator=g))[:, 0]
    noise = 0.2 * torch.randn(n, 4, 1, 8, 8, generator=g)
    obs = Observation(truth, Gaussian(Mask(torch.ones(1, 1, 8, 8)), 0.05))
    store, plans = Store(tmp_path), {f: plan("dps", settings={"zeta": f}) for f in (1.0, 0.4)}
    for factor in plans:
        values = measure(mean + factor * noise, truth, obs, network=Pixels())
        store.write(make_job("draw", str(factor), {}), {"per_image": {k: v.tolist() for k, v in values.items()}})

    def chosen(metric):
        return best(
            [(p, score(store, make_job("draw", str(f), {}), metric)) for f, p in plans.items()],
            METRICS[metric],
            plans[1.0],
        ).settings["zeta"]

    assert {chosen(metric) for metric in proper(IMAGES)} == {1.0}
    assert {chosen(metric) for metric in ("feature_distance", "psnr")} == {0.4}


def outcome(
    name: str,
    values,
    seconds: float,
    fit: float = 0.0,
    metric: str = "feature_distance",
    fits: int = 1,
    method: str = "dps",
) -> Result:
    figures = {"seconds": seconds} | ({"fit_seconds": fit, "parameters": 1, "share": 0.1} if fit else {})
    values = np.asarray(values)
    return Result(
        name,
        plan(method),
        {metric: values},
        figures=figures,
        about={"calls": 50.0},
        fits=fits if fit else 0,
        seeds=tuple(range(len(values))),
    )


IMAGES = find_domain("image")
METRICS, SR4 = metrics_of(IMAGES), get_task("sr4")
STUDY = config.make_study({"seeds": [0, 1, 2], "on": [{"prior": "fashion", "tasks": ["sr4"], "entries": ["dps"]}]})


def tied_of(results, metric):
    return compared(results, METRICS[metric], SR4).tied


def three(metric="energy_score", worse=0.5):
    """Arms a (best), b (not to be told from it) and c (worse), three seeds of 40 images."""
    rng = np.random.default_rng(0)
    base = rng.normal(1.0, 0.3, size=(3, 40))
    return [
        outcome("c", base + worse, 1, metric=metric),
        outcome("b", base + 0.02 + 0.1 * (noise := rng.normal(size=base.shape)) - 0.1 * noise.mean(), 1, metric=metric),
        outcome("a", base, 1, metric=metric),
    ]


def test_the_best_and_its_equals_are_marked():
    """Bold for the best alone, a mark for what cannot be distinguished from it, none for what is worse; rows in the
    order of the leading metric."""
    rows = [line for line in task_table(three(), METRICS, SR4).markdown() if line.startswith(("| a", "| b", "| c"))]
    assert [r[2] for r in rows] == ["a", "b", "c"]
    assert "**" in rows[0] and TIED not in rows[0]
    assert "**" not in rows[1] and f" {TIED} [" in rows[1]
    assert "**" not in rows[2] and TIED not in rows[2]


def test_best_where_a_value_is_right():
    """Coverage: 0.88 is better than 0.95, and than 0.80; the residual is right at sigma_y, 0.05 for this task."""
    rng = np.random.default_rng(0)
    entries = [outcome(str(v), v + 0.01 * rng.normal(size=(1, 40)), 1, metric="coverage") for v in (0.95, 0.88, 0.80)]
    assert compared(entries, METRICS["coverage"], SR4).tied == ("0.88",)
    entries = [outcome(str(v), v + 0.001 * rng.normal(size=(1, 40)), 1, metric="residual") for v in (0.02, 0.06, 0.2)]
    assert compared(entries, METRICS["residual"], SR4).tied == ("0.06",)
    assert compared([outcome("a", [[1.0, 2.0]], 1, metric="diversity")], METRICS["diversity"], SR4) is None


def test_the_verdict_is_computed():
    text = verdict(three(), METRICS, "deft")
    assert (
        text.startswith("By energy score, a is best (")
        and "; b cannot be distinguished from it; the next, c, is behind it by 0.500 [0.500, 0.500] (p 0.0" in text
    )
    assert "c" not in verdict(three()[1:], METRICS, "deft").split("distinguished from it")[1]
    alone = verdict([three()[0], three()[2]], METRICS, "deft")
    assert "a is best" in alone and "no other entry is level with it" in alone
    assert verdict(three(worse=-0.5), METRICS, "deft").startswith("By energy score, c is best")
    # high is better there
    assert verdict(three("psnr_mean"), METRICS, "deft").startswith("By PSNR of the mean (dB), c is best")
    mixed = [replace(o, values=o.values | {"feature_distance": -o.values["energy_score"]}) for o in three()]
    # not by the distance, where there is a proper score
    assert verdict(mixed, METRICS, "deft").startswith("By energy score, a is best")


def test_fits_that_differ_widen_what_is_said_of_an_entry():
    """Three fits whose quality differs more than the images': the interval holds the best entry's mean, and the entry
    is not called worse."""
    rng = np.random.default_rng(0)
    base = rng.normal(1.0, 0.1, size=(3, 40))
    shifted = base + np.array([[0.02], [0.6], [0.1]])
    lucky, one = (
        outcome("h", shifted, 1, fit=9.0, metric="energy_score", fits=3, method="deft"),
        outcome("h", shifted, 1, fit=9.0, metric="energy_score", method="deft"),
    )
    other = outcome("a", base, 1, metric="energy_score")
    assert tied_of([other, lucky], "energy_score") == ("a", "h") and tied_of([other, one], "energy_score") == ("a",)
    wide, narrow = lucky.interval("energy_score"), one.interval("energy_score")
    assert wide.high - wide.low > 5 * (narrow.high - narrow.low) and wide.value == narrow.value
    rows = [r for r in make_rows([other, lucky], METRICS, versus="a") if "versus" in r]
    assert rows[0]["low"] < 0 < rows[0]["high"] and rows[0]["p_holm"] > 0.05
    table = seeds_table([other, lucky], METRICS)[1].markdown()
    spread = np.std(shifted.mean(1), ddof=1)
    assert any(line.startswith("| h | 3 |") and line.endswith(f"| {spread:.4f} |") for line in table)


def test_the_device_is_no_part_of_a_piece(tmp_path, monkeypatch):
    """The same key on every device; the device reaches the work, and is written into the result."""
    on = STUDY.on[0]

    def key():
        return draw_job(
            on,
            get_task("sr4").config(),
            STUDY.entries["dps"],
            plan("dps", steps=2),
            None,
            split="test",
            images=1,
            samples=1,
            seed=0,
            batch=1,
        )

    before = work.DEVICE.set("meta")
    try:
        assert work.the_prior(on).state_like().device.type == "meta"
        there = key()
    finally:
        work.DEVICE.reset(before)
    assert there == key() and "device" not in there.spec and work.the_prior(on).state_like().device.type == "cpu"
    monkeypatch.setitem(work.WORK, "draw", lambda job, store: {"was_on": work.DEVICE.get()})
    monkeypatch.setattr(work, "device_name", lambda device: f"card {device}")
    seen = []
    monkeypatch.setattr(
        running, "do", lambda u, folder, device, trust_code: (seen.append(device), work.do(u, folder, device))
    )
    Runner(tmp_path, progress=False, device="meta")("samples", [there])
    found = Store(tmp_path).read(there)
    assert (
        seen == ["meta"] and found["was_on"] == "meta" and found["device"] == "card meta" and work.DEVICE.get() == "cpu"
    )


def test_backward_passes_are_counted(tmp_path):
    """As many as each method's formula says, and for an h one image's check at the door beside them. MGPS has 20 in its
    first step and none in its last."""
    door = 2 + 1 / 6
    for name, passes in {"pigdm": door, "mmps": 4 * door, "replacement": 0, "mgps": 20, "cpigdm": 2}.items():
        u = draw_job(
            STUDY.on[0],
            get_task("sr4").config(),
            config.Entry(name, name),
            plan(name, steps=2),
            None,
            split="test",
            images=3,
            samples=2,
            seed=0,
            batch=6,
        )
        work.do(u, tmp_path)
        assert Store(tmp_path).read(u)["backward"] == pytest.approx(passes), name


def test_a_piece_that_fails_stops_nobody(tmp_path, monkeypatch, capsys):
    """It is named with its reason, its entry is left out, the report is written; the same command does it when it
    can."""
    (tmp_path / "s.toml").write_text(
        "images = 2\nsamples = 2\n[tune]\nimages = 2\nsamples = 2\nsteps = [2]\npoints = 2\n[[on]]\nprior ="
        ' "fashion"\ntasks = ["sr4"]\narms = ["prior", "gradient"]\n'
    )
    study, real = read_study(tmp_path / "s.toml"), work.WORK["draw"]

    def draw(u, store):
        if u.settings["plan"]["method"] == "gradient" and u.settings["split"] == "test":
            raise RuntimeError("no\nroom")
        if (
            u.settings["plan"]["method"] == "gradient"
            and u.settings["plan"]["sampler"] == "ddim"
            and u.settings["plan"]["settings"]["scale"] == 1.0
        ):
            raise RuntimeError("one setting that does not run")
        return real(u, store)

    monkeypatch.setitem(work.WORK, "draw", draw)
    out = tmp_path / "o"
    said = []
    with show(said.append):
        plans = run_study(study, out, progress=False)
    assert (
        [c.entry.name for c in plans.cells] == ["prior"]
        and "RuntimeError: no room" in plans.failed.values()
        and any("no room" in s for s in said)
    )
    assert "test" in next(k for k, v in plans.failed.items() if "no room" in v)
    report = write_study(study, plans, out)
    assert "## Failed" in (out / "report.md").read_text() and report["failed"] == plans.failed
    assert "jobs failed, and the rest is done" in refused(capsys, "compare", tmp_path / "s.toml", "--out", out)
    assert any("Traceback" in p.read_text() for p in (out / "draw").glob("*.error.txt"))
    monkeypatch.setitem(work.WORK, "draw", real)
    again = run_study(study, out, progress=False)
    assert {c.entry.name for c in again.cells} == {"prior", "gradient"} and not again.failed
    tried = [
        p for p in (out / "draw").glob("*.error.txt") if p.with_name(p.name.replace(".error.txt", ".json")).exists()
    ]
    assert not tried  # no note is left of what was done since


def test_parts_do_not_wait_for_what_failed(tmp_path, monkeypatch):
    """Part 2's piece failed: part 1 goes on without it."""
    units = [make_job("draw", f"d{i}", {"i": i}) for i in range(2)]
    Store(tmp_path).fail(units[1], "RuntimeError: gone")
    monkeypatch.setattr(running, "do", lambda u, folder, device, trust_code: Store(folder).write(u, {}))
    crew = Runner(tmp_path, part=0, parts=2, progress=False)
    crew("samples", units)
    assert crew.failed == {units[1].key: "RuntimeError: gone"} and crew.tried(units) and not crew.has(units)


def test_an_entry_may_name_its_sampler():
    table = {
        "on": [{"prior": "fashion", "tasks": ["inpaint"], "entries": ["deft", "second"]}],
        "entries": {"second": {"method": "deft", "sampler": "dpmpp-2m"}},
    }
    study = config.make_study(table)
    assert [entry_plan(study.entries[k]).sampler for k in ("deft", "second")] == ["sde-dpmpp-2m", "dpmpp-2m"]
    assert {p.sampler for p in points(study.entries["second"], study.tune)} == {"dpmpp-2m"}
    table["entries"]["second"]["sampler"] = "dpmpp-3m"
    with pytest.raises(InputError, match="did you mean 'dpmpp-2m'"):
        config.make_study(table)


def test_break_even():
    learned = outcome("deft", [[1.0]], 0.02, fit=100)
    assert break_even(learned, outcome("dps", [[1.0]], 0.52)) == pytest.approx(200)
    assert math.isinf(break_even(learned, outcome("fast", [[1.0]], 0.01)))
    assert break_even(learned, outcome("long", [[1.0]], 0.02, fit=200)) == 0.0


def test_what_is_done_once_is_paid_once():
    other = outcome("ddrm", [[1.0]], 0.02)
    other.figures["once_seconds"] = 30.0
    assert total_seconds(other) == pytest.approx(30 + 20)
    assert break_even(outcome("deft", [[1.0]], 0.01, fit=100), other) == pytest.approx((100 - 30) / 0.01)


def test_costs_are_of_samples_not_of_singular_vectors(tmp_path, monkeypatch):
    """A method whose first draw does slow work once: its samples do not cost less for it (they came out negative)."""
    entry, on = (
        config.make_study({"on": [{"prior": "fashion", "tasks": ["sr4"], "entries": ["ddrm"]}]}).entries["ddrm"],
        config.Setting("fashion", ("sr4",), ("ddrm",)),
    )
    ticks = iter([0.0, 30.0, 30.0, 31.0, 31.0, 36.0])  # the first draw takes 30 s, then 1 s, then 5 s
    monkeypatch.setattr(work.time, "perf_counter", lambda: next(ticks))
    found = work._cost(
        work.cost_job(on, get_task("sr4").config(), entry, plan("ddrm", steps=20), None, 4), Store(tmp_path)
    )
    assert found["once"] == pytest.approx(29)
    assert found["seconds_per_call"] == pytest.approx((5 - 1) / 8 / 4)
    assert found["seconds"] == pytest.approx((1 + 18 * (5 - 1) / 8) / 4)


def test_tied_of():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2, 40))
    entries = [
        outcome("a", base, 1),
        outcome("b", base + 0.001 * rng.normal(size=base.shape), 1),
        outcome("c", base + 0.5, 1),
    ]
    names = tied_of(entries, "feature_distance")
    assert set(names) == {"a", "b"}


def test_steps_for():
    assert steps_for(plan("dps"), 50) == 50
    assert steps_for(plan("dps", sampler="heun"), 49) == 25  # 2 n - 1 calls
    assert steps_for(plan("dps", sampler="heun"), 50) == 25
    assert steps_for(plan("dps"), 3) is None
    assert (
        steps_for(plan("tds", settings={"particles": 8}), 50, 4) == 25
        and steps_for(plan("repaint", settings={"repeats": 5}), 50) == 10
    )
    assert steps_for(plan("lora"), 50) == 25  # it runs two networks a step


ONE = '[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\n'
BAD = {
    "images = 3": "no \\[\\[on\\]\\]",
    'imagse = 3\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': "did you mean 'images'",
    '[[on]]\nprior = "fashion"\ntasks = ["inpant"]\narms = ["dps"]': "did you mean 'inpaint'",
    '[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dpss"]': "did you mean 'dps'",
    f'{ONE}arms = ["x"]\n[entries.x]\nmethod = "dps"\nsettings = {{ zetta = 1.0 }}': ("did you mean 'zeta'"),
    f'{ONE}arms = ["x"]\n[entries.x]\nmethod = "deft"\nfit = {{ second = 1 }}': ("did you mean 'seconds'"),
    '[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["x"]\n[entries.x]\nmethod = "deft"\ntuned_as = "y"': (
        "tuned_as of x"
    ),
    'images = 0\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': (
        "images = 0: expected a whole number of at least 1"
    ),
    'seeds = [1, 1]\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': (
        r"seeds = \[1, 1\]: expected a list of different values"
    ),
    '[tune]\nbudget = -1\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': "tune.budget",
    '[tasks.inpaint]\nsigma = 1\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': (
        "did you mean 'sigma_y'"
    ),
    '[[on]]\ntasks = ["inpaint"]\narms = ["dps"]': "prior",
    '[tune]\nmetric = "feature_distance"\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': (
        "nothing is tuned by a score that rewards too little spread"
    ),
    '[tune]\nmetric = "psnr"\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': (
        "energy_score, energy_score_pixels, crps"
    ),
    '[tune]\nmetric = "energy_scor"\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': (
        "did you mean 'energy_score'"
    ),
    '[tune]\nsamples = 1\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': (
        "tune.samples = 1: expected a whole number of at least 2"
    ),
    'seeds = [0, 1, 2]\n[fit]\nseeds = [0, 1]\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["deft"]': (
        "leaves out \\[2\\] of seeds"
    ),
    "images = ": "is no TOML",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_files(text, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=BAD[text]) as error:
        read_study(path)
    assert "\n" not in str(error.value)


def test_command_line(capsys, tmp_path):
    assert "cannot read" in refused(capsys, "compare", tmp_path / "none.toml", "--out", tmp_path / "o")
    file = tmp_path / "s.toml"
    file.write_text(
        "images = 2\nsamples = 1\n[tune]\nimages = 2\nsamples = 2\nbudget = 4\nsteps = [2]\n[[on]]\nprior ="
        ' "fashion"\ntasks = ["sr4"]\narms = ["prior"]\n'
    )
    assert "--part takes" in refused(capsys, "compare", file, "--out", tmp_path / "o", "--part", "3/2")
    assert "no such device" in refused(capsys, "compare", file, "--out", tmp_path / "o", "--device", "cuda:77")
    assert "--jobs" in refused(capsys, "compare", file, "--out", tmp_path / "o", "--jobs", "0")
    assert "holds no results" in refused(capsys, "compare", file, "--out", tmp_path / "o", "--report")
    found = result(capsys, "compare", file, "--out", tmp_path / "o")
    assert found["rows"] > 5 and (tmp_path / "o" / "report.md").exists()
    code, _, _ = run(capsys, "compare", file, "--out", tmp_path / "o", "--report")
    assert code == 0


def test_an_unknown_setting_size_is_said_before_any_work(tmp_path):
    (tmp_path / "s.toml").write_text('[[on]]\nprior = "fashion"\ndata = "ct"\ntasks = ["sr4"]\narms = ["prior"]\n')
    with pytest.raises(InputError, match="the prior makes 32x32 grey, the images of ct are 64x64"):
        run_study(read_study(tmp_path / "s.toml"), tmp_path / "o", progress=False)
    assert not list((tmp_path / "o").glob("draw/*"))


def test_fits_differ_by_seed(done):
    _, out, plans, _ = done
    cell = next(c for c in plans.cells if c.entry.name == "deft" and c.task.name == "inpaint")
    assert list(cell.fits) == [0]
    found = Store(out).read(cell.fits[0])
    assert found["steps"] == 4 and found["parameters"] > 0 and len(found["levels"]) == 10
    assert torch.isfinite(torch.tensor([row["h"] for row in found["levels"]])).all()


def test_the_earlier_word_for_entries_is_read():
    """Files of version 0.1.0 say `arms`."""
    table = {
        "on": [{"prior": "fashion", "tasks": ["sr4"], "arms": ["dps", "slow"]}],
        "arms": {"slow": {"method": "dps", "steps": 99}},
    }
    study = config.make_study(table)
    assert study.on[0].entries == ("dps", "slow") and study.entries["slow"].steps == 99


def test_a_study_that_comes_with_a_kind_of_data():
    assert read_study(config.find_study("quick")).title == "A quick comparison" and config.find_study(
        "quick.toml"
    ) == config.find_study("quick")
    assert config.find_study("nowhere.toml").name == "nowhere.toml"


def test_tasks_of_one_kind_of_data():
    assert config.domain_of_tasks(["sr4", "inpaint"]) is IMAGES
    with pytest.raises(InputError, match="did you mean 'sr4'"):
        config.domain_of_tasks(["sr44"])


def test_a_metric_of_the_domain_is_in_every_report(done, monkeypatch, tmp_path):
    """A row of its table and a number of its `measure` are all that a metric takes: rows, tables and what is measured
    follow."""
    from deft.domains.image import measure as measuring

    study, _, _, _ = done
    real = measuring.measure
    monkeypatch.setitem(
        measuring.METRICS, "darkness", Metric("darkness", "darkness", "low", 2, "mean of 1 - x", table="main")
    )
    monkeypatch.setattr(
        measuring,
        "measure",
        lambda samples, *a, **k: {**real(samples, *a, **k), "darkness": 1 - samples.flatten(1).mean(1)},
    )
    few = replace(
        study,
        on=(replace(study.on[0], tasks=("sr4",), entries=("prior",), curve=()),),
        seeds=(0,),
        entries={"prior": config.Entry("prior", "prior", steps=2, tune=False)},
    )
    report = write_study(few, run_study(few, tmp_path, progress=False), tmp_path)
    row = next(r for r in report["rows"] if r["metric"] == "darkness")
    text = (tmp_path / "report.md").read_text()
    assert (
        f"| {row['value']:.2f} [" in text.replace("**", "")
        and "darkness ↓" in text
        and "- darkness: mean of 1 - x" in text
    )
    with np.load(next((tmp_path / "draw").glob("*.npz"))) as z:  # the number is that of the samples
        assert row["value"] == pytest.approx(float(1 - z["samples"].astype(float).mean()), abs=2e-3)


def test_comparisons_name_no_kind_of_data():
    """`deft.bench` imports none, and knows the name of none: whatever it needs it asks `deft.kinds.domain`."""
    for path in (Path(deft.bench.__file__).parent).glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            assert not any(name.startswith("deft.domains") for name in names), path
            assert not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "find_domain"
                and isinstance(node.args[0], ast.Constant)
            ), path
