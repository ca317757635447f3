"""An engine that was declared dead while it lives, and one that cannot know whether it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from treadle.engine import Engine, EngineStopped, Process, WorkChain, calcfunction, on_kill, run
from treadle.engine.faults import FaultPoint
from treadle.engine.lease import boot_clock
from treadle.engine.store import engines
from treadle.engine.testing import RecordFaults

PATIENCE = 30.0
#: What an engine promises does not depend on the database; see support.stores.
STORES = 'both'


def declare_dead(engine: Engine, observer: Engine) -> None:
    """What ``observer`` does when it has heard nothing of ``engine`` for its lease."""
    engine_id = engine.core.engine_id
    declare = observer.core.store.call(
        lambda transaction: engines.declare_dead(transaction, engine_id, seen=None, max_crashes=5)
    )
    assert declare.result(PATIENCE) is not None


@calcfunction
def slow(x: int) -> int:
    Gate.here.pass_through()
    return x + 1


class Gate:
    """Holds the first who comes, and tells."""

    here: Gate

    def __init__(self) -> None:
        self.reached, self.opened, self.told = threading.Event(), threading.Event(), threading.Event()
        self.passed: list[str] = []
        self.seen: list[BaseException] = []

    def pass_through(self) -> None:
        first = not self.passed
        self.passed.append(threading.current_thread().name)
        if first:
            self.reached.set()
            assert self.opened.wait(PATIENCE)


@pytest.fixture
def gate() -> Gate:
    Gate.here = Gate()
    return Gate.here


class Child(Process):
    """Held once."""

    def run(self) -> None:
        Gate.here.pass_through()


class Parent(Process):
    """Blocks on a child; notes what that raises."""

    def run(self) -> None:
        try:
            run(Child)
        except BaseException as error:
            Gate.here.seen.append(error)
            Gate.here.told.set()
            raise


class Told(Process):
    """Ends when its ``on_kill`` callback is called."""

    def run(self) -> None:
        with on_kill(Gate.here.opened.set):
            Gate.here.pass_through()


@pytest.fixture
def pair(make_engine: Callable[..., Engine]) -> tuple[Engine, Engine]:
    """An engine, and another that takes over whatever is free."""
    return make_engine(name='stalled'), make_engine(claims='all', name='observer')


def test_stale_steps_are_told_and_their_processes_go_on_elsewhere(pair: tuple[Engine, Engine], gate: Gate) -> None:
    stalled, observer = pair
    node = stalled.submit(Parent)
    assert gate.reached.wait(PATIENCE)
    # No heartbeat comes before the other engine has done it all, so only the lapsed lease can tell the stale step.
    stalled.core.membership._beat_due = float('inf')
    stalled.core.membership.lease._until = 0.0
    declare_dead(stalled, observer)
    # Whoever waits in plain code waits on: the process has not failed.
    assert stalled.wait(node, PATIENCE).is_finished_ok
    gate.opened.set()
    assert gate.told.wait(PATIENCE)
    assert [type(error).__name__ for error in gate.seen] == ['LeaseLost']
    assert 'declared dead' in str(gate.seen[0])
    assert len(node.called) == 1, 'the recorded call was attached to'
    assert len(gate.passed) == 2


def test_on_kill_callbacks_are_called_when_the_lease_is_lost(pair: tuple[Engine, Engine], gate: Gate) -> None:
    stalled, observer = pair
    node = stalled.submit(Told)
    assert gate.reached.wait(PATIENCE)
    declare_dead(stalled, observer)
    assert gate.opened.wait(PATIENCE)
    assert stalled.wait(node, PATIENCE).is_finished_ok


def test_it_goes_on_under_a_new_id_with_what_was_submitted_under_the_old_one(
    make_engine: Callable[..., Engine], gate: Gate
) -> None:
    record = RecordFaults()
    stalled, observer = make_engine(name='stalled', faults=record), make_engine(name='observer')
    observer.core.claims._script = None  # as if of another script: it is the stalled one that takes its own up again
    before = stalled.core.engine_id
    node = stalled.submit(Told)
    assert gate.reached.wait(PATIENCE)
    declare_dead(stalled, observer)
    assert stalled.wait(node, PATIENCE).is_finished_ok
    assert record.counts[FaultPoint.ENGINE_REJOINED] == 1
    assert stalled.core.engine_id > before
    assert stalled.run(Told) == {}
    assert stalled.unfinished() == []
    rows = {each.id: each.ended for each in observer.core.source.reader.live_engines()}
    assert rows == {stalled.core.engine_id: None, observer.core.engine_id: None}
    assert len(list(stalled.location.lock_folder().glob('*.lock'))) == 2


def test_a_function_that_plain_code_has_called_says_where_it_goes_on(pair: tuple[Engine, Engine], gate: Gate) -> None:
    stalled, observer = pair
    seen: list[Any] = []

    def call() -> None:
        try:
            seen.append(stalled.core.host.call_function(slow, (1,), {}))
        except BaseException as error:
            seen.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert gate.reached.wait(PATIENCE)
    declare_dead(stalled, observer)
    (node,) = observer.query(process_label='slow')
    assert observer.wait(node, PATIENCE).outputs.result == 2
    gate.opened.set()
    caller.join(PATIENCE)
    assert isinstance(seen[0], EngineStopped) and f'wait for process {node.pid}' in str(seen[0])


@calcfunction
def plus(x: int) -> int:
    return x + 1


def test_a_call_that_finds_the_engine_declared_dead_says_where_it_goes_on(pair: tuple[Engine, Engine]) -> None:
    stalled, observer = pair
    call = stalled.core.host.call_function
    assert call(plus, (0,), {})[0] == 1  # its code is kept by now: the next call is the next that is written
    stalled.core.membership._beat_due = float('inf')
    declare_dead(stalled, observer)
    with pytest.raises(EngineStopped, match='goes on wherever its row is claimed') as caught:
        call(plus, (1,), {})
    node = observer.query(process_label='plus')[0]
    assert f'wait for process {node.pid}' in str(caught.value)
    assert observer.wait(node, PATIENCE).outputs.result == 2
    assert call(plus, (2,), {})[0] == 3  # in its new life


class Two(WorkChain):
    """Two steps, the first one held."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.first, cls.second)

    def first(self) -> None:
        Gate.here.pass_through()

    def second(self) -> None:
        Gate.here.passed.append('second')


