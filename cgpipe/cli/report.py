"""``cgpipe report``."""

from __future__ import annotations

from pathlib import Path

import click

from cgpipe.cli.options import STANDARD_OUTPUT, Place, loudness_options, report_option
from cgpipe.cli.terminal import escaped, say, warn


@click.command()
@click.argument("output", type=Place())
@report_option
@loudness_options
def command(output: str, report_file: Path | None) -> None:
    """Join the reports of a job's shards: what became of its pictures or videos, and which shards are missing.

    OUTPUT is the folder that the shards of 'cgpipe translate --shard I/N' or 'cgpipe video --shard I/N' wrote to. The
    exit code is that of one job: 3 where some files failed or some shards have left no report.
    """
    from cgpipe.jobs.report import write_report
    from cgpipe.jobs.shards import join_reports

    joined = join_reports(output)
    for name, reason in joined.failures:
        warn(escaped(f"Failed: {name}: {reason}", one_line=True))
    if joined.missing:
        warn(joined.missing_words())
    if report_file:
        write_report(report_file, joined.to_json())
    say(joined.summary(), err=report_file == STANDARD_OUTPUT)
    click.get_current_context().exit(joined.exit_code)
