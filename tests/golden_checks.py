"""What `deft sample`, `deft measure`, `deft fit` and `deft prior train` write must be: computed from the arrays
beside it, and from what was given."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from golden import (
    arrays,
    check_sheet,
    close,
    deviation,
    heat,
    markdown_tables,
    pixels,
    png,
    read,
    residual,
    same_picture,
    shown,
)

HOLE = (54, 110, 140)
"""The colour of what was not measured, in pictures of a measurement."""


def seen_pixels(task: str, y: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """A measurement [C, H, W] as the picture that stands for it, uint8 [H, W, 3]."""
    if task == "sr4":
        return pixels(np.repeat(np.repeat(y, 4, 1), 4, 2))
    if mask is None:
        return pixels(y)
    return np.where(np.broadcast_to(mask, (1, *y.shape[1:]))[0, ..., None] > 0, pixels(y), np.uint8(HOLE))


# deft sample


def check_samples(
    out: Path,
    about: Mapping[str, Any],
    *,
    n: int,
    steps: int,
    seed: int = 0,
    y: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> None:
    """The folder of `deft sample`. about: what it printed. y [C, H, W], mask: what was measured, by the files
    that were given to it."""
    data = arrays(out / "samples.npz")
    samples = data["samples"]
    assert len(samples) == n and len({x.tobytes() for x in samples}) == n, (
        f"{len(samples)} samples, or two alike, and {n} were asked for"
    )
    np.testing.assert_allclose(data["mean"], samples.mean(0), atol=1e-5, err_msg="mean of samples.npz")
    std = deviation(samples)
    np.testing.assert_allclose(data["spread"], std, atol=1e-5, err_msg="spread of samples.npz")
    assert sorted(p.name for p in out.glob("sample-*.png")) == [f"sample-{i:03d}.png" for i in range(n)]
    for i, x in enumerate(samples):
        same_picture(out / f"sample-{i:03d}.png", x, f"sample {i} of samples.npz")
    same_picture(out / "mean.png", samples.mean(0), "the mean of the samples")
    top = max(float(std.mean(0).max()), 1e-3)
    colours = heat(std.mean(0), top)
    assert np.abs(png(out / "spread.png").astype(int) - colours).max() <= 2, (
        "spread.png is not the standard deviation of the samples in its colours"
    )

    columns: dict[str, list[np.ndarray]] = {}
    kept = read(out / "sample.json")
    if y is not None:
        assert (mask is None) == ("mask" not in data)
        if mask is not None:
            np.testing.assert_array_equal(data["mask"].reshape(mask.shape), mask, err_msg="mask of samples.npz")
        np.testing.assert_allclose(data["y"], y, atol=1e-6, err_msg="y of samples.npz is not what was measured")
        columns["measurement"] = [seen_pixels(kept["task"]["name"], y, mask)]
        r = float(np.mean([residual(kept["task"]["name"], x, data["y"], mask) for x in samples]))
        close(kept["residual"], r, 1e-4, "residual", 1e-6)
    columns |= {f"sample {i + 1}": [pixels(x)] for i, x in enumerate(samples[:8])} | {"mean": [pixels(samples.mean(0))]}
    notes = {"mean": f"of {n}"}
    if n > 1:
        columns["spread"], notes["spread"] = [colours], f"of {n}"
    check_sheet(out / "sheet.png", columns, notes=notes, near=2)

    assert kept == about, "sample.json is not what --json prints"
    assert (kept["samples"], kept["seed"], kept["plan"]["steps"], kept["out"]) == (n, seed, steps, str(out))
    close(kept["spread"], float(std.mean()), 1e-4, "spread", 1e-6)


def check_same_samples(one: Path, two: Path) -> None:
    """Samples depend on neither --batch nor on how many are drawn."""
    a, b = (arrays(p / "samples.npz")["samples"] for p in (one, two))
    n = min(len(a), len(b))
    np.testing.assert_allclose(a[:n], b[:n], atol=2e-5, err_msg="--batch or -n changes the samples")


# deft measure


def check_measured(file: Path, about: Mapping[str, Any], *, images: np.ndarray, task: str, sigma_y: float) -> None:
    """The file and the picture of `deft measure`. images: uint8 [N, H, W], as they were given."""
    data = arrays(file)
    x = images[:, None] / 127.5 - 1
    assert len(data["y"]) == len(x) == about["n"] and list(data["y"].shape[1:]) == about["shape"], (
        "as many measurements as images"
    )
    np.testing.assert_allclose(data["truth"], x, atol=1e-6, err_msg="truth is not the images that were given")
    kept = json.loads(str(data["task"]))
    assert kept == about["task"] and kept["name"] == task and kept["sigma_y"] == sigma_y
    mask = data.get("mask")
    squares = []
    for i, y in enumerate(data["y"]):
        m = None if mask is None else mask[i if len(mask) > 1 else 0]
        squares.append(residual(task, x[i], y, m) ** 2)
        if m is not None:
            assert set(np.unique(m)) == {0, 1} and not np.any(y[np.broadcast_to(m, y.shape) == 0]), (
                "something was measured in the hole"
            )
    # the noise: root mean square sigma_y, within four standard errors of a chi square
    count = float(np.size(data["y"]) if mask is None else np.broadcast_to(mask, data["y"].shape).sum())
    rms = math.sqrt(float(np.mean(squares)))
    close(rms, sigma_y, 4 / math.sqrt(2 * count), "the noise's deviation")
    few = range(min(10, len(x)))
    pictures = [seen_pixels(task, data["y"][i], None if mask is None else mask[i if len(mask) > 1 else 0]) for i in few]
    check_sheet(
        file.with_suffix(".png"),
        {"image": [pixels(x[i]) for i in few], "measured": pictures},
        notes={"measured": "as a picture"},
    )


# deft fit, deft prior train

LEVELS = [math.log(math.tan(math.pi / 2 * u / 100)) for u in range(5, 100, 10)]
"""log(sigma/alpha) of the table of errors by noise level."""
KNOTS = np.linspace(-5, 5, 21)
"""log(sigma/alpha) at which an h keeps what the prior leaves open."""


def check_calibration(rho2: np.ndarray, expected: np.ndarray, what: str) -> None:
    """rho^2 at each knot is the prior's mean squared error, to a tenth."""
    off = np.abs(np.log(rho2 / expected))
    assert off.max() < 0.1, (
        f"rho^2 is not the prior's error on {what}: off by a factor of up to {math.exp(off.max()):.2f}"
    )


