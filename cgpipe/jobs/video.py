"""Translates one video."""

from __future__ import annotations

import os

from cgpipe.jobs.learning import frames_of, with_look
from cgpipe.jobs.plan import with_located_mask
from cgpipe.jobs.report import VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.video_job import Told, VideoJob
from cgpipe.jobs.video_plan import input_place, output_place
from cgpipe.models.choose import choose_model
from cgpipe.options import Options, takes_options
from cgpipe.storage import PathLike


@takes_options("video", told=Told)
def translate_video(
    input: PathLike,
    output: PathLike,
    *,
    options: Options,
    told: Told,
    gallery: bool | PathLike = False,
) -> VideoReport:
    """Translates a video; only the look of its pictures changes.

    Every frame keeps its time. Audio, subtitles, chapters, metadata, colour, size and orientation are kept. The output
    appears when it is complete, and never replaces a file that cgpipe did not make; an interrupted job resumes when it
    is run again.

    Args:
        input: a file, a folder or numbered pattern of pictures, ``camera:0``, the URL of a stream, or ``-``.
        output: a file (mp4, mov, mkv, webm, gif, webp), a folder or pattern of pictures, or ``-``.
        gallery: write an HTML page with a player of before and after: True for ``<output>.html`` beside the output, or
            its path. The output must be a single file.
        progress: show a progress bar; by default only in a notebook.
        on_start: called with the model's description and the number of frames, or None if the input does not say.
        on_frames: called with the number of new frames.
        on_picture: called with each frame and its translation as they are written: RGB, (height, width, 3), uint8 or
            uint16. If it returns False, a camera or a stream ends.
        on_learn: called for every training step of a look (``like``).

    All other keywords are options of the groups in :mod:`cgpipe.options`: a field (``to="zebra"``, ``crf=18``,
    ``start=3.5``), or a whole group (``cut=Cut(start=3.5)``). ``workers`` are threads of the decoder.

    Raises:
        UsageError: an option is invalid, such as a codec that the container cannot hold.
        MediaError: the input or the mask cannot be read at all, the mask does not fit, or the output cannot be written.
        ModelError: the model cannot be found or read.
    """
    watch, options = Stopwatch(), with_located_mask(options)
    one, target = input_place(os.fspath(input)), output_place(output)
    chosen = choose_model(options.choice)
    if chosen.is_missing:
        chosen = with_look(chosen, options, frames_of([one], options), told.on_learn, told.progress)
    with VideoJob(chosen, options, watch, told, gallery) as job:
        return job.run(one, target)
