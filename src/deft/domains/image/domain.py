"""What images bring (see `deft.kinds.domain`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.kinds.domain import Data, Domain, Measured, Metric, UnknownPairs, View

WEIGHTS = Path(__file__).with_name("weights")
PRIORS = ("fashion", "ct", "satellite")


class ImageDomain(Domain):
    """Images [C, H, W] in [-1, 1]."""

    name: ClassVar[str] = "image"
    title: ClassVar[str] = "images"
    bounds: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)
    hub_tag: ClassVar[str] = "image-to-image"
    streams: ClassVar[bool] = True

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        return len(event_shape) == 3

    def tasks(self) -> Mapping[str, type[Any]]:
        from deft.domains.image.tasks import TASKS

        return TASKS

    def network(self, event_shape: tuple[int, ...], inputs: int, outputs: int, width: int) -> nn.Module:
        from deft.nn import UNet

        return UNet(inputs, outputs, (width, 3 * width // 2, 9 * width // 4), patch=2, time_dim=64)

    def takes_size(self, fitted: tuple[int, ...], asked: tuple[int, ...]) -> bool:
        return len(fitted) == len(asked) == 3 and fitted[0] == asked[0]

    def new_prior(self, event_shape: tuple[int, ...], schedule: Any, output: str, **options: Any) -> Denoiser:
        """options: widths, blocks and patch of a `UNet`."""
        from deft.domains.image.prior import new_prior

        return new_prior(event_shape, schedule, output, **options)

    def own_priors(self) -> Mapping[str, type[Any]]:
        from deft.domains.image.prior import ImagePrior

        return {"UNet": ImagePrior}

    def bundled_priors(self) -> Mapping[str, Path]:
        return {name: WEIGHTS / f"{name}.safetensors" for name in PRIORS}

    def bundled_h(self, prior: str = "") -> Mapping[str, Path]:
        found = {p.stem.removeprefix("h-"): p for p in sorted(WEIGHTS.glob("h-*.safetensors"))}
        return found | {
            task.removesuffix(f"-{prior}"): p for task, p in found.items() if prior and task.endswith(f"-{prior}")
        }

    def rewards(self) -> Mapping[str, tuple[Callable[[], Callable[[Tensor], Tensor]], Sequence[str]]]:
        from deft.domains.image.classifier import fashion_classifier
        from deft.domains.image.data import FASHION_LABELS

        return {"fashion-classifier": (fashion_classifier, FASHION_LABELS)}

    # data in and out

    def datasets(self) -> Sequence[str]:
        from deft.domains.image.data import DATASETS

        return tuple(DATASETS)

    def read(self, source: str, event_shape: tuple[int, ...] | None = None, **options: Any) -> Data:
        from deft.domains.image.loading import read

        return read(source, event_shape, **options)

    def read_measured(self, path: Path, task: Any, event_shape: tuple[int, ...], **options: Any) -> Measured:
        from deft.domains.image.reading import read_measured

        return read_measured(path, task, event_shape, **options)

    def pairs(
        self, arrays: dict[str, Any], where: str, task: Any, event_shape: tuple[int, ...], **options: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        from deft.domains.image.loading import pairs

        return pairs(arrays, where, task, event_shape, **options)

    def unknown_pairs(
        self, arrays: dict[str, Any], where: str, event_shape: tuple[int, ...], **options: Any
    ) -> UnknownPairs:
        from deft.domains.image.paired import from_arrays

        return from_arrays(arrays, where, event_shape, **options)

    def paired_folders(self, clean: Path, degraded: Path, event_shape: tuple[int, ...], **options: Any) -> UnknownPairs:
        from deft.domains.image.paired import from_folders

        return from_folders(clean, degraded, event_shape, **options)

    def converters(self) -> Mapping[str, Callable[..., Any]]:
        from deft.domains.image import conventions as c

        return {
            "fastmri": c.from_kspace,
            "sigpy": c.from_kspace,
            "skimage": c.from_skimage,
            "odl": c.from_odl,
            "lodopab": c.from_lodopab,
            "rays": c.from_nan,
        }

    def write(self, folder: Path, name: str, x: Tensor) -> list[Path]:
        from deft.domains.image.writing import save_picture

        save_picture(folder / f"{name}.png", x)
        return [folder / f"{name}.png"]

    def picture(self, x: Tensor, titles: Sequence[str] = (), title: str = "") -> bytes | None:
        from deft.domains.image.writing import grid

        return grid(x, titles, title)

    def draw_pictures(self, x: Tensor, std: Tensor, obs: Observation | None, title: str) -> Mapping[str, bytes]:
        from deft.domains.image.writing import of_draws

        return of_draws(x, std, obs, title)

    def measurement_picture(self, x: Tensor, obs: Observation, title: str) -> bytes | None:
        from deft.domains.image.writing import of_measurement

        return of_measurement(x, obs, title)

    # how good

    def metrics(self) -> Mapping[str, Metric]:
        from deft.domains.image.measure import METRICS

        return METRICS

    def measure(self, samples: Tensor, truth: Tensor, obs: Observation, **options: Any) -> dict[str, Tensor]:
        from deft.domains.image.measure import measure

        return measure(samples, truth, obs, **options)

    def set_distance(self, features: str, samples: Tensor, real: Tensor) -> dict[str, Any]:
        from deft.domains.image.classifier import fashion_classifier
        from deft.domains.image.prior_quality import feature_report

        return (
            feature_report(fashion_classifier(), samples, real)
            if features == "fashion"
            else super().set_distance(features, samples, real)
        )

    # comparisons

    def studies(self) -> Mapping[str, Path]:
        return {path.stem: path for path in sorted(Path(__file__).with_name("studies").glob("*.toml"))}

    def feature_networks(self) -> Mapping[str, str]:
        from deft.domains.image.networks import FEATURES

        return {name: source.about for name, source in FEATURES.items()}

    def feature_network_for(
        self, names: Sequence[str], event_shape: tuple[int, ...] | None = None, labelled: bool = True
    ) -> str:
        from deft.domains.image.networks import features_for

        return features_for(*names, event_shape=event_shape, labelled=labelled)

    def feature_network(self, name: str, x: Tensor) -> Any:
        from deft.domains.image.measure import feature_network

        return feature_network(name, x)

    def classes(self, name: str) -> Sequence[str]:
        from deft.domains.image.data import DATASETS

        return DATASETS[name].labels

    def has_data(self, source: str) -> bool:
        from deft.domains.image.data import check_bundled
        from deft.domains.image.files import source_exists

        check_bundled(source)
        return source_exists(source)

    def data_version(self, name: str) -> int:
        from deft.domains.image.data import DATASETS

        return DATASETS[name].version

    def split(self, source: str, split: str, event_shape: tuple[int, ...]) -> Data:
        from deft.domains.image.measure import split_of

        return split_of(source, split, event_shape)

    def measured_picture(self, obs: Observation, event_shape: tuple[int, ...]) -> np.ndarray | None:
        from deft.domains.image.writing import picture_of

        return picture_of(obs, event_shape)

    def wall(self, views: Sequence[View], *, title: str = "", rows: Sequence[str] = (), cell: int = 96) -> bytes | None:
        from deft.domains.image.writing import wall

        return wall(views, title=title, rows=rows, cell=cell)
