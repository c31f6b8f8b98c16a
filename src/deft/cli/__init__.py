"""The command `deft`: thin over the library. Commands are imported when they are called, so that `deft --help` needs no
PyTorch."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from deft.cli import streams
from deft.cli.group import LazyCommand, LazyGroup
from deft.runtime.launchers import launched
from deft.runtime.signals import asked_to_stop, exit_code, interruptible

COMMANDS = {
    "calibrate": LazyCommand(
        "deft.cli.calibrate:calibrate",
        "Check the intervals of a fitted h, and make them hold.",
    ),
    "compare": LazyCommand(
        "deft.cli.compare:compare",
        "Compare methods over the priors, tasks and seeds of a file.",
    ),
    "demo": LazyCommand(
        "deft.cli.demo:demo",
        "Fit an h on bundled images, restore others, compare methods.",
    ),
    "evaluate": LazyCommand(
        "deft.cli.evaluate:evaluate",
        "Compare methods on the same held-out measurements.",
    ),
    "export": LazyCommand("deft.cli.export:export_run", "Write a fitted h as a graph for other runtimes (ONNX)."),
    "fit": LazyCommand("deft.cli.fit:fit", "Fit an h-transform to a frozen prior."),
    "hub": LazyCommand("deft.cli.hub:hub", "Share a fitted h: a folder with card and README, and a model hub."),
    "info": LazyCommand("deft.cli.info:info", "Show the card of a fitted h, a prior or a run folder."),
    "list": LazyCommand("deft.cli.info:list_all", "List tasks, methods, samplers and priors."),
    "measure": LazyCommand(
        "deft.cli.measure:measure",
        "Measure data as a task does: y, with the mask or kernel it was made with, in a file for `deft sample`.",
    ),
    "prior": LazyCommand("deft.cli.prior:prior", "Priors: what a file is, and training your own."),
    "protein": LazyCommand(
        "deft.cli.protein:protein", "Protein backbones: new chains around a motif (the extra `protein`)."
    ),
    "sample": LazyCommand("deft.cli.sample:sample", "Draw samples of what a measurement leaves open."),
    "serve": LazyCommand("deft.cli.serve:serve", "Serve a prior's outputs over HTTP, without its weights."),
}
"""Name -> where the command is, and the first sentence of its help."""


@click.group(
    cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="deft-diffusion", prog_name="deft")
def cli() -> None:
    """Conditional sampling from a frozen diffusion model by Doob's h-transform.

    \b
    deft demo                                      see it work, in three minutes
    deft fit --data photos/ --out run              fit an h to your data
    deft sample run --measurement photo.png --mask mask.png --out filled
    deft evaluate run --data held-out/ --out report

    Every command has --json: one JSON object on standard output, everything else on standard error.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with interruptible():
        try:
            streams.lenient()
            code = _main(arguments)
            streams.flush()
            return code
        except KeyboardInterrupt:
            streams.complain("stopped")
            return exit_code()
        except BrokenPipeError:
            streams.give_up()
            return 141
        except Exception as error:
            if asked_to_stop(error):
                streams.complain("stopped")
                return exit_code()
            if not isinstance(error, OSError) or error.filename is not None:
                raise
            streams.give_up()
            streams.complain(f"error: cannot write standard output: {error.strerror or error}; what it goes to is full")
            return 2


def entry() -> NoReturn:
    """A command line as a process of its own.

    After a stop the process ends here: where the interrupt came inside code that C had called, Python would end by
    SIGINT in the place of our exit code.
    """
    code = main()
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


def _main(arguments: list[str]) -> int:
    if not launched() and (not arguments or arguments[0] in ("-h", "--help", "--version")):
        return _show(arguments)
    from deft.cli.running import run

    return run(cli, arguments)


def _show(arguments: list[str]) -> int:
    """What needs no command: the help and the version."""
    try:
        code = cli.main(args=arguments, prog_name="deft", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    return code if isinstance(code, int) else 0
