"""Everything of a file except its video: audio, subtitles, covers, attachments, chapters and metadata.

Packets are copied byte for byte if the container can hold them. Otherwise audio is re-encoded, text subtitles are
converted to the container's codec, and everything else is dropped, with the reason.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from types import TracebackType
from typing import BinaryIO, Self

import av
import av.container
import av.error
from av.audio.stream import AudioStream
from typing_extensions import Buffer

from cgpipe.media.video.clip import StreamInfo, VideoInfo, describe, is_cover
from cgpipe.media.video.clock import formats_of, on_one_clock
from cgpipe.media.video.copiers import TEXT_OF, Copier, Span, StreamCopier, SubtitleConverter, Transcoder
from cgpipe.media.video.encoding import Container
from cgpipe.media.video.libav import LENIENT_TAGS, Packet, address, demuxed, packet_time, reading
from cgpipe.media.video.timecode import advanced
from cgpipe.storage import Stamp

# Written by the muxer itself, or true only of the input file.
_STALE_TAGS = re.compile(
    r"major_brand|minor_version|compatible_brands|encoder|vendor_id|rotate|alpha_mode|duration(-.*)?|bps(-.*)?"
    r"|number_of_.*|_statistics_.*",
    re.IGNORECASE,
)
# Tags with a field of their own in mp4 and mov; all others go into a table of keys.
_NATIVE_TAGS = frozenset(
    ("title", "artist", "album", "comment", "genre", "copyright", "date", "creation_time", "location", "location-eng")
)
# Maximum packets of a file that a trial reads.
_MOST_TRIED = 4000
COPIED_IN_PART = "copied,"
# QuickTime files accept only the older codes of these languages.
_QUICKTIME_LANGUAGES = {
    "sqi": "alb", "hye": "arm", "eus": "baq", "mya": "bur", "zho": "chi", "ces": "cze", "nld": "dut", "fra": "fre",
    "kat": "geo", "deu": "ger", "ell": "gre", "isl": "ice", "mkd": "mac", "msa": "may", "fas": "per", "ron": "rum",
    "slk": "slo", "bod": "tib", "cym": "wel",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What becomes of one stream.

    Args:
        stream: the stream.
        kept: whether it is in the output.
        how: "translated", "copied", "encoded as ..." or "converted to ..."; the reason if it is dropped.
    """

    stream: StreamInfo
    kept: bool
    how: str

    def __str__(self) -> str:
        return f"{self.stream}: {self.how}" if self.kept else f"{self.stream}: dropped, {self.how}"


