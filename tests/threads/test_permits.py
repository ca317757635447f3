"""Step threads when no thread can be started; within an engine: ``tests/engine/test_permits.py``."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from treadle.threads import StartFailed
from treadle.threads.permits import StepThreads


@pytest.fixture
def steps(no_leaked_threads: None) -> Iterator[StepThreads]:
    made = StepThreads(permits=2)
    yield made
    made.stop(5)


@pytest.fixture
def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Call ``setattr`` to refuse, as Python does at its end and the system when there are too many."""
    with monkeypatch.context() as patch:
        yield patch


def refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize('beside', [False, True])
def test_a_job_waits_for_a_busy_thread(
    steps: StepThreads, refuse_threads: pytest.MonkeyPatch, beside: bool
) -> None:
    busy, go, ran = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        busy.set()
        go.wait(5)

    (steps.post_beside if beside else steps.post)(job)
    assert busy.wait(5)
    refuse_threads.setattr(threading.Thread, 'start', refuse)
    steps.post(ran.set)
    assert not ran.is_set()
    go.set()
    assert ran.wait(5)


def test_a_job_that_no_thread_would_take_is_refused(
    steps: StepThreads, refuse_threads: pytest.MonkeyPatch
) -> None:
    blocked, go, ran = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        with steps.blocked():
            blocked.set()
            go.wait(5)

    steps.post(job)
    assert blocked.wait(5)
    refuse_threads.setattr(threading.Thread, 'start', refuse)
    with pytest.raises(StartFailed, match="can't start new thread"):
        steps.post(ran.set)
    go.set()
    steps.stop(5)
    assert not ran.is_set()
