"""Draws: samples of p(x_0 | y) with all that belongs to them. Every way of drawing returns this, and nothing else."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from operator import index as operator_index
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from deft.core.domain import Domain, domain_of_shape, find_domain
from deft.errors import ContractError, InputError

STUCK = 0.01
"""A chain of lower mean acceptance has not moved."""
SHOWN = 7
"""Samples in the picture of a notebook."""
RENAMED = {
    "effective": "ess_fraction",
    "resampled": "resampled",
    "moved": "moved",
    "accepted": "accepted",
    "step": "step_size",
    "rise": "rise",
    "stuck": "stuck",
}
"""Fields of the results of 0.1.0 -> fields of `Draws.diagnostics`."""


def ess_fraction(log_w: Tensor) -> Tensor:
    """(sum w)^2 / (K sum w^2) of log-weights [B, K], [B] (Kong 1992): 1 for equal weights, 1/K if one sample has them
    all."""
    return torch.exp(2 * torch.logsumexp(log_w, 1) - torch.logsumexp(2 * log_w, 1)) / log_w.shape[1]


def log_mean(log_w: Tensor) -> Tensor:
    """log of the mean weight of each row, [B, K] -> [B]."""
    return torch.logsumexp(log_w, 1) - math.log(log_w.shape[1])


D = TypeVar("D", bound="Diagnostics")


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """How drawing went. Each way of drawing that has something to say has a subclass, whose fields are tensors [B,
    ...]."""

    def __getitem__(self: D, index: Any) -> D:
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self: D, device: torch.device | str) -> D:
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @classmethod
    def cat(cls: type[D], parts: Sequence[D]) -> D:
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    def summary(self) -> str:
        """In a few words, over all measurements."""
        return ", ".join(f.name for f in fields(self))


@dataclass(frozen=True, eq=False, repr=False)
class ParticleDiagnostics(Diagnostics):
    """Of weighted particles (`sample_smc`).

    ess_fraction: (sum w)^2 / (K sum w^2) at each level and at the end, before it resamples, [B, N + 1] (Kong 1992); 1
    for equal weights.
    resampled: how often, [B].
    moved: distance of the weighted from the plain mean of the final particles, in their own standard deviations (root
        mean squares over the sample's entries), [B]: 0 if the weights change nothing since the last resampling.
    """

    ess_fraction: Tensor
    resampled: Tensor
    moved: Tensor

    def summary(self) -> str:
        return (
            f"{100 * float(self.ess_fraction[:, -1].mean()):.0f} % of the particles effective, resampled "
            f"{float(self.resampled.double().mean()):.1f} times"
        )


@dataclass(frozen=True, eq=False, repr=False)
class ChainDiagnostics(Diagnostics):
    """Of Markov chains (`sample_hmc`).

    accepted: mean probability of acceptance after burn-in, of each chain, [B, chains]; one with hardly any is stuck,
    and its x no sample.
    step_size: angle of a leapfrog, [B].
    log_weight: log w after each iteration, burn-in included, [B, chains, iterations]; it rises while a chain finds the
        posterior, and must have stopped, for all chains alike (which does not tell that all modes were found).
    """

    accepted: Tensor
    step_size: Tensor
    log_weight: Tensor

    @property
    def rise(self) -> Tensor:
        """Mean log w of the last quarter of the iterations less that of the quarter before, [B, chains]: above what it
        wanders by, a chain has not arrived."""
        n = max(1, self.log_weight.shape[-1] // 4)
        return self.log_weight[..., -n:].mean(-1) - self.log_weight[..., -2 * n : -n].mean(-1)

    @property
    def stuck(self) -> Tensor:
        """Which chains have hardly moved, [B, chains]."""
        return self.accepted < STUCK

    def summary(self) -> str:
        return f"{100 * float(self.accepted.mean()):.0f} % of the moves accepted, {int(self.stuck.sum())} chains stuck"


@dataclass(frozen=True, eq=False, repr=False)
class PathDiagnostics(Diagnostics):
    """Of weighted paths (`sample_paths`).

    log_weight_variance: Var(log w) over the paths of each measurement, [B]: 0 for the exact h in small steps.
    ess_fraction: (sum w)^2 / (n sum w^2), [B].
    """

    log_weight_variance: Tensor
    ess_fraction: Tensor

    def summary(self) -> str:
        return (
            f"Var(log w) {float(self.log_weight_variance.mean()):.3g}, {100 * float(self.ess_fraction.mean()):.0f} "
            "% of the paths effective"
        )


FILES = "deft.io.draws_files"
"""Where draws are written and read. This room lies below that of files, and finds it by its name when somebody saves, as
`deft.core.domain` finds kinds of data."""


@dataclass(frozen=True, eq=False, repr=False)
class Draws:
    """n samples for each of B measurements. Immutable.

    x: the samples, [B, n, *data], in model space.
    log_weight: log w of each sample, [B, n], or None where all weigh the same. `mean`, `std`, `interval` and `ess` use
    the weights.
    log_evidence: estimates of log p(y), [B], or None.
    diagnostics: how drawing went (`ParticleDiagnostics`, `ChainDiagnostics`, `PathDiagnostics`), or None.
    domain: name of the kind of data, for pictures; "" finds it by the shape of a sample.

    `len(draws)` is B; `draws[i]`, `draws[i:j]` and `for one in draws` are the draws of some measurements, `Draws.cat`
    is the way back. A notebook shows the mean and some samples of the first measurement, if its kind of data has a
    picture.

    >>> draws = Draws(torch.tensor([[[0.0], [1.0], [5.0]]]))
    >>> draws.mean, draws.interval(0.5)
    (tensor([[2.]]), (tensor([[0.5000]]), tensor([[3.]])))
    >>> Draws(draws.x, log_weight=torch.tensor([[0.0, 0.0, -100.0]])).mean
    tensor([[0.5000]])
    """

    x: Tensor
    log_weight: Tensor | None = None
    log_evidence: Tensor | None = None
    diagnostics: Diagnostics | None = None
    domain: str = ""

    def __post_init__(self) -> None:
        if self.x.ndim < 2:
            raise ContractError(f"draws have shape {tuple(self.x.shape)}, expected [B, n, *data]")
        for name, want in (("log_weight", self.x.shape[:2]), ("log_evidence", self.x.shape[:1])):
            value = getattr(self, name)
            if value is not None and value.shape != want:
                raise ContractError(
                    f"{name} has shape {tuple(value.shape)}, expected {tuple(want)} for x of shape "
                    f"{tuple(self.x.shape)}"
                )

    @property
    def n(self) -> int:
        """Samples of each measurement."""
        return self.x.shape[1]

    @cached_property
    def weights(self) -> Tensor:
        """Weights that sum to 1 for each measurement, [B, n], float64."""
        if self.log_weight is None:
            return torch.full(self.x.shape[:2], 1 / self.n, dtype=torch.float64, device=self.x.device)
        return torch.softmax(self.log_weight.double(), 1)

    @property
    def ess(self) -> Tensor:
        """Effective number of samples, (sum w)^2 / sum w^2 (Kong 1992), [B]."""
        return 1 / self.weights.square().sum(1)

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the samples, [B, *data]."""
        if self.log_weight is None:
            return self.x.mean(1)
        return torch.einsum("bn,bn...->b...", self.weights.to(self.x), self.x)

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation of the samples, [B, *data]; zero for one sample. Its square is without bias for
        independent samples, weighted or not."""
        if self.n < 2:
            return torch.zeros_like(self.x[:, 0])
        if self.log_weight is None:
            return self.x.std(1)
        rows = []
        for x, mean, w in zip(
            self.x, self.mean, self.weights.to(self.x), strict=True
        ):  # one at a time: a copy of all of x may not fit
            rows.append(torch.einsum("n,n...->...", w, (x - mean).square()) / (1 - w.square().sum()).clamp_min(1e-12))
        return torch.stack(rows).sqrt()

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """(low, high), each [B, *data]: the central interval that holds this share of the samples, entry by entry.

        Without weights the quantiles are interpolated linearly between samples; with weights they are samples: the
        first that the given share of the weight does not exceed.

        Raises:
            InputError: level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise InputError(f"the level of an interval is a share between 0 and 1, such as 0.9, got {level}")
        ends = ((1 - level) / 2, (1 + level) / 2)
        rows = [self._quantiles(i, ends) for i in range(len(self))]  # one at a time: sorting takes a copy
        low, high = zip(*rows, strict=True)
        return torch.stack(low), torch.stack(high)

    def _quantiles(self, i: int, at: Sequence[float]) -> list[Tensor]:
        ordered, order = self.x[i].sort(0)
        if self.log_weight is None:
            found = []
            for p in at:
                place = p * (self.n - 1)
                below = min(int(place), max(self.n - 2, 0))
                found.append(torch.lerp(ordered[below], ordered[min(below + 1, self.n - 1)], place - below))
            return found
        reached = self.weights[i][order].cumsum(0)
        which = [(reached < p).sum(0).clamp_max(self.n - 1) for p in at]
        return [ordered.gather(0, k[None])[0] for k in which]

    def __len__(self) -> int:
        return self.x.shape[0]

    def __iter__(self) -> Iterator[Draws]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Draws:
        """The draws of some measurements: by a number (B is then 1), a slice, a list, or a tensor of numbers or truth
        values."""
        if isinstance(index, tuple) or index is None or index is Ellipsis:
            raise InputError(
                f"Draws are indexed by measurements alone, got {index!r}: take draws.x for parts of the samples"
            )
        if not isinstance(index, (slice, list, Tensor)) and not (hasattr(index, "ndim") and index.ndim):
            i = operator_index(index)
            if not -len(self) <= i < len(self):
                raise IndexError(f"measurement {i} of {len(self)}")
            index = slice(i, i + 1 or None)
        return self._each(lambda v: v[index])

    def to(self, device: torch.device | str) -> Draws:
        return self._each(lambda v: v.to(device))

    def _each(self, change: Callable[[Any], Any]) -> Draws:
        parts = {name: getattr(self, name) for name in ("x", "log_weight", "log_evidence", "diagnostics")}
        changed: dict[str, Any] = {name: change(v) for name, v in parts.items() if v is not None}
        return replace(self, **changed)

    def cpu(self) -> Draws:
        return self.to("cpu")

    @staticmethod
    def cat(parts: Sequence[Draws]) -> Draws:
        """The measurements of several, one after the other."""
        if not parts:
            raise InputError("nothing to put together: give at least one Draws")
        if len({(p.n, p.log_weight is None, p.log_evidence is None, type(p.diagnostics)) for p in parts}) > 1:
            raise InputError(
                "draws can be put together if they have equally many samples of a measurement, and all have "
                "weights, evidence and diagnostics or none has"
            )
        one = parts[0]
        return Draws(
            torch.cat([p.x for p in parts]),
            None if one.log_weight is None else torch.cat([p.log_weight for p in parts if p.log_weight is not None]),
            None
            if one.log_evidence is None
            else torch.cat([p.log_evidence for p in parts if p.log_evidence is not None]),
            None
            if one.diagnostics is None
            else type(one.diagnostics).cat([p.diagnostics for p in parts if p.diagnostics is not None]),
            one.domain,
        )

    # files and faces

    def save(self, path: str | Path) -> Path:
        """Write all of it as safetensors with a card, atomically: to a file named .safetensors, or as draws.safetensors
        into a folder.

        Returns the file. `Draws.load` reads it.
        """
        return importlib.import_module(FILES).save_draws(path, self)

    @staticmethod
    def load(path: str | Path) -> Draws:
        """What `save` wrote, from the file or its folder, on the CPU.

        Raises:
            CheckpointError: no such file, or not one of draws.
        """
        return importlib.import_module(FILES).load_draws(path)

    def __repr__(self) -> str:
        data = tuple(self.x.shape[2:])
        text = f"{len(self)} measurement{'s' * (len(self) != 1)} x {self.n} sample{'s' * (self.n != 1)} of {data}"
        if self.x.numel():
            text += (
                f", mean {float(self.mean.min()):.3g} to {float(self.mean.max()):.3g}, std "
                f"{float(self.std.min()):.3g} to {float(self.std.max()):.3g}"
            )
        if self.log_weight is not None:
            text += f", {float(self.ess.mean()):.1f} effective"
        if self.log_evidence is not None:
            text += f", log evidence {float(self.log_evidence.mean()):.4g}"
        if self.diagnostics is not None:
            text += f", {self.diagnostics.summary()}"
        return f"Draws({text})"

    def kind_of_data(self) -> Domain | None:
        """The domain that these are samples of; None if nobody knows it."""
        return find_domain(self.domain) if self.domain else domain_of_shape(self.x.shape[2:])

    def _repr_png_(self) -> bytes | None:
        """For notebooks: mean and samples of the first measurement; None, and so the text alone, where there is no
        picture."""
        try:
            domain = self.kind_of_data()
        except InputError:
            return None
        if domain is None or not self.x.numel():
            return None
        some = self.x[0, :SHOWN]
        return domain.picture(
            torch.cat([self.mean[:1], some]).cpu(), ["mean", *(f"sample {i + 1}" for i in range(len(some)))]
        )

    if not TYPE_CHECKING:  # a type checker is to find what there is not

        def __getattr__(self, name: str) -> Any:
            """Only for names that there are not: what was a tensor, or a field of an older result, says where it is
            now."""
            if name in RENAMED:
                diagnostics = self.__dict__.get("diagnostics")
                if hasattr(diagnostics, RENAMED[name]):
                    warnings.warn(
                        f"Draws.{name} is now Draws.diagnostics.{RENAMED[name]}", DeprecationWarning, stacklevel=2
                    )
                    return getattr(diagnostics, RENAMED[name])
            if not name.startswith("_") and hasattr(Tensor, name):
                raise AttributeError(
                    f"Draws has no attribute {name!r}: it holds samples with their weights and diagnostics. Take "
                    "draws.x, the tensor [B, n, *data]"
                )
            raise AttributeError(f"Draws has no attribute {name!r}")
