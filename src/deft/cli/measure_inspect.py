"""deft measure inspect"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from deft.cli import common
from deft.cli.common import Name, Output, json_option
from deft.cli.numbers import Number
from deft.errors import InputError
from deft.io.arrays import read_arrays
from deft.io.measurements import limits
from deft.io.tasks import TASKS
from deft.prior.measurement_check import Inspected, Tried, inspect_measurement
from deft.values import Count, Deviation, Samples, Seed, Steps

SHOWN = 8
"""Readings in the table."""


@click.command()
@click.argument("file", type=common.FilePath())
@click.option(
    "--prior",
    "prior_option",
    type=common.SOURCE,
    default="fashion",
    show_default=True,
    help="The prior whose samples were measured, as in `deft sample`.",
)
@common.prior_option_option
@click.option("--task", type=Name("task", TASKS), help="What the measurement is.  [default: what the file says]")
@common.task_option_option
@click.option(
    "--sigma-y",
    type=Number(Deviation),
    help="Deviation of the noise, in units of the prior's samples (images: [-1, 1]).  [default: the task's]",
)
@common.range_option
@click.option("--rows", type=Number(Count), default=4, show_default=True, help="Measurements that are looked at.")
@click.option("-n", "--samples", type=Number(Samples), default=2, show_default=True, help="Samples of each.")
@click.option("--steps", type=Number(Steps), default=20, show_default=True, help="Calls of the prior a sample.")
@click.option("--seed", type=Number(Seed), default=0, show_default=True)
@common.device_option
@json_option
def inspect(
    file: Path,
    prior_option: str,
    prior_options: tuple[str, ...],
    task: str | None,
    task_options: tuple[str, ...],
    sigma_y: float | None,
    value_range: Any,
    rows: int,
    samples: int,
    steps: int,
    seed: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Tell whether a measurement is read as it was made.

    \b
    deft measure inspect scan.npz --task ct --prior ct
    deft measure inspect small.npz --task sr4 --range 0,1

    Tries the usual readings of FILE (ranges, shifts, factors, orientations, a mask the other way round), draws a few
    samples of each, and says which one the operator and the prior confirm, and the option or the change that asks for
    it.
    """
    output = Output(as_json)
    if min(rows, samples) < 1 or steps < 4:
        raise InputError(f"--rows and -n must be at least 1 and --steps at least 4, got {rows}, {samples} and {steps}")
    if file.suffix.lower() != ".npz":
        raise InputError(f"{file} is no measurement file (.npz with y): pictures are read as docs/images.md says")
    arrays = read_arrays(file)
    if "y" not in arrays:
        raise InputError(
            f"{file} has no array y (it has {', '.join(arrays)}): a measurement file holds y, and mask or kernel where"
            " the task draws one"
        )
    if task is None and "task" not in arrays:
        raise InputError(f"{file} does not say what was measured: give --task")
    prior = common.find_prior(prior_option, common.get_device(device), prior_options)
    chosen = common.make_task(task, sigma_y, None, task_options, file, common.domain_for(prior))
    if chosen.drawn and chosen.drawn not in arrays:
        raise InputError(
            f"{file} lacks the array {chosen.drawn!r}, which the operator of {chosen.name} needs for each measurement"
        )
    found = inspect_measurement(
        prior,
        chosen,
        arrays,
        rows=rows,
        samples=samples,
        steps=steps,
        seed=seed,
        value_range=limits(value_range),
        progress=lambda name: click.echo(f"trying: {name}", err=True) if common.bars() else None,
    )
    output.say(f"{file}: {chosen.title}, y of shape {tuple(arrays['y'].shape)}\n")
    _table(output, found)
    output.say(f"\n{found.text}")
    output.result(
        {
            "file": str(file),
            "task": chosen.config(),
            "confirmed": found.confirmed,
            "verdict": found.text,
            "taken": _json(found.taken),
            "best": _json(found.best),
            "tried": [_json(t) for t in found.tried],
        }
    )


def _table(output: Output, found: Inspected) -> None:
    output.say(f"{'reading':64}{'surprise':>10}{'residual':>10}{'lowest':>9}{'highest':>9}")
    shown = found.tried[:SHOWN]
    for one in shown if found.taken in shown else [*shown, found.taken]:
        output.say(_row(one))
    output.say(
        "\nsurprise: how far samples are from what the prior expects of its own samples, 1 is right; residual: y - A(x)"
        " over the noise"
    )


def _row(t: Tried) -> str:
    if t.why:
        return f"{t.name[:63]:64}  {t.why[:60]}"
    return f"{t.name[:63]:64}{t.surprise:10.2f}{t.residual:10.2f}{t.low:9.2f}{t.high:9.2f}"


def _json(t: Tried) -> dict[str, Any]:
    return {
        "reading": t.name,
        "fixes": [c.fix for c in t.changes],
        "score": t.score if math.isfinite(t.score) else None,
        "surprise": t.surprise,
        "residual": t.residual,
        "range": [t.low, t.high],
        "why": t.why,
    }
