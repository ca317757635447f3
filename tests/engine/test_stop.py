"""Stopping: what executes comes to its checkpoint, what blocks is unwound, what is queued goes on elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from treadle.engine import (
    Engine,
    EngineStopped,
    Process,
    StoreError,
    WorkChain,
    calcfunction,
    on_kill,
    run,
    workfunction,
)
from treadle.engine.store.engines import declare_dead
from treadle.threads import StopTimeout, WrongThread

PATIENCE = 30.0
#: What an engine promises does not depend on the database; see support.stores.
STORES = 'both'


class Gate(WorkChain):
    """Waits in its first step until it is let go, then takes another step."""

    open: ClassVar[threading.Event] = threading.Event()
    entered: ClassVar[threading.Semaphore] = threading.Semaphore(0)
    steps: ClassVar[list[str]] = []

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('n', valid_type=int)
        spec.outline(cls.first, cls.second)

    def first(self):
        type(self).steps.append('first')
        type(self).entered.release()
        if not type(self).open.wait(PATIENCE):
            raise TimeoutError('the gate was never opened')
        self.ctx.n = 7

    def second(self):
        type(self).steps.append('second')
        self.out('n', self.ctx.n)


class Runs(Process):
    """Blocks in a run of the gate."""

    begun: ClassVar[list[int]] = []

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('n', valid_type=int)

    def run(self):
        type(self).begun.append(self.pid)
        try:
            self.out('n', run(Gate)['n'])
        except Exception as error:  # no abort comes along here
            self.report('caught %r', error)
            raise


QUIT = signal.SIGTERM


class Quits:
    """What has happened to the function below."""

    executions: ClassVar[list[threading.Thread]] = []
    told: ClassVar[list[str]] = []


@calcfunction
def quits_once(n: int) -> int:
    """Its program is told to quit when it executes in plain code's thread, and not when an engine runs it."""
    Quits.executions.append(threading.current_thread())
    if threading.current_thread() is threading.main_thread():
        with on_kill(lambda: Quits.told.append('on_kill')):
            signal.raise_signal(QUIT)
    return n + 1


@workfunction
def around(n: int) -> int:
    return quits_once(n)


@pytest.fixture
def told_to_quit():
    """A handler as a host installs one, gunicorn's sync worker for instance."""
    Quits.executions, Quits.told = [], []
    before = signal.signal(QUIT, lambda number, frame: sys.exit(143))
    yield
    signal.signal(QUIT, before)


@pytest.fixture(autouse=True)
def gate(make_engine):
    Gate.open, Gate.entered = threading.Event(), threading.Semaphore(0)
    Gate.steps, Runs.begun = [], []
    yield Gate
    Gate.open.set()


def entered(engine, process=Gate):
    node = engine.submit(process)
    assert Gate.entered.acquire(timeout=PATIENCE)
    return node


def stop_in_background(engine, timeout=PATIENCE):
    """Stop the engine in another thread; returns once it has begun to."""
    pool = ThreadPoolExecutor(1)
    stopped = pool.submit(engine.stop, timeout)
    pool.shutdown(wait=False)
    pause = threading.Event()
    while not engine.core.dispatcher.is_closed:
        pause.wait(0.001)
    return stopped


def test_a_step_that_executes_comes_to_its_checkpoint_and_the_next_one_is_left_to_the_next_engine(make_engine, gate):
    engine = make_engine()
    node = entered(engine)
    stopped = stop_in_background(engine)
    gate.open.set()
    stopped.result(PATIENCE)
    assert (node.state, gate.steps) == ('running', ['first'])
    assert make_engine().wait(node.pid, PATIENCE).outputs.n == 7
    assert gate.steps == ['first', 'second']


def test_a_step_that_does_not_end_is_named_and_keeps_its_claim_while_it_executes(make_engine, gate):
    engine = make_engine(name='impatient')
    node = entered(engine)
    with pytest.raises(StopTimeout) as caught:
        engine.stop(0.3)
    text = str(caught.value)
    assert "'impatient'" in text
    assert 'treadle-step-' in text
    assert f'{os.path.basename(__file__)}' in text or 'threading.py' in text
    owner = node._row().owner
    assert owner is not None
    other = make_engine()
    other.wait(entered_elsewhere(other), PATIENCE)
    assert node._row().owner == owner  # a living engine's step is nobody else's
    gate.open.set()
    # The step's result came too late to be written; now that it is over, an engine that runs takes the process up.
    other.core.claims._sweep_due = 0.0
    assert other.wait(node.pid, PATIENCE).outputs.n == 7
    assert gate.steps == ['first', 'first', 'second']


