"""What every learned h has in common: it is sized by a share of the prior, and a card describes it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from deft._renamed import Renamed, new_settings
from deft.core.denoiser import Denoiser, Prediction
from deft.core.htransform import HTransform
from deft.errors import InputError
from deft.runtime.messages import log

H = TypeVar("H", bound="Learned")


class Learned(HTransform, Renamed):
    """An h with parameters, which `fit` trains and `save_h` keeps.

    event_shape: *E of the prior. feature_channels: how many sample-sized views of y the likelihood's `features`
        returns.

    Class variables, for the row of the table of methods that a class in `deft.learned.LEARNED` has: title and about:
    for people. runs: of the prior's network at each step. retrains: it is a copy of the whole prior. spacing: of the
    levels that it is sampled on, by default. requires: of the measurement, a key of
    `deft.likelihood.gaussian.REQUIREMENTS`. objective: what a fit minimises, a key of
    `deft.recipe.settings.OBJECTIVES`. of_prior: it is not shown y, knows the prior alone, and serves every task that
    meets `requires`.
    """

    title: ClassVar[str] = ""
    about: ClassVar[str] = ""
    runs: ClassVar[int] = 1
    retrains: ClassVar[bool] = False
    spacing: ClassVar[str] = "log-snr"
    requires: ClassVar[str] = "measurement"
    objective: ClassVar[str] = "denoising"
    of_prior: ClassVar[bool] = False
    event_shape: tuple[int, ...]
    feature_channels: int

    @classmethod
    @abstractmethod
    def sized(cls, prior: Denoiser, size: float, feature_channels: int) -> Learned:
        """The largest of its kind with at most `size` times the prior's parameters."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What `from_config` needs, as plain values, for a checkpoint."""

    @classmethod
    @abstractmethod
    def from_config(cls, prior: Denoiser, config: dict[str, Any]) -> Learned:
        """The h that a `config()` describes, its weights still to be loaded."""

    @classmethod
    def upgrade_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A `config()` that an earlier version wrote, as this one's: settings have other names now."""
        return new_settings(config, cls)

    @classmethod
    def upgrade(cls, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file of an earlier version, with what it lacks at its neutral value."""
        return tensors

    def calibrate(self: H, prior: Denoiser, x: Tensor, max_samples: int = 128, seed: int = 0) -> H:
        """Measure on clean samples x what h wants to know of the prior, if anything. Returns self."""
        return self


def towards(pred: Prediction, mean: Tensor) -> Tensor:
    """The h that moves the prior's mean to `mean`."""
    return (pred.alpha / pred.sigma**2) * (mean - pred.mean)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def widest(prior: Denoiser, size: float, make: Callable[[int], nn.Module], step: int = 1) -> int:
    """The largest multiple n of `step` for which make(n) has at most `size` times the prior's parameters."""
    budget = int(size * prior.parameter_count())

    def count(n: int) -> int:
        with torch.device("meta"):
            return count_parameters(make(n))

    if not size > 0:
        raise InputError(f"size is a share of the prior's parameters, above 0, got {size}")
    if prior.parameter_count() == 0:
        raise InputError(
            "this prior has no parameters to take a share of (a bare function): give a width instead (deft fit"
            " --width 16)"
        )
    n = step
    if count(n) == count(2 * step):  # a network that is given does not follow: any n would do
        raise InputError(
            "the size cannot be chosen for a network of your own (net=): build h with it directly, DEFT(event_shape,"
            " feature_channels, net=net)"
        )
    if count(n) > budget:
        raise InputError(
            f"size={size} of this prior's {prior.parameter_count():,} parameters is {budget:,}; the smallest h "
            f"has {count(n):,}: give a larger size, or a width"
        )
    while count(n + step) <= budget:
        n += step
    return n


def report_size(h: H, prior: Denoiser) -> H:
    """h, after logging how large it is."""
    n, whole = count_parameters(h), prior.parameter_count()
    text = f"h: {n:,} parameters" + (f", {100 * n / whole:.2f} % of the prior's {whole:,}" if whole else "")
    log.info(text)
    return h
