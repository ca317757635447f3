"""A disk that does not take large values for a while: what a step has done is written later, all of it."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import Engine, Process, StepAborted, WorkChain, calcfunction, execution, patience, run
from treadle.engine.errors import EngineStopped, StoreFull, StoreUnavailable
from treadle.engine.processes.visit import current_visit
from treadle.engine.store.reader import Reader
from treadle.engine.store.records import Unit
from treadle.engine.store.store_thread import Failure
from treadle.engine.terminations import Terminations
from treadle.engine.values import DiskObjects

PATIENCE = 30.0
#: So large that it goes among the large contents.
LARGE = b'x' * 200_000


class Outage:
    """Refuses large contents ``times`` times, or until it is over."""

    def __init__(self, put: Callable[..., str]) -> None:
        self._put = put
        self.refused, self.times = 0, 0
        self.begun = threading.Event()

    def put(self, objects: DiskObjects, source: Any) -> str:
        if self.refused < self.times:
            self.refused += 1
            self.begun.set()
            raise StoreFull('the disk is full; free some space')
        return self._put(objects, source)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outage]:
    outage = Outage(DiskObjects.put)
    monkeypatch.setattr(DiskObjects, 'put', lambda self, source: outage.put(self, source))
    yield outage
    outage.times = 0


class Keeps(WorkChain):
    """Gives an output and keeps a large value in the same step."""

    executed = 0

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.output('n', valid_type=int)
        spec.outline(cls.keep, cls.look)

    def keep(self) -> None:
        type(self).executed += 1
        self.out('n', 7)
        self.ctx.large = LARGE

    def look(self) -> int:
        return int(self.ctx.large != LARGE)


class Refused(WorkChain):
    """Gives an output, and keeps what cannot be stored."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.output('n', valid_type=int)
        spec.outline(cls.keep, cls.go_on)

    def keep(self) -> None:
        self.out('n', 7)
        self.ctx.strange = object()

    def go_on(self) -> None:
        raise AssertionError('the step before was not committed')


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    Keeps.executed = 0


def test_the_outputs_of_a_step_are_in_the_store_though_its_context_was_refused_at_first(
    engine: Engine, outage: Outage
) -> None:
    outage.times = 1
    node = engine.wait(engine.submit(Keeps), PATIENCE)
    assert (node.is_finished_ok, outage.refused, Keeps.executed) == (True, 1, 1)
    assert dict(engine.load(node.pid).outputs) == {'n': 7}


