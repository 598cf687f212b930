"""The reports of jobs."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TextIO

from cgpipe.errors import CgpipeError, CgpipeWarning, UsageError
from cgpipe.jobs.plan import NAMED_MOST, Left, Plan
from cgpipe.jobs.stopwatch import rounded
from cgpipe.notebook import html_table
from cgpipe.storage import atomic_write, shown, temporary_beside

if TYPE_CHECKING:
    from cgpipe.media.video import StreamReport

Status = Literal["translated", "skipped", "failed", "unsupported"]

SHOWN_FAILURES = 10
"""Most failed files in a notebook's table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """The result of one file.

    Args:
        input: the input file.
        output: the output file, written or not.
        status: ``translated``, ``skipped`` (already up to date), ``failed``, or ``unsupported`` (a picture in a format
            that is not read here).
        reason: why it failed, or what to do.
        width, height: of the picture, in pixels; 0 if it could not be read.
        decode_seconds, encode_seconds: time spent on this file alone.
        notes: content of the file that its translation lacks, such as a gain map.
    """

    input: Path
    output: Path
    status: Status
    reason: str = ""
    width: int = 0
    height: int = 0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The result as JSON values; names that cannot be decoded are escaped."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values |= {
            name: os.fsencode(shown(values[name])).decode("utf-8", "backslashreplace") for name in ("input", "output")
        }
        values |= {name: round(values[name], 4) for name in ("decode_seconds", "encode_seconds")}
        return values


@dataclass(kw_only=True)
class FolderReport:
    """The result of :func:`cgpipe.translate_folder`.

    It lists only failed files, so that the report of a very large job stays small; the job's ``on_result`` gets every
    file.

    Args:
        model: one line: the model and its origin.
        outputs: the output folders.
        settings: the chosen settings: device, precision, engine, batch size and so on.
        translated, skipped: numbers of pictures; skipped ones were already up to date.
        unsupported: pictures of a format that is not read here, such as camera raw.
        left_out: content that translations lack, such as gain maps, with the number of pictures.
        ignored: files that are not pictures.
        ignored_files: the first hundred of them.
        earlier: files left out because an earlier run made them from other inputs.
        seconds: times by stage; ``total`` is wall-clock time, the others are summed over workers.
        first: seconds to the first picture written, step by step; see :class:`~cgpipe.jobs.stopwatch.Stopwatch`.
        page: the gallery, if requested.
    """

    model: str
    outputs: tuple[Path, ...]
    settings: Mapping[str, object]
    translated: int = 0
    skipped: int = 0
    ignored: int = 0
    ignored_files: list[Path] = field(default_factory=list)
    earlier: int = 0
    failures: list[FileResult] = field(default_factory=list)
    unsupported: list[FileResult] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    page: Path | None = None

    def add(self, result: FileResult) -> None:
        """Adds one file's result."""
        self.left_out.update(result.notes)
        if result.status == "failed":
            self.failures.append(result)
        elif result.status == "unsupported":
            self.unsupported.append(result)
        elif result.status == "skipped":
            self.skipped += 1
        else:
            self.translated += 1
        for stage, seconds in (("decode", result.decode_seconds), ("encode", result.encode_seconds)):
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def ignore(self, plan: Plan) -> None:
        """Adds the files that a plan left out since they are no pictures."""
        self.ignored += plan.left[Left.NO_PICTURE]
        self.ignored_files += plan.no_pictures[: NAMED_MOST - len(self.ignored_files)]

    @property
    def exit_code(self) -> int:
        """0: all done; 1: nothing could be done; 3: some files failed or could not be read."""
        if not (self.failures or self.unsupported):
            return 0
        return 3 if self.translated or self.skipped else 1

    def summary(self) -> str:
        """One line for a person."""
        counts = [(self.translated, "translated"), (self.skipped, "already done"), (len(self.failures), "failed")]
        counts.append((len(self.unsupported), "unsupported"))
        counts += [(self.ignored, "ignored (not pictures)"), (self.earlier, "ignored (outputs of an earlier run)")]
        said = ", ".join(f"{count} {what}" for count, what in counts if count) or "nothing to do"
        seconds, outputs = self.seconds.get("total", 0.0), ", ".join(map(shown, self.outputs))
        without = "".join(f"; {count} without {what}" for what, count in self.left_out.items())
        place = f": {outputs}" if outputs and (self.translated or self.skipped) else ""
        return f"{said[0].upper()}{said[1:]} in {seconds:.1f} s{place}{without}"

    def __repr__(self) -> str:
        return f"<FolderReport: {self.summary()}>"

    def _repr_html_(self) -> str:
        failures = [f"{failure.input}: {failure.reason}" for failure in self.failures[:SHOWN_FAILURES]]
        more = len(self.failures) - len(failures)
        rows = [
            ("Model", self.model),
            ("Output", self.outputs),
            ("Translated", self.translated),
            ("Already done", self.skipped),
            ("Failed", failures + ([f"and {more} more"] if more else [])),
            ("Unsupported format", len(self.unsupported)),
            ("Ignored (not pictures)", self.ignored),
            ("Ignored (outputs of an earlier run)", self.earlier),
            ("Seconds", f"{self.seconds.get('total', 0.0):.1f}"),
        ]
        return html_table("Pictures", rows)

    def to_json(self) -> dict[str, object]:
        """Everything except the results of single files."""
        return {
            "model": self.model,
            "outputs": [shown(output) for output in self.outputs],
            "settings": dict(self.settings),
            "translated": self.translated,
            "skipped": self.skipped,
            "failed": len(self.failures),
            "unsupported": len(self.unsupported),
            "left_out": dict(self.left_out),
            "ignored": self.ignored,
            "earlier": self.earlier,
            "seconds": rounded(self.seconds),
            "first": rounded(self.first | {"total": sum(self.first.values())}),
            "page": None if self.page is None else os.fspath(self.page),
        }


