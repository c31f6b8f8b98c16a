"""Tasks: clean x -> an observation of it, with a fresh operator and fresh noise each time.

A task is what an amortised h is fitted to. `TASKS` is the table that the command line reads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from deft.core.denoiser import Denoiser
from deft.core.random import BatchNoise, Noise
from deft.errors import ContractError, InputError, unknown
from deft.io.settings import FALSE, TRUE, choice, in_degrees, kernel_rows, numbers, read_angles, read_kernel, switch
from deft.likelihood import Gaussian, Likelihood, Observation, Poisson, Reward
from deft.operator import (
    HDR,
    JPEG,
    BlockAverage,
    BlurSpace,
    Camera,
    CoilFourier,
    ColourJPEG,
    Compressed,
    Convolution,
    EdgedConvolution,
    Identity,
    KSpace,
    Magnitudes,
    Mask,
    MaskedFourier,
    Operator,
    PhaseRetrieval,
    Radon,
    RayRadon,
    bicubic,
    every,
    gaussian_blur,
    grey,
    masks,
    motion_kernels,
    recast,
    smooth_coils,
)  # fmt: skip
from deft.operator.jpeg import SUBSAMPLINGS
from deft.operator.radon import SENSES
from deft.operator.recast import NORMS, ORIGINS
from deft.operator.separable import BOUNDARIES, FILTERS, LUMAS, PIXELS

Choices = dict[str, tuple[str, ...]]


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
    convention: what y's numbers mean, in one line; conventions: the settings that say so where another program measured. At their
    usual values these are left out of `config()`, so that cards and measurement files stay what they were before there were any.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str] = ""
    lift_channels: ClassVar[int] = 1
    drawn: ClassVar[str] = ""
    prior: ClassVar[str] = "fashion"
    pictures: ClassVar[bool] = True
    convention: ClassVar[str] = ""
    conventions: ClassVar[tuple[str, ...]] = ()
    switches: ClassVar[tuple[str, ...]] = ()
    """Settings that are "true" or "false"."""
    choices: ClassVar[Choices] = {}
    """Settings that are one of some words."""
    sigma_y: float = 0.05

    def __post_init__(self) -> None:
        if not self.sigma_y >= 0:
            raise InputError(f"{self.name}: sigma_y must be 0 (noiseless) or more, got {self.sigma_y}")
        for key in self.switches:
            self._set(key, switch(f"{key} of the task {self.name}", getattr(self, key)))
        for key, known in self.choices.items():
            choice(f"{key} of the task {self.name}", getattr(self, key), known)

    def _set(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)

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

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        """Other conventions that a measurement of this shape may have been made in: (words, settings), for `deft measure inspect`."""
        return ()

    @property
    def fixed(self) -> bool:
        """Nothing is random: an image always gives the same y."""
        return self.sigma_y == 0 and not self.drawn

    def config(self) -> dict[str, Any]:
        """The settings as JSON; `make_task` makes the same task of them."""
        usual = self.usual_conventions()
        return {"name": self.name, **{k: v for k, v in asdict(self).items() if k not in usual or v != usual[k]}}

    @classmethod
    def usual_conventions(cls) -> dict[str, Any]:
        """The settings for other programs' measurements, with their usual values."""
        usual: dict[str, Any] = {}
        for f in fields(cls):
            usual[f.name] = f.default_factory() if f.default_factory is not MISSING else f.default
        return {k: usual[k] for k in cls.conventions}

    @property
    def elsewhere(self) -> str:
        """What to say of a y that does not fit, which another program may have measured: the settings there are for that. "" if none."""
        if not self.conventions:
            return ""
        names = ", ".join(f"{k}=" for k in self.conventions)
        return f"measured by another program? This task has the settings {names}; `deft measure convert` reads other programs' files (docs/conventions.md)"

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
    convention = "y = m x in [-1, 1], 0 where hidden; mask: 1 is seen, 0 hidden, [N, 1, H, W]"

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
    convention = "y is the mean of each block, in [-1, 1]"
    conventions = ("pixel",)
    choices: ClassVar[Choices] = {"pixel": ("mean", *PIXELS)}
    factor: int = 4
    pixel: str = "mean"

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        return [("one pixel of each block, the first", {"pixel": "first"}), ("one pixel of each block, the middle one", {"pixel": "middle"})]

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return BlockAverage(self.factor) if self.pixel == "mean" else every((x.shape[2], x.shape[3]), self.factor, self.pixel)


