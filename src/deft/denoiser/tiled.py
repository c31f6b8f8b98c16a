"""Samples larger than those a prior was trained on, from overlapping tiles of its own size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deft.core.denoiser import Denoiser, Prediction
from deft.errors import InputError
from deft.tensors import as_shape

OVERLAP = 0.5


class Tiled(Denoiser):
    """A prior of larger samples: E[x_0 | x_t] is the weighted mean of those of overlapping tiles.

        mean(p) = sum over tiles k of w(p - p_k) mean_k(p) / sum over tiles of w(p - p_k),

    mean_k the prior's answer to the part of x_t in tile k, w a window that falls linearly from a tile's middle to its
    border. It is a denoiser like any other: every sampler and every method runs with it.

    The tiles see nothing of each other but what they share. So the mean is right where what a pixel depends on lies
    within a tile around it: textures and detail, or where the measurement says what the whole looks like
    (super-resolution, small holes). Without that the parts of a large sample do not agree on one scene.

    Bar-Tal, Yariv, Lipman & Dekel 2023, "MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation",
    https://arxiv.org/abs/2302.08113, eq. 3; there the average is of steps, which is the same for a linear step.

    Args:
        prior: of samples [C, *tile].
        event_shape: [C, *sides] of the larger samples; every side at least the tile's.
        overlap: the part of a tile that its neighbour covers too, 0 to .9. A call costs about (1 - overlap)^-2 times as
            much as tiles side by side (for images).
        rows: tiles in one call of the prior, at most.

    Raises:
        InputError: another number of channels, a side below the tile's, an overlap out of range, or a latent prior.

    >>> import deft
    >>> prior = deft.load_prior("fashion")
    >>> large = deft.denoiser.Tiled(prior, (1, 48, 80))
    >>> large.tiles
    8
    >>> deft.sample(large, 1, steps=2).shape
    torch.Size([1, 1, 48, 80])
    """

    def __init__(self, prior: Denoiser, event_shape: Sequence[int], overlap: float = OVERLAP, rows: int = 64):
        super().__init__()
        tile, shape = tuple(prior.event_shape), as_shape(event_shape)
        if tuple(prior.data_shape) != tile:
            raise InputError(
                "tiles take a prior of the data themselves, got one of an autoencoder's latents: leave tiled out, and"
                " give event_shape=C,H,W, the size in latents"
            )
        if len(shape) != len(tile) or shape[0] != tile[0] or any(n < m for n, m in zip(shape, tile, strict=True)):
            raise InputError(
                f"tiles of {list(tile)} make samples of {tile[0]} channels with no side below the tile's, not"
                f" {list(shape)}"
            )
        if not 0 <= overlap <= 0.9 or rows < 1:
            raise InputError(f"Tiled takes an overlap of 0 to 0.9 and at least 1 row a call, got {overlap} and {rows}")
        self.prior, self.event_shape, self.overlap, self.rows = prior, shape, float(overlap), int(rows)
        self.schedule = prior.schedule
        self.card, self.differentiable = dict(prior.card), prior.differentiable
        starts = [_starts(n, m, overlap) for n, m in zip(shape[1:], tile[1:], strict=True)]
        self._places = [
            tuple(slice(i, i + m) for i, m in zip(at, tile[1:], strict=True)) for at in itertools.product(*starts)
        ]
        window = torch.ones(())
        for m in tile[1:]:
            window = window[..., None] * _window(m)
        self.register_buffer("window", window, persistent=False)
        total = torch.zeros(shape[1:])
        for place in self._places:
            total[place] += window
        self.register_buffer("total", total, persistent=False)

    window: Tensor
    total: Tensor

    @property
    def tiles(self) -> int:
        """How many tiles a sample is made of."""
        return len(self._places)

    @property
    def rows_per_call(self) -> int:
        """Rows of the prior's network for each row of x_t."""
        return self.tiles * int(getattr(self.prior, "rows_per_call", 1))

    def describe(self) -> dict[str, Any]:
        return self.prior.describe() | {"tiled": list(self.event_shape), "overlap": self.overlap}

    def parameter_count(self) -> int:
        return self.prior.parameter_count()

    def forward(self, x_t: Tensor, t: Tensor) -> Prediction:
        if tuple(x_t.shape[1:]) != self.event_shape:  # the tiles are laid for one size
            raise InputError(
                f"x_t has shape {tuple(x_t.shape)}, expected [B, {', '.join(map(str, self.event_shape))}], which these"
                " tiles make"
            )
        t, alpha, sigma = self.coefficients(t, x_t)
        places: list[Any] = [(..., *place) for place in self._places]
        tiles = torch.cat([x_t[place] for place in places])
        times = t.expand(len(x_t)).repeat(len(places))
        means = torch.cat(
            [self.prior(*part).mean for part in zip(tiles.split(self.rows), times.split(self.rows), strict=True)]
        )
        total = torch.zeros_like(x_t)
        window = self.window.to(x_t)
        for place, mean in zip(places, means.split(len(x_t)), strict=True):
            total[place] = total[place] + window * mean
        return Prediction(x_t, t, alpha, sigma, total / self.total.to(x_t))


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along an axis: evenly, from the first pixel to the last."""
    count = 1 + math.ceil((side - tile) / max(1, round(tile * (1 - overlap))))
    return [round(i * (side - tile) / max(1, count - 1)) for i in range(count)]


def _window(size: int) -> Tensor:
    """1 in the middle, falling linearly to 1/size or so at the ends: never 0, so that every pixel has some weight."""
    i = torch.arange(size)
    return torch.minimum(i + 1, size - i) / math.ceil(size / 2)
