"""A job that is asked for often: never twice at once, and never forgotten."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from treadle.threads import SingleFlight, StepThreads

PATIENCE = 20.0


@pytest.fixture
def threads() -> Iterator[StepThreads]:
    threads = StepThreads(permits=1)
    yield threads
    threads.stop(PATIENCE)


def test_what_is_asked_for_while_it_runs_leads_to_one_more_run(threads: StepThreads) -> None:
    begun, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def job() -> None:
        begun.release()
        assert go_on.acquire(timeout=PATIENCE)

    flight = SingleFlight(job, threads, name='job')
    flight.ask()
    assert begun.acquire(timeout=PATIENCE)
    for _ in range(10):
        flight.ask()
    go_on.release()
    assert begun.acquire(timeout=PATIENCE), 'once more'
    go_on.release()
    threads.stop(PATIENCE)
    assert not begun.acquire(blocking=False), 'and not more often'


def test_after_each_ask_it_begins_once_more_and_it_never_runs_twice_at_once(threads: StepThreads) -> None:
    wanted, seen = 0, 0
    running = threading.Lock()
    changed = threading.Condition()

    def job() -> None:
        nonlocal seen
        assert running.acquire(blocking=False), 'it runs already'
        with changed:
            seen = wanted
            changed.notify_all()
        running.release()

    flight = SingleFlight(job, threads, name='job')

    def ask(seed: int) -> None:
        nonlocal wanted
        chance = random.Random(seed)
        for _ in range(500):
            with changed:
                wanted += 1
            flight.ask()
            if chance.random() < 0.1:
                with changed:
                    assert changed.wait_for(lambda mine=wanted: seen >= mine, PATIENCE)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    with changed:
        assert changed.wait_for(lambda: seen == wanted, PATIENCE)


def test_a_failure_is_logged_and_the_next_run_comes(threads: StepThreads, caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Semaphore(0)

    def job() -> None:
        done.release()
        raise SystemExit('as a module may that is imported')

    flight = SingleFlight(job, threads, name='the search')
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            flight.ask()
            assert done.acquire(timeout=PATIENCE)
        threads.stop(PATIENCE)
    assert caplog.text.count('the search failed') == 2


def test_it_is_quiet_when_the_pool_has_stopped(threads: StepThreads) -> None:
    flight = SingleFlight(lambda: None, threads, name='job')
    threads.stop(PATIENCE)
    flight.ask()
    flight.ask()
