"""The command `deft`: thin over the library; every failure a user can mend is one line and exit code 2."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

import click

from deft.cli.common import NearestGroup, memory_message, one_line
from deft.cli.demo import demo
from deft.cli.evaluate import evaluate
from deft.cli.fit import fit
from deft.cli.info import info, list_all
from deft.cli.prior import prior
from deft.cli.sample import sample
from deft.errors import DeftError
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


for command in (demo, fit, sample, evaluate, info, list_all, prior):
    cli.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(args=arguments, prog_name="deft", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(error.format_message())
    except (Interrupted, click.Abort) as stop:
        cause = stop if isinstance(stop, Interrupted) else stop.__cause__
        said = f"{cause}; go on with: {_resume(arguments)}" if isinstance(cause, Interrupted) else "stopped"
        click.echo(one_line(said), err=True)
        return 130
    except DeftError as error:
        return _fail(str(error))
    except (RuntimeError, MemoryError) as error:
        message = memory_message(error)
        if message is None:
            raise
        return _fail(message)
    except BrokenPipeError:
        sys.stderr.close()
        return 141


def _fail(message: str) -> int:
    click.echo(f"error: {one_line(message)}", err=True)
    return 2


def _resume(arguments: list[str]) -> str:
    kept = [a for a in arguments if a not in ("--resume", "--overwrite")]
    return shlex.join(["deft", *kept, "--resume"])
