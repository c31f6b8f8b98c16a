"""deft compare: the file, the pieces, resuming, and the report."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from deft.comparison import config, read_study, run_study, work
from deft.comparison.report import Outcome, best_of, break_even, total_seconds, write_report
from deft.comparison.run import Crew, best, score, steps_for
from deft.comparison.store import Store, unit
from deft.comparison.tuning import arm_plan, points
from deft.errors import InputError
from deft.methods import METHODS, plan
from deft.tasks import get_task
from toys import refused, result, run

SMALL = """
title = "A tiny comparison"
images = 3
samples = 2
seeds = [0, 1]
batch = 8

[fit]
seconds = 60
steps = 4
bank = 32
images = 8
batch = 8
calibrate = false

[tune]
images = 2
budget = 12
steps = [3, 4]

[curve]
calls = [4, 6]
images = 2
points = 2

[[on]]
prior = "fashion"
tasks = ["inpaint", "hdr"]
arms = ["deft", "pigdm", "gradient", "deft-raw"]
curve = ["inpaint"]

[arms.deft-raw]
method = "deft"
tuned_as = "deft"
fit = { weights = "raw", options = { units = "eps" } }
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A tiny comparison, run and reported: (study, folder, plans, report)."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.toml").write_text(SMALL)
    study = read_study(folder / "tiny.toml")
    plans = run_study(study, folder / "out", progress=False)
    return study, folder / "out", plans, write_report(study, plans, folder / "out", command="deft compare tiny.toml")


def test_rows(done):
    study, _, _, report = done
    rows = report["rows"]
    for row in rows:
        assert {"prior", "task", "method", "metric", "value", "low", "high", "n", "seed", "calls"} <= set(row)
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]
    pooled = {(r["task"], r["method"], r["metric"]): r for r in rows if r["seed"] is None and "versus" not in r}
    for task, arms in {"inpaint": study.arms, "hdr": list(study.arms)}.items():
        for arm in arms:
            if (task, arm) == ("hdr", "pigdm") and (task, arm, "psnr") not in pooled:
                continue  # left out, if ΠGDM is for linear measurements alone
            assert (task, arm, "feature_distance") in pooled and (task, arm, "seconds") in pooled
            each = [r["value"] for r in rows if (r["task"], r["method"], r["metric"]) == (task, arm, "psnr") and r["seed"] is not None]
            assert len(each) == 2 and math.isclose(sum(each) / 2, pooled[task, arm, "psnr"]["value"], rel_tol=1e-6)
    assert any("versus" in r and 0 < r["p"] <= r["p_holm"] <= 1 for r in rows)


def test_the_report_can_be_read(done):
    _study, out, _, report = done
    text = (out / "report.md").read_text()
    for piece in ("ΠGDM", "inpaint", "Settings", "break-even", "wall-fashion-inpaint.png", "curve-fashion-inpaint.png", "deft compare tiny.toml"):
        assert piece in text, piece
    assert json.loads((out / "report.json").read_text())["rows"] == report["rows"]
    assert (out / "wall-fashion-inpaint.png").stat().st_size > 2000 and (out / "curve-fashion-inpaint.png").stat().st_size > 5000


def test_tuning_spends_what_it_may(done):
    study, _, plans, report = done
    for cell in plans.cells:
        spent = sum(p.calls(1) for p, _ in cell.tried)
        assert spent <= study.tune.budget or len(cell.tried) == 1
        if cell.tried:
            values = [s for _, s in cell.tried]
            assert min(values) == next(s for p, s in cell.tried if p.config() == cell.plan.config())
    assert all(t["tried"] for t in report["tuned"] if t["method"] == "pigdm" and t["task"] == "inpaint")


def test_tuned_as_differs_in_the_fit_alone(done):
    _, _, plans, _ = done
    by = {(c.task.name, c.arm.name): c for c in plans.cells}
    assert by["inpaint", "deft-raw"].plan.config() == by["inpaint", "deft"].plan.config()
    assert by["inpaint", "deft-raw"].fits[0].key != by["inpaint", "deft"].fits[0].key


def test_nothing_is_done_twice(done, monkeypatch):
    study, out, _, _ = done
    monkeypatch.setattr(work, "WORK", {})  # any piece of work would fail
    plans = run_study(study, out, progress=False)
    assert len(plans.cells) >= 7
    changed = replace(study, images=2)
    with pytest.raises(KeyError):
        run_study(changed, out, progress=False)


