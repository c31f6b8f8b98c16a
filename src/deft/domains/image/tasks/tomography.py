"""Tasks of computed tomography."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from deft.core.random import BatchNoise, Noise
from deft.domains.image.tasks.base import ImageTask
from deft.errors import ContractError, InputError
from deft.io.settings import in_degrees, numbers, read_angles
from deft.likelihood.task import Drawn
from deft.operator import Operator, Radon, RayRadon
from deft.operator.radon import SENSES
from deft.values import Range


@dataclass(frozen=True)
class CT(ImageTask):
    """Line integrals along parallel beams from `angles` directions over `arc` degrees.

    The settings for other scanners and programs are those of `Radon`; here detectors 0 is enough for the image's
    corners, and axis_x, axis_y are its `axis`. angle_file: a file with one angle for each row of y, read once into
    `directions`, which a card keeps;
    angle_unit: degrees or radians, where the file leaves it open.

    >>> import deft, torch
    >>> x = torch.ones(1, 1, 32, 32)
    >>> obs = deft.tasks.CT(angles=60, sigma_y=0.0).observe(x, deft.Noise(0, 1))
    >>> obs.y.shape, obs.y.max().round(decimals=1)  # the diagonal is 1.4 sides long
    (torch.Size([1, 1, 60, 46]), tensor(1.4000))
    """

    name = "ct"
    pictures = False
    title = "sparse-view CT"
    about = "parallel-beam CT from 60 angles, noise of about 3.5 % (the paper's)"
    prior = "ct"
    convention = (
        "integrals of x along lines, its side 1 long; row 0 (0 degrees) runs along columns, then counter-clockwise;"
        " detectors a pixel apart"
    )
    conventions = (
        "rotation",
        "start",
        "centre",
        "detectors",
        "pitch",
        "length",
        "axis_x",
        "axis_y",
        "directions",
        "angle_file",
        "angle_unit",
    )
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"rotation": SENSES, "angle_unit": ("", "degrees", "radians")}
    sigma_y: float = 0.02
    angles: Annotated[int, Range(1, 100_000)] = 60
    arc: Annotated[float, Range(-3600, 3600)] = 180.0
    rotation: str = SENSES[0]
    start: float = 0.0
    centre: float = 0.0
    detectors: Annotated[int, Range(0, 100_000)] = 0
    pitch: float = 1.0
    length: float = 1.0
    axis_x: float = 0.0
    axis_y: float = 0.0
    directions: list[float] = field(default_factory=list, hash=False)
    angle_file: str = ""
    angle_unit: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.angle_file:
            self._set("directions", read_angles(self.angle_file, self.angle_unit))
        elif self.directions:
            given = numbers(f"directions of the task {self.name}", self.directions)
            self._set("directions", in_degrees(given, self.angle_unit, "directions") if self.angle_unit else given)
        elif self.angle_unit:
            raise InputError(
                f"angle_unit of the task {self.name} says what angle_file or directions are in: give one of them"
            )
        if self.directions:
            if self.rotation != SENSES[0] or self.start:
                sign = 1 if self.rotation == SENSES[0] else -1
                self._set("directions", [self.start + sign * v for v in self.directions])
                self._set("rotation", SENSES[0])
                self._set("start", 0.0)
            if self.angles != len(self.directions):
                if self.angles != type(self).angles:
                    raise InputError(
                        f"angles of the task {self.name} is {self.angles}, but {len(self.directions)} directions are"
                        " given: leave angles out"
                    )
                self._set("angles", len(self.directions))
        self._set("angle_file", "")
        self._set("angle_unit", "")
        if self.detectors < 0:
            raise InputError(
                f"detectors of the task {self.name} is a number of them, or 0 for what the image's corners need, got"
                f" {self.detectors}"
            )

    def geometry(self) -> dict[str, Any]:
        """What `Radon` is told besides the image's side."""
        return {
            "angles": self.angles,
            "detectors": self.detectors or None,
            "arc": self.arc,
            "start": self.start,
            "rotation": self.rotation,
            "centre": self.centre,
            "pitch": self.pitch,
            "length": self.length,
            "axis": (self.axis_x, self.axis_y),
            "directions": self.directions,
        }

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        side = max(1, round((y_shape[-1] - 1) / math.sqrt(2)))  # whose corners so many detectors see
        return [
            ("turned the other way round", {"rotation": "clockwise"}), ("beginning at 90 degrees", {"start": 90.0}),
            ("beginning at -90 degrees", {"start": -90.0}), ("sums over pixels", {"length": float(side)}),
            *((f"its centre {k:+d} detectors off", {"centre": float(k)}) for k in (-3, -2, -1, 1, 2, 3)),
        ]  # fmt: skip

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        if x.shape[2] != x.shape[3]:
            raise ContractError(f"{self.name} needs square images, as every CT here, got {x.shape[2]}x{x.shape[3]}")
        return Radon(x.shape[2], **self.geometry()).to(x.device)


