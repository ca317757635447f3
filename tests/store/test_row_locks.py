"""Two engines write at once, row by row: each order of what they do to one another, with nothing that mends it later.

No search for work runs here, so what is lost is lost. One engine has written and not committed; the other is seen to
wait for it before the first goes on.
"""

from __future__ import annotations

import random
import string
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import pytest

from treadle.engine import Engine
from treadle.engine.errors import KeyConflict, StoreError, StoreUnavailable, UnstorableValue
from treadle.engine.store import intents
from treadle.engine.store.engines import declare_dead, end_engine, release_all_but
from treadle.engine.store.job_records import JobRecord
from treadle.engine.store.jobs import begin_jobs, take_slots
from treadle.engine.store.postgresql.connection import connect
from treadle.engine.store.records import Held, Lost, Unit

PATIENCE = 30.0
#: So long that the server ends no transaction of these tests because it stands still.
LEASE = 240.0

STANDING = """SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND state = 'active'"""


@pytest.fixture
def one(rigs: Any, postgres_store: str) -> Iterator[Any]:
    with rigs.Rig(postgres_store, lease=LEASE) as rig:
        yield rig


@pytest.fixture
def two(rigs: Any, postgres_store: str, one: Any) -> Iterator[Any]:
    with rigs.Rig(postgres_store, lease=LEASE) as rig:
        rig._pids = one._pids
        yield rig


@pytest.fixture
def looking(postgres_store: str) -> Iterator[Callable[[], None]]:
    """Waits until a writer waits for another one's lock."""
    with psycopg.connect(postgres_store, autocommit=True) as connection:

        def look() -> None:
            deadline = time.monotonic() + PATIENCE
            while connection.execute(STANDING).fetchone() == (0,):
                assert time.monotonic() < deadline, 'nobody waits for a lock'
                time.sleep(0.005)

        yield look


@pytest.fixture
def after(looking: Callable[[], None]) -> Any:
    """``after(one, [a], two, b)``: ``b`` begins when ``a`` is written, and ends when it is committed; all answers."""

    @contextmanager
    def order(first: Any, written: list[Any], second: Any, *then: Any) -> Iterator[list[Future[Any]]]:
        with first.written(*written) as futures:
            later = [second.store.commit(each) if isinstance(each, Unit) else second.store.call(each) for each in then]
            looking()
            assert not any(each.done() for each in later)
            yield [*futures, *later]

    def run(first: Any, written: list[Any], second: Any, *then: Any) -> list[Any]:
        with order(first, written, second, *then) as futures:
            pass
        return [future.exception(PATIENCE) or future.result() for future in futures]

    return run


# -- waiting and ending ------------------------------------------------------------------------------------------------


def test_a_child_ends_while_its_parent_goes_to_wait(one: Any, two: Any, rigs: Any, after: Any) -> None:
    parent, child = one.running(), two.running()
    waits, ends = after(one, [rigs.await_(parent, child.pid)], two, rigs.finish(child))
    assert isinstance(waits, Held) and not waits.satisfied and isinstance(ends, Held)
    assert one.row(parent.pid).state == 'running' and one.awaiting() == set()


def test_a_parent_goes_to_wait_while_its_child_ends(one: Any, two: Any, rigs: Any, after: Any) -> None:
    parent, child = one.running(), two.running()
    _, waits = after(two, [rigs.finish(child)], one, rigs.await_(parent, child.pid))
    assert isinstance(waits, Held) and waits.satisfied
    assert one.row(parent.pid).state == 'running' and one.awaiting() == set()
    assert one.row(parent.pid).owner == one.engine_id


@pytest.mark.parametrize('ending', ['finished', 'killed'])
def test_two_children_that_end_at_once_wake_their_parent_once(
    one: Any, two: Any, rigs: Any, after: Any, ending: str
) -> None:
    parent, first, second = one.running(), one.running(), two.running()
    one.commit(rigs.await_(parent, first.pid, second.pid))

    def end(fence: Any) -> Any:
        if ending == 'finished':
            return rigs.finish(fence)
        return lambda transaction: intents.kill(transaction, [fence.pid], 'no more')

    two.admitting = True
    after(one, [end(first)], two, end(second))
    assert one.row(parent.pid).state == 'running' and one.awaiting() == set()
    told = [(change.pid, change.before, change.after) for rig in (one, two) for change in rig.told]
    assert told.count((parent.pid, 'waiting', 'running')) == 1
    assert [record.pid for record in two.claims] == [parent.pid]


