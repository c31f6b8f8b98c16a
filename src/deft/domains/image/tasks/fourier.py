"""Tasks in Fourier space: magnitudes, and k-space of one or several coils."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from deft.core.random import BatchNoise, Noise
from deft.domains.image.tasks.base import ImageTask
from deft.errors import ContractError, InputError
from deft.io.settings import FALSE, TRUE
from deft.likelihood.task import Drawn
from deft.operator import (
    CoilFourier,
    KSpace,
    Magnitudes,
    MaskedFourier,
    Operator,
    PhaseRetrieval,
    masks,
    recast,
    smooth_coils,
)
from deft.operator.recast import NORMS, ORIGINS
from deft.values import Range


@dataclass(frozen=True)
class Phase(ImageTask):
    """Magnitudes of the Fourier transform of the zero-padded image, noiseless (paper, section 4.1).

    >>> import deft, torch
    >>> x = 2 * deft.Noise(1, 1).uniform((1, 32, 32)) - 1
    >>> obs = deft.tasks.Phase().observe(x, deft.Noise(0, 1))
    >>> torch.allclose(obs.y, obs.likelihood.operator(x.flip((-2, -1))), atol=1e-4)  # turned by 180 degrees: the same y
    True
    """

    name = "phase"
    feature_channels = 2
    pictures = False
    title = "phase retrieval"
    about = "magnitudes of the Fourier transform, oversampled twice"
    convention = "y = |fft2((x + 1)/2, padded with black)|, orthonormal, zero frequency at [0, 0]"
    conventions = ("intensity", "shifted", "norm", "padding", "signed")
    switches = ("intensity", "shifted", "signed")
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"norm": NORMS}
    sigma_y: float = 0.0
    oversample: Annotated[int, Range(1, 16)] = 2
    intensity: str = FALSE
    shifted: str = FALSE
    norm: str = NORMS[0]
    padding: Annotated[int, Range(0, 10_000)] = 0
    signed: str = FALSE

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        return [
            ("intensities, not magnitudes", {"intensity": TRUE}),
            ("with the zero frequency in the middle", {"shifted": TRUE}),
            ("of a transform without factor", {"norm": "backward"}),
        ]

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        counts = self.intensity == TRUE
        own = PhaseRetrieval(self.oversample, padding=self.padding, signed=self.signed == TRUE, intensity=counts)
        return recast(own, Magnitudes(self.shifted == TRUE, self.norm, counts))


@dataclass(frozen=True)
class MRI(Drawn, ImageTask):
    """Single-coil k-space with an acceleration, another choice of lines for each image.

    centred, norm, origin, sign: the k-space's convention (`deft.operator.recast.KSpace`); a mask is in the same order.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.MRI(acceleration=4.0).observe(x, deft.Noise(0, 1))
    >>> (obs.y != 0).any(2)[0, 0].sum()  # columns of 32
    tensor(8)
    """

    name = "mri"
    pictures = False
    title = "accelerated MRI"
    about = "one coil, every fourth line of k-space at random and the centre"
    drawn = "mask"
    convention = (
        "y: real, then imaginary parts of the orthonormal fft2 of x, zero frequency at [H/2, W/2], pixel [0, 0] of"
        " phase 0"
    )
    conventions = ("centred", "norm", "origin", "sign")
    switches = ("centred",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"norm": NORMS, "origin": ORIGINS}
    acceleration: Annotated[float, Range(above=0, max=10_000)] = 4.0
    centre: float = 0.08
    centred: str = TRUE
    norm: str = NORMS[0]
    origin: str = ORIGINS[0]
    sign: Annotated[int, Range(-1, 1)] = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.k_space  # noqa: B018  the sign is -1 or 1

    @property
    def k_space(self) -> KSpace:
        return KSpace(self.centred == TRUE, self.norm, self.origin, self.sign)

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        return [
            ("with the zero frequency in the corner", {"centred": FALSE}),
            ("of a transform without factor", {"norm": "backward"}),
            ("of a transform divided by the number of pixels", {"norm": "forward"}),
            ("of an image whose middle has phase 0", {"origin": "middle"}),
            ("conjugate", {"sign": 1}),
        ]

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        mask = masks.columns(noise, shape[1], shape[2], self.acceleration, self.centre)
        return mask if self.k_space.centred else torch.fft.ifftshift(mask, (-2, -1))

    def build(self, drawn: Tensor) -> Operator:
        return recast(
            MaskedFourier(drawn if self.k_space.centred else torch.fft.fftshift(drawn, (-2, -1))), self.k_space
        )


@dataclass(frozen=True)
class CoilMRI(MRI):
    """K-space of several coils with known sensitivities, or of one image of known phase (one coil of magnitude 1).

    The encoding of SENSE (Pruessmann et al. 1999).

    What is drawn is [N, 1 + 2 coils, H, W]: the mask, then the real and the imaginary parts of the sensitivities.

    >>> import deft, torch
    >>> x = torch.zeros(1, 1, 32, 32)
    >>> obs = deft.tasks.CoilMRI(coils=4).observe(x, deft.Noise(0, 1))
    >>> obs.y.shape  # real and imaginary parts of each
    torch.Size([1, 8, 32, 32])
    """

    name = "mri-coils"
    title = "accelerated MRI, known coils"
    about = "four coils of known complex sensitivity, every fourth line of k-space and the centre"
    drawn = "coils"
    convention = (
        "as mri, for each coil; x is real and the sensitivities carry its phase: coils = mask, their real, their"
        " imaginary parts"
    )
    coils: Annotated[int, Range(1, 1024)] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sign != -1 or self.coils < 1:
            raise InputError(
                f"{self.name} needs sign=-1 and at least 1 coil, got {self.sign} and {self.coils}: conjugate k-space"
                " and sensitivities instead"
            )

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


TASKS = (Phase, MRI, CoilMRI)