class Quick(Process):
    """Ends at once."""

    @classmethod
    def define(cls, spec):
        super().define(spec)

    def run(self):
        """Nothing."""


def entered_elsewhere(engine):
    return engine.submit(Quick)


def until(condition):
    """Wait for what no event tells of."""
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, 'it never came true'
        pause.wait(0.005)


def until_threads_end():
    """Wait for the step threads of engines that have given up waiting."""
    for thread in threading.enumerate():
        if thread.name.startswith(('treadle-step', 'treadle-worker')):
            thread.join(0.5)


def test_a_step_blocked_in_run_is_unwound_and_replayed_later(make_engine, gate):
    engine = make_engine()
    node = entered(engine, Runs)
    stopped = stop_in_background(engine)
    gate.open.set()
    stopped.result(PATIENCE)
    assert node.state == 'running'
    (child,) = node.called
    assert not child.is_terminated
    final = make_engine().wait(node.pid, PATIENCE)
    assert final.outputs.n == 7
    assert [each.pid for each in final.called] == [child.pid]  # the recorded child, not a second one
    assert len(Runs.begun) == 2
    assert final.log == []


def test_queued_steps_go_on_in_the_next_engine(make_engine, gate):
    engine = make_engine(workers=1, steps=1)
    nodes = [entered(engine), *(engine.submit(Gate) for _ in range(300))]
    stopped = stop_in_background(engine)
    gate.open.set()
    stopped.result(PATIENCE)
    assert gate.steps == ['first']
    assert len(make_engine().wait([node.pid for node in nodes], PATIENCE)) == 301
    assert gate.steps.count('first') == 301
    assert gate.steps.count('second') == 301


def test_queued_steps_behind_one_that_does_not_end_leave_no_thread(make_engine, gate):
    engine = make_engine(workers=1, steps=1)
    entered(engine)
    for _ in range(20):
        engine.submit(Gate)
    with pytest.raises(StopTimeout):
        engine.stop(0.3)
    gate.open.set()  # the fixture that looks for leaked threads does the rest
    until_threads_end()
    assert gate.steps == ['first']


def test_on_kill_callbacks_are_called_when_the_engine_stops_without_waiting(make_engine, monkeypatch):
    monkeypatch.setattr('treadle.engine.stopping.CLOSING_LEAST', 20.0)
    begun, ended, calls = threading.Event(), threading.Event(), []

    class Interruptible(Process):
        @classmethod
        def define(cls, spec):
            super().define(spec)

        def run(self):
            calls.append('begun')
            if len(calls) > 1:
                return
            with on_kill(ended.set):
                begun.set()
                assert ended.wait(PATIENCE)
                raise RuntimeError('what it waited for was taken away')

    engine = make_engine()
    node = engine.submit(Interruptible)
    assert begun.wait(PATIENCE)
    engine.stop(1.0)
    assert node.state == 'running'  # not excepted: stopping is no failure
    assert make_engine().wait(node.pid, PATIENCE).is_finished_ok


def test_an_on_kill_callback_that_does_not_return_is_not_waited_for(make_engine):
    begun, stands, release = threading.Event(), threading.Event(), threading.Event()

    def stand():
        stands.set()
        release.wait(PATIENCE)

    class Stands(Process):
        def run(self):
            with on_kill(stand):
                begun.set()
                release.wait(PATIENCE)

    engine = make_engine()
    engine.submit(Stands)
    assert begun.wait(PATIENCE)
    stopped = stop_in_background(engine, 0.3)
    try:
        assert stands.wait(PATIENCE)
        with pytest.raises(StopTimeout):
            stopped.result(PATIENCE / 2)
    finally:
        release.set()
    until_threads_end()


