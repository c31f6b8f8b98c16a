"""What series bring (see `deft.kinds.domain`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.domains.series.clock import ROWS, Clock
from deft.domains.series.units import Units
from deft.kinds.domain import Data, Domain, Family, Measured, Metric, View
from deft.kinds.draws import Draws

WEIGHTS = Path(__file__).with_name("weights")


@dataclass(frozen=True, repr=False)
class SeriesDomain(Domain):
    """Series [C, L]: C variables at L times, each with mean 0 and deviation 1 over the training data.

    units, clock: what a prior's card and a measured file say; None where nobody said.
    """

    units: Units | None = None
    clock: Clock = ROWS

    name: ClassVar[str] = "series"
    title: ClassVar[str] = "series"
    common: ClassVar[bool] = True
    own_units: ClassVar[bool] = True

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        return len(event_shape) == 2

    def with_card(self, card: Mapping[str, Any]) -> SeriesDomain:
        units = Units.of_card(card)
        if units is None:
            return self
        return replace(self, units=units, clock=Clock(units.time if units.time != "date" else "number", 0.0, 1.0))

    def card(self) -> Mapping[str, Any]:
        return {} if self.units is None else {"domain": self.name, **self.units.card()}

    def units_for(self, shape: Sequence[int]) -> Units:
        """The units of samples [C, L]: model space itself, where nobody said."""
        return self.units if self.units is not None and len(self.units) == shape[0] else Units.plain(shape[0])

    def tasks(self) -> Mapping[str, type[Any]]:
        from deft.domains.series.tasks import TASKS

        return TASKS

    def network(self, event_shape: tuple[int, ...], inputs: int, outputs: int, width: int) -> nn.Module:
        from deft.domains.series.prior import network

        return network(event_shape, inputs, outputs, width)

    def takes_size(self, fitted: tuple[int, ...], asked: tuple[int, ...]) -> bool:
        return len(fitted) == len(asked) == 2 and fitted[0] == asked[0]

    def new_prior(self, event_shape: tuple[int, ...], schedule: Any, output: str, **options: Any) -> Denoiser:
        """options: widths, blocks and patch of a `UNet`."""
        from deft.domains.series.prior import new_prior

        return new_prior(event_shape, schedule, output, **options)

    def own_priors(self) -> Mapping[str, type[Any]]:
        from deft.domains.series.prior import SeriesPrior

        return {"UNet": SeriesPrior}

    def bundled_priors(self) -> Mapping[str, Path]:
        return {p.stem: p for p in sorted(WEIGHTS.glob("*.safetensors")) if not p.stem.startswith("h-")}

    def families(self) -> Mapping[str, Family]:
        from deft.domains.series.families import families

        return families()

    def bundled_h(self, prior: str = "") -> Mapping[str, Path]:
        return {p.stem.removeprefix("h-"): p for p in sorted(WEIGHTS.glob("h-*.safetensors"))}

    # data in and out

    def read(self, source: str, event_shape: tuple[int, ...] | None = None, **options: Any) -> Data:
        """Windows of a CSV, an .npz, a .ts file or a folder of CSVs. options: see `read_named`."""
        from deft.domains.series.reading import read_named

        units = self.units if event_shape is None or self.units is None else self.units_for(event_shape)
        return read_named(source, event_shape, units, **options)

    def read_measured(self, path: Path, task: Any, event_shape: tuple[int, ...], **options: Any) -> Measured:
        """options: start and columns, as `deft.domains.series.measured.read_measured` has them."""
        from deft.domains.series.measured import read_measured

        found, clock = read_measured(path, task, event_shape, self.units_for(event_shape), **options)
        return found._replace(domain=replace(self, clock=clock))

    def write(self, folder: Path, name: str, x: Tensor) -> list[Path]:
        from deft.domains.series.writing import write

        return write(self.units_for(x.shape), self.clock, folder, name, x)

    def write_mean(self, folder: Path, draws: Draws) -> list[Path]:
        from deft.domains.series.writing import write_mean

        return write_mean(self.units_for(draws.x.shape[2:]), self.clock, folder, draws)

    def write_draws(self, folder: Path, draws: Draws) -> list[Path]:
        from deft.domains.series.writing import write_draws

        return write_draws(self.units_for(draws.x.shape[2:]), self.clock, folder, draws)

    def picture(self, x: Tensor, titles: Sequence[str] = (), title: str = "") -> bytes | None:
        from deft.domains.series.pictures import SHOWN, curves

        units = self.units_for(x.shape[1:])
        return curves(
            units.columns, units.to_units(x[:SHOWN]).numpy(), self.clock.texts(x.shape[-1]), title, self._across(units)
        )

    def draw_pictures(self, x: Tensor, std: Tensor, obs: Observation | None, title: str) -> Mapping[str, bytes]:
        from deft.domains.series.pictures import fan
        from deft.domains.series.writing import QUANTILES

        units, length = self.units_for(x.shape[1:]), x.shape[-1]
        at = torch.tensor(QUANTILES, dtype=x.dtype)
        bands = units.to_units(torch.quantile(x, at, dim=0)).numpy()
        dots = None if obs is None else self._dots(obs, tuple(x.shape[1:]))
        chart = fan(units.columns, bands, dots, self.clock.texts(length), title, len(x), self._across(units))
        return {"sheet.png": chart}

    def measurement_picture(self, x: Tensor, obs: Observation, title: str) -> bytes | None:
        from deft.domains.series.pictures import SHOWN, Panel, chart

        units, dots = self.units_for(x.shape[1:]), self._dots(obs, tuple(x.shape[1:]))
        truth = units.to_units(x[0]).numpy()
        known = "; dots: measured" if dots is not None else "; what was measured of it is no value of it"
        panels = [
            Panel(name, lines=[truth[i]], dots=None if dots is None else dots[i])
            for i, name in enumerate(units.columns[:SHOWN])
        ]
        return chart(
            panels, self.clock.texts(x.shape[-1]), title, f"line: the first series{known}{self._across(units)}"
        )

    def wall(self, views: Sequence[View], *, title: str = "", rows: Sequence[str] = (), cell: int = 96) -> bytes | None:
        from deft.domains.series.pictures import Row, wall

        lines = [v for v in views if v.kind == "samples"]
        band = next((v for v in views if v.kind == "spread"), None)
        if not lines:
            return None
        units = self.units_for(lines[0].x.shape[1:])
        cases = [
            Row(
                rows[i] if i < len(rows) else f"case {i + 1}",
                [(v.title, units.to_units(v.x[i])[0].numpy()) for v in lines],
                None if band is None else self._band(units, band.x[i]),
            )
            for i in range(len(lines[0].x))
        ]
        times, of = self.clock.texts(lines[0].x.shape[-1]), "" if band is None else band.note
        return wall(units.columns[0], cases, times, title, of, self._across(units))

    def _across(self, units: Units) -> str:
        """What the axis of time is, where it has no dates."""
        if self.clock.kind == "date" or units.time != "date":
            return ""
        return f"; across: steps of {Clock('date', 0.0, units.step).step_text()}"

    @staticmethod
    def _band(units: Units, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        low, high = torch.quantile(x.float(), torch.tensor([0.05, 0.95]), dim=0)
        return units.to_units(low)[0].numpy(), units.to_units(high)[0].numpy()

    def _dots(self, obs: Observation, shape: tuple[int, ...]) -> np.ndarray | None:
        """What was measured of the first sample, [C, L] in its own units, NaN where nothing was; None where what was
        measured is no entry."""
        if tuple(obs.y.shape[1:]) != shape:
            return None
        hidden = obs.hidden((len(obs), *shape))
        values = self.units_for(shape).to_units(obs.y[0]).numpy()
        return (
            values
            if hidden is None
            else np.where(hidden.expand(len(obs), *shape)[0].cpu().numpy() > 0.5, np.nan, values)
        )

    # how good

    def metrics(self) -> Mapping[str, Metric]:
        from deft.domains.series.metrics import METRICS

        return METRICS

    def measure(self, samples: Tensor, truth: Tensor, obs: Observation, **options: Any) -> dict[str, Tensor]:
        from deft.domains.series.metrics import measure

        return measure(samples, truth, obs)
