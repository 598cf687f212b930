"""The gallery of a folder: a grid of before and after, written while the job runs."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cgpipe.errors import MediaError
from cgpipe.pages.page import Page, is_there, readable
from cgpipe.storage import LOCAL, Stamp, shown, store_of
from cgpipe.threads import end_pool

DRAWERS = max(1, (os.cpu_count() or 1) // 2)
"""Threads that draw thumbnails."""

WAITING = 32
"""Most pictures that wait to be drawn before the job waits, so that memory does not grow."""

EVERY_SECONDS = 5.0
"""Seconds between writes of the page while the job runs."""

SHARE = 20
"""Most of the time that writing the page may take, as a fraction: a page of 100,000 pictures is written less often."""


FAILED = ("failed", "unsupported")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A picture and its translation, as a job reports them.

    Args:
        before, after: the files; ``after`` is ignored for one that failed.
        status: ``translated``, ``skipped``, ``failed`` or ``unsupported``.
        reason: why it failed.
        decode_seconds, encode_seconds: time spent reading and writing.
        notes: content that the translation lacks.
    """

    before: Path
    after: Path
    status: str
    reason: str = ""
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def is_there(self) -> bool:
        """Whether there is a translation."""
        return self.status in ("translated", "skipped")


Entry = dict[str, Any]
"""A pair on the page: name, status, reason, width, height, change, the addresses (a before, b after), thumbnail, which
of the two there are (x, y), which have a larger picture (l), seconds (d, e), notes (o)."""


