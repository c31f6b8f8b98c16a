"""An h for one observation, learned on paths and looked at on the way: what `deft fit --objective` and
`deft sample --refine` run.

    result = learn(h, prior, obs, LogVariance(prior, 50, subset=10), FitConfig(steps=200, batch=16))
    result.end["log_z"], result.end["variance"]
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from deft.core.condition import fitted_to
from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.errors import NonFiniteError
from deft.learned.base import Learned
from deft.runtime.messages import log, old_messages
from deft.train.diagnosis import COLLAPSED, diagnose, summary
from deft.train.fit import FitConfig, FitResult, fit, place_of
from deft.train.measured import Measured
from deft.train.path import Control, PathObjective

SHARP = 2000.0
"""Nats by which the weights of the first paths may differ before a warm-up is advised."""
LOOK = 32
"""Paths of a diagnosis on the way; four times as many at the end."""


class Learning(NamedTuple):
    """result: of `fit`. history: a diagnosis (`deft.train.diagnosis.diagnose`) at each look. end: the last one, of four
    times the paths."""

    result: FitResult
    history: list[dict[str, float]]
    end: dict[str, float]


@old_messages("say")
def learn(
    h: Learned,
    prior: Denoiser,
    obs: Observation,
    objective: PathObjective,
    config: FitConfig,
    *,
    warm: int = 0,
    rate: float = 0.05,
    folder: Path | None = None,
    resume: bool = False,
    device: torch.device | None = None,
    progress: bool = False,
    chain: int = 100,
) -> Learning:
    """Fit h to one observation; it ends as the better of raw and averaged weights.

    Args:
        obs: one row. objective: of `deft.train.path`. warm, rate: of `Measured` and `Control`. folder, resume: as in
            `fit`.
        chain: steps of the paths that are drawn to see how it goes; the log tells.

    Raises:
        NonFiniteError: with the term that broke, and where the last good state is.
    """
    device = place_of(objective) if device is None else device
    obs = fitted_to(prior, obs.to(device), prior.event_shape)
    module = Control(h, rate=rate) if objective.learns_log_z else h
    h.to(device).train()
    start = diagnose(prior, h, obs, paths=LOOK, steps=chain, seed=config.seed)
    log.info("at the start: " + summary(start))
    if start["variance"] ** 0.5 > SHARP and not warm:
        log.warning(
            f"note: the weights of the first paths differ by {start['variance'] ** 0.5:,.0f} nats: the likelihood is"
            f" sharp for this h. If the fit does not settle, anneal it in (--warm {max(1, config.steps // 3)}), or"
            " begin with another h (--start-from, --drawn-by)"
        )
    history: list[dict[str, float]] = []

    def look(row: dict[str, float]) -> None:
        now = diagnose(prior, h, obs, paths=LOOK, steps=chain, seed=config.seed)
        row |= now
        history.append({"step": row["step"], **now})
        log.info(f"step {row['step']:>6}  {row['seconds']:6.0f} s  {summary(now)}")

    try:
        result = fit(
            module,
            objective,
            Measured(obs, warm=warm),
            Measured(obs),
            config=config,
            folder=folder,
            resume=resume,
            device=device,
            progress=progress,
            callback=look,
        )
    except NonFiniteError as error:
        kept = (
            f" (the last good state is kept: {folder / 'state.pt'})"
            if folder is not None and (folder / "state.pt").exists()
            else ""
        )
        raise NonFiniteError(
            f"{error}{kept}; a lower --lr, or --warm, keeps paths where the likelihood can be followed"
        ) from error
    h.eval()
    end = diagnose(prior, h, obs, paths=4 * LOOK, steps=chain, seed=config.seed + 1)
    if end["effective"] < COLLAPSED:
        log.warning(
            f"note: {100 * end['effective']:.1f} % of the paths carry the weight, so that they do not give log p(y)."
            " Samples may be good all the same; weights ask for more: more --steps, a larger --batch or --size, or"
            " particles (deft sample --method deft-smc)"
        )
    return Learning(result, history, end)
