"""Operators that treat every pixel by itself: the clipped exposure of high dynamic range."""

from __future__ import annotations

import torch
from torch import Tensor

from deft.core.operator import Operator
from deft.errors import InputError
from deft.tensors import PerRow


class HDR(Operator):
    """y = clip(gain x, -1, 1): an exposure `gain` times too long, whose lights and shadows are cut off.

    For images in [-1, 1], any sample shape; gain 2 is the paper's high dynamic range problem. Where |gain x| > 1 the
    derivative is 0: a method that knows the gradient alone cannot bring such a pixel back. `approx_mean_update` can.

    Args:
        gain: above 0; a number, or a tensor [B] with one for each sample.
    """

    per_sample = settings = ("gain",)
    feature_channels = 2

    def __init__(self, gain: PerRow = 2.0):
        self.gain = torch.as_tensor(gain, dtype=torch.get_default_dtype()).reshape(-1)
        if not bool(((self.gain > 0) & self.gain.isfinite()).all()):
            raise InputError(f"HDR needs a finite gain above 0, got {gain}")

    def _gain(self, like: Tensor) -> Tensor:
        return self.gain.to(like).reshape((-1,) + (1,) * (like.ndim - 1))

    def __call__(self, x: Tensor) -> Tensor:
        return (self._gain(x) * x).clamp(-1, 1)

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        gain = self._gain(x)
        return torch.where((gain * x).abs() <= 1, gain * r, 0.0)

    def approx_mean_update(self, x: Tensor, r: Tensor, noise: Tensor, rho2: Tensor) -> Tensor:
        """To the most probable pixel under the belief N(x, rho2) and y ~ N(A(x), noise): a guidance map, no gradient.

        Inside the limits that is the Gaussian update w (y/gain - x), w = gain^2 rho2 / (noise + gain^2 rho2), which
        goes no further than the limit. A pixel beyond a limit stays, or comes back inside, whichever costs less in

            (y - A(u))^2 / noise + (u - x)^2 / rho2.
        """
        gain = self._gain(x)
        limit, y = 1 / gain, r + self(x)
        w = gain**2 * rho2 / (noise + gain**2 * rho2)
        inside = torch.minimum(torch.maximum(x + w * (y / gain - x), -limit), limit)
        cost = (y - gain * inside).square() / noise + (inside - x).square() / rho2
        stays = (x.abs() > limit) & (r.square() / noise <= cost)
        return torch.where(stays, 0.0, inside - x)

    def pinv(self, y: Tensor) -> Tensor:
        """y / gain: exact where nothing was cut off."""
        return y / self._gain(y)

    def picture(self, y: Tensor) -> Tensor:
        return y

    def features(self, y: Tensor) -> Tensor:
        """y / gain, then where it was cut off: 1 above, -1 below, 0 elsewhere (as far as the noise lets one tell)."""
        return torch.cat([self.pinv(y), y.sign() * (y.abs() >= 1).to(y.dtype)], dim=1)
