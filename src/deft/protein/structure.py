"""C-alpha traces out of PDB and mmCIF files, and PDB files out of traces. Needs biotite (the extra `protein`).

What a file leaves open is decided by these rules, and each decision is said in `Structure.notes`:

- of several models (NMR) the first is read;
- of alternative places of a C-alpha the one with the highest occupancy, the first of equals;
- modified residues (MSE, SEP, ...) are residues if they have a C-alpha, and have their parent's letter (M, S, ...); without a parent
  among the twenty the letter is X;
- free amino acids, ligands, waters, ions and nucleic acids are left out. An ion of calcium is no C-alpha.

A residue without a C-alpha is listed in `missing`: it is an error for whoever asks for that residue.
Chains and numbers are the authors' (`auth_asym_id`, `auth_seq_id` in mmCIF), as contigs and papers use them.
"""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deft.errors import InputError
from deft.evaluate.foreign import required
from deft.train.checkpoint import write_text

EXTRA = "'deft-diffusion[protein]'"
pdb, pdbx, info = (required(f"biotite.structure.{part}", EXTRA, "reading protein structures") for part in ("io.pdb", "io.pdbx", "info"))

THREE = {
    "A": "ALA", "C": "CYS", "D": "ASP", "E": "GLU", "F": "PHE", "G": "GLY", "H": "HIS", "I": "ILE", "K": "LYS", "L": "LEU",
    "M": "MET", "N": "ASN", "P": "PRO", "Q": "GLN", "R": "ARG", "S": "SER", "T": "THR", "V": "VAL", "W": "TRP", "Y": "TYR",
    "X": "UNK",
}  # fmt: skip
STANDARD = frozenset(THREE.values()) - {"UNK"}
NAMELESS = "_"
"""What a chain without a name is called; in a contig `_:163-181`."""
COORDINATES = slice(30, 54)
"""Columns of x, y and z in an atom record of a PDB file, eight each."""


@dataclass(frozen=True)
class Residue:
    """Where a residue is in its file. insertion: a letter, or "" for none.

    >>> str(Residue("A", 100, "B"))
    'A100B'
    """

    chain: str
    number: int
    insertion: str = ""

    def __str__(self) -> str:
        return f"{self.chain}{self.number}{self.insertion}"


@dataclass(frozen=True)
class Structure:
    """The residues of a file that have a C-alpha, in the order of the file.

    x: float32 [N, 3] in angstrom. residues: N of them. sequence: N letters, X for unknown. missing: residues without a C-alpha.
    notes: what was decided for the reader (see above), a line each. source: the file.
    """

    x: np.ndarray
    residues: tuple[Residue, ...]
    sequence: str
    missing: tuple[Residue, ...] = ()
    notes: tuple[str, ...] = ()
    source: str = "structure"
    place: dict[Residue, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", {r: i for i, r in enumerate(self.residues)})

    def __len__(self) -> int:
        return len(self.x)

    @property
    def chains(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(r.chain for r in (*self.residues, *self.missing)))

    def only(self, chain: str) -> Structure:
        """One chain of it."""
        if chain not in self.chains:
            raise InputError(f"no chain {chain!r} in {self.source}: it has {named(self.chains)}")
        keep = [i for i, r in enumerate(self.residues) if r.chain == chain]
        missing = tuple(r for r in self.missing if r.chain == chain)
        residues, letters = tuple(self.residues[i] for i in keep), "".join(self.sequence[i] for i in keep)
        return Structure(self.x[keep], residues, letters, missing, self.notes, self.source)


def named(things: Sequence[object], most: int = 5) -> str:
    """A list for a message, cut if it is long."""
    shown = ", ".join(str(t) for t in things[:most])
    return f"{shown} and {len(things) - most} more" if len(things) > most else shown


# reading


def read_structure(path: str | Path) -> Structure:
    """The C-alpha traces of a PDB or mmCIF file (told apart by what is in it; gzip is opened).

    Raises:
        InputError: no such file, empty, truncated, not a structure, no protein in it, a residue twice.
    """
    path = Path(path)
    text = _text(path)
    lines = text.splitlines()
    if any(line.startswith("_atom_site.") for line in lines):
        atoms, models = _read_cif(text, path)
    elif any(line.startswith(("ATOM  ", "HETATM")) for line in lines):
        atoms, models = _read_pdb(lines, path)
    else:
        raise InputError(f"{path} is not a structure: no atoms of a PDB or mmCIF file in it")
    return _trace(atoms, models, str(path))


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"no such structure file: {path}")
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}; fetch the file again") from error
    if not raw.strip():
        raise InputError(f"{path} is empty: give a PDB or mmCIF file")
    return raw.decode("utf-8", "replace")


