"""What reports must be: `deft evaluate`, `deft demo` and `deft compare`, computed from the samples beside them."""

from __future__ import annotations

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
    pixels,
    psnr,
    read,
    residual,
    shown,
    spread_over_error,
    ssim,
    terminal_tables,
)
from golden_checks import HOLE, seen_pixels

# deft evaluate, deft demo

HIDDEN = {"psnr_hidden", "psnr_mean_hidden"}


def expected_values(
    task: str, samples: np.ndarray, truth: np.ndarray, y: np.ndarray, mask: np.ndarray | None
) -> dict[str, list[float]]:
    """Metric -> a value an image, of samples [N, S, C, H, W]; spread over error has one value, of all images."""
    n, s = samples.shape[:2]
    where = [
        None if mask is None else 1.0 - np.broadcast_to(mask[i if len(mask) > 1 else 0], truth[i].shape)
        for i in range(n)
    ]
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
    out: Path,
    *,
    images: np.ndarray,
    samples: int,
    calls: Mapping[str, float],
    titles: Mapping[str, str],
    seconds: float,
    said: str = "",
    captions: Sequence[str] = (),
) -> None:
    """report.json, report.md, samples.png, samples.npz, and what the terminal said.

    images [N, C, H, W]: the truth. calls, titles: of each method, in the order of the columns. seconds: that the whole
    command took.
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
        assert plain[m, "calls"]["value"] == calls[m], (
            f"calls of {m}: {plain[m, 'calls']['value']}, expected {calls[m]}"
        )
        assert plain[m, "seconds"]["value"] > 0
        total += plain[m, "seconds"]["value"] * n * samples
    assert total <= seconds, f"seconds per sample add up to {total:.2f} s, and all took {seconds:.2f} s"
    for r in report["rows"]:
        if "versus" in r and r["metric"] in values[r["method"]] and r["metric"] != "spread_skill":
            v = np.subtract(values[r["method"]][r["metric"]], values[r["versus"]][r["metric"]])
            close(
                r["value"],
                float(v.mean()),
                5e-3,
                f"{r['metric']} of {r['method']} less {r['versus']}",
                2 * SLACK.get(r["metric"], 3e-4),
            )
            close(
                r["value"],
                plain[r["method"], r["metric"]]["value"] - plain[r["versus"], r["metric"]]["value"],
                1e-6,
                "a paired difference",
                1e-9,
            )

    # report.md and the terminal: the same numbers under the same names
    text = (out / "report.md").read_text(encoding="utf-8")
    check_report_tables(markdown_tables(text), report["rows"], titles)
    if said:
        check_report_tables(terminal_tables(said), report["rows"], titles)

    # samples.png
    few = min(10, n)
    columns = {
        "truth": [pixels(x) for x in images[:few]],
        "measurement": [
            seen_pixels(task, data["y"][i], None if mask is None else mask[i if len(mask) > 1 else 0])
            for i in range(few)
        ],
    }
    columns |= {titles[m]: [pixels(data[f"samples_{m}"][i, 0].astype(np.float32)) for i in range(few)] for m in methods}
    notes = {titles[m]: f"{calls[m]:.0f} calls" for m in methods}
    if samples > 1:
        chosen = "deft" if "deft" in methods else methods[0]
        std = np.stack([deviation(x.astype(np.float32)).mean(0) for x in data[f"samples_{chosen}"][:few]])
        columns["spread"] = list(heat(std, max(float(std.max()), 1e-3)))
        notes["spread"] = f"{titles[chosen]}, {samples} samples"
    check_sheet(out / "samples.png", columns, notes=notes, rows=captions, near=3)


NAMES = {
    "energy_score": "energy score",
    "energy_score_pixels": "energy score of pixels",
    "crps": "CRPS",
    "coverage": "coverage at 90 %",
    "spread_skill": "spread over error",
    "feature_distance": "feature distance",
    "perceptual_distance": "perceptual distance",
    "top1": "top-1",
    "psnr_mean": "PSNR of the mean (dB)",
    "psnr": "PSNR (dB)",
    "psnr_hidden": "PSNR in the hole (dB)",
    "psnr_mean_hidden": "PSNR of the mean in the hole (dB)",
    "ssim": "SSIM",
    "residual": "residual",
    "spread": "spread",
    "diversity": "diversity",
    "calls": "network calls",
    "seconds": "seconds per sample",
    "parameters": "parameters",
}
"""Metric -> what people read. A name that changes is changed here as well."""
HIGH = {"psnr", "psnr_mean", "psnr_hidden", "psnr_mean_hidden", "ssim", "top1"}
LOW = {"energy_score", "energy_score_pixels", "crps", "feature_distance", "perceptual_distance", "seconds"}


def metric_of(cell: str, arrow: bool = False) -> str | None:
    """The metric that the first cell of a row names. arrow: the cell must say which way is better; if it does,
    it is right in any case."""
    name = cell.rstrip(" ↑↓").strip()
    found = next((k for k, v in NAMES.items() if v == name), None)
    if found is not None and (arrow or cell.strip()[-1] in "↑↓"):
        assert cell.strip() == (name + (" ↑" if found in HIGH else " ↓" if found in LOW else "")), (
            f"{cell!r}: is {name} better high or low?"
        )
    return found


def agrees(cell: str, row: Mapping[str, Any] | None, what: str) -> None:
    """A cell shows a row's value and interval, rounded."""
    if row is None:
        assert cell == "–", f"{what}: {cell!r}, expected a dash"
        return
    parts = [cell, *([] if row["low"] is None else [c.strip(" ]") for c in cell.partition("[")[2].split(", ")])]
    expected = [row["value"], *([] if row["low"] is None else [row["low"], row["high"]])]
    assert len(parts) == len(expected) and all(shown(v, c) for v, c in zip(expected, parts, strict=True)), (
        f"{what}: the table shows {cell!r}, the report has {expected}"
    )


