"""Pictures as frames: a numbered sequence such as ``frames/%05d.png``, or a folder of pictures."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.colour import RGB, Colour
from cgpipe.media.frames import Frame, Pixels, contiguous, in_8_bits, reduced
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.formats import picture_format
from cgpipe.media.pictures.read import read_picture
from cgpipe.media.pictures.write import write_picture
from cgpipe.media.video.clip import Seconds, VideoInfo, VideoOrigin, seconds
from cgpipe.media.video.encoding import CONTAINERS, suffix_of
from cgpipe.media.video.interfaces import Pass, Sink, Source
from cgpipe.media.video.libav import writing
from cgpipe.storage import Stamp, atomic_write, put, shown, store_of
from cgpipe.threads import end_pool

_NUMBER = re.compile(r"%(0\d+)?d")
_WRITERS = 2
_KEY_FILE = ".cgpipe-job"
_LOOKED_AT = 8


def is_numbered(name: str) -> bool:
    """Whether a name is a numbered pattern, such as ``frames/%05d.png``."""
    return bool(_NUMBER.search(Path(name).name)) and not store_of(name).is_file(name)


def is_sequence(name: str) -> bool:
    """Whether an input is a sequence of pictures: a numbered pattern, or a folder."""
    return os.path.isdir(name) or is_numbered(name)


def names_sequence(name: str) -> bool:
    """Whether an output is a sequence of pictures: a numbered pattern, or a name that can only be a folder."""
    if os.path.isdir(name):
        return True
    return suffix_of(Path(name)) not in CONTAINERS and (bool(_NUMBER.search(Path(name).name)) or not Path(name).suffix)


def would_read_itself(source: str, output: str) -> bool:
    """Whether pictures of one sequence are, or would be read as, those of another that is made of it."""
    if not is_sequence(source) or not names_sequence(output):
        return False
    (read, pattern), (written, named) = _split(source), _split(output)
    store = store_of(read)
    if store is not store_of(written) or store.real(os.fspath(read)) != store.real(os.fspath(written)):
        return False
    if not is_numbered(source):  # all pictures of the folder are read
        return True
    return pattern == named or not _numbered(read, pattern).keys().isdisjoint(_numbered(written, named))


def fingerprint(spec: str, *, times: bool) -> str:
    """A checksum of the pictures of a sequence: their names and sizes, and when they were written.

    Args:
        times: whether the times count; those of copies do not.

    Raises:
        UsageError, MediaError: as for :class:`SequenceSource`.
    """
    sums = hashlib.sha256()
    for path in filter(None, _listing(spec)):
        with suppress(OSError):  # a picture that cannot be read is filled
            stamp = Stamp.of(path)
            sums.update(repr((path.name, stamp if times else stamp.size)).encode("utf-8", "surrogateescape"))
    return sums.hexdigest()


class SequenceSource(Source):
    """The pictures of a sequence as frames at a constant rate.

    All frames have the size and depth of the first picture; others are scaled to it. A picture that cannot be read, or
    whose number is missing, is replaced by a repeat of its neighbour, marked ``filled`` and counted.

    Args:
        spec: a numbered pattern (``frames/%05d.png``), or a folder, whose pictures are read in natural order.
        fps: frames per second; required.
        start: seconds into the sequence.
        end: seconds into the sequence.

    Raises:
        MediaError: there are no pictures, or none can be read.
        UsageError: there is no such folder, or ``fps`` is missing or invalid.
    """

    def __init__(
        self,
        spec: str | os.PathLike[str],
        *,
        fps: Seconds | None,
        start: Seconds | None = None,
        end: Seconds | None = None,
    ) -> None:
        super().__init__()
        self._paths = _listing(os.fspath(spec))
        if fps is None or fps <= 0:
            reason = f"{spec} holds pictures, which have no frame rate: give one with --fps, for example 25."
            raise UsageError(reason + _for_videos(spec))
        rate = Fraction(fps).limit_denominator(1001)
        self._first = math.ceil(seconds(start or 0) * rate)
        self._end = len(self._paths) if end is None else min(len(self._paths), math.ceil(seconds(end) * rate))
        self.info = self._describe(os.fspath(spec), rate)

    def _describe(self, spec: str, rate: Fraction) -> VideoInfo:
        example = self._nearest(self._first)
        if self._first >= self._end or example is None:
            raise MediaError(f"{spec} has no readable picture between start and end.")
        pixels = example.pixels
        height, width = pixels.shape[:2]
        return VideoInfo(
            width=width,
            height=height,
            colour=Colour(matrix=RGB, full_range=True, depth=8 * pixels.itemsize),
            time_base=1 / rate,
            rate=rate,
            frames=self._end - self._first,
            start=self._first / rate,
            end=self._end / rate,
            trimmed=self._first > 0,
            codec="pictures",
            pix_fmt="rgb24" if pixels.itemsize == 1 else "rgb48le",
            alpha=example.origin.alpha is not None and self._is_transparent(),
        )

    def _is_transparent(self) -> bool:
        """Whether any of a few pictures is: what renders them often writes an alpha that is opaque throughout."""
        spread = range(self._first, self._end, max(1, (self._end - self._first) // _LOOKED_AT))
        found = (picture for number in spread if (picture := self._picture(number)) is not None)
        alphas = (picture.origin.alpha for picture in found)
        return any(alpha is not None and bool((alpha < np.iinfo(alpha.dtype).max).any()) for alpha in alphas)

    def _read(self, first: int) -> Pass:
        self.damage = type(self.damage)()
        for number in range(self._first + first, self._end):
            picture = self._picture(number)
            filled = picture is None
            self.damage.bad_packets += filled and self._paths[number] is not None
            self.damage.filled += filled
            found = self._nearest(number) if picture is None else picture
            if found is not None:
                alpha = found.origin.alpha if self.info.alpha else None
                opacity = None if alpha is None else self._uniform(alpha)
                yield Frame(pixels=self._uniform(found.pixels), origin=self._origin(number, filled, opacity))

    def _origin(self, number: int, filled: bool, alpha: Pixels | None) -> VideoOrigin:
        return VideoOrigin(
            index=number - self._first,
            pts=number,
            time_base=self.info.time_base,
            duration=1,
            key=True,
            filled=filled,
            alpha=alpha,
        )

    def _picture(self, number: int) -> Frame[PictureExtras] | None:
        path = self._paths[number]
        try:
            return None if path is None else read_picture(path)
        except MediaError:
            return None

    def _nearest(self, number: int) -> Frame[PictureExtras] | None:
        """The last readable picture up to this number, or the first one after it."""
        around = [*range(min(number, len(self._paths) - 1), -1, -1), *range(number + 1, len(self._paths))]
        return next((found for near in around if (found := self._picture(near)) is not None), None)

    def _uniform(self, pixels: Pixels) -> Pixels:
        """Pixels, or an opacity (height, width), in the depth and size of the first picture."""
        depth = self.info.colour.depth
        if pixels.itemsize * 8 != depth:
            pixels = pixels.astype(np.uint16) * np.uint16(257) if depth == 16 else in_8_bits(pixels)
        if pixels.shape[:2] != (self.info.height, self.info.width):
            pixels = reduced(pixels, self.info.height, self.info.width)
        return contiguous(pixels)


class SequenceSink(Sink):
    """Writes every frame as a picture of its own, numbered from 1.

    Each picture appears whole. Pictures of an interrupted run with the same ``resume`` are kept.

    Args:
        spec: a numbered pattern (``frames/%05d.png``), or a folder, for ``%06d.png`` in it, here or on a store; folders
            are created.
        like: the source's info.
        resume: identifies the input and everything done to the frames.
        overwrite: replace an existing sequence.

    Raises:
        UsageError: the pattern's suffix is not a picture format.
        MediaError: the sequence already exists, or the folder cannot be written.
    """

    def __init__(
        self, spec: str | os.PathLike[str], *, like: VideoInfo, resume: str | None = None, overwrite: bool = False
    ) -> None:
        self._folder, self._pattern = _split(os.fspath(spec))
        if picture_format(self._pattern) is None:
            raise UsageError(f"{spec} is not a valid name for a picture: use .png, .jpg, .webp or .tif.")
        if len(_NUMBER.findall(self._pattern)) > 1:
            raise UsageError(f"{spec} has several numbers: keep one, such as %06d.")
        self._shape = (like.height, like.width, 3)
        self._aspect = like.sample_aspect_ratio
        self._jobs: deque[Future[None]] = deque()
        self._store = store_of(self._folder)
        self._writers = max(_WRITERS, self._store.parallel)
        self._pool = ThreadPoolExecutor(self._writers)
        # The pattern comes first: pictures that match another one are not of this job.
        self._key = f"{self._pattern}\n{(resume, self._shape, like.time_base, like.start)!r}"
        self._job = self._folder / _KEY_FILE
        with writing(shown(self._folder)):
            self._store.make_folder(os.fspath(self._job))
            self._take_over(resume is not None, overwrite)
            self._label(self._key)

    def _label(self, key: str) -> None:
        with atomic_write(self._job) as file:
            file.write_text(key)

    def _take_over(self, keep: bool, overwrite: bool) -> None:
        present = _numbered(self._folder, self._pattern)
        before = self._earlier_key()
        if keep and before == self._key:
            while self._path(self.resumed).name in present:
                self.resumed += 1
            self.frames = self.resumed
            return
        if present and not overwrite and before is None:
            raise MediaError(
                f"{shown(self._folder)} already holds pictures named {self._pattern}: use an empty folder."
            )
        for name in present:
            self._store.remove(os.fspath(self._folder / name))

    def _earlier_key(self) -> str | None:
        """The key of an interrupted run in the folder that wrote pictures of these names."""
        if not self._store.exists(os.fspath(self._job)):
            return None
        with self._store.open(os.fspath(self._job)) as file:
            key = file.read().decode()
        return key if key.startswith(f"{self._pattern}\n") else None

    @property
    def notices(self) -> tuple[str, ...]:
        if self._aspect == 1:
            return ()
        shape = f"{self._aspect.numerator}:{self._aspect.denominator}"
        return (f"The clip's pixels are {shape}, which the pictures do not state: they keep the clip's size.",)

    @property
    def settings(self) -> dict[str, object]:
        return {"codec": picture_format(self._pattern), "pattern": self._pattern}

    def write(self, frame: Frame[VideoOrigin]) -> None:
        if frame.pixels.shape != self._shape:
            raise ValueError(f"{self._folder} takes frames of shape {self._shape}, not {frame.pixels.shape}.")
        extras = PictureExtras(format="PNG", size=frame.pixels.shape[:2], alpha=frame.origin.alpha)
        job = partial(write_picture, self._path(self.frames), frame.pixels, extras, publish=put)
        self._jobs.append(self._pool.submit(job))
        self.frames += 1
        if len(self._jobs) > 2 * self._writers:
            self._jobs.popleft().result()

    def leave_out(self) -> None:
        with writing(shown(self._folder)):
            self._label(f"{self._pattern}\n{os.urandom(16).hex()}")

    def finish(self) -> None:
        try:
            while self._jobs:
                self._jobs.popleft().result()
            if not self.frames:
                raise MediaError(f"{shown(self._folder)} was not written: there were no frames.")
        finally:
            self.abort()
        self._store.remove(os.fspath(self._job))

    def abort(self) -> None:
        """Stops. The pictures so far stay: each is whole, and the next run resumes after them, or starts over."""
        end_pool(self._pool)
        self._jobs.clear()

    def _path(self, index: int) -> Path:
        return self._folder / _NUMBER.sub(lambda number: number[0] % (index + 1), self._pattern)


def _split(spec: str) -> tuple[Path, str]:
    path = Path(spec)
    return (path.parent, path.name) if _NUMBER.search(path.name) else (path, "%06d.png")


def _numbered(folder: Path, pattern: str) -> dict[str, int]:
    """The files that match a pattern, with their numbers."""
    match = _NUMBER.search(pattern)
    assert match is not None
    before, after = re.escape(pattern[: match.start()]), re.escape(pattern[match.end() :])
    expression = re.compile(f"{before}(\\d+){after}")
    names = store_of(folder).names(os.fspath(folder), pattern[: match.start()])
    return {name: int(found[1]) for name in names if (found := expression.fullmatch(name))}


def _listing(spec: str) -> list[Path | None]:
    """The pictures of a sequence in order, with None for missing numbers."""
    folder, pattern = _split(spec)
    if not folder.is_dir():
        raise UsageError(f"{spec} does not exist: there is no folder {folder}.")
    if _NUMBER.search(Path(spec).name):
        by_number = {number: folder / name for name, number in _numbered(folder, pattern).items()}
        paths = [by_number.get(number) for number in range(min(by_number), max(by_number) + 1)] if by_number else []
    else:
        names = [name for name in os.listdir(folder) if picture_format(name) and not name.startswith(".")]
        paths = [folder / name for name in sorted(names, key=_natural)]
    if not paths:
        raise MediaError(f"{spec} matches no pictures.{_for_videos(spec)}")
    return paths


def _for_videos(spec: str | os.PathLike[str]) -> str:
    """What to do if a folder was meant for the videos in it."""
    return " For the videos in it, name an output folder with -o." if os.path.isdir(spec) else ""


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``9.png`` before ``10.png``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
