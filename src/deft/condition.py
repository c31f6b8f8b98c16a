"""condition(prior, h, obs): a denoiser again, so that every method runs with every sampler."""

from __future__ import annotations

import torch
from torch import Tensor

from deft.denoise import Denoiser, Prediction
from deft.errors import ContractError, InputError
from deft.htransform.base import HTransform
from deft.likelihood.base import Observation


class Conditioned(Denoiser):
    """E[x_0 | x_t, y] = E[x_0 | x_t] + (sigma^2 / alpha) h(x_t; y). One call of the prior for each call of this."""

    def __init__(self, prior: Denoiser, h: HTransform, obs: Observation):
        super().__init__()
        self.prior, self.h, self.obs = prior, h, obs
        self.schedule, self.event_shape = prior.schedule, prior.event_shape

    def project(self, noise: Tensor, like: Tensor) -> Tensor:
        return self.prior.project(noise, like)

    def both(self, x_t: Tensor, t: Tensor) -> tuple[Prediction, Tensor]:
        """The prior's own prediction and h, both detached."""
        if not self.h.needs_graph:
            with torch.no_grad():
                pred = self.prior(x_t, t)
                return pred, self.h(pred, self.obs)
        with torch.enable_grad():
            pred = self.prior(x_t.detach().requires_grad_(), t)
            if not pred.mean.requires_grad:
                raise ContractError(
                    f"{type(self.h).__name__} differentiates through the prior, but {type(self.prior).__name__} "
                    "returns a mean that is cut off from x_t; use a method with needs_graph = False (DEFT)"
                )
            h = self.h(pred, self.obs)
        return pred.detach(), h.detach()

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        pred, h = self.both(x_t, t)
        return pred.corrected(h)


def condition(prior: Denoiser, h: HTransform, obs: Observation) -> Conditioned:
    """The prior, conditioned on an observation by an h-transform.

    Args:
        prior: the frozen denoiser.
        h: any h-transform.
        obs: B measurements, one for each sample that will be drawn (`obs.repeat(n)` for n samples of each).

    The chain is run once on B random states, and whoever breaks its promise about shapes is named.
    """
    b = len(obs)
    like = prior.state_like(obs.y)
    x = torch.randn((1, *prior.event_shape), generator=torch.Generator().manual_seed(0))
    x = x.expand(b, *prior.event_shape).to(like.device, like.dtype)
    middle = torch.tensor((prior.schedule.t_min + prior.schedule.t_max) / 2)
    out = Conditioned(prior, h, obs)
    one = slice(0, 1)
    try:
        with torch.no_grad():
            predicted = prior(x[one], middle)
    except RuntimeError as error:
        raise ContractError(f"the prior cannot run on a sample of its own event shape {prior.event_shape}: {error}") from error
    if predicted.mean.shape != x[one].shape:
        raise ContractError(f"the prior's mean has shape {tuple(predicted.mean.shape)}, expected {tuple(x[one].shape)}")
    try:
        lengths = obs[one].log_prob(x[one])
    except RuntimeError as error:
        raise InputError(
            f"the observation (y of shape {tuple(obs.y.shape)}) does not fit samples of shape {prior.event_shape}: {error}"
        ) from error
    if lengths.shape != (1,):
        raise ContractError(f"log_prob returned shape {tuple(lengths.shape)}, expected (1,): sum over all but the batch")
    value = Conditioned(prior, h, obs[one]).both(x[one], middle)[1]
    if value.shape != x[one].shape:
        raise ContractError(f"{type(h).__name__} returned shape {tuple(value.shape)}, expected {tuple(x[one].shape)}")
    return out
