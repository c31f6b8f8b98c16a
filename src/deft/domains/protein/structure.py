"""C-alpha traces out of PDB and mmCIF files, and PDB files out of traces. Needs biotite (the extra `protein`).

What a file leaves open is decided by these rules, and each decision is said in `Structure.notes`:

- of several models (NMR) the first is read, and of several blocks of an mmCIF file the first that has atoms;
- of alternative places of a C-alpha the one with the highest occupancy, the first of equals;
- modified residues (MSE, SEP, ...) and the names that force fields give to states of protonation (HIE, HSD, CYX, ASH,
  ...) are residues if they have a C-alpha, and have their parent's letter (M, S, H, C, D, ...); without a parent among
  the twenty the letter is X;
- free amino acids, ligands, waters, ions and nucleic acids are left out, and nothing is asked of their lines: a water
  with a number that is not a number does no harm. An ion of calcium is no C-alpha.

A residue without a C-alpha is listed in `missing`: it is an error for whoever asks for that residue.
Chains and numbers are the authors' (`auth_asym_id`, `auth_seq_id` in mmCIF), as contigs and papers use them; where an
mmCIF file has none, the file's own (`label_asym_id`, `label_seq_id`), which is said. Numbers above 9999 are read in
hybrid-36 (A000 is 10000), as the PDB's successors write them.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deft.errors import InputError, required
from deft.io.files import write_text
from deft.io.reading import parsing, read_bytes
from deft.runtime.untrusted import may_unpack_to

EXTRA = "'deft-diffusion[protein]'"
info = required("biotite.structure.info", EXTRA, "reading protein structures")

THREE = {
    "A": "ALA",
    "C": "CYS",
    "D": "ASP",
    "E": "GLU",
    "F": "PHE",
    "G": "GLY",
    "H": "HIS",
    "I": "ILE",
    "K": "LYS",
    "L": "LEU",
    "M": "MET",
    "N": "ASN",
    "P": "PRO",
    "Q": "GLN",
    "R": "ARG",
    "S": "SER",
    "T": "THR",
    "V": "VAL",
    "W": "TRP",
    "Y": "TYR",
    "X": "UNK",
}
MAX_STRUCTURE = 2**30
"""Bytes of a structure file, unpacked. The largest of the PDB has half of it."""
MIN_STRUCTURE, STRUCTURE_RATIO = 16 * 2**20, 20
"""A gzip file may unpack to so many bytes, or to so many times its own size."""
MAX_LINES = 8_000_000
"""Lines of a structure file. The largest of the PDB has 2.5 million."""
MAX_COLUMNS = 256
"""Of mmCIF's table of atoms, which has 21 to 40."""
STANDARD = frozenset(THREE.values()) - {"UNK"}
_FORCE_FIELD = {
    "H": "HID HIE HIP HSD HSE HSP HISA HISB HISH HISD HISE HISP HIS1 HIS2",
    "C": "CYX CYM CYN CYH CYS1 CYS2 CYSH CYSM CYSP",
    "D": "ASH ASPH ASPP",
    "E": "GLH GLUH GLUP",
    "K": "LYN LYP LSN LYSH LYSN",
    "R": "ARN AR0 ARGN",
    "Y": "TYM TYRU Y1P Y2P TP1 TP2",
    "S": "S1P SP1 SP2",
    "T": "T1P T2P THP1 THP2",
    "W": "TRPU",
    "Q": "QLN PGLU",
}
FORCE_FIELD = {name: letter for letter, names in _FORCE_FIELD.items() for name in names.split()}
"""Names of Amber, CHARMM, GROMACS and OPLS -> letter. Where the PDB's dictionary has another residue of that name (HSE
is a homoserine there, GLH a derivative of glutamine), the force field's is meant, unless the record or the side chain
says otherwise."""
HISTIDINE, HOMOSERINE = frozenset(("ND1", "NE2", "CD2", "CE1")), frozenset(("OD", "OG"))
"""Side-chain atoms that tell the two residues called HSE apart."""
PARENT = {"U": "C", "O": "K"}
"""Selenocysteine and pyrrolysine."""
NAMELESS = "_"
"""What a chain without a name is called; in a contig `_:163-181`."""
COORDINATES = slice(30, 54)
"""Columns of x, y and z in an atom record of a PDB file, eight each."""
PACKED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}
OTHER_FORMATS = {
    ".gro": "it is a GROMACS file, in nanometres: `gmx editconf -f {} -o x.pdb` makes a PDB file of it",
    ".bcif": "it is BinaryCIF: fetch the entry's .cif or .pdb",
    ".mmtf": "it is MMTF: fetch the entry's .cif or .pdb",
}
STEP = 3.8
"""Angstrom between the C-alphas of neighbours in a chain (2.9, if the bond between them is cis)."""
USUAL_STEP = (3.0, 4.6)
"""A structure whose median lies outside is in other units."""
UNITS = {
    0.38: "nanometres: multiply them by 10",
    3.8 / 8: "deft's own model space: multiply them by 8",
    7.18: "bohr: multiply them by 0.529",
    380.0: "picometres: divide them by 100",
}
"""What the distance of neighbours is in other units -> what to say."""


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

    x: float32 [N, 3] in angstrom. residues: N of them. sequence: N letters, X for unknown. missing: residues without a
        C-alpha.
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

    @property
    def steps(self) -> np.ndarray:
        """Distances between the C-alphas of neighbours: residues of one chain that follow each other in the file and in
        number."""
        at = [
            i for i, (a, b) in enumerate(zip(self.residues, self.residues[1:], strict=False))
            if a.chain == b.chain and (b.number - a.number == 1 or (b.number == a.number and a != b))
        ]  # fmt: skip
        x = np.asarray(self.x, np.float64)
        return np.linalg.norm(x[np.array(at, int) + 1] - x[at], axis=1)

    def check_unit(self) -> None:
        """Raise an `InputError` if these are no angstrom: if neighbours are alike far apart, but not 3.8."""
        steps = self.steps
        if not len(steps):
            return
        low, middle, high = np.quantile(steps, (0.25, 0.5, 0.75))
        if USUAL_STEP[0] <= middle <= USUAL_STEP[1] or high - low > 0.4 * middle:
            return  # without one distance that most have, it is no question of units
        if middle == 0:
            raise InputError(
                f"{self.source} has the C-alphas of neighbours at one and the same place: these are no coordinates; "
                "look at what wrote the file"
            )
        unit, known = min(UNITS.items(), key=lambda item: abs(np.log(middle / item[0])))
        guess = (
            f"they look like {known}"
            if abs(np.log(middle / unit)) < 0.12
            else f"multiply them by {STEP / middle:.3g}, if all are on one scale"
        )
        raise InputError(
            f"the coordinates of {self.source} are no angstrom: C-alphas of neighbours are {middle:.3g} apart "
            f"(median), where {STEP} is right; {guess}"
        )

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
    """The C-alpha traces of a PDB or mmCIF file (distinguished by what is in it; gzip is opened).

    Raises:
        InputError: no such file, empty, truncated, not a structure, no protein in it, a residue twice.
    """
    path = Path(path)
    lines = read_lines(path)
    with parsing(path, "a PDB or mmCIF file", InputError):
        return _structure(lines, path)


