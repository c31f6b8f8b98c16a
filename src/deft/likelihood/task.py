"""Tasks: clean x -> an observation of it, with a fresh operator and fresh noise each time. What an amortised h is
fitted to.

`OperatorTask` is y = A(x) + sigma_y n for any kind of data; `Drawn` one whose A is redrawn for each sample. `Tilt` is a
reward in place of a measurement, and `Through` any task as a latent prior sees it. Which tasks there are, each kind of
data says (`deft.kinds.domain`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from deft._renamed import Renamed
from deft.arguments import checks_arguments
from deft.core.denoiser import Denoiser
from deft.core.likelihood import Likelihood, Observation
from deft.core.operator import Operator
from deft.core.random import BatchNoise, Noise
from deft.errors import ContractError, InputError
from deft.kinds.domain import Task
from deft.likelihood.gaussian import Gaussian
from deft.likelihood.reward import Reward
from deft.printing import short
from deft.tensors import float32_default
from deft.values import Deviation, base_kind, check, check_numbers, field_kinds

Choices = dict[str, tuple[str, ...]]
"""Setting -> the words that it may be."""
Limits = tuple[float, float]
"""The two numbers that stood for the ends of the range of a sample's values."""


Arrays = dict[str, np.ndarray]
"""The arrays of a measurement file."""


@dataclass(frozen=True)
class Change:
    """One way in which a measurement may have been made otherwise. name: for people. fix: what to do about it. apply:
    arrays of the file -> arrays as we have them. value_range: of the samples that were measured. options: settings of
    the task."""

    name: str
    fix: str
    apply: Callable[[Arrays], Arrays] | None = None
    value_range: Limits | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def measuring(noise: Noise | BatchNoise) -> BatchNoise:
    """The streams that a task measures with."""
    return noise.for_measurements if isinstance(noise, Noise) else noise


class RefusingNoise:
    """The noise of a task that does not say what it draws: its measurements could not be read back from a file, nor
    distinguished from fixed ones."""

    def __init__(self, task: str):
        self._task = task

    def __getattr__(self, name: str) -> Any:
        raise InputError(
            f"the task {self._task} draws its operator from noise and does not say what is drawn: make it a `Drawn` (or"
            " `Masked`), see docs/add-an-operator.md"
        )


