"""Tasks: clean x -> an observation of it, with a fresh operator and fresh noise each time.

A task is what an amortised h is fitted to. `TASKS` is the table that the command line reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from deft.denoise import Denoiser
from deft.errors import ContractError, InputError, unknown
from deft.likelihood import Gaussian, Likelihood, Observation, Poisson, Reward
from deft.operator import (
    HDR,
    JPEG,
    BlockAverage,
    BlurSpace,
    Camera,
    Compressed,
    Convolution,
    Identity,
    Mask,
    MaskedFourier,
    Operator,
    PhaseRetrieval,
    Radon,
    bicubic,
    gaussian_blur,
    grey,
    masks,
    motion_kernels,
)  # fmt: skip
from deft.random import BatchNoise, Noise


class RefusingNoise:
    """The noise of a task that does not say what it draws: its measurements could not be read back from a file, nor told apart from fixed ones."""

    def __init__(self, task: str):
        self._task = task

    def __getattr__(self, name: str) -> Any:
        raise InputError(f"the task {self._task} draws its operator from noise and does not say what is drawn: make it a `Drawn` (or `Masked`), see docs/add-an-operator.md")


@dataclass(frozen=True)
class ImageTask(ABC):
    """y = A(x) + sigma_y n for images [B, C, H, W] in [-1, 1]; A may be drawn anew for each image.

    sigma_y: in the units of y; where y is an image in [-1, 1] too, 0.05 is 6.4 grey levels of 255. 0 is a noiseless measurement:
    methods that want a density are told `Gaussian.surrogate` (0.02).

    Class variables: name, title and about for people; lift_channels as the operator's; prior: the bundled prior that `deft demo`
    takes; pictures: y is a picture with values in [-1, 1], which may come as a PNG; drawn: what differs from image to image ("mask", "kernel"), so that a measurement has to come with it ("" if nothing does).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str] = ""
    lift_channels: ClassVar[int] = 1
    drawn: ClassVar[str] = ""
    prior: ClassVar[str] = "fashion"
    pictures: ClassVar[bool] = True
    sigma_y: float = 0.05

    def __post_init__(self) -> None:
        if not self.sigma_y >= 0:
            raise InputError(f"{self.name}: sigma_y must be 0 (noiseless) or more, got {self.sigma_y}")

    @abstractmethod
    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        """The operator of each image in x. What differs from image to image is drawn from noise by tasks that say so (`Drawn`)."""

    def likelihood(self, operator: Operator) -> Likelihood:
        """p(y | x) for the operator."""
        return Gaussian(operator, self.sigma_y)

    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation:
        operator = self.operator(x, noise if isinstance(self, Drawn) else cast("BatchNoise", RefusingNoise(self.name)))
        likelihood = self.likelihood(operator.to(x.device))
        return Observation(likelihood.sample(x, noise), likelihood)

    @property
    def fixed(self) -> bool:
        """Nothing is random: an image always gives the same y."""
        return self.sigma_y == 0 and not self.drawn

    def config(self) -> dict[str, Any]:
        return {"name": self.name, **asdict(self)}

    def check(self, event_shape: Sequence[int]) -> Observation:
        """Try the task on one grey image of a shape, before anything is computed; returns that observation.

        Raises `InputError` if images of this shape cannot be measured so.
        """
        try:
            return self.observe(torch.zeros(1, *event_shape), BatchNoise(1, 0))
        except (ContractError, InputError, RuntimeError) as error:
            shape = "x".join(map(str, event_shape))
            raise InputError(f"the task {self.name} does not fit images of {shape}: {error}") from error


@dataclass(frozen=True)
class Drawn(ImageTask):
    """A task whose operator is drawn anew for each image: by one tensor, which the operator keeps under the name `drawn`."""

    @abstractmethod
    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        """The tensor [B, ...] for images of a shape (C, H, W)."""

    @abstractmethod
    def build(self, drawn: Tensor) -> Operator:
        """The operator it makes."""

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return self.build(self.draw(x.shape[1:], noise).to(x.device))


