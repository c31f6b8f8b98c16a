"""h-transforms: h(x_t, t; y) ~ grad_{x_t} log p_t(y | x_t), the one thing conditioning adds to a score.

Doob's h-transform (paper, Proposition 2.2): the reverse process whose score is s(x_t) + h(x_t, t; y), with the
exact h, ends in samples of p(x_0 | y). Every method here is an estimate of that h, in score units, shape
[B, *E]. An h-transform never holds the prior: it is given the prior's prediction, and its `state_dict` is all
there is to save.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, Prediction
from deft.core.likelihood import Observation
from deft.printing import PrintedModule


class HTransform(PrintedModule, ABC):
    """h(prediction, observation) -> [B, *E], score units (paper, Proposition 2.2: Denker et al. 2024).

    needs_graph: whether the prior's mean must be differentiable in x_t, that is, whether sampling pays for a
    backward pass through the prior.

    >>> import deft
    >>> class ScoreOfData(deft.HTransform):
    ...     def forward(self, pred, obs):
    ...         return 0.1 * obs.score(pred.mean)
    >>> world, obs = deft.testing.half_seen(4)
    >>> draws = deft.sample_posterior(world.prior(deft.VPCosine()), ScoreOfData(), obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    needs_graph: bool = False
    graph_below: float = math.inf
    """sigma/alpha above which the graph is not needed after all, and not built."""

    @abstractmethod
    def forward(self, pred: Prediction, obs: Observation) -> Tensor: ...

    def check_made_for(self, prior: Denoiser, obs: Observation) -> None:
        """Refuse a prior or an observation that this h was not made for (an `InputError`); any will do by default."""
        for part in self.children():
            if isinstance(part, HTransform):
                part.check_made_for(prior, obs)


class Potential(HTransform):
    """An h that is the gradient of something: h = grad_{x_t} log_h. Particle methods need this promise.

    log_h may leave out terms that do not depend on x_t.

    >>> import deft
    >>> class Likely(deft.Potential):
    ...     def log_h(self, pred, obs):
    ...         return 0.1 * obs.log_prob(pred.mean)
    >>> world, obs = deft.testing.half_seen(4)
    >>> draws = deft.sample_posterior(world.prior(deft.VPCosine()), Likely(), obs, 32, steps=20)
    >>> (draws.mean - world.posterior(obs).mean).abs().mean() < 0.1
    tensor(True)
    """

    needs_graph = True

    @abstractmethod
    def log_h(self, pred: Prediction, obs: Observation) -> Tensor:
        """[B], differentiable in pred.x_t."""

    def forward(self, pred: Prediction, obs: Observation) -> Tensor:
        # others may share the graph: `Sum`
        return torch.autograd.grad(self.log_h(pred, obs).sum(), pred.x_t, retain_graph=True)[0]