def _structure(lines: list[str], path: Path) -> Structure:
    if any(line.lstrip()[:11].lower() == "_atom_site." for line in lines):
        atoms = _read_cif(lines, path)
    elif any(line.startswith(("ATOM  ", "HETATM")) for line in lines):
        atoms = _read_pdb(lines, path)
    else:
        why = OTHER_FORMATS.get(
            Path(path.name.removesuffix(".gz")).suffix.lower(), "no atoms of a PDB or mmCIF file in it"
        )
        raise InputError(f"{path} is not a structure: {why.format(path)}")
    return _trace(atoms, str(path))


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file, whatever ends them; gzip is opened, and a byte-order mark is no part of the text.

    Raises:
        InputError: no such file, empty, or packed in a way that is not read.
    """
    path = Path(path)
    if not os.path.isfile(path):  # False for a name that is too long, where Path raises
        raise InputError(f"no such structure file: {path}")
    raw = read_bytes(path, "a structure file", MAX_STRUCTURE, InputError)
    if raw[:2] == b"\x1f\x8b":
        raw = _unpacked(path, raw)
    if raw.count(b"\n") + raw.count(b"\r") > MAX_LINES:
        raise InputError(f"{path} has more than {MAX_LINES:,} lines: this is no structure file")
    for magic, name in PACKED.items():
        if raw.startswith(magic):
            raise InputError(f"{path} is packed with {name}, and gzip alone is opened: unpack it")
    wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = raw.decode("utf-16" if wide else "utf-8-sig", "replace")
    if not text.strip():
        raise InputError(f"{path} is empty: give a PDB or mmCIF file")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _unpacked(path: Path, raw: bytes) -> bytes:
    """What is in a gzip file, of no more bytes than one of its size may have."""
    largest = min(MAX_STRUCTURE, may_unpack_to(len(raw), MIN_STRUCTURE, STRUCTURE_RATIO))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as f:
            out = f.read(largest + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}; fetch the file again") from error
    if len(out) > largest:
        raise InputError(f"{path} unpacks to more than {largest:,} bytes: this is no structure file")
    return out


class _Atom(NamedTuple):
    """An atom of a residue. x: its coordinates, if it is a C-alpha. hetero: None, if the file does not say."""

    residue: Residue
    name: str
    atom: str
    alt: str
    hetero: bool | None
    occupancy: float
    x: tuple[float, float, float] | None


class _Atoms(NamedTuple):
    """The atoms that matter, of the first model; how many there are in all, and of how many models; what was
    decided."""

    kept: list[_Atom]
    number: int
    models: int
    notes: tuple[str, ...] = ()


_AMINO: set[str] = set()


def _matters(name: str, alpha: bool, hetero: bool | None) -> bool:
    """Whether an atom belongs to a residue of a chain, as far as its own line tells."""
    if not _AMINO:
        _AMINO.update(info.amino_acid_names())
    if name == "CA":
        return False
    if name in FORCE_FIELD and name not in _AMINO:
        return alpha or not hetero
    return name in _AMINO or (alpha and hetero is False)


def _read_pdb(lines: list[str], path: Path) -> _Atoms:
    kept: list[_Atom] = []
    count, models, here = 0, 0, 0  # here: atoms of the model that is being read
    for number, line in enumerate(lines, 1):
        if line.startswith(("MODEL ", "ENDMDL")):
            here = 0
        if not line.startswith(("ATOM  ", "HETATM")):
            continue
        models += here == 0
        here += 1
        if models > 1:
            continue
        count += 1
        hetero, atom, name = line.startswith("HETATM"), line[12:16].strip(), _residue_name(line[17:21])
        alpha = atom == "CA"
        if len(line.rstrip()) >= 20 and not _matters(name, alpha, hetero):
            continue
        try:
            place, code = _number(line[22:27])
            if len(line) < COORDINATES.stop:
                raise ValueError
            xyz = [float(line[k : k + 8]) for k in range(COORDINATES.start, COORDINATES.stop, 8)] if alpha else None
            if xyz is not None and not np.isfinite(xyz).all():
                raise ValueError
        except ValueError as error:
            raise InputError(
                f"line {number} of {path} is cut off or damaged ({line.strip()[:40]!r}): its residue number or "
                "coordinates cannot be "
                "read; fetch the file again"
            ) from error
        residue = Residue(line[21].strip() or NAMELESS, place, code)
        occupancy = float(line[54:60]) if _is_number(line[54:60]) else 1.0  # some programs write none
        kept.append(
            _Atom(
                residue,
                name,
                atom,
                line[16].strip(),
                hetero,
                occupancy,
                None if xyz is None else (xyz[0], xyz[1], xyz[2]),
            )
        )
    return _Atoms(kept, count, models)


def _residue_name(field: str) -> str:
    """Of columns 18 to 21: the PDB's names have three letters, those of force fields four (HISD, NALA)."""
    field = field.upper()
    long = field.strip()
    if len(long) == 4:
        if long in FORCE_FIELD:
            return long
        if long[0] in "NC" and (long[1:] in STANDARD or long[1:] in FORCE_FIELD):
            return long[1:]  # Amber's names of the first and last residue of a chain
    return field[:3].strip()


