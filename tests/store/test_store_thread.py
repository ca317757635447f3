"""Group commit, failures that stay with whom they belong to, and answers that always come."""

from __future__ import annotations

import functools
import sqlite3
import threading
from typing import Any

import pytest

from treadle.engine.errors import EngineStopped, KeyConflict, StoreFull, StoreReadOnly, StoreUnavailable
from treadle.engine.faults import FaultPoint
from treadle.engine.pids import PidBlocks
from treadle.engine.store import intents, store_thread
from treadle.engine.store.postgresql import database as postgresql_database
from treadle.engine.store.records import Advance, Held, Lost, Unit
from treadle.engine.store.sqlite import database as sqlite_database
from treadle.engine.store.sqlite.connection import begin_writing
from treadle.engine.testing import BlockAt, RaiseAt

# -- batches -------------------------------------------------------------------------------------------------


def test_what_arrives_together_is_committed_together(rig: Any) -> None:
    before = rig.store.batches
    verdicts = rig.together(*(Unit(create=(rig.record(),)) for _ in range(500)))
    assert len(verdicts) == 500 and all(isinstance(verdict, Held) for verdict in verdicts)
    assert rig.store.batches - before == 2  # the gate, and the 500 behind it


def test_an_answer_means_durable(rigs: Any, store_url: str) -> None:
    with BlockAt(FaultPoint.BATCH_WRITTEN, hit=2) as block, rigs.Rig(store_url, faults=block) as rig:
        future = rig.store.commit(Unit(create=(rig.record(),)))
        block.wait_reached()
        assert not future.done() and rig.reader.query() == []
        block.release()
        assert isinstance(future.result(20), Held)
        assert len(rig.reader.query()) == 1


@pytest.mark.parametrize('position', [0, 37, 99])
def test_one_failing_unit_in_a_hundred_fails_alone(rig: Any, rigs: Any, position: int) -> None:
    rig.commit(Unit(create=(rig.record(key='taken', fingerprint='f'),)))
    fences = [rig.running() for _ in range(100)]
    calls = [{'parent': fence.pid, 'call_visit': 0, 'call_number': 0} for fence in fences]
    units = [rigs.finish(fence, create=(rig.record(**call),)) for fence, call in zip(fences, calls, strict=True)]
    conflicting = rig.record(key='taken', fingerprint='other', **calls[position])
    units[position] = rigs.finish(fences[position], create=(conflicting,))
    answers = rig.together(*units)
    assert isinstance(answers[position], KeyConflict)
    assert all(isinstance(answer, Held) for number, answer in enumerate(answers) if number != position)
    states = [rig.row(fence.pid).state for fence in fences]
    assert states.count('finished') == 99 and states[position] == 'running'
    assert rig.reader.children(fences[position].pid) == []


def test_an_operation_that_raises_fails_alone_and_lets_nothing_through(rig: Any) -> None:
    def half(transaction: Any) -> None:
        transaction.reserve_pids(1000)
        raise ZeroDivisionError('in the middle')

    first, error, second = rig.together(
        lambda transaction: transaction.reserve_pids(1), half, lambda transaction: transaction.reserve_pids(1)
    )
    assert isinstance(error, ZeroDivisionError)
    assert second - first == 1


def test_operations_are_written_in_the_order_of_their_posting(rig: Any, rigs: Any) -> None:
    fence = rig.running()
    answers = rig.together(
        rigs.proceed(fence),
        lambda transaction: intents.kill(transaction, [fence.pid], 'between'),
        Unit(fence=rigs.Fence(fence.pid, 1, 1), advance=Advance('running', 2)),
    )
    assert isinstance(answers[0], Held) and answers[1] == [fence.pid] and isinstance(answers[2], Lost)


def test_changes_are_told_after_the_commit_and_only_those_that_hold(rig: Any, rigs: Any) -> None:
    fence = rig.running()
    rig.told.clear()
    rig.commit(rigs.proceed(rigs.Fence(fence.pid, 9, 9)))
    assert rig.told == []
    rig.commit(rigs.finish(fence))
    assert [(change.pid, change.after) for change in rig.told] == [(fence.pid, 'finished')]


