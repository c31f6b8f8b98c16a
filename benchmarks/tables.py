"""The tables of docs/results/comparisons.md, from the reports of the linear and the non-linear tasks.

python benchmarks/tables.py benchmarks/results/linear/report.json benchmarks/results/nonlinear/report.json

One column a prior and task, one row an entry. Marks are those of the reports: paired differences to DEFT with the
bundled h, 5 % after Holm's correction.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TASKS = {
    ("fashion", "inpaint"): "hole",
    ("fashion", "inpaint-random"): "one pixel in five",
    ("fashion", "sr4"): "4× SR",
    ("fashion", "deblur-gaussian"): "deblurring",
    ("fashion", "ct"): "CT, 32×32",
    ("ct", "ct"): "CT, 64×64",
    ("fashion", "hdr"): "HDR",
    ("fashion", "phase"): "phase",
    ("fashion", "deblur-nonlinear"): "non-linear deblurring",
}
NAMES = {
    "deft": "**DEFT, bundled h**",
    "deft-short": "DEFT, 1,100 steps, three fits",
    "deft-no-images": "DEFT, 1,100 steps, no images",
    "deft-smc": "DEFT + particles",
    "deft-pigdm": "DEFT + ΠGDM",
    "amortised": "amortised, of h's size",
    "lora": "LoRA",
    "controlnet": "ControlNet",
    "finetuned": "fine-tuned prior",
    "dps": "DPS",
    "pigdm": "ΠGDM",
    "pigdm-score": "ΠGDM (score)",
    "cpigdm": "C-ΠGDM",
    "gradient": "gradient at the mean",
    "tmpd": "TMPD",
    "mmps": "MMPS",
    "ddrm": "DDRM",
    "ddnm": "DDNM",
    "diffpir": "DiffPIR",
    "mcg": "MCG",
    "repaint": "RePaint",
    "reddiff": "RED-diff",
    "daps": "DAPS",
    "mgps": "MGPS",
    "flower": "Flower",
    "tds": "TDS",
    "mcgdiff": "MCGDiff",
    "prior": "the prior alone",
}
OF_H = {
    "coverage": "coverage of 90 % intervals",
    "spread_skill": "spread over error",
    "psnr_mean": "PSNR of the mean, dB",
    "feature_distance": "feature distance",
    "residual": "residual",
}


def value_of(rows: Sequence[dict[str, Any]], metric: str) -> dict[tuple[str, tuple[str, str]], dict[str, Any]]:
    """(entry, (prior, task)) -> the row of its mean over seeds."""
    return {
        (r["method"], (r["prior"], r["task"])): r
        for r in rows
        if r["metric"] == metric and r["seed"] is None and "versus" not in r
    }


def standing(rows: Sequence[dict[str, Any]], metric: str) -> dict[tuple[str, tuple[str, str]], str]:
    """Of a metric that is better low. (entry, (prior, task)) -> "−" if it is ahead of DEFT, "+" if DEFT is ahead of it, "" if they are level."""
    return {
        (r["method"], (r["prior"], r["task"])): "" if r["p_holm"] >= 0.05 else "−" if r["value"] < 0 else "+"
        for r in rows if r["metric"] == metric and r.get("versus") == "deft"
    }  # fmt: skip


def number(value: float, digits: int = 3) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if abs(value) < 1 else text


def energy_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    found, against = value_of(rows, "energy_score"), standing(rows, "energy_score")
    tasks = [t for t in TASKS if any(key[1] == t for key in found)]
    backward = value_of(rows, "backward")
    entries = sorted({e for e, _ in found}, key=lambda e: _rank(e, found, tasks))
    lines = ["| | backward passes | " + " | ".join(TASKS[t] for t in tasks) + " |", "|---" * (len(tasks) + 2) + "|"]
    best = {t: min(found[k]["value"] for k in found if k[1] == t) for t in tasks}
    for entry in entries:
        passes = sorted({round(backward[entry, t]["value"]) for t in tasks if (entry, t) in backward})
        cells = []
        for t in tasks:
            row = found.get((entry, t))
            if row is None:
                cells.append("")
                continue
            text = number(row["value"])
            cells.append(
                (f"**{text}**" if row["value"] == best[t] else text)
                + (f" {against[entry, t]}" if against.get((entry, t)) else "")
            )
        lines.append(f"| {NAMES.get(entry, entry)} | {', '.join(map(str, passes))} | " + " | ".join(cells) + " |")
    return lines


def _rank(
    entry: str, found: dict[tuple[str, tuple[str, str]], dict[str, Any]], tasks: Sequence[tuple[str, str]]
) -> float:
    """The mean of an entry's ranks over the tasks it was drawn for."""
    ranks = []
    for t in tasks:
        there = sorted((found[k]["value"], k[0]) for k in found if k[1] == t)
        ranks += [i / len(there) for i, (_, e) in enumerate(there) if e == entry]
    return sum(ranks) / len(ranks)


def h_table(rows: Sequence[dict[str, Any]], entry: str) -> list[str]:
    """What else there is to say of an entry: one row a metric."""
    tables = {metric: value_of(rows, metric) for metric in OF_H}
    tasks = [t for t in TASKS if (entry, t) in tables["coverage"]]
    lines = [
        f"| {NAMES.get(entry, entry)} | " + " | ".join(TASKS[t] for t in tasks) + " |",
        "|---" * (len(tasks) + 1) + "|",
    ]
    for metric, title in OF_H.items():
        cells = [tables[metric].get((entry, t)) for t in tasks]
        texts = [
            (
                ""
                if c is None
                else (
                    f"{100 * c['value']:.0f} %"
                    if metric == "coverage"
                    else number(c["value"], {"psnr_mean": 1, "spread_skill": 2}.get(metric, 3))
                )
            )
            for c in cells
        ]
        lines.append(f"| {title} | " + " | ".join(texts) + " |")
    return lines


def differences(rows: Sequence[dict[str, Any]], entries: Sequence[str], metric: str = "energy_score") -> list[str]:
    """Paired differences of entries to DEFT, with their 95 % interval."""
    found = {
        (r["method"], (r["prior"], r["task"])): r for r in rows if r["metric"] == metric and r.get("versus") == "deft"
    }
    tasks = [t for t in TASKS if any(k[1] == t for k in found)]
    lines = [
        "| energy score minus DEFT's | " + " | ".join(NAMES[e] for e in entries) + " |",
        "|---" * (len(entries) + 1) + "|",
    ]
    for t in tasks:
        cells = []
        for e in entries:
            r = found.get((e, t))
            cells.append(
                ""
                if r is None
                else f"{_signed(r['value'])} [{_signed(r['low'])}, {_signed(r['high'])}]"
                + ("" if r["p_holm"] >= 0.05 else " *")
            )
        lines.append(f"| {TASKS[t]} | " + " | ".join(cells) + " |")
    return lines


def _signed(value: float) -> str:
    return ("−" if value < 0 else "+") + number(abs(value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    rows = [row for path in parser.parse_args().reports for row in json.loads(path.read_text())["rows"]]
    blocks = [
        energy_table(rows),
        h_table(rows, "deft"),
        h_table(rows, "deft-short"),
        h_table(rows, "deft-no-images"),
        differences(rows, ["pigdm", "mmps", "dps"]),
        differences(rows, ["deft-short", "deft-no-images", "deft-pigdm"]),
    ]
    print("\n\n".join("\n".join(block) for block in blocks))


if __name__ == "__main__":
    main()
