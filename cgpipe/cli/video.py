"""``cgpipe video``."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import click

from cgpipe.cli import BEGAN
from cgpipe.cli.bar import CountingBar
from cgpipe.cli.options import (
    STANDARD_OUTPUT,
    LocalPath,
    engine_of,
    loudness_options,
    model_options,
    report_option,
    speed_options,
    work_options,
)
from cgpipe.cli.terminal import describe, say


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Seconds from ``75``, ``75.5``, ``1:15.5`` or ``0:01:15.5``."""
    if value is None:
        return None
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", value):
        raise click.BadParameter(f"{value!r} is no time: give seconds (75.5) or h:mm:ss (0:01:15.5).")
    total = 0.0
    for part in value.split(":"):
        total = 60 * total + float(part)
    return total


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT... [OUTPUT]")
@click.option("-o", "--output", type=LocalPath(path_type=Path), help="Folder for the results of several inputs.")
@model_options
@click.option(
    "--codec", help="Encoder, such as libx264, hevc, av1, vp9, ffv1, prores, h264_nvenc; else the container's."
)
@click.option("--crf", type=click.FloatRange(0, 63), help="Constant quality of the encoder; smaller is better.")
@click.option("--preset", help="Speed of the encoder against size, in its own words.")
@click.option("--pix-fmt", help="Pixel format, such as yuv420p10le.")
@click.option("--start", callback=seconds, metavar="TIME", help="Begin here: seconds or h:mm:ss.")
@click.option("--end", callback=seconds, metavar="TIME", help="End here.")
@click.option("--duration", callback=seconds, metavar="TIME", help="End a camera or a stream after this time.")
@click.option(
    "--fps", type=click.FloatRange(min=0, min_open=True), help="A constant rate; else every frame's own time."
)
@click.option(
    "--steady",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Temporal smoothing against shimmer, along the motion of the clip: 0 = off, 0.5 = half, 1 = most.",
)
@click.option("--side-by-side", is_flag=True, help="Original and translation in one picture.")
@click.option(
    "--deinterlace/--no-deinterlace", default=True, help="Make whole pictures of interlaced frames.", show_default=True
)
@click.option("--audio/--no-audio", default=True, help="Keep sound.")
@click.option("--hwaccel", metavar="DEVICE", help="Decode on a device: cuda, vaapi, videotoolbox and so on.")
@work_options
@speed_options
@report_option
@loudness_options
def command(inputs: tuple[str, ...], output: Path | None, report_file: Path | None, **options: Any) -> None:
    """Translate a video: cgpipe video in.mp4 out.mp4 --to zebra

    Times, sound, subtitles, chapters, colour, size and orientation are kept, and only the look changes. The container
    goes by the output's name: mp4, mov, mkv, webm, gif, webp, apng. An input may also be a folder or a numbered
    pattern of pictures (frames/%05d.png), a camera (camera:0), the address of a stream, or - for standard input; an
    output a folder or pattern of pictures, or -. With -o, several inputs go into a folder.

    An interrupted job goes on where it was when it is started again.
    """
    from cgpipe.jobs.videos import translate_videos

    if report_file == STANDARD_OUTPUT and "-" in (inputs[-1] if len(inputs) > 1 else "", str(output)):
        raise click.UsageError("Standard output cannot take both the video and its report.")

    imports = time.perf_counter() - BEGAN

    options["engine"] = engine_of(*(options.pop(name) for name in ("engine", "compile", "torchscript")))
    with CountingBar("frame") as bar:
        told: dict[str, Any] = {"on_start": bar.start, "on_frames": bar.advance, "on_failure": bar.write}
        reports = translate_videos(inputs, output, **told, **options)
    if reports.videos:
        reports.videos[0].first = {"imports": imports} | reports.videos[0].first
    for report in reports.videos:
        describe(report.settings, report.seconds)
        say(report.summary(), err=STANDARD_OUTPUT in (report_file, Path(report.output)))
    if report_file:
        reports.write(report_file)
    click.get_current_context().exit(reports.exit_code)
