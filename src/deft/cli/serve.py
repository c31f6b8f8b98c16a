"""deft serve"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from deft.cli import common
from deft.cli.common import Output, json_option
from deft.cli.numbers import Line, Milliseconds, Number, Port, Waiting
from deft.errors import InputError
from deft.values import Count, NotNegative, Rows


def read_token(path: Path | None) -> str | None:
    """The token in a file, else the one in DEFT_TOKEN. Never an option: command lines are seen by everyone on a
    machine."""
    if path is None:
        return os.environ.get("DEFT_TOKEN") or None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the token file {path} ({common.one_line(error)}): give a text file with the token alone in it"
        ) from error
    if not token:
        raise InputError(f"the token file {path} is empty: write the token into it")
    return token


@click.command()
@click.argument("prior", metavar="PRIOR", type=common.SOURCE)
@click.option(
    "--host",
    type=Line(),
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 for every address of this machine.",
)
@click.option("--port", default=8765, show_default=True, type=Number(Port), help="0 takes a free one.")
@click.option(
    "--token-file",
    type=common.FilePath(),
    help="A file with the token clients must send.  [default: the environment variable DEFT_TOKEN]",
)
@click.option("--no-token", is_flag=True, help="Let anyone ask, even beyond this machine.")
@click.option("--name", type=Line(), help="For the card.  [default: the prior's own]")
@click.option("--max-batch", type=Number(Rows), default=256, show_default=True, help="Most rows in one request.")
@click.option(
    "--max-waiting",
    type=Number(Waiting),
    default=32,
    show_default=True,
    help="Requests at once; more are told to come back.",
)
@click.option(
    "--merge-ms",
    type=Number(Milliseconds),
    default=0.0,
    show_default=True,
    help="Wait so long for requests to share a forward pass; answers may then differ in their last bits.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A name by which the service may be asked for, such as that of a proxy in front; can be repeated."
    "  [default: on a loopback address only localhost, 127.0.0.1 and [::1]; elsewhere any]",
)
@click.option(
    "--max-connections", type=Number(Count), default=256, show_default=True, help="Open at once; the idlest makes room."
)
@click.option(
    "--grace",
    type=Number(NotNegative),
    default=10.0,
    show_default=True,
    help="Seconds after Ctrl-C or SIGTERM to finish what was asked for; the rest is told to come back.",
)
@common.prior_option_option
@common.network_options
@common.device_option
@json_option
def serve(
    prior: str,
    host: str,
    port: int,
    token_file: Path | None,
    no_token: bool,
    name: str | None,
    max_batch: int,
    max_waiting: int,
    merge_ms: float,
    allow_hosts: tuple[str, ...],
    max_connections: int,
    grace: float,
    prior_options: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """Serve a prior's outputs over HTTP, without its weights.

    \b
    deft serve fashion                                          on this machine alone
    deft fit --prior http://127.0.0.1:8765 --data fashion       somewhere else on it
    DEFT_TOKEN=... deft serve my-prior --host 0.0.0.0           for others, who set DEFT_TOKEN too

    PRIOR is whatever `deft fit --prior` takes. Ctrl-C or SIGTERM stops it, a second Ctrl-C at once. docs/remote.md has
    what the service promises.
    """
    from deft.remote.server import serve as run

    output = Output(as_json)
    token = None if no_token else read_token(token_file)
    loaded = common.find_prior(prior, common.get_device(device), prior_options)

    def ready(url: str) -> None:
        output.say(f"{name or prior} at {url}{', for those who have the token' if token else ''}; Ctrl-C stops it")
        reached = url.replace("//0.0.0.0:", "//HOST:").replace("//[::]:", "//HOST:")
        output.say(f"use it with: {'DEFT_TOKEN=... ' if token else ''}deft fit --prior {reached} --data ...")
        if loaded.data_shape != loaded.event_shape:
            output.say(
                "it serves latents, not images: it has no autoencoder for its clients. Images need the model itself:"
                f" --prior {prior}"
            )
        output.result({"url": url, "host": host, "token": token is not None, "fingerprint": loaded.fingerprint()})

    ended = run(
        loaded,
        host,
        port,
        token=token,
        no_token=no_token,
        ready=ready,
        name=name,
        max_batch=max_batch,
        max_waiting=max_waiting,
        merge_ms=merge_ms,
        allow_hosts=allow_hosts,
        max_connections=max_connections,
        grace=grace,
    )
    output.say("stopped" if ended else "stopped; a forward pass was not finished")
    if not ended:  # its thread would run on while the interpreter is taken down around it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
