"""What `deft protein scaffold` writes must be: computed from the atoms of its PDB files."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from golden import (
    close,
    read,
)

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
        "length": n,
        "bonds_in_range": 1 - outside / (n - 1),
        "bond_mean": float(bond.mean()),
        "clashes_per_1000": 1000 * clash / ((n - 2) * (n - 3) / 2),
        "gyration_ratio": size / (2.2 * n**0.38),
        "left_handed": left / (n - 3),
        "bonds_valid": outside <= max(1, 0.02 * (n - 1)),
        "clashes_valid": clash == 0,
        "gyration_valid": low <= size <= high,
        "left_valid": left / (n - 3) < 0.05,
    }
    return out | {
        "geometry_valid": all(out[k] for k in ("bonds_valid", "clashes_valid", "gyration_valid", "left_valid"))
    }


def read_trace(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(C-alphas [L, 3], B-factors [L]) of a PDB file, by its columns."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("ATOM")]
    return np.array([[float(line[i : i + 8]) for i in (30, 38, 46)] for line in lines]), np.array(
        [float(line[60:66]) for line in lines]
    )


def check_scaffolds(out: Path, about: Mapping[str, Any], *, n: int, motif: np.ndarray, seed: int, steps: int) -> None:
    """table.csv and scaffold.json against the PDB files. motif [m, 3]: C-alphas of the motif, as they were given."""
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert (
        [r["file"] for r in rows]
        == [f"scaffold-{i:03d}.pdb" for i in range(n)]
        == sorted(p.name for p in out.glob("*.pdb"))
    )
    for r in rows:
        x, marks = read_trace(out / r["file"])
        assert set(marks) <= {0.0, 1.0} and marks.sum() == len(motif), (
            f"{r['file']}: B-factors mark {marks.sum()} residues, the motif has {len(motif)}"
        )
        found = measured_trace(x) | {"motif_rmsd": kabsch(x[marks == 1], motif)}
        for name, value in found.items():
            if isinstance(value, (bool, np.bool_)):
                assert bool(int(r[name])) == bool(value), f"{name} of {r['file']} is {r[name]}, by its atoms {value}"
            else:
                close(
                    float(r[name]),
                    float(value),
                    2e-3,
                    f"{name} of {r['file']}",
                    2e-3 if name != "clashes_per_1000" else 0.6,
                )
        passes = (
            all(int(r[k]) for k in ("geometry_valid", "junctions_valid", "nll_valid")) and float(r["motif_rmsd"]) < 1
        )
        assert int(r["proxy_success"]) == passes
        assert bool(int(r["nll_valid"])) == (float(r["nll"]) < 1.736 - 0.1147 * math.log(len(x)))
        spans = sum(int(p) for p in r["contig"].split("/") if p.isdigit())
        assert spans + len(motif) == len(x), (
            f"the contig {r['contig']} of {r['file']} does not add up to {len(x)} residues"
        )
    kept = read(out / "scaffold.json")
    assert kept == about and (
        kept["samples"],
        kept["drawn"],
        kept["seed"],
        kept["plan"]["steps"],
        kept["calls"],
        kept["whole"],
    ) == (n, n, seed, steps, steps, True)
    for one, r in zip(kept["scaffolds"], rows, strict=True):
        assert (one["file"], one["contig"], one["length"]) == (r["file"], r["contig"], int(r["length"])) and bool(
            one["against"]
        ) != bool(int(r["proxy_success"]))
        close(one["motif_rmsd"], float(r["motif_rmsd"]), 0, "motif_rmsd", 6e-5)
    s = kept["summary"]
    close(
        s["motif_rmsd_median"],
        float(np.median([float(r["motif_rmsd"]) for r in rows])),
        0,
        "median of the motif's RMSD",
        1e-4,
    )
    for name in (
        "length",
        "nll",
        "helix",
        "strand",
        "bond_mean",
        "bonds_valid",
        "geometry_valid",
        "junctions_valid",
        "proxy_success",
    ):
        close(s[name], float(np.mean([float(r[name]) for r in rows])), 0, f"mean of {name}", 1e-4)