def test_the_same_piece_gives_the_same_numbers(done, tmp_path):
    """A piece is a function of its spec: done again in another folder, the metrics are the same."""
    _, out, plans, _ = done
    cell = next(c for c in plans.cells if c.arm.name == "pigdm")
    u = cell.draws[1]
    work.do(u, tmp_path)
    again, before = Store(tmp_path).read(u), Store(out).read(u)
    assert set(again["per_image"]) == set(before["per_image"])
    for metric, values in before["per_image"].items():  # threads may add in another order
        np.testing.assert_allclose(again["per_image"][metric], values, rtol=1e-4, atol=1e-4)


def test_the_same_measurements_for_every_arm(done):
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
    study, out, _, _ = done
    few = replace(study, on=(replace(study.on[0], tasks=("inpaint",), arms=("pigdm", "gradient"), curve=()),), seeds=(0,))
    plans = run_study(few, tmp_path / "two", jobs=2, progress=False)
    store = Store(tmp_path / "two")
    for cell in plans.cells:
        there = Store(out).read(cell.draws[0])["per_image"]["psnr"]
        np.testing.assert_allclose(store.read(cell.draws[0])["per_image"]["psnr"], there, atol=1e-3)


def test_parts_wait_for_each_other(done, tmp_path):
    """Part 1 of 2 does half, and goes on once the other half is there."""
    from threading import Thread

    study, _, _, _ = done
    few = replace(study, on=(replace(study.on[0], tasks=("inpaint",), arms=("pigdm", "gradient"), curve=()),), seeds=(0,))
    parts: list = []
    threads = [Thread(target=lambda i=i: parts.append(run_study(few, tmp_path, part=i, parts=2, progress=False))) for i in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(timeout=120)
    assert len(parts) == 2 and all(len(p.cells) == 2 for p in parts)


def test_costs_are_measured_by_one_process(tmp_path, monkeypatch):
    """Parts share draws; what a sample costs is measured by the first alone, or they would slow each other down."""
    from deft.comparison import run as running

    units, did = [unit("cost", f"c{i}", {"i": i}) for i in range(4)], []
    monkeypatch.setattr(running, "do", lambda u, folder: (did.append(u), Store(folder).write(u, {})))
    Crew(tmp_path, part=0, parts=2, progress=False)("costs", units, by_one=True)
    assert did == units
    Crew(tmp_path, part=1, parts=2, progress=False)("costs", units, by_one=True)  # all there: nothing to wait for
    assert did == units


def test_diverging_is_a_result(tmp_path):
    """A method that diverges is written down, never wins, and the comparison goes on."""
    store = Store(tmp_path)
    good, bad = (unit("draw", name, {"name": name}) for name in ("good", "bad"))
    store.write(good, {"per_image": {"feature_distance": [1.0, 3.0]}})
    store.write(bad, {"failed": "h was not finite"})
    assert score(store, good, "feature_distance") == 2.0 and math.isnan(score(store, bad, "feature_distance"))
    a, b = plan("dps", settings={"zeta": 1.0}), plan("dps", settings={"zeta": 9.0})
    assert best([(b, math.nan), (a, 2.0)], "feature_distance", b) is a
    assert best([(b, math.nan)], "feature_distance", b) is b
    with pytest.raises(InputError, match="has no lpips"):
        score(store, good, "lpips")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_tuned(name):
    """Every row of the table has a grid whose points are plans, its defaults first, within the budget."""
    arm = config.Arm(name, name)
    tuning = config.Tuning(budget=300, steps=(10, 20))
    found = points(arm, tuning)
    assert found[0].config() == plan(name).config() and len(found) >= 1
    assert len(found) == 1 or sum(p.calls(1) for p in found) <= 300
    assert [p.config() for p in found] == [p.config() for p in points(arm, tuning)]
    keys = [json.dumps(p.config(), sort_keys=True) for p in found]
    assert len(set(keys)) == len(keys)


def outcome(name: str, values, seconds: float, fit: float = 0.0) -> Outcome:
    cell = type("Cell", (), {"arm": config.Arm(name, "dps")})()
    fits = [{"seconds": fit, "parameters": 1, "share": 0.1}] if fit else []
    return Outcome(cell, {"feature_distance": np.asarray(values)}, "", {"seconds": seconds}, fits)


def test_an_arm_may_name_its_sampler():
    table = {"on": [{"prior": "fashion", "tasks": ["inpaint"], "arms": ["deft", "second"]}], "arms": {"second": {"method": "deft", "sampler": "dpmpp-2m"}}}
    study = config.make_study(table)
    assert [arm_plan(study.arms[k]).sampler for k in ("deft", "second")] == ["ddim", "dpmpp-2m"]
    table["arms"]["second"]["sampler"] = "dpmpp-3m"
    with pytest.raises(InputError, match="did you mean 'dpmpp-2m'"):
        config.make_study(table)


def test_break_even():
    learned = outcome("deft", [[1.0]], 0.02, fit=100)
    assert break_even(learned, outcome("dps", [[1.0]], 0.52)) == pytest.approx(200)
    assert math.isinf(break_even(learned, outcome("fast", [[1.0]], 0.01)))
    assert break_even(learned, outcome("long", [[1.0]], 0.02, fit=200)) == 0.0


def test_what_is_done_once_is_paid_once():
    other = outcome("ddrm", [[1.0]], 0.02)
    other.cost["once"] = 30.0
    assert total_seconds(other) == pytest.approx(30 + 20)
    assert break_even(outcome("deft", [[1.0]], 0.01, fit=100), other) == pytest.approx((100 - 30) / 0.01)


def test_costs_are_of_samples_not_of_singular_vectors(tmp_path, monkeypatch):
    """A method whose first draw does slow work once: its samples do not cost less for it (they came out negative)."""
    arm, on = config.make_study({"on": [{"prior": "fashion", "tasks": ["sr4"], "arms": ["ddrm"]}]}).arms["ddrm"], config.Setting("fashion", ("sr4",), ("ddrm",))
    ticks = iter([0.0, 30.0, 30.0, 31.0, 31.0, 36.0])  # the first draw takes 30 s, then 1 s, then 5 s
    monkeypatch.setattr(work.time, "perf_counter", lambda: next(ticks))
    found = work._cost(work.cost_unit(on, get_task("sr4").config(), arm, plan("ddrm", steps=20), None, 4), Store(tmp_path))
    assert found["once"] == pytest.approx(29)
    assert found["seconds_per_call"] == pytest.approx((5 - 1) / 8 / 4)
    assert found["seconds"] == pytest.approx((1 + 18 * (5 - 1) / 8) / 4)


def test_best_of():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2, 40))
    arms = [outcome("a", base, 1), outcome("b", base + 0.001 * rng.normal(size=base.shape), 1), outcome("c", base + 0.5, 1)]
    names = best_of(arms, "feature_distance")
    assert set(names) == {"a", "b"}


