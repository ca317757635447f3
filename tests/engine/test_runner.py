"""``Runner``: processes on a loop of the user's, driven both ways; and whatever may become of that loop."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import InvalidStateError
from typing import Any

import pytest

from treadle.engine import (
    Engine,
    EngineStopped,
    KeyConflict,
    KilledError,
    Process,
    ProcessNotFound,
    Runner,
    StoreFull,
    ToContext,
    ValidationError,
    WorkChain,
    append_,
    calcfunction,
    homes,
    on_kill,
)
from treadle.engine.custody import Custody, Holder
from treadle.engine.homes import Homes
from treadle.engine.store.transaction import Transaction
from treadle.engine.testing import BlockAt, FaultPoint, RaiseAt
from treadle.threads import LoopClosed, StopTimeout, WrongThread

PATIENCE = 20.0

#: What the steps of this module note down, and what they wait for; anew for each test.
notes: list[Any] = []
reached = threading.Event()
go_on = threading.Event()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    notes.clear()
    reached.clear()
    go_on.clear()
    yield
    go_on.set()


@pytest.fixture(params=['asyncio', 'uvloop'])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes a loop of asyncio's, in debug mode, or of uvloop's."""
    if request.param == 'uvloop':
        if importlib.util.find_spec('uvloop') is None:
            pytest.skip('uvloop is not installed; it is not needed by Treadle')
        import uvloop

        return uvloop.new_event_loop

    def make() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.set_debug(True)
        return loop

    return make


