"""What was measured, put back into samples: for pictures to look at, not for statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from deft.core.likelihood import Observation
from deft.errors import InputError
from deft.kinds.draws import Draws
from deft.likelihood.gaussian import requires

Samples = TypeVar("Samples", Draws, Tensor)

BORDER = 4
"""Pixels at the edge of a hole over which the picture goes over into the measurement."""


def paste_weight(mask: Tensor, border: int) -> Tensor:
    """How much of the measurement each pixel gets, of a mask [B, C, H, W]: 0 where it is hidden, k / (border + 1) at k
    pixels from the hole (chessboard distance), 1 beyond the border.

    >>> paste_weight(torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]]), 1)
    tensor([[[[0.0000, 0.5000, 1.0000, 1.0000]]]])
    """
    weight, seen = mask / (border + 1), mask
    for _ in range(border):
        seen = 1 - F.max_pool2d(1 - seen, 3, 1, 1)
        weight = weight + seen / (border + 1)
    return weight


def hidden_as_zero(obs: Observation) -> Observation:
    """0 in the place of NaN where nothing was measured: it says the same as the mask, as in every method."""
    if bool(torch.isfinite(obs.y).all()):
        return obs
    measured = obs.likelihood.measured_part(torch.ones_like(obs.y)) != 0
    return Observation(torch.where(measured, obs.y, torch.zeros_like(obs.y)), obs.likelihood)


def paste_measured(samples: Samples, obs: Observation, border: int = BORDER) -> Samples:
    """Samples of a measurement through a mask with the measured pixels put back: w y + (1 - w) x, w of `paste_weight`.

    A latent prior shows measured pixels as its decoder draws them, which is never quite as they are. This puts them
    back, with their noise. What comes out is no sample of the posterior any more: the border is a mixture, and in the
    measured pixels nothing is left of what the noise of y leaves open. Samples and h stay what they were; take the
    statistics (deviation, intervals, weights) of those.

    Args:
        samples: [B, n, C, H, W], or `Draws` of them. obs: of images [B, C, H, W] through a `deft.Mask`.
        border: pixels over which it is blended, on the measured side; 0 for a hard edge.

    Raises:
        InputError: the measurement is no mask's, or of other images; a border below 0.

    >>> import deft
    >>> mask = torch.ones(1, 1, 4, 4)
    >>> mask[..., 1:3, 1:3] = 0
    >>> obs = deft.Observation(mask * 0.5, deft.Gaussian(deft.Mask(mask), 0.0))
    >>> paste_measured(torch.zeros(1, 2, 1, 4, 4), obs, border=0)[0, 1, 0, 1]
    tensor([0.5000, 0.0000, 0.0000, 0.5000])
    """
    if border < 0:
        raise InputError(f"border is a number of pixels from 0, got {border}")
    mask = requires(obs, "mask", "putting measured pixels back").operator.measured_part(torch.ones_like(obs.y))
    obs = hidden_as_zero(obs)
    x = samples.x if isinstance(samples, Draws) else samples
    if x.ndim != 5 or tuple(x.shape[2:]) != tuple(obs.y.shape[1:]) or len(x) != len(obs):
        raise InputError(
            f"samples have shape {tuple(x.shape)}, expected [{len(obs)}, n, {', '.join(map(str, obs.y.shape[1:]))}]:"
            " images, as the measurement is"
        )
    weight = paste_weight(mask, border)[:, None].to(x)
    pasted = weight * obs.y[:, None].to(x) + (1 - weight) * x
    return replace(samples, x=pasted, factors=None) if isinstance(samples, Draws) else pasted
