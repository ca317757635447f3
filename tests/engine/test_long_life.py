"""What an engine that runs for months must not gather, and errors after which it must not hang."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import (
    Engine,
    EngineStopped,
    Process,
    ProcessNode,
    WorkChain,
    calcfunction,
    claims,
    core,
    on_kill,
    run,
)
from treadle.engine.claims import Claims
from treadle.engine.dispatcher import Dispatcher
from treadle.engine.errors import CorruptValue, StoreUnavailable
from treadle.engine.faults import FaultPoint
from treadle.engine.homes import Homes
from treadle.engine.launch import compose
from treadle.engine.processes import identity
from treadle.engine.store.control import write_once
from treadle.engine.store.intents import kill
from treadle.engine.store.reader import Reader
from treadle.engine.store.records import Unit
from treadle.engine.store.units import apply
from treadle.engine.testing import RaiseAt
from treadle.engine.values import Codec

PATIENCE = 30.0


@calcfunction
def same(x: int) -> int:
    return x


class Quick(Process):
    def run(self) -> None:
        """Nothing."""


class Runs(Process):
    """Blocks in a run of another process."""

    def run(self) -> None:
        run(Quick)


@pytest.mark.parametrize(('error', 'state'), [(KeyboardInterrupt, 'killed'), (CorruptValue, 'excepted')])
def test_a_function_whose_inputs_cannot_be_taken_leaves_nothing_behind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], state: str
) -> None:
    def decode(codec: Codec, text: str) -> Any:
        raise error('while the inputs are read')

    with monkeypatch.context() as patch:
        patch.setattr(Codec, 'decode', decode)
        with pytest.raises(error):
            engine.core.host.call_function(same, (1,), {})
    (node,) = engine.query(process_label='same')
    assert node.state == state
    assert engine.core.dispatcher.held == 0
    assert engine.core.host.call_function(same, (2,), {})[0] == 2


def test_a_wait_that_cannot_begin_leaves_nothing_behind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    node = engine.submit(Quick)

    def unreadable(node: ProcessNode) -> bool:
        raise StoreUnavailable('the disk failed')

    with monkeypatch.context() as patch:
        patch.setattr(ProcessNode, 'is_terminated', property(unreadable))
        for call in (engine.wait, engine.future):
            with pytest.raises(StoreUnavailable):
                call(node)
    assert engine.core.terminations.awaited() == []
    assert engine.wait(node, PATIENCE).is_finished_ok


def test_a_step_that_ends_while_its_engine_says_goodbye_does_not_keep_the_lock(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine()
    engine.core.membership._still_running = lambda: [7]  # and a moment later it is over
    engine.stop()
    assert not engine.core.membership._lock.held
    successor = make_engine()
    old = successor.core.source.reader.engine(engine.core.membership.engine_id)
    assert old is not None and old.ended == 'dead'


def test_a_kill_of_what_leaves_at_that_moment_is_not_remembered() -> None:
    class Leaves(dict[tuple[int, int], Any]):
        """Loses its process between two looks at it."""

        def __iter__(self) -> Any:
            claims = list(super().__iter__())
            dispatcher.left(7, 1)
            return iter(claims)

    dispatcher = Dispatcher(
        capacity=1, blocked=lambda: 0, suspect_from=4, admits=lambda record: True, homes=Homes()
    )
    dispatcher._held = Leaves({(7, 1): None})
    assert dispatcher.kill([7]) == []
    assert not dispatcher._killed


def test_an_error_in_the_serving_of_a_worker_is_no_hang(store: str) -> None:
    engine = Engine(store, workers=1, faults=RaiseAt(FaultPoint.CLAIMED, lambda: OSError('struck'))).start()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        run = pool.submit(engine.run, Quick)
        with pytest.raises(EngineStopped):
            run.result(PATIENCE)
    with pytest.raises(BaseException) as caught:
        engine.stop()
    assert caught.group_contains(OSError, match='struck')
    with Engine(store) as successor:
        assert all(node.is_finished_ok for node in successor.wait(successor.query(), PATIENCE))


def test_a_worker_that_crashes_is_no_verdict_on_what_the_others_run(store: str) -> None:
    faults = RaiseAt(FaultPoint.CLAIMED, lambda: OSError('struck'), hit=2)
    engine = Engine(store, workers=2, faults=faults).start()
    node = engine.submit(Runs)
    assert isinstance(engine.future(node).exception(PATIENCE), EngineStopped)  # its child was given to the other worker
    with pytest.raises(BaseException) as caught:
        engine.stop()
    assert caught.group_contains(OSError, match='struck')
    with Engine(store) as successor:
        final = successor.wait(node.pid, PATIENCE)
        assert final.is_finished_ok, final.traceback
        assert all(child.is_finished_ok for child in final.called)


def test_what_a_step_finds_gone_of_an_engine_that_stops_is_no_verdict(store: str) -> None:
    began, go_on = threading.Event(), threading.Event()
    attempts: list[int] = []

    class FindsItGone(Process):
        def run(self) -> None:
            attempts.append(1)
            began.set()
            go_on.wait(PATIENCE)
            if len(attempts) == 1:
                raise EngineStopped('as a part of the engine says that has stopped before the step was told')

    engine = Engine(store).start()
    node = engine.submit(FindsItGone)
    assert began.wait(PATIENCE)
    engine.core.begin_no_step()
    go_on.set()
    engine.stop()
    with Engine(store) as successor:
        assert successor.wait(node.pid, PATIENCE).is_finished_ok
    assert len(attempts) == 2


def test_an_engine_that_runs_takes_up_what_a_dead_one_has_left(make_engine: Callable[..., Engine]) -> None:
    survivor, dead = make_engine(claims='all'), make_engine()
    entered, opened = threading.Event(), threading.Event()
    stays = dead.core.steps
    for _ in range(stays.permits):  # nothing that it has claimed gets to run
        stays.post(lambda: (entered.set(), opened.wait(PATIENCE)))
    node = dead.submit(Quick)
    assert entered.wait(PATIENCE)
    assert node._row().owner == dead.core.membership.engine_id
    dead.core.membership._lock.abandon()  # as the end of its OS process would
    survivor.core.claims._sweep_due = 0.0
    assert survivor.wait(node, PATIENCE).is_finished_ok
    opened.set()
    dead.stop()


@pytest.fixture
def no_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found only because it is time to look."""
    monkeypatch.setattr(claims, 'SWEEP', 10 * PATIENCE)


