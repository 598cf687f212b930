"""The README shows the help texts that the program prints. ``python tests/test_readme.py`` brings them up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cgpipe.cli import cli

README = Path(__file__).parent.parent / "README.md"
PLACE = re.compile(r"<!-- help: (\w+) -->\n(.*?)<!-- /help -->", re.DOTALL)


def help_of(command: str) -> str:
    """What the program prints, as it stands in the README."""
    result = CliRunner().invoke(cli, [command, "--help"], prog_name="cgpipe", terminal_width=118, max_content_width=118)
    assert result.exit_code == 0, result.output
    lines = "\n".join(f"    {line}".rstrip() for line in result.output.strip().splitlines())
    return f"\n{lines}\n\n"


@pytest.mark.parametrize("command", [match[1] for match in PLACE.finditer(README.read_text(encoding="utf-8"))])
def test_help_in_the_readme_is_what_the_program_prints(command: str) -> None:
    shown = {match[1]: match[2] for match in PLACE.finditer(README.read_text(encoding="utf-8"))}
    assert shown[command] == help_of(command), "bring it up to date with: python tests/test_readme.py"


def test_the_main_commands_are_shown() -> None:
    shown = {match[1] for match in PLACE.finditer(README.read_text(encoding="utf-8"))}
    assert {"translate", "video", "train", "evaluate", "distill"} <= shown


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    text = PLACE.sub(lambda match: f"<!-- help: {match[1]} -->\n{help_of(match[1])}<!-- /help -->", text)
    README.write_text(text, encoding="utf-8")
