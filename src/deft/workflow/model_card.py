"""README.md of a shared h: for people, with the front matter that model hubs read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

import torch

from deft.bench.result import metrics_of
from deft.bench.table import ARROWS, Table
from deft.core.random import BatchNoise
from deft.errors import InputError, visible
from deft.io.identity import schedule_text, shown
from deft.io.tasks import make_task
from deft.io.text import markdown_cell
from deft.kinds.domain import Domain, domain_of_shape, domains
from deft.learned import LEARNED
from deft.likelihood.unknown import UnknownTask
from deft.methods import METHODS
from deft.prior import BUNDLED

LICENCES = (
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "gpl-3.0",
    "lgpl-3.0",
    "mpl-2.0",
    "openrail",
    "unlicense",
)
"""Identifiers that hubs know; any other licence is written out as `other`."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
ROW = ("task", "method", "metric", "value", "low", "high", "n")


def read_rows(report: Any, name: str, task: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of a report of `deft evaluate` for the card: without the paired differences.

    Raises `InputError` if it is no such report, or one of another task.
    """
    rows = report.get("rows") if isinstance(report, dict) else None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and set(ROW) <= set(r) for r in rows):
        raise InputError(f"{name} is no report of `deft evaluate`: expected rows with {', '.join(ROW)}")
    settings = report.get("settings")
    measured = settings.get("task") if isinstance(settings, dict) else None
    if any(r["task"] != task["name"] for r in rows) or (isinstance(measured, dict) and measured != task):
        raise InputError(
            f"{name} is of the task {measured or rows[0]['task']}, h was fitted to {task}: give a report of this h"
        )
    numbers = [r[k] for r in rows for k in ("value", "low", "high") if r[k] is not None]
    if not all(isinstance(v, (int, float)) for v in numbers):
        raise InputError(f"{name} holds figures that are no numbers")
    return [{k: r[k] for k in ROW} for r in rows if "versus" not in r]


def _domain_of(card: dict[str, Any]) -> Domain | None:
    """The kind of data of an h: what its card names, else the one that owns the shape."""
    named = card["h"].get("domain") if isinstance(card.get("h"), dict) else None
    return domains().get(str(named)) if named else domain_of_shape(shape_of(card))


def readme(card: dict[str, Any], picture: str | None = None, task: Any = None) -> str:
    """README.md for a card; `picture` is the name of an image beside it. task: what h was fitted to, where the card
    names code of its own for it."""
    task, prior, domain = task or make_task(card["task"]), str(card.get("prior", "?")), _domain_of(card)
    things = domain.title if domain else "samples"
    title = f"{task.title[0].upper()}{task.title[1:]}: an h-transform for the frozen prior {prior}"
    what = f"a measurement ({task.title}), by Doob's h-transform (DEFT, Denker et al. 2024)"
    if of_prior(card):
        title = f"Every linear measurement: a learned covariance of the frozen prior {prior}"
        what = (
            "any linear measurement with Gaussian noise: the covariance of x_0 given x_t, with which the steps of MMPS"
            " (Rozet et al. 2024) need no backward pass. It was fitted to the prior's own derivative, and to no task"
        )
    about = [
        f"A small network that turns the frozen diffusion model `{_line(prior)}` into a sampler of {things} given"
        f" {what}. The prior is not in this folder, and h works with that prior alone."
    ]
    lines = [*front_matter(card, domain.hub_tag if domain else ""), "", f"# {_line(title)}", "", *about, ""]
    if picture:
        lines += [f"![samples]({picture})", ""]
    lines += ["## What it was fitted to", "", *_table(_facts(card, task, domain)), ""]
    if isinstance(card.get("recipe"), dict):
        lines += ["## Recipe", "", *_table([(k, v) for k, v in card["recipe"].items() if v is not None]), ""]
    lines += ["## Measured", "", *_metrics(card.get("metrics") or []), "", "## Use", "", *_use(card, task, domain), ""]
    return visible("\n".join(lines))


def of_prior(card: dict[str, Any]) -> bool:
    """Whether the h of a card belongs to its prior and to no task."""
    kind = LEARNED.get(str(card.get("class", "deft")))
    return kind is not None and kind.of_prior


def shape_of(card: dict[str, Any]) -> tuple[int, ...]:
    """The shape of a sample of the prior."""
    return tuple(card["h"].get("event_shape") or card["prior_convention"]["event_shape"])


def data_shape_of(card: dict[str, Any]) -> tuple[int, ...]:
    """The shape of what is measured and shown: of an image, where a sample of the prior is its latents."""
    latent = (card.get("prior_convention") or {}).get("latent")
    return tuple(latent) if isinstance(latent, list) else shape_of(card)


def _options(card: dict[str, Any]) -> list[str]:
    """KEY=VALUE with which the prior was loaded. A prompt whose embeddings were in a file is said in words, which is
    the same prior."""
    options = [str(option) for option in card.get("prior_options") or []]
    convention = card.get("prior_convention") or {}
    for key in ("prompt", "negative_prompt"):
        if convention.get(key) and not any(option.startswith(f"{key}=") for option in options):
            options.append(f"{key}={convention[key]}")
    return options


def front_matter(card: dict[str, Any], tag: str = "") -> list[str]:
    """YAML between two lines of dashes; texts are written as JSON, which YAML reads. tag: what hubs call it
    (`Domain.hub_tag`)."""
    licence = str(card.get("licence") or "")
    known = next((k for k in LICENCES if re.match(rf"{re.escape(k)}(?![\w.-])", licence.lower())), None)
    lines = ["---", "library_name: deft-diffusion", *([f"pipeline_tag: {tag}"] if tag else [])]
    lines += [
        "tags:",
        *(f"- {t}" for t in ("deft", "h-transform", "diffusion", "inverse-problems")),
        *([] if of_prior(card) else [f"- {card['task']['name']}"]),
    ]
    lines.append(f"license: {known or 'other'}")
    if known is None:
        lines.append(f"license_name: {_yaml(licence or 'not stated')}")
    if card.get("base_model"):
        lines.append(f"base_model: {_yaml(card['base_model'])}")
    return [*lines, "---"]


def _facts(card: dict[str, Any], task: Any, domain: Domain | None) -> list[tuple[str, Any]]:
    shape, bounds = data_shape_of(card), domain.bounds if domain else None
    unknown = isinstance(task, UnknownTask)
    like = (task.check(shape) if unknown else task.observe(torch.full((1, *shape), 0.5), BatchNoise(1, 0))).likelihood
    operator = getattr(like, "operator", like)
    hidden = ("name", "sigma_y", *(("mean", "std", "event_shape") if unknown else ()))
    settings = ", ".join(f"{k} {v}" for k, v in card["task"].items() if k not in hidden)
    convention = card.get("prior_convention") or {}
    about = (type(task).__doc__ or "").splitlines()[0]
    made = f"{type(operator).__name__}{f' ({settings})' if settings else ''}: {about}"
    measured = [
        ("task", f"`{task.name}`: {task.title}"),
        ("operator", f"unknown: known from pairs alone ({settings})" if unknown else made),
        *([("noise", task.noise_text())] if hasattr(task, "noise_text") else []),
    ]
    facts: list[tuple[str, Any]] = [
        *([("tasks", "every linear one with Gaussian noise")] if of_prior(card) else measured),
        (
            "samples",
            "x".join(map(str, shape))
            + (f", values in [{bounds[0]:g}, {bounds[1]:g}]" if bounds else "")
            + ("" if shape == shape_of(card) else f", of latents {'x'.join(map(str, shape_of(card)))}"),
        ),
        ("prior", f"`{card.get('prior', '?')}`, sha256 `{card['prior_sha256']}`"),
    ]
    if convention:
        facts.append(
            (
                "prior's schedule",
                schedule_text({"name": convention.get("schedule"), "settings": convention.get("settings")}),
            )
        )
        rest = {k: v for k, v in convention.items() if k not in ("schedule", "settings", "event_shape")}
        facts.append(
            ("prior's convention", ", ".join(f"{k} {v if isinstance(v, str) else shown(v)}" for k, v in rest.items()))
        )
    if options := _options(card):
        facts.append(("prior's options", _on_command_line(options)))
    facts += [("data", card.get("data") or "not stated"), ("licence", card.get("licence") or "not stated")]
    if card.get("parameters"):
        share = f", {100 * card['share']:.2f} % of the prior's" if card.get("share") else ""
        facts.append(("parameters", f"{card['parameters']:,}{share}"))
    facts += [(k, card[k]) for k in ("steps", "seconds", "weights", "held_out_loss", "note") if card.get(k) is not None]
    return facts


def _on_command_line(options: Sequence[str]) -> str:
    """Of options KEY=VALUE, in quotes where a shell needs them."""
    return " ".join(f"--prior-option {shlex.quote(' '.join(option.split()))}" for option in options)


def _metrics(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["Nothing was measured, or no report was given. `deft evaluate` writes one."]
    methods = list(dict.fromkeys(r["method"] for r in rows))
    found = {(r["method"], r["metric"]): r for r in rows}
    names = [METHODS[m].title if m in METHODS else m for m in methods]
    lines = [f"{max(r['n'] for r in rows)} images; mean over images with its 95 % interval.", ""]
    every = {key: metric for domain in domains().values() for key, metric in metrics_of(domain).items()}
    table = Table("", *map(_line, names))
    for metric in dict.fromkeys(r["metric"] for r in rows):
        known = every.get(metric)
        cells = [_cell(found.get((m, metric)), known.digits if known else 4) for m in methods]
        table.add(_line(known.title if known else metric) + (ARROWS[known.better] if known else ""), *cells)
    return lines + table.markdown()


def _cell(row: dict[str, Any] | None, digits: int) -> str:
    if row is None:
        return "–"
    value, low, high = (None if row[k] is None else f"{row[k]:,.{digits}f}" for k in ("value", "low", "high"))
    return str(value) if low is None or high is None else f"{value} [{low}, {high}]"


def _use(card: dict[str, Any], task: Any, domain: Domain | None) -> list[str]:
    prior = str(card.get("prior", "?"))
    options = _options(card)
    given = "" if prior in BUNDLED else " --prior PRIOR"
    given += f" {_on_command_line(options)}" if given and options else ""
    name = json.dumps(prior, ensure_ascii=False) if prior in BUNDLED or HUB_ID.fullmatch(prior) else '"PRIOR"'
    measured = "--measurement " + (
        "measured.npz"
        if not getattr(task, "pictures", False)
        else "photo.png --mask mask.png"
        if getattr(task, "drawn", "") == "mask"
        else "measured.png"
    )
    which = f" --task {task.name}" if of_prior(card) else ""
    shape, bounds = data_shape_of(card), domain.bounds if domain else None
    named = (
        ""
        if ":" not in f"{card.get('class', '')}{card.get('task_code', '')}{card['h'].get('net', '')}"
        else " --trust-code"
    )
    draw = (
        f"torch.rand(1, {', '.join(map(str, shape))}) * {bounds[1] - bounds[0]:g} - {-bounds[0]:g}"
        if bounds
        else f"torch.randn(1, {', '.join(map(str, shape))})"
    )
    what = f"one of your {domain.title if domain else 'samples'}" + (
        f", in [{bounds[0]:g}, {bounds[1]:g}]" if bounds else ""
    )
    return [
        "In this folder (from a hub: `hf download OWNER/NAME --local-dir .`), after `pip install deft-diffusion`:",
        "",
        "```bash",
        f"deft sample .{given}{named}{which} {measured} -n 8 --out samples",
        "```",
        "",
        *(
            []
            if prior in BUNDLED
            else ["`PRIOR` is where you have the prior: a file, a folder or a name that `deft fit --help` lists.", ""]
        ),
        "```python",
        "import torch",
        f"from deft import {'' if isinstance(task, UnknownTask) else 'Noise, '}sample_posterior",
        "from deft.workflow.hub import from_pretrained",
        "from deft.prior import load_prior",
        "",
        f"prior = load_prior({', '.join([name, *(_keyword(option) for option in options)])})",
        f'h, task, card = from_pretrained(".", prior{", trust_code=True" if named else ""})  # or "OWNER/NAME"',
        *_measured(task, f"x = {draw}  # {what}"),
        (
            f"draws = sample_posterior(prior, h, obs, 4)  # draws.x [1, 4, {', '.join(map(str, shape))}], draws.mean,"
            " draws.std"
        ),
        "```",
    ]


def _keyword(option: str) -> str:
    """KEY=VALUE as an argument of Python: as text, which `load_prior` reads as the command line's."""
    key, _, value = option.partition("=")
    return f"{key}={json.dumps(' '.join(value.split()), ensure_ascii=False)}"


def _measured(task: Any, sample: str) -> list[str]:
    """Lines of Python that make an observation. sample: the line that makes a sample x."""
    if isinstance(task, UnknownTask):
        about = "pictures in [-1, 1]" if task.pictures else "in the units of the pairs"
        return [
            f"y = torch.zeros(1, {', '.join(map(str, task.y_shape))})  # yours, {about}",
            "obs = task.observation(y)  # how it was made nobody knows: h was fitted to pairs",
        ]
    return [
        sample,
        (
            "obs = task.observe(x, Noise(0, 1))  # its measurement; or your own: deft.Observation(y,"
            " deft.Gaussian(operator, sigma_y))"
        ),
    ]


def _table(rows: Sequence[tuple[str, Any]]) -> list[str]:
    return [
        "| | |",
        "|---|---|",
        *(f"| {_line(k)} | {_line(v if isinstance(v, str) else shown(v))} |" for k, v in rows),
    ]


def _line(text: Any) -> str:
    """One line that cannot end a table's cell or open a tag."""
    return markdown_cell(str(text)).replace("<", "&lt;")


def _yaml(value: Any) -> str:
    return json.dumps(" ".join(str(value).split()), ensure_ascii=False)
