"""Loads a job's pipeline, and torch with it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cgpipe.engine.driver import start_driver
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.models.choose import Chosen
from cgpipe.options import Options

if TYPE_CHECKING:
    from cgpipe.jobs.pipeline import Pipeline


def load_pipeline(chosen: Chosen, options: Options, watch: Stopwatch) -> Pipeline:
    """The pipeline of a job; the GPU's driver starts while torch is imported."""
    if "torch" not in sys.modules:
        start_driver(options.hardware.device)
    from cgpipe.jobs.pipeline import Pipeline

    return Pipeline(chosen, options, watch)
