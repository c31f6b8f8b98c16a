"""The settings that `deft compare` found on validation images -> src/deft/methods/tuned.json, which `deft demo`,
`deft sample` and `--tuned` read.

    python benchmarks/tuned.py benchmarks/results/linear/report.json benchmarks/results/nonlinear/report.json --replace

What the file has already stays, unless --replace. Only entries that were tuned and bear their method's name are taken:
an entry with another fit or with fixed settings is not the method. A learned h has the library's defaults.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from deft.io.files import write_text
from deft.methods import METHODS

OUT = Path(__file__).resolve().parents[1] / "src" / "deft" / "methods" / "tuned.json"


def found(report: Path) -> dict[str, dict[str, dict[str, object]]]:
    """task -> method -> settings, of one report."""
    out: dict[str, dict[str, dict[str, object]]] = {}
    for row in json.loads(report.read_text())["tuned"]:
        plan = row["chosen"]
        if row["method"] != plan["method"] or not row["tried"] or METHODS[row["method"]].trained:
            continue
        if METHODS[row["method"]].draw is not None:  # a study's particles are as many as its calls allow
            continue
        settings = {**plan["settings"], "steps": plan["steps"], "spacing": plan["spacing"]}
        if METHODS[row["method"]].sampler is None and plan["sampler"] != "ddim":
            settings["sampler"] = plan["sampler"]
        elif METHODS[row["method"]].sampler is None and plan["eta"] != METHODS[row["method"]].eta:
            settings["eta"] = plan["eta"]
        out.setdefault(row["task"], {})[row["method"]] = settings
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--replace", action="store_true", help="also where the file has settings already")
    args = parser.parse_args()
    tuned = json.loads(OUT.read_text()) if OUT.exists() else {}
    for report in args.reports:
        for task, methods in found(report).items():
            mine = tuned.setdefault(task, {})
            tuned[task] = {**mine, **methods} if args.replace else {**methods, **mine}
    lines = []
    for task, methods in sorted(tuned.items()):
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(methods[name])}" for name in sorted(methods))
        lines.append(f" {json.dumps(task)}: {{\n{rows}\n }}")
    write_text(OUT, "{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
