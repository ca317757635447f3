"""Steps that wait hold no permit and no thread that somebody else needs; steps that execute are bounded."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from treadle.engine import (
    Engine,
    Process,
    ProcessNode,
    ToContext,
    WorkChain,
    append_,
    calcfunction,
    claims,
    core,
    run,
)

PATIENCE = 30.0
#: What an engine promises does not depend on the database; see support.stores.
STORES = 'both'


#: Threads that may have looked for work, for the dead, for what others have committed, for answers that are owed; each
#: look may begin while the thread of the one before is not yet back.
SEARCHES = 2 * 4


def step_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith('treadle-step')]


class Nested(Process):
    """Runs itself one level deeper, blocking."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('depth', valid_type=int)
        spec.output('depth', valid_type=int)

    def run(self):
        depth = self.inputs.depth
        self.out('depth', 0 if depth == 0 else run(Nested, depth=depth - 1)['depth'] + 1)


def test_fifty_nested_blocking_runs_finish_with_one_worker_and_one_step(make_engine):
    engine = make_engine(workers=1, steps=1)
    assert engine.run(Nested, depth=50) == {'depth': 50}


@calcfunction
def deeper(n: int) -> int:
    return 0 if n == 0 else deeper(n - 1) + 1


def test_nested_calls_of_functions_stay_in_one_thread(make_engine):
    engine = make_engine(workers=1, steps=1)
    assert engine.run(deeper, n=30) == 30
    assert len(step_threads()) <= 1 + SEARCHES


class Gate(Process):
    """Waits until it is let go."""

    open: ClassVar[threading.Event] = threading.Event()
    entered: ClassVar[threading.Semaphore] = threading.Semaphore(0)

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int, default=0)
        spec.output('n', valid_type=int)

    def run(self):
        type(self).entered.release()
        if not type(self).open.wait(PATIENCE):
            raise TimeoutError('the gate was never opened')
        self.out('n', self.inputs.n)

    @classmethod
    def reset(cls):
        cls.open = threading.Event()
        cls.entered = threading.Semaphore(0)


class Child(WorkChain):
    """Two steps."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('n', valid_type=int)
        spec.outline(cls.begin, cls.end)

    def begin(self):
        self.ctx.n = self.inputs.n

    def end(self):
        self.out('n', self.ctx.n)


class Waiting(WorkChain):
    """Waits for a child, and for a process that somebody keeps shut."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.input('gate', valid_type=ProcessNode)
        spec.output('n', valid_type=int)
        spec.outline(cls.launch, cls.gather)

    def launch(self):
        return ToContext(child=self.submit(Child, n=self.inputs.n), gate=self.inputs.gate)

    def gather(self):
        self.out('n', self.ctx.child.outputs.n)


class Many(WorkChain):
    """Starts many children and waits for all."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.input('gate', valid_type=ProcessNode, required=False)
        spec.output('total', valid_type=int)
        spec.outline(cls.launch, cls.gather)

    def launch(self):
        for n in range(self.inputs.n):
            if 'gate' in self.inputs:
                child = self.submit(Waiting, n=n, gate=self.inputs.gate)
            else:
                child = self.submit(Gate, n=n)
            self.to_context(children=append_(child))

    def gather(self):
        self.out('total', sum(child.outputs.n for child in self.ctx.children))


def test_a_thousand_waiting_parents_hold_no_thread_on_one_worker(make_engine):
    Gate.reset()
    engine = make_engine(workers=1, steps=2)
    gate = engine.submit(Gate)
    assert Gate.entered.acquire(timeout=PATIENCE)  # it holds one of the two permits
    top = engine.submit(Many, n=1000, gate=gate)
    until(lambda: len(engine.query(states=['finished'], process_label='Child')) == 1000)
    until(lambda: len(engine.query(states=['waiting'], process_label='Waiting')) == 1000)
    until(lambda: engine.core.dispatcher.held == 1)  # the gate
    assert len(step_threads()) <= 2 + SEARCHES
    others = {thread.name for thread in threading.enumerate() if thread.name.startswith('treadle')} - {*step_threads()}
    assert others == {'treadle-store', 'treadle-worker-1', 'treadle-watchdog'}
    assert top.state == 'waiting'
    Gate.open.set()
    assert engine.wait(top, timeout=PATIENCE).outputs.total == sum(range(1000))


def until(condition):
    """Wait for what no event tells of."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, 'it never came true'
        pause.wait(0.02)


def test_ten_thousand_blocked_steps_stay_within_the_permits_and_within_memory(make_engine):
    Gate.reset()
    engine = make_engine(workers=2, steps=4)
    top = engine.submit(Many, n=10_000)
    for _ in range(4):
        assert Gate.entered.acquire(timeout=PATIENCE)
    until(lambda: top.state == 'waiting')
    assert not Gate.entered.acquire(timeout=0.2)  # a fifth step never begins
    assert len(step_threads()) <= 4 + SEARCHES
    assert engine.core.dispatcher.held <= 256  # the others are rows
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        assert engine.kill(top)
        Gate.open.set()
        assert engine.wait(top, timeout=PATIENCE).is_killed
        until(lambda: engine.core.dispatcher.held == 0)
        grown = sum(entry.size_diff for entry in tracemalloc.take_snapshot().compare_to(before, 'filename'))
    finally:
        tracemalloc.stop()
    assert grown < 30e6
    assert engine.query(states=['created', 'running', 'waiting'], limit=1) == []


