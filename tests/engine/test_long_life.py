"""What an engine that runs for months must not gather, and errors after which it must not hang."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from treadle.engine import Engine, EngineStopped, Process, calcfunction, claims, run
from treadle.engine.dispatcher import Dispatcher
from treadle.engine.errors import CorruptValue, StoreUnavailable
from treadle.engine.faults import FaultPoint
from treadle.engine.homes import Homes
from treadle.engine.node import ProcessNode
from treadle.engine.processes import identity
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


def test_suspects_follow_one_another_and_wait_for_no_sweep(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_engine()
    first.core.dispatcher._open = False  # it only writes them down
    pids = [first.submit(Quick).pid for _ in range(10)]
    first.core.store.call(
        lambda transaction: transaction.cursor.execute('UPDATE process SET crashes = 2').fetchall()
    ).result(PATIENCE)
    first.stop()
    monkeypatch.setattr(claims, 'SWEEP', 10 * PATIENCE)
    second = make_engine(claims='all')
    assert all(node.is_finished_ok for node in second.wait(pids, PATIENCE))


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
    sys.modules.pop('treadle_test_lost')
    for known in [known for known in identity._known if known[0].startswith('treadle_test_lost')]:
        del identity._known[known]
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