def test_an_outage_of_any_length_is_no_verdict(
    engine: Engine, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many attempts as are made in three hours."""
    node = engine.submit(Keeps)
    assert engine.wait(node, PATIENCE).is_finished_ok
    monkeypatch.setattr(execution, 'RETRY_FIRST', 0.0)
    monkeypatch.setattr(execution, 'RETRY_MOST', 0.0)
    outage.times = 1100
    assert engine.wait(engine.submit(Keeps), PATIENCE).is_finished_ok
    assert outage.refused == 1100


def test_an_engine_stops_at_once_though_a_step_cannot_be_written(
    make_engine: Callable[..., Engine], outage: Outage
) -> None:
    engine = make_engine()
    outage.times = 1_000_000
    node = engine.submit(Keeps)
    assert outage.begun.wait(PATIENCE)
    begun = time.monotonic()
    engine.stop(PATIENCE)
    assert time.monotonic() - begun < PATIENCE / 3, 'it waited for a step that was over'
    outage.times = 0
    assert make_engine().wait(node.pid, PATIENCE).outputs.n == 7


def test_outputs_that_were_not_committed_are_seen_by_nobody(engine: Engine) -> None:
    node = engine.wait(engine.submit(Refused), PATIENCE)
    assert node.is_excepted
    assert dict(node.outputs) == dict(engine.load(node.pid).outputs) == {}


class Size(Process):
    """Takes a large value."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('value', valid_type=bytes)
        spec.output('size', valid_type=int)

    def run(self) -> None:
        self.out('size', len(self.inputs.value))


def test_what_cannot_be_read_for_a_while_is_read_later(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, 'RETRY_FIRST', 0.001)
    refused: list[str] = []
    read = DiskObjects.open

    def refuse_thrice(objects: DiskObjects, sha256: str) -> Any:
        if len(refused) < 3:
            refused.append(sha256)
            raise StoreUnavailable('the disk is away; look at its mount')
        return read(objects, sha256)

    monkeypatch.setattr(DiskObjects, 'open', refuse_thrice)
    node = engine.wait(engine.submit(Size, value=LARGE), PATIENCE)
    assert (node.is_finished_ok, len(refused)) == (True, 3)


def test_an_engine_stops_though_a_process_cannot_be_read(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, tried = make_engine(), threading.Event()

    def refuse(objects: DiskObjects, sha256: str) -> Any:
        tried.set()
        raise StoreUnavailable('the disk is away; look at its mount')

    with monkeypatch.context() as away:
        away.setattr(DiskObjects, 'open', refuse)
        node = engine.submit(Size, value=LARGE)
        assert tried.wait(PATIENCE)
        engine.stop(PATIENCE)
    assert make_engine().wait(node.pid, PATIENCE).outputs.size == len(LARGE)


class Asks(WorkChain):
    """Awaits a child with a large input, in a step that is a coroutine."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.output('size', valid_type=int)
        spec.outline(cls.ask)

    async def ask(self) -> None:
        outputs = await self.node_engine.run_async(Size, value=LARGE)
        self.out('size', outputs['size'])

    node_engine: Engine


def test_a_coroutine_step_waits_for_the_store_as_any_other(engine: Engine, outage: Outage) -> None:
    Asks.node_engine = engine
    outage.times = 2
    assert engine.run(Asks) == {'size': len(LARGE)}
    assert outage.refused == 2


def test_a_coroutine_step_waits_for_a_child_that_could_not_be_written(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Asks.node_engine = engine
    store, refused = engine.core.store, []
    post = store.post

    def refuse_once(operation: Any, reply: Any) -> None:
        if isinstance(operation, Unit) and not refused and any(each.parent for each in operation.create):
            refused.append(operation)
            reply(Failure(StoreFull('the disk is full; free some space')))
            return
        post(operation, reply)

    monkeypatch.setattr(store, 'post', refuse_once)
    node = engine.run_get_node(Asks)[1]
    assert node.outputs.size == len(LARGE)
    assert len(refused) == len(node.called) == 1


@calcfunction
def plus(n: int) -> int:
    return n + 1


class LookedAt(Size):
    """Ends only after whoever waits for it has seen that it had not: who does so has to read what it ended with."""

    seen: threading.Event

    def run(self) -> None:
        assert self.seen.wait(PATIENCE)
        super().run()


class Calls(Process):
    """Makes calls of each kind; its first execution is cut off after them, as by a crash."""

    executed = 0
    node_engine: Engine

    def run(self) -> None:
        type(self).executed += 1
        engine = self.node_engine
        assert plus(1) == 2
        assert run(LookedAt, value=b'xy') == {'size': 2}
        submitted = engine.submit(Size, value=b'xyz')
        assert all(node.is_finished_ok for node in engine.wait([submitted, submitted.pid], PATIENCE))
        if self.executed == 1:
            raise StepAborted('the engine goes away here')


class CallsAsync(Calls):
    """The same in a coroutine."""

    async def run(self) -> None:
        type(self).executed += 1
        engine = self.node_engine
        assert await engine.run_async(Size, value=b'x') == {'size': 1}
        assert await engine.run_async(Size, value=b'xy') == {'size': 2}
        submitted = await asyncio.to_thread(engine.submit, Size, value=b'xyz')
        assert all(node.is_finished_ok for node in await engine.wait_async([submitted, submitted.pid]))
        if self.executed == 1:
            raise StepAborted('the engine goes away here')


@pytest.mark.parametrize('process', [Calls, CallsAsync])
def test_what_a_step_reads_of_its_calls_is_waited_for(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, process: type[Calls]
) -> None:
    """Whatever the step reads cannot be read at the first attempt."""
    fetch, attempts = Reader._fetch, itertools.count()

    def fail_first(reader: Reader, sql: str, parameters: dict[str, Any]) -> list[Any]:
        if current_visit() is not None and next(attempts) % 2 == 0:
            raise StoreUnavailable('the disk is away; look at its mount')
        rows = fetch(reader, sql, parameters)
        if current_visit() is not None:
            LookedAt.seen.set()
        return rows

    monkeypatch.setattr(Reader, '_fetch', fail_first)
    monkeypatch.setattr(patience, 'RETRY_FIRST', 0.001)
    # As if others had written the ends: whoever waits for them reads the rows.
    monkeypatch.setattr(Terminations, 'keep_final', lambda terminations, record: None)
    process.executed, LookedAt.seen = 0, threading.Event()
    process.node_engine = first = make_engine()
    node = first.submit(process)
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not process.executed or first.core.dispatcher.held:  # no event tells that it was cut off
        assert time.monotonic() < deadline
        pause.wait(0.005)
    first.stop()
    process.node_engine = second = make_engine()
    ended = second.wait(node.pid, PATIENCE)
    assert ended.is_finished_ok, ended.exception
    assert (process.executed, len(ended.called)) == (2, 3)
    assert next(attempts) >= 10


def test_an_engine_whose_thread_died_says_so(tmp_path: Path) -> None:
    engine = Engine(f'sqlite:///{tmp_path}/treadle.db').start()
    engine.core._give_up(MemoryError('no more of it'))
    assert not engine.is_running
    with pytest.raises(EngineStopped, match='has crashed; stop it'):
        engine.submit(Size, value=b'')
    engine.stop()
