"""Structure files for tests: traces as PDB, mmCIF and problem files, and stand-ins for the PDB entries of the published
problems."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deft.domains.protein.chains import UNIT, chains
from deft.domains.protein.problems import published
from deft.domains.protein.structure import write_pdb


def helix(n: int, start: int = 0) -> np.ndarray:
    """C-alphas of an ideal helix, [n, 3] angstrom."""
    t = np.arange(start, start + n)
    return np.stack([2.3 * np.cos(np.radians(100) * t), 2.3 * np.sin(np.radians(100) * t), 1.5 * t], 1)


def line(
    number: int | str,
    p: np.ndarray | tuple,
    *,
    name="GLY",
    atom=" CA ",
    record="ATOM",
    chain="A",
    code=" ",
    alt=" ",
    occupancy="1.00",
    serial=1,
    element="C",
) -> str:
    """An atom record of a PDB file. name: up to four letters; number: as it shall stand in columns 23 to 26."""
    x, y, z = (v if isinstance(v, str) else f"{v:8.3f}" for v in p)
    return (
        f"{record:<6}{serial:5d} {atom:<4}{alt}{name:>3}{'' if len(name) > 3 else ' '}{chain}{number:>4}{code}  "
        f" {x}{y}{z}{occupancy:>6} 20.00          {element:>2}  "
    )


def trace(x: np.ndarray, first: int = 1, **options: object) -> list[str]:
    """The lines of a chain."""
    return [line(first + i, p, serial=i + 1, **options) for i, p in enumerate(x)]


def saved(path: Path, lines: list[str] | str, end: str = "\n") -> Path:
    text = lines if isinstance(lines, str) else "".join(f"{one}{end}" for one in lines)
    path.write_bytes(text.encode())
    return path


COLUMNS = (
    "group_PDB",
    "id",
    "type_symbol",
    "label_atom_id",
    "label_alt_id",
    "label_comp_id",
    "label_asym_id",
    "label_entity_id",
    "label_seq_id",
    "pdbx_PDB_ins_code",
    "Cartn_x",
    "Cartn_y",
    "Cartn_z",
    "occupancy",
    "auth_seq_id",
    "auth_comp_id",
    "auth_asym_id",
    "auth_atom_id",
    "pdbx_PDB_model_num",
)


def cif_row(number: int, p: np.ndarray, **other: object) -> dict[str, str]:
    """A C-alpha of mmCIF: residue `number` of chain A for its authors, 100 less and of chain L for the file itself."""
    x, y, z = (f"{v:.3f}" for v in p)
    row = dict(
        zip(
            COLUMNS,
            (
                "ATOM",
                str(number),
                "C",
                "CA",
                ".",
                "GLY",
                "L",
                "1",
                str(number - 100),
                "?",
                x,
                y,
                z,
                "1.0",
                str(number),
                "GLY",
                "A",
                "CA",
                "1",
            ),
            strict=True,
        )
    )
    return row | {k: str(v) for k, v in other.items()}


def cif(rows: list[dict[str, str]], drop: tuple[str, ...] = (), block: str = "x") -> str:
    """An mmCIF file of one block. drop: columns that it shall not have."""
    names = [c for c in COLUMNS if c not in drop]
    return (
        f"data_{block}\n#\nloop_\n"
        + "".join(f"_atom_site.{c}\n" for c in names)
        + "".join(" ".join(r[c] for c in names) + "\n" for r in rows)
        + "#\n"
    )


def entries(folder: Path) -> Path:
    """A folder with a file for each PDB entry of the published problems: chains of the validation split that have the
    motif's chain, numbers and letters."""
    folder.mkdir(parents=True, exist_ok=True)
    pool = [c for c in chains("validation") if len(c.x) > 60]
    for i, found in enumerate({p.entry: p for p in published().values()}.values()):
        (segment,) = found.contig.segments
        chain, before = pool[i], min(12, segment.first - 1)
        letters = chain.sequence[:before] + found.letters + chain.sequence[before + len(found.letters) :]
        write_pdb(
            folder / f"{found.entry.lower()}.pdb",
            UNIT * chain.x.numpy() + 20,
            sequence=letters,
            chain=segment.chain,
            first=segment.first - before,
        )
    return folder


def problem_file(path: Path, x: np.ndarray, *, name: str = "mine", most: int = 60) -> Path:
    """A problem of Genie 2's format: residues 5 to 14 of chain A."""
    lines = [
        f"REMARK 999 NAME   {name}",
        "REMARK 999 PDB    XXXX",
        "REMARK 999 INPUT      5  20",
        "REMARK 999 INPUT  A   5  14",
        f"REMARK 999 INPUT      5{most - 30:4d}",
        "REMARK 999 MINIMUM TOTAL LENGTH      30",
        f"REMARK 999 MAXIMUM TOTAL LENGTH      {most}",
    ]
    return saved(path, [*lines, *trace(x)])
