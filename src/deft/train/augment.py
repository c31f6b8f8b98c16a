"""Training pictures seen flipped and turned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deft.core.likelihood import Observation
from deft.core.random import BatchNoise
from deft.errors import InputError, unknown
from deft.train.protocols import Batch, Batches, Source


def symmetry(x: Tensor, code: Tensor) -> Tensor:
    """Images x [B, C, H, W], each after one of the symmetries of its rectangle.

    code [B]: whole numbers. Bit 0 mirrors left and right, bit 1 mirrors top and bottom, and bit 2, which needs
    H = W, then swaps rows and columns. Codes 0 to 7 are the eight flips and turns of a square (the dihedral group).

    Raises:
        InputError: a code above 3 for images with H != W, or codes that do not match x.

    >>> x = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> [symmetry(x, torch.tensor([c])).flatten().int().tolist() for c in (0, 1, 4, 5)]
    [[0, 1, 2, 3], [1, 0, 3, 2], [0, 2, 1, 3], [1, 3, 0, 2]]
    """
    if code.shape != x.shape[:1]:
        raise InputError(f"{len(x)} images but codes of shape {tuple(code.shape)}: give one code for each image")
    moves = [lambda z: z.flip(-1), lambda z: z.flip(-2)]
    if x.shape[-1] == x.shape[-2]:
        moves.append(lambda z: z.transpose(-1, -2))
    elif bool((code > 3).any()):
        raise InputError(f"images of {x.shape[-2]}x{x.shape[-1]} have four flips and half turns: codes must be 0 to 3")
    code = code.to(x.device).reshape(-1, 1, 1, 1)
    for bit, move in enumerate(moves):
        x = torch.where((code >> bit) % 2 == 1, move(x), x)
    return x


FLIPS = {"mirror": 2, "all": 8}
"""Name -> how many of the codes of `symmetry` are taken (of a picture that is no square at most 4)."""


def flipped_pairs(x: Tensor, obs: Observation, flips: str) -> tuple[Tensor, Observation]:
    """Pairs of pictures x [N, C, H, W] with their flips behind them, x and y of a pair flipped alike: 2 N, 4 N or 8 N.

    Only where a flipped pair is a pair as well: not for scratches that always run one way, nor for clothes upside down.

    Args:
        obs: of an `Unknown` likelihood: an operator (its mask, its kernel) would not follow. flips: a key of `FLIPS`.

    Raises:
        InputError: y is not on x's grid, or was measured by a known operator.

    >>> import deft
    >>> x = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> obs = deft.Observation(-x, deft.likelihood.Unknown((1, 2, 2), (1, 2, 2), [0.0], [1.0]))
    >>> x, obs = flipped_pairs(x, obs, "mirror")
    >>> x[1].flatten(), torch.equal(obs.y, -x)
    (tensor([1., 0., 3., 2.]), True)
    """
    if flips not in FLIPS:
        raise unknown("flips", flips, FLIPS)
    if obs.likelihood.has_density:
        raise InputError("flips are for pairs of an unknown degradation: an operator would not follow them")
    if x.ndim != 4 or obs.y.ndim != 4 or obs.y.shape[2:] != x.shape[2:]:
        raise InputError(
            f"flips are for pictures y of the same height and width as x; got x {tuple(x.shape[1:])} and y"
            f" {tuple(obs.y.shape[1:])}: leave them out"
        )
    codes = range(min(FLIPS[flips], 8 if x.shape[-1] == x.shape[-2] else 4))
    each = [torch.full((len(x),), code) for code in codes]
    x, y = (torch.cat([symmetry(v, code) for code in each]) for v in (x, obs.y))
    return x, Observation(y, obs.likelihood)


class Flipped(Batches):
    """Clean images of `inner`, each after a flip or quarter turn drawn from (seed, step).

    Squares have eight symmetries, other rectangles four. The draw depends on (seed, step, row of the batch) alone,
    so a resumed fit sees the same pictures as an unbroken one. Held-out evaluations (step < 0) are not flipped.
    Only for data whose flips and turns are data of the same kind, such as pictures from above.

    Raises:
        InputError: a batch of `inner` has a measurement or a prediction (made of the unflipped image), or no images.
    """

    def __init__(self, inner: Batches):
        self.inner = inner

    def identity(self) -> dict[str, Any]:
        about = self.inner.identity()
        return {**about, "samples": f"{about.get('samples', '')}, with flips"}

    def draw(
        self,
        size: int,
        seed: int,
        step: int,
        device: torch.device,
        *,
        rows: range | None = None,
        source: Source = BatchNoise,
    ) -> Batch:
        batch = self.inner.draw(size, seed, step, device, rows=rows, source=source)
        if step < 0:
            return batch
        if batch.observation is not None or batch.prediction is not None:
            raise InputError("flips are for clean images: a measurement or a prediction was made of the unflipped one")
        if batch.x.ndim != 4 or batch.seen is not None:
            raise InputError(f"flips are for images [B, C, H, W], got samples of shape {tuple(batch.x.shape[1:])}")
        count = 8 if batch.x.shape[-1] == batch.x.shape[-2] else 4
        u = source(size, seed, step, 7, rows=rows).uniform()
        return Batch(symmetry(batch.x, (count * u).long().clamp(max=count - 1)))