def settled(engine: Engine) -> Engine:
    """The engine, once it has made the searches that it makes when it starts."""
    until(lambda: engine.core.claims._sweep_due > 0 and not engine.core.claims._search._runs)
    return engine


def until(condition: Callable[[], Any]) -> None:
    """Wait for what no event tells of."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, 'it never came true'
        pause.wait(0.005)


def writer(make_engine: Callable[..., Engine]) -> Engine:
    """An engine that writes down what is submitted, and runs none of it."""
    engine = make_engine()
    engine.core.dispatcher._open = False
    return engine


def update(engine: Engine, assignment: str) -> None:
    """Change rows of processes."""
    engine.core.store.call(
        lambda transaction: transaction.cursor.execute(f'UPDATE process SET {assignment}') and None
    ).result(PATIENCE)


#: From so many deaths on a process is a suspect, where nothing else is said.
SUSPECT = 4


class Held:
    """Where the steps of this section stand, anew for each test."""

    ready: threading.Event
    reached: threading.Event
    go_on: threading.Event
    engine: Engine


@pytest.fixture
def held() -> Iterator[type[Held]]:
    Held.ready, Held.reached, Held.go_on = threading.Event(), threading.Event(), threading.Event()
    yield Held
    Held.ready.set()
    Held.go_on.set()


class Waits(Process):
    """Once it may go on, it waits for a process that is there."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.input('awaited', valid_type=ProcessNode)

    def run(self) -> None:
        Held.reached.set()
        assert Held.go_on.wait(PATIENCE)
        Held.engine.wait(self.inputs.awaited)


class Awaits(Waits):
    """The same in a coroutine."""

    async def run(self) -> None:
        Held.reached.set()
        assert await asyncio.to_thread(Held.go_on.wait, PATIENCE)
        await Held.engine.wait_async(self.inputs.awaited)


class Stands(WorkChain):
    """It begins when the test is ready, and its second step stands until it may go on."""

    @classmethod
    def define(cls, spec: Any) -> None:
        super().define(spec)
        spec.outline(cls.first, cls.second)

    def first(self) -> None:
        assert Held.ready.wait(PATIENCE)

    def second(self) -> None:
        Held.reached.set()
        assert Held.go_on.wait(PATIENCE)


def test_suspects_follow_one_another_and_wait_for_no_sweep(
    make_engine: Callable[..., Engine], no_sweeps: None
) -> None:
    first = writer(make_engine)
    pids = [first.submit(Quick).pid for _ in range(10)]
    update(first, f'crashes = {SUSPECT}')
    first.stop()
    second = make_engine(claims='all')
    assert all(node.is_finished_ok for node in second.wait(pids, PATIENCE))


