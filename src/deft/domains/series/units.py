"""What a sample's numbers mean: the name, mean, deviation and transform of each variable, and the step of time.

Model space is z = (f(v) - mean) / std of each variable, where f is the identity or log1p. Readers, writers, pictures
and metrics convert; everything else sees z alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deft.domains.series.clock import Clock
from deft.errors import CheckpointError, InputError
from deft.io.cards import is_number
from deft.io.text import some
from deft.values import printable

TRANSFORMS = ("", "log1p")
SKEWED = 1.0
"""Variables that are never below 0 and more skewed than this are seen as log1p(v), if that is less skewed
(`transform=auto`)."""
FLAT = 1e-6
"""Deviation, as a share of the largest value, below which a variable is constant."""


@dataclass(frozen=True)
class Units:
    """One entry for each of C variables; step: of time, see `Clock`."""

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    transform: tuple[str, ...]
    step: float = 1.0
    time: str = "row"

    @classmethod
    def plain(cls, count: int) -> Units:
        """Those of C variables of which nobody says more: model space itself."""
        names = tuple(f"x{i + 1}" for i in range(count))
        return cls(names, (0.0,) * count, (1.0,) * count, ("",) * count)

    @classmethod
    def found(cls, columns: Sequence[str], values: np.ndarray, transform: str, clock: Clock) -> Units:
        """Of values [..., C, L], NaN where nobody measured. transform: "none", "log1p", or "auto": see `SKEWED`.

        Raises:
            InputError: a variable without a value, a constant one, or log1p of one that is -1 or less.
        """
        if transform not in ("auto", "none", "log1p"):
            raise InputError(f"transform is auto, none or log1p, got {transform!r}")
        mean, std, chosen = [], [], []
        for i, name in enumerate(columns):
            v = values[..., i, :].astype(np.float64).ravel()
            v = v[np.isfinite(v)]
            if not len(v):
                raise InputError(f"the variable {name} has no value at all: leave it out (--data-option columns=...)")
            if transform == "log1p" and v.min() <= -1:
                raise InputError(f"transform=log1p: {name} has the value {v.min():g}, and the logarithm needs above -1")
            log = transform == "log1p" or (
                transform == "auto" and v.min() >= 0 and _skew(v) > SKEWED and abs(_skew(np.log1p(v))) < _skew(v)
            )
            v = np.log1p(v) if log else v
            if v.std() <= FLAT * max(np.abs(v).max(), 1e-30):
                raise InputError(
                    f"the variable {name} is constant ({v[0]:g}): there is nothing to learn, leave it out"
                    " (--data-option columns=...)"
                )
            mean.append(float(v.mean()))
            std.append(float(v.std()))
            chosen.append("log1p" if log else "")
        return cls(tuple(columns), tuple(mean), tuple(std), tuple(chosen), clock.step, clock.kind)

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Units | None:
        """What a prior's card says; None if it says nothing.

        Raises:
            CheckpointError: it cannot be right.
        """
        columns = card.get("columns")
        if columns is None:
            return None
        mean, std, transform = (_listed(card.get(k), columns) for k in ("mean", "std", "transform"))
        step = card.get("step", 1.0)
        right = (
            isinstance(columns, list)
            and len(mean) == len(std) == len(transform) == len(columns)
            and all(isinstance(c, str) and printable(c) for c in columns)
            and all(is_number(v) for v in [*mean, *std, step])
            and all(v > 0 for v in [*std, step])
            and all(v in TRANSFORMS for v in transform)
        )
        if not right:
            raise CheckpointError(
                "the card of this prior is damaged: columns, mean, std and transform are lists of one entry for each"
                " variable, and step is a number above 0"
            )
        return cls(tuple(columns), tuple(mean), tuple(std), tuple(transform), float(step), str(card.get("time", "row")))

    def card(self) -> dict[str, Any]:
        """As a card has it."""
        return {
            "columns": list(self.columns), "mean": list(self.mean), "std": list(self.std),
            "transform": list(self.transform), "step": self.step, "time": self.time,
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.columns)

    def _shaped(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)[:, None]

    def to_model(self, values: np.ndarray | Tensor) -> Tensor:
        """z [..., C, L] in float32 of values in their own units; NaN stays NaN."""
        v = torch.as_tensor(values).double()
        log = self._logs
        if log.any():
            v = torch.where(log, v.clamp_min(-1 + 1e-9).log1p(), v)
        return ((v - self._shaped(self.mean)) / self._shaped(self.std)).float()

    def to_units(self, z: Tensor) -> Tensor:
        """Values [..., C, L] in float64. What is seen as log1p(v) is never below 0: what the prior has there is
        written as 0."""
        v = z.detach().cpu().double() * self._shaped(self.std) + self._shaped(self.mean)
        log = self._logs
        return torch.where(log, v.expm1().clamp_min(0), v) if log.any() else v

    @property
    def _logs(self) -> Tensor:
        return torch.tensor([t == "log1p" for t in self.transform])[:, None]

    def pick(self, columns: Sequence[str], where: str, *, all_of: bool) -> list[int | None]:
        """For each variable its place among these columns, by name, whatever their order; None for one that is not
        there (all_of=False).

        Raises:
            InputError: a column that the prior does not know, or one that is missing.
        """
        unknown = [c for c in columns if c not in self.columns]
        missing = [c for c in self.columns if c not in columns]
        nameless = _unnamed(columns) or _unnamed(self.columns)  # one side never had names: the order counts
        if unknown and len(columns) == len(self) and len(missing) == len(self) and nameless:
            return list(range(len(self)))
        if unknown:
            raise InputError(
                f"{where} has the column{'s' * (len(unknown) > 1)} {some(unknown)}, and the prior knows"
                f" {some(self.columns, 40)}: rename {'them' if len(unknown) > 1 else 'it'}, or take the others alone,"
                " --data-option columns=A,B"
            )
        if missing and (all_of or len(missing) == len(self)):
            raise InputError(
                f"{where} lacks the column{'s' * (len(missing) > 1)} {some(missing)}: the prior makes"
                f" {len(self)} variables, {some(self.columns, 40)}"
            )
        return [columns.index(c) if c in columns else None for c in self.columns]


def _listed(value: Any, columns: Any) -> list[Any]:
    return value if isinstance(value, list) and isinstance(columns, list) else []


def _unnamed(columns: Sequence[str]) -> bool:
    """Whether nobody gave them names."""
    return list(columns) == [f"x{i + 1}" for i in range(len(columns))]


def _skew(v: np.ndarray) -> float:
    d = v - v.mean()
    spread = float(np.sqrt(np.mean(d**2)))
    return float(np.mean(d**3)) / spread**3 if spread > 0 else 0.0
