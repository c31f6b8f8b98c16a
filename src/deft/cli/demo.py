"""deft demo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from deft.bench.methods_report import terminal
from deft.bench.studies import domain_of_tasks
from deft.cli import common
from deft.cli.common import Name, Output, bars, json_option, out_option, overwrite_option
from deft.cli.numbers import Number
from deft.values import Range, Seconds, Seed
from deft.workflow import demo as library


@click.command()
@click.option(
    "--task", type=Name("task", library.TASKS), default="inpaint", show_default=True, help="What is measured."
)
@out_option("demo")
@click.option(
    "--quick", is_flag=True, help="Seconds instead of minutes: a test that it works; the figures mean nothing."
)
@click.option("--pretrained", is_flag=True, help="Use the bundled h, fitted for longer, instead of fitting one now.")
@click.option("--seed", type=Number(Seed), default=0, show_default=True, help="Of all random numbers.")
@click.option(
    "--images",
    type=Number(Annotated[int, Range(1, 500)]),
    default=64,
    show_default=True,
    help="Held-out images to restore (at most 500).",
)
@click.option(
    "--prior",
    type=common.SOURCE,
    default="",
    help="A prior for 1x32x32 images (clothes) or 1x64x64 ones (CT slices).  [default: the task's]",
)
@click.option(
    "--seconds", type=Number(Seconds), default=library.FIT_SECONDS, show_default=True, help="Time limit of the fit."
)
@common.size_option
@overwrite_option
@json_option
def demo(
    task: str,
    out: Path,
    quick: bool,
    pretrained: bool,
    seed: int,
    images: int,
    prior: str,
    seconds: float,
    size: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Fit an h on bundled images, restore others, compare methods.

    It fits to 1,000 images and restores held-out ones, in under three minutes on two CPU cores. Writes samples.png,
    samples.npz, report.md, report.json and h.safetensors. The folder of an earlier demo may be reused.
    """
    output = Output(as_json)
    config = library.DemoConfig(
        task=task, seed=seed, images=images, quick=quick, pretrained=pretrained, prior=prior, seconds=seconds, size=size
    )
    report = library.demo(out, config, overwrite=overwrite, progress=bars())
    output.say("\n" + terminal(domain_of_tasks([task]), report["title"], report["rows"]))
    output.say(f"\n{out}/samples.png  {out}/report.md  {out}/report.json   ({report['seconds']:.0f} s)")
    output.result(report)