@pytest.fixture
def on_loop(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Callable[[Any], Any]:
    """Runs a coroutine to its end on a loop of its own, as a host does."""

    def run_on(coroutine: Any) -> Any:
        with asyncio.Runner(loop_factory=new_loop) as host:
            return host.run(coroutine)

    return run_on


@pytest.fixture
def loop(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that is closed after the test."""
    loop = new_loop()
    yield loop
    loop.close()


def here() -> str:
    """The kind of thread that this is."""
    return threading.current_thread().name.rsplit('-', 1)[0]


def is_on_worker() -> bool:
    return here() == 'treadle-worker'


def until(condition: Callable[[], Any]) -> None:
    """Wait for what tells nobody that it happens."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, 'it never happened'
        threading.Event().wait(0.002)


async def until_on_loop(condition: Callable[[], Any]) -> None:
    """:func:`until`, on a loop that is to go on meanwhile."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  there is nothing to be told by
            await asyncio.sleep(0.001)


def is_empty(engine: Engine) -> bool:
    """Whether the engine holds no process, and knows of no runner."""
    core = engine.core
    return not (core.dispatcher._held or core.dispatcher._at_home or core.homes._home_of)


class FullDisk:
    """The faults of an engine whose disk is full at times."""

    is_full = False

    def hit(self, point: FaultPoint) -> None:
        if self.is_full and point is FaultPoint.BATCH_WRITTEN:
            raise StoreFull('no room')


class Double(Process):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('n', valid_type=int)
        spec.output('n')
        spec.output('thread', required=False)

    async def run(self):
        await asyncio.sleep(0)
        self.out('n', 2 * self.inputs.n)
        self.out('thread', here())


class Fails(Process):
    def run(self):
        raise LookupError('nothing there')


class Parent(WorkChain):
    """Has coroutine steps and others, and waits for a child in between."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('threads')
        spec.output('child')
        spec.outline(cls.first, cls.second, cls.third, cls.fourth)

    async def first(self):
        await asyncio.sleep(0.001)
        self.ctx.threads = [here()]

    def second(self):
        self.ctx.threads.append(here())
        return ToContext(children=append_(self.submit(Double, n=4)))

    async def third(self):
        await asyncio.sleep(0)
        self.ctx.threads.append(here())

    def fourth(self):
        self.ctx.threads.append(here())
        self.out('threads', self.ctx.threads)
        self.out('child', self.ctx.children[0].outputs.thread)


class Stands(WorkChain):
    """Its coroutine step stands still for ever on a loop of the user's, and ends on a worker's."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.outline(cls.first, cls.stand, cls.last)

    def first(self):
        notes.append('first')

    async def stand(self):
        notes.append('stand')
        if not is_on_worker():
            with on_kill(lambda: notes.append('told')):
                reached.set()
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    notes.append('cleaned up')

    def last(self):
        notes.append('last')


class Blocks(WorkChain):
    """Its first step blocks until it is let go; the second one says where it runs."""

    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.output('thread')
        spec.outline(cls.block, cls.end)

    def block(self):
        notes.append('block')
        reached.set()
        assert go_on.wait(PATIENCE)

    async def end(self):
        self.out('thread', here())


@calcfunction
def double(n: int) -> int:
    return 2 * n


HERE = here()
HOME, STEP, WORKER = HERE, 'treadle-step', 'treadle-worker'


class TestAwaiting:
    def test_steps_run_where_they_belong(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                process = runner.instantiate_process(Parent)
                assert await process.step_until_terminated() is None
                assert process.is_terminated
                assert process.node.is_finished_ok
                return process.result()

        outputs = on_loop(host())
        assert outputs == {'threads': [HOME, STEP, HOME, STEP], 'child': WORKER}
        until(lambda: is_empty(engine))

    def test_instantiating_validates_and_stores_nothing(self, engine, on_loop):
        async def host():
            runner = Runner(engine)
            with pytest.raises(ValidationError, match='n'):
                runner.instantiate_process(Double)
            with pytest.raises(TypeError):
                runner.instantiate_process('Double', n=1)
            builder = Double.get_builder()
            builder.n = 3
            process = runner.instantiate_process(builder, metadata={'label': 'three'})
            assert process.state == 'created'
            assert not process.is_terminated
            assert (process.node.label, process.inputs.n, process.uuid) == ('three', 3, process.node.uuid)
            with pytest.raises(ProcessNotFound):
                engine.load(process.pid)
            with pytest.raises(InvalidStateError, match='has not ended'):
                process.result()
            await process.step_until_terminated()
            assert engine.load(process.pid).uuid == process.uuid
            assert process.outputs.n == 6
            runner.close()

        on_loop(host())

    def test_many_at_once(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                processes = [runner.instantiate_process(Parent) for _ in range(50)]
                await asyncio.gather(*(process.step_until_terminated() for process in processes))
                assert {tuple(process.result()['threads']) for process in processes} == {(HOME, STEP, HOME, STEP)}

        on_loop(host())
        until(lambda: is_empty(engine))

    def test_awaited_twice_it_runs_once(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                process = runner.instantiate_process(Stands)
                first, second = process.step_until_terminated(), asyncio.ensure_future(process.step_until_terminated())
                await asyncio.to_thread(reached.wait, PATIENCE)
                engine.kill(process.pid)
                await first
                await second
                await process.step_until_terminated()
                assert notes[:2] == ['first', 'stand']

        on_loop(host())
        assert len(engine.query()) == 1

    def test_what_a_process_raised_is_read_and_not_raised_by_the_await(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                process = runner.instantiate_process(Fails)
                future = process.future()
                await process.step_until_terminated()
                assert process.node.is_excepted
                with pytest.raises(LookupError, match='nothing there') as caught:
                    process.result()
                with pytest.raises(LookupError) as again:
                    await future
                assert again.value is caught.value

        on_loop(host())

    def test_process_functions(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                process = runner.instantiate_process(double, n=4)
                await process.step_until_terminated()
                return process.result()

        assert on_loop(host()) == 8

    def test_cancelling_the_await_leaves_the_process_running(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                process = runner.instantiate_process(Blocks)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await process.step_until_terminated()
                assert not process.is_terminated
                go_on.set()
                await process.step_until_terminated()
                return process.result()

        assert on_loop(host()) == {'thread': HOME}

    def test_futures_and_callbacks_come_on_the_loop(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                ended = asyncio.Event()
                process = runner.instantiate_process(Double, n=2)
                runner.call_on_process_finish(process.pid, ended.set)
                future = runner.get_process_future(process)
                given_up = runner.get_process_future(process.node)
                given_up.cancel()
                await process.step_until_terminated()
                await ended.wait()
                assert (await future).outputs.n == 4
                other = engine.submit(Double, n=3)
                assert (await runner.get_process_future(other.pid)).outputs.n == 6
                assert (await runner.get_process_future(other.pid)).outputs.n == 6
                with pytest.raises(ProcessNotFound):
                    runner.get_process_future(10_000_000)

        on_loop(host())
        until(lambda: not engine.core.terminations.awaited())

    def test_on_another_loop_it_says_what_to_await(self, engine, loop):
        runner = Runner(engine, loop)
        process = runner.instantiate_process(Double, n=1)

        async def host():
            with pytest.raises(WrongThread, match=r'engine\.wait_async'):
                await process.step_until_terminated()

        asyncio.run(host())
        loop.run_until_complete(process.step_until_terminated())
        assert process.result()['n'] == 2

    def test_a_kill_cancels_the_coroutine_step(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                process = runner.instantiate_process(Stands)
                waiting = asyncio.ensure_future(process.step_until_terminated())
                await asyncio.to_thread(reached.wait, PATIENCE)
                await asyncio.to_thread(engine.kill, process.pid, 'enough')
                await waiting
                with pytest.raises(KilledError, match='enough'):
                    process.result()
                with pytest.raises(KilledError, match='enough'):
                    await process.future()
                await until_on_loop(lambda: not runner._tasks)

        on_loop(host())
        assert notes[:2] == ['first', 'stand']
        until(lambda: sorted(notes[2:]) == ['cleaned up', 'told'])

    def test_a_pause_and_a_play(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                process = runner.instantiate_process(Blocks)
                waiting = asyncio.ensure_future(process.step_until_terminated())
                await asyncio.to_thread(reached.wait, PATIENCE)
                assert engine.pause(process.pid)
                go_on.set()
                await until_on_loop(lambda: not runner._tasks)
                assert process.node.paused
                assert not waiting.done()
                assert engine.play(process.pid)
                await waiting
                return process.result()

        assert on_loop(host()) == {'thread': HOME}

    def test_a_key_finds_the_process_that_is_there(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                first = runner.instantiate_process(Double, n=1, metadata={'key': 'one'})
                await first.step_until_terminated()
                again = runner.instantiate_process(Double, n=1, metadata={'key': 'one'})
                assert again.pid != first.pid
                await again.step_until_terminated()
                assert (again.pid, again.result()) == (first.pid, first.result())
                assert runner.schedule(Double, n=1, metadata={'key': 'one'}).pid == first.pid
                other = runner.instantiate_process(Double, n=2, metadata={'key': 'one'})
                with pytest.raises(KeyConflict):
                    await other.step_until_terminated()
                with pytest.raises(KeyConflict):
                    runner.submit(Double, n=2, metadata={'key': 'one'})

        on_loop(host())
        until(lambda: is_empty(engine))

    def test_a_key_of_a_process_that_runs(self, engine, on_loop):
        node = engine.submit(Blocks, metadata={'key': 'blocks'})
        assert reached.wait(PATIENCE)

        async def host():
            with Runner(engine) as runner:
                process = runner.instantiate_process(Blocks, metadata={'key': 'blocks'})
                waiting = asyncio.ensure_future(process.step_until_terminated())
                await asyncio.to_thread(process._stored.result, PATIENCE)
                assert process.node == node
                go_on.set()
                await waiting
                return process.result()

        assert on_loop(host()) == {'thread': WORKER}  # it stays where it is

    def test_a_key_that_is_looked_up_while_the_engine_crashes(self, engine, loop):
        engine.run(Double, n=1, metadata={'key': 'one'})
        process = Runner(engine, loop).instantiate_process(Double, n=1, metadata={'key': 'one'})
        stands, opens = threading.Event(), threading.Event()
        engine.core.store.post(lambda transaction: (stands.set(), opens.wait(PATIENCE)), lambda answer: None)
        assert stands.wait(PATIENCE)
        process.start()
        engine.core._give_up(MemoryError('no more of it'))
        opens.set()
        with pytest.raises(EngineStopped):
            process._stored.result(PATIENCE)

    def test_what_cannot_be_stored(self, make_engine, on_loop, caplog):
        disk = FullDisk()
        engine = make_engine(faults=disk)

        async def host():
            runner = Runner(engine)
            process = runner.instantiate_process(Double, n=1)
            disk.is_full = True
            with pytest.raises(StoreFull):
                await process.step_until_terminated()
            with pytest.raises(StoreFull):
                process.result()

        on_loop(host())
        disk.is_full = False
        assert 'could not be stored' in caplog.text
        assert is_empty(engine)


class TestRunningTheLoop:
    def test_call_soon_and_then_running_the_loop(self, engine, new_loop):
        loop = new_loop()
        with Runner(engine, loop) as runner:
            process = runner.instantiate_process(Parent)
            runner.call_on_process_finish(process.pid, loop.stop)
            loop.call_soon(process.step_until_terminated)
            loop.run_forever()
            assert process.result()['threads'] == [HOME, STEP, HOME, STEP]
        assert not loop.is_closed()
        loop.close()

    def test_scheduling_from_the_loop(self, engine, loop):
        with Runner(engine, loop) as runner:
            loop.call_soon(runner.schedule, Double, {'n': 1})
            second = runner.instantiate_process(Double, n=2)
            loop.run_until_complete(loop.create_task(second.step_until_terminated()))
            assert second.result() == {'n': 4, 'thread': HOME}
            (first,) = (node for node in engine.query() if node != second.node)
            assert loop.run_until_complete(runner.get_process_future(first.pid)).outputs.thread == HOME

    def test_scheduling_before_the_loop_runs(self, engine, loop):
        with Runner(engine, loop) as runner:
            node = runner.schedule(Double, n=1)
            durable = runner.submit(Double, n=2)
            assert engine.load(durable.pid) == durable
            future = runner.get_process_future(node.pid)
            other = runner.get_process_future(durable)
            assert loop.run_until_complete(future).outputs.thread == HOME
            assert loop.run_until_complete(other).outputs.n == 4

    def test_run_from_synchronous_code(self, engine):
        with Runner(engine) as runner:
            assert runner.run(Double, n=2) == {'n': 4, 'thread': HOME}
            outputs, node = runner.run_get_node(Parent)
            assert outputs['threads'] == [HOME, STEP, HOME, STEP]
            assert node.is_finished_ok
            assert runner.run_get_pid(double, n=3) == (6, node.pid + 2)  # the child's is in between
            with pytest.raises(LookupError, match='nothing there'):
                runner.run(Fails)
            with pytest.raises(ValidationError):
                runner.run(Double, n='many')
            process = runner.instantiate_process(Double, n=5)
            assert process.execute() == process.execute() == {'n': 10, 'thread': HOME}
            loop = runner.loop
        assert loop.is_closed()
        assert runner.is_closed

    def test_run_where_a_loop_runs(self, engine, on_loop):
        outside = Runner(engine)

        async def host():
            for runner in (Runner(engine), outside):
                with pytest.raises(WrongThread, match='step_until_terminated'):
                    runner.run(Double, n=1)
                with pytest.raises(WrongThread):
                    runner.instantiate_process(Double, n=1).execute()
            # Blocking for the commit is fine where it is the host's own loop.
            assert Runner(engine).submit(Double, n=1).pid

        on_loop(host())
        outside.close()
        assert [node.process_label for node in engine.query()] == ['Double']

    def test_in_threads_of_the_users(self, engine, new_loop):
        threads: list[list[str]] = []

        def work():
            loop = new_loop()
            with Runner(engine, loop) as runner:
                for _ in range(5):
                    threads.append(runner.run(Parent)['threads'])
            loop.close()

        workers = [threading.Thread(target=work, name='mine-1') for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE)
        assert threads == [['mine', STEP, 'mine', STEP]] * 20

    def test_from_other_threads_than_the_loops(self, engine, loop):
        runner = Runner(engine, loop)
        thread = threading.Thread(target=loop.run_forever, name='mine-1')
        thread.start()
        nodes = [runner.schedule(Double, n=n) for n in range(10)]
        nodes += [runner.submit(Double, n=n) for n in range(10)]
        until(lambda: all(node.is_terminated for node in nodes))
        assert {node.outputs.thread for node in nodes} == {'mine'}
        with pytest.raises(WrongThread):
            runner.run(Double, n=1)
        runner.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)

    def test_a_step_has_better_ways(self, engine):
        class Runs(Process):
            def run(self):
                with Runner(engine) as runner:
                    runner.run(Double, n=1)

        with pytest.raises(RuntimeError, match=r'self\.submit'):
            engine.run(Runs)

    def test_ctrl_c_kills(self, scripts):
        script = scripts.begin("""
            import asyncio
            from treadle.engine import Process, Runner, default_engine

            class Stands(Process):
                async def run(self):
                    try:
                        print('standing')
                        await asyncio.get_running_loop().create_future()
                    finally:
                        print('cleaned up')

            with Runner(default_engine()) as runner:
                runner.loop.slow_callback_duration = 60
                try:
                    runner.run(Stands)
                except KeyboardInterrupt:
                    print('interrupted')
                    (node,) = default_engine().query()
                    print(node.state, node.exit_message)
        """)
        script.wait_for('standing')
        script.interrupt()
        ended = script.end()
        assert ended.out.split('\n')[:4] == ['standing', 'cleaned up', 'interrupted', 'killed interrupted (Ctrl-C)']
        assert (ended.code, ended.err) == (0, '')

    def test_ctrl_c_in_a_loop_of_the_hosts_says_nothing_of_its_processes(self, scripts):
        ended = scripts.run("""
            import asyncio, signal, threading
            from treadle.engine import Process, Runner, default_engine

            class Spins(Process):
                async def run(self):
                    if threading.current_thread() is threading.main_thread():
                        print('spinning')
                        signal.raise_signal(signal.SIGINT)

            loop = asyncio.new_event_loop()
            loop.slow_callback_duration = 60
            with Runner(default_engine(), loop) as runner:
                node = runner.schedule(Spins)
                try:
                    loop.run_forever()
                except KeyboardInterrupt:
                    print('interrupted')
            print(default_engine().wait(node).state)
            loop.close()
        """)
        assert ended.out.split('\n')[:3] == ['spinning', 'interrupted', 'finished']
        assert (ended.code, ended.err) == (0, '')


class TestALoopThatStandsStill:
    def test_kills_and_pauses_hold(self, engine, loop):
        runner = Runner(engine, loop)
        killed, paused = runner.submit(Stands), runner.submit(Double, n=1)
        until(lambda: len(runner._given) == 2)
        assert 'with a loop that is not running' in engine.why(paused)['because']
        assert engine.kill(killed)
        assert engine.pause(paused)
        assert engine.wait(killed, PATIENCE).is_killed

        loop.run_until_complete(until_on_loop(lambda: not (runner._tasks or runner._given)))
        assert notes == []
        assert not paused.is_terminated
        assert engine.play(paused)
        assert loop.run_until_complete(runner.get_process_future(paused)).outputs.thread == HOME
        runner.close()

    def test_the_workers_go_on(self, engine, loop):
        runner = Runner(engine, loop)
        nodes = [runner.submit(Double, n=n) for n in range(400)]  # more than an engine holds
        until(lambda: len(runner._given) == 400)
        assert engine.run(Double, n=1)['thread'] == WORKER
        until(lambda: engine.core.dispatcher.held == 0)
        runner.close()
        assert all(node.outputs.thread == WORKER for node in engine.wait(nodes, PATIENCE))
        until(lambda: is_empty(engine))

    def test_a_step_that_ended_meanwhile(self, engine, loop):
        runner = Runner(engine, loop)
        process = runner.instantiate_process(Blocks)
        runner.call_on_process_finish(process.pid, loop.stop)

        async def begin():
            process.start()
            await asyncio.to_thread(reached.wait, PATIENCE)

        loop.run_until_complete(begin())
        go_on.set()
        until(lambda: process.node.step == 'end')
        loop.run_forever()
        assert process.result() == {'thread': HOME}
        runner.close()


class TestALoopThatEnds:
    """Whatever becomes of the loop, its processes go on with the workers."""

    def test_in_a_coroutine_step(self, engine, on_loop):
        async def host():
            node = Runner(engine).schedule(Stands)
            await asyncio.to_thread(reached.wait, PATIENCE)
            return node

        node = on_loop(host())  # which cancels all tasks
        assert engine.wait(node, PATIENCE).is_finished_ok
        assert notes[:2] == ['first', 'stand']
        assert notes[-2:] == ['stand', 'last']
        assert 'cleaned up' in notes
        until(lambda: is_empty(engine))

    def test_before_a_task_has_begun(self, engine, on_loop):
        async def host():
            runner = Runner(engine)
            node = runner.submit(Double, n=1)
            until(lambda: runner._given)
            runner._begin(list(runner._given))
            (task,) = runner._tasks
            task.cancel()
            await asyncio.wait([task])
            return node

        node = on_loop(host())
        assert engine.wait(node, PATIENCE).outputs.thread == WORKER
        until(lambda: is_empty(engine))

    def test_what_is_left_of_a_step_is_cleaned_up_where_user_code_may_run(self, engine, loop, caplog):
        class CleansUp(Process):
            async def run(self):
                if not is_on_worker():
                    try:
                        reached.set()
                        await asyncio.sleep(1000)
                    finally:
                        notes.append(here())

        node = Runner(engine, loop).schedule(CleansUp)
        loop.run_until_complete(until_on_loop(reached.is_set))
        loop.close()
        assert engine.wait(node, PATIENCE).is_finished_ok
        until(lambda: notes)
        gc.collect()
        assert notes == [STEP]
        caplog.clear()

    def test_in_a_step_on_a_thread(self, engine, on_loop):
        async def host():
            node = Runner(engine).schedule(Blocks)
            await asyncio.to_thread(reached.wait, PATIENCE)
            return node

        node = on_loop(host())
        go_on.set()
        assert engine.wait(node, PATIENCE).outputs.thread == WORKER
        assert notes == ['block']
        until(lambda: is_empty(engine))

    def test_while_it_waits_for_a_child(self, engine, on_loop):
        class Waits(WorkChain):
            @classmethod
            def define(cls, spec):
                super().define(spec)
                spec.output('thread')
                spec.outline(cls.call, cls.end)

            def call(self):
                return ToContext(child=self.submit(Blocks))

            async def end(self):
                self.out('thread', here())

        async def host():
            node = Runner(engine).schedule(Waits)
            await asyncio.to_thread(reached.wait, PATIENCE)
            await until_on_loop(lambda: node.state == 'waiting')
            return node

        node = on_loop(host())
        until(lambda: node.pid not in engine.core.homes)
        go_on.set()
        assert engine.wait(node, PATIENCE).outputs.thread == WORKER

    @pytest.mark.parametrize('begun', [False, True])
    def test_closed_without_a_word(self, engine, new_loop, caplog, begun):
        loop = new_loop()
        runner = Runner(engine, loop)
        node = runner.schedule(Stands)
        if begun:
            loop.run_until_complete(loop.run_in_executor(None, reached.wait, PATIENCE))
            loop.run_until_complete(loop.shutdown_default_executor())
        else:
            until(lambda: runner._given)
        loop.close()
        assert engine.wait(node, PATIENCE).is_finished_ok
        assert notes[-2:] == ['stand', 'last']
        assert ('told' in notes) is begun
        until(lambda: is_empty(engine))
        assert not engine.core.homes._homes
        for call in (
            lambda: runner.instantiate_process(Double, n=1),
            lambda: runner.get_process_future(node),
            lambda: runner.call_on_process_finish(node, go_on.set),
        ):
            with pytest.raises(LoopClosed, match='closed'):
                call()
        gc.collect()
        assert ('destroyed' in caplog.text) is begun  # asyncio says whose mistake that is
        caplog.clear()

    def test_closed_while_a_step_is_on_a_thread(self, engine, new_loop, caplog):
        loop = new_loop()
        node = Runner(engine, loop).schedule(Blocks)
        loop.run_until_complete(loop.run_in_executor(None, reached.wait, PATIENCE))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        go_on.set()
        assert engine.wait(node, PATIENCE).outputs.thread == WORKER
        assert notes == ['block']
        until(lambda: is_empty(engine))
        gc.collect()
        caplog.clear()

    def test_closed_between_the_answer_and_the_loop(self, engine, new_loop, caplog):
        """The commit is told to a loop that does not run, and then is closed: nobody hears the answer."""
        loop = new_loop()
        node = Runner(engine, loop).schedule(Blocks)
        loop.run_until_complete(loop.run_in_executor(None, reached.wait, PATIENCE))
        loop.run_until_complete(loop.shutdown_default_executor())
        go_on.set()
        until(lambda: node.step == 'end')
        loop.close()
        assert engine.wait(node, PATIENCE).outputs.thread == WORKER
        assert notes == ['block']
        until(lambda: is_empty(engine))
        gc.collect()
        caplog.clear()

    def test_closed_before_a_coroutine_step_is_awaited(self, engine, new_loop, caplog, recwarn):
        class Plain(Process):
            def run(self):
                reached.set()
                assert go_on.wait(PATIENCE)
                return self.later()

            async def later(self):
                notes.append(here())

        loop = new_loop()
        node = Runner(engine, loop).schedule(Plain)
        loop.run_until_complete(loop.run_in_executor(None, reached.wait, PATIENCE))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        go_on.set()
        assert engine.wait(node, PATIENCE).is_finished_ok
        assert notes == [WORKER]
        gc.collect()
        assert [str(each.message) for each in recwarn if 'never awaited' in str(each.message)] == []
        caplog.clear()


    def test_while_the_disk_is_full(self, make_engine, new_loop, caplog):
        """What cannot be given back now is given back later."""
        disk = FullDisk()
        engine = make_engine(faults=disk)
        loop = new_loop()
        runner = Runner(engine, loop)
        node = runner.submit(Double, n=1)
        until(lambda: runner._given)
        disk.is_full = True
        loop.close()
        until(lambda: 'cannot be given back now' in caplog.text)
        disk.is_full = False
        assert engine.wait(node, PATIENCE).outputs.thread == WORKER
        until(lambda: is_empty(engine))


class TestClosing:
    def test_what_cannot_be_given_back_before_the_loop_ends_is_given_back_later(
        self, engine, on_loop, monkeypatch, caplog
    ):
        monkeypatch.setattr(homes, 'RETRY', 0.01)
        release = Transaction.release

        def fail(transaction, fence, **kwargs):
            raise StoreFull('no room')

        async def host():
            runner = Runner(engine)
            node = runner.schedule(Blocks)
            await asyncio.to_thread(reached.wait, PATIENCE)
            monkeypatch.setattr(Transaction, 'release', fail)
            runner.close()
            go_on.set()
            await until_on_loop(lambda: not runner._tasks)
            return node

        node = on_loop(host())
        assert 'cannot be given back now' in caplog.text
        monkeypatch.setattr(Transaction, 'release', release)
        assert engine.wait(node, PATIENCE).outputs.thread == WORKER
        until(lambda: is_empty(engine))

    def test_on_the_running_loop_what_executes_comes_to_its_checkpoint(self, engine, on_loop):
        async def host():
            with Runner(engine) as runner:
                process = runner.instantiate_process(Blocks)
                waiting = asyncio.ensure_future(process.step_until_terminated())
                await asyncio.to_thread(reached.wait, PATIENCE)
            assert runner.is_closed
            with pytest.raises(LoopClosed, match='create another'):
                runner.instantiate_process(Double, n=1)
            go_on.set()
            await waiting
            return process.result()

        assert on_loop(host()) == {'thread': WORKER}
        assert notes == ['block']
        until(lambda: is_empty(engine))
        assert not engine.core.homes._homes

    def test_where_the_loop_is_at_rest(self, engine, loop):
        with Runner(engine, loop) as runner:
            node = runner.schedule(Stands)
            queued = runner.submit(Double, n=1)
            runner.loop.run_until_complete(loop.run_in_executor(None, reached.wait, PATIENCE))
        loop.run_until_complete(loop.shutdown_default_executor())
        assert 'cleaned up' in notes
        assert engine.wait(node, PATIENCE).is_finished_ok
        assert engine.wait(queued, PATIENCE).outputs.n == 2
        assert notes[-2:] == ['stand', 'last']
        until(lambda: is_empty(engine))
        runner.close()  # again

    def test_a_loop_of_its_own(self, engine):
        runner = Runner(engine)
        runner.loop.create_task(runner.instantiate_process(Stands).step_until_terminated())
        runner.loop.run_until_complete(runner.loop.run_in_executor(None, reached.wait, PATIENCE))
        runner.close()
        assert runner.loop.is_closed()
        (node,) = engine.query()
        assert engine.wait(node, PATIENCE).is_finished_ok

    def test_from_another_thread_while_the_loop_runs(self, engine, loop):
        runner = Runner(engine, loop)
        thread = threading.Thread(target=loop.run_forever, name='mine-1')
        thread.start()
        node = runner.schedule(Blocks)
        assert reached.wait(PATIENCE)
        runner.close()
        go_on.set()
        assert engine.wait(node, PATIENCE).outputs.thread == WORKER
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        assert not thread.is_alive()

    def test_what_is_dealt_out_meanwhile(self, make_engine, loop):
        """The claim is committed, and the runner closed, before the claim is handed to it."""
        with BlockAt(FaultPoint.BATCH_COMMITTED, hit=4) as block:
            engine = make_engine(faults=block)
            runner = Runner(engine, loop)
            node = runner.schedule(Double, n=1)
            block.wait_reached()
            runner.close()
            block.release()
            assert engine.wait(node, PATIENCE).outputs.thread == WORKER


def stop_late(engine: Engine) -> None:
    """Stop an engine with little patience, and note what it says of it."""
    with pytest.raises(StopTimeout) as caught:
        engine.stop(0.5)
    (said,) = re.findall(r'process \d+ executes', str(caught.value))
    notes.append(said)


class TestTheEngineStops:
    @pytest.mark.parametrize('own', [True, False])
    def test_with_a_step_on_a_loop_at_rest(self, make_engine, new_loop, own):
        engine = make_engine()
        loop = None if own else new_loop()
        runner = Runner(engine, loop)
        node = runner.schedule(Stands)
        runner.loop.run_until_complete(runner.loop.run_in_executor(None, reached.wait, PATIENCE))
        runner.loop.run_until_complete(runner.loop.shutdown_default_executor())
        began = time.monotonic()
        engine.stop()
        assert time.monotonic() - began < 5
        assert 'cleaned up' in notes
        with pytest.raises(EngineStopped):
            runner.instantiate_process(Double, n=1)
        runner.close()
        if loop is not None:
            loop.close()
        assert make_engine().wait(node.pid, PATIENCE).is_finished_ok

    def test_on_the_loop_itself(self, make_engine, on_loop):
        async def host():
            engine = make_engine()
            runner = Runner(engine)
            process = runner.instantiate_process(Stands)
            waiting = asyncio.ensure_future(process.step_until_terminated())
            unstarted = runner.instantiate_process(Double, n=1)
            await asyncio.to_thread(reached.wait, PATIENCE)
            began = time.monotonic()
            engine.stop()
            assert time.monotonic() - began < 5
            with pytest.raises(EngineStopped):
                await waiting
            with pytest.raises(EngineStopped):
                unstarted.step_until_terminated()
            with pytest.raises(EngineStopped):
                process.result()
            with pytest.raises(EngineStopped):
                runner.schedule(Double, n=1)
            return process.pid

        pid = on_loop(host())
        assert 'cleaned up' in notes
        assert make_engine().wait(pid, PATIENCE).is_finished_ok
        assert notes[-2:] == ['stand', 'last']

    def test_from_another_thread_steps_come_to_their_checkpoint(self, make_engine, on_loop):
        async def host():
            engine = make_engine()
            runner = Runner(engine)
            ending = asyncio.Event()

            class Ends(WorkChain):
                @classmethod
                def define(cls, spec):
                    super().define(spec)
                    spec.outline(cls.first, cls.second)

                async def first(self):
                    notes.append('first')
                    await ending.wait()

                def second(self):
                    notes.append('second')

            process = runner.instantiate_process(Ends)
            waiting = asyncio.ensure_future(process.step_until_terminated())
            await until_on_loop(lambda: notes)
            stopping = asyncio.ensure_future(asyncio.to_thread(engine.stop))
            await until_on_loop(lambda: runner.is_closed)
            ending.set()
            await stopping
            with pytest.raises(EngineStopped):
                await waiting
            return process.pid

        pid = on_loop(host())
        assert notes == ['first']
        assert make_engine().wait(pid, PATIENCE).is_finished_ok
        assert notes == ['first', 'second']

    def test_with_a_step_on_a_loop_that_nobody_runs_any_more(self, make_engine, loop):
        """Its claim is kept, since the loop may be run again; then the step finds itself cancelled."""
        engine = make_engine()
        runner = Runner(engine, loop)
        node = runner.schedule(Stands)
        thread = threading.Thread(target=loop.run_until_complete, args=(until_on_loop(reached.is_set),))
        thread.start()
        thread.join(PATIENCE)
        elsewhere = threading.Thread(target=stop_late, args=(engine,))
        elsewhere.start()
        elsewhere.join(PATIENCE)
        assert notes == ['first', 'stand', 'told', f'process {node.pid} executes']
        successor = make_engine()
        assert successor.load(node.pid).state == 'running'
        loop.run_until_complete(until_on_loop(lambda: not runner._tasks))
        assert notes[-1] == 'cleaned up'
        assert successor.wait(node.pid, PATIENCE).is_finished_ok

    def test_a_crash_is_told(self, make_engine, on_loop, caplog):
        engine = make_engine(faults=RaiseAt(FaultPoint.BATCH_COMMITTED, lambda: SystemError('struck'), hit=6))

        async def host():
            runner = Runner(engine)
            with pytest.raises(EngineStopped):
                for n in range(20):
                    await runner.instantiate_process(Double, n=n).step_until_terminated()

        with caplog.at_level(logging.CRITICAL):
            on_loop(host())
        engine.stop(PATIENCE)

    def test_a_worker_crash_leaves_the_loop_alone(self, make_engine, on_loop, caplog):
        class Strikes(Process):
            async def run(self):
                raise SystemExit('struck')

        engine = make_engine()

        async def host():
            with Runner(engine) as runner:
                process = runner.instantiate_process(Stands)
                waiting = asyncio.ensure_future(process.step_until_terminated())
                await asyncio.to_thread(reached.wait, PATIENCE)
                engine.submit(Strikes)
                with pytest.raises(EngineStopped):
                    await waiting
                return process.pid

        with caplog.at_level(logging.CRITICAL):
            pid = on_loop(host())
        with pytest.raises(SystemExit, match='struck'):
            engine.stop(PATIENCE)
        caplog.clear()
        engine = make_engine()
        assert engine.wait(pid, PATIENCE).is_finished_ok


def test_in_a_forked_child(scripts):
    ended = scripts.run("""
        import asyncio, os
        from treadle.engine import Engine, Process, Runner
        from treadle.threads import Forked

        class Nothing(Process):
            def run(self):
                pass

        with Engine(os.environ['TREADLE_STORE']) as engine, Runner(engine) as runner:
            runner.run(Nothing)
            process = runner.instantiate_process(Nothing)
            child = os.fork()
            if child == 0:
                for call in (lambda: runner.run(Nothing), process.step_until_terminated, process.execute):
                    try:
                        call()
                    except Forked:
                        print('forked', flush=True)
                runner.close()
                print('closed', runner.loop.is_closed(), flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            print(process.execute(), flush=True)
    """)
    assert ended.out.split('\n')[:5] == ['forked', 'forked', 'forked', 'closed False', '{}']
    assert ended.code == 0


class TestCustody:
    def test_exactly_one_gives_back(self):
        for order in (('answered', 'abandon'), ('abandon', 'answered')):
            custody = Custody()
            custody.holder = Holder.AWAY
            said = [
                custody.answered() if each == 'answered' else custody.abandon(cut=True) for each in order
            ]
            assert sum(said) == 1, order

    def test_a_coroutine_goes_on_unless_it_is_cut(self):
        custody = Custody()
        custody.holder = Holder.COROUTINE
        assert not custody.abandon(cut=False)
        assert custody.answered()
        custody = Custody()
        custody.holder = Holder.COROUTINE
        assert custody.abandon(cut=True)
        assert not custody.answered()


@pytest.mark.filterwarnings('ignore:coroutine .* was never awaited')  # on a loop that was closed without a word
def test_loops_that_come_and_go_at_random(make_engine, caplog):
    """Whatever the moment: every process ends, its steps have run once for each commit, and nothing is left behind."""
    engine = make_engine(steps=4)
    dice = random.Random(7)
    nodes = []

    def host(seconds, abrupt):
        loop = asyncio.new_event_loop()
        runner = Runner(engine, loop)
        mine = [runner.schedule(Parent) for _ in range(10)]

        async def some_time():
            await asyncio.sleep(seconds)

        loop.run_until_complete(some_time())
        if not abrupt:
            runner.close()
        loop.close()
        nodes.extend(mine)

    threads = [
        threading.Thread(target=host, args=(dice.uniform(0, 0.2), dice.random() < 0.5)) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    ended = engine.wait(nodes, 50)
    assert len(ended) == 120
    assert all(node.is_finished_ok for node in ended)
    assert all(len(node.outputs.threads) == 4 for node in ended)
    assert all(len(node.called) == 1 for node in ended)
    until(lambda: is_empty(engine))
    until(lambda: not engine.core.homes._homes)
    gc.collect()
    caplog.clear()


def test_a_loop_that_cannot_be_looked_at_is_told_of_once_and_keeps_no_other_from_being_seen(caplog):
    class Broken:
        def check(self):
            raise RuntimeError('the window is gone')

    class Sound:
        seen = 0

        def check(self):
            Sound.seen += 1

    homes = Homes()
    homes.settle(1, Broken())
    homes.settle(2, Sound())
    for _ in range(3):
        homes.check()
    assert Sound.seen == 3
    assert caplog.text.count('cannot be looked at') == 1
