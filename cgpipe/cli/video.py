"""``cgpipe video``."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cgpipe.cli import BEGAN
from cgpipe.cli.bar import CountingBar, LearningBar
from cgpipe.cli.options import (
    STANDARD_OUTPUT,
    Place,
    engine_of,
    gallery_option,
    like_options,
    loudness_options,
    model_options,
    report_option,
    speed_options,
    work_options,
)
from cgpipe.cli.pictures import Preview
from cgpipe.cli.terminal import describe, say
from cgpipe.cli.window import NoWindowError, Window

if TYPE_CHECKING:
    from cgpipe.jobs.video_job import OnPicture

CAMERA = "camera:"


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Seconds from ``75``, ``75.5``, ``1:15.5`` or ``0:01:15.5``."""
    if value is None:
        return None
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", value):
        raise click.BadParameter(f"{value!r} is not a valid time: use seconds (75.5) or h:mm:ss (0:01:15.5).")
    total = 0.0
    for part in value.split(":"):
        total = 60 * total + float(part)
    return total


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=Place(), metavar="INPUT... [OUTPUT]")
@click.option("-o", "--output", type=Place(), help="Output folder, for several inputs.")
@model_options
@like_options
@click.option(
    "--codec", help="Encoder, such as libx264, hevc, av1, vp9, ffv1, prores, h264_nvenc; by default the container's."
)
@click.option("--crf", type=click.FloatRange(0, 63), help="Constant rate factor of the encoder: lower is better.")
@click.option("--preset", help="Speed/size preset of the encoder, such as slow.")
@click.option("--pix-fmt", help="Pixel format, such as yuv420p10le.")
@click.option("--start", callback=seconds, metavar="TIME", help="Start time: seconds or h:mm:ss.")
@click.option("--end", callback=seconds, metavar="TIME", help="End time.")
@click.option("--duration", callback=seconds, metavar="TIME", help="Stop recording a camera or stream after this time.")
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True),
    help="Constant frame rate; by default every frame keeps its own timestamp.",
)
@click.option(
    "--steady",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Temporal smoothing against shimmer, along the motion of the clip: 0 = off, 0.5 = half, 1 = most.",
)
@click.option("--side-by-side", is_flag=True, help="Put original and translation side by side.")
@click.option("--deinterlace/--no-deinterlace", default=True, help="Deinterlace interlaced clips.", show_default=True)
@click.option("--audio/--no-audio", default=True, help="Keep the audio.")
@click.option(
    "--hwaccel",
    metavar="DEVICE",
    help="Hardware decoder: cuda, vaapi, videotoolbox and so on, or off; by default that of a CUDA GPU in use.",
)
@work_options
@speed_options
@gallery_option
@click.option(
    "--preview",
    is_flag=True,
    help="Show frames as the job runs: in the terminal, or, of a camera, in a window, which ends the recording when it "
    "is closed.",
)
@report_option
@loudness_options
def command(
    inputs: tuple[str, ...], output: Path | None, report_file: Path | None, preview: bool, **options: Any
) -> None:
    """Translate a video: cgpipe video in.mp4 out.mp4 --to zebra

    Timestamps, audio, subtitles, chapters, color, size and orientation are kept. The output's suffix selects the
    container: mp4, mov, mkv, webm, gif, webp or apng. An input may also be a folder or a numbered pattern of pictures
    (frames/%05d.png), a camera (camera:0), the URL of a stream, or - for standard input; an output may be a folder or
    a pattern of pictures, or -. With -o, several inputs go to one folder.

    An interrupted job resumes when it is run again.
    """
    from cgpipe.jobs.videos import translate_videos

    if report_file == STANDARD_OUTPUT and "-" in (inputs[-1] if len(inputs) > 1 else "", str(output)):
        raise click.UsageError(
            "Standard output cannot take both the video and its report: write one of them to a file."
        )

    imports = time.perf_counter() - BEGAN

    options["engine"] = engine_of(*(options.pop(name) for name in ("engine", "compile", "torchscript")))
    with ExitStack() as window, CountingBar("frame") as bar, LearningBar() as learning:
        told: dict[str, object] = {"on_start": bar.start, "on_frames": bar.advance, "on_failure": bar.write}
        told["on_learn"] = learning.update
        told["on_picture"] = _viewer(inputs, bar, window) if preview else None
        reports = translate_videos(inputs, output, **told, **options)
    if reports.videos:
        reports.videos[0].first = {"imports": imports} | reports.videos[0].first
    for report in reports.videos:
        describe(report.settings, report.seconds)
        say(report.summary(), err=STANDARD_OUTPUT in (report_file, Path(report.output)))
        if report.page is not None:
            say(f"Page: {report.page}", err=report_file == STANDARD_OUTPUT)
    if report_file:
        reports.write(report_file)
    click.get_current_context().exit(reports.exit_code)


def _viewer(inputs: tuple[str, ...], bar: CountingBar, window: ExitStack) -> OnPicture | None:
    """What shows frames: a window for a camera, the terminal for all else; None where there is neither."""
    camera = next((name for name in inputs if name.startswith(CAMERA)), None)
    pictures = Preview(bar, wanted=True)
    if camera is not None:
        try:
            return window.enter_context(Window(f"cgpipe: {camera}")).show
        except NoWindowError as error:
            say(f"{error} " + ("Frames are shown here." if pictures.is_shown else "Frames are not shown."))
    return pictures.show if pictures.is_shown else None
