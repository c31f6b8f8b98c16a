"""Motif-scaffolding problems: motifs cut from held-out chains, the published benchmark, and files of Genie 2's format.

Motifs of held-out chains (set a) need nothing but the library. Of the published problems only the definitions are here
(data/published.txt): entry of the PDB, chain, residues, lengths. Their coordinates are read from the entry's file,
which the user gives.

A problem file (Genie 2, data/design25 and data/multimotifs) is a PDB file of the motif residues with lines

    REMARK 999 NAME   1PRW_two                columns (from 1)
    REMARK 999 INPUT      5  20               20-23, 24-27: least and greatest length of a scaffold
    REMARK 999 INPUT  A  16  35 A             19 chain, 20-23 and 24-27 first and last residue, 29 group
    REMARK 999 MINIMUM TOTAL LENGTH      120  the rest of the line

In the one format (design25) no segment has a group and all are one rigid motif; in the other (multimotifs) every one
has.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from deft.core.random import generator
from deft.domains.protein.chains import UNIT
from deft.domains.protein.chains import chains as bundled
from deft.domains.protein.contig import MAX_LENGTH, Contig, Motif, Placement
from deft.domains.protein.metrics import Goal
from deft.domains.protein.structure import named, read_lines, read_structure
from deft.errors import InputError, unknown

PUBLISHED = Path(__file__).with_name("data") / "published.txt"
FETCH = "https://files.rcsb.org/download/{}.pdb"
LISTED = 12
"""Held-out motifs that `deft protein problems` shows; every other chain of the splits is a problem under its name,
too."""
HELD_OUT = ("test", "left-out")
"""Splits whose chains are problems by name. Nothing is trained on either."""
USUAL, SHARE = (9, 24), 0.8
"""Set A: residues of most motifs (the range of the benchmark's, too), and the share of motifs that are drawn from
it."""
SHORTEST = 2 * USUAL[0]
"""Residues of the shortest chain that a motif is cut from."""
UNUSUAL = (*range(5, 9), *range(25, 41))
"""Set A: residues of the others."""


@dataclass(frozen=True)
class Problem:
    """A motif to be scaffolded. contig: with its total lengths; motif: its C-alphas, angstrom; native: the chain it is
    from, or None.

    family: problems of one family have the same motif, and are not independent. notes: what the file left open, and how
        it was decided.
    """

    name: str
    contig: Contig
    motif: Motif
    family: str
    native: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def draw(self, seed: int | torch.Generator, *, max_length: int = MAX_LENGTH) -> Placement:
        """Where the motif goes and how long the chain is; see `Contig.draw`."""
        return self.contig.draw(seed, max_length=max_length)

    def goal(self, placement: Placement) -> Goal:
        """What a sample of this placement is measured against (`deft.domains.protein.metrics.measure`)."""
        return Goal(placement.positions, self.motif.x, self.motif.groups)


@dataclass(frozen=True)
class Published:
    """The definition of a published problem. contig: with its total lengths; letters: of the motif, by which the right
    residues are known."""

    name: str
    entry: str
    contig: Contig
    letters: str


@lru_cache(maxsize=1)
def published() -> dict[str, Published]:
    """The 17 problems of the RFdiffusion benchmark (Watson et al. 2023) with one segment and at most 128 residues: 9
    motifs, 4 of them in three lengths.

    >>> str(published()["5TPN"].contig), published()["5TPN"].entry
    ('10-40/A163-181/10-40', '5TPN')
    """
    rows = [
        line.split() for line in PUBLISHED.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]
    return {
        name: Published(name, entry, Contig.parse(contig, lengths), letters)
        for name, entry, contig, lengths, letters in rows
    }


def problems(names: Sequence[str] | None = None, pdb: Sequence[str | Path] = ()) -> list[Problem]:
    """Problems by name, in capital or small letters; without names a dozen motifs of held-out chains.

    Args:
        names: held-out chains (`deft.domains.protein.chains`, splits test and left-out), or published problems.
        pdb: files of the entries that published problems need, or folders of them.

    Raises:
        InputError: a name that is no problem's, or a published one whose entry is not among the files.

    >>> [len(p.motif) for p in problems(["2EJ8A"])]
    [22]
    """
    held = held_out()
    if names is None:
        return [held[name] for name in _listed()]
    known: dict[str, Problem | Published] = {**held, **published()}
    small = {name.lower(): name for name in known}
    out: list[Problem] = []
    missing: list[str] = []
    for name in names:
        if name.lower() not in small:
            near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                f"unknown problem {name!r}: {hint}`deft protein problems` lists them; a problem file is given with its "
                "suffix"
            )
        found = known[small[name.lower()]]
        if isinstance(found, Problem):
            out.append(found)
            continue
        file = _entry_file(found.entry, pdb, alone=len(names) == 1)
        if file is None:
            missing.append(found.entry)
        else:
            out.append(read_published(found, file))
    if missing:
        raise _no_entry(list(dict.fromkeys(missing)), pdb)
    return out


@lru_cache(maxsize=1)
def held_out() -> dict[str, Problem]:
    """Chain's name -> the motif that is cut from it (as set a's), to be placed freely in a chain of 0.8 to 1.2 times
    its length."""
    found: dict[str, Problem] = {}
    for split in HELD_OUT:
        here = [c for c in bundled(split) if len(c.x) >= SHORTEST]
        cut = set_a(
            [UNIT * c.x.numpy() for c in here],
            names=[c.name for c in here],
            sequences=[c.sequence for c in here],
            placement="free",
        )
        found.update({p.name: p for p in cut})
    return found


def _listed() -> list[str]:
    """Names of the first problems of set a, in the order in which it draws them."""
    test = [c for c in bundled("test") if len(c.x) >= SHORTEST]
    return [test[i].name for i in sorted(torch.randperm(len(test), generator=generator(0, 0))[:LISTED].tolist())]


def read_published(found: Published, path: str | Path) -> Problem:
    """A published problem, with its motif out of the entry's file (PDB or mmCIF).

    Raises:
        InputError: what `read_structure` and `Contig.motif` object to, or other residues at the motif's place: another
            entry, or other numbers.
    """
    structure = read_structure(path)
    (segment,) = found.contig.segments
    wanted = f"{found.name} takes {segment} ({found.letters}) of PDB entry {found.entry} with its authors' numbers"
    way = f"fetch {FETCH.format(found.entry)}"
    for chain in structure.chains:
        one = structure.only(chain)
        at = one.sequence.find(found.letters)
        if at >= 0 and one.residues[at] != segment.residues[0]:
            first, last = one.residues[at], one.residues[at + len(found.letters) - 1]
            low, high = found.contig.lengths or found.contig.reach
            moved = str(found.contig).replace(str(segment), f"{segment.__class__(chain, first.number, last.number)}")
            way += f", or give this one with --motif {path} --contig {moved} --length {low}-{high}"
            break
    try:
        motif = found.contig.motif(structure)
    except InputError as error:
        raise InputError(f"{error}; {wanted}: {way}") from error
    if any(a != b for a, b in zip(motif.sequence, found.letters, strict=True) if a != "X"):
        raise InputError(f"{segment} of {path} is {motif.sequence}, and {wanted}: {way}")
    return Problem(found.name, found.contig, motif, found.entry, notes=(*structure.notes, *motif.notes))


def _entry_file(entry: str, given: Sequence[str | Path], alone: bool) -> Path | None:
    """Which of the files and folders given is the entry's. alone: one problem is asked for, so that one file may have
    any name."""
    files: list[Path] = []
    for path in map(Path, given):
        if not path.exists():
            raise InputError(f"no such structure file or folder: {path}")
        files += sorted(p for p in path.iterdir() if _STRUCTURE.search(p.name.lower())) if path.is_dir() else [path]
    small = entry.lower()
    mine = [p for p in files if {small, f"pdb{small}"} & set(re.split(r"[^a-z0-9]+", p.name.lower()))]
    exact = [p for p in mine if _STRUCTURE.sub("", p.name.lower()) in (small, f"pdb{small}")]
    if len(exact or mine) > 1:
        raise InputError(
            f"several files are named after the entry {entry} ({named(exact or mine)}): give one of them with --pdb"
        )
    if mine:
        return (exact or mine)[0]
    return files[0] if alone and len(files) == 1 and not Path(given[0]).is_dir() else None


_STRUCTURE = re.compile(r"\.(pdb|ent|cif|mmcif|pdbx)(\.gz)?$")


def _no_entry(missing: list[str], given: Sequence[str | Path]) -> InputError:
    looked = f" (none of {named(given)} is named after it)" if given else ""
    if len(missing) == 1:
        return InputError(
            f"the coordinates of PDB entry {missing[0]} are not part of deft{looked}: fetch "
            f"{FETCH.format(missing[0])} and give the file with --pdb {missing[0]}.pdb, or its folder"
        )
    return InputError(
        f"the coordinates of PDB entries {', '.join(missing)} are not part of "
        f"deft{looked.replace('after it', 'after them')}: fetch {FETCH.format(missing[0])} and so on into "
        "a folder and give it with --pdb FOLDER"
    )


def read_problem(path: str | Path) -> Problem:
    """Read a problem file.

    Raises:
        InputError: what `read_structure` and `Contig.parse` object to, no REMARK 999 lines, or a damaged one.
    """
    path = Path(path)
    structure = read_structure(path)
    parts, name, least, most = [], path.stem, 0, 0
    for number, line in enumerate(read_lines(path), 1):
        bare = "".join(line.split()).upper()
        if not bare.startswith("REMARK999"):
            continue
        line, word = line.rstrip(), bare.removeprefix("REMARK999")
        try:
            if not line.startswith("REMARK 999 "):
                if word.startswith(_WORDS):
                    raise ValueError(
                        "REMARK is expected in columns 1-6, 999 in columns 8-10, its word from column 12 on"
                    )
            elif line[11:15] == "NAME":
                name = line[15:].strip()
            elif line[11:16] == "INPUT":
                parts.append(_input(line))
            elif line[11:31] == "MINIMUM TOTAL LENGTH":
                least = int(line[31:])
            elif line[11:31] == "MAXIMUM TOTAL LENGTH":
                most = int(line[31:])
            elif word.startswith(_WORDS):
                raise ValueError("its word is not where it must be, from column 12 on")
        except ValueError as error:
            why = str(error) if "column" in str(error) else "a number is expected from column 32 on"
            raise InputError(f"cannot read line {number} of {path}, {line!r}: {why}") from error
    if not parts or not 0 < least <= most:
        raise InputError(
            f"{path} is no motif-scaffolding problem: it needs REMARK 999 lines with INPUT and the MINIMUM and MAXIMUM"
            " TOTAL LENGTH (the file of a PDB entry is given with --pdb beside a problem's name, or with --motif and"
            " --contig)"
        )
    contig = Contig.parse("/".join(parts), (least, most))
    motif = contig.motif(structure)
    return Problem(name, contig, motif, name.split("_")[0], notes=(*structure.notes, *motif.notes))


_WORDS = ("INPUT", "NAME", "MINIMUMTOTAL", "MAXIMUMTOTAL")
_INPUT = (
    "the chain is expected in column 19, lengths or residues in columns 20-23 and 24-27, a group in column 29, blanks"
    " in the others"
)


def _input(line: str) -> str:
    """The part of a contig that a line with INPUT stands for. Raises ValueError if a column holds what it must not."""
    line = line.ljust(30)
    if "\t" in line:
        raise ValueError(f"it has a tab; {_INPUT}")
    for column in (17, 18, 28, *range(30, len(line) + 1)):
        if line[column - 1] != " ":
            raise ValueError(f"{line[column - 1]!r} stands in column {column}; {_INPUT}")
    chain, first, last, group = line[18].strip(), line[19:23], line[23:27], line[28].strip()
    # numbers of four digits may touch what is before them; shorter ones that do are one number that a column's edge
    # cuts in two
    cut = [f for f, before in ((first, line[18]), (last, line[22])) if before != " " and f[0] != " " and " " in f]
    if cut or not all(re.fullmatch(r" *-?[0-9]+ *", f) for f in (first, last)) or (not chain and "-" in first + last):
        raise ValueError(f"{first!r} and {last!r} stand in columns 20-23 and 24-27; {_INPUT}")
    if not chain:
        return f"{int(first)}-{int(last)}"
    return f"{chain if chain.isalpha() else chain + ':'}{int(first)}-{int(last)}" + (f"@{group}" if group else "")


def set_a(
    chains: Sequence[np.ndarray],
    *,
    names: Sequence[str] | None = None,
    sequences: Sequence[str] | None = None,
    count: int | None = None,
    seed: int = 0,
    placement: str = "native",
    max_length: int = MAX_LENGTH,
) -> list[Problem]:
    """One motif from each chain: a contiguous segment, of 9 to 24 residues in 80 % of the cases and of 5 to 8 or 25 to
    40 in the others.

    A motif has at most half of its chain's residues. It is centred, so that it does not tell where in the chain it was.

    Args:
        chains: traces [L, 3] in angstrom; of held-out clusters, if results are to mean anything. names: one for each.
            sequences: letters of each.
        count: take so many of them, at random. A chain's motif depends on the seed and the chain's number alone.
        placement: "native", the motif's own place and the chain's own length, which is more than a designer knows; or
            "free", any place in a chain of 0.8 to 1.2 times the length.
    """
    if placement not in ("native", "free"):
        raise unknown("placement", placement, ("native", "free"))
    if count is not None and not 0 < count <= len(chains):
        raise InputError(f"{count} problems asked for, from {len(chains)} chains: ask for 1 to {len(chains)}")
    chosen = list(range(len(chains)))
    if count is not None:
        chosen = sorted(torch.randperm(len(chains), generator=generator(seed, 0))[:count].tolist())
    found = []
    for i in chosen:
        x = np.asarray(chains[i], np.float32)
        found.append(
            _cut(
                x,
                names[i] if names else f"chain{i}",
                sequences[i] if sequences else "X" * len(x),
                (seed, 1, i),
                placement,
                max_length,
            )
        )
    return found


def _cut(x: np.ndarray, name: str, sequence: str, key: tuple[int, ...], placement: str, max_length: int) -> Problem:
    length = len(x)
    if x.shape != (length, 3) or not SHORTEST <= length <= max_length or not np.isfinite(x).all():
        raise InputError(
            f"a motif is cut from finite traces [L, 3] of {SHORTEST} to {max_length} residues, got {name} of shape "
            f"{x.shape}"
        )
    g = generator(*key)
    usual = float(torch.rand((), generator=g, dtype=torch.float32)) < SHARE
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
    return Problem(name, contig, Motif(part - part.mean(0), contig.groups, sequence[start : start + m]), name, x)
