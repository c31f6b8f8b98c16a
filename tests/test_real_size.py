"""benchmarks/real_size.py: each row is written when it is there, the others go on where one fails, and the bars are
found in the rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def real_size(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import real_size

    yield real_size
    real_size.log.removeFilter(real_size.meant)
    for name in ("real_size", "step_cost", "memory"):
        sys.modules.pop(name, None)


def short(path, *more):
    given = ("--quick", "--models", "adm-256", "--batch", "1", "--repeats", "1", "--chains", "--fit-steps", "1")
    return [*given, "--out", str(path), *more]


@pytest.mark.slow
def test_rows_of_a_cpu(real_size, tmp_path, monkeypatch):
    monkeypatch.setattr(real_size, "NO_BACKWARD", ("deft 4 %", "ddrm"))
    monkeypatch.setattr(real_size, "BACKWARD", ("dps",))
    monkeypatch.setattr(real_size, "COMBINATIONS", (("eager", "fp32"),))
    real_size.main(short(tmp_path / "out.json"))
    kept = json.loads((tmp_path / "out.json").read_text())
    assert not [r for r in kept["rows"] if "error" in r]
    methods = [r.get("method") for r in kept["rows"]]
    assert methods == [None, "deft 4 %", "ddrm", None, "dps"] and kept["rows"][3]["seconds"] > 0
    row = kept["rows"][1]
    assert row["step"] > row["bare"] > 0 and row["20"] == pytest.approx(20 * row["step"], rel=1e-2)
    assert 0 < row["h"] < row["bare"] and row["rest"] == pytest.approx(
        1 - (row["bare"] + row["h"]) / row["step"], abs=0.01
    )
    assert kept["about"]["device"] and kept["about"]["quick"]


def test_a_row_that_fails_is_named(real_size, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(real_size, "NO_BACKWARD", ("ddrm",))
    monkeypatch.setattr(real_size, "BACKWARD", ("dps",))
    monkeypatch.setattr(real_size, "COMBINATIONS", (("eager", "fp32"),))
    monkeypatch.setattr(real_size.Bench, "chain", lambda *_: 0.25)

    def row(self, method, engine, precision):
        raise torch.OutOfMemoryError("not enough") if method == "ddrm" else AssertionError(method)

    monkeypatch.setattr(real_size.Bench, "row", row)
    monkeypatch.setattr(
        real_size.Bench, "fit", lambda self, steps: {"model": self.name, "fit": 2, "batch": 1, "seconds": 3.0}
    )
    with pytest.raises(AssertionError, match="dps"):
        real_size.main(short(tmp_path / "out.json"))
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert rows[1] == {"model": "adm-256", "job": "ddrm eager fp32", "error": "OutOfMemoryError: not enough"}
    assert "not measured: ddrm eager fp32 (adm-256): OutOfMemoryError" in real_size.table(rows)
    assert real_size.bars(rows) == {"fit_seconds": 300.0}
    assert real_size.main(short(tmp_path / "other.json", "--seconds", "0")) == []


def test_bars(real_size):
    common = {"model": "adm-256", "method": "deft 4 %", "engine": "compiled", "precision": "bf16"}
    rows = [
        {**common, "ratio": 1.08, "rest": 0.02},
        {**common, "calls": 20, "chain": 0.09},
        {**common, "calls": 100, "chain": 0.45},
        {**common, "precision": "fp32", "ratio": 2.0, "rest": 0.5},
        {**common, "model": "sd-unet", "ratio": 3.0, "rest": 0.5},
        {"model": "adm-256", "fit": 100, "seconds": 60.0, "batch": 16},
    ]
    found = real_size.bars(rows)
    assert found == {
        "deft_over_bare": 1.08,
        "rest": 0.02,
        "seconds_20": 0.09,
        "seconds_100": 0.45,
        "fit_seconds": 120.0,
    }
    assert set(found) == set(real_size.BARS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu(real_size, tmp_path):
    rows = real_size.main(["--quick", "--device", "cuda", "--models", "adm-256", "--out", str(tmp_path / "out.json")])
    assert not [r for r in rows if "error" in r]
    assert all(r["compiled"] for r in rows if r.get("engine") == "compiled" and "step" in r)
    assert set(real_size.BARS) - {"seconds_20", "seconds_100"} <= set(real_size.bars(rows))
