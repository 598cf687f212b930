"""Translates videos: the same flow as for folders, with a video at both ends."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from cgpipe.engine.loader import load
from cgpipe.engine.prefetch import prefetch
from cgpipe.engine.translator import Translator, TranslatorOptions
from cgpipe.errors import CgpipeWarning
from cgpipe.jobs.common import deciding_settings, load_translator, settings_of
from cgpipe.jobs.freshness import Freshness, stamp
from cgpipe.jobs.report import rounded
from cgpipe.jobs.startup import StartUp
from cgpipe.media.frames import Failed, Frame, Pixels
from cgpipe.media.video import StreamReport, VideoInfo
from cgpipe.media.video.interfaces import Sink, Source
from cgpipe.media.video.masks import VideoMask
from cgpipe.media.video.opening import STANDARD, open_sink, open_source
from cgpipe.models import Found, find_model
from cgpipe.models.foreign import Direction

PathLike = str | os.PathLike[str]
OnStart = Callable[[str, int | None], None]
OnFrames = Callable[[int], None]


class VideoOptions(TypedDict, total=False):
    """What can be asked of a video job; all have a default.

    ``codec``, ``crf``, ``preset``, ``pix_fmt``: of the encoder (see :class:`cgpipe.VideoSink`). ``start``, ``end``:
    seconds. ``fps``: a constant rate in place of the input's own times. ``duration``: seconds after which a camera or
    a stream ends. ``audio``: keep sound. ``mask``: confines the change: a grey video (or pictures, as an input may be),
    frame by frame, or one picture for all. ``hwaccel``: a device that decodes, ``threads``: of the decoder.
    ``side_by_side``: original and translation in one picture. ``overwrite``: translate again what is done.
    ``batch_size``: frames translated together, by default what is fastest. ``ahead``: batches that each stage
    works ahead.
    """

    codec: str | None
    crf: float | None
    preset: str | None
    pix_fmt: str | None
    start: float | None
    end: float | None
    fps: float | None
    duration: float | None
    audio: bool
    mask: PathLike | None
    hwaccel: str | None
    side_by_side: bool
    overwrite: bool
    threads: int | None
    batch_size: int | None
    ahead: int


@dataclass(kw_only=True)
class VideoReport:
    """What :func:`cgpipe.translate_video` did.

    Args:
        input, output: as they were named.
        model: one line: which model, and where it came from.
        settings: what was chosen for the network and the encoder.
        skipped: the output was there and current, so nothing was done.
        frames: written.
        resumed: how many of them an interrupted run had written before.
        filled: frames that stand for lost ones, as repeats of their neighbours.
        bad_packets: packets that could not be decoded.
        missing: frames that the input promised after the place where it ends.
        streams: what became of every stream of the input.
        notices: what else should be known.
        seconds: times by stage; ``total`` is by the clock, the others overlap.
        first: seconds to the first frame written, step by step; see :class:`~cgpipe.jobs.startup.StartUp`.
    """

    input: str
    output: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    skipped: bool = False
    frames: int = 0
    resumed: int = 0
    filled: int = 0
    bad_packets: int = 0
    missing: int = 0
    streams: tuple[StreamReport, ...] = ()
    notices: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)

    @property
    def damaged(self) -> bool:
        """Whether something of the input could not be read."""
        return bool(self.filled or self.bad_packets or self.missing)

    @property
    def exit_code(self) -> int:
        """0 when all is well, 3 when the input was damaged and what could be read of it was translated."""
        return 3 if self.damaged else 0

    def summary(self) -> str:
        """One line for a person."""
        if self.skipped:
            return f"Already done: {self.output} (--overwrite translates it again)"
        total = self.seconds.get("total", 0.0)
        rate = (self.frames - self.resumed) / total if total else 0.0
        parts = [f"{self.frames} frames in {total:.1f} s ({rate:.1f} a second)"]
        counts = [(self.resumed, "from an interrupted run"), (self.filled, "filled"), (self.missing, "missing")]
        parts += [f"{count} {what}" for count, what in counts if count]
        return f"{', '.join(parts)}: {self.output}"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["streams"] = [asdict(stream) for stream in self.streams]
        values["seconds"] = rounded(self.seconds)
        values["first"] = rounded(self.first | {"total": sum(self.first.values())})
        return values


def translate_video(
    input: PathLike,
    output: PathLike,
    *,
    to: str | None = None,
    source: str | None = None,
    model: PathLike | None = None,
    direction: Direction | None = None,
    batch_statistics: bool = False,
    video: VideoOptions | None = None,
    on_start: OnStart | None = None,
    on_frames: OnFrames | None = None,
    **options: Unpack[TranslatorOptions],
) -> VideoReport:
    """Translates a video; only the look of its pictures changes.

    Every frame keeps its time. Sound, subtitles, chapters, metadata, colour, size and orientation are kept. The output
    appears when it is whole; an interrupted job goes on where it was when it is started again.

    Args:
        input: a file, a folder or numbered pattern of pictures, ``camera:0``, the address of a stream, or ``-``.
        output: a file (mp4, mov, mkv, webm, gif, webp), a folder or pattern of pictures, or ``-``.
        to, source, model, direction, batch_statistics: which model, as in :meth:`cgpipe.Translator.find`.
        video: see :class:`VideoOptions`.
        on_start: told the model in words and the number of frames, or None where the input does not say.
        on_frames: told how many frames were written, after each batch.
        options: of :class:`cgpipe.Translator`.

    Raises:
        UsageError: an option cannot be used, such as a codec that the container does not take.
        MediaError: the input or the mask cannot be read at all, the mask does not fit, or the output cannot be written.
        ModelError: the model cannot be found or read.
    """
    start = StartUp()
    found = find_model(to, source=source, file=model)
    translator = load_translator(
        found, to=to, source=source, direction=direction, batch_statistics=batch_statistics, start=start, **options
    )
    job = VideoJob(found, translator, video or {}, start, on_start, on_frames)
    return job.run(os.fspath(input), os.fspath(output))


class VideoJob:
    """A translator and options, ready for one video after another."""

    def __init__(
        self,
        found: Found,
        translator: Translator,
        video: VideoOptions,
        start: StartUp,
        on_start: OnStart | None = None,
        on_frames: OnFrames | None = None,
    ) -> None:
        self.found = found
        self.translator = translator
        self.video = video
        self._start: StartUp | None = start  # of the first video alone
        self.on_start = on_start
        self.on_frames = on_frames
        self.batch_size = video.get("batch_size") or 1
        self.ahead = video.get("ahead", 2)

    def run(self, input: str, output: str) -> VideoReport:
        """Translates one video; see :func:`translate_video`."""
        started = time.perf_counter()
        report = VideoReport(input=input, output=output, model=str(self.found))
        start, self._start = self._start or StartUp(), None
        settings = self._deciding_settings(input)
        if self._is_done(input, output, settings):
            report.skipped = True
            return report
        with open_source(input, **self._of_source()) as source, self._open_mask(source.info) as mask:
            info = source.info
            self._tell(report, info.notices)
            if self.video.get("batch_size") is None:
                self.batch_size = self.translator.batch_size(info.height, info.width)
            busy = self.translator.busy_seconds  # by the videos before, and by trying batches
            with open_sink(output, like=self._seen(source.info), resume=settings, **self._of_sink()) as sink:
                if self.on_start:
                    self.on_start(report.model, source.info.frames)
                self._translate(source, mask, sink, report, start)
            self._tell(report, sink.notices)
            damage = source.damage
            report.frames, report.resumed, report.streams = sink.frames, sink.resumed, sink.streams
            report.filled, report.bad_packets = damage.filled, damage.bad_packets
            report.missing = damage.missing
            report.settings = settings_of(self.translator) | self._work() | dict(sink.settings)
        report.first = start.seconds
        busy = self.translator.busy_seconds - busy
        report.seconds |= {"inference": busy, "total": time.perf_counter() - started}
        return report

    def _open_mask(self, info: VideoInfo) -> AbstractContextManager[VideoMask | None]:
        path = self.video.get("mask")
        cut = {name: self.video.get(name) for name in ("start", "end", "fps", "duration")}
        return nullcontext() if path is None else VideoMask(path, info, **cut)

    def _translate(
        self, source: Source, mask: VideoMask | None, sink: Sink, report: VideoReport, start: StartUp
    ) -> None:
        frames: Iterable[Frame | Failed] = source.frames(first=sink.resumed)
        decoded = Timed(mask.confine(frames, first=sink.resumed) if mask else frames)
        batches = load(
            lambda worker, workers: self._originals(decoded),
            batch_size=self.batch_size,
            workers=0,
            ahead=self.ahead,
        )
        encode_seconds = 0.0
        if self.on_frames and sink.resumed:
            self.on_frames(sink.resumed)
        stream = start.at_first("inference", self.translator.stream(start.at_first("decode", batches)))
        with closing(prefetch(stream, self.ahead)) as translated:
            for item in translated:
                if isinstance(item, Failed):
                    self._tell(report, [item.reason])
                    continue
                began = time.perf_counter()
                for frame in item.frames():
                    sink.write(beside_original(frame))
                start.reached("encode")
                encode_seconds += time.perf_counter() - began
                if self.on_frames:
                    self.on_frames(len(item))
        report.seconds |= {"decode": decoded.seconds, "encode": encode_seconds}

    def _tell(self, report: VideoReport, notices: Iterable[str]) -> None:
        for notice in notices:
            report.notices.append(notice)
            warnings.warn(notice, CgpipeWarning, stacklevel=3)

    def _originals(self, frames: Iterable[Frame | Failed]) -> Iterator[Frame | Failed]:
        """The frames, each with its own pixels in its luggage where they are to be shown beside the translation."""
        for frame in frames:
            if self.video.get("side_by_side") and isinstance(frame, Frame):
                yield replace(frame, origin=WithOriginal(frame.origin, frame.pixels[..., :3]))
            else:
                yield frame

    def _seen(self, info: VideoInfo) -> VideoInfo:
        return replace(info, width=2 * info.width) if self.video.get("side_by_side") else info

    def _work(self) -> dict[str, Any]:
        mask = self.video.get("mask")
        return {"batch_size": self.batch_size, "mask": None if mask is None else os.fspath(mask)}

    def _of_source(self) -> dict[str, Any]:
        return {name: self.video.get(name) for name in ("start", "end", "fps", "duration", "hwaccel", "threads")}

    def _of_sink(self) -> dict[str, Any]:
        chosen = {name: self.video.get(name) for name in ("codec", "crf", "preset", "pix_fmt")}
        return chosen | {"audio": self.video.get("audio", True), "overwrite": self.video.get("overwrite", False)}

    def _deciding_settings(self, input: str) -> str:
        """All that decides what the output will be, as text."""
        work = ("batch_size", "ahead", "overwrite", "hwaccel", "threads", "mask")
        mask = self.video.get("mask")
        return json.dumps(
            {
                "input": stamp(Path(input)),
                "model": stamp(self.found.path),
                "mask": None if mask is None else stamp(Path(mask)),
                "translator": deciding_settings(self.translator),
                "video": {name: value for name, value in sorted(self.video.items()) if name not in work},
            },
            sort_keys=True,
        )

    def _is_done(self, input: str, output: str, settings: str) -> bool:
        if not os.path.isfile(input) or output == STANDARD:
            return False
        freshness = Freshness([Path(output)], [settings])  # which also remembers them for the next run
        return not self.video.get("overwrite") and freshness.is_current(Path(input), Path(output))


@dataclass(frozen=True, slots=True)
class WithOriginal:
    """A frame's origin together with the pixels from before its translation."""

    origin: Any
    pixels: Pixels


def beside_original(frame: Frame) -> Frame:
    """The translation, to the right of its original where that came along."""
    if not isinstance(frame.origin, WithOriginal):
        return frame
    return Frame(pixels=np.concatenate([frame.origin.pixels, frame.pixels], axis=1), origin=frame.origin.origin)


class Timed:
    """Passes things on and counts the seconds that it took to get them."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Any]:
        iterator = iter(self.items)
        while True:
            began = time.perf_counter()
            item = next(iterator, None)
            self.seconds += time.perf_counter() - began
            if item is None:
                return
            yield item
