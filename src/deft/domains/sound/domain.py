"""What sounds bring (see `deft.kinds.domain`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.errors import CheckpointError
from deft.kinds.domain import Data, Domain, Measured, Metric, View

WEIGHTS = Path(__file__).with_name("weights")
SHORTEST = 1024
"""Samples of one channel that make a sound, where no card says what they are."""
LEVEL = 0.1
"""What 1 of model space is in a file, where full scale is 1: -20 dB."""
USUAL_RATE = 8000


@dataclass(frozen=True)
class SoundDomain(Domain):
    """Sounds [1, L].

    rate: samples a second; None: no prior's card says it. level: what 1 of model space, the root mean square of a
    recording, is in a file that is written.
    """

    name: ClassVar[str] = "sound"
    title: ClassVar[str] = "sounds"
    hub_tag: ClassVar[str] = "audio-to-audio"
    rate: int | None = None
    level: float = LEVEL

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        return len(event_shape) == 2 and event_shape[0] == 1 and event_shape[1] >= SHORTEST

    def with_card(self, card: Mapping[str, Any]) -> SoundDomain:
        rate = card.get("rate")
        if rate is None:
            return self
        if not isinstance(rate, int) or isinstance(rate, bool) or rate < 1:
            raise CheckpointError(f"the card of this prior is damaged: rate is {rate!r:.60}, expected samples a second")
        return replace(self, rate=rate)

    @property
    def samples_a_second(self) -> int:
        return self.rate or USUAL_RATE

    def tasks(self) -> Mapping[str, type[Any]]:
        from deft.domains.sound.tasks import TASKS

        return TASKS

    def network(self, event_shape: tuple[int, ...], inputs: int, outputs: int, width: int) -> nn.Module:
        from deft.domains.sound.prior import network

        return network(event_shape, inputs, outputs, width)

    def takes_size(self, fitted: tuple[int, ...], asked: tuple[int, ...]) -> bool:
        return len(fitted) == len(asked) == 2 and fitted[0] == asked[0]

    def new_prior(self, event_shape: tuple[int, ...], schedule: Any, output: str, **options: Any) -> Denoiser:
        """options: widths, blocks and patch of a `UNet`."""
        from deft.domains.sound.prior import new_prior

        return new_prior(event_shape, schedule, output, **options)

    def own_priors(self) -> Mapping[str, type[Any]]:
        from deft.domains.sound.prior import SoundPrior

        return {"UNet": SoundPrior}

    def bundled_priors(self) -> Mapping[str, Path]:
        return {p.stem: p for p in [WEIGHTS / "digits.safetensors"] if p.is_file()}

    def bundled_h(self, prior: str = "") -> Mapping[str, Path]:
        return {p.stem.removeprefix("h-"): p for p in sorted(WEIGHTS.glob("h-*.safetensors"))}

    def rewards(self) -> Mapping[str, tuple[Callable[[], Callable[[Tensor], Tensor]], Sequence[str]]]:
        from deft.domains.sound.classifier import digit_classifier
        from deft.domains.sound.data import DIGITS

        return {"digit-classifier": (digit_classifier, DIGITS)}

    # data in and out

    def datasets(self) -> Sequence[str]:
        from deft.domains.sound.data import DATASETS

        return tuple(DATASETS)

    def read(self, source: str, event_shape: tuple[int, ...] | None = None, **options: Any) -> Data:
        from deft.domains.sound.reading import read

        return read(self.rate, source, event_shape, **options)

    def read_measured(self, path: Path, task: Any, event_shape: tuple[int, ...], **options: Any) -> Measured:
        from deft.domains.sound.measured import read_measured

        found, level = read_measured(self.samples_a_second, path, task, event_shape, **options)
        return found._replace(domain=replace(self, level=level))

    def write(self, folder: Path, name: str, x: Tensor) -> list[Path]:
        from deft.domains.sound.wav import write_wav

        write_wav(folder / f"{name}.wav", self.level * x[0], self.samples_a_second)
        return [folder / f"{name}.wav"]

    def picture(self, x: Tensor, titles: Sequence[str] = (), title: str = "") -> bytes | None:
        from deft.domains.sound.pictures import MOST, sheet

        return sheet(x[:MOST], self.samples_a_second, titles, title)

    def draw_pictures(self, x: Tensor, std: Tensor, obs: Observation | None, title: str) -> Mapping[str, bytes]:
        from deft.domains.sound.pictures import of_draws

        return of_draws(x, obs, self.samples_a_second, title)

    def measurement_picture(self, x: Tensor, obs: Observation, title: str) -> bytes | None:
        from deft.domains.sound.pictures import of_measurement

        return of_measurement(x, obs, self.samples_a_second, title)

    def measured_picture(self, obs: Observation, event_shape: tuple[int, ...]) -> np.ndarray | None:
        from deft.domains.sound.pictures import measured_pictures

        return measured_pictures(obs, event_shape)

    def wall(self, views: Sequence[View], *, title: str = "", rows: Sequence[str] = (), cell: int = 96) -> bytes | None:
        from deft.domains.sound.pictures import wall

        return wall(views, self.samples_a_second, title, rows)

    # how good

    def metrics(self) -> Mapping[str, Metric]:
        from deft.domains.sound.measure import METRICS

        return METRICS

    def measure(self, samples: Tensor, truth: Tensor, obs: Observation, **options: Any) -> dict[str, Tensor]:
        from deft.domains.sound.measure import measure

        return measure(samples, truth, obs, **options)

    def feature_networks(self) -> Mapping[str, str]:
        return {"digit-classifier": "which of ten spoken digits a sound says (8 kHz)"}

    def feature_network_for(
        self, names: Sequence[str], event_shape: tuple[int, ...] | None = None, labelled: bool = True
    ) -> str:
        known = {"digits", "espeak"} & set(names) and event_shape in (None, (1, 4096)) and labelled
        return "digit-classifier" if known else ""

    def feature_network(self, name: str, x: Tensor) -> Any:
        from deft.domains.sound.classifier import digit_classifier

        return digit_classifier() if name == "digit-classifier" else super().feature_network(name, x)

    def classes(self, name: str) -> Sequence[str]:
        from deft.domains.sound.data import DIGITS

        return DIGITS

    def has_data(self, source: str) -> bool:
        return source.partition(":")[0] in self.datasets() or super().has_data(source)

    def split(self, source: str, split: str, event_shape: tuple[int, ...]) -> Data:
        return self.read(f"{source}:{split}" if source in self.datasets() else source, event_shape)
