"""Output to the terminal. All of it goes through here, so that no file name can inject escape sequences."""

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
"""Control characters except tab and line feed, bidirectional marks, and lone surrogates."""

_LOUDNESS = "cgpipe.loudness"


class Loudness(IntEnum):
    """How much a command prints."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class OutputError(CgpipeError):
    """Standard output cannot be written to."""


def escaped(text: str, *, one_line: bool = False) -> str:
    r"""Text with control characters escaped: the escape character becomes ``\x1b``.

    Args:
        one_line: escape line feeds too.
    """
    text = _UNSAFE.sub(lambda match: _escape(match[0]), text)
    return text.replace("\n", r"\n") if one_line else text


def _escape(character: str) -> str:
    try:  # a byte that the file system's encoding cannot decode
        return f"\\x{os.fsencode(character)[0]:02x}" if character >= "\ud800" else _numbered(character)
    except UnicodeEncodeError:
        return _numbered(character)


def _numbered(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def loudness() -> Loudness:
    """The loudness of the running command."""
    context = click.get_current_context(silent=True)
    return context.meta.get(_LOUDNESS, Loudness.NORMAL) if context else Loudness.NORMAL


def set_loudness(context: click.Context, loudness: Loudness) -> None:
    """Makes the running command quiet or verbose."""
    if context.meta.setdefault(_LOUDNESS, loudness) != loudness:
        raise click.UsageError("--quiet and --verbose are mutually exclusive: give one of them.")


def show(text: str) -> None:
    """Prints a command's result to standard output.

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
    """Prints a status line, unless ``--quiet`` is given.

    Args:
        err: print to standard error, else to standard output.
    """
    if loudness() > Loudness.QUIET:
        warn(text) if err else show(text)


def detail(text: str) -> None:
    """Prints one line to standard error, with ``--verbose`` only."""
    if loudness() == Loudness.VERBOSE:
        warn(escaped(text, one_line=True))


def describe(settings: Mapping[str, object], seconds: Mapping[str, float]) -> None:
    """Prints a job's settings and the time of each stage, with ``--verbose`` only."""
    for name, value in settings.items():
        detail(f"{name.replace('_', ' ')}: {value}")
    for stage, taken in seconds.items():
        detail(f"seconds, {stage}: {taken:.2f}")


def warn(text: str) -> None:
    """Prints to standard error, even with ``--quiet``. A closed stream is not an error."""
    if sys.stderr is None:
        return
    try:
        click.echo(_encodable(escaped(text), sys.stderr.encoding), err=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _encodable(text: str, encoding: str | None) -> str:
    """The text with escapes for characters that the terminal's encoding lacks."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def drain_standard_output() -> bool:
    """Flushes standard output; False if it cannot be written."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Python would flush again at exit, and print a traceback of its own.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return False
    return True


def fill_closed_streams() -> None:
    """Opens the null device in place of closed standard streams.

    Otherwise the next file to be opened gets the stream's descriptor, and a library's prints end up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