class Gallery:
    """A page of pairs, written every few seconds and at the end, so that a killed job leaves a page too.

    Existing pairs of an earlier page of this name stay on it; only thumbnails of changed files are drawn again.

    Args:
        page: its path.
        title: of the page.
        lead: one line below it.
        roots: output folders, relative to which names are shown.
        total: number of pairs.

    Raises:
        UsageError: a file or folder that cgpipe did not make is in the page's place.
        MediaError: it cannot be written, at the start or at the end.
    """

    def __init__(self, page: Page, *, title: str, lead: str, roots: Sequence[Path], total: int) -> None:
        page.claim()
        self.page = page
        self._title, self._lead = title, lead
        self._roots = [os.path.abspath(root) for root in roots]
        self._total = total
        self._earlier = {entry["b"]: entry for entry in _entries_of(page.data())}
        self._entries: dict[str, Entry] = {}
        self._threads = ThreadPoolExecutor(DRAWERS, thread_name_prefix="cgpipe-page")
        self._drawing: deque[Future[Entry]] = deque()
        self._next = time.monotonic() + EVERY_SECONDS
        self._tables: list[tuple[str, list[tuple[str, str]]]] = []
        self._trouble: MediaError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._take(0)
        finally:
            end_pool(self._threads)
        self._write(done=error is None)
        self._sweep()
        if error is None and self._trouble is not None:
            raise self._trouble

    def add(self, pair: Pair) -> None:
        """Adds a pair. Errors of writing the page are raised at the end: they must not stop the job."""
        self._drawing.append(self._threads.submit(self._drawn, pair))
        self._take(WAITING)
        if time.monotonic() >= self._next:
            began = time.monotonic()
            self._write(done=False)
            self._next = time.monotonic() + max(EVERY_SECONDS, SHARE * (time.monotonic() - began))

    def conclude(self, tables: Mapping[str, list[tuple[str, str]]]) -> None:
        """Adds the summary of the job: rows of names and values, by heading."""
        self._tables = list(tables.items())

    def _take(self, most: int) -> None:
        while len(self._drawing) > most:
            entry = self._drawing.popleft().result()
            self._earlier.pop(entry["b"], None)
            self._entries[entry["b"]] = entry

    # -- one pair ------------------------------------------------------------------------------------------------------

    def _drawn(self, pair: Pair) -> Entry:
        thumbnail = _thumbnail_name(pair)
        entry: Entry = {
            "n": self._name_of(pair.after if pair.is_there else pair.before, pair.is_there),
            "s": pair.status,
            "r": readable(pair.reason),
            "a": self.page.address(pair.before),
            "b": self.page.address(pair.after),
            "t": thumbnail,
            "d": round(pair.decode_seconds, 4),
            "e": round(pair.encode_seconds, 4),
            "o": list(pair.notes),
        }
        known = self._earlier.get(entry["b"])
        if known is not None and known["t"] == thumbnail and self._are_there(known):
            return known if pair.status == "skipped" else known | entry
        return entry | self._draw(pair, thumbnail)

    def _draw(self, pair: Pair, thumbnail: str) -> Entry:
        """Writes the thumbnails, and returns the entry: what exists, the size, and the amount of change."""
        from cgpipe.pages.thumbnails import (  # which takes seconds; a job with nothing to do needs none
            change,
            save,
            see,
        )

        seen = {"before": pair.before} | ({"after": pair.after} if pair.is_there else {})
        small, large, size = {}, "", (0, 0)
        for which, path in seen.items():
            with suppress(Exception):  # a damaged picture, of which decoders raise nearly anything, has no thumbnail
                found = see(path)
                save(self.page.files / f"{thumbnail}-{which}.jpg", found.small)
                if found.large is not None:
                    save(self.page.files / f"{thumbnail}-{which}-large.jpg", found.large)
                    large += which[0]
                small[which], size = found.small, (found.height, found.width)
        changed = round(change(small["before"], small["after"]), 2) if len(small) == 2 else None
        there = {"x": int("before" in small), "y": int("after" in small)}
        return {"h": size[0], "w": size[1], "c": changed, "l": large, **there}

    def _are_there(self, entry: Entry) -> bool:
        names = [which for which, key in (("before", "x"), ("after", "y")) if entry[key]]
        return bool(names) and all((self.page.files / f"{entry['t']}-{which}.jpg").is_file() for which in names)

    def _name_of(self, path: Path, made: bool) -> str:
        absolute = os.path.abspath(path)  # of roots too; a remote path has no other use for it
        if made and len(self._roots) == 1 and absolute.startswith(os.path.join(self._roots[0], "")):
            return readable(os.path.relpath(absolute, self._roots[0]))
        if store_of(path) is not LOCAL:
            return readable(shown(path))
        return readable(os.path.relpath(absolute, self.page.path.parent))

    # -- the page ------------------------------------------------------------------------------------------------------

    def _write(self, *, done: bool) -> None:
        self._earlier = {place: entry for place, entry in self._earlier.items() if self._still_stands(entry, done)}
        entries = [*self._entries.values(), *self._earlier.values()]
        failed = sum(entry["s"] in FAILED for entry in entries)
        counts = f"{len(entries) - failed:,} translated" + (f", {failed:,} failed" if failed else "")
        unfinished = (
            f"Written while the job ran: {len(self._entries):,} of {self._total:,} pictures were done. Run the same "
            "command again, and the page shows all."
        )
        try:
            self.page.write(
                "gallery.html",
                title=self._title,
                lead=f"{self._lead} · {counts}",
                notice="" if done else unfinished,
                tables=self._tables,
                data={"files": f"{self.page.address(self.page.files)}/", "entries": entries},
            )
        except MediaError as error:
            self._trouble = error

    def _still_stands(self, entry: Entry, done: bool) -> bool:
        """Whether the files of an earlier entry still exist, so that it stays on the page.

        Those of remote pictures, each of which may cost a request, are looked for once the job is done.
        """
        url = entry["a" if entry["s"] in FAILED else "b"]
        return (not done and not url.startswith(".")) or is_there(url, self.page.path.parent)

    def _sweep(self) -> None:
        """Removes thumbnails that are no longer on the page."""
        used = {entry["t"] for entry in (*self._entries.values(), *self._earlier.values())}
        for path in self.page.files.glob("*.jpg"):
            name, _, which = path.stem.partition("-")
            if which and len(name) == _DIGITS and name not in used:
                path.unlink(missing_ok=True)


def _entries_of(data: Mapping[str, Any]) -> list[Entry]:
    """The valid entries of an earlier page."""
    found = data.get("entries")
    wanted = {"n", "s", "r", "a", "b", "t", "d", "e", "o", "h", "w", "c", "l", "x", "y"}
    entries = found if isinstance(found, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and entry.keys() == wanted]


_DIGITS = 20


def _thumbnail_name(pair: Pair) -> str:
    """A name that changes with either file, so that an old thumbnail is never shown for a new picture."""
    text = os.fsencode(pair.after) + b"\0" + pair.status.replace("skipped", "translated").encode()
    for path in (pair.before, pair.after):
        with suppress(OSError):
            text += repr(tuple(Stamp.of(path))).encode()
    return blake2b(text, digest_size=_DIGITS // 2).hexdigest()
