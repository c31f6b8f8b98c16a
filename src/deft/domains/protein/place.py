"""Placements of a motif as observations of several chains at once, the bundled h for them, and drawn chains back in the
pose of the motif given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from deft.core.random import generator
from deft.domains.protein.contig import Contig, Placement
from deft.domains.protein.contig import Motif as Given
from deft.domains.protein.geometry import superposed
from deft.domains.protein.metrics import Goal
from deft.domains.protein.motif import SIGMA_Y, Motif, given_motif
from deft.errors import InputError, unknown
from deft.likelihood import Gaussian, Observation


def bundled_h(size: int = 9) -> Path:
    """The file of a bundled h: 9 or 4 % of the prior's parameters.

    >>> bundled_h(4).name
    'motif-4.safetensors'
    """
    if size not in (9, 4):
        raise unknown("size", str(size), ("9", "4"))
    return Path(__file__).with_name("weights") / f"motif-{size}.safetensors"


def draw_placements(contig: Contig, n: int, seed: int = 0, *, max_length: int = 128, first: int = 0) -> list[Placement]:
    """n placements; number i depends on the seed and first + i alone, and is unrelated to the noise of chain i."""
    return [contig.draw(generator(seed, first + i, 1), max_length=max_length) for i in range(n)]


def observe_placements(
    motif: Given | Sequence[Given], placements: Sequence[Placement], sigma_y: float = SIGMA_Y
) -> Observation:
    """One row for each placement, padded to the longest: y [N, L, 3] in model space, groups of the motif each without
    its centroid.

    Args:
        motif: C-alphas in angstrom, with the group of each; one for all placements, or one for each.
        sigma_y: deviation of a coordinate, in model space (0.1 angstrom is 0.0125).
    """
    long = max(p.length for p in placements)
    rows = []
    for p, given in zip(placements, [motif] * len(placements) if isinstance(motif, Given) else motif, strict=True):
        parts = [np.flatnonzero(p.groups == g) for g in np.unique(p.groups)]
        rows.append(
            given_motif(
                [torch.from_numpy(given.x[i]) for i in parts], [p.positions[i].tolist() for i in parts], long, sigma_y
            )
        )
    operator = Motif(torch.cat([cast(Motif, r.likelihood.operator).group for r in rows]))
    return Observation(torch.cat([r.y for r in rows]), Gaussian(operator, sigma_y))


def check_groups(contig: Contig) -> None:
    """Refuse a group of one residue: without its centroid nothing is left of it, and it would go anywhere."""
    groups = contig.groups
    for number in np.unique(groups):
        inside = [r for r, g in zip(contig.residues, groups, strict=True) if g == number]
        if len(inside) < 2:
            raise InputError(
                f"the motif {inside[0]} of contig {str(contig)!r} is one residue by itself, which says nothing of the"
                " chain (where a motif lies is free): give two residues or more, or put it into a group with others"
            )


def posed(x: Tensor, goal: Goal) -> np.ndarray:
    """x [L, 3] turned and moved, never mirrored, so that its motif (of several groups the first) lies where the given
    one does; float64."""
    groups = np.zeros(len(goal.positions), int) if goal.groups is None else goal.groups
    rows = np.flatnonzero(groups == groups[0])
    onto, mask = torch.zeros(len(x), 3, dtype=torch.float64), torch.zeros(len(x), dtype=torch.bool)
    onto[goal.positions[rows]], mask[goal.positions[rows]] = torch.as_tensor(np.asarray(goal.x, np.float64)[rows]), True
    return superposed(x.double(), onto, mask).numpy()