@dataclass(frozen=True)
class OperatorTask(Renamed, ABC):
    """y = A(x) + sigma_y n; A may be redrawn for each sample.

    sigma_y: in the units of y. 0 is a noiseless measurement: methods that want a density are told `Gaussian.surrogate`
        (0.02).

    Class variables: name, title and about for people; kind: what samples are called in messages; feature_channels as
    the operator's; prior: the bundled prior to show it on ("" for none); drawn: what differs from sample to sample
    ("mask", "kernel"), so that a measurement has to come with it ("" if nothing does). convention: what y's numbers
    mean, in one line; conventions: the settings that say so where another program measured. At their usual values these
    are left out of `config()`, so that cards and measurement files stay what they were before there were any. switches:
    settings that are "true" or "false"; choices: settings that are one of some words.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str] = ""
    kind: ClassVar[str] = "samples"
    feature_channels: ClassVar[int] = 1
    drawn: ClassVar[str] = ""
    prior: ClassVar[str] = ""
    convention: ClassVar[str] = ""
    conventions: ClassVar[tuple[str, ...]] = ()
    switches: ClassVar[tuple[str, ...]] = ()
    choices: ClassVar[Choices] = {}
    sigma_y: float = 0.05

    def __post_init__(self) -> None:
        for name, kind in field_kinds(type(self)).items():
            value = getattr(self, name)
            held = base_kind(kind) in (int, float) and isinstance(value, (Tensor, np.ndarray, np.generic))
            # one number is one, whatever holds it; a gradient would be lost
            if held and value.ndim == 0 and not getattr(value, "requires_grad", False):
                object.__setattr__(self, name, value.item())
        check(Deviation, self.sigma_y, f"sigma_y of the task {self.name}")
        check_numbers(self, f"task {self.name}: ")

    @abstractmethod
    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        """The operator of each sample in x. What differs from sample to sample is drawn from noise by tasks that say so
        (`Drawn`)."""

    def likelihood(self, operator: Operator) -> Likelihood:
        """p(y | x) for the operator."""
        return Gaussian(operator, self.sigma_y)

    @float32_default()
    @checks_arguments
    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation:
        """Measurements of samples x [B, *E]. noise: of each of them.

        Raises:
            InputError: no samples, samples that are not finite floating-point numbers, or noise of another number.
        """
        if x.ndim < 2 or len(x) == 0 or not x.is_floating_point() or not bool(torch.isfinite(x).all()):
            raise InputError(f"{self.name} measures samples [B, *E] of finite numbers, B at least 1, got {short(x)}")
        if len(noise) != len(x):
            raise InputError(f"{len(x)} samples to measure, noise for {len(noise)}: give deft.Noise(seed, {len(x)})")
        noise = measuring(noise)
        operator = self.operator(x, noise if isinstance(self, Drawn) else cast("BatchNoise", RefusingNoise(self.name)))
        likelihood = self.likelihood(operator.to(x.device))
        return Observation(likelihood.sample(x, noise), likelihood)

    @property
    def fixed(self) -> bool:
        """Nothing is random: a sample always gives the same y."""
        return self.sigma_y == 0 and not self.drawn

    def config(self) -> dict[str, Any]:
        """The settings as JSON, from which `deft.io.tasks.make_task` makes the same task."""
        usual = self.usual_conventions()
        return {"name": self.name, **{k: v for k, v in asdict(self).items() if k not in usual or v != usual[k]}}

    @classmethod
    def usual_conventions(cls) -> dict[str, Any]:
        """The settings for other programs' measurements, with their usual values."""
        usual: dict[str, Any] = {}
        for f in fields(cls):
            usual[f.name] = f.default_factory() if f.default_factory is not MISSING else f.default
        return {k: usual[k] for k in cls.conventions}

    def check(self, event_shape: Sequence[int]) -> Observation:
        """Try the task on one sample of zeros, before anything is computed; returns that observation.

        Raises `InputError` if samples of this shape cannot be measured so.
        """
        try:
            return self.observe(torch.zeros(1, *event_shape), BatchNoise(1, 0))
        except (ContractError, InputError, RuntimeError) as error:
            shape = "x".join(map(str, event_shape))
            raise InputError(f"the task {self.name} does not fit {self.kind} of {shape}: {error}") from error

    # measurements from files (`deft.io.measurements`)

    @property
    def elsewhere(self) -> str:
        """What to say of a y that does not fit, which another program may have measured: the settings there are for
        that. "" if none."""
        if not self.conventions:
            return ""
        names = ", ".join(f"{k}=" for k in self.conventions)
        return (
            f"measured by another program? This task has the settings {names}; `deft measure convert` reads other"
            " programs' files (docs/conventions.md)"
        )

    def readings(self, y_shape: Sequence[int]) -> Sequence[tuple[str, dict[str, Any]]]:
        """Other conventions that a measurement of this shape may have been made in: (words, settings)."""
        return ()

    def changes(self, arrays: Arrays) -> list[Change]:
        """The ways in which a measurement with these arrays is usually made otherwise, one by one, for
        `deft measure inspect`."""
        found = []
        for name, options in self.readings(arrays["y"].shape):
            if all(getattr(self, k) != v for k, v in options.items()):
                shown = " ".join(
                    f"--task-option {k}={v:g}" if isinstance(v, float) else f"--task-option {k}={v}"
                    for k, v in options.items()
                )
                found.append(Change(name, shown, options=options))
        return found

    def noise_text(self) -> str:
        """The noise in words."""
        return f"sigma_y {self.sigma_y:g}"

    def rescaled(self, y: Tensor, operator: Operator, event_shape: Sequence[int], value_range: Limits) -> Tensor:
        """y [N, *M] that was measured of samples in [low, high], as if it had been of samples in this library's units.

        Raises:
            InputError: there is no such rule for this task.
        """
        raise InputError(
            f"a range of values is for images, and {self.name} measures {self.kind}: give y of {self.kind} in this"
            " library's units, and leave --range out"
        )

    def check_measured(self, where: str, y: Tensor, measured: Tensor, sure: bool) -> None:
        """Look at values y [N, *M], and at what of them was measured (truth values of the same shape), that were read
        from a file.

        sure: the file says that y is in this library's units.

        Raises:
            InputError: they cannot be what they are taken for; `where` names them.
        """

    def range_hint(self, values: np.ndarray) -> str:
        """The range that values look like, as what follows `--range`."""
        return " LOW,HIGH"


