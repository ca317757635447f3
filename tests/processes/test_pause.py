"""Pause and play as users see them, while an engine runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from treadle.engine import (
    Engine,
    KilledError,
    ProcessNotFound,
    ProcessState,
    ToContext,
    WorkChain,
    append_,
    calcfunction,
    on_kill,
)

PATIENCE = 30.0


class Steps:
    """Lets a test follow and hold the steps of the chains below; steps run in this OS process."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, str]] = []
        self.entered = threading.Semaphore(0)
        self.may_go_on = threading.Semaphore(0)

    def take(self, pid: int, name: str) -> None:
        self.taken.append((pid, name))
        self.entered.release()
        assert self.may_go_on.acquire(timeout=PATIENCE)

    def wait_for_one(self) -> None:
        assert self.entered.acquire(timeout=PATIENCE)

    def let_go(self, count: int = 1) -> None:
        self.may_go_on.release(count)


STEPS = Steps()


@pytest.fixture(autouse=True)
def steps() -> Iterator[Steps]:
    """A fresh register; what is still held is let go after the test."""
    STEPS.__init__()  # type: ignore[misc]
    yield STEPS
    STEPS.let_go(1000)


class Two(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.first, cls.second)

    def first(self):
        STEPS.take(self.pid, 'first')

    def second(self):
        STEPS.take(self.pid, 'second')


class Parent(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.call, cls.gather)

    def call(self):
        return ToContext(children=append_(self.submit(Two)))

    def gather(self):
        STEPS.take(self.pid, 'gather')