def _number(field: str) -> tuple[int, str]:
    """(number, insertion code) of columns 23 to 27; numbers of five digits, and hybrid-36, as programs write them that
    count beyond 9999."""
    number, code = field[:4].strip(), field[4:].strip()
    if code.isdigit():
        return int(field), ""
    if re.fullmatch(r"[A-Z][A-Z0-9]{3}", number):
        return int(number, 36) - 10 * 36**3 + 10**4, code
    if re.fullmatch(r"[a-z][a-z0-9]{3}", number):
        return int(number, 36) + 16 * 36**3 + 10**4, code
    if not re.fullmatch(r"-?[0-9]+", number) or (code and not code.isalpha()):
        raise ValueError
    return int(number), code


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


_CIF_VALUE = re.compile(r"""'((?:[^']|'(?=\S))*)'(?=\s|$)|"((?:[^"]|"(?=\S))*)"(?=\s|$)|(\S+)""")
_CIF_WORD = re.compile(r"(?i)_|data_|save_|(?:loop_|stop_|global_)$")
"""What begins with it is no value, if it stands without quotes."""
_SITE = "_atom_site."


def _cif_words(line: str) -> list[tuple[str, bool]]:
    """(word, whether it stood without quotes) of a line; a comment is left out."""
    found = []
    for m in _CIF_VALUE.finditer(line):
        if m[3] is not None and m[3].startswith("#"):
            break
        found.append((m[3], True) if m[3] is not None else (m[1] if m[1] is not None else m[2], False))
    return found