def test_a_step_that_comes_to_its_end_after_its_engine_has_stopped_is_no_crash(make_engine, gate):
    engine, observer = make_engine(), make_engine()
    observer.core.claims._script = None  # as if of another script: it finds the death, and takes nothing
    node = entered(engine)
    with pytest.raises(StopTimeout):
        engine.stop(0.3)
    gate.open.set()
    until(lambda: not engine.core.membership._lock.held)
    observer.core.claims.watch()
    until(lambda: observer.core.source.reader.engine(engine.core.engine_id).ended == 'dead')
    row = observer.load(node.pid)._row()
    assert (row.state, row.owner, row.crashes) == ('running', None, 0)
    assert make_engine().wait(node.pid, PATIENCE).outputs.n == 7


def test_ctrl_c_ends_the_wait_and_not_the_stopping(make_engine, gate):
    observer = make_engine()
    before = set(threading.enumerate())
    engine = make_engine()
    node = entered(engine)

    def interrupt():
        until(lambda: engine.core.dispatcher.is_closed)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupts = threading.Thread(target=interrupt)
    interrupts.start()
    with pytest.raises(KeyboardInterrupt):
        engine.stop(PATIENCE)
    interrupts.join(PATIENCE)
    engine_id = engine.core.engine_id
    declare = observer.core.store.call(
        lambda transaction: declare_dead(transaction, engine_id, seen=None, max_crashes=5)
    )
    assert declare.result(PATIENCE) is not None
    gate.open.set()
    until(lambda: not [each for each in threading.enumerate() if each not in before and is_of_an_engine(each)])
    assert engine.core.membership.lives == (engine_id,)  # it has begun no other one
    observer.core.claims.look()
    assert observer.wait(node.pid, PATIENCE).outputs.n == 7


def is_of_an_engine(thread):
    """Whether it is a thread of an engine's that ends only when the engine stops."""
    return 'store' in thread.name or 'worker' in thread.name or 'watchdog' in thread.name


def test_a_called_function_is_waited_for(make_engine, gate):
    engine = make_engine()

    @calcfunction
    def called() -> int:
        Gate.entered.release()
        assert Gate.open.wait(PATIENCE)
        return run(Gate)['n'] if again else 3

    again = False
    with ThreadPoolExecutor(1) as pool:
        for again in (False, True):
            returned = pool.submit(engine.core.host.call_function, called, (), {})
            assert gate.entered.acquire(timeout=PATIENCE)
            stopped = stop_in_background(engine)
            gate.open.set()
            stopped.result(PATIENCE)
            if again:
                # It may end, but a blocking call in it is unwound; plain code sees an Exception.
                with pytest.raises(EngineStopped, match='stays runnable'):
                    returned.result(PATIENCE)
            else:
                assert returned.result(PATIENCE)[0] == 3
                gate.open.clear()
                engine = make_engine()


@pytest.mark.parametrize('function', [quits_once, around])
def test_a_program_that_quits_in_a_called_function_leaves_it_to_others(make_engine, told_to_quit, function):
    engine = make_engine()
    with pytest.raises(SystemExit):
        engine.core.host.call_function(function, (1,), {})
    assert Quits.told == ['on_kill']
    engine.stop()
    other = make_engine()
    left = other.wait(other.query(), PATIENCE)
    assert all(node.is_finished_ok for node in left), [node.exception for node in left]
    assert [each is threading.main_thread() for each in Quits.executions] == [True, False]


def test_a_program_may_quit_while_the_call_is_put_on_record(make_engine, told_to_quit, monkeypatch):
    engine = make_engine()
    commit, answers = engine.core.store.commit, []

    def commit_and_quit(unit):
        answers.append(commit(unit))
        signal.raise_signal(QUIT)
        return answers[0]

    monkeypatch.setattr(engine.core.store, 'commit', commit_and_quit)
    with pytest.raises(SystemExit):
        engine.core.host.call_function(quits_once, (1,), {})
    monkeypatch.undo()
    answers[0].result(PATIENCE)
    (node,) = engine.query()
    assert engine.wait(node, PATIENCE).is_finished_ok  # also by the same engine, if the program goes on
    assert threading.main_thread() not in Quits.executions


def test_a_function_that_exits_elsewhere_than_on_the_main_thread_has_failed(make_engine):
    @calcfunction
    def exits() -> int:
        sys.exit(3)

    engine = make_engine()
    with ThreadPoolExecutor(1) as pool, pytest.raises(SystemExit):
        pool.submit(engine.core.host.call_function, exits, (), {}).result(PATIENCE)
    (node,) = engine.query()
    assert node.exception == 'SystemExit: 3'