def test_an_error_at_the_commit_is_no_verdict(rigs: Any, store_url: str) -> None:
    faults = RaiseAt(FaultPoint.BATCH_WRITTEN, lambda: OSError('the disk hiccups'), hit=3)
    with rigs.Rig(store_url, faults=faults) as rig:
        fence = rig.running()
        with pytest.raises(OSError, match='hiccups'):
            rig.commit(rigs.proceed(fence))
        assert rig.row(fence.pid).visit == 0
        assert isinstance(rig.commit(rigs.proceed(fence)), Held)


# -- answers ---------------------------------------------------------------------------------------------------


def test_each_answer_comes_once_while_the_thread_is_stopped_under_load(rigs: Any, store_url: str) -> None:
    answers: list[Any] = []
    accepted = 0
    refused = 0
    counting = threading.Lock()
    going = threading.Barrier(9)
    with rigs.Rig(store_url) as rig:

        def post(number: int) -> None:
            nonlocal accepted, refused
            going.wait(20)
            for step in range(300):
                unit = Unit(create=(rigs.process_record(1 + number * 1000 + step),))
                try:
                    rig.store.post(unit, answers.append)
                except EngineStopped:
                    with counting:
                        refused += 1
                else:
                    with counting:
                        accepted += 1

        threads = [threading.Thread(target=post, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        going.wait(20)
        rig.store.stop(20)
        for thread in threads:
            thread.join()
        rows = len(rig.reader.query())
    assert accepted + refused == 8 * 300
    assert len(answers) == accepted == rows
    assert all(isinstance(answer, Held) for answer in answers)


def test_stop_writes_what_was_accepted(rigs: Any, store_url: str) -> None:
    with BlockAt(FaultPoint.BATCH_BEGUN, hit=2) as block, rigs.Rig(store_url, faults=block) as rig:
        rig.store.post(lambda transaction: None, lambda answer: None)
        block.wait_reached()
        futures = [rig.store.commit(Unit(create=(rig.record(),))) for _ in range(50)]
        rig.store.request_stop()
        with pytest.raises(EngineStopped):
            rig.store.commit(Unit(create=(rig.record(),)))
        block.release()
        rig.store.stop(20)
        assert all(isinstance(future.result(0), Held) for future in futures)
        assert len(rig.reader.query()) == 50


@pytest.mark.parametrize('failing', ['single', 'whole', 'one-by-one'])
def test_when_the_thread_dies_everything_accepted_is_answered(rigs: Any, store_url: str, failing: str) -> None:
    crashes: list[BaseException] = []
    crashed = threading.Event()

    def on_crash(error: BaseException) -> None:
        crashes.append(error)
        crashed.set()

    rig = rigs.Rig(store_url, on_crash=on_crash)
    with rig:
        rig.commit(Unit(create=(rig.record(key='taken', fingerprint='f'),)))
        rig.listener_error = RuntimeError('nobody can be told')
        gate = rig.gate()
        units = [Unit(create=(rig.record(),)) for _ in range(1 if failing == 'single' else 5)]
        if failing == 'one-by-one':
            units.insert(0, Unit(create=(rig.record(key='taken', fingerprint='other'),)))
        futures = [rig.store.commit(unit) for unit in units]
        gate.set()
        assert crashed.wait(20)
        for future in futures:
            assert future.done()
        kinds = [type(future.exception()) for future in futures]
        if failing == 'one-by-one':
            # The conflict, the one that was committed and told, and the rest, which was never written.
            assert kinds == [KeyConflict, type(None), *[EngineStopped] * 4]
        with pytest.raises(EngineStopped):
            rig.store.commit(units[0])
    assert [str(error) for error in crashes] == ['nobody can be told']


def test_a_tick_that_fails_ends_nothing(rigs: Any, store_url: str) -> None:
    ticked = threading.Event()

    def tick() -> None:
        ticked.set()
        raise sqlite3.OperationalError('disk I/O error')

    with rigs.Rig(store_url, tick=tick, tick_interval=0.001) as rig:
        assert ticked.wait(20)
        assert isinstance(rig.commit(Unit(create=(rig.record(),))), Held)


def test_a_reply_that_raises_is_the_posters_own_affair(rig: Any) -> None:
    def reply(answer: Any) -> None:
        raise ZeroDivisionError('of the reply')

    rig.store.post(lambda transaction: 1, reply)
    assert rig.do(lambda transaction: 2) == 2


# -- other connections -------------------------------------------------------------------------------------------


def test_it_waits_while_another_connection_holds_the_lock(rig: Any, rigs: Any) -> None:
    fence = rig.running()
    with rig.holding(fence.pid):
        future = rig.store.commit(rigs.proceed(fence))
        # Whatever else needs the same lock waits in the queue, and readers do not wait at all.
        futures = [rig.store.commit(Unit(create=(rig.record(),))) for _ in range(20)]
        assert rig.row(fence.pid).visit == 0
        assert not future.done()
    assert isinstance(future.result(20), Held)
    assert all(isinstance(each.result(20), Held) for each in futures)


def test_a_lock_that_is_never_given_back_fails_what_needs_it(
    rigs: Any, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_thread, 'BUSY_PATIENCE', 0.0)
    monkeypatch.setattr(sqlite_database, 'begin_writing', functools.partial(begin_writing, patience=0.02))
    monkeypatch.setattr(postgresql_database, 'LOCK_SHARE', 0.0)
    with rigs.Rig(store_url) as rig:
        fence = rig.running()
        with rig.holding(fence.pid):
            answers = [rig.store.commit(rigs.proceed(fence)) for _ in range(10)]
            errors = [future.exception(20) for future in answers]
        assert all(isinstance(error, StoreUnavailable) for error in errors)
        assert 'another program' in str(errors[0])
        assert isinstance(rig.commit(rigs.proceed(fence)), Held)


def test_a_reader_does_not_wait_for_a_writing_transaction(rigs: Any, store_url: str) -> None:
    with BlockAt(FaultPoint.BATCH_WRITTEN, hit=3) as block, rigs.Rig(store_url, faults=block) as rig:
        fence = rig.running()
        future = rig.store.commit(rigs.finish(fence))
        block.wait_reached()  # written, with the lock held, and not committed
        assert rig.row(fence.pid).state == 'running'
        assert rig.reader.query() and not future.done()
        block.release()
        future.result(20)
        assert rig.row(fence.pid).state == 'finished'


@pytest.mark.parametrize('store_url', ['sqlite'], indirect=True)
def test_a_read_only_connection_says_so(rig: Any, rigs: Any) -> None:
    fence = rig.running()
    rig.do(lambda transaction: transaction.cursor.execute('PRAGMA query_only = ON').fetchall())
    with pytest.raises(StoreReadOnly, match='make it and its folder writable'):
        rig.commit(rigs.proceed(fence))
    assert rig.row(fence.pid).visit == 0


# -- pids ----------------------------------------------------------------------------------------------------------


def test_pids_are_unique_under_16_threads_and_two_engines(rigs: Any, store_url: str) -> None:
    taken: list[list[int]] = [[] for _ in range(16)]
    with rigs.Rig(store_url) as one, rigs.Rig(store_url) as two:
        blocks = [PidBlocks(one.store), PidBlocks(two.store)]
        start = threading.Barrier(16)

        def take(number: int) -> None:
            start.wait(20)
            taken[number] = [blocks[number % 2].take() for _ in range(500)]

        threads = [threading.Thread(target=take, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    pids = [pid for part in taken for pid in part]
    assert len(pids) == len(set(pids)) == 16 * 500
    assert min(pids) >= 1


def test_a_block_of_pids_that_could_not_be_had_ahead_of_time_is_asked_for_again(rigs: Any, store_url: str) -> None:
    faults = RaiseAt(FaultPoint.BATCH_BEGUN, lambda: StoreFull('no room for the moment'), hit=3)
    with rigs.Rig(store_url, faults=faults) as rig:
        pids = PidBlocks(rig.store)
        taken = [pids.take() for _ in range(12)]
        rig.do(lambda transaction: None)  # by now the next block has been asked for, in vain
        assert faults.hits >= 3
        taken += [pids.take() for _ in range(100)]
    assert taken == sorted(set(taken))
