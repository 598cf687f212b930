"""What is written to the terminal. Everything that cgpipe says goes through here, so that no name can do harm."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from enum import IntEnum

import click

from cgpipe.errors import CgpipeError

_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but tab and line feed, marks that turn the writing direction, and what is no character."""

_LOUDNESS = "cgpipe.loudness"


class Loudness(IntEnum):
    """How much a command says."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class OutputError(CgpipeError):
    """Standard output cannot be written to."""


def escaped(text: str, *, one_line: bool = False) -> str:
    r"""Text without anything that a terminal would obey: ``\x1b`` stands in place of the character of that number.

    Args:
        one_line: escape line feeds too, as for a name in a list.
    """
    text = _UNSAFE.sub(lambda match: _escape(match[0]), text)
    return text.replace("\n", r"\n") if one_line else text


def _escape(character: str) -> str:
    try:  # a byte of a name that is not in the file system's encoding
        return f"\\x{os.fsencode(character)[0]:02x}" if character >= "\ud800" else _numbered(character)
    except UnicodeEncodeError:
        return _numbered(character)


def _numbered(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def loudness() -> Loudness:
    """How much the running command is to say."""
    context = click.get_current_context(silent=True)
    return context.meta.get(_LOUDNESS, Loudness.NORMAL) if context else Loudness.NORMAL


def set_loudness(context: click.Context, loudness: Loudness) -> None:
    """Makes the running command quiet or verbose."""
    if context.meta.setdefault(_LOUDNESS, loudness) != loudness:
        raise click.UsageError("--quiet and --verbose exclude one another.")


def show(text: str) -> None:
    """Writes what was asked for to standard output.

    Raises:
        OutputError: standard output is closed, or the disk behind it is full.
    """
    if sys.stdout is None:
        raise OutputError("Standard output is closed.")
    try:
        click.echo(_encodable(escaped(text), sys.stdout.encoding))
    except OSError as error:
        drain_standard_output()
        raise OutputError(f"Standard output cannot be written: {error.strerror}.") from error


def say(text: str, *, err: bool = True) -> None:
    """Says how the work goes, unless the command is to be quiet.

    Args:
        err: to standard error; else to standard output.
    """
    if loudness() > Loudness.QUIET:
        warn(text) if err else show(text)


def detail(text: str) -> None:
    """Says what only ``--verbose`` wants to know, in one line on standard error."""
    if loudness() == Loudness.VERBOSE:
        warn(escaped(text, one_line=True))


def describe(settings: Mapping[str, object], seconds: Mapping[str, float]) -> None:
    """Says what was chosen for a job and how long each stage took, where ``--verbose`` wants to know."""
    for name, value in settings.items():
        detail(f"{name.replace('_', ' ')}: {value}")
    for stage, taken in seconds.items():
        detail(f"seconds, {stage}: {taken:.2f}")


def warn(text: str) -> None:
    """Writes to standard error, however quiet the command is to be; that nobody listens is no error."""
    if sys.stderr is None:
        return
    try:
        click.echo(_encodable(escaped(text), sys.stderr.encoding), err=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _encodable(text: str, encoding: str | None) -> str:
    """The text with escapes for what the terminal's encoding lacks."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def drain_standard_output() -> bool:
    """Writes what is left for standard output, and tells whether that was possible."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Python would try once more to write what is left when it ends, and complain in words of its own.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return False
    return True


def fill_closed_streams() -> None:
    """Opens the null device where a standard stream is closed.

    The next file that is opened would get the stream's number, and what a library prints would end up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
