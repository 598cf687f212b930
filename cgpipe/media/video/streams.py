"""Everything of a file but its moving picture: sound, subtitles, covers, attachments, chapters and metadata.

Packets are copied byte for byte where the container takes them. Otherwise sound is encoded anew, text subtitles are
turned into the container's own kind, and what is left is left out, with the reason.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

import av
import av.container
import av.error

from cgpipe.media.video.carriers import TEXT_OF, Carrier, Copied, Encoded, Reworded, Span
from cgpipe.media.video.clip import StreamInfo, VideoInfo, describe, is_cover
from cgpipe.media.video.encoding import Container
from cgpipe.media.video.libav import LENIENT_TAGS, packet_time, reading

# Written by the muxer itself, or true of the old file only.
_STALE_TAGS = re.compile(
    r"major_brand|minor_version|compatible_brands|encoder|vendor_id|rotate|duration(-.*)?|bps(-.*)?|number_of_.*|_statistics_.*",
    re.IGNORECASE,
)
# QuickTime files know these languages by their older codes only.
_QUICKTIME_LANGUAGES = {
    "sqi": "alb", "hye": "arm", "eus": "baq", "mya": "bur", "zho": "chi", "ces": "cze", "nld": "dut", "fra": "fre",
    "kat": "geo", "deu": "ger", "ell": "gre", "isl": "ice", "mkd": "mac", "msa": "may", "fas": "per", "ron": "rum",
    "slk": "slo", "bod": "tib", "cym": "wel",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What becomes of one stream.

    Args:
        stream: which.
        kept: whether it is in the output.
        how: "translated", "copied", "encoded as ..." or "turned into ..."; where it is left out, why.
    """

    stream: StreamInfo
    kept: bool
    how: str

    def __str__(self) -> str:
        return f"{self.stream}: {self.how}" if self.kept else f"{self.stream}: left out, {self.how}"


