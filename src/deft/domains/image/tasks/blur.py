"""Tasks that blur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from deft.core.random import BatchNoise, Noise
from deft.domains.image.tasks.base import ImageTask
from deft.errors import InputError
from deft.io.settings import FALSE, TRUE, kernel_rows, read_kernel
from deft.likelihood.task import Drawn
from deft.operator import BlurSpace, Camera, Convolution, EdgedConvolution, Operator, gaussian_blur, motion_kernels
from deft.operator.separable import BOUNDARIES
from deft.values import Range, Seed


@dataclass(frozen=True)
class CameraDeblur(ImageTask):
    """A camera that moves, is out of focus towards the edges, bends the intensities and saturates; noiseless.

    weights: a file of the published blur-kernel-space network, whose blur takes the camera's place
        (`deft.operator.BlurSpace`; RGB images).

    >>> import deft, torch
    >>> x = torch.full((1, 1, 32, 32), 0.6)
    >>> obs = deft.tasks.CameraDeblur().observe(x, deft.Noise(0, 1))
    >>> obs.y.mean().round(decimals=4)  # saturated
    tensor(1.)
    """

    name = "deblur-nonlinear"
    feature_channels = 2
    title = "non-linear deblurring"
    about = "a camera with blurs that differ over the image, a response curve and saturation"
    convention = "y in [-1, 1], black -1 and saturated 1; a camera of this library's own, no other program's"
    sigma_y: float = 0.0
    seed: Seed = 42
    weights: str = ""

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return (
            BlurSpace.load(self.weights, self.seed).to(x.device)
            if self.weights
            else Camera(seed=self.seed).to(x.device)
        )

    def config(self) -> dict[str, Any]:
        c = super().config()
        return c if self.weights else {k: v for k, v in c.items() if k != "weights"}


@dataclass(frozen=True)
class GaussianDeblur(ImageTask):
    """A Gaussian blur of `deviation` pixels.

    >>> import deft, torch
    >>> x = torch.eye(32)[None, None]
    >>> obs = deft.tasks.GaussianDeblur(deviation=2.0, sigma_y=0.0).observe(x, deft.Noise(0, 1))
    >>> obs.y[0, 0, 16, 12:21]
    tensor([0.0519, 0.0804, 0.1099, 0.1325, 0.1411, 0.1325, 0.1099, 0.0804, 0.0519])
    """

    name = "deblur-gaussian"
    title = "Gaussian deblurring"
    about = "a Gaussian blur, 1.5 pixels wide"
    convention = "sum 1, cut off at 4 deviations, edges mirrored (d c b a | a b c d)"
    conventions = ("boundary",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"boundary": BOUNDARIES}
    deviation: Annotated[float, Range(above=0, max=1000)] = 1.5
    boundary: str = BOUNDARIES[0]

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return gaussian_blur((x.shape[2], x.shape[3]), self.deviation, self.boundary)


SUMS, EVENS = ("one", "any", "divide"), ("refuse", "before", "after")
SUM_TOLERANCE = 1e-2
"""How far from 1 the sum of a kernel may be, which is more than rounding it to bytes does."""


@dataclass(frozen=True)
class MotionDeblur(Drawn, ImageTask):
    """A random motion blur, another for each image.

    >>> import deft, torch
    >>> x = torch.zeros(2, 1, 32, 32)
    >>> obs = deft.tasks.MotionDeblur().observe(x, deft.Noise(0, 2))
    >>> one, other = obs.likelihood.operator.kernel
    >>> one.sum().round(decimals=4), torch.equal(one, other)
    (tensor(1.), False)
    """

    name = "deblur-motion"
    title = "motion deblurring"
    about = "a shaken camera: another motion blur for each image"
    drawn = "kernel"
    convention = "kernels of odd sides and sum 1, convolved (turned round); the image goes on at the opposite edge"
    conventions = ("kernel", "taps", "correlate", "boundary", "sum", "even")
    switches = ("correlate",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "boundary": ("circular", *(b for b in BOUNDARIES if b != "circular")),
        "sum": SUMS,
        "even": EVENS,
    }
    size: Annotated[int, Range(1, 1023)] = 9
    kernel: str = ""
    taps: list[list[float]] = field(default_factory=list, hash=False)
    correlate: str = FALSE
    boundary: str = "circular"
    sum: str = "one"
    even: str = "refuse"

    def __post_init__(self) -> None:
        """kernel: a file, read once into `taps`, which a card keeps. correlate, boundary: see the operators. sum: what
        to do with a kernel whose sum is not 1: refuse it ("one"), take it ("any"), divide it. even: which pixel is the
        middle of an even side, if any."""
        super().__post_init__()
        if self.kernel:
            self._set("taps", read_kernel(self.kernel))
            self._set("kernel", "")
        if self.taps:
            self._set("taps", kernel_rows(f"taps of the task {self.name}", self.taps))
            self.build(torch.tensor(self.taps)[None, None])

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        return [("with a kernel that is not turned (correlation)", {"correlate": TRUE})]

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        drawn = motion_kernels(noise, self.size)
        return (
            torch.tensor(self.taps, dtype=drawn.dtype).expand(len(drawn), 1, -1, -1).contiguous()
            if self.taps
            else drawn
        )

    def build(self, drawn: Tensor) -> Operator:
        if drawn.ndim != 4 or drawn.shape[1] != 1:
            raise InputError(
                f"kernels for {self.name} are [N, 1, k, k'], one for all channels, got shape {tuple(drawn.shape)}"
            )
        sides = tuple(drawn.shape[2:])
        if self.even == "refuse" and any(n % 2 == 0 for n in sides):
            raise InputError(
                f"a kernel of {sides[0]}x{sides[1]} has an even side, which has no middle: say even=before (pixel"
                f" {sides[0] // 2 - 1}, as MATLAB) or even=after (pixel {sides[0] // 2}, as SciPy), or add a row or"
                " column of zeros"
            )
        total = drawn.double().sum((1, 2, 3))
        far = int((total - 1).abs().argmax())
        if self.sum == "divide":
            if not bool((total.abs() > 1e-6 * drawn.abs().double().sum((1, 2, 3))).all()):
                raise InputError(f"a kernel of sum {float(total[far]):.3g} cannot be divided by it")
            drawn = drawn / total.to(drawn)[:, None, None, None]
        elif self.sum == "one" and abs(float(total[far]) - 1) > SUM_TOLERANCE:
            raise InputError(
                f"kernel number {far} has the sum {float(total[far]):.4g}, so that a grey image gets brighter or"
                " darker: sum=divide makes it 1, sum=any takes it so"
            )
        options = {"correlate": self.correlate == TRUE, "early": self.even == "before"}
        return (
            Convolution(drawn, **options)
            if self.boundary == "circular"
            else EdgedConvolution(drawn, self.boundary, **options)
        )


TASKS = (CameraDeblur, GaussianDeblur, MotionDeblur)
