"""What the files of each command must be: computed from the samples and arrays beside them, and from what the command was given."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from golden import (
    arrays,
    bracketed,
    check_sheet,
    close,
    coverage,
    crps,
    deviation,
    energy,
    heat,
    markdown_tables,
    numbers,
    pixels,
    png,
    psnr,
    read,
    residual,
    same_picture,
    shown,
    spread_over_error,
    ssim,
    terminal_tables,
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


def check_samples(out: Path, about: Mapping[str, Any], *, n: int, steps: int, seed: int = 0, y: np.ndarray | None = None, mask: np.ndarray | None = None) -> None:
    """The folder of `deft sample`. about: what it printed. y [C, H, W], mask: what was measured, by the files that were given to it."""
    data = arrays(out / "samples.npz")
    samples = data["samples"]
    assert len(samples) == n and len({x.tobytes() for x in samples}) == n, f"{len(samples)} samples, or two alike, and {n} were asked for"
    np.testing.assert_allclose(data["mean"], samples.mean(0), atol=1e-5, err_msg="mean of samples.npz")
    std = deviation(samples)
    np.testing.assert_allclose(data["spread"], std, atol=1e-5, err_msg="spread of samples.npz")
    assert sorted(p.name for p in out.glob("sample-*.png")) == [f"sample-{i:03d}.png" for i in range(n)]
    for i, x in enumerate(samples):
        same_picture(out / f"sample-{i:03d}.png", x, f"sample {i} of samples.npz")
    same_picture(out / "mean.png", samples.mean(0), "the mean of the samples")
    top = max(float(std.mean(0).max()), 1e-3)
    colours = heat(std.mean(0), top)
    assert np.abs(png(out / "spread.png").astype(int) - colours).max() <= 2, "spread.png is not the standard deviation of the samples in its colours"

    columns: dict[str, list[np.ndarray]] = {}
    kept = read(out / "sample.json")
    if y is not None:
        assert (mask is None) == ("mask" not in data)
        if mask is not None:
            np.testing.assert_array_equal(data["mask"].reshape(mask.shape), mask, err_msg="mask of samples.npz")
        np.testing.assert_allclose(data["y"], y, atol=1e-6, err_msg="y of samples.npz is not what was measured")
        columns["measurement"] = [seen_pixels(kept["task"]["name"], y, mask)]
        r = float(np.mean([residual(kept["task"]["name"], x, data["y"], mask) for x in samples]))
        close(kept["residual"], r, 1e-4, "residual")
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
    assert len(data["y"]) == len(x) == about["n"] and list(data["y"].shape[1:]) == about["shape"], "as many measurements as images"
    np.testing.assert_allclose(data["truth"], x, atol=1e-6, err_msg="truth is not the images that were given")
    kept = json.loads(str(data["task"]))
    assert kept == about["task"] and kept["name"] == task and kept["sigma_y"] == sigma_y
    mask = data.get("mask")
    squares = []
    for i, y in enumerate(data["y"]):
        m = None if mask is None else mask[i if len(mask) > 1 else 0]
        squares.append(residual(task, x[i], y, m) ** 2)
        if m is not None:
            assert set(np.unique(m)) == {0, 1} and not np.any(y[np.broadcast_to(m, y.shape) == 0]), "something was measured in the hole"
    # the noise: root mean square sigma_y, within four standard errors of a chi square
    count = float(np.size(data["y"]) if mask is None else np.broadcast_to(mask, data["y"].shape).sum())
    rms = math.sqrt(float(np.mean(squares)))
    close(rms, sigma_y, 4 / math.sqrt(2 * count), "the noise's deviation")
    few = range(min(10, len(x)))
    pictures = [seen_pixels(task, data["y"][i], None if mask is None else mask[i if len(mask) > 1 else 0]) for i in few]
    check_sheet(file.with_suffix(".png"), {"image": [pixels(x[i]) for i in few], "measured": pictures}, notes={"measured": "as a picture"})


# deft evaluate, deft demo

HIDDEN = {"psnr_hidden", "psnr_mean_hidden"}


def expected_values(task: str, samples: np.ndarray, truth: np.ndarray, y: np.ndarray, mask: np.ndarray | None) -> dict[str, list[float]]:
    """Metric -> a value an image, of samples [N, S, C, H, W]; spread over error has one value, of all images."""
    n, s = samples.shape[:2]
    where = [None if mask is None else 1.0 - np.broadcast_to(mask[i if len(mask) > 1 else 0], truth[i].shape) for i in range(n)]
    seen = [None if mask is None else mask[i if len(mask) > 1 else 0] for i in range(n)]
    each = list(zip(samples, truth, where, strict=True))
    out = {
        "psnr": [float(np.mean([psnr(v, t) for v in x])) for x, t, _ in each],
        "psnr_mean": [psnr(x.mean(0), t) for x, t, _ in each],
        "ssim": [float(np.mean([ssim(v, t) for v in x])) for x, t, _ in each],
        "residual": [float(np.mean([residual(task, v, y[i], seen[i]) for v in samples[i]])) for i in range(n)],
    }
    if mask is not None:
        out["psnr_hidden"] = [float(np.mean([psnr(v, t, w) for v in x])) for x, t, w in each]
        out["psnr_mean_hidden"] = [psnr(x.mean(0), t, w) for x, t, w in each]
    if s > 1:
        out["energy_score_pixels"] = [energy(x, t) for x, t, _ in each]
        out["crps"] = [crps(x, t) for x, t, _ in each]
        out["coverage"] = [coverage(x, t, w) for x, t, w in each]
        out["spread"] = [float(np.sqrt(np.average(np.square(deviation(x)), weights=w))) for x, _, w in each]
        out["spread_skill"] = [spread_over_error(samples, truth, where)]
    return out


SLACK = {"psnr": 0.02, "psnr_mean": 0.02, "psnr_hidden": 0.03, "psnr_mean_hidden": 0.03, "ssim": 2e-3, "coverage": 0.02}
"""How far a metric of the samples as they are kept, in half precision, may be from that of the samples themselves."""


def check_evaluated(
    out: Path, *, images: np.ndarray, samples: int, calls: Mapping[str, float], titles: Mapping[str, str], seconds: float, said: str = "", captions: Sequence[str] = (),
) -> None:  # fmt: skip
    """report.json, report.md, samples.png, samples.npz, and what the terminal said.

    images [N, C, H, W]: the truth. calls, titles: of each method, in the order of the columns. seconds: that the whole command took.
    """
    report, data = read(out / "report.json"), arrays(out / "samples.npz")
    task, methods = report["settings"]["task"]["name"], list(titles)
    np.testing.assert_allclose(data["truth"], images, atol=1e-6, err_msg="truth is not the images that were given")
    n, mask = len(images), data.get("mask")
    assert len(data["y"]) == n and report["settings"]["images"] == n and report["settings"]["samples"] == samples
    assert [p["method"] for p in report["settings"]["plans"]] == methods
    values: dict[str, dict[str, list[float]]] = {}
    for m in methods:
        drawn = data[f"samples_{m}"].astype(np.float32)
        assert drawn.shape == (n, samples, *images.shape[1:])
        values[m] = expected_values(task, drawn, images, data["y"], mask)

    # report.json: what each number is
    plain = {(r["method"], r["metric"]): r for r in report["rows"] if "versus" not in r}
    assert list(dict.fromkeys(m for m, _ in plain)) == methods
    total = 0.0
    for m in methods:
        for metric, v in values[m].items():
            row = plain[m, metric]
            close(row["value"], float(np.mean(v)), 2e-3, f"{metric} of {m}", SLACK.get(metric, 3e-4))
            assert row["n"] == n and row["low"] <= row["value"] <= row["high"]
            if len(v) == n and n > 1:
                bracketed(row, v, f"{metric} of {m}")
        assert plain[m, "calls"]["value"] == calls[m], f"calls of {m}: {plain[m, 'calls']['value']}, expected {calls[m]}"
        assert plain[m, "seconds"]["value"] > 0
        total += plain[m, "seconds"]["value"] * n * samples
    assert total <= seconds, f"seconds per sample add up to {total:.2f} s, and all took {seconds:.2f} s"
    for r in report["rows"]:
        if "versus" in r and r["metric"] in values[r["method"]] and r["metric"] != "spread_skill":
            v = np.subtract(values[r["method"]][r["metric"]], values[r["versus"]][r["metric"]])
            close(r["value"], float(v.mean()), 5e-3, f"{r['metric']} of {r['method']} less {r['versus']}", 2 * SLACK.get(r["metric"], 3e-4))
            close(r["value"], plain[r["method"], r["metric"]]["value"] - plain[r["versus"], r["metric"]]["value"], 1e-6, "a paired difference", 1e-9)

    # report.md and the terminal: the same numbers under the same names
    text = (out / "report.md").read_text(encoding="utf-8")
    check_report_tables(markdown_tables(text), report["rows"], titles)
    if said:
        check_report_tables(terminal_tables(said), report["rows"], titles)

    # samples.png
    few = min(10, n)
    columns = {"truth": [pixels(x) for x in images[:few]], "measurement": [seen_pixels(task, data["y"][i], None if mask is None else mask[i if len(mask) > 1 else 0]) for i in range(few)]}
    columns |= {titles[m]: [pixels(data[f"samples_{m}"][i, 0].astype(np.float32)) for i in range(few)] for m in methods}
    notes = {titles[m]: f"{calls[m]:.0f} calls" for m in methods}
    if samples > 1:
        chosen = "deft" if "deft" in methods else methods[0]
        std = np.stack([deviation(x.astype(np.float32)).mean(0) for x in data[f"samples_{chosen}"][:few]])
        columns["spread"] = list(heat(std, max(float(std.max()), 1e-3)))
        notes["spread"] = f"{titles[chosen]}, {samples} samples"
    check_sheet(out / "samples.png", columns, notes=notes, rows=captions, near=3)


NAMES = {
    "energy_score": "energy score", "energy_score_pixels": "energy score of pixels", "crps": "CRPS", "coverage": "coverage at 90 %", "spread_skill": "spread over error",
    "feature_distance": "feature distance", "perceptual_distance": "perceptual distance", "top1": "top-1", "psnr_mean": "PSNR of the mean (dB)", "psnr": "PSNR (dB)",
    "psnr_hidden": "PSNR in the hole (dB)", "psnr_mean_hidden": "PSNR of the mean in the hole (dB)", "ssim": "SSIM", "residual": "residual", "spread": "spread",
    "diversity": "diversity", "calls": "network calls", "seconds": "seconds per sample", "parameters": "parameters",
}  # fmt: skip
"""Metric -> what people read. A name that changes is changed here as well."""
HIGH = {"psnr", "psnr_mean", "psnr_hidden", "psnr_mean_hidden", "ssim", "top1"}
LOW = {"energy_score", "energy_score_pixels", "crps", "feature_distance", "perceptual_distance", "seconds"}


def metric_of(cell: str, arrow: bool = False) -> str | None:
    """The metric that the first cell of a row names. arrow: the cell must say which way is better; if it does, it is right in any case."""
    name = cell.rstrip(" ↑↓").strip()
    found = next((k for k, v in NAMES.items() if v == name), None)
    if found is not None and (arrow or cell.strip()[-1] in "↑↓"):
        assert cell.strip() == (name + (" ↑" if found in HIGH else " ↓" if found in LOW else "")), f"{cell!r}: is {name} better high or low?"
    return found


def agrees(cell: str, row: Mapping[str, Any] | None, what: str) -> None:
    """A cell shows a row's value and interval, rounded."""
    if row is None:
        assert cell == "–", f"{what}: {cell!r}, expected a dash"
        return
    parts = [cell, *([] if row["low"] is None else [c.strip(" ]") for c in cell.partition("[")[2].split(", ")])]
    expected = [row["value"], *([] if row["low"] is None else [row["low"], row["high"]])]
    assert len(parts) == len(expected) and all(shown(v, c) for v, c in zip(expected, parts, strict=True)), f"{what}: the table shows {cell!r}, the report has {expected}"


