"""``cgpipe info``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import click

from cgpipe.cli.options import json_flag
from cgpipe.cli.terminal import show


@click.command()
@json_flag
def command(as_json: bool) -> None:
    """Show what this machine supports: devices, dtypes, engines, codecs, picture formats, extras and versions.

    Paste the output into bug reports.
    """
    from cgpipe.engine.machine import describe_machine

    found = describe_machine()
    show(json.dumps(found, indent=2) if as_json else "\n".join(_lines(found)))


def _lines(values: Mapping[str, object], indent: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {' '.join(map(str, value)) if isinstance(value, list) else value}"