@pytest.mark.parametrize('process', [Waits, Awaits])
def test_a_suspect_that_waits_for_another_one_lets_it_run(
    make_engine: Callable[..., Engine], no_sweeps: None, held: type[Held], process: type[Process]
) -> None:
    first = writer(make_engine)
    awaited = first.submit(Quick)
    assert first.pause(awaited)
    waits = first.submit(process, awaited=awaited)
    update(first, f'crashes = {SUSPECT}')
    first.stop()
    second = held.engine = settled(make_engine(claims='all'))
    assert held.reached.wait(PATIENCE)
    update(second, f'paused = 0 WHERE pid = {awaited.pid}')  # as playing it does, which forgives
    second.core.claims.look()
    until(lambda: second.core.dispatcher.suspect_waits)  # since the other one runs
    held.go_on.set()
    assert second.wait(waits.pid, PATIENCE).is_finished_ok


def test_a_step_that_is_committed_acquits_a_suspect_and_the_next_one_runs(
    make_engine: Callable[..., Engine], no_sweeps: None, held: type[Held]
) -> None:
    first = writer(make_engine)
    stands, quick = first.submit(Stands), first.submit(Quick)
    update(first, f'crashes = {SUSPECT}')
    first.stop()
    second = settled(make_engine(claims='all'))
    held.ready.set()
    assert second.wait(quick.pid, PATIENCE).is_finished_ok
    assert held.reached.wait(PATIENCE)
    held.go_on.set()
    assert second.wait(stands.pid, PATIENCE).is_finished_ok


# -- the search for work ---------------------------------------------------------------------------------------


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """What searches of engines in this OS process have read."""
    read: list[list[Any]] = []
    runnable = Reader.runnable

    def noted(reader: Reader, *args: Any) -> list[Any]:
        page = runnable(reader, *args)
        read.append(page)
        return page

    monkeypatch.setattr(Reader, 'runnable', noted)
    return read


def test_a_search_reads_nothing_of_what_others_will_run(
    make_engine: Callable[..., Engine], pages: list[list[Any]]
) -> None:
    first = writer(make_engine)
    mine, *others = [first.submit(Quick) for _ in range(5)]
    update(first, f'origin = 1000 WHERE pid != {mine.pid}')
    first.stop()
    pages.clear()
    second = make_engine()
    assert second.wait(mine.pid, PATIENCE).is_finished_ok
    assert {pid for page in pages for pid, *_ in page} == {mine.pid}
    assert all(other.state == 'created' for other in others)