def check_levels(
    rows: Sequence[Mapping[str, float]], expected: Mapping[str, np.ndarray], n: int, slack: float = 0.12
) -> None:
    """A table of errors by noise level: column -> the errors, found with other noise, on n images."""
    assert [r["n"] for r in rows] == [n] * len(LEVELS)
    np.testing.assert_allclose([r["log_ratio"] for r in rows], LEVELS, atol=1e-6)
    for name, values in expected.items():
        off = np.abs(np.log(np.array([r[name] for r in rows]) / values))
        assert off.max() < slack, f"the column {name!r} is off by a factor of up to {math.exp(off.max()):.2f}"


def check_card_text(text: str, card: Mapping[str, Any]) -> None:
    """card.md has every line of the card, and the table of its levels."""
    for key, value in card.items():
        if key != "levels" and not isinstance(value, dict):
            line = f"{key}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            assert line in text.splitlines() or len(line) > 190, f"card.md lacks {line!r}"
    titles = {
        "prior": "prior alone",
        "eps": "prior alone, of the noise",
        "guide": "closed-form guide alone",
        "h": "with h",
        "prior_hidden": "prior alone, hidden part",
        "h_hidden": "with h, hidden part",
        "prior_seen": "prior alone, seen part",
        "h_seen": "with h, seen part",
    }
    table = {r[0]: r[1:] for r in markdown_tables(text)[-1]}
    rows = card["levels"]
    assert set(table) - {"noise level (angle)"} == {titles[k] for k in titles if k in rows[0]}
    for key, title in titles.items():
        if key in rows[0]:
            assert all(shown(r[key], cell) for r, cell in zip(rows, table[title], strict=True)), (
                f"card.md, {title}: {table[title]}"
            )
