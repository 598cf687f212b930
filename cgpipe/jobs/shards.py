"""Reports that the shards of a job leave in its output folder, and the joined report."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cgpipe.errors import CgpipeError, UsageError, reason_of
from cgpipe.jobs.report import SHOWN_FAILURES, FolderReport
from cgpipe.jobs.stopwatch import rounded
from cgpipe.notebook import html_table
from cgpipe.options import Shard
from cgpipe.remote import located
from cgpipe.storage import PREFIX, PathLike, atomic_write, shown, store_of

if TYPE_CHECKING:
    from cgpipe.jobs.videos import VideosReport

NAME = f"{PREFIX}report-"
_NAMED = re.compile(re.escape(NAME) + r"(\d+)-of-(\d+)\.json")

WORDS = {
    "translated": "translated",
    "skipped": "already done",
    "damaged": "damaged in part",
    "failed": "failed",
    "unsupported": "of a format that is not read",
}
"""Names of the counts, for people."""


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[what]} {words}" for what, words in WORDS.items() if counts.get(what))


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """The result of one shard.

    Args:
        shard: the shard, ``I/N``.
        job: fingerprint of all options.
        model: one line: the model and its origin.
        unit: ``picture`` or ``video``.
        counts: numbers by result (see :data:`WORDS`).
        left_out: content that outputs lack, with the number of inputs.
        failures: names and reasons.
        seconds: times by stage.
        finished: time of completion: UTC, ISO 8601.
    """

    shard: str
    job: str
    model: str
    unit: Literal["picture", "video"]
    counts: Mapping[str, int]
    left_out: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[tuple[str, str], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    finished: str = ""

    @classmethod
    def of_pictures(cls, report: FolderReport, shard: Shard, job: str) -> ShardReport:
        """The report of a shard of pictures."""
        failed = [*report.failures, *report.unsupported]
        counts = {"translated": report.translated, "skipped": report.skipped}
        return cls(
            shard=str(shard),
            job=job,
            model=report.model,
            unit="picture",
            counts=counts | {"failed": len(report.failures), "unsupported": len(report.unsupported)},
            left_out=dict(report.left_out),
            failures=tuple((str(result.to_json()["input"]), result.reason) for result in failed),
            seconds=rounded(report.seconds),
        )

    @classmethod
    def of_videos(cls, report: VideosReport, shard: Shard, job: str, model: str, seconds: float) -> ShardReport:
        """The report of a shard of videos."""
        skipped = sum(video.skipped for video in report.videos)
        damaged = sum(video.damaged for video in report.videos)
        translated = len(report.videos) - skipped - damaged
        return cls(
            shard=str(shard),
            job=job,
            model=model,
            unit="video",
            counts={
                "translated": translated,
                "skipped": skipped,
                "damaged": damaged,
                "failed": len(report.failures),
            },
            failures=tuple((failure.input, failure.reason) for failure in report.failures),
            seconds=rounded({"total": seconds}),
        )

    def leave(self, folders: Iterable[PathLike]) -> None:
        """Writes the report to the output folders, replacing an earlier one of the same shard.

        Raises:
            CgpipeError: it cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps(asdict(self) | {"finished": now}, ensure_ascii=True)
        name = f"{NAME}{self.shard.replace('/', '-of-')}.json"
        for folder in folders:
            try:
                with atomic_write(Path(folder) / name) as partial:
                    partial.write_text(text + "\n", encoding="utf-8")
            except OSError as error:
                raise CgpipeError(
                    f"The shard is done ({_counted(self.counts)}), but its report cannot be written to "
                    f"{shown(folder)}: {reason_of(error)}. Run it again once the folder can be written."
                ) from error