def test_a_search_misses_nothing_behind_what_it_does_not_take(
    make_engine: Callable[..., Engine], no_sweeps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of classes that are not there, suspects, and more than there is room for, over many pages."""
    monkeypatch.setattr(claims, 'PAGE', 10)
    first = writer(make_engine)
    pids = [first.submit(Quick).pid for _ in range(124)]
    update(first, "class_name = 'treadle_test_nowhere:Lost' WHERE pid % 3 = 0")
    update(first, f'crashes = {SUSPECT} WHERE pid % 7 = 0')
    first.stop()
    asked: list[int] = []
    claim = Claims._claim

    def noted(search: Claims, pids: list[int]) -> int:
        asked.append(len(pids))
        return claim(search, pids)

    monkeypatch.setattr(Claims, '_claim', noted)
    monkeypatch.setattr(core, 'HELD_AT_LEAST', 2)
    monkeypatch.setattr(core, 'HELD_PER_STEP', 0)
    second = make_engine(claims='all', workers=1, steps=1)
    known = [pid for pid in pids if pid % 3]
    assert all(node.is_finished_ok for node in second.wait(known, PATIENCE))
    until(lambda: sorted(second.core.claims.parked) == [pid for pid in pids if pid % 3 == 0])
    assert max(asked) <= 2


def test_beside_others_that_write_it_searches_only_now_and_then(
    make_engine: Callable[..., Engine], no_sweeps: None, pages: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, 'SEARCH_SHARE', 1e9)  # after a millisecond of searching, for days
    heard = threading.Semaphore(0)
    hear = Claims._hear_of_others

    def noted(search: Claims) -> None:
        hear(search)
        heard.release()

    monkeypatch.setattr(Claims, '_hear_of_others', noted)
    engine, other = settled(make_engine(claims='all')), writer(make_engine)
    pages.clear()
    nodes = []
    for _ in range(3):
        while heard.acquire(blocking=False):
            """What was heard before."""
        nodes.append(other.submit(Quick))
        assert heard.acquire(timeout=PATIENCE)
    assert pages == []
    engine.core.claims._search_may = 0.0  # the days are over
    assert all(node.is_finished_ok for node in engine.wait([node.pid for node in nodes], PATIENCE))


def test_a_hint_of_work_waits_for_no_pause_after_a_search(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(claims='all')
    engine.run(Quick)
    claims_ = engine.core.claims
    # Neither a search that took long nor the sweep lets it be found.
    claims_._search_may = claims_._sweep_due = time.monotonic() + 3600
    codec = engine.core.source.codec
    record = compose(Quick, {}, codec=codec, reader=None, pid=1000, origin=engine.core.engine_id)
    write_once(engine.location, lambda transaction: apply(transaction, [Unit(create=(record,))]))
    claims_.hinted(work=True, changes=False)
    assert engine.wait(1000, PATIENCE).is_finished_ok


MODULE = """
import pathlib
from treadle.engine import Process

class Lost(Process):
    def run(self):
        pass
"""


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[[], Any]]:
    """A module whose class gets processes, and a function that imports it."""
    path = tmp_path / 'treadle_test_lost.py'
    path.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def load() -> Any:
        import treadle_test_lost  # type: ignore[import-not-found]

        return treadle_test_lost.Lost

    return path, load


def forget_module() -> None:
    """Whoever wants the class has to import its module again."""
    sys.modules.pop('treadle_test_lost')
    for known in [known for known in identity._known if known[0].startswith('treadle_test_lost')]:
        del identity._known[known]


def test_a_module_that_exits_is_tried_once_in_a_search_and_holds_up_nobody(
    make_engine: Callable[..., Engine], lost: tuple[Path, Callable[[], Any]], tmp_path: Path
) -> None:
    path, load = lost
    first = make_engine()
    first.core.dispatcher._open = False  # it only writes them down
    for _ in range(20):
        first.submit(load())
    wanted = first.submit(Quick)
    first.stop()
    del first
    forget_module()
    path.write_text(
        'import pathlib, sys\n'
        f'with open({str(tmp_path / "tried")!r}, "a") as stream:\n    stream.write("x")\n'
        'sys.exit("not meant to be imported")\n'
    )
    second = make_engine(claims='all')
    assert second.wait(wanted.pid, PATIENCE).is_finished_ok
    pause = threading.Event()
    while len(second.core.claims.parked) < 20:
        pause.wait(0.01)
    assert 1 <= len((tmp_path / 'tried').read_text()) < 20
    for node in second.query(process_label='Lost'):
        second.kill(node)
    second.core.claims.look()
    while second.core.claims.parked:
        pause.wait(0.01)


class Told(Process):
    """Ends when it is told that it was killed."""

    def run(self) -> None:
        with on_kill(Held.go_on.set):
            Held.reached.set()
            assert Held.go_on.wait(PATIENCE)


def test_a_module_that_takes_for_ever_keeps_nobody_from_hearing_of_kills_ends_and_deaths(
    make_engine: Callable[..., Engine],
    lost: tuple[Path, Callable[[], Any]],
    held: type[Held],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, load = lost
    first = writer(make_engine)
    first.submit(load())
    awaited = first.submit(Quick)
    assert first.pause(awaited)
    first.stop()
    forget_module()
    barrier: Any = types.ModuleType('treadle_test_barrier')
    barrier.reached, barrier.opened = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, barrier.__name__, barrier)
    path.write_text(
        f'import treadle_test_barrier as barrier\nbarrier.reached.set()\nbarrier.opened.wait()\n{MODULE}'
    )
    dead, engine = writer(make_engine), make_engine()
    try:
        assert barrier.reached.wait(PATIENCE)
        told, ended = engine.submit(Told), engine.future(awaited.pid)
        assert held.reached.wait(PATIENCE)
        write_once(engine.location, lambda transaction: kill(transaction, [told.pid, awaited.pid], 'from outside'))
        assert held.go_on.wait(PATIENCE), 'the step was not told'
        assert ended.result(PATIENCE).is_killed
        engine_id = dead.core.engine_id
        dead.core.membership._lock.abandon()  # as the end of its OS process would
        until(lambda: engine.core.source.reader.engine(engine_id).ended == 'dead')
    finally:
        barrier.opened.set()
