"""Motif problems as the cases of a comparison: the same placements and the same noise for every method, everything
measured.

    cases = MotifCases(named_set("a", 20), each=10, seed=0)
    results = deft.bench.compare.compare({"pigdm": ChainPlan("pigdm"), "deft": ChainPlan("deft", h=h)}, prior, cases)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.domains.protein.chains import UNIT, chains
from deft.domains.protein.contig import MAX_LENGTH, Placement
from deft.domains.protein.metrics import measure
from deft.domains.protein.motif import SIGMA_Y
from deft.domains.protein.place import draw_placements, observe_placements
from deft.domains.protein.plan import ChainPlan
from deft.domains.protein.problems import SHORTEST, Problem, problems, published, set_a
from deft.domains.protein.scaffold import draw_scaffolds
from deft.domains.protein.similarity import clusters, novelty
from deft.errors import InputError, unknown
from deft.kinds.domain import Cases, Column
from deft.likelihood import Observation

SETS: dict[str, str] = {
    "a": "motifs cut from held-out chains (test split)",
    "b": "the 17 published problems, whose entries' files are needed",
    "left-out": "motifs cut from relatives of the published problems' targets",
    "validation": "as a, from another split, to try settings on",
}

COLUMNS = (
    Column("motif RMSD, Å", ("motif_rmsd",)),
    Column("bonds, clashes, size pass", ("bonds_valid", "clashes_valid", "gyration_valid")),
    Column("geometry", ("geometry_valid",)),
    Column("junctions", ("junctions_valid",)),
    Column("CA-MPNN NLL, passes", ("nll", "nll_valid")),
    Column("helix, strand", ("helix", "strand")),
    Column("proxy success", ("proxy_success",)),
    Column("problems with one", ("solved",), of="problems"),
    Column("clusters of successes", ("clusters",), of="compared"),
    Column("nearest known, TM", ("nearest_tm",)),
)
"""Of a table with a row for each method."""

MOST = 40
"""Successes of a method that are compared with each other and with known chains."""


def named_set(name: str, count: int = 200, placement: str = "native", pdb: Sequence[str | Path] = ()) -> list[Problem]:
    """`count` motifs cut from held-out chains, or the published problems; see `SETS`.

    b: its entries' files are in `pdb` (files, or folders of them); `count` and `placement` say nothing of them.
    """
    if name not in SETS:
        raise unknown("set", name, SETS)
    if name == "b":
        return problems(list(published()), pdb)
    found = [c for c in chains("test" if name == "a" else name) if len(c.x) >= SHORTEST]
    traces, names, letters = [UNIT * c.x.numpy() for c in found], [c.name for c in found], [c.sequence for c in found]
    return set_a(traces, names=names, sequences=letters, count=min(count, len(found)), placement=placement)


class MotifCases(Cases):
    """`each` placements of every problem; case i is of problem `of[i]`: every problem once, then every one again.

    seed: of the placements. sigma_y: deviation of the motif's coordinates, in model space. Samples are traces [L, 3],
        angstrom.
    """

    title = "chains"

    def __init__(
        self,
        found: Sequence[Problem],
        each: int,
        seed: int = 0,
        *,
        max_length: int = MAX_LENGTH,
        sigma_y: float = SIGMA_Y,
    ):
        if each < 1 or not found:
            raise InputError(f"a comparison needs problems and at least one chain of each, got {len(found)} and {each}")
        self.found, self.repeats, self.seed, self.sigma_y, self.max_length = (
            list(found),
            each,
            seed,
            sigma_y,
            max_length,
        )
        self.problems = [p.name for p in self.found]
        per = [
            draw_placements(p.contig, each, seed + 1000 * i, max_length=max_length) for i, p in enumerate(self.found)
        ]
        self.of = [i for _ in range(each) for i in range(len(self.found))]
        self.placements: list[Placement] = [per[i][k] for k in range(each) for i in range(len(self.found))]
        self.goals = [self.found[i].goal(p) for i, p in zip(self.of, self.placements, strict=True)]

    def config(self) -> dict[str, Any]:
        return {
            "sigma_y": self.sigma_y,
            "max_length": self.max_length,
            "problems": [
                (p.name, str(p.contig), p.contig.lengths, hashlib.sha256(p.motif.x.tobytes()).hexdigest())
                for p in self.found
            ],
        }

    def about(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        cells = []
        for p in self.found:
            low, high = p.contig.lengths or p.contig.reach
            cells.append((str(len(p.motif)), f"{low}-{high}" if low < high else str(low)))
        return ("motif", "lengths"), cells

    def name_of(self, plan: Any) -> str:
        return plan.name

    def at_once(self, plan: Any, batch: int) -> int:
        return 1 if plan.particles else batch

    def draw(
        self,
        plan: ChainPlan,
        prior: Denoiser,
        rows: range,
        samples: int = 1,
        *,
        fitted: HTransform | None = None,
        seed: int = 0,
        batch: int = 64,
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> list[np.ndarray]:
        """A chain of each placement: one sample of each case, of the plan's own h. Those with particles have particles
        of their own."""
        if samples != 1:
            raise InputError(
                f"one chain is drawn for each placement, got samples={samples}: give more placements of each problem"
            )
        prior_: Any = prior
        lengths = [self.placements[i].length for i in rows]
        x: list[Tensor]
        if plan.particles:
            x = [
                UNIT
                * plan.plan()
                .draw(prior_.of_length(length), self.observe([i]).to(device), 1, fitted=plan.h, seed=seed, first=i)
                .x[0, 0]
                .cpu()
                for i, length in zip(rows, lengths, strict=True)
            ]
        else:
            h, sampler, grid = plan.make(prior)
            x = draw_scaffolds(
                prior_,
                h,
                self.observe(rows).to(device),
                lengths,
                seed=seed,
                first=rows.start,
                batch=batch,
                sampler=sampler,
                grid=grid,
                progress=progress,
            )
        return [v.numpy().astype(np.float32) for v in x]

    def observe(self, rows: Sequence[int]) -> Observation:
        return observe_placements(
            [self.found[self.of[i]].motif for i in rows], [self.placements[i] for i in rows], self.sigma_y
        )

    def measure(self, samples: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """`deft.domains.protein.metrics.measure` of the chains."""
        return measure(samples, self.goals)


def natives(most: int = 100, **options: Any) -> dict[str, np.ndarray]:
    """The same columns of native chains of the test split; they have no motif to miss."""
    every = chains("test")
    step = max(1, len(every) // most)
    return measure([UNIT * c.x.numpy() for c in every[::step][:most]], **options)


def variety(samples: Sequence[np.ndarray], known: bool = False) -> Mapping[str, float]:
    """Of the first `MOST` successes: how many were `compared`, into how many TM-`clusters` they fall, and, with
    `known`, the mean of their largest TM-score with a chain trained on."""
    good = list(samples[:MOST])
    if not good:
        return {}
    out: dict[str, float] = {"compared": len(good), "clusters": len(set(clusters(good, most=MOST).tolist()))}
    if known:
        out["nearest_tm"] = float(np.nanmean(novelty(good, [UNIT * c.x.numpy() for c in chains("train")])))
    return out
