"""How good generated C-alpha traces are, as far as C-alphas tell. Traces are [L, 3] in angstrom, one at a time.

Every cut is calibrated on natives (the bundled chains): at least 95 % of them pass each. No folding network is run,
so nothing here says whether a sequence would fold into the trace (`ProteinDomain.note` goes under every table).

    motif RMSD     C-alphas after the best proper rotation (Kabsch 1976), of the sample as it was drawn
    geometry       bonds, clashes, radius of gyration, left-handed helix: the four cuts below
    junctions      bond length and angles where motif and scaffold meet; guidance breaks there first
    P-SEA          helix and strand from C-alphas (Labesse et al. 1997); compare with P-SEA on natives, not with DSSP.
                   It cannot tell a helix from its mirror image: `left_handed` does
    CA-MPNN NLL    of a sequence written for the trace (`deft.domains.protein.mpnn`); blind to mirror images
    proxy success  motif RMSD below 1 angstrom, geometry, junctions and an NLL below the natives' 95th percentile
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from deft.domains.protein.geometry import dihedrals, rmsd
from deft.domains.protein.mpnn import CAMPNN, plausibility
from deft.errors import InputError, required
from deft.kinds.domain import Metric

EXTRA = "'deft-diffusion[protein]'"

BOND = (3.6, 4.0)
"""Neighbouring C-alphas, angstrom. 99.7 % of natives' are in it; cis bonds (2.9, 0.3 %) are not."""
BOND_SHARE = 0.98
"""At least this share of a chain's bonds is in range; one out of range is always allowed, or short chains could have
none."""
CLASH = 3.6
"""No two residues three or more apart along the chain are nearer than this."""
ANGLE = (80.0, 152.0)
"""C-alpha angles in degrees, at junctions: all but 0.1 % of natives' at either end."""
LEFT = 0.05
"""Largest share of left-handed helix turns."""
GYRATION = ((0.8373, 0.3538), (1.1197, 0.3712))
"""Radius of gyration: the natives' 1 % and 99 % quantiles are exp(a + b log L), (a, b) each, of the 3,810 chains of the
train split."""
NLL = (1.736, -0.1147)
"""CA-MPNN NLL: the natives' 95 % quantile is a + b log L nats a residue, of 400 chains of the train split (short chains
have more)."""
MOTIF = 1.0
"""Motif RMSD of a success is below this, angstrom."""


METRICS: dict[str, Metric] = {
    m.key: m
    for m in (
        Metric("length", "residues", digits=0, about="of the chain"),
        Metric(
            "motif_rmsd",
            "motif RMSD, Å",
            "low",
            2,
            "of the motif's C-alphas after the best proper rotation; in a table of many chains the median",
            form="median",
        ),
        Metric(
            "bonds_in_range", "bonds in range", digits=0, about="neighbouring C-alphas 3.6 to 4 Å apart", form="share"
        ),
        Metric("bond_mean", "mean bond, Å", digits=2, about="distance of neighbouring C-alphas", target=3.8),
        Metric(
            "clashes_per_1000",
            "clashes per 1,000 pairs",
            "low",
            2,
            "pairs three or more apart along the chain that are nearer than 3.6 Å",
        ),
        Metric(
            "gyration_ratio", "radius of gyration", digits=2, about="over that of a native of this length, 2.2 L^0.38 Å"
        ),
        Metric("helix", "helix", digits=0, about="share of residues, by P-SEA", form="share"),
        Metric("strand", "strand", digits=0, about="share of residues, by P-SEA", form="share"),
        Metric("left_handed", "left-handed helix", "low", 0, "share of turns", form="share"),
        Metric("bonds_valid", "bonds", "high", 0, "at most 2 % of bonds (one at least) out of range", form="share"),
        Metric("clashes_valid", "clashes", "high", 0, "none", form="share"),
        Metric(
            "gyration_valid",
            "size",
            "high",
            0,
            "radius of gyration between the natives' 1 and 99 % quantiles",
            form="share",
        ),
        Metric("left_valid", "handedness", "high", 0, "less than 5 % left-handed turns", form="share"),
        Metric(
            "geometry_valid",
            "geometry",
            "high",
            0,
            "bonds, clashes, size and handedness all pass",
            brief=True,
            form="share",
        ),
        Metric(
            "junctions_valid",
            "junctions",
            "high",
            0,
            "bonds and angles where motif and scaffold meet are as natives'",
            brief=True,
            form="share",
        ),
        Metric("nll", "CA-MPNN NLL", "low", 2, "of a sequence written for the chain, nats a residue"),
        Metric("nll_valid", "NLL", "high", 0, "NLL below the natives' 95 % quantile", brief=True, form="share"),
        Metric(
            "proxy_success",
            "proxy success",
            "high",
            1,
            "motif RMSD below 1 Å, geometry, junctions and NLL all pass",
            form="share",
            leads=True,
        ),
        Metric("clusters", "clusters of successes", digits=0, about="TM-clusters of the first successes"),
        Metric(
            "nearest_tm",
            "nearest known, TM",
            "low",
            2,
            "mean over successes of the largest TM-score with a chain trained on",
        ),
    )
}
"""Columns of `measure`, and the last two of a set of chains."""


