"""Groups of commands: the nearest name for a mistyped one, and commands that are imported when they are called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from deft.errors import unknown


class NearestGroup(click.Group):
    """A group that offers the nearest name for a command it does not have."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            raise unknown("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


class ResumingCommand(click.Command):
    """A command that goes on where it was stopped if the same line is given again."""


class LazyCommand(NamedTuple):
    """where: module:attribute. about: the first sentence of the command's help, which is shown without importing it."""

    where: str
    about: str


class LazyGroup(NearestGroup):
    """A group whose commands are imported when they are called or asked for their own help.

    Args:
        lazy: name -> `LazyCommand`.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **options: Any):
        super().__init__(*args, **options)
        self.lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.lazy, *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands and cmd_name in self.lazy:
            module, _, attribute = self.lazy[cmd_name].where.partition(":")
            self.add_command(getattr(importlib.import_module(module), attribute), cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, as click writes it, from what is known without importing them."""
        shown = click.Group(
            self.name, commands={**{k: click.Command(k, help=v.about) for k, v in self.lazy.items()}, **self.commands}
        )
        shown.format_commands(ctx, formatter)
