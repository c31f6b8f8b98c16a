"""Tasks of sounds: what is measured of a window x [B, 1, L] whose recording has power 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deft.core.random import BatchNoise, Noise
from deft.domains.sound.band import Decimation
from deft.errors import InputError
from deft.likelihood.task import Drawn, OperatorTask
from deft.operator import HDR, Identity, Mask, Operator
from deft.values import Range

Hertz = Annotated[int, Range(1, 10_000_000)]
Milliseconds = Annotated[float, Range(above=0, max=1e6)]


@dataclass(frozen=True)
class SoundTask(OperatorTask):
    """y = A(x) + sigma_y n for sounds [B, 1, L] of power 1 (root mean square 1 over a recording)."""

    kind: ClassVar[str] = "sounds"
    prior: ClassVar[str] = "digits"

    def noise_text(self) -> str:
        """The noise with the sounds it is meant for.

        >>> DenoiseSound().noise_text()
        'sigma_y 0.5 for sounds of power 1, that is 6.0 dB below them'
        """
        if not self.sigma_y:
            return "sigma_y 0: no noise"
        below = -20 * math.log10(self.sigma_y)
        return f"sigma_y {self.sigma_y:g} for sounds of power 1, that is {below:.1f} dB below them"

    def units_of(self, heard: Tensor) -> tuple[float, float]:
        """Of the samples [n] of a file, whatever its gain: what 1 of y, and what 1 of x is in it.

        Here: y has as much power as x, less its noise.
        """
        level = math.sqrt(float(heard.double().square().mean()) / (1 + self.sigma_y**2))
        return level, level


@dataclass(frozen=True)
class Gap(Drawn, SoundTask):
    """`gaps` stretches are not heard, each `shortest` to `longest` milliseconds long, one somewhere in each equal part
    of the window. rate: samples a second.

    >>> import deft, torch
    >>> obs = Gap(gaps=1, shortest=50, longest=50).observe(torch.ones(1, 1, 4096), deft.Noise(0, 1))
    >>> int((obs.likelihood.operator.mask == 0).sum())  # 50 ms of 8,000 samples a second
    400
    """

    name = "gap"
    title = "fill gaps"
    about = "three gaps of 20 to 80 ms"
    feature_channels = 2
    drawn = "mask"
    convention = "y = m x of a recording of power 1, 0 where not heard; mask: 1 is heard, 0 a gap, [N, 1, L]"
    sigma_y: float = 0.02
    gaps: Annotated[int, Range(1, 1000)] = 3
    shortest: Milliseconds = 20.0
    longest: Milliseconds = 80.0
    rate: Hertz = 8000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest > self.longest:
            raise InputError(f"gap needs shortest <= longest, got {self.shortest:g} and {self.longest:g} ms")

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        length = shape[-1]
        low, high = (max(1, round(ms * self.rate / 1000)) for ms in (self.shortest, self.longest))
        part = length // self.gaps
        if high >= part:
            raise InputError(
                f"{self.gaps} gaps of up to {self.longest:g} ms do not fit into {1000 * length / self.rate:.0f} ms"
                f" ({length} samples at {self.rate} Hz): give fewer (gaps=) or shorter ones (longest=)"
            )
        u = noise.uniform((2, self.gaps))
        size = low + (u[:, 0] * (high - low + 1)).floor()
        start = part * torch.arange(self.gaps) + (u[:, 1] * (part - size)).floor()
        at = torch.arange(length)
        hidden = (at >= start[..., None]) & (at < (start + size)[..., None])
        return (~hidden.any(1, keepdim=True)).to(torch.get_default_dtype())

    def build(self, drawn: Tensor) -> Operator:
        return Mask(drawn)


@dataclass(frozen=True)
class Bandwidth(SoundTask):
    """One sample in `factor`, after all above half the new rate is cut off: 8 kHz as a line of 2 kHz would carry it.

    >>> import deft, torch
    >>> Bandwidth().observe(torch.zeros(1, 1, 4096), deft.Noise(0, 1)).y.shape
    torch.Size([1, 1, 1024])
    """

    name = "bandwidth"
    title = "extend the bandwidth"
    about = "a quarter of the rate: all above 1 kHz of 4 is lost"
    convention = "y at a `factor`-th of the rate, resampled by the Fourier transform (as scipy.signal.resample)"
    sigma_y: float = 0.02
    factor: Annotated[int, Range(2, 1024)] = 4

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Decimation(self.factor)


@dataclass(frozen=True)
class DenoiseSound(SoundTask):
    """The sound itself, under white noise 6 dB below it.

    >>> import deft, torch
    >>> DenoiseSound().observe(torch.zeros(1, 1, 4096), deft.Noise(0, 1)).y.std().round(decimals=1)
    tensor(0.5000)
    """

    name = "denoise-sound"
    title = "remove noise"
    about = "the sound under white noise 6 dB below it"
    convention = "y = x + noise, of a recording of power 1"
    sigma_y: float = 0.5

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Identity()


@dataclass(frozen=True)
class Declip(SoundTask):
    """y = clip(x / level, -1, 1): all beyond `level` times the root mean square of the recording is cut off.

    >>> import deft, torch
    >>> Declip(level=0.5).observe(torch.tensor([[[0.1, 0.4, -2.0]]]), deft.Noise(0, 1)).y
    tensor([[[ 0.2000,  0.8000, -1.0000]]])
    """

    name = "declip"
    title = "undo clipping"
    about = "clipped at the recording's root mean square: y = clip(x / level, -1, 1)"
    convention = "y in units of the level at which it was clipped, from -1 to 1"
    feature_channels = 2
    sigma_y: float = 0.0
    level: Annotated[float, Range(above=0, max=1e6)] = 1.0

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return HDR(1 / self.level)

    def units_of(self, heard: Tensor) -> tuple[float, float]:
        """The largest value is that at which it was clipped, and 1 / level of it the recording's root mean square."""
        peak = float(heard.abs().max())
        return peak, peak / self.level


TASKS: dict[str, type[SoundTask]] = {t.name: t for t in (Gap, Bandwidth, DenoiseSound, Declip)}
