"""`deft fit --objective`: an h for one measurement, learned on paths, without data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from deft.cli import common
from deft.cli.common import Output
from deft.denoise import Denoiser
from deft.errors import InputError, NonFiniteError
from deft.htransform.learnable import Learned, count_parameters
from deft.likelihood.base import Observation
from deft.measurement import fingerprint_of
from deft.methods import plan
from deft.tasks import ImageTask
from deft.train.adapter import save_h
from deft.train.checkpoint import write_text
from deft.train.diagnosis import COLLAPSED, diagnose, in_words
from deft.train.fit import FitConfig, FitResult, fit
from deft.train.importance import importance_fit
from deft.train.importance import in_words as importance_words
from deft.train.measured import Measured
from deft.train.path import OBJECTIVES, Control, OffPolicy, PathObjective, TrajectoryBalance

SHARP = 2000.0
"""Nats by which the weights of the first paths may differ before a warm-up is advised."""
LOOK = 32
"""Paths of a diagnosis on the way; four times as many at the end."""


def make_objective(name: str, prior: Denoiser, chain: int, subset: int | None, drawn_by: str | None) -> PathObjective:
    """What --objective, --chain, --subset and --drawn-by ask for."""
    kind = OBJECTIVES[name]
    options: dict[str, Any] = {}
    if drawn_by is not None:
        if not issubclass(kind, OffPolicy):
            raise InputError(f"--drawn-by is for vargrad and tb, whose paths may be another's: {name} draws its own")
        made = plan(drawn_by)
        if made.method.trained or made.method.draw is not None or made.method.sampler is not None:
            raise InputError(f"--drawn-by takes a training-free h-transform (pigdm, gradient, reconstruction, dps), not {drawn_by}")
        options["behaviour"] = made.make(prior)[0]
    if subset is not None:
        options["subset"] = subset
    return kind(prior, chain, **options)


def learn(
    h: Learned, prior: Denoiser, obs: Observation, objective: PathObjective, config: FitConfig, *, warm: int = 0, rate: float = 0.05,
    folder: Path | None = None, resume: bool = False, device: torch.device | None = None, progress: bool = False,
    say: Callable[[str], None] = print, chain: int = 100,
) -> tuple[FitResult, list[dict[str, float]], dict[str, float]]:  # fmt: skip
    """Fit h to one measurement. Returns (result, diagnoses on the way, the last one); h ends as the better of raw and averaged weights."""
    module = Control(h, rate=rate) if isinstance(objective, TrajectoryBalance) else h
    h.to(device).train()
    start = diagnose(prior, h, obs, paths=LOOK, steps=chain, seed=config.seed)
    say("at the start: " + in_words(start))
    if start["variance"] ** 0.5 > SHARP and not warm:
        say(f"note: the weights of the first paths differ by {start['variance'] ** 0.5:,.0f} nats: the likelihood is sharp for this h. If the fit does not settle, let it come on slowly (--warm {max(1, config.steps // 3)}), or begin with another h (--start-from, --drawn-by)")
    history: list[dict[str, float]] = []

    def look(row: dict[str, float]) -> None:
        now = diagnose(prior, h, obs, paths=LOOK, steps=chain, seed=config.seed)
        row |= now
        history.append({"step": row["step"], **now})
        say(f"step {row['step']:>6}  {row['seconds']:6.0f} s  {in_words(now)}")

    try:
        result = fit(
            module, objective, Measured(obs, warm=warm), Measured(obs), config=config, folder=folder, resume=resume, device=device,
            progress=progress, on_evaluation=look,
        )  # fmt: skip
    except NonFiniteError as error:
        kept = f" (the last good state is kept: {folder / 'state.pt'})" if folder is not None and (folder / "state.pt").exists() else ""
        raise NonFiniteError(f"{error}{kept}; a lower --lr, or --warm, keeps paths where the likelihood can be followed") from error
    h.eval()
    end = diagnose(prior, h, obs, paths=4 * LOOK, steps=chain, seed=config.seed + 1)
    if end["effective"] < COLLAPSED:
        say(
            f"note: {100 * end['effective']:.1f} % of the paths carry the weight, so that log p(y) is not to be had from them. Samples may be good all the same; "
            "weights ask for more: more --steps, a larger --batch or --size, or particles (deft sample --method deft-smc)"
        )
    return result, history, end


def _about(h: Learned, prior: Denoiser, name: str, options: tuple[str, ...]) -> dict[str, Any]:
    """What every card of a fit without data says."""
    n = count_parameters(h)
    return {
        "prior": name, "prior_options": [o for o in options if not o.startswith("token=")], "parameters": n,
        "share": round(n / max(prior.parameter_count(), 1), 5), "torch": torch.__version__,
    }  # fmt: skip


def fit_on_paths(
    output: Output, h: Learned, prior: Denoiser, prior_name: str, prior_options: tuple[str, ...], task: ImageTask, obs: Observation, source: str, out: Path,
    objective: str, config: FitConfig, *, chain: int, subset: int | None, drawn_by: str | None, warm: int, rate: float, resume: bool, device: torch.device,
) -> None:  # fmt: skip
    """The rest of `deft fit` for an objective on paths: fit, say how it went, write what it leaves."""
    made = make_objective(objective, prior, chain, subset, drawn_by)
    result, history, end = learn(
        h, prior, prior.inside(obs).to(device), made, config, warm=warm, rate=rate, folder=out, resume=resume, device=device,
        progress=common.bars(), say=output.say, chain=chain,
    )  # fmt: skip
    recipe = {"objective": objective, "chain": chain, "subset": subset, "drawn_by": drawn_by, "warm": warm, **asdict(config)}
    about = _about(h, prior, prior_name, prior_options) | {
        "measurement": {"file": source, "sha256": fingerprint_of(obs)}, "recipe": recipe, "steps": result.steps, "seconds": round(result.seconds, 1),
        "weights": result.weights, "held_out_loss": result.held_out, "diagnosis": end,
    }  # fmt: skip
    card = save_h(out / "h.safetensors", h, prior, task, **about)
    write_text(out / "log.json", json.dumps({"history": result.history, "diagnoses": history, "end": end, "card": card}, indent=1) + "\n")
    output.say(f"{result.steps} steps in {result.seconds:.0f} s; {in_words(end)}")
    output.say(f"\nwrote {out}/h.safetensors, for this measurement alone; next: deft sample {out} --measurement {source}")
    output.result({"out": str(out), "card": card, "history": result.history, "diagnosis": end})


def fit_by_importance(
    output: Output, h: Learned, prior: Denoiser, prior_name: str, prior_options: tuple[str, ...], task: ImageTask, obs: Observation, source: str, out: Path,
    config: FitConfig, *, rounds: int, paths: int, chain: int, device: torch.device,
) -> None:  # fmt: skip
    """The rest of `deft fit --objective importance`: an h for all measurements of a file and their like."""
    rows = importance_fit(
        h.to(device), prior, prior.inside(obs).to(device), rounds=rounds, paths=paths, steps=chain, config=config, device=device, progress=common.bars(),
        on_round=lambda row: output.say(importance_words(row)),
    )  # fmt: skip
    about = _about(h, prior, prior_name, prior_options) | {
        "measurement": {"file": source, "count": len(obs)}, "rounds": rows,
        "recipe": {"objective": "importance", "rounds": rounds, "paths": paths, "chain": chain, **asdict(config)},
    }  # fmt: skip
    card = save_h(out / "h.safetensors", h, prior, task, **about)
    write_text(out / "log.json", json.dumps({"rounds": rows, "card": card}, indent=1) + "\n")
    output.say(f"\nwrote {out}/h.safetensors, for measurements like these; next: deft sample {out} --measurement {source}")
    output.result({"out": str(out), "card": card, "rounds": rows})


__all__ = ["fit_by_importance", "fit_on_paths", "learn", "make_objective"]