def test_stopping_twice_from_two_threads_and_from_a_step(make_engine, gate):
    engine = make_engine()

    class Stops(Process):
        @classmethod
        def define(cls, spec):
            super().define(spec)

        def run(self):
            engine.stop()

    with pytest.raises(WrongThread, match='step of its own'):
        engine.run(Stops)
    assert engine.is_running
    node = entered(engine)
    stopped = stop_in_background(engine)
    with pytest.raises(StopTimeout, match='another thread'):
        engine.stop(0.05)
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(engine.stop) for _ in range(8)]
        assert not any(other.done() for other in others)
        gate.open.set()
        for one in (stopped, *others):
            one.result(PATIENCE)
    engine.stop()
    assert node.state == 'running'


def test_whoever_waits_is_told(make_engine, gate):
    engine = make_engine()
    node = entered(engine)
    future = engine.future(node)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(engine.wait, node), pool.submit(engine.run, Quick, metadata={'key': 'x'})]
        waiting[1].result(PATIENCE)
        stopped = stop_in_background(engine)
        gate.open.set()
        stopped.result(PATIENCE)
        for each in (future, waiting[0]):
            with pytest.raises(EngineStopped, match=f'process {node.pid}'):
                each.result(PATIENCE)


def test_clients_that_submit_while_the_engine_stops_get_a_durable_process_or_an_error(make_engine, store):
    for round_ in range(3):
        engine = make_engine()
        ready = threading.Barrier(17)

        def client(_, engine=engine, ready=ready):
            durable, futures, refused = [], [], 0
            ready.wait(PATIENCE)
            while not refused:
                try:
                    node = engine.submit(Quick)
                    durable.append(node.pid)
                    futures.append(engine.future(node))
                    engine.run(Quick)
                except EngineStopped:
                    refused = 1
            return durable, futures

        with ThreadPoolExecutor(16) as pool:
            clients = [pool.submit(client, number) for number in range(16)]
            ready.wait(PATIENCE)
            pause = threading.Event()
            while engine.core.dispatcher.held == 0:
                pause.wait(0.001)
            pause.wait(0.05 * round_)
            engine.stop()
            done = [each.result(PATIENCE) for each in clients]
        for future in [future for _, futures in done for future in futures]:
            error = future.exception(PATIENCE)
            assert error is None or isinstance(error, EngineStopped)
        again = make_engine()
        pids = [pid for durable, _ in done for pid in durable]
        assert len(pids) == len(set(pids))
        assert all(node.is_finished_ok for node in again.wait(pids, PATIENCE))
        assert again.unfinished() == []
        again.stop()


def test_an_engine_stopped_while_it_starts(store):
    engine = Engine(store)
    with ThreadPoolExecutor(2) as pool:
        starting = pool.submit(engine.start)
        pause = threading.Event()
        while engine.core.state == 'new':
            pause.wait(0)
        pool.submit(engine.stop).result(PATIENCE)
        assert starting.exception(PATIENCE) is None
    assert not engine.is_running
    with pytest.raises(EngineStopped, match='starts once'):
        engine.start()


def test_a_start_that_fails_leaves_no_thread(tmp_path: Path):
    (tmp_path / 'text.db').write_text('this is no database, but a text that is long enough to be looked at')
    before = set(threading.enumerate())
    engine = Engine(f'sqlite:///{tmp_path}/text.db')
    with pytest.raises(StoreError, match=r'text\.db'):
        engine.start()
    assert set(threading.enumerate()) == before
    assert not engine.is_running
    with pytest.raises(EngineStopped, match='stopped'):
        engine.run(Quick)
    engine.stop()


@pytest.mark.parametrize('url', ['sqlite://', 'mysql://host/db', 'nonsense'])
def test_a_url_that_is_none_fails_where_the_engine_is_made(url):
    with pytest.raises(StoreError):
        Engine(url)


def test_a_store_in_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / 'file').write_text('')
    before = set(threading.enumerate())
    with pytest.raises(StoreError):
        Engine(f'sqlite:///{tmp_path}/file/store.db').start()
    assert set(threading.enumerate()) == before
