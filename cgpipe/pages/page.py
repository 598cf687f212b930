"""A page beside an output: an HTML file, and a folder with its pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

import cgpipe
from cgpipe.errors import MediaError, UsageError
from cgpipe.storage import LOCAL, PAGE_MARK, PathLike, atomic_write, mounted, shown, store_of

if TYPE_CHECKING:
    from jinja2 import Environment

GENERATOR = "cgpipe"
"""Prefix of every page's ``generator`` tag: a page without it is not ours, and is never replaced."""

_HEAD_BYTES = 1024


class Page:
    """The path of a page, and access to it.

    Args:
        path: the HTML file; its pictures go to ``<path without .html>_files`` beside it, which file managers treat as
            part of it.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self.files = self.path.with_name(f"{self.path.name.removesuffix('.html')}_files")

    @classmethod
    def beside(cls, output: PathLike) -> Page:
        """The page of an output folder or file."""
        path = Path(os.path.abspath(output))
        return cls(path.with_name(f"{path.name}.html"))

    def claim(self, *, pictures: bool = True) -> None:
        """Checks that nothing that cgpipe did not make is in the way, and creates the folder.

        Args:
            pictures: whether the page has pictures, and so a folder.

        Raises:
            UsageError: a file or folder that cgpipe did not make is in the way.
            MediaError: the page cannot be written.
        """
        if os.path.lexists(self.path) and not is_page(self.path):
            raise UsageError(f"{self.path} already exists and is not a page of cgpipe: move it away or rename it.")
        if not pictures:
            return
        mark = self.files / PAGE_MARK
        if os.path.lexists(self.files) and not mark.is_file():
            raise UsageError(f"{self.files} already exists and was not made by cgpipe: move or rename it.")
        try:
            self.files.mkdir(parents=True, exist_ok=True)
            if not mark.exists():
                mark.touch()
        except OSError as error:
            raise MediaError(f"The page cannot be written to {self.path}: {error.strerror}.") from error

    def write(self, template: str, **values: object) -> None:
        """Renders and writes the page, whole or not at all.

        Raises:
            MediaError: it cannot be written.
        """
        text = render(template, **values)
        try:
            with atomic_write(self.path) as partial:
                partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise MediaError(f"The page cannot be written to {self.path}: {error.strerror}.") from error

    def address(self, path: PathLike) -> str:
        """The URL of a file for a link on the page, relative if possible."""
        return address(path, self.path.parent)

    def data(self) -> dict[str, object]:
        """The data of an earlier page of this name; empty if there is none, or it cannot be read."""
        with suppress(OSError, ValueError):
            text = self.path.read_text(encoding="utf-8")
            _, found, rest = text.partition('<script type="application/json" id="data">')
            values = json.loads(rest.partition("</script>")[0]) if found else {}
            return values if isinstance(values, dict) else {}
        return {}


def is_page(path: Path) -> bool:
    """Whether a file is a page written by cgpipe."""
    with suppress(OSError), path.open("rb") as file:
        return f'<meta name="generator" content="{GENERATOR} '.encode() in file.read(_HEAD_BYTES)
    return False


def render(template: str, **values: object) -> str:
    """The HTML of a page; values are escaped, and ``data`` becomes JSON for the page's script."""
    from markupsafe import Markup

    if "data" in values:
        # Equivalent in JSON, and no browser takes it for the end of the script or the start of a comment.
        text = json.dumps(values["data"], separators=(",", ":")).replace("<", r"\u003c")
        values["data"] = Markup(text)
    generator = f"{GENERATOR} {cgpipe.__version__}"
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    text = _environment().get_template(template).render(generator=generator, written=written, **values)
    return readable(text)  # names are on it, of which a few are no text


def address(path: PathLike, folder: Path) -> str:
    """The URL of ``path`` relative to a page in ``folder``; any bytes of a name are preserved.

    That of a remote file is its address without secrets, such as ``s3://bucket/a.jpg``; few of those open in a browser.
    """
    if store_of(path) is not LOCAL:
        return quote(os.fsencode(shown(path)), safe="/:")
    absolute = os.path.abspath(path)
    try:
        relative = os.path.relpath(absolute, os.path.abspath(folder))
    except ValueError:  # another drive of Windows
        return Path(absolute).as_uri()
    # ``./`` keeps a name with a colon from being taken for another scheme.
    return f"./{quote(os.fsencode(relative.replace(os.sep, '/')))}"


def is_there(url: str, folder: Path) -> bool:
    """Whether the file of an :func:`address` still exists; True if that cannot be found out."""
    path = os.fsdecode(unquote_to_bytes(url))
    if url.startswith("."):
        return os.path.lexists(os.path.join(folder, path))
    place = os.fspath(Path(path))
    store = mounted(place)
    try:
        return store is None or bool(store.stamp(place))
    except FileNotFoundError:
        return False
    except OSError:
        return True


def readable(path: PathLike) -> str:
    """A name for people, or a text with names, with undecodable bytes escaped."""
    return os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def rows_of(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Names and values for a table, without empty values."""
    told = ((name.replace("_", " "), value) for name, value in values.items())
    return [(name.capitalize(), _text(value)) for name, value in told if value not in (None, "", (), [], {})]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return readable(value) if isinstance(value, str | os.PathLike) else str(value)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("cgpipe.pages")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
