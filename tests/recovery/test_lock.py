"""Another program that holds the database's lock: plain calls raise, what runs waits, and nothing is lost."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import Engine, WorkChain, calcfunction
from treadle.engine.errors import StoreUnavailable
from treadle.engine.store import store_thread
from treadle.engine.store.sqlite import database
from treadle.engine.store.sqlite.connection import begin_writing

PATIENCE = 20.0

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute('BEGIN EXCLUSIVE')
print('held', flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / 'store.db'


@pytest.fixture
def hold(store: Path) -> Iterator[Callable[[], Callable[[], None]]]:
    """``hold()``: another OS process has the lock; returns what frees it."""
    holders: list[subprocess.Popen[str]] = []

    def hold() -> Callable[[], None]:
        holder = subprocess.Popen(
            [sys.executable, '-c', HOLDER, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        holders.append(holder)
        assert holder.stdout is not None and holder.stdout.readline() == 'held\n'
        return lambda: (holder.communicate(timeout=PATIENCE), None)[1]

    yield hold
    for holder in holders:
        holder.kill()
        holder.communicate()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine gives up on a lock after a moment instead of a minute."""
    monkeypatch.setattr(database, 'begin_writing', functools.partial(begin_writing, patience=0.02))
    monkeypatch.setattr(store_thread, 'BUSY_PATIENCE', 0.1)


class Gate:
    """Where steps wait for the test."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Semaphore(0), threading.Event()


gate = Gate()


@pytest.fixture(autouse=True)
def new_gate() -> None:
    global gate
    gate = Gate()


@calcfunction
def add(x: int) -> int:
    return x + 1


class Steps(WorkChain):
    """Waits at the gate, then writes in every way that a step can."""

    executed = 0

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.output('n', valid_type=int)
        spec.outline(cls.first, cls.second)

    def first(self) -> None:
        type(self).executed += 1
        gate.reached.release()
        assert gate.opened.wait(PATIENCE)
        self.ctx.n = add(1)
        self.to_context(child=self.submit(add, x=2))

    def second(self) -> None:
        self.out('n', self.ctx.n + self.ctx.child.outputs.result)


class Refused(logging.Handler):
    """Is told when a step could not be written."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and 'is locked by another program' in record.getMessage():
            self.event.set()


@pytest.fixture
def refused() -> Iterator[Refused]:
    handler = Refused()
    logging.getLogger('treadle').addHandler(handler)
    yield handler
    logging.getLogger('treadle').removeHandler(handler)


@pytest.mark.usefixtures('impatient', 'no_leaked_threads')
def test_a_lock_that_is_held_for_longer_than_anyone_waits(
    store: Path, hold: Callable[[], Callable[[], None]], refused: Refused
) -> None:
    Steps.executed = 0
    with Engine(f'sqlite:///{store}') as engine:
        nodes = [engine.submit(Steps) for _ in range(4)]
        for _ in nodes:
            assert gate.reached.acquire(timeout=PATIENCE)
        free = hold()
        gate.opened.set()
        with pytest.raises(StoreUnavailable, match='is locked by another program'):
            engine.submit(add, x=5)
        with pytest.raises(StoreUnavailable, match='is locked by another program'):
            engine.kill(nodes[0])
        assert refused.event.wait(PATIENCE), 'a step has met the lock too'
        assert {engine.load(node.pid).state.value for node in nodes} == {'running'}, 'reading goes on'
        assert 'runs its first step' in engine.why(nodes[0])['because']
        free()
        assert [node.outputs.n for node in engine.wait(nodes, PATIENCE)] == [5] * 4
        assert len(engine.query()) == 4 * 3, 'nothing of what was refused is there'
    assert Steps.executed == 4, 'a step is written again, not run again'


@pytest.mark.usefixtures('impatient', 'no_leaked_threads')
def test_an_engine_that_stops_before_a_locked_store_loses_nothing(
    store: Path, hold: Callable[[], Callable[[], None]], refused: Refused
) -> None:
    engine = Engine(f'sqlite:///{store}').start()
    node = engine.submit(Steps)
    assert gate.reached.acquire(timeout=PATIENCE)
    free = hold()
    gate.opened.set()
    assert refused.event.wait(PATIENCE)
    engine.stop()
    free()
    with Engine(f'sqlite:///{store}', claims='all') as engine:
        assert engine.wait(node.pid, PATIENCE).outputs.n == 5


@pytest.mark.usefixtures('no_leaked_threads')
def test_an_engine_that_cannot_begin_for_a_lock_says_so(
    store: Path, hold: Callable[[], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, 'begin_writing', functools.partial(begin_writing, patience=0.02))
    with Engine(f'sqlite:///{store}') as engine:
        engine.run(add, x=1)
    free = hold()
    late = Engine(f'sqlite:///{store}')
    with pytest.raises(StoreUnavailable, match=r'did not take a write within 0.5 s; end whatever holds'):
        late.start(timeout=0.5)
    free()
    late.core.store.stop(PATIENCE)
    with Engine(f'sqlite:///{store}') as engine:
        assert engine.run(add, x=1) == 2
