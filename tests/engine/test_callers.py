"""A blocking ``run()`` and its asynchronous siblings, from callers of every kind: threads, running loops, steps.

The hosts themselves are in tests/embedding.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

import treadle.engine
from treadle.engine import (
    Engine,
    EngineStopped,
    KilledError,
    Process,
    ProcessNode,
    ProcessNotFound,
    WorkChain,
    calcfunction,
    default_engine,
    run,
    run_get_node,
    submit,
)
from treadle.threads import WrongThread, loop_thread

PATIENCE = 30.0


@calcfunction
def double(n: int) -> int:
    return 2 * n


class Double(WorkChain):
    """Two steps."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('n', valid_type=int)
        spec.outline(cls.begin, cls.end)

    def begin(self):
        self.ctx.n = 2 * self.inputs.n

    def end(self):
        self.out('n', self.ctx.n)


class Gate(Process):
    """Waits until it is let go."""

    open: ClassVar[threading.Event] = threading.Event()
    entered: ClassVar[threading.Semaphore] = threading.Semaphore(0)

    @classmethod
    def define(cls, spec):
        super().define(spec)

    def run(self):
        type(self).entered.release()
        if not type(self).open.wait(PATIENCE):
            raise TimeoutError('the gate was never opened')


@pytest.fixture(autouse=True)
def gate(make_engine):  # so that it opens before the engines stop
    Gate.open = threading.Event()
    Gate.entered = threading.Semaphore(0)
    yield Gate
    Gate.open.set()


class Fails(Process):
    """Raises."""

    @classmethod
    def define(cls, spec):
        super().define(spec)

    def run(self):
        raise LookupError('nothing there')


# -- threads -------------------------------------------------------------------------------------------


def test_run_from_the_main_thread(engine):
    assert engine.run(Double, n=2) == {'n': 4}
    outputs, node = engine.run_get_node(Double, {'n': 3})
    assert outputs == {'n': 6}
    assert node.is_finished_ok


def test_run_from_many_threads_at_once(engine):
    ready = threading.Barrier(64)

    def call(n):
        ready.wait(PATIENCE)
        return engine.run(Double, n=n)['n']

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(call, range(64))) == [2 * n for n in range(64)]


def test_an_exception_is_the_same_object_in_every_thread_that_waits(engine):
    with pytest.raises(LookupError, match='nothing there') as caught:
        engine.run(Fails)
    assert caught.traceback[-1].name == 'run'


# -- hosts with a running loop -----------------------------------------------------------------------------


def test_a_blocking_run_inside_a_coroutine_of_the_host(engine):
    async def cell():
        return engine.run(Double, n=2), engine.submit(Double, n=3), engine.run(double, n=4)

    outputs, node, doubled = asyncio.run(cell())
    assert outputs == {'n': 4}
    assert engine.wait(node).outputs.n == 6
    assert doubled == 8


@pytest.fixture
def loops():
    """Runs a coroutine on a loop of asyncio's, or of uvloop's."""

    def run_on(kind, coroutine):
        if kind == 'uvloop':
            if importlib.util.find_spec('uvloop') is None:
                coroutine.close()
                pytest.skip('uvloop is not installed; it is not needed by Treadle')
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(coroutine)
        return asyncio.run(coroutine, debug=True)

    return run_on


@pytest.fixture(params=['asyncio', 'uvloop'])
def on_loop(request, loops):
    return lambda coroutine: loops(request.param, coroutine)


def test_awaiting_runs_leaves_the_hosts_loop_free(engine, on_loop, gate):
    async def host():
        blocked = asyncio.create_task(engine.run_async(Gate))
        assert await asyncio.gather(*(engine.run_async(Double, n=n) for n in range(20))) == [
            {'n': 2 * n} for n in range(20)
        ]
        assert not blocked.done()
        gate.open.set()
        assert await blocked == {}
        with pytest.raises(LookupError, match='nothing there'):
            await engine.run_async(Fails)

    on_loop(host())


