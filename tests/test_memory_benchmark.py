"""benchmarks/memory.py: bytes that are computed without weights are those that are there, counted one by one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("memory_benchmark", ROOT / "benchmarks/memory.py")
memory = importlib.util.module_from_spec(spec)
sys.modules["memory_benchmark"] = memory
spec.loader.exec_module(memory)


def test_bytes_alive_by_hand():
    """A tensor that is there, one made of it, a view (no bytes), one in place (none); what is gone is not counted."""
    there = torch.zeros(1000)
    with memory.Alive([there, there[2:]]) as alive:
        assert alive.bytes == 4000
        one = there + 1
        view = one.reshape(10, 100).t()
        one += 1
        assert alive.bytes == alive.peak == 8000
        del one
        assert alive.bytes == 8000  # the view holds it
        del view
        assert alive.bytes == 4000
        torch.zeros(500, dtype=torch.float16) * 2
    assert alive.peak == 8000 and alive.bytes == 4000


def test_what_autograd_keeps_by_hand():
    """y = exp(x w) of 100 numbers keeps x and y; w is a weight."""
    x, w = torch.zeros(100), torch.zeros(100, requires_grad=True)
    assert memory.saved_bytes(lambda: (x * w).exp().sum(), [w]) == 800


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("sd-unet", ("deft", "dps", "fit")),
        pytest.param("adm-256", (), marks=pytest.mark.slow),
        pytest.param("sd:decoder", (), marks=pytest.mark.slow),
    ],
)
def test_computed_is_counted_and_measured(name, calls):
    """To the byte, what is kept for the backward pass and the peak of every call. What the process's memory rises by is
    no less, and its excess is bounded."""
    rows = memory.check("cpu", (name,), True, 1, calls)
    assert {r["call"] for r in rows} >= {"deft", "dps", "fit"}
    for r in rows:
        assert r["saved_computed"] == r["saved_counted"] > 1e5, r
        assert r["computed"] == r["counted"] > 1e5, r
        if r["measured"] == r["measured"]:  # Linux
            assert 0.7 * r["computed"] < r["measured"] < 1.6 * r["computed"] + 64 * 2**20, r
    peaks = {r["call"]: r["computed"] for r in rows}
    assert peaks["dps"] > (3 if name != "sd:decoder" else 1) * peaks["deft"]


def test_the_models_are_the_published_ones():
    """859.5 M parameters of Stable Diffusion 1.x's UNet, 83.7 M of its autoencoder, 552.8 M of guided-diffusion's."""
    world = memory.build("sd:decoder", "meta", torch.float16, False)
    assert world.prior.parameter_count() == 859_520_964 and world.data_shape == (3, 512, 512)
    assert sum(p.numel() for p in world.prior.autoencoder.parameters()) == 83_653_863
    assert memory.build("adm-256", "meta", torch.float32, False).prior.parameter_count() == 552_814_086


def test_a_row_and_its_table():
    """Half precision halves the weights; h and its training stay float32, 20 bytes a parameter."""
    found = memory.row("sd-unet", torch.float16, 1, 0.09, quick=True)
    assert abs(found["weights"] / found["parameters"] - 2) < 0.01 and found["h_state"] == 20 * found["h_parameters"]
    assert found["h_parameters"] < 0.09 * found["parameters"]
    assert found["peak"]["fit"] > found["weights"] + found["h_state"]
    one = found["flops"]
    assert one["prior"] < one["deft"] < one["fit"] < one["dps"] and 2 < one["dps"] / one["prior"] < 3
    wanted = f"| `sd-unet` | float16, {found['weights'] / 1e9:.2f} | 1 | {found['h_parameters'] / 1e6:.1f} M (9 %) |"
    assert wanted in memory.tables([found])


def test_the_page_has_the_figures_of_the_file():
    rows = json.loads((ROOT / "benchmarks/results/memory.json").read_text())["rows"]
    text = (ROOT / "docs/cost.md").read_text(encoding="utf-8")
    wanted = [line for line in memory.tables(rows).splitlines() if line.startswith("| `")]
    shown = [line for line in text.splitlines() if line.startswith("| `") and line in wanted]
    assert len(shown) >= 12
    assert {line.split("`")[1].split(":")[0] for line in shown} == {"sd-unet", "sd", "adm-256"}
    strangers = [line for line in text.splitlines() if line.startswith(("| `sd", "| `adm")) and line not in wanted]
    assert not strangers
