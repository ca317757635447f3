from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from treadle.threads import LoopThread, StartFailed, Watchdog

Make = Callable[..., LoopThread]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Held:
    """A loop that is held until released."""

    def __init__(self, thread: LoopThread) -> None:
        self.thread = thread
        self.release = threading.Event()
        begun = threading.Event()

        def hold_the_loop() -> None:
            begun.set()
            self.release.wait(30)

        thread.bridge.post(hold_the_loop)
        assert begun.wait(20)

    def end(self) -> None:
        self.release.set()
        self.thread.bridge.call(int).result(20)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == 'treadle.threads.watchdog']


def test_it_names_who_holds_a_loop_once_and_its_release(
    loop_thread: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    watchdog = Watchdog([loop_thread], threshold=1.0, clock=clock)
    watchdog.check()
    loop_thread.bridge.call(int).result(5)
    held = Held(loop_thread)
    watchdog.check()  # the last ping was answered; the next one is not
    clock.now += 0.9
    watchdog.check()
    assert messages(caplog) == []
    clock.now += 0.6
    watchdog.check()
    clock.now += 5
    watchdog.check()
    assert len(messages(caplog)) == 1
    assert caplog.records[-1].levelno == logging.WARNING
    assert messages(caplog)[0].startswith('treadle-worker-1 has been held for 1.5 s, by ')
    assert 'hold_the_loop' in messages(caplog)[0]
    held.end()
    watchdog.check()
    assert messages(caplog)[1] == 'treadle-worker-1 comes round again; it was held for 6.5 s'
    loop_thread.bridge.call(int).result(5)
    held = Held(loop_thread)
    watchdog.check()
    clock.now += 2
    watchdog.check()
    assert len(messages(caplog)) == 3
    held.end()


def test_it_is_silent_about_a_loop_that_comes_round(
    loop_thread: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    watchdog = Watchdog([loop_thread], clock=clock)
    for _ in range(10):
        watchdog.check()
        loop_thread.bridge.call(int).result(5)
        clock.now += 10
    assert messages(caplog) == []


def test_threads_come_and_go(make_thread: Make) -> None:
    thread = make_thread()
    watchdog = Watchdog()
    watchdog.watch(thread)
    watchdog.check()
    thread.start()
    watchdog.check()
    assert repr(watchdog) == '<Watchdog of 1 loops, threshold 1 s>'
    thread.stop()
    watchdog.check()
    watchdog.check()
    assert repr(watchdog) == '<Watchdog of 0 loops, threshold 1 s>'
    watchdog.watch(thread)
    watchdog.unwatch(thread)
    assert repr(watchdog) == '<Watchdog of 0 loops, threshold 1 s>'


def test_its_own_thread_reports_in_time(loop_thread: LoopThread) -> None:
    reported = threading.Semaphore(0)
    told: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # On a busy machine the loop may seem to be held before.
            if told or 'hold_the_loop' in record.getMessage():
                told.append(record.getMessage())
                reported.release()

    handler = Handler()
    logger = logging.getLogger('treadle.threads.watchdog')
    logger.addHandler(handler)
    watchdog = Watchdog([loop_thread], threshold=0.05)
    watchdog.start()
    try:
        held = Held(loop_thread)
        assert reported.acquire(timeout=20)
        held.end()
        assert reported.acquire(timeout=20)
    finally:
        watchdog.stop()
        logger.removeHandler(handler)
    assert 'hold_the_loop' in told[0]
    assert 'comes round again' in told[1]


def test_misuse() -> None:
    with pytest.raises(ValueError, match='threshold'):
        Watchdog(threshold=0)
    watchdog = Watchdog()
    watchdog.stop()
    watchdog.start()
    with pytest.raises(StartFailed, match='create another'):
        watchdog.start()
    watchdog.stop()
    watchdog.stop()
