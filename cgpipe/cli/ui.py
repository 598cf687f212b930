"""``cgpipe ui``."""

from __future__ import annotations

import os

import click

from cgpipe.cli.options import device, loudness_options
from cgpipe.cli.terminal import Loudness, loudness, show
from cgpipe.errors import MissingDependencyError

END_SECONDS = 2
"""For requests at the end: an open page never lets go of its own."""


@click.command()
@click.option("--host", default="127.0.0.1", help="Address to listen on; one that others reach needs --token.")
@click.option("--port", type=click.IntRange(0, 65535), default=7860, help="Port to listen on; 0 takes a free one.")
@click.option(
    "--token",
    metavar="TEXT",
    help="Password of the login, whose name is cgpipe. Better given by the environment, which others on this machine "
    "cannot see: CGPIPE_UI_TOKEN.",
)
@click.option(
    "--device", type=device, default="auto", metavar="auto|cpu|cuda[:N,...]|mps|xpu|vulkan", help="Where to run."
)
@click.option("--open/--no-open", "browser", default=True, help="Open the page in a browser.")
@loudness_options
def command(host: str, port: int, token: str | None, device: str, browser: bool) -> None:
    """Open an app in the browser: pictures, videos, a camera, folders.

    Everything stays on this machine: no fonts, scripts or figures come from or go to the network. Ctrl-C ends it.
    """
    from cgpipe.options import Hardware
    from cgpipe.service.limits import Limits
    from cgpipe.service.spool import Spool, open_spool

    with open_spool() as spool:
        # Apart from the uploads: Gradio shows what is here as it is, and lets of an upload be shown what is harmless.
        results = Spool(spool.new_folder())
        # Gradio reads these when it is imported.
        os.environ["GRADIO_TEMP_DIR"] = str(spool.folder / "uploads")
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_OFFLINE"] = "1"
        try:
            from cgpipe.service.running import address_of, listen, require_token, serve
            from cgpipe.service.ui import Studio, build_ui, mount
        except ModuleNotFoundError as error:
            raise MissingDependencyError(f"The app needs {error.name}: pip install 'cgpipe[ui]'.") from error
        require_token(host, token)
        limits = Limits()
        with listen(host, port) as listening:
            studio = Studio(results, limits, Hardware(device=device))
            app = mount(build_ui(studio, local=token is None), results, limits, token=token)
            show(f"Open {address_of(listening)} (Ctrl-C ends it)")
            if browser:
                click.launch(address_of(listening))
            try:
                serve(app, listening, loud=loudness() == Loudness.VERBOSE, end_seconds=END_SECONDS)
            finally:
                studio.close()
