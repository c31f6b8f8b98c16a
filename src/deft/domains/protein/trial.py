"""Methods side by side on motif problems: the same placements and the same noise for each, everything measured, natives first.

    trial = Trial(named_set("a", 20), each=10, seed=0)
    for arm in (Arm("pigdm"), Arm("deft", h=h)):
        columns = measured(trial, trial.draw(prior, arm, folder))

Chains are kept in the folder as they are drawn, so that what was stopped goes on, and what is there is not drawn again.
"""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.core.htransform import HTransform
from deft.domains.protein.arm import Arm
from deft.domains.protein.benchmark import SHORTEST, Problem, problems, published, set_a
from deft.domains.protein.chains import UNIT, chains
from deft.domains.protein.contig import MAX_LENGTH, Placement
from deft.domains.protein.metrics import measure
from deft.domains.protein.motif import SIGMA_Y
from deft.domains.protein.place import draw_placements, observe_placements
from deft.domains.protein.prior import ChainPrior
from deft.domains.protein.scaffold import draw_scaffolds
from deft.errors import InputError, unknown
from deft.io.files import write_atomic
from deft.likelihood import Observation
from deft.runtime.memory import PeakMemory

SETS = ("a", "b", "left-out", "validation")


def named_set(name: str, count: int = 200, placement: str = "native", pdb: Sequence[str | Path] = ()) -> list[Problem]:
    """`count` motifs cut from held-out chains, or the published problems.

    a: from chains of the test split; left-out: of relatives of the published problems' targets; validation: of that split, to tune on.
    b: the 17 published problems, whose entries' files are in `pdb` (files, or folders of them); `count` and `placement` say nothing of them.
    """
    if name not in SETS:
        raise unknown("set", name, SETS)
    if name == "b":
        return problems(list(published()), pdb)
    found = [c for c in chains("test" if name == "a" else name) if len(c.x) >= SHORTEST]
    traces, names, letters = [UNIT * c.x.numpy() for c in found], [c.name for c in found], [c.sequence for c in found]
    return set_a(traces, names=names, sequences=letters, count=min(count, len(found)), placement=placement)


@dataclass
class Drawn:
    """Chains of an arm, angstrom, in the order of `Trial.of`; seconds and peak memory (MiB, above what was there; None on a GPU) of drawing them."""

    x: list[np.ndarray]
    seconds: float
    mib: float | None


