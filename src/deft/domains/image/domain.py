"""What images bring (see `deft.core.domain`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from deft.core.domain import Data, Domain, Metric, Task, View
from deft.core.likelihood import Observation


class ImageDomain(Domain):
    """Images [C, H, W] in [-1, 1]."""

    name: ClassVar[str] = "image"
    title: ClassVar[str] = "images"

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        return len(event_shape) == 3

    def tasks(self) -> Mapping[str, type[Any]]:
        from deft.domains.image.tasks import TASKS

        return TASKS

    def make_task(self, config: Mapping[str, Any]) -> Task:
        from deft.domains.image.tasks import make_task

        return make_task(dict(config))

    def datasets(self) -> Sequence[str]:
        from deft.domains.image.data import DATASETS

        return tuple(DATASETS)

    # how good

    def metrics(self) -> Mapping[str, Metric]:
        from deft.domains.image.measure import METRICS

        return METRICS

    def measure(self, samples: Tensor, truth: Tensor, obs: Observation, **options: Any) -> dict[str, Tensor]:
        from deft.domains.image.measure import measure

        return measure(samples, truth, obs, **options)

    # comparisons

    def studies(self) -> Mapping[str, Path]:
        return {path.stem: path for path in sorted(Path(__file__).with_name("studies").glob("*.toml"))}

    def feature_networks(self) -> Mapping[str, str]:
        from deft.domains.image.networks import FEATURES

        return {name: source.about for name, source in FEATURES.items()}

    def feature_network_for(self, names: Sequence[str], event_shape: tuple[int, ...] | None = None, labelled: bool = True) -> str:
        from deft.domains.image.networks import features_for

        return features_for(*names, event_shape=event_shape, labelled=labelled)

    def feature_network(self, name: str, x: Tensor) -> Any:
        from deft.domains.image.measure import feature_network

        return feature_network(name, x)

    def classes(self, name: str) -> Sequence[str]:
        from deft.domains.image.data import DATASETS

        return DATASETS[name].labels

    def has_data(self, source: str) -> bool:
        from deft.domains.image.files import source_exists

        return source_exists(source)

    def data_version(self, name: str) -> int:
        from deft.domains.image.data import DATASETS

        return DATASETS[name].version

    def split(self, source: str, split: str, event_shape: tuple[int, ...]) -> Data:
        from deft.domains.image.measure import split_of

        return split_of(source, split, event_shape)

    def measured_picture(self, obs: Observation, event_shape: tuple[int, ...]) -> np.ndarray | None:
        from deft.domains.image.sheet import picture_of

        return picture_of(obs, event_shape)

    def wall(self, views: Sequence[View], *, title: str = "", rows: Sequence[str] = (), cell: int = 96) -> bytes | None:
        from deft.domains.image.sheet import wall

        return wall(views, title=title, rows=rows, cell=cell)