class Goal(NamedTuple):
    """The motif in a sample: positions [m] from 0, x [m, 3] in any pose, groups [m] of segments with a common pose,
    None for one."""

    positions: np.ndarray
    x: np.ndarray
    groups: np.ndarray | None = None


# one trace


def motif_rmsd(x: np.ndarray, goal: Goal) -> float:
    """RMSD of the motif after superposition (Kabsch 1976) without reflection; of several groups, each superposed by
    itself, the largest.

    A mirrored motif is not the motif: a helix of 20 residues is 1 angstrom and more from its mirror image.
    """
    if len(goal.positions) and not 0 <= min(goal.positions) <= max(goal.positions) < len(x):
        raise InputError(
            f"motif positions {min(goal.positions)} to {max(goal.positions)} do not fit a sample of {len(x)} residues"
            " (they count from 0)"
        )
    here, there = (torch.as_tensor(np.asarray(v, np.float64)) for v in (x[goal.positions], goal.x))
    groups = np.zeros(len(here), int) if goal.groups is None else goal.groups
    if here.shape != there.shape or len(groups) != len(here):
        raise InputError(
            f"a motif of {len(there)} residues and {len(groups)} groups does not fit {len(here)} positions"
        )
    return max(
        float(rmsd(here[rows], there[rows])) for rows in (np.flatnonzero(groups == g) for g in np.unique(groups))
    )


def bond_lengths(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(x, axis=0), axis=1)


def angles(x: np.ndarray) -> np.ndarray:
    """At residues 1 ... L - 2, degrees, [L - 2]."""
    a, b = x[:-2] - x[1:-1], x[2:] - x[1:-1]
    cosine = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-9)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


def clashes(x: np.ndarray) -> int:
    """Pairs |i - j| >= 3 nearer than `CLASH`."""
    i, j = np.triu_indices(len(x), 3)
    return int((np.linalg.norm(x[i] - x[j], axis=1) < CLASH).sum())


def gyration(x: np.ndarray) -> float:
    """Radius of gyration: root mean square distance from the mean."""
    return float(np.sqrt(np.square(x - x.mean(0)).sum(1).mean()))


def gyration_band(length: int) -> tuple[float, float]:
    """1 and 99 % quantile of natives of this length, angstrom."""
    low, high = (float(np.exp(a + b * np.log(length))) for a, b in GYRATION)
    return low, high


def highest_nll(length: int | np.ndarray) -> np.ndarray:
    """95 % quantile of natives of this length, nats a residue."""
    return NLL[0] + NLL[1] * np.log(length)


def helix_turns(x: np.ndarray) -> tuple[float, float]:
    """Shares of the L - 3 quadruples that are a turn of a right-handed and of a left-handed helix.

    A turn: 4.5 to 6.5 angstrom from first to last, dihedral of 20 to 80 degrees (right), or of -80 to -20 (left).
    Natives: 38 and 0.8 %.
    """
    turn = np.degrees(dihedrals(torch.as_tensor(x, dtype=torch.float64)).numpy())
    reach = np.linalg.norm(x[3:] - x[:-3], axis=1)
    compact = (reach > 4.5) & (reach < 6.5)
    return float((compact & (turn > 20) & (turn < 80)).mean()), float((compact & (turn < -20) & (turn > -80)).mean())


def junctions_valid(x: np.ndarray, positions: np.ndarray) -> bool:
    """Whether every bond between motif and scaffold is in `BOND`, and the angles at both of its residues in `ANGLE`."""
    inside = np.zeros(len(x), bool)
    inside[positions] = True
    joints = np.flatnonzero(inside[1:] != inside[:-1])  # bond i is between residues i and i + 1
    bond, at = bond_lengths(x)[joints], np.concatenate([joints, joints + 1])
    angle = angles(x)[at[(at > 0) & (at < len(x) - 1)] - 1]
    return bool(((bond >= BOND[0]) & (bond <= BOND[1])).all() and ((angle >= ANGLE[0]) & (angle <= ANGLE[1])).all())


def secondary_structure(x: np.ndarray) -> str:
    """A letter a residue by P-SEA (Labesse et al. 1997): a helix, b strand, c the rest. Needs biotite."""
    package = required("biotite.structure", EXTRA, "P-SEA secondary structure")
    atoms = package.AtomArray(len(x))
    atoms.coord = np.asarray(x, np.float32)
    atoms.atom_name[:], atoms.res_name[:], atoms.chain_id[:], atoms.res_id[:] = (
        "CA",
        "GLY",
        "A",
        np.arange(1, len(x) + 1),
    )
    return "".join(package.annotate_sse(atoms))


