"""The command `deft`: thin over the library; every failure a user can mend is one line and exit code 2."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout

import click

from deft.cli.common import NearestGroup, known_failure, one_line
from deft.cli.compare import compare
from deft.cli.demo import demo
from deft.cli.evaluate import evaluate
from deft.cli.fit import fit
from deft.cli.hub import hub
from deft.cli.info import info, list_all
from deft.cli.measure import measure
from deft.cli.prior import prior
from deft.cli.protein import protein
from deft.cli.sample import sample
from deft.cli.serve import serve
from deft.errors import DeftError, LostError
from deft.runtime.distributed import World, get_world, launch_note
from deft.train.fit import Interrupted


@click.group(cls=NearestGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="deft-diffusion", prog_name="deft")
def cli() -> None:
    """Conditional sampling from a frozen diffusion model by Doob's h-transform.

    \b
    deft demo                                      see it work, in three minutes
    deft fit --data photos/ --out run              fit an h to your images
    deft sample run --measurement photo.png --mask mask.png --out filled
    deft evaluate run --data held-out/ --out report

    Every command has --json: one JSON object on standard output, everything else on standard error.
    """


for command in (demo, fit, sample, evaluate, compare, measure, info, list_all, prior, protein, hub, serve):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    world = World()
    try:
        world = get_world()
        return _run(arguments, world)
    except click.exceptions.NoArgsIsHelpError as error:
        if world.speaks:
            click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), world)
    except (Interrupted, click.Abort) as stop:
        cause = stop if isinstance(stop, Interrupted) else stop.__cause__
        gone = world.missing()  # where one process dies, its launcher stops the others
        said = f"stopped: rank {', '.join(map(str, gone))} was lost" if gone else "stopped"
        if isinstance(cause, Interrupted):
            said = f"{cause}; go on with: {_resume(arguments, world)}"
        if world.speaks:
            click.echo(one_line(said), err=True)
        return 130
    except LostError as error:
        return _fail(f"{error}; go on with: {_resume(arguments, world)}" if error.saved else str(error), world)
    except DeftError as error:
        return _fail(str(error), world)
    except (RuntimeError, MemoryError) as error:
        message = known_failure(error)
        if message is None:
            raise
        return _fail(message, world)
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    finally:
        world.close()


def _run(arguments: list[str], world: World) -> int:
    """The command itself, on each of the processes there are; the main one alone is heard."""
    with ExitStack() as silence:
        if world.size > 1:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        if not world.main:
            nowhere = silence.enter_context(open(os.devnull, "w"))
            silence.enter_context(redirect_stdout(nowhere))
            silence.enter_context(redirect_stderr(nowhere))
        elif note := launch_note():
            click.echo(note, err=True)
        try:
            code = cli.main(args=arguments, prog_name="deft", standalone_mode=False)
        except (click.Abort, LostError):
            raise
        except Exception as error:
            try:
                world.agree(error)  # so that none of the others waits for this one
            except LostError:
                raise error from None
            raise
    return code if isinstance(code, int) else 0


def _fail(message: str, world: World) -> int:
    if world.speaks:
        click.echo(f"error: {one_line(message)}", err=True)
    return 2


def _resume(arguments: list[str], world: World) -> str:
    kept = [a for a in arguments if a not in ("--resume", "--overwrite")]
    launcher = [] if world.size == 1 else ["accelerate", "launch", "...", "-m"]
    return shlex.join([*launcher, "deft", *kept, "--resume"])