def test_a_hundred_children_of_one_parent_end_on_two_engines(one: Any, two: Any, rigs: Any) -> None:
    parent = one.running()
    children = [rig.running() for rig in (one, two) for _ in range(50)]
    one.commit(rigs.await_(parent, *(child.pid for child in children)))
    ended = [rig.store.commit(rigs.finish(child)) for rig, child in zip((one, two) * 50, children, strict=True)]
    assert all(isinstance(each.result(PATIENCE), Held) for each in ended)
    assert one.row(parent.pid).state == 'running' and one.awaiting() == set()


# -- intents and those that come into being ----------------------------------------------------------------------------


def kill(*pids: int) -> Callable[[Any], list[int]]:
    return lambda transaction: intents.kill(transaction, list(pids), 'no more')


def pause(*pids: int) -> Callable[[Any], list[int]]:
    return lambda transaction: intents.pause(transaction, list(pids), None)


def test_a_kill_reaches_a_child_that_is_being_inserted(one: Any, two: Any, rigs: Any, after: Any) -> None:
    parent = one.running()
    child = one.record(parent=parent.pid, call_visit=0, call_number=0)
    _, killed = after(one, [rigs.proceed(parent, create=(child,))], two, kill(parent.pid))
    assert killed == [parent.pid, child.pid]
    assert one.row(child.pid).state == 'killed'


def test_a_kill_reaches_a_grandchild_that_is_being_inserted(one: Any, two: Any, rigs: Any, after: Any) -> None:
    top = one.running()
    middle = one.running(parent=top.pid, call_visit=0, call_number=0)
    child = one.record(parent=middle.pid, call_visit=0, call_number=0)
    _, killed = after(one, [rigs.proceed(middle, create=(child,))], two, kill(top.pid))
    assert killed == [top.pid, middle.pid, child.pid]


def test_a_child_of_a_process_that_is_being_killed_never_comes_into_being(
    one: Any, two: Any, rigs: Any, after: Any
) -> None:
    parent = one.running()
    child = one.record(parent=parent.pid, call_visit=0, call_number=0)
    _, inserted = after(two, [kill(parent.pid)], one, rigs.proceed(parent, create=(child,)))
    assert inserted == Lost(state='killed', message='no more')
    assert one.reader.processes([child.pid]) == []


def test_a_pause_reaches_a_child_that_is_being_inserted(one: Any, two: Any, rigs: Any, after: Any) -> None:
    parent = one.running()
    child = one.record(parent=parent.pid, call_visit=0, call_number=0)
    after(one, [rigs.proceed(parent, create=(child,))], two, pause(parent.pid))
    assert one.row(child.pid).paused == 2


def test_a_child_of_a_process_that_is_being_paused_is_paused(one: Any, two: Any, rigs: Any, after: Any) -> None:
    parent = one.running()
    child = one.record(parent=parent.pid, call_visit=0, call_number=0)
    one.admitting = True
    _, inserted = after(two, [pause(parent.pid)], one, rigs.proceed(parent, create=(child,)))
    assert isinstance(inserted, Held) and inserted.paused
    assert one.row(child.pid).paused == 2 and one.claims == []


def test_a_play_takes_the_pause_back_from_a_child_that_is_being_inserted(
    one: Any, two: Any, rigs: Any, after: Any
) -> None:
    parent = one.running()
    one.do(pause(parent.pid))
    child = one.record(parent=parent.pid, call_visit=0, call_number=0)
    unit = rigs.proceed(parent, create=(child,))
    after(one, [unit], two, lambda transaction: intents.play(transaction, [parent.pid]))
    assert (one.row(parent.pid).paused, one.row(child.pid).paused) == (0, 0)


def test_a_process_ends_before_the_kill_that_comes_second(one: Any, two: Any, rigs: Any, after: Any) -> None:
    fence = one.running()
    ended, killed = after(one, [rigs.finish(fence)], two, kill(fence.pid))
    assert isinstance(ended, Held) and killed == []
    assert one.row(fence.pid).state == 'finished'