def check_report_tables(
    tables: Sequence[Sequence[Sequence[str]]], rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]
) -> None:
    """Every cell of a report's tables, by the names of its row and its column; and no figure of the report is
    missing."""
    plain = {(r["method"], r["metric"]): r for r in rows if "versus" not in r}
    paired = {(r["method"], r["metric"]): r for r in rows if "versus" in r}
    by_title = {v: k for k, v in titles.items()}
    main = next((t for t in tables if t[0][1:] == list(titles.values())), None)
    assert main is not None, f"no table has the columns {list(titles.values())}"
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
        if table[0][:2] == ["", "method"]:  # metric, method, difference, p, verdict
            seen = 0
            for name, title, cell, p, word in table[1:]:
                metric, m = metric_of(name), by_title[title]
                assert metric is not None
                row = paired[m, metric]
                agrees(cell, row, f"difference in {metric} of {m}")
                better = row["value"] > 0 if metric in HIGH else row["value"] < 0
                assert p == f"{row['p_holm']:.3g}" and row["p"] <= row["p_holm"]
                level = row["p_holm"] >= 0.05
                versus = titles[row["versus"]]
                assert word == ("level" if level else f"{versus} behind" if better else f"{versus} ahead"), (
                    f"{metric} of {m}: {cell} is called {word!r}"
                )
                seen += 1
            assert seen == sum(metric in HIGH | LOW for _, metric in paired)
        elif len(table[0]) > 1 and set(table[0][1:]) <= set(by_title):
            for name, *cells in table[1:]:
                metric = metric_of(name)
                assert metric is not None
                for title, cell in zip(table[0][1:], cells, strict=True):
                    agrees(cell, paired.get((by_title[title], metric)), f"difference in {metric} of {title}")


# deft compare


