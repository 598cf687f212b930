"""What a job says when it is done."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

from cgpipe.errors import UsageError

Status = Literal["translated", "skipped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What became of one file.

    Args:
        input: the file that was read.
        output: the file that was written, or would have been.
        status: ``translated``, ``skipped`` (done before and current), or ``failed``.
        reason: why it failed.
        width, height: of the picture, in pixels; 0 where it could not be read.
        decode_seconds, encode_seconds: time spent on this file alone.
    """

    input: Path
    output: Path
    status: Status
    reason: str = ""
    width: int = 0
    height: int = 0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values; names that are no text in the file system's encoding are shown escaped."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values |= {name: os.fsencode(values[name]).decode("utf-8", "backslashreplace") for name in ("input", "output")}
        values |= {name: round(values[name], 4) for name in ("decode_seconds", "encode_seconds")}
        return values


@dataclass(kw_only=True)
class FolderReport:
    """What :func:`cgpipe.translate_folder` did.

    Only files that failed are kept one by one, so that the report of a very large job stays small; ``on_result`` of
    the job is told of every file.

    Args:
        model: one line: which model, and where it came from.
        outputs: the folders that were written to.
        settings: what was chosen: device, precision, engine, batch size and so on.
        seconds: times by stage; ``total`` is by the clock, the others are summed over workers.
        first: seconds to the first picture written, step by step; see :class:`~cgpipe.jobs.startup.StartUp`.
    """

    model: str
    outputs: tuple[Path, ...]
    settings: Mapping[str, Any]
    translated: int = 0
    skipped: int = 0
    ignored: int = 0
    failures: list[FileResult] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)

    def add(self, result: FileResult) -> None:
        """Counts one file's result."""
        if result.status == "failed":
            self.failures.append(result)
        elif result.status == "skipped":
            self.skipped += 1
        else:
            self.translated += 1
        for stage, seconds in (("decode", result.decode_seconds), ("encode", result.encode_seconds)):
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @property
    def exit_code(self) -> int:
        """0 when all is done, 1 when nothing could be done, 3 when some files failed."""
        if not self.failures:
            return 0
        return 3 if self.translated or self.skipped else 1

    def summary(self) -> str:
        """One line for a person."""
        counts = [(self.translated, "translated"), (self.skipped, "already done"), (len(self.failures), "failed")]
        counts.append((self.ignored, "ignored (no pictures)"))
        said = ", ".join(f"{count} {what}" for count, what in counts if count) or "nothing to do"
        seconds, outputs = self.seconds.get("total", 0.0), ", ".join(map(str, self.outputs))
        return f"{said[0].upper()}{said[1:]} in {seconds:.1f} s: {outputs}"

    def to_json(self) -> dict[str, Any]:
        """Everything but the results of single files."""
        return {
            "model": self.model,
            "outputs": [str(output) for output in self.outputs],
            "settings": dict(self.settings),
            "translated": self.translated,
            "skipped": self.skipped,
            "failed": len(self.failures),
            "ignored": self.ignored,
            "seconds": rounded(self.seconds),
            "first": rounded(self.first | {"total": sum(self.first.values())}),
        }


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Times as a report shows them: to the millisecond."""
    return {stage: round(value, 3) for stage, value in seconds.items()}


class ReportFile:
    """Writes a report as one JSON object while the job runs, so that no list of files has to be kept.

    The file appears when it is whole. Without a path, nothing is written.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial") if path else None
        self._file: TextIO | None = None
        self._separator = "\n"

    def __enter__(self) -> ReportFile:
        if self._partial:
            try:
                self._partial.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._partial.open("w", encoding="utf-8")
            except OSError as error:
                raise UsageError(f"The report cannot be written to {self.path}: {error.strerror}.") from error
            self._file.write('{"files": [')
        return self

    def add(self, result: FileResult) -> None:
        """Writes one file's result."""
        if self._file:
            self._file.write(self._separator + json.dumps(result.to_json(), ensure_ascii=False))
            self._separator = ",\n"

    def finish(self, report: Mapping[str, Any]) -> None:
        """Writes the rest and puts the file in its place."""
        if self._file and self._partial and self.path:
            self._file.write("\n],\n" + json.dumps(report, ensure_ascii=False, indent=1)[1:].lstrip("\n"))
            self._file.close()
            self._partial.replace(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file and self._partial:
            self._file.close()
            self._partial.unlink(missing_ok=True)
