"""Threads that are ended while signals come: real signals, sent by the threads themselves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cgpipe.engine.prefetch import prefetch
from cgpipe.threads import end_pool, end_thread, signals_deferred


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def interrupted(ended: list[str]) -> None:
    time.sleep(0.1)  # until the main thread waits
    send(signal.SIGINT)
    time.sleep(0.2)
    ended.append("thread")


def in_thread(ended: list[str]) -> None:
    thread = threading.Thread(target=interrupted, args=(ended,))
    thread.start()
    end_thread(thread)


def in_pool(ended: list[str]) -> None:
    pool = ThreadPoolExecutor(1)
    pool.submit(interrupted, ended)
    end_pool(pool)


def in_prefetch(ended: list[str]) -> None:
    def items() -> Iterator[int]:
        yield 1
        interrupted(ended)

    ready = prefetch(items(), 1)
    assert next(ready) == 1
    ready.close()


@pytest.mark.parametrize("wait", [in_thread, in_pool, in_prefetch])
def test_ctrl_c_waits_until_a_thread_has_ended(wait: Callable[[list[str]], None]) -> None:
    ended: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        wait(ended)
    assert ended == ["thread"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_does_not_wait() -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), signals_deferred():
        send(signal.SIGINT)
        send(signal.SIGINT)
        reached = True
    assert not reached


def test_a_signal_that_only_asks_to_stop_is_heard() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with signals_deferred():
            send(signal.SIGTERM)
            assert not heard
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_that_are_ignored_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_deferred():
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