def test_waiting_for_nodes_in_a_coroutine(engine, on_loop, gate):
    async def host():
        first, second = engine.submit(Gate), engine.submit(Double, n=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await engine.wait_async(first)
        assert (await engine.wait_async(second.pid)).outputs.n == 2
        gate.open.set()
        assert [node.pid for node in await engine.wait_async([first, second])] == [first.pid, second.pid]

    on_loop(host())


def test_a_future_awaited_on_a_loop(engine, on_loop, gate):
    async def host():
        future = asyncio.wrap_future(engine.future(engine.submit(Gate)))
        asyncio.get_running_loop().call_soon(gate.open.set)
        assert (await future).is_finished_ok

    on_loop(host())


def test_cancelling_an_awaited_run_leaves_the_process_running(engine, on_loop, gate):
    async def host():
        task = asyncio.create_task(engine.run_async(Gate, metadata={'label': 'kept'}))
        await asyncio.to_thread(gate.entered.acquire, timeout=PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on_loop(host())
    (node,) = engine.query(process_label='Gate')
    assert not node.is_terminated
    assert engine.core.terminations.awaited() == []
    gate.open.set()
    assert engine.wait(node, timeout=PATIENCE).is_finished_ok


# -- inside steps, and on Treadle's loops --------------------------------------------------------------------


class Host(WorkChain):
    """Calls whatever the test wants, in a step of its own."""

    call: ClassVar = None

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('returned', required=False)
        spec.outline(cls.step)

    def step(self):
        returned = type(self).call()
        if returned is not None:
            self.out('returned', returned)


class AsyncHost(WorkChain):
    """The same on a worker's loop."""

    call: ClassVar = None

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('returned', required=False)
        spec.outline(cls.step)

    async def step(self):
        returned = await type(self).call()
        if returned is not None:
            self.out('returned', returned)


def inside(engine, call):
    Host.call = staticmethod(call)
    return engine.run(Host).get('returned')


def inside_async(engine, call):
    AsyncHost.call = staticmethod(call)
    return engine.run(AsyncHost).get('returned')


def test_module_level_calls_inside_a_step_use_the_engine_of_that_step(engine):
    def call():
        node = submit(Double, n=5)
        outputs, other = run_get_node(Double, n=6)
        return [run(Double, n=4)['n'], double(3), outputs['n'], node.pid, other.pid]

    *values, first, second = inside(engine, call)
    assert values == [8, 6, 12]
    assert engine.wait(first).outputs.n == 10
    assert engine.load(second).parent.process_label == 'Host'


def test_a_thread_of_a_step_runs_on_the_default_engine_unless_it_carries_the_context(engine):
    import contextvars

    def call():
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(context.run, run, Double, n=4).result(PATIENCE)['n']

    assert inside(engine, call) == 8


def test_gathering_runs_in_an_async_step(engine):
    async def call():
        returned = await asyncio.gather(*(engine.run_async(Double, n=n) for n in range(5)))
        return [each['n'] for each in returned]

    assert inside_async(engine, call) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ('name', 'call', 'instead'),
    [
        ('run()', lambda engine: engine.run(Double, n=1), 'await engine.run_async()'),
        ('run()', lambda engine: run(Double, n=1), 'await engine.run_async()'),
        ('run()', lambda engine: engine.run_get_node(Double, n=1), 'await engine.run_async()'),
        ('submit()', lambda engine: engine.submit(Double, n=1), 'run_async'),
        ('wait()', lambda engine: engine.wait(1), 'await engine.wait_async()'),
        ('double()', lambda engine: double(1), 'asyncio.to_thread'),
        ('stop()', lambda engine: engine.stop(), 'asyncio.to_thread'),
    ],
)
def test_a_blocking_call_on_a_loop_of_treadles_is_refused_at_once(engine, name, call, instead):
    async def on_loop():
        with pytest.raises(WrongThread) as caught:
            call(engine)
        assert name in str(caught.value)
        assert instead in str(caught.value)
        assert 'treadle-worker-' in str(caught.value)
        return str(caught.value)

    assert inside_async(engine, on_loop)
    assert engine.is_running


def test_a_blocking_call_in_a_callable_posted_to_a_workers_bridge_is_refused_at_once(engine):
    worker = next(thread for thread in loop_thread._live.values() if thread.name.startswith('treadle-worker'))
    refused = worker.bridge.call(lambda: engine.run(Double, n=1))
    with pytest.raises(WrongThread, match=r'await engine\.run_async\(\)'):
        refused.result(PATIENCE)


# -- looking and waiting ---------------------------------------------------------------------------------------


def test_a_loop_that_asks_whether_the_process_has_ended_ends(engine, gate):
    node = engine.submit(Gate)
    pause = threading.Event()
    threading.Timer(0.05, gate.open.set).start()
    while not node.is_terminated:
        pause.wait(0.005)
    assert node.is_finished_ok


def test_waiting_for_several(engine, gate):
    nodes = [engine.submit(Double, n=n) for n in range(5)]
    assert [node.outputs.n for node in engine.wait([nodes[0], nodes[1].pid, *nodes[2:]])] == [0, 2, 4, 6, 8]
    assert engine.wait([]) == []
    assert isinstance(engine.wait(nodes[0].pid), ProcessNode)
    blocked = engine.submit(Gate)
    with pytest.raises(TimeoutError):
        engine.wait(blocked, timeout=0.05)
    with pytest.raises(TimeoutError):
        engine.wait([*nodes, blocked], timeout=0)
    assert engine.core.terminations.awaited() == []
    gate.open.set()
    assert engine.wait(blocked, timeout=PATIENCE).is_finished_ok


@pytest.mark.parametrize('call', ['load', 'wait', 'future', 'kill'])
def test_an_unknown_pid_is_named(engine, call):
    with pytest.raises(ProcessNotFound, match='there is no process 12345'):
        getattr(engine, call)(12345)


def test_futures_of_ends(engine, gate):
    node = engine.submit(Gate)
    first, second = engine.future(node.pid), engine.future(node)
    assert first.cancel()
    assert engine.core.terminations.awaited() == [node.pid]
    assert second.cancel()
    assert engine.core.terminations.awaited() == []  # nothing is left of a future that was cancelled
    third = engine.future(node)
    gate.open.set()
    assert third.result(PATIENCE).is_finished_ok
    assert engine.future(node).result(0).pid == node.pid
    assert first.cancelled()


def test_a_future_of_a_killed_process_and_a_run_of_one(engine, gate):
    caught = concurrent.futures.Future()

    def host():
        try:
            engine.run(Gate, metadata={'label': 'of the thread'})
        except BaseException as error:
            caught.set_result(error)

    thread = threading.Thread(target=host)
    thread.start()
    assert gate.entered.acquire(timeout=PATIENCE)
    (node,) = engine.query(process_label='Gate')
    future = engine.future(node)
    assert engine.kill(node, 'not wanted')
    assert not engine.kill(node)
    assert future.result(PATIENCE).is_killed
    error = caught.result(PATIENCE)
    assert isinstance(error, KilledError)
    assert 'not wanted' in str(error)
    thread.join()


def test_a_killed_function_raises_in_the_code_that_called_it(engine):
    @calcfunction
    def kills_itself() -> int:
        from treadle.engine.processes.visit import current_visit

        engine.kill(current_visit().pid, 'by itself')
        return 1

    with pytest.raises(KilledError, match='by itself'):
        engine.core.host.call_function(kills_itself, (), {})


def test_a_process_changes_no_object_of_its_callers(engine):
    import numpy as np

    class Changes(Process):
        @classmethod
        def define(cls, spec):
            super().define(spec)
            spec.input('numbers', valid_type=list)
            spec.input('table', valid_type=dict)
            spec.input('array', valid_type=np.ndarray)
            spec.output('numbers', valid_type=list)
            spec.output('table', valid_type=dict)

        def run(self):
            numbers, table = self.inputs.numbers, self.inputs['table']
            numbers.append(4)
            table['inner']['list'].append('changed')
            self.inputs.array.flags.writeable and self.inputs.array.fill(7)
            self.out('numbers', numbers)
            self.out('table', table)

    @calcfunction
    def changes(numbers: list) -> list:
        numbers.append(4)
        return numbers

    numbers, table, array = [1, 2, 3], {'inner': {'list': []}}, np.arange(3)
    outputs = engine.run(Changes, numbers=numbers, table=table, array=array)
    assert (numbers, table, array.tolist()) == ([1, 2, 3], {'inner': {'list': []}}, [0, 1, 2])
    assert outputs['numbers'] == [1, 2, 3, 4]
    outputs['numbers'].append(5)
    assert engine.query(process_label='Changes')[0].outputs.numbers == [1, 2, 3, 4]
    assert engine.core.host.call_function(changes, (numbers,), {})[0] == [1, 2, 3, 4]
    assert numbers == [1, 2, 3]


# -- which engine ------------------------------------------------------------------------------------------------


@pytest.fixture
def default_store(tmp_path, monkeypatch, no_leaked_threads):
    """A default engine that starts on first use, on a store of its own, and is stopped after the test."""
    monkeypatch.setenv('TREADLE_STORE', f'sqlite:///{tmp_path}/default.db')
    monkeypatch.setattr(treadle.engine.default, '_engine', None)
    yield f'sqlite:///{tmp_path}/default.db'
    engine = treadle.engine.default._engine
    if engine is not None:
        engine.stop()


def test_the_default_engine_starts_on_first_use_and_again_after_a_stop(default_store):
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('treadle')]
    assert run(Double, n=2) == {'n': 4}
    first = default_engine()
    assert first.location.url == default_store
    assert default_engine() is first
    first.stop()
    assert run(Double, n=3) == {'n': 6}
    assert default_engine() is not first
    assert len(default_engine().query(process_label='Double')) == 2