class OtherStreams:
    """The streams beside the picture, planned when constructed, and brought over by :meth:`packets`.

    Args:
        info: the clip; without a path, there is nothing to bring over.
        container: the kind of the output.
        audio: whether to keep sound.

    Attributes:
        report: what becomes of each stream of the input, in its order.
    """

    report: tuple[StreamReport, ...]

    def __init__(self, info: VideoInfo, container: Container, *, audio: bool = True) -> None:
        self._info = info
        self._container = container
        self._span = Span.of(info)
        self._plan: dict[int, str] = {}
        self._carriers: dict[int, Carrier] = {}
        self._source: av.container.InputContainer | None = None
        self.report = self._make_plan(audio)

    def __enter__(self) -> Self:
        if self._info.path is not None:
            with reading(self._info.path):
                self._source = av.open(self._info.path, **LENIENT_TAGS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._carriers.clear()
        if self._source is not None:
            self._source.close()
            self._source = None

    def _make_plan(self, audio: bool) -> tuple[StreamReport, ...]:
        reports = []
        with self:
            for stream in self._source.streams if self._source is not None else ():
                reports.append(self._plan_stream(stream, audio))
        if self._source is None and self._info.path is None:
            reports = [self._unread(stream) for stream in self._info.streams]
        return tuple(reports)

    def _unread(self, stream: StreamInfo) -> StreamReport:
        if stream.index == self._info.stream:
            return StreamReport(stream=stream, kept=True, how="translated")
        return StreamReport(stream=stream, kept=False, how="the input is not a file and goes by only once")

    def _plan_stream(self, stream: av.stream.Stream, audio: bool) -> StreamReport:
        about = describe(stream)
        if stream.index == self._info.stream:
            return StreamReport(stream=about, kept=True, how="translated")
        how, why_not = self._how(stream, about, audio)
        if how is None:
            return StreamReport(stream=about, kept=False, how=why_not)
        self._plan[stream.index] = how
        return StreamReport(stream=about, kept=True, how=how)

    def _how(self, stream: av.stream.Stream, about: StreamInfo, audio: bool) -> tuple[str | None, str]:
        container = self._container
        refused = f"{container.format} does not take it"
        if about.kind == "audio" and not audio:
            return None, "sound was not wanted"
        if about.kind == "video":
            return None, "only one video stream is translated"
        if about.kind == "data":
            return None, "timecodes and sensor data are not brought over (chapters are)"
        if _takes(container, stream) or (about.kind == "cover" and container.format == "matroska"):
            return "copied", ""
        if about.kind == "audio" and about.codec and container.audio is not None:
            return f"encoded as {container.audio}", ""
        if about.kind == "subtitle" and container.subtitle is not None and about.codec in TEXT_OF:
            return f"turned into {container.subtitle}", ""
        return None, refused

    def add_to(self, output: av.container.OutputContainer, add_video: Callable[[], None]) -> None:
        """Adds the streams to an output whose header is not yet written; ``add_video`` is called at the picture's turn.

        Chapters and metadata of the container come over as well.
        """
        if self._source is None:
            add_video()
            return
        for stream in self._source.streams:
            if stream.index == self._info.stream:
                add_video()
                _copy_tags(stream, output.streams[-1])
            elif is_cover(stream) and output.format.name == "matroska" and stream.index in self._plan:
                _attach_cover(output, stream)
            elif stream.index in self._plan:
                self._carriers[stream.index] = self._carrier(stream, output)
                _copy_tags(stream, output.streams[-1])
        output.metadata.update(_kept_tags(self._source.metadata))
        chapters = list(_chapters(self._source, self._span))
        if chapters:
            output.set_chapters(chapters)

    def _carrier(self, stream: Any, output: av.container.OutputContainer) -> Carrier:
        how = self._plan[stream.index]
        if how.startswith("encoded") and self._container.audio is not None:
            return Encoded(stream, output, self._container.audio, self._span)
        if how.startswith("turned") and self._container.subtitle is not None:
            return Reworded(stream, output, self._container.subtitle, self._span)
        copy = output.add_stream_from_template(stream, opaque=True)
        whole = self._container.edit_lists and stream.type == "audio"
        return Copied(copy, self._span, overlap=whole or stream.type == "subtitle")

    def packets(self) -> Iterator[av.Packet[Any]]:
        """The packets of all kept streams, in the order of the input, ready for the output's ``mux``."""
        if self._source is None or not self._carriers:
            return
        # Interleaving is not strict: a packet that is due may follow one that is not, though not by seconds.
        end = None if self._span.end is None else self._span.end + 5
        with closing(_demuxed(self._source)) as packets:
            for packet in packets:
                if end is not None and packet_time(packet) > end:
                    break
                if packet.stream_index in self._carriers:
                    yield from self._carriers[packet.stream_index](packet)
        for carrier in self._carriers.values():
            yield from carrier(av.Packet())


def _demuxed(source: av.container.InputContainer) -> Generator[av.Packet[Any], None, None]:
    """All packets that can be read: where the file is cut short the picture ends too, and its source says so."""
    packets: Any = source.demux()
    with closing(packets), suppress(OSError, av.error.FFmpegError):
        yield from (packet for packet in packets if packet.size)


def _takes(container: Container, stream: av.stream.Stream) -> bool:
    """Whether a container takes a stream as it is: some refuse at once, some only when the header is written."""
    try:
        with av.open(io.BytesIO(), "w", format=container.format) as trial:
            copy = trial.add_stream_from_template(stream, opaque=True)
            _copy_tags(stream, copy)
            trial.start_encoding()
    except (av.error.FFmpegError, OSError, ValueError):
        return False
    return True


def _attach_cover(output: av.container.OutputContainer, cover: av.stream.Stream) -> None:
    """Matroska keeps pictures as attachments, which are written with the header."""
    with av.open(cover.container.name) as source:
        packet = next(packet for packet in source.demux(source.streams[cover.index]) if packet.size)
        kind = "jpeg" if cover.codec_context.name == "mjpeg" else cover.codec_context.name
        name = cover.metadata.get("filename", f"cover.{kind}")
        output.add_attachment(name, cover.metadata.get("mimetype", f"image/{kind}"), bytes(packet))


def _copy_tags(source: av.stream.Stream, target: av.stream.Stream) -> None:
    target.metadata.update(_kept_tags(source.metadata))
    language = target.metadata.get("language", "")
    if target.container.format.name == "mov":
        target.metadata["language"] = _QUICKTIME_LANGUAGES.get(language, language)
    target.disposition = source.disposition


def _kept_tags(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not _STALE_TAGS.fullmatch(key)}


def _chapters(source: av.container.InputContainer, span: Span) -> Iterator[Any]:
    """The chapters that lie in the span, moved and cut to it."""
    for chapter in source.chapters():
        time_base = chapter["time_base"] or Fraction(1, 1000)
        shift = span.shift(time_base)
        last = chapter["end"] if span.end is None else min(chapter["end"], round(span.end / time_base))
        begin, end = max(chapter["start"], shift) - shift, last - shift
        if end > begin:
            yield {**chapter, "time_base": time_base, "start": begin, "end": end}