class OtherStreams:
    """The streams other than the video: planned by the constructor, and returned by :meth:`packets`.

    Each stream has several ways, the best first: copied, copied without the packets that the container refuses,
    re-encoded, dropped. When :meth:`mend` finds that the present way fails, it takes the next, so that no stream stops
    the video.

    Args:
        info: the clip; without a path, there are no other streams.
        container: of the output.
        audio: whether to keep audio.

    Attributes:
        bad_packets: packets that could not be kept, in the latest pass.
        changed: whether the input was replaced or changed since it was opened.
    """

    def __init__(self, info: VideoInfo, container: Container, *, audio: bool = True) -> None:
        self._info = info
        self._container = container
        self._span = Span.of(info)
        self._ways: dict[int, _Ways] = {}
        self._reports: dict[int, StreamReport] = {}
        self._unsaid: set[int] = set()
        self._copiers: dict[int, Copier] = {}
        self._source: av.container.InputContainer | None = None
        self._tags = True
        self.bad_packets = 0
        self.changed = False
        # If the file is replaced, the one that the frames come from stays open here.
        self._file: BinaryIO | None = None
        if info.path is not None and os.path.isfile(info.path):
            self._file = open(info.path, "rb")  # noqa: SIM115 - closed by close()
        try:
            self._make_plan(audio)
        except BaseException:
            self.close()
            raise

    @property
    def report(self) -> tuple[StreamReport, ...]:
        """What becomes of each stream, in the order of the input."""
        return tuple(report for _, report in sorted(self._reports.items()))

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices of what is lost."""
        lost = [
            str(report)
            for index, report in sorted(self._reports.items())
            if not report.kept and index not in self._unsaid
        ]
        if not self._tags:
            lost.append(f"Metadata and chapters are dropped: {self._container.format} does not support them.")
        if self.bad_packets:
            lost.append(f"{self.bad_packets} damaged packets of audio or subtitles are dropped.")
        if self.changed:
            lost.append(f"{self._info.path} was changed during the job. This is the translation of the earlier file.")
        return tuple(lost)

    def close(self) -> None:
        """Closes the input."""
        self.__exit__(None, None, None)
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        if self._info.path is not None:
            with reading(self._info.path):
                self._source = av.open(self._current_file(), "r", **LENIENT_TAGS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._copiers.clear()
        if self._source is not None:
            self._source.close()
            self._source = None

    def _current_file(self) -> str | BinaryIO:
        """The input's path, or the opened file if another one has that path now."""
        assert self._info.path is not None
        self.changed = self.changed or self._info.stamp not in (None, _stamp(self._info.path))
        if self._file is None or not self.changed:
            return address(self._info.path)
        self._file.seek(0)
        return self._file

    def _make_plan(self, audio: bool) -> None:
        with self:
            for stream in self._source.streams if self._source is not None else ():
                self._plan_stream(stream, audio)
        if self._info.path is None:
            self._reports = {stream.index: self._unread(stream) for stream in self._info.streams}

    def _unread(self, stream: StreamInfo) -> StreamReport:
        if stream.index == self._info.stream:
            return StreamReport(stream=stream, kept=True, how="translated")
        return StreamReport(stream=stream, kept=False, how="the input is not a file and can be read only once")

    def _plan_stream(self, stream: av.stream.Stream, audio: bool) -> None:
        about = describe(stream)
        if about.index == self._info.stream:
            self._reports[about.index] = StreamReport(stream=about, kept=True, how="translated")
            return
        why_not = self._unwanted(stream, about, audio)
        if why_not is not None:
            self._reports[about.index] = StreamReport(stream=about, kept=False, how=why_not)
            return
        self._ways[about.index] = _Ways(
            about, self._possible(stream, about), f"{self._container.format} does not take it"
        )
        self._reports[about.index] = self._ways[about.index].report()

    def _unwanted(self, stream: av.stream.Stream, about: StreamInfo, audio: bool) -> str | None:
        if about.kind == "audio" and not audio:
            self._unsaid.add(about.index)
            return "sound was not wanted"
        if about.kind == "video":
            return "only one video stream is translated"
        if about.kind == "data":
            with_chapters = self._source is not None and bool(self._source.chapters())
            # The names of chapters, which come with the chapters, and what is a tag too.
            if (with_chapters and about.codec in ("bin_data", "")) or "timecode" in stream.metadata:
                self._unsaid.add(about.index)
            return "timecodes and sensor data are not brought over (chapters are)"
        if isinstance(stream, AudioStream):
            if stream.codec_context is None:
                return "its codec is unknown"
            if not stream.codec_context.sample_rate:
                return "it holds no audio"
        return None

    def _possible(self, stream: av.stream.Stream, about: StreamInfo) -> Iterator[str]:
        """The ways of a stream, as text, best first."""
        container = self._container
        if _takes(container, stream) or (about.kind == "cover" and container.format == "matroska"):
            yield "copied"
            yield f"{COPIED_IN_PART} without its damaged packets"
        if about.kind == "audio" and about.codec and container.audio is not None:
            yield f"encoded as {container.audio}"
        if about.kind == "subtitle" and container.subtitle is not None and about.codec in TEXT_OF:
            yield f"converted to {container.subtitle}"

    def add_to(self, output: av.container.OutputContainer, add_video: Callable[[], None]) -> None:
        """Adds the streams to an output before its header is written; ``add_video`` is called at the video's turn.

        Chapters and metadata of the container are copied too.
        """
        self.bad_packets = 0
        if self._source is None:
            add_video()
            return
        for stream in self._source.streams:
            if stream.index == self._info.stream:
                add_video()
                self._tag_video(stream, output.streams[-1])
            elif stream.index in self._kept():
                self._add_stream(stream, output)
        if self._tags:
            tags = _kept_tags(self._source.metadata)
            for key in tags:
                if key.lower() == "timecode":
                    tags[key] = self._timecode(tags[key])
            output.metadata.update(tags)
            if output.format.name in ("mp4", "mov") and not _NATIVE_TAGS.issuperset(tags):
                output.options["movflags"] = f"{output.options.get('movflags', '')}+use_metadata_tags"
            chapters = list(_chapters(self._source, self._span))
            if chapters:
                output.set_chapters(chapters)

    def _kept(self) -> set[int]:
        return {index for index, ways in self._ways.items() if ways.present is not None}

    def _tag_video(self, source: av.stream.Stream, target: av.stream.Stream) -> None:
        _copy_tags(source, target)
        code = target.metadata.pop("timecode", None)
        if code is not None and self._tags:
            target.metadata["timecode"] = self._timecode(code)

    def _timecode(self, code: str) -> str:
        """The timecode of the first frame that is kept."""
        return advanced(code, self._span.start, self._info.rate) if self._info.rate and self._span.trimmed else code

    def _add_stream(self, stream: av.stream.Stream, output: av.container.OutputContainer) -> None:
        if is_cover(stream) and output.format.name == "matroska":
            _attach_cover(output, stream, self._current_file())
            return
        self._copiers[stream.index] = self._copier(stream, output)
        _copy_tags(stream, output.streams[-1])

    def _copier(self, stream: av.stream.Stream, output: av.container.OutputContainer) -> Copier:
        ways = self._ways[stream.index]
        how = ways.present or ""
        if how.startswith("encoded") and self._container.audio is not None and isinstance(stream, AudioStream):
            return Transcoder(stream, output, self._container.audio, self._span)
        if how.startswith("converted") and self._container.subtitle is not None:
            return SubtitleConverter(stream, output, self._container.subtitle, self._span)
        copy = output.add_stream_from_template(stream, opaque=True)
        whole = self._container.edit_lists and stream.type == "audio"
        refused = ways.refused if how.startswith(COPIED_IN_PART) else set[int]()
        hidden = not self._container.edit_lists and bool(formats_of(stream.container) & {"mov", "mp4"})
        overlap = whole or stream.type == "subtitle"
        return StreamCopier(copy, self._span, overlap=overlap, hide=hidden, refused=refused)

    def packets(self, first: int | None = None) -> Iterator[Packet]:
        """The packets of all kept streams, in the order of the input, ready for the output's ``mux``.

        Args:
            first: stop after this many packets of each stream, or a few seconds; None: at the end.
        """
        if self._source is None or not self._copiers:
            return
        # Interleaving is not strict: packets may be out of order, though not by seconds.
        end = None if self._span.end is None else self._span.end + 5
        seen = dict.fromkeys(self._copiers, 0)
        with closing(_demuxed(self._source)) as packets:
            for number, packet in enumerate(packets):
                if end is not None and packet_time(packet) > end:
                    break
                if first is not None and (number > _MOST_TRIED or min(seen.values()) >= first):
                    break
                if packet.stream_index in self._copiers:
                    seen[packet.stream_index] += 1
                    yield from self._copiers[packet.stream_index](packet)
        for copier in self._copiers.values():
            yield from copier(av.Packet())
            self.bad_packets += copier.bad_packets

    def mend(self, first: int | None = None) -> bool:
        """After a failed join: takes the next way for every stream that fails on its own.

        Args:
            first: packets of each stream to try, as for :meth:`packets`.

        Returns:
            Whether anything has changed, so that joining is worth another try.
        """
        failing = [index for index in sorted(self._kept()) if self._change_way(index, first)]
        for index in failing:
            self._reports[index] = self._ways[index].report()
        if failing or not self._tags:
            return bool(failing)
        self._tags = False
        return True

    def _change_way(self, index: int, first: int | None) -> bool:
        """Takes the next way for a stream that cannot be written on its own; False if it can."""
        ways = self._ways[index]
        try:
            refused, written = self._alone(index, first)
        except (av.error.FFmpegError, ValueError):
            ways.next()
            return True
        if not refused:
            return False
        ways.refused |= refused
        if not (ways.present or "").startswith(COPIED_IN_PART):
            ways.next()
        if 2 * len(ways.refused) > written:
            ways.next()
        return True

    def _alone(self, index: int, first: int | None) -> tuple[set[int], int]:
        """Muxes one stream alone, as a trial; returns the numbers of refused packets, and the number of packets."""
        refused = set()
        with self, av.open(_Nowhere(), "w", format=self._container.format) as output:
            assert self._source is not None
            self._add_stream(self._source.streams[index], output)
            output.start_encoding()
            copier = self._copiers.get(index)
            for packet in self.packets(first):
                try:
                    output.mux(packet)
                except av.error.FFmpegError:
                    refused.add(copier.number if copier else 0)
            return refused, copier.number if copier else 0


