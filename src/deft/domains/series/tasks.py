"""What is measured of series: gaps, the past, noisy values, means over steps, some of the variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from deft.core.random import BatchNoise, Noise
from deft.errors import InputError
from deft.io.settings import choice
from deft.likelihood.task import Drawn, OperatorTask
from deft.operator import BlockAverage, Identity, Mask, Operator
from deft.values import Range, Share

PATTERNS = ("random", "blocks", "variable")


@dataclass(frozen=True)
class SeriesTask(OperatorTask):
    """y = A(x) + sigma_y n for series [B, C, L] in model space, where each variable has mean 0 and deviation 1.

    sigma_y: in deviations of a variable.
    """

    kind: ClassVar[str] = "series"
    prior: ClassVar[str] = "air"

    def noise_text(self) -> str:
        return f"sigma_y {self.sigma_y:g}, in deviations of each variable"


@dataclass(frozen=True)
class Gapped(Drawn, SeriesTask):
    """Some of the entries are seen."""

    feature_channels = 2
    drawn = "mask"
    convention = "y = m x in model space, 0 where hidden; mask: 1 is seen, 0 hidden, [N, C, L]"
    sigma_y: float = 0.0

    def build(self, drawn: Tensor) -> Operator:
        return Mask(drawn)


@dataclass(frozen=True)
class Impute(Gapped):
    """A share of the entries is missing. pattern: "random" entries, "blocks" of times in which all variables are
    missing, or a whole "variable" (of which there is then one, whatever the share); "mixed" is one of the first two for
    each series, with a share between 0.1 and `share`.

    >>> import deft, torch
    >>> obs = deft.tasks.Impute(share=0.5, pattern="random").observe(torch.randn(1, 2, 8), deft.Noise(0, 1))
    >>> int(obs.likelihood.operator.mask.sum())
    8
    """

    name = "impute"
    title = "fill gaps"
    about = "gaps here and there, and in blocks (share, pattern = mixed, random, blocks, variable)"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"pattern": ("mixed", *PATTERNS)}
    share: Share = 0.9
    pattern: str = "mixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        choice(f"pattern of the task {self.name}", self.pattern, self.choices["pattern"])

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        u = noise.uniform((3,))
        if self.pattern == "variable":
            return _all_but(noise, shape, 1)
        share = torch.full_like(u[:, 0], self.share)
        if self.pattern == "random":
            return _scattered(noise, shape, share)
        if self.pattern == "blocks":
            return _block(u[:, 1], shape, share)
        least = min(0.1, self.share)
        share = least + (self.share - least) * u[:, 0]
        scattered = _scattered(noise, shape, share)
        # a block that hides nearly all of the times leaves nothing to go by
        return torch.where(u[:, 2, None, None] < 0.5, scattered, _block(u[:, 1], shape, share.clamp_max(0.5)))


@dataclass(frozen=True)
class Forecast(Gapped):
    """The last `share` of the times is not seen.

    >>> import deft, torch
    >>> obs = deft.tasks.Forecast().observe(torch.randn(1, 2, 8), deft.Noise(0, 1))
    >>> obs.likelihood.operator.mask[0, 0]
    tensor([1., 1., 1., 1., 1., 1., 0., 0.])
    """

    name = "forecast"
    title = "forecast"
    about = "the last quarter is not seen (share)"
    share: Share = 0.25

    def hidden(self, length: int) -> int:
        """How many times are not seen."""
        return min(length - 1, max(1, round(self.share * length)))

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        length = shape[-1]
        seen = (torch.arange(length) < length - self.hidden(length)).to(torch.get_default_dtype())
        return seen.expand(len(noise), *shape).clone()


@dataclass(frozen=True)
class CrossChannel(Gapped):
    """Some `channels` of the variables are never seen; which, is drawn for each series.

    >>> import deft, torch
    >>> obs = deft.tasks.CrossChannel(channels=2).observe(torch.randn(1, 3, 4), deft.Noise(0, 1))
    >>> int(obs.likelihood.operator.mask.sum())
    4
    """

    name = "cross-channel"
    title = "variables from others"
    about = "some of the variables are never seen (channels)"
    channels: Annotated[int, Range(1, 4096)] = 1

    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        if self.channels >= shape[0]:
            raise InputError(
                f"{self.name} hides {self.channels} of {shape[0]} variables, and at least one must be seen: give fewer"
                " channels"
            )
        return _all_but(noise, shape, self.channels)


@dataclass(frozen=True)
class DenoiseSeries(SeriesTask):
    """Every entry with noise.

    >>> import deft, torch
    >>> deft.tasks.DenoiseSeries().observe(torch.randn(1, 2, 8), deft.Noise(0, 1)).y.shape
    torch.Size([1, 2, 8])
    """

    name = "denoise-series"
    title = "denoise series"
    about = "every entry with noise of 0.3 deviations"
    convention = "y = x + noise in model space"
    sigma_y: float = 0.3

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return Identity()


@dataclass(frozen=True)
class Resolution(SeriesTask):
    """The mean over every `factor` times: daily means, of which hourly values are wanted. The means are those of model
    space; of a length that is no multiple the last one is of fewer.

    >>> import deft, torch
    >>> deft.tasks.Resolution(factor=4).observe(torch.randn(1, 2, 10), deft.Noise(0, 1)).y.shape
    torch.Size([1, 2, 3])
    """

    name = "resolution"
    title = "finer steps of time"
    about = "means over every 24 times are seen (factor)"
    convention = "y is the mean over each block of times, in model space"
    sigma_y: float = 0.02
    factor: Annotated[int, Range(1, 65536)] = 24

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return BlockAverage(self.factor, (x.shape[2],))


def _scattered(noise: Noise | BatchNoise, shape: Sequence[int], share: Tensor) -> Tensor:
    """A share [B] of entries hidden, exactly (at least one seen and one hidden)."""
    u = noise.uniform(tuple(shape)).flatten(1)
    n = u.shape[1]
    hidden = (share * n).round().clamp(1, n - 1)
    rank = u.argsort(1).argsort(1)
    return (rank >= hidden[:, None]).to(torch.get_default_dtype()).reshape(-1, *shape)


def _block(place: Tensor, shape: Sequence[int], share: Tensor) -> Tensor:
    """One stretch of a share [B] of the times hidden for all variables."""
    length = shape[-1]
    size = (share * length).round().clamp(1, length - 1)
    start = (place * (length - size + 1)).floor()
    at = torch.arange(length)
    hole = (at >= start[:, None]) & (at < (start + size)[:, None])
    return (~hole).to(torch.get_default_dtype())[:, None].expand(-1, *shape).clone()


def _all_but(noise: Noise | BatchNoise, shape: Sequence[int], hidden: int) -> Tensor:
    """So many variables hidden, at random."""
    if shape[0] < 2:
        raise InputError(f"a series of one variable has no other to go by: it has the shape {tuple(shape)}")
    rank = noise.uniform((shape[0],)).argsort(1).argsort(1)
    return (rank >= hidden).to(torch.get_default_dtype())[:, :, None].expand(-1, *shape).clone()


TASKS = {t.name: t for t in (Impute, Forecast, DenoiseSeries, Resolution, CrossChannel)}
