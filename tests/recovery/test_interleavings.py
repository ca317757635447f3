"""Orders of events that chance brings seldom, forced: kills, wakes, stops and deaths at the worst moment."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import Engine, Process, ToContext, WorkChain, calcfunction, on_kill, run
from treadle.engine.dispatcher import Dispatcher
from treadle.engine.errors import EngineStopped, KilledError
from treadle.engine.faults import FaultPoint
from treadle.engine.homes import Homes
from treadle.engine.processes.visit import Visit
from treadle.engine.store import intents
from treadle.engine.store.records import Fence, Unit
from treadle.engine.testing import BlockAt, RaiseAt

PATIENCE = 20


class Signals:
    """What a step of a test tells the test, and waits for."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.reached, self.opened, self.told = threading.Event(), threading.Event(), threading.Event()


signals = Signals()


@pytest.fixture(autouse=True)
def new_signals() -> None:
    global signals
    signals = Signals()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f'sqlite:///{tmp_path}/store.db'


@calcfunction
def count(x: int) -> int:
    """Notes that it executes."""
    signals.executed.append('count')
    return x


@calcfunction
def stay() -> None:
    """Executes until it is told that it was killed, or until the test lets it go."""
    signals.executed.append('stay')
    with on_kill(signals.told.set):
        signals.reached.set()
        assert signals.told.wait(PATIENCE)


class Leaf(WorkChain):
    """One step that notes that it executes."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.work)

    def work(self) -> None:
        signals.executed.append('leaf')


class Waits(WorkChain):
    """Waits for a child."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.launch, cls.go_on)

    def launch(self) -> ToContext:
        return ToContext(leaf=self.submit(Leaf))

    def go_on(self) -> None:
        signals.executed.append('go on')
        signals.reached.set()
        with on_kill(signals.told.set):
            assert signals.opened.wait(PATIENCE)


class Calls(WorkChain):
    """Calls a function that stays."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.call)

    def call(self) -> None:
        stay()


class Runs(WorkChain):
    """Runs a child and waits for it."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.call)

    def call(self) -> None:
        run(Waits)


def test_a_function_called_from_plain_code_executes_once(url: str) -> None:
    with Engine(url) as engine:
        for x in range(50):
            assert engine.core.host.call_function(count, (x,), {})[0] == x
    assert len(signals.executed) == 50


