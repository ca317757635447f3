"""Declaring engines dead: what is taken away, who is set aside, and how an engine that was only stalled goes on."""

from __future__ import annotations

from typing import Any

import pytest

from treadle.engine.errors import StoreReadOnly
from treadle.engine.store import intents
from treadle.engine.store.engines import beat, declare_dead, end_engine, register_engine
from treadle.engine.store.records import Fence, Held, Lost, Unit


@pytest.fixture
def other(rigs: Any, rig: Any, store_url: str) -> Any:
    """Another engine on the store of ``rig``."""
    with rigs.Rig(store_url) as other:
        yield other


def declare(observer: Any, engine_id: int, most: int | None = 5) -> bool:
    """Have ``observer`` declare an engine dead, with its lock in hand as it were."""
    fatal = observer.do(lambda transaction: declare_dead(transaction, engine_id, seen=None, max_crashes=most))
    return fatal is not None


def test_a_heartbeat_that_came_meanwhile_keeps_an_engine_alive(rig: Any, other: Any) -> None:
    fence = rig.running()
    rig.do(beat)
    assert other.do(lambda transaction: declare_dead(transaction, rig.engine_id, seen=0, max_crashes=5)) is None
    assert isinstance(rig.commit(Unit(fence=fence)), Held)
    assert rig.lives == []


def test_an_engine_is_declared_dead_once_and_its_id_is_never_used_again(rig: Any, rigs: Any, other: Any) -> None:
    engine_id = rig.engine_id
    assert declare(other, engine_id)
    assert not declare(other, engine_id)
    assert other.do(lambda transaction: register_engine(transaction, rigs.engine_record())) > engine_id


def test_what_it_owned_is_free_and_what_it_writes_later_is_refused(rig: Any, rigs: Any, other: Any) -> None:
    fence, untouched = rig.running(), other.running(pid=100)
    declare(other, rig.engine_id)
    row = other.row(fence.pid)
    assert (row.owner, row.epoch, row.version, row.crashes) == (None, 2, 1, 1)
    assert other.row(untouched.pid).epoch == 1
    # Though nobody has claimed it yet.
    rig.successor = rigs.engine_record()
    assert isinstance(rig.commit(rigs.finish(fence)), Lost)
    assert isinstance(rig.commit(Unit(fence=fence, create=(rig.record(parent=fence.pid),))), Lost)
    assert other.row(fence.pid).state == 'running'


def test_a_stalled_engine_goes_on_under_a_new_id_in_its_next_transaction(rig: Any, rigs: Any, other: Any) -> None:
    before = rig.engine_id
    declare(other, before)
    rig.successor, rig.admitting = rigs.engine_record(), True
    held = rig.commit(Unit(create=(rig.record(),)))
    assert isinstance(held, Held)
    (after,) = rig.lives
    assert after > other.engine_id > before
    (claim,) = rig.claims
    assert (claim.owner, rig.row(claim.pid).owner) == (after, after), 'it claims in its new name'
    heartbeat = rig.reader.engine(after).heartbeat
    rig.do(beat)
    assert rig.lives == [after]
    assert rig.reader.engine(after).heartbeat > heartbeat


def test_a_called_function_that_begins_meanwhile_belongs_to_the_new_life(rig: Any, rigs: Any, other: Any) -> None:
    declare(other, rig.engine_id)
    rig.successor = rigs.engine_record()
    called = rig.record(state='running', owner=rig.engine_id, epoch=1)
    rig.commit(Unit(create=(called,)))
    assert rig.row(called.pid).owner == rig.lives[0]


def test_an_engine_that_leaves_goes_on_as_none(rig: Any, rigs: Any, other: Any) -> None:
    """Declared dead while it stopped: it claims nothing any more, and ends no other engine."""
    function = rig.record(state='running', owner=rig.engine_id, epoch=1, driven=1)
    rig.commit(Unit(create=(function,)))
    declare(other, rig.engine_id)
    rig.admitting = True
    runnable, late = rig.record(), rig.record(state='running', owner=rig.engine_id, epoch=1)
    rig.commit(Unit(create=(runnable, late)))
    assert rig.do(lambda transaction: transaction.claim([runnable.pid])) == 0
    assert rig.do(lambda transaction: transaction.claim_driven(function.pid)) is None
    rig.do(lambda transaction: end_engine(transaction, 'stopped'))
    assert {rig.row(each.pid).owner for each in (runnable, late, function)} == {None}
    assert (rig.claims, rig.lives, rig.reader.engine(rig.engine_id).ended) == ([], [], 'dead')


