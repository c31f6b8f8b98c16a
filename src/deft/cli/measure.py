"""deft measure"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from deft.cli import common
from deft.cli.common import DATA_HELP, Name, Output, json_option
from deft.cli.convert import convert as convert_command
from deft.cli.group import NearestGroup
from deft.cli.measure_inspect import inspect as inspect_command
from deft.cli.numbers import Number
from deft.core.denoiser import Denoiser
from deft.core.random import Noise
from deft.errors import InputError
from deft.io.files import write_bytes
from deft.io.folders import own_file
from deft.io.measurements import save_measurement
from deft.io.tasks import TASKS
from deft.io.text import count
from deft.kinds.domain import domains
from deft.kinds.stored import Stored
from deft.runtime.memory import check_memory
from deft.values import Count, Deviation, Seed


@click.group(cls=NearestGroup, invoke_without_command=True)
@click.option("--task", type=Name("task", TASKS), help="What is measured; A+B: A, and then B of it.  [required]")
@common.task_option_option
@click.option("--sigma-y", type=Number(Deviation), help="Deviation of the noise.  [default: the task's]")
@click.option("--data", type=common.SOURCE, help=f"{DATA_HELP}  [required]")
@click.option(
    "--prior",
    "prior_name",
    type=common.SOURCE,
    help=(
        "Read the data as samples of this prior, in its units and its size: for kinds of data whose units differ from"
        " prior to prior, such as series."
    ),
)
@common.prior_option_option
@click.option("--images", type=Number(Count), help="Measure the first so many.  [default: all]")
@click.option("--seed", type=Number(Seed), default=0, show_default=True, help="Of masks, kernels and noise.")
@click.option(
    "--out",
    type=common.FilePath(),
    default="measurement.npz",
    show_default=True,
    help="The file to write; a picture goes beside it.",
)
@common.reading_options
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@json_option
@click.pass_context
def measure(
    ctx: click.Context,
    task: str | None,
    task_options: tuple[str, ...],
    sigma_y: float | None,
    data: str | None,
    prior_name: str | None,
    prior_options: tuple[str, ...],
    images: int | None,
    seed: int,
    out: Path,
    skip_bad: bool,
    resize: bool,
    convert: bool,
    value_range: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure data as a task does: y, with the mask or kernel it was made with, in a file for `deft sample`.

    \b
    deft measure --task ct --data ct:test --images 4 --out scans.npz
    deft sample --prior ct --method diffpir --measurement scans.npz --row 2 --out slice
    """
    if ctx.invoked_subcommand is not None:
        given = [
            p.opts[0]
            for p in ctx.command.params
            if p.name and ctx.get_parameter_source(p.name) is ParameterSource.COMMANDLINE
        ]
        if given:
            raise InputError(
                f"{', '.join(given)} before `{ctx.invoked_subcommand}` would do nothing: give the options of `deft"
                f" measure {ctx.invoked_subcommand}` after it"
            )
        return
    if task is None or data is None:
        missing = [name for name, value in (("--task", task), ("--data", data)) if value is None]
        raise InputError(f"missing option {' and '.join(missing)}: deft measure --task NAME --data FOLDER")
    output = Output(as_json)
    if out.suffix != ".npz":
        raise InputError(f"--out must end in .npz, got {out}")
    read = common.reading(skip_bad, resize, convert, value_range)
    with own_file(out, "measure", overwrite=overwrite):
        prior = None if prior_name is None else common.find_prior(prior_name, "cpu", prior_options)
        _measure(output, out, task, sigma_y, task_options, data, prior, images, seed, read)


def _measure(
    output: Output, out: Path, task: str, sigma_y: float | None, task_options: tuple[str, ...], data: str,
    prior: Denoiser | None, images: int | None, seed: int, reading: dict[str, Any],
) -> None:  # fmt: skip
    """Measure, and write the file and its picture."""
    owner = next(d for d in domains().values() if task in d.tasks())
    if prior is None and owner.own_units:
        raise InputError(f"the units of {owner.title} are those of a prior: give --prior, for which they are measured")
    domain, shape = (owner, None) if prior is None else (common.domain_for(prior), tuple(prior.data_shape))
    chosen = common.make_task(task, sigma_y, None, task_options, domain=domain)
    found = common.load_data(domain, data, "test", shape, reading, output.say)
    x, domain = found.x, domain.with_card(found.card)
    if images is not None and not 1 <= images <= len(x):
        raise InputError(f"--images {images}: there are {len(x)}, give 1 to {len(x)}")
    if isinstance(x, Stored):
        n = images or len(x)
        check_memory(4 * n * x.numel() // len(x), f"all of {n:,} {domain.title}", "give --images, how many of them")
    x = x[:images]
    chosen.check(x.shape[1:])
    obs = chosen.observe(x, Noise(seed, len(x)))
    save_measurement(out, obs, chosen, truth=x)
    png = domain.measurement_picture(x, obs, f"{chosen.title}, noise {chosen.sigma_y:g}")
    picture = None if png is None else out.with_suffix(".png")
    if png is not None and picture is not None:
        write_bytes(picture, png)
    made = f"{count(len(x), 'measurement')} of shape {tuple(obs.y.shape[1:])}"
    output.say(f"{made}; wrote {out}" + (f", {picture}" if picture else ""))
    output.result(
        {
            "out": str(out),
            "picture": None if picture is None else str(picture),
            "task": chosen.config(),
            "n": len(x),
            "shape": list(obs.y.shape[1:]),
        }
    )


measure.add_command(convert_command)
measure.add_command(inspect_command)
