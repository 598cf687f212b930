"""Watches a folder, and translates what appears in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cgpipe.errors import BusyError, UsageError, reason_of
from cgpipe.jobs.folder_job import FolderJob, FolderTold, OnResult
from cgpipe.jobs.plan import format_of
from cgpipe.jobs.report import FileResult, Status
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.video_job import Told, VideoJob
from cgpipe.jobs.video_plan import written_suffix
from cgpipe.media.pictures.formats import picture_format
from cgpipe.models.choose import choose_model
from cgpipe.options import Options, takes_options
from cgpipe.remote import VIDEO_SUFFIXES
from cgpipe.storage import PathLike, Stamp, require_local

BUSY_SHARE = 0.1
"""Most of the time that scanning a very large folder may take, as a fraction."""


DAY = 86400
"""Seconds."""


@takes_options(None)
def watch_folder(
    folder: PathLike,
    output: PathLike | None = None,
    *,
    options: Options,
    every: float = 1.0,
    on_start: Callable[[str], None] | None = None,
    on_result: OnResult | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> None:
    """Translates the pictures and videos in a folder, and those that appear there, until it is interrupted.

    A file is translated once it has not changed between two scans. Current outputs are skipped, as by
    :func:`cgpipe.translate_folder`; a failure is reported once, and retried when the file changes. If the folder
    disappears, with its disk or network, the job waits for it.

    Args:
        folder: the folder, with subfolders unless ``recursive`` is false.
        output: the output folder; by default ``<folder>-<domain>`` beside it.
        every: seconds between two scans, at most a day.
        on_start: called with the model's description, before the first scan.
        on_result: called with the result of each file.
        on_notice: called with other notices, a line each.

    Raises:
        UsageError: the folder does not exist at the start, or an option is invalid.
        ModelError: the model cannot be found or read.
    """
    require_local(folder)
    if options.work.ray is not None:
        raise UsageError("A folder is watched on one machine: omit --ray. Several watches share one with --shard.")
    if not 0 < every <= DAY:
        raise UsageError(f"The interval must be more than 0 s and at most {DAY} s, a day, not {every:g} s.")
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder: name one to watch.")
    chosen = choose_model(options.choice)
    if output is None:
        full = Path(os.path.abspath(root))
        output = full.with_name(f"{full.name}-{chosen.domain}")
    target = Path(output)
    if os.path.realpath(target) == os.path.realpath(root):
        raise UsageError(f"{target} is the folder itself: name another --output.")
    if on_start:
        on_start(str(chosen))
    part = options.work.part
    watcher = _Watcher(root, target, recursive=options.work.recursive, on_notice=on_notice)
    pictures = FolderJob(chosen, options)
    with VideoJob(chosen, options, Stopwatch(), Told(progress=False)) as videos:
        while True:
            began = time.monotonic()
            ready = watcher.ready()
            if ready.pictures:
                watcher.settle(_translate_pictures(pictures, root, target, ready.pictures, on_result), ready.pictures)
            for path in ready.videos:
                if part is not None and not part.holds(os.path.relpath(path, root)):
                    watcher.settle(set(), {path})
                    continue
                rival = watcher.rival_of(path)
                try:
                    watcher.settle(_translate_video(videos, root, target, path, rival, on_result), {path})
                except BusyError:  # another watch is at it: the next scan tells what became of it
                    watcher.postpone(path)
            time.sleep(max(every, (time.monotonic() - began) * (1 / BUSY_SHARE - 1) if not any(ready) else 0))


class Ready(NamedTuple):
    """Files to translate now."""

    pictures: set[str]
    videos: set[str]


class _Watcher:
    """Finds the files of a folder that are complete and have not been tried in their present state.

    Args:
        output: skipped if it lies in the folder.
    """

    def __init__(
        self, root: Path, output: Path, *, recursive: bool, on_notice: Callable[[str], None] | None = None
    ) -> None:
        self._root = root
        self._output = output
        self._recursive = recursive
        self._tell = on_notice or (lambda _: None)
        self._before: dict[str, Stamp] = {}
        self._tried: dict[str, Stamp] = {}
        self._gone = False

    def ready(self) -> Ready:
        """Scans the folder."""
        try:
            now = dict(self._files())
        except OSError as error:
            if not self._gone:
                self._tell(f"{self._root} cannot be read ({reason_of(error)}): waiting for it.")
            self._gone, self._before = True, {}
            return Ready(set(), set())
        if self._gone:
            self._tell(f"{self._root} is back.")
        self._gone = False
        # A file that failed because another's translation has the same name is tried again when that one is gone.
        gone = {_stem(path) for path in self._tried.keys() - now.keys()}
        self._tried = {path: stamp for path, stamp in self._tried.items() if path in now and _stem(path) not in gone}
        whole = {path for path, stamp in now.items() if self._before.get(path) == stamp != self._tried.get(path)}
        self._before = now
        videos = {path for path in whole if _is_video(path)}
        pictures = {path for path in whole - videos if format_of(path, None)[0]}
        self.settle(whole - videos - pictures, whole)
        return Ready(pictures, videos)

    def settle(self, done: set[str], tried: set[str]) -> None:
        """Remembers the state of files when they were tried; those that have vanished are tried again."""
        for path in tried:
            if path in done or os.path.exists(path):
                self._tried[path] = self._before[path]

    def postpone(self, path: str) -> None:
        """Forgets that a file was tried: it comes again with the next scan."""
        self._tried.pop(path, None)

    def rival_of(self, path: str) -> str | None:
        """Another video of the last scan, whose translation would have the same name."""
        own = _translated(path)
        return next(
            (other for other in self._before if _is_video(other) and path != other and _translated(other) == own), None
        )

    def _files(self) -> Iterator[tuple[str, Stamp]]:
        """Every file, with its stamp, except hidden ones and the output.

        Raises:
            OSError: the folder itself cannot be listed.
        """
        output, seen = os.path.realpath(self._output), set()
        folders = [str(self._root)]
        while folders:
            folder = folders.pop()
            real = os.path.realpath(folder)
            if real == output or real in seen:
                continue
            seen.add(real)
            try:
                entries = list(os.scandir(folder))
            except OSError:
                if folder == str(self._root):
                    raise
                continue
            for entry in entries:
                if not entry.name.startswith("."):
                    yield from self._entry(entry, folders)

    def _entry(self, entry: os.DirEntry[str], folders: list[str]) -> Iterator[tuple[str, Stamp]]:
        try:
            if entry.is_file():
                status = entry.stat()
                yield entry.path, Stamp(status.st_size, status.st_mtime_ns)
            elif self._recursive and entry.is_dir():
                folders.append(entry.path)
        except OSError:  # it is gone already
            pass


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]


def _is_video(path: str) -> bool:
    return path.lower().endswith(VIDEO_SUFFIXES) and picture_format(path) is None


def _translate_pictures(
    job: FolderJob, root: Path, output: Path, pictures: set[str], on_result: OnResult | None
) -> set[str]:
    """Translates pictures, and returns those that are done, now or earlier."""
    results: list[FileResult] = []

    def tell(result: FileResult) -> None:
        results.append(result)
        if on_result and result.status != "skipped":
            on_result(result)

    try:
        job.run([root], output, only=pictures, told=FolderTold(progress=False, on_result=tell))
    except UsageError as error:  # all would be written over inputs: they are told, and wait for a change
        for path in sorted(pictures):
            tell(FileResult(input=Path(path), output=output, status="failed", reason=str(error)))
    except OSError as error:  # the folder vanished
        for path in sorted(pictures - {str(result.input) for result in results}):
            tell(FileResult(input=Path(path), output=output, status="failed", reason=reason_of(error)))
    return {str(result.input) for result in results if result.status in ("translated", "skipped")}


def _translated(path: str) -> Path:
    """The name of a video's translation."""
    return Path(path).with_suffix(written_suffix(Path(path)))


def _translate_video(
    job: VideoJob, root: Path, output: Path, path: str, rival: str | None, on_result: OnResult | None
) -> set[str]:
    """The same for one video.

    Args:
        rival: another video that would be written to the same file.

    Raises:
        BusyError: another process is translating it.
    """
    target = output / _translated(path).relative_to(root)
    reason = ""
    try:
        if rival is not None:
            raise UsageError(f"{rival} would be written to {target}, too. Rename one of them.")
        target.parent.mkdir(parents=True, exist_ok=True)
        if job.run(path, str(target)).skipped:
            return {path}
    except BusyError:
        raise
    except Exception as error:  # one clip ends no watch
        reason = reason_of(error)
    if on_result:
        status: Status = "failed" if reason else "translated"
        on_result(FileResult(input=Path(path), output=target, status=status, reason=reason))
    return set() if reason else {path}