@dataclass(frozen=True)
class LimitedAngle(CT):
    """CT from directions that leave a wedge unseen.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.LimitedAngle().observe(x, deft.Noise(0, 1))
    >>> obs.y.shape, obs.likelihood.operator.geometry.arc
    (torch.Size([1, 1, 60, 46]), 90.0)
    """

    name = "ct-limited"
    title = "limited-angle CT"
    about = "parallel-beam CT from 60 angles within 90 degrees"
    arc: Annotated[float, Range(-3600, 3600)] = 90.0


@dataclass(frozen=True)
class RayCT(CT, Drawn):
    """CT where some rays were not measured: `missing` of the detectors are dead, others for each image (in a file of
    yours: any rays).

    side: of the image in pixels, needed where `detectors` is given: `rays` alone must say how large the image is.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.RayCT(missing=0.1).observe(x, deft.Noise(0, 1))
    >>> obs.y.shape[-1], int((obs.y == 0).all(-2).sum())  # detectors, and the dead ones
    (46, 5)
    """

    name = "ct-rays"
    title = "CT with dead detectors"
    about = "parallel-beam CT from 60 angles, one detector in ten is dead"
    drawn = "rays"
    convention = "as ct; rays [N, 1, angles, detectors]: 1 measured, 0 not"
    missing: float = 0.1
    side: Annotated[int, Range(0, 100_000)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.missing < 1:
            raise InputError(
                f"missing of the task {self.name} is a share of the detectors from 0 to below 1, got {self.missing}"
            )

    def _image_side(self, detectors: int) -> int:
        if self.side:
            return self.side
        sides = [n for n in range(2, detectors + 1) if Radon(n, 1, pitch=self.pitch).geometry.detectors == detectors]
        if self.detectors or len(sides) != 1:
            raise InputError(
                f"{self.name} with {detectors} detectors does not say how large the image is: give side=PIXELS"
                " (--task-option)"
            )
        return sides[0]

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        if shape[1] != shape[2] or self.side not in (0, shape[1]):
            raise ContractError(
                f"{self.name} needs square images, as every CT here"
                + (f" of side {self.side}" if self.side else "")
                + f", got {shape[1]}x{shape[2]}"
            )
        g = Radon(shape[1], **self.geometry()).geometry
        if self._image_side(g.detectors) != shape[1]:
            raise InputError(f"{self.name} with {g.detectors} detectors needs side={shape[1]}")
        u = noise.uniform((g.detectors,))
        dead = torch.zeros_like(u).scatter_(1, u.topk(round(self.missing * g.detectors), dim=1).indices, 1.0)
        return (1 - dead)[:, None, None].expand(-1, 1, g.angles, -1).contiguous()

    def build(self, drawn: Tensor) -> Operator:
        return RayRadon(self._image_side(drawn.shape[-1]), drawn, **self.geometry())

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Drawn.operator(self, x, noise)


TASKS = (CT, LimitedAngle, RayCT)