def test_a_process_that_is_killed_in_the_commit_that_makes_it_never_begins(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(url) as engine:
        engine.run(Leaf)
        signals.executed.clear()
        stands, gate, posted = threading.Event(), threading.Event(), threading.Event()
        post = engine.core.store.post

        def watched(operation: Any, reply: Any) -> None:
            post(operation, reply)
            if isinstance(operation, Unit) and operation.create:
                posted.set()

        monkeypatch.setattr(engine.core.store, 'post', watched)
        post(lambda transaction: (stands.set(), gate.wait(PATIENCE)), lambda answer: None)
        assert stands.wait(PATIENCE)
        submitting = threading.Thread(target=lambda: engine.submit(Leaf, metadata={'key': 'k'}))
        submitting.start()
        assert posted.wait(PATIENCE)
        # Behind it while the store thread stands, so both are in the next transaction.
        killed = engine.core.store.call(lambda transaction: intents.kill(transaction, list(range(1, 10)), 'at birth'))
        gate.set()
        assert len(killed.result(PATIENCE)) == 1
        submitting.join()
        (node,) = engine.query(key='k')
        assert node.is_killed
    assert signals.executed == []


def test_a_function_is_told_of_a_kill_that_comes_right_behind_its_creation(url: str) -> None:
    """The kill is committed when the function exists and before its body has begun."""
    with BlockAt(FaultPoint.CALL_RECORDED) as block, Engine(url, faults=block) as engine:
        node = engine.submit(Calls)
        block.wait_reached()
        assert engine.kill(node, 'right away')
        block.release()
        assert engine.wait(node, PATIENCE).is_killed
    # Either it never began, or it was told; it did not stay for ever.
    assert 'stay' not in signals.executed or signals.told.is_set()
    assert not signals.reached.is_set() or signals.told.is_set()


def test_a_kill_reaches_the_steps_of_parent_and_child_that_block_each_other(url: str) -> None:
    with Engine(url) as engine:
        node = engine.submit(Runs)
        assert signals.reached.wait(PATIENCE)
        assert engine.kill(node, 'both')
        assert signals.told.wait(PATIENCE)
        signals.opened.set()
        assert engine.wait(node, PATIENCE).is_killed
        assert all(child.is_killed for child in node.called)


def test_a_step_holds_its_claim_although_the_claim_before_is_left_late() -> None:
    """The worker that a process has left may take notice only when the process was woken and claimed anew."""
    dispatcher = Dispatcher(
        capacity=1, blocked=lambda: 0, suspect_from=4, admits=lambda record: True, homes=Homes()
    )
    host: Any = None
    dispatcher.open([])
    old, new = (Visit(host=host, fence=Fence(7, epoch, epoch), number=epoch, origin=1) for epoch in (1, 2))
    assert dispatcher.begin_visit(old)
    dispatcher.end_visit(old)
    assert dispatcher.begin_visit(new)
    dispatcher.left(7, 1)
    assert dispatcher.visits() == [new]
    assert dispatcher.kill([7]) == [new]
    dispatcher.left(7, 2)
    assert dispatcher.held == 0


def test_a_woken_parent_is_told_of_a_kill(url: str) -> None:
    with Engine(url) as engine:
        node = engine.submit(Waits)
        assert signals.reached.wait(PATIENCE)
        assert engine.kill(node, 'now')
        assert signals.told.wait(PATIENCE), 'the step was not told'
        signals.opened.set()
        assert engine.wait(node, PATIENCE).is_killed
    assert signals.executed == ['leaf', 'go on']


def test_what_a_child_raises_before_its_parent_waits_is_the_same_object(url: str) -> None:
    raised, caught = LookupError('at once'), list[BaseException]()

    class Inner(Process):
        def run(self) -> None:
            raise raised

    class Outer(Process):
        def run(self) -> None:
            try:
                run(Inner)
            except LookupError as error:
                caught.append(error)

    with BlockAt(FaultPoint.CALL_RECORDED) as block, Engine(url, faults=block) as engine:
        node = engine.submit(Outer)
        block.wait_reached()
        (child,) = node.called
        assert engine.wait(child, PATIENCE).is_excepted
        block.release()
        assert engine.wait(node, PATIENCE).is_finished_ok
    assert caught[0] is raised


def test_claims_that_are_committed_while_the_engine_stops_stay_runnable(url: str) -> None:
    with BlockAt(FaultPoint.BATCH_WRITTEN, hit=4) as block:
        engine = Engine(url, faults=block).start()
        submitted: list[Any] = []
        submitting = threading.Thread(target=lambda: submitted.append(engine.submit(Leaf)))
        submitting.start()
        block.wait_reached()
        # The claim is written and not committed; the workers close before it is.
        stopping = threading.Thread(target=engine.stop)
        stopping.start()
        for worker in engine.core._workers:
            while not worker._mailbox.closed:
                stopping.join(0.001)
        block.release()
        stopping.join(PATIENCE)
        submitting.join(PATIENCE)
        assert not stopping.is_alive() and not submitting.is_alive()
    with Engine(url) as engine:
        assert engine.wait([node.pid for node in engine.query()], PATIENCE)[0].is_finished_ok
    assert signals.executed == ['leaf']


def test_whoever_waits_is_told_when_the_store_thread_dies(url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(url, faults=RaiseAt(FaultPoint.BATCH_COMMITTED, lambda: SystemError('struck'), hit=6)).start()
    with pytest.raises(EngineStopped), caplog.at_level(logging.CRITICAL):
        for _ in range(20):
            engine.run(Leaf)
    with pytest.raises(EngineStopped):
        engine.submit(Leaf)
    engine.stop(PATIENCE)
    # What it had accepted is found and ended by the next one.
    with Engine(url) as engine:
        left = engine.query()
        assert all(node.is_finished_ok for node in engine.wait(left, PATIENCE))


def test_a_kill_wins_against_the_end_that_is_on_its_way(url: str) -> None:
    with BlockAt(FaultPoint.STEP_RETURNED) as block, Engine(url, faults=block) as engine:
        node = engine.submit(Leaf, metadata={'key': 'k'})
        block.wait_reached()
        assert engine.kill(node, 'first')
        assert not engine.kill(node, 'second')
        block.release()
        with pytest.raises(KilledError, match='first'):
            engine.core.calls.waits.outcome(engine.wait(node, PATIENCE))
        # The killed one gives its key back.
        assert engine.run_get_node(Leaf, metadata={'key': 'k'})[1].pid != node.pid
        assert engine.load(node.pid).is_killed
