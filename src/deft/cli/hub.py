"""deft hub"""

from __future__ import annotations

from pathlib import Path

import click

from deft.cli import common
from deft.cli.common import Output, json_option, out_option, overwrite_option
from deft.cli.group import NearestGroup
from deft.cli.numbers import Line
from deft.workflow.hub import FILES, push_to_hub, save_pretrained


@click.group(cls=NearestGroup)
def hub() -> None:
    """Share a fitted h: a folder with card and README, and a model hub."""


@hub.command()
@click.argument("run", type=common.FilePath())
@out_option()
@click.option(
    "--report",
    type=common.FilePath(),
    help="report.json of `deft evaluate`, for the figures of card and README.",
)
@click.option(
    "--picture",
    type=common.FilePath(),
    help="A picture for the README: samples.png of a report, sheet.png of `deft sample`.",
)
@click.option(
    "--license",
    "--licence",
    "licence",
    help="Licence of the weights, as hubs write it: apache-2.0, mit, cc-by-4.0, ...",
)
@click.option(
    "--about-data", help="The data that h was fitted to, for the card.  [default: the run's, without folders]"
)
@click.option("--note", type=Line(), help="One line for the README.")
@click.option("--prior", "prior_option", type=common.SOURCE, help="Where the prior is now, if it was moved.")
@common.prior_option_option
@common.trust_code_option
@overwrite_option
@json_option
def export(
    run: Path,
    out: Path,
    report: Path | None,
    picture: Path | None,
    licence: str | None,
    about_data: str | None,
    note: str | None,
    prior_option: str | None,
    prior_options: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write RUN, a folder made by `deft fit`, as a folder for others.

    \b
    deft hub export run --out shared --report report/report.json --picture report/samples.png --license apache-2.0

    Writes h.safetensors, card.json, README.md and sample.png. Paths of this machine are not in the card.
    """
    output = Output(as_json)
    found = common.load_run(run, prior_option, common.get_device("cpu"), prior_options)
    h, task, prior = found.h, found.task, found.prior
    about = {"prior": prior.loaded_as, **found.card}
    about |= {k: v for k, v in {"licence": licence, "data": about_data, "note": note}.items() if v is not None}
    written = save_pretrained(out, h, prior, task, report=report, picture=picture, overwrite=overwrite, **about)
    output.say(
        f"h for {task.title} ({task.noise_text()}), fitted to the prior {written['prior']}; licence"
        f" {written['licence']}"
    )
    files = [name for name in FILES if (out / name).exists()]
    output.say(
        f"wrote {', '.join(str(out / f) for f in files)}; next: read {out}/README.md, then deft hub push {out}"
        " OWNER/NAME"
    )
    output.result({"out": str(out), "files": files, "card": written})


@hub.command()
@click.argument("folder", type=common.FilePath())
@click.argument("repo_id", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@json_option
def push(folder: Path, repo_id: str, private: bool, as_json: bool) -> None:
    """Upload FOLDER, made by `deft hub export`, to the model repository OWNER/NAME.

    \b
    deft hub push shared ann/inpaint-fashion

    The token is the one that `hf auth login` stored, or HF_TOKEN.
    """
    output = Output(as_json)
    url = push_to_hub(folder, repo_id, private=private)
    output.say(f"pushed to {url}")
    output.result({"url": url, "repo_id": repo_id})
