"""The bundled protein chains, and batches of chains of about the same length.

C-alpha coordinates in units of 8 angstrom, about their standard deviation along an axis, centred. See
data/PROVENANCE.txt for where they come from. Chains of one batch are padded with zeros
(`deft.domains.protein.geometry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deft.core.random import BatchNoise, generator
from deft.errors import InputError, unknown
from deft.train.protocols import Batch, Batches, Source, Task

UNIT = 8.0
"""Angstrom in one unit of model space."""

BOUNDS = (64, 80, 96, 112, 128)
"""Longest chain of each bucket, and the length it is padded to."""

SPLITS: dict[str, int] = {"train": 0, "validation": 1, "test": 2, "left-out": 3}
"""Name -> number in the file. left-out: relatives of the published problems' targets, on which nothing is ever
trained."""


class Chain(NamedTuple):
    """x: C-alphas [L, 3] in units of 8 angstrom, centred; sequence and dssp: a letter a residue; cluster: at 30 %
    identity."""

    x: Tensor
    name: str
    sequence: str
    dssp: str
    cluster: int


def chains(split: str, *, shortest: int = 40, longest: int = 128) -> list[Chain]:
    """The chains of a split: train (3,810), validation (231), test (451) or left-out (97), in the order of the file.

    >>> first = chains("test")[0]
    >>> first.x.shape == (len(first.sequence), 3)
    True
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    with (resources.files("deft.domains.protein") / "data" / "chains.npz").open("rb") as f, np.load(f) as data:
        fields = {k: data[k] for k in data.files}
    ends = np.cumsum(fields["length"].astype(np.int64))
    out = []
    for i in np.flatnonzero(fields["split"] == SPLITS[split]):
        n = int(fields["length"][i])
        if not shortest <= n <= longest:
            continue
        part = slice(ends[i] - n, ends[i])
        x = torch.from_numpy(fields["ca_centi_angstrom"][part].astype(np.float64)) / (100 * UNIT)
        sequence, dssp = (fields[k][part].tobytes().decode("ascii") for k in ("sequence", "dssp"))
        name = f"{fields['pdb'][i]}{fields['chain'][i]}"
        out.append(Chain((x - x.mean(0)).float(), name, sequence, dssp, int(fields["cluster30"][i])))
    return out


def pad(traces: Sequence[Tensor], length: int | None = None) -> Tensor:
    """Traces [L_i, 3] as one tensor [B, L, 3], zero behind each one's end. length: L, by default the longest's."""
    length = max(len(x) for x in traces) if length is None else length
    out = torch.zeros(len(traces), length, 3, dtype=traces[0].dtype)
    for row, x in zip(out, traces, strict=True):
        if len(x) > length:
            raise InputError(f"a chain of {len(x)} residues does not fit {length} rows")
        row[: len(x)] = x
    return out


def template(lengths: Sequence[int], length: int | None = None) -> Tensor:
    """Ones [B, L, 3] with zero rows behind each length: the `like` of `deft.samplers.sample`."""
    return pad([torch.ones(n, 3) for n in lengths], length)


class Bucketed(Batches):
    """Batches of chains from one bucket of lengths, so that little of a batch is padding and there are few shapes.

    Args:
        x: traces [L_i, 3].
        task: measures each draw afresh.
        bounds: the longest chain of each bucket; the last must hold the longest of all.

    A step's bucket is drawn with the probability of its share of the chains, so that every chain is drawn equally
    often on average; within a batch no chain comes twice before all of its bucket have come once. Held-out evaluations
    (steps below 0) walk through the buckets evenly.
    """

    def __init__(self, x: Sequence[Tensor], task: Task | None = None, bounds: Sequence[int] = BOUNDS):
        if not x:
            raise InputError("no data to train on: 0 chains")
        if max(len(c) for c in x) > max(bounds):
            raise InputError(
                f"a chain of {max(len(c) for c in x)} residues is longer than the last bucket, {max(bounds)}"
            )
        self.task, self.buckets = task, []
        low = 0
        for high in sorted(bounds):
            inside = [c for c in x if low < len(c) <= high]
            if inside:
                self.buckets.append(pad(inside, high))
            low = high
        sizes = torch.tensor([len(b) for b in self.buckets], dtype=torch.float64)
        self._upto = sizes.cumsum(0) / sizes.sum()

    def _choose(self, size: int, seed: int, step: int) -> tuple[int, Tensor]:
        """(bucket, the rows of it that make the whole batch)."""
        held_out = step < 0
        g = generator(seed, step % 2**32, 2)
        # the golden ratio's multiples, and so the held-out evaluations, fill [0, 1) evenly however many there are
        u = 0.618034 * -step % 1 if held_out else float(torch.rand((), generator=g, dtype=torch.float32))
        bucket = min(int(torch.searchsorted(self._upto, u, right=True)), len(self.buckets) - 1)
        n = len(self.buckets[bucket])
        rows = [torch.randperm(n, generator=g) for _ in range(-(-size // n))]
        return bucket, torch.cat(rows)[:size]

    def draw(
        self,
        size: int,
        seed: int,
        step: int,
        device: torch.device,
        *,
        rows: range | None = None,
        source: Source = BatchNoise,
    ) -> Batch:
        bucket, chosen = self._choose(size, seed, step)
        chosen = chosen if rows is None else chosen[rows.start : rows.stop]
        x = self.buckets[bucket][chosen].to(device)
        return Batch(x) if self.task is None else Batch(x, self.task.observe(x, source(size, seed, step, 3, rows=rows)))