@dataclass(frozen=True)
class Masked(Drawn):
    """Some of the image's own pixels are seen."""

    lift_channels = 2
    drawn = "mask"

    def build(self, drawn: Tensor) -> Operator:
        return Mask(drawn)


@dataclass(frozen=True)
class Inpaint(Masked):
    """A rectangular hole, each side between `smallest` and `largest` of the image's side, anywhere inside."""

    name = "inpaint"
    title = "fill a hole"
    about = "a rectangular hole, anywhere"
    smallest: float = 0.25
    largest: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.smallest <= self.largest < 1:
            raise InputError(f"inpaint needs 0 < smallest <= largest < 1, got {self.smallest} and {self.largest}")

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return masks.boxes(noise, shape[1], shape[2], self.smallest, self.largest)


@dataclass(frozen=True)
class FreeForm(Masked):
    """Brush strokes over `low` to `high` of the image; noiseless, as in the paper (section 4.1)."""

    name = "inpaint-freeform"
    title = "fill brush strokes"
    about = "brush strokes over 20 to 30 % of the image (the paper's inpainting)"
    sigma_y: float = 0.0
    low: float = 0.2
    high: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.low <= self.high < 1:
            raise InputError(f"{self.name} needs 0 < low <= high < 1 (shares of the image), got {self.low} and {self.high}")

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return masks.free_form(noise, shape[1], shape[2], self.low, self.high)


@dataclass(frozen=True)
class RandomPixels(Masked):
    """A share `seen` of the pixels, at random places."""

    name = "inpaint-random"
    title = "fill random pixels"
    about = "one pixel in five is seen, at random places"
    seen: float = 0.2

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return masks.random_pixels(noise, shape[1], shape[2], self.seen)


@dataclass(frozen=True)
class Outpaint(Masked):
    """A window of `keep` of each side is seen, all around it is not."""

    name = "outpaint"
    title = "continue beyond a window"
    about = "a window of half of each side is seen, what surrounds it is not"
    keep: float = 0.5

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return masks.outside(noise, shape[1], shape[2], self.keep)


@dataclass(frozen=True)
class SuperResolution(ImageTask):
    """Each factor x factor block of pixels seen as its mean: what the paper's code does."""

    name = "sr4"
    title = "4x super-resolution"
    about = "4x super-resolution of block averages (the paper's code)"
    factor: int = 4

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return BlockAverage(self.factor)


@dataclass(frozen=True)
class BicubicSuperResolution(ImageTask):
    """Antialiased bicubic down-sampling, noiseless: what the paper's text says."""

    name = "sr4-bicubic"
    title = "4x super-resolution (bicubic)"
    about = "4x super-resolution of antialiased bicubic down-sampling, noiseless (the paper's text)"
    sigma_y: float = 0.0
    factor: int = 4

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return bicubic((x.shape[2], x.shape[3]), self.factor)


@dataclass(frozen=True)
class HighDynamicRange(ImageTask):
    """y = clip(gain x, -1, 1), noiseless: dark and bright parts are lost (paper, section 4.1)."""

    name = "hdr"
    title = "high dynamic range"
    about = "over- and underexposed: y = clip(2 x, -1, 1)"
    lift_channels = 2
    sigma_y: float = 0.0
    gain: float = 2.0

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return HDR(self.gain)


@dataclass(frozen=True)
class Phase(ImageTask):
    """Magnitudes of the Fourier transform of the zero-padded image, noiseless (paper, section 4.1)."""

    name = "phase"
    lift_channels = 2
    pictures = False
    title = "phase retrieval"
    about = "magnitudes of the Fourier transform, oversampled twice"
    sigma_y: float = 0.0
    oversample: int = 2

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return PhaseRetrieval(self.oversample)


@dataclass(frozen=True)
class CameraDeblur(ImageTask):
    """A camera that moves, is out of focus towards the edges, bends the intensities and saturates; noiseless.

    weights: a file of the published blur-kernel-space network, whose blur takes the camera's place (`deft.operator.BlurSpace`; RGB images).
    """

    name = "deblur-nonlinear"
    lift_channels = 2
    title = "non-linear deblurring"
    about = "a camera with blurs that differ over the image, a response curve and saturation"
    sigma_y: float = 0.0
    seed: int = 42
    weights: str = ""

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return BlurSpace.load(self.weights, self.seed).to(x.device) if self.weights else Camera(seed=self.seed).to(x.device)

    def config(self) -> dict[str, Any]:
        c = super().config()
        return c if self.weights else {k: v for k, v in c.items() if k != "weights"}


