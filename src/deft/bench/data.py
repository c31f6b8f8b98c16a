"""The samples of a study: a bundled data set, or your own in a folder or file.

    data = "ct"                  # bundled: its own three splits
    data = "photos/"             # yours: three fifths to fit, a fifth each to validate and to test
    data = "scans.npz:slices"    # yours: one array of a file
    data = "pairs.npz"           # with tasks = ["unknown"]: x and y of an unknown degradation, or a folder of x/ and y/
    data = { fit = "train/", validation = "held-out/", test = "scans.npz" }   # three places, or "ct:test"

A job names its samples by plain JSON: the name of a bundled set, or for each split where it comes from and a hash of
its numbers.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from deft.core.random import generator
from deft.errors import InputError, unknown
from deft.kinds.domain import Data, Domain
from deft.kinds.records import PairedData
from deft.recipe.data import complete, read_unknown

SPLITS = ("fit", "validation", "test")
SHARES = {"test": 0.2, "validation": 0.2, "fit": 0.6}
"""Of samples that come from one place; at least one each."""

PAIRS = "pairs:"
"""Before the place of pairs (x, y) of an unknown degradation, which are read as `deft fit --pairs` does."""

Places = str | Mapping[str, str]
"""Where the samples are: one place for all splits, or split -> place."""


def is_bundled(domain: Domain, source: str) -> bool:
    return source.partition(":")[0] in domain.datasets() and not Path(source).exists()


def paired(data: Places) -> Places:
    """The same places, as those of pairs of an unknown degradation."""
    if isinstance(data, str):
        return data if data.startswith(PAIRS) else PAIRS + data
    return {split: PAIRS + source for split, source in data.items()}


def check_places(domain: Domain, data: Places, where: str) -> None:
    """Complain of a `data` that says nothing usable, before any work."""

    def check(name: str, source: str) -> None:
        if not is_bundled(domain, source) and not domain.has_data(source):
            raise InputError(
                f"{where}: {name} = {source!r} is neither bundled ({', '.join(domain.datasets())}) nor a folder or file"
                " that exists"
            )

    if isinstance(data, str):
        if data:
            check("data", data)
        return
    for split in data:
        if split not in SPLITS:
            raise unknown(f"split in data of {where}", split, SPLITS)
    for split in SPLITS:
        if split not in data:
            raise InputError(
                f"{where}: data says where {', '.join(data)} come from, but not {split}: give {', '.join(SPLITS)}"
            )
        check(f"data.{split}", data[split])
        name, _, part = data[split].partition(":")
        if is_bundled(domain, data[split]) and part and part not in SPLITS:
            raise unknown(f"split of {name}", part, SPLITS)


def describe(domain: Domain, data: Places, splits: Sequence[str], event_shape: Sequence[int]) -> Any:
    """What a job that uses these splits writes into its `spec`: a bundled set's name (and version), or split ->
    {source, part, digest}."""
    found = {split: _place(domain, data, split) for split in splits}
    names = {source for source, part in found.values() if is_bundled(domain, source) and part == ""}
    if len(names) == 1 and len({source for source, _ in found.values()}) == 1:
        return _versioned(domain, names.pop())
    shape = tuple(event_shape)
    for source, _ in found.values():
        if not is_bundled(domain, source):
            _say(domain, source, shape)
    return {
        s: {"source": source, "part": part, "digest": _hash(domain, source, part or s, shape)}
        for s, (source, part) in found.items()
    }


def samples_of(domain: Domain, spec: Any, split: str, event_shape: Sequence[int]) -> Data:
    """The samples that `describe` described."""
    if isinstance(spec, str):
        return _read(domain, spec.partition("@")[0], split, tuple(event_shape))
    at = spec[split]
    return _read(domain, at["source"], at["part"] or split, tuple(event_shape))


def _versioned(domain: Domain, name: str) -> str:
    """A bundled set's name, with its version from the second on."""
    version = domain.data_version(name)
    return name if version == 1 else f"{name}@{version}"


def _place(domain: Domain, data: Places, split: str) -> tuple[str, str]:
    """(source, part): a bundled name and its split ("" for the same), or a path and the share of it ("all", or a
    split's)."""
    source = data if isinstance(data, str) else data[split]
    if is_bundled(domain, source):
        name, _, part = source.partition(":")
        return name, "" if part == split else part
    return source, split if isinstance(data, str) else "all"


@cache
def _read(kind: Domain, source: str, part: str, event_shape: tuple[int, ...]) -> Data:
    if is_bundled(kind, source):
        return kind.split(source, part, event_shape)
    found = _whole(kind, source, event_shape)
    if part == "all":
        return found
    rows = _share(len(found), part, f"{source} has {len(found)} {kind.title}")
    x = found.x[rows] if isinstance(found.x, torch.Tensor) else [found.x[i] for i in rows.tolist()]
    if isinstance(found, PairedData):
        found = replace(found, y=found.y[rows])
    return replace(
        found,
        x=x,
        names=[found.names[i] for i in rows.tolist()],
        last=None,
        labels=None if found.labels is None else found.labels[rows],
    )


@cache
def _whole(kind: Domain, source: str, event_shape: tuple[int, ...]) -> Data:
    """Samples as they are: a study has no options that change them."""
    try:
        if source.startswith(PAIRS):
            found = read_unknown(Path(source.removeprefix(PAIRS)), None, kind, event_shape)
            names = [f"{i:05d}" for i in range(len(found.x))]
            return PairedData(found.x, names, None, list(found.notes), found.y, found.pictures)
        return complete(kind.split(source, "", event_shape), source)
    except InputError as error:
        raise InputError(
            f"{error} (a comparison takes {kind.title} as they are, without options: write them to an .npz in the form"
            " that is wanted)"
        ) from error


@cache
def _say(kind: Domain, source: str, event_shape: tuple[int, ...]) -> None:
    """Once, on standard error, what was left out or changed."""
    for note in _whole(kind, source, event_shape).notes:
        print(f"{source}: {note}", file=sys.stderr)


def _share(n: int, part: str, have: str) -> torch.Tensor:
    """Row numbers of a split of n samples, drawn once and for all."""
    if n < len(SHARES):
        raise InputError(f"{have}: a comparison needs at least {len(SHARES)}, to fit, to validate and to test")
    order, start = torch.randperm(n, generator=generator(0, n)), 0
    for name, share in SHARES.items():
        count = n - start if name == "fit" else max(1, int(share * n))
        if name == part:
            return order[start : start + count]
        start += count
    raise unknown("split", part, SPLITS)


@cache
def _hash(kind: Domain, source: str, part: str, event_shape: tuple[int, ...]) -> str:
    whole = hashlib.sha256()
    found = _read(kind, source, part, event_shape)
    for x in (*found.x, *(found.y if isinstance(found, PairedData) else ())):
        whole.update(x.contiguous().numpy().tobytes())
    return whole.hexdigest()[:12]


__all__ = ["SPLITS", "Places", "check_places", "describe", "is_bundled", "samples_of"]