class _CifSites:
    """The `_atom_site` columns of each block, gathered word by word. sites: (block, name in small letters ->
    values)."""

    def __init__(self) -> None:
        self.sites: list[tuple[str, dict[str, list[str]]]] = []
        self.block, self.fresh = "", True
        self.tags: list[str] = []
        self.values: list[str] = []
        self.loop = False

    def word(self, word: str) -> None:
        """A tag, or the name of a block or loop."""
        small = word.lower()
        if not small.startswith("_"):
            self.close()
            self.loop = small == "loop_"
            if small.startswith("data_"):
                self.block, self.fresh = word[5:], True
            return
        if self.values or not self.loop:  # the loop before it, or the tag and its value, is whole
            self.close()
        self.tags.append(small)

    def value(self, value: str) -> None:
        # of other categories it is enough to know that there are some
        if self.atoms or (self.tags and not self.values):
            self.values.append(value)

    @property
    def atoms(self) -> bool:
        return bool(self.tags) and self.tags[0].startswith(_SITE)

    def close(self) -> None:
        """The end of a loop, or of a tag and its value. Raises ValueError if a row is not whole."""
        if self.atoms:
            if not self.values or len(self.values) % len(self.tags):
                raise ValueError(f"{len(self.values)} values in {len(self.tags)} columns of _atom_site")
            if len(self.tags) > MAX_COLUMNS:
                raise ValueError(f"more than {MAX_COLUMNS} columns of _atom_site")
            columns = {t.removeprefix(_SITE): self.values[i :: len(self.tags)] for i, t in enumerate(self.tags)}
            if self.fresh:
                self.sites.append((self.block, {}))
                self.fresh = False
            site = self.sites[-1][1]
            site.update(columns)
            if len(site) > MAX_COLUMNS:
                raise ValueError(f"more than {MAX_COLUMNS} columns of _atom_site")
            if len({len(v) for v in site.values()}) > 1:
                raise ValueError("columns of _atom_site of different lengths")
        self.tags, self.values, self.loop = [], [], False


def _atom_sites(lines: list[str]) -> list[tuple[str, dict[str, list[str]]]]:
    """(block, its `_atom_site` columns) of every block that has some."""
    found = _CifSites()
    rows = iter(lines)
    for line in rows:
        if line.startswith(";"):
            for more in rows:
                if more.startswith(";"):
                    break
            else:
                raise ValueError("a text that does not end")
            found.value("text")
            line = more[1:]
        elif found.atoms and found.loop and line.startswith(("ATOM", "HETATM")) and not any(c in line for c in "'\"#"):
            found.values += line.split()  # most of a file
            continue
        for word, bare in _cif_words(line):
            if bare and _CIF_WORD.match(word):
                found.word(word)
            else:
                found.value(word)
    found.close()
    return found.sites


