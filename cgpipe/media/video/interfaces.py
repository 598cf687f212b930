"""The interfaces of every source of frames and every sink for them."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator
from types import TracebackType
from typing import Self

from cgpipe.media.frames import Failed, Frame
from cgpipe.media.planar import Planar
from cgpipe.media.video.clip import Damage, VideoInfo, VideoOrigin
from cgpipe.media.video.streams import StreamReport

Pass = Generator[Frame[VideoOrigin] | Failed[VideoOrigin], None, None]


class Source(ABC):
    """Yields frames in order, each with a :class:`~cgpipe.media.video.VideoOrigin`; a context manager.

    Attributes:
        info: what is known before any frame is read.
        damage: damage found so far by the latest pass.
        planar: the layout in which it can give frames as planes of YUV; None if it gives RGB alone.
        as_planes: whether later passes give them so.
        hardware: libav's name of a hardware decoder that later passes may use where it gives the same frames sooner.
    """

    info: VideoInfo
    damage: Damage
    planar: Planar | None = None
    as_planes: bool = False
    hardware: str | None = None

    def __init__(self) -> None:
        self.damage = Damage()
        self._passes: weakref.WeakSet[Pass] = weakref.WeakSet()

    def __iter__(self) -> Pass:
        return self.frames()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def frames(self, first: int = 0) -> Pass:
        """One pass, from the frame of index ``first`` on."""
        one_pass = self._read(first)
        self._passes.add(one_pass)
        return one_pass

    def close(self) -> None:
        """Ends unfinished passes, and closes what they have open."""
        for unfinished in list(self._passes):
            unfinished.close()

    @abstractmethod
    def _read(self, first: int) -> Pass:
        """The generator of one pass."""


class Sink(ABC):
    """Receives frames in order; a context manager that finishes, or aborts after an exception.

    Attributes:
        frames: how many have been written, including those of an interrupted run.
        resumed: how many an interrupted run had written: continue with the frame of this index.
        planar: the layout in which it takes frames as planes of YUV; None if it takes RGB alone.
    """

    frames: int = 0
    resumed: int = 0
    planar: Planar | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.abort()

    @property
    def streams(self) -> tuple[StreamReport, ...]:
        """What becomes of every stream of the input; complete after ``finish``."""
        return ()

    @property
    def damage(self) -> Damage:
        """What could not be kept of the other streams; complete after ``finish``."""
        return Damage()

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices for the user about the output; complete after ``finish``."""
        return ()

    @property
    @abstractmethod
    def settings(self) -> dict[str, object]:
        """The chosen settings, for a report."""

    @abstractmethod
    def write(self, frame: Frame[VideoOrigin]) -> None:
        """Writes a frame, whose origin carries its time.

        Raises:
            MediaError: the output cannot be written.
            ValueError: the frame's size differs from that in the info.
        """

    def leave_out(self) -> None:
        """Is told that the next frame is left out: a later run cannot resume this one, since it counts the frames.

        Raises:
            MediaError: the output cannot be written.
        """
        return

    @abstractmethod
    def finish(self) -> None:
        """Completes the output and moves it into place.

        Raises:
            MediaError: the output cannot be written, or there was no frame.
        """

    @abstractmethod
    def abort(self) -> None:
        """Stops, and leaves nothing that looks finished."""
