"""One row of a table for a set of generated traces; natives get the same row, and stand beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deft.domains.protein.metrics import MOTIF, Goal, measure
from deft.domains.protein.mpnn import CAMPNN
from deft.domains.protein.similarity import clusters, novelty
from deft.errors import InputError

NOTE = "proxy success is a check of C-alpha geometry and CA-MPNN likelihood; no folding network was run"
"""Goes under every table."""


def summary(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Means of `measure`'s columns (shares, where a column says what passed), the RMSD's median and share below 1 angstrom.

    Intervals: `deft.bench.statistics` on the columns, over motifs first, as samples of one motif are alike.
    """
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


def report_row(
    samples: Sequence[np.ndarray],
    goals: Sequence[Goal] | None = None,
    *,
    known: Sequence[np.ndarray] | None = None,
    most: int = 100,
    model: CAMPNN | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """All numbers of a set of traces [L_i, 3] (angstrom): `summary`, and of the first `most` proxy successes diversity and novelty.

    Args:
        goals: the motif of each trace, or None without motifs. known: chains to be novel against (those trained on).

    successes: how many proxy successes were compared; clusters: how many TM-clusters they fall into; novelty_tm: the mean of their
    largest TM-score with a known chain.
    """
    columns = measure(samples, goals, model=model, seed=seed)
    row = summary(columns)
    good = [samples[i] for i in np.flatnonzero(columns["proxy_success"])[:most]]
    row["successes"] = len(good)
    row["clusters"] = len(set(clusters(good, most=most).tolist()))
    if known is not None:
        row["novelty_tm"] = float(np.nanmean(novelty(good, known))) if good else np.nan
    return row