def _read_cif(lines: list[str], path: Path) -> _Atoms:
    def damaged(reason: str) -> InputError:
        return InputError(f"cannot read {path} as mmCIF: truncated or damaged ({reason}); fetch the file again")

    try:
        sites = _atom_sites(lines)
    except ValueError as error:
        raise damaged(str(error)) from error
    if not sites:
        raise damaged("no _atom_site values")
    (block, site), notes = sites[0], []
    if len(sites) > 1:
        notes.append(f"{path}: block {block or 1} of {len(sites)} with atoms is used ({named([b for b, _ in sites])})")
    rows = len(next(iter(site.values())))

    def column(what: str, *names: str, default: str | None = None) -> list[str | None]:
        for i, name in enumerate(names):
            if name in site:
                if i and what in ("chains", "numbers"):
                    notes.append(f"{path}: {what} are those of {name}, for there is no {names[0]}")
                return [None if v in ("?", ".") else v for v in site[name]]
        if default is None:
            raise damaged(f"no column _atom_site.{names[-1]} in it")
        return [default] * rows

    atom_names, names = (
        column("atoms", "auth_atom_id", "label_atom_id"),
        column("residues", "auth_comp_id", "label_comp_id"),
    )
    chains, numbers = (
        column("chains", "auth_asym_id", "label_asym_id", default=""),
        column("numbers", "auth_seq_id", "label_seq_id"),
    )
    codes, alts = column("codes", "pdbx_pdb_ins_code", default=""), column("alternatives", "label_alt_id", default="")
    groups, occupancies = column("groups", "group_pdb", default=""), column("occupancies", "occupancy", default="1")
    models, serials = column("models", "pdbx_pdb_model_num", default="1"), column("serials", "id", default="")
    axes = {axis: column("coordinates", f"cartn_{axis}") for axis in "xyz"}
    kept = []
    for i in range(rows):
        if models[i] != models[0]:
            continue
        group, name, atom = (groups[i] or "").upper(), (names[i] or "").upper(), atom_names[i] or ""
        hetero, alpha = None if not group else group == "HETATM", atom == "CA"
        if not _matters(name, alpha, hetero):
            continue
        where, xyz = f"atom {serials[i] or i + 1}", None
        if not re.fullmatch(r"-?[0-9]+", numbers[i] or ""):
            raise damaged(f"the residue number of {where} is {'unknown' if numbers[i] is None else repr(numbers[i])}")
        if alpha:
            for axis, values in axes.items():
                if values[i] is None or not _is_number(values[i] or ""):
                    raise damaged(f"{axis} of {where} is {'unknown' if values[i] is None else repr(values[i])}")
            xyz = (float(axes["x"][i] or 0), float(axes["y"][i] or 0), float(axes["z"][i] or 0))
        residue = Residue((chains[i] or "").strip() or NAMELESS, int(numbers[i] or 0), (codes[i] or "").strip())
        kept.append(
            _Atom(
                residue,
                name,
                atom,
                alts[i] or "",
                hetero,
                float(occupancies[i] or 1) if _is_number(occupancies[i] or "") else 1.0,
                xyz,
            )
        )
    return _Atoms(kept, rows, len(set(models)), tuple(notes))


def _trace(atoms: _Atoms, source: str) -> Structure:
    best: dict[Residue, _Atom] = {}  # residue -> its C-alpha
    seen: dict[Residue, set[str]] = {}  # residue -> its atoms
    free, alternative, twice = set(), set(), []
    for atom in atoms.kept:
        residue = atom.residue
        if atom.hetero and atom.name in STANDARD:
            free.add(residue)
            continue
        seen.setdefault(residue, set()).add(atom.atom)
        if atom.x is None:
            continue
        if residue in best:
            alternative.add(residue)
            if atom.alt == best[residue].alt:
                twice.append(residue)
            if atom.occupancy <= best[residue].occupancy:
                continue
        best[residue] = atom
    free -= set(seen)
    _check_found(len(seen), len(best), twice, atoms.number, source)
    residues = tuple(r for r in seen if r in best)
    kept = [best[r] for r in residues]
    letters = [_letter(a.name, a.hetero, seen[a.residue]) for a in kept]
    modified = {a.name: letter for a, letter in zip(kept, letters, strict=True) if a.name not in THREE.values()}
    missing = tuple(r for r in seen if r not in best)
    notes = list(atoms.notes)
    if atoms.models > 1:
        notes.append(f"{source}: model 1 of {atoms.models} is used")
    if any(r.chain == NAMELESS for r in residues):
        notes.append(f"{source}: its chain without a name is called {NAMELESS}")
    if alternative:
        several = named([r for r in seen if r in alternative])
        notes.append(f"{source}: of the alternative places of {several} the one with the highest occupancy is used")
    if modified:
        notes.append(
            f"{source}: modified residues are read as {named([f'{n} = {letter}' for n, letter in modified.items()])}"
        )
    if free:
        notes.append(f"{source}: free amino acids left out: {named(sorted(map(str, free)))}")
    if missing:
        notes.append(f"{source}: no C-alpha in {named(missing)}")
    return Structure(
        np.array([a.x for a in kept], np.float32), residues, "".join(letters), missing, tuple(notes), source
    )