@dataclass(kw_only=True)
class VideoReport:
    """The result of :func:`cgpipe.translate_video`.

    Args:
        input, output: as given.
        model: one line: the model and its origin.
        settings: the chosen settings of network and encoder.
        skipped: whether the output was already up to date.
        frames: frames written.
        resumed: frames of them that an interrupted run had written.
        filled: lost frames that were replaced by repeats of their neighbours.
        bad_packets: packets that could not be decoded.
        missing: frames that the input promised beyond its end.
        failed: frames that the network failed on, which are dropped.
        bad_sound: damaged packets of audio and subtitles, which are dropped.
        changed: the input was replaced or changed during the job.
        streams: what became of every stream of the input.
        notices: other notices.
        seconds: times by stage; ``total`` is wall-clock time, the others overlap.
        first: seconds to the first frame written, step by step; see :class:`~cgpipe.jobs.stopwatch.Stopwatch`.
        page: the page with the player, if requested.
    """

    input: str
    output: str
    model: str
    settings: dict[str, object] = field(default_factory=dict)
    skipped: bool = False
    frames: int = 0
    resumed: int = 0
    filled: int = 0
    bad_packets: int = 0
    missing: int = 0
    failed: int = 0
    bad_sound: int = 0
    changed: bool = False
    streams: tuple[StreamReport, ...] = ()
    notices: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    page: Path | None = None

    @property
    def damaged(self) -> bool:
        """Whether a part of the input could not be read or translated."""
        lost = self.filled or self.bad_packets or self.missing or self.failed or self.bad_sound
        return bool(lost or self.changed)

    @property
    def exit_code(self) -> int:
        """0: all well; 3: the input was damaged, and its readable part was translated."""
        return 3 if self.damaged else 0

    def summary(self) -> str:
        """One line for a person."""
        if self.skipped:
            return f"Up to date: {self.output} (--overwrite redoes it)"
        total = self.seconds.get("total", 0.0)
        rate = (self.frames - self.resumed) / total if total else 0.0
        parts = [f"{self.frames} frame{'s' * (self.frames != 1)} in {total:.1f} s ({rate:.1f} fps)"]
        counts = [(self.resumed, "from an interrupted run"), (self.filled, "filled"), (self.missing, "missing")]
        counts += [(self.failed, "failed"), (self.bad_packets, "damaged"), (self.bad_sound, "damaged in other streams")]
        parts += [f"{count} {what}" for count, what in counts if count]
        parts += ["its input changed meanwhile"] * self.changed
        return f"{', '.join(parts)}: {self.output}"

    def __repr__(self) -> str:
        return f"<VideoReport: {self.summary()}>"

    def _repr_html_(self) -> str:
        counts = {"Frames": self.frames, "From an interrupted run": self.resumed, "Filled": self.filled}
        counts |= {"Bad packets": self.bad_packets, "Missing": self.missing, "Failed": self.failed}
        counts |= {"Bad packets of other streams": self.bad_sound}
        rows = [
            ("Model", self.model),
            ("Input", self.input),
            ("Output", f"{self.output}{' (done before)' if self.skipped else ''}"),
            *counts.items(),
            ("Notices", self.notices),
            ("Seconds", f"{self.seconds.get('total', 0.0):.1f}"),
        ]
        return html_table("Video", rows)

    def to_json(self) -> dict[str, object]:
        """The report as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["page"] = None if self.page is None else os.fspath(self.page)
        values["streams"] = [asdict(stream) for stream in self.streams]
        values["seconds"] = rounded(self.seconds)
        values["first"] = rounded(self.first | {"total": sum(self.first.values())})
        return values

    def tell(self, notices: Iterable[str]) -> None:
        """Adds notices, and issues them as warnings, which name the video: there may be others."""
        for notice in notices:
            self.notices.append(notice)
            warnings.warn(f"{self.input}: {notice}", CgpipeWarning, stacklevel=4)


class ReportFile:
    """Writes a report as one JSON object while the job runs, without keeping a list of files in memory.

    The file appears when it is complete. Without a path, nothing is written; :data:`STANDARD_OUTPUT` is a valid path.

    Raises:
        UsageError: the file cannot be written; raised before the job starts.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._partial: Path | None = None
        self._file: TextIO | None = None
        self._error: OSError | None = None
        self._separator = "\n"
        self._stack = ExitStack()

    def __enter__(self) -> ReportFile:
        if self.path is None:
            return self
        try:
            self._file = self._open(self.path)
        except OSError as error:
            raise UsageError(f"The report cannot be written to {self.path}: {error.strerror}.") from error
        self._write('{"files": [')
        return self

    def add(self, result: FileResult) -> None:
        """Writes one file's result."""
        if self._file:
            self._write(self._separator + _dumped(result.to_json(), self.path))
            self._separator = ",\n"

    def finish(self, report: Mapping[str, object]) -> None:
        """Writes the rest and moves the file into place.

        Raises:
            CgpipeError: a part of it could not be written, or the job has written something else to its place; the
                job itself is done.
        """
        self._write("\n],\n" + _dumped(report, self.path, indent=1)[1:].lstrip("\n"), end=True)
        if self._error is not None:
            reason = self._error.strerror or self._error
            raise CgpipeError(f"The report could not be written to {self.path}: {reason}.") from self._error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # said by finish, or less important than the original error
            self._stack.close()

    def _open(self, path: Path) -> TextIO:
        if os.fspath(path) == STANDARD_OUTPUT:
            return _standard_output()
        if path.exists() and not path.is_file():  # a device or a pipe, in whose place no file may come
            return self._stack.enter_context(path.open("w", encoding="utf-8"))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self._stack.enter_context(temporary_beside(path))
        return self._stack.enter_context(self._partial.open("w", encoding="utf-8"))

    def _write(self, text: str, *, end: bool = False) -> None:
        """Writes, unless an earlier write failed: the job continues without its report."""
        if self._file is None or self._error is not None:
            return
        try:
            self._file.write(text)
            if end:
                self._file.write("\n")
                self._file.flush()
                if self._partial and self.path:
                    require_report(self.path)
                    os.replace(self._partial, self.path)
        except OSError as error:
            self._error = error