class Coroutine(Process):
    """One step on a loop."""

    async def run(self) -> None:
        Gate.here.passed.append('coroutine')


@pytest.mark.parametrize('process', [Two, Coroutine])
def test_past_its_lease_no_step_begins_until_the_database_has_confirmed_it(
    make_engine: Callable[..., Engine], gate: Gate, process: type[Process]
) -> None:
    engine = make_engine(steps=1)
    lease = engine.core.membership.lease
    lease._clock = lambda: boot_clock() + lease.seconds + 1  # the machine was suspended
    stands, store_opens = threading.Event(), threading.Event()
    held = engine.submit(Two)
    assert gate.reached.wait(PATIENCE)
    node = engine.submit(process)  # a confirmation, by the database: it was not declared dead
    engine.core.store.post(lambda transaction: (stands.set(), store_opens.wait(PATIENCE)), lambda answer: None)
    assert stands.wait(PATIENCE)
    lease._until = 0.0
    begun = list(gate.passed)
    gate.opened.set()  # the permit is free: whoever was queued for it could begin
    assert not lease.is_valid and gate.passed == begun
    store_opens.set()
    assert all(each.is_finished_ok for each in engine.wait([held, node], PATIENCE))
    assert lease.is_valid


def test_an_engine_may_stop_while_it_waits_for_its_lease(make_engine: Callable[..., Engine], gate: Gate) -> None:
    engine = make_engine(steps=1)
    first, second = engine.submit(Two), engine.submit(Two)
    assert gate.reached.wait(PATIENCE)
    stands, store_opens = threading.Event(), threading.Event()
    engine.core.store.post(lambda transaction: (stands.set(), store_opens.wait(PATIENCE)), lambda answer: None)
    assert stands.wait(PATIENCE)
    engine.core.membership.lease._until = 0.0
    gate.opened.set()
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    store_opens.set()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    with Engine(engine.location.url) as successor:
        assert all(each.is_finished_ok for each in successor.wait([first.pid, second.pid], PATIENCE))


class Burns(Process):
    """Keeps a core, and the interpreter's lock, busy until the gate opens."""

    def run(self) -> None:
        while not Gate.here.opened.is_set():
            sum(range(1000))


def test_heartbeats_survive_burning_steps(make_engine: Callable[..., Engine], gate: Gate) -> None:
    engine = make_engine(steps=8, lease=6.0)
    nodes = [engine.submit(Burns) for _ in range(8)]
    reader, membership = engine.core.source.reader, engine.core.membership
    before = 0
    try:
        while (engine_row := reader.engine(membership.engine_id)) is not None and engine_row.heartbeat < 5:
            assert membership.lease.is_valid
            assert engine_row.heartbeat >= before
            before = engine_row.heartbeat
            threading.Event().wait(0.05)  # so that this thread burns nothing
    finally:
        gate.opened.set()
    assert all(node.is_finished_ok for node in engine.wait(nodes, PATIENCE))
    assert len(membership.lives) == 1
