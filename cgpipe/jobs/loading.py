"""Loads a job's pipeline, and torch with it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cgpipe.engine.driver import first_gpu, start_driver
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.models.choose import Chosen
from cgpipe.options import Options

if TYPE_CHECKING:
    from cgpipe.jobs.pipeline import Pipeline


def load_pipeline(chosen: Chosen, options: Options, watch: Stopwatch, *, video: bool = False) -> Pipeline:
    """The pipeline of a job, of videos or of pictures.

    Threads start the GPU while torch is imported, and its libraries while all else is.
    """
    gpu = first_gpu(options.hardware.device)
    if gpu is not None and "torch" not in sys.modules:
        start_driver(gpu)
        from cgpipe.engine.between import prepare_gpu

        prepare_gpu(gpu)
    from cgpipe.jobs.pipeline import Pipeline

    return Pipeline(chosen, options, watch, video=video)
