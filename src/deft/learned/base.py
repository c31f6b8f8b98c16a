"""What every learned h has in common: it is sized by a share of the prior, and a card describes it."""

from __future__ import annotations

import math
import weakref
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from deft._renamed import Renamed, new_settings
from deft.core.denoiser import Denoiser, Prediction
from deft.core.htransform import HTransform
from deft.core.likelihood import Likelihood, Observation
from deft.core.operator import Operator
from deft.denoiser.identity import is_prior
from deft.errors import InputError
from deft.kinds.domain import domain_of
from deft.runtime.distributed import get_world
from deft.runtime.messages import log
from deft.tensors import weights_note

H = TypeVar("H", bound="Learned")

_PRIORS: weakref.WeakKeyDictionary[Learned, weakref.WeakSet[Denoiser]] = weakref.WeakKeyDictionary()
"""h -> the priors that are known to be its own. Not among its attributes: copies and pickles find out anew."""
_TASKS: weakref.WeakKeyDictionary[Learned, Any] = weakref.WeakKeyDictionary()
"""h -> its task, until `Learned.measures` is found of it."""
_SIZES: weakref.WeakKeyDictionary[Learned, set[tuple[int, ...]]] = weakref.WeakKeyDictionary()
"""h -> other shapes of samples than its own that were warned of."""
SMALL = 2**14
"""Numbers in a sample up to which a task is asked for a measurement, to see what makes it."""


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

    prior_sha256: str = ""
    """Fingerprint of the prior that it was fitted to, where that is known."""

    measures: str = ""
    """What made the measurements that it was fitted to: the class of the operator, or of the likelihood without one."""

    def belongs_to(self, prior: Denoiser, task: Any, sha256: str = "") -> None:
        """Keep which prior and which task it was fitted to: `condition` refuses others."""
        _PRIORS[self] = weakref.WeakSet([prior])
        self.prior_sha256 = sha256
        if not self.of_prior:
            _TASKS[self] = task

    def check_made_for(self, prior: Denoiser, obs: Observation) -> None:
        """Refuse a prior that it was not fitted to, and an observation that it is shown otherwise than in its fit."""
        known = _PRIORS.setdefault(self, weakref.WeakSet()) if self.prior_sha256 else _PRIORS.get(self)
        # a shard has no fingerprint of the whole
        if known is not None and prior not in known and get_world().size == 1:
            own = self.prior_sha256 or next((p.fingerprint() for p in known), "")
            if own and not is_prior(prior, own):
                raise InputError(
                    f"this h was fitted to another prior (sha256 {own[:12]}…, this one is {prior.fingerprint()[:12]}…"
                    f"{weights_note(prior)}): give the prior it was fitted to, or fit one to this prior; if this is the"
                    " same one in a wrapper, say so by h.belongs_to(prior, task)"
                )
            known.add(prior)
        if (task := _TASKS.pop(self, None)) is not None:
            self.measures = measured_by(task, prior)
        maker = measuring(obs.likelihood)
        if self.measures and self.measures not in {kind.__name__ for kind in maker.__mro__}:
            raise InputError(
                f"this h was fitted to measurements of {self.measures}, and these are of {maker.__name__}: give those"
                " of the task it was fitted to, or fit one to this task"
            )
        self._say_size(prior)
        views = obs.likelihood.feature_channels
        if not self.of_prior and views != self.feature_channels:
            raise InputError(
                f"this h was fitted to a task with {self.feature_channels} views of y, and a measurement"
                f" ({obs.likelihood.kind}) has {views}: give one of the task it was fitted to"
            )
        super().check_made_for(prior, obs)

    def _say_size(self, prior: Denoiser) -> None:
        """Warn, once, of samples of another size than h was fitted to, where its network takes them."""
        mine, asked = tuple(getattr(self, "event_shape", ())), tuple(prior.event_shape)
        domain = None if mine in ((), asked) else domain_of(prior)
        if domain is not None and domain.takes_size(mine, asked) and asked not in _SIZES.setdefault(self, set()):
            _SIZES[self].add(asked)
            fitted, given = ("x".join(map(str, shape)) for shape in (mine, asked))
            log.warning(
                f"warning: this h was fitted to samples of {fitted} and is asked for {given}: look at its samples"
                " before you use them"
            )

    def calibrate(self: H, prior: Denoiser, x: Tensor, max_samples: int = 128, seed: int = 0) -> H:
        """Measure on clean samples x what h wants to know of the prior, if anything. Returns self."""
        return self


def measuring(likelihood: Likelihood) -> type:
    """The class that makes measurements, whatever is around it (a power, a decoder)."""
    inner: Any = likelihood
    while isinstance(inside := getattr(inner, "likelihood", None), Likelihood):
        inner = inside
    while isinstance(inside := getattr(inner, "operator", None), Operator):
        inner = inside
    return type(inner)


def measured_by(task: Any, prior: Denoiser) -> str:
    """The name of what makes a task's measurements (`measuring`); "" where that cannot be found out in a moment."""
    if not hasattr(task, "check") or math.prod(prior.data_shape) > SMALL:
        return ""
    try:
        return measuring(task.check(prior.data_shape).likelihood).__name__
    except Exception:  # a task's own code, of samples of another shape: said where they are drawn
        return ""


def towards(pred: Prediction, mean: Tensor) -> Tensor:
    """The h that moves the prior's mean to `mean`."""
    return (pred.alpha / pred.sigma**2) * (mean - pred.mean)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def widest(prior: Denoiser, size: float, make: Callable[[int], nn.Module], step: int = 1) -> int:
    """The largest multiple n of `step` for which make(n) has at most `size` times the prior's parameters."""

    def count(n: int) -> int:
        with torch.device("meta"):
            return count_parameters(make(n))

    if not 0 < size < math.inf:
        raise InputError(f"size is a share of the prior's parameters, above 0, got {size}")
    budget = int(size * prior.parameter_count())
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
