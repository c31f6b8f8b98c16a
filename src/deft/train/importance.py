"""DEFT for all y of a kind without a single clean image: importance fine-tuning (Denker et al. 2025, arXiv 2502.04468).

A round draws paths of many measurements under the h that there is, weighs each by its exact log w
(`deft.train.path.simulate`), redraws by weight, and fits h to what is left by DEFT's own denoising objective, as if it
were pairs. With all the weight used, the pairs are samples of the posterior, and the exact h is a fixed point. On
images a few paths cannot carry the whole weight: each measurement's weights are flattened, w^gamma, by the largest
gamma <= 1 that leaves `min_ess` of them effective, and rounds follow one another instead.

With a folder a stopped run resumes: `round.pt` holds the round's paths and the h they were drawn with,
`round-K/state.pt` its fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from deft._old_names import moved
from deft._renamed import old_arguments
from deft.core.condition import fitted_to
from deft.core.denoiser import Denoiser
from deft.core.grid import times
from deft.core.likelihood import Observation
from deft.core.random import BatchNoise, generator
from deft.errors import CheckpointError, InputError
from deft.io.files import load_state, save_state
from deft.io.folders import holds_folder
from deft.io.identity import other_identity
from deft.io.reading import parsing
from deft.learned.base import Learned
from deft.runtime.messages import Callback, log
from deft.samplers.diagnostics import ess_fraction
from deft.samplers.ode import KernelSampler
from deft.samplers.sde import Ito
from deft.samplers.smc import systematic
from deft.train.data import Pairs
from deft.train.denoising import DenoisingObjective
from deft.train.fit import FitConfig, fit, lasting, place_of, whole_identity
from deft.train.path import simulate
from deft.train.state import WAY_OUT, are_weights, is_row


class Round(NamedTuple):
    """x: [N, paths, *E], by weight. ess_fraction: share of each measurement's paths under their full weights, [N].
    gamma: the power that was used, [N]."""

    x: Tensor
    log_weight: Tensor
    ess_fraction: Tensor
    gamma: Tensor


def flattened(log_w: Tensor, min_ess: float) -> Tensor:
    """The largest power gamma <= 1 of the weights of each row that leaves this share effective, [N], by bisection."""
    low, high = (
        torch.zeros(len(log_w), dtype=log_w.dtype, device=log_w.device),
        torch.ones(len(log_w), dtype=log_w.dtype, device=log_w.device),
    )
    for _ in range(30):
        middle = (low + high) / 2
        enough = ess_fraction(middle[:, None] * log_w) >= min_ess
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.where(ess_fraction(log_w) >= min_ess, 1.0, low)


@torch.no_grad()
@old_arguments(least="min_ess")
def draw_round(
    prior: Denoiser,
    h: Learned,
    obs: Observation,
    *,
    paths: int = 8,
    steps: int = 50,
    min_ess: float = 0.3,
    seed: int = 0,
    number: int = 0,
    spacing: str = "log-snr",
    sampler: KernelSampler | None = None,
    batch: int = 64,
    progress: bool = False,
) -> Round:
    """Paths of each of N measurements, resampled by their weights to the power gamma (after Denker et al. 2025)."""
    if paths < 2 or not 0 < min_ess <= 1:
        raise InputError(
            f"a round needs at least 2 paths of each measurement and a share above 0 and at most 1, got {paths} and"
            f" {min_ess}"
        )
    grid, sampler = times(prior.schedule, steps, spacing), sampler or Ito()
    at_once = max(1, batch // paths)
    found = []
    for i in tqdm(range(0, len(obs), at_once), desc=f"round {number + 1}", unit="batch", disable=not progress):
        few = obs[i : i + at_once].repeat(paths)
        w = simulate(prior, h, few, BatchNoise(len(few), seed, number, i), grid, sampler)
        log_w = w.log_weight.reshape(-1, paths)
        gamma = flattened(log_w, min_ess)
        u = torch.rand(len(log_w), generator=generator(seed, number, i, 1), dtype=torch.float64).to(log_w.device)
        pick = systematic(gamma[:, None] * log_w, u, paths)
        x = w.x.reshape(-1, paths, *w.x.shape[1:])
        found.append(Round(x[torch.arange(len(x), device=x.device)[:, None], pick], log_w, ess_fraction(log_w), gamma))
    return Round(*(torch.cat(part) for part in zip(*found, strict=True)))


@old_arguments(least="min_ess")
@holds_folder
def importance_fit(
    h: Learned,
    prior: Denoiser,
    obs: Observation,
    *,
    rounds: int = 4,
    paths: int = 8,
    steps: int = 50,
    min_ess: float = 0.3,
    config: FitConfig | None = None,
    folder: Path | None = None,
    resume: bool = False,
    device: torch.device | None = None,
    progress: bool = False,
    callback: Callback | None = None,
    **objective: Any,
) -> list[dict[str, float]]:
    """Fit h to N measurements without data, round by round (after Denker et al. 2025); `config` is that of each round's
    fit.

    Args:
        folder: where the state is kept for `resume`, which resumes where a run with the same settings was stopped; bit
            for bit on the CPU.
        callback: called with the row of each round, once its paths are drawn and before its fit; with those of a
            resumed run first.

    Returns one row a round: mean `effective` share, mean `gamma`, mean `variance` of log w and `bound` = mean log w,
    which rises to the mean log p(y).

    Raises:
        CheckpointError: `resume` without a usable state, or with other settings or measurements.
    """
    if rounds < 1 or len(obs) < 2:
        raise InputError(
            f"importance fine-tuning needs at least 1 round and 2 measurements, got {rounds} and {len(obs)}: for one,"
            " take an objective on paths"
        )
    config = config or FitConfig(steps=300)
    device = place_of(DenoisingObjective(prior, **objective)) if device is None else device
    h, obs = h.to(device), fitted_to(prior, obs.to(device), prior.event_shape)
    few = max(1, len(obs) // 10)  # measurements whose pairs are held out
    about = whole_identity(h, DenoisingObjective(prior, **objective), {"measurements": {"y": obs.fingerprint()[:16]}})
    own = {
        "paths": paths, "steps": steps, "least": min_ess, "identity": about, "steps of the fit": config.steps,
        **{f"{k} of the fit": v for k, v in lasting(config).items()},
    }  # fmt: skip
    shape = (len(obs.y), paths, *prior.event_shape)
    rows, x = _resumed(folder, own, h, device, shape) if resume else ([], None)
    if callback is not None:
        for row in rows:
            callback(row)
    for k in range(max(len(rows) - 1, 0), rounds):
        part = None if folder is None else folder / f"round-{k + 1}"
        if x is None:
            h.eval()
            drawn = draw_round(
                prior, h, obs, paths=paths, steps=steps, min_ess=min_ess, seed=config.seed, number=k, progress=progress
            )
            x = drawn.x
            rows.append({
                "round": k + 1, "effective": float(drawn.ess_fraction.mean()), "gamma": float(drawn.gamma.mean()),
                "variance": float(drawn.log_weight.var(1).mean()), "bound": float(drawn.log_weight.mean()),
            })  # fmt: skip
            if folder is not None:
                save_state(folder / STATE, {"own": own, "rows": rows, "x": x, "h": h.state_dict()})
                with suppress(OSError):  # the fit before this round's; a user's files in that folder stay
                    (folder / f"round-{k}" / "state.pt").unlink()
                    (folder / f"round-{k}").rmdir()
            log.info(summary(rows[-1]))
            if callback is not None:
                callback(rows[-1])
        fitted, held_out = (
            Pairs(x[these].flatten(0, 1), obs[these].repeat(paths)) for these in (slice(few, None), slice(0, few))
        )
        begun = resume and part is not None and (part / "state.pt").exists()
        fit(
            h,
            DenoisingObjective(prior, **objective),
            fitted,
            held_out,
            config=replace(config, seed=config.seed + k),
            folder=part,
            resume=begun,
            device=device,
            progress=progress,
            identity={"round": {"number": k + 1, "measurements": obs.fingerprint()[:16]}},
        )
        x = None
    return rows


STATE = "round.pt"


def _resumed(
    folder: Path | None, own: dict[str, Any], h: Learned, device: torch.device, shape: tuple[int, ...]
) -> tuple[list[dict[str, float]], Tensor | None]:
    """(the rows so far, the last round's paths); h as it was when they were drawn."""
    if folder is None or not (folder / STATE).exists():
        raise CheckpointError(
            f"nothing to resume: {'no folder was given' if folder is None else f'{folder / STATE} does not exist'}"
        )
    state = load_state(folder / STATE, device, frozenset({"own", "rows", "x", "h"}))
    right = {
        "own": isinstance(state["own"], dict) and isinstance(state["own"].get("identity", {}), dict),
        "rows": isinstance(state["rows"], list) and bool(state["rows"]) and all(map(is_row, state["rows"])),
        "x": isinstance(state["x"], Tensor) and bool(state["x"].isfinite().all()),
        "h": are_weights(state["h"]),
    }
    for name, fine in right.items():
        if not fine:
            raise CheckpointError(f"{folder / STATE} is damaged: {name} is not what a fit writes; start again")
    another = other_identity(state["own"].get("identity", {}), own["identity"])
    if another:
        raise CheckpointError(f"{folder / STATE} is the state of another fit ({another}): {WAY_OUT}")
    # an older file lacks the newer settings
    theirs = {f"{k} of the fit": v for k, v in lasting(FitConfig()).items()} | state["own"]
    other = [k for k in own if k != "identity" and theirs.get(k) != own[k]]
    if other:
        raise CheckpointError(f"{folder / STATE} was made with other {', '.join(other)}: {WAY_OUT}")
    if tuple(state["x"].shape) != shape:
        raise CheckpointError(f"{folder / STATE} is damaged: x has shape {tuple(state['x'].shape)}, expected {shape}")
    with parsing(folder / STATE, "the state of this h"):
        h.load_state_dict(h.state_dict() | state["h"])  # an earlier version's state may lack a buffer
    return state["rows"], state["x"]


def summary(row: dict[str, float]) -> str:
    return (
        f"round {row['round']:.0f}: Var(log w) {row['variance']:.3g}, effective {100 * row['effective']:.0f} % of the"
        f" paths, mean log w (ELBO) {row['bound']:.1f}, weights to the power {row['gamma']:.2f}"
    )


__all__: Sequence[str] = ["Round", "draw_round", "flattened", "importance_fit", "summary"]


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)