class PausesItself(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('reason', valid_type=str, required=False)
        spec.input('last', valid_type=bool, default=False)
        spec.output('x')
        spec.outline(cls.first, cls.second)

    def first(self):
        if not self.inputs.last:
            self.pause(self.inputs.get('reason'))
            self.out('x', 1)

    async def second(self):
        if self.inputs.last:
            self.pause()
        self.out('x', 2)


@calcfunction
def double(x):
    return 2 * x


class Calls(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('y')
        spec.outline(cls.first, cls.second)

    def first(self):
        STEPS.take(self.pid, 'first')
        self.out('y', double(3))

    def second(self):
        pass


def until(holds: Callable[[], bool], what: str = 'that') -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f'{what} never came to be'
        time.sleep(0.01)


def settled(engine: Engine, pid: int) -> None:
    """Wait until no worker holds the process."""
    dispatcher = engine.core.dispatcher
    until(lambda: all(held != pid for held, _ in list(dispatcher._held)), f'the release of process {pid}')


class TestPause:
    def test_a_step_that_runs_is_not_interrupted_and_no_other_follows(self, engine: Engine, steps: Steps):
        node = engine.submit(Two)
        steps.wait_for_one()
        assert engine.pause(node, 'for lunch')
        assert node.paused and node.state == 'running'
        steps.let_go()
        settled(engine, node.pid)
        assert steps.taken == [(node.pid, 'first')]
        assert (node.state, node.paused, engine.core.source.reader.process(node.pid).owner) == ('running', True, None)
        assert engine.play(node)
        assert not node.paused
        steps.let_go()
        assert engine.wait(node, PATIENCE).is_finished_ok
        assert [name for _, name in steps.taken] == ['first', 'second'], 'and none of them twice'
        assert [entry.message for entry in node.log] == ['paused: for lunch', 'played']

    def test_whoever_waits_waits_on(self, engine: Engine, steps: Steps):
        node = engine.submit(Two)
        steps.wait_for_one()
        engine.pause(node)
        steps.let_go()
        settled(engine, node.pid)
        with pytest.raises(TimeoutError):
            engine.wait(node, 0.05)
        future = engine.future(node)
        assert not future.done()
        engine.play(node)
        steps.let_go()
        assert future.result(PATIENCE).is_finished_ok

    def test_a_waiting_parent_is_paused_with_its_child_and_stays_put_when_it_is_woken(
        self, engine: Engine, steps: Steps
    ):
        node = engine.submit(Parent)
        steps.wait_for_one()
        (child,) = node.called
        engine.pause(node)
        assert (node.state, node.paused, child.paused) == ('waiting', True, True)
        steps.let_go()
        settled(engine, child.pid)
        assert child.state == 'running'
        assert engine.play(child), 'a child goes on by itself'
        steps.let_go()
        assert engine.wait(child, PATIENCE).is_finished_ok
        assert (node.state, node.paused) == ('running', True), 'woken, and not taken'
        engine.play(node)
        steps.let_go()
        assert engine.wait(node, PATIENCE).is_finished_ok
        assert [name for _, name in steps.taken] == ['first', 'second', 'gather']

    def test_play_of_a_parent_leaves_the_child_that_was_paused_by_itself(self, engine: Engine, steps: Steps):
        node = engine.submit(Parent)
        steps.wait_for_one()
        (child,) = node.called
        assert engine.pause(child) and engine.pause(node)
        assert engine.play(node)
        assert (node.paused, child.paused) == (False, True)
        steps.let_go()
        settled(engine, child.pid)
        engine.play(child)
        steps.let_go(2)
        assert engine.wait(node, PATIENCE).is_finished_ok

    def test_a_pause_before_the_first_step(self, make_engine, steps: Steps):
        engine = make_engine(steps=1)
        holding = engine.submit(Two)
        steps.wait_for_one()
        node = engine.submit(Two)  # claimed, and waits for the only permit
        engine.pause(node)
        steps.let_go(2)
        assert engine.wait(holding, PATIENCE).is_finished_ok
        settled(engine, node.pid)
        assert [pid for pid, _ in steps.taken] == [holding.pid] * 2
        engine.play(node)
        steps.let_go(2)
        assert engine.wait(node, PATIENCE).is_finished_ok

    def test_functions_that_a_running_step_calls_are_part_of_it(self, engine: Engine, steps: Steps):
        node = engine.submit(Calls)
        steps.wait_for_one()
        engine.pause(node)
        steps.let_go()
        settled(engine, node.pid)
        (called,) = node.called
        assert called.is_finished_ok and not called.paused
        engine.play(node)
        assert engine.wait(node, PATIENCE).outputs.y == 6

    def test_it_outlives_the_engine(self, make_engine, steps: Steps):
        engine = make_engine()
        node = engine.submit(Two)
        steps.wait_for_one()
        engine.pause(node)
        steps.let_go()
        settled(engine, node.pid)
        engine.stop()
        engine = make_engine()
        again = engine.load(node.pid)
        assert again.paused
        assert [name for _, name in steps.taken] == ['first']
        engine.play(again)
        steps.let_go()
        assert engine.wait(again, PATIENCE).is_finished_ok


class TestItself:
    def test_a_step_may_pause_its_process(self, engine: Engine):
        node = engine.submit(PausesItself, reason='look at x')
        until(lambda: node.paused)  # it may not be held yet
        settled(engine, node.pid)
        assert (node.paused, node.outputs.x) == (True, 1)
        assert [entry.message for entry in node.log] == ['paused itself: look at x']
        engine.play(node)
        assert engine.wait(node, PATIENCE).outputs.x == 2

    def test_a_last_step_ends_all_the_same(self, engine: Engine):
        node = engine.run_get_node(PausesItself, last=True)[1]
        assert (node.is_finished_ok, node.paused, node.outputs.x) == (True, False, 2)

    def test_a_step_may_play_what_it_has_paused(self, engine: Engine):
        class Changes(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.only)

            def only(self):
                assert engine.pause(self.pid) and self.node.paused
                assert engine.play(self.pid) and not self.node.paused

        assert engine.run_get_node(Changes)[1].is_finished_ok


class TestKill:
    def test_a_paused_process_is_killed(self, engine: Engine, steps: Steps):
        node = engine.submit(Parent)
        steps.wait_for_one()
        engine.pause(node)
        assert engine.kill(node, 'enough')
        (child,) = node.called
        assert {(each.state, each.paused) for each in (node, child)} == {('killed', False)}

    def test_a_blocked_run_is_told_of_the_kill(self, engine: Engine):
        failed: list[BaseException] = []

        def run() -> None:
            try:
                engine.run(PausesItself, reason='', metadata={'key': 'blocked'})
            except KilledError as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        found = threading.Event()
        for _ in range(3000):
            nodes = engine.query(key='blocked')
            if nodes and nodes[0].paused:
                break
            found.wait(0.01)
        assert thread.is_alive()
        engine.kill(nodes[0])
        thread.join(PATIENCE)
        assert len(failed) == 1


class TestMisuse:
    def test_unknown_and_ended_processes(self, engine: Engine):
        for method in (engine.pause, engine.play):
            with pytest.raises(ProcessNotFound, match='no process 98765'):
                method(98765)
        node = engine.run_get_node(double, x=4)[1]
        assert node.state is ProcessState.FINISHED
        assert not engine.pause(node) and not engine.play(node)

    def test_play_of_what_is_not_paused(self, engine: Engine, steps: Steps):
        node = engine.submit(Two)
        steps.wait_for_one()
        assert not engine.play(node)
        assert engine.pause(node) and not engine.pause(node)
        engine.play(node)
        steps.let_go(2)
        assert engine.wait(node, PATIENCE).is_finished_ok

    def test_outside_of_a_step(self, engine: Engine):
        kept = []

        class Leaks(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.only)

            def only(self):
                kept.append(self)

        engine.run(Leaks)
        with pytest.raises(RuntimeError, match='not in a step'):
            kept[0].pause()


class TestFromElsewhere:
    """Intents that another engine writes into the store; the one that runs the process notices them."""

    def test_a_pause_of_what_waits_for_a_permit(self, make_engine, steps: Steps):
        engine, other = make_engine(steps=1), make_engine()
        holding = engine.submit(Two)
        steps.wait_for_one()
        node = engine.submit(Two)
        assert other.pause(node.pid, 'from elsewhere')
        noticed = threading.Event()
        for _ in range(3000):
            if engine.core.dispatcher._paused:
                break
            noticed.wait(0.01)
        steps.let_go(2)
        assert engine.wait(holding, PATIENCE).is_finished_ok
        settled(engine, node.pid)
        assert [pid for pid, _ in steps.taken] == [holding.pid] * 2
        assert other.play(node.pid)
        steps.let_go(2)
        assert engine.wait(node, PATIENCE).is_finished_ok

    def test_a_kill_reaches_the_step(self, make_engine):
        begun, told = threading.Event(), threading.Event()

        class Blocks(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.outline(cls.only)

            def only(self):
                with on_kill(told.set):
                    begun.set()
                    assert told.wait(PATIENCE)

        engine, other = make_engine(), make_engine()
        node = engine.submit(Blocks)
        assert begun.wait(PATIENCE)
        assert other.kill(node.pid)
        assert told.wait(PATIENCE)
        assert engine.wait(node, PATIENCE).is_killed


class TestWhy:
    def test_a_killed_process_whose_step_executes(self, engine: Engine, steps: Steps):
        node = engine.submit(Two)
        steps.wait_for_one()
        assert engine.why(node)['executing']
        engine.kill(node, 'enough')
        why = engine.why(node.pid)
        assert (why['state'], why['executing'], why['exit_message']) == ('killed', True, 'enough')
        assert 'results dropped when it returns. One does so now.' in why['because']

    def test_what_waits_and_what_is_paused(self, engine: Engine, steps: Steps):
        node = engine.submit(Parent)
        steps.wait_for_one()
        (child,) = node.called
        assert [each['pid'] for each in engine.why(node)['awaits']] == [child.pid]
        engine.pause(node, 'for lunch')
        why = engine.why(child)
        assert (why['paused_by']['pid'], why['paused_by']['message']) == (node.pid, 'paused: for lunch')
        engine.kill(node)