STANDARD_OUTPUT = "-"
"""The name of a report that goes to standard output."""


def _standard_output() -> TextIO:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    return sys.stdout


def _dumped(value: object, path: Path | None, indent: int | None = None) -> str:
    """JSON; for a terminal, which may have any encoding and obeys some characters, in ASCII alone."""
    return json.dumps(value, ensure_ascii=path is not None and os.fspath(path) == STANDARD_OUTPUT, indent=indent)


_START = 64
_BEGINS = re.compile(rb'\{\s*"(files|videos|folder)":')
"""The first key of a report on pictures, on videos, and on shards."""


def require_report(path: Path) -> None:
    """Checks that a report may be written to ``path``: what is there, if anything, is an earlier one or is empty.

    A job's own result may be there in the end, so this is checked before and after.

    Raises:
        UsageError: it is another file, which would be lost.
    """
    if os.fspath(path) == STANDARD_OUTPUT or not path.is_file():
        return
    with suppress(OSError), path.open("rb") as file:
        start = file.read(_START)
        if start and not _BEGINS.match(start):
            raise UsageError(f"{path} is not a report and would be lost: name another file for the report.")


def write_report(path: Path, report: Mapping[str, object]) -> None:
    """Writes a complete report, like :class:`ReportFile`.

    Raises:
        CgpipeError: it cannot be written, or would replace another file.
    """
    require_report(path)
    text = _dumped(report, path, indent=1) + "\n"
    try:
        if os.fspath(path) == STANDARD_OUTPUT:
            file = _standard_output()
            file.write(text)
            file.flush()
        elif path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        else:
            with atomic_write(path) as partial:
                partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CgpipeError(f"The report cannot be written to {path}: {error.strerror}.") from error
