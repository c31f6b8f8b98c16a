"""deft info, deft list"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from deft.cli import common
from deft.cli.common import Output, json_option
from deft.core.grid import SPACINGS
from deft.errors import CheckpointError, unknown
from deft.io.files import load_weights
from deft.io.h_files import KEPT_WHOLE
from deft.io.tasks import UNLISTED
from deft.kinds.domain import domains
from deft.methods import METHODS
from deft.prior import BUNDLED, CONVENTIONS, FAMILIES, load_own
from deft.recipe.card_text import card_lines
from deft.samplers import SAMPLERS
from deft.schedule import SCHEDULES
from deft.version import __version__


def find_card(name: str) -> tuple[Path, dict[str, Any], int]:
    """(file, card, parameters) of a bundled prior, a file, a folder with a prior or an h in it, or another library's
    model that `--prior` takes."""
    path = Path(name)
    # another library's model: what was read from it
    if path.exists() and common.family_or_none(name) not in (None, "deft"):
        other = common.find_prior(name)
        return path, other.card, other.parameter_count()
    if name in BUNDLED:
        prior = load_own(name)
        return BUNDLED[name], prior.card, sum(p.numel() for p in prior.parameters())
    if path.is_dir():
        inside = [p for p in (path / "h.safetensors", path / "prior.safetensors") if p.exists()]
        if not inside:
            raise CheckpointError(
                f"{path} holds neither h.safetensors nor prior.safetensors: give a folder made by `deft fit` or `deft"
                " prior train`"
            )
        path = inside[0]
    elif not path.exists() and path.suffix == "":
        raise unknown("prior or file", name, BUNDLED)
    tensors, card = load_weights(path)
    # tables by noise level are measured, not trained
    trained = (t for name, t in tensors.items() if name not in KEPT_WHOLE)
    return path, card, sum(t.numel() for t in trained)


@click.command()
@click.argument("name", metavar="FILE|RUN|PRIOR", type=common.SOURCE)
@json_option
def info(name: str, as_json: bool) -> None:
    """Show the card of a fitted h, a prior or a run folder."""
    output = Output(as_json)
    path, card, count = find_card(name)
    output.say(f"{path}: {card.get('kind', '?')}, {count:,} parameters")
    output.say("\n".join(card_lines({k: v for k, v in card.items() if k not in ("kind", "levels")})))
    output.result({"file": str(path), "parameters": count, "card": card})


def everything() -> dict[str, Any]:
    """All that can be named on a command line."""
    tasks: list[dict[str, Any]] = [
        {
            "name": k,
            "of": d.title,
            "title": t.title,
            "about": getattr(t, "about", ""),
            "drawn": getattr(t, "drawn", ""),
            "prior": getattr(t, "prior", ""),
            "settings": {a: b for a, b in t().config().items() if a != "name"},
            "convention": getattr(t, "convention", ""),
            "conventions": t.usual_conventions() if hasattr(t, "usual_conventions") else {},
        }
        for d in domains().values()
        for k, t in d.tasks().items()
    ]
    samplers: list[dict[str, Any]] = [
        {
            "name": k,
            "stochastic": s.stochastic or "eta" in inspect.signature(s).parameters,
            "order": s.order,
            "about": (s.__doc__ or "").split("\n")[0],
        }
        for k, s in SAMPLERS.items()
    ]
    methods = [m.row() for m in METHODS.values()]
    return {
        "version": __version__,
        "tasks": tasks,
        "unlisted": [{"name": k, "title": t.title, "about": t.about} for k, t in UNLISTED.items()],
        "methods": methods,
        "samplers": samplers,
        "priors": [{"name": k, "file": str(v)} for k, v in BUNDLED.items()],
        "families": [{"name": k, "about": v.about} for k, v in FAMILIES.items()],
        "conventions": [{"name": k, "about": v.about} for k, v in CONVENTIONS.items()],
        "spacings": list(SPACINGS),
        "schedules": list(SCHEDULES),
    }


def say_everything(output: Output, found: dict[str, Any]) -> None:
    tasks = found["tasks"]
    for i, t in enumerate(tasks):
        if i == 0 or t["of"] != tasks[i - 1]["of"]:
            output.say(
                f"tasks of {t['of']}, with settings for --task-option; below each what the numbers of y mean, and"
                " settings for measurements of other programs (docs/conventions.md)"
            )
        drawn = f"; drawn for each sample: {t['drawn']}" if t["drawn"] else ""
        output.say(f"  {t['name']:<17} {t['about']} ({', '.join(f'{k}={v}' for k, v in t['settings'].items())}){drawn}")
        more = "".join(f"{', ' if i else '; '}{k}=" for i, k in enumerate(t["conventions"]))
        output.say(f"  {'':<17} {t['convention']}{more}")
    output.say("what has no name for --task")
    for t in found["unlisted"]:
        output.say(f"  {t['name']:<17} {t['title']}: {t['about']}")
    output.say("methods, with settings for --set")
    for m in found["methods"]:
        needs = "needs a fit" if m["trained"] else "backward pass through the prior" if m["backward"] else "no training"
        own = "".join(f"; {k}={v}" for k, v in m["settings"].items())
        output.say(f"  {m['name']:<15} {m['about']}; {needs}{own}")
    output.say("samplers")
    for s in found["samplers"]:
        output.say(f"  {s['name']:<15} {s['about']}")
    output.say("priors")
    for name in BUNDLED:
        output.say(f"  {name:<15} bundled; `deft info {name}` shows its card")
    output.say("kinds of prior for --prior")
    for name, family in FAMILIES.items():
        output.say(f"  {name:<15} {family.about}")
    output.say("conventions of networks (--prior-option convention=NAME)")
    for name, convention in CONVENTIONS.items():
        output.say(f"  {name:<19} {convention.about}")


@click.command(name="list")
@json_option
def list_all(as_json: bool) -> None:
    """List tasks, methods, samplers and priors."""
    output = Output(as_json)
    found = everything()
    say_everything(output, found)
    output.result(found)
