"""deft compare"""

from __future__ import annotations

import re
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deft.cli import common
from deft.cli.common import Output, bars, get_device, json_option, out_option, trust_code_option, trusts_code
from deft.cli.group import ResumingCommand
from deft.cli.numbers import Jobs, Number
from deft.errors import InputError, LostError
from deft.io.folders import part_of_folder
from deft.runtime.distributed import get_world
from deft.values import quoted

if TYPE_CHECKING:
    from deft.bench.run import Finished
    from deft.bench.studies import Study


@click.command(cls=ResumingCommand)
@click.argument("file", type=common.FilePath())
@out_option("comparison")
@click.option(
    "--jobs", type=Number(Jobs), default=1, show_default=True, help="Processes on this machine that divide the work."
)
@click.option(
    "--part", help="I/N: do part I of N (from 1); the parts share the folder --out, on one machine or several."
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="cpu, cuda, cuda:1, ...: where jobs compute. Processes of --jobs share it.",
)
@click.option(
    "--report", "only_report", is_flag=True, help="Compute nothing: write the report from the results in --out."
)
@trust_code_option
@json_option
def compare(file: Path, out: Path, jobs: int, part: str | None, device: str, only_report: bool, as_json: bool) -> None:
    """Compare methods over the priors, tasks and seeds of a file.

    \b
    deft compare quick.toml --out comparison
    deft compare benchmarks/fashion.toml --out comparison --jobs 2

    FILE is TOML. The jobs are to fit, tune, draw and measure. Each result is written to --out as soon as it is there:
    the same command resumes where it was stopped, and after a change of the file computes only what changed. A job that
    fails does not stop the others. Writes report.md, report.json, wall-*.png and curve-*.png. The file `quick` comes
    with the library and takes three minutes. A FILE that names a function, a pickle or a server as its prior is
    refused without --trust-code.
    """
    from deft.bench.run import run_study
    from deft.bench.studies import find_study, read_study

    output = Output(as_json)
    study = read_study(find_study(file), trust_code=trusts_code())
    i, n = _part(part)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, not a folder: give another --out")
    where = "cpu" if only_report else str(get_device(device))
    with nullcontext() if only_report else part_of_folder(out, "compare", i, n):
        done = run_study(
            study,
            out,
            jobs=jobs,
            part=i,
            parts=n,
            progress=bars(),
            only_read=only_report,
            device=where,
            trust_code=trusts_code(),
        )
        if i == 0:
            _report(output, study, done, out)
    if done.failed:
        raise LostError(
            f"{len(done.failed)} jobs failed, and the rest is done (see *.error.txt in {out}): run the same command to"
            " try them again"
        )


def _report(output: Output, study: Study, done: Finished, out: Path) -> None:
    """Write the report, and say what it comes to."""
    from deft.bench.study_report import write_study

    report = write_study(study, done, out, command=shlex.join(["deft", *sys.argv[1:]]))
    for found in report["verdicts"]:
        output.say(f"{found['prior']}, {found['task']}: {found['verdict']}")
    output.say(f"wrote {out}/report.md, {out}/report.json ({len(report['rows'])} rows)")
    output.result(
        {"out": str(out), "rows": len(report["rows"]), "verdicts": report["verdicts"], "failed": report["failed"]}
    )


def _part(text: str | None) -> tuple[int, int]:
    """(number from 0, of how many): from --part, or this process's among those that a launcher started."""
    world = get_world()
    if text is None:
        return world.rank, world.size
    first, _, second = text.partition("/")
    if not all(re.fullmatch("[0-9]{1,6}", n) for n in (first, second)) or not 1 <= int(first) <= int(second):
        raise InputError(f"--part takes I/N with I from 1 to N, as in 2/4, got {quoted(text)}")
    return int(first) - 1, int(second)
