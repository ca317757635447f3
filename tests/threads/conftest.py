"""Every test here leaves no thread and no complaint of asyncio behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support import leaks
from treadle.threads import LoopThread

no_leaked_threads = leaks.no_leaked_threads
quiet_asyncio = leaks.quiet_asyncio


@pytest.fixture
def loop_thread(no_leaked_threads: None) -> Iterator[LoopThread]:
    """A running loop thread in debug mode, stopped after the test."""
    thread = LoopThread('treadle-worker-1', debug=True)
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def make_thread(no_leaked_threads: None) -> Iterator[Callable[..., LoopThread]]:
    """Makes loop threads, and ends those that still run after the test; crashes are the test's to look at."""
    made: list[LoopThread] = []

    def make(name: str = 'treadle-worker-1', **kwargs: object) -> LoopThread:
        thread = LoopThread(name, **kwargs)  # type: ignore[arg-type]
        made.append(thread)
        return thread

    yield make
    for thread in made:
        thread.request_stop()
    for thread in made:
        thread.thread.join(5) if thread.thread.ident is not None else None