def check_report_tables(tables: Sequence[Sequence[Sequence[str]]], rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> None:
    """Every cell of a report's tables, by the names of its row and its column; and no figure of the report is missing."""
    plain = {(r["method"], r["metric"]): r for r in rows if "versus" not in r}
    paired = {(r["method"], r["metric"]): r for r in rows if "versus" in r}
    by_title = {v: k for k, v in titles.items()}
    main = next(t for t in tables if t[0][1:] == list(titles.values()))
    told = set()
    for name, *cells in main[1:]:
        metric = metric_of(name, arrow=True)
        assert metric is not None, f"no metric is called {name!r}"
        told.add(metric)
        for m, cell in zip(titles, cells, strict=True):
            agrees(cell, plain.get((m, metric)), f"{metric} of {m}")
    assert told == {metric for _, metric in plain}, "metrics of the report that its table has not, or has beyond it"
    for table in tables:
        if table is main:
            continue
        if table[0][:2] == ["", "method"]:  # metric, method, difference, verdict
            seen = 0
            for name, title, cell, word in table[1:]:
                metric, m = metric_of(name), by_title[title]
                assert metric is not None
                row = paired[m, metric]
                agrees(cell, row, f"difference in {metric} of {m}")
                better = row["value"] > 0 if metric in HIGH else row["value"] < 0
                level = row["low"] <= 0 <= row["high"]
                versus = titles[row["versus"]]
                assert word == ("level" if level else f"{versus} behind" if better else f"{versus} ahead"), f"{metric} of {m}: {cell} is called {word!r}"
                seen += 1
            assert seen == sum(metric in HIGH | LOW for _, metric in paired)
        elif len(table[0]) > 1 and set(table[0][1:]) <= set(by_title):
            for name, *cells in table[1:]:
                metric = metric_of(name)
                assert metric is not None
                for title, cell in zip(table[0][1:], cells, strict=True):
                    agrees(cell, paired.get((by_title[title], metric)), f"difference in {metric} of {title}")


# deft compare


def check_compared(out: Path, *, truth: np.ndarray, seeds: Sequence[int], samples: int, titles: Mapping[str, str], prior: str, task: str) -> None:
    """report.json and report.md against the pieces in the folder, the pieces against their samples, and the wall of samples.

    truth [N, C, H, W]: the tested images, as many as have their samples kept.
    """
    report = read(out / "report.json")
    rows = [r for r in report["rows"] if (r["prior"], r["task"]) == (prior, task)]
    pooled = {(r["method"], r["metric"]): r for r in rows if r["seed"] is None and "versus" not in r}
    draws = {p.stem: read(p) for p in (out / "draw").glob("*.json")}
    tested = {(d["spec"]["plan"]["method"], d["spec"]["seed"], d["spec"]["fit"] is None): (k, d) for k, d in draws.items() if d["spec"]["split"] == "test" and d["spec"]["images"] == report["images"]}
    columns: dict[str, list[np.ndarray]] = {}
    notes = {}
    for arm, title in titles.items():
        mine = {seed: next((k, d) for (m, s, _), (k, d) in tested.items() if m == arm and s == seed) for seed in seeds}
        for seed, (key, piece) in mine.items():
            assert len(piece["per_image"]["psnr"]) == piece["spec"]["images"] == len(truth) and piece["spec"]["samples"] == samples
            if seed != seeds[0]:  # whose samples are not kept
                continue
            kept = arrays(out / "draw" / f"{key}.npz")
            np.testing.assert_allclose(kept["truth"], truth, atol=2e-3, err_msg=f"the images of {key} are not those to be tested")
            assert kept["samples"].shape[:2] == (len(truth), samples)
            y, drawn = kept["y"].astype(np.float32), kept["samples"].astype(np.float32)
            np.testing.assert_allclose(kept["mean"], drawn.mean(1), atol=2e-3, err_msg=f"mean of {key}")
            mask = None if task != "inpaint" else (np.abs(kept["seen"].astype(int) - HOLE).max(-1) > 0)[:, None].astype(float)
            for metric, v in expected_values(task, drawn, truth, y, mask).items():
                got = piece["per_image"][metric]
                if len(v) == len(truth) and metric != "spread_skill":
                    np.testing.assert_allclose(got, v, atol=max(SLACK.get(metric, 1e-3), 1e-3) * 2, rtol=4e-3, err_msg=f"{metric} of {key}")
                else:
                    close(float(np.mean(got)), v[0], 4e-3, f"{metric} of {key}")
            columns.setdefault("truth", [pixels(x) for x in kept["truth"].astype(np.float32)])
            columns.setdefault("measurement", [seen_pixels(task, y[i], None if mask is None else mask[i]) for i in range(len(y))])
            columns[title] = [pixels(x) for x in drawn[:, 0]]
            notes[title] = f"{piece['calls']:.0f} calls"
        for metric in mine[seeds[0]][1]["per_image"]:
            v = np.array([piece["per_image"][metric] for _, piece in mine.values()])
            row = pooled[arm, metric]
            close(row["value"], float(v.mean()), 1e-6, f"{metric} of {arm}", 1e-9)
            assert row["n"] == v.shape[1] and row["low"] <= row["value"] <= row["high"] and row["calls"] == mine[seeds[0]][1]["calls"]
            if len(seeds) > 1:
                close(row["seed_std"], float(v.mean(1).std(ddof=1)), 1e-6, f"deviation over seeds of {metric} of {arm}", 1e-9)
                for seed, one in zip(seeds, v, strict=True):
                    its = next(r for r in rows if (r["method"], r["metric"], r["seed"]) == (arm, metric, seed) and "versus" not in r)
                    close(its["value"], float(one.mean()), 1e-6, f"{metric} of {arm}, seed {seed}", 1e-9)
        cost = next(read(p) for p in (out / "cost").glob("*.json") if read(p)["spec"]["plan"] == mine[seeds[0]][1]["spec"]["plan"] and read(p)["spec"]["fit"] == mine[seeds[0]][1]["spec"]["fit"])
        assert pooled[arm, "seconds"]["value"] == cost["seconds"] and pooled[arm, "once_seconds"]["value"] == cost["once"] and cost["calls"] == mine[seeds[0]][1]["calls"]
        fit = mine[seeds[0]][1]["spec"]["fit"]
        if fit is not None:
            fitted = read(out / "fit" / f"{fit}.json")
            assert pooled[arm, "fit_seconds"]["value"] == fitted["seconds"] and pooled[arm, "parameters"]["value"] == fitted["parameters"] and pooled[arm, "share"]["value"] == fitted["share"]
    for r in rows:
        if "versus" in r:
            close(r["value"], pooled[r["method"], r["metric"]]["value"] - pooled[r["versus"], r["metric"]]["value"], 1e-5, f"difference in {r['metric']} of {r['method']}", 1e-8)
    check_sheet(out / f"wall-{prior.replace(' ', '-')}-{task}.png", columns, notes=notes, near=1)

    # what each arm was tuned to: the best of those tried, on other images than are tested
    for t in report["tuned"]:
        tried = [(o["score"], {k: v for k, v in o.items() if k != "score"}) for o in t["tried"] if o["score"] is not None]
        if tried:
            assert min(tried, key=lambda o: o[0])[1] == t["chosen"], f"{t['method']} was not given the best of what was tried"
            scores = [float(np.mean(d["per_image"][report["tuning"]["metric"]])) for d in draws.values() if d["spec"]["split"] == "validation" and "per_image" in d]
            assert all(min(abs(s - v) for v in scores) < 1e-6 for s, _ in tried), f"a score of {t['method']} is of no validation images"
    for c in report["curves"]:
        values = [float(np.mean(d["per_image"][c["metric"]])) for d in draws.values() if d["spec"]["plan"] == c["plan"] and c["metric"] in d.get("per_image", {}) and d["calls"] == c["calls"]]
        assert any(abs(v - c["value"]) < 1e-6 for v in values) and c["calls"] <= c["at_most"], f"a point of the curve of {c['method']} is in no piece"

    # report.md
    tables = markdown_tables((out / "report.md").read_text(encoding="utf-8"))
    by_title = {v: k for k, v in titles.items()}
    checked = 0
    extra = {"calls": "calls", "backward": "backward", "s a sample": "seconds", "MiB": "memory_mib", "fit (s)": "fit_seconds", "parameters": "share"}
    for table in tables:
        heads = [re.sub(r" \([\d.]+ is right\)$", "", h) for h in table[0]]
        known = [extra.get(h) or metric_of(h or "-") for h in heads]
        if not any(known) or not all(r[0] in by_title for r in table[1:]) or len(table[0]) < 3:
            continue
        if "ratio" in heads:  # each at its best point of the curve
            lead = metric_of(heads[2])
            for title, calls, cell, *_ in table[1:]:
                mine = [c for c in report["curves"] if c["title"] == title and c["metric"] == lead]
                best = min(mine, key=lambda c: -c["value"] if lead in HIGH else c["value"])
                assert shown(best["calls"], calls), f"{title} is best at {best['calls']} calls, the table shows {calls}"
                agrees(cell, best, f"the best point of {title}")
            continue
        for title, *cells in table[1:]:
            for metric, cell in zip(known[1:], cells, strict=True):
                row = pooled.get((by_title[title], metric or ""))
                if metric == "calls":
                    assert shown(next(r["calls"] for r in rows if r["method"] == by_title[title]), cell)
                elif metric in extra.values():
                    assert (row is None) == (cell == "–") and (row is None or shown(100 * row["value"] if metric == "share" else row["value"], cell)), f"{metric} of {title}: the table shows {cell!r}"
                elif metric is not None:
                    agrees(cell.replace("*", "").replace(" ≈", ""), row, f"{metric} of {title}")
                    checked += 1
    assert checked >= 5 * len(titles), "the tables of report.md were not found"


# deft protein scaffold


def kabsch(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square deviation after the best rotation without reflection."""
    a, b = a - a.mean(0), b - b.mean(0)
    u, _, vt = np.linalg.svd(a.T @ b)
    turn = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    return float(np.sqrt(np.square(a @ u @ turn @ vt - b).sum(1).mean()))


def measured_trace(x: np.ndarray) -> dict[str, float]:
    """Columns of the table that C-alphas [L, 3] alone give, in angstrom."""
    n = len(x)
    bond = np.array([np.linalg.norm(x[i + 1] - x[i]) for i in range(n - 1)])
    clash = sum(bool(np.linalg.norm(x[i] - x[j]) < 3.6) for i in range(n) for j in range(i + 3, n))
    size = math.sqrt(np.square(x - x.mean(0)).sum(1).mean())
    low, high = (math.exp(a + b * math.log(n)) for a, b in ((0.8373, 0.3538), (1.1197, 0.3712)))
    outside = int(((bond < 3.6) | (bond > 4.0)).sum())
    left = 0
    for i in range(n - 3):
        b1, b2, b3 = x[i + 1] - x[i], x[i + 2] - x[i + 1], x[i + 3] - x[i + 2]
        n1, n2 = np.cross(b1, b2), np.cross(b2, b3)
        angle = math.degrees(math.atan2(np.dot(np.cross(n1, n2), b2 / np.linalg.norm(b2)), np.dot(n1, n2)))
        left += bool(4.5 < np.linalg.norm(x[i + 3] - x[i]) < 6.5 and -80 < angle < -20)
    out: dict[str, float] = {
        "length": n, "bonds_in_range": 1 - outside / (n - 1), "bond_mean": float(bond.mean()), "clashes_per_1000": 1000 * clash / ((n - 2) * (n - 3) / 2),
        "gyration_ratio": size / (2.2 * n**0.38), "left_handed": left / (n - 3),
        "bonds_valid": outside <= max(1, 0.02 * (n - 1)), "clashes_valid": clash == 0, "gyration_valid": low <= size <= high, "left_valid": left / (n - 3) < 0.05,
    }  # fmt: skip
    return out | {"geometry_valid": all(out[k] for k in ("bonds_valid", "clashes_valid", "gyration_valid", "left_valid"))}


def read_trace(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(C-alphas [L, 3], B-factors [L]) of a PDB file, by its columns."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("ATOM")]
    return np.array([[float(line[i : i + 8]) for i in (30, 38, 46)] for line in lines]), np.array([float(line[60:66]) for line in lines])


def check_scaffolds(out: Path, about: Mapping[str, Any], *, n: int, motif: np.ndarray, seed: int, steps: int) -> None:
    """table.csv and scaffold.json against the PDB files. motif [m, 3]: C-alphas of the motif, as they were given."""
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [r["file"] for r in rows] == [f"scaffold-{i:03d}.pdb" for i in range(n)] == sorted(p.name for p in out.glob("*.pdb"))
    for r in rows:
        x, marks = read_trace(out / r["file"])
        assert set(marks) <= {0.0, 1.0} and marks.sum() == len(motif), f"{r['file']}: B-factors mark {marks.sum()} residues, the motif has {len(motif)}"
        found = measured_trace(x) | {"motif_rmsd": kabsch(x[marks == 1], motif)}
        for name, value in found.items():
            if isinstance(value, (bool, np.bool_)):
                assert bool(int(r[name])) == bool(value), f"{name} of {r['file']} is {r[name]}, by its atoms {value}"
            else:
                close(float(r[name]), float(value), 2e-3, f"{name} of {r['file']}", 2e-3 if name != "clashes_per_1000" else 0.6)
        passes = all(int(r[k]) for k in ("geometry_valid", "junctions_valid", "nll_valid")) and float(r["motif_rmsd"]) < 1
        assert int(r["proxy_success"]) == passes
        assert bool(int(r["nll_valid"])) == (float(r["nll"]) < 1.736 - 0.1147 * math.log(len(x)))
        spans = sum(int(p) for p in r["contig"].split("/") if p.isdigit())
        assert spans + len(motif) == len(x), f"the contig {r['contig']} of {r['file']} does not add up to {len(x)} residues"
    kept = read(out / "scaffold.json")
    assert kept == about and (kept["samples"], kept["drawn"], kept["seed"], kept["plan"]["steps"], kept["calls"], kept["whole"]) == (n, n, seed, steps, steps, True)
    for one, r in zip(kept["scaffolds"], rows, strict=True):
        assert (one["file"], one["contig"], one["length"]) == (r["file"], r["contig"], int(r["length"])) and bool(one["against"]) != bool(int(r["proxy_success"]))
        close(one["motif_rmsd"], float(r["motif_rmsd"]), 0, "motif_rmsd", 6e-5)
    s = kept["summary"]
    close(s["motif_rmsd_median"], float(np.median([float(r["motif_rmsd"]) for r in rows])), 0, "median of the motif's RMSD", 1e-4)
    for name in ("length", "nll", "helix", "strand", "bond_mean", "bonds_valid", "geometry_valid", "junctions_valid", "proxy_success"):
        close(s[name], float(np.mean([float(r[name]) for r in rows])), 0, f"mean of {name}", 1e-4)


__all__ = [n for n in dir() if n.startswith("check_")] + ["numbers"]