class Blocking(Process):
    """Blocks in ``run()`` of a child."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('n', valid_type=int)

    def run(self):
        self.out('n', run(Child, n=self.inputs.n)['n'])


def test_blocked_parents_do_not_pile_up_threads(make_engine):
    engine = make_engine(workers=2, steps=4)
    most = 0
    stop = threading.Event()

    def count():
        nonlocal most
        while not stop.wait(0.002):
            most = max(most, len(step_threads()))

    counter = threading.Thread(target=count)
    counter.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            nodes = list(pool.map(lambda n: engine.submit(Blocking, n=n), range(200)))
        ended = engine.wait(nodes, timeout=PATIENCE)
    finally:
        stop.set()
        counter.join()
    assert [node.outputs.n for node in ended] == list(range(200))
    assert most <= 40, f'{most} threads for 4 permits and 200 parents'
    assert engine.core.steps.blocked_count == 0


@pytest.fixture
def no_sweeps(monkeypatch):
    """Nothing is found only because it is time to look."""
    monkeypatch.setattr(claims, 'SWEEP', 100 * PATIENCE)


@pytest.fixture
def small(monkeypatch, no_sweeps):
    """Engines hold four processes at once."""
    monkeypatch.setattr(core, 'HELD_AT_LEAST', 4)
    monkeypatch.setattr(core, 'HELD_PER_STEP', 0)


def settled(engine):
    """The engine, once it has made the search that it makes when it starts."""
    until(lambda: engine.core.claims._sweep_due > 0 and not engine.core.claims._search._runs)
    return engine


class Awaits(Process):
    """Awaits a child, together with as many others as an engine holds."""

    together: ClassVar[asyncio.Barrier]
    call: ClassVar[Callable[[], Awaitable[object]]]

    async def run(self):
        await type(self).together.wait()
        await type(self).call()


def test_as_many_coroutine_steps_as_are_held_may_await_children(make_engine, small):
    Awaits.together = asyncio.Barrier(4)
    engine = settled(make_engine(workers=1, steps=2))
    Awaits.call = lambda: engine.run_async(Child, n=1)
    nodes = [engine.submit(Awaits) for _ in range(4)]
    assert all(node.is_finished_ok for node in engine.wait(nodes, PATIENCE))
    until(lambda: engine.core.dispatcher.held == 0)
    assert engine.core.dispatcher.room == 4  # none is counted as awaiting any more


def test_as_many_coroutine_steps_as_are_held_may_wait_for_what_was_turned_away(make_engine, small):
    Awaits.together = asyncio.Barrier(4)
    engine = settled(make_engine(workers=1, steps=2))

    async def submit_and_wait():
        submitted = await asyncio.to_thread(engine.submit, Child, n=1)
        await Awaits.together.wait()
        await engine.wait_async(submitted)

    Awaits.call = submit_and_wait
    nodes = [engine.submit(Awaits) for _ in range(4)]
    assert all(node.is_finished_ok for node in engine.wait(nodes, PATIENCE))


class Holds(Process):
    """Holds its place for as long as the test wants."""

    entered: ClassVar[threading.Semaphore]
    released: ClassVar[threading.Event]

    async def run(self):
        self.entered.release()
        await asyncio.to_thread(self.released.wait, PATIENCE)


def test_beside_steps_that_take_long_all_others_get_their_turn(make_engine, small, monkeypatch):
    monkeypatch.setattr(core, 'HELD_AT_LEAST', 8)
    Holds.entered, Holds.released = threading.Semaphore(0), threading.Event()
    engine = settled(make_engine(workers=1, steps=2))
    long = [engine.submit(Holds) for _ in range(6)]
    for _ in long:
        assert Holds.entered.acquire(timeout=PATIENCE)
    short = [engine.submit(Child, n=n) for n in range(40)]
    assert all(node.is_finished_ok for node in engine.wait(short, PATIENCE))
    assert engine.core.dispatcher.held >= 6
    Holds.released.set()
    assert all(node.is_finished_ok for node in engine.wait(long, PATIENCE))


class WaitsFor(Process):
    """Blocks until a process has ended."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('awaited', valid_type=ProcessNode)

    def run(self):
        type(self).engine.wait(self.inputs.awaited)

    engine: ClassVar[Engine]


class Spawns(Process):
    """Starts many children in one go."""

    def run(self):
        for n in range(20):
            self.submit(Child, n=n)


def paused(engine, process, **inputs):
    """A process that has not begun, and is paused."""
    engine.core.dispatcher._open = False
    node = engine.submit(process, **inputs)
    assert engine.pause(node)
    engine.core.dispatcher._open = True
    return node


def test_beside_as_many_blocked_steps_as_are_held_all_others_get_their_turn(make_engine, small):
    engine = WaitsFor.engine = settled(make_engine(workers=1, steps=2))
    awaited = paused(engine, Child, n=1)
    blocked = [engine.submit(WaitsFor, awaited=awaited) for _ in range(4)]
    until(lambda: engine.core.steps.blocked_count == 4)
    spawned = engine.wait(engine.submit(Spawns), PATIENCE)
    assert all(child.is_finished_ok for child in engine.wait(spawned.called, PATIENCE))
    assert engine.play(awaited)
    assert all(node.is_finished_ok for node in engine.wait(blocked, PATIENCE))
