"""What every source of frames and every sink for them can do, whatever is at the other end."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator
from types import TracebackType
from typing import Self

from cgpipe.media.frames import Failed, Frame
from cgpipe.media.video.clip import Damage, VideoInfo, VideoOrigin
from cgpipe.media.video.streams import StreamReport

Pass = Generator[Frame[VideoOrigin] | Failed[VideoOrigin], None, None]


class Source(ABC):
    """Gives frames in order, each with a :class:`~cgpipe.media.video.VideoOrigin`; a context manager.

    Attributes:
        info: what is known beforehand.
        damage: what was wrong, as far as the latest pass has come.
    """

    info: VideoInfo
    damage: Damage

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
        """One pass from the frame of index ``first`` on; those before it are not given out."""
        one_pass = self._read(first)
        self._passes.add(one_pass)
        return one_pass

    def close(self) -> None:
        """Ends the passes that are not finished, and closes what they have open."""
        for unfinished in list(self._passes):
            unfinished.close()

    @abstractmethod
    def _read(self, first: int) -> Pass:
        """The generator of one pass."""


class Sink(ABC):
    """Takes frames in order; a context manager, which finishes, or aborts when there was an exception.

    Attributes:
        frames: how many have been written, those of an interrupted run included.
        resumed: how many of them an interrupted run had written: go on with the frame of this index.
    """

    frames: int = 0
    resumed: int = 0

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
        """What becomes of every stream of the input; complete when it is finished."""
        return ()

    @property
    def damage(self) -> Damage:
        """What could not be brought over of the streams beside the picture; complete when it is finished."""
        return Damage()

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user must be told about how the clip is written; complete when it is finished."""
        return ()

    @property
    @abstractmethod
    def settings(self) -> dict[str, object]:
        """What was chosen, for a report."""

    @abstractmethod
    def write(self, frame: Frame[VideoOrigin]) -> None:
        """Adds a frame, whose origin carries its time.

        Raises:
            MediaError: the target cannot be written.
            ValueError: the frame has another size than the info said.
        """

    @abstractmethod
    def finish(self) -> None:
        """Makes the output whole, under its name.

        Raises:
            MediaError: the target cannot be written, or there was no frame.
        """

    @abstractmethod
    def abort(self) -> None:
        """Stops, leaving nothing that looks finished."""
