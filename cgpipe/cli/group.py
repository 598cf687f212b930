"""The kind of command group that cgpipe is: lazy, with one place for errors and one for environment variables."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from cgpipe.errors import CgpipeError, CgpipeWarning

INTERRUPTED = 130
"""The exit code of a program that was stopped by Ctrl-C, as shells have it."""


class ShownError(click.ClickException):
    """An error of cgpipe's as Click shows it: ``Error: …``, and the error's own exit code."""

    def __init__(self, error: CgpipeError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]  # a ClassVar there, but read from the instance


class CommandGroup(click.Group):
    """A group that imports its commands when they are called, and not to list them.

    It turns :class:`CgpipeError` into ``Error: …`` with the error's own exit code, ends quietly on Ctrl-C, and gives
    each option an environment variable named after what is typed: ``--from`` of ``translate`` is
    ``CGPIPE_TRANSLATE_FROM``.

    Args:
        lazy: module and one line of help of each command, by name; the module calls its command ``command``.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = self.commands.get(cmd_name)
        if command is None and cmd_name in self.lazy:
            command = import_module(self.lazy[cmd_name][0]).command
        if command is not None and ctx.auto_envvar_prefix:
            _name_variables(command, f"{ctx.auto_envvar_prefix}_{cmd_name}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        helps = {name: text for name, (_, text) in self.lazy.items()}
        helps |= {name: command.get_short_help_str(limit=formatter.width) for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(list(helps.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning  # type: ignore[assignment]
                return super().invoke(ctx)
        except CgpipeError as error:
            raise ShownError(error) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
    if issubclass(category, CgpipeWarning):
        click.echo(f"Warning: {message}", err=True)


def _name_variables(command: click.Command, prefix: str) -> None:
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None and option.allow_from_autoenv:
            typed = max(option.opts, key=len)
            option.envvar = f"{prefix}_{typed.lstrip('-')}".replace("-", "_").upper()
            option.allow_from_autoenv = False
            # Once in words, not once an option, which would hide what the options say.
            example = f"{typed} by {option.envvar}"
            command.epilog = command.epilog or f"Options can also be set by environment variables, such as {example}."