def test_steps_for():
    assert steps_for(plan("dps"), 50) == 50
    assert steps_for(plan("dps", sampler="heun"), 49) == 25  # 2 n - 1 calls
    assert steps_for(plan("dps", sampler="heun"), 50) == 25
    assert steps_for(plan("dps"), 3) is None


BAD = {
    'images = 3': "no \\[\\[on\\]\\]",
    'imagse = 3\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': "did you mean 'images'",
    '[[on]]\nprior = "fashion"\ntasks = ["inpant"]\narms = ["dps"]': "did you mean 'inpaint'",
    '[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dpss"]': "did you mean 'dps'",
    '[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["x"]\n[arms.x]\nmethod = "dps"\nsettings = { zetta = 1.0 }': "did you mean 'zeta'",
    '[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["x"]\n[arms.x]\nmethod = "deft"\nfit = { second = 1 }': "did you mean 'seconds'",
    '[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["x"]\n[arms.x]\nmethod = "deft"\ntuned_as = "y"': "tuned_as of x",
    'images = 0\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': "images must be a whole number of at least 1",
    'seeds = [1, 1]\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': "different whole numbers",
    '[tune]\nbudget = -1\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': "tune.budget",
    '[tasks.inpaint]\nsigma = 1\n[[on]]\nprior = "fashion"\ntasks = ["inpaint"]\narms = ["dps"]': "did you mean 'sigma_y'",
    '[[on]]\ntasks = ["inpaint"]\narms = ["dps"]': "prior",
    'images = ': "is no TOML",
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
    file.write_text('images = 2\nsamples = 1\n[tune]\nimages = 2\nbudget = 4\nsteps = [2]\n[[on]]\nprior = "fashion"\ntasks = ["sr4"]\narms = ["prior"]\n')
    assert "--part takes" in refused(capsys, "compare", file, "--out", tmp_path / "o", "--part", "3/2")
    assert "--jobs" in refused(capsys, "compare", file, "--out", tmp_path / "o", "--jobs", "0")
    assert "nothing to report" in refused(capsys, "compare", file, "--out", tmp_path / "o", "--report")
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
    cell = next(c for c in plans.cells if c.arm.name == "deft" and c.task.name == "inpaint")
    assert list(cell.fits) == [0]
    found = Store(out).read(cell.fits[0])
    assert found["steps"] == 4 and found["parameters"] > 0 and len(found["levels"]) == 10
    assert torch.isfinite(torch.tensor([row["h"] for row in found["levels"]])).all()
