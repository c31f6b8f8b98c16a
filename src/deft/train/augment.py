"""Training pictures seen flipped and turned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deft.core.random import BatchNoise
from deft.errors import InputError
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
        if batch.x.ndim != 4:
            raise InputError(f"flips are for images [B, C, H, W], got samples of shape {tuple(batch.x.shape[1:])}")
        count = 8 if batch.x.shape[-1] == batch.x.shape[-2] else 4
        u = source(size, seed, step, 7, rows=rows).uniform()
        return Batch(symmetry(batch.x, (count * u).long().clamp(max=count - 1)))
