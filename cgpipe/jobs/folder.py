"""Translates pictures: folders, files and patterns."""

from __future__ import annotations

import os
from collections.abc import Sequence

from cgpipe.archives import expanded
from cgpipe.errors import UsageError
from cgpipe.jobs.archives import ArchiveJob, names_archives
from cgpipe.jobs.folder_job import FolderJob, FolderTold
from cgpipe.jobs.learning import pictures_of, with_look
from cgpipe.jobs.plan import with_located_mask
from cgpipe.jobs.report import FolderReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.models.choose import choose_model
from cgpipe.options import Options, takes_options
from cgpipe.storage import PathLike


@takes_options("pictures", told=FolderTold)
def translate_folder(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike | None = None,
    *,
    options: Options,
    told: FolderTold,
    gallery: bool | PathLike = False,
) -> FolderReport:
    """Translates every picture of some folders, files or patterns; one that fails never stops the others.

    Sizes, names, subfolders, formats, orientation, transparency, profiles and 16 bits are kept. A picture whose
    translation is there and current is skipped, and a file that cgpipe did not make is never replaced. Every file
    appears whole or not at all.

    Args:
        inputs: a folder, a file, a pattern such as ``photos/**/*.jpg``, an archive (zip, tar), a range of archives
            such as ``shard-{000000..000099}.tar``, or several of them.
        output: the folder to write, a file for one input, an archive, or a range of archives, with or without an end
            (``shard-{000000..}.tar``); by default ``<folder>-<domain>`` beside the input.
        gallery: write an HTML page of before and after: True for ``<output>.html`` beside the output, or its path. Its
            pictures go to a folder of the same name with ``_files``.
        progress: show a progress bar; by default only in a notebook.
        on_start: called with the model's description and the number of pictures, for archives None, when the work
            starts.
        on_result: called with the result of each file.
        on_part: called with the fraction, 0 to 1, of a picture that is translated in parts; from a worker thread.
        on_learn: called for every training step of a look (``like``).

    All other keywords are options of the groups in :mod:`cgpipe.options`: a field (``to="zebra"``, ``strength=0.5``,
    ``workers=0``), or a whole group (``look=Look(strength=0.5)``). ``workers`` are processes that decode, by default
    one for every four processors (with a GPU two) where processes fork, else 0, since a script without a main guard
    could not start them. A picture without a mask in ``mask`` fails.

    Raises:
        UsageError: an option is invalid, an input or the mask is missing, or two inputs would write the same file;
            nothing has been written.
        MediaError: the one mask for all cannot be read, or the page cannot be written.
        ModelError: the model cannot be found or read.
    """
    watch, options = Stopwatch(), with_located_mask(options)
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    inputs = [one for name in given for one in expanded(name)]
    archives = output is not None and names_archives(output)
    if archives and gallery:
        raise UsageError("A gallery needs a folder as output, not an archive: omit one of them.")
    chosen = choose_model(options.choice)
    if chosen.is_missing:
        pictures = pictures_of(inputs, None if archives else output, options, chosen.domain)
        chosen = with_look(chosen, options, pictures, told.on_learn, told.progress)
    if archives and output is not None:
        return ArchiveJob(chosen, options, watch).run(inputs, output, told)
    return FolderJob(chosen, options, watch).run(inputs, output, gallery=gallery, told=told)