@dataclass(slots=True)
class _Ways:
    """How one stream can go into the output: the present way, and those that are left."""

    stream: StreamInfo
    left: Iterator[str]
    why_not: str
    present: str | None = None
    refused: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.next()

    def next(self) -> None:
        self.present = next(self.left, None)

    def report(self) -> StreamReport:
        kept = self.present is not None
        return StreamReport(stream=self.stream, kept=kept, how=self.present or self.why_not)


class _Nowhere(io.RawIOBase):
    """A file that discards what is written, for trials."""

    def __init__(self) -> None:
        self._place = self._size = 0

    def write(self, data: Buffer, /) -> int:
        length = memoryview(data).nbytes
        self._place += length
        self._size = max(self._size, self._place)
        return length

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place


def _demuxed(source: av.container.InputContainer) -> Generator[Packet, None, None]:
    """All readable packets; a truncated file is reported by the source of the frames."""
    packets = demuxed(source)
    with closing(packets), suppress(OSError, av.error.FFmpegError):
        yield from (packet for packet in on_one_clock(packets, formats_of(source)) if packet.size)


def _takes(container: Container, stream: av.stream.Stream) -> bool:
    """Whether a container accepts a stream as it is: some refuse at once, some only when the header is written."""
    try:
        with av.open(io.BytesIO(), "w", format=container.format) as trial:
            copy = trial.add_stream_from_template(stream, opaque=True)
            _copy_tags(stream, copy)
            trial.start_encoding()
    except (av.error.FFmpegError, OSError, ValueError):
        return False
    return True


def _attach_cover(output: av.container.OutputContainer, cover: av.stream.Stream, file: str | BinaryIO) -> None:
    """Attaches a cover: Matroska stores pictures as attachments, which are written with the header."""
    with av.open(file, "r", **LENIENT_TAGS) as source:
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
    kept = {key: value for key, value in metadata.items() if not _STALE_TAGS.fullmatch(key)}
    if "name" in kept:  # so the title of a track of MP4 is called where it is read, but not where it is written
        kept.setdefault("title", kept.pop("name"))
    return kept


def _chapters(source: av.container.InputContainer, span: Span) -> Iterator[av.container.core.Chapter]:
    """The chapters within the span, shifted and cut to it."""
    for chapter in source.chapters():
        time_base = chapter["time_base"] or Fraction(1, 1000)
        shift = span.shift(time_base)
        last = chapter["end"] if span.end is None else min(chapter["end"], round(span.end / time_base))
        begin, end = max(chapter["start"], shift) - shift, last - shift
        if end > begin:
            yield {**chapter, "time_base": time_base, "start": begin, "end": end}


def _stamp(path: str) -> Stamp | None:
    try:
        return Stamp.of(path)
    except OSError:
        return None