@dataclass(frozen=True)
class Drawn(OperatorTask):
    """A task whose operator is redrawn for each sample: by one tensor, which the operator keeps under the name
    `drawn`."""

    @abstractmethod
    def draw(self, shape: Sequence[int], noise: Noise | BatchNoise) -> Tensor:
        """The tensor [B, ...] for samples of a shape (*E)."""

    @abstractmethod
    def build(self, drawn: Tensor) -> Operator:
        """The operator it makes."""

    def build_for(self, drawn: Tensor, event_shape: Sequence[int]) -> Operator:
        """The operator it makes for samples of a shape: `build`, for tasks that need no shape."""
        return self.build(drawn)

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        return self.build(self.draw(x.shape[1:], noise).to(x.device))


class Through:
    """A task as the prior sees it: its own, or, for a latent prior, that of measuring what latents decode to."""

    def __init__(self, task: Task, prior: Denoiser):
        self.task, self.prior = task, prior

    @float32_default()
    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation:
        return self.prior.to_latent(self.task.observe(self.prior.decode(x), noise))


class TensorOf(nn.Module):
    """A function of somebody's, which must return a tensor."""

    def __init__(self, function: Callable[[Tensor], Tensor], name: str):
        super().__init__()
        self.function, self.name = function, name

    def forward(self, x: Tensor) -> Tensor:
        found = self.function(x)
        if not isinstance(found, Tensor):
            got = "nothing" if found is None else f"a value of the type {type(found).__name__}"
            raise ContractError(f"the reward {self.name} returned {got}, expected a tensor: one number for each sample")
        return found


class LogProbability(nn.Module):
    """x -> log p(label | x) of a classifier that returns logits [B, classes]."""

    def __init__(self, net: Callable[[Tensor], Tensor], label: int):
        super().__init__()
        self.net, self.label = net, label

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        if logits.ndim != 2 or not self.label < logits.shape[1]:
            raise ContractError(
                f"for the class {self.label} the reward must return logits [B, classes], classes above {self.label};"
                f" got shape {tuple(logits.shape)}"
            )
        return logits.log_softmax(1)[:, self.label]


@dataclass(frozen=True)
class Tilt(OperatorTask):
    """No measurement at all but a reward r: samples of p(x) exp(r(x) / beta). In no table of tasks: it needs a
    function.

    source: where the function is from, for people; a card names it and does not hold it. label: the function returns
    logits [B, classes], and r is log p(label | x); -1: it returns r itself, [B].
    """

    name = "reward"
    title = "a reward"
    about = "samples that a function likes (--reward, docs/control.md)"
    feature_channels = 0
    sigma_y: float = 0.0
    source: str = ""
    beta: float = 1.0
    label: int = -1
    function: Callable[[Tensor], Tensor] | None = field(default=None, compare=False, repr=False)

    def config(self) -> dict[str, Any]:
        return {"name": self.name, "source": self.source, "beta": self.beta, "label": self.label}

    def operator(self, x: Tensor, noise: Noise | BatchNoise) -> Operator:
        raise InputError("a reward measures nothing: there is no operator")

    @float32_default()
    def observe(self, x: Tensor, noise: Noise | BatchNoise) -> Observation:
        if self.function is None:
            raise InputError(
                f"this h was fitted to the reward {self.source}, which its card names and does not hold: give it with"
                " --reward (deft sample)"
            )
        own = TensorOf(self.function, self.source)
        reward = own if self.label < 0 else LogProbability(own, self.label)
        return Reward(reward, self.beta, tuple(x.shape[1:])).observe(len(x)).to(x.device)

    def check(self, event_shape: Sequence[int]) -> Observation:
        """Try the function, and its derivative, on two samples of zeros (grey images)."""
        x = torch.zeros(2, *event_shape)
        obs = self.observe(x, BatchNoise(2, 0))
        try:
            slope = obs.score(x)
        except (InputError, ContractError):
            raise
        except Exception as error:  # whatever somebody's function raises
            shape = ", ".join(map(str, x.shape))
            what = "images" if x.ndim == 4 else self.kind
            raise InputError(
                f"the reward {self.source} fails on {what} [{shape}]{' in [-1, 1]' if x.ndim == 4 else ''}:"
                f" {type(error).__name__}: {error}"
            ) from error
        if not bool(torch.isfinite(slope).all()):
            raise InputError(
                f"the reward {self.source} has a derivative that is not finite at"
                f" {'a grey image' if x.ndim == 4 else 'zero'}"
            )
        return obs[:1]


__all__ = [
    "Arrays",
    "Change",
    "Choices",
    "Drawn",
    "Limits",
    "LogProbability",
    "OperatorTask",
    "RefusingNoise",
    "Task",
    "Through",
    "Tilt",
]
