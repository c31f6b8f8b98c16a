"""What an h is fitted to: images (or other samples) as their owner has them, or pairs, and what is held out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation, as_tensor
from deft.core.random import generator
from deft.errors import InputError
from deft.io.arrays import read_arrays
from deft.kinds.domain import Data, Domain, UnknownPairs, domain_of, domains, known_options
from deft.kinds.stored import Mapped, Samples, Stored, few_rows, subset
from deft.likelihood.unknown import UnknownTask
from deft.printing import short
from deft.prior.measurement_check import check_pairs
from deft.train.data import Pairs

Source = Tensor | Stored | np.ndarray | Data | Pairs | tuple[Any, Any] | str | Path | None
"""Samples [N, *data_shape] in model space, in memory or stored, what a domain read, own pairs, a file or folder or the
name of a bundled set, or nothing. A tuple (x, y) is pairs of which nobody knows how y was made."""


@dataclass(frozen=True)
class TrainingData:
    """x: samples [N, *E] in the prior's own space, in memory or stored, or None; x_out: held out. obs, obs_out: their
    measurements, of own pairs alone.

    source: where from, for cards. notes: what was left out, cropped or clipped in reading. warnings: what is doubtful.
    """

    x: Samples | None = None
    x_out: Tensor | None = None
    obs: Observation | None = None
    obs_out: Observation | None = None
    source: str = "samples of the prior alone"
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        return 0 if self.x is None else len(self.x)


def unknown_task(prior: Denoiser, data: tuple[Any, Any], *, pictures: bool | None = None) -> UnknownTask:
    """The task of pairs (x, y) of which nobody knows how y was made. pictures: see `UnknownTask.from_pairs`.

    Raises:
        InputError: a kind of data whose h needs its operator, or y that says nothing.
    """
    domain = domain_of(prior)
    if domain is not None and not domain.unknown_degradations:
        raise InputError(
            f"pairs of an unknown degradation are not for {domain.title}, whose h needs to know what was measured: name"
            f" the task ({', '.join(domain.tasks())})"
        )
    if not isinstance(data, tuple) or len(data) != 2:
        raise InputError(f"pairs are a tuple (x, y) of two tensors or arrays, got {type(data).__name__}")
    return UnknownTask.from_pairs(prior.event_shape, as_tensor(data[1], "y"), pictures=pictures)


def unknown_pairs(prior: Denoiser, task: UnknownTask, data: tuple[Any, Any]) -> Pairs:
    """Pairs (x [N, *data_shape] in model space, y [N, *M]) for a task made of such ones.

    Raises:
        InputError: x of another shape than the prior's samples, y of another than the task's, or not as many.
    """
    x, y = as_tensor(data[0], "x").float(), as_tensor(data[1], "y").float()
    y = y[:, None] if y.ndim == 1 else y
    if tuple(x.shape[1:]) not in (tuple(prior.data_shape), tuple(prior.event_shape)):
        raise InputError(
            f"x has shape {tuple(x.shape)}, expected (N, {', '.join(map(str, prior.data_shape))}): what this prior"
            " makes"
        )
    if len(x) != len(y):
        raise InputError(f"{len(x)} samples x but {len(y)} measurements y: pairs must match one to one")
    if not bool(torch.isfinite(x).all()):
        raise InputError("x has values that are not finite (NaN or infinite)")
    return Pairs(x, task.observation(y))


def read_unknown(
    source: Path,
    degraded: Path | None,
    domain: Domain,
    event_shape: tuple[int, ...],
    options: Mapping[str, Any] = MappingProxyType({}),
) -> UnknownPairs:
    """Pairs of an unknown degradation: an .npz with x and y, a folder with the folders x and y in it, or two folders.
    options: as commands say how files are read (resize, convert, value_range, recursive).

    Raises:
        InputError: nothing there, not one y for each x, or an array that only a known operator needs (a mask).
    """
    if options.keys() & {"skip_bad", "array"}:
        raise InputError("pairs must match one to one: leave --skip-bad and --array out, and mend what cannot be read")
    if not source.exists():
        raise InputError(f"no such file or folder: {source}")
    if degraded is None and source.is_dir():
        inside = (source / "x", source / "y")
        if not all(part.is_dir() for part in inside):
            raise InputError(
                f"{source} is a folder: pairs are two folders of it, {source}/x and {source}/y, or name that of y with"
                " --degraded"
            )
        source, degraded = inside
    if degraded is not None:
        if not degraded.exists():
            raise InputError(f"no such folder: {degraded}")
        found = _ask(domain.paired_folders, domain, source, degraded, event_shape, **options)
    else:
        if "recursive" in options:
            raise InputError(f"--recursive is for folders, {source} is a file: leave it out")
        arrays = read_arrays(source)
        _only_x_and_y(source, arrays)
        found = _ask(domain.unknown_pairs, domain, arrays, str(source), event_shape, **options)
    return found


def _ask(method: Any, domain: Domain, *args: Any, **given: Any) -> UnknownPairs:
    with known_options(domain, given):
        found: UnknownPairs = method(*args, **given)
    return found


def drawn_arrays() -> set[str]:
    """Names of what tasks draw for each sample, of every kind of data: an array of such a name is an operator's."""
    return {t.drawn for d in domains().values() for t in d.tasks().values() if getattr(t, "drawn", "")}


