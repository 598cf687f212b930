"""One clock for files whose timestamps jump: recordings joined end to end (``cat a.ts b.ts``), DVD titles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av

from cgpipe.media.video.libav import Packet, packet_time

# The timestamps of broadcast and network streams start anywhere, and restart where recordings were joined.
FREE_CLOCK = frozenset({"mpegts", "mpeg", "rtsp", "rtp", "hls"})
BACK = Fraction(1, 20)
"""Seconds by which a stream's decoding timestamps may go back; more means another recording."""
AHEAD = Fraction(10)
"""Seconds by which they may jump ahead."""
REMEMBERED = 8
"""Earlier offsets to which a late packet may still belong."""


class OneClock:
    """Shifts packet timestamps so that joined recordings follow one another, with all streams in sync.

    The same packets in the same order always get the same timestamps, so two readers of a file agree.

    Attributes:
        joints: how often the clock was reset.
    """

    def __init__(self) -> None:
        self.joints = 0
        self._offsets = [Fraction(0)]
        self._last: dict[int, Fraction] = {}
        self._now: Fraction | None = None
        self._end = Fraction(0)

    def __call__(self, packet: Packet) -> Packet:
        """The packet itself, with its timestamps on the common clock."""
        if packet.dts is None and packet.pts is None:
            return packet
        offset = self._offset(packet, packet_time(packet))
        if offset:
            ticks = round(offset / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        self._advance(packet)
        return packet

    def _offset(self, packet: Packet, raw: Fraction) -> Fraction:
        """The offset of the recording that the packet continues, or a new one that appends it."""
        if self._now is None:
            return self._offsets[-1]
        now, last = self._now, self._last.get(packet.stream.index)
        fitting = [
            offset
            for offset in self._offsets
            if raw + offset - now <= AHEAD and (last is None or raw + offset >= last - BACK)
        ]
        if fitting:
            return min(fitting, key=lambda offset: abs(raw + offset - now))
        if packet.stream.type not in ("video", "audio"):
            return self._offsets[-1]
        shown = raw if packet.pts is None else packet.pts * packet.time_base
        self._offsets = [*self._offsets[1 - REMEMBERED :], self._end - shown]
        self.joints += 1
        return self._offsets[-1]

    def _advance(self, packet: Packet) -> None:
        if packet.stream.type not in ("video", "audio"):
            return
        time, index = packet_time(packet), packet.stream.index
        # A packet without a duration is taken to last as long as the one before.
        length = (packet.duration or 0) * packet.time_base or time - self._last.get(index, time)
        self._last[index] = self._now = time
        shown = time if packet.pts is None else packet.pts * packet.time_base
        self._end = max(self._end, shown + length)


def on_one_clock(packets: Iterable[Packet], formats: set[str]) -> Iterator[Packet]:
    """The packets of a file, on one clock if timestamps of these formats may restart."""
    return map(OneClock(), packets) if formats & FREE_CLOCK else iter(packets)


def formats_of(container: av.container.Container) -> set[str]:
    """libav's names of a container's format."""
    return set(container.format.name.split(","))
