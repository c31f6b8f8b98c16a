"""Chains for the commands: bundled ones, and those of PDB and mmCIF files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from deft.domains.protein.chains import UNIT, chains, pad
from deft.domains.protein.geometry import residues
from deft.errors import InputError
from deft.io.text import some
from deft.kinds.domain import Data

BUNDLED = "chains"
SPLITS = {"fit": "train"}
"""What other kinds of data call a split -> its name here."""
SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".gz")
SHORTEST = 3


def read(source: str, event_shape: Sequence[int] | None = None, *, split: str = "fit") -> Data:
    """Centred C-alpha traces [N, L, 3] in units of 8 angstrom, zero behind each one's end: of the bundled set
    ("chains", "chains:test"), or every chain of a PDB or mmCIF file or of a folder of them. event_shape: (L, 3); chains
    that are longer are left out, and L is the longest's for want of one.

    Raises:
        InputError: nothing there, or no chain that fits.
    """
    name, _, part = source.partition(":")
    longest = None if event_shape is None else int(event_shape[0])
    if name == BUNDLED and not Path(source).exists():
        wanted = part or split
        found = [(c.name, c.x) for c in chains(SPLITS.get(wanted, wanted))]
    else:
        found = [one for path in _files(Path(source)) for one in _chains_of(path)]
    kept = [(n, x) for n, x in found if len(x) >= SHORTEST and (longest is None or len(x) <= longest)]
    if not kept:
        raise InputError(
            f"{source} holds no chain of {SHORTEST} residues or more"
            + ("" if longest is None else f" and at most {longest}, the prior's")
        )
    left = [n for n, x in found if not any(n == m for m, _ in kept)]
    notes = (
        [f"left out {len(left)} of {len(found)} chains, too short or longer than the prior's: {some(left)}"]
        if left
        else []
    )
    return Data(pad([x for _, x in kept], longest), [n for n, _ in kept], None, notes)


def _files(path: Path) -> list[Path]:
    files = (
        sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if path.is_dir()
        else [path]
        if path.is_file()
        else []
    )
    if not files:
        raise InputError(
            f"{path} is no PDB or mmCIF file and no folder of them: give one, or {BUNDLED} for the bundled chains"
        )
    return files


def _chains_of(path: Path) -> list[tuple[str, Tensor]]:
    """(name, trace) of each chain of a file."""
    from deft.domains.protein.structure import read_structure

    structure = read_structure(path)
    structure.check_unit()
    out = []
    for chain in structure.chains:
        x = torch.from_numpy(structure.only(chain).x).double() / UNIT
        out.append((f"{path.name.partition('.')[0]}{chain}", (x - x.mean(0)).float()))
    return out


def write(folder: Path, name: str, x: Tensor) -> list[Path]:
    """A PDB file of the C-alphas of a trace [L, 3], without the rows behind its end."""
    from deft.domains.protein.structure import write_pdb

    length = int(residues(x[None]).sum())
    write_pdb(folder / f"{name}.pdb", (UNIT * x[:length].double()).cpu().numpy())
    return [folder / f"{name}.pdb"]
