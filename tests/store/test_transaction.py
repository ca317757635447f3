"""What commits together, what is refused, and every order in which waiting, ending and killing can meet."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from treadle.engine.errors import KeyConflict
from treadle.engine.store import intents
from treadle.engine.store.engines import end_engine
from treadle.engine.store.records import Advance, Fence, Held, LogEntry, Lost, Unit

# -- fences ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('stale', ['epoch', 'version', 'pid', 'ended'])
def test_nothing_of_a_unit_is_written_when_its_fence_is_broken(rig: Any, rigs: Any, stale: str) -> None:
    fence = rig.running()
    child = rig.record(parent=fence.pid, call_visit=0, call_number=0)
    broken = {
        'epoch': Fence(fence.pid, 2, 0),
        'version': Fence(fence.pid, 1, 7),
        'pid': Fence(999, 1, 0),
        'ended': Fence(fence.pid, 1, 1),
    }[stale]
    if stale == 'ended':
        rig.commit(rigs.finish(fence))
    before = rig.reader.query()
    verdict = rig.commit(
        Unit(
            fence=broken,
            advance=Advance('waiting', 1, checkpoint='{"x": 1}', outputs='{}', awaiting=(fence.pid,)),
            create=(child,),
            log=(LogEntry(fence.pid, 0.0, 20, 'log', 'not to be seen'),),
        )
    )
    assert isinstance(verdict, Lost)
    assert verdict.state == {'pid': None, 'ended': 'finished'}.get(stale, 'running')
    assert rig.reader.query() == before
    assert rig.reader.log(fence.pid) == []
    assert rig.awaiting() == set()


def test_a_unit_raises_the_version_and_the_old_fence_is_worth_nothing(rig: Any, rigs: Any) -> None:
    fence = rig.running()
    held = rig.commit(rigs.proceed(fence))
    assert isinstance(held, Held) and held.version == 1
    assert isinstance(rig.commit(rigs.proceed(fence, 2)), Lost)
    assert rig.row(fence.pid).visit == 1


def test_two_units_on_one_fence_in_one_batch_have_one_winner(rig: Any, rigs: Any) -> None:
    fence = rig.running()
    first, second = rig.together(rigs.proceed(fence, 1), rigs.proceed(fence, 5))
    assert isinstance(first, Held) and isinstance(second, Lost)
    assert rig.row(fence.pid).visit == 1


def test_a_fence_without_advance_only_checks(rig: Any) -> None:
    fence = rig.running()
    child = rig.record(parent=fence.pid, call_visit=0, call_number=0)
    assert rig.commit(Unit(fence=fence, create=(child,))).version == 0
    assert rig.row(fence.pid).version == 0
    assert rig.row(child.pid).parent == fence.pid


def test_outputs_stay_when_a_unit_names_none(rig: Any) -> None:
    fence = rig.running()
    rig.commit(Unit(fence=fence, advance=Advance('running', 1, outputs='{"a": 1}')))
    rig.commit(Unit(fence=Fence(fence.pid, 1, 1), advance=Advance('finished', 2)))
    assert rig.row(fence.pid).outputs == '{"a": 1}'


def test_an_insert_is_idempotent_by_its_uuid(rig: Any) -> None:
    record = rig.record()
    for _ in range(3):
        assert isinstance(rig.commit(Unit(create=(record,))), Held)
    rig.together(Unit(create=(record,)), Unit(create=(record,)))
    assert [each.uuid for each in rig.reader.query()] == [record.uuid]


def test_a_repeated_insert_changes_nothing_of_a_process_that_moved_on(rig: Any, rigs: Any) -> None:
    record = rig.record(state='running', owner=rig.engine_id, epoch=1)
    rig.commit(Unit(create=(record,)))
    rig.commit(rigs.finish(Fence(record.pid, 1, 0)))
    ended = rig.row(record.pid)
    rig.commit(Unit(create=(record,)))
    assert rig.row(record.pid) == ended


# -- waiting and waking --------------------------------------------------------------------------------------


def _orders() -> list[Any]:
    """A parent that goes to wait, and two children that end, in all orders and all ways to share batches."""
    return [
        pytest.param(order, cuts, id=f'{"".join(order)}-{cuts}')
        for order in itertools.permutations('pab')
        for cuts in range(4)
    ]


@pytest.mark.parametrize(('order', 'cuts'), _orders())
def test_a_parent_is_woken_exactly_once_in_whatever_order(rig: Any, rigs: Any, order: Any, cuts: int) -> None:
    rig.admitting = True
    parent, a, b = rig.running(), rig.running(), rig.running()
    rig.claims.clear()
    rig.told.clear()
    units = {'p': rigs.await_(parent, a.pid, b.pid), 'a': rigs.finish(a), 'b': rigs.finish(b)}
    batches: list[list[Any]] = [[units[order[0]]]]
    for position in (1, 2):
        if cuts & position:
            batches.append([])
        batches[-1].append(units[order[position]])
    verdicts = {}
    for batch in batches:
        for unit, verdict in zip(batch, rig.together(*batch), strict=True):
            verdicts[unit.fence.pid] = verdict
    satisfied = verdicts[parent.pid].satisfied
    row = rig.row(parent.pid)
    assert (row.state, row.owner) == ('running', rig.engine_id)
    assert rig.awaiting() == set()
    # Either it never left us, or it was claimed again, once.
    claims = [record for record in rig.claims if record.pid == parent.pid]
    assert len(claims) == (0 if satisfied else 1)
    assert row.epoch == (1 if satisfied else 2)
    version = verdicts[parent.pid].version if satisfied else claims[0].version
    assert row.version == version
    woken = [change for change in rig.told if (change.pid, change.after) == (parent.pid, 'running')]
    assert len(woken) == 1


def test_what_nobody_admits_when_it_wakes_stays_runnable(rig: Any, rigs: Any) -> None:
    parent, child = rig.running(), rig.running()
    rig.together(rigs.await_(parent, child.pid), rigs.finish(child))
    parent2, child2 = rig.running(), rig.running()
    rig.commit(rigs.await_(parent2, child2.pid))
    assert rig.row(parent2.pid).owner is None
    rig.commit(rigs.finish(child2))
    assert (rig.row(parent2.pid).state, rig.row(parent2.pid).owner) == ('running', None)
    assert parent2.pid in {row[0] for row in rig.reader.runnable(10)}


def test_a_killed_child_wakes_its_parent_and_a_waiting_one_is_killed_with_its_children(rig: Any, rigs: Any) -> None:
    rig.admitting = True
    parent = rig.running()
    child = rig.running(parent=parent.pid, call_visit=0, call_number=0)
    rig.commit(rigs.await_(parent, child.pid))
    assert rig.do(lambda transaction: intents.kill(transaction, [child.pid], 'why')) == [child.pid]
    assert rig.row(parent.pid).state == 'running'
    assert rig.row(child.pid).exit_message == 'why'

    parent = rig.running()
    child = rig.running(parent=parent.pid, call_visit=0, call_number=0)
    rig.commit(rigs.await_(parent, child.pid))
    assert rig.do(lambda transaction: intents.kill(transaction, [parent.pid], 'why')) == [parent.pid, child.pid]
    assert {rig.row(parent.pid).state, rig.row(child.pid).state} == {'killed'}
    assert rig.awaiting() == set()


def test_a_thousand_waiters_of_one_process(rig: Any, rigs: Any) -> None:
    rig.admitting = True
    child = rig.running()
    records = [rig.record(state='running', owner=rig.engine_id, epoch=1) for _ in range(1000)]
    rig.commit(Unit(create=tuple(records)))
    rig.claims.clear()
    early, late = records[:600], records[600:]
    rig.together(*(rigs.await_(Fence(record.pid, 1, 0), child.pid) for record in early))
    # The others go to wait in the very batch in which it ends, half of them behind it.
    verdicts = rig.together(
        *(rigs.await_(Fence(record.pid, 1, 0), child.pid) for record in late[:200]),
        rigs.finish(child),
        *(rigs.await_(Fence(record.pid, 1, 0), child.pid) for record in late[200:]),
    )
    del verdicts[200]
    satisfied = {record.pid for record, verdict in zip(late, verdicts, strict=True) if verdict.satisfied}
    claimed = [record.pid for record in rig.claims]
    assert len(claimed) == len(set(claimed))
    assert sorted([*claimed, *satisfied]) == [record.pid for record in records]
    assert all(rig.row(record.pid).state == 'running' for record in records)
    assert rig.awaiting() == set()


# -- killing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kill_first', [True, False])
@pytest.mark.parametrize('together', [True, False])
@pytest.mark.parametrize('ending', ['proceed', 'finish', 'await', 'child'])
def test_a_kill_against_a_commit_has_one_winner(
    rig: Any, rigs: Any, ending: str, together: bool, kill_first: bool
) -> None:
    rig.admitting = True
    fence, other = rig.running(), rig.running()
    child = rig.record(parent=fence.pid, call_visit=0, call_number=0)
    unit = {
        'proceed': rigs.proceed(fence, create=(child,)),
        'finish': rigs.finish(fence),
        'await': rigs.await_(fence, other.pid, create=(child,)),
        'child': Unit(fence=fence, create=(child,)),
    }[ending]
    rig.claims.clear()

    def kill(transaction: Any) -> Any:
        return intents.kill(transaction, [fence.pid], 'stop it')

    operations = [kill, unit] if kill_first else [unit, kill]
    answers = rig.together(*operations) if together else [rig.together(each)[0] for each in operations]
    verdict, killed = answers[::-1] if kill_first else answers
    row = rig.row(fence.pid)
    children = rig.reader.children(fence.pid)
    if kill_first:
        assert verdict == Lost('killed', 'stop it')
        assert killed == [fence.pid]
        assert children == []
    elif ending == 'finish':
        assert isinstance(verdict, Held) and killed == []
        assert row.state == 'finished'
        return
    else:
        assert isinstance(verdict, Held)
        assert killed == [fence.pid, child.pid]
        assert [each.state for each in children] == ['killed']
        if together:
            assert rig.claims == [], 'a killed process must not be handed to a worker'
    assert (row.state, row.owner, row.checkpoint, row.exit_message) == ('killed', None, None, 'stop it')
    assert rig.awaiting() == set()
    assert isinstance(rig.commit(rigs.proceed(Fence(fence.pid, row.epoch, row.version))), Lost)


def test_no_end_follows_a_kill(rig: Any, rigs: Any) -> None:
    fence = rig.running()
    rig.do(lambda transaction: intents.kill(transaction, [fence.pid], 'first'))
    assert rig.do(lambda transaction: intents.kill(transaction, [fence.pid], 'second')) == []
    assert rig.do(lambda transaction: transaction.claim([fence.pid])) == 0
    assert rig.row(fence.pid).exit_message == 'first'


def test_a_kill_reaches_all_generations_but_not_the_ended(rig: Any, rigs: Any) -> None:
    top = rig.running()
    middle = rig.running(parent=top.pid, call_visit=0, call_number=0)
    done = rig.running(parent=top.pid, call_visit=0, call_number=1)
    rig.commit(rigs.finish(done))
    under_done = rig.running(parent=done.pid, call_visit=0, call_number=0)
    bottom = rig.running(parent=middle.pid, call_visit=0, call_number=0)
    beside = rig.running()
    killed = rig.do(lambda transaction: intents.kill(transaction, [top.pid], 'all of it'))
    assert killed == [top.pid, middle.pid, under_done.pid, bottom.pid]
    assert rig.row(done.pid).state == 'finished' and rig.row(beside.pid).state == 'running'


# -- replays ---------------------------------------------------------------------------------------------------


def test_recorded_calls_that_a_replay_does_not_ask_for_are_killed(rig: Any, rigs: Any) -> None:
    fence = rig.running()
    calls = [rig.running(parent=fence.pid, call_visit=0, call_number=number) for number in range(4)]
    grandchild = rig.running(parent=calls[2].pid, call_visit=0, call_number=0)
    earlier = rig.running(parent=fence.pid, call_visit=7, call_number=9)
    rig.commit(rigs.finish(calls[3]))
    rig.commit(rigs.proceed(fence, kept_calls=frozenset({0})))
    assert [rig.row(call.pid).state for call in calls] == ['running', 'killed', 'killed', 'finished']
    assert rig.row(grandchild.pid).state == 'killed'
    assert rig.row(earlier.pid).state == 'running'
    assert 'did not ask for it' in (rig.row(calls[1].pid).exit_message or '')


@pytest.mark.parametrize('unasked_first', [True, False])
@pytest.mark.parametrize('what', ['await', 'await-ended', 'finish', 'proceed'])
def test_an_unasked_call_that_commits_in_the_same_batch_stays_killed(
    rig: Any, rigs: Any, what: str, unasked_first: bool
) -> None:
    rig.admitting = True
    fence, other = rig.running(), rig.running()
    call = rig.running(parent=fence.pid, call_visit=0, call_number=0)
    if what == 'await-ended':
        rig.commit(rigs.finish(other))
    rig.claims.clear()
    unit = {'finish': rigs.finish(call), 'proceed': rigs.proceed(call)}.get(what) or rigs.await_(call, other.pid)
    replayed = rigs.proceed(fence, kept_calls=frozenset())
    rig.together(*([unit, replayed] if unasked_first else [replayed, unit]))
    row = rig.row(call.pid)
    assert row.state == ('finished' if what == 'finish' else 'killed')
    assert row.owner is None
    assert rig.claims == [] and rig.awaiting() == set()


# -- keys --------------------------------------------------------------------------------------------------------


def test_a_key_attaches_conflicts_and_comes_back(rig: Any, rigs: Any) -> None:
    first = rig.record(key='k', fingerprint='f')
    same, other = rig.record(key='k', fingerprint='f'), rig.record(key='k', fingerprint='g')
    assert rig.commit(Unit(create=(first,))).attached is None
    assert rig.commit(Unit(create=(same,))).attached.pid == first.pid
    with pytest.raises(KeyConflict, match=r"the key 'k' belongs to process 1 .*other inputs"):
        rig.commit(Unit(create=(other,)))
    rig.do(lambda transaction: intents.kill(transaction, [first.pid], 'gone'))
    assert rig.commit(Unit(create=(other,))).attached is None
    assert {record.pid for record in rig.reader.query()} == {first.pid, other.pid}


def test_a_finished_process_keeps_its_key_and_an_excepted_one_does_not(rig: Any, rigs: Any) -> None:
    finished = rig.running(key='a', fingerprint='f')
    excepted = rig.running(key='b', fingerprint='f')
    rig.commit(rigs.finish(finished))
    rig.commit(Unit(fence=excepted, advance=Advance('excepted', 1, exception='{}')))
    assert rig.commit(Unit(create=(rig.record(key='a', fingerprint='f'),))).attached.pid == finished.pid
    assert rig.commit(Unit(create=(rig.record(key='b', fingerprint='f'),))).attached is None


def test_one_key_many_times_in_one_batch_makes_one_process(rig: Any) -> None:
    records = [rig.record(key='k', fingerprint='f') for _ in range(50)]
    verdicts = rig.together(*(Unit(create=(record,)) for record in records))
    assert verdicts[0].attached is None
    assert {verdict.attached.pid for verdict in verdicts[1:]} == {records[0].pid}
    assert len(rig.reader.query()) == 1


def test_attaching_adopts_what_a_dead_engine_left_with_its_children(rig: Any, rigs: Any, store_url: str) -> None:
    parent = rig.running(key='k', fingerprint='f')
    child = rig.record(parent=parent.pid, call_visit=0, call_number=0)
    driven = rig.record(parent=parent.pid, call_visit=0, call_number=1, driven=1, state='running')
    rig.commit(rigs.await_(parent, child.pid, create=(child, driven)))
    rig.do(lambda transaction: end_engine(transaction, 'stopped'))
    with rigs.Rig(store_url) as successor:
        successor.admitting = True
        again = successor.record(pid=100, key='k', fingerprint='f')
        assert successor.commit(Unit(create=(again,))).attached.pid == parent.pid
        assert [record.pid for record in successor.claims] == [child.pid], 'and what its caller drives is left to it'
        assert {successor.row(pid).origin for pid in (parent.pid, child.pid)} == {successor.engine_id}


# -- claims, engines, pids -----------------------------------------------------------------------------------------


def test_a_function_that_its_caller_drives_is_never_handed_to_a_worker(rig: Any) -> None:
    rig.admitting = True
    called = rig.record(state='running', owner=rig.engine_id, epoch=1)
    nested = msgspec.structs.replace(rig.record(state='running', owner=rig.engine_id, epoch=1), driven=1)
    rig.commit(Unit(create=(called, nested)))
    assert rig.claims == []


def test_a_claim_raises_epoch_and_version_and_has_one_winner(rig: Any, rigs: Any, store_url: str) -> None:
    record = rig.record()
    rig.commit(Unit(create=(record,)))
    with rigs.Rig(store_url) as other:
        other.admitting = rig.admitting = True
        assert other.do(lambda transaction: transaction.claim([record.pid])) == 1
        assert rig.do(lambda transaction: transaction.claim([record.pid])) == 0
        (claim,) = other.claims
        assert (claim.owner, claim.epoch, claim.version) == (other.engine_id, 1, 1)
        other.do(lambda transaction: transaction.release(Fence(record.pid, 1, 1)))
        assert rig.do(lambda transaction: transaction.claim([record.pid])) == 1
        assert isinstance(other.commit(rigs.finish(Fence(record.pid, 1, 1))), Lost)
        # A release of an epoch that is over takes nothing away from the next owner.
        other.do(lambda transaction: transaction.release(Fence(record.pid, 1, 1)))
        assert rig.row(record.pid).owner == rig.engine_id