@dataclass(frozen=True)
class GaussianDeblur(ImageTask):
    """A Gaussian blur of `deviation` pixels."""

    name = "deblur-gaussian"
    title = "Gaussian deblurring"
    about = "a Gaussian blur, 1.5 pixels wide"
    deviation: float = 1.5

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return gaussian_blur((x.shape[2], x.shape[3]), self.deviation)


@dataclass(frozen=True)
class MotionDeblur(Drawn):
    """A random motion blur, another for each image."""

    name = "deblur-motion"
    title = "motion deblurring"
    about = "a shaken camera: another motion blur for each image"
    drawn = "kernel"
    size: int = 9

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return motion_kernels(noise, self.size)

    def build(self, drawn: Tensor) -> Operator:
        return Convolution(drawn)


@dataclass(frozen=True)
class Colourise(ImageTask):
    """The brightness of each pixel alone."""

    name = "colourise"
    title = "colourisation"
    about = "a grey version of a colour image"

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        if x.shape[1] < 2:
            raise ContractError(f"colourisation needs images of several channels, got {x.shape[1]}")
        return grey(x.shape[1])


@dataclass(frozen=True)
class Denoise(ImageTask):
    """The image itself, under noise of deviation 0.5."""

    name = "denoise"
    title = "remove noise"
    about = "the image under noise of deviation 0.5"
    sigma_y: float = 0.5

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Identity()


@dataclass(frozen=True)
class Decompress(ImageTask):
    """A JPEG of low quality."""

    name = "jpeg"
    title = "JPEG restoration"
    about = "a JPEG of quality 5"
    sigma_y: float = 0.0
    quality: int = 5

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return JPEG(self.quality)


@dataclass(frozen=True)
class CompressedSensing(ImageTask):
    """A share `ratio` of random mixtures of all pixels."""

    name = "compressed"
    pictures = False
    title = "compressed sensing"
    about = "random mixtures of all pixels, one for every four"
    ratio: float = 0.25
    seed: int = 0

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Compressed(tuple(x.shape[1:]), self.ratio, seed=self.seed).to(x.device)


@dataclass(frozen=True)
class MRI(Drawn):
    """Single-coil k-space with an acceleration, another choice of lines for each image."""

    name = "mri"
    pictures = False
    title = "accelerated MRI"
    about = "one coil, every fourth line of k-space at random and the centre"
    drawn = "mask"
    acceleration: float = 4.0
    centre: float = 0.08

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        return masks.columns(noise, shape[1], shape[2], self.acceleration, self.centre)

    def build(self, drawn: Tensor) -> Operator:
        return MaskedFourier(drawn)


@dataclass(frozen=True)
class CT(ImageTask):
    """Line integrals along parallel beams from `angles` directions over `arc` degrees."""

    name = "ct"
    pictures = False
    title = "sparse-view CT"
    about = "parallel-beam CT from 60 angles, noise of about 3.5 % (the paper's)"
    prior = "ct"
    sigma_y: float = 0.02
    angles: int = 60
    arc: float = 180.0

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        if x.shape[2] != x.shape[3]:
            raise ContractError(f"CT needs square images, got {x.shape[2]}x{x.shape[3]}")
        return Radon(x.shape[2], self.angles, arc=self.arc).to(x.device)


@dataclass(frozen=True)
class LimitedAngle(CT):
    """CT from directions that leave a wedge unseen."""

    name = "ct-limited"
    title = "limited-angle CT"
    about = "parallel-beam CT from 60 angles within 90 degrees"
    arc: float = 90.0


@dataclass(frozen=True)
class LowLight(ImageTask):
    """Photon counts: y ~ Poisson(photons (x + 1)/2) / photons, on the scale of intensities."""

    name = "poisson"
    pictures = False
    title = "low light"
    about = "photon counts, 20 where the image is white"
    photons: float = 20.0

    @property
    def fixed(self) -> bool:
        return False

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Identity()

    def likelihood(self, operator: Operator) -> Likelihood:
        return Poisson(operator, self.photons)