def test_no_end_is_possible_after_the_kill_that_comes_first(one: Any, two: Any, rigs: Any, after: Any) -> None:
    fence = one.running()
    killed, ended = after(two, [kill(fence.pid)], one, rigs.finish(fence))
    assert killed == [fence.pid] and ended == Lost(state='killed', message='no more')
    assert one.row(fence.pid).state == 'killed'


# -- keys --------------------------------------------------------------------------------------------------------------


def test_two_engines_that_insert_a_key_at_once_share_one_process(one: Any, two: Any, after: Any) -> None:
    first, second = (rig.record(key='k', fingerprint='f') for rig in (one, two))
    _, attached = after(one, [Unit(create=(first,))], two, Unit(create=(second,)))
    assert attached.attached.pid == first.pid
    assert one.reader.processes([second.pid]) == []


def test_a_key_that_another_has_just_given_to_other_inputs_is_refused_alone(one: Any, two: Any, after: Any) -> None:
    first = one.record(key='k', fingerprint='f')
    second, beside = two.record(key='k', fingerprint='other'), two.record()
    _, refused, other = after(one, [Unit(create=(first,))], two, Unit(create=(second,)), Unit(create=(beside,)))
    assert isinstance(refused, KeyConflict) and isinstance(other, Held)


def test_a_key_is_free_when_whoever_was_first_is_rolled_back(
    one: Any, two: Any, looking: Callable[[], None]
) -> None:
    first, second = (rig.record(key='k', fingerprint='f') for rig in (one, two))
    statements = one.location.statements()
    with connect(one.location.server) as other:
        other.execute('BEGIN')
        statements.dialect.run_each(other.cursor(), statements.insert_process, [msgspec.structs.asdict(first)])
        later = two.store.commit(Unit(create=(second,)))
        looking()
        other.execute('ROLLBACK')
    assert later.result(PATIENCE).attached is None
    assert [record.pid for record in one.reader.query(key='k')] == [second.pid]


# -- batches, rings and claims -----------------------------------------------------------------------------------------


def test_a_row_that_is_refused_fails_none_of_its_neighbours(one: Any) -> None:
    there = one.record()
    one.commit(Unit(create=(there,)))
    twice = one.record(pid=there.pid)
    units = [Unit(create=(one.record(),)) for _ in range(4)]
    *_, refused, last = one.together(*units, Unit(create=(twice,)), Unit(create=(one.record(),)))
    assert isinstance(refused, StoreUnavailable) and 'pk_process' in str(refused)
    assert isinstance(last, Held)
    assert {row.state for row in one.reader.processes(unit.create[0].pid for unit in units)} == {'created'}


@pytest.mark.parametrize(
    'fields',
    [{'exit_status': 2**70}, {'key': ''.join(random.Random(1).choices(string.ascii_letters, k=40_000))}],
    ids=['too large', 'too long'],
)
def test_a_value_that_the_server_cannot_hold_is_no_reason_to_try_again(one: Any, fields: dict[str, Any]) -> None:
    record = one.record(**fields)
    refused, other = one.together(Unit(create=(record,)), Unit(create=(one.record(),)))
    assert isinstance(refused, UnstorableValue) and not isinstance(refused, StoreError), refused
    assert 'cannot hold a value' in str(refused) and isinstance(other, Held)


def test_engines_that_wait_for_each_other_in_a_ring_both_get_through(one: Any, two: Any) -> None:
    a, b = one.running(), two.running()
    both = threading.Barrier(2)
    attempts = []

    def lock(first: int, second: int) -> Callable[[Any], None]:
        def work(transaction: Any) -> None:
            attempts.append(first)
            transaction.lock([first])
            if len(attempts) <= 2:
                both.wait(PATIENCE)
            transaction.lock([second])

        return work

    futures = [one.store.call(lock(a.pid, b.pid)), two.store.call(lock(b.pid, a.pid))]
    for future in futures:
        future.result(PATIENCE)
    assert len(attempts) > 2  # one of them was told to try again, on a busy machine perhaps more than once


