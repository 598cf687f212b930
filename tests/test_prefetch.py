"""A pipeline stage in its own thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from cgpipe.engine.prefetch import prefetch


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("cgpipe")]


def test_order_is_kept() -> None:
    assert list(prefetch(range(100), 4)) == list(range(100))
    assert threads() == []


def test_it_works_ahead_but_within_its_depth() -> None:
    made: list[int] = []
    reached = threading.Event()

    def source() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 4:
                reached.set()
            yield number

    with closing(prefetch(source(), 3)) as items:
        assert next(items) == 0
        # One is taken, three are in the queue, and one more is in the thread's hand.
        assert reached.wait(10)
        assert not threading.Event().wait(0.3)
        assert len(made) == 5


def test_an_error_in_the_thread_is_raised_by_the_reader_after_what_came_before() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("disk on fire")

    items = prefetch(source(), 4)
    assert next(items) == 1
    with pytest.raises(OSError, match="disk on fire"):
        next(items)
    assert threads() == []


def test_closing_early_ends_the_thread_and_closes_the_source() -> None:
    closed_in: list[str] = []

    def source() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed_in.append(threading.current_thread().name)

    with closing(prefetch(source(), 2)) as items:
        assert next(items) == 0
    assert closed_in == ["cgpipe-prefetch"]
    assert threads() == []


def test_stages_that_follow_one_another_end_together() -> None:
    with closing(prefetch(prefetch(prefetch(iter(range(1000)), 2), 2), 2)) as items:
        assert next(items) == 0
    assert threads() == []
