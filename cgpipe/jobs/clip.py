"""Translates one clip through the pipeline: a video, or an animation among pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from cgpipe.engine.steady import Steady, first_needed
from cgpipe.engine.translator import Translator
from cgpipe.jobs.pipeline import Pipeline
from cgpipe.jobs.report import VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.video_ends import OnPicture, VideoFrames, VideoResult
from cgpipe.media.frames import Pixels
from cgpipe.media.video.clip import VideoInfo
from cgpipe.media.video.interfaces import Sink, Source
from cgpipe.media.video.masks import VideoMask
from cgpipe.media.video.opening import is_live, open_sink, open_source
from cgpipe.media.video.parts import PartSink
from cgpipe.options import Look, Options
from cgpipe.storage import Publish, fetched_whole, shown


def _nobody(count: int | None) -> None:
    """A callback that does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The settings of one clip, beside the options of the job.

    Args:
        input: a local file, or another input of :func:`cgpipe.media.video.open_source`.
        output: path of the result.
        publish: moves the finished file into place.
        resume: identifies everything that determines the frames, to resume an interrupted run; None: keep nothing.
        on_start: called with the number of frames, or None if the input does not say.
        on_frames: called with the number of new frames.
        part: first frame, and the one behind the last (None: the end), of segments for another process to join.
        on_picture: called with each frame and its translation; False ends a camera or a stream.
    """

    input: str
    output: str
    publish: Publish
    resume: str | None = None
    on_start: Callable[[int | None], None] = _nobody
    on_frames: Callable[[int], None] = _nobody
    on_picture: OnPicture | None = None
    part: tuple[int, int | None] | None = None


def survey_clip(pipeline: Pipeline, options: Options, clip: Clip, report: VideoReport) -> int:
    """Makes room for a clip's segments and tries its encoder; gives its number of frames, 0 if it is not known.

    Raises:
        UsageError, MediaError: as of :func:`translate_clip`.
    """
    with _source(clip.input, report.input, options) as source:
        info = _written_info(pipeline, source.info)
        _sink(info, options, clip).abort()
        return info.frames or 0


def _written_info(pipeline: Pipeline, info: VideoInfo) -> VideoInfo:
    enlarges = pipeline.translator.enlarges
    return replace(info, width=enlarges * info.width, height=enlarges * info.height)


def translate_clip(
    pipeline: Pipeline, options: Options, clip: Clip, report: VideoReport, watch: Stopwatch
) -> VideoInfo:
    """Translates every frame of a clip, and completes the report, which already names input and output.

    Raises:
        UsageError, MediaError: see :func:`cgpipe.translate_video`.
    """
    pipeline.translator.model.require_rgb("Frames of a video")
    with _source(clip.input, report.input, options) as source, _mask(source.info, options) as mask:
        report.tell(source.info.notices)
        info = source.info
        batch_size = pipeline.batch_size_for(info.height, info.width)
        info = _written_info(pipeline, info)
        with _sink(info, options, clip) as sink:
            clip.on_start(info.frames)
            if sink.resumed:
                clip.on_frames(sink.resumed)
            kept = bool(options.look.side_by_side or options.look.steady or clip.on_picture)
            last = None if clip.part is None else clip.part[1]
            # A GPU that translates decodes too.
            source.hardware = "cuda" if is_cuda(pipeline.translator) and options.hardware.hwaccel is None else None
            # What works on a frame's RGB gets that from the start.
            planar = source.planar if mask is None and not kept and source.planar == sink.planar else None
            source.as_planes = planar is not None and pipeline.translator.takes_planes(planar)
            frames = VideoFrames(source, mask, watch, originals=kept, last=last)
            first, result = _result(sink, options.look, report, watch, clip, frames)
            run = partial(pipeline.run, frames, result, watch, batch_size=batch_size, first=first)
            stop = _until_stopped(run, lambda: is_live(clip.input) and sink.frames > 0)
            report.tell(frames.notices)
        if isinstance(sink, PartSink) and report.failed:
            sink.discard()
        report.tell(sink.notices)
        look = options.look
        asked = {"batch_size": batch_size, "mask": None if look.mask is None else shown(look.mask)}
        steady = {"steady": look.steady} if look.steady else {}
        report.settings = pipeline.settings() | asked | steady | dict(sink.settings)
        _count(report, source, sink)
    if stop is not None:
        report.tell([f"Stopped. {report.output} holds what came until then."])
        raise stop
    return info


def _until_stopped(run: Callable[[], None], ends: Callable[[], bool]) -> KeyboardInterrupt | None:
    """Runs a job; returns Ctrl-C where that is the job's end, as that of a camera."""
    try:
        run()
    except KeyboardInterrupt as stop:
        if ends():
            return stop
        raise
    return None


def is_cuda(translator: Translator) -> bool:
    """Whether the first device of a translator is an NVIDIA GPU."""
    return translator.device.type == "cuda"


def _result(
    sink: Sink, look: Look, report: VideoReport, watch: Stopwatch, clip: Clip, frames: VideoFrames
) -> tuple[int, VideoResult]:
    """The index of the first frame, and the receiver of translated ones."""

    def show(before: Pixels, after: Pixels) -> None:
        if clip.on_picture is not None and clip.on_picture(before, after) is False:
            frames.end()

    first = first_needed(sink.resumed) if look.steady else sink.resumed
    steady = Steady(look.steady, first) if look.steady else None
    repeated = sink.resumed - first
    return first, VideoResult(
        sink,
        report,
        watch,
        clip.on_frames,
        steady=steady,
        side_by_side=look.side_by_side,
        repeated=repeated,
        on_picture=None if clip.on_picture is None else show,
    )


def _count(report: VideoReport, source: Source, sink: Sink) -> None:
    damage = source.damage + sink.damage
    report.bad_sound, report.changed = damage.bad_sound, damage.changed
    report.filled, report.bad_packets, report.missing = damage.filled, damage.bad_packets, damage.missing
    report.frames, report.resumed, report.streams = sink.frames, sink.resumed, sink.streams


def _source(input: str, name: str, options: Options) -> Source:
    return open_source(
        input,
        cut=options.cut,
        hwaccel=options.hardware.hwaccel,
        threads=options.work.workers,
        deinterlace=options.look.deinterlace,
        name=None if input == name else name,
    )


@contextmanager
def _mask(info: VideoInfo, options: Options) -> Iterator[VideoMask | None]:
    mask = options.look.mask
    if mask is None:
        yield None
        return
    with fetched_whole(mask) as here, VideoMask(here, info, options.cut, name=shown(mask)) as masks:
        yield masks


def _sink(info: VideoInfo, options: Options, clip: Clip) -> Sink:
    like = replace(info, width=2 * info.width) if options.look.side_by_side else info
    if clip.part is not None:
        first, last = clip.part
        encoding, resume = options.encoding, clip.resume or ""
        return PartSink(clip.output, like=like, encoding=encoding, resume=resume, first=first, last=last)
    return open_sink(
        clip.output,
        like=like,
        encoding=options.encoding,
        resume=clip.resume,
        overwrite=options.work.overwrite,
        publish=clip.publish,
    )
