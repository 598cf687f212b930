"""The command line: one file a command, each imported only when it is asked for."""

from __future__ import annotations

import gc
import sys
import time

import click

from cgpipe import __version__
from cgpipe.cli.group import CommandGroup
from cgpipe.cli.signals import stop_like_ctrl_c
from cgpipe.cli.terminal import drain_standard_output, fill_closed_streams, warn

PREFIX = "CGPIPE"

BEGAN = time.perf_counter() - time.process_time()
"""When the process began, on the clock of ``perf_counter``; it has only computed until here."""

COMMANDS = {
    "translate": ("cgpipe.cli.translate", "Translate folders of pictures."),
    "video": ("cgpipe.cli.video", "Translate videos, keeping sound, timing and colour."),
    "serve": ("cgpipe.cli.serve", "Translate pictures and videos over HTTP."),
    "ui": ("cgpipe.cli.ui", "Open an app in the browser."),
    "watch": ("cgpipe.cli.watch", "Translate what appears in a folder."),
    "compare": ("cgpipe.cli.compare", "Make a contact sheet of pictures and their translations."),
    "report": ("cgpipe.cli.report", "Join the reports of a job's shards."),
    "preview": ("cgpipe.cli.preview", "Show one photo at several strengths, sizes and looks."),
    "train": ("cgpipe.cli.train", "Train models from two folders of unpaired pictures, or of pairs."),
    "test": ("cgpipe.cli.test", "Test a run's models: sample grids and metrics."),
    "data": ("cgpipe.cli.data", "Download and list training datasets."),
    "evaluate": ("cgpipe.cli.evaluate", "Measure a model: KID, FID, class share, cycle error."),
    "distill": ("cgpipe.cli.distill", "Distill a model into a smaller, faster one."),
    "runs": ("cgpipe.cli.runs", "List training runs beside one another."),
    "info": ("cgpipe.cli.info", "Show devices, engines, codecs and versions, for bug reports."),
    "completion": ("cgpipe.cli.complete", "Print a shell completion script."),
    "models": ("cgpipe.cli.models", "List, show, import and export models, and set the default."),
}
"""Name, module and one line of help of every command. The module calls its command ``command``."""


EXIT_CODES = """
\b
Exit codes of every command:
  0    success
  1    failure: nothing was done
  2    usage error, or a named file, model or dataset does not exist
  3    partial success: some files failed, or a video is damaged in part
  129  stopped by SIGHUP (the terminal was closed)
  130  stopped by Ctrl-C
  143  stopped by SIGTERM
"""


@click.group(
    cls=CommandGroup,
    lazy=COMMANDS,
    epilog=EXIT_CODES,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": PREFIX,
        "show_default": True,
        "token_normalize_func": lambda token: token.replace("_", "-"),
    },
)
# Containers often set CGPIPE_VERSION for purposes of their own.
@click.version_option(__version__, prog_name="cgpipe", allow_from_autoenv=False)
def cli() -> None:
    """Translate pictures and videos with CycleGAN generators: photos to paintings, horses to zebras, and back.

    Options can also be set by environment variables, such as CGPIPE_TRANSLATE_TO for `translate --to`.
    """


def main() -> None:
    """The entry point."""
    # Importing torch creates a million long-lived objects. Garbage-collecting them during the import and again at exit
    # takes a quarter of a short command's time.
    gc.set_threshold(100_000, 20, 50)
    fill_closed_streams()
    stop_like_ctrl_c()
    try:
        cli(prog_name="cgpipe")
    except OSError as error:  # from a help text, which Click writes itself
        if drain_standard_output() and error.filename is not None:
            raise
        warn(f"Error: Standard output cannot be written: {error.strerror}.")
        sys.exit(1)
    finally:
        drain_standard_output()
        gc.freeze()
