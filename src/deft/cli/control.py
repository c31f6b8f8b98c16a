"""`deft fit --objective`: an h for one measurement, learned on paths, without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from deft.cli import common
from deft.cli.common import Output
from deft.core.denoiser import Denoiser
from deft.core.likelihood import Observation
from deft.errors import InputError
from deft.io.files import write_json, write_text
from deft.io.h_files import save_h
from deft.learned.base import Learned, count_parameters
from deft.methods import SCORE_FORM, plan
from deft.prior.measurement_check import MAX_RESIDUAL, MIN_RESIDUAL, typical_noise
from deft.recipe.card_text import h_card_text
from deft.train.control import learn
from deft.train.diagnosis import summary
from deft.train.fit import FitConfig
from deft.train.importance import importance_fit
from deft.train.objectives import OBJECTIVES
from deft.train.path import OffPolicy, PathObjective, has_derivative

OFF_POLICY = [name for name, kind in OBJECTIVES.items() if issubclass(kind, OffPolicy)]
"""Objectives whose paths another control may draw."""


def listed(names: Sequence[str], last: str = "or") -> str:
    """Names in a sentence.

    >>> listed(["vargrad", "tb", "kl"])
    'vargrad, tb or kl'
    """
    return f" {last} ".join([", ".join(names[:-1])] * (len(names) > 1) + list(names[-1:]))


def make_objective(name: str, prior: Denoiser, chain: int, subset: int | None, drawn_by: str | None) -> PathObjective:
    """What --objective, --chain, --subset and --drawn-by ask for."""
    kind = OBJECTIVES[name]
    options: dict[str, Any] = {}
    if drawn_by is not None:
        if name not in OFF_POLICY:
            raise InputError(
                f"--drawn-by is for {listed(OFF_POLICY, 'and')}, whose paths may be another's: {name} draws its own"
            )
        made = plan(SCORE_FORM.get(drawn_by, drawn_by))
        if made.method.trained or made.method.draw is not None or made.method.sampler is not None:
            raise InputError(
                f"--drawn-by takes a training-free h-transform (pigdm, gradient, reconstruction, dps), not {drawn_by}"
            )
        options["behaviour"] = made.make(prior)[0]
    if subset is not None:
        options["subset"] = subset
    if kind.differentiates_prior and not has_derivative(prior):
        others = [n for n, k in OBJECTIVES.items() if not k.differentiates_prior]
        raise InputError(
            f"{name} differentiates the prior, and this one's mean is cut off from x_t (a service, or a detached"
            f" function): take {listed(others)}"
        )
    return kind(prior, chain, **options)


def _about(h: Learned, prior: Denoiser) -> dict[str, Any]:
    """What every card of a fit without data says."""
    n = count_parameters(h)
    return {
        "prior": prior.loaded_as, "prior_options": list(prior.loaded_with), "parameters": n,
        "share": round(n / max(prior.parameter_count(), 1), 5), "torch": torch.__version__,
    }  # fmt: skip


def fit_on_paths(
    output: Output,
    h: Learned,
    prior: Denoiser,
    task: Any,
    obs: Observation,
    source: str | None,
    out: Path,
    objective: str,
    config: FitConfig,
    *,
    chain: int,
    subset: int | None,
    drawn_by: str | None,
    warm: int,
    rate: float,
    resume: bool,
    device: torch.device,
) -> None:
    """The rest of `deft fit` for an objective on paths: fit, say how it went, write what it leaves."""
    made = make_objective(objective, prior, chain, subset, drawn_by)
    result, history, end = learn(
        h,
        prior,
        prior.to_latent(obs).to(device),
        made,
        config,
        warm=warm,
        rate=rate,
        folder=out,
        resume=resume,
        device=device,
        progress=common.bars(),
        chain=chain,
    )
    recipe = {
        "objective": objective,
        "chain": chain,
        "subset": subset,
        "drawn_by": drawn_by,
        "warm": warm,
        **asdict(config),
    }
    seen = {} if source is None else {"measurement": {"file": source, "sha256": obs.fingerprint()}}
    about = _about(h, prior) | seen | {
        "recipe": recipe, "steps": result.steps, "seconds": round(result.seconds, 1),
        "weights": result.weights, "held_out_loss": result.held_out, "diagnosis": end,
    }  # fmt: skip
    card = save_h(out / "h.safetensors", h, prior, task, **about)
    write_json(out / "log.json", {"history": result.history, "diagnoses": history, "end": end, "card": card})
    write_text(out / "card.md", h_card_text(card))
    output.say(f"{result.steps} steps in {result.seconds:.0f} s; {summary(end)}")
    sigma = typical_noise(obs, torch.zeros(len(obs), *prior.data_shape).to(obs.y))
    if end.get("residual", 0.0) > max(MAX_RESIDUAL * sigma, MIN_RESIDUAL):
        output.say(
            f"warning: paths of this h do not explain {source}: y - A(x) is {end['residual']:.3g} where the noise"
            f" sigma_y is {sigma:.3g}. It needs more --steps, or y has other units or another convention (`deft measure"
            " inspect` finds out)"
        )
    how = f"--reward {getattr(task, 'source', '')}" if source is None else f"--measurement {source}"
    output.say(
        f"\nwrote {out}/h.safetensors, for this {'reward' if source is None else 'measurement'} alone; next: deft"
        f" sample {out} {how}"
    )
    output.result({"out": str(out), "card": card, "history": result.history, "diagnosis": end})


def fit_by_importance(
    output: Output,
    h: Learned,
    prior: Denoiser,
    task: Any,
    obs: Observation,
    source: str,
    out: Path,
    config: FitConfig,
    *,
    rounds: int,
    paths: int,
    chain: int,
    resume: bool,
    device: torch.device,
    objective: dict[str, Any],
) -> None:
    """The rest of `deft fit --objective importance`: an h for all measurements of a file and their like, kept after
    each round."""
    done: list[dict[str, float]] = []

    def keep() -> dict[str, Any]:
        about = _about(h, prior) | {
            "measurement": {"file": source, "count": len(obs)},
            "rounds": done,
            "recipe": {
                "objective": "importance",
                "rounds": rounds,
                "paths": paths,
                "chain": chain,
                **objective,
                **asdict(config),
            },
        }
        return save_h(out / "h.safetensors", h, prior, task, **about)

    def on_round(row: Mapping[str, Any]) -> None:
        if done:  # what the round before left
            keep()
        done.append(dict(row))

    rows = importance_fit(
        h.to(device),
        prior,
        prior.to_latent(obs).to(device),
        rounds=rounds,
        paths=paths,
        steps=chain,
        config=config,
        device=device,
        progress=common.bars(),
        folder=out,
        resume=resume,
        callback=on_round,
        **objective,
    )
    done[:] = rows
    card = keep()
    write_json(out / "log.json", {"rounds": rows, "card": card})
    write_text(out / "card.md", h_card_text(card))
    output.say(
        f"\nwrote {out}/h.safetensors, for measurements like these; next: deft sample {out} --measurement {source}"
    )
    output.result({"out": str(out), "card": card, "rounds": rows})