def check_compared(
    out: Path,
    *,
    truth: np.ndarray,
    seeds: Sequence[int],
    samples: int,
    titles: Mapping[str, str],
    prior: str,
    task: str,
) -> None:
    """report.json and report.md against the pieces in the folder, the pieces against their samples, and the wall.

    truth [N, C, H, W]: the tested images, as many as have their samples kept.
    """
    report = read(out / "report.json")
    rows = [r for r in report["rows"] if (r["prior"], r["task"]) == (prior, task)]
    pooled = {(r["method"], r["metric"]): r for r in rows if r["seed"] is None and "versus" not in r}
    draws = {p.stem: read(p) for p in (out / "draw").glob("*.json")}
    tested = {
        (d["spec"]["plan"]["method"], d["spec"]["seed"], d["spec"]["fit"] is None): (k, d)
        for k, d in draws.items()
        if d["spec"]["split"] == "test" and d["spec"]["images"] == report["images"]
    }
    columns: dict[str, list[np.ndarray]] = {}
    notes = {}
    for arm, title in titles.items():
        mine = {seed: next((k, d) for (m, s, _), (k, d) in tested.items() if m == arm and s == seed) for seed in seeds}
        for seed, (key, piece) in mine.items():
            assert (
                len(piece["per_image"]["psnr"]) == piece["spec"]["images"] == len(truth)
                and piece["spec"]["samples"] == samples
            )
            if seed != seeds[0]:  # whose samples are not kept
                continue
            kept = arrays(out / "draw" / f"{key}.npz")
            np.testing.assert_allclose(
                kept["truth"], truth, atol=2e-3, err_msg=f"the images of {key} are not those to be tested"
            )
            assert kept["samples"].shape[:2] == (len(truth), samples)
            y, drawn = kept["y"].astype(np.float32), kept["samples"].astype(np.float32)
            np.testing.assert_allclose(kept["mean"], drawn.mean(1), atol=2e-3, err_msg=f"mean of {key}")
            mask = (
                None
                if task != "inpaint"
                else (np.abs(kept["seen"].astype(int) - HOLE).max(-1) > 0)[:, None].astype(float)
            )
            for metric, v in expected_values(task, drawn, truth, y, mask).items():
                got = piece["per_image"][metric]
                if len(v) == len(truth) and metric != "spread_skill":
                    np.testing.assert_allclose(
                        got, v, atol=max(SLACK.get(metric, 1e-3), 1e-3) * 2, rtol=4e-3, err_msg=f"{metric} of {key}"
                    )
                else:
                    close(float(np.mean(got)), v[0], 4e-3, f"{metric} of {key}")
            columns.setdefault("truth", [pixels(x) for x in kept["truth"].astype(np.float32)])
            columns.setdefault(
                "measurement", [seen_pixels(task, y[i], None if mask is None else mask[i]) for i in range(len(y))]
            )
            columns[title] = [pixels(x) for x in drawn[:, 0]]
            notes[title] = f"{piece['calls']:.0f} calls"
        for metric in mine[seeds[0]][1]["per_image"]:
            v = np.array([piece["per_image"][metric] for _, piece in mine.values()])
            row = pooled[arm, metric]
            close(row["value"], float(v.mean()), 1e-6, f"{metric} of {arm}", 1e-9)
            assert (
                row["n"] == v.shape[1]
                and row["low"] <= row["value"] <= row["high"]
                and row["calls"] == mine[seeds[0]][1]["calls"]
            )
            if len(seeds) > 1:
                close(
                    row["seed_std"],
                    float(v.mean(1).std(ddof=1)),
                    1e-6,
                    f"deviation over seeds of {metric} of {arm}",
                    1e-9,
                )
                for seed, one in zip(seeds, v, strict=True):
                    its = next(
                        r
                        for r in rows
                        if (r["method"], r["metric"], r["seed"]) == (arm, metric, seed) and "versus" not in r
                    )
                    close(its["value"], float(one.mean()), 1e-6, f"{metric} of {arm}, seed {seed}", 1e-9)
        cost = next(
            read(p)
            for p in (out / "cost").glob("*.json")
            if read(p)["spec"]["plan"] == mine[seeds[0]][1]["spec"]["plan"]
            and read(p)["spec"]["fit"] == mine[seeds[0]][1]["spec"]["fit"]
        )
        assert (
            pooled[arm, "seconds"]["value"] == cost["seconds"]
            and pooled[arm, "once_seconds"]["value"] == cost["once"]
            and cost["calls"] == mine[seeds[0]][1]["calls"]
        )
        fit = mine[seeds[0]][1]["spec"]["fit"]
        if fit is not None:
            fitted = read(out / "fit" / f"{fit}.json")
            assert (
                pooled[arm, "fit_seconds"]["value"] == fitted["seconds"]
                and pooled[arm, "parameters"]["value"] == fitted["parameters"]
                and pooled[arm, "share"]["value"] == fitted["share"]
            )
    for r in rows:
        if "versus" in r:
            close(
                r["value"],
                pooled[r["method"], r["metric"]]["value"] - pooled[r["versus"], r["metric"]]["value"],
                1e-5,
                f"difference in {r['metric']} of {r['method']}",
                1e-8,
            )
    check_sheet(out / f"wall-{prior.replace(' ', '-')}-{task}.png", columns, notes=notes, near=1)

    # what each arm was tuned to: the best of those tried, on other images than are tested
    for t in report["tuned"]:
        tried = [
            (o["score"], {k: v for k, v in o.items() if k != "score"}) for o in t["tried"] if o["score"] is not None
        ]
        if tried:
            assert min(tried, key=lambda o: o[0])[1] == t["chosen"], (
                f"{t['method']} was not given the best of what was tried"
            )
            scores = [
                float(np.mean(d["per_image"][report["tuning"]["metric"]]))
                for d in draws.values()
                if d["spec"]["split"] == "validation" and "per_image" in d
            ]
            assert all(min(abs(s - v) for v in scores) < 1e-6 for s, _ in tried), (
                f"a score of {t['method']} is of no validation images"
            )
    for c in report["curves"]:
        values = [
            float(np.mean(d["per_image"][c["metric"]]))
            for d in draws.values()
            if d["spec"]["plan"] == c["plan"] and c["metric"] in d.get("per_image", {}) and d["calls"] == c["calls"]
        ]
        assert any(abs(v - c["value"]) < 1e-6 for v in values) and c["calls"] <= c["at_most"], (
            f"a point of the curve of {c['method']} is in no piece"
        )

    # report.md
    tables = markdown_tables((out / "report.md").read_text(encoding="utf-8"))
    by_title = {v: k for k, v in titles.items()}
    checked = 0
    extra = {
        "calls": "calls",
        "backward": "backward",
        "s a sample": "seconds",
        "MiB": "memory_mib",
        "fit (s)": "fit_seconds",
        "parameters": "share",
    }
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
                    assert (row is None) == (cell == "–") and (
                        row is None or shown(100 * row["value"] if metric == "share" else row["value"], cell)
                    ), f"{metric} of {title}: the table shows {cell!r}"
                elif metric is not None:
                    agrees(cell.replace("*", "").replace(" ≈", ""), row, f"{metric} of {title}")
                    checked += 1
    assert checked >= 5 * len(titles), "the tables of report.md were not found"
