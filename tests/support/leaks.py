"""Fixtures that fail a test which leaves something behind: threads, or what asyncio complains about.

A `conftest.py` that wants them imports the fixtures by name; they are autouse.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import pytest

#: Seconds that the threads which are ending get to do so, all together.
GRACE = 20.0


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fail when threads that the test started still run after it, and show their stacks."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    deadline = time.monotonic() + GRACE
    for thread in left:
        if not isinstance(thread, threading._DummyThread):
            thread.join(max(0.0, deadline - time.monotonic()))
    frames = sys._current_frames()
    stacks = [
        f'{thread.name}:\n{"".join(traceback.format_stack(frames[thread.ident]))}'
        for thread in left
        if thread.is_alive() and thread.ident in frames
    ]
    if stacks:
        pytest.fail('threads left behind:\n' + '\n'.join(stacks), pytrace=False)


@pytest.fixture(autouse=True)
def quiet_asyncio(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail when asyncio logs an error that the test did not expect: pending tasks, lost exceptions.

    A test that provokes such a record clears it with `caplog.clear()` after looking at it.
    """
    with caplog.at_level(logging.INFO, logger='asyncio'):
        yield
        gc.collect()  # pending tasks and lost exceptions are reported when they are collected
        records = [
            record.getMessage()
            for record in caplog.get_records('call')
            if record.name == 'asyncio' and record.levelno >= logging.ERROR
        ]
    if records:
        pytest.fail('asyncio complains:\n' + '\n'.join(records), pytrace=False)