def _read_pdb(lines: list[str], path: Path) -> tuple[Any, int]:
    """The atoms of the first model, and how many models there are."""
    kept = []
    for number, line in enumerate(lines, 1):
        if line.startswith(("ATOM  ", "HETATM")):
            try:
                xyz = [float(line[k : k + 8]) for k in range(COORDINATES.start, COORDINATES.stop, 8)]
                if len(line) < COORDINATES.stop or not np.isfinite(xyz).all():
                    raise ValueError
                int(line[22:26])
            except ValueError as error:
                raise InputError(
                    f"line {number} of {path} is cut off or damaged ({line.strip()[:40]!r}): its residue number or coordinates cannot be "
                    "read; fetch the file again"
                ) from error
            # some programs write no occupancy; B-factors are not needed, and a bad one should not be in the way
            kept.append(f"{line[:54]}{line[54:60] if _is_number(line[54:60]) else '  1.00':6}  0.00{line[66:]}".ljust(80))
        elif line.startswith(("MODEL ", "ENDMDL")):
            kept.append(line)
    with _reading(path, "PDB"):
        file = pdb.PDBFile.read(io.StringIO("\n".join(kept) + "\n"))
        return file.get_structure(model=1, altloc="all", extra_fields=["occupancy"]), file.get_model_count()


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _read_cif(text: str, path: Path) -> tuple[Any, int]:
    with _reading(path, "mmCIF"):
        file = pdbx.CIFFile.read(io.StringIO(text))
        present = file.block["atom_site"]
        unknown = {axis: present[f"Cartn_{axis}"].mask for axis in "xyz"}
        for axis, mask in unknown.items():
            if mask is not None and mask.array.any():  # biotite reads "?" as 0
                raise ValueError(f"{axis} of atom {int(mask.array.argmax()) + 1} is unknown")
        fields = ["occupancy"] if "occupancy" in present else []
        return pdbx.get_structure(file, model=1, altloc="all", extra_fields=fields, use_author_fields=True), pdbx.get_model_count(file)


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Turns what the parser says about a bad file into one line; its guesses about chemical elements are not needed here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:  # biotite raises errors of many kinds, its own and others'
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"cannot read {path} as {kind}: truncated or damaged ({reason}); fetch the file again") from error


def _trace(atoms: Any, models: int, source: str) -> Structure:
    amino = set(info.amino_acid_names())
    occupancy = atoms.occupancy if "occupancy" in atoms.get_annotation_categories() else np.ones(len(atoms))
    best: dict[Residue, int] = {}  # residue -> its C-alpha
    seen: dict[Residue, str] = {}
    free, alternative, twice = set(), set(), []
    for i in range(len(atoms)):
        name, alpha = str(atoms.res_name[i]), atoms.atom_name[i] == "CA"
        residue = Residue(str(atoms.chain_id[i]).strip() or NAMELESS, int(atoms.res_id[i]), str(atoms.ins_code[i]).strip())
        if atoms.hetero[i] and name in STANDARD:
            free.add(residue)
            continue
        if name == "CA" or not (name in amino or (alpha and not atoms.hetero[i])):
            continue
        seen.setdefault(residue, name)
        if not alpha:
            continue
        if residue in best:
            j = best[residue]
            alternative.add(residue)
            if atoms.altloc_id[i] == atoms.altloc_id[j]:
                twice.append(residue)
            if occupancy[i] <= occupancy[j]:
                continue
        best[residue] = i
    free -= set(seen)
    _check_found(seen, best, twice, len(atoms), source)
    residues = tuple(r for r in seen if r in best)
    rows = [best[r] for r in residues]
    x = np.asarray(atoms.coord[rows], np.float32)
    if not np.isfinite(x).all():
        raise InputError(f"C-alpha of {residues[int(np.flatnonzero(~np.isfinite(x).all(1))[0])]} in {source} has no finite coordinates")
    names = [str(atoms.res_name[i]) for i in rows]
    modified = {n: _letter(n) for n in names if n not in THREE.values()}
    missing = tuple(r for r in seen if r not in best)
    notes = []
    if models > 1:
        notes.append(f"{source}: model 1 of {models} is used")
    if any(r.chain == NAMELESS for r in residues):
        notes.append(f"{source}: its chain without a name is called {NAMELESS}")
    if alternative:
        several = named([r for r in seen if r in alternative])
        notes.append(f"{source}: of the alternative places of {several} the one with the highest occupancy is used")
    if modified:
        notes.append(f"{source}: modified residues are read as {named([f'{n} = {letter}' for n, letter in modified.items()])}")
    if free:
        notes.append(f"{source}: free amino acids left out: {named(sorted(map(str, free)))}")
    if missing:
        notes.append(f"{source}: no C-alpha in {named(missing)}")
    return Structure(x, residues, "".join(_letter(n) for n in names), missing, tuple(notes), source)


