"""Training a classifier of noisy samples, for `ClassifierGuidance`."""

from __future__ import annotations

from torch import nn

from deft.core.random import BatchNoise
from deft.core.schedule import Schedule
from deft.errors import InputError
from deft.learned.classifier import ClassifierGuidance
from deft.train.denoising import diffuse
from deft.train.protocols import Batch, Loss


class NoisyClassifierObjective:
    """-E log p(c | x_t), x_t = alpha x_0 + sigma n (Dhariwal & Nichol 2021, section 4.1); the minimiser is the true p(c
    | x_t).

    The module is a `ClassifierGuidance`; a batch's observation has the labels as its y
    (`Pairs(x, Observation(labels, likelihood))`).

    Args:
        schedule: the prior's. focus, even: where the noise levels are drawn, see `draw_times`.
    """

    def __init__(self, schedule: Schedule, focus: float = 1.0, even: float = 0.5):
        self.schedule, self.focus, self.even = schedule, focus, even

    def __call__(self, module: nn.Module, batch: Batch, noise: BatchNoise) -> Loss:
        if not isinstance(module, ClassifierGuidance) or batch.observation is None:
            raise InputError("this objective trains a ClassifierGuidance on samples with labels as their observation")
        x_t, _, alpha, sigma = diffuse(self.schedule, batch.x, noise, self.focus, self.even)
        log_p = module.log_prob(x_t, alpha, sigma, batch.observation.y)
        return Loss(-log_p.mean(), {"log p(c | x_t)": log_p.detach().sum()})