@dataclass(frozen=True)
class BicubicSuperResolution(ImageTask):
    """Antialiased bicubic down-sampling, noiseless: what the paper's text says."""

    name = "sr4-bicubic"
    title = "4x super-resolution (bicubic)"
    about = "4x super-resolution of antialiased bicubic down-sampling, noiseless (the paper's text)"
    convention = "antialiased, a = -1/2, as Pillow and torch (antialias=True)"
    conventions = ("filter",)
    choices: ClassVar[Choices] = {"filter": FILTERS}
    sigma_y: float = 0.0
    factor: int = 4
    filter: str = FILTERS[0]

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return bicubic((x.shape[2], x.shape[3]), self.factor, self.filter)


@dataclass(frozen=True)
class HighDynamicRange(ImageTask):
    """y = clip(gain x, -1, 1), noiseless: dark and bright parts are lost (paper, section 4.1)."""

    name = "hdr"
    title = "high dynamic range"
    about = "over- and underexposed: y = clip(2 x, -1, 1)"
    convention = "x and y in [-1, 1]: mid-grey 0 stays, both ends are cut off"
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
    convention = "y = |fft2((x + 1)/2, padded with black)|, orthonormal, zero frequency at [0, 0]"
    conventions = ("intensity", "shifted", "norm", "padding", "signed")
    switches = ("intensity", "shifted", "signed")
    choices: ClassVar[Choices] = {"norm": NORMS}
    sigma_y: float = 0.0
    oversample: int = 2
    intensity: str = FALSE
    shifted: str = FALSE
    norm: str = NORMS[0]
    padding: int = 0
    signed: str = FALSE

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        return [
            ("intensities, not magnitudes", {"intensity": TRUE}), ("with the zero frequency in the middle", {"shifted": TRUE}),
            ("of a transform without factor", {"norm": "backward"}),
        ]  # fmt: skip

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        counts = self.intensity == TRUE
        own = PhaseRetrieval(self.oversample, padding=self.padding, signed=self.signed == TRUE, intensity=counts)
        return recast(own, Magnitudes(self.shifted == TRUE, self.norm, counts))


@dataclass(frozen=True)
class CameraDeblur(ImageTask):
    """A camera that moves, is out of focus towards the edges, bends the intensities and saturates; noiseless.

    weights: a file of the published blur-kernel-space network, whose blur takes the camera's place (`deft.operator.BlurSpace`; RGB images).
    """

    name = "deblur-nonlinear"
    lift_channels = 2
    title = "non-linear deblurring"
    about = "a camera with blurs that differ over the image, a response curve and saturation"
    convention = "y in [-1, 1], black -1 and saturated 1; a camera of this library's own, no other program's"
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
    convention = "sum 1, cut off at 4 deviations, edges mirrored (d c b a | a b c d)"
    conventions = ("boundary",)
    choices: ClassVar[Choices] = {"boundary": BOUNDARIES}
    deviation: float = 1.5
    boundary: str = BOUNDARIES[0]

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return gaussian_blur((x.shape[2], x.shape[3]), self.deviation, self.boundary)


SUMS, EVENS = ("one", "any", "divide"), ("refuse", "before", "after")
SUM_TOLERANCE = 1e-2
"""How far from 1 the sum of a kernel may be, which is more than rounding it to bytes does."""


