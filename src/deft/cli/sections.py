"""Options in sections: `--help` shows the few that people need, `--help-all` all of them under headings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
SHOW_ALL = "deft.help_all"


def section(title: str, *options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order given, under a heading of `--help-all`."""

    def apply(function: F) -> F:
        before = len(getattr(function, "__click_params__", ()))
        for option in reversed(options):
            function = option(function)
        for param in function.__click_params__[before:]:  # type: ignore[attr-defined]
            param.section = title
        return function

    return apply


class Sections(click.Command):
    """A command whose `--help` shows the options without a section, and `--help-all` the sections too."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        everything = click.Option(
            ["--help-all"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_help_all,
            help="Show all options, under headings.",
        )
        return [*super().get_params(ctx), everything]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "section", ""), []).append(record)
        with formatter.section("Options"):
            formatter.write_dl(sections.pop("", []))
        if ctx.meta.get(SHOW_ALL):
            for title, records in sections.items():
                with formatter.section(title):
                    formatter.write_dl(records)


def _help_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[SHOW_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
