"""The command group of cgpipe: lazy imports, and one place each for errors and for environment variables."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import click

from cgpipe.cli.signals import exit_code_of, number_of, word_for
from cgpipe.cli.terminal import Loudness, escaped, loudness, warn
from cgpipe.errors import CgpipeError, CgpipeWarning
from cgpipe.storage import without_secrets


class ShownError(click.ClickException):
    """A :class:`CgpipeError` as a Click exception: prints ``Error: …`` and keeps the error's exit code."""

    def __init__(self, error: CgpipeError, *, verbose: bool = False) -> None:
        super().__init__("\n".join([str(error), *(_causes(error) if verbose else ())]))
        self.exit_code = error.exit_code  # type: ignore[misc]  # a ClassVar there, but read from the instance

    def show(self, file: IO[str] | None = None) -> None:
        warn(f"Error: {self.message}")


def _causes(error: BaseException) -> Iterator[str]:
    while error.__cause__ is not None:
        error = error.__cause__
        yield without_secrets(f"  because of {type(error).__name__}: {error}")


class CommandGroup(click.Group):
    """A group that imports a command only when it is called.

    It turns :class:`CgpipeError` into ``Error: …`` with the error's exit code, prints one word on Ctrl-C and similar
    signals, and suggests a command for a mistyped one. Each option gets an environment variable named after its flag:
    ``--from`` of ``translate`` is ``CGPIPE_TRANSLATE_FROM``.

    Args:
        lazy: module and short help of each command, by name. The module's command is called ``command``.
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.UsageError(f"No such command {args[0]!r}.{self._suggestion(ctx, args[0])}", ctx) from error

    def _suggestion(self, ctx: click.Context, name: str) -> str:
        near = get_close_matches(name.lower(), self.list_commands(ctx), n=1)
        if near:
            return f" Did you mean {near[0]}?"
        if "translate" in self.lazy and Path(name).exists():
            return f" Did you mean {ctx.command_path} translate {name}?"
        return f" Commands: {', '.join(self.list_commands(ctx))}."

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        helps = {name: text for name, (_, text) in self.lazy.items()}
        helps |= {name: command.get_short_help_str(limit=formatter.width) for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl(list(helps.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _warnings_shown():
                return super().invoke(ctx)
        except CgpipeError as error:
            raise ShownError(error, verbose=loudness() == Loudness.VERBOSE) from error
        except click.ClickException as error:
            error.message = escaped(error.message)  # type: ignore[misc]  # declared final there
            raise
        except KeyboardInterrupt as stop:
            warn(word_for(number_of(stop)))
            ctx.exit(exit_code_of(number_of(stop)))


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Shows cgpipe's own warnings, each once and in one line, and hides those of libraries."""
    said = set()

    def show(message: Warning | str, category: type[Warning], *place: object) -> None:
        if issubclass(category, CgpipeWarning) and str(message) not in said:
            said.add(str(message))
            warn(f"Warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def _name_variables(command: click.Command, prefix: str) -> None:
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None and option.allow_from_autoenv:
            typed = max(option.opts, key=len)
            option.envvar = f"{prefix}_{typed.lstrip('-')}".replace("-", "_").upper()
            option.allow_from_autoenv = False
            # One line at the end: a variable beside every option would drown the help.
            example = f"{typed} by {option.envvar}"
            command.epilog = command.epilog or f"Options can also be set by environment variables, such as {example}."
