"""Samples of one measurement that are kept as they are drawn."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from deft.core.denoiser import Denoiser
from deft.core.htransform import HTransform
from deft.core.likelihood import Observation
from deft.io.claims import note_written
from deft.io.drawn import DrawnFile
from deft.io.identity import digest
from deft.kinds.draws import Draws
from deft.methods import Plan
from deft.runtime.distributed import get_world
from deft.samplers.draw import named_domain
from deft.version import __version__


def run_identity(
    prior: Denoiser, task: Any, plan: Plan, obs: Observation, h: HTransform | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What samples must have in common to be those of one run."""
    weights = {} if h is None else dict(sorted(h.state_dict().items()))
    return {
        "deft": __version__,  # another one may draw other numbers from a seed
        "prior": {"sha256": prior.fingerprint()[:16]},
        "h": "none" if h is None else f"{type(h).__name__}, {digest(*weights.values())}",
        "task": task.config(),
        "measurement": {"sha256": obs.fingerprint()[:16]},
        "plan": plan.config(),
        "settings": dict(settings),
    }


class KeptSamples:
    """The samples of one run in a folder, written batch by batch; see `deft.io.drawn`. The main process alone writes.

    files: names of what was written of single samples, in order. seconds: of drawing, in all runs together.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], resume: bool, form: re.Pattern[str]):
        self._file: DrawnFile | None = None
        self._world = get_world()

        def open_file() -> tuple[int, float, list[str]]:
            self._file = file = (DrawnFile.resume if resume else DrawnFile.begin)(folder, identity)
            names = [name for name in file.files if form.fullmatch(name)]
            for name in names:  # of this run, should the lock that knew them be gone
                note_written(folder / name)
            return file.done, file.seconds, names

        self.done, self.seconds, self.files = self._world.from_main(open_file)

    def draw(
        self,
        plan: Plan,
        prior: Denoiser,
        obs: Observation,
        n: int,
        write: Callable[[Tensor, int], list[str]],
        *,
        batch: int,
        progress: bool,
        **how: Any,
    ) -> Draws:
        """n samples, of which those that are there are not drawn again.

        write: writes samples [B, *data_shape], of which the first has this number, and returns the names of the files.
        how: as in `Plan.draw`.
        """
        parts = [] if self._world.size == 1 else [self._world.from_main(self._there)]
        with tqdm(
            total=n, initial=self.done, desc="sample", unit="sample", disable=not (progress and self._world.main)
        ) as bar:
            while self.done < n:
                rows = range(self.done, min(self.done + batch * self._world.size, n))
                started = time.perf_counter()
                x = plan.draw(prior, obs, n, rows=rows, batch=batch, **how).x[0].cpu()
                taken = time.perf_counter() - started
                names = self._world.from_main(partial(self._keep, x, rows.start, taken, write))
                parts += [x] if self._world.size > 1 else []
                self.done, self.seconds, self.files = rows.stop, self.seconds + taken, self.files + names
                bar.update(len(rows))
        x = self._there() if self._world.size == 1 else torch.cat(parts)
        return Draws(x[None], domain=named_domain(prior))

    def _keep(self, x: Tensor, first: int, seconds: float, write: Callable[[Tensor, int], list[str]]) -> list[str]:
        """Pictures before values: what counts as drawn is written."""
        assert self._file is not None
        names = write(x, first)
        self._file.append(x, seconds, names)
        return names

    def _there(self) -> Tensor:
        """What the file has; of none, an empty row of samples."""
        assert self._file is not None
        return self._file.read() if self._file.done else torch.zeros(0)

    def remove(self) -> None:
        """The file has served."""
        if self._file is not None:
            self._file.remove()