def test_many_threads_get_one_default_engine(default_store):
    ready = threading.Barrier(16)

    def call(_):
        ready.wait(PATIENCE)
        return default_engine()

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(call, range(16)))) == 1


def test_an_explicit_engine_beside_the_default_one(default_store, engine):
    assert run(Double, n=1) == {'n': 2}
    assert engine.run(Double, n=1) == {'n': 2}
    assert inside(engine, lambda: run(Double, n=5)['n']) == 10
    assert len(engine.query(process_label='Double')) == 2
    assert len(default_engine().query(process_label='Double')) == 1


def test_two_engines_in_one_process_on_the_same_store(make_engine, gate):
    first, second = make_engine(name='first'), make_engine(name='second')
    nodes = [engine.submit(Double, n=n) for n in range(20) for engine in (first, second)]
    # Each waits for what the other runs.
    assert [node.outputs.n for node in second.wait([node.pid for node in nodes], PATIENCE)] == [
        2 * n for n in range(20) for _ in range(2)
    ]
    blocked = first.submit(Gate)
    future = second.future(blocked.pid)
    assert second.kill(blocked.pid, 'by the other')
    assert future.result(PATIENCE).is_killed
    assert first.wait(blocked, PATIENCE).exit_message == 'by the other'


def test_a_stopped_engine_says_so(make_engine):
    engine = make_engine()
    node = engine.submit(Double, n=1)
    engine.wait(node)
    engine.stop()
    for call in (lambda: engine.run(Double, n=1), lambda: engine.load(1), lambda: engine.query(), engine.start):
        with pytest.raises(EngineStopped, match='stopped'):
            call()
    assert node.outputs.n == 2  # what is known of a process can be read on