def test_a_claim_leaves_alone_what_another_is_claiming(one: Any, two: Any) -> None:
    records = [one.record() for _ in range(4)]
    one.commit(Unit(create=tuple(records)))
    pids = [record.pid for record in records]
    one.admitting = two.admitting = True
    with one.written(lambda transaction: transaction.claim(pids[:2])) as (mine,):
        assert two.do(lambda transaction: transaction.claim(pids)) == 2  # it did not wait
    assert mine.result(PATIENCE) == 2
    assert sorted(record.pid for record in one.claims) == pids[:2]
    assert sorted(record.pid for record in two.claims) == pids[2:]


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_two_engines_of_a_host_count_its_jobs_one_after_the_other(one: Any, two: Any, after: Any) -> None:
    for rig in (one, two):
        waiting = [rig.record(state='waiting') for _ in range(2)]
        rig.commit(Unit(create=tuple(waiting)))
        prepared = [JobRecord(record.pid, 'here', 'prepared', '{}') for record in waiting]
        rig.do(lambda transaction, prepared=prepared: begin_jobs(transaction, prepared))

    def take(transaction: Any) -> list[int]:
        return take_slots(
            transaction, 'here', max_jobs=None, max_queued=None, max_of_host=3, most=8,
            folder_of=lambda pid, attempt: f'/{pid}-{attempt}',
        )  # fmt: skip

    first, second = after(one, [take], two, take)
    assert (len(first), len(second)) == (2, 1)


# -- a row that another program holds for long -----------------------------------------------------------------------


@pytest.fixture
def held(postgres_store: str) -> Iterator[Callable[[int], Callable[[], None]]]:
    """``free = held(pid)``: another program holds the row of the process until it is freed."""
    with psycopg.connect(postgres_store) as other:

        def hold(pid: int) -> Callable[[], None]:
            other.execute('SELECT FROM treadle.process WHERE pid = %s FOR UPDATE', [pid])
            return other.commit

        yield hold


def test_an_engine_beats_and_writes_while_another_program_holds_one_of_its_rows(
    rigs: Any, postgres_store: str, held: Any
) -> None:
    lease = 2.0
    with Engine(postgres_store, lease=lease) as engine, Engine(postgres_store, lease=lease) as observer:
        store, before = engine.core.store, engine.core.membership.engine_id
        end = store.call(lambda transaction: transaction.reserve_pids(3)).result(PATIENCE)
        pids = range(end - 3, end)
        born = [
            rigs.process_record(pid, state='running', origin=before, owner=before, epoch=1, driven=1) for pid in pids
        ]
        assert isinstance(store.commit(Unit(create=tuple(born))).result(PATIENCE), Held)
        blocked, *others = (rigs.Fence(pid, 1, 0) for pid in pids)
        free = held(blocked.pid)
        begun = time.monotonic()
        waiting = store.commit(rigs.proceed(blocked))
        version = 0
        while time.monotonic() < begun + 4 * lease:
            engine.core.membership.confirm().result(PATIENCE)
            assert engine.core.membership.lease.is_valid
            for fence in others:
                unit = rigs.proceed(msgspec.structs.replace(fence, version=version), visit=version + 1)
                assert isinstance(store.commit(unit).result(PATIENCE), Held)
            version += 1
        assert not waiting.done()
        free()
        assert isinstance(waiting.result(PATIENCE), Held)
        assert engine.core.membership.lives == (before,)
        assert observer.core.source.reader.engine(before).ended is None


@pytest.mark.parametrize('together', [True, False], ids=['in a batch', 'alone'])
def test_what_needs_no_row_that_is_held_is_written_at_once(
    rigs: Any, postgres_store: str, held: Any, together: bool
) -> None:
    with rigs.Rig(postgres_store, lease=2.0) as rig:
        fences = [rig.running() for _ in range(20)]
        free = held(fences[7].pid)
        gate = rig.gate() if together else threading.Event()
        blocked = rig.store.commit(rigs.finish(fences[7]))
        rest = [rig.store.commit(rigs.finish(fence)) for fence in fences if fence is not fences[7]]
        gate.set()
        assert all(isinstance(each.result(PATIENCE), Held) for each in rest)
        assert not blocked.done()
        free()
        assert isinstance(blocked.result(PATIENCE), Held)


