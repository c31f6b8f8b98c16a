"""A command line run to its end, on one process or several: every failure a user can mend is one line and exit code
2."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout

import click

from deft.cli.common import known_failure, one_line
from deft.errors import DeftError, LostError
from deft.runtime.distributed import World, get_world, launch_note
from deft.train.fit import Interrupted


def run(cli: click.Group, arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    world = World()
    try:
        world = get_world()
        return _on_each(cli, arguments, world)
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
            said = f"{cause}; resume with: {_resume(arguments, world)}"
        if world.speaks:
            click.echo(one_line(said), err=True)
        return 130
    except LostError as error:
        return _fail(f"{error}; resume with: {_resume(arguments, world)}" if error.saved else str(error), world)
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


def _on_each(cli: click.Group, arguments: list[str], world: World) -> int:
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
