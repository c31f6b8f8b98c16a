"""How alike traces are by TM-align (Zhang & Skolnick 2005): diversity within a set, novelty against known chains. Needs
tmtools.

A TM-score is 1 for the same fold, above about 0.5 for the same topology, near 0.3 for two unrelated chains and for a
fold and its mirror image. An alignment of two chains of 100 residues takes 20 ms, so both functions bound their number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deft.domains.protein.metrics import EXTRA, secondary_structure
from deft.errors import InputError, required

SAME = 0.6
"""Traces of one cluster have at least this TM-score with its first."""


def tm_scores(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """TM-score of the best alignment (Zhang & Skolnick 2005), normalised by the length of x and by that of y."""
    align = required("tmtools", EXTRA, "a TM-score").tm_align
    out = align(np.asarray(x, np.float64), np.asarray(y, np.float64), "A" * len(x), "A" * len(y))
    return float(out.tm_norm_chain1), float(out.tm_norm_chain2)


def clusters(samples: Sequence[np.ndarray], cut: float = SAME, *, most: int = 200) -> np.ndarray:
    """The cluster of each trace, [N], numbered from 0; their number over N is the diversity of a set.

    Greedy, in the order given: a trace joins the first cluster whose first trace it is similar to (TM-score by the
    longer chain at least `cut`), or starts one. At most `most` traces, for N^2 / 2 alignments in the worst case.
    """
    if len(samples) > most:
        raise InputError(
            f"{len(samples)} traces to cluster, {most} at most: give a part of them, or a larger `most`"
            f" ({len(samples) ** 2 // 100} s or less)"
        )
    first: list[np.ndarray] = []
    out = np.empty(len(samples), np.int64)
    for i, x in enumerate(samples):
        out[i] = next((k for k, y in enumerate(first) if min(tm_scores(x, y)) >= cut), len(first))
        if out[i] == len(first):
            first.append(x)
    return out


def novelty(
    samples: Sequence[np.ndarray], known: Sequence[np.ndarray], *, candidates: int = 100, window: float = 0.2
) -> np.ndarray:
    """Largest TM-score (by the sample's length) of each trace with the known chains most likely to resemble it, [N].
    Low is novel.

    Those within `window` of its length, of them the `candidates` nearest in helix and strand content: a lower bound of
    the largest over all. NaN if none is of its length.
    """
    sizes = np.array([len(k) for k in known])
    content: dict[int, np.ndarray] = {}
    out = np.full(len(samples), np.nan)
    for i, x in enumerate(samples):
        near = np.flatnonzero(np.abs(sizes - len(x)) <= window * len(x)).tolist()
        content |= {k: _content(known[k]) for k in near if k not in content}
        own = _content(x)
        near.sort(key=lambda k: float(np.abs(content[k] - own).sum()))
        out[i] = max((tm_scores(x, known[k])[0] for k in near[:candidates]), default=np.nan)
    return out


def _content(x: np.ndarray) -> np.ndarray:
    letters = secondary_structure(x)
    return np.array([letters.count("a"), letters.count("b")]) / len(letters)
