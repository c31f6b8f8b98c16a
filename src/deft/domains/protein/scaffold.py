"""Draw scaffolds for motifs: many chains of several lengths at once, conditioned by any h-transform.

Chains of several lengths are this module's business alone: particles, weights of paths and `sample_posterior` take an
observation's length for that of its chains, so give them one length at a time (`prior.of_length(L)`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from deft.core.condition import condition
from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.core.random import Noise
from deft.core.sampler import Sampler
from deft.core.transition import Level
from deft.domains.protein.chains import UNIT, template
from deft.domains.protein.motif import MotifTask
from deft.domains.protein.prior import ChainPrior
from deft.errors import CheckpointError, InputError
from deft.io.h_files import load_h
from deft.learned.base import Learned
from deft.likelihood import Observation
from deft.samplers.draw import Callback, sample


def draw_scaffolds(
    prior: ChainPrior,
    h: HTransform,
    obs: Observation,
    lengths: list[int],
    *,
    sampler: Sampler | None = None,
    steps: int = 50,
    spacing: str = "angle",
    seed: int = 0,
    batch: int = 64,
    grid: Sequence[Level] | None = None,
    first: int = 0,
    progress: bool = False,
    callback: Callback | None = None,
) -> list[Tensor]:
    """One chain for each row of the observation: C-alphas [L_i, 3] in angstrom, on the CPU.

    Args:
        obs: N rows, padded to the longest (`deft.domains.protein.motif`). lengths: N.
        seed, first: row i uses the stream first + i, whatever the batch. batch: rows at once; rows of like lengths
            share one.
        sampler, steps, spacing, grid, callback: of `sample`.
    """
    if len(lengths) != len(obs):
        raise InputError(f"{len(obs)} motifs but {len(lengths)} lengths")
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    out: dict[int, Tensor] = {}
    with tqdm(total=len(order), desc="scaffolds", unit="chain", disable=not progress) as bar:
        for low in range(0, len(order), batch):
            rows = order[low : low + batch]
            long = max(lengths[i] for i in rows)
            part = shortened(obs[torch.tensor(rows)], long)
            x = sample(
                condition(prior.of_length(long), h, part),
                FixedWidth(prior.event_shape[0], seed, [first + i for i in rows]),
                like=template([lengths[i] for i in rows], long),
                sampler=sampler,
                steps=steps,
                spacing=spacing,
                grid=grid,
                callback=callback,
            )
            for i, one in zip(rows, UNIT * x.cpu(), strict=True):
                out[i] = one[: lengths[i]]
            bar.update(len(rows))
    return [out[i] for i in range(len(lengths))]


class FixedWidth(Noise):
    """`Noise` for traces [L, 3] that draws the same numbers for a row whatever L its batch has: those of `width`
    residues, cut to L."""

    def __init__(self, width: int, seed: int, indices: Iterable[int]):
        super().__init__(seed, indices)
        self.width = width

    def normal(self, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
        return super().normal((max(self.width, shape[0]), *shape[1:]), device=device)[:, : shape[0]]


def shortened(obs: Observation, length: int) -> Observation:
    """Rows padded to another length: what is cut off must be padding."""
    like: Any = obs.likelihood
    return Observation(obs.y[:, :length], like._with(like.operator.cut(length), like.sigma_y))


def load_scaffolder(path: str | Path, prior: Denoiser) -> tuple[Learned, MotifTask, dict[str, Any]]:
    """`load_h` for an h that was fitted to motifs: (h, the task it was fitted to, its card).

    Raises:
        CheckpointError: those of `load_h`; an h of another task.
    """
    h, task, card = load_h(path, prior)
    if not isinstance(task, MotifTask):
        raise CheckpointError(
            f"{path} was fitted to the task {task.name}, not to motifs: give an h of `deft fit` for motifs, or the"
            " bundled one"
        )
    return h, task, card