def test_a_new_life_that_cannot_begin_fails_what_was_to_be_written_and_is_tried_again(
    rig: Any, rigs: Any, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(other, rig.engine_id)

    def no_room() -> Any:
        raise StoreReadOnly('no lock file can be made')

    with monkeypatch.context() as patch:
        patch.setattr(rig, 'next_life', no_room)
        with pytest.raises(StoreReadOnly):
            rig.commit(Unit(create=(rig.record(),)))
    assert rig.reader.query() == []
    rig.successor = rigs.engine_record()
    assert isinstance(rig.commit(Unit(create=(rig.record(),))), Held)


# -- processes that are fatal to their engines -----------------------------------------------------------------


def crash(rig: Any, rigs: Any, other: Any, pid: int, most: int = 3) -> None:
    """Have a process claimed, and its engine die."""
    rig.admitting = True
    assert rig.do(lambda transaction: transaction.claim([pid])) == 1
    rig.admitting = False
    declare(other, rig.engine_id, most)
    rig.successor = rigs.engine_record()
    rig.do(beat)


def test_a_process_over_which_engines_die_is_paused_with_the_reason(rig: Any, rigs: Any, other: Any) -> None:
    record = rig.record()
    rig.commit(Unit(create=(record,)))
    for _ in range(2):
        crash(rig, rigs, other, record.pid)
    assert rig.row(record.pid).paused == 0
    crash(rig, rigs, other, record.pid)
    row = rig.row(record.pid)
    assert (row.paused, row.crashes, row.owner) == (1, 3, None)
    assert rig.reader.last_intent(record.pid).message.startswith('paused: quarantined: 3 engines in a row have died')
    rig.admitting = True
    assert rig.do(lambda transaction: transaction.claim([record.pid])) == 0
    assert rig.do(lambda transaction: intents.play(transaction, [record.pid])) == [record.pid]
    assert [(claim.pid, claim.crashes) for claim in rig.claims[-1:]] == [(record.pid, 0)]


def test_a_checkpoint_begins_the_count_anew(rig: Any, rigs: Any, other: Any) -> None:
    record = rig.record()
    rig.commit(Unit(create=(record,)))
    crash(rig, rigs, other, record.pid)
    rig.admitting = True
    rig.do(lambda transaction: transaction.claim([record.pid]))
    claim = rig.claims[-1]
    assert claim.crashes == 1
    rig.commit(rigs.proceed(Fence(claim.pid, claim.epoch, claim.version)))
    assert rig.row(record.pid).crashes == 0


def test_who_asks_for_it_by_its_key_vouches_for_it_and_all_that_it_has_called(rig: Any, rigs: Any, other: Any) -> None:
    """A script that is killed by hand and started again, as often as one likes."""
    parent = rig.record(key='k', fingerprint='f')
    child = rig.record(parent=parent.pid)
    for _ in range(6):
        rig.commit(Unit(create=(rig.record(key='k', fingerprint='f') if rig.reader.query() else parent,)))
        rig.commit(Unit(create=(child,)))
        for pid in (parent.pid, child.pid):
            assert rig.row(pid).crashes == 0
        rig.admitting = True
        rig.do(lambda transaction: transaction.claim([parent.pid, child.pid]))
        rig.admitting = False
        declare(other, rig.engine_id, 2)
        rig.successor = rigs.engine_record()
        rig.do(beat)
    assert (rig.row(child.pid).crashes, rig.row(child.pid).paused) == (1, 0)


def test_a_machine_that_went_down_is_no_processs_doing(rig: Any, rigs: Any, other: Any) -> None:
    fence = rig.running()
    declare(other, rig.engine_id, None)
    assert (other.row(fence.pid).crashes, other.row(fence.pid).owner) == (0, None)


def test_suspects_are_held_one_at_a_time_but_what_a_thread_waits_for_is_not_held_up(rig: Any, rigs: Any) -> None:
    """So the next death shows which one it was."""
    suspects = [rig.record(crashes=rigs.SUSPECT) for _ in range(3)]
    innocent, awaited = rig.record(crashes=rigs.SUSPECT - 1), rig.record(crashes=rigs.SUSPECT, nesting=1)
    rig.commit(Unit(create=(*suspects, innocent, awaited)))
    rig.admitting = True
    everything = [each.pid for each in (*suspects, innocent, awaited)]
    assert rig.do(lambda transaction: transaction.claim(everything)) == 3
    assert {claim.pid for claim in rig.claims} == {suspects[0].pid, innocent.pid, awaited.pid}
    rig.has_suspect = True
    assert rig.do(lambda transaction: transaction.claim(everything)) == 0
    rig.has_suspect = False
    assert rig.do(lambda transaction: transaction.claim(everything)) == 1
