"""What a comparison (`deft.bench`) asks of a kind of data beside its metrics: cases, columns of tables and of
pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform


class Column(NamedTuple):
    """A column of a table with a row for each entry: title, and the metrics whose numbers stand in it side by side.

    of: the number that the first one is out of ("3 of 10").
    """

    title: str
    metrics: tuple[str, ...]
    of: str = ""


class View(NamedTuple):
    """A column of a picture, a row for each case. kind: "samples" (x [N, *E]), "spread" (x [N, S, *E]) or "picture" (x
    uint8 [N, H, W, 3])."""

    title: str
    x: Any
    note: str = ""
    kind: str = "samples"


class Cases(ABC):
    """What the entries of a comparison are drawn for and measured on: N cases, each a measurement and what is known of
    its truth.

    problems: the name of each problem; the cases are all problems once, then all again, `repeats` times, and those of
    one problem are not independent. title: of several of them, for people.
    """

    problems: Sequence[str]
    repeats: int = 1
    title: str = "cases"

    def __len__(self) -> int:
        return len(self.problems) * self.repeats

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Everything that decides what is drawn for a case, as JSON, whatever the number of repeats."""

    def about(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """(titles of columns, the cells of each problem): what a table says of a problem beside its name."""
        return (), [()] * len(self.problems)

    def name_of(self, plan: Any) -> str:
        """The name of a plan's method, in names of files."""
        return plan.method.name

    def at_once(self, plan: Any, batch: int) -> int:
        """How many cases are drawn, and then kept, at once."""
        return batch

    @abstractmethod
    def draw(
        self,
        plan: Any,
        prior: Denoiser,
        rows: range,
        samples: int,
        *,
        fitted: HTransform | None = None,
        seed: int = 0,
        batch: int = 64,
        device: torch.device | str = "cpu",
        progress: bool = False,
    ) -> Sequence[Any] | Tensor:
        """The samples of these cases, on the CPU: those of case i depend on the seed and i alone, whatever else is
        drawn."""

    @abstractmethod
    def measure(self, samples: Sequence[Any]) -> dict[str, np.ndarray]:
        """Metric -> [N], from the samples of all cases."""
