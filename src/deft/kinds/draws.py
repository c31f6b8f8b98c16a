"""Draws: samples of p(x_0 | y) with all that belongs to them. Every way of drawing returns this, and nothing else."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from operator import index as operator_index
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from deft.arguments import checks_arguments
from deft.errors import ContractError, InputError
from deft.kinds.domain import domain_of_shape, find_domain
from deft.kinds.intervals import IntervalFactors, same_factors

FILES = "deft.io.draws_files"
"""Where draws are written and read. This room lies below that of files, and finds it by its name when somebody saves,
as `deft.kinds.domain` finds kinds of data."""
SHOWN = 7
"""Samples in the picture of a notebook."""
RENAMED = {"effective": "ess_fraction", "step": "step_size"} | {
    k: k for k in ("resampled", "moved", "accepted", "rise", "stuck")
}
"""Fields of the results of 0.1.0 -> fields of `Draws.diagnostics`."""

D = TypeVar("D", bound="Diagnostics")


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """How drawing went. Ways of drawing have subclasses (`deft.samplers.diagnostics`), whose fields are tensors [B,
    ...]."""

    def each(self: D, change: Callable[[Tensor], Tensor]) -> D:
        return type(self)(**{f.name: change(getattr(self, f.name)) for f in fields(self)})

    @classmethod
    def cat(cls: type[D], parts: Sequence[D]) -> D:
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()})"

    def summary(self) -> str:
        """In a few words, over all measurements."""
        return ", ".join(f.name for f in fields(self))


@dataclass(frozen=True, eq=False, repr=False)
class Draws:
    """n samples for each of B measurements. Immutable.

    x: the samples, [B, n, *data], in model space.
    log_weight: log w of each sample, [B, n], or None where all weigh the same. All statistics use the weights.
    log_evidence: estimates of log p(y), [B], or None.
    diagnostics: how drawing went, or None.
    domain: name of the kind of data, for pictures; "" finds it by the shape of a sample.
    factors: what intervals are widened by, of an h whose intervals were checked on data, or None.

    `len(draws)` is B; `draws[i]`, `draws[i:j]` and `for one in draws` are the draws of some measurements, `Draws.cat`
    is the way back. A notebook shows mean and samples of the first measurement, if its kind of data has a picture.

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
    factors: IntervalFactors | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.x, Tensor):
            raise ContractError(f"draws are a tensor [B, n, *data], got {type(self.x).__name__}")
        if self.x.ndim < 2:
            raise ContractError(f"draws have shape {tuple(self.x.shape)}, expected [B, n, *data]")
        for name, want in (("log_weight", self.x.shape[:2]), ("log_evidence", self.x.shape[:1])):
            value = getattr(self, name)
            if value is not None and value.shape != want:
                raise ContractError(f"{name} has shape {tuple(value.shape)}, expected {tuple(want)}")

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
        """Standard deviation of the samples, [B, *data]; 0 for one sample. Its square is without bias for independent
        samples."""
        if self.n < 2:
            return torch.zeros_like(self.x[:, 0])
        if self.log_weight is None:
            return self.x.std(1)
        rows = []
        for x, mean, w in zip(
            self.x, self.mean, self.weights.to(self.x), strict=True
        ):  # one by one: a copy of x is large
            rows.append(torch.einsum("n,n...->...", w, (x - mean).square()) / (1 - w.square().sum()).clamp_min(1e-12))
        return torch.stack(rows).sqrt()

    @property
    def calibrated(self) -> bool:
        """Whether `interval` knows factors for these samples: two or more of each measurement, without weights."""
        return self.factors is not None and self.n > 1 and self.log_weight is None

    @checks_arguments
    def interval(self, level: float = 0.9, *, calibrated: bool = True) -> tuple[Tensor, Tensor]:
        """(low, high), each [B, *data], entry by entry.

        Samples of an h whose intervals were checked on data (`calibrated`; docs/trust.md) have the interval

            mean -+ c t sqrt(s^2 + f^2) sqrt(1 + 1/n),

        which holds the truth at this level on average over entries and measurements like those it was checked on
        (`deft.kinds.intervals.IntervalFactors` explains c, t and f). All others, and calibrated=False, have the central
        interval that holds this share of the samples: of few samples it holds less of the truth than it says, even of
        the exact posterior.

        Without weights the quantiles are interpolated linearly between samples; with weights they are samples: the
        least below or at which there is the given share of the weight.
        """
        if not 0 < level < 1:
            raise InputError(f"the level of an interval is a share between 0 and 1, such as 0.9, got {level}")
        if calibrated and self.calibrated and self.factors is not None:
            half = self.factors.half_width(level, self.n, self.std)
            return self.mean - half, self.mean + half
        rows = [self._quantiles(i, ((1 - level) / 2, (1 + level) / 2)) for i in range(len(self))]
        low, high = zip(*rows, strict=True)
        return torch.stack(low), torch.stack(high)

    def _quantiles(self, i: int, at: Sequence[float]) -> list[Tensor]:
        ordered, order = self.x[i].sort(0)
        if self.log_weight is not None:
            reached = self.weights[i][order].cumsum(0)
            return [ordered.gather(0, (reached < p).sum(0).clamp_max(self.n - 1)[None])[0] for p in at]
        places = [p * (self.n - 1) for p in at]
        return [torch.lerp(ordered[int(p)], ordered[min(int(p) + 1, self.n - 1)], p - int(p)) for p in places]

    # a sequence of measurements

    def __len__(self) -> int:
        return self.x.shape[0]

    def __iter__(self) -> Iterator[Draws]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Draws:
        """Some measurements: by a number (B is then 1), a slice, a list, or a tensor of numbers or truth values."""
        if isinstance(index, tuple) or index is None or index is Ellipsis:
            raise InputError(f"Draws are indexed by measurements alone, got {index!r}: take draws.x for parts of them")
        if not isinstance(index, (slice, list, Tensor)) and not getattr(index, "ndim", 0):
            i = operator_index(index)
            if not -len(self) <= i < len(self):
                raise IndexError(f"measurement {i} of {len(self)}")
            index = slice(i, i + 1 or None)
        return self._each(lambda v: v[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Draws:
        parts: dict[str, Any] = {name: getattr(self, name) for name in ("x", "log_weight", "log_evidence")}
        changed: dict[str, Any] = {name: None if v is None else change(v) for name, v in parts.items()}
        return replace(self, **changed, diagnostics=self.diagnostics and self.diagnostics.each(change))

    def to(self, device: torch.device | str) -> Draws:
        return self._each(lambda v: v.to(device))

    def cpu(self) -> Draws:
        return self.to("cpu")

    @staticmethod
    def cat(parts: Sequence[Draws]) -> Draws:
        """The measurements of several, one after the other."""
        if len({(p.n, p.log_weight is None, p.log_evidence is None, type(p.diagnostics)) for p in parts}) != 1:
            raise InputError(
                "draws can be put together if there are some, with equally many samples of a measurement, and all of "
                "them, or none, with weights, log evidence and diagnostics of one kind"
            )

        def joined(name: str) -> Any:
            values = [getattr(p, name) for p in parts]
            return (
                None if values[0] is None else (torch if isinstance(values[0], Tensor) else type(values[0])).cat(values)
            )

        return Draws(
            joined("x"),
            joined("log_weight"),
            joined("log_evidence"),
            joined("diagnostics"),
            parts[0].domain,
            same_factors([p.factors for p in parts]),
        )

    # files and faces

    @checks_arguments
    def save(self, path: str | Path) -> Path:
        """Write all of it as safetensors with a card, atomically, into a folder or to a file named .safetensors; the
        file."""
        return importlib.import_module(FILES).save_draws(path, self)

    @staticmethod
    def load(path: str | Path) -> Draws:
        """What `save` wrote, on the CPU, from the file or its folder; raises `CheckpointError` if it is not there."""
        return importlib.import_module(FILES).load_draws(path)

    def __repr__(self) -> str:
        text = f"{len(self)} measurement{'s' * (len(self) != 1)} x {self.n} sample{'s' * (self.n != 1)}"
        text += f" of {tuple(self.x.shape[2:])}"
        for name in ("mean", "std") if self.x.numel() else ():
            text += f", {name} {float(getattr(self, name).min()):.3g} to {float(getattr(self, name).max()):.3g}"
        if self.log_weight is not None:
            text += f", {float(self.ess.mean()):.1f} effective"
        if self.log_evidence is not None:
            text += f", log evidence {float(self.log_evidence.mean()):.4g}"
        return f"Draws({text}{'' if self.diagnostics is None else f', {self.diagnostics.summary()}'})"

    def _repr_png_(self) -> bytes | None:
        """For notebooks: mean and samples of the first measurement; None, and so the text alone, where there is no
        picture."""
        try:
            domain = find_domain(self.domain) if self.domain else domain_of_shape(self.x.shape[2:])
        except InputError:  # a kind of data that is not installed here
            return None
        if domain is None or not self.x.numel():
            return None
        titles = ["mean", *(f"sample {i + 1}" for i in range(min(self.n, SHOWN)))]
        return domain.picture(torch.cat([self.mean[:1], self.x[0, :SHOWN]]).cpu(), titles)

    if not TYPE_CHECKING:  # a type checker is to find what there is not

        def __getattr__(self, name: str) -> Any:
            """For names that are not there: what was a tensor, or a field of an older result, says where it is now."""
            new, how = RENAMED.get(name), self.__dict__.get("diagnostics")
            if new is not None and hasattr(how, new):
                warnings.warn(f"Draws.{name} is now Draws.diagnostics.{new}", DeprecationWarning, stacklevel=2)
                return getattr(how, new)
            hint = (
                ": take draws.x, the tensor [B, n, *data]" if not name.startswith("_") and hasattr(Tensor, name) else ""
            )
            raise AttributeError(f"Draws has no attribute {name!r}{hint}")
