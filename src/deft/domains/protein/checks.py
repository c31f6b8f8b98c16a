"""Which drawn scaffolds pass every check, and why the others do not, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deft.domains.protein.metrics import ANGLE, BOND, CLASH, LEFT, MOTIF

FIRST = ("length", "motif_rmsd", "geometry_valid", "junctions_valid", "nll", "proxy_success", "helix", "strand")
"""Columns of `measure` that come first in a table; the others follow."""

REASONS: dict[str, str] = {
    "motif_valid": f"the motif is {MOTIF:g} Å or more away (RMSD)",
    "bonds_valid": f"too many C-alpha bonds outside {BOND[0]:g} to {BOND[1]:g} Å",
    "clashes_valid": f"residues nearer to each other than {CLASH:g} Å",
    "gyration_valid": "more compact or more open than natives of its length",
    "left_valid": f"more than {100 * LEFT:g} % left-handed helix",
    "junctions_valid": (
        f"a bond or an angle (outside {ANGLE[0]:g} to {ANGLE[1]:g} degrees) where motif and scaffold meet"
    ),
    "nll_valid": "CA-MPNN finds no plausible sequence (NLL above 95 % of natives)",
}
"""Column -> what is wrong where it is false. `motif_valid` is not a column: RMSD below 1 angstrom."""


def failures(columns: Mapping[str, np.ndarray]) -> list[list[str]]:
    """For each scaffold the keys of `REASONS` that hold against it; none for a proxy success."""
    wrong = {
        k: ~np.asarray(columns[k], bool) if k != "motif_valid" else ~(columns["motif_rmsd"] < MOTIF) for k in REASONS
    }
    return [[k for k in REASONS if wrong[k][i]] for i in range(len(columns["length"]))]


def summary_lines(names: Sequence[str], columns: Mapping[str, np.ndarray]) -> list[str]:
    """Lines: how many pass, which, and how many fail for each reason."""
    against = failures(columns)
    good = [n for n, f in zip(names, against, strict=True) if not f]
    lines = [f"{len(good)} of {len(names)} pass every check" + (f": {', '.join(good)}" if good else "")]
    counts = {k: sum(k in f for f in against) for k in REASONS}
    if any(counts.values()):
        lines.append("why the others do not:" if len(good) + 1 < len(names) else "why the other one does not:")
        lines += [f"  {n:>3}  {REASONS[k]}" for k, n in sorted(counts.items(), key=lambda kv: -kv[1]) if n]
        if sum(counts.values()) > len(names) - len(good):
            lines.append("  (a scaffold can have several reasons)")
    return lines


def rows_of(
    names: Sequence[str], columns: Mapping[str, np.ndarray], more: Mapping[str, Sequence[Any]] | None = None
) -> list[dict[str, Any]]:
    """A dict for each scaffold, in the order of the table. more: other columns, behind its name."""
    order = [*FIRST, *(k for k in columns if k not in FIRST)]
    out = []
    for i, name in enumerate(names):
        row: dict[str, Any] = {"file": name, **{k: v[i] for k, v in (more or {}).items()}}
        out.append(row | {k: columns[k][i].item() for k in order})
    return out


def short(row: Mapping[str, Any], reasons: Sequence[str]) -> str:
    """One line for a picture: length, RMSD, and whether it passes or what is against it."""
    said = {
        "motif_valid": "motif",
        "bonds_valid": "bonds",
        "clashes_valid": "clashes",
        "gyration_valid": "size",
        "left_valid": "left-handed",
        "junctions_valid": "junctions",
        "nll_valid": "NLL",
    }
    verdict = "passes" if not reasons else "fails: " + ", ".join(said[k] for k in reasons)
    return f"{row['motif_rmsd']:.2f} Å, {verdict}"
