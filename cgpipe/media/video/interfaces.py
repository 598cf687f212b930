"""What every source of frames and every sink for them can do, whatever is at the other end."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from cgpipe.media.frames import Frame, Unreadable
from cgpipe.media.video.clip import Damage, VideoInfo
from cgpipe.media.video.streams import StreamReport


class Source(Protocol):
    """Gives frames, in order, each with a :class:`~cgpipe.media.video.VideoOrigin`; a context manager.

    Attributes:
        info: what is known beforehand.
        damage: what was wrong, as far as the latest pass has come.
    """

    info: VideoInfo
    damage: Damage

    def __iter__(self) -> Generator[Frame | Unreadable, None, None]: ...

    def frames(self, first: int = 0) -> Generator[Frame | Unreadable, None, None]:
        """One pass from the frame of index ``first`` on."""
        ...

    def close(self) -> None:
        """Ends passes that are not finished."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Sink(Protocol):
    """Takes frames, in order; a context manager that finishes, or aborts when there was an exception.

    Attributes:
        frames: how many have been written, those of an interrupted run included.
        resumed: how many of them an interrupted run had written: begin with this one.
    """

    frames: int
    resumed: int

    @property
    def streams(self) -> tuple[StreamReport, ...]:
        """What becomes of every stream of the input."""
        ...

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user must be told about how the clip is written; complete once it is."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was chosen, for a report."""
        ...

    def write(self, frame: Frame) -> None:
        """Adds a frame."""
        ...

    def finish(self) -> None:
        """Makes the output whole, under its name."""
        ...

    def abort(self) -> None:
        """Stops, leaving nothing that looks finished."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FinishingSink:
    """Finishes at the end of a ``with`` block, or aborts when it ends in an exception."""

    def finish(self) -> None:
        """Makes the output whole."""
        raise NotImplementedError

    def abort(self) -> None:
        """Stops without a result."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.abort()


class ReadableSource:
    """Keeps the passes of a source, so that they can be ended from outside."""

    def __init__(self) -> None:
        self._passes: weakref.WeakSet[Pass] = weakref.WeakSet()
        self.damage = Damage()

    def __iter__(self) -> Pass:
        return self.frames()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the passes that are not finished, and closes what they have open."""
        for unfinished in list(self._passes):
            unfinished.close()

    def frames(self, first: int = 0) -> Pass:
        """One pass from the frame of index ``first`` on; those before it are passed over."""
        one_pass = self._read(first)
        self._passes.add(one_pass)
        return one_pass

    def _read(self, first: int) -> Pass:
        raise NotImplementedError
