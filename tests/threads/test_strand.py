"""Strands: order, one at a time, borrowed threads, and what becomes of the rest."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator

import pytest

from treadle.threads import LoopClosed, StepThreads, StopTimeout, Strand

PATIENCE = 20.0


@pytest.fixture
def threads() -> Iterator[StepThreads]:
    """A pool whose idle threads end with the test."""
    pool = StepThreads(permits=1, name='strand-test', kind='job')
    yield pool
    pool.stop(PATIENCE)


class Gate:
    """Holds whoever handles something until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.seen: list[object] = []

    def __call__(self, item: object) -> None:
        self.entered.set()
        assert self.opened.wait(PATIENCE)
        self.seen.append(item)


def test_items_are_handled_in_order_one_at_a_time(threads):
    seen, busy = [], threading.Lock()

    def handle(item):
        assert busy.acquire(blocking=False), 'two at once'
        seen.append(item)
        busy.release()

    strand = Strand(handle, threads, name='ordered')
    posters = [
        threading.Thread(target=lambda who=who: [strand.post((who, n)) for n in range(500)]) for who in range(8)
    ]
    for poster in posters:
        poster.start()
    for poster in posters:
        poster.join()
    strand.refuse()
    threads.stop(PATIENCE)
    assert len(seen) == 4000
    for who in range(8):
        assert [n for w, n in seen if w == who] == list(range(500))


def test_strands_do_not_wait_for_each_other_nor_for_permits(threads):
    gate, done = Gate(), queue.SimpleQueue()
    slow, quick = Strand(gate, threads, name='slow'), Strand(done.put, threads, name='quick')
    slow.post(1)
    assert gate.entered.wait(PATIENCE)
    quick.post(2)
    assert done.get(timeout=PATIENCE) == 2
    gate.opened.set()
    threads.stop(PATIENCE)
    assert gate.seen == [1], 'stopping the pool waits for what was accepted'


def test_what_is_raised_is_logged_and_the_next_one_is_handled(threads, caplog):
    done = queue.SimpleQueue()

    def handle(item):
        if isinstance(item, BaseException):
            raise item
        done.put(item)

    strand = Strand(handle, threads, name='fragile')
    for item in (ValueError('odd'), SystemExit(3), 'next'):
        strand.post(item)
    assert done.get(timeout=PATIENCE) == 'next'
    assert [record.exc_info[0] for record in caplog.records] == [ValueError, SystemExit]


def test_drop_hands_back_what_has_not_begun(threads):
    gate = Gate()
    strand = Strand(gate, threads, name='dropped')
    for item in range(5):
        strand.post(item)
    assert gate.entered.wait(PATIENCE)
    assert strand.drop() == [1, 2, 3, 4]
    with pytest.raises(LoopClosed, match='dropped takes nothing more'):
        strand.post(5)
    with pytest.raises(StopTimeout, match=r"1 job.s. did not end within 0.01 s: 'strand-test-1' is at"):
        threads.stop(0.01)
    gate.opened.set()
    threads.stop(PATIENCE)
    assert gate.seen == [0]


def test_every_item_is_handled_or_handed_back_or_refused(threads):
    seen: list[int] = []
    strand = Strand(seen.append, threads, name='raced')
    accepted = 0
    begun = threading.Event()

    def post() -> None:
        nonlocal accepted
        for number in range(100_000):
            try:
                strand.post(number)
            except LoopClosed:
                return
            accepted += 1
            begun.set()

    poster = threading.Thread(target=post)
    poster.start()
    assert begun.wait(PATIENCE)
    left = strand.drop()
    poster.join(PATIENCE)
    threads.stop(PATIENCE)
    assert len(seen) + len(left) == accepted
    assert [*seen, *left] == list(range(accepted))


def test_no_thread_while_there_is_nothing_to_do_and_a_pool_that_has_stopped_refuses(caplog):
    before = threading.active_count()
    pool = StepThreads(permits=1, name='strand-test')
    strand = Strand(logging.info, pool, name='idle')
    assert threading.active_count() == before
    pool.stop(PATIENCE)
    with pytest.raises(LoopClosed):
        strand.post('late')
    assert len(strand) == 0