@dataclass(frozen=True)
class MotionDeblur(Drawn):
    """A random motion blur, another for each image."""

    name = "deblur-motion"
    title = "motion deblurring"
    about = "a shaken camera: another motion blur for each image"
    drawn = "kernel"
    convention = "kernels of odd sides and sum 1, convolved (turned round); the image goes on at the opposite edge"
    conventions = ("kernel", "taps", "correlate", "boundary", "sum", "even")
    switches = ("correlate",)
    choices: ClassVar[Choices] = {"boundary": ("circular", *(b for b in BOUNDARIES if b != "circular")), "sum": SUMS, "even": EVENS}
    size: int = 9
    kernel: str = ""
    taps: list[list[float]] = field(default_factory=list, hash=False)
    correlate: str = FALSE
    boundary: str = "circular"
    sum: str = "one"
    even: str = "refuse"

    def __post_init__(self) -> None:
        """kernel: a file, read once into `taps`, which a card keeps. correlate, boundary: see the operators. sum: what to do with a kernel
        whose sum is not 1: refuse it ("one"), take it ("any"), divide it. even: which pixel is the middle of an even side, if any."""
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
        return torch.tensor(self.taps, dtype=drawn.dtype).expand(len(drawn), 1, -1, -1).contiguous() if self.taps else drawn

    def build(self, drawn: Tensor) -> Operator:
        if drawn.ndim != 4 or drawn.shape[1] != 1:
            raise InputError(f"kernels for {self.name} are [N, 1, k, k'], one for all channels, got shape {tuple(drawn.shape)}")
        sides = tuple(drawn.shape[2:])
        if self.even == "refuse" and any(n % 2 == 0 for n in sides):
            raise InputError(
                f"a kernel of {sides[0]}x{sides[1]} has an even side, which has no middle: say even=before (pixel {sides[0] // 2 - 1}, as MATLAB) or "
                f"even=after (pixel {sides[0] // 2}, as SciPy), or add a row or column of zeros"
            )
        total = drawn.double().sum((1, 2, 3))
        far = int((total - 1).abs().argmax())
        if self.sum == "divide":
            if not bool((total.abs() > 1e-6 * drawn.abs().double().sum((1, 2, 3))).all()):
                raise InputError(f"a kernel of sum {float(total[far]):.3g} cannot be divided by it")
            drawn = drawn / total.to(drawn)[:, None, None, None]
        elif self.sum == "one" and abs(float(total[far]) - 1) > SUM_TOLERANCE:
            raise InputError(f"kernel number {far} has the sum {float(total[far]):.4g}, so that a grey image gets brighter or darker: sum=divide makes it 1, sum=any takes it so")
        options = {"correlate": self.correlate == TRUE, "early": self.even == "before"}
        return Convolution(drawn, **options) if self.boundary == "circular" else EdgedConvolution(drawn, self.boundary, **options)


@dataclass(frozen=True)
class Colourise(ImageTask):
    """The brightness of each pixel alone."""

    name = "colourise"
    title = "colourisation"
    about = "a grey version of a colour image"
    convention = "y = .299 R + .587 G + .114 B (BT.601) of values in [-1, 1]"
    conventions = ("luma",)
    choices: ClassVar[Choices] = {"luma": tuple(LUMAS)}
    luma: str = "601"

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        if x.shape[1] < 2:
            raise ContractError(f"colourisation needs images of several channels, got {x.shape[1]}")
        return grey(x.shape[1], self.luma)


@dataclass(frozen=True)
class Denoise(ImageTask):
    """The image itself, under noise of deviation 0.5."""

    name = "denoise"
    title = "remove noise"
    about = "the image under noise of deviation 0.5"
    convention = "y = x + noise in [-1, 1], not clipped; .5 is 64 grey levels of 255"
    sigma_y: float = 0.5

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Identity()


@dataclass(frozen=True)
class Decompress(ImageTask):
    """A JPEG of low quality."""

    name = "jpeg"
    title = "JPEG restoration"
    about = "a JPEG of quality 5"
    convention = "libjpeg's quality and its luminance table for each channel by itself: a grey file"
    conventions = ("colour",)
    choices: ClassVar[Choices] = {"colour": ("each", *SUBSAMPLINGS)}
    sigma_y: float = 0.0
    quality: int = 5
    colour: str = "each"

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return JPEG(self.quality) if self.colour == "each" else ColourJPEG(self.quality, self.colour)


@dataclass(frozen=True)
class CompressedSensing(ImageTask):
    """A share `ratio` of random mixtures of all pixels."""

    name = "compressed"
    pictures = False
    title = "compressed sensing"
    about = "random mixtures of all pixels, one for every four"
    convention = "y [N, m] = signs, cosine transform and choice drawn from `seed`: this library's own, no other program's"
    ratio: float = 0.25
    seed: int = 0

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Compressed(tuple(x.shape[1:]), self.ratio, seed=self.seed).to(x.device)