def _only_x_and_y(path: Path, arrays: Mapping[str, Any]) -> None:
    """Refuse a file that lacks one of them, or says that an operator was known after all."""
    lacking = {"x", "y"} - set(arrays)
    if lacking:
        raise InputError(f"{path} lacks {', '.join(sorted(lacking))}: pairs are the arrays x and y")
    more = sorted((drawn_arrays() | {"task"}) & set(arrays))
    if more:
        raise InputError(
            f"{path} holds {', '.join(more)} beside x and y: it was measured by an operator that is known. Name its"
            f" task with --task, or leave {', '.join(more)} out of the file"
        )


def hold_out(n: int, seed: int, x: Samples | None = None, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(rows to fit, rows held out): a tenth at random, at least 1 and at most 256, and of stored samples x no more than
    may be kept in memory; or the rows `last`, if there are such and others (`Data.last`)."""
    if last is not None and 0 < len(last) < n:
        rest = torch.ones(n, dtype=torch.bool)
        rest[last] = False
        return rest.nonzero()[:, 0], last
    if n < 2:
        raise InputError(
            f"{n} sample is too few to fit to and to hold one out: give more, or held-out ones of their own"
        )
    order = torch.randperm(n, generator=generator(seed, 7))
    few = max(1, min(256 if not isinstance(x, Stored) else few_rows(x, 256), n // 10))
    return order[few:].sort().values, order[:few].sort().values


def training_data(
    prior: Denoiser, data: Source, held_out: Source = None, seed: int = 0, source: str = "", **reading: Any
) -> TrainingData:
    """Data and held-out data for `fit_h`, in the prior's own space.

    Args:
        data: see `Source`. The name of a bundled set without a split means its split `fit`, with `validation` held out.
        held_out: in the same form; default: a tenth of the data.
        seed: of which tenth. source: for the card, where the data do not say themselves.
        reading: how files are read: options of the domain's `read`.

    Raises:
        InputError: samples of another shape than the prior's, too few of them, pairs on one side alone, pairs whose
            measurements are far from those of their samples.
    """
    if isinstance(data, tuple) or isinstance(held_out, tuple):
        raise InputError(
            "a tuple (x, y) is pairs of an unknown degradation, fit_h(prior, data=(x, y)) without a task; for a task"
            " give deft.Pairs(x, observation)"
        )
    if isinstance(data, Pairs):
        return _pairs(prior, data, held_out, seed, source)
    if isinstance(held_out, Pairs):
        raise InputError("held-out pairs are for data that are pairs: give samples, as the data are")
    if isinstance(data, (str, Path)) and held_out is None and _bundled(prior, str(data)):
        held_out = f"{str(data).partition(':')[0]}:validation"
    found, name = _found(prior, data, "fit", reading)
    x, notes, _ = _samples(prior, found, "fit", reading, name)
    x_out, more, _ = _samples(prior, held_out, "validation", reading)
    if x is not None and x_out is None:
        rows, rest = hold_out(len(x), seed, x, found.last if isinstance(found, Data) else None)
        x, x_out = subset(x, rows), x[rest]
    if isinstance(x_out, Stored):
        count = few_rows(x_out, 256)
        more.append(f"held out: the first {count} of {len(x_out):,} {title_of(prior)}, as many as are kept in memory")
        x_out = x_out[:count]
    n = 0 if x is None else len(x)
    named = f"{source or name} ({n} {title_of(prior)})" if n else TrainingData.source
    held = None if x_out is None else encoded(prior, x_out)
    return TrainingData(None if x is None else _encoded(prior, x), held, source=named, notes=notes + more)


def _pairs(prior: Denoiser, data: Pairs, held_out: Source, seed: int, source: str) -> TrainingData:
    if held_out is not None and not isinstance(held_out, Pairs):
        raise InputError("data are pairs of samples and measurements: held-out data must be pairs too")
    x, obs = data.x, data.observation
    doubtful = check_pairs(obs, x, source or "the pairs") if obs.likelihood.has_density else None
    if held_out is None:
        rows, rest = hold_out(len(x), seed)
        x, obs, x_out, obs_out = x[rows], obs[rows], x[rest], obs[rest]
    else:
        x_out, obs_out = held_out.x, held_out.observation
    named = f"{source or 'own pairs'} ({len(x)} {title_of(prior)})"
    return TrainingData(
        encoded(prior, x),
        encoded(prior, x_out),
        prior.to_latent(obs),
        prior.to_latent(obs_out),
        named,
        warnings=[doubtful] if doubtful else [],
    )


def _found(prior: Denoiser, data: Source, split: str, reading: dict[str, Any]) -> tuple[Source, str]:
    """(data, what a kind of data read where they are a name, and of which every entry is known; where from)."""
    name = "own samples" if data is not None else ""
    if isinstance(data, (str, Path)):
        domain = domain_of(prior)
        if domain is None:
            raise InputError(
                f"no kind of data is known whose samples have the shape {prior.data_shape}: give a tensor in place of"
                f" {data}"
            )
        name = str(data)
        streamed = {"stream": True} if domain.streams else {}
        data = domain.read(
            f"{name}:{split}" if _bundled(prior, name) and ":" not in name else name,
            prior.data_shape,
            split=split,
            **streamed,
            **reading,
        )
    return (complete(data, name) if isinstance(data, Data) else data), name


def complete(data: Data, name: str = "the data") -> Data:
    """Without the samples of which an entry was never measured: what is measured of a sample, or compared with it, has
    to be known.

    Raises:
        InputError: none is left.
    """
    if data.seen is None:
        return data
    rows, n = data.complete, len(data)
    if len(rows) == n:
        return replace(data, seen=None)
    if not len(rows):
        raise InputError(
            f"{name}: each of {n} samples has entries that were not measured, and what is measured of a sample has to"
            " be known: give data with fewer gaps"
        )
    last, notes = None if data.last is None else torch.isin(rows, data.last).nonzero()[:, 0], list(data.notes)
    notes.append(f"{n - len(rows)} of {n} have entries that were not measured, and are left out here")
    if last is not None and not len(last):  # near in time to what is fitted, but not among it, as at random
        last = torch.arange(len(rows))[-max(1, len(rows) // 10) :]
        notes.append("all that was to be held out has gaps: the last of the others are held out, which may overlap")
    return replace(
        data,
        x=data.x[rows],
        names=[data.names[i] for i in rows.tolist()],
        labels=None if data.labels is None else data.labels[rows],
        notes=notes,
        seen=None,
        last=last,
    )


def _samples(
    prior: Denoiser, data: Source, split: str, reading: dict[str, Any], name: str = ""
) -> tuple[Samples | None, list[str], str]:
    """(samples [N, *data_shape], notes, where from)"""
    if data is None:
        return None, [], ""
    notes: list[str] = []
    data, read = _found(prior, data, split, reading)
    name = name or read
    if isinstance(data, Data):
        notes, data = data.notes, data.x
    if isinstance(data, np.ndarray):
        data = as_tensor(data, "data").float()
    if not isinstance(data, (Tensor, Stored)):
        raise InputError(
            "samples are a tensor or an array [N, *shape], pairs, or the name of a file, folder or bundled set; got"
            f" {type(data).__name__}"
        )
    if tuple(data.shape[1:]) not in (tuple(prior.data_shape), tuple(prior.event_shape)):
        raise InputError(
            f"samples have shape {tuple(data.shape)}, expected (N, {', '.join(map(str, prior.data_shape))}): what this"
            " prior makes"
        )
    if isinstance(data, Tensor):
        _check_values(prior, data, name)
    return data, notes, name


def _check_values(prior: Denoiser, x: Tensor, name: str) -> None:
    """Refuse samples that are none: no row, whole numbers, NaN, or values far outside what the kind of data has."""
    if len(x) == 0:
        raise InputError(f"{name} are 0: give at least one, or None to do without")
    if not x.is_floating_point() or not bool(torch.isfinite(x).all()):
        raise InputError(f"{name} hold {short(x)}: expected finite floating-point numbers in model space")
    domain = domain_of(prior)
    bounds = None if domain is None or tuple(x.shape[1:]) != tuple(prior.data_shape) else domain.bounds
    if bounds is not None:
        low, high = bounds
        least, most = (float(v) for v in torch.aminmax(x))
        if least < low - (high - low) / 2 or most > high + (high - low) / 2:
            raise InputError(
                f"{name} hold values from {least:.4g} to {most:.4g}, and {title_of(prior)} are in [{low:g}, {high:g}]:"
                " bring them there (bytes are x / 127.5 - 1)"
            )


def held_out_samples(prior: Denoiser, data: Source, split: str = "test", **reading: Any) -> Samples:
    """Samples [N, *data_shape] to evaluate on, of which rows are tensors: a tensor, what a domain read, or the name of
    a file, folder or bundled set (its split `test`, or another one)."""
    x, _, _ = _samples(prior, data, split, reading)
    if x is None:
        raise InputError(
            "nothing to evaluate on: give samples [N, *shape], or the name of a file, folder or bundled set"
        )
    return x


def encoded(prior: Denoiser, x: Tensor) -> Tensor:
    """x in the prior's own space; latents stay what they are."""
    return x if tuple(x.shape[1:]) != tuple(prior.data_shape) else prior.encode(x)


def _encoded(prior: Denoiser, x: Samples) -> Samples:
    """The same; stored samples of a prior of latents are encoded at every use."""
    if isinstance(x, Tensor):
        return encoded(prior, x)
    if tuple(prior.event_shape) == tuple(prior.data_shape):
        return x
    return Mapped(x, lambda part: prior.encode(part.to(prior.state_like())), prior.event_shape)


def _bundled(prior: Denoiser, name: str) -> bool:
    domain = domain_of(prior)
    return domain is not None and name.partition(":")[0] in domain.datasets() and not Path(name).exists()


def title_of(prior: Denoiser) -> str:
    """What its samples are, for people: "images"."""
    domain = domain_of(prior)
    return "samples" if domain is None else domain.title