def fit_quantile(
    lengths: Sequence[int] | np.ndarray, values: Sequence[float] | np.ndarray, q: float
) -> tuple[float, float]:
    """(a, b) of the q-quantile a + b log L of values of chains of these lengths (Koenker & Bassett 1978). Needs scipy.

    It is how the natives' bands above were found: of log Rg at 1 and 99 %, of the NLL at 95 %.
    """
    optimize, sparse = (required(f"scipy.{part}", EXTRA, "a band of natives") for part in ("optimize", "sparse"))
    n = len(values)
    design = np.stack([np.ones(n), np.log(np.asarray(lengths, np.float64))], 1)
    # minimise q sum u + (1 - q) sum v over value = a + b log L + u - v with u, v >= 0
    cost = np.concatenate([np.zeros(2), np.full(n, q), np.full(n, 1 - q)])
    equal = sparse.hstack([design, sparse.eye(n), -sparse.eye(n)])
    a, b = optimize.linprog(
        cost, A_eq=equal, b_eq=np.asarray(values), bounds=[(None, None)] * 2 + [(0, None)] * (2 * n)
    ).x[:2]
    return float(a), float(b)


# many traces


def measure(
    samples: Sequence[np.ndarray],
    goals: Sequence[Goal] | None = None,
    *,
    model: CAMPNN | None = None,
    likelihood: bool = True,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """A column [N] for each number of each trace [L_i, 3].

    Args:
        goals: the motif of each, or None if there is none: RMSD is then NaN, and junctions and motif count as passed.
        model: another CA-MPNN than the bundled one. likelihood: leave it out (NLL is then NaN, no proxy success) to
            save 0.3 s a trace.

    Raises:
        InputError: a trace is not finite, not [L, 3] or too short; as many goals as traces are needed.
    """
    if goals is not None and len(goals) != len(samples):
        raise InputError(f"as many goals as samples are needed, got {len(goals)} and {len(samples)}")
    traces = [np.asarray(x, np.float64) for x in samples]
    for i, x in enumerate(traces):
        if x.ndim != 2 or x.shape[1] != 3 or len(x) < 6:
            raise InputError(f"sample {i} has shape {x.shape}: traces [L, 3] of at least 6 residues are measured")
        if not np.isfinite(x).all():
            raise InputError(
                f"sample {i} is not finite: its sampler diverged (smaller steps or a weaker guidance may help)"
            )
    rows = [_measure(x, None if goals is None else goals[i]) for i, x in enumerate(traces)]
    columns = {k: np.array([r[k] for r in rows]) for k in (rows[0] if rows else ())}
    if rows:
        nll = plausibility(traces, model=model, seed=seed)[0] if likelihood else np.full(len(rows), np.nan)
        columns["nll"], columns["nll_valid"] = nll, nll < highest_nll(columns["length"])
        fits = columns["motif_rmsd"] < MOTIF if goals is not None else np.ones(len(rows), bool)
        columns["proxy_success"] = fits & columns["geometry_valid"] & columns["junctions_valid"] & columns["nll_valid"]
    return columns


def _measure(x: np.ndarray, goal: Goal | None) -> dict[str, Any]:
    bond = bond_lengths(x)
    inside = (bond >= BOND[0]) & (bond <= BOND[1])
    size, (low, high) = gyration(x), gyration_band(len(x))
    letters, (_, left), clash = secondary_structure(x), helix_turns(x), clashes(x)
    valid = {
        "bonds_valid": bool((~inside).sum() <= max(1, (1 - BOND_SHARE) * len(bond))),
        "clashes_valid": clash == 0,
        "gyration_valid": low <= size <= high,
        "left_valid": left < LEFT,
    }
    return {
        "length": len(x),
        "motif_rmsd": np.nan if goal is None else motif_rmsd(x, goal),
        "bonds_in_range": inside.mean(),
        "bond_mean": bond.mean(),
        "clashes_per_1000": 1000 * clash / ((len(x) - 2) * (len(x) - 3) / 2),
        "gyration_ratio": size / (2.2 * len(x) ** 0.38),
        "helix": letters.count("a") / len(x),
        "strand": letters.count("b") / len(x),
        "left_handed": left,
        **valid,
        "geometry_valid": all(valid.values()),
        "junctions_valid": True if goal is None else junctions_valid(x, goal.positions),
    }


def summary(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Means of `measure`'s columns (shares, where a column says what passed), the RMSD's median and share below 1
    angstrom."""
    if not columns or not len(columns["length"]):
        raise InputError("no samples to report on: give at least one")
    row: dict[str, float] = {"samples": len(columns["length"])}
    for name, values in columns.items():
        if name == "motif_rmsd":
            known = values[np.isfinite(values)]
            row["motif_rmsd_median"] = float(np.median(known)) if len(known) else np.nan
            row["motif_below_1A"] = float((known < MOTIF).mean()) if len(known) else np.nan
        else:
            row[name] = float(values.mean())
    row["nll_sd"] = float(columns["nll"].std())
    return row