@dataclass(frozen=True)
class MRI(Drawn):
    """Single-coil k-space with an acceleration, another choice of lines for each image.

    centred, norm, origin, sign: the k-space's convention (`deft.operator.recast.KSpace`); a mask is in the same order.
    """

    name = "mri"
    pictures = False
    title = "accelerated MRI"
    about = "one coil, every fourth line of k-space at random and the centre"
    drawn = "mask"
    convention = "y: real, then imaginary parts of the orthonormal fft2 of x, zero frequency at [H/2, W/2], pixel [0, 0] of phase 0"
    conventions = ("centred", "norm", "origin", "sign")
    switches = ("centred",)
    choices: ClassVar[Choices] = {"norm": NORMS, "origin": ORIGINS}
    acceleration: float = 4.0
    centre: float = 0.08
    centred: str = TRUE
    norm: str = NORMS[0]
    origin: str = ORIGINS[0]
    sign: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.k_space  # noqa: B018  the sign is -1 or 1

    @property
    def k_space(self) -> KSpace:
        return KSpace(self.centred == TRUE, self.norm, self.origin, self.sign)

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        return [
            ("with the zero frequency in the corner", {"centred": FALSE}), ("of a transform without factor", {"norm": "backward"}),
            ("of a transform divided by the number of pixels", {"norm": "forward"}), ("of an image whose middle has phase 0", {"origin": "middle"}),
            ("conjugate", {"sign": 1}),
        ]  # fmt: skip

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        mask = masks.columns(noise, shape[1], shape[2], self.acceleration, self.centre)
        return mask if self.k_space.centred else torch.fft.ifftshift(mask, (-2, -1))

    def build(self, drawn: Tensor) -> Operator:
        return recast(MaskedFourier(drawn if self.k_space.centred else torch.fft.fftshift(drawn, (-2, -1))), self.k_space)


@dataclass(frozen=True)
class CoilMRI(MRI):
    """K-space of several coils with known sensitivities, or of one image of known phase (one coil of magnitude 1).

    What is drawn is [N, 1 + 2 coils, H, W]: the mask, then the real and the imaginary parts of the sensitivities.
    """

    name = "mri-coils"
    title = "accelerated MRI, known coils"
    about = "four coils of known complex sensitivity, every fourth line of k-space and the centre"
    drawn = "coils"
    convention = "as mri, for each coil; x is real and the sensitivities carry its phase: coils = mask, their real, their imaginary parts"
    coils: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign != -1 or self.coils < 1:
            raise InputError(f"{self.name} needs sign=-1 and at least 1 coil, got {self.sign} and {self.coils}: conjugate k-space and sensitivities instead")

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        if shape[0] != 1:
            raise ContractError(f"{self.name} needs grey images, got {shape[0]} channels")
        mask = super().draw(shape, noise)
        s = smooth_coils(noise, shape[1], shape[2], self.coils)
        return torch.cat([mask, s.real.to(mask), s.imag.to(mask)], 1)

    def build(self, drawn: Tensor) -> Operator:
        if not self.k_space.centred:
            drawn = torch.cat([torch.fft.fftshift(drawn[:, :1], (-2, -1)), drawn[:, 1:]], 1)
        return recast(CoilFourier(drawn), self.k_space)


@dataclass(frozen=True)
class CT(ImageTask):
    """Line integrals along parallel beams from `angles` directions over `arc` degrees.

    The settings for other scanners and programs are those of `Radon`; here detectors 0 is enough for the image's corners, and axis_x, axis_y
    are its `axis`. angle_file: a file with one angle for each row of y, read once into `directions`, which a card keeps;
    angle_unit: degrees or radians, where the file leaves it open.
    """

    name = "ct"
    pictures = False
    title = "sparse-view CT"
    about = "parallel-beam CT from 60 angles, noise of about 3.5 % (the paper's)"
    prior = "ct"
    convention = "integrals of x along lines, its side 1 long; row 0 (0 degrees) runs along columns, then counter-clockwise; detectors a pixel apart"
    conventions = (
        "rotation", "start", "centre", "detectors", "pitch", "length", "axis_x", "axis_y", "directions", "angle_file", "angle_unit",
    )  # fmt: skip
    choices: ClassVar[Choices] = {"rotation": SENSES, "angle_unit": ("", "degrees", "radians")}
    sigma_y: float = 0.02
    angles: int = 60
    arc: float = 180.0
    rotation: str = SENSES[0]
    start: float = 0.0
    centre: float = 0.0
    detectors: int = 0
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
            raise InputError(f"angle_unit of the task {self.name} says what angle_file or directions are in: give one of them")
        if self.directions:
            if self.rotation != SENSES[0] or self.start:
                sign = 1 if self.rotation == SENSES[0] else -1
                self._set("directions", [self.start + sign * v for v in self.directions])
                self._set("rotation", SENSES[0])
                self._set("start", 0.0)
            if self.angles != len(self.directions):
                if self.angles != type(self).angles:
                    raise InputError(f"angles of the task {self.name} is {self.angles}, but {len(self.directions)} directions are given: leave angles out")
                self._set("angles", len(self.directions))
        self._set("angle_file", "")
        self._set("angle_unit", "")
        if self.detectors < 0:
            raise InputError(f"detectors of the task {self.name} is a number of them, or 0 for what the image's corners need, got {self.detectors}")

    def geometry(self) -> dict[str, Any]:
        """What `Radon` is told besides the image's side."""
        return {
            "angles": self.angles, "detectors": self.detectors or None, "arc": self.arc, "start": self.start, "rotation": self.rotation,
            "centre": self.centre, "pitch": self.pitch, "length": self.length, "axis": (self.axis_x, self.axis_y), "directions": self.directions,
        }  # fmt: skip

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        side = max(1, round((y_shape[-1] - 1) / math.sqrt(2)))  # whose corners so many detectors see
        return [
            ("turned the other way round", {"rotation": "clockwise"}), ("beginning at 90 degrees", {"start": 90.0}),
            ("beginning at -90 degrees", {"start": -90.0}), ("sums over pixels", {"length": float(side)}),
            *((f"its centre {k:+d} detectors off", {"centre": float(k)}) for k in (-3, -2, -1, 1, 2, 3)),
        ]  # fmt: skip

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        if x.shape[2] != x.shape[3]:
            raise ContractError(f"CT needs square images, got {x.shape[2]}x{x.shape[3]}")
        return Radon(x.shape[2], **self.geometry()).to(x.device)


