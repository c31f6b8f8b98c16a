"""Conditions that are no measurement of an instrument: a class, and a reward."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from deft.core.likelihood import Likelihood, Observation
from deft.core.random import BatchNoise, Noise
from deft.errors import ContractError, InputError
from deft.tensors import float32_default

ONE_HOT = 32
"""Up to this many classes are shown one plane each; more are written in binary digits."""


def _frozen(net: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return net.eval().requires_grad_(False) if isinstance(net, nn.Module) else net


def _moved(net: Callable[[Tensor], Tensor], device: torch.device | str) -> Callable[[Tensor], Tensor]:
    return copy.deepcopy(net).to(device) if isinstance(net, nn.Module) else net


class Classifier(Likelihood):
    """p(y = c | x) = softmax(net(x))_c: samples of a class.

    y is [B, 1], the class of each row (whole numbers from 0); `observe(labels)` makes the observation.

    Args:
        net: x [B, *E] -> logits [B, classes], trained on clean samples in the prior's range. A module is put into eval
            mode and its parameters are frozen; it is no part of any h or checkpoint.
        classes: how many.
        event_shape: *E.

    `features` is one code for each class, constant over the picture: planes of 0 and one 1 for up to 32 classes, else
    the binary digits as -1 and 1, filled up with zeros to a multiple of the sample's channels.

    >>> from deft.likelihood import Classifier
    >>> like = Classifier(lambda x: torch.cat([x, -x], 1), classes=2, event_shape=(1,))
    >>> like.observe([0]).score(torch.zeros(1, 1))
    tensor([[1.]])
    """

    def __init__(self, net: Callable[[Tensor], Tensor], classes: int, event_shape: Sequence[int]):
        if classes < 2 or not event_shape:
            raise InputError(
                f"Classifier needs at least 2 classes and an event shape, got {classes} and {tuple(event_shape)}"
            )
        self.net, self.classes, self.event_shape = _frozen(net), classes, tuple(event_shape)
        if classes <= ONE_HOT:
            codes = torch.eye(classes)
        else:
            digits = torch.arange(math.ceil(math.log2(classes)))
            codes = 2.0 * (torch.arange(classes)[:, None] >> digits & 1) - 1
        self.feature_channels = -(-codes.shape[1] // self.event_shape[0])
        self.codes = nn.functional.pad(codes, (0, self.feature_channels * self.event_shape[0] - codes.shape[1]))

    @float32_default()
    def observe(self, labels: Sequence[int] | Tensor) -> Observation:
        """One row for each label."""
        y = torch.as_tensor(labels).reshape(-1, 1)
        if y.is_floating_point() or not bool(((y >= 0) & (y < self.classes)).all()):
            raise InputError(f"labels are whole numbers from 0 to {self.classes - 1}, got {y.flatten().tolist()}")
        return Observation(y.long(), self)

    def log_probs(self, x: Tensor) -> Tensor:
        """log p(c | x) of every class, [B, classes]."""
        logits = self.net(x)
        if logits.shape != (len(x), self.classes):
            raise ContractError(
                f"the classifier returned shape {tuple(logits.shape)}, expected ({len(x)}, {self.classes}): logits of"
                f" {self.classes} classes"
            )
        return logits.log_softmax(1)

    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        """A class drawn from the classifier's own probabilities."""
        with torch.no_grad():
            below = self.log_probs(x).double().exp().cumsum(1)
        u = noise.uniform((1,), device=x.device).double()
        return (u >= below).sum(1, keepdim=True).clamp_max(self.classes - 1)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        return self.log_probs(x).gather(1, y.long())[:, 0]

    def features(self, y: Tensor) -> Tensor:
        code = self.codes.to(y.device)[y.long()[:, 0]]
        tail = self.event_shape[1:]
        return code.reshape(*code.shape, *(1 for _ in tail)).expand(*code.shape, *tail)

    def to(self, device: torch.device | str) -> Classifier:
        """A copy of the network, on that device."""
        out = copy.copy(self)
        out.net, out.codes = _moved(self.net, device), self.codes.to(device)
        return out


class Reward(Likelihood):
    """log p(y | x) = reward(x) / beta, up to a constant: samples of p(x) exp(reward(x) / beta).

    There is nothing to observe: y is a zero for each row, `observe(n)` makes n of them, and a network is shown no
    channel of it. Fit an h to it on paths (stochastic control), not on pairs of x and y, of which there are none.

    Args:
        reward: x [B, *E] -> [B], differentiable. A module is put into eval mode and its parameters are frozen.
        beta: temperature, in units of the reward; small is greedy.
        event_shape: *E.

    >>> import deft
    >>> from deft.likelihood import Reward
    >>> obs = Reward(lambda x: -x.square().sum(1), beta=0.5, event_shape=(2,)).observe(1)
    >>> obs.score(torch.ones(1, 2))
    tensor([[-4., -4.]])
    """

    feature_channels = 0

    def __init__(self, reward: Callable[[Tensor], Tensor], beta: float, event_shape: Sequence[int]):
        if not 0 < beta < math.inf or not event_shape:
            raise InputError(
                f"Reward needs a finite beta above 0 and an event shape, got {beta} and {tuple(event_shape)}"
            )
        self.reward, self.beta, self.event_shape = _frozen(reward), beta, tuple(event_shape)

    @float32_default()
    def observe(self, n: int) -> Observation:
        return Observation(torch.zeros(n, 1), self)

    def sample(self, x: Tensor, noise: Noise | BatchNoise) -> Tensor:
        raise InputError(
            "a Reward is no measurement, so no y can be drawn: use reward.observe(n), and fit h on paths instead of"
            " pairs"
        )

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        value = self.reward(x)
        if value.shape != x.shape[:1]:
            raise ContractError(
                f"the reward returned shape {tuple(value.shape)}, expected ({len(x)},): one number for each sample"
            )
        return value / self.beta

    def features(self, y: Tensor) -> Tensor:
        return y.new_zeros(len(y), 0, *self.event_shape[1:])

    def to(self, device: torch.device | str) -> Reward:
        """A copy of the reward's module, on that device."""
        out = copy.copy(self)
        out.reward = _moved(self.reward, device)
        return out