def _check_found(seen: int, best: int, twice: list[Residue], atoms: int, source: str) -> None:
    if not seen:
        raise InputError(
            f"{source} holds {atoms} atoms but no protein: a chain of amino acids (in ATOM records) is needed"
        )
    if not best:
        raise InputError(
            f"{source} holds {seen} residues but no C-alpha (atom name CA): C-alpha coordinates are needed"
        )
    if twice:
        raise InputError(
            f"residue {twice[0]} of {source} has two C-alphas without letters of alternative places: give each copy its"
            " own chain (or put MODEL records between them)"
        )


def _letter(name: str, hetero: bool | None, atoms: set[str]) -> str:
    if name == "HSE" and not atoms & HISTIDINE and (hetero or atoms & HOMOSERINE):
        return "S"
    letter = FORCE_FIELD.get(name) or info.one_letter_code(name) or "X"
    letter = PARENT.get(letter, letter)
    return letter if letter in THREE else "X"


# writing


def write_pdb(
    path: str | Path,
    x: np.ndarray,
    *,
    sequence: str | None = None,
    chain: str = "A",
    first: int = 1,
    marks: Sequence[float] | np.ndarray | None = None,
    remarks: Sequence[str] = (),
) -> None:
    """Write one trace [L, 3] (angstrom) as a PDB file of C-alphas, in one step (never half a file).

    Args:
        sequence: L letters; without one, residues are UNK. first: the number of the first residue. marks: L numbers for
            the B-factor column (1 on a motif, say).
        remarks: lines of text at the top.

    Raises:
        InputError: not [L, 3], not finite, or too large for the format (numbers -999 to 9,999, coordinates of 4 digits
            before the point).
    """
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or x.shape[1] != 3 or not 0 < len(x) <= 9999:
        raise InputError(f"a trace [L, 3] of 1 to 9999 residues can be written as PDB, got shape {x.shape}")
    if not -999 <= first <= 10000 - len(x):
        raise InputError(
            f"residues of {path} would be numbered {first} to {first + len(x) - 1}: a PDB file has room for -999 to "
            "9999"
        )
    if not np.isfinite(x).all() or x.min() < -999.9994 or x.max() > 9999.9994:
        raise InputError(
            f"coordinates for {path} are not finite or outside -999.999 to 9999.999 angstrom: centre the trace, or look"
            " at its sampler"
        )
    letters = sequence or "X" * len(x)
    if len(letters) != len(x) or not set(letters) <= set(THREE):
        raise InputError(
            f"a sequence of {len(x)} letters of {''.join(THREE)} is needed for {path}, got {len(letters)}:"
            f" {letters[:20]!r}"
        )
    b = np.zeros(len(x)) if marks is None else np.asarray(marks, np.float64)
    if b.shape != (len(x),) or len(chain) != 1 or any("\n" in r for r in remarks):
        raise InputError(
            f"{path} needs {len(x)} marks, a chain of one letter and remarks of one line, got {b.shape}, {chain!r},"
            f" {len(remarks)} remarks"
        )
    lines = [f"REMARK   1 {r}" for r in remarks]
    for i, ((p, q, r), letter) in enumerate(zip(x, letters, strict=True), 1):
        lines.append(
            f"ATOM  {i:5d}  CA  {THREE[letter]} {chain}{first + i - 1:4d}   "
            f" {p:8.3f}{q:8.3f}{r:8.3f}{1:6.2f}{b[i - 1]:6.2f}           C  "
        )
    lines += [f"TER   {len(x) + 1:5d}      {THREE[letters[-1]]} {chain}{first + len(x) - 1:4d}", "END"]
    write_text(path, "\n".join(lines) + "\n")
