"""Likelihoods p(y | x_0), and the observation that carries y together with everything known about it."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from operator import index as operator_index
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from deft._renamed import Renamed
from deft.arguments import checks_arguments
from deft.core.autodiff import again, pullback
from deft.core.operator import Operator
from deft.core.random import BatchNoise, Noise
from deft.errors import InputError
from deft.printing import Printed, short
from deft.tensors import as_device
from deft.values import Samples

Self = TypeVar("Self", bound="Likelihood")

DRAWS = 8
"""Measurements that are drawn to find the noise of a likelihood that does not say what it is."""


class _OfOperator:
    """A class attribute that is the operator's, where there is an operator; a class or an object may set its own."""

    def __get__(self, like: Likelihood | None, owner: type | None = None) -> int:
        return 1 if like is None or like.operator is None else like.operator.feature_channels


class Likelihood(Renamed, Printed, ABC):
    """p(y | x_0) of measurements y [B, *M] given samples x_0 [B, *E].

    A subclass needs `sample` and `log_prob`. Everything else has a default, and a subclass that knows better says so:

        score, mean_update              gradients, and what they move a sample by
        residual, noise_sigma           what is left of y, and how large it should be (reports, checks, DPS)
        tempered, after                 p(y | x)^beta, and the likelihood of a latent that a decoder makes x of
        features, picture               what a network, and a person, sees of y
        check, measured_part            which y can be one, and which of its entries were measured

    operator: the noiseless part A of the measurement, where there is one; `features`, `picture` and `measured_part` are
        then A's.
    per_sample: names of tensors [B, ...] or [1, ...] that belong to single measurements (a noise level each). They
    follow the batch, as do operators and likelihoods among the attributes.
    feature_channels: sample-sized views of y that `features` returns; the operator's, or 1.
    has_density: False where p(y | x) is known from pairs alone (`deft.likelihood.Unknown`): then there is `features`,
        and no `sample`, no `log_prob`, and nothing that is made of them.

    >>> import math
    >>> class Laplace(Likelihood):
    ...     def __init__(self, scale):
    ...         self.scale = scale
    ...     def sample(self, x, noise):
    ...         u = noise.uniform(x.shape[1:]).to(x) - 0.5
    ...         return x - self.scale * u.sign() * (1 - 2 * u.abs()).log()
    ...     def log_prob(self, y, x):
    ...         return (-(y - x).abs() / self.scale - math.log(2 * self.scale)).flatten(1).sum(1)
    >>> x = torch.zeros(2, 3)
    >>> obs = Observation(Laplace(0.1).sample(x, Noise(0, 2)), Laplace(0.1))
    >>> obs.score(x).abs()
    tensor([[10., 10., 10.],
            [10., 10., 10.]])
    >>> obs[0].likelihood.tempered(0.5)
    Tempered(likelihood=Laplace(scale=0.1), beta=0.5)
    """

    operator: Operator | None = None
    per_sample: ClassVar[tuple[str, ...]] = ()
    feature_channels: int = cast(int, _OfOperator())
    has_density: ClassVar[bool] = True

    @abstractmethod
    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        """Draw y ~ p(y | x), [B, *M]."""

    @abstractmethod
    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y | x), [B], differentiable in x."""

    def score(self, y: Tensor, x: Tensor) -> Tensor:
        """grad_x log p(y | x), [B, *E]; by automatic differentiation unless a subclass knows better."""
        x = x if again(x) else x.detach()
        with torch.enable_grad():
            return pullback(lambda v: self.log_prob(y, v).sum().to(v.dtype), x, x.new_ones(()))

    def approx_mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        """How far a belief N(x, rho2 I) moves when it is updated by y, [B, *E]: a bounded, preconditioned score.

        rho2: [B, 1, ...]. Here rho2 times the score; a subclass that knows its curvature does better.
        """
        return rho2 * self.score(y, x)

    def mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        """The mean of N(x, rho2 I) given y, less x, [B, *E]: exact where there is a closed form (Gaussian noise on a
        linear A), else `approx_mean_update`.

        Methods whose definition has such a step take this; `approx_mean_update` is what learned h are shown, and may be
        cheaper (CT).
        """
        return self.approx_mean_update(y, x, rho2)

    # what is left of y

    def measured_part(self, y: Tensor) -> Tensor:
        """y with the entries that are no measurement (a mask's hole) set to zero."""
        return y if self.operator is None else self.operator.measured_part(y)

    def number_of_measurements(self, y: Tensor) -> Tensor:
        """How many numbers were measured, [B]."""
        if self.operator is not None:
            return self.operator.number_of_measurements(y)
        return torch.full(
            (len(y),),
            float(y[0].numel()) if len(y) else 0.0,
            dtype=y.dtype if y.is_floating_point() else torch.float32,
            device=y.device,
        )

    def residual(self, y: Tensor, x: Tensor) -> Tensor | None:
        """What is left of y where x explains it, y - E[y | x], in y's shape, zero where nothing was measured; None
        where there is no such thing (a class)."""
        return None

    def noise_sigma(self, y: Tensor, x: Tensor) -> Tensor | None:
        """Standard deviation that `residual(y, x)` has if y was drawn given x: [B or 1, 1, ...] or y's shape; None
        where there is no residual.

        Here the root mean square over the measured entries of the residuals of `DRAWS` measurements of x that are drawn
        for this, always the same.
        """
        with torch.no_grad():
            if self.residual(y, x) is None:
                return None
            rows, many = self.repeat(DRAWS), x.repeat_interleave(DRAWS, 0)
            drawn = rows.sample(many, BatchNoise(len(many), 0))
            left = rows.residual(drawn, many)
            assert left is not None
            mean = left.square().flatten(1).sum(1) / rows.number_of_measurements(drawn).clamp_min(1)
            return per_row(mean.unflatten(0, (-1, DRAWS)).mean(1).sqrt(), y)

    def log_predictive(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor | None:
        """log of the mean of p(y | x') over x' ~ N(x, rho2 I), [B], up to a number that depends on rho2 alone; None
        without a closed form, or a usual approximation."""
        return None

    def rescaled(self, y: Tensor, scale: float, offset: float, event_shape: Sequence[int]) -> Tensor | None:
        """y that was measured of u, as if it had been measured of x = scale u + offset, for samples of a shape *E; None
        where y does not say."""
        return None

    # other likelihoods

    def tempered(self, beta: float) -> Likelihood:
        """p(y | x)^beta up to a constant, for objectives and samplers that anneal; beta above 0."""
        if not beta > 0:
            raise InputError(f"beta is a power above 0, got {beta}")
        return self if beta == 1 else Tempered(self, beta)

    def after(self, decoder: Decoder) -> Likelihood:
        """p(y | D(z)): the likelihood of a latent z, which is measured once it is decoded."""
        return AfterDecoder(self, decoder)

    # y for networks and people

    def features(self, y: Tensor) -> Tensor:
        """What a network is shown of y, shaped like samples: [B, feature_channels * E_0, ...]. The operator's view;
        without an operator y itself."""
        return y if self.operator is None else self.operator.features(y)

    def picture(self, y: Tensor) -> Tensor:
        """y for people to look at, shaped like a sample, [B, *E]."""
        if self.operator is None:
            raise InputError(f"a measurement of {type(self).__name__} is nothing to look at")
        return self.operator.picture(y)

    def check(self, y: Tensor) -> None:
        """Refuse a y that cannot be a measurement of this kind, beyond its shape (an `InputError`): negative counts,
        say."""

    @property
    def kind(self) -> str:
        """In a few words, for messages: "Gaussian of Mask"."""
        return type(self).__name__ + ("" if self.operator is None else f" of {type(self.operator).__name__}")

    # rows and devices

    def drawn(self, settings: bool = True) -> list[tuple[str, Tensor]]:
        """(name, tensor) of what was drawn for single measurements: that of the operator (`Operator.drawn`)."""
        return [] if self.operator is None else self.operator.drawn(settings)

    def _follow(
        self: Self, part: Callable[[Any], Any], tensor: Callable[[Tensor], Tensor], names: tuple[str, ...]
    ) -> Self:
        """A copy with its operators and likelihoods, and the named tensors, changed; a subclass stays what it is."""
        changed = {k: part(v) for k, v in vars(self).items() if isinstance(v, (Operator, Likelihood))}
        changed |= {k: tensor(getattr(self, k)) for k in names}
        if not changed:
            return self
        out = copy.copy(self)
        vars(out).update(changed)
        return out

    def __getitem__(self: Self, index: Any) -> Self:
        return self._follow(lambda v: v[index], lambda v: v if len(v) == 1 else v[index], self.per_sample)

    def repeat(self: Self, n: int) -> Self:
        return self._follow(
            lambda v: v.repeat(n), lambda v: v if len(v) == 1 else v.repeat_interleave(n, 0), self.per_sample
        )

    def to(self: Self, device: torch.device | str) -> Self:
        return self._follow(
            lambda v: v.to(device),
            lambda v: v.to(device),
            tuple(k for k, v in vars(self).items() if isinstance(v, Tensor)),
        )


def per_row(value: Tensor, like: Tensor) -> Tensor:
    """Numbers of single rows, [B] or [1], with the axes (and the type) of `like`: [B or 1, 1, ...]."""
    return value.to(like).reshape((-1,) + (1,) * (like.ndim - 1))


class AroundLikelihood(Likelihood):
    """A likelihood made of another one, `likelihood`: what it does not say otherwise is the other's."""

    def __init__(self, likelihood: Likelihood):
        self.likelihood = likelihood

    @property
    def feature_channels(self) -> int:  # type: ignore[override]
        return self.likelihood.feature_channels

    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        return self.likelihood.sample(x, noise)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        return self.likelihood.log_prob(y, x)

    def measured_part(self, y: Tensor) -> Tensor:
        return self.likelihood.measured_part(y)

    def number_of_measurements(self, y: Tensor) -> Tensor:
        return self.likelihood.number_of_measurements(y)

    def residual(self, y: Tensor, x: Tensor) -> Tensor | None:
        return self.likelihood.residual(y, x)

    def features(self, y: Tensor) -> Tensor:
        return self.likelihood.features(y)

    def picture(self, y: Tensor) -> Tensor:
        return self.likelihood.picture(y)

    def drawn(self, settings: bool = True) -> list[tuple[str, Tensor]]:
        return self.likelihood.drawn(settings)

    @property
    def kind(self) -> str:
        return f"{type(self).__name__} {self.likelihood.kind}"


class Tempered(AroundLikelihood):
    """p(y | x)^beta, up to a constant: all of its gradients times beta."""

    def __init__(self, likelihood: Likelihood, beta: float):
        super().__init__(likelihood)
        self.beta, self.operator = beta, likelihood.operator

    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        raise InputError("a tempered likelihood is no measurement: sample from the likelihood itself")

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        return self.beta * self.likelihood.log_prob(y, x)

    def score(self, y: Tensor, x: Tensor) -> Tensor:
        return self.beta * self.likelihood.score(y, x)

    def approx_mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        return self.likelihood.approx_mean_update(y, x, self.beta * rho2)

    def mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        return self.likelihood.mean_update(y, x, self.beta * rho2)

    def noise_sigma(self, y: Tensor, x: Tensor) -> Tensor | None:
        """That of the measurement, which is not tempered."""
        return self.likelihood.noise_sigma(y, x)

    def tempered(self, beta: float) -> Likelihood:
        return self.likelihood.tempered(self.beta * beta)


class Decoder(NamedTuple):
    """The decoder D of latents z as a likelihood is told of it (`Likelihood.after`), with the encoder.

    autoencoder: with encode(x) and decode(z). event_shape: of the latents. gradient: how a step in the data becomes one
    in the latents, "encoder" or "decoder" (`deft.operator.latent.Decoded`). gain: how many times larger a small
    deviation is in the data than in the latents.
    """

    autoencoder: Any
    event_shape: tuple[int, ...]
    gradient: str = "decoder"
    gain: float = 1.0


class AfterDecoder(AroundLikelihood):
    """p(y | D(z)) for any likelihood. A belief N(z, rho2 I) about latents is one of deviation gain * rho about the
    data, where the likelihood's own `approx_mean_update` moves it by m; z moves by

        encoder: E(D(z) + m) - E(D(z))          decoder: J^T m / gain^2, J the decoder's Jacobian at z,

    both exact for a linear decoder with J^T J = gain^2 I. `score` is the derivative through the decoder.
    """

    def __init__(self, likelihood: Likelihood, decoder: Decoder):
        super().__init__(likelihood)
        self.decoder, self.encode, self.decode = decoder, decoder.autoencoder.encode, decoder.autoencoder.decode

    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        return self.likelihood.sample(self.decode(x), noise)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        return self.likelihood.log_prob(y, self.decode(x))

    def score(self, y: Tensor, x: Tensor) -> Tensor:
        return pullback(self.decode, x, self.likelihood.score(y, self.decode(x)))

    def residual(self, y: Tensor, x: Tensor) -> Tensor | None:
        return self.likelihood.residual(y, self.decode(x))

    def noise_sigma(self, y: Tensor, x: Tensor) -> Tensor | None:
        return self.likelihood.noise_sigma(y, self.decode(x))

    def approx_mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        return self._moved(self.likelihood.approx_mean_update, y, x, rho2)

    def mean_update(self, y: Tensor, x: Tensor, rho2: Tensor) -> Tensor:
        return self._moved(self.likelihood.mean_update, y, x, rho2)

    def _moved(self, step: Callable[[Tensor, Tensor, Tensor], Tensor], y: Tensor, z: Tensor, rho2: Tensor) -> Tensor:
        gain2 = self.decoder.gain**2
        with torch.no_grad():
            data = self.decode(z)
            move = step(y, data, per_row((gain2 * rho2).reshape(-1), data))
            if self.decoder.gradient == "encoder":
                return self.encode(data + move) - self.encode(data)
        return pullback(self.decode, z, move) / gain2

    def features(self, y: Tensor) -> Tensor:
        """Each sample-like part of the likelihood's own view, encoded."""
        if self.feature_channels == 0:
            return torch.zeros(len(y), 0, *self.decoder.event_shape[1:], device=y.device)
        with torch.no_grad():
            return torch.cat(
                [self.encode(part) for part in self.likelihood.features(y).chunk(self.feature_channels, dim=1)], dim=1
            )


class Observation(Renamed):
    """A batch of measurements y [B, *M] with the likelihood they came from. Immutable.

    `obs[i]`, `obs[i:j]`, `for one in obs`, `obs.repeat(n)` (each row n times in turn) and `obs.to(device)` move y,
    operator, masks and noise level together; nothing is ever set on a likelihood. Copies and pickles like any value.

    y: a tensor, or a NumPy array, which becomes one. Whether it fits a prior is checked where the two meet
        (`fitted_to`).

    >>> import deft
    >>> obs = deft.Observation(torch.zeros(3, 2), deft.Gaussian(deft.Identity(), torch.tensor([0.1, 0.2, 0.5])))
    >>> obs[1].y.shape, obs[1].likelihood.sigma_y, len(obs.repeat(4))
    (torch.Size([1, 2]), tensor([0.2000]), 12)
    """

    __slots__ = ("_lifted", "likelihood", "y")
    y: Tensor
    likelihood: Likelihood
    _lifted: Tensor | None

    def __init__(self, y: Tensor, likelihood: Likelihood, lifted: Tensor | None = None):
        if not isinstance(likelihood, Likelihood):
            raise InputError(
                f"the likelihood of an observation is {short(likelihood)}: expected a Likelihood, such as"
                " deft.Gaussian(operator, sigma_y)"
            )
        y = as_tensor(y, "y")
        if y.ndim == 0:
            raise InputError(f"y is one number, {float(y):g}: expected a tensor [B, ...] of measurements")
        for name, value in [*likelihood.drawn(), *((k, getattr(likelihood, k)) for k in likelihood.per_sample)]:
            if value.shape[0] not in (1, len(y)):
                raise InputError(
                    f"{name} has {value.shape[0]} rows and y {len(y)}: give one for each measurement, or one for all"
                    f" (shape {tuple(value.shape)})"
                )
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "_lifted", lifted)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an Observation is immutable: make a new one")

    def __len__(self) -> int:
        return self.y.shape[0]

    def __iter__(self) -> Iterator[Observation]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Observation, (self.y, self.likelihood)

    def __repr__(self) -> str:
        return f"Observation(y={short(self.y)}, likelihood={self.likelihood!r})"

    def __getitem__(self, index: Any) -> Observation:
        """Some rows, as a batch: by a number, a slice, a list, or a tensor of numbers or truth values."""
        if isinstance(index, tuple) or index is None or index is Ellipsis:
            raise InputError(
                f"an Observation is indexed by rows alone, got {index!r}: take obs.y for parts of a measurement"
            )
        if not isinstance(index, (slice, list, Tensor)) and not (hasattr(index, "ndim") and index.ndim):
            try:
                i = operator_index(index)
            except TypeError:
                raise InputError(
                    f"an Observation is indexed by rows, got {index!r}: a number, a slice, a list"
                ) from None
            if not -len(self) <= i < len(self):
                raise IndexError(f"row {i} of {len(self)} measurements")
            index = slice(i, i + 1 or None)
        return Observation(self.y[index], self.likelihood[index], None if self._lifted is None else self._lifted[index])

    def fingerprint(self) -> str:
        """SHA-256 of y and of every tensor that was drawn for it (`Operator.drawn`, without `Operator.settings`), as
        float32.

        >>> import torch
        >>> from deft import Gaussian, Identity
        >>> obs = Observation(torch.zeros(1, 1, 2, 2), Gaussian(Identity(), 0.1))
        >>> obs.fingerprint() == obs.repeat(1).fingerprint()
        True
        """
        found = hashlib.sha256(_bytes(self.y))
        for _, value in self.likelihood.drawn(settings=False):
            found.update(_bytes(value))
        return found.hexdigest()

    @checks_arguments
    def repeat(self, n: Samples) -> Observation:
        lifted = None if self._lifted is None else self._lifted.repeat_interleave(n, 0)
        return Observation(self.y.repeat_interleave(n, 0), self.likelihood.repeat(n), lifted)

    def to(self, device: torch.device | str) -> Observation:
        device = as_device(device)
        return Observation(
            self.y.to(device), self.likelihood.to(device), None if self._lifted is None else self._lifted.to(device)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(y | x), [B]."""
        return self.likelihood.log_prob(self.y, x)

    def score(self, x: Tensor) -> Tensor:
        """grad_x log p(y | x), [B, *E]."""
        return self.likelihood.score(self.y, x)

    def hidden(self, shape: Sequence[int]) -> Tensor | None:
        """1 where samples of this shape [B, *E] were not measured, 0 where they were; None for measurements that are no
        mask's."""
        if tuple(self.y.shape) != tuple(shape):
            return None
        hidden = 1 - self.likelihood.measured_part(torch.ones_like(self.y))
        return hidden if bool((hidden > 0).any()) else None

    def residual_rms(self, x: Tensor) -> Tensor | None:
        """Root mean square of y - A(x) over what was measured, [B], in the units of y; None where there is no residual.

        A sample of the posterior has about sigma_y here; much more means the measurement was not obeyed.
        """
        left = self.likelihood.residual(self.y, x)
        if left is None:
            return None
        return (left.square().flatten(1).sum(1) / self.likelihood.number_of_measurements(self.y)).sqrt()

    def features(self) -> Tensor:
        """The network's view of y, [B, feature_channels * E_0, ...]; computed once, and it follows the rows."""
        if self._lifted is None:
            object.__setattr__(self, "_lifted", self.likelihood.features(self.y))
        assert self._lifted is not None
        return self._lifted


def as_tensor(value: Any, name: str) -> Tensor:
    """A tensor as it is, a NumPy array as one (of this machine's byte order)."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubc":
        kept = {"longdouble": np.float64, "clongdouble": np.complex128}.get(
            value.dtype.name, value.dtype.newbyteorder("=")
        )
        kept = np.float64 if value.dtype.itemsize > 8 and value.dtype.kind == "f" else kept
        return torch.from_numpy(np.ascontiguousarray(value, dtype=kept))
    raise InputError(f"{name} is {type(value).__name__}, expected a tensor [B, ...] of measurements")


def _bytes(value: Tensor) -> bytes:
    value = value.detach().cpu()
    return (torch.view_as_real(value) if value.is_complex() else value).float().contiguous().numpy().tobytes()