class Trial:
    """`each` placements of every problem; row i is of problem `of[i]`: every problem once, then every one again.

    seed: of placements and noise, the same for every arm.
    """

    def __init__(self, found: Sequence[Problem], each: int, seed: int = 0, *, max_length: int = MAX_LENGTH, sigma_y: float = SIGMA_Y):
        if each < 1 or not found:
            raise InputError(f"a trial needs problems and at least one chain of each, got {len(found)} and {each}")
        self.problems, self.each, self.seed, self.sigma_y, self.max_length = list(found), each, seed, sigma_y, max_length
        per = [draw_placements(p.contig, each, seed + 1000 * i, max_length=max_length) for i, p in enumerate(self.problems)]
        self.of = [i for _ in range(each) for i in range(len(self.problems))]
        self.placements: list[Placement] = [per[i][k] for k in range(each) for i in range(len(self.problems))]
        self.goals = [self.problems[i].goal(p) for i, p in zip(self.of, self.placements, strict=True)]

    def __len__(self) -> int:
        return len(self.of)

    def draw(
        self, prior: ChainPrior, arm: Arm, folder: Path, *, batch: int = 16, device: torch.device | str = "cpu", on_batch: Callable[[int], None] | None = None,
    ) -> Drawn:  # fmt: skip
        """The arm's chains, from the folder as far as they are there: those of fewer of each problem are the first of more. What other settings made has another
        file's name, and is left alone.

        on_batch: called with the number of chains that are there, after each batch.
        """
        key = json.dumps({
            **arm.config(), "prior": prior.fingerprint(), "seed": self.seed, "sigma_y": self.sigma_y, "max_length": self.max_length,
            "problems": [(p.name, str(p.contig), p.contig.lengths, hashlib.sha256(p.motif.x.tobytes()).hexdigest()) for p in self.problems],
        }, sort_keys=True)  # fmt: skip
        file = folder / f"{arm.method}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
        done = _read(file, key)
        if on_batch is not None:
            on_batch(len(done.x))
        made = None if arm.particles else arm.make(prior)
        while len(done.x) < len(self):
            low = len(done.x)
            rows = range(low, min(low + (1 if made is None else batch), len(self)))
            peak, begun = PeakMemory(), time.perf_counter()
            with peak:
                x = self._one(prior, arm, low, device) if made is None else self._batch(prior, made, rows, batch, device)
            done.seconds += time.perf_counter() - begun
            done.mib = None if peak.mib is None else max(done.mib or 0.0, peak.mib)
            done.x += [v.numpy().astype(np.float32) for v in x]
            _write(file, key, done)
            if on_batch is not None:
                on_batch(len(done.x))
        n = len(self)
        return Drawn(done.x[:n], done.seconds * n / len(done.x), done.mib)

    def _batch(self, prior: ChainPrior, made: tuple[HTransform, Any, Any], rows: range, batch: int, device: torch.device | str) -> list[Tensor]:
        h, sampler, grid = made
        obs = self._observe(rows).to(device)
        lengths = [self.placements[i].length for i in rows]
        return draw_scaffolds(prior, h, obs, lengths, seed=self.seed, first=rows.start, batch=batch, sampler=sampler, grid=grid)

    def _one(self, prior: ChainPrior, arm: Arm, i: int, device: torch.device | str) -> list[Tensor]:
        """A chain of its own particles."""
        obs = self._observe(range(i, i + 1)).to(device)
        return [UNIT * arm.plan().draw(prior.of_length(self.placements[i].length), obs, 1, fitted=arm.h, seed=self.seed, first=i).x[0, 0].cpu()]

    def _observe(self, rows: range) -> Observation:
        return observe_placements([self.problems[self.of[i]].motif for i in rows], [self.placements[i] for i in rows], self.sigma_y)


def measured(trial: Trial, drawn: Drawn, **options: Any) -> dict[str, np.ndarray]:
    """`deft.domains.protein.metrics.measure` of an arm's chains, and the number of each one's problem."""
    return {**measure(drawn.x, trial.goals, **options), "problem": np.array(trial.of)}


def natives(most: int = 100, **options: Any) -> dict[str, np.ndarray]:
    """The same columns of native chains of the test split; they have no motif to miss."""
    every = chains("test")
    step = max(1, len(every) // most)
    return measure([UNIT * c.x.numpy() for c in every[::step][:most]], **options)


def _write(file: Path, key: str, d: Drawn) -> None:
    flat = np.concatenate(d.x) if d.x else np.zeros((0, 3), np.float32)
    mib = np.nan if d.mib is None else d.mib

    def write(path: Path) -> None:
        with path.open("wb") as f:
            np.savez_compressed(f, x=flat, length=np.array([len(x) for x in d.x], np.int64), seconds=d.seconds, mib=mib, key=np.array(key))

    write_atomic(file, write)


def _read(file: Path, key: str) -> Drawn:
    """What a file has of an arm with this key; nothing, if it is another's or damaged."""
    try:
        with np.load(file, allow_pickle=False) as d:
            if str(d["key"]) != key:
                return Drawn([], 0.0, None)
            x = np.split(d["x"], np.cumsum(d["length"])[:-1]) if len(d["length"]) else []
            return Drawn(list(x), float(d["seconds"]), None if np.isnan(d["mib"]) else float(d["mib"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing, truncated, no such field: it is drawn again
        return Drawn([], 0.0, None)