def test_arguments_of_engines_are_checked(store):
    with pytest.raises(ValueError, match='workers'):
        Engine(store, workers=0)
    with pytest.raises(ValueError, match='steps'):
        Engine(store, steps=-1)
    with pytest.raises(ValueError, match='claims'):
        Engine(store, claims='mine')


def test_the_switch_interval_is_set_only_when_asked(make_engine):
    import sys

    before = sys.getswitchinterval()
    try:
        make_engine()
        assert sys.getswitchinterval() == before
        make_engine(switch_interval=0.001)
        assert sys.getswitchinterval() == pytest.approx(0.001)
    finally:
        sys.setswitchinterval(before)


def test_a_callback_of_a_future_may_block_in_the_engine(engine, gate):
    """It is not called on the thread that knows of the end first, which everything else waits for."""
    ran = concurrent.futures.Future()

    def call_the_engine(done):
        ran.set_result((threading.current_thread().name, done.result().is_finished_ok, engine.run(Double, n=3)))

    final = engine.future(engine.submit(Gate))
    final.add_done_callback(call_the_engine)
    gate.open.set()
    name, is_finished_ok, outputs = ran.result(PATIENCE)
    assert is_finished_ok and outputs == {'n': 6}
    assert name.startswith('treadle-step')
    here = []
    final.add_done_callback(lambda done: here.append(threading.current_thread()))
    assert here == [threading.current_thread()]


def test_a_callback_of_a_future_that_an_engine_leaves_behind(engine, gate):
    called = concurrent.futures.Future()
    engine.future(engine.submit(Gate)).add_done_callback(lambda done: called.set_result(done.exception()))
    assert gate.entered.acquire(timeout=PATIENCE)
    engine.core.terminations.close()
    gate.open.set()
    engine.stop()
    assert isinstance(called.result(PATIENCE), EngineStopped)


def test_kill_is_refused_on_a_loop_of_treadles(engine):
    worker = next(thread for thread in loop_thread._live.values() if thread.name.startswith('treadle-worker'))
    refused = worker.bridge.call(engine.kill, 1)
    with pytest.raises(WrongThread, match=r'to_thread\(engine\.kill'):
        refused.result(PATIENCE)