@dataclass(frozen=True)
class LimitedAngle(CT):
    """CT from directions that leave a wedge unseen."""

    name = "ct-limited"
    title = "limited-angle CT"
    about = "parallel-beam CT from 60 angles within 90 degrees"
    arc: float = 90.0


@dataclass(frozen=True)
class RayCT(CT, Drawn):
    """CT where some rays were not measured: `missing` of the detectors are dead, others for each image (in a file of yours: any rays).

    side: of the image in pixels, needed where `detectors` is given: `rays` alone must say how large the image is.
    """

    name = "ct-rays"
    title = "CT with dead detectors"
    about = "parallel-beam CT from 60 angles, one detector in ten is dead"
    drawn = "rays"
    convention = "as ct; rays [N, 1, angles, detectors]: 1 measured, 0 not"
    missing: float = 0.1
    side: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.missing < 1:
            raise InputError(f"missing of the task {self.name} is a share of the detectors from 0 to below 1, got {self.missing}")

    def _image_side(self, detectors: int) -> int:
        if self.side:
            return self.side
        sides = [n for n in range(2, detectors + 1) if Radon(n, 1, pitch=self.pitch).geometry.detectors == detectors]
        if self.detectors or len(sides) != 1:
            raise InputError(f"{self.name} with {detectors} detectors does not say how large the image is: give side=PIXELS (--task-option)")
        return sides[0]

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        if shape[1] != shape[2] or self.side not in (0, shape[1]):
            raise ContractError(f"{self.name} needs square images" + (f" of side {self.side}" if self.side else "") + f", got {shape[1]}x{shape[2]}")
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


@dataclass(frozen=True)
class LowLight(ImageTask):
    """Photon counts: y ~ Poisson(photons (x + 1)/2) / photons, on the scale of intensities."""

    name = "poisson"
    pictures = False
    title = "low light"
    about = "photon counts, 20 where the image is white"
    convention = "y = counts / photons: 0 is black, about 1 white"
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
        GaussianDeblur, MotionDeblur, Colourise, Denoise, Decompress, CompressedSensing, MRI, CoilMRI, CT, LimitedAngle, RayCT, LowLight,
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


def other_settings(made: Mapping[str, Any], task: ImageTask) -> list[str]:
    """What a file's `config()` says otherwise than a task, the noise aside: one text each. A convention that is not written is the usual one.

    >>> other_settings({"name": "ct", "angles": 60, "start": 90.0}, get_task("ct"))
    ['start: measured with 90.0, expected 0.0']
    """
    usual = task.usual_conventions()
    wanted = {**usual, **task.config()}
    found = {**usual, **made}
    return [f"{k}: measured with {found[k]}, expected {v}" for k, v in wanted.items() if k in found and found[k] != v and k not in ("name", "sigma_y")]
