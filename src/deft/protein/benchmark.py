"""Motif-scaffolding problems: the bundled benchmark, files of the same format, and motifs cut from held-out chains.

A problem file (Genie 2, data/design25 and data/multimotifs) is a PDB file of the motif residues with lines

    REMARK 999 NAME   1PRW_two                                  columns (from 1)
    REMARK 999 INPUT      5  20                                 20-23, 24-27: least and greatest length of a scaffold
    REMARK 999 INPUT  A  16  35 A                               19 chain, 20-23 and 24-27 first and last residue, 29 group
    REMARK 999 MINIMUM TOTAL LENGTH      120                    the rest of the line

In the one format (design25) no segment has a group and all are one rigid motif; in the other (multimotifs) every one has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deft.errors import InputError, unknown
from deft.protein.contig import MAX_LENGTH, Contig, Motif, Placement
from deft.protein.metrics import Goal
from deft.protein.structure import read_structure
from deft.random import generator

MOTIFS = Path(__file__).with_name("data") / "motifs"
USUAL, SHARE = (9, 24), 0.8
"""Set A: residues of most motifs (the range of the benchmark's, too), and the share of motifs that are drawn from it."""
UNUSUAL = (*range(5, 9), *range(25, 41))
"""Set A: residues of the others."""


@dataclass(frozen=True)
class Problem:
    """A motif to be scaffolded. contig: with its total lengths; motif: its C-alphas, angstrom; native: the chain it is from, or None.

    family: problems of one family have the same motif, and are not independent.
    """

    name: str
    contig: Contig
    motif: Motif
    family: str
    native: np.ndarray | None = None

    def draw(self, seed: int | torch.Generator, *, max_length: int = MAX_LENGTH) -> Placement:
        """Where the motif goes and how long the chain is; see `Contig.draw`."""
        return self.contig.draw(seed, max_length=max_length)

    def goal(self, placement: Placement) -> Goal:
        """What a sample of this placement is measured against (`deft.protein.metrics.measure`)."""
        return Goal(placement.positions, self.motif.x, self.motif.groups)


def problems(names: Sequence[str] | None = None) -> list[Problem]:
    """The 17 problems of the RFdiffusion benchmark with one segment and at most 128 residues: 9 motifs, 4 of them in three lengths.

    >>> [p.name for p in problems(["5TPN", "7MRX_85"])]
    ['5TPN', '7MRX_85']
    """
    found = {p.name: p for p in (read_problem(path) for path in sorted(MOTIFS.glob("*.pdb")))}
    for name in names or ():
        if name not in found:
            raise unknown("problem", name, found)
    return [found[name] for name in names or found]


def read_problem(path: str | Path) -> Problem:
    """Read a problem file.

    Raises:
        InputError: what `read_structure` and `Contig.parse` object to, no REMARK 999 lines, or a damaged one.
    """
    path = Path(path)
    structure = read_structure(path)
    parts, name, least, most = [], path.stem, 0, 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("REMARK 999"):
            continue
        try:
            if line[11:15] == "NAME":
                name = line[15:].strip()
            elif line[11:16] == "INPUT":
                first, last = int(line[19:23]), int(line[23:27])
                chain, group = line[18:19].strip(), line[28:29].strip()
                parts.append(_segment(chain, first, last, group) if chain else f"{first}-{last}")
            elif line[11:31] == "MINIMUM TOTAL LENGTH":
                least = int(line[31:])
            elif line[11:31] == "MAXIMUM TOTAL LENGTH":
                most = int(line[31:])
        except ValueError as error:
            raise InputError(f"cannot read {line.strip()!r} in {path}: lengths and residues are expected in columns 20-23 and 24-27") from error
    if not parts or not 0 < least <= most:
        raise InputError(f"{path} is no motif-scaffolding problem: it needs REMARK 999 lines with INPUT and the MINIMUM and MAXIMUM TOTAL LENGTH")
    contig = Contig.parse("/".join(parts), (least, most))
    return Problem(name, contig, contig.motif(structure), name.split("_")[0])


def _segment(chain: str, first: int, last: int, group: str) -> str:
    return f"{chain if chain.isalpha() else chain + ':'}{first}-{last}" + (f"@{group}" if group else "")


def set_a(
    chains: Sequence[np.ndarray],
    *,
    names: Sequence[str] | None = None,
    count: int | None = None,
    seed: int = 0,
    placement: str = "native",
    max_length: int = MAX_LENGTH,
) -> list[Problem]:
    """One motif from each chain: a contiguous segment, of 9 to 24 residues in 80 % of the cases and of 5 to 8 or 25 to 40 in the others.

    A motif has at most half of its chain's residues. It is centred, so that it does not tell where in the chain it was.

    Args:
        chains: traces [L, 3] in angstrom; of held-out clusters, if results are to mean anything. names: one for each.
        count: take so many of them, at random. A chain's motif depends on the seed and the chain's number alone.
        placement: "native", the motif's own place and the chain's own length, which is more than a designer knows; or "free", any
            place in a chain of 0.8 to 1.2 times the length.
    """
    if placement not in ("native", "free"):
        raise unknown("placement", placement, ("native", "free"))
    if count is not None and not 0 < count <= len(chains):
        raise InputError(f"{count} problems asked for, from {len(chains)} chains: ask for 1 to {len(chains)}")
    chosen = list(range(len(chains)))
    if count is not None:
        chosen = sorted(torch.randperm(len(chains), generator=generator(seed, 0))[:count].tolist())
    return [_cut(np.asarray(chains[i], np.float32), names[i] if names else f"chain{i}", (seed, 1, i), placement, max_length) for i in chosen]


def _cut(x: np.ndarray, name: str, key: tuple[int, ...], placement: str, max_length: int) -> Problem:
    length = len(x)
    if x.shape != (length, 3) or not 2 * USUAL[0] <= length <= max_length or not np.isfinite(x).all():
        raise InputError(f"a motif is cut from finite traces [L, 3] of {2 * USUAL[0]} to {max_length} residues, got {name} of shape {x.shape}")
    g = generator(*key)
    usual = float(torch.rand((), generator=g)) < SHARE
    sizes = [m for m in (range(USUAL[0], USUAL[1] + 1) if usual else UNUSUAL) if 2 * m <= length]
    m = sizes[int(torch.randint(len(sizes), (), generator=g))]
    start = int(torch.randint(length - m + 1, (), generator=g))
    segment, rest = f"A{start + 1}-{start + m}", length - start - m
    if placement == "native":
        contig = Contig.parse("/".join(p for p in (start and f"{start}", segment, rest and f"{rest}") if p), length)
    else:
        low, high = max(m, round(0.8 * length)), min(max_length, round(1.2 * length))
        contig = Contig.parse(f"0-{high - m}/{segment}/0-{high - m}", (low, high))
    part = x[start : start + m]
    return Problem(name, contig, Motif(part - part.mean(0), contig.groups, "X" * m), name, x)
