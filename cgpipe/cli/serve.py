"""``cgpipe serve``."""

from __future__ import annotations

from typing import Any, get_args

import click

from cgpipe.cli.options import device, loudness_options
from cgpipe.cli.terminal import Loudness, loudness, show
from cgpipe.errors import MissingDependencyError
from cgpipe.options import Engine, Precision

MEBIBYTE, MEGAPIXEL = 1 << 20, 1_000_000


@click.command()
@click.option("--host", default="127.0.0.1", help="Address to listen on; a public one needs --token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="Port to listen on; 0: any free port.")
@click.option(
    "--token",
    metavar="TEXT",
    help="Token that clients must send as Authorization: Bearer TEXT. Safer in the environment, as CGPIPE_SERVE_TOKEN, "
    "which other users cannot see.",
)
@click.option(
    "--device", type=device, default="auto", metavar="auto|cpu|cuda[:N,...]|mps|xpu|vulkan", help="Device to run on."
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="auto",
    help="Numeric precision (dtype) of the network.",
)
@click.option(
    "--engine",
    type=click.Choice(get_args(Engine)),
    default="auto",
    help="Inference engine.",
)
@click.option("--upload-limit", type=click.IntRange(1), default=64, metavar="MIB", help="Maximum size of a picture.")
@click.option("--video-limit", type=click.IntRange(1), default=2048, metavar="MIB", help="Maximum size of a video.")
@click.option(
    "--pixel-limit",
    type=click.IntRange(1),
    default=50,
    metavar="MEGAPIXELS",
    help="Maximum resolution of a picture or frame.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(1),
    default=60.0,
    metavar="SECONDS",
    help="Time limit per picture, including its wait.",
)
@click.option(
    "--video-time-limit", type=click.FloatRange(1), default=3600.0, metavar="SECONDS", help="Time limit per video."
)
@click.option(
    "--queue",
    type=click.IntRange(1),
    default=64,
    metavar="COUNT",
    help="Maximum number of pending pictures; further requests get 429.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, metavar="COUNT", help="Videos translated concurrently.")
@click.option(
    "--keep",
    type=click.FloatRange(0),
    default=3600.0,
    metavar="SECONDS",
    help="How long the result of a video is kept.",
)
@loudness_options
def command(host: str, port: int, token: str | None, **given: Any) -> None:
    """Translate pictures and videos over HTTP: POST /translate, POST /video, GET /models, GET /health.

    /openapi.json describes the API. Uploads are deleted once they are answered. Ctrl-C and SIGTERM stop the service:
    pending pictures are finished, videos are cancelled.
    """
    try:
        from cgpipe.service.app import open_app
        from cgpipe.service.running import address_of, listen, require_token, serve
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"The service needs {error.name}: pip install 'cgpipe[serve]'.") from error
    from cgpipe.options import Hardware
    from cgpipe.service.limits import Limits
    from cgpipe.service.spool import open_spool

    require_token(host, token)
    hardware = Hardware(device=given["device"], precision=given["precision"], engine=given["engine"])
    limits = Limits(
        picture_bytes=given["upload_limit"] * MEBIBYTE,
        video_bytes=given["video_limit"] * MEBIBYTE,
        pixels=given["pixel_limit"] * MEGAPIXEL,
        picture_seconds=given["time_limit"],
        video_seconds=given["video_time_limit"],
        pictures=given["queue"],
        videos=given["jobs"],
        keep_seconds=given["keep"],
    )
    with (
        listen(host, port) as listening,
        open_spool() as spool,
        open_app(spool, limits, token=token, hardware=hardware) as app,
    ):
        show(f"Serving at {address_of(listening)} (Ctrl-C to stop)")
        serve(app, listening, loud=loudness() == Loudness.VERBOSE)
