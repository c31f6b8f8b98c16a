"""condition(prior, h, obs): a denoiser again, so that every method runs with every sampler."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deft.arguments import checks_arguments
from deft.core.denoiser import Denoiser, Prediction
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.errors import ContractError, InputError
from deft.tensors import check_eval


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
        if not self.h.needs_graph or self._without_graph(t):
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

    def _without_graph(self, t: Tensor) -> bool:
        """Whether h, which needs the graph at other noise levels, does not at these."""
        if self.h.graph_below == math.inf:
            return False
        level = t.reshape(-1).double()
        lowest = (self.schedule.log_sigma(level) - self.schedule.log_alpha(level)).min()
        return float(lowest) > math.log(self.h.graph_below) + 1e-5  # h compares in its own precision

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        pred, h = self.both(x_t, t)
        return pred.corrected(h)


@checks_arguments
def fitted_to(prior: Denoiser, obs: Observation, event_shape: tuple[int, ...] | None = None) -> Observation:
    """The observation, once it is known to be one of the prior's samples; y in the prior's precision.

    Shapes alone would not tell: y without its channel axis, or a mask for another number of rows, broadcasts against
    A(x) to something else. So A is run on a grey sample, and y must have the shape of its result, row by row.

    Args:
        event_shape: *E that A measures; default the prior's `data_shape` (for a latent prior that of the data).

    Raises:
        InputError: y or what was drawn for it (a mask) has another shape or number of rows; y is complex where A(x) is
            not, holds whole numbers, or values that are not finite; a row measures nothing.
    """
    return fitted_to_samples(
        obs, tuple(prior.data_shape if event_shape is None else event_shape), prior.state_like(obs.y)
    )


def fitted_to_samples(obs: Observation, shape: tuple[int, ...], place: Tensor) -> Observation:
    """`fitted_to` for samples of a shape; place: a tensor on their device and in their precision."""
    like, y, n = obs.likelihood, obs.y, len(obs)
    if y.ndim < 1 or n == 0:
        raise InputError(f"no measurement: y has shape {tuple(y.shape)}, expected [B, ...] with B at least 1")
    operator = like.operator
    if operator is None:
        if not like.has_density:
            like.check(y)
        return (
            Observation(y.to(place.dtype), like)
            if y.is_floating_point() and place.is_floating_point() and y.dtype != place.dtype
            else obs
        )
    if not (y.is_floating_point() or y.is_complex()):
        raise InputError(
            f"y holds {str(y.dtype).removeprefix('torch.')}, expected floats in the units of A(x), for images in [-1,"
            " 1]: bytes are y / 127.5 - 1"
        )
    for name, value in [*like.drawn(), *((name, getattr(like, name)) for name in like.per_sample)]:
        if name in operator.sample_shaped and value.ndim != len(shape) + 1:
            raise InputError(
                f"{name} has shape {tuple(value.shape)}, expected [{n} or 1, {', '.join(map(str, shape))}], or 1 where"
                " it is the same along an axis"
            )
    one = obs[: min(n, 2)]
    x = torch.zeros(len(one), *shape, dtype=place.dtype, device=place.device)
    try:
        with torch.no_grad():
            seen = operator[: len(one)](x)
    except (RuntimeError, ContractError) as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"the observation (y of shape {tuple(y.shape)}, of {type(operator).__name__}) does not fit samples of shape"
            f" {shape}: {said}"
        ) from error
    if y.is_complex() and not seen.is_complex():
        raise InputError(
            f"y is complex, and {type(operator).__name__} makes real numbers of shape {tuple(seen.shape[1:])}: give"
            " real and imaginary part as channels, torch.view_as_real(y).movedim(-1, 1)"
        )
    if tuple(seen.shape) != tuple(one.y.shape):
        raise InputError(
            f"y has shape {tuple(y.shape)}, expected {(n, *seen.shape[1:])}: what {type(operator).__name__} makes of"
            f" {n} samples of shape {shape}"
        )
    if y.is_floating_point() and place.is_floating_point() and y.dtype != place.dtype:
        obs = Observation(y.to(place.dtype), like)
    if not bool(torch.isfinite(obs.y).all()):  # NaN where nothing was measured says the same as the mask
        measured = like.measured_part(torch.ones_like(obs.y)) != 0
        obs = Observation(torch.where(measured, obs.y, torch.zeros_like(obs.y)), like)
    if not bool(torch.isfinite(obs.y).all()):
        raise InputError(
            "y has values that are not finite (NaN or infinite) where it was measured: leave these entries out with a"
            " mask"
        )
    count = like.number_of_measurements(obs.y)
    if bool((count == 0).any()):
        raise InputError(
            f"measurement number {int((count == 0).nonzero()[0])} measures nothing: its mask hides everything"
        )
    return obs


@checks_arguments
def condition(prior: Denoiser, h: HTransform, obs: Observation) -> Conditioned:
    """The prior, conditioned on an observation by an h-transform.

    Args:
        prior: the frozen denoiser.
        h: any h-transform.
        obs: B measurements, one for each sample that will be drawn (`obs.repeat(n)` for n samples of each).

    The chain is run once on B random states, and whoever breaks its promise about shapes is named.

    >>> import deft
    >>> world, obs = deft.testing.half_seen(4)
    >>> posterior = deft.condition(world.prior(deft.VPCosine()), deft.MMPS(8), obs.repeat(3))
    >>> deft.sample(posterior, 3, steps=5).shape
    torch.Size([3, 16])
    """
    check_eval(prior)
    h.check_made_for(prior, obs)
    obs = fitted_to(prior, obs, prior.event_shape)
    b = len(obs)
    like = prior.state_like(obs.y)
    x = torch.randn((1, *prior.event_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    x = x.expand(b, *prior.event_shape).to(like.device, like.dtype)
    middle = torch.tensor((prior.schedule.t_min + prior.schedule.t_max) / 2)
    out = Conditioned(prior, h, obs)
    one = slice(0, 1)
    try:
        with torch.no_grad():
            predicted = prior(x[one], middle)
    except RuntimeError as error:
        raise ContractError(
            f"the prior cannot run on a sample of its own event shape {prior.event_shape}: {error}"
        ) from error
    if predicted.mean.shape != x[one].shape:
        raise ContractError(f"the prior's mean has shape {tuple(predicted.mean.shape)}, expected {tuple(x[one].shape)}")
    try:
        lengths = obs[one].log_prob(x[one]) if obs.likelihood.has_density else x.new_zeros(1)
    except RuntimeError as error:
        raise InputError(
            f"the observation (y of shape {tuple(obs.y.shape)}) does not fit samples of shape {prior.event_shape}:"
            f" {error}"
        ) from error
    if lengths.shape != (1,):
        raise ContractError(
            f"log_prob returned shape {tuple(lengths.shape)}, expected (1,): sum over all but the batch"
        )
    try:
        value = Conditioned(prior, h, obs[one]).both(x[one], middle)[1]
    except RuntimeError as error:
        raise InputError(f"{type(h).__name__} cannot run on samples of {x.dtype} and this y: {error}") from error
    if value.shape != x[one].shape:
        raise ContractError(f"{type(h).__name__} returned shape {tuple(value.shape)}, expected {tuple(x[one].shape)}")
    return out