@dataclass(frozen=True, kw_only=True)
class JoinedReport:
    """The result of all shards of a job.

    Args:
        folder: the output folder.
        shards: number of shards.
        missing: numbers of the shards without a report: they failed, were stopped, or are still running.
        model, unit: see :class:`ShardReport`.
        counts, left_out, seconds: sums over all shards.
        failures: names and reasons.
        longest: seconds of the slowest shard.
    """

    folder: str
    shards: int
    missing: tuple[int, ...]
    model: str
    unit: Literal["picture", "video"]
    counts: Counter[str]
    left_out: Counter[str]
    failures: tuple[tuple[str, str], ...]
    seconds: Mapping[str, float]
    longest: float

    @property
    def exit_code(self) -> int:
        """0: every shard is done and nothing failed; 1: no shard is missing, and nothing could be done; else 3."""
        if not (self.missing or self.failures or self.counts["damaged"]):
            return 0
        return 3 if self.missing or any(self.counts[what] for what in ("translated", "skipped", "damaged")) else 1

    def summary(self) -> str:
        """One line for a person."""
        total = self.seconds.get("total", 0.0)
        times = f"{total:.1f} s of work, {self.longest:.1f} s in the slowest shard"
        without = "".join(f"; {count} without {what}" for what, count in self.left_out.items())
        of = f"{self.shards - len(self.missing)} of {self.shards} shards"
        return f"{of}: {_counted(self.counts) or 'nothing to do'}; {times}: {self.folder}{without}"

    def missing_words(self) -> str:
        """Which shards are missing, for a person; empty if none are."""
        if not self.missing:
            return ""
        named = ", ".join(f"{number}/{self.shards}" for number in self.missing[:SHOWN_FAILURES])
        more = len(self.missing) - SHOWN_FAILURES
        rest = f" and {more} more" if more > 0 else ""
        return f"No report of {named}{rest}: still at work, or run them again."

    def __repr__(self) -> str:
        return f"<JoinedReport: {self.summary()}>"

    def _repr_html_(self) -> str:
        shown = [f"{name}: {reason}" for name, reason in self.failures[:SHOWN_FAILURES]]
        rows: list[tuple[str, object]] = [("Model", self.model), ("Output", self.folder), ("Shards", self.shards)]
        rows += [(words.capitalize(), self.counts[what]) for what, words in WORDS.items()]
        return html_table("Shards", [*rows, ("Missing", self.missing_words()), ("Failures", shown)])

    def to_json(self) -> dict[str, object]:
        """The report as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["failures"] = [{"input": name, "reason": reason} for name, reason in self.failures]
        return values | {"exit_code": self.exit_code}


def join_reports(folder: PathLike) -> JoinedReport:
    """Joins the reports of the latest job's shards in an output folder.

    Raises:
        UsageError: there are no reports.
    """
    place = located(folder)
    found = list(_reports(place))
    if not found:
        raise UsageError(f"{shown(place)} holds no reports of shards: name the output folder of a --shard job.")
    latest = max(found, key=lambda report: report.finished)
    count = Shard.parse(latest.shard).of
    of_job = {
        Shard.parse(report.shard).number: report
        for report in found
        if report.job == latest.job and Shard.parse(report.shard).of == count
    }
    counts, left_out = Counter[str](), Counter[str]()
    seconds: dict[str, float] = {}
    for report in of_job.values():
        counts.update(report.counts)
        left_out.update(report.left_out)
        seconds |= {stage: seconds.get(stage, 0.0) + taken for stage, taken in report.seconds.items()}
    return JoinedReport(
        folder=shown(place),
        shards=count,
        missing=tuple(sorted({*range(1, count + 1)} - of_job.keys())),
        model=latest.model,
        unit=latest.unit,
        counts=counts,
        left_out=left_out,
        failures=tuple(failure for _, report in sorted(of_job.items()) for failure in report.failures),
        seconds=rounded(seconds),
        longest=max(report.seconds.get("total", 0.0) for report in of_job.values()),
    )


def _reports(folder: Path) -> Iterator[ShardReport]:
    store = store_of(folder)
    with suppress(OSError):
        for name in filter(_NAMED.fullmatch, store.names(os.fspath(folder), NAME)):
            with suppress(OSError, ValueError, TypeError), store.open(os.fspath(folder / name)) as file:
                values = json.loads(file.read())  # unless the file is none of ours
                yield ShardReport(**values | {"failures": tuple(map(tuple, values["failures"]))})
