"""deft export"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deft.cli import common
from deft.cli.common import Name, Output, json_option, overwrite_option
from deft.cli.numbers import Number
from deft.values import Steps
from deft.workflow.exporting import FORMATS, export, export_prior

file_option = click.option(
    "--out", type=common.FilePath(), required=True, help="The file: NAME.onnx, or NAME.pt2 (torch.export)."
)
format_option = click.option(
    "--format", "kind", type=Name("format", tuple(FORMATS.values())), help="Default: by the suffix of --out."
)


@click.command("export")
@click.argument("run", type=common.FilePath())
@file_option
@click.option("--with-prior", is_flag=True, help="The prior is in the graph too.")
@format_option
@click.option("--steps", type=Number(Steps), help="Levels in the JSON file.  [default: those of deft sample]")
@click.option("--prior", "prior_option", type=common.SOURCE, help="Where the prior is now, if it was moved.")
@common.prior_option_option
@common.trust_code_option
@overwrite_option
@json_option
def export_run(
    run: Path,
    out: Path,
    with_prior: bool,
    kind: str | None,
    steps: int | None,
    prior_option: str | None,
    prior_options: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write a fitted h as a graph for other runtimes (ONNX).

    \b
    deft export run --out conditioned.onnx --with-prior

    RUN is a folder made by `deft fit`. The graph's output is E[x_0 | x_t, y]. NAME.json beside it says what goes in, on
    which levels. The graph is compared with PyTorch first; docs/export.md has a sampler of 25 lines for it.
    """
    output = Output(as_json)
    fitted = common.load_run(run, prior_option, common.get_device("cpu"), prior_options)
    about = export(fitted, out, with_prior=with_prior, format=kind, steps=steps, overwrite=overwrite)
    _say(output, about, out)
    output.say(f"wrote {out}, {out.with_suffix('.json')}; next: docs/export.md has a sampler for them")
    output.result({"out": str(out), **about})


@click.command("export")
@click.argument("path", metavar="PRIOR", type=common.SOURCE)
@file_option
@format_option
@common.prior_option_option
@overwrite_option
@json_option
def export_network(
    path: str, out: Path, kind: str | None, prior_options: tuple[str, ...], overwrite: bool, as_json: bool
) -> None:
    """Write the network of a prior as a graph, with its convention beside it.

    \b
    deft prior export fashion --out fashion.onnx
    deft prior inspect fashion.onnx

    NAME.json beside it says how the network is read, so that --prior NAME.onnx needs no options.
    """
    output = Output(as_json)
    prior = common.find_prior(path, common.get_device("cpu"), prior_options)
    about = export_prior(prior, out, format=kind, overwrite=overwrite)
    _say(output, about, out)
    output.say(f"wrote {out}, {out.with_suffix('.json')}; next: deft prior inspect {out}")
    output.result({"out": str(out), **about})


def _say(output: Output, about: dict[str, Any], out: Path) -> None:
    """What goes in and comes out, and how the file was compared."""
    output.say(f"takes {', '.join(about['inputs'])}; returns {about['output']['about']}")
    rows = ", ".join(map(str, about["compared_at"]["rows"]))
    output.say(
        f"compared with PyTorch at {len(about['compared_at']['times'])} noise levels, on {rows} rows: the largest"
        f" difference is {about['largest_difference']:.1e}"
    )