def later_than(rig: Any, rigs: Any, held: Any, then: Callable[[Any, int], Any]) -> tuple[Any, Any, int]:
    """A unit waits for a row, which is freed at the beginning of ``then``: the answers to both, and the process.

    It is answered before ``then`` is.
    """
    answered: list[Any] = []
    fence = rig.running()
    free = held(fence.pid)
    with rig.aside() as is_aside:
        unit = rig.store.commit(rigs.proceed(fence))
        assert is_aside.wait(PATIENCE)

    def work(transaction: Any) -> Any:
        free()
        return then(transaction, fence.pid)

    last = rig.store.call(work)
    for future in (unit, last):
        future.add_done_callback(answered.append)
    last.exception(PATIENCE)
    assert answered == [unit, last]
    return unit.result(PATIENCE), last.result(PATIENCE), fence.pid


def test_what_waits_for_a_row_keeps_its_place(rigs: Any, postgres_store: str, held: Any) -> None:
    with rigs.Rig(postgres_store, lease=1.0) as rig:
        kill_it = lambda transaction, pid: intents.kill(transaction, [pid], 'no more')  # noqa: E731
        unit, killed, pid = later_than(rig, rigs, held, kill_it)
        assert isinstance(unit, Held) and killed == [pid]
        assert (rig.row(pid).visit, rig.row(pid).state) == (1, 'killed')


@pytest.mark.parametrize(
    'leave',
    [
        lambda transaction, pid: end_engine(transaction, 'stopped'),
        lambda transaction, pid: release_all_but(transaction, []),
    ],
    ids=['ends', 'beats no more'],
)
def test_an_engine_leaves_after_what_waits_for_a_row(rigs: Any, postgres_store: str, held: Any, leave: Any) -> None:
    with rigs.Rig(postgres_store, lease=1.0) as rig:
        unit, _, pid = later_than(rig, rigs, held, leave)
        assert isinstance(unit, Held)
        assert (rig.row(pid).visit, rig.row(pid).owner) == (1, None)


def test_what_waits_for_a_row_is_answered_when_the_engine_stops(rigs: Any, postgres_store: str, held: Any) -> None:
    with rigs.Rig(postgres_store, lease=1.0) as rig:
        fence = rig.running()
        held(fence.pid)
        with rig.aside() as is_aside:
            units = [rig.store.commit(rigs.proceed(fence)) for _ in range(3)]
            assert is_aside.wait(PATIENCE)
        rig.store.stop(PATIENCE)
        for unit in units:
            assert 'another program' in str(unit.exception(0))


# -- engines -----------------------------------------------------------------------------------------------------------


def test_what_a_dying_engine_is_writing_is_taken_from_it_as_well(one: Any, two: Any, after: Any) -> None:
    record = one.record()
    one.commit(Unit(create=(record,)))
    one.admitting = True
    claimed, fatal = after(
        one,
        [lambda transaction: transaction.claim([record.pid])],
        two,
        lambda transaction: declare_dead(transaction, one.engine_id, seen=None, max_crashes=5),
    )
    assert (claimed, fatal) == (1, [])
    assert one.row(record.pid).owner is None and one.row(record.pid).crashes == 1


def test_an_engine_that_is_being_declared_dead_writes_under_its_old_name_no_more(
    one: Any, two: Any, rigs: Any, after: Any
) -> None:
    fence, before = one.running(), one.engine_id
    one.successor = rigs.engine_record()
    declare = lambda transaction: declare_dead(transaction, before, seen=None, max_crashes=5)  # noqa: E731
    _, lost = after(two, [declare], one, rigs.proceed(fence))
    assert isinstance(lost, Lost)
    assert one.lives == [one.engine_id] and one.engine_id != before
    assert one.row(fence.pid).owner is None


def test_an_engine_ends_while_another_declares_it_dead(one: Any, two: Any, after: Any) -> None:
    before = one.engine_id
    _, declared = after(
        one,
        [lambda transaction: end_engine(transaction, 'stopped')],
        two,
        lambda transaction: declare_dead(transaction, before, seen=None, max_crashes=5),
    )
    assert declared is None
    assert one.reader.engine(before).ended == 'stopped'