def _check_found(seen: dict[Residue, str], best: dict[Residue, int], twice: list[Residue], atoms: int, source: str) -> None:
    if not seen:
        raise InputError(f"{source} holds {atoms} atoms but no protein: a chain of amino acids (in ATOM records) is needed")
    if not best:
        raise InputError(f"{source} holds {len(seen)} residues but no C-alpha (atom name CA): C-alpha coordinates are needed")
    if twice:
        raise InputError(
            f"residue {twice[0]} of {source} has two C-alphas without letters of alternative places: give each copy its own chain"
            " (or put MODEL records between them)"
        )


def _letter(name: str) -> str:
    letter = info.one_letter_code(name) or "X"
    return letter if letter in THREE else "X"


# writing


def write_pdb(
    path: str | Path,
    x: np.ndarray,
    *,
    sequence: str | None = None,
    chain: str = "A",
    marks: Sequence[float] | np.ndarray | None = None,
    remarks: Sequence[str] = (),
) -> None:
    """Write one trace [L, 3] (angstrom) as a PDB file of C-alphas numbered from 1, in one step (never half a file).

    Args:
        sequence: L letters; without one, residues are UNK. marks: L numbers for the B-factor column (1 on a motif, say).
        remarks: lines of text at the top.

    Raises:
        InputError: not [L, 3], not finite, or too large for the format (9,999 residues, coordinates of 4 digits before the point).
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or x.shape[1] != 3 or not 0 < len(x) <= 9999:
        raise InputError(f"a trace [L, 3] of 1 to 9999 residues can be written as PDB, got shape {x.shape}")
    if not np.isfinite(x).all() or x.min() < -999.9994 or x.max() > 9999.9994:
        raise InputError(f"coordinates for {path} are not finite or outside -999.999 to 9999.999 angstrom: centre the trace, or look at its sampler")
    letters = sequence or "X" * len(x)
    if len(letters) != len(x) or not set(letters) <= set(THREE):
        raise InputError(f"a sequence of {len(x)} letters of {''.join(THREE)} is needed for {path}, got {len(letters)}: {letters[:20]!r}")
    b = np.zeros(len(x)) if marks is None else np.asarray(marks, np.float64)
    if b.shape != (len(x),) or len(chain) != 1 or any("\n" in r for r in remarks):
        raise InputError(f"{path} needs {len(x)} marks, a chain of one letter and remarks of one line, got {b.shape}, {chain!r}, {len(remarks)} remarks")
    lines = [f"REMARK   1 {r}" for r in remarks]
    for i, ((p, q, r), letter) in enumerate(zip(x, letters, strict=True), 1):
        lines.append(f"ATOM  {i:5d}  CA  {THREE[letter]} {chain}{i:4d}    {p:8.3f}{q:8.3f}{r:8.3f}{1:6.2f}{b[i - 1]:6.2f}           C  ")
    lines += [f"TER   {len(x) + 1:5d}      {THREE[letters[-1]]} {chain}{len(x):4d}", "END"]
    write_text(path, "\n".join(lines) + "\n")
