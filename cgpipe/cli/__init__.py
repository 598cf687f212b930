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
"""When the process began, on the clock of ``perf_counter``: until here it has done nothing but compute."""

COMMANDS = {
    "translate": ("cgpipe.cli.translate", "Translate folders of pictures."),
    "video": ("cgpipe.cli.video", "Translate videos, keeping sound, timing and colour."),
    "compare": ("cgpipe.cli.compare", "Make one sheet of pictures and their translations."),
    "report": ("cgpipe.cli.report", "Join the reports of a job's shards."),
    "train": ("cgpipe.cli.train", "Train models from two folders of unpaired pictures."),
    "test": ("cgpipe.cli.test", "Show what a run's models do: grids of the test pictures, and figures."),
    "data": ("cgpipe.cli.data", "Fetch and list datasets to train on."),
    "evaluate": ("cgpipe.cli.evaluate", "Measure a model: KID, FID, share of a class, cycle error."),
    "distill": ("cgpipe.cli.distill", "Make a model smaller: train a small generator to do what it does."),
    "info": ("cgpipe.cli.info", "Say what this machine can do."),
    "completion": ("cgpipe.cli.complete", "Let your shell complete commands, domains, models and recipes."),
    "models": ("cgpipe.cli.models", "List, show and import models, and choose the default one."),
}
"""Name, module and one line of help of every command. The module calls its command ``command``."""


EXIT_CODES = """
\b
Exit codes of every command:
  0    all is done
  1    nothing could be done
  2    wrong usage, or a name of something that is not there
  3    some files failed, or a video is damaged in part
  129  ended by SIGHUP: the terminal is gone
  130  ended by Ctrl-C
  143  ended by SIGTERM
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
# Containers often set CGPIPE_VERSION for their own ends.
@click.version_option(__version__, prog_name="cgpipe", allow_from_autoenv=False)
def cli() -> None:
    """Translate pictures and videos with CycleGAN generators: photos to paintings, horses to zebras, and back.

    Every option can also be set by an environment variable, which its help names.
    """


def main() -> None:
    """The entry point."""
    # Importing torch makes a million objects that stay. Looking for garbage among them, as they are made and once more
    # at the end, takes a quarter of the time of a short command.
    gc.set_threshold(100_000, 20, 50)
    fill_closed_streams()
    stop_like_ctrl_c()
    try:
        cli(prog_name="cgpipe")
    except OSError as error:  # of a help text that Click writes itself
        if drain_standard_output() and error.filename is not None:
            raise
        warn(f"Error: Standard output cannot be written: {error.strerror}.")
        sys.exit(1)
    finally:
        drain_standard_output()
        gc.freeze()