class LogProbability(nn.Module):
    """x -> log p(label | x) of a classifier that returns logits [B, classes]."""

    def __init__(self, net: Callable[[Tensor], Tensor], label: int):
        super().__init__()
        self.net, self.label = net, label

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        if logits.ndim != 2 or not self.label < logits.shape[1]:
            raise ContractError(f"for the class {self.label} the reward must return logits [B, classes], classes above {self.label}; got shape {tuple(logits.shape)}")
        return logits.log_softmax(1)[:, self.label]


@dataclass(frozen=True)
class Tilt(ImageTask):
    """No measurement at all but a reward r: samples of p(x) exp(r(x) / beta). Not in `TASKS`: it needs a function.

    source: where the function is from, for people; a card names it and does not hold it. label: the function returns logits [B, classes],
    and r is log p(label | x); -1: it returns r itself, [B].
    """

    name = "reward"
    title = "a reward"
    about = "samples that a function likes"
    lift_channels = 0
    pictures = False
    sigma_y: float = 0.0
    source: str = ""
    beta: float = 1.0
    label: int = -1
    function: Callable[[Tensor], Tensor] | None = field(default=None, compare=False, repr=False)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "source": self.source, "beta": self.beta, "label": self.label}

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        raise InputError("a reward measures nothing: there is no operator")

    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation:
        if self.function is None:
            raise InputError(f"this h was fitted to the reward {self.source}, which its card names and does not hold: give it with --reward (deft sample)")
        reward = self.function if self.label < 0 else LogProbability(self.function, self.label)
        return Reward(reward, self.beta, tuple(x.shape[1:])).observe(len(x)).to(x.device)

    def check(self, event_shape: Sequence[int]) -> Observation:
        """Try the function, and its derivative, on two grey images."""
        x = torch.zeros(2, *event_shape)
        obs = self.observe(x, BatchNoise(2, 0))
        try:
            slope = obs.score(x)
        except (InputError, ContractError):
            raise
        except Exception as error:  # whatever somebody's function raises
            shape = ", ".join(map(str, x.shape))
            raise InputError(f"the reward {self.source} fails on images [{shape}] in [-1, 1]: {type(error).__name__}: {error}") from error
        if not bool(torch.isfinite(slope).all()):
            raise InputError(f"the reward {self.source} has a derivative that is not finite at a grey image")
        return obs[:1]


class Through:
    """A task as the prior sees it: its own, or, for a latent prior, that of measuring what latents decode to."""

    def __init__(self, task: ImageTask, prior: Denoiser):
        self.task, self.prior = task, prior

    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation:
        return self.prior.inside(self.task.observe(self.prior.decode(x), noise))


TASKS: dict[str, type[ImageTask]] = {
    t.name: t
    for t in (
        Inpaint, FreeForm, RandomPixels, Outpaint, SuperResolution, BicubicSuperResolution, HighDynamicRange, Phase, CameraDeblur,
        GaussianDeblur, MotionDeblur, Colourise, Denoise, Decompress, CompressedSensing, MRI, CT, LimitedAngle, LowLight,
    )
}  # fmt: skip
"""Name -> class: read by the command line, the comparison and the conformance tests."""

PAPER = ("inpaint-freeform", "sr4", "hdr", "phase", "deblur-nonlinear", "ct")
"""The paper's image tasks."""


def get_task(name: str, **options: Any) -> ImageTask:
    """A task by name, with some of its settings changed.

    >>> get_task("ct", angles=30).config()["angles"]
    30
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    known = {f.name for f in fields(TASKS[name])}
    for key in options:
        if key not in known:
            raise unknown(f"setting of the task {name}", key, known)
    return TASKS[name](**options)


def make_task(config: dict[str, Any]) -> ImageTask:
    """A task from its `config()`, as found in a card."""
    options = dict(config)
    name = options.pop("name")
    return Tilt(**options) if name == Tilt.name else get_task(name, **options)
