"""docs/commands.md shows the help of every command. ``python tests/test_command_reference.py`` brings it up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from cgpipe.cli import cli

REFERENCE = Path(__file__).parent.parent / "docs" / "commands.md"

INTRODUCTION = """# Commands

What each command prints with `--help`. Options can also be set by environment variables: `--to` of `translate` is
`CGPIPE_TRANSLATE_TO`.
"""


def paths(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    """Every command as it is typed, those of groups too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from paths(command, *above, name)
        else:
            yield (*above, name)


def help_of(path: tuple[str, ...]) -> str:
    options = {"prog_name": "cgpipe", "terminal_width": 118, "max_content_width": 118}
    result = CliRunner().invoke(cli, [*path, "--help"], **options)
    assert result.exit_code == 0, result.output
    lines = "\n".join(f"    {line}".rstrip() for line in result.output.strip().splitlines())
    return f"## {' '.join(['cgpipe', *path])}\n\n{lines}\n"


def reference() -> str:
    return "\n".join([INTRODUCTION, *map(help_of, [(), *paths(cli)])])


def test_the_reference_shows_what_the_program_prints() -> None:
    shown = REFERENCE.read_text(encoding="utf-8")
    assert shown == reference(), "bring it up to date with: python tests/test_command_reference.py"


def test_commands_of_groups_are_shown_too() -> None:
    assert ("translate",) in set(paths(cli))
    assert ("models", "import") in set(paths(cli))


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
