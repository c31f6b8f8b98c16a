"""The objective of a learned covariance: the derivative of the prior's denoised mean.

By Tweedie's formula Cov[x_0 | x_t] = (sigma^2/alpha) J, J = d x̂ / d x_t. One backward pass through the prior gives
J^T v = J v for a direction v, and the loss is the relative squared error of C v,

    loss = E |C v - (sigma^2/alpha) J v|^2 / |(sigma^2/alpha) J v|^2,

with both in units of the variance that data of the covariance's `data_std` would have left. It needs no measurement,
and unlike a denoising loss it is a regression without noise: the target at x_t is exact, wherever x_t came from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deft.core.random import BatchNoise
from deft.learned.covariance import LearnedCovariance
from deft.train.denoising import DenoisingObjective
from deft.train.protocols import Batch, Loss

LARGEST = 4.0
"""Relative error at which a row counts no more: a target near 0 would rule the loss."""
USEFUL = 0.5
"""Held-out loss above which a fit is too short to be of use."""
SMALLEST = 1e-3
"""Mean square of a target, in its unit, below which it counts as this."""


def directions(x: Tensor, x_hat: Tensor, noise: BatchNoise) -> Tensor:
    """v [B, *E] of mean square 1: white noise, the row's own error x - x̂, the error of another row, in turn.

    What C is multiplied with at sampling lies between the three: errors lie where the prior is unsure.
    """
    v = noise.normal(x.shape[1:], device=x.device).to(x)
    error = x - x_hat
    kind = torch.arange(len(x), device=x.device).remainder(3).reshape(-1, *[1] * (x.ndim - 1))
    v = torch.where(kind == 1, error, torch.where(kind == 2, error.roll(1, 0), v))
    size = v.flatten(1).square().mean(1).sqrt().clamp_min(1e-6)
    return v / size.reshape(kind.shape)


def relative_error(found: Tensor, target: Tensor) -> Tensor:
    """|found - target|^2 / |target|^2 of each row, [B], at most `LARGEST`."""
    wrong = (found - target).square().flatten(1).mean(1)
    return (wrong / target.square().flatten(1).mean(1).clamp_min(SMALLEST)).clamp_max(LARGEST)


class JacobianObjective(DenoisingObjective):
    """The loss of a `LearnedCovariance`; see the module's formula. One forward and one backward pass of the prior a
    row, from cached states too.

    >>> import deft
    >>> from deft.core.random import BatchNoise
    >>> world = deft.testing.gaussian_field(4)
    >>> h = deft.learned.LearnedCovariance((16,), width=16)
    >>> batch = deft.Clean(world.sample(64).float()).draw(32, 0, 0, torch.device("cpu"))
    >>> loss = JacobianObjective(world.prior(deft.VPCosine()))(h, batch, BatchNoise(32, 0))
    >>> 0 < loss.value < 4
    tensor(True)
    """

    def doubt(self, held_out: float) -> str | None:
        if held_out > USEFUL:
            return (
                f"warning: products with this covariance are off by {held_out:.2f} of their squared size (1 is no"
                " covariance at all; the bundled one has .2): give more steps, some thousands"
            )
        return None

    def __call__(self, module: nn.Module, batch: Batch, noise: BatchNoise) -> Loss:
        assert isinstance(module, LearnedCovariance)
        known = batch.prediction if batch.prediction is not None else self.predict(batch.x, noise)
        with torch.enable_grad():  # at the held-out loss, too
            x_t = known.x_t.detach().requires_grad_(True)
            pred = self.prior(x_t, known.t)
            v = directions(batch.x, pred.mean.detach(), noise)
            (jv,) = torch.autograd.grad(pred.mean, x_t, v)
        maps = module.maps(pred)
        target = (pred.sigma**2 / pred.alpha / maps.unit) * jv
        relative = relative_error(module.product(maps, v) / maps.unit, target)
        return Loss(relative.mean(), {"relative error": relative.detach().sum()})
