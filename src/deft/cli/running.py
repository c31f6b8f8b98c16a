"""A command line run to its end, on one process or several: every failure a user can mend is one line and exit code
2."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import tempfile
import traceback
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import click

from deft.cli import streams
from deft.cli.common import known_failure, one_line
from deft.cli.group import ResumingCommand
from deft.cli.sections import Sections
from deft.errors import DeftError, LostError, OutputError
from deft.io.drawn import CHUNKS
from deft.io.files import NO_SPACE, shortened
from deft.runtime.distributed import World, get_world, launch_note
from deft.runtime.signals import asked_to_stop, exit_code
from deft.train.fit import Interrupted

SHOW_TRACEBACK = "DEFT_TRACEBACK"
"""Environment variable: 1 prints the traceback of an error that is a fault of deft."""
STREAM_FULL = (*NO_SPACE, errno.EIO)
"""Errors without a file's name that come from writing to standard output or standard error."""
STATES = ("state.pt", "sizes.json", "round.pt", CHUNKS)
"""Files that a command which was stopped can be resumed from."""


def run(cli: click.Group, arguments: list[str]) -> int:
    """Run a command line and return its exit code.

    Raises `OSError` without a file's name if standard output cannot be written.
    """
    world = World()
    try:
        world = get_world()
        return _on_each(cli, arguments, world)
    except click.exceptions.NoArgsIsHelpError as error:
        if world.speaks:
            click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(_usage(error), world)
    except (KeyboardInterrupt, click.Abort) as stop:
        return _stopped(stop, cli, arguments, world)
    except LostError as error:
        return _fail(f"{error}; {_advice(cli, arguments, world)}" if error.saved else str(error), world)
    except OutputError as error:
        other = "; or give another --out" if _has(_command(cli, arguments)[0], "--out") else ""
        return _fail(f"{error}{other}", world)
    except DeftError as error:
        return _fail(str(error), world)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or (error.filename is None and error.errno in STREAM_FULL):
            raise
        if error.filename is None:
            return _fail(one_line(error), world)
        return _fail(f"cannot use {shortened(os.fspath(error.filename))}: {error.strerror or one_line(error)}", world)
    except (RuntimeError, MemoryError) as error:
        if asked_to_stop(error):
            return _stopped(error, cli, arguments, world)
        message = known_failure(error)
        return _fault(error, world) if message is None else _fail(message, world)
    except Exception as error:
        return _stopped(error, cli, arguments, world) if asked_to_stop(error) else _fault(error, world)
    finally:
        world.close()


def _on_each(cli: click.Group, arguments: list[str], world: World) -> int:
    """The command itself, on each of the processes there are; the main one alone is heard."""
    with ExitStack() as silence:
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


def _usage(error: click.ClickException) -> str:
    """What is said of a command line that click refuses, and which help lists what there is."""
    said = error.format_message().rstrip(".")
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return said
    every = "--help-all" if isinstance(error.ctx.command, Sections) else "--help"
    return f"{said}; see {error.ctx.command_path} {every}"


def _fail(message: str, world: World) -> int:
    if world.speaks:
        streams.complain(f"error: {one_line(message)}")
    return 2


def _fault(error: Exception, world: World) -> int:
    """An error that no message was written for: one line, and where the traceback is."""
    if not world.speaks:
        return 1
    text = "".join(traceback.format_exception(error))
    if os.environ.get(SHOW_TRACEBACK, "") not in ("", "0"):
        streams.complain(text.rstrip())
        where = "the traceback is above"
    else:
        where = f"{SHOW_TRACEBACK}=1 shows the traceback"
        with suppress(OSError):
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="backslashreplace", prefix="deft-traceback-",
                                             suffix=".txt", delete=False) as f:  # fmt: skip
                f.write(f"{shlex.join(sys.argv)}\n{text}")
            where = f"the traceback is in {f.name} ({SHOW_TRACEBACK}=1 shows it)"
    said = one_line(error)[:300]
    streams.complain(
        f"error: {type(error).__name__}{': ' if said else ''}{said}; this is a fault of deft, not of what you gave:"
        f" {where}; please report it"
    )
    return 1


def _stopped(stop: BaseException, cli: click.Group, arguments: list[str], world: World) -> int:
    """After Ctrl-C or SIGTERM: what was saved, and how to go on."""
    cause = stop if isinstance(stop, Interrupted) else stop.__cause__
    gone = world.missing()  # where one process dies, its launcher stops the others
    said = f"stopped: rank {', '.join(map(str, gone))} was lost" if gone else "stopped"
    if isinstance(cause, Interrupted):
        said = str(cause)
    if not gone or isinstance(cause, Interrupted):
        advice = _advice(cli, arguments, world, isinstance(cause, Interrupted))
        said = f"{said}; {advice}" if advice else said
    if world.speaks:
        streams.complain(one_line(said))
    return exit_code()


def _command(cli: click.Group, arguments: list[str]) -> tuple[click.Command, list[str]]:
    """The command that a line calls, and what it is given."""
    command: click.Command = cli
    rest = list(arguments)
    context = click.Context(cli)
    for i, word in enumerate(arguments):
        if not isinstance(command, click.Group):
            break
        with suppress(Exception):
            if (found := command.get_command(context, word)) is not None:
                command, rest = found, arguments[i + 1 :]
    return command, rest


def _has(command: click.Command, option: str) -> bool:
    return any(option in p.opts for p in command.params)


def _advice(cli: click.Group, arguments: list[str], world: World, saved: bool = True) -> str:
    """How to go on after a command was stopped; "" for one that leaves nothing."""
    command, rest = _command(cli, arguments)
    kept = [a for a in arguments if a not in ("--resume", "--overwrite")]
    launcher = [] if world.size == 1 else ["accelerate", "launch", "...", "-m"]

    def line(*more: str) -> str:
        return shlex.join([*launcher, "deft", *kept, *more])

    if isinstance(command, ResumingCommand):
        return f"resume with the same command: {line()}"
    out = _out(command, rest)
    begun = out is not None and any((out / name).exists() for name in STATES)
    if _has(command, "--resume") and (saved or begun):
        return f"resume with: {line('--resume')}"
    if out is None:
        return ""
    used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    return f"start again with: {line(*(['--overwrite'] if used and _has(command, '--overwrite') else []))}"


def _out(command: click.Command, rest: list[str]) -> Path | None:
    """What --out is; None where there is no such option."""
    if not _has(command, "--out"):
        return None
    with suppress(Exception):
        context = command.make_context("deft", list(rest), resilient_parsing=True)
        if (value := context.params.get("out")) is not None:
            return Path(value)
    return None
