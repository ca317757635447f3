"""Pause and play as intents in the row, and every order in which they meet steps, wake-ups, births and kills."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from treadle.engine.store import intents, notes
from treadle.engine.store.records import Advance, Fence, Held, LogEntry, Unit

ITSELF, ABOVE = 1, 2


def pausing(*pids: int, message: str | None = None) -> Callable[[Any], Any]:
    return lambda transaction: intents.pause(transaction, pids, message)


def playing(*pids: int) -> Callable[[Any], Any]:
    return lambda transaction: intents.play(transaction, pids)


def killing(*pids: int) -> Callable[[Any], Any]:
    return lambda transaction: intents.kill(transaction, pids, 'stop it')


def in_order(rig: Any, operations: dict[str, Any], order: Any, cuts: int) -> dict[str, Any]:
    """Perform the named operations; bit N of ``cuts`` ends the batch after the N-th of them."""
    answers: dict[str, Any] = {}
    batch: list[str] = []
    for position, name in enumerate(order):
        batch.append(name)
        if cuts >> position & 1 or position == len(order) - 1:
            answers.update(zip(batch, rig.together(*(operations[each] for each in batch)), strict=True))
            batch = []
    return answers


def orders(names: str) -> list[Any]:
    return [
        pytest.param(order, cuts, id=f'{"".join(order)}-{cuts}')
        for order in itertools.permutations(names)
        for cuts in range(2 ** (len(names) - 1))
    ]


def family(rig: Any) -> tuple[Fence, Fence, Fence]:
    """A process, its child and its grandchild, all running."""
    top = rig.running()
    middle = rig.running(parent=top.pid, call_visit=0, call_number=0)
    return top, middle, rig.running(parent=middle.pid, call_visit=0, call_number=0)


def flags(rig: Any, *fences: Fence) -> list[int]:
    return [rig.row(fence.pid).paused for fence in fences]


# -- the flag -----------------------------------------------------------------------------------------------


def test_a_pause_reaches_all_generations_and_a_play_takes_it_back(rig: Any) -> None:
    beside, three = rig.running(), family(rig)
    assert rig.do(pausing(three[0].pid, message='lunch')) == [three[0].pid]
    assert flags(rig, *three, beside) == [ITSELF, ABOVE, ABOVE, 0]
    assert rig.pauses == {fence.pid: True for fence in three}
    assert [entry.message for entry in rig.reader.log(three[0].pid)] == ['paused: lunch']
    assert rig.do(playing(three[0].pid)) == [fence.pid for fence in three]
    assert flags(rig, *three) == [0, 0, 0]
    assert rig.pauses == {fence.pid: False for fence in three}
    assert [entry.message for entry in rig.reader.log(three[0].pid)] == ['paused: lunch', 'played']
    assert rig.reader.log(three[1].pid) == []


@pytest.mark.parametrize('first', ['parent', 'child'])
def test_a_child_that_was_paused_by_itself_is_not_played_with_its_parent(rig: Any, first: str) -> None:
    top, middle, bottom = family(rig)
    for pid in (top.pid, middle.pid) if first == 'parent' else (middle.pid, top.pid):
        assert rig.do(pausing(pid)) == [pid]
    assert flags(rig, top, middle, bottom) == [ITSELF, ITSELF | ABOVE, ABOVE]
    assert rig.do(playing(top.pid)) == [top.pid]
    assert flags(rig, top, middle, bottom) == [0, ITSELF, ABOVE]
    assert rig.do(playing(middle.pid)) == [middle.pid, bottom.pid]
    assert flags(rig, top, middle, bottom) == [0, 0, 0]


def test_a_child_that_is_named_goes_on_though_its_parent_stays(rig: Any) -> None:
    top, middle, bottom = family(rig)
    rig.do(pausing(top.pid))
    assert rig.do(playing(middle.pid)) == [middle.pid, bottom.pid]
    assert flags(rig, top, middle, bottom) == [ITSELF, 0, 0]


def test_repeating_oneself_changes_nothing(rig: Any) -> None:
    fence = rig.running()
    assert rig.do(playing(fence.pid)) == []
    assert [rig.do(pausing(fence.pid)) for _ in range(2)] == [[fence.pid], []]
    assert [rig.do(playing(fence.pid)) for _ in range(2)] == [[fence.pid], []]
    assert len(rig.reader.log(fence.pid)) == 2


def test_what_has_ended_is_not_paused_but_lets_its_children_play(rig: Any, rigs: Any) -> None:
    top, middle, bottom = family(rig)
    rig.do(pausing(top.pid))
    rig.commit(rigs.finish(top))
    rig.commit(rigs.finish(middle))
    assert flags(rig, top, middle, bottom) == [0, 0, ABOVE]
    assert rig.do(pausing(top.pid)) == []
    assert rig.do(playing(top.pid)) == [bottom.pid]
    assert rig.do(pausing(999)) == rig.do(playing(999)) == []


def test_a_killed_process_is_no_longer_paused(rig: Any) -> None:
    three = family(rig)
    rig.do(pausing(three[0].pid))
    assert rig.do(killing(three[0].pid)) == [fence.pid for fence in three]
    assert {(rig.row(fence.pid).state, rig.row(fence.pid).paused) for fence in three} == {('killed', 0)}
    assert rig.do(playing(three[0].pid)) == []


def test_what_is_paused_is_not_claimed_before_it_is_played(rig: Any) -> None:
    rig.admitting = True
    record = rig.record(paused=ITSELF)
    rig.commit(Unit(create=(record,)))
    assert rig.claims == [] and rig.reader.runnable(10) == []
    assert rig.do(lambda transaction: transaction.claim([record.pid])) == 0
    assert rig.do(playing(record.pid)) == [record.pid]
    assert [claim.pid for claim in rig.claims] == [record.pid]


def test_a_called_function_is_part_of_a_step_and_is_taken_though_it_is_paused(rig: Any) -> None:
    parent = rig.running()
    rig.do(pausing(parent.pid))
    called = rig.record(parent=parent.pid, call_visit=0, call_number=0, driven=1, state='running')
    rig.commit(Unit(fence=parent, create=(called,)))
    assert rig.row(called.pid).paused == ABOVE
    assert rig.do(lambda transaction: transaction.claim_driven(called.pid)).pid == called.pid


# -- a step that executes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(('order', 'cuts'), orders('sp'))
@pytest.mark.parametrize('ending', ['proceed', 'finish', 'wait', 'satisfied'])
def test_a_pause_against_a_commit(rig: Any, rigs: Any, ending: str, order: Any, cuts: int) -> None:
    """The step counts in any case; whoever comes second sees the other."""
    rig.admitting = True
    fence, other = rig.running(), rig.running()
    if ending == 'satisfied':
        rig.commit(rigs.finish(other))
    step = {'proceed': rigs.proceed(fence), 'finish': rigs.finish(fence)}.get(ending) or rigs.await_(fence, other.pid)
    answers = in_order(rig, {'s': step, 'p': pausing(fence.pid)}, order, cuts)
    row, verdict = rig.row(fence.pid), answers['s']
    paused_first = order[0] == 'p'
    assert isinstance(verdict, Held) and verdict.paused is paused_first
    assert (row.version, row.visit) == (verdict.version, 1)
    if ending == 'finish':
        assert (row.state, row.paused, row.owner) == ('finished', 0, None)
        assert answers['p'] == ([fence.pid] if paused_first else [])
        return
    assert row.paused == ITSELF and rig.pauses == {fence.pid: True}
    assert row.state == ('waiting' if ending == 'wait' else 'running')
    # Paused before, it is released by the very commit; paused after, its runner is told and gives it back.
    assert row.owner == (None if paused_first or ending == 'wait' else rig.engine_id)
    rig.claims.clear()
    if row.owner is not None:
        rig.do(lambda transaction: transaction.release(Fence(row.pid, row.epoch, row.version), take_again=True))
        assert rig.claims == [] and rig.row(fence.pid).owner is None
    assert rig.do(playing(fence.pid)) == [fence.pid]
    assert [claim.pid for claim in rig.claims] == ([] if ending == 'wait' else [fence.pid])


@pytest.mark.parametrize(('order', 'cuts'), orders('spq'))
def test_pause_play_and_commit_in_every_order_lose_nobody(rig: Any, rigs: Any, order: Any, cuts: int) -> None:
    """Whatever the order: it runs on in the same hands, is claimed anew, or is paused and nobody's or its runner's."""
    rig.admitting = True
    fence = rig.running()
    operations = {'s': rigs.proceed(fence), 'p': pausing(fence.pid), 'q': playing(fence.pid)}
    answers = in_order(rig, operations, order, cuts)
    row, verdict = rig.row(fence.pid), answers['s']
    assert isinstance(verdict, Held)
    paused = order.index('q') < order.index('p')
    assert row.paused == (ITSELF if paused else 0)
    assert rig.pauses == {fence.pid: paused}
    claims = [claim.epoch for claim in rig.claims]
    if verdict.paused:  # its runner has left it
        assert (row.owner, claims) == ((None, []) if paused else (rig.engine_id, [2]))
    else:
        assert (row.owner, claims) == (rig.engine_id, [])


@pytest.mark.parametrize(('order', 'cuts'), orders('rq'))
def test_a_play_while_the_runner_gives_the_process_back(rig: Any, order: Any, cuts: int) -> None:
    rig.admitting = True
    fence = rig.running()
    rig.do(pausing(fence.pid))

    def release(transaction: Any) -> None:
        transaction.release(fence, take_again=True)

    in_order(rig, {'r': release, 'q': playing(fence.pid)}, order, cuts)
    assert [(claim.pid, claim.epoch) for claim in rig.claims] == [(fence.pid, 2)]
    assert rig.row(fence.pid).owner == rig.engine_id


@pytest.mark.parametrize(('order', 'cuts'), orders('skp'))
def test_a_kill_of_what_is_paused_has_no_other_end_behind_it(rig: Any, rigs: Any, order: Any, cuts: int) -> None:
    rig.admitting = True
    fence = rig.running()
    operations = {'s': rigs.proceed(fence), 'k': killing(fence.pid), 'p': pausing(fence.pid)}
    in_order(rig, operations, order, cuts)
    row = rig.row(fence.pid)
    assert (row.state, row.paused, row.owner, rig.claims) == ('killed', 0, None, [])


# -- wake-ups -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('order', 'cuts'), orders('wcp'))
def test_a_waiting_process_that_is_woken_stays_put_until_it_is_played(
    rig: Any, rigs: Any, order: Any, cuts: int
) -> None:
    """The parent goes to wait, the child ends, the parent is paused; then it is played."""
    rig.admitting = True
    parent, child = rig.running(), rig.running()
    operations = {'w': rigs.await_(parent, child.pid), 'c': rigs.finish(child), 'p': pausing(parent.pid)}
    answers = in_order(rig, operations, order, cuts)
    row, verdict = rig.row(parent.pid), answers['w']
    assert (row.state, row.paused) == ('running', ITSELF)
    assert rig.awaiting() == set()
    fence = Fence(row.pid, row.epoch, row.version)
    claims = [claim.pid for claim in rig.claims]
    held = verdict.satisfied and not verdict.paused
    if row.owner is not None:
        # The pause came after it had been woken, or had stayed: its runner is told, and gives it back.
        assert held is (claims == [])
        rig.claims.clear()
        rig.do(lambda transaction: transaction.release(fence, take_again=True))
    assert rig.row(parent.pid).owner is None and rig.claims == []
    assert rig.do(playing(parent.pid)) == [parent.pid]
    assert [claim.pid for claim in rig.claims] == [parent.pid]


# -- births -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('order', 'cuts'), orders('bp'))
@pytest.mark.parametrize('with_step', [False, True])
def test_a_child_is_born_paused_or_paused_after_its_birth(
    rig: Any, rigs: Any, with_step: bool, order: Any, cuts: int
) -> None:
    rig.admitting = True
    parent = rig.running()
    child = rig.record(parent=parent.pid, call_visit=0, call_number=0)
    birth = rigs.proceed(parent, create=(child,)) if with_step else Unit(fence=parent, create=(child,))
    in_order(rig, {'b': birth, 'p': pausing(parent.pid)}, order, cuts)
    row = rig.row(child.pid)
    assert row.paused == ABOVE
    claimed = [claim.pid for claim in rig.claims if claim.pid == child.pid]
    if order[0] == 'b' and cuts:
        assert claimed == [child.pid], 'it was born and claimed before anyone paused it'
        assert rig.pauses[child.pid] is True
        return
    assert (row.owner, claimed) == (None, [])
    assert rig.do(playing(parent.pid)) == [parent.pid, child.pid]
    assert [claim.pid for claim in rig.claims if claim.pid == child.pid] == [child.pid]


@pytest.mark.parametrize(('order', 'cuts'), orders('bpq'))
def test_no_child_is_left_paused_by_a_play_of_its_parent(rig: Any, rigs: Any, order: Any, cuts: int) -> None:
    rig.admitting = True
    parent = rig.running()
    child = rig.record(parent=parent.pid, call_visit=0, call_number=0)
    operations = {
        'b': Unit(fence=parent, create=(child,)),
        'p': pausing(parent.pid),
        'q': playing(parent.pid),
    }
    in_order(rig, operations, order, cuts)
    paused = order.index('q') < order.index('p')
    assert flags(rig, parent, Fence(child.pid, 1, 0)) == ([ITSELF, ABOVE] if paused else [0, 0])
    if not paused:
        assert [claim.pid for claim in rig.claims if claim.pid == child.pid] == [child.pid]


# -- pausing oneself ------------------------------------------------------------------------------------------


def test_a_unit_that_pauses_takes_its_children_along_and_releases_its_process(rig: Any, rigs: Any) -> None:
    rig.admitting = True
    parent = rig.running()
    older = rig.running(parent=parent.pid, call_visit=0, call_number=0)
    child = rig.record(parent=parent.pid, call_visit=0, call_number=1)
    verdict = rig.commit(rigs.proceed(parent, create=(child,), pauses=True))
    assert verdict.paused
    assert flags(rig, parent, older, Fence(child.pid, 0, 0)) == [ITSELF, ABOVE, ABOVE]
    assert rig.row(parent.pid).owner is None and rig.claims == []
    assert rig.pauses == {parent.pid: True, older.pid: True, child.pid: True}
    assert rig.do(playing(parent.pid)) == [parent.pid, older.pid, child.pid]
    assert sorted(claim.pid for claim in rig.claims) == [parent.pid, child.pid]


@pytest.mark.parametrize('state', ['finished', 'excepted'])
def test_a_last_step_that_pauses_ends_all_the_same(rig: Any, state: str) -> None:
    fence = rig.running()
    rig.commit(Unit(fence=fence, advance=Advance(state, 1), pauses=True))
    assert (rig.row(fence.pid).state, rig.row(fence.pid).paused) == (state, 0)


def test_a_unit_that_pauses_and_waits_for_what_has_ended(rig: Any, rigs: Any) -> None:
    rig.admitting = True
    fence, other = rig.running(), rig.running()
    rig.commit(rigs.finish(other))
    verdict = rig.commit(rigs.await_(fence, other.pid, pauses=True))
    assert verdict.satisfied and verdict.paused
    assert (rig.row(fence.pid).state, rig.row(fence.pid).owner) == ('running', None)


# -- the log of a killed step ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('before', 'epoch', 'kept'),
    [
        ([killing(1)], 1, True),
        ([], 1, False),
        ([killing(1)], 2, False),
        ([Unit(fence=Fence(1, 1, 0), advance=Advance('finished', 1, exit_status=0))], 1, False),
        ([pausing(1)], 1, False),
    ],
    ids=['killed', 'lives', 'killed under another claim', 'finished', 'paused'],
)
def test_the_log_of_a_step_is_kept_if_its_process_was_killed_under_its_claim(rig, before, epoch, kept):
    fence = rig.running()
    for operation in before:
        rig.together(operation)
    log = [LogEntry(fence.pid, 1.0, 30, 'logger', text) for text in ('one', 'two')]
    rig.do(lambda transaction: notes.keep_log_of_killed(transaction, Fence(fence.pid, epoch, fence.version), log))
    written = [entry for entry in rig.reader.log(fence.pid) if entry.logger == 'logger']
    assert written == (log if kept else [])


def test_the_log_of_a_process_that_is_not_there_is_not_kept(rig):
    entry = LogEntry(99, 1.0, 30, 'logger', 'lost')
    rig.do(lambda transaction: notes.keep_log_of_killed(transaction, Fence(99, 1, 0), [entry]))
    assert rig.reader.log(99) == []
